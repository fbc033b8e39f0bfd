/* Opens a character backend by its name. */
#include "backend/char/chardev.h"

#include <errno.h>

#include "backend/char/char-internal.h"

/* The rest of @spec after "@kind:", NULL when it is of another kind. */
static const char *argument(const char *spec, const char *kind)
{
    size_t len = strlen(kind);

    return !strncmp(spec, kind, len) && spec[len] == ':' ? spec + len + 1 : NULL;
}

struct chardev *chardev_open(const char *spec, struct event_loop *loop, const struct chardev_keys *keys,
                             struct error *err)
{
    const char *path;

    if (!strcmp(spec, "null") || !strcmp(spec, "none"))
        return chardev_null_new();
    if (!strcmp(spec, "stdio"))
        return chardev_stdio_new(loop, keys, err);
    if (!strcmp(spec, "pty"))
        return chardev_pty_new(loop, err);
    if ((path = argument(spec, "unix")) && *path)
        return chardev_unix_new(path, loop, err);
    if ((path = argument(spec, "file")) && *path)
        return chardev_file_new(path, loop, err);
    error_set(err, EINVAL, "unknown console '%s': stdio, pty, unix:PATH, file:PATH or none", spec);
    return NULL;
}
