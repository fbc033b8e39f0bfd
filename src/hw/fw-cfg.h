/*
 * fw_cfg: how firmware and kernels get configuration and blobs from the monitor. Ports 0x510
 * (selector, 16 bits), 0x511 (data) and 0x514..0x51b (DMA address, big-endian). Compatible with
 * SeaBIOS, OVMF and Linux's qemu_fw_cfg (docs/specs/fw_cfg of QEMU describes the interface; ACPI
 * device QEMU0002).
 *
 * Items are read-only for the guest. Data that the guest selects but that does not exist reads as
 * zeroes. A DMA descriptor that points outside of RAM is answered with the error bit.
 */
#ifndef TRAPEZE_HW_FW_CFG_H
#define TRAPEZE_HW_FW_CFG_H

#include "hw/device.h"
#include "memory/memory.h"

#define FW_CFG_PORT 0x510
#define FW_CFG_SIZE 12
#define FW_CFG_FILES 64
#define FW_CFG_NAME 56 /* with the terminating 0 */

/* Well-known keys. */
enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH_LOCAL = 0x8000,
    FW_CFG_E820_TABLE = 0x8003,
};

struct fw_cfg_item {
    u8 *data; /* owned */
    u32 len;
};

struct fw_cfg_file {
    char name[FW_CFG_NAME];
    struct fw_cfg_item item;
};

struct fw_cfg {
    struct device dev;
    struct io_region region;
    struct memory *memory;
    struct fw_cfg_item items[2][FW_CFG_FILE_FIRST]; /* generic, and local to the architecture */
    struct fw_cfg_file files[FW_CFG_FILES];         /* sorted by name: file N has key FILE_FIRST + N */
    unsigned file_count;
    struct fw_cfg_item directory; /* made from the files */

    u16 key;
    u32 offset; /* into the selected item */
    u64 dma_addr;
};

/* With signature, id and an empty directory. */
int fw_cfg_init(struct fw_cfg *f, struct memory *m, struct error *err);
void fw_cfg_release(struct fw_cfg *f);

/*
 * Adds or replaces an item; the bytes are copied. Before the guest runs: adding a file moves the
 * keys of those that sort after it. -EINVAL for a key above 0x1f or a name that is too long, -ENOSPC,
 * -ENOMEM.
 */
int fw_cfg_add(struct fw_cfg *f, u16 key, const void *data, u32 len, struct error *err);
int fw_cfg_add_u16(struct fw_cfg *f, u16 key, u16 value, struct error *err);
int fw_cfg_add_u32(struct fw_cfg *f, u16 key, u32 value, struct error *err);
int fw_cfg_add_u64(struct fw_cfg *f, u16 key, u64 value, struct error *err);
int fw_cfg_add_string(struct fw_cfg *f, u16 key, const char *s, struct error *err); /* with its 0 */
int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, u32 len, struct error *err);

#endif
