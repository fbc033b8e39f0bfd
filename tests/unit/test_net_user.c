/* The network behind libslirp, with this test as the guest and as the host's servers: no root, no network. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/net/offload.h"

#define TURNS 400 /* of the event loop, at most, until something must have happened */
#define QUIET 20  /* and how many show that it does not happen */
#define TCP4_HEADERS (14 + 20 + 20)
#define GUEST_PORT 3000

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

static const u8 guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
static const u8 gateway_mac[6] = {0x52, 0x55, 10, 0, 2, 2};

struct got {
    u8 *data;
    size_t len;
    struct net_offload offload;
};

struct fixture {
    struct event_loop *loop;
    struct net_backend *net;
    struct net_listener listener;
    struct got got[256];
    unsigned got_count, writable;
    bool busy;    /* the card has no room */
    u32 seq, ack; /* of the guest's connection */
};

/* --- the card --- */

static bool receive(struct net_listener *l, const struct net_frame *f)
{
    struct fixture *x = container_of(l, struct fixture, listener);
    struct got *g = &x->got[x->got_count];
    size_t at = 0;

    if (x->busy)
        return false;
    assert_true(x->got_count < ARRAY_SIZE(x->got));
    g->data = malloc(f->len);
    for (unsigned i = 0; i < f->iovcnt; i++) {
        memcpy(g->data + at, f->iov[i].iov_base, f->iov[i].iov_len);
        at += f->iov[i].iov_len;
    }
    assert_int_equal(at, f->len);
    g->len = at;
    g->offload = f->offload;
    x->got_count++;
    return true;
}

static void writable(struct net_listener *l)
{
    container_of(l, struct fixture, listener)->writable++;
}

static void forget(struct fixture *x)
{
    while (x->got_count)
        free(x->got[--x->got_count].data);
}

static void open_network(struct fixture *x, const struct net_options *o)
{
    struct error err = {0};

    x->net = net_open(o, x->loop, &err);
    assert_string_equal(err.text, "");
    assert_non_null(x->net);
    x->net->listener = &x->listener;
}

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof *x);

    x->loop = event_loop_new(NULL);
    x->listener = (struct net_listener){.receive = receive, .writable = writable};
    x->seq = 1000;
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    forget(x);
    net_close(x->net);
    event_loop_free(x->loop);
    free(x);
    return 0;
}

static void turn(struct fixture *x, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        event_loop_poll(x->loop, NS_PER_MS);
}

/* --- frames --- */

static void put_word(u8 *p, size_t v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static void put_long(u8 *p, u32 v)
{
    put_word(p, v >> 16);
    put_word(p + 2, v & 0xffff);
}

static u32 word(const u8 *p)
{
    return (u32)(p[0] << 8 | p[1]);
}

static u32 longword(const u8 *p)
{
    return word(p) << 16 | word(p + 2);
}

static bool send_frame(struct fixture *x, const void *data, size_t len, struct net_offload offload)
{
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len, .offload = offload};

    return net_send(x->net, &f);
}

/* Ethernet and IPv4 headers before what stands at f + 34; the whole length. */
static size_t finish_ip4(u8 *f, unsigned protocol, const char *from, const char *to, size_t len)
{
    memcpy(f, gateway_mac, 6);
    memcpy(f + 6, guest_mac, 6);
    put_word(f + 12, 0x0800);
    memset(f + 14, 0, 20);
    f[14] = 0x45;
    put_word(f + 16, 20 + len);
    f[22] = 64;
    f[23] = (u8)protocol;
    assert_int_equal(inet_pton(AF_INET, from, f + 26), 1);
    assert_int_equal(inet_pton(AF_INET, to, f + 30), 1);
    put_word(f + 24, (u16)~net_fold(net_sum(f + 14, 20, 0)));
    return 34 + len;
}

