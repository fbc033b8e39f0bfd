/*
 * Random operations on qcow2 images against a model, with qemu-img as the judge; and the same cut short:
 * by a power cut (any of the writes since the last sync may be lost, sector by sector), by the end of
 * the process, or by a full disk. Then the image is repaired, and what was flushed must be there.
 *
 * usage: stress [--mode run|power|kill|full] [--rounds N] [--ops N] [--seed S] [--queues N] [--dir DIR]
 *
 * The calls by which images are written are defined here, in front of those of the C library.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "backend/block/qcow2.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/parse.h"

#define SECTOR BLOCK_SECTOR
#define MAX_REQUEST (1u << 20)
#define MAX_QUEUES 8
#define DISK_MAX (24u << 20)
#define SECTORS_MAX (DISK_MAX / SECTOR)

/* --- random numbers: the same for the same seed --- */

static u64 rng_state;

static u64 rng(void)
{
    u64 z = __atomic_add_fetch(&rng_state, 0x9e3779b97f4a7c15ull,
                               __ATOMIC_RELAXED); /* a cut comes on any thread */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static u64 below(u64 n)
{
    return rng() % n;
}

NORETURN static void PRINTF_LIKE(1, 2) die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)fputs("stress: ", stderr);
    (void)vfprintf(stderr, fmt, ap);
    (void)fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* --- a disk that can lose its power --- */

struct undo {
    int fd;
    off_t offset;
    size_t len;
    u8 *old;
};

static struct {
    pthread_mutex_t lock;
    bool armed;
    atomic_bool off;
    u64 calls_left;
    bool kill; /* the process ends there instead */
    struct undo *undo;
    size_t count, cap;
} power = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void save_old(int fd, off_t offset, size_t len)
{
    if (power.count == power.cap) {
        power.cap = power.cap ? power.cap * 2 : 1024;
        power.undo = realloc(power.undo, power.cap * sizeof *power.undo);
    }
    struct undo *u = &power.undo[power.count++];
    *u = (struct undo){.fd = fd, .offset = offset, .len = len, .old = calloc(1, len)};
    if (!u->old || pread(fd, u->old, len, offset) < 0)
        die("cannot remember what was at %lld", (long long)offset);
}

static void forget_undo(void)
{
    for (size_t i = 0; i < power.count; i++)
        free(power.undo[i].old);
    power.count = 0;
}

static bool sector_kept(u8 *kept, off_t sector)
{
    return kept[sector >> 3 & 0xfffff] >> (sector & 7) & 1;
}

/* Each sector gets back to one of the states that it had since the last sync. */
static void cut_power(void)
{
    static u8 kept[1 << 20]; /* by sector number: nothing older is brought back */
    memset(kept, 0, sizeof kept);
    power.off = true;
    u64 mercy = below(4); /* now and then most of it arrives, or nothing */
    for (size_t i = power.count; i--;) {
        struct undo *u = &power.undo[i];
        for (size_t at = 0, n; at < u->len; at += n) {
            off_t pos = u->offset + (off_t)at, sector = pos / SECTOR;
            n = MIN(u->len - at, (size_t)(SECTOR - pos % SECTOR));
            if (sector_kept(kept, sector))
                continue;
            if (mercy == 0 || below(mercy + 1) == 0) {
                if (syscall(SYS_pwrite64, u->fd, u->old + at, n, pos) != (long)n)
                    die("cannot undo a write");
            } else {
                kept[sector >> 3 & 0xfffff] |= (u8)(1 << (sector & 7));
            }
        }
    }
    forget_undo();
}

/* Before each change of the file. False: there is no power. */
static bool change(int fd, off_t offset, size_t len)
{
    bool on = true;
    if (!power.armed)
        return true;
    pthread_mutex_lock(&power.lock);
    if (!power.off && power.calls_left-- == 0) {
        if (power.kill)
            raise(SIGKILL);
        cut_power();
    }
    on = !power.off;
    if (on && !power.kill && len)
        save_old(fd, offset, len);
    pthread_mutex_unlock(&power.lock);
    if (!on)
        errno = EIO;
    return on;
}

