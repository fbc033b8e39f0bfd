/* The page walk in each paging mode, and the software TLB in front of it. */
#include "soft-fixture.h"

#include "cpu/paging.h"

#define P 1u
#define W 2u
#define U 4u
#define A 0x20u
#define D 0x40u
#define PS 0x80u
#define G 0x100u
#define NX BIT(63)

/* --- the walk, on its own --- */

static void env_of(struct fixture *f, struct paging_env *env)
{
    paging_env_init(env, &f->memory, &f->cpuid);
    env->page_1g = true;
    env->pse36 = true;
    env->maxphyaddr = 40;
}

static int walk(struct fixture *f, u64 la, unsigned access, struct paging_page *out)
{
    struct paging_env env;
    env_of(f, &env);
    return paging_walk(&env, f->s, la, access, out);
}

static void walk_without_paging_is_identity(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    fx_real(f);
    assert_int_equal(walk(f, 0x12345, PAGING_W, &p), 0);
    assert_int_equal(p.gpa, 0x12345);
    assert_int_equal(p.allow, PAGING_R | PAGING_W | PAGING_X);
    assert_true(p.dirty);
}

/* 32-bit tables: directory at FX_TABLES, one table behind it. */
static void legacy_paging(struct fixture *f, u64 pde, u64 pte)
{
    fx_protected(f, 0);
    f->s->cr3 = FX_TABLES;
    f->s->cr0 |= X86_CR0_PG | X86_CR0_WP;
    f->s->cr4 = X86_CR4_PSE;
    fx_poke(f, FX_TABLES + 4, pde, 4); /* 4 MiB .. 8 MiB */
    fx_poke(f, FX_TABLES + 0x1000 + 4 * 5, pte, 4);
}

static void walk_legacy_4k_translates_and_marks(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    legacy_paging(f, (FX_TABLES + 0x1000) | P | W | U, 0x345000 | P | W | U);
    assert_int_equal(walk(f, 0x405678, PAGING_R | PAGING_USER, &p), 0);
    assert_int_equal(p.gpa, 0x345678);
    assert_int_equal(p.shift, 12);
    assert_false(p.dirty);
    assert_int_equal(fx_peek(f, FX_TABLES + 4, 4) & (A | D), A);
    assert_int_equal(fx_peek(f, FX_TABLES + 0x1014, 4) & (A | D), A);
    assert_int_equal(walk(f, 0x405678, PAGING_W, &p), 0);
    assert_true(p.dirty);
    assert_int_equal(fx_peek(f, FX_TABLES + 0x1014, 4) & (A | D), A | D);
    assert_int_equal(fx_peek(f, FX_TABLES + 4, 4) & D, 0);
}

static void walk_failed_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    legacy_paging(f, (FX_TABLES + 0x1000) | P | W | U, 0x345000 | P | U);
    assert_int_equal(walk(f, 0x405678, PAGING_W | PAGING_USER, &p), -1);
    assert_int_equal(p.error, X86_PFEC_P | X86_PFEC_W | X86_PFEC_U);
    assert_int_equal(fx_peek(f, FX_TABLES + 4, 4) & A, 0);
    assert_int_equal(fx_peek(f, FX_TABLES + 0x1014, 4) & A, 0);
}

static void walk_legacy_4m_uses_pse36_bits(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    legacy_paging(f, 0x00800000 | P | W | U | PS | 3u << 13, 0);
    assert_int_equal(walk(f, 0x6abcde, PAGING_R, &p), 0);
    assert_int_equal(p.gpa, 0x300a00000 + 0xabcde);
    assert_int_equal(p.shift, 22);
    fx_poke(f, FX_TABLES + 4, 0x00800000 | P | W | U | PS | 1u << 21, 4);
    assert_int_equal(walk(f, 0x6abcde, PAGING_R, &p), -1);
    assert_int_equal(p.error, X86_PFEC_P | X86_PFEC_RSVD);
}

