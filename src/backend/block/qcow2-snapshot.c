/*
 * Internal snapshots (Snapshots). A cluster's refcount is the number of L1 tables from which it is
 * reached, so a snapshot adds one to all that the active table reaches. Nothing else uses the image
 * meanwhile; each step leaves an image that is sound but for leaks.
 */
#include <errno.h>
#include <time.h>

#include "backend/block/qcow2-internal.h"

#define ENTRY_BYTES 40u
#define EXTRA_BYTES 24u
#define MAX_EXTRA 1024u

/* --- the table --- */

static void free_snapshot(struct qcow2_snapshot *s)
{
    free(s->id);
    free(s->name);
    free(s->extra);
    *s = (struct qcow2_snapshot){.id = NULL};
}

void qcow2_snapshots_free(struct qcow2 *q)
{
    for (u32 i = 0; q->snapshots && i < q->header.snapshot_count; i++)
        free_snapshot(&q->snapshots[i]);
    free(q->snapshots);
    q->snapshots = NULL;
}

/* Returns the bytes of the entry at @p, or -errno. */
static i64 unpack(const struct qcow2 *q, const u8 *p, u64 left, struct qcow2_snapshot *s)
{
    if (left < ENTRY_BYTES)
        return -EINVAL;
    u32 id_len = be16(p + 12), name_len = be16(p + 14), extra = be32(p + 36);
    u64 len = ENTRY_BYTES + (u64)extra + id_len + name_len;
    if (extra > MAX_EXTRA || len > left)
        return -EINVAL;
    const u8 *x = p + ENTRY_BYTES;
    *s = (struct qcow2_snapshot){
        .l1_offset = be64(p),
        .l1_size = be32(p + 8),
        .seconds = be32(p + 16),
        .nanoseconds = be32(p + 20),
        .vm_clock = be64(p + 24),
        .vm_state_size = extra >= 8 ? be64(x) : be32(p + 32),
        .disk_size = extra >= 16 ? be64(x + 8) : q->header.size,
        .icount = extra >= 24 ? be64(x + 16) : ~0ull,
        .extra_len = extra > EXTRA_BYTES ? extra - EXTRA_BYTES : 0,
    };
    if ((u64)s->l1_size * 8 > QCOW2_MAX_L1_BYTES || !cluster_aligned(q, s->l1_offset) ||
        s->l1_offset >= QCOW2_MAX_OFFSET)
        return -EINVAL;
    s->id = strndup((const char *)x + extra, id_len);
    s->name = strndup((const char *)x + extra + id_len, name_len);
    s->extra = malloc(s->extra_len + 1);
    if (!s->id || !s->name || !s->extra) {
        free_snapshot(s);
        return -ENOMEM;
    }
    memcpy(s->extra, x + MIN(extra, EXTRA_BYTES), s->extra_len);
    return (i64)ALIGN_UP(len, 8ull);
}

/* The table has no length of its own: as much of the file as entries can take. */
static int read_entries(struct qcow2 *q, const u8 *table, u64 len)
{
    u64 at = 0;
    for (u32 i = 0; i < q->header.snapshot_count; i++) {
        i64 n = at < len ? unpack(q, table + at, len - at, &q->snapshots[i]) : -EINVAL;
        if (n < 0)
            return (int)n;
        at += (u64)n;
    }
    return 0;
}

int qcow2_snapshots_read(struct qcow2 *q, struct error *err)
{
    u64 end, offset = q->header.snapshots_offset;
    if (q->header.snapshot_count == 0)
        return 0;
    int ret = host_file_size(&q->file, &end);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot find the size of '%s'", q->base.path);
    if (!cluster_aligned(q, offset) || offset >= end)
        return error_set(err, EINVAL, "'%s' is damaged: its snapshot table is nowhere", q->base.path);
    u64 len = MIN(end - offset, (u64)QCOW2_MAX_SNAPSHOT_TABLE);
    len = MIN(len, q->header.snapshot_count * (u64)(ENTRY_BYTES + MAX_EXTRA + 2 * 65536));
    u8 *table = malloc(len);
    q->snapshots = calloc(q->header.snapshot_count, sizeof *q->snapshots);
    ret = table && q->snapshots ? host_file_read(&q->file, offset, table, len) : -ENOMEM;
    if (ret == 0)
        ret = read_entries(q, table, len);
    free(table);
    return ret < 0 ? error_set_errno(err, -ret, "cannot read the snapshots of '%s'", q->base.path) : 0;
}

