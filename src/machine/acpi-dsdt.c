/* The DSDT: what a system cannot find out by itself about this board. */
#include <stdio.h>

#include "hw/acpi-pm.h"
#include "hw/fw-cfg.h"
#include "hw/hpet.h"
#include "hw/pci-host.h"
#include "hw/pic.h"
#include "hw/pit.h"
#include "hw/pvpanic.h"
#include "hw/rtc.h"
#include "machine/acpi-internal.h"
#include "machine/memory-map.h"

/* \_PIC(1) says that the system uses the I/O APIC; PICF remembers it for _PRT. */
static void interrupt_model(struct aml *a)
{
    aml_name(a, "PICF");
    aml_int(a, 0);
    aml_method_begin(a, "_PIC", 1);
    aml_store(a);
    aml_arg(a, 0);
    aml_ref(a, "PICF");
    aml_end(a);
}

/* Where pin @pin of slot @slot arrives: the 8259s' interrupts are those of pci_assign_resources(). */
static unsigned route(unsigned slot, unsigned pin, bool apic)
{
    unsigned gsi = pci_host_gsi(slot, pin);

    return apic ? gsi : PIRQ_ISA_IRQ(gsi - PCI_PIRQ_GSI);
}

static void routing_table(struct aml *a, const char *name, bool apic)
{
    aml_name(a, name);
    aml_package_begin(a, 31 * 4);
    for (unsigned slot = 1; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            aml_package_begin(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0); /* no link device: the number follows */
            aml_int(a, route(slot, pin, apic));
            aml_end(a);
        }
    }
    aml_end(a);
}

static void pci_routing(struct aml *a)
{
    routing_table(a, "PRTA", true);
    routing_table(a, "PRTP", false);
    aml_method_begin(a, "_PRT", 0);
    aml_if_begin(a);
    aml_ref(a, "PICF");
    aml_return(a);
    aml_ref(a, "PRTA");
    aml_end(a);
    aml_return(a);
    aml_ref(a, "PRTP");
    aml_end(a);
}

static void pci_windows(struct aml *a, const struct acpi_config *c)
{
    aml_name(a, "_CRS");
    aml_resources_begin(a);
    aml_window_bus(a, 0, 255);
    aml_io(a, PCI_ADDRESS_PORT, 8);
    aml_window_io(a, 0, PCI_ADDRESS_PORT - 1);
    aml_window_io(a, PCI_ADDRESS_PORT + 8, (u16)(c->io_end - 1));
    aml_window_memory32(a, MEMORY_VGA_START, MEMORY_VGA_END - 1);
    aml_window_memory32(a, c->mmio_base, c->mmio_end - 1);
    if (c->high_end > c->high_base)
        aml_window_memory64(a, c->high_base, c->high_end - 1);
    aml_end(a);
}

/* A device found by its id that is always there. */
static void device_begin(struct aml *a, const char *name, const char *eisaid, unsigned uid)
{
    aml_device_begin(a, name);
    aml_name(a, "_HID");
    aml_eisaid(a, eisaid);
    aml_name(a, "_UID");
    aml_int(a, uid);
}

static void crs_begin(struct aml *a)
{
    aml_name(a, "_CRS");
    aml_resources_begin(a);
}

/* Closes the resources and the device. */
static void crs_and_device_end(struct aml *a)
{
    aml_end(a);
    aml_end(a);
}

static void isa_device(struct aml *a, const char *name, const char *eisaid, u16 port, u8 ports, unsigned irq)
{
    device_begin(a, name, eisaid, 0);
    crs_begin(a);
    aml_io(a, port, ports);
    aml_irq(a, irq);
    crs_and_device_end(a);
}

static void keyboard_and_mouse(struct aml *a)
{
    device_begin(a, "KBD", "PNP0303", 0);
    crs_begin(a);
    aml_io(a, 0x60, 1);
    aml_io(a, 0x64, 1);
    aml_irq(a, IRQ_KEYBOARD);
    crs_and_device_end(a);

    device_begin(a, "MOU", "PNP0F13", 0);
    crs_begin(a);
    aml_irq(a, IRQ_MOUSE);
    crs_and_device_end(a);
}

/* Devices of virtual machines: pvpanic and fw_cfg, by the ids that Linux's drivers look for. */
static void paravirtual_device(struct aml *a, const char *name, const char *hid, u16 port, u8 ports)
{
    aml_device_begin(a, name);
    aml_name(a, "_HID");
    aml_string(a, hid);
    aml_name(a, "_STA");
    aml_int(a, 0xb); /* present, enabled, functioning; not shown to users */
    crs_begin(a);
    aml_io(a, port, ports);
    crs_and_device_end(a);
}

static void isa_bridge(struct aml *a)
{
    aml_device_begin(a, "ISA");
    aml_name(a, "_ADR");
    aml_int(a, (u32)PCI_SLOT(PCI_LPC_DEVFN) << 16);
    isa_device(a, "RTC", "PNP0B00", RTC_PORT, 2, IRQ_RTC);
    isa_device(a, "TIMR", "PNP0100", PIT_PORT, 4, IRQ_PIT);
    isa_device(a, "COM1", "PNP0501", PORT_COM1, 8, IRQ_COM1);
    keyboard_and_mouse(a);
    paravirtual_device(a, "PVPN", "QEMU0001", PVPANIC_PORT, 1);
    paravirtual_device(a, "FWCF", "QEMU0002", FW_CFG_PORT, FW_CFG_SIZE);
    aml_end(a);
}

static void pci_root(struct aml *a, const struct acpi_config *c)
{
    device_begin(a, "PCI0", "PNP0A08", 0);
    aml_name(a, "_CID");
    aml_eisaid(a, "PNP0A03");
    aml_name(a, "_SEG");
    aml_int(a, 0);
    aml_name(a, "_BBN");
    aml_int(a, 0);
    pci_windows(a, c);
    pci_routing(a);
    isa_bridge(a);
    aml_end(a);
}

static void hpet(struct aml *a)
{
    device_begin(a, "HPET", "PNP0103", 0);
    crs_begin(a);
    aml_memory32(a, HPET_BASE, HPET_SIZE, true);
    crs_and_device_end(a);
}

/* What is taken on the mainboard, so that nothing else is put there. Linux wants the ECAM among it. */
static void motherboard(struct aml *a, const struct acpi_config *c)
{
    device_begin(a, "MBRD", "PNP0C02", 0);
    crs_begin(a);
    aml_io(a, PIC_ELCR_PORT, 2);
    aml_io(a, ACPI_PM_SMI_COMMAND, 2);
    aml_io(a, ACPI_PM_BASE, 0x80); /* what the LPC bridge decodes, though less is used */
    aml_memory32(a, (u32)c->ecam_base, MAP_ECAM_SIZE, true);
    crs_and_device_end(a);
}

static void processors(struct aml *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char name[5];

        snprintf(name, sizeof name, "C%03X", i & 0xfff);
        aml_device_begin(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name(a, "_UID");
        aml_int(a, i);
        aml_end(a);
    }
}

/* SLP_TYP values of soft off for PM1a and PM1b. */
static void soft_off(struct aml *a)
{
    aml_name(a, "\\_S5");
    aml_package_begin(a, 4);
    aml_int(a, ACPI_PM_S5);
    aml_int(a, ACPI_PM_S5);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);
}

void acpi_dsdt(struct aml *a, const struct acpi_config *config)
{
    interrupt_model(a);
    aml_scope_begin(a, "\\_SB");
    processors(a, config->cpus);
    motherboard(a, config);
    hpet(a);
    pci_root(a, config);
    aml_end(a);
    soft_off(a);
}
