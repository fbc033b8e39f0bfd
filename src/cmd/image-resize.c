/* "trapeze image resize" */
#include <errno.h>

#include "base/parse.h"
#include "cmd/image.h"

struct resize_options {
    const char *format, *preallocation;
    bool shrink;
};

#define AT(m) .offset = offsetof(struct resize_options, m)

static const struct option resize_list[] = {
    IMAGE_OPTION_FORMAT("raw or qcow2; without it the file says", format),
    {.name = "shrink", .help = "allow to cut data off", .kind = OPTION_FLAG, AT(shrink)},
    {.name = "preallocation",
     .arg = "MODE",
     .help = "of a qcow2 image: off, metadata, falloc or full",
     .kind = OPTION_CHOICE,
     .choices = "off|metadata|falloc|full",
     AT(preallocation)},
    OPTION_LIST_END,
};

/* "10G", "+1G", "-1G" */
static int new_size(const char *text, u64 now, u64 *size, struct error *err)
{
    bool plus = text[0] == '+', minus = text[0] == '-';
    u64 n;

    if (parse_size(text + (plus || minus), &n))
        return error_set(err, EINVAL, "the size must be a number such as 10G, +1G or -1G, not '%.40s'", text);
    if ((minus && n > now) || (plus && n > INT64_MAX - now))
        return error_set(err, EINVAL, "there is no disk of that size");
    *size = plus ? now + n : minus ? now - n : n;
    return 0;
}

static int resize(const struct resize_options *o, struct block_device *b, const char *text, struct error *err)
{
    u64 size = 0;
    int r = new_size(text, b->size, &size, err);

    if (r)
        return r;
    if (size < b->size && !o->shrink)
        return error_set(err, EINVAL, "'%s' would get smaller, and what is beyond lost: --shrink allows it",
                         b->path);
    r = block_resize(b, size, err);
    if (!r && o->preallocation && qcow2_get_info(b, &(struct qcow2_info){0}))
        r = qcow2_backing(b) ? error_set(err, EINVAL, "an image with a backing file cannot be preallocated")
                             : qcow2_preallocate(b, image_prealloc(o->preallocation), err);
    return r;
}

int image_resize(int argc, char **argv)
{
    struct resize_options o = {NULL};
    struct error err;
    int status = image_options(resize_list, &o, argc, argv, "resize [OPTIONS] FILE [+|-]SIZE", 2, 2);
    struct block_device *b;
    int r;

    if (status >= 0)
        return status;
    b = image_open(argv[0], o.format, (struct block_options){0});
    if (!b)
        return STATUS_ERROR;
    r = resize(&o, b, argv[1], &err);
    block_close(b);
    return r ? cmd_fail(&err) : STATUS_OK;
}
