/*
 * Memory operands that are not simply read or written whole. Masked ones touch, and fault on, only
 * the elements whose mask is set (SDM vol. 2, 2.8.5 "Fault suppression"): where the operand is RAM
 * within one page the host does that by itself; else the elements are moved one at a time through a
 * buffer. Gathers and scatters are done here altogether, in order, so that a fault leaves the
 * elements before it done and their mask bits cleared.
 */
#include "soft/native-internal.h"

/* --- masked operands --- */

static bool suppresses_faults(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E4:
    case ZYDIS_EXCEPTION_CLASS_E5:
    case ZYDIS_EXCEPTION_CLASS_E6:
    case ZYDIS_EXCEPTION_CLASS_E10:
    case ZYDIS_EXCEPTION_CLASS_E11: return true;
    default: return false;
    }
}

static bool is_scalar(const ZydisDecodedInstruction *insn)
{
    return insn->meta.isa_set == ZYDIS_ISA_SET_AVX512F_SCALAR ||
           insn->meta.isa_set == ZYDIS_ISA_SET_AVX512DQ_SCALAR ||
           insn->meta.isa_set == ZYDIS_ISA_SET_AVX512_FP16_SCALAR;
}

/* How many elements a broadcast makes; 0 when the operand is not broadcast. */
static unsigned broadcast_count(const ZydisDecodedInstruction *insn)
{
    switch (insn->avx.broadcast.mode) {
    case ZYDIS_BROADCAST_MODE_1_TO_2: return 2;
    case ZYDIS_BROADCAST_MODE_1_TO_4:
    case ZYDIS_BROADCAST_MODE_2_TO_4: return 4;
    case ZYDIS_BROADCAST_MODE_1_TO_8:
    case ZYDIS_BROADCAST_MODE_2_TO_8:
    case ZYDIS_BROADCAST_MODE_4_TO_8: return 8;
    case ZYDIS_BROADCAST_MODE_1_TO_16:
    case ZYDIS_BROADCAST_MODE_2_TO_16:
    case ZYDIS_BROADCAST_MODE_4_TO_16:
    case ZYDIS_BROADCAST_MODE_8_TO_16: return 16;
    case ZYDIS_BROADCAST_MODE_1_TO_32: return 32;
    case ZYDIS_BROADCAST_MODE_1_TO_64: return 64;
    default: return 0;
    }
}

static bool is_packed(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VCOMPRESSPS:
    case ZYDIS_MNEMONIC_VCOMPRESSPD:
    case ZYDIS_MNEMONIC_VPCOMPRESSB:
    case ZYDIS_MNEMONIC_VPCOMPRESSW:
    case ZYDIS_MNEMONIC_VPCOMPRESSD:
    case ZYDIS_MNEMONIC_VPCOMPRESSQ:
    case ZYDIS_MNEMONIC_VEXPANDPS:
    case ZYDIS_MNEMONIC_VEXPANDPD:
    case ZYDIS_MNEMONIC_VPEXPANDB:
    case ZYDIS_MNEMONIC_VPEXPANDW:
    case ZYDIS_MNEMONIC_VPEXPANDD:
    case ZYDIS_MNEMONIC_VPEXPANDQ: return true;
    default: return false;
    }
}

/* Elements of the destination, or of the source where that is an opmask register. */
static unsigned vector_elements(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ops[i].element_count > 1 &&
            ZydisRegisterGetClass(ops[i].reg.value) != ZYDIS_REGCLASS_MASK)
            return ops[i].element_count;
    return 64; /* VFPCLASS: as many as in memory */
}

/* How many bits of the opmask register count (@n), and into how many elements memory falls (@e). */
static void count_elements(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                           const ZydisDecodedOperand *mem, unsigned *n, unsigned *e)
{
    *e = mem->element_count;
    *n = broadcast_count(insn);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VPSHUFBITQMB: /* a bit for each byte of the operand */
        *n = *e = mem->size / 8;
        return;
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB: /* a bit for each byte, of matrices of eight */
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
        *n = vector_elements(insn, ops);
        *e = 1;
        return;
    default: break;
    }
    if (is_scalar(insn))
        *n = *e = 1;
    else if (!*n && mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        *n = *e;
    else if (!*n)
        *n = *e = MIN(*e, vector_elements(insn, ops));
}

