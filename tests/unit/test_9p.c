#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "9p-client.h"
#include "base/log.h"

enum { ROOT = 1, A = 2, B = 3, C = 4, MANY_FIDS = 100 };

struct fixture {
    struct client client;
    char top[64], dir[80]; /* `dir`, in `top`, is what is shared; beside it lies top/outside */
};

static int wipe_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void make_file(const char *dir, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static const char *in(const struct fixture *f, const char *name)
{
    static char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, name);
    return path;
}

static void start(struct fixture *f, const struct share_options *o)
{
    struct error err = {0};
    struct share *s = share_open(f->dir, o, &err);
    if (!s)
        print_error("%s\n", err.text);
    assert_non_null(s);
    client_init(&f->client, s);
    assert_int_equal(client_version(&f->client, 65536), 65536);
    assert_int_equal(client_attach(&f->client, ROOT), 0);
}

static void restart(struct fixture *f, const struct share_options *o)
{
    share_close(f->client.share);
    start(f, o);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->top, sizeof f->top, "/tmp/trapeze-9p-XXXXXX");
    assert_non_null(mkdtemp(f->top));
    (void)snprintf(f->dir, sizeof f->dir, "%s/dir", f->top);
    assert_int_equal(mkdir(f->dir, 0755), 0);
    make_file(f->top, "outside", "secret");
    start(f, &(struct share_options){.ownership = SHARE_NONE});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    share_close(f->client.share);
    nftw(f->top, wipe_one, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

static void use_mapped(struct fixture *f)
{
    if (setxattr(f->dir, "user.test", "", 0, 0) < 0)
        skip();
    restart(f, &(struct share_options){.ownership = SHARE_MAPPED});
}

/* --- sessions and fids --- */

static void version_is_negotiated(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(client_version(&f->client, 1u << 30), SHARE_MSIZE_MAX);
    assert_int_equal(client_getattr(&f->client, ROOT), -EBADF); /* a new session has no fids */
    message_begin(&f->client, T_VERSION);
    put_u32(&f->client, 65536);
    put_string(&f->client, "9P2000.u");
    assert_int_equal(message_send(&f->client), 0);
    assert_string_equal(f->client.version, "unknown");
    assert_int_equal(client_attach(&f->client, ROOT), -ESTALE);
}

static void fids_are_unknown_used_and_clunked(void **state)
{
    struct client *c = &((struct fixture *)*state)->client;
    assert_int_equal(client_walk(c, ROOT, A, 0), 0);
    assert_int_equal(client_walk(c, ROOT, A, 0), -EEXIST);
    assert_int_equal(client_clunk(c, A), 0);
    assert_int_equal(client_clunk(c, A), -EBADF);
    assert_int_equal(client_getattr(c, A), -EBADF);
    assert_int_equal(client_attach(c, ROOT), -EEXIST);
}

static void walk_stops_where_names_end(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    mkdir(in(f, "d"), 0755);
    mkdir(in(f, "d/e"), 0755);
    assert_int_equal(client_walk(c, ROOT, A, 2, "d", "e"), 2);
    assert_int_equal(client_walk(c, ROOT, B, 3, "d", "none", "x"), 1);
    assert_int_equal(client_getattr(c, B), -EBADF);
    assert_int_equal(client_walk(c, ROOT, B, 1, "none"), -ENOENT);
    assert_int_equal(client_walk(c, A, A, 1, ".."), 1); /* in place */
    assert_int_equal(client_walk(c, A, B, 1, "e"), 1);
}

/* --- nothing outside --- */

static void dots_do_not_leave(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    u64 root = client_qid(c, ROOT);
    assert_int_equal(client_walk(c, ROOT, A, 2, "..", ".."), 2);
    assert_int_equal(client_qid(c, A), root);
    assert_int_equal(client_walk(c, ROOT, B, 2, "..", "outside"), 1); /* no "outside" in there */
    assert_int_equal(client_walk(c, ROOT, B, 1, "../outside"), -EINVAL);
    assert_int_equal(client_walk(c, ROOT, B, 1, "/etc/passwd"), -EINVAL);
    assert_int_equal(client_walk(c, ROOT, B, 1, ""), -EINVAL);
    assert_int_equal(client_lcreate(c, A, "..", O_WRONLY, 0644), -EINVAL);
    assert_int_equal(client_lcreate(c, A, "../new", O_WRONLY, 0644), -EINVAL);
    assert_int_equal(client_unlink(c, ROOT, "../outside", 0), -EINVAL);
    assert_int_equal(client_rename(c, ROOT, "../outside", ROOT, "x"), -EINVAL);
    assert_int_equal(client_mkdir(c, ROOT, "..", 0755), -EINVAL);
}

static void symbolic_links_of_the_host_are_not_followed(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    assert_int_equal(symlink("../outside", in(f, "link")), 0);
    assert_int_equal(symlink("/", in(f, "slash")), 0);
    assert_int_equal(client_walk(c, ROOT, A, 1, "link"), 1);
    assert_int_equal(client_readlink(c, A), 0);
    assert_string_equal(c->text, "../outside");
    assert_int_equal(client_lopen(c, A, O_RDONLY), -ELOOP);
    assert_int_equal(client_setattr_size(c, A, 0), -EINVAL);
    assert_int_equal(client_walk(c, ROOT, B, 2, "slash", "etc"), 1);
    assert_int_equal(client_walk(c, ROOT, B, 1, "slash"), 1);
    assert_int_equal(client_mkdir(c, B, "new", 0755), -ENOTDIR);
    assert_int_equal(client_lcreate(c, B, "new", O_WRONLY, 0644), -ENOTDIR);
    assert_int_equal(client_walk(c, ROOT, C, 0), 0);
    assert_int_equal(client_lcreate(c, C, "link", O_WRONLY | O_TRUNC, 0644), -ELOOP);
}

/* The directory that a fid stands for becomes a link: no path goes through it any more. */
static void a_directory_that_became_a_link_leads_nowhere(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    char target[80];
    mkdir(in(f, "d"), 0755);
    make_file(f->dir, "d/outside", "inside");
    assert_int_equal(client_walk(c, ROOT, A, 1, "d"), 1);
    assert_int_equal(client_walk(c, A, B, 1, "outside"), 1);
    (void)snprintf(target, sizeof target, "%s/old", f->top);
    assert_int_equal(rename(in(f, "d"), target), 0);
    assert_int_equal(symlink(f->top, in(f, "d")), 0);
    assert_int_equal(client_lopen(c, B, O_RDONLY), -ELOOP);
    assert_int_equal(client_walk(c, A, C, 1, "outside"), -ENOTDIR);
    assert_int_equal(client_unlink(c, A, "outside", 0), -ENOTDIR);
    assert_int_equal(client_mkdir(c, A, "new", 0755), -ENOTDIR);
}

static void a_directory_moved_out_is_not_followed(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    char target[80];
    mkdir(in(f, "d"), 0755);
    assert_int_equal(client_walk(c, ROOT, A, 1, "d"), 1);
    (void)snprintf(target, sizeof target, "%s/d", f->top);
    assert_int_equal(rename(in(f, "d"), target), 0);
    assert_int_equal(client_mkdir(c, A, "new", 0755), -ENOENT);
    assert_int_equal(client_getattr(c, A), -ENOENT);
}

static void special_files_are_never_opened(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    assert_int_equal(mkfifo(in(f, "fifo"), 0666), 0);
    assert_int_equal(client_walk(c, ROOT, A, 1, "fifo"), 1);
    assert_int_equal(client_lopen(c, A, O_RDONLY), -ENXIO);
    assert_int_equal(client_lopen(c, A, O_WRONLY), -ENXIO);
    assert_int_equal(client_walk(c, ROOT, B, 0), 0);
    assert_int_equal(client_lcreate(c, B, "fifo", O_RDONLY, 0644), -ENXIO);
    assert_int_equal(client_mknod(c, ROOT, "null", S_IFCHR | 0666, 1, 3), -EPERM);
}

/* --- files --- */

static void a_file_is_written_and_read(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    assert_int_equal(client_walk(c, ROOT, A, 0), 0);
    assert_int_equal(client_lcreate(c, A, "new", O_RDWR | O_EXCL, 0640), 0);
    assert_int_equal(client_write(c, A, 0, "hello, world", 12), 12);
    assert_int_equal(client_write(c, A, 7, "there", 5), 5);
    assert_int_equal(client_read(c, A, 0, 100), 12);
    assert_memory_equal(c->data, "hello, there", 12);
    assert_int_equal(client_read(c, A, 12, 100), 0);
    assert_int_equal(client_fsync(c, A), 0);
    assert_int_equal(client_setattr_size(c, A, 5), 0);
    assert_int_equal(client_getattr(c, A), 0);
    assert_int_equal(c->attr.size, 5);
    assert_int_equal(c->attr.mode, S_IFREG | 0640);
    assert_int_equal(client_walk(c, ROOT, B, 0), 0);
    assert_int_equal(client_lcreate(c, B, "new", O_RDWR | O_EXCL, 0640), -EEXIST);
    assert_int_equal(client_lcreate(c, B, "new", O_RDONLY, 0640), 0);
    assert_int_equal(client_write(c, B, 0, "x", 1), -EBADF);
}

static void an_unlinked_file_goes_on(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    make_file(f->dir, "f", "contents");
    assert_int_equal(client_walk(c, ROOT, A, 1, "f"), 1);
    assert_int_equal(client_walk(c, ROOT, B, 1, "f"), 1);
    assert_int_equal(client_lopen(c, A, O_RDWR), 0);
    assert_int_equal(client_unlink(c, ROOT, "f", 0), 0);
    assert_int_equal(access(in(f, "f"), F_OK), -1);
    assert_int_equal(client_getattr(c, A), 0);
    assert_int_equal(c->attr.nlink, 0);
    assert_int_equal(client_getattr(c, B), 0); /* not open, and still known */
    assert_int_equal(c->attr.size, 8);
    assert_int_equal(client_setattr_size(c, B, 4), 0);
    assert_int_equal(client_read(c, A, 0, 100), 4);
    make_file(f->dir, "f", "another");
    assert_int_equal(client_getattr(c, B), 0);
    assert_int_equal(c->attr.size, 4);
}

/* Walks to @count files, each of which is unlinked then. */
static void walk_and_unlink(struct fixture *f, unsigned count)
{
    char name[16];
    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(name, sizeof name, "f%u", i);
        make_file(f->dir, name, "contents");
        assert_int_equal(client_walk(&f->client, ROOT, MANY_FIDS + i, 1, name), 1);
        assert_int_equal(client_unlink(&f->client, ROOT, name, 0), 0);
    }
}

