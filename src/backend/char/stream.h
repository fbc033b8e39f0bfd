/*
 * What the character backends on file descriptors share: an input buffer that is filled as long as
 * it has space and handed out as the frontend has room, and output that never blocks. A buffer
 * holds what a stalled peer does not take, for frontends that cannot wait long (a kernel that polls
 * its UART gives up after 10 ms); it is written out at the latest by the release.
 *
 * Locking is that of chardev.h: everything runs under the machine lock.
 */
#ifndef TRAPEZE_BACKEND_CHAR_STREAM_H
#define TRAPEZE_BACKEND_CHAR_STREAM_H

#include "backend/char/chardev.h"

#define CHAR_BUFFER 4096           /* read ahead normally */
#define CHAR_BUFFER_MAX (1u << 20) /* kept when a peer leaves, or so that escape keys are seen */
#define CHAR_OUTPUT_BUFFER (256u << 10)
#define CHAR_PATIENCE_MS 1000

/* How to keep a descriptor from blocking. */
enum char_mode {
    CHAR_NONBLOCK, /* O_NONBLOCK is set on a description that is ours alone */
    CHAR_SOCKET,   /* MSG_DONTWAIT on each call: the description is shared */
    CHAR_SHARED,   /* poll(2) before each call */
    CHAR_FILE,     /* a plain file: does not block */
};

struct char_stream;

struct char_stream_ops {
    /* Sees what was read, may remove bytes in place: returns how many are left. May be NULL. */
    size_t (*filter)(struct char_stream *s, u8 *data, size_t len);
    /* No more input will come, or output is no longer taken: may close and reopen. May be NULL. */
    void (*input_ended)(struct char_stream *s);
    void (*output_ended)(struct char_stream *s);
};

struct char_stream {
    struct chardev base;
    const struct char_stream_ops *ops;
    struct event_loop *loop;
    int in_fd, out_fd; /* owned; -1: none */
    enum char_mode in_mode, out_mode;
    struct event_source in, out;
    struct deferred deliver;
    u8 *buffer;
    size_t pos, len, cap;    /* bytes [pos, len) wait for the frontend */
    size_t limit;            /* reads stop when so many wait */
    size_t room;             /* what the frontend takes */
    size_t break_at;         /* a break comes when pos gets there, ~0: none */
    u32 idle_events;         /* waited for while not reading: EPOLLPRI to hear of a hang-up, or 0 */
    u32 out_idle_events;     /* the same for the output while it takes everything */
    u8 *out_buffer;          /* made when it is first needed */
    size_t out_pos, out_len; /* bytes [out_pos, out_len) wait for the peer */
    int patience_ms;         /* release waits so long for a peer that takes nothing */
    bool refused;            /* the frontend waits for writable() */
    bool output_dead;        /* swallow */
};

/* @chardev_ops: write and set_room are char_stream_write and char_stream_set_room, free is the backend's. */
void char_stream_init(struct char_stream *s, struct event_loop *loop, const struct chardev_ops *chardev_ops,
                      const struct char_stream_ops *ops);
ssize_t char_stream_write(struct chardev *c, const u8 *data, size_t len);
void char_stream_set_room(struct chardev *c, size_t room);

/* Starts serving descriptors, which the stream owns from here on even on failure. -1: none. */
int char_stream_start(struct char_stream *s, int in_fd, enum char_mode in_mode, int out_fd,
                      enum char_mode out_mode, struct error *err);

/* Closes the descriptors. Bytes already read are still handed out, output is swallowed. */
void char_stream_stop(struct char_stream *s);

/* Reads what is left of input into the buffer, at most to CHAR_BUFFER_MAX, before a stop. */
void char_stream_slurp(struct char_stream *s);

/* Waits for the peer to take the rest of the output, then stops and frees what the stream holds. */
void char_stream_release(struct char_stream *s);

/* The frontend gets a break after the bytes that wait now and @ahead more. */
void char_stream_break(struct char_stream *s, size_t ahead);

void char_stream_set_connected(struct char_stream *s, bool connected);

#endif
