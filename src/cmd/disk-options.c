/* The options about disks, and what of them firmware is to boot. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "cmd/options.h"
#include "cmd/run-options.h"

struct disk_options {
    const char *format, *cache, *aio, *bus, *media, *serial, *rerror, *werror;
    struct block_limits limits;
    unsigned boot_index;
    bool readonly;
};

#define LIMIT_AT(m) .offset = offsetof(struct disk_options, limits.m)

static const struct option disk_list[] = {
    {.name = "format",
     .arg = "F",
     .kind = OPTION_CHOICE,
     .choices = "raw|qcow2",
     .offset = offsetof(struct disk_options, format)},
    {.name = "cache",
     .arg = "MODE",
     .kind = OPTION_CHOICE,
     .choices = "writeback|none|unsafe",
     .offset = offsetof(struct disk_options, cache)},
    {.name = "aio",
     .arg = "HOW",
     .kind = OPTION_CHOICE,
     .choices = "threads|io_uring",
     .offset = offsetof(struct disk_options, aio)},
    {.name = "bus",
     .arg = "B",
     .kind = OPTION_CHOICE,
     .choices = "virtio|scsi",
     .offset = offsetof(struct disk_options, bus)},
    {.name = "media",
     .arg = "M",
     .kind = OPTION_CHOICE,
     .choices = "disk|cdrom",
     .offset = offsetof(struct disk_options, media)},
    {.name = "bootindex",
     .arg = "N",
     .kind = OPTION_UINT,
     .min = 1,
     .max = 1000,
     .offset = offsetof(struct disk_options, boot_index)},
    {.name = "bps", .arg = "SIZE", .kind = OPTION_SIZE, .min = 512, .max = 1ull << 40, LIMIT_AT(bytes)},
    {.name = "bps_max",
     .arg = "SIZE",
     .kind = OPTION_SIZE,
     .min = 512,
     .max = 1ull << 40,
     LIMIT_AT(bytes_burst)},
    {.name = "iops", .arg = "N", .kind = OPTION_SIZE, .min = 1, .max = 1ull << 30, LIMIT_AT(ops)},
    {.name = "iops_max", .arg = "N", .kind = OPTION_SIZE, .min = 1, .max = 1ull << 30, LIMIT_AT(ops_burst)},
    {.name = "rerror",
     .arg = "WHAT",
     .kind = OPTION_CHOICE,
     .choices = "report|ignore|stop|enospc",
     .offset = offsetof(struct disk_options, rerror)},
    {.name = "werror",
     .arg = "WHAT",
     .kind = OPTION_CHOICE,
     .choices = "report|ignore|stop|enospc",
     .offset = offsetof(struct disk_options, werror)},
    {.name = "serial", .arg = "S", .kind = OPTION_STRING, .offset = offsetof(struct disk_options, serial)},
    {.name = "readonly", .kind = OPTION_FLAG, .offset = offsetof(struct disk_options, readonly)},
    OPTION_LIST_END,
};

static struct block_options block_options_of(const struct disk_options *d)
{
    struct block_options o = {.read_only = d->readonly};

    if (d->format)
        o.format = block_format_find(d->format);
    if (d->cache)
        o.cache = block_cache_find(d->cache);
    if (d->aio)
        o.aio = strcmp(d->aio, "threads") ? BLOCK_AIO_URING : BLOCK_AIO_THREADS;
    return o;
}

static enum block_on_error on_error_of(const char *name, enum block_on_error otherwise)
{
    if (!name)
        return otherwise;
    return !strcmp(name, "report")   ? BLOCK_ON_ERROR_REPORT
           : !strcmp(name, "ignore") ? BLOCK_ON_ERROR_IGNORE
           : !strcmp(name, "stop")   ? BLOCK_ON_ERROR_STOP
                                     : BLOCK_ON_ERROR_ENOSPC;
}

static bool is(const char *value, const char *name)
{
    return value && !strcmp(value, name);
}

static int set_disk(struct run_options *o, const char *what, char *text, bool cdrom, struct error *err)
{
    struct disk_options d = {0};
    char *path;
    int r = options_parse_commas(disk_list, &d, what, text, &path, err);

    if (r)
        return r;
    if (o->pc.disk_count == PC_MAX_DISKS)
        return error_set(err, EINVAL, "more than %u disks", PC_MAX_DISKS);
    cdrom |= is(d.media, "cdrom");
    if (cdrom && (is(d.bus, "virtio") || is(d.media, "disk")))
        return error_set(err, EINVAL, "'%s' of --%s: a CD-ROM is media=cdrom on bus=scsi",
                         is(d.bus, "virtio") ? "bus" : "media", what);
    if (d.boot_index)
        o->boot_index[o->pc.disk_count] = d.boot_index;
    d.readonly |= cdrom;
    o->pc.disk[o->pc.disk_count++] = (struct pc_disk){
        .path = path,
        .bus = cdrom || is(d.bus, "scsi") ? PC_BUS_SCSI : PC_BUS_VIRTIO,
        .cdrom = cdrom,
        .serial = d.serial,
        .options = block_options_of(&d),
        .limits = d.limits,
        .read_error = on_error_of(d.rerror, BLOCK_ON_ERROR_REPORT),
        .write_error = on_error_of(d.werror, BLOCK_ON_ERROR_ENOSPC),
    };
    return 0;
}

int run_set_disk(void *target, char *text, struct error *err)
{
    return set_disk(target, "disk", text, false, err);
}

int run_set_cdrom(void *target, char *text, struct error *err)
{
    return set_disk(target, "cdrom", text, true, err);
}

/* --- the order at boot --- */

