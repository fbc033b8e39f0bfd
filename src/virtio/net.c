/* Queues, life and state of the network card. Section numbers are those of VIRTIO 1.2. */
#include "virtio/net.h"

#include <errno.h>

#include "base/iov.h"
#include "base/log.h"
#include "virtio/net-internal.h"

#define HEADER 12u /* struct virtio_net_hdr (5.1.6) */
#define HEADER_COUNT 10u
#define CLASS_ETHERNET 0x020000
#define QUEUE_CONTROL_ONE_PAIR 2u /* 5.1.2: where the control queue is for a driver without MQ */

enum { STATUS_LINK_UP = 1, STATUS_ANNOUNCE = 2 };

/* struct virtio_net_config (5.1.4) */
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10, CONFIG_SIZE = 12 };

static struct virtio_net *from_vdev(struct virtio_device *vdev)
{
    return container_of(vdev, struct virtio_net, vdev);
}

static bool link_up(const struct virtio_net *n)
{
    return n->backend->link && !n->unplugged;
}

/* --- guest to network --- */

/* What the driver leaves undone must be what it may leave (5.1.6.2.1), and lie in the frame. */
static bool offload_ok(const struct virtio_net *n, const struct net_offload *o, size_t len)
{
    static const u8 feature[] = {
        [NET_GSO_TCPV4] = F_HOST_TSO4, [NET_GSO_TCPV6] = F_HOST_TSO6, [NET_GSO_UDP_L4] = F_HOST_USO};
    u8 type = (u8)(o->gso_type & ~NET_GSO_ECN);
    if (o->flags & NET_NEEDS_CSUM &&
        (!virtio_has(&n->vdev, F_CSUM) || (size_t)o->csum_start + o->csum_offset + 2 > len))
        return false;
    if (o->gso_type == NET_GSO_NONE)
        return true;
    if (type >= sizeof feature || !feature[type] || !virtio_has(&n->vdev, feature[type]))
        return false;
    if (o->gso_type & NET_GSO_ECN && !virtio_has(&n->vdev, F_HOST_ECN))
        return false;
    return o->flags & NET_NEEDS_CSUM && o->gso_size != 0 && o->hdr_len <= len;
}

/* Finds header and frame in the chain in @t, of which it takes the header off. */
static void tx_parse(const struct virtio_net *n, struct virtio_net_tx *t, unsigned pair)
{
    struct iovec *iov = t->chain.iov;
    unsigned count = t->chain.out;
    u8 raw[HEADER];
    iov_read(iov, count, 0, raw, sizeof raw);
    iov_trim_front(&iov, &count, HEADER);
    t->frame = (struct net_frame){
        .iov = iov,
        .iovcnt = count,
        .len = (size_t)(t->chain.out_bytes - HEADER),
        .offload =
            {
                .flags = raw[0] & NET_NEEDS_CSUM,
                .gso_type = raw[1],
                .hdr_len = get_le16(raw + 2),
                .gso_size = get_le16(raw + 4),
                .csum_start = get_le16(raw + 6),
                .csum_offset = get_le16(raw + 8),
            },
        .queue = pair,
    };
    t->bad = t->frame.len < NET_HEADER || t->frame.len > NET_FRAME_MAX ||
             !offload_ok(n, &t->frame.offload, t->frame.len);
}

/* Takes the next chain into @t. False when there is none. */
static bool tx_take(struct virtio_net *n, struct virtio_net_tx *t, unsigned pair)
{
    struct virtqueue *vq = &n->vdev.queue[tx_queue(pair)];
    if (!virtqueue_pop(vq, &t->chain))
        return false;
    if (t->chain.out_bytes < HEADER) {
        virtio_device_error(&n->vdev, "queue %u: frame without a header", vq->index);
        return false;
    }
    tx_parse(n, t, pair);
    t->held = true;
    return true;
}

/* Are we done with the frame in @t? */
static bool tx_send(struct virtio_net *n, const struct virtio_net_tx *t, unsigned pair)
{
    if (t->bad) {
        n->vdev.counters.guest_errors++;
        trace(virtio, "%s: frame of %zu bytes, gso %#x of %u, checksum %#x at %u + %u: dropped", n->vdev.name,
              t->frame.len, t->frame.offload.gso_type, t->frame.offload.gso_size, t->frame.offload.flags,
              t->frame.offload.csum_start, t->frame.offload.csum_offset);
        return true;
    }
    virtio_net_learn_flow(n, &t->frame, pair);
    if (link_up(n) && !net_send(n->backend, &t->frame))
        return false;
    n->vdev.counters.net_sent++;
    return true;
}

