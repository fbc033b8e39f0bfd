/* Attributes, plain and extended. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "backend/share/share-internal.h"

/* Bits of getattr's request and answer. */
enum { GETATTR_BASIC = 0x7ff, GETATTR_BTIME = 0x800 };

/* Bits of setattr. */
enum {
    SET_MODE = 1,
    SET_UID = 2,
    SET_GID = 4,
    SET_SIZE = 8,
    SET_ATIME = 0x10,
    SET_MTIME = 0x20,
    SET_CTIME = 0x40,
    SET_ATIME_TO = 0x80,
    SET_MTIME_TO = 0x100,
};

/* A descriptor of what @f is, for attributes: that which is open, since it may be unlinked. */
static int descriptor(struct call *c, struct fid *f, bool *opened)
{
    *opened = f->fd >= 0;
    return *opened ? f->fd : node_open(c, f->node);
}

/* --- getattr --- */

static void put_time(struct call *c, const struct statx_timestamp *t)
{
    put64(c, (u64)t->tv_sec);
    put64(c, t->tv_nsec);
}

/* As large as fits into a message, since programs make their buffers after it. */
static u64 block_size(const struct call *c, const struct statx *st)
{
    u64 size = st->stx_blksize ? st->stx_blksize : 4096;
    while (size * 2 <= c->msize - 24)
        size *= 2;
    return size;
}

static void put_attributes(struct call *c, const struct statx *st)
{
    const struct statx_timestamp none = {0};
    struct qid q = qid_of(c->s, st);
    bool btime = st->stx_mask & STATX_BTIME;
    put64(c, GETATTR_BASIC | (btime ? GETATTR_BTIME : 0));
    put_qid(c, &q);
    put32(c, st->stx_mode);
    put32(c, st->stx_uid);
    put32(c, st->stx_gid);
    put64(c, st->stx_nlink);
    put64(c, makedev(st->stx_rdev_major, st->stx_rdev_minor));
    put64(c, st->stx_size);
    put64(c, block_size(c, st));
    put64(c, st->stx_blocks);
    put_time(c, &st->stx_atime);
    put_time(c, &st->stx_mtime);
    put_time(c, &st->stx_ctime);
    put_time(c, btime ? &st->stx_btime : &none);
    put64(c, 0); /* generation and data version are not offered */
    put64(c, 0);
}

int op_getattr(struct call *c)
{
    struct statx st;
    struct fid *f;
    bool opened;
    u32 id = take32(c);
    (void)take64(c); /* all that there is, whatever was asked for */
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    int fd = descriptor(c, f, &opened);
    r = fd < 0 ? fd : attributes_now(c, fd, &st);
    if (!opened && fd >= 0)
        close(fd);
    fid_put(c->s, f);
    if (!r)
        put_attributes(c, &st);
    return r;
}

/* --- setattr --- */

struct change {
    u32 valid, mode, uid, gid;
    u64 size;
    struct timespec atime, mtime;
};

static int change_size(struct call *c, const struct fid *f, int fd, u64 size)
{
    struct statx st;
    int r = attributes_of(c->s, fd, &st), file = f->fd;
    if (r)
        return r;
    if (!S_ISREG(st.stx_mode))
        return S_ISDIR(st.stx_mode) ? -EISDIR : -EINVAL;
    if (size > INT64_MAX)
        return -EFBIG;
    bool own = file < 0 || (f->flags & O_ACCMODE) == O_RDONLY;
    if (own)
        file = reopen(c->s, fd, O_WRONLY);
    if (file < 0)
        return file;
    r = ftruncate(file, (off_t)size) < 0 ? -errno : 0;
    if (own)
        close(file);
    return r;
}

static struct timespec time_for(u32 valid, u32 touch, u32 to, struct timespec t)
{
    return (struct timespec){.tv_sec = t.tv_sec,
                             .tv_nsec = !(valid & touch) ? UTIME_OMIT
                                        : valid & to     ? t.tv_nsec
                                                         : UTIME_NOW};
}

