/*
 * What a cloud image asks for when it boots first: a NoCloud seed, as cloud-init's documentation calls it, an
 * ISO image with label "cidata" that holds user-data, meta-data, vendor-data and network-config.
 */
#ifndef TRAPEZE_MACHINE_CLOUD_INIT_H
#define TRAPEZE_MACHINE_CLOUD_INIT_H

#include "base/error.h"

#define CLOUD_INIT_MAX_KEYS 16
#define CLOUD_INIT_FILE_MAX (16u << 20)

struct cloud_init {
    const char *user_data, *meta_data, *network_config; /* files, or NULL */
    const char *ssh_key[CLOUD_INIT_MAX_KEYS];           /* files with public keys */
    unsigned ssh_key_count;
};

/*
 * Makes the seed and returns a descriptor of a file in memory that holds it. A meta-data file of the user is
 * completed with what it lacks: instance-id (@uuid), local-hostname (from @name), public-keys.
 */
int cloud_init_seed(const struct cloud_init *c, const char *name, const char *uuid, int *fd,
                    struct error *err);

#endif
