/*
 * What becomes of failed requests. Each request is sent on as a copy, whose completion is looked at before
 * the original's. One that is held stays with the filter until a retry, or until somebody waits for the
 * device, who is then told of the failure.
 */
#include <errno.h>

#include "backend/block/block.h"
#include "base/lock.h"

struct policy {
    struct block_device base;
    struct block_device *below;
    struct block_policy how;
    struct lock lock; /* guards what follows */
    struct list spare, held;
    unsigned waiting; /* copies that were held at least once and are not done */
};

struct copy {
    struct block_request r;
    struct policy *p;
    struct block_request *original;
    int result; /* while held */
    bool waiting;
    struct list link; /* p->spare or p->held */
};

static struct policy *from_base(struct block_device *b)
{
    return container_of(b, struct policy, base);
}

static enum block_on_error choose(const struct policy *p, enum block_op op, int result)
{
    enum block_on_error e = op == BLOCK_READ ? p->how.read : p->how.write;
    if (e != BLOCK_ON_ERROR_ENOSPC)
        return e;
    return result == -ENOSPC || result == -EDQUOT ? BLOCK_ON_ERROR_STOP : BLOCK_ON_ERROR_REPORT;
}

/* The copy is over; the original may be gone when its done() returns. */
static void end(struct copy *c, int result)
{
    struct policy *p = c->p;
    struct block_request *original = c->original;
    lock_acquire(&p->lock);
    p->waiting -= c->waiting;
    list_push_back(&p->spare, &c->link);
    lock_drop(&p->lock);
    original->done(original, result);
}

static void copy_done(struct block_request *r, int result)
{
    struct copy *c = container_of(r, struct copy, r);
    struct policy *p = c->p;
    enum block_on_error e = result < 0 ? choose(p, r->op, result) : BLOCK_ON_ERROR_REPORT;
    if (e != BLOCK_ON_ERROR_STOP) {
        end(c, e == BLOCK_ON_ERROR_IGNORE ? 0 : result);
        return;
    }
    lock_acquire(&p->lock);
    p->waiting += !c->waiting;
    c->waiting = true;
    c->result = result;
    list_push_back(&p->held, &c->link);
    lock_drop(&p->lock);
    p->how.stopped(p->how.owner, p->base.path, -result);
}

/* The first of @from, which the lock guards. */
static struct copy *take(struct policy *p, struct list *from)
{
    struct copy *c = NULL;
    lock_acquire(&p->lock);
    if (!list_empty(from)) {
        c = list_entry(from->next, struct copy, link);
        list_remove(&c->link);
    }
    lock_drop(&p->lock);
    return c;
}

static void policy_submit(struct block_device *b, struct block_request *r)
{
    struct policy *p = from_base(b);
    struct copy *c = take(p, &p->spare);
    if (!c)
        c = malloc(sizeof *c);
    if (!c) {
        r->done(r, -ENOMEM);
        return;
    }
    *c = (struct copy){.r = *r, .p = p, .original = r};
    c->r.done = copy_done;
    list_init(&c->link);
    block_submit(p->below, &c->r);
}

void block_policy_retry(struct block_device *b)
{
    struct policy *p = from_base(b);
    struct list again;
    list_init(&again);
    lock_acquire(&p->lock); /* what fails once more waits for the next retry */
    while (!list_empty(&p->held)) {
        struct list *l = p->held.next;
        list_remove(l);
        list_push_back(&again, l);
    }
    lock_drop(&p->lock);
    for (struct copy *c; (c = take(p, &again));)
        block_submit(p->below, &c->r);
}

bool block_policy_waits(struct block_device *b)
{
    struct policy *p = from_base(b);
    lock_acquire(&p->lock);
    bool waits = p->waiting;
    lock_drop(&p->lock);
    return waits;
}

static void policy_drain(struct block_device *b)
{
    struct policy *p = from_base(b);
    block_drain(p->below);
    for (struct copy *c; (c = take(p, &p->held));)
        end(c, c->result);
}

static int policy_execute(struct block_device *b, const struct block_request *r)
{
    struct block_device *below = from_base(b)->below;
    return below->ops->execute(below, r);
}

static void policy_close(struct block_device *b)
{
    struct policy *p = from_base(b);
    policy_drain(b);
    block_close(p->below);
    for (struct copy *c; (c = take(p, &p->spare));)
        free(c);
    lock_release(&p->lock);
    free(b->path);
    free(p);
}

static const struct block_ops policy_ops = {
    .submit = policy_submit, .drain = policy_drain, .close = policy_close, .execute = policy_execute};

struct block_device *block_policy_open(struct block_device *below, const struct block_policy *how,
                                       struct error *err)
{
    struct policy *p = calloc(1, sizeof *p);
    char *path = p ? strdup(below->path) : NULL;
    if (!path) {
        free(p);
        error_set_errno(err, ENOMEM, "cannot open '%s'", below->path);
        block_close(below);
        return NULL;
    }
    p->base = *below;
    p->base.ops = &policy_ops;
    p->base.path = path;
    p->below = below;
    p->how = *how;
    lock_init(&p->lock, LOCK_RANK_BACKEND);
    list_init(&p->spare);
    list_init(&p->held);
    return &p->base;
}
