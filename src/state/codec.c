/*
 * The stream of described objects.
 *
 *     record: u32 magic, string name, u16 version, u32 instance, u32 length, body
 *     body:   { string name, u8 kind, u32 size, u32 count, u32 length, data } repeated to its end
 *     string: u8 length, bytes
 *
 * The data of integers and bytes is what lies in memory (little-endian). The data of structs is
 * { u16 version, u32 length, body } for each element. Every length is that of what follows it, so a
 * reader can step over what it does not know.
 */
#include "state/codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_MAGIC 0x74535a54u /* "TZSt" */

/* --- writing --- */

struct writer {
    struct state_buf *b;
    bool failed;
};

static void put(struct writer *w, const void *data, size_t len)
{
    struct state_buf *b = w->b;
    if (w->failed)
        return;
    if (len > b->cap - b->len) {
        size_t cap = MAX(b->cap * 2, b->len + len + 256);
        u8 *grown = realloc(b->data, cap);
        if (!grown) {
            w->failed = true;
            return;
        }
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void put_u8(struct writer *w, u8 v)
{
    put(w, &v, sizeof v);
}

static void put_u16(struct writer *w, u16 v)
{
    put(w, &v, sizeof v);
}

static void put_u32(struct writer *w, u32 v)
{
    put(w, &v, sizeof v);
}

static void put_string(struct writer *w, const char *s)
{
    size_t len = strlen(s);
    BUG_ON(len > UINT8_MAX);
    put_u8(w, (u8)len);
    put(w, s, len);
}

/* A length that is not known yet: end_length() fills it in. */
static size_t begin_length(struct writer *w)
{
    size_t at = w->b->len;
    put_u32(w, 0);
    return at;
}

static void end_length(struct writer *w, size_t at)
{
    if (w->failed)
        return;
    size_t len = w->b->len - at - 4;
    BUG_ON(len > UINT32_MAX);
    put_le32(w->b->data + at, (u32)len);
}

static void put_body(struct writer *w, const struct state_desc *desc, void *object);

static void put_structs(struct writer *w, const struct field *f, u8 *at)
{
    for (u32 i = 0; i < f->count; i++) {
        put_u16(w, f->desc->version);
        size_t len = begin_length(w);
        put_body(w, f->desc, at + (size_t)i * f->size);
        end_length(w, len);
    }
}

static void put_body(struct writer *w, const struct state_desc *desc, void *object)
{
    if (desc->pre_save)
        desc->pre_save(object);
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        u8 *at = (u8 *)object + f->offset;
        put_string(w, f->name);
        put_u8(w, (u8)f->kind);
        put_u32(w, f->size);
        put_u32(w, f->count);
        size_t len = begin_length(w);
        if (f->kind == FIELD_KIND_STRUCT)
            put_structs(w, f, at);
        else
            put(w, at, (size_t)f->size * f->count);
        end_length(w, len);
    }
}

int state_save(struct state_buf *b, const struct state_desc *desc, u32 instance, void *object,
               struct error *err)
{
    struct writer w = {.b = b};
    size_t start = b->len;
    put_u32(&w, RECORD_MAGIC);
    put_string(&w, desc->name);
    put_u16(&w, desc->version);
    put_u32(&w, instance);
    size_t len = begin_length(&w);
    put_body(&w, desc, object);
    end_length(&w, len);
    if (!w.failed)
        return 0;
    b->len = start;
    return error_set_errno(err, ENOMEM, "cannot save the state of %s", desc->name);
}

void state_buf_release(struct state_buf *b)
{
    free(b->data);
    *b = (struct state_buf){.data = NULL};
}

/* --- reading: everything in the stream is hostile --- */

/* A window of the stream. After a read beyond its end `bad` is set and all reads give zero. */
struct reader {
    const u8 *p;
    size_t left;
    bool bad;
};

static const u8 *take(struct reader *r, size_t len)
{
    if (r->bad || len > r->left) {
        r->bad = true;
        return NULL;
    }
    const u8 *p = r->p;
    r->p += len;
    r->left -= len;
    return p;
}

static u8 take_u8(struct reader *r)
{
    const u8 *p = take(r, 1);
    return p ? *p : 0;
}

static u16 take_u16(struct reader *r)
{
    const u8 *p = take(r, 2);
    return p ? get_le16(p) : 0;
}

static u32 take_u32(struct reader *r)
{
    const u8 *p = take(r, 4);
    return p ? get_le32(p) : 0;
}

struct name {
    const char *text;
    u8 len;
};

static struct name take_string(struct reader *r)
{
    u8 len = take_u8(r);
    const u8 *p = take(r, len);
    return p ? (struct name){(const char *)p, len} : (struct name){"", 0};
}

static bool name_is(struct name n, const char *s)
{
    return strlen(s) == n.len && !memcmp(n.text, s, n.len);
}

/* The next @len bytes as a window of their own. */
static struct reader take_window(struct reader *r, u32 len)
{
    const u8 *p = take(r, len);
    return p ? (struct reader){.p = p, .left = len} : (struct reader){.bad = true};
}

static int load_body(struct reader *r, const struct state_desc *desc, unsigned version, void *object,
                     struct error *err);

static int bad_stream(const struct state_desc *desc, struct error *err)
{
    return error_set(err, EINVAL, "the saved state of %s is damaged", desc->name);
}

static int load_structs(struct reader *r, const struct field *f, u8 *at, struct error *err)
{
    for (u32 i = 0; i < f->count; i++) {
        u16 version = take_u16(r);
        struct reader body = take_window(r, take_u32(r));
        if (r->bad)
            return bad_stream(f->desc, err);
        int ret = load_body(&body, f->desc, version, at + (size_t)i * f->size, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* A bool of another value than 0 and 1 would be undefined behaviour for whoever reads it. */
static bool valid_bools(const u8 *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] > 1)
            return false;
    }
    return true;
}

static int load_plain(struct reader *r, const struct state_desc *desc, const struct field *f, u8 *at,
                      struct error *err)
{
    size_t len = (size_t)f->size * f->count;
    const u8 *p = take(r, len);
    if (!p || (f->kind == FIELD_KIND_BOOL && !valid_bools(p, len)))
        return bad_stream(desc, err);
    memcpy(at, p, len);
    return 0;
}

static const struct field *find_field(const struct state_desc *desc, struct name name)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        if (name_is(name, f->name))
            return f;
    }
    return NULL;
}

