#include "machine/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int grow(struct blob *b, u64 *capacity, u64 wanted)
{
    u8 *data;

    if (wanted <= *capacity)
        return 0;
    data = realloc(b->data, wanted);
    if (!data)
        return -ENOMEM;
    b->data = data;
    *capacity = wanted;
    return 0;
}

static int read_all(struct blob *b, int fd, u64 capacity, u64 max)
{
    for (;;) {
        ssize_t n;

        if (b->size == capacity && grow(b, &capacity, capacity + MAX(capacity, (u64)65536)))
            return ENOMEM;
        n = read(fd, b->data + b->size, capacity - b->size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            return 0;
        b->size += (u64)n;
        if (b->size > max)
            return EFBIG;
    }
}

int blob_read(struct blob *b, const char *what, const char *path, u64 max, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    u64 capacity = 0;
    int e;

    *b = (struct blob){0};
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open %s '%s'", what, path);
    if (fstat(fd, &st) < 0)
        return error_set_errno(err, errno, "cannot read %s '%s'", what, path);
    if (S_ISDIR(st.st_mode))
        return error_set_errno(err, EISDIR, "cannot read %s '%s'", what, path);
    if (S_ISREG(st.st_mode) && (u64)st.st_size > max)
        return error_set(err, EFBIG, "%s '%s' is larger than the guest's memory", what, path);

    b->path = strdup(path);
    /* One byte more than the size shows the end of file at the first read. */
    e = b->path ? -grow(b, &capacity, S_ISREG(st.st_mode) ? (u64)st.st_size + 1 : 65536) : ENOMEM;
    if (!e)
        e = read_all(b, fd, capacity, max);
    if (e == EFBIG)
        error_set(err, e, "%s '%s' is larger than the guest's memory", what, path);
    else if (e)
        error_set_errno(err, e, "cannot read %s '%s'", what, path);
    else if (b->size == 0)
        error_set(err, e = ENODATA, "%s '%s' is empty", what, path);
    if (e) {
        blob_release(b);
    } else if (S_ISREG(st.st_mode)) {
        b->droppable = true;
        b->fd = fd;
        fd = -1; /* kept open */
    }
    return -e;
}

void blob_drop(struct blob *b)
{
    if (!b->droppable)
        return;
    free(b->data);
    b->data = NULL;
}

int blob_want(struct blob *b, struct error *err)
{
    u64 done = 0;
    if (b->data || !b->size)
        return 0;
    b->data = malloc(b->size);
    if (!b->data)
        return error_set(err, ENOMEM, "no memory to read '%s' again", b->path);
    while (done < b->size) {
        ssize_t n = pread(b->fd, b->data + done, b->size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int e = n < 0 ? errno : ENODATA;
            blob_drop(b);
            return n < 0 ? error_set_errno(err, e, "cannot read '%s' again", b->path)
                         : error_set(err, e, "'%s' has become shorter since it was read first", b->path);
        }
        done += (u64)n;
    }
    return 0;
}

void blob_release(struct blob *b)
{
    if (b->droppable)
        close(b->fd);
    free(b->data);
    free(b->path);
    *b = (struct blob){0};
}
