/* SCSI targets by their commands, with a disk whose requests the test completes by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake-disk.h"
#include "hw/scsi.h"
#include "state/codec.h"

#define BUFFER (FAKE_SIZE + 4096)

enum {
    NO_MEDIUM = 0x23a02,
    WRITE_ERROR = 0x30c00,
    READ_ERROR = 0x31100,
    PARAMETER_LENGTH = 0x51a00,
    INVALID_OPCODE = 0x52000,
    OUT_OF_RANGE = 0x52100,
    INVALID_FIELD = 0x52400,
    INVALID_LUN = 0x52500,
    INVALID_PARAMETER = 0x52600,
    SAVING_UNSUPPORTED = 0x53900,
    REMOVAL_PREVENTED = 0x55302,
    MEDIUM_CHANGED = 0x62800,
    RESET = 0x62900,
    WRITE_PROTECTED = 0x72700,
    NO_SPACE = 0x72707,
    MISCOMPARE = 0xe1d00,
};

struct fixture {
    struct fake_disk disk;
    struct scsi_target t;
    struct scsi_request r;
    struct iovec out, in;
    u8 sent[BUFFER], got[BUFFER];
    unsigned done;
};

static void done(struct scsi_request *r)
{
    container_of(r, struct fixture, r)->done++;
}

static struct fixture *make(enum scsi_type type, bool read_only)
{
    struct fixture *f = calloc(1, sizeof *f);
    fake_disk_init(&f->disk, NULL, read_only);
    f->disk.base.discard_unit = 65536;
    scsi_target_init(&f->t, type, 3, &f->disk.base, "serial-1");
    f->t.unit_attention = 0;
    return f;
}

static int setup(void **state)
{
    *state = make(SCSI_DISK, false);
    return 0;
}

static int setup_read_only(void **state)
{
    *state = make(SCSI_DISK, true);
    return 0;
}

static int setup_cdrom(void **state)
{
    *state = make(SCSI_CDROM, true);
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

/* Runs a command with room for @out bytes to the target and @in from it. True: it has ended. */
static bool start(struct fixture *f, const u8 *cdb, size_t cdb_len, size_t out, size_t in)
{
    f->out = (struct iovec){f->sent, out};
    f->in = (struct iovec){f->got, in};
    memset(f->got, 0xaa, sizeof f->got);
    memset(f->r.cdb, 0, sizeof f->r.cdb);
    memcpy(f->r.cdb, cdb, cdb_len);
    f->r.out = &f->out;
    f->r.in = &f->in;
    f->r.out_count = out > 0;
    f->r.in_count = in > 0;
    f->r.out_bytes = out;
    f->r.in_bytes = in;
    f->r.done = done;
    f->done = 0;
    return scsi_execute(&f->t, &f->r) || f->done;
}

/* Its sense, 0 when it worked. */
static u32 sense(const struct fixture *f)
{
    if (f->r.status == SCSI_GOOD) {
        assert_int_equal(f->r.sense_len, 0);
        return 0;
    }
    assert_int_equal(f->r.status, SCSI_CHECK_CONDITION);
    assert_int_equal(f->r.sense_len, SCSI_SENSE_SIZE);
    assert_int_equal(f->r.sense[0], 0x70);
    return (u32)f->r.sense[2] << 16 | get_be16(f->r.sense + 12);
}

#define RUN(f, out, in, ...)                               \
    ({                                                     \
        const u8 cdb_[] = {__VA_ARGS__};                   \
        assert_true(start(f, cdb_, sizeof cdb_, out, in)); \
        assert_false((f)->r.overrun);                      \
        sense(f);                                          \
    })

#define OVERRUNS(f, out, in, ...)                          \
    ({                                                     \
        const u8 cdb_[] = {__VA_ARGS__};                   \
        assert_true(start(f, cdb_, sizeof cdb_, out, in)); \
        (f)->r.overrun && !(f)->r.moved;                   \
    })

/* --- every target --- */

static void inquiry_names_the_device(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 96, 0x12, 0, 0, 0, 96), 0);
    assert_int_equal(f->got[0], SCSI_DISK);
    assert_int_equal(f->got[1], 0);
    assert_int_equal(f->got[4], 91);
    assert_memory_equal(f->got + 8, "TRAPEZE HARDDISK        ", 24);
    assert_int_equal(f->r.moved, 96);
}

