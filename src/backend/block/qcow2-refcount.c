/* Refcounts, and clusters to be had (Host cluster management). Under q->lock. */
#include <errno.h>

#include "backend/block/qcow2-internal.h"
#include "base/log.h"

/* --- entries of 1 to 64 bits; those of less than a byte start at the low bits --- */

u64 refcount_in_block(const u8 *block, unsigned order, u64 index)
{
    switch (order) {
    case 3: return block[index];
    case 4: return be16(block + index * 2);
    case 5: return be32(block + index * 4);
    case 6: return be64(block + index * 8);
    default: return block[index >> (3 - order)] >> ((index << order) & 7) & MASK(1u << order);
    }
}

void refcount_put_in_block(u8 *block, unsigned order, u64 index, u64 count)
{
    switch (order) {
    case 3: block[index] = (u8)count; break;
    case 4: put_be16(block + index * 2, (u16)count); break;
    case 5: put_be32(block + index * 4, (u32)count); break;
    case 6: put_be64(block + index * 8, count); break;
    default: {
        u8 *byte = &block[index >> (3 - order)];
        unsigned shift = (unsigned)(index << order) & 7;
        *byte = (u8)((*byte & ~(MASK(1u << order) << shift)) | count << shift);
    }
    }
}

/* The slice with the refcount of @cluster and its index there; *slot NULL where there is no block. */
static int find_slice(struct qcow2 *q, u64 cluster, struct table_slot **slot, u64 *index)
{
    u64 block = cluster >> q->refblock_bits, in_block = cluster & MASK(q->refblock_bits);
    *slot = NULL;
    if (block >= q->reftable_len || !q->reftable[block])
        return 0;
    u64 offset = q->reftable[block] & REFTABLE_OFFSET;
    if (!cluster_aligned(q, offset) || offset >= QCOW2_MAX_OFFSET)
        return -EIO;
    u64 bit = in_block << q->header.refcount_order;
    u64 start = ALIGN_DOWN(bit / 8, (u64)q->refcounts.slice);
    *index = in_block - (start * 8 >> q->header.refcount_order);
    return table_cache_get(&q->refcounts, offset + start, slot);
}

int qcow2_refcount_get(struct qcow2 *q, u64 cluster, u64 *count)
{
    struct table_slot *slot;
    u64 index;
    int ret = find_slice(q, cluster, &slot, &index);
    *count = ret == 0 && slot ? refcount_in_block(slot->data, q->header.refcount_order, index) : 0;
    return ret;
}

/* --- making room in the tables --- */

static void note_used(struct qcow2 *q, u64 host, u64 len)
{
    q->file_end = MAX(q->file_end, host + len);
}

static int grow_reftable(struct qcow2 *q, u64 block);

/* Makes a refcount block at @cluster, whose refcount is @self in it when it describes itself. */
static int make_refblock(struct qcow2 *q, u64 block, u64 cluster)
{
    u64 host = cluster << q->header.cluster_bits;
    u8 *buf = calloc(1, q->cluster_size);
    if (!buf)
        return -ENOMEM;
    if (cluster >> q->refblock_bits == block)
        refcount_put_in_block(buf, q->header.refcount_order, cluster & MASK(q->refblock_bits), 1);
    int ret = host_file_write(&q->file, host, buf, q->cluster_size);
    free(buf);
    if (ret < 0)
        return ret;
    table_cache_forget(&q->refcounts, host, q->cluster_size);
    note_used(q, host, q->cluster_size);
    q->reftable[block] = host;
    qcow2_mark_reftable(q, block);
    return 0;
}

/* There is a block for @cluster afterwards; when it has to be made it is placed there. */
static int need_refblock(struct qcow2 *q, u64 cluster)
{
    u64 block = cluster >> q->refblock_bits;
    if (cluster >= QCOW2_MAX_OFFSET >> q->header.cluster_bits)
        return -EFBIG;
    if (block >= q->reftable_len) {
        int ret = grow_reftable(q, block);
        if (ret < 0)
            return ret;
    }
    return q->reftable[block] ? 0 : make_refblock(q, block, cluster);
}

struct growth {
    u64 first;  /* cluster where the new table starts; new blocks follow it */
    u64 blocks; /* that describe these clusters */
    u64 table_clusters;
    u32 len; /* entries of the new table */
};

