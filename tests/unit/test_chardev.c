/* The host side of consoles: every backend, with peers that come, go, stall and flood. */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

#include <cmocka.h>

#include "backend/char/chardev.h"
#include "base/log.h"

#define TURNS 200 /* of the event loop, at most, until something must have happened */

struct fixture {
    struct event_loop *loop;
    struct chardev *c;
    struct chardev_keys keys;
    struct chardev_listener listener;
    u8 *got;
    size_t got_len, got_cap;
    unsigned writable, hangups, breaks, quits;
    bool connected;
    size_t room_again; /* set by receive(): what a frontend that keeps reading says */
    char dir[64], path[96];
};

static void receive(struct chardev_listener *l, const u8 *data, size_t len)
{
    struct fixture *f = container_of(l, struct fixture, listener);

    assert_true(f->got_len + len <= f->got_cap);
    memcpy(f->got + f->got_len, data, len);
    f->got_len += len;
    if (f->room_again)
        chardev_set_room(f->c, f->room_again);
}

static void writable(struct chardev_listener *l)
{
    container_of(l, struct fixture, listener)->writable++;
}

static void hangup(struct chardev_listener *l, bool connected)
{
    struct fixture *f = container_of(l, struct fixture, listener);

    f->hangups++;
    f->connected = connected;
}

static void line_break(struct chardev_listener *l)
{
    struct fixture *f = container_of(l, struct fixture, listener);

    f->breaks++;
    f->got[f->got_len++] = '#';
}

static void press(void *owner, u8 key, char answer[CHAR_ANSWER])
{
    if (key == 'x')
        ((struct fixture *)owner)->quits++;
    else if (key == 'n')
        (void)snprintf(answer, CHAR_ANSWER, "done");
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    f->loop = event_loop_new(NULL);
    f->got_cap = 4 << 20;
    f->got = malloc(f->got_cap);
    f->listener = (struct chardev_listener){
        .receive = receive, .writable = writable, .hangup = hangup, .line_break = line_break};
    snprintf(f->dir, sizeof f->dir, "/tmp/test_chardev.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/console", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    chardev_free(f->c);
    event_loop_free(f->loop);
    unlink(f->path);
    rmdir(f->dir);
    free(f->got);
    free(f);
    return 0;
}

static int open_spec(struct fixture *f, const char *spec, struct error *err)
{
    f->keys = (struct chardev_keys){.press = press, .owner = f, .help = "Ctrl-a x  quit\n"};
    f->c = chardev_open(spec, f->loop, &f->keys, err);
    if (!f->c)
        return -1;
    f->c->listener = &f->listener;
    return 0;
}

static void open_ok(struct fixture *f, const char *spec)
{
    struct error err = {0};

    if (open_spec(f, spec, &err))
        fail_msg("%s: %s", spec, err.text);
}

static void open_unix(struct fixture *f)
{
    char spec[128];

    snprintf(spec, sizeof spec, "unix:%s", f->path);
    open_ok(f, spec);
}

static void poll_once(struct fixture *f)
{
    event_loop_poll(f->loop, 10 * NS_PER_MS);
}

#define POLL_UNTIL(f, cond)                           \
    do {                                              \
        for (int i_ = 0; i_ < TURNS && !(cond); i_++) \
            poll_once(f);                             \
        assert_true(cond);                            \
    } while (0)

/* Lets everything happen that is going to. */
static void settle(struct fixture *f)
{
    for (int i = 0; i < 5; i++)
        event_loop_poll(f->loop, NS_PER_MS);
}

static void write_all(struct fixture *f, const char *s)
{
    chardev_write(f->c, (const u8 *)s, strlen(s));
}

static void assert_got(struct fixture *f, const char *s)
{
    assert_int_equal(f->got_len, strlen(s));
    assert_memory_equal(f->got, s, f->got_len);
}

/* --- opening, null, file --- */

static void unknown_kinds_are_refused(void **state)
{
    static const char *const bad[] = {"", "tcp:1", "unix:", "file:", "file", "stdioo", "pty:x"};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};

        assert_int_equal(open_spec(f, bad[i], &err), -1);
        assert_int_equal(err.code, EINVAL);
    }
}

static void null_swallows(void **state)
{
    struct fixture *f = *state;

    open_ok(f, "none");
    assert_int_equal(chardev_write(f->c, (const u8 *)"abc", 3), 3);
    chardev_set_room(f->c, 100);
    settle(f);
    assert_int_equal(f->got_len, 0);
    assert_false(f->c->connected);
}

