/* From guest offsets to clusters of the file, and back into the tables (Cluster mapping). Under q->lock. */
#include <errno.h>

#include "backend/block/qcow2-internal.h"

/* --- finding an entry --- */

static bool table_offset_ok(const struct qcow2 *q, u64 offset)
{
    return cluster_aligned(q, offset) && offset && !qcow2_overlaps_metadata(q, offset, q->cluster_size);
}

/*
 * The slice with the L2 entry of a guest cluster, and the entry's place in it; *slot NULL where there is
 * no L2 table.
 */
static int find_slice(struct qcow2 *q, u64 cluster, bool cached, struct table_slot **slot, u8 **entry)
{
    u64 index = cluster >> q->l2_bits, at;
    *slot = NULL;
    if (index >= q->header.l1_size)
        return -EINVAL;
    u64 table = q->l1[index] & ENTRY_OFFSET;
    if (!table)
        return 0;
    if (!table_offset_ok(q, table))
        return -EIO;
    at = (cluster & MASK(q->l2_bits)) * q->l2_entry_size;
    u64 offset = table + ALIGN_DOWN(at, (u64)q->l2.slice);
    if (cached && !table_cache_peek(&q->l2, offset))
        return -EAGAIN;
    int ret = table_cache_get(&q->l2, offset, slot);
    if (ret == 0)
        *entry = (*slot)->data + (at & (q->l2.slice - 1));
    return ret;
}

/* --- what an entry says --- */

void qcow2_compressed_place(const struct qcow2 *q, u64 entry, u64 *host, u64 *len)
{
    unsigned shift = qcow2_compressed_shift(q);
    u64 sectors = (entry & ~(ENTRY_COPIED | ENTRY_COMPRESSED)) >> shift;
    *host = entry & MASK(shift);
    *len = (sectors + 1) * BLOCK_SECTOR - (*host & (BLOCK_SECTOR - 1));
}

void qcow2_entry_clusters(const struct qcow2 *q, u64 entry, u64 *host, u64 *count)
{
    u64 len;
    *count = 0;
    if (entry & ENTRY_COMPRESSED) {
        qcow2_compressed_place(q, entry, host, &len);
        u64 first = *host >> q->header.cluster_bits, last = (*host + len - 1) >> q->header.cluster_bits;
        *host = first << q->header.cluster_bits;
        *count = last - first + 1;
    } else if (entry & ENTRY_OFFSET) {
        *host = entry & ENTRY_OFFSET;
        *count = 1;
    }
}

/* Sets kind, in_place and host of the cluster's start. @bitmap: of an extended entry, at bit @sub. */
static int classify(const struct qcow2 *q, u64 entry, u64 bitmap, unsigned sub, struct map_extent *e)
{
    u64 host = entry & ENTRY_OFFSET;
    *e = (struct map_extent){.kind = MAP_UNALLOCATED, .entry = entry, .host = host};
    if (entry & ENTRY_COMPRESSED) {
        e->kind = MAP_COMPRESSED;
        return 0;
    }
    if (!cluster_aligned(q, host))
        return -EIO;
    bool zero = entry & ENTRY_ZERO && q->header.version >= 3, data = host != 0;
    if (q->l2_entry_size == 16) {
        zero = bitmap >> (32 + sub) & 1;
        data = bitmap >> sub & 1;
        if (data && (zero || !host))
            return -EIO;
    }
    if (zero) {
        e->kind = MAP_ZERO;
        e->has_host = host != 0;
    } else if (data) {
        e->kind = MAP_NORMAL;
    }
    e->in_place = host && (entry & ENTRY_COPIED) && q->l2_entry_size == 8;
    return 0;
}

static bool continues(const struct qcow2 *q, const struct map_extent *first, const struct map_extent *next,
                      u64 clusters)
{
    if (next->kind != first->kind || next->in_place != first->in_place || next->has_host != first->has_host)
        return false;
    switch (first->kind) {
    case MAP_COMPRESSED: return false;
    case MAP_NORMAL: return next->host == first->host + (clusters << q->header.cluster_bits);
    default: return true;
    }
}

/* Within one cluster of extended entries: the subclusters that are alike. */
static int map_subclusters(struct qcow2 *q, const u8 *p, u64 in_cluster, u64 len, struct map_extent *e)
{
    u64 entry = be64(p), bitmap = be64(p + 8);
    unsigned bits = q->header.cluster_bits - 5, sub = (unsigned)(in_cluster >> bits);
    int ret = classify(q, entry, bitmap, sub, e);
    if (ret < 0)
        return ret;
    if (e->kind == MAP_COMPRESSED) {
        e->len = MIN(len, q->cluster_size - in_cluster);
        return 0;
    }
    unsigned end = sub + 1;
    for (struct map_extent next; end < QCOW2_SUBCLUSTERS; end++) {
        ret = classify(q, entry, bitmap, end, &next);
        if (ret < 0)
            return ret;
        if (next.kind != e->kind)
            break;
    }
    e->len = MIN(len, ((u64)end << bits) - in_cluster);
    e->host += e->kind == MAP_NORMAL ? in_cluster : 0;
    return 0;
}

