/*
 * Running a guest instruction on the host CPU itself. Guest and host share an instruction set, so an
 * instruction that works on general, x87, MMX, SSE, AVX or AVX-512 registers and is neither a branch
 * nor sensitive needs no emulation: a small generated stub loads the guest registers that it names,
 * executes the very same encoding with its memory operand replaced by a bounce buffer, and stores the
 * registers back. Results, flags (the undefined ones too) and exceptions are the host's own.
 */
#ifndef TRAPEZE_SOFT_NATIVE_H
#define TRAPEZE_SOFT_NATIVE_H

#include <Zydis/Zydis.h>

#include "soft/soft.h"

struct native_stub;
struct native_cache; /* one a vCPU: owns the executable memory, finds equal encodings again */

struct native_cache *native_cache_new(struct error *err);
void native_cache_free(struct native_cache *n);

/*
 * The stub for the instruction (@bytes, decoded as @insn and @ops), shared by all places that hold
 * an equal one. NULL when it cannot be run this way: the caller raises #UD. Stubs live until
 * native_cache_free(). Nothing is raised here.
 */
const struct native_stub *native_compile(struct native_cache *n, const u8 *bytes,
                                         const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);

/*
 * Executes it with @la the linear address of its memory operand (ignored when it has none; the
 * segment is checked). Raises #UD, #NM, #MF, #XM, #GP, #PF ... as the host and the guest's CR0, CR4
 * and XCR0 say, with no register changed.
 */
void native_run(struct soft_cpu *c, const struct native_stub *stub, u64 la);

/* Installs the handlers for SIGFPE, SIGSEGV, SIGILL and SIGBUS raised inside stubs; once a process. */
int native_install_signals(struct error *err);

#endif
