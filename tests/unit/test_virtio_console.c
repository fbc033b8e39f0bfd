#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "state/codec.h"
#include "virtio-pci-driver.h"
#include "virtio/console.h"

enum { RX, TX };

/* A terminal that takes at most `space` bytes until it is drained. */
struct fake_chardev {
    struct chardev base;
    size_t space, room;
    u8 out[1 << 20];
    size_t out_len;
};

static ssize_t fake_write(struct chardev *c, const u8 *data, size_t len)
{
    struct fake_chardev *f = container_of(c, struct fake_chardev, base);
    size_t n = MIN(MIN(len, f->space), sizeof f->out - f->out_len);
    memcpy(f->out + f->out_len, data, n);
    f->out_len += n;
    f->space -= n;
    return (ssize_t)n;
}

static void fake_set_room(struct chardev *c, size_t room)
{
    container_of(c, struct fake_chardev, base)->room = room;
}

static const struct chardev_ops fake_ops = {.write = fake_write, .set_room = fake_set_room};

struct fixture {
    struct driver d;
    struct fake_chardev chardev;
    struct virtio_console console;
    struct event_loop *loop;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    driver_init(&f->d);
    f->chardev.base.ops = &fake_ops;
    f->chardev.space = sizeof f->chardev.out;
    f->loop = event_loop_new(NULL);
    assert_non_null(f->loop);
    assert_int_equal(virtio_console_init(&f->console, &f->d.bus, DRIVER_DEVFN, &f->d.memory, f->loop,
                                         &f->chardev.base, NULL),
                     0);
    driver_plug(&f->d, &f->console.pci.function.dev);
    enable_msix(&f->d, 3);
    driver_start(&f->d, 0, 2, 64);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    virtio_console_release(&f->console);
    assert_null(f->chardev.base.listener);
    event_loop_free(f->loop);
    driver_release(&f->d);
    free(f);
    return 0;
}

static u8 *guest(struct fixture *f, u64 gpa, u64 len)
{
    return memory_span(&f->d.memory, gpa, len);
}

/* The guest prints @len bytes: a pattern that goes on with @from. */
static void print(struct fixture *f, u64 gpa, unsigned from, u32 len)
{
    for (u32 i = 0; i < len; i++)
        guest(f, gpa, len)[i] = (u8)((from + i) % 251);
    ring_add(&f->d.ring[TX], &(struct buffer){gpa, len, false}, 1);
    ring_doorbell(&f->d, TX);
}

static bool printed(struct fixture *f)
{
    u32 id, len;
    return ring_take(&f->d.ring[TX], &id, &len);
}

static void assert_pattern(const u8 *data, unsigned from, size_t len)
{
    for (size_t i = 0; i < len; i++)
        assert_int_equal(data[i], (from + i) % 251);
}

static void output_reaches_the_chardev(void **state)
{
    struct fixture *f = *state;
    print(f, DRIVER_DATA, 0, 300);
    assert_true(printed(f));
    assert_int_equal(f->chardev.out_len, 300);
    assert_pattern(f->chardev.out, 0, 300);
    assert_int_equal(f->d.messages[TX + 1], 1);
}

static void output_waits_for_a_full_chardev(void **state)
{
    struct fixture *f = *state;
    f->chardev.space = 100;
    print(f, DRIVER_DATA, 0, 300);
    print(f, DRIVER_DATA + 0x1000, 300, 50);
    assert_false(printed(f));
    assert_int_equal(f->chardev.out_len, 100);
    f->chardev.space = 210;
    f->console.listener.writable(&f->console.listener);
    assert_true(printed(f));
    assert_false(printed(f));
    assert_int_equal(f->chardev.out_len, 310);
    f->chardev.space = 1000;
    f->console.listener.writable(&f->console.listener);
    assert_true(printed(f));
    assert_int_equal(f->chardev.out_len, 350);
    assert_pattern(f->chardev.out, 0, 350);
}