static void walk_legacy_ignores_ps_without_pse(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    legacy_paging(f, (FX_TABLES + 0x1000) | P | W | U | PS, 0x345000 | P | W | U);
    f->s->cr4 = 0;
    assert_int_equal(walk(f, 0x405678, PAGING_R, &p), 0);
    assert_int_equal(p.gpa, 0x345678);
}

static void pae_paging(struct fixture *f)
{
    fx_protected(f, 0);
    f->s->cr3 = FX_TABLES + 0x20;
    f->s->cr0 |= X86_CR0_PG | X86_CR0_WP;
    f->s->cr4 = X86_CR4_PAE;
    f->s->efer = X86_EFER_NXE;
    fx_poke(f, FX_TABLES + 0x20 + 8, (FX_TABLES + 0x1000) | P, 8); /* 1 GiB .. 2 GiB */
    fx_poke(f, FX_TABLES + 0x1000, (FX_TABLES + 0x2000) | P | W | U, 8);
    fx_poke(f, FX_TABLES + 0x1008, 0x600000 | P | W | U | PS, 8);
    fx_poke(f, FX_TABLES + 0x2000, 0x345000 | P | W | U | NX, 8);
}

static void walk_pae_translates_4k_and_2m(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    pae_paging(f);
    assert_int_equal(walk(f, 0x40000123, PAGING_R, &p), 0);
    assert_int_equal(p.gpa, 0x345123);
    assert_int_equal(p.allow, PAGING_R | PAGING_W);
    assert_int_equal(walk(f, 0x40212345, PAGING_X, &p), 0);
    assert_int_equal(p.gpa, 0x612345);
    assert_int_equal(p.shift, 21);
    assert_int_equal(walk(f, 0x80000000, PAGING_R, &p), -1);
    assert_int_equal(p.error, 0);
}

static void walk_pae_reserves_bits(void **state)
{
    static const u64 bits[] = {BIT(52), BIT(62), BIT(40), BIT(51)};
    struct fixture *f = *state;
    struct paging_page p;
    for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
        pae_paging(f);
        fx_poke(f, FX_TABLES + 0x2000, 0x345000 | P | W | U | bits[i], 8);
        assert_int_equal(walk(f, 0x40000123, PAGING_R, &p), -1);
        assert_int_equal(p.error, X86_PFEC_P | X86_PFEC_RSVD);
    }
    pae_paging(f);
    f->s->efer = 0; /* then NX is a reserved bit */
    assert_int_equal(walk(f, 0x40000123, PAGING_R, &p), -1);
    assert_int_equal(p.error, X86_PFEC_P | X86_PFEC_RSVD);
}

static void pdptes_are_checked_at_cr3_load(void **state)
{
    struct fixture *f = *state;
    pae_paging(f);
    soft_mode_changed(f->c);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES + 0x20), FX_NO_FAULT);
    fx_poke(f, FX_TABLES + 0x20 + 16, 0x1000 | P | W, 8);
    fx_assert_fault(f, fx_write_cr(f, 3, FX_TABLES + 0x20), X86_GP, 0);
    fx_poke(f, FX_TABLES + 0x20 + 16, 0x1000 | W, 8); /* not present: not looked at */
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES + 0x20), FX_NO_FAULT);
}

static void walk_long_translates_each_size(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    fx_long(f, 0);
    fx_map(f, 0xffff800000001000, 0x345000, 12, P | W | U | G);
    fx_map(f, 0xffff800040000000, 0x40000000, 30, P | W | PS);
    assert_int_equal(walk(f, 0xffff800000001234, PAGING_R, &p), 0);
    assert_int_equal(p.gpa, 0x345234);
    assert_true(p.global);
    assert_int_equal(walk(f, 0xffff800052345678, PAGING_W, &p), 0);
    assert_int_equal(p.gpa, 0x52345678);
    assert_int_equal(p.shift, 30);
    assert_int_equal(walk(f, 0x212345, PAGING_R, &p), 0);
    assert_int_equal(p.gpa, 0x212345);
    assert_int_equal(p.shift, 21);
}

