/* Open files: lopen, lcreate, read, write, fsync. */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/share/share-internal.h"
#include "base/iov.h"

#define READ_HEAD 11  /* of a reply with data */
#define WRITE_HEAD 23 /* of a message with data */

/* Flags of Linux' open(2), which those of 9P2000.L are; others, such as O_DIRECT, have no effect here. */
#define OPEN_FLAGS (O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC)

static bool writes(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

/* --- opening --- */

/* A descriptor of what @fd (O_PATH) stands for, if the guest sees a file or a directory there. */
static int open_further(struct call *c, int fd, int flags, struct qid *q)
{
    struct statx st;
    int r = attributes_now(c, fd, &st);
    if (r)
        return r;
    *q = qid_of(c->s, &st);
    if (S_ISLNK(st.stx_mode))
        return -ELOOP;
    if (S_ISDIR(st.stx_mode))
        return writes(flags) ? -EISDIR : reopen(c->s, fd, O_RDONLY | O_DIRECTORY);
    return S_ISREG(st.stx_mode) ? reopen(c->s, fd, flags) : -ENXIO;
}

static int open_fid(struct call *c, struct fid *f, int flags, struct qid *q)
{
    if (f->fd >= 0 || f->attribute)
        return -EBUSY;
    int r = open_reserve(c->s);
    if (r)
        return r;
    int path = node_open(c, f->node);
    r = path < 0 ? path : open_further(c, path, flags, q);
    if (path >= 0)
        close(path);
    if (r < 0) {
        open_unreserve(c->s);
        return r;
    }
    f->fd = r;
    f->flags = flags;
    return 0;
}

int op_lopen(struct call *c)
{
    struct qid q;
    struct fid *f;
    u32 id = take32(c);
    int flags = (int)(take32(c) & OPEN_FLAGS);
    if (c->bad)
        return -EINVAL;
    if (c->s->options.read_only && writes(flags))
        return -EROFS;
    if (c->nowait && flags & O_TRUNC)
        return -EAGAIN;
    int r = fid_get(c, id, FID_EXCLUSIVE, &f);
    if (r)
        return r;
    r = open_fid(c, f, flags, &q);
    fid_put(c->s, f);
    if (r)
        return r;
    put_qid(c, &q);
    put32(c, 0); /* the most that fits into a message at once */
    return 0;
}

struct creation {
    char name[NAME_SIZE];
    int flags;
    u32 mode, gid, uid;
};

/* A new file, with its owner; taken away again when it cannot have that. */
static int create_new(struct call *c, int dir, const struct creation *n)
{
    u32 mode = S_IFREG | (n->mode & 07777);
    int fd = open_child(c, dir, n->name, n->flags | O_CREAT | O_EXCL, owner_initial_mode(c->s, mode));
    if (fd < 0)
        return fd;
    int r = owner_give(c->s, fd, n->uid, n->gid, mode, 0);
    if (!r)
        return fd;
    close(fd);
    (void)unlinkat(dir, n->name, 0);
    return r;
}

static int create_or_open(struct call *c, int dir, const struct creation *n, bool exclusive, struct qid *q)
{
    struct statx st;
    int fd = create_new(c, dir, n);
    if (fd == -EEXIST && !exclusive) {
        int path = open_child(c, dir, n->name, O_PATH, 0);
        fd = path < 0 ? path : open_further(c, path, n->flags, q);
        if (path >= 0)
            close(path);
        return fd;
    }
    if (fd < 0)
        return fd;
    int r = attributes_of(c->s, fd, &st);
    if (r) {
        close(fd);
        return r;
    }
    *q = qid_of(c->s, &st);
    return fd;
}

/* Names entered, so that no rename gives the name to another node between the node and the file. */
static int create_entered(struct call *c, struct node *parent, const struct creation *n, bool exclusive,
                          struct qid *q, struct node **node)
{
    *node = node_child(c->s, parent, n->name);
    int dir = *node ? node_open_entered(c, parent) : -ENFILE;
    int r = dir < 0 ? dir : create_or_open(c, dir, n, exclusive, q);
    if (dir >= 0)
        close(dir);
    if (r < 0 && *node)
        node_put(c->s, *node);
    return r;
}

/* The fid stood for the directory, and stands for the new file from here on. */
static int create_fid(struct call *c, struct fid *f, const struct creation *n, bool exclusive, struct qid *q)
{
    struct node *node = NULL;
    if (f->fd >= 0 || f->attribute)
        return -EBUSY;
    int r = open_reserve(c->s);
    if (r)
        return r;
    r = names_enter(c);
    if (!r) {
        r = create_entered(c, f->node, n, exclusive, q, &node);
        names_leave(c->s);
    }
    if (r < 0) {
        open_unreserve(c->s);
        return r;
    }
    node_put(c->s, f->node);
    f->node = node;
    f->fd = r;
    f->flags = n->flags;
    return 0;
}

int op_lcreate(struct call *c)
{
    struct creation n;
    struct qid q;
    struct fid *f;
    u32 id = take32(c);
    int r = take_name(c, n.name, false);
    u32 flags = take32(c);
    n.flags = (int)(flags & OPEN_FLAGS);
    n.mode = take32(c);
    n.gid = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    r = fid_get(c, id, FID_EXCLUSIVE, &f);
    if (r)
        return r;
    n.uid = f->uid;
    r = create_fid(c, f, &n, flags & O_EXCL, &q);
    fid_put(c->s, f);
    if (r)
        return r;
    put_qid(c, &q);
    put32(c, 0);
    return 0;
}

/* --- data --- */

/* The @len bytes of @from behind @skip as a vector of its own. */
static unsigned part_of(const struct iovec *from, unsigned count, u64 skip, u64 len, struct iovec *part)
{
    struct iovec all[SHARE_MAX_SEGMENTS], *iov = all;
    memcpy(all, from, count * sizeof *from);
    iov_trim_front(&iov, &count, skip);
    iov_truncate(iov, &count, len);
    memcpy(part, iov, count * sizeof *iov);
    return count;
}

/* What the page cache had is less than what was asked for: is it all that there is? */
static bool at_end(int fd, u64 end)
{
    struct stat st;
    return fstat(fd, &st) == 0 && end >= (u64)st.st_size;
}

static ssize_t read_file(struct call *c, const struct fid *f, u64 offset, size_t len)
{
    struct iovec part[SHARE_MAX_SEGMENTS];
    if (f->fd < 0 || (f->flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    if (offset > INT64_MAX)
        return -EINVAL;
    unsigned count = part_of(c->r->in, c->r->in_count, READ_HEAD, len, part);
    ssize_t n = preadv2(f->fd, part, (int)count, (off_t)offset, c->nowait ? RWF_NOWAIT : 0);
    if (n < 0)
        return c->nowait && errno == EOPNOTSUPP ? -EAGAIN : -errno;
    return c->nowait && (size_t)n < len && !at_end(f->fd, offset + (u64)n) ? -EAGAIN : n;
}

static ssize_t read_attribute(struct call *c, const struct attribute *a, u64 offset, size_t len)
{
    if (a->writing)
        return -EINVAL;
    if (offset >= a->size)
        return 0;
    len = MIN(len, a->size - (size_t)offset);
    return (ssize_t)iov_write(c->r->in, c->r->in_count, READ_HEAD, a->data + offset, len);
}

int op_read(struct call *c)
{
    struct fid *f;
    u32 id = take32(c);
    u64 offset = take64(c);
    size_t len = reply_room(c, READ_HEAD, take32(c));
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    ssize_t n = f->attribute ? read_attribute(c, f->attribute, offset, len) : read_file(c, f, offset, len);
    fid_put(c->s, f);
    if (n < 0)
        return (int)n;
    put32(c, (u32)n);
    c->data_len = (size_t)n;
    return 0;
}

static ssize_t write_file(struct call *c, const struct fid *f, u64 offset, size_t len)
{
    struct iovec part[SHARE_MAX_SEGMENTS];
    if (f->fd < 0 || (f->flags & O_ACCMODE) == O_RDONLY)
        return -EBADF;
    if (offset > INT64_MAX)
        return -EFBIG;
    unsigned count = part_of(c->r->out, c->r->out_count, WRITE_HEAD, len, part);
    ssize_t n = pwritev(f->fd, part, (int)count, (off_t)offset);
    return n < 0 ? -errno : n;
}

/* In one piece or in several, one behind the other. */
static ssize_t write_attribute(struct call *c, struct attribute *a, u64 offset, size_t len)
{
    if (!a || !a->writing || offset != a->filled || len > a->size - a->filled)
        return -EINVAL;
    iov_read(c->r->out, c->r->out_count, WRITE_HEAD, a->data + offset, len);
    a->filled += len;
    return (ssize_t)len;
}

int op_write(struct call *c)
{
    struct fid *f;
    ssize_t n;
    u32 id = take32(c);
    u64 offset = take64(c);
    size_t len = take32(c);
    if (c->bad || len > c->message_size - WRITE_HEAD)
        return -EINVAL;
    int r = fid_get(c, id, FID_SHARED, &f);
    if (!r && f->attribute) {
        fid_put(c->s, f);
        r = fid_get(c, id, FID_EXCLUSIVE, &f);
    }
    if (r)
        return r;
    n = f->attribute ? write_attribute(c, f->attribute, offset, len) : write_file(c, f, offset, len);
    fid_put(c->s, f);
    if (n < 0)
        return (int)n;
    put32(c, (u32)n);
    return 0;
}

int op_fsync(struct call *c)
{
    struct fid *f;
    u32 id = take32(c), data_only = take32(c);
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    if (f->fd < 0)
        r = -EBADF;
    else if (data_only ? fdatasync(f->fd) : fsync(f->fd))
        r = -errno;
    fid_put(c->s, f);
    return r;
}
