/* What only the translator can get wrong: links, the jump cache, flags across inserted code, stale code. */
#define FIXTURE_ENGINE translate_engine
#include "interpret-fixture.h"

#include <pthread.h>

#include "soft/translate/translate-internal.h"

#define GPR(m, r) ((m)->s->gpr[X86_##r])

static struct translate_cpu *translator(struct machine *m)
{
    return m->vcpu->engine_data;
}

static int setup(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    assert_non_null(m);
    machine_init(m);
    translator(m)->options.threshold = 2;
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

/* --- */

PROGRAM(p_loop, 64, "mov $100000, %ecx\nxor %eax, %eax\n1: add %rcx, %rax\ndec %rcx\njnz 1b");

static void a_hot_loop_stays_in_its_code(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_loop);
    assert_int_equal(GPR(m, RAX), 100000ull * 100001 / 2);
    assert_true(m->vcpu->counters.blocks_run < 100);
}

PROGRAM(p_endless, 64, "mov $1, %eax\n1: add $1, %rbx\njmp 1b");

static void *pause_soon(void *vcpu)
{
    atomic_fetch_or(&((struct vcpu *)vcpu)->requests, VCPU_REQ_PAUSE);
    translate_engine.kick(vcpu);
    return NULL;
}

static void a_request_from_elsewhere_leaves_a_linked_loop(void **state)
{
    struct machine *m = *state;
    pthread_t thread;
    machine_load(m, CODE_AT, p_endless, p_endless_end);
    assert_int_equal(pthread_create(&thread, NULL, pause_soon, m->vcpu), 0);
    assert_int_equal(translate_engine.run(m->vcpu), VCPU_EXIT_REQUEST);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(m->s->rip >= CODE_AT && m->s->rip < CODE_AT + 16);
}

/* CF goes round through a load, a store and a call; each round adds it to RAX. */
PROGRAM(p_flags, 64,
        "mov $1000, %ecx\nxor %eax, %eax\nmov $0x20000, %ebx\nstc\n"
        "1: mov (%rbx), %rdx\nmov %rdx, 8(%rbx)\npush %rdx\npop %rdx\ncall 2f\nadc $0, %rax\nstc\n"
        "lea -1(%rcx), %rcx\njrcxz 3f\njmp 1b\n"
        "2: ret\n3: nop");

static void flags_survive_memory_accesses_and_calls(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_flags);
    assert_int_equal(GPR(m, RAX), 1000);
}

/* The immediate of the MOV is written before each round. */
PROGRAM(p_patch, 64,
        "mov $100, %ecx\nxor %eax, %eax\n"
        "1: mov %ecx, 2f+1(%rip)\n2: mov $0, %edx\nadd %rdx, %rax\ndec %ecx\njnz 1b");

static void code_that_patches_itself_runs_as_patched(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_patch);
    assert_int_equal(GPR(m, RAX), 5050);
}

/* Calls the same function at two addresses; it returns its own address and its caller's. */
PROGRAM(p_alias, 64,
        "mov $50, %ecx\nxor %ebx, %ebx\n"
        "1: mov $0x30000, %edx\ncall *%rdx\nadd %rax, %rbx\n"
        "mov $0x31000, %edx\ncall *%rdx\nadd %rax, %rbx\ndec %ecx\njnz 1b");
PROGRAM(p_where, 64, "lea (%rip), %rax\nret");

static void one_translation_serves_a_page_at_two_addresses(void **state)
{
    struct machine *m = *state;
    *machine_pte(m, 0x31000) = 0x30000 | 7;
    machine_load(m, 0x30000, p_where, p_where_end);
    machine_run_program(m, p_alias);
    assert_int_equal(GPR(m, RBX), 50ull * (0x30007 + 0x31007));
}

/* A page fault in a hot loop, at its last round: registers and rip are those of the instruction. */
PROGRAM(p_fault, 64,
        "mov $0x20000, %ebx\nmov $0x1000, %r13d\nxor %r14d, %r14d\n"
        "1: inc %r14d\nmov %r14, (%rbx)\nadd %r13, %rbx\njmp 1b");

static void a_fault_in_a_loop_has_the_state_of_its_instruction(void **state)
{
    struct machine *m = *state;
    *machine_pte(m, 0x40000) = 0;
    u64 hlt = machine_run_program(m, p_fault);
    assert_int_equal(machine_vector(hlt), X86_PF_);
    assert_int_equal(m->s->cr2, 0x40000);
    assert_int_equal(GPR(m, RBX), 0x40000);
    assert_int_equal(GPR(m, R14), 33);
    assert_memory_equal(guest(m, get_le64(guest(m, GPR(m, RSP) + 8))), "\x4c\x89\x33", 3);
}

/* Division by the values whose result does not exist goes to the handler. */
PROGRAM(p_divide, 64,
        "mov $40, %ecx\n"
        "1: mov $100, %eax\ncqo\nlea -1(%rcx), %rbx\nidiv %rbx\nmov %eax, %esi\ndec %ecx\njnz 1b");

static void division_by_zero_in_a_loop_is_a_fault(void **state)
{
    struct machine *m = *state;
    assert_int_equal(machine_vector(machine_run_program(m, p_divide)), X86_DE);
    assert_int_equal(GPR(m, RCX), 1);
    assert_int_equal(GPR(m, RSI), 100);
}

static void code_is_dropped_and_made_again(void **state)
{
    struct machine *m = *state;
    for (unsigned n = 0; n < 3 * REGIONS_MAX; n++) {
        code_next_region(translator(m)->vm);
        m->s->rip = CODE_AT;
        machine_run_program(m, p_loop);
        assert_int_equal(GPR(m, RAX), 100000ull * 100001 / 2);
    }
}

static void the_smallest_cache_has_room_for_a_block(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    assert_non_null(m);
    assert_int_equal(setenv("TRAPEZE_TRANSLATE", "hot,tiny-cache=1", 1), 0);
    machine_init(m);
    assert_int_equal(unsetenv("TRAPEZE_TRANSLATE"), 0);
    machine_mode64(m);
    machine_run_program(m, p_loop);
    assert_int_equal(GPR(m, RAX), 100000ull * 100001 / 2);
    assert_true(m->vcpu->counters.blocks_run < 100);
    machine_release(m);
    free(m);
}

/* A vector register is stored into the page of the code that runs: the block ends there, and not twice. */
PROGRAM(p_vector_into_code, 64,
        "mov $50, %ecx\nxor %eax, %eax\nxor %ebx, %ebx\n"
        "1: inc %eax\nmovups %xmm0, 3f(%rip)\ninc %ebx\ndec %ecx\njnz 1b\njmp 4f\n"
        "3: .fill 16, 1, 0x90\n4: nop");

static void a_vector_stored_beside_the_code_is_stored_once(void **state)
{
    struct machine *m = *state;
    machine_run_program(m, p_vector_into_code);
    assert_int_equal(GPR(m, RAX), 50);
    assert_int_equal(GPR(m, RBX), 50);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_hot_loop_stays_in_its_code),
        T(a_request_from_elsewhere_leaves_a_linked_loop),
        T(flags_survive_memory_accesses_and_calls),
        T(code_that_patches_itself_runs_as_patched),
        T(one_translation_serves_a_page_at_two_addresses),
        T(a_fault_in_a_loop_has_the_state_of_its_instruction),
        T(division_by_zero_in_a_loop_is_a_fault),
        T(code_is_dropped_and_made_again),
        cmocka_unit_test(the_smallest_cache_has_room_for_a_block),
        T(a_vector_stored_beside_the_code_is_stored_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
