/*
 * Windows: guest memory where the host's MMU translates (docs/translator.md, T20).
 *
 * A window is a stretch of the monitor's address space that stands for parts of a guest's: of that of a
 * process, for user code, or of what the supervisor has in all of them, its global pages. Pages of the RAM
 * memfd are mapped into it when translated code first touches them, with the rights that the guest's page
 * tables give, and taken out where the architecture says that a TLB entry goes. So an access needs no look
 * into the software TLB, only one whether the window has the address: a read of something that is there for
 * each slice of 1 TiB that the window has, and faults elsewhere.
 *
 * All functions are for the vCPU's own thread, in a VM of one vCPU.
 */
#ifndef TRAPEZE_SOFT_WINDOW_H
#define TRAPEZE_SOFT_WINDOW_H

#include "soft/soft.h"

#define WINDOW_SLICE_SHIFT 40
#define WINDOW_TOUCH_SHIFT (WINDOW_SLICE_SHIFT - PAGE_SHIFT)

/*
 * Gives user code windows once a process has run for a while (@always: at once). Without the address space
 * for it, with several vCPUs, or if @c does not come from windows_cpu_alloc(), nothing happens: there are no
 * windows then. GS, the host's, is such that for a linear address la of the guest
 * - GS:[la >> WINDOW_TOUCH_SHIFT] can be read if the window has room for its slice, and otherwise faults,
 * - the window's place for it is then at GS:[c + (la & c->window_mask)].
 */
int windows_init(struct soft_cpu *c, bool always, struct error *err);

/* @size bytes, all 0, for what begins with a soft_cpu: where windows can be had, if possible. munmap() takes
 * them back. MAP_FAILED: no memory. */
void *windows_cpu_alloc(size_t size);
void windows_release(struct soft_cpu *c);

/* This thread is about to run code: sets GS. */
void windows_enter(struct soft_cpu *c);

/* Does 64-bit code of the current CPL, 0 or 3, and CR3 use windows (SOFT_MODE_WINDOW)? */
bool windows_on(struct soft_cpu *c);

/* Code is about to run that uses windows: those of address space number @space, or of the supervisor; or none
 * (0). */
void windows_switch(struct soft_cpu *c, u16 space);

/* A timer's interrupt, or another one, found such code running: who gets windows depends on it. */
void windows_tick(struct soft_cpu *c);

/*
 * An access to the host's address @host faulted. MAPPED: it is there now, try again. REFUSED: the guest
 * may not. SLOW: it must be done the slow way; NO_SLICE: likewise, since the window has no room for its
 * slice. Called from a signal handler that interrupted translated code.
 */
enum window_fault { WINDOW_NOT_OURS, WINDOW_MAPPED, WINDOW_REFUSED, WINDOW_SLOW, WINDOW_NO_SLICE };
enum window_fault windows_fault(struct soft_cpu *c, u64 host, bool write);

/* As the functions of the TLB with these names; and all goes, but that the supervisor's pages are looked up
 * anew. */
void windows_invlpg(struct soft_cpu *c, u64 la);
void windows_protect(struct soft_cpu *c, u64 gpa);
void windows_drop_all(struct soft_cpu *c);

#endif
