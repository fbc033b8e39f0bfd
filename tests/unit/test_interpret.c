/* Small guest programs through the interpreter, a group of instructions each, in all modes. */
#include "interpret-fixture.h"

static int setup(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    machine_init(m);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    machine_release(*state);
    free(*state);
    return 0;
}

/* Where the HLT at the end of a program at CODE_AT is. */
#define END_OF(name) (CODE_AT + (u64)(name##_end - name) - 1)

#define GPR(m, r) ((m)->s->gpr[X86_##r])

/* --- computing --- */

PROGRAM(p_arith, 64, "mov $5, %eax; add $7, %rax; mov %rax, %rbx; shl $4, %rbx; lea 3(%rax,%rbx,2), %rcx");

static void arithmetic_in_64_bit_mode(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_run_program(m, p_arith), END_OF(p_arith));
    assert_int_equal(GPR(m, RAX), 12);
    assert_int_equal(GPR(m, RBX), 192);
    assert_int_equal(GPR(m, RCX), 12 + 384 + 3);
}

PROGRAM(p_flags, 64,
        "mov $0x7fffffff, %eax; add $1, %eax; pushfq; pop %r8;" /* SF OF AF PF */
        "xor %eax, %eax; pushfq; pop %r9;"                      /* ZF PF */
        "stc; mov $0, %ecx; inc %ecx; pushfq; pop %r10;"        /* INC keeps CF */
        "stc; sbb %rdx, %rdx; pushfq; pop %r11");

static void flags_are_those_of_the_cpu(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_run_program(m, p_flags);
    assert_int_equal(GPR(m, R8), X86_FLAG1 | X86_SF | X86_OF | X86_AF | X86_PF);
    assert_int_equal(GPR(m, R9), X86_FLAG1 | X86_ZF | X86_PF);
    assert_int_equal(GPR(m, R10), X86_FLAG1 | X86_CF);
    assert_int_equal(GPR(m, R11), X86_FLAG1 | X86_CF | X86_SF | X86_PF | X86_AF);
    assert_int_equal(m->s->rflags & X86_ARITH, X86_CF | X86_SF | X86_PF | X86_AF);
}

PROGRAM(p_high_bytes, 64,
        "mov $0x1234, %eax; mov %ah, %bl; mov $0x55, %ah; mov $-1, %rcx; mov $0x77, %cl; mov $1, %esi");

static void partial_registers(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    GPR(m, RSI) = ~0ull;
    GPR(m, RBX) = 0;
    machine_run_program(m, p_high_bytes);
    assert_int_equal(GPR(m, RAX), 0x5534);
    assert_int_equal(GPR(m, RBX), 0x12);
    assert_int_equal(GPR(m, RCX), 0xffffffffffffff77);
    assert_int_equal(GPR(m, RSI), 1);
}

PROGRAM(p_div, 64, "mov $7, %eax; xor %edx, %edx; xor %ecx, %ecx; div %ecx");
PROGRAM(p_idiv, 64, "mov $0x80000000, %eax; cdq; mov $-1, %ecx; idiv %ecx");
PROGRAM(p_idiv_ok, 64, "mov $-7, %rax; cqo; mov $2, %ecx; idiv %rcx");

static void division_faults_precisely(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_div)), X86_DE);
    /* The frame has the address of the DIV, which is the last two bytes before HLT. */
    assert_int_equal(get_le64(guest(m, GPR(m, RSP))), END_OF(p_div) - 2);
    assert_int_equal(GPR(m, RAX), 7);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_idiv)), X86_DE);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_run_program(m, p_idiv_ok), END_OF(p_idiv_ok));
    assert_int_equal(GPR(m, RAX), -3);
    assert_int_equal(GPR(m, RDX), -1);
}

PROGRAM(p_decimal, 32,
        "mov $0x79, %al; add $0x35, %al; daa; pushf; mov %eax, %ebx;" /* 79 + 35 = 114 */
        "mov $87, %al; aam; mov %eax, %ecx; aad");

static void decimal_adjustment(void **state)
{
    struct machine *m = *state;
    machine_mode32(m);
    GPR(m, RAX) = 0;
    machine_run_program(m, p_decimal);
    assert_int_equal(GPR(m, RBX), 0x14);
    assert_true(get_le32(guest(m, GPR(m, RSP))) & X86_CF);
    assert_int_equal(GPR(m, RCX), 0x0807);
    assert_int_equal(GPR(m, RAX), 87);
}

PROGRAM(
    p_conditions, 64,
    "xor %ebx, %ebx; mov $3, %ecx; 1: add $10, %ebx; loop 1b;"
    "cmp $30, %ebx; sete %al; mov $7, %edx; cmovne %ebx, %edx; jrcxz 2f; ud2; 2: cmp $-1, %rbx; setg %ah");

static void conditions_and_loops(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    GPR(m, RAX) = 0;
    assert_int_equal(machine_run_program(m, p_conditions), END_OF(p_conditions));
    assert_int_equal(GPR(m, RBX), 30);
    assert_int_equal(GPR(m, RAX), 0x101);
    assert_int_equal(GPR(m, RDX), 7);
}

