/* CD-ROM and DVD-ROM drives (MMC-6): one session with one track of data. */
#include <string.h>

#include "hw/scsi-internal.h"

#define CD_BLOCKS 405000u /* 90 minutes; what is larger is a DVD */
#define LEAD_OUT 0xaa
#define SPEED 8467 /* 48 times 176.4 KB/s */

enum { EVENT_NONE = 0, EVENT_NEW_MEDIUM = 2, EVENT_REMOVED = 3 };
enum { PROFILE_NONE = 0, PROFILE_CD_ROM = 8, PROFILE_DVD_ROM = 16 };

static bool read_capacity(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[8];

    put_be32(out, (u32)MIN(t->blocks - 1, 0xffffffffull));
    put_be32(out + 4, t->block_size);
    return scsi_reply(r, out, sizeof out, sizeof out);
}

/* --- the tray --- */

static bool start_stop(struct scsi_target *t, struct scsi_request *r)
{
    bool start = r->cdb[4] & 1, tray = r->cdb[4] & 2, power_condition = r->cdb[4] >> 4;

    if (power_condition || !tray || t->tray_open == !start)
        return scsi_good(r);
    if (t->locked && !start)
        return scsi_fail(r, SENSE_REMOVAL_PREVENTED);
    t->tray_open = !start;
    t->media_event = start ? EVENT_NEW_MEDIUM : EVENT_REMOVED;
    if (start)
        t->unit_attention = SENSE_MEDIUM_CHANGED & 0xffff;
    return scsi_good(r);
}

static bool prevent_removal(struct scsi_target *t, struct scsi_request *r)
{
    t->locked = r->cdb[4] & 1;
    return scsi_good(r);
}

/* 6.7: the driver asks, again and again, whether somebody pressed a button. */
static bool event_status(struct scsi_target *t, struct scsi_request *r)
{
    enum { MEDIA_CLASS = 4, NO_EVENT = 0x80, TRAY_OPEN = 1, MEDIUM_PRESENT = 2 };
    bool polled = r->cdb[1] & 1, media = r->cdb[4] & 1 << MEDIA_CLASS;
    u8 out[8] = {0};

    if (!polled)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    put_be16(out, media ? 6 : 2);
    out[2] = media ? MEDIA_CLASS : NO_EVENT;
    out[3] = 1 << MEDIA_CLASS;
    if (media) {
        out[4] = t->media_event;
        out[5] = t->tray_open ? TRAY_OPEN : t->blocks ? MEDIUM_PRESENT : 0;
        t->media_event = EVENT_NONE;
    }
    return scsi_reply(r, out, media ? 8 : 4, get_be16(r->cdb + 7));
}

static bool mechanism_status(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[8] = {0};

    out[1] = t->tray_open ? 0x10 : 0;
    return scsi_reply(r, out, sizeof out, get_be16(r->cdb + 8));
}

/* --- what is on the disc --- */

static void put_address(u8 *out, u64 lba, bool msf)
{
    if (!msf) {
        put_be32(out, (u32)lba);
        return;
    }
    lba += 150; /* 75 frames a second; the first two seconds are lead-in */
    out[0] = 0;
    out[1] = (u8)(lba / 75 / 60);
    out[2] = (u8)(lba / 75 % 60);
    out[3] = (u8)(lba % 75);
}

static unsigned put_track(u8 *out, u8 track, u64 lba, bool msf)
{
    enum { DATA_TRACK = 0x14 };

    out[1] = DATA_TRACK;
    out[2] = track;
    put_address(out + 4, lba, msf);
    return 8;
}

/* 6.25 */
static bool read_toc(struct scsi_target *t, struct scsi_request *r)
{
    enum { TRACKS, SESSIONS };
    bool msf = r->cdb[1] & 2;
    u8 format = r->cdb[2] & 0xf, track = r->cdb[6], out[20] = {0};
    unsigned len = 4;

    if (!format)
        format = r->cdb[9] >> 6; /* where the first drives had it */
    if (format > SESSIONS || (format == TRACKS && track > 1 && track != LEAD_OUT))
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (format == SESSIONS || track <= 1)
        len += put_track(out + len, 1, 0, msf);
    if (format == TRACKS)
        len += put_track(out + len, LEAD_OUT, t->blocks, msf);
    put_be16(out, (u16)(len - 2));
    out[2] = out[3] = 1; /* first and last */
    return scsi_reply(r, out, len, get_be16(r->cdb + 7));
}

/* 6.21 */
static bool disc_information(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[34] = {0};

    if (r->cdb[1] & 7)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    put_be16(out, sizeof out - 2);
    out[2] = 0x0e; /* finished, as is its last session */
    out[3] = out[4] = out[5] = out[6] = 1;
    out[7] = 0x20; /* for unrestricted use */
    return scsi_reply(r, out, sizeof out, get_be16(r->cdb + 7));
}