static size_t iov_len(const struct iovec *iov, int count)
{
    size_t len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    return len;
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    return change(fd, offset, iov_len(iov, count)) ? syscall(SYS_pwritev, fd, iov, count, offset, 0) : -1;
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (power.armed) {
        errno = EAGAIN;
        return -1;
    }
    return syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    return change(fd, offset, (size_t)len) ? (int)syscall(SYS_fallocate, fd, mode, offset, len) : -1;
}

int ftruncate(int fd, off_t len)
{
    return change(fd, 0, 0) ? (int)syscall(SYS_ftruncate, fd, len) : -1;
}

int fdatasync(int fd)
{
    if (!power.armed)
        return 0; /* a test of what is in the file need not wait for a disk */
    if (!change(fd, 0, 0))
        return -1;
    pthread_mutex_lock(&power.lock);
    if (!power.off)
        forget_undo();
    pthread_mutex_unlock(&power.lock);
    return 0;
}

/* --- the model --- */

/*
 * A sector holds its number and a version, or zeroes. What it may hold after a cut: the version that
 * was there at the last flush or any later one, and zeroes if it was zeroed since, or held them then.
 * It lies in shared memory, for the child that is killed.
 */
struct sector {
    u64 done;         /* version of the last write that completed, 0: zeroes, or what the backing file has */
    u64 flushed;      /* the same when the last flush began */
    u64 issued;       /* of the last write that was begun */
    bool zero_issued; /* since the last flush */
    bool discard_issued; /* then what is below may show */
    bool unknown;        /* discarded: zeroes, or what it held */
};

static struct model {
    struct sector s[SECTORS_MAX];
    u64 version;
} * model;

struct setup {
    char path[200], base[200];
    struct qcow2_create create;
    u64 base_size; /* 0: none */
    enum block_cache cache;
    enum block_aio aio;
};

static void fill(u8 *buf, u64 sector, u64 version)
{
    for (unsigned i = 0; i < SECTOR; i += 16) {
        put_le64(buf + i, sector);
        put_le64(buf + i + 8, version);
    }
}

/* The backing file holds version 1. */
static void below_fill(const struct setup *s, u8 *buf, u64 sector)
{
    if ((sector + 1) * SECTOR <= s->base_size && sector / 64 % 3)
        fill(buf, sector, 1);
    else
        memset(buf, 0, SECTOR);
}

static bool is_zero(const u8 *buf)
{
    return buf[0] == 0 && !memcmp(buf, buf + 1, SECTOR - 1);
}

/* The version in a sector, 0 for zeroes; ~0 when it is damaged. */
static u64 version_in(const u8 *buf, u64 sector)
{
    u8 good[SECTOR];
    if (is_zero(buf))
        return 0;
    fill(good, sector, get_le64(buf + 8));
    return memcmp(good, buf, SECTOR) ? ~0ull : get_le64(buf + 8);
}

/* --- requests --- */

struct slot {
    struct block_request r;
    struct iovec iov[3];
    u8 *buf;
    u64 first, count; /* sectors */
    u64 version;
    bool busy;
    int result;
};

struct engine {
    const struct setup *setup;
    struct block_device *disk;
    u64 sectors;
    struct slot slot[MAX_QUEUES];
    unsigned queues;
    u64 stripe;  /* sectors that belong to one queue at a time */
    bool failed; /* a request: only when that is expected */
    bool may_fail;
    u64 enospc;
};

static void on_done(struct block_request *r, int result)
{
    struct slot *s = container_of(r, struct slot, r);
    s->result = result;
    __atomic_store_n(&s->busy, false, __ATOMIC_RELEASE);
}

static void check_read(struct engine *e, struct slot *s)
{
    u8 below_buf[SECTOR];
    for (u64 i = 0; i < s->count; i++) {
        struct sector *m = &model->s[s->first + i];
        u8 *got = s->buf + i * SECTOR;
        u64 v = version_in(got, s->first + i);
        below_fill(e->setup, below_buf, s->first + i);
        u64 below_version = version_in(below_buf, s->first + i);
        u64 want = m->done ? m->done : below_version;
        if (m->done == ~0ull) /* zeroed */
            want = 0;
        bool of_failed = v <= m->issued && (m->done == ~0ull || v > m->done);
        if (m->unknown && (v == 0 || v == want || v == below_version || of_failed)) {
            m->unknown = false;
            m->done = v ? v : ~0ull;
        } else if (v != want) {
            die("%s: sector %llu holds version %lld, expected %lld", e->setup->path,
                (unsigned long long)(s->first + i), (long long)v, (long long)want);
        }
    }
}

