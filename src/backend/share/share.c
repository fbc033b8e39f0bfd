/* The server as a whole: opening a directory, requests and replies, threads. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "backend/share/share-internal.h"
#include "base/iov.h"
#include "base/log.h"

enum {
    OP_QUICK = 1,  /* can mostly be done without waiting for the host */
    OP_CHANGES = 2 /* not in a read-only share */
};

static const struct op {
    const char *name;
    int (*run)(struct call *c);
    unsigned flags;
} ops[T_COUNT] = {
    [T_STATFS] = {"statfs", op_statfs, 0},
    [T_LOPEN] = {"lopen", op_lopen, OP_QUICK},
    [T_LCREATE] = {"lcreate", op_lcreate, OP_CHANGES},
    [T_SYMLINK] = {"symlink", op_symlink, OP_CHANGES},
    [T_MKNOD] = {"mknod", op_mknod, OP_CHANGES},
    [T_RENAME] = {"rename", op_rename, OP_CHANGES},
    [T_READLINK] = {"readlink", op_readlink, 0},
    [T_GETATTR] = {"getattr", op_getattr, OP_QUICK},
    [T_SETATTR] = {"setattr", op_setattr, OP_CHANGES},
    [T_XATTRWALK] = {"xattrwalk", op_xattrwalk, OP_QUICK},
    [T_XATTRCREATE] = {"xattrcreate", op_xattrcreate, OP_CHANGES},
    [T_READDIR] = {"readdir", op_readdir, 0},
    [T_FSYNC] = {"fsync", op_fsync, 0},
    [T_LOCK] = {"lock", op_lock, 0},
    [T_GETLOCK] = {"getlock", op_getlock, 0},
    [T_LINK] = {"link", op_link, OP_CHANGES},
    [T_MKDIR] = {"mkdir", op_mkdir, OP_CHANGES},
    [T_RENAMEAT] = {"renameat", op_renameat, OP_CHANGES},
    [T_UNLINKAT] = {"unlinkat", op_unlinkat, OP_CHANGES},
    [T_VERSION] = {"version", op_version, 0},
    [T_ATTACH] = {"attach", op_attach, 0},
    [T_WALK] = {"walk", op_walk, OP_QUICK},
    [T_READ] = {"read", op_read, OP_QUICK},
    [T_WRITE] = {"write", op_write, OP_CHANGES},
    [T_CLUNK] = {"clunk", op_clunk, OP_QUICK},
    [T_REMOVE] = {"remove", op_remove, 0},
};

/* --- one request --- */

static const struct op *op_of(u8 type)
{
    static const struct op unknown = {"unknown", NULL, 0};
    return type < T_COUNT && ops[type].run ? &ops[type] : &unknown;
}

static void reply_error(struct call *c, int code)
{
    c->type = T_LERROR;
    c->reply_len = SHARE_MIN_MESSAGE;
    c->data_len = 0;
    put32(c, (u32)code);
}

/* Writes the head and what was put behind it; data lie in the reply already. */
static void send_reply(struct call *c)
{
    u64 room = MIN(c->r->in_bytes, (u64)MAX(c->msize, (u32)SHARE_MIN_MESSAGE + 4));
    if (c->reply_len + c->data_len > room)
        reply_error(c, EMSGSIZE);
    size_t len = c->reply_len + c->data_len;
    put_le32(c->reply, (u32)len);
    c->reply[4] = (u8)(c->type + 1);
    put_le16(c->reply + 5, c->tag);
    if (len > c->r->in_bytes)
        len = 0;
    else
        iov_write(c->r->in, c->r->in_count, 0, c->reply, c->reply_len);
    c->r->written = len;
}

static int check(const struct call *c, const struct op *op)
{
    if (c->message_size < SHARE_MIN_MESSAGE || c->message_size > c->r->out_bytes)
        return -EINVAL;
    if (c->type == T_VERSION)
        return 0;
    if (c->msize == 0)
        return -ESTALE; /* no session, or one before the machine was restored */
    if (c->message_size > c->msize)
        return -EMSGSIZE;
    return op->flags & OP_CHANGES && c->s->options.read_only ? -EROFS : 0;
}

