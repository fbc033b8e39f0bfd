/*
 * The board's disks: images with the filters in front of them, the devices on virtio-blk and virtio-scsi,
 * their order at boot, and what happens when a filter holds a failed request. The machine is paused then, and
 * each second the request is tried again; when it has worked, because somebody made room for example, the
 * machine goes on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "machine/memory-map.h"
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
    for (unsigned i = 0; i < pc->disks_open; i++)
        waits |= block_policy_waits(pc->disk_backend[i]);
    lock_drop(&pc->vm.machine_lock);
    for (unsigned i = 0; waits && i < pc->disks_open; i++)
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

void pc_disks_quiet(struct pc *pc)
{
    timer_cancel(&pc->disk_retry);
    event_loop_unpost(pc->loop, &pc->disk_stop);
}

/* --- what is behind a disk --- */

static struct block_device *open_backend(struct pc *pc, const struct pc_disk *disk, struct error *err)
{
    const struct block_policy policy = {
        .read = disk->read_error, .write = disk->write_error, .stopped = stopped, .owner = pc};
    struct block_device *b = block_open(disk->path, &disk->options, err);
    u64 least = disk->cdrom ? 2048 : BLOCK_SECTOR;
    if (b && b->size < least) {
        error_set(err, EINVAL, "disk '%s' is %s", disk->path, b->size ? "too small" : "empty");
        block_close(b);
        return NULL;
    }
    if (b && (disk->limits.bytes || disk->limits.ops))
        b = block_throttle_open(b, &disk->limits, err);
    return b ? block_policy_open(b, &policy, err) : NULL;
}

static int backends_up(struct pc *pc, struct error *err)
{
    while (pc->disks_open < pc->config.disk_count) {
        unsigned i = pc->disks_open;
        pc->disk_backend[i] = open_backend(pc, &pc->config.disk[i], err);
        if (!pc->disk_backend[i])
            return -err->code;
        pc->disks_open++;
    }
    return 0;
}

/* --- devices --- */

static int scsi_up(struct pc *pc, struct error *err)
{
    unsigned queues = MIN(pc->config.cpus, (unsigned)VIRTIO_SCSI_MAX_QUEUES);
    int r = virtio_scsi_init(&pc->scsi, &pc->pci.bus, PCI_DEVFN(SLOT_SCSI, 0), &pc->memory, pc->loop,
                             &pc->vm.machine_lock, queues, err);
    if (r)
        return r;
    pc->has_scsi = true;
    list_push_back(&pc->devices, &pc->scsi.pci.function.dev.link);
    return 0;
}

/* Its target at the adapter has its number among all disks. */
static int scsi_disk_up(struct pc *pc, unsigned i, struct error *err)
{
    const struct pc_disk *disk = &pc->config.disk[i];
    int r = pc->has_scsi ? 0 : scsi_up(pc, err);
    if (!r)
        virtio_scsi_attach(&pc->scsi, i, disk->cdrom ? SCSI_CDROM : SCSI_DISK, pc->disk_backend[i],
                           disk->serial);
    return r;
}

static int blk_up(struct pc *pc, unsigned i, struct error *err)
{
    struct virtio_blk_config config = {.queues = MIN(pc->config.cpus, (unsigned)VIRTIO_BLK_MAX_QUEUES),
                                       .serial = pc->config.disk[i].serial};
    int r = virtio_blk_init(&pc->disk[i], &pc->pci.bus, PCI_DEVFN(SLOT_DISK_FIRST + i, 0), &pc->memory,
                            pc->loop, &pc->vm.machine_lock, pc->disk_backend[i], &config, err);
    if (!r)
        list_push_back(&pc->devices, &pc->disk[i].pci.function.dev.link);
    return r;
}

static int devices_up(struct pc *pc, struct error *err)
{
    int r = 0;
    while (!r && pc->disks_made < pc->config.disk_count) {
        unsigned i = pc->disks_made;
        r = pc->config.disk[i].bus == PC_BUS_SCSI ? scsi_disk_up(pc, i, err) : blk_up(pc, i, err);
        if (!r)
            pc->disks_made++;
    }
    return r;
}

void pc_disks_down(struct pc *pc)
{
    while (pc->disks_made) {
        unsigned i = --pc->disks_made;
        if (pc->config.disk[i].bus == PC_BUS_VIRTIO)
            virtio_blk_release(&pc->disk[i]);
    }
    if (pc->has_scsi)
        virtio_scsi_release(&pc->scsi);
    pc->has_scsi = false;
    while (pc->disks_open)
        block_close(pc->disk_backend[--pc->disks_open]);
}

int pc_disks_up(struct pc *pc, struct error *err)
{
    pc->disk_stop.call = stop;
    timer_init(&pc->disk_retry, pc->loop, NULL, retry);
    int r = backends_up(pc, err);
    if (!r)
        r = devices_up(pc, err);
    if (r)
        pc_disks_down(pc);
    return r;
}

/* --- what firmware boots --- */

/* OpenFirmware's path of a disk, as SeaBIOS looks for it (its src/boot.c). */
static int boot_path(const struct pc *pc, unsigned i, char *text, size_t size)
{
    if (pc->config.disk[i].bus == PC_BUS_SCSI)
        return snprintf(text, size, "/pci@i0cf8/scsi@%x/channel@0/disk@%x,0", SLOT_SCSI, i);
    return snprintf(text, size, "/pci@i0cf8/scsi@%x/disk@0,0", SLOT_DISK_FIRST + i);
}

void pc_boot_order(const struct pc *pc, char *text, size_t size)
{
    size_t at = 0;
    text[0] = 0;
    for (unsigned i = 0; i < pc->config.boot_count && size - at > 1; i++) {
        if (i)
            text[at++] = '\n';
        at += (size_t)boot_path(pc, pc->config.boot_order[i], text + at, size - at);
        BUG_ON(at >= size);
    }
}
