/* Local APICs, from SDM vol. 3, "Advanced Programmable Interrupt Controller". */
#include "apic-fixture.h"

/* --- reset state --- */

static void power_on_values(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 2);

    apic_reset(a, false);
    assert_int_equal(apic_read(a, APIC_ID), 2 << 24);
    assert_int_equal(apic_read(a, APIC_VERSION) & 0xff00ff, 0x050014);
    assert_int_equal(apic_read(a, APIC_DFR), 0xffffffff);
    assert_int_equal(apic_read(a, APIC_SVR), 0xff);
    assert_int_equal(apic_read(a, APIC_LVT_LINT0), 0x10000);
    assert_int_equal(apic_read(a, APIC_LVT_TIMER), 0x10000);
    assert_int_equal(apic_read(a, APIC_TIMER_DIVIDE), 0);
    assert_int_equal(a->base, BASE_DEFAULT);
    assert_int_equal(cpu(t, 0)->base, BASE_DEFAULT | APIC_BASE_BSP);
    assert_int_equal(apic_page(a), 0xfee00000);
}

static void init_keeps_the_mode(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 1);

    enter_x2apic(a);
    fixed(t, 1, 0x40);
    apic_reset(a, true);
    assert_int_equal(a->base, BASE_DEFAULT | APIC_BASE_EXTD);
    assert_int_equal(msr(a, MSR(APIC_SVR)), 0xff);
    assert_false(t->requested[1]);
}

static void too_many_processors_are_refused(void **state)
{
    struct fixture *t = *state;
    struct apic_config config = {.cpus = 17, .maxphyaddr = 40, .ops = &target_ops, .owner = t};
    struct apic_set *s = calloc(1, sizeof *s);

    assert_int_equal(apic_set_init(s, &config, NULL), -EINVAL);
    config.cpus = 0;
    assert_int_equal(apic_set_init(s, &config, NULL), -EINVAL);
    free(s);
}

/* --- acceptance and priority --- */

static void fixed_interrupt_goes_irr_isr_eoi(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    assert_true(fixed(t, 0, 0x55));
    assert_true(t->requested[0]);
    assert_true(has(a, APIC_IRR, 0x55));
    assert_int_equal(apic_ack(a), 0x55);
    assert_false(has(a, APIC_IRR, 0x55));
    assert_true(has(a, APIC_ISR, 0x55));
    assert_false(t->requested[0]);
    eoi(a);
    assert_false(has(a, APIC_ISR, 0x55));
    assert_int_equal(t->eois, 0);
}

static void nothing_to_acknowledge_is_minus_one(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(apic_ack(cpu(t, 0)), -1);
}

static void highest_vector_first(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    fixed(t, 0, 0x31);
    fixed(t, 0, 0xef);
    fixed(t, 0, 0x80);
    assert_int_equal(apic_ack(a), 0xef);
    assert_false(t->requested[0]);
    eoi(a);
    assert_true(t->requested[0]);
    assert_int_equal(apic_ack(a), 0x80);
    eoi(a);
    assert_int_equal(apic_ack(a), 0x31);
}

static void same_class_does_not_nest(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    fixed(t, 0, 0x41);
    apic_ack(a);
    fixed(t, 0, 0x4f);
    assert_false(t->requested[0]);
    assert_int_equal(apic_ack(a), -1);
    fixed(t, 0, 0x50);
    assert_int_equal(apic_ack(a), 0x50);
    eoi(a); /* ends 0x50 */
    assert_true(has(a, APIC_ISR, 0x41));
    eoi(a);
    assert_int_equal(apic_ack(a), 0x4f);
}

static void second_request_waits_while_the_first_is_served(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    fixed(t, 0, 0x41);
    apic_ack(a);
    fixed(t, 0, 0x41);
    fixed(t, 0, 0x41);
    eoi(a);
    assert_int_equal(apic_ack(a), 0x41);
    eoi(a);
    assert_int_equal(apic_ack(a), -1);
}

static void tpr_holds_back_its_class_and_below(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_TPR, 0x50);
    fixed(t, 0, 0x5f);
    assert_false(t->requested[0]);
    assert_int_equal(apic_ack(a), -1);
    fixed(t, 0, 0x60);
    assert_int_equal(apic_ack(a), 0x60);
    eoi(a);
    apic_write(a, APIC_TPR, 0x4f);
    assert_true(t->requested[0]);
    assert_int_equal(apic_ack(a), 0x5f);
}

