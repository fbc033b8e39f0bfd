/* Locks and the check of their ranks. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/lock.h"

#ifndef NDEBUG
/* Does @act end in BUG() (SIGABRT)? Tried in a child, whose complaint is not shown. */
static bool is_a_bug(void (*act)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        close(STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        act();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void take_two(enum lock_rank first, enum lock_rank second)
{
    struct lock a, b;
    lock_init(&a, first);
    lock_init(&b, second);
    lock_acquire(&a);
    lock_acquire(&b);
    lock_drop(&a);
    lock_drop(&b);
    lock_release(&b);
    lock_release(&a);
}

static void rising(void)
{
    take_two(LOCK_RANK_MACHINE, LOCK_RANK_EVENT);
}

static void falling(void)
{
    take_two(LOCK_RANK_EVENT, LOCK_RANK_MACHINE);
}

static void level(void)
{
    take_two(LOCK_RANK_VCPU, LOCK_RANK_VCPU);
}

static void drop_a_foreign_lock(void)
{
    struct lock l;
    lock_init(&l, LOCK_RANK_LEAF);
    lock_drop(&l);
}

static void order_of_ranks_is_checked(void **state)
{
    assert_false(is_a_bug(rising));
    assert_true(is_a_bug(falling));
    assert_true(is_a_bug(level));
}

static void only_the_holder_drops(void **state)
{
    assert_true(is_a_bug(drop_a_foreign_lock));
}

static void *see_whether_held(void *l)
{
    return lock_held(l) ? l : NULL;
}

static void being_held_is_a_matter_of_the_thread(void **state)
{
    struct lock l;
    lock_init(&l, LOCK_RANK_LEAF);
    assert_false(lock_held(&l));
    lock_acquire(&l);
    assert_true(lock_held(&l));
    assert_false(lock_not_held(&l));
    pthread_t t;
    void *elsewhere;
    assert_int_equal(pthread_create(&t, NULL, see_whether_held, &l), 0);
    pthread_join(t, &elsewhere);
    assert_null(elsewhere);
    lock_drop(&l);
    assert_true(lock_not_held(&l));
    lock_release(&l);
}
#endif

struct shared {
    struct lock lock;
    pthread_cond_t cond;
    unsigned count, turn;
};

static void *count_in_turn(void *arg)
{
    struct shared *s = arg;
    for (unsigned i = 0; i < 1000; i++) {
        lock_acquire(&s->lock);
        while (s->turn != 1)
            lock_wait(&s->lock, &s->cond);
        s->turn = 0;
        s->count++;
        pthread_cond_signal(&s->cond);
        lock_drop(&s->lock);
    }
    return NULL;
}

static void threads_take_turns_by_a_condition(void **state)
{
    struct shared s = {.cond = PTHREAD_COND_INITIALIZER};
    lock_init(&s.lock, LOCK_RANK_VCPU);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, count_in_turn, &s), 0);
    for (unsigned i = 0; i < 1000; i++) {
        lock_acquire(&s.lock);
        while (s.turn != 0)
            lock_wait(&s.lock, &s.cond);
        s.turn = 1;
        s.count++;
        pthread_cond_signal(&s.cond);
        lock_drop(&s.lock);
    }
    pthread_join(t, NULL);
    assert_int_equal(s.count, 2000);
    lock_release(&s.lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifndef NDEBUG
        cmocka_unit_test(order_of_ranks_is_checked),
        cmocka_unit_test(only_the_holder_drops),
        cmocka_unit_test(being_held_is_a_matter_of_the_thread),
#endif
        cmocka_unit_test(threads_take_turns_by_a_condition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
