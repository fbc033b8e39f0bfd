/*
 * kvmclock: the time page that lets a guest turn its TSC into nanoseconds, and the wall clock at the
 * start of that time.
 *
 * The guest's TSC and the virtual clock are the same counter but for tsc_offset, so the page states
 * one fixed relation (system time 0 at TSC = tsc_offset) for all vCPUs and for good: the readings of
 * several vCPUs agree to the nanosecond, and the stable flag is true.
 */
#include "base/clock.h"
#include "cpu/msr.h"

#define PVCLOCK_TSC_STABLE BIT(0)

/* As Linux's asm/pvclock-abi.h has it. */
struct time_page {
    u32 version; /* odd while the rest is being written */
    u32 pad0;
    u64 tsc_timestamp;
    u64 system_time;
    u32 tsc_to_system_mul;
    i8 tsc_shift;
    u8 flags;
    u8 pad[2];
};

struct wall_page {
    u32 version;
    u32 sec, nsec;
};

/* ns = ((cycles << shift) * mul) >> 32, with @mul as large as it can be. */
static void time_scale(u32 khz, u32 *mul, i8 *shift)
{
    u64 num = 1000000, den = khz;
    *shift = 0;
    while (num >= den) {
        den *= 2;
        (*shift)++;
    }
    while (num * 2 < den) {
        num *= 2;
        (*shift)--;
    }
    *mul = (u32)((num << 32) / den);
}

/* The version under which the page at @gpa was last complete: even. */
static u32 even_version(struct memory *m, u64 gpa)
{
    u32 version = 0;
    memory_read(m, gpa, &version, sizeof version);
    return (version + 1) & ~1u;
}

/* Writes @len bytes whose first four are the version, so that readers notice a torn copy. */
static void publish(struct memory *m, u64 gpa, void *page, u32 len)
{
    u32 version = even_version(m, gpa);
    u32 odd = version + 1;
    memcpy(page, &odd, sizeof odd);
    if (memory_write(m, gpa, page, sizeof odd) != 0)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    memory_write(m, gpa + 4, (u8 *)page + 4, len - 4);
    atomic_thread_fence(memory_order_seq_cst);
    version += 2;
    memory_write(m, gpa, &version, sizeof version);
}

void pvclock_update(struct vcpu *vcpu)
{
    u64 msr = vcpu->state.kvm_system_time;
    struct time_page page = {
        .tsc_timestamp = (u64)vcpu->state.tsc_offset,
        .flags = PVCLOCK_TSC_STABLE,
    };
    if (!(msr & 1))
        return;
    time_scale(clock_tsc_khz(), &page.tsc_to_system_mul, &page.tsc_shift);
    publish(vcpu->vm->memory, msr & ~1ull, &page, sizeof page);
}

void pvclock_write_wall(struct vcpu *vcpu, u64 gpa)
{
    u64 start = clock_wall_ns() - vclock_ns(&vcpu->vm->clock);
    struct wall_page page = {.sec = (u32)(start / NS_PER_SEC), .nsec = (u32)(start % NS_PER_SEC)};
    publish(vcpu->vm->memory, gpa, &page, sizeof page);
}
