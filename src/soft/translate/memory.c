/* Operands: guest registers, and memory by way of the software TLB. */
#include "soft/interpret/decode-internal.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

/* --- operands --- */

const ZydisDecodedOperand *memory_operand(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &x->op[n];
    return NULL;
}

const ZydisDecodedOperand *operand_in(const struct translator *x, ZydisOperandEncoding where)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++)
        if (x->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && x->op[n].encoding == where)
            return &x->op[n];
    return NULL;
}

bool high_byte(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

bool gpr_is_plain(ZydisRegister r)
{
    return decode_reg(r) != NO_REG && !high_byte(r);
}

/* T16: what can be written through CS, and what is cut to 16 bits, is for the handlers. */
bool plain_memory(const struct translator *x, const ZydisDecodedOperand *m)
{
    return x->z.address_width == word_bits(x) && (x->wide || m->mem.segment != ZYDIS_REGISTER_CS);
}

bool plain_operands(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &x->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !gpr_is_plain(op->reg.value))
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && !plain_memory(x, op))
            return false;
    }
    return true;
}

unsigned gpr_of(ZydisRegister r)
{
    return decode_reg(r) / 8u;
}

struct address far_gpr(unsigned r)
{
    return at(HOST_CPU, (i32)(offsetof(struct soft_cpu, far_gpr) + 8u * (translate_host_reg[r] - FAR)));
}

bool is_far(unsigned r)
{
    return translate_host_reg[r] >= FAR;
}

/* The host register with guest register @r, loaded into @tmp when it is far. */
unsigned gpr_get(struct translator *x, unsigned r, unsigned tmp)
{
    if (!is_far(r))
        return translate_host_reg[r];
    emit_load(x->e, tmp, far_gpr(r));
    return tmp;
}

/* Guest register @r becomes host register @from, all 64 bits. */
void gpr_set(struct translator *x, unsigned r, unsigned from)
{
    if (is_far(r))
        emit_store(x->e, far_gpr(r), from);
    else if (translate_host_reg[r] != from)
        emit_mov(x->e, translate_host_reg[r], from);
}

/* --- memory --- */

/* The displacement from rip's page, which must not overflow. */
i64 rip_disp(const struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    return (i64)x->block_off + i->off + i->len + m->mem.disp.value;
}

static struct address segment_field(enum x86_seg seg, size_t field)
{
    return at(HOST_A, (i32)(offsetof(struct x86_state, seg) + seg * sizeof(struct x86_segment) + field));
}

/* T16: the slow path is for what is not writable data of 4 GiB. */
static void emit_segment_check(struct translator *x, enum x86_seg seg)
{
    const u32 mask = X86_ATTR_UNUSABLE | X86_ATTR_P | X86_ATTR_S | X86_ATTR_CODE | X86_ATTR_RW | X86_ATTR_DC;
    struct emit *e = x->e;
    emit_op_rm(e, false, 0x8b, HOST_D, segment_field(seg, offsetof(struct x86_segment, attr)));
    emit_op_ri(e, false, 4, HOST_D, (i32)mask);
    emit_op_ri(e, false, 7, HOST_D, X86_ATTR_P | X86_ATTR_S | X86_ATTR_RW);
    slow_jump(x, CC_NE);
    struct encoding all = {.opcode = 0x83, .reg = 7, .imm_len = 1, .imm = {0xff}};
    emit_rm(e, &all, segment_field(seg, offsetof(struct x86_segment, limit)));
    slow_jump(x, CC_NE);
}

static bool has_base(const ZydisDecodedOperand *m)
{
    return m->type == ZYDIS_OPERAND_TYPE_MEMORY && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
           (m->mem.segment == ZYDIS_REGISTER_FS || m->mem.segment == ZYDIS_REGISTER_GS);
}

/* @to + base of FS or GS. */
static void add_base(struct translator *x, const ZydisDecodedOperand *m, unsigned to)
{
    enum x86_seg seg = m->mem.segment == ZYDIS_REGISTER_FS ? X86_FS : X86_GS;
    if (!x->wide)
        flags_lost(x);
    emit_load(x->e, HOST_A, CPU(s));
    if (!x->wide)
        emit_segment_check(x, seg);
    emit_load(x->e, HOST_A, segment_field(seg, offsetof(struct x86_segment, base)));
    word_lea(x, to, (struct address){(u8)to, HOST_A, 0, 0});
}

