/* The options of "trapeze run". */
#ifndef TRAPEZE_CMD_RUN_OPTIONS_H
#define TRAPEZE_CMD_RUN_OPTIONS_H

#include <stdio.h>

#include "machine/engines.h"
#include "machine/pc.h"

struct run_options {
    struct pc_config pc;
    const char *engine;
    struct engine_choice choice;
    const char *kernel, *append, *firmware;
    struct {
        const char *path, *args;
    } initrd[BOOT_MAX_MODULES];
    unsigned initrd_count;
    const char *log, *log_level, *trace;
    const char *dump_acpi;
    bool net_given;
    bool stats, help;
};

/* Defaults, then the arguments. The values point into @argv, which is changed. */
int run_options_parse(struct run_options *o, int argc, char **argv, struct error *err);

/* "trapeze run --help". */
void run_options_help(FILE *out);

#endif
