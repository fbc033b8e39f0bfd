/*
 * Instructions on vector, mask, MMX and x87 registers, copied with those registers as they are (T11, T12).
 * What changes are general registers and the memory operand, which becomes [rcx].
 */
#include "soft/interpret/decode-internal.h"
#include "soft/native-internal.h"
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))
#define STATE_AT(reg, field) at(reg, (i32)offsetof(struct x86_state, field))

/* --- what is done here --- */

/* Is its handler one that executes it on the host? */
static bool is_native(const struct insn *i)
{
    handler *h = i->op ? i->op : i->fn;
    return h == insn_native || h == insn_native_no_flags;
}

bool is_vector(const struct insn *i)
{
    return is_native(i) && i->stub->unit >= NATIVE_UNIT_X87;
}

static enum vector_class class_of(const struct native_stub *stub)
{
    switch (stub->unit) {
    case NATIVE_UNIT_SSE: return VECTOR_SSE;
    case NATIVE_UNIT_AVX: return VECTOR_AVX;
    case NATIVE_UNIT_AVX512: return VECTOR_AVX512;
    case NATIVE_UNIT_GPR:
    case NATIVE_UNIT_VEX_GPR: return VECTOR_CLASSES;
    default: return VECTOR_X87;
    }
}

static bool is_gpr(const ZydisDecodedOperand *op)
{
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && decode_reg(op->reg.value) != NO_REG;
}

static bool is_written(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

static bool is_read(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
}

/* An operand in RAX, RCX or RDX by definition: those are the translator's. */
static bool is_implied(const ZydisDecodedOperand *op)
{
    return is_gpr(op) && op->encoding == ZYDIS_OPERAND_ENCODING_NONE;
}

static bool implied_known(const ZydisDecodedOperand *op)
{
    unsigned r = gpr_of(op->reg.value);
    if (is_written(op) && op->size < 32)
        return false;
    return r == X86_RAX || r == X86_RDX || (r == X86_RCX && !is_read(op));
}

static bool gpr_known(const ZydisDecodedOperand *op)
{
    if (is_implied(op))
        return implied_known(op);
    return is_written(op) ? op->size >= 32 : op->size > 8 || (decode_reg(op->reg.value) & 7) == 0;
}

static bool operands_known(const struct translator *x)
{
    bool mmx = false, xmm = false;
    for (unsigned n = 0; n < x->z.operand_count; n++) {
        const ZydisDecodedOperand *op = &x->op[n];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (!plain_memory(x, op) || op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
             op->mem.type != ZYDIS_MEMOP_TYPE_MEM))
            return false;
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);
        mmx |= class == ZYDIS_REGCLASS_MMX;
        xmm |= class == ZYDIS_REGCLASS_XMM;
        if (is_gpr(op) && !gpr_known(op))
            return false;
    }
    return !mmx || (!xmm && x->z.meta.category != ZYDIS_CATEGORY_CONVERT); /* those need MXCSR, too */
}

/* Of is_vector(), or others that the interpreter executes on the host. */
bool vector_known(const struct translator *x, const struct insn *i)
{
    if (!is_native(i))
        return false;
    const struct native_stub *stub = i->stub;
    const ZydisDecodedOperand *m = memory_operand(x);
    if (m && m->mem.base == ZYDIS_REGISTER_RIP && rip_disp(x, i, m) != (i32)rip_disp(x, i, m))
        return false;
    if (vector_control(x))
        return !m || plain_memory(x, m);
    if (!stub->code || !operands_known(x) || (m ? m->size / 8 : 0) != stub->mem_size)
        return false;
    if (x->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        x->z.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX && x->z.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
        return false;
    return x->z.attributes & ZYDIS_ATTRIB_HAS_MODRM;
}

/* --- are the registers here? --- */

static u8 *jump_if_away(struct translator *x, enum vector_class class)
{
    struct emit *e = x->e;
    if (x->flags_in_host && x->live[x->index]) {
        emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xb6, .reg = HOST_C}, /* movzx */
                at(HOST_CPU, (i32)(offsetof(struct soft_cpu, vector_away) + class)));
        emit_bytes(e, "\xe3\x05", 2); /* jrcxz over the jump */
        return emit_jump(e, CC_ALWAYS);
    }
    if (!x->live[x->index])
        x->flags_saved = false;
    flags_destroyed(x);
    emit_vector_present(e, class);
    return emit_jump(e, CC_NE);
}

static void require(struct translator *x, enum vector_class class)
{
    if (class == VECTOR_CLASSES || (x->vector_known & BIT(class)))
        return;
    struct vector_check *k = &x->checks[x->check_count++];
    *k = (struct vector_check){.index = x->index, .class = class, .x87 = x->x87_last};
    k->jump = jump_if_away(x, class);
    k->save = x->flags_in_host && !x->flags_saved;
    k->reload = x->flags_in_host;
    k->back = x->e->at;
    x->vector_known |= (u8)(class == VECTOR_X87 ? BIT(class) : MASK(class + 1));
}

