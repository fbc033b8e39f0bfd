/* The transport, with the random number generator as the simplest device behind it. */
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "state/codec.h"
#include "virtio-pci-driver.h"
#include "virtio/rng.h"

#define ALL_OK \
    (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)
#define PACKED_RING BIT(VIRTIO_F_RING_PACKED)

struct fixture {
    struct driver d;
    struct virtio_rng rng;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    driver_init(&f->d);
    assert_int_equal(virtio_rng_init(&f->rng, &f->d.bus, DRIVER_DEVFN, &f->d.memory, NULL, NULL), 0);
    driver_plug(&f->d, &f->rng.pci.function.dev);
    enable_msix(&f->d, 2);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    virtio_rng_release(&f->rng);
    driver_release(&f->d);
    free(f);
    return 0;
}

static void the_function_says_what_it_is(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    assert_int_equal(config_read32(d, 0), 0x10441af4);
    assert_int_equal(config_read32(d, 8) & 0xff, 1);
    assert_true(config_read32(d, 0x2c) >> 16 >= 0x40);
    assert_int_equal(config_read32(d, 0x3c) >> 8 & 0xff, 1);
    for (u8 type = 1; type <= 5; type++) {
        u8 cap = find_capability(d, 9, type);
        if (type == 4) {
            assert_int_equal(cap, 0); /* this device has no configuration */
            continue;
        }
        assert_true(cap != 0);
        if (type == 5)
            continue;
        assert_int_equal(config_read32(d, cap + 4u) & 0xff, 0);
        assert_true(config_read32(d, cap + 8u) + config_read32(d, cap + 12u) <= VIRTIO_PCI_BAR_SIZE);
    }
    assert_int_equal(config_read32(d, find_capability(d, 9, 2) + 16u), VIRTIO_PCI_NOTIFY_MULTIPLIER);
}

static void the_window_of_the_configuration_space_reaches_the_registers(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u8 cap = find_capability(d, 9, 5);
    config_write(d, cap + 4u, 0, 1);
    config_write(d, cap + 8u, REG_NUM_QUEUES, 4);
    config_write(d, cap + 12u, 2, 4);
    assert_int_equal(pci_config_read(&d->bus, DRIVER_DEVFN, cap + 16u, 2), 1);
    config_write(d, cap + 8u, REG_STATUS, 4);
    config_write(d, cap + 12u, 1, 4);
    config_write(d, cap + 16u, VIRTIO_STATUS_ACKNOWLEDGE, 1);
    assert_int_equal(get_status(d), VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(pci_config_read(&d->bus, DRIVER_DEVFN, cap + 16u, 1), VIRTIO_STATUS_ACKNOWLEDGE);
}

static void a_senseless_window_does_nothing(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    static const u32 bad[][3] = {{1, REG_STATUS, 1}, {0, REG_STATUS, 3}, {0, REG_STATUS + 1, 4},
                                 {0, ~0u, 1},        {0, 0x4000, 4},     {0, REG_STATUS, 0}};
    u8 cap = find_capability(d, 9, 5);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        config_write(d, cap + 4u, bad[i][0], 1);
        config_write(d, cap + 8u, bad[i][1], 4);
        config_write(d, cap + 12u, bad[i][2], 4);
        config_write(d, cap + 16u, 0xffffffff, 4);
        (void)config_read32(d, cap + 16u);
        assert_int_equal(get_status(d), 0);
    }
}

static void features_come_in_two_windows(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u64 f = device_features(d);
    assert_int_equal(f, BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_INDIRECT_DESC) |
                            BIT(VIRTIO_F_EVENT_IDX));
    reg_write(d, REG_DEVICE_FEATURE_SELECT, 2, 4);
    assert_int_equal(reg_read(d, REG_DEVICE_FEATURE, 4), 0);
    set_features(d, f);
    assert_int_equal(get_status(d), 11);
    assert_int_equal(reg_read(d, REG_DRIVER_FEATURE, 4), f >> 32);
}

static void an_unoffered_feature_is_refused(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    set_features(d, BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_ACCESS_PLATFORM));
    assert_int_equal(get_status(d), VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
}

static void a_queue_that_does_not_exist_has_size_0(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    assert_int_equal(reg_read(d, REG_NUM_QUEUES, 2), 1);
    assert_int_equal(reg_read(d, REG_QUEUE_SIZE, 2), 64);
    reg_write(d, REG_QUEUE_SELECT, 1, 2);
    assert_int_equal(reg_read(d, REG_QUEUE_SIZE, 2), 0);
    reg_write(d, REG_QUEUE_SELECT, 0xffff, 2);
    reg_write(d, REG_QUEUE_SIZE, 8, 2);
    reg_write(d, REG_QUEUE_ENABLE, 1, 2);
    assert_int_equal(reg_read(d, REG_QUEUE_SIZE, 2), 0);
}

