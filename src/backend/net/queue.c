/* Frames that wait until somebody can have them. */
#include <stdlib.h>

#include "backend/net/net-internal.h"

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

bool net_queue_push(struct net_queue *q, const struct net_frame *f)
{
    struct net_held *h;
    size_t at = 0;

    if (f->len > NET_FRAME_MAX || q->bytes + f->len + OVERHEAD > q->limit)
        return false;
    h = malloc(sizeof *h + f->len);
    if (!h)
        return false;
    for (unsigned i = 0; i < f->iovcnt && at < f->len; i++) {
        size_t n = MIN(f->iov[i].iov_len, f->len - at);
        memcpy(h->data + at, f->iov[i].iov_base, n);
        at += n;
    }
    h->offload = f->offload;
    h->queue = f->queue;
    h->len = at;
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

bool net_queue_deliver(struct net_queue *q, struct net_backend *n)
{
    while (!net_queue_empty(q)) {
        struct net_held *h = list_entry(q->frames.next, struct net_held, link);
        struct iovec iov = {h->data, h->len};
        struct net_frame f = {
            .iov = &iov, .iovcnt = 1, .len = h->len, .offload = h->offload, .queue = h->queue};
        if (!net_deliver(n, &f))
            return false;
        free(net_queue_pop(q));
    }
    return true;
}