static void ppr_is_the_higher_of_tpr_and_isr(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_TPR, 0x35);
    assert_int_equal(apic_read(a, APIC_PPR), 0x35);
    fixed(t, 0, 0x7a);
    apic_ack(a);
    assert_int_equal(apic_read(a, APIC_PPR), 0x70);
    apic_write(a, APIC_TPR, 0x73); /* same class: TPR with its subclass */
    assert_int_equal(apic_read(a, APIC_PPR), 0x73);
    apic_write(a, APIC_TPR, 0x91);
    assert_int_equal(apic_read(a, APIC_PPR), 0x91);
}

static void cr8_is_the_upper_half_of_tpr(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_TPR, 0x5c);
    assert_int_equal(apic_get_cr8(a), 5);
    apic_set_cr8(a, 9);
    assert_int_equal(apic_read(a, APIC_TPR), 0x90);
    fixed(t, 0, 0x95);
    assert_false(t->requested[0]);
    apic_set_cr8(a, 0);
    assert_true(t->requested[0]);
}

static void software_disabled_accepts_no_fixed_interrupts(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_SVR, 0x0ff);
    assert_false(fixed(t, 0, 0x40));
    assert_false(t->requested[0]);
    assert_true(deliver(t, 0, false, APIC_MODE_NMI, 0, false));
    assert_int_equal(t->nmis[0], 1);
}

static void software_disable_masks_the_lvt(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_LINT1, 0x400);
    apic_write(a, APIC_SVR, 0x0ff);
    assert_int_equal(apic_read(a, APIC_LVT_LINT1), 0x10400);
    apic_write(a, APIC_LVT_LINT1, 0x400);
    assert_int_equal(apic_read(a, APIC_LVT_LINT1), 0x10400);
    apic_write(a, APIC_SVR, 0x1ff);
    apic_write(a, APIC_LVT_LINT1, 0x400);
    assert_int_equal(apic_read(a, APIC_LVT_LINT1), 0x400);
}

static void eoi_with_nothing_in_service_is_harmless(void **state)
{
    struct fixture *t = *state;

    eoi(cpu(t, 0));
    assert_int_equal(t->eois, 0);
    assert_false(t->requested[0]);
}

/* --- level --- */

static void level_eoi_is_broadcast(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    deliver(t, 0, false, APIC_MODE_FIXED, 0x61, true);
    assert_true(has(a, APIC_TMR, 0x61));
    apic_ack(a);
    eoi(a);
    assert_int_equal(t->eois, 1);
    assert_int_equal(t->eoi_vector, 0x61);
    fixed(t, 0, 0x61);
    assert_false(has(a, APIC_TMR, 0x61));
}

static void broadcast_can_be_suppressed(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_SVR, 0x11ff);
    deliver(t, 0, false, APIC_MODE_FIXED, 0x61, true);
    apic_ack(a);
    eoi(a);
    assert_int_equal(t->eois, 0);
}

/* --- destinations --- */

static void physical_destination_is_the_id(void **state)
{
    struct fixture *t = *state;

    assert_true(fixed(t, 2, 0x40));
    assert_false(t->requested[0] || t->requested[1] || t->requested[3]);
    assert_true(t->requested[2]);
    assert_false(fixed(t, 9, 0x40));
}

static void broadcast_reaches_all(void **state)
{
    struct fixture *t = *state;

    assert_true(fixed(t, APIC_BROADCAST, 0x40));
    for (unsigned n = 0; n < CPUS; n++)
        assert_true(t->requested[n]);
}

static void flat_logical_destination_is_a_bitmap(void **state)
{
    struct fixture *t = *state;

    for (unsigned n = 0; n < CPUS; n++)
        apic_write(cpu(t, n), APIC_LDR, 1u << (24 + n));
    assert_true(deliver(t, 0x0a, true, APIC_MODE_FIXED, 0x40, false));
    assert_false(t->requested[0]);
    assert_true(t->requested[1]);
    assert_false(t->requested[2]);
    assert_true(t->requested[3]);
}