static void file_takes_output(void **state)
{
    struct fixture *f = *state;
    char spec[128], buf[16] = {0};
    int fd;

    snprintf(spec, sizeof spec, "file:%s", f->path);
    open_ok(f, spec);
    assert_true(f->c->connected);
    assert_int_equal(chardev_write(f->c, (const u8 *)"hello ", 6), 6);
    assert_int_equal(chardev_write(f->c, (const u8 *)"world", 5), 5);
    fd = open(f->path, O_RDONLY);
    assert_int_equal(read(fd, buf, sizeof buf), 11);
    assert_string_equal(buf, "hello world");
    close(fd);
}

static void file_that_cannot_be_opened_is_named(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};

    assert_int_equal(open_spec(f, "file:/nonexistent/x", &err), -1);
    assert_int_equal(err.code, ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/x"));
}

static void full_device_swallows(void **state)
{
    struct fixture *f = *state;

    log_set_level(LOG_ERROR);
    open_ok(f, "file:/dev/full");
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(chardev_write(f->c, (const u8 *)"abc", 3), 3);
}

/* --- unix --- */

static int dial(struct fixture *f)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(addr.sun_path, f->path, strlen(f->path) + 1);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static void expect_read(int fd, const char *s)
{
    char buf[256];
    size_t len = strlen(s), n = 0;

    while (n < len) {
        ssize_t r = read(fd, buf + n, len - n);

        assert_true(r > 0);
        n += r;
    }
    assert_memory_equal(buf, s, len);
}

static int dial_and_wait(struct fixture *f)
{
    int fd = dial(f);

    POLL_UNTIL(f, f->connected);
    return fd;
}

static void socket_carries_both_ways(void **state)
{
    struct fixture *f = *state;
    int fd;

    open_unix(f);
    assert_false(f->c->connected);
    fd = dial_and_wait(f);
    write_all(f, "login: ");
    expect_read(fd, "login: ");
    chardev_set_room(f->c, 100);
    assert_int_equal(write(fd, "root\n", 5), 5);
    POLL_UNTIL(f, f->got_len == 5);
    assert_got(f, "root\n");
    close(fd);
}

static void output_without_a_client_is_swallowed(void **state)
{
    struct fixture *f = *state;
    int fd;

    open_unix(f);
    assert_int_equal(chardev_write(f->c, (const u8 *)"lost", 4), 4);
    fd = dial_and_wait(f);
    write_all(f, "seen");
    expect_read(fd, "seen");
    close(fd);
}

static void clients_come_one_after_the_other(void **state)
{
    struct fixture *f = *state;
    int first, second;

    open_unix(f);
    first = dial_and_wait(f);
    second = dial(f);
    settle(f);
    write_all(f, "1");
    expect_read(first, "1");
    close(first);
    POLL_UNTIL(f, f->hangups == 3); /* up, down, up */
    assert_true(f->connected);
    write_all(f, "2");
    expect_read(second, "2");
    close(second);
    POLL_UNTIL(f, !f->connected);
}

static void input_waits_for_room(void **state)
{
    struct fixture *f = *state;
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    assert_int_equal(write(fd, "abcdef", 6), 6);
    settle(f);
    assert_int_equal(f->got_len, 0);
    chardev_set_room(f->c, 2);
    POLL_UNTIL(f, f->got_len);
    settle(f);
    assert_got(f, "ab");
    chardev_set_room(f->c, 3);
    POLL_UNTIL(f, f->got_len > 2);
    settle(f);
    assert_got(f, "abcde");
    close(fd);
}

/* Writes until the socket takes no more; returns how much that was. */
static size_t flood(int fd, size_t max)
{
    static u8 chunk[1 << 16];
    size_t sent = 0;

    while (sent < max) {
        ssize_t n;

        for (size_t i = 0; i < sizeof chunk; i++)
            chunk[i] = (sent + i) * 7 >> 2;
        n = send(fd, chunk, MIN(sizeof chunk, max - sent), MSG_DONTWAIT);
        if (n <= 0)
            break;
        sent += n;
    }
    return sent;
}

