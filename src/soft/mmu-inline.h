/*
 * The fast paths of guest memory access: one compare and one add on a TLB hit. The page of the last
 * byte is compared with the entry of the first one's page, so an access that crosses a page never
 * hits. Alignment is not looked at: where #AC or data breakpoints are armed the context number is
 * one that no tag has (mmu.c).
 */
#ifndef TRAPEZE_SOFT_MMU_INLINE_H
#define TRAPEZE_SOFT_MMU_INLINE_H

#include "soft/soft.h"

static ALWAYS_INLINE struct soft_tlb_entry *soft_tlb_entry(struct soft_cpu *c, u64 la)
{
    return &c->tlb[(la >> PAGE_SHIFT) & (SOFT_TLB_SIZE - 1)];
}

/* Guest memory as the host sees it: other vCPUs write to it, so each access is one volatile move. */
#define DEFINE_HOST_ACCESS(N)                                                         \
    typedef volatile u##N __attribute__((aligned(1), may_alias)) soft_guest_u##N;     \
    static ALWAYS_INLINE u##N soft_host_read##N(const void *p)                        \
    {                                                                                 \
        return *(const soft_guest_u##N *)p;                                           \
    }                                                                                 \
    static ALWAYS_INLINE void soft_host_write##N(void *p, u##N v)                     \
    {                                                                                 \
        *(soft_guest_u##N *)p = v;                                                    \
    }                                                                                 \
    static ALWAYS_INLINE u##N soft_read##N(struct soft_cpu *c, u64 la)                \
    {                                                                                 \
        const struct soft_tlb_entry *e = soft_tlb_entry(c, la);                       \
        if (likely(e->read[c->user] == (((la + N / 8 - 1) & PAGE_MASK) | c->ctx)))    \
            return soft_host_read##N((const void *)(uintptr_t)(la + (u64)e->addend)); \
        return (u##N)soft_read_slow(c, la, N / 8);                                    \
    }                                                                                 \
    static ALWAYS_INLINE void soft_write##N(struct soft_cpu *c, u64 la, u##N v)       \
    {                                                                                 \
        const struct soft_tlb_entry *e = soft_tlb_entry(c, la);                       \
        if (likely(e->write[c->user] == (((la + N / 8 - 1) & PAGE_MASK) | c->ctx))) { \
            soft_host_write##N((void *)(uintptr_t)(la + (u64)e->addend), v);          \
            return;                                                                   \
        }                                                                             \
        soft_write_slow(c, la, v, N / 8);                                             \
    }
DEFINE_HOST_ACCESS(8)
DEFINE_HOST_ACCESS(16)
DEFINE_HOST_ACCESS(32)
DEFINE_HOST_ACCESS(64)
#undef DEFINE_HOST_ACCESS

/* The stack of 64-bit mode, where an address that is not canonical is #SS. */
static ALWAYS_INLINE u64 soft_stack_read64(struct soft_cpu *c, u64 la)
{
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (likely(e->read[c->user] == (((la + 7) & PAGE_MASK) | c->ctx)))
        return soft_host_read64((const void *)(uintptr_t)(la + (u64)e->addend));
    return soft_stack_read_slow(c, la);
}

static ALWAYS_INLINE void soft_stack_write64(struct soft_cpu *c, u64 la, u64 v)
{
    const struct soft_tlb_entry *e = soft_tlb_entry(c, la);
    if (likely(e->write[c->user] == (((la + 7) & PAGE_MASK) | c->ctx)))
        soft_host_write64((void *)(uintptr_t)(la + (u64)e->addend), v);
    else
        soft_stack_write_slow(c, la, v);
}

/* By size, which should be a constant. */
static ALWAYS_INLINE u64 soft_read(struct soft_cpu *c, u64 la, unsigned size)
{
    switch (size) {
    case 1: return soft_read8(c, la);
    case 2: return soft_read16(c, la);
    case 4: return soft_read32(c, la);
    default: return soft_read64(c, la);
    }
}

static ALWAYS_INLINE void soft_write(struct soft_cpu *c, u64 la, u64 v, unsigned size)
{
    switch (size) {
    case 1: soft_write8(c, la, (u8)v); break;
    case 2: soft_write16(c, la, (u16)v); break;
    case 4: soft_write32(c, la, (u32)v); break;
    default: soft_write64(c, la, v);
    }
}

#endif
