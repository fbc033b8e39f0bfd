/*
 * Filters: backends in front of another, which they take over. Each has a net_filter as its first part and is
 * the listener of what lies below; what it does not care for it passes on by the functions here.
 */
#ifndef TRAPEZE_BACKEND_NET_FILTER_H
#define TRAPEZE_BACKEND_NET_FILTER_H

#include "backend/net/net.h"

struct net_filter {
    struct net_backend base;
    struct net_backend *below;
    struct net_listener listener; /* of what is below */
};

void net_filter_init(struct net_filter *f, const struct net_backend_ops *ops, struct net_backend *below,
                     bool (*receive)(struct net_listener *l, const struct net_frame *frame));

/* Closes what is below. */
void net_filter_release(struct net_filter *f);

struct net_filter *net_filter_of(struct net_backend *n);

/* To the card: taken, or nobody listens. */
bool net_filter_deliver(struct net_filter *f, const struct net_frame *frame);

void net_filter_resume(struct net_backend *n);
void net_filter_set_offloads(struct net_backend *n, unsigned can);
void net_filter_writable(struct net_listener *l);

/* Both: NULL with @err, and then @below is closed. */

/*
 * Copies all frames that pass to the file @path, which is replaced. A frame that leaves its segmentation or
 * its checksum to others is written as it is, as a capture on a host with such a card shows it.
 */
struct net_backend *net_pcap_open(struct net_backend *below, const char *path, struct error *err);

/* At most @bps bytes a second pass each way, by @clock (NULL: the host's). */
struct net_backend *net_throttle_open(struct net_backend *below, u64 bps, struct event_loop *loop,
                                      const struct vclock *clock, struct error *err);

#endif
