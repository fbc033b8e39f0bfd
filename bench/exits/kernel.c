/*
 * What the kernel's own shortcuts are worth, of this host's KVM and with nothing of the monitor's: an exit
 * with and without registers in the shared page (KVM_CAP_SYNC_REGS), a doorbell that is an exit or an eventfd
 * (ioeventfd) and what waking its reader takes, a write that may wait in a ring (coalesced), a message sent
 * by ioctl or by eventfd (irqfd).
 *
 * Build and run: cc -O2 -pthread kernel.c -o kernel && ./kernel [ROUNDS]
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    RAM = 0x10000,
    CODE = 0x1000,
    FLAG = 0x2000,
    EXIT_PORT = 0x80,
    BELL_PORT = 0x90,
    LATE_PORT = 0x98,
    GSI = 30
};

/* Real mode. Writes to the exit port for ever. */
static const uint8_t loop_exits[] = {0xba, EXIT_PORT, 0, 0xee, 0xeb, 0xfd};
/* Rings CX times, then exits. */
static const uint8_t loop_bells[] = {0xba, BELL_PORT, 0, 0xee, 0xe2, 0xfd, 0xba, EXIT_PORT, 0, 0xee, 0xf4};
/* The same with a port whose writes may wait. */
static const uint8_t loop_late[] = {0xba, LATE_PORT, 0, 0xee, 0xe2, 0xfd, 0xba, EXIT_PORT, 0, 0xee, 0xf4};
/* CX times: rings and waits until the flag is the low byte of CX; then exits. */
static const uint8_t loop_answers[] = {0xba,        BELL_PORT, 0,    0xee, 0x38, 0x0e,
                                       FLAG & 0xff, FLAG >> 8, 0x75, 0xfa, 0xe2, 0xf7,
                                       0xba,        EXIT_PORT, 0,    0xee, 0xf4};

static struct {
    int kvm, vm, cpu, bell;
    struct kvm_run *run;
    uint8_t *ram;
    unsigned rounds;
} g;

