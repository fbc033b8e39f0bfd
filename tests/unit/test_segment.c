/* Loading segment registers, far transfers, call gates, IRET and task switches. */
#include "soft-fixture.h"

/* Free entries of the GDT */
#define SEL_A (FX_GDT_FREE + 0x00)
#define SEL_B (FX_GDT_FREE + 0x08) /* in long mode the second half of A */
#define SEL_C (FX_GDT_FREE + 0x10)
#define SEL_D (FX_GDT_FREE + 0x18)

struct far {
    u16 selector, pop;
    u64 offset;
    unsigned size;
};

static void do_jmp(struct soft_cpu *c, void *arg)
{
    struct far *t = arg;
    soft_jmp_far(c, t->selector, t->offset, t->size);
}
static void do_call(struct soft_cpu *c, void *arg)
{
    struct far *t = arg;
    soft_call_far(c, t->selector, t->offset, t->size);
}
static void do_ret(struct soft_cpu *c, void *arg)
{
    struct far *t = arg;
    soft_ret_far(c, t->size, t->pop);
}
static void do_ltr(struct soft_cpu *c, void *arg)
{
    soft_ltr(c, *(u16 *)arg);
}
static void do_lldt(struct soft_cpu *c, void *arg)
{
    soft_lldt(c, *(u16 *)arg);
}

static int jmp(struct fixture *f, u16 selector, u64 offset)
{
    struct far t = {.selector = selector, .offset = offset, .size = x86_code64(f->s) ? 8 : 4};
    return fx_try(f, do_jmp, &t);
}
static int call(struct fixture *f, u16 selector, u64 offset)
{
    struct far t = {.selector = selector, .offset = offset, .size = 4};
    return fx_try(f, do_call, &t);
}
static int ret(struct fixture *f, unsigned size, u16 pop)
{
    struct far t = {.size = size, .pop = pop};
    return fx_try(f, do_ret, &t);
}

/* Puts values of @size bytes on the current stack, the first on top. */
static void stack_put(struct fixture *f, unsigned size, unsigned n, const u64 *values)
{
    for (unsigned i = 0; i < n; i++)
        fx_poke(f, f->s->gpr[X86_RSP] + i * size, values[i], size);
}
#define STACK(f, size, ...) stack_put(f, size, sizeof((u64[]){__VA_ARGS__}) / 8, (u64[]){__VA_ARGS__})

static u64 on_stack(struct fixture *f, unsigned i, unsigned size)
{
    return fx_peek(f, f->s->gpr[X86_RSP] + i * size, size);
}

/* --- loading --- */

static void real_mode_load_sets_base_and_keeps_limit(void **state)
{
    struct fixture *f = *state;
    fx_real(f);
    f->s->seg[X86_DS].limit = 0xffffffff;
    assert_int_equal(fx_load(f, X86_DS, 0x1234), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_DS].base, 0x12340);
    assert_int_equal(f->s->seg[X86_DS].limit, 0xffffffff);
    assert_int_equal(f->s->seg[X86_DS].selector, 0x1234);
}

static void load_expands_the_descriptor_and_marks_it_accessed(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, 0x12345678, 0x9abcd, 0xc092);
    assert_int_equal(fx_load(f, X86_FS, SEL_A), FX_NO_FAULT);
    const struct x86_segment *fs = &f->s->seg[X86_FS];
    assert_int_equal(fs->base, 0x12345678);
    assert_int_equal(fs->limit, 0x9abcdfff);
    assert_int_equal(fs->attr, 0xc093);
    assert_int_equal(fs->selector, SEL_A);
    assert_int_equal(fx_peek(f, FX_GDT + SEL_A + 5, 1), 0x93);
}

struct load_case {
    const char *what;
    enum x86_seg seg;
    u32 attr;
    unsigned cpl, rpl;
    int fault; /* with the selector as error code */
};

