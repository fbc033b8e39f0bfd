#include "hw/pci-host.h"

#include <errno.h>

#include "base/log.h"

#define ADDRESS_ENABLE BIT(31)
#define ADDRESS_WRITABLE 0x80fffffcu
#define ADDRESS_BUS(a) bits(a, 23, 16)
#define ADDRESS_DEVFN(a) ((u8)bits(a, 15, 8))

/* Host bridge (Intel 3 Series chipset data sheet 316966, 5.1) */
#define BRIDGE_PAM0 0x90
#define BRIDGE_SMRAM 0x9d
#define PCIEXBAR_ENABLE 0x1
#define PCIEXBAR_WRITABLE_LOW 0xfc000007u
#define PCIEXBAR_WRITABLE_HIGH 0x0000000fu
#define ECAM_BUS_SIZE (1u << 20)

/* LPC bridge (ICH9 data sheet 316972, 13.1) */
#define LPC_PIRQ_DISABLED 0x80
#define LPC_PIRQ_WRITABLE 0x8f
#define LPC_ACPI_ENABLE 0x80 /* SCI on IRQ 9 */
#define RCBA_ENABLE 1u
#define RCBA_WRITABLE 0xffffc001u
#define RCBA_SIZE 0x4000
#define RCBA_ROUTE_FIRST 0x3140 /* DxxIR: device interrupt routes, all 0x3210 */
#define RCBA_ROUTE_END 0x3152
#define RCBA_ROUTE 0x3210

/* ISA interrupts that a PIRQ may be routed to (13.1.10): not timer, keyboard, cascade, RTC, FPU. */
#define PIRQ_ISA_ALLOWED 0xdef8u

#define REG_COMMAND 0x04
#define REG_BAR0 0x10
#define REG_INTERRUPT_LINE 0x3c
#define REG_INTERRUPT_PIN 0x3d
#define COMMAND_DECODE 0x0003 /* I/O and memory */
#define ELCR_HIGH_PORT 0x4d1

/* Where firmware routes PIRQ A..D. */
static const u8 firmware_route[4] = {10, 10, 11, 11};

/* --- interrupt routing --- */

static void isa_update(struct pci_host *h)
{
    u16 asserted = 0, changed;
    unsigned n;

    for (n = 0; n < 4; n++) {
        u8 route = h->lpc.config[PCI_LPC_PIRQ_ROUTE + n];

        if ((h->pirq_level >> n & 1) && !(route & LPC_PIRQ_DISABLED))
            asserted |= 1u << (route & 15);
    }
    asserted &= PIRQ_ISA_ALLOWED;
    changed = asserted ^ h->isa_asserted;
    h->isa_asserted = asserted;
    for (n = 0; n < 16; n++)
        if (changed >> n & 1)
            irq_set(&h->wiring.isa_irq[n], asserted >> n & 1);
}

static void pirq_set(void *owner, unsigned line, bool level)
{
    struct pci_host *h = owner;

    h->pirq_level = level ? h->pirq_level | 1u << line : h->pirq_level & ~(1u << line);
    irq_set(&h->wiring.gsi[line], level);
    isa_update(h);
}

/* --- configuration mechanism 1 --- */

static u64 address_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pci_host *h = container_of(r, struct pci_host, address_io);
    const struct io_region *reset = h->wiring.reset;

    if (size == 4)
        return h->address;
    if (size == 1 && offset == 1 && reset)
        return reset->ops->read(h->wiring.reset, 0, 1);
    return ~0ull;
}

static void address_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pci_host *h = container_of(r, struct pci_host, address_io);
    const struct io_region *reset = h->wiring.reset;

    if (size == 4)
        h->address = value & ADDRESS_WRITABLE;
    else if (size == 1 && offset == 1 && reset)
        reset->ops->write(h->wiring.reset, 0, value, 1);
}

static bool address_selects(const struct pci_host *h)
{
    return (h->address & ADDRESS_ENABLE) && ADDRESS_BUS(h->address) == 0;
}

static u64 data_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pci_host *h = container_of(r, struct pci_host, data_io);

    if (!address_selects(h))
        return ~0ull;
    return pci_config_read(&h->bus, ADDRESS_DEVFN(h->address), (h->address & 0xfc) + (unsigned)offset, size);
}

