/* The commands of every SCSI target (SPC-4, chapters 6 and 7). */
#include <string.h>

#include "hw/scsi-internal.h"

static bool test_unit_ready(struct scsi_target *t, struct scsi_request *r)
{
    return scsi_good(r);
}

/* Sense data come with each failed command, so that here only a unit attention is left (6.39). */
static bool request_sense(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[SCSI_SENSE_SIZE];
    bool descriptor = r->cdb[1] & 1;

    scsi_fail(r, r->lun              ? SENSE_INVALID_LUN
                 : t->unit_attention ? (enum scsi_sense)(SENSE_UNIT_ATTENTION | t->unit_attention)
                 : scsi_no_medium(t) ? SENSE_NO_MEDIUM
                                     : (enum scsi_sense)0);
    if (!r->lun)
        t->unit_attention = 0;
    memcpy(out, r->sense, sizeof out);
    r->sense_len = 0;
    if (descriptor) {
        const u8 d[8] = {0x72, out[2], out[12], out[13]};
        return scsi_reply(r, d, sizeof d, r->cdb[4]);
    }
    return scsi_reply(r, out, sizeof out, r->cdb[4]);
}

static bool report_luns(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[16] = {0};
    u8 select = r->cdb[2];

    if (select > 2)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    u32 len = select == 1 ? 0 : 8; /* 1: well-known logical units only */
    put_be32(out, len);
    return scsi_reply(r, out, 8 + len, get_be32(r->cdb + 6));
}

/* --- INQUIRY (6.6) and vital product data (7.8) --- */

enum { VPD_PAGES = 0x00, VPD_SERIAL = 0x80, VPD_IDENTIFICATION = 0x83 };
enum { INQUIRY_SIZE = 96, PAGE_MAX = 128 };

static void put_text(u8 *p, const char *text, unsigned width)
{
    for (unsigned i = 0; i < width; i++)
        p[i] = *text ? (u8)*text++ : ' ';
}

static bool standard_inquiry(const struct scsi_target *t, struct scsi_request *r)
{
    /* The standards to which it holds (6.6.2): SAM-5, SPC-4, and SBC-3 or MMC-6. */
    const u16 versions[] = {0x00a0, 0x0460, t->type == SCSI_DISK ? 0x04c0 : 0x04e0};
    u8 out[INQUIRY_SIZE] = {0};

    out[0] = r->lun ? 0x7f : (u8)t->type; /* no such unit here */
    out[1] = t->is->removable ? 0x80 : 0;
    out[2] = 6;    /* SPC-4 */
    out[3] = 0x12; /* hierarchical addresses, this format */
    out[4] = INQUIRY_SIZE - 5;
    out[7] = 0x02; /* command queuing */
    put_text(out + 8, "TRAPEZE", 8);
    put_text(out + 16, t->is->product, 16);
    put_text(out + 32, TRAPEZE_VERSION, 3);
    out[35] = ' ';
    for (unsigned i = 0; i < ARRAY_SIZE(versions); i++)
        put_be16(out + 58 + 2 * i, versions[i]);
    return scsi_reply(r, out, sizeof out, get_be16(r->cdb + 3));
}

static unsigned vpd_pages(const struct scsi_target *t, u8 *out)
{
    unsigned n = 0;

    out[n++] = VPD_PAGES;
    if (t->serial[0])
        out[n++] = VPD_SERIAL;
    out[n++] = VPD_IDENTIFICATION;
    for (const u8 *page = t->is->vpd_pages; page && *page; page++)
        out[n++] = *page;
    return n;
}

/* 7.8.6: one designator in ASCII, led by the vendor's name. */
static unsigned vpd_identification(const struct scsi_target *t, u8 *out)
{
    const char *id = t->serial[0] ? t->serial : t->id;
    unsigned len = (unsigned)strlen(id);

    out[0] = 2; /* ASCII */
    out[1] = 1; /* of the logical unit, by T10's vendor name */
    out[3] = (u8)(8 + len);
    put_text(out + 4, "TRAPEZE", 8);
    put_text(out + 12, id, len);
    return 12 + len;
}

