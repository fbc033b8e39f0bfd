/*
 * Consistency: counts how often each cluster is referred to, compares that with the refcounts and with
 * the marks of sole use in the active tables, and mends what differs. The count is 4 bytes a cluster of
 * the file, bounded by QCOW2_MAX_CHECKED.
 */
#include <errno.h>
#include <stdarg.h>

#include "backend/block/qcow2-internal.h"
#include "base/log.h"

#define QCOW2_MAX_CHECKED (1ull << 28) /* clusters: 1 GiB of counts, 16 TiB of file with 64 KiB clusters */

struct check {
    struct qcow2 *q;
    struct qcow2_check *out;
    u32 *refs;
    u64 clusters;    /* of the file, rounded up */
    u64 last_host;   /* of the cluster before, to see fragments */
    bool mend;       /* entries that point nowhere are cleared */
    u64 descents;    /* into L2 tables that are left: a sound L1 table has each of them once */
    bool bad_tables; /* the refcount structure cannot be mended in place */
};

static void PRINTF_LIKE(2, 3) report(struct check *c, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    if (!c->out->report)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->out->report(c->out->owner, text);
}

/* Counts [host, host + len). False when it is not within the file. */
static bool count_refs(struct check *c, u64 host, u64 len)
{
    u64 first = host >> c->q->header.cluster_bits;
    if (len == 0)
        return true;
    u64 last = (host + len - 1) >> c->q->header.cluster_bits;
    if (last < first || last >= c->clusters)
        return false;
    for (u64 i = first; i <= last; i++) {
        if (c->refs[i] < UINT32_MAX)
            c->refs[i]++;
    }
    c->out->image_end_offset = MAX(c->out->image_end_offset, (last + 1) << c->q->header.cluster_bits);
    return true;
}

/* --- what the tables refer to --- */

static void note_data(struct check *c, u64 entry, bool active)
{
    u64 host = entry & ENTRY_OFFSET;
    if (!active)
        return;
    c->out->allocated_clusters++;
    if (entry & ENTRY_COMPRESSED)
        c->out->compressed_clusters++;
    if (entry & ENTRY_COMPRESSED || (c->last_host && host != c->last_host + c->q->cluster_size))
        c->out->fragmented_clusters++;
    c->last_host = entry & ENTRY_COMPRESSED ? 0 : host;
}

/* Returns false when the entry points where there is nothing. */
static bool check_entry(struct check *c, u64 entry, bool active)
{
    u64 host, len;
    if (entry & ENTRY_COMPRESSED) {
        qcow2_compressed_place(c->q, entry, &host, &len);
        u64 end = c->clusters << c->q->header.cluster_bits;
        if (host < end && len > end - host)
            len = end - host; /* the last sectors need not be there */
        note_data(c, entry, active);
        return count_refs(c, host, len);
    }
    if (!(entry & ENTRY_OFFSET))
        return true;
    host = entry & ENTRY_OFFSET;
    if (!cluster_aligned(c->q, host) || !count_refs(c, host, c->q->cluster_size))
        return false;
    note_data(c, entry, active);
    return true;
}

static int check_l2(struct check *c, u64 table, bool active)
{
    struct qcow2 *q = c->q;
    u8 *buf = malloc(q->cluster_size);
    int ret = buf ? host_file_read(&q->file, table, buf, q->cluster_size) : -ENOMEM;
    bool changed = false;
    for (u32 i = 0; ret == 0 && i < q->cluster_size; i += q->l2_entry_size) {
        u64 entry = be64(buf + i);
        if (check_entry(c, entry, active))
            continue;
        c->out->corruptions++;
        report(c, "ERROR: an L2 entry refers to %llx, which is not a cluster of the file",
               (unsigned long long)(entry & ENTRY_OFFSET));
        if (c->mend) { /* the data are lost: zeroes rather than what another cluster has */
            put_be64(buf + i, q->header.version >= 3 ? ENTRY_ZERO : 0);
            c->out->corruptions_fixed++;
            changed = true;
        }
    }
    if (changed) {
        table_cache_forget(&q->l2, table, q->cluster_size);
        ret = host_file_write(&q->file, table, buf, q->cluster_size);
    }
    free(buf);
    return ret;
}

