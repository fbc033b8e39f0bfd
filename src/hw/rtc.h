/*
 * MC146818 real-time clock and CMOS memory at ports 0x70/0x71, with a second bank of 128 bytes at
 * 0x72/0x73 (Motorola MC146818A data sheet; Intel ICH9 13.6 for the extended bank). The time is UTC. It
 * starts as the host's wall time and from then on follows the virtual clock, like all else that
 * counts time in the guest.
 *
 * Bit 7 of port 0x70 (NMI mask) is kept but masks nothing.
 */
#ifndef TRAPEZE_HW_RTC_H
#define TRAPEZE_HW_RTC_H

#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "memory/memory.h"

#define RTC_PORT 0x70
#define RTC_CMOS_SIZE 256
#define RTC_CENTURY 0x32 /* CMOS byte with the century: the FADT's CENTURY */

struct rtc {
    struct device dev;
    struct io_region region;
    struct irq_line irq;
    const struct vclock *clock;
    struct timer timer; /* the next event whose interrupt is enabled and not yet raised */
    struct memory *memory;

    u8 index, ext_index;
    u8 cmos[RTC_CMOS_SIZE]; /* 0..0x0d are the clock's registers; while it runs the time in them is old */
    i64 base_s, base_ns;    /* seconds since 1970 at virtual time base_ns, while the clock runs */
    u64 divider_ns;         /* virtual time at which the periodic divider was started */
    u64 flags_ns;           /* events up to here are in register C */
    bool guest_set;         /* the guest set the time: reset keeps it */
    bool muted;
};

int rtc_init(struct rtc *r, struct memory *m, struct event_loop *loop, const struct vclock *clock,
             struct irq_line irq, struct error *err);
void rtc_release(struct rtc *r);

/* The time now, in ns since 1970 UTC; reset no longer takes it from the host afterwards. */
void rtc_set_time(struct rtc *r, u64 ns);

/* CMOS byte @index (0x0e..0xff), for boards: boot order and the like. Kept over reset. */
void rtc_set_cmos(struct rtc *r, u8 index, u8 value);

/* The memory-size bytes that firmware and old systems read: RAM below and above 4 GiB. */
void rtc_set_memory_size(struct rtc *r, u64 below_4g, u64 above_4g);

/* HPET legacy replacement routing takes the interrupt away (and gives it back). */
void rtc_set_muted(struct rtc *r, bool muted);

#endif
