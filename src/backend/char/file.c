/* Output to a file; no input. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backend/char/char-internal.h"
#include "backend/char/stream.h"
#include "base/log.h"

struct file_char {
    struct char_stream stream;
};

static void output_ended(struct char_stream *s)
{
    log_warn("console file: %s; further output is lost", strerror(errno));
}

static const struct char_stream_ops file_ops = {.output_ended = output_ended};

static void file_free(struct chardev *c)
{
    struct file_char *f = container_of(c, struct file_char, stream.base);

    char_stream_release(&f->stream);
    free(f);
}

static const struct chardev_ops file_chardev_ops = {
    .write = char_stream_write, .set_room = char_stream_set_room, .free = file_free};

struct chardev *chardev_file_new(const char *path, struct event_loop *loop, struct error *err)
{
    struct file_char *f;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);

    if (fd < 0) {
        error_set_errno(err, errno, "cannot open '%s'", path);
        return NULL;
    }
    f = calloc(1, sizeof *f);
    if (!f) {
        close(fd);
        error_set_errno(err, ENOMEM, "cannot open '%s'", path);
        return NULL;
    }
    char_stream_init(&f->stream, loop, &file_chardev_ops, &file_ops);
    f->stream.base.connected = true;
    if (char_stream_start(&f->stream, -1, CHAR_FILE, fd, CHAR_NONBLOCK, err)) {
        file_free(&f->stream.base);
        return NULL;
    }
    return &f->stream.base;
}
