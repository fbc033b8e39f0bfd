#include "virtio/blk.h"

#include <errno.h>

#include "base/iov.h"
#include "base/log.h"

/* Feature bits (5.2.3). */
enum {
    F_SEG_MAX = 2,
    F_RO = 5,
    F_BLK_SIZE = 6,
    F_FLUSH = 9,
    F_TOPOLOGY = 10,
    F_CONFIG_WCE = 11,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,
};

/* Request types and status (5.2.6). */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

/* struct virtio_blk_config (5.2.4) */
enum {
    CONFIG_CAPACITY = 0,
    CONFIG_SEG_MAX = 12,
    CONFIG_BLK_SIZE = 20,
    CONFIG_PHYSICAL_EXP = 24,
    CONFIG_MIN_IO = 26,
    CONFIG_WRITEBACK = 32,
    CONFIG_NUM_QUEUES = 34,
    CONFIG_MAX_DISCARD_SECTORS = 36,
    CONFIG_MAX_DISCARD_SEG = 40,
    CONFIG_DISCARD_ALIGNMENT = 44,
    CONFIG_MAX_ZEROES_SECTORS = 48,
    CONFIG_MAX_ZEROES_SEG = 52,
    CONFIG_ZEROES_MAY_UNMAP = 56,
    CONFIG_SIZE = 60,
};

#define HEADER_SIZE 16
#define RANGE_SIZE 16 /* struct virtio_blk_discard_write_zeroes */
#define RANGE_UNMAP 1
#define MAX_RANGE_SECTORS (1u << 21) /* 1 GiB a request, so that one does not take a thread for long */
#define PHYSICAL_EXP 3               /* 4 KiB: a page of the host's cache */
#define CLASS_STORAGE 0x018000

struct blk_request {
    struct block_request io;
    struct completion completion; /* its link: in blk->free too */
    struct virtio_blk *blk;
    bool flush_after; /* write-through, not flushed yet */
    struct virtq_chain chain;
};

static struct virtio_blk *from_vdev(struct virtio_device *vdev)
{
    return container_of(vdev, struct virtio_blk, vdev);
}

/* --- requests --- */

static struct blk_request *request_get(struct virtio_blk *b)
{
    struct blk_request *req;
    if (!list_empty(&b->free)) {
        req = list_entry(b->free.next, struct blk_request, completion.link);
        list_remove(&req->completion.link);
        return req;
    }
    req = malloc(sizeof *req);
    if (req)
        req->blk = b;
    return req;
}

static void request_put(struct blk_request *req)
{
    list_push_front(&req->blk->free, &req->completion.link);
}

static struct virtqueue *queue_of(const struct blk_request *req)
{
    return &req->blk->vdev.queue[req->completion.queue];
}

/* Ends a request: its status is the last writable byte, wherever the driver cut its buffers (2.7.4.1). */
static void finish(struct blk_request *req, u8 status)
{
    struct virtio_blk *b = req->blk;
    struct virtq_chain *chain = &req->chain;
    unsigned last = chain->out + chain->in - 1;
    u8 *end = memory_span(b->vdev.memory, chain->gpa[last], chain->len[last]);
    if (end && !b->vdev.resetting)
        end[chain->len[last] - 1] = status;
    virtqueue_push(queue_of(req), chain, chain->in_bytes);
    b->completions.in_flight--;
    request_put(req);
}

static u8 status_of(int result)
{
    return result == 0 ? S_OK : result == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
}

static void request_collected(struct completions *cs, struct completion *c)
{
    (void)cs;
    finish(container_of(c, struct blk_request, completion), status_of(c->result));
}

/* Any thread; the machine lock is held only if it is that of our own block_submit(). */
static void request_done(struct block_request *io, int result)
{
    struct blk_request *req = container_of(io, struct blk_request, io);
    struct virtio_blk *b = req->blk;
    if (result == 0 && req->flush_after) {
        req->flush_after = false;
        io->op = BLOCK_FLUSH;
        block_submit(b->backend, io);
        return;
    }
    completion_done(&b->completions, &req->completion, result);
}

