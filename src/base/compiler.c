/* What compiler.h declares out of line. */
#include "base/compiler.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void bug_at(const char *file, int line, const char *what)
{
    fprintf(stderr, "trapeze: bug at %s:%d: %s\n", file, line, what);
    abort();
}

void cleanup_free(void *pp)
{
    free(*(void **)pp);
}

void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
