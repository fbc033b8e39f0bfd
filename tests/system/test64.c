/* Tests in long mode: paging, protection, exceptions, debugging, CPL 3 and compatibility mode. */
#include "global64.h"
#include "lib.h"
#include "vectors64.h"

extern u64 boot_pml4[], boot_pdpt[], boot_pd[];

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)

#define CR0_WP BIT(16)
#define CR4_PGE BIT(7)
#define CR4_PCIDE BIT(17)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define MSR_EFER 0xc0000080
#define USER_CODE __attribute__((section(".user"), noinline))

/* --- a page whose PTE a test owns, at 1 GiB --- */

#define WINDOW 0x40000000ull
static u64 *window_pt, *window_pd;

static volatile u64 *pte(unsigned n)
{
    if (!window_pt) {
        window_pd = alloc_page();
        window_pt = alloc_page();
        boot_pdpt[1] = (word)window_pd | PTE_P | PTE_W | PTE_U;
        window_pd[0] = (word)window_pt | PTE_P | PTE_W | PTE_U;
    }
    return &window_pt[n];
}

static volatile u64 *window(unsigned n)
{
    return (volatile u64 *)(WINDOW + n * 4096ull);
}

static void map(unsigned n, const void *page, u64 flags)
{
    *pte(n) = flags ? (word)page | flags : 0;
    invlpg((const void *)(WINDOW + n * 4096ull));
}

static void try_read(const volatile void *p)
{
    TRY("movq (%0), %%rax", : : "r"(p) : "rax", "memory");
}
static void try_write(volatile void *p)
{
    TRY("movq %%rax, (%0)", : : "r"(p) : "rax", "memory");
}

static void test_not_present(void)
{
    map(0, NULL, 0);
    try_read(window(0));
    EXPECT_PF(0, window(0));
    try_write((volatile u8 *)window(0) + 8);
    EXPECT_PF(PFEC_W, (u8 *)window(0) + 8);
    TRY("movq (%0), %%rax", : : "r"(WINDOW + 0x40000000ull) : "rax"); /* no page directory */
    EXPECT_PF(0, WINDOW + 0x40000000ull);
}

static void test_write_protection(void)
{
    u64 *page = alloc_page();
    map(0, page, PTE_P);
    try_read(window(0));
    EXPECT_NO_TRAP();
    try_write(window(0));
    EXPECT_PF(PFEC_P | PFEC_W, window(0));
    write_cr0(read_cr0() & ~CR0_WP);
    try_write(window(0));
    EXPECT_NO_TRAP();
    write_cr0(read_cr0() | CR0_WP);
    try_write(window(0));
    EXPECT_PF(PFEC_P | PFEC_W, window(0));
}

static void test_accessed_dirty(void)
{
    u64 *page = alloc_page();
    map(1, page, PTE_P | PTE_W);
    CHECK_EQ(*pte(1) & (PTE_A | PTE_D), 0);
    try_read(window(1));
    CHECK_EQ(*pte(1) & (PTE_A | PTE_D), PTE_A);
    try_write(window(1));
    CHECK_EQ(*pte(1) & (PTE_A | PTE_D), PTE_A | PTE_D);
    /* A write that faults sets neither D nor A of the leaf. */
    map(1, page, PTE_P);
    try_write(window(1));
    CHECK_EQ(*pte(1) & PTE_D, 0);
    CHECK(boot_pdpt[1] & PTE_A);
}

static void test_no_execute(void)
{
    u8 *page = alloc_page();
    page[0] = 0xc3;
    map(2, page, PTE_P | PTE_W);
    TRY("call *%0", : : "r"(window(2)) : "memory");
    EXPECT_NO_TRAP();
    map(2, page, PTE_P | PTE_W | PTE_NX);
    TRY("call *%0", : : "r"(window(2)) : "memory");
    EXPECT_PF(PFEC_P | PFEC_I, window(2));
    CHECK_EQ(last.ip, (word)window(2));
    CHECK_EQ(last.sp, trap_sp - 8);              /* the call itself was complete */
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~BIT(11)); /* without NXE the bit is reserved */
    invlpg((void *)window(2));
    try_read(window(2));
    EXPECT_PF(PFEC_P | PFEC_RSVD, window(2));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | BIT(11));
    map(2, NULL, 0);
}

static void test_reserved_bits(void)
{
    u64 *page = alloc_page();
    u32 r[4];
    cpuid(0x80000008, 0, r);
    unsigned maxphyaddr = r[0] & 0xff;
    CHECK(maxphyaddr >= 36 && maxphyaddr <= 52);
    if (maxphyaddr < 52) {
        map(0, page, PTE_P | PTE_W | BIT(maxphyaddr));
        try_read(window(0));
        EXPECT_PF(PFEC_P | PFEC_RSVD, window(0));
        try_write(window(0));
        EXPECT_PF(PFEC_P | PFEC_RSVD | PFEC_W, window(0));
    }
    u64 before = window_pd[1];
    window_pd[1] = BIT(13) | PTE_PS | PTE_P; /* a reserved address bit of a 2 MiB page */
    try_read((void *)(WINDOW + 0x200000));
    EXPECT_PF(PFEC_P | PFEC_RSVD, WINDOW + 0x200000);
    window_pd[1] = before;
    map(0, NULL, 0);
}

static void test_large_pages(void)
{
    volatile u64 *target = (volatile u64 *)0x1800000;
    *target = 0x1122334455667788;
    pte(0);
    window_pd[2] = 0x1800000 | PTE_P | PTE_W | PTE_PS;
    volatile u64 *p = (volatile u64 *)(WINDOW + 0x400000);
    invlpg(p);
    CHECK_EQ(*p, 0x1122334455667788);
    p[512] = 5; /* the next 4 KiB of the same page */
    CHECK_EQ(target[512], 5);
    CHECK_EQ(window_pd[2] & (PTE_A | PTE_D), PTE_A | PTE_D);
    window_pd[2] = 0x1a00000 | PTE_P | PTE_W | PTE_PS;
    invlpg(p); /* one INVLPG drops the whole page */
    ((volatile u64 *)0x1a00000)[512] = 77;
    CHECK_EQ(p[512], 77);
    if (cpu_has(0x80000001, 0, 3, 26)) {
        boot_pdpt[2] = 0 | PTE_P | PTE_W | PTE_PS;
        CHECK_EQ(*(volatile u64 *)(0x80000000ull + (word)target), 0x1122334455667788);
        boot_pdpt[2] = 0;
        invlpg((void *)(0x80000000ull + (word)target));
    }
    window_pd[2] = 0;
    invlpg(p);
}