static void a_reply_ends_where_the_allocation_does(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 96, 0x12, 0, 0, 0, 5), 0);
    assert_int_equal(f->r.moved, 5);
    assert_int_equal(f->got[5], 0xaa);
    assert_int_equal(RUN(f, 0, 8, 0x12, 0, 0, 0, 96), 0);
    assert_int_equal(f->r.moved, 8);
    assert_int_equal(RUN(f, 0, 0, 0x12, 0, 0, 0, 0), 0);
    assert_int_equal(f->r.moved, 0);
}

static void each_page_of_product_data_in_the_list_is_there(void **state)
{
    struct fixture *f = *state;
    u8 list[64];
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0, 0, 255), 0);
    memcpy(list, f->got, sizeof list);
    assert_int_equal(get_be16(list + 2), 6);
    for (unsigned i = 0; i < list[3]; i++) {
        assert_int_equal(RUN(f, 0, 255, 0x12, 1, list[4 + i], 0, 255), 0);
        assert_int_equal(f->got[1], list[4 + i]);
        assert_int_equal(f->r.moved, 4u + get_be16(f->got + 2));
    }
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0x84, 0, 255), INVALID_FIELD);
    assert_int_equal(RUN(f, 0, 255, 0x12, 0, 0x80, 0, 255), INVALID_FIELD);
}

static void product_data_tell_serial_number_and_limits(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0x80, 0, 255), 0);
    assert_memory_equal(f->got + 4, "serial-1", 8);
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0x83, 0, 255), 0);
    assert_memory_equal(f->got + 8, "TRAPEZE serial-1", 16);
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0xb0, 0, 255), 0);
    assert_int_equal(get_be32(f->got + 28), 65536 / 512);
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0xb2, 0, 255), 0);
    assert_int_equal(f->got[5], 0xe0);
}

static void without_a_serial_number_there_is_no_page_of_it(void **state)
{
    struct fixture *f = *state;
    f->t.serial[0] = 0;
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0x80, 0, 255), INVALID_FIELD);
    assert_int_equal(RUN(f, 0, 255, 0x12, 1, 0x83, 0, 255), 0);
    assert_memory_equal(f->got + 8, "TRAPEZE disk-3", 14);
}

static void a_reset_is_reported_once(void **state)
{
    struct fixture *f = *state;
    scsi_target_reset(&f->t);
    assert_int_equal(RUN(f, 0, 96, 0x12, 0, 0, 0, 96), 0);
    assert_int_equal(RUN(f, 0, 0, 0x00), RESET);
    assert_int_equal(RUN(f, 0, 0, 0x00), 0);
}

static void request_sense_takes_what_is_pending(void **state)
{
    struct fixture *f = *state;
    scsi_target_reset(&f->t);
    assert_int_equal(RUN(f, 0, 18, 0x03, 0, 0, 0, 18), 0);
    assert_int_equal(f->got[2], 6);
    assert_int_equal(f->got[12], 0x29);
    assert_int_equal(RUN(f, 0, 18, 0x03, 1, 0, 0, 18), 0);
    assert_int_equal(f->got[0], 0x72);
    assert_int_equal(f->got[1], 0);
    assert_int_equal(RUN(f, 0, 0, 0x00), 0);
}

static void there_is_one_logical_unit(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(f->r.moved, 16);
    assert_int_equal(get_be32(f->got), 8);
    assert_int_equal(RUN(f, 0, 64, 0xa0, 0, 3, 0, 0, 0, 0, 0, 0, 64), INVALID_FIELD);
    f->r.lun = 1;
    assert_int_equal(RUN(f, 0, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(RUN(f, 0, 96, 0x12, 0, 0, 0, 96), 0);
    assert_int_equal(f->got[0], 0x7f);
    assert_int_equal(RUN(f, 0, 0, 0x00), INVALID_LUN);
    assert_int_equal(RUN(f, 0, 0, 0xff), INVALID_LUN);
    assert_int_equal(RUN(f, 0, 18, 0x03, 0, 0, 0, 18), 0);
    assert_int_equal(f->got[12], 0x25);
}

static void unknown_commands_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 0, 0x04), INVALID_OPCODE);
    assert_int_equal(RUN(f, 0, 0, 0x7f), INVALID_OPCODE);
    assert_int_equal(RUN(f, 0, 12, 0x43, 0, 0, 0, 0, 0, 0, 0, 12), INVALID_OPCODE);
}

