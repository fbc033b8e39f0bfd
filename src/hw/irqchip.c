#include "hw/irqchip.h"

#include "base/log.h"
#include "cpu/vm.h"

static struct soft_irqchip *soft(struct irqchip *chip)
{
    return container_of(chip, struct soft_irqchip, chip);
}

static struct apic *apic_of(struct irqchip *chip, struct vcpu *vcpu)
{
    return &soft(chip)->apics.apic[vcpu->index];
}

/* --- towards the processors --- */

static void target_raise(void *owner, unsigned cpu, enum apic_signal signal)
{
    static const u32 request[] = {
        [APIC_SIGNAL_INTERRUPT] = VCPU_REQ_INTERRUPT,
        [APIC_SIGNAL_NMI] = VCPU_REQ_NMI,
        [APIC_SIGNAL_INIT] = VCPU_REQ_INIT,
    };
    struct soft_irqchip *s = owner;

    vcpu_request(s->vm->vcpus[cpu], request[signal]);
}

static void target_start(void *owner, unsigned cpu, u8 sipi_vector)
{
    struct soft_irqchip *s = owner;
    struct vcpu *vcpu = s->vm->vcpus[cpu];

    atomic_store(&vcpu->sipi_vector, sipi_vector);
    vcpu_request(vcpu, VCPU_REQ_SIPI);
}

static void target_lower(void *owner, unsigned cpu)
{
    struct soft_irqchip *s = owner;

    vcpu_request_clear(s->vm->vcpus[cpu], VCPU_REQ_INTERRUPT);
}

static i64 target_tsc_offset(void *owner, unsigned cpu)
{
    struct soft_irqchip *s = owner;

    return s->vm->vcpus[cpu]->state.tsc_offset;
}

static void target_eoi(void *owner, u8 vector)
{
    struct soft_irqchip *s = owner;

    ioapic_eoi(&s->ioapic, vector);
}

static u8 target_extint_ack(void *owner)
{
    struct soft_irqchip *s = owner;

    return pic_ack(&s->pic);
}

static const struct apic_target_ops target_ops = {
    .raise = target_raise,
    .start = target_start,
    .lower = target_lower,
    .tsc_offset = target_tsc_offset,
    .eoi = target_eoi,
    .extint_ack = target_extint_ack,
};

/* --- from the devices --- */

/* The kernel has the I/O APIC and the 8259s too. */
static bool all_in_kernel(const struct irqchip *chip)
{
    return chip->kernel && chip->kernel->ops->set_gsi;
}

static unsigned pin_of(unsigned gsi)
{
    return gsi == 0 ? 2 : gsi;
}

/* The lines stay here whoever has the chips. A kernel is told of changes only: two rises are two edges to it.
 */
static void tell_kernel(struct soft_irqchip *s, unsigned gsi, bool level)
{
    struct kernel_chips *k = s->chip.kernel;
    u32 pin = BIT(pin_of(gsi));
    u8 bit = BIT(gsi & 7);

    if (gsi >= IOAPIC_PINS || level == !!(s->ioapic.lines & pin))
        return;
    s->ioapic.lines ^= pin;
    if (gsi < 16) {
        u8 *lines = &s->pic.chip[gsi >> 3].lines;
        *lines = level ? *lines | bit : *lines & ~bit;
    }
    k->ops->set_gsi(k, gsi, level);
}

static void soft_set_gsi(struct irqchip *chip, unsigned gsi, bool level)
{
    struct soft_irqchip *s = soft(chip);

    trace(irq, "GSI %u is %u", gsi, level);
    if (all_in_kernel(chip)) {
        tell_kernel(s, gsi, level);
        return;
    }
    if (gsi < 16)
        pic_set_irq(&s->pic, gsi, level);
    ioapic_set_pin(&s->ioapic, pin_of(gsi), level);
}

static void soft_send_msi(struct irqchip *chip, u64 addr, u32 data)
{
    struct apic_message m;

    if (chip->kernel)
        chip->kernel->ops->message(chip->kernel, addr, data);
    else if (apic_decode_msi(addr, data, &m))
        apic_deliver(&soft(chip)->apics, &m);
    else
        log_guest("message signalled interrupt to 0x%llx, which is no APIC", (unsigned long long)addr);
}

static void open_line(struct irqchip *chip, struct msi_line *l)
{
    struct kernel_chips *k = chip->kernel;

    if (k && k->ops->open)
        l->fd = k->ops->open(k, l->addr, l->data);
}

static void close_line(struct irqchip *chip, struct msi_line *l)
{
    int fd = l->fd;

    l->fd = -1;
    if (fd >= 0)
        chip->kernel->ops->close(chip->kernel, fd);
}

static void soft_msi_line(struct irqchip *chip, struct msi_line *l)
{
    close_line(chip, l);
    list_remove(&l->link);
    if (!l->on)
        return;
    list_push_back(&soft(chip)->lines, &l->link);
    open_line(chip, l);
}

