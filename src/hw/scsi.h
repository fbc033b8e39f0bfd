/*
 * SCSI targets with one logical unit each: a disk (SPC-4, SBC-3) and a CD-ROM drive (MMC-6) in front of a
 * block device of the host. A host adapter (virtio/scsi.h) brings commands and buffers; all that is in them
 * is hostile.
 *
 * scsi_execute() is called with the machine lock held. A command that needs the disk is submitted to it and
 * ends on one of the backend's threads; everything else ends at once. State that outlives a command changes
 * only within scsi_execute().
 */
#ifndef TRAPEZE_HW_SCSI_H
#define TRAPEZE_HW_SCSI_H

#include <stdatomic.h>

#include "backend/block/block.h"
#include "state/fields.h"

#define SCSI_CDB_SIZE 32   /* longer commands are cut off there: none of ours is */
#define SCSI_SENSE_SIZE 18 /* fixed format (SPC-4, 4.5.3) */
#define SCSI_SERIAL_MAX 36
#define SCSI_MAX_BLOCKS 0xffffu /* of one transfer */

/* Peripheral device types. */
enum scsi_type { SCSI_DISK = 0, SCSI_CDROM = 5 };

/* Status codes (SAM-5, 5.3.1). */
enum { SCSI_GOOD = 0, SCSI_CHECK_CONDITION = 2 };

struct scsi_target;

/* What has become of a step of a request that the backend executes. */
enum scsi_turn { SCSI_SUBMITTING, SCSI_SUBMITTED, SCSI_DONE };

struct scsi_request {
    /* From the host adapter. The buffers are changed by the target. */
    u8 cdb[SCSI_CDB_SIZE];
    unsigned lun;
    struct iovec *out, *in; /* to the target, from it */
    unsigned out_count, in_count;
    u64 out_bytes, in_bytes;
    void (*done)(struct scsi_request *r); /* any thread, as done() of a block request */

    /* The result. */
    u8 status;
    bool overrun; /* the buffers have not the room that the command asks for; nothing was done */
    u8 sense[SCSI_SENSE_SIZE];
    unsigned sense_len; /* 0: none */
    u64 moved;          /* bytes of data */
    bool touched;       /* what is in the buffers is not known: a read failed */

    /* The target's own while it runs. */
    struct scsi_target *target;
    struct block_request io;
    int result;                           /* of it */
    atomic_uint turn;                     /* enum scsi_turn: who goes on after it */
    bool (*next)(struct scsi_request *r); /* after a step that worked; false: it submitted another */
    u8 *buffer;
    struct iovec *pattern;
    u64 at, left;
    bool durable; /* a flush ends it */
};

struct scsi_target {
    enum scsi_type type;
    const struct scsi_personality *is;
    struct block_device *backend;
    u64 blocks;
    u32 block_size;
    char serial[SCSI_SERIAL_MAX + 1]; /* empty: none */
    char id[20];                      /* unique among the host adapter's targets */

    /* Saved. */
    u16 unit_attention; /* additional sense code and qualifier; 0: none */
    bool writeback;     /* a write may stay in a cache until the next flush */
    bool locked;        /* the medium must not be removed */
    bool tray_open;
    u8 media_event; /* for GET EVENT STATUS NOTIFICATION */
};

/* @id is the target's number. The backend stays the caller's. The target is as after power-on. */
void scsi_target_init(struct scsi_target *t, enum scsi_type type, unsigned id, struct block_device *backend,
                      const char *serial);

/* Power-on, or a reset by the host adapter. */
void scsi_target_reset(struct scsi_target *t);

/* True: the command has ended. False: it will end by r->done(). */
bool scsi_execute(struct scsi_target *t, struct scsi_request *r);

extern const struct state_desc scsi_target_state;

#endif