static void addresses_may_be_written_whole_or_in_halves(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    for (unsigned i = 0; i < 3; i++) {
        u64 at = REG_QUEUE_DESC + 8 * i;
        reg_write(d, at + 4, 0x11223344, 4);
        reg_write(d, at, 0x55667788, 4);
        assert_int_equal(reg_read(d, at, 8), 0x1122334455667788);
        reg_write(d, at, 0xa1a2a3a4a5a6a7a8, 8);
        assert_int_equal(reg_read(d, at, 4), 0xa5a6a7a8);
        assert_int_equal(reg_read(d, at + 4, 4), 0xa1a2a3a4);
    }
}

static void writes_of_the_wrong_width_change_nothing(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    driver_start(d, 0, 1, 8);
    u8 before[0x38], after[0x38];
    for (unsigned i = 0; i < sizeof before; i++)
        before[i] = (u8)reg_read(d, i, 1);
    for (unsigned i = 0; i < sizeof before; i++) {
        if (i != REG_STATUS)
            reg_write(d, i, 0, 1);
        if (i % 2)
            reg_write(d, i, 0, 2);
        if (i % 4)
            reg_write(d, i, 0, 4);
    }
    reg_write(d, REG_QUEUE_ENABLE, 0, 4);
    reg_write(d, REG_STATUS, 0, 2);
    for (unsigned i = 0; i < sizeof after; i++)
        after[i] = (u8)reg_read(d, i, 1);
    assert_memory_equal(after, before, sizeof before);
    reg_write(d, VIRTIO_PCI_BAR_SIZE - 1, 0xff, 1);
    assert_int_equal(reg_read(d, 0xff0, 8), 0);
}

static void an_enabled_queue_keeps_its_set_up(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    driver_start(d, 0, 1, 8);
    reg_write(d, REG_QUEUE_SIZE, 16, 2);
    reg_write(d, REG_QUEUE_DESC, 0, 8);
    assert_int_equal(reg_read(d, REG_QUEUE_SIZE, 2), 8);
    assert_int_equal(reg_read(d, REG_QUEUE_DESC, 8), d->ring[0].desc);
    assert_int_equal(reg_read(d, REG_QUEUE_ENABLE, 2), 1);
}

static void a_vector_that_does_not_exist_reads_back_as_none(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    assert_int_equal(reg_read(d, REG_CONFIG_VECTOR, 2), 0xffff);
    reg_write(d, REG_CONFIG_VECTOR, 1, 2);
    assert_int_equal(reg_read(d, REG_CONFIG_VECTOR, 2), 1);
    reg_write(d, REG_CONFIG_VECTOR, 2, 2);
    assert_int_equal(reg_read(d, REG_CONFIG_VECTOR, 2), 0xffff);
    reg_write(d, REG_QUEUE_VECTOR, 77, 2);
    assert_int_equal(reg_read(d, REG_QUEUE_VECTOR, 2), 0xffff);
}

/* Asks for @len random bytes; true when the device has filled some. */
static bool ask(struct driver *d, u32 len, u32 *got)
{
    u32 id;
    memset(memory_span(&d->memory, DRIVER_DATA, len), 0, len);
    ring_add(&d->ring[0], &(struct buffer){DRIVER_DATA, len, true}, 1);
    ring_doorbell(d, 0);
    return ring_take(&d->ring[0], &id, got);
}

static void a_doorbell_is_answered_with_a_message(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    for (unsigned packed = 0; packed < 2; packed++) {
        static const u8 zero[64];
        u32 got;
        driver_start(d, packed ? PACKED_RING : 0, 1, 8);
        d->messages[1] = 0;
        assert_true(ask(d, 64, &got));
        assert_int_equal(got, 64);
        assert_memory_not_equal(memory_span(&d->memory, DRIVER_DATA, 64), zero, 64);
        assert_int_equal(d->messages[1], 1);
        assert_int_equal(d->messages[DRIVER_CONFIG_VECTOR], 0);
        assert_false(d->intx);
    }
}

static void long_requests_are_answered_in_part(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u32 got;
    driver_start(d, 0, 1, 8);
    assert_true(ask(d, 100000, &got));
    assert_int_equal(got, VIRTIO_RNG_MAX_BYTES);
    assert_int_equal(*(u8 *)memory_span(&d->memory, DRIVER_DATA + VIRTIO_RNG_MAX_BYTES, 1), 0);
}

