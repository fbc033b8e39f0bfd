#include "virtio/9p.h"

#include <errno.h>

#include "base/log.h"

#define F_MOUNT_TAG 0
#define MIN_REPLY 11 /* of an error */
#define CLASS_OTHER 0x00ff00

struct request {
    struct share_request share;
    struct completion completion; /* first in the list of free ones: by its link */
    struct virtio_9p *device;
    struct virtq_chain chain;
};

static struct virtio_9p *from_vdev(struct virtio_device *vdev)
{
    return container_of(vdev, struct virtio_9p, vdev);
}

/* --- requests --- */

static struct request *request_get(struct virtio_9p *p)
{
    struct request *req;
    if (!list_empty(&p->free)) {
        req = list_entry(p->free.next, struct request, completion.link);
        list_remove(&req->completion.link);
        return req;
    }
    req = malloc(sizeof *req);
    if (req)
        req->device = p;
    return req;
}

static void request_put(struct request *req)
{
    list_push_front(&req->device->free, &req->completion.link);
}

static void request_done(struct share_listener *l, struct share_request *r)
{
    struct virtio_9p *p = container_of(l, struct virtio_9p, listener);
    completion_enter(&p->completions, &container_of(r, struct request, share)->completion, 0);
}

static void requests_wake(struct share_listener *l)
{
    completions_wake(&container_of(l, struct virtio_9p, listener)->completions);
}

/* Under the machine lock. */
static void finish(struct completions *cs, struct completion *c)
{
    struct request *req = container_of(c, struct request, completion);
    struct virtio_9p *p = req->device;
    virtqueue_push(&p->vdev.queue[0], &req->chain, req->share.written);
    request_put(req);
    if (--cs->in_flight == 0 && p->vdev.resetting)
        share_reset(p->share);
}

static void start(struct request *req)
{
    struct virtq_chain *chain = &req->chain;
    struct completions *cs = &req->device->completions;
    req->share = (struct share_request){
        .out = chain->iov,
        .out_count = chain->out,
        .out_bytes = chain->out_bytes,
        .in = chain->iov + chain->out,
        .in_count = chain->in,
        .in_bytes = chain->in_bytes,
    };
    req->completion.queue = 0;
    cs->in_flight++;
    completions_submitted(cs);
    share_submit(req->device->share, &req->share);
}

static void p9_kick(struct virtio_device *vdev, unsigned queue)
{
    struct virtio_9p *p = from_vdev(vdev);
    struct virtqueue *vq = &vdev->queue[queue];
    unsigned budget = vq->size;
    bool more = completions_begin(&p->completions);
    for (; budget; budget--) {
        struct request *req = request_get(p);
        if (!req) {
            budget = 0;
            break;
        }
        if (!virtqueue_pop(vq, &req->chain)) {
            request_put(req);
            break;
        }
        if (req->chain.out_bytes < SHARE_MIN_MESSAGE || req->chain.in_bytes < MIN_REPLY) {
            virtio_device_error(vdev, "queue %u: no room for a message or a reply", queue);
            virtqueue_push(vq, &req->chain, 0);
            request_put(req);
            break;
        }
        start(req);
    }
    completions_end(&p->completions, more);
    virtqueue_notify(vq);
    if (!budget)
        virtio_kick_later(vdev, queue);
}

/* --- device --- */

static void p9_drain(struct virtio_device *vdev)
{
    completions_drain(&from_vdev(vdev)->completions);
}

static bool p9_reset(struct virtio_device *vdev)
{
    struct virtio_9p *p = from_vdev(vdev);
    if (p->completions.in_flight)
        return false;
    share_reset(p->share);
    return true;
}

static const struct virtio_device_ops p9_ops = {.kick = p9_kick, .drain = p9_drain, .reset = p9_reset};

int virtio_9p_can_save(struct virtio_9p *p, struct error *err)
{
    if (!share_mounted(p->share))
        return 0;
    return error_set(
        err, EBUSY,
        "the guest has the shared directory '%s' mounted, which cannot be saved: let it unmount it first",
        p->tag);
}

static void p9_pre_save(void *object)
{
    struct virtio_9p *p = object;
    p->mounted = share_mounted(p->share);
}

static int p9_post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_9p *p = object;
    (void)version, (void)err;
    share_reset(p->share);
    if (p->mounted)
        log_warn("the guest had the shared directory '%s' mounted and has to mount it anew", p->tag);
    return 0;
}

static const struct field p9_fields[] = {
    FIELD_STRUCT(struct virtio_9p, vdev, virtio_device_state),
    FIELD_STRUCT(struct virtio_9p, pci, virtio_pci_state),
    FIELD(struct virtio_9p, mounted),
    FIELD_END,
};

static const struct state_desc p9_state = {
    .name = "virtio-9p",
    .version = 1,
    .fields = p9_fields,
    .pre_save = p9_pre_save,
    .post_load = p9_post_load,
};

int virtio_9p_init(struct virtio_9p *p, struct pci_bus *bus, u8 devfn, struct memory *memory,
                   struct event_loop *loop, struct lock *machine_lock, struct share *share, const char *tag,
                   struct error *err)
{
    size_t len = strlen(tag);
    if (len == 0 || len > VIRTIO_9P_TAG_MAX)
        return error_set(err, EINVAL, "tag '%s' of a shared directory: it has 1 to %d bytes", tag,
                         VIRTIO_9P_TAG_MAX);
    memcpy(p->tag, tag, len + 1);
    p->share = share;
    p->listener = (struct share_listener){.done = request_done, .wake = requests_wake};
    list_init(&p->free);

    virtio_device_init(&p->vdev, VIRTIO_9P, "virtio-9p", &p9_ops, BIT(F_MOUNT_TAG), memory, loop);
    virtio_add_queue(&p->vdev, VIRTIO_9P_QUEUE_SIZE);
    put_le16(p->vdev.config, (u16)len);
    memcpy(p->vdev.config + 2, tag, len);
    p->vdev.config_size = (unsigned)len + 2;
    completions_init(&p->completions, &p->vdev, machine_lock, finish);
    share_set_listener(share, &p->listener);
    int r = virtio_pci_init(&p->pci, &p->vdev, bus, devfn, CLASS_OTHER, &p9_state, p, err);
    if (r < 0)
        completions_release(&p->completions);
    return r;
}

void virtio_9p_release(struct virtio_9p *p)
{
    struct request *req, *next;
    lock_acquire(p->completions.machine_lock);
    completions_drain(&p->completions);
    lock_drop(p->completions.machine_lock);
    share_quiesce(p->share);
    list_for_each_safe (req, next, &p->free, completion.link)
        free(req);
    completions_release(&p->completions);
    virtio_pci_release(&p->pci);
}