static void unlinked_files_do_not_take_all_descriptors(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    struct rlimit old, limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    limit = (struct rlimit){64, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    restart(f, &(struct share_options){.ownership = SHARE_NONE});
    walk_and_unlink(f, 64);
    assert_int_equal(client_getattr(c, MANY_FIDS), 0);
    assert_int_equal(client_getattr(c, MANY_FIDS + 63), -ENOENT);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(client_clunk(c, MANY_FIDS + i), 0);
    make_file(f->dir, "f", "contents");
    assert_int_equal(client_walk(c, ROOT, A, 1, "f"), 1);
    assert_int_equal(client_lopen(c, A, O_RDONLY), 0); /* there is room again */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void fids_follow_renames(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    mkdir(in(f, "d"), 0755);
    make_file(f->dir, "d/f", "moved");
    make_file(f->dir, "old", "replaced");
    assert_int_equal(client_walk(c, ROOT, A, 2, "d", "f"), 2);
    assert_int_equal(client_walk(c, ROOT, B, 1, "old"), 1);
    assert_int_equal(client_rename(c, ROOT, "d", ROOT, "e"), 0);
    assert_int_equal(client_getattr(c, A), 0);
    assert_int_equal(client_walk(c, ROOT, C, 1, "e"), 1);
    assert_int_equal(client_rename(c, C, "f", ROOT, "old"), 0);
    assert_int_equal(client_getattr(c, A), 0);
    assert_int_equal(c->attr.size, 5);
    assert_int_equal(client_getattr(c, B), 0); /* what was replaced */
    assert_int_equal(c->attr.size, 8);
    assert_int_equal(c->attr.nlink, 0);
    assert_int_equal(client_rename_fid(c, A, C, "again"), 0);
    assert_int_equal(access(in(f, "e/again"), F_OK), 0);
    assert_int_equal(client_remove(c, A), 0);
    assert_int_equal(access(in(f, "e/again"), F_OK), -1);
    assert_int_equal(client_getattr(c, A), -EBADF);
}

/* The host swaps two directories under the feet of the guest, whose own rename would close a ring. */
static void renames_never_make_a_ring(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    char other[512];
    mkdir(in(f, "a"), 0755);
    mkdir(in(f, "a/b"), 0755);
    assert_int_equal(client_walk(c, ROOT, A, 1, "a"), 1);
    assert_int_equal(client_walk(c, A, B, 1, "b"), 1);
    assert_int_equal(client_rename(c, ROOT, "a", B, "x"), -EINVAL);
    memcpy(other, in(f, "c"), sizeof other);
    assert_int_equal(rename(in(f, "a"), other), 0);
    mkdir(in(f, "a"), 0755);
    mkdir(in(f, "a/b"), 0755);
    assert_int_equal(client_rename(c, ROOT, "c", B, "a"), 0);
    assert_int_equal(client_walk(c, B, C, 2, "a", "b"), 2);
    assert_int_equal(client_getattr(c, C), 0);
}

static void directories_are_listed(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    char name[32];
    for (unsigned i = 0; i < 300; i++) {
        (void)snprintf(name, sizeof name, "file-%03u", i);
        make_file(f->dir, name, "");
    }
    assert_int_equal(client_walk(c, ROOT, A, 0), 0);
    assert_int_equal(client_lopen(c, A, O_RDONLY), 0);
    unsigned seen = 0, replies = 0;
    for (u64 offset = 0;; replies++) {
        int n = client_readdir(c, A, offset, 1000);
        assert_true(n >= 0);
        if (n == 0)
            break;
        for (int at = 0; at < n; at += 24 + get_le16(c->data + at + 22)) {
            offset = get_le64(c->data + at + 13);
            seen += !memcmp(c->data + at + 24, "file-", 5);
        }
    }
    assert_int_equal(seen, 300);
    assert_true(replies >= 10);
    assert_int_equal(client_readdir(c, A, 0, 10), 0); /* no room for one */
}

static void locks_keep_out_the_host(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    enum { READ_LOCK, WRITE_LOCK, UNLOCK };
    make_file(f->dir, "f", "0123456789");
    int fd = open(in(f, "f"), O_RDWR);
    struct flock here = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 4};
    assert_int_equal(client_walk(c, ROOT, A, 1, "f"), 1);
    assert_int_equal(client_lopen(c, A, O_RDWR), 0);
    assert_int_equal(client_lock(c, A, READ_LOCK, 0, 5, 100), 0);
    assert_int_equal(client_lock(c, A, READ_LOCK, 3, 0, 200), 0); /* to the end, by another process */
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &here), -1);
    assert_int_equal(client_lock(c, A, UNLOCK, 0, 0, 100), 0); /* [3, end] is still held */
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &here), -1);
    here.l_len = 1;
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &here), 0);
    assert_int_equal(client_lock(c, A, WRITE_LOCK, 0, 3, 100), 1); /* blocked by the host */
    assert_int_equal(client_getlock(c, A, WRITE_LOCK, 0, 3, 100), WRITE_LOCK);
    assert_int_equal(client_lock(c, A, WRITE_LOCK, 4, 1, 100), 1); /* blocked by the other process */
    assert_int_equal(client_clunk(c, A), 0);
    here.l_len = 0;
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &here), 0);
    close(fd);
}

