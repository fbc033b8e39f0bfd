/* Buffered input and non-blocking output of character backends. */
#include "backend/char/stream.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

#define NO_BREAK (~(size_t)0)
/* A pipe that polls writable takes this much without blocking (pipe(7)); a terminal may take just 1. */
#define SHARED_CHUNK_PIPE 4096
#define SHARED_CHUNK_TTY 1

/* --- system calls that do not block --- */

static bool polls_ready(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    return poll(&p, 1, 0) > 0;
}

static ssize_t read_now(const struct char_stream *s, void *buf, size_t len)
{
    if (s->in_mode == CHAR_SOCKET)
        return recv(s->in_fd, buf, len, MSG_DONTWAIT);
    if (s->in_mode == CHAR_SHARED && !polls_ready(s->in_fd, POLLIN)) {
        errno = EAGAIN;
        return -1;
    }
    return read(s->in_fd, buf, len);
}

static ssize_t write_now(const struct char_stream *s, const void *buf, size_t len)
{
    if (s->out_mode == CHAR_SOCKET)
        return send(s->out_fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (s->out_mode == CHAR_SHARED) {
        size_t chunk = isatty(s->out_fd) ? SHARED_CHUNK_TTY : SHARED_CHUNK_PIPE;

        if (!polls_ready(s->out_fd, POLLOUT)) {
            errno = EAGAIN;
            return -1;
        }
        len = MIN(len, chunk);
    }
    return write(s->out_fd, buf, len);
}

static bool try_again(int e)
{
    return e == EAGAIN || e == EWOULDBLOCK || e == EINTR;
}

/* --- input --- */

static void update_input(struct char_stream *s)
{
    bool wants = s->len - s->pos < s->limit;

    if (s->in_fd >= 0)
        event_source_set_events(&s->in, wants ? EPOLLIN | s->idle_events : s->idle_events);
}

/* Makes space for one more read behind the bytes that wait. */
static bool make_space(struct char_stream *s)
{
    if (s->pos) {
        memmove(s->buffer, s->buffer + s->pos, s->len - s->pos);
        if (s->break_at != NO_BREAK)
            s->break_at -= s->pos;
        s->len -= s->pos;
        s->pos = 0;
    }
    if (s->cap - s->len < CHAR_BUFFER) {
        size_t cap = MAX(s->cap * 2, (size_t)2 * CHAR_BUFFER);
        u8 *buffer = realloc(s->buffer, cap);

        if (!buffer)
            return false;
        s->buffer = buffer;
        s->cap = cap;
    }
    return true;
}

/* One read: bytes got (before the filter), 0 when there is nothing now, -1 when input has ended. */
static ssize_t read_some(struct char_stream *s)
{
    ssize_t n;

    if (!make_space(s))
        return 0;
    n = read_now(s, s->buffer + s->len, CHAR_BUFFER);
    if (n < 0)
        return try_again(errno) ? 0 : -1;
    if (!n)
        return -1;
    s->len += s->ops->filter ? s->ops->filter(s, s->buffer + s->len, n) : (size_t)n;
    return n;
}

static void hand_out_break(struct char_stream *s)
{
    struct chardev_listener *l = s->base.listener;

    s->break_at = NO_BREAK;
    if (l->line_break)
        l->line_break(l);
}

/* Gives the frontend what it has room for. Its receive() may say that there is more room. */
static void hand_out(struct char_stream *s)
{
    while (s->base.listener && s->room) {
        struct chardev_listener *l = s->base.listener;
        size_t n = MIN(s->len, s->break_at) - s->pos;
        const u8 *data = s->buffer + s->pos;

        if (s->break_at == s->pos) {
            hand_out_break(s);
            continue;
        }
        if (!n)
            break;
        n = MIN(n, s->room);
        s->pos += n;
        s->room -= n;
        l->receive(l, data, n);
    }
    update_input(s);
}

static void deliver_later(struct deferred *d)
{
    hand_out(container_of(d, struct char_stream, deliver));
}

static void end_input(struct char_stream *s)
{
    event_source_remove(&s->in);
    close(s->in_fd);
    s->in_fd = -1;
    if (s->ops->input_ended)
        s->ops->input_ended(s);
}

static void input_ready(struct event_source *source, u32 events)
{
    struct char_stream *s = container_of(source, struct char_stream, in);
    bool ended = s->len - s->pos < s->limit && read_some(s) < 0;

    if (!ended && s->idle_events && (events & (EPOLLHUP | EPOLLERR))) {
        char_stream_slurp(s); /* the peer left: make place for the next one */
        ended = true;
    }
    hand_out(s);
    if (ended && s->in_fd >= 0)
        end_input(s);
}

void char_stream_slurp(struct char_stream *s)
{
    while (s->in_fd >= 0 && s->len - s->pos < CHAR_BUFFER_MAX && read_some(s) > 0)
        ;
}

void char_stream_set_room(struct chardev *c, size_t room)
{
    struct char_stream *s = container_of(c, struct char_stream, base);

    s->room = room;
    if (room && (s->pos < s->len || s->break_at == s->pos))
        event_loop_post(s->loop, &s->deliver);
}

void char_stream_break(struct char_stream *s, size_t ahead)
{
    s->break_at = s->len + ahead;
}

/* --- output --- */

static void end_output(struct char_stream *s)
{
    s->output_dead = true;
    s->out_pos = s->out_len = 0;
    if (s->ops->output_ended)
        s->ops->output_ended(s);
}

/* Writes until the peer takes no more; returns how much went out. A dead peer takes everything. */
static size_t write_through(struct char_stream *s, const u8 *data, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n;

        if (s->output_dead || s->out_fd < 0)
            return len;
        n = write_now(s, data + done, len - done);
        if (n >= 0)
            done += n;
        else if (!try_again(errno))
            end_output(s);
        else if (errno != EINTR)
            break;
    }
    return done;
}