static const struct load_case load_cases[] = {
    {"data", X86_DS, 0xc092, 0, 0, FX_NO_FAULT},
    {"read-only data", X86_DS, 0xc090, 0, 0, FX_NO_FAULT},
    {"readable code", X86_DS, 0xc09a, 0, 0, FX_NO_FAULT},
    {"execute-only code", X86_DS, 0xc098, 0, 0, X86_GP},
    {"a system segment", X86_DS, 0x0089, 0, 0, X86_GP},
    {"data above RPL", X86_DS, 0xc092, 0, 1, X86_GP},
    {"data above CPL", X86_DS, 0xc092, 3, 0, X86_GP},
    {"user data", X86_DS, 0xc0f2, 3, 3, FX_NO_FAULT},
    {"user data from CPL 0", X86_DS, 0xc0f2, 0, 3, FX_NO_FAULT},
    {"conforming code above CPL", X86_DS, 0xc09e, 3, 3, FX_NO_FAULT},
    {"absent data", X86_DS, 0xc012, 0, 0, X86_NP},
    {"privilege before presence", X86_DS, 0xc012, 3, 3, X86_GP},
    {"stack", X86_SS, 0xc092, 0, 0, FX_NO_FAULT},
    {"read-only stack", X86_SS, 0xc090, 0, 0, X86_GP},
    {"code as stack", X86_SS, 0xc09a, 0, 0, X86_GP},
    {"stack with RPL above CPL", X86_SS, 0xc092, 0, 3, X86_GP},
    {"stack with DPL below", X86_SS, 0xc0f2, 0, 0, X86_GP},
    {"stack with RPL below CPL", X86_SS, 0xc0f2, 3, 0, X86_GP},
    {"user stack", X86_SS, 0xc0f2, 3, 3, FX_NO_FAULT},
    {"absent stack", X86_SS, 0xc012, 0, 0, X86_SS_},
};

static void load_checks_type_privilege_presence(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(load_cases); i++) {
        const struct load_case *t = &load_cases[i];
        fx_protected(f, t->cpl);
        fx_descriptor(f, SEL_A, 0, 0xfffff, t->attr);
        struct x86_segment before = f->s->seg[t->seg];
        int fault = fx_load(f, t->seg, (u16)(SEL_A | t->rpl));
        if (fault != t->fault || (fault != FX_NO_FAULT && f->s->exception_error != SEL_A))
            fail_msg("%s: fault %d error 0x%x, expected fault %d", t->what, fault, f->s->exception_error,
                     t->fault);
        if (fault != FX_NO_FAULT)
            assert_memory_equal(&before, &f->s->seg[t->seg], sizeof before);
    }
}

static void load_beyond_the_table_is_gp(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_assert_fault(f, fx_load(f, X86_DS, FX_GDT_LIMIT + 1), X86_GP, FX_GDT_LIMIT + 1);
    f->s->gdt.limit = SEL_A + 6; /* one byte short */
    fx_descriptor(f, SEL_A, 0, 0xfffff, 0xc092);
    fx_assert_fault(f, fx_load(f, X86_DS, SEL_A), X86_GP, SEL_A);
    fx_assert_fault(f, fx_load(f, X86_DS, 0x0c), X86_GP, 0x0c); /* there is no LDT */
}

static void load_uses_the_ldt(void **state)
{
    struct fixture *f = *state;
    u16 selector = SEL_A;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, FX_FREE, 0x0f, 0x0082);
    fx_poke(f, FX_FREE + 8, 0x00cf92000000ffff, 8);
    assert_int_equal(fx_try(f, do_lldt, &selector), FX_NO_FAULT);
    assert_int_equal(fx_load(f, X86_DS, 0x0c), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_DS].limit, 0xffffffff);
    fx_assert_fault(f, fx_load(f, X86_DS, 0x14), X86_GP, 0x14);
}

static void null_selectors(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    f->s->seg[X86_DS].base = 0x1000;
    assert_int_equal(fx_load(f, X86_DS, 3), FX_NO_FAULT);
    assert_true(f->s->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(f->s->seg[X86_DS].selector, 3);
    fx_assert_fault(f, fx_load(f, X86_SS, 0), X86_GP, 0);
    fx_long(f, 0);
    assert_int_equal(fx_load(f, X86_SS, 0), FX_NO_FAULT);
    fx_assert_fault(f, fx_load(f, X86_SS, 3), X86_GP, 0);
    fx_long(f, 3);
    fx_assert_fault(f, fx_load(f, X86_SS, 3), X86_GP, 0);
}

static void null_fs_base_is_the_vendors_choice(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_set_amd(f, false);
    f->s->seg[X86_FS].base = 0x123456789;
    assert_int_equal(fx_load(f, X86_FS, 0), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_FS].base, 0);
    fx_set_amd(f, true);
    f->s->seg[X86_FS].base = 0x123456789;
    assert_int_equal(fx_load(f, X86_FS, 0), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_FS].base, 0x123456789);
}

static void ltr_marks_the_tss_busy(void **state)
{
    struct fixture *f = *state;
    u16 selector = SEL_A;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, 0x5000, 0x67, 0x89);
    assert_int_equal(fx_try(f, do_ltr, &selector), FX_NO_FAULT);
    assert_int_equal(fx_peek(f, FX_GDT + SEL_A + 5, 1), 0x8b);
    assert_int_equal(f->s->tr.base, 0x5000);
    fx_assert_fault(f, fx_try(f, do_ltr, &selector), X86_GP, SEL_A); /* busy now */
    selector = 0;
    fx_assert_fault(f, fx_try(f, do_ltr, &selector), X86_GP, 0);
    selector = SEL_A | 4;
    fx_assert_fault(f, fx_try(f, do_ltr, &selector), X86_GP, SEL_A | 4);
}