PROGRAM(p_bits, 64,
        "mov $0x20000, %esi; mov $100, %eax; bts %rax, (%rsi); mov $-1, %rcx; bt %rcx, 8(%rsi); setc %dl;"
        "bsf 8(%rsi), %rbx; tzcnt %edi, %r8d; popcnt %rcx, %r9; bswap %eax");

static void bit_strings_reach_beyond_their_operand(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    put_le64(guest(m, DATA_AT), 1ull << 63);
    GPR(m, RDX) = 0;
    GPR(m, RDI) = 0;
    machine_run_program(m, p_bits);
    assert_int_equal(get_le64(guest(m, DATA_AT + 8)), 1ull << 36);
    assert_int_equal(GPR(m, RDX), 1); /* bit -1 of DATA_AT + 8 is bit 63 of DATA_AT */
    assert_int_equal(GPR(m, RBX), 36);
    assert_int_equal(GPR(m, R8), 32);
    assert_int_equal(GPR(m, R9), 64);
    assert_int_equal(GPR(m, RAX), 0x64000000);
}

/* --- memory --- */

PROGRAM(p_addressing, 64,
        "lea 1f(%rip), %rax; mov 1f(%rip), %ebx; jmp 2f; 1: .long 0x12345678; 2:"
        "mov $0x20000, %esi; mov $2, %ecx; movl $0x11, 4(%rsi,%rcx,8); mov $0xffffffff00020000, %rdi;"
        "mov 20(%edi), %edx; mov %fs:20(%rcx), %r8b");

static void addresses_of_all_forms(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    m->s->seg[X86_FS].base = DATA_AT - 2;
    machine_run_program(m, p_addressing);
    assert_int_equal(GPR(m, RBX), 0x12345678);
    assert_int_equal(get_le32(guest(m, DATA_AT + 20)), 0x11);
    assert_int_equal(GPR(m, RDX), 0x11);
    assert_int_equal((u8)GPR(m, R8), 0x11);
}

/* 67 41 fe 04 25: INC byte at the address 0x20100 without a base, though REX.B is set. */
PROGRAM(p_no_base, 64, "mov $0x111, %r13d; .byte 0x67, 0x41, 0xfe, 0x04, 0x25, 0x00, 0x01, 0x02, 0x00");

static void a_sib_without_base_has_none_under_rex_b(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_run_program(m, p_no_base);
    assert_int_equal(*(u8 *)guest(m, 0x20100), 1);
}

PROGRAM(p_write_fault, 64, "mov $0x21000, %esi; mov $5, %eax; stc; addq $1, (%rsi)");

static void read_modify_write_of_a_read_only_page_is_a_write_fault(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    *machine_pte(m, 0x21000) &= ~2ull;
    assert_int_equal(machine_vector(machine_run_program(m, p_write_fault)), X86_PF_);
    u8 *frame = guest(m, GPR(m, RSP));
    assert_int_equal(get_le64(frame), X86_PFEC_P | X86_PFEC_W);
    assert_int_equal(m->s->cr2, 0x21000);
    assert_int_equal(get_le64(frame + 8), END_OF(p_write_fault) - 4);
    assert_true(get_le64(frame + 24) & X86_CF); /* flags from before the ADD */
    assert_int_equal(get_le64(guest(m, 0x21000)), 0);
}

PROGRAM(p_across, 64,
        "mov $0x20ffd, %esi; movabs $0x1122334455667788, %rax; mov %rax, (%rsi); lock addq $1, (%rsi); xchg "
        "%rbx, (%rsi)");

static void accesses_across_pages(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    GPR(m, RBX) = 0;
    machine_run_program(m, p_across);
    assert_int_equal(GPR(m, RBX), 0x1122334455667789);
    assert_int_equal(get_le64(guest(m, 0x20ffd)), 0);
}

PROGRAM(p_across_fault, 64, "mov $0x20ffd, %esi; movq $-1, (%rsi)");

static void a_write_into_a_missing_second_page_changes_nothing(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    *machine_pte(m, 0x21000) = 0;
    assert_int_equal(machine_vector(machine_run_program(m, p_across_fault)), X86_PF_);
    assert_int_equal(m->s->cr2, 0x21000);
    assert_int_equal(get_le32(guest(m, 0x20ffc)), 0);
}

PROGRAM(p_noncanonical, 64, "movabs $0x8000000000000000, %rax; mov (%rax), %rbx");
PROGRAM(p_noncanonical_stack, 64, "movabs $0x8000000000000000, %rbp; mov (%rbp), %rbx");

static void non_canonical_addresses(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_noncanonical)), X86_GP);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_noncanonical_stack)), X86_SS_);
}

