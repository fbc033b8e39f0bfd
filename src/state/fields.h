/*
 * Described state: every CPU and device object that a guest can observe lists its saved fields in
 * one const table. Save, restore, migration, inspection and the round-trip tests are derived from
 * that table; nothing else knows what an object's state is.
 *
 *     static const struct field uart_fields[] = {
 *         FIELD(struct uart, lcr),
 *         FIELD_ARRAY(struct uart, rx_fifo),
 *         FIELD_SINCE(struct uart, scratch, 2),
 *         FIELD_END,
 *     };
 *     const struct state_desc uart_state = {.name = "uart16550", .version = 2, .fields = uart_fields,
 *                                           .post_load = uart_post_load};
 *
 * Fields are integers (or enums, bool) of 1, 2, 4 or 8 bytes, fixed arrays of them, byte blobs, or
 * nested described structs and arrays of those. Pointers, timers and locks are never fields:
 * pre_save turns them into integers, post_load rebuilds them.
 */
#ifndef TRAPEZE_STATE_FIELDS_H
#define TRAPEZE_STATE_FIELDS_H

#include "base/compiler.h"
#include "base/error.h"

enum field_kind { FIELD_KIND_END, FIELD_KIND_INT, FIELD_KIND_BOOL, FIELD_KIND_BYTES, FIELD_KIND_STRUCT };

struct state_desc;

struct field {
    const char *name;
    enum field_kind kind;
    u32 offset;
    u32 size;                      /* of one element in bytes */
    u32 count;                     /* elements; 1 for a scalar */
    u16 since;                     /* the description's version that added it */
    const struct state_desc *desc; /* FIELD_KIND_STRUCT */
};

struct state_desc {
    const char *name;
    u16 version; /* rises when a field is added; fields never change meaning */
    const struct field *fields;

    /* Brings the fields up to date before a save; may be NULL. */
    void (*pre_save)(void *object);

    /*
     * Checks and adopts loaded fields (they are hostile input): 0, or -EINVAL with @err set, after
     * which the object must be reset before use. @version is that of the saved stream.
     */
    int (*post_load)(void *object, unsigned version, struct error *err);
};

/* A loaded bool must be 0 or 1, so the reader has to know which fields are bools. */
#define FIELD_KIND_OF(x) \
    (__builtin_types_compatible_p(__typeof__(x), bool) ? FIELD_KIND_BOOL : FIELD_KIND_INT)

#define FIELD_SINCE(T, m, v)                                                      \
    {                                                                             \
        .name = #m, .kind = FIELD_KIND_OF(((T *)0)->m), .offset = offsetof(T, m), \
        .size = sizeof(((T *)0)->m), .count = 1, .since = (v)                     \
    }
#define FIELD(T, m) FIELD_SINCE(T, m, 1)
#define FIELD_ARRAY_SINCE(T, m, v)                                                                          \
    {                                                                                                       \
        .name = #m, .kind = FIELD_KIND_OF(((T *)0)->m[0]), .offset = offsetof(T, m),                        \
        .size = sizeof(((T *)0)->m[0]), .count = sizeof(((T *)0)->m) / sizeof(((T *)0)->m[0]), .since = (v) \
    }
#define FIELD_ARRAY(T, m) FIELD_ARRAY_SINCE(T, m, 1)
#define FIELD_BYTES(T, m)                                                                            \
    {                                                                                                \
        .name = #m, .kind = FIELD_KIND_BYTES, .offset = offsetof(T, m), .size = sizeof(((T *)0)->m), \
        .count = 1, .since = 1                                                                       \
    }
#define FIELD_STRUCT(T, m, d)                                                                         \
    {                                                                                                 \
        .name = #m, .kind = FIELD_KIND_STRUCT, .offset = offsetof(T, m), .size = sizeof(((T *)0)->m), \
        .count = 1, .since = 1, .desc = &(d)                                                          \
    }
#define FIELD_STRUCT_ARRAY(T, m, d)                                                                      \
    {                                                                                                    \
        .name = #m, .kind = FIELD_KIND_STRUCT, .offset = offsetof(T, m), .size = sizeof(((T *)0)->m[0]), \
        .count = sizeof(((T *)0)->m) / sizeof(((T *)0)->m[0]), .since = 1, .desc = &(d)                  \
    }
#define FIELD_END              \
    {                          \
        .kind = FIELD_KIND_END \
    }

#endif
