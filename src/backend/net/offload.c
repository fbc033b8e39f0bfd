#include "backend/net/offload.h"

#include <errno.h>

enum { ETHER_IP4 = 0x0800, ETHER_IP6 = 0x86dd, ETHER_VLAN = 0x8100, ETHER_QINQ = 0x88a8 };
enum { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_PSH = 0x08, TCP_CWR = 0x80 };
enum { IP6_HOP_BY_HOP = 0, IP6_ROUTING = 43, IP6_FRAGMENT = 44, IP6_DESTINATION = 60 };

#define IP4_MORE 0x2000u
#define IP4_OFFSET 0x1fffu
#define MAX_EXTENSIONS 8

/* --- headers --- */

static bool parse_ip4(struct net_layers *l, const u8 *frame, size_t len)
{
    const u8 *ip = frame + l->ip;
    u32 header, total;

    if (len < l->ip + 20 || ip[0] >> 4 != 4)
        return false;
    header = (ip[0] & 15u) * 4;
    total = get_be16(ip + 2);
    if (header < 20 || total < header || total > len - l->ip)
        return false;
    l->version = 4;
    l->protocol = ip[9];
    l->fragment = (get_be16(ip + 6) & (IP4_MORE | IP4_OFFSET)) != 0;
    l->transport = l->ip + header;
    l->end = l->ip + total;
    return true;
}

static bool parse_ip6(struct net_layers *l, const u8 *frame, size_t len)
{
    const u8 *ip = frame + l->ip;

    if (len < l->ip + 40 || ip[0] >> 4 != 6 || get_be16(ip + 4) > len - l->ip - 40)
        return false;
    l->version = 6;
    l->protocol = ip[6];
    l->transport = l->ip + 40;
    l->end = l->transport + get_be16(ip + 4);
    for (unsigned i = 0; i < MAX_EXTENSIONS; i++) {
        const u8 *next = frame + l->transport;
        if (l->protocol == IP6_FRAGMENT)
            l->fragment = true;
        if (l->fragment ||
            (l->protocol != IP6_HOP_BY_HOP && l->protocol != IP6_ROUTING && l->protocol != IP6_DESTINATION))
            return true;
        if (l->end - l->transport < 8 || l->end - l->transport < (next[1] + 1u) * 8)
            return false;
        l->protocol = next[0];
        l->transport += (next[1] + 1u) * 8;
    }
    return false;
}

static bool parse_transport(struct net_layers *l, const u8 *frame)
{
    u32 room = l->end - l->transport, header;

    l->payload = l->transport;
    if (l->fragment)
        return true;
    if (l->protocol == NET_IP_TCP) {
        header = room < 20 ? 0 : (frame[l->transport + 12] >> 4) * 4u;
        if (header < 20 || header > room)
            return false;
        l->payload += header;
    } else if (l->protocol == NET_IP_UDP) {
        if (room < 8)
            return false;
        l->payload += 8;
    }
    return true;
}

bool net_layers_parse(struct net_layers *l, const u8 *frame, size_t len)
{
    u32 at = 12, type;

    *l = (struct net_layers){0};
    if (len < NET_HEADER || len > NET_FRAME_MAX)
        return false;
    for (type = get_be16(frame + at); type == ETHER_VLAN || type == ETHER_QINQ; type = get_be16(frame + at)) {
        at += 4;
        if (len < at + 2 || at > 20)
            return false;
    }
    l->ip = at + 2;
    if (type == ETHER_IP4)
        return parse_ip4(l, frame, len) && parse_transport(l, frame);
    if (type == ETHER_IP6)
        return parse_ip6(l, frame, len) && parse_transport(l, frame);
    return false;
}

/* --- checksums --- */

/* The order of bytes in a word does not matter until the end (RFC 1071, 2.B), nor does the words' size. */
u32 net_sum(const u8 *data, size_t len, u32 sum)
{
    u64 even = 0, odd = 0, w;

    for (; len >= 32; data += 32, len -= 32) {
        u64 v[4];
        memcpy(v, data, sizeof v);
        even += (v[0] & 0xffffffff) + (v[1] & 0xffffffff) + (v[2] & 0xffffffff) + (v[3] & 0xffffffff);
        odd += (v[0] >> 32) + (v[1] >> 32) + (v[2] >> 32) + (v[3] >> 32);
    }
    for (; len >= 4; data += 4, len -= 4) {
        u32 v;
        memcpy(&v, data, sizeof v);
        even += v;
    }
    w = 0;
    memcpy(&w, data, len);
    even += odd + w;
    even = (even & 0xffffffff) + (even >> 32);
    return sum + __builtin_bswap16(net_fold((u32)((even & 0xffffffff) + (even >> 32))));
}

u16 net_fold(u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (u16)((sum & 0xffff) + (sum >> 16));
}

u32 net_pseudo_sum(const u8 *frame, const struct net_layers *l, u32 len)
{
    const u8 *ip = frame + l->ip;
    u32 sum = l->protocol + (len & 0xffff) + (len >> 16);

    return l->version == 4 ? net_sum(ip + 12, 8, sum) : net_sum(ip + 8, 32, sum);
}

