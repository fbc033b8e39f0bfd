#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/share/share-internal.h"

static struct list *bucket(struct share *s, u32 id)
{
    return &s->fids[((id ^ s->seed) * 0x9e3779b97f4a7c15ull >> 40) % SHARE_BUCKETS];
}

static struct fid *find(struct share *s, u32 id)
{
    struct fid *f;
    list_for_each (f, bucket(s, id), link)
        if (f->id == id)
            return f;
    return NULL;
}

int fid_get(struct call *c, u32 id, enum fid_use use, struct fid **f)
{
    struct share *s = c->s;
    int r = 0;
    lock_acquire(&s->lock);
    while ((*f = find(s, id)) && (use == FID_SHARED ? (*f)->exclusive : (*f)->users > 0)) {
        if (c->nowait) {
            r = -EAGAIN;
            *f = NULL;
            break;
        }
        lock_wait(&s->lock, &s->changed);
    }
    if (*f) {
        (*f)->users++;
        (*f)->exclusive = use == FID_EXCLUSIVE;
    } else if (!r) {
        r = -EBADF;
    }
    lock_drop(&s->lock);
    return r;
}

/* Out of all tables, in use by nobody. Without the lock: closing can take its time. */
static void fid_free(struct share *s, struct fid *f)
{
    if (f->locked)
        locks_drop_fid(s, f);
    if (f->fd >= 0) {
        close(f->fd);
        open_unreserve(s);
    }
    attribute_free(s, f->attribute);
    node_put(s, f->node);
    free(f);
}

void fid_put(struct share *s, struct fid *f)
{
    if (!f)
        return;
    lock_acquire(&s->lock);
    f->users--;
    f->exclusive = false;
    bool last = f->users == 0 && f->removed;
    if (f->users == 0)
        pthread_cond_broadcast(&s->changed);
    lock_drop(&s->lock);
    if (last)
        fid_free(s, f);
}

int fid_add(struct share *s, u32 id, u32 uid, struct node *node, struct attribute *a)
{
    struct fid *f = malloc(sizeof *f);
    int r = id == NO_FID ? -EINVAL : !f ? -ENOMEM : 0;
    lock_acquire(&s->lock);
    if (!r && find(s, id))
        r = -EEXIST;
    else if (!r && s->fid_count == SHARE_MAX_FIDS)
        r = -ENFILE;
    if (!r) {
        *f = (struct fid){.id = id, .uid = uid, .node = node, .fd = -1, .attribute = a};
        list_push_front(bucket(s, id), &f->link);
        s->fid_count++;
    }
    lock_drop(&s->lock);
    if (!r)
        return 0;
    free(f);
    attribute_free(s, a);
    node_put(s, node);
    return r;
}

/* Under the lock. */
static void unlist(struct share *s, struct fid *f)
{
    if (f->removed)
        return;
    list_remove(&f->link);
    f->removed = true;
    s->fid_count--;
    pthread_cond_broadcast(&s->changed);
}

void fid_remove(struct share *s, struct fid *f)
{
    lock_acquire(&s->lock);
    unlist(s, f);
    lock_drop(&s->lock);
}

void fid_remove_all(struct share *s)
{
    struct list unused;
    struct fid *f, *next;
    list_init(&unused);
    lock_acquire(&s->lock);
    for (unsigned i = 0; i < SHARE_BUCKETS; i++) {
        list_for_each_safe (f, next, &s->fids[i], link) {
            unlist(s, f);
            if (f->users == 0)
                list_push_back(&unused, &f->link);
        }
    }
    lock_drop(&s->lock);
    list_for_each_safe (f, next, &unused, link)
        fid_free(s, f);
}

void fid_set_locked(struct share *s, struct fid *f)
{
    lock_acquire(&s->lock);
    f->locked = true;
    lock_drop(&s->lock);
}

int open_reserve(struct share *s)
{
    unsigned count = atomic_load(&s->open_count);
    do {
        if (count >= s->max_open)
            return -ENFILE;
    } while (!atomic_compare_exchange_weak(&s->open_count, &count, count + 1));
    return 0;
}

void open_unreserve(struct share *s)
{
    atomic_fetch_sub(&s->open_count, 1);
}

int attribute_new(struct share *s, size_t size, struct attribute **a)
{
    *a = NULL;
    if (size > SHARE_ATTRIBUTE_MAX)
        return -E2BIG;
    lock_acquire(&s->lock);
    bool room = s->attribute_count < SHARE_MAX_ATTRIBUTES;
    s->attribute_count += room;
    lock_drop(&s->lock);
    if (!room)
        return -ENFILE;
    *a = calloc(1, sizeof **a + size);
    if (*a) {
        (*a)->size = size;
        return 0;
    }
    lock_acquire(&s->lock);
    s->attribute_count--;
    lock_drop(&s->lock);
    return -ENOMEM;
}

void attribute_free(struct share *s, struct attribute *a)
{
    if (!a)
        return;
    free(a);
    lock_acquire(&s->lock);
    s->attribute_count--;
    lock_drop(&s->lock);
}