static void supported_commands_can_be_asked_for(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 32, 0xa3, 0x0c, 1, 0x93, 0, 0, 0, 0, 0, 32), 0);
    assert_int_equal(f->got[1], 3);
    assert_int_equal(get_be16(f->got + 2), 16);
    assert_int_equal(RUN(f, 0, 32, 0xa3, 0x0c, 1, 0x04, 0, 0, 0, 0, 0, 32), 0);
    assert_int_equal(f->got[1], 1);
    assert_int_equal(RUN(f, 0, 32, 0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 32), INVALID_FIELD);
}

/* --- mode pages --- */

static void mode_sense_has_pages_in_both_forms(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 64, 0x1a, 0, 0x08, 0, 64), 0);
    assert_int_equal(f->got[0], 4 + 8 + 20 - 1);
    assert_int_equal(f->got[2], 0x10);
    assert_int_equal(get_be32(f->got + 4), FAKE_SECTORS);
    assert_int_equal(f->got[12], 0x08);
    assert_int_equal(f->got[14], 4);
    assert_int_equal(RUN(f, 0, 64, 0x5a, 8, 0x0a, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(get_be16(f->got), 8 + 12 - 2);
    assert_int_equal(f->got[8], 0x0a);
    assert_int_equal(RUN(f, 0, 255, 0x1a, 8, 0x3f, 0, 255), 0);
    assert_int_equal(f->r.moved, 4 + 12 + 20 + 12 + 12);
    assert_int_equal(RUN(f, 0, 64, 0x1a, 0, 0x2a, 0, 64), INVALID_FIELD);
    assert_int_equal(RUN(f, 0, 64, 0x1a, 0, 0xc8, 0, 64), SAVING_UNSUPPORTED);
    assert_int_equal(RUN(f, 0, 64, 0x1a, 0, 0x08, 1, 64), INVALID_FIELD);
}

static u32 select_cache(struct fixture *f, u8 flags, u8 other)
{
    memset(f->sent, 0, 64);
    f->sent[4] = 0x08;
    f->sent[5] = 18;
    f->sent[6] = flags;
    f->sent[10] = other;
    return RUN(f, 24, 0, 0x15, 0x10, 0, 0, 24);
}

static void the_write_cache_can_be_switched_off(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 64, 0x1a, 8, 0x48, 0, 64), 0); /* what can be changed */
    assert_int_equal(f->got[6], 4);
    assert_int_equal(f->got[7], 0);
    assert_int_equal(select_cache(f, 0, 0), 0);
    assert_int_equal(RUN(f, 512, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0, 1), 0);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    assert_int_equal(RUN(f, 0, 64, 0x1a, 8, 0x88, 0, 64), 0); /* as it came */
    assert_int_equal(f->got[6], 4);
    assert_int_equal(select_cache(f, 4, 0), 0);
    assert_int_equal(RUN(f, 512, 0, 0x2a, 0, 0, 0, 0, 1, 0, 0, 1), 0);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
}

static void other_mode_parameters_cannot_be_changed(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(select_cache(f, 0, 1), INVALID_PARAMETER);
    assert_int_equal(select_cache(f, 1, 0), INVALID_PARAMETER);
    assert_true(f->t.writeback);
    f->sent[4] = 0x07;
    assert_int_equal(RUN(f, 24, 0, 0x15, 0x10, 0, 0, 24), INVALID_PARAMETER);
    assert_int_equal(RUN(f, 24, 0, 0x15, 0x10, 0, 0, 23), INVALID_PARAMETER);
    assert_int_equal(RUN(f, 24, 0, 0x15, 0x10, 0, 0, 3), PARAMETER_LENGTH);
    assert_int_equal(RUN(f, 24, 0, 0x15, 0x11, 0, 0, 24), INVALID_FIELD);
    f->sent[3] = 21;
    assert_int_equal(RUN(f, 24, 0, 0x15, 0x10, 0, 0, 24), PARAMETER_LENGTH);
    assert_int_equal(RUN(f, 1024, 0, 0x55, 0x10, 0, 0, 0, 0, 0, 4, 0), PARAMETER_LENGTH);
    assert_int_equal(RUN(f, 0, 0, 0x55, 0x10), 0);
    assert_true(OVERRUNS(f, 20, 0, 0x15, 0x10, 0, 0, 24));
}

/* --- reading and writing --- */

static void capacity_is_reported(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 8, 0x25), 0);
    assert_int_equal(get_be32(f->got), FAKE_SECTORS - 1);
    assert_int_equal(get_be32(f->got + 4), 512);
    assert_int_equal(RUN(f, 0, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 0);
    assert_int_equal(get_be64(f->got), FAKE_SECTORS - 1);
    assert_int_equal(f->got[14], 0x80);
    assert_int_equal(RUN(f, 0, 32, 0x9e, 0x11), INVALID_FIELD);
    f->t.blocks = 1ull << 33;
    assert_int_equal(RUN(f, 0, 8, 0x25), 0);
    assert_int_equal(get_be32(f->got), 0xffffffff);
}

