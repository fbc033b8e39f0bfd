/* The controllers of a PC together: how lines and messages reach vCPUs, and how the EOI comes back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "cpu/vm.h"
#include "hw/irqchip.h"

#define CPUS 2

struct fixture {
    struct memory memory;
    struct event_loop *loop;
    struct cpuid_table cpuid;
    struct vm vm;
    struct soft_irqchip chip;
};

/* No vCPU runs here: requests are only looked at. */
static void no_kick(struct vcpu *vcpu) {}

static const struct engine_ops no_engine = {.name = "none", .kick = no_kick};

static int setup(void **state)
{
    struct fixture *t = calloc(1, sizeof *t);

    assert_non_null(t);
    t->cpuid.maxphyaddr = 40;
    assert_int_equal(memory_init(&t->memory, 1 << 20, NULL), 0);
    t->loop = event_loop_new(NULL);
    assert_non_null(t->loop);
    assert_int_equal(vm_init(&t->vm, &t->memory, t->loop, &no_engine, &t->cpuid, CPUS, NULL), 0);
    event_loop_set_lock(t->loop, &t->vm.machine_lock);
    assert_int_equal(soft_irqchip_init(&t->chip, &t->vm, NULL), 0);
    t->vm.irqchip = &t->chip.chip;
    vm_reset_vcpus(&t->vm);
    lock_acquire(&t->vm.machine_lock);
    apic_set_virtual_wire(&t->chip.apics);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *t = *state;

    soft_irqchip_release(&t->chip);
    lock_drop(&t->vm.machine_lock);
    event_loop_set_lock(t->loop, NULL);
    vm_release(&t->vm);
    event_loop_free(t->loop);
    memory_release(&t->memory);
    free(t);
    return 0;
}

static struct irqchip *chip(struct fixture *t)
{
    return &t->chip.chip;
}

static int ack(struct fixture *t, unsigned cpu)
{
    return chip(t)->ops->ack(chip(t), t->vm.vcpus[cpu]);
}

static bool requested(struct fixture *t, unsigned cpu, u32 bits)
{
    return vcpu_requests(t->vm.vcpus[cpu]) & bits;
}

static void apic_set(struct fixture *t, unsigned cpu, u32 offset, u32 value)
{
    chip(t)->ops->apic_write(chip(t), t->vm.vcpus[cpu], offset, value);
}

static void set_gsi(struct fixture *t, unsigned gsi, bool level)
{
    struct irq_line line = irqchip_gsi(chip(t), gsi);

    irq_set(&line, level);
}

static void ioapic_entry(struct fixture *t, unsigned pin, u64 entry)
{
    memory_mmio_write(&t->memory, 0xfec00000, 0x11 + 2 * pin, 4);
    memory_mmio_write(&t->memory, 0xfec00010, entry >> 32, 4);
    memory_mmio_write(&t->memory, 0xfec00000, 0x10 + 2 * pin, 4);
    memory_mmio_write(&t->memory, 0xfec00010, (u32)entry, 4);
}

static void init_pics(struct fixture *t)
{
    static const u8 words[][2] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 4}, {0x21, 1}, {0x21, 0},
                                  {0xa0, 0x11}, {0xa1, 0x38}, {0xa1, 2}, {0xa1, 1}, {0xa1, 0}};

    for (unsigned n = 0; n < ARRAY_SIZE(words); n++)
        memory_pio_write(&t->memory, words[n][0], words[n][1], 1);
}

static void isa_interrupt_through_the_virtual_wire(void **state)
{
    struct fixture *t = *state;

    init_pics(t);
    set_gsi(t, 4, true);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
    assert_false(requested(t, 1, VCPU_REQ_INTERRUPT));
    assert_int_equal(ack(t, 0), 0x34);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
}

static void timer_is_pic_input_0_and_ioapic_pin_2(void **state)
{
    struct fixture *t = *state;

    init_pics(t);
    ioapic_entry(t, 2, 1ull << 56 | 0x41);
    apic_set(t, 1, APIC_SVR, 0x1ff);
    set_gsi(t, 0, true);
    assert_int_equal(ack(t, 0), 0x30);
    assert_int_equal(ack(t, 1), 0x41);
}

