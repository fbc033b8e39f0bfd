/*
 * Any sequence of accesses of a guest to PCI: configuration mechanism 1, ECAM wherever the guest put
 * it, BARs, MSI-X tables; with the devices raising interrupts in between. After each step the bus's
 * own books are checked: who is mapped where, and how many hold each interrupt wire.
 */
#include "hw/pci-host.h"
#include "hw/pic.h"
#include "state/codec.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define FUNCTIONS 3

struct guest_device {
    struct pci_function f;
    struct io_region mem, io, wide;
};

struct world {
    struct memory memory;
    struct pci_host host;
    struct pic pic;
    struct guest_device device[FUNCTIONS];
    unsigned messages;
};

/* One step as the input encodes it. */
struct step {
    u8 what, device;
    u16 place;
    u32 high;
    u64 value;
    u8 size;
} PACKED;

static u64 device_read(struct io_region *r, u64 offset, unsigned size)
{
    BUG_ON(offset >= r->size || size > r->size - offset);
    return offset;
}

static void device_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    BUG_ON(offset >= r->size || size > r->size - offset);
}

static const struct io_ops device_ops = {.read = device_read, .write = device_write};

static void message(void *owner, u64 addr, u32 data)
{
    ((struct world *)owner)->messages++;
}

static void pic_line(void *owner, unsigned line, bool level)
{
    pic_set_irq(owner, line, level);
}

static void device_init(struct world *w, unsigned n)
{
    static const u8 devfn[FUNCTIONS] = {PCI_DEVFN(1, 0), PCI_DEVFN(1, 3), PCI_DEVFN(31, 7)};
    static const struct pci_id id = {.vendor = 0x1af4, .device = 0x1041, .class_code = 0x020000};
    struct guest_device *d = &w->device[n];

    BUG_ON(pci_function_init(&d->f, &w->host.bus, devfn[n], &id, NULL, NULL));
    io_region_init(&d->io, "io", &device_ops, 4u << n);
    io_region_init(&d->mem, "mem", &device_ops, 16u << 4 * n);
    io_region_init(&d->wide, "wide", &device_ops, 4096ull << 10 * n);
    pci_add_bar(&d->f, 0, &d->io, true, false, false);
    pci_add_bar(&d->f, 1, &d->mem, false, false, false);
    pci_add_bar(&d->f, 2, &d->wide, false, true, true);
    pci_add_msix(&d->f, 4, n ? PCI_MSIX_MAX : 3);
    if (n != 1)
        pci_add_msi(&d->f, 1u << n);
    d->f.config[0x3d] = n + 1;
    d->f.dev.reset(&d->f.dev);
}

static void world_init(struct world *w)
{
    struct pci_host_wiring wiring = {
        .windows = {.mmio_base = 0xc0000000,
                    .mmio_end = 0xe0000000,
                    .high_base = 0x2000000000,
                    .high_end = 0x3000000000,
                    .io_base = 0x1000,
                    .io_end = 0x10000,
                    .ecam_base = 0xe0000000},
        .msi = {.send = message, .owner = w},
        .pm_base = 0x600,
    };
    unsigned n;

    memset(w, 0, sizeof *w);
    BUG_ON(memory_init(&w->memory, 2 << 20, NULL));
    BUG_ON(pic_init(&w->pic, &w->memory, (struct irq_line){0}, NULL));
    for (n = 0; n < 16; n++)
        wiring.isa_irq[n] = (struct irq_line){.set = pic_line, .owner = &w->pic, .line = n};
    BUG_ON(pci_host_init(&w->host, &w->memory, &wiring, NULL));
    for (n = 0; n < FUNCTIONS; n++)
        device_init(w, n);
}

static void world_release(struct world *w)
{
    unsigned n;

    for (n = 0; n < FUNCTIONS; n++)
        pci_function_release(&w->device[n].f);
    for (n = 0; n < 4; n++)
        BUG_ON(w->host.bus.pirq_users[n]);
    pci_host_release(&w->host);
    pic_release(&w->pic);
    BUG_ON(!list_empty(&w->memory.mmio) || !list_empty(&w->memory.pio));
    memory_release(&w->memory);
}

/* Configuration address of a step: mostly functions that exist. */
static u8 step_devfn(const struct world *w, const struct step *s)
{
    if (s->device < FUNCTIONS)
        return w->device[s->device].f.devfn;
    return s->device == 0x80 ? 0 : s->device == 0x81 ? PCI_LPC_DEVFN : s->device;
}

