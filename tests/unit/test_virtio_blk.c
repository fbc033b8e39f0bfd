/* virtio-blk through its registers and rings, with a disk whose requests the test completes by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake-disk.h"
#include "state/codec.h"
#include "virtio-pci-driver.h"
#include "virtio/blk.h"

#define SECTORS FAKE_SECTORS
#define DISK_SIZE FAKE_SIZE
#define HEADER DRIVER_DATA
#define STATUS (DRIVER_DATA + 0x100)
#define BUFFER (DRIVER_DATA + 0x1000)
#define TABLE (DRIVER_DATA + 0x100000)
#define F(n) BIT(n)

enum { F_RO = 5, F_FLUSH = 9, F_CONFIG_WCE = 11, F_MQ = 12, F_DISCARD = 13, F_WRITE_ZEROES = 14 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };

struct fixture {
    struct driver d;
    struct fake_disk disk;
    struct virtio_blk blk;
};

static struct fixture *make(struct block_device *backend, bool read_only, unsigned queues)
{
    struct fixture *f = calloc(1, sizeof *f);
    driver_init(&f->d);
    fake_disk_init(&f->disk, &f->d.lock, read_only);
    f->disk.base.discard_unit = 65536;
    const struct virtio_blk_config config = {.queues = queues, .serial = "serial-0123456789abcdef"};
    assert_int_equal(virtio_blk_init(&f->blk, &f->d.bus, DRIVER_DEVFN, &f->d.memory, NULL, &f->d.lock,
                                     backend ? backend : &f->disk.base, &config, NULL),
                     0);
    driver_plug(&f->d, &f->blk.pci.function.dev);
    enable_msix(&f->d, queues + 1);
    return f;
}

static int setup(void **state)
{
    struct fixture *f = *state = make(NULL, false, 1);
    driver_start(&f->d, ~0ull & ~F(VIRTIO_F_RING_PACKED) & ~F(VIRTIO_F_EVENT_IDX) & ~F(F_CONFIG_WCE), 1, 64);
    return 0;
}

static int setup_packed(void **state)
{
    struct fixture *f = *state = make(NULL, false, 1);
    driver_start(&f->d, ~F(VIRTIO_F_EVENT_IDX) & ~F(F_CONFIG_WCE), 1, 64);
    return 0;
}

static int setup_read_only(void **state)
{
    struct fixture *f = *state = make(NULL, true, 1);
    driver_start(&f->d, 0, 1, 64);
    return 0;
}

static int setup_queues(void **state)
{
    struct fixture *f = *state = make(NULL, false, 4);
    driver_start(&f->d, F(F_MQ) | F(F_FLUSH), 4, 64);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    lock_drop(&f->d.lock);
    virtio_blk_release(&f->blk);
    lock_acquire(&f->d.lock);
    driver_release(&f->d);
    free(f);
    return 0;
}

static u8 *guest(struct fixture *f, u64 gpa, u64 len)
{
    return memory_span(&f->d.memory, gpa, len);
}

static void put_header(struct fixture *f, u64 at, u32 type, u64 sector)
{
    u8 *h = guest(f, at, 16);
    put_le32(h, type);
    put_le32(h + 4, 0);
    put_le64(h + 8, sector);
}

/* Makes a request of header, data and status available on @queue, slot @slot of the buffers. */
static void add_request(struct fixture *f, u16 queue, unsigned slot, u32 type, u64 sector, u64 data, u32 len)
{
    u64 header = HEADER + 0x200ull * slot, status = STATUS + 0x200ull * slot;
    struct buffer b[3] = {{header, 16, false}};
    unsigned n = 1;
    put_header(f, header, type, sector);
    *guest(f, status, 1) = 0xaa;
    if (len)
        b[n++] = (struct buffer){data, len, type == T_IN || type == T_GET_ID};
    b[n++] = (struct buffer){status, 1, true};
    ring_add(&f->d.ring[queue], b, n);
}

static u8 status_of(struct fixture *f, unsigned slot)
{
    return *guest(f, STATUS + 0x200ull * slot, 1);
}

/* The same, done at once; returns its status. */
static u8 request(struct fixture *f, u32 type, u64 sector, u64 data, u32 len)
{
    u32 id, used;
    add_request(f, 0, 0, type, sector, data, len);
    ring_doorbell(&f->d, 0);
    assert_true(ring_take(&f->d.ring[0], &id, &used));
    return status_of(f, 0);
}

