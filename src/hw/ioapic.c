#include "hw/ioapic.h"

#include <errno.h>

#include "base/log.h"

/* Memory-mapped registers */
#define IOREGSEL 0x00
#define IOWIN 0x10
#define IOEOI 0x40

/* Indirect registers */
#define REG_ID 0x00
#define REG_VERSION 0x01
#define REG_ARBITRATION 0x02
#define REG_REDIR 0x10

#define ID_MASK 0x0f000000u

struct apic_message ioapic_message(const struct ioapic *io, unsigned pin)
{
    u64 e = io->redir[pin];
    struct apic_message m = {
        .dest = e >> IOAPIC_DEST_SHIFT,
        .logical = e & IOAPIC_LOGICAL,
        .level = e & IOAPIC_LEVEL,
        .mode = bits(e, IOAPIC_DELIVERY_SHIFT + 2, IOAPIC_DELIVERY_SHIFT),
        .vector = e & IOAPIC_VECTOR,
    };

    if (m.dest == 0xff)
        m.dest = APIC_BROADCAST;
    return m;
}

static bool ioapic_send(struct ioapic *io, unsigned pin)
{
    struct apic_message m = ioapic_message(io, pin);

    trace(irq, "IOAPIC pin %u sends vector 0x%02x mode %u to %s 0x%x", pin, m.vector, m.mode,
          m.logical ? "logical" : "physical", m.dest);
    return io->send(io->owner, &m);
}

/*
 * A level-triggered pin sends while asserted and not yet answered for (remote IRR). A message that
 * nobody took is tried again at the next change of pin or entry.
 */
static void ioapic_service_level(struct ioapic *io, unsigned pin)
{
    u64 *e = &io->redir[pin];

    if (!(*e & IOAPIC_LEVEL) || (*e & (IOAPIC_MASKED | IOAPIC_REMOTE_IRR)) || !(io->lines >> pin & 1))
        return;
    /* Before sending: an APIC may answer at once. */
    *e |= IOAPIC_REMOTE_IRR;
    if (!ioapic_send(io, pin))
        *e &= ~IOAPIC_REMOTE_IRR;
}

void ioapic_set_pin(struct ioapic *io, unsigned pin, bool asserted)
{
    u32 old = io->lines;

    if (pin >= IOAPIC_PINS)
        return;
    io->lines = asserted ? old | 1u << pin : old & ~(1u << pin);
    if (io->lines == old || !asserted)
        return;
    if (io->redir[pin] & IOAPIC_LEVEL)
        ioapic_service_level(io, pin);
    else if (!(io->redir[pin] & IOAPIC_MASKED))
        ioapic_send(io, pin);
}

void ioapic_eoi(struct ioapic *io, u8 vector)
{
    u32 ended = 0;
    unsigned pin;

    for (pin = 0; pin < IOAPIC_PINS; pin++) {
        u64 *e = &io->redir[pin];

        if ((*e & IOAPIC_VECTOR) != vector || !(*e & IOAPIC_REMOTE_IRR))
            continue;
        *e &= ~IOAPIC_REMOTE_IRR;
        ended |= 1u << pin;
    }
    for (pin = 0; pin < IOAPIC_PINS; pin++)
        if (ended >> pin & 1)
            ioapic_service_level(io, pin);
}

void ioapic_service(struct ioapic *io)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic_service_level(io, pin);
}

/* --- registers --- */

static void redir_write(struct ioapic *io, unsigned index, u32 value)
{
    unsigned pin = index >> 1, shift = index & 1 ? 32 : 0;
    u64 *e = &io->redir[pin];
    u64 mask = IOAPIC_WRITABLE & 0xffffffffull << shift;

    *e = (*e & ~mask) | ((u64)value << shift & mask);
    if (!(*e & IOAPIC_LEVEL))
        *e &= ~IOAPIC_REMOTE_IRR;
    trace(irq, "IOAPIC pin %u entry 0x%016llx", pin, (unsigned long long)*e);
    if (io->entry_written)
        io->entry_written(io->owner, pin);
    ioapic_service_level(io, pin);
}