static void output_in_pieces_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    struct buffer b[10];
    for (unsigned i = 0; i < 10; i++) {
        b[i] = (struct buffer){DRIVER_DATA + 0x1000 * i, 10 + i, false};
        for (unsigned k = 0; k < b[i].len; k++)
            guest(f, b[i].gpa, 100)[k] = (u8)((10 * i + i * (i - 1) / 2 + k) % 251);
    }
    ring_add(&f->d.ring[TX], b, 10);
    f->chardev.space = 0;
    ring_doorbell(&f->d, TX);
    while (!printed(f)) {
        f->chardev.space = 7;
        f->console.listener.writable(&f->console.listener);
    }
    assert_int_equal(f->chardev.out_len, 145);
    assert_pattern(f->chardev.out, 0, 145);
}

static void a_flood_with_back_pressure_loses_nothing(void **state)
{
    struct fixture *f = *state;
    unsigned sent = 0, step = 0;
    while (sent < 500000) {
        f->chardev.space = step % 7 * 100;
        for (unsigned i = 0; i < 16; i++) {
            u32 len = 1 + (step * 37 + i * 11) % 700;
            print(f, DRIVER_DATA + 0x1000 * i, sent, len);
            sent += len;
        }
        for (unsigned taken = 0; taken < 16; step++) {
            while (printed(f))
                taken++;
            f->chardev.space = step % 5 * 333;
            f->console.listener.writable(&f->console.listener);
        }
    }
    assert_int_equal(f->chardev.out_len, sent);
    assert_pattern(f->chardev.out, 0, sent);
}

/* --- input --- */

static void offer(struct fixture *f, u64 gpa, u32 len)
{
    ring_add(&f->d.ring[RX], &(struct buffer){gpa, len, true}, 1);
    ring_doorbell(&f->d, RX);
}

static void receive(struct fixture *f, unsigned from, size_t len)
{
    u8 data[4096];
    for (size_t i = 0; i < len; i++)
        data[i] = (u8)((from + i) % 251);
    assert_true(len <= f->chardev.room);
    f->console.listener.receive(&f->console.listener, data, len);
}

static void without_a_buffer_there_is_no_room(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(f->chardev.room, 0);
    offer(f, DRIVER_DATA, 64);
    assert_int_equal(f->chardev.room, 64);
}

static void input_fills_buffers_in_order(void **state)
{
    struct fixture *f = *state;
    u32 id, len;
    u16 first = f->d.ring[RX].next;
    offer(f, DRIVER_DATA, 64);
    offer(f, DRIVER_DATA + 0x1000, 32);
    receive(f, 0, 10);
    assert_int_equal(f->chardev.room, 32);
    receive(f, 10, 32);
    assert_int_equal(f->chardev.room, 0);
    assert_true(ring_take(&f->d.ring[RX], &id, &len));
    assert_int_equal(id, first);
    assert_int_equal(len, 10);
    assert_true(ring_take(&f->d.ring[RX], &id, &len));
    assert_int_equal(len, 32);
    assert_pattern(guest(f, DRIVER_DATA, 10), 0, 10);
    assert_pattern(guest(f, DRIVER_DATA + 0x1000, 32), 10, 32);
    assert_int_equal(f->d.messages[RX + 1], 2);
}

static void input_is_scattered_over_a_chain(void **state)
{
    struct fixture *f = *state;
    const struct buffer b[] = {{DRIVER_DATA, 3, true}, {DRIVER_DATA + 0x1000, 60, true}};
    ring_add(&f->d.ring[RX], b, 2);
    ring_doorbell(&f->d, RX);
    receive(f, 0, 40);
    assert_pattern(guest(f, DRIVER_DATA, 3), 0, 3);
    assert_pattern(guest(f, DRIVER_DATA + 0x1000, 37), 3, 37);
}

static void a_buffer_that_cannot_be_filled_is_given_back(void **state)
{
    struct fixture *f = *state;
    u32 id, len;
    ring_add(&f->d.ring[RX], &(struct buffer){DRIVER_DATA, 64, false}, 1);
    offer(f, DRIVER_DATA + 0x1000, 16);
    assert_true(ring_take(&f->d.ring[RX], &id, &len));
    assert_int_equal(len, 0);
    assert_int_equal(f->chardev.room, 16);
}

/* --- resets and state --- */

