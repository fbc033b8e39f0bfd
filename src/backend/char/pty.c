/*
 * Console on a pseudo-terminal. While nobody has its slave open, output is swallowed, and the master,
 * which then reports a hang-up all the time, is looked at by a timer instead of waited for.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "backend/char/char-internal.h"
#include "backend/char/stream.h"
#include "base/log.h"

#define LOOK_NS (200 * NS_PER_MS)

struct pty_char {
    struct char_stream stream;
    int master;         /* kept open: the slave's name belongs to it */
    struct timer timer; /* in host time: is the slave open now? */
};

static bool slave_is_open(const struct pty_char *p)
{
    struct pollfd pfd = {.fd = p->master};

    return poll(&pfd, 1, 0) == 0;
}

static int connect_slave(struct pty_char *p, struct error *err)
{
    int in = fcntl(p->master, F_DUPFD_CLOEXEC, 3), out = fcntl(p->master, F_DUPFD_CLOEXEC, 3);

    if (in < 0 || out < 0) {
        int e = errno;

        if (in >= 0)
            close(in);
        return error_set_errno(err, e, "console pty");
    }
    return char_stream_start(&p->stream, in, CHAR_NONBLOCK, out, CHAR_NONBLOCK, err);
}

static void look(struct timer *t)
{
    struct pty_char *p = container_of(t, struct pty_char, timer);
    struct error err = {0};

    if (!slave_is_open(p)) {
        timer_arm(t, clock_host_ns() + LOOK_NS);
    } else if (connect_slave(p, &err)) {
        log_warn("%s", err.text);
    } else {
        char_stream_set_connected(&p->stream, true);
    }
}

static void input_ended(struct char_stream *s)
{
    struct pty_char *p = container_of(s, struct pty_char, stream);

    char_stream_stop(s);
    char_stream_set_connected(s, false);
    timer_arm(&p->timer, clock_host_ns() + LOOK_NS);
}

static const struct char_stream_ops pty_ops = {.input_ended = input_ended};

static void pty_free(struct chardev *c)
{
    struct pty_char *p = container_of(c, struct pty_char, stream.base);

    timer_cancel(&p->timer);
    char_stream_release(&p->stream);
    if (p->master >= 0)
        close(p->master);
    free(p);
}

static const struct chardev_ops pty_chardev_ops = {
    .write = char_stream_write, .set_room = char_stream_set_room, .free = pty_free};

/*
 * The slave starts in raw mode, else it would echo the guest's output back as input until somebody
 * sets it. Opening and closing it also makes the master report that nobody is there.
 */
static int make_slave_raw(const char *name)
{
    struct termios tio;
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC), ret = -1;

    if (slave < 0)
        return -1;
    if (!tcgetattr(slave, &tio)) {
        cfmakeraw(&tio);
        ret = tcsetattr(slave, TCSANOW, &tio);
    }
    close(slave);
    return ret;
}

static int pty_open(struct pty_char *p, struct error *err)
{
    char name[64];

    p->master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (p->master < 0 || unlockpt(p->master) || ptsname_r(p->master, name, sizeof name) ||
        make_slave_raw(name))
        return error_set_errno(err, errno, "cannot open a pseudo-terminal");
    log_warn("console is on %s", name);
    timer_arm(&p->timer, clock_host_ns());
    return 0;
}

struct chardev *chardev_pty_new(struct event_loop *loop, struct error *err)
{
    struct pty_char *p = calloc(1, sizeof *p);

    if (!p) {
        error_set_errno(err, ENOMEM, "cannot open a pseudo-terminal");
        return NULL;
    }
    char_stream_init(&p->stream, loop, &pty_chardev_ops, &pty_ops);
    p->stream.idle_events = EPOLLPRI;
    timer_init(&p->timer, loop, NULL, look);
    p->master = -1;
    if (pty_open(p, err)) {
        pty_free(&p->stream.base);
        return NULL;
    }
    return &p->stream.base;
}