/* A segment of the guest's connection to @to, its checksum left to be made. */
static void send_tcp(struct fixture *x, const char *to, u16 port, unsigned flags, const u8 *data, size_t len)
{
    u8 *f = calloc(1, TCP4_HEADERS + 4 + len), *t = f + 34;
    size_t header = flags & SYN ? 24 : 20;
    struct net_offload o = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    struct net_layers l;

    put_word(t, GUEST_PORT);
    put_word(t + 2, port);
    put_long(t + 4, x->seq);
    put_long(t + 8, x->ack);
    t[12] = (u8)(header / 4 << 4);
    t[13] = (u8)flags;
    put_word(t + 14, 0xffff);
    if (flags & SYN)
        memcpy(t + 20, (u8[]){2, 4, 0x05, 0xb4}, 4);
    if (len)
        memcpy(t + header, data, len);
    len = finish_ip4(f, NET_IP_TCP, "10.0.2.15", to, header + len);
    assert_true(net_layers_parse(&l, f, len));
    put_word(t + 16, net_fold(net_pseudo_sum(f, &l, l.end - l.transport)));
    if (len > 1514) {
        o.gso_type = NET_GSO_TCPV4;
        o.gso_size = 1460;
    }
    assert_true(send_frame(x, f, len, o));
    x->seq += (u32)(l.end - l.payload) + (flags & (SYN | FIN) ? 1 : 0);
    free(f);
}

