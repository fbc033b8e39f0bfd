/*
 * The architectural state of one vCPU, the same under every engine. What is saved under one engine
 * resumes under any other. Everything here is described in x86_state_desc.
 *
 * While a vCPU runs, its engine may hold parts elsewhere; vcpu_sync() makes the struct true.
 * rflags is always whole (no lazy flags outside an engine).
 */
#ifndef TRAPEZE_CPU_STATE_H
#define TRAPEZE_CPU_STATE_H

#include "state/fields.h"
#include "x86/regs.h"

/*
 * A segment register with its hidden part. @attr has the descriptor's bits 40..55 in the layout
 * that VMX calls access rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
 * @limit is in bytes (already scaled by G).
 */
struct x86_segment {
    u64 base;
    u32 limit;
    u32 attr;
    u16 selector;
};

#define X86_ATTR_TYPE 0xfu
#define X86_ATTR_ACCESSED 0x1u
#define X86_ATTR_RW 0x2u /* writable data, readable code */
#define X86_ATTR_DC 0x4u /* expand-down data, conforming code */
#define X86_ATTR_CODE 0x8u
#define X86_ATTR_S 0x10u
#define X86_ATTR_DPL_SHIFT 5
#define X86_ATTR_DPL (3u << 5)
#define X86_ATTR_P 0x80u
#define X86_ATTR_AVL 0x1000u
#define X86_ATTR_L 0x2000u
#define X86_ATTR_DB 0x4000u
#define X86_ATTR_G 0x8000u
#define X86_ATTR_UNUSABLE 0x10000u /* a null selector */

struct x86_table {
    u64 base;
    u16 limit;
};

/* x87, MMX and vector state. MMX registers are the low 64 bits of st[] by physical number. */
struct x86_fpu {
    /*
     * The first 160 bytes of an FXSAVE64 image: control, status, abridged tag, opcode, RIP, RDP,
     * MXCSR, mask, and ST0..ST7 (16 bytes each, in stack order). The rest is scratch for host stubs.
     */
    union {
        struct {
            u16 fcw, fsw;
            u8 ftw, rsvd;
            u16 fop;
            u64 fip, fdp;
            u32 mxcsr, mxcsr_mask;
            u8 st[8][16];
        };
        u8 fxsave[512];
    } ALIGNED(64);
    u8 vec[32][64] ALIGNED(64); /* ZMM0..31; XMM and YMM are their low parts */
    u64 k[8];
    u32 pkru;
};

enum vcpu_mp { VCPU_MP_RUNNABLE, VCPU_MP_HALTED, VCPU_MP_WAIT_SIPI };

struct x86_state {
    u64 gpr[16];
    u64 rip;
    u64 rflags;
    struct x86_segment seg[X86_SEG_COUNT]; /* index: enum x86_seg. CPL is SS's DPL. */
    struct x86_segment ldt, tr;
    struct x86_table gdt, idt;
    u64 cr0, cr2, cr3, cr4; /* CR8 is the local APIC's TPR */
    u64 xcr0;
    u64 dr[4], dr6, dr7;

    u64 efer, star, lstar, cstar, sfmask, kernel_gs_base;
    u64 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 pat, tsc_aux, tsc_adjust, misc_enable, spec_ctrl, debugctl, xss;
    u64 mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
    u64 mcg_status;
    i64 tsc_offset; /* guest TSC = vclock_tsc() + tsc_offset */
    u64 kvm_wall_clock, kvm_system_time, kvm_steal_time, kvm_pv_eoi;

    struct x86_fpu fpu;

    /* Events in flight */
    u8 mp_state;    /* enum vcpu_mp */
    u8 int_shadow;  /* 1 after STI, 2 after MOV SS / POP SS: until the next instruction is done */
    u8 nmi_blocked; /* from NMI delivery to IRET */
    u8 nmi_pending;
    u32 pending_db;       /* DR6 bits of debug traps to take after the last instruction */
    u8 exception_pending; /* an exception is to be delivered before the next instruction */
    u8 exception_vector;
    u8 exception_has_error;
    u32 exception_error;
    u8 interrupt_pending; /* acknowledged at the irqchip, to be delivered before the next instruction */
    u8 interrupt_vector;
};

extern const struct state_desc x86_state_desc;

/* Power-on state (SDM vol. 3, 10.1.1): real mode at f000:fff0. @bsp: runnable, else waits for SIPI. */
void x86_state_reset(struct x86_state *s, bool bsp);

/* After INIT: as reset, but x87/SSE, TSC and the MTRRs keep their values; waits for SIPI unless @bsp. */
void x86_state_init_reset(struct x86_state *s, bool bsp);

static inline unsigned x86_cpl(const struct x86_state *s)
{
    return (s->seg[X86_SS].attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT;
}
static inline bool x86_long_mode(const struct x86_state *s)
{
    return s->efer & X86_EFER_LMA;
}
static inline bool x86_code64(const struct x86_state *s)
{
    return (s->efer & X86_EFER_LMA) && (s->seg[X86_CS].attr & X86_ATTR_L);
}
static inline bool x86_paging(const struct x86_state *s)
{
    return s->cr0 & X86_CR0_PG;
}
static inline bool x86_protected(const struct x86_state *s)
{
    return s->cr0 & X86_CR0_PE;
}
static inline bool x86_v8086(const struct x86_state *s)
{
    return s->rflags & X86_VM;
}

#endif
