/*
 * The event loop.
 *
 * Rules
 * 1. Lock order: callback lock (the machine lock), then loop->lock. The loop never holds its own lock
 *    while it calls back.
 * 2. What is about to be called back (a due timer, a ready source, a deferred call) is taken off its
 *    queue with both locks held, and the callback lock is kept from there to the end of the
 *    callback. So a holder of the callback lock who cancels knows that the callback will not run.
 * 3. Timers sit in one heap ordered by host time. A virtual deadline is converted when the timer is
 *    armed and again when its clock starts or stops; since the clocks drift apart a little, a timer
 *    that comes to the top is compared with its own clock before it fires.
 * 4. The loop sleeps without a timeout of its own: a timerfd is set to the earliest deadline, by
 *    whoever arms the timer, so that a vCPU that arms one every few microseconds does not wake the
 *    loop's thread each time. The alarm may be too early after a cancel; that costs one wake-up.
 * 5. What is to be served at once (posts, plain files) writes the eventfd when the loop is asleep.
 */
#include "base/event_loop.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BATCH 32
#define FOREVER (~0ull)

struct heap_entry {
    u64 host_ns;
    struct timer *timer;
};

struct event_loop {
    int epoll_fd, wake_fd, alarm_fd;
    struct lock lock;
    struct lock *callback_lock;
    atomic_bool stop;

    /* under lock */
    struct heap_entry *heap; /* from index 1 */
    size_t heap_len, heap_cap;
    u64 alarm_ns; /* host time at which alarm_fd goes off; FOREVER when it is not set */
    bool asleep;  /* or about to be */
    struct list deferred;
    struct list plain; /* sources that epoll refused */
    struct epoll_event batch[BATCH];
    unsigned batch_len;
};

/* --- the heap of timers --- */

static void heap_put(struct event_loop *loop, size_t pos, struct heap_entry e)
{
    loop->heap[pos] = e;
    e.timer->heap_pos = pos;
}

static void heap_up(struct event_loop *loop, size_t pos, struct heap_entry e)
{
    while (pos > 1 && e.host_ns < loop->heap[pos / 2].host_ns) {
        heap_put(loop, pos, loop->heap[pos / 2]);
        pos /= 2;
    }
    heap_put(loop, pos, e);
}

static void heap_down(struct event_loop *loop, size_t pos, struct heap_entry e)
{
    for (size_t child; (child = pos * 2) <= loop->heap_len; pos = child) {
        if (child < loop->heap_len && loop->heap[child + 1].host_ns < loop->heap[child].host_ns)
            child++;
        if (e.host_ns <= loop->heap[child].host_ns)
            break;
        heap_put(loop, pos, loop->heap[child]);
    }
    heap_put(loop, pos, e);
}

static void heap_place(struct event_loop *loop, size_t pos, struct heap_entry e)
{
    if (pos > 1 && e.host_ns < loop->heap[pos / 2].host_ns)
        heap_up(loop, pos, e);
    else
        heap_down(loop, pos, e);
}

static void heap_remove(struct event_loop *loop, struct timer *t)
{
    size_t pos = t->heap_pos;
    struct heap_entry last = loop->heap[loop->heap_len--];
    t->heap_pos = 0;
    if (last.timer != t)
        heap_place(loop, pos, last);
}

static void heap_insert(struct event_loop *loop, struct heap_entry e)
{
    if (loop->heap_len + 1 >= loop->heap_cap) {
        size_t cap = MAX(loop->heap_cap * 2, (size_t)64);
        struct heap_entry *heap = realloc(loop->heap, cap * sizeof *heap);
        BUG_ON(!heap); /* one entry a timer, and timers are embedded in objects that exist */
        loop->heap = heap;
        loop->heap_cap = cap;
    }
    heap_up(loop, ++loop->heap_len, e);
}

static u64 timer_host_ns(const struct timer *t)
{
    return t->clock ? vclock_to_host_ns(t->clock, t->deadline) : t->deadline;
}

/* Rule 3: by the timer's own clock. */
static bool timer_due(const struct timer *t)
{
    if (!t->clock)
        return clock_host_ns() >= t->deadline;
    return vclock_running(t->clock) && vclock_ns(t->clock) >= t->deadline;
}

/* --- waking --- */

static void wake(struct event_loop *loop)
{
    u64 one = 1;
    ssize_t r;
    do {
        r = write(loop->wake_fd, &one, sizeof one);
    } while (r < 0 && errno == EINTR);
}

