#include "machine/firmware.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hw/firmware-rom.h"
#include "machine/memory-map.h"

static const char *const bios_paths[] = {"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin"};

int firmware_read(struct blob *b, const char *name, struct error *err)
{
    const char *path = name;

    if (!strcmp(name, "bios")) {
        path = NULL;
        for (unsigned i = 0; !path && i < ARRAY_SIZE(bios_paths); i++)
            if (access(bios_paths[i], R_OK) == 0)
                path = bios_paths[i];
        if (!path)
            return error_set(err, ENOENT,
                             "no firmware to boot from a disk: install the package 'seabios', or give "
                             "--firmware FILE or --kernel FILE");
    }
    int r = blob_read(b, "firmware", path, FIRMWARE_ROM_MAX, err);
    if (r == -EFBIG)
        return error_set(err, EFBIG, "firmware '%s' is larger than %u MiB", path, FIRMWARE_ROM_MAX >> 20);
    if (r)
        return r;
    if (b->size % FIRMWARE_ROM_MIN == 0)
        return 0;
    blob_release(b);
    return error_set(err, EINVAL, "firmware '%s': its size is no multiple of 64 KiB", path);
}

/* --- the script by which firmware places and links tables (QEMU, hw/acpi/bios-linker-loader.c) --- */

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE "etc/acpi/rsdp"
#define RSDP_SIZE 36

enum { ALLOCATE = 1, ADD_POINTER = 2, ADD_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_F_SEGMENT = 2 };

/* One command of 128 bytes. */
struct PACKED command {
    u32 what;
    char file[FW_CFG_NAME];
    union {
        struct PACKED {
            u32 align;
            u8 zone;
        } allocate;
        struct PACKED {
            char source[FW_CFG_NAME];
            u32 offset;
            u8 size;
        } pointer;
        struct PACKED {
            u32 offset, start, len;
        } checksum;
        u8 pad[68];
    };
};

#define COMMANDS_MAX 64

struct script {
    struct command command[COMMANDS_MAX];
    unsigned count;
};

static struct command *add(struct script *s, u32 what, const char *file)
{
    BUG_ON(s->count == COMMANDS_MAX);
    struct command *c = &s->command[s->count++];
    *c = (struct command){.what = what};
    snprintf(c->file, sizeof c->file, "%s", file);
    return c;
}

static void allocate(struct script *s, const char *file, u32 align, u8 zone)
{
    struct command *c = add(s, ALLOCATE, file);
    c->allocate.align = align;
    c->allocate.zone = zone;
}

/* The @size bytes at @offset of @file are an offset in the tables and become an address. */
static void add_pointer(struct script *s, const char *file, u32 offset, u8 size)
{
    struct command *c = add(s, ADD_POINTER, file);
    snprintf(c->pointer.source, sizeof c->pointer.source, TABLES_FILE);
    c->pointer.offset = offset;
    c->pointer.size = size;
}

static void add_checksum(struct script *s, const char *file, u32 offset, u32 start, u32 len)
{
    struct command *c = add(s, ADD_CHECKSUM, file);
    c->checksum.offset = offset;
    c->checksum.start = start;
    c->checksum.len = len;
}

/* Pointers in the table, then its checksum. */
static void link_table(struct script *s, const struct acpi_table *t)
{
    enum { HEADER = 36, CHECKSUM = 9 };
    unsigned entry = !strcmp(t->name, "RSDT") ? 4 : !strcmp(t->name, "XSDT") ? 8 : 0;

    if (!strcmp(t->name, "FACP")) {
        add_pointer(s, TABLES_FILE, t->offset + 36, 4); /* FIRMWARE_CTRL, DSDT and their 64-bit twins */
        add_pointer(s, TABLES_FILE, t->offset + 40, 4);
        add_pointer(s, TABLES_FILE, t->offset + 132, 8);
        add_pointer(s, TABLES_FILE, t->offset + 140, 8);
    } else if (!entry) {
        return;
    }
    for (u32 at = HEADER; entry && at < t->len; at += entry)
        add_pointer(s, TABLES_FILE, t->offset + at, (u8)entry);
    add_checksum(s, TABLES_FILE, t->offset + CHECKSUM, t->offset, t->len);
}

static int add_acpi(struct fw_cfg *f, const struct acpi_tables *acpi, struct error *err)
{
    struct script s = {.count = 0};

    allocate(&s, RSDP_FILE, 16, ZONE_F_SEGMENT);
    allocate(&s, TABLES_FILE, 64, ZONE_HIGH);
    for (unsigned i = 0; i < acpi->count; i++)
        link_table(&s, &acpi->table[i]);
    add_pointer(&s, RSDP_FILE, 16, 4);
    add_pointer(&s, RSDP_FILE, 24, 8);
    add_checksum(&s, RSDP_FILE, 8, 0, 20);
    add_checksum(&s, RSDP_FILE, 32, 0, RSDP_SIZE);
    int r = fw_cfg_add_file(f, RSDP_FILE, acpi->image, RSDP_SIZE, err);
    if (!r)
        r = fw_cfg_add_file(f, TABLES_FILE, acpi->image, acpi->len, err);
    if (!r)
        r = fw_cfg_add_file(f, "etc/table-loader", s.command, s.count * (u32)sizeof s.command[0], err);
    return r;
}

static int add_smbios(struct fw_cfg *f, const struct smbios *s, struct error *err)
{
    int r = fw_cfg_add_file(f, "etc/smbios/smbios-anchor", s->image, SMBIOS_ENTRY_SIZE, err);
    if (!r)
        r = fw_cfg_add_file(f, "etc/smbios/smbios-tables", s->image + SMBIOS_TABLES_AT,
                            s->len - SMBIOS_TABLES_AT, err);
    return r;
}

int firmware_fill(struct fw_cfg *f, const struct firmware_config *config, struct error *err)
{
    u8 port[8] = {0}, wait[2] = {0};
    int r = config->acpi ? add_acpi(f, config->acpi, err) : 0;

    put_le16(port, PORT_COM1);
    if (!r)
        r = add_smbios(f, config->smbios, err);
    if (!r && config->serial_console)
        r = fw_cfg_add_file(f, "etc/sercon-port", port, sizeof port, err);
    if (!r)
        r = fw_cfg_add_file(f, "etc/show-boot-menu", wait, sizeof wait, err);
    if (!r && config->boot_order[0])
        r = fw_cfg_add_file(f, "bootorder", config->boot_order, (u32)strlen(config->boot_order) + 1, err);
    return r;
}
