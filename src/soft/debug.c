/* Debug registers: breakpoints on code, data and I/O (SDM vol. 3, 18.2). */
#include "soft/system-internal.h"

enum { BP_EXEC, BP_WRITE, BP_IO, BP_RW };

/* Breakpoint @i is enabled, by its local or its global bit. */
static bool enabled(const struct x86_state *s, unsigned i)
{
    return s->dr7 >> (2 * i) & 3;
}
static unsigned kind_of(const struct x86_state *s, unsigned i)
{
    return s->dr7 >> (16 + 4 * i) & 3;
}
static unsigned size_of(const struct x86_state *s, unsigned i)
{
    static const u8 size[] = {1, 2, 8, 4};
    return size[s->dr7 >> (18 + 4 * i) & 3];
}

/* Does [@address, @address + @size) touch breakpoint @i, whose address is taken as aligned to its size? */
static bool touches(const struct x86_state *s, unsigned i, u64 address, unsigned size)
{
    u64 len = size_of(s, i), start = s->dr[i] & ~(len - 1);
    return address < start + len && start < address + size;
}

void soft_check_code_breakpoint(struct soft_cpu *c, u64 la)
{
    struct x86_state *s = c->s;
    u32 hit = 0;
    if (s->rflags & X86_RF) {
        s->rflags &= ~X86_RF;
        return;
    }
    if (s->int_shadow == 2)
        return;
    for (unsigned i = 0; i < 4; i++) {
        if (enabled(s, i) && kind_of(s, i) == BP_EXEC && s->dr[i] == la)
            hit |= 1u << i;
    }
    if (hit)
        soft_raise_db(c, hit);
}

void soft_note_data_access(struct soft_cpu *c, u64 la, unsigned size, bool write)
{
    struct x86_state *s = c->s;
    for (unsigned i = 0; i < 4; i++) {
        unsigned kind = kind_of(s, i);
        if (enabled(s, i) && (kind == BP_RW || (kind == BP_WRITE && write)) && touches(s, i, la, size)) {
            s->pending_db |= 1u << i;
            c->stop_block = true;
        }
    }
}

void soft_note_io_access(struct soft_cpu *c, u16 port, unsigned size)
{
    struct x86_state *s = c->s;
    if (!(s->cr4 & X86_CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++) {
        if (enabled(s, i) && kind_of(s, i) == BP_IO && touches(s, i, port, size)) {
            s->pending_db |= 1u << i;
            c->stop_block = true;
        }
    }
}
