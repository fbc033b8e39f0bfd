/* virtio-scsi through its registers and rings, with disks whose requests the test completes by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake-disk.h"
#include "state/codec.h"
#include "virtio-pci-driver.h"
#include "virtio/scsi.h"

#define QUEUES 2
#define SLOT(n) (DRIVER_DATA + 0x2000ull * (n))
#define HEADER(n) SLOT(n)
#define RESPONSE(n) (SLOT(n) + 0x200)
#define BUFFER(n) (SLOT(n) + 0x800)
#define HEADER_SIZE (19 + 32)
#define RESPONSE_SIZE (12 + 96)

enum { CONTROL = 0, EVENT = 1, REQUEST = 2 };
enum { OK = 0, OVERRUN = 1, BAD_TARGET = 3, SUCCEEDED = 10, REJECTED = 11, INCORRECT_LUN = 12 };
enum { ABORT_TASK = 0, NEXUS_RESET = 4, LUN_RESET = 5, QUERY_TASK = 6, QUERY_TASK_SET = 7 };

struct fixture {
    struct driver d;
    struct fake_disk disk, other;
    struct virtio_scsi scsi;
};

static int setup(void **state)
{
    struct fixture *f = *state = calloc(1, sizeof *f);
    driver_init(&f->d);
    fake_disk_init(&f->disk, &f->d.lock, false);
    fake_disk_init(&f->other, &f->d.lock, true);
    assert_int_equal(
        virtio_scsi_init(&f->scsi, &f->d.bus, DRIVER_DEVFN, &f->d.memory, NULL, &f->d.lock, QUEUES, NULL), 0);
    virtio_scsi_attach(&f->scsi, 0, SCSI_DISK, &f->disk.base, NULL);
    virtio_scsi_attach(&f->scsi, 5, SCSI_CDROM, &f->other.base, NULL);
    driver_plug(&f->d, &f->scsi.pci.function.dev);
    enable_msix(&f->d, REQUEST + QUEUES + 1);
    driver_start(&f->d, 0, REQUEST + QUEUES, 64);
    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++)
        f->scsi.target[i].unit_attention = 0;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    lock_drop(&f->d.lock);
    virtio_scsi_release(&f->scsi);
    lock_acquire(&f->d.lock);
    driver_release(&f->d);
    free(f);
    return 0;
}

static u8 *guest(struct fixture *f, u64 gpa, u64 len)
{
    return memory_span(&f->d.memory, gpa, len);
}

static void put_address(u8 *p, unsigned target, unsigned lun)
{
    memset(p, 0, 8);
    p[0] = 1;
    p[1] = (u8)target;
    put_be16(p + 2, (u16)(0x4000 | lun));
}

/* Makes a command available in slot @slot; @in or @out bytes of data are in its buffer. */
static void add_command(struct fixture *f, u16 queue, unsigned slot, unsigned target, const u8 *cdb,
                        size_t cdb_len, u32 out, u32 in)
{
    struct buffer b[4] = {{HEADER(slot), HEADER_SIZE, false}};
    unsigned n = 1;
    u8 *h = guest(f, HEADER(slot), HEADER_SIZE);
    memset(h, 0, HEADER_SIZE);
    put_address(h, target, 0);
    put_le64(h + 8, 1000 + slot);
    memcpy(h + 19, cdb, cdb_len);
    memset(guest(f, RESPONSE(slot), RESPONSE_SIZE), 0xaa, RESPONSE_SIZE);
    if (out)
        b[n++] = (struct buffer){BUFFER(slot), out, false};
    b[n++] = (struct buffer){RESPONSE(slot), RESPONSE_SIZE, true};
    if (in)
        b[n++] = (struct buffer){BUFFER(slot), in, true};
    ring_add(&f->d.ring[queue], b, n);
    ring_doorbell(&f->d, queue);
}

#define ADD(f, queue, slot, target, out, in, ...)                        \
    do {                                                                 \
        const u8 cdb_[] = {__VA_ARGS__};                                 \
        add_command(f, queue, slot, target, cdb_, sizeof cdb_, out, in); \
    } while (0)

static bool taken(struct fixture *f, u16 queue, u32 *len)
{
    u32 id;
    return ring_take(&f->d.ring[queue], &id, len);
}

struct response {
    u32 sense_len, residual;
    u8 status, code;
    u8 sense[96];
};

static struct response response(struct fixture *f, unsigned slot)
{
    const u8 *p = guest(f, RESPONSE(slot), RESPONSE_SIZE);
    struct response r = {get_le32(p), get_le32(p + 4), p[10], p[11], {0}};
    memcpy(r.sense, p + 12, sizeof r.sense);
    return r;
}

