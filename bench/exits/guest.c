/*
 * What it costs to leave the guest: a port write, a read of a device's memory, a hypercall, a timer's
 * interrupt to a processor that spins and to one that halts. Prints cycles of the TSC for each, which are
 * the host's under every monitor that this is run with. Built by bench/exits/run with tests/system/lib.c.
 */
#include "lib.h"

#define SLICE 200000000ull /* cycles for each kind */
#define HPET_COUNTER ((volatile u32 *)0xfed000f0)
#define APIC(reg) (*(volatile u32 *)(0xfee00000ull + (reg)))
enum { APIC_EOI = 0xb0, APIC_SVR = 0xf0, APIC_LVT_TIMER = 0x320, APIC_INITIAL = 0x380, APIC_DIVIDE = 0x3e0 };
#define TIMER_VECTOR 0x40
#define TIMER_COUNT 100000

extern u64 boot_pdpt[];
static u64 device_pages[512] __attribute__((aligned(4096)));

static u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) : : "memory");
    return lo | (u64)hi << 32;
}

/* 3 to 4 GiB, not cached. */
static void map_devices(void)
{
    for (u64 i = 0; i < 512; i++)
        device_pages[i] = (0xc0000000ull + (i << 21)) | 0x9b; /* P, W, PWT, PCD, 2 MiB */
    boot_pdpt[3] = (u64)device_pages | 3;
    __asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" : : : "rax", "memory");
}

static void port_write(void)
{
    outb(0x80, 0);
}

static void mmio_read(void)
{
    (void)*HPET_COUNTER;
}

static void hypercall_intel(void)
{
    u64 nr = 1000, result;
    __asm__ volatile("vmcall" : "=a"(result) : "0"(nr) : "rbx", "rcx", "rdx", "rsi", "memory");
}

static void hypercall_amd(void)
{
    u64 nr = 1000, result;
    __asm__ volatile("vmmcall" : "=a"(result) : "0"(nr) : "rbx", "rcx", "rdx", "rsi", "memory");
}

static void arm_timer(void)
{
    trap_count = 0;
    APIC(APIC_INITIAL) = TIMER_COUNT;
}

static void timer_spinning(void)
{
    arm_timer();
    __asm__ volatile("sti" : : : "memory");
    while (!trap_count)
        ;
    __asm__ volatile("cli" : : : "memory");
    APIC(APIC_EOI) = 0;
}

static void timer_halted(void)
{
    arm_timer();
    while (!trap_count)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    APIC(APIC_EOI) = 0;
}

static void measure(const char *name, void (*op)(void))
{
    u64 start = tsc(), n = 0, now;
    do {
        op();
        n++;
        now = tsc();
    } while (now - start < SLICE);
    print("cost %s %llu\n", name, (unsigned long long)((now - start) / n));
}

static void nothing(void) {}

static void exits(void)
{
    map_devices();
    trap_clear();
    APIC(APIC_SVR) = 0x1ff;
    APIC(APIC_DIVIDE) = 0xb;
    APIC(APIC_LVT_TIMER) = TIMER_VECTOR;
    measure("nothing", nothing);
    measure("port-write", port_write);
    measure("mmio-read", mmio_read);
    TRY("movl $1000, %%eax\n vmmcall", : : : "rax", "rbx", "rcx", "rdx", "memory");
    if (last.vector == NO_TRAP) {
        measure("hypercall", hypercall_amd);
    } else {
        TRY("movl $1000, %%eax\n vmcall", : : : "rax", "rbx", "rcx", "rdx", "memory");
        if (last.vector == NO_TRAP)
            measure("hypercall", hypercall_intel);
    }
    measure("timer-spinning", timer_spinning);
    measure("timer-halted", timer_halted);
}

const struct test tests[] = {{"exits", exits}, {0}};