/* Linear address into @to. A and @to are lost, and D and flags for FS and GS in 32-bit code. */
void emit_address(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m, unsigned to)
{
    struct emit *e = x->e;
    i32 disp = m->mem.disp.has_displacement ? (i32)m->mem.disp.value : 0;
    struct address a = at(to, disp);
    bool base = m->mem.base != ZYDIS_REGISTER_NONE, index = m->mem.index != ZYDIS_REGISTER_NONE;
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        emit_load(e, to, CPU(page_rip));
        a.disp = (i32)rip_disp(x, i, m);
    } else if (base) {
        a.base = (u8)gpr_get(x, gpr_of(m->mem.base), to);
    } else {
        emit_mov_imm32(e, to, 0);
    }
    if (index) {
        a.index = (u8)gpr_get(x, gpr_of(m->mem.index), HOST_A);
        a.scale = (u8)__builtin_ctz(m->mem.scale);
    }
    word_lea(x, to, a);
    if (has_base(m))
        add_base(x, m, to);
}

/* --- ranges and TLB --- */

static i32 range_at(bool user, bool write, unsigned range)
{
    return (i32)(offsetof(struct soft_cpu, range) +
                 ((user * 2u + write) * SOFT_RANGES + range) * sizeof(struct soft_range));
}

/* What changes its page all the time is better looked up in the TLB at once. */
unsigned memory_range(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    if (x->b->mode & SOFT_MODE_WINDOW)
        return window_range(x, i, m);
    if (x->hot)
        return trace_range(x, i, m);
    if (m->mem.index != ZYDIS_REGISTER_NONE)
        return RANGE_NONE;
    if (m->mem.segment == ZYDIS_REGISTER_FS)
        return RANGE_FS;
    if (m->mem.segment == ZYDIS_REGISTER_GS)
        return RANGE_GS;
    if (m->mem.base == ZYDIS_REGISTER_RIP)
        return RANGE_FIXED + (rip_disp(x, i, m) >> PAGE_SHIFT & 3);
    if (m->mem.base == ZYDIS_REGISTER_NONE)
        return RANGE_FIXED + ((u64)m->mem.disp.value >> PAGE_SHIFT & 3);
    unsigned base = gpr_of(m->mem.base);
    return base == X86_RSP || (base == X86_RBP && x->frame) ? RANGE_STACK : RANGE_NONE;
}

static unsigned size_class(unsigned size)
{
    unsigned k = 0;
    while (1u << k < size)
        k++;
    return k;
}

_Static_assert(sizeof(struct soft_tlb_entry) == 64, "code shifts page numbers to offsets by 6");

/* A: offset of the TLB entry for C in soft_cpu; D: tag of the page of the last byte. */
static void emit_tlb_index(struct emit *e, unsigned size)
{
    emit_op_rr(e, false, 0x89, HOST_C, HOST_A);
    emit_bytes(e, "\xc1\xe8\x06", 3); /* shr eax, 6 */
    emit8(e, 0x25);                   /* and eax, imm32 */
    emit32(e, (SOFT_TLB_SIZE - 1) * 64);
    emit_lea(e, HOST_D, at(HOST_C, (i32)size - 1));
    emit_op_ri(e, true, 4, HOST_D, -4096);
    emit_op_rm(e, true, 0x0b, HOST_D, CPU(ctx));
}

size_t tlb_tag(bool user, bool write)
{
    return (write ? offsetof(struct soft_tlb_entry, write) : offsetof(struct soft_tlb_entry, read)) +
           user * sizeof(u64);
}

struct address tlb_field(size_t field)
{
    return (struct address){HOST_CPU, HOST_A, 0, (i32)(offsetof(struct soft_cpu, tlb) + field)};
}

enum { HOST_B = 3, HOST_SI = 6, HOST_DI = 7 };

/* All pages that lie beside each other here and in the host, as far as the TLB knows them, but not more than
 * this. */