static u32 indirect_read(const struct ioapic *io)
{
    unsigned index = io->select - REG_REDIR;

    switch (io->select) {
    case REG_ID:
    case REG_ARBITRATION: return io->id;
    case REG_VERSION: return (IOAPIC_PINS - 1) << 16 | io->version;
    }
    if (index < 2 * IOAPIC_PINS)
        return io->redir[index >> 1] >> (index & 1 ? 32 : 0);
    return 0xffffffff;
}

static void indirect_write(struct ioapic *io, u32 value)
{
    unsigned index = io->select - REG_REDIR;

    if (io->select == REG_ID)
        io->id = value & ID_MASK;
    else if (index < 2 * IOAPIC_PINS)
        redir_write(io, index, value);
}

static bool lost(const struct ioapic *io, u64 offset)
{
    if (io->elsewhere)
        log_guest("access to I/O APIC register 0x%llx, which is in the kernel, is lost",
                  (unsigned long long)offset);
    return io->elsewhere;
}

static u64 ioapic_read(struct io_region *r, u64 offset, unsigned size)
{
    struct ioapic *io = container_of(r, struct ioapic, region);

    if (lost(io, offset))
        return 0;
    switch (offset) {
    case IOREGSEL: return io->select;
    case IOWIN: return indirect_read(io);
    }
    return 0;
}

static void ioapic_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct ioapic *io = container_of(r, struct ioapic, region);

    if (lost(io, offset))
        return;
    switch (offset) {
    case IOREGSEL: io->select = value; break;
    case IOWIN: indirect_write(io, value); break;
    case IOEOI:
        if (io->version >= IOAPIC_VERSION)
            ioapic_eoi(io, value);
        break;
    }
}

/* Registers are accessed as aligned 32-bit words (82093AA, 3.1); a narrower access sees the low bytes. */
static const struct io_ops ioapic_ops = {
    .read = ioapic_read, .write = ioapic_write, .min_size = 1, .max_size = 4};

/* --- state and life cycle --- */

static const struct field ioapic_fields[] = {
    FIELD(struct ioapic, select),
    FIELD(struct ioapic, id),
    FIELD(struct ioapic, lines),
    FIELD_ARRAY(struct ioapic, redir),
    FIELD_END,
};

static int ioapic_post_load(void *object, unsigned version, struct error *err)
{
    struct ioapic *io = object;
    unsigned pin;

    io->id &= ID_MASK;
    io->lines &= MASK(IOAPIC_PINS);
    for (pin = 0; pin < IOAPIC_PINS; pin++) {
        io->redir[pin] &= IOAPIC_WRITABLE | IOAPIC_REMOTE_IRR;
        if (!(io->redir[pin] & IOAPIC_LEVEL))
            io->redir[pin] &= ~IOAPIC_REMOTE_IRR;
    }
    return 0;
}

static const struct state_desc ioapic_state = {
    .name = "ioapic", .version = 1, .fields = ioapic_fields, .post_load = ioapic_post_load};

static void ioapic_reset(struct device *dev)
{
    struct ioapic *io = container_of(dev, struct ioapic, dev);
    unsigned pin;

    io->select = 0;
    io->id = 0;
    for (pin = 0; pin < IOAPIC_PINS; pin++)
        io->redir[pin] = IOAPIC_MASKED;
}

int ioapic_init(struct ioapic *io, struct memory *m, ioapic_send_fn *send, void *owner, struct error *err)
{
    memset(io, 0, sizeof *io);
    io->memory = m;
    io->send = send;
    io->owner = owner;
    io->version = IOAPIC_VERSION;
    io->dev = (struct device){.name = "ioapic", .state = &ioapic_state, .object = io, .reset = ioapic_reset};
    list_init(&io->dev.link);
    ioapic_reset(&io->dev);
    io_region_init(&io->region, "ioapic", &ioapic_ops, IOAPIC_SIZE);
    return memory_map_mmio(m, &io->region, IOAPIC_BASE, err);
}

void ioapic_release(struct ioapic *io)
{
    if (io->region.mapped)
        memory_unmap(io->memory, &io->region);
}
