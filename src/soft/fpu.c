/*
 * FXSAVE, FXRSTOR and the XSAVE family (SDM vol. 1, 10.5 and 13): memory images made from and put
 * into struct x86_fpu. An image is read whole and checked before any state changes. CS and DS of the
 * last x87 instruction are not kept (CPUID says that they are deprecated): they read as zero.
 */
#include "soft/fpu-internal.h"

#define LEGACY_SIZE 512u
#define HEADER_SIZE 64u
#define XCOMP_COMPACTED BIT(63)
#define AREA_MAX 4096u
#define COMPONENT_MAX 1024u

/* Offsets in the legacy area */
enum {
    AT_FCW = 0,
    AT_FSW = 2,
    AT_FTW = 4,
    AT_FOP = 6,
    AT_FIP = 8,
    AT_FDP = 16,
    AT_MXCSR = 24,
    AT_ST = 32,
    AT_XMM = 160
};

void x87_load_control(struct x86_fpu *f, u16 fcw, u16 fsw)
{
    f->fcw = (fcw & 0x1f3f) | 0x40;
    f->fsw = fsw & 0x7f7f;
    if (f->fsw & ~f->fcw & X87_FSW_EXCEPTIONS)
        f->fsw |= X87_FSW_ES | X87_FSW_B;
}

void x87_set_top(struct x86_fpu *f, unsigned top)
{
    unsigned shift = x87_top(f) - top;
    u8 st[8][16];

    if (!(shift & 7))
        return;
    memcpy(st, f->st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[(i + shift) & 7], st[i], 16);
    f->fsw = (f->fsw & ~(7u << X87_FSW_TOP_SHIFT)) | top << X87_FSW_TOP_SHIFT;
}

void x87_init(struct x86_fpu *f)
{
    x87_set_top(f, 0);
    f->fcw = X87_FCW_INIT;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = 0;
    f->fip = f->fdp = 0;
}

static unsigned xmm_count(const struct soft_cpu *c)
{
    return x86_code64(c->s) ? 16 : 8;
}

static void put_x87(const struct x86_fpu *f, u8 *image, bool rex_w)
{
    put_le16(image + AT_FCW, f->fcw);
    put_le16(image + AT_FSW, f->fsw);
    put_le16(image + AT_FTW, f->ftw);
    put_le16(image + AT_FOP, f->fop);
    put_le64(image + AT_FIP, rex_w ? f->fip : (u32)f->fip);
    put_le64(image + AT_FDP, rex_w ? f->fdp : (u32)f->fdp);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(image + AT_ST + 16 * i, f->st[i], 10);
        memset(image + AT_ST + 16 * i + 10, 0, 6);
    }
}

static void get_x87(struct x86_fpu *f, const u8 *image, bool rex_w)
{
    x87_load_control(f, get_le16(image + AT_FCW), get_le16(image + AT_FSW));
    f->ftw = image[AT_FTW];
    f->fop = get_le16(image + AT_FOP) & 0x7ff;
    f->fip = rex_w ? get_le64(image + AT_FIP) : get_le32(image + AT_FIP);
    f->fdp = rex_w ? get_le64(image + AT_FDP) : get_le32(image + AT_FDP);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(f->st[i], image + AT_ST + 16 * i, 10);
        memset(f->st[i] + 10, 0, 6);
    }
}

static void put_mxcsr(const struct x86_fpu *f, u8 *image)
{
    put_le32(image + AT_MXCSR, f->mxcsr);
    put_le32(image + AT_MXCSR + 4, MXCSR_VALID);
}

static void put_xmm(const struct x86_fpu *f, u8 *image, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        memcpy(image + AT_XMM + 16 * i, f->vec[i], 16);
}

static void get_xmm(struct x86_fpu *f, const u8 *image, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        memcpy(f->vec[i], image + AT_XMM + 16 * i, 16);
}

static void require_fxsr(struct soft_cpu *c, u64 la)
{
    if (c->s->cr0 & (X86_CR0_EM | X86_CR0_TS))
        soft_raise(c, X86_NM);
    if (la & 15)
        soft_gp0(c);
}

void soft_fxsave(struct soft_cpu *c, u64 la, bool rex_w)
{
    u8 image[LEGACY_SIZE];
    unsigned count = xmm_count(c);

    require_fxsr(c, la);
    put_x87(&c->s->fpu, image, rex_w);
    put_mxcsr(&c->s->fpu, image);
    put_xmm(&c->s->fpu, image, count);
    soft_write_bytes(c, la, image, AT_XMM + 16 * count);
}