static u64 entry_bytes(const struct qcow2_snapshot *s)
{
    return ALIGN_UP(ENTRY_BYTES + EXTRA_BYTES + s->extra_len + strlen(s->id) + strlen(s->name), 8ull);
}

static void pack(u8 *p, const struct qcow2_snapshot *s)
{
    size_t id_len = strlen(s->id), name_len = strlen(s->name);
    u8 *x = p + ENTRY_BYTES;
    put_be64(p, s->l1_offset);
    put_be32(p + 8, s->l1_size);
    put_be16(p + 12, (u16)id_len);
    put_be16(p + 14, (u16)name_len);
    put_be32(p + 16, s->seconds);
    put_be32(p + 20, s->nanoseconds);
    put_be64(p + 24, s->vm_clock);
    put_be32(p + 32, s->vm_state_size > UINT32_MAX ? 0 : (u32)s->vm_state_size);
    put_be32(p + 36, EXTRA_BYTES + s->extra_len);
    put_be64(x, s->vm_state_size);
    put_be64(x + 8, s->disk_size);
    put_be64(x + 16, s->icount);
    memcpy(x + EXTRA_BYTES, s->extra, s->extra_len);
    x += EXTRA_BYTES + s->extra_len;
    x += put_text(x, s->id);
    put_text(x, s->name);
}

static u64 table_bytes(const struct qcow2_snapshot *s, u32 count)
{
    u64 len = 0;
    for (u32 i = 0; i < count; i++)
        len += entry_bytes(&s[i]);
    return len;
}

u64 qcow2_snapshots_bytes(const struct qcow2 *q)
{
    return table_bytes(q->snapshots, q->header.snapshot_count);
}

static int put_table(struct qcow2 *q, const struct qcow2_snapshot *s, u32 count, u64 *host)
{
    u64 clusters = clusters_of(q, table_bytes(s, count)), at = 0;
    u8 *buf = calloc(MAX(clusters, 1u), q->cluster_size);
    int ret = buf ? 0 : -ENOMEM;
    *host = 0;
    if (ret == 0 && clusters) {
        lock_acquire(&q->lock);
        ret = qcow2_alloc_run(q, clusters, host);
        lock_drop(&q->lock);
        for (u32 i = 0; i < count; at += entry_bytes(&s[i]), i++)
            pack(buf + at, &s[i]);
        if (ret == 0)
            ret = host_file_write(&q->file, *host, buf, clusters << q->header.cluster_bits);
    }
    free(buf);
    return ret;
}

/* The new table in new clusters, then the header, then the old table's clusters. */
static int switch_table(struct qcow2 *q, const struct qcow2_snapshot *s, u32 count)
{
    u64 old_clusters = clusters_of(q, qcow2_snapshots_bytes(q)), host;
    struct qcow2_header old = q->header;
    if (table_bytes(s, count) > QCOW2_MAX_SNAPSHOT_TABLE || count > QCOW2_MAX_SNAPSHOTS)
        return -EFBIG;
    int ret = put_table(q, s, count, &host);
    if (ret == 0)
        ret = qcow2_commit(q);
    if (ret < 0)
        return ret;
    q->header.snapshots_offset = host;
    q->header.snapshot_count = count;
    ret = qcow2_header_write(q);
    if (ret == 0)
        ret = host_file_sync(&q->file);
    q->header.snapshot_count = old.snapshot_count; /* of q->snapshots, which the caller changes */
    if (ret < 0) {
        q->header.snapshots_offset = old.snapshots_offset;
        return ret;
    }
    if (old_clusters) {
        lock_acquire(&q->lock);
        qcow2_free_later(q, old.snapshots_offset, old_clusters);
        lock_drop(&q->lock);
    }
    return 0;
}

/* --- counting what an L1 table reaches --- */

static int add_entry(struct qcow2 *q, u64 entry, i64 delta)
{
    u64 host, count;
    int ret = 0;
    qcow2_entry_clusters(q, entry, &host, &count);
    for (u64 i = 0; i < count && ret == 0; i++)
        ret = qcow2_refcount_add(q, (host >> q->header.cluster_bits) + i, delta);
    if (delta < 0 && (entry & ENTRY_COMPRESSED))
        qcow2_forget_inflated(q);
    return ret;
}

