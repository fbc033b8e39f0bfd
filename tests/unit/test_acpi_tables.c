/* ACPI tables: what every system checks before it believes them. (iasl looks at them in tests/guest.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/memory-map.h"
#include "machine/mptable.h"
#include "machine/smbios.h"

static const struct acpi_config config = {
    .cpus = 5,
    .mmio_base = MAP_PCI_MMIO32,
    .mmio_end = MAP_PCI_MMIO32_END,
    .high_base = MAP_PCI_MMIO64,
    .high_end = MAP_PCI_MMIO64_END,
    .io_base = PORT_PCI_IO,
    .io_end = PORT_PCI_IO_END,
    .ecam_base = MAP_ECAM,
};

static struct acpi_tables tables;

static int build(void **state)
{
    return acpi_build(&tables, &config, MAP_FIRMWARE_TABLES, NULL);
}

static int release(void **state)
{
    acpi_release(&tables);
    return 0;
}

static unsigned sum(const u8 *p, u32 len)
{
    u8 s = 0;
    while (len--)
        s = (u8)(s + *p++);
    return s;
}

static const u8 *find(const char *name)
{
    for (unsigned i = 0; i < tables.count; i++)
        if (!strcmp(tables.table[i].name, name))
            return tables.image + tables.table[i].offset;
    fail_msg("no table %s", name);
    return NULL;
}

static const u8 *at(u64 gpa)
{
    assert_in_range(gpa, tables.base, tables.base + tables.len - 1);
    return tables.image + (gpa - tables.base);
}

static void checksums_are_zero(void **state)
{
    for (unsigned i = 0; i < tables.count; i++) {
        const u8 *p = tables.image + tables.table[i].offset;
        if (!strcmp(tables.table[i].name, "FACS"))
            continue;
        assert_int_equal(sum(p, tables.table[i].len), 0);
    }
    assert_int_equal(sum(find("RSDP"), 20), 0);
}

static void headers_carry_signature_and_length(void **state)
{
    for (unsigned i = 0; i < tables.count; i++) {
        const u8 *p = tables.image + tables.table[i].offset;
        if (!strcmp(tables.table[i].name, "RSDP"))
            continue;
        assert_memory_equal(p, tables.table[i].name, 4);
        assert_int_equal(get_le32(p + 4), tables.table[i].len);
    }
}

static void tables_do_not_overlap(void **state)
{
    u32 end = 0;
    for (unsigned i = 0; i < tables.count; i++) {
        assert_true(tables.table[i].offset >= end);
        end = tables.table[i].offset + tables.table[i].len;
    }
    assert_int_equal(end, tables.len);
    assert_true(tables.base + tables.len <= MAP_FIRMWARE_TABLES_END);
}

static void rsdp_stands_first_and_points_to_the_roots(void **state)
{
    assert_memory_equal(tables.image, "RSD PTR ", 8);
    assert_memory_equal(at(get_le32(tables.image + 16)), "RSDT", 4);
    assert_memory_equal(at(get_le64(tables.image + 24)), "XSDT", 4);
}

static void roots_list_the_same_tables(void **state)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "HPET"};
    const u8 *rsdt = find("RSDT"), *xsdt = find("XSDT");

    assert_int_equal(get_le32(rsdt + 4), 36 + 4 * ARRAY_SIZE(names));
    assert_int_equal(get_le32(xsdt + 4), 36 + 8 * ARRAY_SIZE(names));
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        assert_memory_equal(at(get_le64(xsdt + 36 + 8 * i)), names[i], 4);
        assert_int_equal(get_le32(rsdt + 36 + 4 * i), get_le64(xsdt + 36 + 8 * i));
    }
}

static void fadt_points_to_dsdt_and_facs(void **state)
{
    const u8 *fadt = find("FACP");
    assert_memory_equal(at(get_le64(fadt + 140)), "DSDT", 4);
    assert_memory_equal(at(get_le32(fadt + 40)), "DSDT", 4);
    assert_memory_equal(at(get_le32(fadt + 36)), "FACS", 4);
    assert_int_equal(get_le32(fadt + 36) % 64, 0);
}

static void madt_lists_every_processor_once(void **state)
{
    const u8 *madt = find("APIC");
    u32 len = get_le32(madt + 4);
    unsigned lapics = 0, ioapics = 0;

    for (u32 i = 44; i < len; i += madt[i + 1]) {
        assert_true(madt[i + 1] >= 2);
        if (madt[i] == 0)
            assert_int_equal(madt[i + 3], lapics++);
        if (madt[i] == 1)
            ioapics++;
    }
    assert_int_equal(lapics, config.cpus);
    assert_int_equal(ioapics, 1);
}

static void mcfg_names_the_ecam(void **state)
{
    assert_int_equal(get_le64(find("MCFG") + 44), MAP_ECAM);
}

/* --- SMBIOS --- */

