/*
 * A tap interface of the host: one file descriptor for each pair of queues, frames with the header of virtio,
 * so that checksums and segmentation are left to the kernel where it can do them
 * (Documentation/networking/tuntap).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/net/net-internal.h"
#include "backend/net/offload.h"

#define MAX_PARTS 64
#define FRAMES_A_TURN 64 /* read from one queue before others have their turn */
#define WAITING_LIMIT                                                                    \
    (1 << 20) /* bytes read that the card has not taken: a few frames in software pieces \
               */

#ifndef TUN_F_USO4 /* Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct tap_queue {
    struct tap *tap;
    int fd;
    struct event_source source;
    bool full; /* the kernel took no more */
};

struct tap {
    struct net_backend base;
    struct event_loop *loop;
    bool header; /* frames come with a struct net_offload */
    struct net_arrivals arrivals;
    u8 *buffer;
    struct tap_queue queue[NET_MAX_QUEUES];
};

static struct tap *from_base(struct net_backend *n)
{
    return container_of(n, struct tap, base);
}

/* --- from the host --- */

static void wait_for(struct tap_queue *q)
{
    bool room = net_queue_empty(&q->tap->arrivals.waiting);

    event_source_set_events(&q->source, (room ? EPOLLIN : 0u) | (q->full ? EPOLLOUT : 0u));
}

static void wait_for_all(struct tap *t)
{
    for (unsigned i = 0; i < t->base.queues; i++)
        wait_for(&t->queue[i]);
}

/* False when there is none. */
static bool read_frame(struct tap_queue *q)
{
    struct tap *t = q->tap;
    struct net_offload offload = {0};
    size_t head = t->header ? sizeof offload : 0;
    struct iovec in[2] = {{&offload, head}, {t->buffer, NET_FRAME_MAX}};
    struct iovec out = {t->buffer, 0};
    struct net_frame f = {.iov = &out, .iovcnt = 1, .queue = (unsigned)(q - t->queue)};
    ssize_t n = t->header ? readv(q->fd, in, 2) : read(q->fd, t->buffer, NET_FRAME_MAX);

    if (n <= (ssize_t)head)
        return false;
    out.iov_len = f.len = (size_t)n - head;
    f.offload = offload;
    if (f.len >= NET_HEADER)
        net_arrivals_add(&t->arrivals, &f);
    return true;
}

static void ready(struct event_source *s, u32 events)
{
    struct tap_queue *q = container_of(s, struct tap_queue, source);
    struct tap *t = q->tap;

    if (q->full && (events & ~(u32)EPOLLIN)) {
        q->full = false;
        if (t->base.listener)
            t->base.listener->writable(t->base.listener);
    }
    for (unsigned i = 0; i < FRAMES_A_TURN && net_queue_empty(&t->arrivals.waiting); i++) {
        if (!read_frame(q))
            break;
    }
    wait_for_all(t);
}

/* What waited is with the card: there is room to read again. */
static void drained(struct net_arrivals *a)
{
    wait_for_all(container_of(a, struct tap, arrivals));
}

/* --- from the card --- */

static ssize_t write_frame(const struct tap *t, int fd, const struct net_frame *f)
{
    struct net_offload offload = f->offload;
    struct iovec iov[MAX_PARTS + 1] = {{&offload, t->header ? sizeof offload : 0}};
    unsigned n = f->iovcnt;

    if (n <= MAX_PARTS) {
        memcpy(iov + 1, f->iov, n * sizeof *iov);
    } else {
        iov[1] = (struct iovec){t->buffer, net_frame_copy(f, t->buffer, NET_FRAME_MAX)};
        n = 1;
    }
    return writev(fd, iov, (int)n + 1);
}

/* An interface that is down, or one that finds a frame broken, swallows it. */
static bool tap_send(struct net_backend *n, const struct net_frame *f)
{
    struct tap *t = from_base(n);
    struct tap_queue *q = &t->queue[f->queue % t->base.queues];

    if (write_frame(t, q->fd, f) >= 0 || errno != EAGAIN)
        return true;
    q->full = true;
    wait_for(q);
    return false;
}

static void tap_resume(struct net_backend *n)
{
    net_arrivals_resume(&from_base(n)->arrivals);
}

/* What the kernel may leave undone in what it hands over. Without a header it leaves nothing. */
static void tap_set_offloads(struct net_backend *n, unsigned can)
{
    struct tap *t = from_base(n);
    unsigned flags = 0;

    if (can & NET_CAN_CSUM) {
        flags = TUN_F_CSUM | (can & NET_CAN_TSO4 ? TUN_F_TSO4 : 0u) | (can & NET_CAN_TSO6 ? TUN_F_TSO6 : 0u) |
                (can & NET_CAN_TSO_ECN ? TUN_F_TSO_ECN : 0u) |
                (can & t->base.can & NET_CAN_USO ? TUN_F_USO4 | TUN_F_USO6 : 0u);
    }
    for (unsigned i = 0; t->header && i < n->queues; i++)
        ioctl(t->queue[i].fd, TUNSETOFFLOAD, flags);
    net_arrivals_set_offloads(&t->arrivals, can);
}