static void need(int result, const char *what)
{
    if (result >= 0)
        return;
    perror(what);
    exit(77);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void say(const char *what, double start)
{
    printf("%-52s %8.2f us\n", what, (now() - start) / g.rounds);
}

static void start_at(const uint8_t *code, size_t size)
{
    struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rcx = g.rounds};
    memcpy(g.ram + CODE, code, size);
    need(ioctl(g.cpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void run(void)
{
    need(ioctl(g.cpu, KVM_RUN, 0), "KVM_RUN");
    if (g.run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "unexpected exit %u\n", g.run->exit_reason);
        exit(1);
    }
}

static void set_up(void)
{
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
    struct kvm_sregs sregs;
    g.kvm = open("/dev/kvm", O_RDWR);
    need(g.kvm, "/dev/kvm");
    g.vm = ioctl(g.kvm, KVM_CREATE_VM, 0);
    need(g.vm, "KVM_CREATE_VM");
    need(ioctl(g.vm, KVM_SET_TSS_ADDR, 0xfffbd000ul), "KVM_SET_TSS_ADDR");
    need(ioctl(g.vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
    g.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = RAM, .userspace_addr = (uintptr_t)g.ram};
    need(ioctl(g.vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    g.cpu = ioctl(g.vm, KVM_CREATE_VCPU, 0);
    need(g.cpu, "KVM_CREATE_VCPU");
    g.run = mmap(NULL, (size_t)ioctl(g.kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
                 g.cpu, 0);
    need(ioctl(g.cpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    need(ioctl(g.cpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
}

static void exits(void)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    start_at(loop_exits, sizeof loop_exits);
    double start = now();
    for (unsigned i = 0; i < g.rounds; i++)
        run();
    say("exit", start);
    g.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    start = now();
    for (unsigned i = 0; i < g.rounds; i++)
        run();
    say("exit with all registers in the page", start);
    g.run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    start = now();
    for (unsigned i = 0; i < g.rounds; i++) {
        run();
        g.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    }
    say("exit with general registers out and in by the page", start);
    g.run->kvm_valid_regs = 0;
    start = now();
    for (unsigned i = 0; i < g.rounds; i++) {
        run();
        (void)ioctl(g.cpu, KVM_GET_REGS, &regs);
        (void)ioctl(g.cpu, KVM_SET_REGS, &regs);
    }
    say("exit with KVM_GET_REGS and KVM_SET_REGS", start);
    start = now();
    for (unsigned i = 0; i < g.rounds; i++) {
        run();
        (void)ioctl(g.cpu, KVM_GET_SREGS, &sregs);
        (void)ioctl(g.cpu, KVM_SET_SREGS, &sregs);
    }
    say("exit with KVM_GET_SREGS and KVM_SET_SREGS", start);
}

static void *answer(void *unused)
{
    uint64_t n;
    (void)unused;
    /* CX counts down; the guest waits for its low byte. */
    for (unsigned cx = g.rounds; cx; cx--) {
        need((int)read(g.bell, &n, sizeof n), "read");
        atomic_store((_Atomic uint8_t *)(g.ram + FLAG), (uint8_t)cx);
    }
    return NULL;
}

static void bells(void)
{
    struct kvm_ioeventfd e = {
        .addr = BELL_PORT, .len = 1, .fd = g.bell = eventfd(0, 0), .flags = KVM_IOEVENTFD_FLAG_PIO};
    uint64_t n;
    pthread_t thread;
    need(ioctl(g.vm, KVM_IOEVENTFD, &e), "KVM_IOEVENTFD");
    start_at(loop_bells, sizeof loop_bells);
    double start = now();
    run();
    say("doorbell by ioeventfd, nobody waiting", start);
    need((int)read(g.bell, &n, sizeof n), "read");
    start_at(loop_answers, sizeof loop_answers);
    g.ram[FLAG] = (uint8_t)(g.rounds + 1);
    need(-pthread_create(&thread, NULL, answer, NULL), "pthread_create");
    start = now();
    run();
    say("doorbell by ioeventfd until its reader has answered", start);
    pthread_join(thread, NULL);
}

/* Until the guest says that it is done; an exit before is that of a write which found the ring full. */
static void late_writes(void)
{
    struct kvm_coalesced_mmio_zone zone = {.addr = LATE_PORT, .size = 1, .pio = 1};
    int page = ioctl(g.kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
    struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)g.run + page * getpagesize());
    if (page <= 0 || ioctl(g.vm, KVM_REGISTER_COALESCED_MMIO, &zone) < 0)
        return;
    start_at(loop_late, sizeof loop_late);
    double start = now();
    do {
        run();
        ring->first = ring->last;
    } while (g.run->io.port != EXIT_PORT);
    say("write that waits in a ring, with emptying it", start);
}

static void messages(void)
{
    struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x40};
    struct {
        struct kvm_irq_routing table;
        struct kvm_irq_routing_entry entry;
    } routes = {.table = {.nr = 1},
                .entry = {.gsi = GSI,
                          .type = KVM_IRQ_ROUTING_MSI,
                          .u.msi = {.address_lo = 0xfee00000, .data = 0x40}}};
    struct kvm_irqfd irqfd = {.fd = (unsigned)eventfd(0, 0), .gsi = GSI};
    uint64_t one = 1;
    double start = now();
    for (unsigned i = 0; i < g.rounds; i++)
        (void)ioctl(g.vm, KVM_SIGNAL_MSI, &msi);
    say("message by KVM_SIGNAL_MSI", start);
    need(ioctl(g.vm, KVM_SET_GSI_ROUTING, &routes), "KVM_SET_GSI_ROUTING");
    need(ioctl(g.vm, KVM_IRQFD, &irqfd), "KVM_IRQFD");
    start = now();
    for (unsigned i = 0; i < g.rounds; i++)
        need((int)write((int)irqfd.fd, &one, sizeof one), "write");
    say("message by irqfd", start);
}

int main(int argc, char **argv)
{
    g.rounds = argc > 1 ? (unsigned)atoi(argv[1]) & 0xffff : 2000;
    set_up();
    exits();
    bells();
    late_writes();
    messages();
    return 0;
}
