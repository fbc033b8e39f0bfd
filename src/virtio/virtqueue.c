/*
 * The walker for split and packed virtqueues. Section numbers are those of VIRTIO 1.2.
 *
 * Rules:
 * 1. A field of a ring is loaded once into a local variable, checked, then used.
 * 2. Nothing of a chain is read before the index (split) or the flags (packed) that publish it have
 *    been loaded with acquire; nothing is published before it was written (release).
 * 3. "Set the event, then look at the ring" and "fill the ring, then look at the event" race with
 *    the driver's mirror image of the same two steps. A full fence stands between the two steps, so
 *    at least one side sees the other's write (2.7.13.4.1, 2.8.21.3.1).
 * 4. A write to a ring is followed by memory_span_written(), like any other DMA.
 * 5. Everything that is not as the standard wants it ends in virtio_device_error().
 */
#include "virtio/virtqueue.h"

#include "virtio/virtio.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };    /* 2.7.5 */
enum { PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15 };        /* 2.8.1 */
enum { SPLIT_NO_INTERRUPT = 1, SPLIT_NO_NOTIFY = 1 };         /* 2.7.6, 2.7.8 */
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 }; /* 2.8.14 */

#define DESC_SIZE 16

/* One entry of any descriptor table, whatever its format. */
struct descriptor {
    u64 addr;
    u32 len;
    u16 flags;
    u16 tag; /* split: next; packed: buffer id */
};

/* A place in the ring's descriptor table or in an indirect one. */
struct cursor {
    const u8 *table;
    u32 count, pos;
    bool indirect;
};

static bool packed(const struct virtqueue *vq)
{
    return virtio_has(vq->dev, VIRTIO_F_RING_PACKED);
}

static bool event_idx(const struct virtqueue *vq)
{
    return virtio_has(vq->dev, VIRTIO_F_EVENT_IDX);
}

/* --- access to ring fields --- */

static u8 *ring_span(struct virtqueue *vq, u64 gpa, u64 len)
{
    u8 *p = memory_span(vq->dev->memory, gpa, len);
    if (unlikely(!p))
        virtio_device_error(vq->dev, "queue %u: ring at %#llx is not in RAM", vq->index,
                            (unsigned long long)gpa);
    return p;
}

/* @gpa is even: the alignment of the rings was checked when the queue was enabled. */
static bool ring_load16(struct virtqueue *vq, u64 gpa, u16 *value)
{
    u8 *p = ring_span(vq, gpa, 2);
    if (!p)
        return false;
    *value = __atomic_load_n((const u16 *)(void *)p, __ATOMIC_ACQUIRE);
    return true;
}

static bool ring_store16(struct virtqueue *vq, u64 gpa, u16 value)
{
    u8 *p = ring_span(vq, gpa, 2);
    if (!p)
        return false;
    __atomic_store_n((u16 *)(void *)p, value, __ATOMIC_RELEASE);
    memory_span_written(vq->dev->memory, gpa, 2);
    return true;
}

static void full_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* --- set-up --- */

void virtqueue_init(struct virtqueue *vq, struct virtio_device *dev, u16 index, u16 max_size)
{
    BUG_ON(max_size == 0 || max_size > VIRTQ_MAX_SIZE || (max_size & (max_size - 1)));
    *vq = (struct virtqueue){.dev = dev, .index = index, .max_size = max_size};
    virtqueue_reset(vq);
}

void virtqueue_reset(struct virtqueue *vq)
{
    *vq = (struct virtqueue){
        .dev = vq->dev,
        .index = vq->index,
        .max_size = vq->max_size,
        .size = vq->max_size,
        .msix_vector = VIRTQ_NO_VECTOR,
        .avail_wrap = true,
        .used_wrap = true,
    };
}

/* Bytes of the three areas (2.7, 2.8.10); the event fields count whether or not they are used. */
static u64 desc_area_size(const struct virtqueue *vq)
{
    return (u64)DESC_SIZE * vq->size;
}

static u64 driver_area_size(const struct virtqueue *vq)
{
    return packed(vq) ? 4 : 6 + 2ull * vq->size;
}

static u64 device_area_size(const struct virtqueue *vq)
{
    return packed(vq) ? 4 : 6 + 8ull * vq->size;
}