static u8 range_request(struct fixture *f, u32 type, u64 sector, u32 sectors, u32 flags)
{
    u8 *r = guest(f, BUFFER, 16);
    put_le64(r, sector);
    put_le32(r + 8, sectors);
    put_le32(r + 12, flags);
    return request(f, type, 0, BUFFER, 16);
}

static u64 config(struct fixture *f, unsigned offset, unsigned size)
{
    return reg_read(&f->d, VIRTIO_PCI_CONFIG + offset, size);
}

/* --- requests --- */

static void the_configuration_describes_the_disk(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(config(f, 0, 4), SECTORS);
    assert_int_equal(config(f, 4, 4), 0);
    assert_int_equal(config(f, 12, 4), VIRTQ_MAX_SEGMENTS - 2);
    assert_int_equal(config(f, 20, 4), 512);
    assert_int_equal(config(f, 32, 1), 1);
    assert_int_equal(config(f, 34, 2), 1);
    assert_int_equal(config(f, 40, 4), 1);
    assert_int_equal(config(f, 44, 4), 65536 / 512);
    assert_int_equal(config(f, 60, 4), 0);
    assert_int_equal(config(f, 0xffc, 4), 0);
}

static void sectors_are_read(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(request(f, T_IN, 3, BUFFER, 4096), OK);
    assert_memory_equal(guest(f, BUFFER, 4096), f->disk.data + 3 * 512, 4096);
    assert_int_equal(f->d.messages[1], 1);
}

static void sectors_are_written(void **state)
{
    struct fixture *f = *state;
    memset(guest(f, BUFFER, 1024), 0x5a, 1024);
    assert_int_equal(request(f, T_OUT, SECTORS - 2, BUFFER, 1024), OK);
    assert_memory_equal(guest(f, BUFFER, 1024), f->disk.data + (SECTORS - 2) * 512, 1024);
    assert_int_equal(f->disk.ops[BLOCK_WRITE], 1);
}

static void buffers_may_be_cut_anywhere(void **state)
{
    struct fixture *f = *state;
    u32 id, used;
    put_header(f, HEADER, T_IN, 7);
    const struct buffer in[] = {{HEADER, 5, false},
                                {HEADER + 5, 11, false},
                                {BUFFER, 100, true},
                                {BUFFER + 100, 412, true},
                                {BUFFER + 512, 513, true}};
    ring_add_indirect(&f->d.ring[0], TABLE, in, 5);
    *guest(f, BUFFER + 1024, 1) = 0xaa;
    ring_doorbell(&f->d, 0);
    assert_true(ring_take(&f->d.ring[0], &id, &used));
    assert_int_equal(used, 1025);
    assert_int_equal(*guest(f, BUFFER + 1024, 1), OK);
    assert_memory_equal(guest(f, BUFFER, 1024), f->disk.data + 7 * 512, 1024);

    put_header(f, BUFFER, T_OUT, 9);
    const struct buffer out[] = {{BUFFER, 528, false}, {STATUS, 1, true}};
    memset(guest(f, BUFFER + 16, 512), 0x77, 512);
    ring_add(&f->d.ring[0], out, 2);
    ring_doorbell(&f->d, 0);
    assert_true(ring_take(&f->d.ring[0], &id, &used));
    assert_int_equal(f->disk.data[9 * 512], 0x77);
    assert_int_equal(f->disk.data[10 * 512 - 1], 0x77);
}

static void the_longest_request_works(void **state)
{
    struct fixture *f = *state;
    struct buffer b[VIRTQ_MAX_SEGMENTS] = {{HEADER, 16, false}};
    u32 id, used;
    put_header(f, HEADER, T_IN, 0);
    for (unsigned i = 1; i < VIRTQ_MAX_SEGMENTS - 1; i++)
        b[i] = (struct buffer){BUFFER + 1024 * i, 512, true};
    b[VIRTQ_MAX_SEGMENTS - 1] = (struct buffer){STATUS, 1, true};
    ring_add_indirect(&f->d.ring[0], TABLE, b, VIRTQ_MAX_SEGMENTS);
    ring_doorbell(&f->d, 0);
    assert_true(ring_take(&f->d.ring[0], &id, &used));
    for (unsigned i = 1; i < VIRTQ_MAX_SEGMENTS - 1; i++)
        assert_memory_equal(guest(f, BUFFER + 1024 * i, 512), f->disk.data + 512 * (i - 1), 512);
}

