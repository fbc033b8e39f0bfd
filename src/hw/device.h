/*
 * What every device has in common: a name, a reset, described state. Embedded as `dev` in each
 * device struct; the board keeps them in one list, resets them in order and saves them in order.
 *
 * A device of the PC is one pair of files hw/NAME.{h,c} with
 *     struct NAME;                                            embedded by the board, not allocated
 *     int  NAME_init(struct NAME *, <what it needs>, err);    maps nothing by itself unless told where
 *     void NAME_release(struct NAME *);
 * All device code runs with the machine lock held.
 */
#ifndef TRAPEZE_HW_DEVICE_H
#define TRAPEZE_HW_DEVICE_H

#include "base/list.h"
#include "state/fields.h"

struct device {
    const char *name;
    u32 instance;
    const struct state_desc *state; /* of the object at @object; NULL when it has no state */
    void *object;
    void (*reset)(struct device *dev); /* power-on and system reset; may be NULL */
    struct list link;
};

#endif
