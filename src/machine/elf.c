/* ELF executables, 32 and 64 bits, as boot loaders read them: only program headers matter. */
#include <elf.h>
#include <errno.h>

#include "machine/loader-internal.h"

bool elf_claims(const struct blob *kernel)
{
    return kernel->size >= SELFMAG && !memcmp(kernel->data, ELFMAG, SELFMAG);
}

static int check_ident(const struct boot_source *src, const u8 *ident, u16 type, u16 machine,
                       struct error *err)
{
    if (ident[EI_DATA] != ELFDATA2LSB || (machine != EM_386 && machine != EM_X86_64))
        return boot_error(src, err, ENOEXEC, "it is an ELF file for another processor (machine %u)", machine);
    if (type != ET_EXEC && type != ET_DYN)
        return boot_error(src, err, ENOEXEC, "it is an ELF file but not an executable");
    return 0;
}

static int add_segment(const struct boot_source *src, struct elf_image *elf, u32 type,
                       const struct elf_segment *s, struct error *err)
{
    if (type != PT_LOAD && type != PT_NOTE)
        return 0;
    if (!range_in(s->offset, s->filesz, src->kernel.size))
        return boot_error(src, err, ENOEXEC, "the file is truncated (a segment ends beyond its end)");
    if (type == PT_NOTE) {
        if (elf->note_count < ELF_MAX_SEGMENTS)
            elf->note[elf->note_count++] = *s;
        return 0;
    }
    if (s->memsz == 0)
        return 0;
    if (s->filesz > s->memsz || s->paddr + s->memsz < s->paddr || s->vaddr + s->memsz < s->vaddr)
        return boot_error(src, err, ENOEXEC, "a segment of the ELF file has impossible sizes");
    if (elf->load_count == ELF_MAX_SEGMENTS)
        return boot_error(src, err, ENOEXEC, "the ELF file has too many segments");
    elf->load[elf->load_count++] = *s;
    elf->start = MIN(elf->start, s->paddr);
    elf->end = MAX(elf->end, s->paddr + s->memsz);
    return 0;
}

static int parse_program_headers(const struct boot_source *src, struct elf_image *elf, u64 phoff, u32 entsize,
                                 u32 count, struct error *err)
{
    const struct blob *b = &src->kernel;
    u32 want = elf->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

    if (entsize < want || !range_in(phoff, (u64)entsize * count, b->size))
        return boot_error(src, err, ENOEXEC, "the file is truncated (no ELF program headers)");
    for (u32 i = 0; i < count; i++) {
        const u8 *at = b->data + phoff + (u64)i * entsize;
        struct elf_segment s;
        u32 type;
        int r;

        if (elf->is_64) {
            Elf64_Phdr ph;
            memcpy(&ph, at, sizeof ph);
            type = ph.p_type;
            s = (struct elf_segment){ph.p_offset, ph.p_filesz, ph.p_vaddr, ph.p_paddr, ph.p_memsz};
        } else {
            Elf32_Phdr ph;
            memcpy(&ph, at, sizeof ph);
            type = ph.p_type;
            s = (struct elf_segment){ph.p_offset, ph.p_filesz, ph.p_vaddr, ph.p_paddr, ph.p_memsz};
        }
        r = add_segment(src, elf, type, &s, err);
        if (r)
            return r;
    }
    if (!elf->load_count)
        return boot_error(src, err, ENOEXEC, "the ELF file has nothing to load");
    return 0;
}

int elf_parse(const struct boot_source *src, struct elf_image *elf, struct error *err)
{
    const struct blob *b = &src->kernel;
    int r;

    *elf = (struct elf_image){.start = ~0ull};
    if (b->size < sizeof(Elf32_Ehdr))
        return boot_error(src, err, ENOEXEC, "the file is truncated (no ELF header)");
    elf->is_64 = b->data[EI_CLASS] == ELFCLASS64;
    if (elf->is_64) {
        Elf64_Ehdr eh;
        if (b->size < sizeof eh)
            return boot_error(src, err, ENOEXEC, "the file is truncated (no ELF header)");
        memcpy(&eh, b->data, sizeof eh);
        elf->entry = eh.e_entry;
        r = check_ident(src, eh.e_ident, eh.e_type, eh.e_machine, err);
        return r ? r : parse_program_headers(src, elf, eh.e_phoff, eh.e_phentsize, eh.e_phnum, err);
    } else {
        Elf32_Ehdr eh;
        memcpy(&eh, b->data, sizeof eh);
        elf->entry = eh.e_entry;
        r = check_ident(src, eh.e_ident, eh.e_type, eh.e_machine, err);
        return r ? r : parse_program_headers(src, elf, eh.e_phoff, eh.e_phentsize, eh.e_phnum, err);
    }
}

int elf_load(const struct boot_source *src, const struct boot_target *to, const struct elf_image *elf,
             struct error *err)
{
    for (unsigned i = 0; i < elf->load_count; i++) {
        const struct elf_segment *s = &elf->load[i];
        int r;

        if (s->paddr < MAP_HIGH_MEMORY)
            return boot_error(src, err, ENOEXEC, "a segment is to be loaded at 0x%llx, below 1 MiB",
                              (unsigned long long)s->paddr);
        if (!boot_range_free(to, s->paddr, s->memsz))
            return boot_no_room(src, to, "a segment", s->paddr, s->memsz, err);
        r = boot_write(src, to, "a segment", s->paddr, src->kernel.data + s->offset, s->filesz, err);
        if (!r)
            r = boot_zero(src, to, "a segment", s->paddr + s->filesz, s->memsz - s->filesz, err);
        if (r)
            return r;
    }
    return 0;
}

u64 elf_physical_entry(const struct elf_image *elf)
{
    for (unsigned i = 0; i < elf->load_count; i++) {
        const struct elf_segment *s = &elf->load[i];
        if (elf->entry - s->vaddr < s->memsz)
            return elf->entry - s->vaddr + s->paddr;
    }
    return elf->entry;
}

/* The note @type of @name within one segment of notes. */
static const u8 *find_in_segment(const u8 *p, u64 size, const char *name, u32 type, u32 *len)
{
    u64 at = 0;
    u32 name_size = (u32)strlen(name) + 1;

    while (size - at >= 12) {
        u32 namesz = get_le32(p + at), descsz = get_le32(p + at + 4), t = get_le32(p + at + 8);
        u64 desc = at + 12 + ALIGN_UP((u64)namesz, 4);
        u64 next = desc + ALIGN_UP((u64)descsz, 4);

        if (!range_in(desc, descsz, size))
            return NULL;
        if (t == type && namesz == name_size && !memcmp(p + at + 12, name, name_size)) {
            *len = descsz;
            return p + desc;
        }
        if (next > size)
            return NULL;
        at = next;
    }
    return NULL;
}

const u8 *elf_find_note(const struct blob *kernel, const struct elf_image *elf, const char *name, u32 type,
                        u32 *len)
{
    for (unsigned i = 0; i < elf->note_count; i++) {
        const u8 *d =
            find_in_segment(kernel->data + elf->note[i].offset, elf->note[i].filesz, name, type, len);
        if (d)
            return d;
    }
    return NULL;
}
