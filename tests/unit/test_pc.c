/* The PC board's life: how it starts, resets and ends, with an engine that plays a script instead of a guest.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hw/acpi-pm.h"
#include "hw/isa-debug-exit.h"
#include "hw/pci-host.h"
#include "hw/reset-port.h"
#include "machine/memory-map.h"
#include "machine/pc-internal.h"

/* --- a guest that does one thing at each start --- */

typedef enum vcpu_exit (*guest_fn)(struct pc *pc, struct vcpu *vcpu);

struct script {
    guest_fn guest[4]; /* at the first start, the second, ...; the last one stays */
    unsigned starts;   /* entries at the kernel's entry point */
};

static struct script script;
static struct pc *the_pc;

static int engine_vm_init(struct vm *vm, struct error *err)
{
    return 0;
}

static void engine_vm_release(struct vm *vm) {}

static int engine_vcpu_init(struct vcpu *vcpu, struct error *err)
{
    return 0;
}

static void engine_nothing(struct vcpu *vcpu) {}

#define ENTRY (2ull << 20)

static enum vcpu_exit engine_run(struct vcpu *vcpu)
{
    guest_fn f;

    if (vcpu_requests(vcpu) & VCPU_REQ_LEAVE)
        return VCPU_EXIT_REQUEST;
    if (vcpu->index != 0 || vcpu->state.rip != ENTRY)
        return VCPU_EXIT_HALT;
    f = script.guest[MIN(script.starts, (unsigned)ARRAY_SIZE(script.guest) - 1)];
    script.starts++;
    vcpu->state.rip++;
    return f ? f(the_pc, vcpu) : VCPU_EXIT_HALT;
}

static const struct engine_ops script_engine = {
    .name = "script",
    .vm_init = engine_vm_init,
    .vm_release = engine_vm_release,
    .vcpu_init = engine_vcpu_init,
    .vcpu_release = engine_nothing,
    .run = engine_run,
    .kick = engine_nothing,
    .sync = engine_nothing,
    .state_changed = engine_nothing,
    .flush_tlb = engine_nothing,
};

/* Engines that others are tried for: one that gives up in the middle, one that cannot be set up. */

static enum vcpu_exit broken_run(struct vcpu *vcpu)
{
    if (vcpu_requests(vcpu) & VCPU_REQ_LEAVE)
        return VCPU_EXIT_REQUEST;
    error_set(&vcpu->error, EIO, "out of order");
    vcpu->state.mp_state = VCPU_MP_RUNNABLE;
    return VCPU_EXIT_ERROR;
}

static int absent_vm_init(struct vm *vm, struct error *err)
{
    return error_set(err, ENODEV, "not here");
}

#define NO_ENGINE(name_, init_, run_)                                                                        \
    {                                                                                                        \
        .name = (name_), .vm_init = (init_), .vm_release = engine_vm_release, .vcpu_init = engine_vcpu_init, \
        .vcpu_release = engine_nothing, .run = (run_), .kick = engine_nothing, .sync = engine_nothing,       \
        .state_changed = engine_nothing, .flush_tlb = engine_nothing                                         \
    }
static const struct engine_ops broken_engine = NO_ENGINE("broken", engine_vm_init, broken_run);
static const struct engine_ops absent_engine = NO_ENGINE("absent", absent_vm_init, engine_run);

static void out(struct pc *pc, u16 port, u32 value, unsigned size)
{
    lock_acquire(&pc->vm.machine_lock);
    memory_pio_write(&pc->memory, port, value, size);
    lock_drop(&pc->vm.machine_lock);
}

static enum vcpu_exit power_off(struct pc *pc, struct vcpu *vcpu)
{
    out(pc, ACPI_PM_BASE + ACPI_PM1_CONTROL, 1 << 13 | ACPI_PM_S5 << 10, 2);
    return VCPU_EXIT_REQUEST;
}

static enum vcpu_exit reset(struct pc *pc, struct vcpu *vcpu)
{
    memset(memory_ram(&pc->memory, ENTRY), 0xff, 16); /* the image is spoilt */
    vcpu->state.gpr[X86_RBX] = 1;
    out(pc, RESET_PORT, RESET_PORT_VALUE, 1);
    return VCPU_EXIT_REQUEST;
}

