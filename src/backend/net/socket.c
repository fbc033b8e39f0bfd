/*
 * A cable between two machines of this host: a unix socket that keeps the bounds of messages. The first
 * machine with the path listens, the second connects; more are turned away.
 *
 * Rules
 * 1. The first message each way is a greeting, which says what the others are: a frame each, behind its
 *    struct net_offload in the host's byte order. The link is up from the other's greeting on.
 * 2. The other side is as hostile as a guest: a message that is not what rule 1 says ends the connection, and
 *    what its offload says is checked against the frame's length before the card sees it.
 * 3. Both cards may leave everything undone, since each side does in software what its own card cannot take.
 * 4. When the other side goes away, the one that listens waits for another. The one that had connected tries
 *    again once a second; where nobody listens any more it is the one that listens.
 * 5. While the card does not take frames nothing is read, so that the other side's sending stops as well.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/net/net-internal.h"
#include "backend/net/offload.h"
#include "base/log.h"

#define MAX_PARTS 64
#define FRAMES_A_TURN 64
#define WAITING_LIMIT (1 << 20) /* one frame in software pieces, at most */
#define SEND_BUFFER (4 << 20)   /* asked for; the host gives what it allows */
#define RETRY_NS NS_PER_SEC
#define TRIES 4 /* to connect or listen, while others do the same */

static const char greeting[16] = "trapeze net 1\n";

struct cable {
    struct net_backend base;
    struct event_loop *loop;
    struct sockaddr_un addr;
    int listen_fd, fd; /* -1: none */
    struct event_source listen, source;
    bool bound; /* the file at addr is ours */
    dev_t dev;
    ino_t ino;
    bool full;   /* the socket took no more */
    bool broken; /* sending failed, on any thread; the loop's thread hangs up */
    struct deferred hang_up;
    struct timer retry;
    struct net_arrivals arrivals;
    u8 *buffer;
};

static struct cable *from_base(struct net_backend *n)
{
    return container_of(n, struct cable, base);
}

static void set_link(struct cable *c, bool up)
{
    if (c->base.link == up)
        return;
    c->base.link = up;
    if (c->base.listener && c->base.listener->link_changed)
        c->base.listener->link_changed(c->base.listener, up);
}

/* --- frames --- */

static void wait_for(struct cable *c)
{
    bool room = net_queue_empty(&c->arrivals.waiting); /* rule 5 */

    if (c->fd >= 0)
        event_source_set_events(&c->source, (room ? EPOLLIN : 0u) | (c->full ? EPOLLOUT : 0u));
}

static void drained(struct net_arrivals *a)
{
    wait_for(container_of(a, struct cable, arrivals));
}

static void tell_writable(struct cable *c)
{
    c->full = false;
    if (c->base.listener)
        c->base.listener->writable(c->base.listener);
}

static void disconnect(struct cable *c)
{
    event_source_remove(&c->source);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->broken = false;
    set_link(c, false);
    if (c->full)
        tell_writable(c); /* what is sent now goes nowhere */
    if (c->listen_fd < 0)
        timer_arm(&c->retry, clock_host_ns() + RETRY_NS);
}

/* Rules 1 and 2. False: the connection is over. */
static bool take_message(struct cable *c, struct net_offload offload, size_t head, size_t len)
{
    struct iovec iov = {c->buffer, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len, .offload = offload};

    if (!c->base.link) {
        u8 said[sizeof greeting];
        if (head + len != sizeof greeting)
            return false;
        memcpy(said, &offload, head);
        memcpy(said + head, c->buffer, len);
        if (memcmp(said, greeting, sizeof greeting) != 0)
            return false;
        set_link(c, true);
        return true;
    }
    if (head < sizeof offload || len < NET_HEADER || len > NET_FRAME_MAX)
        return false;
    f.offload.flags &= NET_NEEDS_CSUM;
    if (net_offload_valid(&f.offload, len))
        net_arrivals_add(&c->arrivals, &f);
    return true;
}

