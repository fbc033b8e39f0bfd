/* Tests in long mode: global pages of the supervisor, at addresses where kernels have them. */
#include "global64.h"

#include "lib.h"

extern u64 boot_pml4[];

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_D BIT(6)
#define PTE_G BIT(8)
#define CR4_PGE BIT(7)
#define HIGH 0xffff800000000000

/* The page table of HIGH. */
static volatile u64 *pt;

static void make_tables(void)
{
    if (pt)
        return;
    u64 *pdpt = alloc_page(), *pd = alloc_page();
    pt = alloc_page();
    pd[0] = (word)pt | PTE_P | PTE_W;
    pdpt[0] = (word)pd | PTE_P | PTE_W;
    boot_pml4[256] = (word)pdpt | PTE_P | PTE_W;
}

static volatile u64 *high(unsigned n)
{
    return (volatile u64 *)(HIGH + n * 4096ull);
}

static void try_read(const volatile void *p)
{
    TRY("movq (%0), %%rax", : : "r"(p) : "rax", "memory");
}

static void try_write(volatile void *p)
{
    TRY("movq %%rax, (%0)", : : "r"(p) : "rax", "memory");
}

NOINLINE static u64 peek(const volatile u64 *p)
{
    return *p;
}

NOINLINE static void poke(volatile u64 *p, u64 v)
{
    *p = v;
}

static void set_high(unsigned n, const void *page, u64 flags)
{
    pt[n] = flags ? (word)page | flags : 0;
    invlpg((const void *)high(n));
}

/* What a supervisor has in all address spaces. Again and again, for code that gets better with time. */
void test_global_pages(void)
{
    enum { N = 2, GLOBAL = PTE_P | PTE_W | PTE_G };
    u64 *a = alloc_page(), *b = alloc_page();
    word cr3 = read_cr3();
    make_tables();
    write_cr4(read_cr4() | CR4_PGE);
    for (u64 k = 1; k < 100; k++) {
        *a = k;
        *b = 1000 + k;
        set_high(N, a, GLOBAL);
        set_high(N + 1, a, GLOBAL);
        CHECK_EQ(peek(high(N)), k);
        poke(high(N), 2 * k);
        CHECK_EQ(peek(high(N + 1)), 2 * k);
        CHECK_EQ(*a, 2 * k);
        CHECK(pt[N] & PTE_D);
        set_high(N, b, GLOBAL); /* another page */
        CHECK_EQ(peek(high(N)), 1000 + k);
        CHECK_EQ(peek(high(N + 1)), 2 * k);
        set_high(N, b, GLOBAL & ~PTE_W); /* fewer rights */
        CHECK_EQ(peek(high(N)), 1000 + k);
        try_write(high(N));
        EXPECT_PF(PFEC_P | PFEC_W, high(N));
        set_high(N, b, GLOBAL); /* D again */
        CHECK_EQ(peek(high(N)), 1000 + k);
        CHECK(!(pt[N] & PTE_D));
        poke(high(N), k);
        CHECK(pt[N] & PTE_D);
        set_high(N, b, 0);
        try_read(high(N));
        EXPECT_PF(0, high(N));
        set_high(N, a, GLOBAL & ~PTE_G); /* of this address space only */
        CHECK_EQ(peek(high(N)), 2 * k);
        pt[N] = (word)b | (GLOBAL & ~PTE_G);
        write_cr3(cr3);
        CHECK_EQ(peek(high(N)), k);
        pt[N + 1] = (word)b | GLOBAL;
        write_cr4(read_cr4() & ~CR4_PGE); /* drops global translations, too */
        write_cr4(read_cr4() | CR4_PGE);
        CHECK_EQ(peek(high(N + 1)), k);
        poke(high(N + 1), 3 * k);
        CHECK_EQ(*b, 3 * k);
        CHECK_EQ(*a, 2 * k);
    }
    set_high(N, a, 0);
    set_high(N + 1, a, 0);
    write_cr4(read_cr4() & ~CR4_PGE);
}

/* Code that is written through such a page is executed as it is. */
void test_code_in_global_page(void)
{
    enum { N = 5, GLOBAL = PTE_P | PTE_W | PTE_G };
    u8 *page = alloc_page();
    make_tables();
    write_cr4(read_cr4() | CR4_PGE);
    set_high(N, page, GLOBAL);
    for (u64 k = 1; k < 100; k++) {
        poke(high(N), 0xc300000000b8 | k << 8); /* mov eax, k; ret */
        u32 (*code)(void) = (u32(*)(void))(word)high(N);
        CHECK_EQ(code(), k);
        CHECK_EQ(peek(high(N)) >> 8 & 0xff, k);
    }
    set_high(N, page, 0);
    write_cr4(read_cr4() & ~CR4_PGE);
}
