/* The two 8259As, from the data sheet 231468. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "hw/pic.h"
#include "state/codec.h"

#define MASTER 0x20
#define SLAVE 0xa0

struct fixture {
    struct memory memory;
    struct pic pic;
    bool intr;
};

static void intr_changed(void *owner, unsigned line, bool level)
{
    ((struct fixture *)owner)->intr = level;
}

static u8 in(struct fixture *t, u16 port)
{
    return memory_pio_read(&t->memory, port, 1);
}

static void out(struct fixture *t, u16 port, u8 value)
{
    memory_pio_write(&t->memory, port, value, 1);
}

/* The sequence of every PC: edge, cascade, vectors 0x20 and 0x28, ICW4 as given, nothing masked. */
static void init_chips(struct fixture *t, u8 icw4_master, u8 icw4_slave)
{
    out(t, MASTER, 0x11);
    out(t, MASTER + 1, 0x20);
    out(t, MASTER + 1, 0x04);
    out(t, MASTER + 1, icw4_master);
    out(t, SLAVE, 0x11);
    out(t, SLAVE + 1, 0x28);
    out(t, SLAVE + 1, 0x02);
    out(t, SLAVE + 1, icw4_slave);
}

static int setup(void **state)
{
    struct fixture *t = calloc(1, sizeof *t);
    struct irq_line intr = {.set = intr_changed, .owner = t};

    assert_non_null(t);
    assert_int_equal(memory_init(&t->memory, 1 << 20, NULL), 0);
    assert_int_equal(pic_init(&t->pic, &t->memory, intr, NULL), 0);
    init_chips(t, 0x01, 0x01);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *t = *state;

    pic_release(&t->pic);
    memory_release(&t->memory);
    free(t);
    return 0;
}

static void pulse(struct fixture *t, unsigned irq)
{
    pic_set_irq(&t->pic, irq, true);
    pic_set_irq(&t->pic, irq, false);
}

static u8 read_isr(struct fixture *t, u16 port)
{
    out(t, port, 0x0b);
    return in(t, port);
}

static u8 read_irr(struct fixture *t, u16 port)
{
    out(t, port, 0x0a);
    return in(t, port);
}

/* --- requests and acknowledge --- */

static void edge_raises_intr_and_gives_its_vector(void **state)
{
    struct fixture *t = *state;

    assert_false(t->intr);
    pulse(t, 3);
    assert_true(t->intr);
    assert_int_equal(read_irr(t, MASTER), 0x08);
    assert_int_equal(pic_ack(&t->pic), 0x23);
    assert_false(t->intr);
    assert_int_equal(read_irr(t, MASTER), 0);
    assert_int_equal(read_isr(t, MASTER), 0x08);
}

static void high_line_requests_only_once(void **state)
{
    struct fixture *t = *state;

    pic_set_irq(&t->pic, 4, true);
    pic_ack(&t->pic);
    out(t, MASTER, 0x20);
    pic_set_irq(&t->pic, 4, true);
    assert_false(t->intr);
    pic_set_irq(&t->pic, 4, false);
    pic_set_irq(&t->pic, 4, true);
    assert_true(t->intr);
}

static void slave_comes_through_the_cascade(void **state)
{
    struct fixture *t = *state;

    pulse(t, 14);
    assert_true(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x2e);
    assert_int_equal(read_isr(t, MASTER), 0x04);
    assert_int_equal(read_isr(t, SLAVE), 0x40);
}

static void ir2_is_not_an_input(void **state)
{
    struct fixture *t = *state;

    pulse(t, 2);
    assert_false(t->intr);
    pulse(t, 16);
    assert_false(t->intr);
}

static void acknowledge_without_request_is_spurious_7(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(pic_ack(&t->pic), 0x27);
    assert_int_equal(read_isr(t, MASTER), 0);
}

static void request_masked_before_acknowledge_is_spurious(void **state)
{
    struct fixture *t = *state;

    pulse(t, 1);
    out(t, MASTER + 1, 0x02);
    assert_false(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x27);
    out(t, MASTER + 1, 0x00);
    assert_true(t->intr); /* the edge is still latched */
}

static void second_slave_request_follows_the_first(void **state)
{
    struct fixture *t = *state;

    pulse(t, 8);
    pulse(t, 9);
    assert_int_equal(pic_ack(&t->pic), 0x28);
    assert_false(t->intr);
    out(t, SLAVE, 0x20);
    out(t, MASTER, 0x20);
    assert_true(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x29);
}

