/* The control queue (VIRTIO 1.2, 5.1.6.5). What a command cannot be is answered with ERR and changes nothing.
 */
#include "base/log.h"
#include "virtio/net-internal.h"

enum { ACK_OK = 0, ACK_ERR = 1 };
enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_VLAN = 2, CLASS_ANNOUNCE = 3, CLASS_MQ = 4, CLASS_OFFLOADS = 5 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { VLAN_ADD = 0, VLAN_DEL = 1 };
enum { ANNOUNCE_ACK = 0 };
enum { MQ_PAIRS_SET = 0 };
enum { OFFLOADS_SET = 0 };

#define HEAD 2u /* class and command */

/* What comes after class and command, in the driver's buffers. */
struct data {
    const struct virtq_chain *chain;
    u64 at, left;
};

static bool get(struct data *d, void *buf, size_t len)
{
    if (d->left < len || iov_read(d->chain->iov, d->chain->out, d->at, buf, len) != len)
        return false;
    d->at += len;
    d->left -= len;
    return true;
}

/* The whole data is one field of @len bytes. */
static bool get_only(struct data *d, void *buf, size_t len)
{
    return d->left == len && get(d, buf, len);
}

static bool control_rx(struct virtio_net *n, u8 command, struct data *d)
{
    bool *const modes[] = {
        [RX_PROMISC] = &n->promiscuous,  [RX_ALLMULTI] = &n->all_multicast, [RX_ALLUNI] = &n->all_unicast,
        [RX_NOMULTI] = &n->no_multicast, [RX_NOUNI] = &n->no_unicast,       [RX_NOBCAST] = &n->no_broadcast,
    };
    u8 on;
    if (command >= ARRAY_SIZE(modes) ||
        !virtio_has(&n->vdev, command <= RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA) || !get_only(d, &on, 1))
        return false;
    *modes[command] = on != 0;
    return true;
}

/* A table: the number of addresses and these. What does not fit is read over. */
static bool get_table(struct data *d, struct virtio_net_macs *t)
{
    u8 raw[4];
    if (!get(d, raw, sizeof raw))
        return false;
    u64 count = get_le32(raw), bytes = count * 6;
    if (bytes > d->left)
        return false;
    t->all = count > VIRTIO_NET_MACS;
    t->count = t->all ? 0 : (u16)count;
    if (!get(d, t->mac, 6ul * t->count))
        return false;
    d->at += bytes - 6ul * t->count;
    d->left -= bytes - 6ul * t->count;
    return true;
}

static bool set_tables(struct virtio_net *n, struct data *d)
{
    struct virtio_net_macs unicast = {0}, multicast = {0};
    if (!virtio_has(&n->vdev, F_CTRL_RX) || !get_table(d, &unicast) || !get_table(d, &multicast) || d->left)
        return false;
    n->unicast = unicast;
    n->multicast = multicast;
    return true;
}

static bool set_address(struct virtio_net *n, struct data *d)
{
    u8 mac[6];
    if (!virtio_has(&n->vdev, F_CTRL_MAC_ADDR) || !get_only(d, mac, sizeof mac) || mac[0] & 1)
        return false;
    memcpy(n->mac, mac, sizeof mac);
    virtio_net_update_config(n, false);
    return true;
}

static bool control_mac(struct virtio_net *n, u8 command, struct data *d)
{
    if (command == MAC_TABLE_SET)
        return set_tables(n, d);
    return command == MAC_ADDR_SET && set_address(n, d);
}

static bool control_vlan(struct virtio_net *n, u8 command, struct data *d)
{
    u8 raw[2];
    if (!virtio_has(&n->vdev, F_CTRL_VLAN) || command > VLAN_DEL || !get_only(d, raw, sizeof raw))
        return false;
    unsigned id = get_le16(raw);
    if (id >= 8 * sizeof n->vlan)
        return false;
    u8 bit = (u8)(1u << id % 8);
    n->vlan[id / 8] = (u8)(command == VLAN_ADD ? n->vlan[id / 8] | bit : n->vlan[id / 8] & ~bit);
    return true;
}

static bool control_announce(struct virtio_net *n, u8 command, const struct data *d)
{
    if (!virtio_has(&n->vdev, F_GUEST_ANNOUNCE) || command != ANNOUNCE_ACK || d->left)
        return false;
    n->announce = false;
    virtio_net_update_config(n, false);
    return true;
}

static bool control_pairs(struct virtio_net *n, u8 command, struct data *d)
{
    u8 raw[2];
    if (!virtio_has(&n->vdev, F_MQ) || command != MQ_PAIRS_SET || !get_only(d, raw, sizeof raw))
        return false;
    u16 pairs = get_le16(raw);
    if (pairs < 1 || pairs > n->given.pairs)
        return false;
    n->active_pairs = pairs;
    memset(n->flow, 0, sizeof n->flow);
    return true;
}

static bool control_offloads(struct virtio_net *n, u8 command, struct data *d)
{
    u8 raw[8];
    if (!virtio_has(&n->vdev, F_CTRL_GUEST_OFFLOADS) || command != OFFLOADS_SET ||
        !get_only(d, raw, sizeof raw))
        return false;
    u64 wanted = get_le64(raw);
    if (wanted & ~(n->vdev.features & GUEST_OFFLOADS))
        return false;
    n->offloads = wanted;
    virtio_net_update_offloads(n);
    return true;
}

static bool control(struct virtio_net *n, const u8 head[HEAD], struct data *d)
{
    switch (head[0]) {
    case CLASS_RX: return control_rx(n, head[1], d);
    case CLASS_MAC: return control_mac(n, head[1], d);
    case CLASS_VLAN: return control_vlan(n, head[1], d);
    case CLASS_ANNOUNCE: return control_announce(n, head[1], d);
    case CLASS_MQ: return control_pairs(n, head[1], d);
    case CLASS_OFFLOADS: return control_offloads(n, head[1], d);
    default: return false;
    }
}

/* The answer is the first byte that the device may write. */
static void answer(struct virtio_net *n, struct virtqueue *vq, struct virtq_chain *chain)
{
    struct data d = {chain, 0, chain->out_bytes};
    u8 head[HEAD] = {0}, ack = ACK_ERR;
    if (get(&d, head, sizeof head) && control(n, head, &d))
        ack = ACK_OK;
    trace(virtio, "%s: command %u.%u, %llu bytes: %s", n->vdev.name, head[0], head[1],
          (unsigned long long)chain->out_bytes, ack == ACK_OK ? "done" : "refused");
    iov_write(chain->iov + chain->out, chain->in, 0, &ack, 1);
    virtqueue_push(vq, chain, 1);
}

void virtio_net_control(struct virtio_net *n, struct virtqueue *vq)
{
    struct virtq_chain chain;
    unsigned budget = vq->size;
    for (; budget && virtqueue_pop(vq, &chain); budget--) {
        if (chain.in_bytes == 0) {
            virtio_device_error(&n->vdev, "command without room for its answer");
            break;
        }
        answer(n, vq, &chain);
    }
    virtqueue_notify(vq);
    if (!budget)
        virtio_kick_later(&n->vdev, vq->index);
}
