/* "trapeze image info", check, map and snapshot. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cmd/image.h"
#include "cmd/json.h"

struct show_options {
    const char *format, *output;
    bool json, share, chain;
    const char *repair; /* check */
    bool quiet;
};

#define AT(m) .offset = offsetof(struct show_options, m)
#define FORMAT_OPTION                                                                                       \
    {                                                                                                       \
        .name = "format", .letter = 'f', .arg = "FORMAT", .help = "raw or qcow2; without it the file says", \
        .kind = OPTION_CHOICE, .choices = "raw|qcow2", AT(format)                                           \
    }
#define JSON_OPTIONS                                                                               \
    {.name = "json", .help = "for programs", .kind = OPTION_FLAG, AT(json)},                       \
    {                                                                                              \
        .name = "output", .arg = "KIND", .help = "human or json: the same", .kind = OPTION_CHOICE, \
        .choices = "human|json", AT(output)                                                        \
    }
#define SHARE_OPTION                                                                                        \
    {                                                                                                       \
        .name = "force-share", .letter = 'U',                                                               \
        .help = "also while a machine writes to it: what is shown may be out of date", .kind = OPTION_FLAG, \
        AT(share)                                                                                           \
    }

static bool wants_json(const struct show_options *o)
{
    return o->json || (o->output && !strcmp(o->output, "json"));
}

/* --- units --- */

/* As qemu-img: three significant digits and a binary unit. */
static void human_size(char *buf, size_t len, u64 bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned i = 0;
    u64 whole = bytes;

    while (whole >= 1000 && i < ARRAY_SIZE(units) - 1) {
        whole /= 1024;
        i++;
    }
    snprintf(buf, len, "%0.3g %s", (double)bytes / (double)(1ull << (10 * i)), units[i]);
}

static u64 disk_usage(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (u64)st.st_blocks * 512 : 0;
}

/* --- snapshots --- */

static void list_snapshots(const struct qcow2_snapshot *s, unsigned count)
{
    printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (unsigned i = 0; i < count; i++, s++) {
        char size[32], date[32], clock[48], icount[24] = "";
        time_t t = s->seconds;
        struct tm tm;
        u64 seconds = s->vm_clock / 1000000000;

        human_size(size, sizeof size, s->vm_state_size);
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
        snprintf(clock, sizeof clock, "%02llu:%02u:%02u.%03u", (unsigned long long)seconds / 3600,
                 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
                 (unsigned)(s->vm_clock / 1000000 % 1000));
        if (s->icount != ~0ull)
            snprintf(icount, sizeof icount, "%llu", (unsigned long long)s->icount);
        printf("%-9s %-16s %8s%20s%13s%11s\n", s->id, s->name, size, date, clock, icount);
    }
}

static void json_snapshots(struct json *j, const struct qcow2_snapshot *s, unsigned count)
{
    json_open(j, "snapshots", '[');
    for (unsigned i = 0; i < count; i++, s++) {
        json_open(j, NULL, '{');
        json_string(j, "id", s->id);
        json_string(j, "name", s->name);
        json_u64(j, "vm-state-size", s->vm_state_size);
        json_u64(j, "date-sec", s->seconds);
        json_u64(j, "date-nsec", s->nanoseconds);
        json_u64(j, "vm-clock-sec", s->vm_clock / 1000000000);
        json_u64(j, "vm-clock-nsec", s->vm_clock % 1000000000);
        if (s->icount != ~0ull)
            json_u64(j, "icount", s->icount);
        json_close(j, '}');
    }
    json_close(j, ']');
}

/* --- info --- */

static const struct option info_list[] = {
    FORMAT_OPTION,
    {.name = "backing-chain", .help = "its backing files as well", .kind = OPTION_FLAG, AT(chain)},
    JSON_OPTIONS,
    SHARE_OPTION,
    OPTION_LIST_END,
};

static const char *yes_no(bool b)
{
    return b ? "true" : "false";
}

static void print_qcow2(const struct block_device *b, const struct qcow2_info *q,
                        const struct qcow2_snapshot *s)
{
    char path[8192];

    printf("cluster_size: %llu\n", (unsigned long long)q->cluster_size);
    if (q->backing) {
        printf("backing file: %s", q->backing);
        if (!qcow2_backing_path(b->path, q->backing, path, sizeof path, NULL) &&
            strcmp(path, q->backing) != 0)
            printf(" (actual path: %s)", path);
        putchar('\n');
    }
    if (q->backing_format)
        printf("backing file format: %s\n", q->backing_format);
    if (q->snapshot_count) {
        puts("Snapshot list:");
        list_snapshots(s, q->snapshot_count);
    }
    printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
           q->version == 2 ? "0.10" : "1.1", q->zstd ? "zstd" : "zlib");
    if (q->version >= 3)
        printf("    lazy refcounts: %s\n", yes_no(q->lazy_refcounts));
    printf("    refcount bits: %u\n", q->refcount_bits);
    if (q->version >= 3)
        printf("    corrupt: %s\n    extended l2: %s\n", yes_no(q->corrupt), yes_no(q->extended_l2));
    if (q->dirty)
        puts("    dirty: true (not closed by its last user)");
}

