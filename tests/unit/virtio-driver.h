/*
 * The driver's half of a virtqueue, split or packed, for tests of devices: builds chains in guest
 * memory and takes back what was used. It trusts the device no further than the tests need.
 */
#ifndef TRAPEZE_TESTS_VIRTIO_DRIVER_H
#define TRAPEZE_TESTS_VIRTIO_DRIVER_H

#include "memory/memory.h"

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4, D_AVAIL = 1 << 7, D_USED = 1 << 15 };

struct buffer {
    u64 gpa;
    u32 len;
    bool writable;
};

struct ring {
    struct memory *m;
    bool packed;
    u16 size;
    u64 desc, driver, device;
    u16 next;      /* next free descriptor (split) or ring position (packed) */
    u16 avail_idx; /* split */
    u16 seen;      /* used entries taken: index (split) or position (packed) */
    bool wrap, used_wrap;
    u16 next_id;       /* packed */
    u16 entries[1024]; /* packed: ring entries of each buffer id */
};

/* Lays the ring out at @base, which has room for 32 KiB. */
static inline void ring_init(struct ring *r, struct memory *m, u64 base, u16 size, bool packed)
{
    *r = (struct ring){.m = m, .packed = packed, .size = size, .wrap = true, .used_wrap = true};
    r->desc = base;
    r->driver = base + 0x4000;
    r->device = base + 0x5000;
    memset(memory_span(m, base, 0x8000), 0, 0x8000);
}

static inline u8 *ring_at(struct ring *r, u64 gpa)
{
    return memory_span(r->m, gpa, 1);
}

/* One descriptor at @at; @tag is next or the buffer id. */
static inline void put_descriptor(struct ring *r, u64 at, u64 addr, u32 len, u16 flags, u16 tag)
{
    u8 *d = ring_at(r, at);
    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + (r->packed ? 12 : 14), tag);
    put_le16(d + (r->packed ? 14 : 12), flags);
}

static inline u64 entry_gpa(const struct ring *r, u16 pos)
{
    return r->desc + 16ull * pos;
}

/* Split: makes @head available. */
static inline void ring_publish(struct ring *r, u16 head)
{
    put_le16(ring_at(r, r->driver + 4 + 2ull * (r->avail_idx % r->size)), head);
    put_le16(ring_at(r, r->driver + 2), ++r->avail_idx);
}

/* Packed: the flags that make an entry available in this round. */
static inline u16 packed_flags(const struct ring *r, u16 flags)
{
    return (u16)(flags | (r->wrap ? D_AVAIL : D_USED));
}

static inline void packed_next(struct ring *r)
{
    if (++r->next == r->size) {
        r->next = 0;
        r->wrap = !r->wrap;
    }
}

static inline u16 split_add(struct ring *r, const struct buffer *b, unsigned n)
{
    u16 head = r->next;
    for (unsigned i = 0; i < n; i++) {
        u16 pos = r->next;
        r->next = (u16)((r->next + 1) % r->size);
        u16 flags = (u16)((b[i].writable ? D_WRITE : 0) | (i + 1 < n ? D_NEXT : 0));
        put_descriptor(r, entry_gpa(r, pos), b[i].gpa, b[i].len, flags, r->next);
    }
    ring_publish(r, head);
    return head;
}

static inline u16 packed_add(struct ring *r, const struct buffer *b, unsigned n)
{
    u16 id = r->next_id++ % r->size, head = r->next, head_flags = 0;
    for (unsigned i = 0; i < n; i++) {
        u16 flags = packed_flags(r, (u16)((b[i].writable ? D_WRITE : 0) | (i + 1 < n ? D_NEXT : 0)));
        u16 keep = get_le16(ring_at(r, entry_gpa(r, r->next) + 14));
        put_descriptor(r, entry_gpa(r, r->next), b[i].gpa, b[i].len, i ? flags : keep, id);
        if (i == 0)
            head_flags = flags;
        packed_next(r);
    }
    put_le16(ring_at(r, entry_gpa(r, head) + 14), head_flags); /* last, since it publishes the chain */
    r->entries[id] = (u16)n;
    return id;
}

