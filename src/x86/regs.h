/* Architectural constants: registers, flags, control bits, MSRs, vectors. Intel SDM vol. 3 and 4, AMD APM
 * vol. 2. */
#ifndef TRAPEZE_X86_REGS_H
#define TRAPEZE_X86_REGS_H

#include "base/compiler.h"

enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15
};

/* Encoding order of the segment registers (ModRM.reg of MOV Sreg). */
enum x86_seg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_SEG_COUNT };

/* RFLAGS */
#define X86_CF BIT(0)
#define X86_FLAG1 BIT(1) /* always set */
#define X86_PF BIT(2)
#define X86_AF BIT(4)
#define X86_ZF BIT(6)
#define X86_SF BIT(7)
#define X86_TF BIT(8)
#define X86_IF BIT(9)
#define X86_DF BIT(10)
#define X86_OF BIT(11)
#define X86_IOPL (3ull << 12)
#define X86_NT BIT(14)
#define X86_RF BIT(16)
#define X86_VM BIT(17)
#define X86_AC BIT(18)
#define X86_VIF BIT(19)
#define X86_VIP BIT(20)
#define X86_ID BIT(21)
#define X86_ARITH (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

/* CR0 */
#define X86_CR0_PE BIT(0)
#define X86_CR0_MP BIT(1)
#define X86_CR0_EM BIT(2)
#define X86_CR0_TS BIT(3)
#define X86_CR0_ET BIT(4)
#define X86_CR0_NE BIT(5)
#define X86_CR0_WP BIT(16)
#define X86_CR0_AM BIT(18)
#define X86_CR0_NW BIT(29)
#define X86_CR0_CD BIT(30)
#define X86_CR0_PG BIT(31)

/* CR4 */
#define X86_CR4_VME BIT(0)
#define X86_CR4_PVI BIT(1)
#define X86_CR4_TSD BIT(2)
#define X86_CR4_DE BIT(3)
#define X86_CR4_PSE BIT(4)
#define X86_CR4_PAE BIT(5)
#define X86_CR4_MCE BIT(6)
#define X86_CR4_PGE BIT(7)
#define X86_CR4_PCE BIT(8)
#define X86_CR4_OSFXSR BIT(9)
#define X86_CR4_OSXMMEXCPT BIT(10)
#define X86_CR4_UMIP BIT(11)
#define X86_CR4_LA57 BIT(12)
#define X86_CR4_VMXE BIT(13)
#define X86_CR4_FSGSBASE BIT(16)
#define X86_CR4_PCIDE BIT(17)
#define X86_CR4_OSXSAVE BIT(18)
#define X86_CR4_SMEP BIT(20)
#define X86_CR4_SMAP BIT(21)
#define X86_CR4_PKE BIT(22)

/* EFER */
#define X86_EFER_SCE BIT(0)
#define X86_EFER_LME BIT(8)
#define X86_EFER_LMA BIT(10)
#define X86_EFER_NXE BIT(11)
#define X86_EFER_AUTOIBRS BIT(21)

/* XCR0 */
#define X86_XCR0_X87 BIT(0)
#define X86_XCR0_SSE BIT(1)
#define X86_XCR0_AVX BIT(2)
#define X86_XCR0_OPMASK BIT(5)
#define X86_XCR0_ZMM_HI256 BIT(6)
#define X86_XCR0_HI16_ZMM BIT(7)
#define X86_XCR0_PKRU BIT(9)
#define X86_XCR0_AVX512 (X86_XCR0_OPMASK | X86_XCR0_ZMM_HI256 | X86_XCR0_HI16_ZMM)

/* DR6, DR7 */
#define X86_DR6_FIXED 0xffff0ff0ull
#define X86_DR6_BD BIT(13)
#define X86_DR6_BS BIT(14)
#define X86_DR6_BT BIT(15)
#define X86_DR7_FIXED 0x400ull
#define X86_DR7_GD BIT(13)

/* Vectors */
enum x86_vector {
    X86_DE,
    X86_DB,
    X86_NMI,
    X86_BP,
    X86_OFV,
    X86_BR,
    X86_UD,
    X86_NM,
    X86_DF_,
    X86_CSO,
    X86_TS,
    X86_NP,
    X86_SS_,
    X86_GP,
    X86_PF_,
    X86_RSVD15,
    X86_MF,
    X86_AC_,
    X86_MC,
    X86_XM
};

/* Page-fault error code */
#define X86_PFEC_P BIT(0)
#define X86_PFEC_W BIT(1)
#define X86_PFEC_U BIT(2)
#define X86_PFEC_RSVD BIT(3)
#define X86_PFEC_I BIT(4)
#define X86_PFEC_PK BIT(5)

/* MSRs */
#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_ADJUST 0x3b
#define MSR_SPEC_CTRL 0x48
#define MSR_PRED_CMD 0x49
#define MSR_BIOS_SIGN_ID 0x8b
#define MSR_MTRR_CAP 0xfe
#define MSR_ARCH_CAPABILITIES 0x10a
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MISC_ENABLE 0x1a0
#define MSR_DEBUGCTL 0x1d9
#define MSR_MTRR_PHYSBASE0 0x200
#define MSR_MTRR_FIX64K 0x250
#define MSR_PAT 0x277
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff
#define MSR_XSS 0xda0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103
#define MSR_KVM_WALL_CLOCK 0x11
#define MSR_KVM_SYSTEM_TIME 0x12
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_ASYNC_PF_EN 0x4b564d02
#define MSR_KVM_STEAL_TIME 0x4b564d03
#define MSR_KVM_PV_EOI_EN 0x4b564d04

/* Is @va canonical for 48-bit linear addresses? */
static inline bool x86_canonical(u64 va)
{
    return (u64)((i64)(va << 16) >> 16) == va;
}

#endif