/* Through RBP, and through RBX where the same faults are #GP. */
PROGRAM(p_operand_mov_to_seg, 64, "mov 4(%rbp), %es; mov 4(%rbx), %es");
PROGRAM(p_operand_mov_from_seg, 64, "mov %ds, 4(%rbp); mov %ds, 4(%rbx)");
PROGRAM(p_operand_lss, 64, "lss 4(%rbp), %ecx; lss 4(%rbx), %ecx");
PROGRAM(p_operand_lar, 64, "lar 4(%rbp), %ecx; lar 4(%rbx), %ecx");
PROGRAM(p_operand_verr, 64, "verr 4(%rbp); verr 4(%rbx)");
PROGRAM(p_operand_lldt, 64, "lldt 4(%rbp); lldt 4(%rbx)");
PROGRAM(p_operand_ltr, 64, "ltr 4(%rbp); ltr 4(%rbx)");
PROGRAM(p_operand_sldt, 64, "sldt 4(%rbp); sldt 4(%rbx)");
PROGRAM(p_operand_str, 64, "str 4(%rbp); str 4(%rbx)");
PROGRAM(p_operand_lgdt, 64, "lgdt 4(%rbp); lgdt 4(%rbx)");
PROGRAM(p_operand_sidt, 64, "sidt 4(%rbp); sidt 4(%rbx)");
PROGRAM(p_operand_lmsw, 64, "lmsw 4(%rbp); lmsw 4(%rbx)");
PROGRAM(p_operand_smsw, 64, "smsw 4(%rbp); smsw 4(%rbx)");
PROGRAM(p_operand_fxsave, 64, "fxsave 16(%rbp); fxsave 16(%rbx)");
PROGRAM(p_operand_fxrstor, 64, "fxrstor 16(%rbp); fxrstor 16(%rbx)");
PROGRAM(p_operand_addl, 64, "addl $1, 4(%rbp); addl $1, 4(%rbx)");
PROGRAM(p_operand_cmpxchg16b, 64, "cmpxchg16b 16(%rbp); cmpxchg16b 16(%rbx)");
PROGRAM(p_operand_ljmp, 64, "ljmp *4(%rbp); ljmp *4(%rbx)");
/* Of the prefixes only those of FS and GS count in 64-bit mode. */
PROGRAM(p_operand_prefix, 64, ".byte 0x3e; mov 4(%rbp), %rax; .byte 0x36; mov 4(%rbx), %rax");
PROGRAM(p_operand_prefix_native, 64, ".byte 0x26; movups 4(%rbp), %xmm1; .byte 0x36; movups 4(%rbx), %xmm1");
PROGRAM(p_operand_fs, 64, "mov 4(%rbp), %rax; nop; .byte 0x64; mov 4(%rbp), %rax");
PROGRAM(p_operand_movups, 64, "movups 4(%rbp), %xmm1; movups 4(%rbx), %xmm1");

/* Each program is two encodings of the same length. */
static void operands_on_a_non_canonical_stack_are_ss(void **state)
{
    struct machine *m = *state;
#define CODE(name) p_operand_##name, p_operand_##name##_end, #name
    const struct {
        const u8 *code, *end;
        const char *name;
    } cases[] = {
        {CODE(mov_to_seg)}, {CODE(mov_from_seg)}, {CODE(lss)},  {CODE(lar)},    {CODE(verr)},
        {CODE(lldt)},       {CODE(ltr)},          {CODE(sldt)}, {CODE(str)},    {CODE(lgdt)},
        {CODE(sidt)},       {CODE(lmsw)},         {CODE(smsw)}, {CODE(fxsave)}, {CODE(fxrstor)},
        {CODE(addl)},       {CODE(cmpxchg16b)},   {CODE(ljmp)}, {CODE(prefix)}, {CODE(prefix_native)},
        {CODE(fs)},         {CODE(movups)},
    };
    machine_mode64(m);
    GPR(m, RBP) = GPR(m, RBX) = 0x8000000000000000;
    for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
        u64 half = (u64)(cases[n].end - cases[n].code - 1) / 2;
        machine_load(m, CODE_AT, cases[n].code, cases[n].end);
        for (unsigned general = 0; general < 2; general++) {
            m->s->rip = CODE_AT + general * half;
            int vector = machine_vector(machine_run(m)), expected = general ? (int)X86_GP : (int)X86_SS_;
            if (vector != expected)
                print_error("%s\n", cases[n].name);
            assert_int_equal(vector, expected);
            assert_int_equal(get_le64(guest(m, GPR(m, RSP) + 8)), CODE_AT + general * half);
        }
    }
}

/* Not of the address: a #GP stays one. */
PROGRAM(p_misaligned_stack, 64, "mov $0x20008, %ebp; movaps (%rbp), %xmm1");
PROGRAM(p_misaligned_cmpxchg, 64, "mov $0x20008, %ebp; cmpxchg16b (%rbp)");
PROGRAM(p_bad_selector, 64, "mov $0x20008, %ebp; movl $0x7fff, (%rbp); mov (%rbp), %es");

static void other_faults_of_operands_on_the_stack_stay_gp(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_misaligned_stack)), X86_GP);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_misaligned_cmpxchg)), X86_GP);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_bad_selector)), X86_GP);
}

/* Another engine, or a file, brought it. */
static void a_debug_trap_that_is_due_comes_before_the_next_instruction(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_load(m, CODE_AT, p_arith, p_arith_end);
    m->s->pending_db = X86_DR6_BS;
    FIXTURE_ENGINE.state_changed(m->vcpu);
    assert_int_equal(machine_vector(machine_run(m)), X86_DB);
    assert_int_equal(get_le64(guest(m, GPR(m, RSP))), CODE_AT);
    assert_int_equal(m->s->dr6 & 0xf00f, X86_DR6_BS);
    assert_int_equal(m->s->pending_db, 0);
}

/* --- locked --- */

