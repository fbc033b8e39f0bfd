/* TRAPEZE_TRANSLATE: words and numbers, and what is no word. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "soft/translate/translate-internal.h"

static int read(const char *text, struct translate_options *o)
{
    struct error err = {0};
    assert_int_equal(text ? setenv("TRAPEZE_TRANSLATE", text, 1) : unsetenv("TRAPEZE_TRANSLATE"), 0);
    return translate_read_options(o, &err);
}

static void without_the_variable_all_switches_are_off(void **state)
{
    struct translate_options o;
    assert_int_equal(read(NULL, &o), 0);
    assert_true(o.threshold > 1);
    assert_int_equal(o.no_chaining | o.no_native | o.slow_memory | o.block_insns | o.flush | o.lockstep, 0);
}

static void words_are_set_alone_and_with_numbers(void **state)
{
    struct translate_options o;
    assert_int_equal(read("hot,lockstep=20,lockstep-blocks=9,,no-chaining", &o), 0);
    assert_int_equal(o.threshold, 1);
    assert_int_equal(o.lockstep, 20);
    assert_int_equal(o.lockstep_blocks, 9);
    assert_int_equal(o.no_chaining, 1);
    assert_int_equal(o.no_native, 0);
}

static void what_is_no_word_or_number_is_refused(void **state)
{
    static const char *const bad[] = {
        "hott", "ho", "hot=", "hot=x", "flush=0", "flush=-1", "flush=99999999999"};
    struct translate_options o;
    for (unsigned n = 0; n < ARRAY_SIZE(bad); n++)
        assert_int_equal(read(bad[n], &o), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_the_variable_all_switches_are_off),
        cmocka_unit_test(words_are_set_alone_and_with_numbers),
        cmocka_unit_test(what_is_no_word_or_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
