/*
 * virtio-net (VIRTIO 1.2, 5.1): a network card with one or more pairs of queues and a control queue,
 * in front of a network backend.
 *
 * Frames are copied once, by the card into the driver's buffers; those that the guest sends are handed to the
 * backend where they lie. What one side leaves undone (checksums, cutting into segments) the other has said
 * that it can do: the card offers its driver what the backend can take, and tells the backend what the driver
 * accepted.
 *
 * A frame that the backend cannot take now stays in its ring, and so does the rest of the queue, until
 * writable(); a frame for which the driver has no buffers stays with the backend until a doorbell.
 * Without a driver, without a link and past its filters a frame is dropped, as on a real card.
 */
#ifndef TRAPEZE_VIRTIO_NET_H
#define TRAPEZE_VIRTIO_NET_H

#include "backend/net/net.h"
#include "virtio/virtio-pci.h"

#define VIRTIO_NET_MAX_PAIRS 8
#define VIRTIO_NET_QUEUE_SIZE 256
#define VIRTIO_NET_MACS 64  /* of each kind that the filter knows; with a longer table all come in */
#define VIRTIO_NET_MERGE 64 /* chains that one frame may take */
#define VIRTIO_NET_FLOWS 1024

struct virtio_net_config {
    u8 mac[6];
    unsigned pairs; /* 1..VIRTIO_NET_MAX_PAIRS; 0 means 1. One for each vCPU is best. */
    u16 mtu;        /* 0: the driver is not told */
};

/* A pair's half that sends. */
struct virtio_net_tx {
    bool held; /* the chain waits for the backend */
    bool bad;  /* it is to be dropped */
    struct virtq_chain chain;
    struct net_frame frame; /* in it */
};

/* Addresses that the driver wants to hear; more than fit: all of the kind. */
struct virtio_net_macs {
    u8 mac[VIRTIO_NET_MACS][6];
    u16 count;
    bool all;
};

struct virtio_net {
    struct virtio_device vdev;
    struct virtio_pci pci; /* the board's device is pci.function.dev */
    struct net_backend *backend;
    struct net_listener listener;
    struct virtio_net_config given;

    /* As the driver left it, saved. */
    u8 mac[6];
    u16 status;       /* in the configuration */
    bool unplugged;   /* virtio_net_set_link() */
    bool announce;    /* the driver is to make itself known in its network (5.1.6.5.4) */
    u16 active_pairs; /* in use */
    u64 offloads;     /* of GUEST_..., in use now */
    bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
    struct virtio_net_macs unicast, multicast;
    u8 vlan[4096 / 8];

    /* For the moment. */
    struct virtio_net_tx tx[VIRTIO_NET_MAX_PAIRS];
    struct virtq_chain rx_first, rx_next;
    struct virtq_taken rx_taken[VIRTIO_NET_MERGE];
    bool rx_waits;                /* the backend has a frame for which there was no buffer */
    u32 rx_touched;               /* pairs whose driver has not been notified of what came */
    struct deferred rx_notify;    /* at the end of a burst */
    struct deferred announce_due; /* after a restore */
    u8 flow[VIRTIO_NET_FLOWS];    /* pair by which a flow was sent last (5.1.6.5.6.1) */
};

/* The backend stays the caller's: close it after virtio_net_release(). */
int virtio_net_init(struct virtio_net *n, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct net_backend *backend,
                    const struct virtio_net_config *config, struct error *err);
void virtio_net_release(struct virtio_net *n);

/* Pulls the cable out, or plugs it in again. */
void virtio_net_set_link(struct virtio_net *n, bool up);

/* The machine may be at another place in the network: asks the driver to make itself known, if it can. */
void virtio_net_announce(struct virtio_net *n);

#endif
