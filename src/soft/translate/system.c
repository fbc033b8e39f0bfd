/*
 * System instructions, and going on after those that handlers do (T15).
 *
 * What a kernel does at each entry and exit or around each critical section is native here, as far as it
 * changes little: IF, AC, the base of GS. That needs CPL 0 in the mode of the block. REP MOVS and REP STOS
 * are here since kernels copy and clear with them.
 */
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

static struct address state_field(size_t offset)
{
    return at(HOST_A, (i32)offset);
}
#define STATE(field) state_field(offsetof(struct x86_state, field))
#define BASE(which)                                                                      \
    state_field(offsetof(struct x86_state, seg) + (which) * sizeof(struct x86_segment) + \
                offsetof(struct x86_segment, base))

enum { OP_OR = 1, OP_AND = 4, OP_CMP = 7, OP_TEST };

/* 32-bit operation on memory with a constant. */
static void emit_op_mi(struct emit *e, u8 op, struct address a, u32 imm)
{
    struct encoding n = {.opcode = op == OP_TEST ? 0xf7 : 0x81, .reg = op == OP_TEST ? 0 : op, .imm_len = 4};
    memcpy(n.imm, &imm, 4);
    emit_rm(e, &n, a);
}

static void emit_cli(struct translator *x)
{
    struct emit *e = x->e;
    flags_lost(x);
    emit_load(e, HOST_A, CPU(s));
    emit_op_mi(e, OP_AND, STATE(rflags), ~(u32)X86_IF);
    emit_op_mi(e, OP_AND, CPU(wanted), ~(u32)VCPU_REQ_INTERRUPT);
}

/*
 * The instruction after STI is in the same block, and between the two nothing looks for interrupts: that is
 * the shadow. Whatever is wanted already, the handler deals with.
 */
static void emit_sti(struct translator *x)
{
    struct emit *e = x->e;
    flags_lost(x);
    emit_load(e, HOST_A, CPU(requests));
    emit_op_mi(e, OP_CMP, at(HOST_A, 0), 0);
    slow_jump(x, CC_NE);
    emit_load(e, HOST_A, CPU(s));
    emit_op_mi(e, OP_OR, STATE(rflags), X86_IF);
    emit_op_mi(e, OP_OR, CPU(wanted), VCPU_REQ_INTERRUPT);
}

static void emit_ac(struct translator *x, bool set)
{
    struct emit *e = x->e;
    flags_lost(x);
    emit_load(e, HOST_A, CPU(s));
    emit_load(e, HOST_D, set ? CPU(ctx_ac) : CPU(ctx_no_ac));
    if (set)
        emit_op_mi(e, OP_OR, STATE(rflags), X86_AC);
    else
        emit_op_mi(e, OP_AND, STATE(rflags), ~(u32)X86_AC);
    emit_store(e, CPU(ctx), HOST_D);
}

static void emit_swapgs(struct translator *x)
{
    struct emit *e = x->e;
    emit_load(e, HOST_A, CPU(s));
    emit_load(e, HOST_C, BASE(X86_GS));
    emit_load(e, HOST_D, STATE(kernel_gs_base));
    emit_store(e, BASE(X86_GS), HOST_D);
    emit_store(e, STATE(kernel_gs_base), HOST_C);
}

/* D: rflags as PUSHF stores it, from arith_flags (AH as LAHF gives it, AL: OF) and the others. A is lost. */
static void emit_flags_image(struct emit *e)
{
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xb7, .reg = HOST_A}, CPU(arith_flags));
    emit_bytes(e, "\x0f\xb6\xd4", 3); /* movzx edx, ah */
    emit_op_ri(e, false, 4, HOST_D, (i32)(X86_ARITH & 0xff));
    emit_op_ri(e, false, 4, HOST_A, 1);
    emit_bytes(e, "\xc1\xe0\x0b", 3); /* shl eax, 11 */
    emit_op_rr(e, false, 0x09, HOST_A, HOST_D);
    emit_load(e, HOST_A, CPU(s));
    emit_op_rm(e, false, 0x8b, HOST_A, STATE(rflags));
    emit_op_ri(e, false, 4, HOST_A, (i32) ~(u32)(X86_ARITH | X86_VM | X86_RF));
    emit_op_rr(e, true, 0x09, HOST_A, HOST_D);
}

