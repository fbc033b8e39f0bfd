/*
 * The cache of stubs, the choice of what may run natively, and running it. The memory that holds
 * their code is a memfd mapped twice, writable here and executable there, so that no page is both.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "soft/features.h"
#include "soft/native-internal.h"

#define CODE_SIZE (16u << 20)
#define STUBS_MAX (1u << 16)
#define BUCKETS (1u << 15)
#define NO_STUB (~0u)

struct native_cache {
    u8 bounce[256] ALIGNED(64);
    const struct cpuid_table *cpuid;
    struct native_code code;
    u8 *code_start;
    void *exec;
    struct native_stub *stubs;
    u32 count;
    bool avx, avx512; /* of the host */

    /* Units that can be used (bit enum native_unit) while the state below is the vCPU's. */
    u32 usable, usable_mode;
    u64 usable_cr0, usable_cr4, usable_xcr0;
    u32 bucket[BUCKETS];
};

/* --- the cache --- */

static int map_code(struct native_cache *n, struct error *err)
{
    CLEANUP_CLOSE int fd = memfd_create("trapeze-stubs", MFD_CLOEXEC);

    if (fd < 0)
        return error_set_errno(err, errno, "cannot create a memory file for stubs");
    if (ftruncate(fd, CODE_SIZE))
        return error_set_errno(err, errno, "cannot size the memory file for stubs");
    n->code_start = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    n->exec = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    n->stubs = mmap(NULL, STUBS_MAX * sizeof *n->stubs, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (n->code_start == MAP_FAILED || n->exec == MAP_FAILED || (void *)n->stubs == MAP_FAILED)
        return error_set_errno(err, errno, "cannot map memory for stubs");
    return 0;
}

void native_cache_reset(struct native_cache *n)
{
    n->count = 0;
    n->code = (struct native_code){.at = n->code_start,
                                   .end = n->code_start + CODE_SIZE,
                                   .to_exec = (u8 *)n->exec - n->code_start,
                                   .avx = n->avx,
                                   .avx512 = n->avx512};
    memset(n->bucket, 0xff, sizeof n->bucket);
}

struct native_cache *native_cache_new(const struct cpuid_table *cpuid, struct error *err)
{
    struct native_cache *n = aligned_alloc(64, ALIGN_UP(sizeof *n, 64ul));

    if (!n) {
        error_set(err, ENOMEM, "cannot allocate the stub cache");
        return NULL;
    }
    memset(n, 0, sizeof *n);
    n->cpuid = cpuid;
    n->code_start = n->exec = MAP_FAILED;
    n->stubs = MAP_FAILED;
    /* __builtin_cpu_supports() also asks whether the system enables the registers. */
    n->avx = __builtin_cpu_supports("avx");
    n->avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (map_code(n, err)) {
        native_cache_free(n);
        return NULL;
    }
    native_cache_reset(n);
    return n;
}

void native_cache_free(struct native_cache *n)
{
    if (!n)
        return;
    if (n->code_start != MAP_FAILED)
        munmap(n->code_start, CODE_SIZE);
    if (n->exec != MAP_FAILED)
        munmap(n->exec, CODE_SIZE);
    if ((void *)n->stubs != MAP_FAILED)
        munmap(n->stubs, STUBS_MAX * sizeof *n->stubs);
    free(n);
}

bool native_cache_full(const struct native_cache *n)
{
    return n->count + NATIVE_RESERVE > STUBS_MAX ||
           (size_t)(n->code.end - n->code.at) < NATIVE_RESERVE * (size_t)NATIVE_CODE_MAX;
}

bool native_uses_flags(const struct native_stub *stub)
{
    return stub->flags;
}

u8 *native_bounce(struct native_cache *n, u64 la)
{
    u8 *at = n->bounce + 64 + (la & 63);

    memset(at, 0, NATIVE_OPERAND_MAX);
    return at;
}

/* --- what may run natively: only what is listed here --- */

static bool is_vector_extension(ZydisISAExt ext)
{
    switch (ext) {
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX: return true;
    default: return false;
    }
}

/*
 * Base instructions that compute on general registers. In 64-bit mode, where stubs run, some of the
 * one-byte opcodes mean something else or nothing, so of those only what a 64-bit guest uses.
 */
static bool is_plain_base(const ZydisDecodedInstruction *insn)
{
    if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
        ((insn->opcode & 0xf0) == 0x40 || insn->opcode == 0x63 || insn->opcode == 0x82))
        return false;
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_CONVERT: return true;
    case ZYDIS_CATEGORY_BITBYTE:
        /* BT and its kin with a register offset reach beyond their operand. */
        return (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) &&
               (insn->raw.modrm.mod == 3 || insn->raw.imm[0].size || insn->mnemonic == ZYDIS_MNEMONIC_BSF ||
                insn->mnemonic == ZYDIS_MNEMONIC_BSR);
    default: break;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_BSWAP: return true;
    default: return false;
    }
}

