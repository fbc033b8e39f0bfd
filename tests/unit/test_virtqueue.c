#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "virtio-driver.h"
#include "virtio/virtio.h"

#define RAM (4u << 20)
#define RING 0x100000ull
#define DATA 0x110000ull
#define TABLE 0x200000ull
#define SIZE 8

struct fixture {
    struct memory memory;
    struct virtio_device dev;
    struct virtqueue *vq;
    struct ring ring;
    unsigned interrupts, config_interrupts;
    struct virtq_chain chain;
};

static void queue_interrupt(struct virtio_device *dev, struct virtqueue *vq)
{
    (void)vq;
    container_of(dev, struct fixture, dev)->interrupts++;
}

static void config_interrupt(struct virtio_device *dev)
{
    container_of(dev, struct fixture, dev)->config_interrupts++;
}

static const struct virtio_transport_ops transport = {
    .queue_interrupt = queue_interrupt,
    .config_interrupt = config_interrupt,
};

static void no_kick(struct virtio_device *dev, unsigned queue)
{
    (void)dev, (void)queue;
}

static const struct virtio_device_ops ops = {.kick = no_kick};

/* What a driver does from reset to DRIVER_OK. */
static void bring_up(struct fixture *f, u16 size, bool packed, bool event_idx)
{
    virtio_set_status(&f->dev, 0);
    virtio_set_status(&f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    u64 features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC);
    if (packed)
        features |= BIT(VIRTIO_F_RING_PACKED);
    if (event_idx)
        features |= BIT(VIRTIO_F_EVENT_IDX);
    virtio_set_features(&f->dev, 0, (u32)features);
    virtio_set_features(&f->dev, 1, (u32)(features >> 32));
    virtio_set_status(&f->dev, VIRTIO_STATUS_FEATURES_OK);
    ring_init(&f->ring, &f->memory, RING, size, packed);
    f->vq->size = size;
    f->vq->desc = f->ring.desc;
    f->vq->driver = f->ring.driver;
    f->vq->device = f->ring.device;
    virtqueue_enable(f->vq);
    virtio_set_status(&f->dev, VIRTIO_STATUS_DRIVER_OK);
    assert_true(virtio_running(&f->dev));
    f->interrupts = f->config_interrupts = 0;
}

static int setup(void **state, bool packed)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_int_equal(memory_init(&f->memory, RAM, NULL), 0);
    virtio_device_init(&f->dev, VIRTIO_RNG, "test", &ops, 0, &f->memory, NULL);
    f->dev.transport = &transport;
    f->vq = virtio_add_queue(&f->dev, 256);
    bring_up(f, SIZE, packed, false);
    *state = f;
    return 0;
}

static int setup_split(void **state)
{
    return setup(state, false);
}

static int setup_packed(void **state)
{
    return setup(state, true);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    memory_release(&f->memory);
    free(f);
    return 0;
}

static bool pop(struct fixture *f)
{
    return virtqueue_pop(f->vq, &f->chain);
}

static void add_one(struct fixture *f)
{
    ring_add(&f->ring, &(struct buffer){DATA, 64, true}, 1);
}

static bool broken(const struct fixture *f)
{
    return f->dev.status & VIRTIO_STATUS_NEEDS_RESET;
}

/* The ring is malformed: nothing is popped, and the device asks for a reset. */
static void assert_broken(struct fixture *f)
{
    assert_false(pop(f));
    assert_true(broken(f));
    assert_int_equal(f->config_interrupts, 1);
    assert_int_equal(f->dev.counters.guest_errors, 1);
}

/* --- good rings --- */

static void an_empty_ring_has_nothing(void **state)
{
    struct fixture *f = *state;
    assert_true(virtqueue_empty(f->vq));
    assert_false(pop(f));
    assert_false(broken(f));
}