static bool ioapic_sends(void *owner, const struct apic_message *m)
{
    struct soft_irqchip *s = owner;
    u64 addr;
    u32 data;

    if (!s->chip.kernel)
        return apic_deliver(&s->apics, m);
    apic_encode_msi(m, &addr, &data);
    s->chip.kernel->ops->message(s->chip.kernel, addr, data);
    return true;
}

/* Chips in the kernel say when a level-triggered interrupt ends, if they know which ones are. */
static void ioapic_entry_written(void *owner, unsigned pin)
{
    struct soft_irqchip *s = owner;
    struct apic_message m = ioapic_message(&s->ioapic, pin);
    u64 addr;
    u32 data;

    if (!s->chip.kernel || all_in_kernel(&s->chip))
        return;
    apic_encode_msi(&m, &addr, &data);
    s->chip.kernel->ops->level_pin(s->chip.kernel, pin, addr, data);
}

static void pic_intr(void *owner, unsigned line, bool level)
{
    struct soft_irqchip *s = owner;

    if (all_in_kernel(&s->chip))
        return;
    if (!s->chip.kernel)
        apic_set_lint(&s->apics, line, level);
    else if (level)
        target_raise(s, 0, APIC_SIGNAL_INTERRUPT);
    else
        target_lower(s, 0);
}

/* --- from the processors --- */

static int soft_ack(struct irqchip *chip, struct vcpu *vcpu)
{
    return chip->kernel ? -1 : apic_ack(apic_of(chip, vcpu));
}

static u8 soft_get_cr8(struct irqchip *chip, struct vcpu *vcpu)
{
    return apic_get_cr8(apic_of(chip, vcpu));
}

static void soft_set_cr8(struct irqchip *chip, struct vcpu *vcpu, u8 value)
{
    apic_set_cr8(apic_of(chip, vcpu), value);
}

/*
 * An instruction that KVM did not know and that is executed elsewhere may ask for an APIC, of all things. One
 * in the kernel cannot be reached from here.
 */
static bool not_here(const struct irqchip *chip, u32 reg)
{
    if (chip->kernel)
        log_guest("access to APIC register 0x%x, which is in the kernel, is lost", reg);
    return chip->kernel;
}

static u32 soft_apic_read(struct irqchip *chip, struct vcpu *vcpu, u32 offset)
{
    if (not_here(chip, offset))
        return 0;
    return apic_read(apic_of(chip, vcpu), offset);
}

static void soft_apic_write(struct irqchip *chip, struct vcpu *vcpu, u32 offset, u32 value)
{
    if (not_here(chip, offset))
        return;
    if (offset == APIC_ICR)
        vcpu->counters.ipis++;
    apic_write(apic_of(chip, vcpu), offset, value);
}

static int soft_msr_read(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 *value)
{
    if (not_here(chip, index))
        return -1;
    return apic_msr_read(apic_of(chip, vcpu), index, value);
}

static int soft_msr_write(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 value)
{
    if (not_here(chip, index))
        return -1;
    if (index == MSR_X2APIC_FIRST + (APIC_ICR >> 4) || index == MSR_X2APIC_FIRST + (APIC_SELF_IPI >> 4))
        vcpu->counters.ipis++;
    return apic_msr_write(apic_of(chip, vcpu), index, value);
}

static u64 soft_apic_page(struct irqchip *chip, struct vcpu *vcpu)
{
    return apic_page(apic_of(chip, vcpu));
}

static void soft_vcpu_reset(struct irqchip *chip, struct vcpu *vcpu, bool init)
{
    apic_reset(apic_of(chip, vcpu), init);
}

static void soft_set_pv_eoi(struct irqchip *chip, struct vcpu *vcpu, u64 msr)
{
    apic_set_pv_eoi(apic_of(chip, vcpu), msr);
}

static void soft_tsc_changed(struct irqchip *chip, struct vcpu *vcpu)
{
    apic_tsc_changed(apic_of(chip, vcpu));
}

/* --- chips in the kernel --- */

static void soft_set_kernel(struct irqchip *chip, struct kernel_chips *k)
{
    struct soft_irqchip *s = soft(chip);
    bool intr = pic_pending(&s->pic);
    struct msi_line *l;

    list_for_each (l, &s->lines, link)
        close_line(chip, l);
    chip->kernel = k;
    s->pic.elsewhere = s->ioapic.elsewhere = all_in_kernel(chip);
    list_for_each (l, &s->lines, link)
        open_line(chip, l);
    for (unsigned i = 0; k && i < s->apics.count; i++)
        apic_suspend(&s->apics.apic[i]);
    s->apics.lint[0] = intr && !k; /* no edge: put_apic() looks at the level */
    if (all_in_kernel(chip))
        return;
    for (unsigned pin = 0; k && pin < IOAPIC_PINS; pin++)
        ioapic_entry_written(s, pin);
    if (k && intr)
        pic_intr(s, 0, true);
}

static void soft_get_apic(struct irqchip *chip, struct vcpu *vcpu, struct apic_image *image)
{
    apic_get_image(apic_of(chip, vcpu), image);
}

