/* The stream codec of described state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "state/codec.h"

struct part {
    u16 a;
    bool on;
};

struct thing {
    u8 byte;
    u64 wide;
    u32 table[5];
    u8 blob[7];
    bool flags[3];
    struct part part;
    struct part parts[2];
    u32 not_saved;
    u32 later;
    unsigned saves, loaded_version;
};

static const struct field part_fields[] = {FIELD(struct part, a), FIELD(struct part, on), FIELD_END};
static const struct state_desc part_desc = {.name = "part", .version = 1, .fields = part_fields};

static void thing_pre_save(void *object)
{
    ((struct thing *)object)->saves++;
}

static int thing_post_load(void *object, unsigned version, struct error *err)
{
    struct thing *t = object;
    t->loaded_version = version;
    return t->byte == 0xee ? error_set(err, EINVAL, "byte is impossible") : 0;
}

#define THING_FIELDS_V1                                                                     \
    FIELD(struct thing, byte), FIELD(struct thing, wide), FIELD_ARRAY(struct thing, table), \
        FIELD_BYTES(struct thing, blob), FIELD_ARRAY(struct thing, flags),                  \
        FIELD_STRUCT(struct thing, part, part_desc), FIELD_STRUCT_ARRAY(struct thing, parts, part_desc)

static const struct field thing_fields_v1[] = {THING_FIELDS_V1, FIELD_END};
static const struct state_desc thing_v1 = {.name = "thing",
                                           .version = 1,
                                           .fields = thing_fields_v1,
                                           .pre_save = thing_pre_save,
                                           .post_load = thing_post_load};
static const struct field thing_fields_v2[] = {THING_FIELDS_V1, FIELD_SINCE(struct thing, later, 2),
                                               FIELD_END};
static const struct state_desc thing_v2 = {.name = "thing",
                                           .version = 2,
                                           .fields = thing_fields_v2,
                                           .pre_save = thing_pre_save,
                                           .post_load = thing_post_load};

static const struct thing sample = {
    .byte = 0x11,
    .wide = 0x1122334455667788,
    .table = {1, 2, 3, 4, 0xfffffff5},
    .blob = "abcdefg",
    .flags = {true, false, true},
    .part = {7, true},
    .parts = {{8, false}, {9, true}},
    .not_saved = 1,
    .later = 77,
};

static void save(struct state_buf *b, const struct state_desc *desc, u32 instance)
{
    struct thing t = sample;
    assert_int_equal(state_save(b, desc, instance, &t, NULL), 0);
    assert_int_equal(t.saves, 1);
}

static void record_brings_every_field_back(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t = {.not_saved = 5};
    save(&b, &thing_v1, 3);
    assert_int_equal(state_load(&b, &thing_v1, 3, &t, NULL), 0);
    assert_int_equal(t.byte, sample.byte);
    assert_true(t.wide == sample.wide);
    assert_memory_equal(t.table, sample.table, sizeof t.table);
    assert_memory_equal(t.blob, sample.blob, sizeof t.blob);
    assert_memory_equal(t.flags, sample.flags, sizeof t.flags);
    assert_int_equal(t.part.a, 7);
    assert_int_equal(t.parts[1].a, 9);
    assert_true(t.parts[1].on);
    assert_int_equal(t.not_saved, 5);
    assert_int_equal(t.loaded_version, 1);
    assert_int_equal(b.pos, b.len);
    state_buf_release(&b);
}

static void older_stream_leaves_new_fields_at_reset(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t = {.later = 5};
    save(&b, &thing_v1, 0);
    assert_int_equal(state_load(&b, &thing_v2, 0, &t, NULL), 0);
    assert_int_equal(t.later, 5);
    assert_int_equal(t.byte, sample.byte);
    assert_int_equal(t.loaded_version, 1);
    state_buf_release(&b);
}

static void newer_stream_is_read_without_its_new_fields(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t = {.later = 5};
    save(&b, &thing_v2, 0);
    assert_int_equal(state_load(&b, &thing_v1, 0, &t, NULL), 0);
    assert_int_equal(t.later, 5);
    assert_int_equal(t.parts[0].a, 8);
    state_buf_release(&b);
}

static void records_follow_each_other(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t = {.byte = 0};
    save(&b, &thing_v1, 0);
    save(&b, &thing_v2, 1);
    assert_int_equal(state_load(&b, &thing_v1, 0, &t, NULL), 0);
    assert_int_equal(state_load(&b, &thing_v2, 1, &t, NULL), 0);
    assert_int_equal(state_load(&b, &thing_v2, 2, &t, NULL), -EINVAL);
    state_buf_release(&b);
}

static void another_object_is_refused(void **state)
{
    static const struct state_desc other = {.name = "other", .version = 1, .fields = part_fields};
    struct state_buf b = {.data = NULL};
    struct thing t = {.byte = 0};
    struct error err;
    save(&b, &thing_v1, 1);
    assert_int_equal(state_load(&b, &thing_v1, 0, &t, &err), -EINVAL);
    assert_string_equal(err.text, "the saved state of thing 0 is missing: found 'thing' 1");
    assert_int_equal(state_load(&b, &other, 1, &t, &err), -EINVAL);
    assert_int_equal(t.byte, 0);
    state_buf_release(&b);
}

static void field_of_another_size_is_refused(void **state)
{
    static const struct field fields[] = {{.name = "byte",
                                           .kind = FIELD_KIND_INT,
                                           .offset = offsetof(struct thing, wide),
                                           .size = 8,
                                           .count = 1,
                                           .since = 1},
                                          FIELD_END};
    static const struct state_desc desc = {.name = "thing", .version = 1, .fields = fields};
    struct state_buf b = {.data = NULL};
    struct thing t = {.byte = 0};
    struct error err;
    save(&b, &thing_v1, 0);
    assert_int_equal(state_load(&b, &desc, 0, &t, &err), -EINVAL);
    assert_string_equal(err.text, "the saved state of thing has another form of 'byte'");
    state_buf_release(&b);
}

static void object_may_refuse_what_was_loaded(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t = sample;
    struct error err;
    t.byte = 0xee;
    assert_int_equal(state_save(&b, &thing_v1, 0, &t, NULL), 0);
    assert_int_equal(state_load(&b, &thing_v1, 0, &t, &err), -EINVAL);
    assert_string_equal(err.text, "byte is impossible");
    state_buf_release(&b);
}

/* The only byte of the stream that follows the name "on" and its 13 bytes of form. */
static u8 *find_bool(struct state_buf *b)
{
    for (size_t i = 0; i + 16 < b->len; i++) {
        if (!memcmp(b->data + i, "\2on", 3))
            return b->data + i + 3 + 13;
    }
    return NULL;
}

