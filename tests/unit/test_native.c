/* Native stubs and the FXSAVE and XSAVE images: guest programs whose results the host also computes. */
#include "interpret-fixture.h"
#include "soft/native.h"

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

/* cmocka puts its own signal handlers in place before each test. */
static void mode64_all_units(struct machine *m)
{
    assert_int_equal(native_install_signals(NULL), 0);
    machine_mode64(m);
    m->s->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    m->s->xcr0 = m->cpuid.xcr0_mask;
    interpret_engine.state_changed(m->vcpu);
}

PROGRAM(p_sse, 64,
        "mov $0x20000,%esi; movups (%rsi),%xmm1; addps %xmm1,%xmm1; movaps %xmm1,16(%rsi);"
        "cvtsi2sd %rsp,%xmm2; movq %xmm2,%rbx; ucomiss %xmm1,%xmm1; setz %al");

static void sse_computes_on_registers_and_memory(void **state)
{
    struct machine *m = *state;
    static const float in[4] = {1, 2.5f, -3, 1e10f};
    double rsp = (double)STACK_AT, got;

    mode64_all_units(m);
    memcpy(guest(m, DATA_AT), in, 16);
    machine_run_program(m, p_sse);
    for (unsigned i = 0; i < 4; i++) {
        float r;

        memcpy(&r, (u8 *)guest(m, DATA_AT + 16) + 4 * i, 4);
        assert_true(r == in[i] + in[i]);
    }
    memcpy(&got, &m->s->gpr[X86_RBX], 8);
    assert_true(got == rsp);
    assert_int_equal(m->s->gpr[X86_RAX] & 0xff, 1);
}

/* --- exceptions --- */

PROGRAM(p_divide, 64, "ldmxcsr 0x20100; movups 0x20000,%xmm1; divps %xmm2,%xmm1");

static void unmasked_division_by_zero_is_xm_and_changes_only_mxcsr(void **state)
{
    struct machine *m = *state;
    static const float ones[4] = {1, 1, 1, 1};

    mode64_all_units(m);
    memcpy(guest(m, DATA_AT), ones, 16);
    put_le32(guest(m, DATA_AT + 0x100), 0x1d80);
    assert_int_equal(machine_vector(machine_run_program(m, p_divide)), X86_XM);
    assert_int_equal(m->s->fpu.mxcsr, 0x1d84);
    assert_memory_equal(m->s->fpu.vec[1], ones, 16);
}

static void without_osxmmexcpt_it_is_ud(void **state)
{
    struct machine *m = *state;

    mode64_all_units(m);
    m->s->cr4 &= ~X86_CR4_OSXMMEXCPT;
    put_le32(guest(m, DATA_AT), 0x3f800000);
    put_le32(guest(m, DATA_AT + 0x100), 0x1d80);
    assert_int_equal(machine_vector(machine_run_program(m, p_divide)), X86_UD);
}

PROGRAM(p_x87_divide, 64,
        "fninit; movw $0x37b,0x20000; fldcw 0x20000; fldz; fld1; fdiv %st(1),%st; inc %eax; fwait");

static void pending_x87_exception_is_raised_by_the_next_waiting_instruction(void **state)
{
    struct machine *m = *state;
    u64 end = p_x87_divide_end - p_x87_divide;

    mode64_all_units(m);
    m->s->gpr[X86_RAX] = 0;
    assert_int_equal(machine_vector(machine_run_program(m, p_x87_divide)), X86_MF);
    assert_int_equal(m->s->gpr[X86_RAX], 1);
    assert_int_equal(get_le64(guest(m, m->s->gpr[X86_RSP])), CODE_AT + end - 2); /* FWAIT, HLT */
    assert_int_equal(m->s->fpu.fsw & 0x80ff, 0x8084);
}

PROGRAM(p_misaligned, 64, "movaps 0x20008,%xmm0");

static void misaligned_movaps_is_gp(void **state)
{
    struct machine *m = *state;

    mode64_all_units(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_misaligned)), X86_GP);
}

PROGRAM(p_addps, 64, "addps %xmm1,%xmm2");
PROGRAM(p_fadd, 64, "fadd %st(1),%st");
PROGRAM(p_paddb, 64, "paddb %mm1,%mm2");
PROGRAM(p_fwait, 64, "fwait");
PROGRAM(p_vaddps, 64, "vaddps %ymm1,%ymm2,%ymm3");
PROGRAM(p_vaddps512, 64, "vaddps %zmm1,%zmm2,%zmm3");

