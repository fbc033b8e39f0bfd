/*
 * A network behind user-mode address translation, by libslirp: the guest has a network of its own with a
 * gateway, a name server and DHCP, and its connections are made by this process. No privileges are needed.
 *
 * Rules
 * 1. libslirp runs on the loop's thread with the machine lock held, since it calls the listener. What the
 *    card sends on other threads waits in `in` until then.
 * 2. libslirp says which descriptors it waits for only when it is asked about all of them (pollfds_fill).
 *    It is asked once after a batch of work, however many frames that was, and epoll hears of differences.
 * 3. What the guest cannot have now waits in `arrivals`; while anything waits, nothing more is read from the
 *    host's sockets. Answers that libslirp makes up itself beyond the limit of that are dropped.
 * 4. Between libslirp and the guest there is no wire, so the size of a frame is free: the fewer, the faster.
 *    What the guest's card leaves to be cut reaches libslirp whole, with its checksum made. libslirp is told
 *    that packets may be as long as IP has them, and each SYN of the guest that it takes large segments;
 *    those go on as frames to be cut, by the card or by us. Other long packets become fragments.
 * 5. The guest reaches no service on the host's loopback addresses unless the options say so: libslirp
 *    guards the gateway's address, and the others never reach libslirp. To the name server's address go
 *    questions for names only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backend/net/net-internal.h"
#include "backend/net/offload.h"
#include "base/log.h"

enum { TYPE_IP4 = 0x0800, TYPE_ARP = 0x0806, TYPE_IP6 = 0x86dd };

#define IN_LIMIT (1 << 20)  /* bytes of frames that wait for libslirp */
#define OUT_LIMIT (4 << 20) /* for the guest */
#define SLIRP_MTU 65521     /* the longest packet that libslirp makes: what it allows */
#define SLIRP_MSS (SLIRP_MTU - 60)
#define DHCP_ADDRESSES 16 /* that libslirp gives, from the first one on */

/* A descriptor of libslirp's. */
struct user_source {
    struct event_source source;
    struct user_net *net;
    int revents;   /* SLIRP_POLL_...: what happened since the last poll */
    unsigned fill; /* the last time that libslirp was interested */
};

struct user_timer {
    struct timer timer;
    struct user_net *net;
    SlirpTimerId id;
    void *opaque;
};

struct user_net {
    struct net_backend base;
    struct event_loop *loop;
    const struct vclock *clock;
    Slirp *slirp;
    bool loopback;
    struct in_addr dns;
    struct in6_addr dns6;
    bool card_waits; /* send() refused a frame */
    unsigned fills;
    struct user_source **sources; /* by descriptor */
    int source_count;
    struct deferred work;
    struct timer timer; /* when libslirp wants to be polled without an event */
    unsigned mtu;       /* the guest's */
    u32 fragment_id;
    struct net_queue in;
    struct net_arrivals arrivals;
};

static struct user_net *from_base(struct net_backend *n)
{
    return container_of(n, struct user_net, base);
}

static u64 now_ns(const struct user_net *u)
{
    return u->clock ? vclock_ns(u->clock) : clock_host_ns();
}

/* --- what libslirp calls --- */

/* Rule 4: a long TCP segment, whose headers are put right for that in a copy. */
static void segment_to_guest(struct user_net *u, const u8 *data, const struct net_layers *l)
{
    u8 headers[NET_HEADERS_MAX];
    u32 head = l->transport + 20; /* the fixed part of TCP's header */
    struct iovec iov[2] = {{headers, head}, {(void *)(uintptr_t)(data + head), l->end - head}};
    struct net_frame f = {
        .iov = iov,
        .iovcnt = 2,
        .len = l->end,
        .offload =
            {
                .flags = NET_NEEDS_CSUM,
                .gso_type = l->version == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
                .hdr_len = (u16)l->payload,
                .gso_size = (u16)(u->mtu - (l->payload - l->ip)),
                .csum_start = (u16)l->transport,
                .csum_offset = 16,
            },
    };
    u16 sum = net_fold(net_pseudo_sum(data, l, l->end - l->transport));

    memcpy(headers, data, head);
    headers[head - 4] = (u8)(sum >> 8);
    headers[head - 3] = (u8)sum;
    net_arrivals_add(&u->arrivals, &f);
}