/* Rule 5. Under loop->lock. */
static void wake_if_asleep(struct event_loop *loop)
{
    if (loop->asleep) {
        loop->asleep = false;
        wake(loop);
    }
}

/* Rule 4. Under loop->lock. */
static void set_alarm_before(struct event_loop *loop, u64 host_ns)
{
    if (host_ns >= loop->alarm_ns)
        return;
    loop->alarm_ns = host_ns;
    u64 ns = MAX(host_ns, (u64)1); /* 0 would disarm it */
    struct itimerspec when = {.it_value = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)}};
    timerfd_settime(loop->alarm_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* --- life --- */

/* The alarm is edge-triggered: it needs no read, each time it goes off is reported once. */
static int open_descriptors(struct event_loop *loop)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &loop->wake_fd};
    struct epoll_event alarm = {.events = EPOLLIN | EPOLLET, .data.ptr = &loop->alarm_fd};
    loop->wake_fd = loop->alarm_fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        return -1;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0)
        return -1;
    loop->alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (loop->alarm_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->alarm_fd, &alarm) < 0)
        return -1;
    return 0;
}

struct event_loop *event_loop_new(struct error *err)
{
    struct event_loop *loop = calloc(1, sizeof *loop);
    if (!loop) {
        error_set_errno(err, ENOMEM, "cannot create the event loop");
        return NULL;
    }
    lock_init(&loop->lock, LOCK_RANK_EVENT);
    list_init(&loop->deferred);
    list_init(&loop->plain);
    loop->alarm_ns = FOREVER;
    if (open_descriptors(loop) < 0) {
        error_set_errno(err, errno, "cannot create the event loop");
        event_loop_free(loop);
        return NULL;
    }
    return loop;
}

void event_loop_free(struct event_loop *loop)
{
    if (!loop)
        return;
    for (size_t i = 1; i <= loop->heap_len; i++)
        loop->heap[i].timer->heap_pos = 0;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    if (loop->alarm_fd >= 0)
        close(loop->alarm_fd);
    lock_release(&loop->lock);
    free(loop->heap);
    free(loop);
}

void event_loop_set_lock(struct event_loop *loop, struct lock *l)
{
    loop->callback_lock = l;
}

void event_loop_stop(struct event_loop *loop)
{
    atomic_store(&loop->stop, true);
    wake(loop);
}

/* --- timers --- */

void timer_init(struct timer *t, struct event_loop *loop, const struct vclock *clock,
                void (*fire)(struct timer *t))
{
    *t = (struct timer){.loop = loop, .clock = clock, .fire = fire};
}

void timer_arm(struct timer *t, u64 deadline_ns)
{
    struct event_loop *loop = t->loop;
    lock_acquire(&loop->lock);
    t->deadline = deadline_ns;
    struct heap_entry e = {timer_host_ns(t), t};
    if (t->heap_pos)
        heap_place(loop, t->heap_pos, e);
    else
        heap_insert(loop, e);
    set_alarm_before(loop, e.host_ns);
    lock_drop(&loop->lock);
}

void timer_cancel(struct timer *t)
{
    if (!t->loop)
        return;
    lock_acquire(&t->loop->lock);
    if (t->heap_pos)
        heap_remove(t->loop, t);
    lock_drop(&t->loop->lock);
}

bool timer_armed(const struct timer *t)
{
    if (!t->loop)
        return false;
    lock_acquire(&t->loop->lock);
    bool armed = t->heap_pos != 0;
    lock_drop(&t->loop->lock);
    return armed;
}

void event_loop_clock_changed(struct event_loop *loop)
{
    lock_acquire(&loop->lock);
    for (size_t i = 1; i <= loop->heap_len; i++)
        loop->heap[i].host_ns = timer_host_ns(loop->heap[i].timer);
    for (size_t i = loop->heap_len / 2; i >= 1; i--)
        heap_down(loop, i, loop->heap[i]);
    if (loop->heap_len)
        set_alarm_before(loop, loop->heap[1].host_ns);
    lock_drop(&loop->lock);
}

/* --- sources --- */

static int epoll_change(struct event_source *s, int op)
{
    struct epoll_event ev = {.events = s->events, .data.ptr = s};
    return epoll_ctl(s->loop->epoll_fd, op, s->fd, &ev) < 0 ? -errno : 0;
}