static void test_page_crossing_write(void)
{
    u8 *page = alloc_page();
    map(4, page, PTE_P | PTE_W);
    map(5, NULL, 0);
    volatile u64 *p = (volatile u64 *)(WINDOW + 5 * 4096 - 4);
    try_write(p);
    EXPECT_PF(PFEC_W, WINDOW + 5 * 4096);
    CHECK_EQ(*(volatile u32 *)p, 0); /* nothing of it was stored */
}

static void test_page_crossing_fetch(void)
{
    u8 *first = alloc_page(), *second = alloc_page();
    const u8 code[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3}; /* MOV RAX, imm64; RET */
    for (int i = 0; i < 4; i++)
        first[4092 + i] = code[i];
    for (unsigned i = 4; i < sizeof code; i++)
        second[i - 4] = code[i];
    map(6, first, PTE_P);
    map(7, second, PTE_P);
    u64 rax;
    TRY("call *%1", : "=a"(rax) : "r"(WINDOW + 7 * 4096 - 4) : "memory");
    EXPECT_NO_TRAP();
    CHECK_EQ(rax, 0x0807060504030201);
    map(7, second, PTE_P | PTE_NX);
    TRY("call *%1\n", : "=a"(rax) : "r"(WINDOW + 7 * 4096 - 4) : "memory");
    EXPECT_PF(PFEC_P | PFEC_I, WINDOW + 7 * 4096);
    CHECK_EQ(last.ip, WINDOW + 7 * 4096 - 4);
    map(7, second, PTE_P); /* the second half changes: the new bytes count */
    second[0] = 0x55;
    TRY("call *%1", : "=a"(rax) : "r"(WINDOW + 7 * 4096 - 4) : "memory");
    CHECK_EQ(rax, 0x0807060504550201);
}

/* The image's own pages are the user's as well; SMEP and SMAP want them to be the supervisor's alone. */
static void image_pages(bool user)
{
    for (int i = 0; i < 512; i++)
        boot_pd[i] = user ? boot_pd[i] | PTE_U : boot_pd[i] & ~PTE_U;
    write_cr3(read_cr3());
}

/* A fault in the fetch behind a branch: the frame has the flags that the branch was reached with. */
static void test_fetch_fault_flags(void)
{
    map(3, NULL, 0);
    for (u64 flags = 0; flags < 0x1000; flags = (flags | ~0x8d5ull) + 1) {
        flags &= 0x8d5; /* all values of OF, SF, ZF, AF, PF and CF */
        TRY("push %0\n popfq\n cmc\n jmp *%1", : : "r"(flags | 2), "r"(window(3)) : "rax", "memory");
        EXPECT_PF(PFEC_I, window(3));
        CHECK_EQ(last.flags & 0x8d5, flags ^ 1);
        if (flags == 0x8d5)
            break;
    }
}

static void test_smep(void)
{
    if (!cpu_has(7, 0, 1, 7))
        return;
    u8 *page = alloc_page();
    page[0] = 0xc3;
    map(8, page, PTE_P | PTE_W | PTE_U);
    image_pages(false);
    TRY("call *%0", : : "r"(window(8)) : "memory");
    EXPECT_NO_TRAP();
    write_cr4(read_cr4() | CR4_SMEP);
    TRY("call *%0", : : "r"(window(8)) : "memory");
    EXPECT_PF(PFEC_P | PFEC_I, window(8));
    write_cr4(read_cr4() & ~CR4_SMEP);
    image_pages(true);
}

static void test_smap(void)
{
    if (!cpu_has(7, 0, 1, 20))
        return;
    map(8, alloc_page(), PTE_P | PTE_W | PTE_U);
    image_pages(false);
    write_cr4(read_cr4() | CR4_SMAP);
    try_read(window(8));
    EXPECT_PF(PFEC_P, window(8));
    try_write(window(8));
    EXPECT_PF(PFEC_P | PFEC_W, window(8));
    TRY("stac\n movq (%0), %%rax\n clac", : : "r"(window(8)) : "rax");
    EXPECT_NO_TRAP();
    try_read(window(8));
    EXPECT_PF(PFEC_P, window(8));
    write_cr4(read_cr4() & ~CR4_SMAP);
    image_pages(true);
}

static void test_tlb_flush(void)
{
    u64 *a = alloc_page(), *b = alloc_page();
    *a = 1;
    *b = 2;
    map(9, a, PTE_P | PTE_W);
    CHECK_EQ(*window(9), 1);
    *pte(9) = (word)b | PTE_P | PTE_W;
    invlpg((void *)window(9));
    CHECK_EQ(*window(9), 2);
    *pte(9) = (word)a | PTE_P | PTE_W;
    write_cr3(read_cr3());
    CHECK_EQ(*window(9), 1);
    write_cr4(read_cr4() | CR4_PGE);
    map(9, a, PTE_P | PTE_W | PTE_G);
    CHECK_EQ(*window(9), 1);
    *pte(9) = (word)b | PTE_P | PTE_W | PTE_G;
    write_cr4(read_cr4() & ~CR4_PGE); /* drops global translations too */
    CHECK_EQ(*window(9), 2);
    *pte(9) = (word)a | PTE_P | PTE_W;
    write_cr0(read_cr0() & ~CR0_WP); /* changes of CR0.WP are seen at once */
    write_cr0(read_cr0() | CR0_WP);
    invlpg((void *)window(9));
    CHECK_EQ(*window(9), 1);
}

