/*
 * PCI functions: configuration space, BARs, interrupts. Register offsets are those of PCI 3.0, chapter
 * 6; MSI is 6.8.1, MSI-X 6.8.2.
 *
 * Rules:
 *  1. config[] holds what the guest reads, except the interrupt status bit, which is made on reading.
 *     Writes change it only through writable[] and w1c[].
 *  2. A region is mapped when its BAR is decoded, has a sensible address and nothing lies there. After
 *     any change all BARs of the bus are looked at, because one that moved may have made room.
 */
#include "hw/pci.h"

#include <errno.h>
#include <unistd.h>

#include "base/log.h"

#define REG_VENDOR 0x00
#define REG_DEVICE 0x02
#define REG_COMMAND 0x04
#define REG_STATUS 0x06
#define REG_REVISION 0x08
#define REG_CLASS 0x09
#define REG_HEADER_TYPE 0x0e
#define REG_BAR0 0x10
#define REG_SUBSYS_VENDOR 0x2c
#define REG_SUBSYS 0x2e
#define REG_CAPABILITIES 0x34
#define REG_INTERRUPT_LINE 0x3c
#define REG_INTERRUPT_PIN 0x3d
#define FIRST_CAPABILITY 0x40

#define COMMAND_IO 0x0001
#define COMMAND_MEMORY 0x0002
#define COMMAND_MASTER 0x0004
#define COMMAND_WRITABLE 0x0547 /* I/O, memory, master, parity, SERR#, INTx disable */
#define COMMAND_INTX_DISABLE 0x0400
#define STATUS_INTERRUPT 0x08 /* in the low byte */
#define STATUS_CAPABILITIES 0x0010
#define STATUS_W1C 0xf900
#define HEADER_MULTIFUNCTION 0x80

#define BAR_IO 0x1
#define BAR_64 0x4
#define BAR_PREFETCH 0x8

#define CAP_MSI 0x05
#define CAP_MSIX 0x11
#define MSI_CONTROL 2
#define MSI_ADDRESS 4
#define MSI_DATA 12
#define MSI_MASK 16
#define MSI_PENDING 20
#define MSI_LENGTH 24
#define MSI_CONTROL_ENABLE 0x0001
#define MSI_CONTROL_COUNT 0x0070 /* multiple message enable */
#define MSI_CONTROL_64 0x0080
#define MSI_CONTROL_MASKABLE 0x0100
#define MSIX_CONTROL 2
#define MSIX_TABLE 4
#define MSIX_PBA 8
#define MSIX_LENGTH 12
#define MSIX_CONTROL_MASK 0x4000
#define MSIX_CONTROL_ENABLE 0x8000
#define MSIX_ENTRY_MASK 1u
#define MSIX_ENTRY_SIZE 16
#define MSIX_PBA_OFFSET 0x800
#define MSIX_REGION_SIZE 0x1000

/* --- BARs --- */

static unsigned bar_offset(unsigned index)
{
    return REG_BAR0 + 4 * index;
}

/* Where BAR @index wants its region, or ~0 when it is not decoded or the address is none. */
static u64 bar_wanted(const struct pci_function *f, unsigned index)
{
    const struct pci_bar *bar = &f->bar[index];
    unsigned command = get_le16(f->config + REG_COMMAND), at = bar_offset(index);
    u64 limit = bar->io ? 0xffff : bar->is_64 ? ~0ull : 0xffffffff;
    u64 base;

    if (!(command & (bar->io ? COMMAND_IO : COMMAND_MEMORY)))
        return ~0ull;
    base = bar->is_64 ? get_le64(f->config + at) : get_le32(f->config + at);
    base &= bar->io ? ~3ull : ~15ull;
    /* Zero and all ones are what sizing and resets leave, not addresses. */
    if (!base || base > limit - (bar->region->size - 1) || base + (bar->region->size - 1) == limit)
        return ~0ull;
    return base;
}

