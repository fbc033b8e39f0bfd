/* The engines by their names on the command line. */
#ifndef TRAPEZE_MACHINE_ENGINES_H
#define TRAPEZE_MACHINE_ENGINES_H

#include "cpu/engine.h"

/* "auto" gives the fastest that this host can run. NULL with @err when there is none of that name. */
const struct engine_ops *engine_find(const char *name, struct error *err);

#endif
