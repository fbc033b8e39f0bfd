/*
 * The cache of decoded blocks: one for each vCPU, so without locks. Blocks lie in an arena, one after the
 * other, and are found by guest-physical address and mode. When the arena is full everything is dropped.
 *
 * Rules
 * 1. A block is made from a copy of its bytes, and the order is: read the page's generation, mark the page
 *    as code, copy. A write that comes between any two of these changes the generation (memory.h), so
 *    that the block is found stale at once.
 * 2. A stale block whose page still holds the same bytes is good again: that is how pages with code and
 *    data together keep their blocks. Rule 1's order applies to the comparison as well.
 *    Lines are marked once the block's length is known, and its bytes are compared after that.
 * 3. A page that is written again and again without being executed is given up: its mark is taken off
 *    (which changes the generation), and the next block made from it marks it again.
 */
#include "soft/interpret/interpret-internal.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/mapping.h"

#define ARENA_SIZE (64u << 20) /* of addresses; p->arena_size of it are used */
#define WRITES_BEFORE_UNMARK 32
#define WRITES_BESIDE 64u /* writes beside code are worth one to it */
#define BLOCK_MAX_BYTES (BLOCK_MAX_INSNS * 15u)
#define BLOCK_MAX_SIZE \
    (sizeof(struct block) + (BLOCK_MAX_INSNS + 1) * sizeof(struct insn) + BLOCK_MAX_BYTES + 16)

int block_cache_init(struct interpret_private *p, struct error *err)
{
    p->hash = calloc(1u << BLOCK_HASH_BITS, sizeof(*p->hash));
    p->scratch = calloc(1, BLOCK_MAX_SIZE);
    if (!p->hash || !p->scratch)
        return error_set(err, ENOMEM, "no memory for the block cache");
    p->arena = mapping_huge(ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, -1);
    if (p->arena == MAP_FAILED) {
        p->arena = NULL;
        return error_set_errno(err, errno, "cannot map the block cache");
    }
    p->arena_size = ARENA_SIZE;
    return 0;
}

void block_cache_release(struct interpret_private *p)
{
    if (p->arena)
        munmap(p->arena, ARENA_SIZE);
    free(p->hash);
    free(p->scratch);
}

/* Drops every block, and with them the stubs on the host when those need room. */
void block_cache_flush(struct soft_cpu *c)
{
    struct interpret_private *p = c->interpret;
    trace(block, "cpu%u drops %zu bytes of blocks", c->vcpu->index, p->arena_used);
    memset(p->hash, 0, sizeof(*p->hash) << BLOCK_HASH_BITS);
    p->arena_used = 0;
    p->epoch++;
    if (native_cache_full(p->native))
        native_cache_reset(p->native);
}

/* A block to be decoded finds room for itself and for its stubs. */
static void make_room(struct soft_cpu *c)
{
    struct interpret_private *p = c->interpret;
    if (p->arena_used + BLOCK_MAX_SIZE > p->arena_size || native_cache_full(p->native))
        block_cache_flush(c);
}

static u64 hash_of(u64 gpa, u32 mode)
{
    return (gpa ^ (u64)mode << 40) * 0x9e3779b97f4a7c15ull;
}

static struct block **bucket(struct interpret_private *p, u64 gpa, u32 mode)
{
    return &p->hash[hash_of(gpa, mode) >> (64 - BLOCK_HASH_BITS)];
}

u8 *block_heat(struct soft_cpu *c, u64 gpa, u32 mode)
{
    return &c->interpret->heat[hash_of(gpa, mode) >> (64 - BLOCK_HEAT_BITS)];
}

/* Takes the block out of the hash: whoever finds it good puts it back in front. */
static struct block *take(struct soft_cpu *c, u64 gpa, u32 mode)
{
    for (struct block **p = bucket(c->interpret, gpa, mode); *p; p = &(*p)->next)
        if ((*p)->gpa == gpa && (*p)->mode == mode) {
            struct block *b = *p;
            *p = b->next;
            return b;
        }
    return NULL;
}

