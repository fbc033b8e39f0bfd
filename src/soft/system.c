/* System instructions: control and debug registers, MSRs, tables, SYSCALL and friends, flags, I/O rights. */
#include "base/log.h"
#include "soft/mmu-inline.h"
#include "soft/system-internal.h"

static bool has(const struct soft_cpu *c, enum cpuid_feature f)
{
    return cpuid_has(c->vcpu->vm->cpuid, f);
}

static bool is_amd(const struct soft_cpu *c)
{
    return c->vcpu->vm->cpuid->amd;
}

void soft_require_cpl0(struct soft_cpu *c)
{
    if (c->cpl != 0)
        soft_gp0(c);
}

void soft_check_umip(struct soft_cpu *c)
{
    if (c->cpl != 0 && (c->s->cr4 & X86_CR4_UMIP))
        soft_gp0(c);
}

/* --- CR0, CR3, CR4, CR8 (SDM vol. 3, 2.5) --- */

#define CR0_DEFINED                                                                                          \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | \
     X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

/* Loading CR3, or entering PAE paging, with these PDPTEs. */
static void check_pdptes(struct soft_cpu *c, u64 cr3)
{
    if (!paging_pdptes_valid(mmu_paging_env(c), cr3))
        soft_gp0(c);
}

static void check_paging_on(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    if (s->efer & X86_EFER_LME) {
        if (!(s->cr4 & X86_CR4_PAE) || (s->seg[X86_CS].attr & X86_ATTR_L))
            soft_gp0(c);
    } else if (s->cr4 & X86_CR4_PAE) {
        check_pdptes(c, s->cr3);
    }
}

static void write_cr0(struct soft_cpu *c, u64 value)
{
    struct x86_state *s = c->s;
    if (value >> 32)
        soft_gp0(c);
    value = (value & CR0_DEFINED) | X86_CR0_ET;
    u64 changed = s->cr0 ^ value;
    if ((value & X86_CR0_PG) && !(value & X86_CR0_PE))
        soft_gp0(c);
    if ((value & X86_CR0_NW) && !(value & X86_CR0_CD))
        soft_gp0(c);
    if (changed & value & X86_CR0_PG)
        check_paging_on(c);
    if ((changed & X86_CR0_PG) && !(value & X86_CR0_PG) && (c->code_size == 8 || (s->cr4 & X86_CR4_PCIDE)))
        soft_gp0(c);

    s->cr0 = value;
    if (changed & X86_CR0_PG) {
        s->efer &= ~X86_EFER_LMA;
        if ((value & X86_CR0_PG) && (s->efer & X86_EFER_LME))
            s->efer |= X86_EFER_LMA;
    }
    if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP))
        soft_tlb_flush_all(c, true);
    soft_mode_changed(c);
}

static void write_cr3(struct soft_cpu *c, u64 value)
{
    struct x86_state *s = c->s;
    bool pcid = s->cr4 & X86_CR4_PCIDE;
    bool keep = pcid && (value & BIT(63));
    if (pcid)
        value &= ~BIT(63);
    if (x86_long_mode(s)) {
        if (value & ~MASK(c->vcpu->vm->cpuid->maxphyaddr))
            soft_gp0(c);
    } else {
        value &= 0xffffffffu;
        if (x86_paging(s) && (s->cr4 & X86_CR4_PAE))
            check_pdptes(c, value);
    }
    s->cr3 = value;
    if (!pcid)
        soft_tlb_flush_all(c, false);
    else if (!keep)
        soft_tlb_flush_pcid(c, value & 0xfff);
    soft_mode_changed(c);
}

static u64 cr4_allowed(const struct soft_cpu *c)
{
    static const struct {
        u64 bits;
        enum cpuid_feature feature;
    } table[] = {
        {X86_CR4_VME | X86_CR4_PVI, CPUID_VME},
        {X86_CR4_TSD, CPUID_TSC},
        {X86_CR4_DE, CPUID_DE},
        {X86_CR4_PSE, CPUID_PSE},
        {X86_CR4_PAE, CPUID_PAE},
        {X86_CR4_PGE, CPUID_PGE},
        {X86_CR4_UMIP, CPUID_UMIP},
        {X86_CR4_FSGSBASE, CPUID_FSGSBASE},
        {X86_CR4_PCIDE, CPUID_PCID},
        {X86_CR4_OSXSAVE, CPUID_XSAVE},
        {X86_CR4_SMEP, CPUID_SMEP},
        {X86_CR4_SMAP, CPUID_SMAP},
    };
    u64 allowed = X86_CR4_MCE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        if (has(c, table[i].feature))
            allowed |= table[i].bits;
    }
    return allowed;
}