static void print_info(struct block_device *b)
{
    struct qcow2_info q;
    bool is_qcow2 = qcow2_get_info(b, &q);
    unsigned count;
    char size[32], used[32];

    human_size(size, sizeof size, b->size);
    human_size(used, sizeof used, disk_usage(b->path));
    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n", b->path,
           is_qcow2 ? "qcow2" : "raw", size, (unsigned long long)b->size, used);
    if (is_qcow2)
        print_qcow2(b, &q, qcow2_snapshots(b, &count));
}

static void json_qcow2(struct json *j, struct block_device *b, const struct qcow2_info *q)
{
    unsigned count;
    const struct qcow2_snapshot *s = qcow2_snapshots(b, &count);
    char path[8192];

    json_u64(j, "cluster-size", q->cluster_size);
    if (q->backing) {
        json_string(j, "backing-filename", q->backing);
        if (!qcow2_backing_path(b->path, q->backing, path, sizeof path, NULL))
            json_string(j, "full-backing-filename", path);
    }
    if (q->backing_format)
        json_string(j, "backing-filename-format", q->backing_format);
    if (count)
        json_snapshots(j, s, count);
    json_open(j, "format-specific", '{');
    json_string(j, "type", "qcow2");
    json_open(j, "data", '{');
    json_string(j, "compat", q->version == 2 ? "0.10" : "1.1");
    json_string(j, "compression-type", q->zstd ? "zstd" : "zlib");
    json_u64(j, "refcount-bits", q->refcount_bits);
    if (q->version >= 3) {
        json_bool(j, "lazy-refcounts", q->lazy_refcounts);
        json_bool(j, "corrupt", q->corrupt);
        json_bool(j, "extended-l2", q->extended_l2);
    }
    json_close(j, '}');
    json_close(j, '}');
}

static void json_info(struct json *j, struct block_device *b)
{
    struct qcow2_info q = {0};
    bool is_qcow2 = qcow2_get_info(b, &q);

    json_open(j, NULL, '{');
    json_string(j, "filename", b->path);
    json_string(j, "format", is_qcow2 ? "qcow2" : "raw");
    json_u64(j, "virtual-size", b->size);
    json_u64(j, "actual-size", disk_usage(b->path));
    json_bool(j, "dirty-flag", q.dirty);
    if (is_qcow2)
        json_qcow2(j, b, &q);
    json_close(j, '}');
}

int image_info(int argc, char **argv)
{
    struct show_options o = {NULL};
    int status = image_options(info_list, &o, argc, argv, "info [OPTIONS] FILE", 1, 1);
    struct block_device *top;
    struct json j = {.out = stdout};

    if (status >= 0)
        return status;
    top = image_open(argv[0], o.format,
                     (struct block_options){
                         .read_only = true, .no_lock = o.share, .no_backing = !o.chain, .damaged_ok = true});
    if (!top)
        return STATUS_ERROR;
    if (wants_json(&o) && o.chain)
        json_open(&j, NULL, '[');
    for (struct block_device *b = top; b; b = qcow2_backing(b)) {
        if (wants_json(&o)) {
            json_info(&j, b);
            continue;
        }
        if (b != top)
            putchar('\n');
        print_info(b);
    }
    if (wants_json(&o) && o.chain)
        json_close(&j, ']');
    block_close(top);
    return STATUS_OK;
}

/* --- check --- */

static const struct option check_list[] = {
    FORMAT_OPTION,
    {.name = "repair",
     .letter = 'r',
     .arg = "WHAT",
     .help = "leaks: free what is not used (always safe); all: everything",
     .kind = OPTION_CHOICE,
     .choices = "leaks|all",
     AT(repair)},
    {.name = "quiet", .letter = 'q', .help = "the exit status says it", .kind = OPTION_FLAG, AT(quiet)},
    JSON_OPTIONS,
    SHARE_OPTION,
    OPTION_LIST_END,
};

static void print_line(void *owner, const char *text)
{
    const bool *silent = owner;

    if (!*silent)
        puts(text);
}

