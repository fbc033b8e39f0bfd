/*
 * Two 8259As. Section names are those of the data sheet (Intel 231468).
 *
 * Deliberate simplifications: an edge stays latched when its line falls before the acknowledge (on
 * the chip it turns into a spurious IR7), because sources here pulse their lines; the master's IR2
 * follows the slave's INT as a level, which equals the pulse that the slave gives on each INTA.
 * MCS-80 mode and buffered mode mean nothing on a PC.
 */
#include "hw/pic.h"

#include <errno.h>

#include "base/log.h"

#define ICW1_INIT 0x10
#define ICW1_SINGLE 0x02
#define ICW1_ICW4 0x01
#define ICW4_SFNM 0x10
#define ICW4_AEOI 0x02
#define OCW3_SELECT 0x08

enum { MASTER, SLAVE };
enum { SPURIOUS_IR = 7 };

/* Inputs that can be level-triggered: not the timer, keyboard, cascade, RTC and FPU (ICH9 13.4.7). */
static const u8 elcr_writable[2] = {0xf8, 0xde};

static bool is_level(const struct pic_chip *c, unsigned ir)
{
    return c->elcr >> ir & 1;
}

/* Distance from the highest priority; 8 for an empty set. */
static unsigned top_priority(const struct pic_chip *c, u8 set)
{
    unsigned n;

    for (n = 0; n < 8; n++)
        if (set >> ((c->lowest + 1 + n) & 7) & 1)
            break;
    return n;
}

/* The input to serve now, or -1: unmasked and above everything in service ("Fully Nested Mode"). */
static int pending_ir(const struct pic_chip *c, bool master)
{
    unsigned request = top_priority(c, c->irr & ~c->imr);
    unsigned service = top_priority(c, c->special_mask ? c->isr & ~c->imr : c->isr);
    int ir = (c->lowest + 1 + request) & 7;

    if (request == 8 || request > service)
        return -1;
    /* "Special Fully Nested Mode": a slave in service may interrupt again at its own level. */
    if (request == service && !(master && (c->icw[3] & ICW4_SFNM) && ir == PIC_CASCADE_IRQ))
        return -1;
    return ir;
}

void pic_update(struct pic *p)
{
    struct pic_chip *master = &p->chip[MASTER];
    u8 cascade = 1 << PIC_CASCADE_IRQ;
    bool level;

    if (pending_ir(&p->chip[SLAVE], false) >= 0)
        master->irr |= cascade;
    else
        master->irr &= ~cascade;
    level = pending_ir(master, true) >= 0;
    if (level == p->intr_level)
        return;
    p->intr_level = level;
    irq_set(&p->intr, level);
}

void pic_set_irq(struct pic *p, unsigned irq, bool level)
{
    struct pic_chip *c;
    u8 bit;

    if (irq > 15 || irq == PIC_CASCADE_IRQ)
        return;
    c = &p->chip[irq >> 3];
    bit = 1 << (irq & 7);
    if (level && (is_level(c, irq & 7) || !(c->lines & bit)))
        c->irr |= bit;
    if (!level && is_level(c, irq & 7))
        c->irr &= ~bit;
    c->lines = level ? c->lines | bit : c->lines & ~bit;
    pic_update(p);
}

/* --- acknowledge and end of interrupt --- */

static void chip_acknowledge(struct pic_chip *c, unsigned ir)
{
    if (!is_level(c, ir))
        c->irr &= ~(1 << ir);
    if (!(c->icw[3] & ICW4_AEOI))
        c->isr |= 1 << ir;
    else if (c->rotate_auto_eoi)
        c->lowest = ir;
}

u8 pic_ack(struct pic *p)
{
    struct pic_chip *c = &p->chip[MASTER];
    int ir = pending_ir(c, true);

    if (ir >= 0)
        chip_acknowledge(c, ir);
    if (ir == PIC_CASCADE_IRQ) {
        c = &p->chip[SLAVE];
        ir = pending_ir(c, false);
        if (ir >= 0)
            chip_acknowledge(c, ir);
    }
    if (ir < 0)
        ir = SPURIOUS_IR;
    pic_update(p);
    trace(irq, "8259 %s acknowledges IR%d", c == &p->chip[SLAVE] ? "slave" : "master", ir);
    return (c->icw[1] & 0xf8) | ir;
}

