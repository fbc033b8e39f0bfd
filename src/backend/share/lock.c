/*
 * Byte-range locks. The guest's kernel decides between its own processes before it asks here; what remains
 * is to keep out the host's processes and other machines that share the directory. So each locked file has
 * one descriptor of its own with open file description locks (F_OFD_SETLK), which hold the union of what the
 * guest's processes hold: two of them may read-lock the same bytes, and the first to unlock must not free
 * them. Ranges end with their fid at the latest.
 *
 * The guest may lock what it has opened in another way (flock() of a file opened for reading): where the
 * descriptor does not allow the host's lock there is none, and the guest has its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/share/share-internal.h"

#define MAX_RANGES 1024

enum { RANGE_READ = 0, RANGE_WRITE = 1, RANGE_UNLOCK = 2 };
enum { LOCK_SUCCESS = 0, LOCK_BLOCKED = 1 };

struct range {
    struct list link;
    const struct fid *fid;
    u32 process;
    u8 type;
    u64 start, end; /* inclusive */
};

struct locked_file {
    struct list link;
    u64 device, inode;
    int fd;
    struct list ranges;
};

void locks_init(struct share *s)
{
    lock_init(&s->locks_lock, LOCK_RANK_BACKEND);
    list_init(&s->locked);
}

/* --- with locks_lock held --- */

static struct locked_file *file_find(struct share *s, const struct stat *st)
{
    struct locked_file *l;
    list_for_each (l, &s->locked, link)
        if (l->device == st->st_dev && l->inode == st->st_ino)
            return l;
    return NULL;
}

static struct locked_file *file_new(struct share *s, const struct fid *f, const struct stat *st)
{
    if (open_reserve(s))
        return NULL;
    struct locked_file *l = malloc(sizeof *l);
    if (!l) {
        open_unreserve(s);
        return NULL;
    }
    *l = (struct locked_file){.device = st->st_dev, .inode = st->st_ino, .fd = reopen(s, f->fd, O_RDWR)};
    if (l->fd < 0)
        l->fd = reopen(s, f->fd, O_RDONLY);
    if (l->fd < 0)
        l->fd = reopen(s, f->fd, O_WRONLY);
    list_init(&l->ranges);
    list_push_back(&s->locked, &l->link);
    return l;
}

static void file_put(struct share *s, struct locked_file *l)
{
    if (!list_empty(&l->ranges))
        return;
    list_remove(&l->link);
    if (l->fd >= 0)
        close(l->fd); /* and so all its locks go */
    open_unreserve(s);
    free(l);
}

static int host_lock(const struct locked_file *l, u8 type, u64 start, u64 end)
{
    struct flock lock = {
        .l_type = type == RANGE_READ    ? F_RDLCK
                  : type == RANGE_WRITE ? F_WRLCK
                                        : F_UNLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)start,
        .l_len = end >= INT64_MAX ? 0 : (off_t)(end - start + 1),
    };
    if (l->fd < 0 || fcntl(l->fd, F_OFD_SETLK, &lock) == 0)
        return LOCK_SUCCESS;
    return errno == EAGAIN || errno == EACCES ? LOCK_BLOCKED : LOCK_SUCCESS;
}

static bool overlaps(const struct range *r, u64 start, u64 end)
{
    return r->start <= end && r->end >= start;
}

/* Unlocks at the host what no range holds any more. */
static void release_unheld(const struct locked_file *l, u64 start, u64 end)
{
    while (start <= end) {
        const struct range *r, *first = NULL;
        list_for_each (r, &l->ranges, link)
            if (overlaps(r, start, end) && (!first || r->start < first->start))
                first = r;
        if (!first) {
            (void)host_lock(l, RANGE_UNLOCK, start, end);
            return;
        }
        if (first->start > start)
            (void)host_lock(l, RANGE_UNLOCK, start, first->start - 1);
        if (first->end >= end)
            return;
        start = first->end + 1;
    }
}

static bool conflicts(const struct locked_file *l, u32 process, u8 type, u64 start, u64 end)
{
    const struct range *r;
    list_for_each (r, &l->ranges, link)
        if (r->process != process && overlaps(r, start, end) &&
            (type == RANGE_WRITE || r->type == RANGE_WRITE))
            return true;
    return false;
}

static int range_add(struct share *s, struct locked_file *l, const struct range *like)
{
    struct range *r = s->range_count < MAX_RANGES ? malloc(sizeof *r) : NULL;
    if (!r)
        return -ENOLCK;
    *r = *like;
    list_push_back(&l->ranges, &r->link);
    s->range_count++;
    return 0;
}

static void range_free(struct share *s, struct range *r)
{
    list_remove(&r->link);
    free(r);
    s->range_count--;
}

/* Takes [start, end] out of what @process holds. Of a range around it the part behind may need room. */
static int carve(struct share *s, struct locked_file *l, u32 process, u64 start, u64 end)
{
    struct range *r, *next;
    list_for_each_safe (r, next, &l->ranges, link) {
        if (r->process != process || !overlaps(r, start, end))
            continue;
        if (r->start < start && r->end > end) {
            struct range behind = *r;
            behind.start = end + 1;
            int e = range_add(s, l, &behind);
            if (e)
                return e;
            r->end = start - 1;
        } else if (r->start < start) {
            r->end = start - 1;
        } else if (r->end > end) {
            r->start = end + 1;
        } else {
            range_free(s, r);
        }
    }
    return 0;
}

