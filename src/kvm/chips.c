/*
 * Interrupt controllers in the kernel. The local APICs are its own, I/O APIC and 8259s stay in hw/ ("split"):
 * what a guest uses all the time costs no exit, what it uses while it starts is the same under each engine.
 * Or it has them all ("kernel"), and is told of the levels of lines.
 *
 * The kernel's chips work while vCPUs may run: kvm_chips_take() moves their state in, kvm_chips_give_back()
 * out again as soon as all are parked. So nobody else has to ask who has it, a message that comes while the
 * VM is paused waits in the chip of hw/, and timers stand still with virtual time.
 *
 * Messages of devices and of the I/O APIC go in by KVM_SIGNAL_MSI. The kernel tells the end of an interrupt
 * (KVM_EXIT_IOAPIC_EOI) for vectors of level-triggered routes, so each such pin of the I/O APIC has a route.
 * The 8259s' vectors are injected like those of a VM without APICs in the kernel (run.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "kvm/kvm-internal.h"

#define MSI_LEVEL BIT(15) /* of the data word: level-triggered (SDM vol. 3, 11.11.2) */

static struct kvm_vm *of(struct kernel_chips *c)
{
    return container_of(c, struct kvm_vm, chips);
}

/* --- routes --- */

/* The kernel's table of what becomes of a numbered interrupt. */
#define MAX_ROUTES (2 * IRQCHIP_PINS + KVM_LINES)
union routes {
    struct kvm_irq_routing table;
    u8 room[sizeof(struct kvm_irq_routing) + MAX_ROUTES * sizeof(struct kvm_irq_routing_entry)];
};

static struct kvm_irq_routing_entry *add(union routes *r, u32 gsi, u32 type)
{
    struct kvm_irq_routing_entry *e = &r->table.entries[r->table.nr++];
    *e = (struct kvm_irq_routing_entry){.gsi = gsi, .type = type};
    return e;
}

static void route_pin(union routes *r, u32 gsi, u32 chip, u32 pin)
{
    struct kvm_irq_routing_entry *e = add(r, gsi, KVM_IRQ_ROUTING_IRQCHIP);
    e->u.irqchip.irqchip = chip;
    e->u.irqchip.pin = pin;
}

/* The wiring of hw/irqchip.h. */
static void route_lines(union routes *r)
{
    for (u32 gsi = 0; gsi < IRQCHIP_PINS; gsi++) {
        if (gsi == 2)
            continue; /* the cascade of the 8259s; the pin is the timer's */
        if (gsi < 16)
            route_pin(r, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi & 7);
        route_pin(r, gsi, KVM_IRQCHIP_IOAPIC, gsi ? gsi : 2);
    }
}

static void route_message(union routes *r, u32 gsi, u64 addr, u32 data)
{
    struct kvm_irq_routing_entry *e = add(r, gsi, KVM_IRQ_ROUTING_MSI);
    e->u.msi.address_lo = (u32)addr;
    e->u.msi.address_hi = (u32)(addr >> 32);
    e->u.msi.data = data;
}

/* The first numbers are the I/O APIC's. */
static u32 line_gsi(u32 line)
{
    return IRQCHIP_PINS + line;
}

static int set_routes(const struct kvm_vm *kvm, struct error *err)
{
    union routes r = {.table = {.nr = 0}};

    if (kvm->all_chips)
        route_lines(&r);
    for (u32 pin = 0; pin < IRQCHIP_PINS; pin++)
        if (kvm->pin[pin].data & MSI_LEVEL)
            route_message(&r, pin, kvm->pin[pin].addr, kvm->pin[pin].data);
    for (u32 i = 0; i < KVM_LINES; i++)
        if (kvm->line[i].used)
            route_message(&r, line_gsi(i), kvm->line[i].addr, kvm->line[i].data);
    if (ioctl(kvm->fd, KVM_SET_GSI_ROUTING, &r.table) < 0)
        return error_set_errno(err, errno, "KVM does not take the routes of interrupts");
    return 0;
}

/* --- from the chips of hw/ --- */

