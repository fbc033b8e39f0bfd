/* The memory for machine code, and the code between translated blocks and C. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mapping.h"
#include "soft/translate/translate-internal.h"

/* T1. What compilers use least is far. */
const u8 translate_host_reg[16] = {
    [X86_RAX] = 13,      [X86_RCX] = 14,      [X86_RDX] = 15,      [X86_RBX] = 3,
    [X86_RSP] = 12,      [X86_RBP] = 11,      [X86_RSI] = 6,       [X86_RDI] = 7,
    [X86_R8] = 8,        [X86_R9] = 9,        [X86_R12] = 10,      [X86_R10] = FAR,
    [X86_R11] = FAR + 1, [X86_R13] = FAR + 2, [X86_R14] = FAR + 3, [X86_R15] = FAR + 4,
};

#define CPU(field) at(HOST_CPU, (i32)offsetof(struct soft_cpu, field))

static struct address guest_gpr(unsigned state, unsigned r)
{
    return at(state, (i32)(offsetof(struct x86_state, gpr) + 8 * r));
}

/* All guest registers to x86_state, which is in @state; @tmp is lost. */
static void spill(struct emit *e, unsigned state, unsigned tmp)
{
    for (unsigned r = 0; r < 16; r++) {
        bool far = translate_host_reg[r] >= FAR;
        if (far)
            emit_load(e, tmp, far_gpr(r));
        emit_store(e, guest_gpr(state, r), far ? tmp : translate_host_reg[r]);
    }
}

static void reload(struct emit *e, unsigned state, unsigned tmp)
{
    for (unsigned r = 0; r < 16; r++) {
        bool far = translate_host_reg[r] >= FAR;
        emit_load(e, far ? tmp : translate_host_reg[r], guest_gpr(state, r));
        if (far)
            emit_store(e, far_gpr(r), tmp);
    }
}

static const u8 saved[] = {3, 5, 12, 13, 14, 15};

static void push_pop(struct emit *e, u8 opcode, unsigned r)
{
    if (r >= 8)
        emit8(e, 0x41);
    emit8(e, (u8)(opcode | (r & 7)));
}

static void emit_return(struct emit *e)
{
    emit_op_ri(e, true, 0, HOST_SP, 8);
    for (unsigned n = ARRAY_SIZE(saved); n-- > 0;)
        push_pop(e, 0x58, saved[n]);
    emit8(e, 0xc3);
}

static void emit_enter(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    t->thunk.enter = (u32(*)(struct soft_cpu *, void *))(uintptr_t)(e->at + e->to_exec);
    for (unsigned n = 0; n < ARRAY_SIZE(saved); n++)
        push_pop(e, 0x50, saved[n]);
    emit_op_ri(e, true, 5, HOST_SP, 8);
    emit_mov(e, HOST_CPU, 7 /* rdi */);
    emit_mov(e, HOST_C, 6 /* rsi */);
    emit_store(e, CPU(host_sp), HOST_SP);
    emit_load(e, HOST_SP, CPU(shadow_sp));
    emit_load(e, HOST_D, CPU(s));
    reload(e, HOST_D, HOST_A);
    emit_bytes(e, "\xff\xe1", 2); /* jmp rcx */
}

static void emit_leave(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    t->thunk.leave = e->at;
    emit_save_flags(e);
    t->thunk.leave_saved = e->at;
    emit_vector_save(t);
    emit_op_rr(e, true, 0x63, HOST_A, HOST_C); /* movsxd rax, ecx */
    emit_op_rm(e, true, 0x03, HOST_A, CPU(page_rip));
    emit_load(e, HOST_C, CPU(s));
    emit_store(e, at(HOST_C, offsetof(struct x86_state, rip)), HOST_A);
    spill(e, HOST_C, HOST_A);
    emit_op_rr(e, false, 0x89, HOST_D, HOST_A);
    emit_store(e, CPU(shadow_sp), HOST_SP);
    emit_load(e, HOST_SP, CPU(host_sp));
    emit_return(e);
}