static void walk_long_reserves_bits_of_large_pages(void **state)
{
    struct fixture *f = *state;
    struct paging_page p;
    fx_long(f, 0);
    fx_map(f, 0x40000000, 0x40000000 | BIT(13), 30, P | W | PS);
    assert_int_equal(walk(f, 0x40000000, PAGING_R, &p), -1);
    assert_int_equal(p.error, X86_PFEC_P | X86_PFEC_RSVD);
    fx_map(f, 0x40000000, 0x40000000 | BIT(12), 30, P | W | PS); /* PAT */
    assert_int_equal(walk(f, 0x40000000, PAGING_R, &p), 0);
    fx_poke(f, FX_TABLES + 8, (FX_TABLES + 0x1000) | P | W | U | PS, 8); /* a PML4E has no PS */
    assert_int_equal(walk(f, 1ull << 39, PAGING_R, &p), -1);
    assert_int_equal(p.error, X86_PFEC_P | X86_PFEC_RSVD);
}

static void peek_sees_without_marking(void **state)
{
    struct fixture *f = *state;
    struct paging_env env;
    struct paging_page p;
    fx_long(f, 0);
    env_of(f, &env);
    fx_map(f, 0xffff800000001000, 0x345000, 12, P);
    u64 before = fx_peek(f, FX_TABLES + 256 * 8, 8);
    assert_int_equal(paging_peek(&env, f->s, 0xffff800000001234, &p), 0);
    assert_int_equal(p.gpa, 0x345234);
    assert_int_equal(fx_peek(f, FX_TABLES + 256 * 8, 8), before);
    assert_int_equal(paging_peek(&env, f->s, 0xffff900000000000, &p), -1);
    assert_int_equal(paging_peek(&env, f->s, 0x0000800000000000, &p), -1);
}

/* --- permissions: each kind of page, each kind of access --- */

#define LA 0x40001000ull

struct permission_case {
    u64 page;   /* flags of the leaf */
    u64 cr0_wp; /* WP */
    u64 cr4;    /* SMEP, SMAP */
    u64 ac;
    /* expected faults: R, W, X at CPL 0, then at CPL 3; -1 none, else the error code */
    int r0, w0, x0, r3, w3, x3;
};

#define OK (-1)
static const struct permission_case permissions[] = {
    {P | W | U, X86_CR0_WP, 0, 0, OK, OK, OK, OK, OK, OK},
    {P | W, X86_CR0_WP, 0, 0, OK, OK, OK, 5, 7, 0x15},
    {P | U, X86_CR0_WP, 0, 0, OK, 3, OK, OK, 7, OK},
    {P | U, 0, 0, 0, OK, OK, OK, OK, 7, OK},
    {P, X86_CR0_WP, 0, 0, OK, 3, OK, 5, 7, 0x15},
    {P | W | U | NX, X86_CR0_WP, 0, 0, OK, OK, 0x11, OK, OK, 0x15},
    {P | W | U, X86_CR0_WP, X86_CR4_SMEP, 0, OK, OK, 0x11, OK, OK, OK},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, 0, 1, 3, OK, OK, OK, OK},
    {P | W | U, X86_CR0_WP, X86_CR4_SMAP, X86_AC, OK, OK, OK, OK, OK, OK},
    {P | U, X86_CR0_WP, X86_CR4_SMAP, X86_AC, OK, 3, OK, OK, 7, OK},
    {W | U, X86_CR0_WP, 0, 0, 0, 2, 0x10, 4, 6, 0x14},
};

static void expect(struct fixture *f, int got, int error, unsigned i, const char *what)
{
    if (error == OK) {
        if (got != FX_NO_FAULT)
            fail_msg("case %u %s: unexpected fault %d error 0x%x", i, what, got, f->s->exception_error);
    } else if (got != X86_PF_ || f->s->exception_error != (u32)error || f->s->cr2 != LA + 8) {
        fail_msg("case %u %s: fault %d error 0x%x cr2 0x%llx, expected error 0x%x", i, what, got,
                 f->s->exception_error, (unsigned long long)f->s->cr2, (unsigned)error);
    }
}