static void a_flood_pushes_back_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    size_t sent;
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    sent = flood(fd, 3 << 20);
    assert_true(sent < 3 << 20); /* the sender was held up */
    f->room_again = 16;
    chardev_set_room(f->c, 16);
    for (int i = 0; i < 100000 && f->got_len < sent; i++)
        poll_once(f);
    assert_int_equal(f->got_len, sent);
    for (size_t i = 0; i < sent; i++)
        if (f->got[i] != (u8)(i * 7 >> 2))
            fail_msg("byte %zu", i);
    close(fd);
}

static void what_a_client_sent_before_it_left_arrives(void **state)
{
    struct fixture *f = *state;
    size_t sent;
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    sent = flood(fd, 100000);
    assert_true(sent > 5000);
    close(fd);
    POLL_UNTIL(f, !f->connected);
    assert_int_equal(f->got_len, 0);
    f->room_again = 1000;
    chardev_set_room(f->c, 1000);
    POLL_UNTIL(f, f->got_len == sent);
}

static void a_guest_that_does_not_read_does_not_keep_the_next_client_out(void **state)
{
    struct fixture *f = *state;
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    flood(fd, 1 << 20);
    close(fd);
    POLL_UNTIL(f, !f->connected);
    fd = dial_and_wait(f);
    write_all(f, "x");
    expect_read(fd, "x");
    close(fd);
}

static void a_client_that_only_ended_sending_still_reads(void **state)
{
    struct fixture *f = *state;
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    chardev_set_room(f->c, 100);
    assert_int_equal(write(fd, "cmd", 3), 3);
    shutdown(fd, SHUT_WR);
    POLL_UNTIL(f, f->got_len == 3);
    settle(f);
    assert_true(f->connected);
    write_all(f, "answer");
    expect_read(fd, "answer");
    close(fd);
    POLL_UNTIL(f, !f->connected);
    fd = dial_and_wait(f);
    close(fd);
}

static void a_stalled_client_holds_output_and_then_takes_it(void **state)
{
    struct fixture *f = *state;
    static u8 block[4096];
    size_t sent = 0, n, read_back = 0;
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    while ((n = chardev_write(f->c, block, sizeof block)) == sizeof block)
        sent += n;
    sent += n;
    settle(f);
    assert_int_equal(f->writable, 0);
    while (read_back < sent) {
        ssize_t r = recv(fd, block, sizeof block, MSG_DONTWAIT);

        if (r < 0)
            poll_once(f);
        else
            read_back += r;
    }
    POLL_UNTIL(f, f->writable);
    assert_int_equal(chardev_write(f->c, (const u8 *)"x", 1), 1);
    expect_read(fd, "x");
    close(fd);
}

static void a_stalled_client_that_leaves_lets_output_go_on(void **state)
{
    struct fixture *f = *state;
    static u8 block[4096];
    int fd;

    open_unix(f);
    fd = dial_and_wait(f);
    while (chardev_write(f->c, block, sizeof block) == sizeof block)
        ;
    close(fd);
    POLL_UNTIL(f, f->writable && !f->connected);
    assert_int_equal(chardev_write(f->c, block, sizeof block), sizeof block);
}

static void stale_socket_files_are_replaced(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    memcpy(addr.sun_path, f->path, strlen(f->path) + 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    close(fd);
    open_unix(f);
    fd = dial_and_wait(f);
    close(fd);
}

static void a_socket_somebody_listens_on_is_refused(void **state)
{
    struct fixture *f = *state, other = {.loop = f->loop};
    struct error err = {0};
    char spec[128];
    int fd;

    open_unix(f);
    snprintf(spec, sizeof spec, "unix:%s", f->path);
    assert_int_equal(open_spec(&other, spec, &err), -1);
    assert_int_equal(err.code, EADDRINUSE);
    POLL_UNTIL(f, f->hangups % 2 == 0); /* the probe that found it out may have been a short client */
    fd = dial_and_wait(f);
    close(fd);
}

static void a_file_that_is_no_socket_is_refused_and_kept(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    char spec[128];
    struct stat st;

    close(open(f->path, O_WRONLY | O_CREAT, 0600));
    snprintf(spec, sizeof spec, "unix:%s", f->path);
    assert_int_equal(open_spec(f, spec, &err), -1);
    assert_int_equal(err.code, EEXIST);
    assert_int_equal(stat(f->path, &st), 0);
}

static void long_socket_paths_are_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    char spec[200];

    memset(spec, 'x', sizeof spec);
    memcpy(spec, "unix:/tmp/", 10);
    spec[sizeof spec - 1] = 0;
    assert_int_equal(open_spec(f, spec, &err), -1);
    assert_int_equal(err.code, ENAMETOOLONG);
}

