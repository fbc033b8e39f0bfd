#include "machine/engines.h"

#include <errno.h>
#include <string.h>

/* Fastest first. NULL: known, but not part of this build. @asked: not what "auto" takes. */
static const struct {
    const char *name;
    const struct engine_ops *ops;
    bool asked;
} engines[] = {
    {"kvm", &kvm_engine, true},
    {"translate", &translate_engine, true},
    {"interpret", &interpret_engine, false},
};

const struct engine_ops *engine_find(const char *name, struct error *err)
{
    bool any = strcmp(name, "auto") == 0;

    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
        if (any && engines[i].ops && !engines[i].asked)
            return engines[i].ops;
        if (any || strcmp(name, engines[i].name) != 0)
            continue;
        if (!engines[i].ops)
            error_set(err, ENOSYS, "engine '%s' is not built into this trapeze (try interpret)", name);
        return engines[i].ops;
    }
    error_set(err, EINVAL, "unknown engine '%s' (auto, kvm, translate or interpret)", name);
    return NULL;
}