static void permissions_by_mode(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_SIZE(permissions); i++) {
        const struct permission_case *t = &permissions[i];
        fx_long(f, 0);
        fx_map(f, LA, FX_FREE, 12, t->page);
        f->s->cr0 = (f->s->cr0 & ~X86_CR0_WP) | t->cr0_wp;
        f->s->cr4 |= t->cr4;
        f->s->rflags |= t->ac;
        soft_mode_changed(f->c);
        expect(f, fx_read(f, LA + 8, 4, NULL), t->r0, i, "read at CPL 0");
        expect(f, fx_write(f, LA + 8, 1, 4), t->w0, i, "write at CPL 0");
        expect(f, fx_exec(f, LA + 8), t->x0, i, "execute at CPL 0");
        fx_set_cpl(f, 3);
        expect(f, fx_read(f, LA + 8, 4, NULL), t->r3, i, "read at CPL 3");
        expect(f, fx_write(f, LA + 8, 1, 4), t->w3, i, "write at CPL 3");
        expect(f, fx_exec(f, LA + 8), t->x3, i, "execute at CPL 3");
    }
}

static void restrictive_upper_levels_win(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    fx_map(f, LA, FX_FREE, 12, P | W | U);
    u64 pdpt = fx_peek(f, FX_TABLES, 8) & PAGE_MASK;
    u64 pdpte = fx_peek(f, pdpt + 8, 8);
    fx_poke(f, pdpt + 8, pdpte & ~(u64)W, 8);
    fx_assert_fault(f, fx_write(f, LA, 1, 1), X86_PF_, 7);
    fx_poke(f, pdpt + 8, pdpte & ~(u64)U, 8);
    soft_tlb_flush_all(f->c, true);
    fx_assert_fault(f, fx_read(f, LA, 1, NULL), X86_PF_, 5);
    fx_poke(f, pdpt + 8, pdpte | NX, 8);
    soft_tlb_flush_all(f->c, true);
    fx_assert_fault(f, fx_exec(f, LA), X86_PF_, 0x15);
    assert_int_equal(fx_read(f, LA, 1, NULL), FX_NO_FAULT);
}

static void implicit_accesses_ignore_ac_under_smap(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->cr4 |= X86_CR4_SMAP;
    f->s->rflags |= X86_AC;
    soft_mode_changed(f->c);
    fx_map(f, LA, FX_GDT, 12, P | W | U);
    f->s->gdt.base = LA;
    fx_assert_fault(f, fx_load(f, X86_DS, FX_DATA), X86_PF_, 1);
    assert_int_equal(f->s->cr2, LA + FX_DATA);
}

/* --- the TLB --- */

/* Maps LA to one of two pages with known contents. */
static void map_page(struct fixture *f, unsigned n, u64 flags)
{
    fx_poke(f, FX_FREE, 0x11, 8);
    fx_poke(f, FX_FREE + 0x1000, 0x22, 8);
    fx_map(f, LA, FX_FREE + n * 0x1000, 12, P | W | flags);
}

static u64 value_at(struct fixture *f, u64 la)
{
    u64 v = 0;
    assert_int_equal(fx_read(f, la, 8, &v), FX_NO_FAULT);
    return v;
}

static void stale_translation_until_invlpg(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    map_page(f, 0, 0);
    assert_int_equal(value_at(f, LA), 0x11);
    map_page(f, 1, 0);
    assert_int_equal(value_at(f, LA), 0x11);
    soft_tlb_invlpg(f->c, LA + 0x123);
    assert_int_equal(value_at(f, LA), 0x22);
}

static void cr3_write_flushes_all_but_globals(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    map_page(f, 0, 0);
    assert_int_equal(value_at(f, LA), 0x11);
    map_page(f, 1, G);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x22); /* enters as a global page */
    map_page(f, 0, 0);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x22);
    f->s->cr4 |= X86_CR4_PGE;
    assert_int_equal(fx_write_cr(f, 4, f->s->cr4 & ~X86_CR4_PGE), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x11);
}

