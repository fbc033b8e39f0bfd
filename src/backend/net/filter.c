#include "backend/net/filter.h"

struct net_filter *net_filter_of(struct net_backend *n)
{
    return container_of(n, struct net_filter, base);
}

void net_filter_resume(struct net_backend *n)
{
    net_resume(net_filter_of(n)->below);
}

void net_filter_set_offloads(struct net_backend *n, unsigned can)
{
    net_set_offloads(net_filter_of(n)->below, can);
}

bool net_filter_deliver(struct net_filter *f, const struct net_frame *frame)
{
    struct net_listener *l = f->base.listener;

    return !l || l->receive(l, frame);
}

void net_filter_writable(struct net_listener *l)
{
    struct net_filter *f = container_of(l, struct net_filter, listener);

    if (f->base.listener)
        f->base.listener->writable(f->base.listener);
}

static void link_changed(struct net_listener *l, bool up)
{
    struct net_filter *f = container_of(l, struct net_filter, listener);

    f->base.link = up;
    if (f->base.listener && f->base.listener->link_changed)
        f->base.listener->link_changed(f->base.listener, up);
}

void net_filter_init(struct net_filter *f, const struct net_backend_ops *ops, struct net_backend *below,
                     bool (*receive)(struct net_listener *l, const struct net_frame *frame))
{
    f->base =
        (struct net_backend){.ops = ops, .can = below->can, .queues = below->queues, .link = below->link};
    f->below = below;
    f->listener = (struct net_listener){
        .receive = receive, .writable = net_filter_writable, .link_changed = link_changed};
    below->listener = &f->listener;
}

void net_filter_release(struct net_filter *f)
{
    f->below->listener = NULL;
    net_close(f->below);
}
