/* What can be said of qcow2 images without another implementation; tests/disk compares with qemu-img. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/block/qcow2-internal.h"

#define SIZE (4u << 20)
#define CLUSTER 65536u

struct fixture {
    char dir[64], path[96], base[96];
    struct block_device *disk;
    struct error err;
};

static struct block_device *open_image(struct fixture *f, struct block_options o)
{
    o.synchronous = true;
    f->err.text[0] = '\0';
    return block_open(f->path, &o, &f->err);
}

static void reopen(struct fixture *f, struct block_options o)
{
    block_close(f->disk);
    f->disk = open_image(f, o);
    if (!f->disk)
        fail_msg("%s", f->err.text);
}

static void create(struct fixture *f, struct qcow2_create c)
{
    c.size = c.size ? c.size : SIZE;
    block_close(f->disk);
    f->disk = NULL;
    assert_int_equal(qcow2_create(f->path, &c, &f->err), 0);
    reopen(f, (struct block_options){.format = BLOCK_FORMAT_QCOW2});
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/trapeze-qcow2-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof f->path, "%s/disk.qcow2", f->dir);
    (void)snprintf(f->base, sizeof f->base, "%s/base.raw", f->dir);
    create(f, (struct qcow2_create){0});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    block_close(f->disk);
    (void)unlink(f->path);
    (void)unlink(f->base);
    (void)rmdir(f->dir);
    free(f);
    return 0;
}

static void patch(const struct fixture *f, off_t at, const void *data, size_t len)
{
    int fd = open(f->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, data, len, at), len);
    (void)close(fd);
}

static void patch_be64(const struct fixture *f, off_t at, u64 v)
{
    u8 b[8];
    put_be64(b, v);
    patch(f, at, b, 8);
}

static void patch_be32(const struct fixture *f, off_t at, u32 v)
{
    u8 b[4];
    put_be32(b, v);
    patch(f, at, b, 4);
}

static void write_byte(struct fixture *f, u64 offset, u64 len, u8 value)
{
    u8 *buf = malloc(len);
    memset(buf, value, len);
    assert_int_equal(block_write(f->disk, offset, buf, len), 0);
    free(buf);
}

static void expect_byte(struct fixture *f, u64 offset, u64 len, u8 value)
{
    u8 *buf = malloc(len);
    memset(buf, ~value, len);
    assert_int_equal(block_read(f->disk, offset, buf, len), 0);
    for (u64 i = 0; i < len; i++)
        if (buf[i] != value)
            fail_msg("byte %llu is %u, expected %u", (unsigned long long)(offset + i), buf[i], value);
    free(buf);
}

static void expect_sound(struct fixture *f)
{
    struct qcow2_check c = {.report = NULL};
    assert_int_equal(qcow2_check(f->disk, QCOW2_REPAIR_NONE, &c, &f->err), 0);
    assert_int_equal(c.corruptions, 0);
    assert_int_equal(c.leaks, 0);
}

/* --- reading and writing --- */

static void what_is_written_is_read_after_reopening(void **state)
{
    struct fixture *f = *state;
    write_byte(f, 1000 * 512, 300 * 512, 7);
    reopen(f, (struct block_options){.read_only = true});
    expect_byte(f, 1000 * 512, 300 * 512, 7);
    expect_byte(f, 0, 1000 * 512, 0);
    expect_byte(f, 1300 * 512, 100 * 512, 0);
    expect_sound(f);
}