static int map(struct qcow2 *q, u64 offset, u64 len, bool cached, struct map_extent *e)
{
    u64 cluster = offset >> q->header.cluster_bits, in_cluster = offset & (q->cluster_size - 1), n = 1;
    struct table_slot *slot;
    u8 *p = NULL;
    int ret = find_slice(q, cluster, cached, &slot, &p);
    if (ret < 0)
        return ret;
    if (!slot || !p) {
        u64 end = ((cluster >> q->l2_bits) + 1) << (q->l2_bits + q->header.cluster_bits);
        *e = (struct map_extent){.kind = MAP_UNALLOCATED, .len = MIN(len, end - offset)};
        return 0;
    }
    if (q->l2_entry_size == 16)
        return map_subclusters(q, p, in_cluster, len, e);
    ret = classify(q, be64(p), 0, 0, e);
    if (ret < 0)
        return ret;
    u64 left = (u64)(slot->data + q->l2.slice - p) / 8, most = clusters_of(q, in_cluster + len);
    for (struct map_extent next; n < MIN(left, most); n++)
        if (classify(q, be64(p + n * 8), 0, 0, &next) < 0 || !continues(q, e, &next, n))
            break;
    e->len = MIN(len, (n << q->header.cluster_bits) - in_cluster);
    e->host += e->kind == MAP_NORMAL ? in_cluster : 0;
    /* Clusters that are kept for zeroes need not follow each other: only the first is ever used from here. */
    if (e->in_place && qcow2_overlaps_metadata(q, e->host, e->kind == MAP_NORMAL ? e->len : q->cluster_size))
        return -EIO;
    return 0;
}

int qcow2_map(struct qcow2 *q, u64 offset, u64 len, struct map_extent *e)
{
    return map(q, offset, len, false, e);
}

int qcow2_map_cached(struct qcow2 *q, u64 offset, u64 len, struct map_extent *e)
{
    return map(q, offset, len, true, e);
}

/* --- changing an entry --- */

/* A new L2 table: zeroes, or what the shared one at @old has. It is in the file before L1 refers to it. */
static int fill_table(struct qcow2 *q, u64 host, u64 old)
{
    u8 *buf = calloc(1, q->cluster_size);
    int ret = buf ? 0 : -ENOMEM;
    if (ret == 0 && old)
        ret = host_file_read(&q->file, old, buf, q->cluster_size);
    if (ret == 0)
        ret = host_file_write(&q->file, host, buf, q->cluster_size);
    free(buf);
    return ret;
}

/* Gives the L1 entry a table that is its own. */
static int own_table(struct qcow2 *q, u64 index)
{
    u64 old = q->l1[index] & ENTRY_OFFSET, host, got;
    bool fresh;
    if (old && (q->l1[index] & ENTRY_COPIED))
        return 0;
    if (old && !table_offset_ok(q, old))
        return -EIO;
    int ret = qcow2_alloc(q, 1, &host, &got, &fresh);
    if (ret < 0)
        return ret;
    table_cache_forget(&q->l2, host, q->cluster_size);
    ret = fill_table(q, host, old);
    if (ret < 0) {
        qcow2_free_now(q, host, 1);
        return ret;
    }
    q->l1[index] = host | ENTRY_COPIED;
    qcow2_mark_l1(q, index);
    if (old)
        qcow2_free_later(q, old, 1);
    return 0;
}

int qcow2_l2_get(struct qcow2 *q, u64 cluster, u64 *entry)
{
    struct table_slot *slot = NULL;
    u8 *p = NULL;
    int ret = find_slice(q, cluster, false, &slot, &p);
    *entry = ret == 0 && slot ? be64(p) : 0;
    return ret;
}

int qcow2_l2_set(struct qcow2 *q, u64 cluster, u64 entry, bool free_old)
{
    u64 index = cluster >> q->l2_bits, host, count;
    struct table_slot *slot = NULL;
    u8 *p = NULL;
    if (index >= q->header.l1_size || q->l2_entry_size != 8)
        return -EINVAL;
    int ret = qcow2_mark_dirty(q);
    if (ret == 0)
        ret = own_table(q, index);
    if (ret == 0)
        ret = find_slice(q, cluster, false, &slot, &p);
    if (ret < 0 || !slot || !p)
        return ret < 0 ? ret : -EIO;
    u64 old = be64(p);
    put_be64(p, entry);
    table_cache_dirty(&q->l2, slot);
    qcow2_entry_clusters(q, old, &host, &count);
    if (free_old && count && old != entry) {
        if (old & ENTRY_COMPRESSED)
            qcow2_forget_inflated(q);
        qcow2_free_later(q, host, count);
    }
    return 0;
}
