/*
 * Control instructions of the x87 and SSE units, done in C on struct x86_fpu: they load or store the
 * environment itself, or do nothing that a guest can see (prefetches). Registers that hold the last
 * instruction's selectors are not kept and read as zero (CPUID says so).
 */
#include "soft/native-internal.h"

#define CONTROL(name) static void name(struct soft_cpu *c, const struct native_stub *stub, u64 la)

static void require_no_x87_exception(struct soft_cpu *c)
{
    /* With CR0.NE clear a PC raises IRQ 13 instead; no system that we run relies on it. */
    if (c->s->fpu.fsw & X87_FSW_ES)
        soft_raise(c, X86_MF);
}

CONTROL(run_fwait)
{
    native_check_unit(c, stub);
    require_no_x87_exception(c);
}

CONTROL(run_fninit)
{
    native_check_unit(c, stub);
    x87_init(&c->s->fpu);
}

CONTROL(run_fnclex)
{
    native_check_unit(c, stub);
    c->s->fpu.fsw &= 0x7f00;
}

/* FENI, FDISI and FSETPM did something on older units; they do not wait for pending exceptions. */
CONTROL(run_former)
{
    native_check_unit(c, stub);
}

CONTROL(run_fldcw)
{
    u16 fcw;

    native_check_unit(c, stub);
    require_no_x87_exception(c);
    fcw = soft_read16(c, la);
    x87_load_control(&c->s->fpu, fcw, c->s->fpu.fsw);
}

CONTROL(run_fnstcw)
{
    native_check_unit(c, stub);
    soft_write16(c, la, c->s->fpu.fcw);
}

CONTROL(run_fnstsw)
{
    native_check_unit(c, stub);
    if (stub->mem_size)
        soft_write16(c, la, c->s->fpu.fsw);
    else
        put_le16(&c->s->gpr[X86_RAX], c->s->fpu.fsw);
}

/* The 2-bit tag of physical register @i (SDM vol. 1, 8.1.7). */
static unsigned full_tag(const struct x86_fpu *f, unsigned i)
{
    const u8 *st = f->st[(i - x87_top(f)) & 7];
    u64 mantissa = get_le64(st);
    unsigned exponent = get_le16(st + 8) & 0x7fff;

    if (!(f->ftw >> i & 1))
        return 3;
    if (!exponent && !mantissa)
        return 1;
    return exponent == 0x7fff || !exponent || !(mantissa >> 63) ? 2 : 0;
}

static u16 full_tags(const struct x86_fpu *f)
{
    u16 tags = 0;

    for (unsigned i = 0; i < 8; i++)
        tags |= full_tag(f, i) << 2 * i;
    return tags;
}

static bool real_format(const struct soft_cpu *c)
{
    return !x86_protected(c->s) || x86_v8086(c->s);
}

/* The environment in the format of mode and operand size (SDM vol. 1, figures 8-9 to 8-12); its size. */
static unsigned put_env(const struct soft_cpu *c, unsigned width, u8 env[28])
{
    const struct x86_fpu *f = &c->s->fpu;
    u32 fip = (u32)f->fip, fdp = (u32)f->fdp;
    bool real = real_format(c);

    if (width == 16) {
        put_le16(env, f->fcw);
        put_le16(env + 2, f->fsw);
        put_le16(env + 4, full_tags(f));
        put_le16(env + 6, (u16)fip);
        put_le16(env + 8, real ? (fip >> 4 & 0xf000) | f->fop : 0);
        put_le16(env + 10, (u16)fdp);
        put_le16(env + 12, real ? fdp >> 4 & 0xf000 : 0);
        return 14;
    }
    put_le32(env, 0xffff0000 | f->fcw);
    put_le32(env + 4, 0xffff0000 | f->fsw);
    put_le32(env + 8, 0xffff0000 | full_tags(f));
    put_le32(env + 12, real ? 0xffff0000 | (u16)fip : fip);
    put_le32(env + 16, real ? (fip >> 16) << 12 | f->fop : (u32)f->fop << 16);
    put_le32(env + 20, real ? 0xffff0000 | (u16)fdp : fdp);
    put_le32(env + 24, real ? (fdp >> 16) << 12 : 0xffff0000);
    return 28;
}