static unsigned vpd_of_kind(const struct scsi_target *t, u8 page, u8 *out)
{
    for (const u8 *p = t->is->vpd_pages; p && *p; p++)
        if (*p == page)
            return t->is->vpd(t, page, out);
    return 0;
}

static unsigned vpd(const struct scsi_target *t, u8 page, u8 *out)
{
    switch (page) {
    case VPD_PAGES: return vpd_pages(t, out);
    case VPD_SERIAL: memcpy(out, t->serial, sizeof t->serial); return (unsigned)strlen(t->serial);
    case VPD_IDENTIFICATION: return vpd_identification(t, out);
    default: return vpd_of_kind(t, page, out);
    }
}

static bool inquiry(struct scsi_target *t, struct scsi_request *r)
{
    u8 out[4 + PAGE_MAX] = {0};
    u8 page = r->cdb[2];
    bool product_data = r->cdb[1] & 1;
    unsigned len = product_data && !r->lun ? vpd(t, page, out + 4) : 0;

    if (!product_data && page == 0)
        return standard_inquiry(t, r);
    if (!len)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    out[0] = (u8)t->type;
    out[1] = page;
    put_be16(out + 2, (u16)len);
    return scsi_reply(r, out, 4 + len, get_be16(r->cdb + 3));
}

/* --- MODE SENSE and MODE SELECT (6.11, 6.9, 7.5) --- */

enum { ALL_PAGES = 0x3f, ALL_SUBPAGES = 0xff, PARAMETERS_MAX = 512 };
enum page_control { CURRENT, CHANGEABLE, DEFAULT, SAVED };

static bool ten_bytes(const struct scsi_request *r)
{
    return r->cdb[0] >= 0x20;
}

static unsigned put_block_descriptor(const struct scsi_target *t, u8 *out)
{
    put_be32(out, t->blocks > 0xffffff ? 0xffffff : (u32)t->blocks);
    put_be32(out + 4, t->block_size);
    return 8;
}

static unsigned put_mode_page(const struct scsi_mode_page *p, bool changeable, u8 *out)
{
    out[0] = p->code;
    out[1] = p->len;
    memcpy(out + 2, changeable ? p->changeable : p->value, p->len);
    return 2u + p->len;
}

/* Page @code, or all; 0 when there is none. */
static unsigned put_mode_pages(const struct scsi_target *t, u8 code, enum page_control pc, u8 *out)
{
    struct scsi_target as_new = *t;
    struct scsi_mode_page p;
    unsigned len = 0;

    if (pc == DEFAULT)
        scsi_target_reset(&as_new);
    for (unsigned i = 0; p = (struct scsi_mode_page){0}, t->is->mode_page(&as_new, i, &p); i++)
        if (code == ALL_PAGES || code == p.code)
            len += put_mode_page(&p, pc == CHANGEABLE, out + len);
    return len;
}

static bool mode_sense(struct scsi_target *t, struct scsi_request *r)
{
    const u8 *cdb = r->cdb;
    u8 out[8 + 8 + 8 * (2 + SCSI_MODE_PAGE_MAX)] = {0};
    bool ten = ten_bytes(r), descriptor = t->is->block_descriptor && !(cdb[1] & 8);
    unsigned header = ten ? 8 : 4, len = header;
    enum page_control pc = cdb[2] >> 6;

    if (pc == SAVED)
        return scsi_fail(r, SENSE_SAVING_UNSUPPORTED);
    if (cdb[3] != 0 && cdb[3] != ALL_SUBPAGES)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (descriptor)
        len += put_block_descriptor(t, out + len);
    unsigned pages = put_mode_pages(t, cdb[2] & 0x3f, pc, out + len);
    if (!pages)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    len += pages;
    if (ten) {
        put_be16(out, (u16)(len - 2));
        out[3] = t->is->mode_parameter(t);
        put_be16(out + 6, descriptor ? 8 : 0);
    } else {
        out[0] = (u8)(len - 1);
        out[2] = t->is->mode_parameter(t);
        out[3] = descriptor ? 8 : 0;
    }
    return scsi_reply(r, out, len, ten ? get_be16(cdb + 7) : cdb[4]);
}

