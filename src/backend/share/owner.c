/*
 * Owners, modes and kinds of files, as the guest sees them.
 *
 * SHARE_MAPPED keeps them in the attributes user.virtfs.uid, gid, mode (little-endian u32) and rdev (u64),
 * which is what QEMU's security_model=mapped does, so that a directory can be used by both. What is not a
 * regular file or a directory for the guest is a regular file of the host; a symbolic link's target is its
 * content. A file without these attributes shows what the host has.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "backend/share/share-internal.h"

#define MAPPED_PREFIX "user.virtfs."
#define MAPPED_UID MAPPED_PREFIX "uid"
#define MAPPED_GID MAPPED_PREFIX "gid"
#define MAPPED_MODE MAPPED_PREFIX "mode"
#define MAPPED_RDEV MAPPED_PREFIX "rdev"

const char *fd_path(char text[FD_PATH_SIZE], int fd)
{
    (void)snprintf(text, FD_PATH_SIZE, "/proc/self/fd/%d", fd);
    return text;
}

static bool load32(const char *path, const char *name, u32 *v)
{
    u8 raw[4];
    if (getxattr(path, name, raw, sizeof raw) != sizeof raw)
        return false;
    *v = get_le32(raw);
    return true;
}

static int store32(const char *path, const char *name, u32 v)
{
    u8 raw[4];
    put_le32(raw, v);
    return setxattr(path, name, raw, sizeof raw, 0) < 0 ? -errno : 0;
}

/* A directory stays one; a regular file may stand for anything else. */
static bool may_stand_for(u32 host_mode, u32 mode)
{
    if (S_ISDIR(host_mode))
        return S_ISDIR(mode);
    return S_ISREG(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode) ||
           S_ISSOCK(mode);
}

static void load_mapped(int fd, struct statx *st)
{
    char text[FD_PATH_SIZE];
    const char *path = fd_path(text, fd);
    u8 raw[8];
    u32 mode;
    if (!S_ISREG(st->stx_mode) && !S_ISDIR(st->stx_mode))
        return;
    (void)load32(path, MAPPED_UID, &st->stx_uid);
    (void)load32(path, MAPPED_GID, &st->stx_gid);
    if (!load32(path, MAPPED_MODE, &mode) || !may_stand_for(st->stx_mode, mode))
        return;
    st->stx_mode = (u16)mode;
    if ((S_ISCHR(mode) || S_ISBLK(mode)) && getxattr(path, MAPPED_RDEV, raw, sizeof raw) == sizeof raw) {
        st->stx_rdev_major = major(get_le64(raw));
        st->stx_rdev_minor = minor(get_le64(raw));
    }
}

static u64 device_of(const struct statx *st)
{
    return (u64)st->stx_dev_major << 32 | st->stx_dev_minor;
}

static int host_attributes(int fd, int flags, struct statx *st)
{
    flags |= AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
    return statx(fd, "", flags, STATX_BASIC_STATS | STATX_BTIME, st) < 0 ? -errno : 0;
}

int share_find_device(struct share *s)
{
    struct statx st;
    int r = host_attributes(s->root_fd, 0, &st);
    s->root_device = r ? 0 : device_of(&st);
    return r;
}

/* What another machine or process keeps may take its time; of a file system of our own all is known here. */
int attributes_now(const struct call *c, int fd, struct statx *st)
{
    if (!c->nowait)
        return attributes_of(c->s, fd, st);
    int r = host_attributes(fd, AT_STATX_DONT_SYNC, st);
    if (!r && device_of(st) != c->s->root_device)
        r = -EAGAIN;
    if (!r && c->s->options.ownership == SHARE_MAPPED)
        load_mapped(fd, st);
    return r;
}

int attributes_of(struct share *s, int fd, struct statx *st)
{
    int r = host_attributes(fd, 0, st);
    if (r)
        return r;
    if (s->options.ownership == SHARE_MAPPED)
        load_mapped(fd, st);
    return 0;
}

/* The number of a device among those met, for inode numbers of several file systems in one tree. */
static u64 device_index(struct share *s, u64 device)
{
    unsigned i = 0;
    lock_acquire(&s->lock);
    while (i < s->device_count && s->device[i] != device)
        i++;
    if (i == s->device_count && i < SHARE_DEVICES)
        s->device[s->device_count++] = device;
    lock_drop(&s->lock);
    return i;
}

