/*
 * The tables of the code cache: regions of memory and what is found how (T6, T7, T10).
 *
 * New code goes into one region until that is full, and then into the next, whose code was the oldest and
 * goes. So what is evicted at once is bounded, and nothing has to be moved or counted while code runs. The
 * vCPUs are stopped for that: none executes code, or is in a handler from which it will return to code (T18).
 */
#include "base/mapping.h"
#include "soft/translate/translate-internal.h"

/* --- numbers --- */

u32 translation_number(const struct translate_vm *v, const struct translation *code)
{
    return (u32)((size_t)((const u8 *)code - v->arena) / TRANSLATION_UNIT) + 1;
}

struct translation *translation_at(const struct translate_vm *v, u32 number)
{
    return (struct translation *)(v->arena + (size_t)(number - 1) * TRANSLATION_UNIT);
}

/* --- by guest-physical address and mode --- */

static u64 key_of(u64 gpa, u32 mode)
{
    return gpa ^ (u64)mode << 52;
}

static struct translation **bucket(struct translate_vm *v, u64 gpa, u32 mode)
{
    return &v->hash[key_of(gpa, mode) * 0x9e3779b97f4a7c15ull >> (64 - TRANSLATION_HASH_BITS)];
}

struct translation *translation_find(struct translate_vm *v, u64 gpa, u32 mode)
{
    struct translation *code = *bucket(v, gpa, mode);
    while (code && code->key != key_of(gpa, mode))
        code = code->same_hash;
    return code;
}

static void take_out(struct translate_vm *v, struct translation *code)
{
    struct translation **p = bucket(v, code->block->gpa, code->block->mode);
    while (*p && *p != code)
        p = &(*p)->same_hash;
    if (*p)
        *p = code->same_hash;
}

/* Code that is spread over a few MiB misses the TLB for instructions too often on small pages. */
static void make_huge(struct translate_vm *v)
{
    size_t wanted = (size_t)(v->emit.at - v->code) + TRANSLATE_TRACE_CODE;
    for (; v->huge < wanted && v->huge + MAPPING_HUGE <= v->code_size; v->huge += MAPPING_HUGE) {
        mapping_make_huge(v->code + v->huge);
        mapping_make_huge(v->code + v->huge + v->emit.to_exec);
    }
}

struct translation *translation_new(struct translate_vm *v, const struct block *b)
{
    make_huge(v);
    struct code_region *r = code_region(v);
    struct translation *code = (struct translation *)(v->arena + r->arena_used);
    struct block *from = (struct block *)(code + 1);
    u8 *bytes = (u8 *)(from + 1);
    size_t size = ALIGN_UP((size_t)(bytes + b->len - (u8 *)code), TRANSLATION_UNIT);
    r->arena_used += size;
    *code = (struct translation){
        .key = key_of(b->gpa, b->mode), .block = from, .units = (u32)(size / TRANSLATION_UNIT)};
    memcpy(from, b, sizeof *b);
    memcpy(bytes, b->bytes, b->len);
    from->bytes = bytes;
    return code;
}

/* --- links (T6) --- */

void exit_link(struct translate_vm *v, u32 number, struct translation *code)
{
    struct translate_exit *x = &v->exits[number];
    emit_patch_target(v->code + x->patch, code->entry[x->entry]);
    x->to = translation_number(v, code);
    x->next = code->links;
    code->links = number;
}

/* What leads to @from, whose bytes are gone, leads to @to. */
static void move_links(struct translate_vm *v, struct translation *from, struct translation *to)
{
    u32 next;
    for (u32 n = from->links; n; n = next) {
        next = v->exits[n].next;
        exit_link(v, n, to);
    }
    from->links = 0;
}

static void unlink_all(struct translate_vm *v, struct translation *code)
{
    u32 next;
    for (u32 n = code->links; n; n = next) {
        struct translate_exit *x = &v->exits[n];
        next = x->next;
        emit_patch_target(v->code + x->patch, v->code + x->unlinked);
        x->to = 0;
    }
    code->links = 0;
}

/* The exit is about to go. */
static void forget_link(struct translate_vm *v, u32 number)
{
    const struct translate_exit *x = &v->exits[number];
    if (!x->to)
        return;
    u32 *p = &translation_at(v, x->to)->links;
    while (*p != number)
        p = &v->exits[*p].next;
    *p = x->next;
}

