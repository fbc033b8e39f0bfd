/*
 * Hostile SCSI commands: the input is a row of commands with their parameter data, sent to a disk and a
 * CD-ROM whose backend checks what reaches it.
 *
 *     byte 0      bit 0: which target; bit 1: a logical unit that is not there; bit 2: into the buffer in two
 * pieces 1..2, 3..4  lengths of the buffers to and from the target 5, 6        lengths of what follows: the
 * command, and the data sent (the rest of the buffer is zero)
 */
#include <stdlib.h>

#include "backend/block/block.h"
#include "hw/scsi.h"

#define BUFFER 65536u
#define DISK (1u << 20)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static u8 sent[BUFFER], got[BUFFER];

static void submit(struct block_device *b, struct block_request *r)
{
    u64 total = 0;
    BUG_ON(r->offset % BLOCK_SECTOR || r->len % BLOCK_SECTOR || r->offset > b->size ||
           r->len > b->size - r->offset);
    if (r->op == BLOCK_READ || r->op == BLOCK_WRITE) {
        for (unsigned i = 0; i < r->iovcnt; i++) {
            u8 *p = r->iov[i].iov_base;
            total += r->iov[i].iov_len;
            for (size_t k = 0; k < r->iov[i].iov_len; k += 512)
                if (r->op == BLOCK_READ)
                    p[k] = (u8)k;
                else
                    sent[0] ^= p[k];
        }
        BUG_ON(total != r->len);
    }
    r->done(r, r->offset == 0x7000 ? -5 : 0);
}

static void nothing(struct block_device *b)
{
    (void)b;
}

static const struct block_ops ops = {.submit = submit, .drain = nothing, .close = nothing};

struct run {
    struct scsi_request r;
    unsigned done;
};

static void done(struct scsi_request *r)
{
    container_of(r, struct run, r)->done++;
}

/* Cuts @iov in two. */
static unsigned cut(struct iovec *iov, u8 *buffer, size_t len, bool two)
{
    size_t half = two ? len / 3 : 0;
    iov[0] = (struct iovec){buffer, half};
    iov[1] = (struct iovec){buffer + half, len - half};
    return 2;
}

static void one(struct scsi_target *t, const u8 *in, size_t cdb_len, size_t data_len)
{
    struct run run = {.done = 0};
    struct iovec out[2], back[2];
    memset(sent, 0, sizeof sent);
    memcpy(run.r.cdb, in + 7, MIN(cdb_len, sizeof run.r.cdb));
    memcpy(sent, in + 7 + cdb_len, data_len);
    run.r.lun = in[0] >> 1 & 1;
    run.r.out_bytes = get_le16(in + 1);
    run.r.in_bytes = get_le16(in + 3);
    run.r.out = out;
    run.r.in = back;
    run.r.out_count = cut(out, sent, run.r.out_bytes, in[0] & 4);
    run.r.in_count = cut(back, got, run.r.in_bytes, in[0] & 4);
    run.r.done = done;
    bool at_once = scsi_execute(t, &run.r);
    BUG_ON(at_once == (run.done == 1) || run.done > 1);
    BUG_ON(run.r.moved > MAX(run.r.in_bytes, run.r.out_bytes));
    BUG_ON((run.r.status == SCSI_CHECK_CONDITION) != (run.r.sense_len == SCSI_SENSE_SIZE));
    BUG_ON(run.r.buffer || run.r.pattern);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct block_device disk = {.ops = &ops, .size = DISK, .can_discard = true, .discard_unit = 4096};
    struct block_device disc = {.ops = &ops, .size = DISK, .read_only = true};
    struct scsi_target target[2];

    scsi_target_init(&target[0], SCSI_DISK, 0, &disk, "serial");
    scsi_target_init(&target[1], SCSI_CDROM, 1, &disc, NULL);
    while (size >= 7) {
        size_t cdb_len = MIN((size_t)data[5], size - 7);
        size_t data_len = MIN((size_t)data[6], size - 7 - cdb_len);
        one(&target[data[0] & 1], data, cdb_len, data_len);
        data += 7 + cdb_len + data_len;
        size -= 7 + cdb_len + data_len;
    }
    return 0;
}