static void global_pages_keep_their_permissions_by_class(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    map_page(f, 0, G);
    assert_int_equal(value_at(f, LA), 0x11);
    fx_set_cpl(f, 3);
    fx_assert_fault(f, fx_read(f, LA, 8, NULL), X86_PF_, 5);
}

static void pcids_keep_apart(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_write_cr(f, 4, f->s->cr4 | X86_CR4_PCIDE), FX_NO_FAULT);
    map_page(f, 0, 0);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 1), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x11);
    map_page(f, 1, 0);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 2 | BIT(63)), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x22);
}

static void global_page_of_the_supervisor_needs_no_walk_after_a_switch(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_write_cr(f, 4, f->s->cr4 | X86_CR4_PCIDE), FX_NO_FAULT);
    map_page(f, 0, G);
    assert_int_equal(value_at(f, LA), 0x11);
    u64 tag = soft_tlb_entry(f->c, LA)->read[0];
    assert_int_equal(tag, LA | f->c->ctx);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 2), FX_NO_FAULT);
    assert_int_equal(tag, LA | f->c->ctx);
    assert_int_equal(soft_tlb_entry(f->c, LA)->read[0], tag);
}

static void many_private_pages_go_with_their_space(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_write_cr(f, 4, f->s->cr4 | X86_CR4_PCIDE), FX_NO_FAULT);
    map_page(f, 0, 0);
    for (unsigned n = 0; n < 2 * SOFT_TLB_SIZE; n++) { /* more often than there are entries */
        assert_int_equal(value_at(f, LA), 0x11);
        soft_tlb_invlpg(f->c, LA);
    }
    assert_int_equal(value_at(f, LA), 0x11);
    map_page(f, 1, 0);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 2), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x22);
}

static void cr3_bit_63_keeps_the_entries(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_write_cr(f, 4, f->s->cr4 | X86_CR4_PCIDE), FX_NO_FAULT);
    map_page(f, 0, 0);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 1), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x11);
    map_page(f, 1, 0);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 2 | BIT(63)), FX_NO_FAULT);
    assert_int_equal(fx_write_cr(f, 3, FX_TABLES | 1 | BIT(63)), FX_NO_FAULT);
    assert_int_equal(value_at(f, LA), 0x11);
    assert_int_equal(f->s->cr3, FX_TABLES | 1);
    soft_tlb_flush_pcid(f->c, 1);
    assert_int_equal(value_at(f, LA), 0x22);
}

static void invlpg_drops_every_piece_of_a_large_page(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_map(f, 0x40000000, 0x200000, 21, P | W | PS);
    fx_poke(f, 0x212340, 0x33, 8);
    fx_poke(f, 0x412340, 0x44, 8);
    assert_int_equal(value_at(f, 0x40000000), 0);
    assert_int_equal(value_at(f, 0x40012340), 0x33);
    fx_map(f, 0x40000000, 0x400000, 21, P | W | PS);
    soft_tlb_invlpg(f->c, 0x401ff000);
    assert_int_equal(value_at(f, 0x40012340), 0x44);
}

static void contexts_run_out_and_start_over(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    for (unsigned i = 0; i < 10000; i++) {
        map_page(f, i & 1, 0);
        assert_int_equal(fx_write_cr(f, 3, FX_TABLES), FX_NO_FAULT);
        assert_int_equal(value_at(f, LA), i & 1 ? 0x22 : 0x11);
    }
}

static void dirty_bit_is_set_by_the_first_write(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    map_page(f, 0, 0);
    u64 pdpt = fx_peek(f, FX_TABLES, 8) & PAGE_MASK, pd = fx_peek(f, pdpt + 8, 8) & PAGE_MASK;
    u64 pte = (fx_peek(f, pd, 8) & PAGE_MASK) + 8;
    value_at(f, LA);
    assert_int_equal(fx_peek(f, pte, 8) & (A | D), A);
    assert_int_equal(fx_write(f, LA, 5, 8), FX_NO_FAULT);
    assert_int_equal(fx_peek(f, pte, 8) & (A | D), A | D);
    assert_int_equal(fx_peek(f, FX_FREE, 8), 5);
}

