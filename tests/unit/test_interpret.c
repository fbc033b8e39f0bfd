/* Small guest programs through the interpreter, a group of instructions each, in all modes. */
#include "interpret-fixture.h"

static int setup(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    machine_init(m);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    machine_release(*state);
    free(*state);
    return 0;
}

PROGRAM(p64_arith, 64, "mov $5, %eax; add $7, %rax; mov %rax, %rbx; shl $4, %rbx; lea 3(%rax,%rbx,2), %rcx");

static void arithmetic_in_64_bit_mode(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_run_program(m, p64_arith);
    assert_int_equal(m->s->gpr[X86_RAX], 12);
    assert_int_equal(m->s->gpr[X86_RBX], 192);
    assert_int_equal(m->s->gpr[X86_RCX], 12 + 384 + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(arithmetic_in_64_bit_mode, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
