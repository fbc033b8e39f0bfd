/*
 * Is a file something that Linux takes as its initial RAM disk? A kernel that cannot use it says so in the
 * middle of its boot messages, and then dies for want of a root: better before.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/loader-internal.h"

#define CPIO_HEADER 110 /* Documentation/driver-api/early-userspace/buffer-format.rst */
#define CPIO_TRAILER "TRAILER!!!"
#define CPIO_MAX_NAME 4096

struct magic {
    u16 offset;
    u8 len;
    const char *bytes;
};

/* Compressed archives (Linux lib/decompress.c). What is in them is not looked at. */
static const struct magic compressed[] = {
    {0, 2, "\x1f\x8b"}, {0, 2, "\x1f\x9e"}, {0, 3, "BZh"},      {0, 2, "\x5d\x00"},
    {0, 2, "\xfd\x37"}, {0, 2, "\x89\x4c"}, {0, 2, "\x02\x21"}, {0, 2, "\x28\xb5"},
};

/* File systems that may be an initial RAM disk of the old kind (init/do_mounts_rd.c). */
static const struct magic images[] = {
    {0, 4, "hsqs"},         {0, 8, "-rom1fs-"},     {0, 4, "\x45\x3d\xcd\x28"}, {0x438, 2, "\x53\xef"},
    {0x410, 2, "\x7f\x13"}, {0x410, 2, "\x8f\x13"}, {0x410, 2, "\x68\x24"},     {0x410, 2, "\x78\x24"},
};

static bool matches(const struct blob *b, u64 at, const struct magic *m, unsigned count)
{
    for (unsigned n = 0; n < count; n++)
        if (range_in(at + m[n].offset, m[n].len, b->size) &&
            !memcmp(b->data + at + m[n].offset, m[n].bytes, m[n].len))
            return true;
    return false;
}

/* The hexadecimal field @n of 8 digits behind the magic; false: other characters. */
static bool cpio_field(const u8 *header, unsigned n, u32 *value)
{
    char digits[9] = {0}, *end;
    memcpy(digits, header + 6 + 8 * n, 8);
    *value = (u32)strtoul(digits, &end, 16);
    return end == digits + 8 && isxdigit((u8)digits[0]);
}

static int refused(const struct blob *b, struct error *err, const char *why)
{
    return error_set(err, EINVAL, "initrd '%s' %s", b->path, why);
}

static bool is_cpio(const struct blob *b, u64 at)
{
    return range_in(at, 6, b->size) &&
           (!memcmp(b->data + at, "070701", 6) || !memcmp(b->data + at, "070702", 6));
}

/* Steps over the archive at *@at, header by header up to its trailer. */
static int skip_cpio(const struct blob *b, u64 *at, struct error *err)
{
    bool last = false;
    while (!last) {
        u32 file_size, name_size;
        if (!range_in(*at, CPIO_HEADER, b->size))
            return refused(b, err, "is truncated: its archive has no end");
        if (!is_cpio(b, *at) || !cpio_field(b->data + *at, 6, &file_size) ||
            !cpio_field(b->data + *at, 11, &name_size) || name_size > CPIO_MAX_NAME)
            return refused(b, err, "is damaged: a header of its archive is wrong");
        u64 name = *at + CPIO_HEADER, data = ALIGN_UP(name + name_size, 4);
        if (!range_in(name, name_size, b->size) || !range_in(data, file_size, ALIGN_UP(b->size, 4)))
            return refused(b, err, "is truncated: its archive has no end");
        last = name_size == sizeof CPIO_TRAILER && !memcmp(b->data + name, CPIO_TRAILER, name_size);
        *at = ALIGN_UP(data + file_size, 4);
    }
    return 0;
}

int initramfs_check(const struct blob *b, struct error *err)
{
    if (matches(b, 0, images, ARRAY_SIZE(images)))
        return 0;
    for (u64 at = 0; at < b->size;) {
        if (b->data[at] == 0) { /* between archives */
            at++;
        } else if (is_cpio(b, at)) {
            int r = skip_cpio(b, &at, err);
            if (r != 0)
                return r;
        } else if (matches(b, at, compressed, ARRAY_SIZE(compressed))) {
            return 0;
        } else {
            return refused(b, err, "is neither a cpio archive nor a compressed one");
        }
    }
    return 0;
}