bool virtqueue_layout_ok(const struct virtqueue *vq)
{
    const struct memory *m = vq->dev->memory;
    if (vq->size == 0 || vq->size > vq->max_size)
        return false;
    if (!packed(vq) && (vq->size & (vq->size - 1)))
        return false;
    if (vq->desc % 16 || vq->driver % (packed(vq) ? 4 : 2) || vq->device % 4)
        return false;
    return memory_span(m, vq->desc, desc_area_size(vq)) && memory_span(m, vq->driver, driver_area_size(vq)) &&
           memory_span(m, vq->device, device_area_size(vq));
}

void virtqueue_enable(struct virtqueue *vq)
{
    vq->enabled = virtqueue_layout_ok(vq);
    if (!vq->enabled)
        virtio_device_error(vq->dev, "queue %u: bad size %u or addresses %#llx %#llx %#llx", vq->index,
                            vq->size, (unsigned long long)vq->desc, (unsigned long long)vq->driver,
                            (unsigned long long)vq->device);
}

/* --- walking a chain --- */

static struct descriptor fetch(const struct virtqueue *vq, const struct cursor *c)
{
    u8 raw[DESC_SIZE];
    memcpy(raw, c->table + (size_t)c->pos * DESC_SIZE, sizeof raw);
    unsigned flags_at = packed(vq) ? 14 : 12;
    return (struct descriptor){
        .addr = get_le64(raw),
        .len = get_le32(raw + 8),
        .flags = get_le16(raw + flags_at),
        .tag = get_le16(raw + (26 - flags_at)),
    };
}

/* Goes to the next descriptor of the chain; false at its end, or with the device broken. */
static bool advance(struct virtqueue *vq, struct cursor *c, const struct descriptor *d)
{
    if (packed(vq) && c->indirect)
        return ++c->pos < c->count; /* the table is the chain, NEXT means nothing (2.8.8) */
    if (!(d->flags & DESC_NEXT))
        return false;
    c->pos = packed(vq) ? (c->pos + 1) % c->count : d->tag;
    if (c->pos < c->count)
        return true;
    virtio_device_error(vq->dev, "queue %u: next descriptor %u of %u", vq->index, c->pos, c->count);
    return false;
}

/* Enters the indirect table of @d, which ends the ring's part of the chain (2.7.5.3, 2.8.8). */
static bool enter_indirect(struct virtqueue *vq, struct cursor *c, const struct descriptor *d)
{
    u32 count = d->len / DESC_SIZE;
    const u8 *table = NULL;
    const char *what = "indirect table is not in RAM";
    if (!virtio_has(vq->dev, VIRTIO_F_INDIRECT_DESC))
        what = "indirect descriptor without the feature";
    else if (c->indirect)
        what = "indirect table in an indirect table";
    else if (d->flags & DESC_NEXT)
        what = "indirect descriptor with NEXT";
    else if (d->len % DESC_SIZE || count == 0 || count > VIRTQ_MAX_SIZE)
        what = "bad length of an indirect table";
    else
        table = memory_span(vq->dev->memory, d->addr, d->len);
    if (!table) {
        virtio_device_error(vq->dev, "queue %u: %s", vq->index, what);
        return false;
    }
    *c = (struct cursor){.table = table, .count = count, .indirect = true};
    return true;
}

static bool add_segment(struct virtqueue *vq, struct virtq_chain *chain, const struct descriptor *d)
{
    unsigned n = chain->out + chain->in;
    bool writable = d->flags & DESC_WRITE;
    void *host = n < VIRTQ_MAX_SEGMENTS ? memory_span(vq->dev->memory, d->addr, d->len) : NULL;
    const char *what = NULL;
    if (n == VIRTQ_MAX_SEGMENTS)
        what = "too many buffers in a chain";
    else if (!host)
        what = "buffer is empty or not in RAM";
    else if (!writable && chain->in)
        what = "readable buffer after a writable one"; /* 2.7.4.2, 2.8.17 */
    else if (chain->out_bytes + chain->in_bytes + d->len > VIRTQ_MAX_BYTES)
        what = "chain is longer than 4 GiB";
    if (what) {
        virtio_device_error(vq->dev, "queue %u: %s (%#llx+%#x)", vq->index, what, (unsigned long long)d->addr,
                            d->len);
        return false;
    }
    chain->iov[n] = (struct iovec){.iov_base = host, .iov_len = d->len};
    chain->gpa[n] = d->addr;
    chain->len[n] = d->len;
    *(writable ? &chain->in : &chain->out) += 1;
    *(writable ? &chain->in_bytes : &chain->out_bytes) += d->len;
    return true;
}

