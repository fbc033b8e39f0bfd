#include "base/iov.h"

#include <string.h>

static size_t iov_copy(const struct iovec *iov, unsigned count, u64 skip, void *buf, size_t len, bool to_iov)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < len; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t n = MIN(iov[i].iov_len - (size_t)skip, len - done);
        u8 *guest = (u8 *)iov[i].iov_base + skip;
        if (to_iov)
            memcpy(guest, (u8 *)buf + done, n);
        else
            memcpy((u8 *)buf + done, guest, n);
        done += n;
        skip = 0;
    }
    return done;
}

size_t iov_read(const struct iovec *iov, unsigned count, u64 skip, void *buf, size_t len)
{
    return iov_copy(iov, count, skip, buf, len, false);
}

size_t iov_write(const struct iovec *iov, unsigned count, u64 skip, const void *buf, size_t len)
{
    return iov_copy(iov, count, skip, (void *)(uintptr_t)buf, len, true);
}
