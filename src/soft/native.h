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

/* @cpuid (which lives as long) decides which instructions exist. */
struct native_cache *native_cache_new(const struct cpuid_table *cpuid, struct error *err);
void native_cache_free(struct native_cache *n);

/*
 * The memory for stubs is bounded. True when there is no room for NATIVE_RESERVE more of them, which
 * the caller looks at before it decodes so many instructions: it then drops every decoded block and
 * calls native_cache_reset(), after which no stub is valid.
 */
#define NATIVE_RESERVE 256
bool native_cache_full(const struct native_cache *n);
void native_cache_reset(struct native_cache *n);

/*
 * The stub for the instruction (@bytes, decoded as @insn and @ops), shared by all places that hold
 * an equal one. NULL when it cannot be run this way, or the guest's CPUID does not offer it: the caller
 * raises #UD. Stubs live until native_cache_reset() or _free(). Nothing
 * is raised here.
 *
 * What it takes: x87, MMX, SSE to AVX-512 (EMMS, FNINIT, FLDENV, LDMXCSR and so on included, FXSAVE,
 * FXRSTOR and the XSAVE family not), and of the general-purpose instructions those that compute on
 * registers and at most one plain memory operand without LOCK: arithmetic, logic, shifts, bit
 * operations, DIV, CRC32, BMI, ADX, MOVBE, RDRAND, fences, prefetches and cache-line flushes.
 */
const struct native_stub *native_compile(struct native_cache *n, const u8 *bytes,
                                         const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);

/*
 * Executes it with @la the linear address of its memory operand (ignored when it has none; the
 * segment is checked). That includes the implied DS:[rDI] of MASKMOVQ and MASKMOVDQU. For gathers and
 * scatters (vector SIB) @la is ignored too: addresses are computed here, element by element.
 *
 * Reads and writes state.rflags as far as native_uses_flags() says, and state.rip is that of the next
 * instruction (soft.h, rule 2). Raises #UD, #NM, #MF, #XM, #GP, #PF ... as the host and the guest's
 * CR0, CR4 and XCR0 say, with no register changed (but the completed elements of a gather).
 */
void native_run(struct soft_cpu *c, const struct native_stub *stub, u64 la);

/* Does it read or write arithmetic flags? If not, state.rflags may be stale. */
bool native_uses_flags(const struct native_stub *stub);

/* Does a mask, or do the indices of a vector SIB, say what of the memory operand is accessed? */
bool native_is_masked(const struct native_stub *stub);

/* How many bytes a mask, as it is now, lets access, from *@first on; 0 also for a vector SIB. */
unsigned native_masked_bytes(struct soft_cpu *c, const struct native_stub *stub, unsigned *first);

/*
 * Who is asked first about a fault of this thread outside stubs, set while its code runs, else NULL. caught()
 * is called in the signal handler, with the address (si_addr) and the registers (gregs): true when the thread
 * may go on with these as they are then.
 */
struct fault_catcher {
    bool (*caught)(struct fault_catcher *f, u64 address, long long *regs);
};
#define NATIVE_TLS __attribute__((tls_model("initial-exec")))
extern _Thread_local struct fault_catcher *volatile fault_catcher NATIVE_TLS;

/* Installs the handlers for SIGFPE, SIGSEGV, SIGILL and SIGBUS raised inside stubs; once a process. */
int native_install_signals(struct error *err);

#endif