static void bar_unmap(struct pci_function *f, struct io_region *r)
{
    if (!r->mapped)
        return;
    trace(pci, "%02x.%x: %s leaves 0x%llx", PCI_SLOT(f->devfn), f->devfn & 7, r->name,
          (unsigned long long)r->base);
    memory_unmap(f->bus->memory, r);
}

static void bar_map(struct pci_function *f, const struct pci_bar *bar, u64 base)
{
    struct error why;
    int failed = bar->io ? memory_map_pio(f->bus->memory, bar->region, (u16)base, &why)
                         : memory_map_mmio(f->bus->memory, bar->region, base, &why);

    trace(pci, "%02x.%x: %s at 0x%llx%s", PCI_SLOT(f->devfn), f->devfn & 7, bar->region->name,
          (unsigned long long)base, failed ? ": taken" : "");
}

static void function_unmap_moved(struct pci_function *f)
{
    unsigned n;

    for (n = 0; n < 6; n++)
        if (f->bar[n].region && f->bar[n].region->mapped && f->bar[n].region->base != bar_wanted(f, n))
            bar_unmap(f, f->bar[n].region);
}

static void function_map(struct pci_function *f)
{
    unsigned n;

    for (n = 0; n < 6; n++) {
        struct pci_bar *bar = &f->bar[n];
        u64 base;

        if (!bar->region || bar->region->mapped)
            continue;
        base = bar_wanted(f, n);
        if (base != ~0ull)
            bar_map(f, bar, base);
    }
}

static void bus_update_mappings(struct pci_bus *bus, struct pci_function *changed)
{
    unsigned n;

    function_unmap_moved(changed);
    for (n = 0; n < ARRAY_SIZE(bus->function); n++)
        if (bus->function[n])
            function_map(bus->function[n]);
}

/* Marks the bits [@lo, @hi] of the 32-bit register at @offset as writable. */
static void allow_write(struct pci_function *f, unsigned offset, u32 mask)
{
    put_le32(f->writable + offset, get_le32(f->writable + offset) | mask);
}

void pci_add_bar(struct pci_function *f, unsigned index, struct io_region *region, bool io, bool is_64,
                 bool prefetch)
{
    unsigned at = bar_offset(index);
    u64 mask = ~(region->size - 1);

    BUG_ON(index > 5 || (is_64 && (io || index > 4)) || f->bar[index].region);
    BUG_ON((region->size & (region->size - 1)) || region->size < (io ? 4 : 16));
    f->bar[index] = (struct pci_bar){.region = region, .io = io, .is_64 = is_64, .prefetch = prefetch};
    put_le32(f->config + at, io ? BAR_IO : (is_64 ? BAR_64 : 0) | (prefetch ? BAR_PREFETCH : 0));
    allow_write(f, at, mask);
    if (is_64)
        allow_write(f, at + 4, mask >> 32);
}

/* --- INTx --- */

static bool intx_status(const struct pci_function *f)
{
    return f->intx_level && f->config[REG_INTERRUPT_PIN];
}

static void intx_update(struct pci_function *f)
{
    struct pci_bus *bus = f->bus;
    unsigned pin = f->config[REG_INTERRUPT_PIN] - 1u, pirq;
    bool level = intx_status(f) && !(get_le16(f->config + REG_COMMAND) & COMMAND_INTX_DISABLE) &&
                 !pci_msi_enabled(f) && !pci_msix_enabled(f);

    if (level == f->intx_driven)
        return;
    f->intx_driven = level;
    pirq = (PCI_SLOT(f->devfn) + pin) & 3;
    /* The wire is open drain: it changes with the first that asserts it and the last that stops. */
    bus->pirq_users[pirq] += level ? 1 : -1;
    if (bus->pirq_users[pirq] == level)
        irq_set(&bus->pirq[pirq], level);
}

void pci_set_intx(struct pci_function *f, bool level)
{
    f->intx_level = level;
    intx_update(f);
}

/* --- MSI --- */

static u8 *msi_registers(const struct pci_function *f)
{
    return (u8 *)f->config + f->msi_cap;
}