static void without_msix_the_isr_and_inta_report(void **state)
{
    struct fixture *f = *state;
    struct driver *d = &f->d;
    u32 got;
    config_write(d, find_capability(d, 0x11, 0) + 2u, 0, 2);
    driver_start(d, 0, 1, 8);
    assert_true(ask(d, 16, &got));
    assert_true(d->intx);
    assert_int_equal(reg_read(d, VIRTIO_PCI_ISR, 1), 1);
    assert_false(d->intx);
    assert_int_equal(reg_read(d, VIRTIO_PCI_ISR, 1), 0);
    virtio_config_changed(&f->rng.vdev);
    assert_true(d->intx);
    assert_int_equal(reg_read(d, VIRTIO_PCI_ISR, 1), 2);
    assert_int_equal(d->messages[0] + d->messages[1], 0);
}

static void a_queue_without_a_vector_is_silent(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u32 got;
    driver_start(d, 0, 1, 8);
    reg_write(d, REG_QUEUE_VECTOR, 0xffff, 2);
    assert_true(ask(d, 16, &got));
    assert_int_equal(d->messages[0] + d->messages[1], 0);
    assert_false(d->intx);
}

static void a_changed_configuration_gets_a_new_generation(void **state)
{
    struct fixture *f = *state;
    struct driver *d = &f->d;
    driver_start(d, 0, 1, 8);
    u64 before = reg_read(d, REG_GENERATION, 1);
    virtio_config_changed(&f->rng.vdev);
    assert_int_not_equal(reg_read(d, REG_GENERATION, 1), before);
    assert_int_equal(d->messages[DRIVER_CONFIG_VECTOR], 1);
}

static void doorbells_without_driver_ok_or_queue_do_nothing(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u32 got;
    driver_start(d, 0, 1, 8);
    reg_write(d, VIRTIO_PCI_NOTIFY + 4 * 1, 1, 2);
    reg_write(d, VIRTIO_PCI_NOTIFY + 0xffc, 0, 2);
    set_status(d, 0);
    set_features(d, BIT(VIRTIO_F_VERSION_1));
    set_up_queue(d, 0, 8, false);
    assert_false(ask(d, 16, &got));
    /* What was made available before DRIVER_OK is done then. */
    set_status(d, ALL_OK);
    assert_true(ring_take(&d->ring[0], &got, &got));
}

static void without_bus_mastering_there_is_no_dma(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u32 got, id;
    driver_start(d, 0, 1, 8);
    config_write(d, 4, 2, 2);
    assert_false(ask(d, 16, &got));
    config_write(d, 4, 6, 2);
    assert_true(ring_take(&d->ring[0], &id, &got));
}