/* --- priority --- */

static void lower_number_wins(void **state)
{
    struct fixture *t = *state;

    pulse(t, 5);
    pulse(t, 1);
    assert_int_equal(pic_ack(&t->pic), 0x21);
    assert_false(t->intr);
    out(t, MASTER, 0x20);
    assert_int_equal(pic_ack(&t->pic), 0x25);
}

static void higher_priority_nests_lower_waits(void **state)
{
    struct fixture *t = *state;

    pulse(t, 4);
    pic_ack(&t->pic);
    pulse(t, 6);
    assert_false(t->intr);
    pulse(t, 0);
    assert_true(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x20);
    assert_int_equal(read_isr(t, MASTER), 0x11);
}

static void slave_cannot_nest_within_itself_when_fully_nested(void **state)
{
    struct fixture *t = *state;

    pulse(t, 12);
    pic_ack(&t->pic);
    pulse(t, 8);
    assert_false(t->intr);
}

static void special_fully_nested_mode_lets_the_slave_nest(void **state)
{
    struct fixture *t = *state;

    init_chips(t, 0x11, 0x01);
    pulse(t, 12);
    pic_ack(&t->pic);
    pulse(t, 8);
    assert_true(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x28);
    assert_int_equal(read_isr(t, SLAVE), 0x11);
    /* but what is below the cascade still waits */
    pulse(t, 5);
    assert_false(t->intr);
}

static void special_mask_mode_admits_lower_priorities(void **state)
{
    struct fixture *t = *state;

    pulse(t, 2 + 1);
    pic_ack(&t->pic);
    out(t, MASTER + 1, 0x08);
    pulse(t, 6);
    assert_false(t->intr);
    out(t, MASTER, 0x68);
    assert_true(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x26);
    /* a non-specific EOI passes over masked levels */
    out(t, MASTER, 0x20);
    assert_int_equal(read_isr(t, MASTER), 0x08);
    out(t, MASTER, 0x20);
    assert_int_equal(read_isr(t, MASTER), 0x08);
    out(t, MASTER, 0x48);
    out(t, MASTER, 0x20);
    assert_int_equal(read_isr(t, MASTER), 0);
}

/* --- end of interrupt, rotation --- */

static void specific_eoi_ends_that_level(void **state)
{
    struct fixture *t = *state;

    pulse(t, 5);
    pic_ack(&t->pic);
    pulse(t, 1);
    pic_ack(&t->pic);
    out(t, MASTER, 0x60 | 5);
    assert_int_equal(read_isr(t, MASTER), 0x02);
}

static void automatic_eoi_leaves_nothing_in_service(void **state)
{
    struct fixture *t = *state;

    init_chips(t, 0x03, 0x01);
    pulse(t, 1);
    assert_int_equal(pic_ack(&t->pic), 0x21);
    assert_int_equal(read_isr(t, MASTER), 0);
    pulse(t, 1);
    assert_int_equal(pic_ack(&t->pic), 0x21);
}

static void rotation_on_eoi_makes_the_served_level_lowest(void **state)
{
    struct fixture *t = *state;

    pulse(t, 4);
    pic_ack(&t->pic);
    out(t, MASTER, 0xa0);
    pulse(t, 4);
    pulse(t, 7);
    assert_int_equal(pic_ack(&t->pic), 0x27);
}

static void rotation_on_specific_eoi(void **state)
{
    struct fixture *t = *state;

    pulse(t, 3);
    pic_ack(&t->pic);
    out(t, MASTER, 0xe0 | 3);
    pulse(t, 3);
    pulse(t, 4);
    assert_int_equal(read_isr(t, MASTER), 0);
    assert_int_equal(pic_ack(&t->pic), 0x24);
}

static void rotation_in_automatic_eoi_mode(void **state)
{
    struct fixture *t = *state;

    init_chips(t, 0x03, 0x01);
    out(t, MASTER, 0x80);
    pulse(t, 0);
    pic_ack(&t->pic);
    pulse(t, 0);
    pulse(t, 1);
    assert_int_equal(pic_ack(&t->pic), 0x21);
    out(t, MASTER, 0x00); /* rotation off: level 1 stays lowest */
    assert_int_equal(pic_ack(&t->pic), 0x20);
    pulse(t, 0);
    pulse(t, 2 + 1);
    assert_int_equal(pic_ack(&t->pic), 0x23);
}

