/*
 * Any sequence of port and MMIO accesses of a guest to the PC's legacy devices, with time moving on in
 * between and state going through save and load: nothing may crash, hang or interrupt without end.
 */
#include "hw/acpi-pm.h"
#include "hw/hpet.h"
#include "hw/i8042.h"
#include "hw/pit.h"
#include "hw/port92.h"
#include "hw/rtc.h"
#include "hw/uart16550.h"
#include "state/codec.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define LOOP_TURNS 8

struct board {
    struct memory memory;
    struct event_loop *loop;
    struct vclock clock;
    struct lifecycle lifecycle;
    struct pit pit;
    struct rtc rtc;
    struct hpet hpet;
    struct acpi_pm pm;
    struct i8042 keyboard;
    struct port92 port92;
    struct uart16550 uart;
    u64 interrupts;
};

struct input {
    const u8 *data;
    size_t len;
};

static u64 take(struct input *in, unsigned bytes)
{
    u64 v = 0;

    for (unsigned i = 0; i < bytes && in->len; i++, in->data++, in->len--)
        v |= (u64)*in->data << i * 8;
    return v;
}

static void count_interrupt(void *owner, unsigned line, bool level)
{
    ((struct board *)owner)->interrupts += level;
}

static void ignore_request(struct lifecycle *l, enum lifecycle_event event, int code) {}

static struct irq_line line(struct board *b, unsigned n)
{
    return (struct irq_line){.set = count_interrupt, .owner = b, .line = n};
}

static void board_init(struct board *b)
{
    int bad = memory_init(&b->memory, 1 << 20, NULL);

    b->loop = event_loop_new(NULL);
    vclock_init_manual(&b->clock);
    b->lifecycle.request = ignore_request;
    bad |= pit_init(&b->pit, &b->memory, b->loop, &b->clock, line(b, 0), NULL);
    bad |= rtc_init(&b->rtc, &b->memory, b->loop, &b->clock, line(b, 8), NULL);
    bad |= hpet_init(&b->hpet, &b->memory, b->loop, &b->clock, line(b, 0), &b->pit, &b->rtc, NULL);
    bad |= acpi_pm_init(&b->pm, &b->memory, b->loop, &b->clock, line(b, 9), &b->lifecycle, NULL);
    bad |= i8042_init(&b->keyboard, &b->memory, line(b, 1), line(b, 12), &b->lifecycle, NULL);
    bad |= port92_init(&b->port92, &b->memory, &b->lifecycle, NULL);
    bad |= uart16550_init(&b->uart, &b->memory, 0x3f8, b->loop, &b->clock, line(b, 4), NULL, NULL);
    BUG_ON(bad || !b->loop);
    rtc_set_time(&b->rtc, 0); /* every run of an input is the same */
}

static void board_release(struct board *b)
{
    uart16550_release(&b->uart);
    port92_release(&b->port92);
    i8042_release(&b->keyboard);
    acpi_pm_release(&b->pm);
    hpet_release(&b->hpet);
    rtc_release(&b->rtc);
    pit_release(&b->pit);
    event_loop_free(b->loop);
    memory_release(&b->memory);
}

static void move_time(struct board *b, u64 ns)
{
    u64 before = b->interrupts, now = vclock_ns(&b->clock);

    vclock_set_ns(&b->clock, now + ns);
    event_loop_clock_changed(b->loop);
    for (int i = 0; i < LOOP_TURNS; i++)
        event_loop_poll(b->loop, 0);
    /* However long it was: a device that is late merges. */
    BUG_ON(b->interrupts - before > 16 * LOOP_TURNS);
}

static u16 take_port(struct input *in)
{
    static const u16 bases[] = {0x40, 0x60, 0x70, 0x92, 0xb2, 0x3f8, ACPI_PM_BASE, ACPI_PM_BASE + 0x20};
    u8 v = take(in, 1);

    return bases[v & 7] + (v >> 3 & 7);
}

static void scramble_state(struct device *dev, struct input *in)
{
    struct state_buf buf = {0};

    if (state_save(&buf, dev->state, 0, dev->object, NULL) == 0 && buf.len) {
        for (unsigned n = take(in, 1) % 4; n; n--)
            buf.data[take(in, 2) % buf.len] ^= take(in, 1);
        if (state_load(&buf, dev->state, 0, dev->object, NULL))
            dev->reset(dev);
    }
    state_buf_release(&buf);
}

static void step(struct board *b, struct input *in)
{
    struct device *devices[] = {&b->pit.dev,      &b->rtc.dev,    &b->hpet.dev, &b->pm.dev,
                                &b->keyboard.dev, &b->port92.dev, &b->uart.dev};
    u8 op = take(in, 1);
    unsigned bytes = 1u << (op >> 4 & 3) % 3;
    u64 at;

    switch (op & 7) {
    case 0: memory_pio_read(&b->memory, take_port(in), bytes); break;
    case 1:
    case 2:
        at = take_port(in);
        memory_pio_write(&b->memory, at, take(in, bytes), bytes);
        break;
    case 3: memory_mmio_read(&b->memory, HPET_BASE + take(in, 2) % HPET_SIZE, bytes * 2); break;
    case 4:
        at = HPET_BASE + (op & 8 ? take(in, 2) % HPET_SIZE : take(in, 1) * 4);
        memory_mmio_write(&b->memory, at, take(in, bytes * 2), bytes * 2);
        break;
    case 5: move_time(b, take(in, 3)); break;
    case 6: move_time(b, take(in, 2) << 26); break; /* up to 50 days */
    default: scramble_state(devices[take(in, 1) % ARRAY_SIZE(devices)], in); break;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct input in = {data, size};
    struct board *b = calloc(1, sizeof *b);

    BUG_ON(!b);
    board_init(b);
    while (in.len)
        step(b, &in);
    board_release(b);
    free(b);
    return 0;
}
