#include "machine/smbios.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MAKER "Trapeze"

/* Handles; one structure of each other type needs none that anybody refers to. */
enum {
    HANDLE_CHASSIS = 0x300,
    HANDLE_CPU = 0x400,
    HANDLE_ARRAY = 0x1000,
    HANDLE_DEVICE = 0x1100,
    HANDLE_MAP = 0x1300,
    HANDLE_BOOT = 0x2000,
    HANDLE_END = 0x7f00,
};

struct builder {
    struct smbios *s;
    u8 strings; /* in the structure that is open */
    bool full;
};

static u8 *append(struct builder *b, const void *data, u32 len)
{
    u8 *p = b->s->image + b->s->len;

    if (len > SMBIOS_MAX - b->s->len) {
        b->full = true;
        return b->s->image; /* overwritten bytes of an image that is given up */
    }
    memcpy(p, data, len);
    b->s->len += len;
    return p;
}

/* The formatted area of a structure (6.1.2), zeroes but for its header. */
static u8 *begin(struct builder *b, u8 type, u8 len, u16 handle)
{
    u8 zero[128] = {0};

    zero[0] = type;
    zero[1] = len;
    put_le16(zero + 2, handle);
    b->strings = 0;
    return append(b, zero, len);
}

/* Strings follow the formatted area in the order of their numbers; returns the number. */
static u8 string(struct builder *b, const char *text)
{
    append(b, text, (u32)MIN(strlen(text), (size_t)64));
    append(b, "", 1);
    return ++b->strings;
}

/* An empty string ends the set, and an empty set has two zero bytes (6.1.3). */
static void end(struct builder *b)
{
    append(b, "\0", b->strings ? 1 : 2);
}

/* Type 0, 7.1 */
static void firmware(struct builder *b)
{
    u8 *p = begin(b, 0, 24, 0);

    p[4] = string(b, MAKER);
    p[5] = string(b, TRAPEZE_VERSION);
    p[8] = string(b, "01/01/2026");
    put_le16(p + 6, 0xe000);
    put_le64(p + 10, BIT(3)); /* the characteristics are not given */
    p[19] = 0x10;             /* it is a virtual machine */
    p[20] = p[21] = 0;
    p[22] = p[23] = 0xff; /* no embedded controller */
    end(b);
}

/* Type 1, 7.2 */
static void system_information(struct builder *b, const char *name, const u8 *uuid)
{
    u8 *p = begin(b, 1, 27, 1);

    p[4] = string(b, MAKER);
    p[5] = string(b, "Trapeze PC");
    p[6] = string(b, TRAPEZE_VERSION);
    p[7] = string(b, name);
    put_le32(p + 8, get_be32(uuid)); /* 7.2.1: its first three fields are little-endian */
    put_le16(p + 12, get_be16(uuid + 4));
    put_le16(p + 14, get_be16(uuid + 6));
    memcpy(p + 16, uuid + 8, 8);
    p[24] = 6; /* woken by the power switch */
    end(b);
}

/* Type 3, 7.4 */
static void chassis(struct builder *b)
{
    u8 *p = begin(b, 3, 22, HANDLE_CHASSIS);

    p[4] = string(b, MAKER);
    p[5] = 1;                 /* other */
    p[9] = p[10] = p[11] = 3; /* safe */
    p[12] = 2;                /* security: unknown */
    end(b);
}

/* Type 4, 7.5 */
static void processor(struct builder *b, unsigned n)
{
    char socket[16];
    u8 *p = begin(b, 4, 48, (u16)(HANDLE_CPU + n));

    snprintf(socket, sizeof socket, "CPU %u", n);
    p[4] = string(b, socket);
    p[5] = 3;     /* central processor */
    p[6] = 1;     /* family: other */
    p[24] = 0x41; /* socket populated, enabled */
    p[25] = 1;    /* upgrade: other */
    put_le16(p + 26, 0xffff);
    put_le16(p + 28, 0xffff);
    put_le16(p + 30, 0xffff);  /* no caches described */
    p[35] = p[36] = p[37] = 1; /* cores, enabled, threads */
    put_le16(p + 38, BIT(2));  /* 64-bit capable */
    put_le16(p + 40, 1);
    p[7] = string(b, MAKER);
    end(b);
}

/* Types 16 and 17, 7.17 and 7.18: one array with one device of all memory. */
static void memory(struct builder *b, u64 bytes)
{
    u8 *p = begin(b, 16, 23, HANDLE_ARRAY);

    p[4] = 1;                    /* other place */
    p[5] = 3;                    /* system memory */
    p[6] = 3;                    /* no error correction */
    put_le32(p + 7, 0x80000000); /* see the extended capacity */
    put_le16(p + 11, 0xfffe);
    put_le16(p + 13, 1);
    put_le64(p + 15, bytes);
    end(b);

    p = begin(b, 17, 40, HANDLE_DEVICE);
    put_le16(p + 4, HANDLE_ARRAY);
    put_le16(p + 6, 0xfffe);
    put_le16(p + 8, 0xffff);
    put_le16(p + 10, 0xffff);
    put_le16(p + 12, bytes >> 20 < 0x7fff ? (u16)(bytes >> 20) : 0x7fff);
    put_le32(p + 28, (u32)(bytes >> 20));
    p[14] = 1; /* form factor: other */
    p[18] = 7; /* type: RAM */
    put_le16(p + 19, BIT(1));
    p[16] = string(b, "RAM");
    end(b);
}

/* Type 19, 7.20 */
static void memory_map(struct builder *b, u16 n, u64 start, u64 len)
{
    u8 *p;

    if (!len)
        return;
    p = begin(b, 19, 31, (u16)(HANDLE_MAP + n));
    put_le32(p + 4, 0xffffffff); /* see the extended addresses */
    put_le32(p + 8, 0xffffffff);
    put_le16(p + 12, HANDLE_ARRAY);
    p[14] = 1;
    put_le64(p + 15, start);
    put_le64(p + 23, start + len - 1);
    end(b);
}

/* The 64-bit entry point, 5.2.2. */
static void entry_point(struct smbios *s, u64 base)
{
    u8 *p = s->image, sum = 0;

    for (unsigned i = 0; i < 5; i++)
        p[i] = (u8) "_SM3_"[i];
    p[6] = SMBIOS_ENTRY_SIZE;
    p[7] = 3; /* version 3.0 */
    p[10] = 1;
    put_le32(p + 12, s->len - SMBIOS_TABLES_AT);
    put_le64(p + 16, base + SMBIOS_TABLES_AT);
    for (unsigned i = 0; i < SMBIOS_ENTRY_SIZE; i++)
        sum = (u8)(sum + p[i]);
    p[5] = (u8)-sum;
}

int smbios_build(struct smbios *s, const struct smbios_config *config, u64 base, struct error *err)
{
    struct builder b = {.s = s};

    memset(s, 0, sizeof *s);
    s->len = SMBIOS_TABLES_AT;
    firmware(&b);
    system_information(&b, config->name, config->uuid);
    chassis(&b);
    for (unsigned i = 0; i < config->cpus; i++)
        processor(&b, i);
    memory(&b, config->low_memory + config->high_memory);
    memory_map(&b, 0, 0, config->low_memory);
    memory_map(&b, 1, 1ull << 32, config->high_memory);
    begin(&b, 32, 11, HANDLE_BOOT); /* 7.33: no boot errors */
    end(&b);
    begin(&b, 127, 4, HANDLE_END);
    end(&b);
    if (b.full)
        return error_set(err, ENOSPC, "the SMBIOS tables are too large");
    entry_point(s, base);
    return 0;
}