#define RANGE_MAX (64 * PAGE_SIZE)

/*
 * From the TLB entry whose offset is in A, which has the tag SI and the addend DI, up (or down): B (or C)
 * moves by a page for each that continues the range. A, D and SI are lost.
 */
static void emit_extend(struct emit *e, size_t tag, bool up)
{
    i32 page = up ? (i32)PAGE_SIZE : -(i32)PAGE_SIZE;
    u8 *again = e->at, *done[3];
    emit_mov(e, HOST_D, HOST_B);
    emit_op_rr(e, true, 0x29, HOST_C, HOST_D);
    emit_op_ri(e, true, 7, HOST_D, (i32)RANGE_MAX);
    done[0] = emit_jump(e, CC_AE);
    emit_op_ri(e, false, 0, HOST_A, up ? 64 : -64);
    emit_op_ri(e, false, 4, HOST_A, (SOFT_TLB_SIZE - 1) * 64);
    emit_lea(e, HOST_SI, at(HOST_SI, page));
    emit_op_rm(e, true, 0x3b, HOST_SI, tlb_field(tag));
    done[1] = emit_jump(e, CC_NE);
    emit_op_rm(e, true, 0x3b, HOST_DI, tlb_field(offsetof(struct soft_tlb_entry, addend)));
    done[2] = emit_jump(e, CC_NE);
    emit_lea(e, up ? HOST_B : HOST_C, at(up ? HOST_B : HOST_C, page));
    emit_jump_to(e, CC_ALWAYS, again);
    for (unsigned n = 0; n < 3; n++)
        emit_set_target(done[n], e->at);
}

/* The linear addresses C up to B around C that are one piece. A, D and SI are lost. */
static void emit_find_range(struct emit *e, size_t tag, bool write)
{
    u32 flag = write ? SOFT_TLB_WIDE_WRITE : SOFT_TLB_WIDE_READ;
    struct encoding test = {.opcode = 0xf7, .imm_len = 4};
    memcpy(test.imm, &flag, 4);
    emit_rm(e, &test, tlb_field(offsetof(struct soft_tlb_entry, gpa)));
    u8 *small = emit_jump(e, CC_E);
    emit_op_ri(e, true, 4, HOST_C, -(i32)(1u << SOFT_TLB_WIDE_SHIFT));
    emit_lea(e, HOST_B, at(HOST_C, 1 << SOFT_TLB_WIDE_SHIFT));
    u8 *done = emit_jump(e, CC_ALWAYS);
    emit_set_target(small, e->at);
    emit_op_ri(e, true, 4, HOST_C, -(i32)PAGE_SIZE);
    emit_lea(e, HOST_B, at(HOST_C, PAGE_SIZE));
    emit_load(e, HOST_SI, tlb_field(tag));
    emit8(e, 0x50); /* push rax */
    emit8(e, 0x56); /* push rsi */
    emit_extend(e, tag, true);
    emit8(e, 0x5e);
    emit8(e, 0x58);
    emit_extend(e, tag, false);
    emit_set_target(done, e->at);
}

/* T19. D: offset of a range in soft_cpu. B is lost. */
static void emit_count_miss(struct emit *e)
{
    struct address misses = {HOST_CPU, HOST_B, 2, (i32)offsetof(struct translate_cpu, tracer.misses)};
    emit_lea(e, HOST_B, at(HOST_D, -(i32)offsetof(struct soft_cpu, range)));
    emit_bytes(e, "\xc1\xeb\x05", 3);                                                         /* shr ebx, 5 */
    emit_op_rm(e, false, 0xff, 0, misses);                                                    /* inc */
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xab, .reg = HOST_B}, CPU(range_used)); /* bts */
    emit_rm(e, &(struct encoding){.opcode = 0x83, .reg = 5, .imm_len = 1, .imm = {1}},        /* sub */
            at(HOST_CPU, (i32)offsetof(struct translate_cpu, tracer.misses_left)));
    u8 *enough = emit_jump(e, CC_AE);
    emit_rm(e, &(struct encoding){.opcode = 0xc7, .imm_len = 4, .imm = {1}}, CPU(kick)); /* mov */
    emit_set_target(enough, e->at);
}

