/*
 * What guests under KVM write, for the dirty log of memory/: with a ring a vCPU where the kernel has them,
 * else with a bitmap a slot.
 *
 * Both protect a page again before it is reported (KVM_GET_DIRTY_LOG at once, a ring when it is reset), and
 * the log's reader copies pages only after that: a write that comes in between is reported next time.
 *
 * A ring's entry is the kernel's, then ours (DIRTY), then the kernel's again (RESET); the flags say so and
 * are read with acquire and written with release. A vCPU whose ring is full leaves with
 * KVM_EXIT_DIRTY_RING_FULL and harvests by itself. A KVM that emulates was seen to look for that too rarely
 * and to overwrite entries, so rings are not for such ones.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "kvm/kvm-internal.h"

#define RING_ENTRIES 4096u

static void note(struct kvm_vm *kvm, u32 slot, u64 page)
{
    if (slot < KVM_SLOTS && page < kvm->slot[slot].size >> PAGE_SHIFT)
        memory_note_write(kvm->memory, kvm->slot[slot].ram_offset + (page << PAGE_SHIFT), PAGE_SIZE);
}

/* --- bitmaps --- */

/* When the kernel does not say, everything may have been written. */
static void collect_slot(struct kvm_vm *kvm, u32 slot)
{
    u64 pages = kvm->slot[slot].size >> PAGE_SHIFT, words = (pages + 63) / 64;
    u64 *bitmap = calloc(words, sizeof *bitmap);
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    bool known = bitmap && ioctl(kvm->fd, KVM_GET_DIRTY_LOG, &log) == 0;
    for (u64 word = 0; word < words; word++) {
        u64 dirty = known ? bitmap[word] : ~0ull;
        for (; dirty; dirty &= dirty - 1)
            note(kvm, slot, word * 64 + (u64)__builtin_ctzll(dirty));
    }
    free(bitmap);
}

/* --- rings --- */

/* Under dirty_lock, which keeps others from harvesting the same ring. */
static unsigned harvest_ring(struct kvm_vm *kvm, struct kvm_cpu *k)
{
    unsigned found = 0;
    for (;; found++, k->ring_next++) {
        struct kvm_dirty_gfn *e = &k->ring[k->ring_next % RING_ENTRIES];
        if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
            return found;
        note(kvm, e->slot & 0xffff, e->offset);
        __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
}

void kvm_dirty_harvest(struct kvm_vm *kvm)
{
    unsigned found = 0;
    lock_acquire(&kvm->dirty_lock);
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
        if (kvm->cpu[i] && kvm->cpu[i]->ring)
            found += harvest_ring(kvm, kvm->cpu[i]);
    int r = found ? ioctl(kvm->fd, KVM_RESET_DIRTY_RINGS, 0) : 0;
    lock_drop(&kvm->dirty_lock);
    if (r < 0)
        log_error("KVM does not take its dirty rings back");
}

void kvm_dirty_choose(struct kvm_vm *kvm)
{
    static const u32 caps[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};
    const char *wanted = getenv("TRAPEZE_KVM_DIRTY"); /* for tests */
    if (wanted ? strcmp(wanted, "ring") != 0 : kvm_gives_up(&kvm->host))
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(caps) && !kvm->rings; i++) {
        struct kvm_enable_cap ring = {.cap = caps[i], .args = {RING_ENTRIES * sizeof(struct kvm_dirty_gfn)}};
        kvm->rings = ioctl(kvm->host.fd, KVM_CHECK_EXTENSION, caps[i]) >= (int)ring.args[0] &&
                     ioctl(kvm->fd, KVM_ENABLE_CAP, &ring) == 0;
    }
}

int kvm_dirty_map_ring(struct kvm_cpu *k, struct error *err)
{
    if (!k->kvm->rings)
        return 0;
    void *ring = mmap(NULL, RING_ENTRIES * sizeof *k->ring, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd,
                      (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * (off_t)PAGE_SIZE);
    if (ring == MAP_FAILED)
        return error_set_errno(err, errno, "cannot map the dirty ring of vCPU %u", k->vcpu->index);
    k->ring = ring;
    return 0;
}

void kvm_dirty_add_cpu(struct kvm_cpu *k)
{
    lock_acquire(&k->kvm->dirty_lock);
    k->kvm->cpu[k->vcpu->index] = k;
    lock_drop(&k->kvm->dirty_lock);
}

void kvm_dirty_remove_cpu(struct kvm_cpu *k)
{
    if (k->ring)
        kvm_dirty_harvest(k->kvm); /* memory asks when there are no vCPUs any more */
    lock_acquire(&k->kvm->dirty_lock);
    k->kvm->cpu[k->vcpu->index] = NULL;
    lock_drop(&k->kvm->dirty_lock);
    if (k->ring)
        munmap(k->ring, RING_ENTRIES * sizeof *k->ring);
    k->ring = NULL;
}

/* --- the source of memory's log --- */

static int set_logging(struct kvm_vm *kvm, bool on)
{
    int r = 0;
    for (unsigned i = 0; i < KVM_SLOTS && r == 0; i++)
        r = kvm_set_slot(kvm, i, on);
    return r;
}

static int start(struct dirty_source *s)
{
    return set_logging(container_of(s, struct kvm_vm, dirty), true);
}

static void stop(struct dirty_source *s)
{
    (void)set_logging(container_of(s, struct kvm_vm, dirty), false);
}

static void collect(struct dirty_source *s)
{
    struct kvm_vm *kvm = container_of(s, struct kvm_vm, dirty);
    if (kvm->rings) {
        kvm_dirty_harvest(kvm);
        return;
    }
    for (unsigned i = 0; i < KVM_SLOTS; i++)
        if (kvm->slot[i].size)
            collect_slot(kvm, i);
}

int kvm_dirty_attach(struct kvm_vm *kvm, struct error *err)
{
    kvm->dirty = (struct dirty_source){.start = start, .stop = stop, .collect = collect};
    int r = memory_set_dirty_source(kvm->memory, &kvm->dirty);
    return r ? error_set_errno(err, -r, "KVM does not log what the guest writes") : 0;
}
