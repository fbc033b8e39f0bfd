/* What the formats share. */
#ifndef TRAPEZE_BACKEND_BLOCK_BLOCK_INTERNAL_H
#define TRAPEZE_BACKEND_BLOCK_BLOCK_INTERNAL_H

#include "backend/block/block.h"
#include "backend/block/file.h"

/* RAW when it is nothing else. */
enum block_format block_probe_bytes(const u8 *data, size_t len);

/* The file under @b when it is of that format, or NULL. */
const struct host_file *raw_file(struct block_device *b);
const struct host_file *qcow2_file(struct block_device *b);

/* PROBE as format stands for raw that was not asked for. */
struct block_device *raw_open(const char *path, const struct block_options *o, struct error *err);

/* @above are the files of the images on top of it, innermost first: none of them may come again. */
struct block_chain {
    const struct block_chain *above;
    const struct host_file *file;
};
struct block_device *qcow2_open(const char *path, const struct block_options *o,
                                const struct block_chain *above, struct error *err);
struct block_device *block_open_in_chain(const char *path, const struct block_options *o,
                                         const struct block_chain *above, struct error *err);

#endif
