/* Disks (SBC-3). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hw/scsi-internal.h"

#define MAX_UNMAP_BLOCKS (1u << 21) /* 1 GiB a command, so that one does not take a thread for long */
#define MAX_UNMAP_DESCRIPTORS 255u
#define PATTERN_BYTES (64u << 10) /* a block of WRITE SAME, repeated */
#define PATTERN_SEGMENTS 128u
#define PHYSICAL_EXP 3 /* 4 KiB: a page of the host's cache */

enum { CDB_FUA = 8 };

static bool durable(const struct scsi_target *t, const struct scsi_request *r)
{
    return !t->writeback || (r->cdb[0] >= 0x20 && r->cdb[1] & CDB_FUA);
}

static bool write_blocks(struct scsi_target *t, struct scsi_request *r)
{
    struct scsi_range range;

    if (scsi_transfer_refused(t, r, &range))
        return true;
    if (range.bytes == 0)
        return scsi_good(r);
    if (r->out_bytes < range.bytes) {
        r->overrun = true;
        return scsi_good(r);
    }
    iov_truncate(r->out, &r->out_count, range.bytes);
    r->io.iov = r->out;
    r->io.iovcnt = r->out_count;
    r->moved = range.bytes;
    r->next = durable(t, r) ? scsi_flush_next : NULL;
    return scsi_submit(r, BLOCK_WRITE, range.offset, range.bytes);
}

/* --- READ CAPACITY (5.15, 5.16) --- */

static bool read_capacity_10(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[8];

    put_be32(out, (u32)MIN(t->blocks - 1, 0xffffffffull));
    put_be32(out + 4, t->block_size);
    return scsi_reply(r, out, sizeof out, sizeof out);
}

static bool read_capacity_16(struct scsi_target *t, struct scsi_request *r)
{
    enum { SERVICE_ACTION = 0x10 };
    u8 out[32] = {0};

    if ((r->cdb[1] & 0x1f) != SERVICE_ACTION)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    put_be64(out, t->blocks - 1);
    put_be32(out + 8, t->block_size);
    out[13] = PHYSICAL_EXP;
    out[14] = t->backend->can_discard ? 0x80 : 0; /* logical blocks can be unmapped */
    return scsi_reply(r, out, sizeof out, get_be32(r->cdb + 10));
}

/* --- UNMAP (5.28) --- */

/* r->buffer has the descriptors; r->at is the next one, r->left how many follow. */
static bool unmap_next(struct scsi_request *r)
{
    u32 block_size = r->target->block_size;

    while (r->left) {
        const u8 *d = r->buffer + r->at;
        u64 bytes = (u64)get_be32(d + 8) * block_size;
        r->at += 16;
        r->left--;
        if (bytes)
            return scsi_submit(r, BLOCK_DISCARD, get_be64(d) * block_size, bytes);
    }
    return scsi_good(r);
}

static bool descriptors_ok(const struct scsi_target *t, const u8 *d, unsigned count)
{
    u64 blocks = 0;

    for (; count; count--, d += 16) {
        if (!scsi_range_ok(t, get_be64(d), get_be32(d + 8)))
            return false;
        blocks += get_be32(d + 8);
    }
    return blocks <= MAX_UNMAP_BLOCKS;
}

static bool unmap(struct scsi_target *t, struct scsi_request *r)
{
    u16 len = get_be16(r->cdb + 7);
    u8 header[8];

    if (r->cdb[1] & 1 || !t->backend->can_discard) /* anchor */
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (len == 0)
        return scsi_good(r);
    if (r->out_bytes < len) {
        r->overrun = true;
        return scsi_good(r);
    }
    if (len < sizeof header)
        return scsi_fail(r, SENSE_PARAMETER_LENGTH);
    iov_read(r->out, r->out_count, 0, header, sizeof header);
    unsigned descriptors = get_be16(header + 2);
    if (descriptors % 16 || descriptors > len - sizeof header)
        return scsi_fail(r, SENSE_PARAMETER_LENGTH);
    if (descriptors > 16 * MAX_UNMAP_DESCRIPTORS)
        return scsi_fail(r, SENSE_INVALID_PARAMETER);
    r->buffer = malloc(descriptors + 1u);
    if (!r->buffer)
        return scsi_fail(r, SENSE_NO_RESOURCES);
    iov_read(r->out, r->out_count, sizeof header, r->buffer, descriptors);
    r->moved = len;
    r->at = 0;
    r->left = descriptors / 16;
    r->next = unmap_next;
    bool ok = descriptors_ok(t, r->buffer, descriptors / 16);
    if (ok && !unmap_next(r))
        return false;
    scsi_buffers_free(r);
    return ok ? true : scsi_fail(r, SENSE_OUT_OF_RANGE);
}