bool pci_msi_enabled(const struct pci_function *f)
{
    return f->msi_cap && (get_le16(msi_registers(f) + MSI_CONTROL) & MSI_CONTROL_ENABLE);
}

void pci_add_msi(struct pci_function *f, unsigned count)
{
    u8 cap = pci_add_capability(f, CAP_MSI, MSI_LENGTH);
    unsigned log2 = (unsigned)__builtin_ctz(count);

    BUG_ON(!count || count > 32 || (count & (count - 1)));
    f->msi_cap = cap;
    put_le16(f->config + cap + MSI_CONTROL, MSI_CONTROL_64 | MSI_CONTROL_MASKABLE | log2 << 1);
    put_le16(f->writable + cap + MSI_CONTROL, MSI_CONTROL_ENABLE | MSI_CONTROL_COUNT);
    put_le32(f->writable + cap + MSI_ADDRESS, ~3u);
    put_le32(f->writable + cap + MSI_ADDRESS + 4, ~0u);
    put_le16(f->writable + cap + MSI_DATA, 0xffff);
    put_le32(f->writable + cap + MSI_MASK, (u32)MASK(count));
}

/* Vectors that the guest granted; more than were asked for are not used. */
static unsigned msi_granted(const struct pci_function *f)
{
    unsigned control = get_le16(msi_registers(f) + MSI_CONTROL);

    return 1u << MIN(bits(control, 6, 4), bits(control, 3, 1));
}

static void msi_send_pending(struct pci_function *f)
{
    u8 *r = msi_registers(f);
    unsigned granted = msi_granted(f), n;

    if (!pci_msi_enabled(f) || !pci_bus_master(f))
        return;
    for (n = 0; n < granted; n++) {
        if (!(f->msi_pending & ~get_le32(r + MSI_MASK) & BIT(n)))
            continue;
        f->msi_pending &= ~BIT(n);
        msi_send(&f->bus->msi, get_le64(r + MSI_ADDRESS), (get_le16(r + MSI_DATA) & ~(granted - 1)) | n);
    }
}

void pci_msi_notify(struct pci_function *f, unsigned n)
{
    if (!pci_msi_enabled(f))
        return;
    f->msi_pending |= BIT(n & (msi_granted(f) - 1));
    msi_send_pending(f);
}

/* --- MSI-X --- */

static unsigned msix_control(const struct pci_function *f)
{
    return get_le16(f->config + f->msix_cap + MSIX_CONTROL);
}

bool pci_msix_enabled(const struct pci_function *f)
{
    return f->msix_count && (msix_control(f) & MSIX_CONTROL_ENABLE);
}

static void msix_send(const struct pci_function *f, const struct msi_line *l)
{
    const u64 once = 1;

    if (l->fd < 0 || write(l->fd, &once, sizeof once) != (ssize_t)sizeof once)
        msi_send(&f->bus->msi, l->addr, l->data);
}

static void msix_send_pending(struct pci_function *f)
{
    unsigned n;

    for (n = 0; f->msix_pending && n < f->msix_count; n++) {
        if (!(f->msix_pending & BIT(n)) || !f->msix_line[n].on)
            continue;
        f->msix_pending &= ~BIT(n);
        msix_send(f, &f->msix_line[n]);
    }
}

/* Tells the bus what the guest lets the device send. */
static void msix_update_lines(struct pci_function *f)
{
    bool on = pci_msix_enabled(f) && !(msix_control(f) & MSIX_CONTROL_MASK) && pci_bus_master(f);
    unsigned n;

    for (n = 0; n < f->msix_count; n++) {
        const struct pci_msix_entry *e = &f->msix[n];

        msi_line_set(&f->bus->msi, &f->msix_line[n], on && !(e->control & MSIX_ENTRY_MASK), e->addr & ~3ull,
                     e->data);
    }
}

static void msix_changed(struct pci_function *f)
{
    msix_update_lines(f);
    msix_send_pending(f);
}