/* Nothing is dirty in the cache of L2 tables. Lock held. */
static int add_table(struct qcow2 *q, u64 table, u8 *buf, i64 delta)
{
    if (!cluster_aligned(q, table))
        return -EIO;
    int ret = host_file_read(&q->file, table, buf, q->cluster_size);
    for (u32 i = 0; i < q->cluster_size && ret == 0; i += q->l2_entry_size)
        ret = add_entry(q, be64(buf + i), delta);
    if (ret == 0)
        ret = qcow2_refcount_add(q, table >> q->header.cluster_bits, delta);
    if (delta < 0)
        table_cache_forget(&q->l2, table, q->cluster_size);
    return ret;
}

static int add_all(struct qcow2 *q, const u64 *l1, u32 entries, i64 delta)
{
    u8 *buf = malloc(q->cluster_size);
    u64 most = (q->file_end >> q->header.cluster_bits) + 1; /* of L2 tables, each there once */
    int ret = buf ? 0 : -ENOMEM;
    for (u32 i = 0; l1 && i < entries && ret == 0; i++) {
        if (!(l1[i] & ENTRY_OFFSET))
            continue;
        if (!most--) {
            ret = -EIO;
            break;
        }
        lock_acquire(&q->lock);
        ret = add_table(q, l1[i] & ENTRY_OFFSET, buf, delta);
        ret = qcow2_end_step(q, ret);
    }
    free(buf);
    return ret < 0 ? ret : qcow2_commit(q);
}

/* --- ENTRY_COPIED --- */

static int right_copied(struct qcow2 *q, u64 entry, u64 *right)
{
    u64 count;
    *right = entry;
    if (entry & ENTRY_COMPRESSED || !(entry & ENTRY_OFFSET)) {
        *right &= ~ENTRY_COPIED;
        return 0;
    }
    int ret = qcow2_refcount_get(q, (entry & ENTRY_OFFSET) >> q->header.cluster_bits, &count);
    *right = count == 1 ? entry | ENTRY_COPIED : entry & ~ENTRY_COPIED;
    return ret;
}

/* Lock held. A shared table is left alone: all that it refers to is shared as well. */
static int fix_table(struct qcow2 *q, u64 index, u64 *mended)
{
    u64 table = q->l1[index] & ENTRY_OFFSET, l1_entry, right;
    int ret = right_copied(q, q->l1[index], &l1_entry);
    if (ret < 0 || !table)
        return ret;
    if (l1_entry != q->l1[index]) {
        ++*mended;
        q->l1[index] = l1_entry;
        qcow2_mark_l1(q, index);
    }
    for (u64 c = 0; c <= MASK(q->l2_bits) && ret == 0; c++) {
        struct table_slot *slot;
        u64 at = c * q->l2_entry_size;
        ret = table_cache_get(&q->l2, table + ALIGN_DOWN(at, (u64)q->l2.slice), &slot);
        if (ret < 0)
            break;
        u8 *p = slot->data + (at & (q->l2.slice - 1));
        ret = right_copied(q, be64(p), &right);
        if (ret < 0 || right == be64(p))
            continue;
        ++*mended;
        put_be64(p, right);
        table_cache_dirty(&q->l2, slot);
    }
    return ret;
}

int qcow2_fix_copied(struct qcow2 *q, u64 *mended)
{
    int ret = 0;
    for (u32 i = 0; i < q->header.l1_size && ret == 0; i++) {
        if (!(q->l1[i] & ENTRY_OFFSET))
            continue;
        lock_acquire(&q->lock);
        ret = cluster_aligned(q, q->l1[i] & ENTRY_OFFSET) ? fix_table(q, i, mended) : -EIO;
        ret = qcow2_end_step(q, ret);
    }
    return ret < 0 ? ret : qcow2_commit(q);
}

/* --- the operations --- */

const struct qcow2_snapshot *qcow2_snapshots(struct block_device *b, unsigned *count)
{
    struct qcow2 *q = qcow2_of(b);
    *count = q ? q->header.snapshot_count : 0;
    return q ? q->snapshots : NULL;
}

static int find(const struct qcow2 *q, const char *name)
{
    for (u32 i = 0; i < q->header.snapshot_count; i++)
        if (!strcmp(q->snapshots[i].name, name))
            return (int)i;
    for (u32 i = 0; i < q->header.snapshot_count; i++)
        if (!strcmp(q->snapshots[i].id, name))
            return (int)i;
    return -1;
}

