/* The board's network cards and what they are connected to. */
#include <errno.h>
#include <sys/random.h>

#include "machine/memory-map.h"
#include "machine/pc-internal.h"

/* Locally administered, in the block that virtual machines use; never the same twice in a network. */
static int fresh_mac(u8 mac[6], struct error *err)
{
    static const u8 prefix[] = {0x52, 0x54, 0x00};

    memcpy(mac, prefix, sizeof prefix);
    if (getrandom(mac + 3, 3, 0) != 3)
        return error_set_errno(err, errno, "cannot make up an address for a network card");
    return 0;
}

static int choose_mac(u8 mac[6], const struct pc_net *net, struct error *err)
{
    static const u8 none[6];

    memcpy(mac, net->mac, 6);
    return memcmp(mac, none, 6) ? 0 : fresh_mac(mac, err);
}

static int net_up(struct pc *pc, unsigned i, struct error *err)
{
    const struct pc_net *net = &pc->config.net[i];
    struct net_options options = net->options;
    struct virtio_net_config config = {.pairs = options.queues, .mtu = (u16)options.mtu};
    int r = choose_mac(config.mac, net, err);

    if (r)
        return r;
    options.clock = &pc->vm.clock;
    pc->net_backend[i] = net_open(&options, pc->loop, err);
    if (!pc->net_backend[i])
        return -err->code;
    r = virtio_net_init(&pc->net[i], &pc->pci.bus, PCI_DEVFN(SLOT_NET_FIRST + i, 0), &pc->memory, pc->loop,
                        pc->net_backend[i], &config, err);
    if (r) {
        net_close(pc->net_backend[i]);
        return r;
    }
    virtio_net_set_link(&pc->net[i], !options.link_down);
    list_push_back(&pc->devices, &pc->net[i].pci.function.dev.link);
    return 0;
}

void pc_nets_down(struct pc *pc)
{
    while (pc->nets_made) {
        unsigned i = --pc->nets_made;
        virtio_net_release(&pc->net[i]);
        net_close(pc->net_backend[i]);
    }
}

int pc_nets_up(struct pc *pc, struct error *err)
{
    while (pc->nets_made < pc->config.net_count) {
        int r = net_up(pc, pc->nets_made, err);
        if (r) {
            pc_nets_down(pc);
            return r;
        }
        pc->nets_made++;
    }
    return 0;
}
