/*
 * Any messages to the server of shared directories. The first byte picks how it is shared, then each record
 * is a message: a type, and its fields in the order of the protocol, where fids and names come from small
 * sets so that they meet. Meanwhile another thread swaps a directory with a symbolic link that leads out, as
 * fast as it can. After each input a file beside the shared directory, and the directory around both, must be
 * as they were; where the share is read-only, the shared directory too.
 */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/share/share.h"
#include "base/log.h"

#define MAX_MESSAGES 200
#define INPUTS_A_TREE 300 /* then it is made anew, so that it does not grow */
#define SENTINEL "nobody changes this"
#define BUFFER 20000

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { MAPPED, NONE, PASSTHROUGH, READ_ONLY, SHARES };

static struct {
    char top[64];
    struct share *share[SHARES];
    unsigned inputs;
    struct timespec read_only_ctime;
    struct stat sentinel;
    pthread_t swapper;
    pthread_mutex_t still; /* nothing is swapped while a tree is taken away, by names */
} fuzz = {.still = PTHREAD_MUTEX_INITIALIZER};

static const char *const names[] = {
    "a",
    "b",
    "dir",
    "swap",
    "link",
    "slash",
    "fifo",
    ".",
    "..",
    "outside",
    "",
    "../outside",
    "a/b",
    "/",
    "deep",
    "/etc/passwd",
    "user.x",
    "user.virtfs.mode",
    "system.posix_acl_access",
    "security.capability",
    "9P2000.L",
};

/*
 * f fid, n name, b byte, d 32 bits, q 64 bits, v version, x a fixed afid, w count of names and names, r data
 * with their length; O flags of open, M a mode, S a small number as 64 bits, s the same as 32.
 */
static const struct {
    u8 type;
    const char *fields;
} messages[] = {
    {8, "f"},     {12, "fO"},      {14, "fnOMd"},      {16, "fnnd"}, {18, "fnMssd"}, {20, "ffn"},
    {22, "f"},    {24, "fq"},      {26, "fsMssSSSSS"}, {30, "ffn"},  {32, "fnSs"},   {40, "fSs"},
    {50, "fs"},   {52, "fbdSSsn"}, {54, "fbSSsn"},     {70, "ffn"},  {72, "fnMd"},   {74, "fnfn"},
    {76, "fnO"},  {100, "sv"},     {104, "fxnnd"},     {108, "s"},   {110, "ffw"},   {110, "ffw"},
    {116, "fSs"}, {118, "fSr"},    {120, "f"},         {122, "f"},   {102, "fnn"},   {7, "d"},
};

static void path_in(char path[128], const char *name)
{
    (void)snprintf(path, 128, "%s/%s", fuzz.top, name);
}

static void put_file(const char *name, const char *text)
{
    char path[128];
    path_in(path, name);
    FILE *f = fopen(path, "w");
    BUG_ON(!f);
    fputs(text, f);
    fclose(f);
}

static int wipe(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void make_tree(void)
{
    static const char *const dirs[] = {"dir", "dir/deep", "dir/swap", "ro", "ro/dir"};
    static const char *const links[][2] = {
        {"../outside", "dir/link"}, {"/", "dir/slash"}, {"..", "dir/out"}, {"../outside", "ro/link"}};
    char path[128];
    path_in(path, "dir");
    pthread_mutex_lock(&fuzz.still);
    (void)nftw(path, wipe, 32, FTW_DEPTH | FTW_PHYS);
    pthread_mutex_unlock(&fuzz.still);
    for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
        path_in(path, dirs[i]);
        (void)mkdir(path, 0755);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(links); i++) {
        path_in(path, links[i][1]);
        (void)!symlink(links[i][0], path);
    }
    path_in(path, "dir/fifo");
    (void)mkfifo(path, 0644);
    put_file("dir/a", "contents of a");
    path_in(path, "ro/a");
    if (access(path, F_OK))
        put_file("ro/a", "contents of a");
}

/* dir/swap is now a directory, now a link that leads out of the shared one. */
static void *swap(void *arg)
{
    char a[128], b[128];
    (void)arg;
    path_in(a, "dir/swap");
    path_in(b, "dir/out");
    for (;;) {
        pthread_mutex_lock(&fuzz.still);
        int r = renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
        pthread_mutex_unlock(&fuzz.still);
        if (r < 0)
            usleep(1000);
    }
    return NULL;
}

