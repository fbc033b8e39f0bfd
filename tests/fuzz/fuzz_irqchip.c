/*
 * The interrupt controllers of a PC with its devices on their lines, under a guest that does anything:
 * every port and register page, APICs and MSRs of two processors, with time passing, serial input
 * coming in, and records of its own state forged. Checked: a deliverable interrupt is never without
 * its request.
 */
#include "backend/char/chardev.h"
#include "cpu/vm.h"
#include "hw/acpi-pm.h"
#include "hw/debugcon.h"
#include "hw/fw-cfg.h"
#include "hw/hpet.h"
#include "hw/i8042.h"
#include "hw/irqchip.h"
#include "hw/isa-debug-exit.h"
#include "hw/pci-host.h"
#include "hw/pit.h"
#include "hw/port92.h"
#include "hw/pvpanic.h"
#include "hw/reset-port.h"
#include "hw/rtc.h"
#include "hw/uart16550.h"
#include "state/codec.h"
#include "virtio/rng.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define CPUS 2
#define MAX_DEVICES 24
#define MAX_STEPS 2000
#define RNG_BAR 0xc0000000ull

struct world {
    struct memory memory;
    struct event_loop *loop;
    struct vm vm;
    struct lifecycle lifecycle;
    struct chardev serial;
    size_t room;
    struct soft_irqchip chip;
    struct pit pit;
    struct rtc rtc;
    struct hpet hpet;
    struct acpi_pm pm;
    struct i8042 i8042;
    struct uart16550 uart;
    struct port92 port92;
    struct pvpanic pvpanic;
    struct isa_debug_exit debug_exit;
    struct debugcon debugcon;
    struct reset_port reset_port;
    struct fw_cfg fw_cfg;
    struct pci_host host;
    struct virtio_rng rng;
    struct device *device[MAX_DEVICES];
    unsigned devices;
};

struct step {
    u8 what;
    u16 place;
    u8 size;
    u64 value;
} PACKED;

/* --- the world --- */

static void no_kick(struct vcpu *vcpu) {}

static const struct engine_ops no_engine = {.name = "none", .kick = no_kick};
static const struct cpuid_table cpuid = {.maxphyaddr = 40};

static void ignore_request(struct lifecycle *l, enum lifecycle_event event, int code) {}

static ssize_t serial_write(struct chardev *c, const u8 *data, size_t len)
{
    /* Not always all of it. */
    return (ssize_t)(len > 3 ? len / 2 : len);
}

static void serial_room(struct chardev *c, size_t room)
{
    container_of(c, struct world, serial)->room = room;
}

static const struct chardev_ops serial_ops = {.write = serial_write, .set_room = serial_room};

static void add(struct world *w, struct device *dev)
{
    BUG_ON(w->devices == MAX_DEVICES);
    w->device[w->devices++] = dev;
}

static void add_chip(struct world *w)
{
    unsigned n;

    BUG_ON(soft_irqchip_init(&w->chip, &w->vm, NULL));
    w->vm.irqchip = &w->chip.chip;
    add(w, &w->chip.pic.dev);
    add(w, &w->chip.ioapic.dev);
    for (n = 0; n < CPUS; n++)
        add(w, &w->chip.apics.apic[n].dev);
}

static void add_timers(struct world *w)
{
    struct irqchip *c = &w->chip.chip;
    struct memory *m = &w->memory;
    const struct vclock *clock = &w->vm.clock;

    BUG_ON(pit_init(&w->pit, m, w->loop, clock, irqchip_gsi(c, 0), NULL));
    BUG_ON(rtc_init(&w->rtc, m, w->loop, clock, irqchip_gsi(c, 8), NULL));
    BUG_ON(hpet_init(&w->hpet, m, w->loop, clock, irqchip_gsi(c, 0), &w->pit, &w->rtc, NULL));
    BUG_ON(acpi_pm_init(&w->pm, m, w->loop, clock, irqchip_gsi(c, 9), &w->lifecycle, NULL));
    add(w, &w->pit.dev);
    add(w, &w->rtc.dev);
    add(w, &w->hpet.dev);
    add(w, &w->pm.dev);
}

static void add_ports(struct world *w)
{
    struct irqchip *c = &w->chip.chip;
    struct memory *m = &w->memory;
    const struct vclock *clock = &w->vm.clock;

    BUG_ON(i8042_init(&w->i8042, m, irqchip_gsi(c, 1), irqchip_gsi(c, 12), &w->lifecycle, NULL));
    BUG_ON(uart16550_init(&w->uart, m, 0x3f8, w->loop, clock, irqchip_gsi(c, 4), &w->serial, NULL));
    BUG_ON(port92_init(&w->port92, m, &w->lifecycle, NULL));
    BUG_ON(pvpanic_init(&w->pvpanic, m, &w->lifecycle, NULL));
    BUG_ON(isa_debug_exit_init(&w->debug_exit, m, 0xf4, &w->lifecycle, NULL));
    BUG_ON(debugcon_init(&w->debugcon, m, DEBUGCON_PORT, NULL, NULL));
    BUG_ON(fw_cfg_init(&w->fw_cfg, m, NULL));
    BUG_ON(fw_cfg_add_file(&w->fw_cfg, "opt/test", "0123456789", 10, NULL));
    reset_port_init(&w->reset_port, &w->lifecycle);
    add(w, &w->i8042.dev);
    add(w, &w->uart.dev);
    add(w, &w->port92.dev);
    add(w, &w->pvpanic.dev);
    add(w, &w->fw_cfg.dev);
    add(w, &w->reset_port.dev);
}

