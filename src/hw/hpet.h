/*
 * High precision event timers at 0xfed00000 (IA-PC HPET specification 1.0a): a 64-bit counter of
 * 100 MHz, three comparators of which all can be periodic, legacy replacement routing, edge and level
 * interrupts. No FSB (MSI) delivery.
 *
 * A comparator whose period is shorter than HPET_MIN_PERIOD_NS interrupts no oftener than that; the
 * interrupts between are merged. The counter and the comparators read as if none had been lost.
 */
#ifndef TRAPEZE_HW_HPET_H
#define TRAPEZE_HW_HPET_H

#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "hw/pit.h"
#include "hw/rtc.h"
#include "memory/memory.h"

#define HPET_BASE 0xfed00000ull
#define HPET_SIZE 0x400u
#define HPET_TIMERS 3
#define HPET_PERIOD_FS 10000000u /* of one tick: 10 ns */
#define HPET_PERIOD_NS 10u
#define HPET_MIN_PERIOD_NS 20000u
/* General capabilities register, low half: also the ACPI HPET table's event timer block id. */
#define HPET_ID \
    (0x80860000u | 1u << 15 /* legacy routing */ | 1u << 13 /* 64 bits */ | (HPET_TIMERS - 1) << 8 | 1u)
/* I/O APIC inputs that a comparator may be routed to. */
#define HPET_ROUTES 0x00f00000u

struct hpet;

struct hpet_timer {
    struct hpet *hpet;
    struct timer timer;
    u64 config;         /* writable bits of the configuration register */
    u64 comparator;     /* as the guest reads it at `checked` */
    u64 period;         /* what was last written to the accumulator of a periodic comparator */
    u64 checked;        /* the counter up to which matches have been seen */
    u64 quiet_until_ns; /* no further interrupt before this virtual time */
    bool owed;          /* ... when one is due */
};

struct hpet {
    struct device dev;
    struct io_region region;
    struct irq_line gsi; /* input 0; input N is the same with line + N */
    const struct vclock *clock;
    struct memory *memory;
    struct pit *pit; /* muted while legacy routing is on; may be NULL */
    struct rtc *rtc;

    u64 config, status;
    u64 counter;  /* while halted; while running: its value at start_ns */
    u64 start_ns; /* virtual time at which the counter was started */
    struct hpet_timer timer[HPET_TIMERS];
};

/*
 * @gsi: the line of global system interrupt 0. With legacy routing, comparators 0 and 1 drive GSI 0
 * and 8 as ISA interrupts 0 and 8, and @pit and @rtc are muted.
 */
int hpet_init(struct hpet *h, struct memory *m, struct event_loop *loop, const struct vclock *clock,
              struct irq_line gsi, struct pit *pit, struct rtc *rtc, struct error *err);
void hpet_release(struct hpet *h);

#endif
