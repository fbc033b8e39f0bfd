#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/block/block.h"
#include "backend/block/file.h"
#include "backend/block/pool.h"
#include "base/clock.h"
#include "base/lock.h"

#define SIZE (1u << 20)

struct fixture {
    char path[64];
    struct block_device *disk;
};

/* A request that can be waited for. */
struct waiter {
    struct block_request r;
    struct lock lock;
    pthread_cond_t cond;
    bool done;
    int result;
};

static void on_done(struct block_request *r, int result)
{
    struct waiter *w = container_of(r, struct waiter, r);
    lock_acquire(&w->lock);
    w->result = result;
    w->done = true;
    pthread_cond_signal(&w->cond);
    lock_drop(&w->lock);
}

static int run(struct block_device *b, struct block_request r)
{
    struct waiter w = {.r = r, .cond = PTHREAD_COND_INITIALIZER};
    w.r.done = on_done;
    lock_init(&w.lock, LOCK_RANK_LEAF);
    block_submit(b, &w.r);
    lock_acquire(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock.mutex);
    lock_drop(&w.lock);
    block_drain(b); /* done() has returned: the waiter may go */
    return w.result;
}

static int transfer(struct block_device *b, enum block_op op, u64 offset, void *buf, size_t len)
{
    struct iovec iov = {buf, len};
    return run(b, (struct block_request){.op = op, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1});
}

static void make_file(struct fixture *f, off_t size)
{
    (void)snprintf(f->path, sizeof f->path, "/tmp/trapeze-raw-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    (void)close(fd);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    make_file(f, SIZE);
    f->disk = block_raw_open(f->path, false, NULL);
    assert_non_null(f->disk);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    block_close(f->disk);
    (void)unlink(f->path);
    free(f);
    return 0;
}

static void reopen(struct fixture *f, bool read_only)
{
    block_close(f->disk);
    f->disk = block_raw_open(f->path, read_only, NULL);
    assert_non_null(f->disk);
}

static void what_is_written_is_read(void **state)
{
    struct fixture *f = *state;
    static u8 out[200 * 512], in[200 * 512];
    for (unsigned i = 0; i < sizeof out; i++)
        out[i] = (u8)(i * 7 + i / 512);
    assert_int_equal(f->disk->size, SIZE);
    assert_int_equal(transfer(f->disk, BLOCK_WRITE, 512 * 3, out, sizeof out), 0);
    assert_int_equal(transfer(f->disk, BLOCK_READ, 512 * 3, in, sizeof in), 0);
    assert_memory_equal(in, out, sizeof in);
    assert_int_equal(transfer(f->disk, BLOCK_READ, 512 * 10, in, 512), 0);
    assert_memory_equal(in, out + 512 * 7, 512);
}

static void vectors_are_scattered_and_gathered(void **state)
{
    struct fixture *f = *state;
    u8 a[100], b[412], all[512];
    memset(a, 1, sizeof a);
    memset(b, 2, sizeof b);
    struct iovec iov[] = {{a, sizeof a}, {b, sizeof b}};
    struct block_request r = {.op = BLOCK_WRITE, .len = 512, .iov = iov, .iovcnt = 2};
    assert_int_equal(run(f->disk, r), 0);
    assert_int_equal(transfer(f->disk, BLOCK_READ, 0, all, 512), 0);
    assert_memory_equal(all, a, 100);
    assert_memory_equal(all + 100, b, 412);
}

static void data_survives_a_reopen(void **state)
{
    struct fixture *f = *state;
    char in[512], out[512] = "persistent";
    assert_int_equal(transfer(f->disk, BLOCK_WRITE, SIZE - 512, out, 512), 0);
    assert_int_equal(run(f->disk, (struct block_request){.op = BLOCK_FLUSH}), 0);
    reopen(f, true);
    assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE - 512, in, 512), 0);
    assert_memory_equal(in, out, 512);
}

static void accesses_beyond_the_end_fail(void **state)
{
    struct fixture *f = *state;
    u8 buf[1024];
    assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE, buf, 512), -EINVAL);
    assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE - 512, buf, 1024), -EINVAL);
    assert_int_equal(transfer(f->disk, BLOCK_WRITE, SIZE - 512, buf, 1024), -EINVAL);
    assert_int_equal(transfer(f->disk, BLOCK_WRITE, ~511ull, buf, 512), -EINVAL);
    struct block_request r = {.op = BLOCK_WRITE_ZEROES, .offset = SIZE - 512, .len = 1024};
    assert_int_equal(run(f->disk, r), -EINVAL);
    r.op = BLOCK_DISCARD;
    assert_int_equal(run(f->disk, r), -EINVAL);
}

static void a_read_only_disk_refuses_changes(void **state)
{
    struct fixture *f = *state;
    u8 buf[512] = {0};
    reopen(f, true);
    assert_false(f->disk->can_discard);
    assert_int_equal(transfer(f->disk, BLOCK_WRITE, 0, buf, 512), -EROFS);
    assert_int_equal(run(f->disk, (struct block_request){.op = BLOCK_WRITE_ZEROES, .len = 512}), -EROFS);
    assert_int_equal(run(f->disk, (struct block_request){.op = BLOCK_DISCARD, .len = 512}), -EROFS);
    assert_int_equal(run(f->disk, (struct block_request){.op = BLOCK_FLUSH}), 0);
    assert_int_equal(transfer(f->disk, BLOCK_READ, 0, buf, 512), 0);
}

