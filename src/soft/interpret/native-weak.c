/* Stands in for native.c and fpu.c until they are there: every such instruction is undefined. */
#include "soft/native.h"

#define WEAK __attribute__((weak))

struct native_cache {
    int nothing;
};

WEAK struct native_cache *native_cache_new(const struct cpuid_table *cpuid, struct error *err)
{
    return calloc(1, sizeof(struct native_cache));
}
WEAK void native_cache_free(struct native_cache *n)
{
    free(n);
}
WEAK bool native_cache_full(const struct native_cache *n)
{
    return false;
}
WEAK void native_cache_reset(struct native_cache *n) {}
WEAK const struct native_stub *native_compile(struct native_cache *n, const u8 *bytes,
                                              const ZydisDecodedInstruction *insn,
                                              const ZydisDecodedOperand *ops)
{
    return NULL;
}
WEAK void native_run(struct soft_cpu *c, const struct native_stub *stub, u64 la) {}
WEAK bool native_uses_flags(const struct native_stub *stub)
{
    return true;
}
WEAK int native_install_signals(struct error *err)
{
    return 0;
}
WEAK void soft_fxsave(struct soft_cpu *c, u64 la, bool rex_w)
{
    soft_ud(c);
}
WEAK void soft_fxrstor(struct soft_cpu *c, u64 la, bool rex_w)
{
    soft_ud(c);
}
WEAK void soft_xsave(struct soft_cpu *c, u64 la, bool rex_w, enum soft_xsave_kind kind)
{
    soft_ud(c);
}
WEAK void soft_xrstor(struct soft_cpu *c, u64 la, bool rex_w, bool supervisor)
{
    soft_ud(c);
}