/* --- WRITE SAME (5.42, 5.43) --- */

static bool same_next(struct scsi_request *r)
{
    if (r->io.op == BLOCK_FLUSH)
        return scsi_good(r);
    r->at += r->io.len;
    r->left -= r->io.len;
    if (!r->left)
        return r->durable ? scsi_submit(r, BLOCK_FLUSH, 0, 0) : scsi_good(r);
    unsigned count = PATTERN_SEGMENTS;
    u64 len = MIN(r->left, (u64)PATTERN_BYTES * PATTERN_SEGMENTS);
    iov_truncate(r->pattern, &count, len);
    r->io.iovcnt = count;
    return scsi_submit(r, BLOCK_WRITE, r->at, len);
}

static bool write_pattern(struct scsi_request *r, const u8 *block, u64 offset, u64 bytes)
{
    u32 block_size = r->target->block_size;

    r->buffer = malloc(PATTERN_BYTES);
    r->pattern = malloc(PATTERN_SEGMENTS * sizeof *r->pattern);
    if (!r->buffer || !r->pattern) {
        scsi_buffers_free(r);
        return scsi_fail(r, SENSE_NO_RESOURCES);
    }
    for (u32 at = 0; at < PATTERN_BYTES; at += block_size)
        memcpy(r->buffer + at, block, block_size);
    for (unsigned i = 0; i < PATTERN_SEGMENTS; i++)
        r->pattern[i] = (struct iovec){r->buffer, PATTERN_BYTES};
    r->io.iov = r->pattern;
    r->io.op = BLOCK_WRITE;
    r->io.len = 0; /* nothing is done yet */
    r->at = offset;
    r->left = bytes;
    r->durable = !r->target->writeback;
    r->next = same_next;
    return same_next(r);
}

static bool all_zero(const u8 *p, size_t len)
{
    return p[0] == 0 && !memcmp(p, p + 1, len - 1);
}

static bool write_same(struct scsi_target *t, struct scsi_request *r)
{
    enum { NO_DATA_OUT = 1, OBSOLETE = 6, UNMAP = 8, ANCHOR = 16 };
    u8 flags = r->cdb[1], block[BLOCK_SECTOR] = {0};
    bool no_data = r->cdb[0] == 0x93 && flags & NO_DATA_OUT;
    u64 lba;
    u32 count;

    scsi_cdb_range(r->cdb, &lba, &count);
    if (flags & (0xe0 | ANCHOR | OBSOLETE) || count == 0 || count > MAX_UNMAP_BLOCKS ||
        (flags & UNMAP && !t->backend->can_discard))
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (!scsi_range_ok(t, lba, count))
        return scsi_fail(r, SENSE_OUT_OF_RANGE);
    if (!no_data && r->out_bytes < t->block_size) {
        r->overrun = true;
        return scsi_good(r);
    }
    if (!no_data)
        r->moved = iov_read(r->out, r->out_count, 0, block, t->block_size);
    if (!all_zero(block, t->block_size))
        return write_pattern(r, block, lba * t->block_size, (u64)count * t->block_size);
    r->io.unmap = flags & UNMAP;
    r->next = t->writeback ? NULL : scsi_flush_next;
    return scsi_submit(r, BLOCK_WRITE_ZEROES, lba * t->block_size, (u64)count * t->block_size);
}

/* --- nothing moves in this drive --- */

static bool start_stop(struct scsi_target *t, struct scsi_request *r)
{
    return scsi_good(r);
}

/* --- vital product data (6.5) --- */

enum { VPD_LIMITS = 0xb0, VPD_CHARACTERISTICS = 0xb1, VPD_PROVISIONING = 0xb2 };
static const u8 pages[] = {VPD_LIMITS, VPD_CHARACTERISTICS, VPD_PROVISIONING, 0};

static void put_limits(const struct scsi_target *t, u8 *out)
{
    u32 unit = MAX(t->backend->discard_unit / t->block_size, 1u);

    out[0] = 1; /* WRITE SAME needs a count */
    put_be16(out + 2, 1 << PHYSICAL_EXP);
    put_be32(out + 4, SCSI_MAX_BLOCKS);
    put_be64(out + 32, MAX_UNMAP_BLOCKS); /* WRITE SAME */
    if (!t->backend->can_discard)
        return;
    put_be32(out + 16, MAX_UNMAP_BLOCKS);
    put_be32(out + 20, MAX_UNMAP_DESCRIPTORS);
    put_be32(out + 24, unit);
    put_be32(out + 28, 0x80000000); /* aligned at block 0 */
}

