/*
 * The host side of a disk: asynchronous reads and writes of 512-byte sectors into host buffers.
 * Requests are submitted from any thread; @done runs on one of the backend's threads or on the
 * submitter's, without locks of the backend.
 *
 * done() may wait for the machine lock on one thread of a backend at a time, and the holder of that
 * lock may meanwhile wait for the other requests of the device: a backend has at least two threads.
 */
#ifndef TRAPEZE_BACKEND_BLOCK_BLOCK_H
#define TRAPEZE_BACKEND_BLOCK_BLOCK_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/list.h"

#define BLOCK_SECTOR 512

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_request {
    enum block_op op;
    u64 offset, len;         /* bytes, multiples of BLOCK_SECTOR, checked against the size by the backend */
    const struct iovec *iov; /* READ, WRITE: total length = len; the caller keeps it until done */
    unsigned iovcnt;
    bool unmap;                                        /* WRITE_ZEROES may free the range */
    void (*done)(struct block_request *r, int result); /* 0 or -errno */
    struct list link;                                  /* for the backend while in flight */
};

struct block_device;

struct block_ops {
    void (*submit)(struct block_device *b, struct block_request *r);
    void (*drain)(struct block_device *b); /* waits until nothing is in flight */
    void (*close)(struct block_device *b); /* drains, syncs, frees */
};

struct block_device {
    const struct block_ops *ops;
    u64 size; /* bytes, a multiple of BLOCK_SECTOR */
    bool read_only;
    bool can_discard;
    char *path; /* for messages */
};

static inline void block_submit(struct block_device *b, struct block_request *r)
{
    b->ops->submit(b, r);
}
static inline void block_drain(struct block_device *b)
{
    b->ops->drain(b);
}
static inline void block_close(struct block_device *b)
{
    if (b)
        b->ops->close(b);
}

/* A raw file or block device, locked against a second writer (OFD lock). */
struct block_device *block_raw_open(const char *path, bool read_only, struct error *err);

/* Reads zeroes, accepts writes: for tests. */
struct block_device *block_null_open(u64 size);

#endif