static void chip_eoi(struct pic_chip *c, bool specific, unsigned ir, bool rotate)
{
    if (!specific) {
        u8 candidates = c->special_mask ? c->isr & ~c->imr : c->isr;
        unsigned top = top_priority(c, candidates);

        if (top == 8)
            return;
        ir = (c->lowest + 1 + top) & 7;
    }
    c->isr &= ~(1 << ir);
    if (rotate)
        c->lowest = ir;
}

/* --- command words --- */

/* ICW1 (data sheet, "Initialization Command Words", items a to f). */
static void chip_icw1(struct pic_chip *c, u8 value)
{
    c->icw[0] = value;
    c->irr = c->lines & c->elcr; /* the edge sense circuit is reset */
    c->imr = 0;
    c->isr = 0;
    c->lowest = 7;
    c->special_mask = c->poll = c->read_isr = c->rotate_auto_eoi = 0;
    if (!(value & ICW1_ICW4))
        c->icw[3] = 0;
    c->init_step = 1;
}

static void chip_ocw2(struct pic_chip *c, u8 value)
{
    unsigned ir = value & 7;

    switch (value >> 5) {
    case 0: c->rotate_auto_eoi = 0; break;
    case 1: chip_eoi(c, false, 0, false); break;
    case 2: break; /* no operation */
    case 3: chip_eoi(c, true, ir, false); break;
    case 4: c->rotate_auto_eoi = 1; break;
    case 5: chip_eoi(c, false, 0, true); break;
    case 6: c->lowest = ir; break;
    case 7: chip_eoi(c, true, ir, true); break;
    }
}

static void chip_ocw3(struct pic_chip *c, u8 value)
{
    if (value & 0x40) /* ESMM */
        c->special_mask = value >> 5 & 1;
    c->poll = value >> 2 & 1;
    if (value & 0x02) /* RR */
        c->read_isr = value & 1;
}

static void chip_data_write(struct pic_chip *c, u8 value)
{
    unsigned step = c->init_step;

    if (!step) {
        c->imr = value; /* OCW1 */
        return;
    }
    c->icw[step] = value;
    if (step == 1 && (c->icw[0] & ICW1_SINGLE))
        step++; /* no ICW3 */
    if (step == 2 && !(c->icw[0] & ICW1_ICW4))
        step++; /* no ICW4 */
    c->init_step = step >= 3 ? 0 : step + 1;
}

/* --- ports --- */

static struct pic *region_pic(struct io_region *r, unsigned *which)
{
    struct pic *p;

    *which = 0;
    p = container_of(r, struct pic, io[0]);
    if (r->base != PIC_MASTER_PORT) {
        *which = SLAVE;
        p = container_of(r, struct pic, io[1]);
    }
    return p;
}

static u8 chip_poll(struct pic_chip *c, bool master)
{
    int ir = pending_ir(c, master);

    c->poll = 0;
    if (ir < 0)
        return 0;
    chip_acknowledge(c, ir);
    return 0x80 | ir;
}

static bool lost(const struct pic *p, const struct io_region *r, u64 offset)
{
    u64 port = r->base + offset;
    if (p->elsewhere)
        log_guest("access to port 0x%llx of an 8259, which is in the kernel, is lost",
                  (unsigned long long)port);
    return p->elsewhere;
}

static u64 pic_read(struct io_region *r, u64 offset, unsigned size)
{
    unsigned which;
    struct pic *p = region_pic(r, &which);
    struct pic_chip *c = &p->chip[which];

    if (lost(p, r, offset))
        return 0;
    if (c->poll) {
        u8 value = chip_poll(c, which == MASTER);

        pic_update(p);
        return value;
    }
    if (offset & 1)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static void pic_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    unsigned which;
    struct pic *p = region_pic(r, &which);
    struct pic_chip *c = &p->chip[which];

    if (lost(p, r, offset))
        return;
    if (offset & 1)
        chip_data_write(c, value);
    else if (value & ICW1_INIT)
        chip_icw1(c, value);
    else if (value & OCW3_SELECT)
        chip_ocw3(c, value);
    else
        chip_ocw2(c, value);
    pic_update(p);
}

