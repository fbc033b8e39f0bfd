/* "trapeze image": finds the subcommand. Names, units and exit statuses are those of qemu-img. */
#include "cmd/image.h"

#include <errno.h>
#include <string.h>

static const struct subcommand {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"create", "make an image", image_create},
    {"info", "what an image is", image_info},
    {"check", "look for damage, and repair it", image_check},
    {"convert", "copy into another format, sparse or compressed", image_convert},
    {"resize", "make the disk larger or smaller", image_resize},
    {"rebase", "change the backing file", image_rebase},
    {"commit", "write an overlay's data into its backing file", image_commit},
    {"snapshot", "list, make, go back to and delete internal snapshots", image_snapshot},
    {"compare", "do two images hold the same?", image_compare},
    {"map", "where the data are", image_map},
};

static void usage(FILE *out)
{
    fputs("Usage: trapeze image SUBCOMMAND [ARGUMENTS]\n\nDisk images: raw and qcow2.\n\nSubcommands:\n",
          out);
    for (unsigned i = 0; i < ARRAY_SIZE(subcommands); i++)
        fprintf(out, "  %-10s %s\n", subcommands[i].name, subcommands[i].summary);
    fputs("\nExample: an image of 10 GiB, and an overlay that leaves it as it is:\n"
          "  trapeze image create --format qcow2 base.qcow2 10G\n"
          "  trapeze image create --format qcow2 --backing base.qcow2 --backing-format qcow2 top.qcow2\n\n"
          "'trapeze image SUBCOMMAND --help' lists the options of a subcommand. More in trapeze(1).\n",
          out);
}

int cmd_image(int argc, char **argv)
{
    const char *names[ARRAY_SIZE(subcommands) + 1] = {NULL};
    struct error err;

    if (argc < 2) {
        usage(stderr);
        return STATUS_ERROR;
    }
    if (!strcmp(argv[1], "--help")) {
        usage(stdout);
        return STATUS_OK;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(subcommands); i++) {
        if (!strcmp(argv[1], subcommands[i].name))
            return subcommands[i].run(argc - 1, argv + 1);
        names[i] = subcommands[i].name;
    }
    const char *hint = options_nearest(argv[1], names);
    error_set(&err, EINVAL, "unknown subcommand 'image %.60s'%s%s%s", argv[1], hint ? "; did you mean '" : "",
              hint ? hint : "", hint ? "'?" : "");
    return cmd_fail(&err);
}

int image_options(const struct option *list, void *target, int argc, char **argv, const char *usage_line,
                  int min, int max)
{
    struct error err;
    int operands;

    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") != 0)
            continue;
        printf("Usage: trapeze image %s\n\n", usage_line);
        options_help(list, stdout);
        return STATUS_OK;
    }
    if (options_parse(list, target, argc, argv, &operands, &err))
        return cmd_fail(&err);
    if (operands >= min && operands <= max) {
        argv[operands] = NULL;
        return -1;
    }
    error_set(&err, EINVAL, "usage: trapeze image %s", usage_line);
    return cmd_fail(&err);
}

struct block_device *image_open(const char *path, const char *format, struct block_options o)
{
    struct error err;
    struct block_device *b;

    o.synchronous = true;
    if (format)
        o.format = block_format_find(format);
    else if (block_probe(path, &o.format,
                         &err)) { /* who runs this means the file as it is: no guard is needed */
        cmd_fail(&err);
        return NULL;
    }
    b = block_open(path, &o, &err);
    if (!b)
        cmd_fail(&err);
    return b;
}

void progress_show(struct progress *p, u64 done)
{
    unsigned now = p->total ? (unsigned)((u128)done * 10000 / p->total) : 10000;

    if (!p->on || now + 1 == p->shown)
        return;
    p->shown = now + 1;
    printf("    (%u.%02u/100%%)\r", now / 100, now % 100);
    fflush(stdout);
}

void progress_end(struct progress *p)
{
    if (!p->on)
        return;
    progress_show(p, p->total);
    putchar('\n');
}

int image_io_error(struct error *err, int r, const char *what, const struct block_device *b)
{
    return error_set_errno(err, -r, "cannot %s '%s'", what, b->path);
}

bool image_wants_json(const struct image_show *o)
{
    return o->json || (o->output && !strcmp(o->output, "json"));
}

const char *image_yes_no(bool b)
{
    return b ? "true" : "false";
}

void image_human_size(char *buf, size_t len, u64 bytes)
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
