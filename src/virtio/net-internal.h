/* The parts of the network card: queues (net.c), control queue (net-control.c), choice of frames
 * (net-filter.c). */
#ifndef TRAPEZE_VIRTIO_NET_INTERNAL_H
#define TRAPEZE_VIRTIO_NET_INTERNAL_H

#include "virtio/net.h"

/* Feature bits (5.1.3). */
enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MTU = 3,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_ECN = 9,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_ECN = 13,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_VLAN = 19,
    F_CTRL_RX_EXTRA = 20,
    F_GUEST_ANNOUNCE = 21,
    F_MQ = 22,
    F_CTRL_MAC_ADDR = 23,
    F_GUEST_USO4 = 54,
    F_GUEST_USO6 = 55,
    F_HOST_USO = 56,
};

/* Those that CTRL_GUEST_OFFLOADS switches (5.1.6.5.7.1). */
#define GUEST_OFFLOADS                                                                                  \
    (BIT(F_GUEST_CSUM) | BIT(F_GUEST_TSO4) | BIT(F_GUEST_TSO6) | BIT(F_GUEST_ECN) | BIT(F_GUEST_USO4) | \
     BIT(F_GUEST_USO6))

/* Numbers of the queues of a pair (5.1.2). */
static inline unsigned rx_queue(unsigned pair)
{
    return 2 * pair;
}
static inline unsigned tx_queue(unsigned pair)
{
    return 2 * pair + 1;
}

/* What the driver reads as address and status, after either changed; it is told when @tell. */
void virtio_net_update_config(struct virtio_net *n, bool tell);

/* Tells the backend what frames to the guest may leave undone. */
void virtio_net_update_offloads(struct virtio_net *n);

/* --- net-control.c --- */

/* Serves the control queue @vq. */
void virtio_net_control(struct virtio_net *n, struct virtqueue *vq);

/* --- net-filter.c --- */

/* Receives everything, knows no flow. */
void virtio_net_filter_reset(struct virtio_net *n);

/* Does the driver want to have @f? */
bool virtio_net_wants(const struct virtio_net *n, const struct net_frame *f);

/* @f goes out by @pair: what answers it comes in by the same. */
void virtio_net_learn_flow(struct virtio_net *n, const struct net_frame *f, unsigned pair);

/* The pair by which @f comes in. */
unsigned virtio_net_pair_of(const struct virtio_net *n, const struct net_frame *f);

#endif
