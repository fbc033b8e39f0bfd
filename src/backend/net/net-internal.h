/* What the network backends share. */
#ifndef TRAPEZE_BACKEND_NET_NET_INTERNAL_H
#define TRAPEZE_BACKEND_NET_NET_INTERNAL_H

#include "backend/net/net.h"
#include "base/list.h"

#define NET_MTU 1500 /* where nothing else is said */

struct net_backend *net_tap_open(const struct net_options *o, struct event_loop *loop, struct error *err);
struct net_backend *net_socket_open(const struct net_options *o, struct event_loop *loop, struct error *err);
struct net_backend *net_user_open(const struct net_options *o, struct event_loop *loop, struct error *err);

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

/* --- frames on their way to the card --- */

/* In order, and as the card can take them. On the loop's thread, except for set_offloads. */
struct net_arrivals {
    struct net_backend *to;
    struct event_loop *loop;
    struct deferred flush;
    void (*drained)(struct net_arrivals *a);
    unsigned can; /* NET_CAN_... of the card */
    struct net_queue waiting;
    u64 dropped;
};

/* @drained is called on the loop's thread when nothing waits any more. */
void net_arrivals_init(struct net_arrivals *a, struct net_backend *to, size_t limit, struct event_loop *loop,
                       void (*drained)(struct net_arrivals *a));
void net_arrivals_release(struct net_arrivals *a);

/* To the card, or to the frames that wait; dropped where those are too many. */
void net_arrivals_add(struct net_arrivals *a, const struct net_frame *f);

/* The card has room again: hands over what waits, soon. Any thread. */
void net_arrivals_resume(struct net_arrivals *a);

/* What waits was made for what the card could take before, and is dropped. */
void net_arrivals_set_offloads(struct net_arrivals *a, unsigned can);

/* Copies the frame's bytes, at most @room of them, and says how many. */
size_t net_frame_copy(const struct net_frame *f, u8 *to, size_t room);

#endif