static void completed(struct engine *e, struct slot *s)
{
    if (s->result < 0) {
        if (!e->may_fail)
            die("%s: operation %d at sector %llu failed: %s", e->setup->path, s->r.op,
                (unsigned long long)s->first, strerror(-s->result));
        e->failed = true;
        e->enospc += s->result == -ENOSPC || s->result == -EFBIG;
    }
    if (s->r.op == BLOCK_READ && s->result == 0 && !(power.armed && power.off))
        check_read(e, s);
    for (u64 i = 0; i < s->count && s->r.op != BLOCK_READ; i++) {
        struct sector *m = &model->s[s->first + i];
        if (s->result < 0) { /* any of it may have happened */
            m->unknown = true;
            continue;
        }
        if (s->r.op == BLOCK_WRITE)
            m->done = s->version;
        else if (s->r.op == BLOCK_WRITE_ZEROES)
            m->done = ~0ull;
        m->unknown = s->r.op == BLOCK_DISCARD;
    }
}

static void wait_for(struct engine *e, struct slot *s)
{
    if (!s->r.done)
        return;
    block_drain(e->disk);
    if (__atomic_load_n(&s->busy, __ATOMIC_ACQUIRE))
        die("a request was drained and is not done");
    completed(e, s);
    s->r.done = NULL;
}

static void wait_all(struct engine *e)
{
    for (unsigned i = 0; i < e->queues; i++)
        wait_for(e, &e->slot[i]);
}

/* Buffers in three pieces, now and then. */
static void set_iov(struct slot *s)
{
    u64 len = s->count * SECTOR, cut = below(len), cut2 = cut + below(len - cut);
    s->r.iov = s->iov;
    if (below(2)) {
        s->iov[0] = (struct iovec){s->buf, len};
        s->r.iovcnt = 1;
        return;
    }
    s->iov[0] = (struct iovec){s->buf, cut};
    s->iov[1] = (struct iovec){s->buf + cut, cut2 - cut};
    s->iov[2] = (struct iovec){s->buf + cut2, len - cut2};
    s->r.iovcnt = 3;
}

/* Sectors of this queue's stripes, so that queues meet in clusters but not in sectors. */
static void choose_range(struct engine *e, unsigned queue, struct slot *s, u64 most)
{
    u64 stripes = (e->sectors + e->stripe - 1) / e->stripe;
    u64 stripe = below(stripes / e->queues ? stripes / e->queues : 1) * e->queues + queue;
    if (stripe >= stripes)
        stripe = queue % stripes;
    u64 first = stripe * e->stripe, end = MIN(first + e->stripe, e->sectors);
    s->first = first + below(end - first);
    s->count = 1 + below(MIN(end - s->first, MIN(most, (u64)MAX_REQUEST / SECTOR)));
    if (below(3) == 0) { /* whole clusters like to be tried */
        u64 cluster = e->setup->create.cluster_size / SECTOR;
        u64 a = ALIGN_DOWN(s->first, cluster);
        if (a >= first && a + cluster <= end && cluster <= MAX_REQUEST / SECTOR) {
            s->first = a;
            s->count = cluster;
        }
    }
}

static enum block_op choose_op(void)
{
    u64 d = below(100);
    return d < 50 ? BLOCK_WRITE : d < 75 ? BLOCK_READ : d < 88 ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
}

