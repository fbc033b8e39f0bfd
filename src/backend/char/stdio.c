/*
 * Console on standard input and output.
 *
 * A terminal, pipe or socket is often shared with other processes (the shell that started us), and
 * O_NONBLOCK belongs to the shared open file description. So it is never set on descriptors 0 and 1:
 * they are opened anew through /proc, or, where that fails, polled before each call.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/char/char-internal.h"
#include "backend/char/stream.h"
#include "backend/char/terminal.h"

#define ESCAPE 0x01 /* Ctrl-a */
#define PATIENCE_MS 10000

struct stdio_char {
    struct char_stream stream;
    const struct chardev_keys *keys;
    bool terminal; /* input is a terminal: raw mode and the escape key */
    bool escaped;  /* Ctrl-a was the last byte */
};

/* To the user, beside what the guest writes. */
static void tell(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* then there is nobody to be told */
}

static void print_help(const struct stdio_char *c)
{
    tell("\n");
    tell(c->keys->help);
    tell("Ctrl-a a  send Ctrl-a to the guest\n"
         "Ctrl-a b  send a break\n"
         "Ctrl-a h  this help\n");
}

static void press(const struct stdio_char *c, u8 key)
{
    char answer[CHAR_ANSWER] = "", line[CHAR_ANSWER + 2];

    c->keys->press(c->keys->owner, key, answer);
    if (!answer[0])
        return;
    (void)snprintf(line, sizeof line, "\n%s\n", answer);
    tell(line);
}

/* Takes the byte after Ctrl-a; true when it goes to the guest. */
static bool escape_key(struct stdio_char *c, u8 key, size_t kept)
{
    switch (key) {
    case ESCAPE: return true;
    case 'h':
    case '?': print_help(c); return false;
    case 'b': char_stream_break(&c->stream, kept); return false;
    default: press(c, key); return false;
    }
}

static size_t filter(struct char_stream *s, u8 *data, size_t len)
{
    struct stdio_char *c = container_of(s, struct stdio_char, stream);
    size_t kept = 0;

    if (!c->terminal)
        return len;
    terminal_ensure_raw();
    for (size_t i = 0; i < len; i++) {
        u8 byte = data[i];

        if (c->escaped) {
            c->escaped = false;
            byte = byte == 'a' ? ESCAPE : byte;
            if (!escape_key(c, byte, kept))
                continue;
        } else if (byte == ESCAPE) {
            c->escaped = true;
            continue;
        }
        data[kept++] = byte;
    }
    return kept;
}

static const struct char_stream_ops stdio_ops = {.filter = filter};

static void stdio_free(struct chardev *chardev)
{
    struct stdio_char *c = container_of(chardev, struct stdio_char, stream.base);

    char_stream_release(&c->stream);
    if (c->terminal)
        terminal_leave_raw();
    free(c);
}

static const struct chardev_ops stdio_chardev_ops = {
    .write = char_stream_write, .set_room = char_stream_set_room, .free = stdio_free};

/* A descriptor of our own for @fd that does not block; -1 when @fd is closed. */
static int open_private(int fd, int flags, enum char_mode *mode)
{
    char path[32];
    struct stat st;
    int own;

    if (fstat(fd, &st))
        return -1;
    if (S_ISSOCK(st.st_mode) || S_ISREG(st.st_mode)) {
        *mode = S_ISSOCK(st.st_mode) ? CHAR_SOCKET : CHAR_FILE;
        return fcntl(fd, F_DUPFD_CLOEXEC, 3);
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    *mode = CHAR_NONBLOCK;
    if (own >= 0)
        return own;
    *mode = CHAR_SHARED;
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* A closed pipe at the other end of output is an error of write(), not the end of the process. */
static void ignore_sigpipe(void)
{
    struct sigaction sa;

    if (!sigaction(SIGPIPE, NULL, &sa) && sa.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
}

struct chardev *chardev_stdio_new(struct event_loop *loop, const struct chardev_keys *keys, struct error *err)
{
    struct stdio_char *c = calloc(1, sizeof *c);
    enum char_mode in_mode = CHAR_FILE, out_mode = CHAR_FILE;
    int in_fd, out_fd;

    if (!c) {
        error_set_errno(err, ENOMEM, "cannot open the console");
        return NULL;
    }
    c->keys = keys;
    char_stream_init(&c->stream, loop, &stdio_chardev_ops, &stdio_ops);
    c->stream.base.connected = true;
    c->stream.patience_ms = PATIENCE_MS;
    ignore_sigpipe();
    if (isatty(STDIN_FILENO)) {
        if (terminal_enter_raw(STDIN_FILENO, err)) {
            stdio_free(&c->stream.base);
            return NULL;
        }
        c->terminal = true;
        c->stream.limit = CHAR_BUFFER_MAX; /* Ctrl-a x works although the guest does not read */
    }
    in_fd = open_private(STDIN_FILENO, O_RDONLY, &in_mode);
    out_fd = open_private(STDOUT_FILENO, O_WRONLY, &out_mode);
    if (char_stream_start(&c->stream, in_fd, in_mode, out_fd, out_mode, err)) {
        stdio_free(&c->stream.base);
        return NULL;
    }
    return &c->stream.base;
}
