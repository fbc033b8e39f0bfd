/*
 * String instructions. One handler per operation and size does the instruction with any prefix; the work
 * is done in pieces: `step` functions do one iteration, and where a repeat runs upwards over RAM a page
 * at a time goes through memcpy() or memset(). A repeat can be interrupted between pieces: then rip stays
 * at the instruction and its registers say how far it came.
 */
#include "soft/interpret/handlers.h"

/* Iterations between two looks at the requests. */
#define CHUNK 4096

struct string_op {
    unsigned size;   /* of an element */
    unsigned amount; /* address size */
    i64 delta;       /* by which an index register moves */
};

static struct string_op string_begin(struct soft_cpu *c, struct insn *i, struct x86_state *s)
{
    state_publish(c, i, s);
    return (struct string_op){i->size, i->addr_size, s->rflags & X86_DF ? -(i64)i->size : i->size};
}

static ALWAYS_INLINE u64 source(struct soft_cpu *c, const struct insn *i, struct x86_state *s, unsigned size)
{
    return segment_linear(c, s, i->seg, reg_get(s, R_SI, i->addr_size), size, SOFT_READ);
}

static ALWAYS_INLINE u64 destination(struct soft_cpu *c, const struct insn *i, struct x86_state *s,
                                     unsigned size, enum soft_access access)
{
    return segment_linear(c, s, X86_ES, reg_get(s, R_DI, i->addr_size), size, access);
}

static ALWAYS_INLINE void move_index(struct x86_state *s, unsigned r, const struct string_op *o, i64 by)
{
    reg_set(s, r, reg_get(s, r, o->amount) + (u64)by, o->amount);
}

/*
 * How many iterations can be done at once upwards from index register value @off: up to the end of the
 * page (@room bytes) and not beyond where the address wraps.
 */
static u64 run_length(const struct string_op *o, u64 count, unsigned room, u64 off)
{
    u64 n = MIN(count, (u64)room / o->size);
    if (o->amount < 8)
        n = MIN(n, (MASK(o->amount * 8) - off + 1) / o->size);
    return n;
}

/* The same downwards, where the element at @la is the highest one; 0 where that goes over the page's end. */
static u64 run_length_down(const struct string_op *o, u64 count, u64 la, u64 off)
{
    u64 at = la & ~PAGE_MASK;
    if (at + o->size > PAGE_SIZE)
        return 0;
    u64 n = MIN(count, at / o->size + 1);
    return o->amount < 8 ? MIN(n, off / o->size + 1) : n;
}

/* Whole pages at a time only where nothing but the paging can object. */
static bool bulk_possible(const struct soft_cpu *c, const struct insn *i)
{
    return (c->mode & (SOFT_MODE_CODE64 | SOFT_MODE_FLAT)) &&
           (i->seg < X86_FS || (c->mode & SOFT_MODE_CODE64));
}

/* As the CPU does it, an element after the other upwards: bytes written are read again where areas overlap.
 */
static void copy_forward(u8 *to, const u8 *from, u64 len, unsigned size)
{
    if (to <= from || to >= from + len) {
        memmove(to, from, len);
        return;
    }
    for (u64 n = 0; n < len; n += size) {
        u64 v = 0;
        memcpy(&v, from + n, size);
        memcpy(to + n, &v, size);
    }
}

/* The same downwards; @to and @from are the lowest elements. */
static void copy_backward(u8 *to, const u8 *from, u64 len, unsigned size)
{
    if (to >= from || to + len <= from) {
        memmove(to, from, len);
        return;
    }
    for (u64 n = len; n; n -= size) {
        u64 v = 0;
        memcpy(&v, from + n - size, size);
        memcpy(to + n - size, &v, size);
    }
}

