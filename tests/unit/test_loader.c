/* Kernel loaders on images made here: where things go, what is handed over, and how bad ones are refused. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/loader.h"
#include "machine/memory-map.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* --- one guest and one image at a time --- */

static struct memory memory;
static struct e820 map;
static u8 image[256 * 1024], initrd[3 * 4096 + 5];
static struct boot_source src;
static struct boot_entry entry;
static struct error err;
static char kernel_path[] = "vmlinuz", initrd_path[] = "initrd.img";

static int release(void **state)
{
    memory_release(&memory);
    return 0;
}

static void make_guest(u64 size)
{
    assert_int_equal(memory_init(&memory, size, NULL), 0);
    e820_build(&map, &memory);
}

static int setup(void **state)
{
    memset(image, 0, sizeof image);
    memset(initrd, 0x5a, sizeof initrd);
    memcpy(initrd, "\x1f\x8b", 2); /* gzip */
    src = (struct boot_source){.kernel = {.data = image, .size = sizeof image, .path = kernel_path},
                               .cmdline = "console=ttyS0"};
    err = (struct error){0};
    make_guest(256 * MIB);
    return 0;
}

static void guest_of(u64 size)
{
    memory_release(&memory);
    make_guest(size);
}

static void add_initrd(u64 size)
{
    src.module[src.module_count].data = initrd;
    src.module[src.module_count].size = size;
    src.module[src.module_count].path = initrd_path;
    src.module_count++;
}

static int load(void)
{
    struct boot_target to = {.memory = &memory, .map = &map, .rsdp = MAP_FIRMWARE_TABLES};
    return boot_load(&src, &to, &entry, &err);
}

static void load_ok(void)
{
    if (load())
        fail_msg("%s", err.text);
}

/* The load fails with one line that names the file and says @why. */
static void load_fails(const char *why)
{
    assert_true(load() < 0);
    assert_non_null(strstr(err.text, "'vmlinuz'"));
    if (!strstr(err.text, why))
        fail_msg("'%s' is not in '%s'", why, err.text);
    assert_null(strchr(err.text, '\n'));
}

static const u8 *ram(u64 gpa)
{
    const u8 *p = memory_ram(&memory, gpa);
    assert_non_null(p);
    return p;
}

/* --- bzImage --- */

#define SETUP_BYTES 1024
#define PAYLOAD_BYTES 65536

static void make_bzimage(void)
{
    u8 *p = image;

    p[0x1f1] = 1; /* setup sectors, with the boot sector 1024 bytes */
    put_le32(p + 0x1f4, PAYLOAD_BYTES / 16);
    put_le16(p + 0x1fe, 0xaa55);
    p[0x200] = 0xeb;
    p[0x201] = 0x6a; /* the header ends at 0x202 + 0x6a */
    memcpy(p + 0x202, "HdrS", 4);
    put_le16(p + 0x206, 0x20f);
    p[0x211] = 0x81;
    put_le32(p + 0x214, 0x100000);
    put_le32(p + 0x22c, 0x7fffffff);
    put_le32(p + 0x230, 2 * MIB);
    p[0x234] = 1;
    put_le16(p + 0x236, 3);
    put_le32(p + 0x238, 2047);
    put_le64(p + 0x258, 16 * MIB);
    put_le32(p + 0x260, 32 * MIB);
    memset(p + SETUP_BYTES, 0xc5, PAYLOAD_BYTES);
    src.kernel.size = SETUP_BYTES + PAYLOAD_BYTES;
}

static void bzimage_goes_to_its_preferred_address(void **state)
{
    make_bzimage();
    load_ok();
    assert_int_equal(entry.mode, BOOT_LONG);
    assert_int_equal(entry.rip, 16 * MIB + 0x200);
    assert_int_equal(entry.rsi, MAP_BOOT_INFO);
    assert_memory_equal(ram(16 * MIB), image + SETUP_BYTES, PAYLOAD_BYTES);
}

static void bzimage_goes_low_when_the_preferred_address_is_not_ram(void **state)
{
    make_bzimage();
    put_le64(image + 0x258, 240 * MIB);
    load_ok();
    assert_int_equal(entry.rip, 2 * MIB + 0x200);
}

static void bzimage_without_64_bit_entry_starts_in_32_bits(void **state)
{
    make_bzimage();
    put_le16(image + 0x236, 0);
    load_ok();
    assert_int_equal(entry.mode, BOOT_PROTECTED);
    assert_int_equal(entry.rip, 16 * MIB);
}

