/*
 * 8042 controller, keyboard and mouse. Each device queues its bytes; fill() moves the next one into
 * the output buffer when the guest has read the one before, and the interrupt lines follow the
 * buffer's state.
 */
#include "hw/i8042.h"

#include <errno.h>

#include "base/log.h"

enum {
    STATUS_FULL = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_MOUSE = 0x20,

    MODE_KEYBOARD_IRQ = 0x01,
    MODE_MOUSE_IRQ = 0x02,
    MODE_SYSTEM = 0x04,
    MODE_KEYBOARD_OFF = 0x10,
    MODE_MOUSE_OFF = 0x20,
    MODE_TRANSLATE = 0x40,
    /* As firmware leaves it: keyboard on, translated, with interrupt; mouse off. */
    MODE_RESET = MODE_KEYBOARD_IRQ | MODE_SYSTEM | MODE_MOUSE_OFF | MODE_TRANSLATE,

    PORT_RESET = 0x01,
    PORT_A20 = 0x02,
    PORT_KEYBOARD_FULL = 0x10,
    PORT_MOUSE_FULL = 0x20,
    INPUT_UNLOCKED = 0x80,

    CMD_READ_RAM = 0x20,  /* ..0x3f */
    CMD_WRITE_RAM = 0x60, /* ..0x7f */
    CMD_PASSWORD = 0xa4,
    CMD_MOUSE_OFF = 0xa7,
    CMD_MOUSE_ON = 0xa8,
    CMD_MOUSE_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KEYBOARD_TEST = 0xab,
    CMD_KEYBOARD_OFF = 0xad,
    CMD_KEYBOARD_ON = 0xae,
    CMD_READ_INPUT_PORT = 0xc0,
    CMD_READ_OUTPUT_PORT = 0xd0,
    CMD_WRITE_OUTPUT_PORT = 0xd1,
    CMD_KEYBOARD_ECHO = 0xd2,
    CMD_MOUSE_ECHO = 0xd3,
    CMD_TO_MOUSE = 0xd4,
    CMD_READ_TEST = 0xe0,
    CMD_PULSE = 0xf0, /* ..0xff */

    PS2_ACK = 0xfa,
    PS2_RESEND = 0xfe,
    PS2_SELF_TEST_OK = 0xaa,

    KBD_SET_LEDS = 0xed,
    KBD_ECHO = 0xee,
    KBD_SCAN_SET = 0xf0,
    KBD_IDENTIFY = 0xf2,
    KBD_RATE = 0xf3,
    KBD_ENABLE = 0xf4,
    KBD_DISABLE = 0xf5,
    KBD_DEFAULTS = 0xf6,
    KBD_RESEND = 0xfe,
    KBD_RESET = 0xff,
    KBD_BREAK = 0xf0,

    MOUSE_SCALE_1_1 = 0xe6,
    MOUSE_SCALE_2_1 = 0xe7,
    MOUSE_RESOLUTION = 0xe8,
    MOUSE_STATUS = 0xe9,
    MOUSE_STREAM = 0xea,
    MOUSE_READ = 0xeb,
    MOUSE_WRAP_OFF = 0xec,
    MOUSE_WRAP_ON = 0xee,
    MOUSE_REMOTE = 0xf0,
    MOUSE_IDENTIFY = 0xf2,
    MOUSE_RATE = 0xf3,
    MOUSE_ENABLE = 0xf4,
    MOUSE_DISABLE = 0xf5,
    MOUSE_DEFAULTS = 0xf6,
    MOUSE_RESEND = 0xfe,
    MOUSE_RESET = 0xff,
};

/* Scan code set 2 to set 1, as the controller translates everything that the keyboard sends. */
static const u8 translation[] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 00 */
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 10 */
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 20 */
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 30 */
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 40 */
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 50 */
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 60 */
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 70 */
    0x80, 0x81, 0x82, 0x41, 0x54,                                                                   /* 80 */
};

/* --- queues --- */

/* False when it is full: a guest that asks without reading loses answers. */
static bool push(struct ps2_queue *q, u8 byte)
{
    if (q->count == PS2_QUEUE)
        return false;
    q->data[(q->head + q->count++) % PS2_QUEUE] = byte;
    return true;
}

