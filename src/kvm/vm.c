/* The engine's objects: /dev/kvm, the VM with its memory slots, the vCPUs. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "kvm/kvm-internal.h"
#include "kvm/kvm.h"

#define DEVICE "/dev/kvm"

/*
 * Three pages for a task state segment and one for page tables, which KVM puts into guest-physical
 * memory on old Intel CPUs: out of the way of RAM, of the APICs and of where firmware may lie.
 */
#define IDENTITY_MAP_ADDR 0xfeffc000ull
#define TSS_ADDR (IDENTITY_MAP_ADDR + 0x1000)
#define SPARE_ADDR (IDENTITY_MAP_ADDR - PAGE_SIZE) /* see kvm_forget_tables() */

/* --- /dev/kvm --- */

/* TRAPEZE_KVM_DEVICE is for tests of what happens where there is none that works. */
static const char *device_path(void)
{
    const char *path = getenv("TRAPEZE_KVM_DEVICE");
    return path ? path : DEVICE;
}

static int explain_permission(const char *path, int code, struct error *err)
{
    struct stat st;
    const struct group *g = stat(path, &st) == 0 ? getgrgid(st.st_gid) : NULL;
    if (g && (st.st_mode & 0060) == 0060)
        return error_set(err, code,
                         "no permission to open %s: join the group '%s' (usermod -aG %s $USER, then log in "
                         "again)",
                         path, g->gr_name, g->gr_name);
    return error_set(err, code, "no permission to open %s, which is only for its owner", path);
}

static int explain_open(const char *path, int code, struct error *err)
{
    if (code == ENOENT)
        return error_set(
            err, code,
            "there is no %s: load the kvm_intel or kvm_amd module, or let the hypervisor of this "
            "host nest virtual machines",
            path);
    if (code == ENXIO || code == ENODEV)
        return error_set(err, code, "%s has no driver: load the kvm_intel or kvm_amd module", path);
    if (code == EACCES || code == EPERM)
        return explain_permission(path, code, err);
    return error_set_errno(err, code, "cannot open %s", path);
}

/* What the engine cannot do without, with the Linux that brought it. */
static const struct {
    int cap;
    const char *name, *since;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "memory slots", "2.6.25"},     {KVM_CAP_EXT_CPUID, "CPUID tables", "2.6.26"},
    {KVM_CAP_SET_TSS_ADDR, "a TSS address", "2.6.24"},   {KVM_CAP_VCPU_EVENTS, "vCPU events", "2.6.33"},
    {KVM_CAP_DEBUGREGS, "debug registers", "2.6.34"},    {KVM_CAP_XSAVE, "XSAVE state", "2.6.36"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exits", "4.13"}, {KVM_CAP_X86_USER_SPACE_MSR, "MSR exits", "5.10"},
    {KVM_CAP_X86_MSR_FILTER, "MSR filters", "5.10"},
};

static int check_host(struct kvm_host *h, struct error *err)
{
    int version = ioctl(h->fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return error_set_errno(err, errno, "%s does not answer as KVM does", device_path());
    if (version != KVM_API_VERSION)
        return error_set(err, ENOTSUP, DEVICE " speaks version %d of the KVM interface, not %d", version,
                         KVM_API_VERSION);
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
        if (ioctl(h->fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
            return error_set(err, ENOTSUP, "this host's KVM is too old: it lacks %s (Linux %s)",
                             needed[i].name, needed[i].since);
    }
    h->run_size = ioctl(h->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    return h->run_size > 0 ? 0 : error_set(err, ENOTSUP, DEVICE " does not say how large a vCPU's page is");
}

struct kvm_cpuid2 *kvm_host_cpuid(const struct kvm_host *h, struct error *err)
{
    for (unsigned n = 64; n <= 1024; n *= 2) {
        struct kvm_cpuid2 *c = calloc(1, sizeof *c + n * sizeof c->entries[0]);
        if (!c)
            break;
        c->nent = n;
        if (ioctl(h->fd, KVM_GET_SUPPORTED_CPUID, c) == 0)
            return c;
        int code = errno;
        free(c);
        if (code != E2BIG) {
            error_set_errno(err, code, "KVM does not say which CPU features it has");
            return NULL;
        }
    }
    error_set_errno(err, ENOMEM, "KVM's list of CPU features is too long");
    return NULL;
}

int kvm_host_open(struct kvm_host *h, struct error *err)
{
    const char *path = device_path();
    *h = (struct kvm_host){.fd = open(path, O_RDWR | O_CLOEXEC)};
    if (h->fd < 0)
        return explain_open(path, errno, err);
    int r = check_host(h, err);
    struct kvm_cpuid2 *supported = r ? NULL : kvm_host_cpuid(h, err);
    if (!supported) {
        kvm_host_close(h);
        return r ? r : -ENOTSUP;
    }
    int size = ioctl(h->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    kvm_xsave_layout(&h->xsave, supported, size > 4096 ? (unsigned)size : 4096);
    free(supported);
    r = kvm_choose_msrs(h, err);
    if (r)
        kvm_host_close(h);
    return r;
}

void kvm_host_close(struct kvm_host *h)
{
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
}

/* Any signal makes the kernel give up in the middle. */
int kvm_create_vm(const struct kvm_host *h)
{
    int fd;
    do
        fd = ioctl(h->fd, KVM_CREATE_VM, 0);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* --- the VM --- */

int kvm_set_slot(const struct kvm_vm *kvm, unsigned slot, bool logged)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = logged ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = kvm->slot[slot].gpa,
        .memory_size = kvm->slot[slot].size,
        .userspace_addr = (u64)(uintptr_t)(kvm->memory->ram + kvm->slot[slot].ram_offset)};
    if (!region.memory_size || ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &region) == 0)
        return 0;
    return -errno;
}

/* Another vCPU may see RAM at SPARE_ADDR for a moment, where it has no business. */
int kvm_forget_tables(struct kvm_vm *kvm, struct error *err)
{
    struct kvm_userspace_memory_region spare = {.slot = KVM_SLOTS,
                                                .guest_phys_addr = SPARE_ADDR,
                                                .memory_size = PAGE_SIZE,
                                                .userspace_addr = (u64)(uintptr_t)kvm->memory->ram};
    lock_acquire(&kvm->spare_lock);
    int r = ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &spare);
    spare.memory_size = 0;
    if (r == 0)
        r = ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &spare);
    int code = errno;
    lock_drop(&kvm->spare_lock);
    return r == 0 ? 0 : error_set_errno(err, code, "KVM does not forget the guest's page tables");
}

