#include "machine/aml.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Opcodes (ACPI 6.4, 20.3) */
enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    DUAL_NAME_PREFIX = 0x2e,
    MULTI_NAME_PREFIX = 0x2f,
    OP_EXT = 0x5b,
    OP_ARG0 = 0x68,
    OP_STORE = 0x70,
    EXT_OP_DEVICE = 0x82,
    OP_IF = 0xa0,
    OP_RETURN = 0xa4,
};

void aml_init(struct aml *a)
{
    *a = (struct aml){0};
}

void aml_release(struct aml *a)
{
    free(a->data);
    aml_init(a);
}

int aml_finish(struct aml *a)
{
    BUG_ON(a->depth);
    return a->failed ? -ENOMEM : 0;
}

/* Makes room for @n bytes at @at. */
static u8 *insert(struct aml *a, size_t at, size_t n)
{
    if (a->len + n > a->cap) {
        size_t cap = MAX(a->cap * 2, a->len + n + 1024);
        u8 *data = realloc(a->data, cap);
        if (!data) {
            a->failed = true;
            return NULL;
        }
        a->data = data;
        a->cap = cap;
    }
    memmove(a->data + at + n, a->data + at, a->len - at);
    a->len += n;
    return a->data + at;
}

static void put(struct aml *a, const void *bytes, size_t n)
{
    u8 *p = insert(a, a->len, n);
    if (p)
        memcpy(p, bytes, n);
}

static void put8(struct aml *a, u8 v)
{
    put(a, &v, 1);
}

static void put16(struct aml *a, u16 v)
{
    put(a, &v, 2);
}

static void put32(struct aml *a, u32 v)
{
    put(a, &v, 4);
}

static void put64(struct aml *a, u64 v)
{
    put(a, &v, 8);
}

/* --- names: 20.2.2 --- */

static void put_segment(struct aml *a, const char *s, size_t n)
{
    char seg[4] = {'_', '_', '_', '_'};

    BUG_ON(n == 0 || n > 4);
    memcpy(seg, s, n);
    put(a, seg, 4);
}

static void put_name(struct aml *a, const char *name)
{
    unsigned segments = 1;

    if (*name == '\\')
        put8(a, (u8)*name++);
    if (!*name) {
        put8(a, 0); /* the null name: the root itself */
        return;
    }
    for (const char *p = name; *p; p++)
        segments += *p == '.';
    if (segments == 2)
        put8(a, DUAL_NAME_PREFIX);
    if (segments > 2) {
        put8(a, MULTI_NAME_PREFIX);
        put8(a, (u8)segments);
    }
    for (;;) {
        size_t n = strcspn(name, ".");
        put_segment(a, name, n);
        if (!name[n])
            return;
        name += n + 1;
    }
}

/* --- bodies with a package length: 20.2.4 --- */

static void open_body(struct aml *a, bool resources)
{
    BUG_ON(a->depth == AML_MAX_DEPTH);
    a->open[a->depth].at = a->len;
    a->open[a->depth].resources = resources;
    a->depth++;
}

/* The length counts its own bytes; bits 7:6 of the first one give how many follow. */
static void insert_length(struct aml *a, size_t at)
{
    size_t body = a->len - at;
    unsigned bytes = body + 1 < 0x40 ? 1 : body + 2 < 0x1000 ? 2 : body + 3 < 0x100000 ? 3 : 4;
    size_t length = body + bytes;
    u8 *p = insert(a, at, bytes);

    if (!p)
        return;
    if (bytes == 1) {
        p[0] = (u8)length;
        return;
    }
    p[0] = (u8)((bytes - 1) << 6 | (length & 0xf));
    for (unsigned i = 1; i < bytes; i++)
        p[i] = (u8)(length >> (4 + 8 * (i - 1)));
}

void aml_end(struct aml *a)
{
    size_t at;

    BUG_ON(a->depth == 0);
    a->depth--;
    at = a->open[a->depth].at;
    if (a->open[a->depth].resources) {
        u8 *p;
        put16(a, 0x0079); /* end tag, checksum 0: not checked */
        p = insert(a, at, 3);
        if (p) {
            p[0] = OP_WORD;
            put_le16(p + 1, (u16)(a->len - at - 3));
        }
    }
    if (!a->failed)
        insert_length(a, at);
}

void aml_scope_begin(struct aml *a, const char *name)
{
    put8(a, OP_SCOPE);
    open_body(a, false);
    put_name(a, name);
}

void aml_device_begin(struct aml *a, const char *name)
{
    put8(a, OP_EXT);
    put8(a, EXT_OP_DEVICE);
    open_body(a, false);
    put_name(a, name);
}

void aml_method_begin(struct aml *a, const char *name, unsigned args)
{
    put8(a, OP_METHOD);
    open_body(a, false);
    put_name(a, name);
    put8(a, (u8)args); /* not serialised */
}

void aml_package_begin(struct aml *a, unsigned elements)
{
    BUG_ON(elements > 255);
    put8(a, OP_PACKAGE);
    open_body(a, false);
    put8(a, (u8)elements);
}