PROGRAM(
    p_locked, 64,
    "mov $0x20000, %esi; movq $10, (%rsi); mov $5, %eax; lock xadd %rax, (%rsi); mov $15, %ebx;"
    "xchg %rax, %rbx; mov $99, %ecx; lock cmpxchg %rcx, (%rsi); pushfq; pop %r8; lock cmpxchg %rcx, (%rsi);"
    "pushfq; pop %r9; lock btsq $3, 8(%rsi); lock decq 8(%rsi)");

static void locked_operations(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_run_program(m, p_locked);
    assert_int_equal(GPR(m, RBX), 10);
    assert_true(GPR(m, R8) & X86_ZF);
    assert_false(GPR(m, R9) & X86_ZF);
    assert_int_equal(GPR(m, RAX), 99);
    assert_int_equal(get_le64(guest(m, DATA_AT)), 99);
    assert_int_equal(get_le64(guest(m, DATA_AT + 8)), 7);
}

PROGRAM(p_cmpxchg16b, 64,
        "mov $0x20000, %esi; mov $1, %eax; mov $2, %edx; mov $3, %ebx; mov $4, %ecx; lock cmpxchg16b (%rsi); "
        "sete %dil; lock cmpxchg16b (%rsi)");
PROGRAM(p_cmpxchg16b_odd, 64, "mov $0x20008, %esi; lock cmpxchg16b (%rsi)");

static void wide_compare_and_exchange(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    put_le64(guest(m, DATA_AT), 1);
    put_le64(guest(m, DATA_AT + 8), 2);
    machine_run_program(m, p_cmpxchg16b);
    assert_int_equal(GPR(m, RDI) & 1, 1);
    assert_int_equal(GPR(m, RAX), 3);
    assert_int_equal(GPR(m, RDX), 4);
    assert_int_equal(get_le64(guest(m, DATA_AT + 8)), 4);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_cmpxchg16b_odd)), X86_GP);
}

PROGRAM(p_bad_lock, 64, ".byte 0xf0; mov %eax, %ebx");
PROGRAM(p_too_long, 64,
        ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
PROGRAM(p_longest, 64, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");

static void invalid_encodings(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_bad_lock)), X86_UD);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_too_long)), X86_GP);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_run_program(m, p_longest), END_OF(p_longest));
}

/* --- strings --- */

PROGRAM(p_rep_movs, 64, "mov $0x20000, %esi; mov $0x22003, %edi; mov $5000, %ecx; rep movsb");

static void rep_movs_copies_across_pages(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    u8 *src = guest(m, DATA_AT);
    for (unsigned n = 0; n < 5000; n++)
        src[n] = (u8)(n * 7);
    machine_run_program(m, p_rep_movs);
    assert_memory_equal(guest(m, 0x22003), src, 5000);
    assert_int_equal(GPR(m, RCX), 0);
    assert_int_equal(GPR(m, RSI), DATA_AT + 5000);
    assert_int_equal(GPR(m, RDI), 0x22003 + 5000);
}

PROGRAM(p_overlap, 64, "mov $0x20000, %esi; mov $0x20003, %edi; mov $20, %ecx; rep movsb");

static void overlapping_rep_movs_repeats_its_pattern(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    memcpy(guest(m, DATA_AT), "abcdefg", 7);
    machine_run_program(m, p_overlap);
    assert_memory_equal(guest(m, DATA_AT), "abcabcabcabcabcabcabcab", 23);
}

PROGRAM(p_rep_fault, 64, "mov $0x20ff0, %edi; mov $10, %ecx; mov $0x55, %eax; rep stosq");

static void a_fault_within_a_repeat_keeps_what_is_done(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    *machine_pte(m, 0x21000) = 0;
    assert_int_equal(machine_vector(machine_run_program(m, p_rep_fault)), X86_PF_);
    assert_int_equal(GPR(m, RCX), 8);
    assert_int_equal(GPR(m, RDI), 0x21000);
    assert_int_equal(get_le64(guest(m, 0x20ff8)), 0x55);
    assert_int_equal(get_le64((u8 *)guest(m, GPR(m, RSP)) + 8), END_OF(p_rep_fault) - 3);
    /* The page comes, the instruction goes on. */
    *machine_pte(m, 0x21000) = 0x21007;
    m->s->rip = END_OF(p_rep_fault) - 3;
    machine_run(m);
    assert_int_equal(GPR(m, RCX), 0);
    assert_int_equal(get_le64(guest(m, 0x21038)), 0x55);
    assert_int_equal(get_le64(guest(m, 0x21040)), 0);
}

PROGRAM(p_scan, 64,
        "mov $0x20000, %edi; mov $-1, %rcx; xor %eax, %eax; repne scasb; not %rcx; std; mov $0x20006, %esi; "
        "lodsb; cld;"
        "mov $0x20000, %esi; mov $0x20100, %edi; mov $8, %ecx; repe cmpsb");

static void scans_and_comparisons(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    GPR(m, RAX) = 0;
    memcpy(guest(m, DATA_AT), "string!", 8);
    memcpy(guest(m, DATA_AT + 0x100), "strong!", 8);
    machine_run_program(m, p_scan);
    assert_int_equal(GPR(m, RAX), '!');
    assert_int_equal(GPR(m, RSI), DATA_AT + 4);
    assert_int_equal(GPR(m, RCX), 4);
}

