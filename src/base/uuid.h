/* UUIDs (RFC 4122) as 16 bytes in the order of their text. */
#ifndef TRAPEZE_BASE_UUID_H
#define TRAPEZE_BASE_UUID_H

#include "base/compiler.h"

#define UUID_SIZE 16
#define UUID_TEXT 37 /* with its 0 */

/* A new random one (version 4). */
void uuid_make(u8 *uuid);

/* "01234567-89ab-cdef-0123-456789abcdef": 0 or -EINVAL. */
int uuid_parse(const char *text, u8 *uuid);
void uuid_format(const u8 *uuid, char *text);

#endif
