/* Read-modify-write off the fast path, and the wide compare-and-exchange. */
#include "soft/interpret/handlers.h"

u64 rmw_slow_read(struct soft_cpu *c, u64 la, unsigned size)
{
    soft_check_alignment(c, la, size);
    soft_probe(c, la, size, SOFT_WRITE);
    return soft_read_slow(c, la, size);
}

/* soft_atomic_ptr() found the page writable, so nothing raises any more unless another vCPU changes it just
 * now. */
u64 locked_begin(struct soft_cpu *c, u64 la, unsigned size)
{
    soft_once(c);
    vm_exclusive_begin(c->vcpu->vm, c->vcpu);
    c->interpret->exclusive = true;
    return soft_read_slow(c, la, size);
}

void locked_end(struct soft_cpu *c)
{
    c->interpret->exclusive = false;
    vm_exclusive_end(c->vcpu->vm, c->vcpu);
}

static void set_zf(struct soft_cpu *c, bool equal)
{
    c->arith_flags = (u16)(equal ? c->arith_flags | AF_ZF : c->arith_flags & ~AF_ZF);
}

H(cmpxchg8b)
{
    u64 expected = (u64)reg_get32(s, R_DX) << 32 | reg_get32(s, R_AX), old = expected;
    u64 new = (u64)reg_get32(s, R_CX) << 32 | reg_get32(s, R_BX);
    u64 *p = soft_atomic_ptr(c, la, 8);
    if (likely(p)) {
        asm volatile("lock cmpxchgq %2, %1" : "+a"(old), "+m"(*p) : "r"(new) : "cc", "memory");
    } else {
        old = locked_begin(c, la, 8);
        soft_write_slow(c, la, old == expected ? new : old, 8);
        locked_end(c);
    }
    if (old != expected) {
        reg_set32(s, R_AX, (u32)old);
        reg_set32(s, R_DX, (u32)(old >> 32));
    }
    set_zf(c, old == expected);
    AFTER_WRITE;
    NEXT;
}

H(cmpxchg16b)
{
    u64 lo = reg_get64(s, R_AX), hi = reg_get64(s, R_DX);
    u64 new_lo = reg_get64(s, R_BX), new_hi = reg_get64(s, R_CX);
    bool equal;
    if (la & 15)
        soft_gp0(c);
    u128 *p = soft_atomic_ptr(c, la, 16);
    if (likely(p)) {
        asm volatile("lock cmpxchg16b %1"
                     : "=@ccz"(equal), "+m"(*p), "+a"(lo), "+d"(hi)
                     : "b"(new_lo), "c"(new_hi)
                     : "memory");
    } else {
        u64 old_lo = locked_begin(c, la, 8), old_hi = soft_read_slow(c, la + 8, 8);
        equal = old_lo == lo && old_hi == hi;
        soft_write_slow(c, la, equal ? new_lo : old_lo, 8);
        soft_write_slow(c, la + 8, equal ? new_hi : old_hi, 8);
        locked_end(c);
        lo = old_lo;
        hi = old_hi;
    }
    if (!equal) {
        reg_set64(s, R_AX, lo);
        reg_set64(s, R_DX, hi);
    }
    set_zf(c, equal);
    AFTER_WRITE;
    NEXT;
}