struct unit_case {
    const u8 *code, *end;
    u64 cr0_set, cr4_clear, xcr0_clear;
    int vector;
};

static void units_follow_the_control_registers(void **state)
{
    struct machine *m = *state;
#define CODE(name) name, name##_end
    const struct unit_case cases[] = {
        {CODE(p_addps), 0, 0, 0, -1},
        {CODE(p_addps), X86_CR0_TS, 0, 0, X86_NM},
        {CODE(p_addps), X86_CR0_EM, 0, 0, X86_UD},
        {CODE(p_addps), 0, X86_CR4_OSFXSR, 0, X86_UD},
        {CODE(p_fadd), 0, 0, 0, -1},
        {CODE(p_fadd), X86_CR0_TS, 0, 0, X86_NM},
        {CODE(p_fadd), X86_CR0_EM, 0, 0, X86_NM},
        {CODE(p_paddb), X86_CR0_TS, 0, 0, X86_NM},
        {CODE(p_paddb), X86_CR0_EM, 0, 0, X86_UD},
        {CODE(p_fwait), X86_CR0_TS, 0, 0, -1},
        {CODE(p_fwait), X86_CR0_TS | X86_CR0_MP, 0, 0, X86_NM},
        {CODE(p_vaddps), 0, 0, 0, -1},
        {CODE(p_vaddps), X86_CR0_EM, 0, 0, -1},
        {CODE(p_vaddps), X86_CR0_TS, 0, 0, X86_NM},
        {CODE(p_vaddps), 0, X86_CR4_OSXSAVE, 0, X86_UD},
        {CODE(p_vaddps), 0, 0, X86_XCR0_AVX, X86_UD},
        {CODE(p_vaddps512), 0, 0, 0, -1},
        {CODE(p_vaddps512), 0, 0, X86_XCR0_ZMM_HI256, X86_UD},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct unit_case *k = &cases[i];
        int vector;

        if ((k->code == p_vaddps && !cpuid_has(&m->cpuid, CPUID_AVX)) ||
            (k->code == p_vaddps512 && !cpuid_has(&m->cpuid, CPUID_AVX512F)))
            continue;
        mode64_all_units(m);
        m->s->cr0 |= k->cr0_set;
        m->s->cr4 &= ~k->cr4_clear;
        m->s->xcr0 &= ~k->xcr0_clear;
        machine_load(m, CODE_AT, k->code, k->end);
        vector = machine_vector(machine_run(m));
        if (vector != k->vector)
            fail_msg("case %u: vector %d instead of %d", i, vector, k->vector);
    }
}

/* --- memory operands at the end of a page --- */

#define EDGE (DATA_AT + 0x1000) /* the page from here on is not there */

static void unmap_edge(struct machine *m, u64 flags)
{
    *machine_pte(m, EDGE) = flags ? EDGE | flags : 0;
    interpret_engine.state_changed(m->vcpu);
}

PROGRAM(p_load_across, 64, "movups 0x20ff8,%xmm0");
PROGRAM(p_store_across, 64, "movups %xmm0,0x20ff8");

static void load_across_a_page_end_faults_at_the_second_page(void **state)
{
    struct machine *m = *state;

    mode64_all_units(m);
    unmap_edge(m, 0);
    assert_int_equal(machine_vector(machine_run_program(m, p_load_across)), X86_PF_);
    assert_int_equal(m->s->cr2, EDGE);
}

static void store_across_a_page_end_writes_both_or_nothing(void **state)
{
    struct machine *m = *state;

    mode64_all_units(m);
    memset(m->s->fpu.vec[0], 0x5a, 16);
    unmap_edge(m, 5); /* present, not writable */
    assert_int_equal(machine_vector(machine_run_program(m, p_store_across)), X86_PF_);
    assert_int_equal(get_le64(guest(m, EDGE - 8)), 0);
    mode64_all_units(m);
    unmap_edge(m, 7);
    assert_int_equal(machine_vector(machine_run_program(m, p_store_across)), -1);
    assert_memory_equal(guest(m, EDGE - 8), m->s->fpu.vec[0], 16);
}