/* A UDP checksum of 0 would mean that there is none (RFC 768); for others 0xffff is as good. */
static u16 complement(u32 sum)
{
    u16 folded = (u16)~net_fold(sum);

    return folded ? folded : 0xffff;
}

bool net_finish_checksum(u8 *frame, size_t len, struct net_offload *o)
{
    u32 at = (u32)o->csum_start + o->csum_offset;

    if (!(o->flags & NET_NEEDS_CSUM))
        return true;
    if (o->csum_start < NET_HEADER || at + 2 > len)
        return false;
    put_be16(frame + at, complement(net_sum(frame + o->csum_start, len - o->csum_start, 0)));
    o->flags &= (u8)~NET_NEEDS_CSUM;
    o->csum_start = o->csum_offset = 0;
    return true;
}

/* --- segments --- */

/* Headers of one piece, and the piece, which stays where it is. */
struct piece {
    u8 headers[NET_HEADERS_MAX];
    u32 headers_len;
    const u8 *data;
    u32 len, index;
    bool last;
};

static bool emit_piece(const struct piece *p, net_emit *emit, void *to)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)p->headers, p->headers_len},
                           {(void *)(uintptr_t)p->data, p->len}};
    struct net_frame f = {.iov = iov, .iovcnt = 2, .len = p->headers_len + p->len};

    return emit(to, &f);
}

static void finish_ip4(u8 *ip, u32 total)
{
    put_be16(ip + 2, total);
    put_be16(ip + 10, 0);
    put_be16(ip + 10, (u16)~net_fold(net_sum(ip, (ip[0] & 15u) * 4, 0)));
}

static void finish_transport(struct piece *p, const struct net_layers *l)
{
    u8 *t = p->headers + l->transport;
    u32 len = p->headers_len - l->transport + p->len;
    u8 *field = t + (l->protocol == NET_IP_TCP ? 16 : 6);
    u32 sum;

    put_be16(field, 0);
    sum = net_sum(t, p->headers_len - l->transport, net_pseudo_sum(p->headers, l, len));
    /* The header is an even number of bytes, so the data's sum needs no turning. */
    put_be16(field, complement(net_sum(p->data, p->len, sum)));
}

/* Turns the headers of the whole into those of a piece of it. */
static void finish_segment(struct piece *p, const struct net_layers *l, u32 size)
{
    u8 *ip = p->headers + l->ip, *t = p->headers + l->transport;
    u32 behind_ip = p->headers_len - l->transport + p->len;

    if (l->version == 4) {
        put_be16(ip + 4, get_be16(ip + 4) + p->index);
        finish_ip4(ip, p->headers_len - l->ip + p->len);
    } else {
        put_be16(ip + 4, p->headers_len - l->ip - 40 + p->len);
    }
    if (l->protocol == NET_IP_TCP) {
        put_be32(t + 4, get_be32(t + 4) + p->index * size);
        if (!p->last)
            t[13] &= (u8) ~(TCP_FIN | TCP_PSH);
        if (p->index)
            t[13] &= (u8)~TCP_CWR;
    } else {
        put_be16(t + 4, behind_ip);
    }
    finish_transport(p, l);
}

static bool segments_fit(const struct net_layers *l, const struct net_offload *o)
{
    unsigned type = o->gso_type & ~(unsigned)NET_GSO_ECN;

    if (l->fragment || o->gso_size < NET_SEGMENT_MIN || l->payload > NET_HEADERS_MAX)
        return false;
    return (type == NET_GSO_TCPV4 && l->version == 4 && l->protocol == NET_IP_TCP) ||
           (type == NET_GSO_TCPV6 && l->version == 6 && l->protocol == NET_IP_TCP) ||
           (type == NET_GSO_UDP_L4 && l->protocol == NET_IP_UDP);
}

int net_segment(const u8 *frame, size_t len, const struct net_offload *o, net_emit *emit, void *to)
{
    struct net_layers l;
    struct piece p = {0};

    if (!net_layers_parse(&l, frame, len) || !segments_fit(&l, o))
        return -EINVAL;
    p.headers_len = l.payload;
    for (u32 at = l.payload; !p.last; at += p.len, p.index++) {
        p.data = frame + at;
        p.len = MIN((u32)o->gso_size, l.end - at);
        p.last = at + p.len == l.end;
        memcpy(p.headers, frame, l.payload);
        finish_segment(&p, &l, o->gso_size);
        if (!emit_piece(&p, emit, to))
            return 0;
    }
    return 0;
}

/* --- fragments --- */

