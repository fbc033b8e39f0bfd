/*
 * Small ISO 9660 images (ECMA-119) with one folder of files, whose names Linux sees as they are by Rock
 * Ridge (IEEE P1282).
 */
#ifndef TRAPEZE_MACHINE_ISO9660_H
#define TRAPEZE_MACHINE_ISO9660_H

#include <time.h>

#include "base/error.h"

#define ISO9660_BLOCK 2048
#define ISO9660_MAX_FILES 12
#define ISO9660_NAME_MAX 30
#define ISO9660_FILE_MAX (64u << 20)

struct iso9660_file {
    const char *name; /* letters, digits, '-', '_', '.' */
    const void *data;
    size_t size; /* at most ISO9660_FILE_MAX */
};

/*
 * Makes an image with volume label @label (at most 32 characters) and files of time @when. The caller frees
 * *image, which has *size bytes, a multiple of the block.
 */
int iso9660_build(const char *label, const struct iso9660_file *files, unsigned count, time_t when,
                  u8 **image, size_t *size, struct error *err);

#endif