static int add_memory(struct kvm_vm *kvm, struct error *err)
{
    const struct memory *m = kvm->memory;
    kvm->slot[0].size = MIN(m->low_size, MEMORY_VGA_START);
    kvm->slot[1].gpa = kvm->slot[1].ram_offset = MEMORY_VGA_END;
    kvm->slot[1].size = m->low_size > MEMORY_VGA_END ? m->low_size - MEMORY_VGA_END : 0;
    kvm->slot[2].gpa = MEMORY_HOLE_END;
    kvm->slot[2].ram_offset = m->low_size;
    kvm->slot[2].size = m->high_size;
    for (unsigned i = 0; i < KVM_SLOTS; i++) {
        int r = kvm_set_slot(kvm, i, false);
        if (r)
            return error_set_errno(err, -r, "KVM does not take %llu MiB of memory at 0x%llx",
                                   (unsigned long long)(kvm->slot[i].size >> 20),
                                   (unsigned long long)kvm->slot[i].gpa);
    }
    return 0;
}

static int set_up(struct kvm_vm *kvm, const struct vm *vm, struct error *err)
{
    u64 identity = IDENTITY_MAP_ADDR;
    struct kvm_enable_cap msr_exits = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER}};
    /* The other vendor's hypercall is #UD, as on a CPU, and not overwritten in the guest's code. */
    struct kvm_enable_cap quirks = {.cap = KVM_CAP_DISABLE_QUIRKS2,
                                    .args = {KVM_X86_QUIRK_FIX_HYPERCALL_INSN}};
    struct kvm_enable_cap failures = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {1}};

    if (ioctl(kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(kvm->fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDR) < 0)
        return error_set_errno(err, errno, "KVM does not take the addresses of its own pages");
    if (ioctl(kvm->fd, KVM_ENABLE_CAP, &msr_exits) < 0)
        return error_set_errno(err, errno, "KVM does not hand over MSRs");
    kvm->exits_on_failure = ioctl(kvm->fd, KVM_ENABLE_CAP, &failures) == 0;
    (void)ioctl(kvm->fd, KVM_ENABLE_CAP, &quirks);
    kvm_dirty_choose(kvm);
    int r = kvm_chips_choose(kvm, vm, err);
    if (!r)
        r = kvm_filter_msrs(kvm, err);
    if (!r)
        r = add_memory(kvm, err);
    return r ? r : kvm_dirty_attach(kvm, err);
}

static void release(struct vm *vm)
{
    struct kvm_vm *kvm = vm->engine_data;
    if (!kvm)
        return;
    kvm_doorbells_detach(kvm, vm);
    if (kvm->fd >= 0) {
        (void)memory_set_dirty_source(kvm->memory, NULL);
        close(kvm->fd);
    }
    lock_release(&kvm->spare_lock);
    lock_release(&kvm->dirty_lock);
    kvm_host_close(&kvm->host);
    free(kvm);
    vm->engine_data = NULL;
}