static void long_mode_system_descriptors_have_16_bytes(void **state)
{
    struct fixture *f = *state;
    u16 selector = SEL_A;
    fx_long(f, 0);
    fx_descriptor(f, SEL_A, 0x5000, 0x67, 0x89);
    fx_poke(f, FX_GDT + SEL_B, 0xffff8000, 8);
    assert_int_equal(fx_try(f, do_ltr, &selector), FX_NO_FAULT);
    assert_int_equal(f->s->tr.base, 0xffff800000005000);
    fx_descriptor(f, SEL_A, 0x5000, 0x67, 0x89);
    f->s->gdt.limit = SEL_B + 6;
    fx_assert_fault(f, fx_try(f, do_ltr, &selector), X86_GP, SEL_A);
}

static void lar_lsl_verr_see_what_privilege_allows(void **state)
{
    struct fixture *f = *state;
    u32 v = 0;
    fx_protected(f, 3);
    fx_descriptor(f, SEL_A, 0, 0x12345, 0xc0f3);
    assert_true(soft_lar(f->c, SEL_A | 3, &v));
    assert_int_equal(v & 0xf0ff00, 0xc0f300);
    assert_true(soft_lsl(f->c, SEL_A | 3, &v));
    assert_int_equal(v, 0x12345fff);
    assert_true(soft_verr(f->c, SEL_A | 3, false));
    assert_true(soft_verr(f->c, SEL_A | 3, true));
    assert_false(soft_lar(f->c, FX_DATA, &v)); /* DPL 0 */
    assert_false(soft_lar(f->c, 0, &v));
    assert_false(soft_lar(f->c, FX_GDT_LIMIT + 1, &v));
    fx_descriptor(f, SEL_A, 0, 0x12345, 0xc0fb);
    assert_false(soft_verr(f->c, SEL_A | 3, true)); /* code is never writable */
    fx_descriptor(f, SEL_A, 0, 0x67, 0x00ee);       /* an interrupt gate is not shown */
    assert_false(soft_lar(f->c, SEL_A | 3, &v));
}

/* --- limits --- */

struct check {
    enum x86_seg seg;
    u64 offset;
    unsigned size;
    enum soft_access access;
    u64 la;
};

static void do_check(struct soft_cpu *c, void *arg)
{
    struct check *k = arg;
    k->la = soft_segment_check(c, k->seg, k->offset, k->size, k->access);
}

static int check(struct fixture *f, enum x86_seg seg, u64 offset, unsigned size, enum soft_access access)
{
    struct check k = {seg, offset, size, access, 0};
    return fx_try(f, do_check, &k);
}

static void limits_hold_for_the_last_byte(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, 0x1000, 0xfff, 0x4093);
    assert_int_equal(fx_load(f, X86_DS, SEL_A), FX_NO_FAULT);
    assert_int_equal(check(f, X86_DS, 0xffc, 4, SOFT_READ), FX_NO_FAULT);
    fx_assert_fault(f, check(f, X86_DS, 0xffd, 4, SOFT_READ), X86_GP, 0);
    fx_assert_fault(f, check(f, X86_DS, 0xffffffff, 4, SOFT_READ), X86_GP, 0);
    fx_descriptor(f, SEL_A, 0x1000, 0xfff, 0x4097); /* expand down: 0x1000 .. 4 GiB - 1 */
    assert_int_equal(fx_load(f, X86_DS, SEL_A), FX_NO_FAULT);
    fx_assert_fault(f, check(f, X86_DS, 0xfff, 1, SOFT_READ), X86_GP, 0);
    assert_int_equal(check(f, X86_DS, 0x1000, 4, SOFT_READ), FX_NO_FAULT);
    fx_descriptor(f, SEL_A, 0x1000, 0xfff, 0x0097); /* 16-bit: up to 64 KiB - 1 */
    assert_int_equal(fx_load(f, X86_SS, SEL_A), FX_NO_FAULT);
    fx_assert_fault(f, check(f, X86_SS, 0xfffe, 4, SOFT_READ), X86_SS_, 0);
}

static void types_hold_for_reads_and_writes(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, 0, 0xfffff, 0xc091);
    assert_int_equal(fx_load(f, X86_ES, SEL_A), FX_NO_FAULT);
    assert_int_equal(check(f, X86_ES, 0, 4, SOFT_READ), FX_NO_FAULT);
    fx_assert_fault(f, check(f, X86_ES, 0, 4, SOFT_WRITE), X86_GP, 0);
    fx_assert_fault(f, check(f, X86_CS, 0, 4, SOFT_WRITE), X86_GP, 0);
    assert_int_equal(fx_load(f, X86_ES, 0), FX_NO_FAULT);
    fx_assert_fault(f, check(f, X86_ES, 0, 4, SOFT_READ), X86_GP, 0);
}

