/* Opens a network by its options. */
#include <errno.h>

#include "backend/net/filter.h"
#include "backend/net/net-internal.h"

static struct net_backend *open_kind(const struct net_options *o, struct event_loop *loop, struct error *err)
{
    switch (o->kind) {
    case NET_NULL: return net_null_open(err);
    case NET_USER: return net_user_open(o, loop, err);
    case NET_TAP: return net_tap_open(o, loop, err);
    case NET_SOCKET: return net_socket_open(o, loop, err);
    }
    BUG();
}

/* The capture is next to the card: it has what passed the limit. */
struct net_backend *net_open(const struct net_options *o, struct event_loop *loop, struct error *err)
{
    struct net_backend *n = open_kind(o, loop, err);

    if (n && o->bps)
        n = net_throttle_open(n, o->bps, loop, o->clock, err);
    if (n && o->pcap)
        n = net_pcap_open(n, o->pcap, err);
    return n;
}
