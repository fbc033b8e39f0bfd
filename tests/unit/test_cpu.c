/* vCPU threads, requests, exclusive sections and the life of a VM, under an engine made of scripts. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/io.h"
#include "cpu/vm.h"

/* --- the fake engine: run() calls a script until it, or a request, ends the run --- */

#define GO_ON (-1)
#define MAX_CPUS 4

struct bench {
    struct memory memory;
    struct vm vm;
    int (*script)(struct bench *b, struct vcpu *vcpu); /* GO_ON or an enum vcpu_exit */
    atomic_uint entries[MAX_CPUS];                     /* calls of run() */
    atomic_uint steps[MAX_CPUS];                       /* calls of the script */
    atomic_uint kicks;
    int fail_vcpu; /* vcpu_init of this one fails; -1: none */
    unsigned live; /* vCPUs with engine resources */

    pthread_mutex_t mutex;
    pthread_cond_t cond;
    unsigned marks; /* raised by scripts, waited for by tests */
    unsigned ended;
    enum vm_end end;

    unsigned plain;          /* guarded by exclusive sections alone */
    unsigned busy[MAX_CPUS]; /* written inside guest code, read in exclusive sections */
    unsigned rounds;
    atomic_uint done;
};

static struct bench *bench_of(struct vm *vm)
{
    return container_of(vm, struct bench, vm);
}

static int fake_vm_init(struct vm *vm, struct error *err)
{
    return 0;
}

static void fake_vm_release(struct vm *vm)
{
    assert_int_equal(bench_of(vm)->live, 0);
}

static int fake_vcpu_init(struct vcpu *vcpu, struct error *err)
{
    struct bench *b = bench_of(vcpu->vm);
    if ((int)vcpu->index == b->fail_vcpu)
        return error_set(err, ENODEV, "no such CPU");
    b->live++;
    return 0;
}

static void fake_vcpu_release(struct vcpu *vcpu)
{
    bench_of(vcpu->vm)->live--;
}

static enum vcpu_exit fake_run(struct vcpu *vcpu)
{
    struct bench *b = bench_of(vcpu->vm);
    b->entries[vcpu->index]++;
    for (;;) {
        if (vcpu_requests(vcpu) & VCPU_REQ_LEAVE)
            return VCPU_EXIT_REQUEST;
        vcpu_request_clear(vcpu, VCPU_REQ_FLUSH_TLB);
        b->steps[vcpu->index]++;
        int exit = b->script(b, vcpu);
        if (exit != GO_ON)
            return (enum vcpu_exit)exit;
    }
}

static void fake_kick(struct vcpu *vcpu)
{
    bench_of(vcpu->vm)->kicks++;
}

static void fake_nothing(struct vcpu *vcpu) {}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .vm_init = fake_vm_init,
    .vm_release = fake_vm_release,
    .vcpu_init = fake_vcpu_init,
    .vcpu_release = fake_vcpu_release,
    .run = fake_run,
    .kick = fake_kick,
    .sync = fake_nothing,
    .state_changed = fake_nothing,
    .flush_tlb = fake_nothing,
};

static void note_end(struct vm *vm, enum vm_end why, int code)
{
    struct bench *b = bench_of(vm);
    pthread_mutex_lock(&b->mutex);
    b->ended++;
    b->end = why;
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->mutex);
}

static void bench_open(struct bench *b, unsigned cpus, int (*script)(struct bench *b, struct vcpu *vcpu))
{
    static const struct cpuid_table no_cpuid;
    *b = (struct bench){.script = script, .fail_vcpu = -1};
    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->cond, NULL);
    assert_int_equal(memory_init(&b->memory, 1 << 20, NULL), 0);
    assert_int_equal(vm_init(&b->vm, &b->memory, NULL, &fake_engine, &no_cpuid, cpus, NULL), 0);
    b->vm.ended = note_end;
}

static void bench_close(struct bench *b)
{
    vm_release(&b->vm);
    memory_release(&b->memory);
    pthread_cond_destroy(&b->cond);
    pthread_mutex_destroy(&b->mutex);
}

static void make_all_runnable(struct bench *b)
{
    for (unsigned i = 0; i < b->vm.vcpu_count; i++)
        b->vm.vcpus[i]->state.mp_state = VCPU_MP_RUNNABLE;
}