static int change_times(int fd, const struct change *ch)
{
    const struct timespec times[2] = {time_for(ch->valid, SET_ATIME, SET_ATIME_TO, ch->atime),
                                      time_for(ch->valid, SET_MTIME, SET_MTIME_TO, ch->mtime)};
    return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int change_all(struct call *c, const struct fid *f, int fd, const struct change *ch)
{
    u32 valid = ch->valid;
    int r = 0;
    if (valid & (SET_UID | SET_GID))
        r = owner_chown(c->s, fd, valid & SET_UID ? ch->uid : NO_ID, valid & SET_GID ? ch->gid : NO_ID);
    if (!r && valid & SET_MODE) /* behind chown, which takes set-id bits away */
        r = owner_chmod(c->s, fd, ch->mode);
    if (!r && valid & SET_SIZE)
        r = change_size(c, f, fd, ch->size);
    if (!r && valid & (SET_ATIME | SET_MTIME))
        r = change_times(fd, ch);
    return r;
}

static void take_time(struct call *c, struct timespec *t)
{
    t->tv_sec = (time_t)take64(c);
    t->tv_nsec = (long)take64(c);
}

static bool time_ok(const struct timespec *t)
{
    return t->tv_nsec >= 0 && t->tv_nsec < 1000000000;
}

int op_setattr(struct call *c)
{
    struct change ch;
    struct fid *f;
    bool opened;
    u32 id = take32(c);
    ch.valid = take32(c);
    ch.mode = take32(c);
    ch.uid = take32(c);
    ch.gid = take32(c);
    ch.size = take64(c);
    take_time(c, &ch.atime);
    take_time(c, &ch.mtime);
    if (c->bad || (ch.valid & SET_ATIME_TO && !time_ok(&ch.atime)) ||
        (ch.valid & SET_MTIME_TO && !time_ok(&ch.mtime)))
        return -EINVAL;
    int r = fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    int fd = descriptor(c, f, &opened);
    r = fd < 0 ? fd : change_all(c, f, fd, &ch);
    if (!opened && fd >= 0)
        close(fd);
    fid_put(c->s, f);
    return r;
}

/* --- readlink --- */

static ssize_t read_target(struct share *s, int fd, char *target)
{
    struct statx st;
    struct stat host;
    int r = attributes_of(s, fd, &st);
    if (r)
        return r;
    if (!S_ISLNK(st.stx_mode))
        return -EINVAL;
    if (fstat(fd, &host) < 0)
        return -errno;
    if (S_ISLNK(host.st_mode)) {
        ssize_t n = readlinkat(fd, "", target, TARGET_SIZE);
        return n < 0 ? -errno : n;
    }
    int file = reopen(s, fd, O_RDONLY);
    if (file < 0)
        return file;
    ssize_t n = pread(file, target, TARGET_SIZE - 1, 0);
    int why = errno;
    close(file);
    return n < 0 ? -why : n;
}

int op_readlink(struct call *c)
{
    char target[TARGET_SIZE];
    struct fid *f;
    u32 id = take32(c);
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    int fd = node_open(c, f->node);
    fid_put(c->s, f);
    if (fd < 0)
        return fd;
    ssize_t n = read_target(c->s, fd, target);
    close(fd);
    if (n < 0)
        return (int)n;
    put_text(c, target, (size_t)n);
    return 0;
}

/* --- extended attributes --- */

/* Takes what the guest must not see out of a list of names; returns what is left of @len. */
static size_t hide_names(const struct share *s, char *list, size_t len)
{
    size_t kept = 0;
    for (size_t at = 0; at < len;) {
        size_t n = strnlen(list + at, len - at) + 1;
        if (at + n > len)
            break;
        if (owner_may_use(s, list + at)) {
            memmove(list + kept, list + at, n);
            kept += n;
        }
        at += n;
    }
    return kept;
}

static int load(struct call *c, struct node *node, const char *name, struct attribute **a)
{
    char text[FD_PATH_SIZE];
    struct statx st;
    ssize_t n;
    int r, fd;
    if (name[0] && !owner_may_use(c->s, name))
        return -EOPNOTSUPP;
    r = attribute_new(c->s, SHARE_ATTRIBUTE_MAX, a);
    if (r)
        return r;
    fd = node_open(c, node);
    if (fd < 0)
        return fd;
    r = c->nowait ? attributes_now(c, fd, &st) : 0;
    if (r) {
        close(fd);
        return r;
    }
    if (name[0])
        n = getxattr(fd_path(text, fd), name, (*a)->data, SHARE_ATTRIBUTE_MAX);
    else
        n = listxattr(fd_path(text, fd), (char *)(*a)->data, SHARE_ATTRIBUTE_MAX);
    r = n < 0 ? -errno : 0;
    close(fd);
    if (r)
        return r;
    (*a)->size = name[0] ? (size_t)n : hide_names(c->s, (char *)(*a)->data, (size_t)n);
    return 0;
}

/* The new fid reads the value of the attribute @name, or without a name the list of names. */
int op_xattrwalk(struct call *c)
{
    char name[NAME_SIZE];
    struct attribute *a = NULL;
    struct fid *f;
    u32 id = take32(c), new_id = take32(c);
    int r = take_text(c, name, sizeof name);
    if (r || c->bad)
        return r ? r : -EINVAL;
    r = fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    r = load(c, f->node, name, &a);
    u64 size = a ? a->size : 0;
    if (r)
        attribute_free(c->s, a);
    else
        r = fid_add(c->s, new_id, f->uid, node_ref(c->s, f->node), a);
    fid_put(c->s, f);
    if (!r)
        put64(c, size);
    return r;
}

/* The fid takes the value by writes, and sets it when it is clunked. */
int op_xattrcreate(struct call *c)
{
    char name[NAME_SIZE];
    struct attribute *a;
    struct fid *f;
    u32 id = take32(c);
    int r = take_text(c, name, sizeof name);
    u64 size = take64(c);
    u32 flags = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    if (!owner_may_use(c->s, name))
        return -EOPNOTSUPP;
    if (flags & ~(u32)(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    if (size > SHARE_ATTRIBUTE_MAX)
        return -E2BIG;
    r = fid_get(c, id, FID_EXCLUSIVE, &f);
    if (r)
        return r;
    if (f->fd >= 0 || f->attribute)
        r = -EBUSY;
    else
        r = attribute_new(c->s, (size_t)size, &a);
    if (!r) {
        memcpy(a->name, name, sizeof name);
        a->flags = (int)flags;
        a->writing = true;
        f->attribute = a;
    }
    fid_put(c->s, f);
    return r;
}

/* Linux says by an empty value with XATTR_REPLACE that the attribute shall go. */
int attribute_store(struct call *c, struct fid *f)
{
    const struct attribute *a = f->attribute;
    char text[FD_PATH_SIZE];
    if (a->filled != a->size)
        return -EINVAL;
    int fd = node_open(c, f->node), r;
    if (fd < 0)
        return fd;
    if (a->size == 0 && a->flags == XATTR_REPLACE)
        r = removexattr(fd_path(text, fd), a->name);
    else
        r = setxattr(fd_path(text, fd), a->name, a->data, a->size, a->flags);
    r = r < 0 ? -errno : 0;
    close(fd);
    return r;
}