void soft_fxrstor(struct soft_cpu *c, u64 la, bool rex_w)
{
    u8 image[LEGACY_SIZE];
    unsigned count = xmm_count(c);
    u32 mxcsr;

    require_fxsr(c, la);
    soft_read_bytes(c, la, image, AT_XMM + 16 * count);
    mxcsr = get_le32(image + AT_MXCSR);
    if (mxcsr & ~MXCSR_VALID)
        soft_gp0(c);
    get_x87(&c->s->fpu, image, rex_w);
    c->s->fpu.mxcsr = mxcsr;
    get_xmm(&c->s->fpu, image, count);
}

/* @len is a multiple of 8, @p aligned to that. */
static bool all_zero(const void *p, size_t len)
{
    const u64 *words = p;
    u64 any = 0;

    for (size_t i = 0; i < len / 8; i++)
        any |= words[i];
    return !any;
}

static bool x87_in_use(const struct x86_fpu *f)
{
    return f->fcw != X87_FCW_INIT || f->fsw || f->ftw || f->fop || f->fip || f->fdp ||
           !all_zero(f->st, sizeof f->st);
}

/* Is any of the bytes [from, to) of registers [first, last] not zero? */
static bool vec_in_use(const struct x86_fpu *f, unsigned first, unsigned last, unsigned from, unsigned to)
{
    for (unsigned i = first; i <= last; i++)
        if (!all_zero(f->vec[i] + from, to - from))
            return true;
    return false;
}

/* --- the layout of areas, from leaf 0xd --- */

void soft_xsave_init(struct soft_cpu *c)
{
    const struct cpuid_table *t = c->vcpu->vm->cpuid;

    BUG_ON((t->xcr0_mask | t->xss_mask) >> SOFT_XSAVE_COMPONENTS);
    c->xsavec = cpuid_has(t, CPUID_XSAVEC);
    for (unsigned i = 2; i < SOFT_XSAVE_COMPONENTS; i++) {
        const struct cpuid_leaf *l = cpuid_find(t, 0xd, i);

        if (!l)
            continue;
        BUG_ON(l->eax > COMPONENT_MAX || l->ebx > AREA_MAX - COMPONENT_MAX);
        c->xsave[i] = (struct soft_xsave_component){(u16)l->ebx, (u16)l->eax, l->ecx & 2};
    }
}

/* Component @i of an area with these components; with a component behind the last: the area's end. */
static unsigned compacted_at(const struct soft_cpu *c, u64 components, unsigned i)
{
    unsigned at = LEGACY_SIZE + HEADER_SIZE;

    for (u64 left = components & MASK(i) & ~3ull; left; left &= left - 1) {
        const struct soft_xsave_component *x = &c->xsave[__builtin_ctzll(left)];

        at = (x->aligned ? ALIGN_UP(at, 64u) : at) + x->size;
    }
    return i < SOFT_XSAVE_COMPONENTS && c->xsave[i].aligned ? ALIGN_UP(at, 64u) : at;
}

static unsigned component_at(const struct soft_cpu *c, u64 components, unsigned i, bool compacted)
{
    return compacted ? compacted_at(c, components, i) : c->xsave[i].at;
}

static unsigned area_size(const struct soft_cpu *c, u64 components, bool compacted)
{
    unsigned size = LEGACY_SIZE + HEADER_SIZE;

    if (compacted)
        return compacted_at(c, components, SOFT_XSAVE_COMPONENTS);
    for (u64 left = components & ~3ull; left; left &= left - 1) {
        const struct soft_xsave_component *x = &c->xsave[__builtin_ctzll(left)];

        size = MAX(size, (unsigned)x->at + x->size);
    }
    return size;
}

/* XINUSE: components that are not in their initial configuration (SDM vol. 1, 13.6). */
static u64 xinuse(const struct soft_cpu *c, u64 of)
{
    const struct x86_fpu *f = &c->s->fpu;
    u64 in_use = 0;

    if ((of & X86_XCR0_X87) && x87_in_use(f))
        in_use |= X86_XCR0_X87;
    if ((of & X86_XCR0_SSE) && vec_in_use(f, 0, 15, 0, 16))
        in_use |= X86_XCR0_SSE;
    if ((of & X86_XCR0_AVX) && vec_in_use(f, 0, 15, 16, 32))
        in_use |= X86_XCR0_AVX;
    if ((of & X86_XCR0_OPMASK) && !all_zero(f->k, sizeof f->k))
        in_use |= X86_XCR0_OPMASK;
    if ((of & X86_XCR0_ZMM_HI256) && vec_in_use(f, 0, 15, 32, 64))
        in_use |= X86_XCR0_ZMM_HI256;
    if ((of & X86_XCR0_HI16_ZMM) && vec_in_use(f, 16, 31, 0, 64))
        in_use |= X86_XCR0_HI16_ZMM;
    if ((of & X86_XCR0_PKRU) && f->pkru)
        in_use |= X86_XCR0_PKRU;
    return in_use;
}

