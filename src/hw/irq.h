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

/* Where message signalled interrupts go: a write of @data to @addr. */
struct msi_sink {
    void (*send)(void *owner, u64 addr, u32 data);
    void *owner; /* NULL function: messages vanish */
};

static inline void msi_send(const struct msi_sink *s, u64 addr, u32 data)
{
    if (s->send)
        s->send(s->owner, addr, data);
}

#endif