/* 1: a message was read; 0: there is none; -1: the connection is over. */
static int read_message(struct cable *c)
{
    struct net_offload offload = {0};
    struct iovec iov[2] = {{&offload, sizeof offload}, {c->buffer, NET_FRAME_MAX}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT);
    size_t head;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (n == 0 || m.msg_flags & MSG_TRUNC)
        return -1;
    head = MIN((size_t)n, sizeof offload);
    return take_message(c, offload, head, (size_t)n - head) ? 1 : -1;
}

static void ready(struct event_source *s, u32 events)
{
    struct cable *c = container_of(s, struct cable, source);
    int r = 1;

    if (c->full && (events & EPOLLOUT))
        tell_writable(c);
    for (unsigned i = 0; i < FRAMES_A_TURN && r > 0 && net_queue_empty(&c->arrivals.waiting); i++)
        r = read_message(c);
    if (r < 0)
        disconnect(c);
    else
        wait_for(c);
}

static void hang_up(struct deferred *d)
{
    struct cable *c = container_of(d, struct cable, hang_up);

    if (c->broken)
        disconnect(c);
}

static ssize_t send_message(struct cable *c, const struct net_frame *f)
{
    struct net_offload offload = f->offload;
    struct iovec iov[MAX_PARTS + 1] = {{&offload, sizeof offload}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = f->iovcnt + 1};

    if (f->iovcnt <= MAX_PARTS) {
        memcpy(iov + 1, f->iov, f->iovcnt * sizeof *iov);
    } else {
        iov[1] = (struct iovec){c->buffer, net_frame_copy(f, c->buffer, NET_FRAME_MAX)};
        m.msg_iovlen = 2;
    }
    return sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool cable_send(struct net_backend *n, const struct net_frame *f)
{
    struct cable *c = from_base(n);

    if (!n->link || c->broken || f->len < NET_HEADER || f->len > NET_FRAME_MAX || send_message(c, f) >= 0)
        return true;
    if (errno == EAGAIN || errno == ENOBUFS) {
        c->full = true;
        wait_for(c);
        return false;
    }
    if (errno != EMSGSIZE) {
        c->broken = true;
        event_loop_post(c->loop, &c->hang_up);
    }
    return true;
}

static void cable_resume(struct net_backend *n)
{
    net_arrivals_resume(&from_base(n)->arrivals);
}

static void cable_set_offloads(struct net_backend *n, unsigned can)
{
    net_arrivals_set_offloads(&from_base(n)->arrivals, can);
}

/* --- finding each other --- */

static int complain(const struct cable *c, int e, struct error *err)
{
    return error_set_errno(err, e, "cannot use the network socket '%s'", c->addr.sun_path);
}

/* @fd is a connection now. */
static int connected(struct cable *c, int fd, struct error *err)
{
    int size = SEND_BUFFER, r;

    c->fd = fd;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (send(fd, greeting, sizeof greeting, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        r = complain(c, errno, err);
    else
        r = event_source_add(&c->source, c->loop, fd, EPOLLIN, ready, err);
    if (r) {
        close(fd);
        c->fd = -1;
        return r;
    }
    wait_for(c);
    return 0;
}

static void somebody_comes(struct event_source *s, u32 events)
{
    struct cable *c = container_of(s, struct cable, listen);
    int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct error err = {0};

    (void)events;
    if (fd < 0)
        return; /* it left again */
    if (c->fd >= 0)
        close(fd); /* a cable has two ends */
    else if (connected(c, fd, &err))
        log_warn("%s", err.text);
}

static int new_socket(const struct cable *c, struct error *err)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd < 0 ? complain(c, errno, err) : fd;
}

/* 0, or -ECONNREFUSED or -ENOENT where nobody listens, without @err. */
static int try_connect(struct cable *c, struct error *err)
{
    int fd = new_socket(c, err);

    if (fd < 0)
        return fd;
    if (connect(fd, (const struct sockaddr *)&c->addr, sizeof c->addr) == 0)
        return connected(c, fd, err);
    int e = errno;
    close(fd);
    return e == ECONNREFUSED || e == ENOENT ? -e : complain(c, e, err);
}

/* The file of one that died: only a socket is taken away. */
static int remove_stale(const struct cable *c, struct error *err)
{
    struct stat st;

    if (lstat(c->addr.sun_path, &st))
        return 0; /* somebody else did */
    if (!S_ISSOCK(st.st_mode))
        return complain(c, EEXIST, err);
    return unlink(c->addr.sun_path) && errno != ENOENT ? complain(c, errno, err) : 0;
}

static void stop_listening(struct cable *c)
{
    struct stat st;

    event_source_remove(&c->listen);
    if (c->bound && !lstat(c->addr.sun_path, &st) && st.st_dev == c->dev && st.st_ino == c->ino)
        unlink(c->addr.sun_path);
    if (c->listen_fd >= 0)
        close(c->listen_fd);
    c->listen_fd = -1;
    c->bound = false;
}

/* 0, or -EADDRINUSE without @err when another was faster. */
static int try_listen(struct cable *c, struct error *err)
{
    struct stat st;
    int r;

    c->listen_fd = new_socket(c, err);
    if (c->listen_fd < 0)
        return c->listen_fd;
    if (bind(c->listen_fd, (const struct sockaddr *)&c->addr, sizeof c->addr)) {
        r = errno == EADDRINUSE ? -EADDRINUSE : complain(c, errno, err);
    } else if (listen(c->listen_fd, 4) || lstat(c->addr.sun_path, &st)) {
        r = complain(c, errno, err);
    } else {
        c->bound = true;
        c->dev = st.st_dev;
        c->ino = st.st_ino;
        r = event_source_add(&c->listen, c->loop, c->listen_fd, EPOLLIN, somebody_comes, err);
    }
    if (r)
        stop_listening(c);
    return r;
}

/* Rule 4. */
static int find_other(struct cable *c, struct error *err)
{
    for (unsigned i = 0; i < TRIES; i++) {
        int r = try_connect(c, err);
        if (r == -ECONNREFUSED)
            r = remove_stale(c, err) ? -EEXIST : -ENOENT;
        if (r != -ENOENT)
            return r;
        r = try_listen(c, err);
        if (r != -EADDRINUSE)
            return r;
    }
    return complain(c, EADDRINUSE, err);
}

static void try_again(struct timer *t)
{
    struct cable *c = container_of(t, struct cable, retry);

    if (c->fd < 0 && c->listen_fd < 0 && find_other(c, NULL))
        timer_arm(&c->retry, clock_host_ns() + RETRY_NS);
}

/* --- life --- */

static void cable_close(struct net_backend *n)
{
    struct cable *c = from_base(n);

    n->listener = NULL;
    stop_listening(c);
    event_source_remove(&c->source);
    if (c->fd >= 0)
        close(c->fd);
    timer_cancel(&c->retry);
    event_loop_unpost(c->loop, &c->hang_up);
    net_arrivals_release(&c->arrivals);
    free(c->buffer);
    free(c);
}

static const struct net_backend_ops cable_ops = {
    .send = cable_send, .resume = cable_resume, .set_offloads = cable_set_offloads, .close = cable_close};

static int start(struct cable *c, const char *path, struct error *err)
{
    if (strlen(path) >= sizeof c->addr.sun_path)
        return error_set_errno(err, ENAMETOOLONG, "cannot use the network socket '%s'", path);
    c->addr.sun_family = AF_UNIX;
    memcpy(c->addr.sun_path, path, strlen(path) + 1);
    return find_other(c, err);
}

struct net_backend *net_socket_open(const struct net_options *o, struct event_loop *loop, struct error *err)
{
    struct cable *c = calloc(1, sizeof *c);

    if (c)
        c->buffer = malloc(NET_FRAME_MAX);
    if (!c || !c->buffer) {
        error_set_errno(err, ENOMEM, "cannot use the network socket '%s'", o->socket);
        free(c);
        return NULL;
    }
    c->base = (struct net_backend){
        .ops = &cable_ops,
        .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_TSO_ECN | NET_CAN_USO,
        .queues = NET_MAX_QUEUES,
    };
    c->loop = loop;
    c->listen_fd = c->fd = c->listen.fd = c->source.fd = -1;
    c->hang_up.call = hang_up;
    timer_init(&c->retry, loop, NULL, try_again);
    net_arrivals_init(&c->arrivals, &c->base, WAITING_LIMIT, loop, drained);
    if (start(c, o->socket, err)) {
        cable_close(&c->base);
        return NULL;
    }
    return &c->base;
}