static int check_l1(struct check *c, u64 offset, u64 *l1, u32 entries, bool active)
{
    int ret = 0;
    if (!count_refs(c, offset, (u64)entries * 8)) {
        c->out->corruptions++;
        report(c, "ERROR: an L1 table at %llx is not within the file", (unsigned long long)offset);
        return 0;
    }
    for (u32 i = 0; i < entries && ret == 0; i++) {
        u64 table = l1[i] & ENTRY_OFFSET;
        if (!table)
            continue;
        if (cluster_aligned(c->q, table) && count_refs(c, table, c->q->cluster_size)) {
            ret = c->descents-- ? check_l2(c, table, active) : -EFBIG;
            continue;
        }
        c->out->corruptions++;
        report(c, "ERROR: an L1 entry refers to %llx, which is not a cluster of the file",
               (unsigned long long)table);
        if (c->mend && active) {
            l1[i] = 0;
            qcow2_mark_l1(c->q, i);
            c->out->corruptions_fixed++;
        }
    }
    return ret;
}

static int check_snapshots(struct check *c)
{
    struct qcow2 *q = c->q;
    u64 table = qcow2_snapshots_bytes(q);
    int ret = 0;
    for (u32 i = 0; i < q->header.snapshot_count && ret == 0; i++) {
        struct qcow2_snapshot *s = &q->snapshots[i];
        u64 *l1 = NULL;
        ret = qcow2_read_table(q, s->l1_offset, s->l1_size, &l1);
        if (ret == 0)
            ret = check_l1(c, s->l1_offset, l1, s->l1_size, false);
        free(l1);
    }
    if (ret == 0 && table && !count_refs(c, q->header.snapshots_offset, table))
        c->out->corruptions++;
    return ret;
}

static void check_refblocks(struct check *c)
{
    struct qcow2 *q = c->q;
    if (!count_refs(c, q->header.reftable_offset, (u64)q->header.reftable_clusters << q->header.cluster_bits))
        c->bad_tables = true;
    for (u32 i = 0; i < q->reftable_len; i++) {
        u64 host = q->reftable[i] & REFTABLE_OFFSET;
        if (!q->reftable[i])
            continue;
        if (cluster_aligned(q, host) && host && count_refs(c, host, q->cluster_size) &&
            c->refs[host >> q->header.cluster_bits] == 1)
            continue;
        c->out->corruptions++;
        c->bad_tables = true;
        report(c, "ERROR: refcount block %u is at %llx, where it cannot be", i, (unsigned long long)host);
    }
}

/* Clusters in use that no block describes, as after a crash with lazy refcounts: there is no room for them.
 */
static void check_described(struct check *c)
{
    struct qcow2 *q = c->q;
    for (u64 i = 0; i < c->clusters && !c->bad_tables; i++) {
        u64 block = i >> q->refblock_bits;
        if (block < q->reftable_len && q->reftable[block]) {
            i |= MASK(q->refblock_bits);
        } else if (c->refs[i]) {
            c->out->corruptions++;
            c->bad_tables = true;
            report(c, "ERROR cluster %llu is in use, and no refcount block describes it",
                   (unsigned long long)i);
        }
    }
}

/* All references. Order: what lies where it must lie first, so that blocks that overlap it are seen. */
static int count_all(struct check *c)
{
    struct qcow2 *q = c->q;
    if (!c->refs)
        return -ENOMEM;
    memset(c->refs, 0, c->clusters * sizeof *c->refs);
    c->out->allocated_clusters = c->out->compressed_clusters = c->out->fragmented_clusters = 0;
    c->out->corruptions = c->out->leaks = 0;
    c->last_host = 0;
    c->bad_tables = false;
    c->descents = c->clusters * (1 + (u64)q->header.snapshot_count) + 1;
    count_refs(c, 0, q->cluster_size);
    int ret = check_l1(c, q->header.l1_offset, q->l1, q->header.l1_size, true);
    if (ret == 0)
        ret = check_snapshots(c);
    if (ret == 0) {
        check_refblocks(c);
        check_described(c);
    }
    return ret;
}

