/* The items of the benchmark: what one is, and what it may call.
 *
 * An item sets up its data, calls bench_start(), does `count` units of work and returns a checksum over
 * everything that it computed. The checksum depends on `count` alone, never on the machine or on time, so
 * that the same binary must print the same one natively and in every virtual machine.
 */
#ifndef BENCH_GUEST_ITEM_H
#define BENCH_GUEST_ITEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NOINLINE __attribute__((noinline, noclone))

struct item {
    const char *group, *name;
    uint64_t (*run)(uint64_t count);
    uint64_t count;         /* about 0.2 s natively on a machine of 2024 */
    bool (*possible)(void); /* NULL: always */
    const char *script;     /* programs: what the shell runs, with $n as the count */
};

/* One list a group, each ended by an item without a name. */
extern const struct item integer_items[], branch_items[], float_items[], memory_items[], modify_items[];
extern const struct item kernel_items[], program_items[], parallel_items[];

/* The set-up is done: the clock starts. To be called once by each item. */
void bench_start(void);

/* Prints what failed with errno, and ends the item. */
void bench_fail(const char *what) __attribute__((noreturn));

/* Runs the shell on an item's script; the checksum of what it printed. */
uint64_t program_run(const struct item *item, uint64_t count);

/* Zeroed memory, every page touched; never NULL. */
void *bench_memory(size_t size);

/* A generator of numbers that is the same everywhere. The state must not be 0. */
static inline uint64_t bench_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline uint64_t bench_mix(uint64_t sum, uint64_t value)
{
    return (sum ^ value) * 0x9e3779b97f4a7c15 + 1;
}

/* A double's bits, for checksums. */
static inline uint64_t bench_bits(double d)
{
    union {
        double d;
        uint64_t u;
    } both = {.d = d};

    return both.u;
}

#endif
