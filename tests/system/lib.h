/*
 * Bare-metal guests that test what an operating system relies on: paging, segmentation, gates,
 * exceptions, tasks. Each image boots by Multiboot, runs its tests, prints a line each on COM1
 * ("ok NAME" or "not ok NAME: ..."), and leaves through the debug-exit port: status 1 when all was well.
 *
 * Expectations come from the manuals (SDM vol. 3, AMD APM vol. 2), never from what we do. The same
 * images run under KVM (tests/system/kvm-run.c) as a second opinion.
 */
#ifndef TRAPEZE_TESTS_SYSTEM_LIB_H
#define TRAPEZE_TESTS_SYSTEM_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef uintptr_t word;

#define BIT(n) (1ull << (n))
#define NOINLINE __attribute__((noinline))

/* --- results --- */

void print(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* %s %d %u %x %lx %llx %c */
void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define CHECK(cond)                                     \
    do {                                                \
        if (!(cond))                                    \
            test_fail(__FILE__, __LINE__, "%s", #cond); \
    } while (0)
#define CHECK_EQ(a, b)                                                                             \
    do {                                                                                           \
        u64 a_ = (u64)(a), b_ = (u64)(b);                                                          \
        if (a_ != b_)                                                                              \
            test_fail(__FILE__, __LINE__, "%s is %llx, expected %llx", #a, (unsigned long long)a_, \
                      (unsigned long long)b_);                                                     \
    } while (0)

struct test {
    const char *name;
    void (*run)(void);
};
extern const struct test tests[]; /* ends with a null name */

/* --- exceptions --- */

/* What the last exception left. Pushed by the stubs of the entry file, in this order. */
struct trap {
    word regs[sizeof(word) == 8 ? 16 : 8];
    word vector, error, ip, cs, flags, sp, ss;
};

/*
 * The last exception or interrupt: vector 255 when there was none since trap_clear(). A fault inside
 * TRY resumes behind it.
 */
extern volatile struct trap last;
extern volatile word last_cr2, last_dr6;
extern volatile u32 trap_count;
extern volatile word trap_resume; /* where to go on after an exception; 0: just return */
extern word trap_sp;              /* the stack pointer at the start of TRY, and again at its end */
void trap_clear(void);

/* Called for each exception before it resumes; a test may set it. */
extern void (*trap_hook)(struct trap *t);

/* Runs the assembly; an exception inside it is recorded and execution goes on behind
 * it, with the stack pointer as it was. */
#define TRY(asm_text, ...)                                                               \
    do {                                                                                 \
        trap_clear();                                                                    \
        __asm__ volatile(SET_RESUME "\n" asm_text "\n 9999: " CLEAR_RESUME __VA_ARGS__); \
    } while (0)
#ifdef __x86_64__
#define SET_RESUME "movq %%rsp, trap_sp\n movq $9999f, trap_resume"
#define CLEAR_RESUME "movq trap_sp, %%rsp\n movq $0, trap_resume"
#else
#define SET_RESUME "movl %%esp, trap_sp\n movl $9999f, trap_resume"
#define CLEAR_RESUME "movl trap_sp, %%esp\n movl $0, trap_resume"
#endif

#define NO_TRAP 255
#define EXPECT_TRAP(v, e)            \
    do {                             \
        CHECK_EQ(last.vector, v);    \
        if (last.vector == (v))      \
            CHECK_EQ(last.error, e); \
    } while (0)
#define EXPECT_PF(e, address)                \
    do {                                     \
        EXPECT_TRAP(14, e);                  \
        CHECK_EQ(last_cr2, (word)(address)); \
    } while (0)
#define EXPECT_NO_TRAP() CHECK_EQ(last.vector, NO_TRAP)

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, CSO, TS, NP, SS, GP, PF, RSVD15, MF, AC, MC, XM };
enum { PFEC_P = 1, PFEC_W = 2, PFEC_U = 4, PFEC_RSVD = 8, PFEC_I = 16 };

/* --- descriptors --- */

struct table {
    u16 limit;
    word base;
} __attribute__((packed));

extern u64 gdt[64];
extern u8 idt[256 * sizeof(word) * 2];
extern struct tss tss;
extern u8 ring0_stack[], ring0_stack_top[], user_stack_top[], ist_stack_top[];

/* Selectors of the images' GDT. */
enum {
    SEL_CODE = 0x08,
    SEL_DATA = 0x10,
    SEL_USER_DATA = 0x1b,
    SEL_USER_CODE = 0x23,
    SEL_USER_CODE32 = 0x2b,
    SEL_TSS = 0x30,  /* two slots in long mode */
    SEL_FREE = 0x40, /* from here on tests put their own */
};

#ifdef __x86_64__
struct tss {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1, ist[7], reserved2;
    u16 reserved3, iomap;
    u8 io[8192 + 1];
} __attribute__((packed));
#else
struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, iomap;
    u8 io[8192 + 1];
} __attribute__((packed));
#endif

/* A segment descriptor from base, limit (scaled when the G flag is set), access byte and flags nibble. */
u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);

/* Puts a gate at @vector: type 0xe interrupt, 0xf trap, 0x5 task; @ist only in long mode. */
void set_gate(u8 vector, word handler, u16 selector, u8 type, u8 dpl, u8 ist);
/* Back to the stub that records. */
void reset_gate(u8 vector, u8 dpl);

/* --- registers --- */

#define DEFINE_REG(name, insn_read, insn_write)             \
    static inline word read_##name(void)                    \
    {                                                       \
        word v;                                             \
        __asm__ volatile(insn_read : "=r"(v));              \
        return v;                                           \
    }                                                       \
    static inline void write_##name(word v)                 \
    {                                                       \
        __asm__ volatile(insn_write : : "r"(v) : "memory"); \
    }
DEFINE_REG(cr0, "mov %%cr0, %0", "mov %0, %%cr0")
DEFINE_REG(cr2, "mov %%cr2, %0", "mov %0, %%cr2")
DEFINE_REG(cr3, "mov %%cr3, %0", "mov %0, %%cr3")
DEFINE_REG(cr4, "mov %%cr4, %0", "mov %0, %%cr4")
DEFINE_REG(dr0, "mov %%dr0, %0", "mov %0, %%dr0")
DEFINE_REG(dr1, "mov %%dr1, %0", "mov %0, %%dr1")
DEFINE_REG(dr2, "mov %%dr2, %0", "mov %0, %%dr2")
DEFINE_REG(dr3, "mov %%dr3, %0", "mov %0, %%dr3")
DEFINE_REG(dr6, "mov %%dr6, %0", "mov %0, %%dr6")
DEFINE_REG(dr7, "mov %%dr7, %0", "mov %0, %%dr7")

static inline u64 rdmsr(u32 index)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
    return lo | (u64)hi << 32;
}
static inline void wrmsr(u32 index, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline void cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf));
}
/* Bit @bit of register @reg (0 eax .. 3 edx) of a leaf; false when the leaf is not there. */
bool cpu_has(u32 leaf, u32 subleaf, int reg, int bit);

static inline void invlpg(const volatile void *p)
{
    __asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}
static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

/* Runs @f at CPL 3 with @arg; comes back with what it returned, or, when it faults, with last set. */
word run_user(word (*f)(word), word arg);

/* A loop that goes round so often is code of which an engine has made the most. */
enum { OFTEN = 60 };

/* Pages from 16 MiB on, zeroed, never freed. */
void *alloc_page(void);

#endif