static void mechanism_1(struct world *w, const struct step *s)
{
    memory_pio_write(&w->memory, 0xcf8, 0x80000000u | step_devfn(w, s) << 8 | (s->place & 0xff), 4);
    if (s->what & 0x80)
        memory_pio_write(&w->memory, 0xcfc + (s->place >> 8 & 3), s->value, s->size);
    else
        memory_pio_read(&w->memory, 0xcfc + (s->place >> 8 & 3), s->size);
}

static void mmio(struct world *w, const struct step *s, u64 gpa)
{
    if (s->what & 0x80)
        memory_mmio_write(&w->memory, gpa, s->value, s->size);
    else
        memory_mmio_read(&w->memory, gpa, s->size);
}

static void raw_ports(struct world *w, const struct step *s)
{
    if (s->what & 0x80)
        memory_pio_write(&w->memory, s->place, s->value, s->size);
    else
        memory_pio_read(&w->memory, s->place, s->size);
}

static void reload(struct world *w, struct pci_function *f, const struct step *s)
{
    struct state_buf b = {0};

    if (state_save(&b, f->dev.state, 0, f, NULL) == 0) {
        /* A byte of the stream may be anything. */
        b.data[(s->place | s->high << 16) % b.len] ^= s->value;
        if (state_load(&b, f->dev.state, 0, f, NULL) != 0)
            pci_function_reset(f);
    }
    state_buf_release(&b);
}

static void run_step(struct world *w, const struct step *s)
{
    struct pci_function *f = &w->device[s->device % FUNCTIONS].f;

    switch (s->what & 0x0f) {
    case 0:
    case 1: mechanism_1(w, s); break;
    case 2: mmio(w, s, w->host.ecam.base + ((u64)step_devfn(w, s) << 12) + (s->place & 0xfff)); break;
    case 3: mmio(w, s, w->host.ecam.base + s->place + s->high); break;
    case 4: mmio(w, s, f->msix_region.base + (s->place & 0x3ff)); break;
    case 5: mmio(w, s, f->msix_region.base + s->place); break;
    case 6: mmio(w, s, (u64)s->high << 16 | s->place); break;
    case 7: raw_ports(w, s); break;
    case 8: pci_msix_notify(f, s->place); break;
    case 9: pci_msi_notify(f, s->place); break;
    case 10: pci_set_intx(f, s->value & 1); break;
    case 11: pci_function_reset(f); break;
    case 12: w->host.dev.reset(&w->host.dev); break;
    case 13: pci_assign_resources(&w->host, NULL); break;
    case 14: reload(w, f, s); break;
    default:
        /* The BARs of one function, which random offsets seldom hit. */
        pci_config_write(&w->host.bus, f->devfn, 0x10 + (s->place & 0x1f), (u32)s->value, s->size & 7);
    }
}

static void check_books(const struct world *w)
{
    const struct pci_bus *bus = &w->host.bus;
    unsigned users[4] = {0}, n;

    for (n = 0; n < FUNCTIONS; n++) {
        const struct pci_function *f = &w->device[n].f;
        unsigned command = f->config[4];

        users[((f->devfn >> 3) + f->config[0x3d] - 1) & 3] += f->intx_driven;
        BUG_ON(w->device[n].io.mapped && !(command & 1));
        BUG_ON(w->device[n].mem.mapped && !(command & 2));
        BUG_ON(w->device[n].mem.mapped && memory_ram(&w->memory, w->device[n].mem.base));
        BUG_ON(f->msix_pending & ~MASK(f->msix_count));
    }
    for (n = 0; n < 4; n++)
        BUG_ON(users[n] != bus->pirq_users[n] || (w->host.pirq_level >> n & 1) != !!users[n]);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const u8 sizes[] = {1, 2, 4, 8};
    struct world *w = malloc(sizeof *w);
    struct step s;

    if (!w)
        return 0;
    world_init(w);
    for (; size >= sizeof s; data += sizeof s, size -= sizeof s) {
        memcpy(&s, data, sizeof s);
        s.size = sizes[s.size & 3];
        run_step(w, &s);
        check_books(w);
    }
    world_release(w);
    free(w);
    return 0;
}