/* One command in slot 0, which ends at once. */
#define RUN(f, target, out, in, ...)                      \
    ({                                                    \
        u32 len_;                                         \
        ADD(f, REQUEST, 0, target, out, in, __VA_ARGS__); \
        assert_true(taken(f, REQUEST, &len_));            \
        response(f, 0);                                   \
    })

static u8 control_of(struct fixture *f, u32 what, unsigned target, unsigned lun, u64 tag)
{
    u8 *h = guest(f, HEADER(9), 24);
    const struct buffer b[] = {{HEADER(9), 24, false}, {RESPONSE(9), 1, true}};
    put_le32(h, 0);
    put_le32(h + 4, what);
    put_address(h + 8, target, lun);
    put_le64(h + 16, tag);
    *guest(f, RESPONSE(9), 1) = 0xaa;
    ring_add(&f->d.ring[CONTROL], b, 2);
    ring_doorbell(&f->d, CONTROL);
    return *guest(f, RESPONSE(9), 1);
}

static bool broken(struct fixture *f)
{
    return get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET;
}

/* --- commands --- */

static void the_configuration_describes_the_adapter(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG, 4), QUEUES);
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 4, 4), VIRTQ_MAX_SEGMENTS - 2);
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 20, 4), 96);
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 24, 4), 32);
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 30, 2), VIRTIO_SCSI_TARGETS - 1);
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 32, 4), 0);
}

static void a_command_without_the_disk_ends_at_once(void **state)
{
    struct fixture *f = *state;
    struct response r = RUN(f, 0, 0, 255, 0x12, 0, 0, 0, 255);
    assert_int_equal(r.code, OK);
    assert_int_equal(r.status, SCSI_GOOD);
    assert_int_equal(r.sense_len, 0);
    assert_int_equal(r.residual, 255 - 96);
    assert_memory_equal(guest(f, BUFFER(0), 96) + 8, "TRAPEZE HARDDISK", 16);
    assert_int_equal(f->d.messages[REQUEST + 1], 1);
    r = RUN(f, 5, 0, 36, 0x12, 0, 0, 0, 36);
    assert_int_equal(r.residual, 0);
    assert_int_equal(*guest(f, BUFFER(0), 1), SCSI_CDROM);
}

static void sectors_are_read_and_written(void **state)
{
    struct fixture *f = *state;
    struct response r = RUN(f, 0, 0, 4096, 0x28, 0, 0, 0, 0, 3, 0, 0, 8);
    assert_int_equal(r.code, OK);
    assert_int_equal(r.residual, 0);
    assert_memory_equal(guest(f, BUFFER(0), 4096), f->disk.data + 3 * 512, 4096);
    memset(guest(f, BUFFER(0), 1024), 0x5a, 1024);
    r = RUN(f, 0, 1024, 0, 0x2a, 0, 0, 0, 0, 200, 0, 0, 2);
    assert_int_equal(r.code, OK);
    assert_int_equal(f->disk.data[200 * 512], 0x5a);
    assert_int_equal(f->disk.data[202 * 512 - 1], 0x5a);
    assert_int_equal(f->disk.data[202 * 512], fake_first_byte(202));
}

static void buffers_may_be_cut_anywhere(void **state)
{
    struct fixture *f = *state;
    u32 len;
    ADD(f, REQUEST, 0, 0, 0, 0, 0x28, 0, 0, 0, 0, 3, 0, 0, 1);
    assert_true(taken(f, REQUEST, &len));
    assert_int_equal(response(f, 0).code, OVERRUN);
    const struct buffer b[] = {{HEADER(0), 7, false},          {HEADER(0) + 7, HEADER_SIZE - 7, false},
                               {RESPONSE(0), 11, true},        {RESPONSE(0) + 11, 90, true},
                               {RESPONSE(0) + 101, 107, true}, {RESPONSE(0) + 208, 412, true}};
    ring_add_indirect(&f->d.ring[REQUEST], DRIVER_DATA + 0x100000, b, ARRAY_SIZE(b));
    ring_doorbell(&f->d, REQUEST);
    assert_true(taken(f, REQUEST, &len));
    assert_int_equal(len, RESPONSE_SIZE + 512);
    assert_int_equal(response(f, 0).code, OK);
    assert_memory_equal(guest(f, RESPONSE(0) + RESPONSE_SIZE, 512), f->disk.data + 3 * 512, 512);
}

