#include <errno.h>

#include "backend/share/share-internal.h"

static u8 *take(struct call *c, size_t n)
{
    if ((size_t)(c->end - c->pos) < n) {
        c->bad = true;
        c->pos = c->end;
        return NULL;
    }
    c->pos += n;
    return c->pos - n;
}

u8 take8(struct call *c)
{
    const u8 *p = take(c, 1);
    return p ? *p : 0;
}

u16 take16(struct call *c)
{
    const u8 *p = take(c, 2);
    return p ? get_le16(p) : 0;
}

u32 take32(struct call *c)
{
    const u8 *p = take(c, 4);
    return p ? get_le32(p) : 0;
}

u64 take64(struct call *c)
{
    const u8 *p = take(c, 8);
    return p ? get_le64(p) : 0;
}

int take_text(struct call *c, char *text, size_t size)
{
    size_t len = take16(c);
    const u8 *p = take(c, len);
    text[0] = 0;
    if (!p || memchr(p, 0, len))
        return -EINVAL;
    if (len >= size)
        return -ENAMETOOLONG;
    memcpy(text, p, len);
    text[len] = 0;
    return 0;
}

int take_name(struct call *c, char name[NAME_SIZE], bool dots)
{
    int r = take_text(c, name, NAME_SIZE);
    if (r)
        return r;
    bool dot = !strcmp(name, ".") || !strcmp(name, "..");
    return !name[0] || strchr(name, '/') || (dot && !dots) ? -EINVAL : 0;
}

static u8 *put(struct call *c, size_t n)
{
    BUG_ON(sizeof c->reply - c->reply_len < n);
    c->reply_len += n;
    return c->reply + c->reply_len - n;
}

void put8(struct call *c, u8 v)
{
    *put(c, 1) = v;
}

void put16(struct call *c, u16 v)
{
    put_le16(put(c, 2), v);
}

void put32(struct call *c, u32 v)
{
    put_le32(put(c, 4), v);
}

void put64(struct call *c, u64 v)
{
    put_le64(put(c, 8), v);
}

void put_text(struct call *c, const char *text, size_t len)
{
    put16(c, (u16)len);
    memcpy(put(c, len), text, len);
}

void put_qid(struct call *c, const struct qid *q)
{
    put8(c, q->type);
    put32(c, q->version);
    put64(c, q->path);
}

size_t reply_room(const struct call *c, size_t head, size_t want)
{
    u64 room = MIN(c->r->in_bytes, (u64)c->msize);
    return room < head ? 0 : (size_t)MIN(room - head, (u64)want);
}