static void cluster_logical_destination(void **state)
{
    struct fixture *t = *state;

    for (unsigned n = 0; n < CPUS; n++) {
        apic_write(cpu(t, n), APIC_DFR, 0x0fffffff);
        apic_write(cpu(t, n), APIC_LDR, (n / 2) << 28 | (1 << (n % 2)) << 24);
    }
    assert_true(deliver(t, 0x13, true, APIC_MODE_FIXED, 0x40, false));
    assert_false(t->requested[0] || t->requested[1]);
    assert_true(t->requested[2] && t->requested[3]);
    t->requested[2] = t->requested[3] = false;
    assert_true(deliver(t, 0x02, true, APIC_MODE_FIXED, 0x50, false));
    assert_true(t->requested[1]);
    assert_false(t->requested[0] || t->requested[2]);
}

static void x2apic_logical_destination_is_cluster_and_bit(void **state)
{
    struct fixture *t = *state;

    for (unsigned n = 0; n < 16; n++)
        enter_x2apic(cpu(t, n));
    assert_int_equal(msr(cpu(t, 5), MSR(APIC_LDR)), 1 << 5);
    assert_true(deliver(t, 0x8020, true, APIC_MODE_FIXED, 0x40, false));
    for (unsigned n = 0; n < 16; n++)
        assert_int_equal(t->requested[n], n == 5 || n == 15);
    assert_false(deliver(t, 0x10001, true, APIC_MODE_FIXED, 0x40, false));
}

static void lowest_priority_picks_the_idlest(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_TPR, 0x40);
    apic_write(cpu(t, 1), APIC_TPR, 0x30);
    apic_write(cpu(t, 2), APIC_TPR, 0x20);
    apic_write(cpu(t, 3), APIC_TPR, 0x30);
    assert_true(deliver(t, APIC_BROADCAST, false, APIC_MODE_LOWEST, 0x90, false));
    assert_true(t->requested[2]);
    assert_false(t->requested[0] || t->requested[1] || t->requested[3]);
}

static void lowest_priority_takes_turns_among_equals(void **state)
{
    struct fixture *t = *state;
    unsigned hit[CPUS] = {0};

    for (unsigned n = 0; n < 2 * CPUS; n++) {
        deliver(t, APIC_BROADCAST, false, APIC_MODE_LOWEST, 0x90, false);
        for (unsigned c = 0; c < CPUS; c++)
            if (t->requested[c]) {
                hit[c]++;
                apic_ack(cpu(t, c));
                eoi(cpu(t, c));
            }
    }
    for (unsigned c = 0; c < CPUS; c++)
        assert_int_equal(hit[c], 2);
}

static void lowest_priority_skips_software_disabled(void **state)
{
    struct fixture *t = *state;

    for (unsigned n = 0; n < CPUS; n++)
        if (n != 3)
            apic_write(cpu(t, n), APIC_SVR, 0xff);
    assert_true(deliver(t, APIC_BROADCAST, false, APIC_MODE_LOWEST, 0x90, false));
    assert_true(t->requested[3]);
}

/* --- MSI --- */

static void msi_message_is_decoded(void **state)
{
    struct apic_message m;

    assert_true(apic_decode_msi(0xfee03000, 0x4041, &m));
    assert_int_equal(m.dest, 3);
    assert_false(m.logical);
    assert_int_equal(m.mode, APIC_MODE_FIXED);
    assert_int_equal(m.vector, 0x41);
    assert_false(m.level);
    assert_true(apic_decode_msi(0xfee0f00c, 0xc141, &m));
    assert_true(m.logical);
    assert_true(m.level);
    assert_int_equal(m.dest, 0x0f);
    assert_int_equal(m.mode, APIC_MODE_LOWEST);
    assert_true(apic_decode_msi(0xfeeff000, 0x41, &m));
    assert_int_equal(m.dest, APIC_BROADCAST);
}

static void other_addresses_are_no_msi(void **state)
{
    struct apic_message m;

    assert_false(apic_decode_msi(0xfed00000, 0x41, &m));
    assert_false(apic_decode_msi(0x1fee00000, 0x41, &m));
    assert_false(apic_decode_msi(0, 0x41, &m));
}

/* --- interprocessor interrupts --- */

static void icr_sends_to_one(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_ICR2, 3 << 24);
    apic_write(cpu(t, 0), APIC_ICR, 0x40fd);
    assert_true(t->requested[3]);
    assert_int_equal(apic_ack(cpu(t, 3)), 0xfd);
    assert_int_equal(apic_read(cpu(t, 0), APIC_ICR) & 0x1000, 0); /* delivery status: idle */
    assert_int_equal(apic_read(cpu(t, 0), APIC_ICR2), 3 << 24);
}

