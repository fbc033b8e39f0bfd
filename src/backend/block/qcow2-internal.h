/*
 * The qcow2 image format, versions 2 and 3 (docs/interop/qcow2.txt of QEMU is the specification; the
 * section names below are its). docs/block.md has the design: locks, the order of metadata, bounds.
 *
 * A host offset is a position in the image file, a guest offset one on the disk that it holds; a cluster
 * number is an offset divided by the cluster size. All integers in the file are big-endian.
 */
#ifndef TRAPEZE_BACKEND_BLOCK_QCOW2_INTERNAL_H
#define TRAPEZE_BACKEND_BLOCK_QCOW2_INTERNAL_H

#include "backend/block/block-internal.h"
#include "backend/block/file.h"
#include "backend/block/pool.h"
#include "backend/block/qcow2.h"
#include "backend/block/uring.h"
#include "base/lock.h"

/* Bounds on what a file can make us allocate; the first three are those of QEMU. */
#define QCOW2_MAX_L1_BYTES (32u << 20)
#define QCOW2_MAX_REFTABLE_BYTES (8u << 20)
#define QCOW2_MAX_SNAPSHOTS 65536u
#define QCOW2_MAX_SNAPSHOT_TABLE (16u << 20)
#define QCOW2_MAX_NAME 1023u
#define QCOW2_L2_SLICES 4096u     /* 16 MiB of L2 tables: all of a 128 GiB disk with 64 KiB clusters */
#define QCOW2_REFCOUNT_SLICES 64u /* 256 KiB */
#define QCOW2_SLICE 4096u         /* or a cluster where that is smaller */
#define QCOW2_MAX_PENDING 4096u   /* ranges of clusters that wait to be freed */
#define QCOW2_MAX_OFFSET (1ull << 56)

#define QCOW2_MIN_BITS 9
#define QCOW2_MAX_BITS 21
#define QCOW2_SUBCLUSTERS 32

/* Incompatible, compatible and autoclear features (Header). */
#define QCOW2_DIRTY BIT(0)
#define QCOW2_CORRUPT BIT(1)
#define QCOW2_EXTERNAL_DATA BIT(2)
#define QCOW2_COMPRESSION BIT(3)
#define QCOW2_EXTENDED_L2 BIT(4)
#define QCOW2_KNOWN_INCOMPATIBLE (QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION | QCOW2_EXTENDED_L2)
#define QCOW2_LAZY_REFCOUNTS BIT(0)
#define QCOW2_BITMAPS BIT(0)

/* L1 and L2 entries (Cluster mapping). */
#define ENTRY_COPIED BIT(63) /* the cluster's refcount is exactly 1: it may be written in place */
#define ENTRY_COMPRESSED BIT(62)
#define ENTRY_ZERO BIT(0)
#define ENTRY_OFFSET 0x00fffffffffffe00ull
#define REFTABLE_OFFSET 0xfffffffffffffe00ull

struct qcow2_header {
    u32 version, cluster_bits, crypt_method;
    u64 size;
    u64 backing_offset;
    u32 backing_len;
    u32 l1_size; /* entries */
    u64 l1_offset;
    u64 reftable_offset;
    u32 reftable_clusters;
    u32 snapshot_count;
    u64 snapshots_offset;
    u64 incompatible, compatible, autoclear;
    u32 refcount_order, length;
    u8 compression;
};

/* One slice of a table of the file, cached. */
struct table_slot {
    u64 offset;
    bool dirty;
    bool pinned; /* a commit is writing it: the file does not hold it yet */
    bool gone;   /* forgotten while pinned */
    struct list hash, lru;
    u8 *data;
};

#define TABLE_BUCKETS 512
struct table_cache {
    struct host_file *file;
    u32 slice;
    unsigned max, count, dirty;
    struct list lru; /* the most recent first */
    struct list buckets[TABLE_BUCKETS];
};

struct cluster_range {
    u64 host, count; /* host offset, clusters */
};

/* Guest bytes [first, last] that a request is working on. */
struct busy_range {
    u64 first, last;
    bool exclusive;
    struct list link;
};

struct qcow2 {
    struct block_device base;
    struct host_file file;
    struct block_pool pool;
    struct block_uring *uring;    /* NULL: threads only */
    struct block_device *backing; /* NULL: none, or not to be looked at */
    char *backing_name, *backing_format;
    struct qcow2_header header;
    bool bitmaps; /* the image has dirty bitmaps */
    u32 cluster_size;
    unsigned l2_bits;       /* log2 of the entries of an L2 table */
    unsigned l2_entry_size; /* 8, or 16 with extended entries */
    unsigned refblock_bits; /* log2 of the entries of a refcount block */
    struct qcow2_snapshot *snapshots;

