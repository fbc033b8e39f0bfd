/* The I/O APIC, from the 82093AA data sheet and the EOI register of version 0x20. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "hw/ioapic.h"
#include "state/codec.h"

struct fixture {
    struct memory memory;
    struct ioapic io;
    struct apic_message last;
    unsigned sent;
    bool refuse;
};

static bool send(void *owner, const struct apic_message *m)
{
    struct fixture *t = owner;

    t->last = *m;
    t->sent++;
    return !t->refuse;
}

static u32 reg_read(struct fixture *t, u8 index)
{
    memory_mmio_write(&t->memory, 0xfec00000, index, 4);
    return memory_mmio_read(&t->memory, 0xfec00010, 4);
}

static void reg_write(struct fixture *t, u8 index, u32 value)
{
    memory_mmio_write(&t->memory, 0xfec00000, index, 4);
    memory_mmio_write(&t->memory, 0xfec00010, value, 4);
}

static void redir(struct fixture *t, unsigned pin, u64 entry)
{
    reg_write(t, 0x10 + 2 * pin + 1, entry >> 32);
    reg_write(t, 0x10 + 2 * pin, (u32)entry);
}

static int setup(void **state)
{
    struct fixture *t = calloc(1, sizeof *t);

    assert_non_null(t);
    assert_int_equal(memory_init(&t->memory, 1 << 20, NULL), 0);
    assert_int_equal(ioapic_init(&t->io, &t->memory, send, t, NULL), 0);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *t = *state;

    ioapic_release(&t->io);
    memory_release(&t->memory);
    free(t);
    return 0;
}

static void identifies_itself(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(reg_read(t, 1), 23 << 16 | 0x20);
    assert_int_equal(reg_read(t, 0), 0);
    reg_write(t, 0, 0xffffffff);
    assert_int_equal(reg_read(t, 0), 0x0f000000);
    assert_int_equal(reg_read(t, 2), 0x0f000000);
    assert_int_equal(reg_read(t, 0x40), 0xffffffff); /* past the table */
}

static void entries_are_masked_at_reset(void **state)
{
    struct fixture *t = *state;

    for (unsigned pin = 0; pin < 24; pin++)
        assert_int_equal(reg_read(t, 0x10 + 2 * pin), 0x10000);
    ioapic_set_pin(&t->io, 4, true);
    assert_int_equal(t->sent, 0);
}

static void edge_sends_what_the_entry_says(void **state)
{
    struct fixture *t = *state;

    redir(t, 4, 5ull << 56 | 0x34);
    ioapic_set_pin(&t->io, 4, true);
    assert_int_equal(t->sent, 1);
    assert_int_equal(t->last.vector, 0x34);
    assert_int_equal(t->last.dest, 5);
    assert_int_equal(t->last.mode, APIC_MODE_FIXED);
    assert_false(t->last.logical);
    assert_false(t->last.level);
    ioapic_set_pin(&t->io, 4, true);
    assert_int_equal(t->sent, 1);
    ioapic_set_pin(&t->io, 4, false);
    ioapic_set_pin(&t->io, 4, true);
    assert_int_equal(t->sent, 2);
}

static void logical_lowest_priority(void **state)
{
    struct fixture *t = *state;

    redir(t, 9, 0x0full << 56 | 0x900 | 0x51);
    ioapic_set_pin(&t->io, 9, true);
    assert_true(t->last.logical);
    assert_int_equal(t->last.mode, APIC_MODE_LOWEST);
    assert_int_equal(t->last.dest, 0x0f);
}

static void destination_ff_is_everyone(void **state)
{
    struct fixture *t = *state;

    redir(t, 9, 0xffull << 56 | 0x51);
    ioapic_set_pin(&t->io, 9, true);
    assert_int_equal(t->last.dest, APIC_BROADCAST);
}

static void masked_edge_is_lost(void **state)
{
    struct fixture *t = *state;

    redir(t, 4, 0x10034);
    ioapic_set_pin(&t->io, 4, true);
    redir(t, 4, 0x34);
    assert_int_equal(t->sent, 0);
}