void pci_msix_notify(struct pci_function *f, unsigned n)
{
    if (n >= f->msix_count || !pci_msix_enabled(f))
        return;
    f->msix_pending |= BIT(n);
    msix_send_pending(f);
}

/* Byte @at of the table as the guest sees it; NULL past its end. */
static u8 *msix_table_byte(struct pci_function *f, u64 at)
{
    struct pci_msix_entry *e;

    if (at >= f->msix_count * (u64)MSIX_ENTRY_SIZE)
        return NULL;
    e = &f->msix[at / MSIX_ENTRY_SIZE];
    return (u8 *)e + at % MSIX_ENTRY_SIZE;
}

static u64 msix_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pci_function *f = container_of(r, struct pci_function, msix_region);
    u64 value = 0;
    unsigned n;

    for (n = 0; n < size; n++) {
        u64 at = offset + n;
        const u8 *byte = msix_table_byte(f, at);

        if (byte)
            value |= (u64)*byte << 8 * n;
        else if (at - MSIX_PBA_OFFSET < sizeof f->msix_pending)
            value |= bits(f->msix_pending, 8 * (at - MSIX_PBA_OFFSET) + 7, 8 * (at - MSIX_PBA_OFFSET))
                     << 8 * n;
    }
    return value;
}

/* The address's low bits and all of the control word but its mask bit stay 0; the PBA is read-only. */
static void msix_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pci_function *f = container_of(r, struct pci_function, msix_region);
    unsigned n;

    for (n = 0; n < size; n++) {
        u8 *byte = msix_table_byte(f, offset + n);

        if (byte)
            *byte = value >> 8 * n;
    }
    for (n = 0; n < size; n++) {
        u64 at = offset + n;

        if (!msix_table_byte(f, at))
            break;
        f->msix[at / MSIX_ENTRY_SIZE].addr &= ~3ull;
        f->msix[at / MSIX_ENTRY_SIZE].control &= MSIX_ENTRY_MASK;
    }
    msix_changed(f);
}

static const struct io_ops msix_ops = {.read = msix_read, .write = msix_write};

void pci_add_msix(struct pci_function *f, unsigned bar, unsigned count)
{
    u8 cap = pci_add_capability(f, CAP_MSIX, MSIX_LENGTH);
    unsigned n;

    BUG_ON(!count || count > PCI_MSIX_MAX || f->msix_count);
    f->msix_cap = cap;
    f->msix_count = count;
    put_le16(f->config + cap + MSIX_CONTROL, count - 1);
    put_le16(f->writable + cap + MSIX_CONTROL, MSIX_CONTROL_MASK | MSIX_CONTROL_ENABLE);
    put_le32(f->config + cap + MSIX_TABLE, bar);
    put_le32(f->config + cap + MSIX_PBA, MSIX_PBA_OFFSET | bar);
    for (n = 0; n < count; n++) {
        f->msix[n].control = MSIX_ENTRY_MASK;
        msi_line_init(&f->msix_line[n]);
    }
    io_region_init(&f->msix_region, "msix", &msix_ops, MSIX_REGION_SIZE);
    pci_add_bar(f, bar, &f->msix_region, false, false, false);
}

/* --- configuration space --- */

u8 pci_add_capability(struct pci_function *f, u8 id, u8 len)
{
    u8 at = f->cap_next;

    BUG_ON(at + len > PCI_CONFIG_SIZE || len < 2);
    f->config[at] = id;
    f->config[at + 1] = f->config[REG_CAPABILITIES];
    f->config[REG_CAPABILITIES] = at;
    f->config[REG_STATUS] |= STATUS_CAPABILITIES;
    f->cap_next = ALIGN_UP(at + len, 4);
    return at;
}

static struct pci_function *find_register(struct pci_bus *bus, u8 devfn, unsigned offset, unsigned size)
{
    if (offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset || size > 4)
        return NULL;
    return bus->function[devfn];
}

