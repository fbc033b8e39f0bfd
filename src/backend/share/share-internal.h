/*
 * The parts of the server of shared directories.
 *
 * A *fid* is the guest's handle, a *node* a name in the tree as the guest knows it. Fids refer to nodes,
 * nodes to the nodes above them, and a path is made from them anew for each request, beginning at the
 * directory that is shared. A node that the guest unlinked is *detached*: it has no path any more, and
 * keeps a descriptor of what it was.
 *
 * Locks: `lock` (LOCK_RANK_BACKEND) guards all tables. No system call that can block is made under it.
 * Two states are waited for with it: a fid in exclusive use (fid_get()), and names being changed
 * (names_enter(), names_lock()). A request that uses a fid exclusively uses no other, and names are entered
 * after fids were taken, so these waits end.
 */
#ifndef TRAPEZE_BACKEND_SHARE_SHARE_INTERNAL_H
#define TRAPEZE_BACKEND_SHARE_SHARE_INTERNAL_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "backend/share/share.h"
#include "base/list.h"
#include "base/lock.h"

#define SHARE_THREADS 4
#define SHARE_MAX_FIDS (1u << 18)
#define SHARE_MAX_NODES (1u << 18)
#define SHARE_MAX_OPEN 8192       /* files and directories; fewer when the process may have fewer */
#define SHARE_MAX_ATTRIBUTES 64   /* extended attributes being read or written */
#define SHARE_ATTRIBUTE_MAX 65536 /* bytes of one: XATTR_SIZE_MAX */
#define SHARE_PATH_MAX 65536      /* of a file within the directory */
#define SHARE_BUCKETS (1u << 14)
#define SHARE_DEVICES 64

#define NAME_SIZE 256    /* NAME_MAX and a zero */
#define TARGET_SIZE 4096 /* of a symbolic link */
#define MESSAGE_MAX 8192 /* of a message, without the data of a write */
#define NO_FID (~0u)
#define NO_ID (~0u)

/* The messages of 9P2000.L; the reply's type is one more. */
enum share_message {
    T_LERROR = 6,
    T_STATFS = 8,
    T_LOPEN = 12,
    T_LCREATE = 14,
    T_SYMLINK = 16,
    T_MKNOD = 18,
    T_RENAME = 20,
    T_READLINK = 22,
    T_GETATTR = 24,
    T_SETATTR = 26,
    T_XATTRWALK = 30,
    T_XATTRCREATE = 32,
    T_READDIR = 40,
    T_FSYNC = 50,
    T_LOCK = 52,
    T_GETLOCK = 54,
    T_LINK = 70,
    T_MKDIR = 72,
    T_RENAMEAT = 74,
    T_UNLINKAT = 76,
    T_VERSION = 100,
    T_AUTH = 102,
    T_ATTACH = 104,
    T_FLUSH = 108,
    T_WALK = 110,
    T_READ = 116,
    T_WRITE = 118,
    T_CLUNK = 120,
    T_REMOVE = 122,
    T_COUNT = 128,
};

enum { QID_DIR = 0x80, QID_SYMLINK = 0x02, QID_FILE = 0 };

struct node {
    struct list link;    /* in share.nodes; alone when detached, or the root */
    struct node *parent; /* NULL: the root, or detached */
    char *name;
    unsigned refs; /* fids, nodes below, calls under way */
    int fd;        /* detached: what it was (O_PATH), or -1 */
    bool detached;
};

/* An extended attribute, or the list of their names, on its way. */
struct attribute {
    char name[NAME_SIZE];
    int flags;
    bool writing;
    size_t size, filled;
    u8 data[];
};

struct fid {
    struct list link; /* in share.fids */
    u32 id;
    u32 uid; /* who attached */
    unsigned users;
    bool exclusive, removed, locked; /* `locked`: there may be locks of its own */
    struct node *node;
    int fd;    /* opened, or -1 */
    int flags; /* of open(2) */
    struct attribute *attribute;
};

