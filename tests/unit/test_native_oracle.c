/*
 * Every encoding that native_compile() takes, with random operands and register contents, against the
 * same instruction executed by the host on the same register file. Opcode maps are enumerated, the
 * rest of each encoding is drawn from a fixed seed (or ORACLE_SEED, not zero).
 */
#include "host-oracle.h"
#include "interpret-fixture.h"
#include "soft/native.h"

struct bench {
    struct machine *m;
    struct oracle *o;
    struct native_cache *cache;
    ZydisDecoder decoder;
    u64 seed;
    unsigned ran, trapped;
    u64 memory; /* address of the memory operand, the same for host and guest */
};

static u64 rnd(struct bench *b)
{
    b->seed ^= b->seed << 13;
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return b->seed * 0x2545f4914f6cdd1dull;
}

static void map_page(struct machine *m, u64 la, u64 gpa)
{
    u64 *table = guest(m, TABLES_AT);
    static const u64 next[] = {TABLES_AT + 0x8000, TABLES_AT + 0x9000, TABLES_AT + 0xa000};

    for (unsigned level = 3; level > 0; level--) {
        u64 *entry = &table[la >> (12 + 9 * level) & 511];

        *entry = next[3 - level] | 7;
        table = guest(m, next[3 - level]);
    }
    table[la >> 12 & 511] = gpa | 7;
}

/* --- register contents --- */

static u32 some_float(struct bench *b)
{
    static const u32 special[] = {0, 0x80000000, 0x3f800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
                                  1, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xbf800000};

    return rnd(b) & 1 ? special[rnd(b) % ARRAY_SIZE(special)] : 0x3f000000 + (u32)(rnd(b) & 0x83ffffff);
}

static u64 some_qword(struct bench *b)
{
    static const u64 special[] = {0,    0x3ff0000000000000, 0x7ff0000000000000, 0x7ff8000000000000,
                                  1,    0xffffffff,         0xbff8000000000000, 0x7ff0000000000001,
                                  ~0ull};

    switch (rnd(b) & 3) {
    case 0: return rnd(b);
    case 1: return special[rnd(b) % ARRAY_SIZE(special)];
    case 2: return 0x4000000000000000 + (rnd(b) & 0x80ffffffffffffff);
    default: return (u64)some_float(b) << 32 | some_float(b);
    }
}

static void fill(struct bench *b, void *p, size_t len)
{
    for (size_t i = 0; i < len; i += 8)
        put_le64((u8 *)p + i, some_qword(b));
}

static void random_x87(struct bench *b, struct x86_fpu *f)
{
    f->fcw = 0x37f | (rnd(b) & 0xc00);
    if (!(rnd(b) & 7))
        f->fcw &= (u16) ~(rnd(b) & 0x3f);
    f->fsw = (rnd(b) & 0x3800) | (rnd(b) & 0x4700);
    f->ftw = rnd(b) & 1 ? (u8)rnd(b) : 0xff;
    for (unsigned i = 0; i < 8; i++) {
        put_le64(f->st[i], rnd(b) | BIT(63));
        put_le16(f->st[i] + 8, (u16)((rnd(b) & 0x803f) + 0x3fe0));
        memset(f->st[i] + 10, 0, 6);
    }
}

static void random_state(struct bench *b)
{
    struct x86_state *s = b->m->s;
    struct x86_fpu *f = &s->fpu;

    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = some_qword(b);
    b->memory = (u64)(uintptr_t)b->o->memory + 1024 + (rnd(b) & 7 ? 0 : 8 * (rnd(b) & 7));
    s->gpr[X86_RSI] = s->gpr[X86_R14] = b->memory;
    s->gpr[X86_RDI] = b->memory;
    s->rflags = X86_FLAG1 | (rnd(b) & X86_ARITH);
    fill(b, f->vec, sizeof f->vec);
    fill(b, f->k, sizeof f->k);
    if (!(b->m->cpuid.xcr0_mask & X86_XCR0_OPMASK)) {
        memset(f->k, 0, sizeof f->k);
        memset(f->vec[16], 0, 16 * 64);
        for (unsigned i = 0; i < 16; i++)
            memset(f->vec[i] + 32, 0, 32);
    }
    /* Indices for gathers: small as doublewords and as quadwords. */
    for (unsigned i = 0; i < 16; i++)
        put_le32(f->vec[7] + 4 * i, i & 1 ? 0 : (u32)(rnd(b) & 31));
    f->mxcsr = 0x1f80 | (rnd(b) & 0xe040);
    if (!(rnd(b) & 7))
        f->mxcsr &= ~(u32)(rnd(b) & 0x1f80);
    random_x87(b, f);
    fill(b, b->o->memory, sizeof b->o->memory);
    memcpy(guest(b->m, DATA_AT), b->o->memory, sizeof b->o->memory);
}