static void a_chain_is_popped_with_its_buffers_in_order(void **state)
{
    struct fixture *f = *state;
    const struct buffer b[] = {{DATA, 16, false}, {DATA + 0x1000, 100, false}, {DATA + 0x2000, 512, true}};
    u16 id = ring_add(&f->ring, b, 3);
    assert_true(pop(f));
    assert_int_equal(f->chain.id, id);
    assert_int_equal(f->chain.out, 2);
    assert_int_equal(f->chain.in, 1);
    assert_int_equal(f->chain.out_bytes, 116);
    assert_int_equal(f->chain.in_bytes, 512);
    for (unsigned i = 0; i < 3; i++) {
        assert_ptr_equal(f->chain.iov[i].iov_base, memory_span(&f->memory, b[i].gpa, b[i].len));
        assert_int_equal(f->chain.iov[i].iov_len, b[i].len);
    }
    assert_false(pop(f));
    assert_false(broken(f));
}

static void a_pushed_chain_comes_back_with_id_and_length(void **state)
{
    struct fixture *f = *state;
    u32 got_id, len;
    const struct buffer b[] = {{DATA, 16, false}, {DATA + 0x1000, 64, true}};
    u16 id = ring_add(&f->ring, b, 2);
    assert_true(pop(f));
    assert_false(ring_take(&f->ring, &got_id, &len));
    virtqueue_push(f->vq, &f->chain, 33);
    assert_true(ring_take(&f->ring, &got_id, &len));
    assert_int_equal(got_id, id);
    assert_int_equal(len, 33);
    assert_false(ring_take(&f->ring, &got_id, &len));
}

static void an_indirect_table_is_followed(void **state)
{
    struct fixture *f = *state;
    struct buffer b[20];
    for (unsigned i = 0; i < 20; i++)
        b[i] = (struct buffer){DATA + 0x100 * i, 0x10 + i, i >= 5};
    u16 id = ring_add_indirect(&f->ring, TABLE, b, 20);
    assert_true(pop(f));
    assert_int_equal(f->chain.id, id);
    assert_int_equal(f->chain.out, 5);
    assert_int_equal(f->chain.in, 15);
    assert_int_equal(f->chain.ring_entries, 1);
    assert_int_equal(f->chain.iov[19].iov_len, 0x10 + 19);
}

static void the_longest_indirect_chain_is_taken(void **state)
{
    struct fixture *f = *state;
    struct buffer b[VIRTQ_MAX_SEGMENTS];
    for (unsigned i = 0; i < VIRTQ_MAX_SEGMENTS; i++)
        b[i] = (struct buffer){DATA, 1, true};
    ring_add_indirect(&f->ring, TABLE, b, VIRTQ_MAX_SEGMENTS);
    assert_true(pop(f));
    assert_int_equal(f->chain.in, VIRTQ_MAX_SEGMENTS);
}

/* Packed rings have no such chains (2.8.8). */
static void direct_descriptors_may_lead_to_an_indirect_one(void **state)
{
    struct fixture *f = *state;
    put_indirect(&f->ring, TABLE, &(struct buffer){DATA, 64, true}, 1);
    put_descriptor(&f->ring, entry_gpa(&f->ring, 4), TABLE, 16, D_INDIRECT, 0);
    ring_add_raw(&f->ring, DATA + 0x1000, 16, D_NEXT, 4);
    assert_true(pop(f));
    assert_int_equal(f->chain.out_bytes, 16);
    assert_int_equal(f->chain.in_bytes, 64);
}

static void rings_wrap_around_many_times(void **state)
{
    struct fixture *f = *state;
    for (u32 i = 0; i < 70000; i++) {
        const struct buffer b[] = {{DATA, 16, false}, {DATA + 64, 8, true}, {DATA + 128, i % 60 + 1, true}};
        u32 id, len;
        u16 want = ring_add(&f->ring, b, i % 3 + 1);
        assert_true(pop(f));
        virtqueue_push(f->vq, &f->chain, f->chain.in_bytes);
        assert_true(ring_take(&f->ring, &id, &len));
        assert_int_equal(id, want);
        assert_int_equal(len, f->chain.in_bytes);
    }
    assert_false(broken(f));
}

