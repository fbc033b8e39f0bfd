/* The register state at a kernel's entry, and the descriptor and page tables that go with it. */
#include "machine/loader-internal.h"

/*
 * Selectors as the Linux boot protocol wants them (__BOOT_CS, __BOOT_DS); Multiboot and PVH leave them
 * to the loader. 0x20 is a TSS because VMX-like checks and PVH want a valid task register.
 */
#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS 0x20

#define ATTR_CODE32 0xc09bu /* G D P S, execute/read, accessed */
#define ATTR_CODE64 0xa09bu /* G L P S, execute/read, accessed */
#define ATTR_DATA 0xc093u   /* G B P S, read/write, accessed */
#define ATTR_TSS 0x8bu      /* P, busy 32-bit (64-bit) TSS */

/* A descriptor in memory from the parts of the hidden register (SDM vol. 3, figure 3-8). */
static u64 descriptor(u32 base, u32 limit, u32 attr)
{
    return (limit & 0xffffull) | (base & 0xffffffull) << 16 | (u64)(attr & 0xf0ff) << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)(base >> 24) << 56;
}

static int write_gdt(const struct boot_source *src, const struct boot_target *to, bool is_long,
                     struct error *err)
{
    u64 gdt[6] = {0};

    gdt[SEL_CODE / 8] = descriptor(0, 0xfffff, is_long ? ATTR_CODE64 : ATTR_CODE32);
    gdt[SEL_DATA / 8] = descriptor(0, 0xfffff, ATTR_DATA);
    gdt[SEL_TSS / 8] = descriptor(0, 0x67, ATTR_TSS); /* in long mode with its upper half, zero */
    return boot_write(src, to, "the descriptor table", MAP_BOOT_GDT, gdt, sizeof gdt, err);
}

/* The first 4 GiB in 2 MiB pages. */
static int write_page_tables(const struct boot_source *src, const struct boot_target *to, struct error *err)
{
    enum { P = 1, W = 2, PS = 0x80 };
    u64 table[6][512] = {{0}};
    const u64 base = MAP_BOOT_PAGE_TABLES;

    table[0][0] = (base + PAGE_SIZE) | P | W;
    for (unsigned i = 0; i < 4; i++)
        table[1][i] = (base + (2 + i) * PAGE_SIZE) | P | W;
    for (unsigned i = 0; i < 4 * 512; i++)
        table[2 + i / 512][i % 512] = (u64)i << 21 | P | W | PS;
    return boot_write(src, to, "the page tables", base, table, sizeof table, err);
}

int boot_prepare_memory(const struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
                        struct error *err)
{
    int r = write_gdt(src, to, entry->mode == BOOT_LONG, err);

    if (r || entry->mode != BOOT_LONG)
        return r;
    entry->cr3 = MAP_BOOT_PAGE_TABLES;
    return write_page_tables(src, to, err);
}

static void set_segments(struct x86_state *s, bool is_long)
{
    static const enum x86_seg data[] = {X86_ES, X86_SS, X86_DS, X86_FS, X86_GS};

    s->seg[X86_CS] = (struct x86_segment){
        .limit = 0xffffffff, .attr = is_long ? ATTR_CODE64 : ATTR_CODE32, .selector = SEL_CODE};
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
        s->seg[data[i]] = (struct x86_segment){.limit = 0xffffffff, .attr = ATTR_DATA, .selector = SEL_DATA};
    s->tr = (struct x86_segment){.limit = 0x67, .attr = ATTR_TSS, .selector = SEL_TSS};
    s->ldt = (struct x86_segment){.attr = X86_ATTR_UNUSABLE};
    s->gdt = (struct x86_table){.base = MAP_BOOT_GDT, .limit = 6 * 8 - 1};
    s->idt = (struct x86_table){0};
}

void boot_entry_apply(const struct boot_entry *entry, struct x86_state *s)
{
    bool is_long = entry->mode == BOOT_LONG;

    set_segments(s, is_long);
    memset(s->gpr, 0, sizeof s->gpr);
    s->gpr[X86_RAX] = entry->rax;
    s->gpr[X86_RBX] = entry->rbx;
    s->gpr[X86_RSI] = entry->rsi;
    s->rip = entry->rip;
    s->rflags = X86_FLAG1;
    s->cr0 = X86_CR0_PE | X86_CR0_ET;
    s->cr3 = 0;
    s->cr4 = 0;
    s->efer = 0;
    if (is_long) {
        s->cr0 |= X86_CR0_PG;
        s->cr3 = entry->cr3;
        s->cr4 = X86_CR4_PAE;
        s->efer = X86_EFER_LME | X86_EFER_LMA;
    }
}
