/*
 * The inside of the KVM engine.
 *
 * Whose state is true. A vCPU's architectural state lives in vcpu->state or in the kernel; `ours` says
 * which copy counts. run() gives it to the kernel before the first KVM_RUN; sync(), rescue and whoever
 * needs it fetch it back. Some of it never moves: mp_state, the TSC's offset, and every MSR that the
 * filter of vm.c denies (kvm_msrs in transfer.c lists those that do move), which are served by
 * cpu/msr.c with vcpu->state, as under any engine.
 *
 * A port, MMIO or MSR exit is half an instruction: the kernel completes it at the next KVM_RUN.
 * `unfinished` says so, and nobody looks at registers before kvm_finish() has let it do so.
 *
 * Interrupt controllers are those of hw/, or the kernel has the local APICs or all (chips.c). In the first
 * case a halted vCPU, its local APIC and the choice of a vector are our business (run.c).
 */
#ifndef TRAPEZE_KVM_INTERNAL_H
#define TRAPEZE_KVM_INTERNAL_H

#include <linux/kvm.h>

#include "cpu/vm.h"

/* Where components are in the kernel's XSAVE image (standard format); offset 0: it has none. */
struct kvm_xsave_layout {
    unsigned size; /* of the image, at least 4096 */
    u64 components;
    unsigned offset[10];
};

/* MSRs that live in the kernel while the guest runs. */
#define KVM_MSR_MAX 16

struct kvm_host {
    int fd; /* /dev/kvm */
    int run_size;
    struct kvm_xsave_layout xsave;
    struct {
        u32 index;
        u16 offset; /* in x86_state */
    } msr[KVM_MSR_MAX];
    unsigned msr_count;
};

#define KVM_LINES 128 /* messages that have an eventfd; others go without */

#define KVM_SLOTS 3 /* below and above the VGA window, and above 4 GiB */

struct kvm_vm {
    struct kvm_host host;
    struct memory *memory;
    int fd;
    struct {
        u64 gpa, size, ram_offset;
    } slot[KVM_SLOTS];
    struct kvm_cpu *cpu[VM_MAX_VCPUS]; /* changes under dirty_lock */
    struct dirty_source dirty;
    struct lock dirty_lock; /* for the rings, and which there are */
    struct lock spare_lock; /* for the slot that comes and goes */
    bool rings;             /* dirty rings instead of bitmaps */
    bool exits_on_failure;  /* else KVM gives #UD to user mode for what it cannot emulate (before 5.15) */
    bool apics;             /* the local APICs are the kernel's */
    bool all_chips;         /* and so are the others */
    struct kernel_chips chips;
    struct doorbell_watch doorbells;
    struct list bells; /* doorbell.c */
    struct event_loop *loop;
    struct {
        u64 addr;
        u32 data;
    } pin[IRQCHIP_PINS]; /* of level-triggered ones, as the kernel knows them */
    bool irqfd;
    struct {
        bool used;
        int fd;
        u64 addr;
        u32 data;
    } line[KVM_LINES]; /* messages with an eventfd of their own */
};

struct kvm_cpu {
    struct vcpu *vcpu;
    struct kvm_vm *kvm;
    int fd;
    struct kvm_run *run;
    void *xsave; /* scratch, host.xsave.size bytes, 64-byte aligned */
    bool ours;
    bool unfinished;
    bool cr8_stale; /* the chip's TPR may have changed since run->cr8 was set */
    bool window;    /* run->ready_for_interrupt_injection and if_flag are of this moment */
    u64 cr8;        /* as the chip knows it */
    u64 apic_base;  /* as the kernel knows it */
    i64 tsc_offset; /* as the kernel knows it */
    bool tsc_known;
    struct kvm_dirty_gfn *ring; /* or NULL */
    u32 ring_next;
    void *rescue;
    bool debugged;       /* the kernel was told of breakpoints */
    int owed;            /* an exit to return that came at an inconvenient moment, or KVM_GO_ON */
    unsigned burst;      /* instructions of the next rescue */
    u64 exits_at_rescue; /* counter at the last one */
    _Atomic bool in_run; /* the thread is in or about to enter KVM_RUN */
    _Atomic int tid;
};

/* --- vm.c --- */

/* Opens /dev/kvm and learns what this KVM is like; an error says what to do. */
int kvm_host_open(struct kvm_host *h, struct error *err);
void kvm_host_close(struct kvm_host *h);
/* The descriptor of a new VM, or -1 and errno. */
int kvm_create_vm(const struct kvm_host *h);
/* What the kernel can do, allocated; NULL with @err. */
struct kvm_cpuid2 *kvm_host_cpuid(const struct kvm_host *h, struct error *err);

/* Gives the kernel a slot, with or without its writes being logged. -errno. */
int kvm_set_slot(const struct kvm_vm *kvm, unsigned slot, bool logged);

/*
 * A KVM without page tables of the second level shadows the guest's, and write-protects them to see them
 * change. This makes it drop all that it made of them, for every vCPU, after somebody else wrote to RAM or
 * executed INVLPG and its kin: the kernel does so whenever a memory slot goes, so there is one that comes and
 * goes. Any thread, while vCPUs run or not.
 */
int kvm_forget_tables(struct kvm_vm *kvm, struct error *err);

/* --- dirty.c --- */

/* Before there are vCPUs. */
void kvm_dirty_choose(struct kvm_vm *kvm);
/* When all is set up; memory_set_dirty_source(memory, NULL) undoes it. */
int kvm_dirty_attach(struct kvm_vm *kvm, struct error *err);
int kvm_dirty_map_ring(struct kvm_cpu *k, struct error *err);
/* Makes it one of kvm->cpu[], of which any thread may harvest the rings; and no more, when its ring goes. */
void kvm_dirty_add_cpu(struct kvm_cpu *k);
void kvm_dirty_remove_cpu(struct kvm_cpu *k);
/* Notes what all rings hold. Any thread. */
void kvm_dirty_harvest(struct kvm_vm *kvm);

