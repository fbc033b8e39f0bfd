/* An interrupt line as a value: what a device drives, without knowing what is at the other end. */
#ifndef TRAPEZE_HW_IRQ_H
#define TRAPEZE_HW_IRQ_H

#include "base/list.h"

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

/*
 * A message that a device sends again and again: an entry of its MSI-X table. The sink may know a shorter way
 * for it, @fd: a write of a u64 of 1 there sends it, from any thread, without the machine lock.
 */
struct msi_line {
    bool on; /* the guest lets the device send it */
    u64 addr;
    u32 data;
    int fd;           /* of the sink; -1: none */
    struct list link; /* the sink's */
};

static inline void msi_line_init(struct msi_line *l)
{
    *l = (struct msi_line){.fd = -1};
    list_init(&l->link);
}

/* Where message signalled interrupts go: a write of @data to @addr. */
struct msi_sink {
    void (*send)(void *owner, u64 addr, u32 data);
    void (*line_changed)(void *owner, struct msi_line *l); /* NULL: it knows no shorter ways */
    void *owner;                                           /* NULL function: messages vanish */
};

/* Before anybody sends another message of this line by its @fd. */
static inline void msi_line_set(const struct msi_sink *s, struct msi_line *l, bool on, u64 addr, u32 data)
{
    if (l->on == on && (!on || (l->addr == addr && l->data == data)))
        return;
    l->on = on;
    l->addr = addr;
    l->data = data;
    if (s->line_changed)
        s->line_changed(s->owner, l);
}

static inline void msi_send(const struct msi_sink *s, u64 addr, u32 data)
{
    if (s->send)
        s->send(s->owner, addr, data);
}

#endif