static void emit_pushf(struct translator *x)
{
    flags_save(x);
    struct address to = push_operand(x);
    emit_flags_image(x->e);
    word_store(x, to, HOST_D);
    move_sp(x, -x->word);
}

static void emit_fence(struct translator *x)
{
    emit_bytes(x->e, (u8[]){0x0f, 0xae, (u8)(0xc0 | x->z.raw.modrm.reg << 3)}, 3);
}

/* --- time --- */

/* The host's counter and two offsets; soft_cpu.tsc_inline says whether that is what the guest is to see. */
static void emit_rdtsc(struct translator *x, bool with_aux)
{
    struct emit *e = x->e;
    flags_lost(x);
    if (!(x->b->mode & SOFT_MODE_CPL0)) {
        emit_load(e, HOST_A, CPU(s));
        emit_op_mi(e, OP_TEST, STATE(cr4), X86_CR4_TSD);
        slow_jump(x, CC_NE);
    }
    emit_op_mi(e, OP_CMP, CPU(tsc_inline), 0);
    slow_jump(x, CC_E);
    if (with_aux)
        emit_bytes(e, "\x0f\x01\xf9", 3); /* rdtscp */
    else
        emit_bytes(e, "\x0f\x31", 2);     /* rdtsc */
    emit_bytes(e, "\x48\xc1\xe2\x20", 4); /* shl rdx, 32 */
    emit_op_rr(e, true, 0x09, HOST_A, HOST_D);
    emit_load(e, HOST_A, CPU(s));
    emit_op_rm(e, true, 0x03, HOST_D, STATE(tsc_offset));
    emit_op_rm(e, true, 0x03, HOST_D, CPU(clock_offset));
    if (with_aux)
        emit_op_rm(e, false, 0x8b, translate_host_reg[X86_RCX], STATE(tsc_aux));
    emit_op_rr(e, false, 0x89, HOST_D, translate_host_reg[X86_RAX]);
    emit_bytes(e, "\x48\xc1\xea\x20", 4); /* shr rdx, 32 */
    emit_mov(e, translate_host_reg[X86_RDX], HOST_D);
}

/* --- REP MOVS and REP STOS within a page: the host's own --- */

#define GUEST_COUNT translate_host_reg[X86_RCX]
enum { HOST_SI = 6, HOST_DI = 7 }; /* and the guest's, too */

static struct address behind_count(unsigned base, unsigned scale, i32 disp)
{
    return (struct address){(u8)base, GUEST_COUNT, (u8)scale, disp};
}

/*
 * C: host pointer to what @index points to, the whole of it in one page that allows the access. While AC is
 * set a supervisor's page does with the tag that it has otherwise (mmu.c, rule 2).
 */
static void emit_string_pointer(struct translator *x, unsigned index, unsigned scale, bool write)
{
    struct emit *e = x->e;
    bool user = x->b->mode & SOFT_MODE_CPL3;
    size_t tag = tlb_tag(user, write);
    emit_op_rr(e, false, 0x89, index, HOST_A);
    emit_bytes(e, "\xc1\xe8\x06", 3); /* shr eax, 6 */
    emit_op_ri(e, false, OP_AND, HOST_A, (SOFT_TLB_SIZE - 1) * 64);
    emit_lea(e, HOST_D, behind_count(index, scale, -1));
    emit_op_ri(e, true, OP_AND, HOST_D, -4096);
    emit_mov(e, HOST_C, HOST_D);
    emit_op_rm(e, true, 0x0b, HOST_D, CPU(ctx));
    emit_op_rm(e, true, 0x3b, HOST_D, tlb_field(tag));
    if (user) {
        slow_jump(x, CC_NE);
    } else {
        u8 *found = emit_jump(e, CC_E);
        emit_op_rm(e, true, 0x0b, HOST_C, CPU(ctx_no_ac));
        emit_op_rm(e, true, 0x3b, HOST_C, tlb_field(tag));
        slow_jump(x, CC_NE);
        emit_set_target(found, e->at);
    }
    emit_mov(e, HOST_C, index);
    emit_op_rm(e, true, 0x03, HOST_C, tlb_field(offsetof(struct soft_tlb_entry, addend)));
}

/* T16: the code below counts on upper halves that are zero, as they usually are. */
static void emit_no_upper_half(struct translator *x, unsigned r)
{
    emit_op_rr(x->e, false, 0x89, r, HOST_A);
    emit_op_rr(x->e, true, 0x39, r, HOST_A);
    slow_jump(x, CC_NE);
}

