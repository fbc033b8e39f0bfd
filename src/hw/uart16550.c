/* 16550A serial port. Section numbers are those of the PC16550D data sheet. */
#include "hw/uart16550.h"

#include <errno.h>

#include "base/log.h"

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR, REGISTERS };

enum {
    IER_RX = 0x01,
    IER_THRE = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_BITS = 0x0f,

    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_CLEAR_TX = 0x04,
    FCR_KEPT = 0xc9, /* trigger, DMA mode, enable: the clear bits clear themselves */

    LCR_BREAK = 0x40,
    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_BITS = 0x1f,

    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_BI = 0x10,
    LSR_BYTE_ERRORS = 0x1c, /* PE, FE, BI: belong to one byte */
    LSR_ERRORS = 0x1e,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80,

    MSR_DELTAS = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

#define UART_CLOCK_HZ 115200u /* of the bit clock at divisor 1 */
/* Bounds of the receive time-out: a divisor of 0 must not flood the host, a slow one only delays. */
#define TIMEOUT_MIN_NS (50 * NS_PER_US)
#define TIMEOUT_MAX_NS (20 * NS_PER_MS)
#define NEVER (~0ull)

static bool fifo_enabled(const struct uart16550 *u)
{
    return u->fcr & FCR_ENABLE;
}

static unsigned fifo_capacity(const struct uart16550 *u)
{
    return fifo_enabled(u) ? UART16550_FIFO : 1;
}

static unsigned trigger_level(const struct uart16550 *u)
{
    static const u8 levels[] = {1, 4, 8, 14};
    return fifo_enabled(u) ? levels[u->fcr >> 6] : 1;
}

static u8 line_status(const struct uart16550 *u)
{
    u8 lsr = u->lsr;

    if (u->rx_count)
        lsr |= LSR_DR;
    if (!u->tx_count)
        lsr |= LSR_THRE | LSR_TEMT;
    if (fifo_enabled(u)) {
        for (unsigned i = 0; i < u->rx_count; i++)
            if (u->rx_error[(u->rx_head + i) % UART16550_FIFO])
                lsr |= LSR_FIFO_ERROR;
        if (u->lsr & LSR_BYTE_ERRORS)
            lsr |= LSR_FIFO_ERROR;
    }
    return lsr;
}

/* The highest interrupt pending (8.6, table III), without the FIFO bits. */
static u8 interrupt_id(const struct uart16550 *u)
{
    if ((u->ier & IER_LINE) && (u->lsr & LSR_ERRORS))
        return IIR_LINE;
    if ((u->ier & IER_RX) && u->rx_count >= trigger_level(u))
        return IIR_RX;
    if ((u->ier & IER_RX) && u->timed_out)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre_pending)
        return IIR_THRE;
    if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTAS))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_irq(struct uart16550 *u)
{
    irq_set(&u->irq, (u->mcr & MCR_OUT2) && interrupt_id(u) != IIR_NONE);
}

/* Moves the modem inputs to where they belong now and notes what changed (8.8). */
static void update_modem(struct uart16550 *u)
{
    u8 now = 0, changed;

    if (u->mcr & MCR_LOOP) {
        now |= u->mcr & MCR_RTS ? MSR_CTS : 0;
        now |= u->mcr & MCR_DTR ? MSR_DSR : 0;
        now |= u->mcr & MCR_OUT1 ? MSR_RI : 0;
        now |= u->mcr & MCR_OUT2 ? MSR_DCD : 0;
    } else {
        now = MSR_CTS | (u->carrier ? MSR_DSR | MSR_DCD : 0);
    }
    changed = (u->msr ^ now) & 0xf0;
    if (now & MSR_RI)
        changed &= ~MSR_RI; /* only the trailing edge of the ring indicator counts */
    u->msr = now | (u->msr & MSR_DELTAS) | changed >> 4;
}

/* --- receiver --- */

/* What the backend may bring now. In loop mode the receiver is cut off from it (8.7). */
static void update_room(struct uart16550 *u)
{
    if (u->chardev)
        chardev_set_room(u->chardev, u->mcr & MCR_LOOP ? 0 : fifo_capacity(u) - u->rx_count);
}

