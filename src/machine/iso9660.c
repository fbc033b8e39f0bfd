#include "machine/iso9660.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What is in which block; the files follow. */
enum { VOLUME = 16, TERMINATOR, PATHS_LE, PATHS_BE, ROOT, FIRST_FILE };
enum { PATHS_SIZE = 10 }; /* of a table with one entry */

/* A folder record (9.1) and what Rock Ridge adds to it. */
enum { RECORD = 33, SP_SIZE = 7, PX_SIZE = 36, NM_SIZE = 5, ER_SIZE = 18 };
enum { FLAG_FOLDER = 2 };

/* 7.2.3, 7.3.3: both byte orders. */
static void put_both16(u8 *p, u16 v)
{
    put_le16(p, v);
    put_be16(p + 2, v);
}
static void put_both32(u8 *p, u32 v)
{
    put_le32(p, v);
    put_be32(p + 4, v);
}

static void put_text(u8 *p, const char *text, size_t width)
{
    for (size_t i = 0; i < width; i++)
        p[i] = *text ? (u8)*text++ : ' ';
}

/* 9.1.5 */
static void put_time(u8 *p, time_t when)
{
    struct tm tm = {.tm_year = 70, .tm_mday = 1};

    gmtime_r(&when, &tm);
    p[0] = (u8)tm.tm_year;
    p[1] = (u8)(tm.tm_mon + 1);
    p[2] = (u8)tm.tm_mday;
    p[3] = (u8)tm.tm_hour;
    p[4] = (u8)tm.tm_min;
    p[5] = (u8)tm.tm_sec;
}

static u32 blocks_of(size_t bytes)
{
    return (u32)((bytes + ISO9660_BLOCK - 1) / ISO9660_BLOCK);
}

/* --- records --- */

struct record {
    u8 *at;
    unsigned len;
};

static struct record begin_record(u8 *at, const char *id, u8 id_len, u32 block, u32 size, time_t when)
{
    put_both32(at + 2, block);
    put_both32(at + 10, size);
    put_time(at + 18, when);
    put_both16(at + 28, 1);
    at[32] = id_len;
    memcpy(at + RECORD, id, id_len);
    return (struct record){at, RECORD + id_len + !(id_len & 1)};
}

/* Records have an even length (9.1.1). */
static u8 *end_record(struct record *r)
{
    r->len += r->len & 1;
    r->at[0] = (u8)r->len;
    return r->at + r->len;
}

static u8 *add_entry(struct record *r, const char *signature, u8 size)
{
    u8 *p = r->at + r->len;

    p[0] = (u8)signature[0];
    p[1] = (u8)signature[1];
    p[2] = size;
    p[3] = 1;
    r->len += size;
    return p;
}

/* Mode and links (P1282, 4.1.1); owner is root. */
static void add_px(struct record *r, u32 mode, u32 links)
{
    u8 *p = add_entry(r, "PX", PX_SIZE);

    put_both32(p + 4, mode);
    put_both32(p + 12, links);
}

/* The first record says that there are such entries (SUSP, 5.3), and of which kind (5.5). */
static void add_announcement(struct record *r)
{
    static const char id[] = "RRIP_1991A";
    u8 *p = add_entry(r, "SP", SP_SIZE);

    p[4] = 0xbe;
    p[5] = 0xef;
    p = add_entry(r, "ER", ER_SIZE);
    p[4] = sizeof id - 1;
    p[7] = 1;
    memcpy(p + 8, id, sizeof id - 1);
}

static u8 *put_folder(u8 *at, char id, bool first, time_t when)
{
    struct record r = begin_record(at, &id, 1, ROOT, ISO9660_BLOCK, when);

    r.at[25] = FLAG_FOLDER;
    if (first)
        add_announcement(&r);
    add_px(&r, S_IFDIR | 0555, 2);
    return end_record(&r);
}

/* A name of capitals, digits and '_', as systems without Rock Ridge want it: "USER_DATA.;1". */
static u8 plain_name(const char *name, char *out)
{
    u8 n = 0;
    bool dot = false;

    for (; name[n]; n++) {
        dot |= name[n] == '.';
        out[n] = name[n] == '-' ? '_' : (char)toupper((u8)name[n]);
    }
    if (!dot)
        out[n++] = '.';
    out[n++] = ';';
    out[n++] = '1';
    return n;
}

