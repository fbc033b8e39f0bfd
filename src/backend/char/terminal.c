/* Raw mode of the terminal, and putting it back whatever happens. */
#include "backend/char/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <termios.h>
#include <unistd.h>

/* Signals whose default is to end the process. SIGKILL cannot be caught. */
static const int fatal_signals[] = {
    SIGHUP,  SIGINT,  SIGQUIT,   SIGILL,  SIGTRAP, SIGABRT, SIGBUS, SIGFPE,    SIGUSR1, SIGSEGV, SIGUSR2,
    SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGPROF, SIGSYS, SIGVTALRM, SIGIO,   SIGPWR,
};

static struct {
    struct termios cooked, raw_mode;
    int fd; /* a duplicate, so that it is there although somebody closes standard input */
    atomic_bool entered, raw;
    bool exit_registered;
} terminal;

/* All of these are async-signal-safe. */
static void restore(void)
{
    if (atomic_exchange(&terminal.raw, false))
        tcsetattr(terminal.fd, TCSANOW, &terminal.cooked);
}

/* A terminal that is not our controlling one has no jobs: tcgetpgrp() fails. */
static bool in_foreground(void)
{
    pid_t group = tcgetpgrp(terminal.fd);

    return group < 0 || group == getpgrp();
}

static void make_raw(void)
{
    if (!atomic_exchange(&terminal.raw, true))
        tcsetattr(terminal.fd, TCSANOW, &terminal.raw_mode);
}

/* The handler runs with every signal blocked, so that SIGTTOU cannot stop it half-way. */
static void fatal_signal(int sig)
{
    int saved = errno;

    restore();
    signal(sig, SIG_DFL);
    raise(sig); /* taken when the handler returns; a fault happens again by itself */
    errno = saved;
}

static void set_handler(int sig, void (*handler)(int))
{
    struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART};

    sigfillset(&sa.sa_mask);
    sigaction(sig, &sa, NULL);
}

/* The shell may have put its own modes there meanwhile. */
static void raw_again(void)
{
    if (!atomic_load(&terminal.entered) || !in_foreground())
        return;
    atomic_store(&terminal.raw, false);
    make_raw();
}

static void stop_signal(int sig)
{
    int saved = errno;
    sigset_t only, old;

    restore();
    signal(sig, SIG_DFL);
    sigemptyset(&only);
    sigaddset(&only, sig);
    raise(sig);
    sigprocmask(SIG_UNBLOCK, &only, &old); /* stops here until SIGCONT */
    sigprocmask(SIG_SETMASK, &old, NULL);
    set_handler(sig, stop_signal);
    raw_again(); /* an orphaned process group does not stop, and so gets no SIGCONT */
    errno = saved;
}

static void continue_signal(int sig)
{
    int saved = errno;

    raw_again();
    errno = saved;
}

static void replace_default(int sig, void (*handler)(int))
{
    struct sigaction sa;

    if (!sigaction(sig, NULL, &sa) && sa.sa_handler == SIG_DFL)
        set_handler(sig, handler);
}

static void put_default(int sig, void (*handler)(int))
{
    struct sigaction sa;

    if (!sigaction(sig, NULL, &sa) && sa.sa_handler == handler)
        signal(sig, SIG_DFL);
}

/* Input byte by byte without echo or signals. Output keeps its newlines, for messages of the monitor. */
static void choose_raw_mode(void)
{
    terminal.raw_mode = terminal.cooked;
    cfmakeraw(&terminal.raw_mode);
    terminal.raw_mode.c_oflag = terminal.cooked.c_oflag;
}

int terminal_enter_raw(int fd, struct error *err)
{
    if (atomic_exchange(&terminal.entered, true))
        return error_set(err, EBUSY, "the terminal is in use by another console");
    terminal.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (terminal.fd < 0 || tcgetattr(terminal.fd, &terminal.cooked)) {
        int e = errno;

        if (terminal.fd >= 0)
            close(terminal.fd);
        atomic_store(&terminal.entered, false);
        return error_set_errno(err, e, "cannot get the terminal's mode");
    }
    choose_raw_mode();
    for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
        replace_default(fatal_signals[i], fatal_signal);
    replace_default(SIGTSTP, stop_signal);
    replace_default(SIGCONT, continue_signal);
    if (!terminal.exit_registered)
        atexit(restore);
    terminal.exit_registered = true;
    terminal_ensure_raw();
    return 0;
}

void terminal_leave_raw(void)
{
    if (!atomic_load(&terminal.entered))
        return;
    restore();
    for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
        put_default(fatal_signals[i], fatal_signal);
    put_default(SIGTSTP, stop_signal);
    put_default(SIGCONT, continue_signal);
    close(terminal.fd);
    atomic_store(&terminal.entered, false);
}

void terminal_ensure_raw(void)
{
    if (atomic_load(&terminal.entered) && !atomic_load(&terminal.raw) && in_foreground())
        make_raw();
}
