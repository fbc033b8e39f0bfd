#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

#include "backend/block/block.h"

/* A disk whose requests complete in submit, with `result`. */
struct fake {
    struct block_device base;
    int result;
    unsigned submitted;
};

static void fake_submit(struct block_device *b, struct block_request *r)
{
    struct fake *f = container_of(b, struct fake, base);
    f->submitted++;
    r->done(r, f->result);
}

static void fake_nothing(struct block_device *b)
{
    (void)b;
}

static const struct block_ops fake_ops = {
    .submit = fake_submit, .drain = fake_nothing, .close = fake_nothing};
static char fake_name[] = "fake";

struct fixture {
    struct fake fake;
    struct block_device *filter;
    unsigned stops;
};

struct request {
    struct block_request r;
    atomic_int done;
    int result;
};

static void on_done(struct block_request *r, int result)
{
    struct request *q = container_of(r, struct request, r);
    q->result = result;
    atomic_fetch_add(&q->done, 1);
}

static void submit(struct fixture *f, struct request *q, enum block_op op, u64 len)
{
    *q = (struct request){.r = {.op = op, .len = len, .done = on_done}};
    block_submit(f->filter, &q->r);
}

static void stopped(void *owner, const char *path, int error)
{
    struct fixture *f = owner;
    assert_string_equal(path, "fake");
    assert_true(error > 0);
    f->stops++;
}

static void init(struct fixture *f)
{
    *f = (struct fixture){.fake.base = {.ops = &fake_ops, .size = 1 << 20, .path = fake_name}};
}

static void with_policy(struct fixture *f, enum block_on_error read, enum block_on_error write)
{
    struct block_policy p = {.read = read, .write = write, .stopped = stopped, .owner = f};
    init(f);
    f->filter = block_policy_open(&f->fake.base, &p, NULL);
    assert_non_null(f->filter);
    assert_int_equal(f->filter->size, 1 << 20);
}

static void a_reported_error_reaches_the_guest(void **state)
{
    struct fixture f;
    struct request r, w;
    (void)state;
    with_policy(&f, BLOCK_ON_ERROR_REPORT, BLOCK_ON_ERROR_ENOSPC);
    f.fake.result = -EIO;
    submit(&f, &r, BLOCK_READ, 512);
    submit(&f, &w, BLOCK_WRITE, 512);
    assert_int_equal(r.result, -EIO);
    assert_int_equal(w.result, -EIO); /* that is no lack of room */
    assert_int_equal(f.stops, 0);
    block_close(f.filter);
}

static void an_ignored_error_does_not(void **state)
{
    struct fixture f;
    struct request w;
    (void)state;
    with_policy(&f, BLOCK_ON_ERROR_REPORT, BLOCK_ON_ERROR_IGNORE);
    f.fake.result = -EIO;
    submit(&f, &w, BLOCK_WRITE, 512);
    assert_int_equal(w.done, 1);
    assert_int_equal(w.result, 0);
    block_close(f.filter);
}

static void a_held_request_is_done_once_a_retry_works(void **state)
{
    struct fixture f;
    struct request w;
    (void)state;
    with_policy(&f, BLOCK_ON_ERROR_REPORT, BLOCK_ON_ERROR_ENOSPC);
    f.fake.result = -ENOSPC;
    submit(&f, &w, BLOCK_WRITE, 512);
    assert_int_equal(w.done, 0);
    assert_int_equal(f.stops, 1);
    block_policy_retry(f.filter);
    assert_int_equal(w.done, 0);
    assert_int_equal(f.stops, 2);
    assert_true(block_policy_waits(f.filter));
    f.fake.result = 0;
    block_policy_retry(f.filter);
    assert_int_equal(w.done, 1);
    assert_int_equal(w.result, 0);
    assert_false(block_policy_waits(f.filter));
    assert_int_equal(f.fake.submitted, 3);
    block_close(f.filter);
}

static void who_waits_for_the_device_is_told_of_what_is_held(void **state)
{
    struct fixture f;
    struct request w;
    (void)state;
    with_policy(&f, BLOCK_ON_ERROR_STOP, BLOCK_ON_ERROR_STOP);
    f.fake.result = -EIO;
    submit(&f, &w, BLOCK_WRITE, 512);
    assert_int_equal(w.done, 0);
    block_drain(f.filter);
    assert_int_equal(w.done, 1);
    assert_int_equal(w.result, -EIO);
    assert_false(block_policy_waits(f.filter));
    block_close(f.filter);
}

/* A byte rate at which the second request would wait for half an hour. */
static void what_is_beyond_the_burst_waits_in_its_order(void **state)
{
    struct block_limits l = {.bytes = 512, .bytes_burst = 512};
    struct fixture f;
    struct request first, second, third;
    (void)state;
    init(&f);
    f.filter = block_throttle_open(&f.fake.base, &l, NULL);
    submit(&f, &first, BLOCK_WRITE, 1 << 20);
    assert_int_equal(first.done, 1); /* a request of any size passes when there are tokens */
    submit(&f, &second, BLOCK_WRITE, 512);
    submit(&f, &third, BLOCK_FLUSH, 0);
    assert_int_equal(f.fake.submitted, 1);
    block_drain(f.filter); /* does not wait for the limit */
    assert_int_equal(second.done, 1);
    assert_int_equal(third.done, 1);
    block_close(f.filter);
}

static void without_a_limit_nothing_waits(void **state)
{
    struct block_limits l = {.ops = 1, .ops_burst = 100};
    struct fixture f;
    struct request r[100];
    (void)state;
    init(&f);
    f.filter = block_throttle_open(&f.fake.base, &l, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
        submit(&f, &r[i], BLOCK_WRITE, 1 << 20); /* bytes are not limited, and the burst is not over */
        assert_int_equal(r[i].done, 1);
    }
    block_close(f.filter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reported_error_reaches_the_guest),
        cmocka_unit_test(an_ignored_error_does_not),
        cmocka_unit_test(a_held_request_is_done_once_a_retry_works),
        cmocka_unit_test(who_waits_for_the_device_is_told_of_what_is_held),
        cmocka_unit_test(what_is_beyond_the_burst_waits_in_its_order),
        cmocka_unit_test(without_a_limit_nothing_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