static void test_pcid(void)
{
    if (!cpu_has(1, 0, 2, 17))
        return;
    u64 *a = alloc_page(), *b = alloc_page();
    *a = 1;
    *b = 2;
    word cr3 = read_cr3();
    write_cr4(read_cr4() | CR4_PCIDE);
    map(10, a, PTE_P | PTE_W);
    write_cr3(cr3 | 1);
    CHECK_EQ(*window(10), 1);
    write_cr3(cr3 | 2);
    CHECK_EQ(*window(10), 1);
    *pte(10) = (word)b | PTE_P | PTE_W;
    invlpg((void *)window(10));
    CHECK_EQ(*window(10), 2); /* INVLPG reaches the current PCID */
    write_cr3(cr3 | 1);       /* without bit 63: drops what PCID 1 had */
    CHECK_EQ(*window(10), 2);
    if (cpu_has(7, 0, 1, 10)) {
        struct {
            u64 pcid, address;
        } d = {2, (word)window(10)};
        for (u64 type = 0; type < 4; type++) {
            *pte(10) = (word)(type & 1 ? b : a) | PTE_P | PTE_W;
            TRY("invpcid %0, %1", : : "m"(d), "r"(type) : "memory");
            EXPECT_NO_TRAP();
            write_cr3(cr3 | 2 | BIT(63));
            CHECK_EQ(*window(10), type & 1 ? 2 : 1);
        }
        d.pcid = 0x1000; /* reserved bits */
        TRY("invpcid %0, %1", : : "m"(d), "r"(0ull) : "memory");
        EXPECT_TRAP(GP, 0);
        d.pcid = 0;
        TRY("invpcid %0, %1", : : "m"(d), "r"(4ull) : "memory");
        EXPECT_TRAP(GP, 0);
    }
    write_cr3(cr3 | 3);
    TRY("mov %0, %%cr4", : : "r"(read_cr4() & ~CR4_PCIDE) : "memory"); /* clearing it is always allowed */
    EXPECT_NO_TRAP();
    write_cr3(cr3 | 8);
    TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory"); /* CR3[11:0] must be 0 */
    EXPECT_TRAP(GP, 0);
    write_cr3(cr3);
}

static void use_ist(u8 vector, u8 ist)
{
    ((volatile u8 *)idt)[vector * 16 + 4] = ist;
}

static void test_canonical(void)
{
    try_read((void *)0x0000800000000000);
    EXPECT_TRAP(GP, 0);
    try_write((void *)0xffff7ffffffffff8);
    EXPECT_TRAP(GP, 0);
    tss.ist[2] = (word)ist_stack_top; /* the faulting stack cannot take the frame */
    use_ist(SS, 3);
    TRY("movq %0, %%rsp\n pushq %%rax", : : "r"(0x0000800000000010) : "memory");
    EXPECT_TRAP(SS, 0);
    use_ist(SS, 0);
    TRY("jmp *%0", : : "r"(0x0000800000000000) : "memory");
    EXPECT_TRAP(GP, 0);
}

static void test_control_registers(void)
{
    word cr0 = read_cr0(), cr4 = read_cr4();
    TRY("mov %0, %%cr0", : : "r"(cr0 & ~1ull)); /* PG without PE */
    EXPECT_TRAP(GP, 0);
    TRY("mov %0, %%cr0", : : "r"((cr0 | BIT(29)) & ~BIT(30))); /* NW without CD */
    EXPECT_TRAP(GP, 0);
    TRY("mov %0, %%cr0", : : "r"(cr0 | BIT(40)));
    EXPECT_TRAP(GP, 0);
    TRY("mov %0, %%cr4", : : "r"(cr4 & ~BIT(5))); /* PAE may not go in long mode */
    EXPECT_TRAP(GP, 0);
    TRY("mov %0, %%cr4", : : "r"(cr4 | BIT(31)));
    EXPECT_TRAP(GP, 0);
    TRY("mov %0, %%cr3", : : "r"(BIT(60)));
    EXPECT_TRAP(GP, 0);
    TRY("mov %0, %%cr8", : : "r"(16ull));
    EXPECT_TRAP(GP, 0);
    TRY("wrmsr", : : "c"(MSR_EFER), "a"((u32)rdmsr(MSR_EFER) & ~0x100u), "d"(0)); /* LME while paging */
    EXPECT_TRAP(GP, 0);
    TRY("wrmsr", : : "c"(0xc0000100), "a"(0), "d"(0x8000)); /* a base that is not canonical */
    EXPECT_TRAP(GP, 0);
    TRY("rdmsr", : : "c"(0x12345678) : "eax", "edx");
    EXPECT_TRAP(GP, 0);
    CHECK_EQ(read_cr0(), cr0);
    CHECK_EQ(read_cr4(), cr4);
    write_cr2(0x123456789abc);
    CHECK_EQ(read_cr2(), 0x123456789abc);
}

/* --- segments --- */

static void test_segment_loads(void)
{
    gdt[SEL_FREE / 8] = descriptor(0, 0xfffff, 0x13, 0xc);     /* data, not present */
    gdt[SEL_FREE / 8 + 1] = descriptor(0, 0xfffff, 0x9b, 0xa); /* code */
    gdt[SEL_FREE / 8 + 2] = descriptor(0, 0xfffff, 0x99, 0xa); /* execute-only code */
    gdt[SEL_FREE / 8 + 3] = descriptor(0, 0xfffff, 0x92, 0xc); /* data, not accessed yet */
    TRY("mov %w0, %%ds", : : "r"(SEL_FREE));
    EXPECT_TRAP(NP, SEL_FREE);
    TRY("mov %w0, %%ds", : : "r"(SEL_FREE + 8));
    EXPECT_NO_TRAP();
    TRY("mov %w0, %%ds", : : "r"(SEL_FREE + 16));
    EXPECT_TRAP(GP, SEL_FREE + 16);
    TRY("mov %w0, %%ss", : : "r"(SEL_FREE + 8));
    EXPECT_TRAP(GP, SEL_FREE + 8);
    TRY("mov %w0, %%ss", : : "r"(SEL_FREE));
    EXPECT_TRAP(SS, SEL_FREE);
    TRY("mov %w0, %%ss", : : "r"(SEL_USER_DATA));
    EXPECT_TRAP(GP, SEL_USER_DATA & ~3);
    TRY("mov %w0, %%es", : : "r"(0x1000));
    EXPECT_TRAP(GP, 0x1000);
    TRY("mov %w0, %%es", : : "r"(SEL_DATA | 4)); /* no LDT */
    EXPECT_TRAP(GP, SEL_DATA | 4);
    TRY("mov %w0, %%es", : : "r"(SEL_FREE + 24));
    EXPECT_NO_TRAP();
    CHECK_EQ(gdt[SEL_FREE / 8 + 3] >> 40 & 0xff, 0x93); /* the accessed bit */
    TRY("mov %w0, %%es", : : "r"(3));                   /* null with an RPL */
    EXPECT_NO_TRAP();
    TRY("mov %w0, %%ss", : : "r"(0)); /* null SS is fine at CPL 0 in 64-bit mode */
    EXPECT_NO_TRAP();
    __asm__ volatile("mov %w0, %%ds; mov %w0, %%es; mov %w0, %%ss" : : "r"(SEL_DATA));
    for (int i = 0; i < 4; i++)
        gdt[SEL_FREE / 8 + i] = 0;
}

