/*
 * Windows: guest memory where the host's MMU translates for user code (docs/translator.md, T20).
 *
 * A window is a stretch of the monitor's address space that stands for 1 TiB of a guest's user address space.
 * Pages of the RAM memfd are mapped into it when translated code first touches them, with the rights that the
 * guest's page tables give, and taken out where the architecture says that a TLB entry goes. So an access
 * needs no look into the software TLB: a compare whether the address is in the window, and an addition.
 *
 * All functions are for the vCPU's own thread, in a VM of one vCPU.
 */
#ifndef TRAPEZE_SOFT_WINDOW_H
#define TRAPEZE_SOFT_WINDOW_H

#include "soft/soft.h"

/*
 * Gives user code windows once a process has run for a while (@always: at once). Without the address space
 * for it, or with several vCPUs, nothing happens: there are no windows then.
 */
int windows_init(struct soft_cpu *c, bool always, struct error *err);
void windows_release(struct soft_cpu *c);

/* Does 64-bit user code under the current CR3 use windows (SOFT_MODE_WINDOW)? */
bool windows_on(struct soft_cpu *c);

/* User code is about to run that uses windows: those of address space number @space, or none (0). */
void windows_switch(struct soft_cpu *c, u16 space);

/* A timer's interrupt, or another one, found user code running: what processes get windows depends on it. */
void windows_tick(struct soft_cpu *c);

/* User code has an address here: there should be a window for it. */
void windows_want(struct soft_cpu *c, u64 la);

/*
 * An access to the host's address @host faulted. MAPPED: the page is there now, try again. REFUSED: the guest
 * may not, or it must be done the slow way. Called from a signal handler that interrupted translated code.
 */
enum window_fault { WINDOW_NOT_OURS, WINDOW_MAPPED, WINDOW_REFUSED };
enum window_fault windows_fault(struct soft_cpu *c, u64 host, bool write);

/* Which of soft_cpu.window an access to @la should look at first. */
unsigned windows_kind(const struct soft_cpu *c, u64 la);

/* As the functions of the TLB with these names. */
void windows_invlpg(struct soft_cpu *c, u64 la);
void windows_protect(struct soft_cpu *c, u64 gpa);
void windows_drop_all(struct soft_cpu *c);

#endif
