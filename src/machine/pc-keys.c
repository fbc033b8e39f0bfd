/* What the user can ask of the machine by keys after Ctrl-a. The machine lock is held. */
#include <stdio.h>

#include "machine/pc-internal.h"

/* A cable is pulled out, or plugged in again. */
static void switch_link(struct pc *pc, unsigned i, char answer[CHAR_ANSWER])
{
    if (i >= pc->nets_made) {
        (void)snprintf(answer, CHAR_ANSWER, "there is no network card %u", i + 1);
        return;
    }
    struct virtio_net *n = &pc->net[i];
    virtio_net_set_link(n, n->unplugged);
    (void)snprintf(answer, CHAR_ANSWER, "network card %u is %s", i + 1,
                   n->unplugged ? "unplugged" : "plugged in");
}

static void announce(struct pc *pc, char answer[CHAR_ANSWER])
{
    unsigned asked = 0;

    for (unsigned i = 0; i < pc->nets_made; i++) {
        virtio_net_announce(&pc->net[i]);
        asked += pc->net[i].announce;
    }
    (void)snprintf(answer, CHAR_ANSWER, "network cards that announce themselves: %u", asked);
}

static void press(void *owner, u8 key, char answer[CHAR_ANSWER])
{
    struct pc *pc = owner;

    switch (key) {
    case 'x': pc_quit(pc); break;
    case 'n': announce(pc, answer); break;
    case '1' ... '0' + PC_MAX_NETS: switch_link(pc, key - (unsigned)'1', answer); break;
    default: break;
    }
}

void pc_keys_init(struct pc *pc)
{
    pc->keys = (struct chardev_keys){
        .press = press,
        .owner = pc,
        .help = "Ctrl-a x  quit\n"
                "Ctrl-a 1  pull out the cable of network card 1 (or 2 to 8), or plug it in again\n"
                "Ctrl-a n  have the guest announce itself in its networks\n",
    };
}
