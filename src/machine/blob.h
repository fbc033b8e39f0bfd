/* The bytes of a file, read whole. */
#ifndef TRAPEZE_MACHINE_BLOB_H
#define TRAPEZE_MACHINE_BLOB_H

#include "base/error.h"

struct blob {
    u8 *data;
    u64 size;
    char *path; /* for messages */
};

/*
 * Reads @path, a file or a pipe, of at most @max bytes. @what names its role in messages ("kernel").
 * An empty file is an error.
 */
int blob_read(struct blob *b, const char *what, const char *path, u64 max, struct error *err);
void blob_release(struct blob *b);

#endif
