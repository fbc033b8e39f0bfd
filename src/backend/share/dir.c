/* Directories: readdir, and what makes, moves and takes away names. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backend/share/share-internal.h"
#include "base/iov.h"

#define READDIR_HEAD 11
#define ENTRY_HEAD 24 /* of an entry: qid, offset, type, length of the name */

/* --- readdir --- */

/* A regular file of the host may stand for something else. */
static u8 type_of(struct call *c, const struct fid *f, const char *name, u8 type)
{
    struct statx st;
    if (c->s->options.ownership != SHARE_MAPPED || type != DT_REG)
        return type;
    int fd = open_child(c, f->fd, name, O_PATH, 0);
    if (fd < 0)
        return DT_UNKNOWN;
    int r = attributes_of(c->s, fd, &st);
    close(fd);
    return r ? DT_UNKNOWN : (u8)IFTODT(st.stx_mode);
}

/* The entry as it goes into the reply. What lies above the shared directory has no number. */
static size_t pack_entry(struct call *c, const struct fid *f, const struct dirent64 *d, u8 *out)
{
    bool above = !strcmp(d->d_name, "..") && f->node == &c->s->root;
    u8 type = type_of(c, f, d->d_name, d->d_type);
    size_t len = strlen(d->d_name);
    out[0] = type == DT_DIR ? QID_DIR : type == DT_LNK ? QID_SYMLINK : QID_FILE;
    put_le32(out + 1, 0);
    put_le64(out + 5, above ? 0 : d->d_ino);
    put_le64(out + 13, (u64)d->d_off);
    out[21] = type;
    put_le16(out + 22, (u16)len);
    memcpy(out + ENTRY_HEAD, d->d_name, len);
    return ENTRY_HEAD + len;
}

/* Entries from where the directory stands; bytes put, or -errno. */
static ssize_t read_entries(struct call *c, const struct fid *f, size_t room)
{
    u8 raw[16384] ALIGNED(8), entry[ENTRY_HEAD + NAME_SIZE];
    size_t done = 0;
    ssize_t n = 1;
    while (n > 0) {
        n = getdents64(f->fd, raw, sizeof raw);
        if (n < 0)
            return done ? (ssize_t)done : -errno;
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(void *)(raw + at);
            at += d->d_reclen;
            if (strlen(d->d_name) >= NAME_SIZE)
                continue;
            size_t len = ENTRY_HEAD + strlen(d->d_name);
            if (room - done < len)
                return (ssize_t)done;
            iov_write(c->r->in, c->r->in_count, READDIR_HEAD + done, entry, pack_entry(c, f, d, entry));
            done += len;
        }
    }
    return (ssize_t)done;
}

int op_readdir(struct call *c)
{
    struct fid *f;
    u32 id = take32(c);
    u64 offset = take64(c);
    size_t room = reply_room(c, READDIR_HEAD, take32(c));
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_EXCLUSIVE, &f); /* it has one position */
    if (r)
        return r;
    ssize_t n = -EBADF;
    if (f->fd >= 0)
        n = lseek(f->fd, (off_t)offset, SEEK_SET) < 0 ? -errno : read_entries(c, f, room);
    fid_put(c->s, f);
    if (n < 0)
        return (int)n;
    put32(c, (u32)n);
    c->data_len = (size_t)n;
    return 0;
}

/* --- new names --- */

struct made {
    char name[NAME_SIZE];
    char target[TARGET_SIZE]; /* of a symbolic link */
    u32 mode, uid, gid;
    u64 rdev;
};

