/*
 * The two cascaded 8259A interrupt controllers of a PC (Intel 8259A data sheet 231468) with the
 * edge/level control registers that chipsets added at 0x4d0 and 0x4d1 (ICH9 data sheet, 13.4).
 *
 * INTR is a level on an irq_line: high while an unmasked request of sufficient priority waits. The
 * processor answers it with pic_ack(). Machine lock held for everything.
 */
#ifndef TRAPEZE_HW_PIC_H
#define TRAPEZE_HW_PIC_H

#include "hw/device.h"
#include "hw/irq.h"
#include "memory/memory.h"

#define PIC_MASTER_PORT 0x20
#define PIC_SLAVE_PORT 0xa0
#define PIC_ELCR_PORT 0x4d0
#define PIC_CASCADE_IRQ 2

struct pic_chip {
    u8 lines;     /* level at the pins IR0..IR7 */
    u8 irr;       /* requests: latched edges; for level inputs what the pin shows */
    u8 imr, isr;  /* masked; in service */
    u8 icw[4];    /* initialisation command words as written: ICW1 is icw[0] */
    u8 init_step; /* index of the next ICW expected, 1..3; 0: initialised */
    u8 read_isr;  /* OCW3: port 0 reads the ISR, not the IRR */
    u8 poll;      /* OCW3: the next read is a poll */
    u8 special_mask, rotate_auto_eoi;
    u8 lowest; /* input with the lowest priority: 7 until rotated */
    u8 elcr;   /* 1: level-triggered */
};

struct pic {
    struct device dev;
    struct memory *memory;
    struct pic_chip chip[2]; /* master, slave */
    struct io_region io[2], elcr_io;
    struct irq_line intr;
    u8 intr_level;
    bool elsewhere; /* a kernel has them: accesses here are lost, and logged. Set by the owner */
};

/* Maps the six ports. @intr goes to the processors' LINT0. */
int pic_init(struct pic *p, struct memory *m, struct irq_line intr, struct error *err);
void pic_release(struct pic *p);

/* Level of ISA interrupt @irq, 0..15; 2 is the cascade and is ignored. */
void pic_set_irq(struct pic *p, unsigned irq, bool level);

/* The interrupt acknowledge cycle: the vector. Without a request it is spurious: IR7 (8259A, p. 18). */
u8 pic_ack(struct pic *p);

/* Registers were written from outside: looks anew at what they ask for. */
void pic_update(struct pic *p);

static inline bool pic_pending(const struct pic *p)
{
    return p->intr_level;
}

/* To and from a kernel's: see cpu/irqchip.h. The levels of the lines are not taken from it. */
struct chips_image;
void pic_get_image(const struct pic *p, struct chips_image *image);
void pic_put_image(struct pic *p, const struct chips_image *image);

#endif
