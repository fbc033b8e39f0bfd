/* A load for several processors: as many workers as there are, the work shared between them. */
#include <pthread.h>
#include <unistd.h>

#include "item.h"

enum { MAX_WORKERS = 16, PIECES = 48, NUMBERS = 4096 };

struct worker {
    pthread_t thread;
    unsigned first, step;
    uint64_t rounds, sum;
};

/* Sorts and mixes numbers of its own: integer work and branches in the caches, no sharing. */
static uint64_t piece(uint64_t seed, uint64_t rounds)
{
    uint32_t heap[NUMBERS];
    uint64_t sum = 0;

    while (rounds--) {
        for (size_t n = 0; n < NUMBERS; n++) {
            uint32_t v = (uint32_t)bench_random(&seed);
            size_t at = n;

            for (; at && heap[(at - 1) / 2] < v; at = (at - 1) / 2)
                heap[at] = heap[(at - 1) / 2];
            heap[at] = v;
        }
        for (size_t n = 0; n < NUMBERS; n += 64)
            sum = bench_mix(sum, heap[n]);
    }
    return sum;
}

static void *work(void *worker)
{
    struct worker *w = worker;

    for (unsigned i = w->first; i < PIECES; i += w->step)
        w->sum += piece(i + 1, w->rounds);
    return NULL;
}

static uint64_t workers(uint64_t count)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = processors < 1 ? 1 : processors > MAX_WORKERS ? MAX_WORKERS : (unsigned)processors;
    struct worker w[MAX_WORKERS];
    uint64_t sum = 0;

    bench_start();
    for (unsigned i = 0; i < n; i++) {
        w[i] = (struct worker){.first = i, .step = n, .rounds = count};
        if (pthread_create(&w[i].thread, NULL, work, &w[i]))
            bench_fail("pthread_create");
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(w[i].thread, NULL);
        sum += w[i].sum;
    }
    return sum;
}

const struct item parallel_items[] = {
    {.group = "parallel", .name = "workers", .run = workers, .count = 100},
    {0},
};
