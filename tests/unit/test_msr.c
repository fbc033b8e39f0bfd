/* Model-specific registers, and the time page of kvmclock. */
#include <sys/mman.h>
#include <unistd.h>

#include "soft-fixture.h"

static int rd(struct fixture *f, u32 index, u64 *value)
{
    *value = 0x5a5a5a5a5a5a5a5a;
    return cpu_rdmsr(f->vcpu, index, value);
}

static int wr(struct fixture *f, u32 index, u64 value)
{
    return cpu_wrmsr(f->vcpu, index, value);
}

static void assert_holds(struct fixture *f, u32 index, u64 value)
{
    u64 got;
    assert_int_equal(wr(f, index, value), 0);
    assert_int_equal(rd(f, index, &got), 0);
    assert_int_equal(got, value);
}

static void unknown_registers_fault(void **state)
{
    static const u32 unknown[] = {0x2, 0x12345, 0x480, 0xc0000200, 0xc0010200, 0x40000000, 0x4b564d02};
    struct fixture *f = *state;
    u64 v;
    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
        assert_int_equal(rd(f, unknown[i], &v), -1);
        assert_int_equal(wr(f, unknown[i], 0), -1);
    }
}

static void system_call_registers_want_canonical_addresses(void **state)
{
    static const u32 canonical[] = {MSR_LSTAR,          MSR_CSTAR,        MSR_FS_BASE,     MSR_GS_BASE,
                                    MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(canonical); i++) {
        assert_holds(f, canonical[i], 0xffff800012345678);
        assert_int_equal(wr(f, canonical[i], 0x0000800000000000), -1);
        assert_holds(f, canonical[i], 0x00007fffffffffff);
    }
    assert_holds(f, MSR_STAR, 0x0023001000000000);
    assert_int_equal(f->s->seg[X86_FS].base, 0x00007fffffffffff);
    assert_int_equal(wr(f, MSR_SFMASK, BIT(32)), -1);
}

static void efer_rules(void **state)
{
    struct fixture *f = *state;
    u64 v;
    fx_protected(f, 0);
    assert_int_equal(wr(f, MSR_EFER, BIT(1)), -1);
    assert_int_equal(wr(f, MSR_EFER, BIT(12)), -1); /* SVME */
    assert_int_equal(wr(f, MSR_EFER, X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE), 0);
    assert_int_equal(rd(f, MSR_EFER, &v), 0);
    assert_int_equal(v, X86_EFER_LME | X86_EFER_SCE); /* LMA is the processor's */
    fx_long(f, 0);
    assert_int_equal(wr(f, MSR_EFER, f->s->efer & ~X86_EFER_LME), -1); /* with paging on */
    assert_int_equal(wr(f, MSR_EFER, f->s->efer & ~(X86_EFER_SCE | X86_EFER_LMA)), 0);
    assert_true(f->s->efer & X86_EFER_LMA);
}

static void pat_takes_known_types(void **state)
{
    struct fixture *f = *state;
    assert_holds(f, MSR_PAT, 0x0007040600070406);
    assert_holds(f, MSR_PAT, 0x0105040600070406);
    assert_int_equal(wr(f, MSR_PAT, 0x0007040600070402), -1);
    assert_int_equal(wr(f, MSR_PAT, 0x0807040600070406), -1);
}