static void long_mode_checks_only_canonical_form(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->seg[X86_DS].limit = 0;
    f->s->seg[X86_DS].base = 0x1000;
    assert_int_equal(check(f, X86_DS, 0x123456789, 8, SOFT_WRITE), FX_NO_FAULT);
    fx_assert_fault(f, check(f, X86_DS, 0x00007ffffffffff9, 8, SOFT_READ), X86_GP, 0);
    fx_assert_fault(f, check(f, X86_SS, 0x0000800000000000, 8, SOFT_READ), X86_SS_, 0);
    f->s->seg[X86_FS].base = 0xffff800000000000;
    struct check k = {X86_FS, 0x10, 8, SOFT_READ, 0};
    assert_int_equal(fx_try(f, do_check, &k), FX_NO_FAULT);
    assert_int_equal(k.la, 0xffff800000000010);
}

/* --- far JMP, CALL, RET --- */

static void far_jmp_in_real_mode(void **state)
{
    struct fixture *f = *state;
    struct far t = {.selector = 0xf000, .offset = 0x1234, .size = 2};
    fx_real(f);
    assert_int_equal(fx_try(f, do_jmp, &t), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_CS].base, 0xf0000);
    assert_int_equal(f->s->rip, 0x1234);
    t.offset = 0x12345;
    t.size = 4;
    fx_assert_fault(f, fx_try(f, do_jmp, &t), X86_GP, 0);
}

static void far_jmp_checks_the_code_segment(void **state)
{
    static const struct {
        u32 attr;
        unsigned cpl, rpl;
        int fault;
    } cases[] = {
        {0xc09a, 0, 0, FX_NO_FAULT}, {0xc09a, 3, 3, X86_GP}, {0xc09e, 3, 3, FX_NO_FAULT},
        {0xc0fe, 0, 0, X86_GP},      {0xc0fa, 0, 0, X86_GP}, {0xc09a, 0, 3, X86_GP},
        {0xc092, 0, 0, X86_GP},      {0xc01a, 0, 0, X86_NP}, {0xc0fa, 3, 3, FX_NO_FAULT},
    };
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        fx_protected(f, cases[i].cpl);
        fx_descriptor(f, SEL_A, 0, 0xfffff, cases[i].attr);
        int fault = jmp(f, (u16)(SEL_A | cases[i].rpl), 0x1234);
        if (fault != cases[i].fault)
            fail_msg("case %u: fault %d, expected %d", i, fault, cases[i].fault);
        if (fault == FX_NO_FAULT) {
            assert_int_equal(f->s->rip, 0x1234);
            assert_int_equal(f->s->seg[X86_CS].selector, SEL_A | cases[i].cpl);
        } else {
            assert_int_equal(f->s->exception_error, SEL_A);
            assert_int_equal(f->s->rip, FX_FREE);
        }
    }
}

static void far_jmp_beyond_the_limit_is_gp(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, 0, 0xfff, 0x409a);
    fx_assert_fault(f, jmp(f, SEL_A, 0x1000), X86_GP, 0);
    fx_assert_fault(f, jmp(f, 0, 0), X86_GP, 0);
}

static void far_jmp_enters_compatibility_mode_and_back(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(f->c->code_size, 8);
    assert_int_equal(jmp(f, FX_CODE32, 0x1000), FX_NO_FAULT);
    assert_int_equal(f->c->code_size, 4);
    assert_int_equal(jmp(f, FX_CODE64, 0x2000), FX_NO_FAULT);
    assert_int_equal(f->c->code_size, 8);
    fx_descriptor(f, SEL_A, 0, 0xfffff, 0xe09a); /* L and D */
    fx_assert_fault(f, jmp(f, SEL_A, 0), X86_GP, SEL_A);
}

static void far_call_and_ret_at_one_level(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    u64 rsp = f->s->gpr[X86_RSP];
    fx_descriptor(f, SEL_A, 0, 0xfffff, 0xc09a);
    assert_int_equal(call(f, SEL_A, 0x1234), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], rsp - 8);
    assert_int_equal(on_stack(f, 0, 4), FX_FREE);
    assert_int_equal(on_stack(f, 1, 4), FX_CODE32);
    assert_int_equal(ret(f, 4, 16), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], rsp + 16);
    assert_int_equal(f->s->rip, FX_FREE);
    assert_int_equal(f->s->seg[X86_CS].selector, FX_CODE32);
}

