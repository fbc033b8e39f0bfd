#include "hw/scsi-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- results --- */

bool scsi_good(struct scsi_request *r)
{
    r->status = SCSI_GOOD;
    return true;
}

bool scsi_fail(struct scsi_request *r, enum scsi_sense sense)
{
    memset(r->sense, 0, sizeof r->sense);
    r->sense[0] = 0x70; /* current error, fixed format */
    r->sense[2] = (u8)(sense >> 16);
    r->sense[7] = SCSI_SENSE_SIZE - 8;
    r->sense[12] = (u8)(sense >> 8);
    r->sense[13] = (u8)sense;
    r->sense_len = SCSI_SENSE_SIZE;
    r->status = SCSI_CHECK_CONDITION;
    return true;
}

bool scsi_reply(struct scsi_request *r, const void *data, u64 len, u64 allocation)
{
    size_t n = (size_t)MIN(len, allocation);

    r->moved = iov_write(r->in, r->in_count, 0, data, n);
    return scsi_good(r);
}

/* --- what the backend does --- */

static enum scsi_sense sense_of(enum block_op op, int result)
{
    switch (result) {
    case -ENOSPC:
    case -EDQUOT: return SENSE_NO_SPACE;
    case -ENOMEM: return SENSE_NO_RESOURCES;
    case -EOPNOTSUPP: return SENSE_INVALID_OPCODE;
    case -EROFS: return SENSE_WRITE_PROTECTED;
    default: return op == BLOCK_READ ? SENSE_READ_ERROR : SENSE_WRITE_ERROR;
    }
}

void scsi_buffers_free(struct scsi_request *r)
{
    free(r->buffer);
    free(r->pattern);
    r->buffer = NULL;
    r->pattern = NULL;
}

/* The backend did what was submitted. True: the command has ended; false: the next step is prepared. */
static bool step_ended(struct scsi_request *r)
{
    if (r->result < 0) {
        r->moved = 0;
        r->touched = r->io.op == BLOCK_READ;
        scsi_fail(r, sense_of(r->io.op, r->result));
    } else if (r->next && !r->next(r)) {
        return false;
    }
    scsi_buffers_free(r);
    return true;
}

/*
 * Submits the step that is prepared, and those after it while they end before block_submit() returns: a loop,
 * since a command may have more steps than a stack has room for. True: the command has ended; false: it will,
 * by r->done(), and may have.
 */
static bool run_steps(struct scsi_request *r)
{
    do {
        atomic_store(&r->turn, SCSI_SUBMITTING);
        block_submit(r->target->backend, &r->io);
        if (atomic_exchange(&r->turn, SCSI_SUBMITTED) == SCSI_SUBMITTING)
            return false; /* to io_done(), with all of @r */
    } while (!step_ended(r));
    return true;
}

/* On the backend's thread, or on ours within run_steps(). Whoever comes second goes on with the command. */
static void io_done(struct block_request *io, int result)
{
    struct scsi_request *r = container_of(io, struct scsi_request, io);

    r->result = result;
    if (atomic_exchange(&r->turn, SCSI_DONE) == SCSI_SUBMITTING)
        return;
    if (step_ended(r) || run_steps(r))
        r->done(r);
}

bool scsi_submit(struct scsi_request *r, enum block_op op, u64 offset, u64 len)
{
    r->io.op = op;
    r->io.offset = offset;
    r->io.len = len;
    r->io.done = io_done;
    return false;
}

bool scsi_flush_next(struct scsi_request *r)
{
    r->next = NULL;
    return scsi_submit(r, BLOCK_FLUSH, 0, 0);
}

/* --- commands --- */

static const struct scsi_command *find(const struct scsi_command *c, u8 opcode)
{
    for (; c->run; c++)
        if (c->opcode == opcode)
            return c;
    return NULL;
}

const struct scsi_command *scsi_command_find(const struct scsi_target *t, u8 opcode)
{
    const struct scsi_command *c = find(t->is->commands, opcode);

    return c ? c : find(scsi_primary_commands, opcode);
}

bool scsi_execute(struct scsi_target *t, struct scsi_request *r)
{
    const struct scsi_command *c = scsi_command_find(t, r->cdb[0]);

    r->target = t;
    r->status = SCSI_GOOD;
    r->overrun = false;
    r->durable = false;
    r->sense_len = 0;
    r->moved = 0;
    r->touched = false;
    r->next = NULL;
    r->buffer = NULL;
    r->pattern = NULL;
    if (r->lun && !(c && c->flags & COMMAND_ANY_LUN))
        return scsi_fail(r, SENSE_INVALID_LUN);
    if (!c)
        return scsi_fail(r, SENSE_INVALID_OPCODE);
    if (t->unit_attention && !(c->flags & COMMAND_NO_ATTENTION)) {
        scsi_fail(r, (enum scsi_sense)(SENSE_UNIT_ATTENTION | t->unit_attention));
        t->unit_attention = 0;
        return true;
    }
    if (scsi_no_medium(t) && c->flags & COMMAND_MEDIUM)
        return scsi_fail(r, SENSE_NO_MEDIUM);
    if (t->backend->read_only && c->flags & COMMAND_WRITES)
        return scsi_fail(r, SENSE_WRITE_PROTECTED);
    return c->run(t, r) || run_steps(r);
}

/* --- life --- */

void scsi_target_init(struct scsi_target *t, enum scsi_type type, unsigned id, struct block_device *backend,
                      const char *serial)
{
    *t = (struct scsi_target){
        .type = type,
        .is = type == SCSI_CDROM ? &scsi_cdrom : &scsi_disk,
        .backend = backend,
        .block_size = type == SCSI_CDROM ? 2048 : BLOCK_SECTOR,
    };
    t->blocks = backend->size / t->block_size;
    snprintf(t->serial, sizeof t->serial, "%s", serial ? serial : "");
    snprintf(t->id, sizeof t->id, "%s-%u", type == SCSI_CDROM ? "cdrom" : "disk", id);
    scsi_target_reset(t);
}

void scsi_target_reset(struct scsi_target *t)
{
    t->unit_attention = SENSE_RESET & 0xffff;
    t->writeback = true;
    t->locked = t->tray_open = false;
    t->media_event = 0;
}

static int post_load(void *object, unsigned version, struct error *err)
{
    struct scsi_target *t = object;

    (void)version;
    if (t->tray_open && !(t->is && t->is->removable))
        return error_set(err, EINVAL, "scsi: saved state has a disk without a medium");
    return 0;
}

static const struct field target_fields[] = {
    FIELD(struct scsi_target, unit_attention), FIELD(struct scsi_target, writeback),
    FIELD(struct scsi_target, locked),         FIELD(struct scsi_target, tray_open),
    FIELD(struct scsi_target, media_event),    FIELD_END,
};

const struct state_desc scsi_target_state = {
    .name = "scsi-target", .version = 1, .fields = target_fields, .post_load = post_load};
