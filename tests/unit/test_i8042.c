/* The keyboard controller, its keyboard and its mouse, as drivers talk to them. */
#include "device.h"

#include "hw/i8042.h"

#define KBD 1
#define AUX 12

struct fixture {
    struct bench b;
    struct i8042 k;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    assert_int_equal(i8042_init(&f->k, &f->b.memory, bench_line(&f->b, KBD), bench_line(&f->b, AUX),
                                &f->b.lifecycle, NULL),
                     0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    i8042_release(&f->k);
    bench_release(&f->b);
    free(f);
    return 0;
}

static u8 status(struct fixture *f)
{
    return in8(&f->b, 0x64);
}
static void command(struct fixture *f, u8 c)
{
    out8(&f->b, 0x64, c);
}
static void data(struct fixture *f, u8 v)
{
    out8(&f->b, 0x60, v);
}

static void command_byte(struct fixture *f, u8 v)
{
    command(f, 0x60);
    data(f, v);
}

/* The next byte must be there and come from the keyboard side. */
static void expect(struct fixture *f, u8 byte)
{
    assert_int_equal(status(f) & 0x21, 0x01);
    assert_int_equal(in8(&f->b, 0x60), byte);
}

static void expect_aux(struct fixture *f, u8 byte)
{
    assert_int_equal(status(f) & 0x21, 0x21);
    assert_int_equal(in8(&f->b, 0x60), byte);
}

static void expect_nothing(struct fixture *f)
{
    assert_int_equal(status(f) & 0x01, 0x00);
}

static void mouse(struct fixture *f, u8 v)
{
    command(f, 0xd4);
    data(f, v);
}

/* --- controller --- */

static void status_after_reset(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(status(f), 0x14); /* unlocked, self test passed, nothing to read */
}

static void status_tells_commands_from_data(void **state)
{
    struct fixture *f = *state;

    command(f, 0xae);
    assert_int_equal(status(f) & 0x08, 0x08);
    data(f, 0xee);
    assert_int_equal(status(f) & 0x08, 0x00);
}

static void self_tests_pass(void **state)
{
    struct fixture *f = *state;

    command(f, 0xaa);
    expect(f, 0x55);
    command(f, 0xab);
    expect(f, 0x00);
    command(f, 0xa9);
    expect(f, 0x00);
    command(f, 0xa4);
    expect(f, 0xf1);
    expect_nothing(f);
}

static void command_byte_reads_back(void **state)
{
    struct fixture *f = *state;

    command(f, 0x20);
    expect(f, 0x65);
    command_byte(f, 0x03);
    command(f, 0x20);
    expect(f, 0x03);
    assert_int_equal(status(f) & 0x04, 0x00);
}

static void controller_ram_keeps_bytes(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 1; i < 32; i++) {
        command(f, 0x60 + i);
        data(f, i * 5);
    }
    for (unsigned i = 1; i < 32; i++) {
        command(f, 0x20 + i);
        expect(f, i * 5);
    }
}

static void interfaces_switch_off_and_on_in_the_command_byte(void **state)
{
    struct fixture *f = *state;

    command(f, 0xad);
    command(f, 0xa7);
    command(f, 0x20);
    expect(f, 0x75);
    command(f, 0xae);
    command(f, 0xa8);
    command(f, 0x20);
    expect(f, 0x45);
}

static void loopback_commands_return_the_byte(void **state)
{
    struct fixture *f = *state;

    command(f, 0xd2);
    data(f, 0x5a);
    expect(f, 0x5a);
    command(f, 0xd3);
    data(f, 0xa5);
    expect_aux(f, 0xa5);
}

/* How Linux asks for a multiplexer: there is none when the bytes come back as they were. */
static void there_is_no_multiplexer(void **state)
{
    static const u8 probe[] = {0xf0, 0x56, 0xa4};
    struct fixture *f = *state;

    for (unsigned i = 0; i < 3; i++) {
        command(f, 0xd3);
        data(f, probe[i]);
        expect_aux(f, probe[i]);
    }
}

static void output_port_reads_back(void **state)
{
    struct fixture *f = *state;

    command(f, 0xd0);
    expect(f, 0x03);
    command(f, 0xd1);
    data(f, 0x01);
    command(f, 0xd0);
    expect(f, 0x01);
    assert_int_equal(f->b.requests, 0);
}

static void pulsing_the_reset_line_resets(void **state)
{
    struct fixture *f = *state;

    command(f, 0xff); /* pulses nothing */
    assert_int_equal(f->b.requests, 0);
    command(f, 0xfe);
    assert_int_equal(f->b.requests, 1);
    assert_int_equal(f->b.event, LIFECYCLE_RESET);
}

static void output_port_bit_0_resets(void **state)
{
    struct fixture *f = *state;

    command(f, 0xd1);
    data(f, 0xfe);
    assert_int_equal(f->b.requests, 1);
    assert_int_equal(f->b.event, LIFECYCLE_RESET);
}