static void bzimage_of_protocol_2_06_goes_to_1_mib(void **state)
{
    make_bzimage();
    put_le16(image + 0x206, 0x206);
    image[0x234] = 0;
    load_ok();
    assert_int_equal(entry.mode, BOOT_PROTECTED);
    assert_int_equal(entry.rip, MIB);
    /* setup_data came with 2.09 */
    assert_int_equal(get_le64(ram(MAP_BOOT_INFO) + 0x250), 0);
}

static void zero_page_tells_command_line_rsdp_and_loader(void **state)
{
    const u8 *zp;

    make_bzimage();
    load_ok();
    zp = ram(MAP_BOOT_INFO);
    assert_memory_equal(zp + 0x202, "HdrS", 4);
    assert_int_equal(zp[0x210], 0xff);
    assert_int_equal(get_le32(zp + 0x214), 16 * MIB);
    assert_string_equal((const char *)ram(get_le32(zp + 0x228)), "console=ttyS0");
    assert_int_equal(get_le64(zp + 0x70), MAP_FIRMWARE_TABLES);
    /* Bytes behind the header are the loader's, not the image's. */
    assert_int_equal(get_le32(zp + 0x26c), 0);
}

static void zero_page_lists_the_memory_map(void **state)
{
    const u8 *zp;
    u64 total = 0;

    make_bzimage();
    guest_of(4 * GIB);
    load_ok();
    zp = ram(MAP_BOOT_INFO);
    assert_int_equal(zp[0x1e8], map.count);
    for (unsigned i = 0; i < map.count; i++) {
        const u8 *e = zp + 0x2d0 + 20 * i;
        assert_int_equal(get_le64(e), map.entry[i].start);
        if (get_le32(e + 16) == E820_RAM)
            total += get_le64(e + 8);
    }
    /* All but the last 385 KiB of the first MiB. */
    assert_int_equal(total, 4 * GIB - (MIB - MAP_EBDA));
}

static void setup_data_is_one_seed(void **state)
{
    const u8 *record;

    make_bzimage();
    load_ok();
    record = ram(get_le64(ram(MAP_BOOT_INFO) + 0x250));
    assert_int_equal(get_le64(record), 0);
    assert_int_equal(get_le32(record + 8), 9);
    assert_int_equal(get_le32(record + 12), 32);
}

static u64 initrd_address(void)
{
    const u8 *zp = ram(MAP_BOOT_INFO);
    return get_le32(zp + 0x218) | (u64)get_le32(zp + 0xc0) << 32;
}

static void check_initrd(u64 memory_size, u64 expected_end)
{
    make_bzimage();
    guest_of(memory_size);
    add_initrd(sizeof initrd);
    load_ok();
    assert_int_equal(initrd_address(), ALIGN_DOWN(expected_end - sizeof initrd, PAGE_SIZE));
    assert_int_equal(get_le32(ram(MAP_BOOT_INFO) + 0x21c), sizeof initrd);
    assert_memory_equal(ram(initrd_address()), initrd, sizeof initrd);
}

static void initrd_goes_to_the_top_of_256_mib(void **state)
{
    check_initrd(256 * MIB, 256 * MIB);
}

static void initrd_stays_below_the_kernels_limit_in_4_gib(void **state)
{
    check_initrd(4 * GIB, 2 * GIB);
}

static void initrd_stays_below_the_kernels_limit_in_16_gib(void **state)
{
    check_initrd(16 * GIB, 2 * GIB);
}

static void initrd_goes_above_4_gib_when_it_must_and_may(void **state)
{
    make_bzimage();
    put_le32(image + 0x22c, 17 * MIB);
    guest_of(4 * GIB);
    add_initrd(sizeof initrd);
    load_ok();
    assert_int_equal(initrd_address(),
                     ALIGN_DOWN(MEMORY_HOLE_END + 4 * GIB - MEMORY_HOLE_START - sizeof initrd, PAGE_SIZE));
    assert_memory_equal(ram(initrd_address()), initrd, sizeof initrd);
}

static void several_initrds_follow_each_other_at_multiples_of_4(void **state)
{
    make_bzimage();
    add_initrd(5);
    add_initrd(7);
    load_ok();
    assert_int_equal(get_le32(ram(MAP_BOOT_INFO) + 0x21c), 8 + 7);
    assert_memory_equal(ram(initrd_address()), "\x1f\x8bZZZ\0\0\0\x1f\x8bZZZZZ", 15);
}

