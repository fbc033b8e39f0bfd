/*
 * 16550A serial port (National Semiconductor PC16550D data sheet, June 1995), eight ports from its base.
 *
 * Bytes travel as fast as guest and host take them; the divisor is only remembered, and gives the time
 * of the receive time-out. None is lost: the backend is told how much room the receive FIFO has,
 * and a transmit FIFO that the host does not take keeps THRE clear, so drivers wait. (A driver that
 * writes while the FIFO is full loses the byte, as on the chip.) DCD and DSR follow the backend's
 * carrier; CTS is always on, so that a guest with hardware flow control does not hang because
 * nobody looks; there is no ring. As on the PC, OUT2 gates the interrupt.
 */
#ifndef TRAPEZE_HW_UART16550_H
#define TRAPEZE_HW_UART16550_H

#include "backend/char/chardev.h"
#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "memory/memory.h"

#define UART16550_FIFO 16

struct uart16550 {
    struct device dev;
    struct io_region region;
    struct irq_line irq;
    const struct vclock *clock;
    struct timer timeout; /* of characters that wait in the FIFO below the trigger level */
    struct chardev *chardev;
    struct chardev_listener listener;
    struct memory *memory;

    u8 ier, fcr, lcr, mcr, msr, scr;
    u8 lsr; /* error bits and break; DR, THRE and TEMT come from the FIFOs */
    u16 divisor;
    u8 rx[UART16550_FIFO], rx_error[UART16550_FIFO]; /* a byte and the LSR bits that came with it */
    u8 rx_head, rx_count;
    u8 tx[UART16550_FIFO], tx_head, tx_count;
    bool thre_pending;    /* the THRE interrupt, which reading IIR clears */
    bool timed_out;       /* the character time-out indication */
    bool carrier;         /* the backend has a peer */
    u64 timeout_deadline; /* virtual time at which timed_out becomes true, ~0: never */
};

/* @chardev is borrowed (freed by the caller, after release), NULL: nothing is connected. */
int uart16550_init(struct uart16550 *u, struct memory *m, u16 base, struct event_loop *loop,
                   const struct vclock *clock, struct irq_line irq, struct chardev *chardev,
                   struct error *err);
void uart16550_release(struct uart16550 *u);

#endif
