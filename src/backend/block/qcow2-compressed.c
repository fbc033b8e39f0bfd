/* Compressed clusters: raw deflate with a window of 4 KiB, or zstd (Compressed Clusters Descriptor). */
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#include "backend/block/qcow2-internal.h"

#define WINDOW_BITS 12
#define ZSTD_WINDOW_BITS 22 /* twice the largest cluster: what a file can make zstd allocate */

/* Must give a whole cluster; what follows it in the last sector is of no interest. */
static int inflate_deflate(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
    z_stream z = {.next_in = (u8 *)in, .avail_in = (uInt)in_len, .next_out = out, .avail_out = (uInt)out_len};
    if (inflateInit2(&z, -WINDOW_BITS) != Z_OK)
        return -ENOMEM;
    int ret = inflate(&z, Z_FINISH);
    bool good = (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z.avail_out == 0;
    (void)inflateEnd(&z);
    return good ? 0 : -EIO;
}

static int inflate_zstd(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
    ZSTD_outBuffer to = {out, out_len, 0};
    ZSTD_inBuffer from = {in, in_len, 0};
    ZSTD_DStream *z = ZSTD_createDStream();
    if (!z)
        return -ENOMEM;
    (void)ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_BITS);
    while (to.pos < to.size) {
        size_t before = to.pos + from.pos, ret = ZSTD_decompressStream(z, &to, &from);
        if (ZSTD_isError(ret) || to.pos + from.pos == before)
            break;
    }
    ZSTD_freeDStream(z);
    return to.pos == to.size ? 0 : -EIO;
}

static int inflate_cluster(struct qcow2 *q, u64 entry, u8 *out)
{
    u64 host, len;
    qcow2_compressed_place(q, entry, &host, &len);
    u8 *in = malloc(len); /* at most two clusters and a sector */
    if (!in)
        return -ENOMEM;
    int ret = host_file_read(&q->file, host, in, len);
    if (ret == 0 && q->header.compression)
        ret = inflate_zstd(in, len, out, q->cluster_size);
    else if (ret == 0)
        ret = inflate_deflate(in, len, out, q->cluster_size);
    free(in);
    return ret;
}

/* Reads of a compressed cluster tend to be followed by reads of the rest of it. */
int qcow2_read_compressed(struct qcow2 *q, u64 entry, u64 skip, u8 *buf, u64 len)
{
    int ret = 0;
    entry &= ~ENTRY_COPIED;
    pthread_mutex_lock(&q->inflate_lock);
    if (!q->inflated)
        q->inflated = malloc(q->cluster_size);
    if (!q->inflated)
        ret = -ENOMEM;
    else if (q->inflated_entry != entry)
        ret = inflate_cluster(q, entry, q->inflated);
    q->inflated_entry = ret == 0 ? entry : 0;
    if (ret == 0)
        memcpy(buf, q->inflated + skip, len);
    pthread_mutex_unlock(&q->inflate_lock);
    return ret;
}

void qcow2_forget_inflated(struct qcow2 *q)
{
    pthread_mutex_lock(&q->inflate_lock);
    q->inflated_entry = 0;
    pthread_mutex_unlock(&q->inflate_lock);
}

static size_t make_deflate(const u8 *in, size_t len, u8 *out)
{
    z_stream z = {.next_in = (u8 *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)len - 1};
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    int ret = deflate(&z, Z_FINISH);
    size_t made = ret == Z_STREAM_END ? len - 1 - z.avail_out : 0;
    (void)deflateEnd(&z);
    return made;
}

size_t qcow2_deflate(const struct qcow2 *q, const u8 *in, size_t len, u8 *out)
{
    if (!q->header.compression)
        return make_deflate(in, len, out);
    size_t made = ZSTD_compress(out, len - 1, in, len, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(made) ? 0 : made;
}