static void put(struct interpret_private *p, struct block *b)
{
    struct block **head = bucket(p, b->gpa, b->mode);
    b->next = *head;
    *head = b;
}

/* --- tracking --- */

/*
 * The page at RAM offset @off holds code from now on: nobody keeps a direct write mapping (cpu/engine.h). A
 * vCPU that comes while another is about to see to that does so itself: it must not decode before.
 */
static void mark_code(struct soft_cpu *c, u64 gpa, u64 off)
{
    struct vm *vm = c->vcpu->vm;
    if (!memory_mark_code(vm->memory, off))
        return;
    soft_tlb_protect(c, gpa);
    bool others_run = vm->vcpu_count > 1 && !c->lockstep; /* in lock-step they are held already */
    if (others_run)
        vm_exclusive_begin(vm, c->vcpu);
    for (unsigned n = 0; n < vm->vcpu_count; n++)
        if (vm->vcpus[n] != c->vcpu)
            vcpu_request(vm->vcpus[n], VCPU_REQ_FLUSH_TLB);
    memory_guard_code(vm->memory, off);
    if (others_run)
        vm_exclusive_end(vm, c->vcpu);
}

static struct written_page *written_page(struct interpret_private *p, u64 off)
{
    return &p->written[(off >> PAGE_SHIFT) % WRITTEN_PAGES];
}

void soft_code_written(struct soft_cpu *c, u64 off, bool hit)
{
    struct written_page *w = written_page(c->interpret, off);
    u64 page = off & PAGE_MASK;
    if (w->page != page) {
        *w = (struct written_page){.page = page, .limit = WRITES_BEFORE_UNMARK * WRITES_BESIDE};
        return;
    }
    w->writes += hit ? WRITES_BESIDE : 1;
    if (w->writes < w->limit)
        return;
    memory_unmark_code(c->vcpu->vm->memory, page);
    w->writes = 0;
    w->limit =
        MIN(w->limit * 2, WRITES_BESIDE << 20); /* if it comes back as code, be slower to give it up again */
}

/* Code of the page at @off is executed again: what was written before does not count. */
static void note_executed(struct interpret_private *p, u64 off)
{
    struct written_page *w = written_page(p, off);
    if (w->page == (off & PAGE_MASK))
        w->writes = 0;
}

/* --- making blocks --- */

static void raise_fetch_fault(struct soft_cpu *c, u64 la)
{
    c->insn_rip = c->s->rip;
    soft_fetch_gpa(c, la);
}

static u64 next_page(const struct soft_cpu *c, u64 la)
{
    la = (la & PAGE_MASK) + PAGE_SIZE;
    return c->mode & SOFT_MODE_CODE64 ? la : (u32)la;
}

/* Code that is not RAM: one instruction, decoded anew each time. Never linked, since gpa2 is set. */
static struct block *uncached(struct soft_cpu *c, u64 la, u64 gpa, u32 mode)
{
    struct block *b = c->interpret->scratch;
    u8 *bytes = (u8 *)&b->insn[2];
    make_room(c);
    unsigned len = soft_fetch(c, la, bytes, 15);
    *b = (struct block){.gpa = gpa, .mode = mode};
    if (decode_block(c, b, bytes, len, 1, mode, len == 15))
        return b;
    raise_fetch_fault(c, next_page(c, la));
    decode_block(c, b, bytes, len, 1, mode,
                 true); /* the next page appeared just now: undecodable this once */
    return b;
}

/* Rule 1: page @off becomes code, of it @len bytes from @off on if it is known; its generation from before.
 */