/* A cpio archive (newc) of one file of @size bytes and, maybe, the trailer. */
static u64 make_cpio(u32 size, bool whole)
{
    char *p = (char *)initrd;
    memset(initrd, 0, sizeof initrd);
    int n = snprintf(p, sizeof initrd, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08xa", 1,
                     0x81a4, 0, 0, 1, 0, size, 0, 0, 0, 0, 2, 0);
    u64 at = ALIGN_UP((u64)n + 1, 4) + ALIGN_UP(size, 4);
    if (whole)
        n = snprintf(p + at, sizeof initrd - at, "070701%088d%08x%08dTRAILER!!!", 0, 11, 0);
    return whole ? at + (u64)n + 1 : at;
}

static void an_archive_cut_short_is_refused(void **state)
{
    u64 size = make_cpio(1000, true);
    make_bzimage();
    add_initrd(size);
    assert_int_equal(load(), 0);
    for (u64 n = 1; n < size; n++) {
        src.module[0].size = n;
        assert_int_equal(load(), -EINVAL);
        assert_non_null(strstr(err.text, "initrd 'initrd.img' is"));
    }
    src.module[0].size = make_cpio(0xffffffff, false);
    assert_int_equal(load(), -EINVAL);
}

static void an_initrd_that_is_no_archive_is_refused(void **state)
{
    static const char good[][9] = {"\x28\xb5\x2f\xfd", "hsqs", "BZh9", "\xfd\x37zXZ", "-rom1fs-"};
    make_bzimage();
    memset(initrd, 'Z', sizeof initrd);
    add_initrd(sizeof initrd);
    assert_int_equal(load(), -EINVAL);
    assert_non_null(strstr(err.text, "initrd 'initrd.img' is neither"));
    for (unsigned n = 0; n < ARRAY_SIZE(good); n++) {
        memcpy(initrd, good[n], strlen(good[n]));
        assert_int_equal(load(), 0);
    }
}

static void initrd_without_room_is_refused(void **state)
{
    make_bzimage();
    guest_of(49 * MIB);
    put_le32(image + 0x22c, 48 * MIB); /* the kernel needs [16, 48) MiB */
    add_initrd(sizeof initrd);
    assert_true(load() < 0);
    assert_non_null(strstr(err.text, "initrd 'initrd.img'"));
    assert_non_null(strstr(err.text, "not enough memory"));
}

static void kernel_without_room_is_refused(void **state)
{
    make_bzimage();
    guest_of(8 * MIB);
    load_fails("not enough memory");
}

static void long_command_line_is_refused(void **state)
{
    static char cmdline[3000];

    make_bzimage();
    memset(cmdline, 'a', 2048);
    src.cmdline = cmdline;
    load_fails("command line");
    cmdline[2047] = 0;
    load_ok();
}

static void truncated_bzimage_is_refused_at_every_length(void **state)
{
    make_bzimage();
    for (u64 size = 0; size < SETUP_BYTES + PAYLOAD_BYTES - 16; size += size < SETUP_BYTES ? 1 : 997) {
        src.kernel.size = size;
        assert_true(load() < 0);
    }
    src.kernel.size = 700;
    load_fails("truncated");
    src.kernel.size = 10000;
    load_fails("truncated");
}

static void bzimage_with_bad_fields_is_refused(void **state)
{
    make_bzimage();
    put_le16(image + 0x206, 0x205);
    load_fails("boot protocol 2.05 is too old");
    make_bzimage();
    image[0x211] = 0;
    load_fails("zImage");
    make_bzimage();
    put_le32(image + 0x230, 3 * MIB);
    load_fails("alignment");
    make_bzimage();
    put_le32(image + 0x260, 0xffffffff);
    load_fails("not enough memory");
}

/* --- ELF and PVH --- */

#define ELF_LOAD_OFFSET 0x1000
#define ELF_LOAD_BYTES 0x2000
#define ELF_NOTE_OFFSET 0x4000

static void put_note(u32 entry_point)
{
    u8 *n = image + ELF_NOTE_OFFSET;

    put_le32(n, 4); /* a note of someone else first */
    put_le32(n + 4, 3);
    put_le32(n + 8, 18);
    memcpy(n + 12, "GNU", 4);
    put_le32(n + 20, 4);
    put_le32(n + 24, 4);
    put_le32(n + 28, 18);
    memcpy(n + 32, "Xen", 4);
    put_le32(n + 36, entry_point);
}
#define NOTE_BYTES 40

