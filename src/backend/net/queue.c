/* Frames that wait until somebody can have them. */
#include <stdlib.h>

#include "backend/net/net-internal.h"
#include "backend/net/offload.h"

#define OVERHEAD 128 /* what a frame costs besides its bytes: small ones count too */

void net_queue_init(struct net_queue *q, size_t limit)
{
    list_init(&q->frames);
    q->bytes = 0;
    q->limit = limit;
}

void net_queue_release(struct net_queue *q)
{
    for (struct net_held *h; (h = net_queue_pop(q));)
        free(h);
}

size_t net_frame_copy(const struct net_frame *f, u8 *to, size_t room)
{
    size_t at = 0;

    for (unsigned i = 0; i < f->iovcnt && at < room; i++) {
        size_t n = MIN(f->iov[i].iov_len, room - at);
        memcpy(to + at, f->iov[i].iov_base, n);
        at += n;
    }
    return at;
}

bool net_queue_push(struct net_queue *q, const struct net_frame *f)
{
    struct net_held *h;

    if (f->len > NET_FRAME_MAX || q->bytes + f->len + OVERHEAD > q->limit)
        return false;
    h = malloc(sizeof *h + f->len);
    if (!h)
        return false;
    h->offload = f->offload;
    h->queue = f->queue;
    h->len = net_frame_copy(f, h->data, f->len);
    q->bytes += h->len + OVERHEAD;
    list_push_back(&q->frames, &h->link);
    return true;
}

struct net_held *net_queue_pop(struct net_queue *q)
{
    struct net_held *h;

    if (net_queue_empty(q))
        return NULL;
    h = list_entry(q->frames.next, struct net_held, link);
    list_remove(&h->link);
    q->bytes -= h->len + OVERHEAD;
    return h;
}

/* --- to the card --- */

static void flush(struct deferred *d);

void net_arrivals_init(struct net_arrivals *a, struct net_backend *to, size_t limit, struct event_loop *loop,
                       void (*drained)(struct net_arrivals *a))
{
    *a = (struct net_arrivals){.to = to, .loop = loop, .flush.call = flush, .drained = drained};
    net_queue_init(&a->waiting, limit);
}

void net_arrivals_release(struct net_arrivals *a)
{
    event_loop_unpost(a->loop, &a->flush);
    net_queue_release(&a->waiting);
}

static bool take(struct net_backend *n, const struct net_frame *f)
{
    return !n->listener || n->listener->receive(n->listener, f);
}

static bool arrive(void *to, const struct net_frame *f)
{
    struct net_arrivals *a = to;

    if ((!net_queue_empty(&a->waiting) || !take(a->to, f)) && !net_queue_push(&a->waiting, f))
        a->dropped++;
    return true;
}

void net_arrivals_add(struct net_arrivals *a, const struct net_frame *f)
{
    u8 *copy;

    if (net_offload_fits(&f->offload, a->can)) {
        arrive(a, f);
        return;
    }
    copy = f->len <= NET_FRAME_MAX ? malloc(f->len) : NULL;
    if (!copy || net_frame_copy(f, copy, f->len) != f->len)
        a->dropped++;
    else
        net_adapt(copy, f, a->can, arrive, a);
    free(copy);
}

static void flush(struct deferred *d)
{
    struct net_arrivals *a = container_of(d, struct net_arrivals, flush);

    while (!net_queue_empty(&a->waiting)) {
        struct net_held *h = list_entry(a->waiting.frames.next, struct net_held, link);
        struct iovec iov = {h->data, h->len};
        struct net_frame f = {
            .iov = &iov, .iovcnt = 1, .len = h->len, .offload = h->offload, .queue = h->queue};
        if (!take(a->to, &f))
            return;
        free(net_queue_pop(&a->waiting));
    }
    a->drained(a);
}

void net_arrivals_resume(struct net_arrivals *a)
{
    if (!net_queue_empty(&a->waiting))
        event_loop_post(a->loop, &a->flush);
}

void net_arrivals_set_offloads(struct net_arrivals *a, unsigned can)
{
    a->can = can;
    if (!net_queue_empty(&a->waiting))
        event_loop_post(a->loop, &a->flush);
    net_queue_release(&a->waiting);
}
