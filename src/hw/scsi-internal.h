/* What the kinds of SCSI targets share. */
#ifndef TRAPEZE_HW_SCSI_INTERNAL_H
#define TRAPEZE_HW_SCSI_INTERNAL_H

#include "base/iov.h"
#include "hw/scsi.h"

/* Sense key, additional sense code and its qualifier (SPC-4, 4.5.6 and annex F). */
enum scsi_sense {
    SENSE_NO_MEDIUM = 0x23a02,
    SENSE_READ_ERROR = 0x31100,
    SENSE_WRITE_ERROR = 0x30c00,
    SENSE_PARAMETER_LENGTH = 0x51a00,
    SENSE_INVALID_OPCODE = 0x52000,
    SENSE_OUT_OF_RANGE = 0x52100,
    SENSE_INVALID_FIELD = 0x52400,
    SENSE_INVALID_LUN = 0x52500,
    SENSE_INVALID_PARAMETER = 0x52600,
    SENSE_SAVING_UNSUPPORTED = 0x53900,
    SENSE_REMOVAL_PREVENTED = 0x55302,
    SENSE_UNIT_ATTENTION = 0x60000,
    SENSE_MEDIUM_CHANGED = 0x62800,
    SENSE_RESET = 0x62900,
    SENSE_WRITE_PROTECTED = 0x72700,
    SENSE_NO_SPACE = 0x72707,
    SENSE_NO_RESOURCES = 0xb5503,
    SENSE_MISCOMPARE = 0xe1d00,
};

enum scsi_command_flags {
    COMMAND_ANY_LUN = 1,      /* answers for logical units that are not there */
    COMMAND_NO_ATTENTION = 2, /* works while a unit attention is pending, and leaves it */
    COMMAND_MEDIUM = 4,       /* needs the medium */
    COMMAND_WRITES = 8,
};

/* Runs a command: true when it has ended. */
typedef bool scsi_run(struct scsi_target *t, struct scsi_request *r);

struct scsi_command {
    u8 opcode;
    u8 flags;
    scsi_run *run; /* NULL ends a table */
};

#define SCSI_MODE_PAGE_MAX 24

/* A mode page as it is (after its two bytes of header), and the bits that MODE SELECT may change. */
struct scsi_mode_page {
    u8 code, len;
    u8 value[SCSI_MODE_PAGE_MAX], changeable[SCSI_MODE_PAGE_MAX];
};

struct scsi_personality {
    const char *product;
    bool removable;
    const struct scsi_command *commands;
    const u8 *vpd_pages; /* beyond those of every target; 0 ends */
    unsigned (*vpd)(const struct scsi_target *t, u8 page,
                    u8 *out); /* the length behind the header; @out is zero */
    bool (*mode_page)(const struct scsi_target *t, unsigned index,
                      struct scsi_mode_page *p); /* false: no more */
    void (*mode_selected)(struct scsi_target *t, const struct scsi_mode_page *p);
    u8 (*mode_parameter)(const struct scsi_target *t); /* the device-specific byte of the mode header */
    bool block_descriptor;
};

/* The tray is open, or what is in it has no block. */
static inline bool scsi_no_medium(const struct scsi_target *t)
{
    return t->tray_open || !t->blocks;
}

extern const struct scsi_personality scsi_disk, scsi_cdrom;
extern const struct scsi_command scsi_primary_commands[]; /* those of every target */

const struct scsi_command *scsi_command_find(const struct scsi_target *t, u8 opcode);

/* --- results; all return true --- */

bool scsi_good(struct scsi_request *r);
bool scsi_fail(struct scsi_request *r, enum scsi_sense sense);

/* Data for the initiator: as much of @data as @allocation and the buffers have room for. */
bool scsi_reply(struct scsi_request *r, const void *data, u64 len, u64 allocation);

/* --- the disk --- */

/* Prepares the next step for the backend: what remains of r->io is to be filled in by the caller. Returns
 * false. */
bool scsi_submit(struct scsi_request *r, enum block_op op, u64 offset, u64 len);

/* Frees what a command took, when it ends before it was submitted. */
void scsi_buffers_free(struct scsi_request *r);

/* The next step of a write that must not stay in a cache. */
bool scsi_flush_next(struct scsi_request *r);

/* Commands that are the same for all block devices. */
scsi_run scsi_read, scsi_verify, scsi_sync_cache, scsi_seek;

/* Logical block address and transfer length of the 6, 10, 12 and 16 byte commands. */
void scsi_cdb_range(const u8 *cdb, u64 *lba, u32 *count);

/* Does the medium have the blocks? */
bool scsi_range_ok(const struct scsi_target *t, u64 lba, u64 count);

/* Takes the range of a READ, WRITE or VERIFY; true when it is refused and the command has ended. */
struct scsi_range {
    u64 offset, bytes;
};
bool scsi_transfer_refused(const struct scsi_target *t, struct scsi_request *r, struct scsi_range *range);

#endif
