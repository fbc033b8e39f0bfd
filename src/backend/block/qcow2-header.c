/* The first cluster of an image: header, header extensions, name of the backing file (Header). */
#include <errno.h>

#include "backend/block/qcow2-internal.h"
#include "base/log.h"

#define V2_LENGTH 72u
#define V3_LENGTH 104u
#define OUR_LENGTH 112u

enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = 0xe2792aca,
    EXT_FEATURE_NAMES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_DATA_FILE = 0x44415441,
};

static const struct {
    u8 type, bit; /* type 0: incompatible, 1: compatible, 2: autoclear */
    const char *name;
} feature_names[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

/* --- reading --- */

static void unpack(struct qcow2_header *h, const u8 *p)
{
    h->version = be32(p + 4);
    h->backing_offset = be64(p + 8);
    h->backing_len = be32(p + 16);
    h->cluster_bits = be32(p + 20);
    h->size = be64(p + 24);
    h->crypt_method = be32(p + 32);
    h->l1_size = be32(p + 36);
    h->l1_offset = be64(p + 40);
    h->reftable_offset = be64(p + 48);
    h->reftable_clusters = be32(p + 56);
    h->snapshot_count = be32(p + 60);
    h->snapshots_offset = be64(p + 64);
    h->incompatible = h->compatible = h->autoclear = 0;
    h->refcount_order = 4;
    h->length = V2_LENGTH;
    h->compression = 0;
    if (h->version < 3)
        return;
    h->incompatible = be64(p + 72);
    h->compatible = be64(p + 80);
    h->autoclear = be64(p + 88);
    h->refcount_order = be32(p + 96);
    h->length = be32(p + 100);
    if (h->length > V3_LENGTH)
        h->compression = p[104];
}

static int check_features(const struct qcow2 *q, struct error *err)
{
    const struct qcow2_header *h = &q->header;
    u64 unknown = h->incompatible & ~QCOW2_KNOWN_INCOMPATIBLE;
    if (h->crypt_method)
        return error_set(err, ENOTSUP, "'%s' is encrypted, which is not supported", q->base.path);
    if (unknown == QCOW2_EXTERNAL_DATA)
        return error_set(err, ENOTSUP, "'%s' has its data in another file, which is not supported",
                         q->base.path);
    if (unknown)
        return error_set(err, ENOTSUP, "'%s' needs qcow2 features that are not known here (0x%llx)",
                         q->base.path, (unsigned long long)unknown);
    if (h->compression > 1 || (h->compression && !(h->incompatible & QCOW2_COMPRESSION)))
        return error_set(err, ENOTSUP, "'%s' has the unknown compression type %u", q->base.path,
                         h->compression);
    return 0;
}

static int bad(const struct qcow2 *q, struct error *err, const char *what)
{
    return error_set(err, EINVAL, "'%s' is damaged: %s", q->base.path, what);
}

static int check_geometry(struct qcow2 *q, struct error *err)
{
    const struct qcow2_header *h = &q->header;
    if (h->version != 2 && h->version != 3)
        return error_set(err, ENOTSUP, "'%s' is a qcow image of version %u; 2 and 3 are supported",
                         q->base.path, h->version);
    if (h->cluster_bits < QCOW2_MIN_BITS || h->cluster_bits > QCOW2_MAX_BITS)
        return bad(q, err, "the cluster size is not from 512 to 2M");
    if (h->refcount_order > 6)
        return bad(q, err, "the refcount width is more than 64 bits");
    if (h->version == 3 && (h->length < V3_LENGTH || h->length > BIT(h->cluster_bits) || h->length % 8))
        return bad(q, err, "the length of the header is wrong");
    if (h->incompatible & QCOW2_EXTENDED_L2 && h->cluster_bits < 14)
        return bad(q, err, "its clusters are too small for extended L2 entries");
    if (h->snapshot_count > QCOW2_MAX_SNAPSHOTS)
        return bad(q, err, "there are too many snapshots");
    return 0;
}

static void derive(struct qcow2 *q)
{
    const struct qcow2_header *h = &q->header;
    q->cluster_size = 1u << h->cluster_bits;
    q->l2_entry_size = h->incompatible & QCOW2_EXTENDED_L2 ? 16 : 8;
    q->l2_bits = h->cluster_bits - (q->l2_entry_size == 16 ? 4 : 3);
    q->refblock_bits = h->cluster_bits + 3 - h->refcount_order;
}

static int check_tables(struct qcow2 *q, struct error *err)
{
    const struct qcow2_header *h = &q->header;
    u64 clusters = (h->size >> h->cluster_bits) + ((h->size & (q->cluster_size - 1)) != 0);
    u64 l1_needed = (clusters >> q->l2_bits) + ((clusters & MASK(q->l2_bits)) != 0);
    u64 reftable_bytes = (u64)h->reftable_clusters << h->cluster_bits;
    if (h->size > INT64_MAX - QCOW2_MAX_OFFSET)
        return bad(q, err, "its size is impossible");
    if ((u64)h->l1_size * 8 > QCOW2_MAX_L1_BYTES)
        return bad(q, err, "its L1 table is too large");
    if (h->l1_size < l1_needed)
        return bad(q, err, "its L1 table is too small for the size of the disk");
    if (h->l1_size &&
        (!cluster_aligned(q, h->l1_offset) || h->l1_offset >= QCOW2_MAX_OFFSET || !h->l1_offset))
        return bad(q, err, "its L1 table is nowhere");
    if (!h->reftable_clusters || reftable_bytes > QCOW2_MAX_REFTABLE_BYTES)
        return bad(q, err, "the size of its refcount table is impossible");
    if (!cluster_aligned(q, h->reftable_offset) || h->reftable_offset >= QCOW2_MAX_OFFSET ||
        !h->reftable_offset)
        return bad(q, err, "its refcount table is nowhere");
    return 0;
}

/* @first is the first cluster. Unknown extensions are for others; a rewrite of the header drops them. */
static int read_extensions(struct qcow2 *q, const u8 *first, struct error *err)
{
    const struct qcow2_header *h = &q->header;
    u64 end = h->backing_offset ? MIN(h->backing_offset, (u64)q->cluster_size) : q->cluster_size;
    for (u64 at = h->length; at + 8 <= end;) {
        u32 type = be32(first + at), len = be32(first + at + 4);
        at += 8;
        if (type == EXT_END)
            break;
        if (len > end - at)
            return bad(q, err, "a header extension is too long");
        if (type == EXT_BACKING_FORMAT && !q->backing_format)
            q->backing_format = strndup((const char *)first + at, MIN(len, 32u));
        else if (type == EXT_BITMAPS && (h->autoclear & QCOW2_BITMAPS))
            q->bitmaps = true;
        at += ALIGN_UP((u64)len, 8ull);
    }
    return 0;
}

static int read_backing_name(struct qcow2 *q, const u8 *first, struct error *err)
{
    const struct qcow2_header *h = &q->header;
    if (!h->backing_offset)
        return 0;
    if (h->backing_len > QCOW2_MAX_NAME || h->backing_offset > q->cluster_size ||
        h->backing_len > q->cluster_size - h->backing_offset)
        return bad(q, err, "the name of its backing file is too long");
    q->backing_name = strndup((const char *)first + h->backing_offset, h->backing_len);
    return q->backing_name ? 0 : error_set_errno(err, ENOMEM, "cannot open '%s'", q->base.path);
}

int qcow2_header_read(struct qcow2 *q, struct error *err)
{
    u8 fixed[BLOCK_SECTOR];
    int ret = host_file_read(&q->file, 0, fixed, sizeof fixed);
    if (ret < 0)
        return error_set_errno(err, -ret, "cannot read '%s'", q->base.path);
    if (block_probe_bytes(fixed, sizeof fixed) != BLOCK_FORMAT_QCOW2)
        return error_set(err, EINVAL, "'%s' is not a qcow2 image", q->base.path);
    unpack(&q->header, fixed);
    if ((ret = check_geometry(q, err)) < 0 || (ret = check_features(q, err)) < 0)
        return ret;
    derive(q);
    if ((ret = check_tables(q, err)) < 0)
        return ret;
    u8 *first = malloc(q->cluster_size);
    ret = first ? host_file_read(&q->file, 0, first, q->cluster_size) : -ENOMEM;
    if (ret < 0)
        error_set_errno(err, -ret, "cannot read '%s'", q->base.path);
    if (ret == 0)
        ret = read_extensions(q, first, err);
    if (ret == 0)
        ret = read_backing_name(q, first, err);
    free(first);
    return ret;
}

/* --- writing --- */

void qcow2_header_fill(const struct qcow2_header *h, u8 *p)
{
    memset(p, 0, OUR_LENGTH);
    static const u8 magic[4] = {'Q', 'F', 'I', 0xfb};
    memcpy(p, magic, sizeof magic);
    put_be32(p + 4, h->version);
    put_be64(p + 8, h->backing_offset);
    put_be32(p + 16, h->backing_len);
    put_be32(p + 20, h->cluster_bits);
    put_be64(p + 24, h->size);
    put_be32(p + 32, h->crypt_method);
    put_be32(p + 36, h->l1_size);
    put_be64(p + 40, h->l1_offset);
    put_be64(p + 48, h->reftable_offset);
    put_be32(p + 56, h->reftable_clusters);
    put_be32(p + 60, h->snapshot_count);
    put_be64(p + 64, h->snapshots_offset);
    if (h->version < 3)
        return;
    put_be64(p + 72, h->incompatible);
    put_be64(p + 80, h->compatible);
    put_be64(p + 88, h->autoclear);
    put_be32(p + 96, h->refcount_order);
    put_be32(p + 100, h->length);
    p[104] = h->compression;
}

/* Not beyond what the file says is the header: what follows belongs to the extensions. */
int qcow2_header_write(struct qcow2 *q)
{
    u8 buf[OUR_LENGTH];
    qcow2_header_fill(&q->header, buf);
    return host_file_write(&q->file, 0, buf, MIN(q->header.length, OUR_LENGTH));
}

static u32 add_extension(u8 *p, u32 type, const void *data, u32 len)
{
    put_be32(p, type);
    put_be32(p + 4, len);
    if (len)
        memcpy(p + 8, data, len);
    return 8 + ALIGN_UP(len, 8u);
}

static u32 add_feature_names(u8 *p)
{
    u8 table[ARRAY_SIZE(feature_names) * 48] = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(feature_names); i++) {
        u8 *t = table + (size_t)i * 48;
        t[0] = feature_names[i].type;
        t[1] = feature_names[i].bit;
        (void)snprintf((char *)t + 2, 46, "%s", feature_names[i].name);
    }
    return add_extension(p, EXT_FEATURE_NAMES, table, sizeof table);
}