static void the_socket_file_goes_with_the_console(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    open_unix(f);
    assert_int_equal(lstat(f->path, &st), 0);
    chardev_free(f->c);
    f->c = NULL;
    assert_int_equal(lstat(f->path, &st), -1);
}

/* --- pty --- */

/* The slave's name is told in the log. */
static int open_pty_and_slave(struct fixture *f)
{
    char text[256] = {0}, *name;
    FILE *log;

    log_set_level(LOG_WARN);
    assert_int_equal(log_open(f->path, NULL), 0);
    open_ok(f, "pty");
    log = fopen(f->path, "r");
    assert_non_null(fgets(text, sizeof text, log));
    fclose(log);
    name = strstr(text, "/dev/pts/");
    assert_non_null(name);
    name[strcspn(name, "\n")] = 0;
    return open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

static void pty_carries_both_ways(void **state)
{
    struct fixture *f = *state;
    int fd = open_pty_and_slave(f);

    assert_true(fd >= 0);
    POLL_UNTIL(f, f->connected);
    write_all(f, "hi\n");
    expect_read(fd, "hi\n");
    chardev_set_room(f->c, 10);
    assert_int_equal(write(fd, "yo\r", 3), 3);
    POLL_UNTIL(f, f->got_len == 3);
    assert_got(f, "yo\r");
    close(fd);
    POLL_UNTIL(f, !f->connected);
}

static void pty_without_a_reader_swallows(void **state)
{
    struct fixture *f = *state;
    static u8 block[4096];
    int fd = open_pty_and_slave(f);

    POLL_UNTIL(f, f->connected);
    close(fd);
    POLL_UNTIL(f, !f->connected);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(chardev_write(f->c, block, sizeof block), sizeof block);
}

/* --- stdio, in a child whose standard descriptors are ours --- */

struct child {
    pid_t pid;
    int to, from; /* its input and output; the same for a terminal */
};

/* What the child does: a console that echoes each byte in brackets, until 'q' or Ctrl-a x. */
static void child_receive(struct chardev_listener *l, const u8 *data, size_t len)
{
    struct fixture *f = container_of(l, struct fixture, listener);

    for (size_t i = 0; i < len; i++) {
        char text[16];

        snprintf(text, sizeof text, data[i] < ' ' ? "[%02x]" : "[%c]", data[i]);
        write_all(f, text);
        if (data[i] == 'q')
            f->quits++;
        if (data[i] == 'e')
            exit(5);
        if (data[i] == 's')
            raise(SIGTERM);
        if (data[i] == 'c')
            abort();
    }
    chardev_set_room(f->c, 1);
}

static void child_break(struct chardev_listener *l)
{
    write_all(container_of(l, struct fixture, listener), "[break]");
}

NORETURN static void run_child(size_t room)
{
    struct fixture f = {.listener = {.receive = child_receive, .line_break = child_break}};
    struct error err = {0};

    f.loop = event_loop_new(NULL);
    if (open_spec(&f, "stdio", &err)) {
        fprintf(stderr, "%s\n", err.text);
        _exit(9);
    }
    write_all(&f, "ready");
    chardev_set_room(f.c, room);
    while (!f.quits)
        event_loop_poll(f.loop, NS_PER_SEC);
    write_all(&f, "bye");
    chardev_free(f.c);
    _exit(7);
}

static struct child start_on_terminal_as(struct termios *before, size_t room, bool controlling)
{
    struct child c;
    int slave;

    assert_int_equal(openpty(&c.to, &slave, NULL, NULL, NULL), 0);
    assert_int_equal(tcgetattr(c.to, before), 0);
    c.from = c.to;
    c.pid = fork();
    if (!c.pid) {

        close(c.to);
        if (controlling)
            login_tty(slave);
        else
            setsid();
        dup2(slave, 0);
        dup2(slave, 1);
        dup2(slave, 2);
        run_child(room);
    }
    close(slave);
    return c;
}

static struct child start_on_terminal(struct termios *before, size_t room)
{
    return start_on_terminal_as(before, room, true);
}

static struct child start_on_pipes(void)
{
    int in[2], out[2];
    struct child c;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    c.pid = fork();
    if (!c.pid) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        run_child(1);
    }
    close(in[0]);
    close(out[1]);
    c.to = in[1];
    c.from = out[0];
    return c;
}

