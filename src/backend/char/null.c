/* The null backend: swallows output, never has input. */
#include "backend/char/chardev.h"

static ssize_t null_write(struct chardev *c, const u8 *data, size_t len)
{
    return len;
}

static void null_set_room(struct chardev *c, size_t room) {}

static void null_free(struct chardev *c)
{
    free(c);
}

static const struct chardev_ops null_ops = {
    .write = null_write, .set_room = null_set_room, .free = null_free};

struct chardev *chardev_null_new(void)
{
    struct chardev *c = calloc(1, sizeof *c);

    BUG_ON(!c);
    c->ops = &null_ops;
    return c;
}
