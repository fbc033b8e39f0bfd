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

/* Drops what is behind the first @len bytes. */
static inline void iov_truncate(struct iovec *iov, unsigned *count, u64 len)
{
    unsigned i = 0;
    for (; i < *count && len; i++) {
        if (iov[i].iov_len > len)
            iov[i].iov_len = (size_t)len;
        len -= iov[i].iov_len;
    }
    *count = i;
}

/* Copies between @buf and @iov starting at byte @skip; returns the bytes copied. */
size_t iov_read(const struct iovec *iov, unsigned count, u64 skip, void *buf, size_t len);
size_t iov_write(const struct iovec *iov, unsigned count, u64 skip, const void *buf, size_t len);

#endif
