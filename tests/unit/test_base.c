/* Errors, numbers, strings, counters, logs and clocks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/strbuf.h"
#include "base/tally.h"

static void error_returns_its_negative_code_and_keeps_one_line(void **state)
{
    struct error err;
    assert_int_equal(error_set(&err, EINVAL, "bad %s\nnews", "thing"), -EINVAL);
    assert_int_equal(err.code, EINVAL);
    assert_string_equal(err.text, "bad thing news");
    assert_int_equal(error_set(NULL, EIO, "nobody listens"), -EIO);
}

static void error_with_errno_names_the_reason(void **state)
{
    struct error err;
    assert_int_equal(error_set_errno(&err, ENOENT, "cannot open '%s'", "x.img"), -ENOENT);
    assert_string_equal(err.text, "cannot open 'x.img': No such file or directory");
}

static void error_may_wrap_itself(void **state)
{
    struct error err;
    error_set(&err, EIO, "inner");
    error_set(&err, err.code, "outer: %s", err.text);
    assert_string_equal(err.text, "outer: inner");
}

static void error_text_is_cut_at_its_size(void **state)
{
    struct error err;
    error_set_errno(&err, EIO, "%0600d", 0);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

static void numbers_must_fill_the_string(void **state)
{
    u64 v = 7;
    assert_int_equal(parse_u64("18446744073709551615", &v), 0);
    assert_true(v == ~0ull);
    assert_int_equal(parse_u64("0xfF", &v), 0);
    assert_int_equal(v, 255);
    assert_int_equal(parse_u64("010", &v), 0);
    assert_int_equal(v, 10);
    static const char *const bad[] = {"", "x", "0x", "-1", "+1", " 1", "1 ", "1k", "0x1g", "1.5"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        v = 7;
        assert_int_equal(parse_u64(bad[i], &v), -EINVAL);
        assert_int_equal(v, 7);
    }
    assert_int_equal(parse_u64("18446744073709551616", &v), -ERANGE);
    assert_int_equal(parse_u64("0x10000000000000000", &v), -ERANGE);
}

static void sizes_have_suffixes(void **state)
{
    u64 v = 0;
    assert_int_equal(parse_size("512", &v), 0);
    assert_int_equal(v, 512);
    assert_int_equal(parse_size("2k", &v), 0);
    assert_int_equal(v, 2048);
    assert_int_equal(parse_size("3M", &v), 0);
    assert_int_equal(v, 3 << 20);
    assert_int_equal(parse_size("0x10G", &v), 0);
    assert_true(v == 16ull << 30);
    assert_int_equal(parse_size("1T", &v), 0);
    assert_true(v == 1ull << 40);
    assert_int_equal(parse_size("1MB", &v), -EINVAL);
    assert_int_equal(parse_size("M", &v), -EINVAL);
    assert_int_equal(parse_size("1P", &v), -EINVAL);
    assert_int_equal(parse_size("16777216T", &v), -ERANGE);
}

static void strbuf_grows_and_is_always_terminated(void **state)
{
    struct strbuf b;
    strbuf_init(&b);
    assert_string_equal(b.text, "");
    for (int i = 0; i < 500; i++)
        strbuf_addf(&b, "%03d,", i);
    strbuf_add(&b, "end\0", 4);
    assert_int_equal(b.len, 2004);
    assert_memory_equal(b.text + 1996, "499,end", 8);
    strbuf_release(&b);
    assert_string_equal(b.text, "");
    char *text = strbuf_detach(&b);
    assert_string_equal(text, "");
    free(text);
}

static void counters_add_up_and_print_only_what_counted(void **state)
{
    struct counters a = {.insns = 3, .ipis = 1}, b = {.insns = 4};
    counters_add(&a, &b);
    assert_int_equal(a.insns, 7);
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    counters_print(&a, f);
    fclose(f);
    assert_non_null(strstr(text, "7  insns"));
    assert_non_null(strstr(text, "interprocessor interrupts sent"));
    assert_null(strstr(text, "halts"));
    free(text);
}

static void tallies_add_up_and_print_the_most_frequent_first(void **state)
{
    struct tally a = {.used = 0}, b = {.used = 0};
    char names[TALLY_MAX][4], *text = NULL;
    size_t len;
    tally_count(&a, "clac", 2);
    tally_count(&b, "iret", 5);
    tally_count(&b, "clac", 1);
    tally_add(&a, &b);
    FILE *f = open_memstream(&text, &len);
    tally_print(&a, "seen", f);
    fclose(f);
    const char *iret = strstr(text, "5  iret"), *clac = strstr(text, "3  clac");
    assert_true(iret && clac && iret < clac);
    assert_null(strstr(text, "others"));
    free(text);
    for (unsigned i = 0; i < TALLY_MAX; i++) {
        snprintf(names[i], sizeof names[i], "%u", i);
        tally_count(&a, names[i], 1);
    }
    assert_int_equal(a.others, 2);
}

/* Collects what is logged meanwhile. */
static char log_path[] = "/tmp/trapeze-test-log-XXXXXX";

