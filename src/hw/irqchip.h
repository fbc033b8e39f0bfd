/*
 * The interrupt controllers of a PC in software: two 8259s, an I/O APIC and the local APICs behind
 * the seam of cpu/irqchip.h.
 *
 * This is the one file of hw/ (with irqchip.c) that includes cpu/: the seam speaks of vCPUs. The
 * chips themselves (pic, ioapic, apic) do not know them.
 *
 * Wiring (the usual one of a PC): ISA interrupt N drives 8259 input N and I/O APIC pin N, except that
 * ISA interrupt 0 drives pin 2; the MADT says so with an override "IRQ 0 is GSI 2". Nothing else may
 * drive GSI 2, and pin 0 leads nowhere. GSIs 16..23 are pins of the I/O APIC only.
 */
#ifndef TRAPEZE_HW_IRQCHIP_H
#define TRAPEZE_HW_IRQCHIP_H

#include "cpu/irqchip.h"
#include "hw/apic.h"
#include "hw/ioapic.h"
#include "hw/pic.h"

struct vm;

struct soft_irqchip {
    struct irqchip chip;
    struct vm *vm;
    struct pic pic;
    struct ioapic ioapic;
    struct apic_set apics;
    struct list lines; /* messages that devices may send: msi_line.link */
};

/*
 * For the vCPUs of @vm, after vm_init(). The board sets vm->irqchip = &s->chip, and puts pic.dev,
 * ioapic.dev and apics.apic[0..count-1].dev into its list of devices (reset, state). vm_reset_vcpus()
 * resets the local APICs through vcpu_reset. A board that starts a kernel without firmware calls
 * apic_set_virtual_wire(&s->apics) after each reset.
 */
int soft_irqchip_init(struct soft_irqchip *s, struct vm *vm, struct error *err);
void soft_irqchip_release(struct soft_irqchip *s);

/* Lines into any irqchip: a GSI, which for 0..15 is the ISA interrupt of that number. */
struct irq_line irqchip_gsi(struct irqchip *chip, unsigned gsi);
/* MSI writes of devices. */
struct msi_sink irqchip_msi(struct irqchip *chip);

#endif