static void start_op(struct engine *e, unsigned queue)
{
    struct slot *s = &e->slot[queue];
    enum block_op op = choose_op();
    choose_range(e, queue, s, below(5) ? 64 : MAX_REQUEST / SECTOR);
    s->r = (struct block_request){
        .op = op, .offset = s->first * SECTOR, .len = s->count * SECTOR, .unmap = below(2), .done = on_done};
    s->version = op == BLOCK_WRITE ? ++model->version : 0;
    set_iov(s);
    for (u64 i = 0; i < s->count; i++) {
        struct sector *m = &model->s[s->first + i];
        if (op == BLOCK_WRITE) {
            fill(s->buf + i * SECTOR, s->first + i, s->version);
            m->issued = s->version;
        }
        m->zero_issued |= op == BLOCK_WRITE_ZEROES;
        m->discard_issued |= op == BLOCK_DISCARD;
    }
    s->busy = true;
    block_submit(e->disk, &s->r);
}

static int do_flush(struct engine *e)
{
    struct slot *s = &e->slot[0];
    wait_all(e);
    s->r = (struct block_request){.op = BLOCK_FLUSH, .done = on_done};
    s->busy = true;
    block_submit(e->disk, &s->r);
    block_drain(e->disk);
    s->r.done = NULL;
    if (s->result < 0) {
        if (!e->may_fail)
            die("%s: flush failed: %s", e->setup->path, strerror(-s->result));
        e->failed = true;
        e->enospc += s->result == -ENOSPC || s->result == -EFBIG;
        return s->result;
    }
    for (u64 i = 0; i < e->sectors; i++) {
        struct sector *m = &model->s[i];
        m->flushed = m->done;
        m->zero_issued = false;
        m->discard_issued = m->unknown;
    }
    return 0;
}

static void run_ops(struct engine *e, u64 ops)
{
    for (u64 n = 0; n < ops; n++) {
        unsigned queue = (unsigned)below(e->queues);
        if (power.armed && power.off)
            break;
        wait_for(e, &e->slot[queue]);
        if (below(30) == 0)
            (void)do_flush(e);
        start_op(e, queue);
    }
    wait_all(e);
}

static void engine_open(struct engine *e, const struct setup *s, unsigned queues)
{
    struct block_options o = {.format = BLOCK_FORMAT_QCOW2, .cache = s->cache, .aio = s->aio};
    struct error err;
    *e = (struct engine){.setup = s, .queues = queues};
    e->disk = block_open(s->path, &o, &err);
    if (!e->disk)
        die("%s", err.text);
    e->sectors = e->disk->size / SECTOR;
    e->stripe = queues == 1 ? e->sectors : 1 + below(MIN(400ull, e->sectors / queues));
    for (unsigned i = 0; i < queues; i++)
        if (posix_memalign((void **)&e->slot[i].buf, 4096, MAX_REQUEST))
            die("out of memory");
}

static void engine_close(struct engine *e)
{
    block_close(e->disk);
    for (unsigned i = 0; i < e->queues; i++)
        free(e->slot[i].buf);
}

/* --- images --- */

static void make_base(struct setup *s)
{
    u8 buf[SECTOR];
    int fd = open(s->base, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)s->base_size) < 0)
        die("cannot make %s", s->base);
    for (u64 i = 0; i < s->base_size / SECTOR; i++) {
        below_fill(s, buf, i);
        if (!is_zero(buf) && pwrite(fd, buf, SECTOR, (off_t)(i * SECTOR)) != SECTOR)
            die("cannot write %s", s->base);
    }
    (void)close(fd);
}