/* False: on to the run loop, or to other code. Raises. */
static bool run_handlers(struct soft_cpu *c, u32 id, u32 count)
{
    struct translate_cpu *t = container_of(c, struct translate_cpu, soft);
    for (;;) {
        struct handler_insn *h = handler_insn(t, id);
        c->vcpu->counters.handler_calls++;
        c->block_rip = c->page_rip + (id & (PAGE_SIZE - 1));
        struct insn *last = h->insn[0].fn(c, h->insn, c->s, 0);
        c->cur = NULL;
        if (last != &h->insn[1] || c->stop_block)
            return false;
        if (--count == 0)
            return true;
        id += h->insn[0].len;
    }
}

static void emit_handlers(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    t->thunk.handler = e->at;
    emit_mov_imm32(e, HOST_C, 1);
    t->thunk.handlers = e->at;
    emit_store(e, CPU(scratch[0]), HOST_A);
    emit_store(e, CPU(scratch[1]), HOST_C);
    emit_vector_save(t);
    emit_lea(e, HOST_C, at(HOST_SP, 8));
    emit_store(e, CPU(shadow_sp), HOST_C);
    emit_load(e, HOST_SP, CPU(host_sp));
    emit_load(e, HOST_D, CPU(s));
    spill(e, HOST_D, HOST_C);
    emit_load(e, 6 /* rsi */, CPU(scratch[0]));
    emit_load(e, HOST_D, CPU(scratch[1]));
    emit_mov(e, 7 /* rdi */, HOST_CPU);
    emit_mov_imm64(e, HOST_A, (u64)(uintptr_t)run_handlers);
    emit_bytes(e, "\xff\xd0", 2); /* call rax */
    emit_bytes(e, "\x84\xc0", 2); /* test al, al */
    u8 *other = emit_jump(e, CC_E);
    emit_load(e, HOST_D, CPU(s));
    reload(e, HOST_D, HOST_A);
    emit_load(e, HOST_SP, CPU(shadow_sp));
    emit_lea(e, HOST_SP, at(HOST_SP, -8));
    emit8(e, 0xc3);
    emit_set_target(other, e->at);
    u8 *leave = system_emit_resume(e);
    emit_mov(e, HOST_C, HOST_A);
    emit_load(e, HOST_D, CPU(s));
    reload(e, HOST_D, HOST_A);
    emit_load(e, HOST_SP, CPU(shadow_sp));
    emit_bytes(e, "\xff\xe1", 2); /* jmp rcx */
    emit_set_target(leave, e->at);
    emit_op_rr(e, false, 0x31, HOST_A, HOST_A);
    emit_return(e);
}

/* --- from branches to code (T7) --- */

static const struct encoding push_mem = {.opcode = 0xff, .reg = 6}, pop_mem = {.opcode = 0x8f};

/* D is the code of A: into the jump cache, from where C finds that A was executed. */
static void emit_fill_cache(struct emit *e)
{
    i32 cache = offsetof(struct translate_cpu, jump_cache);
    emit_mov(e, HOST_C, HOST_A);
    emit_bytes(e, "\x48\xc1\xe9\x0c", 4); /* shr rcx, 12 */
    emit_op_ri(e, false, 4, HOST_C, SOFT_EXECUTED_PAGES - 1);
    emit_rm(e, &(struct encoding){.map = 1, .opcode = 0xab, .reg = HOST_C}, CPU(executed)); /* bts */
    emit_op_rr(e, false, 0x89, HOST_A, HOST_C);
    emit_bytes(e, "\xc1\xe9\x0c", 3); /* shr ecx, 12 */
    emit_op_rr(e, false, 0x31, HOST_A, HOST_C);
    emit_op_ri(e, false, 4, HOST_C, ((1 << JUMP_CACHE_BITS) - 1) << 2);
    struct address entry = {HOST_CPU, HOST_C, 3, cache};
    emit_store(e, entry, HOST_A);
    entry.disp = cache + (i32)offsetof(struct jump_cache_entry, code);
    emit_store(e, entry, HOST_D);
    emit_rm(e, &push_mem, CPU(map_key));
    entry.disp = cache + (i32)offsetof(struct jump_cache_entry, map_key);
    emit_rm(e, &pop_mem, entry);
}