static void a_reset_drops_what_is_held(void **state)
{
    struct fixture *f = *state;
    f->chardev.space = 10;
    print(f, DRIVER_DATA, 0, 100);
    offer(f, DRIVER_DATA + 0x1000, 64);
    set_status(&f->d, 0);
    assert_int_equal(get_status(&f->d), 0);
    assert_int_equal(f->chardev.room, 0);
    f->chardev.space = 1000;
    f->console.listener.writable(&f->console.listener);
    assert_int_equal(f->chardev.out_len, 10);
    driver_start(&f->d, 0, 2, 64);
    print(f, DRIVER_DATA, 10, 20);
    assert_true(printed(f));
    assert_pattern(f->chardev.out, 0, 30);
}

static void a_broken_queue_takes_no_more_input(void **state)
{
    struct fixture *f = *state;
    offer(f, DRIVER_DATA, 64);
    offer(f, DRIVER_RAM, 64);
    receive(f, 0, 5);
    assert_true(get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->chardev.room, 0);
}

static void half_written_output_survives_save_and_restore(void **state)
{
    struct fixture *f = *state;
    struct device *dev = &f->console.pci.function.dev;
    struct state_buf b = {0};
    for (unsigned packed = 0; packed < 2; packed++) {
        driver_start(&f->d, packed ? BIT(VIRTIO_F_RING_PACKED) : 0, 2, 64);
        f->chardev.out_len = 0;
        f->chardev.space = 33;
        print(f, DRIVER_DATA, 0, 100);
        offer(f, DRIVER_DATA + 0x1000, 64);
        assert_int_equal(state_save(&b, dev->state, 0, dev->object, NULL), 0);
        dev->reset(dev);
        assert_int_equal(f->chardev.room, 0);
        assert_int_equal(state_load(&b, dev->state, 0, dev->object, NULL), 0);
        state_buf_release(&b);
        b = (struct state_buf){0};

        f->chardev.space = 1000;
        event_loop_poll(f->loop, 0);
        assert_int_equal(f->chardev.room, 64);
        assert_true(printed(f));
        assert_int_equal(f->chardev.out_len, 100);
        assert_pattern(f->chardev.out, 0, 100);
    }
}

static void a_device_that_was_saved_goes_on(void **state)
{
    struct fixture *f = *state;
    struct device *dev = &f->console.pci.function.dev;
    struct state_buf b = {0};
    f->chardev.space = 33;
    print(f, DRIVER_DATA, 0, 100);
    offer(f, DRIVER_DATA + 0x1000, 64);
    assert_int_equal(state_save(&b, dev->state, 0, dev->object, NULL), 0);
    state_buf_release(&b);
    f->chardev.space = 1000;
    event_loop_poll(f->loop, 0);
    assert_int_equal(f->chardev.room, 64);
    assert_true(printed(f));
    assert_pattern(f->chardev.out, 0, 100);
}

static void an_emergency_write_is_one_character(void **state)
{
    struct fixture *f = *state;
    set_status(&f->d, 0);
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 8, 'x', 4);
    assert_int_equal(f->chardev.out_len, 1);
    assert_int_equal(f->chardev.out[0], 'x');
}

#define WITH_CONSOLE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CONSOLE(output_reaches_the_chardev),
        WITH_CONSOLE(output_waits_for_a_full_chardev),
        WITH_CONSOLE(output_in_pieces_keeps_its_order),
        WITH_CONSOLE(a_flood_with_back_pressure_loses_nothing),
        WITH_CONSOLE(without_a_buffer_there_is_no_room),
        WITH_CONSOLE(input_fills_buffers_in_order),
        WITH_CONSOLE(input_is_scattered_over_a_chain),
        WITH_CONSOLE(a_buffer_that_cannot_be_filled_is_given_back),
        WITH_CONSOLE(a_reset_drops_what_is_held),
        WITH_CONSOLE(a_broken_queue_takes_no_more_input),
        WITH_CONSOLE(half_written_output_survives_save_and_restore),
        WITH_CONSOLE(a_device_that_was_saved_goes_on),
        WITH_CONSOLE(an_emergency_write_is_one_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