static void level_interrupt_repeats_after_eoi_while_asserted(void **state)
{
    struct fixture *t = *state;

    ioapic_entry(t, 16, 0x8051);
    set_gsi(t, 16, true);
    assert_int_equal(ack(t, 0), 0x51);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    apic_set(t, 0, APIC_EOI, 0);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
    assert_int_equal(ack(t, 0), 0x51);
    set_gsi(t, 16, false);
    apic_set(t, 0, APIC_EOI, 0);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
}

static void suppressed_broadcast_leaves_it_to_the_eoi_register(void **state)
{
    struct fixture *t = *state;

    apic_set(t, 0, APIC_SVR, 0x11ff);
    ioapic_entry(t, 16, 0x8051);
    set_gsi(t, 16, true);
    ack(t, 0);
    apic_set(t, 0, APIC_EOI, 0);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    memory_mmio_write(&t->memory, 0xfec00040, 0x51, 4);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
}

static void msi_reaches_its_processor(void **state)
{
    struct fixture *t = *state;
    struct msi_sink sink = irqchip_msi(chip(t));

    apic_set(t, 1, APIC_SVR, 0x1ff);
    msi_send(&sink, 0xfee01000, 0x61);
    assert_int_equal(ack(t, 1), 0x61);
    msi_send(&sink, 0x12345678, 0x62); /* not an APIC: vanishes */
    assert_int_equal(ack(t, 1), -1);
}

static void init_and_startup_become_requests(void **state)
{
    struct fixture *t = *state;

    apic_set(t, 0, APIC_ICR2, 1 << 24);
    apic_set(t, 0, APIC_ICR, 0x4500);
    assert_true(requested(t, 1, VCPU_REQ_INIT));
    assert_false(requested(t, 1, VCPU_REQ_SIPI));
    apic_set(t, 0, APIC_ICR, 0x4699);
    assert_true(requested(t, 1, VCPU_REQ_SIPI));
    assert_int_equal(atomic_load(&t->vm.vcpus[1]->sipi_vector), 0x99);
    assert_false(requested(t, 0, VCPU_REQ_INIT | VCPU_REQ_SIPI));
    assert_int_equal(t->vm.vcpus[0]->counters.ipis, 2);
}

static void nmi_becomes_a_request(void **state)
{
    struct fixture *t = *state;

    apic_set(t, 0, APIC_ICR2, 1 << 24);
    apic_set(t, 0, APIC_ICR, 0x4400);
    assert_true(requested(t, 1, VCPU_REQ_NMI));
}

static void cr8_holds_interrupts_back(void **state)
{
    struct fixture *t = *state;
    struct vcpu *vcpu = t->vm.vcpus[0];

    chip(t)->ops->set_cr8(chip(t), vcpu, 7);
    assert_int_equal(chip(t)->ops->get_cr8(chip(t), vcpu), 7);
    chip(t)->ops->send_msi(chip(t), 0xfee00000, 0x7f);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    chip(t)->ops->set_cr8(chip(t), vcpu, 6);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
}

static void reset_of_a_vcpu_resets_its_apic(void **state)
{
    struct fixture *t = *state;

    chip(t)->ops->send_msi(chip(t), 0xfee00000, 0x55);
    chip(t)->ops->vcpu_reset(chip(t), t->vm.vcpus[0], false);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    assert_int_equal(chip(t)->ops->apic_read(chip(t), t->vm.vcpus[0], APIC_SVR), 0xff);
    assert_int_equal(chip(t)->ops->apic_page(chip(t), t->vm.vcpus[0]), 0xfee00000);
}

static void gsis_that_do_not_exist_are_ignored(void **state)
{
    struct fixture *t = *state;

    set_gsi(t, 24, true);
    set_gsi(t, 4000, true);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
}