static void mark(struct bench *b)
{
    pthread_mutex_lock(&b->mutex);
    b->marks++;
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->mutex);
}

static void wait_marks(struct bench *b, unsigned n)
{
    pthread_mutex_lock(&b->mutex);
    while (b->marks < n)
        pthread_cond_wait(&b->cond, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
}

static void wait_ended(struct bench *b)
{
    pthread_mutex_lock(&b->mutex);
    while (!b->ended)
        pthread_cond_wait(&b->cond, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
}

static void wait_asleep(struct vcpu *vcpu)
{
    while (!atomic_load(&vcpu->sleeping))
        sched_yield();
}

/* --- life --- */

static int halt_at_once(struct bench *b, struct vcpu *vcpu)
{
    vcpu->state.mp_state = VCPU_MP_HALTED;
    mark(b);
    return VCPU_EXIT_HALT;
}

static int spin(struct bench *b, struct vcpu *vcpu)
{
    if (b->steps[vcpu->index] == 1)
        mark(b);
    sched_yield();
    return GO_ON;
}

static void vm_that_never_started_can_be_released(void **state)
{
    struct bench b;
    bench_open(&b, 2, spin);
    vm_pause(&b.vm);
    vm_resume(&b.vm);
    vm_stop(&b.vm);
    bench_close(&b);
}

static void too_many_vcpus_are_refused(void **state)
{
    struct vm vm;
    struct error err;
    assert_int_equal(vm_init(&vm, NULL, NULL, &fake_engine, NULL, VM_MAX_VCPUS + 1, &err), -EINVAL);
    assert_string_equal(err.text, "a VM has 1 to 16 vCPUs, not 17");
    assert_int_equal(vm_init(&vm, NULL, NULL, &fake_engine, NULL, 0, &err), -EINVAL);
}

static void failed_start_leaves_nothing_behind(void **state)
{
    struct bench b;
    struct error err;
    bench_open(&b, 3, spin);
    b.fail_vcpu = 2;
    assert_int_equal(vm_start(&b.vm, &err), -ENODEV);
    assert_string_equal(err.text, "no such CPU");
    assert_int_equal(b.live, 0);
    assert_int_equal(b.entries[0], 0);
    b.fail_vcpu = -1;
    assert_int_equal(vm_start(&b.vm, &err), 0);
    wait_marks(&b, 1);
    bench_close(&b);
}

static void stopped_vm_can_start_again(void **state)
{
    struct bench b;
    bench_open(&b, 2, halt_at_once);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(vm_start(&b.vm, NULL), 0);
        wait_marks(&b, i);
        vm_stop(&b.vm);
        assert_false(vclock_running(&b.vm.clock));
    }
    bench_close(&b);
}

static void paused_vm_starts_paused(void **state)
{
    struct bench b;
    bench_open(&b, 1, halt_at_once);
    vm_pause(&b.vm);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    assert_false(vclock_running(&b.vm.clock));
    assert_int_equal(b.entries[0], 0);
    vm_resume(&b.vm);
    wait_marks(&b, 1);
    assert_true(vclock_running(&b.vm.clock));
    bench_close(&b);
}

static void resume_writes_the_time_page(void **state)
{
    struct bench b;
    u32 version = 0;
    bench_open(&b, 1, halt_at_once);
    vm_pause(&b.vm);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    b.vm.vcpus[0]->state.kvm_system_time = 0x3000 | 1;
    vm_resume(&b.vm);
    assert_int_equal(memory_read(&b.memory, 0x3000, &version, sizeof version), 0);
    assert_true(version != 0 && version % 2 == 0);
    bench_close(&b);
}

static void pause_stops_vcpus_and_time(void **state)
{
    struct bench b;
    bench_open(&b, 2, spin);
    make_all_runnable(&b);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 2);
    vm_pause(&b.vm);
    unsigned steps = b.steps[0] + b.steps[1];
    u64 ns = vclock_ns(&b.vm.clock);
    assert_int_equal(b.vm.in_guest, 0);
    for (int i = 0; i < 100; i++)
        sched_yield();
    assert_int_equal(b.steps[0] + b.steps[1], steps);
    assert_int_equal(vclock_ns(&b.vm.clock), ns);
    vm_resume(&b.vm);
    while (b.steps[0] + b.steps[1] == steps)
        sched_yield();
    assert_true(vclock_ns(&b.vm.clock) > ns);
    bench_close(&b);
}