static void data_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pci_host *h = container_of(r, struct pci_host, data_io);

    if (address_selects(h))
        pci_config_write(&h->bus, ADDRESS_DEVFN(h->address), (h->address & 0xfc) + (unsigned)offset,
                         (u32)value, size);
}

static const struct io_ops address_ops = {.read = address_read, .write = address_write, .max_size = 4};
static const struct io_ops data_ops = {.read = data_read, .write = data_write, .max_size = 4};

/* --- ECAM --- */

static u64 ecam_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pci_host *h = container_of(r, struct pci_host, ecam);

    if (offset >= ECAM_BUS_SIZE)
        return ~0ull;
    return pci_config_read(&h->bus, (u8)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pci_host *h = container_of(r, struct pci_host, ecam);

    if (offset < ECAM_BUS_SIZE)
        pci_config_write(&h->bus, (u8)(offset >> 12), offset & 0xfff, (u32)value, size);
}

static const struct io_ops ecam_ops = {.read = ecam_read, .write = ecam_write, .max_size = 4};

/* Moves @r to @base; @size 0 or a place that is taken: nowhere. */
static void region_move(struct pci_host *h, struct io_region *r, u64 base, u64 size)
{
    struct error why;

    if (r->mapped && r->base == base && r->size == size)
        return;
    memory_unmap(h->bus.memory, r);
    r->size = size;
    if (size && memory_map_mmio(h->bus.memory, r, base, &why))
        log_guest("%s", why.text);
}

static void ecam_update(struct pci_host *h)
{
    static const u32 length[4] = {256u << 20, 128u << 20, 64u << 20, 0};
    u64 value = get_le64(h->bridge.config + PCI_BRIDGE_PCIEXBAR);
    u32 size = value & PCIEXBAR_ENABLE ? length[bits(value, 2, 1)] : 0;

    region_move(h, &h->ecam, size ? ALIGN_DOWN(value, (u64)size) : 0, size);
}

static void bridge_written(struct pci_function *f, unsigned offset, unsigned size)
{
    if (offset < PCI_BRIDGE_PCIEXBAR + 8 && offset + size > PCI_BRIDGE_PCIEXBAR)
        ecam_update(container_of(f, struct pci_host, bridge));
}

static const struct pci_function_ops bridge_ops = {.config_written = bridge_written};

/* --- LPC bridge --- */

/* Chipset configuration: only the reset values of the interrupt routes; writes change nothing. */
static u64 rcba_read(struct io_region *r, u64 offset, unsigned size)
{
    if (offset >= RCBA_ROUTE_FIRST && offset < RCBA_ROUTE_END && !(offset & 1))
        return RCBA_ROUTE | (u32)RCBA_ROUTE << 16;
    return 0;
}

static void rcba_write(struct io_region *r, u64 offset, u64 value, unsigned size) {}

static const struct io_ops rcba_ops = {.read = rcba_read, .write = rcba_write, .max_size = 4};

static void rcba_update(struct pci_host *h)
{
    u32 value = get_le32(h->lpc.config + PCI_LPC_RCBA);

    region_move(h, &h->rcba, value & ~RCBA_ENABLE, value & RCBA_ENABLE ? RCBA_SIZE : 0);
}

static void lpc_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct pci_host *h = container_of(f, struct pci_host, lpc);

    rcba_update(h);
    isa_update(h);
}

static const struct pci_function_ops lpc_ops = {.config_written = lpc_written};

/* --- life cycle --- */