static bool add_arrival(void *to, const struct net_frame *f)
{
    net_arrivals_add(to, f);
    return true;
}

/* What libslirp makes has its checksums, and nothing between it and the guest can have changed it. */
static void whole_to_guest(struct user_net *u, const u8 *data, size_t len)
{
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len, .offload.flags = NET_DATA_VALID};

    if (!(u->arrivals.can & NET_CAN_CSUM))
        f.offload.flags = 0;
    net_arrivals_add(&u->arrivals, &f);
}

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
    struct user_net *u = opaque;
    struct net_layers l;

    if (len < NET_HEADER || len > NET_FRAME_MAX)
        return (ssize_t)len;
    if (len <= u->mtu + NET_HEADER || !net_layers_parse(&l, buf, len))
        whole_to_guest(u, buf, len);
    else if (l.protocol == NET_IP_TCP && !l.fragment && l.payload <= NET_HEADERS_MAX)
        segment_to_guest(u, buf, &l);
    else
        net_fragment(buf, len, u->mtu, ++u->fragment_id, add_arrival, &u->arrivals);
    return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
    (void)opaque;
    log_guest("network: %s", msg);
}

static int64_t clock_get_ns(void *opaque)
{
    return (int64_t)now_ns(opaque);
}

static void timer_fires(struct timer *timer)
{
    struct user_timer *t = container_of(timer, struct user_timer, timer);

    slirp_handle_timer(t->net->slirp, t->id, t->opaque);
}

static void *timer_new(SlirpTimerId id, void *timer_opaque, void *opaque)
{
    struct user_net *u = opaque;
    struct user_timer *t = calloc(1, sizeof *t);

    BUG_ON(!t); /* one, when the network is made */
    t->net = u;
    t->id = id;
    t->opaque = timer_opaque;
    timer_init(&t->timer, u->loop, u->clock, timer_fires);
    return t;
}

static void timer_free(void *timer, void *opaque)
{
    struct user_timer *t = timer;

    (void)opaque;
    if (t)
        timer_cancel(&t->timer);
    free(t);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    struct user_timer *t = timer;

    (void)opaque;
    timer_arm(&t->timer, (u64)MAX(expire_ms, 0) * NS_PER_MS);
}

static void work_soon(struct user_net *u)
{
    event_loop_post(u->loop, &u->work);
}

static void notify(void *opaque)
{
    work_soon(opaque);
}

/* --- its descriptors --- */

static void drop_source(struct user_net *u, int fd)
{
    if (fd < 0 || fd >= u->source_count || !u->sources[fd])
        return;
    event_source_remove(&u->sources[fd]->source);
    free(u->sources[fd]);
    u->sources[fd] = NULL;
}

/* The number is a new file now, of which epoll knows nothing. */
static void register_poll_fd(int fd, void *opaque)
{
    drop_source(opaque, fd);
}

static void unregister_poll_fd(int fd, void *opaque)
{
    drop_source(opaque, fd);
}

