/* fw_cfg through its ports, as firmware and Linux use it. */
#include "device.h"

#include <endian.h>
#include <errno.h>

#include "hw/fw-cfg.h"

#define SELECTOR 0x510
#define DATA 0x511
#define DMA_HIGH 0x514
#define DMA_LOW 0x518
#define DESCRIPTOR 0x1000 /* where the tests put theirs */
#define BUFFER 0x2000

enum { ERROR = 1, READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

struct fixture {
    struct bench b;
    struct fw_cfg f;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    bench_init(&f->b);
    assert_int_equal(fw_cfg_init(&f->f, &f->b.memory, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    fw_cfg_release(&f->f);
    bench_release(&f->b);
    free(f);
    return 0;
}

static void select_key(struct fixture *f, u16 key)
{
    out16(&f->b, SELECTOR, key);
}

static void read_bytes(struct fixture *f, void *buf, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        ((u8 *)buf)[i] = in8(&f->b, DATA);
}

/* Starts a transfer and returns the control word it left. */
static u32 dma_at(struct fixture *f, u64 descriptor, u32 control, u32 length, u64 address)
{
    u32 c = htobe32(control), l = htobe32(length), result;
    u64 a = htobe64(address);

    memory_write(&f->b.memory, descriptor, &c, 4);
    memory_write(&f->b.memory, descriptor + 4, &l, 4);
    memory_write(&f->b.memory, descriptor + 8, &a, 8);
    out32(&f->b, DMA_HIGH, htobe32(descriptor >> 32));
    out32(&f->b, DMA_LOW, htobe32((u32)descriptor));
    result = c;
    memory_read(&f->b.memory, descriptor, &result, 4);
    return be32toh(result);
}

static u32 dma(struct fixture *f, u32 control, u32 length, u64 address)
{
    return dma_at(f, DESCRIPTOR, control, length, address);
}

static void signature_and_id(void **state)
{
    struct fixture *f = *state;
    u8 buf[4];

    select_key(f, FW_CFG_SIGNATURE);
    read_bytes(f, buf, 4);
    assert_memory_equal(buf, "QEMU", 4);
    select_key(f, FW_CFG_ID);
    read_bytes(f, buf, 4);
    assert_int_equal(get_le32(buf), 3);
}

static void dma_address_register_reads_its_signature(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(be32toh(in32(&f->b, DMA_HIGH)), 0x51454d55);
    assert_int_equal(be32toh(in32(&f->b, DMA_LOW)), 0x20434647);
}

static void selecting_starts_at_the_beginning(void **state)
{
    struct fixture *f = *state;
    u8 buf[2];

    select_key(f, FW_CFG_SIGNATURE);
    read_bytes(f, buf, 2);
    select_key(f, FW_CFG_SIGNATURE);
    read_bytes(f, buf, 2);
    assert_memory_equal(buf, "QE", 2);
}

static void reading_past_the_end_gives_zeroes(void **state)
{
    struct fixture *f = *state;
    u8 buf[8];

    select_key(f, FW_CFG_SIGNATURE);
    read_bytes(f, buf, 8);
    assert_memory_equal(buf, "QEMU\0\0\0\0", 8);
}

static void unknown_keys_read_zeroes(void **state)
{
    struct fixture *f = *state;

    for (unsigned key = 0; key < 0x10000; key++) {
        if (key == FW_CFG_SIGNATURE || key == FW_CFG_ID || key == FW_CFG_FILE_DIR || (key & 0x4000))
            continue;
        select_key(f, key);
        assert_int_equal(in8(&f->b, DATA), 0);
    }
}

static void integers_are_little_endian(void **state)
{
    struct fixture *f = *state;
    u8 buf[8];

    assert_int_equal(fw_cfg_add_u16(&f->f, FW_CFG_NB_CPUS, 0x1234, NULL), 0);
    assert_int_equal(fw_cfg_add_u64(&f->f, FW_CFG_RAM_SIZE, 0x1122334455667788ull, NULL), 0);
    select_key(f, FW_CFG_NB_CPUS);
    read_bytes(f, buf, 2);
    assert_memory_equal(buf, "\x34\x12", 2);
    select_key(f, FW_CFG_RAM_SIZE);
    read_bytes(f, buf, 8);
    assert_memory_equal(buf, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
}

static void local_keys_are_apart_from_generic_ones(void **state)
{
    struct fixture *f = *state;

    fw_cfg_add(&f->f, 0x03, "g", 1, NULL);
    fw_cfg_add(&f->f, FW_CFG_E820_TABLE, "l", 1, NULL);
    select_key(f, 0x03);
    assert_int_equal(in8(&f->b, DATA), 'g');
    select_key(f, 0x8003);
    assert_int_equal(in8(&f->b, DATA), 'l');
}

static void adding_again_replaces(void **state)
{
    struct fixture *f = *state;
    char buf[8];

    fw_cfg_add_string(&f->f, FW_CFG_CMDLINE_DATA, "first", NULL);
    fw_cfg_add_string(&f->f, FW_CFG_CMDLINE_DATA, "new", NULL);
    select_key(f, FW_CFG_CMDLINE_DATA);
    read_bytes(f, buf, 8);
    assert_memory_equal(buf, "new\0\0\0\0", 8);
}

static void keys_of_files_and_of_the_directory_are_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};

    assert_int_equal(fw_cfg_add(&f->f, FW_CFG_FILE_DIR, "x", 1, &err), -EINVAL);
    assert_int_equal(fw_cfg_add(&f->f, FW_CFG_FILE_FIRST, "x", 1, &err), -EINVAL);
    assert_int_equal(fw_cfg_add(&f->f, 0x4001, "x", 1, &err), -EINVAL);
    assert_int_not_equal(err.text[0], 0);
}

static void directory_lists_files_sorted(void **state)
{
    static const char *const names[] = {"etc/b", "opt/z", "bootorder", "etc/a"};
    static const char *const sorted[] = {"bootorder", "etc/a", "etc/b", "opt/z"};
    struct fixture *f = *state;
    u8 entry[64];

    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(fw_cfg_add_file(&f->f, names[i], names[i], strlen(names[i]), NULL), 0);
    select_key(f, FW_CFG_FILE_DIR);
    read_bytes(f, entry, 4);
    assert_int_equal(be32toh(get_le32(entry)), 4);
    for (unsigned i = 0; i < 4; i++) {
        read_bytes(f, entry, 64);
        assert_int_equal(be32toh(get_le32(entry)), strlen(sorted[i]));
        assert_int_equal(be16toh(get_le16(entry + 4)), FW_CFG_FILE_FIRST + i);
        assert_string_equal((char *)entry + 8, sorted[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        char content[16];

        select_key(f, FW_CFG_FILE_FIRST + i);
        read_bytes(f, content, sizeof content);
        assert_string_equal(content, sorted[i]);
    }
}

static void a_file_added_again_is_replaced(void **state)
{
    struct fixture *f = *state;
    u8 entry[8];

    fw_cfg_add_file(&f->f, "f", "one", 3, NULL);
    fw_cfg_add_file(&f->f, "f", "three", 5, NULL);
    select_key(f, FW_CFG_FILE_DIR);
    read_bytes(f, entry, 8);
    assert_int_equal(be32toh(get_le32(entry)), 1);
    assert_int_equal(be32toh(get_le32(entry + 4)), 5);
}

static void file_names_and_count_have_limits(void **state)
{
    struct fixture *f = *state;
    char name[FW_CFG_NAME + 1];

    memset(name, 'n', sizeof name);
    name[FW_CFG_NAME] = 0;
    assert_int_equal(fw_cfg_add_file(&f->f, name, "", 0, NULL), -EINVAL);
    assert_int_equal(fw_cfg_add_file(&f->f, "", "", 0, NULL), -EINVAL);
    name[FW_CFG_NAME - 1] = 0;
    assert_int_equal(fw_cfg_add_file(&f->f, name, "", 0, NULL), 0);
    for (unsigned i = 1; i < FW_CFG_FILES; i++) {
        snprintf(name, sizeof name, "%u", i);
        assert_int_equal(fw_cfg_add_file(&f->f, name, "", 0, NULL), 0);
    }
    assert_int_equal(fw_cfg_add_file(&f->f, "one more", "", 0, NULL), -ENOSPC);
}

static void dma_reads_a_whole_item(void **state)
{
    struct fixture *f = *state;
    u8 item[5000], got[5000];

    for (unsigned i = 0; i < sizeof item; i++)
        item[i] = i * 13;
    fw_cfg_add_file(&f->f, "blob", item, sizeof item, NULL);
    assert_int_equal(dma(f, SELECT | READ | FW_CFG_FILE_FIRST << 16, sizeof item, BUFFER), 0);
    memory_read(&f->b.memory, BUFFER, got, sizeof got);
    assert_memory_equal(got, item, sizeof item);
}

static void dma_goes_on_where_it_stopped(void **state)
{
    struct fixture *f = *state;
    char got[8] = {0};

    fw_cfg_add_file(&f->f, "f", "abcdefgh", 8, NULL);
    assert_int_equal(dma(f, SELECT | READ | FW_CFG_FILE_FIRST << 16, 2, BUFFER), 0);
    assert_int_equal(dma(f, SKIP, 3, 0), 0);
    assert_int_equal(dma(f, READ, 2, BUFFER + 2), 0);
    assert_int_equal(in8(&f->b, DATA), 'h');
    memory_read(&f->b.memory, BUFFER, got, 4);
    assert_memory_equal(got, "abfg", 4);
}

static void dma_past_the_end_gives_zeroes(void **state)
{
    struct fixture *f = *state;
    u8 got[16];

    memset(got, 0xff, sizeof got);
    memory_write(&f->b.memory, BUFFER, got, sizeof got);
    assert_int_equal(dma(f, SELECT | READ, 12, BUFFER), 0);
    memory_read(&f->b.memory, BUFFER, got, sizeof got);
    assert_memory_equal(got, "QEMU\0\0\0\0\0\0\0\0\xff\xff\xff\xff", 16);
}

static void dma_skip_stops_at_the_end(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dma(f, SELECT | SKIP, 0xffffffff, 0), 0);
    assert_int_equal(dma(f, SKIP, 0xffffffff, 0), 0);
    assert_int_equal(in8(&f->b, DATA), 0);
}

static void dma_write_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dma(f, SELECT | WRITE, 4, BUFFER), ERROR);
    select_key(f, FW_CFG_SIGNATURE);
    assert_int_equal(in8(&f->b, DATA), 'Q');
}

static void dma_with_nothing_to_do_succeeds(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dma(f, 0, 100, ~0ull), 0);
    assert_int_equal(dma(f, SELECT | READ, 0, ~0ull), 0);
}