static bool is_plain_gpr(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.isa_ext) {
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_ADOX_ADCX:
    case ZYDIS_ISA_EXT_MOVBE:
    case ZYDIS_ISA_EXT_RDRAND:
    case ZYDIS_ISA_EXT_RDSEED:
    case ZYDIS_ISA_EXT_PAUSE: return true;
    case ZYDIS_ISA_EXT_BASE: return is_plain_base(insn);
    default: return false;
    }
}

static bool is_allowed(const ZydisDecodedInstruction *insn)
{
    if (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        return false;
    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX && insn->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
        return false;
    if (insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE || insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64)
        return false;
    return is_vector_extension(insn->meta.isa_ext) || is_plain_gpr(insn);
}

/* From memory to a general register, too. */
static bool is_sse_conversion(const ZydisDecodedInstruction *insn)
{
    return insn->meta.category == ZYDIS_CATEGORY_CONVERT &&
           (insn->meta.isa_ext == ZYDIS_ISA_EXT_SSE || insn->meta.isa_ext == ZYDIS_ISA_EXT_SSE2);
}

static enum native_unit unit_of(const ZydisDecodedInstruction *insn, const struct native_regs *r)
{
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || insn->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
        return NATIVE_UNIT_AVX512;
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return is_vector_extension(insn->meta.isa_ext) ? NATIVE_UNIT_AVX : NATIVE_UNIT_VEX_GPR;
    if (insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
        return NATIVE_UNIT_X87_WAIT;
    if (native_is_x87(insn))
        return NATIVE_UNIT_X87;
    if (r->vec || insn->meta.isa_set == ZYDIS_ISA_SET_SSEMXCSR || is_sse_conversion(insn))
        return NATIVE_UNIT_SSE;
    return r->mm || insn->mnemonic == ZYDIS_MNEMONIC_EMMS ? NATIVE_UNIT_MMX : NATIVE_UNIT_GPR;
}

/* --- the state that a unit needs --- */

struct unit_rule {
    u64 cr0_mask, cr0_value; /* else */
    u64 cr4, xcr0;           /* all of these */
    bool protected;          /* and not virtual-8086 */
};

static const struct unit_rule rules[NATIVE_UNIT_COUNT] = {
    [NATIVE_UNIT_VEX_GPR] = {.protected = true},
    [NATIVE_UNIT_X87] = {.cr0_mask = X86_CR0_EM | X86_CR0_TS},
    [NATIVE_UNIT_X87_WAIT] = {.cr0_mask = X86_CR0_TS}, /* the exact rule is in the slow path */
    [NATIVE_UNIT_MMX] = {.cr0_mask = X86_CR0_EM | X86_CR0_TS},
    [NATIVE_UNIT_SSE] = {.cr0_mask = X86_CR0_EM | X86_CR0_TS, .cr4 = X86_CR4_OSFXSR},
    [NATIVE_UNIT_AVX] = {.cr0_mask = X86_CR0_TS,
                         .cr4 = X86_CR4_OSXSAVE,
                         .xcr0 = X86_XCR0_SSE | X86_XCR0_AVX,
                         .protected = true},
    [NATIVE_UNIT_AVX512] = {.cr0_mask = X86_CR0_TS,
                            .cr4 = X86_CR4_OSXSAVE,
                            .xcr0 = X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512,
                            .protected = true},
};

static bool unit_usable(const struct x86_state *s, enum native_unit unit)
{
    const struct unit_rule *rule = &rules[unit];

    return !(s->cr0 & rule->cr0_mask) && !(rule->cr4 & ~s->cr4) && !(rule->xcr0 & ~s->xcr0) &&
           (!rule->protected || (x86_protected(s) && !x86_v8086(s)));
}

/* Some condition does not hold: raises the exception it gives, if any. */
static void refuse_unit(struct soft_cpu *c, enum native_unit unit)
{
    const struct unit_rule *rule = &rules[unit];
    const struct x86_state *s = c->s;

    if (rule->protected && (!x86_protected(s) || x86_v8086(s)))
        soft_ud(c);
    if ((s->cr4 & rule->cr4) != rule->cr4 || (s->xcr0 & rule->xcr0) != rule->xcr0)
        soft_ud(c);
    if (unit == NATIVE_UNIT_X87_WAIT) {
        if ((s->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS))
            soft_raise(c, X86_NM);
        return;
    }
    if ((s->cr0 & rule->cr0_mask & X86_CR0_EM) && unit != NATIVE_UNIT_X87)
        soft_ud(c);
    if (s->cr0 & rule->cr0_mask)
        soft_raise(c, X86_NM);
}

static NOINLINE void check_unit_anew(struct soft_cpu *c, struct native_cache *n, enum native_unit unit)
{
    const struct x86_state *s = c->s;

    n->usable = 0;
    n->usable_cr0 = s->cr0;
    n->usable_cr4 = s->cr4;
    n->usable_xcr0 = s->xcr0;
    n->usable_mode = c->mode;
    for (unsigned u = 0; u < NATIVE_UNIT_COUNT; u++)
        n->usable |= (u32)unit_usable(s, u) << u;
    if (!(n->usable >> unit & 1))
        refuse_unit(c, unit);
}

static ALWAYS_INLINE void check_unit(struct soft_cpu *c, const struct native_stub *stub)
{
    struct native_cache *n = stub->cache;
    const struct x86_state *s = c->s;

    if (unlikely(!(n->usable >> stub->unit & 1) || s->cr0 != n->usable_cr0 || s->cr4 != n->usable_cr4 ||
                 s->xcr0 != n->usable_xcr0 || c->mode != n->usable_mode))
        check_unit_anew(c, n, stub->unit);
}

void native_check_unit(struct soft_cpu *c, const struct native_stub *stub)
{
    check_unit(c, stub);
    if (unlikely((stub->x87 || stub->mmx) && (c->s->fpu.fsw & X87_FSW_ES)))
        soft_raise(c, X86_MF);
}

/* --- running --- */

static NOINLINE NORETURN void raise_trap(struct soft_cpu *c)
{
    unsigned trap = native_last_trap();

    switch (trap) {
    case X86_GP:
    case X86_SS_: soft_gp0(c);
    case X86_XM:
        if (!(c->s->cr4 & X86_CR4_OSXMMEXCPT))
            soft_ud(c);
        soft_raise(c, X86_XM);
    case X86_AC_: soft_raise_err(c, X86_AC_, 0);
    case X86_DE:
    case X86_UD:
    case X86_MF: soft_raise(c, (enum x86_vector)trap);
    default: BUG();
    }
}

static ALWAYS_INLINE bool call(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    bool faulted;

    native_running = stub;
    faulted = stub->code(c->s, mem);
    native_running = NULL;
    return faulted;
}

/*
 * The host checks the alignment where the guest's flags say so: the operand, and the buffer that
 * stands for it, have the guest's low address bits. Everything else that a stub touches is aligned.
 */
static NOINLINE bool call_aligned(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    bool faulted;

    __asm__ volatile("sub $128, %%rsp; pushfq; orl %0, (%%rsp); popfq; add $128, %%rsp"
                     :
                     : "i"(X86_AC)
                     : "memory", "cc");
    faulted = call(c, stub, mem);
    __asm__ volatile("sub $128, %%rsp; pushfq; andl %0, (%%rsp); popfq; add $128, %%rsp"
                     :
                     : "i"(~(int)X86_AC)
                     : "memory", "cc");
    return faulted;
}

static bool call_any(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    return unlikely(native_alignment_armed(c)) ? call_aligned(c, stub, mem) : call(c, stub, mem);
}

/*
 * MMX instructions make TOP 0 and every register valid (SDM vol. 1, 9.5.1). The hardware has done
 * that already when a conversion raises #XM; other faults leave all as it was.
 */
static bool call_mmx(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    struct x86_fpu *f = &c->s->fpu;
    unsigned top = x87_top(f);
    bool faulted;

    x87_set_top(f, 0);
    faulted = call_any(c, stub, mem);
    if (faulted && native_last_trap() != X86_XM)
        x87_set_top(f, top);
    else
        f->ftw = 0xff;
    return faulted;
}

void native_execute_whole(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    if (unlikely(stub->mmx ? call_mmx(c, stub, mem) : call_any(c, stub, mem)))
        raise_trap(c);
}

void native_execute(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    c->vcpu->counters.native_stubs++;
    if (stub->x87)
        native_execute_x87(c, stub, mem);
    else
        native_execute_whole(c, stub, mem);
}

static ALWAYS_INLINE void execute_plain(struct soft_cpu *c, const struct native_stub *stub, void *mem)
{
    c->vcpu->counters.native_stubs++;
    if (unlikely(call(c, stub, mem)))
        raise_trap(c);
}

static void run_plain_register(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    (void)la;
    check_unit(c, stub);
    execute_plain(c, stub, NULL);
}

static void run_register(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    (void)la;
    native_check_unit(c, stub);
    native_execute(c, stub, NULL);
}

/* Executes on nothing to see whether the host raises #AC, and takes everything back. */
static void try_alignment(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    struct x86_state *s = c->s;
    struct x86_fpu fpu = s->fpu;
    u64 gpr[16], rflags = s->rflags;
    bool faulted;

    memcpy(gpr, s->gpr, sizeof gpr);
    faulted = call_aligned(c, stub, native_bounce(stub->cache, la));
    s->fpu = fpu;
    memcpy(s->gpr, gpr, sizeof gpr);
    s->rflags = rflags;
    if (faulted && native_last_trap() == X86_AC_)
        raise_trap(c);
}

void native_check_alignment(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    if (unlikely(la & stub->align_mask))
        soft_gp0(c);
    if (unlikely(native_alignment_armed(c)) && stub->cache->cpuid->amd && x86_canonical(la) &&
        x86_canonical(la + stub->mem_size - 1))
        try_alignment(c, stub, la);
}

/* The operand is not RAM within one page: through a buffer. */
static NOINLINE void run_bounced(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    u8 *buf = native_bounce(stub->cache, la);

    /* A store of the x87 unit may leave the operand alone: on an unmasked exception. */
    if (native_reads(stub) || stub->x87)
        soft_read_bytes(c, la, buf, stub->mem_size);
    native_execute(c, stub, buf);
    if (native_writes(stub))
        soft_write_bytes(c, la, buf, stub->mem_size);
}

/* The TLB may just not know the page yet. */
static NOINLINE void *find_operand(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    native_check_alignment(c, stub, la);
    soft_probe(c, la, stub->mem_size, native_writes(stub) ? SOFT_WRITE : SOFT_READ);
    return native_direct(c, la, stub->mem_size, stub->mem_access);
}

static void run_memory(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    void *mem;

    native_check_unit(c, stub);
    mem = native_direct(c, la, stub->mem_size, stub->mem_access);
    if (unlikely(!mem))
        mem = find_operand(c, stub, la);
    if (likely(mem))
        native_execute(c, stub, mem);
    else
        run_bounced(c, stub, la);
}

static void run_plain_memory(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    void *mem;

    check_unit(c, stub);
    mem = native_direct(c, la, stub->mem_size, stub->mem_access);
    if (unlikely(!mem))
        mem = find_operand(c, stub, la);
    if (likely(mem))
        execute_plain(c, stub, mem);
    else
        run_bounced(c, stub, la);
}

/* The host's idea of the last instruction and operand is replaced by the guest's. */
static void run_x87(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    struct x86_fpu *f = &c->s->fpu;
    u64 fdp = stub->mem_size ? la : f->fdp;

    if (stub->mem_size)
        run_memory(c, stub, la);
    else
        run_register(c, stub, la);
    f->fip = c->insn_rip;
    f->fop = stub->fop;
    f->fdp = fdp;
}

void native_run(struct soft_cpu *c, const struct native_stub *stub, u64 la)
{
    stub->run(c, stub, la);
}

/* --- making stubs --- */

static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *insn,
                                                 const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &ops[i];
    return NULL;
}

/*
 * In bytes. The host raises #GP by itself, but only once the operand is there: this is for the order
 * of #GP and #PF. SDM vol. 2, tables 2-16 to 2-25 and 2-44 ("explicitly aligned").
 */
static u8 required_alignment(const ZydisDecodedInstruction *insn, u8 size)
{
    /* AMD's processors, other than the manuals, let SHA have any address. */
    if (insn->meta.isa_ext == ZYDIS_ISA_EXT_SHA)
        return 1;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return 1;
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI: return size;
    default: break;
    }
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4: return size == 16 ? 16 : 1;
    case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E1NF: return size;
    default: return 1;
    }
}