static int plan_growth(const struct qcow2 *q, u64 block, struct growth *g)
{
    u64 per_block = 1ull << q->refblock_bits, len = MAX(block + 1, (u64)q->reftable_len * 3 / 2);
    g->first = (u64)q->reftable_len << q->refblock_bits;
    g->first = MAX(g->first, block << q->refblock_bits);
    g->blocks = 1;
    if (len * 8 > QCOW2_MAX_REFTABLE_BYTES) /* an entry of a damaged image may name any cluster */
        return -EFBIG;
    for (;;) {
        len = MAX(len, (g->first >> q->refblock_bits) + g->blocks);
        g->table_clusters = clusters_of(q, len * 8);
        if (g->table_clusters + g->blocks <= g->blocks * per_block)
            break;
        g->blocks++;
    }
    u64 bytes = g->table_clusters << q->header.cluster_bits;
    g->len = (u32)(bytes / 8);
    return bytes > QCOW2_MAX_REFTABLE_BYTES ? -EFBIG : 0;
}

static int write_growth(struct qcow2 *q, const struct growth *g, u64 *table)
{
    u64 at = g->first + g->table_clusters, used = g->table_clusters + g->blocks;
    u8 *buf = calloc(1, MAX((u64)q->cluster_size, (u64)g->len * 8));
    int ret = buf ? 0 : -ENOMEM;
    for (u64 i = 0; ret == 0 && i < g->blocks; i++) {
        memset(buf, 0, q->cluster_size);
        for (u64 c = i << q->refblock_bits; c < used && c >> q->refblock_bits == i; c++)
            refcount_put_in_block(buf, q->header.refcount_order, c & MASK(q->refblock_bits), 1);
        u64 host = (at + i) << q->header.cluster_bits;
        table_cache_forget(&q->refcounts, host, q->cluster_size);
        ret = host_file_write(&q->file, host, buf, q->cluster_size);
        table[(g->first >> q->refblock_bits) + i] = host;
    }
    for (u32 i = 0; ret == 0 && i < g->len; i++)
        put_be64(buf + (size_t)i * 8, table[i]);
    if (ret == 0)
        ret = host_file_write(&q->file, g->first << q->header.cluster_bits, buf, (u64)g->len * 8);
    free(buf);
    return ret;
}

/* Points the header to the new table. Blocks that the old table lacked in the file were written when made. */
static int switch_reftable(struct qcow2 *q, const struct growth *g, u64 *table)
{
    struct qcow2_header old = q->header;
    int ret = host_file_sync(&q->file);
    if (ret < 0)
        return ret;
    q->header.reftable_offset = g->first << q->header.cluster_bits;
    q->header.reftable_clusters = (u32)g->table_clusters;
    ret = qcow2_header_write(q);
    if (ret == 0)
        ret = host_file_sync(&q->file);
    if (ret < 0) {
        q->header = old;
        return ret;
    }
    free(q->reftable);
    q->reftable = table;
    q->reftable_len = g->len;
    note_used(q, g->first << q->header.cluster_bits,
              (g->table_clusters + g->blocks) << q->header.cluster_bits);
    qcow2_free_later(q, old.reftable_offset, old.reftable_clusters);
    return 0;
}

static int grow_reftable(struct qcow2 *q, u64 block)
{
    struct growth g;
    int ret = plan_growth(q, block, &g);
    if (ret < 0)
        return ret;
    u64 *table = calloc(g.len, 8);
    if (!table)
        return -ENOMEM;
    memcpy(table, q->reftable, (size_t)q->reftable_len * 8);
    ret = write_growth(q, &g, table);
    if (ret == 0)
        ret = switch_reftable(q, &g, table);
    if (ret < 0)
        free(table);
    return ret;
}

/* --- counting --- */

int qcow2_refcount_set(struct qcow2 *q, u64 cluster, u64 count)
{
    struct table_slot *slot;
    u64 index = 0;
    if (count > MASK(1u << q->header.refcount_order))
        return -ERANGE;
    int ret = find_slice(q, cluster, &slot, &index);
    if (ret == 0 && !slot && count == 0)
        return 0;
    if (ret == 0 && !slot) {
        ret = need_refblock(q, cluster);
        if (ret == 0)
            ret = find_slice(q, cluster, &slot, &index);
    }
    if (ret < 0 || !slot)
        return ret < 0 ? ret : -EIO;
    ret = qcow2_mark_dirty(q);
    if (ret < 0)
        return ret;
    refcount_put_in_block(slot->data, q->header.refcount_order, index, count);
    table_cache_dirty(&q->refcounts, slot);
    if (count == 0)
        q->free_hint = MIN(q->free_hint, cluster);
    return 0;
}

int qcow2_refcount_add(struct qcow2 *q, u64 cluster, i64 delta)
{
    u64 count;
    int ret = qcow2_refcount_get(q, cluster, &count);
    if (ret < 0)
        return ret;
    if (delta < 0 && count < (u64)-delta)
        return -EIO; /* the image is damaged */
    return qcow2_refcount_set(q, cluster, count + (u64)delta);
}