/* Counts a descriptor of the ring itself. */
static bool count_entry(struct virtqueue *vq, struct virtq_chain *chain, const struct descriptor *d)
{
    if (packed(vq))
        chain->id = d->tag; /* that of the last one counts (2.8.6) */
    if (++chain->ring_entries <= vq->size)
        return true;
    virtio_device_error(vq->dev, "queue %u: chain is longer than the ring", vq->index);
    return false;
}

/*
 * Collects the chain that starts at ring position @head. Each turn adds a segment or enters the one
 * indirect table that a chain may have, so the segment limit bounds the loop.
 */
static bool gather(struct virtqueue *vq, u16 head, struct virtq_chain *chain)
{
    struct cursor c = {.table = ring_span(vq, vq->desc, desc_area_size(vq)), .count = vq->size, .pos = head};
    struct descriptor d;

    BUG_ON(head >= vq->size);
    chain->id = head;
    chain->ring_entries = 0;
    chain->out = chain->in = 0;
    chain->out_bytes = chain->in_bytes = 0;
    if (!c.table)
        return false;
    for (bool more = true; more;) {
        d = fetch(vq, &c);
        if (!c.indirect && !count_entry(vq, chain, &d))
            return false;
        /* In a packed ring's indirect table only WRITE means something (2.8.8). */
        if (d.flags & DESC_INDIRECT && !(packed(vq) && c.indirect)) {
            if (!enter_indirect(vq, &c, &d))
                return false;
            continue;
        }
        if (!add_segment(vq, chain, &d))
            return false;
        more = advance(vq, &c, &d);
    }
    if (!packed(vq))
        chain->ring_entries = 1; /* only the head is in the avail ring */
    return !(vq->dev->status & VIRTIO_STATUS_NEEDS_RESET);
}

/* --- taking --- */

static bool split_head(struct virtqueue *vq, u16 *head)
{
    u16 idx;
    if (!ring_load16(vq, vq->driver + 2, &idx))
        return false;
    u16 ready = (u16)(idx - vq->avail_idx);
    if (ready == 0)
        return false;
    if (ready > vq->size) {
        virtio_device_error(vq->dev, "queue %u: avail index jumped by %u", vq->index, ready);
        return false;
    }
    if (!ring_load16(vq, vq->driver + 4 + 2ull * (vq->avail_idx & (vq->size - 1)), head))
        return false;
    if (*head < vq->size)
        return true;
    virtio_device_error(vq->dev, "queue %u: avail ring names descriptor %u", vq->index, *head);
    return false;
}

/* Available means: AVAIL equals the wrap counter and USED does not (2.8.1). */
static bool packed_head(struct virtqueue *vq, u16 *head)
{
    u16 flags;
    if (!ring_load16(vq, vq->desc + (u64)DESC_SIZE * vq->avail_idx + 14, &flags))
        return false;
    *head = vq->avail_idx;
    return !!(flags & PACKED_AVAIL) == vq->avail_wrap && !!(flags & PACKED_USED) != vq->avail_wrap;
}

static bool next_head(struct virtqueue *vq, u16 *head)
{
    return packed(vq) ? packed_head(vq, head) : split_head(vq, head);
}

bool virtqueue_empty(struct virtqueue *vq)
{
    u16 head;
    return !vq->enabled || !virtio_running(vq->dev) || !next_head(vq, &head);
}

static bool doorbell_flags(struct virtqueue *vq, bool off)
{
    vq->doorbell_off = off;
    if (packed(vq))
        return ring_store16(vq, vq->device + 2, off ? EVENT_DISABLE : EVENT_ENABLE);
    return ring_store16(vq, vq->device, off ? SPLIT_NO_NOTIFY : 0);
}

/* With EVENT_IDX nothing is needed: the driver rings only when it passes the old event index. */
static bool want_no_doorbell(struct virtqueue *vq)
{
    return event_idx(vq) || vq->doorbell_off || doorbell_flags(vq, true);
}

/* Asks for a doorbell with the next chain that becomes available (2.7.10, 2.8.14). */
static bool want_doorbell(struct virtqueue *vq)
{
    bool ok = true;
    if (event_idx(vq) && packed(vq))
        ok = ring_store16(vq, vq->device, (u16)(vq->avail_idx | (vq->avail_wrap ? 0x8000 : 0))) &&
             ring_store16(vq, vq->device + 2, EVENT_DESC);
    else if (event_idx(vq))
        ok = ring_store16(vq, vq->device + 4 + 8ull * vq->size, vq->avail_idx);
    else if (vq->doorbell_off)
        ok = doorbell_flags(vq, false);
    full_fence(); /* rule 3 */
    return ok;
}

