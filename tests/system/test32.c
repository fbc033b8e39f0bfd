/* Tests in 32-bit protected mode, with virtual-8086, real mode and hardware tasks. */
#include "lib.h"

extern u8 low_code[], low_code_end[], v86_cli[], v86_int[], v86_hlt[], v86_pushf[], v86_segments[],
    real_vector[];
void run_v86(u32 offset, u32 flags);
u32 run_real(void);
extern u8 trap_stack_top[];

#define USER_CODE __attribute__((section(".user"), noinline))
#define CR0_PG BIT(31)
#define CR0_WP BIT(16)
#define WINDOW 0x40000000u

/* --- segmentation --- */

static void test_segment_limits(void)
{
    gdt[SEL_FREE / 8] = descriptor(0x1000000, 0xfff, 0x93, 0x4); /* 4 KiB, byte granular */
    __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
    TRY("movb %%fs:0xfff, %%al", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("movb %%fs:0x1000, %%al", : : : "eax");
    EXPECT_TRAP(GP, 0);
    TRY("movl %%fs:0xffc, %%eax", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("movl %%fs:0xffd, %%eax", : : : "eax");
    EXPECT_TRAP(GP, 0);
    TRY("movl %%fs:0xffffffff, %%eax", : : : "eax");
    EXPECT_TRAP(GP, 0);
    gdt[SEL_FREE / 8] = descriptor(0x1000000, 0, 0x93, 0xc); /* one page, page granular */
    __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
    TRY("movl %%fs:0xffc, %%eax", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("movl %%fs:0xffe, %%eax", : : : "eax");
    EXPECT_TRAP(GP, 0);
    __asm__ volatile("mov %w0, %%fs" : : "r"(0));
    TRY("movb %%fs:0, %%al", : : : "eax"); /* a null segment */
    EXPECT_TRAP(GP, 0);
    gdt[SEL_FREE / 8] = 0;
}

static void test_expand_down(void)
{
    gdt[SEL_FREE / 8] = descriptor(0x1000000, 0xfff, 0x97, 0x4); /* valid: 0x1000..0xffffffff */
    __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
    TRY("movb %%fs:0x1000, %%al", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("movb %%fs:0xfff, %%al", : : : "eax");
    EXPECT_TRAP(GP, 0);
    TRY("movl %%fs:0x2000, %%eax", : : : "eax");
    EXPECT_NO_TRAP();
    gdt[SEL_FREE / 8] = descriptor(0x1000000, 0xfff, 0x97, 0x0); /* B clear: up to 0xffff */
    __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
    TRY("movb %%fs:0xffff, %%al", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("movb %%fs:0x10000, %%al", : : : "eax");
    EXPECT_TRAP(GP, 0);
    __asm__ volatile("mov %w0, %%fs" : : "r"(0));
    gdt[SEL_FREE / 8] = 0;
}

static void test_segment_types(void)
{
    gdt[SEL_FREE / 8] = descriptor(0, 0xfffff, 0x91, 0xc); /* read-only data */
    __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
    TRY("movl %%fs:0x1000000, %%eax", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("movl %%eax, %%fs:0x1000000", : : : "memory");
    EXPECT_TRAP(GP, 0);
    TRY("movl %%eax, %%cs:0x1000000", : : : "memory");
    EXPECT_TRAP(GP, 0);
    TRY("movl %%cs:0x1000000, %%eax", : : : "eax");
    EXPECT_NO_TRAP();
    TRY("mov %w0, %%ss", : : "r"(SEL_FREE)); /* SS must be writable */
    EXPECT_TRAP(GP, SEL_FREE);
    TRY("mov %w0, %%ss", : : "r"(0));
    EXPECT_TRAP(GP, 0);
    TRY("mov %w0, %%cs", : : "r"(SEL_CODE)); /* no such instruction */
    EXPECT_TRAP(UD, 0);
    TRY("ljmp $%c0, $0", : : "i"(SEL_DATA));
    EXPECT_TRAP(GP, SEL_DATA);
    TRY("ljmp $0, $0", : : : "memory");
    EXPECT_TRAP(GP, 0);
    TRY("ljmp $%c0, $0", : : "i"(0x1f8 | 3)); /* empty descriptor */
    EXPECT_TRAP(GP, 0x1f8);
    __asm__ volatile("mov %w0, %%fs" : : "r"(0));
    gdt[SEL_FREE / 8] = 0;
}

/* The same code each time, so that nothing of FS may be taken for known. */
static void __attribute__((noinline)) try_fs(u32 off, u32 *value)
{
    TRY("movl %%fs:(%1), %0", : "=r"(*value) : "r"(off));
}

static void test_segment_changes(void)
{
    u32 *page = alloc_page(), value;
    page[0] = 0x1234, page[1] = 0x5678;
    for (int n = 0; n < 3; n++) {
        gdt[SEL_FREE / 8] = descriptor((word)page, 0xfffff, 0x93, 0xc);
        __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
        try_fs(0, &value);
        EXPECT_NO_TRAP();
        CHECK_EQ(value, 0x1234);
        gdt[SEL_FREE / 8] = descriptor((word)page + 0x1004, 0xfffff, 0x93, 0xc);
        __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
        try_fs(0xfffff000, &value); /* wraps */
        EXPECT_NO_TRAP();
        CHECK_EQ(value, 0x5678);
        gdt[SEL_FREE / 8] = descriptor((word)page, 3, 0x93, 0x4);
        __asm__ volatile("mov %w0, %%fs" : : "r"(SEL_FREE));
        try_fs(0, &value);
        EXPECT_NO_TRAP();
        CHECK_EQ(value, 0x1234);
        try_fs(1, &value);
        EXPECT_TRAP(GP, 0);
        __asm__ volatile("mov %w0, %%fs" : : "r"(0));
        try_fs(0, &value);
        EXPECT_TRAP(GP, 0);
    }
    gdt[SEL_FREE / 8] = 0;
}

static void test_arpl_bound_into(void)
{
    u32 v = 0x10, zf;
    __asm__ volatile("arpl %w2, %w0\n setz %b1" : "+r"(v), "=q"(zf) : "r"(3) : "cc");
    CHECK_EQ(v & 0xffff, 0x13);
    CHECK_EQ(zf & 0xff, 1);
    int bounds[2] = {5, 10};
    TRY("boundl %%eax, (%0)", : : "r"(bounds), "a"(7) : "memory");
    EXPECT_NO_TRAP();
    TRY("boundl %%eax, (%0)", : : "r"(bounds), "a"(11) : "memory");
    EXPECT_TRAP(BR, 0);
    TRY("movb $0x7f, %%al\n addb $1, %%al\n into", : : : "eax", "memory");
    EXPECT_TRAP(OF, 0);
    TRY("xorl %%eax, %%eax\n into", : : : "eax", "memory");
    EXPECT_NO_TRAP();
}

static void test_decimal(void)
{
    u32 eax;
    __asm__ volatile("movl $0x79, %%eax\n addb $0x35, %%al\n daa" : "=a"(eax) : : "cc"); /* 79 + 35 = 114 */
    CHECK_EQ(eax & 0xff, 0x14);
    __asm__ volatile("movl $63, %%eax\n aam" : "=a"(eax) : : "cc");
    CHECK_EQ(eax & 0xffff, 0x0603);
    __asm__ volatile("movl $0x0603, %%eax\n aad" : "=a"(eax) : : "cc");
    CHECK_EQ(eax & 0xffff, 63);
    TRY(".byte 0xd4, 0", : : : "eax", "memory"); /* AAM 0 */
    EXPECT_TRAP(DE, 0);
}

/* --- CPL 3 --- */

USER_CODE static word user_cs(word arg)
{
    __asm__ volatile("mov %%cs, %0" : "=r"(arg));
    return arg;
}
USER_CODE static word user_hlt(word arg)
{
    __asm__ volatile("hlt");
    return arg;
}
USER_CODE static word user_load_ds(word sel)
{
    __asm__ volatile("mov %w0, %%ds" : : "r"(sel));
    return 0;
}
USER_CODE static word user_int(word arg)
{
    __asm__ volatile("int $0x21");
    return arg;
}
USER_CODE static word user_read(word p)
{
    return *(volatile u32 *)p;
}
USER_CODE static word user_write(word p)
{
    *(volatile u32 *)p = 1;
    return 0;
}

static void test_user(void)
{
    CHECK_EQ(run_user(user_cs, 0) & 0xffff, SEL_USER_CODE);
    EXPECT_NO_TRAP();
    run_user(user_hlt, 0);
    EXPECT_TRAP(GP, 0);
    CHECK_EQ(last.ss, SEL_USER_DATA);
    run_user(user_load_ds, SEL_DATA);
    EXPECT_TRAP(GP, SEL_DATA);
    run_user(user_int, 0);
    EXPECT_TRAP(GP, 0x21 * 8 + 2);
}

__asm__(".section .user, \"ax\"\n"
        "user_gate:\n"
        "  push %ebx\n"
        "  mov %esp, %ebx\n"
        "  push $0x11112222\n"
        "  push $0x33334444\n"
        "  lcall $0x50, $0\n"
        "  mov %esp, %eax\n"
        "  sub %ebx, %eax\n" /* 0: RETF 8 popped the parameters on both stacks */
        "  pop %ebx\n"
        "  ret\n"
        "user_conforming:\n"
        "  lcall $0x58, $conforming_target\n"
        "  ret\n"
        "conforming_target:\n"
        "  mov %cs, %eax\n"
        "  lret\n"
        ".text\n"
        "gate_target:\n"
        "  mov %cs, gate_cs\n"
        "  mov 8(%esp), %eax\n"
        "  mov %eax, gate_first\n"
        "  mov 12(%esp), %eax\n"
        "  mov %eax, gate_second\n"
        "  mov 20(%esp), %eax\n"
        "  mov %eax, gate_ss\n"
        "  mov %ds, gate_ds\n"
        "  lret $8\n");
extern u8 user_gate[], user_conforming[], gate_target[];
u32 gate_cs, gate_first, gate_second, gate_ss, gate_ds;

static void test_call_gate(void)
{
    word h = (word)gate_target;
    gdt[10] = (h & 0xffff) | (u64)SEL_CODE << 16 | 2ull << 32 | 0xecull << 40 | (u64)(h >> 16) << 48;
    CHECK_EQ(run_user((word(*)(word))user_gate, 0), 0);
    EXPECT_NO_TRAP();
    CHECK_EQ(gate_cs & 0xffff, SEL_CODE);
    CHECK_EQ(gate_first, 0x33334444);
    CHECK_EQ(gate_second, 0x11112222);
    CHECK_EQ(gate_ss & 0xffff, SEL_USER_DATA);
    gdt[10] &= ~(0x60ull << 40); /* DPL 0 */
    run_user((word(*)(word))user_gate, 0);
    EXPECT_TRAP(GP, 0x50);
    gdt[10] = 0;
}

static void test_conforming(void)
{
    gdt[11] = descriptor(0, 0xfffff, 0x9f, 0xc); /* conforming code, DPL 0 */
    CHECK_EQ(run_user((word(*)(word))user_conforming, 0) & 0xffff, 0x58 | 3);
    EXPECT_NO_TRAP();
    gdt[11] = descriptor(0, 0xfffff, 0x9b, 0xc); /* not conforming: CPL 3 may not call it */
    run_user((word(*)(word))user_conforming, 0);
    EXPECT_TRAP(GP, 0x58);
    gdt[11] = 0;
}

__asm__(".section .user, \"ax\"\n"
        "user_sysenter:\n"
        "  push %ebp\n"
        "  mov %esp, %ecx\n"
        "  mov $1f, %edx\n"
        "  sysenter\n"
        "1: pop %ebp\n"
        "  mov %cs, %eax\n"
        "  ret\n"
        ".text\n"
        "sysenter_entry:\n"
        "  mov %cs, sysenter_seen\n"
        "  mov %ss, sysenter_seen + 4\n"
        "  mov %esp, sysenter_seen + 8\n"
        "  sysexit\n");
extern u8 user_sysenter[], sysenter_entry[];
u32 sysenter_seen[3];

static void test_sysenter(void)
{
    if (!cpu_has(1, 0, 3, 11))
        return;
    wrmsr(0x174, SEL_CODE);
    wrmsr(0x175, (word)trap_stack_top);
    wrmsr(0x176, (word)sysenter_entry);
    CHECK_EQ(run_user((word(*)(word))user_sysenter, 0) & 0xffff, SEL_CODE + 16 + 3);
    CHECK_EQ(sysenter_seen[0] & 0xffff, SEL_CODE);
    CHECK_EQ(sysenter_seen[1] & 0xffff, SEL_DATA);
    CHECK_EQ(sysenter_seen[2], (word)trap_stack_top);
    wrmsr(0x174, 0);
    run_user((word(*)(word))user_sysenter, 0);
    EXPECT_TRAP(GP, 0);
}

/* --- paging --- */

static u32 *page_dir, *page_table;
static volatile word zero; /* address 0, which the compiler must not know */

static void copy(u8 *to, const u8 *from, unsigned n)
{
    while (n--)
        *to++ = *from++;
}

static void start_paging(void)
{
    if (!page_dir) {
        page_dir = alloc_page();
        page_table = alloc_page();
    }
    for (u32 i = 0; i < 64; i++)
        page_dir[i] = i << 22 | 0x87; /* 4 MiB, user */
    page_dir[WINDOW >> 22] = (word)page_table | 7;
    write_cr4(read_cr4() | BIT(4)); /* PSE */
    write_cr3((word)page_dir);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void stop_paging(void)
{
    write_cr0(read_cr0() & ~(word)(CR0_PG | CR0_WP));
    write_cr4(read_cr4() & ~(word)(BIT(4) | BIT(5)));
}

static void try_read(u32 la)
{
    TRY("movl (%0), %%eax", : : "r"(la) : "eax", "memory");
}
static void try_write(u32 la)
{
    TRY("movl %%eax, (%0)", : : "r"(la) : "eax", "memory");
}

static void test_paging_32(void)
{
    u32 *page = alloc_page();
    start_paging();
    page_table[0] = 0;
    try_read(WINDOW + 4);
    EXPECT_PF(0, WINDOW + 4);
    page_table[0] = (word)page | 1;
    try_read(WINDOW);
    EXPECT_NO_TRAP();
    CHECK_EQ(page_table[0] & 0x60, 0x20);
    try_write(WINDOW);
    EXPECT_PF(PFEC_P | PFEC_W, WINDOW);
    run_user(user_read, WINDOW);
    EXPECT_PF(PFEC_P | PFEC_U, WINDOW);
    page_table[0] = (word)page | 7;
    invlpg((void *)WINDOW);
    trap_clear();
    run_user(user_write, WINDOW + 8);
    EXPECT_NO_TRAP();
    CHECK_EQ(page[2], 1);
    CHECK_EQ(page_table[0] & 0x60, 0x60);
    CHECK_EQ(page_dir[WINDOW >> 22] & 0x60, 0x20);
    try_read(0x20000000);
    EXPECT_PF(0, 0x20000000);
    page_dir[0x30000000 >> 22] = 0x1000000 | 0x87 | BIT(21); /* a reserved bit of a 4 MiB entry */
    try_read(0x30000000);
    EXPECT_PF(PFEC_P | PFEC_RSVD, 0x30000000);
    page_dir[0x30000000 >> 22] = 0;
    stop_paging();
}

/* Code at the end of the 4 GiB goes on at 0: by a call's return address, by a jump, and within an
 * instruction. */
static void test_code_wraps(void)
{
    static const u8 call[] = {0xe8, 0x00, 0xff, 0xff, 0xff}; /* at fffffffb: to ffffff00 */
    static const u8 inc_ret[] = {0x40, 0xc3};
    static const u8 inc_jump[] = {0x40, 0xe9, 0x7a, 0xff, 0xff, 0xff}; /* at 0: to ffffff80 */
    static const u8 mov_ret[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3};  /* at fffffffd */
    u8 *page = alloc_page(), *top = (u8 *)0xfffff000, saved[8];
    u32 *table = alloc_page(), eax;
    copy(saved, (u8 *)zero, sizeof saved);
    start_paging();
    table[1023] = (word)page | 3;
    page_dir[1023] = (word)table | 3;
    for (int n = 0; n < 6; n++) {
        copy(page + 0xffb, call, sizeof call);
        copy(page + 0xf00, inc_ret, sizeof inc_ret);
        copy(page + 0xf80, inc_ret, sizeof inc_ret);
        copy((u8 *)zero, inc_jump, sizeof inc_jump);
        TRY("call *%1", : "=a"(eax) : "c"(top + 0xffb), "a"(0) : "memory");
        EXPECT_NO_TRAP();
        CHECK_EQ(eax, 3);
        if (n % 3 < 2)
            continue; /* the code stays as it is, too */
        copy(page + 0xffd, mov_ret, 3);
        copy((u8 *)zero, mov_ret + 3, 3);
        for (int k = 0; k < 3; k++) {
            TRY("call *%1", : "=a"(eax) : "c"(top + 0xffd), "a"(0) : "memory");
            EXPECT_NO_TRAP();
            CHECK_EQ(eax, 0x12345678);
        }
    }
    page_dir[1023] = 0;
    stop_paging();
    copy((u8 *)zero, saved, sizeof saved);
}

static void test_paging_pae(void)
{
    static u64 pdpt[4] __attribute__((aligned(32)));
    u64 *pd = alloc_page(), *pt = alloc_page(), *window_pd = alloc_page();
    u32 *page = alloc_page();
    for (u64 i = 0; i < 128; i++)
        pd[i] = i << 21 | 0x87;
    pdpt[0] = (word)pd | 1;
    pdpt[1] = (word)window_pd | 1;
    window_pd[0] = (word)pt | 7;
    pt[0] = (word)page | 3;
    write_cr4(read_cr4() | BIT(5));
    write_cr3((word)pdpt);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
    try_write(WINDOW);
    EXPECT_NO_TRAP();
    try_read(WINDOW + 0x1000);
    EXPECT_PF(0, WINDOW + 0x1000);
    try_read(0x80000000);
    EXPECT_PF(0, 0x80000000);
    if (cpu_has(0x80000001, 0, 3, 20)) {
        wrmsr(0xc0000080, rdmsr(0xc0000080) | BIT(11));
        *(u8 *)page = 0xc3;
        TRY("call *%0", : : "r"(WINDOW) : "memory");
        EXPECT_NO_TRAP();
        pt[0] |= BIT(63);
        invlpg((void *)WINDOW);
        TRY("call *%0", : : "r"(WINDOW) : "memory");
        EXPECT_PF(PFEC_P | PFEC_I, WINDOW);
        wrmsr(0xc0000080, rdmsr(0xc0000080) & ~BIT(11));
    }
    pdpt[2] = 1 | BIT(1); /* a reserved bit: loading CR3 faults and changes nothing */
    TRY("mov %0, %%cr3", : : "r"(pdpt) : "memory");
    EXPECT_TRAP(GP, 0);
    pdpt[2] = 0;
    write_cr3((word)pdpt);
    stop_paging();
}

/* --- hardware tasks --- */

static struct tss other_tss;
static u8 other_stack[4096] __attribute__((aligned(16)));
volatile u32 task_ran;
static word main_cr3;
enum { SEL_OTHER = 0x38, SEL_TASK_GATE = 0x60 };

__asm__(".text\n"
        "task_jump:\n"
        "1: incl task_ran\n"
        "  ljmp $0x30, $0\n"
        "  jmp 1b\n"
        "task_call:\n"
        "1: incl task_ran\n"
        "  pushf\n"
        "  popl task_flags\n"
        "  iret\n"
        "  jmp 1b\n"
        "task_fault:\n"
        "1: popl task_error\n"
        "  addl $3, task_ran\n"
        "  mov trap_resume, %eax\n"
        "  mov %eax, tss + 32\n" /* EIP of the task to return to */
        "  iret\n"
        "  jmp 1b\n");
extern u8 task_jump[], task_call[], task_fault[];
u32 task_flags, task_error;

static void set_other_task(const void *entry)
{
    for (unsigned i = 0; i < 104; i++)
        ((volatile u8 *)&other_tss)[i] = 0;
    other_tss.eip = (word)entry;
    other_tss.esp = (word)other_stack + sizeof other_stack;
    other_tss.cs = SEL_CODE;
    other_tss.ss = other_tss.ds = other_tss.es = other_tss.fs = other_tss.gs = SEL_DATA;
    other_tss.eflags = 2;
    other_tss.cr3 = main_cr3;
    other_tss.iomap = 0xffff;
    gdt[SEL_OTHER / 8] = descriptor((word)&other_tss, 0x67, 0x89, 0);
    task_ran = 0;
}

static u8 access_of(u16 selector)
{
    return gdt[selector / 8] >> 40 & 0xff;
}

static void test_task_jump(void)
{
    set_other_task(task_jump);
    TRY("ljmp $0x38, $0", : : : "memory");
    EXPECT_NO_TRAP();
    CHECK_EQ(task_ran, 1);
    CHECK_EQ(access_of(SEL_OTHER), 0x89); /* JMP left it not busy */
    CHECK_EQ(access_of(SEL_TSS), 0x8b);
    CHECK_EQ(other_tss.eflags & BIT(14), 0);
    TRY("ljmp $0x30, $0", : : : "memory"); /* to oneself: busy */
    EXPECT_TRAP(GP, SEL_TSS);
    CHECK(read_cr0() & BIT(3)); /* TS is set by a task switch */
    __asm__ volatile("clts");
}

static void test_task_call(void)
{
    set_other_task(task_call);
    TRY("lcall $0x38, $0", : : : "memory");
    EXPECT_NO_TRAP();
    CHECK_EQ(task_ran, 1);
    CHECK_EQ(task_flags & BIT(14), BIT(14)); /* NT in the called task */
    CHECK_EQ(other_tss.link & 0xffff, SEL_TSS);
    CHECK_EQ(access_of(SEL_OTHER), 0x89);
    TRY("lcall $0x38, $0", : : : "memory"); /* goes on behind its IRET */
    CHECK_EQ(task_ran, 2);
    __asm__ volatile("clts");
}

static void test_task_gate(void)
{
    set_other_task(task_fault);
    set_gate(GP, 0, SEL_OTHER, 0x5, 0, 0);
    trap_clear();
    __asm__ volatile("movl $1f, trap_resume\n movw %w0, %%es\n 1: movl $0, trap_resume"
                     :
                     : "r"(0x1238)
                     : "eax", "memory");
    CHECK_EQ(task_ran, 3);
    CHECK_EQ(task_error, 0x1238); /* the error code is on the task's stack */
    reset_gate(GP, 0);
    __asm__ volatile("clts");
}

static void test_bad_tasks(void)
{
    set_other_task(task_call);
    gdt[SEL_OTHER / 8] = descriptor((word)&other_tss, 0x66, 0x89, 0); /* one byte short */
    TRY("lcall $0x38, $0", : : : "memory");
    EXPECT_TRAP(TS, SEL_OTHER);
    gdt[SEL_OTHER / 8] = descriptor((word)&other_tss, 0x67, 0x09, 0); /* not present */
    TRY("lcall $0x38, $0", : : : "memory");
    EXPECT_TRAP(NP, SEL_OTHER);
    gdt[SEL_OTHER / 8] = descriptor((word)&other_tss, 0x67, 0x8b, 0); /* busy */
    TRY("lcall $0x38, $0", : : : "memory");
    EXPECT_TRAP(GP, SEL_OTHER);
    CHECK_EQ(task_ran, 0);
}

/* --- virtual-8086 and real mode --- */

static void put_low_code(void)
{
    for (u32 i = 0; i < (u32)(low_code_end - low_code); i++)
        ((volatile u8 *)0x8000)[i] = low_code[i];
}

static u32 v86_frame[4];
static void v86_hook(struct trap *t)
{
    extern u8 user_return[];
    const word *beyond = (const word *)(t + 1); /* ES, DS, FS, GS */
    for (int i = 0; i < 4; i++)
        v86_frame[i] = beyond[i];
    t->ip = (word)user_return;
    t->cs = SEL_CODE;
    t->flags = 2;
}

static void v86(const u8 *label, u32 flags)
{
    trap_clear();
    trap_hook = v86_hook;
    run_v86((u32)(label - low_code), flags);
    trap_hook = NULL;
}

static void test_v86(void)
{
    put_low_code();
    v86(v86_cli, 0); /* IOPL 0: CLI faults */
    EXPECT_TRAP(GP, 0);
    CHECK_EQ(last.ip, (u32)(v86_cli - low_code) + 3);
    CHECK_EQ(last.cs & 0xffff, 0x800);
    CHECK_EQ(last.flags & BIT(17), BIT(17));
    CHECK_EQ(last.ss & 0xffff, 0x700);
    CHECK_EQ(last.sp & 0xffff, 0xff0);
    CHECK_EQ(v86_frame[0] & 0xffff, 0x1111);
    CHECK_EQ(v86_frame[1] & 0xffff, 0x2222);
    CHECK_EQ(v86_frame[2] & 0xffff, 0x3333);
    CHECK_EQ(v86_frame[3] & 0xffff, 0x4444);
    v86(v86_cli, 0x3000 | BIT(9)); /* IOPL 3: CLI works, then HLT faults */
    EXPECT_TRAP(GP, 0);
    CHECK_EQ(last.flags & BIT(9), 0);
    CHECK_EQ(last.ip, (u32)(v86_cli - low_code) + 4);
    v86(v86_int, 0);
    EXPECT_TRAP(GP, 0);
    v86(v86_int, 0x3000); /* IOPL 3: through the IDT, whose gate must have DPL 3 */
    EXPECT_TRAP(GP, 0x21 * 8 + 2);
    v86(v86_pushf, 0);
    EXPECT_TRAP(GP, 0);
    v86(v86_segments, 0);
    EXPECT_TRAP(GP, 0);
    CHECK_EQ(last.regs[7] & 0xffff, 0x800);  /* EAX: CS */
    CHECK_EQ(last.regs[4] & 0xffff, 0x700);  /* EBX: SS */
    CHECK_EQ(last.regs[6] & 0xffff, 0x2222); /* ECX: DS */
    CHECK_EQ(*(volatile u16 *)0x9004, 0xbeef);
}

static void test_real_mode(void)
{
    put_low_code();
    gdt[9] = descriptor(0x8000, 0xffff, 0x9b, 0); /* 48: 16-bit code */
    gdt[10] = descriptor(0, 0xffff, 0x93, 0);     /* 50: 16-bit data */
    *(volatile u16 *)(0x60 * 4) = (u16)(real_vector - low_code);
    *(volatile u16 *)(0x60 * 4 + 2) = 0x800;
    CHECK_EQ(run_real(), 0x67); /* 0xfffffff0 + 0x77 */
    CHECK_EQ(*(volatile u16 *)0x9008, 0x5aa5);
    CHECK_EQ(*(volatile u16 *)0x9014, 0x7000);
    gdt[9] = gdt[10] = 0;
}

static void test_16_bit_code(void)
{
    /* A 16-bit segment in protected mode: operand and address sizes are 16 bits. */
    static const u8 code[] = {0xb8, 0x34, 0x12, 0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x40, 0x66, 0xcb};
    put_low_code();
    for (unsigned i = 0; i < sizeof code; i++)
        ((volatile u8 *)0xa000)[i] = code[i];
    gdt[9] = descriptor(0xa000, 0xffff, 0x9b, 0);
    u32 eax;
    __asm__ volatile("lcall $0x48, $0" : "=a"(eax) : : "memory");
    CHECK_EQ(eax, 0x12345679);
    gdt[9] = 0;
}

/* --- debugging --- */

static void test_single_step(void)
{
    trap_clear();
    __asm__ volatile("pushf\n orl $0x100, (%%esp)\n popf\n nop\n nop\n pushf\n andl $~0x100, (%%esp)\n popf\n"
                     :
                     :
                     : "memory");
    CHECK_EQ(trap_count, 5);
    CHECK_EQ(last.vector, DB);
    write_dr6(0xffff0ff0);
}

static void test_io_breakpoint(void)
{
    if (!cpu_has(1, 0, 3, 2))
        return;
    write_cr4(read_cr4() | BIT(3)); /* DE */
    write_dr6(0xffff0ff0);
    write_dr2(0x3fd);
    write_dr7(0x400 | BIT(5) | 2u << 24); /* G2, I/O, 1 byte */
    TRY("inb %%dx, %%al\n", : : "d"(0x3fd) : "eax", "memory");
    EXPECT_TRAP(DB, 0);
    CHECK_EQ(last_dr6 & 0xf, 4);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    TRY("mov %%dr4, %%eax", : : : "eax"); /* with DE set, DR4 does not exist */
    EXPECT_TRAP(UD, 0);
    write_cr4(read_cr4() & ~(word)BIT(3));
}

const struct test tests[] = {
    {"segment_limits", test_segment_limits},
    {"expand_down", test_expand_down},
    {"segment_types", test_segment_types},
    {"segment_changes", test_segment_changes},
    {"arpl_bound_into", test_arpl_bound_into},
    {"decimal", test_decimal},
    {"user", test_user},
    {"call_gate_parameters", test_call_gate},
    {"conforming", test_conforming},
    {"sysenter", test_sysenter},
    {"paging_32", test_paging_32},
    {"code_wraps", test_code_wraps},
    {"paging_pae", test_paging_pae},
    {"task_jump", test_task_jump},
    {"task_call", test_task_call},
    {"task_gate", test_task_gate},
    {"bad_tasks", test_bad_tasks},
    {"v86", test_v86},
    {"real_mode", test_real_mode},
    {"code_16", test_16_bit_code},
    {"single_step_32", test_single_step},
    {"io_breakpoint", test_io_breakpoint},
    {0},
};