static void emit_string(struct translator *x, bool movs)
{
    struct emit *e = x->e;
    unsigned size = x->b->insn[x->index].size, scale = (unsigned)__builtin_ctz(size);
    flags_lost(x);
    emit_load(e, HOST_A, CPU(s));
    emit_op_mi(e, OP_TEST, STATE(rflags), X86_DF);
    slow_jump(x, CC_NE);
    if (!x->wide) {
        emit_no_upper_half(x, HOST_DI);
        if (movs)
            emit_no_upper_half(x, HOST_SI);
    }
    emit_op_ri(e, true, OP_CMP, GUEST_COUNT, (i32)(PAGE_SIZE / size));
    slow_jump(x, CC_A);
    if (movs) {
        emit_string_pointer(x, HOST_SI, scale, false);
        emit_store(e, CPU(scratch[0]), HOST_C);
    }
    emit_string_pointer(x, HOST_DI, scale, true);
    emit_store(e, CPU(scratch[1]), HOST_DI);
    if (movs) {
        emit_load(e, HOST_A, CPU(scratch[0]));
        emit_store(e, CPU(scratch[0]), HOST_SI);
        emit_mov(e, HOST_SI, HOST_A);
    } else {
        emit_mov(e, HOST_A, translate_host_reg[X86_RAX]);
    }
    emit_mov(e, HOST_DI, HOST_C);
    emit_mov(e, HOST_C, GUEST_COUNT);
    if (size == 2)
        emit8(e, 0x66);
    emit8(e, 0xf3);
    if (size == 8)
        emit8(e, 0x48);
    emit8(e, (u8)((movs ? 0xa4 : 0xaa) | (size > 1)));
    emit_load(e, HOST_DI, CPU(scratch[1]));
    word_lea(x, HOST_DI, behind_count(HOST_DI, scale, 0));
    if (movs) {
        emit_load(e, HOST_SI, CPU(scratch[0]));
        word_lea(x, HOST_SI, behind_count(HOST_SI, scale, 0));
    }
    emit_op_rr(e, false, 0x31, GUEST_COUNT, GUEST_COUNT);
}

/* --- LODS, STOS and MOVS of one element --- */

static void emit_not_downwards(struct translator *x)
{
    flags_lost(x);
    emit_load(x->e, HOST_A, CPU(s));
    emit_op_mi(x->e, OP_TEST, STATE(rflags), X86_DF);
    slow_jump(x, CC_NE);
}

/* MOV between a register and what C points to. */
static void emit_element(struct translator *x, bool store, unsigned reg)
{
    unsigned size = x->b->insn[x->index].size;
    emit_rm(x->e,
            &(struct encoding){.opcode = (u8)((store ? 0x88 : 0x8a) | (size > 1)),
                               .p66 = size == 2,
                               .w = size == 8,
                               .reg = (u8)reg},
            at(HOST_C, 0));
}

static void emit_element_pointer(struct translator *x, unsigned index, bool write)
{
    word_mov(x, HOST_C, index);
    emit_tlb(x, RANGE_NONE, x->b->insn[x->index].size, write);
}

static void emit_lods(struct translator *x)
{
    emit_not_downwards(x);
    emit_element_pointer(x, HOST_SI, false);
    emit_element(x, false, translate_host_reg[X86_RAX]);
    word_lea(x, HOST_SI, at(HOST_SI, x->b->insn[x->index].size));
}

static void emit_stos(struct translator *x)
{
    emit_not_downwards(x);
    emit_element_pointer(x, HOST_DI, true);
    emit_element(x, true, translate_host_reg[X86_RAX]);
    word_lea(x, HOST_DI, at(HOST_DI, x->b->insn[x->index].size));
}

static void emit_movs(struct translator *x)
{
    i32 size = x->b->insn[x->index].size;
    emit_not_downwards(x);
    emit_element_pointer(x, HOST_SI, false);
    emit_element(x, false, HOST_A);
    emit_store(x->e, CPU(scratch[0]), HOST_A);
    emit_element_pointer(x, HOST_DI, true);
    emit_load(x->e, HOST_A, CPU(scratch[0]));
    emit_element(x, true, HOST_A);
    word_lea(x, HOST_SI, at(HOST_SI, size));
    word_lea(x, HOST_DI, at(HOST_DI, size));
}

