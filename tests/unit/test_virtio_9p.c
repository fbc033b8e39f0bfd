#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio-pci-driver.h"
#include "virtio/9p.h"

enum {
    T_VERSION = 100,
    T_ATTACH = 104,
    T_FLUSH = 108,
    T_WALK = 110,
    T_READ = 116,
    T_CLUNK = 120,
    T_STATFS = 8,
    T_LOPEN = 12
};

#define MESSAGE(n) (DRIVER_DATA + 0x10000ull * (n))
#define REPLY(n) (MESSAGE(n) + 0x4000)
#define NO_FID 0xffffffffu
#define FILE_SIZE 20000

struct fixture {
    struct driver d;
    struct share *share;
    struct virtio_9p device;
    char dir[64], file[80];
    u8 text[256];
    unsigned len, interrupts;
};

static u8 *guest(struct fixture *f, u64 gpa, u32 len)
{
    return memory_span(&f->d.memory, gpa, len);
}

/* --- messages --- */

static void begin(struct fixture *f, u8 type, u16 tag)
{
    f->text[4] = type;
    put_le16(f->text + 5, tag);
    f->len = 7;
}

static void field(struct fixture *f, u64 v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        f->text[f->len++] = (u8)(v >> 8 * i);
}

static void name(struct fixture *f, const char *s)
{
    field(f, strlen(s), 2);
    memcpy(f->text + f->len, s, strlen(s));
    f->len += (unsigned)strlen(s);
}

/* Adds the message with place @n; the reply has @room bytes. */
static void add(struct fixture *f, unsigned n, u32 room)
{
    put_le32(f->text, f->len);
    memcpy(guest(f, MESSAGE(n), f->len), f->text, f->len);
    struct buffer b[3] = {
        {MESSAGE(n), f->len, false}, {REPLY(n), 11, true}, {REPLY(n) + 11, room - 11, true}};
    ring_add(&f->d.ring[0], b, 3);
}

static void take(struct fixture *f, u32 *id, u32 *len)
{
    while (!ring_take(&f->d.ring[0], id, len))
        driver_wait(&f->d, 1, f->d.messages[1] + 1);
}

/* Sends it alone; the type of the reply. */
static u8 transact(struct fixture *f)
{
    u32 id, len;
    add(f, 0, 8192);
    ring_doorbell(&f->d, 0);
    take(f, &id, &len);
    assert_int_equal(len, get_le32(guest(f, REPLY(0), 4)));
    return guest(f, REPLY(0), 5)[4];
}

static void mount(struct fixture *f)
{
    begin(f, T_VERSION, 0xffff);
    field(f, 65536, 4);
    name(f, "9P2000.L");
    assert_int_equal(transact(f), T_VERSION + 1);
    begin(f, T_ATTACH, 1);
    field(f, 1, 4);
    field(f, NO_FID, 4);
    name(f, "");
    name(f, "");
    field(f, 0, 4);
    assert_int_equal(transact(f), T_ATTACH + 1);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/trapeze-virtio-9p-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->file, sizeof f->file, "%s/file", f->dir);
    FILE *file = fopen(f->file, "w");
    for (unsigned i = 0; i < FILE_SIZE; i++)
        fputc((int)(i % 251), file);
    fclose(file);
    f->share = share_open(f->dir, &(struct share_options){.ownership = SHARE_NONE}, NULL);
    assert_non_null(f->share);
    driver_init(&f->d);
    assert_int_equal(virtio_9p_init(&f->device, &f->d.bus, DRIVER_DEVFN, &f->d.memory, NULL, &f->d.lock,
                                    f->share, "a tag", NULL),
                     0);
    driver_plug(&f->d, &f->device.pci.function.dev);
    enable_msix(&f->d, 2);
    driver_start(&f->d, 0, 1, 128);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    lock_drop(&f->d.lock);
    virtio_9p_release(&f->device);
    lock_acquire(&f->d.lock);
    share_close(f->share);
    driver_release(&f->d);
    unlink(f->file);
    rmdir(f->dir);
    free(f);
    return 0;
}

/* --- tests --- */