static void test_lar_lsl(void)
{
    gdt[SEL_FREE / 8] = descriptor(0, 0x12345, 0x92, 0x4);
    u32 value = 0;
    u8 zf;
    __asm__ volatile("lsl %2, %0; setz %1" : "+r"(value), "=qm"(zf) : "r"(SEL_FREE) : "cc");
    CHECK_EQ(zf, 1);
    CHECK_EQ(value, 0x12345);
    __asm__ volatile("lar %2, %0; setz %1" : "+r"(value), "=qm"(zf) : "r"(SEL_FREE) : "cc");
    CHECK_EQ(zf, 1);
    CHECK_EQ(value, 0x419200);
    __asm__ volatile("lar %2, %0; setz %1" : "+r"(value), "=qm"(zf) : "r"(0x2000) : "cc");
    CHECK_EQ(zf, 0);
    CHECK_EQ(value, 0x419200);
    __asm__ volatile("verw %w1; setz %0" : "=qm"(zf) : "r"(SEL_CODE) : "cc");
    CHECK_EQ(zf, 0);
    __asm__ volatile("verr %w1; setz %0" : "=qm"(zf) : "r"(SEL_CODE) : "cc");
    CHECK_EQ(zf, 1);
    gdt[SEL_FREE / 8] = 0;
}

static void test_fs_gs_bases(void)
{
    u64 here = 0xfeedfacecafebeef, there = 0x1234;
    wrmsr(0xc0000101, (word)&here);
    wrmsr(0xc0000102, (word)&there);
    u64 v;
    __asm__ volatile("movq %%gs:0, %0" : "=r"(v));
    CHECK_EQ(v, here);
    __asm__ volatile("swapgs; movq %%gs:0, %0" : "=r"(v));
    CHECK_EQ(v, there);
    CHECK_EQ(rdmsr(0xc0000102), (word)&here);
    wrmsr(0xc0000100, (word)&here - 16);
    __asm__ volatile("movq %%fs:16, %0" : "=r"(v));
    CHECK_EQ(v, here);
}

/* --- CPL 3 --- */

USER_CODE static word user_hlt(word arg)
{
    __asm__ volatile("hlt");
    return arg;
}
USER_CODE static word user_cli(word arg)
{
    __asm__ volatile("cli");
    return arg;
}
USER_CODE static word user_cr0(word arg)
{
    __asm__ volatile("mov %%cr0, %0" : "=r"(arg));
    return arg;
}
USER_CODE static word user_rdmsr(word arg)
{
    __asm__ volatile("rdmsr" : : "c"(0xc0000080) : "eax", "edx");
    return arg;
}
USER_CODE static word user_lgdt(word arg)
{
    __asm__ volatile("lgdt (%0)" : : "r"(arg));
    return arg;
}
USER_CODE static word user_in(word port)
{
    u8 v;
    __asm__ volatile("inb %w1, %0" : "=a"(v) : "d"(port));
    return v;
}
USER_CODE static word user_int(word arg)
{
    __asm__ volatile("int $0x21");
    return arg;
}
USER_CODE static word user_read(word p)
{
    return *(volatile u64 *)p;
}
USER_CODE static word user_write(word p)
{
    *(volatile u64 *)p = 7;
    return 0;
}
USER_CODE static word user_jump(word p)
{
    ((void (*)(void))p)();
    return 0;
}
USER_CODE static word user_add(word p)
{
    return p + 5;
}
USER_CODE static word user_popf(word arg)
{
    word flags;
    __asm__ volatile("push %1; popfq; pushfq; pop %0" : "=r"(flags) : "r"(arg));
    return flags;
}
USER_CODE static word user_null_ss(word arg)
{
    __asm__ volatile("mov %w0, %%ss" : : "r"(0));
    return arg;
}
USER_CODE static word user_unaligned(word arg)
{
    __asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq; movl 1(%0), %%eax" : : "r"(arg) : "rax");
    return 0;
}

static void test_user_privileges(void)
{
    CHECK_EQ(run_user(user_add, 37), 42);
    EXPECT_NO_TRAP();
    word (*const privileged[])(word) = {user_hlt, user_cli, user_cr0, user_rdmsr, user_lgdt};
    for (unsigned i = 0; i < sizeof privileged / sizeof *privileged; i++) {
        trap_clear();
        run_user(privileged[i], (word)user_stack_top - 64);
        EXPECT_TRAP(GP, 0);
        CHECK_EQ(last.cs, SEL_USER_CODE);
        CHECK_EQ(last.ss, SEL_USER_DATA);
    }
    run_user(user_int, 0); /* the gate's DPL is 0 */
    EXPECT_TRAP(GP, 0x21 * 8 + 2);
    run_user(user_null_ss, 0);
    EXPECT_TRAP(GP, 0);
    trap_clear();
    word flags = run_user(user_popf, 0x3002 | BIT(21)); /* IF and IOPL stay, ID can be changed */
    EXPECT_NO_TRAP();
    CHECK_EQ(flags & (BIT(9) | 0x3000 | BIT(21)), BIT(9) | BIT(21));
}

static void test_user_pages(void)
{
    u64 *page = alloc_page();
    map(11, page, PTE_P | PTE_W);
    run_user(user_read, (word)window(11));
    EXPECT_PF(PFEC_P | PFEC_U, window(11));
    run_user(user_write, (word)window(11));
    EXPECT_PF(PFEC_P | PFEC_U | PFEC_W, window(11));
    map(11, page, PTE_P | PTE_U);
    trap_clear();
    run_user(user_read, (word)window(11));
    EXPECT_NO_TRAP();
    run_user(user_write, (word)window(11));
    EXPECT_PF(PFEC_P | PFEC_U | PFEC_W, window(11));
    map(11, page, PTE_P | PTE_U | PTE_NX);
    run_user(user_jump, (word)window(11));
    EXPECT_PF(PFEC_P | PFEC_U | PFEC_I, window(11));
    map(11, NULL, 0);
    run_user(user_jump, (word)window(11));
    EXPECT_PF(PFEC_U | PFEC_I, window(11));
    run_user(user_read, 0x0000900000000000);
    EXPECT_TRAP(GP, 0);
}