static void move_avail(struct virtqueue *vq, int entries)
{
    if (!packed(vq)) {
        vq->avail_idx = (u16)(vq->avail_idx + entries);
        return;
    }
    int pos = vq->avail_idx + entries;
    if (pos < 0 || pos >= vq->size) {
        pos += pos < 0 ? vq->size : -vq->size;
        vq->avail_wrap = !vq->avail_wrap;
    }
    vq->avail_idx = (u16)pos;
}

bool virtqueue_pop(struct virtqueue *vq, struct virtq_chain *chain)
{
    u16 head;
    if (!vq->enabled || !virtio_running(vq->dev))
        return false;
    bool found = next_head(vq, &head);
    if (!found && virtio_running(vq->dev) && want_doorbell(vq))
        found = next_head(vq, &head);
    if (!found)
        return false;
    if (!want_no_doorbell(vq) || !gather(vq, head, chain))
        return false;
    if (vq->in_flight + chain->ring_entries > vq->size) {
        virtio_device_error(vq->dev, "queue %u: more chains than ring entries", vq->index);
        return false;
    }
    vq->in_flight = (u16)(vq->in_flight + chain->ring_entries);
    move_avail(vq, chain->ring_entries);
    return true;
}

static void unpop(struct virtqueue *vq, u16 ring_entries)
{
    vq->in_flight = (u16)(vq->in_flight - ring_entries);
    move_avail(vq, -(int)ring_entries);
}

void virtqueue_unpop(struct virtqueue *vq, const struct virtq_chain *chain)
{
    unpop(vq, chain->ring_entries);
}

void virtqueue_unpop_all(struct virtqueue *vq, const struct virtq_taken *taken, unsigned n)
{
    while (n--)
        unpop(vq, taken[n].ring_entries);
}

/* --- giving back --- */

static void note_written(struct virtqueue *vq, const struct virtq_chain *chain, u64 written)
{
    for (unsigned i = chain->out; written && i < chain->out + chain->in; i++) {
        u64 n = MIN(written, (u64)chain->len[i]);
        memory_span_written(vq->dev->memory, chain->gpa[i], n);
        written -= n;
    }
}

static void split_push(struct virtqueue *vq, const struct virtq_taken *taken, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        u64 gpa = vq->device + 4 + 8ull * ((u16)(vq->used_idx + i) & (vq->size - 1));
        u8 *used = ring_span(vq, gpa, 8);
        if (!used)
            return;
        put_le32(used, taken[i].id);
        put_le32(used + 4, taken[i].written);
        memory_span_written(vq->dev->memory, gpa, 8);
    }
    vq->used_idx = (u16)(vq->used_idx + n);
    ring_store16(vq, vq->device + 2, vq->used_idx); /* publishes the entries */
}

/* Writes a used descriptor but for its flags: it overwrites one entry and stands for all of its chain
 * (2.8.6). */
static u8 *packed_fill(struct virtqueue *vq, const struct virtq_taken *t, u16 *flags)
{
    u8 *used = ring_span(vq, vq->desc + (u64)DESC_SIZE * vq->used_idx, DESC_SIZE);
    if (!used)
        return NULL;
    put_le32(used + 8, t->written);
    put_le16(used + 12, t->id);
    *flags = (u16)((vq->used_wrap ? PACKED_AVAIL | PACKED_USED : 0) | (t->written ? DESC_WRITE : 0));
    vq->used_idx = (u16)(vq->used_idx + t->ring_entries);
    if (vq->used_idx >= vq->size) {
        vq->used_idx = (u16)(vq->used_idx - vq->size);
        vq->used_wrap = !vq->used_wrap;
    }
    return used;
}

