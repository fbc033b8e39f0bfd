/* Moving memory, and waiting for it. */
#include <emmintrin.h>
#include <string.h>

#include "item.h"

enum { SIZE = 1 << 20 };

static uint64_t sum_of(const uint8_t *p, size_t size)
{
    uint64_t sum = 0, word;

    for (size_t i = 0; i + 8 <= size; i += 8) {
        memcpy(&word, p + i, 8);
        sum = bench_mix(sum, word);
    }
    return sum;
}

static uint8_t *make_bytes(size_t size)
{
    uint8_t *p = bench_memory(size);
    uint64_t seed = 31;

    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)bench_random(&seed);
    return p;
}

/* The sizes that programs copy: many small, some of pages, few large. The C library chooses how. */
static uint64_t copy(uint64_t count)
{
    static const uint32_t sizes[] = {7, 16, 24, 40, 64, 100, 200, 500, 1500, 4096, 20000, 100000};
    uint8_t *from = make_bytes(SIZE), *to = bench_memory(SIZE);
    uint64_t seed = 32;

    bench_start();
    while (count--)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
            for (uint32_t n = 1 + 8192 / sizes[i]; n--;) {
                uint64_t r = bench_random(&seed);

                memcpy(to + (r & 0x7ffff), from + (r >> 20 & 0x7ffff), sizes[i]);
            }
    return sum_of(to, SIZE);
}

static uint64_t set(uint64_t count)
{
    static const uint32_t sizes[] = {7, 16, 24, 40, 64, 100, 200, 500, 1500, 4096, 20000, 100000};
    uint8_t *to = bench_memory(SIZE);
    uint64_t seed = 33;

    bench_start();
    while (count--)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
            for (uint32_t n = 1 + 8192 / sizes[i]; n--;) {
                uint64_t r = bench_random(&seed);

                memset(to + (r & 0x7ffff), (int)(r >> 32 & 0xff), sizes[i]);
            }
    return sum_of(to, SIZE);
}

/* Page-sized pieces by bytes and by quadwords, as the kernel's copy_page and copy_user do it. */
static uint64_t rep_movs(uint64_t count)
{
    uint8_t *from = make_bytes(SIZE), *to = bench_memory(SIZE);

    bench_start();
    while (count--)
        for (size_t at = 0; at < SIZE; at += 4096) {
            void *d = to + (at * 17 & (SIZE - 1)), *s = from + at;
            uint64_t n = at & 4096 ? 4096 : 512;

            if (n == 4096)
                __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory");
            else
                __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n)::"memory");
        }
    return sum_of(to, SIZE);
}

static uint64_t rep_stos(uint64_t count)
{
    uint8_t *to = bench_memory(SIZE);

    bench_start();
    while (count--)
        for (size_t at = 0; at < SIZE; at += 4096) {
            void *d = to + at;
            uint64_t n = at & 4096 ? 4096 : 512, v = count * 0x0101010101010101;

            if (n == 4096)
                __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory");
            else
                __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(v) : "memory");
        }
    return sum_of(to, SIZE);
}

static uint64_t sse_copy(uint64_t count)
{
    uint8_t *from = make_bytes(SIZE), *to = bench_memory(SIZE);
    __m128i last = _mm_setzero_si128();

    bench_start();
    while (count--)
        for (size_t at = 0; at < SIZE; at += 32) {
            __m128i a = _mm_loadu_si128((const __m128i *)(from + at));
            __m128i b = _mm_load_si128((const __m128i *)(from + at + 16));

            _mm_storeu_si128((__m128i *)(to + at), _mm_add_epi8(a, last));
            _mm_store_si128((__m128i *)(to + at + 16), b);
            last = b;
        }
    return sum_of(to, SIZE);
}

/* A cycle through all cache lines of `size` bytes in random order: one dependent load a step. */
static uint64_t chase(uint64_t count, size_t size)
{
    size_t lines = size / 64;
    uint64_t *memory = bench_memory(size), seed = 34, at = 0;

    for (size_t i = 0; i < lines; i++)
        memory[i * 8] = i * 8;
    for (size_t i = lines - 1; i; i--) { /* Sattolo: one cycle */
        size_t j = bench_random(&seed) % i;
        uint64_t t = memory[i * 8];

        memory[i * 8] = memory[j * 8];
        memory[j * 8] = t;
    }
    bench_start();
    while (count--)
        at = memory[at];
    return at;
}

static uint64_t chase_16k(uint64_t count)
{
    return chase(count, 16 << 10);
}
static uint64_t chase_256k(uint64_t count)
{
    return chase(count, 256 << 10);
}
static uint64_t chase_4m(uint64_t count)
{
    return chase(count, 4 << 20);
}
static uint64_t chase_64m(uint64_t count)
{
    return chase(count, 64 << 20);
}

const struct item memory_items[] = {
    {.group = "memory", .name = "memcpy", .run = copy, .count = 12000},
    {.group = "memory", .name = "memset", .run = set, .count = 15000},
    {.group = "memory", .name = "rep-movs", .run = rep_movs, .count = 6000},
    {.group = "memory", .name = "rep-stos", .run = rep_stos, .count = 10000},
    {.group = "memory", .name = "sse-copy", .run = sse_copy, .count = 5000},
    {.group = "memory", .name = "chase-16k", .run = chase_16k, .count = 160000000},
    {.group = "memory", .name = "chase-256k", .run = chase_256k, .count = 60000000},
    {.group = "memory", .name = "chase-4m", .run = chase_4m, .count = 15000000},
    {.group = "memory", .name = "chase-64m", .run = chase_64m, .count = 1500000},
    {0},
};
