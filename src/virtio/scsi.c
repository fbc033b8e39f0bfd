#include "virtio/scsi.h"

#include <errno.h>

#include "base/log.h"

enum { QUEUE_CONTROL = 0, QUEUE_EVENT = 1, QUEUE_REQUEST = 2 };

/* struct virtio_scsi_config (5.6.4) */
enum {
    CONFIG_NUM_QUEUES = 0,
    CONFIG_SEG_MAX = 4,
    CONFIG_MAX_SECTORS = 8,
    CONFIG_CMD_PER_LUN = 12,
    CONFIG_EVENT_INFO_SIZE = 16,
    CONFIG_SENSE_SIZE = 20,
    CONFIG_CDB_SIZE = 24,
    CONFIG_MAX_CHANNEL = 28,
    CONFIG_MAX_TARGET = 30,
    CONFIG_MAX_LUN = 32,
    CONFIG_SIZE = 36,
};

/* Responses (5.6.6.1, 5.6.6.2). */
enum response {
    S_OK = 0,
    S_OVERRUN = 1,
    S_BAD_TARGET = 3,
    S_FUNCTION_SUCCEEDED = 10,
    S_FUNCTION_REJECTED = 11,
    S_INCORRECT_LUN = 12,
};

/* struct virtio_scsi_req_cmd: what the driver writes, before the CDB, and the response, before sense. */
enum { REQUEST_LUN = 0, REQUEST_TAG = 8, REQUEST_CDB = 19 };
enum { RESPONSE_STATUS = 10, RESPONSE_CODE = 11, RESPONSE_SENSE = 12 };
enum { SENSE_SIZE = 96, CDB_SIZE = 32, SIZE_MAX_WANTED = 255 }; /* the first two: what drivers expect */

/* struct virtio_scsi_ctrl_... */
enum { CONTROL_TMF = 0, CONTROL_AN_QUERY = 1, CONTROL_AN_SUBSCRIBE = 2 };
enum { TMF_SIZE = 24, AN_SIZE = 16, AN_RESPONSE_SIZE = 5 };
enum tmf {
    ABORT_TASK = 0,
    ABORT_TASK_SET = 1,
    CLEAR_ACA = 2,
    CLEAR_TASK_SET = 3,
    I_T_NEXUS_RESET = 4,
    LOGICAL_UNIT_RESET = 5,
    QUERY_TASK = 6,
    QUERY_TASK_SET = 7,
};

#define CLASS_STORAGE 0x010000

struct command {
    struct scsi_request scsi;
    struct completion completion; /* its link: in s->free too */
    struct virtio_scsi *s;
    struct list link; /* s->running */
    struct scsi_target *target;
    u64 tag, number;
    struct virtq_chain chain;
};

struct function {
    struct list link; /* s->functions */
    enum tmf what;
    struct scsi_target *target;
    u64 tag, number; /* it concerns the commands with lower numbers */
    struct virtq_chain chain;
};

static struct virtio_scsi *from_vdev(struct virtio_device *vdev)
{
    return container_of(vdev, struct virtio_scsi, vdev);
}

/* Writes to the device-writable part of @chain as the driver gave it. */
static void respond(struct virtio_scsi *s, const struct virtq_chain *chain, const void *data, size_t len)
{
    const u8 *from = data;

    for (unsigned i = chain->out; i < chain->out + chain->in && len; i++) {
        size_t n = MIN(len, (size_t)chain->len[i]);
        u8 *to = memory_span(s->vdev.memory, chain->gpa[i], n);
        if (to && !s->vdev.resetting)
            memcpy(to, from, n);
        from += n;
        len -= n;
    }
}

/* --- addresses (5.6.6.1): 1, target, two bytes of logical unit number, zeroes --- */

static struct scsi_target *find_target(struct virtio_scsi *s, const u8 *address, unsigned *lun)
{
    *lun = get_be16(address + 2) & 0x3fff;
    if (address[0] != 1 || address[1] >= VIRTIO_SCSI_TARGETS || address[2] & 0x80)
        return NULL;
    struct scsi_target *t = &s->target[address[1]];
    return t->backend ? t : NULL;
}