/* A request between share_submit() and done(). */
struct job {
    struct list link;     /* in share.jobs */
    struct list queued;   /* in share.queue */
    struct job *flushers; /* jobs of T_FLUSH that wait for this one, by `next` */
    struct job *next;
    struct share_request *request;
    u8 type;
    u16 tag;
};

struct share {
    char *path;
    struct share_options options;
    struct share_listener *listener;
    int root_fd;
    u64 root_device;
    bool local;  /* on a file system that no other machine or process stands behind */
    int proc_fd; /* /proc/self/fd: opens what an O_PATH descriptor stands for */

    struct lock lock;
    pthread_cond_t changed; /* a fid, or the names, are free for somebody who waits */
    u32 msize;              /* 0: no session */
    struct list fids[SHARE_BUCKETS], nodes[SHARE_BUCKETS];
    u64 seed; /* of both tables' hash */
    struct node root;
    unsigned fid_count, node_count, attribute_count;
    atomic_uint open_count; /* descriptors that the guest can keep us from closing */
    unsigned max_open;
    unsigned resolving; /* calls that make paths */
    bool renaming;      /* a call changes them */
    u64 device[SHARE_DEVICES];
    unsigned device_count;

    struct lock locks_lock; /* of lock.c; never taken with `lock` */
    struct list locked;     /* files */
    unsigned range_count;

    pthread_cond_t work; /* the queue got longer, or stop */
    struct list jobs, queue;
    bool stop;
    pthread_t threads[SHARE_THREADS];
    unsigned thread_count;
};

/* One request being executed. */
struct call {
    struct share *s;
    struct share_request *r;
    bool nowait; /* -EAGAIN instead of waiting; nothing has been changed then */
    u8 type;
    u16 tag;
    u32 msize;
    bool bad; /* the message is shorter than what was taken from it */
    u8 *pos, *end;
    size_t reply_len;
    size_t data_len; /* bytes that are in r->in already, behind `reply` */
    u32 message_size;
    u8 message[MESSAGE_MAX];
    u8 reply[MESSAGE_MAX];
};

/* --- message.c: taking and putting fields. What is not there reads as 0 and sets c->bad --- */

u8 take8(struct call *c);
u16 take16(struct call *c);
u32 take32(struct call *c);
u64 take64(struct call *c);
/* A string of at most size - 1 bytes, none of them 0: 0, -EINVAL or -ENAMETOOLONG. */
int take_text(struct call *c, char *text, size_t size);
/* A name of a file: neither empty nor with a slash; "." and ".." only where @dots. */
int take_name(struct call *c, char name[NAME_SIZE], bool dots);
void put8(struct call *c, u8 v);
void put16(struct call *c, u16 v);
void put32(struct call *c, u32 v);
void put64(struct call *c, u64 v);
void put_text(struct call *c, const char *text, size_t len);

struct qid {
    u8 type;
    u32 version;
    u64 path;
};
void put_qid(struct call *c, const struct qid *q);
/* Room for data behind the @head bytes of a reply. */
size_t reply_room(const struct call *c, size_t head, size_t want);

/* --- fid.c --- */

enum fid_use { FID_SHARED, FID_EXCLUSIVE };
/* To be given back by fid_put(), which takes NULL as well. -EBADF when there is none. */
int fid_get(struct call *c, u32 id, enum fid_use use, struct fid **f);
void fid_put(struct share *s, struct fid *f);
/* A new fid, which takes @node over in any case. */
int fid_add(struct share *s, u32 id, u32 uid, struct node *node, struct attribute *a);
/* @f, which the caller uses, is gone for others; its descriptors are closed after the last use. */
void fid_remove(struct share *s, struct fid *f);
void fid_remove_all(struct share *s);
/* It has locks, which go with it. */
void fid_set_locked(struct share *s, struct fid *f);
/* Is there room for another descriptor that stays open? To be given back when it is not opened after all. */
int open_reserve(struct share *s);
void open_unreserve(struct share *s);
int attribute_new(struct share *s, size_t size, struct attribute **a);
void attribute_free(struct share *s, struct attribute *a);