static void a_moved_tsc_moves_the_deadline(void **state)
{
    struct fixture *t = *state;
    struct vcpu *vcpu = t->vm.vcpus[0];

    apic_set(t, 0, APIC_LVT_TIMER, 0x400ec);
    assert_int_equal(chip(t)->ops->msr_write(chip(t), vcpu, MSR_TSC_DEADLINE, vcpu_tsc(vcpu) + (1ull << 40)),
                     0);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    vcpu->state.tsc_offset += 1ll << 41;
    chip(t)->ops->tsc_changed(chip(t), vcpu);
    assert_int_equal(ack(t, 0), 0xec);
}

/* --- chips in the kernel --- */

/* What such chips were told last. */
static struct {
    struct kernel_chips chips;
    unsigned messages, level_pin, lines;
    int opened, closed;
    u64 addr, level_addr;
    u32 data, level_data;
} kernel;

static void kernel_message(struct kernel_chips *k, u64 addr, u32 data)
{
    kernel.messages++;
    kernel.addr = addr;
    kernel.data = data;
}

static void kernel_level_pin(struct kernel_chips *k, unsigned pin, u64 addr, u32 data)
{
    if (!(data & BIT(15)))
        return;
    kernel.level_pin = pin;
    kernel.level_addr = addr;
    kernel.level_data = data;
}

static void kernel_set_gsi(struct kernel_chips *k, unsigned gsi, bool level)
{
    kernel.lines++;
    kernel.addr = gsi << 1 | level;
}

/* A number for each message, and none for 0x99. */
static int kernel_open(struct kernel_chips *k, u64 addr, u32 data)
{
    if (data == 0x99)
        return -1;
    kernel.opened++;
    return 1000 + (int)data;
}

static void kernel_close(struct kernel_chips *k, int fd)
{
    kernel.closed = fd;
    kernel.opened--;
}

static const struct kernel_chips_ops whole_ops = {
    .message = kernel_message, .set_gsi = kernel_set_gsi, .open = kernel_open, .close = kernel_close};
static const struct kernel_chips_ops kernel_ops = {.message = kernel_message, .level_pin = kernel_level_pin};

static void set_kernel(struct fixture *t, bool on)
{
    if (on) {
        memset(&kernel, 0, sizeof kernel);
        kernel.chips.ops = &kernel_ops;
    }
    chip(t)->ops->set_kernel(chip(t), on ? &kernel.chips : NULL);
}

/* A kernel that has all chips: what moved to it, and back again. */
static void set_whole_kernel(struct fixture *t, struct chips_image *image)
{
    chip(t)->ops->get_chips(chip(t), image);
    set_kernel(t, true);
    kernel.chips.ops = &whole_ops;
    chip(t)->ops->set_kernel(chip(t), &kernel.chips);
}

static void leave_whole_kernel(struct fixture *t, const struct chips_image *image)
{
    struct apic_image apic[CPUS];

    for (unsigned i = 0; i < CPUS; i++)
        chip(t)->ops->get_apic(chip(t), t->vm.vcpus[i], &apic[i]);
    set_kernel(t, false);
    for (unsigned i = 0; i < CPUS; i++)
        chip(t)->ops->put_apic(chip(t), t->vm.vcpus[i], &apic[i]);
    chip(t)->ops->put_chips(chip(t), image);
}

static void messages_go_to_apics_in_the_kernel(void **state)
{
    struct fixture *t = *state;

    ioapic_entry(t, 5, 1ull << 56 | 0x44);
    set_kernel(t, true);
    chip(t)->ops->send_msi(chip(t), 0xfee00000, 0x55);
    assert_int_equal(kernel.addr, 0xfee00000);
    assert_int_equal(kernel.data, 0x55);
    set_gsi(t, 5, true);
    assert_int_equal(kernel.messages, 2);
    assert_int_equal(kernel.addr, 0xfee01000);
    assert_int_equal(kernel.data, 0x44);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT) || requested(t, 1, VCPU_REQ_INTERRUPT));
}