/*
 * Page tables that change by other instructions than those of every kernel. An engine that shadows page
 * tables, and leaves what it does not know to another, must notice all the same. At CPL 3, where such an
 * engine uses its own.
 */
#define USER_PAGE (PTE_P | PTE_W | PTE_U)

static void exchange_pair(volatile u64 *at, u64 low, u64 high)
{
    __asm__ volatile("lock cmpxchg16b (%%rsi)"
                     :
                     : "S"(at), "a"(at[0]), "d"(at[1]), "b"(low), "c"(high)
                     : "memory", "cc");
}

static u64 seen_by_user(const volatile u64 *p)
{
    return run_user(user_read, (word)p);
}

static void test_tables_by_other_stores(void)
{
    enum { FIRST = 16 };
    u64 *a = alloc_page(), *b = alloc_page();
    *a = 1;
    *b = 2;
    map(FIRST, a, USER_PAGE);
    map(FIRST + 1, b, USER_PAGE);
    for (unsigned n = 0; n < 20; n++) {
        const u64 *even = n & 1 ? a : b, *odd = n & 1 ? b : a;
        exchange_pair(pte(FIRST), (word)even | USER_PAGE, (word)odd | USER_PAGE);
        invlpg(window(FIRST));
        invlpg(window(FIRST + 1));
        CHECK_EQ(seen_by_user(window(FIRST)), *even);
        CHECK_EQ(seen_by_user(window(FIRST + 1)), *odd);
    }
    exchange_pair(pte(FIRST), 0, (word)a | PTE_P | PTE_U);
    invlpg(window(FIRST));
    invlpg(window(FIRST + 1));
    run_user(user_read, (word)window(FIRST));
    EXPECT_PF(PFEC_U, window(FIRST));
    run_user(user_write, (word)window(FIRST + 1));
    EXPECT_PF(PFEC_P | PFEC_U | PFEC_W, window(FIRST + 1));
}

/* A table that is cleared, and used again elsewhere. */
static void test_tables_cleared(void)
{
    u64 *a = alloc_page(), *table = alloc_page();
    *a = 1;
    table[0] = (word)a | USER_PAGE;
    window_pd[2] = (word)table | USER_PAGE;
    CHECK_EQ(seen_by_user(window(2 * 512)), 1);
    window_pd[2] = 0;
    invlpg(window(2 * 512));
    exchange_pair(table, 0, 0);
    window_pd[3] = (word)table | USER_PAGE;
    run_user(user_read, (word)window(3 * 512));
    EXPECT_PF(PFEC_U, window(3 * 512));
    window_pd[3] = 0;
}

static void test_invpcid(void)
{
    u64 *a = alloc_page(), *b = alloc_page();
    struct {
        u64 pcid, address;
    } d = {0, (word)window(18)};
    if (!cpu_has(7, 0, 1, 10))
        return;
    *a = 1;
    *b = 2;
    map(18, a, USER_PAGE);
    CHECK_EQ(seen_by_user(window(18)), 1);
    for (u64 n = 0; n < 40; n++) {
        *pte(18) = (word)(n & 1 ? a : b) | USER_PAGE;
        TRY("invpcid %0, %1", : : "m"(d), "r"(n % 4) : "memory");
        EXPECT_NO_TRAP();
        CHECK_EQ(seen_by_user(window(18)), n & 1 ? 1 : 2);
    }
}

static void test_io_bitmap(void)
{
    tss.iomap = 0xffff;
    run_user(user_in, 0x3fd);
    EXPECT_TRAP(GP, 0);
    tss.iomap = offsetof(struct tss, io);
    for (unsigned i = 0; i < sizeof tss.io; i++)
        tss.io[i] = 0xff;
    tss.io[0x3fd / 8] &= (u8) ~(1 << (0x3fd % 8));
    u64 whole = gdt[SEL_TSS / 8];
    gdt[SEL_TSS / 8] = descriptor((u32)(word)&tss, sizeof tss - 1, 0x89, 0);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
    trap_clear();
    run_user(user_in, 0x3fd);
    EXPECT_NO_TRAP();
    run_user(user_in, 0x3fc);
    EXPECT_TRAP(GP, 0);
    gdt[SEL_TSS / 8] = (whole & ~(0xffull << 40)) | 0x89ull << 40;
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
    CHECK_EQ(gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b); /* busy */
    TRY("ltr %w0", : : "r"(SEL_TSS));
    EXPECT_TRAP(GP, SEL_TSS);
    tss.iomap = 0xffff;
}

static void test_alignment_check(void)
{
    write_cr0(read_cr0() | BIT(18));
    run_user(user_unaligned, (word)user_stack_top - 64);
    EXPECT_TRAP(AC, 0);
    write_cr0(read_cr0() & ~BIT(18));
    trap_clear();
    run_user(user_unaligned, (word)user_stack_top - 64);
    EXPECT_NO_TRAP();
}

/* --- SYSCALL --- */

__asm__(".section .user, \"ax\"\n"
        "user_syscall:\n"
        "  push %rbx\n"
        "  mov $0x5555, %ebx\n"
        "  stc\n"
        "  syscall\n"
        "user_after_syscall:\n"
        "  mov %rbx, %rax\n"
        "  pop %rbx\n"
        "  ret\n"
        ".text\n"
        "syscall_entry:\n"
        "  mov %rcx, syscall_rcx\n"
        "  mov %r11, syscall_r11\n"
        "  pushfq\n"
        "  popq syscall_flags\n"
        "  mov %cs, syscall_cs\n"
        "  mov %ss, syscall_ss\n"
        "  inc %rbx\n"
        "  sysretq\n");
extern u8 user_syscall[], user_after_syscall[], syscall_entry[];
u64 syscall_rcx, syscall_r11, syscall_flags;
u16 syscall_cs, syscall_ss;