static void write_cr4(struct soft_cpu *c, u64 value)
{
    const u64 translation =
        X86_CR4_PGE | X86_CR4_PAE | X86_CR4_PSE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE;
    struct x86_state *s = c->s;
    u64 changed = s->cr4 ^ value;
    if (value & ~cr4_allowed(c))
        soft_gp0(c);
    if (x86_long_mode(s) && !(value & X86_CR4_PAE))
        soft_gp0(c);
    if ((changed & value & X86_CR4_PCIDE) && (!x86_long_mode(s) || (s->cr3 & 0xfff)))
        soft_gp0(c);
    if (x86_paging(s) && !x86_long_mode(s) && (value & X86_CR4_PAE) && (changed & translation))
        check_pdptes(c, s->cr3);
    if (changed & X86_CR4_PCIDE)
        soft_tlb_flush_all(c, false);
    s->cr4 = value;
    if (changed & translation)
        soft_tlb_flush_all(c, true);
    soft_mode_changed(c);
}

static void write_cr8(struct soft_cpu *c, u64 value)
{
    struct vm *vm = c->vcpu->vm;
    if (value > 15)
        soft_gp0(c);
    lock_acquire(&vm->machine_lock);
    vm->irqchip->ops->set_cr8(vm->irqchip, c->vcpu, (u8)value);
    lock_drop(&vm->machine_lock);
    c->stop_block = true;
}

void soft_write_cr(struct soft_cpu *c, unsigned n, u64 value)
{
    soft_once(c);
    if (n != 0 && n != 2 && n != 3 && n != 4 && n != 8)
        soft_ud(c);
    soft_require_cpl0(c);
    switch (n) {
    case 0: write_cr0(c, value); break;
    case 2: c->s->cr2 = value; break;
    case 3: write_cr3(c, value); break;
    case 4: write_cr4(c, value); break;
    default: write_cr8(c, value);
    }
}

static u64 read_cr8(struct soft_cpu *c)
{
    struct vm *vm = c->vcpu->vm;
    soft_once(c);
    lock_acquire(&vm->machine_lock);
    u8 value = vm->irqchip->ops->get_cr8(vm->irqchip, c->vcpu);
    lock_drop(&vm->machine_lock);
    return value;
}

u64 soft_read_cr(struct soft_cpu *c, unsigned n)
{
    if (n != 0 && n != 2 && n != 3 && n != 4 && n != 8)
        soft_ud(c);
    soft_require_cpl0(c);
    switch (n) {
    case 0: return c->s->cr0;
    case 2: return c->s->cr2;
    case 3: return c->s->cr3;
    case 4: return c->s->cr4;
    default: return read_cr8(c);
    }
}

/* Can set PE but not clear it; reaches MP, EM and TS besides. */
void soft_lmsw(struct soft_cpu *c, u16 value)
{
    const u64 mask = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS;
    soft_once(c);
    soft_require_cpl0(c);
    write_cr0(c, (c->s->cr0 & (~mask | X86_CR0_PE)) | (value & mask));
}

void soft_clts(struct soft_cpu *c)
{
    soft_require_cpl0(c);
    c->s->cr0 &= ~X86_CR0_TS;
}

/* --- debug registers --- */

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE says that they do not exist. */
static unsigned debug_register(struct soft_cpu *c, unsigned n)
{
    if (n > 7 || ((n == 4 || n == 5) && (c->s->cr4 & X86_CR4_DE)))
        soft_ud(c);
    soft_require_cpl0(c);
    if (c->s->dr7 & X86_DR7_GD)
        soft_raise_db(c, X86_DR6_BD);
    return n == 4 || n == 5 ? n + 2 : n;
}

void soft_write_dr(struct soft_cpu *c, unsigned n, u64 value)
{
    struct x86_state *s = c->s;
    n = debug_register(c, n);
    if (n >= 6 && value >> 32)
        soft_gp0(c);
    if (n < 4)
        s->dr[n] = value;
    else if (n == 6)
        s->dr6 = X86_DR6_FIXED | (value & (0xf | X86_DR6_BD | X86_DR6_BS | X86_DR6_BT));
    else
        s->dr7 = X86_DR7_FIXED | (value & 0xffff23ff);
    soft_mode_changed(c);
}

