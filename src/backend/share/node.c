/*
 * Names as the guest knows them, and the way from them to files of the host.
 *
 * Rules:
 * 1. A path begins at the shared directory and goes down, through openat2() with RESOLVE_BENEATH,
 *    RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS. There is no ".." in it: the guest's ".." is
 * node_parent().
 * 2. What a path leads to is opened with O_PATH first, which has no effect on any kind of file. Only a
 *    regular file or a directory is opened further, and that through the descriptor, not by the name again.
 * 3. Paths are made between names_enter() and names_leave(). The guest's renames and removals lock the names
 *    meanwhile, so that each path is that of before or of after. What the host renames is not followed: a
 *    path then leads to nothing, or to what is there now.
 * 4. Nothing is looked up below a detached node.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/share/share-internal.h"

#define CHUNK 4000 /* of a path for one system call, which takes PATH_MAX */

static struct list *bucket(struct share *s, const struct node *parent, const char *name)
{
    u64 h = (u64)(uintptr_t)parent ^ s->seed;
    for (; *name; name++)
        h = (h ^ (u8)*name) * 0x100000001b3ull;
    return &s->nodes[(h ^ h >> 32) % SHARE_BUCKETS];
}

void nodes_init(struct share *s)
{
    for (unsigned i = 0; i < SHARE_BUCKETS; i++) {
        list_init(&s->fids[i]);
        list_init(&s->nodes[i]);
    }
    s->root = (struct node){.refs = 1, .fd = -1};
    list_init(&s->root.link);
}

/* --- under the lock --- */

static struct node *find(struct share *s, struct node *parent, const char *name)
{
    struct node *n;
    list_for_each (n, bucket(s, parent, name), link)
        if (n->parent == parent && !strcmp(n->name, name))
            return n;
    return NULL;
}

/* Takes nodes that nobody refers to off the table, and puts them to @dead. */
static void unref(struct share *s, struct node *n, struct list *dead)
{
    while (n && --n->refs == 0) {
        struct node *parent = n->parent;
        list_remove(&n->link);
        list_push_back(dead, &n->link);
        s->node_count--;
        n = parent;
    }
}

static struct node *insert(struct share *s, struct node *parent, const char *name)
{
    if (s->node_count == SHARE_MAX_NODES)
        return NULL;
    struct node *n = malloc(sizeof *n);
    if (!n)
        return NULL;
    *n = (struct node){.parent = parent, .name = strdup(name), .refs = 1, .fd = -1};
    if (!n->name) {
        free(n);
        return NULL;
    }
    parent->refs++;
    list_push_front(bucket(s, parent, name), &n->link);
    s->node_count++;
    return n;
}

/* --- with the lock taken here --- */

static void close_kept(struct share *s, int fd)
{
    if (fd < 0)
        return;
    close(fd);
    open_unreserve(s);
}

static void free_dead(struct share *s, struct list *dead)
{
    struct node *n, *next;
    list_for_each_safe (n, next, dead, link) {
        close_kept(s, n->fd);
        free(n->name);
        free(n);
    }
}

struct node *node_ref(struct share *s, struct node *n)
{
    lock_acquire(&s->lock);
    n->refs++;
    lock_drop(&s->lock);
    return n;
}

void node_put(struct share *s, struct node *n)
{
    struct list dead;
    list_init(&dead);
    lock_acquire(&s->lock);
    unref(s, n, &dead);
    lock_drop(&s->lock);
    free_dead(s, &dead);
}

struct node *node_child(struct share *s, struct node *parent, const char *name)
{
    lock_acquire(&s->lock);
    struct node *n = find(s, parent, name);
    if (n)
        n->refs++;
    else
        n = insert(s, parent, name);
    lock_drop(&s->lock);
    return n;
}

struct node *node_parent(struct share *s, struct node *n)
{
    lock_acquire(&s->lock);
    struct node *up = n == &s->root ? n : n->parent;
    if (up)
        up->refs++;
    lock_drop(&s->lock);
    return up;
}

bool node_detached(struct share *s, const struct node *n)
{
    lock_acquire(&s->lock);
    bool detached = n->detached;
    lock_drop(&s->lock);
    return detached;
}

struct node *node_find(struct share *s, struct node *dir, const char *name)
{
    lock_acquire(&s->lock);
    struct node *n = find(s, dir, name);
    if (n)
        n->refs++;
    lock_drop(&s->lock);
    return n;
}

void node_detach(struct share *s, struct node *n, int fd)
{
    struct list dead;
    list_init(&dead);
    lock_acquire(&s->lock);
    struct node *parent = n->parent;
    if (n->detached) {
        lock_drop(&s->lock);
        close_kept(s, fd);
        return;
    }
    list_remove(&n->link);
    n->parent = NULL;
    n->detached = true;
    n->fd = fd;
    unref(s, parent, &dead);
    lock_drop(&s->lock);
    free_dead(s, &dead);
}

/* The host's own renames may have made a tree that looks like a ring to us. */
static bool is_below(const struct node *n, const struct node *top)
{
    for (; n; n = n->parent)
        if (n == top)
            return true;
    return false;
}

