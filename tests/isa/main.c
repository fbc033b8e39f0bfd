/*
 * isa: compares an engine with the host CPU, instruction by instruction.
 *
 *     isa [--engine NAME] [--cpu MODEL] [--mode 64|32] [--enumerate N] [--random N] [--absent N] [--seed S]
 *         [--list FILE] [--only MNEMONIC] [--verbose]
 *
 * --enumerate N runs every form N times alone; --random N runs N random instructions in streams. --absent N
 * runs every form that the CPU model lacks N times, under the engine only: each is #UD.
 * --list writes which mnemonics were covered and which are left out, and why. Each difference is
 * printed with what is needed to run it again (--seed). Exit status 1 when there was a difference or
 * a mnemonic without a case.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "isa.h"
#include "machine/engines.h"
#include "soft/features.h"
#include "soft/native.h"

#define EXIT_SKIPPED 77 /* for meson: the host lacks what the model offers */

struct options {
    const char *engine, *cpu, *list, *only;
    bool mode32, verbose;
    u32 enumerate, absent;
    u64 random, seed;
};

struct run {
    const struct options *opt;
    struct isa_generator *gen;
    struct isa_guest *guest;
    struct isa_batch *batch;
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    u64 cases, instructions, differences, hangs;
    u64 reserved, orders; /* differences that are the host's alone: zen4() */
    u32 by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

static const char *const gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void print_code(const struct run *r, const struct isa_case *c)
{
    u64 rip = c->in.rip;
    for (u32 at = 0; at < c->len;) {
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&r->decoder, c->code + at, c->len - at, &insn, ops))) {
            printf("    %8llx  ", (unsigned long long)(rip + at));
            while (at < c->len)
                printf("%02x", c->code[at++]);
            printf("  undefined\n");
            break;
        }
        insn_fix_operands(&insn, ops);
        char text[128];
        ZydisFormatterFormatInstruction(&r->formatter, &insn, ops, insn.operand_count_visible, text,
                                        sizeof text, rip + at, NULL);
        printf("    %8llx  ", (unsigned long long)(rip + at));
        for (unsigned i = 0; i < insn.length; i++)
            printf("%02x", c->code[at + i]);
        printf("  %s\n", text);
        at += insn.length;
    }
}

static void differ(bool print, bool *different, const char *what, u64 host, u64 ours, u64 start)
{
    if (host == ours)
        return;
    *different = true;
    if (print)
        printf("      %-8s host %016llx  ours %016llx  start %016llx\n", what, (unsigned long long)host,
               (unsigned long long)ours, (unsigned long long)start);
}

static void differ_bytes(bool print, bool *different, const char *what, int n, const u8 *host, const u8 *ours,
                         const u8 *start, unsigned len)
{
    for (unsigned i = 0; i < len; i += 8) {
        u64 h = 0, o = 0, s = 0;
        unsigned part = MIN(8u, len - i);
        memcpy(&h, host + i, part);
        memcpy(&o, ours + i, part);
        memcpy(&s, start + i, part);
        char name[32];
        (void)snprintf(name, sizeof name, "%s%d+%u", what, n, i);
        differ(print, different, name, h, o, s);
    }
}

/* Before a fault Intel's processors may clear what is above a gather's vector, or leave it. */
static unsigned compared_size(const struct isa_case *c, const struct isa_state *host, int reg)
{
    return c->gathered_size && c->gathered == reg && host->vector != X86_BP ? c->gathered_size : 64;
}

