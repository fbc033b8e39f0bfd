#include "machine/acpi.h"

#include <errno.h>
#include <stdio.h>

#include "hw/acpi-pm.h"
#include "hw/apic.h"
#include "hw/hpet.h"
#include "hw/ioapic.h"
#include "hw/pci-host.h"
#include "hw/reset-port.h"
#include "machine/acpi-internal.h"
#include "machine/memory-map.h"

#define OEM_ID "TRAPEZ"
#define OEM_TABLE_ID "TRAPEZE "
#define CREATOR_ID "TRPZ"
#define HEADER_SIZE 36

/* FADT flags (5.2.9, table 5.10) */
#define FADT_WBINVD BIT(0)
#define FADT_PROC_C1 BIT(2)
#define FADT_SLP_BUTTON BIT(5) /* no fixed sleep button */
#define FADT_FIX_RTC BIT(6)    /* the RTC's wake status is not in PM1 */
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_RESET_REG_SUP BIT(10)

/* IA-PC boot architecture (table 5.11) */
#define IAPC_LEGACY_DEVICES BIT(0)
#define IAPC_8042 BIT(1)
#define IAPC_NO_VGA BIT(2)
#define IAPC_NO_ASPM BIT(4)

#define CMOS_CENTURY 0x32

/* The image grows in a byte buffer; a table is patched once all is in place. */
struct builder {
    struct acpi_tables *t;
    const struct acpi_config *config;
    u32 cap;
};

#define IMAGE_MAX ((u32)(MAP_FIRMWARE_TABLES_END - MAP_FIRMWARE_TABLES))

static u8 checksum(const u8 *p, u32 len)
{
    u8 sum = 0;

    while (len--)
        sum = (u8)(sum + *p++);
    return (u8)-sum;
}

/* @len zero bytes for the table @name at a multiple of @align. */
static u8 *reserve(struct builder *b, const char *name, u32 len, u32 align)
{
    struct acpi_tables *t = b->t;
    u32 at = ALIGN_UP(t->len, align);

    BUG_ON(at + len > b->cap || t->count == ACPI_MAX_TABLES);
    snprintf(t->table[t->count].name, sizeof t->table[0].name, "%s", name);
    t->table[t->count].offset = at;
    t->table[t->count].len = len;
    t->count++;
    t->len = at + len;
    return t->image + at;
}

static u64 address_of(const struct builder *b, const u8 *p)
{
    return b->t->base + (u64)(p - b->t->image);
}

/* Signatures and ids have no terminating zero. */
static void put_text(u8 *p, const char *text, unsigned len)
{
    while (len--)
        *p++ = (u8)*text++;
}

/* The common header (5.2.6) of a table of @len bytes. */
static u8 *begin_table(struct builder *b, const char *signature, u8 revision, u32 len)
{
    u8 *p = reserve(b, signature, len, 16);

    put_text(p, signature, 4);
    put_le32(p + 4, len);
    p[8] = revision;
    put_text(p + 10, OEM_ID, 6);
    put_text(p + 16, OEM_TABLE_ID, 8);
    put_le32(p + 24, 1);
    put_text(p + 28, CREATOR_ID, 4);
    put_le32(p + 32, 1);
    return p;
}

static void end_table(u8 *p)
{
    p[9] = 0;
    p[9] = checksum(p, get_le32(p + 4));
}

/* Generic address structure (5.2.3.2); @access: 1 byte, 2 word, 3 dword. */
static void put_gas(u8 *p, bool io, u8 width, u8 access, u64 address)
{
    p[0] = io;
    p[1] = width;
    p[2] = 0;
    p[3] = access;
    put_le64(p + 4, address);
}

/* --- FADT, 5.2.9 --- */

static void fadt_blocks(u8 *p)
{
    put_le32(p + 56, ACPI_PM_BASE + ACPI_PM1_EVENT);
    put_le32(p + 64, ACPI_PM_BASE + ACPI_PM1_CONTROL);
    put_le32(p + 76, ACPI_PM_BASE + ACPI_PM_TIMER);
    put_le32(p + 80, ACPI_PM_BASE + ACPI_PM_GPE0);
    p[88] = ACPI_PM1_EVENT_LEN;
    p[89] = ACPI_PM1_CONTROL_LEN;
    p[91] = 4; /* PM timer */
    p[92] = ACPI_PM_GPE0_LEN;
    put_gas(p + 148, true, ACPI_PM1_EVENT_LEN * 8, 2, ACPI_PM_BASE + ACPI_PM1_EVENT);
    put_gas(p + 172, true, ACPI_PM1_CONTROL_LEN * 8, 2, ACPI_PM_BASE + ACPI_PM1_CONTROL);
    put_gas(p + 208, true, 32, 3, ACPI_PM_BASE + ACPI_PM_TIMER);
    put_gas(p + 220, true, ACPI_PM_GPE0_LEN * 8, 1, ACPI_PM_BASE + ACPI_PM_GPE0);
}