static Elf64_Phdr *phdr64(unsigned i)
{
    return (Elf64_Phdr *)(image + sizeof(Elf64_Ehdr)) + i;
}

static void make_elf64(void)
{
    Elf64_Ehdr *eh = (Elf64_Ehdr *)image;

    memset(image, 0, sizeof image);
    memcpy(eh->e_ident, ELFMAG, SELFMAG);
    eh->e_ident[EI_CLASS] = ELFCLASS64;
    eh->e_ident[EI_DATA] = ELFDATA2LSB;
    eh->e_type = ET_EXEC;
    eh->e_machine = EM_X86_64;
    eh->e_entry = 0xffffffff81000100;
    eh->e_phoff = sizeof *eh;
    eh->e_phentsize = sizeof(Elf64_Phdr);
    eh->e_phnum = 2;
    *phdr64(0) = (Elf64_Phdr){.p_type = PT_LOAD,
                              .p_offset = ELF_LOAD_OFFSET,
                              .p_vaddr = 0xffffffff81000000,
                              .p_paddr = 16 * MIB,
                              .p_filesz = ELF_LOAD_BYTES,
                              .p_memsz = ELF_LOAD_BYTES + 0x3000};
    *phdr64(1) = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = ELF_NOTE_OFFSET, .p_filesz = NOTE_BYTES};
    memset(image + ELF_LOAD_OFFSET, 0xe1, ELF_LOAD_BYTES);
    put_note(16 * MIB + 0x40);
    src.kernel.size = ELF_NOTE_OFFSET + NOTE_BYTES;
}

static void pvh_elf_is_loaded_and_entered_at_its_note(void **state)
{
    make_elf64();
    memset(memory_ram(&memory, 16 * MIB + ELF_LOAD_BYTES), 0xff, 0x3000);
    load_ok();
    assert_int_equal(entry.mode, BOOT_PROTECTED);
    assert_int_equal(entry.rip, 16 * MIB + 0x40);
    assert_int_equal(entry.rbx, MAP_BOOT_INFO);
    assert_memory_equal(ram(16 * MIB), image + ELF_LOAD_OFFSET, ELF_LOAD_BYTES);
    for (unsigned i = 0; i < 0x3000; i++)
        assert_int_equal(ram(16 * MIB + ELF_LOAD_BYTES)[i], 0);
}

static void pvh_start_info_lists_everything(void **state)
{
    const u8 *info, *module, *e;

    make_elf64();
    add_initrd(sizeof initrd);
    src.module_args[0] = "one";
    load_ok();
    info = ram(entry.rbx);
    assert_int_equal(get_le32(info), 0x336ec578);
    assert_int_equal(get_le32(info + 4), 1);
    assert_int_equal(get_le32(info + 12), 1);
    assert_string_equal((const char *)ram(get_le64(info + 24)), "console=ttyS0");
    assert_int_equal(get_le64(info + 32), MAP_FIRMWARE_TABLES);
    module = ram(get_le64(info + 16));
    assert_memory_equal(ram(get_le64(module)), initrd, sizeof initrd);
    assert_int_equal(get_le64(module + 8), sizeof initrd);
    assert_string_equal((const char *)ram(get_le64(module + 16)), "one");
    assert_int_equal(get_le32(info + 48), map.count);
    e = ram(get_le64(info + 40));
    for (unsigned i = 0; i < map.count; i++, e += 24) {
        assert_int_equal(get_le64(e), map.entry[i].start);
        assert_int_equal(get_le64(e + 8), map.entry[i].size);
        assert_int_equal(get_le32(e + 16), map.entry[i].type);
    }
}

static void elf_without_note_or_header_is_refused(void **state)
{
    make_elf64();
    image[ELF_NOTE_OFFSET + 28] = 17;
    load_fails("PVH note");
}

