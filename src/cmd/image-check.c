/* "trapeze image check" */
#include <string.h>

#include "cmd/image.h"
#include "cmd/json.h"

#define AT(m) .offset = offsetof(struct image_show, m)

static const struct option check_list[] = {
    IMAGE_OPTION_FORMAT("raw or qcow2; without it the file says", format),
    {.name = "repair",
     .letter = 'r',
     .arg = "WHAT",
     .help = "leaks: free what is not used (always safe); all: everything",
     .kind = OPTION_CHOICE,
     .choices = "leaks|all",
     AT(repair)},
    IMAGE_OPTION_QUIET("the exit status says it"),
    IMAGE_OPTIONS_JSON,
    IMAGE_OPTION_SHARE,
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

static int check(const struct image_show *o, struct block_device *b, struct error *err)
{
    bool silent = o->quiet || image_wants_json(o), again = false;
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
    if (image_wants_json(o))
        json_check(b, &now, &fixed);
    else if (!o->quiet)
        print_check(&now, &fixed);
    return now.corruptions ? IMAGE_CORRUPT : now.leaks ? IMAGE_LEAKS : STATUS_OK;
}

int image_check(int argc, char **argv)
{
    struct image_show o = {NULL};
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
