/* Any bytes as a kernel image: bzImage, ELF, Multiboot. The first byte picks how much memory there is. */
#include <stdlib.h>

#include "machine/loader.h"
#include "machine/memory-map.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static char kernel_path[] = "kernel", initrd_path[] = "initrd";

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
        if (size > 1 && boot_load(&src, &to, &entry, &err) == 0) {
            struct x86_state state = {0};
            boot_entry_apply(&entry, &state);
        }
        free(src.kernel.data);
    }
    memory_release(&memory);
    return 0;
}
