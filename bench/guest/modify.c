/* Code that changes while it runs. The pages are writable and executable at once, as in simple JITs. */
#include <string.h>
#include <sys/mman.h>

#include "item.h"

typedef uint64_t code_fn(uint64_t);

static uint8_t *code_page(void)
{
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        bench_fail("mmap of a writable and executable page");
    return p;
}

/* Bytes are code from here on: C has no cast from the one pointer to the other. */
static code_fn *function_at(uint8_t *p)
{
    code_fn *f;

    memcpy(&f, &p, sizeof(f));
    return f;
}

/* lea rax, [rdi + value]; ret */
static size_t emit_add(uint8_t *p, uint32_t value)
{
    memcpy(p, "\x48\x8d\x87", 3);
    memcpy(p + 3, &value, 4);
    p[7] = 0xc3;
    return 8;
}

/* An immediate is rewritten before each call. */
static uint64_t rewrite(uint64_t count)
{
    uint8_t *page = code_page();
    uint64_t x = 0;

    emit_add(page, 0);
    bench_start();
    for (uint32_t i = 0; i < count; i++) {
        memcpy(page + 3, &i, 4);
        __asm__ volatile("" ::: "memory");
        x = bench_mix(function_at(page)(x), i & 0x7fffffff);
    }
    return x;
}

/* Functions are generated one behind the other in a page, each called a few times as the page fills; then
 * anew. */
static uint64_t jit(uint64_t count)
{
    enum { FUNCTION = 32 };
    uint8_t *page = code_page();
    uint64_t x = 0, seed = 41;

    bench_start();
    while (count--)
        for (size_t at = 0; at < 4096; at += FUNCTION) {
            size_t size = emit_add(page + at, (uint32_t)bench_random(&seed) >> 1) - 1;

            memcpy(page + at + size, "\x48\xd1\xc0\x48\x31\xf8\xc3", 7); /* rol rax; xor rax, rdi; ret */
            __asm__ volatile("" ::: "memory");
            for (size_t i = 0; i < 10; i++)
                x += function_at(page + (at + i * FUNCTION * 5) % (at + FUNCTION))(x);
        }
    return x;
}

/* A function keeps its counter in its own page, a cache line or more away. */
static uint64_t data_beside(uint64_t count)
{
    static const uint8_t code[] = {
        0x48, 0x8b, 0x05, 0xf9, 0x01, 0x00, 0x00, /* mov rax, [rip + 0x1f9]   the quadword at 0x200 */
        0x48, 0x01, 0xf8,                         /* add rax, rdi */
        0x48, 0x89, 0x05, 0xef, 0x01, 0x00, 0x00, /* mov [rip + 0x1ef], rax */
        0xc3,
    };
    uint8_t *page = code_page();
    uint64_t sum = 0;

    memcpy(page, code, sizeof(code));
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        sum ^= function_at(page)(i);
    return sum;
}

const struct item modify_items[] = {
    {.group = "self-modifying", .name = "rewrite-and-run", .run = rewrite, .count = 1000000},
    {.group = "self-modifying", .name = "jit-in-one-page", .run = jit, .count = 8000},
    {.group = "self-modifying", .name = "data-beside-code", .run = data_beside, .count = 30000000},
    {0},
};
