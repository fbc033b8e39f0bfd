/* "trapeze run": makes the machine, runs it, and turns its end into an exit status. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/commands.h"
#include "cmd/run-options.h"
#include "machine/firmware.h"

/* --- signals that ask for an orderly end --- */

struct terminator {
    struct event_source source;
    int fd;
    struct pc *pc;
    int signal; /* the one that came, 0: none */
};

static void ending_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

/* The first one ends the machine; a second one ends the process the usual way. */
static void signal_ready(struct event_source *s, u32 events)
{
    struct terminator *t = container_of(s, struct terminator, source);
    struct signalfd_siginfo info;
    sigset_t set;

    if (read(t->fd, &info, sizeof info) != sizeof info)
        return;
    t->signal = (int)info.ssi_signo;
    ending_signals(&set);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    pc_quit(t->pc);
}

/* Blocks the signals, before any thread is made, so that only the signalfd sees them. */
static int terminator_open(struct terminator *t, struct event_loop *loop, struct error *err)
{
    sigset_t set;
    int r;

    *t = (struct terminator){.fd = -1};
    ending_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    t->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (t->fd < 0)
        return error_set_errno(err, errno, "cannot wait for signals");
    r = event_source_add(&t->source, loop, t->fd, EPOLLIN, signal_ready, err);
    if (r) {
        close(t->fd);
        t->fd = -1;
    }
    return r;
}

static void terminator_close(struct terminator *t)
{
    if (t->fd < 0)
        return;
    event_source_remove(&t->source);
    close(t->fd);
}

/* --- the run --- */

static int setup_log(const struct run_options *o, struct error *err)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    int r = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(o->log_level, names[i]))
            log_set_level((enum log_level)i);
    if (o->log)
        r = log_open(o->log, err);
    if (!r && o->trace)
        r = trace_enable(o->trace, err);
    return r;
}

static int read_boot_files(const struct run_options *o, struct boot_source *boot, struct error *err)
{
    boot->cmdline = o->append;
    if (o->firmware)
        return firmware_read(&boot->kernel, o->firmware, err);
    int r = blob_read(&boot->kernel, "kernel", o->kernel, o->pc.memory, err);
    for (unsigned i = 0; !r && i < o->initrd_count; i++) {
        r = blob_read(&boot->module[i], "initrd", o->initrd[i].path, o->pc.memory, err);
        if (!r)
            boot->module_args[boot->module_count++] = o->initrd[i].args;
    }
    return r;
}

/* Each file that the guest has open in a shared directory is one of ours. */
static void allow_many_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int end_status(enum vm_end why, int code, int signal, const struct error *err)
{
    switch (why) {
    case VM_END_NONE:
    case VM_END_POWEROFF: return STATUS_OK;
    case VM_END_RESET: return STATUS_RESET;
    case VM_END_TRIPLE_FAULT:
        fputs("trapeze: the guest died of a triple fault\n", stderr);
        return STATUS_TRIPLE_FAULT;
    case VM_END_DEBUG_EXIT: return code & 0xff;
    case VM_END_QUIT:
        if (!signal)
            return STATUS_OK; /* the user's own wish */
        fprintf(stderr, "trapeze: ended by signal %d (%s)\n", signal, strsignal(signal));
        return STATUS_ERROR;
    case VM_END_ERROR: return cmd_fail(err);
    }
    BUG();
}

static void say_engine(const struct engine_ops *engine, const char *verb, const char *why)
{
    fprintf(stderr, "trapeze: engine %s: %s%s\n", engine->name, verb, why);
}

/* Makes the machine; "auto" goes on without KVM when that refuses after all. */
static struct pc *make_machine(const struct run_options *o, struct boot_source *boot, struct event_loop *loop,
                               struct error *err)
{
    struct pc_config config = o->pc;
    config.other = o->choice.other;
    config.firmware = o->firmware ? &boot->kernel : NULL;
    bool may_refuse = o->choice.other && config.engine == &kvm_engine;

    if (!may_refuse && o->choice.why[0])
        say_engine(config.engine, "", o->choice.why);
    struct pc *pc = pc_new(&config, boot, loop, err);

    if (!pc && may_refuse) {
        struct error again = {0};
        config.engine = o->choice.other;
        config.other = NULL;
        pc = pc_new(&config, boot, loop, &again);
        if (pc)
            say_engine(config.engine, "KVM refused: ", err->text);
    } else if (pc && may_refuse) {
        say_engine(config.engine, "", o->choice.why);
    }
    return pc;
}

/* @loop is ready; the machine lives within this function, the terminal is restored at its end. */
static int run_machine(const struct run_options *o, struct boot_source *boot, struct event_loop *loop,
                       struct error *err)
{
    struct terminator terminator;
    struct counters stats = {0};
    struct tally rescued;
    enum vm_end why;
    int code = 0;

    if (terminator_open(&terminator, loop, err))
        return cmd_fail(err);
    terminator.pc = make_machine(o, boot, loop, err);
    if (!terminator.pc) {
        terminator_close(&terminator);
        return cmd_fail(err);
    }
    if (o->dump_acpi) {
        int r = pc_dump_acpi(terminator.pc, o->dump_acpi, err);
        pc_free(terminator.pc);
        terminator_close(&terminator);
        return r ? cmd_fail(err) : STATUS_OK;
    }
    why = pc_run(terminator.pc, &code, err);
    pc_counters(terminator.pc, &stats);
    pc_rescued(terminator.pc, &rescued);
    pc_free(terminator.pc);
    terminator_close(&terminator);
    if (o->stats) {
        counters_print(&stats, stderr);
        tally_print(&rescued, "executed for KVM", stderr);
    }
    return end_status(why, code, terminator.signal, err);
}

int cmd_run(int argc, char **argv)
{
    struct run_options o;
    struct boot_source boot = {0};
    struct event_loop *loop = NULL;
    struct error err = {0};
    int status;

    clock_tsc_begin();
    if (run_options_parse(&o, argc, argv, &err))
        return cmd_fail(&err);
    if (o.help) {
        run_options_help(stdout);
        return STATUS_OK;
    }
    if (o.pc.share_count)
        allow_many_files();
    if (setup_log(&o, &err) || read_boot_files(&o, &boot, &err) || !(loop = event_loop_new(&err)))
        status = cmd_fail(&err);
    else
        status = run_machine(&o, &boot, loop, &err);
    event_loop_free(loop);
    boot_source_release(&boot);
    run_options_release(&o);
    return status;
}
