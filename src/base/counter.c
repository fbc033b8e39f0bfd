/* Counters: see counter.h for the list. */
#include "base/counter.h"

#include <inttypes.h>

void counters_add(struct counters *to, const struct counters *from)
{
#define X(name, help) to->name += from->name;
    COUNTERS(X)
#undef X
}

void counters_print(const struct counters *c, FILE *out)
{
#define X(name, help) \
    if (c->name)      \
        fprintf(out, "%14" PRIu64 "  %-18s  %s\n", c->name, #name, help);
    COUNTERS(X)
#undef X
}