static void what_nobody_wrote_comes_from_the_backing_file(void **state)
{
    struct fixture *f = *state;
    int fd = open(f->base, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    u8 ones[3 * 512];
    memset(ones, 1, sizeof ones);
    assert_int_equal(pwrite(fd, ones, sizeof ones, 0), sizeof ones);
    (void)close(fd);
    create(f, (struct qcow2_create){.backing = "base.raw", .backing_format = "raw"});
    write_byte(f, 512, 512, 2);
    expect_byte(f, 0, 512, 1);
    expect_byte(f, 512, 512, 2);
    expect_byte(f, 1024, 512, 1); /* copied with the cluster */
    expect_byte(f, 1536, 512, 0); /* behind the end of the backing file */
    expect_sound(f);
}

static void a_discarded_cluster_is_free_after_a_flush(void **state)
{
    struct fixture *f = *state;
    struct qcow2 *q = qcow2_of(f->disk);
    struct block_request discard = {.op = BLOCK_DISCARD, .offset = 0, .len = CLUSTER};
    struct map_extent e;
    u64 count;
    write_byte(f, 0, CLUSTER, 9);
    assert_int_equal(qcow2_map(q, 0, 512, &e), 0);
    u64 cluster = e.host >> 16;
    assert_int_equal(f->disk->ops->execute(f->disk, &discard), 0);
    expect_byte(f, 0, CLUSTER, 0);
    assert_int_equal(qcow2_refcount_get(q, cluster, &count), 0);
    assert_int_equal(count, 1); /* a table in the file may still refer to it */
    assert_int_equal(block_flush(f->disk), 0);
    assert_int_equal(qcow2_refcount_get(q, cluster, &count), 0);
    assert_int_equal(count, 0);
}

static void zeroes_keep_the_cluster_unless_it_may_be_freed(void **state)
{
    struct fixture *f = *state;
    struct qcow2 *q = qcow2_of(f->disk);
    struct map_extent e;
    write_byte(f, 0, 2 * CLUSTER, 9);
    assert_int_equal(block_write_zeroes(f->disk, 0, CLUSTER, false), 0);
    assert_int_equal(block_write_zeroes(f->disk, CLUSTER, CLUSTER, true), 0);
    expect_byte(f, 0, 2 * CLUSTER, 0);
    assert_int_equal(qcow2_map(q, 0, CLUSTER, &e), 0);
    assert_true(e.kind == MAP_ZERO && e.has_host);
    assert_int_equal(qcow2_map(q, CLUSTER, CLUSTER, &e), 0);
    assert_false(e.has_host);
    write_byte(f, 512, 512, 3); /* into the kept one: what surrounds it stays zero */
    expect_byte(f, 0, 512, 0);
    expect_byte(f, 512, 512, 3);
    expect_byte(f, 1024, CLUSTER - 1024, 0);
}

/* Clusters that are kept for zeroes lie anywhere: their run is not one piece of the file. */
static void a_run_of_kept_zeroes_is_not_taken_for_one_piece(void **state)
{
    struct fixture *f = *state;
    create(f, (struct qcow2_create){.cluster_size = 512, .size = 1u << 20});
    write_byte(f, 0, 1u << 20, 5);
    assert_int_equal(block_write_zeroes(f->disk, 0, 1u << 20, false), 0);
    assert_int_equal(qcow2_snapshot_create(f->disk, "s", &f->err), 0); /* moves metadata behind the data */
    assert_int_equal(qcow2_snapshot_delete(f->disk, "s", &f->err), 0);
    expect_byte(f, 0, 1u << 20, 0);
    expect_sound(f);
}

static void a_read_only_image_refuses_changes(void **state)
{
    struct fixture *f = *state;
    u8 sector[512] = {0};
    reopen(f, (struct block_options){.read_only = true});
    assert_int_equal(block_write(f->disk, 0, sector, 512), -EROFS);
    assert_int_equal(block_write_zeroes(f->disk, 0, 512, true), -EROFS);
    assert_int_equal(block_read(f->disk, SIZE, sector, 512), -EINVAL);
}

static void a_second_writer_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_null(open_image(f, (struct block_options){0}));
    assert_non_null(strstr(f->err.text, "in use"));
    assert_null(open_image(f, (struct block_options){.read_only = true}));
    struct block_device *b = open_image(f, (struct block_options){.read_only = true, .no_lock = true});
    assert_non_null(b);
    block_close(b);
}

