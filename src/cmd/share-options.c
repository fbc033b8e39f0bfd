/* "--share DIR,tag=NAME[,readonly][,ownership=...]" */
#include <errno.h>
#include <string.h>

#include "cmd/options.h"
#include "cmd/run-options.h"
#include "virtio/9p.h"

struct share_values {
    const char *tag, *ownership;
    bool read_only;
};

static const struct option share_list[] = {
    {.name = "tag", .arg = "NAME", .kind = OPTION_STRING, .offset = offsetof(struct share_values, tag)},
    {.name = "ownership",
     .arg = "HOW",
     .kind = OPTION_CHOICE,
     .choices = "mapped|passthrough|none",
     .offset = offsetof(struct share_values, ownership)},
    {.name = "readonly", .kind = OPTION_FLAG, .offset = offsetof(struct share_values, read_only)},
    OPTION_LIST_END,
};

static int check_tag(const struct pc_config *pc, const char *path, const char *tag, struct error *err)
{
    if (!tag)
        return error_set(err, EINVAL, "--share '%s': no tag=NAME, by which the guest mounts it", path);
    if (!tag[0] || strlen(tag) > VIRTIO_9P_TAG_MAX)
        return error_set(err, EINVAL, "--share '%s': tag '%.80s' is not of 1 to %d bytes", path, tag,
                         VIRTIO_9P_TAG_MAX);
    for (unsigned i = 0; i < pc->share_count; i++)
        if (!strcmp(pc->share[i].tag, tag))
            return error_set(err, EINVAL, "--share '%s': '%s' has the tag '%s' already", path,
                             pc->share[i].path, tag);
    return 0;
}

int run_set_share(void *target, char *text, struct error *err)
{
    struct pc_config *pc = &((struct run_options *)target)->pc;
    struct share_values v = {.ownership = "mapped"};
    char *path;
    int r = options_parse_commas(share_list, &v, "share", text, &path, err);

    if (!r)
        r = check_tag(pc, path, v.tag, err);
    if (r)
        return r;
    if (pc->share_count == PC_MAX_SHARES)
        return error_set(err, EINVAL, "more than %d shared directories", PC_MAX_SHARES);
    pc->share[pc->share_count++] = (struct pc_share){
        .path = path,
        .tag = v.tag,
        .options = {.read_only = v.read_only, .ownership = share_ownership_find(v.ownership)},
    };
    return 0;
}