u64 soft_read_dr(struct soft_cpu *c, unsigned n)
{
    n = debug_register(c, n);
    return n < 4 ? c->s->dr[n] : n == 6 ? c->s->dr6 : c->s->dr7;
}

/* --- MSRs, CPUID, TSC --- */

static void set_edx_eax(struct soft_cpu *c, u64 value)
{
    c->s->gpr[X86_RAX] = (u32)value;
    c->s->gpr[X86_RDX] = value >> 32;
}

static u64 edx_eax(const struct soft_cpu *c)
{
    return (u32)c->s->gpr[X86_RAX] | c->s->gpr[X86_RDX] << 32;
}

void soft_rdmsr(struct soft_cpu *c)
{
    u64 value;
    soft_once(c);
    soft_require_cpl0(c);
    if (cpu_rdmsr(c->vcpu, (u32)c->s->gpr[X86_RCX], &value) != 0)
        soft_gp0(c);
    set_edx_eax(c, value);
}

void soft_wrmsr(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    u32 index = (u32)s->gpr[X86_RCX];
    u64 efer = s->efer;
    soft_once(c);
    soft_require_cpl0(c);
    if (cpu_wrmsr(c->vcpu, index, edx_eax(c)) != 0)
        soft_gp0(c);
    if (index != MSR_EFER)
        return;
    if ((efer ^ s->efer) & X86_EFER_NXE)
        soft_tlb_flush_all(c, true);
    soft_mode_changed(c);
}

/* The enable bit of the local APIC, which CPUID leaf 1 shows. */
static bool apic_enabled(struct soft_cpu *c)
{
    struct vm *vm = c->vcpu->vm;
    u64 base = 0;
    lock_acquire(&vm->machine_lock);
    if (vm->irqchip->ops->msr_read(vm->irqchip, c->vcpu, MSR_APIC_BASE, &base) != 0)
        base = 0;
    lock_drop(&vm->machine_lock);
    return base & BIT(11);
}

void soft_cpuid(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    u32 out[4];
    soft_once(c);
    struct cpuid_context in = {
        .eax = (u32)s->gpr[X86_RAX],
        .ecx = (u32)s->gpr[X86_RCX],
        .apic_id = c->vcpu->index,
        .osxsave = s->cr4 & X86_CR4_OSXSAVE,
        .ospke = s->cr4 & X86_CR4_PKE,
        .xcr0 = s->xcr0,
        .xss = s->xss,
    };
    in.apic_enabled = in.eax == 1 || in.eax == 0x80000001 ? apic_enabled(c) : true;
    c->vcpu->counters.cpuid_exits++;
    cpuid_lookup(c->vcpu->vm->cpuid, &in, out);
    trace(cpuid, "cpu%u: leaf 0x%x.%u -> %08x %08x %08x %08x", c->vcpu->index, in.eax, in.ecx, out[0], out[1],
          out[2], out[3]);
    s->gpr[X86_RAX] = out[0];
    s->gpr[X86_RBX] = out[1];
    s->gpr[X86_RCX] = out[2];
    s->gpr[X86_RDX] = out[3];
}

void soft_rdtsc(struct soft_cpu *c, bool with_aux)
{
    soft_once(c);
    if (c->cpl != 0 && (c->s->cr4 & X86_CR4_TSD))
        soft_gp0(c);
    set_edx_eax(c, vcpu_tsc(c->vcpu));
    if (with_aux)
        c->s->gpr[X86_RCX] = (u32)c->s->tsc_aux;
}

void soft_xsetbv(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    u64 value = edx_eax(c), avx512 = value & X86_XCR0_AVX512;
    if (!(s->cr4 & X86_CR4_OSXSAVE))
        soft_ud(c);
    soft_require_cpl0(c);
    if ((u32)s->gpr[X86_RCX] != 0 || (value & ~c->vcpu->vm->cpuid->xcr0_mask) || !(value & X86_XCR0_X87))
        soft_gp0(c);
    if ((value & X86_XCR0_AVX) && !(value & X86_XCR0_SSE))
        soft_gp0(c);
    if (avx512 && (avx512 != X86_XCR0_AVX512 || !(value & X86_XCR0_AVX)))
        soft_gp0(c);
    s->xcr0 = value;
    c->stop_block = true;
}

