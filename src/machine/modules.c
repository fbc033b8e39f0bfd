/* Where modules and command lines go for the protocols that take lists of them (PVH, Multiboot). */
#include <errno.h>

#include "machine/loader-internal.h"

int boot_no_room_for_module(const struct boot_source *src, const struct boot_target *to, unsigned i,
                            struct error *err)
{
    return error_set(err, ENOSPC,
                     "not enough memory: initrd '%s' of %llu KiB does not fit beside the kernel in %llu MiB",
                     src->module[i].path ? src->module[i].path : "?",
                     (unsigned long long)(src->module[i].size + 1023) >> 10,
                     (unsigned long long)to->memory->ram_size >> 20);
}

int boot_place_modules(const struct boot_source *src, const struct boot_target *to, u64 first, u64 end,
                       bool at_top, struct boot_placement *placed, struct error *err)
{
    u64 total = 0, at;

    *placed = (struct boot_placement){0};
    for (unsigned i = 0; i < src->module_count; i++)
        total += ALIGN_UP(src->module[i].size, PAGE_SIZE);
    if (!total)
        return 0;
    first = ALIGN_UP(MAX(first, MAP_HIGH_MEMORY), PAGE_SIZE);
    end = ALIGN_DOWN(end, PAGE_SIZE);
    if (first > end || total > end - first)
        return boot_no_room_for_module(src, to, src->module_count - 1, err);
    at = at_top ? end - total : first;
    for (unsigned i = 0; i < src->module_count; i++) {
        if (memory_write(to->memory, at, src->module[i].data, src->module[i].size))
            return boot_no_room_for_module(src, to, i, err);
        placed->module[i] = at;
        at += ALIGN_UP(src->module[i].size, PAGE_SIZE);
    }
    placed->end = at;
    return 0;
}

/* Appends a string to the area of command lines; "@prefix @text" when there is a prefix. */
static int place_string(const struct boot_source *src, const struct boot_target *to, const char *prefix,
                        const char *text, u64 *at, struct error *err)
{
    u64 lead = prefix ? strlen(prefix) : 0, gap = prefix && *text ? 1 : 0, len = strlen(text) + 1;

    if (lead + gap + len > MAP_BOOT_CMDLINE_END - *at)
        return boot_error(src, err, E2BIG, "the command lines are longer than %llu bytes in all",
                          (unsigned long long)(MAP_BOOT_CMDLINE_END - MAP_BOOT_CMDLINE));
    if (boot_write(src, to, "the command line", *at, prefix, lead, err) ||
        boot_write(src, to, "the command line", *at + lead, " ", gap, err) ||
        boot_write(src, to, "the command line", *at + lead + gap, text, len, err))
        return -ENOSPC;
    *at += lead + gap + len;
    return 0;
}

int boot_place_cmdlines(const struct boot_source *src, const struct boot_target *to, bool with_paths,
                        struct boot_placement *placed, struct error *err)
{
    u64 at = MAP_BOOT_CMDLINE;
    int r;

    placed->cmdline = at;
    r = place_string(src, to, with_paths ? src->kernel.path : NULL, src->cmdline, &at, err);
    for (unsigned i = 0; !r && i < src->module_count; i++) {
        placed->module_args[i] = at;
        r = place_string(src, to, with_paths ? src->module[i].path : NULL,
                         src->module_args[i] ? src->module_args[i] : "", &at, err);
    }
    return r;
}