static void tx_run(struct virtio_net *n, unsigned pair)
{
    struct virtqueue *vq = &n->vdev.queue[tx_queue(pair)];
    struct virtio_net_tx *t = &n->tx[pair];
    unsigned budget = vq->size;
    for (; budget; budget--) {
        if (!t->held && !tx_take(n, t, pair))
            break;
        if (!tx_send(n, t, pair))
            break;
        virtqueue_push(vq, &t->chain, 0);
        t->held = false;
    }
    virtqueue_notify(vq);
    if (!budget)
        virtio_kick_later(&n->vdev, vq->index);
}

static void on_writable(struct net_listener *l)
{
    struct virtio_net *n = container_of(l, struct virtio_net, listener);
    for (unsigned pair = 0; pair < n->given.pairs; pair++) {
        if (n->tx[pair].held)
            tx_run(n, pair);
    }
}

/* --- network to guest --- */

/* A place in the buffers of a frame. */
struct source {
    const struct iovec *iov;
    size_t at; /* in the first of them */
    size_t left;
};

/* Copies on from @s to @iov from byte @skip on, as much as both have. */
static size_t copy_on(struct source *s, const struct iovec *iov, unsigned count, size_t skip)
{
    size_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t room = iov[i].iov_len, at = MIN(skip, room);
        u8 *to = (u8 *)iov[i].iov_base;
        skip -= at;
        while (at < room && s->left) {
            size_t n = MIN(MIN(room - at, s->iov->iov_len - s->at), s->left);
            memcpy(to + at, (const u8 *)s->iov->iov_base + s->at, n);
            at += n;
            done += n;
            s->at += n;
            s->left -= n;
            if (s->at == s->iov->iov_len && s->left) {
                s->iov++;
                s->at = 0;
            }
        }
    }
    return done;
}

static void rx_header(const struct virtio_net *n, const struct net_offload *o, u8 raw[HEADER])
{
    memset(raw, 0, HEADER);
    put_le16(raw + HEADER_COUNT, 1); /* also without MRG_RXBUF (5.1.6.4.1) */
    if (!(n->offloads & BIT(F_GUEST_CSUM)))
        return;
    raw[0] = o->flags;
    raw[1] = o->gso_type;
    put_le16(raw + 2, o->hdr_len);
    put_le16(raw + 4, o->gso_size);
    put_le16(raw + 6, o->csum_start);
    put_le16(raw + 8, o->csum_offset);
}

/* Takes the first chain of a frame, with its header. False: there is none, or the device is broken. */
static bool rx_begin(struct virtio_net *n, struct virtqueue *vq, const struct net_frame *f)
{
    struct virtq_chain *c = &n->rx_first;
    u8 raw[HEADER];
    if (!virtqueue_pop(vq, c))
        return false;
    if (c->in_bytes < HEADER) {
        virtio_device_error(&n->vdev, "queue %u: buffer without room for a header", vq->index);
        return false;
    }
    rx_header(n, &f->offload, raw);
    iov_write(c->iov + c->out, c->in, 0, raw, sizeof raw);
    return true;
}

/*
 * Goes on in further chains with what is left in @s. How many chains the frame has then; 0: it waits for more
 * of them; -1: no number of them will do, since the whole ring is too small or its buffers are tiny.
 */
static int rx_merge(struct virtio_net *n, struct virtqueue *vq, struct source *s)
{
    struct virtq_chain *c = &n->rx_next;
    unsigned count = 1;
    n->rx_taken[0] = (struct virtq_taken){.ring_entries = n->rx_first.ring_entries};
    for (; s->left && count < VIRTIO_NET_MERGE && virtqueue_pop(vq, c); count++) {
        size_t done = copy_on(s, c->iov + c->out, c->in, 0);
        n->rx_taken[count] = virtqueue_taken(vq, c, done);
    }
    if (!s->left)
        return (int)count;
    bool hopeless = count == VIRTIO_NET_MERGE || vq->in_flight >= vq->size;
    virtqueue_unpop_all(vq, n->rx_taken, count);
    return hopeless ? -1 : 0;
}

enum rx_result { RX_DONE, RX_WAITS, RX_DROPPED };

