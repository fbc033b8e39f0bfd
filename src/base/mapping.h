/* Mappings that huge pages can serve. */
#ifndef TRAPEZE_BASE_MAPPING_H
#define TRAPEZE_BASE_MAPPING_H

#include <stddef.h>

#define MAPPING_HUGE ((size_t)2 << 20) /* bytes of a huge page */

/*
 * Maps @size bytes of @fd from its start, or anonymous memory when @fd is negative, at a multiple of 2 MiB,
 * and asks the host for huge pages: a page of a file can be a huge one only where address and offset agree.
 * @prot and @flags are those of mmap(), and so is the result, MAP_FAILED with errno set included.
 */
void *mapping_huge(size_t size, int prot, int flags, int fd);

/* Makes the MAPPING_HUGE bytes at @at, which can be read, a huge page now, of a file as well, if the host
 * can. */
void mapping_make_huge(void *at);

#endif