static u64 movs_down(struct soft_cpu *c, struct insn *i, struct x86_state *s, const struct string_op *o,
                     u64 count)
{
    unsigned room;
    u64 src = source(c, i, s, o->size), dst = destination(c, i, s, o->size, SOFT_WRITE);
    u64 n = MIN(run_length_down(o, count, src, reg_get(s, R_SI, o->amount)),
                run_length_down(o, count, dst, reg_get(s, R_DI, o->amount)));
    const u8 *from = n ? soft_page_ptr(c, src, SOFT_READ, &room) : NULL;
    u8 *to = from ? soft_page_ptr(c, dst, SOFT_WRITE, &room) : NULL;
    if (!to)
        return 0;
    u64 below = (n - 1) * o->size;
    copy_backward(to - below, from - below, n * o->size, o->size);
    move_index(s, R_SI, o, -(i64)(n * o->size));
    move_index(s, R_DI, o, -(i64)(n * o->size));
    return n;
}

/* MOVS of up to @count elements at once; 0 when this is to be done one by one. */
static u64 movs_bulk(struct soft_cpu *c, struct insn *i, struct x86_state *s, const struct string_op *o,
                     u64 count)
{
    unsigned src_room, dst_room;
    if (o->delta < 0)
        return movs_down(c, i, s, o, count);
    u64 src = source(c, i, s, o->size), dst = destination(c, i, s, o->size, SOFT_WRITE);
    const u8 *from = soft_page_ptr(c, src, SOFT_READ, &src_room);
    /* An element over the page's end may fault in its second half, before anything of the destination. */
    u8 *to = from && src_room >= o->size ? soft_page_ptr(c, dst, SOFT_WRITE, &dst_room) : NULL;
    if (!to)
        return 0;
    u64 n = run_length(o, count, src_room, reg_get(s, R_SI, o->amount));
    n = MIN(n, run_length(o, count, dst_room, reg_get(s, R_DI, o->amount)));
    copy_forward(to, from, n * o->size, o->size);
    move_index(s, R_SI, o, (i64)(n * o->size));
    move_index(s, R_DI, o, (i64)(n * o->size));
    return n;
}

static u64 stos_bulk(struct soft_cpu *c, struct insn *i, struct x86_state *s, const struct string_op *o,
                     u64 count)
{
    unsigned room;
    u64 v = reg_get(s, R_AX, o->size);
    if (o->delta < 0)
        return 0;
    u8 *to = soft_page_ptr(c, destination(c, i, s, o->size, SOFT_WRITE), SOFT_WRITE, &room);
    if (!to)
        return 0;
    u64 n = run_length(o, count, room, reg_get(s, R_DI, o->amount));
    if (o->size == 1 || v == 0)
        memset(to, (u8)v, n * o->size);
    else
        for (u64 k = 0; k < n; k++)
            memcpy(to + k * o->size, &v, o->size);
    move_index(s, R_DI, o, (i64)(n * o->size));
    return n;
}

typedef u64 bulk_fn(struct soft_cpu *c, struct insn *i, struct x86_state *s, const struct string_op *o,
                    u64 count);
typedef void step_fn(struct soft_cpu *c, struct insn *i, struct x86_state *s, const struct string_op *o);

/* Between two iterations: may the repeat go on? Called about every CHUNK iterations or when it must stop. */
static bool may_go_on(struct soft_cpu *c)
{
    return !c->stop_block && !(c->s->rflags & X86_TF) && !(soft_requests(c) & c->wanted);
}

static ALWAYS_INLINE bool must_look(const struct soft_cpu *c, i64 budget)
{
    return unlikely(budget <= 0 || c->stop_block || (c->s->rflags & X86_TF));
}

/*
 * Without a condition: MOVS, STOS, LODS, INS, OUTS. Registers are exact after each piece, so that a fault
 * leaves the state between two iterations. False: interrupted.
 */