static void send_text(const struct child *c, const char *s)
{
    assert_int_equal(write(c->to, s, strlen(s)), strlen(s));
}

static int wait_status(struct child *c)
{
    int status;

    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    return status;
}

/* The modes of the terminal at the end, which the test holds open by its master. */
static void assert_modes(const struct child *c, const struct termios *before)
{
    struct termios now;

    assert_int_equal(tcgetattr(c->to, &now), 0);
    assert_int_equal(now.c_lflag, before->c_lflag);
    assert_int_equal(now.c_iflag, before->c_iflag);
    assert_int_equal(now.c_oflag, before->c_oflag);
}

static void terminal_is_raw_and_comes_back(void **state)
{
    struct termios before, now;
    struct child c = start_on_terminal(&before, 1);

    expect_read(c.from, "ready");
    assert_int_equal(tcgetattr(c.to, &now), 0);
    assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
    send_text(&c, "a\x03");
    expect_read(c.from, "[a][03]");
    send_text(&c, "q");
    expect_read(c.from, "[q]bye");
    assert_int_equal(WEXITSTATUS(wait_status(&c)), 7);
    assert_modes(&c, &before);
    close(c.to);
}

static void a_terminal_of_another_session_is_raw_too(void **state)
{
    struct termios before, now;
    struct child c = start_on_terminal_as(&before, 1, false);

    expect_read(c.from, "ready");
    assert_int_equal(tcgetattr(c.to, &now), 0);
    assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
    send_text(&c, "q");
    expect_read(c.from, "[q]bye");
    assert_int_equal(WEXITSTATUS(wait_status(&c)), 7);
    assert_modes(&c, &before);
    close(c.to);
}

static void escape_keys(void **state)
{
    struct termios before;
    struct child c = start_on_terminal(&before, 1);

    expect_read(c.from, "ready");
    send_text(&c, "\x01"
                  "a"
                  "\x01\x01"
                  "\x01"
                  "zy"
                  "\x01"
                  "b");
    expect_read(c.from, "[01][01][y][break]");
    send_text(&c, "\x01"
                  "n");
    expect_read(c.from, "\r\ndone\r\n");
    send_text(&c, "\x01"
                  "h");
    expect_read(c.from, "\r\nCtrl-a x  quit\r\nCtrl-a a  send Ctrl-a to the guest\r\n");
    expect_read(c.from, "Ctrl-a b  send a break\r\nCtrl-a h  this help\r\n");
    send_text(&c, "\x01"
                  "x");
    expect_read(c.from, "bye");
    assert_int_equal(WEXITSTATUS(wait_status(&c)), 7);
    close(c.to);
}

static void quit_works_although_the_guest_does_not_read(void **state)
{
    struct termios before;
    struct child c = start_on_terminal(&before, 0);
    char paste[20000];

    expect_read(c.from, "ready");
    memset(paste, 'z', sizeof paste);
    for (size_t done = 0; done < sizeof paste;) {
        ssize_t n = write(c.to, paste + done, sizeof paste - done);

        assert_true(n > 0);
        done += n;
    }
    send_text(&c, "\x01"
                  "x");
    expect_read(c.from, "bye");
    assert_int_equal(WEXITSTATUS(wait_status(&c)), 7);
    close(c.to);
}

static void terminal_comes_back_after_exit_and_signals(void **state)
{
    static const char *const keys[] = {"e", "s", "c"};

    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        struct termios before;
        struct child c = start_on_terminal(&before, 1);
        int status;

        expect_read(c.from, "ready");
        send_text(&c, keys[i]);
        status = wait_status(&c);
        if (i == 0)
            assert_int_equal(WEXITSTATUS(status), 5);
        else
            assert_int_equal(WTERMSIG(status), i == 1 ? SIGTERM : SIGABRT);
        assert_modes(&c, &before);
        close(c.to);
    }
}