/* --- task management functions --- */

static bool concerns(const struct function *f, const struct command *c)
{
    bool one = f->what == ABORT_TASK || f->what == QUERY_TASK;

    return c->number < f->number && c->target == f->target && (!one || c->tag == f->tag);
}

static bool waits(struct virtio_scsi *s, const struct function *f)
{
    struct command *c;

    list_for_each (c, &s->running, link)
        if (concerns(f, c))
            return true;
    return false;
}

static void function_end(struct virtio_scsi *s, struct function *f, u8 response)
{
    if ((f->what == I_T_NEXUS_RESET || f->what == LOGICAL_UNIT_RESET) && response == S_OK)
        scsi_target_reset(f->target);
    respond(s, &f->chain, &response, 1);
    virtqueue_push(&s->vdev.queue[QUEUE_CONTROL], &f->chain, 1);
    virtqueue_notify(&s->vdev.queue[QUEUE_CONTROL]);
    free(f);
}

/* A command ended: so may have what waited for it. */
static void functions_check(struct virtio_scsi *s)
{
    struct function *f, *next;

    list_for_each_safe (f, next, &s->functions, link) {
        if (!waits(s, f)) {
            list_remove(&f->link);
            function_end(s, f, S_OK);
        }
    }
}

static void function_start(struct virtio_scsi *s, struct function *f, unsigned lun)
{
    if (!f->target) {
        function_end(s, f, S_BAD_TARGET);
        return;
    }
    if (lun && f->what != I_T_NEXUS_RESET) {
        function_end(s, f, S_INCORRECT_LUN);
        return;
    }
    switch (f->what) {
    case QUERY_TASK:
    case QUERY_TASK_SET: function_end(s, f, waits(s, f) ? S_FUNCTION_SUCCEEDED : S_OK); return;
    case ABORT_TASK:
    case ABORT_TASK_SET:
    case CLEAR_TASK_SET:
    case I_T_NEXUS_RESET:
    case LOGICAL_UNIT_RESET:
        list_push_back(&s->functions, &f->link);
        functions_check(s);
        return;
    case CLEAR_ACA: break;
    }
    function_end(s, f, S_FUNCTION_REJECTED);
}

static void task_management(struct virtio_scsi *s, struct function *f)
{
    u8 in[TMF_SIZE];
    unsigned lun;

    iov_read(f->chain.iov, f->chain.out, 0, in, sizeof in);
    f->what = (enum tmf)get_le32(in + 4);
    f->target = find_target(s, in + 8, &lun);
    f->tag = get_le64(in + 16);
    f->number = s->next_number;
    trace(virtio, "%s: task management %u at target %u", s->vdev.name, (unsigned)f->what, in[9]);
    function_start(s, f, lun);
}

/* Asynchronous notifications: none is known (5.6.6.2). */
static void notification(struct virtio_scsi *s, struct function *f)
{
    const u8 out[AN_RESPONSE_SIZE] = {0};

    respond(s, &f->chain, out, sizeof out);
    virtqueue_push(&s->vdev.queue[QUEUE_CONTROL], &f->chain, sizeof out);
    virtqueue_notify(&s->vdev.queue[QUEUE_CONTROL]);
    free(f);
}

static void control_request(struct virtio_scsi *s, struct function *f)
{
    const struct virtq_chain *chain = &f->chain;
    u8 type[4];

    if (chain->out_bytes >= TMF_SIZE || chain->out_bytes == AN_SIZE) {
        iov_read(chain->iov, chain->out, 0, type, sizeof type);
        u32 t = get_le32(type);
        if (t == CONTROL_TMF && chain->out_bytes >= TMF_SIZE && chain->in_bytes >= 1) {
            task_management(s, f);
            return;
        }
        if ((t == CONTROL_AN_QUERY || t == CONTROL_AN_SUBSCRIBE) && chain->in_bytes >= AN_RESPONSE_SIZE) {
            notification(s, f);
            return;
        }
    }
    virtio_device_error(&s->vdev, "a control request that is none");
    virtqueue_push(&s->vdev.queue[QUEUE_CONTROL], chain, 0);
    free(f);
}

