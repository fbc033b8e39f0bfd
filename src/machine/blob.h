/*
 * The bytes of a file, read whole. An initrd may be larger than all else that the monitor holds, and is of
 * use only while it is copied to the guest: in between its bytes can go, and come back for a reset.
 */
#ifndef TRAPEZE_MACHINE_BLOB_H
#define TRAPEZE_MACHINE_BLOB_H

#include "base/error.h"

struct blob {
    u8 *data; /* NULL while dropped */
    u64 size;
    char *path;     /* for messages */
    int fd;         /* where the bytes can be had again, if droppable */
    bool droppable; /* read from a file, not from a pipe */
};

/*
 * Reads @path, a file or a pipe, of at most @max bytes. @what names its role in messages ("kernel").
 * An empty file is an error.
 */
int blob_read(struct blob *b, const char *what, const char *path, u64 max, struct error *err);
void blob_release(struct blob *b);

/* Gives the memory back where the bytes can be read again. The file stays open, so it may be deleted. */
void blob_drop(struct blob *b);

/* Has the bytes again after blob_drop(); fails when the file has become shorter. */
int blob_want(struct blob *b, struct error *err);

#endif