static void a_full_ring_completes_out_of_order(void **state)
{
    struct fixture *f = *state;
    static struct virtq_chain chains[SIZE];
    bool seen[SIZE] = {false};
    for (unsigned round = 0; round < 5; round++) {
        memset(seen, 0, sizeof seen);
        for (unsigned i = 0; i < SIZE; i++)
            add_one(f);
        for (unsigned i = 0; i < SIZE; i++)
            assert_true(virtqueue_pop(f->vq, &chains[i]));
        assert_false(pop(f));
        for (unsigned i = 0; i < SIZE; i++)
            virtqueue_push(f->vq, &chains[(i * 3 + round) % SIZE], 1);
        u32 id, len;
        while (ring_take(&f->ring, &id, &len)) {
            assert_in_range(id, 0, SIZE - 1);
            assert_false(seen[id]);
            seen[id] = true;
        }
        for (unsigned i = 0; i < SIZE; i++)
            assert_true(seen[i]);
    }
    assert_false(broken(f));
}

static void a_packed_ring_need_not_be_a_power_of_two(void **state)
{
    struct fixture *f = *state;
    bring_up(f, 7, true, true);
    for (unsigned i = 0; i < 100; i++) {
        u32 id, len;
        add_one(f);
        assert_true(pop(f));
        virtqueue_push(f->vq, &f->chain, i % 64 + 1);
        assert_true(ring_take(&f->ring, &id, &len));
        assert_int_equal(len, i % 64 + 1);
    }
}

static void unpop_gives_the_chain_again(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 3 * SIZE; i++) {
        const struct buffer b[] = {{DATA, 16, false}, {DATA + 64, 8, true}};
        u32 got, len;
        u16 id = ring_add(&f->ring, b, 2);
        assert_true(pop(f));
        virtqueue_unpop(f->vq, &f->chain);
        assert_true(pop(f));
        assert_int_equal(f->chain.id, id);
        virtqueue_push(f->vq, &f->chain, 1);
        assert_true(ring_take(&f->ring, &got, &len));
    }
    assert_int_equal(f->vq->in_flight, 0);
}

static void several_chains_come_back_together(void **state)
{
    struct fixture *f = *state;
    for (unsigned round = 0; round < 3 * SIZE; round++) {
        const struct buffer two[] = {{DATA, 16, true}, {DATA + 64, 8, true}};
        struct virtq_taken taken[3];
        u16 ids[3];
        u32 id, len;
        for (unsigned i = 0; i < 3; i++)
            ids[i] = i == 1 ? ring_add(&f->ring, two, 2)
                            : ring_add(&f->ring, &(struct buffer){DATA + 128, 8, true}, 1);
        for (unsigned again = 0; again < 2; again++) {
            for (unsigned i = 0; i < 3; i++) {
                assert_true(pop(f));
                assert_int_equal(f->chain.id, ids[i]);
                taken[i] = virtqueue_taken(f->vq, &f->chain, i + 1);
            }
            if (again == 0)
                virtqueue_unpop_all(f->vq, taken, 3);
        }
        assert_false(ring_take(&f->ring, &id, &len));
        virtqueue_push_all(f->vq, taken, 3);
        for (unsigned i = 0; i < 3; i++) {
            assert_true(ring_take(&f->ring, &id, &len));
            assert_int_equal(id, ids[i]);
            assert_int_equal(len, i + 1);
        }
    }
    assert_int_equal(f->vq->in_flight, 0);
}

static void writes_reach_the_dirty_log(void **state)
{
    struct fixture *f = *state;
    u64 bitmap[RAM / PAGE_SIZE / 64];
    const struct buffer b[] = {{DATA, 64, true}, {DATA + 0x3000, 64, true}, {DATA + 0x5000, 64, true}};
    ring_add(&f->ring, b, 3);
    memory_dirty_log_start(&f->memory);
    assert_true(pop(f));
    virtqueue_push(f->vq, &f->chain, 65);
    memory_dirty_log_fetch(&f->memory, bitmap);
    memory_dirty_log_stop(&f->memory);
    u64 used = f->ring.packed ? f->ring.desc : f->ring.device;
    const u64 dirty[] = {DATA, DATA + 0x3000, used}, clean[] = {DATA + 0x5000, DATA + 0x1000};
    for (unsigned i = 0; i < ARRAY_SIZE(dirty); i++)
        assert_true(bitmap[dirty[i] / PAGE_SIZE / 64] >> (dirty[i] / PAGE_SIZE % 64) & 1);
    for (unsigned i = 0; i < ARRAY_SIZE(clean); i++)
        assert_false(bitmap[clean[i] / PAGE_SIZE / 64] >> (clean[i] / PAGE_SIZE % 64) & 1);
}