static void call_gate_to_ring_0_switches_stack_and_copies_parameters(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    u64 gate = 0x5678 | (u64)FX_CODE32 << 16 | 2ull << 32 | 0xecull << 40; /* 32-bit, DPL 3, 2 parameters */
    fx_poke(f, FX_GDT + SEL_A, gate, 8);
    STACK(f, 4, 0x1111, 0x2222);
    u64 rsp = f->s->gpr[X86_RSP];
    assert_int_equal(call(f, SEL_A | 3, 0), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->s->rip, 0x5678);
    assert_int_equal(f->s->seg[X86_CS].selector, FX_CODE32);
    assert_int_equal(f->s->seg[X86_SS].selector, FX_DATA);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK0 - 24);
    assert_int_equal(on_stack(f, 0, 4), FX_FREE);
    assert_int_equal(on_stack(f, 1, 4), FX_USER_CODE32);
    assert_int_equal(on_stack(f, 2, 4), 0x1111);
    assert_int_equal(on_stack(f, 3, 4), 0x2222);
    assert_int_equal(on_stack(f, 4, 4), rsp);
    assert_int_equal(on_stack(f, 5, 4), FX_USER_DATA);
    /* and back; DS of ring 0 becomes null */
    assert_int_equal(fx_load(f, X86_DS, FX_DATA), FX_NO_FAULT);
    assert_int_equal(ret(f, 4, 8), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->gpr[X86_RSP], rsp + 8);
    assert_true(f->s->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    assert_false(f->s->seg[X86_ES].attr & X86_ATTR_UNUSABLE);
}

static void call_gate_checks(void **state)
{
    static const struct {
        u64 access; /* of the gate */
        u16 code;   /* its target */
        u16 ss;     /* in the TSS */
        int fault;
        u32 error;
    } cases[] = {
        {0x8c, FX_CODE32, FX_DATA, X86_GP, SEL_A},     /* DPL 0 */
        {0x6c, FX_CODE32, FX_DATA, X86_NP, SEL_A},     /* absent */
        {0xec, 0, FX_DATA, X86_GP, 0},                 /* null target */
        {0xec, FX_DATA, FX_DATA, X86_GP, FX_DATA},     /* not code */
        {0xec, FX_CODE32, 0, X86_TS, 0},               /* null stack */
        {0xec, FX_CODE32, FX_USER_DATA, X86_TS, 0x20}, /* stack of another level */
        {0xec, FX_CODE32, FX_CODE32, X86_TS, FX_CODE32},
        {0xec, FX_CODE32, SEL_C, X86_SS_, SEL_C}, /* absent stack */
    };
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        fx_protected(f, 3);
        fx_descriptor(f, SEL_C, 0, 0xfffff, 0xc012);
        fx_poke(f, FX_GDT + SEL_A, 0x5678 | (u64)cases[i].code << 16 | cases[i].access << 40, 8);
        fx_poke(f, FX_TSS + 8, cases[i].ss, 2);
        struct x86_state before = *f->s;
        int fault = call(f, SEL_A | 3, 0);
        if (fault != cases[i].fault || f->s->exception_error != cases[i].error)
            fail_msg("case %u: fault %d error 0x%x", i, fault, f->s->exception_error);
        assert_memory_equal(before.gpr, f->s->gpr, sizeof before.gpr);
        assert_memory_equal(before.seg, f->s->seg, sizeof before.seg);
        assert_int_equal(f->s->rip, FX_FREE);
    }
}

static void call_gate_asks_for_cpl_and_rpl(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    fx_poke(f, FX_GDT + SEL_A, 0x5678 | (u64)FX_CODE32 << 16 | 0x8cull << 40, 8); /* DPL 0 */
    fx_assert_fault(f, call(f, SEL_A, 0), X86_GP, SEL_A);
    fx_protected(f, 0);
    fx_assert_fault(f, call(f, SEL_A | 3, 0), X86_GP, SEL_A);
    assert_int_equal(call(f, SEL_A, 0), FX_NO_FAULT);
}

static void call_gate_in_long_mode_is_64_bits_wide(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    u64 rsp = f->s->gpr[X86_RSP];
    fx_poke(f, FX_GDT + SEL_A, 0x5678 | (u64)FX_CODE64 << 16 | 0xecull << 40, 8);
    fx_poke(f, FX_GDT + SEL_B, 0xffff8000, 8);
    assert_int_equal(call(f, SEL_A | 3, 0), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0xffff800000005678);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->s->seg[X86_SS].selector, 0);
    assert_int_equal(f->s->gpr[X86_RSP], FX_STACK0 - 32);
    assert_int_equal(on_stack(f, 0, 8), FX_FREE);
    assert_int_equal(on_stack(f, 1, 8), FX_USER_CODE64);
    assert_int_equal(on_stack(f, 2, 8), rsp);
    assert_int_equal(on_stack(f, 3, 8), FX_USER_DATA);
    assert_int_equal(ret(f, 8, 0), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->gpr[X86_RSP], rsp);
}

