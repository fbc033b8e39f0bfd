/* The board's shared directories. */
#include "machine/memory-map.h"
#include "machine/pc-internal.h"

static int share_up(struct pc *pc, unsigned i, struct error *err)
{
    const struct pc_share *share = &pc->config.share[i];

    pc->share_backend[i] = share_open(share->path, &share->options, err);
    if (!pc->share_backend[i])
        return -err->code;
    int r = virtio_9p_init(&pc->share[i], &pc->pci.bus, PCI_DEVFN(SLOT_SHARES, i), &pc->memory, pc->loop,
                           &pc->vm.machine_lock, pc->share_backend[i], share->tag, err);
    if (r)
        share_close(pc->share_backend[i]);
    else
        list_push_back(&pc->devices, &pc->share[i].pci.function.dev.link);
    return r;
}

void pc_shares_down(struct pc *pc)
{
    while (pc->shares_made) {
        unsigned i = --pc->shares_made;
        virtio_9p_release(&pc->share[i]);
        share_close(pc->share_backend[i]);
    }
}

int pc_shares_up(struct pc *pc, struct error *err)
{
    while (pc->shares_made < pc->config.share_count) {
        int r = share_up(pc, pc->shares_made, err);
        if (r) {
            pc_shares_down(pc);
            return r;
        }
        pc->shares_made++;
    }
    return 0;
}