static void sense_comes_with_the_response(void **state)
{
    struct fixture *f = *state;
    struct response r = RUN(f, 0, 0, 512, 0x28, 0, 0, 1, 0, 0, 0, 0, 1);
    assert_int_equal(r.code, OK);
    assert_int_equal(r.status, SCSI_CHECK_CONDITION);
    assert_int_equal(r.sense_len, SCSI_SENSE_SIZE);
    assert_int_equal(r.sense[2], 5);
    assert_int_equal(r.sense[12], 0x21);
    assert_int_equal(r.residual, 512);
}

static void who_is_not_there_does_not_answer(void **state)
{
    struct fixture *f = *state;
    static const u8 others[][8] = {{0, 0, 0x40}, {2, 0, 0x40}, {1, 16, 0x40},
                                   {1, 255},     {1, 0, 0x80}, {0xc1, 1}};
    assert_int_equal(RUN(f, 1, 0, 0, 0x00).code, BAD_TARGET);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        u32 len;
        const struct buffer b[] = {{HEADER(0), HEADER_SIZE, false}, {RESPONSE(0), RESPONSE_SIZE, true}};
        memcpy(guest(f, HEADER(0), 8), others[i], 8);
        *guest(f, RESPONSE(0) + 11, 1) = 0xaa;
        ring_add(&f->d.ring[REQUEST], b, 2);
        ring_doorbell(&f->d, REQUEST);
        assert_true(taken(f, REQUEST, &len));
        assert_int_equal(response(f, 0).code, BAD_TARGET);
    }
    assert_false(broken(f));
}

static void another_logical_unit_is_refused(void **state)
{
    struct fixture *f = *state;
    u32 len;
    ADD(f, REQUEST, 0, 0, 0, 0, 0x00);
    assert_true(taken(f, REQUEST, &len));
    put_address(guest(f, HEADER(0), 8), 0, 1);
    const struct buffer b[] = {{HEADER(0), HEADER_SIZE, false}, {RESPONSE(0), RESPONSE_SIZE, true}};
    ring_add(&f->d.ring[REQUEST], b, 2);
    ring_doorbell(&f->d, REQUEST);
    assert_true(taken(f, REQUEST, &len));
    assert_int_equal(response(f, 0).code, OK);
    assert_int_equal(response(f, 0).sense[12], 0x25);
}

static void queues_work_side_by_side(void **state)
{
    struct fixture *f = *state;
    u32 len;
    f->disk.hold = true;
    ADD(f, REQUEST, 0, 0, 0, 512, 0x28, 0, 0, 0, 0, 3, 0, 0, 1);
    ADD(f, REQUEST + 1, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 4, 0, 0, 1);
    ADD(f, REQUEST + 1, 2, 5, 0, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
    assert_true(taken(f, REQUEST + 1, &len));
    assert_false(taken(f, REQUEST, &len));
    fake_complete(&f->disk, 1); /* the later one */
    assert_true(taken(f, REQUEST + 1, &len));
    assert_false(taken(f, REQUEST, &len));
    fake_complete(&f->disk, 1);
    assert_true(taken(f, REQUEST, &len));
    assert_memory_equal(guest(f, BUFFER(1), 512), f->disk.data + 4 * 512, 512);
    assert_int_equal(f->d.messages[REQUEST + 1], 1);
    assert_int_equal(f->d.messages[REQUEST + 2], 2);
}

static void the_driver_may_choose_shorter_sense(void **state)
{
    struct fixture *f = *state;
    u32 len;
    set_status(&f->d, 0);
    set_features(&f->d, BIT(VIRTIO_F_VERSION_1));
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 20, 4, 4);
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 24, 10, 4);
    for (u16 n = 0; n < REQUEST + QUEUES; n++)
        set_up_queue(&f->d, n, 64, false);
    set_status(&f->d, 15);
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 20, 4), 4);
    ADD(f, REQUEST, 0, 0, 0, 0, 0x00);
    const struct buffer b[] = {{HEADER(0), 29, false}, {RESPONSE(0), 16, true}};
    assert_true(taken(f, REQUEST, &len));
    assert_int_equal(len, 16);
    assert_int_equal(response(f, 0).sense_len, 4);
    assert_int_equal(response(f, 0).sense[2], 6); /* it was reset */
    assert_int_equal(response(f, 0).sense[4], 0xaa);
    ring_add(&f->d.ring[REQUEST], b, 2);
    ring_doorbell(&f->d, REQUEST);
    assert_true(taken(f, REQUEST, &len));
    assert_int_equal(response(f, 0).status, SCSI_GOOD);
}

/* --- task management --- */

