/* Integer work that lives in registers and the caches, but for the hash table. */
#include <string.h>

#include "item.h"

struct node {
    struct node *next;
    uint64_t value, pad[2];
};

/* Dependent loads with a little arithmetic: what a software TLB check costs where nothing hides it. */
static uint64_t list_walk(uint64_t count)
{
    enum { NODES = 1024 };
    struct node *nodes = bench_memory(NODES * sizeof(*nodes));
    uint64_t seed = 1, sum = 0;
    uint32_t order[NODES];

    for (uint32_t i = 0; i < NODES; i++)
        order[i] = i;
    for (uint32_t i = NODES - 1; i; i--) {
        uint32_t j = (uint32_t)(bench_random(&seed) % (i + 1)), t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < NODES; i++)
        nodes[order[i]] = (struct node){.next = &nodes[order[(i + 1) % NODES]], .value = i * 7};
    bench_start();
    for (struct node *n = nodes; count--; n = n->next)
        sum += n->value ^ count;
    return sum;
}

static void quicksort(uint32_t *low, uint32_t *high) /* both inclusive */
{
    while (high - low > 12) {
        uint32_t pivot = low[(high - low) / 2], *i = low, *j = high;

        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                uint32_t t = *i;

                *i++ = *j;
                *j-- = t;
            }
        }
        quicksort(low, j);
        low = i;
    }
    for (uint32_t *i = low + 1; i <= high; i++) {
        uint32_t v = *i, *j = i;

        for (; j > low && j[-1] > v; j--)
            *j = j[-1];
        *j = v;
    }
}

static uint64_t sort(uint64_t count)
{
    enum { NUMBERS = 20000 };
    uint32_t *numbers = bench_memory(NUMBERS * sizeof(*numbers));
    uint64_t seed = 2, sum = 0;

    bench_start();
    while (count--) {
        for (int i = 0; i < NUMBERS; i++)
            numbers[i] = (uint32_t)bench_random(&seed);
        quicksort(numbers, numbers + NUMBERS - 1);
        for (int i = 0; i < NUMBERS; i += 100)
            sum = bench_mix(sum, numbers[i]);
    }
    return sum;
}

static uint64_t matrix(uint64_t count)
{
    enum { N = 96 };
    uint64_t(*a)[N] = bench_memory(3 * sizeof(uint64_t[N][N]));
    uint64_t(*b)[N] = a + N, (*c)[N] = b + N, seed = 3, sum = 0;

    for (int i = 0; i < N * N; i++) {
        a[i / N][i % N] = bench_random(&seed);
        b[i / N][i % N] = bench_random(&seed);
    }
    bench_start();
    while (count--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                uint64_t dot = 0;

                for (int k = 0; k < N; k++)
                    dot += a[i][k] * b[k][j];
                c[i][j] = dot;
            }
        a[count % N][0] ^= c[N - 1][count % N];
        sum = bench_mix(sum, c[count % N][count % N]);
    }
    return sum;
}

static uint64_t crc(uint64_t count)
{
    enum { BYTES = 65536 };
    uint8_t *data = bench_memory(BYTES);
    uint32_t table[256], sum = 0xffffffff;
    uint64_t seed = 4;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
        table[i] = c;
    }
    for (int i = 0; i < BYTES; i++)
        data[i] = (uint8_t)bench_random(&seed);
    bench_start();
    while (count--)
        for (int i = 0; i < BYTES; i++)
            sum = table[(uint8_t)(sum ^ data[i])] ^ sum >> 8;
    return sum;
}

/* 64 MiB of open addressing: each step misses the caches and the host's TLB, as the guest's TLB does. */
static uint64_t hash_table(uint64_t count)
{
    enum { SLOTS = 1 << 23 };
    uint64_t *table = bench_memory(SLOTS * sizeof(*table)), seed = 5, sum = 0;

    bench_start();
    for (uint64_t n = 0; n < count; n++) {
        uint64_t key = bench_random(&seed) >> 42 | 1, at = key * 0x9e3779b97f4a7c15 >> 41, steps = 0;

        while (table[at] && (uint32_t)table[at] != key) {
            at = (at + 1) % SLOTS;
            steps++;
        }
        table[at] = (table[at] & ~(uint64_t)0xffffffff) + (1ull << 32) + key;
        sum += steps + (table[at] >> 32);
    }
    return sum;
}

static NOINLINE uint64_t fibonacci(uint64_t n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

/* The optimiser may not turn one of the calls into a loop: the item is about calls. */
#pragma GCC push_options
#pragma GCC optimize("no-optimize-sibling-calls,no-inline")
static NOINLINE uint64_t ackermann(uint64_t m, uint64_t n)
{
    if (!m)
        return n + 1;
    return n ? ackermann(m - 1, ackermann(m, n - 1)) : ackermann(m - 1, 1);
}
#pragma GCC pop_options

static uint64_t recursion(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    while (count--)
        sum = bench_mix(sum, fibonacci(20 + count % 3) + ackermann(2, 40 + count % 5));
    return sum;
}

/* Schoolbook multiplication and addition of numbers of 64 limbs: MUL, ADC, carries. */
#ifdef __SIZEOF_INT128__
static uint64_t bignum(uint64_t count)
{
    enum { LIMBS = 64 };
    uint64_t a[LIMBS], b[LIMBS], c[2 * LIMBS], seed = 6, sum = 0;

    for (int i = 0; i < LIMBS; i++) {
        a[i] = bench_random(&seed);
        b[i] = bench_random(&seed);
    }
    bench_start();
    while (count--) {
        memset(c, 0, sizeof(c));
        for (int i = 0; i < LIMBS; i++) {
            uint64_t carry = 0;

            for (int j = 0; j < LIMBS; j++) {
                unsigned __int128 t = (unsigned __int128)a[i] * b[j] + c[i + j] + carry;

                c[i + j] = (uint64_t)t;
                carry = (uint64_t)(t >> 64);
            }
            c[i + LIMBS] = carry;
        }
        for (int i = 0; i < LIMBS; i++)
            a[i] = c[i + LIMBS / 2];
        a[0] |= 1;
        sum = bench_mix(sum, a[count % LIMBS]);
    }
    return sum;
}
#endif

static uint64_t division(uint64_t count)
{
    uint64_t seed = 7, sum = 0;

    bench_start();
    while (count--) {
        uint64_t a = bench_random(&seed), b = (a >> 17 & 0xffffff) | 1;
        int32_t c = (int32_t)a, d = (int32_t)(a >> 40 & 0xff) - 300;

        sum += a / b + a % b + (uint64_t)(c / d) + (uint64_t)(c % d);
        for (a &= 0xffff; b;) {
            uint64_t r = a % b;

            a = b;
            b = r;
        }
        sum = bench_mix(sum, a);
    }
    return sum;
}

const struct item integer_items[] = {
    {.group = "integer", .name = "list-walk", .run = list_walk, .count = 150000000},
    {.group = "integer", .name = "sort", .run = sort, .count = 260},
    {.group = "integer", .name = "matrix", .run = matrix, .count = 500},
    {.group = "integer", .name = "crc", .run = crc, .count = 1600},
    {.group = "integer", .name = "hash-table", .run = hash_table, .count = 9000000},
    {.group = "integer", .name = "recursion", .run = recursion, .count = 6000},
#ifdef __SIZEOF_INT128__
    {.group = "integer", .name = "bignum", .run = bignum, .count = 80000},
#endif
    {.group = "integer", .name = "division", .run = division, .count = 3600000},
    {0},
};