/* --- accesses --- */

static void crossing_accesses_assemble_both_pages(void **state)
{
    struct fixture *f = *state;
    u64 v;
    fx_long(f, 0);
    fx_map(f, LA, FX_FREE + 0x3000, 12, P | W);
    fx_map(f, LA + 0x1000, FX_FREE, 12, P | W);
    for (unsigned size = 2; size <= 8; size *= 2) {
        for (unsigned before = 1; before < size; before++) {
            u64 mask = MASK(size * 8), pattern = 0x8877665544332211 & mask;
            assert_int_equal(fx_write(f, LA + 0x1000 - before, pattern, size), FX_NO_FAULT);
            assert_int_equal(fx_peek(f, FX_FREE + 0x4000 - before, before), pattern & MASK(before * 8));
            assert_int_equal(fx_peek(f, FX_FREE, size - before), pattern >> (8 * before));
            assert_int_equal(fx_read(f, LA + 0x1000 - before, size, &v), FX_NO_FAULT);
            assert_int_equal(v, pattern);
        }
    }
}

static void crossing_write_that_faults_changes_nothing(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_map(f, LA, FX_FREE, 12, P | W);
    fx_map(f, LA + 0x1000, FX_FREE + 0x1000, 12, P);
    fx_poke(f, FX_FREE + 0xff8, 0xaaaaaaaaaaaaaaaa, 8);
    fx_assert_fault(f, fx_write(f, LA + 0xffc, 0x1111111111111111, 8), X86_PF_, 3);
    assert_int_equal(f->s->cr2, LA + 0x1000);
    assert_int_equal(fx_peek(f, FX_FREE + 0xff8, 8), 0xaaaaaaaaaaaaaaaa);
}

static void write_bytes_checks_both_pages_first(struct soft_cpu *c, void *arg)
{
    soft_write_bytes(c, LA + 0xf00, arg, 0x200);
}

static void long_write_that_faults_changes_nothing(void **state)
{
    static u8 bytes[0x200] = {[0 ... 0x1ff] = 0x55};
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_map(f, LA, FX_FREE, 12, P | W);
    fx_assert_fault(f, fx_try(f, write_bytes_checks_both_pages_first, bytes), X86_PF_, 2);
    assert_int_equal(f->s->cr2, LA + 0x1000);
    assert_int_equal(fx_peek(f, FX_FREE + 0xf00, 8), 0);
    fx_map(f, LA + 0x1000, FX_FREE + 0x3000, 12, P | W);
    assert_int_equal(fx_try(f, write_bytes_checks_both_pages_first, bytes), FX_NO_FAULT);
    assert_int_equal(fx_peek(f, FX_FREE + 0xff8, 8), 0x5555555555555555);
    assert_int_equal(fx_peek(f, FX_FREE + 0x30f8, 8), 0x5555555555555555);
}

static void addresses_wrap_at_4g_outside_64_bit_mode(void **state)
{
    struct fixture *f = *state;
    fx_protected(f, 0);
    fx_poke(f, 0, 0x77, 1);
    u64 v = 0;
    assert_int_equal(fx_read(f, 0xffffffff, 2, &v), FX_NO_FAULT);
    assert_int_equal(v, 0x77ff); /* nothing is mapped at the top: all ones */
}

static void non_canonical_is_gp(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    fx_assert_fault(f, fx_read(f, 0x0000800000000000, 1, NULL), X86_GP, 0);
    fx_assert_fault(f, fx_exec(f, 0xffff7fffffffffff), X86_GP, 0);
}