/* --- comparing --- */

/* One cluster's refcount against its references; sets it when that is wanted. */
static int compare_one(struct check *c, u64 cluster, enum qcow2_repair repair)
{
    struct qcow2 *q = c->q;
    u64 count, refs = cluster < c->clusters ? c->refs[cluster] : 0;
    lock_acquire(&q->lock);
    int ret = qcow2_refcount_get(q, cluster, &count);
    if (ret == 0 && count != refs) {
        bool leak = count > refs;
        u64 *found = leak ? &c->out->leaks : &c->out->corruptions;
        u64 *fixed = leak ? &c->out->leaks_fixed : &c->out->corruptions_fixed;
        bool mend = leak ? repair >= QCOW2_REPAIR_LEAKS : repair == QCOW2_REPAIR_ALL;
        ++*found;
        report(c, "%s cluster %llu refcount=%llu reference=%llu",
               mend   ? "Repairing"
               : leak ? "Leaked"
                      : "ERROR",
               (unsigned long long)cluster, (unsigned long long)count, (unsigned long long)refs);
        if (mend && (ret = qcow2_refcount_set(q, cluster, refs)) == 0)
            ++*fixed;
    }
    return qcow2_end_step(q, ret);
}

/* How many clusters from @cluster on, behind the end of the file, are free, as whole slices tell quickly. */
static int free_behind_end(struct qcow2 *q, u64 cluster, u64 *count)
{
    static const u8 zeroes[QCOW2_SLICE];
    u64 block = cluster >> q->refblock_bits, in_block = cluster & MASK(q->refblock_bits);
    u64 per_slice = (u64)q->refcounts.slice * 8 >> q->header.refcount_order;
    struct table_slot *slot;
    *count = 0;
    if (!q->reftable[block]) {
        *count = (1ull << q->refblock_bits) - in_block;
        return 0;
    }
    if (cluster & (per_slice - 1))
        return 0;
    lock_acquire(&q->lock);
    int ret = table_cache_get(
        &q->refcounts, (q->reftable[block] & REFTABLE_OFFSET) + (in_block << q->header.refcount_order) / 8,
        &slot);
    if (ret == 0 && !memcmp(slot->data, zeroes, q->refcounts.slice))
        *count = per_slice;
    lock_drop(&q->lock);
    return ret;
}

/* Behind the end of the file only where each block is known to describe one place. */
static int compare(struct check *c, enum qcow2_repair repair)
{
    struct qcow2 *q = c->q;
    u64 end = c->bad_tables ? 0 : (u64)q->reftable_len << q->refblock_bits, skip;
    int ret = 0;
    end = MAX(end, c->clusters);
    for (u64 i = 0; i < end && ret == 0; i++) {
        if (i >= c->clusters) {
            ret = free_behind_end(q, i, &skip);
            if (ret < 0 || skip) {
                i += skip - 1;
                continue;
            }
        }
        ret = compare_one(c, i, repair);
    }
    return ret;
}

static void compare_copied(struct check *c, u64 entry, const char *what)
{
    u64 host = entry & ENTRY_OFFSET, count, cluster = host >> c->q->header.cluster_bits;
    if (!host || entry & ENTRY_COMPRESSED || !cluster_aligned(c->q, host) || cluster >= c->clusters)
        return;
    lock_acquire(&c->q->lock);
    int ret = qcow2_refcount_get(c->q, cluster, &count);
    lock_drop(&c->q->lock);
    if (ret < 0 || (count == 1) == !!(entry & ENTRY_COPIED))
        return;
    c->out->corruptions++;
    report(c, "ERROR OFLAG_COPIED %s: entry=%llx refcount=%llu", what, (unsigned long long)entry,
           (unsigned long long)count);
}