static void message(struct kernel_chips *c, u64 addr, u32 data)
{
    struct kvm_msi msi = {.address_lo = (u32)addr, .address_hi = (u32)(addr >> 32), .data = data};
    if (ioctl(of(c)->fd, KVM_SIGNAL_MSI, &msi) < 0)
        log_guest("KVM does not take the message 0x%x to 0x%llx", data, (unsigned long long)addr);
}

static void level_pin(struct kernel_chips *c, unsigned pin, u64 addr, u32 data)
{
    struct kvm_vm *kvm = of(c);
    struct error err;
    bool was = kvm->pin[pin].data & MSI_LEVEL, is = data & MSI_LEVEL;
    if ((!was && !is) || (kvm->pin[pin].addr == addr && kvm->pin[pin].data == data))
        return;
    kvm->pin[pin].addr = addr;
    kvm->pin[pin].data = data;
    if (set_routes(kvm, &err) < 0)
        log_guest("%s", err.text);
}

static void set_line(struct kernel_chips *c, unsigned gsi, bool level)
{
    struct kvm_irq_level irq = {.irq = gsi, .level = level};
    if (ioctl(of(c)->fd, KVM_IRQ_LINE, &irq) < 0)
        log_guest("KVM does not take interrupt line %u", gsi);
}

/* --- messages with an eventfd --- */

static int find_line(const struct kvm_vm *kvm, bool used, int fd)
{
    for (int i = 0; i < KVM_LINES; i++)
        if (kvm->line[i].used == used && (!used || kvm->line[i].fd == fd))
            return i;
    return -1;
}

static int assign_line(const struct kvm_vm *kvm, int i, u32 flags)
{
    struct kvm_irqfd irqfd = {.fd = (u32)kvm->line[i].fd, .gsi = line_gsi((u32)i), .flags = flags};
    return ioctl(kvm->fd, KVM_IRQFD, &irqfd);
}

static void forget_line(struct kvm_vm *kvm, int i)
{
    close(kvm->line[i].fd);
    kvm->line[i].used = false;
}

/* What fails goes by message(). */
static int open_line(struct kernel_chips *c, u64 addr, u32 data)
{
    struct kvm_vm *kvm = of(c);
    struct error err;
    int i = kvm->irqfd ? find_line(kvm, false, -1) : -1;
    int fd = i < 0 ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return -1;
    kvm->line[i].used = true;
    kvm->line[i].fd = fd;
    kvm->line[i].addr = addr;
    kvm->line[i].data = data;
    if (set_routes(kvm, &err) == 0 && assign_line(kvm, i, 0) == 0) {
        trace(kvm, "message 0x%x to 0x%llx by eventfd", data, (unsigned long long)addr);
        return fd;
    }
    forget_line(kvm, i);
    return -1;
}

/* The kernel lets what is under way arrive first. The route stays until there is another change. */
static void close_line(struct kernel_chips *c, int fd)
{
    struct kvm_vm *kvm = of(c);
    int i = find_line(kvm, true, fd);
    if (i < 0)
        return;
    (void)assign_line(kvm, i, KVM_IRQFD_FLAG_DEASSIGN);
    forget_line(kvm, i);
}

static const struct kernel_chips_ops split_ops = {
    .message = message, .level_pin = level_pin, .open = open_line, .close = close_line};
static const struct kernel_chips_ops all_ops = {
    .message = message, .set_gsi = set_line, .open = open_line, .close = close_line};

/* --- the choice --- */

static bool has(const struct kvm_vm *kvm, int cap)
{
    return ioctl(kvm->host.fd, KVM_CHECK_EXTENSION, cap) > 0;
}

static int choose_split(struct kvm_vm *kvm)
{
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IRQCHIP_PINS}};
    if (!has(kvm, KVM_CAP_SIGNAL_MSI))
        errno = ENOTSUP;
    else if (ioctl(kvm->fd, KVM_ENABLE_CAP, &split) == 0)
        return 0;
    return -errno;
}

