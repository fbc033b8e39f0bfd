/*
 * What a qcow2 image has beyond a disk: snapshots, compression, its own consistency. For tools: nothing
 * else uses the image meanwhile. All take the device of an opened qcow2 image.
 */
#ifndef TRAPEZE_BACKEND_BLOCK_QCOW2_H
#define TRAPEZE_BACKEND_BLOCK_QCOW2_H

#include "backend/block/block.h"

enum qcow2_prealloc {
    QCOW2_PREALLOC_OFF,
    QCOW2_PREALLOC_METADATA,
    QCOW2_PREALLOC_FALLOC,
    QCOW2_PREALLOC_FULL
};

struct qcow2_create {
    u64 size;
    u64 cluster_size;       /* 0: 64 KiB */
    unsigned version;       /* 2 or 3; 0: 3 */
    unsigned refcount_bits; /* 0: 16 */
    bool lazy_refcounts;
    bool zstd;
    enum qcow2_prealloc preallocation;
    const char *backing, *backing_format; /* NULL: none */
};

/* Makes or overwrites @path. */
int qcow2_create(const char *path, const struct qcow2_create *c, struct error *err);

struct qcow2_info {
    unsigned version;
    u64 cluster_size;
    unsigned refcount_bits;
    bool lazy_refcounts, dirty, corrupt, extended_l2, zstd, bitmaps;
    const char *backing, *backing_format; /* as the header has them; NULL: none */
    unsigned snapshot_count;
};
/* False when @b is no qcow2 image. The strings live as long as @b. */
bool qcow2_get_info(struct block_device *b, struct qcow2_info *info);
struct block_device *qcow2_backing(struct block_device *b);
/* Where the backing file called @name in the header of the image @path is. */
int qcow2_backing_path(const char *path, const char *name, char *buf, size_t size, struct error *err);

/* --- snapshots --- */

struct qcow2_snapshot {
    char *id, *name;
    u32 seconds, nanoseconds; /* when it was made */
    u64 vm_clock;             /* ns */
    u64 vm_state_size;
    u64 disk_size;
    u64 icount; /* ~0: not known */
    u64 l1_offset;
    u32 l1_size;
    u8 *extra; /* what of the entry's extra data we do not know */
    u32 extra_len;
};
const struct qcow2_snapshot *qcow2_snapshots(struct block_device *b, unsigned *count);
/* @name or its number. NULL when there is none. */
const struct qcow2_snapshot *qcow2_snapshot_find(struct block_device *b, const char *name);
int qcow2_snapshot_create(struct block_device *b, const char *name, struct error *err);
int qcow2_snapshot_apply(struct block_device *b, const char *name, struct error *err);
int qcow2_snapshot_delete(struct block_device *b, const char *name, struct error *err);
/* The disk as the snapshot has it is what reads give from here on; @b is read-only. */
int qcow2_snapshot_view(struct block_device *b, const char *name, struct error *err);

/* --- check and repair --- */

enum qcow2_repair { QCOW2_REPAIR_NONE, QCOW2_REPAIR_LEAKS, QCOW2_REPAIR_ALL };
struct qcow2_check {
    u64 corruptions, leaks; /* clusters, as they were found */
    u64 corruptions_fixed, leaks_fixed;
    u64 total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
    u64 image_end_offset;
    /* Each finding, one line. May be NULL. */
    void (*report)(void *owner, const char *text);
    void *owner;
};
int qcow2_check(struct block_device *b, enum qcow2_repair repair, struct qcow2_check *result,
                struct error *err);

/* --- the rest --- */

/* Writes whole clusters as compressed data, or plainly where that is not smaller. */
int qcow2_write_compressed(struct block_device *b, u64 offset, const void *buf, u64 len);
/* Gives every cluster a place. */
int qcow2_preallocate(struct block_device *b, enum qcow2_prealloc how, struct error *err);
/* Changes the name of the backing file in the header; NULL: none. The data are the caller's affair. */
int qcow2_set_backing(struct block_device *b, const char *name, const char *format, struct error *err);
/* Forgets all data of the image itself, so that it reads as its backing file does. */
int qcow2_empty(struct block_device *b, struct error *err);

#endif
