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

#define PCI_DEVFN(dev, fn) ((u8)((dev) << 3 | (fn)))
#define PCI_SLOT(devfn) ((devfn) >> 3)

struct pci_function;

/* Bus 0: what the host bridge's decoders and the functions share. Set up by the host bridge. */
struct pci_bus {
    struct memory *memory;
    struct msi_sink msi;
    struct irq_line pirq[4];            /* the wires INTx pins lead to */
    u16 pirq_users[4];                  /* functions that assert each */
    struct pci_function *function[256]; /* by devfn */
};

void pci_bus_init(struct pci_bus *bus, struct memory *m, struct msi_sink msi);

/*
 * A configuration access of the guest to bus 0; any @offset and @size 1, 2 or 4. Where there is no
 * function or no register, reads give all ones and writes vanish.
 */
u32 pci_config_read(struct pci_bus *bus, u8 devfn, unsigned offset, unsigned size);
void pci_config_write(struct pci_bus *bus, u8 devfn, unsigned offset, u32 value, unsigned size);

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
    u8 initial[PCI_CONFIG_SIZE];  /* config as the device built it: taken at the first reset */
    bool built;
    struct pci_bar bar[6];
    u8 cap_next; /* free offset for the next capability */

    /* MSI-X; count 0 when absent */
    u8 msix_cap;
    unsigned msix_count;
    struct pci_msix_entry msix[PCI_MSIX_MAX];
    struct msi_line msix_line[PCI_MSIX_MAX]; /* entries as the bus knows them */
    u64 msix_pending;
    struct io_region msix_region; /* table at 0, PBA at 0x800: one 4 KiB BAR of its own */
    bool intx_level;              /* what the device drives */
    bool intx_driven;             /* what the bus was told */

    /* MSI; 0 when absent */
    u8 msi_cap;
    u32 msi_pending;
};

struct pci_id {
    u16 vendor, device, subsys_vendor, subsys;
    u32 class_code; /* 24 bits: class, subclass, prog-if */
    u8 revision;
};

/*
 * Puts @f at @devfn (dev 0..31) of @bus. The caller then adds BARs and capabilities, and sets
 * f->dev.state and f->dev.object if it has state of its own (pci_function_state nests as its first
 * field), and f->dev.reset if it needs more than pci_function_reset(), which it then calls.
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

/* Gives the function MSI with 64-bit addresses, per-vector masks and up to @count (1..32, a power of two)
 * vectors. */
void pci_add_msi(struct pci_function *f, unsigned count);
bool pci_msi_enabled(const struct pci_function *f);
/* Sends message @n, folded into the vectors the guest granted, or marks it pending while masked. */
void pci_msi_notify(struct pci_function *f, unsigned n);

/* Level of INTA#, routed by the bus. Nothing happens while the guest disabled INTx or enabled MSI or MSI-X.
 */
void pci_set_intx(struct pci_function *f, bool level);

/* May the device do DMA (bus master enable)? */
static inline bool pci_bus_master(const struct pci_function *f)
{
    return f->config[4] & 4;
}

#endif