PROGRAM(p_vmaskmov_load, 64, "mov $0x20ff8,%esi; vmaskmovps (%rsi),%xmm1,%xmm0");
PROGRAM(p_vmaskmov_store, 64, "mov $0x20ff8,%esi; vmaskmovps %xmm0,%xmm1,(%rsi)");
PROGRAM(p_maskmovdqu, 64, "mov $0x20ff8,%edi; maskmovdqu %xmm1,%xmm0");

/* xmm1 selects the elements of xmm0 that are before the page end. */
static void mask_off_the_edge(struct machine *m)
{
    mode64_all_units(m);
    unmap_edge(m, 0);
    memset(m->s->fpu.vec[0], 0x77, 64);
    memset(m->s->fpu.vec[1], 0, 64);
    put_le32(m->s->fpu.vec[1] + 4, 0x80000000); /* the second doubleword, the byte 7 */
    memset(guest(m, EDGE - 8), 0x11, 8);
}

static void vmaskmov_touches_only_what_is_selected(void **state)
{
    struct machine *m = *state;

    if (!cpuid_has(&m->cpuid, CPUID_AVX))
        return;
    mask_off_the_edge(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_load)), -1);
    assert_int_equal(get_le64(m->s->fpu.vec[0]), 0x1111111100000000);
    assert_int_equal(get_le64(m->s->fpu.vec[0] + 8), 0);
    mask_off_the_edge(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_store)), -1);
    assert_int_equal(get_le64(guest(m, EDGE - 8)), 0x7777777711111111);
    mask_off_the_edge(m);
    put_le32(m->s->fpu.vec[1] + 8, 0x80000000);
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_store)), X86_PF_);
    assert_int_equal(get_le64(guest(m, EDGE - 8)), 0x1111111111111111);
}

static void maskmovdqu_writes_only_what_is_selected(void **state)
{
    struct machine *m = *state;

    mask_off_the_edge(m);
    /* AMD's processors want all of the operand to be there. */
    int expected = m->cpuid.amd ? (int)X86_PF_ : -1;
    assert_int_equal(machine_vector(machine_run_program(m, p_maskmovdqu)), expected);
    assert_int_equal(*((u8 *)guest(m, EDGE - 1)), m->cpuid.amd ? 0x11 : 0x77);
}

PROGRAM(p_evex_load, 64, "mov $0x20ff8,%esi; vmovdqu32 (%rsi),%zmm0{%k1}{z}");
PROGRAM(p_evex_store, 64, "mov $0x20ff8,%esi; vmovdqu32 %zmm0,(%rsi){%k1}");
PROGRAM(p_evex_compress, 64, "mov $0x20ff8,%esi; vpcompressd %zmm0,(%rsi){%k1}");
PROGRAM(p_evex_broadcast, 64, "mov $0x21000,%esi; vaddps (%rsi){1to16},%zmm0,%zmm2{%k1}");

static void opmasks_suppress_faults(void **state)
{
    struct machine *m = *state;

    if (!cpuid_has(&m->cpuid, CPUID_AVX512F))
        return;
    mask_off_the_edge(m);
    m->s->fpu.k[1] = 2;
    assert_int_equal(machine_vector(machine_run_program(m, p_evex_load)), -1);
    assert_int_equal(get_le64(m->s->fpu.vec[0]), 0x1111111100000000);
    assert_int_equal(get_le64(m->s->fpu.vec[0] + 8), 0);
    mask_off_the_edge(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_evex_store)), -1);
    assert_int_equal(get_le64(guest(m, EDGE - 8)), 0x7777777711111111);
    mask_off_the_edge(m);
    m->s->fpu.k[1] = 0x8000; /* one element, stored first */
    assert_int_equal(machine_vector(machine_run_program(m, p_evex_compress)), -1);
    assert_int_equal(get_le64(guest(m, EDGE - 8)), 0x1111111177777777);
    mask_off_the_edge(m);
    m->s->fpu.k[1] = 0x10000; /* beyond the 16 elements */
    assert_int_equal(machine_vector(machine_run_program(m, p_evex_broadcast)), -1);
    mask_off_the_edge(m);
    m->s->fpu.k[1] = 0x8000;
    assert_int_equal(machine_vector(machine_run_program(m, p_evex_broadcast)), X86_PF_);
}

