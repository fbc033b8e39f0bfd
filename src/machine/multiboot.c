/*
 * Multiboot 1 kernels, as GRUB boots them: "Multiboot Specification version 0.6.96". The header lies
 * in the first 8 KiB of the image, which is an ELF file or names its addresses itself (flag 16).
 */
#include <errno.h>

#include "machine/loader-internal.h"

#define HEADER_MAGIC 0x1badb002u
#define BOOTED_MAGIC 0x2badb002u
#define HEADER_SEARCH 8192

/* Header flags. The low half are demands: an unknown one must be refused. */
#define WANT_PAGE_ALIGN 0x1u
#define WANT_MEMORY 0x2u
#define WANT_VIDEO 0x4u /* a wish for a video mode: there is no display, and the kernel is told of none */
#define WANT_KNOWN (WANT_PAGE_ALIGN | WANT_MEMORY | WANT_VIDEO)
#define HAS_ADDRESSES 0x10000u

/* Flags of the information structure. */
#define INFO_MEMORY 0x1u
#define INFO_CMDLINE 0x4u
#define INFO_MODULES 0x8u
#define INFO_MMAP 0x40u
#define INFO_LOADER_NAME 0x200u

struct multiboot_header {
    u32 flags;
    u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; /* with HAS_ADDRESSES */
    u64 offset;                                                          /* of the header in the file */
};

struct multiboot_info {
    u32 flags;
    u32 mem_lower, mem_upper; /* KiB */
    u32 boot_device;
    u32 cmdline;
    u32 mods_count, mods_addr;
    u32 syms[4];
    u32 mmap_length, mmap_addr;
    u32 drives_length, drives_addr;
    u32 config_table;
    u32 boot_loader_name;
    u32 apm_table;
    u32 rest[9]; /* VBE and framebuffer */
};

struct multiboot_module {
    u32 start, end, string, reserved;
};

struct PACKED multiboot_mmap {
    u32 size; /* of the rest */
    u64 addr, len;
    u32 type;
};

struct info_page {
    struct multiboot_info info;
    char name[32];
};

struct info_lists {
    struct multiboot_module module[BOOT_MAX_MODULES];
    struct multiboot_mmap map[E820_MAX];
};
_Static_assert(sizeof(struct info_lists) <= MAP_BOOT_INFO_LISTS_END - MAP_BOOT_INFO_LISTS, "lists fit");

static bool find_header(const struct blob *b, struct multiboot_header *h)
{
    u64 end = MIN(b->size, (u64)HEADER_SEARCH);

    for (u64 at = 0; at + 12 <= end; at += 4) {
        const u8 *p = b->data + at;
        u32 flags = get_le32(p + 4);

        if (get_le32(p) != HEADER_MAGIC || (u32)(HEADER_MAGIC + flags + get_le32(p + 8)))
            continue;
        *h = (struct multiboot_header){.flags = flags, .offset = at};
        if (flags & HAS_ADDRESSES) {
            if (!range_in(at, 32, b->size))
                return false;
            h->header_addr = get_le32(p + 12);
            h->load_addr = get_le32(p + 16);
            h->load_end_addr = get_le32(p + 20);
            h->bss_end_addr = get_le32(p + 24);
            h->entry_addr = get_le32(p + 28);
        }
        return true;
    }
    return false;
}

static bool multiboot_claims(const struct blob *kernel)
{
    struct multiboot_header h;
    return find_header(kernel, &h);
}

/* The "a.out kludge": the header says where the image goes. */
static int load_by_addresses(const struct boot_source *src, const struct boot_target *to,
                             const struct multiboot_header *h, u64 *entry, u64 *end, struct error *err)
{
    const struct blob *b = &src->kernel;
    u64 lead = (u64)h->header_addr - h->load_addr; /* bytes of image before the header */
    u64 offset, len, bss;
    int r;

    if (h->load_addr > h->header_addr || lead > h->offset)
        return boot_error(src, err, ENOEXEC, "its Multiboot header has impossible load addresses");
    offset = h->offset - lead;
    if (h->load_end_addr && h->load_end_addr < h->load_addr)
        return boot_error(src, err, ENOEXEC, "its Multiboot header has impossible load addresses");
    len = h->load_end_addr ? h->load_end_addr - h->load_addr : b->size - offset;
    if (!range_in(offset, len, b->size))
        return boot_error(src, err, ENOEXEC, "the file is truncated (%llu bytes are missing)",
                          (unsigned long long)len - (b->size - offset));
    *end = h->load_addr + len;
    bss = h->bss_end_addr > *end ? h->bss_end_addr - *end : 0;
    if (h->load_addr < MAP_HIGH_MEMORY)
        return boot_error(src, err, ENOEXEC, "it is to be loaded at 0x%x, below 1 MiB", h->load_addr);
    r = boot_write(src, to, "the image", h->load_addr, b->data + offset, len, err);
    if (!r)
        r = boot_zero(src, to, "the image's bss", *end, bss, err);
    *end += bss;
    *entry = h->entry_addr;
    if (!r && (*entry < h->load_addr || *entry >= *end))
        r = boot_error(src, err, ENOEXEC, "its entry point 0x%x is outside of the image", h->entry_addr);
    return r;
}