static u8 *put_file(u8 *at, const struct iso9660_file *f, u32 block, time_t when)
{
    char plain[ISO9660_NAME_MAX + 3];
    u8 len = (u8)strlen(f->name);
    struct record r = begin_record(at, plain, plain_name(f->name, plain), block, (u32)f->size, when);

    add_px(&r, S_IFREG | 0444, 1);
    memcpy(add_entry(&r, "NM", (u8)(NM_SIZE + len)) + NM_SIZE, f->name, len);
    return end_record(&r);
}

/* --- descriptors --- */

/* 8.4 */
static void put_volume(u8 *p, const char *label, u32 blocks, time_t when)
{
    p[0] = 1;
    put_text(p + 1, "CD001", 5);
    p[6] = 1;
    put_text(p + 8, "", 32);
    put_text(p + 40, label, 32);
    put_both32(p + 80, blocks);
    put_both16(p + 120, 1);
    put_both16(p + 124, 1);
    put_both16(p + 128, ISO9660_BLOCK);
    put_both32(p + 132, PATHS_SIZE);
    put_le32(p + 140, PATHS_LE);
    put_be32(p + 148, PATHS_BE);
    struct record root = begin_record(p + 156, "", 1, ROOT, ISO9660_BLOCK, when);
    root.at[25] = FLAG_FOLDER;
    end_record(&root);
    put_text(p + 190, "", 623);
    put_text(p + 574, "TRAPEZE", 128); /* the application */
    for (unsigned i = 0; i < 4; i++)
        memset(p + 813 + 17 * i, '0', 16); /* dates that are not given */
    p[881] = 1;
}

static void put_terminator(u8 *p)
{
    p[0] = 255;
    put_text(p + 1, "CD001", 5);
    p[6] = 1;
}

/* 9.4, in either byte order. */
static void put_paths(u8 *le, u8 *be)
{
    le[0] = be[0] = 1;
    put_le32(le + 2, ROOT);
    put_be32(be + 2, ROOT);
    put_le16(le + 6, 1);
    put_be16(be + 6, 1);
}

/* --- the image --- */

static bool possible(const char *label, const struct iso9660_file *files, unsigned count)
{
    if (strlen(label) > 32 || count > ISO9660_MAX_FILES)
        return false;
    for (unsigned i = 0; i < count; i++) {
        size_t len = strlen(files[i].name);
        if (!len || len > ISO9660_NAME_MAX || files[i].size > ISO9660_FILE_MAX)
            return false;
    }
    return true;
}

int iso9660_build(const char *label, const struct iso9660_file *files, unsigned count, time_t when,
                  u8 **image, size_t *size, struct error *err)
{
    u32 blocks = FIRST_FILE;

    if (!possible(label, files, count))
        return error_set(err, EINVAL, "these files do not fit into an ISO image");
    for (unsigned i = 0; i < count; i++)
        blocks += blocks_of(files[i].size);
    *size = (size_t)blocks * ISO9660_BLOCK;
    u8 *p = *image = calloc(1, *size);
    if (!p)
        return error_set_errno(err, ENOMEM, "cannot make an ISO image");

    put_volume(p + VOLUME * ISO9660_BLOCK, label, blocks, when);
    put_terminator(p + TERMINATOR * ISO9660_BLOCK);
    put_paths(p + PATHS_LE * ISO9660_BLOCK, p + PATHS_BE * ISO9660_BLOCK);
    u8 *record = put_folder(p + ROOT * ISO9660_BLOCK, 0, true, when);
    record = put_folder(record, 1, false, when);
    u32 block = FIRST_FILE;
    for (unsigned i = 0; i < count; i++) {
        record = put_file(record, &files[i], block, when);
        if (files[i].size)
            memcpy(p + (size_t)block * ISO9660_BLOCK, files[i].data, files[i].size);
        block += blocks_of(files[i].size);
    }
    return 0;
}