static u8 pop(struct ps2_queue *q)
{
    u8 byte = q->data[q->head];

    q->head = (q->head + 1) % PS2_QUEUE;
    q->count--;
    return byte;
}

static void clear(struct ps2_queue *q)
{
    q->head = q->count = 0;
}

/* --- output buffer --- */

static void update_irq(struct i8042 *k)
{
    irq_set(&k->keyboard_irq, k->full && !k->from_mouse && (k->ram[0] & MODE_KEYBOARD_IRQ));
    irq_set(&k->mouse_irq, k->full && k->from_mouse && (k->ram[0] & MODE_MOUSE_IRQ));
}

static void put(struct i8042 *k, u8 byte, bool from_mouse)
{
    k->data = byte;
    k->from_mouse = from_mouse;
    k->full = true;
}

/* The next byte of the keyboard; false when it is a prefix that translation swallows. */
static bool put_keyboard_byte(struct i8042 *k)
{
    u8 byte = k->keyboard.last = pop(&k->keyboard.queue);

    if (k->ram[0] & MODE_TRANSLATE) {
        if (byte == KBD_BREAK) {
            k->key_release = true;
            return false;
        }
        if (byte < sizeof translation)
            byte = translation[byte] | (k->key_release ? 0x80 : 0);
        k->key_release = false;
    }
    put(k, byte, false);
    return true;
}

static void fill(struct i8042 *k)
{
    if (!k->full && k->replies.count)
        put(k, pop(&k->replies), false);
    if (!k->full && k->aux_replies.count)
        put(k, pop(&k->aux_replies), true);
    while (!k->full && k->keyboard.queue.count && !(k->ram[0] & MODE_KEYBOARD_OFF))
        if (put_keyboard_byte(k))
            break;
    if (!k->full && k->mouse.queue.count && !(k->ram[0] & MODE_MOUSE_OFF)) {
        k->mouse.last = pop(&k->mouse.queue);
        put(k, k->mouse.last, true);
    }
    update_irq(k);
}

/* --- keyboard --- */

static void keyboard_defaults(struct ps2_keyboard *kb)
{
    kb->pending = 0;
    kb->leds = 0;
    kb->rate = 0x2b; /* 10.9 a second after 500 ms */
    kb->set = 2;
}

static void keyboard_parameter(struct ps2_keyboard *kb, u8 value)
{
    u8 command = kb->pending;

    kb->pending = 0;
    push(&kb->queue, PS2_ACK);
    switch (command) {
    case KBD_SET_LEDS: kb->leds = value & 7; break;
    case KBD_RATE: kb->rate = value & 0x7f; break;
    case KBD_SCAN_SET:
        if (!value)
            push(&kb->queue, kb->set);
        else if (value <= 3)
            kb->set = value;
        break;
    default: break; /* types of single keys, in set 3 */
    }
}

static void keyboard_command(struct ps2_keyboard *kb, u8 command)
{
    /* A command byte where a parameter was due starts anew. */
    if (kb->pending && command < KBD_SET_LEDS) {
        keyboard_parameter(kb, command);
        return;
    }
    kb->pending = 0;
    switch (command) {
    case KBD_ECHO: push(&kb->queue, KBD_ECHO); break;
    case KBD_SET_LEDS:
    case KBD_SCAN_SET:
    case KBD_RATE:
    case 0xfb:
    case 0xfc:
    case 0xfd:
        kb->pending = command;
        push(&kb->queue, PS2_ACK);
        break;
    case KBD_IDENTIFY:
        push(&kb->queue, PS2_ACK);
        push(&kb->queue, 0xab);
        push(&kb->queue, 0x83);
        break;
    case KBD_ENABLE:
    case KBD_DISABLE:
    case KBD_DEFAULTS:
        clear(&kb->queue);
        if (command != KBD_ENABLE)
            keyboard_defaults(kb);
        if (command != KBD_DEFAULTS)
            kb->scanning = command == KBD_ENABLE;
        push(&kb->queue, PS2_ACK);
        break;
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa: push(&kb->queue, PS2_ACK); break; /* types of all keys, in set 3 */
    case KBD_RESEND: push(&kb->queue, kb->last); break;
    case KBD_RESET:
        clear(&kb->queue);
        keyboard_defaults(kb);
        kb->scanning = true;
        push(&kb->queue, PS2_ACK);
        push(&kb->queue, PS2_SELF_TEST_OK);
        break;
    default: push(&kb->queue, PS2_RESEND); break;
    }
}

