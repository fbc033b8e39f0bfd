/*
 * Linux kernels as distributions package them. "The Linux/x86 Boot Protocol"
 * (Documentation/arch/x86/boot.rst), versions 2.06 and later, 64-bit entry where the kernel has one.
 */
#include <errno.h>
#include <sys/random.h>

#include "machine/loader-internal.h"

#define SECTOR 512u

/* Offsets of the setup header in the file, which are those in the zero page as well. */
enum {
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_VID_MODE = 0x1fa,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x200, /* its second byte gives the header's length */
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_HEAP_END = 0x224,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_SETUP_DATA = 0x250,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_MIN_SIZE = 0x264,
};

/* Other fields of the zero page (arch/x86/include/uapi/asm/bootparam.h). */
enum {
    ZP_ACPI_RSDP = 0x070,
    ZP_EXT_RAMDISK_IMAGE = 0x0c0,
    ZP_EXT_RAMDISK_SIZE = 0x0c4,
    ZP_EXT_CMD_LINE_PTR = 0x0c8,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_E820_TABLE = 0x2d0,
    ZP_SIZE = 4096,
};

#define E820_ENTRY_SIZE 20

#define LOADED_HIGH 0x01
#define CAN_USE_HEAP 0x80
#define XLF_KERNEL_64 0x01
#define XLF_ABOVE_4G 0x02

#define SETUP_RNG_SEED 9
#define RNG_SEED_SIZE 32

#define ENTRY_64_OFFSET 0x200

/* The header's fields that matter, copied once from the image. */
struct bzimage {
    unsigned version;
    u64 setup_size;   /* bytes of real-mode code, which is not loaded */
    u64 payload_size; /* bytes of what is loaded */
    u64 header_len;   /* of the setup header, from HDR_SETUP_SECTS */
    u64 initrd_max;
    u64 alignment, pref_address, init_size;
    u32 cmdline_max;
    bool relocatable, has_64, above_4g;

    u64 load; /* where it is loaded */
};

static bool bzimage_claims(const struct blob *kernel)
{
    return kernel->size >= HDR_MAGIC + 4 && get_le16(kernel->data + HDR_BOOT_FLAG) == 0xaa55 &&
           !memcmp(kernel->data + HDR_MAGIC, "HdrS", 4);
}

static int parse_sizes(const struct boot_source *src, struct bzimage *z, struct error *err)
{
    const struct blob *b = &src->kernel;
    unsigned sectors = b->data[HDR_SETUP_SECTS];
    u64 expected;

    z->setup_size = ((sectors ? sectors : 4) + 1ull) * SECTOR;
    expected = z->setup_size + (u64)get_le32(b->data + HDR_SYSSIZE) * 16;
    if (b->size <= z->setup_size || b->size + 15 < expected)
        return boot_error(src, err, ENOEXEC, "the file is truncated (%llu of %llu bytes)",
                          (unsigned long long)b->size, (unsigned long long)expected);
    z->payload_size = b->size - z->setup_size;

    z->header_len = HDR_MAGIC + b->data[HDR_JUMP + 1] - HDR_SETUP_SECTS;
    z->header_len = MIN(z->header_len, z->setup_size - HDR_SETUP_SECTS);
    z->header_len = MIN(z->header_len, (u64)(0x290 - HDR_SETUP_SECTS)); /* the EDD area follows */
    return 0;
}

