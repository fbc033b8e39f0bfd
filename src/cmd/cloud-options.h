/* The options about the identity of a machine and what its guest learns when it boots first. */
#ifndef TRAPEZE_CMD_CLOUD_OPTIONS_H
#define TRAPEZE_CMD_CLOUD_OPTIONS_H

#include "base/uuid.h"
#include "machine/cloud-init.h"
#include "machine/pc.h"

struct cloud_options {
    struct cloud_init init;
    bool wanted;
    const char *uuid; /* as given, or NULL */
    int fd;           /* the seed, or -1 */
    char path[32];    /* that it can be opened by */
};

/* For the list of options; the target is a struct cloud_options. */
int cloud_set_init(struct cloud_options *o, char *text, struct error *err);
int cloud_set_ssh_key(struct cloud_options *o, char *text, struct error *err);

/* Gives the machine its UUID, and the disk with the seed where one is wanted. After all other disks. */
int cloud_options_apply(struct cloud_options *o, struct pc_config *pc, struct error *err);
void cloud_options_release(struct cloud_options *o);

#endif