static void submit(struct blk_request *req, enum block_op op, u64 offset, u64 len)
{
    struct virtio_blk *b = req->blk;
    req->io.op = op;
    req->io.offset = offset;
    req->io.len = len;
    req->io.done = request_done;
    req->flush_after = b->write_through && (op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES);
    completions_submitted(&b->completions);
    block_submit(b->backend, &req->io);
}

static bool range_ok(const struct virtio_blk *b, u64 sector, u64 bytes)
{
    u64 offset, end;
    return bytes % BLOCK_SECTOR == 0 && !__builtin_mul_overflow(sector, BLOCK_SECTOR, &offset) &&
           !__builtin_add_overflow(offset, bytes, &end) && end <= b->backend->size;
}

/* Each of the following submits the request and returns -1, or returns its status. */

static int do_read(struct blk_request *req, u64 sector)
{
    struct virtq_chain *chain = &req->chain;
    struct iovec *iov = chain->iov + chain->out;
    u64 bytes = chain->in_bytes - 1;
    if (!range_ok(req->blk, sector, bytes))
        return S_IOERR;
    if (bytes == 0)
        return S_OK;
    req->io.iov = iov;
    req->io.iovcnt = chain->in;
    if (--iov[chain->in - 1].iov_len == 0)
        req->io.iovcnt--;
    submit(req, BLOCK_READ, sector * BLOCK_SECTOR, bytes);
    return -1;
}

static int do_write(struct blk_request *req, u64 sector)
{
    struct virtq_chain *chain = &req->chain;
    struct iovec *iov = chain->iov;
    unsigned count = chain->out;
    u64 bytes = chain->out_bytes - HEADER_SIZE;
    if (req->blk->backend->read_only || !range_ok(req->blk, sector, bytes))
        return S_IOERR;
    if (bytes == 0)
        return S_OK;
    iov_trim_front(&iov, &count, HEADER_SIZE);
    req->io.iov = iov;
    req->io.iovcnt = count;
    submit(req, BLOCK_WRITE, sector * BLOCK_SECTOR, bytes);
    return -1;
}

/* One range, since max_discard_seg and max_write_zeroes_seg are 1. Unknown flags: UNSUPP (5.2.6.2). */
static int do_range(struct blk_request *req, u32 type)
{
    struct virtio_blk *b = req->blk;
    u8 raw[RANGE_SIZE];
    if (!virtio_has(&b->vdev, type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES))
        return S_UNSUPP;
    if (req->chain.out_bytes != HEADER_SIZE + RANGE_SIZE)
        return S_IOERR;
    iov_read(req->chain.iov, req->chain.out, HEADER_SIZE, raw, sizeof raw);
    u64 sector = get_le64(raw);
    u32 sectors = get_le32(raw + 8), flags = get_le32(raw + 12);
    if (flags & ~(type == T_DISCARD ? 0u : RANGE_UNMAP))
        return S_UNSUPP;
    u64 bytes = (u64)sectors * BLOCK_SECTOR;
    if (b->backend->read_only || sectors > MAX_RANGE_SECTORS || !range_ok(b, sector, bytes))
        return S_IOERR;
    if (bytes == 0)
        return S_OK;
    req->io.unmap = flags & RANGE_UNMAP;
    submit(req, type == T_DISCARD ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES, sector * BLOCK_SECTOR, bytes);
    return -1;
}

static int do_get_id(struct blk_request *req)
{
    struct virtq_chain *chain = &req->chain;
    u64 room = MIN(chain->in_bytes - 1, (u64)VIRTIO_BLK_ID_BYTES);
    iov_write(chain->iov + chain->out, chain->in, 0, req->blk->serial, (size_t)room);
    return S_OK;
}

