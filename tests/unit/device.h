/*
 * What tests of one device need around it: memory with its I/O maps, an event loop, a clock that the
 * test moves, and probes at the other end of interrupt lines and of the life cycle.
 */
#ifndef TRAPEZE_TESTS_UNIT_DEVICE_H
#define TRAPEZE_TESTS_UNIT_DEVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"
#include "state/codec.h"

#define PROBES 32
#define US 1000ull
#define MS 1000000ull

struct bench {
    struct memory memory;
    struct event_loop *loop;
    struct vclock clock;
    bool level[PROBES];
    unsigned rises[PROBES]; /* changes from low to high */
    struct lifecycle lifecycle;
    unsigned requests;
    enum lifecycle_event event;
    int code;
};

static inline void bench_irq(void *owner, unsigned line, bool level)
{
    struct bench *b = owner;

    assert_in_range(line, 0, PROBES - 1);
    b->rises[line] += level && !b->level[line];
    b->level[line] = level;
}

static inline void bench_request(struct lifecycle *l, enum lifecycle_event event, int code)
{
    struct bench *b = container_of(l, struct bench, lifecycle);

    b->requests++;
    b->event = event;
    b->code = code;
}

static inline struct irq_line bench_line(struct bench *b, unsigned line)
{
    return (struct irq_line){.set = bench_irq, .owner = b, .line = line};
}

static inline void bench_init(struct bench *b)
{
    memset(b, 0, sizeof *b);
    assert_int_equal(memory_init(&b->memory, 1 << 20, NULL), 0);
    b->loop = event_loop_new(NULL);
    assert_non_null(b->loop);
    vclock_init_manual(&b->clock);
    b->lifecycle.request = bench_request;
}

static inline void bench_release(struct bench *b)
{
    event_loop_free(b->loop);
    memory_release(&b->memory);
}

/* Moves virtual time to @ns in one step; what is due by then is served late, as on a busy host. */
static inline void bench_jump(struct bench *b, u64 ns)
{
    vclock_set_ns(&b->clock, ns);
    event_loop_clock_changed(b->loop);
    for (int i = 0; i < 4; i++)
        event_loop_poll(b->loop, 0);
}

/* Moves virtual time on by @ns in steps of @step, so that timers fire at most that late. */
static inline void bench_run(struct bench *b, u64 ns, u64 step)
{
    u64 now = vclock_ns(&b->clock), end = now + ns;

    while (now < end) {
        now = MIN(now + step, end);
        bench_jump(b, now);
    }
}

static inline u8 in8(struct bench *b, u16 port)
{
    return memory_pio_read(&b->memory, port, 1);
}
static inline u16 in16(struct bench *b, u16 port)
{
    return memory_pio_read(&b->memory, port, 2);
}
static inline u32 in32(struct bench *b, u16 port)
{
    return memory_pio_read(&b->memory, port, 4);
}
static inline void out8(struct bench *b, u16 port, u8 v)
{
    memory_pio_write(&b->memory, port, v, 1);
}
static inline void out16(struct bench *b, u16 port, u16 v)
{
    memory_pio_write(&b->memory, port, v, 2);
}
static inline void out32(struct bench *b, u16 port, u32 v)
{
    memory_pio_write(&b->memory, port, v, 4);
}

/* Saves the device, resets it, loads it again. */
static inline void bench_round_trip(const struct device *dev)
{
    struct state_buf buf = {0};
    struct error err = {0};

    assert_int_equal(state_save(&buf, dev->state, 0, dev->object, &err), 0);
    ((struct device *)dev)->reset((struct device *)dev);
    if (state_load(&buf, dev->state, 0, dev->object, &err))
        fail_msg("%s", err.text);
    state_buf_release(&buf);
}

#endif
