/*
 * What POSIX and Linux say about files, checked in a directory: usage posix-checks DIR [SKIP...]. Runs as
 * root, prints a line for each check that fails and at last how many did. Local file systems pass all of it;
 * a SKIP names a check that the file system under test cannot pass, for a reason that the caller knows.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *now; /* the check that runs */
static int failures, bad;

#define CHECK(cond)                                                                             \
    do {                                                                                        \
        if (!(cond)) {                                                                          \
            printf("FAIL %s: line %d: %s (errno %s)\n", now, __LINE__, #cond, strerror(errno)); \
            bad = 1;                                                                            \
        }                                                                                       \
    } while (0)
#define FAILS(call, code)                       \
    do {                                        \
        errno = 0;                              \
        CHECK((call) == -1 && errno == (code)); \
    } while (0)

static struct stat st;

static int create(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR, mode);
    CHECK(fd >= 0);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    return fd;
}

static void make(const char *path, const char *text)
{
    close(create(path, text, 0644));
}

static bool holds(const char *path, const char *text)
{
    char buf[256] = "";
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, buf, sizeof buf - 1);
    close(fd);
    return n == (ssize_t)strlen(text) && !memcmp(buf, text, (size_t)n);
}

/* Runs @body as user @uid; what it returns. */
static int as_user(uid_t uid, int (*body)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (setgid(uid) || setuid(uid))
            _exit(99);
        _exit(body());
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* --- names --- */

static void open_and_create(void)
{
    FAILS(open("none", O_RDONLY), ENOENT);
    make("f", "text");
    FAILS(open("f", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
    FAILS(open("f/x", O_RDONLY), ENOTDIR);
    FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open(".", O_WRONLY), EISDIR);
    CHECK(symlink("none", "dangling") == 0);
    FAILS(open("dangling", O_RDONLY), ENOENT);
    FAILS(open("dangling", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
    FAILS(open("dangling", O_RDONLY | O_NOFOLLOW), ELOOP);
    int fd = open("f", O_RDWR | O_TRUNC);
    CHECK(fstat(fd, &st) == 0 && st.st_size == 0);
    close(fd);
    fd = open("dangling", O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0 && stat("none", &st) == 0);
    close(fd);
    umask(027);
    make("masked", "");
    CHECK(stat("masked", &st) == 0 && (st.st_mode & 07777) == 0640);
    CHECK(mkdir("masked-dir", 0777) == 0 && stat("masked-dir", &st) == 0 && (st.st_mode & 07777) == 0750);
    umask(022);
}

static void unlink_and_rmdir(void)
{
    make("f", "");
    CHECK(mkdir("d", 0755) == 0);
    FAILS(mkdir("d", 0755), EEXIST);
    FAILS(mkdir("f", 0755), EEXIST);
    FAILS(unlink("d"), EISDIR);
    FAILS(rmdir("f"), ENOTDIR);
    FAILS(unlink("none"), ENOENT);
    FAILS(rmdir("none"), ENOENT);
    make("d/f", "");
    FAILS(rmdir("d"), ENOTEMPTY);
    CHECK(unlink("d/f") == 0 && rmdir("d") == 0);
    CHECK(unlink("f") == 0);
    FAILS(unlink("f"), ENOENT);
    FAILS(stat("d", &st), ENOENT);
    CHECK(symlink("f", "l") == 0 && unlink("l") == 0);
}

static void rename_rules(void)
{
    make("a", "a");
    make("b", "b");
    CHECK(rename("a", "b") == 0 && holds("b", "a"));
    FAILS(rename("a", "c"), ENOENT);
    CHECK(mkdir("d", 0755) == 0 && mkdir("e", 0755) == 0 && mkdir("d/sub", 0755) == 0);
    FAILS(rename("b", "d"), EISDIR);
    FAILS(rename("d", "b"), ENOTDIR);
    FAILS(rename("d", "d/sub/x"), EINVAL);
    CHECK(rename("d", "e") == 0 && stat("e/sub", &st) == 0);
    CHECK(mkdir("d", 0755) == 0);
    FAILS(rename("d", "e"), ENOTEMPTY);
    CHECK(rename("b", "d/b") == 0 && rename("d/b", "e/sub/b") == 0 && holds("e/sub/b", "a"));
    CHECK(link("e/sub/b", "same") == 0 && rename("same", "e/sub/b") == 0); /* one file: nothing happens */
    CHECK(stat("same", &st) == 0 && st.st_nlink == 2);
    CHECK(rename("same", "same") == 0);
}

static void rename_with_open_files(void)
{
    char path[4096];
    CHECK(mkdir("d", 0755) == 0);
    int fd = create("d/f", "open", 0644), old = create("g", "replaced", 0644);
    CHECK(rename("d", "e") == 0);
    CHECK(pwrite(fd, "OPEN", 4, 0) == 4 && fsync(fd) == 0 && holds("e/f", "OPEN"));
    CHECK(rename("e/f", "g") == 0 && holds("g", "OPEN"));
    CHECK(fstat(fd, &st) == 0 && st.st_size == 4 && st.st_nlink == 1);
    CHECK(fstat(old, &st) == 0 && st.st_size == 8);
    CHECK(pread(old, path, 8, 0) == 8 && !memcmp(path, "replaced", 8));
    close(fd);
    close(old);
    CHECK(chdir("e") == 0 && rename("../e", "../h") == 0);
    make("here", "");
    CHECK(stat("../h/here", &st) == 0);
    CHECK(getcwd(path, sizeof path) && !strcmp(strrchr(path, '/'), "/h"));
    CHECK(chdir("..") == 0);
}

static void hard_links(void)
{
    make("f", "text");
    CHECK(link("f", "g") == 0 && stat("g", &st) == 0 && st.st_nlink == 2);
    ino_t ino = st.st_ino;
    CHECK(stat("f", &st) == 0 && st.st_ino == ino);
    FAILS(link("f", "g"), EEXIST);
    FAILS(link("none", "h"), ENOENT);
    CHECK(mkdir("d", 0755) == 0);
    FAILS(link("d", "h"), EPERM);
    CHECK(unlink("f") == 0 && holds("g", "text") && stat("g", &st) == 0 && st.st_nlink == 1);
}

static void symbolic_links(void)
{
    char buf[8] = "", target[4096];
    CHECK(symlink("target", "l") == 0);
    CHECK(readlink("l", buf, sizeof buf) == 6 && !memcmp(buf, "target", 6));
    CHECK(readlink("l", buf, 3) == 3);
    CHECK(lstat("l", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 6);
    FAILS(symlink("x", "l"), EEXIST);
    make("target", "");
    FAILS(readlink("target", buf, sizeof buf), EINVAL);
    CHECK(symlink("loop-b", "loop-a") == 0 && symlink("loop-a", "loop-b") == 0);
    FAILS(stat("loop-a", &st), ELOOP);
    memset(target, 'x', 4000);
    target[4000] = 0;
    CHECK(symlink(target, "long") == 0 && lstat("long", &st) == 0 && st.st_size == 4000);
    CHECK(link("l", "hard") == 0 && lstat("hard", &st) == 0 && S_ISLNK(st.st_mode) && st.st_nlink == 2);
    CHECK(lchown("l", 12, 13) == 0 && lstat("hard", &st) == 0 && st.st_uid == 12);
}

static void name_lengths(void)
{
    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    make(name, "");
    CHECK(stat(name, &st) == 0);
    name[255] = 'n';
    name[256] = 0;
    FAILS(open(name, O_CREAT | O_RDWR, 0644), ENAMETOOLONG);
    make("\xff\xfe \n\t\"'\\*?", "odd");
    CHECK(holds("\xff\xfe \n\t\"'\\*?", "odd"));
    make("...", "dots");
    CHECK(holds("...", "dots"));
    struct statvfs vfs;
    CHECK(statvfs(".", &vfs) == 0 && vfs.f_namemax == 255 && vfs.f_blocks > 0 && vfs.f_bavail <= vfs.f_bfree);
}

static void directory_links_are_counted(void)
{
    CHECK(mkdir("d", 0755) == 0 && stat("d", &st) == 0 && st.st_nlink == 2);
    CHECK(mkdir("d/e", 0755) == 0 && stat("d", &st) == 0 && st.st_nlink == 3);
    CHECK(rmdir("d/e") == 0 && stat("d", &st) == 0 && st.st_nlink == 2);
}

/* --- reading directories --- */

static void many_files(void)
{
    enum { N = 3000 };
    static bool seen[N];
    char name[32];
    int count = 0;
    CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0);
    for (int i = 0; i < N; i++) {
        (void)snprintf(name, sizeof name, "file-%d", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
        CHECK(fd >= 0);
        close(fd);
    }
    for (int pass = 0; pass < 2; pass++) {
        memset(seen, 0, sizeof seen);
        count = 0;
        DIR *dir = opendir(".");
        for (struct dirent *e; (e = readdir(dir));) {
            int i = -1;
            if (sscanf(e->d_name, "file-%d", &i) != 1)
                continue;
            CHECK(i >= 0 && i < N && !seen[i]);
            CHECK(e->d_type == DT_REG || e->d_type == DT_UNKNOWN);
            seen[i] = true;
            count++;
            if (pass) /* taken away while it is read */
                CHECK(unlink(e->d_name) == 0);
        }
        closedir(dir);
        CHECK(count == N);
    }
    CHECK(chdir("..") == 0 && rmdir("d") == 0);
}

static void kinds_in_a_directory(void)
{
    make("file", "");
    CHECK(mkdir("dir", 0755) == 0 && symlink("x", "link") == 0 && mkfifo("fifo", 0644) == 0);
    DIR *dir = opendir(".");
    long middle = 0;
    int n = 0, again = 0;
    for (struct dirent *e; (e = readdir(dir)); n++) {
        unsigned char want = !strcmp(e->d_name, "file")   ? DT_REG
                             : !strcmp(e->d_name, "link") ? DT_LNK
                             : !strcmp(e->d_name, "fifo") ? DT_FIFO
                                                          : DT_DIR;
        CHECK(e->d_type == want || e->d_type == DT_UNKNOWN);
        CHECK(strcmp(e->d_name, "file") != 0 || (stat("file", &st) == 0 && e->d_ino == st.st_ino));
        if (n == 2)
            middle = telldir(dir);
    }
    CHECK(n == 6);
    seekdir(dir, middle);
    while (readdir(dir))
        again++;
    CHECK(again == 3);
    rewinddir(dir);
    for (n = 0; readdir(dir);)
        n++;
    CHECK(n == 6);
    closedir(dir);
}

/* --- contents --- */

static void truncation(void)
{
    char buf[16];
    make("f", "0123456789");
    CHECK(truncate("f", 4) == 0 && holds("f", "0123"));
    CHECK(truncate("f", 8) == 0 && stat("f", &st) == 0 && st.st_size == 8);
    int fd = open("f", O_RDWR);
    CHECK(read(fd, buf, sizeof buf) == 8 && !memcmp(buf, "0123\0\0\0\0", 8));
    CHECK(ftruncate(fd, 0) == 0 && pread(fd, buf, 1, 0) == 0);
    CHECK(pwrite(fd, "x", 1, 5000000000) == 1 && fstat(fd, &st) == 0 && st.st_size == 5000000001);
    CHECK(st.st_blocks < 100000);
    CHECK(pread(fd, buf, 1, 4000000000) == 1 && buf[0] == 0);
    close(fd);
    FAILS(truncate("f", -1), EINVAL);
    FAILS(truncate(".", 0), EISDIR);
    FAILS(truncate("none", 0), ENOENT);
    fd = open("f", O_RDONLY);
    CHECK(ftruncate(fd, 0) == -1 && write(fd, "x", 1) == -1);
    close(fd);
}

static void large_transfers(void)
{
    enum { SIZE = 3 << 20 };
    char *out = malloc(SIZE), *in = malloc(SIZE);
    int fd = create("f", "", 0644);
    for (int i = 0; i < SIZE; i++)
        out[i] = (char)(i * 7 + (i >> 11));
    CHECK(pwrite(fd, out, SIZE - 13, 13) == SIZE - 13);
    CHECK(pread(fd, in, SIZE, 0) == SIZE);
    CHECK(!memcmp(in + 13, out, SIZE - 13));
    for (int at = 0; at < SIZE; at += 65521) {
        ssize_t n = pread(fd, in, 70001, at);
        CHECK(n == (SIZE - at < 70001 ? SIZE - at : 70001));
        CHECK(at < 13 || !memcmp(in, out + at - 13, (size_t)n));
    }
    close(fd);
    free(out);
    free(in);
}

static void appends_of_several_processes(void)
{
    enum { PROCESSES = 4, LINES = 200 };
    int count[PROCESSES] = {0}, p, i, lines = 0;
    make("log", "");
    for (p = 0; p < PROCESSES; p++) {
        if (fork() == 0) {
            int fd = open("log", O_WRONLY | O_APPEND);
            for (i = 0; i < LINES; i++)
                if (dprintf(fd, "%d %d\n", p, i) < 0)
                    _exit(1);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;
    FILE *f = fopen("log", "r");
    while (fscanf(f, "%d %d\n", &p, &i) == 2 && p >= 0 && p < PROCESSES) {
        CHECK(i == count[p]++);
        lines++;
    }
    fclose(f);
    CHECK(lines == PROCESSES * LINES);
    int fd = open("log", O_RDWR | O_APPEND);
    CHECK(fstat(fd, &st) == 0 && pwrite(fd, "end", 3, 0) == 3); /* Linux appends, whatever the offset */
    off_t size = st.st_size;
    CHECK(fstat(fd, &st) == 0 && st.st_size == size + 3);
    close(fd);
}

static void unlinked_files(void)
{
    char buf[32];
    int fd = create("f", "contents", 0644);
    CHECK(unlink("f") == 0);
    FAILS(stat("f", &st), ENOENT);
    CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 8);
    CHECK(pread(fd, buf, sizeof buf, 0) == 8 && !memcmp(buf, "contents", 8));
    CHECK(pwrite(fd, "more", 4, 8) == 4 && ftruncate(fd, 10) == 0);
    CHECK(fstat(fd, &st) == 0 && st.st_size == 10);
    CHECK(fchmod(fd, 0600) == 0 && fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0600);
    make("f", "another");
    CHECK(fstat(fd, &st) == 0 && st.st_size == 10);
    CHECK(fsync(fd) == 0);
    close(fd);
    CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0 && rmdir("../d") == 0);
    CHECK(open("x", O_CREAT | O_RDWR, 0644) == -1);
    CHECK(chdir("..") == 0);
}

static void mappings(void)
{
    char text[8192];
    memset(text, 'a', sizeof text);
    int fd = create("f", "", 0644);
    CHECK(write(fd, text, sizeof text) == sizeof text);
    char *p = mmap(NULL, sizeof text, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED && p[0] == 'a' && p[8191] == 'a');
    munmap(p, sizeof text);
    p = mmap(NULL, sizeof text, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    if (p != MAP_FAILED) {
        p[5000] = 'b';
        CHECK(msync(p, sizeof text, MS_SYNC) == 0);
        munmap(p, sizeof text);
    }
    close(fd);
    fd = open("f", O_RDONLY);
    CHECK(pread(fd, text, 1, 5000) == 1 && text[0] == 'b');
    close(fd);
}

/* --- attributes --- */

static void modes_and_owners(void)
{
    make("f", "");
    CHECK(chmod("f", 0) == 0 && stat("f", &st) == 0 && (st.st_mode & 07777) == 0);
    CHECK(chmod("f", 07777) == 0 && stat("f", &st) == 0 && (st.st_mode & 07777) == 07777);
    CHECK(chown("f", 123, 456) == 0 && stat("f", &st) == 0 && st.st_uid == 123 && st.st_gid == 456);
    CHECK(!(st.st_mode & 06000)); /* set-id bits go */
    CHECK(chown("f", (uid_t)-1, 7) == 0 && stat("f", &st) == 0 && st.st_uid == 123 && st.st_gid == 7);
    CHECK(mkdir("d", 01777) == 0 && chmod("d", 03777) == 0 && stat("d", &st) == 0);
    CHECK((st.st_mode & 07777) == 03777);
    CHECK(chown("d", 0, 77) == 0 && chmod("d", 02775) == 0);
    make("d/inherits", "");
    CHECK(stat("d/inherits", &st) == 0 && st.st_gid == 77);
    CHECK(mkdir("d/sub", 0755) == 0 && stat("d/sub", &st) == 0 && st.st_gid == 77 && st.st_mode & S_ISGID);
}

static int user_creates(void)
{
    int fd = open("open/mine", O_CREAT | O_EXCL | O_WRONLY, 0444); /* may be written by who made it */
    if (fd < 0 || write(fd, "x", 1) != 1 || fstat(fd, &st) || st.st_uid != 1000 || st.st_gid != 1000)
        return 1;
    close(fd);
    if (open("open/mine", O_WRONLY) != -1 || errno != EACCES)
        return 2;
    if (open("secret", O_RDONLY) != -1 || errno != EACCES)
        return 3;
    if (unlink("secret") != -1 || errno != EACCES || mkdir("sub", 0755) != -1 || errno != EACCES)
        return 4;
    if (chmod("secret", 0777) != -1 || errno != EPERM || chown("open/mine", 0, 0) != -1 || errno != EPERM)
        return 5;
    if (unlink("open/roots") != -1 || errno != EPERM) /* the sticky bit */
        return 6;
    if (chmod("open/mine", 0600) || utimensat(AT_FDCWD, "open/mine", NULL, 0) || unlink("open/mine"))
        return 7;
    return access("closed/x", F_OK) == -1 && errno == EACCES ? 0 : 8;
}

static void permissions(void)
{
    CHECK(chmod(".", 0755) == 0);
    close(create("secret", "s", 0600));
    CHECK(mkdir("open", 0755) == 0 && chmod("open", 01777) == 0 && mkdir("closed", 0700) == 0);
    make("open/roots", "");
    make("closed/x", "");
    int r = as_user(1000, user_creates);
    if (r)
        printf("FAIL %s: step %d as user 1000\n", now, r);
    bad |= r != 0;
}

static void times(void)
{
    const struct timespec t[2] = {{.tv_sec = 1000000000, .tv_nsec = 123456789}, {.tv_sec = 5, .tv_nsec = 1}};
    const struct timespec omit[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
    make("f", "x");
    CHECK(utimensat(AT_FDCWD, "f", t, 0) == 0 && stat("f", &st) == 0);
    /* Linux' client of 9P sets whole seconds. */
    CHECK(st.st_atim.tv_sec == 1000000000 && (st.st_atim.tv_nsec == 123456789 || st.st_atim.tv_nsec == 0));
    CHECK(st.st_mtim.tv_sec == 5 && st.st_mtim.tv_nsec <= 1);
    CHECK(utimensat(AT_FDCWD, "f", omit, 0) == 0 && stat("f", &st) == 0);
    CHECK(st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec > 1000000000);
    CHECK(symlink("f", "l") == 0 && utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(lstat("l", &st) == 0 && st.st_mtim.tv_sec == 5);
    CHECK(mkdir("d", 0755) == 0 && utimensat(AT_FDCWD, "d", t, 0) == 0);
    make("d/f", "");
    CHECK(stat("d", &st) == 0 && st.st_mtim.tv_sec > 1000000000);
}

static void extended_attributes(void)
{
    char buf[256], big[3000];
    make("f", "");
    memset(big, 'v', sizeof big);
    FAILS(getxattr("f", "user.none", buf, sizeof buf), ENODATA);
    CHECK(setxattr("f", "user.one", "first", 5, XATTR_CREATE) == 0);
    FAILS(setxattr("f", "user.one", "x", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("f", "user.two", "x", 1, XATTR_REPLACE), ENODATA);
    CHECK(setxattr("f", "user.two", big, sizeof big, 0) == 0);
    CHECK(setxattr("f", "user.empty", "", 0, 0) == 0 && getxattr("f", "user.empty", buf, sizeof buf) == 0);
    CHECK(getxattr("f", "user.one", buf, sizeof buf) == 5 && !memcmp(buf, "first", 5));
    FAILS(getxattr("f", "user.one", buf, 2), ERANGE);
    CHECK(getxattr("f", "user.two", NULL, 0) == sizeof big);
    CHECK(listxattr("f", buf, sizeof buf) == 9 + 9 + 11);
    CHECK(removexattr("f", "user.one") == 0);
    FAILS(removexattr("f", "user.one"), ENODATA);
    CHECK(mkdir("d", 0755) == 0 && setxattr("d", "user.x", "y", 1, 0) == 0);
    CHECK(getxattr("d", "user.x", buf, sizeof buf) == 1);
}

static void special_files(void)
{
    char buf[8];
    CHECK(mkfifo("fifo", 0640) == 0 && lstat("fifo", &st) == 0 && S_ISFIFO(st.st_mode));
    if (fork() == 0) {
        int out = open("fifo", O_WRONLY);
        _exit(write(out, "through", 7) != 7);
    }
    int fd = open("fifo", O_RDONLY);
    CHECK(read(fd, buf, sizeof buf) == 7 && !memcmp(buf, "through", 7));
    close(fd);
    wait(NULL);
    struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(s, (struct sockaddr *)&a, sizeof a) == 0 && listen(s, 1) == 0);
    CHECK(lstat("socket", &st) == 0 && S_ISSOCK(st.st_mode));
    CHECK(connect(c, (struct sockaddr *)&a, sizeof a) == 0);
    close(s);
    close(c);
}

static void device_nodes(void)
{
    CHECK(mknod("null", S_IFCHR | 0666, makedev(1, 3)) == 0 && lstat("null", &st) == 0);
    CHECK(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
    CHECK(mknod("disk", S_IFBLK | 0600, makedev(259, 300)) == 0 && lstat("disk", &st) == 0);
    CHECK(S_ISBLK(st.st_mode) && st.st_rdev == makedev(259, 300));
    int fd = open("null", O_WRONLY);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

/* --- locks --- */

static int lock_range(int fd, int command, short type, off_t start, off_t len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    int r = fcntl(fd, command, &l);
    return command == F_GETLK && r == 0 ? l.l_type : r;
}

static int other_process_locks(void)
{
    int fd = open("f", O_RDWR);
    if (lock_range(fd, F_SETLK, F_WRLCK, 5, 1) != -1 || errno != EAGAIN)
        return 1;
    if (lock_range(fd, F_SETLK, F_RDLCK, 25, 1) || lock_range(fd, F_SETLK, F_WRLCK, 100, 10))
        return 2;
    if (lock_range(fd, F_GETLK, F_WRLCK, 0, 10) != F_WRLCK ||
        lock_range(fd, F_GETLK, F_WRLCK, 12, 2) != F_UNLCK)
        return 3;
    return flock(fd, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK ? 4 : 0;
}

static int other_process_flocks(void)
{
    int fd = open("g", O_RDONLY);
    return flock(fd, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK ? 0 : 1;
}

static void locks(void)
{
    close(create("f", "text", 0666));
    close(create("g", "text", 0666));
    int fd = open("f", O_RDWR), again = open("f", O_RDWR);
    CHECK(lock_range(fd, F_SETLK, F_WRLCK, 0, 10) == 0 && lock_range(fd, F_SETLK, F_RDLCK, 20, 10) == 0);
    CHECK(lock_range(again, F_SETLK, F_WRLCK, 0, 5) == 0); /* the same process */
    int r = as_user(0, other_process_locks);
    CHECK(r == 0 || r == 4);
    CHECK(lock_range(fd, F_SETLKW, F_WRLCK, 100, 10) == 0); /* that process is gone */
    close(again);                                           /* takes all locks of the process with it */
    CHECK(lock_range(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
    close(fd);
    fd = open("g", O_RDONLY);
    CHECK(flock(fd, LOCK_EX) == 0 && as_user(0, other_process_flocks) == 0);
    CHECK(flock(fd, LOCK_UN) == 0 && as_user(0, other_process_flocks) == 1);
    close(fd);
}

/* --- all --- */

static const struct {
    const char *name;
    void (*run)(void);
} checks[] = {
#define C(name)     \
    {               \
#name, name \
    }
    C(open_and_create),
    C(unlink_and_rmdir),
    C(rename_rules),
    C(rename_with_open_files),
    C(hard_links),
    C(symbolic_links),
    C(name_lengths),
    C(directory_links_are_counted),
    C(many_files),
    C(kinds_in_a_directory),
    C(truncation),
    C(large_transfers),
    C(appends_of_several_processes),
    C(unlinked_files),
    C(mappings),
    C(modes_and_owners),
    C(permissions),
    C(times),
    C(extended_attributes),
    C(special_files),
    C(device_nodes),
    C(locks),
};

static bool skipped(const char *name, int argc, char **argv)
{
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], name))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    char dir[64];
    int ran = 0;
    umask(022);
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || chdir(argv[1])) {
        fputs("usage: posix-checks DIR [SKIP...]\n", stderr);
        return 2;
    }
    setbuf(stdout, NULL);
    for (unsigned i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        now = checks[i].name;
        if (skipped(now, argc, argv))
            continue;
        (void)snprintf(dir, sizeof dir, "posix-%s", now);
        bad = 0;
        CHECK(mkdir(dir, 0755) == 0 && chdir(dir) == 0);
        checks[i].run();
        CHECK(chdir(argv[1]) == 0);
        failures += bad;
        ran++;
    }
    printf("posix-checks: %d of %d checks failed\n", failures, ran);
    return failures != 0;
}
