#include "virtio/rng.h"

#include <sys/random.h>

#include "base/log.h"

#define QUEUE_SIZE 64
#define CHUNK 256 /* getrandom() gives that many without ever being interrupted */
#define CLASS_OTHER 0x00ff00

/* Fills the start of the chain's writable part; the driver takes less than it asked for (5.4.6.1). */
static u64 fill(const struct virtq_chain *chain)
{
    u8 bytes[CHUNK];
    u64 done = 0, want = MIN(chain->in_bytes, (u64)VIRTIO_RNG_MAX_BYTES);
    while (done < want) {
        ssize_t n = getrandom(bytes, MIN(want - done, (u64)CHUNK), GRND_NONBLOCK);
        if (n <= 0)
            break;
        iov_write(chain->iov + chain->out, chain->in, done, bytes, (size_t)n);
        done += (u64)n;
    }
    return done;
}

static void rng_kick(struct virtio_device *vdev, unsigned queue)
{
    struct virtqueue *vq = &vdev->queue[queue];
    struct virtq_chain chain;
    unsigned budget = vq->size;
    while (budget && virtqueue_pop(vq, &chain)) {
        virtqueue_push(vq, &chain, fill(&chain));
        budget--;
    }
    virtqueue_notify(vq);
    if (!budget)
        virtio_kick_later(vdev, queue);
}

static const struct virtio_device_ops rng_ops = {.kick = rng_kick};

static const struct field rng_fields[] = {
    FIELD_STRUCT(struct virtio_rng, vdev, virtio_device_state),
    FIELD_STRUCT(struct virtio_rng, pci, virtio_pci_state),
    FIELD_END,
};

static const struct state_desc rng_state = {.name = "virtio-rng", .version = 1, .fields = rng_fields};

int virtio_rng_init(struct virtio_rng *r, struct pci_bus *bus, u8 devfn, struct memory *memory,
                    struct event_loop *loop, struct error *err)
{
    virtio_device_init(&r->vdev, VIRTIO_RNG, "virtio-rng", &rng_ops, 0, memory, loop);
    virtio_add_queue(&r->vdev, QUEUE_SIZE);
    return virtio_pci_init(&r->pci, &r->vdev, bus, devfn, CLASS_OTHER, &rng_state, r, err);
}

void virtio_rng_release(struct virtio_rng *r)
{
    virtio_pci_release(&r->pci);
}
