/*
 * Loading a kernel without firmware: the kernel's kind is told by its content, the image and what it
 * is to be handed (command line, initrd or modules, memory map) are put into RAM, and the register
 * state at its entry point is returned.
 *
 * Images are hostile: each offset and size in them is checked before it is used. A loader writes to
 * RAM only; it may have written parts when it fails.
 */
#ifndef TRAPEZE_MACHINE_LOADER_H
#define TRAPEZE_MACHINE_LOADER_H

#include "cpu/state.h"
#include "machine/blob.h"
#include "machine/e820.h"

#define BOOT_MAX_MODULES 16

/* What the user asked to boot. The same source may be loaded again and again (system reset). */
struct boot_source {
    struct blob kernel;
    struct blob module[BOOT_MAX_MODULES];      /* initrds; for Multiboot and PVH modules */
    const char *module_args[BOOT_MAX_MODULES]; /* of a module; NULL for none */
    unsigned module_count;
    const char *cmdline; /* never NULL */
};

/* Where it is loaded. */
struct boot_target {
    struct memory *memory;
    const struct e820 *map;
    u64 rsdp; /* gpa of the ACPI root pointer, 0 for none */
};

enum boot_mode {
    BOOT_PROTECTED, /* 32-bit flat segments, paging off */
    BOOT_LONG,      /* 64-bit, identity page tables at cr3 */
};

/* The state of the boot CPU at the kernel's entry. Interrupts are off. */
struct boot_entry {
    enum boot_mode mode;
    u64 rip;
    u64 rax, rbx, rsi;
    u64 cr3; /* BOOT_LONG */
};

/*
 * Loads and fills *entry; the error names the file and says what is wrong with it. Reads files again whose
 * bytes were dropped, and drops what can be had again (blob.h).
 */
int boot_load(struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
              struct error *err);

void boot_source_release(struct boot_source *src);

/* Puts the registers of a CPU that was just reset into the entry state. */
void boot_entry_apply(const struct boot_entry *entry, struct x86_state *s);

#endif