static void add_pci(struct world *w)
{
    struct irqchip *c = &w->chip.chip;
    struct pci_host_wiring wiring = {
        .windows = {.mmio_base = (u32)RNG_BAR,
                    .mmio_end = 0xe0000000,
                    .io_base = 0x1000,
                    .io_end = 0x10000,
                    .ecam_base = 0xe0000000},
        .msi = irqchip_msi(c),
        .reset = &w->reset_port.region,
    };
    unsigned n;

    for (n = 0; n < 16; n++)
        wiring.isa_irq[n] = irqchip_gsi(c, n);
    for (n = 0; n < 4; n++)
        wiring.gsi[n] = irqchip_gsi(c, PCI_PIRQ_GSI + n);
    BUG_ON(pci_host_init(&w->host, &w->memory, &wiring, NULL));
    BUG_ON(virtio_rng_init(&w->rng, &w->host.bus, PCI_DEVFN(1, 0), &w->memory, w->loop, NULL));
    add(w, &w->host.dev);
    add(w, &w->rng.pci.function.dev);
}

static void reset_all(struct world *w)
{
    unsigned n;

    for (n = 0; n < w->devices; n++)
        if (w->device[n]->reset)
            w->device[n]->reset(w->device[n]);
    apic_set_virtual_wire(&w->chip.apics);
    pci_assign_resources(&w->host, NULL);
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->loop = event_loop_new(NULL);
    BUG_ON(!w->loop || memory_init(&w->memory, 2 << 20, NULL));
    BUG_ON(vm_init(&w->vm, &w->memory, w->loop, &no_engine, &cpuid, CPUS, NULL));
    vclock_init_manual(&w->vm.clock);
    vclock_set_ns(&w->vm.clock, NS_PER_SEC);
    w->lifecycle.request = ignore_request;
    w->serial.ops = &serial_ops;
    w->serial.connected = true;
    add_chip(w);
    add_timers(w);
    add_ports(w);
    add_pci(w);
    reset_all(w);
}

static void world_release(struct world *w)
{
    virtio_rng_release(&w->rng);
    pci_host_release(&w->host);
    reset_port_release(&w->reset_port);
    fw_cfg_release(&w->fw_cfg);
    debugcon_release(&w->debugcon);
    isa_debug_exit_release(&w->debug_exit);
    pvpanic_release(&w->pvpanic);
    port92_release(&w->port92);
    uart16550_release(&w->uart);
    i8042_release(&w->i8042);
    acpi_pm_release(&w->pm);
    hpet_release(&w->hpet);
    rtc_release(&w->rtc);
    pit_release(&w->pit);
    soft_irqchip_release(&w->chip);
    vm_release(&w->vm);
    event_loop_free(w->loop);
    memory_release(&w->memory);
}

/* --- steps --- */

static const u16 port_of[] = {
    0x20,  0x21,  0xa0,  0xa1,  0x4d0, 0x4d1, 0x40,  0x41,  0x42,  0x43,  0x61,  0x60,
    0x64,  0x70,  0x71,  0x72,  0x73,  0x92,  0xb2,  0xb3,  0xf4,  0x3f8, 0x3f9, 0x3fa,
    0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x402, 0x505, 0x510, 0x511, 0x514, 0x518, 0x600,
    0x602, 0x604, 0x608, 0x620, 0x622, 0xcf8, 0xcf9, 0xcfc, 0xcfd, 0xcfe,
};

static void port_access(struct world *w, u16 port, const struct step *s, unsigned size)
{
    if (s->what & 0x80)
        memory_pio_write(&w->memory, port, s->value & MASK(8 * size), size);
    else
        memory_pio_read(&w->memory, port, size);
}

static void page_access(struct world *w, u64 gpa, const struct step *s, unsigned size)
{
    if (s->what & 0x80)
        memory_mmio_write(&w->memory, gpa, s->value & MASK(8 * size), size);
    else
        memory_mmio_read(&w->memory, gpa, size);
}

static void apic_access(struct world *w, struct vcpu *vcpu, const struct step *s)
{
    struct irqchip *c = &w->chip.chip;

    if (s->what & 0x80)
        c->ops->apic_write(c, vcpu, s->place & 0xffc, (u32)s->value);
    else
        c->ops->apic_read(c, vcpu, s->place & 0xffc);
}

