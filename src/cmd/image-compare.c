/* "trapeze image compare" */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/image.h"

struct compare_options {
    const char *first, *second;
    bool strict, progress, quiet, share;
};

#define AT(m) .offset = offsetof(struct compare_options, m)

static const struct option compare_list[] = {
    IMAGE_OPTION_FORMAT("of the first file; without it the file says", first),
    {.name = "second-format",
     .letter = 'F',
     .arg = "FORMAT",
     .help = "of the second file",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     AT(second)},
    {.name = "strict",
     .letter = 's',
     .help = "sizes must be the same as well; else what one lacks must be\nzeroes in the other",
     .kind = OPTION_FLAG,
     AT(strict)},
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET("the exit status says it: 0 the same, 1 not, 2 an error"),
    {.name = "force-share",
     .letter = 'U',
     .help = "also while a machine writes to them",
     .kind = OPTION_FLAG,
     AT(share)},
    OPTION_LIST_END,
};

/* Reads what there is of [at, at + len); zeroes beyond the end. *zero: nothing was read since all is zero. */
static int read_part(struct block_device *b, u64 at, u64 *len, u8 *buf, bool *zero, struct error *err)
{
    struct block_extent e;
    int r;

    *zero = at >= b->size;
    if (*zero)
        return 0;
    *len = MIN(*len, b->size - at);
    r = block_extent(b, at, *len, &e);
    if (r)
        return image_io_error(err, r, "read the tables of", b);
    *zero = e.zero;
    *len = e.zero ? e.len : MIN(e.len, (u64)IMAGE_BUFFER);
    r = e.zero ? 0 : block_read(b, at, buf, *len);
    return r ? image_io_error(err, r, "read", b) : 0;
}

/* Returns the offset of the first difference within @len of the buffers, or @len. */
static u64 first_difference(const u8 *a, bool a_zero, const u8 *b, bool b_zero, u64 len)
{
    u64 i = 0;

    if (a_zero && b_zero)
        return len;
    if (!a_zero && !b_zero && !memcmp(a, b, len))
        return len;
    while (i < len && (a_zero ? 0 : a[i]) == (b_zero ? 0 : b[i]))
        i++;
    return i;
}

/* 0 the same, 1 different, or -errno. */
static int compare(const struct compare_options *o, struct block_device *a, struct block_device *b, u8 *buf,
                   struct error *err)
{
    u64 size = MAX(a->size, b->size), n;
    struct progress p = {.on = o->progress, .total = size};

    if (a->size != b->size && o->strict) {
        if (!o->quiet)
            puts("Strict mode: Image size mismatch!");
        return 1;
    }
    for (u64 at = 0; at < size; at += n) {
        bool a_zero, b_zero;
        u64 na = size - at, nb, same;
        int r = read_part(a, at, &na, buf, &a_zero, err);

        nb = na;
        if (!r)
            r = read_part(b, at, &nb, buf + IMAGE_BUFFER, &b_zero, err);
        if (r)
            return r;
        n = MIN(na, nb);
        same = first_difference(buf, a_zero, buf + IMAGE_BUFFER, b_zero, n);
        if (same < n) {
            same += at;
            if (!o->quiet)
                printf("Content mismatch at offset %llu!\n", (unsigned long long)same);
            return 1;
        }
        progress_show(&p, at + n);
    }
    progress_end(&p);
    if (!o->quiet) {
        if (a->size != b->size)
            puts("Warning: Image size mismatch!");
        puts("Images are identical.");
    }
    return 0;
}

int image_compare(int argc, char **argv)
{
    struct compare_options o = {NULL};
    struct error err;
    int status = image_options(compare_list, &o, argc, argv, "compare [OPTIONS] FILE FILE", 2, 2), r = -EIO;
    struct block_device *a, *b = NULL;
    u8 *buf = NULL;

    if (status >= 0)
        return status == STATUS_OK ? STATUS_OK : IMAGE_COMPARE_FAILED;
    a = image_open(argv[0], o.first, (struct block_options){.read_only = true, .no_lock = o.share});
    if (a)
        b = image_open(argv[1], o.second, (struct block_options){.read_only = true, .no_lock = o.share});
    if (b && (buf = aligned_alloc(4096, 2 * (size_t)IMAGE_BUFFER))) {
        r = compare(&o, a, b, buf, &err);
        if (r < 0)
            cmd_fail(&err);
    }
    free(buf);
    block_close(b);
    block_close(a);
    return r < 0 ? IMAGE_COMPARE_FAILED : r ? IMAGE_DIFFERS : STATUS_OK;
}