static bool compare(const struct run *r, const struct isa_case *c, const struct isa_result *host,
                    const struct isa_result *ours, bool print)
{
    const struct isa_state *h = &host->out, *o = &ours->out, *s = &c->in;
    bool d = false;
    differ(print, &d, "vector", h->vector, o->vector, 0);
    /* For addresses of the kernel's half Linux tells every process "present". */
    u32 error_mask = h->vector == 14 && h->cr2 >> 47 ? ~1u : ~0u;
    if (h->vector == 14 || h->vector == 13 || h->vector == 12)
        differ(print, &d, "error", h->error & error_mask, o->error & error_mask, 0);
    if (h->vector == 14)
        differ(print, &d, "cr2", h->cr2, o->cr2, 0);
    differ(print, &d, "rip", h->rip, o->rip, s->rip);
    u64 flags = ~c->flags_undefined & ~X86_RF;
    differ(print, &d, "rflags", h->rflags & flags, o->rflags & flags, s->rflags & flags);
    /* What 32-bit code leaves in the upper halves is undefined (SDM vol. 1, 3.4.1.1). */
    u64 visible = c->mode32 ? MASK(32) : ~0ull;
    for (int i = 0; i < 16; i++)
        differ(print, &d, gpr_names[i], h->gpr[i] & visible, o->gpr[i] & visible, s->gpr[i]);
    differ(print, &d, "fcw", h->fcw, o->fcw, s->fcw);
    differ(print, &d, "fsw", h->fsw, o->fsw, s->fsw);
    differ(print, &d, "ftw", h->ftw, o->ftw, s->ftw);
    differ(print, &d, "mxcsr", h->mxcsr, o->mxcsr, s->mxcsr);
    for (int i = 0; i < 8; i++) {
        differ_bytes(print, &d, "st", i, h->st[i], o->st[i], s->st[i], 10);
        differ(print, &d, "k", h->k[i], o->k[i], s->k[i]);
    }
    for (int i = 0; i < (native_xfeatures() & 0x80 ? 32 : 16); i++)
        differ_bytes(print, &d, "zmm", i, h->vec[i], o->vec[i], s->vec[i], compared_size(c, h, i));
    if (memcmp(host->data, ours->data, ISA_DATA_SIZE) != 0) {
        static u8 start[ISA_DATA_SIZE];
        isa_case_data(r->batch, c, start);
        unsigned shown = 0;
        for (u32 i = 0; i < ISA_DATA_SIZE && shown < 4; i += 8)
            if (memcmp(host->data + i, ours->data + i, 8) != 0)
                differ_bytes(print, &d, "memory", (int)i, host->data + i, ours->data + i, start + i, 8),
                    shown++;
    }
    return !d;
}

/* --- what is this host's alone --- */

/*
 * AMD's family 19h executes encodings whose reserved fields are not what the manual demands (EVEX.b without
 * rounding, EVEX.V' in 32-bit code, mask registers beyond the seventh), where other processors raise #UD; and
 * of the faults of CMPS, which reads twice, it may raise the other one.
 */
static bool zen4(void)
{
    u32 a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    bool amd = b == 0x68747541 && d == 0x69746e65 && c == 0x444d4163; /* AuthenticAMD */
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    u32 family = (a >> 8 & 15) + (a >> 20 & 0xff);
    return amd && family == 0x19;
}

/* The instruction at @rip, or ZYDIS_MNEMONIC_INVALID. */
static ZydisMnemonic mnemonic_at(const struct run *r, const struct isa_case *c, u64 rip)
{
    ZydisDecodedInstruction insn;
    u64 at = rip - c->in.rip;
    if (at >= c->len ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&r->decoder, NULL, c->code + at, c->len - at, &insn)))
        return ZYDIS_MNEMONIC_INVALID;
    return insn.mnemonic;
}

static bool is_cmps(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_CMPSB || m == ZYDIS_MNEMONIC_CMPSW || m == ZYDIS_MNEMONIC_CMPSD ||
           m == ZYDIS_MNEMONIC_CMPSQ;
}

static bool is_memory_fault(u32 vector)
{
    return vector >= 12 && vector <= 14;
}

/* Counts it. */
static bool hosts_alone(struct run *r, const struct isa_case *c, const struct isa_state *host,
                        const struct isa_state *ours)
{
    ZydisMnemonic m = mnemonic_at(r, c, ours->rip);
    bool reserved = ours->vector == 6 && host->vector != 6 && m == ZYDIS_MNEMONIC_INVALID;
    bool order = is_cmps(m) && host->rip == ours->rip && is_memory_fault(host->vector) &&
                 is_memory_fault(ours->vector);
    if (!(reserved || order) || !zen4())
        return false;
    r->reserved += reserved;
    r->orders += order;
    return true;
}