static int bridge_init(struct pci_host *h, struct error *err)
{
    /* By the subsystem, firmware and kernels tell a virtual machine with fw_cfg. */
    static const struct pci_id id = {.vendor = 0x8086,
                                     .device = 0x29c0,
                                     .subsys_vendor = 0x1af4,
                                     .subsys = 0x1100,
                                     .class_code = 0x060000};
    struct pci_function *f = &h->bridge;
    int r = pci_function_init(f, &h->bus, PCI_DEVFN(0, 0), &id, &bridge_ops, err);

    if (r)
        return r;
    f->dev.name = "host-bridge";
    put_le32(f->writable + PCI_BRIDGE_PCIEXBAR, PCIEXBAR_WRITABLE_LOW);
    put_le32(f->writable + PCI_BRIDGE_PCIEXBAR + 4, PCIEXBAR_WRITABLE_HIGH);
    /* The ROM area is RAM and SMM does not exist: these registers only remember what firmware wrote. */
    f->writable[BRIDGE_PAM0] = 0x30;
    memset(f->writable + BRIDGE_PAM0 + 1, 0x33, 6);
    f->writable[BRIDGE_SMRAM] = 0x78;
    f->config[BRIDGE_SMRAM] = 0x02;
    return 0;
}

static int lpc_init(struct pci_host *h, struct error *err)
{
    static const struct pci_id id = {
        .vendor = 0x8086, .device = 0x2918, .class_code = 0x060100, .revision = 2};
    struct pci_function *f = &h->lpc;
    int r = pci_function_init(f, &h->bus, PCI_LPC_DEVFN, &id, &lpc_ops, err);
    unsigned n;

    if (r)
        return r;
    f->dev.name = "lpc";
    put_le16(f->config + PCI_LPC_PMBASE, h->wiring.pm_base | 1);
    f->config[PCI_LPC_ACPI_CNTL] = LPC_ACPI_ENABLE;
    for (n = 0; n < 4; n++) {
        f->config[PCI_LPC_PIRQ_ROUTE + n] = f->config[PCI_LPC_PIRQ_ROUTE + 8 + n] = LPC_PIRQ_DISABLED;
        f->writable[PCI_LPC_PIRQ_ROUTE + n] = f->writable[PCI_LPC_PIRQ_ROUTE + 8 + n] = LPC_PIRQ_WRITABLE;
    }
    put_le32(f->writable + PCI_LPC_RCBA, RCBA_WRITABLE);
    return 0;
}

static void host_follow_registers(struct pci_host *h)
{
    ecam_update(h);
    rcba_update(h);
    isa_update(h);
}

static void pci_host_reset(struct device *dev)
{
    struct pci_host *h = container_of(dev, struct pci_host, dev);

    h->address = 0;
    pci_function_reset(&h->bridge);
    pci_function_reset(&h->lpc);
    host_follow_registers(h);
}

static const struct field host_fields[] = {
    FIELD(struct pci_host, address),
    FIELD_STRUCT(struct pci_host, bridge, pci_function_state),
    FIELD_STRUCT(struct pci_host, lpc, pci_function_state),
    FIELD_END,
};

static int host_post_load(void *object, unsigned version, struct error *err)
{
    struct pci_host *h = object;

    h->address &= ADDRESS_WRITABLE;
    host_follow_registers(h);
    return 0;
}

static const struct state_desc host_state = {
    .name = "pci-host", .version = 1, .fields = host_fields, .post_load = host_post_load};

int pci_host_init(struct pci_host *h, struct memory *m, const struct pci_host_wiring *w, struct error *err)
{
    unsigned n;
    int r;

    memset(h, 0, sizeof *h);
    h->wiring = *w;
    pci_bus_init(&h->bus, m, w->msi);
    for (n = 0; n < 4; n++)
        h->bus.pirq[n] = (struct irq_line){.set = pirq_set, .owner = h, .line = n};
    h->dev = (struct device){.name = "pci-host", .state = &host_state, .object = h, .reset = pci_host_reset};
    list_init(&h->dev.link);
    io_region_init(&h->address_io, "pci-address", &address_ops, 4);
    io_region_init(&h->data_io, "pci-data", &data_ops, 4);
    io_region_init(&h->ecam, "ecam", &ecam_ops, 0);
    io_region_init(&h->rcba, "rcba", &rcba_ops, 0);
    r = bridge_init(h, err);
    if (!r)
        r = lpc_init(h, err);
    if (!r)
        r = memory_map_pio(m, &h->address_io, PCI_ADDRESS_PORT, err);
    if (!r)
        r = memory_map_pio(m, &h->data_io, PCI_DATA_PORT, err);
    if (r) {
        pci_host_release(h);
        return r;
    }
    pci_host_reset(&h->dev);
    return 0;
}

