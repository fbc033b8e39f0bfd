/*
 * The host as the oracle. A child process runs each case by returning from a signal handler into
 * it: sigreturn loads the whole register file from the frame, the case ends in a fault or INT3, and
 * the next signal's frame holds the whole result. The child never leaves its handler otherwise, and
 * since it is a process of its own, code gone astray cannot harm the test.
 */
#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "isa.h"

#define SW_RESERVED 464 /* of struct _fpx_sw_bytes in the FXSAVE image */

/* Shared with the child. */
struct channel {
    _Atomic u32 submitted, finished; /* batch numbers; futexes */
    _Atomic u32 at;                  /* case being run */
    u64 xfeatures;
    struct isa_batch batch;
};

static struct channel *channel;
static pid_t child;

/* Offsets of the XSAVE components in the standard layout. */
enum { XC_AVX = 2, XC_K = 5, XC_ZMM_LO = 6, XC_ZMM_HI = 7 };
static u32 xsave_offset[8];

/* The child's own. */
static u8 *code_alias;
static u32 batch_number;
static bool running;

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void futex_wait(_Atomic u32 *word, u32 value, const struct timespec *timeout)
{
    syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

static void futex_wake(_Atomic u32 *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void load_vectors(u8 *x, const struct isa_state *s, u64 features)
{
    for (int i = 0; i < 16; i++) {
        memcpy(x + 160 + 16 * i, s->vec[i], 16);
        if (features & BIT(XC_AVX))
            memcpy(x + xsave_offset[XC_AVX] + 16 * i, s->vec[i] + 16, 16);
        if (features & BIT(XC_ZMM_LO))
            memcpy(x + xsave_offset[XC_ZMM_LO] + 32 * i, s->vec[i] + 32, 32);
        if (features & BIT(XC_ZMM_HI))
            memcpy(x + xsave_offset[XC_ZMM_HI] + 64 * i, s->vec[16 + i], 64);
    }
    if (features & BIT(XC_K))
        memcpy(x + xsave_offset[XC_K], s->k, 64);
}

static void load_state(ucontext_t *uc, const struct isa_case *c)
{
    const struct isa_state *s = &c->in;
    greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)s->gpr[i];
    g[REG_RIP] = (greg_t)s->rip;
    g[REG_EFL] = (greg_t)s->rflags;
    g[REG_CSGSFS] = (greg_t)(((u64)g[REG_CSGSFS] & ~0xffffull) | (c->mode32 ? 0x23 : 0x33));

    u8 *x = (u8 *)uc->uc_mcontext.fpregs;
    put_le16(x, s->fcw);
    put_le16(x + 2, s->fsw);
    put_le16(x + 4, s->ftw);
    put_le16(x + 6, 0);
    put_le64(x + 8, 0);
    put_le64(x + 16, 0);
    put_le32(x + 24, s->mxcsr);
    memcpy(x + 32, s->st, 128);
    for (int i = 0; i < 8; i++)
        memset(x + 32 + 16 * i + 10, 0, 6);
    load_vectors(x, s, channel->xfeatures);
    put_le64(x + 512, channel->xfeatures & 0xff);
}

/* A component that the processor found in its initial state is not stored: XSTATE_BV says so. */
static void store_vectors(const u8 *x, struct isa_state *s)
{
    u64 bv = get_le64(x + 512);
    memset(s->vec, 0, sizeof s->vec);
    memset(s->k, 0, sizeof s->k);
    for (int i = 0; i < 16; i++) {
        if (bv & BIT(1))
            memcpy(s->vec[i], x + 160 + 16 * i, 16);
        if (bv & BIT(XC_AVX))
            memcpy(s->vec[i] + 16, x + xsave_offset[XC_AVX] + 16 * i, 16);
        if (bv & BIT(XC_ZMM_LO))
            memcpy(s->vec[i] + 32, x + xsave_offset[XC_ZMM_LO] + 32 * i, 32);
        if (bv & BIT(XC_ZMM_HI))
            memcpy(s->vec[16 + i], x + xsave_offset[XC_ZMM_HI] + 64 * i, 64);
    }
    if (bv & BIT(XC_K))
        memcpy(s->k, x + xsave_offset[XC_K], 64);
}

static void store_state(const ucontext_t *uc, struct isa_state *s)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++)
        s->gpr[i] = (u64)g[greg_of[i]];
    s->rip = (u64)g[REG_RIP];
    s->rflags = (u64)g[REG_EFL];
    s->vector = (u32)g[REG_TRAPNO];
    s->error = (u32)g[REG_ERR];
    s->cr2 = s->vector == 14 ? (u64)g[REG_CR2] : 0;

    const u8 *x = (const u8 *)uc->uc_mcontext.fpregs;
    u64 bv = get_le64(x + 512);
    s->fcw = bv & 1 ? get_le16(x) : 0x37f;
    s->fsw = bv & 1 ? get_le16(x + 2) : 0;
    s->ftw = bv & 1 ? x[4] : 0;
    s->mxcsr = get_le32(x + 24);
    memset(s->st, 0, sizeof s->st);
    for (int i = 0; i < 8 && (bv & 1); i++)
        memcpy(s->st[i], x + 32 + 16 * i, 10);
    store_vectors(x, s);
}