static void a_flush_reaches_the_disk(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(request(f, T_FLUSH, 0, 0, 0), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
}

static void the_id_is_the_serial_number(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(request(f, T_GET_ID, 0, BUFFER, 20), OK);
    assert_memory_equal(guest(f, BUFFER, 20), "serial-0123456789abcdef", 20);
    memset(guest(f, BUFFER, 20), 0, 20);
    assert_int_equal(request(f, T_GET_ID, 0, BUFFER, 8), OK);
    assert_memory_equal(guest(f, BUFFER, 9), "serial-0", 9);
}

static void ranges_are_zeroed(void **state)
{
    struct fixture *f = *state;
    static const u8 zero[1024];
    assert_int_equal(range_request(f, T_WRITE_ZEROES, 5, 2, 0), OK);
    assert_memory_equal(f->disk.data + 5 * 512, zero, 1024);
    assert_int_not_equal(f->disk.data[7 * 512 + 1], 0);
    assert_false(f->disk.unmap);
    assert_int_equal(range_request(f, T_WRITE_ZEROES, 5, 2, 1), OK);
    assert_true(f->disk.unmap);
    assert_int_equal(range_request(f, T_WRITE_ZEROES, 5, 2, 2), UNSUPP);
}

static void ranges_are_discarded(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(range_request(f, T_DISCARD, 0, SECTORS, 0), OK);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 1);
    assert_int_equal(range_request(f, T_DISCARD, 0, SECTORS, 1), UNSUPP);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 1);
}

/* --- errors --- */

static void what_lies_beyond_the_end_is_an_error(void **state)
{
    struct fixture *f = *state;
    static const u64 bad[] = {SECTORS, SECTORS - 1, ~0ull, ~0ull >> 9, (1ull << 55) - 1, 1ull << 55};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(request(f, T_IN, bad[i], BUFFER, 1024), IOERR);
        assert_int_equal(request(f, T_OUT, bad[i], BUFFER, 1024), IOERR);
        assert_int_equal(range_request(f, T_DISCARD, bad[i], 2, 0), IOERR);
        assert_int_equal(range_request(f, T_WRITE_ZEROES, bad[i], 2, 0), IOERR);
    }
    assert_int_equal(range_request(f, T_DISCARD, 0, ~0u, 0), IOERR);
    for (unsigned i = 0; i < ARRAY_SIZE(f->disk.ops); i++)
        assert_int_equal(f->disk.ops[i], 0);
    assert_int_equal(request(f, T_IN, SECTORS - 1, BUFFER, 512), OK);
}

static void parts_of_sectors_are_an_error(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(request(f, T_IN, 0, BUFFER, 511), IOERR);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 513), IOERR);
    assert_int_equal(request(f, T_DISCARD, 0, BUFFER, 15), IOERR);
    assert_int_equal(request(f, T_WRITE_ZEROES, 0, BUFFER, 32), IOERR);
}

static void unknown_requests_are_unsupported(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(request(f, 2, 0, BUFFER, 512), UNSUPP);
    assert_int_equal(request(f, ~0u, 0, BUFFER, 512), UNSUPP);
}

static void failures_of_the_disk_are_reported(void **state)
{
    struct fixture *f = *state;
    f->disk.fail = -EIO;
    assert_int_equal(request(f, T_IN, 0, BUFFER, 512), IOERR);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 512), IOERR);
    assert_int_equal(request(f, T_FLUSH, 0, 0, 0), IOERR);
    f->disk.fail = -EOPNOTSUPP;
    assert_int_equal(range_request(f, T_DISCARD, 0, 1, 0), UNSUPP);
    assert_false(get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void a_read_only_disk_is_not_written(void **state)
{
    struct fixture *f = *state;
    u64 features = device_features(&f->d);
    assert_true(features & F(F_RO));
    assert_false(features & (F(F_DISCARD) | F(F_WRITE_ZEROES)));
    assert_int_equal(request(f, T_IN, 0, BUFFER, 512), OK);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 512), IOERR);
    assert_int_equal(range_request(f, T_DISCARD, 0, 1, 0), UNSUPP);
    assert_int_equal(f->disk.ops[BLOCK_WRITE], 0);
}

