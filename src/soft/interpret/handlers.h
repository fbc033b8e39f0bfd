/* The handlers that decode.c hands out, by file. */
#ifndef TRAPEZE_SOFT_INTERPRET_HANDLERS_H
#define TRAPEZE_SOFT_INTERPRET_HANDLERS_H

#include "soft/interpret/interpret-internal.h"

/* address.c: from a memory operand to `la`. _64: 64-bit addresses in 64-bit mode without FS or GS. */
handler ea_base_64, ea_index_64, ea_scaled_64, ea_rip_64, ea_abs_64, ea_segment_64;
handler ea_base_32, ea_index_32; /* 32-bit addresses where segments are flat */
handler ea_any;                  /* everything */
handler ea_unchecked;            /* the segment is left to the operation; not in 64-bit mode */
handler ea_offset;               /* LEA: no segment */
handler ea_bit_string;           /* BT m, r and its kind */

/* alu.c */
extern const struct forms forms_add, forms_or, forms_adc, forms_sbb, forms_and, forms_sub, forms_xor,
    forms_cmp, forms_test, forms_inc, forms_dec, forms_neg, forms_not, forms_xadd, forms_cmpxchg;
handler xor_self_32;

/* shift.c */
extern const struct forms forms_rol, forms_ror, forms_rcl, forms_rcr, forms_shl, forms_shr, forms_sar;
extern const struct forms forms_shld, forms_shrd, forms_shld_cl, forms_shrd_cl; /* count: imm or CL */

/* bit.c */
extern const struct forms forms_bt, forms_bts, forms_btr, forms_btc;
extern const struct forms forms_bsf, forms_bsr, forms_tzcnt, forms_lzcnt, forms_popcnt, forms_movbe,
    forms_bswap;

/* muldiv.c */
extern const struct forms forms_mul, forms_imul1, forms_div, forms_idiv, forms_imul2, forms_imul3;
handler insn_daa, insn_das, insn_aaa, insn_aas, insn_aam, insn_aad;

/* move.c */
extern const struct forms forms_mov, forms_xchg, forms_lea;
extern const struct forms forms_movzx8, forms_movzx16, forms_movsx8, forms_movsx16, forms_movsxd;
extern const struct forms forms_cmov[16], forms_setcc[16];
handler insn_nop, insn_cbw, insn_cwde, insn_cdqe, insn_cwd, insn_cdq, insn_cqo, insn_xlat, insn_lahf,
    insn_sahf, insn_clc, insn_stc, insn_cmc, insn_cld, insn_std, insn_salc, insn_touch;

/* branch.c */
extern handler *const jcc_64[16], *const jcc_legacy[16];
handler jmp_64, jmp_legacy, jmp_r_64, jmp_m_64, jmp_r_legacy, jmp_m_legacy;
handler call_64, call_legacy, call_r_64, call_m_64, call_r_legacy, call_m_legacy;
handler call_32, call_r_32, call_m_32;
handler ret_64, ret_32, ret_legacy;
handler insn_loop, insn_jcxz, block_end;
handler jmp_far_imm, jmp_far_m, call_far_imm, call_far_m, ret_far, insn_iret;

/* stack.c */
handler push_r_32, push_i_32, push_m_32, pop_r_32, leave_32;
handler push_r_64, push_i_64, push_m_64, pop_r_64, pop_m_64, push_r_any, push_i_any, push_m_any, pop_r_any,
    pop_m_any;
handler push_seg, pop_seg, insn_pusha, insn_popa, insn_enter, insn_leave, leave_64, insn_pushf, insn_popf;

/* string.c */
extern handler *const string_movs[4],
    *const string_stos[4], *const string_lods[4], *const string_cmps[4], *const string_scas[4],
                                                                             *const string_ins[4],
                                                                                 *const string_outs[4];

/* lock.c */
handler cmpxchg8b, cmpxchg16b;

/* system-insns.c */
handler insn_ud, insn_gp, insn_native, insn_native_no_flags, insn_native_masked;
handler mov_from_seg_r, mov_from_seg_m, mov_to_seg_r, mov_to_seg_m, load_far_pointer;
handler insn_in_imm, insn_in_dx, insn_out_imm, insn_out_dx;
handler insn_int, insn_int3, insn_into, insn_int1, insn_bound, insn_arpl_r, insn_arpl_m;
handler insn_hlt, insn_cli, insn_sti, insn_clac, insn_stac, insn_clts, insn_cpuid, insn_rdtsc, insn_rdtscp,
    insn_rdpid, insn_rdmsr, insn_wrmsr, insn_rdpmc, insn_xgetbv, insn_xsetbv, insn_syscall, insn_sysret,
    insn_sysenter, insn_sysexit, insn_swapgs, insn_hypercall, insn_invd, insn_pause, insn_monitor, insn_mwait;
handler insn_mov_from_cr, insn_mov_to_cr, insn_mov_from_dr, insn_mov_to_dr, insn_lmsw_r, insn_lmsw_m,
    insn_smsw_r, insn_smsw_m;
handler insn_lgdt, insn_lidt, insn_sgdt, insn_sidt, insn_lldt_r, insn_lldt_m, insn_ltr_r, insn_ltr_m,
    insn_sldt_r, insn_sldt_m, insn_str_r, insn_str_m, insn_lar_r, insn_lar_m, insn_lsl_r, insn_lsl_m,
    insn_verr_r, insn_verr_m, insn_verw_r, insn_verw_m;
handler insn_invlpg, insn_invpcid, insn_rdfsbase, insn_rdgsbase, insn_wrfsbase, insn_wrgsbase;
handler insn_rdrand, insn_rdseed, insn_clflush, insn_fence;
handler insn_fxsave, insn_fxrstor, insn_xsave, insn_xsaveopt, insn_xsavec, insn_xsaves, insn_xrstor,
    insn_xrstors;
handler insn_rdpkru, insn_wrpkru;

#endif