static void a_kernel_knows_level_pins_and_tells_their_end(void **state)
{
    struct fixture *t = *state;

    ioapic_entry(t, 16, 0x8051);
    set_kernel(t, true);
    assert_int_equal(kernel.level_pin, 16);
    assert_int_equal(kernel.level_data, 0xc051);
    ioapic_entry(t, 17, 1ull << 56 | 0x8052);
    assert_int_equal(kernel.level_pin, 17);
    assert_int_equal(kernel.level_addr, 0xfee01000);
    set_gsi(t, 16, true);
    assert_int_equal(kernel.messages, 1);
    chip(t)->ops->eoi(chip(t), 0x51); /* still asserted */
    assert_int_equal(kernel.messages, 2);
    set_gsi(t, 16, false);
    chip(t)->ops->eoi(chip(t), 0x51);
    assert_int_equal(kernel.messages, 2);
}

static void pics_ask_for_themselves_beside_a_kernel(void **state)
{
    struct fixture *t = *state;

    init_pics(t);
    set_gsi(t, 4, true);
    set_kernel(t, true);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
    assert_int_equal(ack(t, 0), -1);
    assert_int_equal(chip(t)->ops->ack_extint(chip(t)), 0x34);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    assert_int_equal(chip(t)->ops->ack_extint(chip(t)), -1);
    set_gsi(t, 3, true);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
}

/* An APIC's image, and all that can be read of it. */
static void read_all(struct fixture *t, unsigned cpu, u32 out[64])
{
    for (u32 reg = 0; reg < 64; reg++)
        out[reg] =
            reg << 4 == APIC_TIMER_CURRENT ? 0 : chip(t)->ops->apic_read(chip(t), t->vm.vcpus[cpu], reg << 4);
}

static void an_apic_moves_to_a_kernel_and_back(void **state)
{
    struct fixture *t = *state;
    struct vcpu *vcpu = t->vm.vcpus[1];
    struct apic_image image;
    u32 before[64], after[64];

    apic_set(t, 1, APIC_SVR, 0x1ff);
    apic_set(t, 1, APIC_TPR, 0x25);
    apic_set(t, 1, APIC_LDR, 2 << 24);
    apic_set(t, 1, APIC_LVT_LINT0, 0x700);
    apic_set(t, 1, APIC_LVT_TIMER, 0x200ee);
    apic_set(t, 1, APIC_TIMER_DIVIDE, 0xb);
    apic_set(t, 1, APIC_TIMER_INITIAL, 0xfffffff0);
    chip(t)->ops->send_msi(chip(t), 0xfee01000, 0x91);
    assert_int_equal(ack(t, 1), 0x91);
    chip(t)->ops->send_msi(chip(t), 0xfee01000, 0xc0a1);
    chip(t)->ops->send_msi(chip(t), 0xfee01000, 0x92);
    read_all(t, 1, before);
    chip(t)->ops->get_apic(chip(t), vcpu, &image);
    set_kernel(t, true);
    assert_false(requested(t, 1, VCPU_REQ_INTERRUPT));
    assert_int_equal(get_le32(image.page + APIC_ID), 1 << 24);
    assert_int_equal(get_le32(image.page + APIC_TIMER_CURRENT), 0xfffffff0);
    chip(t)->ops->vcpu_reset(chip(t), vcpu, false);
    set_kernel(t, false);
    put_le32(image.page + APIC_TIMER_CURRENT, 0x12345678);
    chip(t)->ops->put_apic(chip(t), vcpu, &image);
    read_all(t, 1, after);
    assert_memory_equal(before, after, sizeof before);
    assert_int_equal(chip(t)->ops->apic_read(chip(t), vcpu, APIC_TIMER_CURRENT), 0x12345678);
    assert_true(requested(t, 1, VCPU_REQ_INTERRUPT));
    assert_int_equal(ack(t, 1), 0xa1);
}