static u32 track(struct soft_cpu *c, u64 gpa, u64 off, unsigned len)
{
    u32 gen = memory_code_gen(c->vcpu->vm->memory, off);
    mark_code(c, gpa, off);
    if (len)
        memory_mark_lines(c->vcpu->vm->memory, off, len);
    note_executed(c->interpret, off);
    return gen;
}

static struct block *reserve(struct soft_cpu *c, u64 gpa, u32 mode)
{
    struct interpret_private *p = c->interpret;
    make_room(c);
    struct block *b = (struct block *)(p->arena + p->arena_used);
    *b = (struct block){.gpa = gpa, .gpa2 = BLOCK_NO_PAGE, .mode = mode};
    return b;
}

/* Gives the block its final size, with its bytes behind its instructions, and enters it into the hash. */
static void commit(struct soft_cpu *c, struct block *b, const u8 *bytes)
{
    struct interpret_private *p = c->interpret;
    u8 *copy = (u8 *)&b->insn[b->count + 1];
    memmove(copy, bytes, b->len);
    b->bytes = copy;
    put(p, b);
    p->arena_used += ALIGN_UP((size_t)(copy + b->len - (u8 *)b), 64);
    c->vcpu->counters.blocks_decoded++;
    trace(block, "cpu%u block at gpa 0x%lx mode 0x%x: %u instructions, %u bytes", c->vcpu->index, b->gpa,
          b->mode, b->count, b->len);
}

#define STALE (1u << 31) /* from what a generation can be */

/* Rule 1 for the lines of a block, of which @len bytes are at @off: a write before this may not be noted. */
static void mark_lines(struct soft_cpu *c, struct block *b, u64 off, const u8 *bytes, unsigned len)
{
    struct memory *m = c->vcpu->vm->memory;
    memory_mark_lines(m, off, len);
    if (memcmp(bytes, m->ram + off, len) != 0)
        b->gen += STALE;
}

/* The instruction at @la goes on in the next page. Raises #PF for that one. */
static struct block *make_crossing(struct soft_cpu *c, struct block *b, u64 la, u64 off, u8 *bytes,
                                   unsigned avail)
{
    struct memory *m = c->vcpu->vm->memory;
    c->insn_rip = c->s->rip;
    u64 gpa2 = soft_fetch_gpa(c, next_page(c, la));
    i64 off2 = memory_ram_offset(m, gpa2);
    if (off2 < 0)
        return uncached(c, la, b->gpa, b->mode);
    b->gpa2 = gpa2;
    b->gen_now2 = &m->page_gen[off2 >> PAGE_SHIFT];
    b->gen2 = track(c, gpa2, (u64)off2, 0);
    memcpy(bytes + avail, m->ram + off2, 16 - avail);
    decode_block(c, b, bytes, 16, 1, b->mode, true);
    mark_lines(c, b, off, bytes, MIN(avail, b->len));
    if (b->len > avail) {
        memory_mark_lines(m, (u64)off2, b->len - avail);
        if (memcmp(bytes + avail, m->ram + off2, b->len - avail) != 0)
            b->gen2 += STALE;
    }
    commit(c, b, bytes);
    return b;
}

static struct block *make(struct soft_cpu *c, u64 la, u64 gpa, u64 off, u32 mode)
{
    struct memory *m = c->vcpu->vm->memory;
    struct block *b = reserve(c, gpa, mode);
    u8 *bytes = (u8 *)&b->insn[BLOCK_MAX_INSNS + 1];
    unsigned avail = (unsigned)MIN(PAGE_SIZE - (gpa & ~PAGE_MASK), (u64)BLOCK_MAX_BYTES);
    b->gen_now = &m->page_gen[off >> PAGE_SHIFT];
    b->gen = track(c, gpa, off, 0);
    memcpy(bytes, m->ram + off, avail);
    if (!decode_block(c, b, bytes, avail, mode & BLOCK_SINGLE ? 1 : c->interpret->max_insns, mode, false))
        return make_crossing(c, b, la, off, bytes, avail);
    mark_lines(c, b, off, bytes, b->len);
    commit(c, b, bytes);
    return b;
}