static void report(struct run *r, const struct isa_case *c, const struct isa_result *host,
                   const struct isa_result *ours)
{
    r->differences++;
    u32 *seen = &r->by_mnemonic[c->mnemonic], most = r->opt->verbose ? 20 : 2;
    if (c->mnemonic == ZYDIS_MNEMONIC_INVALID)
        most = 100;
    if ((*seen)++ >= most || r->differences > 2000)
        return;
    printf("  difference in %s\n", c->mnemonic ? ZydisMnemonicGetString(c->mnemonic) : "a stream");
    print_code(r, c);
    compare(r, c, host, ours, true);
}

static void flush_batch(struct run *r)
{
    u32 at;
    if (!native_batch(r->batch, &at)) {
        printf("  the host's child died or hung in:\n");
        print_code(r, &r->batch->cases[at]);
        r->hangs++;
        r->batch->count = at; /* those before it have results */
    }
    static struct isa_result ours;
    for (u32 i = 0; i < r->batch->count; i++) {
        const struct isa_case *c = &r->batch->cases[i];
        isa_guest_run(r->guest, r->batch, c, &ours);
        if (!compare(r, c, &r->batch->results[i], &ours, false) &&
            !hosts_alone(r, c, &r->batch->results[i].out, &ours.out))
            report(r, c, &r->batch->results[i], &ours);
    }
    r->cases += r->batch->count;
    r->batch->count = 0;
    isa_generate_data(r->gen, r->batch);
}

static struct isa_case *next_case(struct run *r)
{
    if (r->batch->count == ISA_BATCH)
        flush_batch(r);
    return &r->batch->cases[r->batch->count];
}

static void enumerate(struct run *r)
{
    for (u32 n = 0; n < isa_form_count(r->gen); n++) {
        if (r->opt->only && strcmp(ZydisMnemonicGetString(isa_form_mnemonic(r->gen, n)), r->opt->only) != 0)
            continue;
        for (u32 i = 0; i < r->opt->enumerate; i++) {
            struct isa_case *c = next_case(r);
            if (!isa_generate(r->gen, n, c))
                continue;
            r->batch->count++;
            r->instructions++;
        }
    }
    flush_batch(r);
}

/* What the model does not offer: undefined before any operand is looked at. */
static void absent(struct run *r)
{
    static struct isa_result ours;
    for (u32 n = 0; n < isa_form_count(r->gen); n++) {
        for (u32 i = 0; i < r->opt->absent; i++) {
            struct isa_case *c = &r->batch->cases[0];
            if (!isa_generate(r->gen, n, c))
                continue;
            isa_guest_run(r->guest, r->batch, c, &ours);
            r->cases++;
            r->instructions++;
            if (ours.out.vector == X86_UD && ours.out.rip == c->in.rip)
                continue;
            r->differences++;
            printf("  vector %u, not #UD, from %s\n", ours.out.vector, ZydisMnemonicGetString(c->mnemonic));
            print_code(r, c);
        }
    }
}

static void randomised(struct run *r)
{
    for (u64 done = 0; done < r->opt->random; done += 8) {
        struct isa_case *c = next_case(r);
        isa_generate_stream(r->gen, 8, c);
        r->batch->count++;
        r->instructions += 8;
    }
    flush_batch(r);
}

struct listing {
    FILE *out;
    u32 covered, uncovered;
};

static void list_mnemonic(ZydisMnemonic m, u64 cases, void *arg)
{
    struct listing *l = arg;
    if (cases)
        l->covered++;
    else
        l->uncovered++;
    if (!cases)
        printf("  no case for %s\n", ZydisMnemonicGetString(m));
    if (l->out)
        (void)fprintf(l->out, "%-20s %llu\n", ZydisMnemonicGetString(m), (unsigned long long)cases);
}