/* --- TLB, tables --- */

void soft_invpcid(struct soft_cpu *c, u64 type, u64 desc_la)
{
    u64 desc[2];
    soft_once(c);
    soft_require_cpl0(c);
    soft_read_bytes(c, desc_la, desc, sizeof desc);
    if (type > 3)
        soft_gp0(c);
    bool pcid = c->s->cr4 & X86_CR4_PCIDE;
    if (desc[0] >> 12 || (type < 2 && !pcid && desc[0] != 0) || (type == 0 && !x86_canonical(desc[1])))
        soft_gp0(c);
    switch (type) {
    case 0: soft_tlb_invlpg_pcid(c, desc[1], (unsigned)desc[0]); break;
    case 1: soft_tlb_flush_pcid(c, (unsigned)desc[0]); break;
    default: soft_tlb_flush_all(c, type == 2);
    }
    c->stop_block = true;
}

void soft_lgdt(struct soft_cpu *c, u64 la, unsigned opsize, bool idt)
{
    u8 image[10];
    soft_require_cpl0(c);
    soft_read_bytes(c, la, image, opsize == 8 ? 10 : 6);
    struct x86_table t = {.limit = get_le16(image)};
    if (opsize == 8)
        t.base = get_le64(image + 2);
    else
        t.base = get_le32(image + 2) & (opsize == 2 ? 0xffffffu : 0xffffffffu);
    if (!x86_canonical(t.base))
        soft_gp0(c);
    *(idt ? &c->s->idt : &c->s->gdt) = t;
}

void soft_sgdt(struct soft_cpu *c, u64 la, unsigned opsize, bool idt)
{
    u8 image[10];
    soft_check_umip(c);
    const struct x86_table *t = idt ? &c->s->idt : &c->s->gdt;
    put_le16(image, t->limit);
    put_le64(image + 2, t->base);
    soft_write_bytes(c, la, image, opsize == 8 ? 10 : 6);
}

void soft_hlt(struct soft_cpu *c)
{
    soft_require_cpl0(c);
    c->s->mp_state = VCPU_MP_HALTED;
    c->stop_block = true;
}

/* --- SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS --- */

/* A flat segment at @dpl: 64-bit code, 32-bit code or data. */
#define FLAT_CODE64 0xa09bu
#define FLAT_CODE32 0xc09bu
#define FLAT_DATA 0xc093u

static struct x86_segment flat_segment(u64 selector, u32 attr, unsigned dpl)
{
    return (struct x86_segment){
        .limit = 0xffffffffu,
        .attr = attr | dpl << X86_ATTR_DPL_SHIFT,
        .selector = (u16)((selector & ~3u) | dpl),
    };
}

static void set_flat(struct soft_cpu *c, u64 cs, u32 cs_attr, u64 ss, unsigned dpl)
{
    c->s->seg[X86_CS] = flat_segment(cs, cs_attr, dpl);
    c->s->seg[X86_SS] = flat_segment(ss, FLAT_DATA, dpl);
    soft_mode_changed(c);
}

/* Intel: only in 64-bit mode. AMD: anywhere in protected mode. */
static void check_syscall(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    if (!(s->efer & X86_EFER_SCE) || !x86_protected(s) || (c->code_size != 8 && !is_amd(c)))
        soft_ud(c);
}

void soft_syscall(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    check_syscall(c);
    u64 cs = (s->star >> 32) & 0xffff;
    s->gpr[X86_RCX] = s->rip;
    if (x86_long_mode(s)) {
        s->gpr[X86_R11] = s->rflags & ~X86_RF;
        s->rip = c->code_size == 8 ? s->lstar : s->cstar;
        c->no_step = s->rflags & s->sfmask & X86_TF; /* the trap after SYSCALL goes by the new TF */
        s->rflags = (s->rflags & ~(s->sfmask | X86_RF)) | X86_FLAG1;
        set_flat(c, cs, FLAT_CODE64, (cs & ~3u) + 8, 0);
    } else {
        s->rip = (u32)s->star;
        s->rflags &= ~(X86_VM | X86_IF | X86_RF);
        set_flat(c, cs, FLAT_CODE32, (cs & ~3u) + 8, 0);
    }
}

