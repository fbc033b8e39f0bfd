/* Networks other than `user`: the cable between two machines, taps, captures, limits, and how they are
 * opened. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/net/filter.h"
#include "backend/net/offload.h"

#define TURNS 2000 /* of the event loop, at most, until something must have happened */
#define QUIET 20   /* and how many show that it does not happen */
#define ALL_OFFLOADS (NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_TSO_ECN | NET_CAN_USO)

/* A network, and the card on it. */
struct card {
    struct net_backend *net;
    struct net_listener listener;
    u8 *data[300];
    size_t len[300];
    struct net_offload offload[300];
    unsigned count, writable, link_changes;
    bool busy;
};

struct fixture {
    struct event_loop *loop;
    struct card a, b;
    char dir[64], path[96];
};

static bool receive(struct net_listener *l, const struct net_frame *f)
{
    struct card *c = container_of(l, struct card, listener);
    size_t at = 0;

    if (c->busy)
        return false;
    assert_true(c->count < ARRAY_SIZE(c->data));
    c->data[c->count] = malloc(f->len);
    for (unsigned i = 0; i < f->iovcnt; i++) {
        memcpy(c->data[c->count] + at, f->iov[i].iov_base, f->iov[i].iov_len);
        at += f->iov[i].iov_len;
    }
    assert_int_equal(at, f->len);
    c->offload[c->count] = f->offload;
    c->len[c->count++] = at;
    return true;
}

static void writable(struct net_listener *l)
{
    container_of(l, struct card, listener)->writable++;
}

static void link_changed(struct net_listener *l, bool up)
{
    struct card *c = container_of(l, struct card, listener);

    assert_int_equal(c->net->link, up);
    c->link_changes++;
}

static void forget(struct card *c)
{
    while (c->count)
        free(c->data[--c->count]);
}

static void attach(struct card *c, struct net_backend *net)
{
    assert_non_null(net);
    c->net = net;
    c->listener =
        (struct net_listener){.receive = receive, .writable = writable, .link_changed = link_changed};
    net->listener = &c->listener;
}

static void open_card(struct fixture *x, struct card *c, const struct net_options *o)
{
    struct error err = {0};
    struct net_backend *n = net_open(o, x->loop, &err);

    assert_string_equal(err.text, "");
    attach(c, n);
}

static void close_card(struct card *c)
{
    net_close(c->net);
    c->net = NULL;
    forget(c);
}

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof *x);

    x->loop = event_loop_new(NULL);
    snprintf(x->dir, sizeof x->dir, "/tmp/trapeze-test-net-XXXXXX");
    if (!mkdtemp(x->dir))
        return -1;
    snprintf(x->path, sizeof x->path, "%s/file", x->dir);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    close_card(&x->a);
    close_card(&x->b);
    event_loop_free(x->loop);
    unlink(x->path);
    rmdir(x->dir);
    free(x);
    return 0;
}

static void turn(struct fixture *x, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        event_loop_poll(x->loop, NS_PER_MS);
}

#define WAIT_FOR(x, condition)                                  \
    do {                                                        \
        for (unsigned i_ = 0; i_ < TURNS && !(condition); i_++) \
            turn(x, 1);                                         \
        assert_true(condition);                                 \
    } while (0)

static bool send_with(struct card *c, const void *data, size_t len, struct net_offload offload)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)data, 10}, {(u8 *)(uintptr_t)data + 10, len - 10}};
    struct net_frame f = {.iov = iov, .iovcnt = 2, .len = len, .offload = offload};

    return net_send(c->net, &f);
}

static bool send_plain(struct card *c, u8 mark, size_t len)
{
    static u8 data[NET_FRAME_MAX];

    memset(data, mark, len);
    return send_with(c, data, len, (struct net_offload){0});
}