static void start_case(ucontext_t *uc, u32 n)
{
    const struct isa_case *c = &channel->batch.cases[n];
    atomic_store(&channel->at, n);
    memset(code_alias, 0xcc, PAGE_SIZE);
    memcpy(code_alias + (c->in.rip - ISA_CODE), c->code, c->len);
    isa_case_data(&channel->batch, c, (u8 *)ISA_DATA);
    load_state(uc, c);
    /* Not in the frame; the last case may have changed them, and null is of no use in 32-bit code. */
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
}

static void handler(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    /* A handler starts with the interrupted AC flag, under which our own accesses could fault. */
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(unsigned long long)X86_AC);
    ucontext_t *uc = context;
    u32 next = 0;
    if (running) {
        u32 at = atomic_load(&channel->at);
        store_state(uc, &channel->batch.results[at].out);
        memcpy(channel->batch.results[at].data, (const u8 *)ISA_DATA, ISA_DATA_SIZE);
        next = at + 1;
    }
    if (!running || next >= channel->batch.count) {
        if (running) {
            atomic_store(&channel->finished, batch_number);
            futex_wake(&channel->finished);
        } else {
            const u8 *x = (const u8 *)uc->uc_mcontext.fpregs;
            channel->xfeatures =
                get_le32(x + SW_RESERVED) == FP_XSTATE_MAGIC1 ? get_le64(x + SW_RESERVED + 8) & 0xff : 3;
        }
        running = true;
        while (atomic_load(&channel->submitted) == batch_number)
            futex_wait(&channel->submitted, batch_number, NULL);
        batch_number++;
        next = 0;
    }
    start_case(uc, next);
}

static void map_window(void)
{
    int fd = memfd_create("isa-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, PAGE_SIZE) != 0)
        die("memfd");
    const int fixed = MAP_FIXED_NOREPLACE;
    code_alias = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *code = mmap((void *)ISA_CODE, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | fixed, fd, 0);
    void *data = mmap((void *)ISA_DATA, ISA_DATA_SIZE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    void *ro = mmap((void *)ISA_RO, PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    if (code_alias == MAP_FAILED || code == MAP_FAILED || data == MAP_FAILED || ro == MAP_FAILED)
        die("mmap");
    u8 sum = *(const volatile u8 *)ro; /* both are mapped from the first: error codes say "present" */
    (void)sum;
}

static void child_main(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    map_window();
    stack_t alt = {.ss_size = 256 << 10};
    alt.ss_sp = mmap(NULL, alt.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (alt.ss_sp == MAP_FAILED || sigaltstack(&alt, NULL) != 0)
        die("sigaltstack");
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    static const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS};
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        sigaction(signals[i], &sa, NULL);
    running = false;
    batch_number = atomic_load(&channel->finished);
    __builtin_trap();
}

static void start_child(void)
{
    child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        child_main();
        _exit(2);
    }
}

struct isa_batch *native_start(void)
{
    channel = mmap(NULL, sizeof *channel, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (channel == MAP_FAILED)
        die("mmap");
    for (u32 i = 2; i < 8; i++) {
        u32 eax, ebx, ecx, edx;
        __cpuid_count(0xd, i, eax, ebx, ecx, edx);
        xsave_offset[i] = ebx;
    }
    start_child();
    return &channel->batch;
}

bool native_batch(struct isa_batch *b, u32 *at)
{
    if (b->count == 0)
        return true;
    u32 number = atomic_fetch_add(&channel->submitted, 1) + 1;
    futex_wake(&channel->submitted);
    for (int tries = 0; tries < 100; tries++) {
        u32 done = atomic_load(&channel->finished);
        if (done == number)
            return true;
        futex_wait(&channel->finished, done, &(struct timespec){.tv_nsec = 100000000});
        if (waitpid(child, NULL, WNOHANG) == child)
            break;
    }
    *at = atomic_load(&channel->at);
    if (kill(child, SIGKILL) == 0)
        waitpid(child, NULL, 0);
    atomic_store(&channel->finished, number);
    start_child();
    return false;
}

void native_stop(void)
{
    if (child > 0 && kill(child, SIGKILL) == 0)
        waitpid(child, NULL, 0);
}

u64 native_xfeatures(void)
{
    return channel->xfeatures;
}