PROGRAM(p_wrap, 16, "mov $0xfffe, %di; mov $4, %cx; mov $0x41, %al; rep stosb");

static void index_registers_wrap_at_the_address_size(void **state)
{
    struct machine *m = *state;
    machine_mode16(m);
    GPR(m, RDI) = 0x12340000;
    machine_run_program(m, p_wrap);
    assert_int_equal(get_le16(guest(m, DATA_AT + 0xfffe)), 0x4141);
    assert_int_equal(get_le16(guest(m, DATA_AT)), 0x4141);
    assert_int_equal(GPR(m, RDI), 0x12340002);
}

/* --- stack --- */

PROGRAM(
    p_stack, 64,
    "push $-2; pop %rax; push %rsp; pop %rbx; pushw $0x1234; pop %cx; enter $32, $0; mov %rsp, %rdx; leave;"
    "push $0x77; pop 8(%rsp); call 1f; jmp 2f; 1: pop %r8; push %r8; ret; 2:");

static void pushes_and_pops(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    GPR(m, RCX) = 0;
    machine_run_program(m, p_stack);
    assert_int_equal(GPR(m, RAX), -2);
    assert_int_equal(GPR(m, RBX), STACK_AT);
    assert_int_equal(GPR(m, RCX), 0x1234);
    assert_int_equal(GPR(m, RDX), STACK_AT - 8 - 32);
    assert_int_equal(GPR(m, RSP), STACK_AT);
    assert_int_equal(get_le64(guest(m, STACK_AT + 8)), 0x77);
}

PROGRAM(p_pusha, 32, "mov $1, %eax; mov $2, %ecx; mov $8, %edi; pusha; xor %eax, %eax; mov $9, %edi; popa");

static void all_registers_at_once(void **state)
{
    struct machine *m = *state;
    machine_mode32(m);
    machine_run_program(m, p_pusha);
    assert_int_equal(GPR(m, RAX), 1);
    assert_int_equal(GPR(m, RDI), 8);
    assert_int_equal(GPR(m, RSP), STACK_AT);
    assert_int_equal(get_le32(guest(m, STACK_AT - 20)), STACK_AT); /* ESP as it was */
}

/* --- self-modifying and crossing code --- */

/* The MOV in front of it turns INC EBX into INC EDX, in the same block. */
PROGRAM(p_self, 64, "movb $0xc2, 1f+1(%rip); nop; 1: inc %ebx");

static void a_block_that_changes_itself_executes_the_new_code(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    GPR(m, RBX) = GPR(m, RDX) = 0;
    machine_run_program(m, p_self);
    assert_int_equal(GPR(m, RBX), 0);
    assert_int_equal(GPR(m, RDX), 1);
}

PROGRAM(p_patch, 64,
        "xor %ebx, %ebx; mov $100, %ecx; mov $0x30000, %edi; movb $0xc3, 3(%rdi); 1: movb $0xb0, (%rdi); mov "
        "%cl, 1(%rdi);"
        "movb $0x90, 2(%rdi); call *%rdi; movzx %al, %eax; add %eax, %ebx; loop 1b");

static void patched_code_is_decoded_anew(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_run_program(m, p_patch);
    assert_int_equal(GPR(m, RBX), 5050);
}

/* 0F 04 is no instruction and 0F 1F 00 is a NOP: the later bytes decide. Also across a page end. */
static void undecodable_bytes_that_become_code_are_decoded_anew(void **state)
{
    static const u8 bad[] = {0x0f, 0x04, 0x00, 0xf4}, good[] = {0x0f, 0x1f, 0x00, 0xf4};
    struct machine *m = *state;
    machine_mode64(m);
    for (u64 at = 0x31000 - 4; at <= 0x31000; at++) {
        for (unsigned n = 0; n < 4; n++) {
            memory_write(&m->memory, at, n & 1 ? good : bad, sizeof bad);
            m->s->rip = at;
            u64 hlt = machine_run(m);
            if (n & 1)
                assert_int_equal(hlt, at + 3);
            else
                assert_int_equal(machine_vector(hlt), X86_UD);
        }
    }
}

PROGRAM(p_data_in_code, 64,
        "mov $100000, %ecx; 1: incl 2f(%rip); loop 1b; mov 2f(%rip), %eax; jmp 3f; 2: .long 0; 3:");

static void data_beside_code_does_not_cost_a_decoding_each(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    u64 before = m->vcpu->counters.blocks_decoded;
    machine_run_program(m, p_data_in_code);
    assert_int_equal(GPR(m, RAX), 100000);
    assert_true(m->vcpu->counters.blocks_decoded - before < 1000);
}

PROGRAM(p_crossing, 64, "mov $0x11223344, %eax");

