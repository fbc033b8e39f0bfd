/*
 * ELF kernels with a PVH entry point: Linux's vmlinux (CONFIG_PVH), FreeBSD, Xen and unikernels. The
 * note XEN_ELFNOTE_PHYS32_ENTRY names a 32-bit protected-mode entry that takes a hvm_start_info in
 * EBX (Xen's docs/misc/pvh and public/arch-x86/hvm/start_info.h).
 */
#include <errno.h>

#include "machine/loader-internal.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define HVM_START_MAGIC 0x336ec578u

struct hvm_start_info {
    u32 magic, version, flags, nr_modules;
    u64 modlist_paddr, cmdline_paddr, rsdp_paddr;
    /* version 1 */
    u64 memmap_paddr;
    u32 memmap_entries, reserved;
};

struct hvm_modlist_entry {
    u64 paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
    u64 addr, size;
    u32 type, reserved;
};

/* PVH does not say where its lists lie: modules first, then the memory map. */
struct start_lists {
    struct hvm_modlist_entry module[BOOT_MAX_MODULES];
    struct hvm_memmap_entry map[E820_MAX];
};
_Static_assert(sizeof(struct start_lists) <= MAP_BOOT_INFO_LISTS_END - MAP_BOOT_INFO_LISTS, "lists fit");

static bool pvh_claims(const struct blob *kernel)
{
    return elf_claims(kernel);
}

/* The entry point that the note names. */
static int pvh_entry(const struct boot_source *src, const struct elf_image *elf, u64 *entry,
                     struct error *err)
{
    u32 len;
    const u8 *d = elf_find_note(&src->kernel, elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, &len);

    if (!d)
        return boot_error(src, err, ENOEXEC,
                          "it is an ELF file with neither a PVH note (CONFIG_PVH) nor a Multiboot header");
    if (len != 4 && len != 8)
        return boot_error(src, err, ENOEXEC, "its PVH note has a wrong size");
    *entry = len == 4 ? get_le32(d) : get_le64(d);
    if (*entry < elf->start || *entry >= elf->end || *entry > UINT32_MAX)
        return boot_error(src, err, ENOEXEC, "its PVH entry point 0x%llx is outside of the image",
                          (unsigned long long)*entry);
    return 0;
}

static int write_start_info(const struct boot_source *src, const struct boot_target *to,
                            const struct boot_placement *placed, struct error *err)
{
    struct start_lists lists = {0};
    struct hvm_start_info info = {
        .magic = HVM_START_MAGIC,
        .version = 1,
        .nr_modules = src->module_count,
        .modlist_paddr = src->module_count ? MAP_BOOT_INFO_LISTS : 0,
        .cmdline_paddr = placed->cmdline,
        .rsdp_paddr = to->rsdp,
        .memmap_paddr = MAP_BOOT_INFO_LISTS + offsetof(struct start_lists, map),
        .memmap_entries = to->map->count,
    };
    int r;

    for (unsigned i = 0; i < src->module_count; i++)
        lists.module[i] = (struct hvm_modlist_entry){
            .paddr = placed->module[i], .size = src->module[i].size, .cmdline_paddr = placed->module_args[i]};
    for (unsigned i = 0; i < to->map->count; i++)
        lists.map[i] = (struct hvm_memmap_entry){
            .addr = to->map->entry[i].start, .size = to->map->entry[i].size, .type = to->map->entry[i].type};
    r = boot_write(src, to, "boot information", MAP_BOOT_INFO_LISTS, &lists, sizeof lists, err);
    return r ? r : boot_write(src, to, "boot information", MAP_BOOT_INFO, &info, sizeof info, err);
}

static int pvh_load(const struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
                    struct error *err)
{
    struct elf_image elf;
    struct boot_placement placed;
    int r = elf_parse(src, &elf, err);

    if (!r)
        r = pvh_entry(src, &elf, &entry->rip, err);
    if (!r)
        r = elf_load(src, to, &elf, err);
    /* At the top of low RAM: Linux decompresses nothing here, but its early allocations follow the image. */
    if (!r)
        r = boot_place_modules(src, to, elf.end, to->memory->low_size, true, &placed, err);
    if (!r)
        r = boot_place_cmdlines(src, to, false, &placed, err);
    if (!r)
        r = write_start_info(src, to, &placed, err);
    entry->mode = BOOT_PROTECTED;
    entry->rbx = MAP_BOOT_INFO;
    return r;
}

const struct loader pvh_loader = {.name = "PVH ELF", .claims = pvh_claims, .load = pvh_load};