/* A's page into D as guest-physical address, when it may be executed and map_key stands for it. */
static void emit_fetch_page(struct emit *e, u8 *miss[2])
{
    i32 tlb = offsetof(struct soft_cpu, tlb);
    emit_op_rr(e, false, 0x89, HOST_A, HOST_C);
    emit_bytes(e, "\xc1\xe9\x06", 3); /* shr ecx, 6 */
    emit_op_ri(e, false, 4, HOST_C, (SOFT_TLB_SIZE - 1) * 64);
    emit_mov(e, HOST_D, HOST_A);
    emit_op_ri(e, true, 4, HOST_D, -4096);
    emit_op_rm(e, true, 0x0b, HOST_D, CPU(ctx));
    emit_op_rm(e, true, 0x3b, HOST_D,
               (struct address){HOST_CPU, HOST_C, 0, tlb + (i32)offsetof(struct soft_tlb_entry, exec)});
    miss[0] = emit_jump(e, CC_NE);
    emit_load(e, HOST_D,
              (struct address){HOST_CPU, HOST_C, 0, tlb + (i32)offsetof(struct soft_tlb_entry, gpa)});
    emit_op_rr(e, false, 0x89, HOST_D, HOST_C);
    emit_bytes(e, "\xf7\xd1", 2); /* not ecx */
    emit_op_rm(e, false, 0x85, HOST_C, CPU(map_cover));
    miss[1] = emit_jump(e, CC_NE);
    emit_op_ri(e, true, 4, HOST_D, -4096);
}

static void emit_lookup(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    i32 cache = offsetof(struct translate_cpu, code_cache);
    u8 *miss[3];
    t->thunk.lookup = e->at;
    emit_fetch_page(e, miss);
    emit_op_rr(e, false, 0x89, HOST_A, HOST_C);
    emit_op_ri(e, false, 4, HOST_C, 4095);
    emit_op_rr(e, true, 0x09, HOST_C, HOST_D);
    emit_op_rm(e, true, 0x33, HOST_D, CPU(mode_key));
    emit_mov(e, HOST_C, HOST_D);
    emit_bytes(e, "\x48\xc1\xe9\x0c", 4); /* shr rcx, 12 */
    emit_op_rr(e, false, 0x31, HOST_D, HOST_C);
    emit_op_ri(e, false, 4, HOST_C, (1 << CODE_CACHE_BITS) - 1);
    emit_bytes(e, "\xc1\xe1\x04", 3); /* shl ecx, 4 */
    emit_op_rm(e, true, 0x3b, HOST_D, (struct address){HOST_CPU, HOST_C, 0, cache});
    miss[2] = emit_jump(e, CC_NE);
    emit_load(e, HOST_D, (struct address){HOST_CPU, HOST_C, 0, cache + 8});
    emit_fill_cache(e);
    emit8(e, 0xc3);
    for (unsigned n = 0; n < ARRAY_SIZE(miss); n++)
        emit_set_target(miss[n], e->at);
    emit_op_rr(e, false, 0x31, HOST_D, HOST_D);
    emit8(e, 0xc3);
}

/* A slot that is empty or was filled for another mapping is filled, where the code can be found (T6). */
static void emit_slot(struct translate_cpu *t, bool wide)
{
    struct emit *e = &t->vm->emit;
    struct address slot = CPU(scratch[1]), off = CPU(scratch[0]);
    t->thunk.slot[wide] = e->at;
    emit_op_rr(e, true, 0x01, HOST_CPU, HOST_A);
    emit_store(e, slot, HOST_A);
    emit_op_rm(e, false, 0x89, HOST_C, off);
    emit_op_rr(e, true, 0x63, HOST_A, HOST_C); /* movsxd */
    emit_op_rm(e, wide, 0x03, HOST_A, CPU(page_rip));
    emit_call_to(e, t->thunk.cache);
    emit_load(e, HOST_C, slot);
    emit_op_rr(e, true, 0x85, HOST_D, HOST_D);
    u8 *miss = emit_jump(e, CC_E);
    emit_store(e, at(HOST_C, offsetof(struct translate_slot, code)), HOST_D);
    emit_op_ri(e, true, 4, HOST_A, -4096);
    emit_op_rm(e, true, 0x87, HOST_A, CPU(page_rip)); /* xchg */
    emit_op_rm(e, true, 0x03, HOST_A, CPU(map_key));
    emit_store(e, at(HOST_C, offsetof(struct translate_slot, key)), HOST_A);
    emit_bytes(e, "\xff\xe2", 2); /* jmp rdx */
    emit_set_target(miss, e->at);
    emit_op_rm(e, false, 0x8b, HOST_C, off);
    emit_jump_to(e, CC_ALWAYS, t->thunk.leave_saved);
}