static int set_range(struct share *s, struct locked_file *l, const struct range *want)
{
    if (want->type == RANGE_UNLOCK) {
        int r = carve(s, l, want->process, want->start, want->end);
        if (!r)
            release_unheld(l, want->start, want->end);
        return r ? r : LOCK_SUCCESS;
    }
    if (conflicts(l, want->process, want->type, want->start, want->end))
        return LOCK_BLOCKED;
    if (s->range_count + 2 > MAX_RANGES)
        return -ENOLCK;
    if (host_lock(l, want->type, want->start, want->end) == LOCK_BLOCKED)
        return LOCK_BLOCKED;
    int r = carve(s, l, want->process, want->start, want->end);
    return r ? r : range_add(s, l, want);
}

void locks_drop_fid(struct share *s, const struct fid *f)
{
    struct locked_file *l, *next_file;
    struct range *r, *next;
    lock_acquire(&s->locks_lock);
    list_for_each_safe (l, next_file, &s->locked, link) {
        list_for_each_safe (r, next, &l->ranges, link) {
            if (r->fid != f)
                continue;
            u64 start = r->start, end = r->end;
            range_free(s, r);
            release_unheld(l, start, end);
        }
        file_put(s, l);
    }
    lock_drop(&s->locks_lock);
}

/* --- messages --- */

struct lock_message {
    u32 fid;
    struct range range;
    char client[NAME_SIZE];
};

static int take_lock(struct call *c, bool with_flags, struct lock_message *m)
{
    m->fid = take32(c);
    m->range.type = take8(c);
    if (with_flags)
        (void)take32(c); /* the guest waits by itself when it has to */
    u64 start = take64(c), len = take64(c);
    m->range.process = take32(c);
    int r = take_text(c, m->client, sizeof m->client);
    if (r || c->bad || m->range.type > RANGE_UNLOCK || start > INT64_MAX)
        return r ? r : -EINVAL;
    m->range.start = start;
    m->range.end = len == 0 || len > INT64_MAX - start ? INT64_MAX : start + len - 1;
    return 0;
}

static int lock_file(struct share *s, struct fid *f, const struct range *want)
{
    struct stat st;
    int r;
    if (f->fd < 0)
        return -EBADF;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    lock_acquire(&s->locks_lock);
    struct locked_file *l = file_find(s, &st);
    if (!l && want->type == RANGE_UNLOCK) {
        r = LOCK_SUCCESS;
    } else if (!l && !(l = file_new(s, f, &st))) {
        r = -ENOLCK;
    } else {
        r = set_range(s, l, want);
        file_put(s, l);
    }
    lock_drop(&s->locks_lock);
    return r;
}

int op_lock(struct call *c)
{
    struct lock_message m = {.fid = NO_FID};
    struct fid *f;
    int r = take_lock(c, true, &m);
    if (!r)
        r = fid_get(c, m.fid, FID_SHARED, &f);
    if (r)
        return r;
    m.range.fid = f;
    r = lock_file(c->s, f, &m.range);
    if (r == LOCK_SUCCESS && m.range.type != RANGE_UNLOCK)
        fid_set_locked(c->s, f);
    fid_put(c->s, f);
    if (r < 0)
        return r;
    put8(c, (u8)r);
    return 0;
}

/* What another process of the host holds; of its own the guest knows. */
static void find_conflict(struct share *s, const struct fid *f, struct range *want)
{
    struct flock lock = {
        .l_type = want->type == RANGE_WRITE ? F_WRLCK : F_RDLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)want->start,
        .l_len = want->end >= INT64_MAX ? 0 : (off_t)(want->end - want->start + 1),
    };
    struct stat st;
    lock_acquire(&s->locks_lock);
    const struct locked_file *l = fstat(f->fd, &st) == 0 ? file_find(s, &st) : NULL;
    bool found = fcntl(l && l->fd >= 0 ? l->fd : f->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    lock_drop(&s->locks_lock);
    want->type = !found ? RANGE_UNLOCK : lock.l_type == F_WRLCK ? RANGE_WRITE : RANGE_READ;
    if (!found)
        return;
    want->process = lock.l_pid > 0 ? (u32)lock.l_pid : 0;
    want->start = (u64)lock.l_start;
    want->end = lock.l_len ? (u64)lock.l_start + (u64)lock.l_len - 1 : INT64_MAX;
}

int op_getlock(struct call *c)
{
    struct lock_message m = {.fid = NO_FID};
    struct fid *f;
    int r = take_lock(c, false, &m);
    if (!r)
        r = fid_get(c, m.fid, FID_SHARED, &f);
    if (r)
        return r;
    if (f->fd < 0)
        r = -EBADF;
    else
        find_conflict(c->s, f, &m.range);
    fid_put(c->s, f);
    if (r)
        return r;
    put8(c, m.range.type);
    put64(c, m.range.start);
    put64(c, m.range.end == INT64_MAX ? 0 : m.range.end - m.range.start + 1);
    put32(c, m.range.process);
    put_text(c, m.client, strlen(m.client));
    return 0;
}