/* --- cpuid.c --- */

bool kvm_has_features(u32 leaf);
int kvm_limit_cpuid(struct cpuid_table *t, bool strict, struct error *err);
int kvm_set_cpuid(const struct kvm_cpu *k, struct error *err);
void kvm_xsave_layout(struct kvm_xsave_layout *l, const struct kvm_cpuid2 *supported, unsigned size);

/* --- probe.c --- */

/*
 * Adds to the feature words of @supported what CPUID shows in a guest that was given just these: there
 * are KVMs that let the CPU answer. Such a feature cannot be hidden, so it must be one that the state
 * and the rescuing engine know about.
 */
void kvm_see_cpuid(const struct kvm_host *h, struct kvm_cpuid2 *supported);

/* There are KVMs that emulate, and do not know all instructions. */
bool kvm_gives_up(const struct kvm_host *h);

/* There are KVMs that take an offset of the TSC and ignore it: the guest reads the host's TSC. */
bool kvm_shifts_tsc(const struct kvm_host *h);

/* --- state.c: between the kernel's structs and x86_state; no system calls --- */

void kvm_regs_from_state(struct kvm_regs *r, const struct x86_state *s);
void kvm_regs_to_state(const struct kvm_regs *r, struct x86_state *s);
/* All but cr8, apic_base and interrupt_bitmap. */
void kvm_sregs_from_state(struct kvm_sregs *r, const struct x86_state *s);
void kvm_sregs_to_state(const struct kvm_sregs *r, struct x86_state *s);
void kvm_debugregs_from_state(struct kvm_debugregs *r, const struct x86_state *s);
void kvm_debugregs_to_state(const struct kvm_debugregs *r, struct x86_state *s);
void kvm_events_from_state(struct kvm_vcpu_events *e, const struct x86_state *s);
void kvm_events_to_state(const struct kvm_vcpu_events *e, struct x86_state *s);
void kvm_xsave_from_state(void *image, const struct kvm_xsave_layout *l, const struct x86_state *s);
void kvm_xsave_to_state(const void *image, const struct kvm_xsave_layout *l, struct x86_state *s);

/* The shared interrupt controllers; @chip is one of KVM_IRQCHIP_*. */
void kvm_chip_from_image(struct kvm_irqchip *chip, const struct chips_image *image);
void kvm_chip_to_image(const struct kvm_irqchip *chip, struct chips_image *image);

/* --- transfer.c --- */

/* KVM_GET_MSRS or KVM_SET_MSRS of one MSR, on a vCPU or on /dev/kvm. 0 or -1. */
int kvm_one_msr(int fd, unsigned long request, u32 index, u64 *value);

/* Chooses the MSRs to move from those this KVM knows. */
int kvm_choose_msrs(struct kvm_host *h, struct error *err);
/* The kernel keeps this MSR while the guest runs. */
bool kvm_keeps_msr(const struct kvm_vm *kvm, u32 index);
/* Lets the guest have exactly the MSRs that the kernel keeps. */
int kvm_filter_msrs(const struct kvm_vm *kvm, struct error *err);

/* vcpu->state to the kernel and back. @err is the vCPU's. */
int kvm_push_state(struct kvm_cpu *k);
int kvm_fetch_state(struct kvm_cpu *k);
int kvm_push_tsc(struct kvm_cpu *k);
int kvm_push_apic_base(struct kvm_cpu *k, u64 base);

/* --- chips.c --- */

/* Before there are vCPUs: sets kvm->apics, and what chips there are. */
int kvm_chips_choose(struct kvm_vm *kvm, const struct vm *vm, struct error *err);
/* engine_ops.resume and park. */
int kvm_chips_take(struct vm *vm, struct error *err);
void kvm_chips_give_back(struct vm *vm);
/* With APICs in the kernel it has mp_state, and it moves with the registers. */
int kvm_push_mp_state(struct kvm_cpu *k);
int kvm_fetch_mp_state(struct kvm_cpu *k);

/* --- doorbell.c --- */

/* Where the VM wants that (vm->ioeventfd). Both take the machine lock. */
void kvm_doorbells_attach(struct kvm_vm *kvm, struct vm *vm);
void kvm_doorbells_detach(struct kvm_vm *kvm, struct vm *vm);
/* Those that were rung. vCPUs are parked. */
void kvm_doorbells_serve(struct kvm_vm *kvm, struct vm *vm);

/* --- debug.c --- */

/* -EINVAL for what no processor has. */
int kvm_debug_from(struct kvm_guest_debug *g, const struct vcpu_debug *d);
/* engine_ops.debug_changed */
int kvm_set_debug(struct kvm_cpu *k, struct error *err);
void kvm_debug_hit(struct kvm_cpu *k, u8 vector, u64 rip, u64 dr6);

/* --- entry.c --- */

/* The rule of VT-x that a guest with these registers would break, or NULL. */
const char *kvm_entry_fault(const struct kvm_regs *r, const struct kvm_sregs *s,
                            const struct kvm_vcpu_events *e);

/* --- run.c --- */

#define KVM_GO_ON (-1) /* instead of an enum vcpu_exit */

enum vcpu_exit kvm_cpu_run(struct kvm_cpu *k);
void kvm_cpu_kick(struct kvm_cpu *k);
/* Completes a half-done instruction and makes vcpu->state true. */
int kvm_finish(struct kvm_cpu *k);
int kvm_sync(struct kvm_cpu *k);
int kvm_install_kick(struct error *err);

#endif
