/*
 * A limit of bytes a second each way. Nothing is stored: a frame that has to wait stays with its sender, who
 * is asked for it when the time has come.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/net/filter.h"

/* A tenth of a second's bytes may pass at once after a quiet time, and one frame always. */
#define BURST_PART 10

struct bucket {
    i64 tokens; /* bytes; below 0 after a frame larger than what was there */
    bool waits; /* somebody was refused */
};

struct throttle {
    struct net_filter filter;
    const struct vclock *clock;
    u64 bps, filled_at;
    struct bucket out, in;
    struct timer timer;
};

static struct throttle *from_filter(struct net_filter *f)
{
    return container_of(f, struct throttle, filter);
}

static u64 now_ns(const struct throttle *t)
{
    return t->clock ? vclock_ns(t->clock) : clock_host_ns();
}

static i64 burst(const struct throttle *t)
{
    return (i64)MAX(t->bps / BURST_PART, (u64)1);
}

/* Time is taken in whole bytes, so that nothing is lost in rounding. */
static void refill(struct throttle *t)
{
    u64 elapsed = now_ns(t) - t->filled_at,
        bytes = muldiv64(MIN(elapsed, 2 * NS_PER_SEC), t->bps, NS_PER_SEC);

    if (!bytes)
        return;
    t->filled_at += elapsed < 2 * NS_PER_SEC ? muldiv64(bytes, NS_PER_SEC, t->bps) : elapsed;
    t->out.tokens = MIN(t->out.tokens + (i64)bytes, burst(t));
    t->in.tokens = MIN(t->in.tokens + (i64)bytes, burst(t));
}

static void arm(struct throttle *t)
{
    i64 missing = 0;

    if (t->out.waits)
        missing = 1 - t->out.tokens;
    if (t->in.waits && (!t->out.waits || 1 - t->in.tokens < missing))
        missing = 1 - t->in.tokens;
    if (t->out.waits || t->in.waits)
        timer_arm(&t->timer, now_ns(t) + muldiv64((u64)MAX(missing, (i64)1), NS_PER_SEC, t->bps) + 1);
}

/* May a frame pass now? If not, the timer will tell. */
static bool may_pass(struct throttle *t, struct bucket *b)
{
    refill(t);
    if (b->tokens > 0)
        return true;
    b->waits = true;
    arm(t);
    return false;
}

static void time_has_come(struct timer *timer)
{
    struct throttle *t = container_of(timer, struct throttle, timer);
    bool out, in;

    refill(t);
    out = t->out.waits && t->out.tokens > 0;
    in = t->in.waits && t->in.tokens > 0;
    t->out.waits &= !out;
    t->in.waits &= !in;
    arm(t);
    if (out)
        net_filter_writable(&t->filter.listener);
    if (in)
        net_resume(t->filter.below);
}

static bool throttle_send(struct net_backend *n, const struct net_frame *f)
{
    struct throttle *t = from_filter(net_filter_of(n));

    if (!may_pass(t, &t->out) || !net_send(t->filter.below, f))
        return false;
    t->out.tokens -= (i64)f->len;
    return true;
}

static bool throttle_receive(struct net_listener *l, const struct net_frame *f)
{
    struct throttle *t = from_filter(container_of(l, struct net_filter, listener));

    if (!may_pass(t, &t->in) || !net_filter_deliver(&t->filter, f))
        return false;
    t->in.tokens -= (i64)f->len;
    return true;
}

static void throttle_close(struct net_backend *n)
{
    struct throttle *t = from_filter(net_filter_of(n));

    timer_cancel(&t->timer);
    net_filter_release(&t->filter);
    free(t);
}

static const struct net_backend_ops throttle_ops = {
    .send = throttle_send,
    .resume = net_filter_resume,
    .set_offloads = net_filter_set_offloads,
    .close = throttle_close,
};

struct net_backend *net_throttle_open(struct net_backend *below, u64 bps, struct event_loop *loop,
                                      const struct vclock *clock, struct error *err)
{
    struct throttle *t = calloc(1, sizeof *t);

    if (!t) {
        error_set_errno(err, ENOMEM, "cannot limit a network");
        net_close(below);
        return NULL;
    }
    net_filter_init(&t->filter, &throttle_ops, below, throttle_receive);
    t->clock = clock;
    t->bps = bps;
    t->filled_at = now_ns(t);
    t->out.tokens = t->in.tokens = burst(t);
    timer_init(&t->timer, loop, clock, time_has_come);
    return &t->filter.base;
}