void soft_sysret(struct soft_cpu *c, unsigned opsize)
{
    struct x86_state *s = c->s;
    check_syscall(c);
    soft_require_cpl0(c);
    u64 cs = s->star >> 48;
    bool to64 = opsize == 8;
    /* AMD's processors fault after the switch, at the fetch. */
    if (to64 && !is_amd(c) && !x86_canonical(s->gpr[X86_RCX]))
        soft_gp0(c);
    s->rip = to64 ? s->gpr[X86_RCX] : (u32)s->gpr[X86_RCX];
    if (x86_long_mode(s))
        s->rflags = (s->gpr[X86_R11] & 0x3c7fd7) | X86_FLAG1;
    else
        s->rflags |= X86_IF;
    if (s->rflags & X86_TF) /* SYSRET traps at once, not after the next instruction */
        s->pending_db |= X86_DR6_BS;
    set_flat(c, to64 ? cs + 16 : cs, to64 ? FLAT_CODE64 : FLAT_CODE32, cs + 8, 3);
}

static void check_sysenter(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    if (is_amd(c) && x86_long_mode(s))
        soft_ud(c);
    if (!x86_protected(s) || (s->sysenter_cs & 0xfffc) == 0)
        soft_gp0(c);
}

void soft_sysenter(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    check_sysenter(c);
    bool wide = x86_long_mode(s);
    u64 cs = s->sysenter_cs & 0xfffc;
    s->rflags &= ~(X86_VM | X86_IF | X86_RF);
    s->rip = wide ? s->sysenter_eip : (u32)s->sysenter_eip;
    s->gpr[X86_RSP] = wide ? s->sysenter_esp : (u32)s->sysenter_esp;
    set_flat(c, cs, wide ? FLAT_CODE64 : FLAT_CODE32, cs + 8, 0);
}

void soft_sysexit(struct soft_cpu *c, unsigned opsize)
{
    struct x86_state *s = c->s;
    if (is_amd(c) && x86_protected(s)) /* other than SYSENTER: before #UD (as measured) */
        soft_require_cpl0(c);
    check_sysenter(c);
    soft_require_cpl0(c);
    u64 rip = s->gpr[X86_RDX], rsp = s->gpr[X86_RCX], cs = s->sysenter_cs & 0xfffc;
    if (opsize == 8) {
        if (!x86_canonical(rip) || !x86_canonical(rsp))
            soft_gp0(c);
        s->rip = rip;
        s->gpr[X86_RSP] = rsp;
        set_flat(c, cs + 32, FLAT_CODE64, cs + 40, 3);
    } else {
        s->rip = (u32)rip;
        s->gpr[X86_RSP] = (u32)rsp;
        set_flat(c, cs + 16, FLAT_CODE32, cs + 24, 3);
    }
}

void soft_swapgs(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    if (c->code_size != 8)
        soft_ud(c);
    soft_require_cpl0(c);
    u64 base = s->seg[X86_GS].base;
    s->seg[X86_GS].base = s->kernel_gs_base;
    s->kernel_gs_base = base;
}

/* --- KVM hypercalls --- */

enum { KVM_HC_VAPIC_POLL_IRQ = 1, KVM_EPERM = 1, KVM_ENOSYS = 1000 };

void soft_hypercall(struct soft_cpu *c)
{
    u64 nr = c->s->gpr[X86_RAX];
    i64 result = -KVM_ENOSYS;
    if (c->code_size != 8)
        nr = (u32)nr;
    if (c->cpl != 0)
        result = -KVM_EPERM;
    else if (nr == KVM_HC_VAPIC_POLL_IRQ) /* leaving the block is what looks for interrupts */
        result = 0;
    c->s->gpr[X86_RAX] = c->code_size == 8 ? (u64)result : (u32)result;
    c->stop_block = true;
}

/* --- flags --- */

u64 popf_mask(const struct soft_cpu *c, unsigned opsize)
{
    u64 mask = X86_ARITH | X86_TF | X86_DF | X86_NT;
    unsigned iopl = (unsigned)bits(c->s->rflags, 13, 12);
    if (opsize >= 4)
        mask |= X86_RF | X86_AC | X86_ID;
    if (c->cpl == 0)
        mask |= X86_IOPL;
    if (c->cpl <= iopl)
        mask |= X86_IF;
    return mask;
}

