/* The verbs of the trapeze command. Each gets the arguments from its own name on and returns the exit status.
 */
#ifndef TRAPEZE_CMD_COMMANDS_H
#define TRAPEZE_CMD_COMMANDS_H

#include "base/error.h"

/* Exit status: a contract that scripts depend on (trapeze(1)). */
enum {
    STATUS_OK = 0,
    STATUS_ERROR = 1,        /* usage or host */
    STATUS_RESET = 3,        /* the guest reset under --no-reboot */
    STATUS_TRIPLE_FAULT = 4, /* the guest died */
};

int cmd_run(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

/* Prints "trapeze: TEXT" on stderr; returns STATUS_ERROR. */
int cmd_fail(const struct error *err);

#endif