const struct qcow2_snapshot *qcow2_snapshot_find(struct block_device *b, const char *name)
{
    struct qcow2 *q = qcow2_of(b);
    int i = q ? find(q, name) : -1;
    return i < 0 ? NULL : &q->snapshots[i];
}

/* The index of a snapshot that must be there. */
static int find_named(const struct qcow2 *q, const char *name, struct error *err)
{
    int i = find(q, name);
    return i < 0 ? error_set(err, ENOENT, "'%s' has no snapshot '%s'", q->base.path, name) : i;
}

static int usable(const struct qcow2 *q, struct error *err)
{
    if (!q)
        return error_set(err, ENOTSUP, "only qcow2 images have snapshots");
    if (q->base.read_only)
        return error_set(err, EROFS, "'%s' is read-only", q->base.path);
    return 0;
}

/* The next number that no snapshot has. */
static char *new_id(const struct qcow2 *q)
{
    unsigned long most = 0;
    char buf[24];
    for (u32 i = 0; i < q->header.snapshot_count; i++)
        most = MAX(most, strtoul(q->snapshots[i].id, NULL, 10));
    (void)snprintf(buf, sizeof buf, "%lu", most + 1);
    return strdup(buf);
}

static int new_snapshot(struct qcow2 *q, struct qcow2_snapshot *s, const char *name)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *s = (struct qcow2_snapshot){
        .id = new_id(q),
        .name = strdup(name),
        .extra = malloc(1),
        .seconds = (u32)now.tv_sec,
        .nanoseconds = (u32)now.tv_nsec,
        .disk_size = q->header.size,
        .icount = ~0ull,
        .l1_size = q->header.l1_size,
    };
    return s->id && s->name && s->extra ? 0 : -ENOMEM;
}

/* A copy of the active L1 table in clusters of its own. */
static int copy_l1(struct qcow2 *q, u64 *host)
{
    u64 count = clusters_of(q, MAX((u64)q->header.l1_size * 8, 1ull));
    u8 *buf = calloc(count, q->cluster_size);
    int ret = buf ? 0 : -ENOMEM;
    for (u32 i = 0; ret == 0 && i < q->header.l1_size; i++)
        put_be64(buf + (size_t)i * 8, q->l1[i] & ~ENTRY_COPIED);
    lock_acquire(&q->lock);
    if (ret == 0)
        ret = qcow2_alloc_run(q, count, host);
    lock_drop(&q->lock);
    if (ret == 0)
        ret = host_file_write(&q->file, *host, buf, count << q->header.cluster_bits);
    free(buf);
    return ret;
}

static int create(struct qcow2 *q, const char *name)
{
    u32 count = q->header.snapshot_count;
    u64 mended = 0;
    struct qcow2_snapshot *s = calloc(count + 1, sizeof *s);
    if (!s)
        return -ENOMEM;
    if (count)
        memcpy(s, q->snapshots, count * sizeof *s);
    int ret = new_snapshot(q, &s[count], name);
    if (ret == 0)
        ret = qcow2_commit(q);
    if (ret == 0)
        ret = copy_l1(q, &s[count].l1_offset);
    if (ret == 0)
        ret = add_all(q, q->l1, q->header.l1_size, 1);
    if (ret == 0)
        ret = qcow2_fix_copied(q, &mended);
    if (ret == 0)
        ret = switch_table(q, s, count + 1);
    if (ret < 0) {
        free_snapshot(&s[count]);
        free(s);
        return ret;
    }
    free(q->snapshots);
    q->snapshots = s;
    q->header.snapshot_count = count + 1;
    return qcow2_commit(q);
}

int qcow2_snapshot_create(struct block_device *b, const char *name, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    int ret = usable(q, err);
    if (ret < 0)
        return ret;
    if (!name[0] || strlen(name) > QCOW2_MAX_NAME)
        return error_set(err, EINVAL, "a snapshot's name has 1 to %u characters", QCOW2_MAX_NAME);
    if (find(q, name) >= 0)
        return error_set(err, EEXIST, "'%s' has a snapshot '%s' already", b->path, name);
    if (q->header.refcount_order == 0)
        return error_set(err, ENOTSUP, "'%s' has refcounts of one bit, which allow no snapshots", b->path);
    ret = create(q, name);
    return ret < 0 ? error_set_errno(err, -ret, "cannot make snapshot '%s' of '%s'", name, b->path) : 0;
}

