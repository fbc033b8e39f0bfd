/* Numbers that people write. The whole string must be the number: 0, or -EINVAL or -ERANGE. */
#ifndef TRAPEZE_BASE_PARSE_H
#define TRAPEZE_BASE_PARSE_H

#include "base/compiler.h"

/* Decimal, or hexadecimal after 0x. No sign, no spaces, no octal. */
int parse_u64(const char *s, u64 *value);

/* Like parse_u64 with an optional suffix K, M, G or T (either case; powers of 1024): bytes. */
int parse_size(const char *s, u64 *bytes);

#endif
