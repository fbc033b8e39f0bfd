/*
 * The host's side of a network card: Ethernet frames both ways. The card (virtio-net) and the filters in
 * front of a backend see only this. Calls come with the machine lock held, on any thread; callbacks run on
 * the event loop's thread with the machine lock held. Nothing here blocks.
 *
 * Frames carry offloads as virtio has them (VIRTIO 1.2, 5.1.6): a checksum still to be made, a TCP segment
 * larger than the wire's. A side hands over only what the other has said that it can take: the backend in
 * `can`, the card by net_set_offloads().
 *
 * Neither side drops what the other cannot take now: net_send() returns false and the frame stays with the
 * card until writable(); receive() returns false and the frame stays with the backend, which stops reading
 * from the host, until net_resume().
 */
#ifndef TRAPEZE_BACKEND_NET_NET_H
#define TRAPEZE_BACKEND_NET_NET_H

#include <netinet/in.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/event_loop.h"

#define NET_HEADER 14                  /* of an Ethernet frame, without a VLAN tag */
#define NET_FRAME_MAX (64 * 1024 + 32) /* the longest frame with segmentation left to do */

/* What a side can take, by bits. */
enum {
    NET_CAN_CSUM = 1,    /* frames whose checksum is to be made */
    NET_CAN_TSO4 = 2,    /* TCP over IPv4 to be cut into segments */
    NET_CAN_TSO6 = 4,    /* over IPv6 */
    NET_CAN_TSO_ECN = 8, /* with the congestion bit set */
    NET_CAN_USO = 16,    /* UDP to be cut into datagrams */
};

/* struct virtio_net_hdr without num_buffers, in the host's byte order. */
struct net_offload {
    u8 flags;    /* NET_NEEDS_CSUM, NET_DATA_VALID */
    u8 gso_type; /* NET_GSO_... */
    u16 hdr_len, gso_size, csum_start, csum_offset;
};
enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5, NET_GSO_ECN = 0x80 };

/* From the destination's address on, without a check sequence. The sender's buffers, for the call only. */
struct net_frame {
    const struct iovec *iov;
    unsigned iovcnt;
    size_t len; /* of all of them, at most NET_FRAME_MAX */
    struct net_offload offload;
    unsigned queue; /* pair of queues that it came by or should go by */
};

struct net_backend;

struct net_listener {
    bool (*receive)(struct net_listener *l, const struct net_frame *f); /* taken; false: keep it */
    void (*writable)(struct net_listener *l);
    void (*link_changed)(struct net_listener *l, bool up); /* may be NULL */
};

struct net_backend_ops {
    bool (*send)(struct net_backend *n, const struct net_frame *f);
    void (*resume)(struct net_backend *n);
    void (*set_offloads)(struct net_backend *n, unsigned can); /* may be NULL */
    void (*close)(struct net_backend *n);
};

struct net_backend {
    const struct net_backend_ops *ops;
    struct net_listener *listener; /* NULL: frames from the host are dropped */
    unsigned can;                  /* NET_CAN_...: of frames sent to it */
    unsigned queues;               /* pairs that the host serves, 1 or more */
    bool link;                     /* up: what link_changed() told last */
};

/* True when @f was taken, or dropped because nobody can have it; false: after writable(), again. */
static inline bool net_send(struct net_backend *n, const struct net_frame *f)
{
    return n->ops->send(n, f);
}
/* The card has room again. */
static inline void net_resume(struct net_backend *n)
{
    n->ops->resume(n);
}
/* What frames to the card may leave undone, NET_CAN_...; nothing until it is called, and after a reset. */
static inline void net_set_offloads(struct net_backend *n, unsigned can)
{
    if (n->ops->set_offloads)
        n->ops->set_offloads(n, can);
}
static inline void net_close(struct net_backend *n)
{
    if (n)
        n->ops->close(n);
}

/* --- opening --- */

enum net_kind { NET_NULL, NET_USER, NET_TAP, NET_SOCKET };

#define NET_MAX_FORWARDS 64
#define NET_MAX_QUEUES 8

/* A port of the host that leads to one of the guest. */
struct net_forward {
    bool udp;
    struct in_addr host, guest; /* guest 0.0.0.0: the first address that DHCP gives */
    u16 host_port, guest_port;  /* in the host's byte order */
};

/* Addresses that are 0.0.0.0 take their usual place in the network, which is 10.0.2.0/24 by default. */
struct net_user_options {
    struct in_addr network, host, dns, dhcp_start;
    unsigned prefix; /* of the network's address, bits; 0: 24 */
    bool restricted; /* the guest reaches nothing but DHCP and TFTP; forwarded ports reach it */
    bool loopback;   /* the gateway's address leads to the host's own loopback services */
    bool no_ipv6;
    const char *tftp, *bootfile, *hostname, *domain; /* NULL: none */
    struct net_forward forward[NET_MAX_FORWARDS];
    unsigned forward_count;
};

/* Strings live as long as the backend. */
struct net_options {
    enum net_kind kind;
    struct net_user_options user;
    const char *tap;            /* name of the interface; NULL: the file descriptor is used */
    int fd;                     /* of a tap, which is closed with the backend */
    const char *socket;         /* path of the socket between two machines */
    unsigned queues;            /* pairs, 0 is 1 */
    unsigned mtu;               /* the guest's, 0: 1500 */
    bool link_down;             /* unplugged from the start on */
    const char *pcap;           /* file for a copy of all frames; NULL: none */
    u64 bps;                    /* bytes a second each way; 0: no limit */
    const struct vclock *clock; /* time stands still with it; NULL: the host's */
};

/* What @o says, filters included. On the loop's thread, or before the loop runs. NULL with @err. */
struct net_backend *net_open(const struct net_options *o, struct event_loop *loop, struct error *err);

/* Swallows what is sent, never has a frame. NULL with @err. */
struct net_backend *net_null_open(struct error *err);

#endif