static bool describe_memory(struct native_stub *stub, const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *ops)
{
    const ZydisDecodedOperand *mem = memory_operand(insn, ops);

    if (!mem)
        return true;
    if (!(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) || mem->mem.type != ZYDIS_MEMOP_TYPE_MEM || !mem->size ||
        mem->size / 8 > NATIVE_OPERAND_MAX)
        return false;
    stub->mem_size = (u8)(mem->size / 8);
    if (mem->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        stub->mem_access |= BIT(SOFT_READ);
    if (mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        stub->mem_access |= BIT(SOFT_WRITE);
    native_describe_mask(stub, insn, ops, mem, stub->cache->cpuid->amd);
    if (stub->mask != NATIVE_MASK_SIGN && stub->mask != NATIVE_MASK_SIGN_MMX)
        stub->align_mask = required_alignment(insn, stub->mem_size) - 1;
    return stub->mem_access;
}

/* Everything but the code. */
static bool describe(struct native_stub *stub, const u8 *bytes, const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *ops, const struct native_regs *r)
{
    stub->unit = unit_of(insn, r);
    stub->mnemonic = insn->mnemonic;
    stub->operand_width = insn->operand_width;
    stub->run = native_control(insn);
    if (stub->run) {
        stub->mem_size = memory_operand(insn, ops) ? 1 : 0; /* control functions know their sizes */
        return true;
    }
    if (!describe_memory(stub, insn, ops))
        return false;
    stub->mmx = r->mm;
    stub->x87 = native_is_x87(insn);
    if (stub->mask)
        stub->run = native_run_masked;
    else if (stub->mmx)
        stub->run = stub->mem_size ? run_memory : run_register;
    else
        stub->run = stub->mem_size ? run_plain_memory : run_plain_register;
    if (stub->x87) {
        stub->run = run_x87;
        stub->fop = (u16)((insn->opcode & 7) << 8 | bytes[insn->raw.modrm.offset]);
    }
    return true;
}

static bool is_vsib(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    const ZydisDecodedOperand *mem = memory_operand(insn, ops);

    return mem && mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
}

static u32 hash_key(const struct native_stub *s)
{
    u32 h = 2166136261u ^ s->key_mode ^ (u32)s->key_extra << 8 ^ (u32)s->key_rsp << 16;

    for (unsigned i = 0; i < s->key_length; i++)
        h = (h ^ s->key[i]) * 16777619u;
    return h ^ h >> 15;
}

static const struct native_stub *find(const struct native_cache *n, const struct native_stub *key)
{
    for (u32 i = n->bucket[key->hash % BUCKETS]; i != NO_STUB; i = n->stubs[i].next) {
        const struct native_stub *s = &n->stubs[i];

        if (s->hash == key->hash && s->key_length == key->key_length && s->key_mode == key->key_mode &&
            s->key_extra == key->key_extra && s->key_rsp == key->key_rsp &&
            !memcmp(s->key, key->key, key->key_length))
            return s;
    }
    return NULL;
}

static const struct native_stub *insert(struct native_cache *n, const struct native_stub *stub)
{
    struct native_stub *s = &n->stubs[n->count];
    u32 *bucket = &n->bucket[stub->hash % BUCKETS];

    *s = *stub;
    s->next = *bucket;
    *bucket = n->count++;
    return s;
}

/*
 * The encoding as executed, and what it does not tell: the mode, the operand size of x87 environments,
 * and the register that stands for RSP.
 */
static void make_key(struct native_stub *stub, const ZydisDecodedInstruction *insn, const u8 *bytes,
                     unsigned length, u8 rsp_as)
{
    stub->key_length = (u8)length;
    memcpy(stub->key, bytes, length);
    stub->key_mode = (u8)insn->machine_mode;
    stub->key_extra = (u8)(insn->operand_width >> 4);
    stub->key_rsp = rsp_as;
    stub->hash = hash_key(stub);
}

static bool build(struct native_cache *n, struct native_stub *stub, const u8 *bytes,
                  const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
                  const struct native_regs *r, const struct native_encoding *e)
{
    stub->cache = n;
    if (is_vsib(insn, ops)) {
        stub->unit = unit_of(insn, r);
        stub->run = native_run_vsib;
        return native_describe_vsib(stub, insn, ops);
    }
    if (!describe(stub, bytes, insn, ops, r))
        return false;
    if (native_control(insn))
        return true;
    return native_emit(&n->code, stub, e, r, insn) &&
           (!stub->x87 ||
            !native_describe_x87(&stub->x87_shape, insn->opcode, bytes[insn->raw.modrm.offset],
                                 n->cpuid->amd) ||
            native_emit_x87(&n->code, stub, e, r, insn));
}

const struct native_stub *native_compile(struct native_cache *n, const u8 *bytes,
                                         const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    struct native_stub stub = {0};
    const struct native_stub *found;
    struct native_encoding e;
    struct native_regs r;

    if (!is_allowed(insn) || !insn_offered(n->cpuid, insn) || !native_registers(insn, ops, &r))
        return NULL;
    if (is_vsib(insn, ops)) {
        make_key(&stub, insn, bytes, insn->length, X86_RSP); /* with its address, and so as it is */
    } else {
        native_encode(bytes, insn, ops, &r, &e);
        make_key(&stub, insn, e.bytes, e.length, r.rsp_as);
    }
    found = find(n, &stub);
    if (found)
        return found;
    if (n->count == STUBS_MAX || !build(n, &stub, bytes, insn, ops, &r, &e))
        return NULL;
    return insert(n, &stub);
}
