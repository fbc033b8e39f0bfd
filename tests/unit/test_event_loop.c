/* Timers, file sources and deferred calls. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/event_loop.h"

#define FOREVER (~0ull)

static int setup(void **state)
{
    *state = event_loop_new(NULL);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    event_loop_free(*state);
    return 0;
}

/* --- timers --- */

struct alarm {
    struct timer timer;
    unsigned fired;
    u64 fired_at;
    struct alarm *cancel; /* cancelled when this one fires */
    u64 again;            /* re-arms that much later */
    unsigned *order;
    unsigned place;
};

static void alarm_fire(struct timer *t)
{
    struct alarm *a = container_of(t, struct alarm, timer);
    a->fired++;
    a->fired_at = t->clock ? vclock_ns(t->clock) : clock_host_ns();
    if (a->order)
        a->place = (*a->order)++;
    if (a->cancel)
        timer_cancel(&a->cancel->timer);
    if (a->again)
        timer_arm(t, t->deadline + a->again);
}

static void alarm_set(struct alarm *a, struct event_loop *loop, const struct vclock *clock, u64 ns)
{
    timer_init(&a->timer, loop, clock, alarm_fire);
    timer_arm(&a->timer, ns);
}

static void host_timer_fires_at_its_deadline(void **state)
{
    struct alarm a = {.fired = 0};
    u64 deadline = clock_host_ns() + NS_PER_MS;
    alarm_set(&a, *state, NULL, deadline);
    assert_true(timer_armed(&a.timer));
    while (!a.fired)
        event_loop_poll(*state, FOREVER);
    assert_true(a.fired_at >= deadline);
    assert_false(timer_armed(&a.timer));
}

