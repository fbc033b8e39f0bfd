/*
 * A guest that is out to break its machine: two CPUs execute noise, in states that no system would be
 * in, on a whole PC. Whatever they do, the process lives, and they stop within bounded time when asked
 * to. TRAPEZE_ROUNDS in the environment makes it longer, TRAPEZE_SEED makes it another guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/parse.h"
#include "machine/pc-internal.h"

#define RAM_SIZE (8ull << 20)
#define GDT 0x1000ull
#define IDT32 0x2000ull
#define IDT64 0x3000ull
#define TSS 0x5000ull
#define TSS64 0x5800ull
#define HANDLERS 0x6000ull
#define PML4 0x10000ull
#define PDPT 0x11000ull
#define PD 0x12000ull /* four pages */
#define CODE 0x100000ull
#define CODE_SIZE 0x40000u
#define STACK 0x300000ull

static u64 seed;

static u64 next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static unsigned below(unsigned n)
{
    return (unsigned)(next_random() % n);
}

static bool one_in(unsigned n)
{
    return below(n) == 0;
}

/* --- noise that decodes: the opcodes that matter, between random bytes --- */

static const char *const snippets[] = {
    "\x0f",         "\x66",     "\xf3",         "\xf2",         "\xf0",         "\x48",     "\x4f",
    "\xc5",         "\xc4\xe2", "\x62\xf1",     "\x66\x0f",     "\xf3\x0f",     "\xf3\xa4", "\xf3\xab",
    "\xf3\x48\xa5", "\xf2\xae", "\xf3\x6c",     "\xf3\x6f",     "\xcd",         "\xcf",     "\x48\xcf",
    "\xcb",         "\xfa",     "\xfb",         "\xf4",         "\xec",         "\xee",     "\xe4",
    "\xe7",         "\xef",     "\x8e\xd0",     "\x8e\xd8",     "\x8e",         "\xea",     "\x9a",
    "\xff",         "\x0f\x22", "\x0f\x20",     "\x0f\x23",     "\x0f\x21",     "\x0f\x30", "\x0f\x32",
    "\x0f\x01",     "\x0f\x00", "\x0f\x05",     "\x0f\x07",     "\x0f\x34",     "\x0f\x35", "\x0f\xae",
    "\x48\x0f\xae", "\x0f\xc7", "\x48\x0f\xc7", "\x0f\xa2",     "\x9b\xdb",     "\xd9",     "\xdd",
    "\xdb",         "\xdf",     "\xf0\x0f\xb1", "\xf0\x87",     "\x9d",         "\x9c",     "\xc8",
    "\xc9",         "\xe8",     "\xeb",         "\x66\x0f\x38", "\x66\x0f\x3a", "\xc4\xe3", "\x0f\x0b",
    "\xf1",         "\xcc",
};

static void fill_code(struct memory *m)
{
    u8 *code = memory_span(m, CODE, CODE_SIZE);
    for (unsigned i = 0; i < CODE_SIZE;) {
        const char *s = snippets[below(ARRAY_SIZE(snippets))];
        for (; *s && i < CODE_SIZE; s++)
            code[i++] = (u8)*s;
        for (unsigned n = below(5); n && i < CODE_SIZE; n--)
            code[i++] = (u8)next_random();
    }
    memory_span_written(m, CODE, CODE_SIZE);
}

static u64 random_code(void)
{
    return CODE + below(CODE_SIZE);
}

/* --- tables for protected and long mode; the guest may spoil them, the next round makes them anew --- */

static void write64(struct memory *m, u64 gpa, u64 value)
{
    assert_int_equal(memory_write(m, gpa, &value, sizeof value), 0);
}

static void make_gdt(struct memory *m)
{
    static const u64 gdt[] = {
        0,
        0x00cf9b000000ffff, /* 08: code, 32 bits */
        0x00cf93000000ffff, /* 10: data */
        0x00af9b000000ffff, /* 18: code, 64 bits */
        0x00cffb000000ffff, /* 20: code of ring 3 */
        0x00cff3000000ffff, /* 28: data of ring 3 */
        0x00affb000000ffff, /* 30: code of ring 3, 64 bits */
        0x00009b000000ffff, /* 38: code, 16 bits */
        0x00008b0050000fff, /* 40: TSS */
        0,
        0x0000e40000080000, /* 50: call gate of ring 3 to offset 0 of 08 */
        0x0000e50000400000, /* 58: task gate */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(gdt); i++)
        write64(m, GDT + i * 8, gdt[i]);
}