static void dma_outside_of_ram_is_an_error(void **state)
{
    static const u64 bad[] = {~0ull, 0x100000, 0xfffff, 0xffffe, 0xa0000, 0x9fffe, 1ull << 40, ~0ull - 2};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(dma(f, SELECT | READ, 4, bad[i]), ERROR);
}

static void dma_of_4_gib_is_an_error(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dma(f, SELECT | READ, 0xffffffff, 0), ERROR);
    assert_int_equal(dma(f, READ, 0x80000, 0xc0000), ERROR);
}

static void descriptor_outside_of_ram_is_ignored(void **state)
{
    static const u64 bad[] = {0x100000, 0xffff8, ~0ull, ~0ull - 15, 0x9fff8, 1ull << 52};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        dma_at(f, bad[i], SELECT | READ, 4, BUFFER);
    assert_int_equal(dma(f, SELECT | READ, 4, BUFFER), 0); /* still works */
}

static void transfer_over_its_own_descriptor_ends(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dma(f, SELECT | READ, 64, DESCRIPTOR), 0);
}

static void wrong_sizes_do_nothing(void **state)
{
    struct fixture *f = *state;

    select_key(f, FW_CFG_SIGNATURE);
    out8(&f->b, SELECTOR, 1);
    out8(&f->b, DATA, 1);
    out32(&f->b, SELECTOR, 1);
    assert_int_equal(in8(&f->b, SELECTOR), 0);
    assert_int_equal(in8(&f->b, DATA), 'Q');
}