static int choose_all(struct kvm_vm *kvm)
{
    if (!has(kvm, KVM_CAP_SIGNAL_MSI) || !has(kvm, KVM_CAP_IRQ_ROUTING) || !has(kvm, KVM_CAP_IRQCHIP))
        errno = ENOTSUP;
    else if (ioctl(kvm->fd, KVM_CREATE_IRQCHIP, 0) == 0)
        return 0;
    return -errno;
}

int kvm_chips_choose(struct kvm_vm *kvm, const struct vm *vm, struct error *err)
{
    enum kernel_irqchip wanted = vm->kernel_irqchip;
    bool all = wanted == KERNEL_IRQCHIP_WHOLE;

    if (!vm->irqchip || wanted == KERNEL_IRQCHIP_NONE)
        return 0;
    if (wanted == KERNEL_IRQCHIP_AUTO && kvm_gives_up(&kvm->host))
        return 0; /* see docs/kvm.md, K13 */
    int r = all ? choose_all(kvm) : choose_split(kvm);
    if (r && wanted == KERNEL_IRQCHIP_AUTO)
        return 0;
    if (r)
        return error_set_errno(err, -r, "KVM here has no %sinterrupt controllers: say irqchip=%s",
                               all ? "" : "split ", all ? "split" : "none");
    kvm->apics = true;
    kvm->all_chips = all;
    kvm->irqfd = vm->irqfd && has(kvm, KVM_CAP_IRQFD) && has(kvm, KVM_CAP_IRQ_ROUTING);
    kvm->chips.ops = all ? &all_ops : &split_ops;
    return all ? set_routes(kvm, err) : 0;
}

/* --- state --- */

static int refused(struct kvm_cpu *k, const char *what)
{
    return error_set_errno(&k->vcpu->error, errno, "KVM refuses %s of vCPU %u", what, k->vcpu->index);
}

/* The base first, which decides the format; the deadline after the mode of the timer and the TSC. */
static int put_in(struct kvm_cpu *k)
{
    struct irqchip *chip = k->vcpu->vm->irqchip;
    struct apic_image image;

    chip->ops->get_apic(chip, k->vcpu, &image);
    if (kvm_push_tsc(k) != 0)
        return -EIO;
    if (kvm_one_msr(k->fd, KVM_SET_MSRS, MSR_APIC_BASE, &image.base) != 0)
        return refused(k, "the APIC's address");
    if (ioctl(k->fd, KVM_SET_LAPIC, image.page) < 0)
        return refused(k, "the APIC");
    (void)kvm_one_msr(k->fd, KVM_SET_MSRS, MSR_TSC_DEADLINE, &image.tsc_deadline);
    (void)kvm_one_msr(k->fd, KVM_SET_MSRS, MSR_KVM_PV_EOI_EN, &image.pv_eoi);
    k->apic_base = image.base;
    k->cr8 = chip->ops->get_cr8(chip, k->vcpu);
    return 0;
}

static int take_out(struct kvm_cpu *k, struct apic_image *image)
{
    *image = (struct apic_image){.pv_eoi = 0};
    if (ioctl(k->fd, KVM_GET_LAPIC, image->page) < 0 ||
        kvm_one_msr(k->fd, KVM_GET_MSRS, MSR_APIC_BASE, &image->base) != 0)
        return refused(k, "to show the APIC");
    (void)kvm_one_msr(k->fd, KVM_GET_MSRS, MSR_TSC_DEADLINE, &image->tsc_deadline);
    (void)kvm_one_msr(k->fd, KVM_GET_MSRS, MSR_KVM_PV_EOI_EN, &image->pv_eoi);
    return 0;
}

/* The chips that all share come after the local APICs, to which the kernel's I/O APIC may send at once. */
static int put_in_shared(struct kvm_vm *kvm, const struct vm *vm, struct error *err)
{
    struct chips_image image;
    vm->irqchip->ops->get_chips(vm->irqchip, &image);
    for (u32 id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        kvm_chip_from_image(&chip, &image);
        if (ioctl(kvm->fd, KVM_SET_IRQCHIP, &chip) < 0)
            return error_set_errno(err, errno, "KVM refuses the state of interrupt controller %u", id);
    }
    return 0;
}

