/* What kind of KVM this host has: see kvm.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvm/kvm-internal.h"
#include "kvm/kvm.h"

#define LIMIT_MS 250
#define REAP_MS 30
#define WARM_UP 1000u
#define LOOPS 15000u /* of two instructions */

/* An emulator in a kernel does a few million instructions a second, a CPU thousands; nested ones hundreds. */
#define HARDWARE_MIPS 150u

/* The guest's memory: tables that map its first 2 MiB one to one, code, data. */
enum { PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, CODE = 0x4000, DATA = 0x5000, RAM = 0x6000 };

enum { LOOP = 17, CPUID = 23 }; /* offsets in the code */

static const u8 code[] = {
    0x66, 0x0f, 0x6f, 0x07,       /* movdqa (%rdi), %xmm0 */
    0x66, 0x0f, 0xfe, 0xc0,       /* paddd %xmm0, %xmm0 */
    0x66, 0x0f, 0x7f, 0x07,       /* movdqa %xmm0, (%rdi) */
    0xf0, 0x48, 0x0f, 0xc7, 0x0e, /* lock cmpxchg16b (%rsi) */
    0x48, 0xff, 0xc9,             /* 1: dec %rcx */
    0x75, 0xfb,                   /* jnz 1b */
    0xf4,                         /* hlt */
    0x0f, 0xa2, 0xf4,             /* cpuid; hlt */
};

struct probe {
    struct kvm_host host;
    int vm, cpu;
    struct kvm_run *run;
    u8 *ram;
};

