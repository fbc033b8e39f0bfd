/*
 * A directory of the host that a guest mounts: a server of 9P2000.L, which answers request messages as
 * Linux' client sends them. It sees buffers, never guest addresses. docs/share.md has its rules.
 *
 *     s = share_open(path, &options, err); share_set_listener(s, &listener);
 *     share_submit(s, &request);  ...  listener.done(&listener, &request)
 *
 * Requests complete in any order. Everything in them is hostile, and so may be what else happens in the
 * directory meanwhile: nothing outside of it is reached.
 */
#ifndef TRAPEZE_BACKEND_SHARE_SHARE_H
#define TRAPEZE_BACKEND_SHARE_SHARE_H

#include <sys/uio.h>

#include "base/error.h"

#define SHARE_MSIZE_MAX (1u << 20)
#define SHARE_MIN_MESSAGE 7 /* size[4] type[1] tag[2]: what each message begins with */
#define SHARE_MAX_SEGMENTS 128

/* What becomes of owners and modes; the names of share_ownership_find(). */
enum share_ownership {
    SHARE_MAPPED,      /* kept in attributes of the files, which belong to the user who runs this */
    SHARE_PASSTHROUGH, /* those of the files; wants root */
    SHARE_NONE,        /* files belong to the user who runs this, modes are those of the files */
};

struct share_options {
    bool read_only;
    enum share_ownership ownership;
};

/* The owner's, from share_submit() to done(). Segments may be anything that readv(2) takes. */
struct share_request {
    const struct iovec *out, *in; /* the message; room for the reply */
    unsigned out_count, in_count; /* at most SHARE_MAX_SEGMENTS each */
    u64 out_bytes, in_bytes;      /* of all segments; out_bytes is at least SHARE_MIN_MESSAGE */
    size_t written;               /* set before done(): the length of the reply; 0 when there is none */
};

struct share_listener {
    /* Any thread, also that of share_submit(). It must not block. */
    void (*done)(struct share_listener *l, struct share_request *r);
    /* After one or more done() on a thread of the server's own. It may block. */
    void (*wake)(struct share_listener *l);
};

struct share;

/* NULL with @err. */
struct share *share_open(const char *path, const struct share_options *options, struct error *err);
void share_set_listener(struct share *s, struct share_listener *l);

/* Nothing is in flight: waits until the listener is not called any more. Only share_close() may follow. */
void share_quiesce(struct share *s);
void share_close(struct share *s);

/* What can be answered without waiting for the host is done at once, the rest by threads of the server. */
void share_submit(struct share *s, struct share_request *r);

/* The same on the caller's thread; done() is not called. For tests. */
void share_execute(struct share *s, struct share_request *r);

/* The guest was reset: all its fids are gone. Nothing is in flight. */
void share_reset(struct share *s);

/* Has the guest fids, that is: has it mounted the directory? They cannot be saved. */
bool share_mounted(struct share *s);

/* The enum's value for "mapped", "passthrough" or "none". */
enum share_ownership share_ownership_find(const char *name);

#endif