/*
 * The bytes of extended component @i (2 and up) to or from @image, which holds COMPONENT_MAX bytes;
 * returns how many. Outside 64-bit mode registers 8 and up are not touched (SDM vol. 1, 13.5).
 */
static unsigned move_component(const struct soft_cpu *c, unsigned i, u8 *image, bool load)
{
    struct x86_fpu *f = &c->s->fpu;
    unsigned first = 0, count = xmm_count(c), from = 0, len = 0;

    switch (BIT(i)) {
    case X86_XCR0_AVX: from = 16, len = 16; break;
    case X86_XCR0_ZMM_HI256: from = 32, len = 32; break;
    case X86_XCR0_HI16_ZMM: first = 16, len = 64, count = count == 16 ? 16 : 0; break;
    case X86_XCR0_OPMASK:
        memcpy(load ? (void *)f->k : image, load ? image : (void *)f->k, sizeof f->k);
        return sizeof f->k;
    case X86_XCR0_PKRU:
        if (load)
            f->pkru = get_le32(image);
        else
            put_le64(image, f->pkru);
        return 8;
    }
    for (unsigned n = 0; n < count; n++) {
        u8 *reg = f->vec[first + n] + from, *at = image + n * len;

        memcpy(load ? reg : at, load ? at : reg, len);
    }
    return count * len;
}

/* Checks that every XSAVE instruction starts with; returns the components it asks for. */
static u64 xsave_begin(struct soft_cpu *c, u64 la, u64 enabled)
{
    struct x86_state *s = c->s;

    if (!(s->cr4 & X86_CR4_OSXSAVE))
        soft_ud(c);
    if (s->cr0 & X86_CR0_TS)
        soft_raise(c, X86_NM);
    if (la & 63)
        soft_gp0(c);
    return enabled & ((u64)(u32)s->gpr[X86_RDX] << 32 | (u32)s->gpr[X86_RAX]);
}

static void save_legacy(struct soft_cpu *c, u64 la, u64 x87_sse, bool with_mxcsr, bool rex_w)
{
    u8 image[LEGACY_SIZE];

    put_x87(&c->s->fpu, image, rex_w);
    put_mxcsr(&c->s->fpu, image);
    put_xmm(&c->s->fpu, image, xmm_count(c));
    if (x87_sse & X86_XCR0_X87) {
        soft_write_bytes(c, la, image, AT_MXCSR);
        soft_write_bytes(c, la + AT_ST, image + AT_ST, AT_XMM - AT_ST);
    }
    if (with_mxcsr)
        soft_write_bytes(c, la + AT_MXCSR, image + AT_MXCSR, 8);
    if (x87_sse & X86_XCR0_SSE)
        soft_write_bytes(c, la + AT_XMM, image + AT_XMM, 16 * xmm_count(c));
}

static void save_components(struct soft_cpu *c, u64 la, u64 which, u64 layout, bool compacted)
{
    for (u64 left = which & ~3ull; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctzll(left), len;
        u8 image[COMPONENT_MAX];

        len = move_component(c, i, image, false);
        if (len)
            soft_write_bytes(c, la + component_at(c, layout, i, compacted), image, len);
    }
}

void soft_xsave(struct soft_cpu *c, u64 la, bool rex_w, enum soft_xsave_kind kind)
{
    bool compacted = kind == SOFT_XSAVEC || kind == SOFT_XSAVES;
    u64 enabled = c->s->xcr0 | (kind == SOFT_XSAVES ? c->s->xss : 0);
    u64 rfbm, in_use, save;
    u8 header[16];
    bool with_mxcsr;

    if (kind == SOFT_XSAVES)
        soft_require_cpl0(c);
    rfbm = xsave_begin(c, la, enabled);
    in_use = xinuse(c, rfbm);
    if (compacted && (rfbm & X86_XCR0_SSE) && c->s->fpu.mxcsr != MXCSR_INIT)
        in_use |= X86_XCR0_SSE;
    save = kind == SOFT_XSAVE ? rfbm : rfbm & in_use;
    with_mxcsr = compacted ? save & X86_XCR0_SSE : rfbm & (X86_XCR0_SSE | X86_XCR0_AVX);
    soft_probe(c, la, area_size(c, rfbm, compacted), SOFT_WRITE);
    save_legacy(c, la, save, with_mxcsr, rex_w);
    save_components(c, la, save, rfbm, compacted);
    if (compacted) {
        put_le64(header, in_use);
        put_le64(header + 8, rfbm | XCOMP_COMPACTED);
        soft_write_bytes(c, la + LEGACY_SIZE, header, 16);
        return;
    }
    soft_read_bytes(c, la + LEGACY_SIZE, header, 8);
    put_le64(header, (get_le64(header) & ~rfbm) | in_use);
    soft_write_bytes(c, la + LEGACY_SIZE, header, 8);
}

