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

#endif