/* --- GET CONFIGURATION (6.6, 5.3) --- */

static u16 profile(const struct scsi_target *t)
{
    if (scsi_no_medium(t))
        return PROFILE_NONE;
    return t->blocks > CD_BLOCKS ? PROFILE_DVD_ROM : PROFILE_CD_ROM;
}

struct feature {
    u16 code;
    u8 version; /* of the feature, as in the byte that has also "persistent" (2) and "current" (1) */
    u8 len;
    u8 data[8];
};

static unsigned put_feature(const struct feature *f, u8 *out)
{
    put_be16(out, f->code);
    out[2] = f->version;
    out[3] = f->len;
    memcpy(out + 4, f->data, f->len);
    return 4u + f->len;
}

static bool get_configuration(struct scsi_target *t, struct scsi_request *r)
{
    enum { ALL, CURRENT, ONE };
    u16 p = profile(t), first = get_be16(r->cdb + 2);
    u8 cd = p == PROFILE_CD_ROM, dvd = p == PROFILE_DVD_ROM, which = r->cdb[1] & 3;
    const struct feature features[] = {
        {0x00, 3, 8, {0, PROFILE_DVD_ROM, dvd, 0, 0, PROFILE_CD_ROM, cd, 0}},
        {0x01, 2 << 2 | 3, 8, {0, 0, 0, 1, 1}},  /* core: a SCSI interface */
        {0x03, 1 << 2 | 3, 4, {0x29}},           /* removable medium: tray, eject, lock */
        {0x10, cd | dvd, 8, {0, 0, 8, 0, 0, 1}}, /* random readable, 2048 bytes a block */
        {0x1e, (u8)(2 << 2 | cd), 4, {0}},
        {0x1f, dvd, 0, {0}},
    };
    u8 out[8 + 12 * ARRAY_SIZE(features)] = {0};
    unsigned len = 8;

    if (which > ONE)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        const struct feature *f = &features[i];
        bool wanted = which == ONE ? f->code == first : f->code >= first;
        if (wanted && !(which == CURRENT && !(f->version & 1)))
            len += put_feature(f, out + len);
    }
    put_be32(out, len - 4);
    put_be16(out + 6, p);
    return scsi_reply(r, out, len, get_be16(r->cdb + 7));
}

static bool set_speed(struct scsi_target *t, struct scsi_request *r)
{
    return scsi_good(r);
}

/* --- mode pages (7.2) --- */

enum { PAGE_ERROR_RECOVERY = 0x01, PAGE_CAPABILITIES = 0x2a };

static bool mode_page(const struct scsi_target *t, unsigned index, struct scsi_mode_page *p)
{
    switch (index) {
    case 0:
        p->code = PAGE_ERROR_RECOVERY;
        p->len = 10;
        return true;
    case 1:
        p->code = PAGE_CAPABILITIES;
        p->len = 18;
        p->value[0] = 0x0f; /* reads CD-R, CD-RW, DVD-ROM */
        p->value[4] = (u8)(0x29 | t->locked << 1);
        put_be16(p->value + 6, SPEED);
        put_be16(p->value + 10, 2048); /* KiB of buffer */
        put_be16(p->value + 12, SPEED);
        return true;
    default: return false;
    }
}

static u8 mode_parameter(const struct scsi_target *t)
{
    return 0;
}

static const struct scsi_command commands[] = {
    {0x08, COMMAND_MEDIUM, scsi_read},
    {0x1b, 0, start_stop},
    {0x1e, 0, prevent_removal},
    {0x25, COMMAND_MEDIUM, read_capacity},
    {0x28, COMMAND_MEDIUM, scsi_read},
    {0x2b, COMMAND_MEDIUM, scsi_seek},
    {0x2f, COMMAND_MEDIUM, scsi_verify},
    {0x35, COMMAND_MEDIUM, scsi_sync_cache},
    {0x43, COMMAND_MEDIUM, read_toc},
    {0x46, COMMAND_NO_ATTENTION, get_configuration},
    {0x4a, COMMAND_NO_ATTENTION, event_status},
    {0x51, COMMAND_MEDIUM, disc_information},
    {0xa8, COMMAND_MEDIUM, scsi_read},
    {0xbb, 0, set_speed},
    {0xbd, 0, mechanism_status},
    {0, 0, NULL},
};

const struct scsi_personality scsi_cdrom = {
    .product = "CD-ROM",
    .removable = true,
    .commands = commands,
    .mode_page = mode_page,
    .mode_parameter = mode_parameter,
};