static void source_ready(struct event_source *source, u32 events)
{
    struct user_source *s = container_of(source, struct user_source, source);

    s->revents |= (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
                  (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
                  (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
    work_soon(s->net);
}

static int grow_sources(struct user_net *u, int fd)
{
    int count = MAX(fd + 1, u->source_count * 2);
    struct user_source **sources = realloc(u->sources, (size_t)count * sizeof(struct user_source *));

    if (!sources)
        return -ENOMEM;
    for (int i = u->source_count; i < count; i++)
        sources[i] = NULL;
    u->sources = sources;
    u->source_count = count;
    return 0;
}

static int add_source(struct user_net *u, int fd, u32 events)
{
    struct user_source *s;

    if (fd >= u->source_count && grow_sources(u, fd))
        return -ENOMEM;
    s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->net = u;
    if (event_source_add(&s->source, u->loop, fd, events, source_ready, NULL)) {
        free(s);
        return -EIO;
    }
    u->sources[fd] = s;
    return 0;
}

/* libslirp waits for @events of @fd. The descriptor is its own index. */
static int add_poll(int fd, int events, void *opaque)
{
    struct user_net *u = opaque;
    u32 wanted = (events & SLIRP_POLL_IN ? EPOLLIN : 0u) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
                 (events & SLIRP_POLL_PRI ? EPOLLPRI : 0u);

    if (!net_queue_empty(&u->arrivals.waiting)) /* rule 3 */
        wanted &= ~((u32)EPOLLIN | (u32)EPOLLPRI);
    if (fd < 0)
        return -1;
    if (fd < u->source_count && u->sources[fd])
        event_source_set_events(&u->sources[fd]->source, wanted);
    else if (add_source(u, fd, wanted))
        return -1;
    u->sources[fd]->fill = u->fills;
    return fd;
}

static int get_revents(int fd, void *opaque)
{
    struct user_net *u = opaque;
    int revents = 0;

    if (fd >= 0 && fd < u->source_count && u->sources[fd]) {
        revents = u->sources[fd]->revents;
        u->sources[fd]->revents = 0;
    }
    return revents;
}

/* Rule 2. */
static void fill(struct user_net *u)
{
    u32 timeout = UINT32_MAX;

    u->fills++;
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    for (int fd = 0; fd < u->source_count; fd++) {
        if (u->sources[fd] && u->sources[fd]->fill != u->fills)
            event_source_set_events(&u->sources[fd]->source, 0);
    }
    if (timeout == UINT32_MAX)
        timer_cancel(&u->timer);
    else
        timer_arm(&u->timer, now_ns(u) + timeout * NS_PER_MS);
}

/* --- frames --- */

/*
 * Is @f to the name server anything but a question? Its address stands for the host's resolver, which may be
 * on a loopback address, with other services beside it.
 */
static bool abuses_name_server(const u8 *f, size_t len)
{
    struct net_layers l;

    if (!net_layers_parse(&l, f, len) || l.fragment)
        return true;
    if (l.protocol != NET_IP_TCP && l.protocol != NET_IP_UDP)
        return false;
    return f[l.transport + 2] != 0 || f[l.transport + 3] != 53;
}

/* Rule 5. 0/8 is this host too, as far as Linux is concerned. */
static bool forbidden(const struct user_net *u, const u8 *f, size_t len)
{
    static const u8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, zeroes[12];
    const u8 *ip = f + NET_HEADER;

    if (u->loopback)
        return false;
    if (f[12] == 0x08 && f[13] == 0x00) {
        if (len < NET_HEADER + 20 || ip[16] == 127 || ip[16] == 0)
            return true;
        return !memcmp(ip + 16, &u->dns, 4) && abuses_name_server(f, len);
    }
    if (f[12] == 0x86 && f[13] == 0xdd) {
        if (len < NET_HEADER + 40 || !memcmp(ip + 24, mapped, 12) || !memcmp(ip + 24, zeroes, 12))
            return true;
        return !memcmp(ip + 24, &u->dns6, 16) && abuses_name_server(f, len);
    }
    return false;
}

/* What else libslirp would look at (NCSI, of servers' controllers) is nothing that a guest needs. */
static bool known_type(const u8 *f)
{
    unsigned type = get_be16(f + 12);

    return type == TYPE_IP4 || type == TYPE_ARP || type == TYPE_IP6;
}

/*
 * libslirp 4.7 puts fragments together wrongly: a datagram that is complete with its first fragment makes it
 * write where the guest says. The condition is its own, the bit without a meaning included.
 */
static bool is_fragment(const u8 *f, size_t len)
{
    return f[12] == 0x08 && f[13] == 0x00 && len >= NET_HEADER + 20 && ((f[20] & 0xbf) || f[21]);
}

/* Rule 4. libslirp drops what is broken. */
static void from_guest(struct user_net *u, struct net_held *h)
{
    net_set_mss(h->data, h->len, SLIRP_MSS, h->offload.flags & NET_NEEDS_CSUM);
    if (known_type(h->data) && net_finish_checksum(h->data, h->len, &h->offload) &&
        !forbidden(u, h->data, h->len) && !is_fragment(h->data, h->len))
        slirp_input(u->slirp, h->data, (int)h->len);
}

static void work(struct deferred *d)
{
    struct user_net *u = container_of(d, struct user_net, work);

    for (struct net_held *h; (h = net_queue_pop(&u->in)); free(h))
        from_guest(u, h);
    /* Also without an event: it sends what waited for the answer to a request by ARP. */
    slirp_pollfds_poll(u->slirp, 0, get_revents, u);
    fill(u);
    if (u->card_waits) {
        u->card_waits = false;
        if (u->base.listener)
            u->base.listener->writable(u->base.listener);
    }
}

static void time_has_come(struct timer *t)
{
    work_soon(container_of(t, struct user_net, timer));
}

static bool user_send(struct net_backend *n, const struct net_frame *f)
{
    struct user_net *u = from_base(n);

    if (f->len < NET_HEADER || f->len > NET_FRAME_MAX)
        return true;
    work_soon(u);
    if (net_queue_push(&u->in, f))
        return true;
    u->card_waits = true;
    return false;
}

static void user_resume(struct net_backend *n)
{
    net_arrivals_resume(&from_base(n)->arrivals);
}

/* Rule 3: the host's sockets are read again. */
static void drained(struct net_arrivals *a)
{
    work_soon(container_of(a, struct user_net, arrivals));
}

static void user_set_offloads(struct net_backend *n, unsigned can)
{
    net_arrivals_set_offloads(&from_base(n)->arrivals, can);
}

/* --- life --- */

static void user_close(struct net_backend *n)
{
    struct user_net *u = from_base(n);

    n->listener = NULL;
    if (u->slirp)
        slirp_cleanup(u->slirp);
    for (int fd = 0; fd < u->source_count; fd++)
        drop_source(u, fd);
    free(u->sources);
    timer_cancel(&u->timer);
    event_loop_unpost(u->loop, &u->work);
    net_queue_release(&u->in);
    net_arrivals_release(&u->arrivals);
    free(u);
}

static const struct net_backend_ops user_ops = {
    .send = user_send,
    .resume = user_resume,
    .set_offloads = user_set_offloads,
    .close = user_close,
};

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = register_poll_fd,
    .unregister_poll_fd = unregister_poll_fd,
    .notify = notify,
    .timer_new_opaque = timer_new,
};

/* The addresses of the network, in the host's byte order. */
struct user_addresses {
    u32 network, mask, host, dns, dhcp;
};

static u32 place(struct in_addr chosen, u32 otherwise)
{
    return chosen.s_addr ? ntohl(chosen.s_addr) : otherwise;
}

static int inside(const struct user_addresses *a, u32 address, u32 more, const char *what, struct error *err)
{
    struct in_addr in = {htonl(address)};
    char text[INET_ADDRSTRLEN] = "";

    if ((address & a->mask) == a->network && address > a->network && address + more < (a->network | ~a->mask))
        return 0;
    inet_ntop(AF_INET, &in, text, sizeof text);
    return error_set(err, EINVAL, "network: %s %s does not lie within the network", what, text);
}

static int choose_addresses(struct user_addresses *a, const struct net_user_options *o, struct error *err)
{
    unsigned prefix = o->prefix ? o->prefix : 24;
    int r;

    if (prefix < 8 || prefix > 27)
        return error_set(err, EINVAL, "network: a prefix of %u bits; 8 to 27 are possible", prefix);
    a->mask = ~0u << (32 - prefix);
    a->network = place(o->network, 0x0a000200) & a->mask;
    a->host = place(o->host, a->network + 2);
    a->dns = place(o->dns, a->network + 3);
    a->dhcp = place(o->dhcp_start, a->network + 15);
    r = inside(a, a->host, 0, "gateway", err);
    if (!r)
        r = inside(a, a->dns, 0, "name server", err);
    if (!r)
        r = inside(a, a->dhcp, DHCP_ADDRESSES - 1, "DHCP range from", err);
    if (!r && a->host == a->dns)
        r = error_set(err, EINVAL, "network: gateway and name server have the same address");
    return r;
}

static int start(struct user_net *u, const struct net_user_options *o, struct error *err)
{
    struct user_addresses a = {0};
    int r = choose_addresses(&a, o, err);

    if (!r && o->tftp && access(o->tftp, R_OK | X_OK))
        r = error_set_errno(err, errno, "cannot serve '%s' by TFTP", o->tftp);
    if (r)
        return r;
    SlirpConfig c = {
        .version = 4,
        .if_mtu = SLIRP_MTU,
        .if_mru = SLIRP_MTU,
        .restricted = o->restricted,
        .in_enabled = true,
        .vnetwork.s_addr = htonl(a.network),
        .vnetmask.s_addr = htonl(a.mask),
        .vhost.s_addr = htonl(a.host),
        .in6_enabled = !o->no_ipv6,
        .vprefix_len = 64,
        .vhostname = o->hostname,
        .tftp_path = o->tftp,
        .bootfile = o->bootfile,
        .vdhcp_start.s_addr = htonl(a.dhcp),
        .vnameserver.s_addr = htonl(a.dns),
        .vdomainname = o->domain,
        .disable_host_loopback = !o->loopback,
    };
    inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &c.vhost6);
    inet_pton(AF_INET6, "fec0::3", &c.vnameserver6);
    u->dns = c.vnameserver;
    u->dns6 = c.vnameserver6;
    u->slirp = slirp_new(&c, &callbacks, u);
    return u->slirp ? 0 : error_set(err, ENOMEM, "cannot create a user network");
}

static int forward(struct user_net *u, const struct net_forward *f, struct error *err)
{
    char host[INET_ADDRSTRLEN] = "";

    if (slirp_add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port) == 0)
        return 0;
    int e = errno;
    inet_ntop(AF_INET, &f->host, host, sizeof host);
    return error_set_errno(err, e, "cannot forward %s port %s:%u", f->udp ? "udp" : "tcp", host,
                           f->host_port);
}

struct net_backend *net_user_open(const struct net_options *o, struct event_loop *loop, struct error *err)
{
    struct user_net *u = calloc(1, sizeof *u);
    int r;

    if (!u) {
        error_set_errno(err, ENOMEM, "cannot create a user network");
        return NULL;
    }
    u->base = (struct net_backend){
        .ops = &user_ops,
        .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_TSO_ECN,
        .queues = 1,
        .link = true,
    };
    u->mtu = o->mtu ? o->mtu : NET_MTU;
    u->loop = loop;
    u->clock = o->clock;
    u->loopback = o->user.loopback;
    u->work.call = work;
    timer_init(&u->timer, loop, o->clock, time_has_come);
    net_queue_init(&u->in, IN_LIMIT);
    net_arrivals_init(&u->arrivals, &u->base, OUT_LIMIT, loop, drained);
    r = start(u, &o->user, err);
    for (unsigned i = 0; r == 0 && i < o->user.forward_count; i++)
        r = forward(u, &o->user.forward[i], err);
    if (r) {
        user_close(&u->base);
        return NULL;
    }
    work_soon(u);
    return &u->base;
}
