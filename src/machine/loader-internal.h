/* What the loaders share. Each kind says whether an image is its own, and loads it. */
#ifndef TRAPEZE_MACHINE_LOADER_INTERNAL_H
#define TRAPEZE_MACHINE_LOADER_INTERNAL_H

#include "machine/loader.h"
#include "machine/memory-map.h"

struct loader {
    const char *name;
    /* By its magic numbers; a damaged image of this kind is claimed, and refused by load(). */
    bool (*claims)(const struct blob *kernel);
    int (*load)(const struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
                struct error *err);
};

extern const struct loader bzimage_loader, multiboot_loader, pvh_loader;

/* "kernel 'PATH': " and the reason; returns -@code. */
int boot_error(const struct boot_source *src, struct error *err, int code, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* The error that @what of @len bytes finds no RAM at @gpa. */
int boot_no_room(const struct boot_source *src, const struct boot_target *to, const char *what, u64 gpa,
                 u64 len, struct error *err);

/* The flat GDT and, for BOOT_LONG, identity page tables of the first 4 GiB, which set entry->cr3. */
int boot_prepare_memory(const struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
                        struct error *err);

/* [offset, offset + len) lies in a file of @size bytes. */
static inline bool range_in(u64 offset, u64 len, u64 size)
{
    return offset <= size && len <= size - offset;
}

/* Copies to RAM; boot_no_room() when it does not fit. */
int boot_write(const struct boot_source *src, const struct boot_target *to, const char *what, u64 gpa,
               const void *data, u64 len, struct error *err);

/* Zeroes RAM, with the same error. */
int boot_zero(const struct boot_source *src, const struct boot_target *to, const char *what, u64 gpa, u64 len,
              struct error *err);

/* RAM [gpa, gpa + len) at or above 1 MiB, where images and modules may go. */
bool boot_range_free(const struct boot_target *to, u64 gpa, u64 len);

/* --- modules and command lines (modules.c) --- */

/* Addresses where they went. */
struct boot_placement {
    u64 module[BOOT_MAX_MODULES];
    u64 module_args[BOOT_MAX_MODULES];
    u64 cmdline;
    u64 end; /* of the last module */
};

/* Copies all modules, page aligned and in order, within [first, end): from its start or up to its end. */
int boot_place_modules(const struct boot_source *src, const struct boot_target *to, u64 first, u64 end,
                       bool at_top, struct boot_placement *placed, struct error *err);

/* The error that module @i finds no room. */
int boot_no_room_for_module(const struct boot_source *src, const struct boot_target *to, unsigned i,
                            struct error *err);

/*
 * Copies the command line and the modules' arguments to low memory. @with_paths: each starts with
 * the path of its file, as Multiboot loaders do.
 */
int boot_place_cmdlines(const struct boot_source *src, const struct boot_target *to, bool with_paths,
                        struct boot_placement *placed, struct error *err);

/* --- initial RAM disks of Linux (initramfs.c) --- */

/* Refuses what the kernel could not use: neither archive nor image, or an archive cut short. */
int initramfs_check(const struct blob *b, struct error *err);

/* --- ELF (elf.c), ELF32 and ELF64 alike, loaded at physical addresses --- */

struct elf_segment {
    u64 offset, filesz, vaddr, paddr, memsz;
};

#define ELF_MAX_SEGMENTS 64

struct elf_image {
    bool is_64;
    u64 entry;
    struct elf_segment load[ELF_MAX_SEGMENTS]; /* PT_LOAD of non-zero memsz */
    unsigned load_count;
    struct elf_segment note[ELF_MAX_SEGMENTS]; /* PT_NOTE */
    unsigned note_count;
    u64 start, end; /* physical range of all load segments */
};

bool elf_claims(const struct blob *kernel);

/* Parses and checks headers: x86, executable, all file ranges inside the file. */
int elf_parse(const struct boot_source *src, struct elf_image *elf, struct error *err);

/* Copies the load segments and zeroes what lies beyond filesz. */
int elf_load(const struct boot_source *src, const struct boot_target *to, const struct elf_image *elf,
             struct error *err);

/* Physical address of the entry point: translated by the segment that holds it if it is a virtual one. */
u64 elf_physical_entry(const struct elf_image *elf);

/*
 * Descriptor of the note @type of @name in any PT_NOTE, or NULL; *len is its length.
 */
const u8 *elf_find_note(const struct blob *kernel, const struct elf_image *elf, const char *name, u32 type,
                        u32 *len);

#endif