static int parse_header(const struct boot_source *src, struct bzimage *z, struct error *err)
{
    const u8 *p = src->kernel.data;
    int r;

    if (src->kernel.size < 2 * SECTOR)
        return boot_error(src, err, ENOEXEC, "the file is truncated (no setup header)");
    z->version = get_le16(p + HDR_VERSION);
    if (z->version < 0x206)
        return boot_error(src, err, ENOEXEC, "boot protocol %u.%02u is too old (2.06 is needed)",
                          z->version >> 8, z->version & 0xff);
    if (!(p[HDR_LOADFLAGS] & LOADED_HIGH))
        return boot_error(src, err, ENOEXEC, "it is a zImage, which is loaded below 1 MiB");
    r = parse_sizes(src, z, err);
    if (r)
        return r;

    z->cmdline_max = get_le32(p + HDR_CMDLINE_SIZE);
    z->initrd_max = get_le32(p + HDR_INITRD_ADDR_MAX);
    z->alignment = get_le32(p + HDR_KERNEL_ALIGNMENT);
    z->relocatable = p[HDR_RELOCATABLE];
    if (z->version >= 0x20a) {
        z->pref_address = get_le64(p + HDR_PREF_ADDRESS);
        z->init_size = get_le32(p + HDR_INIT_SIZE);
    }
    if (z->version >= 0x20c) {
        unsigned xlf = get_le16(p + HDR_XLOADFLAGS);
        z->has_64 = xlf & XLF_KERNEL_64;
        z->above_4g = z->has_64 && (xlf & XLF_ABOVE_4G);
    }
    z->init_size = MAX(z->init_size, z->payload_size);
    if (z->has_64 && z->payload_size <= ENTRY_64_OFFSET)
        return boot_error(src, err, ENOEXEC, "the file is truncated (no 64-bit entry point)");
    return 0;
}

/* The preferred address if it can be had, else the lowest aligned one, else the classic 1 MiB. */
static int choose_address(const struct boot_source *src, const struct boot_target *to, struct bzimage *z,
                          struct error *err)
{
    u64 align = MAX(z->alignment, (u64)PAGE_SIZE), need = z->init_size;

    if (align & (align - 1))
        return boot_error(src, err, ENOEXEC, "its alignment 0x%llx is not a power of two",
                          (unsigned long long)align);
    z->load = MAP_HIGH_MEMORY;
    if (z->relocatable) {
        if (z->pref_address < UINT32_MAX && boot_range_free(to, z->pref_address, need))
            z->load = z->pref_address;
        else
            z->load = ALIGN_UP(MAP_HIGH_MEMORY, align);
    } else if (z->pref_address > MAP_HIGH_MEMORY && z->pref_address < UINT32_MAX) {
        need += z->pref_address - MAP_HIGH_MEMORY; /* it moves itself there */
    }
    if (!boot_range_free(to, z->load, need))
        return boot_no_room(src, to, "the kernel", z->load, need, err);
    z->init_size = need;
    return 0;
}

/*
 * The initrds lie one behind the other, as the kernel wants several archives: below the limit that
 * the kernel gives, as high as possible; in RAM above 4 GiB when it allows that and there is no room.
 */
static int place_initrd(const struct boot_source *src, const struct boot_target *to, const struct bzimage *z,
                        u64 *gpa, u64 *size, struct error *err)
{
    u64 total = 0, first = ALIGN_UP(z->load + z->init_size, PAGE_SIZE);
    u64 end = ALIGN_DOWN(MIN(to->memory->low_size, z->initrd_max + 1), PAGE_SIZE);
    u64 high_end = MEMORY_HOLE_END + to->memory->high_size;

    *gpa = *size = 0;
    /* The kernel looks for the next archive at a multiple of 4; zeroes between them are skipped. */
    for (unsigned i = 0; i < src->module_count; i++) {
        int r = initramfs_check(&src->module[i], err);
        if (r != 0)
            return r;
        total = ALIGN_UP(total, 4) + src->module[i].size;
    }
    if (!total)
        return 0;
    if (first < end && total <= end - first)
        *gpa = ALIGN_DOWN(end - total, PAGE_SIZE);
    else if (z->above_4g && total <= to->memory->high_size)
        *gpa = ALIGN_DOWN(high_end - total, PAGE_SIZE);
    else
        return boot_no_room_for_module(src, to, src->module_count - 1, err);

    for (unsigned i = 0; i < src->module_count; i++) {
        u64 at = ALIGN_UP(*size, 4);
        if (boot_zero(src, to, "the initrd", *gpa + *size, at - *size, NULL) ||
            memory_write(to->memory, *gpa + at, src->module[i].data, src->module[i].size))
            return boot_no_room_for_module(src, to, i, err);
        *size = at + src->module[i].size;
    }
    return 0;
}

static int write_cmdline(const struct boot_source *src, const struct boot_target *to, const struct bzimage *z,
                         struct error *err)
{
    u64 len = strlen(src->cmdline);
    u64 max = MIN((u64)z->cmdline_max, MAP_BOOT_CMDLINE_END - MAP_BOOT_CMDLINE - 1);

