/* UUIDs, ISO images and the seed of cloud-init that they come together in. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/uuid.h"
#include "machine/cloud-init.h"
#include "machine/iso9660.h"

/* --- UUIDs --- */

static void uuids_are_parsed_and_formatted(void **state)
{
    static const char text[] = "01234567-89ab-cdef-0123-456789abcdef";
    static const u8 bytes[UUID_SIZE] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                                        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    char again[UUID_TEXT];
    u8 uuid[UUID_SIZE];
    assert_int_equal(uuid_parse(text, uuid), 0);
    assert_memory_equal(uuid, bytes, UUID_SIZE);
    uuid_format(uuid, again);
    assert_string_equal(again, text);
    assert_int_equal(uuid_parse("01234567-89AB-CDEF-0123-456789ABCDEF", uuid), 0);
    assert_memory_equal(uuid, bytes, UUID_SIZE);
}

static void other_texts_are_no_uuids(void **state)
{
    static const char *const bad[] = {"",
                                      "01234567",
                                      "0123456789abcdef0123456789abcdef",
                                      "01234567-89ab-cdef-0123-456789abcde",
                                      "01234567-89ab-cdef-0123-456789abcdef0",
                                      "01234567-89ab-cdef-0123-456789abcdeg",
                                      "0x234567-89ab-cdef-0123-456789abcdef",
                                      " 1234567-89ab-cdef-0123-456789abcdef"};
    u8 uuid[UUID_SIZE];
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(uuid_parse(bad[i], uuid), -EINVAL);
}

static void new_uuids_differ(void **state)
{
    u8 a[UUID_SIZE], b[UUID_SIZE];
    uuid_make(a);
    uuid_make(b);
    assert_memory_not_equal(a, b, UUID_SIZE);
    assert_int_equal(a[6] >> 4, 4);
    assert_int_equal(a[8] >> 6, 2);
}

/* --- a reader of ISO images --- */

struct iso {
    u8 *image;
    size_t size;
};

/* The record of the file that Rock Ridge calls @name. */
static const u8 *find_record(const struct iso *iso, const char *name)
{
    const u8 *volume = iso->image + 16 * ISO9660_BLOCK;
    u32 root = get_le32(volume + 156 + 2);
    assert_in_range(root, 18, iso->size / ISO9660_BLOCK - 1);
    const u8 *p = iso->image + (size_t)root * ISO9660_BLOCK, *end = p + get_le32(volume + 156 + 10);
    for (; p < end && p[0]; p += p[0]) {
        assert_int_equal(p[0] % 2, 0);
        assert_int_equal(get_le32(p + 2), get_be32(p + 6));
        for (const u8 *s = p + 33 + p[32] + !(p[32] & 1); s + 4 <= p + p[0] && s[2]; s += s[2])
            if (s[0] == 'N' && s[1] == 'M' && s[2] == 5 + strlen(name) && !memcmp(s + 5, name, strlen(name)))
                return p;
    }
    return NULL;
}

/* Is the file there, with just this content? */
static bool holds(const struct iso *iso, const char *name, const char *content)
{
    const u8 *r = find_record(iso, name);
    if (!r || get_le32(r + 10) != strlen(content))
        return false;
    u64 at = (u64)get_le32(r + 2) * ISO9660_BLOCK;
    assert_true(at + strlen(content) <= iso->size);
    return !memcmp(iso->image + at, content, strlen(content));
}

static void an_image_holds_its_files(void **state)
{
    char *large = malloc(5001);
    const struct iso9660_file files[] = {
        {"user-data", "one", 3}, {"empty", "", 0}, {"large.file", large, 5000}, {"last", "four", 4}};
    struct iso iso;
    memset(large, 'x', 5000);
    large[5000] = 0;
    assert_int_equal(iso9660_build("cidata", files, 4, 1000000000, &iso.image, &iso.size, NULL), 0);
    const u8 *volume = iso.image + 16 * ISO9660_BLOCK;
    assert_memory_equal(volume, "\1CD001\1", 7);
    assert_memory_equal(volume + 40, "cidata                          ", 32);
    assert_int_equal(get_le32(volume + 80) * (u64)ISO9660_BLOCK, iso.size);
    assert_int_equal(volume[ISO9660_BLOCK], 255);
    assert_true(holds(&iso, "user-data", "one"));
    assert_true(holds(&iso, "empty", ""));
    assert_true(holds(&iso, "large.file", large));
    assert_true(holds(&iso, "last", "four"));
    assert_null(find_record(&iso, "other"));
    const u8 *record = find_record(&iso, "user-data");
    assert_memory_equal(record + 33, "USER_DATA.;1", record[32]);
    assert_int_equal(record[18], 101); /* 2001 */
    free(iso.image);
    free(large);
}

static void what_does_not_fit_is_refused(void **state)
{
    struct iso9660_file many[ISO9660_MAX_FILES + 1];
    struct iso iso;
    for (unsigned i = 0; i <= ISO9660_MAX_FILES; i++)
        many[i] = (struct iso9660_file){"a-name-of-thirty-characters-ab", "x", 1};
    assert_int_equal(iso9660_build("x", many, ISO9660_MAX_FILES, 0, &iso.image, &iso.size, NULL), 0);
    assert_true(holds(&iso, many[0].name, "x"));
    free(iso.image);
    assert_int_equal(iso9660_build("x", many, ISO9660_MAX_FILES + 1, 0, &iso.image, &iso.size, NULL),
                     -EINVAL);
    many[0].name = "a-name-of-thirty-one-characters";
    assert_int_equal(iso9660_build("x", many, 1, 0, &iso.image, &iso.size, NULL), -EINVAL);
    many[0] = (struct iso9660_file){"x", "", (size_t)1 << 32};
    assert_int_equal(iso9660_build("x", many, 1, 0, &iso.image, &iso.size, NULL), -EINVAL);
    assert_int_equal(
        iso9660_build("a label of thirty-three characters", many, 0, 0, &iso.image, &iso.size, NULL),
        -EINVAL);
}