/* --- suppression --- */

static void complete_one(struct fixture *f)
{
    add_one(f);
    assert_true(pop(f));
    virtqueue_push(f->vq, &f->chain, 1);
    virtqueue_notify(f->vq);
}

static void interrupts_can_be_switched_off(void **state)
{
    struct fixture *f = *state;
    complete_one(f);
    assert_int_equal(f->interrupts, 1);
    ring_interrupts_off(&f->ring, true);
    complete_one(f);
    assert_int_equal(f->interrupts, 1);
    ring_interrupts_off(&f->ring, false);
    complete_one(f);
    assert_int_equal(f->interrupts, 2);
}

static void notify_without_push_does_not_interrupt(void **state)
{
    struct fixture *f = *state;
    complete_one(f);
    virtqueue_notify(f->vq);
    assert_int_equal(f->interrupts, 1);
}

static void the_event_index_delays_interrupts(void **state)
{
    struct fixture *f = *state;
    u32 id, len;
    bring_up(f, SIZE, f->ring.packed, true);
    for (unsigned round = 0; round < 50; round++) {
        unsigned ahead = round % SIZE;
        f->interrupts = 0;
        ring_want_interrupt(&f->ring, (u16)ahead);
        for (unsigned i = 0; i <= ahead; i++) {
            assert_int_equal(f->interrupts, 0);
            complete_one(f);
        }
        assert_int_equal(f->interrupts, 1);
        while (ring_take(&f->ring, &id, &len)) {
        }
    }
}

static void a_batch_that_passes_the_event_interrupts_once(void **state)
{
    struct fixture *f = *state;
    bring_up(f, SIZE, f->ring.packed, true);
    ring_want_interrupt(&f->ring, 2);
    for (unsigned i = 0; i < 5; i++) {
        add_one(f);
        assert_true(pop(f));
        virtqueue_push(f->vq, &f->chain, 1);
    }
    virtqueue_notify(f->vq);
    assert_int_equal(f->interrupts, 1);
}

static void a_doorbell_is_wanted_only_after_the_ring_was_seen_empty(void **state)
{
    struct fixture *f = *state;
    bring_up(f, SIZE, f->ring.packed, true);
    for (unsigned i = 0; i < 3 * SIZE; i++) {
        assert_false(pop(f));
        add_one(f);
        assert_true(ring_doorbell_wanted(&f->ring));
        add_one(f);
        assert_false(ring_doorbell_wanted(&f->ring));
        for (unsigned k = 0; k < 2; k++) {
            u32 id, len;
            assert_true(pop(f));
            virtqueue_push(f->vq, &f->chain, 1);
            assert_true(ring_take(&f->ring, &id, &len));
        }
    }
}

static void doorbells_are_off_while_chains_are_taken(void **state)
{
    struct fixture *f = *state;
    u64 flags = f->ring.packed ? f->ring.device + 2 : f->ring.device;
    add_one(f);
    assert_true(pop(f));
    assert_int_equal(get_le16(ring_at(&f->ring, flags)), 1);
    assert_false(pop(f));
    assert_int_equal(get_le16(ring_at(&f->ring, flags)), 0);
}

/* --- hostile rings --- */

static void a_loop_of_descriptors_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    if (!f->ring.packed) {
        put_descriptor(&f->ring, entry_gpa(&f->ring, 1), DATA, 16, D_NEXT, 0);
        ring_add_raw(&f->ring, DATA, 16, D_NEXT, 1);
    } else {
        for (u16 i = 0; i < SIZE; i++)
            put_descriptor(&f->ring, entry_gpa(&f->ring, i), DATA, 16, D_NEXT | D_AVAIL, 0);
    }
    assert_broken(f);
}

/* tables are sequential */
static void a_loop_in_an_indirect_table_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    put_descriptor(&f->ring, TABLE, DATA, 16, D_NEXT, 1);
    put_descriptor(&f->ring, TABLE + 16, DATA, 16, D_NEXT, 0);
    ring_add_raw(&f->ring, TABLE, 32, D_INDIRECT, 0);
    assert_broken(f);
}