static int check_copied(struct check *c)
{
    struct qcow2 *q = c->q;
    u8 *buf = malloc(q->cluster_size);
    int ret = buf ? 0 : -ENOMEM;
    for (u32 i = 0; i < q->header.l1_size && ret == 0; i++) {
        u64 table = q->l1[i] & ENTRY_OFFSET;
        if (!table || !cluster_aligned(q, table) || table >> q->header.cluster_bits >= c->clusters)
            continue;
        compare_copied(c, q->l1[i], "L2 cluster");
        ret = host_file_read(&q->file, table, buf, q->cluster_size);
        for (u32 j = 0; j < q->cluster_size && ret == 0; j += q->l2_entry_size)
            compare_copied(c, be64(buf + j), "data cluster");
    }
    free(buf);
    return ret;
}

/* --- a new refcount structure, when the old one cannot be trusted --- */

struct rebuild {
    u64 first; /* cluster behind all that is in use: the table, then the blocks */
    u64 table_clusters, blocks;
};

static void plan_rebuild(const struct check *c, struct rebuild *r)
{
    const struct qcow2 *q = c->q;
    r->first = c->clusters;
    r->table_clusters = r->blocks = 1;
    for (;;) {
        u64 total = r->first + r->table_clusters + r->blocks;
        u64 blocks = (total + MASK(q->refblock_bits)) >> q->refblock_bits;
        u64 table = clusters_of(q, blocks * 8);
        if (blocks <= r->blocks && table <= r->table_clusters)
            return;
        r->blocks = MAX(blocks, r->blocks);
        r->table_clusters = MAX(table, r->table_clusters);
    }
}

static int write_rebuilt(struct check *c, const struct rebuild *r)
{
    struct qcow2 *q = c->q;
    u64 at = r->first + r->table_clusters, most = MASK(1u << q->header.refcount_order);
    u8 *buf = malloc(q->cluster_size);
    int ret = buf ? 0 : -ENOMEM;
    for (u64 b = 0; b < r->blocks && ret == 0; b++) {
        memset(buf, 0, q->cluster_size);
        for (u64 i = 0; i <= MASK(q->refblock_bits); i++) {
            u64 cluster = (b << q->refblock_bits) + i, count = 0;
            if (cluster < c->clusters)
                count = MIN((u64)c->refs[cluster], most);
            else if (cluster < at + r->blocks)
                count = 1;
            refcount_put_in_block(buf, q->header.refcount_order, i, count);
        }
        ret = host_file_write(&q->file, (at + b) << q->header.cluster_bits, buf, q->cluster_size);
    }
    free(buf);
    return ret;
}

static int rebuild(struct check *c)
{
    struct qcow2 *q = c->q;
    struct rebuild r;
    plan_rebuild(c, &r);
    u64 bytes = r.table_clusters << q->header.cluster_bits, at = r.first + r.table_clusters;
    u64 *table = calloc(bytes / 8, 8);
    u8 *buf = calloc(1, bytes);
    int ret = table && buf ? 0 : -ENOMEM;
    if (bytes > QCOW2_MAX_REFTABLE_BYTES)
        ret = -EFBIG;
    for (u64 b = 0; ret == 0 && b < r.blocks; b++) {
        table[b] = (at + b) << q->header.cluster_bits;
        put_be64(buf + b * 8, table[b]);
    }
    if (ret == 0)
        ret = write_rebuilt(c, &r);
    if (ret == 0)
        ret = host_file_write(&q->file, r.first << q->header.cluster_bits, buf, bytes);
    if (ret == 0)
        ret = host_file_sync(&q->file);
    free(buf);
    if (ret < 0) {
        free(table);
        return ret;
    }
    free(q->reftable);
    q->reftable = table;
    q->reftable_len = (u32)(bytes / 8);
    memset(q->reftable_dirty, 0, QCOW2_MAX_REFTABLE_BYTES / BLOCK_SECTOR);
    table_cache_clear(&q->refcounts);
    q->header.reftable_offset = r.first << q->header.cluster_bits;
    q->header.reftable_clusters = (u32)r.table_clusters;
    q->file_end = MAX(q->file_end, (at + r.blocks) << q->header.cluster_bits);
    q->free_hint = 0;
    ret = qcow2_header_write(q);
    return ret == 0 ? host_file_sync(&q->file) : ret;
}