/* --- between x86_state and the XSAVE area --- */

static void move_area(const struct bench *b, u8 *area, struct x86_fpu *f, bool to_area)
{
    const struct cpuid_table *t = &b->m->cpuid;
    unsigned avx = cpuid_xsave_offset(t, 0, 2, false), k = cpuid_xsave_offset(t, 0, 5, false);
    unsigned hi256 = cpuid_xsave_offset(t, 0, 6, false), hi16 = cpuid_xsave_offset(t, 0, 7, false);
#define MOVE(a, r, n) memcpy(to_area ? (void *)(a) : (void *)(r), to_area ? (void *)(r) : (void *)(a), n)

    MOVE(area, f->fxsave, 6);
    MOVE(area + 24, &f->mxcsr, 4);
    MOVE(area + 32, f->st, sizeof f->st);
    for (unsigned i = 0; i < 16; i++) {
        MOVE(area + 160 + 16 * i, f->vec[i], 16);
        MOVE(area + avx + 16 * i, f->vec[i] + 16, 16);
        if (t->xcr0_mask & X86_XCR0_OPMASK) {
            MOVE(area + hi256 + 32 * i, f->vec[i] + 32, 32);
            MOVE(area + hi16 + 64 * i, f->vec[16 + i], 64);
        }
    }
    if (t->xcr0_mask & X86_XCR0_OPMASK)
        MOVE(area + k, f->k, sizeof f->k);
#undef MOVE
}

static void to_oracle(struct bench *b)
{
    struct oracle_state *in = &b->o->in;

    memset(in->xsave, 0, sizeof in->xsave);
    move_area(b, in->xsave, &b->m->s->fpu, true);
    put_le64(in->xsave + 512, b->o->mask);
    memcpy(in->gpr, b->m->s->gpr, sizeof in->gpr);
    in->rflags = b->m->s->rflags | X86_IF;
}

/* --- one instruction on both --- */

static u64 operand_address(const struct bench *b, const ZydisDecodedInstruction *insn,
                           const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            const u64 *gpr = b->m->s->gpr;
            u64 la = gpr[ZydisRegisterGetId(ops[i].mem.base)] + (u64)ops[i].mem.disp.value;

            return la;
        }
    return 0;
}

static int run_guest(struct bench *b, const struct native_stub *stub, u64 la)
{
    struct x86_state *s = b->m->s;

    s->exception_pending = 0;
    if (setjmp(b->m->cpu->fault)) {
        assert_true(s->exception_pending);
        return s->exception_vector;
    }
    native_run(b->m->cpu, stub, la);
    return ORACLE_NO_TRAP;
}