static void icr_shorthands(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 1), APIC_ICR, 0x40000 | 0x40);
    assert_true(t->requested[1]);
    assert_false(t->requested[0] || t->requested[2] || t->requested[3]);
    apic_ack(cpu(t, 1));
    eoi(cpu(t, 1));
    apic_write(cpu(t, 1), APIC_ICR, 0xc0000 | 0x40);
    assert_true(t->requested[0] && t->requested[2] && t->requested[3]);
    assert_false(t->requested[1]);
    apic_write(cpu(t, 1), APIC_ICR, 0x80000 | 0x41);
    assert_true(t->requested[1]);
}

static void init_and_sipi(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_ICR2, 2 << 24);
    apic_write(cpu(t, 0), APIC_ICR, 0xc500); /* INIT, level, assert */
    assert_int_equal(t->inits[2], 1);
    apic_write(cpu(t, 0), APIC_ICR, 0x8500); /* de-assert: nothing */
    assert_int_equal(t->inits[2], 1);
    apic_write(cpu(t, 0), APIC_ICR, 0x0699);
    assert_int_equal(t->starts[2], 1);
    assert_int_equal(t->sipi_vector, 0x99);
    assert_int_equal(t->starts[0] + t->starts[1] + t->starts[3], 0);
}

static void edge_init_is_an_init(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_ICR2, 1 << 24);
    apic_write(cpu(t, 0), APIC_ICR, 0x0500);
    assert_int_equal(t->inits[1], 1);
}

static void nmi_ipi_to_all_others(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_ICR, 0xc0400);
    assert_int_equal(t->nmis[0], 0);
    assert_int_equal(t->nmis[1], 1);
    assert_int_equal(t->nmis[3], 1);
}

static void x2apic_icr_has_a_32_bit_destination(void **state)
{
    struct fixture *t = *state;

    enter_x2apic(cpu(t, 0));
    assert_int_equal(apic_msr_write(cpu(t, 0), MSR(APIC_ICR), 2ull << 32 | 0x42), 0);
    assert_int_equal(apic_ack(cpu(t, 2)), 0x42);
    assert_int_equal(msr(cpu(t, 0), MSR(APIC_ICR)), 2ull << 32 | 0x42);
    /* 0xff is an id here, not a broadcast */
    assert_int_equal(apic_msr_write(cpu(t, 0), MSR(APIC_ICR), 0xffull << 32 | 0x42), 0);
    assert_false(t->requested[1]);
    assert_int_equal(apic_msr_write(cpu(t, 0), MSR(APIC_ICR), 0xffffffffull << 32 | 0x43), 0);
    assert_true(t->requested[0] && t->requested[1]);
}

static void self_ipi_register(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(apic_msr_write(cpu(t, 1), MSR(APIC_SELF_IPI), 0x70), -1);
    enter_x2apic(cpu(t, 1));
    assert_int_equal(apic_msr_write(cpu(t, 1), MSR(APIC_SELF_IPI), 0x70), 0);
    assert_int_equal(apic_ack(cpu(t, 1)), 0x70);
    assert_int_equal(apic_msr_write(cpu(t, 1), MSR(APIC_SELF_IPI), 0x170), -1);
}

/* --- errors --- */

static void sending_an_illegal_vector_is_reported(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_ICR, 0x40000 | 0x0f);
    assert_int_equal(apic_read(a, APIC_ESR), 0);
    apic_write(a, APIC_ESR, 0);
    assert_int_equal(apic_read(a, APIC_ESR), 0x20);
    apic_write(a, APIC_ESR, 0);
    assert_int_equal(apic_read(a, APIC_ESR), 0);
}

static void receiving_an_illegal_vector_is_reported(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_ERROR, 0xfe);
    assert_false(fixed(t, 0, 5));
    assert_int_equal(apic_ack(a), 0xfe);
    apic_write(a, APIC_ESR, 0);
    assert_int_equal(apic_read(a, APIC_ESR), 0x40);
}

static void illegal_register_is_reported(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_read(a, 0x40);
    apic_write(a, APIC_ESR, 0);
    assert_int_equal(apic_read(a, APIC_ESR), 0x80);
    apic_write(a, 0x3f0, 0x40); /* SELF IPI exists in x2APIC mode only */
    apic_write(a, APIC_ESR, 0);
    assert_int_equal(apic_read(a, APIC_ESR), 0x80);
    apic_write(a, APIC_VERSION, 0); /* read-only: ignored */
    apic_write(a, APIC_ESR, 0);
    assert_int_equal(apic_read(a, APIC_ESR), 0);
}

