#include "random-code.h"

#define MAX_CODE 1024

/* Guest-physical layout: all of it is mapped one to one. */
enum {
    GDT = 0x1000,
    IDT = 0x2000,
    TSS = 0x3000,
    HANDLERS = 0x4000, /* a vector's handler is an IRET or a HLT */
    PAGE_TABLES = 0x8000,
    STACK = 0x70000, /* of CPL 0; the other one is below */
    CODE = 0x20000,
    DATA = 0x30000,
};

enum mode { MODE_REAL, MODE_V86, MODE_PROTECTED16, MODE_PROTECTED32, MODE_COMPAT, MODE_LONG, MODES };

struct start {
    u8 mode;
    u8 flags; /* BIT(0): CPL 3, BIT(1): handlers return, BIT(2): SSE and XSAVE on, BIT(3): paging below long
                 mode */
    u8 rflags[2];
    u8 cr4[4];
    u8 cr0[4];
    u8 gpr[16]; /* each a small number or a place, see gpr_value() */
} PACKED;

/* --- the state to start from --- */

static bool is_long(enum mode mode)
{
    return mode == MODE_LONG || mode == MODE_COMPAT;
}

static void put(struct one_vcpu *m, u64 gpa, u64 value)
{
    one_vcpu_put64(m, gpa, value);
}

static void put32(struct one_vcpu *m, u64 gpa, u32 value)
{
    u8 bytes[4];
    put_le32(bytes, value);
    one_vcpu_put(m, gpa, bytes, sizeof bytes);
}

/* Selectors: 8 code, 0x10 data, 0x18 and 0x20 the same for CPL 3, 0x28 code of 64 bits, 0x30 a TSS. */
static void build_gdt(struct one_vcpu *m, enum mode mode)
{
    u64 wide = mode == MODE_PROTECTED16 ? 0 : 0x40ull << 48;
    u64 code64 = mode == MODE_LONG ? 0x20ull << 48 : wide;
    put(m, GDT + 0x08, 0x008f9b000000ffff | code64);
    put(m, GDT + 0x10, 0x008f93000000ffff | wide);
    put(m, GDT + 0x18, 0x008ffb000000ffff | code64);
    put(m, GDT + 0x20, 0x008ff3000000ffff | wide);
    put(m, GDT + 0x28, 0x00af9b000000ffff);
    put(m, GDT + 0x30, 0x00008b0000000067 | (u64)TSS << 16);
    put(m, TSS + 4, STACK);
    put32(m, TSS + 8, is_long(mode) ? 0 : 0x10);
    m->s->gdt = (struct x86_table){GDT, 0x3f};
}

static void build_handlers(struct one_vcpu *m, enum mode mode, bool returning)
{
    unsigned selector = mode == MODE_COMPAT ? 0x28 : 0x08;
    for (u64 v = 0; v < 256; v++) {
        u64 at = HANDLERS + 16 * v;
        put(m, at, !returning ? 0xf4 : is_long(mode) ? 0xcf48 : 0xcf);
        if (mode == MODE_REAL)
            put32(m, 4 * v, (u32)at);
        else
            put(m, IDT + (is_long(mode) ? 16 : 8) * v,
                at | selector << 16 | (mode == MODE_PROTECTED16 ? 0xe600ull : 0xee00ull) << 32);
    }
    m->s->idt = mode == MODE_REAL ? (struct x86_table){0, 0x3ff} : (struct x86_table){IDT, 0xfff};
}

/* All of RAM one to one in 4 KiB pages, by 4 levels or by 2. */
static void build_paging(struct one_vcpu *m, enum mode mode)
{
    bool wide = is_long(mode);
    u64 table = PAGE_TABLES;
    for (; wide && table < PAGE_TABLES + 0x2000; table += PAGE_SIZE)
        put(m, table, (table + PAGE_SIZE) | 7);
    put(m, table, (table + PAGE_SIZE) | 7);
    table += PAGE_SIZE;
    for (u64 n = 0; n < RANDOM_CODE_RAM / PAGE_SIZE; n++) {
        if (wide)
            put(m, table + 8 * n, n << 12 | 7);
        else
            put32(m, table + 4 * n, (u32)(n << 12 | 7));
    }
    m->s->cr3 = PAGE_TABLES;
    m->s->cr0 |= X86_CR0_PG;
}