static enum rx_result rx_deliver(struct virtio_net *n, struct virtqueue *vq, const struct net_frame *f)
{
    struct source s = {f->iov, 0, f->len};
    struct virtq_chain *c = &n->rx_first;
    int chains = 1;
    if (!rx_begin(n, vq, f))
        return RX_WAITS;
    size_t done = HEADER + copy_on(&s, c->iov + c->out, c->in, HEADER);
    if (s.left && !virtio_has(&n->vdev, F_MRG_RXBUF)) {
        virtqueue_unpop(vq, c);
        return RX_DROPPED;
    }
    if (s.left) {
        u8 raw[2];
        chains = rx_merge(n, vq, &s);
        if (chains <= 0)
            return chains ? RX_DROPPED : RX_WAITS;
        put_le16(raw, (u16)chains);
        iov_write(c->iov + c->out, c->in, HEADER_COUNT, raw, sizeof raw);
    }
    n->rx_taken[0] = virtqueue_taken(vq, c, done);
    virtqueue_push_all(vq, n->rx_taken, (unsigned)chains);
    return RX_DONE;
}

/* More than the driver was told that there is (5.1.4.1); segments to be joined are another matter. */
static bool too_long(const struct virtio_net *n, const struct net_frame *f)
{
    return f->len > NET_FRAME_MAX || (virtio_has(&n->vdev, F_MTU) && f->offload.gso_type == NET_GSO_NONE &&
                                      f->len > NET_HEADER + 4u + n->given.mtu);
}

static void notify_received(struct deferred *d)
{
    struct virtio_net *n = container_of(d, struct virtio_net, rx_notify);
    u32 pairs = n->rx_touched;
    n->rx_touched = 0;
    for (unsigned i = 0; i < n->given.pairs; i++) {
        if (pairs >> i & 1)
            virtqueue_notify(&n->vdev.queue[rx_queue(i)]);
    }
}

/* Several frames come one after the other: the driver is interrupted once, when the loop has seen to its
 * events. */
static void notify_soon(struct virtio_net *n, unsigned pair)
{
    bool first = !n->rx_touched;
    n->rx_touched |= (u32)BIT(pair);
    if (n->vdev.loop && first)
        event_loop_post(n->vdev.loop, &n->rx_notify);
    else if (!n->vdev.loop)
        notify_received(&n->rx_notify);
}

static bool on_receive(struct net_listener *l, const struct net_frame *f)
{
    struct virtio_net *n = container_of(l, struct virtio_net, listener);
    enum rx_result r = RX_DROPPED;
    unsigned pair = virtio_net_pair_of(n, f);
    struct virtqueue *vq = &n->vdev.queue[rx_queue(pair)];
    if (link_up(n) && vq->enabled && virtio_running(&n->vdev) && !too_long(n, f) && virtio_net_wants(n, f))
        r = rx_deliver(n, vq, f);
    if (r == RX_WAITS && virtio_running(&n->vdev)) {
        n->rx_waits = true;
        return false;
    }
    if (r == RX_DONE) {
        n->vdev.counters.net_received++;
        notify_soon(n, pair);
    } else {
        n->vdev.counters.net_dropped++;
    }
    return true;
}

/* The frame that waits may have its place now, or is to be dropped. */
static void rx_resume(struct virtio_net *n)
{
    if (!n->rx_waits)
        return;
    n->rx_waits = false;
    net_resume(n->backend);
}

/* --- what the driver is told --- */

void virtio_net_update_config(struct virtio_net *n, bool tell)
{
    u16 status = (u16)((link_up(n) ? STATUS_LINK_UP : 0) | (n->announce ? STATUS_ANNOUNCE : 0));
    bool changed = status != n->status;
    n->status = status;
    memcpy(n->vdev.config + CONFIG_MAC, n->mac, sizeof n->mac);
    put_le16(n->vdev.config + CONFIG_STATUS, status);
    if (changed && tell && virtio_has(&n->vdev, F_STATUS))
        virtio_config_changed(&n->vdev);
}

void virtio_net_update_offloads(struct virtio_net *n)
{
    u64 o = n->offloads;
    unsigned can = 0;
    if (o & BIT(F_GUEST_CSUM)) /* without it the others mean nothing (5.1.3.1) */
        can = NET_CAN_CSUM | (o & BIT(F_GUEST_TSO4) ? NET_CAN_TSO4 : 0) |
              (o & BIT(F_GUEST_TSO6) ? NET_CAN_TSO6 : 0) | (o & BIT(F_GUEST_ECN) ? NET_CAN_TSO_ECN : 0) |
              (o & BIT(F_GUEST_USO4) && o & BIT(F_GUEST_USO6) ? NET_CAN_USO : 0);
    net_set_offloads(n->backend, can);
}

