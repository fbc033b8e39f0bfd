/*
 * The PCI host of a Q35 machine: configuration mechanism 1 at 0xcf8/0xcfc (PCI 3.0, 3.2.2.3.2), ECAM
 * (PCI Express 4.0, 7.2.2), the host bridge 8086:29c0 at 00:00.0 with PCIEXBAR, and the ICH9 LPC
 * bridge 8086:2918 at 00:1f.0 with PIRQ routing, RCBA and a PMBASE that says where the board put its
 * ACPI registers. Firmware knows exactly these.
 *
 * Interrupts: pin P (0 = INTA#) of device D drives PIRQ (D + P) & 3, which is GSI 16 + that (level),
 * and the ISA interrupt that the LPC bridge's PIRQ routing register names, if enabled.
 */
#ifndef TRAPEZE_HW_PCI_HOST_H
#define TRAPEZE_HW_PCI_HOST_H

#include "hw/pci.h"

#define PCI_ADDRESS_PORT 0xcf8
#define PCI_DATA_PORT 0xcfc
#define PCI_PIRQ_GSI 16
#define PCI_LPC_DEVFN PCI_DEVFN(31, 0)
#define PCI_LPC_PMBASE 0x40
#define PCI_LPC_ACPI_CNTL 0x44
#define PCI_LPC_PIRQ_ROUTE 0x60 /* A..D; E..H at 0x68 */
#define PCI_LPC_RCBA 0xf0
#define PCI_BRIDGE_PCIEXBAR 0x60

/* Address windows that pci_assign_resources() places BARs in; ends are exclusive. */
struct pci_windows {
    u32 mmio_base;
    u64 mmio_end;            /* up to 4 GiB */
    u64 high_base, high_end; /* for 64-bit BARs that do not fit below 4 GiB; may be empty */
    u32 io_base, io_end;
    u64 ecam_base; /* where firmware puts PCIEXBAR: 256 MiB aligned */
};

/* What the host is connected to. Lines, sink and regions may be empty. */
struct pci_host_wiring {
    struct pci_windows windows;
    struct irq_line isa_irq[16]; /* for PIRQ routing in the time of the 8259s */
    struct irq_line gsi[4];      /* GSI 16..19 */
    struct msi_sink msi;
    u16 pm_base;             /* where the board mapped the ACPI registers */
    struct io_region *reset; /* serves 1-byte accesses of 0xcf9: it lies within CONFIG_ADDRESS */
};

struct pci_host {
    struct pci_bus bus;
    struct pci_function bridge, lpc;
    struct pci_host_wiring wiring;
    struct device dev;
    struct io_region address_io, data_io, ecam, rcba;
    u32 address;      /* CONFIG_ADDRESS */
    u8 pirq_level;    /* bit N: PIRQ N is asserted */
    u16 isa_asserted; /* ISA interrupts driven by PIRQs */
};

/* The board's list gets h->dev, before all other functions of the bus; it covers both bridges. */
int pci_host_init(struct pci_host *h, struct memory *m, const struct pci_host_wiring *w, struct error *err);
void pci_host_release(struct pci_host *h);

/* The GSI of pin @pin (0 = INTA#) of device @slot. */
static inline unsigned pci_host_gsi(unsigned slot, unsigned pin)
{
    return PCI_PIRQ_GSI + ((slot + pin) & 3);
}

/*
 * What firmware does before it starts a kernel: ECAM on, PIRQs routed, every BAR placed and decoded,
 * interrupt lines noted. For direct boot, after reset and once all functions are on the bus. -ENOSPC
 * when a BAR found no room (the others are placed).
 */
int pci_assign_resources(struct pci_host *h, struct error *err);

#endif
