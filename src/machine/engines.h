/* The engines by their names on the command line, and the choice among them. */
#ifndef TRAPEZE_MACHINE_ENGINES_H
#define TRAPEZE_MACHINE_ENGINES_H

#include "cpu/engine.h"
#include "kvm/kvm.h"

/* The engine of this name; NULL with @err when there is none in this build. */
const struct engine_ops *engine_find(const char *name, struct error *err);

struct engine_choice {
    const struct engine_ops *ops;
    const struct engine_ops *other; /* what to try when KVM, chosen by "auto", refuses; else NULL */
    char why[320];                  /* one line; empty when the user named the engine */
};

/*
 * "auto" takes KVM where it runs on the hardware, else the fastest software engine. -EINVAL when
 * there is none of that name. Before there are threads.
 */
int engine_choose(struct engine_choice *c, const char *name, struct error *err);

/*
 * kvm_probe(), with its answer kept in a file of this user until the host boots again. The quick part,
 * whether /dev/kvm can be opened, is looked at each time.
 */
void engine_kvm_verdict(struct kvm_verdict *v);

#endif