static void get_env(struct soft_cpu *c, unsigned width, const u8 *env)
{
    struct x86_fpu *f = &c->s->fpu;
    bool narrow = width == 16, real = real_format(c);
    u16 tags = narrow ? get_le16(env + 4) : get_le16(env + 8);

    u16 fsw = get_le16(env + (narrow ? 2 : 4));

    x87_set_top(f, fsw >> X87_FSW_TOP_SHIFT & 7);
    x87_load_control(f, get_le16(env), fsw);
    f->ftw = 0;
    for (unsigned i = 0; i < 8; i++)
        f->ftw |= (u8)(((tags >> 2 * i & 3) != 3) << i);
    if (narrow) {
        f->fip = get_le16(env + 6) | (real ? (u32)(get_le16(env + 8) & 0xf000) << 4 : 0);
        f->fop = real ? get_le16(env + 8) & 0x7ff : 0;
        f->fdp = get_le16(env + 10) | (real ? (u32)(get_le16(env + 12) & 0xf000) << 4 : 0);
    } else if (real) {
        f->fip = get_le16(env + 12) | (get_le32(env + 16) >> 12 & 0xffff) << 16;
        f->fop = get_le16(env + 16) & 0x7ff;
        f->fdp = get_le16(env + 20) | (get_le32(env + 24) >> 12 & 0xffff) << 16;
    } else {
        f->fip = get_le32(env + 12);
        f->fop = get_le32(env + 16) >> 16 & 0x7ff;
        f->fdp = get_le32(env + 20);
    }
}

CONTROL(run_fnstenv)
{
    u8 env[28];

    native_check_unit(c, stub);
    soft_write_bytes(c, la, env, put_env(c, stub->operand_width, env));
    x87_load_control(&c->s->fpu, c->s->fpu.fcw | X87_FSW_EXCEPTIONS, c->s->fpu.fsw);
}

CONTROL(run_fldenv)
{
    u8 env[28];

    native_check_unit(c, stub);
    require_no_x87_exception(c);
    soft_read_bytes(c, la, env, stub->operand_width == 16 ? 14 : 28);
    get_env(c, stub->operand_width, env);
}

CONTROL(run_fnsave)
{
    u8 image[28 + 80];
    unsigned at;

    native_check_unit(c, stub);
    at = put_env(c, stub->operand_width, image);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + at + 10 * i, c->s->fpu.st[i], 10);
    soft_write_bytes(c, la, image, at + 80);
    x87_init(&c->s->fpu);
}

CONTROL(run_frstor)
{
    unsigned at = stub->operand_width == 16 ? 14 : 28;
    u8 image[28 + 80];

    native_check_unit(c, stub);
    require_no_x87_exception(c);
    soft_read_bytes(c, la, image, at + 80);
    get_env(c, stub->operand_width, image);
    for (unsigned i = 0; i < 8; i++)
        memcpy(c->s->fpu.st[i], image + at + 10 * i, 10);
}

CONTROL(run_emms)
{
    native_check_unit(c, stub);
    require_no_x87_exception(c);
    x87_set_top(&c->s->fpu, 0);
    c->s->fpu.ftw = 0;
}

CONTROL(run_ldmxcsr)
{
    u32 v;

    native_check_unit(c, stub);
    v = soft_read32(c, la);
    if (v & ~MXCSR_VALID)
        soft_gp0(c);
    c->s->fpu.mxcsr = v;
}

CONTROL(run_stmxcsr)
{
    native_check_unit(c, stub);
    soft_write32(c, la, c->s->fpu.mxcsr);
}

static void zero_from(struct soft_cpu *c, unsigned byte)
{
    unsigned count = x86_code64(c->s) ? 16 : 8;

    for (unsigned i = 0; i < count; i++)
        memset(c->s->fpu.vec[i] + byte, 0, 64 - byte);
}

CONTROL(run_vzeroupper)
{
    native_check_unit(c, stub);
    zero_from(c, 16);
}

CONTROL(run_vzeroall)
{
    native_check_unit(c, stub);
    zero_from(c, 0);
}

/* Guest memory is always coherent here; what is left of a flush is its permission check. */
CONTROL(run_flush)
{
    soft_probe(c, la, 1, SOFT_READ);
}

CONTROL(run_nothing)
{
    (void)c;
    (void)stub;
    (void)la;
}

native_run_fn native_control(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FWAIT:
    case ZYDIS_MNEMONIC_FNOP: return run_fwait;
    case ZYDIS_MNEMONIC_FNINIT: return run_fninit;
    case ZYDIS_MNEMONIC_FNCLEX: return run_fnclex;
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP: return run_former;
    case ZYDIS_MNEMONIC_FLDCW: return run_fldcw;
    case ZYDIS_MNEMONIC_FNSTCW: return run_fnstcw;
    case ZYDIS_MNEMONIC_FNSTSW: return run_fnstsw;
    case ZYDIS_MNEMONIC_FNSTENV: return run_fnstenv;
    case ZYDIS_MNEMONIC_FLDENV: return run_fldenv;
    case ZYDIS_MNEMONIC_FNSAVE: return run_fnsave;
    case ZYDIS_MNEMONIC_FRSTOR: return run_frstor;
    case ZYDIS_MNEMONIC_EMMS: return run_emms;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR: return run_ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR: return run_stmxcsr;
    case ZYDIS_MNEMONIC_VZEROUPPER: return run_vzeroupper;
    case ZYDIS_MNEMONIC_VZEROALL: return run_vzeroall;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: return run_flush;
    case ZYDIS_MNEMONIC_CLDEMOTE:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1: return run_nothing;
    default: return NULL;
    }
}