u32 pci_config_read(struct pci_bus *bus, u8 devfn, unsigned offset, unsigned size)
{
    struct pci_function *f = find_register(bus, devfn, offset, size);
    u32 value = 0, own;
    unsigned n;

    if (!f)
        return 0xffffffff;
    if (f->ops && f->ops->config_read && f->ops->config_read(f, offset, size, &own))
        return own;
    for (n = 0; n < size; n++) {
        u8 byte = f->config[offset + n];

        if (offset + n == REG_STATUS && intx_status(f))
            byte |= STATUS_INTERRUPT;
        if (f->msi_cap && offset + n - f->msi_cap - MSI_PENDING < 4)
            byte = f->msi_pending >> 8 * (offset + n - f->msi_cap - MSI_PENDING);
        value |= (u32)byte << 8 * n;
    }
    trace(pci, "%02x.%x: read 0x%02x/%u gives 0x%x", PCI_SLOT(devfn), devfn & 7, offset, size, value);
    return value;
}

static bool overlaps(unsigned offset, unsigned size, unsigned at, unsigned len)
{
    return offset < at + len && at < offset + size;
}

/* Follows what a write to [@offset, @offset + @size) may have changed. */
static void config_changed(struct pci_function *f, unsigned offset, unsigned size)
{
    if (overlaps(offset, size, REG_COMMAND, 2) || overlaps(offset, size, REG_BAR0, 24))
        bus_update_mappings(f->bus, f);
    intx_update(f);
    if (f->msix_count &&
        (overlaps(offset, size, REG_COMMAND, 2) || overlaps(offset, size, f->msix_cap + MSIX_CONTROL, 2)))
        msix_changed(f);
    if (f->msi_cap)
        msi_send_pending(f);
}

void pci_config_write(struct pci_bus *bus, u8 devfn, unsigned offset, u32 value, unsigned size)
{
    struct pci_function *f = find_register(bus, devfn, offset, size);
    unsigned n;

    if (!f)
        return;
    trace(pci, "%02x.%x: write 0x%02x/%u of 0x%x", PCI_SLOT(devfn), devfn & 7, offset, size, value);
    for (n = 0; n < size; n++) {
        unsigned at = offset + n;
        u8 byte = value >> 8 * n, writable = f->writable[at];

        f->config[at] = (f->config[at] & ~writable) | (byte & writable);
        f->config[at] &= ~(byte & f->w1c[at]);
    }
    config_changed(f, offset, size);
    if (f->ops && f->ops->config_written)
        f->ops->config_written(f, offset, size);
}

/* --- life cycle --- */

static void pci_device_reset(struct device *dev)
{
    pci_function_reset(container_of(dev, struct pci_function, dev));
}

/* The config space as the device built it is what every reset goes back to. */
void pci_function_reset(struct pci_function *f)
{
    unsigned n;

    if (!f->built) {
        memcpy(f->initial, f->config, sizeof f->initial);
        f->built = true;
    }
    memcpy(f->config, f->initial, sizeof f->config);
    for (n = 0; n < f->msix_count; n++)
        f->msix[n] = (struct pci_msix_entry){.control = MSIX_ENTRY_MASK};
    f->msix_pending = 0;
    f->msi_pending = 0;
    msix_update_lines(f);
    f->intx_level = false;
    intx_update(f);
    bus_update_mappings(f->bus, f);
}

static void set_ids(struct pci_function *f, const struct pci_id *id)
{
    put_le16(f->config + REG_VENDOR, id->vendor);
    put_le16(f->config + REG_DEVICE, id->device);
    f->config[REG_REVISION] = id->revision;
    f->config[REG_CLASS] = id->class_code;
    put_le16(f->config + REG_CLASS + 1, id->class_code >> 8);
    put_le16(f->config + REG_SUBSYS_VENDOR, id->subsys_vendor);
    put_le16(f->config + REG_SUBSYS, id->subsys);
    put_le16(f->writable + REG_COMMAND, COMMAND_WRITABLE);
    put_le16(f->w1c + REG_STATUS, STATUS_W1C);
    f->writable[REG_INTERRUPT_LINE] = 0xff;
    f->writable[0x0c] = 0xff; /* cache line size and latency timer mean nothing here, but can be set */
    f->writable[0x0d] = 0xf8;
}