/* Raises #GP for a header that the manual calls malformed (SDM vol. 1, 13.8 and 13.12). */
static bool check_header(struct soft_cpu *c, const u8 header[HEADER_SIZE], u64 enabled, bool supervisor)
{
    u64 bv = get_le64(header), comp = get_le64(header + 8);
    bool compacted = comp & XCOMP_COMPACTED;

    if (compacted && c->xsavec) {
        comp &= ~XCOMP_COMPACTED;
        if ((comp & ~enabled) || (bv & ~comp) || !all_zero(header + 16, HEADER_SIZE - 16))
            soft_gp0(c);
        return true;
    }
    if (supervisor || (bv & ~enabled) || !all_zero(header + 8, 16))
        soft_gp0(c);
    return false;
}

static void reset_legacy(struct x86_fpu *f, u64 x87_sse, unsigned count)
{
    if (x87_sse & X86_XCR0_X87) {
        x87_init(f);
        memset(f->st, 0, sizeof f->st);
    }
    if (x87_sse & X86_XCR0_SSE)
        for (unsigned i = 0; i < count; i++)
            memset(f->vec[i], 0, 16);
}

/* Reads the extended components @which of the area at @la into @a, whose header is there already. */
static void read_components(struct soft_cpu *c, u64 la, u8 a[AREA_MAX], u64 which, bool compacted)
{
    u64 layout = get_le64(a + LEGACY_SIZE + 8);

    for (u64 left = which & ~3ull; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctzll(left), at = component_at(c, layout, i, compacted);

        BUG_ON(at + c->xsave[i].size > AREA_MAX);
        soft_read_bytes(c, la + at, a + at, c->xsave[i].size);
    }
}

/* Puts the checked area @a into the state. */
static void restore(struct soft_cpu *c, u8 *a, u64 rfbm, bool compacted, bool rex_w)
{
    u8 zeros[COMPONENT_MAX] = {0};
    struct x86_fpu *f = &c->s->fpu;
    u64 bv = get_le64(a + LEGACY_SIZE), layout = get_le64(a + LEGACY_SIZE + 8);

    reset_legacy(f, rfbm & ~bv, xmm_count(c));
    if (rfbm & bv & X86_XCR0_X87)
        get_x87(f, a, rex_w);
    if (rfbm & bv & X86_XCR0_SSE)
        get_xmm(f, a, xmm_count(c));
    for (u64 left = rfbm & ~3ull; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctzll(left);

        move_component(c, i, bv >> i & 1 ? a + component_at(c, layout, i, compacted) : zeros, true);
    }
}

void soft_xrstor(struct soft_cpu *c, u64 la, bool rex_w, bool supervisor)
{
    u64 enabled = c->s->xcr0 | (supervisor ? c->s->xss : 0);
    u64 rfbm, bv;
    u8 a[AREA_MAX] ALIGNED(64);
    bool compacted, with_mxcsr;
    u32 mxcsr = MXCSR_INIT;

    if (supervisor)
        soft_require_cpl0(c);
    rfbm = xsave_begin(c, la, enabled);
    soft_read_bytes(c, la, a, LEGACY_SIZE + HEADER_SIZE);
    compacted = check_header(c, a + LEGACY_SIZE, enabled, supervisor);
    bv = get_le64(a + LEGACY_SIZE);
    /* Standard form loads MXCSR with SSE or AVX, whatever XSTATE_BV says; compacted with SSE alone. */
    if (compacted) {
        with_mxcsr = rfbm & X86_XCR0_SSE;
        if (bv & X86_XCR0_SSE)
            mxcsr = get_le32(a + AT_MXCSR);
    } else {
        with_mxcsr = rfbm & (X86_XCR0_SSE | X86_XCR0_AVX);
        mxcsr = get_le32(a + AT_MXCSR);
    }
    if (with_mxcsr && (mxcsr & ~MXCSR_VALID))
        soft_gp0(c);
    read_components(c, la, a, rfbm & bv, compacted);
    restore(c, a, rfbm, compacted, rex_w);
    if (with_mxcsr)
        c->s->fpu.mxcsr = mxcsr;
    if (rfbm & X86_XCR0_PKRU)
        soft_mode_changed(c);
}
