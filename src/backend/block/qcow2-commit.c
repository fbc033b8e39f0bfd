/*
 * The order in which metadata reach the file, so that a kill or a power cut at any instant leaves an
 * image that loses nothing that was flushed, and that at worst has leaks. docs/block.md tells why.
 *
 *  1. A cluster's data are written before a table refers to it.                       (qcow2.c)
 *  2. Refcounts go up in the file before a table there refers to the cluster,
 *  3. and down only after no table there does. Until then the cluster is not used again.
 *  4. A table is whole in the file before the table above it, or the header, refers to it.
 *  5. "Before" means that a sync of the file lies between.
 *
 * A commit takes copies of all that is dirty under the lock, which makes them one consistent state, and
 * writes them without it: requests go on meanwhile.
 */
#include <errno.h>

#include "backend/block/qcow2-internal.h"
#include "base/log.h"

#define SECTOR_ENTRIES (BLOCK_SECTOR / 8)

/* A piece of a table on its way to the file. */
struct piece {
    struct table_slot *slot; /* NULL: of the L1 or refcount table */
    struct table_cache *cache;
    bool *flag; /* of the L1 or refcount table: to set again when writing fails */
    u64 offset;
    u32 len;
    u8 *data;
};

struct batch {
    struct piece *piece;
    size_t count, cap;
};

struct commit {
    struct batch refblocks, reftable, l2, l1;
    struct cluster_range *frees;
    unsigned free_count;
};

/* --- what is dirty --- */

void qcow2_mark_l1(struct qcow2 *q, u64 index)
{
    q->l1_dirty[index / SECTOR_ENTRIES] = true;
}

void qcow2_mark_reftable(struct qcow2 *q, u64 index)
{
    q->reftable_dirty[index / SECTOR_ENTRIES] = true;
}

static bool commit_wanted(const struct qcow2 *q)
{
    return q->l2.dirty > q->l2.max / 2 || q->refcounts.dirty > q->refcounts.max / 2 ||
           q->pending_count > QCOW2_MAX_PENDING;
}

int qcow2_end_step(struct qcow2 *q, int ret)
{
    bool commit = ret == 0 && commit_wanted(q);
    lock_drop(&q->lock);
    return commit ? qcow2_commit(q) : ret;
}

void qcow2_free_later(struct qcow2 *q, u64 host, u64 count)
{
    if (q->pending_count) {
        struct cluster_range *last = &q->pending[q->pending_count - 1];
        if (last->host + (last->count << q->header.cluster_bits) == host) {
            last->count += count;
            return;
        }
    }
    if (q->pending_count == q->pending_cap) {
        unsigned cap = q->pending_cap ? q->pending_cap * 2 : 64;
        struct cluster_range *p = realloc(q->pending, cap * sizeof *p);
        if (!p) {
            log_warn("'%s': out of memory: %llu clusters leak", q->base.path, (unsigned long long)count);
            return;
        }
        q->pending = p;
        q->pending_cap = cap;
    }
    q->pending[q->pending_count++] = (struct cluster_range){host, count};
}

int qcow2_mark_dirty(struct qcow2 *q)
{
    if (!lazy_refcounts(q) || (q->header.incompatible & QCOW2_DIRTY))
        return 0;
    q->header.incompatible |= QCOW2_DIRTY;
    int ret = qcow2_header_write(q);
    if (ret == 0)
        ret = host_file_sync(&q->file);
    if (ret < 0)
        q->header.incompatible &= ~QCOW2_DIRTY;
    return ret;
}

/* --- taking it --- */

static struct piece *add_piece(struct batch *b, u64 offset, u32 len)
{
    if (b->count == b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 32;
        struct piece *p = realloc(b->piece, cap * sizeof *p);
        if (!p)
            return NULL;
        b->piece = p;
        b->cap = cap;
    }
    struct piece *p = &b->piece[b->count];
    *p = (struct piece){.offset = offset, .len = len};
    if (posix_memalign((void **)&p->data, FILE_DIRECT_ALIGN, len) != 0)
        return NULL;
    b->count++;
    return p;
}

static int take_cache(struct batch *b, struct table_cache *c)
{
    struct table_slot *s;
    list_for_each (s, &c->lru, lru) {
        if (!s->dirty)
            continue;
        struct piece *p = add_piece(b, s->offset, c->slice);
        if (!p)
            return -ENOMEM;
        memcpy(p->data, s->data, c->slice);
        p->slot = s;
        p->cache = c;
        s->dirty = false;
        s->pinned = true;
        c->dirty--;
    }
    return 0;
}

static int take_table(struct batch *b, const u64 *table, u64 entries, bool *dirty, u64 offset)
{
    for (u64 i = 0; i < entries; i += SECTOR_ENTRIES) {
        bool *flag = &dirty[i / SECTOR_ENTRIES];
        u64 n = MIN(entries - i, (u64)SECTOR_ENTRIES);
        if (!*flag)
            continue;
        struct piece *p = add_piece(b, offset + i * 8, (u32)n * 8);
        if (!p)
            return -ENOMEM;
        for (u64 j = 0; j < n; j++)
            put_be64(p->data + j * 8, table[i + j]);
        p->flag = flag;
        *flag = false;
    }
    return 0;
}