static struct share *open_share(const char *name, struct share_options o)
{
    char path[128];
    struct error err = {0};
    path_in(path, name);
    struct share *s = share_open(path, &o, &err);
    if (!s)
        fprintf(stderr, "%s\n", err.text);
    BUG_ON(!s);
    return s;
}

static void open_shares(void)
{
    fuzz.share[MAPPED] = open_share("dir", (struct share_options){.ownership = SHARE_MAPPED});
    fuzz.share[NONE] = open_share("dir", (struct share_options){.ownership = SHARE_NONE});
    if (geteuid() == 0)
        fuzz.share[PASSTHROUGH] = open_share("dir", (struct share_options){.ownership = SHARE_PASSTHROUGH});
    else
        fuzz.share[PASSTHROUGH] = open_share("dir", (struct share_options){.ownership = SHARE_NONE});
    fuzz.share[READ_ONLY] =
        open_share("ro", (struct share_options){.ownership = SHARE_MAPPED, .read_only = true});
}

static void remove_all(void)
{
    pthread_mutex_lock(&fuzz.still); /* for good */
    (void)nftw(fuzz.top, wipe, 32, FTW_DEPTH | FTW_PHYS);
}

static void set_up(void)
{
    char path[128];
    struct stat st;
    (void)snprintf(fuzz.top, sizeof fuzz.top, "%s/trapeze-9p-XXXXXX",
                   access("/var/tmp", W_OK) ? "/tmp" : "/var/tmp");
    BUG_ON(!mkdtemp(fuzz.top));
    (void)atexit(remove_all);
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_ERROR);
    put_file("outside", SENTINEL);
    make_tree();
    open_shares();
    path_in(path, "ro");
    BUG_ON(stat(path, &st));
    fuzz.read_only_ctime = st.st_ctim;
    path_in(path, "outside");
    BUG_ON(stat(path, &fuzz.sentinel));
    BUG_ON(pthread_create(&fuzz.swapper, NULL, swap, NULL));
}

/* --- messages out of bytes --- */

struct input {
    const u8 *p, *end;
};

static u8 byte(struct input *in)
{
    return in->p < in->end ? *in->p++ : 0;
}

static u64 number(struct input *in, unsigned n)
{
    u64 v = 0;
    while (n--)
        v = v << 8 | byte(in);
    return v;
}

static size_t put(u8 *m, size_t at, u64 v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        m[at + i] = (u8)(v >> 8 * i);
    return at + n;
}

static size_t put_name(u8 *m, size_t at, struct input *in)
{
    u8 b = byte(in);
    if (b < 0xf0) {
        const char *name = names[b % ARRAY_SIZE(names)];
        at = put(m, at, strlen(name), 2);
        memcpy(m + at, name, strlen(name));
        return at + strlen(name);
    }
    unsigned len = b == 0xff ? 300 : b & 15; /* any bytes */
    at = put(m, at, len, 2);
    for (unsigned i = 0; i < len; i++)
        m[at++] = byte(in);
    return at;
}

static size_t put_field(u8 *m, size_t at, char kind, struct input *in)
{
    static const u32 flags[] = {O_RDONLY, O_WRONLY,     O_RDWR, O_RDWR | O_TRUNC, O_WRONLY | O_APPEND,
                                O_EXCL,   AT_REMOVEDIR, ~0u};
    unsigned n;
    switch (kind) {
    case 'f': return put(m, at, byte(in) % 12, 4);
    case 'n': return put_name(m, at, in);
    case 'b': return put(m, at, byte(in), 1);
    case 'd': return put(m, at, number(in, 4), 4);
    case 'q': return put(m, at, number(in, 8), 8);
    case 's': return put(m, at, byte(in), 4);
    case 'S': return put(m, at, byte(in) == 0xff ? number(in, 8) : byte(in), 8);
    case 'O': return put(m, at, flags[byte(in) % ARRAY_SIZE(flags)], 4);
    case 'M': return put(m, at, number(in, 2), 4);
    case 'x': return put(m, at, ~0u, 4);
    case 'v': return put_name(m, at, &(struct input){(const u8 *)"\x14", (const u8 *)"\x14" + 1});
    case 'w':
        n = byte(in) % 18;
        at = put(m, at, n, 2);
        while (n--)
            at = put_name(m, at, in);
        return at;
    case 'r':
        n = byte(in);
        at = put(m, at, n, 4);
        memset(m + at, 'd', n);
        return at + n;
    default: BUG();
    }
}

