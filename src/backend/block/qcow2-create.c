/* Making images, and what changes a whole image. Nothing else uses the image meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backend/block/qcow2-internal.h"

/* --- creation --- */

static unsigned log2_of(u64 v)
{
    return 63 - (unsigned)__builtin_clzll(v);
}

static int fill_header(struct qcow2_header *h, const struct qcow2_create *c, struct error *err)
{
    u64 cluster = c->cluster_size ? c->cluster_size : 65536;
    unsigned bits = c->refcount_bits ? c->refcount_bits : 16;
    if (cluster & (cluster - 1) || cluster < BIT(QCOW2_MIN_BITS) || cluster > BIT(QCOW2_MAX_BITS))
        return error_set(err, EINVAL, "the cluster size must be a power of two from 512 to 2M");
    if (bits & (bits - 1) || bits > 64)
        return error_set(err, EINVAL, "the refcount width must be a power of two from 1 to 64");
    *h = (struct qcow2_header){
        .version = c->version ? c->version : 3,
        .cluster_bits = log2_of(cluster),
        .reftable_offset = cluster,
        .reftable_clusters = 1,
        .refcount_order = log2_of(bits),
        .incompatible = c->zstd ? QCOW2_COMPRESSION : 0,
        .compatible = c->lazy_refcounts ? QCOW2_LAZY_REFCOUNTS : 0,
        .compression = c->zstd,
        .length = 112,
    };
    if (h->version != 2 && h->version != 3)
        return error_set(err, EINVAL, "there are qcow2 versions 2 (compat=0.10) and 3 (compat=1.1)");
    if (h->version == 2) {
        h->length = 72;
        if (bits != 16 || c->zstd || c->lazy_refcounts)
            return error_set(err, EINVAL,
                             "refcount_bits, lazy_refcounts and compression_type need compat=1.1");
    }
    if (c->preallocation != QCOW2_PREALLOC_OFF && c->backing)
        return error_set(err, EINVAL, "an image with a backing file cannot be preallocated");
    return 0;
}

/* The smallest image: header, refcount table and one refcount block, of a disk of no size. */
static int write_empty(int fd, const struct qcow2_header *h, const char *path, struct error *err)
{
    u64 cluster = BIT(h->cluster_bits);
    u8 *buf = calloc(3, cluster);
    if (!buf)
        return error_set_errno(err, ENOMEM, "cannot make '%s'", path);
    qcow2_header_fill(h, buf);
    put_be64(buf + cluster, 2 * cluster);
    for (unsigned i = 0; i < 3; i++)
        refcount_put_in_block(buf + 2 * cluster, h->refcount_order, i, 1);
    ssize_t n = ftruncate(fd, 0) < 0 ? -1 : pwrite(fd, buf, 3 * cluster, 0);
    int code = n < 0 ? errno : ENOSPC;
    free(buf);
    return n == (ssize_t)(3 * cluster) ? 0 : error_set_errno(err, code, "cannot write '%s'", path);
}

/* A file that a running machine uses is not cut to nothing. */
static int make_file(const char *path, const struct qcow2_header *h, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot make '%s'", path);
    struct host_file f = {.path = (char *)path, .fd = fd};
    int ret = host_file_lock(&f, err);
    return ret < 0 ? ret : write_empty(fd, h, path, err);
}

int qcow2_create(const char *path, const struct qcow2_create *c, struct error *err)
{
    struct block_options o = {.format = BLOCK_FORMAT_QCOW2, .no_backing = true, .synchronous = true};
    struct qcow2_header h = {0};
    int ret = fill_header(&h, c, err);
    if (ret == 0)
        ret = make_file(path, &h, err);
    if (ret < 0)
        return ret;
    struct block_device *b = block_open(path, &o, err);
    if (!b)
        return -EIO;
    ret = qcow2_set_backing(b, c->backing, c->backing_format, err);
    if (ret == 0)
        ret = block_resize(b, c->size, err);
    if (ret == 0)
        ret = qcow2_preallocate(b, c->preallocation, err);
    block_close(b);
    return ret;
}

/* --- preallocation --- */

static int preallocate_run(struct qcow2 *q, u64 cluster, u64 want, u64 *got, u64 *host)
{
    bool fresh = false;
    lock_acquire(&q->lock);
    u64 entry = 0;
    int ret = qcow2_l2_get(q, cluster, &entry);
    if (ret == 0 && entry) {
        lock_drop(&q->lock);
        *got = 0;
        return 0;
    }
    if (ret == 0)
        ret = qcow2_alloc(q, want, host, got, &fresh);
    /* What is not fresh may hold old data. */
    if (ret == 0 && !fresh)
        ret = host_file_write_zeroes(&q->file, *host, *got << q->header.cluster_bits, false);
    for (u64 i = 0; ret == 0 && i < *got; i++)
        ret = qcow2_l2_set(q, cluster + i, (*host + (i << q->header.cluster_bits)) | ENTRY_COPIED, true);
    return qcow2_end_step(q, ret);
}

static int take_space(struct qcow2 *q, enum qcow2_prealloc how, u64 host, u64 len)
{
    if (how == QCOW2_PREALLOC_FULL)
        return host_file_write_zero_data(&q->file, host, len);
    if (how != QCOW2_PREALLOC_FALLOC)
        return host_file_extend(&q->file, host + len);
    return -posix_fallocate(q->file.fd, (off_t)host, (off_t)len);
}

