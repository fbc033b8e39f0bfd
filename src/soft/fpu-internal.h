/* What fpu.c and the x87 part of native execution share: the x87 control state of struct x86_fpu. */
#ifndef TRAPEZE_SOFT_FPU_INTERNAL_H
#define TRAPEZE_SOFT_FPU_INTERNAL_H

#include "soft/soft.h"

#define X87_FSW_EXCEPTIONS 0x3fu
#define X87_FSW_ES 0x80u /* an unmasked exception is pending */
#define X87_FSW_B 0x8000u
#define X87_FSW_TOP_SHIFT 11
#define X87_FCW_INIT 0x37fu

/* The bits of MXCSR that exist: DAZ, but not AMD's misaligned mode (it is not offered). */
#define MXCSR_VALID 0xffffu
#define MXCSR_INIT 0x1f80u

/* As the hardware loads them: reserved control bits are fixed, ES and B follow from flags and masks. */
void x87_load_control(struct x86_fpu *f, u16 fcw, u16 fsw);

/* FNINIT; register contents stay. */
void x87_init(struct x86_fpu *f);

/* Changes TOP and leaves each value in its physical register (st[] is in stack order). */
void x87_set_top(struct x86_fpu *f, unsigned top);

static inline unsigned x87_top(const struct x86_fpu *f)
{
    return f->fsw >> X87_FSW_TOP_SHIFT & 7;
}

#endif
