/*
 * Console on a listening unix socket. One client is served at a time, the next waits until it
 * leaves. What a client sent before it left still reaches the guest.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/char/char-internal.h"
#include "backend/char/stream.h"
#include "base/log.h"

struct unix_char {
    struct char_stream stream;
    int listen_fd; /* -1: none */
    struct event_source listen;
    struct sockaddr_un addr;
    struct deferred leave; /* the client's output ended */
    bool bound;            /* the file at addr is ours */
    dev_t dev;
    ino_t ino;
};

/* --- clients --- */

static void client_left(struct unix_char *u)
{
    char_stream_stop(&u->stream);
    char_stream_set_connected(&u->stream, false);
    event_source_set_events(&u->listen, EPOLLIN);
}

/* Has the peer closed both ways? (One that only ended its sending still wants to read.) */
static bool hung_up(int fd)
{
    struct pollfd p = {.fd = fd};

    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

static void input_ended(struct char_stream *s)
{
    struct unix_char *u = container_of(s, struct unix_char, stream);

    if (s->output_dead || hung_up(s->out_fd)) {
        client_left(u);
        return;
    }
    s->out_idle_events = EPOLLPRI; /* to hear of the hang-up */
    if (!(s->out.events & EPOLLOUT))
        event_source_set_events(&s->out, s->out_idle_events);
}

/* A failed write comes on any thread; the hang-up that goes with it comes on the loop's. */
static void output_ended(struct char_stream *s)
{
    struct unix_char *u = container_of(s, struct unix_char, stream);

    if (s->in_fd < 0)
        event_loop_post(s->loop, &u->leave);
}

static void leave_later(struct deferred *d)
{
    struct unix_char *u = container_of(d, struct unix_char, leave);

    if (u->stream.in_fd < 0 && u->stream.output_dead)
        client_left(u);
}

static const struct char_stream_ops unix_ops = {.input_ended = input_ended, .output_ended = output_ended};

static void client_waits(struct event_source *source, u32 events)
{
    struct unix_char *u = container_of(source, struct unix_char, listen);
    int in = accept4(u->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), out;
    struct error err = {0};

    if (in < 0)
        return; /* it left again */
    out = fcntl(in, F_DUPFD_CLOEXEC, 3);
    if (out < 0) {
        close(in);
        return;
    }
    if (char_stream_start(&u->stream, in, CHAR_SOCKET, out, CHAR_SOCKET, &err)) {
        log_warn("console socket: %s", err.text);
        return;
    }
    event_source_set_events(&u->listen, 0);
    char_stream_set_connected(&u->stream, true);
}

/* --- the socket's file --- */

static int bind_error(const struct unix_char *u, int e, struct error *err)
{
    return error_set_errno(err, e, "cannot listen on '%s'", u->addr.sun_path);
}

/* A socket file that nobody listens on is left from a process that died: removes it. */
static int remove_stale(const struct unix_char *u, struct error *err)
{
    struct stat st;
    int fd, ret;

    if (lstat(u->addr.sun_path, &st) || !S_ISSOCK(st.st_mode))
        return bind_error(u, EEXIST, err);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return bind_error(u, errno, err);
    ret = connect(fd, (const struct sockaddr *)&u->addr, sizeof u->addr);
    ret = ret ? errno : 0;
    close(fd);
    if (ret != ECONNREFUSED)
        return bind_error(u, EADDRINUSE, err);
    return unlink(u->addr.sun_path) ? bind_error(u, errno, err) : 0;
}

static int bind_socket(struct unix_char *u, struct error *err)
{
    const struct sockaddr *addr = (const struct sockaddr *)&u->addr;
    struct stat st;
    int ret;

    if (bind(u->listen_fd, addr, sizeof u->addr)) {
        if (errno != EADDRINUSE)
            return bind_error(u, errno, err);
        ret = remove_stale(u, err);
        if (ret)
            return ret;
        if (bind(u->listen_fd, addr, sizeof u->addr))
            return bind_error(u, errno, err);
    }
    if (lstat(u->addr.sun_path, &st))
        return bind_error(u, errno, err);
    u->bound = true;
    u->dev = st.st_dev;
    u->ino = st.st_ino;
    return listen(u->listen_fd, 1) ? bind_error(u, errno, err) : 0;
}

/* Removes the file unless somebody put another one in its place. */
static void remove_socket(const struct unix_char *u)
{
    struct stat st;

    if (u->bound && !lstat(u->addr.sun_path, &st) && st.st_dev == u->dev && st.st_ino == u->ino)
        unlink(u->addr.sun_path);
}

/* --- life cycle --- */

static void unix_free(struct chardev *c)
{
    struct unix_char *u = container_of(c, struct unix_char, stream.base);

    event_source_remove(&u->listen);
    remove_socket(u);
    if (u->listen_fd >= 0)
        close(u->listen_fd);
    char_stream_release(&u->stream);
    event_loop_unpost(u->stream.loop, &u->leave);
    free(u);
}

static const struct chardev_ops unix_chardev_ops = {
    .write = char_stream_write, .set_room = char_stream_set_room, .free = unix_free};

static int unix_open(struct unix_char *u, const char *path, struct error *err)
{
    int ret;

    if (strlen(path) >= sizeof u->addr.sun_path)
        return error_set_errno(err, ENAMETOOLONG, "cannot listen on '%s'", path);
    u->addr.sun_family = AF_UNIX;
    memcpy(u->addr.sun_path, path, strlen(path) + 1);
    u->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (u->listen_fd < 0)
        return bind_error(u, errno, err);
    ret = bind_socket(u, err);
    return ret ? ret : event_source_add(&u->listen, u->stream.loop, u->listen_fd, EPOLLIN, client_waits, err);
}

struct chardev *chardev_unix_new(const char *path, struct event_loop *loop, struct error *err)
{
    struct unix_char *u = calloc(1, sizeof *u);

    if (!u) {
        error_set_errno(err, ENOMEM, "cannot listen on '%s'", path);
        return NULL;
    }
    char_stream_init(&u->stream, loop, &unix_chardev_ops, &unix_ops);
    u->stream.idle_events = EPOLLPRI;
    u->listen_fd = u->listen.fd = -1;
    u->leave.call = leave_later;
    if (unix_open(u, path, err)) {
        unix_free(&u->stream.base);
        return NULL;
    }
    return &u->stream.base;
}