static u64 elcr_read(struct io_region *r, u64 offset, unsigned size)
{
    struct pic *p = container_of(r, struct pic, elcr_io);

    return lost(p, r, offset) ? 0 : p->chip[offset & 1].elcr;
}

static void elcr_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct pic *p = container_of(r, struct pic, elcr_io);
    struct pic_chip *c = &p->chip[offset & 1];

    if (lost(p, r, offset))
        return;
    c->elcr = value & elcr_writable[offset & 1];
    c->irr = (c->irr & ~c->elcr) | (c->lines & c->elcr);
    pic_update(p);
}

static const struct io_ops pic_ops = {.read = pic_read, .write = pic_write, .min_size = 1, .max_size = 1};
static const struct io_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .min_size = 1, .max_size = 1};

/* --- state and life cycle --- */

static const struct field chip_fields[] = {
    FIELD(struct pic_chip, lines),
    FIELD(struct pic_chip, irr),
    FIELD(struct pic_chip, imr),
    FIELD(struct pic_chip, isr),
    FIELD_ARRAY(struct pic_chip, icw),
    FIELD(struct pic_chip, init_step),
    FIELD(struct pic_chip, read_isr),
    FIELD(struct pic_chip, poll),
    FIELD(struct pic_chip, special_mask),
    FIELD(struct pic_chip, rotate_auto_eoi),
    FIELD(struct pic_chip, lowest),
    FIELD(struct pic_chip, elcr),
    FIELD_END,
};
static const struct state_desc chip_state = {.name = "i8259", .version = 1, .fields = chip_fields};

static const struct field pic_fields[] = {
    FIELD_STRUCT_ARRAY(struct pic, chip, chip_state),
    FIELD_END,
};

static int pic_post_load(void *object, unsigned version, struct error *err)
{
    struct pic *p = object;
    unsigned n;

    for (n = 0; n < 2; n++) {
        struct pic_chip *c = &p->chip[n];

        if (c->lowest > 7 || c->init_step > 3 || (c->elcr & ~elcr_writable[n]))
            return error_set(err, EINVAL, "saved 8259 state is not valid");
    }
    pic_update(p);
    return 0;
}

static const struct state_desc pic_state = {
    .name = "pic", .version = 1, .fields = pic_fields, .post_load = pic_post_load};

/* The chip does not define its state at power-on. Masked, so that nothing happens before ICW1. */
static void pic_reset(struct device *dev)
{
    struct pic *p = container_of(dev, struct pic, dev);
    unsigned n;

    for (n = 0; n < 2; n++)
        p->chip[n] = (struct pic_chip){.lines = p->chip[n].lines, .imr = 0xff, .lowest = 7};
    pic_update(p);
}

int pic_init(struct pic *p, struct memory *m, struct irq_line intr, struct error *err)
{
    static const u16 port[2] = {PIC_MASTER_PORT, PIC_SLAVE_PORT};
    unsigned n;
    int r = 0;

    memset(p, 0, sizeof *p);
    p->memory = m;
    p->intr = intr;
    p->dev = (struct device){.name = "pic", .state = &pic_state, .object = p, .reset = pic_reset};
    list_init(&p->dev.link);
    pic_reset(&p->dev);
    for (n = 0; n < 2; n++)
        io_region_init(&p->io[n], n ? "pic-slave" : "pic-master", &pic_ops, 2);
    io_region_init(&p->elcr_io, "elcr", &elcr_ops, 2);
    for (n = 0; n < 2 && !r; n++)
        r = memory_map_pio(m, &p->io[n], port[n], err);
    if (!r)
        r = memory_map_pio(m, &p->elcr_io, PIC_ELCR_PORT, err);
    if (r)
        pic_release(p);
    return r;
}

void pic_release(struct pic *p)
{
    unsigned n;

    for (n = 0; n < 2; n++)
        if (p->io[n].mapped)
            memory_unmap(p->memory, &p->io[n]);
    if (p->elcr_io.mapped)
        memory_unmap(p->memory, &p->elcr_io);
}
