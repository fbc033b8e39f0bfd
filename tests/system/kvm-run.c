/*
 * kvm-run IMAGE: runs a bare-metal image under /dev/kvm with nothing but RAM, COM1's transmitter and
 * the debug-exit port, as a second opinion on what the tests expect. Exit status: that of the image
 * ((value << 1) | 1), 77 when this host's KVM cannot run it.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/compiler.h"

#define RAM_SIZE (64u << 20)
#define SKIPPED 77

static void need(int result, const char *what)
{
    if (result >= 0)
        return;
    perror(what);
    exit(SKIPPED);
}

/* Loads the program headers of an ELF32 file; returns the entry point. */
static u32 load(const char *path, u8 *ram)
{
    static u8 file[8 << 20];
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(2);
    }
    size_t size = fread(file, 1, sizeof file, f);
    (void)fclose(f);
    Elf32_Ehdr *e = (Elf32_Ehdr *)file;
    for (unsigned i = 0; i < e->e_phnum; i++) {
        Elf32_Phdr *p = (Elf32_Phdr *)(file + e->e_phoff) + i;
        if (p->p_type == PT_LOAD && p->p_offset + p->p_filesz <= size && p->p_paddr + p->p_memsz <= RAM_SIZE)
            memcpy(ram + p->p_paddr, file + p->p_offset, p->p_filesz);
    }
    return e->e_entry;
}

static void set_cpuid(int kvm, int vcpu)
{
    enum { ENTRIES = 128 };
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + ENTRIES * sizeof c->entries[0]);
    need(c ? 0 : -1, "calloc");
    c->nent = ENTRIES;
    need(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
    need(ioctl(vcpu, KVM_SET_CPUID2, c), "KVM_SET_CPUID2");
    free(c);
}

/* The machine state that Multiboot 1 promises: flat 32-bit protected mode, paging off. */
static void set_state(int vcpu, u32 entry)
{
    struct kvm_sregs s;
    need(ioctl(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_segment data = code;
    data.type = 3;
    data.selector = 16;
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cr0 = 0x11;
    need(ioctl(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
    struct kvm_regs r = {.rip = entry, .rflags = 2, .rax = 0x2badb002};
    need(ioctl(vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
}

static void serve_port(struct kvm_run *run)
{
    u8 *data = (u8 *)run + run->io.data_offset;
    if (run->io.direction == KVM_EXIT_IO_OUT) {
        if (run->io.port == 0xf4)
            exit(*data << 1 | 1);
        if (run->io.port == 0x3f8)
            (void)putchar(*data);
    } else {
        memset(data, 0, (size_t)run->io.size * run->io.count);
        if (run->io.port == 0x3fd)
            *data = 0x60;
    }
}

/*
 * KVM met an instruction that it cannot emulate: the guest gets #UD for it, so that the test fails and
 * the others still run.
 */
static bool inject_ud(int vcpu, const struct kvm_run *run)
{
    static unsigned count;
    struct kvm_regs r = {0};
    (void)ioctl(vcpu, KVM_GET_REGS, &r);
    bool emulation =
        run->exit_reason == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION;
    printf("kvm gave up: exit %u suberror %u at %llx\n", run->exit_reason, emulation ? 1 : 0, r.rip);
    struct kvm_vcpu_events events;
    if (!emulation || ++count > 100 || ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events) != 0)
        return false;
    events.exception.injected = 1;
    events.exception.nr = 6;
    events.exception.has_error_code = 0;
    return ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events) == 0;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    need(kvm, "/dev/kvm");
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    need(vm, "KVM_CREATE_VM");
    u8 *ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(ram == MAP_FAILED ? -1 : 0, "mmap");
    u32 entry = load(argv[1], ram);
    (void)ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    struct kvm_userspace_memory_region region = {.memory_size = RAM_SIZE,
                                                 .userspace_addr = (u64)(uintptr_t)ram};
    need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    need(vcpu, "KVM_CREATE_VCPU");
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    need(size, "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    need(run == MAP_FAILED ? -1 : 0, "mmap vcpu");
    set_cpuid(kvm, vcpu);
    set_state(vcpu, entry);
    for (;;) {
        need(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason == KVM_EXIT_IO) {
            serve_port(run);
            continue;
        }
        if (!inject_ud(vcpu, run))
            return SKIPPED;
    }
}