_Static_assert(sizeof(struct soft_range) == 32, "code shifts the offsets of ranges by 5");

/* The range, whose offset is [rsp], becomes what is around C, whose TLB entry's offset is in A. D is lost. */
static void emit_fill_range(struct emit *e, size_t tag, bool write)
{
    static const u8 used[] = {HOST_A, HOST_C, HOST_B, HOST_SI, HOST_DI};
    struct address range = {HOST_CPU, HOST_D, 0, 0};
    emit_load(e, HOST_D, at(HOST_SP, 0));
    for (unsigned n = 0; n < ARRAY_SIZE(used); n++)
        emit8(e, (u8)(0x50 + used[n])); /* push */
    emit_count_miss(e);
    emit8(e, 0x52); /* push rdx */
    emit_load(e, HOST_DI, tlb_field(offsetof(struct soft_tlb_entry, addend)));
    emit_find_range(e, tag, write);
    emit8(e, 0x5a); /* pop rdx */
    range.disp = offsetof(struct soft_range, base);
    emit_store(e, range, HOST_C);
    range.disp = offsetof(struct soft_range, addend);
    emit_store(e, range, HOST_DI);
    emit_op_rr(e, true, 0x29, HOST_C, HOST_B);
    emit_lea(e, HOST_B, at(HOST_B, -15));
    range.disp = offsetof(struct soft_range, limit);
    emit_store(e, range, HOST_B);
    emit_lea(e, HOST_B, at(HOST_B, 15 - 63));
    range.disp = offsetof(struct soft_range, limit_wide);
    emit_store(e, range, HOST_B);
    for (unsigned n = ARRAY_SIZE(used); n-- > 0;)
        emit8(e, (u8)(0x58 + used[n])); /* pop */
}

/*
 * In: the linear address in C, the offset of the range in A. Out: ZF and in D what is to be added for the
 * host pointer, with the range set to the page; or no ZF. A is lost.
 */
static void emit_range_thunk(struct emit *e, bool user, bool write, unsigned size)
{
    emit8(e, 0x50); /* push rax */
    emit_tlb_index(e, size);
    emit_op_rm(e, true, 0x3b, HOST_D, tlb_field(tlb_tag(user, write)));
    u8 *miss = emit_jump(e, CC_NE), *skip = NULL;
    if (!user) {
        /* Not with AC set: mmu.c, rule 6. */
        emit_load(e, HOST_D, CPU(ctx));
        emit_op_rm(e, true, 0x3b, HOST_D, CPU(ctx_sys));
        skip = emit_jump(e, CC_NE);
    }
    emit_fill_range(e, tlb_tag(user, write), write);
    if (skip)
        emit_set_target(skip, e->at);
    emit_load(e, HOST_D, tlb_field(offsetof(struct soft_tlb_entry, addend)));
    emit_op_rr(e, false, 0x39, HOST_D, HOST_D); /* ZF */
    emit_set_target(miss, e->at);
    emit8(e, 0x58); /* pop rax */
    emit8(e, 0xc3);
}

void emit_memory_thunks(struct translate_cpu *t)
{
    for (unsigned n = 0; n < 4 * ACCESS_SIZES; n++) {
        bool user = n & 1, write = n & 2;
        t->thunk.range_miss[user][write][n / 4] = t->vm->emit.at;
        emit_range_thunk(&t->vm->emit, user, write, 1u << (n / 4));
    }
}

/*
 * C becomes the host pointer to the linear address that it holds; or, where @direct is not NULL, what is to
 * be added to @direct for that, and C is not looked at: the load then waits for nothing but the guest's
 * registers.
 */
