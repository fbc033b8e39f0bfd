/* What the network backends share. */
#ifndef TRAPEZE_BACKEND_NET_NET_INTERNAL_H
#define TRAPEZE_BACKEND_NET_NET_INTERNAL_H

#include "backend/net/net.h"
#include "base/list.h"

#define NET_MTU 1500 /* where nothing else is said */

struct net_backend *net_user_open(const struct net_options *o, struct event_loop *loop, struct error *err);

/* The listener takes @f, or nobody listens. */
static inline bool net_deliver(struct net_backend *n, const struct net_frame *f)
{
    return !n->listener || n->listener->receive(n->listener, f);
}

/* --- frames that wait --- */

struct net_held {
    struct list link;
    struct net_offload offload;
    unsigned queue;
    size_t len;
    u8 data[];
};

struct net_queue {
    struct list frames;
    size_t bytes, limit;
};

void net_queue_init(struct net_queue *q, size_t limit);
void net_queue_release(struct net_queue *q);
static inline bool net_queue_empty(const struct net_queue *q)
{
    return list_empty(&q->frames);
}

/* Copies @f to the end. False when the queue is full or there is no memory. */
bool net_queue_push(struct net_queue *q, const struct net_frame *f);

/* The first frame, which the caller frees; NULL when there is none. */
struct net_held *net_queue_pop(struct net_queue *q);

/* Hands the frames to @n's listener, until one is not taken, which stays. True when all went. */
bool net_queue_deliver(struct net_queue *q, struct net_backend *n);

#endif
