#include "machine/engines.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const struct engine_ops *ops;
} engines[] = {
    {"kvm", &kvm_engine},
    {"translate", &translate_engine},
    {"interpret", &interpret_engine},
};

static void choose_automatically(struct engine_choice *c)
{
    struct kvm_verdict v;
    engine_kvm_verdict(&v);
    c->ops = &translate_engine;
    switch (v.kind) {
    case KVM_KIND_NONE:
    case KVM_KIND_BROKEN: snprintf(c->why, sizeof c->why, "%s", v.text); break;
    case KVM_KIND_SLOW:
        snprintf(c->why, sizeof c->why, "KVM here emulates, at %u million instructions a second", v.mips);
        break;
    case KVM_KIND_HARDWARE:
        c->other = c->ops;
        c->ops = &kvm_engine;
        snprintf(c->why, sizeof c->why, "KVM here runs on the hardware");
        break;
    }
}

const struct engine_ops *engine_find(const char *name, struct error *err)
{
    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
        if (strcmp(name, engines[i].name) == 0)
            return engines[i].ops;
    }
    error_set(err, EINVAL, "unknown engine '%s' (auto, kvm, translate or interpret)", name);
    return NULL;
}

int engine_choose(struct engine_choice *c, const char *name, struct error *err)
{
    *c = (struct engine_choice){.ops = NULL};
    if (strcmp(name, "auto") == 0)
        choose_automatically(c);
    else
        c->ops = engine_find(name, err);
    return c->ops ? 0 : -EINVAL;
}
