/*
 * The board from top to bottom: what is made, in which order, and what is connected to what. Each step
 * of the table at the end makes one thing and can unmake it; pc_new() goes down the table, pc_free()
 * up again.
 */
#include "machine/pc-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hw/acpi-pm.h"
#include "machine/memory-map.h"

/* --- helpers --- */

static void add_device(struct pc *pc, struct device *dev)
{
    list_push_back(&pc->devices, &dev->link);
}

static struct irq_line gsi(struct pc *pc, unsigned n)
{
    return irqchip_gsi(pc->vm.irqchip, n);
}

/* --- memory, processors, interrupt controllers --- */

static int memory_up(struct pc *pc, struct error *err)
{
    int r = memory_init(&pc->memory, pc->config.memory, err);

    if (!r)
        e820_build(&pc->e820, &pc->memory);
    return r;
}

static void memory_down(struct pc *pc)
{
    memory_release(&pc->memory);
}

static int vm_up(struct pc *pc, struct error *err)
{
    const struct engine_ops *engine = pc->config.engine, *other = pc->config.other;
    bool strict = strcmp(pc->config.cpu_model, "host") != 0;
    int r = cpuid_build(&pc->cpuid, pc->config.cpu_model, pc->config.cpus, clock_tsc_khz(), err);

    if (!r && engine->limit_cpuid)
        r = engine->limit_cpuid(&pc->cpuid, strict, err);
    if (!r && other && other->limit_cpuid)
        r = other->limit_cpuid(&pc->cpuid, strict, err);
    if (!r)
        r = vm_init(&pc->vm, &pc->memory, pc->loop, engine, &pc->cpuid, pc->config.cpus, err);
    if (r)
        return r;
    pc->vm.rescue = &interpret_rescue;
    pc->vm.kernel_irqchip = pc->config.irqchip;
    pc->vm.ioeventfd = pc->config.ioeventfd;
    pc->vm.irqfd = pc->config.irqfd;
    event_loop_set_lock(pc->loop, &pc->vm.machine_lock);
    pc_lifecycle_init(pc);
    pc_keys_init(pc);
    return 0;
}

static void vm_down(struct pc *pc)
{
    event_loop_set_lock(pc->loop, NULL);
    vm_release(&pc->vm);
}

static int irqchip_up(struct pc *pc, struct error *err)
{
    int r = soft_irqchip_init(&pc->irqchip, &pc->vm, err);

    if (r)
        return r;
    pc->vm.irqchip = &pc->irqchip.chip;
    add_device(pc, &pc->irqchip.pic.dev);
    add_device(pc, &pc->irqchip.ioapic.dev);
    for (unsigned i = 0; i < pc->irqchip.apics.count; i++)
        add_device(pc, &pc->irqchip.apics.apic[i].dev);
    return 0;
}

static void irqchip_down(struct pc *pc)
{
    soft_irqchip_release(&pc->irqchip);
}

/* --- timers and clocks --- */

static int pit_up(struct pc *pc, struct error *err)
{
    int r = pit_init(&pc->pit, &pc->memory, pc->loop, &pc->vm.clock, gsi(pc, IRQ_PIT), err);

    if (!r)
        add_device(pc, &pc->pit.dev);
    return r;
}

static void pit_down(struct pc *pc)
{
    pit_release(&pc->pit);
}

static int rtc_up(struct pc *pc, struct error *err)
{
    int r = rtc_init(&pc->rtc, &pc->memory, pc->loop, &pc->vm.clock, gsi(pc, IRQ_RTC), err);

    if (r)
        return r;
    rtc_set_memory_size(&pc->rtc, pc->memory.low_size, pc->memory.high_size);
    add_device(pc, &pc->rtc.dev);
    return 0;
}

static void rtc_down(struct pc *pc)
{
    rtc_release(&pc->rtc);
}

static int hpet_up(struct pc *pc, struct error *err)
{
    int r = hpet_init(&pc->hpet, &pc->memory, pc->loop, &pc->vm.clock, gsi(pc, 0), &pc->pit, &pc->rtc, err);

    if (!r)
        add_device(pc, &pc->hpet.dev);
    return r;
}