struct qid qid_of(struct share *s, const struct statx *st)
{
    u32 version = (u32)st->stx_mtime.tv_sec * 31 ^ st->stx_mtime.tv_nsec ^ (u32)st->stx_size << 8;
    return (struct qid){
        .type = S_ISDIR(st->stx_mode)   ? QID_DIR
                : S_ISLNK(st->stx_mode) ? QID_SYMLINK
                                        : QID_FILE,
        .version = version ? version : 1, /* 0 tells Linux not to cache */
        .path = st->stx_ino ^ device_index(s, device_of(st)) << 56,
    };
}

mode_t owner_initial_mode(const struct share *s, u32 mode)
{
    if (s->options.ownership == SHARE_NONE)
        return mode & 0777;
    return S_ISDIR(mode) ? 0700 : 0600;
}

static int host_chmod(struct share *s, int fd, u32 mode)
{
    char name[FD_PATH_SIZE];
    (void)snprintf(name, sizeof name, "%d", fd);
    return fchmodat(s->proc_fd, name, mode, 0) < 0 ? -errno : 0;
}

static int host_chown(int fd, u32 uid, u32 gid)
{
    return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int store_mapped(int fd, u32 uid, u32 gid, u32 mode, u64 rdev)
{
    char text[FD_PATH_SIZE];
    const char *path = fd_path(text, fd);
    u8 raw[8];
    int r = store32(path, MAPPED_UID, uid);
    if (!r)
        r = store32(path, MAPPED_GID, gid);
    if (!r)
        r = store32(path, MAPPED_MODE, mode);
    if (r || (!S_ISCHR(mode) && !S_ISBLK(mode)))
        return r;
    put_le64(raw, rdev);
    return setxattr(path, MAPPED_RDEV, raw, sizeof raw, 0) < 0 ? -errno : 0;
}

/* Set-id bits of a file would make what the guest wrote run as the user of the host. */
static u32 own_mode(u32 mode)
{
    return mode & (S_ISDIR(mode) ? 01777 : 0777);
}

int owner_give(struct share *s, int fd, u32 uid, u32 gid, u32 mode, u64 rdev)
{
    int r = 0;
    switch (s->options.ownership) {
    case SHARE_MAPPED: return store_mapped(fd, uid, gid, mode, rdev);
    case SHARE_PASSTHROUGH:
        r = host_chown(fd, uid, gid);
        return r || S_ISLNK(mode) ? r : host_chmod(s, fd, mode & 07777);
    case SHARE_NONE: return S_ISLNK(mode) ? 0 : host_chmod(s, fd, own_mode(mode));
    }
    BUG();
}

int owner_chmod(struct share *s, int fd, u32 mode)
{
    char text[FD_PATH_SIZE];
    struct statx st;
    int r = attributes_of(s, fd, &st);
    if (r)
        return r;
    if (S_ISLNK(st.stx_mode))
        return -EOPNOTSUPP;
    mode = (st.stx_mode & S_IFMT) | (mode & 07777);
    switch (s->options.ownership) {
    case SHARE_MAPPED: return store32(fd_path(text, fd), MAPPED_MODE, mode);
    case SHARE_PASSTHROUGH: return host_chmod(s, fd, mode & 07777);
    case SHARE_NONE: return host_chmod(s, fd, own_mode(mode));
    }
    BUG();
}

int owner_chown(struct share *s, int fd, u32 uid, u32 gid)
{
    char text[FD_PATH_SIZE];
    int r = 0;
    switch (s->options.ownership) {
    case SHARE_MAPPED:
        if (uid != NO_ID)
            r = store32(fd_path(text, fd), MAPPED_UID, uid);
        return r || gid == NO_ID ? r : store32(fd_path(text, fd), MAPPED_GID, gid);
    case SHARE_PASSTHROUGH: return host_chown(fd, uid, gid);
    case SHARE_NONE: return 0;
    }
    BUG();
}

bool owner_may_use(const struct share *s, const char *attribute)
{
    if (s->options.ownership == SHARE_PASSTHROUGH)
        return true;
    return !strncmp(attribute, "user.", 5) && strncmp(attribute, MAPPED_PREFIX, strlen(MAPPED_PREFIX)) != 0;
}
