/* What has to do with fids and with the whole: version, attach, walk, clunk, statfs. */
#include <errno.h>
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backend/share/share-internal.h"

#define MSIZE_MIN 4096 /* what a reply that is not read or readdir may take */
#define MAX_WALK 16    /* MAXWELEM of the protocol */
#define V9FS_MAGIC 0x01021997

/* A version begins a session: nothing is left of the one before. */
int op_version(struct call *c)
{
    char version[32];
    u32 msize = take32(c);
    int r = take_text(c, version, sizeof version);
    if (c->bad)
        return -EINVAL;
    bool known = !r && !strcmp(version, "9P2000.L") && msize >= MSIZE_MIN;
    fid_remove_all(c->s);
    msize = MIN(msize, SHARE_MSIZE_MAX);
    lock_acquire(&c->s->lock);
    c->s->msize = known ? msize : 0;
    lock_drop(&c->s->lock);
    c->msize = MSIZE_MIN;
    put32(c, msize);
    put_text(c, known ? "9P2000.L" : "unknown", known ? 8 : 7);
    return 0;
}

int op_attach(struct call *c)
{
    char name[NAME_SIZE];
    struct statx st;
    u32 id = take32(c), afid = take32(c);
    int r = take_text(c, name, sizeof name); /* uname: the number behind it is what counts */
    if (!r)
        r = take_text(c, name, sizeof name);
    u32 uid = take32(c);
    if (r || c->bad)
        return r ? r : -EINVAL;
    if (afid != NO_FID)
        return -EINVAL;
    if (name[0] && strcmp(name, "/") != 0)
        return -ENOENT;
    r = attributes_of(c->s, c->s->root_fd, &st);
    if (!r)
        r = fid_add(c->s, id, uid == NO_ID ? 0 : uid, node_ref(c->s, &c->s->root), NULL);
    if (r)
        return r;
    struct qid q = qid_of(c->s, &st);
    put_qid(c, &q);
    return 0;
}

/* --- walk --- */

struct walk {
    char names[MAX_WALK][NAME_SIZE];
    struct qid qids[MAX_WALK];
    unsigned count, done;
    struct node *node; /* where it stands; referred to */
    int fd;            /* the same, or -1 */
};

/* One step; the names are entered. */
static int step(struct call *c, struct walk *w, const char *name)
{
    struct share *s = c->s;
    struct node *next;
    struct statx st;
    int fd, r;
    bool up = !strcmp(name, "..");
    if (!strcmp(name, "."))
        return -ENOENT;
    next = up ? node_parent(s, w->node) : node_child(s, w->node, name);
    if (!next)
        return up ? -ENOENT : -ENFILE;
    if (!up && !node_reachable(s, next)) {
        node_put(s, next);
        return -ENAMETOOLONG;
    }
    fd = up ? node_open_entered(c, next) : open_child(c, w->fd, name, O_PATH, 0);
    r = fd < 0 ? fd : attributes_now(c, fd, &st);
    if (r) {
        if (fd >= 0)
            close(fd);
        node_put(s, next);
        return r;
    }
    w->qids[w->done] = qid_of(s, &st);
    close(w->fd);
    node_put(s, w->node);
    w->node = next;
    w->fd = fd;
    return 0;
}

/* As far as it goes: an error only where the first step fails (walk(5)). */
static int walk_names(struct call *c, struct walk *w)
{
    int r;
    if (w->count == 0)
        return 0;
    r = names_enter(c);
    if (r)
        return r;
    w->fd = node_open_entered(c, w->node);
    r = w->fd < 0 ? w->fd : 0;
    while (!r && w->done < w->count) {
        r = step(c, w, w->names[w->done]);
        w->done += !r;
    }
    names_leave(c->s);
    if (w->fd >= 0)
        close(w->fd);
    return r == -EAGAIN || w->done == 0 ? r : 0;
}

static int walk_in_place(struct call *c, u32 id, struct walk *w)
{
    struct fid *f;
    int r = fid_get(c, id, FID_EXCLUSIVE, &f);
    if (!r && (f->fd >= 0 || f->attribute))
        r = -EBUSY;
    if (r) {
        fid_put(c->s, f);
        node_put(c->s, w->node);
        return r;
    }
    struct node *old = f->node;
    f->node = w->node;
    fid_put(c->s, f);
    node_put(c->s, old);
    return 0;
}

static int walk_from(struct call *c, struct walk *w, u32 id, u32 new_id)
{
    struct fid *f;
    int r = fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    u32 uid = f->uid;
    r = f->attribute ? -EINVAL : 0;
    if (!r) {
        w->node = node_ref(c->s, f->node);
        r = walk_names(c, w);
        if (r || w->done < w->count) {
            node_put(c->s, w->node);
            w->node = NULL;
        }
    }
    fid_put(c->s, f);
    if (r || !w->node)
        return r;
    return id == new_id ? walk_in_place(c, id, w) : fid_add(c->s, new_id, uid, w->node, NULL);
}

int op_walk(struct call *c)
{
    struct walk w = {.fd = -1};
    u32 id = take32(c), new_id = take32(c);
    w.count = take16(c);
    if (c->bad || w.count > MAX_WALK)
        return -EINVAL;
    for (unsigned i = 0; i < w.count; i++) {
        int r = take_name(c, w.names[i], true);
        if (r)
            return r;
    }
    int r = walk_from(c, &w, id, new_id);
    if (r)
        return r;
    put16(c, (u16)w.done);
    for (unsigned i = 0; i < w.done; i++)
        put_qid(c, &w.qids[i]);
    return 0;
}

/* --- the rest --- */

/* The fid is gone whatever the result (clunk(5)). */
int op_clunk(struct call *c)
{
    struct fid *f;
    u32 id = take32(c);
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    /* Closing a file that was written, or the last descriptor of one that was unlinked, can take its time. */
    bool quick =
        !f->attribute && (f->fd < 0 || (f->flags & O_ACCMODE) == O_RDONLY) && !node_detached(c->s, f->node);
    if (c->nowait && !quick) {
        fid_put(c->s, f);
        return -EAGAIN;
    }
    if (f->attribute && f->attribute->writing)
        r = attribute_store(c, f);
    fid_remove(c->s, f);
    fid_put(c->s, f);
    return r;
}

int op_statfs(struct call *c)
{
    struct statfs st;
    struct fid *f;
    u32 id = take32(c);
    int r = c->bad ? -EINVAL : fid_get(c, id, FID_SHARED, &f);
    if (r)
        return r;
    int fd = node_open(c, f->node);
    fid_put(c->s, f);
    if (fd < 0)
        return fd;
    r = fstatfs(fd, &st) < 0 ? -errno : 0;
    close(fd);
    if (r)
        return r;
    put32(c, V9FS_MAGIC);
    put32(c, (u32)st.f_bsize);
    put64(c, st.f_blocks);
    put64(c, st.f_bfree);
    put64(c, st.f_bavail);
    put64(c, st.f_files);
    put64(c, st.f_ffree);
    put64(c, 0); /* the host's number says nothing to the guest */
    put32(c, NAME_SIZE - 1);
    return 0;
}