static void set_priority_command(void **state)
{
    struct fixture *t = *state;

    out(t, MASTER, 0xc0 | 5);
    pulse(t, 5);
    pulse(t, 6);
    pulse(t, 0);
    assert_int_equal(pic_ack(&t->pic), 0x26);
}

static void ocw2_no_operation(void **state)
{
    struct fixture *t = *state;

    pulse(t, 1);
    pic_ack(&t->pic);
    out(t, MASTER, 0x40 | 1);
    assert_int_equal(read_isr(t, MASTER), 0x02);
}

/* --- initialisation --- */

static void icw1_clears_masks_service_and_edges(void **state)
{
    struct fixture *t = *state;

    pic_set_irq(&t->pic, 6, true);
    pulse(t, 1);
    pic_ack(&t->pic);
    out(t, MASTER + 1, 0xff);
    out(t, MASTER, 0x11);
    assert_int_equal(t->pic.chip[0].imr, 0);
    assert_int_equal(t->pic.chip[0].isr, 0);
    assert_int_equal(t->pic.chip[0].irr, 0);
    init_chips(t, 1, 1);
    assert_false(t->intr); /* a line that stays high makes no new edge */
}

static void icw4_is_not_expected_when_not_announced(void **state)
{
    struct fixture *t = *state;

    init_chips(t, 0x03, 0x01);
    out(t, MASTER, 0x10);
    out(t, MASTER + 1, 0x40);
    out(t, MASTER + 1, 0x04);
    out(t, MASTER + 1, 0xab); /* OCW1 */
    assert_int_equal(in(t, MASTER + 1), 0xab);
    assert_int_equal(t->pic.chip[0].icw[3], 0); /* and its functions are off */
}

static void single_mode_skips_icw3(void **state)
{
    struct fixture *t = *state;

    out(t, MASTER, 0x12);
    out(t, MASTER + 1, 0x40);
    out(t, MASTER + 1, 0x5a);
    assert_int_equal(in(t, MASTER + 1), 0x5a);
}

static void vector_base_ignores_low_bits(void **state)
{
    struct fixture *t = *state;

    out(t, MASTER, 0x11);
    out(t, MASTER + 1, 0x37);
    out(t, MASTER + 1, 0x04);
    out(t, MASTER + 1, 0x01);
    pulse(t, 1);
    assert_int_equal(pic_ack(&t->pic), 0x31);
}

static void power_on_is_masked(void **state)
{
    struct fixture *t = *state;

    t->pic.dev.reset(&t->pic.dev);
    pulse(t, 0);
    assert_false(t->intr);
    assert_int_equal(in(t, MASTER + 1), 0xff);
}

/* --- poll --- */

static void poll_acknowledges(void **state)
{
    struct fixture *t = *state;

    pulse(t, 5);
    out(t, MASTER, 0x0c);
    assert_int_equal(in(t, MASTER), 0x85);
    assert_false(t->intr);
    assert_int_equal(read_isr(t, MASTER), 0x20);
}

static void poll_without_request_says_so(void **state)
{
    struct fixture *t = *state;

    out(t, MASTER, 0x0c);
    assert_int_equal(in(t, MASTER) & 0x80, 0);
    assert_int_equal(in(t, MASTER + 1), 0x00); /* the poll command was for one read */
}

/* --- level --- */

static void level_request_lasts_while_the_line_is_high(void **state)
{
    struct fixture *t = *state;

    out(t, 0x4d1, 0x08);
    pic_set_irq(&t->pic, 11, true);
    assert_int_equal(pic_ack(&t->pic), 0x2b);
    assert_int_equal(read_irr(t, SLAVE), 0x08);
    out(t, SLAVE, 0x20);
    out(t, MASTER, 0x20);
    assert_true(t->intr);
    pic_set_irq(&t->pic, 11, false);
    assert_false(t->intr);
    assert_int_equal(read_irr(t, SLAVE), 0);
}

static void level_dropped_before_acknowledge_is_spurious(void **state)
{
    struct fixture *t = *state;

    out(t, 0x4d0, 0x20);
    pic_set_irq(&t->pic, 5, true);
    pic_set_irq(&t->pic, 5, false);
    assert_int_equal(pic_ack(&t->pic), 0x27);
}

