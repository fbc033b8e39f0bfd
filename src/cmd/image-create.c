/* "trapeze image create", and what it takes to make an image for the others. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/parse.h"
#include "cmd/image.h"

/* --- making files --- */

struct make_text {
    const char *compat, *lazy, *compression, *preallocation, *backing, *backing_format;
    u64 cluster_size;
    unsigned refcount_bits;
};

#define AT(m) .offset = offsetof(struct make_text, m)

static const struct option make_list[] = {
    {.name = "cluster_size",
     .arg = "SIZE",
     .kind = OPTION_SIZE,
     .min = 512,
     .max = 2u << 20,
     AT(cluster_size)},
    {.name = "compat", .arg = "V", .kind = OPTION_CHOICE, .choices = "0.10|1.1|v2|v3", AT(compat)},
    {.name = "refcount_bits", .arg = "N", .kind = OPTION_UINT, .min = 1, .max = 64, AT(refcount_bits)},
    {.name = "lazy_refcounts", .arg = "ON", .kind = OPTION_CHOICE, .choices = "on|off", AT(lazy)},
    {.name = "compression_type", .arg = "T", .kind = OPTION_CHOICE, .choices = "zlib|zstd", AT(compression)},
    {.name = "preallocation",
     .arg = "MODE",
     .kind = OPTION_CHOICE,
     .choices = "off|metadata|falloc|full",
     AT(preallocation)},
    {.name = "backing_file", .arg = "FILE", .kind = OPTION_STRING, AT(backing)},
    {.name = "backing_fmt", .arg = "F", .kind = OPTION_CHOICE, .choices = "raw|qcow2", AT(backing_format)},
    OPTION_LIST_END,
};

const char image_make_help[] =
    "options of the new image, separated by commas:\ncluster_size=SIZE  compat=0.10|1.1  refcount_bits=N\n"
    "lazy_refcounts=on|off  compression_type=zlib|zstd\npreallocation=off|metadata|falloc|full\n"
    "backing_file=FILE  backing_fmt=raw|qcow2";

enum qcow2_prealloc image_prealloc(const char *name)
{
    static const char *const names[] = {"off", "metadata", "falloc", "full"};
    unsigned i = 0;

    while (name && i < ARRAY_SIZE(names) - 1 && strcmp(name, names[i]) != 0)
        i++;
    return (enum qcow2_prealloc)i;
}

int image_make_options(struct image_make *m, char *text, struct error *err)
{
    struct make_text t = {NULL};
    int r = options_parse_commas(make_list, &t, "options", text, NULL, err);

    if (r)
        return r;
    m->create.cluster_size = t.cluster_size;
    m->create.refcount_bits = t.refcount_bits;
    m->create.version = t.compat && (!strcmp(t.compat, "0.10") || !strcmp(t.compat, "v2")) ? 2 : 3;
    m->create.lazy_refcounts = t.lazy && !strcmp(t.lazy, "on");
    m->create.zstd = t.compression && !strcmp(t.compression, "zstd");
    m->create.preallocation = image_prealloc(t.preallocation);
    if (t.backing)
        m->backing = t.backing;
    if (t.backing_format)
        m->backing_format = t.backing_format;
    return 0;
}

static int allocate_raw(int fd, const char *path, u64 size, enum qcow2_prealloc how, struct error *err)
{
    static const char zeroes[65536];

    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)size) < 0)
        return error_set_errno(err, errno, "cannot make '%s' %llu bytes long", path,
                               (unsigned long long)size);
    if (how == QCOW2_PREALLOC_FALLOC && size) {
        int code = posix_fallocate(fd, 0, (off_t)size);
        return code ? error_set_errno(err, code, "cannot allocate '%s'", path) : 0;
    }
    for (u64 at = 0, n; how == QCOW2_PREALLOC_FULL && at < size; at += n) {
        n = MIN(size - at, (u64)sizeof zeroes);
        if (pwrite(fd, zeroes, n, (off_t)at) != (ssize_t)n)
            return error_set_errno(err, errno ? errno : ENOSPC, "cannot write '%s'", path);
    }
    return 0;
}