PROGRAM(p_gather, 64, "mov $0x20ff8,%esi; vgatherdps %xmm1,(%rsi,%xmm2,4),%xmm0");

static void gather_keeps_what_was_done_before_a_fault(void **state)
{
    struct machine *m = *state;

    if (!cpuid_has(&m->cpuid, CPUID_AVX2))
        return;
    mask_off_the_edge(m);
    memset(m->s->fpu.vec[1], 0xff, 16);
    for (unsigned i = 0; i < 4; i++)
        put_le32(m->s->fpu.vec[2] + 4 * i, i); /* element 2 is on the missing page */
    assert_int_equal(machine_vector(machine_run_program(m, p_gather)), X86_PF_);
    assert_int_equal(m->s->cr2, EDGE);
    assert_int_equal(get_le64(m->s->fpu.vec[0]), 0x1111111111111111);
    assert_int_equal(get_le64(m->s->fpu.vec[1]), 0);
    assert_int_equal(get_le64(m->s->fpu.vec[0] + 8), 0x7777777777777777);
    assert_int_equal(get_le64(m->s->fpu.vec[1] + 8), ~0ull);
    unmap_edge(m, 7);
    put_le64(guest(m, EDGE), 0x2222222222222222);
    m->s->rip = CODE_AT;
    m->s->gpr[X86_RSP] = STACK_AT;
    assert_int_equal(machine_vector(machine_run(m)), -1);
    assert_int_equal(get_le64(m->s->fpu.vec[0] + 8), 0x2222222222222222);
    assert_int_equal(get_le64(m->s->fpu.vec[1] + 8), 0);
}

/* --- x87 environment --- */

PROGRAM(p_env, 64, "fninit; flds 0x20000; fldz; mov %ecx,%ecx; fnstenv 0x20100; fnstcw 0x20180");

static void environment_names_the_guests_instruction_and_operand(void **state)
{
    struct machine *m = *state;
    const u8 *env = guest(m, DATA_AT + 0x100);

    mode64_all_units(m);
    put_le32(guest(m, DATA_AT), 0x3f800000);
    machine_run_program(m, p_env);
    assert_int_equal(get_le32(env), 0xffff037f);
    assert_int_equal(get_le32(env + 4), 0xffff3000);
    assert_int_equal(get_le32(env + 8), 0xffff1fff);       /* ST0, zero, in 6; ST1, valid, in 7 */
    assert_int_equal(get_le32(env + 12), CODE_AT + 2 + 7); /* FLDZ, after FNINIT and FLD */
    assert_int_equal(get_le32(env + 16) >> 16, 0x1ee);
    assert_int_equal(get_le32(env + 20), DATA_AT);
    assert_int_equal(get_le16(guest(m, DATA_AT + 0x180)), 0x37f);
}

PROGRAM(p_env16, 16, "fninit; fld1; fnstenv 0x100; fldz; fldenv 0x100; fnsave 0x200");

static void real_mode_environment_is_14_bytes(void **state)
{
    struct machine *m = *state;
    const u8 *env = guest(m, DATA_AT + 0x100), *save = guest(m, DATA_AT + 0x200);

    machine_mode16(m);
    memset(guest(m, DATA_AT), 0xee, 0x400);
    machine_run_program(m, p_env16);
    assert_int_equal(get_le16(env), 0x37f);
    assert_int_equal(get_le16(env + 2), 0x3800);
    assert_int_equal(get_le16(env + 4), 0x3fff);
    assert_int_equal(get_le16(env + 14), 0xeeee);
    assert_int_equal(get_le16(save + 2), 0x3800);
    assert_int_equal(get_le64(save + 14), 0x8000000000000000);
    assert_int_equal(get_le16(save + 22), 0x3fff);
    assert_int_equal(get_le16(save + 94), 0xeeee);
    assert_int_equal(m->s->fpu.ftw, 0);
}

/* --- outside 64-bit mode --- */

/* VEX.W1, which would be VMOVQ from RAX in 64-bit mode */
PROGRAM(p_vmaskmov_extra, 32, "mov $0x20000,%edi; vmaskmovps %xmm0,%xmm1,%es:(%edi)");
PROGRAM(p_vmaskmov_code, 32, "mov $0x20000,%edi; vmaskmovps %xmm0,%xmm1,%cs:(%edi)");