static void every_command_is_survived(void **state)
{
    struct fixture *f = *state;

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned c = 0; c < 256; c++) {
            command(f, c);
            for (unsigned v = 0; v < 256; v += 17) {
                data(f, v);
                mouse(f, v + round);
            }
        }
    }
    while (status(f) & 1)
        in8(&f->b, 0x60);
    command_byte(f, 0x65);
    mouse(f, 0xec);
    while (status(f) & 1)
        in8(&f->b, 0x60);
    command(f, 0xaa);
    expect(f, 0x55);
}

/* --- interrupts --- */

static void keyboard_byte_raises_irq_1_until_read(void **state)
{
    struct fixture *f = *state;

    data(f, 0xee);
    assert_true(f->b.level[KBD]);
    assert_false(f->b.level[AUX]);
    expect(f, 0xee);
    assert_false(f->b.level[KBD]);
}

static void each_byte_is_an_edge_of_its_own(void **state)
{
    struct fixture *f = *state;

    data(f, 0xf2);
    assert_int_equal(f->b.rises[KBD], 1);
    expect(f, 0xfa);
    assert_int_equal(f->b.rises[KBD], 2);
    expect(f, 0xab);
    assert_int_equal(f->b.rises[KBD], 3);
    in8(&f->b, 0x60);
    assert_int_equal(f->b.rises[KBD], 3);
    assert_false(f->b.level[KBD]);
}

static void mouse_byte_raises_irq_12(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    mouse(f, 0xf4);
    assert_true(f->b.level[AUX]);
    assert_false(f->b.level[KBD]);
    expect_aux(f, 0xfa);
    assert_false(f->b.level[AUX]);
}

static void disabled_interrupts_stay_low(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x44);
    data(f, 0xee);
    mouse(f, 0xf4);
    expect(f, 0xee);
    expect_aux(f, 0xfa);
    assert_int_equal(f->b.rises[KBD] + f->b.rises[AUX], 0);
}

static void disabled_mouse_holds_its_bytes(void **state)
{
    struct fixture *f = *state;

    mouse(f, 0xf4); /* the interface is off after reset */
    expect_nothing(f);
    command(f, 0xa8);
    expect_aux(f, 0xfa);
}

/* --- keyboard --- */

static void keyboard_resets_and_identifies(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x05); /* untranslated */
    data(f, 0xff);
    expect(f, 0xfa);
    expect(f, 0xaa);
    data(f, 0xf2);
    expect(f, 0xfa);
    expect(f, 0xab);
    expect(f, 0x83);
    expect_nothing(f);
}

static void identity_is_translated_too(void **state)
{
    struct fixture *f = *state;

    data(f, 0xf2);
    expect(f, 0xfa);
    expect(f, 0xab);
    expect(f, 0x41);
}

static void keyboard_takes_parameters(void **state)
{
    struct fixture *f = *state;

    data(f, 0xed);
    expect(f, 0xfa);
    data(f, 0x05);
    expect(f, 0xfa);
    assert_int_equal(f->k.keyboard.leds, 5);
    data(f, 0xf3);
    expect(f, 0xfa);
    data(f, 0x20);
    expect(f, 0xfa);
    assert_int_equal(f->k.keyboard.rate, 0x20);
}

static void scan_code_set_can_be_asked(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x05);
    data(f, 0xf0);
    expect(f, 0xfa);
    data(f, 0x00);
    expect(f, 0xfa);
    expect(f, 0x02);
    data(f, 0xf0);
    expect(f, 0xfa);
    data(f, 0x01);
    expect(f, 0xfa);
    data(f, 0xf0);
    expect(f, 0xfa);
    data(f, 0x00);
    expect(f, 0xfa);
    expect(f, 0x01);
}

static void a_command_in_place_of_a_parameter_starts_anew(void **state)
{
    struct fixture *f = *state;

    data(f, 0xed);
    expect(f, 0xfa);
    data(f, 0xee);
    expect(f, 0xee);
    expect_nothing(f);
}

static void unknown_keyboard_commands_ask_to_resend(void **state)
{
    struct fixture *f = *state;

    data(f, 0x12);
    expect(f, 0xfe);
    data(f, 0xec);
    expect(f, 0xfe);
}

static void keys_are_translated_to_set_1(void **state)
{
    struct fixture *f = *state;

    assert_true(i8042_key(&f->k, 0x1c)); /* A, make and break */
    assert_true(i8042_key(&f->k, 0xf0));
    assert_true(i8042_key(&f->k, 0x1c));
    expect(f, 0x1e);
    expect(f, 0x9e);
    expect_nothing(f);
    i8042_key(&f->k, 0xe0); /* right arrow */
    i8042_key(&f->k, 0xf0);
    i8042_key(&f->k, 0x74);
    expect(f, 0xe0);
    expect(f, 0xcd);
    expect_nothing(f);
}