/* No more than the ring has entries are waiting. */
static void control_kick(struct virtio_scsi *s)
{
    for (unsigned budget = s->vdev.queue[QUEUE_CONTROL].size; budget; budget--) {
        struct function *f = malloc(sizeof *f);
        if (!f || !virtqueue_pop(&s->vdev.queue[QUEUE_CONTROL], &f->chain)) {
            free(f);
            return;
        }
        control_request(s, f);
    }
    virtio_kick_later(&s->vdev, QUEUE_CONTROL);
}

/* --- commands --- */

static struct command *command_get(struct virtio_scsi *s)
{
    struct command *c;

    if (!list_empty(&s->free)) {
        c = list_entry(s->free.next, struct command, completion.link);
        list_remove(&c->completion.link);
        return c;
    }
    c = malloc(sizeof *c);
    if (c)
        c->s = s;
    return c;
}

static void command_put(struct command *c)
{
    list_push_front(&c->s->free, &c->completion.link);
}

/* The response, and with it the chain, goes back to the driver. */
static void command_end(struct command *c, enum response code)
{
    struct virtio_scsi *s = c->s;
    struct scsi_request *r = &c->scsi;
    u8 out[RESPONSE_SENSE + SIZE_MAX_WANTED] = {0};
    u64 data = r->out_bytes + r->in_bytes, written = r->touched ? r->in_bytes : r->moved;

    put_le32(out, MIN(r->sense_len, s->sense_size));
    put_le32(out + 4, (u32)MIN(data - r->moved, 0xffffffffull));
    out[RESPONSE_STATUS] = r->status;
    out[RESPONSE_CODE] = r->overrun ? S_OVERRUN : code;
    memcpy(out + RESPONSE_SENSE, r->sense, MIN(r->sense_len, s->sense_size));
    respond(s, &c->chain, out, RESPONSE_SENSE + s->sense_size);
    virtqueue_push(&s->vdev.queue[c->completion.queue], &c->chain,
                   RESPONSE_SENSE + s->sense_size + MIN(written, r->in_bytes));
    s->completions.in_flight--;
    list_remove(&c->link);
    command_put(c);
}

static void command_collected(struct completions *cs, struct completion *completion)
{
    struct virtio_scsi *s = container_of(cs, struct virtio_scsi, completions);

    command_end(container_of(completion, struct command, completion), S_OK);
    functions_check(s);
}

/* Any thread. */
static void command_done(struct scsi_request *r)
{
    struct command *c = container_of(r, struct command, scsi);

    completion_done(&c->s->completions, &c->completion, 0);
}

/* The buffers behind the header and the response are those of the data. */
static void set_buffers(struct command *c, u64 header, u64 response)
{
    struct scsi_request *r = &c->scsi;
    struct virtq_chain *chain = &c->chain;

    r->out = chain->iov;
    r->out_count = chain->out;
    r->in = chain->iov + chain->out;
    r->in_count = chain->in;
    iov_trim_front(&r->out, &r->out_count, header);
    iov_trim_front(&r->in, &r->in_count, response);
    r->out_bytes = chain->out_bytes - header;
    r->in_bytes = chain->in_bytes - response;
}