static void images_around_the_page_cache_hold_the_same(void **state)
{
    struct fixture *f = *state;
    u8 *buf = NULL;
    block_close(f->disk);
    f->disk = open_image(f, (struct block_options){.cache = BLOCK_CACHE_NONE});
    if (!f->disk) { /* some file systems cannot */
        reopen(f, (struct block_options){0});
        skip();
    }
    assert_int_equal(posix_memalign((void **)&buf, 4096, 8192), 0);
    memset(buf, 4, 8192);
    assert_int_equal(block_write(f->disk, 4096, buf, 8192), 0);
    assert_int_equal(block_write(f->disk, 512, buf, 512), 0);
    free(buf);
    expect_byte(f, 4096, 8192, 4);
    expect_byte(f, 512, 512, 4);
    reopen(f, (struct block_options){0});
    expect_byte(f, 4096, 8192, 4);
    expect_byte(f, 512, 512, 4);
    expect_sound(f);
}

/* --- tables --- */

static void refcounts_of_every_width_stay_by_themselves(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        u8 block[64] = {0};
        u64 most = MASK(1u << order), n = sizeof block * 8 >> order;
        for (u64 i = 0; i < n; i++)
            refcount_put_in_block(block, order, i, i & most);
        for (u64 i = 0; i < n; i++)
            assert_int_equal(refcount_in_block(block, order, i), i & most);
    }
}

static void a_snapshot_keeps_what_the_disk_held(void **state)
{
    struct fixture *f = *state;
    write_byte(f, 0, CLUSTER, 1);
    assert_int_equal(qcow2_snapshot_create(f->disk, "one", &f->err), 0);
    write_byte(f, 0, CLUSTER, 2);
    expect_sound(f);
    assert_int_equal(qcow2_snapshot_apply(f->disk, "one", &f->err), 0);
    expect_byte(f, 0, CLUSTER, 1);
    assert_int_equal(qcow2_snapshot_delete(f->disk, "one", &f->err), 0);
    expect_byte(f, 0, CLUSTER, 1);
    expect_sound(f);
    assert_int_equal(qcow2_snapshot_apply(f->disk, "one", &f->err), -ENOENT);
}

static void after_growing_old_data_do_not_show(void **state)
{
    struct fixture *f = *state;
    write_byte(f, 0, 2 * CLUSTER, 6);
    assert_int_equal(block_resize(f->disk, CLUSTER + 512, &f->err), 0);
    assert_int_equal(block_resize(f->disk, 4 * CLUSTER, &f->err), 0);
    expect_byte(f, 0, CLUSTER + 512, 6);
    expect_byte(f, CLUSTER + 512, 3 * CLUSTER - 512, 0);
    expect_sound(f);
}

/* --- damaged and hostile images --- */

static void expect_refused(struct fixture *f, const char *why)
{
    block_close(f->disk);
    f->disk = open_image(f, (struct block_options){.format = BLOCK_FORMAT_QCOW2});
    assert_null(f->disk);
    if (!strstr(f->err.text, why))
        fail_msg("'%s' does not say '%s'", f->err.text, why);
}

static void impossible_headers_are_refused(void **state)
{
    static const struct {
        off_t at;
        u32 value; /* big-endian, at a 4-byte field */
        const char *why;
    } cases[] = {
        {0, 0x12345678, "not a qcow2 image"},
        {4, 4, "version 4"},
        {20, 8, "cluster size"},
        {20, 22, "cluster size"},
        {20, 64, "cluster size"},
        {32, 1, "encrypted"},
        {36, 0x7fffffff, "L1 table"},
        {36, 0, "too small"},
        {44, 0x123, "nowhere"},
        {52, 0x321, "nowhere"},
        {56, 0, "refcount table"},
        {56, 0x10000000, "refcount table"},
        {60, 70000, "too many snapshots"},
        {76, 0x80, "not known"},
        {76, 4, "another file"},
        {96, 7, "refcount width"},
        {100, 3, "header"},
        {24, 0x7fffffff, "size"},
    };
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        create(f, (struct qcow2_create){0});
        block_close(f->disk);
        f->disk = NULL;
        patch_be32(f, cases[i].at, cases[i].value);
        expect_refused(f, cases[i].why);
        (void)unlink(f->path);
    }
}