    struct lock commit_lock; /* serialises commits; taken before `lock` */
    struct lock lock;        /* guards what follows */
    u64 *l1;                 /* header.l1_size entries, host byte order */
    u64 *reftable;
    u32 reftable_len;
    bool *l1_dirty, *reftable_dirty; /* one for each sector of the tables */
    struct table_cache l2, refcounts;
    u64 free_hint; /* no cluster below has refcount 0 */
    u64 file_end;  /* nothing was ever written behind: new clusters there are zeroes */
    struct cluster_range *pending;
    unsigned pending_count, pending_cap;
    u64 compressed_end; /* behind the last compressed data written; 0: none */
    struct list busy;
    pthread_cond_t busy_changed;
    bool opened; /* metadata are loaded and not yet written back for good */

    pthread_mutex_t inflate_lock; /* the cluster that was decompressed last */
    u64 inflated_entry;           /* its L2 entry, 0: none */
    u8 *inflated;
};

static inline u64 be64(const void *p)
{
    return __builtin_bswap64(get_le64(p));
}
static inline u32 be32(const void *p)
{
    return __builtin_bswap32(get_le32(p));
}
static inline u16 be16(const void *p)
{
    return __builtin_bswap16(get_le16(p));
}
/* Text in the file has no terminator. Returns its length. */
static inline size_t put_text(u8 *p, const char *text)
{
    size_t n = 0;
    for (; text[n]; n++)
        p[n] = (u8)text[n];
    return n;
}

static inline u64 clusters_of(const struct qcow2 *q, u64 bytes)
{
    return (bytes + q->cluster_size - 1) >> q->header.cluster_bits;
}
static inline bool cluster_aligned(const struct qcow2 *q, u64 offset)
{
    return (offset & (q->cluster_size - 1)) == 0;
}
/* Bits of a compressed cluster's entry that hold its offset (Compressed Clusters Descriptor). */
static inline unsigned qcow2_compressed_shift(const struct qcow2 *q)
{
    return 62 - (q->header.cluster_bits - 8);
}
static inline bool lazy_refcounts(const struct qcow2 *q)
{
    return q->header.compatible & QCOW2_LAZY_REFCOUNTS;
}

/* NULL when @b is of another format. */
struct qcow2 *qcow2_of(struct block_device *b);

/* --- qcow2-header.c --- */

int qcow2_header_read(struct qcow2 *q, struct error *err);
/* Writes the fixed part of the header, which is one sector: atomic. */
int qcow2_header_write(struct qcow2 *q);
/* Writes all of the first cluster: header, extensions, backing file name. */
int qcow2_header_rewrite(struct qcow2 *q, struct error *err);
void qcow2_header_fill(const struct qcow2_header *h, u8 *buf); /* 112 bytes */

/* --- qcow2-cache.c: under q->lock --- */

void table_cache_init(struct table_cache *c, struct host_file *file, u32 slice, unsigned max);
void table_cache_release(struct table_cache *c);
/* The slot stays valid until the next call of a function of the cache. @offset is of a slice's start. */
int table_cache_get(struct table_cache *c, u64 offset, struct table_slot **slot);
/* The slot when it is there already, else NULL. */
struct table_slot *table_cache_peek(struct table_cache *c, u64 offset);
void table_cache_dirty(struct table_cache *c, struct table_slot *slot);
/* The file holds something else there now, or soon. */
void table_cache_forget(struct table_cache *c, u64 offset, u64 len);
/* Drops all; nothing is dirty, or what is dirty is not to be kept. */
void table_cache_clear(struct table_cache *c);

/* --- qcow2-commit.c --- */

/*
 * Writes metadata in an order such that the file is sound at any instant (docs/block.md); afterwards all
 * that was written before the call is on the disk. Takes both locks.
 */
int qcow2_commit(struct qcow2 *q);
/* Drops the lock after a step that returned @ret; commits when too much is dirty or waits to be freed. */
int qcow2_end_step(struct qcow2 *q, int ret);
/* The clusters are no longer used by what is in memory; they are freed by a commit. Lock held. */
void qcow2_free_later(struct qcow2 *q, u64 host, u64 count);
void qcow2_mark_l1(struct qcow2 *q, u64 index);
void qcow2_mark_reftable(struct qcow2 *q, u64 index);
/* Lock held. Lazy refcounts: the image is marked as dirty before anything else changes. */
int qcow2_mark_dirty(struct qcow2 *q);