void vector_emit_load(struct translator *x, enum vector_class class)
{
    emit_call_to(x->e, class == VECTOR_X87 ? x->t->thunk.x87_load : x->t->thunk.vector_load);
    emit_vector_present(x->e, class);
}

/* Handlers do the whole block, or the run loop finds a block that begins with this instruction (T12). */
static void refuse(struct translator *x, const struct vector_check *k)
{
    i32 off = x->block_off + x->b->insn[k->index].off;
    if (!x->live[k->index])
        flags_redo(x, &x->recipe[k->index]);
    vector_pointers(x, &k->x87);
    if (k->index == 0) {
        const struct insn *last = &x->b->insn[x->whole - 1];
        call_handlers(x, 0, x->whole);
        off = x->block_off + last->off + last->len;
    }
    leave_saved(x, off);
}

void vector_emit_checks(struct translator *x)
{
    struct emit *e = x->e;
    for (unsigned n = 0; n < x->check_count; n++) {
        const struct vector_check *k = &x->checks[n];
        emit_set_target(k->jump, e->at);
        if (k->save)
            emit_save_flags(e);
        vector_emit_load(x, k->class);
        u8 *away = emit_jump(e, CC_NE);
        if (k->reload)
            emit_load_flags(e);
        emit_jump_to(e, CC_ALWAYS, k->back);
        emit_set_target(away, e->at);
        refuse(x, k);
    }
}

/* What a handler gave up comes back, for an instruction in whose middle it was called. */
void vector_emit_return(struct translator *x, const struct slow_path *p)
{
    struct emit *e = x->e;
    for (enum vector_class class = VECTOR_CLASSES; class -- > 0;) {
        if (!(p->vector_known & BIT(class)))
            continue;
        emit_vector_present(e, class);
        u8 *here = emit_jump(e, CC_E);
        vector_emit_load(x, class);
        u8 *loaded = emit_jump(e, CC_E);
        const struct insn *last = &x->b->insn[p->index + p->count - 1u];
        leave_saved(x, x->block_off + last->off + last->len);
        emit_set_target(here, e->at);
        emit_set_target(loaded, e->at);
        if (class != VECTOR_X87)
            break; /* it has the lower ones in it */
    }
}

/* --- the last x87 instruction --- */

void vector_pointers(struct translator *x, const struct x87_last *last)
{
    struct emit *e = x->e;
    if (!last->fop_known)
        return;
    emit_load(e, HOST_A, CPU(s));
    emit_load(e, HOST_C, CPU(page_rip));
    emit_lea(e, HOST_C, at(HOST_C, last->off));
    emit_store(e, STATE_AT(HOST_A, fpu.fip), HOST_C);
    struct encoding n = {
        .p66 = true, .opcode = 0xc7, .imm_len = 2, .imm = {(u8)last->fop, (u8)(last->fop >> 8)}};
    emit_rm(e, &n, STATE_AT(HOST_A, fpu.fop));
    if (!last->fdp_known)
        return;
    emit_load(e, HOST_C, at(HOST_CPU, (i32)(offsetof(struct soft_cpu, x87_fdp) + 8u * last->slot)));
    emit_store(e, STATE_AT(HOST_A, fpu.fdp), HOST_C);
}

void vector_flush(struct translator *x)
{
    vector_pointers(x, &x->x87_last);
    x->x87_last = (struct x87_last){.slot = x->x87_last.slot};
}

static void note_x87(struct translator *x, const struct insn *i, bool memory)
{
    x->x87_last.off = x->block_off + i->off;
    x->x87_last.fop = i->stub->fop;
    x->x87_last.fop_known = true;
    x->x87_last.fdp_known |= memory;
    if (memory)
        x->x87_last.slot ^= 1;
}

/* --- the instruction again --- */

/* Numbers for the fields of the encoding that name general registers, or KEEP. */
#define KEEP 0xff
struct fields {
    u8 reg, rm, vvvv;
    bool memory, gs; /* [rcx + disp], gs:[rcx + rbp + disp] */
    i32 disp;
    bool rex; /* for a byte register that only REX reaches */
};