static void level_waits_for_the_eoi(void **state)
{
    struct fixture *t = *state;

    redir(t, 16, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    assert_int_equal(t->sent, 1);
    assert_true(t->last.level);
    assert_int_equal(reg_read(t, 0x10 + 32) & 0x4000, 0x4000);
    ioapic_set_pin(&t->io, 16, false);
    ioapic_set_pin(&t->io, 16, true);
    assert_int_equal(t->sent, 1);
    ioapic_eoi(&t->io, 0x41);
    assert_int_equal(t->sent, 2); /* still asserted */
    ioapic_set_pin(&t->io, 16, false);
    ioapic_eoi(&t->io, 0x41);
    assert_int_equal(t->sent, 2);
    assert_int_equal(reg_read(t, 0x10 + 32) & 0x4000, 0);
}

static void eoi_of_another_vector_changes_nothing(void **state)
{
    struct fixture *t = *state;

    redir(t, 16, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    ioapic_eoi(&t->io, 0x42);
    assert_int_equal(t->sent, 1);
    assert_int_equal(reg_read(t, 0x10 + 32) & 0x4000, 0x4000);
}

static void eoi_reaches_all_pins_of_a_vector(void **state)
{
    struct fixture *t = *state;

    redir(t, 16, 0x8041);
    redir(t, 17, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    ioapic_set_pin(&t->io, 17, true);
    assert_int_equal(t->sent, 2);
    ioapic_eoi(&t->io, 0x41);
    assert_int_equal(t->sent, 4);
}

static void unmasking_an_asserted_level_sends(void **state)
{
    struct fixture *t = *state;

    redir(t, 16, 0x18041);
    ioapic_set_pin(&t->io, 16, true);
    assert_int_equal(t->sent, 0);
    redir(t, 16, 0x8041);
    assert_int_equal(t->sent, 1);
}

static void level_withdrawn_while_masked_is_forgotten(void **state)
{
    struct fixture *t = *state;

    redir(t, 16, 0x18041);
    ioapic_set_pin(&t->io, 16, true);
    ioapic_set_pin(&t->io, 16, false);
    redir(t, 16, 0x8041);
    assert_int_equal(t->sent, 0);
}

static void eoi_register_ends_a_vector(void **state)
{
    struct fixture *t = *state;

    redir(t, 20, 0x80a5);
    ioapic_set_pin(&t->io, 20, true);
    memory_mmio_write(&t->memory, 0xfec00040, 0xa5, 4);
    assert_int_equal(t->sent, 2);
}

static void switching_to_edge_drops_remote_irr(void **state)
{
    struct fixture *t = *state;

    redir(t, 16, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    redir(t, 16, 0x10041);
    assert_int_equal(reg_read(t, 0x10 + 32), 0x10041);
    redir(t, 16, 0x8041);
    assert_int_equal(t->sent, 2);
}

static void status_bits_cannot_be_written(void **state)
{
    struct fixture *t = *state;

    redir(t, 5, ~0ull & ~0x10000ull);
    assert_int_equal(reg_read(t, 0x10 + 10), 0xafff);
    assert_int_equal(reg_read(t, 0x10 + 11), 0xff000000);
}

static void message_that_nobody_took_is_tried_again(void **state)
{
    struct fixture *t = *state;

    t->refuse = true;
    redir(t, 16, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    assert_int_equal(reg_read(t, 0x10 + 32) & 0x4000, 0);
    t->refuse = false;
    reg_write(t, 0x10 + 2 * 16, 0x8042);
    assert_int_equal(t->sent, 2);
    assert_int_equal(t->last.vector, 0x42);
}

static void an_82093aa_has_no_eoi_register(void **state)
{
    struct fixture *t = *state;

    t->io.version = IOAPIC_VERSION_82093AA;
    assert_int_equal(reg_read(t, 1), 23 << 16 | 0x11);
    redir(t, 16, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    memory_mmio_write(&t->memory, 0xfec00040, 0x41, 4);
    assert_int_equal(t->sent, 1);
    ioapic_eoi(&t->io, 0x41);
    assert_int_equal(t->sent, 2);
}

static void pins_out_of_range_are_ignored(void **state)
{
    struct fixture *t = *state;

    ioapic_set_pin(&t->io, 24, true);
    ioapic_set_pin(&t->io, 1000, true);
    assert_int_equal(t->io.lines, 0);
}

static void state_round_trip(void **state)
{
    struct fixture *t = *state;
    struct state_buf b = {0};

    redir(t, 16, 0x8041);
    ioapic_set_pin(&t->io, 16, true);
    assert_int_equal(state_save(&b, t->io.dev.state, 0, &t->io, NULL), 0);
    t->io.dev.reset(&t->io.dev);
    t->io.lines = 0;
    assert_int_equal(state_load(&b, t->io.dev.state, 0, &t->io, NULL), 0);
    assert_int_equal(reg_read(t, 0x10 + 32), 0xc041);
    ioapic_eoi(&t->io, 0x41);
    assert_int_equal(t->sent, 2);
    state_buf_release(&b);
}

static void odd_accesses_are_harmless(void **state)
{
    struct fixture *t = *state;
    u32 seed = 3;

    for (unsigned n = 0; n < 100000; n++) {
        seed = seed * 1664525 + 1013904223;
        u64 gpa = 0xfec00000 + (seed >> 8 & (seed & 1 ? 0xfff : 0x4f));
        unsigned size = 1u << (seed >> 2 & 3);

        if (seed & 0x10)
            memory_mmio_write(&t->memory, gpa, (u64)seed * seed, size);
        else
            memory_mmio_read(&t->memory, gpa, size);
        ioapic_set_pin(&t->io, seed >> 20 & 31, seed & 0x20);
        for (unsigned pin = 0; pin < 24; pin++)
            assert_true((t->io.redir[pin] & 0xc000) != 0x4000); /* remote IRR is for level */
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identifies_itself),
        T(entries_are_masked_at_reset),
        T(edge_sends_what_the_entry_says),
        T(logical_lowest_priority),
        T(destination_ff_is_everyone),
        T(masked_edge_is_lost),
        T(level_waits_for_the_eoi),
        T(eoi_of_another_vector_changes_nothing),
        T(eoi_reaches_all_pins_of_a_vector),
        T(unmasking_an_asserted_level_sends),
        T(level_withdrawn_while_masked_is_forgotten),
        T(eoi_register_ends_a_vector),
        T(switching_to_edge_drops_remote_irr),
        T(status_bits_cannot_be_written),
        T(message_that_nobody_took_is_tried_again),
        T(an_82093aa_has_no_eoi_register),
        T(pins_out_of_range_are_ignored),
        T(state_round_trip),
        T(odd_accesses_are_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