static int load_elf(const struct boot_source *src, const struct boot_target *to, u64 *entry, u64 *end,
                    struct error *err)
{
    struct elf_image elf;
    int r;

    if (!elf_claims(&src->kernel))
        return boot_error(src, err, ENOEXEC,
                          "its Multiboot header gives no load addresses and it is not an ELF file");
    r = elf_parse(src, &elf, err);
    if (!r)
        r = elf_load(src, to, &elf, err);
    if (r)
        return r;
    *entry = elf_physical_entry(&elf);
    *end = elf.end;
    if (*entry < elf.start || *entry >= elf.end || *entry > UINT32_MAX)
        return boot_error(src, err, ENOEXEC, "its entry point 0x%llx is outside of the image",
                          (unsigned long long)*entry);
    return 0;
}

static int write_info(const struct boot_source *src, const struct boot_target *to,
                      const struct boot_placement *placed, struct error *err)
{
    struct info_lists lists = {0};
    struct info_page page = {
        .info =
            {
                .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME,
                .mem_lower = MAP_EBDA >> 10,
                .mem_upper = (u32)((to->memory->low_size - MAP_HIGH_MEMORY) >> 10),
                .cmdline = (u32)placed->cmdline,
                .mods_count = src->module_count,
                .mods_addr = MAP_BOOT_INFO_LISTS,
                .mmap_length = to->map->count * (u32)sizeof(struct multiboot_mmap),
                .mmap_addr = MAP_BOOT_INFO_LISTS + offsetof(struct info_lists, map),
                .boot_loader_name = MAP_BOOT_INFO + offsetof(struct info_page, name),
            },
        .name = "trapeze " TRAPEZE_VERSION,
    };
    int r;

    for (unsigned i = 0; i < src->module_count; i++)
        lists.module[i] = (struct multiboot_module){.start = (u32)placed->module[i],
                                                    .end = (u32)(placed->module[i] + src->module[i].size),
                                                    .string = (u32)placed->module_args[i]};
    for (unsigned i = 0; i < to->map->count; i++)
        lists.map[i] = (struct multiboot_mmap){.size = sizeof(struct multiboot_mmap) - 4,
                                               .addr = to->map->entry[i].start,
                                               .len = to->map->entry[i].size,
                                               .type = to->map->entry[i].type};
    r = boot_write(src, to, "boot information", MAP_BOOT_INFO_LISTS, &lists, sizeof lists, err);
    return r ? r : boot_write(src, to, "boot information", MAP_BOOT_INFO, &page, sizeof page, err);
}

static int multiboot_load(const struct boot_source *src, const struct boot_target *to,
                          struct boot_entry *entry, struct error *err)
{
    struct multiboot_header h;
    struct boot_placement placed;
    u64 end = 0;
    int r;

    if (!find_header(&src->kernel, &h))
        return boot_error(src, err, ENOEXEC, "no Multiboot header");
    if (h.flags & 0xffff & ~WANT_KNOWN)
        return boot_error(src, err, ENOEXEC, "its Multiboot header asks for unknown features (flags 0x%x)",
                          h.flags);
    r = h.flags & HAS_ADDRESSES ? load_by_addresses(src, to, &h, &entry->rip, &end, err)
                                : load_elf(src, to, &entry->rip, &end, err);
    /* Close behind the kernel: small kernels map only their first few megabytes. */
    if (!r)
        r = boot_place_modules(src, to, end, to->memory->low_size, false, &placed, err);
    if (!r)
        r = boot_place_cmdlines(src, to, true, &placed, err);
    if (!r)
        r = write_info(src, to, &placed, err);
    entry->mode = BOOT_PROTECTED;
    entry->rax = BOOTED_MAGIC;
    entry->rbx = MAP_BOOT_INFO;
    return r;
}

const struct loader multiboot_loader = {
    .name = "Multiboot", .claims = multiboot_claims, .load = multiboot_load};
