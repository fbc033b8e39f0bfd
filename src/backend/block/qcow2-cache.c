/* Slices of L2 tables and refcount blocks in memory, the least recently used of them dropped. */
#include <errno.h>

#include "backend/block/qcow2-internal.h"

static struct list *bucket(struct table_cache *c, u64 offset)
{
    return &c->buckets[(offset / c->slice * 0x9e3779b97f4a7c15ull) >> 55];
}

void table_cache_init(struct table_cache *c, struct host_file *file, u32 slice, unsigned max)
{
    c->file = file;
    c->slice = slice;
    c->max = max;
    c->count = c->dirty = 0;
    list_init(&c->lru);
    for (unsigned i = 0; i < TABLE_BUCKETS; i++)
        list_init(&c->buckets[i]);
}

static void drop(struct table_cache *c, struct table_slot *s)
{
    list_remove(&s->hash);
    list_remove(&s->lru);
    c->count--;
    c->dirty -= s->dirty;
    if (s->pinned) { /* the commit that holds it frees it */
        s->gone = true;
        return;
    }
    free(s->data);
    free(s);
}

void table_cache_clear(struct table_cache *c)
{
    struct table_slot *s, *next;
    list_for_each_safe (s, next, &c->lru, lru)
        drop(c, s);
}

void table_cache_release(struct table_cache *c)
{
    if (c->slice)
        table_cache_clear(c);
}

struct table_slot *table_cache_peek(struct table_cache *c, u64 offset)
{
    struct table_slot *s;
    list_for_each (s, bucket(c, offset), hash) {
        if (s->offset == offset)
            return s;
    }
    return NULL;
}

static struct table_slot *victim(struct table_cache *c)
{
    for (struct list *l = c->lru.prev; l != &c->lru; l = l->prev) {
        struct table_slot *s = list_entry(l, struct table_slot, lru);
        if (!s->dirty && !s->pinned)
            return s;
    }
    return NULL;
}

/* The cache grows beyond its size only while what it holds is not in the file. */
static struct table_slot *new_slot(struct table_cache *c)
{
    struct table_slot *s = c->count >= c->max ? victim(c) : NULL;
    if (s) {
        list_remove(&s->hash);
        list_remove(&s->lru);
        return s;
    }
    s = calloc(1, sizeof *s);
    if (s && posix_memalign((void **)&s->data, FILE_DIRECT_ALIGN, c->slice) != 0)
        s->data = NULL;
    if (!s || !s->data) {
        free(s);
        return NULL;
    }
    c->count++;
    return s;
}

int table_cache_get(struct table_cache *c, u64 offset, struct table_slot **slot)
{
    struct table_slot *s = table_cache_peek(c, offset);
    if (s) {
        list_remove(&s->lru);
        list_push_front(&c->lru, &s->lru);
        *slot = s;
        return 0;
    }
    s = new_slot(c);
    if (!s)
        return -ENOMEM;
    int ret = host_file_read(c->file, offset, s->data, c->slice);
    if (ret < 0) {
        free(s->data);
        free(s);
        c->count--;
        return ret;
    }
    s->offset = offset;
    list_push_front(bucket(c, offset), &s->hash);
    list_push_front(&c->lru, &s->lru);
    *slot = s;
    return 0;
}

void table_cache_dirty(struct table_cache *c, struct table_slot *slot)
{
    if (!slot->dirty)
        c->dirty++;
    slot->dirty = true;
}

void table_cache_forget(struct table_cache *c, u64 offset, u64 len)
{
    for (u64 at = offset; at < offset + len; at += c->slice) {
        struct table_slot *s = table_cache_peek(c, at);
        if (s)
            drop(c, s);
    }
}