static void send_message(struct share *s, struct input *in)
{
    static u8 message[BUFFER], reply[BUFFER];
    u8 which = byte(in), cut = byte(in);
    const char *field = messages[which % ARRAY_SIZE(messages)].fields;
    size_t at = 7;
    for (; *field; field++)
        at = put_field(message, at, *field, in);
    if (cut >= 0xf8 && at > 7)
        at -= (size_t)(cut & 7) % (at - 6); /* cut short */
    message[4] = messages[which % ARRAY_SIZE(messages)].type;
    put(message, 5, 1, 2);
    put(message, 0, which >= 0xf8 ? number(in, 4) : at, 4);
    struct iovec out = {message, at}, in_iov = {reply, cut == 0xf7 ? 30 : BUFFER};
    struct share_request r = {.out = &out,
                              .in = &in_iov,
                              .out_count = 1,
                              .in_count = 1,
                              .out_bytes = at,
                              .in_bytes = in_iov.iov_len};
    share_execute(s, &r);
    BUG_ON(r.written > in_iov.iov_len);
    BUG_ON(r.written && (r.written < 7 || get_le32(reply) != r.written));
}

static void begin(struct share *s)
{
    static const u8 version[] = {21, 0, 0,   0,   100, 0,   0,   0,   0x40, 0,  0,
                                 8,  0, '9', 'P', '2', '0', '0', '0', '.',  'L'};
    static const u8 attach[] = {23,   0,    0,    0, 104, 0, 0, 0, 0, 0, 0, 0xff,
                                0xff, 0xff, 0xff, 0, 0,   0, 0, 0, 0, 0, 0};
    u8 reply[64];
    struct iovec in = {reply, sizeof reply}, out = {(void *)version, sizeof version};
    struct share_request r = {&out, &in, 1, 1, sizeof version, sizeof reply, 0};
    share_execute(s, &r);
    out = (struct iovec){(void *)attach, sizeof attach};
    r.out_bytes = sizeof attach;
    share_execute(s, &r);
    BUG_ON(reply[4] != 105);
}

/* --- what must not have changed --- */

static void check_sentinel(void)
{
    char path[128], text[64] = "";
    struct stat st;
    path_in(path, "outside");
    int fd = open(path, O_RDONLY);
    BUG_ON(fd < 0 || fstat(fd, &st) || read(fd, text, sizeof text) < 0);
    close(fd);
    BUG_ON(strcmp(text, SENTINEL) != 0);
    BUG_ON(st.st_ctim.tv_sec != fuzz.sentinel.st_ctim.tv_sec ||
           st.st_ctim.tv_nsec != fuzz.sentinel.st_ctim.tv_nsec || st.st_ino != fuzz.sentinel.st_ino);
}

static void check_around(void)
{
    unsigned entries = 0;
    DIR *d = opendir(fuzz.top);
    BUG_ON(!d);
    while (readdir(d))
        entries++;
    closedir(d);
    BUG_ON(entries != 5); /* ., .., dir, ro, outside */
}

static void check_read_only(void)
{
    char path[128];
    struct stat st;
    path_in(path, "ro");
    BUG_ON(stat(path, &st) || st.st_ctim.tv_sec != fuzz.read_only_ctime.tv_sec ||
           st.st_ctim.tv_nsec != fuzz.read_only_ctime.tv_nsec);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct input in = {data, data + size};
    if (!fuzz.top[0])
        set_up();
    if (++fuzz.inputs % INPUTS_A_TREE == 0)
        make_tree();
    struct share *s = fuzz.share[byte(&in) % SHARES];
    begin(s);
    for (unsigned i = 0; i < MAX_MESSAGES && in.p < in.end; i++)
        send_message(s, &in);
    share_reset(s);
    check_sentinel();
    check_around();
    check_read_only();
    return 0;
}