static void alignment_check_only_at_cpl3_with_ac_and_am(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 3);
    f->s->cr0 |= X86_CR0_AM;
    assert_int_equal(fx_read(f, FX_FREE + 1, 4, NULL), FX_NO_FAULT);
    f->s->rflags |= X86_AC;
    soft_mode_changed(f->c);
    fx_assert_fault(f, fx_read(f, FX_FREE + 1, 4, NULL), X86_AC_, 0);
    fx_assert_fault(f, fx_write(f, FX_FREE + 4, 0, 8), X86_AC_, 0);
    assert_int_equal(fx_read(f, FX_FREE + 1, 1, NULL), FX_NO_FAULT);
    assert_int_equal(fx_read(f, FX_FREE + 4, 4, NULL), FX_NO_FAULT);
    fx_set_cpl(f, 0);
    assert_int_equal(fx_read(f, FX_FREE + 1, 4, NULL), FX_NO_FAULT);
}

static void writes_to_code_pages_are_noted_and_stop_the_block(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    assert_int_equal(fx_write(f, FX_FREE, 1, 8), FX_NO_FAULT); /* a write tag exists */
    assert_true(memory_mark_code(&f->memory, FX_FREE));
    soft_tlb_protect(f->c, FX_FREE);
    u32 gen = memory_code_gen(&f->memory, FX_FREE);
    f->c->stop_block = false;
    assert_int_equal(fx_write(f, FX_FREE + 16, 2, 8), FX_NO_FAULT);
    assert_int_equal(fx_peek(f, FX_FREE + 16, 8), 2);
    assert_int_not_equal(memory_code_gen(&f->memory, FX_FREE), gen);
    assert_true(f->c->stop_block);
    gen = memory_code_gen(&f->memory, FX_FREE);
    f->c->stop_block = false;
    assert_int_equal(fx_write(f, FX_FREE + 0x1000, 2, 8), FX_NO_FAULT);
    assert_int_equal(memory_code_gen(&f->memory, FX_FREE), gen);
    assert_false(f->c->stop_block);
}

static void writes_are_direct_again_once_a_page_is_untracked(void **state)
{
    struct fixture *f = *state;
    const struct soft_tlb_entry *e = soft_tlb_entry(f->c, FX_FREE);
    fx_long(f, 0);
    memory_mark_code(&f->memory, FX_FREE);
    assert_int_equal(fx_write(f, FX_FREE, 1, 8), FX_NO_FAULT);
    assert_true(e->write[0] == SOFT_TLB_NONE);
    memory_unmark_code(&f->memory, FX_FREE);
    assert_int_equal(fx_write(f, FX_FREE, 1, 8), FX_NO_FAULT);
    assert_true(e->write[0] == (FX_FREE | f->c->ctx));
}

static void take_pointers(struct soft_cpu *c, void *arg)
{
    void **p = arg;
    unsigned len;
    p[0] = soft_atomic_ptr(c, FX_FREE + 8, 8);
    p[1] = soft_atomic_ptr(c, FX_FREE + 0xffc, 8);
    p[2] = soft_atomic_ptr(c, FX_FREE + 0x1000, 8);
    p[3] = soft_page_ptr(c, FX_FREE + 0x1234, SOFT_READ, &len);
    p[4] = soft_page_ptr(c, FX_FREE + 0x1000, SOFT_WRITE, &len);
}

static void host_pointers_only_where_writes_need_no_notice(void **state)
{
    struct fixture *f = *state;
    void *p[5];
    fx_long(f, 0);
    memory_mark_code(&f->memory, FX_FREE + 0x1000);
    assert_int_equal(fx_try(f, take_pointers, p), FX_NO_FAULT);
    assert_ptr_equal(p[0], f->memory.ram + FX_FREE + 8);
    assert_null(p[1]);
    assert_null(p[2]);
    assert_ptr_equal(p[3], f->memory.ram + FX_FREE + 0x1234);
    assert_null(p[4]);
}

