/*
 * Counts by name, for --stats: how often each of a few things happened. The names are string constants. A
 * tally belongs to one thread at a time; readers may see slightly old values.
 */
#ifndef TRAPEZE_BASE_TALLY_H
#define TRAPEZE_BASE_TALLY_H

#include <stdio.h>

#include "base/compiler.h"

#define TALLY_MAX 96

/* Zeroed is empty. What comes when all entries are taken is counted as "others". */
struct tally {
    struct {
        const char *name;
        u64 count;
    } entry[TALLY_MAX];
    unsigned used;
    u64 others;
};

void tally_count(struct tally *t, const char *name, u64 count);

/* Adds @from to @to. */
void tally_add(struct tally *to, const struct tally *from);

/* One line an entry, the most frequent first: count, name, @help. */
void tally_print(const struct tally *t, const char *help, FILE *out);

#endif
