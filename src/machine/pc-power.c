/*
 * How the board starts, resets and ends.
 *
 * Devices ask from vCPU threads with the machine lock held. Whatever they ask for ends the run of the VM
 * first (vm_end(): no vCPU executes another guest instruction) and stops the event loop; pc_run(), on
 * the loop's thread and without locks, then sees why, and after a reset starts anew.
 */
#include <errno.h>

#include "base/log.h"
#include "machine/memory-map.h"
#include "machine/pc-internal.h"

/* --- requests --- */

static void vm_ended(struct vm *vm, enum vm_end why, int code)
{
    struct pc *pc = vm->ended_owner;

    pc->end_why = why;
    pc->end_code = code;
    atomic_store(&pc->ended, true);
    event_loop_stop(pc->loop);
}

static void lifecycle_requested(struct lifecycle *l, enum lifecycle_event event, int code)
{
    struct pc *pc = container_of(l, struct pc, lifecycle);

    switch (event) {
    case LIFECYCLE_POWEROFF:
        trace(power, "power off");
        vm_end(&pc->vm, VM_END_POWEROFF, 0);
        break;
    case LIFECYCLE_RESET:
        trace(power, "reset");
        vm_end(&pc->vm, VM_END_RESET, 0);
        break;
    case LIFECYCLE_PANICKED: log_guest("it panicked"); break;
    case LIFECYCLE_DEBUG_EXIT:
        trace(power, "debug exit with status %d", code);
        vm_end(&pc->vm, VM_END_DEBUG_EXIT, code);
        break;
    }
}

/* The loop's thread may wait for vCPUs, without the lock. */
static void take_other(struct deferred *d)
{
    struct pc *pc = container_of(d, struct pc, take_other);
    struct error err = {0};

    if (pc->vm.engine == pc->config.other)
        return; /* the second vCPU that failed */
    lock_drop(&pc->vm.machine_lock);
    if (vm_switch_engine(&pc->vm, pc->config.other, &err) < 0)
        vm_end_error(&pc->vm, &err);
    lock_acquire(&pc->vm.machine_lock);
}

static bool engine_failed(struct vm *vm, const struct error *why)
{
    struct pc *pc = vm->ended_owner;

    if (!pc->config.other || vm->engine == pc->config.other)
        return false;
    log_warn("engine %s: %s; going on with %s", vm->engine->name, why->text, pc->config.other->name);
    event_loop_post(pc->loop, &pc->take_other);
    return true;
}

void pc_lifecycle_init(struct pc *pc)
{
    pc->take_other.call = take_other;
    pc->vm.engine_failed = engine_failed;
    pc->lifecycle.request = lifecycle_requested;
    pc->vm.ended = vm_ended;
    pc->vm.ended_owner = pc;
}

/* A quit that comes while a reset is under way must not be lost, hence the flag. */
void pc_quit(struct pc *pc)
{
    atomic_store(&pc->quit_wanted, true);
    vm_end(&pc->vm, VM_END_QUIT, 0);
}

/* --- power on --- */

static void reset_devices(struct pc *pc)
{
    struct device *dev;

    list_for_each (dev, &pc->devices, link)
        if (dev->reset)
            dev->reset(dev);
}

/*
 * Memory types as firmware sets them up on every processor: RAM cached, the hole for devices and the
 * VGA window not (SDM vol. 3, 12.11).
 */
static void set_mtrrs(struct x86_state *s, unsigned maxphyaddr)
{
    enum { UNCACHED = 0, WRITE_BACK = 6 };
    const u64 all_wb = 0x0606060606060606ull, valid = BIT(11);

    s->mtrr_def_type = BIT(11) | BIT(10) | WRITE_BACK; /* all on, fixed ranges on */
    for (unsigned i = 0; i < ARRAY_SIZE(s->mtrr_fixed); i++)
        s->mtrr_fixed[i] = all_wb;
    s->mtrr_fixed[2] = 0; /* 0xa0000..0xbffff, MTRR_FIX16K_A0000 */
    s->mtrr_var[0] = MAP_ECAM | UNCACHED;
    s->mtrr_var[1] = (MASK(maxphyaddr) & ~(MAP_ECAM_SIZE - 1)) | valid;
    s->mtrr_var[2] = MAP_PCI_MMIO32 | UNCACHED;
    s->mtrr_var[3] = (MASK(maxphyaddr) & ~(MEMORY_HOLE_END - MAP_PCI_MMIO32 - 1)) | valid;
}

/* The words of the BIOS data area that kernels read (Xen, ACPICA's search for the EBDA). */
static int write_bda(struct memory *m)
{
    u8 bda[0x15] = {0};

    put_le16(bda + 0x00, PORT_COM1);
    put_le16(bda + 0x0e, MAP_EBDA >> 4);
    put_le16(bda + 0x10, 0x0202); /* equipment: one serial port, a coprocessor */
    put_le16(bda + 0x13, MAP_EBDA >> 10);
    return memory_write(m, MAP_BDA, bda, sizeof bda);
}

