/*
 * Where things of the PC board lie that are the board's to choose. Legacy devices have their addresses
 * in their own headers (hw/): the board, the ACPI tables and the loaders take them from there.
 */
#ifndef TRAPEZE_MACHINE_MEMORY_MAP_H
#define TRAPEZE_MACHINE_MEMORY_MAP_H

#include "memory/memory.h"

/* --- below 1 MiB: what a boot loader leaves behind (conventional memory, free for the kernel) --- */

#define MAP_BDA 0x400ull              /* BIOS data area */
#define MAP_BOOT_GDT 0x6000ull        /* flat segments of the entry state */
#define MAP_BOOT_INFO 0x7000ull       /* zero page, hvm_start_info or multiboot information: 4 KiB */
#define MAP_BOOT_INFO_LISTS 0x8000ull /* module lists and memory maps that go with it */
#define MAP_BOOT_INFO_LISTS_END 0x9000ull
#define MAP_BOOT_PAGE_TABLES 0x9000ull /* PML4, PDPT and four page directories: 24 KiB */
#define MAP_BOOT_SETUP_DATA 0x10000ull /* Linux setup_data records: 4 KiB */
#define MAP_BOOT_CMDLINE 0x20000ull    /* command lines: 64 KiB with those of modules */
#define MAP_BOOT_CMDLINE_END 0x30000ull

#define MAP_EBDA 0x9fc00ull /* conventional memory ends here */

/* What firmware would leave in the ROM area: tables that old kernels find by scanning. */
#define MAP_FIRMWARE_TABLES 0xe0000ull /* ACPI; the RSDP stands first */
#define MAP_FIRMWARE_TABLES_END 0xf0000ull
#define MAP_SMBIOS 0xf0000ull
#define MAP_SMBIOS_END 0xf8000ull
#define MAP_MPTABLE 0xf8000ull
#define MAP_HIGH_MEMORY 0x100000ull /* extended memory starts at 1 MiB */

/* --- the PCI hole --- */

/* Where firmware for Q35 puts them. */
#define MAP_ECAM 0xb0000000ull       /* 256 buses of 1 MiB */
#define MAP_PCI_MMIO32 0xc0000000ull /* window for 32-bit BARs */
#define MAP_PCI_MMIO32_END 0xfec00000ull
#define MAP_ECAM_SIZE 0x10000000ull

/* Window for 64-bit BARs: above any RAM that MEMORY_MAX_SIZE allows, within 38 address bits. */
#define MAP_PCI_MMIO64 0x2000000000ull
#define MAP_PCI_MMIO64_END 0x3000000000ull

/* --- ports and interrupts that the devices' own headers do not name --- */

#define PORT_COM1 0x3f8
#define PORT_PCI_IO 0xc000u /* window for I/O BARs */
#define PORT_PCI_IO_END 0x10000u

/* Global system interrupts; below 16 also ISA interrupts. */
#define IRQ_PIT 0
#define IRQ_KEYBOARD 1
#define IRQ_COM1 4
#define IRQ_RTC 8
#define IRQ_SCI 9
#define IRQ_MOUSE 12

/* The ISA interrupts that firmware (pci_assign_resources()) routes PIRQs A..D to. */
#define PIRQ_ISA_IRQ(pirq) ((pirq) < 2 ? 10u : 11u)

/* PCI slots of bus 0; 00:00.0 and 00:1f.0 are the bridges. */
#define SLOT_RNG 1
#define SLOT_CONSOLE 2
#define SLOT_DISK_FIRST 3
#define SLOT_DISK_LAST 18
#define SLOT_SCSI 19
#define SLOT_NET_FIRST 23
#define SLOT_NET_LAST 30
#define SLOT_SHARES 20 /* one function each */

#endif