static void too_many_segments_break_the_device(void **state)
{
    struct fixture *f = *state;
    struct buffer b[VIRTQ_MAX_SEGMENTS + 1];
    for (unsigned i = 0; i <= VIRTQ_MAX_SEGMENTS; i++)
        b[i] = (struct buffer){DATA, 1, true};
    ring_add_indirect(&f->ring, TABLE, b, VIRTQ_MAX_SEGMENTS + 1);
    assert_broken(f);
}

/* Packed rings have no next field. */
static void a_next_out_of_range_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    ring_add_raw(&f->ring, DATA, 16, D_NEXT, SIZE);
    assert_broken(f);
}

static void a_head_out_of_range_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    ring_publish(&f->ring, SIZE);
    assert_broken(f);
}

static void an_avail_index_that_jumps_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    put_le16(ring_at(&f->ring, f->ring.driver + 2), SIZE + 1);
    assert_broken(f);
}

static void a_packed_buffer_id_out_of_range_is_only_echoed(void **state)
{
    struct fixture *f = *state;
    u32 id, len;
    put_descriptor(&f->ring, entry_gpa(&f->ring, 0), DATA, 16, D_AVAIL | D_WRITE, 0xffff);
    assert_true(pop(f));
    virtqueue_push(f->vq, &f->chain, 1);
    assert_true(ring_take(&f->ring, &id, &len));
    assert_int_equal(id, 0xffff);
}

static void buffers_outside_of_ram_break_the_device(void **state)
{
    struct fixture *f = *state;
    const struct buffer bad[] = {
        {RAM, 1, true},
        {RAM - 8, 16, true},
        {MEMORY_VGA_START, 16, true},
        {MEMORY_VGA_START - 1, 2, true},
        {~0ull - 4, 16, false},
        {~0ull, 1, false},
        {DATA, ~0u, true},
        {MEMORY_HOLE_START, 1, false},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        bring_up(f, SIZE, f->ring.packed, false);
        f->dev.counters.guest_errors = 0;
        ring_add(&f->ring, &bad[i], 1);
        assert_broken(f);
    }
}

static void an_empty_buffer_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    ring_add(&f->ring, &(struct buffer){DATA, 0, true}, 1);
    assert_broken(f);
}

static void a_readable_buffer_after_a_writable_one_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    const struct buffer b[] = {{DATA, 16, true}, {DATA + 64, 16, false}};
    ring_add(&f->ring, b, 2);
    assert_broken(f);
}

static void bad_indirect_tables_break_the_device(void **state)
{
    struct fixture *f = *state;
    const struct {
        u64 gpa;
        u32 len;
        u16 flags;
    } bad[] = {
        {TABLE, 0, D_INDIRECT},       {TABLE, 15, D_INDIRECT},          {TABLE, 17, D_INDIRECT},
        {RAM - 16, 32, D_INDIRECT},   {TABLE, 16, D_INDIRECT | D_NEXT}, {TABLE, 0xfffffff0, D_INDIRECT},
        {~0ull - 15, 32, D_INDIRECT}, {TABLE, 16 * 1025, D_INDIRECT},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        bring_up(f, SIZE, f->ring.packed, false);
        f->dev.counters.guest_errors = 0;
        put_indirect(&f->ring, TABLE, &(struct buffer){DATA, 16, true}, 1);
        ring_add_raw(&f->ring, bad[i].gpa, bad[i].len, bad[i].flags, 1);
        assert_broken(f);
    }
}

/* The flag means nothing in the tables of packed rings. */
static void a_nested_indirect_table_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    put_descriptor(&f->ring, TABLE, TABLE, 16, D_INDIRECT, 0);
    ring_add_raw(&f->ring, TABLE, 16, D_INDIRECT, 0);
    assert_broken(f);
}

static void an_indirect_table_without_the_feature_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    f->dev.features &= ~BIT(VIRTIO_F_INDIRECT_DESC);
    ring_add_indirect(&f->ring, TABLE, &(struct buffer){DATA, 16, true}, 1);
    assert_broken(f);
}