/* --- the whole --- */

static int start(struct check *c, struct error *err)
{
    struct qcow2 *q = c->q;
    u64 size;
    int ret = host_file_size(&q->file, &size);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot find the size of '%s'", q->base.path);
    size = MAX(size, q->file_end == UINT64_MAX ? 0 : q->file_end);
    c->clusters = clusters_of(q, size);
    if (c->clusters > QCOW2_MAX_CHECKED)
        return error_set(err, EFBIG, "'%s' has more clusters than can be checked", q->base.path);
    free(c->refs);
    c->refs = calloc(MAX(c->clusters, 1u), sizeof *c->refs);
    return c->refs ? 0 : error_set_errno(err, ENOMEM, "cannot check '%s'", q->base.path);
}

static int clear_marks(struct qcow2 *q)
{
    if (!(q->header.incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT)))
        return 0;
    q->header.incompatible &= ~(QCOW2_DIRTY | QCOW2_CORRUPT);
    int ret = host_file_sync(&q->file);
    return ret == 0 ? qcow2_header_write(q) : ret;
}

static int run(struct check *c, enum qcow2_repair repair, struct error *err)
{
    struct qcow2 *q = c->q;
    u64 mended = 0;
    c->mend = repair == QCOW2_REPAIR_ALL;
    int ret = start(c, err);
    if (ret < 0)
        return ret;
    ret = count_all(c);
    if (ret == 0 && c->bad_tables && repair == QCOW2_REPAIR_ALL) {
        u64 found = c->out->corruptions;
        report(c, "The refcounts are made anew");
        ret = rebuild(c);
        c->out->corruptions_fixed = found;
        if (ret == 0)
            ret = start(c, err);
        if (ret == 0)
            ret = count_all(c);
        c->out->corruptions += found;
    }
    if (ret == 0)
        ret = compare(c, repair);
    if (ret == 0 && repair != QCOW2_REPAIR_NONE)
        ret = qcow2_commit(q);
    u64 before = c->out->corruptions;
    if (ret == 0)
        ret = check_copied(c);
    if (ret == 0 && repair == QCOW2_REPAIR_ALL) {
        ret = qcow2_fix_copied(q, &mended);
        c->out->corruptions_fixed += c->out->corruptions - before;
        if (ret == 0)
            ret = clear_marks(q);
    }
    return ret < 0 ? error_set_errno(err, -ret, "cannot check '%s'", q->base.path) : 0;
}

int qcow2_check(struct block_device *b, enum qcow2_repair repair, struct qcow2_check *result,
                struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    if (!q)
        return error_set(err, ENOTSUP, "'%s': only qcow2 images can be checked", b->path);
    if (q->bitmaps)
        return error_set(err, ENOTSUP, "'%s' has dirty bitmaps, which are not known here; use qemu-img",
                         b->path);
    struct check c = {.q = q, .out = result};
    /* What is in memory is in the file, and an unfinished repair of lazy refcounts is not undone. */
    int ret = b->read_only ? 0 : qcow2_commit(q);
    result->total_clusters = clusters_of(q, q->header.size);
    ret = ret < 0 ? error_set_errno(err, -ret, "cannot check '%s'", b->path) : run(&c, repair, err);
    free(c.refs);
    return ret;
}