static void all_forms_of_read_read(void **state)
{
    struct fixture *f = *state;
    const u8 *want = f->disk.data + 7 * 512;
    assert_int_equal(RUN(f, 0, 1024, 0x08, 0, 0, 7, 2), 0);
    assert_memory_equal(f->got, want, 1024);
    assert_int_equal(RUN(f, 0, 1024, 0x28, 0, 0, 0, 0, 7, 0, 0, 2), 0);
    assert_memory_equal(f->got, want, 1024);
    assert_int_equal(RUN(f, 0, 1024, 0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 2), 0);
    assert_memory_equal(f->got, want, 1024);
    assert_int_equal(RUN(f, 0, 4096, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2), 0);
    assert_memory_equal(f->got, want, 1024);
    assert_int_equal(f->got[1024], 0xaa);
    assert_int_equal(f->r.moved, 1024);
}

static void the_shortest_read_can_mean_256_blocks(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, FAKE_SIZE, 0x08, 0, 0, 0, 0), 0);
    assert_memory_equal(f->got, f->disk.data, FAKE_SIZE);
    assert_int_equal(RUN(f, 0, 0, 0x28), 0);
    assert_int_equal(f->r.moved, 0);
}

static void all_forms_of_write_write(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 2048; i++)
        f->sent[i] = (u8)(i * 7);
    assert_int_equal(RUN(f, 1024, 0, 0x0a, 0, 0, 1, 2), 0);
    assert_int_equal(RUN(f, 1024, 0, 0x2a, 0, 0, 0, 0, 11, 0, 0, 2), 0);
    assert_int_equal(RUN(f, 1024, 0, 0xaa, 0, 0, 0, 0, 21, 0, 0, 0, 2), 0);
    assert_int_equal(RUN(f, 2048, 0, 0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 31, 0, 0, 0, 2), 0);
    for (unsigned at = 1; at < 40; at += 10)
        assert_memory_equal(f->disk.data + at * 512, f->sent, 1024);
    assert_int_equal(f->disk.data[33 * 512], fake_first_byte(33));
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 0);
}

static void forced_unit_access_flushes(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 512, 0, 0x2a, 8, 0, 0, 0, 1, 0, 0, 1), 0);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    assert_int_equal(RUN(f, 512, 0, 0x0a, 8, 0, 0, 1), OUT_OF_RANGE); /* there it belongs to the address */
    assert_int_equal(RUN(f, 0, 0, 0x35), 0);
    assert_int_equal(RUN(f, 0, 0, 0x91), 0);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 3);
}

static void what_lies_beyond_the_end_is_refused(void **state)
{
    struct fixture *f = *state;
    static const u64 bad[] = {FAKE_SECTORS, FAKE_SECTORS - 1, ~0ull, ~0ull - 1, ~0ull / 512, 1ull << 55};
    u8 cdb[16] = {0};
    static const u8 opcodes[] = {0x88, 0x8a, 0x8f, 0x91, 0x93};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        for (unsigned k = 0; k < ARRAY_SIZE(opcodes); k++) {
            cdb[0] = opcodes[k];
            put_be64(cdb + 2, bad[i]);
            put_be32(cdb + 10, 2);
            assert_true(start(f, cdb, sizeof cdb, 1024, 1024));
            assert_int_equal(sense(f), OUT_OF_RANGE);
        }
    }
    assert_int_equal(RUN(f, 0, 0, 0x2b, 0, 0, 0, 1, 1), OUT_OF_RANGE);
    assert_int_equal(RUN(f, 0, 0, 0x2b, 0, 0, 0, 1, 0), 0);
    assert_int_equal(RUN(f, 0, 1024, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1), INVALID_FIELD);
    assert_int_equal(RUN(f, 0, 1024, 0xa8, 0, 0, 0, 0, 0, 0, 1, 0, 0), INVALID_FIELD);
}