static void command_start(struct command *c)
{
    struct virtio_scsi *s = c->s;
    struct scsi_request *r = &c->scsi;
    u8 header[REQUEST_CDB + SIZE_MAX_WANTED] = {0};
    size_t size = REQUEST_CDB + s->cdb_size;

    iov_read(c->chain.iov, c->chain.out, 0, header, size);
    memcpy(r->cdb, header + REQUEST_CDB, sizeof r->cdb);
    set_buffers(c, size, RESPONSE_SENSE + s->sense_size);
    r->done = command_done;
    c->target = find_target(s, header + REQUEST_LUN, &r->lun);
    c->tag = get_le64(header + REQUEST_TAG);
    c->number = s->next_number++;
    s->completions.in_flight++;
    list_push_back(&s->running, &c->link);
    trace(virtio, "%s: command %#x at target %u, %llu bytes out, %llu in", s->vdev.name, r->cdb[0], header[1],
          (unsigned long long)r->out_bytes, (unsigned long long)r->in_bytes);
    if (!c->target) {
        r->status = SCSI_GOOD;
        r->overrun = false;
        r->sense_len = 0;
        r->moved = 0;
        r->touched = false;
        command_end(c, S_BAD_TARGET);
        return;
    }
    completions_submitted(&s->completions);
    if (scsi_execute(c->target, r))
        command_done(r);
}

static void request_kick(struct virtio_scsi *s, unsigned queue)
{
    struct virtqueue *vq = &s->vdev.queue[queue];
    unsigned budget = vq->size;
    u64 bytes = 0;
    bool more = completions_begin(&s->completions);

    for (; budget && bytes < COMPLETIONS_BATCH; budget--) {
        struct command *c = command_get(s);
        if (!c) {
            budget = 0;
            break;
        }
        c->completion.queue = queue;
        if (!virtqueue_pop(vq, &c->chain)) {
            command_put(c);
            break;
        }
        if (c->chain.out_bytes < REQUEST_CDB + s->cdb_size ||
            c->chain.in_bytes < RESPONSE_SENSE + s->sense_size) {
            virtio_device_error(&s->vdev, "queue %u: a request without header or response", queue);
            virtqueue_push(vq, &c->chain, 0);
            command_put(c);
            break;
        }
        bytes += c->chain.out_bytes + c->chain.in_bytes;
        command_start(c);
    }
    completions_end(&s->completions, more);
    virtqueue_notify(vq);
    if (!budget || bytes >= COMPLETIONS_BATCH)
        virtio_kick_later(&s->vdev, queue);
}

/* --- device --- */

static void scsi_kick(struct virtio_device *vdev, unsigned queue)
{
    if (queue >= QUEUE_REQUEST)
        request_kick(from_vdev(vdev), queue);
    else if (queue == QUEUE_CONTROL)
        control_kick(from_vdev(vdev));
}

static void put_sizes(struct virtio_scsi *s)
{
    put_le32(s->vdev.config + CONFIG_SENSE_SIZE, s->sense_size);
    put_le32(s->vdev.config + CONFIG_CDB_SIZE, s->cdb_size);
}

static void scsi_config_written(struct virtio_device *vdev, unsigned offset, unsigned size, u32 value)
{
    struct virtio_scsi *s = from_vdev(vdev);

    if (size != 4 || (offset != CONFIG_SENSE_SIZE && offset != CONFIG_CDB_SIZE))
        return;
    if (value > SIZE_MAX_WANTED || vdev->status & VIRTIO_STATUS_DRIVER_OK) {
        virtio_device_error(vdev, "size %u for commands or sense data", value);
        return;
    }
    *(offset == CONFIG_SENSE_SIZE ? &s->sense_size : &s->cdb_size) = value;
    put_sizes(s);
}

static void scsi_drain(struct virtio_device *vdev)
{
    completions_drain(&from_vdev(vdev)->completions);
}

static bool scsi_reset(struct virtio_device *vdev)
{
    struct virtio_scsi *s = from_vdev(vdev);
    struct function *f, *next;

    list_for_each_safe (f, next, &s->functions, link)
        free(f);
    list_init(&s->functions);
    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++)
        scsi_target_reset(&s->target[i]);
    s->sense_size = SENSE_SIZE;
    s->cdb_size = CDB_SIZE;
    put_sizes(s);
    return s->completions.in_flight == 0;
}

static const struct virtio_device_ops scsi_ops = {
    .kick = scsi_kick,
    .config_written = scsi_config_written,
    .drain = scsi_drain,
    .reset = scsi_reset,
};