static bool mode_page_find(const struct scsi_target *t, u8 code, struct scsi_mode_page *p)
{
    for (unsigned i = 0; *p = (struct scsi_mode_page){0}, t->is->mode_page(t, i, p); i++)
        if (p->code == code)
            return true;
    return false;
}

/* Takes the pages, or with @check looks whether they are what can be taken. */
static bool select_pages(struct scsi_target *t, const u8 *in, size_t len, bool check)
{
    struct scsi_mode_page p;

    while (len) {
        if (len < 2 || in[0] & 0x40 || !mode_page_find(t, in[0] & 0x3f, &p) || in[1] != p.len ||
            len < 2u + p.len)
            return false;
        for (unsigned i = 0; i < p.len; i++) {
            if ((in[2 + i] ^ p.value[i]) & ~p.changeable[i])
                return false;
            p.value[i] = in[2 + i];
        }
        if (!check && t->is->mode_selected)
            t->is->mode_selected(t, &p);
        in += 2 + p.len;
        len -= 2u + p.len;
    }
    return true;
}

static bool mode_select(struct scsi_target *t, struct scsi_request *r)
{
    u8 in[PARAMETERS_MAX];
    bool ten = ten_bytes(r);
    size_t len = ten ? get_be16(r->cdb + 7) : r->cdb[4], header = ten ? 8 : 4;

    if (r->cdb[1] & 1) /* save pages */
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (len == 0)
        return scsi_good(r);
    if (len > sizeof in || len < header)
        return scsi_fail(r, SENSE_PARAMETER_LENGTH);
    if (r->out_bytes < len) {
        r->overrun = true;
        return scsi_good(r);
    }
    iov_read(r->out, r->out_count, 0, in, len);
    r->moved = len;
    size_t skip = header + (ten ? get_be16(in + 6) : in[3]);
    if (skip > len)
        return scsi_fail(r, SENSE_PARAMETER_LENGTH);
    if (!select_pages(t, in + skip, len - skip, true))
        return scsi_fail(r, SENSE_INVALID_PARAMETER);
    select_pages(t, in + skip, len - skip, false);
    return scsi_good(r);
}

/* --- REPORT SUPPORTED OPERATION CODES (6.35), one command only --- */

/* What each bit of a CDB may be (usage data) is not told apart: all but the opcode may be set. */
static bool report_opcodes(struct scsi_target *t, struct scsi_request *r)
{
    enum { SERVICE_ACTION = 0x0c, NOT_SUPPORTED = 1, SUPPORTED = 3 };
    static const u8 cdb_length[8] = {6, 10, 10, 0, 16, 12, 0, 0};
    const u8 *cdb = r->cdb;
    u8 opcode = cdb[3], out[4 + 16] = {0};
    unsigned len = cdb_length[opcode >> 5];

    if ((cdb[1] & 0x1f) != SERVICE_ACTION || (cdb[2] & 7) == 0 || (cdb[2] & 7) > 3)
        return scsi_fail(r, SENSE_INVALID_FIELD);
    if (!scsi_command_find(t, opcode)) {
        out[1] = NOT_SUPPORTED;
        return scsi_reply(r, out, 4, get_be32(cdb + 6));
    }
    out[1] = SUPPORTED;
    put_be16(out + 2, (u16)len);
    memset(out + 4, 0xff, len);
    out[4] = opcode;
    return scsi_reply(r, out, 4 + len, get_be32(cdb + 6));
}

const struct scsi_command scsi_primary_commands[] = {
    {0x00, COMMAND_MEDIUM, test_unit_ready},
    {0x03, COMMAND_ANY_LUN | COMMAND_NO_ATTENTION, request_sense},
    {0x12, COMMAND_ANY_LUN | COMMAND_NO_ATTENTION, inquiry},
    {0x15, 0, mode_select},
    {0x1a, 0, mode_sense},
    {0x55, 0, mode_select},
    {0x5a, 0, mode_sense},
    {0xa0, COMMAND_ANY_LUN | COMMAND_NO_ATTENTION, report_luns},
    {0xa3, 0, report_opcodes},
    {0, 0, NULL},
};