static ALWAYS_INLINE bool repeat(struct soft_cpu *c, struct insn *i, struct x86_state *s,
                                 const struct string_op *o, step_fn *step, bulk_fn *bulk)
{
    bool bulky = bulk && bulk_possible(c, i);
    i64 budget = CHUNK;
    for (u64 count = reg_get(s, R_CX, o->amount); count;) {
        u64 n = bulky && count > 1 ? bulk(c, i, s, o, count) : 0;
        if (!n) {
            step(c, i, s, o);
            n = 1;
        }
        reg_set(s, R_CX, count -= n, o->amount);
        budget -= (i64)n;
        if (count && must_look(c, budget)) {
            if (!may_go_on(c))
                return false;
            budget = CHUNK;
        }
    }
    return true;
}

/*
 * CMPS and SCAS: each iteration sets the flags, and ZF may end the repeat. After a fault the flags are those
 * from before the instruction (SDM vol. 2, "REP"), that is the published ones; on AMD (as measured) those of
 * the last iteration, as if this were an instruction that published nothing.
 */
static ALWAYS_INLINE bool repeat_compare(struct soft_cpu *c, struct insn *i, struct x86_state *s,
                                         const struct string_op *o, step_fn *step)
{
    u16 go_on = i->flags & INSN_REP ? AF_ZF : 0;
    i64 budget = CHUNK;
    if (c->vcpu->vm->cpuid->amd)
        c->cur = i;
    for (u64 count = reg_get(s, R_CX, o->amount); count;) {
        step(c, i, s, o);
        reg_set(s, R_CX, --count, o->amount);
        if ((c->arith_flags & AF_ZF) != go_on)
            break;
        if (count && must_look(c, --budget)) {
            if (!may_go_on(c))
                return false;
            budget = CHUNK;
        }
    }
    return true;
}

/* What follows the work: on to the next instruction, or out with rip at this one again. */
#define STRING_END(done)                    \
    do {                                    \
        if (unlikely(!(done))) {            \
            s->rip = c->insn_rip;           \
            c->stop_block = true;           \
            c->interpret->repeating = true; \
            DONE;                           \
        }                                   \
        AFTER_WRITE;                        \
        NEXT;                               \
    } while (0)