/* Keeps what the peer does not take now; returns how much there was place for. */
static size_t keep(struct char_stream *s, const u8 *data, size_t len)
{
    if (!s->out_buffer)
        s->out_buffer = malloc(CHAR_OUTPUT_BUFFER);
    if (!s->out_buffer)
        return 0;
    if (s->out_pos && s->out_len + len > CHAR_OUTPUT_BUFFER) {
        memmove(s->out_buffer, s->out_buffer + s->out_pos, s->out_len - s->out_pos);
        s->out_len -= s->out_pos;
        s->out_pos = 0;
    }
    len = MIN(len, CHAR_OUTPUT_BUFFER - s->out_len);
    memcpy(s->out_buffer + s->out_len, data, len);
    s->out_len += len;
    return len;
}

ssize_t char_stream_write(struct chardev *c, const u8 *data, size_t len)
{
    struct char_stream *s = container_of(c, struct char_stream, base);
    size_t done = 0;

    if (s->out_pos == s->out_len)
        done = write_through(s, data, len);
    if (done == len)
        return len;
    done += keep(s, data + done, len - done);
    s->refused = done < len;
    event_source_set_events(&s->out, EPOLLOUT);
    return done;
}

/* Writes what was kept; true when nothing is left. */
static bool flush(struct char_stream *s)
{
    if (s->out_pos < s->out_len)
        s->out_pos += write_through(s, s->out_buffer + s->out_pos, s->out_len - s->out_pos);
    if (s->out_pos < s->out_len)
        return false;
    s->out_pos = s->out_len = 0;
    return true;
}

static void tell_writable(struct char_stream *s)
{
    struct chardev_listener *l = s->base.listener;

    if (!s->refused)
        return;
    s->refused = false;
    if (l && l->writable)
        l->writable(l);
}

static void output_ready(struct event_source *source, u32 events)
{
    struct char_stream *s = container_of(source, struct char_stream, out);

    if ((events & (EPOLLHUP | EPOLLERR)) && !s->output_dead)
        end_output(s);
    if (flush(s))
        event_source_set_events(source, s->out_idle_events);
    if (s->out_len - s->out_pos <= CHAR_OUTPUT_BUFFER / 2)
        tell_writable(s);
}

/* At the end: waits for the peer to take what was kept, as long as it takes anything. */
static void drain(struct char_stream *s)
{
    struct pollfd p = {.fd = s->out_fd, .events = POLLOUT};

    while (!flush(s)) {
        if (poll(&p, 1, s->patience_ms) > 0)
            continue;
        log_warn("console: %zu bytes of output were not taken", s->out_len - s->out_pos);
        return;
    }
}

/* --- life cycle --- */

void char_stream_set_connected(struct char_stream *s, bool connected)
{
    struct chardev_listener *l = s->base.listener;

    if (s->base.connected == connected)
        return;
    s->base.connected = connected;
    if (l && l->hangup)
        l->hangup(l, connected);
}

void char_stream_init(struct char_stream *s, struct event_loop *loop, const struct chardev_ops *chardev_ops,
                      const struct char_stream_ops *ops)
{
    *s = (struct char_stream){
        .base = {.ops = chardev_ops},
        .ops = ops,
        .loop = loop,
        .in_fd = -1,
        .out_fd = -1,
        .in = {.fd = -1},
        .out = {.fd = -1},
        .deliver = {.call = deliver_later},
        .limit = CHAR_BUFFER,
        .break_at = NO_BREAK,
        .patience_ms = CHAR_PATIENCE_MS,
    };
}

int char_stream_start(struct char_stream *s, int in_fd, enum char_mode in_mode, int out_fd,
                      enum char_mode out_mode, struct error *err)
{
    int ret = 0;

    s->in_fd = in_fd;
    s->in_mode = in_mode;
    s->out_fd = out_fd;
    s->out_mode = out_mode;
    s->output_dead = false;
    s->out_idle_events = 0;
    if (in_fd >= 0)
        ret = event_source_add(&s->in, s->loop, in_fd, EPOLLIN | s->idle_events, input_ready, err);
    if (!ret && out_fd >= 0)
        ret = event_source_add(&s->out, s->loop, out_fd, 0, output_ready, err);
    if (ret)
        char_stream_stop(s);
    else
        update_input(s);
    return ret;
}

void char_stream_stop(struct char_stream *s)
{
    event_source_remove(&s->in);
    event_source_remove(&s->out);
    if (s->in_fd >= 0)
        close(s->in_fd);
    if (s->out_fd >= 0)
        close(s->out_fd);
    s->in_fd = s->out_fd = -1;
    s->out_pos = s->out_len = 0;
    tell_writable(s); /* from here on everything is taken */
}

void char_stream_release(struct char_stream *s)
{
    s->base.listener = NULL;
    event_loop_unpost(s->loop, &s->deliver);
    drain(s);
    char_stream_stop(s);
    free(s->buffer);
    free(s->out_buffer);
}
