/*
 * How virtual CPUs execute. An engine is a const ops table; everything else is shared.
 *
 * Threads. Each vCPU has a thread of its own (vcpu.c), which is the only caller of run() for it.
 * run() executes guest code until a request is pending for the vCPU (vcpu->requests) or the guest
 * does something that ends the run; it then returns with vcpu->state exact after sync().
 *
 * Exits. Port and MMIO accesses, CPUID, MSRs and hypercalls are served inside run() by the shared
 * functions of cpu/io.h, cpu/msr.h and x86/cpuid.h on the vCPU's own thread; devices take the
 * machine lock there. Only what changes the life of the vCPU comes back as an enum vcpu_exit.
 *
 * Kicks. vcpu_request() sets a bit of vcpu->requests (release) and calls the engine's kick(), which makes
 * run() look at the requests within bounded time, and wakes a halted vCPU. The interpreter polls the word
 * at every block boundary, so kick() has nothing to do; the translator sets a word that its code polls; KVM
 * sets immediate_exit and signals the thread. A request set at any time before run() is entered is seen by
 * it: no lost wake-ups.
 *
 * Interrupts. The irqchip raises VCPU_REQ_INTERRUPT when a vector may be deliverable. At an
 * instruction boundary with IF set and no shadow, the software engine asks irqchip_ops.ack() (with
 * the machine lock) for the vector and delivers it. When IF is clear the request stays pending and
 * is looked at again as soon as STI, POPF, IRET or MOV CR8 opens the window. NMI, INIT and SIPI are
 * requests as well, in the order that the manual gives (SDM vol. 3, 6.9).
 *
 * Exclusive sections. vm_exclusive_begin() (cpu/vm.h) returns when no other vCPU is inside guest
 * code, and holds them off until vm_exclusive_end(). Split locks, marking pages as code, TLB
 * flushes for dirty logging and engine switches use it.
 *
 * Code invalidation. An engine caches code only from pages it marked with memory_mark_code(). When
 * that returns true other vCPUs may hold direct write mappings of the page: the engine then drops
 * those in an exclusive section (VCPU_REQ_FLUSH_TLB to each) and calls memory_guard_code() there,
 * before it reads the bytes. From then on every write, by any vCPU or device, goes through
 * memory_note_write(), which changes the page's code generation; a cached block is valid while the
 * generation is the one it was made at, which is checked when a block is entered and after each
 * tracked write inside a block.
 *
 * Dirty logging. memory_dirty_log_start()/fetch() make pages tracked; vm_flush_tlbs() then makes
 * every engine drop direct write mappings, so that the first write to each page is noted.
 */
#ifndef TRAPEZE_CPU_ENGINE_H
#define TRAPEZE_CPU_ENGINE_H

#include "base/error.h"

struct cpuid_table;
struct vcpu;
struct vm;

enum vcpu_exit {
    VCPU_EXIT_REQUEST,      /* a bit of vcpu->requests wants attention */
    VCPU_EXIT_HALT,         /* HLT with nothing deliverable: sleep until a request */
    VCPU_EXIT_TRIPLE_FAULT, /* the guest died */
    VCPU_EXIT_DEBUG,        /* what vcpu->debug asked for: vcpu->debug_hit */
    VCPU_EXIT_ERROR,        /* the host failed; vcpu->error says how */
};

/* What a debugger of the guest, of which the guest knows nothing, wants to hear of. */
enum vcpu_break { VCPU_BREAK_EXEC, VCPU_BREAK_WRITE, VCPU_BREAK_ACCESS };
#define VCPU_BREAKS 4
struct vcpu_debug {
    bool step;       /* each instruction, when it is done */
    bool software;   /* INT3, before it is executed: then all of them are the debugger's */
    unsigned breaks; /* and these, in linear addresses; EXEC before, the others after the instruction */
    struct {
        u64 addr;
        enum vcpu_break kind;
        unsigned len; /* 1, 2, 4 or 8; of EXEC 1 */
    } at[VCPU_BREAKS];
};
struct vcpu_debug_hit {
    u8 vector; /* X86_DB or X86_BP: what a debugger in the guest would have seen */
    u64 rip;   /* linear: where the guest goes on */
    u64 dr6;   /* which of them, for X86_DB */
};

struct engine_ops {
    const char *name;

    /*
     * Takes from @t, before the VM is made, the features that this engine cannot give a guest on this
     * host. With @strict it fails instead (-ENOTSUP). NULL: it can do all that cpuid_build() offers.
     */
    int (*limit_cpuid)(struct cpuid_table *t, bool strict, struct error *err);

    /* Sets up what all vCPUs share (@vm->engine_data). */
    int (*vm_init)(struct vm *vm, struct error *err);
    void (*vm_release)(struct vm *vm);

    /* Sets up one vCPU (@vcpu->engine_data). vcpu->state holds its state already. */
    int (*vcpu_init)(struct vcpu *vcpu, struct error *err);
    void (*vcpu_release)(struct vcpu *vcpu);

    /* See above. Called on the vCPU's thread without locks. */
    enum vcpu_exit (*run)(struct vcpu *vcpu);

    /* Makes a running run() notice vcpu->requests. Any thread, async-signal-safe. */
    void (*kick)(struct vcpu *vcpu);

    /* Brings vcpu->state up to date / adopts a changed vcpu->state. The vCPU is not in run(). */
    void (*sync)(struct vcpu *vcpu);
    void (*state_changed)(struct vcpu *vcpu);

    /* vcpu->debug changed. The vCPU is not in run(). NULL: it knows no breakpoints. */
    int (*debug_changed)(struct vcpu *vcpu, struct error *err);

    /*
     * Chips in the kernel (cpu/irqchip.h): vCPUs may run from now on; they are parked, until further notice.
     * No lock is held. park() may come twice. NULL: nothing to do.
     */
    int (*resume)(struct vm *vm, struct error *err);
    void (*park)(struct vm *vm);

    /*
     * Drops all cached translations of addresses, and what it knows of page tables. On the vCPU's thread or
     * while it is not in run().
     */
    void (*flush_tlb)(struct vcpu *vcpu);
};

extern const struct engine_ops interpret_engine;
extern const struct engine_ops translate_engine;
extern const struct engine_ops kvm_engine;

/*
 * A way for an engine to get past an instruction that it cannot execute: another one does, on the same
 * vCPU. The board sets vm->rescue. attach and step run on the vCPU's thread, within run(), with
 * vcpu->state true before and after; nothing is kept from one step to the next, so that between them
 * RAM and state may change without notice.
 */
struct rescue_ops {
    void *(*attach)(struct vcpu *vcpu, struct error *err);
    void (*detach)(void *rescue);
    /*
     * Up to @count instructions or deliveries. VCPU_EXIT_REQUEST when all is well. @missed, unless NULL: the
     * engine learns of page tables by watching the guest. Then the first may be any, and it stops in front of
     * another that the engine should see: a write that is not to the stack nor by FS or GS, a change of
     * control registers or translations, user mode. When the first was of these it sets *missed, and the
     * engine is to forget what it knew.
     */
    enum vcpu_exit (*step)(void *rescue, unsigned count, bool *missed);
};

extern const struct rescue_ops interpret_rescue;

#endif
