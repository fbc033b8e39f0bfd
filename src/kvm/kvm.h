/*
 * The KVM engine (kvm_engine in cpu/engine.h): guest code runs on the CPU itself, through /dev/kvm. The
 * only folder that knows <linux/kvm.h>.
 */
#ifndef TRAPEZE_KVM_KVM_H
#define TRAPEZE_KVM_KVM_H

#include "cpu/engine.h"

/* What /dev/kvm is good for. Some hosts offer one that emulates each instruction in software. */
enum kvm_kind {
    KVM_KIND_NONE,     /* absent, not ours to open, or too old */
    KVM_KIND_BROKEN,   /* opens, but does not run a small guest to its end */
    KVM_KIND_SLOW,     /* runs it as slowly as an emulator */
    KVM_KIND_HARDWARE, /* at the speed of the CPU */
};

struct kvm_verdict {
    enum kvm_kind kind;
    unsigned mips;  /* million instructions per second, of KVM_KIND_SLOW and KVM_KIND_HARDWARE */
    char text[256]; /* why, for KVM_KIND_NONE and KVM_KIND_BROKEN */
};

/* Can /dev/kvm be used at all? Quick: runs nothing. False: v->kind and v->text say why not. */
bool kvm_available(struct kvm_verdict *v);

/*
 * Finds out by running a guest of 64-bit code (SSE2, CMPXCHG16B, a timed loop) in a child process, which
 * is killed when it takes too long: at most about 0.3 s. To be called before there are threads.
 */
void kvm_probe(struct kvm_verdict *v);

#endif
