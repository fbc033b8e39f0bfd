/*
 * Doorbells of devices (struct io_doorbells in memory/memory.h) without an exit: the kernel adds to an
 * eventfd where the guest writes (KVM_IOEVENTFD), and the event loop does the write in the vCPU's place. The
 * vCPU goes on sooner, the device hears of it later, by a thread that has to wake up: see bench/exits.
 *
 * A doorbell that was rung before a vCPU parked is served before anybody looks at the device's state: park()
 * serves what is pending, and so does whoever takes a doorbell away.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "kvm/kvm-internal.h"

struct bell {
    struct event_source source;
    struct io_region *region;
    u64 offset; /* in the region */
    u64 gpa;
    struct list link; /* in kvm_vm.bells */
};

static void serve(struct bell *b)
{
    u64 times;
    if (read(b->source.fd, &times, sizeof times) == (ssize_t)sizeof times)
        b->region->ops->write(b->region, b->offset, 0, 2);
}

static void ready(struct event_source *s, u32 events)
{
    serve(container_of(s, struct bell, source));
}

/* Any width of write, where the kernel knows that. */
static int assign(const struct kvm_vm *kvm, u64 gpa, int fd, u32 flags)
{
    bool any = ioctl(kvm->host.fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
    struct kvm_ioeventfd e = {.addr = gpa, .len = any ? 0 : 2, .fd = fd, .flags = flags};
    return ioctl(kvm->fd, KVM_IOEVENTFD, &e);
}

static void take_away(const struct kvm_vm *kvm, struct bell *b)
{
    int fd = b->source.fd;
    (void)assign(kvm, b->gpa, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
    serve(b);
    event_source_remove(&b->source);
    close(fd);
    list_remove(&b->link);
    free(b);
}

/* What fails stays an exit. */
static void give(struct kvm_vm *kvm, struct io_region *r, u64 offset)
{
    struct bell *b = calloc(1, sizeof *b);
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct error err;
    if (b && fd >= 0) {
        *b = (struct bell){.region = r, .offset = offset, .gpa = r->base + offset};
        if (event_source_add(&b->source, kvm->loop, fd, EPOLLIN, ready, &err) == 0) {
            if (assign(kvm, b->gpa, fd, 0) == 0) {
                list_push_back(&kvm->bells, &b->link);
                trace(kvm, "doorbell at 0x%llx without an exit", (unsigned long long)b->gpa);
                return;
            }
            event_source_remove(&b->source);
        }
    }
    if (fd >= 0)
        close(fd);
    free(b);
}

static void region_mapped(struct doorbell_watch *w, struct io_region *r, bool mapped)
{
    struct kvm_vm *kvm = container_of(w, struct kvm_vm, doorbells);
    struct bell *b, *next;
    for (u32 i = 0; mapped && i < r->doorbells.count; i++)
        give(kvm, r, r->doorbells.offset + (u64)i * r->doorbells.stride);
    list_for_each_safe (b, next, &kvm->bells, link)
        if (!mapped && b->region == r)
            take_away(kvm, b);
}

void kvm_doorbells_attach(struct kvm_vm *kvm, struct vm *vm)
{
    list_init(&kvm->bells);
    kvm->loop = vm->loop;
    if (!vm->ioeventfd || !vm->loop || ioctl(kvm->host.fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD) <= 0)
        return;
    kvm->doorbells.mapped = region_mapped;
    lock_acquire(&vm->machine_lock);
    memory_set_doorbell_watch(vm->memory, &kvm->doorbells);
    lock_drop(&vm->machine_lock);
}

void kvm_doorbells_detach(struct kvm_vm *kvm, struct vm *vm)
{
    if (!kvm->doorbells.mapped)
        return;
    lock_acquire(&vm->machine_lock);
    memory_set_doorbell_watch(vm->memory, NULL);
    lock_drop(&vm->machine_lock);
}

void kvm_doorbells_serve(struct kvm_vm *kvm, struct vm *vm)
{
    struct bell *b;
    if (!kvm->doorbells.mapped)
        return;
    lock_acquire(&vm->machine_lock);
    list_for_each (b, &kvm->bells, link)
        serve(b);
    lock_drop(&vm->machine_lock);
}
