/* Types and macros that every file may use. */
#ifndef TRAPEZE_BASE_COMPILER_H
#define TRAPEZE_BASE_COMPILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;
typedef unsigned __int128 u128;
typedef __int128 i128;

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))
#define NORETURN __attribute__((noreturn))
#define NOINLINE __attribute__((noinline))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define ALIGNED(n) __attribute__((aligned(n)))
#define PACKED __attribute__((packed))

/* The object of @type whose @member is at @ptr. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* The names are numbered so that one may stand in the other's argument. */
#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#define PICK(a, op, b, n)                                                               \
    ({                                                                                  \
        __typeof__(a) PASTE(pick_a_, n) = (a);                                          \
        __typeof__(b) PASTE(pick_b_, n) = (b);                                          \
        PASTE(pick_a_, n) op PASTE(pick_b_, n) ? PASTE(pick_a_, n) : PASTE(pick_b_, n); \
    })
#define MIN(a, b) PICK(a, <, b, __COUNTER__)
#define MAX(a, b) PICK(a, >, b, __COUNTER__)
#define BIT(n) (1ull << (n))
#define MASK(n) ((n) >= 64 ? ~0ull : (1ull << (n)) - 1)
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a)-1))
#define ALIGN_UP(x, a) ALIGN_DOWN((x) + ((__typeof__(x))(a)-1), a)

/* Bits [hi:lo] of @x, right aligned. */
static inline u64 bits(u64 x, unsigned hi, unsigned lo)
{
    return (x >> lo) & MASK(hi - lo + 1);
}

/* Our own bug: prints where and aborts. Never used on guest or host input. */
NORETURN void bug_at(const char *file, int line, const char *what);
#define BUG() bug_at(__FILE__, __LINE__, "unreachable state")
#define BUG_ON(cond)                           \
    do {                                       \
        if (unlikely(cond))                    \
            bug_at(__FILE__, __LINE__, #cond); \
    } while (0)

/* Local clean-up: `CLEANUP_FREE char *p = NULL;`, `CLEANUP_CLOSE int fd = -1;` */
void cleanup_free(void *pp);
void cleanup_close(int *fd);
#define CLEANUP_FREE __attribute__((cleanup(cleanup_free)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close)))

/* Little-endian access at any alignment (host and guest are both little-endian). */
#define DEFINE_LE(N)                              \
    static inline u##N get_le##N(const void *p)   \
    {                                             \
        u##N v;                                   \
        __builtin_memcpy(&v, p, sizeof v);        \
        return v;                                 \
    }                                             \
    static inline void put_le##N(void *p, u##N v) \
    {                                             \
        __builtin_memcpy(p, &v, sizeof v);        \
    }
DEFINE_LE(16)
DEFINE_LE(32)
DEFINE_LE(64)
#undef DEFINE_LE

/* The same, big-endian. */
#define DEFINE_BE(N)                              \
    static inline u##N get_be##N(const void *p)   \
    {                                             \
        return __builtin_bswap##N(get_le##N(p));  \
    }                                             \
    static inline void put_be##N(void *p, u##N v) \
    {                                             \
        put_le##N(p, __builtin_bswap##N(v));      \
    }
DEFINE_BE(16)
DEFINE_BE(32)
DEFINE_BE(64)
#undef DEFINE_BE

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ull
#define PAGE_MASK (~(PAGE_SIZE - 1))

#endif