/* Files of the host that stand for what a host cannot be trusted to keep. */
static int make_stand_in(struct call *c, int dir, const struct made *m)
{
    int fd = open_child(c, dir, m->name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return fd;
    size_t len = S_ISLNK(m->mode) ? strlen(m->target) : 0;
    ssize_t n = len ? pwrite(fd, m->target, len, 0) : 0;
    int r = n == (ssize_t)len ? 0 : n < 0 ? -errno : -ENOSPC;
    close(fd);
    return r;
}

/* A device node of the host would be one for all users there: no guest makes those. */
static int make_real(int dir, const struct made *m)
{
    int r;
    if (S_ISLNK(m->mode))
        r = symlinkat(m->target, dir, m->name);
    else if (S_ISFIFO(m->mode) || S_ISSOCK(m->mode) || S_ISREG(m->mode))
        r = mknodat(dir, m->name, (m->mode & S_IFMT) | 0600, 0);
    else
        return -EPERM;
    return r < 0 ? -errno : 0;
}

static int make_in(struct call *c, int dir, const struct made *m, struct qid *q)
{
    struct statx st;
    bool is_dir = S_ISDIR(m->mode);
    int r;
    if (is_dir)
        r = mkdirat(dir, m->name, owner_initial_mode(c->s, m->mode)) < 0 ? -errno : 0;
    else
        r = c->s->options.ownership == SHARE_MAPPED ? make_stand_in(c, dir, m) : make_real(dir, m);
    if (r)
        return r;
    int fd = open_child(c, dir, m->name, O_PATH, 0);
    r = fd < 0 ? fd : owner_give(c->s, fd, m->uid, m->gid, m->mode, m->rdev);
    if (!r)
        r = attributes_of(c->s, fd, &st);
    if (r)
        (void)unlinkat(dir, m->name, is_dir ? AT_REMOVEDIR : 0);
    else
        *q = qid_of(c->s, &st);
    if (fd >= 0)
        close(fd);
    return r;
}

static int make(struct call *c, u32 id, struct made *m)
{
    struct fid *f;
    struct qid q;
    int r = fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    m->uid = f->uid;
    int dir = node_open(c, f->node);
    fid_put(c->s, f);
    if (dir < 0)
        return dir;
    r = make_in(c, dir, m, &q);
    close(dir);
    if (!r)
        put_qid(c, &q);
    return r;
}

int op_mkdir(struct call *c)
{
    struct made m = {.rdev = 0};
    u32 id = take32(c);
    int r = take_name(c, m.name, false);
    m.mode = (take32(c) & 07777) | S_IFDIR;
    m.gid = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    return make(c, id, &m);
}

int op_mknod(struct call *c)
{
    struct made m;
    u32 id = take32(c);
    int r = take_name(c, m.name, false);
    m.mode = take32(c);
    u32 major = take32(c), minor = take32(c);
    m.rdev = makedev(major, minor);
    m.gid = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    if (!(m.mode & S_IFMT))
        m.mode |= S_IFREG;
    if (!S_ISREG(m.mode) && !S_ISCHR(m.mode) && !S_ISBLK(m.mode) && !S_ISFIFO(m.mode) && !S_ISSOCK(m.mode))
        return -EINVAL;
    return make(c, id, &m);
}

int op_symlink(struct call *c)
{
    struct made m = {.rdev = 0};
    u32 id = take32(c);
    int r = take_name(c, m.name, false);
    if (!r)
        r = take_text(c, m.target, sizeof m.target);
    m.mode = S_IFLNK | 0777;
    m.gid = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    if (!m.target[0])
        return -ENOENT;
    return make(c, id, &m);
}

/* --- names changed: with the names locked --- */

/* Two fids, of which the second may be the first again. */
static int get_two(struct call *c, u32 a, u32 b, struct fid **fa, struct fid **fb)
{
    int r = fid_get(c, a, FID_SHARED, fa);
    if (r)
        return r;
    r = fid_get(c, b, FID_SHARED, fb);
    if (r)
        fid_put(c->s, *fa);
    return r;
}

int op_link(struct call *c)
{
    char name[NAME_SIZE], text[FD_PATH_SIZE];
    struct fid *dir, *f;
    u32 dir_id = take32(c), id = take32(c);
    int r = take_name(c, name, false);
    if (r || c->bad)
        return r ? r : -EINVAL;
    r = get_two(c, dir_id, id, &dir, &f);
    if (r)
        return r;
    int to = node_open(c, dir->node), fd = node_open(c, f->node);
    fid_put(c->s, dir);
    fid_put(c->s, f);
    r = to < 0 ? to : fd < 0 ? fd : 0;
    /* The descriptor's link leads to the file itself, also where that is a symbolic link. */
    if (!r && linkat(AT_FDCWD, fd_path(text, fd), to, name, AT_SYMLINK_FOLLOW) < 0)
        r = -errno;
    if (to >= 0)
        close(to);
    if (fd >= 0)
        close(fd);
    return r;
}

/*
 * What had a name is kept open (@kept, -1: it was not there) until the names are unlocked, since to free a
 * large file takes its time. If there are fids of it, it stays so as long as they are, while the guest may
 * have more open; else they lead to nothing.
 */
static void gone(struct share *s, struct node *n, int *kept, bool really)
{
    if (n && really) {
        bool keep = *kept >= 0 && open_reserve(s) == 0;
        node_detach(s, n, keep ? *kept : -1);
        if (keep)
            *kept = -1;
    }
    if (n)
        node_put(s, n);
}

static void close_kept(int kept)
{
    if (kept >= 0)
        close(kept);
}

static int unlink_locked(struct call *c, struct node *dir_node, const char *name, int flags, int *kept)
{
    int dir = node_open_entered(c, dir_node);
    if (dir < 0)
        return dir;
    struct node *n = node_find(c->s, dir_node, name);
    close_kept(*kept);
    *kept = open_child(c, dir, name, O_PATH, 0);
    int r = unlinkat(dir, name, flags) < 0 ? -errno : 0;
    close(dir);
    gone(c->s, n, kept, r == 0);
    return r;
}

static int unlink_name(struct call *c, struct node *dir, const char *name, int flags)
{
    int kept = -1;
    names_lock(c->s);
    int r = unlink_locked(c, dir, name, flags, &kept);
    names_unlock(c->s);
    close_kept(kept);
    return r;
}

int op_unlinkat(struct call *c)
{
    char name[NAME_SIZE];
    struct fid *f;
    u32 id = take32(c);
    int r = take_name(c, name, false);
    u32 flags = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    r = fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    r = unlink_name(c, f->node, name, flags & AT_REMOVEDIR);
    fid_put(c->s, f);
    return r;
}

/* Moves a name. A node that had the new one is gone with the file that had it. */
static int rename_locked(struct call *c, struct node *from, const char *name, struct node *to,
                         const char *new_name, int *kept)
{
    char *copy = strdup(new_name);
    int from_fd = node_open_entered(c, from), to_fd = node_open_entered(c, to);
    int r = !copy ? -ENOMEM : from_fd < 0 ? from_fd : to_fd < 0 ? to_fd : 0;
    struct node *moved = NULL, *replaced = NULL;
    if (!r) {
        moved = node_find(c->s, from, name);
        replaced = node_find(c->s, to, new_name);
        *kept = open_child(c, to_fd, new_name, O_PATH, 0);
        r = renameat(from_fd, name, to_fd, new_name) < 0 ? -errno : 0;
    }
    bool other = replaced && replaced != moved;
    gone(c->s, replaced, kept, !r && other);
    if (!r && moved && (other || !replaced)) {
        node_move(c->s, moved, to, copy);
        copy = NULL;
    }
    if (moved)
        node_put(c->s, moved);
    if (from_fd >= 0)
        close(from_fd);
    if (to_fd >= 0)
        close(to_fd);
    free(copy);
    return r;
}

int op_renameat(struct call *c)
{
    char name[NAME_SIZE], new_name[NAME_SIZE];
    struct fid *from, *to;
    int kept = -1;
    u32 id = take32(c);
    int r = take_name(c, name, false);
    u32 new_id = take32(c);
    if (!r)
        r = take_name(c, new_name, false);
    if (r || c->bad)
        return r ? r : -EINVAL;
    r = get_two(c, id, new_id, &from, &to);
    if (r)
        return r;
    names_lock(c->s);
    r = rename_locked(c, from->node, name, to->node, new_name, &kept);
    names_unlock(c->s);
    close_kept(kept);
    fid_put(c->s, from);
    fid_put(c->s, to);
    return r;
}

/* The name and the directory of a fid; names locked. The caller frees and puts. */
static int name_of(struct share *s, struct node *n, char name[NAME_SIZE], struct node **dir)
{
    lock_acquire(&s->lock);
    *dir = n->parent;
    if (*dir) {
        (*dir)->refs++;
        memcpy(name, n->name, strlen(n->name) + 1);
    }
    lock_drop(&s->lock);
    return *dir ? 0 : n == &s->root ? -EBUSY : -ENOENT;
}

int op_rename(struct call *c)
{
    char name[NAME_SIZE], new_name[NAME_SIZE];
    struct fid *f, *to;
    struct node *dir;
    int kept = -1;
    u32 id = take32(c), dir_id = take32(c);
    int r = take_name(c, new_name, false);
    if (r || c->bad)
        return r ? r : -EINVAL;
    r = get_two(c, id, dir_id, &f, &to);
    if (r)
        return r;
    names_lock(c->s);
    r = name_of(c->s, f->node, name, &dir);
    if (!r) {
        r = rename_locked(c, dir, name, to->node, new_name, &kept);
        node_put(c->s, dir);
    }
    names_unlock(c->s);
    close_kept(kept);
    fid_put(c->s, f);
    fid_put(c->s, to);
    return r;
}

static int remove_locked(struct call *c, struct node *n, int *kept)
{
    char name[NAME_SIZE];
    struct node *dir;
    int r = name_of(c->s, n, name, &dir);
    if (r)
        return r;
    r = unlink_locked(c, dir, name, 0, kept);
    if (r == -EISDIR)
        r = unlink_locked(c, dir, name, AT_REMOVEDIR, kept);
    node_put(c->s, dir);
    return r;
}

/* Takes the file away, and the fid in any case (remove(5)). */
int op_remove(struct call *c)
{
    struct fid *f;
    int kept = -1;
    u32 id = take32(c);
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    r = -EROFS;
    if (!c->s->options.read_only) {
        names_lock(c->s);
        r = remove_locked(c, f->node, &kept);
        names_unlock(c->s);
        close_kept(kept);
    }
    fid_remove(c->s, f);
    fid_put(c->s, f);
    return r;
}