static unsigned vpd(const struct scsi_target *t, u8 page, u8 *out)
{
    switch (page) {
    case VPD_LIMITS: put_limits(t, out); return 0x3c;
    case VPD_CHARACTERISTICS: put_be16(out, 1); return 0x3c; /* it does not rotate */
    default:
        if (t->backend->can_discard) {
            out[1] = 0xe0; /* by UNMAP, WRITE SAME (16) and (10) */
            out[2] = 2;    /* thin */
        }
        return 4;
    }
}

/* --- mode pages (6.4) --- */

enum { PAGE_ERROR_RECOVERY = 0x01, PAGE_CACHING = 0x08, PAGE_CONTROL = 0x0a, PAGE_EXCEPTIONS = 0x1c };
enum { CACHING_WCE = 4 };

static bool mode_page(const struct scsi_target *t, unsigned index, struct scsi_mode_page *p)
{
    switch (index) {
    case 0:
        p->code = PAGE_ERROR_RECOVERY;
        p->len = 10;
        return true;
    case 1:
        p->code = PAGE_CACHING;
        p->len = 18;
        p->value[0] = t->writeback ? CACHING_WCE : 0;
        p->changeable[0] = CACHING_WCE;
        return true;
    case 2:
        p->code = PAGE_CONTROL;
        p->len = 10;
        put_be16(p->value + 6, 0xffff); /* busy for as long as it takes */
        return true;
    case 3:
        p->code = PAGE_EXCEPTIONS;
        p->len = 10;
        return true;
    default: return false;
    }
}

static void mode_selected(struct scsi_target *t, const struct scsi_mode_page *p)
{
    if (p->code == PAGE_CACHING)
        t->writeback = p->value[0] & CACHING_WCE;
}

static u8 mode_parameter(const struct scsi_target *t)
{
    enum { WRITE_PROTECTED = 0x80, DPO_AND_FUA = 0x10 };

    return DPO_AND_FUA | (t->backend->read_only ? WRITE_PROTECTED : 0);
}

static const struct scsi_command commands[] = {
    {0x08, COMMAND_MEDIUM, scsi_read},
    {0x0a, COMMAND_MEDIUM | COMMAND_WRITES, write_blocks},
    {0x1b, 0, start_stop},
    {0x1e, 0, start_stop}, /* PREVENT ALLOW MEDIUM REMOVAL */
    {0x25, COMMAND_MEDIUM, read_capacity_10},
    {0x28, COMMAND_MEDIUM, scsi_read},
    {0x2a, COMMAND_MEDIUM | COMMAND_WRITES, write_blocks},
    {0x2b, COMMAND_MEDIUM, scsi_seek},
    {0x2f, COMMAND_MEDIUM, scsi_verify},
    {0x34, COMMAND_MEDIUM, scsi_seek},
    {0x35, COMMAND_MEDIUM, scsi_sync_cache},
    {0x41, COMMAND_MEDIUM | COMMAND_WRITES, write_same},
    {0x42, COMMAND_MEDIUM | COMMAND_WRITES, unmap},
    {0x88, COMMAND_MEDIUM, scsi_read},
    {0x8a, COMMAND_MEDIUM | COMMAND_WRITES, write_blocks},
    {0x8f, COMMAND_MEDIUM, scsi_verify},
    {0x90, COMMAND_MEDIUM, scsi_seek},
    {0x91, COMMAND_MEDIUM, scsi_sync_cache},
    {0x93, COMMAND_MEDIUM | COMMAND_WRITES, write_same},
    {0x9e, COMMAND_MEDIUM, read_capacity_16},
    {0xa8, COMMAND_MEDIUM, scsi_read},
    {0xaa, COMMAND_MEDIUM | COMMAND_WRITES, write_blocks},
    {0xaf, COMMAND_MEDIUM, scsi_verify},
    {0, 0, NULL},
};

const struct scsi_personality scsi_disk = {
    .product = "HARDDISK",
    .commands = commands,
    .vpd_pages = pages,
    .vpd = vpd,
    .mode_page = mode_page,
    .mode_selected = mode_selected,
    .mode_parameter = mode_parameter,
    .block_descriptor = true,
};