static void put_legacy_prefixes(struct translator *x, const struct fields *f)
{
    const ZydisDecodedInstruction *z = &x->z;
    unsigned rex = 0;
    for (unsigned n = 0; n < z->raw.prefix_count; n++) {
        u8 v = z->raw.prefixes[n].value;
        if (v == 0x66 || v == 0xf2 || v == 0xf3)
            emit8(x->e, v);
    }
    if (z->attributes & ZYDIS_ATTRIB_HAS_REX)
        rex = (unsigned)z->raw.rex.W << 3 | (unsigned)z->raw.rex.R << 2 | (unsigned)z->raw.rex.X << 1 |
              z->raw.rex.B;
    if (f->reg != KEEP)
        rex = (rex & ~4u) | (unsigned)(f->reg >> 3) << 2;
    if (f->memory)
        rex &= ~3u;
    if (f->rm != KEEP)
        rex = (rex & ~3u) | f->rm >> 3;
    if (rex || f->rex)
        emit8(x->e, (u8)(0x40 | rex));
}

/* R, X and B stand inverted in the byte after C4 or 62; EVEX has R' (bit 4 of reg) there, too. */
static u8 with_fields(u8 byte, const struct fields *f, bool evex)
{
    if (f->reg != KEEP)
        byte = (u8)((byte & 0x7f) | (f->reg < 8) << 7 | (evex ? 0x10 : 0));
    if (f->memory)
        byte |= 0x60;
    if (f->rm != KEEP)
        byte = (u8)((byte & ~0x20) | 0x40 | (f->rm < 8) << 5);
    return byte;
}

/*
 * What follows C4 or 62, of 32-bit code: the bits for registers from the eighth on are ignored there, as W is
 * with general registers.
 */
static void narrow_prefix(const struct translator *x, const struct fields *f, u8 p[2])
{
    if (x->wide)
        return;
    if (f->reg == KEEP)
        p[0] |= 0x80;
    if (f->rm == KEEP)
        p[0] |= 0x60;
    if (f->vvvv == KEEP)
        p[1] |= 0x40;
    if (native_w_ignored(&x->z, x->op))
        p[1] &= 0x7f;
}

static void put_prefixes(struct translator *x, const struct fields *f, const u8 *bytes)
{
    const ZydisDecodedInstruction *z = &x->z;
    u8 p[4];
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        memcpy(p, bytes + z->raw.evex.offset, 4);
        p[1] = with_fields(p[1], f, true);
        if (!x->wide) {
            p[1] |= 0x10;
            p[3] |= 0x08;
        }
        narrow_prefix(x, f, p + 1);
        emit_bytes(x->e, p, 4);
    } else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        const u8 *vex = bytes + z->raw.vex.offset;
        p[0] = 0xc4;
        p[1] = with_fields(z->raw.vex.size == 2 ? (u8)((vex[1] & 0x80) | 0x61) : vex[1], f, false);
        p[2] = z->raw.vex.size == 2 ? vex[1] & 0x7f : vex[2];
        if (f->vvvv != KEEP)
            p[2] = (u8)((p[2] & 0x87) | (~f->vvvv & 15) << 3);
        narrow_prefix(x, f, p + 1);
        emit_bytes(x->e, p, 3);
    } else {
        put_legacy_prefixes(x, f);
    }
}

static void put_opcode(struct translator *x)
{
    if (x->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        switch (x->z.opcode_map) {
        case ZYDIS_OPCODE_MAP_0F: emit8(x->e, 0x0f); break;
        case ZYDIS_OPCODE_MAP_0F38: emit_bytes(x->e, "\x0f\x38", 2); break;
        case ZYDIS_OPCODE_MAP_0F3A: emit_bytes(x->e, "\x0f\x3a", 2); break;
        default: break;
        }
    }
    emit8(x->e, x->z.opcode);
}

static void put_insn(struct translator *x, const struct insn *i, const struct fields *f)
{
    const ZydisDecodedInstruction *z = &x->z;
    const u8 *bytes = x->b->bytes + i->off;
    u8 modrm = bytes[z->raw.modrm.offset];
    unsigned tail =
        z->raw.modrm.offset + 1u + !!(z->attributes & ZYDIS_ATTRIB_HAS_SIB) + z->raw.disp.size / 8u;
    if (f->gs)
        emit8(x->e, 0x65);
    put_prefixes(x, f, bytes);
    put_opcode(x);
    if (f->memory)
        modrm = (u8)((f->disp ? 0x80 : 0) | (modrm & 0x38) | (f->gs ? 4 : HOST_C));
    if (f->reg != KEEP)
        modrm = (u8)((modrm & ~0x38) | (f->reg & 7) << 3);
    if (f->rm != KEEP)
        modrm = (u8)((modrm & ~7) | (f->rm & 7));
    emit8(x->e, modrm);
    if (f->memory && f->gs)
        emit8(x->e, HOST_CPU << 3 | HOST_C);
    if (f->memory && f->disp)
        emit32(x->e, (u32)f->disp);
    emit_bytes(x->e, bytes + tail, i->len - tail);
    if (!x->wide && native_has_is4(z, x->op))
        x->e->at[-1] &= 0x7f;
}