static void what_is_masked_out_raises_nothing_of_its_segment(void **state)
{
    struct machine *m = *state;

    if (!cpuid_has(&m->cpuid, CPUID_AVX))
        return;
    machine_mode32(m);
    m->s->cr4 |= X86_CR4_OSXSAVE;
    m->s->xcr0 = m->cpuid.xcr0_mask;
    memset(m->s->fpu.vec[1], 0, 16);
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_code)), -1);
    m->s->fpu.vec[1][7] = 0x80;
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_code)), X86_GP);
    /* All that is selected lies within the limit. */
    m->s->seg[X86_ES].limit = DATA_AT + 7;
    interpret_engine.state_changed(m->vcpu);
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_extra)), -1);
    m->s->fpu.vec[1][11] = 0x80;
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_vmaskmov_extra)), X86_GP);
}

/* vpinsrd $1,%eax,%xmm0,%xmm1 and vpextrd $1,%xmm1,%ecx with W set, which is ignored but by AMD's */
PROGRAM(p_vpinsrd_w1, 32, "mov $-2,%eax; .byte 0xc4,0xe3,0xf9,0x22,0xc8,0x01, 0xc4,0xe3,0xf9,0x16,0xc9,0x01");

static void w_of_vpinsrd_and_vpextrd_is_ignored_in_32_bit_code_but_by_amd(void **state)
{
    struct machine *m = *state;

    if (!cpuid_has(&m->cpuid, CPUID_AVX))
        return;
    for (unsigned amd = 0; amd < 2; amd++) {
        machine_mode32(m);
        m->s->cr4 |= X86_CR4_OSXSAVE;
        m->s->xcr0 = m->cpuid.xcr0_mask;
        m->cpuid.amd = amd;
        m->s->rip = CODE_AT + 0x1000 * amd; /* each with a block of its own */
        machine_load(m, m->s->rip, p_vpinsrd_w1, p_vpinsrd_w1_end);
        memset(m->s->fpu.vec[0], 0x55, 16);
        int vector = machine_vector(machine_run(m));
        assert_int_equal(vector, amd ? (int)X86_UD : -1);
        assert_int_equal(get_le64(m->s->fpu.vec[1]), 0xfffffffe55555555);
        assert_int_equal(m->s->gpr[X86_RCX], 0xfffffffe);
    }
}

PROGRAM(p_vmovd_w1, 32, "mov $-2,%eax; .byte 0xc4,0xe1,0xf9,0x6e,0xc0; pushl %esp; addl $4,%esp");

static void vex_w_is_ignored_for_general_registers_in_32_bit_mode(void **state)
{
    struct machine *m = *state;

    if (!cpuid_has(&m->cpuid, CPUID_AVX))
        return;
    machine_mode32(m);
    m->s->cr4 |= X86_CR4_OSXSAVE;
    m->s->xcr0 = m->cpuid.xcr0_mask;
    m->s->gpr[X86_RAX] = 0xffffffff00000000;
    memset(m->s->fpu.vec[0], 0xff, 64);
    assert_int_equal(machine_vector(machine_run_program(m, p_vmovd_w1)), -1);
    assert_int_equal(get_le64(m->s->fpu.vec[0]), 0xfffffffe);
    assert_int_equal(get_le64(m->s->fpu.vec[0] + 8), 0);
}

PROGRAM(p_popcnt16, 16, "movl $0xffff0101,%ecx; movl $-1,%eax; popcnt %cx,%ax; popcnt %ecx,%edx");

static void operand_size_is_the_guests_in_16_bit_code(void **state)
{
    struct machine *m = *state;

    machine_mode16(m);
    machine_run_program(m, p_popcnt16);
    assert_int_equal((u32)m->s->gpr[X86_RAX], 0xffff0002);
    assert_int_equal((u32)m->s->gpr[X86_RDX], 18);
}

PROGRAM(p_vzeroupper, 64, "vzeroupper");