void aml_resources_begin(struct aml *a)
{
    put8(a, OP_BUFFER);
    open_body(a, true);
}

void aml_if_begin(struct aml *a)
{
    put8(a, OP_IF);
    open_body(a, false);
}

/* --- values and terms --- */

void aml_name(struct aml *a, const char *name)
{
    put8(a, OP_NAME);
    put_name(a, name);
}

void aml_int(struct aml *a, u64 value)
{
    if (value <= 1) {
        put8(a, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        put8(a, OP_BYTE);
        put8(a, (u8)value);
    } else if (value <= UINT16_MAX) {
        put8(a, OP_WORD);
        put16(a, (u16)value);
    } else if (value <= UINT32_MAX) {
        put8(a, OP_DWORD);
        put32(a, (u32)value);
    } else {
        put8(a, OP_QWORD);
        put64(a, value);
    }
}

void aml_string(struct aml *a, const char *s)
{
    put8(a, OP_STRING);
    put(a, s, strlen(s) + 1);
}

static u32 hex_digit(char c)
{
    return (u32)(isdigit((unsigned char)c) ? c - '0' : c - 'A' + 10);
}

/* Three letters of 5 bits and four hexadecimal digits, most significant byte first (ACPI 6.4, 19.6.33). */
void aml_eisaid(struct aml *a, const char *id)
{
    u32 v = 0;

    BUG_ON(strlen(id) != 7);
    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | ((u32)(id[i] - 'A' + 1) & 0x1f);
    for (unsigned i = 3; i < 7; i++)
        v = v << 4 | hex_digit(id[i]);
    put8(a, OP_DWORD);
    put32(a, __builtin_bswap32(v));
}

void aml_ref(struct aml *a, const char *name)
{
    put_name(a, name);
}

void aml_arg(struct aml *a, unsigned n)
{
    put8(a, (u8)(OP_ARG0 + n));
}

void aml_store(struct aml *a)
{
    put8(a, OP_STORE);
}

void aml_return(struct aml *a)
{
    put8(a, OP_RETURN);
}

/* --- resources: 6.4.2 and 6.4.3 --- */

void aml_io(struct aml *a, u16 base, u8 len)
{
    put8(a, 0x47);
    put8(a, 1); /* decodes 16 bits */
    put16(a, base);
    put16(a, base);
    put8(a, 1); /* alignment */
    put8(a, len);
}

void aml_irq(struct aml *a, unsigned irq)
{
    put8(a, 0x22); /* without flags: edge, active high, exclusive */
    put16(a, (u16)(1u << irq));
}

void aml_memory32(struct aml *a, u32 base, u32 len, bool writable)
{
    put8(a, 0x86);
    put16(a, 9);
    put8(a, writable);
    put32(a, base);
    put32(a, len);
}

/* Address space descriptors. */
enum { SPACE_MEMORY, SPACE_IO, SPACE_BUS };
enum {
    GENERAL_CONSUMER = 0x01,
    GENERAL_FIXED = 0x0c, /* MIF, MAF: both ends are fixed */
};

static void address_space(struct aml *a, u8 tag, u16 len, u8 space, u8 general, u8 type)
{
    put8(a, tag);
    put16(a, len);
    put8(a, space);
    put8(a, general);
    put8(a, type);
}

static void window16(struct aml *a, u8 space, u8 type, u16 first, u16 last)
{
    address_space(a, 0x88, 13, space, GENERAL_FIXED, type);
    put16(a, 0);
    put16(a, first);
    put16(a, last);
    put16(a, 0);
    put16(a, (u16)(last - first + 1));
}

void aml_window_bus(struct aml *a, u16 first, u16 last)
{
    window16(a, SPACE_BUS, 0, first, last);
}

void aml_window_io(struct aml *a, u16 first, u16 last)
{
    window16(a, SPACE_IO, 3 /* all of the range */, first, last);
}

void aml_window_memory32(struct aml *a, u32 first, u32 last)
{
    address_space(a, 0x87, 23, SPACE_MEMORY, GENERAL_FIXED, 1 /* writable, not cacheable */);
    put32(a, 0);
    put32(a, first);
    put32(a, last);
    put32(a, 0);
    put32(a, last - first + 1);
}

static void qword_memory(struct aml *a, u64 first, u64 last, u8 general, u8 type)
{
    address_space(a, 0x8a, 43, SPACE_MEMORY, general, type);
    put64(a, 0);
    put64(a, first);
    put64(a, last);
    put64(a, 0);
    put64(a, last - first + 1);
}

void aml_window_memory64(struct aml *a, u64 first, u64 last)
{
    qword_memory(a, first, last, GENERAL_FIXED, 3 /* writable, cacheable */);
}

void aml_qword_reserved(struct aml *a, u64 base, u64 len)
{
    qword_memory(a, base, base + len - 1, GENERAL_FIXED | GENERAL_CONSUMER, 1);
}