static void halted_vcpu_can_be_paused_and_stays_halted(void **state)
{
    struct bench b;
    bench_open(&b, 1, halt_at_once);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 1);
    vm_pause(&b.vm);
    assert_int_equal(b.vm.vcpus[0]->state.mp_state, VCPU_MP_HALTED);
    vm_resume(&b.vm);
    wait_asleep(b.vm.vcpus[0]);
    assert_int_equal(b.vm.vcpus[0]->state.mp_state, VCPU_MP_HALTED);
    bench_close(&b);
}

/* --- another engine --- */

static int cannot_init(struct vm *vm, struct error *err)
{
    return error_set(err, ENODEV, "not on this host");
}

static int lacks_sse3(struct cpuid_table *t, bool strict, struct error *err)
{
    t->leaf[0].ecx &= ~1u;
    return 0;
}

/* The fake engine with something else in it. */
static struct engine_ops variant(const char *name)
{
    struct engine_ops e = fake_engine;
    e.name = name;
    return e;
}

static void running_vcpus_go_on_under_another_engine(void **state)
{
    struct bench b;
    const struct engine_ops second = variant("second");
    bench_open(&b, 2, spin);
    make_all_runnable(&b);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 2);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(vm_switch_engine(&b.vm, i % 2 ? &fake_engine : &second, NULL), 0);
        unsigned steps[2] = {b.steps[0], b.steps[1]};
        assert_int_equal(b.live, 2);
        while (b.steps[0] == steps[0] || b.steps[1] == steps[1])
            sched_yield();
    }
    assert_ptr_equal(b.vm.engine, &fake_engine);
    bench_close(&b);
}

static void paused_vm_stays_paused_under_another_engine(void **state)
{
    struct bench b;
    const struct engine_ops second = variant("second");
    bench_open(&b, 1, spin);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 1);
    vm_pause(&b.vm);
    unsigned steps = b.steps[0];
    assert_int_equal(vm_switch_engine(&b.vm, &second, NULL), 0);
    assert_false(vclock_running(&b.vm.clock));
    assert_int_equal(b.steps[0], steps);
    vm_resume(&b.vm);
    while (b.steps[0] == steps)
        sched_yield();
    bench_close(&b);
}

static void vm_keeps_its_engine_when_another_refuses(void **state)
{
    struct bench b;
    struct error err;
    struct engine_ops absent = variant("absent"), lesser = variant("lesser");
    struct cpuid_table cpuid = {.count = 1, .leaf[0] = {.leaf = 1, .ecx = 1}};
    absent.vm_init = cannot_init;
    lesser.limit_cpuid = lacks_sse3;
    bench_open(&b, 1, spin);
    b.vm.cpuid = &cpuid;
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 1);
    assert_int_equal(vm_switch_engine(&b.vm, &absent, &err), -ENODEV);
    assert_string_equal(err.text, "not on this host");
    assert_int_equal(vm_switch_engine(&b.vm, &lesser, &err), -ENOTSUP);
    assert_string_equal(err.text, "engine lesser lacks features of the CPU that the guest has");
    assert_ptr_equal(b.vm.engine, &fake_engine);
    unsigned steps = b.steps[0];
    while (b.steps[0] == steps)
        sched_yield();
    bench_close(&b);
}

/* --- halting and waking --- */

static void nmi_wakes_a_halted_vcpu(void **state)
{
    struct bench b;
    bench_open(&b, 1, halt_at_once);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 1);
    wait_asleep(b.vm.vcpus[0]);
    vcpu_request(b.vm.vcpus[0], VCPU_REQ_NMI);
    wait_marks(&b, 2);
    bench_close(&b);
}