static void zeroed_ranges_read_zeroes_and_no_more(void **state)
{
    struct fixture *f = *state;
    static u8 ones[64 << 10], in[64 << 10], zero[4096 * 3];
    for (unsigned unmap = 0; unmap < 2; unmap++) {
        memset(ones, 0xff, sizeof ones);
        assert_int_equal(transfer(f->disk, BLOCK_WRITE, 0, ones, sizeof ones), 0);
        struct block_request r = {
            .op = BLOCK_WRITE_ZEROES, .offset = 4096 - 512, .len = sizeof zero, .unmap = unmap};
        assert_int_equal(run(f->disk, r), 0);
        assert_int_equal(transfer(f->disk, BLOCK_READ, 0, in, sizeof in), 0);
        assert_memory_equal(in, ones, 4096 - 512);
        assert_memory_equal(in + 4096 - 512, zero, sizeof zero);
        assert_memory_equal(in + 4096 - 512 + sizeof zero, ones, sizeof ones - (4096 - 512) - sizeof zero);
    }
}

static void a_discard_keeps_the_size(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    assert_true(f->disk->can_discard);
    assert_int_equal(run(f->disk, (struct block_request){.op = BLOCK_DISCARD, .len = SIZE}), 0);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_size, SIZE);
}

static void an_odd_tail_is_filled_up_with_zeroes(void **state)
{
    struct fixture *f = *state;
    u8 in[1024], expect[1024] = {0};
    memset(in, 0xee, sizeof in);
    assert_int_equal(truncate(f->path, 0), 0);
    assert_int_equal(truncate(f->path, 700), 0);
    reopen(f, false);
    assert_int_equal(f->disk->size, 1024);
    assert_int_equal(transfer(f->disk, BLOCK_READ, 0, in, 1024), 0);
    assert_memory_equal(in, expect, 1024);
    memset(expect, 7, 1024);
    assert_int_equal(transfer(f->disk, BLOCK_WRITE, 0, expect, 1024), 0);
    assert_int_equal(transfer(f->disk, BLOCK_READ, 0, in, 1024), 0);
    assert_memory_equal(in, expect, 1024);
}

static void a_file_that_shrinks_reads_zeroes(void **state)
{
    struct fixture *f = *state;
    u8 in[512], zero[512] = {0};
    memset(in, 1, sizeof in);
    assert_int_equal(truncate(f->path, 512), 0);
    assert_int_equal(transfer(f->disk, BLOCK_READ, SIZE - 512, in, 512), 0);
    assert_memory_equal(in, zero, 512);
}

static void a_second_writer_is_refused_by_name(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    assert_null(block_raw_open(f->path, false, &err));
    assert_int_equal(err.code, EBUSY);
    assert_non_null(strstr(err.text, f->path));
    assert_null(block_raw_open(f->path, true, &err));
    block_close(f->disk);
    f->disk = block_raw_open(f->path, false, NULL);
    assert_non_null(f->disk);
}

static void readers_share_and_exclude_a_writer(void **state)
{
    struct fixture *f = *state;
    reopen(f, true);
    struct block_device *second = block_raw_open(f->path, true, NULL);
    assert_non_null(second);
    assert_null(block_raw_open(f->path, false, NULL));
    block_close(second);
}

static void errors_of_opening_name_the_file(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *path;
        int code;
    } bad[] = {{"/nonexistent/disk.img", ENOENT}, {"/dev/null", EINVAL}, {"/tmp", EISDIR}};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};
        assert_null(block_raw_open(bad[i].path, false, &err));
        assert_int_equal(err.code, bad[i].code);
        assert_non_null(strstr(err.text, bad[i].path));
    }
    struct error err = {0};
    assert_int_equal(truncate(f->path, 0), 0);
    block_close(f->disk);
    f->disk = NULL;
    assert_null(block_raw_open(f->path, false, &err));
    assert_string_equal(strstr(err.text, "is empty"), "is empty");
}

#define MANY 500

static void drain_waits_for_all_requests(void **state)
{
    struct fixture *f = *state;
    static struct waiter w[MANY];
    static u8 data[MANY][512];
    static struct iovec iov[MANY];
    u8 in[512];
    for (unsigned i = 0; i < MANY; i++) {
        memset(data[i], (int)i, 512);
        iov[i] = (struct iovec){data[i], 512};
        w[i] = (struct waiter){.cond = PTHREAD_COND_INITIALIZER};
        w[i].r = (struct block_request){.op = BLOCK_WRITE,
                                        .offset = 512ull * i,
                                        .len = 512,
                                        .iov = &iov[i],
                                        .iovcnt = 1,
                                        .done = on_done};
        lock_init(&w[i].lock, LOCK_RANK_LEAF);
        block_submit(f->disk, &w[i].r);
    }
    block_drain(f->disk);
    for (unsigned i = 0; i < MANY; i++) {
        assert_true(w[i].done);
        assert_int_equal(w[i].result, 0);
        assert_int_equal(transfer(f->disk, BLOCK_READ, 512ull * i, in, 512), 0);
        assert_memory_equal(in, data[i], 512);
    }
}

