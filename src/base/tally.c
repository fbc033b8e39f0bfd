/* Counts by name: see tally.h. */
#include "base/tally.h"

#include <inttypes.h>
#include <string.h>

void tally_count(struct tally *t, const char *name, u64 count)
{
    for (unsigned i = 0; i < t->used; i++) {
        if (strcmp(t->entry[i].name, name) == 0) {
            t->entry[i].count += count;
            return;
        }
    }
    if (t->used == TALLY_MAX) {
        t->others += count;
        return;
    }
    t->entry[t->used].name = name;
    t->entry[t->used++].count = count;
}

void tally_add(struct tally *to, const struct tally *from)
{
    for (unsigned i = 0; i < from->used; i++)
        tally_count(to, from->entry[i].name, from->entry[i].count);
    to->others += from->others;
}

static int most_frequent(const struct tally *t, const bool *printed)
{
    int best = -1;
    for (unsigned i = 0; i < t->used; i++)
        if (!printed[i] && (best < 0 || t->entry[i].count > t->entry[best].count))
            best = (int)i;
    return best;
}

static void print_line(u64 count, const char *name, const char *help, FILE *out)
{
    fprintf(out, "%14" PRIu64 "  %-18s  %s\n", count, name, help);
}

void tally_print(const struct tally *t, const char *help, FILE *out)
{
    bool printed[TALLY_MAX] = {false};
    for (int i; (i = most_frequent(t, printed)) >= 0; printed[i] = true)
        print_line(t->entry[i].count, t->entry[i].name, help, out);
    if (t->others)
        print_line(t->others, "others", help, out);
}
