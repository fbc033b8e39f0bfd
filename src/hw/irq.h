/* An interrupt line as a value: what a device drives, without knowing what is at the other end. */
#ifndef TRAPEZE_HW_IRQ_H
#define TRAPEZE_HW_IRQ_H

#include "base/compiler.h"

struct irq_line {
    void (*set)(void *owner, unsigned line, bool level);
    void *owner; /* the controller; NULL: the line leads nowhere */
    unsigned line;
};

/* Machine lock held, as for all device code. */
static inline void irq_set(const struct irq_line *l, bool level)
{
    if (l->set)
        l->set(l->owner, l->line, level);
}

#endif