/* Handlers that step over one byte of what faulted, so that the noise goes on. */
static void make_handlers(struct memory *m)
{
    static const u8 code[4][16] = {
        {0x83, 0x04, 0x24, 0x01, 0xcf},                                     /* add dword [esp], 1; iret */
        {0x83, 0xc4, 0x04, 0x83, 0x04, 0x24, 0x01, 0xcf},                   /* after add esp, 4 */
        {0x48, 0x83, 0x04, 0x24, 0x01, 0x48, 0xcf},                         /* add qword [rsp], 1; iretq */
        {0x48, 0x83, 0xc4, 0x08, 0x48, 0x83, 0x04, 0x24, 0x01, 0x48, 0xcf}, /* after add rsp, 8 */
    };
    assert_int_equal(memory_write(m, HANDLERS, code, sizeof code), 0);
}

static bool has_error_code(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void make_gate(struct memory *m, unsigned v, bool wide)
{
    u64 to = one_in(32) ? random_code() : HANDLERS + 16 * (wide * 2 + has_error_code(v));
    u64 type = v == 3 || v == 4 || one_in(4) ? 0xee : 0x8e;
    u64 low = (to & 0xffff) | type << 40 | (to >> 16 & 0xffff) << 48;
    if (!wide) {
        write64(m, IDT32 + v * 8, low | 0x08 << 16);
        return;
    }
    write64(m, IDT64 + v * 16, low | 0x18 << 16 | (u64)!one_in(8) << 32);
    write64(m, IDT64 + v * 16 + 8, 0);
}

static void make_idts(struct memory *m)
{
    make_handlers(m);
    for (unsigned v = 0; v < 256; v++) {
        make_gate(m, v, false);
        make_gate(m, v, true);
    }
}

static void make_tss(struct memory *m)
{
    for (unsigned i = 0; i < 0x68; i += 8) {
        write64(m, TSS + i, one_in(8) ? next_random() : STACK);
        write64(m, TSS64 + 4 + i, one_in(32) ? next_random() : STACK - 0x1000);
    }
    write64(m, TSS + 4, STACK | 0x10ull << 32); /* ESP0, SS0 */
}

static void make_page_tables(struct memory *m)
{
    for (unsigned i = 0; i < 512; i++)
        write64(m, PML4 + i * 8, i == 0 || i == 511 ? PDPT | 7 : 0);
    for (unsigned i = 0; i < 512; i++)
        write64(m, PDPT + i * 8, i < 4 ? (PD + i * 0x1000) | 7 : 0);
    for (u64 i = 0; i < 2048; i++)
        write64(m, PD + i * 8, i << 21 | (one_in(64) ? next_random() & 0x3ff : 0xe7));
}

/* --- states --- */

static struct x86_segment flat_segment(u16 selector, u32 type, u32 more)
{
    return (struct x86_segment){.selector = selector,
                                .limit = 0xffffffff,
                                .attr = X86_ATTR_P | X86_ATTR_S | X86_ATTR_RW | X86_ATTR_ACCESSED |
                                        X86_ATTR_G | type | more};
}

static void set_protected(struct x86_state *s, bool user)
{
    u32 dpl = user ? 3u << X86_ATTR_DPL_SHIFT : 0;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        s->seg[i] = flat_segment(user ? 0x2b : 0x10, 0, X86_ATTR_DB | dpl);
    s->seg[X86_CS] = flat_segment(user ? 0x23 : 0x08, X86_ATTR_CODE, X86_ATTR_DB | dpl);
    s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_MP;
    s->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    s->gdt = (struct x86_table){GDT, 0xfff};
    s->idt = (struct x86_table){IDT32, 0x7ff};
    s->tr = (struct x86_segment){.selector = 0x40, .base = TSS, .limit = 0xfff, .attr = X86_ATTR_P | 0xb};
}

static void set_long(struct x86_state *s, bool user)
{
    set_protected(s, user);
    s->seg[X86_CS].attr = (s->seg[X86_CS].attr & ~X86_ATTR_DB) | X86_ATTR_L;
    s->seg[X86_CS].selector = user ? 0x33 : 0x18;
    s->tr.base = TSS64;
    s->cr3 = PML4;
    s->cr4 |= X86_CR4_PAE | X86_CR4_OSXSAVE;
    s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    s->cr0 |= X86_CR0_PG;
    s->idt = (struct x86_table){IDT64, 0xfff};
    s->lstar = random_code();
    s->star = 0x0020001800000000;
}

static void set_real(struct x86_state *s)
{
    s->seg[X86_CS].base = CODE - 0x10000 + (next_random() & 0x1fff0);
    s->idt.base = CODE;
}

static void set_registers(struct x86_state *s)
{
    for (unsigned i = 0; i < 16; i++) {
        static const u64 nasty[] = {0,      1, ~0ull, 1ull << 63, 0xfee00000, 0xfec00000, 0xffff800000000000,
                                    0xa0000};
        s->gpr[i] = one_in(3) ? nasty[below(ARRAY_SIZE(nasty))] : next_random() & (RAM_SIZE - 1);
    }
    if (!one_in(8))
        s->gpr[X86_RSP] = STACK;
    s->rflags = X86_FLAG1 | (next_random() & X86_ARITH) | (one_in(2) ? X86_IF : 0) |
                (one_in(16) ? X86_TF : 0) | (one_in(4) ? X86_DF : 0) | (one_in(8) ? X86_IOPL : 0) |
                (one_in(8) ? X86_AC : 0);
}

/* A random value for one field in forty. */
static void forge(const struct state_desc *desc, u8 *object)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        for (u32 i = 0; i < f->count; i++) {
            u8 *at = object + f->offset + (size_t)i * f->size;
            if (f->kind == FIELD_KIND_STRUCT)
                forge(f->desc, at);
            else if (one_in(40))
                for (u32 k = 0; k < f->size; k++)
                    at[k] = (u8)next_random();
        }
    }
}

