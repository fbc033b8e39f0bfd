/* Arithmetic flags: which instructions read and write them, and where they are (T2). */
#include "soft/translate/translate-internal.h"

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))
#define ARITH                                                                                       \
    (ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | \
     ZYDIS_CPUFLAG_OF)

/* --- flags --- */

static u32 flags_written(const ZydisDecodedInstruction *z)
{
    const ZydisAccessedFlags *f = z->cpu_flags;
    return f ? (f->modified | f->set_0 | f->set_1 | f->undefined) & ARITH : 0;
}

/* A count of zero leaves the flags alone. */
static bool may_leave_flags(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return z->raw.imm[0].size == 0 || !(z->raw.imm[0].value.u & 31);
    default: return false;
    }
}

bool translate_reads_flags(const ZydisDecodedInstruction *z)
{
    return z->cpu_flags && (z->cpu_flags->tested & ARITH);
}

bool translate_writes_flags(const ZydisDecodedInstruction *z)
{
    return flags_written(z) != 0;
}

/* Undefined flags may be what they were before; not so AF after logic, which all CPUs clear. */
bool translate_kills_flags(const ZydisDecodedInstruction *z)
{
    u32 undefined = z->cpu_flags ? z->cpu_flags->undefined & ARITH : 0;
    return flags_written(z) == ARITH && !may_leave_flags(z) &&
           (!undefined || z->meta.category == ZYDIS_CATEGORY_LOGICAL);
}

/* --- flags (T2) --- */

void emit_save_flags(struct emit *e)
{
    emit_bytes(e, "\x9f\x0f\x90\xc0", 4); /* lahf; seto al */
    emit_rm(e, &(struct encoding){.p66 = true, .opcode = 0x89, .reg = HOST_A}, CPU(arith_flags));
}

void flags_save(struct translator *x)
{
    if (!x->flags_in_host || x->flags_saved)
        return;
    emit_save_flags(x->e);
    x->flags_saved = true;
}

void flags_destroyed(struct translator *x)
{
    x->flags_in_host = false;
}

void emit_load_flags(struct emit *e)
{
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xb7, .reg = HOST_A}, CPU(arith_flags));
    emit_bytes(e, "\x04\x7f\x9e", 3); /* add al, 0x7f; sahf */
}

void flags_load(struct translator *x)
{
    if (x->flags_in_host || !x->flags_saved)
        return;
    emit_load_flags(x->e);
    x->flags_in_host = true;
}

/* Flags as the instruction needs them, once the memory operand's check is done. */
void flags_before(struct translator *x)
{
    const ZydisDecodedInstruction *z = &x->z;
    if (translate_reads_flags(z) || (translate_writes_flags(z) && !translate_kills_flags(z)))
        flags_load(x);
}

void flags_after(struct translator *x)
{
    if (!translate_writes_flags(&x->z))
        return;
    x->flags_in_host = true;
    x->flags_saved = false;
}
