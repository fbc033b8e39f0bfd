/*
 * Requests on a qcow2 image, its life and its size.
 *
 * A request that reads or overwrites one piece of the file is done at once by the submitter, when the page
 * cache has it, or given to io_uring; others are executed with blocking calls by a thread of the pool.
 * Metadata are looked up and changed under `lock`; data move without it. What keeps clusters from being moved
 * or freed under a transfer is the list of busy ranges: shared by those that read or overwrite, exclusive to
 * those that change what the range is mapped to.
 */
#include <errno.h>

#include "backend/block/qcow2-internal.h"
#include "base/iov.h"
#include "base/log.h"

static const struct block_ops qcow2_ops;

static struct qcow2 *from_base(struct block_device *b)
{
    return container_of(b, struct qcow2, base);
}

struct qcow2 *qcow2_of(struct block_device *b)
{
    return b->ops == &qcow2_ops ? from_base(b) : NULL;
}

const struct host_file *qcow2_file(struct block_device *b)
{
    return b->ops == &qcow2_ops ? &from_base(b)->file : NULL;
}

/* --- busy ranges: lock held --- */

static bool conflicts(const struct qcow2 *q, const struct busy_range *r)
{
    struct busy_range *o;
    list_for_each (o, &q->busy, link) {
        if ((o->exclusive || r->exclusive) && o->first <= r->last && r->first <= o->last)
            return true;
    }
    return false;
}

/* Whole clusters. Returns whether it had to wait: what was known of the tables may be wrong then. */
static bool busy_begin(struct qcow2 *q, struct busy_range *r, u64 offset, u64 len, bool exclusive)
{
    bool waited = false;
    r->first = ALIGN_DOWN(offset, (u64)q->cluster_size);
    r->last = (offset + len - 1) | (q->cluster_size - 1);
    r->exclusive = exclusive;
    while (conflicts(q, r)) {
        waited = true;
        lock_wait(&q->lock, &q->busy_changed);
    }
    list_push_back(&q->busy, &r->link);
    return waited;
}

static void busy_end(struct qcow2 *q, struct busy_range *r)
{
    list_remove(&r->link);
    pthread_cond_broadcast(&q->busy_changed);
}

static void busy_end_unlocked(struct qcow2 *q, struct busy_range *r)
{
    lock_acquire(&q->lock);
    busy_end(q, r);
    lock_drop(&q->lock);
}

/* --- vectors --- */

/* The part [skip, skip + len) of the buffers of @r. */
static unsigned cut_iov(struct iovec *out, const struct block_request *r, u64 skip, u64 len)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->iovcnt && len; i++) {
        u64 have = r->iov[i].iov_len;
        if (skip >= have) {
            skip -= have;
            continue;
        }
        u64 take = MIN(have - skip, len);
        out[n++] = (struct iovec){(u8 *)r->iov[i].iov_base + skip, (size_t)take};
        len -= take;
        skip = 0;
    }
    return n;
}

static void zero_iov(const struct iovec *iov, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
}

static void copy_to_iov(const struct iovec *iov, unsigned count, const u8 *from)
{
    for (unsigned i = 0; i < count; i++) {
        memcpy(iov[i].iov_base, from, iov[i].iov_len);
        from += iov[i].iov_len;
    }
}

/* --- reading --- */

/* What nobody wrote here comes from the backing file, which may be shorter than we are. */
static int read_backing(struct qcow2 *q, u64 offset, struct iovec *iov, unsigned count, u64 len)
{
    u64 have = 0;
    int ret = 0;
    if (q->backing && offset < q->backing->size)
        have = MIN(len, q->backing->size - offset);
    if (have) {
        struct iovec part[FILE_MAX_IOV];
        struct block_request all = {.iov = iov, .iovcnt = count};
        struct block_request r = {.op = BLOCK_READ, .offset = offset, .len = have, .iov = part};
        r.iovcnt = cut_iov(part, &all, 0, have);
        ret = q->backing->ops->execute(q->backing, &r);
    }
    iov_trim_front(&iov, &count, have);
    zero_iov(iov, count);
    return ret;
}

static int read_compressed(struct qcow2 *q, u64 entry, u64 offset, const struct iovec *iov, unsigned count,
                           u64 len)
{
    u64 skip = offset & (q->cluster_size - 1);
    if (count == 1)
        return qcow2_read_compressed(q, entry, skip, iov->iov_base, len);
    u8 *buf = malloc(len); /* at most a cluster */
    int ret = buf ? qcow2_read_compressed(q, entry, skip, buf, len) : -ENOMEM;
    if (ret == 0)
        copy_to_iov(iov, count, buf);
    free(buf);
    return ret;
}

static int read_extent(struct qcow2 *q, const struct map_extent *e, u64 offset, struct iovec *iov,
                       unsigned count)
{
    switch (e->kind) {
    case MAP_NORMAL: return host_file_transfer(&q->file, BLOCK_READ, iov, count, e->host, e->len);
    case MAP_ZERO: zero_iov(iov, count); return 0;
    case MAP_UNALLOCATED: return read_backing(q, offset, iov, count, e->len);
    case MAP_COMPRESSED: return read_compressed(q, e->entry, offset, iov, count, e->len);
    }
    BUG();
}