static void an_instruction_across_pages_follows_both(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    u64 at = 0x31000 - 3;
    for (unsigned n = 0; n < 2; n++) {
        machine_load(m, at, p_crossing, p_crossing_end);
        m->s->rip = at;
        machine_run(m);
        assert_int_equal(GPR(m, RAX), 0x11223344);
    }
    u8 byte = 0x99; /* in the second page */
    memory_write(&m->memory, 0x31001, &byte, 1);
    m->s->rip = at;
    machine_run(m);
    assert_int_equal(GPR(m, RAX), 0x99223344);
    /* Another page behind the first. */
    memcpy(guest(m, 0x40000), guest(m, 0x31000), 4096);
    put_le16(guest(m, 0x40000), 0xaabb);
    *machine_pte(m, 0x31000) = 0x40007;
    soft_tlb_invlpg(m->cpu, 0x31000);
    m->s->rip = at;
    machine_run(m);
    assert_int_equal(GPR(m, RAX), 0xaabb3344);
}

static void an_instruction_into_a_missing_page_faults_there(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_load(m, 0x31000 - 3, p_crossing, p_crossing_end);
    *machine_pte(m, 0x31000) = 0;
    m->s->rip = 0x31000 - 3;
    assert_int_equal(machine_vector(machine_run(m)), X86_PF_);
    assert_int_equal(m->s->cr2, 0x31000);
    assert_int_equal(get_le64((u8 *)guest(m, GPR(m, RSP)) + 8), 0x31000 - 3);
}

static void a_device_write_changes_code(void **state)
{
    struct machine *m = *state;
    static const u8 one[] = {0xb8, 1, 0, 0, 0, 0xf4}, two[] = {0xb8, 2, 0, 0, 0, 0xf4};
    machine_mode64(m);
    machine_load(m, CODE_AT, one, one + 6);
    machine_run(m);
    assert_int_equal(GPR(m, RAX), 1);
    machine_load(m, CODE_AT, two, two + 6);
    m->s->rip = CODE_AT;
    machine_run(m);
    assert_int_equal(GPR(m, RAX), 2);
}

/* --- other modes --- */

PROGRAM(p_mode32, 32,
        "mov $0x20000, %ebx; movl $7, 4(%ebx); mov 4(%ebx), %ax; add $1, %ax; push %eax; pop %ecx; "
        "call 1f; jmp 2f;"
        "1: mov $5, %dl; ret; 2: mov $0x21000, %ebx; les (%ebx), %esi");

static void protected_mode_with_flat_segments(void **state)
{
    struct machine *m = *state;
    machine_mode32(m);
    GPR(m, RAX) = GPR(m, RDX) = 0;
    put_le32(guest(m, 0x21000), 0x1000);
    put_le16(guest(m, 0x21004), 16);
    machine_load(m, CODE_AT, p_mode32, p_mode32_end);
    machine_run(m);
    assert_int_equal(GPR(m, RCX), 8);
    assert_int_equal(GPR(m, RDX), 5);
    assert_int_equal(GPR(m, RSI), 0x1000);
    assert_int_equal(m->s->seg[X86_ES].selector, 16);
}

PROGRAM(p_arpl_code, 32, "mov $2, %ecx; mov $0x20000, %ebx; arpl %cx, %cs:(%ebx)");

/* A code segment cannot be written; ARPL writes only where it raises the RPL. */
static void arpl_writes_only_what_changes(void **state)
{
    struct machine *m = *state;
    machine_mode32(m);
    put_le32(guest(m, DATA_AT), 0x13);
    assert_int_equal(machine_vector(machine_run_program(m, p_arpl_code)), -1);
    assert_int_equal(m->s->rflags & X86_ZF, 0);
    put_le32(guest(m, DATA_AT), 0x11);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_arpl_code)), X86_GP);
    assert_int_equal(get_le32(guest(m, DATA_AT)), 0x11);
}

PROGRAM(p_limit, 32, "mov 0x234(%ebx), %eax; mov 0x1000(%ebx), %eax; mov 0xffe(%ebx), %eax");

static void segment_limits_in_protected_mode(void **state)
{
    struct machine *m = *state;
    machine_mode32(m);
    m->s->seg[X86_DS].limit = 0x1fff;
    FIXTURE_ENGINE.state_changed(m->vcpu);
    GPR(m, RBX) = 0x1000;
    assert_int_equal(machine_vector(machine_run_program(m, p_limit)), X86_GP);
    assert_int_equal(get_le32((u8 *)guest(m, GPR(m, RSP)) + 4), CODE_AT + 6);
}

PROGRAM(p_jump_limit, 32, "mov $0x20000, %ebp; movl $0x40000, (%ebp); jmp *(%ebp)");

static void a_target_beyond_the_code_segment_is_a_general_protection_fault(void **state)
{
    struct machine *m = *state;
    machine_mode32(m);
    m->s->seg[X86_CS].limit = 0x3ffff;
    FIXTURE_ENGINE.state_changed(m->vcpu);
    assert_int_equal(machine_vector(machine_run_program(m, p_jump_limit)), X86_GP);
    assert_int_equal(get_le32((u8 *)guest(m, GPR(m, RSP)) + 4), END_OF(p_jump_limit) - 3);
}

PROGRAM(p_mode16, 16,
        "mov $0x1234, %ax; mov %ax, 0x10; mov $0x10, %si; movw (%si), %bx; add $1, %ebx; push %bx; pop %cx; "
        "call 1f; jmp 2f;"
        "1: mov $3, %dl; ret; 2: movl $0x12345678, %eax; mov %eax, (%bp)");