static void stopping_gives_the_terminal_back_until_continued(void **state)
{
    struct termios before, now;
    struct child c = start_on_terminal(&before, 1);
    int status;

    expect_read(c.from, "ready");
    /* An orphaned process group ignores SIGTSTP's stop; SIGSTOP after the handler shows the same. */
    kill(c.pid, SIGSTOP);
    assert_int_equal(waitpid(c.pid, &status, WUNTRACED), c.pid);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(tcsetattr(c.to, TCSANOW, &before), 0); /* as a shell does */
    kill(c.pid, SIGCONT);
    send_text(&c, "k");
    for (;;) {
        assert_int_equal(tcgetattr(c.to, &now), 0);
        if (!(now.c_lflag & ICANON))
            break;
    }
    send_text(&c, "\rq");
    assert_int_equal(WEXITSTATUS(wait_status(&c)), 7);
    close(c.to);
}

static void piped_input_passes_everything_and_its_end_keeps_running(void **state)
{
    struct child c = start_on_pipes();

    expect_read(c.from, "ready");
    send_text(&c, "\x01"
                  "xa\x01");
    close(c.to);
    expect_read(c.from, "[01][x][a][01]");
    assert_int_equal(waitpid(c.pid, NULL, WNOHANG), 0); /* still there */
    kill(c.pid, SIGKILL);
    wait_status(&c);
    close(c.from);
}

static void closed_output_does_not_kill(void **state)
{
    struct child c = start_on_pipes();

    expect_read(c.from, "ready");
    close(c.from);
    send_text(&c, "xyz");
    send_text(&c, "q");
    assert_int_equal(WEXITSTATUS(wait_status(&c)), 7);
    close(c.to);
}

static void nonblock_is_not_left_on_shared_descriptors(void **state)
{
    int in[2], out[2], status;
    pid_t pid;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid = fork();
    if (!pid) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        run_child(1);
    }
    expect_read(out[0], "ready");
    assert_int_equal(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
    assert_int_equal(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
    assert_int_equal(write(in[1], "q", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 7);
    close(in[0]);
    close(in[1]);
    close(out[0]);
    close(out[1]);
}

/* More than the pipe holds: the reader, who comes after the end, finds every byte. */
static void output_that_waits_is_written_before_the_end(void **state)
{
    struct fixture *f = *state;
    size_t total = 200000, got = 0;
    int out[2], status;
    pid_t pid;

    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid = fork();
    if (!pid) {
        static u8 bytes[200000];

        dup2(out[1], 1);
        close(out[0]);
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = i * 11 >> 3;
        open_ok(f, "stdio");
        assert_int_equal(chardev_write(f->c, bytes, sizeof bytes), sizeof bytes);
        chardev_free(f->c);
        _exit(7);
    }
    close(out[1]);
    for (;;) {
        u8 buf[1000];
        ssize_t n = read(out[0], buf, sizeof buf);

        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++, got++)
            if (buf[i] != (u8)(got * 11 >> 3))
                fail_msg("byte %zu", got);
    }
    assert_int_equal(got, total);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 7);
    close(out[0]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(unknown_kinds_are_refused),
        TEST(null_swallows),
        TEST(file_takes_output),
        TEST(file_that_cannot_be_opened_is_named),
        TEST(full_device_swallows),
        TEST(socket_carries_both_ways),
        TEST(output_without_a_client_is_swallowed),
        TEST(clients_come_one_after_the_other),
        TEST(input_waits_for_room),
        TEST(a_flood_pushes_back_and_loses_nothing),
        TEST(what_a_client_sent_before_it_left_arrives),
        TEST(a_guest_that_does_not_read_does_not_keep_the_next_client_out),
        TEST(a_client_that_only_ended_sending_still_reads),
        TEST(a_stalled_client_holds_output_and_then_takes_it),
        TEST(a_stalled_client_that_leaves_lets_output_go_on),
        TEST(stale_socket_files_are_replaced),
        TEST(a_socket_somebody_listens_on_is_refused),
        TEST(a_file_that_is_no_socket_is_refused_and_kept),
        TEST(long_socket_paths_are_refused),
        TEST(the_socket_file_goes_with_the_console),
        TEST(pty_carries_both_ways),
        TEST(pty_without_a_reader_swallows),
        TEST(terminal_is_raw_and_comes_back),
        TEST(a_terminal_of_another_session_is_raw_too),
        TEST(escape_keys),
        TEST(quit_works_although_the_guest_does_not_read),
        TEST(terminal_comes_back_after_exit_and_signals),
        TEST(stopping_gives_the_terminal_back_until_continued),
        TEST(piped_input_passes_everything_and_its_end_keeps_running),
        TEST(closed_output_does_not_kill),
        TEST(output_that_waits_is_written_before_the_end),
        TEST(nonblock_is_not_left_on_shared_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