static void an_illegal_error_vector_does_not_recurse(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_write(a, APIC_LVT_ERROR, 0x03);
    fixed(t, 0, 5);
    assert_int_equal(apic_ack(a), -1);
}

/* --- LINT --- */

static void extint_comes_from_the_8259s(void **state)
{
    struct fixture *t = *state;

    t->pic_vector = 0x08;
    apic_write(cpu(t, 0), APIC_LVT_LINT0, 0x700);
    apic_set_lint(&t->set, 0, true);
    assert_true(t->requested[0]);
    assert_false(t->requested[1]); /* masked there */
    assert_int_equal(apic_ack(cpu(t, 0)), 0x08);
    assert_false(t->requested[0]);
    assert_int_equal(apic_read(cpu(t, 0), APIC_ISR), 0); /* no ISR bit, no EOI */
}

static void local_vectors_come_before_extint(void **state)
{
    struct fixture *t = *state;

    t->pic_vector = 0x30;
    apic_write(cpu(t, 0), APIC_LVT_LINT0, 0x700);
    apic_set_lint(&t->set, 0, true);
    fixed(t, 0, 0x20);
    assert_int_equal(apic_ack(cpu(t, 0)), 0x20);
    assert_true(t->requested[0]);
    assert_int_equal(apic_ack(cpu(t, 0)), 0x30);
}

static void extint_ignores_the_tpr(void **state)
{
    struct fixture *t = *state;

    t->pic_vector = 0x20;
    apic_write(cpu(t, 0), APIC_LVT_LINT0, 0x700);
    apic_write(cpu(t, 0), APIC_TPR, 0xff);
    apic_set_lint(&t->set, 0, true);
    assert_int_equal(apic_ack(cpu(t, 0)), 0x20);
}

static void disabled_apic_passes_intr_to_the_first_processor(void **state)
{
    struct fixture *t = *state;

    t->pic_vector = 0x21;
    apic_msr_write(cpu(t, 0), MSR_BASE, APIC_DEFAULT_BASE | APIC_BASE_BSP);
    apic_set_lint(&t->set, 0, true);
    assert_true(t->requested[0]);
    assert_int_equal(apic_ack(cpu(t, 0)), 0x21);
}

static void virtual_wire_is_what_firmware_leaves(void **state)
{
    struct fixture *t = *state;

    apic_reset(cpu(t, 0), false);
    apic_set_virtual_wire(&t->set);
    t->pic_vector = 0x33;
    apic_set_lint(&t->set, 0, true);
    assert_int_equal(apic_ack(cpu(t, 0)), 0x33);
    apic_set_lint(&t->set, 1, true);
    assert_int_equal(t->nmis[0], 1);
    apic_set_lint(&t->set, 1, true); /* an edge */
    assert_int_equal(t->nmis[0], 1);
}

static void lint_in_fixed_mode_gives_its_vector(void **state)
{
    struct fixture *t = *state;

    apic_write(cpu(t, 0), APIC_LVT_LINT0, 0x77);
    apic_set_lint(&t->set, 0, true);
    assert_int_equal(apic_ack(cpu(t, 0)), 0x77);
}

/* --- base MSR, x2APIC --- */

static void base_transitions(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 1);
    u64 off = APIC_DEFAULT_BASE, x1 = off | APIC_BASE_ENABLE, x2 = x1 | APIC_BASE_EXTD;

    assert_int_equal(apic_msr_write(a, MSR_BASE, off | APIC_BASE_EXTD), -1); /* no such mode */
    assert_int_equal(apic_msr_write(a, MSR_BASE, x2), 0);
    assert_int_equal(apic_page(a), ~0ull);
    assert_int_equal(apic_msr_write(a, MSR_BASE, x1), -1); /* x2APIC to xAPIC */
    assert_int_equal(apic_msr_write(a, MSR_BASE, off), 0);
    assert_int_equal(apic_page(a), ~0ull);
    assert_int_equal(apic_msr_write(a, MSR_BASE, x2), -1); /* disabled to x2APIC */
    assert_int_equal(apic_msr_write(a, MSR_BASE, x1), 0);
    assert_int_equal(apic_read(a, APIC_SVR), 0xff); /* its state was lost */
}