static void on_link(struct net_listener *l, bool up)
{
    struct virtio_net *n = container_of(l, struct virtio_net, listener);
    (void)up; /* it is n->backend->link */
    virtio_net_update_config(n, true);
    rx_resume(n);
}

void virtio_net_set_link(struct virtio_net *n, bool up)
{
    n->unplugged = !up;
    virtio_net_update_config(n, true);
    rx_resume(n);
}

void virtio_net_announce(struct virtio_net *n)
{
    if (virtio_has(&n->vdev, F_GUEST_ANNOUNCE) && virtio_has(&n->vdev, F_CTRL_VQ) && link_up(n))
        n->announce = true;
    virtio_net_update_config(n, true);
}

static void announce_now(struct deferred *d)
{
    virtio_net_announce(container_of(d, struct virtio_net, announce_due));
}

/* --- device --- */

static unsigned control_queue(const struct virtio_net *n)
{
    return virtio_has(&n->vdev, F_MQ) ? 2 * n->given.pairs : QUEUE_CONTROL_ONE_PAIR;
}

static void net_kick(struct virtio_device *vdev, unsigned queue)
{
    struct virtio_net *n = from_vdev(vdev);
    if (queue == control_queue(n)) {
        if (virtio_has(vdev, F_CTRL_VQ))
            virtio_net_control(n, &vdev->queue[queue]);
    } else if (queue > control_queue(n)) {
        return; /* of pairs that this driver does not know of */
    } else if (queue & 1) {
        tx_run(n, queue / 2);
    } else {
        rx_resume(n);
    }
}

static void net_features_ok(struct virtio_device *vdev)
{
    struct virtio_net *n = from_vdev(vdev);
    n->offloads = vdev->features & GUEST_OFFLOADS;
    virtio_net_update_offloads(n);
}

/* Chains held go back to their rings and are sent again from there. */
static void net_drain(struct virtio_device *vdev)
{
    struct virtio_net *n = from_vdev(vdev);
    for (unsigned pair = 0; pair < n->given.pairs; pair++) {
        if (!n->tx[pair].held)
            continue;
        virtqueue_unpop(&vdev->queue[tx_queue(pair)], &n->tx[pair].chain);
        n->tx[pair].held = false;
        virtio_kick_later(vdev, tx_queue(pair));
    }
}

/* What a driver finds. */
static void start_over(struct virtio_net *n)
{
    memcpy(n->mac, n->given.mac, sizeof n->mac);
    n->announce = false;
    n->active_pairs = 1;
    n->offloads = 0;
    n->rx_touched = 0;
    for (unsigned pair = 0; pair < n->given.pairs; pair++)
        n->tx[pair].held = false;
    virtio_net_filter_reset(n);
    virtio_net_update_config(n, false);
    virtio_net_update_offloads(n);
}

static bool net_reset(struct virtio_device *vdev)
{
    struct virtio_net *n = from_vdev(vdev);
    start_over(n);
    rx_resume(n);
    return true;
}

static const struct virtio_device_ops net_ops = {
    .kick = net_kick,
    .features_ok = net_features_ok,
    .drain = net_drain,
    .reset = net_reset,
};

/* --- state --- */

static int net_post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_net *n = object;
    (void)version;
    if (n->active_pairs < 1 || n->active_pairs > n->given.pairs || n->unicast.count > VIRTIO_NET_MACS ||
        n->multicast.count > VIRTIO_NET_MACS || n->offloads & ~(n->vdev.features & GUEST_OFFLOADS))
        return error_set(err, EINVAL, "%s: saved state is not possible", n->vdev.name);
    n->rx_waits = false;
    n->rx_touched = 0;
    for (unsigned pair = 0; pair < n->given.pairs; pair++)
        n->tx[pair].held = false;
    memset(n->flow, 0, sizeof n->flow);
    memcpy(n->vdev.config + CONFIG_MAC, n->mac, sizeof n->mac);
    put_le16(n->vdev.config + CONFIG_STATUS, n->status);
    virtio_net_update_offloads(n);
    if (n->vdev.loop)
        event_loop_post(n->vdev.loop, &n->announce_due);
    return 0;
}

static const struct field macs_fields[] = {
    FIELD_BYTES(struct virtio_net_macs, mac),
    FIELD(struct virtio_net_macs, count),
    FIELD(struct virtio_net_macs, all),
    FIELD_END,
};
static const struct state_desc macs_state = {.name = "virtio-net-macs", .version = 1, .fields = macs_fields};