    if (len > max)
        return boot_error(src, err, E2BIG, "the command line has %llu bytes and the kernel takes %llu",
                          (unsigned long long)len, (unsigned long long)max);
    return boot_write(src, to, "the command line", MAP_BOOT_CMDLINE, src->cmdline, len + 1, err);
}

/* A chain of one record: a seed, so that the kernel has good random numbers from the start. */
static int write_setup_data(const struct boot_source *src, const struct boot_target *to, struct error *err)
{
    u8 record[16 + RNG_SEED_SIZE] = {0};

    put_le64(record, 0); /* no next record */
    put_le32(record + 8, SETUP_RNG_SEED);
    put_le32(record + 12, RNG_SEED_SIZE);
    if (getrandom(record + 16, RNG_SEED_SIZE, GRND_NONBLOCK) != RNG_SEED_SIZE)
        return boot_error(src, err, EIO, "the host has no random numbers yet");
    return boot_write(src, to, "setup data", MAP_BOOT_SETUP_DATA, record, sizeof record, err);
}

static void fill_e820(u8 *zp, const struct e820 *map)
{
    zp[ZP_E820_ENTRIES] = (u8)map->count;
    for (unsigned i = 0; i < map->count; i++) {
        u8 *e = zp + ZP_E820_TABLE + i * E820_ENTRY_SIZE;
        put_le64(e, map->entry[i].start);
        put_le64(e + 8, map->entry[i].size);
        put_le32(e + 16, map->entry[i].type);
    }
}

static int write_zero_page(const struct boot_source *src, const struct boot_target *to,
                           const struct bzimage *z, u64 initrd, u64 initrd_size, struct error *err)
{
    u8 zp[ZP_SIZE] = {0};

    memcpy(zp + HDR_SETUP_SECTS, src->kernel.data + HDR_SETUP_SECTS, z->header_len);
    put_le16(zp + HDR_VID_MODE, 0xffff); /* "normal" */
    zp[HDR_TYPE_OF_LOADER] = 0xff;       /* none that has a number */
    zp[HDR_LOADFLAGS] &= (u8)~CAN_USE_HEAP;
    put_le32(zp + HDR_CODE32_START, (u32)z->load);
    put_le32(zp + HDR_RAMDISK_IMAGE, (u32)initrd);
    put_le32(zp + HDR_RAMDISK_SIZE, (u32)initrd_size);
    put_le32(zp + ZP_EXT_RAMDISK_IMAGE, (u32)(initrd >> 32));
    put_le32(zp + ZP_EXT_RAMDISK_SIZE, (u32)(initrd_size >> 32));
    put_le32(zp + HDR_CMD_LINE_PTR, MAP_BOOT_CMDLINE);
    if (z->version >= 0x209)
        put_le64(zp + HDR_SETUP_DATA, MAP_BOOT_SETUP_DATA);
    put_le64(zp + ZP_ACPI_RSDP, to->rsdp);
    fill_e820(zp, to->map);
    return boot_write(src, to, "boot parameters", MAP_BOOT_INFO, zp, sizeof zp, err);
}

static int bzimage_load(const struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
                        struct error *err)
{
    struct bzimage z = {0};
    u64 initrd = 0, initrd_size = 0;
    int r = parse_header(src, &z, err);

    if (!r)
        r = choose_address(src, to, &z, err);
    if (!r)
        r = boot_write(src, to, "the kernel", z.load, src->kernel.data + z.setup_size, z.payload_size, err);
    if (!r)
        r = place_initrd(src, to, &z, &initrd, &initrd_size, err);
    if (!r)
        r = write_cmdline(src, to, &z, err);
    if (!r)
        r = write_setup_data(src, to, err);
    if (!r)
        r = write_zero_page(src, to, &z, initrd, initrd_size, err);
    entry->mode = z.has_64 ? BOOT_LONG : BOOT_PROTECTED;
    entry->rip = z.load + (z.has_64 ? ENTRY_64_OFFSET : 0);
    entry->rsi = MAP_BOOT_INFO;
    return r;
}

const struct loader bzimage_loader = {.name = "bzImage", .claims = bzimage_claims, .load = bzimage_load};