static void an_abort_waits_for_its_command(void **state)
{
    struct fixture *f = *state;
    u32 len;
    f->disk.hold = true;
    ADD(f, REQUEST, 0, 0, 0, 512, 0x28, 0, 0, 0, 0, 3, 0, 0, 1);
    ADD(f, REQUEST, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 4, 0, 0, 1);
    assert_int_equal(control_of(f, QUERY_TASK, 0, 0, 1000), SUCCEEDED);
    assert_int_equal(control_of(f, QUERY_TASK, 0, 0, 77), OK);
    assert_int_equal(control_of(f, QUERY_TASK, 5, 0, 1000), OK);
    assert_int_equal(control_of(f, QUERY_TASK_SET, 0, 0, 0), SUCCEEDED);
    assert_int_equal(control_of(f, ABORT_TASK, 0, 0, 77), OK);
    assert_int_equal(control_of(f, ABORT_TASK, 0, 0, 1000), 0xaa);
    fake_complete(&f->disk, 1);
    assert_int_equal(*guest(f, RESPONSE(9), 1), 0xaa);
    fake_complete(&f->disk, 1);
    assert_int_equal(*guest(f, RESPONSE(9), 1), OK);
    assert_int_equal(f->d.messages[CONTROL + 1], 6);
    assert_true(taken(f, REQUEST, &len) && taken(f, REQUEST, &len));
}

static void a_reset_waits_for_all_commands_before_it(void **state)
{
    struct fixture *f = *state;
    f->disk.hold = true;
    ADD(f, REQUEST, 0, 0, 0, 512, 0x28, 0, 0, 0, 0, 3, 0, 0, 1);
    assert_int_equal(control_of(f, LUN_RESET, 0, 0, 0), 0xaa);
    ADD(f, REQUEST, 1, 0, 0, 512, 0x28, 0, 0, 0, 0, 3, 0, 0, 1); /* comes after it: not waited for */
    fake_complete(&f->disk, 2);
    assert_int_equal(*guest(f, RESPONSE(9), 1), OK);
    assert_int_equal(f->scsi.target[0].unit_attention, 0x2900);
    assert_int_equal(f->scsi.target[5].unit_attention, 0);
    assert_int_equal(control_of(f, NEXUS_RESET, 5, 3, 0), OK);
    assert_int_equal(f->scsi.target[5].unit_attention, 0x2900);
}

static void impossible_functions_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(control_of(f, 2, 0, 0, 0), REJECTED); /* CLEAR ACA */
    assert_int_equal(control_of(f, 99, 0, 0, 0), REJECTED);
    assert_int_equal(control_of(f, LUN_RESET, 7, 0, 0), BAD_TARGET);
    assert_int_equal(control_of(f, LUN_RESET, 0, 1, 0), INCORRECT_LUN);
    assert_false(broken(f));
}

static void notifications_can_be_asked_for(void **state)
{
    struct fixture *f = *state;
    u32 id, len;
    const struct buffer b[] = {{HEADER(9), 16, false}, {RESPONSE(9), 5, true}};
    memset(guest(f, HEADER(9), 16), 0, 16);
    *guest(f, HEADER(9), 1) = 2;
    memset(guest(f, RESPONSE(9), 5), 0xaa, 5);
    ring_add(&f->d.ring[CONTROL], b, 2);
    ring_doorbell(&f->d, CONTROL);
    assert_true(ring_take(&f->d.ring[CONTROL], &id, &len));
    assert_memory_equal(guest(f, RESPONSE(9), 5), "\0\0\0\0\0", 5);
}

static void buffers_for_events_are_kept(void **state)
{
    struct fixture *f = *state;
    u32 len;
    const struct buffer b[] = {{BUFFER(0), 16, true}};
    ring_add(&f->d.ring[EVENT], b, 1);
    ring_doorbell(&f->d, EVENT);
    assert_false(taken(f, EVENT, &len));
    assert_false(broken(f));
}

/* --- what a driver must not do --- */

static void a_request_without_header_or_response_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    const struct buffer b[] = {{HEADER(0), HEADER_SIZE - 1, false}, {RESPONSE(0), RESPONSE_SIZE, true}};
    ring_add(&f->d.ring[REQUEST], b, 2);
    ring_doorbell(&f->d, REQUEST);
    assert_true(broken(f));
    driver_start(&f->d, 0, REQUEST + QUEUES, 64);
    const struct buffer c[] = {{HEADER(0), HEADER_SIZE, false}, {RESPONSE(0), RESPONSE_SIZE - 1, true}};
    ring_add(&f->d.ring[REQUEST], c, 2);
    ring_doorbell(&f->d, REQUEST);
    assert_true(broken(f));
}