static bool masks_memory(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *mem)
{
    if (insn->avx.mask.reg == ZYDIS_REGISTER_K0 || insn->avx.mask.reg == ZYDIS_REGISTER_NONE)
        return false;
    switch (insn->mnemonic) { /* E4NF, which the tables do not say */
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB: return false;
    default: break;
    }
    /* Stores must not write back what they masked, even those that do not suppress faults. */
    return suppresses_faults(insn) || (mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

static void describe_opmask(struct native_stub *stub, const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *ops, const ZydisDecodedOperand *mem)
{
    unsigned n, e;

    if (!masks_memory(insn, mem))
        return;
    count_elements(insn, ops, mem, &n, &e);
    if (!n || n > 64 || !e || n % e || stub->mem_size % e)
        return;
    stub->mask = is_packed(insn) ? NATIVE_MASK_PACKED : NATIVE_MASK_OPMASK;
    stub->mask_reg = (u8)ZydisRegisterGetId(insn->avx.mask.reg);
    stub->mask_bits = (u8)n;
    stub->element_count = (u8)e;
    stub->element_size = stub->mem_size / (u8)e;
    stub->whole = !suppresses_faults(insn);
}

void native_describe_mask(struct native_stub *stub, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *ops, const ZydisDecodedOperand *mem, bool amd)
{
    stub->mask = NATIVE_MASK_NONE;
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        describe_opmask(stub, insn, ops, mem);
        return;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        stub->element_size = 1; /* which faults come with a zero mask is up to the processor (SDM vol. 2) */
        stub->whole = amd;
        break;
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD: stub->element_size = 4; break;
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: stub->element_size = 8; break;
    default: return;
    }
    /* The mask is the second operand of each. */
    stub->mask = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? NATIVE_MASK_SIGN_MMX : NATIVE_MASK_SIGN;
    stub->mask_reg = (u8)ZydisRegisterGetId(ops[1].reg.value);
    stub->element_count = stub->mem_size / stub->element_size;
}

/* MM registers are physical ones: st[] is in stack order. */
static const u8 *mmx_register(const struct x86_fpu *f, unsigned i)
{
    return f->st[(i - x87_top(f)) & 7];
}

/* Bit i: element i of the memory operand is accessed. */
static u64 active_elements(const struct soft_cpu *c, const struct native_stub *stub)
{
    const struct x86_fpu *f = &c->s->fpu;
    u64 k = f->k[stub->mask_reg & 7] & MASK(stub->mask_bits), active = 0;
    const u8 *signs =
        stub->mask == NATIVE_MASK_SIGN_MMX ? mmx_register(f, stub->mask_reg) : f->vec[stub->mask_reg & 31];

    switch (stub->mask) {
    case NATIVE_MASK_OPMASK: /* a broadcast uses each element of memory several times */
        for (; k; k = stub->element_count < 64 ? k >> stub->element_count : 0)
            active |= k & MASK(stub->element_count);
        return active;
    case NATIVE_MASK_PACKED: return MASK((unsigned)__builtin_popcountll(k));
    default:
        for (unsigned i = 0; i < stub->element_count; i++)
            active |= (u64)(signs[(i + 1) * stub->element_size - 1] >> 7) << i;
        return active;
    }
}

bool native_is_masked(const struct native_stub *stub)
{
    return stub->run == native_run_masked || stub->run == native_run_vsib;
}

unsigned native_masked_bytes(struct soft_cpu *c, const struct native_stub *stub, unsigned *first)
{
    *first = 0;
    if (stub->run != native_run_masked)
        return 0;
    if (stub->whole)
        return stub->mem_size;
    u64 active = active_elements(c, stub);
    if (!active)
        return 0;
    *first = (unsigned)__builtin_ctzll(active) * stub->element_size;
    return (64 - (unsigned)__builtin_clzll(active)) * stub->element_size - *first;
}

static void run_elements(struct soft_cpu *c, const struct native_stub *stub, u64 la, u64 active)
{
    u8 *buf = native_bounce(stub->cache, la);
    unsigned size = stub->element_size;

    for (u64 left = active; left; left &= left - 1) {
        unsigned at = (unsigned)__builtin_ctzll(left) * size;

        if (native_reads(stub))
            soft_read_bytes(c, la + at, buf + at, size);
        else
            soft_probe(c, la + at, size, SOFT_WRITE);
    }
    native_execute(c, stub, buf);
    if (native_writes(stub))
        for (u64 left = active; left; left &= left - 1) {
            unsigned at = (unsigned)__builtin_ctzll(left) * size;

            soft_write_bytes(c, la + at, buf + at, size);
        }
}

void native_run_masked(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    u64 active;
    void *mem;

    native_check_unit(c, stub);
    mem = native_direct(c, la, stub->mem_size, stub->mem_access);
    if (!mem) {
        if (stub->mask == NATIVE_MASK_SIGN_MMX && stub->whole) {
            x87_set_top(&c->s->fpu, 0); /* to MMX state, which AMD's processors do even on a fault */
            c->s->fpu.ftw = 0xff;
        }
        active = active_elements(c, stub);
        if (active || stub->whole) {
            unsigned first = active ? (unsigned)__builtin_ctzll(active) * stub->element_size : 0;

            native_check_alignment(c, stub, la);
            if (stub->whole)
                soft_probe(c, la, stub->mem_size, SOFT_WRITE);
            else
                soft_probe(c, la + first, stub->element_size, native_writes(stub) ? SOFT_WRITE : SOFT_READ);
            mem = native_direct(c, la, stub->mem_size, stub->mem_access);
        }
        if (!mem) {
            run_elements(c, stub, la, active);
            return;
        }
    }
    native_execute(c, stub, mem);
}

/* --- gathers and scatters --- */

static bool is_qword_index(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
    case ZYDIS_MNEMONIC_VSCATTERQPD:
    case ZYDIS_MNEMONIC_VPSCATTERQD:
    case ZYDIS_MNEMONIC_VPSCATTERQQ: return true;
    default: return false;
    }
}

