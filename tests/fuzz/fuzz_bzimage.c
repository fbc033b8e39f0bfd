/*
 * Any bytes as a kernel image: bzImage, ELF, Multiboot; and, with an image that is good, as its initrd. The
 * first byte picks which, and how much memory there is.
 */
#include <stdlib.h>

#include "machine/loader.h"
#include "machine/memory-map.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static char kernel_path[] = "kernel", initrd_path[] = "initrd";

/* The smallest bzImage that is taken; what was the kernel becomes its initrd. */
static void as_initrd(struct boot_source *src)
{
    static u8 image[2048];
    put_le16(image + 0x1fe, 0xaa55);
    put_le32(image + 0x202, 0x53726448);
    put_le16(image + 0x206, 0x20c);
    image[0x1f1] = 1;
    image[0x200] = 0xeb;
    image[0x201] = 0x6a;
    image[0x211] = 1;
    put_le32(image + 0x1f4, 64);
    put_le32(image + 0x22c, 0x7fffffff);
    put_le32(image + 0x238, 255);
    put_le32(image + 0x230, 0x200000);
    put_le64(image + 0x258, 0x1000000);
    put_le32(image + 0x260, 4096);
    src->module[0] = src->kernel;
    src->module[0].path = initrd_path;
    src->module_count = 1;
    src->kernel = (struct blob){.data = image, .size = sizeof image, .path = kernel_path};
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const u64 mib[] = {1, 16, 64, 256};
    static u8 initrd[5000];
    struct boot_source src = {.cmdline = "a=b"};
    struct memory memory;
    struct e820 map;
    struct boot_entry entry;
    struct error err;

    if (size < 1 || memory_init(&memory, mib[data[0] & 3] << 20, NULL))
        return 0;
    e820_build(&map, &memory);
    src.kernel.size = size - 1;
    src.kernel.path = kernel_path;
    /* A copy of the exact size, so that the sanitizer sees a read beyond its end. */
    src.kernel.data = malloc(size > 1 ? size - 1 : 1);
    if (src.kernel.data) {
        struct boot_target to = {.memory = &memory, .map = &map, .rsdp = MAP_FIRMWARE_TABLES};

        memcpy(src.kernel.data, data + 1, size - 1);
        if (data[0] & 4) {
            src.module[0] = (struct blob){.data = initrd, .size = sizeof initrd, .path = initrd_path};
            src.module_count = 1;
        }
        if (data[0] & 8)
            as_initrd(&src);
        if (size > 1 && boot_load(&src, &to, &entry, &err) == 0) {
            struct x86_state state = {0};
            boot_entry_apply(&entry, &state);
        }
        free(data[0] & 8 ? src.module[0].data : src.kernel.data);
    }
    memory_release(&memory);
    return 0;
}
