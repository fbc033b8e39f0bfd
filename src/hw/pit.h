/*
 * 8254 programmable interval timer at ports 0x40..0x43, with the PC's port 0x61 (Intel 8254 data
 * sheet 231164; "PC AT Technical Reference", system timers). Channel 0 drives an interrupt line, channel
 * 2 is gated by port 0x61 bit 0 and read back at its bit 5. Counters are computed from the virtual
 * clock when read, so only channel 0 ever arms a timer.
 *
 * A period shorter than PIT_MIN_PERIOD_NS would flood the host: the counter still reads right, but
 * interrupts then come no closer than that, and those in between are merged, as in a chip whose
 * interrupt is not acknowledged in time.
 */
#ifndef TRAPEZE_HW_PIT_H
#define TRAPEZE_HW_PIT_H

#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "memory/memory.h"

#define PIT_HZ 1193182u
#define PIT_PORT 0x40
#define PIT_SPEAKER_PORT 0x61
#define PIT_MIN_PERIOD_NS 20000u

/* One counter. While it counts, its value is a function of the virtual time since start_ns. */
struct pit_channel {
    u64 start_ns;  /* when the count now running was loaded */
    u64 held;      /* ticks counted when the gate went low (modes 0 and 4) */
    u64 switch_ns; /* when `next` takes over */
    u32 count;     /* what it counts from: 1..0x10000 (BCD: 1..10000) */
    u32 next;      /* written while counting in a mode that finishes its cycle first; 0: none */
    u16 latched_count;
    u8 control; /* access, mode and BCD bits as in the control word */
    u8 latched_status;
    u8 write_low;   /* low byte of a 16-bit write */
    bool wrote_low; /* ... was taken */
    bool read_high; /* the next read of a 16-bit access gives the high byte */
    bool loaded;    /* a count was written since the control word */
    bool running;   /* loaded, and triggered where the mode wants a trigger */
    bool gate;
    bool count_latched, status_latched;
};

struct pit {
    struct device dev;
    struct io_region region, speaker_region;
    struct irq_line irq;
    const struct vclock *clock;
    struct timer timer;
    struct memory *memory;

    struct pit_channel channel[3];
    u64 last_rise_ns; /* of the last interrupt */
    u64 due_ns;       /* when the timer fires, ~0: never */
    bool due_rise;    /* ... for an interrupt (else only to change the count) */
    bool level;       /* of the interrupt line, were it not muted */
    bool muted;       /* HPET legacy replacement owns the interrupt */
    u8 speaker;       /* port 0x61 bits 3:0 */
};

int pit_init(struct pit *p, struct memory *m, struct event_loop *loop, const struct vclock *clock,
             struct irq_line irq, struct error *err);
void pit_release(struct pit *p);

/* HPET legacy replacement routing takes the interrupt away from channel 0 (and gives it back). */
void pit_set_muted(struct pit *p, bool muted);

#endif