/* A one-shot count that expired before it moved is over; one that did so in the kernel is told of here. */
static void an_expired_count_moves(void **state)
{
    struct fixture *t = *state;
    struct vcpu *vcpu = t->vm.vcpus[1];
    struct apic_image image;

    apic_set(t, 1, APIC_SVR, 0x1ff);
    apic_set(t, 1, APIC_LVT_TIMER, 0xee);
    apic_set(t, 1, APIC_TIMER_INITIAL, 0xfffffff0);
    chip(t)->ops->get_apic(chip(t), vcpu, &image);
    assert_int_equal(get_le32(image.page + APIC_TIMER_INITIAL), 0xfffffff0);
    set_kernel(t, true);
    put_le32(image.page + APIC_TIMER_CURRENT, 0);
    set_kernel(t, false);
    chip(t)->ops->put_apic(chip(t), vcpu, &image);
    assert_true(timer_armed(&t->chip.apics.apic[1].timer));
    assert_true(t->chip.apics.apic[1].timer_deadline <= MAX(vclock_ns(&t->vm.clock), 1ull));
    t->chip.apics.apic[1].timer_deadline = 0; /* it expired */
    chip(t)->ops->get_apic(chip(t), vcpu, &image);
    assert_int_equal(get_le32(image.page + APIC_TIMER_INITIAL), 0);
}

static void an_x2apic_moves_with_its_deadline(void **state)
{
    struct fixture *t = *state;
    struct vcpu *vcpu = t->vm.vcpus[0];
    const struct irqchip_ops *ops = chip(t)->ops;
    struct apic_image image;
    u64 value, far = vcpu_tsc(vcpu) + (1ull << 50);

    t->chip.apics.x2apic = true;
    assert_int_equal(ops->msr_write(chip(t), vcpu, MSR_APIC_BASE, 0xfee00d00), 0);
    assert_int_equal(ops->msr_write(chip(t), vcpu, 0x832, 0x400ef), 0);
    assert_int_equal(ops->msr_write(chip(t), vcpu, MSR_TSC_DEADLINE, far), 0);
    ops->get_apic(chip(t), vcpu, &image);
    assert_int_equal(image.base, 0xfee00d00);
    assert_int_equal(image.tsc_deadline, far);
    assert_int_equal(get_le32(image.page + APIC_LDR), 1);
    ops->vcpu_reset(chip(t), vcpu, false);
    ops->put_apic(chip(t), vcpu, &image);
    assert_int_equal(ops->msr_read(chip(t), vcpu, MSR_TSC_DEADLINE, &value), 0);
    assert_int_equal(value, far);
    assert_int_equal(ops->msr_read(chip(t), vcpu, 0x80d, &value), 0);
    assert_int_equal(value, 1);
}

static void a_whole_kernel_hears_changes_of_lines(void **state)
{
    struct fixture *t = *state;
    struct chips_image image;

    init_pics(t);
    ioapic_entry(t, 5, 0x45);
    set_gsi(t, 4, true);
    set_whole_kernel(t, &image);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
    set_gsi(t, 4, true); /* as it was */
    assert_int_equal(kernel.lines, 0);
    set_gsi(t, 5, true);
    assert_int_equal(kernel.addr, 5 << 1 | 1);
    set_gsi(t, 5, true);
    set_gsi(t, 0, true);
    assert_int_equal(kernel.addr, 1);
    set_gsi(t, 20, true);
    assert_int_equal(kernel.addr, 20 << 1 | 1);
    set_gsi(t, 4, false);
    assert_int_equal(kernel.addr, 4 << 1);
    set_gsi(t, 200, true);
    assert_int_equal(kernel.lines, 4);
    assert_int_equal(kernel.messages, 0);
    assert_int_equal(t->chip.pic.chip[0].lines, 0x21);
    assert_int_equal(t->chip.ioapic.lines, 1 << 20 | 1 << 5 | 1 << 2);
    assert_false(requested(t, 0, VCPU_REQ_INTERRUPT));
}

/* By an instruction that is executed here although the chips are there. */
static void an_access_to_chips_in_the_kernel_is_lost(void **state)
{
    struct fixture *t = *state;
    struct chips_image image, again;

    init_pics(t);
    memory_pio_write(&t->memory, 0x4d1, 0x08, 1);
    ioapic_entry(t, 5, 0x45);
    set_gsi(t, 5, true);
    set_whole_kernel(t, &image);
    chip(t)->ops->get_chips(chip(t), &image);
    memory_pio_write(&t->memory, 0x20, 0x20, 1);
    memory_pio_write(&t->memory, 0x21, 0xff, 1);
    memory_pio_write(&t->memory, 0x4d1, 0x02, 1);
    ioapic_entry(t, 5, 0x8051);
    assert_int_equal(memory_pio_read(&t->memory, 0xa1, 1), 0);
    assert_int_equal(memory_pio_read(&t->memory, 0x4d1, 1), 0);
    assert_int_equal(memory_mmio_read(&t->memory, 0xfec00010, 4), 0);
    assert_int_equal(kernel.messages, 0);
    chip(t)->ops->get_chips(chip(t), &again);
    assert_memory_equal(image.pic, again.pic, sizeof image.pic);
    assert_memory_equal(image.redir, again.redir, sizeof image.redir);
    leave_whole_kernel(t, &image);
    assert_int_equal(memory_pio_read(&t->memory, 0x4d1, 1), 0x08);
}

