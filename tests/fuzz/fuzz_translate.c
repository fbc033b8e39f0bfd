/*
 * The translator on code that is random bytes (random-code.h), in lock-step: each block is translated when it
 * is first run, and whatever it does is compared with the interpreter. A thread ends what would run for ever.
 */
#include <stdlib.h>
#include <time.h>

#include "random-code.h"

static void *impatience(void *vcpu)
{
    for (;;) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        vcpu_request(vcpu, VCPU_REQ_PAUSE);
    }
    return NULL;
}

static struct one_vcpu *m;
static pthread_t thread;

static void release(void)
{
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    one_vcpu_free(m);
    m = NULL;
}

/* One machine for all inputs: making it takes much longer than running one. */
static void make_machine(void)
{
    static struct cpuid_table cpuid;
    if (!m) {
        BUG_ON(setenv("TRAPEZE_TRANSLATE", "hot,traces,lockstep", 0));
        BUG_ON(cpuid_build(&cpuid, "host", 1, 1000000, NULL));
        m = one_vcpu_new(&translate_engine, &cpuid, RANDOM_CODE_RAM);
        BUG_ON(pthread_create(&thread, NULL, impatience, m->vcpu));
        BUG_ON(atexit(release));
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    make_machine();
    if (!random_code_start(m, data, size))
        return 0;
    vcpu_request_clear(m->vcpu, VCPU_REQ_PAUSE);
    m->s->mp_state = VCPU_MP_RUNNABLE;
    translate_engine.run(m->vcpu);
    translate_engine.sync(m->vcpu);
    BUG_ON(m->vm.end_reason == VM_END_ERROR);
    random_code_check(m);
    return 0;
}