static void vzeroupper_keeps_the_low_halves(void **state)
{
    struct machine *m = *state;
    u8 want[64] = {0};

    if (!cpuid_has(&m->cpuid, CPUID_AVX))
        return;
    mode64_all_units(m);
    memset(m->s->fpu.vec, 0x3c, sizeof m->s->fpu.vec);
    memset(want, 0x3c, 16);
    machine_run_program(m, p_vzeroupper);
    for (unsigned i = 0; i < 16; i++)
        assert_memory_equal(m->s->fpu.vec[i], want, 64);
    assert_int_equal(m->s->fpu.vec[16][63], 0x3c);
}

/* --- FXSAVE and XSAVE --- */

PROGRAM(p_fx, 64, "mov $0x20000,%esi; fxrstor64 (%rsi); fxsave64 0x400(%rsi)");

static void fxsave_returns_what_the_host_saved(void **state)
{
    struct machine *m = *state;
    u8 *in = guest(m, DATA_AT), *out = guest(m, DATA_AT + 0x400);

    mode64_all_units(m);
    __asm__ volatile("fninit; fldpi; fld1; fldln2; fchs; fxsave64 %0; fninit" : "=m"(*(u8(*)[512])in));
    for (unsigned i = 0; i < 256; i++)
        in[160 + i] = (u8)(i * 7);
    put_le32(in + 28, 0xffff); /* the mask that we offer */
    machine_run_program(m, p_fx);
    assert_memory_equal(out, in, 6);
    assert_memory_equal(out + 24, in + 24, 416 - 24);
}

PROGRAM(p_fx_misaligned, 64, "fxsave64 0x20008");

static void fxsave_and_fxrstor_check_alignment_and_mxcsr(void **state)
{
    struct machine *m = *state;

    mode64_all_units(m);
    assert_int_equal(machine_vector(machine_run_program(m, p_fx_misaligned)), X86_GP);
    mode64_all_units(m);
    put_le32(guest(m, DATA_AT + 24), 0x11f80);
    assert_int_equal(machine_vector(machine_run_program(m, p_fx)), X86_GP);
}

PROGRAM(p_xsave, 64, "mov $0x20000,%esi; mov $-1,%eax; mov $-1,%edx; xsave64 (%rsi)");
PROGRAM(p_xsavec, 64, "mov $0x20000,%esi; mov $-1,%eax; mov $-1,%edx; xsavec64 (%rsi)");
PROGRAM(p_xrstor, 64, "mov $0x20000,%esi; mov $-1,%eax; mov $-1,%edx; xrstor64 (%rsi)");

/* Some state in each component, some not. */
static void busy_state(struct machine *m)
{
    mode64_all_units(m);
    memset(&m->s->fpu, 0, sizeof m->s->fpu);
    m->s->fpu.fcw = 0x37f;
    m->s->fpu.mxcsr = 0x1f80;
    memset(m->s->fpu.vec[3], 0x33, m->s->xcr0 & X86_XCR0_ZMM_HI256 ? 64 : 32);
    if (m->s->xcr0 & X86_XCR0_OPMASK) {
        memset(m->s->fpu.vec[20], 0x20, 64);
        m->s->fpu.k[2] = 0x123456789;
    }
}

static void round_trip(struct machine *m, const u8 *save, const u8 *save_end)
{
    struct x86_fpu before = m->s->fpu;

    machine_load(m, CODE_AT, save, save_end);
    assert_int_equal(machine_vector(machine_run(m)), -1);
    memset(m->s->fpu.vec, 0xaa, sizeof m->s->fpu.vec);
    memset(m->s->fpu.k, 0xbb, sizeof m->s->fpu.k);
    memset(m->s->fpu.st, 0xcc, sizeof m->s->fpu.st);
    m->s->fpu.mxcsr = 0x1f00;
    m->s->rip = CODE_AT;
    assert_int_equal(machine_vector(machine_run_program(m, p_xrstor)), -1);
    if (!(m->s->xcr0 & X86_XCR0_OPMASK))
        return;
    assert_memory_equal(m->s->fpu.vec, before.vec, sizeof before.vec);
    assert_memory_equal(m->s->fpu.k, before.k, sizeof before.k);
    assert_memory_equal(m->s->fpu.st, before.st, sizeof before.st);
    assert_int_equal(m->s->fpu.mxcsr, before.mxcsr);
}