/*
 * A return that is not to the address on top of the return stack. When one of the next frames has it, those
 * above are dropped: somebody left several functions at once. Else the top one is, as hardware would, so that
 * the stack stays in step after a change of stacks. The subroutine's own return address moves along.
 */
static void emit_ret_thunk(struct translate_cpu *t)
{
    struct emit *e = &t->vm->emit;
    enum { CODE = offsetof(struct return_frame, code), RIP = offsetof(struct return_frame, rip) };
    u8 *found[RETURN_SCAN], *next[2];
    t->thunk.ret = e->at;
    emit_load(e, HOST_D, CPU(map_key));
    for (i32 k = 1; k < (i32)RETURN_SCAN; k++) {
        i32 frame = 8 + k * (i32)sizeof(struct return_frame);
        emit_op_rm(e, true, 0x3b, HOST_A, at(HOST_SP, frame + RIP));
        next[0] = emit_jump(e, CC_NE);
        emit_op_rm(e, true, 0x3b, HOST_D, at(HOST_SP, frame + (i32)offsetof(struct return_frame, map_key)));
        next[1] = emit_jump(e, CC_NE);
        emit_load(e, HOST_C, at(HOST_SP, 0));
        emit_lea(e, HOST_SP, at(HOST_SP, frame));
        found[k] = emit_jump(e, CC_ALWAYS);
        emit_set_target(next[0], e->at);
        emit_set_target(next[1], e->at);
    }
    emit_lea(e, HOST_C, at(HOST_SP, 8));
    emit_op_rm(e, true, 0x3b, HOST_C, CPU(shadow_top));
    u8 *empty = emit_jump(e, CC_AE);
    emit_load(e, HOST_C, at(HOST_SP, 0));
    emit_lea(e, HOST_SP, at(HOST_SP, sizeof(struct return_frame)));
    emit_store(e, at(HOST_SP, 0), HOST_C);
    emit_set_target(empty, e->at);
    emit_jump_to(e, CC_ALWAYS, t->thunk.cache);
    for (unsigned k = 1; k < RETURN_SCAN; k++)
        emit_set_target(found[k], e->at);
    emit_load(e, HOST_D, at(HOST_SP, CODE));
    emit_store(e, at(HOST_SP, 0), HOST_C);
    emit8(e, 0xc3);
}

void translate_emit_thunks(struct translate_cpu *t)
{
    t->vm->emit.at = t->vm->code;
    vector_emit_thunks(t);
    emit_enter(t);
    emit_leave(t);
    emit_handlers(t);
    emit_lookup(t);
    t->thunk.cache = t->vm->emit.at;
    emit_cache_lookup(&t->vm->emit, t->thunk.lookup);
    emit_slot(t, false);
    emit_slot(t, true);
    emit_ret_thunk(t);
    emit_memory_thunks(t);
    t->vm->after_thunks = t->vm->emit.at;
    t->vm->thunk = t->thunk;
}

/* --- memory --- */

static int return_stack_init(struct translate_cpu *t, struct error *err)
{
    size_t size = RETURN_STACK_SLACK + RETURN_STACK_SIZE + PAGE_SIZE;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return error_set_errno(err, errno, "no memory for a return stack");
    t->return_stack = p;
    t->soft.shadow_limit = t->return_stack + RETURN_STACK_SLACK;
    t->soft.shadow_top = t->return_stack + RETURN_STACK_SLACK + RETURN_STACK_SIZE;
    return 0;
}