/* --- finding blocks --- */

/* Rule 2. @off, @off2: of the first byte and of the second page. */
static bool revalidate(struct soft_cpu *c, struct block *b, u64 off, u64 off2)
{
    const u8 *ram = c->vcpu->vm->memory->ram;
    unsigned first = b->len;
    u32 gen2 = 0;
    if (b->gpa2 != BLOCK_NO_PAGE) {
        first = (unsigned)(PAGE_SIZE - (b->gpa & ~PAGE_MASK));
        gen2 = track(c, b->gpa2, off2, b->len - first);
        if (memcmp(b->bytes + first, ram + off2, b->len - first) != 0)
            return false;
    }
    u32 gen = track(c, b->gpa, off, first);
    if (memcmp(b->bytes, ram + off, first) != 0)
        return false;
    b->gen = gen;
    b->gen2 = gen2;
    return true;
}

/* Is @b, which was made from what is at @la, (still, or again) what the guest has there? */
static bool usable(struct soft_cpu *c, struct block *b, u64 la, u64 off)
{
    u64 off2 = 0;
    bool valid = block_valid(b);
    if (b->gpa2 != BLOCK_NO_PAGE) {
        c->insn_rip = c->s->rip;
        if (soft_fetch_gpa(c, next_page(c, la)) != b->gpa2)
            return false;
        off2 = (u64)memory_ram_offset(c->vcpu->vm->memory, b->gpa2);
        valid = valid && atomic_load_explicit(b->gen_now2, memory_order_acquire) == b->gen2;
    }
    return valid || revalidate(c, b, off, off2);
}

static NOINLINE struct block *get_slow(struct soft_cpu *c, u64 la, u64 gpa, u32 mode)
{
    i64 off = memory_ram_offset(c->vcpu->vm->memory, gpa);
    if (off < 0 || c->interpret->uncached)
        return uncached(c, la, gpa, mode);
    struct block *b = take(c, gpa, mode);
    if (!b)
        return make(c, la, gpa, (u64)off, mode);
    if (usable(c, b, la, (u64)off)) {
        put(c->interpret, b);
        return b;
    }
    c->vcpu->counters.blocks_invalidated++;
    *block_heat(c, gpa, mode) = 0;
    return make(c, la, gpa, (u64)off, mode);
}

bool block_usable(struct soft_cpu *c, struct block *b, u64 la)
{
    if (likely(b->gpa2 == BLOCK_NO_PAGE && block_valid(b)))
        return true;
    return !c->interpret->uncached && usable(c, b, la, (u64)memory_ram_offset(c->vcpu->vm->memory, b->gpa));
}

struct block_place block_place(struct soft_cpu *c)
{
    u64 la = c->s->rip;
    if (!(c->mode & SOFT_MODE_CODE64)) {
        const struct x86_segment *cs = &c->s->seg[X86_CS];
        if (unlikely(la > cs->limit)) {
            c->insn_rip = la;
            soft_gp0(c);
        }
        la = (u32)(la + cs->base);
    }
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (likely(e->exec == ((la & PAGE_MASK) | c->ctx)))
        return (struct block_place){la, (e->gpa & PAGE_MASK) | (la & ~PAGE_MASK)};
    c->insn_rip = c->s->rip;
    return (struct block_place){la, soft_fetch_gpa(c, la)};
}

struct block *block_get(struct soft_cpu *c, u32 single)
{
    struct block_place at = block_place(c);
    u64 la = at.la, gpa = at.gpa;
    struct block *b = *bucket(c->interpret, gpa, c->mode | single);
    if (likely(b && b->gpa == gpa && b->mode == (c->mode | single) && b->gpa2 == BLOCK_NO_PAGE &&
               block_valid(b)))
        return b;
    return get_slow(c, la, gpa, c->mode | single);
}
