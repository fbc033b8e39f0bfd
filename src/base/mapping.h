/* Mappings that huge pages can serve. */
#ifndef TRAPEZE_BASE_MAPPING_H
#define TRAPEZE_BASE_MAPPING_H

#include <stddef.h>

/*
 * Maps @size bytes of @fd from its start, or anonymous memory when @fd is negative, at a multiple of 2 MiB,
 * and asks the host for huge pages: a page of a file can be a huge one only where address and offset agree.
 * @prot and
 * @flags are those of mmap(), and so is the result, MAP_FAILED with errno set included.
 */
void *mapping_huge(size_t size, int prot, int flags, int fd);

#endif