void set_flags(struct soft_cpu *c, u64 image, u64 mask)
{
    struct x86_state *s = c->s;
    s->rflags = (s->rflags & ~mask) | (image & mask) | X86_FLAG1;
    if (!soft_breakpoints_armed(c))
        s->rflags &= ~X86_RF;
}

void soft_set_ac(struct soft_cpu *c, bool on)
{
    c->s->rflags = on ? c->s->rflags | X86_AC : c->s->rflags & ~X86_AC;
    c->ctx = on ? c->ctx_ac : c->ctx_no_ac;
}

static unsigned iopl_of(const struct soft_cpu *c)
{
    return (unsigned)bits(c->s->rflags, 13, 12);
}

/* CLI and STI work on VIF: in virtual-8086 mode with VME, at CPL 3 with PVI, where IOPL forbids IF. */
static bool virtual_if(struct soft_cpu *c)
{
    const struct x86_state *s = c->s;
    if (c->cpl <= iopl_of(c))
        return false;
    bool on = x86_v8086(s) ? s->cr4 & X86_CR4_VME : c->cpl == 3 && (s->cr4 & X86_CR4_PVI);
    if (!on)
        soft_gp0(c);
    return true;
}

void soft_cli(struct soft_cpu *c)
{
    if (virtual_if(c))
        c->s->rflags &= ~X86_VIF;
    else
        c->s->rflags &= ~X86_IF;
}

void soft_sti(struct soft_cpu *c)
{
    struct x86_state *s = c->s;
    if (virtual_if(c)) {
        if (s->rflags & X86_VIP)
            soft_gp0(c);
        s->rflags |= X86_VIF;
        return;
    }
    if (!(s->rflags & X86_IF))
        s->int_shadow = 1;
    s->rflags |= X86_IF;
    c->stop_block = true;
}

/* PUSHF and POPF in virtual-8086 mode below IOPL 3: with VME the program sees VIF as IF. */
static bool v86_virtual_flags(struct soft_cpu *c, unsigned opsize)
{
    if (!x86_v8086(c->s) || iopl_of(c) == 3)
        return false;
    if (!(c->s->cr4 & X86_CR4_VME) || opsize != 2)
        soft_gp0(c);
    return true;
}

u64 soft_pushf_image(struct soft_cpu *c, unsigned opsize)
{
    u64 flags = c->s->rflags & ~(X86_VM | X86_RF);
    if (v86_virtual_flags(c, opsize)) {
        flags = (flags & ~X86_IF) | X86_IOPL;
        if (flags & X86_VIF)
            flags |= X86_IF;
    }
    return flags;
}

void soft_popf(struct soft_cpu *c, u64 value, unsigned opsize)
{
    u64 mask = popf_mask(c, opsize);
    if (v86_virtual_flags(c, opsize)) {
        if ((value & X86_TF) || ((value & X86_IF) && (c->s->rflags & X86_VIP)))
            soft_gp0(c);
        mask = (mask & ~X86_IF) | X86_VIF;
        value = value & X86_IF ? value | X86_VIF : value & ~X86_VIF;
    }
    u64 old = c->s->rflags;
    set_flags(c, value & ~X86_RF, mask);
    if ((old ^ c->s->rflags) & X86_AC)
        soft_mode_changed(c);
    c->stop_block = true;
}

/* --- I/O permission (SDM vol. 1, 19.5.2) --- */

static bool io_bitmap_allows(struct soft_cpu *c, u16 port, unsigned size)
{
    const struct x86_segment *tr = &c->s->tr;
    unsigned type = tr->attr & 0x1f;
    if ((type != DESC_TSS && type != DESC_TSS_BUSY) || tr->limit < 103)
        return false;
    u32 at = (u32)soft_sys_read(c, tr->base + 102, 2) + port / 8;
    if (at + 1 > tr->limit)
        return false;
    u32 map = (u32)soft_sys_read(c, tr->base + at, 2);
    return !(map >> (port % 8) & MASK(size));
}

void soft_check_io(struct soft_cpu *c, u16 port, unsigned size)
{
    soft_once(c);
    bool restricted = x86_protected(c->s) && (x86_v8086(c->s) || c->cpl > iopl_of(c));
    if (restricted && !io_bitmap_allows(c, port, size))
        soft_gp0(c);
    if (soft_breakpoints_armed(c))
        soft_note_io_access(c, port, size);
}