/* --- mouse --- */

static void mouse_defaults(struct ps2_mouse *ms)
{
    ms->pending = 0;
    ms->resolution = 2; /* 4 counts per mm */
    ms->rate = 100;
    ms->reporting = ms->remote = ms->wrap = ms->scale_2_1 = false;
}

static void mouse_status(struct ps2_mouse *ms)
{
    push(&ms->queue, PS2_ACK);
    push(&ms->queue, (ms->remote ? 0x40 : 0) | (ms->reporting ? 0x20 : 0) | (ms->scale_2_1 ? 0x10 : 0));
    push(&ms->queue, ms->resolution);
    push(&ms->queue, ms->rate);
}

/* A packet that says: no button, no movement. */
static void mouse_packet(struct ps2_mouse *ms)
{
    push(&ms->queue, PS2_ACK);
    push(&ms->queue, 0x08);
    push(&ms->queue, 0);
    push(&ms->queue, 0);
}

static void mouse_parameter(struct ps2_mouse *ms, u8 value)
{
    if (ms->pending == MOUSE_RATE)
        ms->rate = value;
    else
        ms->resolution = value & 3;
    ms->pending = 0;
    push(&ms->queue, PS2_ACK);
}

/* Switches one of the mouse's modes; false when @command is none of these. */
static bool mouse_mode(struct ps2_mouse *ms, u8 command)
{
    switch (command) {
    case MOUSE_SCALE_1_1: ms->scale_2_1 = false; return true;
    case MOUSE_SCALE_2_1: ms->scale_2_1 = true; return true;
    case MOUSE_STREAM: ms->remote = false; return true;
    case MOUSE_REMOTE: ms->remote = true; return true;
    case MOUSE_WRAP_OFF: ms->wrap = false; return true;
    case MOUSE_WRAP_ON: ms->wrap = true; return true;
    case MOUSE_ENABLE: ms->reporting = true; return true;
    case MOUSE_DISABLE: ms->reporting = false; return true;
    case MOUSE_DEFAULTS: mouse_defaults(ms); return true;
    case MOUSE_RESOLUTION:
    case MOUSE_RATE: ms->pending = command; return true;
    default: return false;
    }
}

static void mouse_command(struct ps2_mouse *ms, u8 command)
{
    if (ms->wrap && command != MOUSE_WRAP_OFF && command != MOUSE_RESET) {
        push(&ms->queue, command);
        return;
    }
    if (ms->pending) {
        mouse_parameter(ms, command);
        return;
    }
    if (mouse_mode(ms, command)) {
        push(&ms->queue, PS2_ACK);
        return;
    }
    switch (command) {
    case MOUSE_STATUS: mouse_status(ms); break;
    case MOUSE_READ: mouse_packet(ms); break;
    case MOUSE_IDENTIFY:
        push(&ms->queue, PS2_ACK);
        push(&ms->queue, 0x00);
        break;
    case MOUSE_RESEND: push(&ms->queue, ms->last); break;
    case MOUSE_RESET:
        clear(&ms->queue);
        mouse_defaults(ms);
        push(&ms->queue, PS2_ACK);
        push(&ms->queue, PS2_SELF_TEST_OK);
        push(&ms->queue, 0x00);
        break;
    default: push(&ms->queue, PS2_RESEND); break;
    }
}

/* --- controller --- */

static void reset_machine(struct i8042 *k)
{
    trace(power, "reset by the keyboard controller");
    lifecycle_request(k->lifecycle, LIFECYCLE_RESET, 0);
}

static u8 read_output_port(const struct i8042 *k)
{
    u8 value = k->output_port;

    if (k->full)
        value |= k->from_mouse ? PORT_MOUSE_FULL : PORT_KEYBOARD_FULL;
    return value;
}