/* @cpuid NULL: none. */
static int set_up(struct probe *p, struct kvm_cpuid2 *cpuid)
{
    p->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->ram == MAP_FAILED)
        return -1;
    put_le64(p->ram + PML4, PDPT | 3);
    put_le64(p->ram + PDPT, PD | 3);
    put_le64(p->ram + PD, 0x83);
    memcpy(p->ram + CODE, code, sizeof code);
    p->vm = kvm_create_vm(&p->host);
    if (p->vm < 0)
        return -1;
    struct kvm_userspace_memory_region region = {.memory_size = RAM,
                                                 .userspace_addr = (u64)(uintptr_t)p->ram};
    if (ioctl(p->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0 ||
        ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return -1;
    p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
    if (p->cpu < 0)
        return -1;
    p->run = mmap(NULL, (size_t)p->host.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
    if (p->run == MAP_FAILED)
        return -1;
    return cpuid ? ioctl(p->cpu, KVM_SET_CPUID2, cpuid) : 0;
}

static int enter_long_mode(const struct probe *p)
{
    const struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_segment cs = data;
    struct kvm_sregs s;
    if (ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
        return -1;
    cs.selector = 8;
    cs.type = 11;
    cs.db = 0;
    cs.l = 1;
    s.cs = cs;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
    s.cr3 = PML4;
    s.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    s.efer = X86_EFER_LME | X86_EFER_LMA;
    return ioctl(p->cpu, KVM_SET_SREGS, &s);
}

/* Runs the guest from @start in its code to the end; false when it does not get there. */
static bool run_from(const struct probe *p, unsigned start, u32 loops)
{
    struct kvm_regs regs = {
        .rip = CODE + start, .rflags = X86_FLAG1, .rdi = DATA, .rsi = DATA + 16, .rbx = 5, .rcx = loops};
    memset(p->ram + DATA, 0, 32);
    put_le64(p->ram + DATA, 21);
    return ioctl(p->cpu, KVM_SET_REGS, &regs) == 0 && ioctl(p->cpu, KVM_RUN, 0) == 0 &&
           p->run->exit_reason == KVM_EXIT_HLT;
}

/* SSE2 and CMPXCHG16B did what they should. */
static bool results_right(const struct probe *p)
{
    return get_le64(p->ram + DATA) == 42 && get_le64(p->ram + DATA + 16) == 5;
}

static void tear_down(struct probe *p)
{
    if (p->run && p->run != MAP_FAILED)
        munmap(p->run, (size_t)p->host.run_size);
    if (p->cpu >= 0)
        close(p->cpu);
    if (p->vm >= 0)
        close(p->vm);
    if (p->ram && p->ram != MAP_FAILED)
        munmap(p->ram, RAM);
}

static void see_leaf(const struct probe *p, struct kvm_cpuid_entry2 *e)
{
    struct kvm_regs regs = {.rip = CODE + CPUID, .rflags = X86_FLAG1, .rax = e->function, .rcx = e->index};
    if (ioctl(p->cpu, KVM_SET_REGS, &regs) < 0 || ioctl(p->cpu, KVM_RUN, 0) < 0 ||
        p->run->exit_reason != KVM_EXIT_HLT || ioctl(p->cpu, KVM_GET_REGS, &regs) < 0)
        return;
    e->eax |= (u32)regs.rax;
    e->ebx |= (u32)regs.rbx;
    e->ecx |= (u32)regs.rcx;
    e->edx |= (u32)regs.rdx;
}

void kvm_see_cpuid(const struct kvm_host *h, struct kvm_cpuid2 *supported)
{
    struct probe p = {.host = *h, .vm = -1, .cpu = -1};
    if (set_up(&p, supported) == 0 && enter_long_mode(&p) == 0) {
        for (unsigned i = 0; i < supported->nent; i++)
            if (kvm_has_features(supported->entries[i].function))
                see_leaf(&p, &supported->entries[i]);
    }
    tear_down(&p);
}

bool kvm_gives_up(const struct kvm_host *h)
{
    struct probe p = {.host = *h, .vm = -1, .cpu = -1};
    bool gave_up = set_up(&p, NULL) == 0 && enter_long_mode(&p) == 0 && !run_from(&p, 0, 1) &&
                   p.run->exit_reason == KVM_EXIT_INTERNAL_ERROR;
    tear_down(&p);
    return gave_up;
}

bool kvm_shifts_tsc(const struct kvm_host *h)
{
    struct probe p = {.host = *h, .vm = -1, .cpu = -1};
    i64 given = -1000, found = 0;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)(uintptr_t)&given};
    bool ignored = false;
    if (set_up(&p, NULL) == 0 && ioctl(p.cpu, KVM_SET_DEVICE_ATTR, &attr) == 0) {
        attr.addr = (u64)(uintptr_t)&found;
        ignored = ioctl(p.cpu, KVM_GET_DEVICE_ATTR, &attr) == 0 && found != given;
    }
    tear_down(&p);
    return !ignored;
}

/* Time of this thread, so that a busy host is not taken for a slow KVM. */
static u64 thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static void measure(struct kvm_verdict *v)
{
    struct probe p = {.vm = -1, .cpu = -1};
    struct error err = {0};
    *v = (struct kvm_verdict){.kind = KVM_KIND_NONE, .text = "KVM here does not set up a small guest"};
    struct kvm_cpuid2 *cpuid = kvm_host_open(&p.host, &err) == 0 ? kvm_host_cpuid(&p.host, &err) : NULL;
    if (!cpuid || set_up(&p, cpuid) != 0 || enter_long_mode(&p) != 0)
        return; /* another program may be in the way, this time */
    *v = (struct kvm_verdict){.kind = KVM_KIND_BROKEN, .text = "KVM here does not run a small guest"};
    if (!run_from(&p, LOOP, WARM_UP))
        return;
    u64 start = thread_ns();
    if (!run_from(&p, LOOP, LOOPS))
        return;
    u64 ns = MAX(thread_ns() - start, (u64)1);
    v->mips = (unsigned)MIN(2000ull * LOOPS / ns, 1000000ull);
    if (run_from(&p, 0, WARM_UP) && results_right(&p))
        v->kind = v->mips >= HARDWARE_MIPS ? KVM_KIND_HARDWARE : KVM_KIND_SLOW;
    else if (p.run->exit_reason == KVM_EXIT_INTERNAL_ERROR) /* an emulator that knows few instructions */
        v->kind = KVM_KIND_SLOW;
}

bool kvm_available(struct kvm_verdict *v)
{
    struct kvm_host host;
    struct error err = {0};
    *v = (struct kvm_verdict){.kind = KVM_KIND_NONE};
    if (kvm_host_open(&host, &err) == 0) {
        kvm_host_close(&host);
        return true;
    }
    snprintf(v->text, sizeof v->text, "%.*s", (int)sizeof v->text - 1, err.text);
    return false;
}

/* The child's answer; false when it gave none in time. */
static bool await(int fd, struct kvm_verdict *v)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int r;
    do
        r = poll(&p, 1, LIMIT_MS);
    while (r < 0 && errno == EINTR);
    return r == 1 && read(fd, v, sizeof *v) == (ssize_t)sizeof *v;
}

/* One that is stuck in the kernel does not die, and is left to itself. */
static void end(pid_t child)
{
    const struct timespec ms = {.tv_nsec = 1000000};
    kill(child, SIGKILL);
    for (unsigned n = 0; n < REAP_MS && waitpid(child, NULL, WNOHANG) == 0; n++)
        nanosleep(&ms, NULL);
}

void kvm_probe(struct kvm_verdict *v)
{
    int fds[2];
    if (!kvm_available(v))
        return;
    *v = (struct kvm_verdict){.kind = KVM_KIND_BROKEN, .text = "KVM here cannot be tried out"};
    if (pipe2(fds, O_CLOEXEC) < 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        measure(v);
        _exit(write(fds[1], v, sizeof *v) == (ssize_t)sizeof *v ? 0 : 1);
    }
    close(fds[1]);
    if (child > 0) {
        if (!await(fds[0], v))
            *v = (struct kvm_verdict){.kind = KVM_KIND_BROKEN,
                                      .text = "KVM here does not finish a small guest in time"};
        end(child);
    }
    close(fds[0]);
}