void node_move(struct share *s, struct node *n, struct node *dir, char *name)
{
    struct list dead;
    list_init(&dead);
    lock_acquire(&s->lock);
    bool ring = is_below(dir, n);
    if (!ring && !n->detached) {
        struct node *from = n->parent;
        list_remove(&n->link);
        free(n->name);
        n->name = name;
        name = NULL;
        n->parent = dir;
        dir->refs++;
        list_push_front(bucket(s, dir, n->name), &n->link);
        unref(s, from, &dead);
    }
    lock_drop(&s->lock);
    free(name);
    free_dead(s, &dead);
    if (ring)
        node_detach(s, n, -1);
}

/* --- who may make and change paths --- */

int names_enter(struct call *c)
{
    struct share *s = c->s;
    lock_acquire(&s->lock);
    while (s->renaming && !c->nowait)
        lock_wait(&s->lock, &s->changed);
    int r = s->renaming ? -EAGAIN : 0;
    s->resolving += !r;
    lock_drop(&s->lock);
    return r;
}

void names_leave(struct share *s)
{
    lock_acquire(&s->lock);
    if (--s->resolving == 0 && s->renaming)
        pthread_cond_broadcast(&s->changed);
    lock_drop(&s->lock);
}

void names_lock(struct share *s)
{
    lock_acquire(&s->lock);
    while (s->renaming)
        lock_wait(&s->lock, &s->changed);
    s->renaming = true;
    while (s->resolving)
        lock_wait(&s->lock, &s->changed);
    lock_drop(&s->lock);
}

void names_unlock(struct share *s)
{
    lock_acquire(&s->lock);
    s->renaming = false;
    pthread_cond_broadcast(&s->changed);
    lock_drop(&s->lock);
}

/* --- to the host --- */

int open_child(const struct call *c, int dir, const char *name, int flags, mode_t mode)
{
    const struct open_how how = {
        .flags = (u64)(unsigned)(flags | O_NOFOLLOW | O_CLOEXEC),
        .mode = flags & O_CREAT ? mode : 0,
        .resolve =
            RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | (c->nowait ? RESOLVE_CACHED : 0),
    };
    long fd = syscall(SYS_openat2, dir, name, &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
}

/* Writes the path of @n so that it ends at @end; returns where it begins, or NULL with *r. Under the lock. */
static char *write_path(const struct share *s, const struct node *n, char *start, char *end, int *r)
{
    *--end = 0;
    for (; n != &s->root; n = n->parent) {
        if (n->detached) {
            *r = -ENOENT;
            return NULL;
        }
        size_t len = strlen(n->name);
        if ((size_t)(end - start) < len + 1) {
            *r = -ENAMETOOLONG;
            return NULL;
        }
        end -= len;
        memcpy(end, n->name, len);
        *--end = '/';
    }
    return end;
}

bool node_reachable(struct share *s, const struct node *n)
{
    size_t len = 1;
    lock_acquire(&s->lock);
    for (; n && n != &s->root && !n->detached && len <= SHARE_PATH_MAX; n = n->parent)
        len += strlen(n->name) + 1;
    lock_drop(&s->lock);
    return len <= SHARE_PATH_MAX;
}

/* @path in parts that a system call takes; each begins where the one before led to. It is changed. */
static int open_path(const struct call *c, char *path)
{
    int dir = c->s->root_fd;
    while (strlen(path) > CHUNK) {
        char *cut = memrchr(path, '/', CHUNK);
        BUG_ON(!cut); /* a name has at most NAME_MAX bytes */
        *cut = 0;
        int next = open_child(c, dir, path, O_PATH | O_DIRECTORY, 0);
        if (dir != c->s->root_fd)
            close(dir);
        if (next < 0)
            return next;
        dir = next;
        path = cut + 1;
    }
    int fd = open_child(c, dir, path, O_PATH, 0);
    if (dir != c->s->root_fd)
        close(dir);
    return fd;
}

static int duplicate(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

static int open_far(struct call *c, struct node *n)
{
    char *buf = malloc(SHARE_PATH_MAX);
    int r = -ENOMEM;
    if (!buf)
        return r;
    lock_acquire(&c->s->lock);
    char *path = write_path(c->s, n, buf, buf + SHARE_PATH_MAX, &r);
    lock_drop(&c->s->lock);
    if (path)
        r = open_path(c, path + 1);
    free(buf);
    return r;
}

int node_open_entered(struct call *c, struct node *n)
{
    char buf[512];
    int r = 0, detached = -1;
    if (n == &c->s->root)
        return duplicate(c->s->root_fd);
    lock_acquire(&c->s->lock);
    if (n->detached)
        detached = n->fd;
    char *path = write_path(c->s, n, buf, buf + sizeof buf, &r);
    lock_drop(&c->s->lock);
    if (detached >= 0)
        return duplicate(detached);
    if (!path)
        return r == -ENAMETOOLONG ? open_far(c, n) : r;
    return open_child(c, c->s->root_fd, path + 1, O_PATH, 0);
}

int node_open(struct call *c, struct node *n)
{
    int fd = names_enter(c);
    if (fd)
        return fd;
    fd = node_open_entered(c, n);
    names_leave(c->s);
    return fd;
}

int reopen(struct share *s, int fd, int flags)
{
    char name[FD_PATH_SIZE];
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return S_ISLNK(st.st_mode) ? -ELOOP : -ENXIO;
    (void)snprintf(name, sizeof name, "%d", fd);
    int opened = openat(s->proc_fd, name, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return opened < 0 ? -errno : opened;
}