/* One field: unknown ones are stepped over, known ones must have the shape that this version has. */
static int load_field(struct reader *r, const struct state_desc *desc, void *object, struct error *err)
{
    struct name name = take_string(r);
    u8 kind = take_u8(r);
    u32 size = take_u32(r), count = take_u32(r);
    struct reader data = take_window(r, take_u32(r));
    if (r->bad)
        return bad_stream(desc, err);
    const struct field *f = find_field(desc, name);
    if (!f)
        return 0;
    /* The size of a struct in memory is not part of what was saved: its fields are checked instead. */
    bool same_size = f->kind == FIELD_KIND_STRUCT || size == f->size;
    if (kind != f->kind || !same_size || count != f->count)
        return error_set(err, EINVAL, "the saved state of %s has another form of '%s'", desc->name, f->name);
    u8 *at = (u8 *)object + f->offset;
    int ret =
        f->kind == FIELD_KIND_STRUCT ? load_structs(&data, f, at, err) : load_plain(&data, desc, f, at, err);
    if (ret == 0 && data.left)
        return bad_stream(desc, err);
    return ret;
}

static int load_body(struct reader *r, const struct state_desc *desc, unsigned version, void *object,
                     struct error *err)
{
    while (r->left) {
        int ret = load_field(r, desc, object, err);
        if (ret < 0)
            return ret;
    }
    return desc->post_load ? desc->post_load(object, version, err) : 0;
}

int state_load(struct state_buf *b, const struct state_desc *desc, u32 instance, void *object,
               struct error *err)
{
    struct reader r = {.p = b->data + b->pos, .left = b->len - b->pos};
    u32 magic = take_u32(&r);
    struct name name = take_string(&r);
    u16 version = take_u16(&r);
    u32 saved_instance = take_u32(&r);
    struct reader body = take_window(&r, take_u32(&r));
    if (r.bad || magic != RECORD_MAGIC)
        return bad_stream(desc, err);
    if (!name_is(name, desc->name) || saved_instance != instance)
        return error_set(err, EINVAL, "the saved state of %s %u is missing: found '%.*s' %u", desc->name,
                         instance, name.len, name.text, saved_instance);
    int ret = load_body(&body, desc, version, object, err);
    if (ret == 0)
        b->pos = b->len - r.left;
    return ret;
}