static int dispatch(struct blk_request *req)
{
    u8 header[HEADER_SIZE];
    iov_read(req->chain.iov, req->chain.out, 0, header, sizeof header);
    u32 type = get_le32(header);
    u64 sector = get_le64(header + 8);
    trace(virtio, "%s: request type %u sector %llu, %llu bytes out, %llu in", req->blk->vdev.name, type,
          (unsigned long long)sector, (unsigned long long)req->chain.out_bytes,
          (unsigned long long)req->chain.in_bytes);
    switch (type) {
    case T_IN: return do_read(req, sector);
    case T_OUT: return do_write(req, sector);
    case T_FLUSH: submit(req, BLOCK_FLUSH, 0, 0); return -1;
    case T_GET_ID: return do_get_id(req);
    case T_DISCARD:
    case T_WRITE_ZEROES: return do_range(req, type);
    default: return S_UNSUPP;
    }
}

static void start(struct blk_request *req)
{
    req->blk->completions.in_flight++;
    int status = dispatch(req);
    if (status >= 0)
        finish(req, (u8)status);
}

static void blk_kick(struct virtio_device *vdev, unsigned queue)
{
    struct virtio_blk *b = from_vdev(vdev);
    struct virtqueue *vq = &vdev->queue[queue];
    unsigned budget = vq->size;
    u64 bytes = 0;
    bool more = completions_begin(&b->completions);
    for (; budget && bytes < COMPLETIONS_BATCH; budget--) {
        struct blk_request *req = request_get(b);
        if (!req) {
            budget = 0;
            break;
        }
        req->completion.queue = queue;
        if (!virtqueue_pop(vq, &req->chain)) {
            request_put(req);
            break;
        }
        if (req->chain.out_bytes < HEADER_SIZE || req->chain.in_bytes < 1) {
            virtio_device_error(vdev, "queue %u: request without header or status", queue);
            virtqueue_push(vq, &req->chain, 0);
            request_put(req);
            break;
        }
        bytes += req->chain.out_bytes + req->chain.in_bytes;
        start(req);
    }
    completions_end(&b->completions, more);
    virtqueue_notify(vq);
    if (!budget || bytes >= COMPLETIONS_BATCH)
        virtio_kick_later(vdev, queue);
}

/* --- device --- */

/* Without FLUSH a driver counts on each write being durable; with CONFIG_WCE it chooses (5.2.5.2). */
static void update_cache_mode(struct virtio_blk *b)
{
    bool writeback = virtio_has(&b->vdev, F_FLUSH);
    if (virtio_has(&b->vdev, F_CONFIG_WCE))
        writeback = b->vdev.config[CONFIG_WRITEBACK];
    b->write_through = !writeback;
}

static void blk_features_ok(struct virtio_device *vdev)
{
    update_cache_mode(from_vdev(vdev));
}

static void blk_config_written(struct virtio_device *vdev, unsigned offset, unsigned size, u32 value)
{
    if (offset != CONFIG_WRITEBACK || size != 1 || !virtio_has(vdev, F_CONFIG_WCE))
        return;
    vdev->config[CONFIG_WRITEBACK] = value & 1;
    update_cache_mode(from_vdev(vdev));
}

static void blk_drain(struct virtio_device *vdev)
{
    completions_drain(&from_vdev(vdev)->completions);
}

static bool blk_reset(struct virtio_device *vdev)
{
    struct virtio_blk *b = from_vdev(vdev);
    vdev->config[CONFIG_WRITEBACK] = 1;
    b->write_through = false;
    return b->completions.in_flight == 0;
}

static const struct virtio_device_ops blk_ops = {
    .kick = blk_kick,
    .features_ok = blk_features_ok,
    .config_written = blk_config_written,
    .drain = blk_drain,
    .reset = blk_reset,
};

static int blk_post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_blk *b = object;
    (void)version, (void)err;
    b->vdev.config[CONFIG_WRITEBACK] = b->writeback;
    update_cache_mode(b);
    return 0;
}

static void blk_pre_save(void *object)
{
    struct virtio_blk *b = object;
    b->writeback = b->vdev.config[CONFIG_WRITEBACK];
}

