/* Control flow whose targets are known only when it happens. */
#include <string.h>

#include "item.h"

enum { OP_ADD, OP_SUB, OP_XOR, OP_SHIFT, OP_LOAD, OP_STORE, OP_MUL, OP_NOT, OP_SWAP, OP_LOOP, OP_COUNT };

/* A program for the two little interpreters: ends with OP_LOOP, which goes back to its start. */
static void make_bytecode(uint8_t *code, size_t size)
{
    uint64_t seed = 11;

    for (size_t i = 0; i < size - 1; i++)
        code[i] = (uint8_t)(bench_random(&seed) % OP_LOOP);
    code[size - 1] = OP_LOOP;
}

enum { CODE = 499 };

static uint64_t switch_dispatch(uint64_t count)
{
    uint8_t code[CODE];
    uint64_t a = 1, b = 2, cell[8] = {0};

    make_bytecode(code, sizeof(code));
    bench_start();
    for (const uint8_t *pc = code;;) {
        uint8_t op = *pc++;

        switch (op) {
        case OP_ADD: a += b + 1; break;
        case OP_SUB: b -= a; break;
        case OP_XOR: a ^= b >> 3; break;
        case OP_SHIFT: b = b << 5 | b >> 59; break;
        case OP_LOAD: a += cell[b & 7]; break;
        case OP_STORE: cell[a & 7] = b; break;
        case OP_MUL: b = b * 5 + a; break;
        case OP_NOT: a = ~a; break;
        case OP_SWAP: a ^= b, b ^= a, a ^= b; break;
        case OP_LOOP:
            if (!--count)
                return bench_mix(a, b);
            pc = code;
            break;
        default: __builtin_unreachable();
        }
    }
}

static uint64_t computed_goto(uint64_t count)
{
    static const void *const labels[OP_COUNT] = {&&add,   &&sub, &&xor, &&shift, &&load,
                                                 &&store, &&mul, &&not, &&swap,  &&loop};
    uint8_t code[CODE];
    uint64_t a = 1, b = 2, cell[8] = {0};
    const uint8_t *pc = code;

    make_bytecode(code, sizeof(code));
    bench_start();
#define NEXT goto *labels[*pc++]
    NEXT;
add:
    a += b + 1;
    NEXT;
sub:
    b -= a;
    NEXT;
    xor : a ^= b >> 3;
    NEXT;
shift:
    b = b << 5 | b >> 59;
    NEXT;
load:
    a += cell[b & 7];
    NEXT;
store:
    cell[a & 7] = b;
    NEXT;
mul:
    b = b * 5 + a;
    NEXT;
    not : a = ~a;
    NEXT;
swap:
    a ^= b, b ^= a, a ^= b;
    NEXT;
loop:
    if (--count) {
        pc = code;
        NEXT;
    }
#undef NEXT
    return bench_mix(a, b);
}

typedef uint64_t step_fn(uint64_t);

static NOINLINE uint64_t step_add(uint64_t x)
{
    return x + 0x1234567;
}
static NOINLINE uint64_t step_mul(uint64_t x)
{
    return x * 5;
}
static NOINLINE uint64_t step_rotate(uint64_t x)
{
    return x << 7 | x >> 57;
}
static NOINLINE uint64_t step_fold(uint64_t x)
{
    return x ^ x >> 11;
}
static NOINLINE uint64_t step_not(uint64_t x)
{
    return ~x;
}
static NOINLINE uint64_t step_odd(uint64_t x)
{
    return x | 1;
}
static NOINLINE uint64_t step_less(uint64_t x)
{
    return x - 99;
}
static NOINLINE uint64_t step_swap(uint64_t x)
{
    return __builtin_bswap64(x);
}

/* Targets drawn at random: no predictor, and no inline cache of one entry, helps. */
static uint64_t indirect_call(uint64_t count)
{
    static step_fn *const steps[8] = {step_add, step_mul, step_rotate, step_fold,
                                      step_not, step_odd, step_less,   step_swap};
    step_fn *order[509];
    uint64_t seed = 12, x = 1;

    for (size_t i = 0; i < 509; i++)
        order[i] = steps[bench_random(&seed) % 8];
    bench_start();
    while (count--)
        for (size_t i = 0; i < 509; i++)
            x = order[i](x);
    return x;
}

struct shape;

struct shape_ops {
    uint64_t (*area)(const struct shape *s);
    void (*grow)(struct shape *s, uint64_t by);
};

struct shape {
    const struct shape_ops *ops;
    uint64_t w, h;
};

static uint64_t box_area(const struct shape *s)
{
    return s->w * s->h;
}
static void box_grow(struct shape *s, uint64_t by)
{
    s->w += by, s->h += 1;
}
static uint64_t ball_area(const struct shape *s)
{
    return s->w * s->w * 3;
}
static void ball_grow(struct shape *s, uint64_t by)
{
    s->w ^= by;
}
static uint64_t dot_area(const struct shape *s)
{
    return s->h & 1;
}
static void dot_grow(struct shape *s, uint64_t by)
{
    s->h = s->h * 3 + by;
}
static uint64_t line_area(const struct shape *s)
{
    return s->w + s->h;
}
static void line_grow(struct shape *s, uint64_t by)
{
    s->w -= by, s->h += by;
}

/* Objects of four classes, mostly of one: what C++ and object systems in C do all day. */
static uint64_t virtual_call(uint64_t count)
{
    static const struct shape_ops classes[4] = {
        {box_area, box_grow}, {ball_area, ball_grow}, {dot_area, dot_grow}, {line_area, line_grow}};
    enum { SHAPES = 1000 };
    struct shape *shapes = bench_memory(SHAPES * sizeof(*shapes));
    uint64_t seed = 13, sum = 0;

    for (size_t i = 0; i < SHAPES; i++) {
        uint64_t r = bench_random(&seed) % 8;

        shapes[i] = (struct shape){.ops = &classes[r < 4 ? r : 0], .w = i, .h = r};
    }
    bench_start();
    while (count--)
        for (size_t i = 0; i < SHAPES; i++) {
            sum += shapes[i].ops->area(&shapes[i]);
            shapes[i].ops->grow(&shapes[i], sum & 15);
        }
    return sum;
}

/* Calls nested far deeper than any return predictor, from several call sites. */
static NOINLINE uint64_t descend(uint64_t depth, uint64_t x)
{
    uint64_t r;

    if (!depth)
        return x;
    switch (x & 3) {
    case 0: r = descend(depth - 1, x * 3 + 1) + 1; break;
    case 1: r = descend(depth - 1, x ^ depth) ^ depth; break;
    case 2: r = descend(depth - 1, x + depth) * 3; break;
    default: r = descend(depth - 1, x >> 1) - 7; break;
    }
    return r + x;
}

static uint64_t deep_call(uint64_t count)
{
    uint64_t sum = 1;

    bench_start();
    while (count--)
        sum = bench_mix(sum, descend(500, sum));
    return sum;
}

const struct item branch_items[] = {
    {.group = "branches", .name = "switch-dispatch", .run = switch_dispatch, .count = 340000},
    {.group = "branches", .name = "computed-goto", .run = computed_goto, .count = 500000},
    {.group = "branches", .name = "indirect-call", .run = indirect_call, .count = 300000},
    {.group = "branches", .name = "virtual-call", .run = virtual_call, .count = 60000},
    {.group = "branches", .name = "deep-call", .run = deep_call, .count = 200000},
    {0},
};