static void base_reserved_bits_fault(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(apic_msr_write(cpu(t, 0), MSR_BASE, BASE_DEFAULT | 1), -1);
    assert_int_equal(apic_msr_write(cpu(t, 0), MSR_BASE, BASE_DEFAULT | 1 << 9), -1);
    assert_int_equal(apic_msr_write(cpu(t, 0), MSR_BASE, BASE_DEFAULT | 1ull << 40), -1);
}

static void base_can_be_moved(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(apic_msr_write(cpu(t, 0), MSR_BASE, 0xd0000000 | APIC_BASE_ENABLE | APIC_BASE_BSP), 0);
    assert_int_equal(apic_page(cpu(t, 0)), 0xd0000000);
}

static void x2apic_can_be_withheld(void **state)
{
    struct fixture *t = *state;

    t->set.x2apic = false;
    assert_int_equal(apic_msr_write(cpu(t, 0), MSR_BASE, BASE_DEFAULT | APIC_BASE_EXTD), -1);
}

static void x2apic_registers_that_exist(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 3);
    /* SDM vol. 3, table "Local APIC Register Address Map Supported by x2APIC" */
    static const struct {
        u16 index;
        bool read, write;
    } map[] = {
        {0x802, 1, 0}, {0x803, 1, 0}, {0x808, 1, 1}, {0x809, 0, 0}, {0x80a, 1, 0}, {0x80b, 0, 1},
        {0x80c, 0, 0}, {0x80d, 1, 0}, {0x80e, 0, 0}, {0x80f, 1, 1}, {0x810, 1, 0}, {0x817, 1, 0},
        {0x818, 1, 0}, {0x820, 1, 0}, {0x827, 1, 0}, {0x828, 1, 1}, {0x829, 0, 0}, {0x82f, 0, 0},
        {0x830, 1, 1}, {0x831, 0, 0}, {0x832, 1, 1}, {0x833, 1, 1}, {0x834, 1, 1}, {0x835, 1, 1},
        {0x836, 1, 1}, {0x837, 1, 1}, {0x838, 1, 1}, {0x839, 1, 0}, {0x83a, 0, 0}, {0x83e, 1, 1},
        {0x83f, 0, 0}, {0x840, 0, 0}, {0x8ff, 0, 0}, {0x800, 0, 0}, {0x801, 0, 0},
    };
    u64 value;

    enter_x2apic(a);
    for (unsigned n = 0; n < ARRAY_SIZE(map); n++) {
        assert_int_equal(apic_msr_read(a, map[n].index, &value), map[n].read ? 0 : -1);
        if (map[n].index != 0x83f) /* takes vectors only */
            assert_int_equal(apic_msr_write(a, map[n].index, 0), map[n].write ? 0 : -1);
    }
    assert_int_equal(msr(a, 0x802), 3);
}

static void x2apic_msrs_fault_in_xapic_mode(void **state)
{
    struct fixture *t = *state;
    u64 value;

    assert_int_equal(apic_msr_read(cpu(t, 0), 0x802, &value), -1);
    assert_int_equal(apic_msr_write(cpu(t, 0), 0x808, 0), -1);
}

static void x2apic_reserved_bits_fault(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    enter_x2apic(a);
    assert_int_equal(apic_msr_write(a, MSR(APIC_EOI), 1), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_ESR), 1), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_TPR), 0x100), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_TPR), 1ull << 32), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_SVR), 0x200), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_LVT_TIMER), 0x80000), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_TIMER_DIVIDE), 4), -1);
    assert_int_equal(apic_msr_write(a, MSR(APIC_ICR), 0x20041), -1);
}

/* What Linux writes when it goes back to the virtual wire: remote IRR is read-only, not reserved. */
static void x2apic_read_only_bits_do_not_fault(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    enter_x2apic(a);
    assert_int_equal(apic_msr_write(a, MSR(APIC_LVT_LINT0), 0x5700), 0);
    assert_int_equal(msr(a, MSR(APIC_LVT_LINT0)), 0x700);
    assert_int_equal(apic_msr_write(a, MSR(APIC_ICR), 0x1041), 0);
    assert_int_equal(msr(a, MSR(APIC_ICR)), 0x41);
}

static void mmio_is_dead_in_x2apic_mode(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    enter_x2apic(a);
    apic_write(a, APIC_TPR, 0x40);
    assert_int_equal(msr(a, MSR(APIC_TPR)), 0);
    assert_int_equal(apic_read(a, APIC_ID), 0xffffffff);
}