static void entries_that_point_at_metadata_are_not_written_through(void **state)
{
    struct fixture *f = *state;
    u8 sector[512] = {0};
    write_byte(f, 0, 512, 1);
    u64 l2 = qcow2_of(f->disk)->l1[0] & ENTRY_OFFSET;
    block_close(f->disk);
    f->disk = NULL;
    patch_be64(f, (off_t)l2, ENTRY_COPIED | 0);           /* no host cluster: the next one is the header's */
    patch_be64(f, (off_t)l2 + 8, ENTRY_COPIED | CLUSTER); /* the refcount table */
    patch_be64(f, (off_t)l2 + 16, ENTRY_COPIED | 0x1200); /* not a cluster's start */
    reopen(f, (struct block_options){0});
    assert_int_equal(block_write(f->disk, CLUSTER, sector, 512), -EIO);
    assert_int_equal(block_read(f->disk, 2 * CLUSTER, sector, 512), -EIO);
    assert_int_equal(block_write(f->disk, 3 * CLUSTER, sector, 512), 0);
}

static void a_marked_image_is_not_written_before_it_is_repaired(void **state)
{
    struct fixture *f = *state;
    struct qcow2_check c = {.report = NULL};
    write_byte(f, 0, CLUSTER, 8);
    block_close(f->disk);
    f->disk = NULL;
    patch_be64(f, 72, QCOW2_CORRUPT);
    expect_refused(f, "--repair all");
    reopen(f, (struct block_options){.damaged_ok = true});
    assert_int_equal(qcow2_check(f->disk, QCOW2_REPAIR_ALL, &c, &f->err), 0);
    reopen(f, (struct block_options){0});
    expect_byte(f, 0, CLUSTER, 8);
}

static void a_lost_refcount_table_is_made_anew(void **state)
{
    struct fixture *f = *state;
    static const u8 zeroes[CLUSTER];
    struct qcow2_check c = {.report = NULL};
    write_byte(f, CLUSTER, 3 * CLUSTER, 8);
    block_close(f->disk);
    f->disk = NULL;
    patch(f, CLUSTER, zeroes, CLUSTER);
    reopen(f, (struct block_options){.damaged_ok = true});
    assert_int_equal(qcow2_check(f->disk, QCOW2_REPAIR_ALL, &c, &f->err), 0);
    assert_true(c.corruptions_fixed > 0);
    reopen(f, (struct block_options){0});
    expect_sound(f);
    expect_byte(f, CLUSTER, 3 * CLUSTER, 8);
}

/* --- formats --- */

static void a_guessed_raw_disk_cannot_become_another_format(void **state)
{
    struct fixture *f = *state;
    u8 sector[1024] = "QFI\xfb";
    block_close(f->disk);
    f->disk = NULL;
    assert_int_equal(truncate(f->path, 0), 0);
    assert_int_equal(truncate(f->path, 1 << 20), 0);
    reopen(f, (struct block_options){.format = BLOCK_FORMAT_PROBE});
    assert_int_equal(block_write(f->disk, 0, sector, 1024), -EPERM);
    assert_int_equal(block_write(f->disk, 512, sector, 512), 0);
    sector[0] = 'x';
    assert_int_equal(block_write(f->disk, 0, sector, 1024), 0);
    sector[0] = 'Q';
    reopen(f, (struct block_options){.format = BLOCK_FORMAT_RAW});
    assert_int_equal(block_write(f->disk, 0, sector, 1024), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read_after_reopening),
        TEST(what_nobody_wrote_comes_from_the_backing_file),
        TEST(a_discarded_cluster_is_free_after_a_flush),
        TEST(zeroes_keep_the_cluster_unless_it_may_be_freed),
        TEST(a_run_of_kept_zeroes_is_not_taken_for_one_piece),
        TEST(a_read_only_image_refuses_changes),
        TEST(a_second_writer_is_refused),
        TEST(images_around_the_page_cache_hold_the_same),
        TEST(refcounts_of_every_width_stay_by_themselves),
        TEST(a_snapshot_keeps_what_the_disk_held),
        TEST(after_growing_old_data_do_not_show),
        TEST(impossible_headers_are_refused),
        TEST(entries_that_point_at_metadata_are_not_written_through),
        TEST(a_marked_image_is_not_written_before_it_is_repaired),
        TEST(a_lost_refcount_table_is_made_anew),
        TEST(a_guessed_raw_disk_cannot_become_another_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