int qcow2_preallocate(struct block_device *b, enum qcow2_prealloc how, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    u64 clusters = clusters_of(q, b->size), host = 0, got = 0, most = 1ull << 14;
    int ret = 0;
    if (how == QCOW2_PREALLOC_OFF)
        return 0;
    for (u64 c = 0; c < clusters && ret == 0; c += MAX(got, 1ull)) {
        ret = preallocate_run(q, c, MIN(clusters - c, most), &got, &host);
        if (ret == 0 && got)
            ret = take_space(q, how, host, got << q->header.cluster_bits);
    }
    if (ret == 0)
        ret = qcow2_commit(q);
    return ret < 0 ? error_set_errno(err, -ret, "cannot preallocate '%s'", b->path) : 0;
}

/* --- the backing file's name --- */

static bool set_text(char **to, const char *from)
{
    char *copy = from ? strdup(from) : NULL;
    if (from && !copy)
        return false;
    free(*to);
    *to = copy;
    return true;
}

int qcow2_set_backing(struct block_device *b, const char *name, const char *format, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    if (!q)
        return error_set(err, ENOTSUP, "'%s': only qcow2 images have backing files", b->path);
    if (!set_text(&q->backing_name, name) || !set_text(&q->backing_format, name ? format : NULL))
        return error_set_errno(err, ENOMEM, "cannot change '%s'", b->path);
    int ret = qcow2_commit(q);
    if (ret == 0)
        ret = qcow2_header_rewrite(q, err);
    if (ret == 0 && (ret = host_file_sync(&q->file)) < 0)
        error_set_errno(err, -ret, "cannot write '%s'", b->path);
    return ret;
}

/* --- forgetting all data --- */

int qcow2_drop(struct qcow2 *q, u64 first, u64 end)
{
    int ret = 0;
    for (u64 c = first; c < end && ret == 0; c++) {
        lock_acquire(&q->lock);
        if (!(q->l1[c >> q->l2_bits] & ENTRY_OFFSET)) {
            c |= MASK(q->l2_bits);
        } else {
            u64 entry;
            ret = qcow2_l2_get(q, c, &entry);
            if (ret == 0 && entry)
                ret = qcow2_l2_set(q, c, 0, true);
        }
        ret = qcow2_end_step(q, ret);
    }
    return ret < 0 ? ret : qcow2_commit(q);
}

int qcow2_empty(struct block_device *b, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    int ret = qcow2_drop(q, 0, clusters_of(q, b->size));
    return ret < 0 ? error_set_errno(err, -ret, "cannot empty '%s'", b->path) : 0;
}

/* --- compressed writing --- */

/*
 * A place for @len bytes: behind the compressed data before, where there is room in that cluster, or
 * the next one is free, or in a new cluster. The refcount of a shared cluster is the number of data in it.
 */
static int place_compressed(struct qcow2 *q, u64 len, u64 *host)
{
    u64 at = q->compressed_end, in_cluster = at & (q->cluster_size - 1), got, next = 0;
    u64 room = in_cluster ? q->cluster_size - in_cluster : 0;
    u64 most = MASK(1u << q->header.refcount_order), count = most;
    bool fresh, share = false;
    int ret = 0;
    if (room)
        ret = qcow2_refcount_get(q, at >> q->header.cluster_bits, &count);
    if (ret == 0 && count < most)
        share = room >= len;
    if (ret == 0 && !share) {
        ret = qcow2_alloc(q, 1, &next, &got, &fresh);
        share = count < most && next == at + room;
    }
    if (ret == 0 && share)
        ret = qcow2_refcount_add(q, at >> q->header.cluster_bits, 1);
    if (ret < 0)
        return ret;
    *host = share ? at : next;
    q->compressed_end = *host + len;
    return 0;
}

static int write_deflated(struct qcow2 *q, u64 cluster, const u8 *data, size_t len)
{
    u64 host;
    unsigned shift = qcow2_compressed_shift(q);
    lock_acquire(&q->lock);
    int ret = place_compressed(q, len, &host);
    lock_drop(&q->lock);
    if (ret < 0)
        return ret;
    ret = host_file_write(&q->file, host, data, len);
    lock_acquire(&q->lock);
    u64 sectors = ((host + len - 1) / BLOCK_SECTOR) - host / BLOCK_SECTOR;
    if (ret == 0)
        ret = qcow2_l2_set(q, cluster, ENTRY_COMPRESSED | sectors << shift | host, true);
    else
        qcow2_free_now(q, ALIGN_DOWN(host, (u64)q->cluster_size),
                       clusters_of(q, (host & (q->cluster_size - 1)) + len));
    return qcow2_end_step(q, ret);
}

static int write_one(struct qcow2 *q, u64 offset, const u8 *in, u64 len, u8 *scratch)
{
    u8 *whole = scratch, *out = scratch + q->cluster_size;
    memcpy(whole, in, len);
    memset(whole + len, 0, q->cluster_size - len);
    size_t made = qcow2_deflate(q, whole, q->cluster_size, out);
    if (made)
        return write_deflated(q, offset >> q->header.cluster_bits, out, made);
    return block_write(&q->base, offset, in, len);
}

int qcow2_write_compressed(struct block_device *b, u64 offset, const void *buf, u64 len)
{
    struct qcow2 *q = qcow2_of(b);
    if (!cluster_aligned(q, offset) || offset > b->size || len > b->size - offset)
        return -EINVAL;
    u8 *scratch = malloc(2 * (size_t)q->cluster_size);
    int ret = scratch ? 0 : -ENOMEM;
    for (u64 n; len && ret == 0; buf = (const u8 *)buf + n, offset += n, len -= n) {
        n = MIN(len, (u64)q->cluster_size);
        ret = write_one(q, offset, buf, n, scratch);
    }
    free(scratch);
    return ret;
}