/* --- PV EOI --- */

static u32 flag(struct fixture *t)
{
    u32 value = 0xffffffff;

    memory_read(&t->memory, PV_FLAG, &value, 4);
    return value;
}

static void clear_flag(struct fixture *t)
{
    u32 zero = 0;

    memory_write(&t->memory, PV_FLAG, &zero, 4);
}

static void pv_eoi_ends_without_a_write(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_set_pv_eoi(a, PV_FLAG | 1);
    fixed(t, 0, 0x40);
    apic_ack(a);
    assert_int_equal(flag(t), 1);
    clear_flag(t); /* the guest's end of interrupt */
    fixed(t, 0, 0x40);
    assert_true(t->requested[0]);
    assert_int_equal(apic_ack(a), 0x40);
    assert_int_equal(flag(t), 1);
}

static void pv_eoi_offer_is_withdrawn_when_something_waits(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_set_pv_eoi(a, PV_FLAG | 1);
    fixed(t, 0, 0x40);
    apic_ack(a);
    fixed(t, 0, 0x41);
    assert_true(t->requested[0]); /* to find out */
    assert_int_equal(apic_ack(a), -1);
    assert_false(t->requested[0]);
    assert_int_equal(flag(t), 0); /* the guest sees that it has to write */
    eoi(a);
    assert_int_equal(apic_ack(a), 0x41);
}

static void pv_eoi_is_not_offered_while_others_wait_or_for_level(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_set_pv_eoi(a, PV_FLAG | 1);
    fixed(t, 0, 0x40);
    fixed(t, 0, 0x50);
    apic_ack(a);
    assert_int_equal(flag(t), 0);
    eoi(a);
    apic_ack(a);
    clear_flag(t);
    eoi(a);
    deliver(t, 0, false, APIC_MODE_FIXED, 0x60, true);
    apic_ack(a);
    assert_int_equal(flag(t), 0);
}

static void pv_eoi_nested_ends_the_right_ones(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_set_pv_eoi(a, PV_FLAG | 1);
    fixed(t, 0, 0x40);
    apic_ack(a);
    fixed(t, 0, 0x80);
    assert_int_equal(apic_ack(a), 0x80);
    assert_int_equal(flag(t), 1);
    clear_flag(t); /* ends 0x80 */
    eoi(a);        /* ends 0x40 */
    assert_int_equal(apic_read(a, APIC_PPR), 0);
}

static void written_eoi_despite_the_offer(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_set_pv_eoi(a, PV_FLAG | 1);
    fixed(t, 0, 0x40);
    apic_ack(a);
    eoi(a);
    assert_int_equal(flag(t), 0);
    assert_int_equal(apic_read(a, APIC_PPR), 0);
}

static void pv_eoi_outside_ram_is_never_offered(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);

    apic_set_pv_eoi(a, 0xfffffffffffffffdull);
    fixed(t, 0, 0x40);
    assert_int_equal(apic_ack(a), 0x40);
    eoi(a);
    assert_int_equal(apic_read(a, APIC_PPR), 0);
}

/* --- state --- */

static void state_round_trip(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 1);
    struct state_buf b = {0};

    apic_write(a, APIC_LVT_TIMER, 0x200ec);
    apic_write(a, APIC_TIMER_INITIAL, 100000);
    fixed(t, 1, 0x90);
    apic_ack(a);
    fixed(t, 1, 0x70);
    assert_int_equal(state_save(&b, a->dev.state, 1, a, NULL), 0);
    apic_reset(a, false);
    assert_int_equal(state_load(&b, a->dev.state, 1, a, NULL), 0);
    assert_int_equal(apic_read(a, APIC_PPR), 0x90);
    assert_true(has(a, APIC_IRR, 0x70));
    assert_false(t->requested[1]);
    advance(t, 200000);
    assert_true(has(a, APIC_IRR, 0xec));
    state_buf_release(&b);
}

static void hostile_base_in_saved_state_is_refused(void **state)
{
    struct fixture *t = *state;
    struct apic *a = cpu(t, 0);
    struct state_buf b = {0};

    a->base = APIC_BASE_EXTD;
    assert_int_equal(state_save(&b, a->dev.state, 0, a, NULL), 0);
    assert_true(state_load(&b, a->dev.state, 0, a, NULL) < 0);
    state_buf_release(&b);
    apic_reset(a, false);
}