/* Four characters without one arriving or being read make the time-out interrupt (8.4, FIFO interrupt mode).
 */
static void restart_timeout(struct uart16550 *u)
{
    u64 ns;

    u->timed_out = false;
    u->timeout_deadline = NEVER;
    if (!fifo_enabled(u) || !u->rx_count || u->rx_count >= trigger_level(u))
        return;
    ns = 4 * 10 * NS_PER_SEC * u->divisor / UART_CLOCK_HZ;
    ns = MAX(ns, TIMEOUT_MIN_NS);
    ns = MIN(ns, TIMEOUT_MAX_NS);
    u->timeout_deadline = vclock_ns(u->clock) + ns;
    /* While a timer with an older deadline is out, timeout_fired() arms it anew. */
    if (!timer_armed(&u->timeout))
        timer_arm(&u->timeout, u->timeout_deadline);
}

static void timeout_fired(struct timer *t)
{
    struct uart16550 *u = container_of(t, struct uart16550, timeout);

    if (u->timeout_deadline == NEVER)
        return;
    if (vclock_ns(u->clock) < u->timeout_deadline) {
        timer_arm(t, u->timeout_deadline);
        return;
    }
    u->timeout_deadline = NEVER;
    u->timed_out = u->rx_count != 0;
    update_irq(u);
}

static void rx_push(struct uart16550 *u, u8 byte, u8 errors)
{
    unsigned at;

    if (u->rx_count >= fifo_capacity(u)) {
        /* 8.5: in character mode the byte is overwritten, in FIFO mode the new one is lost. */
        u->lsr |= LSR_OE;
        if (fifo_enabled(u))
            return;
        u->rx_count = 0;
    }
    if (!u->rx_count)
        u->lsr |= errors;
    at = (u->rx_head + u->rx_count++) % UART16550_FIFO;
    u->rx[at] = byte;
    u->rx_error[at] = errors;
}

static u8 rx_pop(struct uart16550 *u)
{
    u8 byte = u->rx[u->rx_head];

    if (!u->rx_count)
        return byte; /* the last one again, as the register keeps it */
    if (u->rx_count > 1 || fifo_enabled(u))
        u->rx_head = (u->rx_head + 1) % UART16550_FIFO;
    u->rx_count--;
    if (u->rx_count)
        u->lsr |= u->rx_error[u->rx_head]; /* errors show when their byte is next */
    restart_timeout(u);
    if (u->rx_count <= fifo_capacity(u) / 2)
        update_room(u);
    return byte;
}

static void rx_clear(struct uart16550 *u)
{
    u->rx_head = u->rx_count = 0;
    restart_timeout(u);
    update_room(u);
}

static void chardev_receive(struct chardev_listener *l, const u8 *data, size_t len)
{
    struct uart16550 *u = container_of(l, struct uart16550, listener);

    for (size_t i = 0; i < len; i++)
        rx_push(u, data[i], 0);
    restart_timeout(u);
    update_room(u);
    update_irq(u);
}

static void chardev_break(struct chardev_listener *l)
{
    struct uart16550 *u = container_of(l, struct uart16550, listener);

    if (u->mcr & MCR_LOOP)
        return;
    rx_push(u, 0, LSR_BI);
    restart_timeout(u);
    update_room(u);
    update_irq(u);
}

static void chardev_hangup(struct chardev_listener *l, bool connected)
{
    struct uart16550 *u = container_of(l, struct uart16550, listener);

    u->carrier = connected;
    update_modem(u);
    update_irq(u);
}

/* --- transmitter --- */

/* Gives the host what it takes; an empty FIFO raises the THRE interrupt (8.6). */
static void tx_drain(struct uart16550 *u)
{
    if (!u->tx_count)
        return;
    while (u->tx_count) {
        unsigned run = MIN((unsigned)u->tx_count, (unsigned)(UART16550_FIFO - u->tx_head));
        size_t taken = u->chardev ? chardev_write(u->chardev, u->tx + u->tx_head, run) : run;

        if (!taken)
            return;
        u->tx_head = (u->tx_head + taken) % UART16550_FIFO;
        u->tx_count -= taken;
    }
    u->thre_pending = true;
}

