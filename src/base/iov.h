/* Vectors of buffers, as readv(2) takes them. */
#ifndef TRAPEZE_BASE_IOV_H
#define TRAPEZE_BASE_IOV_H

#include <sys/uio.h>

#include "base/compiler.h"

/* Drops @n bytes, at most all, from the front of the *@count buffers at *@iov, which it changes. */
static inline void iov_trim_front(struct iovec **iov, unsigned *count, u64 n)
{
    while (*count && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (*count && n) {
        (*iov)->iov_base = (u8 *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
}

#endif