static void hpet_down(struct pc *pc)
{
    hpet_release(&pc->hpet);
}

/* --- power and reset --- */

static int acpi_pm_up(struct pc *pc, struct error *err)
{
    int r = acpi_pm_init(&pc->acpi_pm, &pc->memory, pc->loop, &pc->vm.clock, gsi(pc, IRQ_SCI), &pc->lifecycle,
                         err);

    if (!r)
        add_device(pc, &pc->acpi_pm.dev);
    return r;
}

static void acpi_pm_down(struct pc *pc)
{
    acpi_pm_release(&pc->acpi_pm);
}

static int i8042_up(struct pc *pc, struct error *err)
{
    int r =
        i8042_init(&pc->i8042, &pc->memory, gsi(pc, IRQ_KEYBOARD), gsi(pc, IRQ_MOUSE), &pc->lifecycle, err);

    if (!r)
        add_device(pc, &pc->i8042.dev);
    return r;
}

static void i8042_down(struct pc *pc)
{
    i8042_release(&pc->i8042);
}

static int port92_up(struct pc *pc, struct error *err)
{
    int r = port92_init(&pc->port92, &pc->memory, &pc->lifecycle, err);

    if (!r)
        add_device(pc, &pc->port92.dev);
    return r;
}

static void port92_down(struct pc *pc)
{
    port92_release(&pc->port92);
}

static int pvpanic_up(struct pc *pc, struct error *err)
{
    int r = pvpanic_init(&pc->pvpanic, &pc->memory, &pc->lifecycle, err);

    if (!r)
        add_device(pc, &pc->pvpanic.dev);
    return r;
}

static void pvpanic_down(struct pc *pc)
{
    pvpanic_release(&pc->pvpanic);
}

static int debug_exit_up(struct pc *pc, struct error *err)
{
    int r;

    if (!pc->config.debug_exit)
        return 0;
    r = isa_debug_exit_init(&pc->debug_exit, &pc->memory, pc->config.debug_exit_port, &pc->lifecycle, err);
    if (!r)
        add_device(pc, &pc->debug_exit.dev);
    return r;
}

static void debug_exit_down(struct pc *pc)
{
    if (pc->config.debug_exit)
        isa_debug_exit_release(&pc->debug_exit);
}

/* --- the serial port --- */

static int console_up(struct pc *pc, struct error *err)
{
    pc->console = chardev_open(pc->config.console, pc->loop, &pc->keys, err);
    return pc->console ? 0 : -err->code;
}

static void console_down(struct pc *pc)
{
    chardev_free(pc->console);
}

static int com1_up(struct pc *pc, struct error *err)
{
    int r = uart16550_init(&pc->com1, &pc->memory, PORT_COM1, pc->loop, &pc->vm.clock, gsi(pc, IRQ_COM1),
                           pc->console, err);

    if (!r)
        add_device(pc, &pc->com1.dev);
    return r;
}

static void com1_down(struct pc *pc)
{
    uart16550_release(&pc->com1);
}

/* --- fw_cfg --- */

static int fw_cfg_fill(struct pc *pc, struct error *err)
{
    struct PACKED {
        u64 start, size;
        u32 type;
    } map[E820_MAX];
    int r;

    for (unsigned i = 0; i < pc->e820.count; i++) {
        map[i].start = pc->e820.entry[i].start;
        map[i].size = pc->e820.entry[i].size;
        map[i].type = pc->e820.entry[i].type;
    }
    r = fw_cfg_add_u64(&pc->fw_cfg, FW_CFG_RAM_SIZE, pc->memory.ram_size, err);
    if (!r)
        r = fw_cfg_add_u16(&pc->fw_cfg, FW_CFG_NB_CPUS, (u16)pc->config.cpus, err);
    if (!r)
        r = fw_cfg_add_u16(&pc->fw_cfg, FW_CFG_MAX_CPUS, (u16)pc->config.cpus, err);
    if (!r)
        r = fw_cfg_add(&pc->fw_cfg, FW_CFG_UUID, pc->config.uuid, UUID_SIZE, err);
    if (!r)
        r = fw_cfg_add_u16(&pc->fw_cfg, FW_CFG_NOGRAPHIC, 1, err);
    if (!r)
        r = fw_cfg_add_file(&pc->fw_cfg, "etc/e820", map, (u32)(pc->e820.count * sizeof map[0]), err);
    return r;
}