static u8 *build_fadt(struct builder *b, u64 facs, u64 dsdt)
{
    u8 *p = begin_table(b, "FACP", 6, 276);

    put_le32(p + 36, (u32)facs);
    put_le32(p + 40, (u32)dsdt);
    p[45] = 0; /* no preferred power profile */
    put_le16(p + 46, IRQ_SCI);
    put_le32(p + 48, ACPI_PM_SMI_COMMAND);
    p[52] = ACPI_PM_ENABLE;
    p[53] = ACPI_PM_DISABLE;
    fadt_blocks(p);
    put_le16(p + 96, 0xfff); /* C2 and C3 take too long to be of use: not supported */
    put_le16(p + 98, 0xfff);
    p[108] = CMOS_CENTURY;
    put_le16(p + 109, IAPC_LEGACY_DEVICES | IAPC_8042 | IAPC_NO_VGA | IAPC_NO_ASPM);
    put_le32(p + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_VAL_EXT |
                          FADT_RESET_REG_SUP);
    put_gas(p + 116, true, 8, 1, RESET_PORT);
    p[128] = RESET_PORT_VALUE;
    p[131] = 4; /* FADT minor version: 6.4 */
    /* ACPI 6.4 lets systems ignore the 32-bit fields where X_ ones are given; both name the same. */
    put_le64(p + 132, facs);
    put_le64(p + 140, dsdt);
    put_le64(p + 268, 0); /* hypervisor vendor */
    end_table(p);
    return p;
}

/* FACS, 5.2.10: has no checksum. */
static u8 *build_facs(struct builder *b)
{
    u8 *p = reserve(b, "FACS", 64, 64);

    put_text(p, "FACS", 4);
    put_le32(p + 4, 64);
    p[32] = 2;
    return p;
}

/* --- MADT, 5.2.12 --- */

static u8 *madt_lapic(u8 *p, unsigned id)
{
    p[0] = 0;
    p[1] = 8;
    p[2] = (u8)id; /* the _UID of the processor device */
    p[3] = (u8)id;
    put_le32(p + 4, 1); /* enabled */
    return p + 8;
}

static u8 *madt_ioapic(u8 *p, unsigned id)
{
    p[0] = 1;
    p[1] = 12;
    p[2] = (u8)id;
    put_le32(p + 4, IOAPIC_BASE);
    put_le32(p + 8, 0); /* first GSI */
    return p + 12;
}

#define MPS_CONFORMS 0x0
#define MPS_LEVEL_HIGH 0xd

static u8 *madt_override(u8 *p, u8 irq, u32 gsi, u16 flags)
{
    p[0] = 2;
    p[1] = 10;
    p[2] = 0; /* ISA */
    p[3] = irq;
    put_le32(p + 4, gsi);
    put_le16(p + 8, flags);
    return p + 10;
}

/* NMI at LINT1 of all processors. */
static u8 *madt_lapic_nmi(u8 *p)
{
    p[0] = 4;
    p[1] = 6;
    p[2] = 0xff;
    put_le16(p + 3, MPS_CONFORMS);
    p[5] = 1;
    return p + 6;
}

static u8 *build_madt(struct builder *b)
{
    unsigned cpus = b->config->cpus;
    u32 len = HEADER_SIZE + 8 + cpus * 8 + 12 + 2 * 10 + 6;
    u8 *p = begin_table(b, "APIC", 5, len), *at = p + HEADER_SIZE + 8;

    put_le32(p + 36, APIC_DEFAULT_BASE);
    put_le32(p + 40, 1); /* PCAT_COMPAT: there are 8259s as well */
    for (unsigned i = 0; i < cpus; i++)
        at = madt_lapic(at, i);
    at = madt_ioapic(at, 0);
    at = madt_override(at, IRQ_PIT, 2, MPS_CONFORMS);
    at = madt_override(at, IRQ_SCI, IRQ_SCI, MPS_LEVEL_HIGH);
    at = madt_lapic_nmi(at);
    BUG_ON(at != p + len);
    end_table(p);
    return p;
}