static void state_survives_save_and_load(void **state)
{
    struct fixture *f = *state;

    select_key(f, FW_CFG_SIGNATURE);
    in8(&f->b, DATA);
    bench_round_trip(&f->f.dev);
    assert_int_equal(in8(&f->b, DATA), 'E');
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(signature_and_id),
        TEST(dma_address_register_reads_its_signature),
        TEST(selecting_starts_at_the_beginning),
        TEST(reading_past_the_end_gives_zeroes),
        TEST(unknown_keys_read_zeroes),
        TEST(integers_are_little_endian),
        TEST(local_keys_are_apart_from_generic_ones),
        TEST(adding_again_replaces),
        TEST(keys_of_files_and_of_the_directory_are_refused),
        TEST(directory_lists_files_sorted),
        TEST(a_file_added_again_is_replaced),
        TEST(file_names_and_count_have_limits),
        TEST(dma_reads_a_whole_item),
        TEST(dma_goes_on_where_it_stopped),
        TEST(dma_past_the_end_gives_zeroes),
        TEST(dma_skip_stops_at_the_end),
        TEST(dma_write_is_refused),
        TEST(dma_with_nothing_to_do_succeeds),
        TEST(dma_outside_of_ram_is_an_error),
        TEST(dma_of_4_gib_is_an_error),
        TEST(descriptor_outside_of_ram_is_ignored),
        TEST(transfer_over_its_own_descriptor_ends),
        TEST(wrong_sizes_do_nothing),
        TEST(state_survives_save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
