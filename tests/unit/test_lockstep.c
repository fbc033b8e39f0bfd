/* Lock-step: it follows programs to their right end, and finds a translation that is wrong. */
#define FIXTURE_ENGINE translate_engine
#include "interpret-fixture.h"

#include "soft/translate/translate-internal.h"

#define GPR(m, r) ((m)->s->gpr[X86_##r])

static int setup(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    assert_non_null(m);
    assert_int_equal(setenv("TRAPEZE_TRANSLATE", "lockstep,hot", 1), 0);
    machine_init(m);
    machine_mode64(m);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    machine_release(*state);
    free(*state);
    return 0;
}

/* Replaces the only place in the translated code where @from stands. */
static void damage(struct machine *m, u32 from, u32 to)
{
    struct translate_vm *v = m->vm.engine_data;
    u8 *at = memmem(v->code, v->code_size, &from, sizeof from);
    assert_non_null(at);
    assert_null(memmem(at + 1, (size_t)(v->code + v->code_size - at - 1), &from, sizeof from));
    memcpy(at, &to, sizeof to);
}

static void run_again(struct machine *m)
{
    m->s->rip = CODE_AT;
    machine_run(m);
}

static void assert_found_wrong(struct machine *m, u64 rip)
{
    m->s->rip = CODE_AT;
    m->s->mp_state = VCPU_MP_RUNNABLE;
    assert_int_equal(translate_engine.run(m->vcpu), VCPU_EXIT_REQUEST);
    assert_int_equal(m->vm.end_reason, VM_END_ERROR);
    assert_int_equal(m->s->rip, rip);
}

/* --- */

PROGRAM(p_sum, 64,
        "mov $1000, %ecx\nmov $0x20000, %ebx\nmovq $0, (%rbx)\n"
        "1: add %rcx, (%rbx)\ncall 2f\ndec %rcx\njnz 1b\nmov (%rbx), %rax\njmp 3f\n"
        "2: push %rcx\npop 8(%rbx)\nret\n3: nop");

static void a_program_that_writes_ends_as_it_should(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_sum);
    assert_int_equal(GPR(m, RAX), 1000 * 1001 / 2);
    assert_int_equal(*(u64 *)guest(m, 0x20008), 1);
    assert_true(m->vcpu->counters.lockstep_runs > 500);
}

PROGRAM(p_patch, 64,
        "mov $100, %ecx\nxor %eax, %eax\n"
        "1: mov %ecx, 2f+1(%rip)\n2: mov $0, %edx\nadd %rdx, %rax\ndec %ecx\njnz 1b");

static void code_that_patches_itself_is_undone_and_done_again(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_patch);
    assert_int_equal(GPR(m, RAX), 5050);
}

PROGRAM(p_fault, 64,
        "mov $0x20000, %ebx\nmov $0x1000, %r13d\nxor %r14d, %r14d\n"
        "1: inc %r14d\nmov %r14, (%rbx)\nadd %r13, %rbx\njmp 1b");

static void a_fault_is_compared_and_delivered(void **state)
{
    struct machine *m = *state;
    *machine_pte(m, 0x40000) = 0;
    u64 hlt = machine_run_program(m, p_fault);
    assert_int_equal(machine_vector(hlt), X86_PF_);
    assert_int_equal(GPR(m, RBX), 0x40000);
    assert_int_equal(GPR(m, R14), 33);
}

PROGRAM(p_once, 64, "mov $100, %ecx\n1: mov %ecx, %ebx\nrdtsc\ndec %ebx\ndec %ecx\njnz 1b");

static void the_time_is_read_once(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_once);
    assert_int_equal(GPR(m, RCX), 0);
    assert_int_equal(m->vcpu->counters.lockstep_once, 100);
}

PROGRAM(p_add, 64, "nop\nmov %rdx, %rcx\nadd $0x12345678, %rax");

static void a_wrong_register_is_found(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_add);
    damage(m, 0x12345678, 0x12345679);
    assert_found_wrong(m, CODE_AT);
}

PROGRAM(p_store, 64, "nop\nmov $0x20000, %ebx\nmovl $0x12345678, (%rbx)\nmovl $0, (%rbx)\nnop");
PROGRAM(p_store_last, 64, "nop\nmov $0x20000, %ebx\nmovl $0x12345678, (%rbx)\nnop");

static void a_wrong_write_is_found(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_store_last);
    run_again(m); /* every other run writes by itself */
    damage(m, 0x12345678, 0x12345679);
    assert_found_wrong(m, CODE_AT);
}

static void a_write_that_is_overwritten_does_not_matter(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_store);
    damage(m, 0x12345678, 0x12345679);
    run_again(m);
    run_again(m);
    assert_int_equal(*(u32 *)guest(m, 0x20000), 0);
}

PROGRAM(p_flags, 64, "nop\nmov $0x7fffffff, %eax\ncmp $0x12345678, %eax\nmov %eax, %ecx\nhlt\npushf");

static void wrong_flags_are_found(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_flags);
    damage(m, 0x12345678, 0x7fffffff);
    assert_found_wrong(m, CODE_AT);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_program_that_writes_ends_as_it_should),
        T(code_that_patches_itself_is_undone_and_done_again),
        T(a_fault_is_compared_and_delivered),
        T(the_time_is_read_once),
        T(a_wrong_register_is_found),
        T(a_wrong_write_is_found),
        T(a_write_that_is_overwritten_does_not_matter),
        T(wrong_flags_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
