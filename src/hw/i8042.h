/*
 * 8042 keyboard and mouse controller at ports 0x60 and 0x64, with a PS/2 keyboard (set 2, translated
 * to set 1 when the command byte says so) and a PS/2 mouse that answer every command a driver uses to
 * find and set them up. Nobody types on them unless i8042_key() is called. (IBM PS/2 Hardware
 * Interface Technical Reference: keyboard and auxiliary device controller; keyboard; mouse.)
 *
 * Commands 0xf0..0xff with bit 0 clear pulse the reset line, which resets the machine. A20 is always on; the
 * output port only remembers its bit.
 */
#ifndef TRAPEZE_HW_I8042_H
#define TRAPEZE_HW_I8042_H

#include "hw/device.h"
#include "hw/irq.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"

#define PS2_QUEUE 16

/* Bytes on their way to the output buffer. */
struct ps2_queue {
    u8 data[PS2_QUEUE];
    u8 head, count;
};

struct ps2_keyboard {
    struct ps2_queue queue;
    u8 pending; /* command that waits for its parameter, 0: none */
    u8 leds, rate, set, last;
    bool scanning;
};

struct ps2_mouse {
    struct ps2_queue queue;
    u8 pending;
    u8 resolution, rate, last;
    bool reporting, remote, wrap, scale_2_1;
};

struct i8042 {
    struct device dev;
    struct io_region data_region, command_region;
    struct irq_line keyboard_irq, mouse_irq;
    struct lifecycle *lifecycle;
    struct memory *memory;

    u8 ram[32];      /* byte 0 is the command byte */
    u8 pending;      /* controller command that waits for its data byte, 0: none */
    u8 output_port;  /* bit 0 reset (1: not in reset), bit 1 A20 */
    u8 data;         /* output buffer */
    bool full;       /* it holds a byte not yet read */
    bool from_mouse; /* ... of the auxiliary device */
    bool last_was_command;
    bool key_release;             /* translation: the break prefix 0xf0 was seen */
    struct ps2_queue replies;     /* answers of the controller itself */
    struct ps2_queue aux_replies; /* the same, as if they came from the mouse */
    struct ps2_keyboard keyboard;
    struct ps2_mouse mouse;
};

int i8042_init(struct i8042 *k, struct memory *m, struct irq_line keyboard_irq, struct irq_line mouse_irq,
               struct lifecycle *lifecycle, struct error *err);
void i8042_release(struct i8042 *k);

/* A byte from the keyboard in scan code set 2; false when its buffer is full. */
bool i8042_key(struct i8042 *k, u8 scancode);

#endif
