/* Guest RAM, page tracking and the I/O maps. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "memory/memory.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static int setup(void **state)
{
    static struct memory m;
    *state = &m;
    return memory_init(&m, 2 * MIB, NULL);
}

static int setup_split(void **state)
{
    static struct memory m;
    *state = &m;
    return memory_init(&m, 4 * GIB, NULL);
}

static int teardown(void **state)
{
    memory_release(*state);
    return 0;
}

/* What a guest of 4 GiB has above the hole. */
#define HIGH_SIZE (4 * GIB - MEMORY_HOLE_START)

static void refuses_odd_sizes(void **state)
{
    struct memory m;
    struct error err = {0};
    assert_int_equal(memory_init(&m, 0, &err), -EINVAL);
    assert_int_equal(memory_init(&m, MIB + 4096, &err), -EINVAL);
    assert_int_equal(memory_init(&m, MEMORY_MAX_SIZE + MIB, &err), -EINVAL);
    assert_string_equal(err.text, "guest RAM must be a multiple of 1M, from 1M to 64G");
}

static void ram_above_the_hole_follows_low_ram_on_the_host(void **state)
{
    struct memory *m = *state;
    assert_int_equal(m->low_size, MEMORY_HOLE_START);
    assert_int_equal(m->high_size, HIGH_SIZE);
    assert_ptr_equal(memory_ram(m, MEMORY_HOLE_END), m->ram + MEMORY_HOLE_START);
    assert_null(memory_ram(m, MEMORY_HOLE_START));
    assert_null(memory_ram(m, MEMORY_HOLE_END - 1));
    assert_null(memory_ram(m, MEMORY_HOLE_END + HIGH_SIZE));
    assert_int_equal(memory_offset_gpa(m, MEMORY_HOLE_START + 5), MEMORY_HOLE_END + 5);
}

static void span_ends_at_the_edges_of_ram(void **state)
{
    struct memory *m = *state;
    assert_ptr_equal(memory_span(m, 0, MEMORY_VGA_START), m->ram);
    assert_null(memory_span(m, 0, MEMORY_VGA_START + 1));
    assert_null(memory_span(m, MEMORY_VGA_START, 1));
    assert_null(memory_span(m, MEMORY_VGA_START - 1, 0x20002));
    assert_null(memory_span(m, MEMORY_VGA_END - 1, 2));
    assert_non_null(memory_span(m, MEMORY_VGA_END, MEMORY_HOLE_START - MEMORY_VGA_END));
    assert_null(memory_span(m, MEMORY_HOLE_START - 1, 2));
    assert_null(memory_span(m, MEMORY_HOLE_END - 1, 2));
    assert_non_null(memory_span(m, MEMORY_HOLE_END, HIGH_SIZE));
    assert_null(memory_span(m, MEMORY_HOLE_END, HIGH_SIZE + 1));
    assert_null(memory_span(m, MEMORY_HOLE_START - 1, MEMORY_HOLE_END - MEMORY_HOLE_START + 2));
}

static void span_refuses_ranges_that_wrap(void **state)
{
    struct memory *m = *state;
    assert_null(memory_span(m, 0x1000, ~0ull));
    assert_null(memory_span(m, ~0ull, 2));
    assert_null(memory_span(m, MEMORY_HOLE_END, ~0ull - MEMORY_HOLE_END));
    assert_null(memory_span(m, 0x1000, 0));
}

static void write_outside_ram_changes_nothing(void **state)
{
    struct memory *m = *state;
    u64 v = ~0ull;
    assert_int_equal(memory_write(m, 2 * MIB - 4, &v, 8), -EFAULT);
    assert_int_equal(memory_read(m, 2 * MIB - 4, &v, 4), 0);
    assert_int_equal((u32)v, 0);
    assert_int_equal(memory_write(m, 2 * MIB, &v, 0), 0);
}

