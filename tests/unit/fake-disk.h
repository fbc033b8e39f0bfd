/* A disk whose requests a test completes by hand, for tests of devices in front of it. */
#ifndef TRAPEZE_TESTS_UNIT_FAKE_DISK_H
#define TRAPEZE_TESTS_UNIT_FAKE_DISK_H

#include "backend/block/block.h"
#include "base/lock.h"

#define FAKE_SECTORS 256
#define FAKE_SIZE (FAKE_SECTORS * 512u)
#define FAKE_DISCARDED 0xdd /* what a discarded range is filled with */

/* A disk in memory. While `hold` is set requests wait in `held`. */
struct fake_disk {
    struct block_device base;
    u8 data[FAKE_SIZE];
    bool hold;
    int fail; /* result of all requests if not 0 */
    struct list held;
    unsigned ops[5];
    bool unmap;
    struct lock *lock;       /* the machine lock, or NULL */
    unsigned depth, deepest; /* of submissions within done() of others */
};

static inline int fake_execute(struct fake_disk *d, struct block_request *r)
{
    d->ops[r->op]++;
    d->unmap = r->op == BLOCK_WRITE_ZEROES && r->unmap;
    if (d->fail)
        return d->fail;
    u64 at = r->offset, total = 0;
    BUG_ON(r->offset % BLOCK_SECTOR || r->len % BLOCK_SECTOR || r->offset > FAKE_SIZE ||
           r->len > FAKE_SIZE - r->offset);
    for (unsigned i = 0; i < r->iovcnt && (r->op == BLOCK_READ || r->op == BLOCK_WRITE); i++)
        total += r->iov[i].iov_len;
    BUG_ON((r->op == BLOCK_READ || r->op == BLOCK_WRITE) && total != r->len);
    for (unsigned i = 0; i < r->iovcnt && (r->op == BLOCK_READ || r->op == BLOCK_WRITE); i++) {
        if (r->op == BLOCK_READ)
            memcpy(r->iov[i].iov_base, d->data + at, r->iov[i].iov_len);
        else
            memcpy(d->data + at, r->iov[i].iov_base, r->iov[i].iov_len);
        at += r->iov[i].iov_len;
    }
    if (r->op == BLOCK_DISCARD)
        memset(d->data + r->offset, FAKE_DISCARDED, r->len);
    if (r->op == BLOCK_WRITE_ZEROES)
        memset(d->data + r->offset, 0, r->len);
    return 0;
}

static inline void fake_submit(struct block_device *b, struct block_request *r)
{
    struct fake_disk *d = container_of(b, struct fake_disk, base);
    d->depth++;
    d->deepest = MAX(d->deepest, d->depth);
    if (d->hold)
        list_push_back(&d->held, &r->link);
    else
        r->done(r, fake_execute(d, r));
    d->depth--;
}

/* Completes the requests held, as the backend's thread would: without the machine lock. */
static inline void fake_complete(struct fake_disk *d, unsigned count)
{
    if (d->lock)
        lock_drop(d->lock);
    while (count-- && !list_empty(&d->held)) {
        struct block_request *r = list_entry(d->held.prev, struct block_request, link);
        list_remove(&r->link);
        r->done(r, fake_execute(d, r));
    }
    if (d->lock)
        lock_acquire(d->lock);
}

static inline void fake_drain(struct block_device *b)
{
    (void)b;
}

static const struct block_ops fake_ops = {.submit = fake_submit, .drain = fake_drain, .close = fake_drain};

static inline u8 fake_byte(unsigned at)
{
    return (u8)(at / 512 + at % 251);
}

/* Of a sector that was not written. */
static inline u8 fake_first_byte(unsigned sector)
{
    return fake_byte(sector * 512);
}

/* With a pattern in which each sector differs. */
static inline void fake_disk_init(struct fake_disk *d, struct lock *lock, bool read_only)
{
    d->base = (struct block_device){
        .ops = &fake_ops, .size = FAKE_SIZE, .read_only = read_only, .can_discard = !read_only};
    d->lock = lock;
    list_init(&d->held);
    for (unsigned i = 0; i < FAKE_SIZE; i++)
        d->data[i] = fake_byte(i);
}

#endif