static void put_word(u8 *p, size_t v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

/* --- the cable --- */

static void open_cable(struct fixture *x, struct card *c)
{
    open_card(x, c, &(struct net_options){.kind = NET_SOCKET, .socket = x->path});
}

static void join(struct fixture *x)
{
    open_cable(x, &x->a);
    assert_false(x->a.net->link);
    open_cable(x, &x->b);
    WAIT_FOR(x, x->a.net->link && x->b.net->link);
}

static void test_cable_carries_frames_both_ways(void **state)
{
    struct fixture *x = *state;

    join(x);
    assert_int_equal(x->a.link_changes, 1);
    assert_true(send_plain(&x->a, 1, 60));
    assert_true(send_plain(&x->a, 2, 14));
    assert_true(send_plain(&x->b, 3, NET_FRAME_MAX));
    WAIT_FOR(x, x->b.count == 2 && x->a.count == 1);
    assert_int_equal(x->b.len[0], 60);
    assert_int_equal(x->b.data[0][59], 1);
    assert_int_equal(x->b.len[1], 14);
    assert_int_equal(x->a.len[0], NET_FRAME_MAX);
    assert_int_equal(x->a.data[0][NET_FRAME_MAX - 1], 3);
}

/* A frame to be cut, as the other card can take it: whole, or in pieces with checksums. */
static void test_cable_carries_offloads(void **state)
{
    static const struct net_offload o = {.flags = NET_NEEDS_CSUM | NET_DATA_VALID,
                                         .gso_type = NET_GSO_TCPV4,
                                         .hdr_len = 54,
                                         .gso_size = 1000,
                                         .csum_start = 34,
                                         .csum_offset = 16};
    struct fixture *x = *state;
    u8 f[54 + 2500] = {0};

    put_word(f + 12, 0x0800);
    f[14] = 0x45;
    put_word(f + 16, sizeof f - 14);
    f[23] = NET_IP_TCP;
    f[46] = 0x50;
    join(x);
    net_set_offloads(x->b.net, ALL_OFFLOADS);
    assert_true(send_with(&x->a, f, sizeof f, o));
    WAIT_FOR(x, x->b.count == 1);
    assert_int_equal(x->b.len[0], sizeof f);
    assert_int_equal(x->b.offload[0].gso_size, 1000);
    assert_int_equal(x->b.offload[0].flags, NET_NEEDS_CSUM);
    forget(&x->b);
    net_set_offloads(x->b.net, 0);
    assert_true(send_with(&x->a, f, sizeof f, o));
    WAIT_FOR(x, x->b.count == 3);
    assert_int_equal(x->b.len[2], 554);
    for (unsigned i = 0; i < 3; i++) {
        struct net_layers l;
        assert_true(net_layers_parse(&l, x->b.data[i], x->b.len[i]));
        assert_int_equal(
            net_fold(net_sum(x->b.data[i] + 34, l.end - 34, net_pseudo_sum(x->b.data[i], &l, l.end - 34))),
            0xffff);
    }
}

/* Nothing is lost: a card that does not take frames makes the other one wait. */
static void test_cable_pushes_back(void **state)
{
    struct fixture *x = *state;
    unsigned sent = 0, got = 0;

    join(x);
    x->b.busy = true;
    for (unsigned i = 0; i < 5000 && send_plain(&x->a, (u8)sent, 30000); i++) {
        sent++;
        turn(x, 1);
    }
    assert_in_range(sent, 1, 4999);
    assert_int_equal(x->b.count, 0);
    x->b.busy = false;
    net_resume(x->b.net);
    while (got < sent) {
        WAIT_FOR(x, x->b.count);
        for (unsigned i = 0; i < x->b.count; i++)
            assert_int_equal(x->b.data[i][100], (u8)(got + i));
        got += x->b.count;
        forget(&x->b);
    }
    WAIT_FOR(x, x->a.writable);
    assert_true(send_plain(&x->a, 0, 60));
}

static void test_cable_is_joined_again(void **state)
{
    struct fixture *x = *state;

    join(x);
    close_card(&x->b);
    WAIT_FOR(x, !x->a.net->link);
    assert_true(send_plain(&x->a, 1, 60)); /* goes nowhere */
    open_cable(x, &x->b);
    WAIT_FOR(x, x->a.net->link && x->b.net->link);
    assert_true(send_plain(&x->b, 2, 60));
    WAIT_FOR(x, x->a.count == 1);
    close_card(&x->a); /* the one that listened: the other tries again, and then listens itself */
    WAIT_FOR(x, !x->b.net->link);
    assert_int_equal(access(x->path, F_OK), -1);
    open_cable(x, &x->a);
    WAIT_FOR(x, x->a.net->link && x->b.net->link);
}

static void test_cable_has_two_ends(void **state)
{
    struct fixture *x = *state;
    struct card third = {0};

    join(x);
    open_cable(x, &third);
    turn(x, QUIET);
    assert_false(third.net->link);
    assert_true(x->a.net->link && x->b.net->link);
    close_card(&third);
    assert_true(send_plain(&x->a, 1, 60));
    WAIT_FOR(x, x->b.count == 1);
}

/* The file of a machine that died is replaced; one that is no socket stays. */
static void test_cable_file(void **state)
{
    struct fixture *x = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct net_options o = {.kind = NET_SOCKET, .socket = x->path};
    struct error err = {0};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(a.sun_path, sizeof a.sun_path, "%s", x->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    join(x);
    close_card(&x->b);
    close_card(&x->a);
    assert_int_equal(access(x->path, F_OK), -1);
    close(open(x->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_null(net_open(&o, x->loop, &err));
    assert_non_null(strstr(err.text, x->path));
    assert_int_equal(access(x->path, F_OK), 0);
}

/* A connection of something that is no machine. */
static int intrude(struct fixture *x)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(a.sun_path, sizeof a.sun_path, "%s", x->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    turn(x, 2);
    return fd;
}

static bool is_hung_up(struct fixture *x, int fd)
{
    char c[64];

    turn(x, QUIET);
    while (recv(fd, c, sizeof c, 0) > 0)
        ;
    return recv(fd, c, sizeof c, 0) == 0;
}

static void test_cable_with_a_hostile_peer(void **state)
{
    static const char greeting[16] = "trapeze net 1\n";
    static u8 data[NET_FRAME_MAX + 100];
    static const struct net_offload bad[] = {
        {.flags = NET_NEEDS_CSUM, .csum_start = 59, .csum_offset = 0},
        {.flags = NET_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff},
        {.flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4, .csum_start = 34, .csum_offset = 16},
        {.gso_type = NET_GSO_TCPV4, .gso_size = 1000},
        {.gso_type = 0x7f, .gso_size = 1000},
        {.flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCPV6, .hdr_len = 61, .gso_size = 99, .csum_start = 34},
    };
    struct fixture *x = *state;
    int fd;

    open_cable(x, &x->a);
    net_set_offloads(x->a.net, ALL_OFFLOADS);
    fd = intrude(x); /* says nothing that we know */
    assert_int_equal(send(fd, data, 70, 0), 70);
    assert_true(is_hung_up(x, fd));
    close(fd);
    assert_false(x->a.net->link);
    fd = intrude(x); /* then a message too long, too short */
    assert_int_equal(send(fd, greeting, sizeof greeting, 0), sizeof greeting);
    WAIT_FOR(x, x->a.net->link);
    assert_int_equal(send(fd, data, sizeof data, 0), sizeof data);
    assert_true(is_hung_up(x, fd));
    close(fd);
    for (size_t len = 1; len < 24; len++) {
        fd = intrude(x);
        assert_int_equal(send(fd, greeting, sizeof greeting, 0), sizeof greeting);
        assert_int_equal(send(fd, data, len, 0), len);
        assert_true(is_hung_up(x, fd));
        close(fd);
    }
    fd = intrude(x); /* headers that do not fit their frame: dropped */
    assert_int_equal(send(fd, greeting, sizeof greeting, 0), sizeof greeting);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        memcpy(data, &bad[i], sizeof bad[i]);
        assert_int_equal(send(fd, data, 70, 0), 70);
    }
    memset(data, 0, sizeof bad[0]);
    assert_int_equal(send(fd, data, 70, 0), 70);
    WAIT_FOR(x, x->a.count);
    turn(x, QUIET);
    assert_int_equal(x->a.count, 1);
    assert_int_equal(x->a.len[0], 60);
    close(fd);
}

/* --- captures --- */

static size_t read_file(const char *path, u8 *to, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, to, room);

    close(fd);
    return n < 0 ? 0 : (size_t)n;
}

static u32 u32_at(const u8 *p)
{
    u32 v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* What the card sent and got, whole, in order, each when it was taken. */
static void test_capture(void **state)
{
    struct fixture *x = *state;
    struct card below = {0};
    char capture[128];
    u8 file[4096];
    size_t len;

    snprintf(capture, sizeof capture, "%s/capture", x->dir);
    open_card(x, &x->a, &(struct net_options){.kind = NET_SOCKET, .socket = x->path, .pcap = capture});
    open_cable(x, &below);
    WAIT_FOR(x, x->a.net->link && below.net->link);
    assert_true(send_plain(&x->a, 7, 100));
    assert_true(send_plain(&below, 9, 61));
    WAIT_FOR(x, x->a.count == 1);
    len = read_file(capture, file, sizeof file);
    assert_int_equal(len, 24 + 16 + 100 + 16 + 61);
    assert_int_equal(u32_at(file), 0xa1b23c4d);
    assert_int_equal(u32_at(file + 4), 2 | 4 << 16);
    assert_true(u32_at(file + 16) >= NET_FRAME_MAX);
    assert_int_equal(u32_at(file + 20), 1);
    assert_true(u32_at(file + 28) < NS_PER_SEC);
    assert_int_equal(u32_at(file + 32), 100);
    assert_int_equal(u32_at(file + 36), 100);
    assert_int_equal(file[40], 7);
    assert_int_equal(u32_at(file + 140 + 8), 61);
    assert_int_equal(file[156], 9);
    x->a.busy = true; /* not taken: not there */
    assert_true(send_plain(&below, 9, 61));
    turn(x, QUIET);
    assert_int_equal(read_file(capture, file, sizeof file), len);
    x->a.busy = false;
    net_resume(x->a.net);
    WAIT_FOR(x, x->a.count == 2);
    assert_int_equal(read_file(capture, file, sizeof file), len + 16 + 61);
    close_card(&below);
    unlink(capture);
}

static void test_capture_that_cannot_be_written(void **state)
{
    struct fixture *x = *state;
    struct error err = {0};

    assert_null(net_open(&(struct net_options){.kind = NET_NULL, .pcap = "/nowhere/file"}, x->loop, &err));
    assert_non_null(strstr(err.text, "/nowhere/file"));
    assert_null(net_open(&(struct net_options){.kind = NET_NULL, .pcap = "/dev/full"}, x->loop, &err));
    assert_int_equal(err.code, ENOSPC);
}

/* --- limits --- */

/* What lies below the limit: takes all, and tries to bring a frame until it is taken. */
struct source {
    struct net_backend base;
    unsigned sent, resumed;
};

static bool source_send(struct net_backend *n, const struct net_frame *f)
{
    container_of(n, struct source, base)->sent += (unsigned)f->len;
    return true;
}

static void source_resume(struct net_backend *n)
{
    container_of(n, struct source, base)->resumed++;
}

static void source_close(struct net_backend *n)
{
    (void)n;
}

static bool bring(struct source *s, size_t len)
{
    static u8 data[NET_FRAME_MAX];
    struct iovec iov = {data, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len};

    return s->base.listener->receive(s->base.listener, &f);
}

static void test_limit(void **state)
{
    static const struct net_backend_ops ops = {
        .send = source_send, .resume = source_resume, .close = source_close};
    struct fixture *x = *state;
    static struct source s; /* until the teardown */
    static struct vclock clock;
    u64 now = 5 * NS_PER_SEC;

    s.base = (struct net_backend){.ops = &ops, .can = NET_CAN_CSUM, .queues = 3, .link = true};
    vclock_init_manual(&clock);
    vclock_set_ns(&clock, now);
    attach(&x->a, net_throttle_open(&s.base, 100000, x->loop, &clock, NULL));
    assert_int_equal(x->a.net->can, NET_CAN_CSUM);
    assert_int_equal(x->a.net->queues, 3);
    for (unsigned second = 0; second < 4; second++) {
        for (unsigned ms = 0; ms < 1000; ms++, now += NS_PER_MS) {
            vclock_set_ns(&clock, now);
            event_loop_clock_changed(x->loop);
            event_loop_poll(x->loop, 0);
            while (send_plain(&x->a, 0, 1000))
                ;
        }
        assert_in_range(s.sent, (second + 1) * 100000 - 2000, (second + 1) * 100000 + 12000);
    }
    assert_in_range(x->a.writable, 350, 400);
    vclock_set_ns(&clock, now += NS_PER_SEC); /* a tenth of a second's after a long rest */
    event_loop_clock_changed(x->loop);
    event_loop_poll(x->loop, 0);
    for (unsigned i = 0; i < 10; i++)
        assert_true(bring(&s, 1000));
    assert_false(bring(&s, 1000));
    assert_int_equal(s.resumed, 0);
    vclock_set_ns(&clock, now + NS_PER_MS);
    event_loop_clock_changed(x->loop);
    event_loop_poll(x->loop, 0);
    assert_int_equal(s.resumed, 1);
    assert_true(bring(&s, 50000)); /* longer than what may be done at once: paid for afterwards */
    assert_false(bring(&s, 60));
    vclock_set_ns(&clock, now + 490 * NS_PER_MS);
    assert_false(bring(&s, 60));
    vclock_set_ns(&clock, now + 510 * NS_PER_MS);
    assert_true(bring(&s, 60));
}

/* --- taps --- */

/* An interface in a network namespace of our own, with an address and up; 77: not possible here. */
static int make_interface(const char *name)
{
    struct ifreq ifr = {0};
    struct sockaddr_in a = {.sin_family = AF_INET};
    int fd;

    if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
        return 77;
    if (access("/dev/net/tun", R_OK | W_OK))
        return 77;
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", name);
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETPERSIST, 1))
        return 77;
    close(fd);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, "10.9.9.1", &a.sin_addr);
    memcpy(&ifr.ifr_addr, &a, sizeof a);
    if (ioctl(fd, SIOCSIFADDR, &ifr))
        return 1;
    inet_pton(AF_INET, "255.255.255.0", &a.sin_addr);
    memcpy(&ifr.ifr_netmask, &a, sizeof a);
    if (ioctl(fd, SIOCSIFNETMASK, &ifr))
        return 2;
    ifr.ifr_flags = IFF_UP;
    return ioctl(fd, SIOCSIFFLAGS, &ifr) ? 3 : fd;
}