/* --- the seed --- */

static const char uuid[] = "01234567-89ab-cdef-0123-456789abcdef";

struct fixture {
    char path[4][48];
    unsigned files;
    struct error err;
};

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct fixture));
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < f->files; i++)
        unlink(f->path[i]);
    free(f);
    return 0;
}

static const char *file(struct fixture *f, const char *text)
{
    char *path = f->path[f->files++];
    snprintf(path, sizeof f->path[0], "/tmp/trapeze-seed-XXXXXX");
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

static struct iso seed(struct fixture *f, const struct cloud_init *c, const char *name)
{
    struct iso iso;
    int fd;
    if (cloud_init_seed(c, name, uuid, &fd, &f->err))
        fail_msg("%s", f->err.text);
    iso.size = (size_t)lseek(fd, 0, SEEK_END);
    iso.image = malloc(iso.size);
    assert_int_equal(pread(fd, iso.image, iso.size, 0), iso.size);
    close(fd);
    return iso;
}

static void a_seed_gives_name_and_identity(void **state)
{
    struct iso iso = seed(*state, &(struct cloud_init){0}, "my box_7.lan");
    assert_true(holds(&iso, "meta-data",
                      "instance-id: 01234567-89ab-cdef-0123-456789abcdef\nlocal-hostname: my-box-7.lan\n"));
    assert_true(holds(&iso, "user-data", "#cloud-config\n{}\n"));
    assert_true(holds(&iso, "vendor-data", ""));
    assert_null(find_record(&iso, "network-config"));
    free(iso.image);
}

static void files_of_the_user_are_taken_as_they_are(void **state)
{
    struct fixture *f = *state;
    const struct cloud_init c = {.user_data = file(f, "#!/bin/sh\necho\n"),
                                 .meta_data = file(f, "local-hostname: other\ninstance-id: i-7"),
                                 .network_config = file(f, "version: 2\n")};
    struct iso iso = seed(f, &c, "name");
    assert_true(holds(&iso, "user-data", "#!/bin/sh\necho\n"));
    assert_true(holds(&iso, "meta-data", "local-hostname: other\ninstance-id: i-7\n"));
    assert_true(holds(&iso, "network-config", "version: 2\n"));
    free(iso.image);
}

static void keys_are_added_to_the_meta_data(void **state)
{
    struct fixture *f = *state;
    const struct cloud_init c = {.meta_data = file(f, "instance-id: i"),
                                 .ssh_key = {file(f, "# mine\r\nssh-ed25519 AAAA me@\"home\\\r\n\n"),
                                             file(f, "from=\"10.0.2.2\" ecdsa-sha2-nistp256 BBBB")},
                                 .ssh_key_count = 2};
    struct iso iso = seed(f, &c, "n");
    assert_true(
        holds(&iso, "meta-data",
              "instance-id: i\nlocal-hostname: n\npublic-keys:\n  - \"ssh-ed25519 AAAA me@\\\"home\\\\\"\n"
              "  - \"from=\\\"10.0.2.2\\\" ecdsa-sha2-nistp256 BBBB\"\n"));
    assert_true(holds(&iso, "vendor-data", "#cloud-config\ndisable_root: false\n"));
    free(iso.image);
}

static void what_is_no_public_key_is_refused(void **state)
{
    struct fixture *f = *state;
    struct cloud_init c = {.ssh_key_count = 1};
    int fd;
    c.ssh_key[0] = file(f, "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    assert_int_equal(cloud_init_seed(&c, "n", uuid, &fd, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "private"));
    c.ssh_key[0] = file(f, "hello\n");
    assert_int_equal(cloud_init_seed(&c, "n", uuid, &fd, &f->err), -EINVAL);
    c.ssh_key[0] = file(f, "# nothing\n");
    assert_int_equal(cloud_init_seed(&c, "n", uuid, &fd, &f->err), -EINVAL);
    c.ssh_key[0] = "/nonexistent/key.pub";
    assert_int_equal(cloud_init_seed(&c, "n", uuid, &fd, &f->err), -ENOENT);
}

static void keys_come_from_one_place(void **state)
{
    struct fixture *f = *state;
    struct cloud_init c = {.ssh_key = {file(f, "ssh-rsa AAAA\n")}, .ssh_key_count = 1};
    int fd;
    c.meta_data = file(f, "x: y\npublic-keys: []\n");
    assert_int_equal(cloud_init_seed(&c, "n", uuid, &fd, &f->err), -EINVAL);
    c.meta_data = file(f, " {\"instance-id\": 1}");
    assert_int_equal(cloud_init_seed(&c, "n", uuid, &fd, &f->err), -EINVAL);
    c.ssh_key_count = 0;
    struct iso iso = seed(f, &c, "n");
    assert_true(holds(&iso, "meta-data", " {\"instance-id\": 1}"));
    free(iso.image);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uuids_are_parsed_and_formatted),
        cmocka_unit_test(other_texts_are_no_uuids),
        cmocka_unit_test(new_uuids_differ),
        cmocka_unit_test(an_image_holds_its_files),
        cmocka_unit_test(what_does_not_fit_is_refused),
        T(a_seed_gives_name_and_identity),
        T(files_of_the_user_are_taken_as_they_are),
        T(keys_are_added_to_the_meta_data),
        T(what_is_no_public_key_is_refused),
        T(keys_come_from_one_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
