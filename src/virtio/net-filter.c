/* Which frames the driver wants, and on which of its queues. Section numbers are those of VIRTIO 1.2. */
#include "virtio/net-internal.h"

enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd, TYPE_VLAN = 0x8100 };
enum { PROTO_TCP = 6, PROTO_UDP = 17 };

#define VLAN_TAG 4u
#define FLOW_BYTES 96 /* of a frame: Ethernet with a tag, IPv4 with options, ports */

static unsigned be16(const u8 *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static bool vlan_wanted(const struct virtio_net *n, const u8 *head, size_t len)
{
    if (!virtio_has(&n->vdev, F_CTRL_VLAN) || len < NET_HEADER + VLAN_TAG || be16(head + 12) != TYPE_VLAN)
        return true;
    unsigned id = be16(head + 14) & 0xfff;
    return id == 0 || n->vlan[id / 8] >> id % 8 & 1; /* 0: a tag that only gives a priority */
}

static bool in_table(const struct virtio_net_macs *t, const u8 *mac)
{
    if (t->all)
        return true;
    for (unsigned i = 0; i < t->count; i++) {
        if (!memcmp(t->mac[i], mac, 6))
            return true;
    }
    return false;
}

/* 5.1.6.5.1 and 5.1.6.5.2: suppression before the filter. */
static bool address_wanted(const struct virtio_net *n, const u8 *mac)
{
    static const u8 broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (!memcmp(mac, broadcast, 6))
        return !n->no_broadcast;
    if (mac[0] & 1)
        return !n->no_multicast && (n->all_multicast || in_table(&n->multicast, mac));
    return !n->no_unicast && (n->all_unicast || !memcmp(mac, n->mac, 6) || in_table(&n->unicast, mac));
}

bool virtio_net_wants(const struct virtio_net *n, const struct net_frame *f)
{
    u8 head[NET_HEADER + VLAN_TAG];
    if (n->promiscuous)
        return true;
    size_t len = iov_read(f->iov, f->iovcnt, 0, head, sizeof head);
    return len >= NET_HEADER && vlan_wanted(n, head, len) && address_wanted(n, head);
}

void virtio_net_filter_reset(struct virtio_net *n)
{
    n->promiscuous = true; /* until the driver says otherwise: it may not be able to */
    n->all_multicast = n->all_unicast = n->no_multicast = n->no_unicast = n->no_broadcast = false;
    n->unicast.count = n->multicast.count = 0;
    n->unicast.all = n->multicast.all = false;
    memset(n->vlan, 0, sizeof n->vlan);
    memset(n->flow, 0, sizeof n->flow);
}

/* --- flows --- */

static u32 word_at(const u8 *p)
{
    u32 v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The two ends in one word each, joined such that the answer has the same number. */
static u32 ends(const u8 *a, const u8 *b, unsigned bytes)
{
    u32 v = 0;
    for (unsigned i = 0; i < bytes; i += 4)
        v = (v << 5 | v >> 27) ^ word_at(a + i) ^ word_at(b + i);
    return v;
}

static u32 ports(const u8 *p, size_t len, u8 protocol)
{
    if (len < 4 || (protocol != PROTO_TCP && protocol != PROTO_UDP))
        return 0;
    return (be16(p) ^ be16(p + 2)) * 0x10001u;
}

static u32 ip_flow(const u8 *p, size_t len, unsigned type)
{
    if (type == TYPE_IPV4 && len >= 20) {
        size_t header = (p[0] & 15) * 4u;
        bool fragment = be16(p + 6) & 0x3fff;
        return ends(p + 12, p + 16, 4) ^
               (fragment || header < 20 || header > len ? 0 : ports(p + header, len - header, p[9]));
    }
    if (type == TYPE_IPV6 && len >= 40)
        return ends(p + 8, p + 24, 16) ^ ports(p + 40, len - 40, p[6]);
    return 0;
}

/* A number for the two ends of what @f belongs to; all that is not IP has the same. */
static unsigned flow_of(const struct net_frame *f)
{
    u8 bytes[FLOW_BYTES];
    size_t len = iov_read(f->iov, f->iovcnt, 0, bytes, sizeof bytes), at = NET_HEADER;
    if (len < NET_HEADER + VLAN_TAG)
        return 0;
    unsigned type = be16(bytes + 12);
    if (type == TYPE_VLAN) {
        type = be16(bytes + 16);
        at += VLAN_TAG;
    }
    u32 hash = ip_flow(bytes + at, len - at, type) * 0x9e3779b1u;
    return hash >> 16 & (VIRTIO_NET_FLOWS - 1);
}

void virtio_net_learn_flow(struct virtio_net *n, const struct net_frame *f, unsigned pair)
{
    if (n->active_pairs > 1 && n->backend->queues == 1)
        n->flow[flow_of(f)] = (u8)pair;
}

unsigned virtio_net_pair_of(const struct virtio_net *n, const struct net_frame *f)
{
    if (n->active_pairs == 1)
        return 0;
    unsigned pair = n->backend->queues > 1 ? f->queue : n->flow[flow_of(f)];
    return pair % n->active_pairs;
}