static void bool_other_than_0_and_1_is_refused(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t;
    save(&b, &thing_v1, 0);
    u8 *p = find_bool(&b);
    assert_non_null(p);
    assert_int_equal(*p, 1);
    *p = 2;
    assert_int_equal(state_load(&b, &thing_v1, 0, &t, NULL), -EINVAL);
    state_buf_release(&b);
}

static void every_cut_stream_is_refused(void **state)
{
    struct state_buf b = {.data = NULL};
    struct thing t;
    save(&b, &thing_v2, 0);
    for (size_t len = 0; len < b.len; len++) {
        /* An exact allocation, so that a sanitizer sees any read beyond. */
        struct state_buf cut = {.data = malloc(len + !len), .len = len};
        memcpy(cut.data, b.data, len);
        assert_int_equal(state_load(&cut, &thing_v2, 0, &t, NULL), -EINVAL);
        assert_int_equal(cut.pos, 0);
        free(cut.data);
    }
    state_buf_release(&b);
}

/* Whatever a byte is changed to, loading succeeds or fails but stays within the object and the stream. */
static void changed_streams_do_no_harm(void **state)
{
    struct {
        u64 before;
        struct thing t;
        u64 after;
    } guarded = {0x1234, {.byte = 0}, 0x5678};
    struct state_buf b = {.data = NULL};
    static const u8 values[] = {0, 1, 0x7f, 0x80, 0xff};
    save(&b, &thing_v2, 0);
    for (size_t i = 0; i < b.len; i++) {
        u8 old = b.data[i];
        for (unsigned k = 0; k < ARRAY_SIZE(values); k++) {
            b.data[i] = values[k];
            b.pos = 0;
            int r = state_load(&b, &thing_v2, 0, &guarded.t, NULL);
            assert_true(r == 0 || r == -EINVAL);
            assert_true(b.pos <= b.len);
            assert_int_equal(guarded.before, 0x1234);
            assert_int_equal(guarded.after, 0x5678);
        }
        b.data[i] = old;
    }
    state_buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(record_brings_every_field_back),
        cmocka_unit_test(older_stream_leaves_new_fields_at_reset),
        cmocka_unit_test(newer_stream_is_read_without_its_new_fields),
        cmocka_unit_test(records_follow_each_other),
        cmocka_unit_test(another_object_is_refused),
        cmocka_unit_test(field_of_another_size_is_refused),
        cmocka_unit_test(object_may_refuse_what_was_loaded),
        cmocka_unit_test(bool_other_than_0_and_1_is_refused),
        cmocka_unit_test(every_cut_stream_is_refused),
        cmocka_unit_test(changed_streams_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
