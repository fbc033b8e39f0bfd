/* The kinds of character backends, for chardev_open(). NULL with @err set on failure. */
#ifndef TRAPEZE_BACKEND_CHAR_INTERNAL_H
#define TRAPEZE_BACKEND_CHAR_INTERNAL_H

#include "backend/char/chardev.h"

struct chardev *chardev_stdio_new(struct event_loop *loop, const struct chardev_keys *keys,
                                  struct error *err);
struct chardev *chardev_pty_new(struct event_loop *loop, struct error *err);
struct chardev *chardev_unix_new(const char *path, struct event_loop *loop, struct error *err);
struct chardev *chardev_file_new(const char *path, struct event_loop *loop, struct error *err);

#endif
