/*
 * The host's side of the board's disks: the filters in front of an image, and what happens when one of
 * them holds a failed request. The machine is paused then, and each second the request is tried again;
 * when it has worked, because somebody made room for example, the machine goes on.
 */
#include <errno.h>

#include "base/log.h"
#include "machine/pc-internal.h"

#define RETRY_NS NS_PER_SEC

static void stopped(void *owner, const char *path, int error)
{
    struct pc *pc = owner;
    log_warn("'%s': %s: the machine is paused until it works", path, strerror(error));
    event_loop_post(pc->loop, &pc->disk_stop);
}

/* On the loop's thread, which may wait for vCPUs without the lock. */
static void stop(struct deferred *d)
{
    struct pc *pc = container_of(d, struct pc, disk_stop);
    if (!pc->disk_stopped) {
        pc->disk_stopped = true;
        lock_drop(&pc->vm.machine_lock);
        vm_pause(&pc->vm);
        lock_acquire(&pc->vm.machine_lock);
    }
    timer_arm(&pc->disk_retry, clock_host_ns() + RETRY_NS);
}

static void retry(struct timer *t)
{
    struct pc *pc = container_of(t, struct pc, disk_retry);
    bool waits = false;
    for (unsigned i = 0; i < pc->disks_made; i++)
        waits |= block_policy_waits(pc->disk_backend[i]);
    lock_drop(&pc->vm.machine_lock);
    for (unsigned i = 0; waits && i < pc->disks_made; i++)
        block_policy_retry(pc->disk_backend[i]);
    if (!waits)
        vm_resume(&pc->vm);
    lock_acquire(&pc->vm.machine_lock);
    pc->disk_stopped = waits;
    if (waits)
        timer_arm(&pc->disk_retry, clock_host_ns() + RETRY_NS);
    else
        log_warn("the machine goes on");
}

void pc_disks_init(struct pc *pc)
{
    pc->disk_stop.call = stop;
    timer_init(&pc->disk_retry, pc->loop, NULL, retry);
}

void pc_disks_quiet(struct pc *pc)
{
    timer_cancel(&pc->disk_retry);
    event_loop_unpost(pc->loop, &pc->disk_stop);
}

struct block_device *pc_disk_open(struct pc *pc, const struct pc_disk *disk, struct error *err)
{
    const struct block_policy policy = {
        .read = disk->read_error, .write = disk->write_error, .stopped = stopped, .owner = pc};
    struct block_device *b = block_open(disk->path, &disk->options, err);
    if (b && b->size == 0) {
        block_close(b);
        error_set(err, EINVAL, "disk '%s' is empty", disk->path);
        return NULL;
    }
    if (b && (disk->limits.bytes || disk->limits.ops))
        b = block_throttle_open(b, &disk->limits, err);
    return b ? block_policy_open(b, &policy, err) : NULL;
}