/* Runs @test in a child, which may leave this network namespace. */
static void in_child(int (*test)(void))
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (!pid)
        _exit(test());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A datagram whose checksum the kernel is to make reaches a socket; the kernel asks by ARP for who answers.
 */
static int use_tap(struct fixture *x, const struct net_options *o, int udp)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(4000)};
    u8 f[14 + 28 + 5] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2, 3, 8, 0, 0x45}, got[10];
    struct net_offload offload = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
    struct net_layers l;
    struct error err = {0};

    if (bind(udp, (struct sockaddr *)&a, sizeof a))
        return 10;
    x->loop = event_loop_new(NULL);
    attach(&x->a, net_open(o, x->loop, &err));
    net_set_offloads(x->a.net, x->a.net->can);
    put_word(f + 16, 33);
    f[22] = 64;
    f[23] = NET_IP_UDP;
    memcpy(f + 26, (u8[]){10, 9, 9, 2, 10, 9, 9, 1}, 8);
    put_word(f + 24, (u16)~net_fold(net_sum(f + 14, 20, 0)));
    put_word(f + 34, 5000);
    put_word(f + 36, 4000);
    put_word(f + 38, 13);
    memcpy(f + 42, (u8[]){0x68, 0x65, 0x6c, 0x6c, 0x6f}, 5);
    if (!net_layers_parse(&l, f, sizeof f))
        return 11;
    put_word(f + 40, net_fold(net_pseudo_sum(f, &l, 13)));
    if (!(x->a.net->can & NET_CAN_CSUM) && !net_finish_checksum(f, sizeof f, &offload))
        return 12;
    setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 20}, sizeof(struct timeval));
    if (!send_with(&x->a, f, sizeof f, offload))
        return 12;
    if (recv(udp, got, sizeof got, 0) != 5 || memcmp(got, "hello", 5) != 0)
        return 13;
    inet_pton(AF_INET, "10.9.9.2", &a.sin_addr);
    if (sendto(udp, "back", 4, 0, (struct sockaddr *)&a, sizeof a) != 4)
        return 14;
    for (unsigned i = 0; i < TURNS; i++) {
        turn(x, 1);
        for (unsigned j = 0; j < x->a.count; j++) {
            if (!memcmp(x->a.data[j] + 12, (u8[]){8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, 10))
                return 0;
        }
        forget(&x->a);
    }
    return 15;
}

