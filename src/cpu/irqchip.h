/*
 * The seam between interrupt controllers and everything else. Implemented in software by hw/apic.c,
 * hw/ioapic.c and hw/pic.c together. Every function is called with the machine lock held unless it says
 * otherwise.
 *
 * An engine may have chips of its own in the kernel (struct kernel_chips). They work while vCPUs may run,
 * from engine_ops.resume to engine_ops.park: then devices still talk to the chip here, which passes on what
 * is not its own. Whenever vCPUs are parked, the chip here has all state and does all the work, so that
 * whoever saves state or changes engines need not know.
 *
 * A chip that has something for a vCPU calls vcpu_request(): VCPU_REQ_INTERRUPT when a vector may be
 * deliverable (spurious requests are harmless), VCPU_REQ_NMI, VCPU_REQ_INIT, VCPU_REQ_SIPI (after
 * setting vcpu->sipi_vector). It clears VCPU_REQ_INTERRUPT itself when nothing is left.
 */
#ifndef TRAPEZE_CPU_IRQCHIP_H
#define TRAPEZE_CPU_IRQCHIP_H

#include "base/compiler.h"

#define IRQCHIP_PINS 24 /* of the I/O APIC */

struct irqchip;
struct msi_line;
struct vcpu;

/* A local APIC on its way to or from a kernel. Registers stand at their offset in its page. */
struct apic_image {
    u8 page[1024];
    u64 base; /* IA32_APIC_BASE */
    u64 tsc_deadline;
    u64 pv_eoi; /* the MSR */
};

/* An 8259A on its way: registers by their names in its data sheet. */
struct pic_image {
    u8 lines; /* levels at the pins, which nobody but the devices changes */
    u8 irr, imr, isr;
    u8 base;      /* of its vectors */
    u8 highest;   /* the input with the highest priority */
    u8 init_step; /* the ICW expected next is 1 + this; 0: initialized */
    bool icw4;    /* is among the ICWs */
    bool read_isr, poll, special_mask, auto_eoi, rotate_auto_eoi, nested_specially;
    u8 elcr;
};

/* The chips that all processors share. */
struct chips_image {
    struct pic_image pic[2]; /* master, slave */
    u8 select;               /* of the I/O APIC, and so on */
    u8 id;
    u64 redir[IRQCHIP_PINS];
    u32 asserted; /* level-triggered pins */
};

/* Chips in the kernel, between irqchip_ops.set_kernel() and its undoing. Machine lock held. */
struct kernel_chips;
struct kernel_chips_ops {
    /* A message to the local APICs, which are the kernel's. */
    void (*message)(struct kernel_chips *k, u64 addr, u32 data);

    /*
     * Pin @pin of the I/O APIC sends this message when it is level-triggered, and wants to hear when the
     * interrupt ends (irqchip_ops.eoi). May be called for any change of a pin. Only of a kernel that has no
     * I/O APIC.
     */
    void (*level_pin)(struct kernel_chips *k, unsigned pin, u64 addr, u32 data);

    /*
     * A shorter way for a message that a device sends often: an eventfd, or -1 where there is none. close()
     * returns when what was written before is done. Closed in any order, before irqchip_ops.set_kernel(NULL)
     * returns.
     */
    int (*open)(struct kernel_chips *k, u64 addr, u32 data);
    void (*close)(struct kernel_chips *k, int fd);

    /* The level of a line changed. NULL: the I/O APIC and the 8259s are not the kernel's. */
    void (*set_gsi)(struct kernel_chips *k, unsigned gsi, bool level);
};
struct kernel_chips {
    const struct kernel_chips_ops *ops;
};

struct irqchip_ops {
    /* Level of global system interrupt @gsi: 0..15 reach PIC and IOAPIC, the rest the IOAPIC. */
    void (*set_gsi)(struct irqchip *chip, unsigned gsi, bool level);

    /* A write of @data to the MSI address @addr (SDM vol. 3, 11.11). */
    void (*send_msi)(struct irqchip *chip, u64 addr, u32 data);

    /* Such a message (hw/irq.h) was allowed, changed or forbidden by the guest. */
    void (*msi_line)(struct irqchip *chip, struct msi_line *l);

    /*
     * Software engines only (NULL in kernel chips). ack: the vector to deliver now, which becomes in
     * service (local APIC first, else ExtINT from the PIC), or -1 for none; when nothing more is
     * deliverable VCPU_REQ_INTERRUPT of the vCPU is cleared.
     */
    int (*ack)(struct irqchip *chip, struct vcpu *vcpu);

    /* CR8: bits 7:4 of the TPR. */
    u8 (*get_cr8)(struct irqchip *chip, struct vcpu *vcpu);
    void (*set_cr8)(struct irqchip *chip, struct vcpu *vcpu, u8 value);

    /* Local APIC registers by MMIO offset 0..0xfff of an aligned 4-byte access. */
    u32 (*apic_read)(struct irqchip *chip, struct vcpu *vcpu, u32 offset);
    void (*apic_write)(struct irqchip *chip, struct vcpu *vcpu, u32 offset, u32 value);

    /* IA32_APIC_BASE, TSC_DEADLINE and x2APIC MSRs: 0, or -1 for #GP. */
    int (*msr_read)(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 *value);
    int (*msr_write)(struct irqchip *chip, struct vcpu *vcpu, u32 index, u64 value);

    /* Physical base of the local APIC page, or ~0 when it is disabled or in x2APIC mode. No lock. */
    u64 (*apic_page)(struct irqchip *chip, struct vcpu *vcpu);

    /* The vCPU was reset (power-on or INIT). */
    void (*vcpu_reset)(struct irqchip *chip, struct vcpu *vcpu, bool init);

    /* The guest changed its PV EOI MSR; 0 when disabled. gpa of the 4-byte flag with bit 0 = enable. */
    void (*set_pv_eoi)(struct irqchip *chip, struct vcpu *vcpu, u64 msr);

    /* state.tsc_offset changed: a TSC deadline is nearer or farther than it was. May be NULL. */
    void (*tsc_changed)(struct irqchip *chip, struct vcpu *vcpu);

    /*
     * For engines with chips in the kernel; vCPUs are parked. From set_kernel(k) on the local APICs here
     * are not used: ack() has nothing, the 8259s ask vCPU 0 with VCPU_REQ_INTERRUPT for ack_extint(). With
     * NULL they are again. State moves by get_apic() before and put_apic() after. When the kernel has all
     * chips, get_chips() comes before as well, and put_chips() last.
     */
    void (*set_kernel)(struct irqchip *chip, struct kernel_chips *k);
    void (*get_apic)(struct irqchip *chip, struct vcpu *vcpu, struct apic_image *image);
    void (*put_apic)(struct irqchip *chip, struct vcpu *vcpu, const struct apic_image *image);
    void (*get_chips)(struct irqchip *chip, struct chips_image *image);
    void (*put_chips)(struct irqchip *chip, const struct chips_image *image);
    /* The vector that the 8259s want delivered, which becomes in service, or -1. */
    int (*ack_extint)(struct irqchip *chip);
    /* A local APIC in the kernel ended a level-triggered interrupt. */
    void (*eoi)(struct irqchip *chip, u8 vector);
};

/* The first member of every chip. */
struct irqchip {
    const struct irqchip_ops *ops;
    struct kernel_chips *kernel; /* or NULL; changes while no vCPU runs */
};

#endif