#define DEFINE_STRING_N(NAME, N, BULK)                             \
    static H(NAME##N)                                              \
    {                                                              \
        struct string_op o = string_begin(c, i, s);                \
        if (i->flags & (INSN_REP | INSN_REPNE))                    \
            STRING_END(repeat(c, i, s, &o, NAME##N##_step, BULK)); \
        NAME##N##_step(c, i, s, &o);                               \
        STRING_END(true);                                          \
    }
#define DEFINE_COMPARE_N(NAME, N)                                    \
    static H(NAME##N)                                                \
    {                                                                \
        struct string_op o = string_begin(c, i, s);                  \
        if (i->flags & (INSN_REP | INSN_REPNE))                      \
            STRING_END(repeat_compare(c, i, s, &o, NAME##N##_step)); \
        NAME##N##_step(c, i, s, &o);                                 \
        NEXT;                                                        \
    }

#define STEP(name)                                                                   \
    static void name##_step(struct soft_cpu *c, struct insn *i, struct x86_state *s, \
                            const struct string_op *o)

#define DEFINE_STRINGS_N(N, X)                                                          \
    STEP(movs##N)                                                                       \
    {                                                                                   \
        u##N v = soft_read##N(c, source(c, i, s, N / 8));                               \
        soft_write##N(c, destination(c, i, s, N / 8, SOFT_WRITE), v);                   \
        move_index(s, R_SI, o, o->delta);                                               \
        move_index(s, R_DI, o, o->delta);                                               \
    }                                                                                   \
    DEFINE_STRING_N(movs, N, movs_bulk)                                                 \
    STEP(stos##N)                                                                       \
    {                                                                                   \
        soft_write##N(c, destination(c, i, s, N / 8, SOFT_WRITE), reg_get##N(s, R_AX)); \
        move_index(s, R_DI, o, o->delta);                                               \
    }                                                                                   \
    DEFINE_STRING_N(stos, N, stos_bulk)                                                 \
    STEP(lods##N)                                                                       \
    {                                                                                   \
        reg_set##N(s, R_AX, soft_read##N(c, source(c, i, s, N / 8)));                   \
        move_index(s, R_SI, o, o->delta);                                               \
    }                                                                                   \
    DEFINE_STRING_N(lods, N, NULL)                                                      \
    static ALWAYS_INLINE u16 compare##N(u##N a, u##N b)                                 \
    {                                                                                   \
        u32 f;                                                                          \
        asm("cmp" X " %2, %1" FLAGS_OUT : "=&a"(f) : "q"(a), "q"(b) : "cc");            \
        return (u16)f;                                                                  \
    }                                                                                   \
    STEP(cmps##N)                                                                       \
    {                                                                                   \
        u##N a = soft_read##N(c, source(c, i, s, N / 8));                               \
        u##N b = soft_read##N(c, destination(c, i, s, N / 8, SOFT_READ));               \
        c->arith_flags = compare##N(a, b);                                              \
        move_index(s, R_SI, o, o->delta);                                               \
        move_index(s, R_DI, o, o->delta);                                               \
    }                                                                                   \
    DEFINE_COMPARE_N(cmps, N)                                                           \
    STEP(scas##N)                                                                       \
    {                                                                                   \
        u##N b = soft_read##N(c, destination(c, i, s, N / 8, SOFT_READ));               \
        c->arith_flags = compare##N(reg_get##N(s, R_AX), b);                            \
        move_index(s, R_DI, o, o->delta);                                               \
    }                                                                                   \
    DEFINE_COMPARE_N(scas, N)
DEFINE_STRINGS_N(8, "b")
DEFINE_STRINGS_N(16, "w")
DEFINE_STRINGS_N(32, "l")
DEFINE_STRINGS_N(64, "q")

/* --- INS and OUTS --- */

/* The right to use the port comes first, even when nothing is to be done. */
#define DEFINE_PORT_STRING_N(NAME, N)                              \
    static H(NAME##N)                                              \
    {                                                              \
        struct string_op o = string_begin(c, i, s);                \
        soft_check_io(c, reg_get16(s, R_DX), N / 8);               \
        if (i->flags & (INSN_REP | INSN_REPNE))                    \
            STRING_END(repeat(c, i, s, &o, NAME##N##_step, NULL)); \
        NAME##N##_step(c, i, s, &o);                               \
        STRING_END(true);                                          \
    }

/* The port is read only when the destination is known to be writable: a read has side effects. */
#define DEFINE_PORT_N(N)                                                              \
    STEP(ins##N)                                                                      \
    {                                                                                 \
        u64 la = destination(c, i, s, N / 8, SOFT_WRITE);                             \
        soft_probe(c, la, N / 8, SOFT_WRITE);                                         \
        soft_write##N(c, la, (u##N)cpu_pio_read(c->vcpu, reg_get16(s, R_DX), N / 8)); \
        move_index(s, R_DI, o, o->delta);                                             \
    }                                                                                 \
    DEFINE_PORT_STRING_N(ins, N)                                                      \
    STEP(outs##N)                                                                     \
    {                                                                                 \
        u##N v = soft_read##N(c, source(c, i, s, N / 8));                             \
        cpu_pio_write(c->vcpu, reg_get16(s, R_DX), v, N / 8);                         \
        move_index(s, R_SI, o, o->delta);                                             \
    }                                                                                 \
    DEFINE_PORT_STRING_N(outs, N)
DEFINE_PORT_N(8)
DEFINE_PORT_N(16)
DEFINE_PORT_N(32)

#define SIZES(P)                  \
    {                             \
        P##8, P##16, P##32, P##64 \
    }
handler *const string_movs[4] = SIZES(movs);
handler *const string_stos[4] = SIZES(stos);
handler *const string_lods[4] = SIZES(lods);
handler *const string_cmps[4] = SIZES(cmps);
handler *const string_scas[4] = SIZES(scas);
handler *const string_ins[4] = {ins8, ins16, ins32, NULL};
handler *const string_outs[4] = {outs8, outs16, outs32, NULL};