static int tap_by_name(void)
{
    struct fixture x = {0};
    int udp = make_interface("trapeze0");

    return udp < 4 || udp == 77
               ? udp
               : use_tap(&x, &(struct net_options){.kind = NET_TAP, .tap = "trapeze0", .queues = 2}, udp);
}

static int tap_by_descriptor(void)
{
    struct fixture x = {0};
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE};
    int udp = make_interface("trapeze1"), fd;

    if (udp < 4 || udp == 77)
        return udp;
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "trapeze1");
    if (ioctl(fd, TUNSETIFF, &ifr))
        return 20;
    return use_tap(&x, &(struct net_options){.kind = NET_TAP, .fd = fd}, udp);
}

static void test_tap_by_name(void **state)
{
    (void)state;
    in_child(tap_by_name);
}

static void test_tap_by_descriptor(void **state)
{
    (void)state;
    in_child(tap_by_descriptor);
}

static void test_taps_that_are_none(void **state)
{
    struct fixture *x = *state;
    struct error err = {0};
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    assert_null(net_open(&(struct net_options){.kind = NET_TAP, .fd = fd}, x->loop, &err));
    assert_non_null(strstr(err.text, "is not a tap"));
    assert_null(net_open(&(struct net_options){.kind = NET_TAP, .fd = fd, .queues = 2}, x->loop, &err));
    assert_non_null(strstr(err.text, "one pair"));
    assert_null(
        net_open(&(struct net_options){.kind = NET_TAP, .tap = "a-name-that-is-too-long"}, x->loop, &err));
    assert_non_null(strstr(err.text, "a-name-that"));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cable_carries_frames_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cable_carries_offloads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cable_pushes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cable_is_joined_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cable_has_two_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cable_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cable_with_a_hostile_peer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_capture, setup, teardown),
        cmocka_unit_test_setup_teardown(test_capture_that_cannot_be_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tap_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tap_by_descriptor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_taps_that_are_none, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
