/* From guest bytes to blocks of `struct insn`. Zydis says what the bytes mean, rules.c who executes them. */
#include "soft/interpret/decode-internal.h"

#include "base/log.h"
#include "soft/features.h"

u8 decode_reg(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
        return (u8)((r - ZYDIS_REGISTER_RAX) * 8);
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return (u8)((r - ZYDIS_REGISTER_EAX) * 8);
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return (u8)((r - ZYDIS_REGISTER_AX) * 8);
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return (u8)((r - ZYDIS_REGISTER_AL) * 8);
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (u8)((r - ZYDIS_REGISTER_AH) * 8 + 1);
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return (u8)((r - ZYDIS_REGISTER_SPL + 4) * 8);
    return NO_REG;
}

enum x86_seg decode_seg(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? (enum x86_seg)(r - ZYDIS_REGISTER_ES) : X86_DS;
}

enum x86_seg decode_override(const struct decode *d)
{
    ZydisInstructionAttributes a = d->z.attributes;
    if (a & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return X86_FS;
    if (a & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        return X86_GS;
    if (decode_is64(d))
        return X86_DS;
    if (a & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
        return X86_ES;
    if (a & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
        return X86_CS;
    return a & ZYDIS_ATTRIB_HAS_SEGMENT_SS ? X86_SS : X86_DS;
}

/* --- operands --- */

static handler *address_handler_64(const struct insn *i)
{
    if (i->flags & INSN_RIP)
        return ea_rip_64;
    if (i->base != NO_REG)
        return i->index != NO_REG ? ea_index_64 : ea_base_64;
    return i->index != NO_REG ? ea_scaled_64 : ea_abs_64;
}

static handler *address_handler(const struct decode *d, bool agen)
{
    const struct insn *i = d->i;
    if (decode_is64(d) && i->addr_size == 8)
        return agen || i->seg < X86_FS ? address_handler_64(i) : ea_segment_64;
    if (agen)
        return ea_offset;
    if ((d->mode & SOFT_MODE_FLAT) && !decode_is64(d) && i->addr_size == 4 && i->seg < X86_FS &&
        i->seg != X86_CS && i->base != NO_REG)
        return i->index != NO_REG ? ea_index_32 : ea_base_32;
    return ea_any;
}

static void decode_memory(struct decode *d)
{
    const ZydisDecodedOperandMem *m = &d->mem->mem;
    struct insn *i = d->i;
    i->disp = m->disp.has_displacement ? m->disp.value : 0;
    i->seg = (u8)decode_seg(m->segment);
    i->size = (u8)MIN(d->mem->size / 8, 64);
    if (d->mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        i->flags |= INSN_WRITE;
    if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
        i->flags |= INSN_RIP;
        i->disp += i->off + i->len;
    } else {
        i->base = decode_reg(m->base);
    }
    /* Base 101b without displacement is none, whatever REX.B says; Zydis forgets that with prefix 67h. */
    if ((d->z.attributes & ZYDIS_ATTRIB_HAS_SIB) && d->z.raw.modrm.mod == 0 && d->z.raw.sib.base == 5) {
        i->base = NO_REG;
        i->disp = d->z.raw.disp.value;
    }
    if (m->type != ZYDIS_MEMOP_TYPE_VSIB) {
        i->index = decode_reg(m->index);
        i->scale = m->scale > 1 ? (u8)__builtin_ctz(m->scale) : 0;
    }
    i->fn = address_handler(d, m->type == ZYDIS_MEMOP_TYPE_AGEN);
}

/* r and r2: the first and the second operand, where they are general registers. */
static void decode_operands(struct decode *d)
{
    struct insn *i = d->i;
    i->addr_size = d->z.address_width / 8;
    i->size = d->z.operand_width / 8;
    i->base = i->index = NO_REG;
    for (unsigned n = 0; n < d->z.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &d->op[n];
        switch (op->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (n == 0)
                i->r = decode_reg(op->reg.value);
            else if (n == 1)
                i->r2 = decode_reg(op->reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE: i->imm = op->imm.value.s; break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (!d->mem) {
                d->mem = op;
                d->mem_index = n;
            }
            break;
        default: break;
        }
    }
    if (d->mem)
        decode_memory(d);
}

/*
 * AMD heeds the operand-size prefix of near branches in 64-bit mode: target and stack operand have 16 bits.
 * Zydis knows that of branches with a 32-bit displacement only.
 */
static void narrow_branch(struct decode *d)
{
    bool near =
        d->z.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT || d->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
    if (!near || !decode_is64(d) || !d->c->vcpu->vm->cpuid->amd || d->z.raw.rex.W ||
        !(d->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
        return;
    d->z.operand_width = 16;
    if (d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
        d->op[0].size = 16;
}

/* --- one instruction --- */

static void undecodable(struct insn *i, handler *h, unsigned len)
{
    *i = (struct insn){.fn = h, .off = i->off, .len = (u8)len};
}

static const ZydisDecoder *decoder_of(const struct interpret_private *p, u32 mode)
{
    return &p->decoder[mode & SOFT_MODE_CODE64 ? 0 : mode & SOFT_MODE_CODE32 ? 1 : 2];
}

/* MASKMOVDQU and its kind have a memory operand that is not written down. */
static bool find_hidden_memory(struct decode *d)
{
    for (unsigned n = d->z.operand_count_visible; n < d->z.operand_count; n++)
        if (d->op[n].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            d->mem = &d->op[n];
            return true;
        }
    return false;
}

/* What runs on the host: anything on other than general registers, and rare things on those. */
bool decode_native(struct decode *d)
{
    struct insn *i = d->i;
    if (!d->mem && find_hidden_memory(d))
        decode_memory(d);
    i->stub = native_compile(d->c->interpret->native, d->bytes, &d->z, d->op);
    if (!i->stub)
        return false;
    handler *h = native_uses_flags(i->stub) ? insn_native : insn_native_no_flags;
    if (i->fn == ea_any && !decode_is64(d) && native_is_masked(i->stub)) {
        i->fn = ea_unchecked;
        h = insn_native_masked;
    }
    if (d->mem)
        i->op = h;
    else
        i->fn = h;
    return true;
}

/* VEX.W with these outside 64-bit mode, where Intel ignores it (as measured). */
static bool undefined_on_amd(const struct decode *d)
{
    bool one = d->z.mnemonic == ZYDIS_MNEMONIC_VPEXTRD || d->z.mnemonic == ZYDIS_MNEMONIC_VPINSRD;
    return one && d->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && d->z.raw.vex.W && !decode_is64(d);
}

static bool decode_known(struct decode *d)
{
    const struct rule *r = &decode_rules[d->z.mnemonic];
    const struct cpuid_table *cpuid = d->c->vcpu->vm->cpuid;
    if (!insn_offered(cpuid, &d->z) || (cpuid->amd && undefined_on_amd(d)))
        return false;
    if (d->z.encoding > ZYDIS_INSTRUCTION_ENCODING_3DNOW &&
        (!(d->mode & SOFT_MODE_PE) || (d->mode & SOFT_MODE_VM86)))
        return false; /* VEX and EVEX: not in real and virtual-8086 mode */
    if (!r->how)
        return decode_native(d);
    d->ends = r->flags & RULE_END;
    return r->how(d, r);
}

enum decode_status { DECODE_OK, DECODE_TRUNCATED };

/* The instruction at d->bytes into d->i, whose off is set. */
static enum decode_status decode_insn(struct decode *d, unsigned avail)
{
    ZydisDecoderContext ctx;
    const ZydisDecoder *decoder = decoder_of(d->c->interpret, d->mode);
    struct insn *i = d->i;
    ZyanStatus st = ZydisDecoderDecodeInstruction(decoder, &ctx, d->bytes, avail, &d->z);
    d->mem = NULL;
    d->ends = false;
    if (ZYAN_SUCCESS(st)) {
        i->len = d->z.length;
        st = ZydisDecoderDecodeOperands(decoder, &ctx, &d->z, d->op, d->z.operand_count);
    }
    if (st == ZYDIS_STATUS_NO_MORE_DATA)
        return DECODE_TRUNCATED;
    if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
        undecodable(i, insn_gp, 15);
    } else if (!ZYAN_SUCCESS(st)) {
        undecodable(i, insn_ud, MIN(avail, 15u)); /* any of these bytes may be what is wrong */
    } else {
        insn_fix_operands(&d->z, d->op);
        narrow_branch(d);
        decode_operands(d);
        if (decode_known(d))
            return DECODE_OK;
        undecodable(i, insn_ud, i->len);
    }
    d->ends = true;
    return DECODE_OK;
}

/* --- blocks --- */

bool decode_block(struct soft_cpu *c, struct block *b, const u8 *bytes, unsigned avail, unsigned max,
                  u32 mode, bool whole)
{
    struct decode d = {.c = c, .mode = mode, .page_offset = (unsigned)(b->gpa & ~PAGE_MASK)};
    unsigned off = 0, n = 0;
    while (n < max && off < avail && !d.ends) {
        struct insn *i = &b->insn[n];
        *i = (struct insn){.off = (u16)off};
        d.i = i;
        d.bytes = bytes + off;
        if (decode_insn(&d, avail - off) == DECODE_TRUNCATED) {
            if (!whole)
                break;
            undecodable(i, avail - off >= 15 ? insn_gp : insn_ud, avail - off);
            d.ends = true;
        }
        off += i->len;
        i->count = (u8)++n;
    }
    b->insn[n] = (struct insn){.fn = block_end, .off = (u16)off, .count = (u8)n, .flags = INSN_BRANCH};
    if ((mode & SOFT_MODE_CODE64) && d.page_offset + off < PAGE_SIZE)
        b->insn[n].flags |= INSN_NEAR_SAME;
    b->len = (u16)off;
    b->count = (u16)n;
    return n > 0;
}

/* --- set-up and traces --- */

void decode_init(struct interpret_private *p, const struct cpuid_table *cpuid)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth stack;
    } kind[3] = {{ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
                 {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
                 {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16}};
    for (unsigned n = 0; n < ARRAY_SIZE(kind); n++)
        insn_decoder_init(&p->decoder[n], cpuid, kind[n].mode, kind[n].stack);
}

void decode_trace(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    u8 bytes[16];
    char text[96] = "(undecodable)";
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter f;
    u64 la = c->mode & SOFT_MODE_CODE64 ? s->rip : (u32)(s->seg[X86_CS].base + s->rip);
    unsigned len = soft_fetch(c, la, bytes, 15);
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder_of(c->interpret, c->mode), bytes, len, &z, op)))
        ZydisFormatterFormatInstruction(&f, &z, op, z.operand_count_visible, text, sizeof text, s->rip, NULL);
    trace_message(TRACE_exec,
                  "cpu%u %04x:%016lx %-40s fl=%06lx ax=%lx cx=%lx dx=%lx bx=%lx sp=%lx bp=%lx si=%lx di=%lx",
                  c->vcpu->index, s->seg[X86_CS].selector, s->rip, text, s->rflags, s->gpr[0], s->gpr[1],
                  s->gpr[2], s->gpr[3], s->gpr[4], s->gpr[5], s->gpr[6], s->gpr[7]);
}

/* The instruction at RIP. Raises when it cannot be fetched. */
static bool decode_next(struct soft_cpu *c, ZydisDecoderContext *ctx, ZydisDecodedInstruction *z)
{
    u8 bytes[16];
    u64 la = c->mode & SOFT_MODE_CODE64 ? c->s->rip : (u32)(c->s->seg[X86_CS].base + c->s->rip);
    unsigned len = soft_fetch(c, la, bytes, 15);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(decoder_of(c->interpret, c->mode), ctx, bytes, len, z));
}

const char *decode_mnemonic(struct soft_cpu *c)
{
    ZydisDecoderContext ctx;
    ZydisDecodedInstruction z;
    return decode_next(c, &ctx, &z) ? ZydisMnemonicGetString(z.mnemonic) : "(undecodable)";
}

static bool changes_translation(const ZydisDecodedInstruction *z)
{
    return z->mnemonic == ZYDIS_MNEMONIC_INVLPG || z->mnemonic == ZYDIS_MNEMONIC_INVPCID;
}

/* The stack, and what belongs to a thread or a processor. */
static bool is_local(const ZydisDecodedOperand *o)
{
    return o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS ||
           ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->mem.base) == ZYDIS_REGISTER_RSP;
}

static bool touches_memory(const ZydisDecodedOperand *o)
{
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
        return ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_CONTROL;
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
           !is_local(o);
}

/* What no processor could take for a page table. */
static bool saves_registers(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64: return true;
    default: return false;
    }
}

bool decode_touches_memory(struct soft_cpu *c)
{
    ZydisDecoderContext ctx;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    if (!decode_next(c, &ctx, &z))
        return false; /* it is #UD, and that writes the stack */
    if (saves_registers(&z))
        return false;
    if (changes_translation(&z) || !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(decoder_of(c->interpret, c->mode),
                                                                            &ctx, &z, o, z.operand_count)))
        return true;
    for (unsigned i = 0; i < z.operand_count; i++)
        if (touches_memory(&o[i]))
            return true;
    return false;
}
