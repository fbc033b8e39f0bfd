/* A disk of zeroes that swallows writes: for tests of devices. Requests complete in submit. */
#include <errno.h>

#include "backend/block/block.h"

static int answer(const struct block_device *b, const struct block_request *r)
{
    if (r->offset > b->size || r->len > b->size - r->offset)
        return -EINVAL;
    if (r->op == BLOCK_READ) {
        for (unsigned i = 0; i < r->iovcnt; i++)
            memset(r->iov[i].iov_base, 0, r->iov[i].iov_len);
    }
    return 0;
}

static void null_submit(struct block_device *b, struct block_request *r)
{
    r->done(r, answer(b, r));
}

static void null_drain(struct block_device *b)
{
    (void)b;
}

static void null_close(struct block_device *b)
{
    free(b->path);
    free(b);
}

static const struct block_ops null_ops = {.submit = null_submit, .drain = null_drain, .close = null_close};

struct block_device *block_null_open(u64 size)
{
    struct block_device *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->ops = &null_ops;
    b->size = ALIGN_DOWN(size, (u64)BLOCK_SECTOR);
    b->can_discard = true;
    b->path = strdup("null");
    if (b->path)
        return b;
    free(b);
    return NULL;
}