static void the_8259s_move_to_a_kernel_and_back(void **state)
{
    struct fixture *t = *state;
    struct chips_image image, again;

    init_pics(t);
    memory_pio_write(&t->memory, 0x4d1, 0x08, 1); /* 11 is level-triggered */
    memory_pio_write(&t->memory, 0x20, 0xc3, 1);  /* 3 has the lowest priority */
    memory_pio_write(&t->memory, 0xa1, 0x40, 1);
    set_gsi(t, 12, true);
    assert_int_equal(ack(t, 0), 0x3c);
    set_gsi(t, 6, true);
    set_gsi(t, 11, true);
    set_whole_kernel(t, &image);
    assert_int_equal(image.pic[0].base, 0x30);
    assert_int_equal(image.pic[0].highest, 4);
    assert_int_equal(image.pic[0].irr, 0x44);
    assert_int_equal(image.pic[0].isr, 0x04);
    assert_int_equal(image.pic[1].isr, 0x10);
    assert_int_equal(image.pic[1].imr, 0x40);
    assert_int_equal(image.pic[1].elcr, 0x08);
    assert_int_equal(image.pic[1].lines, 0x18);
    assert_true(image.pic[0].icw4);
    leave_whole_kernel(t, &image);
    chip(t)->ops->get_chips(chip(t), &again);
    assert_memory_equal(image.pic, again.pic, sizeof image.pic);
    assert_int_equal(ack(t, 0), 0x36);
}

/* The guest has ended a level-triggered interrupt meanwhile, and its line fell and another one rose. */
static void levels_are_those_of_the_lines_after_a_kernel(void **state)
{
    struct fixture *t = *state;
    struct chips_image image;

    init_pics(t);
    memory_pio_write(&t->memory, 0x4d1, 0x0c, 1);
    apic_set(t, 0, APIC_SVR, 0x1ff);
    apic_set(t, 0, APIC_LVT_LINT0, APIC_LVT_MASKED);
    ioapic_entry(t, 16, 0x8051);
    ioapic_entry(t, 17, 0x8052);
    set_gsi(t, 10, true);
    set_gsi(t, 16, true);
    assert_int_equal(ack(t, 0), 0x51);
    set_whole_kernel(t, &image);
    assert_int_equal(image.asserted, 1 << 16);
    assert_int_equal(image.redir[16], 0xc051);
    set_gsi(t, 10, false);
    set_gsi(t, 11, true);
    set_gsi(t, 16, false);
    set_gsi(t, 17, true);
    image.redir[16] &= ~IOAPIC_REMOTE_IRR;
    leave_whole_kernel(t, &image);
    assert_int_equal(t->chip.pic.chip[1].irr, 0x08);
    assert_int_equal(ack(t, 0), -1); /* 0x51 is still in service */
    apic_set(t, 0, APIC_EOI, 0);
    assert_int_equal(ack(t, 0), 0x52);
    apic_set(t, 0, APIC_EOI, 0); /* still asserted */
    assert_int_equal(ack(t, 0), 0x52);
}

