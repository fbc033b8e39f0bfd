#include "cmd/cloud-options.h"

#include <errno.h>
#include <unistd.h>

#include "cmd/options.h"

#define FILE_AT(m) .kind = OPTION_STRING, .arg = "FILE", .offset = offsetof(struct cloud_init, m)

int cloud_set_init(struct cloud_options *o, char *text, struct error *err)
{
    static const struct option list[] = {
        {.name = "user-data", FILE_AT(user_data)},
        {.name = "meta-data", FILE_AT(meta_data)},
        {.name = "network-config", FILE_AT(network_config)},
        OPTION_LIST_END,
    };

    o->wanted = true;
    return options_parse_commas(list, &o->init, "cloud-init", text, NULL, err);
}

int cloud_set_ssh_key(struct cloud_options *o, char *text, struct error *err)
{
    if (o->init.ssh_key_count == CLOUD_INIT_MAX_KEYS)
        return error_set(err, EINVAL, "more than %u --ssh-key", CLOUD_INIT_MAX_KEYS);
    o->wanted = true;
    o->init.ssh_key[o->init.ssh_key_count++] = text;
    return 0;
}

static int add_seed(struct cloud_options *o, struct pc_config *pc, const char *uuid, struct error *err)
{
    if (pc->disk_count == PC_MAX_DISKS)
        return error_set(err, EINVAL, "more than %u disks, with that of --cloud-init", PC_MAX_DISKS);
    int r = cloud_init_seed(&o->init, pc->name, uuid, &o->fd, err);
    if (r)
        return r;
    snprintf(o->path, sizeof o->path, "/proc/self/fd/%d", o->fd);
    pc->disk[pc->disk_count++] = (struct pc_disk){
        .path = o->path,
        .serial = "cidata",
        .options = {.format = BLOCK_FORMAT_RAW, .read_only = true, .no_lock = true},
        .write_error = BLOCK_ON_ERROR_ENOSPC,
    };
    return 0;
}

int cloud_options_apply(struct cloud_options *o, struct pc_config *pc, struct error *err)
{
    char text[UUID_TEXT];

    o->fd = -1;
    if (!o->uuid)
        uuid_make(pc->uuid);
    else if (uuid_parse(o->uuid, pc->uuid))
        return error_set(err, EINVAL,
                         "option '--uuid': '%.40s' is not of the form 01234567-89ab-cdef-0123-456789abcdef",
                         o->uuid);
    uuid_format(pc->uuid, text);
    return o->wanted ? add_seed(o, pc, text, err) : 0;
}

void cloud_options_release(struct cloud_options *o)
{
    if (o->wanted && o->fd >= 0)
        close(o->fd);
}