/* CLI; HLT with an interrupt pending: sleep, do not spin. The test hangs when the vCPU spins. */
static void interrupt_that_cannot_be_taken_does_not_keep_a_halted_vcpu_awake(void **state)
{
    struct bench b;
    bench_open(&b, 1, halt_at_once);
    vcpu_request(b.vm.vcpus[0], VCPU_REQ_INTERRUPT);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 1);
    wait_asleep(b.vm.vcpus[0]);
    unsigned entries = b.entries[0];
    vcpu_request(b.vm.vcpus[0], VCPU_REQ_NMI);
    while (b.entries[0] == entries)
        sched_yield();
    wait_asleep(b.vm.vcpus[0]);
    assert_true(vcpu_requests(b.vm.vcpus[0]) & VCPU_REQ_INTERRUPT);
    bench_close(&b);
}

/* A request that arrives between the engine's last look and its HALT must not be slept through. */
static int request_itself_then_halt(struct bench *b, struct vcpu *vcpu)
{
    if (b->steps[0] < 1000)
        vcpu_request(vcpu, VCPU_REQ_INTERRUPT);
    else
        mark(b);
    return VCPU_EXIT_HALT;
}

static void request_just_before_halt_is_not_lost(void **state)
{
    struct bench b;
    bench_open(&b, 1, request_itself_then_halt);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 1);
    assert_int_equal(b.entries[0], 1000);
    bench_close(&b);
}

static int pass_the_ball(struct bench *b, struct vcpu *vcpu)
{
    if (!(vcpu_requests(vcpu) & VCPU_REQ_INTERRUPT))
        return VCPU_EXIT_HALT;
    vcpu_request_clear(vcpu, VCPU_REQ_INTERRUPT);
    unsigned n = ++b->done;
    if (n == b->rounds)
        mark(b);
    else if (n < b->rounds)
        vcpu_request(vcpu->vm->vcpus[!vcpu->index], VCPU_REQ_INTERRUPT);
    return VCPU_EXIT_HALT;
}

static void two_vcpus_can_wake_each_other_forever(void **state)
{
    struct bench b;
    bench_open(&b, 2, pass_the_ball);
    make_all_runnable(&b);
    b.rounds = 3000;
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    vcpu_request(b.vm.vcpus[0], VCPU_REQ_INTERRUPT);
    wait_marks(&b, 1);
    assert_int_equal(b.done, 3000);
    bench_close(&b);
}

/* --- INIT and SIPI --- */

static int mark_and_spin(struct bench *b, struct vcpu *vcpu)
{
    if (vcpu->index == 1 && b->steps[1] == 1) {
        assert_int_equal(vcpu->state.seg[X86_CS].selector, 0x9a00);
        assert_int_equal(vcpu->state.seg[X86_CS].base, 0x9a000);
        assert_int_equal(vcpu->state.rip, 0);
        mark(b);
    }
    sched_yield();
    return GO_ON;
}

static void sipi_starts_a_waiting_vcpu_at_its_vector(void **state)
{
    struct bench b;
    bench_open(&b, 2, mark_and_spin);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    b.vm.vcpus[1]->sipi_vector = 0x9a;
    vcpu_request(b.vm.vcpus[1], VCPU_REQ_INIT);
    vcpu_request(b.vm.vcpus[1], VCPU_REQ_SIPI);
    wait_marks(&b, 1);
    unsigned entries = b.entries[1];
    vcpu_request(b.vm.vcpus[1], VCPU_REQ_SIPI); /* ignored now */
    while (b.entries[1] == entries)
        sched_yield();
    vm_pause(&b.vm);
    assert_int_equal(b.vm.vcpus[1]->state.mp_state, VCPU_MP_RUNNABLE);
    bench_close(&b);
}

static void init_puts_a_running_vcpu_to_wait(void **state)
{
    struct bench b;
    bench_open(&b, 2, spin);
    make_all_runnable(&b);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, 2);
    vcpu_request(b.vm.vcpus[1], VCPU_REQ_INIT);
    wait_asleep(b.vm.vcpus[1]);
    vm_pause(&b.vm);
    assert_int_equal(b.vm.vcpus[1]->state.mp_state, VCPU_MP_WAIT_SIPI);
    bench_close(&b);
}

/* --- the end --- */

static int die(struct bench *b, struct vcpu *vcpu)
{
    return VCPU_EXIT_TRIPLE_FAULT;
}