void translation_enter(struct translate_vm *v, struct translation *code)
{
    struct translation **head = bucket(v, code->block->gpa, code->block->mode);
    struct translation *old = translation_find(v, code->block->gpa, code->block->mode);
    if (old) {
        move_links(v, old, code);
        take_out(v, old);
        code->record = old->record;
    }
    code->same_hash = *head;
    *head = code;
}

/* --- by linear address (T7) --- */

void forget_addresses(struct translate_cpu *t)
{
    struct translate_vm *v = t->vm;
    memset(t->jump_cache, 0, sizeof t->jump_cache);
    lock_acquire(&v->lock);
    for (u32 k = 0; k < v->region_count; k++)
        for (u32 n = v->regions[k].slots; n < v->regions[k].slots_used; n++)
            t->slots[n].key = 0;
    lock_drop(&v->lock);
    t->soft.shadow_sp = t->soft.shadow_top;
    t->map_epoch = t->soft.map_epoch;
}

/* Where code is looked for: the emitted lookups do the same (emit_cache_index(), emit_lookup()). */
struct jump_cache_entry *jump_cache_entry(struct translate_cpu *t, u64 la)
{
    return &t->jump_cache[(la ^ (u32)la >> 12) >> 2 & (ARRAY_SIZE(t->jump_cache) - 1)];
}

struct code_cache_entry *code_cache_entry(struct translate_cpu *t, u64 key)
{
    return &t->code_cache[(key ^ key >> 12) & (ARRAY_SIZE(t->code_cache) - 1)];
}

/* --- handlers' instructions (T4) --- */

static H(handler_end)
{
    s->rip = insn_rip(c, i);
    DONE;
}

static void decode_handler_insn(struct translate_cpu *t, struct handler_insn *h, u32 id)
{
    lock_acquire(&t->vm->lock);
    const struct block *b = translation_at(t->vm, id >> PAGE_SHIFT)->block;
    lock_drop(&t->vm->lock);
    i32 off = (i32)(id & (PAGE_SIZE - 1)) - (i32)(b->gpa & ~PAGE_MASK); /* T17: may be before the start */
    u8 room[sizeof(struct block) + 2 * sizeof(struct insn)] ALIGNED(8);
    struct block *one = (struct block *)room;
    *one = (struct block){.gpa = b->gpa + (u64)(i64)off};
    decode_block(&t->soft, one, b->bytes + off, (unsigned)MIN(b->len - off, 15), 1, b->mode, true);
    h->id = id;
    h->epoch = t->handler_epoch;
    h->insn[0] = one->insn[0];
    if (h->insn[0].flags & INSN_BRANCH)
        h->insn[0].link = NULL;
    h->insn[1] = (struct insn){.fn = handler_end, .off = h->insn[0].len};
}

struct handler_insn *handler_insn(struct translate_cpu *t, u32 id)
{
    struct handler_insn *h = &t->handler_insn[(id ^ id >> PAGE_SHIFT) & (ARRAY_SIZE(t->handler_insn) - 1)];
    if (unlikely(t->handler_blocks != t->soft.interpret->epoch)) {
        t->handler_epoch++;
        t->handler_blocks = t->soft.interpret->epoch;
    }
    if (unlikely(h->id != id || h->epoch != t->handler_epoch)) {
        t->soft.vcpu->counters.handler_decodes++;
        if (native_cache_full(t->soft.interpret->native))
            block_cache_flush(&t->soft);
        decode_handler_insn(t, h, id);
    }
    return h;
}

/* --- regions (T10) --- */

struct code_region *code_region(struct translate_vm *v)
{
    return &v->regions[v->region];
}

static bool room_for(struct translate_vm *v, u32 code, u32 arena, u32 exits)
{
    const struct code_region *r = code_region(v);
    return v->emit.at + code <= r->code_end && r->arena_used + arena <= r->arena_end &&
           r->exits_used + exits <= (v->region + 1) * (TRANSLATE_EXITS_MAX / v->region_count) &&
           r->slots_used + exits <= (v->region + 1) * (TRANSLATE_SLOTS_MAX / v->region_count);
}

bool code_room(struct translate_vm *v)
{
    return room_for(v, TRANSLATE_BLOCK_CODE, TRANSLATE_BLOCK_ARENA, TRANSLATE_BLOCK_EXITS);
}

bool code_room_for_trace(struct translate_vm *v)
{
    return room_for(v, TRANSLATE_TRACE_CODE, TRANSLATE_TRACE_ARENA, TRANSLATE_TRACE_EXITS);
}

