/*
 * The decoder and the interpreter on code that is random bytes (random-code.h). Checked besides what the
 * sanitizers see: after each instruction the state is one that a CPU can be in.
 */
#include "random-code.h"
#include "soft/interpret/interpret.h"

#define MAX_STEPS 400

/* One machine for all inputs: making it takes much longer than running one. */
static struct one_vcpu *machine(void)
{
    static struct one_vcpu *m;
    static struct cpuid_table cpuid;
    if (!m) {
        BUG_ON(cpuid_build(&cpuid, "host", 1, 1000000, NULL));
        m = one_vcpu_new(&interpret_engine, &cpuid, RANDOM_CODE_RAM);
        vcpu_request(m->vcpu, VCPU_REQ_PAUSE); /* lets long repeats come back, see interpret_step() */
    }
    return m;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct one_vcpu *m = machine();
    enum vcpu_exit exit = VCPU_EXIT_REQUEST;
    if (!random_code_start(m, data, size))
        return 0;
    for (unsigned n = 0; n < MAX_STEPS && exit == VCPU_EXIT_REQUEST; n++) {
        exit = interpret_step(m->vcpu->engine_data, 1);
        interpret_engine.sync(m->vcpu);
        random_code_check(m);
    }
    return 0;
}