static void controller_command(struct i8042 *k, u8 command)
{
    k->pending = 0;
    k->last_was_command = true;
    switch (command) {
    case CMD_READ_RAM ... CMD_READ_RAM + 0x1f: push(&k->replies, k->ram[command & 0x1f]); break;
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
    case CMD_WRITE_OUTPUT_PORT:
    case CMD_KEYBOARD_ECHO:
    case CMD_MOUSE_ECHO:
    case CMD_TO_MOUSE: k->pending = command; break;
    case CMD_PASSWORD: push(&k->replies, 0xf1); break; /* none is installed */
    case CMD_MOUSE_OFF: k->ram[0] |= MODE_MOUSE_OFF; break;
    case CMD_MOUSE_ON: k->ram[0] &= ~MODE_MOUSE_OFF; break;
    case CMD_KEYBOARD_OFF: k->ram[0] |= MODE_KEYBOARD_OFF; break;
    case CMD_KEYBOARD_ON: k->ram[0] &= ~MODE_KEYBOARD_OFF; break;
    case CMD_MOUSE_TEST:
    case CMD_KEYBOARD_TEST: push(&k->replies, 0x00); break;
    case CMD_SELF_TEST:
        k->ram[0] |= MODE_SYSTEM;
        push(&k->replies, 0x55);
        break;
    case CMD_READ_INPUT_PORT: push(&k->replies, INPUT_UNLOCKED); break;
    case CMD_READ_OUTPUT_PORT: push(&k->replies, read_output_port(k)); break;
    case CMD_READ_TEST: push(&k->replies, 0x00); break;
    case CMD_PULSE ... 0xff:
        if (!(command & PORT_RESET))
            reset_machine(k);
        break;
    default: log_guest("i8042: unknown command %#x", command); break;
    }
}

static void controller_data(struct i8042 *k, u8 command, u8 value)
{
    switch (command) {
    case CMD_WRITE_OUTPUT_PORT:
        k->output_port = (value & PORT_A20) | PORT_RESET;
        if (!(value & PORT_RESET))
            reset_machine(k);
        break;
    case CMD_KEYBOARD_ECHO: push(&k->replies, value); break;
    case CMD_MOUSE_ECHO: push(&k->aux_replies, value); break;
    case CMD_TO_MOUSE: mouse_command(&k->mouse, value); break;
    default: k->ram[command & 0x1f] = value; break;
    }
}

static u64 data_read(struct io_region *r, u64 offset, unsigned size)
{
    struct i8042 *k = container_of(r, struct i8042, data_region);
    u8 value = k->data;

    k->full = false;
    update_irq(k); /* the line falls before the next byte raises it again */
    fill(k);
    return value;
}

static void data_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct i8042 *k = container_of(r, struct i8042, data_region);
    u8 command = k->pending;

    k->last_was_command = false;
    k->pending = 0;
    if (command) {
        controller_data(k, command, value);
    } else {
        k->ram[0] &= ~MODE_KEYBOARD_OFF; /* sending to the keyboard turns its interface on */
        keyboard_command(&k->keyboard, value);
    }
    fill(k);
}

static const struct io_ops data_ops = {.read = data_read, .write = data_write, .min_size = 1, .max_size = 1};

static u64 status_read(struct io_region *r, u64 offset, unsigned size)
{
    const struct i8042 *k = container_of(r, struct i8042, command_region);

    return STATUS_UNLOCKED | (k->full ? STATUS_FULL : 0) | (k->full && k->from_mouse ? STATUS_MOUSE : 0) |
           (k->ram[0] & MODE_SYSTEM ? STATUS_SYSTEM : 0) | (k->last_was_command ? STATUS_COMMAND : 0);
}

static void command_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct i8042 *k = container_of(r, struct i8042, command_region);

    controller_command(k, value);
    fill(k);
}

static const struct io_ops command_ops = {
    .read = status_read, .write = command_write, .min_size = 1, .max_size = 1};

bool i8042_key(struct i8042 *k, u8 scancode)
{
    bool taken = k->keyboard.scanning && push(&k->keyboard.queue, scancode);

    fill(k);
    return taken;
}

/* --- life cycle --- */

static void i8042_reset(struct device *dev)
{
    struct i8042 *k = dev->object;

    memset(k->ram, 0, sizeof k->ram);
    k->ram[0] = MODE_RESET;
    k->pending = 0;
    k->output_port = PORT_RESET | PORT_A20;
    k->full = k->from_mouse = k->last_was_command = k->key_release = false;
    k->keyboard = (struct ps2_keyboard){.scanning = true};
    keyboard_defaults(&k->keyboard);
    k->mouse = (struct ps2_mouse){.rate = 0};
    mouse_defaults(&k->mouse);
    clear(&k->replies);
    clear(&k->aux_replies);
    update_irq(k);
}