static int fw_cfg_up(struct pc *pc, struct error *err)
{
    int r = fw_cfg_init(&pc->fw_cfg, &pc->memory, err);

    if (r)
        return r;
    r = fw_cfg_fill(pc, err);
    if (r)
        fw_cfg_release(&pc->fw_cfg);
    else
        add_device(pc, &pc->fw_cfg.dev);
    return r;
}

static void fw_cfg_down(struct pc *pc)
{
    fw_cfg_release(&pc->fw_cfg);
}

/* --- PCI and what sits on it; disks are in pc-disk.c --- */

static int pci_up(struct pc *pc, struct error *err)
{
    struct pci_host_wiring w = {
        .windows =
            {
                .mmio_base = MAP_PCI_MMIO32,
                .mmio_end = MAP_PCI_MMIO32_END,
                .high_base = MAP_PCI_MMIO64,
                .high_end = MAP_PCI_MMIO64_END,
                .io_base = PORT_PCI_IO,
                .io_end = PORT_PCI_IO_END,
                .ecam_base = MAP_ECAM,
            },
        .msi = irqchip_msi(pc->vm.irqchip),
        .pm_base = ACPI_PM_BASE,
        .reset = &pc->reset_port.region,
    };
    int r;

    for (unsigned i = 0; i < 16; i++)
        w.isa_irq[i] = gsi(pc, i);
    for (unsigned i = 0; i < 4; i++)
        w.gsi[i] = gsi(pc, PCI_PIRQ_GSI + i);
    reset_port_init(&pc->reset_port, &pc->lifecycle);
    r = pci_host_init(&pc->pci, &pc->memory, &w, err);
    if (r) {
        reset_port_release(&pc->reset_port);
        return r;
    }
    add_device(pc, &pc->reset_port.dev);
    add_device(pc, &pc->pci.dev);
    return 0;
}

static void pci_down(struct pc *pc)
{
    pci_host_release(&pc->pci);
    reset_port_release(&pc->reset_port);
}

static int rng_up(struct pc *pc, struct error *err)
{
    int r;

    if (pc->config.no_rng)
        return 0;
    r = virtio_rng_init(&pc->rng, &pc->pci.bus, PCI_DEVFN(SLOT_RNG, 0), &pc->memory, pc->loop, err);
    if (!r)
        add_device(pc, &pc->rng.pci.function.dev);
    return r;
}

static void rng_down(struct pc *pc)
{
    if (!pc->config.no_rng)
        virtio_rng_release(&pc->rng);
}

static int virtio_console_up(struct pc *pc, struct error *err)
{
    int r;

    if (!pc->config.virtio_console)
        return 0;
    pc->hvc_backend = chardev_open(pc->config.virtio_console, pc->loop, &pc->keys, err);
    if (!pc->hvc_backend)
        return -err->code;
    r = virtio_console_init(&pc->hvc, &pc->pci.bus, PCI_DEVFN(SLOT_CONSOLE, 0), &pc->memory, pc->loop,
                            pc->hvc_backend, err);
    if (r)
        chardev_free(pc->hvc_backend);
    else
        add_device(pc, &pc->hvc.pci.function.dev);
    return r;
}

static void virtio_console_down(struct pc *pc)
{
    if (!pc->config.virtio_console)
        return;
    virtio_console_release(&pc->hvc);
    chardev_free(pc->hvc_backend);
}

/* --- what firmware would do --- */