static void a_control_request_that_is_none_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    static const u32 bad[][3] = {{0, 23, 1}, {0, 24, 0}, {1, 16, 4}, {2, 15, 5}, {3, 24, 5}, {0, 0, 5}};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct buffer b[2];
        unsigned n = 0;
        driver_start(&f->d, 0, REQUEST + QUEUES, 64);
        assert_false(broken(f));
        memset(guest(f, HEADER(9), 24), 0, 24);
        put_le32(guest(f, HEADER(9), 4), bad[i][0]);
        if (bad[i][1])
            b[n++] = (struct buffer){HEADER(9), bad[i][1], false};
        if (bad[i][2])
            b[n++] = (struct buffer){RESPONSE(9), bad[i][2], true};
        ring_add(&f->d.ring[CONTROL], b, n);
        ring_doorbell(&f->d, CONTROL);
        assert_true(broken(f));
    }
}

static void sizes_beyond_reason_break_the_device(void **state)
{
    struct fixture *f = *state;
    set_status(&f->d, 0);
    set_features(&f->d, BIT(VIRTIO_F_VERSION_1));
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 20, 256, 4);
    assert_true(broken(f));
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 20, 4), 96);
}

/* --- reset and state --- */

static void a_reset_waits_for_the_host(void **state)
{
    struct fixture *f = *state;
    f->disk.hold = true;
    ADD(f, REQUEST, 0, 0, 0, 512, 0x28, 0, 0, 0, 0, 3, 0, 0, 1);
    assert_int_equal(control_of(f, LUN_RESET, 0, 0, 0), 0xaa);
    set_status(&f->d, 0);
    assert_int_not_equal(get_status(&f->d), 0);
    fake_complete(&f->disk, 1);
    assert_int_equal(get_status(&f->d), 0);
    assert_int_equal(*guest(f, RESPONSE(9), 1), 0xaa);
    assert_int_equal(*guest(f, RESPONSE(0), 1), 0xaa);
}

static void a_saved_adapter_goes_on(void **state)
{
    struct fixture *f = *state;
    const struct device *dev = &f->scsi.pci.function.dev;
    struct state_buf b = {.data = NULL};
    u32 len;
    assert_int_equal(RUN(f, 5, 0, 0, 0x1b, 0, 0, 0, 2).status, SCSI_GOOD); /* the tray opens */
    assert_int_equal(state_save(&b, dev->state, 0, dev->object, NULL), 0);
    f->scsi.target[5].tray_open = false;
    f->scsi.sense_size = 10;
    assert_int_equal(state_load(&b, dev->state, 0, dev->object, NULL), 0);
    state_buf_release(&b);
    ADD(f, REQUEST, 0, 5, 0, 0, 0x00);
    assert_true(taken(f, REQUEST, &len));
    assert_int_equal(response(f, 0).sense[12], 0x3a);
}

static void an_impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;
    const struct device *dev = &f->scsi.pci.function.dev;
    struct state_buf b = {.data = NULL};
    f->scsi.target[0].tray_open = true; /* a disk has no tray */
    assert_int_equal(state_save(&b, dev->state, 0, dev->object, NULL), 0);
    assert_int_equal(state_load(&b, dev->state, 0, dev->object, NULL), -EINVAL);
    state_buf_release(&b);
    b = (struct state_buf){.data = NULL};
    f->scsi.target[0].tray_open = false;
    f->scsi.cdb_size = 4096;
    assert_int_equal(state_save(&b, dev->state, 0, dev->object, NULL), 0);
    assert_int_equal(state_load(&b, dev->state, 0, dev->object, NULL), -EINVAL);
    state_buf_release(&b);
    f->scsi.cdb_size = 32;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_configuration_describes_the_adapter),
        T(a_command_without_the_disk_ends_at_once),
        T(sectors_are_read_and_written),
        T(buffers_may_be_cut_anywhere),
        T(sense_comes_with_the_response),
        T(who_is_not_there_does_not_answer),
        T(another_logical_unit_is_refused),
        T(queues_work_side_by_side),
        T(the_driver_may_choose_shorter_sense),
        T(an_abort_waits_for_its_command),
        T(a_reset_waits_for_all_commands_before_it),
        T(impossible_functions_are_refused),
        T(notifications_can_be_asked_for),
        T(buffers_for_events_are_kept),
        T(a_request_without_header_or_response_breaks_the_device),
        T(a_control_request_that_is_none_breaks_the_device),
        T(sizes_beyond_reason_break_the_device),
        T(a_reset_waits_for_the_host),
        T(a_saved_adapter_goes_on),
        T(an_impossible_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
