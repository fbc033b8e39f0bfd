/* "trapeze image": what its subcommands share. Each gets the arguments from its own name on. */
#ifndef TRAPEZE_CMD_IMAGE_H
#define TRAPEZE_CMD_IMAGE_H

#include "backend/block/block.h"
#include "backend/block/qcow2.h"
#include "cmd/commands.h"
#include "cmd/json.h"
#include "cmd/options.h"

/* Exit statuses beyond those of commands.h, as qemu-img has them. */
enum {
    IMAGE_DIFFERS = 1,        /* compare */
    IMAGE_COMPARE_FAILED = 2, /* compare: errors */
    IMAGE_CORRUPT = 2,        /* check */
    IMAGE_LEAKS = 3,          /* check: only leaks */
};

#define IMAGE_BUFFER (2u << 20) /* what is copied at once: at least a cluster */

/* Each subcommand is in a file of its own, image-NAME.c. */
int image_create(int argc, char **argv);
int image_resize(int argc, char **argv);
int image_rebase(int argc, char **argv);
int image_snapshot(int argc, char **argv);
int image_info(int argc, char **argv);
int image_check(int argc, char **argv);
int image_map(int argc, char **argv);
int image_convert(int argc, char **argv);
int image_compare(int argc, char **argv);
int image_commit(int argc, char **argv);

/*
 * Parses the options of a subcommand. Returns -1 to go on, or the exit status: after --help (@usage is
 * its first line) or an error. Between @min and @max operands are wanted.
 */
int image_options(const struct option *list, void *target, int argc, char **argv, const char *usage, int min,
                  int max);

/* @format NULL: the file says. Errors are printed; NULL then. */
struct block_device *image_open(const char *path, const char *format, struct block_options o);

/* "cannot @what 'FILE'", for the negative errno @r; returns it. */
int image_io_error(struct error *err, int r, const char *what, const struct block_device *b);

/* Options that several subcommands have; AT(member) says where they go. */
#define IMAGE_OPTION_FORMAT(text, member)                                                      \
    {                                                                                          \
        .name = "format", .letter = 'f', .arg = "FORMAT", .help = text, .kind = OPTION_CHOICE, \
        .choices = "raw|qcow2", AT(member)                                                     \
    }
#define IMAGE_OPTION_PROGRESS                                                                              \
    {                                                                                                      \
        .name = "progress", .letter = 'p', .help = "show how far it is", .kind = OPTION_FLAG, AT(progress) \
    }
#define IMAGE_OPTION_QUIET(text)                                                     \
    {                                                                                \
        .name = "quiet", .letter = 'q', .help = text, .kind = OPTION_FLAG, AT(quiet) \
    }
#define IMAGE_OPTION_SHARE                                                                                  \
    {                                                                                                       \
        .name = "force-share", .letter = 'U',                                                               \
        .help = "also while a machine writes to it: what is shown may be out of date", .kind = OPTION_FLAG, \
        AT(share)                                                                                           \
    }
#define IMAGE_OPTIONS_JSON                                                                         \
    {.name = "json", .help = "for programs", .kind = OPTION_FLAG, AT(json)},                       \
    {                                                                                              \
        .name = "output", .arg = "KIND", .help = "human or json: the same", .kind = OPTION_CHOICE, \
        .choices = "human|json", AT(output)                                                        \
    }

/* Of those that only look. */
struct image_show {
    const char *format, *output;
    bool json, share, chain;
    const char *repair; /* check */
    bool quiet;
};
bool image_wants_json(const struct image_show *o);
const char *image_yes_no(bool b); /* "true", "false" */
/* As qemu-img: three significant digits and a binary unit. */
void image_human_size(char *buf, size_t len, u64 bytes);

void image_list_snapshots(const struct qcow2_snapshot *s, unsigned count);
void image_json_snapshots(struct json *j, const struct qcow2_snapshot *s, unsigned count);

/* "-o": options of the format that is made. */
struct image_make {
    const char *format;
    u64 size;
    const char *backing, *backing_format;
    struct qcow2_create create;
};
extern const char image_make_help[];
int image_make_options(struct image_make *m, char *text, struct error *err);
enum qcow2_prealloc image_prealloc(const char *name); /* NULL: off */
/* The format must be given: what is in a raw file may be what a guest wrote. */
int image_need_format(const char *image, const char *backing, const char *format, struct error *err);
/* Makes the file; @m->size is set. */
int image_make(const char *path, struct image_make *m, struct error *err);

/* Progress on stderr, for -p. */
struct progress {
    bool on;
    u64 total;
    unsigned shown; /* in 1/10000, plus 1 */
};
void progress_show(struct progress *p, u64 done);
void progress_end(struct progress *p);

#endif
