/*
 * Faults of the guest's instruction inside a stub. The handler recognises them by the exact host
 * address, notes the trap number and lets the thread go on at the stub's abort label; everything else
 * is our own crash and gets the default action. This is thread-local state on purpose: a signal
 * handler has nothing else to go by.
 */
#include <errno.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include "soft/native-internal.h"

_Thread_local const struct native_stub *volatile native_running NATIVE_TLS;
_Thread_local struct fault_catcher *volatile fault_catcher NATIVE_TLS;
static _Thread_local volatile unsigned last_trap;

unsigned native_last_trap(void)
{
    return last_trap;
}

static const int signals[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
static struct sigaction before[ARRAY_SIZE(signals)]; /* whose the signals were: the terminal's, or default */

/*
 * Not ours: whoever had the signal before gets it, and may restore the terminal. A fault comes again
 * when the instruction is executed again; what kill(2) sent must be sent again.
 */
static void pass_on(int sig, const siginfo_t *info)
{
    static const char text[] = "trapeze: fatal signal outside guest code\r\n";

    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        if (signals[i] == sig)
            sigaction(sig, &before[i], NULL);
    if (info->si_code <= 0) {
        raise(sig);
    } else {
        ssize_t rc = write(STDERR_FILENO, text, sizeof text - 1);
        (void)rc;
    }
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const struct native_stub *stub = native_running;
    struct fault_catcher *catcher = fault_catcher;

    if (sig == SIGSEGV && !stub && catcher && catcher->caught(catcher, (u64)(uintptr_t)info->si_addr, regs))
        return;
    if (!stub || (uintptr_t)regs[REG_RIP] != (uintptr_t)stub->insn || regs[REG_TRAPNO] == X86_PF_) {
        pass_on(sig, info);
        return;
    }
    last_trap = (unsigned)regs[REG_TRAPNO];
    regs[REG_RIP] = (greg_t)(uintptr_t)stub->abort;
}

int native_install_signals(struct error *err)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, old;

    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
        if (sigaction(signals[i], &sa, &old))
            return error_set_errno(err, errno, "cannot handle signal %d", signals[i]);
        if (old.sa_sigaction != on_fault)
            before[i] = old;
    }
    return 0;
}