static void xsave_and_xrstor_round_trip(void **state)
{
    struct machine *m = *state;

    busy_state(m);
    round_trip(m, p_xsave, p_xsave_end);
    /* x87 is in its initial state, all others are not */
    assert_int_equal(get_le64(guest(m, DATA_AT + 512)), m->s->xcr0 & ~1ull);
    assert_int_equal(get_le64(guest(m, DATA_AT + 520)), 0);
    busy_state(m);
    round_trip(m, p_xsavec, p_xsavec_end);
    assert_int_equal(get_le64(guest(m, DATA_AT + 512)), m->s->xcr0 & ~1ull);
    assert_int_equal(get_le64(guest(m, DATA_AT + 520)), m->s->xcr0 | BIT(63));
    assert_int_equal(*(u8 *)guest(m, DATA_AT + 576 + 3 * 16), 0x33);
}

static void xsave_image_is_the_hosts(void **state)
{
    struct machine *m = *state;
    u8 *image = guest(m, DATA_AT), host[4096] ALIGNED(64) = {0};
    u32 mask = (u32)m->cpuid.xcr0_mask;

    if (!cpuid_has(&m->cpuid, CPUID_AVX))
        return;
    busy_state(m);
    m->s->fpu.fip = m->s->fpu.fdp = 0;
    machine_run_program(m, p_xsave);
    __asm__ volatile("xrstor64 (%1); xsave64 (%2); vzeroupper"
                     :
                     : "a"(mask), "r"(image), "r"(host), "d"(0)
                     : "memory");
    put_le32(host + 28, 0xffff);
    assert_memory_equal(image, host, 416);
    assert_memory_equal(image + 512, host + 512, cpuid_xsave_size(&m->cpuid, mask, false) - 512);
}

static void xrstor_refuses_malformed_headers(void **state)
{
    struct machine *m = *state;
    static const struct {
        unsigned at;
        u64 value;
    } bad[] = {{512, BIT(62)}, {520, 1}, {528, 1}, {520, BIT(63) | BIT(61)}, {24, 0x80001f80}};

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        busy_state(m);
        memset(guest(m, DATA_AT), 0, 4096);
        put_le64(guest(m, DATA_AT + bad[i].at), bad[i].value);
        assert_int_equal(machine_vector(machine_run_program(m, p_xrstor)), X86_GP);
        assert_int_equal(m->s->fpu.vec[3][0], 0x33);
    }
    busy_state(m);
    m->s->cr4 &= ~X86_CR4_OSXSAVE;
    assert_int_equal(machine_vector(machine_run_program(m, p_xrstor)), X86_UD);
}

/* --- what is offered, and the bound of the cache --- */

static const struct native_stub *compile(struct native_cache *n, const u8 *bytes)
{
    ZydisDecoder d;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, bytes, 15, &insn, ops)))
        return NULL;
    return native_compile(n, bytes, &insn, ops);
}

static void instructions_that_cpuid_does_not_offer_have_no_stub(void **state)
{
    static const u8 vaddps[16] = {0xc5, 0xf0, 0x58, 0xc2}, addps[16] = {0x0f, 0x58, 0xc1};
    struct cpuid_table v2;
    struct native_cache *n;

    assert_int_equal(cpuid_build(&v2, "x86-64-v2", 1, 1000000, NULL), 0);
    n = native_cache_new(&v2, NULL);
    assert_non_null(n);
    assert_non_null(compile(n, addps));
    assert_null(compile(n, vaddps));
    native_cache_free(n);
}

static void sensitive_instructions_have_no_stub(void **state)
{
    static const u8 code[][16] = {
        {0x0f, 0x05},                   /* SYSCALL */
        {0x0f, 0xa2},                   /* CPUID */
        {0x0f, 0x01, 0xd0},             /* XGETBV */
        {0x0f, 0xae, 0x20},             /* XSAVE */
        {0x0f, 0xae, 0x00},             /* FXSAVE */
        {0x0f, 0x31},                   /* RDTSC */
        {0x0f, 0x01, 0xef},             /* WRPKRU */
        {0x50},                         /* PUSH */
        {0xe8},                         /* CALL */
        {0xa4},                         /* MOVSB */
        {0xf0, 0x01, 0x08},             /* LOCK ADD */
        {0x0f, 0xa3, 0x08},             /* BT mem, reg */
        {0x8e, 0xd8},                   /* MOV DS */
        {0x0f, 0x20, 0xc0},             /* MOV from CR0 */
        {0x9d},                         /* POPF */
        {0xf3, 0x48, 0x0f, 0xae, 0xc0}, /* RDFSBASE */
    };
    struct machine *m = *state;
    struct native_cache *n = native_cache_new(&m->cpuid, NULL);

    assert_non_null(n);
    for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
        if (compile(n, code[i]))
            fail_msg("%02x %02x %02x has a stub", code[i][0], code[i][1], code[i][2]);
    native_cache_free(n);
}