static int take(struct qcow2 *q, struct commit *c)
{
    int ret = 0;
    /* Lazy refcounts are written when the image is closed, or when there are too many of them. */
    if (!lazy_refcounts(q) || !q->opened || q->refcounts.dirty > q->refcounts.max / 2) {
        ret = take_cache(&c->refblocks, &q->refcounts);
        if (ret == 0)
            ret = take_table(&c->reftable, q->reftable, q->reftable_len, q->reftable_dirty,
                             q->header.reftable_offset);
    }
    if (ret == 0)
        ret = take_cache(&c->l2, &q->l2);
    if (ret == 0)
        ret = take_table(&c->l1, q->l1, q->header.l1_size, q->l1_dirty, q->header.l1_offset);
    c->frees = q->pending;
    c->free_count = q->pending_count;
    q->pending = NULL;
    q->pending_count = q->pending_cap = 0;
    return ret;
}

/* --- writing it --- */

static int by_offset(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int write_batch(struct qcow2 *q, struct batch *b)
{
    if (b->count)
        qsort(b->piece, b->count, sizeof *b->piece, by_offset);
    for (size_t i = 0; i < b->count; i++) {
        int ret = host_file_write(&q->file, b->piece[i].offset, b->piece[i].data, b->piece[i].len);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* Writes @lower and then @upper, which refers to what is in @lower. */
static int write_levels(struct qcow2 *q, struct batch *lower, struct batch *upper)
{
    int ret = write_batch(q, lower);
    if (ret < 0 || !upper->count)
        return ret;
    ret = host_file_sync(&q->file);
    return ret < 0 ? ret : write_batch(q, upper);
}

static int write_all(struct qcow2 *q, struct commit *c)
{
    int ret = write_levels(q, &c->refblocks, &c->reftable);
    if (ret == 0) /* also for the data that the L2 tables refer to */
        ret = host_file_sync(&q->file);
    if (ret < 0 || (!c->l2.count && !c->l1.count))
        return ret;
    ret = write_levels(q, &c->l2, &c->l1);
    return ret < 0 ? ret : host_file_sync(&q->file);
}

/* --- afterwards --- */

static void settle_batch(struct batch *b, bool failed)
{
    for (size_t i = 0; i < b->count; i++) {
        struct piece *p = &b->piece[i];
        free(p->data);
        if (p->flag && failed)
            *p->flag = true;
        if (!p->slot)
            continue;
        p->slot->pinned = false;
        if (p->slot->gone) {
            free(p->slot->data);
            free(p->slot);
        } else if (failed) {
            table_cache_dirty(p->cache, p->slot);
        }
    }
    free(b->piece);
}

/* Gives the space of clusters that become free back to the host. They cannot be in use again yet. */
static void punch(struct qcow2 *q, const struct cluster_range *r)
{
    u64 run = 0;
    for (u64 i = 0; i <= r->count; i++) {
        u64 count = 2;
        if (i < r->count) {
            lock_acquire(&q->lock);
            if (qcow2_refcount_get(q, (r->host >> q->header.cluster_bits) + i, &count) < 0)
                count = 2;
            lock_drop(&q->lock);
        }
        if (count == 1) {
            run++;
        } else if (run) {
            (void)host_file_discard(&q->file, r->host + ((i - run) << q->header.cluster_bits),
                                    run << q->header.cluster_bits);
            run = 0;
        }
    }
}

static void apply_frees(struct qcow2 *q, struct commit *c)
{
    for (unsigned i = 0; i < c->free_count; i++)
        punch(q, &c->frees[i]);
    lock_acquire(&q->lock);
    for (unsigned i = 0; i < c->free_count; i++)
        qcow2_free_now(q, c->frees[i].host, c->frees[i].count);
    lock_drop(&q->lock);
}

static void keep_frees(struct qcow2 *q, struct commit *c)
{
    for (unsigned i = 0; i < c->free_count; i++)
        qcow2_free_later(q, c->frees[i].host, c->frees[i].count);
}

static int commit_once(struct qcow2 *q)
{
    struct commit c = {.frees = NULL};
    lock_acquire(&q->lock);
    int ret = take(q, &c);
    lock_drop(&q->lock);

    if (ret == 0)
        ret = write_all(q, &c);
    if (ret == 0)
        apply_frees(q, &c);

    lock_acquire(&q->lock);
    settle_batch(&c.refblocks, ret < 0);
    settle_batch(&c.reftable, ret < 0);
    settle_batch(&c.l2, ret < 0);
    settle_batch(&c.l1, ret < 0);
    if (ret < 0)
        keep_frees(q, &c);
    lock_drop(&q->lock);
    free(c.frees);
    return ret;
}

int qcow2_commit(struct qcow2 *q)
{
    lock_acquire(&q->commit_lock);
    int ret = commit_once(q);
    lock_drop(&q->commit_lock);
    return ret;
}