static void triple_fault_ends_the_vm_and_reset_revives_it(void **state)
{
    struct bench b;
    bench_open(&b, 1, die);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_ended(&b);
    assert_int_equal(b.end, VM_END_TRIPLE_FAULT);
    vm_pause(&b.vm);
    vm_end(&b.vm, VM_END_QUIT, 0);
    assert_int_equal(b.vm.end_reason, VM_END_TRIPLE_FAULT);
    assert_int_equal(b.ended, 1);
    unsigned entries = b.entries[0];
    vm_resume(&b.vm);
    vm_pause(&b.vm);
    assert_int_equal(b.entries[0], entries);
    b.script = spin;
    vm_reset_vcpus(&b.vm);
    atomic_store(&b.steps[0], 0);
    vm_resume(&b.vm);
    wait_marks(&b, 1);
    bench_close(&b);
}

static int break_down(struct bench *b, struct vcpu *vcpu)
{
    error_set(&vcpu->error, EIO, "the engine broke");
    return VCPU_EXIT_ERROR;
}

static void engine_error_ends_the_vm_with_its_reason(void **state)
{
    struct bench b;
    bench_open(&b, 1, break_down);
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_ended(&b);
    assert_int_equal(b.end, VM_END_ERROR);
    assert_string_equal(b.vm.error.text, "the engine broke");
    bench_close(&b);
}

static void reset_restarts_the_guests_tsc(void **state)
{
    struct bench b;
    bench_open(&b, 1, spin);
    vcpu_set_tsc(b.vm.vcpus[0], 1ull << 60);
    assert_true(vcpu_tsc(b.vm.vcpus[0]) >= 1ull << 60);
    vm_reset_vcpus(&b.vm);
    assert_true(vcpu_tsc(b.vm.vcpus[0]) < 1ull << 60);
    bench_close(&b);
}

/* --- exclusive sections --- */

static void exclusive_work(struct bench *b, struct vcpu *self)
{
    vm_exclusive_begin(&b->vm, self);
    b->plain++;
    for (unsigned i = 0; i < b->vm.vcpu_count; i++) {
        if (!self || i != self->index)
            assert_int_equal(b->busy[i], 0);
    }
    vm_exclusive_end(&b->vm, self);
}

static int work_and_sometimes_exclude(struct bench *b, struct vcpu *vcpu)
{
    unsigned n = b->steps[vcpu->index];
    b->busy[vcpu->index] = 1;
    b->busy[vcpu->index] = 0;
    if (n <= b->rounds)
        exclusive_work(b, vcpu);
    else if (n == b->rounds + 1)
        mark(b);
    else
        sched_yield();
    return GO_ON;
}

static void exclusive_sections_exclude_all_guest_code(void **state)
{
    struct bench b;
    bench_open(&b, MAX_CPUS, work_and_sometimes_exclude);
    make_all_runnable(&b);
    b.rounds = 300;
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    for (unsigned i = 0; i < 100; i++) {
        exclusive_work(&b, NULL);
        vm_flush_tlbs(&b.vm);
        if (i % 16 == 0) {
            vm_pause(&b.vm);
            assert_int_equal(b.busy[0] + b.busy[1] + b.busy[2] + b.busy[3], 0);
            vm_resume(&b.vm);
        }
    }
    wait_marks(&b, MAX_CPUS);
    vm_stop(&b.vm);
    assert_int_equal(b.plain, MAX_CPUS * 300 + 100);
    bench_close(&b);
}

static int kick_the_others(struct bench *b, struct vcpu *vcpu)
{
    unsigned n = b->steps[vcpu->index];
    for (unsigned i = 0; i < b->vm.vcpu_count; i++)
        vcpu_request(b->vm.vcpus[i], n % 7 ? VCPU_REQ_INTERRUPT : VCPU_REQ_NMI);
    if (n == b->rounds)
        mark(b);
    return n < b->rounds ? VCPU_EXIT_HALT : GO_ON;
}

static void kicks_from_everywhere_do_no_harm(void **state)
{
    struct bench b;
    bench_open(&b, MAX_CPUS, kick_the_others);
    make_all_runnable(&b);
    b.rounds = 200;
    assert_int_equal(vm_start(&b.vm, NULL), 0);
    wait_marks(&b, MAX_CPUS);
    vm_end(&b.vm, VM_END_POWEROFF, 0);
    vm_pause(&b.vm);
    assert_true(b.kicks > 0);
    bench_close(&b);
}