static void more_chains_than_the_ring_holds_break_the_device(void **state)
{
    struct fixture *f = *state;
    if (f->ring.packed) {
        /* The device has not used the entries, and yet the driver makes them available again. */
        for (unsigned i = 0; i < SIZE; i++)
            add_one(f);
        for (unsigned i = 0; i < SIZE; i++)
            assert_true(pop(f));
        add_one(f);
    } else {
        for (unsigned i = 0; i < SIZE; i++) {
            ring_publish(&f->ring, 0);
            put_descriptor(&f->ring, entry_gpa(&f->ring, 0), DATA, 16, D_WRITE, 0);
            assert_true(pop(f));
        }
        ring_publish(&f->ring, 0);
    }
    assert_broken(f);
}

static void impossible_ring_layouts_are_refused(void **state)
{
    struct fixture *f = *state;
    const u64 good = f->ring.desc;
    const struct {
        u16 size;
        u64 desc, driver, device;
    } bad[] = {
        {0, good, good, good},     {512, good, good, good},           {8, good + 8, good, good},
        {8, good, good + 1, good}, {8, good, good, good + 2},         {8, RAM, good, good},
        {8, good, RAM, good},      {8, good, good, RAM - 2},          {8, RAM - 64, good, good},
        {8, ~15ull, good, good},   {8, MEMORY_VGA_START, good, good},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        bring_up(f, SIZE, f->ring.packed, false);
        f->vq->enabled = false;
        f->vq->size = bad[i].size;
        f->vq->desc = bad[i].desc;
        f->vq->driver = bad[i].driver;
        f->vq->device = bad[i].device;
        virtqueue_enable(f->vq);
        assert_false(f->vq->enabled);
        assert_true(broken(f));
    }
}

static void a_split_ring_must_be_a_power_of_two(void **state)
{
    struct fixture *f = *state;
    f->vq->enabled = false;
    f->vq->size = 7;
    virtqueue_enable(f->vq);
    assert_int_equal(f->vq->enabled, f->ring.packed);
}

static void a_broken_device_stays_quiet_until_reset(void **state)
{
    struct fixture *f = *state;
    u32 id, len;
    add_one(f);
    assert_true(pop(f));
    ring_add(&f->ring, &(struct buffer){DATA, 0, true}, 1);
    struct virtq_chain held = f->chain;
    assert_broken(f);
    virtqueue_push(f->vq, &held, 1);
    virtqueue_notify(f->vq);
    assert_false(ring_take(&f->ring, &id, &len));
    assert_int_equal(f->interrupts, 0);
    add_one(f);
    assert_false(pop(f));

    bring_up(f, SIZE, f->ring.packed, false);
    complete_one(f);
    assert_true(ring_take(&f->ring, &id, &len));
    assert_int_equal(f->interrupts, 1);
}

/* --- features and status --- */