static enum vcpu_exit debug_exit(struct pc *pc, struct vcpu *vcpu)
{
    out(pc, ISA_DEBUG_EXIT_PORT, 21, 4);
    return VCPU_EXIT_REQUEST;
}

static enum vcpu_exit die(struct pc *pc, struct vcpu *vcpu)
{
    return VCPU_EXIT_TRIPLE_FAULT;
}

static enum vcpu_exit quit(struct pc *pc, struct vcpu *vcpu)
{
    pc_quit(pc);
    return VCPU_EXIT_REQUEST;
}

/* --- a board with a Multiboot kernel of a few bytes --- */

static u8 image[64];
static char path[] = "kernel";
static struct boot_source boot;
static struct event_loop *loop;
static struct pc_config config;

static int setup(void **state)
{
    static const u32 header[8] = {0x1badb002, 0x10000,    0xe4514ffeu, ENTRY + 16,
                                  ENTRY + 16, ENTRY + 64, 0,           ENTRY};

    memset(image, 0x90, sizeof image);
    memcpy(image + 16, header, sizeof header);
    put_le32(image + 16 + 8, 0u - header[0] - header[1]);
    put_le32(image + 16 + 16, ENTRY);
    boot = (struct boot_source){.kernel = {.data = image, .size = sizeof image, .path = path}, .cmdline = ""};
    script = (struct script){0};
    config = (struct pc_config){
        .name = "test",
        .engine = &script_engine,
        .cpu_model = "host",
        .cpus = 2,
        .memory = 16 << 20,
        .console = "none",
        .debug_exit = true,
        .debug_exit_port = ISA_DEBUG_EXIT_PORT,
    };
    loop = event_loop_new(NULL);
    return loop ? 0 : -1;
}

static int teardown(void **state)
{
    event_loop_free(loop);
    return 0;
}

static struct error end_error;

static enum vm_end run(int *code)
{
    struct error err = {0};
    enum vm_end why;

    the_pc = pc_new(&config, &boot, loop, &err);
    if (!the_pc)
        fail_msg("%s", err.text);
    why = pc_run(the_pc, code, &end_error);
    pc_free(the_pc);
    return why;
}

static void power_off_ends_the_run(void **state)
{
    int code;
    script.guest[0] = power_off;
    assert_int_equal(run(&code), VM_END_POWEROFF);
    assert_int_equal(script.starts, 1);
}

static void debug_exit_gives_its_code(void **state)
{
    int code;
    script.guest[0] = debug_exit;
    assert_int_equal(run(&code), VM_END_DEBUG_EXIT);
    assert_int_equal(code, 21 << 1 | 1);
}

static void triple_fault_ends_the_run(void **state)
{
    int code;
    script.guest[0] = die;
    assert_int_equal(run(&code), VM_END_TRIPLE_FAULT);
}

static void quit_ends_the_run(void **state)
{
    int code;
    script.guest[0] = quit;
    assert_int_equal(run(&code), VM_END_QUIT);
}

static void reset_ends_the_run_under_no_reboot(void **state)
{
    int code;
    config.no_reboot = true;
    script.guest[0] = reset;
    script.guest[1] = power_off;
    assert_int_equal(run(&code), VM_END_RESET);
    assert_int_equal(script.starts, 1);
}

static enum vcpu_exit look_around(struct pc *pc, struct vcpu *vcpu)
{
    assert_memory_equal(memory_ram(&pc->memory, ENTRY), image, sizeof image);
    assert_int_equal(vcpu->state.gpr[X86_RAX], 0x2badb002);
    assert_int_equal(vcpu->state.gpr[X86_RBX], MAP_BOOT_INFO);
    assert_int_equal(vcpu->state.cr0 & X86_CR0_PG, 0);
    return power_off(pc, vcpu);
}

static void reset_loads_the_kernel_anew(void **state)
{
    int code;
    script.guest[0] = reset;
    script.guest[1] = reset;
    script.guest[2] = look_around;
    assert_int_equal(run(&code), VM_END_POWEROFF);
    assert_int_equal(script.starts, 3);
}

static void another_engine_goes_on_when_one_fails(void **state)
{
    int code;
    config.engine = &broken_engine;
    config.other = &script_engine;
    script.guest[0] = debug_exit;
    assert_int_equal(run(&code), VM_END_DEBUG_EXIT);
    assert_int_equal(script.starts, 1);
}