/* The range is busy with us. */
static int read_range(struct qcow2 *q, const struct block_request *r, u64 offset, u64 len)
{
    u64 skip = offset - r->offset;
    while (len) {
        struct iovec iov[FILE_MAX_IOV];
        struct map_extent e;
        lock_acquire(&q->lock);
        int ret = qcow2_map(q, offset, len, &e);
        lock_drop(&q->lock);
        if (ret == 0)
            ret = read_extent(q, &e, offset, iov, cut_iov(iov, r, skip, e.len));
        if (ret < 0)
            return ret;
        offset += e.len;
        skip += e.len;
        len -= e.len;
    }
    return 0;
}

static int execute_read(struct qcow2 *q, const struct block_request *r)
{
    struct busy_range busy;
    lock_acquire(&q->lock);
    busy_begin(q, &busy, r->offset, r->len, false);
    lock_drop(&q->lock);
    int ret = read_range(q, r, r->offset, r->len);
    busy_end_unlocked(q, &busy);
    return ret;
}

/* --- writing to clusters that are ours alone --- */

/* Can all of the range be overwritten where it is? Lock held. */
static int all_in_place(struct qcow2 *q, u64 offset, u64 len, bool *yes)
{
    struct map_extent e;
    for (*yes = true; len && *yes; offset += e.len, len -= e.len) {
        int ret = qcow2_map(q, offset, len, &e);
        if (ret < 0)
            return ret;
        *yes = e.kind == MAP_NORMAL && e.in_place;
    }
    return 0;
}

/* --- writing to new clusters --- */

/* A run of new clusters on its way to be filled. */
struct new_run {
    u64 host, count;  /* host offset, clusters */
    u64 offset, len;  /* what the request writes there, guest offset */
    bool fresh;       /* they read as zeroes */
    bool reused;      /* a cluster that was kept for zeroes: no new one */
    bool old_is_zero; /* so did what they stand for */
};

static bool reads_zero(const struct qcow2 *q, const struct map_extent *e, u64 offset)
{
    return e->kind == MAP_ZERO ||
           (e->kind == MAP_UNALLOCATED &&
            (!q->backing || ALIGN_DOWN(offset, (u64)q->cluster_size) >= q->backing->size));
}

/* Lock held. */
static int begin_run(struct qcow2 *q, const struct map_extent *e, u64 offset, struct new_run *n)
{
    u64 in_cluster = offset & (q->cluster_size - 1);
    *n = (struct new_run){.offset = offset, .len = e->len, .old_is_zero = reads_zero(q, e, offset)};
    if (e->kind == MAP_ZERO && e->in_place) {
        n->host = e->host;
        n->count = 1;
        n->reused = true;
    } else {
        int ret = qcow2_alloc(q, clusters_of(q, in_cluster + e->len), &n->host, &n->count, &n->fresh);
        if (ret < 0)
            return ret;
    }
    n->len = MIN(n->len, (n->count << q->header.cluster_bits) - in_cluster);
    return 0;
}

/* Reads what a part of a cluster that is not written has to keep. */
static int old_data(struct qcow2 *q, const struct new_run *n, u64 offset, u8 *buf, u64 len)
{
    struct iovec iov = {buf, (size_t)len};
    struct block_request r = {.op = BLOCK_READ, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1};
    u64 have = offset < q->base.size ? MIN(len, q->base.size - offset) : 0;
    memset(buf + have, 0, len - have);
    if (n->old_is_zero) {
        memset(buf, 0, have);
        return 0;
    }
    return have ? read_range(q, &r, offset, have) : 0;
}

/* Writes data with what surrounds them in the first and last cluster, as one write where that fits. */
static int fill_run(struct qcow2 *q, const struct block_request *r, const struct new_run *n)
{
    u64 head = n->offset & (q->cluster_size - 1), tail = (n->count << q->header.cluster_bits) - head - n->len;
    struct iovec iov[FILE_MAX_IOV];
    u8 *buf = NULL;
    int ret = 0;
    unsigned count = cut_iov(iov + 1, r, n->offset - r->offset, n->len);
    if ((head == 0 && tail == 0) || (n->fresh && n->old_is_zero))
        return host_file_transfer(&q->file, BLOCK_WRITE, iov + 1, count, n->host + head, n->len);
    buf = malloc(head + tail);
    if (!buf)
        return -ENOMEM;
    ret = old_data(q, n, n->offset - head, buf, head);
    if (ret == 0)
        ret = old_data(q, n, n->offset + n->len, buf + head, tail);
    if (ret == 0) {
        iov[0] = (struct iovec){buf, (size_t)head};
        iov[count + 1] = (struct iovec){buf + head, (size_t)tail};
        unsigned first = head == 0, last = count + (tail != 0);
        ret = host_file_transfer(&q->file, BLOCK_WRITE, iov + first, last - first + 1, n->host,
                                 head + n->len + tail);
    }
    free(buf);
    return ret;
}