static void ret_far_checks(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    STACK(f, 4, 0x1000, FX_CODE32); /* to more privilege */
    fx_assert_fault(f, ret(f, 4, 0), X86_GP, FX_CODE32);
    fx_protected(f, 0);
    STACK(f, 4, 0x1000, 0);
    fx_assert_fault(f, ret(f, 4, 0), X86_GP, 0);
    STACK(f, 4, 0x1000, FX_USER_CODE32, FX_STACK3, FX_DATA); /* the stack is ring 0's */
    fx_assert_fault(f, ret(f, 4, 0), X86_GP, FX_DATA);
    STACK(f, 4, 0x1000, FX_USER_CODE32, FX_STACK3, 0);
    fx_assert_fault(f, ret(f, 4, 0), X86_GP, 0);
    assert_int_equal(f->c->cpl, 0);
}

/* --- IRET --- */

static void iret_in_real_mode(void **state)
{
    struct fixture *f = *state;
    fx_real(f);
    STACK(f, 2, 0x1234, 0x2000, 0xffff);
    assert_int_equal(fx_iret(f, 2), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->seg[X86_CS].base, 0x20000);
    assert_int_equal(f->s->rflags, 0x7fd7);
    assert_int_equal(f->s->gpr[X86_RSP], 0x7006);
}

static void iret_to_the_same_level(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    u64 rsp = f->s->gpr[X86_RSP];
    f->s->nmi_blocked = 1;
    STACK(f, 4, 0x1234, FX_CODE32, X86_IF | X86_CF | X86_AC);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->rflags, X86_IF | X86_CF | X86_AC | X86_FLAG1);
    assert_int_equal(f->s->gpr[X86_RSP], rsp + 12);
    assert_int_equal(f->s->nmi_blocked, 0);
}

static void iret_to_user_restores_stack_and_flags(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    STACK(f, 4, 0x1234, FX_USER_CODE32, X86_IF | X86_IOPL, 0x9abc, FX_USER_DATA);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->s->gpr[X86_RSP], 0x9abc);
    assert_int_equal(f->s->rflags, X86_IF | X86_IOPL | X86_FLAG1);
    assert_true(f->s->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
}

static void iret_at_cpl3_keeps_if_and_iopl(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 3);
    f->s->rflags |= X86_IF;
    STACK(f, 4, 0x1234, FX_USER_CODE32, X86_IOPL | X86_ZF);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    assert_int_equal(f->s->rflags, X86_IF | X86_ZF | X86_FLAG1);
}

static void iret_in_64_bit_mode_always_pops_the_stack(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    STACK(f, 8, 0xffff800000001234, FX_CODE64, X86_IF, 0xffff800000009abc, 0);
    assert_int_equal(fx_iret(f, 8), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], 0xffff800000009abc);
    assert_int_equal(f->s->rip, 0xffff800000001234);
    assert_int_equal(f->c->cpl, 0);
    fx_long(f, 0);
    STACK(f, 8, 0x0000800000001234, FX_CODE64, X86_IF, 0x8000, 0);
    fx_assert_fault(f, fx_iret(f, 8), X86_GP, 0);
    fx_long(f, 0);
    STACK(f, 8, 0x1234, FX_USER_CODE64, X86_IF, FX_STACK3, 0); /* a null SS is for kernels */
    fx_assert_fault(f, fx_iret(f, 8), X86_GP, 0);
}

static void iret_to_compatibility_mode(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    STACK(f, 8, 0x1234, FX_USER_CODE32, X86_IF, FX_STACK3, FX_USER_DATA);
    assert_int_equal(fx_iret(f, 8), FX_NO_FAULT);
    assert_int_equal(f->c->code_size, 4);
    assert_int_equal(f->c->cpl, 3);
}

static void iret_with_nt_in_long_mode_is_gp(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->rflags |= X86_NT;
    fx_assert_fault(f, fx_iret(f, 8), X86_GP, 0);
}

static void iret_enters_v86_mode(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    STACK(f, 4, 0x1234, 0x2000, X86_VM | X86_IF | X86_IOPL, 0x5678, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    assert_true(x86_v8086(f->s));
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->c->code_size, 2);
    assert_int_equal(f->s->seg[X86_CS].base, 0x20000);
    assert_int_equal(f->s->seg[X86_SS].base, 0x30000);
    assert_int_equal(f->s->seg[X86_ES].selector, 0x4000);
    assert_int_equal(f->s->seg[X86_DS].selector, 0x5000);
    assert_int_equal(f->s->seg[X86_FS].selector, 0x6000);
    assert_int_equal(f->s->seg[X86_GS].selector, 0x7000);
    assert_int_equal(f->s->gpr[X86_RSP], 0x5678);
    /* IRET in v86 mode with IOPL 3 stays there */
    fx_poke(f, 0x35678, 0x1111, 2);
    fx_poke(f, 0x3567a, 0x2222, 2);
    fx_poke(f, 0x3567c, 0, 2);
    assert_int_equal(fx_iret(f, 2), FX_NO_FAULT);
    assert_int_equal(f->s->seg[X86_CS].base, 0x22220);
    assert_int_equal(f->s->rflags, X86_VM | X86_IOPL | X86_FLAG1);
    f->s->rflags &= ~X86_IOPL;
    fx_assert_fault(f, fx_iret(f, 2), X86_GP, 0);
}