static void elf_with_bad_fields_is_refused(void **state)
{
    make_elf64();
    ((Elf64_Ehdr *)image)->e_machine = EM_AARCH64;
    load_fails("another processor");
    make_elf64();
    phdr64(0)->p_offset = 1ull << 60;
    load_fails("truncated");
    make_elf64();
    phdr64(0)->p_filesz = ~0ull;
    load_fails("truncated");
    make_elf64();
    phdr64(0)->p_memsz = 1;
    load_fails("impossible");
    make_elf64();
    phdr64(0)->p_paddr = ~0ull - 0x100;
    load_fails("impossible");
    make_elf64();
    phdr64(0)->p_paddr = 0x1000;
    put_note(0x1040);
    load_fails("below 1 MiB");
    make_elf64();
    phdr64(0)->p_paddr = 255 * MIB + 0xfe000;
    put_note(255 * MIB + 0xfe000);
    load_fails("not enough memory");
    make_elf64();
    ((Elf64_Ehdr *)image)->e_phoff = ~0ull - 10;
    load_fails("truncated");
    make_elf64();
    phdr64(0)->p_type = PT_NULL;
    load_fails("nothing to load");
    make_elf64();
    put_note(8 * MIB);
    load_fails("entry point");
}

static void notes_with_wild_sizes_are_not_followed(void **state)
{
    make_elf64();
    put_le32(image + ELF_NOTE_OFFSET, 0xffffffff);
    load_fails("PVH note");
    make_elf64();
    put_le32(image + ELF_NOTE_OFFSET + 4, 0xfffffffd);
    load_fails("PVH note");
}

static void truncated_elf_is_refused_at_every_length(void **state)
{
    make_elf64();
    for (u64 size = 0, full = src.kernel.size; size < full; size += size < 256 ? 1 : 61) {
        src.kernel.size = size;
        assert_true(load() < 0);
    }
}

/* --- Multiboot --- */

#define MB_OFFSET 0x80

static void put_multiboot_header(u32 flags)
{
    put_le32(image + MB_OFFSET, 0x1badb002);
    put_le32(image + MB_OFFSET + 4, flags);
    put_le32(image + MB_OFFSET + 8, 0u - 0x1badb002 - flags);
}

/* With load addresses: image at 2 MiB, the entry 0x200 behind. */
static void make_multiboot(void)
{
    u8 *h = image + MB_OFFSET;

    memset(image, 0xab, sizeof image);
    put_multiboot_header(0x10003);
    put_le32(h + 12, 2 * MIB + MB_OFFSET);
    put_le32(h + 16, 2 * MIB);
    put_le32(h + 20, 2 * MIB + 0x3000);
    put_le32(h + 24, 2 * MIB + 0x5000);
    put_le32(h + 28, 2 * MIB + 0x200);
    src.kernel.size = 0x3000;
}

static void multiboot_goes_where_its_header_says(void **state)
{
    make_multiboot();
    memset(memory_ram(&memory, 2 * MIB + 0x3000), 0xff, 0x2000);
    load_ok();
    assert_int_equal(entry.mode, BOOT_PROTECTED);
    assert_int_equal(entry.rax, 0x2badb002);
    assert_int_equal(entry.rip, 2 * MIB + 0x200);
    assert_memory_equal(ram(2 * MIB), image, 0x3000);
    for (unsigned i = 0; i < 0x2000; i++)
        assert_int_equal(ram(2 * MIB + 0x3000)[i], 0);
}

static void multiboot_information_is_complete(void **state)
{
    const u8 *info, *module;

    make_multiboot();
    add_initrd(sizeof initrd);
    src.module_args[0] = "x=1";
    load_ok();
    info = ram(entry.rbx);
    assert_int_equal(get_le32(info) & 0x24d, 0x24d);
    assert_int_equal(get_le32(info + 4), MAP_EBDA / 1024);
    assert_int_equal(get_le32(info + 8), 255 * 1024);
    assert_string_equal((const char *)ram(get_le32(info + 16)), "vmlinuz console=ttyS0");
    assert_int_equal(get_le32(info + 20), 1);
    module = ram(get_le32(info + 24));
    assert_int_equal(get_le32(module), 2 * MIB + 0x5000);
    assert_int_equal(get_le32(module + 4), 2 * MIB + 0x5000 + sizeof initrd);
    assert_string_equal((const char *)ram(get_le32(module + 8)), "initrd.img x=1");
    assert_memory_equal(ram(get_le32(module)), initrd, sizeof initrd);
    assert_int_equal(get_le32(info + 44), map.count * 24);
    assert_int_equal(get_le32(ram(get_le32(info + 48))), 20);
    assert_memory_equal(ram(get_le32(info + 64)), "trapeze", 7);
}