static void requests_without_header_or_status_break_the_device(void **state)
{
    struct fixture *f = *state;
    const struct buffer bad[][2] = {{{HEADER, 15, false}, {STATUS, 1, true}},
                                    {{HEADER, 16, false}, {BUFFER, 512, false}},
                                    {{HEADER, 16, true}, {STATUS, 1, true}}};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        u32 id, used;
        driver_start(&f->d, 0, 1, 64);
        ring_add(&f->d.ring[0], bad[i], 2);
        ring_doorbell(&f->d, 0);
        assert_true(get_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
        assert_false(ring_take(&f->d.ring[0], &id, &used));
    }
}

/* --- durability --- */

static void writes_are_flushed_for_drivers_that_cannot_flush(void **state)
{
    struct fixture *f = *state;
    driver_start(&f->d, 0, 1, 64);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 512), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    assert_int_equal(request(f, T_IN, 0, BUFFER, 512), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    driver_start(&f->d, F(F_FLUSH), 1, 64);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 512), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
}

static void the_driver_chooses_the_cache_mode(void **state)
{
    struct fixture *f = *state;
    driver_start(&f->d, F(F_FLUSH) | F(F_CONFIG_WCE), 1, 64);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 512), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 0);
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 32, 0, 1);
    assert_int_equal(config(f, 32, 1), 0);
    assert_int_equal(request(f, T_OUT, 0, BUFFER, 512), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 0, 0, 4); /* the capacity is not the driver's */
    assert_int_equal(config(f, 0, 4), SECTORS);
    driver_start(&f->d, F(F_FLUSH), 1, 64);
    assert_int_equal(config(f, 32, 1), 1);
}

/* --- in flight --- */

static void requests_complete_out_of_order_from_another_thread(void **state)
{
    struct fixture *f = *state;
    u32 id, used;
    f->disk.hold = true;
    for (unsigned i = 0; i < 5; i++)
        add_request(f, 0, i, T_IN, i, BUFFER + 512 * i, 512);
    ring_doorbell(&f->d, 0);
    assert_false(ring_take(&f->d.ring[0], &id, &used));
    assert_int_equal(f->d.messages[1], 0);
    fake_complete(&f->disk, 2);
    assert_int_equal(f->d.messages[1], 2);
    assert_int_equal(status_of(f, 4), OK);
    assert_int_equal(status_of(f, 0), 0xaa);
    fake_complete(&f->disk, 3);
    for (unsigned i = 0; i < 5; i++)
        assert_true(ring_take(&f->d.ring[0], &id, &used));
    assert_memory_equal(guest(f, BUFFER, 2560), f->disk.data, 2560);
}

static void a_batch_done_at_once_raises_one_interrupt(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 10; i++)
        add_request(f, 0, i, T_IN, i, BUFFER, 512);
    ring_doorbell(&f->d, 0);
    assert_int_equal(f->d.messages[1], 1);
}

static void a_batch_of_many_bytes_is_done_in_parts(void **state)
{
    struct fixture *f = *state;
    u32 id, used, eighth = COMPLETIONS_BATCH / 8; /* beyond the end of the disk: errors count as well */
    for (unsigned i = 0; i < 9; i++)
        add_request(f, 0, i, T_IN, 0, BUFFER, eighth);
    ring_doorbell(&f->d, 0);
    for (unsigned i = 0; i < 8; i++)
        assert_true(ring_take(&f->d.ring[0], &id, &used));
    assert_false(ring_take(&f->d.ring[0], &id, &used));
    ring_doorbell(&f->d, 0); /* as the event loop would ring it */
    assert_true(ring_take(&f->d.ring[0], &id, &used));
}

static void a_reset_ends_when_the_last_request_has_ended(void **state)
{
    struct fixture *f = *state;
    u32 id, used;
    f->disk.hold = true;
    add_request(f, 0, 0, T_IN, 0, BUFFER, 512);
    add_request(f, 0, 1, T_IN, 1, BUFFER, 512);
    ring_doorbell(&f->d, 0);
    set_status(&f->d, 0);
    assert_int_not_equal(get_status(&f->d), 0);
    add_request(f, 0, 2, T_IN, 0, BUFFER, 512);
    ring_doorbell(&f->d, 0);
    fake_complete(&f->disk, 1);
    assert_int_not_equal(get_status(&f->d), 0);
    fake_complete(&f->disk, 1);
    assert_int_equal(get_status(&f->d), 0);
    assert_int_equal(f->d.messages[1], 0);
    assert_int_equal(status_of(f, 0), 0xaa);
    assert_true(list_empty(&f->disk.held));

    f->disk.hold = false;
    driver_start(&f->d, 0, 1, 64);
    assert_false(ring_take(&f->d.ring[0], &id, &used));
    assert_int_equal(request(f, T_IN, 1, BUFFER, 512), OK);
}