static void test_syscall(void)
{
    /* STAR: SYSCALL takes CS 08 and SS 10; SYSRETQ takes CS (0x13 + 16) = 23 and SS (0x13 + 8) = 1b. */
    wrmsr(0xc0000081, 0x0013000800000000);
    wrmsr(0xc0000082, (word)syscall_entry);
    wrmsr(0xc0000084, 0x1); /* clear CF */
    word v = run_user((word(*)(word))user_syscall, 0);
    EXPECT_NO_TRAP();
    CHECK_EQ(v, 0x5556);
    CHECK_EQ(syscall_rcx, (word)user_after_syscall);
    CHECK_EQ(syscall_r11 & 0x201, 0x201);
    CHECK_EQ(syscall_flags & 1, 0);
    CHECK_EQ(syscall_cs, SEL_CODE);
    CHECK_EQ(syscall_ss, SEL_DATA);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
    run_user((word(*)(word))user_syscall, 0);
    EXPECT_TRAP(UD, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
}

/* --- compatibility mode --- */

__asm__(".section .user, \"ax\"\n"
        ".code32\n"
        "compat_code:\n"
        "  mov $0x11111111, %eax\n"
        "  inc %eax\n" /* 40: would be REX in 64-bit mode */
        "  push %eax\n"
        "  pop %ecx\n"
        "  mov %ecx, %eax\n"
        "  int $0x80\n"
        ".code64\n");
extern u8 compat_code[];

static word compat_sp, compat_eax;
static void compat_hook(struct trap *t)
{
    compat_eax = t->regs[0];
    compat_sp = t->sp;
    extern u8 user_return[];
    t->ip = (word)user_return;
    t->cs = SEL_CODE;
    t->flags = 2;
    t->ss = 0;
}

USER_CODE static word user_to_compat(word arg)
{
    /* With flat data segments: then it is translated. */
    __asm__ volatile("mov %2, %%ds; mov %2, %%es; push %0; push %1; lretq"
                     :
                     : "r"((u64)SEL_USER_CODE32), "r"(arg), "r"((u32)SEL_USER_DATA));
    return 0;
}

static void test_compatibility_mode(void)
{
    trap_clear();
    trap_hook = compat_hook;
    run_user(user_to_compat, (word)compat_code);
    trap_hook = NULL;
    CHECK_EQ(last.vector, 0x80);
    CHECK_EQ(last.cs, SEL_USER_CODE32);
    CHECK_EQ(compat_eax, 0x11111112);
    CHECK(compat_sp > (word)user_stack_top - 4096 && compat_sp <= (word)user_stack_top);
}

/* The same bytes at the same address mean something else in each mode. */
__asm__(".section .user, \"ax\"\n"
        "either_mode:\n"
        "  mov $0x10, %eax\n"
        "  .byte 0x40, 0xff, 0xc0\n" /* 64-bit: inc eax; else that twice */
        "  int $0x80\n");
extern u8 either_mode[];

static void test_one_address_in_two_modes(void)
{
    trap_hook = compat_hook;
    for (int n = 0; n < 4; n++) {
        run_user((word(*)(word))either_mode, 0);
        CHECK_EQ(compat_eax, 0x11);
        run_user(user_to_compat, (word)either_mode);
        CHECK_EQ(compat_eax, 0x12);
    }
    trap_hook = NULL;
    trap_clear();
}

/* --- gates and interrupts --- */

__asm__(".text\n"
        "gate_target:\n"
        "  mov %cs, gate_cs\n"
        "  mov (%rsp), %rax\n"
        "  mov %rax, gate_return\n"
        "  mov 8(%rsp), %rax\n"
        "  mov %rax, gate_return_cs\n"
        "  mov 24(%rsp), %rax\n"
        "  mov %rax, gate_return_ss\n"
        "  lretq\n"
        ".section .user, \"ax\"\n"
        "user_call_gate:\n"
        "  lcall *gate_pointer\n"
        "user_after_gate:\n"
        "  mov %cs, %eax\n"
        "  ret\n"
        "gate_pointer: .long 0\n"
        ".word 0x50\n");
extern u8 gate_target[], user_call_gate[], user_after_gate[];
u64 gate_return, gate_return_cs, gate_return_ss;
u16 gate_cs;

static void test_call_gate(void)
{
    word h = (word)gate_target;
    gdt[10] = (h & 0xffff) | (u64)SEL_CODE << 16 | 0xecull << 40 | (h >> 16 & 0xffff) << 48;
    gdt[11] = h >> 32;
    word cs = run_user((word(*)(word))user_call_gate, 0);
    EXPECT_NO_TRAP();
    CHECK_EQ(cs & 0xffff, SEL_USER_CODE);
    CHECK_EQ(gate_cs, SEL_CODE);
    CHECK_EQ(gate_return, (word)user_after_gate);
    CHECK_EQ(gate_return_cs, SEL_USER_CODE);
    CHECK_EQ(gate_return_ss, SEL_USER_DATA);
    gdt[10] = (gdt[10] & ~(0xffull << 40)) | 0x8cull << 40; /* DPL 0 */
    run_user((word(*)(word))user_call_gate, 0);
    EXPECT_TRAP(GP, 0x50);
    gdt[10] = (gdt[10] & ~(0xffull << 40)) | 0x6cull << 40; /* not present */
    run_user((word(*)(word))user_call_gate, 0);
    EXPECT_TRAP(NP, 0x50);
    gdt[10] = gdt[11] = 0;
}

static word hook_sp;
static void note_sp_hook(struct trap *t)
{
    hook_sp = (word)t;
    t->ip = trap_resume;
}

static void test_interrupt_stack_table(void)
{
    tss.ist[2] = (word)ist_stack_top; /* IST 3 */
    use_ist(UD, 3);
    trap_hook = note_sp_hook;
    TRY("ud2", : : : "memory");
    trap_hook = NULL;
    CHECK_EQ(last.vector, UD);
    CHECK(hook_sp < (word)ist_stack_top && hook_sp > (word)ist_stack_top - 512);
    CHECK_EQ(((word)ist_stack_top - hook_sp), sizeof(struct trap));
    use_ist(UD, 0);
    trap_hook = note_sp_hook;
    TRY("ud2", : : : "memory");
    trap_hook = NULL;
    CHECK(hook_sp > (word)ring0_stack && hook_sp < (word)ring0_stack_top);
    CHECK_EQ((hook_sp + sizeof(struct trap)) & 15, 0); /* the frame starts at a multiple of 16 */
}

static void test_double_fault(void)
{
    tss.ist[2] = (word)ist_stack_top;
    map(12, NULL, 0);
    /* #UD on a stack that is not mapped: its #PF faults in turn, and that is a double fault. */
    TRY("movq %0, %%rsp\n ud2", : : "r"(WINDOW + 12 * 4096 + 512) : "memory");
    EXPECT_TRAP(DF, 0);
    /* A contributory exception in the delivery of another. */
    volatile u8 *gate = idt + GP * 16;
    gate[5] = 0x0e; /* #GP's gate is not present: #NP */
    TRY("mov %w0, %%es", : : "r"(0x1000) : "memory");
    EXPECT_TRAP(DF, 0);
    reset_gate(GP, 0);
    gate = idt + UD * 16;
    gate[5] = 0x0e; /* #UD is benign: #NP is delivered, with EXT set in its error code */
    TRY("ud2", : : : "memory");
    EXPECT_TRAP(NP, UD * 8 + 3);
    reset_gate(UD, 0);
}

static void test_bad_gates(void)
{
    volatile u8 *gate = idt + 0x60 * 16;
    gate[5] = 0x0e; /* not present */
    TRY("int $0x60", : : : "memory");
    EXPECT_TRAP(NP, 0x60 * 8 + 2);
    gate[5] = 0x85; /* a task gate: none in long mode */
    TRY("int $0x60", : : : "memory");
    EXPECT_TRAP(GP, 0x60 * 8 + 2);
    reset_gate(0x60, 0);
    *(volatile u16 *)(gate + 2) = SEL_DATA;
    TRY("int $0x60", : : : "memory");
    EXPECT_TRAP(GP, SEL_DATA);
    reset_gate(0x60, 0);
    struct table shorter = {0x60 * 16 - 1, (word)idt}, whole = {4095, (word)idt};
    __asm__ volatile("lidt %0" : : "m"(shorter));
    TRY("int $0x60", : : : "memory");
    EXPECT_TRAP(GP, 0x60 * 8 + 2);
    __asm__ volatile("lidt %0" : : "m"(whole));
    TRY("int $0x60", : : : "memory");
    CHECK_EQ(last.vector, 0x60);
}

static void test_iret_checks(void)
{
    TRY("pushq %0\n pushq %%rsp\n pushfq\n pushq %1\n pushq $1f\n orq $0x4000, 16(%%rsp)\n"
        "pushfq\n orq $0x4000, (%%rsp)\n popfq\n iretq\n 1:",
        :
        : "r"((u64)SEL_DATA), "r"((u64)SEL_CODE)
        : "memory"); /* NT in long mode */
    EXPECT_TRAP(GP, 0);
    __asm__ volatile("pushfq; andq $~0x4000, (%rsp); popfq");
    TRY("pushq %0\n pushq %%rsp\n pushfq\n pushq %1\n pushq $1f\n iretq\n 1:",
        :
        : "r"((u64)SEL_DATA), "r"((u64)SEL_DATA)
        : "memory"); /* data as code */
    EXPECT_TRAP(GP, SEL_DATA);
}

/* --- debugging --- */

static void test_single_step(void)
{
    trap_clear();
    __asm__ volatile(
        "pushfq\n orq $0x100, (%%rsp)\n popfq\n nop\n nop\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n"
        :
        :
        : "memory");
    /* a trap after each of NOP, NOP, PUSHFQ, ANDQ and POPFQ */
    CHECK_EQ(trap_count, 5);
    CHECK_EQ(last.vector, DB);
    CHECK_EQ(last_dr6 & BIT(14), BIT(14));
    write_dr6(0xffff0ff0);
}

static void test_code_breakpoint(void)
{
    extern u8 break_here[];
    write_dr6(0xffff0ff0);
    write_dr0((word)break_here);
    write_dr7(0x402); /* G0, execute */
    TRY("nop\n break_here: movl $1, %%ecx", : : : "rcx", "memory");
    EXPECT_TRAP(DB, 0);
    CHECK_EQ(last.ip, (word)break_here); /* a fault: before the instruction */
    CHECK_EQ(last_dr6 & 0xf, 1);
    CHECK_EQ(last.flags & BIT(16), 0); /* unlike other faults, which push RF as 1 (SDM vol. 3, 18.3.1.1) */
    TRY("ud2", : : : "memory");
    CHECK_EQ(last.flags & BIT(16), BIT(16));
    write_dr7(0x400);
}

static u64 watched[2];
static void test_data_breakpoint(void)
{
    extern u8 after_write[];
    write_dr6(0xffff0ff0);
    write_dr1((word)&watched[0]);
    write_dr7(0x400 | BIT(3) | 1u << 20 | 2u << 22); /* G1, write, 8 bytes */
    TRY("movq $5, watched\n after_write: nop", : : : "memory");
    EXPECT_TRAP(DB, 0);
    CHECK_EQ(last.ip, (word)after_write); /* a trap: behind the instruction */
    CHECK_EQ(last_dr6 & 0xf, 2);
    CHECK_EQ(watched[0], 5);
    write_dr6(0xffff0ff0);
    TRY("movq watched, %%rax", : : : "rax", "memory"); /* reads do not count */
    EXPECT_NO_TRAP();
    TRY("movq $5, watched + 8", : : : "memory");
    EXPECT_NO_TRAP();
    TRY("movb $5, watched + 7", : : : "memory");
    CHECK_EQ(last.vector, DB);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

static void test_general_detect(void)
{
    write_dr6(0xffff0ff0);
    write_dr7(0x400 | BIT(13));
    TRY("mov %%dr0, %%rax", : : : "rax");
    EXPECT_TRAP(DB, 0);
    CHECK_EQ(last_dr6 & BIT(13), BIT(13));
    CHECK_EQ(read_dr7() & BIT(13), 0); /* delivery cleared it */
    write_dr6(0xffff0ff0);
    TRY("mov %0, %%dr7", : : "r"(BIT(32)));
    EXPECT_TRAP(GP, 0);
}

static void test_mov_ss_shadow(void)
{
    trap_clear();
    /* The trap of the instruction behind MOV SS comes, that of MOV SS itself does not. */
    __asm__ volatile("mov %%ss, %%eax\n pushfq\n orq $0x100, (%%rsp)\n popfq\n mov %%eax, %%ss\n nop\n"
                     "pushfq\n andq $~0x100, (%%rsp)\n popfq\n"
                     :
                     :
                     : "rax", "memory");
    CHECK_EQ(trap_count, 4);
    write_dr6(0xffff0ff0);
}

/* --- instructions in system context --- */

static void test_vector_operand_faults(void)
{
    u8 *page = alloc_page();
    u64 sum;
    map(10, page, PTE_P | PTE_W);
    __asm__ volatile("pxor %%xmm5, %%xmm5; pcmpeqd %%xmm6, %%xmm6; psrlq $63, %%xmm6" : : : "memory");
    for (int n = 0; n < 3 * OFTEN; n++) {
        if (n == 2 * OFTEN)
            *pte(10) = 0;
        if (n >= 2 * OFTEN)
            invlpg((void *)window(10));
        TRY("paddq %%xmm6, %%xmm5; paddq (%0), %%xmm5; paddq %%xmm6, %%xmm5",
            :
            : "r"((u8 *)window(10) + (n == OFTEN ? 8 : 16))
            : "memory");
        CHECK_EQ(last.vector, n == OFTEN ? GP : n >= 2 * OFTEN ? PF : NO_TRAP);
    }
    __asm__ volatile("movq %%xmm5, %0" : "=r"(sum));
    CHECK_EQ(sum, 2 * (2 * OFTEN - 1) + 1 + OFTEN);
}

static void test_lock_and_alignment(void)
{
    u8 *page = alloc_page();
    TRY(".byte 0xf0; movl %%eax, (%0)", : : "r"(page) : "memory");
    EXPECT_TRAP(UD, 0);
    TRY(".byte 0xf0; addl %%eax, %%ecx", : : : "memory");
    EXPECT_TRAP(UD, 0);
    TRY("movaps (%0), %%xmm0", : : "r"(page + 8) : "memory");
    EXPECT_TRAP(GP, 0);
    if (cpu_has(1, 0, 2, 13)) {
        TRY("lock cmpxchg16b (%0)", : : "r"(page + 8) : "rax", "rdx", "memory");
        EXPECT_TRAP(GP, 0);
    }
    TRY(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
        "0x90",
        :
        :
        : "memory"); /* 16 bytes */
    EXPECT_TRAP(GP, 0);
}

static void test_string_fault(void)
{
    u8 *page = alloc_page();
    map(13, page, PTE_P | PTE_W);
    map(14, NULL, 0);
    u64 rdi = WINDOW + 14 * 4096 - 24, rcx = 10;
    trap_clear();
    __asm__ volatile("movq $1f, trap_resume\n movl $0x77, %%eax\n rep stosq\n 1: movq $0, trap_resume"
                     : "+D"(rdi), "+c"(rcx)
                     :
                     : "rax", "memory");
    EXPECT_PF(PFEC_W, WINDOW + 14 * 4096);
    CHECK_EQ(rcx, 7);
    CHECK_EQ(rdi, WINDOW + 14 * 4096);
    CHECK_EQ(*(u64 *)(page + 4096 - 8), 0x77);
}

static void test_self_modifying(void)
{
    u8 *code = alloc_page();
    const u8 template[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* MOV EAX, imm; RET */
    for (unsigned i = 0; i < sizeof template; i++)
        code[i] = template[i];
    for (u32 n = 0; n < 200; n++) {
        *(volatile u32 *)(code + 1) = n;
        CHECK_EQ(((u32(*)(void))code)(), n);
    }
    /* An instruction that rewrites the very next one. */
    u32 result;
    __asm__ volatile("movb $2, 1f + 1\n 1: movl $1, %0" : "=a"(result) : : "memory");
    CHECK_EQ(result, 2);
}

static void test_divide_error(void)
{
    TRY("divl %%ecx", : : "a"(1), "d"(0), "c"(0) : "memory");
    EXPECT_TRAP(DE, 0);
    TRY("idivl %%ecx", : : "a"(0x80000000), "d"(-1), "c"(-1) : "memory");
    EXPECT_TRAP(DE, 0);
    TRY("divb %%cl", : : "a"(0x1000), "c"(1) : "memory");
    EXPECT_TRAP(DE, 0);
}

const struct test tests[] = {
    {"not_present", test_not_present},
    {"write_protection", test_write_protection},
    {"accessed_dirty", test_accessed_dirty},
    {"no_execute", test_no_execute},
    {"reserved_bits", test_reserved_bits},
    {"large_pages", test_large_pages},
    {"page_crossing_write", test_page_crossing_write},
    {"page_crossing_fetch", test_page_crossing_fetch},
    {"fetch_fault_flags", test_fetch_fault_flags},
    {"smep", test_smep},
    {"smap", test_smap},
    {"tlb_flush", test_tlb_flush},
    {"global_pages", test_global_pages},
    {"code_in_global_page", test_code_in_global_page},
    {"pcid", test_pcid},
    {"canonical", test_canonical},
    {"control_registers", test_control_registers},
    {"segment_loads", test_segment_loads},
    {"lar_lsl", test_lar_lsl},
    {"fs_gs_bases", test_fs_gs_bases},
    {"user_privileges", test_user_privileges},
    {"user_pages", test_user_pages},
    {"tables_by_other_stores", test_tables_by_other_stores},
    {"tables_cleared", test_tables_cleared},
    {"invpcid", test_invpcid},
    {"io_bitmap", test_io_bitmap},
    {"alignment_check", test_alignment_check},
    {"syscall", test_syscall},
    {"compatibility_mode", test_compatibility_mode},
    {"one_address_in_two_modes", test_one_address_in_two_modes},
    {"call_gate", test_call_gate},
    {"interrupt_stack_table", test_interrupt_stack_table},
    {"double_fault", test_double_fault},
    {"bad_gates", test_bad_gates},
    {"iret_checks", test_iret_checks},
    {"single_step", test_single_step},
    {"code_breakpoint", test_code_breakpoint},
    {"data_breakpoint", test_data_breakpoint},
    {"general_detect", test_general_detect},
    {"mov_ss_shadow", test_mov_ss_shadow},
    {"fpu_gating", test_fpu_gating},
    {"vector_not_available", test_vector_not_available},
    {"vector_exceptions", test_vector_exceptions},
    {"vector_operand_faults", test_vector_operand_faults},
    {"x87_exceptions", test_x87_exceptions},
    {"x87_pointers", test_x87_pointers},
    {"lock_and_alignment", test_lock_and_alignment},
    {"string_fault", test_string_fault},
    {"self_modifying", test_self_modifying},
    {"divide_error", test_divide_error},
    {0},
};