static int init(struct vm *vm, struct error *err)
{
    struct kvm_vm *kvm = calloc(1, sizeof *kvm);
    if (!kvm)
        return error_set_errno(err, ENOMEM, "cannot create the VM");
    kvm->fd = kvm->host.fd = -1;
    kvm->memory = vm->memory;
    lock_init(&kvm->dirty_lock, LOCK_RANK_LEAF);
    lock_init(&kvm->spare_lock, LOCK_RANK_LEAF);
    vm->engine_data = kvm;
    int r = kvm_install_kick(err);
    if (!r)
        r = kvm_host_open(&kvm->host, err);
    if (!r) {
        kvm->fd = kvm_create_vm(&kvm->host);
        r = kvm->fd < 0 ? error_set_errno(err, errno, "KVM does not create a VM") : set_up(kvm, vm, err);
    }
    if (r)
        release(vm);
    else
        kvm_doorbells_attach(kvm, vm);
    return r;
}

static void park(struct vm *vm)
{
    if (!vm->engine_data)
        return;
    kvm_doorbells_serve(vm->engine_data, vm);
    kvm_chips_give_back(vm);
}

/* --- vCPUs --- */

static void cpu_release(struct vcpu *vcpu)
{
    struct kvm_cpu *k = vcpu->engine_data;
    if (!k)
        return;
    if (k->rescue)
        vcpu->vm->rescue->detach(k->rescue);
    kvm_dirty_remove_cpu(k);
    if (k->run)
        munmap(k->run, (size_t)k->kvm->host.run_size);
    if (k->fd >= 0)
        close(k->fd);
    free(k->xsave);
    free(k);
    vcpu->engine_data = NULL;
}

static int cpu_open(struct kvm_cpu *k, struct error *err)
{
    const struct kvm_host *h = &k->kvm->host;
    k->xsave = aligned_alloc(64, ALIGN_UP(h->xsave.size, 64u));
    if (!k->xsave)
        return error_set_errno(err, ENOMEM, "cannot create vCPU %u", k->vcpu->index);
    k->fd = ioctl(k->kvm->fd, KVM_CREATE_VCPU, (unsigned long)k->vcpu->index);
    if (k->fd < 0)
        return error_set_errno(err, errno, "KVM does not create vCPU %u", k->vcpu->index);
    k->run = mmap(NULL, (size_t)h->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
    if (k->run == MAP_FAILED) {
        k->run = NULL;
        return error_set_errno(err, errno, "cannot map vCPU %u", k->vcpu->index);
    }
    int r = kvm_dirty_map_ring(k, err);
    if (!r)
        r = kvm_set_cpuid(k, err);
    if (!r && kvm_set_debug(k, err) < 0)
        log_error("vCPU %u goes on without its breakpoints: %s", k->vcpu->index, err->text);
    return r;
}

static int cpu_init(struct vcpu *vcpu, struct error *err)
{
    struct kvm_cpu *k = calloc(1, sizeof *k);
    if (!k)
        return error_set_errno(err, ENOMEM, "cannot create vCPU %u", vcpu->index);
    *k = (struct kvm_cpu){.vcpu = vcpu,
                          .kvm = vcpu->vm->engine_data,
                          .fd = -1,
                          .ours = true,
                          .cr8_stale = true,
                          .burst = 1,
                          .owed = KVM_GO_ON};
    vcpu->engine_data = k;
    int r = cpu_open(k, err);
    if (r)
        cpu_release(vcpu);
    else
        kvm_dirty_add_cpu(k);
    return r;
}

static enum vcpu_exit run(struct vcpu *vcpu)
{
    return kvm_cpu_run(vcpu->engine_data);
}

static void kick(struct vcpu *vcpu)
{
    kvm_cpu_kick(vcpu->engine_data);
}

/* A state that the kernel keeps for itself is lost. */
static void sync_state(struct vcpu *vcpu)
{
    if (kvm_sync(vcpu->engine_data) != 0)
        vm_end_error(vcpu->vm, &vcpu->error);
}

static void state_changed(struct vcpu *vcpu)
{
    struct kvm_cpu *k = vcpu->engine_data;
    k->ours = true;
    k->cr8_stale = true;
    k->tsc_known = false;
    k->owed = KVM_GO_ON; /* that was of the state before */
}

static int debug_changed(struct vcpu *vcpu, struct error *err)
{
    return kvm_set_debug(vcpu->engine_data, err);
}

/* The kernel follows changes of memory slots by itself. */
static void flush_tlb(struct vcpu *vcpu)
{
    const struct kvm_cpu *k = vcpu->engine_data;
    if (kvm_forget_tables(k->kvm, &vcpu->error) != 0)
        vm_end_error(vcpu->vm, &vcpu->error);
}

const struct engine_ops kvm_engine = {
    .name = "kvm",
    .limit_cpuid = kvm_limit_cpuid,
    .vm_init = init,
    .vm_release = release,
    .vcpu_init = cpu_init,
    .vcpu_release = cpu_release,
    .run = run,
    .kick = kick,
    .sync = sync_state,
    .state_changed = state_changed,
    .debug_changed = debug_changed,
    .resume = kvm_chips_take,
    .park = park,
    .flush_tlb = flush_tlb,
};