/* Lock held. */
static int install_run(struct qcow2 *q, const struct new_run *n)
{
    u64 cluster = n->offset >> q->header.cluster_bits;
    for (u64 i = 0; i < n->count; i++) {
        u64 host = n->host + (i << q->header.cluster_bits);
        int ret = qcow2_l2_set(q, cluster + i, host | ENTRY_COPIED, !n->reused);
        if (ret < 0) {
            if (!n->reused)
                qcow2_free_now(q, host, n->count - i);
            return ret;
        }
    }
    return 0;
}

/* Fills new clusters, and only then lets the tables refer to them. */
static int write_new(struct qcow2 *q, const struct block_request *r, const struct map_extent *e, u64 offset,
                     u64 *done)
{
    struct new_run n;
    lock_acquire(&q->lock);
    int ret = begin_run(q, e, offset, &n);
    lock_drop(&q->lock);
    if (ret < 0)
        return ret;
    ret = fill_run(q, r, &n);
    lock_acquire(&q->lock);
    if (ret == 0)
        ret = install_run(q, &n);
    else if (!n.reused)
        qcow2_free_now(q, n.host, n.count);
    lock_drop(&q->lock);
    *done = n.len;
    return ret;
}

/* The range is busy with us, exclusively where something has to be allocated. */
static int write_range(struct qcow2 *q, const struct block_request *r)
{
    for (u64 offset = r->offset, end = r->offset + r->len, n; offset < end; offset += n) {
        struct iovec iov[FILE_MAX_IOV];
        struct map_extent e;
        lock_acquire(&q->lock);
        int ret = qcow2_map(q, offset, end - offset, &e);
        lock_drop(&q->lock);
        n = e.len;
        if (ret == 0 && e.kind == MAP_NORMAL && e.in_place)
            ret = host_file_transfer(&q->file, BLOCK_WRITE, iov, cut_iov(iov, r, offset - r->offset, e.len),
                                     e.host, e.len);
        else if (ret == 0)
            ret = write_new(q, r, &e, offset, &n);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* Claims the range: shared when all of it can be overwritten where it is. Lock held. */
static int begin_write(struct qcow2 *q, const struct block_request *r, struct busy_range *busy)
{
    bool in_place = false, still = false;
    int ret = all_in_place(q, r->offset, r->len, &in_place);
    if (ret < 0)
        return ret;
    if (!busy_begin(q, busy, r->offset, r->len, !in_place) || !in_place)
        return 0;
    /* It had to wait: the answer may be another now. */
    ret = all_in_place(q, r->offset, r->len, &still);
    if (ret == 0 && still)
        return 0;
    busy_end(q, busy);
    if (ret == 0)
        (void)busy_begin(q, busy, r->offset, r->len, true);
    return ret;
}

static int execute_write(struct qcow2 *q, const struct block_request *r)
{
    struct busy_range busy;
    lock_acquire(&q->lock);
    int ret = begin_write(q, r, &busy);
    lock_drop(&q->lock);
    if (ret < 0)
        return ret;
    ret = write_range(q, r);
    lock_acquire(&q->lock);
    busy_end(q, &busy);
    return qcow2_end_step(q, ret);
}

/* --- zeroes and discards --- */

/* Writes zeroes as data: parts of clusters, and images that have no other way to say it. */
static int write_zero_data(struct qcow2 *q, u64 offset, u64 len)
{
    u64 chunk = MIN(len, 256ull << 10);
    void *buf = NULL;
    if (posix_memalign(&buf, FILE_DIRECT_ALIGN, chunk) != 0)
        return -ENOMEM;
    memset(buf, 0, chunk);
    int ret = 0;
    for (u64 n; len && ret == 0; offset += n, len -= n) {
        n = MIN(len, chunk);
        struct iovec iov = {buf, (size_t)n};
        struct block_request r = {.op = BLOCK_WRITE, .offset = offset, .len = n, .iov = &iov, .iovcnt = 1};
        ret = execute_write(q, &r);
    }
    free(buf);
    return ret;
}

/* Does all of the range read as zeroes already? */
static int is_zero(struct qcow2 *q, u64 offset, u64 len, bool *yes)
{
    struct map_extent e;
    int ret = 0;
    lock_acquire(&q->lock);
    for (*yes = true; len && *yes && ret == 0; offset += e.len, len -= e.len) {
        ret = qcow2_map(q, offset, len, &e);
        if (ret < 0)
            break;
        *yes = reads_zero(q, &e, offset);
    }
    lock_drop(&q->lock);
    return ret;
}

static int zero_part(struct qcow2 *q, u64 offset, u64 len)
{
    bool zero = false;
    int ret = len ? is_zero(q, offset, len, &zero) : 0;
    return ret < 0 || zero || !len ? ret : write_zero_data(q, offset, len);
}

/* The entry that takes the place of @old where the guest wants zeroes, or no longer wants anything. */
static u64 emptied_entry(const struct qcow2 *q, u64 old, bool keep_cluster)
{
    if (q->header.version < 3)
        return 0;
    if (keep_cluster && !(old & ENTRY_COMPRESSED) && (old & ENTRY_COPIED) && (old & ENTRY_OFFSET))
        return old | ENTRY_ZERO;
    return q->backing || (old & ENTRY_ZERO) ? ENTRY_ZERO : 0;
}

/* Lock held. Whole clusters [first, end). */
static int empty_clusters(struct qcow2 *q, u64 first, u64 end, bool keep_cluster)
{
    for (u64 c = first; c < end; c++) {
        u64 old;
        if (!q->backing && !(q->l1[c >> q->l2_bits] & ENTRY_OFFSET)) { /* nothing in all of the table */
            c |= MASK(q->l2_bits);
            continue;
        }
        int ret = qcow2_l2_get(q, c, &old);
        if (ret < 0)
            return ret;
        u64 entry = emptied_entry(q, old, keep_cluster);
        bool freed = (entry & ENTRY_OFFSET) == 0;
        if (entry != old && (ret = qcow2_l2_set(q, c, entry, freed)) < 0)
            return ret;
    }
    return 0;
}

/* Many clusters take long: the lock is given up, and metadata are written, every so often. */
static int empty_range(struct qcow2 *q, u64 offset, u64 end, bool keep_cluster)
{
    u64 step = 8192ull << q->header.cluster_bits;
    int ret = 0;
    for (u64 n; offset < end && ret == 0; offset += n) {
        struct busy_range busy;
        n = MIN(step, end - offset);
        lock_acquire(&q->lock);
        busy_begin(q, &busy, offset, n, true);
        ret = empty_clusters(q, offset >> q->header.cluster_bits, clusters_of(q, offset + n), keep_cluster);
        busy_end(q, &busy);
        ret = qcow2_end_step(q, ret);
    }
    return ret;
}

/* The clusters that lie wholly in the range; the last one of the disk may be cut short. */
static void whole_clusters(const struct qcow2 *q, u64 offset, u64 len, u64 *first, u64 *end)
{
    *first = ALIGN_UP(offset, (u64)q->cluster_size);
    *end = offset + len == q->base.size ? q->base.size : ALIGN_DOWN(offset + len, (u64)q->cluster_size);
    if (*first >= *end)
        *first = *end = offset + len;
}

static int execute_discard(struct qcow2 *q, const struct block_request *r)
{
    u64 first, end;
    if (q->header.version < 3 && q->backing)
        return 0; /* the old data would show through: better to keep what is there */
    whole_clusters(q, r->offset, r->len, &first, &end);
    return empty_range(q, first, end, false);
}

static int execute_write_zeroes(struct qcow2 *q, const struct block_request *r)
{
    u64 first, end;
    whole_clusters(q, r->offset, r->len, &first, &end);
    if (q->header.version < 3 && q->backing)
        return zero_part(q, r->offset, r->len);
    int ret = zero_part(q, r->offset, first - r->offset);
    if (ret == 0)
        ret = empty_range(q, first, end, !r->unmap);
    return ret < 0 ? ret : zero_part(q, end, r->offset + r->len - end);
}

/* --- requests --- */

int qcow2_execute(struct block_device *b, const struct block_request *r)
{
    struct qcow2 *q = from_base(b);
    if (r->op == BLOCK_FLUSH)
        return b->read_only ? 0 : qcow2_commit(q);
    if (r->offset > b->size || r->len > b->size - r->offset || r->iovcnt > FILE_MAX_IOV - 2)
        return -EINVAL;
    if (b->read_only && r->op != BLOCK_READ)
        return -EROFS;
    if (r->len == 0)
        return 0;
    switch (r->op) {
    case BLOCK_READ: return execute_read(q, r);
    case BLOCK_WRITE: return execute_write(q, r);
    case BLOCK_DISCARD: return execute_discard(q, r);
    case BLOCK_WRITE_ZEROES: return execute_write_zeroes(q, r);
    default: return -EINVAL;
    }
}

/* A transfer of one piece of the file that io_uring is doing for @original. */
struct transfer {
    struct block_request r;
    struct block_request *original;
    struct busy_range busy;
};

/* One piece of the file, known without reading, and not changing hands meanwhile. */
static bool begin_transfer(struct qcow2 *q, const struct block_request *r, struct map_extent *e,
                           struct busy_range *busy)
{
    busy->first = ALIGN_DOWN(r->offset, (u64)q->cluster_size);
    busy->last = (r->offset + r->len - 1) | (q->cluster_size - 1);
    busy->exclusive = false;
    lock_acquire(&q->lock);
    bool good = !conflicts(q, busy) && qcow2_map_cached(q, r->offset, r->len, e) == 0 && e->len == r->len &&
                e->kind == MAP_NORMAL && (r->op == BLOCK_READ || e->in_place);
    if (good)
        list_push_back(&q->busy, &busy->link);
    lock_drop(&q->lock);
    return good;
}

static bool plain_transfer(const struct qcow2 *q, const struct block_request *r)
{
    return r->op <= BLOCK_WRITE && r->iovcnt <= FILE_MAX_IOV - 2 && r->len && r->len <= INT32_MAX &&
           r->offset <= q->base.size && r->len <= q->base.size - r->offset &&
           !(r->op == BLOCK_WRITE && q->base.read_only);
}

static bool do_at_once(struct qcow2 *q, const struct block_request *r)
{
    struct map_extent e;
    struct busy_range busy;
    if (!q->file.at_once || !begin_transfer(q, r, &e, &busy))
        return false;
    bool good = host_file_transfer_now(&q->file, r->op, r->iov, r->iovcnt, e.host, r->len);
    busy_end_unlocked(q, &busy);
    return good;
}

/* What came out short or failed is executed once more by a thread. */
static void uring_done(void *owner, struct block_request *r, int result)
{
    struct qcow2 *q = owner;
    struct transfer *t = container_of(r, struct transfer, r);
    struct block_request *original = t->original;
    busy_end_unlocked(q, &t->busy);
    if (result == (int)r->len)
        block_pool_finish(&q->pool, original, 0);
    else
        block_pool_add(&q->pool, original);
    free(t);
    block_pool_leave(&q->pool);
}

static bool submit_uring(struct qcow2 *q, struct block_request *r)
{
    struct map_extent e;
    struct transfer *t = q->uring ? malloc(sizeof *t) : NULL;
    if (!t)
        return false;
    if (begin_transfer(q, r, &e, &t->busy)) {
        t->r = *r;
        t->r.offset = e.host;
        t->original = r;
        block_pool_enter(&q->pool);
        if (block_uring_submit(q->uring, &t->r, host_file_fd(&q->file, r->iov, r->iovcnt, e.host)))
            return true;
        block_pool_leave(&q->pool);
        busy_end_unlocked(q, &t->busy);
    }
    free(t);
    return false;
}

static void qcow2_submit(struct block_device *b, struct block_request *r)
{
    struct qcow2 *q = from_base(b);
    bool plain = plain_transfer(q, r);
    if (plain && q->file.at_once && block_pool_shares(&q->pool, r))
        plain = false;
    if (plain && do_at_once(q, r))
        block_pool_finish(&q->pool, r, 0);
    else if (!plain || !submit_uring(q, r))
        block_pool_add(&q->pool, r);
}

static void qcow2_drain(struct block_device *b)
{
    block_pool_drain(&from_base(b)->pool);
}

/* --- what it is made of --- */

static int extent_below(struct qcow2 *q, u64 offset, u64 len, struct block_extent *e)
{
    if (!q->backing || offset >= q->backing->size) {
        *e = (struct block_extent){.len = len, .zero = true, .path = q->base.path};
        return 0;
    }
    int ret = block_extent(q->backing, offset, MIN(len, q->backing->size - offset), e);
    e->depth++;
    return ret;
}

static int qcow2_extent(struct block_device *b, u64 offset, u64 len, struct block_extent *e)
{
    struct qcow2 *q = from_base(b);
    struct map_extent m;
    u64 done = 0;
    *e = (struct block_extent){.path = b->path};
    while (done < len) {
        lock_acquire(&q->lock);
        int ret = qcow2_map(q, offset + done, len - done, &m);
        lock_drop(&q->lock);
        if (ret < 0)
            return ret;
        if (done == 0 && m.kind == MAP_UNALLOCATED)
            return extent_below(q, offset, m.len, e);
        struct block_extent next = {
            .allocated = m.kind != MAP_UNALLOCATED,
            .zero = m.kind == MAP_ZERO,
            .compressed = m.kind == MAP_COMPRESSED,
            .has_offset = m.kind == MAP_NORMAL || (m.kind == MAP_ZERO && m.has_host),
            .offset = m.host,
        };
        if (done == 0) {
            next.path = b->path;
            *e = next;
        } else if (next.allocated != e->allocated || next.zero != e->zero ||
                   next.compressed != e->compressed || next.has_offset != e->has_offset ||
                   (e->has_offset && next.offset != e->offset + done)) {
            break;
        }
        done += m.len;
        if (m.kind == MAP_ZERO && m.has_host)
            break;
    }
    e->len = done;
    return 0;
}

/* --- size --- */

int qcow2_replace_l1(struct qcow2 *q, u64 *l1, u32 entries, u64 size)
{
    struct qcow2_header old = q->header;
    u64 count = clusters_of(q, (u64)MAX(entries, 1u) * 8), host = 0;
    u8 *buf = calloc(count, q->cluster_size);
    int ret = buf ? qcow2_commit(q) : -ENOMEM;
    if (ret == 0) {
        lock_acquire(&q->lock);
        ret = qcow2_alloc_run(q, count, &host);
        lock_drop(&q->lock);
    }
    for (u32 i = 0; ret == 0 && i < entries; i++)
        put_be64(buf + (size_t)i * 8, l1[i]);
    if (ret == 0)
        ret = host_file_write(&q->file, host, buf, count << q->header.cluster_bits);
    free(buf);
    if (ret == 0)
        ret = qcow2_commit(q); /* the refcounts of the new table, and a sync */
    if (ret == 0) {
        q->header.l1_offset = host;
        q->header.l1_size = entries;
        q->header.size = size;
        ret = qcow2_header_write(q);
        if (ret == 0)
            ret = host_file_sync(&q->file);
        if (ret < 0) {
            q->header.l1_offset = old.l1_offset;
            q->header.l1_size = old.l1_size;
            q->header.size = old.size;
        }
    }
    if (ret < 0) {
        free(l1);
        return ret;
    }
    lock_acquire(&q->lock);
    free(q->l1);
    q->l1 = l1;
    if (old.l1_size)
        qcow2_free_later(q, old.l1_offset, clusters_of(q, (u64)old.l1_size * 8));
    lock_drop(&q->lock);
    q->base.size = ALIGN_UP(size, (u64)BLOCK_SECTOR);
    return 0;
}

static int grow(struct qcow2 *q, u64 size)
{
    u64 clusters = clusters_of(q, size), old = q->base.size;
    u64 entries = (clusters + MASK(q->l2_bits)) >> q->l2_bits;
    if (entries * 8 > QCOW2_MAX_L1_BYTES)
        return -EFBIG;
    entries = MAX(entries, (u64)q->header.l1_size);
    u64 *l1 = calloc(MAX(entries, 1u), 8);
    if (!l1)
        return -ENOMEM;
    if (q->header.l1_size)
        memcpy(l1, q->l1, (size_t)q->header.l1_size * 8);
    int ret = 0;
    if (entries == q->header.l1_size) {
        free(l1);
        q->header.size = size;
        ret = qcow2_header_write(q);
        if (ret == 0)
            ret = host_file_sync(&q->file);
        q->base.size = size;
    } else {
        ret = qcow2_replace_l1(q, l1, (u32)entries, size);
    }
    /* Old data must not show: in the rest of the last cluster, and of a backing file that is larger. */
    u64 end = ALIGN_UP(old, (u64)q->cluster_size);
    if (q->backing)
        end = MAX(end, MIN(size, q->backing->size));
    end = MIN(end, size);
    struct block_request r = {.op = BLOCK_WRITE_ZEROES, .offset = old, .len = end - old, .unmap = true};
    return ret < 0 || old >= end ? ret : execute_write_zeroes(q, &r);
}

static int shrink(struct qcow2 *q, u64 size)
{
    int ret = qcow2_drop(q, clusters_of(q, size), clusters_of(q, q->base.size));
    if (ret < 0)
        return ret;
    q->header.size = size;
    ret = qcow2_header_write(q);
    q->base.size = size;
    return ret;
}

static int qcow2_resize(struct block_device *b, u64 size, struct error *err)
{
    struct qcow2 *q = from_base(b);
    int ret;
    if (q->header.version < 3 && q->header.snapshot_count)
        return error_set(err, ENOTSUP, "'%s' has snapshots and is of version 2: it cannot be resized",
                         b->path);
    if (q->l2_entry_size != 8)
        return error_set(err, ENOTSUP, "'%s' has extended L2 entries, which are only read", b->path);
    ret = size < b->size ? shrink(q, size) : size > b->size ? grow(q, size) : 0;
    if (ret == 0)
        ret = qcow2_commit(q);
    return ret < 0 ? error_set_errno(err, -ret, "cannot resize '%s'", b->path) : 0;
}

/* --- opening and closing --- */

static void qcow2_free(struct qcow2 *q)
{
    block_pool_stop(&q->pool);
    block_uring_free(q->uring);
    block_pool_release(&q->pool);
    block_close(q->backing);
    qcow2_snapshots_free(q);
    table_cache_release(&q->l2);
    table_cache_release(&q->refcounts);
    host_file_close(&q->file);
    free(q->pending);
    free(q->l1_dirty);
    free(q->reftable_dirty);
    free(q->l1);
    free(q->reftable);
    free(q->inflated);
    free(q->backing_name);
    free(q->backing_format);
    pthread_cond_destroy(&q->busy_changed);
    pthread_mutex_destroy(&q->inflate_lock);
    lock_release(&q->lock);
    lock_release(&q->commit_lock);
    free(q->base.path);
    free(q);
}

/* Everything to the file, the refcounts of lazy images included, and the mark of a clean end. */
static int write_back(struct qcow2 *q)
{
    int ret = qcow2_commit(q);
    q->opened = false;
    if (ret == 0 && (q->pending_count || q->refcounts.dirty))
        ret = qcow2_commit(q); /* what the first one freed */
    u64 size;
    if (ret == 0 && q->file.regular && host_file_size(&q->file, &size) == 0 && size < q->file_end)
        ret = host_file_truncate(&q->file, q->file_end);
    if (ret == 0 && (q->header.incompatible & QCOW2_DIRTY) && lazy_refcounts(q)) {
        q->header.incompatible &= ~QCOW2_DIRTY;
        ret = host_file_sync(&q->file);
        if (ret == 0)
            ret = qcow2_header_write(q);
    }
    return ret == 0 ? host_file_sync(&q->file) : ret;
}

static void qcow2_close(struct block_device *b)
{
    struct qcow2 *q = from_base(b);
    block_pool_drain(&q->pool);
    if (!b->read_only && q->opened) {
        int ret = write_back(q);
        if (ret < 0)
            log_warn("cannot write the last changes to '%s': %s", b->path, strerror(-ret));
    }
    qcow2_free(q);
}

static const struct block_ops qcow2_ops = {
    .submit = qcow2_submit,
    .drain = qcow2_drain,
    .close = qcow2_close,
    .execute = qcow2_execute,
    .extent = qcow2_extent,
    .resize = qcow2_resize,
};

int qcow2_read_table(struct qcow2 *q, u64 offset, u64 entries, u64 **table)
{
    u64 *t = calloc(MAX(entries, 1u), 8);
    int ret = t ? host_file_read(&q->file, offset, t, entries * 8) : -ENOMEM;
    if (ret < 0) {
        free(t);
        return ret;
    }
    for (u64 i = 0; i < entries; i++)
        t[i] = __builtin_bswap64(t[i]);
    *table = t;
    return 0;
}

static int load_tables(struct qcow2 *q, struct error *err)
{
    u32 slice = MIN(q->cluster_size, QCOW2_SLICE);
    u64 end;
    q->reftable_len = (u32)(((u64)q->header.reftable_clusters << q->header.cluster_bits) / 8);
    int ret = qcow2_read_table(q, q->header.l1_offset, q->header.l1_size, &q->l1);
    if (ret == 0)
        ret = qcow2_read_table(q, q->header.reftable_offset, q->reftable_len, &q->reftable);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot read the tables of '%s'", q->base.path);
    q->l1_dirty = calloc(QCOW2_MAX_L1_BYTES / BLOCK_SECTOR, 1);
    q->reftable_dirty = calloc(QCOW2_MAX_REFTABLE_BYTES / BLOCK_SECTOR, 1);
    ret = q->l1_dirty && q->reftable_dirty ? host_file_size(&q->file, &end) : -ENOMEM;
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot open '%s'", q->base.path);
    q->file_end = end;
    if (q->header.reftable_offset >= end ||
        (q->header.l1_size && q->header.l1_offset + (u64)q->header.l1_size * 8 > end))
        return error_set(err, EINVAL, "'%s' is truncated: it ends before its tables do", q->base.path);
    table_cache_init(&q->l2, &q->file, slice, QCOW2_L2_SLICES);
    table_cache_init(&q->refcounts, &q->file, slice, QCOW2_REFCOUNT_SLICES);
    return 0;
}

/* A marker that says that an image is not sound forbids to write to it before it is repaired. */
static int check_writable(struct qcow2 *q, const struct block_options *o, struct error *err)
{
    struct qcow2_header *h = &q->header;
    if (o->read_only)
        return 0;
    if (q->l2_entry_size != 8)
        return error_set(err, ENOTSUP,
                         "'%s' has extended L2 entries, which are only read: open it read-only, or "
                         "convert it",
                         q->base.path);
    if (h->incompatible & QCOW2_CORRUPT && !o->damaged_ok)
        return error_set(err, EIO, "'%s' is marked as corrupt: 'trapeze image check --repair all' mends it",
                         q->base.path);
    if (h->autoclear) { /* we keep neither bitmaps nor what we do not know up to date */
        h->autoclear = 0;
        q->bitmaps = false;
        int ret = qcow2_header_write(q);
        if (ret < 0)
            return error_set_errno(err, -ret, "cannot write to '%s'", q->base.path);
    }
    return 0;
}

/* After a crash with lazy refcounts they are made anew from the tables. */
static int repair_lazy(struct qcow2 *q, const struct block_options *o, struct error *err)
{
    struct qcow2_check check = {.report = NULL};
    if (o->read_only || o->damaged_ok || !(q->header.incompatible & QCOW2_DIRTY))
        return 0;
    log_info("'%s' was not closed: its refcounts are made anew", q->base.path);
    return qcow2_check(&q->base, QCOW2_REPAIR_ALL, &check, err);
}

int qcow2_backing_path(const char *image, const char *name, char *path, size_t size, struct error *err)
{
    const char *slash = strrchr(image, '/');
    if (!strncmp(name, "file:", 5))
        name += 5;
    if (name[strcspn(name, ":/")] == ':')
        return error_set(err, ENOTSUP, "the backing file '%s' of '%s' is not a file of this host", name,
                         image);
    int n = name[0] == '/' || !slash ? snprintf(path, size, "%s", name)
                                     : snprintf(path, size, "%.*s/%s", (int)(slash - image), image, name);
    return n < (int)size ? 0
                         : error_set(err, ENAMETOOLONG, "the backing file's name in '%s' is too long", image);
}

static int check_chain(const struct qcow2 *q, const struct block_chain *above, struct error *err)
{
    for (; above; above = above->above)
        if (above->file->inode == q->file.inode && above->file->device == q->file.device)
            return error_set(err, ELOOP, "'%s' is its own backing file", q->base.path);
    return 0;
}

static int open_backing(struct qcow2 *q, const struct block_options *o, const struct block_chain *above,
                        struct error *err)
{
    char path[4096 + QCOW2_MAX_NAME];
    struct block_options below = *o;
    struct block_chain chain = {above, &q->file};
    struct error why = {0};
    if (!q->backing_name || o->no_backing)
        return 0;
    int ret = qcow2_backing_path(q->base.path, q->backing_name, path, sizeof path, err);
    if (ret < 0)
        return ret;
    below.format = BLOCK_FORMAT_PROBE;
    below.read_only = true;
    below.synchronous = true;
    if (q->backing_format) {
        below.format = block_format_find(q->backing_format);
        if (below.format == BLOCK_FORMAT_PROBE && strcmp(q->backing_format, "file") != 0)
            return error_set(err, ENOTSUP,
                             "the backing file of '%s' has the format '%s', which is not supported",
                             q->base.path, q->backing_format);
    }
    q->backing = block_open_in_chain(path, &below, &chain, &why);
    return q->backing ? 0 : error_set(err, why.code, "backing file of '%s': %s", q->base.path, why.text);
}

static int open_image(struct qcow2 *q, const struct block_options *o, const struct block_chain *above,
                      struct error *err)
{
    int ret = host_file_open(&q->file, q->base.path, o, err);
    if (ret == 0)
        ret = check_chain(q, above, err);
    if (ret == 0)
        ret = qcow2_header_read(q, err);
    if (ret == 0)
        ret = check_writable(q, o, err);
    if (ret == 0)
        ret = load_tables(q, err);
    if (ret == 0)
        ret = qcow2_snapshots_read(q, err);
    if (ret < 0)
        return ret;
    q->base.size = ALIGN_UP(q->header.size, (u64)BLOCK_SECTOR);
    q->base.can_discard = !o->read_only;
    q->base.discard_unit = q->cluster_size;
    q->opened = true;
    ret = open_backing(q, o, above, err);
    if (ret == 0)
        ret = repair_lazy(q, o, err);
    return ret < 0 ? ret : block_start(&q->pool, &q->uring, uring_done, q, o, err);
}

struct block_device *qcow2_open(const char *path, const struct block_options *o,
                                const struct block_chain *above, struct error *err)
{
    struct qcow2 *q = calloc(1, sizeof *q);
    char *name = q ? strdup(path) : NULL;
    if (!name) {
        free(q);
        error_set_errno(err, ENOMEM, "cannot open '%s'", path);
        return NULL;
    }
    q->base = (struct block_device){.ops = &qcow2_ops, .read_only = o->read_only, .path = name};
    q->file.fd = q->file.direct_fd = -1;
    block_pool_init(&q->pool, &q->base);
    lock_init(&q->commit_lock, LOCK_RANK_COMMIT);
    lock_init(&q->lock, LOCK_RANK_BACKEND);
    pthread_cond_init(&q->busy_changed, NULL);
    pthread_mutex_init(&q->inflate_lock, NULL);
    list_init(&q->busy);
    if (open_image(q, o, above, err) == 0)
        return &q->base;
    qcow2_free(q);
    return NULL;
}

/* --- what tools ask --- */

bool qcow2_get_info(struct block_device *b, struct qcow2_info *info)
{
    struct qcow2 *q = qcow2_of(b);
    if (!q)
        return false;
    const struct qcow2_header *h = &q->header;
    *info = (struct qcow2_info){
        .version = h->version,
        .cluster_size = q->cluster_size,
        .refcount_bits = 1u << h->refcount_order,
        .lazy_refcounts = lazy_refcounts(q),
        .dirty = h->incompatible & QCOW2_DIRTY,
        .corrupt = h->incompatible & QCOW2_CORRUPT,
        .extended_l2 = h->incompatible & QCOW2_EXTENDED_L2,
        .zstd = h->compression == 1,
        .bitmaps = q->bitmaps,
        .backing = q->backing_name,
        .backing_format = q->backing_format,
        .snapshot_count = h->snapshot_count,
    };
    return true;
}

struct block_device *qcow2_backing(struct block_device *b)
{
    struct qcow2 *q = qcow2_of(b);
    return q ? q->backing : NULL;
}