void pci_host_release(struct pci_host *h)
{
    struct memory *m = h->bus.memory;

    pci_function_release(&h->bridge);
    pci_function_release(&h->lpc);
    memory_unmap(m, &h->address_io);
    memory_unmap(m, &h->data_io);
    memory_unmap(m, &h->ecam);
    memory_unmap(m, &h->rcba);
}

/* --- what firmware does --- */

struct placer {
    struct pci_host *h;
    u64 mmio, high, io; /* first free address of each window */
};

/* Takes @size bytes from the window [*@next, @end), aligned; ~0 when there is no room. */
static u64 take(u64 *next, u64 end, u64 size)
{
    u64 base = ALIGN_UP(*next, size);

    if (base < *next || base > end || end - base < size)
        return ~0ull;
    *next = base + size;
    return base;
}

static int place_bar(struct placer *p, struct pci_function *f, unsigned index, struct error *err)
{
    const struct pci_windows *w = &p->h->wiring.windows;
    const struct pci_bar *bar = &f->bar[index];
    u64 size = bar->region->size, base;
    unsigned at = REG_BAR0 + 4 * index;

    /* A page of its own for each memory BAR, so that guests can map one without the other. */
    base = bar->io ? take(&p->io, w->io_end, size) : take(&p->mmio, w->mmio_end, MAX(size, PAGE_SIZE));
    if (base == ~0ull && bar->is_64)
        base = take(&p->high, w->high_end, size);
    if (base == ~0ull)
        return error_set(err, ENOSPC, "no address space for %s of PCI device %u.%u", bar->region->name,
                         PCI_SLOT(f->devfn), f->devfn & 7);
    pci_config_write(f->bus, f->devfn, at, (u32)base, 4);
    if (bar->is_64)
        pci_config_write(f->bus, f->devfn, at + 4, base >> 32, 4);
    return 0;
}

/* Large ones first: then alignment wastes nothing. */
static int place_bars(struct placer *p, struct error *err)
{
    struct pci_bus *bus = &p->h->bus;
    int result = 0, order;
    unsigned devfn, n;

    for (order = 63; order >= 0; order--)
        for (devfn = 0; devfn < ARRAY_SIZE(bus->function); devfn++)
            for (n = 0; bus->function[devfn] && n < 6; n++) {
                struct io_region *r = bus->function[devfn]->bar[n].region;

                if (r && r->size == BIT(order) && place_bar(p, bus->function[devfn], n, err))
                    result = -ENOSPC;
            }
    return result;
}

static void enable_function(struct pci_function *f)
{
    u8 pin = f->config[REG_INTERRUPT_PIN];

    if (pin)
        pci_config_write(f->bus, f->devfn, REG_INTERRUPT_LINE,
                         firmware_route[(PCI_SLOT(f->devfn) + pin - 1) & 3], 1);
    pci_config_write(f->bus, f->devfn, REG_COMMAND, get_le16(f->config + REG_COMMAND) | COMMAND_DECODE, 2);
}

int pci_assign_resources(struct pci_host *h, struct error *err)
{
    const struct pci_windows *w = &h->wiring.windows;
    struct placer p = {.h = h, .mmio = w->mmio_base, .high = w->high_base, .io = w->io_base};
    struct pci_bus *bus = &h->bus;
    unsigned n;
    int r;

    pci_config_write(bus, h->bridge.devfn, PCI_BRIDGE_PCIEXBAR + 4, w->ecam_base >> 32, 4);
    pci_config_write(bus, h->bridge.devfn, PCI_BRIDGE_PCIEXBAR, (u32)w->ecam_base | PCIEXBAR_ENABLE, 4);
    for (n = 0; n < 4; n++)
        pci_config_write(bus, h->lpc.devfn, PCI_LPC_PIRQ_ROUTE + n, firmware_route[n], 1);
    /* IRQ 10 and 11 are level-triggered from now on. */
    memory_pio_write(bus->memory, ELCR_HIGH_PORT, 0x0c, 1);
    r = place_bars(&p, err);
    for (n = 0; n < ARRAY_SIZE(bus->function); n++)
        if (bus->function[n])
            enable_function(bus->function[n]);
    return r;
}