static void set_segments(struct one_vcpu *m, enum mode mode, bool user)
{
    struct x86_state *s = m->s;
    bool flat = mode != MODE_REAL && mode != MODE_V86;
    u32 size = mode == MODE_PROTECTED16 ? X86_ATTR_G : X86_ATTR_G | X86_ATTR_DB;
    for (unsigned n = 0; n < X86_SEG_COUNT; n++) {
        u16 selector = n == X86_CS ? CODE >> 4 : DATA >> 4;
        struct x86_segment real = {selector << 4, 0xffff, mode == MODE_V86 ? 0xf3 : 0x93, selector};
        struct x86_segment data = {0, 0xffffffff, size | (user ? 0xf3 : 0x93), user ? 0x23 : 0x10};
        s->seg[n] = flat ? data : real;
    }
    if (flat) {
        s->seg[X86_CS].attr = (mode == MODE_LONG ? X86_ATTR_G | X86_ATTR_L : size) | (user ? 0xfb : 0x9b);
        s->seg[X86_CS].selector = user ? 0x1b : 8;
    }
    if (flat && mode != MODE_LONG) { /* one that wraps, one with a limit */
        s->seg[X86_FS].base = 0xfffff000;
        s->seg[X86_GS].limit = DATA + 0xfff;
        s->seg[X86_GS].attr &= ~(u32)X86_ATTR_G;
    }
    s->tr = (struct x86_segment){TSS, 0x67, 0x8b, 0x30};
    s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
}

/* Places that are worth pointing at, and small and extreme numbers. */
static u64 gpr_value(u8 choice)
{
    static const u64 extreme[] = {
        ~0ull, 1ull << 63, 0x7fffffffffffffff, 0x80000000, 0xffffffff, 0x7ffffffffff8, 0xfffff, 0xffff};
    u64 n = choice & 0x3f;
    switch (choice >> 6) {
    case 0: return n < 32 ? n : n - 64;
    case 1: return DATA + n * 67;
    case 2: return n < 32 ? CODE + n : n * PAGE_SIZE - 4;
    default: return extreme[n % ARRAY_SIZE(extreme)];
    }
}

static void set_control(struct one_vcpu *m, const struct start *start, enum mode mode)
{
    struct x86_state *s = m->s;
    s->rflags = X86_FLAG1 | (get_le16(start->rflags) & 0x7cd5);
    if (mode == MODE_V86)
        s->rflags |= X86_VM;
    s->cr0 = X86_CR0_ET | (get_le32(start->cr0) &
                           (X86_CR0_WP | X86_CR0_AM | X86_CR0_TS | X86_CR0_EM | X86_CR0_MP | X86_CR0_NE));
    if (mode != MODE_REAL)
        s->cr0 |= X86_CR0_PE;
    s->cr4 = get_le32(start->cr4) & (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE |
                                     X86_CR4_PGE | X86_CR4_UMIP);
    if (start->flags & BIT(2))
        s->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    if (start->flags & BIT(2) && cpuid_has(m->vm.cpuid, CPUID_XSAVE)) {
        s->cr4 |= X86_CR4_OSXSAVE;
        s->xcr0 = m->vm.cpuid->xcr0_mask & 0xff;
    }
    if (is_long(mode)) {
        s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
        s->cr4 |= X86_CR4_PAE;
    }
}

static void set_state(struct one_vcpu *m, const struct start *start)
{
    enum mode mode = start->mode % MODES;
    bool user = mode > MODE_V86 && start->flags & BIT(0);
    for (unsigned n = 0; n < ARRAY_SIZE(start->gpr); n++)
        m->s->gpr[n] = gpr_value(start->gpr[n]);
    m->s->gpr[X86_RSP] = mode <= MODE_V86 ? 0xff00 : STACK - 0x1000;
    set_control(m, start, mode);
    set_segments(m, mode, user);
    m->s->rip = mode <= MODE_V86 ? 0 : CODE;
    build_handlers(m, mode, start->flags & BIT(1));
    if (mode != MODE_REAL)
        build_gdt(m, mode);
    if (is_long(mode) || (mode != MODE_REAL && start->flags & BIT(3)))
        build_paging(m, mode);
    one_vcpu_state_changed(m);
}

void random_code_check(const struct one_vcpu *m)
{
    const struct x86_state *s = m->s;
    bool real = !x86_protected(s);
    BUG_ON((s->rflags & ~0x3f7fd7ull) || !(s->rflags & X86_FLAG1));
    BUG_ON(x86_paging(s) && real);
    BUG_ON(x86_long_mode(s) != (x86_paging(s) && (s->efer & X86_EFER_LME)));
    BUG_ON(x86_long_mode(s) && (!(s->cr4 & X86_CR4_PAE) || x86_v8086(s)));
    BUG_ON(!x86_code64(s) && s->rip >> 32);
    BUG_ON(x86_v8086(s) && x86_cpl(s) != 3);
}

bool random_code_start(struct one_vcpu *m, const u8 *data, size_t size)
{
    struct start start;
    if (size <= sizeof start)
        return false;
    memcpy(&start, data, sizeof start);
    one_vcpu_reset(m);
    one_vcpu_put(m, CODE, data + sizeof start, MIN(size - sizeof start, (size_t)MAX_CODE));
    set_state(m, &start);
    return true;
}