static void send_arp(struct fixture *x, unsigned what, const u8 *to_ip)
{
    u8 f[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    memcpy(f + 6, guest_mac, 6);
    put_word(f + 12, 0x0806);
    memcpy(f + 14, (u8[]){0, 1, 8, 0, 6, 4, 0, (u8)what}, 8);
    memcpy(f + 22, guest_mac, 6);
    memcpy(f + 28, (u8[]){10, 0, 2, 15}, 4);
    memcpy(f + 38, to_ip, 4);
    assert_true(send_frame(x, f, sizeof f, (struct net_offload){0}));
}

/* The next frame of TCP for the guest, from frame *at on; NULL when there is none. */
static struct got *next_tcp(struct fixture *x, unsigned *at)
{
    struct net_layers l;

    while (*at < x->got_count) {
        struct got *g = &x->got[(*at)++];
        if (net_layers_parse(&l, g->data, g->len) && l.protocol == NET_IP_TCP)
            return g;
    }
    return NULL;
}

static struct got *wait_tcp(struct fixture *x, unsigned *at)
{
    struct got *g = next_tcp(x, at);

    for (unsigned i = 0; i < TURNS && !g; i++) {
        turn(x, 1);
        g = next_tcp(x, at);
    }
    assert_non_null(g);
    return g;
}

/* --- the host's servers --- */

/* A listening socket on 127.0.0.1; connections wait in the kernel. */
static int listen_on_host(u16 *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static bool nobody_connects(struct fixture *x, int listen_fd)
{
    turn(x, QUIET);
    int fd = accept(listen_fd, NULL, NULL);
    if (fd >= 0)
        close(fd);
    return fd < 0;
}

/* The guest connects to the gateway's @port; the server's end. */
static int connect_guest(struct fixture *x, u16 port, int listen_fd, unsigned *at)
{
    struct got *g;
    int fd;

    send_arp(x, 1, (u8[]){10, 0, 2, 2});
    send_tcp(x, "10.0.2.2", port, SYN, NULL, 0);
    g = wait_tcp(x, at);
    assert_int_equal(g->data[47], SYN | ACK);
    x->ack = longword(g->data + 38) + 1;
    send_tcp(x, "10.0.2.2", port, ACK, NULL, 0);
    fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* --- tests --- */

static const struct net_options user = {.kind = NET_USER, .user.no_ipv6 = true};

static void test_arp(void **state)
{
    struct fixture *x = *state;

    open_network(x, &user);
    send_arp(x, 1, (u8[]){10, 0, 2, 2});
    for (unsigned i = 0; i < TURNS && !x->got_count; i++)
        turn(x, 1);
    assert_int_equal(x->got_count, 1);
    assert_memory_equal(x->got[0].data, guest_mac, 6);
    assert_int_equal(x->got[0].data[21], 2);
    assert_memory_equal(x->got[0].data + 28, ((u8[]){10, 0, 2, 2}), 4);
}

static void discover(struct fixture *x)
{
    u8 f[400] = {0}, *udp = f + 34, *b = f + 42;

    put_word(udp, 68);
    put_word(udp + 2, 67);
    put_word(udp + 4, 8 + 300);
    b[0] = b[1] = 1;
    b[2] = 6;
    put_long(b + 4, 0x12345678);
    memcpy(b + 28, guest_mac, 6);
    memcpy(b + 236, (u8[]){99, 130, 83, 99, 53, 1, 1, 255}, 8);
    size_t len = finish_ip4(f, NET_IP_UDP, "0.0.0.0", "255.255.255.255", 8 + 300);
    memset(f, 0xff, 6);
    assert_true(send_frame(x, f, len, (struct net_offload){0}));
}

/* The value of option @code of a DHCP message, NULL when it is not there. */
static const u8 *dhcp_option(const struct got *g, u8 code)
{
    for (const u8 *p = g->data + 42 + 240; p + 1 < g->data + g->len && p[0] != 255;
         p += p[0] ? p[1] + 2 : 1) {
        if (p[0] == code)
            return p + 2;
    }
    return NULL;
}

static void check_dhcp(struct fixture *x, const u8 *offered, const u8 *router, const u8 *dns)
{
    discover(x);
    for (unsigned i = 0; i < TURNS && !x->got_count; i++)
        turn(x, 1);
    assert_int_equal(x->got_count, 1);
    assert_int_equal(*dhcp_option(&x->got[0], 53), 2);
    assert_memory_equal(x->got[0].data + 42 + 16, offered, 4);
    assert_memory_equal(dhcp_option(&x->got[0], 3), router, 4);
    assert_memory_equal(dhcp_option(&x->got[0], 6), dns, 4);
}

static void test_dhcp(void **state)
{
    struct fixture *x = *state;

    open_network(x, &user);
    check_dhcp(x, (u8[]){10, 0, 2, 15}, (u8[]){10, 0, 2, 2}, (u8[]){10, 0, 2, 3});
}

static void test_dhcp_in_a_chosen_network(void **state)
{
    struct fixture *x = *state;
    struct net_options o = user;

    o.user.prefix = 16;
    o.user.hostname = "box";
    inet_pton(AF_INET, "172.20.0.0", &o.user.network);
    inet_pton(AF_INET, "172.20.9.9", &o.user.dns);
    inet_pton(AF_INET, "172.20.1.0", &o.user.dhcp_start);
    open_network(x, &o);
    check_dhcp(x, (u8[]){172, 20, 1, 0}, (u8[]){172, 20, 0, 2}, (u8[]){172, 20, 9, 9});
    assert_memory_equal(dhcp_option(&x->got[0], 12), "box", 3);
}

static void test_addresses_outside_the_network_are_refused(void **state)
{
    static const struct {
        const char *network, *host, *dns, *dhcp;
        unsigned prefix;
    } bad[] = {
        {"10.9.0.0", "10.0.2.2", NULL, NULL, 24},   {"10.9.0.0", "10.9.0.255", NULL, NULL, 24},
        {"10.9.0.0", NULL, "10.9.0.0", NULL, 24},   {"10.9.0.0", NULL, "10.9.0.2", NULL, 24},
        {"10.9.0.0", NULL, NULL, "10.9.0.240", 24}, {"10.9.0.0", NULL, NULL, NULL, 28},
        {"10.9.0.0", NULL, NULL, NULL, 7},
    };
    struct fixture *x = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct net_options o = user;
        struct error err = {0};
        inet_pton(AF_INET, bad[i].network, &o.user.network);
        if (bad[i].host)
            inet_pton(AF_INET, bad[i].host, &o.user.host);
        if (bad[i].dns)
            inet_pton(AF_INET, bad[i].dns, &o.user.dns);
        if (bad[i].dhcp)
            inet_pton(AF_INET, bad[i].dhcp, &o.user.dhcp_start);
        o.user.prefix = bad[i].prefix;
        assert_null(net_open(&o, x->loop, &err));
        assert_int_equal(err.code, EINVAL);
    }
}

static void fill_pattern(u8 *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (u8)(i * 3 + (i >> 9));
}

/* What the guest's card left to be cut arrives whole. */
static void test_tcp_to_the_host(void **state)
{
    struct fixture *x = *state;
    struct net_options o = user;
    static u8 data[40000], got[40000];
    unsigned at = 0;
    size_t n = 0;
    u16 port;
    int server = listen_on_host(&port), fd;

    o.user.loopback = true;
    open_network(x, &o);
    fd = connect_guest(x, port, server, &at);
    fill_pattern(data, sizeof data);
    send_tcp(x, "10.0.2.2", port, ACK | PSH, data, sizeof data);
    for (unsigned i = 0; i < TURNS && n < sizeof got; i++) {
        turn(x, 1);
        ssize_t r = read(fd, got + n, sizeof got - n);
        n += r > 0 ? (size_t)r : 0;
    }
    assert_int_equal(n, sizeof data);
    assert_memory_equal(got, data, sizeof data);
    close(fd);
    close(server);
}

/* Takes @len bytes as they come, acknowledging each segment; says how many frames they were. */
static unsigned receive_stream(struct fixture *x, u16 port, unsigned at, u8 *to, size_t len)
{
    unsigned frames = 0;

    for (size_t n = 0; n < len; frames++) {
        struct got *g = wait_tcp(x, &at);
        struct net_layers l;
        assert_true(net_layers_parse(&l, g->data, g->len));
        size_t part = l.end - l.payload;
        if (longword(g->data + 38) != x->ack || !part)
            continue;
        assert_true(n + part <= len);
        memcpy(to + n, g->data + l.payload, part);
        n += part;
        x->ack += (u32)part;
        send_tcp(x, "10.0.2.2", port, ACK, NULL, 0);
    }
    return frames;
}

static void check_tcp_to_guest(struct fixture *x, unsigned can, unsigned *frames)
{
    struct net_options o = user;
    static u8 data[60000], got[60000];
    unsigned at = 0;
    u16 port;
    int server = listen_on_host(&port), fd;

    o.user.loopback = true;
    open_network(x, &o);
    net_set_offloads(x->net, can);
    fd = connect_guest(x, port, server, &at);
    fill_pattern(data, sizeof data);
    assert_int_equal(write(fd, data, sizeof data), sizeof data);
    *frames = receive_stream(x, port, at, got, sizeof got);
    assert_memory_equal(got, data, sizeof data);
    close(fd);
    close(server);
}

/* A card that can put segments together gets few large frames, with what a wire's would have been. */
static void test_tcp_to_the_guest(void **state)
{
    struct fixture *x = *state;
    bool large = false;
    unsigned frames;

    check_tcp_to_guest(x, NET_CAN_CSUM | NET_CAN_TSO4, &frames);
    assert_true(frames < 20);
    for (unsigned i = 0; i < x->got_count; i++) {
        struct got *g = &x->got[i];
        if (g->len <= 1514)
            continue;
        large = true;
        assert_int_equal(g->offload.gso_type, NET_GSO_TCPV4);
        assert_int_equal(g->offload.gso_size, 1460);
        assert_int_equal(g->offload.flags, NET_NEEDS_CSUM);
        assert_true(net_finish_checksum(g->data, g->len, &g->offload));
        u32 pseudo = NET_IP_TCP + (u32)g->len - 34;
        assert_int_equal(net_fold(net_sum(g->data + 34, g->len - 34, net_sum(g->data + 26, 8, pseudo))),
                         0xffff);
    }
    assert_true(large);
}

/* One that cannot gets frames of the wire's size with all checksums. */
static void test_tcp_to_a_plain_card(void **state)
{
    struct fixture *x = *state;
    unsigned frames;

    check_tcp_to_guest(x, 0, &frames);
    assert_true(frames >= 60000 / 1460);
    for (unsigned i = 0; i < x->got_count; i++) {
        struct got *g = &x->got[i];
        struct net_layers l;
        assert_true(g->len <= 1514);
        assert_int_equal(g->offload.flags, 0);
        if (!net_layers_parse(&l, g->data, g->len))
            continue; /* ARP */
        assert_int_equal(net_fold(net_sum(g->data + 34, l.end - 34, net_pseudo_sum(g->data, &l, l.end - 34))),
                         0xffff);
    }
}

/* The guest reaches the host's own services only when it was said to. */
static void test_loopback_is_out_of_reach(void **state)
{
    static const char *const addresses[] = {"10.0.2.2", "127.0.0.1", "127.1.2.3",
                                            "0.0.0.0",  "0.0.0.1",   "255.255.255.255"};
    struct fixture *x = *state;
    u16 port;
    int server = listen_on_host(&port);

    open_network(x, &user);
    for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
        send_tcp(x, addresses[i], port, SYN, NULL, 0);
        assert_true(nobody_connects(x, server));
    }
    close(server);
}

static void test_loopback_of_ipv6_is_out_of_reach(void **state)
{
    static const char *const addresses[] = {"::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "fec0::2"};
    const struct net_options o = {.kind = NET_USER};
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    socklen_t len = sizeof a;
    struct fixture *x = *state;
    int server = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (server < 0 || bind(server, (struct sockaddr *)&a, sizeof a))
        skip();
    assert_int_equal(listen(server, 5), 0);
    assert_int_equal(getsockname(server, (struct sockaddr *)&a, &len), 0);
    open_network(x, &o);
    for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
        u8 f[74] = {0}, *ip = f + 14, *t = f + 54;
        struct net_layers l;
        memcpy(f, gateway_mac, 6);
        memcpy(f + 6, guest_mac, 6);
        put_word(f + 12, 0x86dd);
        ip[0] = 0x60;
        ip[5] = 20;
        ip[6] = NET_IP_TCP;
        ip[7] = 64;
        inet_pton(AF_INET6, "fec0::15", ip + 8);
        assert_int_equal(inet_pton(AF_INET6, addresses[i], ip + 24), 1);
        put_word(t, GUEST_PORT);
        put_word(t + 2, ntohs(a.sin6_port));
        t[12] = 0x50;
        t[13] = SYN;
        assert_true(net_layers_parse(&l, f, sizeof f));
        put_word(t + 16, (u16)~net_fold(net_sum(t, 20, net_pseudo_sum(f, &l, 20))));
        assert_true(send_frame(x, f, sizeof f, (struct net_offload){0}));
        assert_true(nobody_connects(x, server));
    }
    close(server);
}

static void test_restricted(void **state)
{
    struct fixture *x = *state;
    struct net_options o = user;
    u16 port;
    int server = listen_on_host(&port);

    o.user.loopback = o.user.restricted = true;
    open_network(x, &o);
    send_tcp(x, "10.0.2.2", port, SYN, NULL, 0);
    assert_true(nobody_connects(x, server));
    close(server);
}

static u16 free_port(void)
{
    u16 port;

    close(listen_on_host(&port));
    return port;
}

/* A connection to the forwarded port is one to the guest, whose address is asked for first. */
static void test_forwarded_port(void **state)
{
    struct fixture *x = *state;
    struct net_options o = user;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    u16 port = free_port();
    unsigned at = 0;
    struct got *g;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    o.user.forward_count = 1;
    o.user.forward[0] =
        (struct net_forward){.host.s_addr = htonl(INADDR_LOOPBACK), .host_port = port, .guest_port = 22};
    open_network(x, &o);
    a.sin_port = htons(port);
    assert_true(connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EINPROGRESS);
    for (unsigned i = 0; i < TURNS && !x->got_count; i++)
        turn(x, 1);
    assert_int_equal(x->got_count, 1);
    assert_int_equal(word(x->got[0].data + 12), 0x0806);
    send_arp(x, 2, (u8[]){10, 0, 2, 2});
    g = wait_tcp(x, &at);
    assert_int_equal(g->data[47], SYN);
    assert_int_equal(word(g->data + 36), 22);
    close(fd);
}

static void test_forwarded_port_in_use(void **state)
{
    struct fixture *x = *state;
    struct net_options o = user;
    struct error err = {0};
    u16 port;
    int server = listen_on_host(&port);

    o.user.forward_count = 1;
    o.user.forward[0] =
        (struct net_forward){.host.s_addr = htonl(INADDR_LOOPBACK), .host_port = port, .guest_port = 22};
    assert_null(net_open(&o, x->loop, &err));
    assert_int_equal(err.code, EADDRINUSE);
    assert_non_null(strstr(err.text, "127.0.0.1"));
    close(server);
}

/* Frames that the card has no room for come later, in order. */
static void test_busy_card(void **state)
{
    struct fixture *x = *state;

    open_network(x, &user);
    x->busy = true;
    for (unsigned i = 0; i < 3; i++)
        send_arp(x, 1, (u8[]){10, 0, 2, (u8)(2 + i % 2)});
    turn(x, QUIET);
    assert_int_equal(x->got_count, 0);
    x->busy = false;
    net_resume(x->net);
    for (unsigned i = 0; i < TURNS && x->got_count < 3; i++)
        turn(x, 1);
    assert_int_equal(x->got_count, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(x->got[i].data[31], 2 + i % 2);
}

/* More than is kept is refused, and taken again after writable(). */
static void test_flood_from_the_card(void **state)
{
    struct fixture *x = *state;
    static u8 frame[60000];
    unsigned sent = 0;

    open_network(x, &user);
    put_word(frame + 12, 0x88b5); /* nobody's protocol */
    while (sent < 1000 && send_frame(x, frame, sizeof frame, (struct net_offload){0}))
        sent++;
    assert_true(sent > 1 && sent < 1000);
    assert_int_equal(x->writable, 0);
    for (unsigned i = 0; i < TURNS && !x->writable; i++)
        turn(x, 1);
    assert_int_equal(x->writable, 1);
    assert_true(send_frame(x, frame, sizeof frame, (struct net_offload){0}));
}

static void test_frames_of_impossible_lengths(void **state)
{
    struct fixture *x = *state;
    static u8 frame[NET_FRAME_MAX + 1];
    struct net_offload o = {.flags = NET_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff};

    open_network(x, &user);
    put_word(frame + 12, 0x0800);
    for (size_t len = 0; len < 40; len++)
        assert_true(send_frame(x, frame, len, (struct net_offload){0}));
    assert_true(send_frame(x, frame, sizeof frame, (struct net_offload){0}));
    assert_true(send_frame(x, frame, 60, o));
    turn(x, QUIET);
    assert_int_equal(x->got_count, 0);
}

/* Also with the bit that means nothing: libslirp must not see any of them. */
static void test_fragments_of_the_guest_are_dropped(void **state)
{
    static const u16 bits[] = {0x2000, 0x0006, 0x8000, 0x2001, 0xffff};
    struct fixture *x = *state;
    u8 f[100];

    open_network(x, &user);
    for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
        memset(f, 0x41, sizeof f);
        finish_ip4(f, 0, "10.0.2.15", "10.0.2.2", 28);
        put_word(f + 20, bits[i]);
        put_word(f + 24, 0);
        put_word(f + 24, (u16)~net_fold(net_sum(f + 14, 20, 0)));
        assert_true(send_frame(x, f, 62, (struct net_offload){0}));
        turn(x, 2);
    }
    assert_int_equal(x->got_count, 0);
}

/* libslirp answers for the controller of a server's network (NCSI). */
static void test_other_kinds_of_frames_are_dropped(void **state)
{
    struct fixture *x = *state;
    u8 f[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    open_network(x, &user);
    memcpy(f + 6, guest_mac, 6);
    put_word(f + 12, 0x88f8);
    f[15] = 1; /* revision, of a command to clear the initial state */
    assert_true(send_frame(x, f, sizeof f, (struct net_offload){0}));
    turn(x, QUIET);
    assert_int_equal(x->got_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_arp, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dhcp, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dhcp_in_a_chosen_network, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses_outside_the_network_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp_to_the_host, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp_to_the_guest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tcp_to_a_plain_card, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loopback_is_out_of_reach, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loopback_of_ipv6_is_out_of_reach, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restricted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forwarded_port, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forwarded_port_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy_card, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood_from_the_card, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_kinds_of_frames_are_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fragments_of_the_guest_are_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_frames_of_impossible_lengths, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
