/*
 * System instructions, and going on after those that handlers do (T12).
 *
 * What a kernel does at each entry and exit or around each critical section is native here, as far as it
 * changes little: IF, AC, the bases of FS and GS. That needs CPL 0 in the mode of the block.
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

enum { OP_OR = 1, OP_AND = 4, OP_CMP = 7 };

/* 32-bit operation on memory with a constant. */
static void emit_op_mi(struct emit *e, u8 ext, struct address a, u32 imm)
{
    struct encoding n = {.opcode = 0x81, .reg = ext, .imm_len = 4};
    memcpy(n.imm, &imm, 4);
    emit_rm(e, &n, a);
}

/* The host's flags are needed for something else. A is lost. */
static void spend_flags(struct translator *x)
{
    if (x->live[x->index])
        flags_save(x);
    else
        x->flags_saved = false;
    flags_destroyed(x);
}

static void emit_cli(struct translator *x)
{
    struct emit *e = x->e;
    spend_flags(x);
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
    spend_flags(x);
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
    spend_flags(x);
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
    push_pointer(x);
    emit_flags_image(x->e);
    emit_store(x->e, at(HOST_C, 0), HOST_D);
    move_sp(x, -8);
}

/* --- which --- */

enum system { NOT_SYSTEM, CLI, STI, STAC, CLAC, SWAPGS, PUSHF };

static enum system system_of(const struct translator *x)
{
    bool kernel = x->b->mode & SOFT_MODE_CPL0;
    switch (x->z.mnemonic) {
    case ZYDIS_MNEMONIC_CLI: return kernel ? CLI : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_STI: return kernel && x->index + 1u < x->b->count ? STI : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_STAC: return kernel ? STAC : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_CLAC: return kernel ? CLAC : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_SWAPGS: return kernel ? SWAPGS : NOT_SYSTEM;
    case ZYDIS_MNEMONIC_PUSHFQ: return x->z.operand_width == 64 ? PUSHF : NOT_SYSTEM;
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
    case NOT_SYSTEM: break;
    case CLI: emit_cli(x); break;
    case STI: emit_sti(x); break;
    case STAC: emit_ac(x, true); break;
    case CLAC: emit_ac(x, false); break;
    case SWAPGS: emit_swapgs(x); break;
    case PUSHF: emit_pushf(x); break;
    }
}

/* --- after handlers (T12) --- */

/* The code at rip, in whatever mode that is now; NULL when there is none, or something else comes first. */
static void *resume(struct soft_cpu *c)
{
    struct translate_cpu *t = container_of(c, struct translate_cpu, soft);
    if (!(c->mode & SOFT_MODE_CODE64) || c->lockstep || interpret_must_stop(c))
        return NULL;
    c->stop_block = false;
    c->mode_key = (u64)c->mode << 52;
    u64 la = c->s->rip;
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (e->exec != ((la & PAGE_MASK) | c->ctx))
        return NULL;
    u64 key = ((e->gpa & PAGE_MASK) | (la & ~PAGE_MASK)) ^ c->mode_key;
    const struct jump_cache_entry *j = &t->jump_cache[(key ^ key >> 12) & (ARRAY_SIZE(t->jump_cache) - 1)];
    if (j->key != key)
        return NULL;
    c->page_rip = la & PAGE_MASK;
    return j->code;
}

u8 *system_emit_resume(struct emit *e)
{
    emit_mov_imm64(e, HOST_A, (u64)(uintptr_t)resume);
    emit_mov(e, 7 /* rdi */, HOST_CPU);
    emit_bytes(e, "\xff\xd0", 2); /* call rax */
    emit_op_rr(e, true, 0x85, HOST_A, HOST_A);
    return emit_jump(e, CC_E);
}