static void the_tag_is_in_the_configuration(void **state)
{
    struct fixture *f = *state;
    char tag[6] = "";
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG, 2), 5);
    for (unsigned i = 0; i < 5; i++)
        tag[i] = (char)reg_read(&f->d, VIRTIO_PCI_CONFIG + 2 + i, 1);
    assert_string_equal(tag, "a tag");
    assert_int_equal(reg_read(&f->d, VIRTIO_PCI_CONFIG + 7, 1), 0);
    assert_true(device_features(&f->d) & 1);
}

static void data_come_into_the_guests_buffers(void **state)
{
    struct fixture *f = *state;
    mount(f);
    begin(f, T_WALK, 1);
    field(f, 1, 4);
    field(f, 2, 4);
    field(f, 1, 2);
    name(f, "file");
    assert_int_equal(transact(f), T_WALK + 1);
    begin(f, T_LOPEN, 1);
    field(f, 2, 4);
    field(f, 0, 4);
    assert_int_equal(transact(f), T_LOPEN + 1);
    begin(f, T_READ, 1);
    field(f, 2, 4);
    field(f, 1000, 8);
    field(f, 7000, 4);
    assert_int_equal(transact(f), T_READ + 1);
    const u8 *reply = guest(f, REPLY(0), 8192);
    assert_int_equal(get_le32(reply + 7), 7000);
    for (unsigned i = 0; i < 7000; i++)
        assert_int_equal(reply[11 + i], (1000 + i) % 251);
    assert_true(share_mounted(f->share));
    assert_int_equal(virtio_9p_can_save(&f->device, NULL), -16);
}

/* Many requests for the threads, each with a flush behind it. */
static void a_flush_is_answered_behind_its_request(void **state)
{
    enum { PAIRS = 16 };
    struct fixture *f = *state;
    unsigned order[2 * PAIRS], at[2 * PAIRS];
    mount(f);
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < PAIRS; i++) {
            begin(f, T_STATFS, (u16)(100 + i));
            field(f, 1, 4);
            add(f, 2 * i, 200);
            begin(f, T_FLUSH, (u16)(200 + i));
            field(f, 100 + i, 2);
            add(f, 2 * i + 1, 200);
        }
        ring_doorbell(&f->d, 0);
        for (unsigned i = 0; i < 2 * PAIRS; i++) {
            u32 id, len;
            take(f, &id, &len);
            u64 gpa = get_le64(ring_at(&f->d.ring[0], entry_gpa(&f->d.ring[0], (u16)id)));
            order[i] = (unsigned)((gpa - DRIVER_DATA) / 0x10000);
            assert_int_equal(len, order[i] % 2 ? 7 : 67);
            at[order[i]] = i;
        }
        for (unsigned i = 0; i < PAIRS; i++)
            assert_true(at[2 * i] < at[2 * i + 1]);
    }
}

static void a_reset_with_requests_in_flight_ends_the_session(void **state)
{
    struct fixture *f = *state;
    for (unsigned round = 0; round < 50; round++) {
        mount(f);
        for (unsigned i = 0; i < 16; i++) {
            begin(f, T_STATFS, (u16)i);
            field(f, 1, 4);
            add(f, i, 200);
        }
        ring_doorbell(&f->d, 0);
        set_status(&f->d, 0);
        while (get_status(&f->d)) {
            lock_drop(&f->d.lock);
            lock_acquire(&f->d.lock);
        }
        assert_false(share_mounted(f->share));
        f->d.messages[1] = 0;
        driver_start(&f->d, 0, 1, 128);
    }
    begin(f, T_STATFS, 1);
    field(f, 1, 4);
    assert_int_equal(transact(f), 7); /* an error: no session */
}

static void a_message_without_room_for_a_reply_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    begin(f, T_CLUNK, 1);
    field(f, 1, 4);
    put_le32(f->text, f->len);
    memcpy(guest(f, MESSAGE(0), f->len), f->text, f->len);
    ring_add(&f->d.ring[0], &(struct buffer){MESSAGE(0), f->len, false}, 1);
    ring_doorbell(&f->d, 0);
    assert_true(get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(the_tag_is_in_the_configuration),
        T(data_come_into_the_guests_buffers),
        T(a_flush_is_answered_behind_its_request),
        T(a_reset_with_requests_in_flight_ends_the_session),
        T(a_message_without_room_for_a_reply_breaks_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