static void failure_without_another_engine_ends_the_run(void **state)
{
    int code;
    config.engine = &broken_engine;
    assert_int_equal(run(&code), VM_END_ERROR);
    assert_string_equal(end_error.text, "out of order");
    config.other = &absent_engine;
    assert_int_equal(run(&code), VM_END_ERROR);
    assert_string_equal(end_error.text, "not here");
}

static void every_device_has_a_name_and_is_listed_once(void **state)
{
    struct device *a, *b;
    unsigned count = 0;

    config.virtio_console = "none";
    the_pc = pc_new(&config, &boot, loop, NULL);
    assert_non_null(the_pc);
    list_for_each (a, &the_pc->devices, link) {
        unsigned same = 0;
        assert_non_null(a->name);
        list_for_each (b, &the_pc->devices, link)
            same += !strcmp(a->name, b->name) && a->instance == b->instance;
        if (same != 1)
            fail_msg("%s %u is listed %u times", a->name, a->instance, same);
        count++;
    }
    assert_true(count >= 16);
    pc_free(the_pc);
}

/* Regions that a device would put over another one's fail in pc_new(); this finds ones over RAM. */
static void bars_lie_in_their_window(void **state)
{
    struct io_region *r;

    the_pc = pc_new(&config, &boot, loop, NULL);
    assert_non_null(the_pc);
    r = memory_find_mmio(&the_pc->memory, MAP_ECAM);
    assert_non_null(r);
    assert_true(the_pc->rng.pci.registers.mapped);
    assert_in_range(the_pc->rng.pci.registers.base, MAP_PCI_MMIO32, MAP_PCI_MMIO64_END - 1);
    pc_free(the_pc);
}

static void a_bad_disk_leaves_nothing_behind(void **state)
{
    struct error err = {0};

    config.disk[0].path = "/nonexistent/disk";
    config.disk_count = 1;
    assert_null(pc_new(&config, &boot, loop, &err));
    assert_non_null(strstr(err.text, "/nonexistent/disk"));
}

static void expect_answer(u8 key, const char *expected)
{
    char answer[CHAR_ANSWER] = "";

    the_pc->keys.press(the_pc->keys.owner, key, answer);
    assert_string_equal(answer, expected);
}

static void keys_pull_cables_out_and_plug_them_in(void **state)
{
    config.net[0].options.kind = config.net[1].options.kind = NET_NULL;
    config.net[1].options.link_down = true;
    config.net_count = 2;
    the_pc = pc_new(&config, &boot, loop, NULL);
    assert_non_null(the_pc);
    expect_answer('1', "network card 1 is unplugged");
    assert_int_equal(the_pc->net[0].status, 0);
    expect_answer('1', "network card 1 is plugged in");
    assert_int_equal(the_pc->net[0].status, 1);
    expect_answer('2', "network card 2 is plugged in");
    assert_int_equal(the_pc->net[1].status, 1);
    expect_answer('3', "there is no network card 3");
    expect_answer('8', "there is no network card 8");
    expect_answer('9', "");
    expect_answer('n', "network cards that announce themselves: 0"); /* no driver is there */
    pc_free(the_pc);
}

static void two_boards_live_side_by_side(void **state)
{
    struct event_loop *other_loop = event_loop_new(NULL);
    struct pc *a = pc_new(&config, &boot, loop, NULL), *b = pc_new(&config, &boot, other_loop, NULL);

    assert_non_null(a);
    assert_non_null(b);
    memory_ram(&a->memory, 0x5000)[0] = 1;
    assert_int_equal(memory_ram(&b->memory, 0x5000)[0], 0);
    pc_free(a);
    pc_free(b);
    event_loop_free(other_loop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(power_off_ends_the_run),
        TEST(debug_exit_gives_its_code),
        TEST(triple_fault_ends_the_run),
        TEST(quit_ends_the_run),
        TEST(reset_ends_the_run_under_no_reboot),
        TEST(reset_loads_the_kernel_anew),
        TEST(another_engine_goes_on_when_one_fails),
        TEST(failure_without_another_engine_ends_the_run),
        TEST(every_device_has_a_name_and_is_listed_once),
        TEST(bars_lie_in_their_window),
        TEST(a_bad_disk_leaves_nothing_behind),
        TEST(keys_pull_cables_out_and_plug_them_in),
        TEST(two_boards_live_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