/* Two threads, as one of them may come to wait for the machine lock that the test holds. */
struct completer {
    struct fake_disk *disk;
    pthread_mutex_t mutex; /* guards the disk */
    pthread_t thread[2];
};

static struct block_request *execute_held(struct completer *c, int *result)
{
    struct block_request *r = NULL;
    pthread_mutex_lock(&c->mutex);
    if (!list_empty(&c->disk->held)) {
        r = list_entry(c->disk->held.next, struct block_request, link);
        list_remove(&r->link);
        *result = fake_execute(c->disk, r);
    }
    pthread_mutex_unlock(&c->mutex);
    return r;
}

/* Completes what is held, but without touching the test's lock: the device is being waited for. */
static void *complete_all(void *arg)
{
    struct completer *c = arg;
    int result = 0;
    for (struct block_request *r; (r = execute_held(c, &result));)
        r->done(r, result);
    return NULL;
}

/* Runs @wait, which waits for requests, while other threads complete them. */
static void with_completer(struct fixture *f, void (*wait)(struct fixture *f))
{
    struct completer c = {.disk = &f->disk, .mutex = PTHREAD_MUTEX_INITIALIZER};
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&c.thread[i], NULL, complete_all, &c), 0);
    wait(f);
    lock_drop(&f->d.lock);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(c.thread[i], NULL);
    lock_acquire(&f->d.lock);
}

static void hold_requests(struct fixture *f, unsigned n)
{
    f->disk.hold = true;
    for (unsigned i = 0; i < n; i++)
        add_request(f, 0, i, T_IN, i, BUFFER, 512);
    ring_doorbell(&f->d, 0);
    f->disk.hold = false;
}

static void do_system_reset(struct fixture *f)
{
    f->blk.pci.function.dev.reset(&f->blk.pci.function.dev);
}

static void a_system_reset_waits_for_requests(void **state)
{
    struct fixture *f = *state;
    hold_requests(f, 20);
    with_completer(f, do_system_reset);
    assert_true(list_empty(&f->disk.held));
    assert_int_equal(f->blk.completions.in_flight, 0);
    assert_int_equal(f->blk.vdev.status, 0);
}

static void start_impatiently(struct fixture *f)
{
    set_status(&f->d, 0);
    set_status(&f->d, VIRTIO_STATUS_ACKNOWLEDGE);
}

static void a_driver_that_does_not_wait_for_the_reset_is_served(void **state)
{
    struct fixture *f = *state;
    hold_requests(f, 20);
    with_completer(f, start_impatiently);
    assert_int_equal(get_status(&f->d), VIRTIO_STATUS_ACKNOWLEDGE);
    driver_start(&f->d, 0, 1, 64);
    assert_int_equal(request(f, T_IN, 1, BUFFER, 512), OK);
}

static struct state_buf saved;

static void save(struct fixture *f)
{
    struct device *dev = &f->blk.pci.function.dev;
    assert_int_equal(state_save(&saved, dev->state, dev->instance, dev->object, NULL), 0);
}