/* Is done() called before block_submit() returns? */
static bool done_at_once(struct fixture *f, enum block_op op)
{
    u8 data[4096] = {0};
    struct iovec iov = {data, sizeof data};
    struct waiter w = {.cond = PTHREAD_COND_INITIALIZER};
    w.r = (struct block_request){.op = op, .len = sizeof data, .iov = &iov, .iovcnt = 1, .done = on_done};
    lock_init(&w.lock, LOCK_RANK_LEAF);
    block_submit(f->disk, &w.r);
    lock_acquire(&w.lock);
    bool done = w.done;
    lock_drop(&w.lock);
    block_drain(f->disk);
    assert_int_equal(w.result, 0);
    return done;
}

static void what_the_page_cache_takes_is_done_at_once(void **state)
{
    struct fixture *f = *state;
    (void)done_at_once(f, BLOCK_WRITE); /* the file system may say now that it cannot tell */
    assert_true(done_at_once(f, BLOCK_WRITE));
    assert_true(done_at_once(f, BLOCK_READ));
}

static void a_long_wait_for_a_write_sends_the_next_ones_to_threads(void **state)
{
    struct fixture *f = *state;
    const struct block_options o = {.format = BLOCK_FORMAT_RAW};
    struct iovec iov = {(u8[512]){1}, 512};
    struct host_file file;
    block_close(f->disk);
    f->disk = NULL;
    assert_int_equal(host_file_open(&file, f->path, &o, NULL), 0);
    file.no_nowait[BLOCK_WRITE] = true;
    assert_true(host_file_transfer_now(&file, BLOCK_WRITE, &iov, 1, 0, 512));
    file.no_write_before = clock_host_ns() + 3600 * NS_PER_SEC;
    assert_false(host_file_transfer_now(&file, BLOCK_WRITE, &iov, 1, 0, 512));
    host_file_close(&file);
}

static void long_copies_are_shared_while_more_come(void **state)
{
    struct fixture *f = *state;
    struct block_pool p;
    const struct block_request short_one = {.op = BLOCK_READ, .len = 4096},
                               r = {.op = BLOCK_READ, .len = SIZE};
    unsigned shared = 0;
    block_pool_init(&p, f->disk);
    assert_false(block_pool_shares(&p, &short_one));
    assert_true(block_pool_shares(&p, &r));
    block_pool_enter(&p);
    assert_true(block_pool_shares(&p, &r));
    block_pool_enter(&p);
    assert_false(block_pool_shares(&p, &r)); /* two at a time */
    block_pool_leave(&p);
    block_pool_leave(&p);
    for (unsigned i = 0; i < 100; i++) /* each comes when the one before is done */
        shared += block_pool_shares(&p, &r);
    assert_int_equal(shared, 4);
    assert_false(block_pool_shares(&p, &r));
    block_pool_enter(&p);
    assert_true(block_pool_shares(&p, &r)); /* this one does not wait for that which is on its way */
    block_pool_leave(&p);
    block_pool_release(&p);
}

static void the_null_disk_reads_zeroes(void **state)
{
    (void)state;
    u8 in[512], zero[512] = {0};
    memset(in, 1, sizeof in);
    struct block_device *b = block_null_open(4096 + 5);
    assert_int_equal(b->size, 4096);
    assert_int_equal(transfer(b, BLOCK_WRITE, 0, in, 512), 0);
    assert_int_equal(transfer(b, BLOCK_READ, 0, in, 512), 0);
    assert_memory_equal(in, zero, 512);
    assert_int_equal(transfer(b, BLOCK_READ, 4096, in, 512), -EINVAL);
    block_close(b);
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FILE(what_is_written_is_read),
        WITH_FILE(vectors_are_scattered_and_gathered),
        WITH_FILE(data_survives_a_reopen),
        WITH_FILE(accesses_beyond_the_end_fail),
        WITH_FILE(a_read_only_disk_refuses_changes),
        WITH_FILE(zeroed_ranges_read_zeroes_and_no_more),
        WITH_FILE(a_discard_keeps_the_size),
        WITH_FILE(an_odd_tail_is_filled_up_with_zeroes),
        WITH_FILE(a_file_that_shrinks_reads_zeroes),
        WITH_FILE(a_second_writer_is_refused_by_name),
        WITH_FILE(readers_share_and_exclude_a_writer),
        WITH_FILE(errors_of_opening_name_the_file),
        WITH_FILE(drain_waits_for_all_requests),
        WITH_FILE(what_the_page_cache_takes_is_done_at_once),
        WITH_FILE(a_long_wait_for_a_write_sends_the_next_ones_to_threads),
        WITH_FILE(long_copies_are_shared_while_more_come),
        cmocka_unit_test(the_null_disk_reads_zeroes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