static void soft_put_apic(struct irqchip *chip, struct vcpu *vcpu, const struct apic_image *image)
{
    apic_put_image(apic_of(chip, vcpu), image);
}

static void soft_get_chips(struct irqchip *chip, struct chips_image *image)
{
    struct soft_irqchip *s = soft(chip);

    pic_get_image(&s->pic, image);
    ioapic_get_image(&s->ioapic, image);
}

/* A request of the 8259s that the kernel had seen is no new edge at LINT0. */
static void soft_put_chips(struct irqchip *chip, const struct chips_image *image)
{
    struct soft_irqchip *s = soft(chip);

    s->apics.lint[0] = true;
    pic_put_image(&s->pic, image);
    apic_set_lint(&s->apics, 0, pic_pending(&s->pic));
    ioapic_put_image(&s->ioapic, image);
    ioapic_service(&s->ioapic);
}

static int soft_ack_extint(struct irqchip *chip)
{
    struct soft_irqchip *s = soft(chip);

    return pic_pending(&s->pic) ? pic_ack(&s->pic) : -1;
}

static void soft_eoi(struct irqchip *chip, u8 vector)
{
    ioapic_eoi(&soft(chip)->ioapic, vector);
}

static const struct irqchip_ops soft_ops = {
    .set_gsi = soft_set_gsi,
    .send_msi = soft_send_msi,
    .msi_line = soft_msi_line,
    .ack = soft_ack,
    .get_cr8 = soft_get_cr8,
    .set_cr8 = soft_set_cr8,
    .apic_read = soft_apic_read,
    .apic_write = soft_apic_write,
    .msr_read = soft_msr_read,
    .msr_write = soft_msr_write,
    .apic_page = soft_apic_page,
    .vcpu_reset = soft_vcpu_reset,
    .set_pv_eoi = soft_set_pv_eoi,
    .tsc_changed = soft_tsc_changed,
    .set_kernel = soft_set_kernel,
    .get_apic = soft_get_apic,
    .put_apic = soft_put_apic,
    .get_chips = soft_get_chips,
    .put_chips = soft_put_chips,
    .ack_extint = soft_ack_extint,
    .eoi = soft_eoi,
};

/* --- life cycle --- */

/* Where a kernel's I/O APIC may take over, which is an 82093AA, the one here is no other to begin with. */
int soft_irqchip_init(struct soft_irqchip *s, struct vm *vm, struct error *err)
{
    bool like_kernel = vm->kernel_irqchip == KERNEL_IRQCHIP_WHOLE;
    struct apic_config config = {
        .cpus = vm->vcpu_count,
        .maxphyaddr = vm->cpuid && vm->cpuid->maxphyaddr ? vm->cpuid->maxphyaddr : 40,
        .x2apic = !vm->cpuid || cpuid_has(vm->cpuid, CPUID_X2APIC),
        .always_broadcasts = like_kernel,
        .memory = vm->memory,
        .loop = vm->loop,
        .clock = &vm->clock,
        .ops = &target_ops,
        .owner = s,
    };
    struct irq_line intr = {.set = pic_intr, .owner = s, .line = 0};
    int r;

    memset(s, 0, sizeof *s);
    s->chip.ops = &soft_ops;
    list_init(&s->lines);
    s->vm = vm;
    r = apic_set_init(&s->apics, &config, err);
    if (r)
        return r;
    r = ioapic_init(&s->ioapic, vm->memory, ioapic_sends, s, err);
    if (r)
        goto no_ioapic;
    s->ioapic.entry_written = ioapic_entry_written;
    if (like_kernel)
        s->ioapic.version = IOAPIC_VERSION_82093AA;
    r = pic_init(&s->pic, vm->memory, intr, err);
    if (r)
        goto no_pic;
    return 0;

no_pic:
    ioapic_release(&s->ioapic);
no_ioapic:
    apic_set_release(&s->apics);
    return r;
}

void soft_irqchip_release(struct soft_irqchip *s)
{
    pic_release(&s->pic);
    ioapic_release(&s->ioapic);
    apic_set_release(&s->apics);
}

static void chip_set_gsi(void *owner, unsigned line, bool level)
{
    struct irqchip *chip = owner;

    chip->ops->set_gsi(chip, line, level);
}

struct irq_line irqchip_gsi(struct irqchip *chip, unsigned gsi)
{
    return (struct irq_line){.set = chip_set_gsi, .owner = chip, .line = gsi};
}

static void chip_send_msi(void *owner, u64 addr, u32 data)
{
    struct irqchip *chip = owner;

    chip->ops->send_msi(chip, addr, data);
}

static void chip_line_changed(void *owner, struct msi_line *l)
{
    struct irqchip *chip = owner;

    chip->ops->msi_line(chip, l);
}

struct msi_sink irqchip_msi(struct irqchip *chip)
{
    return (struct msi_sink){.send = chip_send_msi, .line_changed = chip_line_changed, .owner = chip};
}