static void elcr_has_only_the_inputs_that_can_be_level(void **state)
{
    struct fixture *t = *state;

    memory_pio_write(&t->memory, 0x4d0, 0xffff, 2);
    assert_int_equal(memory_pio_read(&t->memory, 0x4d0, 2), 0xdef8);
}

static void making_an_input_level_sees_its_line(void **state)
{
    struct fixture *t = *state;

    pic_set_irq(&t->pic, 10, true);
    pic_ack(&t->pic);
    out(t, SLAVE, 0x20);
    out(t, MASTER, 0x20);
    assert_false(t->intr);
    out(t, 0x4d1, 0x04);
    assert_true(t->intr);
}

/* --- state --- */

static void state_round_trip_keeps_what_is_in_service(void **state)
{
    struct fixture *t = *state;
    struct state_buf b = {0};

    pulse(t, 12);
    pic_ack(&t->pic);
    pulse(t, 1);
    assert_int_equal(state_save(&b, t->pic.dev.state, 0, &t->pic, NULL), 0);
    t->pic.dev.reset(&t->pic.dev);
    assert_false(t->intr);
    assert_int_equal(state_load(&b, t->pic.dev.state, 0, &t->pic, NULL), 0);
    assert_true(t->intr);
    assert_int_equal(pic_ack(&t->pic), 0x21);
    assert_int_equal(read_isr(t, SLAVE), 0x10);
    state_buf_release(&b);
}

static void hostile_state_is_refused(void **state)
{
    struct fixture *t = *state;
    struct state_buf b = {0};

    t->pic.chip[1].init_step = 9;
    assert_int_equal(state_save(&b, t->pic.dev.state, 0, &t->pic, NULL), 0);
    assert_true(state_load(&b, t->pic.dev.state, 0, &t->pic, NULL) < 0);
    state_buf_release(&b);
    t->pic.chip[1].init_step = 0;
}

/* Any byte to any port in any order: nothing but the 8 vectors of each chip may come out. */
static void random_writes_keep_vectors_in_range(void **state)
{
    struct fixture *t = *state;
    static const u16 ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
    u32 seed = 1;

    for (unsigned n = 0; n < 200000; n++) {
        seed = seed * 1664525 + 1013904223;
        u8 value = seed >> 24;
        u16 port = ports[(seed >> 8) % ARRAY_SIZE(ports)];

        switch (seed >> 16 & 3) {
        case 0: in(t, port); break;
        case 1: pic_set_irq(&t->pic, value & 15, value & 0x80); break;
        case 2: pic_ack(&t->pic); break;
        default: out(t, port, value); break;
        }
        assert_int_equal(t->intr, pic_pending(&t->pic));
        assert_in_range(t->pic.chip[0].lowest, 0, 7);
        assert_in_range(t->pic.chip[1].init_step, 0, 3);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(edge_raises_intr_and_gives_its_vector),
        T(high_line_requests_only_once),
        T(slave_comes_through_the_cascade),
        T(ir2_is_not_an_input),
        T(acknowledge_without_request_is_spurious_7),
        T(request_masked_before_acknowledge_is_spurious),
        T(second_slave_request_follows_the_first),
        T(lower_number_wins),
        T(higher_priority_nests_lower_waits),
        T(slave_cannot_nest_within_itself_when_fully_nested),
        T(special_fully_nested_mode_lets_the_slave_nest),
        T(special_mask_mode_admits_lower_priorities),
        T(specific_eoi_ends_that_level),
        T(automatic_eoi_leaves_nothing_in_service),
        T(rotation_on_eoi_makes_the_served_level_lowest),
        T(rotation_on_specific_eoi),
        T(rotation_in_automatic_eoi_mode),
        T(set_priority_command),
        T(ocw2_no_operation),
        T(icw1_clears_masks_service_and_edges),
        T(icw4_is_not_expected_when_not_announced),
        T(single_mode_skips_icw3),
        T(vector_base_ignores_low_bits),
        T(power_on_is_masked),
        T(poll_acknowledges),
        T(poll_without_request_says_so),
        T(level_request_lasts_while_the_line_is_high),
        T(level_dropped_before_acknowledge_is_spurious),
        T(elcr_has_only_the_inputs_that_can_be_level),
        T(making_an_input_level_sees_its_line),
        T(state_round_trip_keeps_what_is_in_service),
        T(hostile_state_is_refused),
        T(random_writes_keep_vectors_in_range),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