int event_source_add(struct event_source *s, struct event_loop *loop, int fd, u32 events,
                     void (*ready)(struct event_source *s, u32 events), struct error *err)
{
    *s = (struct event_source){.loop = loop, .fd = fd, .events = events, .ready = ready};
    list_init(&s->link);
    lock_acquire(&loop->lock);
    int r = epoll_change(s, EPOLL_CTL_ADD);
    if (r == -EPERM) { /* plain files: epoll_ctl(2) */
        s->plain = true;
        list_push_back(&loop->plain, &s->link);
        wake_if_asleep(loop);
        r = 0;
    } else if (r < 0) {
        s->fd = -1;
    } else if (!events) {
        epoll_change(s, EPOLL_CTL_DEL);
    }
    lock_drop(&loop->lock);
    return r < 0 ? error_set_errno(err, -r, "cannot wait for file descriptor %d", fd) : 0;
}

/* epoll reports hang-ups even to those who ask for nothing, so events 0 takes the fd out. */
void event_source_set_events(struct event_source *s, u32 events)
{
    if (s->fd < 0 || s->events == events)
        return;
    lock_acquire(&s->loop->lock);
    u32 old = s->events;
    s->events = events;
    if (s->plain)
        wake_if_asleep(s->loop);
    else
        epoll_change(s, !events ? EPOLL_CTL_DEL : old ? EPOLL_CTL_MOD : EPOLL_CTL_ADD);
    lock_drop(&s->loop->lock);
}

void event_source_remove(struct event_source *s)
{
    if (!s->loop || s->fd < 0)
        return;
    struct event_loop *loop = s->loop;
    lock_acquire(&loop->lock);
    if (s->plain)
        list_remove(&s->link);
    else if (s->events)
        epoll_change(s, EPOLL_CTL_DEL);
    for (unsigned i = 0; i < loop->batch_len; i++) {
        if (loop->batch[i].data.ptr == s)
            loop->batch[i].data.ptr = NULL;
    }
    s->fd = -1;
    lock_drop(&loop->lock);
}

/* --- deferred calls --- */

void event_loop_post(struct event_loop *loop, struct deferred *d)
{
    lock_acquire(&loop->lock);
    if (!d->queued) {
        d->queued = true;
        list_push_back(&loop->deferred, &d->link);
        wake_if_asleep(loop);
    }
    lock_drop(&loop->lock);
}

void event_loop_unpost(struct event_loop *loop, struct deferred *d)
{
    lock_acquire(&loop->lock);
    if (d->queued) {
        d->queued = false;
        list_remove(&d->link);
    }
    lock_drop(&loop->lock);
}

/* --- serving --- */

/* Rule 2: both locks around the choice, the callback lock around the call. */
static void begin_callback(struct event_loop *loop)
{
    if (loop->callback_lock)
        lock_acquire(loop->callback_lock);
    lock_acquire(&loop->lock);
}

static void end_callback(struct event_loop *loop)
{
    if (loop->callback_lock)
        lock_drop(loop->callback_lock);
}

/* The timer to fire now, taken off the heap. One that is early by its own clock is put right. */
static struct timer *take_due_timer(struct event_loop *loop)
{
    u64 now = clock_host_ns();
    for (size_t tries = loop->heap_len; tries && loop->heap_len; tries--) {
        struct heap_entry top = loop->heap[1];
        if (top.host_ns > now)
            break;
        if (timer_due(top.timer)) {
            heap_remove(loop, top.timer);
            return top.timer;
        }
        top.host_ns = MAX(timer_host_ns(top.timer), now + 1);
        heap_down(loop, 1, top);
    }
    return NULL;
}

/* Is it worth taking the callback lock? *limit is set to the number of armed timers. */
static bool timer_is_near(struct event_loop *loop, size_t *limit)
{
    lock_acquire(&loop->lock);
    *limit = loop->heap_len;
    bool near = loop->heap_len && loop->heap[1].host_ns <= clock_host_ns();
    lock_drop(&loop->lock);
    return near;
}

/* At most as many as were armed at the start, so that timers that re-arm leave a turn to the rest. */
static void serve_timers(struct event_loop *loop)
{
    size_t limit, now_armed;
    bool near = timer_is_near(loop, &limit);
    while (near && limit--) {
        begin_callback(loop);
        struct timer *t = take_due_timer(loop);
        lock_drop(&loop->lock);
        if (t)
            t->fire(t);
        end_callback(loop);
        near = t && timer_is_near(loop, &now_armed);
    }
}

