/* "trapeze image": what its subcommands share. Each gets the arguments from its own name on. */
#ifndef TRAPEZE_CMD_IMAGE_H
#define TRAPEZE_CMD_IMAGE_H

#include "backend/block/block.h"
#include "backend/block/qcow2.h"
#include "cmd/commands.h"
#include "cmd/options.h"

/* Exit statuses beyond those of commands.h, as qemu-img has them. */
enum {
    IMAGE_DIFFERS = 1,        /* compare */
    IMAGE_COMPARE_FAILED = 2, /* compare: errors */
    IMAGE_CORRUPT = 2,        /* check */
    IMAGE_LEAKS = 3,          /* check: only leaks */
};

#define IMAGE_BUFFER (2u << 20) /* what is copied at once: at least a cluster */

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

/* "-o": options of the format that is made. */
struct image_make {
    const char *format;
    u64 size;
    const char *backing, *backing_format;
    struct qcow2_create create;
};
extern const char image_make_help[];
int image_make_options(struct image_make *m, char *text, struct error *err);
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
