/*
 * The PCI host of a Q35 machine: configuration mechanism 1 at 0xcf8/0xcfc (PCI 3.0, 3.2.2.3.2), ECAM
 * (PCI Express 4.0, 7.2.2), the host bridge 8086:29c0 at 00:00.0 with PCIEXBAR, and the ICH9 LPC
 * bridge 8086:2918 at 00:1f.0 with PMBASE, PIRQ routing and RCBA. Firmware knows exactly these.
 *
 * The register at 0xcf9 (reset control, ICH9 13.7.5) lies within 0xcf8..0xcfb, so it is served here.
 *
 * Interrupts: pin P (0 = INTA#) of device D drives PIRQ (D + P) & 3, which is GSI 16 + that (level),
 * and the ISA interrupt that the LPC bridge's PIRQ routing register names, if enabled.
 */
#ifndef TRAPEZE_HW_PCI_HOST_H
#define TRAPEZE_HW_PCI_HOST_H

#include "hw/lifecycle.h"
#include "hw/pci.h"

/* Address map below 4 GiB; RAM ends at MEMORY_HOLE_START or before. */
#define PCI_ECAM_BASE 0xc0000000ull
#define PCI_ECAM_SIZE 0x10000000ull /* buses 0..255, of which only bus 0 has functions */
#define PCI_MMIO_BASE 0xd0000000ull
#define PCI_MMIO_END 0xfec00000ull
#define PCI_IO_BASE 0xc000u
#define PCI_IO_END 0x10000u
#define PCI_HIGH_SIZE (32ull << 30) /* the window above RAM: pci_host_high_base() */
#define PCI_PIRQ_GSI 16
#define PCI_LPC_DEVFN 0xf8 /* 00:1f.0 */

/* What the bridges drive. All members may be empty. */
struct pci_host_wiring {
    struct irq_line isa_irq[16]; /* for PIRQ routing in the time of the 8259s */
    struct irq_line gsi[4];      /* GSI 16..19 */
    struct msi_sink msi;
    struct lifecycle *lifecycle; /* 0xcf9 */
    /* PMBASE or its enable bit changed (LPC 0x40, 0x44). */
    void (*pm_base)(void *owner, u16 base, bool enabled);
    void *pm_owner;
};

struct pci_host {
    struct pci_bus bus;
    struct pci_function bridge, lpc;
    struct pci_host_wiring wiring;
    struct device dev; /* CONFIG_ADDRESS and 0xcf9 */
    struct io_region address_io, data_io, ecam, rcba;
    u32 address;      /* CONFIG_ADDRESS */
    u8 reset_control; /* 0xcf9 */
    u8 pirq_level;    /* bit N: PIRQ N is asserted */
    u16 isa_asserted; /* ISA interrupts driven by PIRQs */
};

/* Devices for the board's list: bridge.dev, lpc.dev, dev. */
int pci_host_init(struct pci_host *h, struct memory *m, const struct pci_host_wiring *w, struct error *err);
void pci_host_release(struct pci_host *h);

/* Start of the window for 64-bit BARs above RAM. */
u64 pci_host_high_base(const struct memory *m);

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