static void due_timers_fire_in_order(void **state)
{
    struct alarm a[50];
    unsigned order = 0;
    for (unsigned i = 0; i < 50; i++) {
        a[i] = (struct alarm){.order = &order};
        alarm_set(&a[i], *state, NULL, 1000 + i * 37 % 50);
    }
    event_loop_poll(*state, 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(a[i].place, i * 37 % 50);
}

static void cancelled_timer_does_not_fire(void **state)
{
    struct alarm a[9] = {{.fired = 0}};
    for (unsigned i = 0; i < 9; i++)
        alarm_set(&a[i], *state, NULL, i);
    timer_cancel(&a[0].timer);
    timer_cancel(&a[4].timer);
    timer_cancel(&a[4].timer);
    a[1].cancel = &a[7];
    event_loop_poll(*state, 0);
    static const unsigned expected[9] = {0, 1, 1, 1, 0, 1, 1, 0, 1};
    for (unsigned i = 0; i < 9; i++)
        assert_int_equal(a[i].fired, expected[i]);
}

static void arming_again_replaces_the_deadline(void **state)
{
    struct alarm a = {.fired = 0}, b = {.fired = 0};
    alarm_set(&a, *state, NULL, 5);
    alarm_set(&b, *state, NULL, FOREVER - 1);
    timer_arm(&a.timer, FOREVER - 1);
    timer_arm(&b.timer, 5);
    event_loop_poll(*state, 0);
    assert_int_equal(a.fired, 0);
    assert_int_equal(b.fired, 1);
}

static void timer_behind_its_time_does_not_starve_the_loop(void **state)
{
    struct alarm a = {.again = 1};
    alarm_set(&a, *state, NULL, 0);
    event_loop_poll(*state, 0);
    assert_int_equal(a.fired, 1);
    assert_true(timer_armed(&a.timer));
    timer_cancel(&a.timer);
}

static void virtual_timer_waits_while_its_clock_is_stopped(void **state)
{
    struct vclock c;
    struct alarm a = {.fired = 0};
    vclock_init(&c);
    vclock_set_ns(&c, 1000);
    alarm_set(&a, *state, &c, 10);
    event_loop_poll(*state, 0);
    assert_int_equal(a.fired, 0);
    vclock_start(&c);
    event_loop_clock_changed(*state);
    event_loop_poll(*state, 0);
    assert_int_equal(a.fired, 1);
}

static void virtual_timer_never_fires_early(void **state)
{
    struct vclock c;
    vclock_init(&c);
    vclock_start(&c);
    for (unsigned i = 0; i < 20; i++) {
        struct alarm a = {.fired = 0};
        u64 deadline = vclock_ns(&c) + 20 * NS_PER_US;
        alarm_set(&a, *state, &c, deadline);
        while (!a.fired)
            event_loop_poll(*state, FOREVER);
        assert_true(a.fired_at >= deadline);
    }
}

static void manual_clock_drives_periodic_timers(void **state)
{
    struct vclock c;
    struct alarm a = {.again = 100};
    vclock_init_manual(&c);
    alarm_set(&a, *state, &c, 100);
    vclock_set_ns(&c, 99);
    event_loop_clock_changed(*state);
    event_loop_poll(*state, 0);
    assert_int_equal(a.fired, 0);
    vclock_set_ns(&c, 350);
    event_loop_clock_changed(*state);
    for (int i = 0; i < 10; i++)
        event_loop_poll(*state, 0);
    assert_int_equal(a.fired, 3);
    assert_int_equal(a.timer.deadline, 400);
    timer_cancel(&a.timer);
}

/* --- sources --- */

struct pipe_source {
    struct event_source source;
    int fd[2];
    unsigned ready;
    u32 events;
    struct pipe_source *remove;
    bool read;
};

static void pipe_ready(struct event_source *s, u32 events)
{
    struct pipe_source *p = container_of(s, struct pipe_source, source);
    char c;
    p->ready++;
    p->events = events;
    if (p->read)
        assert_int_equal(read(p->fd[0], &c, 1), 1);
    if (p->remove)
        event_source_remove(&p->remove->source);
}

static void pipe_open(struct pipe_source *p, struct event_loop *loop, bool readable)
{
    *p = (struct pipe_source){.ready = 0};
    assert_int_equal(pipe2(p->fd, O_CLOEXEC), 0);
    assert_int_equal(event_source_add(&p->source, loop, p->fd[0], EPOLLIN, pipe_ready, NULL), 0);
    if (readable)
        assert_int_equal(write(p->fd[1], "x", 1), 1);
}

static void pipe_close(struct pipe_source *p)
{
    event_source_remove(&p->source);
    event_source_remove(&p->source);
    close(p->fd[0]);
    close(p->fd[1]);
}

static void readable_pipe_is_reported_until_it_is_read(void **state)
{
    struct pipe_source p;
    pipe_open(&p, *state, true);
    event_loop_poll(*state, FOREVER);
    event_loop_poll(*state, FOREVER);
    assert_int_equal(p.ready, 2);
    p.read = true;
    event_loop_poll(*state, FOREVER);
    event_loop_poll(*state, 0);
    assert_int_equal(p.ready, 3);
    pipe_close(&p);
}

static void source_without_events_is_silent_even_after_a_hangup(void **state)
{
    struct pipe_source p;
    pipe_open(&p, *state, true);
    event_source_set_events(&p.source, 0);
    close(p.fd[1]);
    p.fd[1] = -1;
    event_loop_poll(*state, 0);
    assert_int_equal(p.ready, 0);
    event_source_set_events(&p.source, EPOLLIN);
    event_loop_poll(*state, 0);
    assert_int_equal(p.ready, 1);
    assert_true(p.events & EPOLLIN);
    assert_true(p.events & EPOLLHUP);
    pipe_close(&p);
}

static void callback_may_remove_any_source_of_the_same_batch(void **state)
{
    struct pipe_source p[3];
    for (unsigned i = 0; i < 3; i++)
        pipe_open(&p[i], *state, true);
    for (unsigned i = 0; i < 3; i++)
        p[i].remove = &p[(i + 1) % 3];
    event_loop_poll(*state, FOREVER);
    /* The first removes the second and the third removes the first; itself is removed too. */
    assert_int_equal(p[0].ready + p[1].ready + p[2].ready, 2);
    for (unsigned i = 0; i < 3; i++)
        pipe_close(&p[i]);
}

static void callback_may_remove_itself(void **state)
{
    struct pipe_source p;
    pipe_open(&p, *state, true);
    p.remove = &p;
    event_loop_poll(*state, FOREVER);
    event_loop_poll(*state, 0);
    assert_int_equal(p.ready, 1);
    assert_int_equal(p.source.fd, -1);
    pipe_close(&p);
}

static void plain_file_is_always_ready(void **state)
{
    struct pipe_source p = {.ready = 0};
    char path[] = "/tmp/trapeze-test-file-XXXXXX";
    p.fd[0] = mkstemp(path);
    p.fd[1] = -1;
    unlink(path);
    assert_int_equal(event_source_add(&p.source, *state, p.fd[0], EPOLLIN, pipe_ready, NULL), 0);
    event_loop_poll(*state, FOREVER);
    event_loop_poll(*state, FOREVER);
    assert_int_equal(p.ready, 2);
    event_source_set_events(&p.source, 0);
    event_loop_poll(*state, 0);
    assert_int_equal(p.ready, 2);
    p.remove = &p;
    event_source_set_events(&p.source, EPOLLIN);
    event_loop_poll(*state, FOREVER);
    event_loop_poll(*state, 0);
    assert_int_equal(p.ready, 3);
    pipe_close(&p);
}

static void bad_descriptor_is_an_error(void **state)
{
    struct event_source s;
    struct error err;
    assert_int_equal(event_source_add(&s, *state, 9999, EPOLLIN, pipe_ready, &err), -EBADF);
    assert_string_equal(err.text, "cannot wait for file descriptor 9999: Bad file descriptor");
    event_source_remove(&s);
}

/* --- deferred calls --- */

struct job {
    struct deferred deferred;
    struct event_loop *loop;
    unsigned calls;
    bool again, stop;
};

static void job_call(struct deferred *d)
{
    struct job *j = container_of(d, struct job, deferred);
    j->calls++;
    if (j->again)
        event_loop_post(j->loop, d);
    if (j->stop)
        event_loop_stop(j->loop);
}

static void deferred_call_runs_once_a_post(void **state)
{
    struct job j = {.deferred.call = job_call, .loop = *state};
    event_loop_post(*state, &j.deferred);
    event_loop_post(*state, &j.deferred);
    event_loop_poll(*state, FOREVER);
    event_loop_poll(*state, 0);
    assert_int_equal(j.calls, 1);
    event_loop_post(*state, &j.deferred);
    event_loop_unpost(*state, &j.deferred);
    event_loop_poll(*state, 0);
    assert_int_equal(j.calls, 1);
}

static void call_that_posts_itself_runs_once_a_turn(void **state)
{
    struct job j = {.deferred.call = job_call, .loop = *state, .again = true};
    event_loop_post(*state, &j.deferred);
    for (int i = 0; i < 3; i++)
        event_loop_poll(*state, FOREVER);
    assert_int_equal(j.calls, 3);
}

/* --- threads --- */

static void *run_loop(void *loop)
{
    event_loop_run(loop);
    return NULL;
}

static void other_threads_wake_a_sleeping_loop(void **state)
{
    struct job j = {.deferred.call = job_call, .loop = *state, .stop = true};
    pthread_t t;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(pthread_create(&t, NULL, run_loop, *state), 0);
        event_loop_post(*state, &j.deferred);
        pthread_join(t, NULL);
    }
    assert_int_equal(j.calls, 50);
}