/* Whatever a guest writes: delivered vectors are legal, and an accepted request is always signalled. */
static void random_accesses_keep_the_invariants(void **state)
{
    struct fixture *t = *state;
    u32 seed = 7;

    for (unsigned n = 0; n < 300000; n++) {
        seed = seed * 1664525 + 1013904223;
        struct apic *a = cpu(t, seed >> 30);
        u32 value = (seed ^ seed << 13) * 2654435761u;
        u32 offset = seed >> 8 & 0xff0;
        u64 out;

        switch (seed >> 20 & 7) {
        case 0: apic_read(a, offset); break;
        case 1: apic_msr_read(a, 0x800 + (offset >> 4), &out); break;
        case 2: apic_msr_write(a, 0x800 + (offset >> 4), value); break;
        case 3: {
            int v = apic_ack(a);
            assert_true(v >= -1 && v <= 255);
            assert_true(v == -1 || v >= 16 || t->pic_vector == v);
            break;
        }
        case 4: eoi(a); break;
        case 5: advance(t, value & 0xffff); break;
        case 6:
            apic_msr_write(a, value & 1 ? MSR_BASE : MSR_DEADLINE,
                           value & 2 ? BASE_DEFAULT | (value & APIC_BASE_EXTD) : value);
            break;
        default: apic_write(a, offset, value); break;
        }
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define T16(name) cmocka_unit_test_setup_teardown(name, setup16, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(power_on_values),
        T(init_keeps_the_mode),
        T(too_many_processors_are_refused),
        T(fixed_interrupt_goes_irr_isr_eoi),
        T(nothing_to_acknowledge_is_minus_one),
        T(highest_vector_first),
        T(same_class_does_not_nest),
        T(second_request_waits_while_the_first_is_served),
        T(tpr_holds_back_its_class_and_below),
        T(ppr_is_the_higher_of_tpr_and_isr),
        T(cr8_is_the_upper_half_of_tpr),
        T(software_disabled_accepts_no_fixed_interrupts),
        T(software_disable_masks_the_lvt),
        T(eoi_with_nothing_in_service_is_harmless),
        T(level_eoi_is_broadcast),
        T(broadcast_can_be_suppressed),
        T(physical_destination_is_the_id),
        T(broadcast_reaches_all),
        T(flat_logical_destination_is_a_bitmap),
        T(cluster_logical_destination),
        T16(x2apic_logical_destination_is_cluster_and_bit),
        T(lowest_priority_picks_the_idlest),
        T(lowest_priority_takes_turns_among_equals),
        T(lowest_priority_skips_software_disabled),
        T(msi_message_is_decoded),
        T(other_addresses_are_no_msi),
        T(icr_sends_to_one),
        T(icr_shorthands),
        T(init_and_sipi),
        T(edge_init_is_an_init),
        T(nmi_ipi_to_all_others),
        T(x2apic_icr_has_a_32_bit_destination),
        T(self_ipi_register),
        T(sending_an_illegal_vector_is_reported),
        T(receiving_an_illegal_vector_is_reported),
        T(illegal_register_is_reported),
        T(an_illegal_error_vector_does_not_recurse),
        T(extint_comes_from_the_8259s),
        T(local_vectors_come_before_extint),
        T(extint_ignores_the_tpr),
        T(disabled_apic_passes_intr_to_the_first_processor),
        T(virtual_wire_is_what_firmware_leaves),
        T(lint_in_fixed_mode_gives_its_vector),
        T(base_transitions),
        T(base_reserved_bits_fault),
        T(base_can_be_moved),
        T(x2apic_can_be_withheld),
        T(x2apic_registers_that_exist),
        T(x2apic_msrs_fault_in_xapic_mode),
        T(x2apic_reserved_bits_fault),
        T(x2apic_read_only_bits_do_not_fault),
        T(mmio_is_dead_in_x2apic_mode),
        T(pv_eoi_ends_without_a_write),
        T(pv_eoi_offer_is_withdrawn_when_something_waits),
        T(pv_eoi_is_not_offered_while_others_wait_or_for_level),
        T(pv_eoi_nested_ends_the_right_ones),
        T(written_eoi_despite_the_offer),
        T(pv_eoi_outside_ram_is_never_offered),
        T(state_round_trip),
        T(hostile_base_in_saved_state_is_refused),
        T(random_accesses_keep_the_invariants),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