static void vme_iret_works_on_vif(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    f->s->cr4 = X86_CR4_VME;
    STACK(f, 4, 0x1234, 0x2000, X86_VM, 0x5678, 0x3000, 0, 0, 0, 0);
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    fx_poke(f, 0x35678, 0x1111, 2);
    fx_poke(f, 0x3567a, 0x2222, 2);
    fx_poke(f, 0x3567c, X86_IF, 2);
    f->s->rflags |= X86_VIP;
    fx_assert_fault(f, fx_iret(f, 2), X86_GP, 0);
    f->s->rflags &= ~X86_VIP;
    assert_int_equal(fx_iret(f, 2), FX_NO_FAULT);
    assert_true(f->s->rflags & X86_VIF);
    assert_false(f->s->rflags & X86_IF);
}

/* --- the stack --- */

static void do_push(struct soft_cpu *c, void *arg)
{
    soft_push(c, *(u64 *)arg, 4);
}

static void push_wraps_by_the_width_of_ss(void **state)
{
    struct fixture *f = *state;
    u64 v = 0x12345678;
    fx_protected(f, 0);
    fx_descriptor(f, SEL_A, 0x10000, 0xffff, 0x0093);
    assert_int_equal(fx_load(f, X86_SS, SEL_A), FX_NO_FAULT);
    f->s->gpr[X86_RSP] = 0xabcd0002;
    fx_assert_fault(f, fx_try(f, do_push, &v), X86_SS_, 0);
    f->s->gpr[X86_RSP] = 0xabcd0000;
    assert_int_equal(fx_try(f, do_push, &v), FX_NO_FAULT);
    assert_int_equal(f->s->gpr[X86_RSP], 0xabcdfffc);
    assert_int_equal(fx_peek(f, 0x1fffc, 4), v);
}

/* --- task switch --- */

#define TSS2 0x4000

static void make_second_task(struct fixture *f, u32 flags)
{
    fx_descriptor(f, SEL_A, TSS2, 0x67, 0x89);
    fx_poke(f, TSS2 + 0x20, 0x1234, 4); /* EIP */
    fx_poke(f, TSS2 + 0x24, flags, 4);
    for (unsigned i = 0; i < 8; i++)
        fx_poke(f, TSS2 + 0x28 + 4 * i, 0x100 + i, 4);
    fx_poke(f, TSS2 + 0x38, 0x9000, 4); /* ESP */
    fx_poke(f, TSS2 + 0x48, FX_DATA, 2);
    fx_poke(f, TSS2 + 0x4c, FX_CODE32, 2);
    fx_poke(f, TSS2 + 0x50, FX_DATA, 2);
    fx_poke(f, TSS2 + 0x54, FX_DATA, 2);
    fx_poke(f, TSS2 + 0x58, 0, 2);
    fx_poke(f, TSS2 + 0x5c, 0, 2);
    fx_poke(f, TSS2 + 0x60, 0, 2);
    fx_poke(f, TSS2 + 0x64, 0, 4);
}

static void task_switch_by_call_and_back_by_iret(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    make_second_task(f, X86_FLAG1);
    f->s->gpr[X86_RBX] = 0xdeadbeef;
    u64 rsp = f->s->gpr[X86_RSP];
    assert_int_equal(call(f, SEL_A, 0), FX_NO_FAULT);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->gpr[X86_RCX], 0x101);
    assert_int_equal(f->s->gpr[X86_RSP], 0x9000);
    assert_int_equal(f->s->tr.selector, SEL_A);
    assert_true(f->s->rflags & X86_NT);
    assert_true(f->s->cr0 & X86_CR0_TS);
    assert_int_equal(fx_peek(f, TSS2, 2), FX_TSS_SEL); /* link */
    assert_int_equal(fx_peek(f, FX_GDT + SEL_A + 5, 1), 0x8b);
    assert_int_equal(fx_peek(f, FX_GDT + FX_TSS_SEL + 5, 1), 0x8b); /* still busy */
    assert_int_equal(fx_peek(f, FX_TSS + 0x28 + 12, 4), 0xdeadbeef);
    f->s->gpr[X86_RBX] = 1;
    assert_int_equal(fx_iret(f, 4), FX_NO_FAULT);
    assert_int_equal(f->s->rip, FX_FREE);
    assert_int_equal(f->s->gpr[X86_RBX], 0xdeadbeef);
    assert_int_equal(f->s->gpr[X86_RSP], rsp);
    assert_int_equal(f->s->tr.selector, FX_TSS_SEL);
    assert_int_equal(fx_peek(f, FX_GDT + SEL_A + 5, 1), 0x89);
    assert_int_equal(fx_peek(f, TSS2 + 0x24, 4) & X86_NT, 0);
}