static int tables_up(struct pc *pc, struct error *err)
{
    const struct acpi_config config = {
        .cpus = pc->config.cpus,
        .mmio_base = MAP_PCI_MMIO32,
        .mmio_end = (u32)MAP_PCI_MMIO32_END,
        .high_base = MAP_PCI_MMIO64,
        .high_end = MAP_PCI_MMIO64_END,
        .io_base = PORT_PCI_IO,
        .io_end = PORT_PCI_IO_END,
        .ecam_base = MAP_ECAM,
    };

    const struct smbios_config smbios = {
        .name = pc->config.name,
        .uuid = pc->config.uuid,
        .cpus = pc->config.cpus,
        .low_memory = pc->memory.low_size,
        .high_memory = pc->memory.high_size,
    };
    const struct cpuid_context leaf1 = {.eax = 1};
    u32 regs[4];
    int r = smbios_build(&pc->smbios, &smbios, MAP_SMBIOS, err);

    cpuid_lookup(&pc->cpuid, &leaf1, regs);
    mptable_build(&pc->mptable, MAP_MPTABLE, pc->config.cpus, regs[0], regs[3], pc->irqchip.ioapic.version);
    /* Firmware moves the tables to where it wants them. */
    return r ? r : acpi_build(&pc->acpi, &config, pc->config.firmware ? 0 : MAP_FIRMWARE_TABLES, err);
}

static void tables_down(struct pc *pc)
{
    acpi_release(&pc->acpi);
}

static int firmware_up(struct pc *pc, struct error *err)
{
    const struct blob *image = pc->config.firmware;
    char order[64 * PC_MAX_DISKS];
    int r;

    if (!image)
        return 0;
    pc_boot_order(pc, order, sizeof order);
    const struct firmware_config config = {
        .acpi = pc->config.no_acpi ? NULL : &pc->acpi,
        .smbios = &pc->smbios,
        .serial_console = strcmp(pc->config.console, "none") != 0,
        .boot_order = order,
    };
    r = firmware_fill(&pc->fw_cfg, &config, err);
    if (!r)
        r = firmware_rom_init(&pc->rom, &pc->memory, image->data, (u32)image->size, err);
    if (!r)
        add_device(pc, &pc->rom.dev);
    return r;
}

static void firmware_down(struct pc *pc)
{
    if (pc->config.firmware)
        firmware_rom_release(&pc->rom);
}

static int kernel_up(struct pc *pc, struct error *err)
{
    return pc_power_on(pc, err);
}

static void nothing_down(struct pc *pc) {}

/* --- the whole --- */

static const struct {
    int (*up)(struct pc *pc, struct error *err);
    void (*down)(struct pc *pc);
} steps[] = {
    {memory_up, memory_down},
    {vm_up, vm_down},
    {irqchip_up, irqchip_down},
    {pit_up, pit_down},
    {rtc_up, rtc_down},
    {hpet_up, hpet_down},
    {acpi_pm_up, acpi_pm_down},
    {i8042_up, i8042_down},
    {port92_up, port92_down},
    {pvpanic_up, pvpanic_down},
    {debug_exit_up, debug_exit_down},
    {fw_cfg_up, fw_cfg_down},
    {pci_up, pci_down},
    {rng_up, rng_down},
    {pc_disks_up, pc_disks_down},
    {pc_nets_up, pc_nets_down},
    {pc_shares_up, pc_shares_down},
    {tables_up, tables_down},
    {firmware_up, firmware_down},
    {console_up, console_down},
    {com1_up, com1_down},
    {virtio_console_up, virtio_console_down},
    {kernel_up, nothing_down},
};

struct pc *pc_new(const struct pc_config *config, struct boot_source *boot, struct event_loop *loop,
                  struct error *err)
{
    struct pc *pc = aligned_alloc(64, ALIGN_UP(sizeof *pc, 64));

    if (!pc) {
        error_set_errno(err, ENOMEM, "cannot make the machine");
        return NULL;
    }
    memset(pc, 0, sizeof *pc);
    pc->config = *config;
    pc->boot = boot;
    pc->loop = loop;
    list_init(&pc->devices);
    for (; pc->steps_done < ARRAY_SIZE(steps); pc->steps_done++) {
        if (steps[pc->steps_done].up(pc, err)) {
            pc_free(pc);
            return NULL;
        }
    }
    return pc;
}

void pc_free(struct pc *pc)
{
    if (!pc)
        return;
    while (pc->steps_done)
        steps[--pc->steps_done].down(pc);
    free(pc);
}