static bool direct_works(const char *dir)
{
    int fd = open(dir, O_RDWR | O_TMPFILE | O_DIRECT | O_CLOEXEC, 0600);
    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

static void choose_setup(struct setup *s, const char *dir, bool cut_later)
{
    static const unsigned bits[] = {9, 10, 12, 14, 16, 16, 16, 17, 21};
    (void)snprintf(s->path, sizeof s->path, "%s/top.qcow2", dir);
    (void)snprintf(s->base, sizeof s->base, "%s/base.raw", dir);
    unsigned cluster_bits = bits[below(ARRAY_SIZE(bits))];
    s->create = (struct qcow2_create){
        .cluster_size = BIT(cluster_bits),
        .size = (1 + below(cluster_bits < 12 ? 6 : 22)) * (1u << 20) + below(2) * SECTOR * below(1000),
        .version = below(5) == 0 ? 2 : 3,
        .refcount_bits = 16,
    };
    if (s->create.version == 3) {
        s->create.refcount_bits = 1u << below(7);
        s->create.lazy_refcounts = below(4) == 0;
    }
    s->cache = !cut_later && below(3) == 0 && direct_works(dir) ? BLOCK_CACHE_NONE : BLOCK_CACHE_WRITEBACK;
    s->aio =
        cut_later || below(2) ? BLOCK_AIO_THREADS : BLOCK_AIO_AUTO; /* writes by io_uring cannot be cut */
    s->base_size = below(2) ? ALIGN_DOWN(below(s->create.size * 5 / 4) + 1, (u64)SECTOR) : 0;
    if (s->base_size) {
        make_base(s);
        s->create.backing = "base.raw";
        s->create.backing_format = "raw";
    }
}

static void describe(const struct setup *s, u64 seed)
{
    printf("seed %llu: v%u cluster %llu refcount %u%s size %llu base %llu\n", (unsigned long long)seed,
           s->create.version, (unsigned long long)s->create.cluster_size, s->create.refcount_bits,
           s->create.lazy_refcounts ? " lazy" : "", (unsigned long long)s->create.size,
           (unsigned long long)s->base_size);
    (void)fflush(stdout);
}

static int shell(const char *fmt, ...) PRINTF_LIKE(1, 2);
static int shell(const char *fmt, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void print_finding(void *owner, const char *text)
{
    (void)owner;
    (void)fprintf(stderr, "  %s\n", text);
}

/* The image, closed, is sound in the eyes of qemu-img and our own; leaks are all right when @leaks. */
static void check_sound(const struct setup *s, bool leaks, bool lazy)
{
    struct block_options o = {
        .format = BLOCK_FORMAT_QCOW2, .read_only = true, .synchronous = true, .damaged_ok = true};
    struct qcow2_check c = {.report = leaks ? NULL : print_finding};
    struct error err;
    struct block_device *b = block_open(s->path, &o, &err);
    if (!b || qcow2_check(b, QCOW2_REPAIR_NONE, &c, &err) < 0)
        die("%s: %s", s->path, err.text);
    block_close(b);
    if ((c.corruptions && !lazy) || (c.leaks && !leaks && !lazy))
        die("%s: %llu corruptions, %llu leaks", s->path, (unsigned long long)c.corruptions,
            (unsigned long long)c.leaks);
    if (lazy)
        return;
    int status = shell("qemu-img check -f qcow2 %s >%s.check 2>&1", s->path, s->path);
    if (status != 0 && !(status == 3 && leaks)) {
        (void)shell("tail -5 %s.check >&2", s->path);
        die("%s: qemu-img check: status %d", s->path, status);
    }
}

static void repair(const struct setup *s)
{
    struct block_options o = {.format = BLOCK_FORMAT_QCOW2, .synchronous = true, .damaged_ok = true};
    struct qcow2_check c = {.report = NULL};
    struct error err;
    if (below(2)) {
        int status = shell("qemu-img check -q -r all -f qcow2 %s >/dev/null 2>&1", s->path);
        if (status != 0)
            die("%s: qemu-img cannot repair it: %d", s->path, status);
        return;
    }
    struct block_device *b = block_open(s->path, &o, &err);
    if (!b || qcow2_check(b, QCOW2_REPAIR_ALL, &c, &err) < 0)
        die("%s: %s", s->path, err.text);
    block_close(b);
}

/* All that is on the disk, as read by us and, converted to raw, by qemu-img. */
static void read_all(const struct setup *s, u8 *ours, u8 *theirs)
{
    struct block_options o = {.format = BLOCK_FORMAT_QCOW2, .read_only = true, .synchronous = true};
    struct error err;
    char raw[300];
    struct block_device *b = block_open(s->path, &o, &err);
    if (!b)
        die("%s", err.text);
    u64 size = b->size;
    if (block_read(b, 0, ours, size) < 0)
        die("%s: cannot read it", s->path);
    block_close(b);
    (void)snprintf(raw, sizeof raw, "%s.raw", s->path);
    if (shell("qemu-img convert -f qcow2 -O raw %s %s", s->path, raw))
        die("%s: qemu-img cannot read it", s->path);
    int fd = open(raw, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, theirs, size, 0) != (ssize_t)size)
        die("%s: short", raw);
    (void)close(fd);
    if (memcmp(ours, theirs, size))
        die("%s: qemu-img reads something else", s->path);
}

static void check_exact(const struct setup *s, const u8 *data, u64 sectors)
{
    u8 b[SECTOR];
    for (u64 i = 0; i < sectors; i++) {
        const struct sector *m = &model->s[i];
        u64 v = version_in(data + i * SECTOR, i), want = m->done;
        below_fill(s, b, i);
        if (want == 0)
            want = version_in(b, i);
        if (want == ~0ull)
            want = 0;
        if (v != want && !(m->unknown && (v == 0 || v == version_in(b, i))))
            die("%s: sector %llu holds version %lld, expected %lld", s->path, (unsigned long long)i,
                (long long)v, (long long)want);
    }
}

/* After a cut. */
static void check_flushed(const struct setup *s, const u8 *data, u64 sectors)
{
    u8 b[SECTOR];
    for (u64 i = 0; i < sectors; i++) {
        const struct sector *m = &model->s[i];
        u64 v = version_in(data + i * SECTOR, i), was = m->flushed;
        below_fill(s, b, i);
        u64 base = version_in(b, i);
        if (was == 0)
            was = base;
        if (was == ~0ull)
            was = 0;
        bool newer = v != ~0ull && v > was && v <= m->issued;
        bool emptied = (v == 0 || v == base) && (m->zero_issued || m->discard_issued || m->unknown);
        if (v != was && !newer && !emptied)
            die("%s: sector %llu holds version %lld; %lld was flushed, %llu begun", s->path,
                (unsigned long long)i, (long long)v, (long long)was, (unsigned long long)m->issued);
    }
}

/* --- rounds --- */

static u8 *ours, *theirs;

static void begin_round(struct setup *s, const char *dir, u64 seed, bool cut_later)
{
    struct error err;
    rng_state = seed;
    memset(model, 0, sizeof *model);
    model->version = 1;
    choose_setup(s, dir, cut_later);
    describe(s, seed);
    (void)unlink(s->path);
    if (qcow2_create(s->path, &s->create, &err) < 0)
        die("%s", err.text);
}

/* Opened several times, with snapshots in between that must keep what they hold. */
static void round_run(struct setup *s, unsigned queues, u64 ops)
{
    struct engine e;
    struct error err;
    struct block_options o = {.format = BLOCK_FORMAT_QCOW2, .synchronous = true};
    struct model *saved = malloc(sizeof *saved);
    bool have = false;
    for (unsigned part = 0; part < 4; part++) {
        engine_open(&e, s, queues);
        run_ops(&e, ops / 4);
        u64 sectors = e.sectors;
        engine_close(&e);
        check_sound(s, false, false);
        read_all(s, ours, theirs);
        check_exact(s, ours, sectors);
        for (u64 i = 0; i < sectors; i++) { /* what a discard left is known now */
            if (model->s[i].unknown) {
                u64 v = version_in(ours + i * SECTOR, i);
                model->s[i].done = v ? v : ~0ull;
                model->s[i].unknown = false;
            }
        }
        if (s->create.refcount_bits < 4)
            continue;
        struct block_device *b = block_open(s->path, &o, &err);
        if (!b)
            die("%s", err.text);
        int ret = 0;
        if (!have) {
            ret = qcow2_snapshot_create(b, "one", &err);
            *saved = *model;
            have = true;
        } else if (below(2)) {
            ret = qcow2_snapshot_apply(b, "one", &err);
            u64 version = model->version;
            *model = *saved;
            model->version = version;
        } else {
            ret = qcow2_snapshot_delete(b, "one", &err);
            have = false;
        }
        if (ret < 0)
            die("%s", err.text);
        block_close(b);
        check_sound(s, false, false);
        read_all(s, ours, theirs);
        check_exact(s, ours, sectors);
    }
    free(saved);
}

/* The image after it was cut short: sound but for leaks, and after a repair without these. */
static void after_cut(struct setup *s)
{
    u64 sectors = s->create.size / SECTOR;
    check_sound(s, true, s->create.lazy_refcounts);
    repair(s);
    check_sound(s, false, false);
    read_all(s, ours, theirs);
    check_flushed(s, ours, sectors);
}

static void round_power(struct setup *s, unsigned queues, u64 ops)
{
    struct engine e;
    engine_open(&e, s, queues);
    e.may_fail = true;
    power.calls_left = below(ops * 2);
    power.off = power.kill = false;
    power.armed = true;
    run_ops(&e, ops);
    if (!power.off) { /* it lasted: cut it now */
        power.calls_left = 0;
        (void)do_flush(&e);
    }
    engine_close(&e);
    power.armed = false;
    after_cut(s);
}

/* Killed by its own hand at some write, or by ours at some instant. */
static void round_kill(struct setup *s, unsigned queues, u64 ops)
{
    u64 at = below(ops * 2), delay = below(60000);
    bool self = below(2);
    pid_t pid = fork();
    if (pid == 0) {
        struct engine e;
        engine_open(&e, s, queues);
        power.calls_left = self ? at : ~0ull;
        power.kill = power.armed = true;
        for (;;)
            run_ops(&e, ops);
    }
    if (!self) {
        usleep((useconds_t)delay);
        (void)kill(pid, SIGKILL);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        die("%s: the writer ended by itself: %x", s->path, status);
    after_cut(s);
}

static void round_full(struct setup *s, unsigned queues, u64 ops)
{
    struct engine e;
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur =
        ALIGN_DOWN(s->create.size / (2 + below(6)) + 5 * s->create.cluster_size + (256u << 10), 4096ull);
    engine_open(&e, s, queues);
    e.may_fail = true;
    setrlimit(RLIMIT_FSIZE, &limit);
    run_ops(&e, ops);
    setrlimit(RLIMIT_FSIZE, &old);
    /* There is room again: nothing that was acknowledged may be lost. */
    if (do_flush(&e) < 0)
        die("%s: flush fails though there is room", s->path);
    u64 failed = e.enospc, sectors = e.sectors;
    engine_close(&e);
    check_sound(s, true, false);
    read_all(s, ours, theirs);
    check_flushed(s, ours, sectors);
    printf("  %llu operations found the disk full\n", (unsigned long long)failed);
}

int main(int argc, char **argv)
{
    const char *mode = "run", *dir = "/tmp/trapeze-stress";
    u64 rounds = 10, ops = 600, seed = 1, queues = 0;
    struct setup s;
    for (int i = 1; i + 1 < argc; i += 2) {
        u64 *number = !strcmp(argv[i], "--rounds")   ? &rounds
                      : !strcmp(argv[i], "--ops")    ? &ops
                      : !strcmp(argv[i], "--seed")   ? &seed
                      : !strcmp(argv[i], "--queues") ? &queues
                                                     : NULL;
        if (number && parse_u64(argv[i + 1], number) == 0)
            continue;
        if (!strcmp(argv[i], "--mode"))
            mode = argv[i + 1];
        else if (!strcmp(argv[i], "--dir"))
            dir = argv[i + 1];
        else
            die("unknown option %s", argv[i]);
    }
    (void)mkdir(dir, 0700);
    signal(SIGXFSZ, SIG_IGN);
    log_set_level(LOG_ERROR);
    model = mmap(NULL, sizeof *model, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ours = malloc(DISK_MAX);
    theirs = malloc(DISK_MAX);
    if (model == MAP_FAILED || !ours || !theirs)
        die("out of memory");
    for (u64 r = 0; r < rounds; r++) {
        begin_round(&s, dir, seed + r, strcmp(mode, "run") != 0);
        unsigned q =
            queues ? (unsigned)MIN(queues, (u64)MAX_QUEUES) : 1 + (unsigned)(r % 2) * (MAX_QUEUES - 1);
        if (!strcmp(mode, "run"))
            round_run(&s, q, ops);
        else if (!strcmp(mode, "power"))
            round_power(&s, q, ops);
        else if (!strcmp(mode, "kill"))
            round_kill(&s, q, ops);
        else if (!strcmp(mode, "full"))
            round_full(&s, q, ops);
        else
            die("unknown mode %s", mode);
    }
    printf("%llu rounds passed\n", (unsigned long long)rounds);
    return 0;
}
