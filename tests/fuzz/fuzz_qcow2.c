/*
 * Any bytes as a qcow2 image: opened, read, written, checked, repaired. The first byte picks what is done,
 * the rest is the file. It does not get larger than FILE_BOUND, so that the largest allocation at once is
 * that of an L1 table: 32 MiB (docs/block.md), which -malloc_limit_mb=40 holds it to. The backing file is
 * left alone.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "backend/block/qcow2.h"
#include "base/log.h"

#define FILE_BOUND (32u << 20)
#define PART (256u << 10)
#define STEPS 64

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Parts of the disk: the beginning, the end, and some between. */
static u64 part(const struct block_device *b, unsigned step, u64 *len)
{
    u64 at = step == 0 ? 0 : step == 1 ? b->size : b->size / STEPS * step;
    *len = MIN(b->size, (u64)PART);
    return ALIGN_DOWN(MIN(at, b->size - *len), (u64)BLOCK_SECTOR);
}

static void read_it(struct block_device *b, u8 *buf)
{
    struct block_extent e;
    u64 len;
    for (unsigned i = 0; i < STEPS; i++) {
        u64 at = part(b, i, &len);
        (void)block_read(b, at, buf, len);
        if (len)
            (void)block_extent(b, at, len, &e);
    }
}

static void write_it(struct block_device *b, u8 *buf)
{
    u64 len;
    for (unsigned i = 0; i < STEPS; i++) {
        u64 at = part(b, i, &len);
        struct block_request discard = {.op = BLOCK_DISCARD, .offset = at, .len = len};
        if (i % 4 == 0)
            (void)block_write_zeroes(b, at, len, i & 8);
        else if (i % 4 == 1)
            (void)b->ops->execute(b, &discard);
        else
            (void)block_write(b, at, buf, MIN(len, (u64)8192));
        if (i % 16 == 0)
            (void)block_flush(b);
    }
}

static void manage(struct block_device *b, u8 what)
{
    struct qcow2_check check = {.report = NULL};
    const struct qcow2_snapshot *s;
    unsigned count;
    if (what & 4)
        (void)qcow2_check(b, what & 8 ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_NONE, &check, NULL);
    if (what & 16)
        (void)qcow2_snapshot_create(b, "new", NULL);
    s = qcow2_snapshots(b, &count);
    if (what & 32 && count)
        (void)qcow2_snapshot_apply(b, s->name, NULL);
    s = qcow2_snapshots(b, &count);
    if (what & 64 && count)
        (void)qcow2_snapshot_delete(b, s->name, NULL);
    if (what & 128)
        (void)block_resize(b, b->size / 2, NULL);
}

static void limit_files(void)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    log_set_level(LOG_ERROR);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = FILE_BOUND;
    setrlimit(RLIMIT_FSIZE, &limit);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static u8 buf[PART];
    struct block_options o = {.format = BLOCK_FORMAT_QCOW2, .synchronous = true, .no_backing = true};
    char path[32];
    if (size < 2)
        return 0;
    int fd = memfd_create("image", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    limit_files();
    if (write(fd, data + 1, size - 1) == (ssize_t)size - 1) {
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        o.read_only = data[0] & 1;
        o.damaged_ok = data[0] & 2;
        struct block_device *b = block_open(path, &o, NULL);
        if (b) {
            read_it(b, buf);
            if (!o.read_only)
                write_it(b, buf);
            manage(b, data[0]);
            read_it(b, buf);
            block_close(b);
        }
    }
    (void)close(fd);
    return 0;
}
