/* Which CPUID features an instruction belongs to, so that what is not offered raises #UD. */
#ifndef TRAPEZE_SOFT_FEATURES_H
#define TRAPEZE_SOFT_FEATURES_H

#include <Zydis/Zydis.h>

#include "x86/cpuid.h"

/*
 * Does the guest's CPUID offer @insn? False also for extensions that no engine implements (VMX, AMX,
 * XOP ...). Instructions that decode as another one on CPUs without the feature (LZCNT and TZCNT,
 * which are then BSR and BSF; PREFETCHW; ENDBR) are the caller's: ask before taking them for new.
 */
bool insn_offered(const struct cpuid_table *t, const ZydisDecodedInstruction *insn);

/* A decoder for @mode whose choices where CPUs differ are those of @t. */
void insn_decoder_init(ZydisDecoder *d, const struct cpuid_table *t, ZydisMachineMode mode,
                       ZydisStackWidth stack);

/*
 * Mends what Zydis 4.0 reads wrongly: SIB without a base (mod 0, base 5) has none whatever REX.B says (SDM
 * vol. 2, table 2-5); where addresses have 32 bits it takes R13D for one and loses the displacement.
 */
void insn_fix_operands(const ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops);

#endif
