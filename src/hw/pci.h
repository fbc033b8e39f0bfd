/*
 * PCI functions and the bus they sit on. The host bridge (hw/pci-host.c) decodes configuration
 * mechanism 1 and ECAM; a function gets its configuration space, BARs, INTx, MSI and MSI-X from
 * here and supplies only behaviour. PCI Local Bus 3.0, PCI Express Base 4.0 (capabilities).
 */
#ifndef TRAPEZE_HW_PCI_H
#define TRAPEZE_HW_PCI_H

#include "hw/device.h"
#include "hw/irq.h"
#include "memory/memory.h"

#define PCI_CONFIG_SIZE 256
#define PCI_MSIX_MAX 64

struct pci_bus;
struct pci_function;

struct pci_function_ops {
    /* Optional: sees config writes after the generic part took them; @offset, @size as written. */
    void (*config_written)(struct pci_function *f, unsigned offset, unsigned size);
    /* Optional: overrides a config read of a vendor-specific capability; returns false to decline. */
    bool (*config_read)(struct pci_function *f, unsigned offset, unsigned size, u32 *value);
};

struct pci_bar {
    struct io_region *region; /* NULL: not implemented. Mapped and unmapped as the guest programs it. */
    bool io, is_64, prefetch;
};

struct pci_msix_entry {
    u64 addr;
    u32 data, control;
};

struct pci_function {
    struct device dev;
    const struct pci_function_ops *ops;
    struct pci_bus *bus;
    u8 devfn; /* device << 3 | function */
    u8 config[PCI_CONFIG_SIZE];
    u8 writable[PCI_CONFIG_SIZE]; /* mask of bits a guest may write */
    u8 w1c[PCI_CONFIG_SIZE];      /* write-one-to-clear bits */
    struct pci_bar bar[6];
    u8 cap_next; /* free offset for the next capability */

    /* MSI-X; count 0 when absent */
    u8 msix_cap;
    unsigned msix_count;
    struct pci_msix_entry msix[PCI_MSIX_MAX];
    u64 msix_pending;
    struct io_region msix_region; /* table at 0, PBA at 0x800: one 4 KiB BAR of its own */
    bool intx_level;
};

struct pci_id {
    u16 vendor, device, subsys_vendor, subsys;
    u32 class_code; /* 24 bits: class, subclass, prog-if */
    u8 revision;
};

/*
 * Puts @f at @devfn (dev 0..31) of @bus. The caller then adds BARs and capabilities, and sets
 * f->dev.state if it has state of its own (pci_function_state nests as its first field).
 */
int pci_function_init(struct pci_function *f, struct pci_bus *bus, u8 devfn, const struct pci_id *id,
                      const struct pci_function_ops *ops, struct error *err);
void pci_function_release(struct pci_function *f);
void pci_function_reset(struct pci_function *f);
extern const struct state_desc pci_function_state;

/* @region's size: a power of two, from 16 bytes (I/O: 4). A 64-bit BAR also takes @index + 1. */
void pci_add_bar(struct pci_function *f, unsigned index, struct io_region *region, bool io, bool is_64,
                 bool prefetch);

/* Appends a capability with @len bytes of which 2 are the header; returns its offset. */
u8 pci_add_capability(struct pci_function *f, u8 id, u8 len);

/* Gives the function @count MSI-X vectors, with table and PBA in BAR @bar. */
void pci_add_msix(struct pci_function *f, unsigned bar, unsigned count);

bool pci_msix_enabled(const struct pci_function *f);
/* Sends vector @n, or marks it pending while masked. Machine lock. */
void pci_msix_notify(struct pci_function *f, unsigned n);

/* Level of INTA#, routed by the bus. Nothing happens while the guest disabled INTx or enabled MSI-X. */
void pci_set_intx(struct pci_function *f, bool level);

/* May the device do DMA (bus master enable)? */
static inline bool pci_bus_master(const struct pci_function *f)
{
    return f->config[4] & 4;
}

#endif
