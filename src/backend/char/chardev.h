/*
 * The host side of a serial console: a byte stream both ways. Frontends (16550, virtio-console)
 * see only this. Callbacks run on the event loop's thread with the machine lock held; calls come
 * with the machine lock held. Nothing here blocks.
 *
 * Output: chardev_write() takes as much as fits in the host's buffer now; when it took less, the
 * frontend waits for writable(). A peer that went away swallows output (the guest must not hang
 * because nobody looks), and a new peer of a socket starts with what comes next.
 * Input: receive() is called with at most what the frontend said it has room for by
 * chardev_set_room(); bytes stay in the host (and push back to the sender) until there is room, so
 * none is lost.
 */
#ifndef TRAPEZE_BACKEND_CHAR_CHARDEV_H
#define TRAPEZE_BACKEND_CHAR_CHARDEV_H

#include <sys/types.h>

#include "base/error.h"
#include "base/event_loop.h"

#define CHAR_ANSWER 80

struct chardev;

struct chardev_ops {
    ssize_t (*write)(struct chardev *c, const u8 *data, size_t len);
    void (*set_room)(struct chardev *c, size_t room); /* how many bytes receive() may bring now */
    void (*free)(struct chardev *c);
};

struct chardev_listener {
    void (*receive)(struct chardev_listener *l, const u8 *data, size_t len);
    void (*writable)(struct chardev_listener *l);
    void (*hangup)(struct chardev_listener *l, bool connected); /* carrier; may be NULL */
    void (*line_break)(struct chardev_listener *l);             /* a serial break; may be NULL */
};

/*
 * What the user of a console asks of the machine: the keys after Ctrl-a that are none of the console's own
 * (which are a, b and h).
 */
struct chardev_keys {
    /* @answer, when it is filled, is shown to the user. On the loop's thread, with the machine lock. */
    void (*press)(void *owner, u8 key, char answer[CHAR_ANSWER]);
    void *owner;
    const char *help; /* a line for each of them */
};

struct chardev {
    const struct chardev_ops *ops;
    struct chardev_listener *listener; /* NULL: input is left in the host */
    bool connected;                    /* has a peer now: what hangup() told last */
};

/* Bytes taken, 0..len. */
static inline size_t chardev_write(struct chardev *c, const u8 *data, size_t len)
{
    ssize_t n = c->ops->write(c, data, len);
    return n < 0 ? 0 : (size_t)n;
}
static inline void chardev_set_room(struct chardev *c, size_t room)
{
    c->ops->set_room(c, room);
}
static inline void chardev_free(struct chardev *c)
{
    if (c)
        c->ops->free(c);
}

/* Swallows output, never has input. */
struct chardev *chardev_null_new(void);

/*
 * @spec: stdio, pty, unix:PATH (listening socket), file:PATH (output only), null or none.
 * stdio on a terminal goes to raw mode; Ctrl-a is its escape key, and what follows may be one of @keys, which
 * live as long as the console. The terminal is restored by free(), at exit() and on fatal signals.
 */
struct chardev *chardev_open(const char *spec, struct event_loop *loop, const struct chardev_keys *keys,
                             struct error *err);

#endif
