#include "virtio/console.h"

#include "base/log.h"

enum { RX, TX };
enum { F_EMERG_WRITE = 2 };
enum { CONFIG_EMERG_WRITE = 8, CONFIG_SIZE = 12 }; /* struct virtio_console_config (5.3.4) */

#define QUEUE_SIZE 256
#define CLASS_COMMUNICATION 0x078000

static struct virtio_console *from_vdev(struct virtio_device *vdev)
{
    return container_of(vdev, struct virtio_console, vdev);
}

/* --- guest to host --- */

/* Writes on in the chain held; false when the chardev is full. */
static bool tx_write(struct virtio_console *c)
{
    u64 skip = c->tx_done;
    for (unsigned i = 0; i < c->tx.out; i++) {
        const struct iovec *iov = &c->tx.iov[i];
        while (skip < iov->iov_len) {
            size_t n = chardev_write(c->chardev, (const u8 *)iov->iov_base + skip, iov->iov_len - skip);
            if (n == 0)
                return false;
            skip += n;
            c->tx_done += (u32)n;
        }
        skip -= iov->iov_len;
    }
    return true;
}

static void tx_run(struct virtio_console *c)
{
    struct virtqueue *vq = &c->vdev.queue[TX];
    unsigned budget = vq->size;
    while (budget) {
        if (!c->tx_held)
            c->tx_held = virtqueue_pop(vq, &c->tx);
        if (!c->tx_held || !tx_write(c))
            break;
        virtqueue_push(vq, &c->tx, 0);
        c->tx_held = false;
        c->tx_done = 0;
        budget--;
    }
    virtqueue_notify(vq);
    if (!budget)
        virtio_kick_later(&c->vdev, TX);
}

static void on_writable(struct chardev_listener *l)
{
    tx_run(container_of(l, struct virtio_console, listener));
}

/* --- host to guest --- */

/* Takes a buffer if there is one, and tells the chardev how much may come. */
static void rx_arm(struct virtio_console *c)
{
    struct virtqueue *vq = &c->vdev.queue[RX];
    unsigned budget = vq->size;
    while (!c->rx_held && budget-- && virtqueue_pop(vq, &c->rx)) {
        if (c->rx.in_bytes)
            c->rx_held = true;
        else
            virtqueue_push(vq, &c->rx, 0); /* of no use for input */
    }
    chardev_set_room(c->chardev, c->rx_held ? c->rx.in_bytes : 0);
}

static void on_receive(struct chardev_listener *l, const u8 *data, size_t len)
{
    struct virtio_console *c = container_of(l, struct virtio_console, listener);
    struct virtqueue *vq = &c->vdev.queue[RX];
    BUG_ON(!c->rx_held || len > c->rx.in_bytes);
    iov_write(c->rx.iov + c->rx.out, c->rx.in, 0, data, len);
    virtqueue_push(vq, &c->rx, len);
    c->rx_held = false;
    rx_arm(c);
    virtqueue_notify(vq);
}

/* --- device --- */

static void console_kick(struct virtio_device *vdev, unsigned queue)
{
    struct virtio_console *c = from_vdev(vdev);
    if (queue == TX) {
        tx_run(c);
    } else {
        rx_arm(c);
        virtqueue_notify(&vdev->queue[RX]);
    }
}

static void console_config_written(struct virtio_device *vdev, unsigned offset, unsigned size, u32 value)
{
    (void)size;
    u8 byte = (u8)value;
    if (offset == CONFIG_EMERG_WRITE)
        chardev_write(from_vdev(vdev)->chardev, &byte, 1); /* best effort (5.3.5.1) */
}

/* Chains held go back to their rings: what is saved is a ring position and tx_done. */
static void console_drain(struct virtio_device *vdev)
{
    struct virtio_console *c = from_vdev(vdev);
    if (c->rx_held)
        virtqueue_unpop(&vdev->queue[RX], &c->rx);
    if (c->tx_held)
        virtqueue_unpop(&vdev->queue[TX], &c->tx);
    c->rx_held = c->tx_held = false;
    chardev_set_room(c->chardev, 0);
    virtio_kick_later(vdev, RX);
    virtio_kick_later(vdev, TX);
}

static bool console_reset(struct virtio_device *vdev)
{
    struct virtio_console *c = from_vdev(vdev);
    c->rx_held = c->tx_held = false;
    c->tx_done = 0;
    chardev_set_room(c->chardev, 0);
    return true;
}

static const struct virtio_device_ops console_ops = {
    .kick = console_kick,
    .config_written = console_config_written,
    .drain = console_drain,
    .reset = console_reset,
};

static int console_post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_console *c = object;
    (void)version, (void)err;
    c->rx_held = c->tx_held = false;
    return 0;
}

static const struct field console_fields[] = {
    FIELD_STRUCT(struct virtio_console, vdev, virtio_device_state),
    FIELD_STRUCT(struct virtio_console, pci, virtio_pci_state),
    FIELD(struct virtio_console, tx_done),
    FIELD_END,
};

static const struct state_desc console_state = {
    .name = "virtio-console",
    .version = 1,
    .fields = console_fields,
    .post_load = console_post_load,
};

int virtio_console_init(struct virtio_console *c, struct pci_bus *bus, u8 devfn, struct memory *memory,
                        struct event_loop *loop, struct chardev *chardev, struct error *err)
{
    c->chardev = chardev;
    c->listener = (struct chardev_listener){.receive = on_receive, .writable = on_writable};
    c->rx_held = c->tx_held = false;
    c->tx_done = 0;
    virtio_device_init(&c->vdev, VIRTIO_CONSOLE, "virtio-console", &console_ops, BIT(F_EMERG_WRITE), memory,
                       loop);
    virtio_add_queue(&c->vdev, QUEUE_SIZE);
    virtio_add_queue(&c->vdev, QUEUE_SIZE);
    c->vdev.config_size = CONFIG_SIZE;
    put_le32(c->vdev.config + 4, 1); /* max_nr_ports; means nothing without MULTIPORT */
    int ret = virtio_pci_init(&c->pci, &c->vdev, bus, devfn, CLASS_COMMUNICATION, &console_state, c, err);
    if (ret < 0)
        return ret;
    chardev->listener = &c->listener;
    return 0;
}

void virtio_console_release(struct virtio_console *c)
{
    chardev_set_room(c->chardev, 0);
    c->chardev->listener = NULL;
    virtio_pci_release(&c->pci);
}