static bool plain_string(const struct translator *x)
{
    const ZydisInstructionAttributes a = x->z.attributes;
    return x->z.meta.category == ZYDIS_CATEGORY_STRINGOP && x->z.address_width == word_bits(x) &&
           !(a & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)) &&
           (x->wide || !(a & ZYDIS_ATTRIB_HAS_SEGMENT_CS));
}

/* --- which --- */

enum system {
    NOT_SYSTEM,
    NOTHING,
    FENCE,
    CLI,
    STI,
    STAC,
    CLAC,
    SWAPGS,
    PUSHF,
    RDTSC,
    RDTSCP,
    MOVS,
    STOS,
    LODS,
    REP_MOVS,
    REP_STOS
};

static enum system string_of(const struct translator *x, enum system once, enum system repeated)
{
    if (!plain_string(x) || (x->z.attributes & ZYDIS_ATTRIB_HAS_REPNE))
        return NOT_SYSTEM;
    return x->z.attributes & ZYDIS_ATTRIB_HAS_REP ? repeated : once;
}

static enum system system_of(const struct translator *x)
{
    bool kernel = x->b->mode & SOFT_MODE_CPL0;
    bool lockstep = x->t->options.lockstep;
    if (x->b->insn[x->index].fn == insn_pause) /* for Zydis XCHG R8, RAX is one, too */
        return x->t->soft.vcpu->vm->vcpu_count == 1 ? NOTHING : NOT_SYSTEM;
    switch (x->z.mnemonic) {
    case ZYDIS_MNEMONIC_CLI: return kernel ? CLI : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_STI: return kernel && x->index + 1u < x->b->count ? STI : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_STAC: return kernel ? STAC : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_CLAC: return kernel ? CLAC : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_SWAPGS: return kernel ? SWAPGS : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_RDTSC: return lockstep ? NOT_SYSTEM : RDTSC; /* time must not be seen twice */
    case ZYDIS_MNEMONIC_RDTSCP: return lockstep ? NOT_SYSTEM : RDTSCP;
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE: return FENCE;
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ: return string_of(x, MOVS, REP_MOVS);
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ: return string_of(x, STOS, REP_STOS);
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ: return string_of(x, LODS, NOT_SYSTEM);
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ: return x->z.operand_width == word_bits(x) ? PUSHF : NOT_SYSTEM;
    default: return NOT_SYSTEM;
    }
}

bool system_known(const struct translator *x)
{
    return system_of(x) != NOT_SYSTEM;
}

void system_emit(struct translator *x)
{
    switch (system_of(x)) {
    case NOT_SYSTEM:
    case NOTHING: break;
    case FENCE: emit_fence(x); break;
    case RDTSC: emit_rdtsc(x, false); break;
    case RDTSCP: emit_rdtsc(x, true); break;
    case MOVS: emit_movs(x); break;
    case STOS: emit_stos(x); break;
    case LODS: emit_lods(x); break;
    case REP_MOVS: emit_string(x, true); break;
    case REP_STOS: emit_string(x, false); break;
    case CLI: emit_cli(x); break;
    case STI: emit_sti(x); break;
    case STAC: emit_ac(x, true); break;
    case CLAC: emit_ac(x, false); break;
    case SWAPGS: emit_swapgs(x); break;
    case PUSHF: emit_pushf(x); break;
    }
}

/* --- after handlers (T15) --- */

/* The code at rip, in whatever mode that is now; NULL when there is none, or something else comes first. */
static void *resume(struct soft_cpu *c)
{
    struct translate_cpu *t = container_of(c, struct translate_cpu, soft);
    if (!translate_mode(c->mode) || c->lockstep || c->kick || interpret_must_stop(c))
        return NULL;
    c->stop_block = false;
    c->mode_key = (u64)c->mode << 52;
    c->page_rip = c->s->rip & PAGE_MASK;
    return translate_find(t, c->s->rip);
}

u8 *system_emit_resume(struct emit *e)
{
    emit_mov_imm64(e, HOST_A, (u64)(uintptr_t)resume);
    emit_mov(e, 7 /* rdi */, HOST_CPU);
    emit_bytes(e, "\xff\xd0", 2); /* call rax */
    emit_op_rr(e, true, 0x85, HOST_A, HOST_A);
    return emit_jump(e, CC_E);
}