static void short_buffers_are_an_overrun(void **state)
{
    struct fixture *f = *state;
    assert_true(OVERRUNS(f, 0, 1023, 0x28, 0, 0, 0, 0, 7, 0, 0, 2));
    assert_true(OVERRUNS(f, 1023, 0, 0x2a, 0, 0, 0, 0, 7, 0, 0, 2));
    assert_true(OVERRUNS(f, 1024, 0, 0x28, 0, 0, 0, 0, 7, 0, 0, 2));
    assert_true(OVERRUNS(f, 0, 0, 0x2f, 2, 0, 0, 0, 7, 0, 0, 2));
    assert_true(OVERRUNS(f, 511, 0, 0x41, 0, 0, 0, 0, 7, 0, 0, 2));
    assert_true(OVERRUNS(f, 7, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 8));
    assert_int_equal(f->disk.ops[BLOCK_READ] + f->disk.ops[BLOCK_WRITE], 0);
}

static void a_disk_that_answers_later_ends_the_command_then(void **state)
{
    struct fixture *f = *state;
    const u8 cdb[] = {0x2a, 8, 0, 0, 0, 5, 0, 0, 1};
    f->disk.hold = true;
    memset(f->sent, 0x5a, 512);
    assert_false(start(f, cdb, sizeof cdb, 512, 0));
    fake_complete(&f->disk, 1); /* the write; its flush follows */
    assert_int_equal(f->done, 0);
    fake_complete(&f->disk, 1);
    assert_int_equal(f->done, 1);
    assert_int_equal(sense(f), 0);
    assert_int_equal(f->disk.data[5 * 512], 0x5a);
}

static void errors_of_the_host_become_sense(void **state)
{
    struct fixture *f = *state;
    f->disk.fail = -EIO;
    assert_int_equal(RUN(f, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), READ_ERROR);
    assert_int_equal(f->r.moved, 0);
    assert_int_equal(RUN(f, 512, 0, 0x2a, 8, 0, 0, 0, 0, 0, 0, 1), WRITE_ERROR);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 0);
    assert_int_equal(RUN(f, 0, 0, 0x35), WRITE_ERROR);
    f->disk.fail = -ENOSPC;
    assert_int_equal(RUN(f, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), NO_SPACE);
    f->disk.fail = 0;
    assert_int_equal(RUN(f, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 0);
}

static void verify_compares(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 0, 0x2f, 0, 0, 0, 0, 0, 0, 1, 0), 0);
    assert_int_equal(f->disk.ops[BLOCK_READ], 0);
    memcpy(f->sent, f->disk.data + 3 * 512, 8 * 512);
    assert_int_equal(RUN(f, 8 * 512, 0, 0x2f, 2, 0, 0, 0, 3, 0, 0, 8), 0);
    assert_int_equal(f->r.moved, 8 * 512);
    f->sent[8 * 512 - 1] ^= 1;
    assert_int_equal(RUN(f, 8 * 512, 0, 0x2f, 2, 0, 0, 0, 3, 0, 0, 8), MISCOMPARE);
    assert_int_equal(RUN(f, 8 * 512, 0, 0x2f, 2, 0, 0, 0, 3, 0, 0, 7), 0);
    assert_int_equal(RUN(f, 8 * 512, 0, 0x2f, 6, 0, 0, 0, 3, 0, 0, 8), INVALID_FIELD);
}

static bool filled(const struct fixture *f, unsigned first, unsigned count, u8 with)
{
    for (unsigned i = first * 512; i < (first + count) * 512; i++)
        if (f->disk.data[i] != with)
            return false;
    return true;
}

static void write_same_writes_a_block_again_and_again(void **state)
{
    struct fixture *f = *state;
    memset(f->sent, 0x3c, 512);
    assert_int_equal(RUN(f, 512, 0, 0x41, 0, 0, 0, 0, 10, 0, 0, 200), 0);
    assert_true(filled(f, 10, 200, 0x3c));
    assert_int_equal(f->disk.data[210 * 512], fake_first_byte(210));
    memset(f->sent, 0, 512);
    assert_int_equal(RUN(f, 512, 0, 0x93, 8, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 5), 0);
    assert_true(filled(f, 20, 5, 0) && f->disk.unmap);
    assert_int_equal(RUN(f, 0, 0, 0x93, 1, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 5), 0);
    assert_true(filled(f, 30, 5, 0) && !f->disk.unmap);
    assert_int_equal(RUN(f, 512, 0, 0x41, 0, 0, 0, 0, 10), INVALID_FIELD);           /* how many? */
    assert_int_equal(RUN(f, 512, 0, 0x41, 16, 0, 0, 0, 10, 0, 0, 1), INVALID_FIELD); /* anchored */
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 0);
    f->t.writeback = false;
    f->sent[0] = 1;
    assert_int_equal(RUN(f, 512, 0, 0x41, 0, 0, 0, 0, 10, 0, 0, 200), 0);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
}

