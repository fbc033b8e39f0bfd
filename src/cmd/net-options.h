/* "--net": what a network card is connected to. */
#ifndef TRAPEZE_CMD_NET_OPTIONS_H
#define TRAPEZE_CMD_NET_OPTIONS_H

#include "machine/pc.h"

/*
 * "user[,...]", "tap=IF[,...]", "tap,fd=N[,...]", "socket=PATH[,...]" or "null[,...]". The values point
 * into @text, which is changed.
 */
int net_options_parse(struct pc_net *net, char *text, struct error *err);

#endif