static int take_out_shared(struct kvm_vm *kvm, struct vm *vm, struct error *err)
{
    struct chips_image image;
    for (u32 id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
        struct kvm_irqchip chip = {.chip_id = id};
        if (ioctl(kvm->fd, KVM_GET_IRQCHIP, &chip) < 0)
            return error_set_errno(err, errno, "KVM refuses to show interrupt controller %u", id);
        kvm_chip_to_image(&chip, &image);
    }
    vm->irqchip->ops->put_chips(vm->irqchip, &image);
    return 0;
}

int kvm_chips_take(struct vm *vm, struct error *err)
{
    struct kvm_vm *kvm = vm->engine_data;
    int r = 0;

    if (!kvm->apics || vm->irqchip->kernel)
        return 0;
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_serve_signals(vm->vcpus[i]); /* that came by the other chips */
    lock_acquire(&vm->machine_lock);
    for (unsigned i = 0; i < vm->vcpu_count && r == 0; i++) {
        r = put_in(kvm->cpu[i]);
        if (r)
            *err = kvm->cpu[i]->vcpu->error;
    }
    if (r == 0 && kvm->all_chips)
        r = put_in_shared(kvm, vm, err);
    if (r == 0)
        vm->irqchip->ops->set_kernel(vm->irqchip, &kvm->chips);
    lock_drop(&vm->machine_lock);
    return r;
}

/* An APIC that cannot be had back stays as it was; the VM ends. */
void kvm_chips_give_back(struct vm *vm)
{
    struct kvm_vm *kvm = vm->engine_data;
    struct irqchip *chip = vm->irqchip;
    const struct error *failed = NULL;
    struct error err;

    if (!kvm || !kvm->apics || !chip->kernel)
        return;
    lock_acquire(&vm->machine_lock);
    chip->ops->set_kernel(chip, NULL);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct apic_image image;
        if (take_out(kvm->cpu[i], &image) == 0)
            chip->ops->put_apic(chip, vm->vcpus[i], &image);
        else
            failed = &vm->vcpus[i]->error;
    }
    if (kvm->all_chips && take_out_shared(kvm, vm, &err) < 0)
        failed = &err;
    lock_drop(&vm->machine_lock);
    if (failed)
        vm_end_error(vm, failed);
}

/* --- HLT, INIT and SIPI are the kernel's too --- */

static const struct {
    u32 kernel;
    u8 ours;
} mp_states[] = {
    {KVM_MP_STATE_RUNNABLE, VCPU_MP_RUNNABLE},
    {KVM_MP_STATE_HALTED, VCPU_MP_HALTED},
    {KVM_MP_STATE_INIT_RECEIVED, VCPU_MP_WAIT_SIPI}, /* one that is not initialized takes no SIPI */
    {KVM_MP_STATE_UNINITIALIZED, VCPU_MP_WAIT_SIPI},
};

int kvm_push_mp_state(struct kvm_cpu *k)
{
    for (unsigned i = 0; k->kvm->apics && i < ARRAY_SIZE(mp_states); i++) {
        struct kvm_mp_state mp = {.mp_state = mp_states[i].kernel};
        if (mp_states[i].ours == k->vcpu->state.mp_state)
            return ioctl(k->fd, KVM_SET_MP_STATE, &mp) < 0 ? refused(k, "the run state") : 0;
    }
    return 0;
}

int kvm_fetch_mp_state(struct kvm_cpu *k)
{
    struct kvm_mp_state mp;
    if (!k->kvm->apics)
        return 0;
    if (ioctl(k->fd, KVM_GET_MP_STATE, &mp) < 0)
        return refused(k, "to show the run state");
    k->vcpu->state.mp_state = VCPU_MP_RUNNABLE;
    for (unsigned i = 0; i < ARRAY_SIZE(mp_states); i++)
        if (mp_states[i].kernel == mp.mp_state)
            k->vcpu->state.mp_state = mp_states[i].ours;
    return 0;
}