static void real_mode(void **state)
{
    struct machine *m = *state;
    machine_mode16(m);
    GPR(m, RBX) = GPR(m, RCX) = GPR(m, RDX) = 0;
    GPR(m, RBP) = 0x100;
    machine_run_program(m, p_mode16);
    assert_int_equal(get_le16(guest(m, DATA_AT + 0x10)), 0x1234);
    assert_int_equal(GPR(m, RBX), 0x1235);
    assert_int_equal(GPR(m, RCX), 0x1235);
    assert_int_equal(GPR(m, RDX), 3);
    assert_int_equal(get_le32(guest(m, 0x70100)), 0x12345678); /* BP means SS */
}

PROGRAM(p_real_int, 16, "int $0x21");
PROGRAM(p_real_limit, 16, "mov $0xffff, %si; lodsw");

static void real_mode_interrupts_and_faults(void **state)
{
    struct machine *m = *state;
    machine_mode16(m);
    machine_load(m, CODE_AT, p_real_int, p_real_int_end);
    machine_run(m);
    assert_int_equal(m->s->rip - 1, 0x21 * 16);
    assert_int_equal(m->s->seg[X86_CS].selector, HANDLER_AT >> 4);
    machine_mode16(m);
    machine_load(m, CODE_AT, p_real_limit, p_real_limit_end);
    machine_run(m);
    assert_int_equal(m->s->rip - 1, X86_GP * 16);
}

/* --- privilege, traps and interrupts --- */

static void to_user(struct machine *m)
{
    segment_set(&m->s->seg[X86_CS], 0x23, 0xa0fb);
    for (unsigned n = 0; n < X86_SEG_COUNT; n++)
        if (n != X86_CS)
            segment_set(&m->s->seg[n], 0x2b, 0xc0f3);
    m->s->tr = (struct x86_segment){.selector = 0x40, .base = 0x5000, .limit = 0x67, .attr = 0x8b};
    put_le64(guest(m, 0x5004), 0x90000); /* RSP0 */
    FIXTURE_ENGINE.state_changed(m->vcpu);
}

PROGRAM(p_misaligned_repeat, 64, "mov $0x20ffd, %esi; mov $0x20000, %edi; mov $8, %ecx; rep movsl");

static void misalignment_comes_before_a_page_fault_in_a_repeat(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    *machine_pte(m, 0x20000) = 0;
    assert_int_equal(machine_vector(machine_run_program(m, p_misaligned_repeat)), X86_PF_);
    m->s->cr0 |= X86_CR0_AM;
    m->s->rflags |= X86_AC;
    to_user(m);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run(m)), X86_AC_);
}

PROGRAM(p_user_hlt, 64, "mov $1, %eax");
PROGRAM(p_user_io, 64, "in $0x80, %al");
PROGRAM(p_user_cli, 64, "cli");
PROGRAM(p_user_cr, 64, "mov %cr0, %rax");
PROGRAM(p_user_int, 64, "int $0x80");
PROGRAM(p_user_int_bad, 64, "int $0xd");

static int user_vector(struct machine *m, const u8 *code, const u8 *end)
{
    machine_mode64(m);
    to_user(m);
    machine_load(m, CODE_AT, code, end);
    return machine_vector(machine_run(m));
}

static void user_code_is_kept_out(void **state)
{
    struct machine *m = *state;
    assert_int_equal(user_vector(m, p_user_hlt, p_user_hlt_end), X86_GP);
    assert_int_equal(user_vector(m, p_user_io, p_user_io_end), X86_GP);
    assert_int_equal(user_vector(m, p_user_cli, p_user_cli_end), X86_GP);
    assert_int_equal(user_vector(m, p_user_cr, p_user_cr_end), X86_GP);
    assert_int_equal(user_vector(m, p_user_int_bad, p_user_int_bad_end), X86_GP);
    assert_int_equal(user_vector(m, p_user_int, p_user_int_end), 0x80);
}

PROGRAM(p_ud, 64, "mov $1, %eax; ud2");
PROGRAM(p_int3, 64, "int3");

static void traps_and_faults_report_their_own_rip(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_ud)), X86_UD);
    assert_int_equal(get_le64(guest(m, GPR(m, RSP))), END_OF(p_ud) - 2);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_int3)), X86_BP);
    assert_int_equal(get_le64(guest(m, GPR(m, RSP))), CODE_AT + 1);
}

PROGRAM(p_step, 64, "pushfq; orq $0x100, (%rsp); popfq; nop; nop");

static void a_single_step_traps_after_one_instruction(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_step)), X86_DB);
    assert_int_equal(get_le64(guest(m, GPR(m, RSP))), END_OF(p_step) - 1);
    assert_true(m->s->dr6 & X86_DR6_BS);
}

PROGRAM(p_breakpoint, 64, "nop; nop; nop");

static void a_code_breakpoint_faults_before_its_instruction(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    m->s->dr[0] = CODE_AT + 2;
    m->s->dr7 = X86_DR7_FIXED | 2;
    assert_int_equal(machine_vector(machine_run_program(m, p_breakpoint)), X86_DB);
    assert_int_equal(get_le64(guest(m, GPR(m, RSP))), CODE_AT + 2);
}

PROGRAM(p_shadow, 64, "sti; mov $1, %eax; mov $2, %eax");