static void mtrrs_hold_valid_values(void **state)
{
    struct fixture *f = *state;
    u64 v;
    assert_int_equal(rd(f, MSR_MTRR_CAP, &v), 0);
    assert_int_equal(v & 0xff, 8);
    assert_int_equal(wr(f, MSR_MTRR_CAP, v), -1);
    for (u32 n = 0; n < 16; n += 2) {
        assert_holds(f, MSR_MTRR_PHYSBASE0 + n, 0xc0000006);
        assert_holds(f, MSR_MTRR_PHYSBASE0 + n + 1, 0xfc0000800);
        assert_int_equal(wr(f, MSR_MTRR_PHYSBASE0 + n, 0xc0000002), -1);
        assert_int_equal(wr(f, MSR_MTRR_PHYSBASE0 + n + 1, 0xfc0000001), -1);
        assert_int_equal(wr(f, MSR_MTRR_PHYSBASE0 + n, BIT(f->cpuid.maxphyaddr)), -1);
    }
    assert_int_equal(wr(f, MSR_MTRR_PHYSBASE0 + 16, 0), -1);
    assert_holds(f, MSR_MTRR_FIX64K, 0x0606060606060606);
    assert_holds(f, 0x258, 0x0101010101010101);
    assert_holds(f, 0x259, 0);
    for (u32 i = 0x268; i <= 0x26f; i++)
        assert_holds(f, i, 0x0500000000000004 + i % 2);
    assert_int_equal(wr(f, 0x268, 7), -1);
    assert_holds(f, MSR_MTRR_DEF_TYPE, 0xc06);
    assert_int_equal(wr(f, MSR_MTRR_DEF_TYPE, 0x1006), -1);
    assert_int_equal(wr(f, MSR_MTRR_DEF_TYPE, 0xc02), -1);
}

static void tsc_and_its_adjustment_move_together(void **state)
{
    struct fixture *f = *state;
    u64 v;
    assert_int_equal(wr(f, MSR_TSC, 1000), 0);
    assert_int_equal(rd(f, MSR_TSC, &v), 0);
    assert_int_equal(v, 1000);
    u64 adjust = f->s->tsc_adjust;
    assert_int_equal(wr(f, MSR_TSC, 1500), 0);
    assert_int_equal(f->s->tsc_adjust, adjust + 500);
    assert_int_equal(wr(f, MSR_TSC_ADJUST, adjust + 400), 0);
    assert_int_equal(rd(f, MSR_TSC, &v), 0);
    assert_int_equal(v, 1400);
}

static void amd_registers_only_on_amd(void **state)
{
    static const u32 amd[] = {0xc0010000, 0xc0010010, 0xc0010015, 0xc001001f, 0xc0011029};
    struct fixture *f = *state;
    u64 v;
    for (unsigned i = 0; i < ARRAY_SIZE(amd); i++) {
        fx_set_amd(f, true);
        assert_int_equal(rd(f, amd[i], &v), 0);
        assert_int_equal(wr(f, amd[i], v), 0);
        fx_set_amd(f, false);
        assert_int_equal(rd(f, amd[i], &v), -1);
        assert_int_equal(wr(f, amd[i], 0), -1);
    }
}

static void there_are_no_machine_check_banks(void **state)
{
    struct fixture *f = *state;
    u64 v;
    assert_int_equal(rd(f, MSR_MCG_CAP, &v), 0);
    assert_int_equal(v, 0);
    assert_int_equal(rd(f, 0x400, &v), -1);
}

/* --- kvmclock --- */

/* What a guest makes of the time page (asm/pvclock.h): the system time at @tsc. */
static u64 guest_time(struct fixture *f, u64 page, u64 tsc)
{
    u64 delta = tsc - fx_peek(f, page + 8, 8);
    i8 shift = (i8)fx_peek(f, page + 28, 1);
    u64 mul = fx_peek(f, page + 24, 4);
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return fx_peek(f, page + 16, 8) + (u64)((u128)delta * mul >> 32);
}

static void kvmclock_agrees_with_virtual_time(void **state)
{
    static const u32 msrs[] = {MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME_NEW};
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        u64 page = FX_FREE + 0x40 * i;
        assert_int_equal(wr(f, MSR_TSC, 0x123456789abc), 0);
        assert_int_equal(wr(f, msrs[i], page | 1), 0);
        assert_int_equal(fx_peek(f, page, 4), 2);      /* even: complete */
        assert_int_equal(fx_peek(f, page + 29, 1), 1); /* stable */
        u64 khz = clock_tsc_khz(), now = vclock_ns(&f->vm.clock), tsc = vcpu_tsc(f->vcpu);
        assert_in_range(guest_time(f, page, tsc) + 1 - now, 0, 2);
        u64 hour = guest_time(f, page, tsc + khz * 3600000) - now;
        assert_in_range(hour, 3599999990000, 3600000010000); /* within 3 parts in 10^9 */
        assert_int_equal(wr(f, msrs[i], page | 1), 0);
        assert_int_equal(fx_peek(f, page, 4), 4);
    }
}

