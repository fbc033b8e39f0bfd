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

static _Thread_local const struct native_stub *volatile running;
static _Thread_local volatile unsigned last_trap;

unsigned native_last_trap(void)
{
    return last_trap;
}

void native_set_running(const struct native_stub *stub)
{
    running = stub;
}

static void die(int sig)
{
    static const char text[] = "trapeze: fatal signal outside guest code\n";
    ssize_t rc = write(STDERR_FILENO, text, sizeof text - 1);

    (void)rc;
    /* Back to the faulting instruction, which raises it again with the default action. */
    signal(sig, SIG_DFL);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const struct native_stub *stub = running;

    (void)info;
    if (!stub || (uintptr_t)regs[REG_RIP] != (uintptr_t)stub->insn || regs[REG_TRAPNO] == X86_PF_) {
        die(sig);
        return;
    }
    last_trap = (unsigned)regs[REG_TRAPNO];
    regs[REG_RIP] = (greg_t)(uintptr_t)stub->abort;
}

int native_install_signals(struct error *err)
{
    static const int signals[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        if (sigaction(signals[i], &sa, NULL))
            return error_set_errno(err, errno, "cannot handle signal %d", signals[i]);
    return 0;
}