/* --- I/O --- */

struct fake_chip {
    struct irqchip chip;
    u32 offset, value;
    unsigned resets;
};

static u64 fake_apic_page(struct irqchip *chip, struct vcpu *vcpu)
{
    return 0xfee00000;
}

static u32 fake_apic_read(struct irqchip *chip, struct vcpu *vcpu, u32 offset)
{
    return 0x100 + offset;
}

static void fake_apic_write(struct irqchip *chip, struct vcpu *vcpu, u32 offset, u32 value)
{
    struct fake_chip *c = container_of(chip, struct fake_chip, chip);
    c->offset = offset;
    c->value = value;
}

static void fake_vcpu_reset(struct irqchip *chip, struct vcpu *vcpu, bool init)
{
    container_of(chip, struct fake_chip, chip)->resets++;
}

static const struct irqchip_ops fake_chip_ops = {
    .apic_page = fake_apic_page,
    .apic_read = fake_apic_read,
    .apic_write = fake_apic_write,
    .vcpu_reset = fake_vcpu_reset,
};

static void apic_page_takes_aligned_dwords_only(void **state)
{
    struct bench b;
    struct fake_chip chip = {.chip.ops = &fake_chip_ops};
    bench_open(&b, 1, spin);
    b.vm.irqchip = &chip.chip;
    struct vcpu *vcpu = b.vm.vcpus[0];
    assert_int_equal(cpu_mmio_read(vcpu, 0xfee00030, 4), 0x130);
    assert_int_equal(cpu_mmio_read(vcpu, 0xfee00030, 8), 0);
    assert_int_equal(cpu_mmio_read(vcpu, 0xfee00031, 4), 0);
    cpu_mmio_write(vcpu, 0xfee000b0, 7, 1);
    assert_int_equal(chip.offset, 0);
    cpu_mmio_write(vcpu, 0xfee000b0, 7, 4);
    assert_int_equal(chip.offset, 0xb0);
    assert_int_equal(chip.value, 7);
    assert_true(cpu_mmio_read(vcpu, 0xfee01000, 8) == ~0ull);
    assert_int_equal(vcpu->counters.mmio_reads, 4);
    assert_int_equal(vcpu->counters.mmio_writes, 2);
    vm_reset_vcpus(&b.vm);
    assert_int_equal(chip.resets, 1);
    bench_close(&b);
}

static u64 port_read(struct io_region *r, u64 offset, unsigned size)
{
    return 0x5a + offset;
}

static void port_write(struct io_region *r, u64 offset, u64 value, unsigned size) {}

static void ports_are_dispatched_and_counted(void **state)
{
    static const struct io_ops ops = {port_read, port_write, 1, 1};
    struct io_region region;
    struct bench b;
    bench_open(&b, 1, spin);
    io_region_init(&region, "port", &ops, 2);
    assert_int_equal(memory_map_pio(&b.memory, &region, 0x70, NULL), 0);
    assert_int_equal(cpu_pio_read(b.vm.vcpus[0], 0x70, 1), 0x5a);
    assert_int_equal(cpu_pio_read(b.vm.vcpus[0], 0x71, 4), 0xffffff5b);
    cpu_pio_write(b.vm.vcpus[0], 0x70, 1, 1);
    assert_int_equal(b.vm.vcpus[0]->counters.pio_reads, 2);
    assert_int_equal(b.vm.vcpus[0]->counters.pio_writes, 1);
    bench_close(&b);
}

/* --- the state --- */

static void reset_state_is_that_of_the_manual(void **state)
{
    struct x86_state s;
    x86_state_reset(&s, true);
    assert_int_equal(s.seg[X86_CS].base + s.rip, 0xfffffff0);
    assert_int_equal(s.seg[X86_CS].selector, 0xf000);
    assert_int_equal(s.seg[X86_CS].attr, 0x9b);
    assert_int_equal(s.seg[X86_SS].attr, 0x93);
    assert_int_equal(s.cr0, 0x60000010);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.gdt.limit, 0xffff);
    assert_int_equal(s.fpu.fcw, 0x40);
    assert_int_equal(s.fpu.mxcsr, 0x1f80);
    assert_true(s.pat == 0x0007040600070406);
    assert_int_equal(s.dr6, 0xffff0ff0);
    assert_int_equal(s.dr7, 0x400);
    assert_int_equal(s.mp_state, VCPU_MP_RUNNABLE);
    assert_int_equal(x86_cpl(&s), 0);
}