/* Function 0 says whether the device at @devfn has others: without that, nobody looks for them. */
static void mark_multifunction(struct pci_bus *bus, u8 devfn)
{
    struct pci_function *first = bus->function[devfn & ~7];
    unsigned n;

    for (n = 1; first && n < 8; n++)
        if (bus->function[(devfn & ~7) + n]) {
            first->config[REG_HEADER_TYPE] |= HEADER_MULTIFUNCTION;
            first->initial[REG_HEADER_TYPE] |= HEADER_MULTIFUNCTION;
        }
}

int pci_function_init(struct pci_function *f, struct pci_bus *bus, u8 devfn, const struct pci_id *id,
                      const struct pci_function_ops *ops, struct error *err)
{
    if (bus->function[devfn])
        return error_set(err, EBUSY, "PCI slot %u.%u is taken", PCI_SLOT(devfn), devfn & 7);
    memset(f, 0, sizeof *f);
    f->bus = bus;
    f->devfn = devfn;
    f->ops = ops;
    f->cap_next = FIRST_CAPABILITY;
    f->dev = (struct device){.name = "pci",
                             .instance = devfn,
                             .state = &pci_function_state,
                             .object = f,
                             .reset = pci_device_reset};
    list_init(&f->dev.link);
    set_ids(f, id);
    bus->function[devfn] = f;
    mark_multifunction(bus, devfn);
    return 0;
}

void pci_function_release(struct pci_function *f)
{
    unsigned n;

    if (!f->bus)
        return;
    f->intx_level = false;
    intx_update(f);
    for (n = 0; n < f->msix_count; n++)
        msi_line_set(&f->bus->msi, &f->msix_line[n], false, 0, 0);
    for (n = 0; n < 6; n++)
        if (f->bar[n].region)
            bar_unmap(f, f->bar[n].region);
    f->bus->function[f->devfn] = NULL;
    f->bus = NULL;
}

void pci_bus_init(struct pci_bus *bus, struct memory *m, struct msi_sink msi)
{
    *bus = (struct pci_bus){.memory = m, .msi = msi};
}

/* --- state --- */

static const struct field msix_fields[] = {
    FIELD(struct pci_msix_entry, addr),
    FIELD(struct pci_msix_entry, data),
    FIELD(struct pci_msix_entry, control),
    FIELD_END,
};
static const struct state_desc msix_state = {.name = "pci-msix", .version = 1, .fields = msix_fields};

static const struct field function_fields[] = {
    FIELD_BYTES(struct pci_function, config), FIELD_STRUCT_ARRAY(struct pci_function, msix, msix_state),
    FIELD(struct pci_function, msix_pending), FIELD(struct pci_function, msi_pending),
    FIELD(struct pci_function, intx_level),   FIELD_END,
};

/* Read-only bits are facts of the device that was built here, whatever the stream says. */
static int function_post_load(void *object, unsigned version, struct error *err)
{
    struct pci_function *f = object;
    unsigned n;

    if (!f->built)
        return error_set(err, EINVAL, "PCI function %s was not reset before its state came", f->dev.name);
    for (n = 0; n < PCI_CONFIG_SIZE; n++) {
        u8 variable = f->writable[n] | f->w1c[n];

        f->config[n] = (f->config[n] & variable) | (f->initial[n] & ~variable);
    }
    for (n = 0; n < PCI_MSIX_MAX; n++) {
        f->msix[n].addr &= ~3ull;
        f->msix[n].control &= MSIX_ENTRY_MASK;
    }
    f->msix_pending &= MASK(f->msix_count);
    bus_update_mappings(f->bus, f);
    intx_update(f);
    msix_update_lines(f);
    return 0;
}

const struct state_desc pci_function_state = {
    .name = "pci-function", .version = 1, .fields = function_fields, .post_load = function_post_load};
