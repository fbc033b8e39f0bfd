/*
 * The 8259s and the I/O APIC as a kernel takes and gives them. What it calls irr of a level-triggered pin is
 * the level of the line. Lines belong to the devices: they are told of each change wherever the chips are, so
 * their levels here are always true and never come back from a kernel.
 */
#include "cpu/irqchip.h"
#include "hw/ioapic.h"
#include "hw/pic.h"

#define ICW1_ICW4 BIT(0)
#define ICW2_BASE 0xf8
#define ICW4_AUTO_EOI BIT(1)
#define ICW4_NESTED_SPECIALLY BIT(4)

_Static_assert(IOAPIC_PINS == IRQCHIP_PINS, "a pin is a pin");

static u8 set_bits(u8 old, u8 mask, bool on)
{
    return on ? old | mask : old & ~mask;
}

void pic_get_image(const struct pic *p, struct chips_image *image)
{
    for (unsigned n = 0; n < 2; n++) {
        const struct pic_chip *c = &p->chip[n];

        image->pic[n] = (struct pic_image){
            .lines = c->lines,
            .irr = c->irr,
            .imr = c->imr,
            .isr = c->isr,
            .base = c->icw[1] & ICW2_BASE,
            .highest = (c->lowest + 1) & 7,
            .init_step = c->init_step,
            .icw4 = c->icw[0] & ICW1_ICW4,
            .read_isr = c->read_isr,
            .poll = c->poll,
            .special_mask = c->special_mask,
            .auto_eoi = c->icw[3] & ICW4_AUTO_EOI,
            .rotate_auto_eoi = c->rotate_auto_eoi,
            .nested_specially = c->icw[3] & ICW4_NESTED_SPECIALLY,
            .elcr = c->elcr,
        };
    }
}

/* Bits of the ICWs that a kernel does not keep mean nothing here either, and stay. */
static void put_pic(struct pic_chip *c, const struct pic_image *image)
{
    c->imr = image->imr;
    c->isr = image->isr;
    c->elcr = image->elcr;
    c->irr = (image->irr & ~c->elcr) | (c->lines & c->elcr);
    c->icw[0] = set_bits(c->icw[0], ICW1_ICW4, image->icw4);
    c->icw[1] = (image->base & ICW2_BASE) | (c->icw[1] & ~ICW2_BASE);
    c->icw[3] = set_bits(c->icw[3], ICW4_AUTO_EOI, image->auto_eoi);
    c->icw[3] = set_bits(c->icw[3], ICW4_NESTED_SPECIALLY, image->nested_specially);
    c->lowest = (image->highest - 1) & 7;
    c->init_step = image->init_step & 3;
    c->read_isr = image->read_isr;
    c->poll = image->poll;
    c->special_mask = image->special_mask;
    c->rotate_auto_eoi = image->rotate_auto_eoi;
}

void pic_put_image(struct pic *p, const struct chips_image *image)
{
    put_pic(&p->chip[0], &image->pic[0]);
    put_pic(&p->chip[1], &image->pic[1]);
    pic_update(p);
}

void ioapic_get_image(const struct ioapic *io, struct chips_image *image)
{
    image->select = io->select;
    image->id = (u8)bits(io->id, 27, 24);
    image->asserted = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        image->redir[pin] = io->redir[pin];
        if (io->redir[pin] & IOAPIC_LEVEL)
            image->asserted |= io->lines & 1u << pin;
    }
}

/* The levels of lines are sent again where an interrupt has not been answered for: ioapic_service(). */
void ioapic_put_image(struct ioapic *io, const struct chips_image *image)
{
    io->select = image->select;
    io->id = (u32)(image->id & 0xf) << 24;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        u64 e = image->redir[pin] & (IOAPIC_WRITABLE | IOAPIC_REMOTE_IRR);

        io->redir[pin] = e & IOAPIC_LEVEL ? e : e & ~IOAPIC_REMOTE_IRR;
    }
}