static void code_page_is_tracked_and_its_generation_moves_with_writes(void **state)
{
    struct memory *m = *state;
    u8 byte = 1;
    assert_false(memory_page_tracked(m, 0x5000));
    assert_true(memory_mark_code(m, 0x5000));
    assert_true(memory_page_tracked(m, 0x5000));
    u32 gen = memory_code_gen(m, 0x5000);
    memory_write(m, 0x4fff, &byte, 1);
    assert_int_equal(memory_code_gen(m, 0x5000), gen);
    memory_write(m, 0x5001, &byte, 1);
    assert_int_not_equal(memory_code_gen(m, 0x5000), gen);
    memory_unmark_code(m, 0x5000);
    assert_false(memory_page_tracked(m, 0x5000));
}

static void each_who_marks_a_page_drops_mappings_until_one_has_done_so(void **state)
{
    struct memory *m = *state;
    memory_guard_code(m, 0x5000);
    assert_false(memory_page_tracked(m, 0x5000)); /* not code: nothing to guard */
    assert_true(memory_mark_code(m, 0x5000));
    assert_true(memory_mark_code(m, 0x5fff));
    memory_guard_code(m, 0x5000);
    assert_false(memory_mark_code(m, 0x5fff));
    memory_unmark_code(m, 0x5000);
    assert_false(memory_page_tracked(m, 0x5000));
    assert_true(memory_mark_code(m, 0x5000));
}

static void watch_is_told_of_writes_to_code_of_interest(void **state)
{
    struct memory *m = *state;
    _Atomic u32 kick = 0;
    struct code_watch w = {0};
    struct error err = {0};
    u64 pages[CODE_WATCH_PAGES];
    u8 byte = 1;
    assert_int_equal(memory_watch_add(m, &w, &err), 0);
    memory_watch_kick(m, &w, CODE_WATCH_KICKS - 1, &kick);
    memory_mark_code(m, 0x5000);
    memory_mark_code(m, 0x6000);
    w.interest[6] = 1;
    memory_write(m, 0x5001, &byte, 1);
    assert_int_equal(kick, 0);
    memory_write(m, 0x6001, &byte, 1);
    assert_int_equal(kick, 1);
    assert_true(memory_watch_pending(m, &w));
    assert_int_equal(memory_watch_take(m, &w, pages), 1);
    assert_int_equal(pages[0], 6);
    assert_false(memory_watch_pending(m, &w));
    assert_int_equal(memory_watch_take(m, &w, pages), 0);
    memory_watch_remove(m, &w);
    memory_write(m, 0x6001, &byte, 1);
}

static void watch_that_overflows_says_so(void **state)
{
    struct memory *m = *state;
    struct code_watch w = {0};
    struct error err = {0};
    u64 pages[CODE_WATCH_PAGES];
    u8 byte = 1;
    assert_int_equal(memory_watch_add(m, &w, &err), 0);
    for (u64 page = 0; page <= CODE_WATCH_PAGES; page++) {
        memory_mark_code(m, page << PAGE_SHIFT);
        w.interest[page] = 1;
        memory_write(m, page << PAGE_SHIFT, &byte, 1);
    }
    assert_int_equal(memory_watch_take(m, &w, pages), -1);
    assert_int_equal(memory_watch_take(m, &w, pages), 0);
    memory_watch_remove(m, &w);
}

static void write_beside_code_leaves_its_generation(void **state)
{
    struct memory *m = *state;
    u64 v = 0;
    memory_mark_code(m, 0x5000);
    memory_mark_lines(m, 0x5084, 60);
    u32 gen = memory_code_gen(m, 0x5000);
    memory_write(m, 0x5078, &v, 8);
    memory_write(m, 0x50c0, &v, 8);
    assert_int_equal(memory_code_gen(m, 0x5000), gen);
    memory_write(m, 0x5079, &v, 8);
    assert_int_equal(memory_code_gen(m, 0x5000), gen + 1);
    memory_mark_lines(m, 0x5fff, 1);
    memory_write(m, 0x5ffc, &v, 8);
    assert_int_equal(memory_code_gen(m, 0x5000), gen + 2);
}