static void append(struct run_options *o, unsigned disk)
{
    for (unsigned i = 0; i < o->pc.boot_count; i++)
        if (o->pc.boot_order[i] == disk)
            return;
    o->pc.boot_order[o->pc.boot_count++] = disk;
}

static void append_kind(struct run_options *o, bool cdrom)
{
    for (unsigned i = 0; i < o->pc.disk_count; i++)
        if (o->pc.disk[i].cdrom == cdrom)
            append(o, i);
}

/* Disks with an index come before all others. */
static int append_indexed(struct run_options *o, struct error *err)
{
    for (;;) {
        unsigned best = 0, count = 0;
        for (unsigned i = 0; i < o->pc.disk_count; i++) {
            unsigned index = o->boot_index[i];
            bool seen = false;
            for (unsigned k = 0; k < o->pc.boot_count; k++)
                seen |= o->pc.boot_order[k] == i;
            if (!index || seen || (count && index > o->boot_index[best]))
                continue;
            if (count && index == o->boot_index[best])
                return error_set(err, EINVAL, "two disks have bootindex=%u", index);
            best = i;
            count++;
        }
        if (!count)
            return 0;
        append(o, best);
    }
}

static int append_word(struct run_options *o, const char *word, struct error *err)
{
    u64 n;

    if (!strcmp(word, "disk"))
        append_kind(o, false);
    else if (!strcmp(word, "cdrom"))
        append_kind(o, true);
    else if (!parse_u64(word, &n) && n >= 1 && n <= o->pc.disk_count)
        append(o, (unsigned)n - 1);
    else
        return error_set(err, EINVAL,
                         "option '--boot': '%.40s' is neither disk nor cdrom nor the number of a disk", word);
    return 0;
}

int run_boot_order(struct run_options *o, struct error *err)
{
    int r = append_indexed(o, err);
    CLEANUP_FREE char *words = strdup(o->boot ? o->boot : "");

    if (!words)
        return error_set_errno(err, ENOMEM, "cannot take the boot order");
    for (char *next = words, *word; !r && o->boot && (word = strsep(&next, ","));)
        r = append_word(o, word, err);
    append_kind(o, false);
    append_kind(o, true);
    return r;
}
