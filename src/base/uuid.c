#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

void uuid_make(u8 *uuid)
{
    /* A request of 16 bytes is neither cut short nor interrupted (getrandom(2)). */
    BUG_ON(getrandom(uuid, UUID_SIZE, 0) != UUID_SIZE);
    uuid[6] = (u8)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (u8)((uuid[8] & 0x3f) | 0x80);
}

/* A hyphen follows these bytes of the text. */
static bool hyphen_after(unsigned byte)
{
    return byte == 3 || byte == 5 || byte == 7 || byte == 9;
}

int uuid_parse(const char *text, u8 *uuid)
{
    for (unsigned i = 0; i < UUID_SIZE; i++) {
        unsigned v;
        if (!isxdigit((u8)text[0]) || !isxdigit((u8)text[1]) || sscanf(text, "%2x", &v) != 1)
            return -EINVAL;
        uuid[i] = (u8)v;
        text += 2;
        if (hyphen_after(i) && *text++ != '-')
            return -EINVAL;
    }
    return *text ? -EINVAL : 0;
}

void uuid_format(const u8 *uuid, char *text)
{
    for (unsigned i = 0; i < UUID_SIZE; i++) {
        snprintf(text, 3, "%02x", uuid[i]);
        text += 2;
        if (hyphen_after(i))
            *text++ = '-';
    }
}