static bool in_region(const struct translate_vm *v, const struct code_region *r, const void *code)
{
    const u8 *at = (const u8 *)code - v->emit.to_exec;
    return at >= r->code && at < r->code_end;
}

/* The code of the region can be found by no address any more, and no handler returns to it. */
static void forget_found(struct translate_cpu *t, const struct code_region *r)
{
    const struct translate_vm *v = t->vm;
    for (unsigned n = 0; n < ARRAY_SIZE(t->jump_cache); n++)
        if (in_region(v, r, t->jump_cache[n].code))
            t->jump_cache[n] = (struct jump_cache_entry){0};
    for (u32 k = 0; k < v->region_count; k++)
        for (u32 n = v->regions[k].slots; n < v->regions[k].slots_used; n++)
            if (in_region(v, r, t->slots[n].code))
                t->slots[n] = (struct translate_slot){0};
    memset(&t->slots[r->slots], 0, (r->slots_used - r->slots) * sizeof t->slots[0]);
    t->soft.shadow_sp = t->soft.shadow_top;
    t->handler_epoch++;
    trace_forget_code(t);
    t->soft.stop_block = true;
}

static void forget_key(struct translate_cpu *t, const struct code_region *r, u64 key)
{
    struct code_cache_entry *e = code_cache_entry(t, key);
    if (in_region(t->vm, r, e->code))
        *e = (struct code_cache_entry){.key = ~0ull};
}

static void forget_translation(struct translate_vm *v, const struct code_region *r, struct translation *code)
{
    for (unsigned n = 0; n < v->vm->vcpu_count; n++)
        if (v->vm->vcpus[n]->engine_data)
            forget_key(v->vm->vcpus[n]->engine_data, r, code->key);
    unlink_all(v, code);
    take_out(v, code);
    if (!code->link)
        return;
    *code->link = code->next;
    if (code->next)
        code->next->link = code->link;
}

static void evict(struct translate_vm *v, struct code_region *r)
{
    if (r->arena_used == r->arena)
        return;
    v->evictions++;
    for (u32 n = r->exits; n < r->exits_used; n++)
        forget_link(v, n);
    struct translation *code;
    for (size_t at = r->arena; at < r->arena_used; at += (size_t)code->units * TRANSLATION_UNIT) {
        code = (struct translation *)(v->arena + at);
        forget_translation(v, r, code);
    }
    for (unsigned n = 0; n < v->vm->vcpu_count; n++)
        if (v->vm->vcpus[n]->engine_data)
            forget_found(v->vm->vcpus[n]->engine_data, r);
    r->arena_used = r->arena;
    atomic_store(&r->by_address_used, 0);
    r->exits_used = r->exits;
    r->slots_used = r->slots;
}

static void start_region(struct translate_vm *v, u32 n)
{
    evict(v, &v->regions[n]);
    v->region = n;
    v->emit.at = v->regions[n].code;
    v->emit.end = v->regions[n].code_end;
}

void code_next_region(struct translate_vm *v)
{
    start_region(v, (v->region + 1) % v->region_count);
}

bool code_next_empty(struct translate_vm *v)
{
    const struct code_region *next = &v->regions[(v->region + 1) % v->region_count];
    if (next->arena_used != next->arena)
        return false;
    code_next_region(v);
    return true;
}

static u32 regions_of(size_t size)
{
    size_t fit = size / (4 * TRANSLATE_BLOCK_CODE);
    return fit < 2 ? 2 : (u32)MIN(fit, (size_t)REGIONS_MAX);
}

void code_regions_init(struct translate_vm *v)
{
    size_t code_size = v->code_size - (size_t)(v->after_thunks - v->code);
    u32 count = v->region_count = regions_of(code_size);
    for (u32 n = 0; n < count; n++) {
        struct code_region *r = &v->regions[n];
        r->code = v->after_thunks + ALIGN_DOWN(code_size / count, 64) * n;
        r->code_end = r->code + ALIGN_DOWN(code_size / count, 64);
        r->arena = r->arena_used = ALIGN_DOWN(v->arena_size / count, TRANSLATION_UNIT) * n;
        r->arena_end = r->arena + ALIGN_DOWN(v->arena_size / count, TRANSLATION_UNIT);
        r->by_address = v->by_address + translations_in(v->arena_size) / count * n;
        r->exits = r->exits_used = MAX(n * (TRANSLATE_EXITS_MAX / count), 1u); /* 0 is none */
        r->slots = r->slots_used = n * (TRANSLATE_SLOTS_MAX / count);
    }
    start_region(v, 0);
}