static void write_across_pages_notes_both(void **state)
{
    struct memory *m = *state;
    u64 v = 0;
    memory_mark_code(m, 0x5000);
    memory_mark_code(m, 0x6000);
    u32 first = memory_code_gen(m, 0x5000), second = memory_code_gen(m, 0x6000);
    memory_write(m, 0x5ffc, &v, 8);
    assert_int_not_equal(memory_code_gen(m, 0x5000), first);
    assert_int_not_equal(memory_code_gen(m, 0x6000), second);
}

static void dirty_log_reports_each_written_page_once(void **state)
{
    struct memory *m = *state;
    u64 bitmap[2 * MIB / PAGE_SIZE / 64];
    u8 byte = 1;
    memory_write(m, 0x3000, &byte, 1);
    memory_dirty_log_start(m);
    assert_true(memory_page_tracked(m, 0x7000));
    memory_write(m, 0x7000, &byte, 1);
    memory_note_write(m, 0x41000, 1);
    assert_int_equal(memory_dirty_log_fetch(m, bitmap), 2);
    assert_int_equal(bitmap[0], BIT(7));
    assert_int_equal(bitmap[1], BIT(1));
    assert_int_equal(memory_dirty_log_fetch(m, bitmap), 0);
    assert_true(memory_page_tracked(m, 0x7000));
    memory_dirty_log_stop(m);
    assert_false(memory_page_tracked(m, 0x7000));
}

/* --- I/O --- */

struct probe {
    struct io_region region;
    u64 offset[8], value[8];
    unsigned size[8], calls;
    u8 bytes[64]; /* what reads see */
    struct memory *unmap_from;
};

static void probe_note(struct probe *p, u64 offset, u64 value, unsigned size)
{
    assert_true(p->calls < 8);
    p->offset[p->calls] = offset;
    p->value[p->calls] = value;
    p->size[p->calls++] = size;
    if (p->unmap_from)
        memory_unmap(p->unmap_from, &p->region);
}

static u64 probe_read(struct io_region *r, u64 offset, unsigned size)
{
    struct probe *p = container_of(r, struct probe, region);
    u64 v = 0;
    probe_note(p, offset, 0, size);
    memcpy(&v, p->bytes + offset, size);
    return v;
}

static void probe_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    probe_note(container_of(r, struct probe, region), offset, value, size);
}

static const struct io_ops byte_ops = {probe_read, probe_write, 1, 1};
static const struct io_ops dword_ops = {probe_read, probe_write, 4, 4};
static const struct io_ops any_ops = {probe_read, probe_write, 0, 0};

static void probe_init(struct probe *p, const struct io_ops *ops, u64 size)
{
    *p = (struct probe){.calls = 0};
    for (unsigned i = 0; i < sizeof p->bytes; i++)
        p->bytes[i] = (u8)(0xa0 + i);
    io_region_init(&p->region, "probe", ops, size);
}

static void nothing_there_reads_as_all_ones(void **state)
{
    struct memory *m = *state;
    assert_int_equal(memory_pio_read(m, 0x80, 1), 0xff);
    assert_int_equal(memory_pio_read(m, 0xffff, 4), 0xffffffff);
    assert_true(memory_mmio_read(m, 0xfed00000, 8) == ~0ull);
    memory_mmio_write(m, 0xfed00000, 1, 8);
    memory_mmio_write(m, ~0ull - 3, 1, 8);
}