/* --- operands --- */

/* For an instruction that leaves no trace of its operand's address, and does not care how it is aligned. */
static bool plain_pointer(const struct insn *i)
{
    return !i->stub->x87 && !i->stub->align_mask;
}

/* The memory operand, aligned as it must be: C and a displacement. */
static struct address vector_pointer(struct translator *x, const struct insn *i, const ZydisDecodedOperand *m)
{
    if (plain_pointer(i))
        return keeps_flags(x, i) ? emit_pointer_keeping_flags(x, i, m) : emit_operand_at_c(x, i, m);
    x->pointer.valid = false;
    emit_address(x, i, m, HOST_C);
    /* The other slot than that of the instruction before: this one may yet fault. */
    if (i->stub->x87)
        emit_store(x->e, at(HOST_CPU, (i32)(offsetof(struct soft_cpu, x87_fdp) + 8u * !x->x87_last.slot)),
                   HOST_C);
    struct address a = emit_pointer_at_c(x, memory_range(x, i, m), m->size / 8, is_written(m));
    if (i->stub->align_mask) {
        emit_bytes(x->e, (u8[]){0xf6, 0xc1, i->stub->align_mask}, 3); /* test cl, imm8 */
        slow_jump(x, CC_NE);
    }
    return a;
}

/* The host register for a general register operand. */
static unsigned place_in(struct translator *x, const ZydisDecodedOperand *op, unsigned tmp)
{
    unsigned r = gpr_of(op->reg.value);
    if (is_far(r) && is_written(op) && !is_read(op))
        return tmp;
    return gpr_get(x, r, tmp);
}

static void put_back(struct translator *x, const ZydisDecodedOperand *op, unsigned host)
{
    if (op && is_written(op))
        gpr_set(x, gpr_of(op->reg.value), host);
}

static void load_implied(struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count; n++) {
        unsigned r;
        if (!is_implied(&x->op[n]) || !is_read(&x->op[n]))
            continue;
        r = gpr_of(x->op[n].reg.value);
        unsigned host = gpr_get(x, r, r);
        if (host != r)
            emit_mov(x->e, r, host);
    }
}

static void store_implied(struct translator *x)
{
    for (unsigned n = 0; n < x->z.operand_count; n++)
        if (is_implied(&x->op[n]))
            put_back(x, &x->op[n], gpr_of(x->op[n].reg.value));
}

static const ZydisDecodedOperand *gpr_in(const struct translator *x, ZydisOperandEncoding where)
{
    const ZydisDecodedOperand *op = operand_in(x, where);
    return op && is_gpr(op) ? op : NULL;
}

/* With general registers in place; A and D hold implied ones, or those that are far. */
static void emit_copy(struct translator *x, const struct insn *i, const struct address *memory)
{
    const ZydisDecodedOperand *reg = gpr_in(x, ZYDIS_OPERAND_ENCODING_MODRM_REG),
                              *rm = gpr_in(x, ZYDIS_OPERAND_ENCODING_MODRM_RM),
                              *vvvv = gpr_in(x, ZYDIS_OPERAND_ENCODING_NDSNDD);
    struct fields f = {.reg = KEEP, .rm = KEEP, .vvvv = KEEP, .memory = memory};
    if (memory) {
        f.gs = memory->gs;
        f.disp = memory->disp;
    }
    load_implied(x);
    if (reg)
        f.reg = (u8)place_in(x, reg, HOST_D);
    if (rm)
        f.rm = (u8)place_in(x, rm, HOST_C);
    if (vvvv)
        f.vvvv = (u8)place_in(x, vvvv, HOST_A);
    f.rex = rm && rm->size == 8;
    put_insn(x, i, &f);
    put_back(x, vvvv, f.vvvv);
    put_back(x, reg, f.reg); /* the second, where they are the same (MULX) */
    put_back(x, rm, f.rm);
    store_implied(x);
}

bool vector_leaves_c(const struct translator *x, const struct insn *i)
{
    enum vector_class class = class_of(i->stub);
    return !vector_control(x) && plain_pointer(i) && !gpr_in(x, ZYDIS_OPERAND_ENCODING_MODRM_RM) &&
           (class == VECTOR_CLASSES || (x->vector_known & BIT(class)));
}

void vector_emit(struct translator *x, const struct insn *i)
{
    const ZydisDecodedOperand *m = memory_operand(x);
    vector_control_fn control = vector_control(x);
    struct address memory = {0};
    require(x, class_of(i->stub));
    if (control) {
        control(x, i);
        return;
    }
    if (m)
        memory = vector_pointer(x, i, m);
    flags_before(x);
    emit_copy(x, i, m ? &memory : NULL);
    flags_after(x);
    if (i->stub->x87)
        note_x87(x, i, m);
}