static void a_broken_ring_asks_for_a_reset_and_recovers(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    u32 got;
    driver_start(d, 0, 1, 8);
    ring_add(&d->ring[0], &(struct buffer){DRIVER_RAM, 16, true}, 1);
    ring_doorbell(d, 0);
    assert_int_equal(get_status(d), ALL_OK | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(d->messages[DRIVER_CONFIG_VECTOR], 1);
    assert_false(ask(d, 16, &got));
    driver_start(d, 0, 1, 8);
    assert_int_equal(get_status(d), ALL_OK);
    assert_true(ask(d, 16, &got));
}

static void an_impossible_ring_address_asks_for_a_reset(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    set_features(d, BIT(VIRTIO_F_VERSION_1));
    reg_write(d, REG_QUEUE_DESC, DRIVER_RAM, 8);
    reg_write(d, REG_QUEUE_ENABLE, 1, 2);
    assert_int_equal(reg_read(d, REG_QUEUE_ENABLE, 2), 0);
    assert_true(get_status(d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void a_reset_forgets_everything(void **state)
{
    struct driver *d = &((struct fixture *)*state)->d;
    driver_start(d, 0, 1, 8);
    set_status(d, 0);
    assert_int_equal(get_status(d), 0);
    assert_int_equal(reg_read(d, REG_CONFIG_VECTOR, 2), 0xffff);
    assert_int_equal(reg_read(d, REG_QUEUE_ENABLE, 2), 0);
    assert_int_equal(reg_read(d, REG_QUEUE_SIZE, 2), 64);
    assert_int_equal(reg_read(d, REG_QUEUE_DESC, 8), 0);
    assert_int_equal(reg_read(d, REG_QUEUE_VECTOR, 2), 0xffff);
    reg_write(d, REG_DRIVER_FEATURE_SELECT, 1, 4);
    assert_int_equal(reg_read(d, REG_DRIVER_FEATURE, 4), 0);
}

static void a_system_reset_unmaps_the_registers(void **state)
{
    struct fixture *f = *state;
    driver_start(&f->d, 0, 1, 8);
    f->rng.pci.function.dev.reset(&f->rng.pci.function.dev);
    assert_null(memory_find_mmio(&f->d.memory, DRIVER_BAR0));
    assert_int_equal(f->rng.vdev.status, 0);
}

static void a_saved_device_goes_on_where_it_was(void **state)
{
    struct fixture *f = *state;
    struct driver *d = &f->d;
    struct device *dev = &f->rng.pci.function.dev;
    struct error err = {0};
    u32 got;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct state_buf b = {0};
        driver_start(d, packed ? PACKED_RING : 0, 1, 8);
        for (unsigned i = 0; i < 13; i++)
            assert_true(ask(d, 16, &got));
        assert_int_equal(state_save(&b, dev->state, dev->instance, dev->object, &err), 0);
        dev->reset(dev);
        assert_int_equal(f->rng.vdev.status, 0);
        assert_int_equal(state_load(&b, dev->state, dev->instance, dev->object, &err), 0);
        state_buf_release(&b);
        assert_int_equal(get_status(d), ALL_OK);
        unsigned before = d->messages[1];
        for (unsigned i = 0; i < 13; i++)
            assert_true(ask(d, 16, &got));
        assert_int_equal(d->messages[1], before + 13);
    }
}

static void impossible_saved_states_are_refused(void **state)
{
    struct fixture *f = *state;
    struct device *dev = &f->rng.pci.function.dev;
    struct virtqueue *vq = &f->rng.vdev.queue[0];
    for (unsigned i = 0; i < 8; i++) {
        struct state_buf b = {0};
        struct error err = {0};
        dev->reset(dev);
        driver_plug(&f->d, dev);
        driver_start(&f->d, PACKED_RING, 1, 8);
        switch (i) {
        case 0: vq->size = 65; break;
        case 1: vq->size = 0; break;
        case 2: vq->desc = DRIVER_RAM; break;
        case 3: vq->device |= 1; break;
        case 4: vq->used_idx = 8; break;
        case 5: f->rng.vdev.features |= BIT(60); break;
        case 6: vq->msix_vector = 2; break;
        case 7: f->rng.vdev.status &= (u8)~VIRTIO_STATUS_FEATURES_OK; break;
        }
        assert_int_equal(state_save(&b, dev->state, 0, dev->object, &err), 0);
        dev->reset(dev);
        assert_true(state_load(&b, dev->state, 0, dev->object, &err) < 0);
        state_buf_release(&b);
    }
}

#define WITH_DEVICE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DEVICE(the_function_says_what_it_is),
        WITH_DEVICE(the_window_of_the_configuration_space_reaches_the_registers),
        WITH_DEVICE(a_senseless_window_does_nothing),
        WITH_DEVICE(features_come_in_two_windows),
        WITH_DEVICE(an_unoffered_feature_is_refused),
        WITH_DEVICE(a_queue_that_does_not_exist_has_size_0),
        WITH_DEVICE(addresses_may_be_written_whole_or_in_halves),
        WITH_DEVICE(writes_of_the_wrong_width_change_nothing),
        WITH_DEVICE(an_enabled_queue_keeps_its_set_up),
        WITH_DEVICE(a_vector_that_does_not_exist_reads_back_as_none),
        WITH_DEVICE(a_doorbell_is_answered_with_a_message),
        WITH_DEVICE(long_requests_are_answered_in_part),
        WITH_DEVICE(without_msix_the_isr_and_inta_report),
        WITH_DEVICE(a_queue_without_a_vector_is_silent),
        WITH_DEVICE(a_changed_configuration_gets_a_new_generation),
        WITH_DEVICE(doorbells_without_driver_ok_or_queue_do_nothing),
        WITH_DEVICE(without_bus_mastering_there_is_no_dma),
        WITH_DEVICE(a_broken_ring_asks_for_a_reset_and_recovers),
        WITH_DEVICE(an_impossible_ring_address_asks_for_a_reset),
        WITH_DEVICE(a_reset_forgets_everything),
        WITH_DEVICE(a_system_reset_unmaps_the_registers),
        WITH_DEVICE(a_saved_device_goes_on_where_it_was),
        WITH_DEVICE(impossible_saved_states_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