/* Executes a request and writes its reply; -EAGAIN, with nothing done, only when @nowait. */
static int execute(struct share *s, struct share_request *r, bool nowait)
{
    struct call c;
    c.s = s;
    c.r = r;
    c.nowait = nowait;
    c.bad = false;
    c.data_len = 0;
    c.reply_len = SHARE_MIN_MESSAGE;
    size_t len = iov_read(r->out, r->out_count, 0, c.message, sizeof c.message);
    c.message_size = get_le32(c.message);
    c.type = c.message[4];
    c.tag = get_le16(c.message + 5);
    c.pos = c.message + SHARE_MIN_MESSAGE;
    c.end = c.message + MAX(MIN(len, (size_t)c.message_size), (size_t)SHARE_MIN_MESSAGE);
    lock_acquire(&s->lock);
    c.msize = s->msize;
    lock_drop(&s->lock);

    const struct op *op = op_of(c.type);
    if (nowait && !(op->flags & OP_QUICK)) /* the guest made another message of it meanwhile */
        return -EAGAIN;
    int result = op->run ? check(&c, op) : -EOPNOTSUPP;
    if (!result)
        result = op->run(&c);
    if (result == -EAGAIN && nowait)
        return result;
    trace(share, "%s: %s, tag %u, %u bytes: %d", s->path, op->name, c.tag, c.message_size, result);
    if (result)
        reply_error(&c, -result);
    send_reply(&c);
    return 0;
}

static void execute_flush(struct share_request *r, u16 tag)
{
    u8 reply[SHARE_MIN_MESSAGE];
    put_le32(reply, sizeof reply);
    reply[4] = T_FLUSH + 1;
    put_le16(reply + 5, tag);
    bool fits = r->in_bytes >= sizeof reply;
    r->written = fits ? iov_write(r->in, r->in_count, 0, reply, sizeof reply) : 0;
}

void share_execute(struct share *s, struct share_request *r)
{
    u8 head[SHARE_MIN_MESSAGE];
    iov_read(r->out, r->out_count, 0, head, sizeof head);
    if (head[4] == T_FLUSH)
        execute_flush(r, get_le16(head + 5));
    else
        (void)execute(s, r, false);
}

/* --- jobs --- */

/*
 * Hands the request of @job back, then those of the flushes that waited for it, and so on: a reply to a
 * flush comes after that to the request it names, so that the guest can use the tag again (flush(5)).
 */
static void job_done(struct share *s, struct job *job)
{
    struct job *ready = job;
    while ((job = ready)) {
        ready = job->next;
        if (job->type == T_FLUSH)
            execute_flush(job->request, job->tag);
        s->listener->done(s->listener, job->request);
        lock_acquire(&s->lock);
        list_remove(&job->link);
        while (job->flushers) {
            struct job *flush = job->flushers;
            job->flushers = flush->next;
            flush->next = ready;
            ready = flush;
        }
        lock_drop(&s->lock);
        free(job);
    }
}

/* A flush waits for the job that it names, if there is one. Under the lock. */
static bool attach_flush(struct share *s, struct job *flush, u16 tag)
{
    struct job *j;
    list_for_each (j, &s->jobs, link) {
        if (j == flush || j->tag != tag)
            continue;
        flush->next = j->flushers;
        j->flushers = flush;
        return true;
    }
    return false;
}

static struct job *job_new(struct share_request *r, const u8 *head)
{
    struct job *job = malloc(sizeof *job);
    if (!job)
        return NULL;
    *job = (struct job){.request = r, .type = head[4], .tag = get_le16(head + 5)};
    list_init(&job->queued);
    return job;
}

void share_submit(struct share *s, struct share_request *r)
{
    u8 head[SHARE_MIN_MESSAGE + 2] = {0};
    iov_read(r->out, r->out_count, 0, head, sizeof head);
    struct job *job = job_new(r, head);
    if (!job) { /* the guest waits for ever for this one; it is told at least that something came */
        r->written = 0;
        s->listener->done(s->listener, r);
        return;
    }
    bool waits = false;
    lock_acquire(&s->lock);
    list_push_back(&s->jobs, &job->link);
    if (job->type == T_FLUSH)
        waits = attach_flush(s, job, get_le16(head + SHARE_MIN_MESSAGE));
    lock_drop(&s->lock);
    if (waits)
        return;
    bool quick = s->local && op_of(job->type)->flags & OP_QUICK;
    if (job->type == T_FLUSH || (quick && execute(s, r, true) == 0)) {
        job_done(s, job);
        return;
    }
    lock_acquire(&s->lock);
    list_push_back(&s->queue, &job->queued);
    pthread_cond_signal(&s->work);
    lock_drop(&s->lock);
}

static void *worker(void *arg)
{
    struct share *s = arg;
    lock_acquire(&s->lock);
    for (;;) {
        while (list_empty(&s->queue) && !s->stop)
            lock_wait(&s->lock, &s->work);
        if (list_empty(&s->queue))
            break;
        struct job *job = list_entry(s->queue.next, struct job, queued);
        list_remove(&job->queued);
        lock_drop(&s->lock);
        (void)execute(s, job->request, false);
        job_done(s, job);
        s->listener->wake(s->listener);
        lock_acquire(&s->lock);
    }
    lock_drop(&s->lock);
    return NULL;
}

