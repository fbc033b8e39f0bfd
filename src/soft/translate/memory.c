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

static bool high_byte(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

bool plain_operands(const struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &x->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (decode_reg(op->reg.value) == NO_REG || high_byte(op->reg.value)))
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && x->z.address_width != 64)
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

/* Linear address into @to. A and @to are lost, flags are not. */
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
    emit_lea(e, to, a);
    if (m->type == ZYDIS_OPERAND_TYPE_MEMORY && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
        (m->mem.segment == ZYDIS_REGISTER_FS || m->mem.segment == ZYDIS_REGISTER_GS)) {
        unsigned seg = m->mem.segment == ZYDIS_REGISTER_FS ? X86_FS : X86_GS;
        emit_load(e, HOST_A, CPU(s));
        emit_load(e, HOST_A,
                  at(HOST_A, (i32)(offsetof(struct x86_state, seg) + seg * sizeof(struct x86_segment) +
                                   offsetof(struct x86_segment, base))));
        emit_lea(e, to, (struct address){(u8)to, HOST_A, 0, 0});
    }
}

/* C: from linear address to host pointer for @size bytes, or the slow path. A and D are lost. */
void emit_tlb(struct translator *x, unsigned size, bool write)
{
    struct emit *e = x->e;
    i32 tlb = offsetof(struct soft_cpu, tlb);
    i32 tag =
        tlb + (i32)(write ? offsetof(struct soft_tlb_entry, write) : offsetof(struct soft_tlb_entry, read));
    if (x->live[x->index])
        flags_save(x);
    else
        x->flags_saved = false;
    flags_destroyed(x);
    if (x->t->options.slow_memory) {
        slow_jump(x, CC_ALWAYS);
        return;
    }
    emit_op_rr(e, false, 0x89, HOST_C, HOST_A);
    emit_bytes(e, "\xc1\xe8\x06", 3); /* shr eax, 6 */
    emit8(e, 0x25);                   /* and eax, imm32 */
    emit32(e, (SOFT_TLB_SIZE - 1) * 64);
    if (size == 1)
        emit_mov(e, HOST_D, HOST_C);
    else
        emit_lea(e, HOST_D, at(HOST_C, (i32)size - 1));
    emit_op_ri(e, true, 4, HOST_D, -4096);
    emit_op_rm(e, true, 0x0b, HOST_D, CPU(ctx));
    emit_op_rm(e, true, 0x3b, HOST_D, (struct address){HOST_CPU, HOST_A, 0, tag});
    slow_jump(x, CC_NE);
    emit_op_rm(e, true, 0x03, HOST_C,
               (struct address){HOST_CPU, HOST_A, 0, tlb + (i32)offsetof(struct soft_tlb_entry, addend)});
}

/* Host pointer to the memory operand into C. */
void emit_pointer(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    emit_address(x, i, m, HOST_C);
    emit_tlb(x, m->size / 8, m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}