static const struct field net_fields[] = {
    FIELD_STRUCT(struct virtio_net, vdev, virtio_device_state),
    FIELD_STRUCT(struct virtio_net, pci, virtio_pci_state),
    FIELD_BYTES(struct virtio_net, mac),
    FIELD(struct virtio_net, status),
    FIELD(struct virtio_net, unplugged),
    FIELD(struct virtio_net, announce),
    FIELD(struct virtio_net, active_pairs),
    FIELD(struct virtio_net, offloads),
    FIELD(struct virtio_net, promiscuous),
    FIELD(struct virtio_net, all_multicast),
    FIELD(struct virtio_net, all_unicast),
    FIELD(struct virtio_net, no_multicast),
    FIELD(struct virtio_net, no_unicast),
    FIELD(struct virtio_net, no_broadcast),
    FIELD_STRUCT(struct virtio_net, unicast, macs_state),
    FIELD_STRUCT(struct virtio_net, multicast, macs_state),
    FIELD_BYTES(struct virtio_net, vlan),
    FIELD_END,
};

static const struct state_desc net_state = {
    .name = "virtio-net",
    .version = 1,
    .fields = net_fields,
    .post_load = net_post_load,
};

/* --- life --- */

static u64 features(const struct virtio_net *n)
{
    unsigned can = n->backend->can;
    u64 f = BIT(F_MAC) | BIT(F_STATUS) | BIT(F_MRG_RXBUF) | BIT(F_CTRL_VQ) | BIT(F_CTRL_RX) |
            BIT(F_CTRL_RX_EXTRA) | BIT(F_CTRL_VLAN) | BIT(F_CTRL_MAC_ADDR) | BIT(F_GUEST_ANNOUNCE) |
            BIT(F_CTRL_GUEST_OFFLOADS) | GUEST_OFFLOADS;
    if (n->given.pairs > 1)
        f |= BIT(F_MQ);
    if (n->given.mtu)
        f |= BIT(F_MTU);
    if (!(can & NET_CAN_CSUM))
        return f;
    return f | BIT(F_CSUM) | (can & NET_CAN_TSO4 ? BIT(F_HOST_TSO4) : 0) |
           (can & NET_CAN_TSO6 ? BIT(F_HOST_TSO6) : 0) | (can & NET_CAN_TSO_ECN ? BIT(F_HOST_ECN) : 0) |
           (can & NET_CAN_USO ? BIT(F_HOST_USO) : 0);
}

int virtio_net_init(struct virtio_net *n, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct net_backend *backend,
                    const struct virtio_net_config *config, struct error *err)
{
    unsigned pairs = config->pairs ? config->pairs : 1;
    if (pairs > VIRTIO_NET_MAX_PAIRS)
        return error_set(err, EINVAL, "virtio-net: %u pairs of queues, at most %u are possible", pairs,
                         VIRTIO_NET_MAX_PAIRS);
    *n = (struct virtio_net){
        .backend = backend,
        .listener = {.receive = on_receive, .writable = on_writable, .link_changed = on_link},
        .given = *config,
        .rx_notify.call = notify_received,
        .announce_due.call = announce_now,
    };
    n->given.pairs = pairs;
    virtio_device_init(&n->vdev, VIRTIO_NET, "virtio-net", &net_ops, features(n), memory, loop);
    for (unsigned i = 0; i < 2 * pairs; i++)
        virtio_add_queue(&n->vdev, VIRTIO_NET_QUEUE_SIZE);
    virtio_add_queue(&n->vdev, VIRTIO_NET_QUEUE_SIZE);
    n->vdev.config_size = CONFIG_SIZE;
    put_le16(n->vdev.config + CONFIG_PAIRS, (u16)pairs);
    put_le16(n->vdev.config + CONFIG_MTU, n->given.mtu);
    start_over(n);
    int ret = virtio_pci_init(&n->pci, &n->vdev, bus, devfn, CLASS_ETHERNET, &net_state, n, err);
    if (ret < 0)
        return ret;
    backend->listener = &n->listener;
    return 0;
}

void virtio_net_release(struct virtio_net *n)
{
    n->backend->listener = NULL;
    if (n->vdev.loop) {
        event_loop_unpost(n->vdev.loop, &n->rx_notify);
        event_loop_unpost(n->vdev.loop, &n->announce_due);
    }
    virtio_pci_release(&n->pci);
}