static int load(struct pc *pc, struct boot_entry *entry, struct error *err)
{
    struct boot_target to = {.memory = &pc->memory, .map = &pc->e820};

    if (write_bda(&pc->memory) || memory_write(&pc->memory, MAP_SMBIOS, pc->smbios.image, pc->smbios.len) ||
        memory_write(&pc->memory, MAP_MPTABLE, pc->mptable.image, pc->mptable.len))
        return error_set(err, ENOSPC, "not enough memory for the firmware's tables");
    if (!pc->config.no_acpi) {
        if (memory_write(&pc->memory, pc->acpi.base, pc->acpi.image, pc->acpi.len))
            return error_set(err, ENOSPC, "not enough memory for the ACPI tables");
        to.rsdp = pc->acpi.base;
    }
    return boot_load(pc->boot, &to, entry, err);
}

/* Without firmware: what it would do, and the kernel at its entry. */
static int boot_kernel(struct pc *pc, struct error *err)
{
    struct boot_entry entry;
    int r;

    lock_acquire(&pc->vm.machine_lock);
    apic_set_virtual_wire(&pc->irqchip.apics);
    r = pci_assign_resources(&pc->pci, err);
    if (!r)
        r = load(pc, &entry, err);
    lock_drop(&pc->vm.machine_lock);
    if (r)
        return r;
    boot_entry_apply(&entry, &pc->vm.vcpus[0]->state);
    for (unsigned i = 0; i < pc->vm.vcpu_count; i++)
        set_mtrrs(&pc->vm.vcpus[i]->state, pc->cpuid.maxphyaddr);
    return 0;
}

int pc_power_on(struct pc *pc, struct error *err)
{
    int r = 0;

    lock_acquire(&pc->vm.machine_lock);
    reset_devices(pc);
    lock_drop(&pc->vm.machine_lock);
    vm_reset_vcpus(&pc->vm); /* takes the lock */

    if (!pc->config.firmware)
        r = boot_kernel(pc, err);
    if (r)
        return r;
    for (unsigned i = 0; i < pc->vm.vcpu_count; i++) {
        struct vcpu *vcpu = pc->vm.vcpus[i];
        if (atomic_load(&vcpu->started))
            pc->vm.engine->state_changed(vcpu);
    }
    return 0;
}

/* --- running --- */

static int reset(struct pc *pc, struct error *err)
{
    int r;

    vm_pause(&pc->vm);
    atomic_store(&pc->ended, false);
    r = pc_power_on(pc, err);
    if (!r)
        vm_resume(&pc->vm);
    return r;
}

/* True when the VM ended for good; else it was reset, or *r says why not. */
static bool at_end(struct pc *pc, int *r, struct error *err)
{
    if (!atomic_load(&pc->ended))
        return false;
    if (pc->end_why != VM_END_RESET || pc->config.no_reboot)
        return true;
    *r = reset(pc, err);
    if (atomic_load(&pc->quit_wanted))
        vm_end(&pc->vm, VM_END_QUIT, 0);
    return *r < 0;
}

/* An engine that worked when it was chosen may not do so now: another program has the processor's VT-x. */
static int start(struct pc *pc, struct error *err)
{
    int r = vm_start(&pc->vm, err);

    if (!r || !pc->config.other || pc->vm.engine == pc->config.other)
        return r;
    log_warn("engine %s: %s; going on with %s", pc->vm.engine->name, err->text, pc->config.other->name);
    r = vm_switch_engine(&pc->vm, pc->config.other, err);
    return r ? r : vm_start(&pc->vm, err);
}

enum vm_end pc_run(struct pc *pc, int *code, struct error *err)
{
    int r = start(pc, err);

    *code = 0;
    if (r)
        return VM_END_ERROR;
    do
        event_loop_run(pc->loop);
    while (!at_end(pc, &r, err));
    vm_stop(&pc->vm);
    event_loop_unpost(pc->loop, &pc->take_other);
    pc_disks_quiet(pc);
    if (r)
        return VM_END_ERROR;
    if (pc->end_why == VM_END_ERROR && err)
        *err = pc->vm.error;
    *code = pc->end_code;
    return pc->end_why;
}

struct lock *pc_machine_lock(struct pc *pc)
{
    return &pc->vm.machine_lock;
}

int pc_switch_engine(struct pc *pc, const struct engine_ops *engine, struct error *err)
{
    return vm_switch_engine(&pc->vm, engine, err);
}

int pc_dump_acpi(const struct pc *pc, const char *dir, struct error *err)
{
    return acpi_dump(&pc->acpi, dir, err);
}

void pc_counters(const struct pc *pc, struct counters *sum)
{
    *sum = (struct counters){0};
    for (unsigned i = 0; i < pc->vm.vcpu_count; i++)
        counters_add(sum, &pc->vm.vcpus[i]->counters);
    counters_add(sum, &pc->rng.vdev.counters);
    counters_add(sum, &pc->hvc.vdev.counters);
    counters_add(sum, &pc->scsi.vdev.counters);
    for (unsigned i = 0; i < pc->disks_made; i++)
        counters_add(sum, &pc->disk[i].vdev.counters);
    for (unsigned i = 0; i < pc->nets_made; i++)
        counters_add(sum, &pc->net[i].vdev.counters);
    for (unsigned i = 0; i < pc->shares_made; i++)
        counters_add(sum, &pc->share[i].vdev.counters);
}

void pc_rescued(const struct pc *pc, struct tally *sum)
{
    *sum = (struct tally){.used = 0};
    for (unsigned i = 0; i < pc->vm.vcpu_count; i++)
        tally_add(sum, &pc->vm.vcpus[i]->rescued);
}