/* --- node.c --- */

void nodes_init(struct share *s);
struct node *node_ref(struct share *s, struct node *n);
void node_put(struct share *s, struct node *n);
/* The node of @name in @parent, made if need be. NULL: too many. */
struct node *node_child(struct share *s, struct node *parent, const char *name);
/* That above @n; the root's is the root. NULL when @n is detached. */
struct node *node_parent(struct share *s, struct node *n);
/* Is its path within SHARE_PATH_MAX? */
bool node_reachable(struct share *s, const struct node *n);
bool node_detached(struct share *s, const struct node *n);

/* Around what makes paths from nodes; and around what changes them. */
int names_enter(struct call *c);
void names_leave(struct share *s);
void names_lock(struct share *s);
void names_unlock(struct share *s);

/* O_PATH descriptors. The first within names_enter(), the second enters by itself. */
int node_open_entered(struct call *c, struct node *n);
int node_open(struct call *c, struct node *n);
/* A name in a directory, with openat2(): never through a symbolic link, never out of the directory. */
int open_child(const struct call *c, int dir, const char *name, int flags, mode_t mode);
/* What @fd (O_PATH) stands for, as a regular file or a directory; -ENXIO for anything else. */
int reopen(struct share *s, int fd, int flags);

/* With names locked: the node of @name in @dir, or NULL; referred to. */
struct node *node_find(struct share *s, struct node *dir, const char *name);
/* What it was is in @fd, which is taken over and counts as open; -1: nobody keeps it. */
void node_detach(struct share *s, struct node *n, int fd);
void node_move(struct share *s, struct node *n, struct node *dir, char *name);

/* --- owner.c: attributes as the guest sees them --- */

/* Those of what @fd, of any kind, stands for. */
int attributes_of(struct share *s, int fd, struct statx *st);
/* The same; -EAGAIN where c->nowait does not allow to ask. */
int attributes_now(const struct call *c, int fd, struct statx *st);
int share_find_device(struct share *s);
struct qid qid_of(struct share *s, const struct statx *st);
/* Of a new file. @fd may be O_PATH. @rdev only for device nodes. */
int owner_give(struct share *s, int fd, u32 uid, u32 gid, u32 mode, u64 rdev);
int owner_chmod(struct share *s, int fd, u32 mode);
int owner_chown(struct share *s, int fd, u32 uid, u32 gid);
/* What a new file or directory is made with, before owner_give(). */
mode_t owner_initial_mode(const struct share *s, u32 mode);
/* May a guest see and set this attribute? */
bool owner_may_use(const struct share *s, const char *attribute);

#define FD_PATH_SIZE 32
const char *fd_path(char text[FD_PATH_SIZE], int fd);

/* --- the messages: 0 or -errno, with the reply's fields put --- */

int op_version(struct call *c);
int op_attach(struct call *c);
int op_walk(struct call *c);
int op_clunk(struct call *c);
int op_statfs(struct call *c);
int op_getattr(struct call *c);
int op_setattr(struct call *c);
int op_readlink(struct call *c);
int op_xattrwalk(struct call *c);
int op_xattrcreate(struct call *c);
int op_lopen(struct call *c);
int op_lcreate(struct call *c);
int op_read(struct call *c);
int op_write(struct call *c);
int op_fsync(struct call *c);
int op_lock(struct call *c);
int op_getlock(struct call *c);
int op_readdir(struct call *c);
int op_mkdir(struct call *c);
int op_mknod(struct call *c);
int op_symlink(struct call *c);
int op_link(struct call *c);
int op_rename(struct call *c);
int op_renameat(struct call *c);
int op_unlinkat(struct call *c);
int op_remove(struct call *c);

/* --- lock.c --- */

void locks_init(struct share *s);
void locks_drop_fid(struct share *s, const struct fid *f);

/* The write of an attribute that is under way takes effect. */
int attribute_store(struct call *c, struct fid *f);

#endif