static u32 list_coverage(struct run *r)
{
    struct listing l = {.out = r->opt->list ? fopen(r->opt->list, "w") : NULL};
    isa_coverage(r->gen, list_mnemonic, &l);
    if (l.out) {
        for (int m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
            if (isa_exclusion((ZydisMnemonic)m))
                (void)fprintf(l.out, "%-20s left out: %s\n", ZydisMnemonicGetString((ZydisMnemonic)m),
                              isa_exclusion((ZydisMnemonic)m));
        (void)fclose(l.out);
    }
    printf("%u mnemonics covered, %u without a case\n", l.covered, l.uncovered);
    return l.uncovered;
}

static void parse_options(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(a, "--engine"))
            o->engine = v, i++;
        else if (!strcmp(a, "--cpu"))
            o->cpu = v, i++;
        else if (!strcmp(a, "--absent"))
            o->absent = (u32)strtoul(v, NULL, 0), i++;
        else if (!strcmp(a, "--mode"))
            o->mode32 = !strcmp(v, "32"), i++;
        else if (!strcmp(a, "--enumerate"))
            o->enumerate = (u32)strtoul(v, NULL, 0), i++;
        else if (!strcmp(a, "--random"))
            o->random = strtoull(v, NULL, 0), i++;
        else if (!strcmp(a, "--seed"))
            o->seed = strtoull(v, NULL, 0), i++;
        else if (!strcmp(a, "--list"))
            o->list = v, i++;
        else if (!strcmp(a, "--only"))
            o->only = v, i++;
        else if (!strcmp(a, "--verbose"))
            o->verbose = true;
        else {
            (void)fprintf(stderr, "isa: unknown option '%s'\n", a);
            exit(2);
        }
    }
}

/* A test of the translator must not be one of the interpreter: under `fail=2` half of the blocks are its. */
static bool translated_enough(const struct run *r)
{
    u64 count = isa_guest_translated(r->guest);
    printf("%llu blocks translated%s\n", (unsigned long long)count,
           count < r->cases / 4 ? ", that is too few: TRAPEZE_TRANSLATE=hot?" : "");
    return count >= r->cases / 4;
}

int main(int argc, char **argv)
{
    struct options opt = {.engine = "interpret", .cpu = "host", .seed = clock_host_ns()};
    parse_options(&opt, argc, argv);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    printf("engine %s, %d-bit code, seed %llu\n", opt.engine, opt.mode32 ? 32 : 64,
           (unsigned long long)opt.seed);

    static struct run r;
    struct error err = {0};
    struct cpuid_table cpuid;
    const struct engine_ops *engine = engine_find(opt.engine, &err);
    if (!engine) {
        (void)fprintf(stderr, "isa: %s\n", err.text);
        return 2;
    }
    r.opt = &opt;
    r.batch = native_start();
    if (cpuid_build(&cpuid, opt.cpu, 1, clock_tsc_khz(), &err) != 0) {
        (void)fprintf(stderr, "isa: %s\n", err.text);
        return EXIT_SKIPPED;
    }
    if ((engine->limit_cpuid && engine->limit_cpuid(&cpuid, false, &err) != 0) ||
        native_install_signals(&err) != 0) {
        (void)fprintf(stderr, "isa: %s\n", err.text);
        return 2;
    }
    r.gen = isa_generator_new(&cpuid, opt.mode32, opt.absent, opt.seed);
    r.guest = isa_guest_new(engine, &cpuid);
    insn_decoder_init(&r.decoder, &cpuid,
                      opt.mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
                      opt.mode32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&r.formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    isa_generate_data(r.gen, r.batch);
    printf("%u forms\n", isa_form_count(r.gen));

    if (opt.absent) {
        absent(&r);
    } else {
        enumerate(&r);
        randomised(&r);
    }
    u32 uncovered = opt.enumerate && !opt.only && !opt.absent ? list_coverage(&r) : 0;
    printf("%llu cases, %llu instructions, %llu differences, %llu hangs\n", (unsigned long long)r.cases,
           (unsigned long long)r.instructions, (unsigned long long)r.differences,
           (unsigned long long)r.hangs);
    if (r.reserved || r.orders)
        printf("not counted: %llu reserved encodings that this host executes, %llu faults of CMPS in its "
               "order\n",
               (unsigned long long)r.reserved, (unsigned long long)r.orders);
    bool interpreted = !strcmp(opt.engine, "translate") && !translated_enough(&r);
    native_stop();
    isa_guest_free(r.guest);
    isa_generator_free(r.gen);
    return r.differences || r.hangs || uncovered || interpreted ? 1 : 0;
}