/* Walks the structures as Linux's dmi_scan does: formatted area, then strings up to two zero bytes. */
static void smbios_structures_end_exactly_at_their_last(void **state)
{
    static struct smbios s;
    static const u8 uuid[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const struct smbios_config c = {
        .uuid = uuid, .name = "a", .cpus = 16, .low_memory = 3ull << 30, .high_memory = 1ull << 30};
    u32 i;
    unsigned processors = 0, type = 0;

    assert_int_equal(smbios_build(&s, &c, MAP_SMBIOS, NULL), 0);
    assert_int_equal(sum(s.image, s.image[6]), 0);
    i = (u32)(get_le64(s.image + 16) - MAP_SMBIOS);
    assert_int_equal(i + get_le32(s.image + 12), s.len);
    while (i < s.len) {
        type = s.image[i];
        processors += type == 4;
        if (type == 1)
            assert_memory_equal(s.image + i + 8, "\3\2\1\0\5\4\7\6\10\11\12\13\14\15\16\17", 16);
        i += s.image[i + 1];
        while (s.image[i] || s.image[i + 1])
            i++;
        i += 2;
    }
    assert_int_equal(i, s.len);
    assert_int_equal(type, 127);
    assert_int_equal(processors, 16);
    assert_true(s.len <= MAP_SMBIOS_END - MAP_SMBIOS);
}

/* --- MP tables --- */

static void mp_table_counts_its_entries(void **state)
{
    static const u8 sizes[] = {20, 8, 8, 8, 8};
    static struct mptable t;
    const u8 *table;
    u32 i, len;
    unsigned entries = 0, processors = 0;

    mptable_build(&t, MAP_MPTABLE, 16, 0, 0, 0x20);
    assert_memory_equal(t.image, "_MP_", 4);
    assert_int_equal(sum(t.image, 16), 0);
    table = t.image + get_le32(t.image + 4) - MAP_MPTABLE;
    assert_memory_equal(table, "PCMP", 4);
    len = get_le16(table + 4);
    assert_int_equal(sum(table, len), 0);
    for (i = 44; i < len; i += sizes[table[i]]) {
        assert_true(table[i] < sizeof sizes);
        processors += table[i] == 0;
        entries++;
    }
    assert_int_equal(i, len);
    assert_int_equal(entries, get_le16(table + 34));
    assert_int_equal(processors, 16);
}

/* --- the AML writer --- */

static void expect_aml(struct aml *a, const char *bytes, size_t len)
{
    assert_int_equal(aml_finish(a), 0);
    assert_int_equal(a->len, len);
    assert_memory_equal(a->data, bytes, len);
    aml_release(a);
}
#define EXPECT_AML(a, s) expect_aml(a, s, sizeof(s) - 1)

static void aml_integers_take_the_shortest_form(void **state)
{
    struct aml a;
    aml_init(&a);
    aml_int(&a, 0);
    aml_int(&a, 1);
    aml_int(&a, 2);
    aml_int(&a, 0x100);
    aml_int(&a, 0x10000);
    aml_int(&a, 0x100000000);
    EXPECT_AML(&a, "\x00\x01\x0a\x02\x0b\x00\x01\x0c\x00\x00\x01\x00\x0e\x00\x00\x00\x00\x01\x00\x00\x00");
}

static void aml_names_are_filled_up_and_prefixed(void **state)
{
    struct aml a;
    aml_init(&a);
    aml_name(&a, "A");
    aml_ref(&a, "\\_SB.PCI0");
    aml_ref(&a, "X.YY.ZZZ");
    EXPECT_AML(&a, "\x08"
                   "A___"
                   "\\\x2e"
                   "_SB_PCI0"
                   "\x2f\x03X___YY__ZZZ_");
}

static void aml_eisaid_packs_letters_and_digits(void **state)
{
    struct aml a;
    aml_init(&a);
    aml_eisaid(&a, "PNP0A08"); /* 0x080AD041 is known from any DSDT */
    EXPECT_AML(&a, "\x0c\x41\xd0\x0a\x08");
}

/* A package length counts itself: at the edges one byte more of body takes one more byte of length. */
static void check_package_length(unsigned body, unsigned length_bytes)
{
    struct aml a;
    u32 value;

    aml_init(&a);
    aml_if_begin(&a);
    for (unsigned i = 0; i < body; i++)
        aml_int(&a, 0);
    aml_end(&a);
    assert_int_equal(aml_finish(&a), 0);
    assert_int_equal(a.len, 1 + length_bytes + body);
    assert_int_equal(a.data[1] >> 6, length_bytes - 1);
    value = length_bytes == 1 ? a.data[1] : a.data[1] & 0xf;
    for (unsigned i = 1; i < length_bytes; i++)
        value |= (u32)a.data[1 + i] << (4 + 8 * (i - 1));
    assert_int_equal(value, body + length_bytes);
    aml_release(&a);
}

static void aml_package_lengths_are_minimal_and_count_themselves(void **state)
{
    check_package_length(0, 1);
    check_package_length(62, 1);
    check_package_length(63, 2);
    check_package_length(0xfff - 2, 2);
    check_package_length(0xfff - 1, 3);
    check_package_length(0xfffff - 3, 3);
    check_package_length(0xfffff - 2, 4);
}

static void aml_resource_template_ends_with_its_tag(void **state)
{
    struct aml a;
    aml_init(&a);
    aml_resources_begin(&a);
    aml_irq(&a, 4);
    aml_end(&a);
    EXPECT_AML(&a, "\x11\x09\x0b\x05\x00\x22\x10\x00\x79\x00");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_are_zero),
        cmocka_unit_test(headers_carry_signature_and_length),
        cmocka_unit_test(tables_do_not_overlap),
        cmocka_unit_test(rsdp_stands_first_and_points_to_the_roots),
        cmocka_unit_test(roots_list_the_same_tables),
        cmocka_unit_test(fadt_points_to_dsdt_and_facs),
        cmocka_unit_test(madt_lists_every_processor_once),
        cmocka_unit_test(mcfg_names_the_ecam),
        cmocka_unit_test(smbios_structures_end_exactly_at_their_last),
        cmocka_unit_test(mp_table_counts_its_entries),
        cmocka_unit_test(aml_integers_take_the_shortest_form),
        cmocka_unit_test(aml_names_are_filled_up_and_prefixed),
        cmocka_unit_test(aml_eisaid_packs_letters_and_digits),
        cmocka_unit_test(aml_package_lengths_are_minimal_and_count_themselves),
        cmocka_unit_test(aml_resource_template_ends_with_its_tag),
    };
    return cmocka_run_group_tests(tests, build, release);
}
