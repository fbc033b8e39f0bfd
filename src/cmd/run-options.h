/* The options of "trapeze run". */
#ifndef TRAPEZE_CMD_RUN_OPTIONS_H
#define TRAPEZE_CMD_RUN_OPTIONS_H

#include <stdio.h>

#include "cmd/cloud-options.h"
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
    struct cloud_options cloud;
    const char *boot;                  /* what --boot says */
    unsigned boot_index[PC_MAX_DISKS]; /* of each disk; 0: none */
    const char *log, *log_level, *trace;
    const char *dump_acpi;
    bool net_given;
    bool stats, help;
};

/* Defaults, then the arguments. The values point into @argv, which is changed. */
int run_options_parse(struct run_options *o, int argc, char **argv, struct error *err);

/* --disk and --cdrom, for the list of options (disk-options.c). */
int run_set_disk(void *target, char *text, struct error *err);
int run_set_cdrom(void *target, char *text, struct error *err);

/* --share (share-options.c). */
int run_set_share(void *target, char *text, struct error *err);

/* Puts the disks into the order that bootindex= and --boot ask for. */
int run_boot_order(struct run_options *o, struct error *err);

void run_options_release(struct run_options *o);

/* "trapeze run --help". */
void run_options_help(FILE *out);

#endif
