/*
 * Boots a kernel as "trapeze run" does and gives the machine another engine every few milliseconds. What
 * the guest makes of it is for the script that calls this. The status is the guest's, see cmd/commands.h.
 *
 * SWITCH_TRACE in the environment: trace categories; SWITCH_IRQCHIP: the interrupt controllers of KVM;
 * SWITCH_IOEVENTFD: doorbells without exits; SWITCH_IRQFD: interrupts by eventfd; SWITCH_DISK: a disk.
 * usage: switch-engines ENGINE,ENGINE,... MILLISECONDS CPUS KERNEL INITRD COMMAND-LINE CONSOLE
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "machine/engines.h"
#include "machine/pc.h"

#define MAX_ENGINES 8

struct juggler {
    const struct engine_ops *engine[MAX_ENGINES];
    unsigned count, current, switches;
    u64 period; /* ns of host time */
    struct pc *pc;
    struct lock *machine_lock;
    struct timer timer;
    bool failed;
};

static int fail(const struct error *err)
{
    fprintf(stderr, "switch-engines: %s\n", err->text);
    return 1;
}

static void next_engine(struct timer *t)
{
    struct juggler *j = container_of(t, struct juggler, timer);
    struct error err = {0};

    j->current = (j->current + 1) % j->count;
    lock_drop(j->machine_lock);
    int r = pc_switch_engine(j->pc, j->engine[j->current], &err);
    lock_acquire(j->machine_lock);
    if (r < 0) {
        j->failed = true;
        fail(&err);
        pc_quit(j->pc);
        return;
    }
    j->switches++;
    timer_arm(t, clock_host_ns() + j->period);
}

static int find_engines(struct juggler *j, char *names, struct error *err)
{
    char *rest;
    for (char *name = strtok_r(names, ",", &rest); name && j->count < MAX_ENGINES;
         name = strtok_r(NULL, ",", &rest))
        if (!(j->engine[j->count++] = engine_find(name, err)))
            return -1;
    return j->count ? 0 : error_set(err, EINVAL, "no engines");
}

static int boot_files(struct boot_source *boot, char **argv, struct error *err)
{
    const u64 max = 256u << 20;
    int r = blob_read(&boot->kernel, "kernel", argv[4], max, err);
    if (!r)
        r = blob_read(&boot->module[0], "initrd", argv[5], max, err);
    boot->module_count = 1;
    boot->cmdline = argv[6];
    return r;
}

/* KVM's CPUID is what all of them can give. */
static const struct engine_ops *least(const struct juggler *j)
{
    for (unsigned i = 0; i < j->count; i++)
        if (j->engine[i]->limit_cpuid)
            return j->engine[i];
    return NULL;
}

static int juggle(struct juggler *j, const struct pc_config *config, struct boot_source *boot)
{
    struct error err = {0};
    int code = 0;
    struct event_loop *loop = event_loop_new(&err);
    if (!loop || !(j->pc = pc_new(config, boot, loop, &err))) {
        event_loop_free(loop);
        return fail(&err);
    }
    j->machine_lock = pc_machine_lock(j->pc);
    timer_init(&j->timer, loop, NULL, next_engine);
    timer_arm(&j->timer, clock_host_ns() + j->period);
    enum vm_end why = pc_run(j->pc, &code, &err);
    timer_cancel(&j->timer);
    pc_free(j->pc);
    event_loop_free(loop);
    printf("%u switches\n", j->switches);
    if (why == VM_END_ERROR)
        return fail(&err);
    return j->failed || why != VM_END_POWEROFF;
}

static enum kernel_irqchip irqchip_of(const char *name)
{
    if (!name || !strcmp(name, "auto"))
        return KERNEL_IRQCHIP_AUTO;
    if (!strcmp(name, "kernel"))
        return KERNEL_IRQCHIP_WHOLE;
    return strcmp(name, "none") ? KERNEL_IRQCHIP_SPLIT : KERNEL_IRQCHIP_NONE;
}

int main(int argc, char **argv)
{
    struct juggler j = {.count = 0};
    struct boot_source boot = {0};
    struct error err = {0};

    if (argc != 8) {
        fputs("usage: switch-engines ENGINE,... MILLISECONDS CPUS KERNEL INITRD COMMAND-LINE CONSOLE\n",
              stderr);
        return 1;
    }
    if (getenv("SWITCH_TRACE") && trace_enable(getenv("SWITCH_TRACE"), &err))
        return fail(&err);
    j.period = strtoul(argv[2], NULL, 10) * NS_PER_MS;
    if (find_engines(&j, argv[1], &err) || boot_files(&boot, argv, &err))
        return fail(&err);
    struct pc_config config = {.name = "switch-engines",
                               .engine = j.engine[0],
                               .other = least(&j),
                               .cpu_model = "host",
                               .cpus = (unsigned)strtoul(argv[3], NULL, 10),
                               .memory = 256u << 20,
                               .irqchip = irqchip_of(getenv("SWITCH_IRQCHIP")),
                               .ioeventfd = getenv("SWITCH_IOEVENTFD") != NULL,
                               .irqfd = getenv("SWITCH_IRQFD") != NULL,
                               .no_reboot = true,
                               .console = argv[7]};
    if (getenv("SWITCH_DISK"))
        config.disk[config.disk_count++] = (struct pc_disk){.path = getenv("SWITCH_DISK")};
    int status = juggle(&j, &config, &boot);
    boot_source_release(&boot);
    return status;
}