static void put_unmap(struct fixture *f, u16 bytes, unsigned i, u64 lba, u32 blocks)
{
    put_be16(f->sent, (u16)(bytes + 6));
    put_be16(f->sent + 2, bytes);
    put_be64(f->sent + 8 + 16 * i, lba);
    put_be32(f->sent + 8 + 16 * i + 8, blocks);
}

static void unmap_discards_its_ranges(void **state)
{
    struct fixture *f = *state;
    put_unmap(f, 48, 0, 3, 4);
    put_unmap(f, 48, 1, 100, 0);
    put_unmap(f, 48, 2, FAKE_SECTORS - 1, 1);
    assert_int_equal(RUN(f, 56, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 56), 0);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 2);
    assert_true(filled(f, 3, 4, FAKE_DISCARDED) && filled(f, FAKE_SECTORS - 1, 1, FAKE_DISCARDED));
    assert_int_equal(f->disk.data[100 * 512], fake_first_byte(100));
    assert_int_equal(RUN(f, 56, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 0), 0);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 2);
}

/* A stack has an end: a guest must not choose how deep done() and submissions are in each other. */
static void many_steps_are_a_loop(void **state)
{
    struct fixture *f = *state;
    put_unmap(f, 16 * 255, 0, 0, 1);
    for (unsigned i = 1; i < 255; i++)
        put_unmap(f, 16 * 255, i, i, 1);
    assert_int_equal(RUN(f, 8 + 16 * 255, 0, 0x42, 0, 0, 0, 0, 0, 0, 0x0f, 0xf8), 0);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 255);
    assert_int_equal(f->disk.deepest, 1);
}

static void steps_that_end_later_go_on_there(void **state)
{
    struct fixture *f = *state;
    const u8 cdb[] = {0x42, 0, 0, 0, 0, 0, 0, 0, 56};
    for (unsigned i = 0; i < 3; i++)
        put_unmap(f, 48, i, i, 1);
    f->disk.hold = true;
    assert_false(start(f, cdb, sizeof cdb, 56, 0));
    fake_complete(&f->disk, 1);
    assert_int_equal(f->done, 0);
    f->disk.hold = false; /* the last step ends within that of the second */
    fake_complete(&f->disk, 1);
    assert_int_equal(f->done, 1);
    assert_int_equal(sense(f), 0);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 3);
}

static void a_wrong_list_discards_nothing(void **state)
{
    struct fixture *f = *state;
    put_unmap(f, 32, 0, 3, 4);
    put_unmap(f, 32, 1, FAKE_SECTORS, 1);
    assert_int_equal(RUN(f, 40, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 40), OUT_OF_RANGE);
    put_unmap(f, 32, 1, ~0ull, 2);
    assert_int_equal(RUN(f, 40, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 40), OUT_OF_RANGE);
    put_unmap(f, 32, 1, 0, 1);
    assert_int_equal(RUN(f, 40, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 39), PARAMETER_LENGTH);
    assert_int_equal(RUN(f, 40, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 7), PARAMETER_LENGTH);
    assert_int_equal(RUN(f, 40, 0, 0x42, 1, 0, 0, 0, 0, 0, 0, 40), INVALID_FIELD);
    put_be16(f->sent + 2, 31);
    assert_int_equal(RUN(f, 40, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 40), PARAMETER_LENGTH);
    put_be16(f->sent + 2, 0x1000);
    assert_int_equal(RUN(f, 8192, 0, 0x42, 0, 0, 0, 0, 0, 0, 0x20, 0), INVALID_PARAMETER);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 0);
}

static void a_read_only_disk_is_not_written(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), WRITE_PROTECTED);
    assert_int_equal(RUN(f, 512, 0, 0x41, 0, 0, 0, 0, 0, 0, 0, 1), WRITE_PROTECTED);
    assert_int_equal(RUN(f, 512, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), WRITE_PROTECTED);
    assert_int_equal(RUN(f, 0, 64, 0x1a, 0, 0x3f, 0, 64), 0);
    assert_int_equal(f->got[2], 0x90);
    assert_int_equal(RUN(f, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0);
}

/* --- CD-ROMs --- */

