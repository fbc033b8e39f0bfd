/* Numbers that people write. */
#include "base/parse.h"

#include <errno.h>
#include <string.h>

static int digit_value(char c, unsigned base)
{
    int v = -1;
    if (c >= '0' && c <= '9')
        v = c - '0';
    else if (c >= 'a' && c <= 'f')
        v = c - 'a' + 10;
    else if (c >= 'A' && c <= 'F')
        v = c - 'A' + 10;
    return v < (int)base ? v : -1;
}

/* Reads digits and sets *end behind the last. */
static int parse_digits(const char *s, const char **end, u64 *value)
{
    unsigned base = 10;
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
        base = 16;
        s += 2;
    }
    if (digit_value(*s, base) < 0)
        return -EINVAL;
    u64 v = 0;
    for (int d; (d = digit_value(*s, base)) >= 0; s++) {
        if (__builtin_mul_overflow(v, (u64)base, &v) || __builtin_add_overflow(v, (u64)d, &v))
            return -ERANGE;
    }
    *end = s;
    *value = v;
    return 0;
}

int parse_u64(const char *s, u64 *value)
{
    const char *end;
    u64 v;
    int r = parse_digits(s, &end, &v);
    if (r < 0)
        return r;
    if (*end)
        return -EINVAL;
    *value = v;
    return 0;
}

int parse_size(const char *s, u64 *bytes)
{
    static const char suffixes[] = "KMGT";
    const char *end;
    u64 v;
    int r = parse_digits(s, &end, &v);
    if (r < 0)
        return r;
    if (*end) {
        const char *suffix = strchr(suffixes, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
        if (!suffix || end[1])
            return -EINVAL;
        if (__builtin_mul_overflow(v, 1ull << 10 * (suffix - suffixes + 1), &v))
            return -ERANGE;
    }
    *bytes = v;
    return 0;
}