static void stop_before_run_is_not_lost(void **state)
{
    event_loop_stop(*state);
    event_loop_run(*state);
}

struct contended {
    struct event_loop *loop;
    struct lock lock;
    struct alarm alarm;
    struct pipe_source pipe;
    bool forbidden; /* under lock: the callback must not run now */
    bool broken;
    unsigned fired;
};

static void contended_fire(struct timer *t)
{
    struct contended *c = container_of(t, struct contended, alarm.timer);
    c->broken |= c->forbidden || !lock_held(&c->lock);
    c->fired++;
}

static void contended_ready(struct event_source *s, u32 events)
{
    struct contended *c = container_of(s, struct contended, pipe.source);
    c->broken |= c->forbidden || !lock_held(&c->lock);
}

/* What is cancelled with the callback lock held does not run any more, however close it was. */
static void cancelling_under_the_lock_is_final(void **state)
{
    struct contended c = {.loop = *state};
    lock_init(&c.lock, LOCK_RANK_MACHINE);
    event_loop_set_lock(c.loop, &c.lock);
    timer_init(&c.alarm.timer, c.loop, NULL, contended_fire);
    assert_int_equal(pipe2(c.pipe.fd, O_CLOEXEC), 0);
    assert_int_equal(write(c.pipe.fd[1], "x", 1), 1);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, run_loop, c.loop), 0);
    for (unsigned i = 0; i < 500; i++) {
        lock_acquire(&c.lock);
        c.forbidden = false;
        timer_arm(&c.alarm.timer, i % 3 ? clock_host_ns() + i * 20 : 0);
        assert_int_equal(
            event_source_add(&c.pipe.source, c.loop, c.pipe.fd[0], EPOLLIN, contended_ready, NULL), 0);
        lock_drop(&c.lock);
        for (unsigned k = 0; k < i % 7; k++)
            sched_yield();
        lock_acquire(&c.lock);
        timer_cancel(&c.alarm.timer);
        event_source_remove(&c.pipe.source);
        c.forbidden = true;
        lock_drop(&c.lock);
    }
    lock_acquire(&c.lock);
    c.forbidden = false;
    lock_drop(&c.lock);
    event_loop_stop(c.loop);
    pthread_join(t, NULL);
    assert_false(c.broken);
    close(c.pipe.fd[0]);
    close(c.pipe.fd[1]);
    event_loop_set_lock(c.loop, NULL);
    lock_release(&c.lock);
}