static void fail_at(const struct bench *b, const u8 *bytes, const ZydisDecodedInstruction *insn,
                    const char *what, u64 got, u64 want)
{
    char hex[64] = "";

    for (unsigned i = 0; i < insn->length; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    fail_msg("%s (%s): %s is %llx, the host has %llx", hex, ZydisMnemonicGetString(insn->mnemonic), what,
             (unsigned long long)got, (unsigned long long)want);
}

static void compare_bytes(const struct bench *b, const u8 *bytes, const ZydisDecodedInstruction *insn,
                          const char *what, unsigned number, const void *got, const void *want, size_t len)
{
    char name[64];

    for (size_t i = 0; i < len; i += 8) {
        u64 g = 0, w = 0;

        memcpy(&g, (const u8 *)got + i, MIN(len - i, 8ul));
        memcpy(&w, (const u8 *)want + i, MIN(len - i, 8ul));
        if (g == w)
            continue;
        snprintf(name, sizeof name, "%s%u byte %zu", what, number, i);
        fail_at(b, bytes, insn, name, g, w);
    }
}

static void compare(struct bench *b, const u8 *bytes, const ZydisDecodedInstruction *insn)
{
    const struct x86_state *s = b->m->s;
    struct oracle_state *out = &b->o->out;
    struct x86_fpu want;

    memset(&want, 0, sizeof want);
    move_area(b, out->xsave, &want, false);
    for (unsigned i = 0; i < 16; i++)
        compare_bytes(b, bytes, insn, "gpr", i, &s->gpr[i], &out->gpr[i], 8);
    if ((s->rflags ^ out->rflags) & X86_ARITH)
        fail_at(b, bytes, insn, "rflags", s->rflags & X86_ARITH, out->rflags & X86_ARITH);
    for (unsigned i = 0; i < 32; i++)
        compare_bytes(b, bytes, insn, "vec", i, s->fpu.vec[i], want.vec[i], 64);
    for (unsigned i = 0; i < 8; i++) {
        compare_bytes(b, bytes, insn, "k", i, &s->fpu.k[i], &want.k[i], 8);
        compare_bytes(b, bytes, insn, "st", i, s->fpu.st[i], want.st[i], 10);
    }
    compare_bytes(b, bytes, insn, "x87 control", 0, s->fpu.fxsave, want.fxsave, 5);
    compare_bytes(b, bytes, insn, "mxcsr", 0, &s->fpu.mxcsr, &want.mxcsr, 4);
    compare_bytes(b, bytes, insn, "memory", 0, guest(b->m, DATA_AT), b->o->memory, sizeof b->o->memory);
}

/* Results that are not the instruction's alone, or that struct x86_fpu does not hold. */
static bool not_comparable(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_PAUSE:   /* with REX.B it is XCHG, which Zydis does not know */
    case ZYDIS_MNEMONIC_LDMXCSR: /* the host may have one more bit */
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: return true;
    default: return false;
    }
}

static bool has_gpr_index(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[i].mem.type != ZYDIS_MEMOP_TYPE_VSIB &&
            ops[i].mem.index != ZYDIS_REGISTER_NONE)
            return true;
    return false;
}

static void try_bytes(struct bench *b, const u8 bytes[16])
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const struct native_stub *stub;
    int trap;

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&b->decoder, bytes, 15, &insn, ops)) ||
        not_comparable(insn.mnemonic))
        return;
    if (has_gpr_index(&insn, ops))
        return; /* meant for gathers */
    stub = native_compile(b->cache, bytes, &insn, ops);
    if (!stub) {
        if (native_cache_full(b->cache))
            native_cache_reset(b->cache);
        return;
    }
    random_state(b);
    to_oracle(b);
    oracle_run(b->o, bytes, insn.length);
    trap = run_guest(b, stub, operand_address(b, &insn, ops));
    if (trap != b->o->out.trap)
        fail_at(b, bytes, &insn, "trap", (u64)(i64)trap, (u64)(i64)b->o->out.trap);
    compare(b, bytes, &insn);
    b->ran++;
    b->trapped += trap >= 0;
}

/* --- enumeration --- */

/* ModRM for [rsi] or a register, with whatever follows it. */
static void put_modrm(struct bench *b, u8 *p, unsigned form, unsigned reg)
{
    for (unsigned i = 0; i < 8; i++)
        p[i] = (u8)rnd(b);
    if (form == 0)
        p[0] = (u8)(reg << 3 | 6);
    else if (form == 1)
        p[0] = (u8)(0xc0 | reg << 3 | (rnd(b) & 7));
    else {
        p[0] = (u8)(reg << 3 | 4);
        p[1] = (u8)((rnd(b) & 0xc0) | 7 << 3 | 6); /* [rsi + vec7 * scale] */
    }
}

static void try_legacy(struct bench *b, unsigned prefix, unsigned map, unsigned opcode)
{
    static const u8 prefixes[] = {0, 0x66, 0xf2, 0xf3};

    for (unsigned reg = 0; reg < 8; reg++)
        for (unsigned form = 0; form < 2; form++) {
            u8 bytes[24] = {0}, *p = bytes;
            unsigned rex = (rnd(b) & 3) == 0 ? 0 : (rnd(b) & 3) == 0 ? 0x48 : 0x40 | (rnd(b) & 15);

            if (prefix)
                *p++ = prefixes[prefix];
            if (rex)
                *p++ = (u8)rex;
            if (map > 0)
                *p++ = 0x0f;
            if (map > 1)
                *p++ = map == 2 ? 0x38 : 0x3a;
            *p++ = (u8)opcode;
            put_modrm(b, p, form, reg);
            try_bytes(b, bytes);
        }
}

/* cmocka puts its own handlers in place before each test. */
static void begin(void)
{
    assert_int_equal(native_install_signals(NULL), 0);
}