static void emit_range_check(struct translator *x, unsigned range, unsigned size, bool write,
                             const struct address *direct)
{
    struct emit *e = x->e;
    bool user = x->b->mode & SOFT_MODE_CPL3;
    i32 r = range_at(user, write, range);
    struct slow_path *p = slow_path(x);
    struct range_miss *miss = &p->miss[p->misses++];
    size_t limit = size <= 16 ? offsetof(struct soft_range, limit) : offsetof(struct soft_range, limit_wide);
    struct address addend = at(HOST_CPU, r + (i32)offsetof(struct soft_range, addend));
    if (direct)
        emit_lea(e, HOST_A, *direct);
    else
        emit_mov(e, HOST_A, HOST_C);
    emit_op_rm(e, true, 0x2b, HOST_A, at(HOST_CPU, r + (i32)offsetof(struct soft_range, base)));
    emit_op_rm(e, true, 0x3b, HOST_A, at(HOST_CPU, r + (i32)limit));
    *miss = (struct range_miss){.jump = emit_jump(e, CC_AE), .range = (u32)r, .is_direct = direct};
    if (direct)
        miss->direct = *direct;
    miss->thunk = x->t->thunk.range_miss[user][write][size_class(size)];
    if (direct)
        emit_load(e, HOST_C, addend);
    else
        emit_op_rm(e, true, 0x03, HOST_C, addend);
    miss->back = e->at;
}

/* What misses the TLB, too, takes the slow path @p. */
void emit_range_miss(struct translator *x, struct slow_path *p, const struct range_miss *m)
{
    struct emit *e = x->e;
    emit_set_target(m->jump, e->at);
    if (m->is_direct)
        emit_lea(e, HOST_C, m->direct);
    emit_mov_imm32(e, HOST_A, m->range);
    emit_call_to(e, m->thunk);
    p->jump[p->jumps++] = emit_jump(e, CC_NE);
    emit_op_rr(e, true, m->is_direct ? 0x89 : 0x01, HOST_D, HOST_C);
    emit_jump_to(e, CC_ALWAYS, m->back);
}

void emit_bits(struct emit *e, u8 rep, unsigned to, unsigned from, struct address mask)
{
    emit_rm(
        e,
        &(struct encoding){
            .vex = true, .w = true, .map = 2, .rep = rep, .opcode = 0xf5, .reg = (u8)to, .vvvv = (u8)from},
        mask);
}

static void emit_tlb_check(struct translator *x, unsigned size, bool write)
{
    struct emit *e = x->e;
    emit_tlb_index(e, size);
    emit_op_rm(e, true, 0x3b, HOST_D, tlb_field(tlb_tag(x->b->mode & SOFT_MODE_CPL3, write)));
    slow_jump(x, CC_NE);
    emit_op_rm(e, true, 0x03, HOST_C, tlb_field(offsetof(struct soft_tlb_entry, addend)));
}

void emit_tlb(struct translator *x, unsigned range, unsigned size, bool write)
{
    flags_lost(x);
    if (x->t->options.slow_memory)
        slow_jump(x, CC_ALWAYS);
    else if (range >= RANGE_NONE)
        emit_tlb_check(x, size, write);
    else
        emit_range_check(x, range, size, write, NULL);
}

/* The operand by base and displacement alone, as the host can have it, too. */
bool direct_address(const struct translator *x, const ZydisDecodedOperand *m, struct address *a)
{
    if (!x->wide || m->mem.index != ZYDIS_REGISTER_NONE || has_base(m) ||
        m->mem.base == ZYDIS_REGISTER_NONE || m->mem.base == ZYDIS_REGISTER_RIP ||
        is_far(gpr_of(m->mem.base)))
        return false;
    *a = at(translate_host_reg[gpr_of(m->mem.base)],
            m->mem.disp.has_displacement ? (i32)m->mem.disp.value : 0);
    return true;
}

/* How many accesses, each with the longer code, pay before what reads the flags: 3 did better than 1 in
 * bignum code. */
#define READER_NEAR 3

bool keeps_flags(struct translator *x, const struct insn *i)
{
    const struct translate_options *o = &x->t->options;
    const ZydisDecodedOperand *m = memory_operand(x);
    return x->t->bmi2 && flags_only_in_host(x) && !o->slow_memory && !o->live_flags &&
           (x->reader[x->index] <= READER_NEAR || window_is_known(x, i, m)) && (x->wide || !has_base(m));
}

