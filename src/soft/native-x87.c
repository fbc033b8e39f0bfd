/*
 * x87 instructions. Moving the whole unit in and out with FXRSTOR and FXSAVE is right for all of them
 * and takes some 200 ns. The common ones have a second stub that loads only the stack registers that
 * they name, as long as nothing but a plain result can come out: all exceptions masked, every
 * register from ST0 to the deepest one valid, room for a push. Their effect on TOP, tags and
 * condition codes is then known from the opcode.
 */
#include "soft/native-internal.h"

#define C1 0x0200u
#define CODES 0x4700u /* C0 to C3 */
#define STICKY 0x7fu  /* exceptions and stack fault */

static void arithmetic(struct native_x87 *x, unsigned reg, unsigned depth)
{
    x->depth = (u8)depth;
    if (reg == 2 || reg == 3) {
        x->codes = CODES;
        x->pop = reg == 3;
    } else {
        x->written = 1;
    }
}

static bool describe_memory(struct native_x87 *x, unsigned opcode, unsigned reg)
{
    /* By opcode from D9h in steps of two: which values of ModRM.reg load, store, or store and pop. */
    static const struct {
        u8 loads, stores, pops;
    } moves[4] = {{0x01, 0x04, 0x08}, {0x21, 0x04, 0x8a}, {0x01, 0x04, 0x0a}, {0x31, 0x04, 0xca}};
    unsigned n = (opcode - 0xd9) / 2;

    if (!(opcode & 1)) {
        arithmetic(x, reg, 1);
        return true;
    }
    if (moves[n].loads >> reg & 1) {
        x->push = x->written = 1;
        return true;
    }
    x->depth = 1;
    x->pop = moves[n].pops >> reg & 1;
    return x->pop || (moves[n].stores >> reg & 1);
}

/* D9h with a register: FLD, FXCH, constants and functions of ST0. */
static bool describe_d9(struct native_x87 *x, unsigned modrm)
{
    unsigned i = modrm & 7;

    switch (modrm) {
    case 0xc0 ... 0xc6: /* FLD: one deeper there is no room */
        x->depth = (u8)(i + 1);
        x->push = x->written = 1;
        return true;
    case 0xc8 ... 0xcf: /* FXCH */
        x->depth = (u8)(i + 1);
        x->written = (u8)(1 | BIT(i));
        return true;
    case 0xe8 ... 0xee: x->push = x->written = 1; return true;
    case 0xe4: /* FTST */ x->codes = CODES; break;
    case 0xe0: /* FCHS */
    case 0xe1: /* FABS */
    case 0xfa: /* FSQRT */
    case 0xfc: /* FRNDINT */ x->written = 1; break;
    default: return false;
    }
    x->depth = 1;
    return true;
}

/* Writes ST(i), then pops: it is ST(i-1) after that. What a popped ST0 holds is not modelled. */
static bool write_and_pop(struct native_x87 *x, unsigned i, bool to_popped_is_nothing)
{
    x->pop = 1;
    x->written = (u8)(BIT(i) >> 1);
    return i || to_popped_is_nothing;
}

static bool compare_twice_popping(struct native_x87 *x)
{
    x->depth = x->pop = 2;
    x->codes = CODES;
    return true;
}

static bool describe_register(struct native_x87 *x, unsigned opcode, unsigned modrm, bool amd)
{
    unsigned reg = modrm >> 3 & 7, i = modrm & 7;

    x->depth = (u8)(i + 1);
    switch (opcode << 8 | reg) {
    case 0xd800 ... 0xd807: arithmetic(x, reg, i + 1); return true;
    case 0xdc00 ... 0xdc01:
    case 0xdc04 ... 0xdc07: x->written = (u8)BIT(i); return true;
    case 0xde00 ... 0xde01:
    case 0xde04 ... 0xde07: return write_and_pop(x, i, false);
    case 0xde03: return modrm == 0xd9 && compare_twice_popping(x); /* FCOMPP */
    case 0xda05: return modrm == 0xe9 && compare_twice_popping(x); /* FUCOMPP */
    case 0xda00 ... 0xda03:                                        /* FCMOVcc */
    case 0xdb00 ... 0xdb03:
        x->written = 1;
        x->codes = 0;
        return true;
    case 0xdf05 ... 0xdf06: /* FUCOMIP, FCOMIP */
        x->pop = 1;
        x->codes = amd ? 0 : C1;
        return true;
    case 0xdb05 ... 0xdb06: x->codes = amd ? 0 : C1; return true; /* FUCOMI, FCOMI */
    case 0xdd02: x->written = (u8)BIT(i); return true;
    case 0xdd03: return write_and_pop(x, i, true);
    case 0xdd04: x->codes = CODES; return true; /* FUCOM */
    case 0xdd05:
        x->codes = CODES;
        x->pop = 1;
        return true;
    default: x->depth = 0; return opcode == 0xd9 && describe_d9(x, modrm);
    }
}

bool native_describe_x87(struct native_x87 *x, unsigned opcode, unsigned modrm, bool amd)
{
    x->codes = C1;
    if (modrm < 0xc0)
        return describe_memory(x, opcode, modrm >> 3 & 7);
    return describe_register(x, opcode, modrm, amd);
}

/* Valid registers from ST0 on, as bits of the stack order. */
static unsigned valid_in_stack_order(const struct x86_fpu *f)
{
    unsigned twice = f->ftw | (unsigned)f->ftw << 8;

    return twice >> x87_top(f) & 0xff;
}

static bool is_simple_now(const struct x86_fpu *f, const struct native_x87 *x)
{
    unsigned valid = valid_in_stack_order(f), need = (1u << x->depth) - 1;

    if ((f->fcw & X87_FSW_EXCEPTIONS) != X87_FSW_EXCEPTIONS || (valid & need) != need)
        return false;
    return !x->push || !(valid & 0x80);
}

/* Moves st[] so that what was ST(shift) becomes ST0. */
static void shift_stack(struct x86_fpu *f, unsigned shift)
{
    u8 twice[16][16];

    memcpy(twice, f->st, sizeof f->st);
    memcpy(twice[8], f->st, sizeof f->st);
    memcpy(f->st, twice[shift & 7], sizeof f->st);
}

static void adopt(struct x86_fpu *f, const struct native_x87 *x, unsigned host_fsw)
{
    unsigned top = x87_top(f), new_top = (top + x->pop - x->push) & 7;
    unsigned kept = STICKY | (CODES & ~x->codes), taken = STICKY | x->codes;

    f->fsw = (u16)((f->fsw & kept) | (host_fsw & taken) | new_top << X87_FSW_TOP_SHIFT);
    if (new_top != top)
        shift_stack(f, x->pop - x->push);
    for (unsigned i = 0; i < x->pop; i++)
        f->ftw &= (u8)~BIT((top + i) & 7);
    if (x->push)
        f->ftw |= (u8)BIT(new_top);
    for (unsigned left = x->written; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctz(left);
        const u8 *result = f->fxsave + NATIVE_X87_RESULTS + 16 * i;

        put_le64(f->st[i], get_le64(result));
        put_le16(f->st[i] + 8, get_le16(result + 8));
    }
}

void native_execute_x87(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    struct x86_fpu *f = &c->s->fpu;

    /* A fault would not be expected in the short way. */
    if (likely(stub->x87_code && is_simple_now(f, &stub->x87_shape) && !native_alignment_armed(c)))
        adopt(f, &stub->x87_shape, stub->x87_code(c->s, mem));
    else
        native_execute_whole(c, stub, mem);
}