static void tx_clear(struct uart16550 *u)
{
    if (u->tx_count)
        u->thre_pending = true;
    u->tx_head = u->tx_count = 0;
}

static void tx_push(struct uart16550 *u, u8 byte)
{
    u->thre_pending = false;
    if (u->mcr & MCR_LOOP) {
        rx_push(u, byte, 0);
        restart_timeout(u);
        u->thre_pending = true;
        return;
    }
    if (u->tx_count >= fifo_capacity(u)) {
        /* 8.5: writing to a full transmitter loses a byte: the old one without FIFO, else the new. */
        if (fifo_enabled(u))
            return;
        u->tx_count = 0;
    }
    u->tx[(u->tx_head + u->tx_count++) % UART16550_FIFO] = byte;
    tx_drain(u);
}

static void chardev_writable(struct chardev_listener *l)
{
    struct uart16550 *u = container_of(l, struct uart16550, listener);

    tx_drain(u);
    update_irq(u);
}

/* --- registers --- */

static u8 read_iir(struct uart16550 *u)
{
    u8 id = interrupt_id(u);

    if (id == IIR_THRE) {
        u->thre_pending = false; /* 8.6, table III: reset by reading this register */
        update_irq(u);
    }
    return id | (fifo_enabled(u) ? IIR_FIFO : 0);
}

static u8 read_register(struct uart16550 *u, unsigned reg)
{
    bool dlab = u->lcr & LCR_DLAB;
    u8 value;

    switch (reg) {
    case RBR_THR: return dlab ? u->divisor & 0xff : rx_pop(u);
    case IER: return dlab ? u->divisor >> 8 : u->ier;
    case IIR_FCR: return read_iir(u);
    case LCR: return u->lcr;
    case MCR: return u->mcr;
    case LSR:
        value = line_status(u);
        u->lsr = 0;
        if (u->rx_count)
            u->rx_error[u->rx_head] = 0;
        return value;
    case MSR:
        value = u->msr;
        u->msr &= ~MSR_DELTAS;
        return value;
    default: return u->scr;
    }
}

static u64 uart_read(struct io_region *r, u64 offset, unsigned size)
{
    struct uart16550 *u = container_of(r, struct uart16550, region);
    u8 value = read_register(u, offset);

    if (offset == RBR_THR || offset == LSR || offset == MSR)
        update_irq(u);
    trace(serial, "read %u: %#x", (unsigned)offset, value);
    return value;
}

static void write_ier(struct uart16550 *u, u8 value)
{
    /* Enabling the THRE interrupt while the transmitter is empty raises it. */
    if (!(u->ier & IER_THRE) && (value & IER_THRE))
        u->thre_pending = !u->tx_count;
    u->ier = value & IER_BITS;
}

/* 8.4. Turning the FIFOs on or off empties them; the other bits count only with bit 0 set. */
static void write_fcr(struct uart16550 *u, u8 value)
{
    bool toggled = (u->fcr ^ value) & FCR_ENABLE;

    u->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    if (toggled || (value & FCR_CLEAR_RX))
        rx_clear(u);
    else
        restart_timeout(u);
    if (toggled || (value & FCR_CLEAR_TX))
        tx_clear(u);
}

static void write_lcr(struct uart16550 *u, u8 value)
{
    bool starts_break = !(u->lcr & LCR_BREAK) && (value & LCR_BREAK);

    u->lcr = value;
    if (starts_break && (u->mcr & MCR_LOOP))
        rx_push(u, 0, LSR_BI);
    restart_timeout(u);
}

static void write_mcr(struct uart16550 *u, u8 value)
{
    u->mcr = value & MCR_BITS;
    update_modem(u);
    update_room(u);
}

static void write_register(struct uart16550 *u, unsigned reg, u8 value)
{
    bool dlab = u->lcr & LCR_DLAB;

    switch (reg) {
    case RBR_THR:
        if (dlab)
            u->divisor = (u->divisor & 0xff00) | value;
        else
            tx_push(u, value);
        break;
    case IER:
        if (dlab)
            u->divisor = (u->divisor & 0x00ff) | value << 8;
        else
            write_ier(u, value);
        break;
    case IIR_FCR: write_fcr(u, value); break;
    case LCR: write_lcr(u, value); break;
    case MCR: write_mcr(u, value); break;
    case SCR: u->scr = value; break;
    default: break; /* LSR and MSR: for factory tests only */
    }
}

