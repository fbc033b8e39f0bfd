/*
 * The host CPU as the oracle for one user-level instruction: loads a whole register file, executes
 * the given bytes, stores the register file again. A fault ends the instruction and is reported by
 * its trap number. For tests only; one thread.
 */
#ifndef TRAPEZE_TESTS_HOST_ORACLE_H
#define TRAPEZE_TESTS_HOST_ORACLE_H

#include <cpuid.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/compiler.h"

#define ORACLE_XSAVE_MAX 4096
#define ORACLE_NO_TRAP (-1)

struct oracle_state {
    u8 xsave[ORACLE_XSAVE_MAX] ALIGNED(64); /* standard format, of the components in the host's XCR0 */
    u64 gpr[16];
    u64 rflags;
    int trap;
};

/* One page of code, then the state it works on (so that it can be reached RIP-relative). */
struct oracle {
    u8 code[4096];
    struct oracle_state in, out;
    u64 host_rsp, host_flags, mask;
    u64 memory_rsp; /* top of a little stack for PUSHF */
    u8 stack[256];
    u8 memory[8192] ALIGNED(4096); /* for the instruction's memory operand */
};

static struct {
    struct oracle *o;
    const u8 *insn, *after;
} oracle_running;

static inline void oracle_on_fault(int sig, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

    (void)info;
    if (!oracle_running.insn || (const u8 *)regs[REG_RIP] != oracle_running.insn) {
        signal(sig, SIG_DFL);
        return;
    }
    oracle_running.o->out.trap = (int)regs[REG_TRAPNO];
    regs[REG_RIP] = (greg_t)(uintptr_t)oracle_running.after;
}

static inline struct oracle *oracle_new(void)
{
    u32 lo, hi;
    struct oracle *o =
        mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static u8 handler_stack[65536];
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};

    if (o == MAP_FAILED || sigaltstack(&stack, NULL))
        return NULL;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    o->mask = lo & 0xe7;
    return o;
}

static inline u8 *oracle_byte(u8 *p, unsigned v)
{
    *p = (u8)v;
    return p + 1;
}

/* REX opcode [rip + x] with @reg */
static inline u8 *oracle_rip(u8 *p, unsigned rex, unsigned opcode, unsigned reg, const void *at)
{
    p = oracle_byte(p, 0x40 | rex | reg >> 3 << 2);
    if (opcode > 0xff)
        p = oracle_byte(p, opcode >> 8);
    p = oracle_byte(p, opcode & 0xff);
    p = oracle_byte(p, (reg & 7) << 3 | 5);
    put_le32(p, (u32)((const u8 *)at - (p + 4)));
    return p + 4;
}

static inline u8 *oracle_push(u8 *p, const void *at)
{
    p = oracle_byte(p, 0xff);
    p = oracle_byte(p, 6 << 3 | 5);
    put_le32(p, (u32)((const u8 *)at - (p + 4)));
    return p + 4;
}

static inline u8 *oracle_load_mask(u8 *p, const struct oracle *o)
{
    p = oracle_rip(p, 8, 0x8b, 0, &o->mask);
    p = oracle_byte(p, 0x31); /* xor edx, edx */
    return oracle_byte(p, 0xd2);
}

/* Executes @bytes on o->in; the result is o->out. */
static inline void oracle_run(struct oracle *o, const u8 *bytes, unsigned length)
{
    static const int signals[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
    struct sigaction sa = {.sa_sigaction = oracle_on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK}, old[4];
    static const u8 push[] = {0x53, 0x55, 0x41, 0x54, 0x41,
                              0x55, 0x41, 0x56, 0x41, 0x57}; /* rbx rbp r12-15 */
    static const u8 pop[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b};
    const u32 mxcsr = 0x1f80;
    u8 *p = o->code;

    for (unsigned i = 0; i < sizeof push; i++)
        p = oracle_byte(p, push[i]);
    p = oracle_rip(p, 8, 0x89, 4, &o->host_rsp);
    p = oracle_load_mask(p, o);
    p = oracle_rip(p, 8, 0x0fae, 5, o->in.xsave); /* xrstor64 */
    p = oracle_push(p, &o->in.rflags);
    p = oracle_byte(p, 0x9d);
    for (unsigned i = 0; i < 16; i++)
        p = oracle_rip(p, 8, 0x8b, i, &o->in.gpr[i]);
    oracle_running.insn = p;
    memcpy(p, bytes, length);
    p += length;
    oracle_running.after = p;
    for (unsigned i = 0; i < 16; i++)
        p = oracle_rip(p, 8, 0x89, i, &o->out.gpr[i]);
    p = oracle_rip(p, 8, 0x8b, 4, &o->memory_rsp);
    p = oracle_byte(p, 0x9c); /* pushfq; pop rax */
    p = oracle_byte(p, 0x58);
    p = oracle_rip(p, 8, 0x89, 0, &o->out.rflags);
    p = oracle_load_mask(p, o);
    p = oracle_rip(p, 8, 0x0fae, 4, o->out.xsave); /* xsave64 */
    p = oracle_rip(p, 8, 0x8b, 4, &o->host_rsp);
    p = oracle_byte(p, 0xdb); /* fninit */
    p = oracle_byte(p, 0xe3);
    p = oracle_byte(p, 0xc5); /* vzeroupper */
    p = oracle_byte(p, 0xf8);
    p = oracle_byte(p, 0x77);
    for (unsigned i = 0; i < sizeof pop; i++)
        p = oracle_byte(p, pop[i]);
    oracle_byte(p, 0xc3);

    o->memory_rsp = (u64)(uintptr_t)(o->stack + sizeof o->stack - 16);
    oracle_running.o = o;
    o->out.trap = ORACLE_NO_TRAP;
    for (unsigned i = 0; i < 4; i++)
        sigaction(signals[i], &sa, &old[i]);
    ((void (*)(void))o->code)();
    __asm__ volatile("ldmxcsr %0; cld" : : "m"(mxcsr) : "memory");
    oracle_running.insn = NULL;
    for (unsigned i = 0; i < 4; i++)
        sigaction(signals[i], &old[i], NULL);
}

#endif