/* Adds a chain and makes it available; returns the id that comes back as used. */
static inline u16 ring_add(struct ring *r, const struct buffer *b, unsigned n)
{
    return r->packed ? packed_add(r, b, n) : split_add(r, b, n);
}

/* Writes an indirect table of @b at @table; the caller adds the descriptor that refers to it. */
static inline void put_indirect(struct ring *r, u64 table, const struct buffer *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        u16 flags = b[i].writable ? D_WRITE : 0;
        if (!r->packed && i + 1 < n)
            flags |= D_NEXT;
        put_descriptor(r, table + 16ull * i, b[i].gpa, b[i].len, flags, (u16)(r->packed ? 0 : i + 1));
    }
}

/* One ring entry with arbitrary contents, made available. */
static inline u16 ring_add_raw(struct ring *r, u64 addr, u32 len, u16 flags, u16 next)
{
    u16 pos = r->next;
    if (!r->packed) {
        put_descriptor(r, entry_gpa(r, pos), addr, len, flags, next);
        r->next = (u16)((pos + 1) % r->size);
        ring_publish(r, pos);
        return pos;
    }
    u16 id = r->next_id++ % r->size;
    put_descriptor(r, entry_gpa(r, pos), addr, len, packed_flags(r, flags), id);
    r->entries[id] = 1;
    packed_next(r);
    return id;
}

/* Adds a chain through an indirect table at @table. */
static inline u16 ring_add_indirect(struct ring *r, u64 table, const struct buffer *b, unsigned n)
{
    put_indirect(r, table, b, n);
    return ring_add_raw(r, table, 16 * n, D_INDIRECT, 0);
}

/* Takes one used entry. */
static inline bool ring_take(struct ring *r, u32 *id, u32 *len)
{
    if (!r->packed) {
        if (get_le16(ring_at(r, r->device + 2)) == r->seen)
            return false;
        const u8 *e = ring_at(r, r->device + 4 + 8ull * (r->seen++ % r->size));
        *id = get_le32(e);
        *len = get_le32(e + 4);
        return true;
    }
    const u8 *e = ring_at(r, entry_gpa(r, r->seen));
    u16 flags = get_le16(e + 14);
    if (!!(flags & D_AVAIL) != r->used_wrap || !!(flags & D_USED) != r->used_wrap)
        return false;
    *id = get_le16(e + 12);
    *len = get_le32(e + 8);
    r->seen = (u16)(r->seen + (*id < 1024 ? r->entries[*id] : 1));
    if (r->seen >= r->size) {
        r->seen = (u16)(r->seen - r->size);
        r->used_wrap = !r->used_wrap;
    }
    return true;
}

/* EVENT_IDX: an interrupt is wanted when the used entry at @ahead entries from here is filled. */
static inline void ring_want_interrupt(struct ring *r, u16 ahead)
{
    if (!r->packed) {
        put_le16(ring_at(r, r->driver + 4 + 2ull * r->size), (u16)(r->seen + ahead));
        return;
    }
    unsigned pos = r->seen + ahead;
    bool wrap = pos >= r->size ? !r->used_wrap : r->used_wrap;
    put_le16(ring_at(r, r->driver), (u16)(pos % r->size | (wrap ? 0x8000 : 0)));
    put_le16(ring_at(r, r->driver + 2), 2);
}

/* Suppression of interrupts without EVENT_IDX. */
static inline void ring_interrupts_off(struct ring *r, bool off)
{
    put_le16(ring_at(r, r->packed ? r->driver + 2 : r->driver), off);
}

/* Would a driver with EVENT_IDX have to ring the doorbell for the entry that it added last? */
static inline bool ring_doorbell_wanted(struct ring *r)
{
    if (!r->packed)
        return get_le16(ring_at(r, r->device + 4 + 8ull * r->size)) == (u16)(r->avail_idx - 1);
    u16 flags = get_le16(ring_at(r, r->device + 2)), event = get_le16(ring_at(r, r->device));
    if (flags != 2)
        return flags == 0;
    u16 last = (u16)(r->next ? r->next - 1 : r->size - 1);
    bool wrap = r->next ? r->wrap : !r->wrap;
    return event == (last | (wrap ? 0x8000 : 0));
}

#endif