static void uart_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct uart16550 *u = container_of(r, struct uart16550, region);

    trace(serial, "write %u: %#x", (unsigned)offset, (unsigned)value);
    write_register(u, offset, value);
    update_irq(u);
}

static const struct io_ops uart_ops = {.read = uart_read, .write = uart_write, .min_size = 1, .max_size = 1};

/* --- life cycle --- */

/* 8.2, table I. The divisor and the scratch register are not reset by the chip, but start at known values. */
static void uart_reset(struct device *dev)
{
    struct uart16550 *u = dev->object;

    u->ier = u->fcr = u->lcr = u->mcr = u->lsr = u->scr = 0;
    u->divisor = 12;
    u->tx_head = u->tx_count = 0;
    u->thre_pending = false;
    rx_clear(u);
    update_modem(u);
    u->msr &= ~MSR_DELTAS;
    update_irq(u);
}

static int uart_post_load(void *object, unsigned version, struct error *err)
{
    struct uart16550 *u = object;

    if (u->rx_head >= UART16550_FIFO || u->tx_head >= UART16550_FIFO || u->rx_count > fifo_capacity(u) ||
        u->tx_count > fifo_capacity(u))
        return error_set(err, EINVAL, "uart16550: FIFO position out of range");
    u->ier &= IER_BITS;
    u->mcr &= MCR_BITS;
    timer_cancel(&u->timeout);
    if (u->timeout_deadline != NEVER)
        timer_arm(&u->timeout, u->timeout_deadline);
    tx_drain(u);
    update_modem(u);
    update_room(u);
    update_irq(u);
    return 0;
}

static const struct field uart_fields[] = {
    FIELD(struct uart16550, ier),
    FIELD(struct uart16550, fcr),
    FIELD(struct uart16550, lcr),
    FIELD(struct uart16550, mcr),
    FIELD(struct uart16550, msr),
    FIELD(struct uart16550, scr),
    FIELD(struct uart16550, lsr),
    FIELD(struct uart16550, divisor),
    FIELD_ARRAY(struct uart16550, rx),
    FIELD_ARRAY(struct uart16550, rx_error),
    FIELD(struct uart16550, rx_head),
    FIELD(struct uart16550, rx_count),
    FIELD_ARRAY(struct uart16550, tx),
    FIELD(struct uart16550, tx_head),
    FIELD(struct uart16550, tx_count),
    FIELD(struct uart16550, thre_pending),
    FIELD(struct uart16550, timed_out),
    FIELD(struct uart16550, timeout_deadline),
    FIELD_END,
};

static const struct state_desc uart_state = {
    .name = "uart16550", .version = 1, .fields = uart_fields, .post_load = uart_post_load};

int uart16550_init(struct uart16550 *u, struct memory *m, u16 base, struct event_loop *loop,
                   const struct vclock *clock, struct irq_line irq, struct chardev *chardev,
                   struct error *err)
{
    int ret;

    *u = (struct uart16550){
        .dev = {.name = "uart16550", .state = &uart_state, .object = u, .reset = uart_reset},
        .irq = irq,
        .clock = clock,
        .chardev = chardev,
        .memory = m,
        .timeout_deadline = NEVER,
        .carrier = chardev && chardev->connected,
        .listener = {.receive = chardev_receive,
                     .writable = chardev_writable,
                     .hangup = chardev_hangup,
                     .line_break = chardev_break},
    };
    timer_init(&u->timeout, loop, clock, timeout_fired);
    io_region_init(&u->region, "uart16550", &uart_ops, REGISTERS);
    ret = memory_map_pio(m, &u->region, base, err);
    if (ret)
        return ret;
    if (chardev)
        chardev->listener = &u->listener;
    uart_reset(&u->dev);
    return 0;
}

void uart16550_release(struct uart16550 *u)
{
    timer_cancel(&u->timeout);
    tx_drain(u);
    if (u->chardev) {
        chardev_set_room(u->chardev, 0);
        u->chardev->listener = NULL;
    }
    memory_unmap(u->memory, &u->region);
}