/* PCI Firmware Specification 3.3, 4.1.2 */
static u8 *build_mcfg(struct builder *b)
{
    u8 *p = begin_table(b, "MCFG", 1, HEADER_SIZE + 8 + 16);

    put_le64(p + 44, b->config->ecam_base);
    put_le16(p + 52, 0); /* segment */
    p[54] = 0;
    p[55] = (u8)(MAP_ECAM_SIZE / (1 << 20) - 1);
    end_table(p);
    return p;
}

/* IA-PC HPET specification 1.0a, 3.2.4 */
static u8 *build_hpet(struct builder *b)
{
    u8 *p = begin_table(b, "HPET", 1, 56);

    put_le32(p + 36, HPET_ID);
    put_gas(p + 40, false, 64, 0, HPET_BASE);
    p[52] = 0;             /* sequence number */
    put_le16(p + 53, 128); /* least ticks between interrupts of a periodic comparator */
    p[55] = 0;
    end_table(p);
    return p;
}

static u8 *build_dsdt(struct builder *b, struct error *err)
{
    struct aml a;
    u8 *p = NULL;

    aml_init(&a);
    acpi_dsdt(&a, b->config);
    if (aml_finish(&a) == 0) {
        p = begin_table(b, "DSDT", 2, HEADER_SIZE + (u32)a.len);
        memcpy(p + HEADER_SIZE, a.data, a.len);
        end_table(p);
    } else {
        error_set_errno(err, ENOMEM, "cannot build the ACPI tables");
    }
    aml_release(&a);
    return p;
}

/* XSDT, 5.2.8, and RSDT for systems of before ACPI 2.0. */
static u8 *build_root(struct builder *b, bool is_xsdt, const u64 *tables, unsigned count)
{
    unsigned size = is_xsdt ? 8 : 4;
    u8 *p = begin_table(b, is_xsdt ? "XSDT" : "RSDT", 1, HEADER_SIZE + count * size);

    for (unsigned i = 0; i < count; i++)
        memcpy(p + HEADER_SIZE + i * size, &tables[i], size);
    end_table(p);
    return p;
}

/* 5.2.5.3 */
static void fill_rsdp(u8 *p, u64 rsdt, u64 xsdt)
{
    put_text(p, "RSD PTR ", 8);
    put_text(p + 9, OEM_ID, 6);
    p[15] = 2;
    put_le32(p + 16, (u32)rsdt);
    put_le32(p + 20, 36);
    put_le64(p + 24, xsdt);
    p[8] = checksum(p, 20);
    p[32] = checksum(p, 36);
}

int acpi_build(struct acpi_tables *t, const struct acpi_config *config, u64 base, struct error *err)
{
    struct builder b = {.t = t, .config = config, .cap = IMAGE_MAX};
    u64 tables[4];
    u8 *rsdp, *facs, *dsdt;

    BUG_ON(base % 64);
    *t = (struct acpi_tables){.base = base};
    t->image = calloc(1, IMAGE_MAX);
    if (!t->image)
        return error_set_errno(err, ENOMEM, "cannot build the ACPI tables");

    rsdp = reserve(&b, "RSDP", 36, 64);
    facs = build_facs(&b);
    dsdt = build_dsdt(&b, err);
    if (!dsdt) {
        acpi_release(t);
        return -ENOMEM;
    }
    tables[0] = address_of(&b, build_fadt(&b, address_of(&b, facs), address_of(&b, dsdt)));
    tables[1] = address_of(&b, build_madt(&b));
    tables[2] = address_of(&b, build_mcfg(&b));
    tables[3] = address_of(&b, build_hpet(&b));
    u64 rsdt = address_of(&b, build_root(&b, false, tables, ARRAY_SIZE(tables)));
    u64 xsdt = address_of(&b, build_root(&b, true, tables, ARRAY_SIZE(tables)));
    fill_rsdp(rsdp, rsdt, xsdt);
    return 0;
}

void acpi_release(struct acpi_tables *t)
{
    free(t->image);
    *t = (struct acpi_tables){0};
}

int acpi_dump(const struct acpi_tables *t, const char *dir, struct error *err)
{
    for (unsigned i = 0; i < t->count; i++) {
        char path[4096];
        FILE *f;
        bool ok;

        snprintf(path, sizeof path, "%s/%s.dat", dir, t->table[i].name);
        f = fopen(path, "we");
        if (!f)
            return error_set_errno(err, errno, "cannot write '%s'", path);
        ok = fwrite(t->image + t->table[i].offset, 1, t->table[i].len, f) == t->table[i].len;
        if (fclose(f) || !ok)
            return error_set_errno(err, EIO, "cannot write '%s'", path);
    }
    return 0;
}
