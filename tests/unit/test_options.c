/* Parsing of option lists, and the words of its errors. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cmd/options.h"

struct target {
    const char *name, *mode, *last;
    unsigned count, calls;
    u64 size;
    bool flag;
};

static int set_call(void *target, char *value, struct error *err)
{
    struct target *t = target;
    t->last = value;
    t->calls++;
    return strcmp(value, "bad") ? 0 : error_set(err, EINVAL, "it is bad");
}

static const struct option list[] = {
    {.kind = OPTION_GROUP, .help = "All of them:"},
    {.name = "name",
     .arg = "N",
     .help = "a name",
     .kind = OPTION_STRING,
     .offset = offsetof(struct target, name)},
    {.name = "mode",
     .arg = "M",
     .help = "a mode\nin two lines",
     .kind = OPTION_CHOICE,
     .choices = "fast|slow",
     .offset = offsetof(struct target, mode)},
    {.name = "count",
     .arg = "N",
     .help = "a count",
     .kind = OPTION_UINT,
     .min = 1,
     .max = 16,
     .offset = offsetof(struct target, count)},
    {.name = "size",
     .arg = "SIZE",
     .help = "a size",
     .kind = OPTION_SIZE,
     .min = 1 << 20,
     .max = 1ull << 36,
     .unit = 1 << 20,
     .offset = offsetof(struct target, size)},
    {.name = "flag", .help = "a flag", .kind = OPTION_FLAG, .offset = offsetof(struct target, flag)},
    {.name = "call", .arg = "X", .help = "a call", .kind = OPTION_CALL, .set = set_call},
    OPTION_LIST_END,
};

static struct target target;
static struct error err;
static char storage[10][64];
static char *args[11];
static int operands;

/* Parses the words of @line, which are cut at spaces. */
static int parse(const char *line)
{
    int n = 1;
    char copy[256], *save = NULL;

    target = (struct target){0};
    err = (struct error){0};
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        snprintf(storage[n], sizeof storage[n], "%s", w);
        args[n] = storage[n];
        n++;
    }
    return options_parse(list, &target, n, args, &operands, &err);
}

static void fails(const char *line, const char *why)
{
    assert_int_equal(parse(line), -EINVAL);
    if (!strstr(err.text, why))
        fail_msg("'%s' is not in '%s'", why, err.text);
    assert_null(strchr(err.text, '\n'));
}

static void values_follow_as_next_argument_or_after_equals(void **state)
{
    assert_int_equal(parse("--name a --count=7 --mode slow"), 0);
    assert_string_equal(target.name, "a");
    assert_int_equal(target.count, 7);
    assert_string_equal(target.mode, "slow");
}

static void sizes_take_suffixes(void **state)
{
    assert_int_equal(parse("--size 2G"), 0);
    assert_int_equal(target.size, 2ull << 30);
    assert_int_equal(parse("--size 1048576"), 0);
    assert_int_equal(target.size, 1048576);
}

static void flags_take_no_value(void **state)
{
    assert_int_equal(parse("--flag operand"), 0);
    assert_true(target.flag);
    assert_int_equal(operands, 1);
    fails("--flag=1", "'--flag' takes no value");
}

static void operands_are_collected_from_anywhere(void **state)
{
    assert_int_equal(parse("one --flag two -- --three"), 0);
    assert_int_equal(operands, 3);
    assert_string_equal(args[0], "one");
    assert_string_equal(args[1], "two");
    assert_string_equal(args[2], "--three");
}

static void calls_see_every_value(void **state)
{
    assert_int_equal(parse("--call a --call b"), 0);
    assert_int_equal(target.calls, 2);
    assert_string_equal(target.last, "b");
    fails("--call bad", "it is bad");
}

static void unknown_options_get_a_hint(void **state)
{
    fails("--cuont 3", "unknown option '--cuont'; did you mean '--count'?");
    assert_int_equal(parse("--xyzzy"), -EINVAL);
    assert_null(strstr(err.text, "did you mean"));
    fails("-n", "unknown option '-n'");
}

static void missing_and_wrong_values_are_told(void **state)
{
    fails("--name", "'--name' needs a value");
    fails("--count x", "'--count' needs a number, not 'x'");
    fails("--count 0", "'--count' must be from 1 to 16, not '0'");
    fails("--count 17", "must be from 1 to 16");
    fails("--count 99999999999999999999", "must be from 1 to 16");
    fails("--size 12Q", "'--size' needs a size");
    fails("--size 65G", "must be from 1M to 64G");
    fails("--size 1025K", "multiple of 1M");
    fails("--mode medium", "must be one of fast|slow, not 'medium'");
}

static int commas(const char *text, char **value)
{
    static char copy[128];

    target = (struct target){0};
    snprintf(copy, sizeof copy, "%s", text);
    return options_parse_commas(list, &target, "disk", copy, value, &err);
}

static void commas_separate_a_value_and_its_options(void **state)
{
    char *value;
    assert_int_equal(commas("a.img,flag,count=3,name=x", &value), 0);
    assert_string_equal(value, "a.img");
    assert_true(target.flag);
    assert_int_equal(target.count, 3);
    assert_string_equal(target.name, "x");
}

static void doubled_commas_stand_for_one(void **state)
{
    char *value;
    assert_int_equal(commas("a,,b,name=c,,d", &value), 0);
    assert_string_equal(value, "a,b");
    assert_string_equal(target.name, "c,d");
}

static void options_after_commas_are_checked(void **state)
{
    char *value;
    assert_int_equal(commas("a,flug", &value), -EINVAL);
    assert_string_equal(err.text, "--disk has no 'flug'; did you mean 'flag'?");
    assert_int_equal(commas("a,count=17", &value), -EINVAL);
    assert_non_null(strstr(err.text, "'count' of --disk must be from 1 to 16"));
    assert_int_equal(commas("a,name", &value), -EINVAL);
    assert_int_equal(commas("a,flag=1", &value), -EINVAL);
    assert_int_equal(commas("", &value), -EINVAL);
}

static void help_lists_every_option(void **state)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    options_help(list, f);
    fclose(f);
    assert_non_null(strstr(text, "\nAll of them:\n"));
    for (const struct option *o = list + 1; o->name; o++) {
        assert_non_null(strstr(text, o->name));
    }
    assert_non_null(strstr(text, "  --mode M               a mode\n                         in two lines\n"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_follow_as_next_argument_or_after_equals),
        cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(flags_take_no_value),
        cmocka_unit_test(operands_are_collected_from_anywhere),
        cmocka_unit_test(calls_see_every_value),
        cmocka_unit_test(unknown_options_get_a_hint),
        cmocka_unit_test(missing_and_wrong_values_are_told),
        cmocka_unit_test(commas_separate_a_value_and_its_options),
        cmocka_unit_test(doubled_commas_stand_for_one),
        cmocka_unit_test(options_after_commas_are_checked),
        cmocka_unit_test(help_lists_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
