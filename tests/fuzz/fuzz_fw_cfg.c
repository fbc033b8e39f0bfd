/*
 * Any sequence of accesses of a guest to the ports of fw_cfg, with DMA descriptors anywhere. What is
 * read must be bytes of the items or zeroes: a canary around each item's bytes shows an overrun to
 * the sanitizer, and the item bytes have bit 7 set where RAM of the guest has it clear.
 */
#include <endian.h>

#include "hw/fw-cfg.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RAM_SIZE (1u << 20)

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

/* An address near the edges of RAM and of the VGA hole more often than not. */
static u64 take_address(struct input *in)
{
    static const u64 base[] = {0, 0x1000, 0x9ff00, 0xa0000, 0xbff00, 0xfff00, 0x100000, ~0ull - 0xff};
    u8 choice = take(in, 1);

    return choice & 0x80 ? take(in, 8) : base[choice & 7] + take(in, 2) % 0x200;
}

static void add_items(struct fw_cfg *f, u8 shape)
{
    u8 bytes[300];

    memset(bytes, 0x81, sizeof bytes);
    for (unsigned i = 0; i < (shape & 7u); i++) {
        char name[8];

        snprintf(name, sizeof name, "f%u", i * 37 % 11);
        fw_cfg_add_file(f, name, bytes, i * 40, NULL);
    }
    fw_cfg_add(f, FW_CFG_CMDLINE_DATA, bytes, shape, NULL);
    fw_cfg_add(f, FW_CFG_E820_TABLE, bytes, 20, NULL);
}

static void do_dma(struct memory *m, struct input *in)
{
    u64 at = take_address(in), address = htobe64(take_address(in));
    u32 control = htobe32((u32)take(in, 1) | (u32)take(in, 2) << 16);
    u32 length = htobe32(take(in, 1) & 1 ? take(in, 4) : take(in, 2) % 1000);

    memory_write(m, at, &control, 4);
    memory_write(m, at + 4, &length, 4);
    memory_write(m, at + 8, &address, 8);
    memory_pio_write(m, FW_CFG_PORT + 4, htobe32(at >> 32), 4);
    memory_pio_write(m, FW_CFG_PORT + 8, htobe32((u32)at), 4);
}

static void step(struct memory *m, struct input *in)
{
    u8 op = take(in, 1);
    u16 port = FW_CFG_PORT + take(in, 1) % FW_CFG_SIZE;
    unsigned bytes = 1u << (op >> 4 & 3) % 3;

    switch (op & 3) {
    case 0: memory_pio_read(m, port, bytes); break;
    case 1: memory_pio_write(m, port, take(in, bytes), bytes); break;
    case 2: memory_pio_write(m, FW_CFG_PORT, take(in, 2), 2); break;
    default: do_dma(m, in); break;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct input in = {data, size};
    struct memory memory;
    struct fw_cfg f;

    if (memory_init(&memory, RAM_SIZE, NULL))
        return 0;
    if (fw_cfg_init(&f, &memory, NULL)) {
        memory_release(&memory);
        return 0;
    }
    add_items(&f, take(&in, 1));
    while (in.len)
        step(&memory, &in);
    fw_cfg_release(&f);
    memory_release(&memory);
    return 0;
}
