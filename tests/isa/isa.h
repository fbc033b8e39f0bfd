/*
 * The differential test of instructions: the host CPU is the oracle.
 *
 * A case is some code, a register file and the contents of a data window. native.c runs it on the
 * host in a child process; guest.c runs it at CPL 3 under one of our engines, at the same linear
 * addresses and with the same page permissions; both end in an exception (an INT3 stands behind the
 * code), and registers, flags, vector state, memory, vector, error code and CR2 must then be equal.
 *
 * gen.c makes the cases: it enumerates every encoding that decodes and draws operands at random.
 */
#ifndef TRAPEZE_TESTS_ISA_H
#define TRAPEZE_TESTS_ISA_H

#include <Zydis/Zydis.h>

#include "cpu/engine.h"
#include "x86/cpuid.h"
#include "x86/regs.h"

/* Linear addresses, the same on the host and in the guest. Nothing else nearby is mapped. */
#define ISA_CODE 0x10000000ull /* one page, read and execute, filled with INT3 */
#define ISA_DATA 0x20000000ull /* the window: two pages, read and write */
#define ISA_DATA_SIZE 0x2000u
#define ISA_RO 0x20010000ull /* one page, read only, zero */

#define ISA_MAX_CODE 256

struct isa_state {
    u64 gpr[16];
    u64 rip, rflags;
    u64 cr2; /* only with vector 14 */
    u32 vector, error;
    u16 fcw, fsw;
    u8 ftw; /* abridged */
    u32 mxcsr;
    u8 st[8][16];
    u8 vec[32][64];
    u64 k[8];
};

struct isa_patch {
    u32 offset; /* into the window */
    u64 value;
};

struct isa_case {
    u8 code[ISA_MAX_CODE];
    u32 len;
    bool mode32; /* compatibility mode */
    struct isa_state in;
    struct isa_patch patch[4]; /* over the batch's window contents */
    u32 patches;
    u8 gathered, gathered_size; /* a gather's destination and its bytes; or size 0 */
    u64 flags_undefined;        /* RFLAGS bits that the manual leaves open afterwards */
    ZydisMnemonic mnemonic;
};

struct isa_result {
    struct isa_state out;
    u8 data[ISA_DATA_SIZE];
};

#define ISA_BATCH 256

struct isa_batch {
    u8 data[ISA_DATA_SIZE]; /* the window at the start of each case */
    u32 count;
    struct isa_case cases[ISA_BATCH];
    struct isa_result results[ISA_BATCH]; /* of the host */
};

/* The window of @c at its start. */
void isa_case_data(const struct isa_batch *b, const struct isa_case *c, u8 data[ISA_DATA_SIZE]);

/* --- native.c --- */

/* Allocates the shared batch and starts the child. Exits on failure. */
struct isa_batch *native_start(void);

/* Runs every case of the batch; false when the child died or hung at case *at (it is started again). */
bool native_batch(struct isa_batch *b, u32 *at);
void native_stop(void);

/* Which of XCR0's components the host saves for us. */
u64 native_xfeatures(void);

/* --- guest.c --- */

struct isa_guest;
struct isa_guest *isa_guest_new(const struct engine_ops *engine, const struct cpuid_table *cpuid);
void isa_guest_free(struct isa_guest *g);
/* How many blocks the translator made. */
u64 isa_guest_translated(const struct isa_guest *g);
void isa_guest_run(struct isa_guest *g, const struct isa_batch *b, const struct isa_case *c,
                   struct isa_result *out);

/* --- gen.c --- */

struct isa_generator;

/* Enumerates all forms for 64-bit or 32-bit mode that @cpuid offers (or, with @absent, does not). */
struct isa_generator *isa_generator_new(const struct cpuid_table *cpuid, bool mode32, bool absent, u64 seed);
void isa_generator_free(struct isa_generator *g);
u32 isa_form_count(const struct isa_generator *g);
ZydisMnemonic isa_form_mnemonic(const struct isa_generator *g, u32 n);

/* A case of form @n with random operands and state; false when that form cannot be tested (excluded). */
bool isa_generate(struct isa_generator *g, u32 n, struct isa_case *c);

/* A case of up to @length random instructions. */
void isa_generate_stream(struct isa_generator *g, unsigned length, struct isa_case *c);

/* Fills the window of a batch. */
void isa_generate_data(struct isa_generator *g, struct isa_batch *b);

/* Why a mnemonic is not compared with the host, or NULL. */
const char *isa_exclusion(ZydisMnemonic m);

/* Calls @visit for each mnemonic that has forms, with the number of cases made of it so far. */
void isa_coverage(const struct isa_generator *g, void (*visit)(ZydisMnemonic m, u64 cases, void *arg),
                  void *arg);

#endif
