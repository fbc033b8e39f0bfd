/*
 * A file or block device of the host under a disk image: blocking transfers, any thread.
 *
 * With cache=none transfers that are aligned to FILE_DIRECT_ALIGN go around the page cache; the few
 * that are not (single sectors, tables of small clusters) go through it, which the kernel keeps
 * coherent. With cache=unsafe nothing is ever synced.
 */
#ifndef TRAPEZE_BACKEND_BLOCK_FILE_H
#define TRAPEZE_BACKEND_BLOCK_FILE_H

#include <stdatomic.h>

#include "backend/block/block.h"

#define FILE_DIRECT_ALIGN 4096u
#define FILE_MAX_IOV 256

struct host_file {
    char *path;
    int fd;
    int direct_fd; /* -1: not with cache=none */
    u64 inode, device;
    bool read_only;
    bool regular; /* else a block device, which does not grow */
    enum block_cache cache;
    bool at_once; /* host_file_transfer_now() is to be tried */
    atomic_bool no_zero_range, no_punch;
    atomic_bool no_nowait[2];      /* BLOCK_READ, BLOCK_WRITE: the file system cannot do RWF_NOWAIT */
    atomic_ullong no_write_before; /* by clock_host_ns(): writes of host_file_transfer_now() are not tried */
};

/* Opens and locks. @options: cache, aio, read_only, no_lock. */
int host_file_open(struct host_file *f, const char *path, const struct block_options *options,
                   struct error *err);
void host_file_close(struct host_file *f);

/* Reads beyond the end give zeroes. @count is at most FILE_MAX_IOV. */
int host_file_transfer(struct host_file *f, enum block_op op, const struct iovec *iov, unsigned count,
                       u64 offset, u64 len);
int host_file_read(struct host_file *f, u64 offset, void *buf, u64 len);
int host_file_write(struct host_file *f, u64 offset, const void *buf, u64 len);

/*
 * The whole transfer from or to the page cache, or false: then it would wait, or is too long. A write may
 * have to wait all the same, where the file system cannot tell; then others are not tried for a while.
 */
bool host_file_transfer_now(struct host_file *f, enum block_op op, const struct iovec *iov, unsigned count,
                            u64 offset, u64 len);

int host_file_write_zeroes(struct host_file *f, u64 offset, u64 len, bool unmap);
/* The same as data, which take their space. */
int host_file_write_zero_data(struct host_file *f, u64 offset, u64 len);
/* A hint: a host that cannot do it has done enough. */
int host_file_discard(struct host_file *f, u64 offset, u64 len);
int host_file_sync(struct host_file *f);
int host_file_size(const struct host_file *f, u64 *size);
int host_file_truncate(struct host_file *f, u64 size);
/* Makes the file at least @size long. */
int host_file_extend(struct host_file *f, u64 size);

/* The descriptor that a transfer would use. */
int host_file_fd(const struct host_file *f, const struct iovec *iov, unsigned count, u64 offset);

/*
 * One writer or any number of readers, in this process and all others (an OFD lock over the whole file;
 * it also conflicts with the byte locks that qemu takes). -EBUSY with @err.
 */
int host_file_lock(const struct host_file *f, struct error *err);

#endif