static void task_switch_by_jmp_moves_the_busy_bit(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    make_second_task(f, X86_FLAG1);
    assert_int_equal(jmp(f, SEL_A, 0), FX_NO_FAULT);
    assert_false(f->s->rflags & X86_NT);
    assert_int_equal(fx_peek(f, FX_GDT + SEL_A + 5, 1), 0x8b);
    assert_int_equal(fx_peek(f, FX_GDT + FX_TSS_SEL + 5, 1), 0x89);
    fx_assert_fault(f, jmp(f, SEL_A, 0), X86_GP, SEL_A); /* it is busy: itself */
}

static void task_switch_faults_before_the_switch_change_nothing(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    make_second_task(f, X86_FLAG1);
    fx_descriptor(f, SEL_A, TSS2, 0x66, 0x89);
    fx_assert_fault(f, jmp(f, SEL_A, 0), X86_TS, SEL_A);
    fx_descriptor(f, SEL_A, TSS2, 0x67, 0x09);
    fx_assert_fault(f, jmp(f, SEL_A, 0), X86_NP, SEL_A);
    assert_int_equal(f->s->tr.selector, FX_TSS_SEL);
    assert_int_equal(f->s->rip, FX_FREE);
    assert_int_equal(fx_peek(f, FX_GDT + FX_TSS_SEL + 5, 1), 0x8b);
}

static void task_switch_faults_after_it_belong_to_the_new_task(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    make_second_task(f, X86_FLAG1);
    fx_poke(f, TSS2 + 0x54, FX_GDT_LIMIT + 1, 2); /* DS */
    fx_assert_fault(f, jmp(f, SEL_A, 0), X86_TS, FX_GDT_LIMIT + 1);
    assert_int_equal(f->s->tr.selector, SEL_A);
    assert_int_equal(f->s->rip, 0x1234);
    assert_int_equal(f->s->gpr[X86_RSP], 0x9000);
}

static void task_switch_with_t_bit_traps(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    make_second_task(f, X86_FLAG1);
    fx_poke(f, TSS2 + 0x64, 1, 4);
    assert_int_equal(jmp(f, SEL_A, 0), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, X86_DR6_BT);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(real_mode_load_sets_base_and_keeps_limit),
        T(load_expands_the_descriptor_and_marks_it_accessed),
        T(load_checks_type_privilege_presence),
        T(load_beyond_the_table_is_gp),
        T(load_uses_the_ldt),
        T(null_selectors),
        T(null_fs_base_is_the_vendors_choice),
        T(ltr_marks_the_tss_busy),
        T(long_mode_system_descriptors_have_16_bytes),
        T(lar_lsl_verr_see_what_privilege_allows),
        T(limits_hold_for_the_last_byte),
        T(types_hold_for_reads_and_writes),
        T(long_mode_checks_only_canonical_form),
        T(far_jmp_in_real_mode),
        T(far_jmp_checks_the_code_segment),
        T(far_jmp_beyond_the_limit_is_gp),
        T(far_jmp_enters_compatibility_mode_and_back),
        T(far_call_and_ret_at_one_level),
        T(call_gate_to_ring_0_switches_stack_and_copies_parameters),
        T(call_gate_checks),
        T(call_gate_asks_for_cpl_and_rpl),
        T(call_gate_in_long_mode_is_64_bits_wide),
        T(ret_far_checks),
        T(iret_in_real_mode),
        T(iret_to_the_same_level),
        T(iret_to_user_restores_stack_and_flags),
        T(iret_at_cpl3_keeps_if_and_iopl),
        T(iret_in_64_bit_mode_always_pops_the_stack),
        T(iret_to_compatibility_mode),
        T(iret_with_nt_in_long_mode_is_gp),
        T(iret_enters_v86_mode),
        T(vme_iret_works_on_vif),
        T(push_wraps_by_the_width_of_ss),
        T(task_switch_by_call_and_back_by_iret),
        T(task_switch_by_jmp_moves_the_busy_bit),
        T(task_switch_faults_before_the_switch_change_nothing),
        T(task_switch_faults_after_it_belong_to_the_new_task),
        T(task_switch_with_t_bit_traps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
