/*
 * The host side of a disk: asynchronous reads and writes of 512-byte sectors into host buffers.
 * Requests are submitted from any thread; @done runs on one of the backend's threads or on the
 * submitter's, without locks of the backend.
 *
 * done() may wait for the machine lock on one thread of a backend at a time, and the holder of that
 * lock may meanwhile wait for the other requests of the device: a backend has at least two threads.
 *
 * What has been written is on the disk once a later BLOCK_FLUSH has completed. Requests that overlap
 * and are in flight together may happen in any order.
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

/* What a range of a disk is made of: for maps, and for copies that stay sparse. */
struct block_extent {
    u64 len;
    unsigned depth;  /* how many backing files down it was found */
    bool allocated;  /* in some file of the chain; else nobody ever wrote it */
    bool zero;       /* reads as zeroes */
    bool compressed; /* then it has no place of its own in the file */
    bool has_offset; /* `offset` is where the data are in the file of that depth */
    u64 offset;
    const char *path; /* of that file; lives as long as the device */
};

struct block_ops {
    void (*submit)(struct block_device *b, struct block_request *r);
    void (*drain)(struct block_device *b); /* waits until nothing is in flight */
    void (*close)(struct block_device *b); /* drains, syncs, frees */

    /* The request at once, on the calling thread, which may block; r->done is not called. May be NULL. */
    int (*execute)(struct block_device *b, const struct block_request *r);
    /* Describes the longest extent it cheaply can of [offset, offset + len), which is within the disk. */
    int (*extent)(struct block_device *b, u64 offset, u64 len, struct block_extent *e);
    /* Changes `size`. Nothing is in flight. */
    int (*resize)(struct block_device *b, u64 size, struct error *err);
};

struct block_device {
    const struct block_ops *ops;
    u64 size; /* bytes, a multiple of BLOCK_SECTOR */
    bool read_only;
    bool can_discard;
    u32 discard_unit; /* bytes that are freed together; 0: any */
    char *path;       /* for messages */
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

/* --- opening --- */

enum block_format { BLOCK_FORMAT_PROBE, BLOCK_FORMAT_RAW, BLOCK_FORMAT_QCOW2 };

/* When data reach the disk, as users of qemu know the names. */
enum block_cache {
    BLOCK_CACHE_WRITEBACK, /* through the host's page cache; a flush reaches the disk */
    BLOCK_CACHE_NONE,      /* around the page cache (O_DIRECT); a flush reaches the disk */
    BLOCK_CACHE_UNSAFE,    /* flushes do nothing: a power cut may take everything since opening */
};

/* How the host is asked. AUTO: at once where the page cache has it, else by io_uring where it is allowed. */
enum block_aio { BLOCK_AIO_AUTO, BLOCK_AIO_THREADS, BLOCK_AIO_URING };

struct block_options {
    enum block_format format;
    enum block_cache cache;
    enum block_aio aio;
    bool read_only;
    bool no_lock;     /* do not care for other users of the file: for looking only */
    bool no_backing;  /* qcow2: leave the backing file alone; what is not here reads as zeroes */
    bool damaged_ok;  /* qcow2: open for repair what is marked dirty or corrupt */
    bool synchronous; /* only execute() is going to be used: no threads are started */
};

/*
 * A file or block device, locked against a second writer. NULL with @err.
 *
 * A guest that owns a raw disk could write the header of a qcow2 image that names any file of the host
 * as its backing file. So the format is looked for in the first bytes only when @format is PROBE, and a
 * disk found to be raw that way then refuses writes that would make it look like another format.
 */
struct block_device *block_open(const char *path, const struct block_options *options, struct error *err);

/* A raw file or block device with the usual options. */
struct block_device *block_raw_open(const char *path, bool read_only, struct error *err);

/* Reads zeroes, accepts writes: for tests. */
struct block_device *block_null_open(u64 size);

/* The name of a format ("raw", "qcow2"), and the format of a name; PROBE when there is none. */
const char *block_format_name(enum block_format format);
enum block_format block_format_find(const char *name);

/* "writeback", "none", "unsafe"; the first when it is neither. */
enum block_cache block_cache_find(const char *name);

/* What the first bytes of a file say. */
int block_probe(const char *path, enum block_format *format, struct error *err);

/* --- filters: devices in front of another, which they take over. NULL with @err, then the other is closed.
 * --- */

/* Per second; 0: no limit. The burst is what may be done at once after a quiet time (0: a tenth of a
 * second's). */
struct block_limits {
    u64 bytes, bytes_burst;
    u64 ops, ops_burst;
};
struct block_device *block_throttle_open(struct block_device *below, const struct block_limits *l,
                                         struct error *err);

/* What becomes of a request that failed. */
enum block_on_error {
    BLOCK_ON_ERROR_REPORT, /* the guest is told */
    BLOCK_ON_ERROR_IGNORE, /* the guest is told that it worked */
    BLOCK_ON_ERROR_STOP,   /* it is held, and tried again later */
    BLOCK_ON_ERROR_ENOSPC, /* STOP when there is no room, else REPORT */
};

struct block_policy {
    enum block_on_error read, write;
    /* A request is held now. Any thread, without locks of the backend. Should see to it that the guest stops.
     */
    void (*stopped)(void *owner, const char *path, int error);
    void *owner;
};
struct block_device *block_policy_open(struct block_device *below, const struct block_policy *p,
                                       struct error *err);
/* Submits what is held again. Not under locks that done() takes. */
void block_policy_retry(struct block_device *b);
/* Is something held, or tried again and not done? */
bool block_policy_waits(struct block_device *b);

/* --- without waiting for done(): for tools and for what lies below another image --- */

int block_read(struct block_device *b, u64 offset, void *buf, u64 len);
int block_write(struct block_device *b, u64 offset, const void *buf, u64 len);
int block_write_zeroes(struct block_device *b, u64 offset, u64 len, bool unmap);
int block_flush(struct block_device *b);
int block_extent(struct block_device *b, u64 offset, u64 len, struct block_extent *e);
int block_resize(struct block_device *b, u64 size, struct error *err);

#endif