static const struct field blk_fields[] = {
    FIELD_STRUCT(struct virtio_blk, vdev, virtio_device_state),
    FIELD_STRUCT(struct virtio_blk, pci, virtio_pci_state),
    FIELD(struct virtio_blk, writeback),
    FIELD_END,
};

static const struct state_desc blk_state = {
    .name = "virtio-blk",
    .version = 1,
    .fields = blk_fields,
    .pre_save = blk_pre_save,
    .post_load = blk_post_load,
};

static void fill_config(struct virtio_blk *b, unsigned queues)
{
    u8 *c = b->vdev.config;
    b->vdev.config_size = CONFIG_SIZE;
    put_le64(c + CONFIG_CAPACITY, b->backend->size / BLOCK_SECTOR);
    put_le32(c + CONFIG_SEG_MAX, VIRTQ_MAX_SEGMENTS - 2); /* header and status take one each */
    put_le32(c + CONFIG_BLK_SIZE, BLOCK_SECTOR);
    c[CONFIG_PHYSICAL_EXP] = PHYSICAL_EXP;
    put_le16(c + CONFIG_MIN_IO, 1 << PHYSICAL_EXP);
    c[CONFIG_WRITEBACK] = 1;
    put_le16(c + CONFIG_NUM_QUEUES, (u16)queues);
    put_le32(c + CONFIG_MAX_DISCARD_SECTORS, MAX_RANGE_SECTORS);
    put_le32(c + CONFIG_MAX_DISCARD_SEG, 1);
    put_le32(c + CONFIG_DISCARD_ALIGNMENT, MAX(b->backend->discard_unit / BLOCK_SECTOR, 1u << PHYSICAL_EXP));
    put_le32(c + CONFIG_MAX_ZEROES_SECTORS, MAX_RANGE_SECTORS);
    put_le32(c + CONFIG_MAX_ZEROES_SEG, 1);
    c[CONFIG_ZEROES_MAY_UNMAP] = b->backend->can_discard;
}

static u64 features(const struct block_device *backend, unsigned queues)
{
    u64 f = BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY) | BIT(F_CONFIG_WCE);
    if (queues > 1)
        f |= BIT(F_MQ);
    if (backend->read_only)
        return f | BIT(F_RO);
    if (backend->can_discard)
        f |= BIT(F_DISCARD);
    return f | BIT(F_WRITE_ZEROES);
}

int virtio_blk_init(struct virtio_blk *b, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct lock *machine_lock, struct block_device *backend,
                    const struct virtio_blk_config *config, struct error *err)
{
    unsigned queues = config->queues ? config->queues : 1;
    if (queues > VIRTIO_BLK_MAX_QUEUES)
        return error_set(err, EINVAL, "virtio-blk: %u queues, at most %u are possible", queues,
                         VIRTIO_BLK_MAX_QUEUES);
    b->backend = backend;
    b->write_through = false;
    list_init(&b->free);
    memset(b->serial, 0, sizeof b->serial);
    if (config->serial)
        memcpy(b->serial, config->serial, strnlen(config->serial, sizeof b->serial));

    virtio_device_init(&b->vdev, VIRTIO_BLK, "virtio-blk", &blk_ops, features(backend, queues), memory, loop);
    for (unsigned i = 0; i < queues; i++)
        virtio_add_queue(&b->vdev, VIRTIO_BLK_QUEUE_SIZE);
    fill_config(b, queues);
    int ret = virtio_pci_init(&b->pci, &b->vdev, bus, devfn, CLASS_STORAGE, &blk_state, b, err);
    if (ret < 0)
        return ret;
    completions_init(&b->completions, &b->vdev, machine_lock, request_collected);
    return 0;
}

void virtio_blk_release(struct virtio_blk *b)
{
    block_drain(b->backend);
    struct blk_request *req, *next;
    list_for_each_safe (req, next, &b->free, completion.link)
        free(req);
    completions_release(&b->completions);
    virtio_pci_release(&b->pci);
}