static void an_nmi_waits_for_the_instruction_after_sti(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_load(m, CODE_AT, p_shadow, p_shadow_end);
    assert_int_equal(interpret_step(m->cpu, 1), VCPU_EXIT_REQUEST);
    assert_int_equal(m->s->int_shadow, 1);
    m->s->nmi_pending = 1;
    assert_int_equal(interpret_step(m->cpu, 1), VCPU_EXIT_REQUEST);
    assert_int_equal(m->s->rip, CODE_AT + 6);
    assert_int_equal(GPR(m, RAX), 1);
    assert_int_equal(interpret_step(m->cpu, 1), VCPU_EXIT_REQUEST);
    assert_int_equal(machine_vector(m->s->rip), X86_NMI);
}

static void stepping_executes_exactly_so_many(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_load(m, CODE_AT, p_rep_movs, p_rep_movs_end);
    assert_int_equal(interpret_step(m->cpu, 3), VCPU_EXIT_REQUEST);
    assert_int_equal(GPR(m, RCX), 5000);
    assert_int_equal(interpret_step(m->cpu, 1), VCPU_EXIT_REQUEST);
    assert_int_equal(GPR(m, RCX), 0);
    assert_int_equal(interpret_step(m->cpu, 5), VCPU_EXIT_HALT);
}

PROGRAM(p_endless, 64, "1: jmp 1b");

static void a_request_leaves_an_endless_loop(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_load(m, CODE_AT, p_endless, p_endless_end);
    atomic_fetch_or(&m->vcpu->requests, VCPU_REQ_PAUSE);
    assert_int_equal(FIXTURE_ENGINE.run(m->vcpu), VCPU_EXIT_REQUEST);
    assert_int_equal(m->s->rip, CODE_AT);
}

static void a_fault_that_cannot_be_delivered_ends_the_vcpu(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    m->s->idt.limit = 0;
    machine_load(m, CODE_AT, p_ud, p_ud_end);
    assert_int_equal(FIXTURE_ENGINE.run(m->vcpu), VCPU_EXIT_TRIPLE_FAULT);
}

/* --- between modes --- */

PROGRAM(p_far, 64,
        "push $0x18; lea 1f(%rip), %rax; push %rax; lretq; .code32; 1: mov $0x12345678, %ebx; inc %ebx; ljmp "
        "$8, $0x10100");
PROGRAM(p_far_back, 64, "shl $32, %rbx");

static void far_transfers_between_64_and_32_bit_code(void **state)
{
    struct machine *m = *state;
    machine_mode64(m);
    machine_load(m, CODE_AT + 0x100, p_far_back, p_far_back_end);
    assert_int_equal(machine_run_program(m, p_far), CODE_AT + 0x100 + 4);
    assert_int_equal(GPR(m, RBX), 0x1234567900000000);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(arithmetic_in_64_bit_mode),
        T(flags_are_those_of_the_cpu),
        T(partial_registers),
        T(division_faults_precisely),
        T(decimal_adjustment),
        T(conditions_and_loops),
        T(bit_strings_reach_beyond_their_operand),
        T(addresses_of_all_forms),
        T(a_sib_without_base_has_none_under_rex_b),
        T(read_modify_write_of_a_read_only_page_is_a_write_fault),
        T(accesses_across_pages),
        T(a_write_into_a_missing_second_page_changes_nothing),
        T(non_canonical_addresses),
        T(arpl_writes_only_what_changes),
        T(misalignment_comes_before_a_page_fault_in_a_repeat),
        T(a_debug_trap_that_is_due_comes_before_the_next_instruction),
        T(operands_on_a_non_canonical_stack_are_ss),
        T(other_faults_of_operands_on_the_stack_stay_gp),
        T(locked_operations),
        T(wide_compare_and_exchange),
        T(invalid_encodings),
        T(rep_movs_copies_across_pages),
        T(overlapping_rep_movs_repeats_its_pattern),
        T(a_fault_within_a_repeat_keeps_what_is_done),
        T(scans_and_comparisons),
        T(index_registers_wrap_at_the_address_size),
        T(pushes_and_pops),
        T(all_registers_at_once),
        T(a_block_that_changes_itself_executes_the_new_code),
        T(patched_code_is_decoded_anew),
        T(undecodable_bytes_that_become_code_are_decoded_anew),
        T(data_beside_code_does_not_cost_a_decoding_each),
        T(an_instruction_across_pages_follows_both),
        T(an_instruction_into_a_missing_page_faults_there),
        T(a_device_write_changes_code),
        T(protected_mode_with_flat_segments),
        T(segment_limits_in_protected_mode),
        T(a_target_beyond_the_code_segment_is_a_general_protection_fault),
        T(real_mode),
        T(real_mode_interrupts_and_faults),
        T(user_code_is_kept_out),
        T(traps_and_faults_report_their_own_rip),
        T(a_single_step_traps_after_one_instruction),
        T(a_code_breakpoint_faults_before_its_instruction),
        T(an_nmi_waits_for_the_instruction_after_sti),
        T(stepping_executes_exactly_so_many),
        T(a_request_leaves_an_endless_loop),
        T(a_fault_that_cannot_be_delivered_ends_the_vcpu),
        T(far_transfers_between_64_and_32_bit_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