static void msr_access(struct world *w, struct vcpu *vcpu, const struct step *s)
{
    static const u32 others[] = {MSR_APIC_BASE, MSR_TSC_DEADLINE};
    u32 index = s->place & 0x100 ? others[s->place & 1] : MSR_X2APIC_FIRST + (s->place & 0x3fu);
    struct irqchip *c = &w->chip.chip;
    u64 value;

    if (s->what & 0x80)
        c->ops->msr_write(c, vcpu, index, s->value);
    else
        c->ops->msr_read(c, vcpu, index, &value);
}

static void pass_time(struct world *w, u64 ns)
{
    unsigned n;

    vclock_set_ns(&w->vm.clock, vclock_ns(&w->vm.clock) + ns);
    event_loop_clock_changed(w->loop);
    for (n = 0; n < 4; n++)
        event_loop_poll(w->loop, 0);
}

static void serial_input(struct world *w, const struct step *s)
{
    u8 bytes[8];
    size_t len = MIN(w->room, (size_t)(s->place & 7));

    put_le64(bytes, s->value);
    if (!w->serial.listener)
        return;
    if (s->place & 8)
        w->serial.listener->writable(w->serial.listener);
    else if (s->place & 16)
        w->serial.listener->line_break(w->serial.listener);
    else if (len)
        w->serial.listener->receive(w->serial.listener, bytes, len);
}

static void reload(struct world *w, const struct step *s)
{
    struct device *dev = w->device[s->size % w->devices];
    struct state_buf b = {0};

    if (!dev->state)
        return;
    if (state_save(&b, dev->state, dev->instance, dev->object, NULL) == 0) {
        b.data[s->place % b.len] = (u8)s->value;
        b.data[(s->value >> 8) % b.len] = s->what;
        if (state_load(&b, dev->state, dev->instance, dev->object, NULL) != 0)
            dev->reset(dev);
    }
    state_buf_release(&b);
}

static void acknowledge(struct world *w, struct vcpu *vcpu)
{
    struct irqchip *c = &w->chip.chip;
    bool asked = vcpu_requests(vcpu) & VCPU_REQ_INTERRUPT;
    int vector = c->ops->ack(c, vcpu);

    BUG_ON(vector < -1 || vector > 255 || (vector >= 0 && !asked));
}

static void run_step(struct world *w, const struct step *s)
{
    static const u64 pages[] = {0xfec00000, 0xfed00000, RNG_BAR, RNG_BAR + 0x4000, 0xe0000000, 0xe0008000};
    static const u8 sizes[] = {1, 2, 4, 8};
    struct vcpu *vcpu = w->vm.vcpus[s->what >> 6 & 1];
    unsigned size = sizes[s->size & 3];

    switch (s->what & 0x0f) {
    case 0:
    case 1:
    case 2: port_access(w, port_of[s->place % ARRAY_SIZE(port_of)], s, MIN(size, 4u)); break;
    case 3: port_access(w, s->place, s, MIN(size, 4u)); break;
    case 4:
    case 5: page_access(w, pages[(s->place >> 12) % ARRAY_SIZE(pages)] + (s->place & 0xfff), s, size); break;
    case 6: page_access(w, 0xfed00000 + (s->place & 0x1ff), s, size); break;
    case 7: page_access(w, 0xfec00000 + (s->place & 0x10), s, 4); break;
    case 8:
    case 9: apic_access(w, vcpu, s); break;
    case 10: msr_access(w, vcpu, s); break;
    case 11: acknowledge(w, vcpu); break;
    case 12: pass_time(w, s->value & MASK(4 + (s->place & 31))); break;
    case 13: serial_input(w, s); break;
    case 14: reload(w, s); break;
    default:
        if (s->place & 1)
            i8042_key(&w->i8042, (u8)s->value);
        else if (s->place & 2)
            irqchip_gsi(&w->chip.chip, 0).set(&w->chip.chip, s->place >> 2 & 31, s->value & 1);
        else if (s->place & 4)
            w->chip.chip.ops->set_pv_eoi(&w->chip.chip, vcpu, s->value);
        else if (s->place & 8)
            w->chip.chip.ops->vcpu_reset(&w->chip.chip, vcpu, s->value & 1);
        else
            reset_all(w);
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct world *w = malloc(sizeof *w);
    struct step s;
    unsigned n;

    if (!w)
        return 0;
    world_init(w);
    lock_acquire(&w->vm.machine_lock);
    for (n = 0; n < MAX_STEPS && size >= sizeof s; n++, data += sizeof s, size -= sizeof s) {
        memcpy(&s, data, sizeof s);
        run_step(w, &s);
    }
    for (n = 0; n < CPUS; n++)
        acknowledge(w, w->vm.vcpus[n]);
    lock_drop(&w->vm.machine_lock);
    world_release(w);
    free(w);
    return 0;
}