/* A prefix, or the first byte of another encoding. */
static bool leads_on(unsigned map, unsigned byte)
{
    if (map)
        return map == 1 && (byte == 0x38 || byte == 0x3a);
    return byte == 0x0f || (byte & 0xf0) == 0x40 || (byte & 0xe7) == 0x26 || (byte & 0xfc) == 0x64 ||
           byte == 0xf0 || byte == 0xf2 || byte == 0xf3 || byte == 0x62 || byte == 0xc4 || byte == 0xc5;
}

static void legacy_encodings_do_what_the_host_does(void **state)
{
    struct bench *b = *state;

    begin();
    for (unsigned map = 0; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned prefix = 0; prefix < 4 && !leads_on(map, opcode); prefix++)
                try_legacy(b, prefix, map, opcode);
    assert_in_range(b->ran, 3000, 1000000);
}

static void vex_encodings_do_what_the_host_does(void **state)
{
    struct bench *b = *state;

    begin();
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned n = 0; n < 96; n++) {
                u8 bytes[24] = {0xc4};

                /* R' X' B' map; W vvvv L pp, with vvvv mostly 1111, as what has no operand there wants */
                bytes[1] = (u8)((rnd(b) & 0x80) | 0x60 | map);
                bytes[2] = (u8)((n & 7) | (n & 8) << 4 | (rnd(b) & 1 ? 0x78 : rnd(b) & 0x78));
                bytes[3] = (u8)opcode;
                put_modrm(b, bytes + 4, n / 32, rnd(b) & 7);
                if (n / 32 == 1)
                    bytes[1] &= (u8) ~(rnd(b) & 0x20);
                try_bytes(b, bytes);
            }
    if (cpuid_has(&b->m->cpuid, CPUID_AVX2))
        assert_in_range(b->ran, 3000, 1000000);
}

static void evex_encodings_do_what_the_host_does(void **state)
{
    struct bench *b = *state;

    begin();
    for (unsigned map = 1; map <= 6; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned n = 0; n < 288; n++) {
                u8 bytes[24] = {0x62};
                unsigned form = n / 96;

                bytes[1] = (u8)((rnd(b) & 0x90) | 0x60 | map);
                bytes[2] = (u8)(4 | (n & 3) | (n & 4) << 5 | (rnd(b) & 1 ? 0x78 : rnd(b) & 0x78));
                bytes[3] = (u8)((n / 8 % 3) << 5 | 8); /* L'L, V' */
                if (n & 32)
                    bytes[3] |= rnd(b) & 7; /* aaa */
                if (n & 64)
                    bytes[3] |= rnd(b) & 0x90; /* z, b */
                bytes[4] = (u8)opcode;
                put_modrm(b, bytes + 5, form, rnd(b) & 7);
                if (form == 1)
                    bytes[1] &= (u8) ~(rnd(b) & 0x60);
                try_bytes(b, bytes);
            }
    if (cpuid_has(&b->m->cpuid, CPUID_AVX512F))
        assert_in_range(b->ran, 3000, 1000000);
}

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof *b);

    b->m = calloc(1, sizeof *b->m);
    machine_init(b->m);
    machine_mode64(b->m);
    b->m->s->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    b->m->s->xcr0 = b->m->cpuid.xcr0_mask;
    b->o = oracle_new();
    assert_non_null(b->o);
    for (unsigned i = 0; i < 2; i++)
        map_page(b->m, (u64)(uintptr_t)b->o->memory + i * PAGE_SIZE, DATA_AT + i * PAGE_SIZE);
    interpret_engine.state_changed(b->m->vcpu);
    b->cache = native_cache_new(&b->m->cpuid, NULL);
    assert_non_null(b->cache);
    ZydisDecoderInit(&b->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    b->seed = getenv("ORACLE_SEED") ? strtoull(getenv("ORACLE_SEED"), NULL, 0) : 0x9e3779b97f4a7c15;
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;

    print_message("# %u instructions compared, %u of them raised an exception\n", b->ran, b->trapped);
    native_cache_free(b->cache);
    machine_release(b->m);
    free(b->m);
    munmap(b->o, sizeof *b->o);
    free(b);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(legacy_encodings_do_what_the_host_does, setup, teardown),
        cmocka_unit_test_setup_teardown(vex_encodings_do_what_the_host_does, setup, teardown),
        cmocka_unit_test_setup_teardown(evex_encodings_do_what_the_host_does, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
