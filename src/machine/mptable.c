#include "machine/mptable.h"

#include <string.h>

#include "hw/apic.h"
#include "hw/ioapic.h"
#include "hw/pci-host.h"
#include "machine/memory-map.h"

#define POINTER_SIZE 16
#define HEADER_SIZE 44
#define LAPIC_VERSION 0x14

enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_IO_INT, ENTRY_LOCAL_INT }; /* 4.3 */
enum { INT_VECTORED, INT_NMI, INT_SMI, INT_EXT };                                 /* table 4-11 */
enum { BUS_PCI, BUS_ISA };

#define ALL_LAPICS 0xff
#define IOAPIC_ID 0
#define CONFORMS 0x0
#define LEVEL_HIGH 0xd /* table 4-10: trigger and polarity */
#define LEVEL_LOW 0xf

struct builder {
    struct mptable *t;
    u16 entries;
};

static u8 *append(struct builder *b, u8 type, u32 len)
{
    u8 *p = b->t->image + b->t->len;

    BUG_ON(len > MPTABLE_MAX - b->t->len);
    b->t->len += len;
    b->entries++;
    p[0] = type;
    return p;
}

static void processor(struct builder *b, unsigned id, u32 version, u32 features)
{
    u8 *p = append(b, ENTRY_PROCESSOR, 20);

    p[1] = (u8)id;
    p[2] = LAPIC_VERSION;
    p[3] = id == 0 ? 3 : 1; /* enabled; the first one boots */
    put_le32(p + 4, version & 0xfff);
    put_le32(p + 8, features);
}

/* @name: six characters, filled up with spaces. */
static void bus(struct builder *b, u8 id, const char *name)
{
    u8 *p = append(b, ENTRY_BUS, 8);

    p[1] = id;
    for (unsigned i = 0; i < 6; i++)
        p[2 + i] = (u8)name[i];
}

static void ioapic(struct builder *b, u8 version)
{
    u8 *p = append(b, ENTRY_IOAPIC, 8);

    p[1] = IOAPIC_ID;
    p[2] = version;
    p[3] = 1; /* enabled */
    put_le32(p + 4, IOAPIC_BASE);
}

static void interrupt(struct builder *b, u8 entry, u8 type, u16 flags, u8 source_bus, u8 source, u8 dest,
                      u8 pin)
{
    u8 *p = append(b, entry, 8);

    p[1] = type;
    put_le16(p + 2, flags);
    p[4] = source_bus;
    p[5] = source;
    p[6] = dest;
    p[7] = pin;
}

/* ISA interrupt N is pin N, but the timer is pin 2, where the cascade would be. */
static void isa_interrupts(struct builder *b)
{
    for (u8 irq = 0; irq < 16; irq++) {
        if (irq != 2)
            interrupt(b, ENTRY_IO_INT, INT_VECTORED, irq == IRQ_SCI ? LEVEL_HIGH : CONFORMS, BUS_ISA, irq,
                      IOAPIC_ID, irq == IRQ_PIT ? 2 : irq);
    }
}

/* The source of a PCI interrupt is its device number and its pin (appendix D.3). */
static void pci_interrupts(struct builder *b)
{
    for (unsigned slot = 1; slot < 31; slot++)
        for (unsigned pin = 0; pin < 4; pin++)
            interrupt(b, ENTRY_IO_INT, INT_VECTORED, LEVEL_LOW, BUS_PCI, (u8)(slot << 2 | pin), IOAPIC_ID,
                      (u8)pci_host_gsi(slot, pin));
}

static u8 checksum(const u8 *p, u32 len)
{
    u8 sum = 0;

    while (len--)
        sum = (u8)(sum + *p++);
    return (u8)-sum;
}

/* 4.1; the signature and the names have no terminating zero. */
static void floating_pointer(u8 *p, u64 config)
{
    put_le32(p, 0x5f504d5f); /* "_MP_" */
    put_le32(p + 4, (u32)config);
    p[8] = 1; /* length in units of 16 bytes */
    p[9] = 4; /* version 1.4 */
    p[10] = checksum(p, POINTER_SIZE);
}

/* 4.2 */
static void header(struct builder *b)
{
    static const char names[] = "TRAPEZE Trapeze PC  ";
    u8 *p = b->t->image + POINTER_SIZE;

    put_le32(p, 0x504d4350); /* "PCMP" */
    put_le16(p + 4, (u16)(b->t->len - POINTER_SIZE));
    p[6] = 4;
    for (unsigned i = 0; i < sizeof names - 1; i++)
        p[8 + i] = (u8)names[i];
    put_le16(p + 34, b->entries);
    put_le32(p + 36, APIC_DEFAULT_BASE);
    p[7] = checksum(p, b->t->len - POINTER_SIZE);
}

void mptable_build(struct mptable *t, u64 base, unsigned cpus, u32 version, u32 features, u8 ioapic_version)
{
    struct builder b = {.t = t};

    memset(t, 0, sizeof *t);
    t->len = POINTER_SIZE + HEADER_SIZE;
    for (unsigned i = 0; i < cpus; i++)
        processor(&b, i, version, features);
    bus(&b, BUS_PCI, "PCI   ");
    bus(&b, BUS_ISA, "ISA   ");
    ioapic(&b, ioapic_version);
    isa_interrupts(&b);
    pci_interrupts(&b);
    interrupt(&b, ENTRY_LOCAL_INT, INT_EXT, CONFORMS, BUS_ISA, 0, 0, 0);
    interrupt(&b, ENTRY_LOCAL_INT, INT_NMI, CONFORMS, BUS_ISA, 0, ALL_LAPICS, 1);
    header(&b);
    floating_pointer(t->image, base + POINTER_SIZE);
}