static void json_check(const struct block_device *b, const struct qcow2_check *c,
                       const struct qcow2_check *fixed)
{
    struct json j = {.out = stdout};

    json_open(&j, NULL, '{');
    json_string(&j, "filename", b->path);
    json_string(&j, "format", "qcow2");
    json_u64(&j, "check-errors", 0);
    json_u64(&j, "image-end-offset", c->image_end_offset);
    json_u64(&j, "total-clusters", c->total_clusters);
    json_u64(&j, "allocated-clusters", c->allocated_clusters);
    json_u64(&j, "fragmented-clusters", c->fragmented_clusters);
    json_u64(&j, "compressed-clusters", c->compressed_clusters);
    json_u64(&j, "corruptions", c->corruptions);
    json_u64(&j, "leaks", c->leaks);
    json_u64(&j, "corruptions-fixed", fixed->corruptions_fixed);
    json_u64(&j, "leaks-fixed", fixed->leaks_fixed);
    json_close(&j, '}');
}

static double percent(u64 part, u64 all)
{
    return all ? (double)part * 100 / (double)all : 0;
}

static void print_check(const struct qcow2_check *c, const struct qcow2_check *fixed)
{
    if (fixed->corruptions_fixed || fixed->leaks_fixed)
        printf("The following inconsistencies were found and repaired:\n\n    %llu leaked clusters\n    %llu "
               "corruptions\n\nDouble checking the fixed image now...\n",
               (unsigned long long)fixed->leaks_fixed, (unsigned long long)fixed->corruptions_fixed);
    if (c->corruptions)
        printf("\n%llu errors were found on the image.\nData may be corrupted, or further writes to the "
               "image may "
               "corrupt it.\n",
               (unsigned long long)c->corruptions);
    if (c->leaks)
        printf(
            "\n%llu leaked clusters were found on the image.\nThis means waste of disk space, but no harm to "
            "data.\n",
            (unsigned long long)c->leaks);
    if (!c->corruptions && !c->leaks)
        puts("No errors were found on the image.");
    if (c->total_clusters && c->allocated_clusters)
        printf("%llu/%llu = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
               (unsigned long long)c->allocated_clusters, (unsigned long long)c->total_clusters,
               percent(c->allocated_clusters, c->total_clusters),
               percent(c->fragmented_clusters, c->allocated_clusters),
               percent(c->compressed_clusters, c->allocated_clusters));
    printf("Image end offset: %llu\n", (unsigned long long)c->image_end_offset);
}

static int check(const struct show_options *o, struct block_device *b, struct error *err)
{
    bool silent = o->quiet || wants_json(o), again = false;
    struct qcow2_check fixed = {.report = print_line, .owner = &silent}, now;
    enum qcow2_repair repair = QCOW2_REPAIR_NONE;

    if (o->repair)
        repair = strcmp(o->repair, "all") ? QCOW2_REPAIR_LEAKS : QCOW2_REPAIR_ALL;
    if (qcow2_check(b, repair, &fixed, err))
        return cmd_fail(err);
    now = fixed;
    again = fixed.corruptions_fixed || fixed.leaks_fixed;
    if (again) {
        now = (struct qcow2_check){.report = print_line, .owner = &silent};
        if (qcow2_check(b, QCOW2_REPAIR_NONE, &now, err))
            return cmd_fail(err);
    }
    if (wants_json(o))
        json_check(b, &now, &fixed);
    else if (!o->quiet)
        print_check(&now, &fixed);
    return now.corruptions ? IMAGE_CORRUPT : now.leaks ? IMAGE_LEAKS : STATUS_OK;
}

int image_check(int argc, char **argv)
{
    struct show_options o = {NULL};
    struct error err;
    int status = image_options(check_list, &o, argc, argv, "check [OPTIONS] FILE", 1, 1);
    struct block_device *b;

    if (status >= 0)
        return status;
    b = image_open(argv[0], o.format,
                   (struct block_options){
                       .read_only = !o.repair, .no_lock = o.share, .no_backing = true, .damaged_ok = true});
    if (!b)
        return STATUS_ERROR;
    status = check(&o, b, &err);
    block_close(b);
    return status;
}

/* --- map --- */

static const struct option map_list[] = {
    FORMAT_OPTION,
    JSON_OPTIONS,
    SHARE_OPTION,
    OPTION_LIST_END,
};

static bool joins(const struct block_extent *a, const struct block_extent *b)
{
    return a->depth == b->depth && a->allocated == b->allocated && a->zero == b->zero &&
           a->compressed == b->compressed && a->has_offset == b->has_offset && a->path == b->path &&
           (!a->has_offset || a->offset + a->len == b->offset);
}

