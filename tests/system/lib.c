/* Printing, exceptions, descriptors: what both images share. */
#include "lib.h"

#include <stdarg.h>

extern u8 stubs[], image_end[], trap_stack_top[], user_return[];
void trap_record(struct trap *t);
void main(void);

volatile struct trap last;
volatile word last_cr2, last_dr6, trap_resume;
word trap_sp;
volatile u32 trap_count;
void (*trap_hook)(struct trap *t);
static bool failed;
static unsigned failures, passes;

/* --- COM1 --- */

static void put(char c)
{
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, (u8)c);
}

static void put_number(unsigned long long v, unsigned base)
{
    char digits[24];
    int n = 0;
    do {
        unsigned d = 0;
        if (base == 16) {
            d = v & 15;
            v >>= 4;
        } else {
            d = (u32)v % 10;
            v = (u32)v / 10;
        }
        digits[n++] = "0123456789abcdef"[d];
    } while (v);
    while (n)
        put(digits[--n]);
}

static void vprint(const char *fmt, va_list args)
{
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        int longs = 0;
        while (*++fmt == 'l')
            longs++;
        unsigned long long v = 0;
        if (*fmt == 's') {
            for (const char *s = va_arg(args, const char *); *s; s++)
                put(*s);
            continue;
        }
        v = longs == 2 ? va_arg(args, unsigned long long)
            : longs    ? va_arg(args, unsigned long)
                       : va_arg(args, unsigned);
        if (*fmt == 'c')
            put((char)v);
        else
            put_number(v, *fmt == 'x' ? 16 : 10);
    }
}

void print(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vprint(fmt, args);
    va_end(args);
}

static const char *running;

void test_fail(const char *file, int line, const char *fmt, ...)
{
    for (const char *p = file; *p; p++)
        if (*p == '/')
            file = p + 1;
    print("not ok %s: %s:%d: ", running, file, line);
    va_list args;
    va_start(args, fmt);
    vprint(fmt, args);
    va_end(args);
    print(" (last exception: %u error %lx at %lx)\n", (unsigned)last.vector, (unsigned long)last.error,
          (unsigned long)last.ip);
    failed = true;
}

/* --- exceptions --- */

void trap_clear(void)
{
    last.vector = NO_TRAP;
    last.error = 0;
    trap_count = 0;
    last_cr2 = 0;
}

static void *next_test[5];
static unsigned abandoned; /* since the test began */

/* Leaves a test that cannot go on. */
static NOINLINE void abandon(void)
{
    __builtin_longjmp(next_test, 1);
}

static void copy_trap(volatile struct trap *to, const struct trap *from)
{
    const word *f = (const word *)from;
    volatile word *w = (volatile word *)to;
    size_t words = sizeof *from / sizeof(word);
    if (sizeof(word) == 4 && !(from->cs & 3) && !(from->flags & BIT(17)))
        words -= 2; /* no SP and SS without a privilege change in 32-bit mode */
    for (size_t i = 0; i < words; i++)
        w[i] = f[i];
}

void trap_record(struct trap *t)
{
    trap_count++;
    copy_trap(&last, t);
    if (t->vector == PF)
        last_cr2 = read_cr2();
    if (t->vector == DB)
        last_dr6 = read_dr6();
    if (trap_hook) {
        trap_hook(t);
        return;
    }
    if ((t->cs & 3) == 3) {
        if (t->vector == 0x80)
            last.vector = NO_TRAP;
        t->ip = (word)user_return;
        t->cs = SEL_CODE;
        t->flags = 2;
        t->sp = (word)ring0_stack_top - 16384;
        t->ss = sizeof(word) == 8 ? 0 : SEL_DATA;
        return;
    }
    if (trap_resume) {
        t->ip = trap_resume;
        t->flags &= ~(word)BIT(8);
        return;
    }
    if (t->vector == BP || t->vector == DB || t->vector >= 32)
        return;
    test_fail(__FILE__, __LINE__, "unexpected exception, cr2 %lx", (unsigned long)last_cr2);
    if (++abandoned > 8)
        outb(0xf4, 3);
    t->ip = (word)abandon;
    t->flags = 2;
}

/* --- descriptors --- */

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

void set_gate(u8 vector, word handler, u16 selector, u8 type, u8 dpl, u8 ist)
{
    u64 h = handler;
    volatile u64 *gate = (volatile u64 *)(idt + vector * sizeof(word) * 2);
    gate[0] = (h & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
              (h >> 16 & 0xffff) << 48;
    if (sizeof(word) == 8)
        gate[1] = h >> 32;
}

void reset_gate(u8 vector, u8 dpl)
{
    set_gate(vector, (word)stubs + 16 * vector, SEL_CODE, 0xe, dpl, 0);
}

static void load_tables(void)
{
    for (int v = 0; v < 256; v++)
        reset_gate((u8)v, v == 3 || v == 4 || v == 0x80 ? 3 : 0);
    struct table pointer = {sizeof idt - 1, (word)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
    word base = (word)&tss;
    gdt[SEL_TSS / 8] = descriptor((u32)base, 0x67, 0x89, 0);
#ifdef __x86_64__
    extern u8 df_stack_top[];
    gdt[SEL_TSS / 8 + 1] = base >> 32;
    tss.rsp[0] = (word)trap_stack_top;
    tss.ist[6] = (word)df_stack_top;
    idt[DF * 16 + 4] = 7;
    tss.iomap = 0xffff;
#else
    tss.esp0 = (word)trap_stack_top;
    tss.ss0 = SEL_DATA;
    tss.iomap = 0xffff;
#endif
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
}

/* --- the rest --- */

bool cpu_has(u32 leaf, u32 subleaf, int reg, int bit)
{
    u32 r[4];
    cpuid(leaf & 0x80000000, 0, r);
    if (r[0] < leaf)
        return false;
    cpuid(leaf, subleaf, r);
    return r[reg] >> bit & 1;
}

void *alloc_page(void)
{
    static u8 *next = (u8 *)0x1000000;
    u8 *page = next;
    next += 4096;
    for (int i = 0; i < 4096; i++)
        ((volatile u8 *)page)[i] = 0;
    return page;
}

void *memset(void *p, int c, size_t n);
void *memset(void *p, int c, size_t n)
{
    volatile u8 *b = p;
    while (n--)
        *b++ = (u8)c;
    return p;
}

void *memcpy(void *to, const void *from, size_t n);
void *memcpy(void *to, const void *from, size_t n)
{
    volatile u8 *t = to;
    const u8 *f = from;
    while (n--)
        *t++ = *f++;
    return to;
}

void main(void)
{
    running = "start";
    load_tables();
    outb(0x21, 0xff); /* no interrupts but those that a test asks for */
    outb(0xa1, 0xff);
    for (const struct test *volatile t = tests; t->name; t++) {
        running = t->name;
        failed = false;
        abandoned = 0;
        trap_hook = NULL;
        trap_resume = 0;
        if (__builtin_setjmp(next_test) == 0)
            t->run();
        if (failed)
            failures++;
        else
            passes++, print("ok %s\n", t->name);
    }
    print("%u passed, %u failed\n", passes, failures);
    outb(0xf4, failures ? 1 : 0); /* the monitor exits with (value << 1) | 1 */
    for (;;)
        __asm__ volatile("hlt");
}