static void a_cdrom_has_blocks_of_2048_bytes(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 96, 0x12, 0, 0, 0, 96), 0);
    assert_int_equal(get_be16(f->got), 0x0580);
    assert_int_equal(RUN(f, 0, 8, 0x25), 0);
    assert_int_equal(get_be32(f->got), FAKE_SECTORS / 4 - 1);
    assert_int_equal(get_be32(f->got + 4), 2048);
    assert_int_equal(RUN(f, 0, 4096, 0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 2), 0);
    assert_memory_equal(f->got, f->disk.data + 3 * 2048, 4096);
    assert_int_equal(RUN(f, 0, 2048, 0x28, 0, 0, 0, 0, 64, 0, 0, 1), OUT_OF_RANGE);
    assert_int_equal(RUN(f, 2048, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), INVALID_OPCODE);
}

static void the_table_of_contents_has_one_track(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 64, 0x43, 0, 0, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(f->r.moved, 20);
    assert_int_equal(f->got[6], 1);
    assert_int_equal(f->got[14], 0xaa);
    assert_int_equal(get_be32(f->got + 16), FAKE_SECTORS / 4);
    assert_int_equal(RUN(f, 0, 64, 0x43, 2, 0, 0, 0, 0, 0xaa, 0, 64), 0);
    assert_int_equal(f->r.moved, 12);
    assert_int_equal(get_be32(f->got + 8), 2 << 8 | (150 + FAKE_SECTORS / 4) % 75);
    assert_int_equal(RUN(f, 0, 64, 0x43, 0, 1, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(f->r.moved, 12);
    assert_int_equal(RUN(f, 0, 64, 0x43, 0, 0, 0, 0, 0, 2, 0, 64), INVALID_FIELD);
    assert_int_equal(RUN(f, 0, 64, 0x43, 0, 2, 0, 0, 0, 0, 0, 64), INVALID_FIELD);
    assert_int_equal(RUN(f, 0, 64, 0x51, 0, 0, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(f->r.moved, 34);
}

static void an_ejected_medium_is_not_there(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 0, 0x1b, 0, 0, 0, 2), 0);
    assert_int_equal(RUN(f, 0, 0, 0x00), NO_MEDIUM);
    assert_int_equal(RUN(f, 0, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), NO_MEDIUM);
    assert_int_equal(RUN(f, 0, 8, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8), 0);
    assert_int_equal(f->got[1], 0x10);
    assert_int_equal(RUN(f, 0, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
    assert_int_equal(get_be32(f->got), 0x00060410);
    assert_int_equal(get_be16(f->got + 4), 0x0301); /* removed, open */
    assert_int_equal(RUN(f, 0, 18, 0x03, 0, 0, 0, 18), 0);
    assert_int_equal(f->got[12], 0x3a);
    assert_int_equal(RUN(f, 0, 0, 0x1b, 0, 0, 0, 3), 0);
    assert_int_equal(RUN(f, 0, 0, 0x00), MEDIUM_CHANGED);
    assert_int_equal(RUN(f, 0, 0, 0x00), 0);
    assert_int_equal(RUN(f, 0, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
    assert_int_equal(get_be16(f->got + 4), 0x0202); /* a new medium */
    assert_int_equal(RUN(f, 0, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
    assert_int_equal(f->got[4], 0);
}

static void a_target_without_blocks_has_no_medium(void **state)
{
    struct fixture *f = *state;
    f->disk.base.size = 0;
    scsi_target_init(&f->t, f->t.type, 3, &f->disk.base, NULL);
    f->t.unit_attention = 0;
    assert_int_equal(RUN(f, 0, 8, 0x25), NO_MEDIUM);
    assert_int_equal(RUN(f, 0, 0, 0), NO_MEDIUM);
    assert_int_equal(RUN(f, 0, 18, 0x03, 0, 0, 0, 18), 0);
    assert_int_equal(f->got[2], NO_MEDIUM >> 16);
    assert_int_equal(RUN(f, 0, 512, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), NO_MEDIUM);
    assert_int_equal(RUN(f, 0, 96, 0x12, 0, 0, 0, 96), 0);
}

static void a_locked_medium_stays(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RUN(f, 0, 0, 0x1e, 0, 0, 0, 1), 0);
    assert_int_equal(RUN(f, 0, 0, 0x1b, 0, 0, 0, 2), REMOVAL_PREVENTED);
    assert_int_equal(RUN(f, 0, 64, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64), 0);
    assert_int_equal(f->got[8 + 6], 0x2b);
    assert_int_equal(RUN(f, 0, 0, 0x1e, 0, 0, 0, 0), 0);
    assert_int_equal(RUN(f, 0, 0, 0x1b, 0, 0, 0, 2), 0);
    scsi_target_reset(&f->t);
    assert_int_equal(RUN(f, 0, 0, 0x00), RESET);
    assert_int_equal(RUN(f, 0, 0, 0x00), 0);
}

static void the_configuration_tells_what_kind_of_disc(void **state)
{
    struct fixture *f = *state;
    f->t.unit_attention = 0x2800;
    assert_int_equal(RUN(f, 0, 128, 0x46, 0, 0, 0, 0, 0, 0, 0, 128), 0);
    assert_int_equal(get_be16(f->got + 6), 8);
    assert_int_equal(f->r.moved, 4 + get_be32(f->got));
    f->t.blocks = 2000000;
    assert_int_equal(RUN(f, 0, 128, 0x46, 2, 0, 0x1f, 0, 0, 0, 0, 128), 0);
    assert_int_equal(get_be16(f->got + 6), 16);
    assert_int_equal(f->r.moved, 12);
    assert_int_equal(f->got[10] & 1, 1);
    assert_int_equal(RUN(f, 0, 128, 0x46, 1, 0, 0, 0, 0, 0, 0, 128), 0);
    assert_int_equal(RUN(f, 0, 128, 0x46, 3, 0, 0, 0, 0, 0, 0, 128), INVALID_FIELD);
    f->t.tray_open = true;
    assert_int_equal(RUN(f, 0, 128, 0x46, 0, 0, 0, 0, 0, 0, 0, 128), 0);
    assert_int_equal(get_be16(f->got + 6), 0);
    assert_int_equal(RUN(f, 0, 8, 0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8), INVALID_FIELD);
}

/* --- whatever comes --- */

static void random_commands_do_no_harm(void **state)
{
    static const u8 opcodes[] = {0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x25, 0x28,
                                 0x2a, 0x2f, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x55,
                                 0x5a, 0x88, 0x8a, 0x93, 0x9e, 0xa0, 0xa3, 0xbd};
    struct fixture *f = *state;
    u64 x = 88172645463325252ull;
    for (unsigned n = 0; n < 20000; n++) {
        u8 cdb[16];
        for (unsigned i = 0; i < sizeof cdb; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            cdb[i] = (x >> 8 & 3) ? 0 : (u8)x;
        }
        cdb[0] = opcodes[(x >> 20) % ARRAY_SIZE(opcodes)];
        for (unsigned i = 0; i < 64; i++)
            f->sent[i] = (u8)(x >> i);
        assert_true(start(f, cdb, sizeof cdb, (x >> 32) % 8192, (x >> 48) % 8192));
        sense(f);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define CD(name) cmocka_unit_test_setup_teardown(name, setup_cdrom, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(inquiry_names_the_device),
        T(a_reply_ends_where_the_allocation_does),
        T(each_page_of_product_data_in_the_list_is_there),
        T(product_data_tell_serial_number_and_limits),
        T(without_a_serial_number_there_is_no_page_of_it),
        T(a_reset_is_reported_once),
        T(request_sense_takes_what_is_pending),
        T(there_is_one_logical_unit),
        T(unknown_commands_are_refused),
        T(supported_commands_can_be_asked_for),
        T(mode_sense_has_pages_in_both_forms),
        T(the_write_cache_can_be_switched_off),
        T(other_mode_parameters_cannot_be_changed),
        T(capacity_is_reported),
        T(all_forms_of_read_read),
        T(the_shortest_read_can_mean_256_blocks),
        T(all_forms_of_write_write),
        T(forced_unit_access_flushes),
        T(what_lies_beyond_the_end_is_refused),
        T(short_buffers_are_an_overrun),
        T(a_disk_that_answers_later_ends_the_command_then),
        T(errors_of_the_host_become_sense),
        T(verify_compares),
        T(write_same_writes_a_block_again_and_again),
        T(unmap_discards_its_ranges),
        T(many_steps_are_a_loop),
        T(steps_that_end_later_go_on_there),
        T(a_wrong_list_discards_nothing),
        cmocka_unit_test_setup_teardown(a_read_only_disk_is_not_written, setup_read_only, teardown),
        CD(a_cdrom_has_blocks_of_2048_bytes),
        CD(the_table_of_contents_has_one_track),
        CD(an_ejected_medium_is_not_there),
        CD(a_locked_medium_stays),
        T(a_target_without_blocks_has_no_medium),
        CD(a_target_without_blocks_has_no_medium),
        CD(the_configuration_tells_what_kind_of_disc),
        T(random_commands_do_no_harm),
        CD(random_commands_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