static void print_extent(u64 start, const struct block_extent *e, bool json, bool first)
{
    if (!json) {
        if (e->allocated && !e->zero && e->has_offset)
            printf("%#-16llx%#-16llx%#-16llx%s\n", (unsigned long long)start, (unsigned long long)e->len,
                   (unsigned long long)e->offset, e->path);
        return;
    }
    printf(
        "%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s, "
        "\"compressed\": %s",
        first ? "[" : ",\n", (unsigned long long)start, (unsigned long long)e->len, e->depth,
        yes_no(e->allocated), yes_no(e->zero), yes_no(e->allocated && !e->zero), yes_no(e->compressed));
    if (e->has_offset)
        printf(", \"offset\": %llu", (unsigned long long)e->offset);
    putchar('}');
}

static int map(struct block_device *b, bool json, struct error *err)
{
    struct block_extent e, next;
    u64 start = 0;
    bool first = true;

    if (!json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    for (u64 at = 0; at < b->size; at += next.len) {
        int r = block_extent(b, at, b->size - at, &next);
        if (r)
            return error_set_errno(err, -r, "cannot read the tables of '%s'", b->path);
        if (at && joins(&e, &next)) {
            e.len += next.len;
            continue;
        }
        if (at) {
            print_extent(start, &e, json, first);
            first = false;
        }
        e = next;
        start = at;
    }
    if (b->size)
        print_extent(start, &e, json, first);
    if (json)
        puts(b->size ? "]" : "[]");
    return 0;
}

int image_map(int argc, char **argv)
{
    struct show_options o = {NULL};
    struct error err;
    int status = image_options(map_list, &o, argc, argv, "map [OPTIONS] FILE", 1, 1), r;
    struct block_device *b;

    if (status >= 0)
        return status;
    b = image_open(argv[0], o.format, (struct block_options){.read_only = true, .no_lock = o.share});
    if (!b)
        return STATUS_ERROR;
    r = map(b, wants_json(&o), &err);
    block_close(b);
    return r ? cmd_fail(&err) : STATUS_OK;
}

/* --- snapshot --- */

struct snapshot_options {
    const char *create, *apply, *delete;
    bool list, json;
};

static const struct option snapshot_list[] = {
    {.name = "list",
     .letter = 'l',
     .help = "list them (default)",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct snapshot_options, list)},
    {.name = "create",
     .letter = 'c',
     .arg = "NAME",
     .help = "keep the disk as it is now",
     .kind = OPTION_STRING,
     .offset = offsetof(struct snapshot_options, create)},
    {.name = "apply",
     .letter = 'a',
     .arg = "NAME",
     .help = "the disk gets back to what it was then",
     .kind = OPTION_STRING,
     .offset = offsetof(struct snapshot_options, apply)},
    {.name = "delete",
     .letter = 'd',
     .arg = "NAME",
     .help = "forget it",
     .kind = OPTION_STRING,
     .offset = offsetof(struct snapshot_options, delete)},
    {.name = "json",
     .help = "for programs",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct snapshot_options, json)},
    OPTION_LIST_END,
};

static int change_snapshots(const struct snapshot_options *o, struct block_device *b, struct error *err)
{
    if (o->create)
        return qcow2_snapshot_create(b, o->create, err);
    if (o->apply)
        return qcow2_snapshot_apply(b, o->apply, err);
    return o->delete ? qcow2_snapshot_delete(b, o->delete, err) : 0;
}

static void show_snapshots(const struct snapshot_options *o, struct block_device *b)
{
    struct json j = {.out = stdout};
    unsigned count;
    const struct qcow2_snapshot *s = qcow2_snapshots(b, &count);

    if (o->json) {
        json_open(&j, NULL, '{');
        json_snapshots(&j, s, count);
        json_close(&j, '}');
    } else if (count) {
        puts("Snapshot list:");
        list_snapshots(s, count);
    }
}

int image_snapshot(int argc, char **argv)
{
    struct snapshot_options o = {NULL};
    struct error err;
    int status = image_options(snapshot_list, &o, argc, argv, "snapshot [OPTIONS] FILE", 1, 1), r;
    unsigned changes;
    struct block_device *b;

    if (status >= 0)
        return status;
    changes = !!o.create + !!o.apply + !!o.delete;
    if (changes + o.list > 1) {
        error_set(&err, EINVAL, "one of --list, --create, --apply and --delete at a time");
        return cmd_fail(&err);
    }
    b = image_open(argv[0], NULL, (struct block_options){.read_only = !changes, .no_backing = true});
    if (!b)
        return STATUS_ERROR;
    r = change_snapshots(&o, b, &err);
    if (!r && !changes)
        show_snapshots(&o, b);
    block_close(b);
    return r ? cmd_fail(&err) : STATUS_OK;
}