static void kvmclock_follows_a_written_tsc(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(wr(f, MSR_KVM_SYSTEM_TIME_NEW, FX_FREE | 1), 0);
    u64 before = guest_time(f, FX_FREE, vcpu_tsc(f->vcpu));
    assert_int_equal(wr(f, MSR_TSC, 0x7fffffffffff), 0);
    assert_int_equal(guest_time(f, FX_FREE, vcpu_tsc(f->vcpu)), before);
}

static void kvmclock_off_writes_nothing(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(wr(f, MSR_KVM_SYSTEM_TIME_NEW, FX_FREE), 0);
    assert_int_equal(fx_peek(f, FX_FREE, 8), 0);
}

static void kvmclock_outside_ram_is_harmless(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(wr(f, MSR_KVM_SYSTEM_TIME_NEW, 0xfffffffffffff001), 0);
    assert_int_equal(wr(f, MSR_KVM_SYSTEM_TIME_NEW, (FX_RAM - 16) | 1), 0);
    assert_int_equal(wr(f, MSR_KVM_WALL_CLOCK_NEW, FX_RAM - 4), 0);
}

static void wall_clock_is_the_time_at_system_time_0(void **state)
{
    struct fixture *f = *state;
    u64 wall = (clock_wall_ns() - vclock_ns(&f->vm.clock)) / NS_PER_SEC;
    assert_int_equal(wr(f, MSR_KVM_WALL_CLOCK_NEW, FX_FREE), 0);
    assert_in_range(fx_peek(f, FX_FREE + 4, 4), wall, wall + 60);
    assert_in_range(fx_peek(f, FX_FREE + 8, 4), 0, NS_PER_SEC - 1);
    assert_int_equal(fx_peek(f, FX_FREE, 4), 2);
}

/* What the host's scheduler says: time run, time waited, slices. */
static void host_says(struct fixture *f, const char *text)
{
    int fd = atomic_load(&f->vcpu->schedstat);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, text, strlen(text), 0), strlen(text));
}

static void steal_time_is_what_the_thread_waited(void **state)
{
    struct fixture *f = *state;
    atomic_store(&f->vcpu->schedstat, memfd_create("schedstat", MFD_CLOEXEC));
    host_says(f, "10 1000 3\n");
    assert_int_equal(wr(f, MSR_KVM_STEAL_TIME, FX_FREE | 3), -1);
    assert_holds(f, MSR_KVM_STEAL_TIME, FX_FREE | 1);
    host_says(f, "20 5000 4\n");
    lock_acquire(&f->vm.machine_lock);
    steal_update(f->vcpu);
    assert_int_equal(fx_peek(f, FX_FREE, 8), 4000);
    assert_int_equal(fx_peek(f, FX_FREE + 8, 4), 2);
    host_says(f, "no numbers\n");
    steal_update(f->vcpu);
    host_says(f, "20 7 4\n"); /* another thread */
    steal_update(f->vcpu);
    host_says(f, "20 107 4\n");
    steal_update(f->vcpu);
    lock_drop(&f->vm.machine_lock);
    assert_in_range(fx_peek(f, FX_FREE, 8), 4100, 4107);
    assert_holds(f, MSR_KVM_STEAL_TIME, 0);
    steal_thread_ends(f->vcpu);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(unknown_registers_fault),
        T(system_call_registers_want_canonical_addresses),
        T(efer_rules),
        T(pat_takes_known_types),
        T(mtrrs_hold_valid_values),
        T(tsc_and_its_adjustment_move_together),
        T(amd_registers_only_on_amd),
        T(there_are_no_machine_check_banks),
        T(kvmclock_agrees_with_virtual_time),
        T(kvmclock_follows_a_written_tsc),
        T(kvmclock_off_writes_nothing),
        T(kvmclock_outside_ram_is_harmless),
        T(wall_clock_is_the_time_at_system_time_0),
        T(steal_time_is_what_the_thread_waited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
