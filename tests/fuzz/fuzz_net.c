/*
 * Frames as a hostile guest's card hands them over: through all that changes them in software, and into the
 * network behind libslirp (ARP, DHCP, TFTP, ICMP, TCP options and reassembly). It is restricted, so nothing
 * is sent to anybody. The input is a row of records: a kind, a struct net_offload, a length, the frame.
 */
#include <stdlib.h>

#include "backend/net/offload.h"

#define MAX_RECORDS 32
#define HEAD (1 + sizeof(struct net_offload) + 2)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct fuzz {
    struct net_listener listener;
    struct net_backend *net;
    struct event_loop *loop;
    size_t total;
};

static bool count(void *to, const struct net_frame *f)
{
    struct fuzz *z = to;

    BUG_ON(f->len > NET_FRAME_MAX);
    z->total += f->len;
    BUG_ON(z->total > 64u << 20); /* what one frame may become */
    return true;
}

/* A segment's checksum is right whatever the frame was. */
static bool check_segment(void *to, const struct net_frame *f)
{
    u8 *copy = malloc(f->len);
    struct net_layers l;
    u32 len;

    memcpy(copy, f->iov[0].iov_base, f->iov[0].iov_len);
    memcpy(copy + f->iov[0].iov_len, f->iov[1].iov_base, f->iov[1].iov_len);
    BUG_ON(!net_layers_parse(&l, copy, f->len));
    len = l.end - l.transport;
    BUG_ON(net_fold(net_sum(copy + l.transport, len, net_pseudo_sum(copy, &l, len))) != 0xffff);
    free(copy);
    return count(to, f);
}

static bool receive(struct net_listener *l, const struct net_frame *f)
{
    return count(container_of(l, struct fuzz, listener), f);
}

static void writable(struct net_listener *l)
{
    (void)l;
}

static void send_frame(struct fuzz *z, u8 *frame, size_t len, struct net_offload o)
{
    struct iovec iov = {frame, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len, .offload = o};

    net_send(z->net, &f);
    event_loop_poll(z->loop, 0);
    event_loop_poll(z->loop, 0);
}

/* @frame is of exactly @len bytes, so that the sanitizer sees what goes beyond it. */
static void one(struct fuzz *z, unsigned kind, struct net_offload o, u8 *frame, size_t len)
{
    struct iovec iov = {frame, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len, .offload = o};

    z->total = 0;
    switch (kind % 8) {
    case 0: net_segment(frame, len, &o, check_segment, z); break;
    case 1: net_fragment(frame, len, o.gso_size, o.hdr_len, count, z); break;
    case 2: net_set_mss(frame, len, o.gso_size, o.flags); break;
    case 3: net_adapt(frame, &f, o.hdr_len, count, z); break;
    case 4: net_set_offloads(z->net, o.hdr_len); break;
    default: send_frame(z, frame, len, o); break;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct vclock clock;
    struct fuzz z = {.listener = {.receive = receive, .writable = writable}, .loop = event_loop_new(NULL)};
    const struct net_options options = {
        .kind = NET_USER, .user = {.restricted = true, .tftp = "/usr/share"}, .clock = &clock};

    vclock_init_manual(&clock);
    z.net = net_open(&options, z.loop, NULL);
    BUG_ON(!z.net);
    z.net->listener = &z.listener;
    for (unsigned i = 0; i < MAX_RECORDS && size >= HEAD; i++) {
        struct net_offload o;
        memcpy(&o, data + 1, sizeof o);
        size_t len = MIN((size_t)get_le16(data + HEAD - 2), size - HEAD);
        u8 *frame = malloc(len ? len : 1);
        memcpy(frame, data + HEAD, len);
        one(&z, data[0], o, frame, len);
        free(frame);
        data += HEAD + len;
        size -= HEAD + len;
    }
    net_close(z.net);
    event_loop_free(z.loop);
    return 0;
}