static void attributes_are_listed_set_and_removed(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    use_mapped(f);
    make_file(f->dir, "f", "");
    assert_int_equal(client_walk(c, ROOT, A, 1, "f"), 1);
    assert_int_equal(client_set_attribute(c, A, "user.one", "value", 5, 0), 0);
    assert_int_equal(client_set_attribute(c, A, "user.empty", "", 0, 0), 0);
    assert_int_equal(client_set_attribute(c, A, "user.one", "again", 5, XATTR_CREATE), -EEXIST);
    assert_int_equal(client_set_attribute(c, A, "user.virtfs.uid", "\0\0\0\0", 4, 0), -EOPNOTSUPP);
    assert_int_equal(client_set_attribute(c, A, "security.x", "x", 1, 0), -EOPNOTSUPP);
    assert_int_equal(client_chown(c, A, 7, 8), 0);
    assert_int_equal(client_get_attribute(c, A, "user.one"), 5);
    assert_memory_equal(c->data, "value", 5);
    assert_int_equal(client_get_attribute(c, A, "user.virtfs.uid"), -EOPNOTSUPP);
    assert_int_equal(client_get_attribute(c, A, "user.none"), -ENODATA);
    assert_int_equal(client_get_attribute(c, A, ""), 20);
    assert_int_equal(client_set_attribute(c, A, "user.one", "", 0, XATTR_REPLACE), 0);
    assert_int_equal(client_get_attribute(c, A, "user.one"), -ENODATA);
}