static const char *read_log(void)
{
    static char text[8192];
    FILE *f = fopen(log_path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    assert_int_equal(truncate(log_path, 0), 0);
    return text;
}

static int open_test_log(void **state)
{
    int fd = mkstemp(log_path);
    if (fd < 0)
        return -1;
    close(fd);
    return log_open(log_path, NULL);
}

static int remove_test_log(void **state)
{
    return unlink(log_path);
}

static void log_drops_what_is_above_its_level(void **state)
{
    log_error("no %d", 1);
    log_warn("hm");
    log_info("quiet");
    assert_string_equal(read_log(), "trapeze: no 1\ntrapeze: warning: hm\n");
    log_set_level(LOG_INFO);
    log_info("heard");
    log_set_level(LOG_WARN);
    assert_string_equal(read_log(), "trapeze: heard\n");
}

static void log_lets_no_control_characters_through(void **state)
{
    log_error("a\033[2Jb\nc");
    assert_string_equal(read_log(), "trapeze: a?[2Jb?c\n");
}

static void guest_messages_are_limited(void **state)
{
    for (int i = 0; i < 1000; i++)
        log_guest("bad guest");
    unsigned lines = 0;
    for (const char *p = read_log(); (p = strchr(p, '\n')); p++)
        lines++;
    assert_in_range(lines, 1, 31); /* the loop may fall into two or three seconds */
}

static void trace_is_enabled_by_name(void **state)
{
    struct error err;
    assert_int_equal(trace_enable("pio,nonsense", &err), -EINVAL);
    assert_string_equal(err.text, "no trace category 'nonsense'");
    assert_int_equal(trace_enable("", &err), -EINVAL);
    assert_int_equal(trace_enable("pio,", &err), -EINVAL);
    assert_int_equal(trace_mask, 0);
    trace(mmio, "not this");
    assert_int_equal(trace_enable("mmio,pio", &err), 0);
    trace(mmio, "read %d", 4);
    assert_string_equal(read_log(), "mmio: read 4\n");
    assert_int_equal(trace_enable("all", &err), 0);
    assert_true(trace_mask == MASK(TRACE_COUNT));
    trace_mask = 0;
}

static void ns_survive_the_way_to_cycles_and_back(void **state)
{
    if (clock_tsc_khz() <= 1000000)
        skip(); /* a cycle is longer than 1 ns */
    for (u64 ns = 1; ns < 1ull << 55; ns = ns * 3 + 1)
        assert_int_equal(clock_tsc_to_ns(clock_ns_to_tsc(ns)), ns);
}

static void virtual_clock_stands_still_while_stopped(void **state)
{
    struct vclock c;
    vclock_init(&c);
    assert_int_equal(vclock_ns(&c), 0);
    assert_true(vclock_to_host_ns(&c, 5) == ~0ull);
    vclock_start(&c);
    while (vclock_ns(&c) < 1000)
        ;
    vclock_stop(&c);
    u64 ns = vclock_ns(&c), tsc = vclock_tsc(&c);
    u64 host = clock_host_ns();
    while (clock_host_ns() < host + 10000)
        ;
    assert_int_equal(vclock_ns(&c), ns);
    assert_int_equal(vclock_tsc(&c), tsc);
    vclock_start(&c);
    assert_in_range(vclock_ns(&c), ns, ns + 3600 * NS_PER_SEC);
}

static void virtual_ns_and_tsc_agree(void **state)
{
    struct vclock c;
    vclock_init(&c);
    vclock_start(&c);
    for (int i = 0; i < 1000; i++) {
        u64 before = vclock_ns(&c);
        u64 ns = clock_tsc_to_ns(vclock_tsc(&c));
        u64 after = vclock_ns(&c);
        assert_in_range(ns, before, after);
    }
}

static void virtual_deadlines_map_to_host_time(void **state)
{
    struct vclock c;
    vclock_init(&c);
    vclock_set_ns(&c, 50 * NS_PER_SEC);
    assert_int_equal(vclock_ns(&c), 50 * NS_PER_SEC);
    vclock_start(&c);
    u64 before = clock_host_ns();
    u64 host = vclock_to_host_ns(&c, 60 * NS_PER_SEC);
    assert_in_range(host, before, clock_host_ns() + 10 * NS_PER_SEC);
    assert_true(vclock_to_host_ns(&c, 0) <= clock_host_ns());
    assert_true(vclock_to_host_ns(&c, ~0ull) > host);
}

static void manual_clock_moves_only_when_set(void **state)
{
    struct vclock c;
    vclock_init_manual(&c);
    assert_true(vclock_running(&c));
    assert_int_equal(vclock_ns(&c), 0);
    assert_true(vclock_to_host_ns(&c, 1000) == ~0ull);
    vclock_set_ns(&c, 1000);
    assert_int_equal(vclock_ns(&c), 1000);
    assert_true(vclock_to_host_ns(&c, 1000) <= clock_host_ns());
}

static void min_and_max_nest_and_evaluate_once(void **state)
{
    int i = 1, j = 2;
    assert_int_equal(MIN(MAX(i++, 0), j), 1);
    assert_int_equal(i, 2);
    assert_int_equal(ALIGN_UP(0x1001ull, 0x1000), 0x2000);
    assert_int_equal(bits(0xabcd, 11, 4), 0xbc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_returns_its_negative_code_and_keeps_one_line),
        cmocka_unit_test(error_with_errno_names_the_reason),
        cmocka_unit_test(error_may_wrap_itself),
        cmocka_unit_test(error_text_is_cut_at_its_size),
        cmocka_unit_test(numbers_must_fill_the_string),
        cmocka_unit_test(sizes_have_suffixes),
        cmocka_unit_test(strbuf_grows_and_is_always_terminated),
        cmocka_unit_test(tallies_add_up_and_print_the_most_frequent_first),
        cmocka_unit_test(counters_add_up_and_print_only_what_counted),
        cmocka_unit_test(log_drops_what_is_above_its_level),
        cmocka_unit_test(log_lets_no_control_characters_through),
        cmocka_unit_test(guest_messages_are_limited),
        cmocka_unit_test(trace_is_enabled_by_name),
        cmocka_unit_test(ns_survive_the_way_to_cycles_and_back),
        cmocka_unit_test(virtual_clock_stands_still_while_stopped),
        cmocka_unit_test(virtual_ns_and_tsc_agree),
        cmocka_unit_test(virtual_deadlines_map_to_host_time),
        cmocka_unit_test(manual_clock_moves_only_when_set),
        cmocka_unit_test(min_and_max_nest_and_evaluate_once),
    };
    return cmocka_run_group_tests(tests, open_test_log, remove_test_log);
}