void qcow2_free_now(struct qcow2 *q, u64 host, u64 count)
{
    for (u64 i = 0; i < count; i++) {
        int ret = qcow2_refcount_add(q, (host >> q->header.cluster_bits) + i, -1);
        if (ret < 0)
            log_warn("'%s': cannot free the cluster at %llu: %s", q->base.path,
                     (unsigned long long)(host + (i << q->header.cluster_bits)), strerror(-ret));
    }
}

/* --- allocation --- */

/* Refcounts that say that so much behind the end of the file is in use are not to be believed. */
#define MAX_BEHIND_END (1ull << 20)

static bool overlaps(u64 a, u64 alen, u64 b, u64 blen)
{
    return a < b + blen && b < a + alen;
}

bool qcow2_overlaps_metadata(const struct qcow2 *q, u64 host, u64 len)
{
    const struct qcow2_header *h = &q->header;
    return overlaps(host, len, 0, q->cluster_size) ||
           (h->l1_size && overlaps(host, len, h->l1_offset, (u64)h->l1_size * 8)) ||
           overlaps(host, len, h->reftable_offset, (u64)h->reftable_clusters << h->cluster_bits);
}

/* Is @cluster free? Makes the refcount block that describes it, then possibly in it. */
static int is_free(struct qcow2 *q, u64 cluster, bool *free)
{
    u64 count;
    if (cluster > (q->file_end >> q->header.cluster_bits) + MAX_BEHIND_END)
        return -EIO;
    int ret = need_refblock(q, cluster);
    if (ret == 0)
        ret = qcow2_refcount_get(q, cluster, &count);
    if (ret == 0)
        *free = count == 0 && !qcow2_overlaps_metadata(q, cluster << q->header.cluster_bits, q->cluster_size);
    return ret;
}

static int claim(struct qcow2 *q, u64 cluster, u64 count)
{
    for (u64 i = 0; i < count; i++) {
        int ret = qcow2_refcount_set(q, cluster + i, 1);
        if (ret < 0) {
            while (i--)
                (void)qcow2_refcount_set(q, cluster + i, 0);
            return ret;
        }
    }
    return 0;
}

int qcow2_alloc(struct qcow2 *q, u64 want, u64 *host, u64 *got, bool *fresh)
{
    u64 at = q->free_hint, n = 0;
    bool free = false;
    int ret;
    while ((ret = is_free(q, at, &free)) == 0 && !free)
        at++;
    while (ret == 0 && free && ++n < want)
        ret = is_free(q, at + n, &free);
    if (ret < 0 && n == 0)
        return ret;
    q->free_hint = at;
    ret = claim(q, at, n);
    if (ret < 0)
        return ret;
    q->free_hint = at + n;
    *host = at << q->header.cluster_bits;
    *got = n;
    *fresh = *host >= q->file_end && q->file.regular;
    note_used(q, *host, n << q->header.cluster_bits);
    return 0;
}

/* Refcount blocks for [first, first + count), made wherever there is room. */
static int need_refblocks(struct qcow2 *q, u64 first, u64 count)
{
    u64 host = 0, got;
    bool fresh;
    for (u64 b = first >> q->refblock_bits; b <= (first + count) >> q->refblock_bits; b++) {
        int ret = b >= q->reftable_len ? grow_reftable(q, b) : 0;
        if (ret == 0 && !q->reftable[b])
            ret = qcow2_alloc(q, 1, &host, &got, &fresh);
        else if (ret == 0)
            continue;
        if (ret < 0)
            return ret;
        if (q->reftable[b]) /* made on the way */
            qcow2_free_now(q, host, 1);
        else if ((ret = make_refblock(q, b, host >> q->header.cluster_bits)) < 0)
            return ret;
    }
    return 0;
}

int qcow2_alloc_run(struct qcow2 *q, u64 count, u64 *host)
{
    u64 at = q->free_hint, n = 0;
    bool fresh;
    if (count <= 1)
        return qcow2_alloc(q, 1, host, &n, &fresh);
    while (n < count) {
        bool free = false;
        int ret = n == 0 ? need_refblocks(q, at, count) : 0;
        if (ret == 0)
            ret = is_free(q, at + n, &free);
        if (ret < 0)
            return ret;
        if (free) {
            n++;
        } else {
            at += n + 1;
            n = 0;
        }
    }
    *host = at << q->header.cluster_bits;
    note_used(q, *host, count << q->header.cluster_bits);
    return claim(q, at, count);
}