static void large_access_is_split_to_the_largest_size(void **state)
{
    struct memory *m = *state;
    struct probe p;
    probe_init(&p, &byte_ops, 8);
    assert_int_equal(memory_map_pio(m, &p.region, 0x3f8, NULL), 0);
    assert_int_equal(memory_pio_read(m, 0x3f9, 4), 0xa4a3a2a1);
    assert_int_equal(p.calls, 4);
    p.calls = 0;
    memory_pio_write(m, 0x3f8, 0xbeef, 2);
    assert_int_equal(p.calls, 2);
    assert_int_equal(p.value[0], 0xef);
    assert_int_equal(p.value[1], 0xbe);
    assert_int_equal(p.offset[1], 1);
}

static void small_read_is_cut_out_of_the_smallest_size(void **state)
{
    struct memory *m = *state;
    struct probe p;
    probe_init(&p, &dword_ops, 16);
    assert_int_equal(memory_map_mmio(m, &p.region, 0xfec00000, NULL), 0);
    assert_int_equal(memory_mmio_read(m, 0xfec00006, 1), 0xa6);
    assert_int_equal(p.offset[0], 4);
    assert_int_equal(p.size[0], 4);
    assert_int_equal(memory_mmio_read(m, 0xfec00003, 2), 0xa4a3);
    assert_true(memory_mmio_read(m, 0xfec00000, 8) == 0xa7a6a5a4a3a2a1a0);
}

static void write_below_the_smallest_size_vanishes(void **state)
{
    struct memory *m = *state;
    struct probe p;
    probe_init(&p, &dword_ops, 16);
    assert_int_equal(memory_map_mmio(m, &p.region, 0xfec00000, NULL), 0);
    memory_mmio_write(m, 0xfec00000, 0xff, 1);
    assert_int_equal(p.calls, 0);
    memory_mmio_write(m, 0xfec00000, 0x1122334455667788, 8);
    assert_int_equal(p.calls, 2);
    assert_int_equal(p.value[0], 0x55667788);
    assert_int_equal(p.value[1], 0x11223344);
}

static void access_over_the_end_of_a_region_goes_to_each_owner(void **state)
{
    struct memory *m = *state;
    struct probe a, b;
    probe_init(&a, &any_ops, 3);
    probe_init(&b, &any_ops, 4);
    assert_int_equal(memory_map_pio(m, &a.region, 0x60, NULL), 0);
    assert_int_equal(memory_map_pio(m, &b.region, 0x64, NULL), 0);
    assert_true(memory_pio_read(m, 0x62, 4) == 0xa1a0ffa2);
    for (unsigned i = 0; i < a.calls; i++)
        assert_true(a.offset[i] + a.size[i] <= a.region.size);
}

static void regions_must_not_overlap(void **state)
{
    struct memory *m = *state;
    struct probe a, b;
    struct error err;
    probe_init(&a, &any_ops, 0x1000);
    probe_init(&b, &any_ops, 0x2000);
    assert_int_equal(memory_map_mmio(m, &a.region, 0xe0001000, NULL), 0);
    assert_int_equal(memory_map_mmio(m, &b.region, 0xe0000000, &err), -EBUSY);
    assert_int_equal(memory_map_mmio(m, &b.region, 0xe0001fff, &err), -EBUSY);
    assert_int_equal(memory_map_mmio(m, &b.region, 0xdffff000, NULL), 0);
    memory_unmap(m, &b.region);
    assert_int_equal(memory_map_mmio(m, &b.region, 0xe0002000, NULL), 0);
    assert_ptr_equal(memory_find_mmio(m, 0xe0001fff), &a.region);
    assert_ptr_equal(memory_find_mmio(m, 0xe0002000), &b.region);
    memory_unmap(m, &b.region);
    assert_null(memory_find_mmio(m, 0xe0002000));
}

static void regions_must_not_cover_ram_or_wrap(void **state)
{
    struct memory *m = *state;
    struct probe p;
    probe_init(&p, &any_ops, 0x20000);
    assert_int_equal(memory_map_mmio(m, &p.region, 0x100000, NULL), -EINVAL);
    assert_int_equal(memory_map_mmio(m, &p.region, 2 * MIB - 1, NULL), -EINVAL);
    assert_int_equal(memory_map_mmio(m, &p.region, ~0ull - 0x1ffff + 1, NULL), -EINVAL);
    assert_int_equal(memory_map_pio(m, &p.region, 0, NULL), -EINVAL);
    assert_int_equal(memory_map_mmio(m, &p.region, MEMORY_VGA_START, NULL), 0);
}