/* As emit_tlb_check(), with instructions that leave the flags alone: for chains of additions with carry. */
static void emit_tlb_keeping_flags(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    struct emit *e = x->e;
    bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    struct address page = at(HOST_CPU, (i32)offsetof(struct translate_cpu, page_mask));
    struct address index = at(HOST_CPU, (i32)offsetof(struct translate_cpu, index_mask));
    emit_address(x, i, m, HOST_C);
    emit_lea(e, HOST_D, at(HOST_C, (i32)m->size / 8 - 1));
    emit_bits(e, PEXT, HOST_D, HOST_D, page);
    emit_bits(e, PDEP, HOST_D, HOST_D, page);
    emit_bits(e, PEXT, HOST_A, HOST_C, index);
    emit_bytes(e, "\xc4\xe3\x7b\xf0\xc0\x1a", 6); /* rorx eax, eax, 26: the entry's offset */
    emit_store(e, CPU(scratch[0]), HOST_C);
    emit_load(e, HOST_C, CPU(ctx));
    emit_lea(e, HOST_D, (struct address){HOST_D, HOST_C, 0, 0});
    emit_load(e, HOST_C, tlb_field(tlb_tag(x->b->mode & SOFT_MODE_CPL3, write)));
    emit_bytes(e, "\x48\xf7\xd1", 3); /* not rcx */
    emit_lea(e, HOST_C, (struct address){HOST_C, HOST_D, 0, 1});
    emit_bytes(e, "\xe3\x05", 2); /* jrcxz over the jump */
    slow_jump(x, CC_ALWAYS);
    emit_load(e, HOST_C, CPU(scratch[0]));
    emit_load(e, HOST_D, tlb_field(offsetof(struct soft_tlb_entry, addend)));
    emit_lea(e, HOST_C, (struct address){HOST_C, HOST_D, 0, 0});
}

/* Host pointer to the memory operand into C. */
void emit_pointer(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    emit_address(x, i, m, HOST_C);
    emit_tlb(x, memory_range(x, i, m), m->size / 8, m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

struct address emit_based(struct translator *x, unsigned base, i32 disp, unsigned size, bool write, bool sole)
{
    if ((x->b->mode & SOFT_MODE_WINDOW) && !x->t->options.slow_memory &&
        !trace_is_bad(x->t, x->b->gpa + x->b->insn[x->index].off))
        return emit_window_operand(x, base, disp, sole && window_has(x, base, disp));
    x->pointer.valid = false;
    word_lea(x, HOST_C, at(translate_host_reg[base], disp));
    emit_tlb(x, RANGE_STACK, size, write);
    return at(HOST_C, 0);
}

struct address emit_pointer_keeping_flags(struct translator *x, const struct insn *i,
                                          const ZydisDecodedOperand *m)
{
    struct address a;
    bool window = memory_range(x, i, m) == RANGE_WINDOW;
    if (window && direct_address(x, m, &a))
        return emit_window_operand(x, gpr_of(m->mem.base), a.disp, true);
    x->pointer.valid = false;
    slow_path(x)->save = true;
    if (!window) {
        emit_tlb_keeping_flags(x, i, m);
        return at(HOST_C, 0);
    }
    emit_address(x, i, m, HOST_D);
    return emit_window(x, HOST_D, true);
}

struct address emit_pointer_at_c(struct translator *x, unsigned range, unsigned size, bool write)
{
    if (range == RANGE_WINDOW && !x->t->options.slow_memory)
        return emit_window(x, HOST_C, false);
    emit_tlb(x, range, size, write);
    return at(HOST_C, 0);
}

struct address emit_operand(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    unsigned range = memory_range(x, i, m);
    bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    struct address a;
    if (range == RANGE_NONE || x->t->options.slow_memory || !direct_address(x, m, &a)) {
        x->pointer.valid = false;
        emit_address(x, i, m, HOST_C);
        return emit_pointer_at_c(x, range, m->size / 8, write);
    }
    if (range == RANGE_WINDOW)
        return emit_window_operand(x, gpr_of(m->mem.base), a.disp, false);
    x->pointer.valid = false;
    flags_lost(x);
    emit_range_check(x, range, m->size / 8, write, &a);
    a.index = HOST_C;
    return a;
}

struct address emit_operand_at_c(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    struct address a = emit_operand(x, i, m);
    if (a.base == HOST_C)
        return a;
    emit_lea(x->e, HOST_C, a);
    return at(HOST_C, 0);
}