/* RFC 791, 3.2; RFC 8200, 4.5. */
static void finish_fragment(struct piece *p, const struct net_layers *l, u32 offset, u32 id)
{
    u8 *ip = p->headers + l->ip;

    if (l->version == 4) {
        u32 old = get_be16(ip + 6), more = p->last ? old & IP4_MORE : IP4_MORE;
        put_be16(ip + 6, more | ((old & IP4_OFFSET) + offset / 8));
        finish_ip4(ip, p->headers_len - l->ip + p->len);
        return;
    }
    u8 *extension = ip + 40;
    extension[0] = ip[6];
    extension[1] = 0;
    put_be16(extension + 2, offset | !p->last);
    put_be32(extension + 4, id);
    ip[6] = IP6_FRAGMENT;
    put_be16(ip + 4, 8 + p->len);
}

int net_fragment(const u8 *frame, size_t len, unsigned mtu, u32 id, net_emit *emit, void *to)
{
    struct net_layers l;
    struct piece p = {0};
    u32 start, step;

    if (!net_layers_parse(&l, frame, len) || (l.version == 6 && l.fragment))
        return -EINVAL;
    start = l.version == 4 ? l.transport : l.ip + 40;
    p.headers_len = l.version == 4 ? start : start + 8;
    if (mtu < p.headers_len - l.ip + 8)
        return -EINVAL;
    step = (mtu - (p.headers_len - l.ip)) & ~7u;
    if (l.version == 4 && (get_be16(frame + l.ip + 6) & IP4_OFFSET) * 8 + (l.end - start) > 0xffff)
        return -EINVAL;
    for (u32 at = start; !p.last; at += p.len) {
        p.data = frame + at;
        p.len = MIN(step, l.end - at);
        p.last = at + p.len == l.end;
        memcpy(p.headers, frame, start);
        finish_fragment(&p, &l, at - start, id);
        if (!emit_piece(&p, emit, to))
            return 0;
    }
    return 0;
}

/* --- what the other side cannot do --- */

bool net_offload_fits(const struct net_offload *o, unsigned can)
{
    static const u8 bits[] = {
        [NET_GSO_TCPV4] = NET_CAN_TSO4, [NET_GSO_TCPV6] = NET_CAN_TSO6, [NET_GSO_UDP_L4] = NET_CAN_USO};
    unsigned type = o->gso_type & ~(unsigned)NET_GSO_ECN;

    if ((o->flags & (NET_NEEDS_CSUM | NET_DATA_VALID)) && !(can & NET_CAN_CSUM))
        return false;
    if (o->gso_type == NET_GSO_NONE)
        return true;
    if ((o->gso_type & NET_GSO_ECN) && !(can & NET_CAN_TSO_ECN))
        return false;
    return type < ARRAY_SIZE(bits) && (bits[type] & can);
}

bool net_offload_valid(const struct net_offload *o, size_t len)
{
    if ((o->flags & NET_NEEDS_CSUM) &&
        (o->csum_start < NET_HEADER || (size_t)o->csum_start + o->csum_offset + 2 > len))
        return false;
    if (o->gso_type == NET_GSO_NONE)
        return true;
    return net_offload_fits(o, ~0u) && o->gso_size >= NET_SEGMENT_MIN && o->hdr_len <= len &&
           (o->flags & NET_NEEDS_CSUM);
}

void net_adapt(u8 *frame, const struct net_frame *f, unsigned can, net_emit *emit, void *to)
{
    struct iovec iov = {frame, f->len};
    struct net_frame out = {
        .iov = &iov, .iovcnt = 1, .len = f->len, .offload = f->offload, .queue = f->queue};

    if (!net_offload_fits(&f->offload, can | NET_CAN_CSUM)) {
        net_segment(frame, f->len, &f->offload, emit, to);
        return;
    }
    if (!(can & NET_CAN_CSUM)) {
        if (!net_finish_checksum(frame, f->len, &out.offload))
            return;
        out.offload.flags = 0;
    }
    emit(to, &out);
}

/* --- the size of segments --- */

/* The value of the option that @t's header has, NULL when there is none (RFC 9293, 3.1). */
static u8 *find_mss(u8 *option, const u8 *end)
{
    while (option < end && option[0] != 0) {
        if (option[0] == 1) {
            option++;
            continue;
        }
        if (end - option < 2 || option[1] < 2 || option[1] > end - option)
            return NULL;
        if (option[0] == 2)
            return option[1] == 4 ? option + 2 : NULL;
        option += option[1];
    }
    return NULL;
}

void net_set_mss(u8 *frame, size_t len, u16 mss, bool partial)
{
    struct net_layers l;
    u8 *t, *value;
    u32 old, new;

    if (!net_layers_parse(&l, frame, len) || l.protocol != NET_IP_TCP || l.fragment)
        return;
    t = frame + l.transport;
    value = t[13] & TCP_SYN ? find_mss(t + 20, frame + l.payload) : NULL;
    if (!value)
        return;
    old = get_be16(value);
    new = mss;
    put_be16(value, mss);
    if (partial)
        return;
    if ((value - t) & 1) { /* its bytes belong to two words of the sum */
        old = (u16)(old << 8 | old >> 8);
        new = (u16)(new << 8 | new >> 8);
    }
    /* RFC 1624, equation 3 */
    put_be16(t + 16, (u16)~net_fold((u16)~get_be16(t + 16) + (u16)~old + new));
}