static bool queue_valid(const struct ps2_queue *q)
{
    return q->head < PS2_QUEUE && q->count <= PS2_QUEUE;
}

static int i8042_post_load(void *object, unsigned version, struct error *err)
{
    struct i8042 *k = object;

    if (!queue_valid(&k->replies) || !queue_valid(&k->aux_replies) || !queue_valid(&k->keyboard.queue) ||
        !queue_valid(&k->mouse.queue))
        return error_set(err, EINVAL, "i8042: queue position out of range");
    update_irq(k);
    return 0;
}

static const struct field queue_fields[] = {
    FIELD_ARRAY(struct ps2_queue, data),
    FIELD(struct ps2_queue, head),
    FIELD(struct ps2_queue, count),
    FIELD_END,
};
static const struct state_desc queue_state = {.name = "ps2-queue", .version = 1, .fields = queue_fields};

static const struct field keyboard_fields[] = {
    FIELD_STRUCT(struct ps2_keyboard, queue, queue_state),
    FIELD(struct ps2_keyboard, pending),
    FIELD(struct ps2_keyboard, leds),
    FIELD(struct ps2_keyboard, rate),
    FIELD(struct ps2_keyboard, set),
    FIELD(struct ps2_keyboard, last),
    FIELD(struct ps2_keyboard, scanning),
    FIELD_END,
};
static const struct state_desc keyboard_state = {
    .name = "ps2-keyboard", .version = 1, .fields = keyboard_fields};

static const struct field mouse_fields[] = {
    FIELD_STRUCT(struct ps2_mouse, queue, queue_state),
    FIELD(struct ps2_mouse, pending),
    FIELD(struct ps2_mouse, resolution),
    FIELD(struct ps2_mouse, rate),
    FIELD(struct ps2_mouse, last),
    FIELD(struct ps2_mouse, reporting),
    FIELD(struct ps2_mouse, remote),
    FIELD(struct ps2_mouse, wrap),
    FIELD(struct ps2_mouse, scale_2_1),
    FIELD_END,
};
static const struct state_desc mouse_state = {.name = "ps2-mouse", .version = 1, .fields = mouse_fields};

static const struct field i8042_fields[] = {
    FIELD_ARRAY(struct i8042, ram),
    FIELD(struct i8042, pending),
    FIELD(struct i8042, output_port),
    FIELD(struct i8042, data),
    FIELD(struct i8042, full),
    FIELD(struct i8042, from_mouse),
    FIELD(struct i8042, last_was_command),
    FIELD(struct i8042, key_release),
    FIELD_STRUCT(struct i8042, replies, queue_state),
    FIELD_STRUCT(struct i8042, aux_replies, queue_state),
    FIELD_STRUCT(struct i8042, keyboard, keyboard_state),
    FIELD_STRUCT(struct i8042, mouse, mouse_state),
    FIELD_END,
};
static const struct state_desc i8042_state = {
    .name = "i8042", .version = 1, .fields = i8042_fields, .post_load = i8042_post_load};

int i8042_init(struct i8042 *k, struct memory *m, struct irq_line keyboard_irq, struct irq_line mouse_irq,
               struct lifecycle *lifecycle, struct error *err)
{
    int ret;

    *k = (struct i8042){
        .dev = {.name = "i8042", .state = &i8042_state, .object = k, .reset = i8042_reset},
        .keyboard_irq = keyboard_irq,
        .mouse_irq = mouse_irq,
        .lifecycle = lifecycle,
        .memory = m,
    };
    io_region_init(&k->data_region, "i8042-data", &data_ops, 1);
    io_region_init(&k->command_region, "i8042-command", &command_ops, 1);
    ret = memory_map_pio(m, &k->data_region, 0x60, err);
    if (ret)
        return ret;
    ret = memory_map_pio(m, &k->command_region, 0x64, err);
    if (ret) {
        memory_unmap(m, &k->data_region);
        return ret;
    }
    i8042_reset(&k->dev);
    return 0;
}

void i8042_release(struct i8042 *k)
{
    memory_unmap(k->memory, &k->command_region);
    memory_unmap(k->memory, &k->data_region);
}