/* What was a rise of INTR is none again, and what it asks for is not forgotten. */
static void intr_is_no_edge_after_a_kernel(void **state)
{
    struct fixture *t = *state;
    struct chips_image image;

    init_pics(t);
    apic_set(t, 1, APIC_SVR, 0x1ff);
    apic_set(t, 1, APIC_LVT_LINT0, 0x61); /* fixed */
    set_whole_kernel(t, &image);
    set_gsi(t, 4, true);
    image.pic[0].irr |= 0x10;
    leave_whole_kernel(t, &image);
    assert_int_equal(ack(t, 1), -1);
    assert_true(requested(t, 0, VCPU_REQ_INTERRUPT));
    assert_int_equal(ack(t, 0), 0x34);
}

static void messages_of_devices_have_a_way_while_a_kernel_gives_one(void **state)
{
    struct fixture *t = *state;
    struct msi_sink sink = irqchip_msi(chip(t));
    struct chips_image image;
    struct msi_line a, b;

    msi_line_init(&a);
    msi_line_init(&b);
    msi_line_set(&sink, &a, true, 0xfee00000, 0x51);
    assert_int_equal(a.fd, -1);
    set_whole_kernel(t, &image);
    assert_int_equal(a.fd, 1000 + 0x51);
    msi_line_set(&sink, &b, true, 0xfee00000, 0x52);
    assert_int_equal(b.fd, 1000 + 0x52);
    msi_line_set(&sink, &b, true, 0xfee00000, 0x53);
    assert_int_equal(kernel.closed, 1000 + 0x52);
    assert_int_equal(b.fd, 1000 + 0x53);
    assert_int_equal(kernel.opened, 2);
    msi_line_set(&sink, &b, true, 0xfee00000, 0x99);
    assert_int_equal(b.fd, -1);
    msi_line_set(&sink, &b, true, 0xfee00000, 0x54);
    msi_line_set(&sink, &a, false, 0, 0);
    assert_int_equal(a.fd, -1);
    leave_whole_kernel(t, &image);
    assert_int_equal(b.fd, -1);
    assert_int_equal(kernel.opened, 0);
    msi_line_set(&sink, &b, false, 0, 0);
}

static void chips_like_a_kernel_s_tell_every_apic_s_end(void **state)
{
    struct fixture *t = *state;

    soft_irqchip_release(&t->chip);
    t->vm.kernel_irqchip = KERNEL_IRQCHIP_WHOLE;
    assert_int_equal(soft_irqchip_init(&t->chip, &t->vm, NULL), 0);
    memory_mmio_write(&t->memory, 0xfec00000, 1, 4);
    assert_int_equal(memory_mmio_read(&t->memory, 0xfec00010, 4), 0x170011);
    apic_set(t, 0, APIC_SVR, 0x11ff);
    assert_int_equal(chip(t)->ops->apic_read(chip(t), t->vm.vcpus[0], APIC_SVR), 0x1ff);
    assert_int_equal(chip(t)->ops->apic_read(chip(t), t->vm.vcpus[0], APIC_VERSION) >> 24, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(isa_interrupt_through_the_virtual_wire),
        T(timer_is_pic_input_0_and_ioapic_pin_2),
        T(level_interrupt_repeats_after_eoi_while_asserted),
        T(suppressed_broadcast_leaves_it_to_the_eoi_register),
        T(msi_reaches_its_processor),
        T(init_and_startup_become_requests),
        T(nmi_becomes_a_request),
        T(cr8_holds_interrupts_back),
        T(reset_of_a_vcpu_resets_its_apic),
        T(gsis_that_do_not_exist_are_ignored),
        T(a_moved_tsc_moves_the_deadline),
        T(messages_go_to_apics_in_the_kernel),
        T(a_kernel_knows_level_pins_and_tells_their_end),
        T(pics_ask_for_themselves_beside_a_kernel),
        T(an_apic_moves_to_a_kernel_and_back),
        T(an_expired_count_moves),
        T(an_x2apic_moves_with_its_deadline),
        T(a_whole_kernel_hears_changes_of_lines),
        T(an_access_to_chips_in_the_kernel_is_lost),
        T(the_8259s_move_to_a_kernel_and_back),
        T(levels_are_those_of_the_lines_after_a_kernel),
        T(intr_is_no_edge_after_a_kernel),
        T(messages_of_devices_have_a_way_while_a_kernel_gives_one),
        T(chips_like_a_kernel_s_tell_every_apic_s_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