/* Signals are for the threads that expect them. */
static int start_threads(struct share *s, struct error *err)
{
    sigset_t all, old;
    int r = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (!r && s->thread_count < SHARE_THREADS) {
        r = pthread_create(&s->threads[s->thread_count], NULL, worker, s);
        if (!r)
            pthread_setname_np(s->threads[s->thread_count++], "share");
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r ? error_set_errno(err, r, "cannot create a thread for '%s'", s->path) : 0;
}

static void stop_threads(struct share *s)
{
    lock_acquire(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->work);
    lock_drop(&s->lock);
    for (unsigned i = 0; i < s->thread_count; i++)
        pthread_join(s->threads[i], NULL);
    s->thread_count = 0;
}

/* --- opening --- */

enum share_ownership share_ownership_find(const char *name)
{
    return !strcmp(name, "mapped") ? SHARE_MAPPED : !strcmp(name, "none") ? SHARE_NONE : SHARE_PASSTHROUGH;
}

/* Where nothing but the disk of this machine is waited for. */
static bool is_local(int fd)
{
    static const u64 local[] = {EXT4_SUPER_MAGIC,      XFS_SUPER_MAGIC,  BTRFS_SUPER_MAGIC, TMPFS_MAGIC,
                                OVERLAYFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, RAMFS_MAGIC};
    struct statfs st;
    if (fstatfs(fd, &st) < 0)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(local); i++)
        if ((u32)st.f_type == local[i])
            return true;
    return false;
}

static int open_root(struct share *s, struct error *err)
{
    s->root_fd = open(s->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->root_fd < 0)
        return error_set_errno(err, errno, "cannot share '%s'", s->path);
    s->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->proc_fd < 0)
        return error_set_errno(err, errno, "sharing '%s' needs /proc", s->path);
    const struct call c = {.s = s};
    int fd = open_child(&c, s->root_fd, ".", O_PATH, 0);
    if (fd < 0)
        return error_set_errno(err, -fd, "sharing '%s' needs openat2(), Linux 5.8 or later", s->path);
    close(fd);
    s->local = is_local(s->root_fd);
    int r = share_find_device(s);
    return r ? error_set_errno(err, -r, "cannot share '%s'", s->path) : 0;
}

static int check_ownership(struct share *s, struct error *err)
{
    char text[FD_PATH_SIZE];
    u8 raw[4];
    if (s->options.ownership == SHARE_PASSTHROUGH && geteuid() != 0 && !s->options.read_only)
        return error_set(err, EPERM, "'%s': ownership=passthrough wants root; there is also mapped, and none",
                         s->path);
    if (s->options.ownership != SHARE_MAPPED || s->options.read_only)
        return 0;
    if (getxattr(fd_path(text, s->root_fd), "user.virtfs.uid", raw, sizeof raw) < 0 &&
        (errno == EOPNOTSUPP || errno == EPERM))
        return error_set(err, ENOTSUP,
                         "'%s': its file system keeps no user attributes, in which ownership=mapped stores "
                         "owners: use ownership=none",
                         s->path);
    return 0;
}

/* Half of what the process may open is left to others. */
static unsigned open_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 64;
    return (unsigned)MIN(limit.rlim_cur / 2, (rlim_t)SHARE_MAX_OPEN);
}

static void share_release(struct share *s)
{
    stop_threads(s);
    fid_remove_all(s);
    if (s->proc_fd >= 0)
        close(s->proc_fd);
    if (s->root_fd >= 0)
        close(s->root_fd);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->changed);
    lock_release(&s->locks_lock);
    lock_release(&s->lock);
    free(s->path);
    free(s);
}

struct share *share_open(const char *path, const struct share_options *options, struct error *err)
{
    struct share *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        free(s);
        error_set_errno(err, ENOMEM, "cannot share '%s'", path);
        return NULL;
    }
    s->options = *options;
    s->root_fd = s->proc_fd = -1;
    s->max_open = open_limit();
    (void)!getrandom(&s->seed, sizeof s->seed, 0);
    lock_init(&s->lock, LOCK_RANK_BACKEND);
    pthread_cond_init(&s->changed, NULL);
    pthread_cond_init(&s->work, NULL);
    list_init(&s->jobs);
    list_init(&s->queue);
    nodes_init(s);
    locks_init(s);
    if (open_root(s, err) < 0 || check_ownership(s, err) < 0 || start_threads(s, err) < 0) {
        share_release(s);
        return NULL;
    }
    return s;
}

void share_set_listener(struct share *s, struct share_listener *l)
{
    s->listener = l;
}

void share_quiesce(struct share *s)
{
    stop_threads(s);
}

void share_close(struct share *s)
{
    if (s)
        share_release(s);
}

void share_reset(struct share *s)
{
    fid_remove_all(s);
    lock_acquire(&s->lock);
    s->msize = 0;
    lock_drop(&s->lock);
}

bool share_mounted(struct share *s)
{
    lock_acquire(&s->lock);
    bool mounted = s->fid_count > 0;
    lock_drop(&s->lock);
    return mounted;
}