/* --- owners --- */

static void mapped_owners_are_kept_beside_the_file(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    struct stat st;
    u8 raw[4];
    use_mapped(f);
    c->uid = 1000;
    assert_int_equal(client_attach(c, B), 0); /* as user 1000 */
    assert_int_equal(client_lcreate(c, B, "f", O_RDWR, 04755), 0);
    assert_int_equal(client_getattr(c, B), 0);
    assert_int_equal(c->attr.mode, S_IFREG | 04755);
    assert_int_equal(c->attr.uid, 1000);
    assert_int_equal(stat(in(f, "f"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_int_equal(st.st_uid, getuid());
    assert_int_equal(client_chown(c, B, 5, 6), 0);
    assert_int_equal(client_chmod(c, B, 0), 0);
    assert_int_equal(client_getattr(c, B), 0);
    assert_int_equal(c->attr.mode, S_IFREG);
    assert_int_equal(c->attr.uid, 5);
    assert_int_equal(c->attr.gid, 6);
    assert_int_equal(getxattr(in(f, "f"), "user.virtfs.uid", raw, 4), 4);
    assert_int_equal(get_le32(raw), 5);
}

static void mapped_kinds_are_regular_files_of_the_host(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    struct stat st;
    use_mapped(f);
    assert_int_equal(client_mknod(c, ROOT, "null", S_IFCHR | 0666, 1, 3), 0);
    assert_int_equal(lstat(in(f, "null"), &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(client_walk(c, ROOT, A, 1, "null"), 1);
    assert_int_equal(client_getattr(c, A), 0);
    assert_int_equal(c->attr.mode, S_IFCHR | 0666);
    assert_int_equal(c->attr.rdev, 1 << 8 | 3);
    assert_int_equal(client_lopen(c, A, O_RDONLY), -ENXIO);
    assert_int_equal(client_symlink(c, ROOT, "link", "/etc/passwd"), 0);
    assert_int_equal(lstat(in(f, "link"), &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(client_walk(c, ROOT, B, 1, "link"), 1);
    assert_int_equal(client_readlink(c, B), 0);
    assert_string_equal(c->text, "/etc/passwd");
    assert_int_equal(client_lopen(c, B, O_RDONLY), -ELOOP);
}

static void without_ownership_no_set_id_bits_are_made(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    struct stat st;
    assert_int_equal(client_walk(c, ROOT, A, 0), 0);
    assert_int_equal(client_lcreate(c, A, "f", O_RDWR, 06755), 0);
    assert_int_equal(client_chmod(c, A, 06777), 0);
    assert_int_equal(client_chown(c, A, 1, 1), 0); /* has no effect */
    assert_int_equal(stat(in(f, "f"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0777);
    assert_int_equal(st.st_uid, getuid());
}

static void read_only_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    make_file(f->dir, "f", "kept");
    mkdir(in(f, "d"), 0755);
    restart(f, &(struct share_options){.read_only = true, .ownership = SHARE_NONE});
    assert_int_equal(client_walk(c, ROOT, A, 1, "f"), 1);
    assert_int_equal(client_lopen(c, A, O_RDWR), -EROFS);
    assert_int_equal(client_lopen(c, A, O_RDONLY | O_TRUNC), -EROFS);
    assert_int_equal(client_setattr_size(c, A, 0), -EROFS);
    assert_int_equal(client_chmod(c, A, 0), -EROFS);
    assert_int_equal(client_mkdir(c, ROOT, "new", 0755), -EROFS);
    assert_int_equal(client_symlink(c, ROOT, "new", "x"), -EROFS);
    assert_int_equal(client_mknod(c, ROOT, "new", S_IFREG | 0644, 0, 0), -EROFS);
    assert_int_equal(client_rename(c, ROOT, "f", ROOT, "g"), -EROFS);
    assert_int_equal(client_rename_fid(c, A, ROOT, "g"), -EROFS);
    assert_int_equal(client_unlink(c, ROOT, "f", 0), -EROFS);
    assert_int_equal(client_unlink(c, ROOT, "d", AT_REMOVEDIR), -EROFS);
    assert_int_equal(client_link(c, ROOT, A, "g"), -EROFS);
    assert_int_equal(client_set_attribute(c, A, "user.x", "x", 1, 0), -EROFS);
    assert_int_equal(client_walk(c, ROOT, B, 0), 0);
    assert_int_equal(client_lcreate(c, B, "f", O_WRONLY, 0644), -EROFS);
    assert_int_equal(client_lopen(c, A, O_RDONLY), 0);
    assert_int_equal(client_write(c, A, 0, "x", 1), -EROFS);
    assert_int_equal(client_read(c, A, 0, 10), 4);
    assert_int_equal(client_remove(c, A), -EROFS);
    assert_int_equal(access(in(f, "f"), F_OK), 0);
}

/* --- hostile messages --- */

static void messages_cut_short_are_refused(void **state)
{
    struct client *c = &((struct fixture *)*state)->client;
    for (unsigned type = 0; type < 256; type += 2) {
        for (unsigned len = 0; len < 8; len++) {
            message_begin(c, (u8)type);
            for (unsigned i = 0; i < len; i++)
                put_u8(c, 0xff);
            int r = message_send(c);
            assert_true(r < 0 || type == T_FLUSH || type == T_VERSION);
        }
    }
    message_begin(c, T_GETATTR); /* says that it is longer than it is */
    put_u32(c, ROOT);
    put_u64(c, 0);
    assert_int_equal(message_send_as(c, 4000), -EINVAL);
}

static void a_reply_that_does_not_fit_is_an_error(void **state)
{
    struct client *c = &((struct fixture *)*state)->client;
    assert_int_equal(client_attach(c, A), 0);
    c->room = 20;
    assert_int_equal(client_getattr(c, A), -EMSGSIZE);
    c->room = 5;
    message_begin(c, T_CLUNK);
    put_u32(c, A);
    message_transfer(c, 0);
    assert_int_equal(c->reply_len, 0);
}

static void deep_paths_work_to_a_bound(void **state)
{
    struct client *c = &((struct fixture *)*state)->client;
    char name[NAME_SIZE];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(client_walk(c, ROOT, A, 0), 0);
    int r = 0;
    unsigned depth = 0;
    for (; !r && depth < 400; depth++) {
        r = client_mkdir(c, A, name, 0755);
        if (!r)
            r = client_walk(c, A, A, 1, name);
        r = r == 1 ? 0 : r;
    }
    assert_int_equal(r, -ENAMETOOLONG);
    assert_in_range(depth, 200, 300);
    assert_int_equal(client_unlink(c, A, name, AT_REMOVEDIR), 0); /* made, and too deep to go there */
    for (unsigned i = 0; i + 1 < depth; i++) {                    /* up again, so that it can be cleaned up */
        assert_int_equal(client_walk(c, A, A, 1, ".."), 1);
        assert_int_equal(client_unlink(c, A, name, AT_REMOVEDIR), 0);
    }
}

/* --- many at a time --- */

enum { SLOTS = 24 };

struct storm {
    struct share_listener listener;
    pthread_mutex_t lock;
    pthread_cond_t change;
    struct slot {
        struct share_request request;
        struct iovec out, in;
        struct client client; /* for its buffers */
        bool busy;
    } slot[SLOTS];
};

static void storm_done(struct share_listener *l, struct share_request *r)
{
    struct storm *st = container_of(l, struct storm, listener);
    pthread_mutex_lock(&st->lock);
    container_of(r, struct slot, request)->busy = false;
    pthread_cond_signal(&st->change);
    pthread_mutex_unlock(&st->lock);
}

static void storm_wake(struct share_listener *l)
{
    (void)l;
}

static struct slot *storm_slot(struct storm *st)
{
    struct slot *s = NULL;
    pthread_mutex_lock(&st->lock);
    while (!s) {
        for (unsigned i = 0; i < SLOTS && !s; i++)
            s = st->slot[i].busy ? NULL : &st->slot[i];
        if (!s)
            pthread_cond_wait(&st->change, &st->lock);
    }
    s->busy = true;
    pthread_mutex_unlock(&st->lock);
    return s;
}

static void storm_message(struct client *c, unsigned n)
{
    static const char *const names[] = {"a", "b", "d", "d2"};
    const char *name = names[n / 7 % 4], *other = names[n / 29 % 4];
    u32 fid = 10 + n / 5 % 6, dir = n & 1 ? ROOT : fid;
    static const u8 types[] = {T_WALK,     T_WALK,    T_CLUNK, T_LCREATE, T_MKDIR, T_RENAMEAT, T_UNLINKAT,
                               T_UNLINKAT, T_GETATTR, T_LOPEN, T_READDIR, T_READ,  T_REMOVE,   T_FLUSH};
    message_begin(c, types[n / 3 % ARRAY_SIZE(types)]);
    switch (c->type) {
    case T_WALK:
        put_u32(c, dir);
        put_u32(c, 10 + n / 31 % 6);
        put_u16(c, n / 37 % 2);
        if (n / 37 % 2)
            put_string(c, name);
        break;
    case T_LCREATE:
    case T_MKDIR:
        put_u32(c, c->type == T_MKDIR ? dir : fid);
        put_string(c, name);
        if (c->type == T_LCREATE)
            put_u32(c, O_RDWR);
        put_u32(c, 0755);
        put_u32(c, 0);
        break;
    case T_RENAMEAT:
        put_u32(c, dir);
        put_string(c, name);
        put_u32(c, n & 2 ? ROOT : fid);
        put_string(c, other);
        break;
    case T_UNLINKAT:
        put_u32(c, dir);
        put_string(c, name);
        put_u32(c, n & 4 ? AT_REMOVEDIR : 0);
        break;
    case T_FLUSH: put_u16(c, 1); break;
    default:
        put_u32(c, fid);
        put_u64(c, 0);
        put_u32(c, 500);
        break;
    }
    put_le32(c->message, (u32)c->len);
}

static void requests_on_the_same_fids_do_not_disturb_each_other(void **state)
{
    struct fixture *f = *state;
    struct storm *st = calloc(1, sizeof *st);
    assert_non_null(st);
    st->listener = (struct share_listener){.done = storm_done, .wake = storm_wake};
    pthread_mutex_init(&st->lock, NULL);
    pthread_cond_init(&st->change, NULL);
    share_set_listener(f->client.share, &st->listener);
    u64 random = 1;
    for (unsigned i = 0; i < 6000; i++) {
        struct slot *s = storm_slot(st);
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        storm_message(&s->client, (unsigned)(random >> 40));
        s->out = (struct iovec){s->client.message, s->client.len};
        s->in = (struct iovec){s->client.reply, 8192};
        s->request = (struct share_request){&s->out, &s->in, 1, 1, s->client.len, 8192, 0};
        share_submit(f->client.share, &s->request);
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        pthread_mutex_lock(&st->lock);
        while (st->slot[i].busy)
            pthread_cond_wait(&st->change, &st->lock);
        pthread_mutex_unlock(&st->lock);
    }
    share_quiesce(f->client.share);
    assert_int_equal(client_getattr(&f->client, ROOT), 0);
    pthread_cond_destroy(&st->change);
    pthread_mutex_destroy(&st->lock);
    free(st);
}

/* What makes a name while another one is moved to it. */
struct creator {
    struct client client;
    pthread_barrier_t *both;
    int result;
};

static void *create_b(void *arg)
{
    struct creator *k = arg;
    pthread_barrier_wait(k->both);
    k->result = client_lcreate(&k->client, B, "b", O_RDWR, 0644);
    return NULL;
}

static void a_name_made_while_another_is_moved_to_it_is_one(void **state)
{
    struct fixture *f = *state;
    struct client *c = &f->client;
    struct creator *k = calloc(1, sizeof *k);
    pthread_barrier_t both;
    pthread_t thread;
    assert_non_null(k);
    assert_int_equal(pthread_barrier_init(&both, NULL, 2), 0);
    client_init(&k->client, c->share);
    k->both = &both;
    for (unsigned i = 0; i < 300; i++) {
        make_file(f->dir, "a", "a");
        assert_int_equal(client_walk(c, ROOT, A, 1, "a"), 1);
        assert_int_equal(client_walk(c, ROOT, B, 0), 0);
        assert_int_equal(pthread_create(&thread, NULL, create_b, k), 0);
        pthread_barrier_wait(&both);
        assert_int_equal(client_rename(c, ROOT, "a", ROOT, "b"), 0);
        pthread_join(thread, NULL);
        assert_int_equal(k->result, 0);
        /* Whoever came first: what B stands for is replaced, or is what A stands for and now moves on with
         * it. */
        assert_int_equal(client_rename(c, ROOT, "b", ROOT, "c"), 0);
        make_file(f->dir, "b", "of others");
        (void)client_rename_fid(c, B, ROOT, "d");
        assert_int_equal(access(in(f, "b"), F_OK), 0);
        assert_int_equal(client_getattr(c, A), 0);
        assert_int_equal(client_clunk(c, A), 0);
        assert_int_equal(client_clunk(c, B), 0);
        (void)remove(in(f, "c"));
        (void)remove(in(f, "d"));
    }
    pthread_barrier_destroy(&both);
    free(k);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(version_is_negotiated),
        T(fids_are_unknown_used_and_clunked),
        T(walk_stops_where_names_end),
        T(dots_do_not_leave),
        T(symbolic_links_of_the_host_are_not_followed),
        T(a_directory_that_became_a_link_leads_nowhere),
        T(a_directory_moved_out_is_not_followed),
        T(special_files_are_never_opened),
        T(a_file_is_written_and_read),
        T(an_unlinked_file_goes_on),
        T(unlinked_files_do_not_take_all_descriptors),
        T(fids_follow_renames),
        T(renames_never_make_a_ring),
        T(directories_are_listed),
        T(locks_keep_out_the_host),
        T(attributes_are_listed_set_and_removed),
        T(mapped_owners_are_kept_beside_the_file),
        T(mapped_kinds_are_regular_files_of_the_host),
        T(without_ownership_no_set_id_bits_are_made),
        T(read_only_changes_nothing),
        T(messages_cut_short_are_refused),
        T(a_reply_that_does_not_fit_is_an_error),
        T(deep_paths_work_to_a_bound),
        T(requests_on_the_same_fids_do_not_disturb_each_other),
        T(a_name_made_while_another_is_moved_to_it_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