static void dirty_log_sees_the_first_write_to_each_page(void **state)
{
    struct fixture *f = *state;
    u64 bitmap[FX_RAM / PAGE_SIZE / 64] = {0};
    fx_long(f, 0);
    assert_int_equal(fx_write(f, FX_FREE, 1, 8), FX_NO_FAULT);
    memory_dirty_log_start(&f->memory);
    soft_tlb_flush_all(f->c, true);
    assert_int_equal(fx_write(f, FX_FREE + 0x5000, 1, 8), FX_NO_FAULT);
    assert_int_equal(fx_write(f, FX_FREE + 0x5008, 1, 8), FX_NO_FAULT);
    memory_dirty_log_fetch(&f->memory, bitmap);
    u64 page = (FX_FREE + 0x5000) / PAGE_SIZE;
    assert_true(bitmap[page / 64] & BIT(page % 64));
    page = FX_FREE / PAGE_SIZE;
    assert_false(bitmap[page / 64] & BIT(page % 64));
}

static void fetch_stops_before_a_faulting_page(void **state)
{
    struct fixture *f = *state;
    u8 buf[15];
    fx_long(f, 0);
    fx_map(f, LA, FX_FREE, 12, P);
    fx_poke(f, FX_FREE + 0xff8, 0x0807060504030201, 8);
    assert_int_equal(soft_fetch(f->c, LA + 0xffa, buf, 15), 6);
    assert_int_equal(buf[0], 3);
    fx_map(f, LA + 0x1000, FX_FREE + 0x1000, 12, P);
    assert_int_equal(soft_fetch(f->c, LA + 0xffa, buf, 15), 15);
}

static void data_breakpoints_become_traps(void **state)
{
    struct fixture *f = *state;
    fx_long(f, 0);
    f->s->dr[1] = FX_FREE + 8;
    f->s->dr7 = X86_DR7_FIXED | BIT(2) | 0xdull << 20; /* L1, write, 4 bytes */
    soft_mode_changed(f->c);
    assert_int_equal(fx_read(f, FX_FREE + 8, 8, NULL), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, 0);
    assert_int_equal(fx_write(f, FX_FREE + 12, 0, 4), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, 0);
    assert_int_equal(fx_write(f, FX_FREE + 11, 0, 1), FX_NO_FAULT);
    assert_int_equal(f->s->pending_db, 2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(walk_without_paging_is_identity),
        T(walk_legacy_4k_translates_and_marks),
        T(walk_failed_changes_nothing),
        T(walk_legacy_4m_uses_pse36_bits),
        T(walk_legacy_ignores_ps_without_pse),
        T(walk_pae_translates_4k_and_2m),
        T(walk_pae_reserves_bits),
        T(pdptes_are_checked_at_cr3_load),
        T(walk_long_translates_each_size),
        T(walk_long_reserves_bits_of_large_pages),
        T(peek_sees_without_marking),
        T(permissions_by_mode),
        T(restrictive_upper_levels_win),
        T(implicit_accesses_ignore_ac_under_smap),
        T(stale_translation_until_invlpg),
        T(cr3_write_flushes_all_but_globals),
        T(global_pages_keep_their_permissions_by_class),
        T(pcids_keep_apart),
        T(global_page_of_the_supervisor_needs_no_walk_after_a_switch),
        T(many_private_pages_go_with_their_space),
        T(cr3_bit_63_keeps_the_entries),
        T(invlpg_drops_every_piece_of_a_large_page),
        T(contexts_run_out_and_start_over),
        T(dirty_bit_is_set_by_the_first_write),
        T(crossing_accesses_assemble_both_pages),
        T(crossing_write_that_faults_changes_nothing),
        T(long_write_that_faults_changes_nothing),
        T(addresses_wrap_at_4g_outside_64_bit_mode),
        T(non_canonical_is_gp),
        T(alignment_check_only_at_cpl3_with_ac_and_am),
        T(writes_to_code_pages_are_noted_and_stop_the_block),
        T(writes_are_direct_again_once_a_page_is_untracked),
        T(host_pointers_only_where_writes_need_no_notice),
        T(dirty_log_sees_the_first_write_to_each_page),
        T(fetch_stops_before_a_faulting_page),
        T(data_breakpoints_become_traps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