static void make_state(struct x86_state *s, u64 xcr0)
{
    x86_state_reset(s, true);
    s->xcr0 = xcr0;
    s->fpu.ftw = (u8)next_random();
    switch (below(6)) {
    case 0: set_real(s); break;
    case 1: set_protected(s, false); break;
    case 2: set_protected(s, true); break;
    case 3: set_long(s, true); break;
    default: set_long(s, false); break;
    }
    set_registers(s);
    s->rip = x86_protected(s) ? random_code() : below(0x10000);
    if (one_in(3)) {
        struct x86_state forged = *s;
        forge(&x86_state_desc, (u8 *)&forged);
        forged.xcr0 = xcr0; /* what the host lacks is refused before a state comes to an engine */
        if (x86_state_desc.post_load(&forged, 1, NULL) == 0)
            *s = forged;
    }
}

/* --- the machine --- */

static u8 image[64];
static char path[] = "kernel";

static struct pc *make_pc(struct event_loop *loop, struct boot_source *boot)
{
    static const u64 entry = 0x200000;
    u32 header[8] = {0x1badb002, 0x10000, 0, (u32)entry, (u32)entry, (u32)entry + 64, 0, (u32)entry};
    header[2] = 0u - header[0] - header[1];
    memcpy(image, header, sizeof header);
    *boot =
        (struct boot_source){.kernel = {.data = image, .size = sizeof image, .path = path}, .cmdline = ""};
    struct pc_config config = {
        .name = "hostile",
        .engine = &interpret_engine,
        .cpu_model = "host",
        .cpus = 2,
        .memory = RAM_SIZE,
        .console = "none",
        .virtio_console = "none",
    };
    struct error err = {0};
    struct pc *pc = pc_new(&config, boot, loop, &err);
    if (!pc)
        fail_msg("%s", err.text);
    return pc;
}

static void make_round(struct pc *pc)
{
    struct memory *m = &pc->memory;
    assert_int_equal(pc_power_on(pc, NULL), 0);
    fill_code(m);
    make_gdt(m);
    make_idts(m);
    make_tss(m);
    make_page_tables(m);
    for (unsigned i = 0; i < pc->vm.vcpu_count; i++) {
        make_state(&pc->vm.vcpus[i]->state, pc->cpuid.xcr0_mask);
        pc->vm.engine->state_changed(pc->vm.vcpus[i]);
    }
}

static bool all_quiet(struct pc *pc)
{
    if (atomic_load(&pc->ended))
        return true;
    for (unsigned i = 0; i < pc->vm.vcpu_count; i++) {
        if (!atomic_load(&pc->vm.vcpus[i]->sleeping))
            return false;
    }
    return true;
}

static u64 rounds_wanted(void)
{
    const char *s = getenv("TRAPEZE_ROUNDS"), *seed_text = getenv("TRAPEZE_SEED");
    u64 n = 150;
    if (s)
        assert_int_equal(parse_u64(s, &n), 0);
    seed = 0x9e3779b97f4a7c15;
    if (seed_text)
        assert_int_equal(parse_u64(seed_text, &seed), 0);
    return n;
}

static void noise_does_not_break_the_machine(void **state)
{
    struct boot_source boot;
    struct event_loop *loop = event_loop_new(NULL);
    struct pc *pc = make_pc(loop, &boot);
    struct counters sum;
    vm_pause(&pc->vm);
    assert_int_equal(vm_start(&pc->vm, NULL), 0);
    for (u64 n = rounds_wanted(); n; n--) {
        u64 round_seed = seed;
        (void)round_seed; /* to be seen in a debugger: start there with TRAPEZE_SEED */
        make_round(pc);
        atomic_store(&pc->ended, false);
        vm_resume(&pc->vm);
        for (unsigned i = 0; i < 8 && !all_quiet(pc); i++)
            event_loop_poll(loop, 200 * NS_PER_US);
        vm_pause(&pc->vm);
    }
    vm_stop(&pc->vm);
    pc_counters(pc, &sum);
    assert_true(sum.insns > 0);
    if (getenv("TRAPEZE_ROUNDS"))
        counters_print(&sum, stderr);
    pc_free(pc);
    event_loop_free(loop);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_does_not_break_the_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
