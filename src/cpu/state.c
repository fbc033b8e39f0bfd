/* The architectural state: its description, and what reset and INIT make of it. */
#include "cpu/state.h"

#include <errno.h>
#include <string.h>

static const struct field segment_fields[] = {
    FIELD(struct x86_segment, base),
    FIELD(struct x86_segment, limit),
    FIELD(struct x86_segment, attr),
    FIELD(struct x86_segment, selector),
    FIELD_END,
};
static const struct state_desc segment_desc = {.name = "x86-segment", .version = 1, .fields = segment_fields};

static const struct field table_fields[] = {
    FIELD(struct x86_table, base),
    FIELD(struct x86_table, limit),
    FIELD_END,
};
static const struct state_desc table_desc = {.name = "x86-table", .version = 1, .fields = table_fields};

static const struct field fpu_fields[] = {
    FIELD(struct x86_fpu, fcw),
    FIELD(struct x86_fpu, fsw),
    FIELD(struct x86_fpu, ftw),
    FIELD(struct x86_fpu, fop),
    FIELD(struct x86_fpu, fip),
    FIELD(struct x86_fpu, fdp),
    FIELD(struct x86_fpu, mxcsr),
    FIELD(struct x86_fpu, mxcsr_mask),
    FIELD_BYTES(struct x86_fpu, st),
    FIELD_BYTES(struct x86_fpu, vec),
    FIELD_ARRAY(struct x86_fpu, k),
    FIELD(struct x86_fpu, pkru),
    FIELD_END,
};
static const struct state_desc fpu_desc = {.name = "x86-fpu", .version = 1, .fields = fpu_fields};

static const struct field x86_fields[] = {
    FIELD_ARRAY(struct x86_state, gpr),
    FIELD(struct x86_state, rip),
    FIELD(struct x86_state, rflags),
    FIELD_STRUCT_ARRAY(struct x86_state, seg, segment_desc),
    FIELD_STRUCT(struct x86_state, ldt, segment_desc),
    FIELD_STRUCT(struct x86_state, tr, segment_desc),
    FIELD_STRUCT(struct x86_state, gdt, table_desc),
    FIELD_STRUCT(struct x86_state, idt, table_desc),
    FIELD(struct x86_state, cr0),
    FIELD(struct x86_state, cr2),
    FIELD(struct x86_state, cr3),
    FIELD(struct x86_state, cr4),
    FIELD(struct x86_state, xcr0),
    FIELD_ARRAY(struct x86_state, dr),
    FIELD(struct x86_state, dr6),
    FIELD(struct x86_state, dr7),
    FIELD(struct x86_state, efer),
    FIELD(struct x86_state, star),
    FIELD(struct x86_state, lstar),
    FIELD(struct x86_state, cstar),
    FIELD(struct x86_state, sfmask),
    FIELD(struct x86_state, kernel_gs_base),
    FIELD(struct x86_state, sysenter_cs),
    FIELD(struct x86_state, sysenter_esp),
    FIELD(struct x86_state, sysenter_eip),
    FIELD(struct x86_state, pat),
    FIELD(struct x86_state, tsc_aux),
    FIELD(struct x86_state, tsc_adjust),
    FIELD(struct x86_state, misc_enable),
    FIELD(struct x86_state, spec_ctrl),
    FIELD(struct x86_state, debugctl),
    FIELD(struct x86_state, xss),
    FIELD(struct x86_state, mtrr_def_type),
    FIELD_ARRAY(struct x86_state, mtrr_fixed),
    FIELD_ARRAY(struct x86_state, mtrr_var),
    FIELD(struct x86_state, mcg_status),
    FIELD(struct x86_state, tsc_offset),
    FIELD(struct x86_state, kvm_wall_clock),
    FIELD(struct x86_state, kvm_system_time),
    FIELD(struct x86_state, kvm_steal_time),
    FIELD(struct x86_state, kvm_pv_eoi),
    FIELD_STRUCT(struct x86_state, fpu, fpu_desc),
    FIELD(struct x86_state, mp_state),
    FIELD(struct x86_state, int_shadow),
    FIELD(struct x86_state, nmi_blocked),
    FIELD(struct x86_state, nmi_pending),
    FIELD(struct x86_state, pending_db),
    FIELD(struct x86_state, exception_pending),
    FIELD(struct x86_state, exception_vector),
    FIELD(struct x86_state, exception_has_error),
    FIELD(struct x86_state, exception_error),
    FIELD(struct x86_state, interrupt_pending),
    FIELD(struct x86_state, interrupt_vector),
    FIELD_END,
};

#define RFLAGS_KNOWN                                                                                   \
    (X86_ARITH | X86_FLAG1 | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_RF | X86_VM | X86_AC | \
     X86_VIF | X86_VIP | X86_ID)
#define XCR0_KNOWN (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512 | X86_XCR0_PKRU)
#define MXCSR_KNOWN 0xffffu
#define PENDING_DB_KNOWN (0xfu | X86_DR6_BS | X86_DR6_BT)

/* What no sequence of guest instructions can bring about, and the engines take for granted. */
static bool modes_consistent(const struct x86_state *s)
{
    bool paging = s->cr0 & X86_CR0_PG;
    bool long_mode = s->efer & X86_EFER_LMA;
    if (paging && !(s->cr0 & X86_CR0_PE))
        return false;
    if (long_mode != (paging && s->efer & X86_EFER_LME))
        return false;
    if (long_mode && !(s->cr4 & X86_CR4_PAE))
        return false;
    if (s->cr4 & X86_CR4_PCIDE && !long_mode)
        return false;
    return !(s->rflags & X86_VM && (!x86_protected(s) || long_mode));
}