static void equal_encodings_share_a_stub(void **state)
{
    /* ADDPS xmm1 with [rax], [r9 + 8] and fs:[ecx] */
    static const u8 code[][16] = {
        {0x0f, 0x58, 0x08}, {0x41, 0x0f, 0x58, 0x49, 0x08}, {0x64, 0x67, 0x0f, 0x58, 0x09}};
    struct machine *m = *state;
    struct native_cache *n = native_cache_new(&m->cpuid, NULL);

    assert_non_null(n);
    assert_non_null(compile(n, code[0]));
    assert_ptr_equal(compile(n, code[2]), compile(n, code[0]));
    native_cache_free(n);
}

static void full_cache_says_so_and_starts_again(void **state)
{
    struct machine *m = *state;
    struct native_cache *n = native_cache_new(&m->cpuid, NULL);
    u8 shufps[16] = {0x0f, 0xc6, 0xc1, 0};
    unsigned made = 0;

    assert_non_null(n);
    for (unsigned i = 0; i < 1u << 20 && !native_cache_full(n); i++, made++) {
        /* xmm registers by ModRM, 256 immediates, three opcodes */
        static const u8 opcodes[] = {0xc6, 0x70};
        static const u8 prefixes[] = {0x66, 0xf2, 0xf3, 0};
        u8 *p = shufps;

        if (prefixes[i >> 14 & 3])
            *p++ = prefixes[i >> 14 & 3];
        if (i >> 16 & 7)
            *p++ = 0x40 | (i >> 16 & 1) | (i >> 16 & 2) << 1;
        *p++ = 0x0f;
        *p++ = opcodes[i >> 19 & 1];
        *p++ = 0xc0 | (i >> 8 & 63);
        *p = (u8)i;
        compile(n, shufps);
    }
    assert_true(native_cache_full(n));
    assert_non_null(compile(n, shufps));
    native_cache_reset(n);
    assert_false(native_cache_full(n));
    assert_non_null(compile(n, shufps));
    native_cache_free(n);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sse_computes_on_registers_and_memory),
        TEST(unmasked_division_by_zero_is_xm_and_changes_only_mxcsr),
        TEST(without_osxmmexcpt_it_is_ud),
        TEST(pending_x87_exception_is_raised_by_the_next_waiting_instruction),
        TEST(misaligned_movaps_is_gp),
        TEST(units_follow_the_control_registers),
        TEST(load_across_a_page_end_faults_at_the_second_page),
        TEST(store_across_a_page_end_writes_both_or_nothing),
        TEST(vmaskmov_touches_only_what_is_selected),
        TEST(maskmovdqu_writes_only_what_is_selected),
        TEST(opmasks_suppress_faults),
        TEST(gather_keeps_what_was_done_before_a_fault),
        TEST(environment_names_the_guests_instruction_and_operand),
        TEST(real_mode_environment_is_14_bytes),
        TEST(what_is_masked_out_raises_nothing_of_its_segment),
        TEST(w_of_vpinsrd_and_vpextrd_is_ignored_in_32_bit_code_but_by_amd),
        TEST(vex_w_is_ignored_for_general_registers_in_32_bit_mode),
        TEST(operand_size_is_the_guests_in_16_bit_code),
        TEST(vzeroupper_keeps_the_low_halves),
        TEST(fxsave_returns_what_the_host_saved),
        TEST(fxsave_and_fxrstor_check_alignment_and_mxcsr),
        TEST(xsave_and_xrstor_round_trip),
        TEST(xsave_image_is_the_hosts),
        TEST(xrstor_refuses_malformed_headers),
        TEST(instructions_that_cpuid_does_not_offer_have_no_stub),
        TEST(sensitive_instructions_have_no_stub),
        TEST(equal_encodings_share_a_stub),
        TEST(full_cache_says_so_and_starts_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
