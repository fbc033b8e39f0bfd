/* Opens a network by its options. */
#include <errno.h>

#include "backend/net/net-internal.h"

struct net_backend *net_open(const struct net_options *o, struct event_loop *loop, struct error *err)
{
    switch (o->kind) {
    case NET_NULL: return net_null_open(err);
    case NET_USER: return net_user_open(o, loop, err);
    case NET_TAP:
    case NET_SOCKET: break;
    }
    error_set(err, EINVAL, "this kind of network is not there yet");
    return NULL;
}