static void keys_pass_untranslated(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x05);
    i8042_key(&f->k, 0xf0);
    i8042_key(&f->k, 0x1c);
    expect(f, 0xf0);
    expect(f, 0x1c);
}

static void disabled_scanning_refuses_keys(void **state)
{
    struct fixture *f = *state;

    data(f, 0xf5);
    expect(f, 0xfa);
    assert_false(i8042_key(&f->k, 0x1c));
    data(f, 0xf4);
    expect(f, 0xfa);
    assert_true(i8042_key(&f->k, 0x1c));
    expect(f, 0x1e);
}

static void full_keyboard_refuses_keys(void **state)
{
    struct fixture *f = *state;
    unsigned taken = 0;

    while (taken < 100 && i8042_key(&f->k, 0x1c))
        taken++;
    assert_int_equal(taken, PS2_QUEUE + 1); /* and one in the output buffer */
    for (unsigned i = 0; i < taken; i++)
        expect(f, 0x1e);
    expect_nothing(f);
}

/* --- mouse --- */

static void mouse_resets_and_identifies(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    mouse(f, 0xff);
    expect_aux(f, 0xfa);
    expect_aux(f, 0xaa);
    expect_aux(f, 0x00);
    mouse(f, 0xf2);
    expect_aux(f, 0xfa);
    expect_aux(f, 0x00);
    expect_nothing(f);
}

static void mouse_status_tells_its_settings(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    mouse(f, 0xe8);
    expect_aux(f, 0xfa);
    mouse(f, 3);
    expect_aux(f, 0xfa);
    mouse(f, 0xf3);
    expect_aux(f, 0xfa);
    mouse(f, 80);
    expect_aux(f, 0xfa);
    mouse(f, 0xe7);
    expect_aux(f, 0xfa);
    mouse(f, 0xf4);
    expect_aux(f, 0xfa);
    mouse(f, 0xe9);
    expect_aux(f, 0xfa);
    expect_aux(f, 0x30);
    expect_aux(f, 3);
    expect_aux(f, 80);
}

static void mouse_wraps_until_told_to_stop(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    mouse(f, 0xee);
    expect_aux(f, 0xfa);
    mouse(f, 0xf2);
    expect_aux(f, 0xf2);
    mouse(f, 0xec);
    expect_aux(f, 0xfa);
    mouse(f, 0xeb);
    expect_aux(f, 0xfa);
    expect_aux(f, 0x08);
    expect_aux(f, 0x00);
    expect_aux(f, 0x00);
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    data(f, 0xf2);
    mouse(f, 0xe7);
    bench_round_trip(&f->k.dev);
    assert_true(f->b.level[KBD]);
    expect(f, 0xfa);
    expect(f, 0xab);
    expect(f, 0x41);
    expect_aux(f, 0xfa);
    assert_true(f->k.mouse.scale_2_1);
}

static void load_rejects_queue_positions_out_of_range(void **state)
{
    struct fixture *f = *state;
    struct state_buf buf = {0};

    f->k.mouse.queue.head = PS2_QUEUE;
    assert_int_equal(state_save(&buf, f->k.dev.state, 0, &f->k, NULL), 0);
    assert_int_not_equal(state_load(&buf, f->k.dev.state, 0, &f->k, NULL), 0);
    state_buf_release(&buf);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(status_after_reset),
        TEST(status_tells_commands_from_data),
        TEST(self_tests_pass),
        TEST(command_byte_reads_back),
        TEST(controller_ram_keeps_bytes),
        TEST(interfaces_switch_off_and_on_in_the_command_byte),
        TEST(loopback_commands_return_the_byte),
        TEST(there_is_no_multiplexer),
        TEST(output_port_reads_back),
        TEST(pulsing_the_reset_line_resets),
        TEST(output_port_bit_0_resets),
        TEST(every_command_is_survived),
        TEST(keyboard_byte_raises_irq_1_until_read),
        TEST(each_byte_is_an_edge_of_its_own),
        TEST(mouse_byte_raises_irq_12),
        TEST(disabled_interrupts_stay_low),
        TEST(disabled_mouse_holds_its_bytes),
        TEST(keyboard_resets_and_identifies),
        TEST(identity_is_translated_too),
        TEST(keyboard_takes_parameters),
        TEST(scan_code_set_can_be_asked),
        TEST(a_command_in_place_of_a_parameter_starts_anew),
        TEST(unknown_keyboard_commands_ask_to_resend),
        TEST(keys_are_translated_to_set_1),
        TEST(keys_pass_untranslated),
        TEST(disabled_scanning_refuses_keys),
        TEST(full_keyboard_refuses_keys),
        TEST(mouse_resets_and_identifies),
        TEST(mouse_status_tells_its_settings),
        TEST(mouse_wraps_until_told_to_stop),
        TEST(state_survives_save_and_load),
        TEST(load_rejects_queue_positions_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