/* --- life --- */

static void tap_close(struct net_backend *n)
{
    struct tap *t = from_base(n);

    for (unsigned i = 0; i < n->queues; i++) {
        event_source_remove(&t->queue[i].source);
        if (t->queue[i].fd >= 0)
            close(t->queue[i].fd);
    }
    net_arrivals_release(&t->arrivals);
    free(t->buffer);
    free(t);
}

static const struct net_backend_ops tap_ops = {
    .send = tap_send, .resume = tap_resume, .set_offloads = tap_set_offloads, .close = tap_close};

/* One queue of interface @name. */
static int open_queue(const char *name, bool several, struct error *err)
{
    struct ifreq ifr = {.ifr_flags =
                            (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several ? IFF_MULTI_QUEUE : 0))};
    int fd;

    if (strlen(name) >= IFNAMSIZ)
        return error_set(err, EINVAL, "tap '%.40s': the name of an interface has at most %d bytes", name,
                         IFNAMSIZ - 1);
    memcpy(ifr.ifr_name, name, strlen(name) + 1);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open /dev/net/tun for tap '%s'", name);
    if (ioctl(fd, TUNSETIFF, &ifr) == 0)
        return fd;
    int e = errno;
    close(fd);
    if (e == EPERM)
        return error_set_errno(err, e,
                               "cannot use tap '%s'; root can make it with 'ip tuntap add dev %s mode tap%s "
                               "user %u'",
                               name, name, several ? " multi_queue" : "", (unsigned)getuid());
    if (e == EINVAL)
        return error_set_errno(err, e, "cannot use tap '%s' with %s (was it made with%s multi_queue?)", name,
                               several ? "several queues" : "one queue", several ? "out" : "");
    return error_set_errno(err, e, "cannot use tap '%s'", name);
}

/* An inherited descriptor, as it was made. */
static int take_descriptor(struct tap *t, int fd, struct error *err)
{
    struct ifreq ifr = {0};

    if (ioctl(fd, TUNGETIFF, &ifr) < 0)
        return error_set_errno(err, errno, "file descriptor %d is not a tap interface", fd);
    if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI))
        return error_set(err, EINVAL, "file descriptor %d is no tap made with IFF_TAP and IFF_NO_PI", fd);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return error_set_errno(err, errno, "cannot use file descriptor %d", fd);
    t->header = ifr.ifr_flags & IFF_VNET_HDR;
    return fd;
}

static void learn_offloads(struct tap *t)
{
    int size = sizeof(struct net_offload), fd = t->queue[0].fd;

    if (t->header && ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
        t->header = false;
    if (!t->header)
        return;
    t->base.can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_TSO_ECN;
    if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6) == 0)
        t->base.can |= NET_CAN_USO;
    tap_set_offloads(&t->base, 0);
}

static int open_all(struct tap *t, const struct net_options *o, struct error *err)
{
    unsigned queues = MAX(o->queues, 1u);

    if (!o->tap && queues > 1)
        return error_set(err, EINVAL, "a tap by its file descriptor has one pair of queues");
    t->header = true;
    for (; t->base.queues < queues; t->base.queues++) {
        struct tap_queue *q = &t->queue[t->base.queues];
        int fd = o->tap ? open_queue(o->tap, queues > 1, err) : take_descriptor(t, o->fd, err);
        if (fd < 0)
            return fd;
        *q = (struct tap_queue){.tap = t, .fd = fd, .source.fd = -1};
        if (event_source_add(&q->source, t->loop, fd, EPOLLIN, ready, err)) {
            close(fd);
            return -EIO;
        }
    }
    learn_offloads(t);
    return 0;
}

struct net_backend *net_tap_open(const struct net_options *o, struct event_loop *loop, struct error *err)
{
    struct tap *t = calloc(1, sizeof *t);

    if (t)
        t->buffer = malloc(NET_FRAME_MAX);
    if (!t || !t->buffer) {
        error_set_errno(err, ENOMEM, "cannot use a tap");
        free(t);
        return NULL;
    }
    t->base = (struct net_backend){.ops = &tap_ops, .link = true};
    t->loop = loop;
    net_arrivals_init(&t->arrivals, &t->base, WAITING_LIMIT, loop, drained);
    if (open_all(t, o, err)) {
        tap_close(&t->base);
        return NULL;
    }
    return &t->base;
}