static void a_save_waits_and_a_restored_device_goes_on(void **state)
{
    struct fixture *f = *state;
    struct device *dev = &f->blk.pci.function.dev;
    struct error err = {0};
    u32 id, used;
    driver_start(&f->d, F(F_FLUSH) | F(F_CONFIG_WCE), 1, 64);
    reg_write(&f->d, VIRTIO_PCI_CONFIG + 32, 0, 1);
    hold_requests(f, 3);
    saved = (struct state_buf){0};
    with_completer(f, save);
    for (unsigned i = 0; i < 3; i++)
        assert_true(ring_take(&f->d.ring[0], &id, &used));
    dev->reset(dev);
    assert_int_equal(state_load(&saved, dev->state, dev->instance, dev->object, &err), 0);
    state_buf_release(&saved);
    assert_int_equal(config(f, 32, 1), 0);
    assert_int_equal(request(f, T_OUT, 1, BUFFER, 512), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
}

static void each_queue_has_its_own_vector(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(config(f, 34, 2), 4);
    assert_int_equal(reg_read(&f->d, REG_NUM_QUEUES, 2), 4);
    f->disk.hold = true;
    for (u16 q = 0; q < 4; q++) {
        add_request(f, q, q, T_IN, q, BUFFER + 512 * q, 512);
        ring_doorbell(&f->d, q);
    }
    fake_complete(&f->disk, 4);
    for (u16 q = 0; q < 4; q++) {
        u32 id, used;
        assert_true(ring_take(&f->d.ring[q], &id, &used));
        assert_int_equal(f->d.messages[q + 1], 1);
    }
    assert_memory_equal(guest(f, BUFFER, 2048), f->disk.data, 2048);
}

static void too_many_queues_are_refused(void **state)
{
    (void)state;
    struct virtio_blk blk;
    struct error err = {0};
    const struct virtio_blk_config c = {.queues = VIRTIO_BLK_MAX_QUEUES + 1};
    assert_int_equal(virtio_blk_init(&blk, NULL, 0, NULL, NULL, NULL, NULL, &c, &err), -EINVAL);
}

/* --- a real file --- */

#define ROUNDS 200
#define BATCH 8

/* What the page cache has would be done on our own thread else. */
static struct block_device *open_asynchronous(const char *path)
{
    struct block_options o = {.format = BLOCK_FORMAT_RAW, .aio = BLOCK_AIO_URING};
    struct block_device *disk = block_open(path, &o, NULL);
    o.aio = BLOCK_AIO_THREADS; /* where io_uring is not allowed */
    return disk ? disk : block_open(path, &o, NULL);
}

static void a_file_is_written_and_read_through_its_threads(void **state)
{
    (void)state;
    char path[] = "/tmp/trapeze-blk-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && ftruncate(fd, 8 << 20) == 0);
    (void)close(fd);
    struct block_device *disk = open_asynchronous(path);
    assert_non_null(disk);
    struct fixture *f = make(disk, false, 1);
    driver_start(&f->d, ~0ull & ~F(F_CONFIG_WCE), 1, 64);

    u64 buffers = BUFFER + 0x10000;
    for (unsigned round = 0; round < ROUNDS; round++) {
        u32 type = round % 2 ? T_IN : T_OUT, id, used;
        u64 sector = (u64)(round / 2) * BATCH * 8;
        for (unsigned i = 0; i < BATCH; i++) {
            memset(guest(f, buffers + 4096 * i, 4096), type == T_OUT ? (int)(round + 1 + i) : 0, 4096);
            add_request(f, 0, i, type, sector + 8 * i, buffers + 4096 * i, 4096);
        }
        ring_doorbell(&f->d, 0);
        for (unsigned taken = 0; taken < BATCH;) {
            if (ring_take(&f->d.ring[0], &id, &used)) {
                taken++;
                continue;
            }
            /* Nothing is pushed behind our back, since we hold the machine lock. */
            ring_want_interrupt(&f->d.ring[0], 0);
            driver_wait(&f->d, 1, f->d.messages[1] + 1);
        }
        for (unsigned i = 0; i < BATCH; i++) {
            assert_int_equal(status_of(f, i), OK);
            assert_int_equal(*guest(f, buffers + 4096 * i + 4095, 1), (u8)(round + i + (type == T_OUT)));
        }
    }
    void *done = f;
    teardown(&done);
    block_close(disk);
    (void)unlink(path);
}

/* --- several vCPUs --- */

#define THREADS 3
#define THREAD_ROUNDS 150
#define THREAD_BATCH 4

struct vcpu_thread {
    struct fixture *f;
    u16 queue;
    bool ok;
};

/* Waits for @count requests on @queue. The machine lock is given up meanwhile. */
static void take_all(struct fixture *f, u16 queue, unsigned count)
{
    u32 id, used;
    while (count) {
        if (ring_take(&f->d.ring[queue], &id, &used)) {
            count--;
            continue;
        }
        ring_want_interrupt(&f->d.ring[queue], 0);
        driver_wait(&f->d, queue + 1u, f->d.messages[queue + 1] + 1);
    }
}

/* Writes sectors of its own through a queue of its own, and reads them back. */
static void *use_queue(void *arg)
{
    struct vcpu_thread *t = arg;
    struct fixture *f = t->f;
    u64 buffers = BUFFER + 0x20000 + 0x10000ull * t->queue;
    t->ok = true;
    lock_acquire(&f->d.lock);
    for (unsigned round = 0; round < THREAD_ROUNDS; round++) {
        u32 type = round % 2 ? T_IN : T_OUT;
        for (unsigned i = 0; i < THREAD_BATCH; i++) {
            int value = type == T_OUT ? (int)(round + 7 * i + t->queue + 1) : 0;
            memset(guest(f, buffers + 0x2000 * i, 0x2000), value, 0x2000);
            add_request(f, t->queue, t->queue * THREAD_BATCH + i, type,
                        4096ull * t->queue + round / 2 * 64 + 16 * i, buffers + 0x2000 * i, 0x2000);
        }
        ring_doorbell(&f->d, t->queue);
        take_all(f, t->queue, THREAD_BATCH);
        for (unsigned i = 0; i < THREAD_BATCH; i++) {
            u8 want = (u8)((round & ~1u) + 7 * i + t->queue + 1);
            t->ok = t->ok && status_of(f, t->queue * THREAD_BATCH + i) == OK &&
                    *guest(f, buffers + 0x2000 * i + 0x1fff, 1) == want;
        }
    }
    lock_drop(&f->d.lock);
    return NULL;
}

static void vcpus_use_their_queues_at_once(void **state)
{
    (void)state;
    char path[] = "/tmp/trapeze-blk-XXXXXX";
    pthread_t threads[THREADS];
    struct vcpu_thread t[THREADS];
    int fd = mkstemp(path);
    assert_true(fd >= 0 && ftruncate(fd, 8 << 20) == 0);
    (void)close(fd);
    struct block_device *disk = open_asynchronous(path);
    assert_non_null(disk);
    struct fixture *f = make(disk, false, THREADS);
    driver_start(&f->d, ~0ull & ~F(F_CONFIG_WCE), THREADS, 64);
    lock_drop(&f->d.lock);
    for (u16 i = 0; i < THREADS; i++) {
        t[i] = (struct vcpu_thread){.f = f, .queue = i};
        assert_int_equal(pthread_create(&threads[i], NULL, use_queue, &t[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(t[i].ok);
    }
    lock_acquire(&f->d.lock);
    void *done = f;
    teardown(&done);
    block_close(disk);
    (void)unlink(path);
}

#define WITH_DISK(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define ON_BOTH(test)                                         \
    {#test " (split)", test, setup, teardown, NULL},          \
    {                                                         \
#test " (packed)", test, setup_packed, teardown, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DISK(the_configuration_describes_the_disk),
        ON_BOTH(sectors_are_read),
        ON_BOTH(sectors_are_written),
        ON_BOTH(buffers_may_be_cut_anywhere),
        ON_BOTH(the_longest_request_works),
        ON_BOTH(a_flush_reaches_the_disk),
        WITH_DISK(the_id_is_the_serial_number),
        WITH_DISK(ranges_are_zeroed),
        WITH_DISK(ranges_are_discarded),
        ON_BOTH(what_lies_beyond_the_end_is_an_error),
        WITH_DISK(parts_of_sectors_are_an_error),
        WITH_DISK(unknown_requests_are_unsupported),
        WITH_DISK(failures_of_the_disk_are_reported),
        cmocka_unit_test_setup_teardown(a_read_only_disk_is_not_written, setup_read_only, teardown),
        WITH_DISK(requests_without_header_or_status_break_the_device),
        WITH_DISK(writes_are_flushed_for_drivers_that_cannot_flush),
        WITH_DISK(the_driver_chooses_the_cache_mode),
        ON_BOTH(requests_complete_out_of_order_from_another_thread),
        ON_BOTH(a_batch_done_at_once_raises_one_interrupt),
        ON_BOTH(a_batch_of_many_bytes_is_done_in_parts),
        ON_BOTH(a_reset_ends_when_the_last_request_has_ended),
        WITH_DISK(a_system_reset_waits_for_requests),
        WITH_DISK(a_driver_that_does_not_wait_for_the_reset_is_served),
        WITH_DISK(a_save_waits_and_a_restored_device_goes_on),
        cmocka_unit_test_setup_teardown(each_queue_has_its_own_vector, setup_queues, teardown),
        cmocka_unit_test(too_many_queues_are_refused),
        cmocka_unit_test(a_file_is_written_and_read_through_its_threads),
        cmocka_unit_test(vcpus_use_their_queues_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