static void multiboot_elf_is_loaded_by_its_segments(void **state)
{
    make_elf64();
    image[ELF_NOTE_OFFSET + 28] = 17; /* no PVH note */
    memmove(image + MB_OFFSET + 0x100, image + MB_OFFSET, 12);
    put_le32(image + ELF_LOAD_OFFSET, 0x1badb002);
    put_le32(image + ELF_LOAD_OFFSET + 4, 3);
    put_le32(image + ELF_LOAD_OFFSET + 8, 0u - 0x1badb002 - 3);
    load_ok();
    assert_int_equal(entry.rax, 0x2badb002);
    assert_int_equal(entry.rip, 16 * MIB + 0x100); /* the virtual entry point, translated */
}

static void multiboot_with_bad_fields_is_refused(void **state)
{
    make_multiboot();
    put_multiboot_header(0x10008);
    load_fails("unknown features");
    make_multiboot();
    put_multiboot_header(3);
    load_fails("no load addresses");
    make_multiboot();
    put_le32(image + MB_OFFSET + 16, 3 * MIB); /* load address behind the header's */
    load_fails("impossible");
    make_multiboot();
    put_le32(image + MB_OFFSET + 12, 2 * MIB + MB_OFFSET + 4); /* the image would start before the file */
    load_fails("impossible");
    make_multiboot();
    put_le32(image + MB_OFFSET + 20, 2 * MIB + 0x3001);
    load_fails("truncated");
    make_multiboot();
    put_le32(image + MB_OFFSET + 28, 2 * MIB + 0x5000);
    load_fails("entry point");
    make_multiboot();
    put_le32(image + MB_OFFSET + 24, 0xfffffff0);
    load_fails("not enough memory");
    make_multiboot();
    put_multiboot_header(0x10003);
    image[MB_OFFSET + 8] ^= 1; /* checksum */
    load_fails("not a kernel");
}

/* --- picking, and the entry state --- */

static void other_files_are_named_for_what_they_are(void **state)
{
    memset(image, 0, sizeof image);
    load_fails("neither a bzImage");
    memcpy(image, "\x1f\x8b\x08", 3);
    load_fails("gzip");
    memcpy(image, "QFI\xfb", 4);
    load_fails("qcow2");
    src.kernel.size = 1;
    load_fails("not a kernel");
}

static void long_entry_has_identity_page_tables_of_4_gib(void **state)
{
    u64 pml4e, pdpte, pde;

    make_bzimage();
    load_ok();
    for (u64 va = 0; va < 4 * GIB; va += 2 * MIB) {
        pml4e = get_le64(ram(entry.cr3));
        pdpte = get_le64(ram((pml4e & PAGE_MASK) + (va >> 30) * 8));
        pde = get_le64(ram((pdpte & PAGE_MASK) + (va >> 21 & 511) * 8));
        assert_int_equal(pde, va | 0x83);
    }
}

static void entry_state_matches_its_descriptor_table(void **state)
{
    struct x86_state s = {.rflags = ~0ull};
    u64 code;

    make_bzimage();
    load_ok();
    boot_entry_apply(&entry, &s);
    assert_true(s.cr0 & X86_CR0_PG);
    assert_true(s.efer & X86_EFER_LMA);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.seg[X86_CS].selector, 0x10);
    code = get_le64(ram(s.gdt.base + 0x10));
    assert_int_equal(code, 0x00af9b000000ffff);
    assert_true(s.seg[X86_CS].attr & X86_ATTR_L);

    make_elf64();
    load_ok();
    boot_entry_apply(&entry, &s);
    assert_int_equal(s.cr0, X86_CR0_PE | X86_CR0_ET);
    assert_int_equal(s.efer, 0);
    assert_int_equal(get_le64(ram(s.gdt.base + 0x10)), 0x00cf9b000000ffff);
    assert_int_equal(get_le64(ram(s.gdt.base + 0x18)), 0x00cf93000000ffff);
}

static void e820_is_sorted_and_disjoint(void **state)
{
    static const u64 sizes[] = {MIB, 256 * MIB, 3 * GIB, 4 * GIB, 16 * GIB};

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        u64 end = 0;
        guest_of(sizes[i]);
        for (unsigned j = 0; j < map.count; j++) {
            assert_true(map.entry[j].start >= end);
            assert_true(map.entry[j].size > 0);
            end = map.entry[j].start + map.entry[j].size;
        }
    }
}

/* --- blobs --- */

static char blob_path[] = "/tmp/trapeze-blob-XXXXXX";

