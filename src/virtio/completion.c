#include "virtio/completion.h"

void completions_init(struct completions *cs, struct virtio_device *vdev, struct lock *machine_lock,
                      void (*finish)(struct completions *cs, struct completion *c))
{
    *cs = (struct completions){.vdev = vdev, .machine_lock = machine_lock, .finish = finish};
    list_init(&cs->done);
    lock_init(&cs->lock, LOCK_RANK_BACKEND);
    pthread_cond_init(&cs->idle, NULL);
}

void completions_release(struct completions *cs)
{
    pthread_cond_destroy(&cs->idle);
    lock_release(&cs->lock);
}

/* Moves what is done to @batch. When there is nothing: are we followed by another thread (@more)? */
static bool take_done(struct completions *cs, struct list *batch, bool more)
{
    list_init(batch);
    lock_acquire(&cs->lock);
    while (!list_empty(&cs->done)) {
        struct list *node = cs->done.next;
        list_remove(node);
        list_push_back(batch, node);
    }
    if (list_empty(batch))
        cs->collecting = more;
    lock_drop(&cs->lock);
    return !list_empty(batch);
}

bool completions_begin(struct completions *cs)
{
    lock_acquire(&cs->lock);
    bool more = cs->collecting;
    cs->collecting = true;
    lock_drop(&cs->lock);
    return more;
}

/* Pushes what has completed, until there is nothing left. */
void completions_end(struct completions *cs, bool more)
{
    struct virtio_device *vdev = cs->vdev;
    struct list batch;
    u32 touched = 0;
    while (take_done(cs, &batch, more)) {
        struct completion *c, *next;
        list_for_each_safe (c, next, &batch, link) {
            list_remove(&c->link);
            touched |= (u32)BIT(c->queue);
            cs->finish(cs, c);
        }
    }
    for (unsigned i = 0; i < vdev->queue_count; i++) {
        if (touched >> i & 1)
            virtqueue_notify(&vdev->queue[i]);
    }
    if (vdev->resetting && cs->in_flight == 0)
        virtio_reset_done(vdev);
}

void completions_submitted(struct completions *cs)
{
    lock_acquire(&cs->lock);
    cs->running++;
    lock_drop(&cs->lock);
}

void completion_enter(struct completions *cs, struct completion *c, int result)
{
    c->result = result;
    lock_acquire(&cs->lock);
    list_push_back(&cs->done, &c->link);
    if (--cs->running == 0)
        pthread_cond_broadcast(&cs->idle);
    lock_drop(&cs->lock);
}

void completions_wake(struct completions *cs)
{
    lock_acquire(&cs->lock);
    bool mine = !cs->collecting && !list_empty(&cs->done);
    if (mine)
        cs->collecting = true;
    lock_drop(&cs->lock);
    if (!mine)
        return;
    lock_acquire(cs->machine_lock);
    completions_end(cs, false);
    lock_drop(cs->machine_lock);
}

void completion_done(struct completions *cs, struct completion *c, int result)
{
    completion_enter(cs, c, result);
    completions_wake(cs);
}

/* Done requests are entered in the list before their threads wait for the machine lock, so this ends. */
void completions_drain(struct completions *cs)
{
    bool more = completions_begin(cs);
    lock_acquire(&cs->lock);
    while (cs->running)
        pthread_cond_wait(&cs->idle, &cs->lock.mutex);
    lock_drop(&cs->lock);
    completions_end(cs, more);
}
