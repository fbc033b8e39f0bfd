/*
 * The versioned stream of described objects. Each object is a record of its description's name and
 * version followed by its fields, each tagged with its name and size, so that a reader skips fields
 * it does not know, leaves absent ones at their reset value, and rejects a size that changed.
 * Little-endian. The reader treats the stream as hostile: every length is checked.
 */
#ifndef TRAPEZE_STATE_CODEC_H
#define TRAPEZE_STATE_CODEC_H

#include "state/fields.h"

/* A growing byte buffer, owned by the caller. */
struct state_buf {
    u8 *data;
    size_t len, cap;
    size_t pos; /* read position */
};

void state_buf_release(struct state_buf *b);

/* Appends the record of @object; @instance tells apart several objects of one description. */
int state_save(struct state_buf *b, const struct state_desc *desc, u32 instance, void *object,
               struct error *err);

/* Reads the next record, which must be that of @desc and @instance, into @object. */
int state_load(struct state_buf *b, const struct state_desc *desc, u32 instance, void *object,
               struct error *err);

/* A registered object: boards keep a list of these for save, restore and inspection. */
struct state_object {
    const struct state_desc *desc;
    void *object;
    u32 instance;
};

#endif
