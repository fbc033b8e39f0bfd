#include "base/mapping.h"

#include <stdint.h>
#include <sys/mman.h>

#include "base/compiler.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since Linux 6.1 */
#endif

void *mapping_huge(size_t size, int prot, int flags, int fd)
{
    size_t room = ALIGN_UP(size, PAGE_SIZE) + MAPPING_HUGE;
    u8 *start = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return MAP_FAILED;
    u8 *at = (u8 *)ALIGN_UP((uintptr_t)start, MAPPING_HUGE), *end = at + ALIGN_UP(size, PAGE_SIZE);
    if (at != start)
        munmap(start, (size_t)(at - start));
    if (end != start + room)
        munmap(end, (size_t)(start + room - end));
    void *p = mmap(at, size, prot, flags | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (p == MAP_FAILED)
        munmap(at, (size_t)(end - at));
    else
        madvise(p, size, MADV_HUGEPAGE); /* a wish */
    return p;
}

void mapping_make_huge(void *at)
{
    (void)*(volatile u8 *)at;                 /* nothing is made of nothing */
    madvise(at, MAPPING_HUGE, MADV_COLLAPSE); /* a wish */
}