static int scsi_post_load(void *object, unsigned version, struct error *err)
{
    struct virtio_scsi *s = object;

    (void)version;
    if (s->sense_size > SIZE_MAX_WANTED || s->cdb_size > SIZE_MAX_WANTED)
        return error_set(err, EINVAL, "virtio-scsi: saved state is not possible");
    put_sizes(s);
    return 0;
}

static const struct field scsi_fields[] = {
    FIELD_STRUCT(struct virtio_scsi, vdev, virtio_device_state),
    FIELD_STRUCT(struct virtio_scsi, pci, virtio_pci_state),
    FIELD_STRUCT_ARRAY(struct virtio_scsi, target, scsi_target_state),
    FIELD(struct virtio_scsi, sense_size),
    FIELD(struct virtio_scsi, cdb_size),
    FIELD_END,
};

static const struct state_desc scsi_state = {
    .name = "virtio-scsi", .version = 1, .fields = scsi_fields, .post_load = scsi_post_load};

static void fill_config(struct virtio_scsi *s, unsigned queues)
{
    u8 *c = s->vdev.config;

    s->vdev.config_size = CONFIG_SIZE;
    put_le32(c + CONFIG_NUM_QUEUES, queues);
    put_le32(c + CONFIG_SEG_MAX, VIRTQ_MAX_SEGMENTS - 2); /* header and response take one each */
    put_le32(c + CONFIG_MAX_SECTORS, SCSI_MAX_BLOCKS);
    put_le32(c + CONFIG_CMD_PER_LUN, VIRTIO_SCSI_QUEUE_SIZE / 2);
    put_le32(c + CONFIG_EVENT_INFO_SIZE, 16);
    put_le16(c + CONFIG_MAX_TARGET, VIRTIO_SCSI_TARGETS - 1);
    put_le32(c + CONFIG_MAX_LUN, 0);
    put_sizes(s);
}

int virtio_scsi_init(struct virtio_scsi *s, struct pci_bus *bus, u8 devfn, struct memory *memory,
                     struct event_loop *loop, struct lock *machine_lock, unsigned queues, struct error *err)
{
    if (queues < 1 || queues > VIRTIO_SCSI_MAX_QUEUES)
        return error_set(err, EINVAL, "virtio-scsi: %u queues, at most %u are possible", queues,
                         VIRTIO_SCSI_MAX_QUEUES);
    *s = (struct virtio_scsi){.sense_size = SENSE_SIZE, .cdb_size = CDB_SIZE};
    list_init(&s->free);
    list_init(&s->running);
    list_init(&s->functions);
    virtio_device_init(&s->vdev, VIRTIO_SCSI, "virtio-scsi", &scsi_ops, 0, memory, loop);
    for (unsigned i = 0; i < QUEUE_REQUEST + queues; i++)
        virtio_add_queue(&s->vdev, i < QUEUE_REQUEST ? 64 : VIRTIO_SCSI_QUEUE_SIZE);
    fill_config(s, queues);
    int r = virtio_pci_init(&s->pci, &s->vdev, bus, devfn, CLASS_STORAGE, &scsi_state, s, err);
    if (!r)
        completions_init(&s->completions, &s->vdev, machine_lock, command_collected);
    return r;
}

void virtio_scsi_attach(struct virtio_scsi *s, unsigned target, enum scsi_type type,
                        struct block_device *backend, const char *serial)
{
    BUG_ON(target >= VIRTIO_SCSI_TARGETS || s->target[target].backend);
    scsi_target_init(&s->target[target], type, target, backend, serial);
}

void virtio_scsi_release(struct virtio_scsi *s)
{
    struct command *c, *next_command;
    struct function *f, *next;

    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++)
        if (s->target[i].backend)
            block_drain(s->target[i].backend);
    list_for_each_safe (f, next, &s->functions, link)
        free(f);
    list_for_each_safe (c, next_command, &s->free, completion.link)
        free(c);
    completions_release(&s->completions);
    virtio_pci_release(&s->pci);
}
