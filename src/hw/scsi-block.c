/* Reading, comparing and flushing, which disks and CD-ROMs share. */
#include <stdlib.h>
#include <string.h>

#include "hw/scsi-internal.h"

#define COMPARE_CHUNK (1u << 20)

/* The group of the opcode says how long the CDB is (SPC-4, 4.2.5). */
void scsi_cdb_range(const u8 *cdb, u64 *lba, u32 *count)
{
    switch (cdb[0] >> 5) {
    case 0:
        *lba = get_be32(cdb) & 0x1fffff;
        *count = cdb[4] ? cdb[4] : 256;
        break;
    case 4:
        *lba = get_be64(cdb + 2);
        *count = get_be32(cdb + 10);
        break;
    case 5:
        *lba = get_be32(cdb + 2);
        *count = get_be32(cdb + 6);
        break;
    default:
        *lba = get_be32(cdb + 2);
        *count = get_be16(cdb + 7);
        break;
    }
}

bool scsi_range_ok(const struct scsi_target *t, u64 lba, u64 count)
{
    return lba <= t->blocks && count <= t->blocks - lba;
}

bool scsi_transfer_refused(const struct scsi_target *t, struct scsi_request *r, struct scsi_range *range)
{
    u64 lba;
    u32 count;
    bool protect = r->cdb[0] >= 0x20 && r->cdb[1] >> 5; /* protection information, which there is not */

    scsi_cdb_range(r->cdb, &lba, &count);
    range->offset = lba * t->block_size;
    range->bytes = (u64)count * t->block_size;
    if (protect || count > SCSI_MAX_BLOCKS)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (!scsi_range_ok(t, lba, count))
        return scsi_fail(r, SENSE_OUT_OF_RANGE);
    return false;
}

bool scsi_read(struct scsi_target *t, struct scsi_request *r)
{
    struct scsi_range range;

    if (scsi_transfer_refused(t, r, &range))
        return true;
    if (range.bytes == 0)
        return scsi_good(r);
    if (r->in_bytes < range.bytes) {
        r->overrun = true;
        return scsi_good(r);
    }
    iov_truncate(r->in, &r->in_count, range.bytes);
    r->io.iov = r->in;
    r->io.iovcnt = r->in_count;
    r->moved = range.bytes;
    return scsi_submit(r, BLOCK_READ, range.offset, range.bytes);
}

/* --- VERIFY --- */

static bool same_as_sent(const struct scsi_request *r, u64 skip, const u8 *data, u64 len)
{
    for (unsigned i = 0; i < r->out_count && len; i++) {
        u64 size = r->out[i].iov_len;
        if (skip >= size) {
            skip -= size;
            continue;
        }
        u64 n = MIN(size - skip, len);
        if (memcmp((const u8 *)r->out[i].iov_base + skip, data, (size_t)n) != 0)
            return false;
        data += n;
        len -= n;
        skip = 0;
    }
    return true;
}

/* r->at: where the compared data begin on the disk; r->left: bytes to compare; r->moved: those compared. */
static bool compare_next(struct scsi_request *r)
{
    if (r->io.op == BLOCK_READ) {
        u64 len = r->io.len;
        if (!same_as_sent(r, r->moved, r->buffer, len))
            return scsi_fail(r, SENSE_MISCOMPARE);
        r->moved += len;
        r->left -= len;
    }
    if (!r->left)
        return scsi_good(r);
    u64 len = MIN(r->left, (u64)COMPARE_CHUNK);
    r->pattern->iov_len = (size_t)len;
    return scsi_submit(r, BLOCK_READ, r->at + r->moved, len);
}

static bool compare(struct scsi_request *r, const struct scsi_range *range)
{
    u64 len = MIN(range->bytes, (u64)COMPARE_CHUNK);

    if (r->out_bytes < range->bytes) {
        r->overrun = true;
        return scsi_good(r);
    }
    r->buffer = malloc((size_t)len);
    r->pattern = malloc(sizeof *r->pattern);
    if (!r->buffer || !r->pattern) {
        scsi_buffers_free(r);
        return scsi_fail(r, SENSE_NO_RESOURCES);
    }
    *r->pattern = (struct iovec){r->buffer, (size_t)len};
    r->io.iov = r->pattern;
    r->io.iovcnt = 1;
    r->at = range->offset;
    r->left = range->bytes;
    r->next = compare_next;
    return scsi_submit(r, BLOCK_READ, r->at, len);
}

bool scsi_verify(struct scsi_target *t, struct scsi_request *r)
{
    struct scsi_range range;
    unsigned byte_check = r->cdb[1] >> 1 & 3;

    if (byte_check > 1)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (scsi_transfer_refused(t, r, &range))
        return true;
    return byte_check && range.bytes ? compare(r, &range) : scsi_good(r);
}

/* --- caches --- */

bool scsi_sync_cache(struct scsi_target *t, struct scsi_request *r)
{
    u64 lba;
    u32 count;

    scsi_cdb_range(r->cdb, &lba, &count);
    if (!scsi_range_ok(t, lba, count))
        return scsi_fail(r, SENSE_OUT_OF_RANGE);
    return scsi_submit(r, BLOCK_FLUSH, 0, 0);
}

/* PRE-FETCH and SEEK: hints. */
bool scsi_seek(struct scsi_target *t, struct scsi_request *r)
{
    u64 lba;
    u32 count;

    scsi_cdb_range(r->cdb, &lba, &count);
    return scsi_range_ok(t, lba, count) ? scsi_good(r) : scsi_fail(r, SENSE_OUT_OF_RANGE);
}
