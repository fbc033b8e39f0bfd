/* Floating point in every register file there is. */
#include <immintrin.h>
#include <math.h>

#include "item.h"

struct body {
    double x[3], v[3], mass;
};

static void advance(struct body *b, int n, double dt)
{
    for (int i = 0; i < n; i++) {
        for (int j = i + 1; j < n; j++) {
            double d[3], square = 0.01, pull;

            for (int k = 0; k < 3; k++) {
                d[k] = b[i].x[k] - b[j].x[k];
                square += d[k] * d[k];
            }
            pull = dt / (square * sqrt(square));
            for (int k = 0; k < 3; k++) {
                b[i].v[k] -= d[k] * b[j].mass * pull;
                b[j].v[k] += d[k] * b[i].mass * pull;
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 3; k++)
            b[i].x[k] += dt * b[i].v[k];
}

static uint64_t n_body(uint64_t count)
{
    struct body bodies[5];
    uint64_t seed = 21, sum = 0;

    for (int i = 0; i < 5; i++) {
        bodies[i] = (struct body){.mass = 1.0 / (i + 1)};
        for (int k = 0; k < 3; k++) {
            bodies[i].x[k] = (double)(bench_random(&seed) % 1000) / 100 - 5;
            bodies[i].v[k] = (double)(bench_random(&seed) % 1000) / 5000 - 0.1;
        }
    }
    bench_start();
    while (count--)
        advance(bodies, 5, 0.001);
    for (int i = 0; i < 5; i++)
        sum = bench_mix(sum, bench_bits(bodies[i].x[i % 3]));
    return sum;
}

enum { N = 96 };

struct matrices {
    double a[N][N], b[N][N], c[N][N];
    float fa[N][N], fb[N][N], fc[N][N];
};

static struct matrices *make_matrices(void)
{
    struct matrices *m = bench_memory(sizeof(*m));
    uint64_t seed = 22;

    for (int i = 0; i < N * N; i++) {
        m->a[i / N][i % N] = (double)(bench_random(&seed) % 2001) / 1000 - 1;
        m->b[i / N][i % N] = (double)(bench_random(&seed) % 2001) / 1000 - 1;
        m->fa[i / N][i % N] = (float)m->a[i / N][i % N];
        m->fb[i / N][i % N] = (float)m->b[i / N][i % N];
    }
    return m;
}

static uint64_t matrix_scalar(uint64_t count)
{
    struct matrices *m = make_matrices();
    uint64_t sum = 0;

    bench_start();
    while (count--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double dot = 0;

                for (int k = 0; k < N; k++)
                    dot += m->a[i][k] * m->b[k][j];
                m->c[i][j] = dot;
            }
        sum = bench_mix(sum, bench_bits(m->c[count % N][count % N]));
        m->a[count % N][1] += 0.125;
    }
    return sum;
}

static uint64_t matrix_sse2(uint64_t count)
{
    struct matrices *m = make_matrices();
    uint64_t sum = 0;

    bench_start();
    while (count--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 4) {
                __m128 dot = _mm_setzero_ps();

                for (int k = 0; k < N; k++)
                    dot = _mm_add_ps(dot, _mm_mul_ps(_mm_set1_ps(m->fa[i][k]), _mm_loadu_ps(&m->fb[k][j])));
                _mm_storeu_ps(&m->fc[i][j], dot);
            }
        sum = bench_mix(sum, bench_bits(m->fc[count % N][count % N]));
        m->fa[count % N][1] += 0.125f;
    }
    return sum;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

__attribute__((target("avx2,fma"))) static uint64_t matrix_avx2(uint64_t count)
{
    struct matrices *m = make_matrices();
    uint64_t sum = 0;

    bench_start();
    while (count--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 8) {
                __m256 dot = _mm256_setzero_ps();

                for (int k = 0; k < N; k++)
                    dot = _mm256_fmadd_ps(_mm256_set1_ps(m->fa[i][k]), _mm256_loadu_ps(&m->fb[k][j]), dot);
                _mm256_storeu_ps(&m->fc[i][j], dot);
            }
        sum = bench_mix(sum, bench_bits(m->fc[count % N][count % N]));
        m->fa[count % N][1] += 0.125f;
    }
    return sum;
}

/* Loads and stores of 80 bits, stack shuffles, comparisons into EFLAGS, a square root. */
static uint64_t x87(uint64_t count)
{
    long double re, im, total = 0;

    bench_start();
    for (uint64_t n = 0; n < count; n++) {
        long double cr = (long double)(n % 640) / 320 - 1.5L, ci = (long double)(n % 479) / 240 - 1;

        re = im = 0;
        for (int i = 0; i < 30 && re * re + im * im < 4; i++) {
            long double t = re * re - im * im + cr;

            im = 2 * re * im + ci;
            re = t;
        }
        total += sqrtl(fabsl(re)) + im / 3;
        if (fabsl(total) > 1e6L)
            total = 0;
    }
    return bench_bits((double)total);
}

static uint64_t conversions(uint64_t count)
{
    uint64_t seed = 23, sum = 0;
    double d = 0;
    float f = 1;

    bench_start();
    while (count--) {
        int64_t i = (int64_t)bench_random(&seed) >> 20;
        int32_t j = (int32_t)seed;

        d = (double)i + d * 0.5;
        f = (float)d + (float)j;
        sum +=
            (uint64_t)(int64_t)d + (uint64_t)(int32_t)(f * 1e-5f) + (uint64_t)(int64_t)nearbyint((double)f);
        d = (double)f * 0.25 + (double)(uint32_t)j;
    }
    return bench_mix(sum, bench_bits(d));
}

const struct item float_items[] = {
    {.group = "float", .name = "n-body", .run = n_body, .count = 3000000},
    {.group = "float", .name = "matrix-scalar", .run = matrix_scalar, .count = 1000},
    {.group = "float", .name = "matrix-sse2", .run = matrix_sse2, .count = 2250},
    {.group = "float", .name = "matrix-avx2", .run = matrix_avx2, .count = 3600, .possible = has_avx2},
    {.group = "float", .name = "x87", .run = x87, .count = 1800000},
    {.group = "float", .name = "conversions", .run = conversions, .count = 30000000},
    {0},
};