static int read_l1(struct qcow2 *q, const struct qcow2_snapshot *s, u64 **l1)
{
    int ret = qcow2_read_table(q, s->l1_offset, s->l1_size, l1);
    for (u32 i = 0; ret == 0 && i < s->l1_size; i++)
        (*l1)[i] &= ~ENTRY_COPIED;
    return ret;
}

/* What the snapshot reaches is counted once more, the active table becomes a copy of its table, then what
 * was active before is counted down. */
static int apply(struct qcow2 *q, const struct qcow2_snapshot *s)
{
    u64 *old = NULL, *l1 = NULL, mended = 0;
    u32 old_size = q->header.l1_size;
    int ret = qcow2_commit(q);
    if (ret == 0)
        ret = read_l1(q, s, &l1);
    if (ret == 0)
        ret = add_all(q, l1, s->l1_size, 1);
    if (ret == 0) {
        old = malloc(MAX(old_size, 1u) * sizeof *old);
        ret = old ? 0 : -ENOMEM;
    }
    if (ret == 0) {
        memcpy(old, q->l1, old_size * sizeof *old);
        ret = qcow2_replace_l1(q, l1, s->l1_size, s->disk_size);
        l1 = NULL;
    }
    if (ret == 0)
        ret = add_all(q, old, old_size, -1);
    if (ret == 0)
        ret = qcow2_fix_copied(q, &mended);
    free(l1);
    free(old);
    return ret;
}

int qcow2_snapshot_apply(struct block_device *b, const char *name, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    int ret = usable(q, err), i = ret < 0 ? ret : find_named(q, name, err);
    if (i < 0)
        return i;
    ret = apply(q, &q->snapshots[i]);
    return ret < 0 ? error_set_errno(err, -ret, "cannot go back to snapshot '%s' of '%s'", name, b->path) : 0;
}

/* The table first: what it no longer names is at worst a leak. */
static int delete (struct qcow2 *q, u32 which)
{
    u32 count = q->header.snapshot_count;
    struct qcow2_snapshot gone = q->snapshots[which], *rest = calloc(count, sizeof *rest);
    u64 *l1 = NULL, mended = 0;
    if (!rest)
        return -ENOMEM;
    memcpy(rest, q->snapshots, which * sizeof *rest);
    memcpy(rest + which, q->snapshots + which + 1, (count - which - 1) * sizeof *rest);
    int ret = qcow2_commit(q);
    if (ret == 0)
        ret = read_l1(q, &gone, &l1);
    if (ret == 0)
        ret = switch_table(q, rest, count - 1);
    if (ret < 0) {
        free(l1);
        free(rest);
        return ret;
    }
    free(q->snapshots);
    q->snapshots = rest;
    q->header.snapshot_count = count - 1;
    ret = add_all(q, l1, gone.l1_size, -1);
    if (ret == 0) {
        lock_acquire(&q->lock);
        qcow2_free_later(q, gone.l1_offset, clusters_of(q, MAX((u64)gone.l1_size * 8, 1ull)));
        lock_drop(&q->lock);
        ret = qcow2_fix_copied(q, &mended);
    }
    free_snapshot(&gone);
    free(l1);
    return ret;
}

int qcow2_snapshot_delete(struct block_device *b, const char *name, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    int ret = usable(q, err), i = ret < 0 ? ret : find_named(q, name, err);
    if (i < 0)
        return i;
    ret = delete (q, (u32)i);
    return ret < 0 ? error_set_errno(err, -ret, "cannot delete snapshot '%s' of '%s'", name, b->path) : 0;
}

int qcow2_snapshot_view(struct block_device *b, const char *name, struct error *err)
{
    struct qcow2 *q = qcow2_of(b);
    u64 *l1;
    if (!q)
        return error_set(err, ENOTSUP, "only qcow2 images have snapshots");
    int i = find_named(q, name, err);
    if (i < 0)
        return i;
    const struct qcow2_snapshot *s = &q->snapshots[i];
    u64 clusters = clusters_of(q, s->disk_size);
    if (s->disk_size > INT64_MAX - QCOW2_MAX_OFFSET || clusters > (u64)s->l1_size << q->l2_bits)
        return error_set(err, EINVAL, "snapshot '%s' of '%s' is damaged", name, b->path);
    int ret = read_l1(q, s, &l1);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot read snapshot '%s' of '%s'", name, b->path);
    free(q->l1);
    q->l1 = l1;
    q->header.l1_size = s->l1_size;
    b->size = ALIGN_UP(s->disk_size, (u64)BLOCK_SECTOR);
    return 0;
}