static bool pat_valid(u64 pat)
{
    for (unsigned i = 0; i < 8; i++) {
        u8 type = (u8)(pat >> 8 * i);
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static int x86_post_load(void *object, unsigned version, struct error *err)
{
    const struct x86_state *s = object;
    const char *wrong = NULL;
    if (!modes_consistent(s) || s->cr0 >> 32 || s->cr4 >> 32)
        wrong = "control registers";
    else if (!(s->rflags & X86_FLAG1) || s->rflags & ~RFLAGS_KNOWN)
        wrong = "RFLAGS";
    else if (!(s->xcr0 & X86_XCR0_X87) || s->xcr0 & ~XCR0_KNOWN)
        wrong = "XCR0";
    else if (s->fpu.mxcsr & ~MXCSR_KNOWN) /* the host would fault on loading it */
        wrong = "MXCSR";
    else if (s->dr6 >> 32 || s->dr7 >> 32)
        wrong = "debug registers";
    else if (!pat_valid(s->pat))
        wrong = "PAT";
    else if (s->mp_state > VCPU_MP_WAIT_SIPI || s->int_shadow > 2 || s->exception_vector > 31 ||
             s->pending_db & ~PENDING_DB_KNOWN)
        wrong = "event state";
    return wrong ? error_set(err, EINVAL, "the saved CPU state has impossible %s", wrong) : 0;
}

const struct state_desc x86_state_desc = {
    .name = "x86-cpu", .version = 1, .fields = x86_fields, .post_load = x86_post_load};

/* --- reset: SDM vol. 3, table 10-1 --- */

#define RESET_SIGNATURE 0x600u /* EDX: family 6 */
#define RESET_PAT 0x0007040600070406ull
#define RESET_FCW 0x40u
#define RESET_MXCSR 0x1f80u
/* IA32_MISC_ENABLE: fast strings, and neither BTS nor PEBS. */
#define RESET_MISC_ENABLE (BIT(0) | BIT(11) | BIT(12))

#define ATTR_CODE (X86_ATTR_P | X86_ATTR_S | X86_ATTR_CODE | X86_ATTR_RW | X86_ATTR_ACCESSED)
#define ATTR_DATA (X86_ATTR_P | X86_ATTR_S | X86_ATTR_RW | X86_ATTR_ACCESSED)
#define ATTR_LDT (X86_ATTR_P | 0x2u)
#define ATTR_TSS (X86_ATTR_P | 0xbu) /* 32-bit, busy */

/* What power-on and INIT have in common. The rest of *s is zero. */
static void reset_common(struct x86_state *s, bool bsp)
{
    s->gpr[X86_RDX] = RESET_SIGNATURE;
    s->rip = 0xfff0;
    s->rflags = X86_FLAG1;
    s->cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        s->seg[i] = (struct x86_segment){.limit = 0xffff, .attr = ATTR_DATA};
    s->seg[X86_CS] =
        (struct x86_segment){.selector = 0xf000, .base = 0xffff0000, .limit = 0xffff, .attr = ATTR_CODE};
    s->ldt = (struct x86_segment){.limit = 0xffff, .attr = ATTR_LDT};
    s->tr = (struct x86_segment){.limit = 0xffff, .attr = ATTR_TSS};
    s->gdt.limit = s->idt.limit = 0xffff;
    s->dr6 = X86_DR6_FIXED;
    s->dr7 = X86_DR7_FIXED;
    s->mp_state = bsp ? VCPU_MP_RUNNABLE : VCPU_MP_WAIT_SIPI;
}

void x86_state_reset(struct x86_state *s, bool bsp)
{
    memset(s, 0, sizeof *s);
    reset_common(s, bsp);
    s->xcr0 = X86_XCR0_X87;
    s->pat = RESET_PAT;
    s->misc_enable = RESET_MISC_ENABLE;
    s->fpu.fcw = RESET_FCW;
    s->fpu.ftw = 0xff; /* tag word 5555H: eight zeroes, none empty */
    s->fpu.mxcsr = RESET_MXCSR;
    s->fpu.mxcsr_mask = MXCSR_KNOWN;
}

void x86_state_init_reset(struct x86_state *s, bool bsp)
{
    struct x86_state old = *s;
    memset(s, 0, sizeof *s);
    reset_common(s, bsp);
    s->cr0 = (old.cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    s->xcr0 = old.xcr0;
    s->star = old.star;
    s->lstar = old.lstar;
    s->cstar = old.cstar;
    s->sfmask = old.sfmask;
    s->kernel_gs_base = old.kernel_gs_base;
    s->sysenter_cs = old.sysenter_cs;
    s->sysenter_esp = old.sysenter_esp;
    s->sysenter_eip = old.sysenter_eip;
    s->pat = old.pat;
    s->tsc_aux = old.tsc_aux;
    s->tsc_adjust = old.tsc_adjust;
    s->tsc_offset = old.tsc_offset;
    s->misc_enable = old.misc_enable;
    s->spec_ctrl = old.spec_ctrl;
    s->xss = old.xss;
    s->mtrr_def_type = old.mtrr_def_type;
    memcpy(s->mtrr_fixed, old.mtrr_fixed, sizeof s->mtrr_fixed);
    memcpy(s->mtrr_var, old.mtrr_var, sizeof s->mtrr_var);
    s->mcg_status = old.mcg_status;
    s->kvm_wall_clock = old.kvm_wall_clock;
    s->kvm_system_time = old.kvm_system_time;
    s->kvm_steal_time = old.kvm_steal_time;
    s->kvm_pv_eoi = old.kvm_pv_eoi;
    s->fpu = old.fpu;
}