/* Those queued now; what they post waits for the next turn. */
static void serve_deferred(struct event_loop *loop)
{
    lock_acquire(&loop->lock);
    size_t limit = 0;
    for (struct list *l = loop->deferred.next; l != &loop->deferred; l = l->next)
        limit++;
    lock_drop(&loop->lock);
    while (limit--) {
        begin_callback(loop);
        struct deferred *d = NULL;
        if (!list_empty(&loop->deferred)) {
            d = list_entry(loop->deferred.next, struct deferred, link);
            list_remove(&d->link);
            d->queued = false;
        }
        lock_drop(&loop->lock);
        if (d)
            d->call(d);
        end_callback(loop);
    }
}

/* Puts plain files that want events behind the ready ones in the batch. */
static void add_plain_to_batch(struct event_loop *loop)
{
    struct event_source *s;
    list_for_each (s, &loop->plain, link) {
        if (s->events && loop->batch_len < BATCH)
            loop->batch[loop->batch_len++] = (struct epoll_event){.events = s->events, .data.ptr = s};
    }
}

/* The next source of the batch and what it is ready for; 0 when it was removed or wants nothing. */
static u32 take_ready(struct event_loop *loop, unsigned i, struct event_source **s)
{
    *s = loop->batch[i].data.ptr;
    if (!*s || !(*s)->events)
        return 0;
    return loop->batch[i].events & ((*s)->events | EPOLLHUP | EPOLLERR);
}

/* Only this thread makes the batch longer, so its length needs no lock here. */
static void serve_sources(struct event_loop *loop)
{
    for (unsigned i = 0; i < loop->batch_len; i++) {
        struct event_source *s;
        begin_callback(loop);
        u32 events = take_ready(loop, i, &s);
        lock_drop(&loop->lock);
        if (events)
            s->ready(s, events);
        end_callback(loop);
    }
    lock_acquire(&loop->lock);
    loop->batch_len = 0;
    lock_drop(&loop->lock);
}

/* Is there something to serve that no descriptor announces? */
static bool work_is_queued(const struct event_loop *loop)
{
    if (!list_empty(&loop->deferred))
        return true;
    const struct event_source *s;
    list_for_each (s, &loop->plain, link) {
        if (s->events)
            return true;
    }
    return false;
}

/* Sets the alarm and returns how long to wait. */
static u64 prepare_wait(struct event_loop *loop, u64 timeout_ns)
{
    lock_acquire(&loop->lock);
    if (loop->heap_len)
        set_alarm_before(loop, loop->heap[1].host_ns);
    if (work_is_queued(loop))
        timeout_ns = 0;
    loop->asleep = timeout_ns != 0;
    lock_drop(&loop->lock);
    return timeout_ns;
}

/* The loop's own descriptors have no source. */
static void serve_own_descriptor(struct event_loop *loop, struct epoll_event *ev)
{
    u64 count;
    if (ev->data.ptr == &loop->alarm_fd) {
        loop->alarm_ns = FOREVER;
        ev->data.ptr = NULL;
    } else if (ev->data.ptr == &loop->wake_fd) {
        while (read(loop->wake_fd, &count, sizeof count) < 0 && errno == EINTR)
            ;
        ev->data.ptr = NULL;
    }
}

/*
 * Waits, then fills the batch. The events are fetched with the lock held, so that a source that
 * another thread removes is either not reported any more or found in the batch.
 */
static void fill_batch(struct event_loop *loop, u64 timeout_ns)
{
    u64 wait_ns = prepare_wait(loop, timeout_ns);
    struct timespec ts = {(time_t)(wait_ns / NS_PER_SEC), (long)(wait_ns % NS_PER_SEC)};
    struct pollfd pfd = {.fd = loop->epoll_fd, .events = POLLIN};
    int polled = ppoll(&pfd, 1, wait_ns == FOREVER ? NULL : &ts, NULL);

    lock_acquire(&loop->lock);
    loop->asleep = false;
    int n = polled > 0 ? epoll_wait(loop->epoll_fd, loop->batch, BATCH, 0) : 0;
    loop->batch_len = n > 0 ? (unsigned)n : 0;
    for (unsigned i = 0; i < loop->batch_len; i++)
        serve_own_descriptor(loop, &loop->batch[i]);
    add_plain_to_batch(loop);
    lock_drop(&loop->lock);
}

void event_loop_poll(struct event_loop *loop, u64 timeout_ns)
{
    fill_batch(loop, timeout_ns);
    serve_timers(loop);
    serve_sources(loop);
    serve_deferred(loop);
}

void event_loop_run(struct event_loop *loop)
{
    while (!atomic_exchange(&loop->stop, false))
        event_loop_poll(loop, FOREVER);
}