static void stop_when_enough(struct timer *t)
{
    struct alarm *a = container_of(t, struct alarm, timer);
    if (++a->fired == 200)
        event_loop_stop(t->loop);
}

static void *arm_until_fired_out(void *arg)
{
    struct alarm *a = arg;
    for (unsigned i = 0; !__atomic_load_n(&a->place, __ATOMIC_RELAXED); i++) {
        if (!timer_armed(&a->timer))
            timer_arm(&a->timer, clock_host_ns() + (i % 5) * 1000);
        sched_yield();
    }
    return NULL;
}

static void timer_armed_by_another_thread_wakes_the_loop(void **state)
{
    struct alarm a = {.fired = 0};
    timer_init(&a.timer, *state, NULL, stop_when_enough);
    pthread_t loop, armer;
    assert_int_equal(pthread_create(&loop, NULL, run_loop, *state), 0);
    assert_int_equal(pthread_create(&armer, NULL, arm_until_fired_out, &a), 0);
    pthread_join(loop, NULL); /* hangs when a wake-up is lost */
    __atomic_store_n(&a.place, 1, __ATOMIC_RELAXED);
    pthread_join(armer, NULL);
    timer_cancel(&a.timer);
    assert_true(a.fired >= 200);
}

#define IN(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN(host_timer_fires_at_its_deadline),
        IN(due_timers_fire_in_order),
        IN(cancelled_timer_does_not_fire),
        IN(arming_again_replaces_the_deadline),
        IN(timer_behind_its_time_does_not_starve_the_loop),
        IN(virtual_timer_waits_while_its_clock_is_stopped),
        IN(virtual_timer_never_fires_early),
        IN(manual_clock_drives_periodic_timers),
        IN(readable_pipe_is_reported_until_it_is_read),
        IN(source_without_events_is_silent_even_after_a_hangup),
        IN(callback_may_remove_any_source_of_the_same_batch),
        IN(callback_may_remove_itself),
        IN(plain_file_is_always_ready),
        IN(bad_descriptor_is_an_error),
        IN(deferred_call_runs_once_a_post),
        IN(call_that_posts_itself_runs_once_a_turn),
        IN(other_threads_wake_a_sleeping_loop),
        IN(stop_before_run_is_not_lost),
        IN(cancelling_under_the_lock_is_final),
        IN(timer_armed_by_another_thread_wakes_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
