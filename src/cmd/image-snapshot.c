/* "trapeze image snapshot" */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cmd/image.h"
#include "cmd/json.h"

/* --- lists --- */

void image_list_snapshots(const struct qcow2_snapshot *s, unsigned count)
{
    printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (unsigned i = 0; i < count; i++, s++) {
        char size[32], date[32], clock[48], icount[24] = "";
        time_t t = s->seconds;
        struct tm tm;
        u64 seconds = s->vm_clock / 1000000000;

        image_human_size(size, sizeof size, s->vm_state_size);
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
        snprintf(clock, sizeof clock, "%02llu:%02u:%02u.%03u", (unsigned long long)seconds / 3600,
                 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
                 (unsigned)(s->vm_clock / 1000000 % 1000));
        if (s->icount != ~0ull)
            snprintf(icount, sizeof icount, "%llu", (unsigned long long)s->icount);
        printf("%-9s %-16s %8s%20s%13s%11s\n", s->id, s->name, size, date, clock, icount);
    }
}

void image_json_snapshots(struct json *j, const struct qcow2_snapshot *s, unsigned count)
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

/* --- the subcommand --- */

struct snapshot_options {
    const char *create, *apply, *delete;
    bool list, json;
};

#define AT(m) .offset = offsetof(struct snapshot_options, m)

static const struct option snapshot_list[] = {
    {.name = "list", .letter = 'l', .help = "list them (default)", .kind = OPTION_FLAG, AT(list)},
    {.name = "create",
     .letter = 'c',
     .arg = "NAME",
     .help = "keep the disk as it is now",
     .kind = OPTION_STRING,
     AT(create)},
    {.name = "apply",
     .letter = 'a',
     .arg = "NAME",
     .help = "the disk gets back to what it was then",
     .kind = OPTION_STRING,
     AT(apply)},
    {.name = "delete", .letter = 'd', .arg = "NAME", .help = "forget it", .kind = OPTION_STRING, AT(delete)},
    {.name = "json", .help = "for programs", .kind = OPTION_FLAG, AT(json)},
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
        image_json_snapshots(&j, s, count);
        json_close(&j, '}');
    } else if (count) {
        puts("Snapshot list:");
        image_list_snapshots(s, count);
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
