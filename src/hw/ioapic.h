/*
 * The I/O APIC (Intel 82093AA data sheet 290566, version 0x11; or version 0x20 with the EOI register, ICH9
 * data sheet 13.5): 24 pins, each of which becomes a message to the local APICs. Machine lock held for
 * everything.
 *
 * Messages leave through send(), which is apic_deliver() on a real board; the local APICs answer
 * level-triggered ones with ioapic_eoi(). Edges at a masked pin are lost, as the data sheet says (3.2.4).
 */
#ifndef TRAPEZE_HW_IOAPIC_H
#define TRAPEZE_HW_IOAPIC_H

#include "hw/apic.h"
#include "hw/device.h"
#include "memory/memory.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_SIZE 0x1000
#define IOAPIC_PINS 24
#define IOAPIC_VERSION 0x20
#define IOAPIC_VERSION_82093AA 0x11 /* has no EOI register */

/* Redirection entry */
#define IOAPIC_VECTOR 0xffull
#define IOAPIC_DELIVERY_SHIFT 8 /* 3 bits, as in the local APIC's ICR */
#define IOAPIC_LOGICAL BIT(11)
#define IOAPIC_PENDING BIT(12) /* delivery status: always idle here */
#define IOAPIC_ACTIVE_LOW BIT(13)
#define IOAPIC_REMOTE_IRR BIT(14)
#define IOAPIC_LEVEL BIT(15)
#define IOAPIC_MASKED BIT(16)
#define IOAPIC_DEST_SHIFT 56
#define IOAPIC_WRITABLE                                                                                  \
    (IOAPIC_VECTOR | 7ull << IOAPIC_DELIVERY_SHIFT | IOAPIC_LOGICAL | IOAPIC_ACTIVE_LOW | IOAPIC_LEVEL | \
     IOAPIC_MASKED | 0xffull << IOAPIC_DEST_SHIFT)

/* True when a processor took the message. */
typedef bool ioapic_send_fn(void *owner, const struct apic_message *m);

struct ioapic {
    struct device dev;
    struct memory *memory;
    struct io_region region;
    ioapic_send_fn *send;
    void (*entry_written)(void *owner, unsigned pin); /* or NULL; set by the owner */
    void *owner;
    bool elsewhere; /* a kernel has it: accesses here are lost, and logged. Set by the owner */
    u8 version;     /* IOAPIC_VERSION, unless the owner sets the other one */
    u8 select;      /* IOREGSEL */
    u32 id;         /* bits 27:24 */
    u32 lines;      /* bit N: pin N is asserted, whatever the polarity that the guest programs */
    u64 redir[IOAPIC_PINS];
};

int ioapic_init(struct ioapic *io, struct memory *m, ioapic_send_fn *send, void *owner, struct error *err);
void ioapic_release(struct ioapic *io);

/* What pin @pin sends when it sends, whether it is masked or not. */
struct apic_message ioapic_message(const struct ioapic *io, unsigned pin);

/* Is pin @pin, 0..23, asserted? */
void ioapic_set_pin(struct ioapic *io, unsigned pin, bool asserted);

/* A local APIC ended the level-triggered interrupt @vector. */
void ioapic_eoi(struct ioapic *io, u8 vector);

/* To and from a kernel's: see cpu/irqchip.h. The levels of the lines are not taken from it. */
struct chips_image;
void ioapic_get_image(const struct ioapic *io, struct chips_image *image);
void ioapic_put_image(struct ioapic *io, const struct chips_image *image);
/* Sends what level-triggered pins have to send, for those that nobody answered for yet. */
void ioapic_service(struct ioapic *io);

#endif