static int write_blob_file(const char *text)
{
    memset(blob_path + strlen(blob_path) - 6, 'X', 6);
    int fd = mkstemp(blob_path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    return fd;
}

static void dropped_bytes_come_back_even_of_a_deleted_file(void **state)
{
    struct blob b;
    close(write_blob_file("bytes"));
    assert_int_equal(blob_read(&b, "kernel", blob_path, MIB, &err), 0);
    unlink(blob_path);
    blob_drop(&b);
    assert_null(b.data);
    assert_int_equal(blob_want(&b, &err), 0);
    assert_memory_equal(b.data, "bytes", 5);
    blob_release(&b);
}

static void a_file_that_became_shorter_is_refused(void **state)
{
    struct blob b;
    int fd = write_blob_file("bytes");
    assert_int_equal(blob_read(&b, "kernel", blob_path, MIB, &err), 0);
    blob_drop(&b);
    assert_int_equal(ftruncate(fd, 3), 0);
    assert_int_equal(blob_want(&b, &err), -ENODATA);
    assert_non_null(strstr(err.text, "shorter"));
    blob_release(&b);
    close(fd);
    unlink(blob_path);
}

static void what_came_through_a_pipe_is_kept(void **state)
{
    struct blob b;
    char path[32];
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "bytes", 5), 5);
    close(fds[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", fds[0]);
    assert_int_equal(blob_read(&b, "initrd", path, MIB, &err), 0);
    close(fds[0]);
    blob_drop(&b);
    assert_int_equal(blob_want(&b, &err), 0);
    assert_memory_equal(b.data, "bytes", 5);
    blob_release(&b);
}

static void loading_drops_the_bytes_and_loads_again(void **state)
{
    close(write_blob_file("\x1f\x8b an initrd"));
    assert_int_equal(blob_read(&src.module[0], "initrd", blob_path, MIB, &err), 0);
    unlink(blob_path);
    src.module_count = 1;
    make_bzimage();
    for (int i = 0; i < 2; i++) {
        load_ok();
        assert_null(src.module[0].data);
    }
    blob_release(&src.module[0]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, release)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(bzimage_goes_to_its_preferred_address),
        TEST(bzimage_goes_low_when_the_preferred_address_is_not_ram),
        TEST(bzimage_without_64_bit_entry_starts_in_32_bits),
        TEST(bzimage_of_protocol_2_06_goes_to_1_mib),
        TEST(zero_page_tells_command_line_rsdp_and_loader),
        TEST(zero_page_lists_the_memory_map),
        TEST(setup_data_is_one_seed),
        TEST(an_archive_cut_short_is_refused),
        TEST(an_initrd_that_is_no_archive_is_refused),
        TEST(initrd_goes_to_the_top_of_256_mib),
        TEST(initrd_stays_below_the_kernels_limit_in_4_gib),
        TEST(initrd_stays_below_the_kernels_limit_in_16_gib),
        TEST(initrd_goes_above_4_gib_when_it_must_and_may),
        TEST(several_initrds_follow_each_other_at_multiples_of_4),
        TEST(initrd_without_room_is_refused),
        TEST(kernel_without_room_is_refused),
        TEST(long_command_line_is_refused),
        TEST(truncated_bzimage_is_refused_at_every_length),
        TEST(bzimage_with_bad_fields_is_refused),
        TEST(pvh_elf_is_loaded_and_entered_at_its_note),
        TEST(pvh_start_info_lists_everything),
        TEST(elf_without_note_or_header_is_refused),
        TEST(elf_with_bad_fields_is_refused),
        TEST(notes_with_wild_sizes_are_not_followed),
        TEST(truncated_elf_is_refused_at_every_length),
        TEST(multiboot_goes_where_its_header_says),
        TEST(multiboot_information_is_complete),
        TEST(multiboot_elf_is_loaded_by_its_segments),
        TEST(multiboot_with_bad_fields_is_refused),
        TEST(other_files_are_named_for_what_they_are),
        TEST(long_entry_has_identity_page_tables_of_4_gib),
        TEST(entry_state_matches_its_descriptor_table),
        TEST(e820_is_sorted_and_disjoint),
        TEST(dropped_bytes_come_back_even_of_a_deleted_file),
        TEST(a_file_that_became_shorter_is_refused),
        TEST(what_came_through_a_pipe_is_kept),
        TEST(loading_drops_the_bytes_and_loads_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
