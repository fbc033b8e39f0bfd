/* How a device asks for the end or the reset of its machine, without knowing machines. */
#ifndef TRAPEZE_HW_LIFECYCLE_H
#define TRAPEZE_HW_LIFECYCLE_H

#include "base/compiler.h"

enum lifecycle_event {
    LIFECYCLE_POWEROFF,
    LIFECYCLE_RESET,
    LIFECYCLE_PANICKED,   /* pvpanic */
    LIFECYCLE_DEBUG_EXIT, /* isa-debug-exit; code is the monitor's exit status */
};

struct lifecycle {
    /* Any thread, machine lock held; returns at once, the event happens soon after. */
    void (*request)(struct lifecycle *l, enum lifecycle_event event, int code);
};

static inline void lifecycle_request(struct lifecycle *l, enum lifecycle_event event, int code)
{
    l->request(l, event, code);
}

#endif