/* Nothing is cut to nothing that another process uses: opening it tells, when it is there. */
static int make_raw(const char *path, const struct image_make *m, struct error *err)
{
    u64 size = ALIGN_UP(m->size, (u64)BLOCK_SECTOR);
    struct block_options o = {.format = BLOCK_FORMAT_RAW, .synchronous = true};
    CLEANUP_CLOSE int fd = -1;
    struct block_device *b;
    int r;

    if (m->backing)
        return error_set(err, EINVAL, "a raw image has no backing file: use --format qcow2");
    if (m->create.preallocation == QCOW2_PREALLOC_METADATA)
        return error_set(err, EINVAL, "a raw image has no metadata to preallocate");
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot make '%s'", path);
    b = block_open(path, &o, err);
    if (!b)
        return -EBUSY;
    r = allocate_raw(fd, path, size, m->create.preallocation, err);
    block_close(b);
    return r;
}

int image_make(const char *path, struct image_make *m, struct error *err)
{
    m->create.size = m->size;
    m->create.backing = m->backing;
    m->create.backing_format = m->backing_format;
    if (!strcmp(m->format, "raw"))
        return make_raw(path, m, err);
    return qcow2_create(path, &m->create, err);
}

#undef AT

/* --- create --- */

struct create_options {
    struct image_make make;
    const char *format, *backing, *backing_format;
    bool unsafe;
};

static int set_make(void *target, char *text, struct error *err)
{
    struct create_options *o = target;
    return image_make_options(&o->make, text, err);
}

#define AT(m) .offset = offsetof(struct create_options, m)

static const struct option create_list[] = {
    IMAGE_OPTION_FORMAT("raw (default) or qcow2", format),
    {.name = "options",
     .letter = 'o',
     .arg = "LIST",
     .help = image_make_help,
     .kind = OPTION_CALL,
     .set = set_make},
    {.name = "backing",
     .letter = 'b',
     .arg = "FILE",
     .help =
         "what is not written is read from FILE, a name relative to the\nimage; it must not change any more",
     .kind = OPTION_STRING,
     AT(backing)},
    {.name = "backing-format",
     .letter = 'F',
     .arg = "FORMAT",
     .help = "raw or qcow2: what FILE is; needed, since guessing is not safe",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     AT(backing_format)},
    {.name = "unsafe",
     .letter = 'u',
     .help = "do not open the backing file; the size must be given",
     .kind = OPTION_FLAG,
     AT(unsafe)},
    OPTION_LIST_END,
};

int image_need_format(const char *image, const char *backing, const char *format, struct error *err)
{
    char path[8192];
    enum block_format probed = BLOCK_FORMAT_RAW;

    if (format)
        return 0;
    if (qcow2_backing_path(image, backing, path, sizeof path, err) || block_probe(path, &probed, err))
        return -err->code;
    return error_set(err, EINVAL,
                     "the format of the backing file must be given: '%s' looks like --backing-format %s",
                     backing, block_format_name(probed));
}

/* The size of the backing file, which must be there and be what it is said to be. */
static int backing_size(const char *image, const struct image_make *m, u64 *size, struct error *err)
{
    char path[8192];
    struct block_options o = {.read_only = true, .synchronous = true, .no_lock = true};
    struct block_device *b;

    o.format = block_format_find(m->backing_format);
    if (qcow2_backing_path(image, m->backing, path, sizeof path, err))
        return -err->code;
    b = block_open(path, &o, err);
    if (!b)
        return -err->code;
    *size = b->size;
    block_close(b);
    return 0;
}

static int create(struct create_options *o, const char *path, const char *size, struct error *err)
{
    struct image_make *m = &o->make;
    u64 below = 0;
    int r = 0;

    if (m->backing)
        r = image_need_format(path, m->backing, m->backing_format, err);
    if (!r && m->backing && !o->unsafe)
        r = backing_size(path, m, &below, err);
    if (r)
        return r;
    m->size = below;
    if (size && parse_size(size, &m->size))
        return error_set(err, EINVAL, "the size must be a number such as 10G, not '%.40s'", size);
    if (!size && (!m->backing || o->unsafe))
        return error_set(err, EINVAL, "the size of the disk is missing: 'trapeze image create %s 10G'", path);
    return image_make(path, m, err);
}

int image_create(int argc, char **argv)
{
    struct create_options o = {.format = "raw"};
    struct error err;
    int status = image_options(create_list, &o, argc, argv, "create [OPTIONS] FILE [SIZE]", 1, 2);

    if (status >= 0)
        return status;
    o.make.format = o.format;
    if (o.backing)
        o.make.backing = o.backing;
    if (o.backing_format)
        o.make.backing_format = o.backing_format;
    return create(&o, argv[0], argv[1], &err) ? cmd_fail(&err) : STATUS_OK;
}