static int tables_init(struct translate_vm *v, struct error *err)
{
    struct memory *m = v->vm->memory;
    v->by_page = calloc(m->ram_size >> PAGE_SHIFT, sizeof *v->by_page);
    v->hash = calloc(1u << TRANSLATION_HASH_BITS, sizeof *v->hash);
    v->exits = calloc(TRANSLATE_EXITS_MAX, sizeof *v->exits);
    v->by_address = calloc(translations_in(v->arena_size), sizeof *v->by_address);
    if (!v->by_page || !v->hash || !v->exits || !v->by_address)
        return error_set(err, ENOMEM, "no memory for the tables of translated code");
    return memory_watch_add(m, &v->watch, err);
}

static int code_memory_init(struct translate_vm *v, struct error *err)
{
    CLEANUP_CLOSE int fd = memfd_create("trapeze-code", MFD_CLOEXEC);
    v->code_size = MAX(v->options.code_size, TRANSLATE_CODE_MIN);
    v->arena_size = MIN(MAX(v->code_size / 2, (size_t)TRANSLATE_CODE_MIN), TRANSLATE_ARENA_MAX);
    if (fd < 0 || ftruncate(fd, (off_t)v->code_size) != 0)
        return error_set_errno(err, errno, "no memory for translated code");
    void *w = mapping_huge(v->code_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    void *x = mapping_huge(v->code_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
    void *a = mapping_huge(v->arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, -1);
    v->code = w == MAP_FAILED ? NULL : w;
    v->arena = a == MAP_FAILED ? NULL : a;
    v->emit = (struct emit){w, (u8 *)w + v->code_size, (u8 *)x - (u8 *)w};
    if (!v->code || x == MAP_FAILED || !v->arena) {
        if (x != MAP_FAILED)
            munmap(x, v->code_size);
        v->emit.to_exec = 0;
        return error_set(err, ENOMEM, "no memory for translated code");
    }
    return 0;
}

int translate_vm_init(struct vm *vm, struct error *err)
{
    int rc = interpret_engine_vm_init(vm, err);
    if (rc != 0)
        return rc;
    struct translate_vm *v = calloc(1, sizeof *v);
    if (!v)
        return error_set(err, ENOMEM, "no memory for the translator");
    vm->engine_data = v;
    v->vm = vm;
    lock_init(&v->lock, LOCK_RANK_CODE);
    rc = translate_read_options(&v->options, err);
    if (rc == 0)
        rc = code_memory_init(v, err);
    if (rc == 0)
        rc = tables_init(v, err);
    if (rc != 0)
        translate_vm_release(vm);
    return rc;
}

void translate_vm_release(struct vm *vm)
{
    struct translate_vm *v = vm->engine_data;
    vm->engine_data = NULL;
    if (v->watch.interest)
        memory_watch_remove(vm->memory, &v->watch);
    if (v->code && v->emit.to_exec)
        munmap(v->code + v->emit.to_exec, v->code_size);
    if (v->code)
        munmap(v->code, v->code_size);
    if (v->arena)
        munmap(v->arena, v->arena_size);
    free(v->by_page);
    free(v->hash);
    free(v->exits);
    free(v->by_address);
    lock_release(&v->lock);
    free(v);
}

/* What is emitted once is the same for all vCPUs. */
static void share_thunks(struct translate_cpu *t)
{
    if (t->vm->after_thunks) {
        t->thunk = t->vm->thunk;
        return;
    }
    translate_emit_thunks(t);
    code_regions_init(t->vm);
}

int translate_code_init(struct translate_cpu *t, struct error *err)
{
    struct vm *vm = t->soft.vcpu->vm;
    int rc = return_stack_init(t, err);
    if (rc != 0)
        return rc;
    share_thunks(t);
    for (unsigned n = 0; n < ARRAY_SIZE(t->code_cache); n++)
        t->code_cache[n].key = ~0ull;
    forget_addresses(t);
    memory_watch_kick(vm->memory, &t->vm->watch, t->soft.vcpu->index, &t->soft.kick);
    return 0;
}

void translate_code_release(struct translate_cpu *t)
{
    struct vcpu *vcpu = t->soft.vcpu;
    memory_watch_kick(vcpu->vm->memory, &t->vm->watch, vcpu->index, NULL);
    if (t->return_stack)
        munmap(t->return_stack, RETURN_STACK_SLACK + RETURN_STACK_SIZE + PAGE_SIZE);
}