/* The driver looks at the first of them first: its flags publish the rest. */
static void packed_push(struct virtqueue *vq, const struct virtq_taken *taken, unsigned n)
{
    u8 *first = NULL;
    u16 first_flags = 0, first_at = vq->used_idx;
    for (unsigned i = 0; i < n; i++) {
        u16 flags, at = vq->used_idx;
        u8 *used = packed_fill(vq, &taken[i], i ? &flags : &first_flags);
        if (!used)
            return;
        if (i == 0) {
            first = used;
            continue;
        }
        put_le16(used + 14, flags);
        memory_span_written(vq->dev->memory, vq->desc + (u64)DESC_SIZE * at, DESC_SIZE);
    }
    __atomic_store_n((u16 *)(void *)(first + 14), first_flags, __ATOMIC_RELEASE);
    memory_span_written(vq->dev->memory, vq->desc + (u64)DESC_SIZE * first_at, DESC_SIZE);
}

struct virtq_taken virtqueue_taken(struct virtqueue *vq, const struct virtq_chain *chain, u64 written)
{
    written = MIN(written, chain->in_bytes);
    note_written(vq, chain, written);
    return (struct virtq_taken){chain->id, chain->ring_entries, (u32)MIN(written, (u64)UINT32_MAX)};
}

void virtqueue_push_all(struct virtqueue *vq, const struct virtq_taken *taken, unsigned n)
{
    unsigned entries = 0;
    for (unsigned i = 0; i < n; i++)
        entries += taken[i].ring_entries;
    if (n == 0 || !vq->enabled || vq->in_flight < entries)
        return;
    vq->in_flight = (u16)(vq->in_flight - entries);
    if (!virtio_running(vq->dev))
        return;
    if (packed(vq))
        packed_push(vq, taken, n);
    else
        split_push(vq, taken, n);
    vq->unsignalled += packed(vq) ? entries : n;
}

void virtqueue_push(struct virtqueue *vq, const struct virtq_chain *chain, u64 written)
{
    const struct virtq_taken taken = virtqueue_taken(vq, chain, written);
    virtqueue_push_all(vq, &taken, 1);
}

/* --- interrupt suppression --- */

/* Did the used index go past @event on its way to @now, @added steps long (2.7.7.1)? */
static bool passed(u16 event, u16 now, u16 added)
{
    return (u16)(now - event - 1) < added;
}

static bool split_wants_interrupt(struct virtqueue *vq)
{
    u16 value;
    if (event_idx(vq))
        return ring_load16(vq, vq->driver + 4 + 2ull * vq->size, &value) &&
               passed(value, vq->used_idx, (u16)vq->unsignalled);
    return ring_load16(vq, vq->driver, &value) && !(value & SPLIT_NO_INTERRUPT);
}

static bool packed_wants_interrupt(struct virtqueue *vq)
{
    u16 flags, event;
    if (!ring_load16(vq, vq->driver + 2, &flags))
        return false;
    if (flags != EVENT_DESC || !event_idx(vq))
        return flags != EVENT_DISABLE;
    if (!ring_load16(vq, vq->driver, &event))
        return false;
    u16 pos = event & 0x7fff;
    if (!!(event & 0x8000) != vq->used_wrap)
        pos = (u16)(pos - vq->size); /* it is in the round before this one */
    return passed(pos, vq->used_idx, (u16)vq->unsignalled);
}

void virtqueue_notify(struct virtqueue *vq)
{
    if (!vq->unsignalled || !vq->enabled || !virtio_running(vq->dev))
        return;
    full_fence(); /* rule 3 */
    bool wanted = packed(vq) ? packed_wants_interrupt(vq) : split_wants_interrupt(vq);
    /* More than a whole ring has gone by: the comparison of indexes says nothing any more. */
    wanted = wanted || vq->unsignalled > vq->size;
    vq->unsignalled = 0;
    if (!wanted || !virtio_running(vq->dev))
        return;
    vq->dev->counters.virtio_irqs++;
    vq->dev->transport->queue_interrupt(vq->dev, vq);
}

/* --- iovec copies --- */

static const struct field virtqueue_fields[] = {
    FIELD(struct virtqueue, size),         FIELD(struct virtqueue, msix_vector),
    FIELD(struct virtqueue, desc),         FIELD(struct virtqueue, driver),
    FIELD(struct virtqueue, device),       FIELD(struct virtqueue, enabled),
    FIELD(struct virtqueue, avail_idx),    FIELD(struct virtqueue, used_idx),
    FIELD(struct virtqueue, avail_wrap),   FIELD(struct virtqueue, used_wrap),

    FIELD(struct virtqueue, doorbell_off), FIELD_END,
};

const struct state_desc virtqueue_state = {.name = "virtqueue", .version = 1, .fields = virtqueue_fields};