static void region_may_unmap_itself_during_an_access(void **state)
{
    struct memory *m = *state;
    struct probe p;
    probe_init(&p, &byte_ops, 4);
    p.unmap_from = m;
    assert_int_equal(memory_map_pio(m, &p.region, 0xcf8, NULL), 0);
    assert_true(memory_pio_read(m, 0xcf8, 4) == 0xffffffa0);
    assert_int_equal(p.calls, 1);
}

/* The region last told of; @rings counts mappings less unmappings. */
struct listener {
    struct doorbell_watch watch;
    const struct io_region *region;
    int rings;
};

static void doorbells_mapped(struct doorbell_watch *w, struct io_region *r, bool mapped)
{
    struct listener *l = container_of(w, struct listener, watch);
    l->region = r;
    l->rings += mapped ? 1 : -1;
}

static void doorbell_watch_is_told_where_doorbells_are(void **state)
{
    struct memory *m = *state;
    struct listener l = {.watch.mapped = doorbells_mapped};
    struct probe plain, early, late;
    probe_init(&plain, &any_ops, 16);
    probe_init(&early, &any_ops, 16);
    probe_init(&late, &any_ops, 16);
    early.region.doorbells = late.region.doorbells =
        (struct io_doorbells){.offset = 4, .stride = 4, .count = 2};
    assert_int_equal(memory_map_mmio(m, &plain.region, 0xc0000000, NULL), 0);
    assert_int_equal(memory_map_mmio(m, &early.region, 0xc0001000, NULL), 0);
    memory_set_doorbell_watch(m, &l.watch);
    assert_ptr_equal(l.region, &early.region);
    assert_int_equal(memory_map_mmio(m, &late.region, 0xc0002000, NULL), 0);
    assert_ptr_equal(l.region, &late.region);
    assert_int_equal(l.rings, 2);
    memory_unmap(m, &late.region);
    assert_int_equal(l.rings, 1);
    memory_set_doorbell_watch(m, NULL);
    assert_int_equal(l.rings, 0);
    memory_unmap(m, &early.region);
    memory_unmap(m, &plain.region);
    assert_int_equal(l.rings, 0);
}

#define IN(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_odd_sizes),
        cmocka_unit_test_setup_teardown(ram_above_the_hole_follows_low_ram_on_the_host, setup_split,
                                        teardown),
        cmocka_unit_test_setup_teardown(span_ends_at_the_edges_of_ram, setup_split, teardown),
        cmocka_unit_test_setup_teardown(span_refuses_ranges_that_wrap, setup_split, teardown),
        IN(write_outside_ram_changes_nothing),
        IN(code_page_is_tracked_and_its_generation_moves_with_writes),
        IN(each_who_marks_a_page_drops_mappings_until_one_has_done_so),
        IN(watch_is_told_of_writes_to_code_of_interest),
        IN(watch_that_overflows_says_so),
        IN(write_beside_code_leaves_its_generation),
        IN(write_across_pages_notes_both),
        IN(dirty_log_reports_each_written_page_once),
        IN(nothing_there_reads_as_all_ones),
        IN(large_access_is_split_to_the_largest_size),
        IN(small_read_is_cut_out_of_the_smallest_size),
        IN(write_below_the_smallest_size_vanishes),
        IN(access_over_the_end_of_a_region_goes_to_each_owner),
        IN(regions_must_not_overlap),
        IN(regions_must_not_cover_ram_or_wrap),
        IN(region_may_unmap_itself_during_an_access),
        IN(doorbell_watch_is_told_where_doorbells_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