static void unoffered_features_are_not_confirmed(void **state)
{
    struct fixture *f = *state;
    virtio_set_status(&f->dev, 0);
    virtio_set_features(&f->dev, 0, 1u << 7);
    virtio_set_features(&f->dev, 1, 1);
    virtio_set_status(&f->dev, VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    assert_int_equal(f->dev.status, VIRTIO_STATUS_DRIVER);
    virtio_set_status(&f->dev, VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK);
    assert_int_equal(f->dev.status, VIRTIO_STATUS_DRIVER);
}

static void version_1_is_required(void **state)
{
    struct fixture *f = *state;
    virtio_set_status(&f->dev, 0);
    virtio_set_status(&f->dev, VIRTIO_STATUS_FEATURES_OK);
    assert_int_equal(f->dev.status, 0);
}

static void features_are_fixed_once_confirmed(void **state)
{
    struct fixture *f = *state;
    u64 before = f->dev.features;
    virtio_set_features(&f->dev, 0, 0);
    assert_int_equal(f->dev.features, before);
}

static void the_driver_can_neither_set_nor_clear_needs_reset(void **state)
{
    struct fixture *f = *state;
    virtio_set_status(&f->dev, 0xff & ~VIRTIO_STATUS_FAILED);
    assert_false(broken(f));
    virtio_device_error(&f->dev, "test");
    virtio_set_status(&f->dev, VIRTIO_STATUS_DRIVER_OK);
    assert_true(broken(f));
}

static void iov_copies_cross_segments(void **state)
{
    (void)state;
    char a[4], b[1], c[8], out[16] = {0};
    struct iovec iov[] = {{a, 4}, {b, 1}, {c, 8}};
    assert_int_equal(iov_write(iov, 3, 0, "0123456789abc", 13), 13);
    assert_int_equal(iov_read(iov, 3, 3, out, 5), 5);
    assert_memory_equal(out, "34567", 5);
    assert_int_equal(iov_write(iov, 3, 12, "xyz", 3), 1);
    assert_int_equal(iov_read(iov, 3, 13, out, 3), 0);
    assert_int_equal(iov_read(iov, 3, 11, out, 9), 2);
    assert_memory_equal(out, "bx", 2);
}

#define ON_SPLIT(test)                                      \
    {                                                       \
#test " (split)", test, setup_split, teardown, NULL \
    }
#define ON_PACKED(test)                                       \
    {                                                         \
#test " (packed)", test, setup_packed, teardown, NULL \
    }
#define ON_BOTH(test) ON_SPLIT(test), ON_PACKED(test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(an_empty_ring_has_nothing),
        ON_BOTH(a_chain_is_popped_with_its_buffers_in_order),
        ON_BOTH(a_pushed_chain_comes_back_with_id_and_length),
        ON_BOTH(an_indirect_table_is_followed),
        ON_BOTH(the_longest_indirect_chain_is_taken),
        ON_SPLIT(direct_descriptors_may_lead_to_an_indirect_one),
        ON_BOTH(rings_wrap_around_many_times),
        ON_BOTH(a_full_ring_completes_out_of_order),
        ON_BOTH(a_packed_ring_need_not_be_a_power_of_two),
        ON_BOTH(unpop_gives_the_chain_again),
        ON_BOTH(several_chains_come_back_together),
        ON_BOTH(writes_reach_the_dirty_log),
        ON_BOTH(interrupts_can_be_switched_off),
        ON_BOTH(notify_without_push_does_not_interrupt),
        ON_BOTH(the_event_index_delays_interrupts),
        ON_BOTH(a_batch_that_passes_the_event_interrupts_once),
        ON_BOTH(a_doorbell_is_wanted_only_after_the_ring_was_seen_empty),
        ON_BOTH(doorbells_are_off_while_chains_are_taken),
        ON_BOTH(a_loop_of_descriptors_breaks_the_device),
        ON_SPLIT(a_loop_in_an_indirect_table_breaks_the_device),
        ON_BOTH(too_many_segments_break_the_device),
        ON_SPLIT(a_next_out_of_range_breaks_the_device),
        ON_SPLIT(a_head_out_of_range_breaks_the_device),
        ON_SPLIT(an_avail_index_that_jumps_breaks_the_device),
        ON_PACKED(a_packed_buffer_id_out_of_range_is_only_echoed),
        ON_BOTH(buffers_outside_of_ram_break_the_device),
        ON_BOTH(an_empty_buffer_breaks_the_device),
        ON_BOTH(a_readable_buffer_after_a_writable_one_breaks_the_device),
        ON_BOTH(bad_indirect_tables_break_the_device),
        ON_SPLIT(a_nested_indirect_table_breaks_the_device),
        ON_BOTH(an_indirect_table_without_the_feature_breaks_the_device),
        ON_BOTH(more_chains_than_the_ring_holds_break_the_device),
        ON_BOTH(impossible_ring_layouts_are_refused),
        ON_BOTH(a_split_ring_must_be_a_power_of_two),
        ON_BOTH(a_broken_device_stays_quiet_until_reset),
        ON_BOTH(unoffered_features_are_not_confirmed),
        ON_BOTH(version_1_is_required),
        ON_BOTH(features_are_fixed_once_confirmed),
        ON_BOTH(the_driver_can_neither_set_nor_clear_needs_reset),
        cmocka_unit_test(iov_copies_cross_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