/* --- qcow2-refcount.c: lock held --- */

int qcow2_refcount_get(struct qcow2 *q, u64 cluster, u64 *count);
int qcow2_refcount_set(struct qcow2 *q, u64 cluster, u64 count);
int qcow2_refcount_add(struct qcow2 *q, u64 cluster, i64 delta);
/* 1 to @want clusters in one piece, with refcount 1. *fresh: they read as zeroes. */
int qcow2_alloc(struct qcow2 *q, u64 want, u64 *host, u64 *got, bool *fresh);
/* @count clusters in one piece. */
int qcow2_alloc_run(struct qcow2 *q, u64 count, u64 *host);
/* Frees what no table refers to. */
void qcow2_free_now(struct qcow2 *q, u64 host, u64 count);
/* Does this touch the header, the L1 table or the refcount table? */
bool qcow2_overlaps_metadata(const struct qcow2 *q, u64 host, u64 len);
u64 refcount_in_block(const u8 *block, unsigned order, u64 index);
void refcount_put_in_block(u8 *block, unsigned order, u64 index, u64 count);

/* --- qcow2-l2.c: lock held --- */

enum map_kind { MAP_UNALLOCATED, MAP_ZERO, MAP_NORMAL, MAP_COMPRESSED };
struct map_extent {
    enum map_kind kind;
    u64 len;
    bool in_place; /* host clusters are ours alone */
    bool has_host; /* ZERO: a cluster is kept for it */
    u64 host;      /* NORMAL: host offset of the first byte; ZERO with has_host: of the cluster */
    u64 entry;     /* COMPRESSED: the L2 entry */
};
/* What [offset, offset + len) begins with. */
int qcow2_map(struct qcow2 *q, u64 offset, u64 len, struct map_extent *e);
/* The same without reading from the file; -EAGAIN when that would be needed. */
int qcow2_map_cached(struct qcow2 *q, u64 offset, u64 len, struct map_extent *e);
/* Replaces the L2 entry of a guest cluster; what it referred to is freed later when @free_old. */
int qcow2_l2_set(struct qcow2 *q, u64 cluster, u64 entry, bool free_old);
int qcow2_l2_get(struct qcow2 *q, u64 cluster, u64 *entry);
/* The host clusters that an L2 entry refers to: *count is 0 when there are none. */
void qcow2_entry_clusters(const struct qcow2 *q, u64 entry, u64 *host, u64 *count);
void qcow2_compressed_place(const struct qcow2 *q, u64 entry, u64 *host, u64 *len);

/* --- qcow2-compressed.c --- */

/* Reads [skip, skip + len) of the guest cluster of this entry. */
int qcow2_read_compressed(struct qcow2 *q, u64 entry, u64 skip, u8 *buf, u64 len);
/* Makes raw deflate or zstd data; 0 when it does not get smaller than @len. */
size_t qcow2_deflate(const struct qcow2 *q, const u8 *in, size_t len, u8 *out);
void qcow2_forget_inflated(struct qcow2 *q);

/* --- qcow2-snapshot.c --- */

int qcow2_snapshots_read(struct qcow2 *q, struct error *err);
void qcow2_snapshots_free(struct qcow2 *q);
/* The length of the snapshot table in the file. */
u64 qcow2_snapshots_bytes(const struct qcow2 *q);
/* Sets and clears ENTRY_COPIED in the active tables as the refcounts say. Commits. */
int qcow2_fix_copied(struct qcow2 *q, u64 *mended);
/* Replaces the active L1 table by @l1 of @entries, in new clusters. Takes @l1. */
int qcow2_replace_l1(struct qcow2 *q, u64 *l1, u32 entries, u64 size);

/* --- qcow2-create.c --- */

/* Guest clusters [first, end) are no longer mapped to anything. Commits. */
int qcow2_drop(struct qcow2 *q, u64 first, u64 end);

/* --- qcow2.c --- */

int qcow2_execute(struct block_device *b, const struct block_request *r);
/* An L1 or refcount table of @entries, whose number was checked, in host byte order. */
int qcow2_read_table(struct qcow2 *q, u64 offset, u64 entries, u64 **table);

#endif