static unsigned vector_bytes(ZydisRegister reg)
{
    return 16u << (ZydisRegisterGetClass(reg) - ZYDIS_REGCLASS_XMM);
}

bool native_describe_vsib(struct native_stub *stub, const ZydisDecodedInstruction *insn,
                          const ZydisDecodedOperand *ops)
{
    struct native_vsib *v = &stub->vsib;
    const ZydisDecodedOperand *mem, *data, *mask;

    v->scatter = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    v->evex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    data = v->scatter ? &ops[2] : &ops[0];
    mem = v->scatter ? &ops[0] : v->evex ? &ops[2] : &ops[1];
    mask = v->evex ? &ops[1] : &ops[2];
    if (mem->type != ZYDIS_OPERAND_TYPE_MEMORY || mem->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
        return false;
    v->base = mem->mem.base;
    v->seg = (u8)(mem->mem.segment - ZYDIS_REGISTER_ES);
    v->scale = mem->mem.scale;
    v->disp = mem->mem.disp.value;
    v->address_size = insn->address_width / 8;
    v->index_reg = (u8)ZydisRegisterGetId(mem->mem.index);
    v->index_size = is_qword_index(insn->mnemonic) ? 8 : 4;
    v->data_reg = (u8)ZydisRegisterGetId(data->reg.value);
    v->data_size = (u8)(mem->element_size / 8);
    v->mask_reg = (u8)ZydisRegisterGetId(mask->reg.value);
    v->count =
        (u8)MIN(vector_bytes(data->reg.value) / v->data_size, vector_bytes(mem->mem.index) / v->index_size);
    if (v->evex)
        return v->mask_reg && (v->scatter || v->data_reg != v->index_reg);
    return v->data_reg != v->index_reg && v->data_reg != v->mask_reg && v->index_reg != v->mask_reg;
}

static u64 element_address(struct soft_cpu *c, const struct native_vsib *v, unsigned i)
{
    const u8 *index = c->s->fpu.vec[v->index_reg] + i * v->index_size;
    u64 offset = v->index_size == 8 ? get_le64(index) : (u64)(i64)(i32)get_le32(index);

    offset = offset * v->scale + (u64)v->disp;
    if (v->base != ZYDIS_REGISTER_NONE)
        offset += c->s->gpr[ZydisRegisterGetId(
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, v->base))];
    offset &= MASK(8 * v->address_size);
    return soft_segment_check(c, v->seg, offset, v->data_size, v->scatter ? SOFT_WRITE : SOFT_READ);
}

static bool element_selected(const struct x86_fpu *f, const struct native_vsib *v, unsigned i)
{
    if (v->evex)
        return f->k[v->mask_reg] >> i & 1;
    return f->vec[v->mask_reg][(i + 1) * v->data_size - 1] >> 7;
}

static void deselect(struct x86_fpu *f, const struct native_vsib *v, unsigned i)
{
    if (v->evex)
        f->k[v->mask_reg] &= ~BIT(i);
    else
        memset(f->vec[v->mask_reg] + i * v->data_size, 0, v->data_size);
}

/* The destination of a gather has no more than its elements of @size bytes. */
static void zero_above(const struct native_vsib *v, u8 *data, size_t size)
{
    size_t used = v->count * size;

    memset(data + used, 0, 64 - used);
}

void native_run_vsib(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    const struct native_vsib *v = &stub->vsib;
    struct x86_fpu *f = &c->s->fpu;
    u8 *data = f->vec[v->data_reg];

    (void)la;
    native_check_unit(c, stub);
    for (unsigned i = 0; i < v->count; i++) {
        u8 *element = data + i * v->data_size;

        if (element_selected(f, v, i)) {
            u64 at = element_address(c, v, i);

            if (v->scatter) {
                soft_write_bytes(c, at, element, v->data_size);
            } else {
                soft_read_bytes(c, at, element, v->data_size);
                if (v->evex)
                    zero_above(v, data,
                               MAX(v->data_size, v->index_size)); /* if a later one faults: as AMD's */
            }
        }
        deselect(f, v, i);
    }
    if (v->evex)
        f->k[v->mask_reg] = 0;
    else
        memset(f->vec[v->mask_reg], 0, 64);
    if (!v->scatter)
        zero_above(v, data, v->data_size);
}
