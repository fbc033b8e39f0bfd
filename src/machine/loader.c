#include "machine/loader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "machine/loader-internal.h"

/*
 * In order. A Multiboot header is looked for before a PVH note because images that carry both (Xen)
 * want their modules the Multiboot way.
 */
static const struct loader *const loaders[] = {&bzimage_loader, &multiboot_loader, &pvh_loader};

int boot_error(const struct boot_source *src, struct error *err, int code, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return error_set(err, code, "kernel '%s': %s", src->kernel.path ? src->kernel.path : "?", text);
}

bool boot_range_free(const struct boot_target *to, u64 gpa, u64 len)
{
    return gpa >= MAP_HIGH_MEMORY && (len == 0 || memory_span(to->memory, gpa, len));
}

int boot_no_room(const struct boot_source *src, const struct boot_target *to, const char *what, u64 gpa,
                 u64 len, struct error *err)
{
    return boot_error(src, err, ENOSPC,
                      "not enough memory: %s needs %llu KiB at 0x%llx and the guest has %llu MiB in all",
                      what, (unsigned long long)(len + 1023) >> 10, (unsigned long long)gpa,
                      (unsigned long long)to->memory->ram_size >> 20);
}

int boot_write(const struct boot_source *src, const struct boot_target *to, const char *what, u64 gpa,
               const void *data, u64 len, struct error *err)
{
    if (len && memory_write(to->memory, gpa, data, len))
        return boot_no_room(src, to, what, gpa, len, err);
    return 0;
}

int boot_zero(const struct boot_source *src, const struct boot_target *to, const char *what, u64 gpa, u64 len,
              struct error *err)
{
    void *p;

    if (!len)
        return 0;
    p = memory_span(to->memory, gpa, len);
    if (!p)
        return boot_no_room(src, to, what, gpa, len, err);
    memset(p, 0, len);
    memory_span_written(to->memory, gpa, len);
    return 0;
}

/* What a file that no loader wants looks like, to make the message useful. */
static const char *describe(const struct blob *b)
{
    static const struct {
        const char *magic;
        unsigned len, offset;
        const char *text;
    } kinds[] = {
        {"\x1f\x8b", 2, 0, "it is gzip-compressed; unpack it first"},
        {"\xfd"
         "7zXZ",
         5, 0, "it is xz-compressed; unpack it first"},
        {"\x28\xb5\x2f\xfd", 4, 0, "it is zstd-compressed; unpack it first"},
        {"ARM\x64", 4, 0x38, "it is a kernel for 64-bit ARM"},
        {"\xd6\x50\x52\xe8", 4, 0, "it is a Multiboot 2 image"},
        {"QFI\xfb", 4, 0, "it is a qcow2 disk image"},
        {"MZ", 2, 0, "it is an EFI program that is no Linux kernel"},
        {"\x7f"
         "ELF",
         4, 0, "it is an ELF file with neither a PVH note nor a Multiboot header"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        if (range_in(kinds[i].offset, kinds[i].len, b->size) &&
            !memcmp(b->data + kinds[i].offset, kinds[i].magic, kinds[i].len))
            return kinds[i].text;
    return "it is neither a bzImage, nor an ELF with a PVH note, nor a Multiboot image";
}

static int load(const struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
                struct error *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(loaders); i++) {
        int r;

        if (!loaders[i]->claims(&src->kernel))
            continue;
        *entry = (struct boot_entry){0};
        r = loaders[i]->load(src, to, entry, err);
        if (r)
            return r;
        trace(boot, "loaded '%s' as %s: entry 0x%llx", src->kernel.path, loaders[i]->name,
              (unsigned long long)entry->rip);
        return boot_prepare_memory(src, to, entry, err);
    }
    return boot_error(src, err, ENOEXEC, "not a kernel that can be booted: %s", describe(&src->kernel));
}

int boot_load(struct boot_source *src, const struct boot_target *to, struct boot_entry *entry,
              struct error *err)
{
    int r = blob_want(&src->kernel, err);
    for (unsigned i = 0; !r && i < src->module_count; i++)
        r = blob_want(&src->module[i], err);
    if (!r)
        r = load(src, to, entry, err);
    blob_drop(&src->kernel);
    for (unsigned i = 0; i < src->module_count; i++)
        blob_drop(&src->module[i]);
    return r;
}

void boot_source_release(struct boot_source *src)
{
    blob_release(&src->kernel);
    for (unsigned i = 0; i < src->module_count; i++)
        blob_release(&src->module[i]);
    src->module_count = 0;
}
