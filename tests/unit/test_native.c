/* Native stubs and the FXSAVE and XSAVE images: guest programs whose results the host also computes. */
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

static void mode64_all_units(struct machine *m)
{
    machine_mode64(m);
    m->s->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    m->s->xcr0 = m->cpuid.xcr0_mask;
    interpret_engine.state_changed(m->vcpu);
}

PROGRAM(p_sse, 64,
        "mov $0x20000,%esi; movups (%rsi),%xmm1; addps %xmm1,%xmm1; movaps %xmm1,16(%rsi);"
        "cvtsi2sd %rsp,%xmm2; movq %xmm2,%rbx; ucomiss %xmm1,%xmm1; setz %al");

static void sse_computes_on_registers_and_memory(void **state)
{
    struct machine *m = *state;
    static const float in[4] = {1, 2.5f, -3, 1e10f};
    double rsp = (double)STACK_AT, got;

    mode64_all_units(m);
    memcpy(guest(m, DATA_AT), in, 16);
    machine_run_program(m, p_sse);
    for (unsigned i = 0; i < 4; i++) {
        float r;

        memcpy(&r, (u8 *)guest(m, DATA_AT + 16) + 4 * i, 4);
        assert_true(r == in[i] + in[i]);
    }
    memcpy(&got, &m->s->gpr[X86_RBX], 8);
    assert_true(got == rsp);
    assert_int_equal(m->s->gpr[X86_RAX] & 0xff, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sse_computes_on_registers_and_memory, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