int qcow2_header_rewrite(struct qcow2 *q, struct error *err)
{
    struct qcow2_header *h = &q->header;
    size_t name_len = q->backing_name ? strlen(q->backing_name) : 0;
    size_t format_len = q->backing_format ? strlen(q->backing_format) : 0;
    size_t fixed = h->version < 3 ? V2_LENGTH : OUR_LENGTH, need = fixed + 8 + 8 + 40 + name_len;
    u8 *buf = calloc(1, q->cluster_size);
    if (!buf)
        return error_set_errno(err, ENOMEM, "cannot write the header of '%s'", q->base.path);
    if (name_len > QCOW2_MAX_NAME || format_len > 32 || need > q->cluster_size) {
        free(buf);
        return error_set(err, EINVAL, "the name of the backing file is too long for the clusters of '%s'",
                         q->base.path);
    }
    size_t at = h->length = (u32)fixed;
    if (format_len)
        at += add_extension(buf + at, EXT_BACKING_FORMAT, q->backing_format, (u32)format_len);
    if (h->version >= 3 && at + 8 + ARRAY_SIZE(feature_names) * 48 + 8 + name_len <= q->cluster_size)
        at += add_feature_names(buf + at);
    at += add_extension(buf + at, EXT_END, NULL, 0);
    h->backing_offset = name_len ? at : 0;
    h->backing_len = (u32)name_len;
    if (name_len)
        put_text(buf + at, q->backing_name);
    u8 head[OUR_LENGTH];
    qcow2_header_fill(h, head);
    memcpy(buf, head, fixed);
    int ret = host_file_write(&q->file, 0, buf, q->cluster_size);
    free(buf);
    return ret < 0 ? error_set_errno(err, -ret, "cannot write the header of '%s'", q->base.path) : 0;
}