static void init_keeps_fpu_tsc_and_mtrrs(void **state)
{
    struct x86_state s;
    x86_state_reset(&s, true);
    s.fpu.fcw = 0x37f;
    s.fpu.vec[3][5] = 9;
    s.tsc_offset = 77;
    s.mtrr_var[15] = 5;
    s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NW;
    s.cr4 = X86_CR4_PAE;
    s.efer = X86_EFER_LME | X86_EFER_LMA;
    s.gpr[X86_RAX] = 1;
    x86_state_init_reset(&s, false);
    assert_int_equal(s.fpu.fcw, 0x37f);
    assert_int_equal(s.fpu.vec[3][5], 9);
    assert_int_equal(s.tsc_offset, 77);
    assert_int_equal(s.mtrr_var[15], 5);
    assert_int_equal(s.cr0, X86_CR0_NW | X86_CR0_ET);
    assert_int_equal(s.cr4 | s.efer | s.gpr[X86_RAX], 0);
    assert_int_equal(s.mp_state, VCPU_MP_WAIT_SIPI);
}

static void impossible_states_are_refused(void **state)
{
    struct x86_state s;
    struct error err;
    x86_state_reset(&s, true);
    assert_int_equal(x86_state_desc.post_load(&s, 1, &err), 0);
    s.cr0 |= X86_CR0_PG;
    assert_int_equal(x86_state_desc.post_load(&s, 1, &err), -EINVAL);
    x86_state_reset(&s, true);
    s.fpu.mxcsr |= 1u << 16;
    assert_int_equal(x86_state_desc.post_load(&s, 1, &err), -EINVAL);
    assert_string_equal(err.text, "the saved CPU state has impossible MXCSR");
    x86_state_reset(&s, true);
    s.efer = X86_EFER_LMA;
    assert_int_equal(x86_state_desc.post_load(&s, 1, &err), -EINVAL);
    x86_state_reset(&s, true);
    s.mp_state = 3;
    assert_int_equal(x86_state_desc.post_load(&s, 1, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vm_that_never_started_can_be_released),
        cmocka_unit_test(too_many_vcpus_are_refused),
        cmocka_unit_test(failed_start_leaves_nothing_behind),
        cmocka_unit_test(stopped_vm_can_start_again),
        cmocka_unit_test(paused_vm_starts_paused),
        cmocka_unit_test(resume_writes_the_time_page),
        cmocka_unit_test(pause_stops_vcpus_and_time),
        cmocka_unit_test(halted_vcpu_can_be_paused_and_stays_halted),
        cmocka_unit_test(running_vcpus_go_on_under_another_engine),
        cmocka_unit_test(paused_vm_stays_paused_under_another_engine),
        cmocka_unit_test(vm_keeps_its_engine_when_another_refuses),
        cmocka_unit_test(nmi_wakes_a_halted_vcpu),
        cmocka_unit_test(interrupt_that_cannot_be_taken_does_not_keep_a_halted_vcpu_awake),
        cmocka_unit_test(request_just_before_halt_is_not_lost),
        cmocka_unit_test(two_vcpus_can_wake_each_other_forever),
        cmocka_unit_test(sipi_starts_a_waiting_vcpu_at_its_vector),
        cmocka_unit_test(init_puts_a_running_vcpu_to_wait),
        cmocka_unit_test(triple_fault_ends_the_vm_and_reset_revives_it),
        cmocka_unit_test(engine_error_ends_the_vm_with_its_reason),
        cmocka_unit_test(reset_restarts_the_guests_tsc),
        cmocka_unit_test(exclusive_sections_exclude_all_guest_code),
        cmocka_unit_test(kicks_from_everywhere_do_no_harm),
        cmocka_unit_test(apic_page_takes_aligned_dwords_only),
        cmocka_unit_test(ports_are_dispatched_and_counted),
        cmocka_unit_test(reset_state_is_that_of_the_manual),
        cmocka_unit_test(init_keeps_fpu_tsc_and_mtrrs),
        cmocka_unit_test(impossible_states_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
