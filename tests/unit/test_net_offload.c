/* Checksums, segments and fragments in software, from good frames and from hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/net/offload.h"

#define TCP4_HEADERS (14 + 20 + 20)
#define TCP6_HEADERS (14 + 40 + 20)

struct collected {
    u8 *data[200];
    size_t len[200];
    struct net_offload offload[200];
    unsigned count, stop_at;
};

static bool collect(void *to, const struct net_frame *f)
{
    struct collected *c = to;
    size_t at = 0;

    assert_true(c->count < ARRAY_SIZE(c->data));
    c->data[c->count] = malloc(f->len);
    for (unsigned i = 0; i < f->iovcnt; i++) {
        memcpy(c->data[c->count] + at, f->iov[i].iov_base, f->iov[i].iov_len);
        at += f->iov[i].iov_len;
    }
    assert_int_equal(at, f->len);
    c->offload[c->count] = f->offload;
    c->len[c->count++] = at;
    return c->count != c->stop_at;
}

static void release(struct collected *c)
{
    while (c->count)
        free(c->data[--c->count]);
}

static u32 word(const u8 *p)
{
    return (u32)(p[0] << 8 | p[1]);
}

static void put_word(u8 *p, size_t v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

/* The sum as RFC 1071 has it, word by word. */
static u32 plain_sum(const u8 *p, size_t len, u32 sum)
{
    for (; len > 1; p += 2, len -= 2)
        sum += word(p);
    if (len)
        sum += (u32)p[0] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static bool transport_checksum_is_right(const u8 *frame, size_t len)
{
    struct net_layers l;
    u32 sum;

    assert_true(net_layers_parse(&l, frame, len));
    sum = l.protocol + l.end - l.transport;
    sum = l.version == 4 ? plain_sum(frame + l.ip + 12, 8, sum) : plain_sum(frame + l.ip + 8, 32, sum);
    return plain_sum(frame + l.transport, l.end - l.transport, sum) == 0xffff;
}

static u8 *new_frame(size_t len, unsigned type)
{
    u8 *f = calloc(1, len);

    for (size_t i = 0; i < 12; i++)
        f[i] = (u8)(0x10 + i);
    put_word(f + 12, type);
    return f;
}

/* A frame with @payload bytes of TCP or UDP over IPv4 or IPv6, no checksums. */
static u8 *make(unsigned version, unsigned protocol, size_t payload, size_t *len)
{
    size_t header = protocol == NET_IP_TCP ? 20 : 8, at = version == 4 ? 34 : 54;
    u8 *f = new_frame(at + header + payload, version == 4 ? 0x0800 : 0x86dd), *ip = f + 14, *t = f + at;

    *len = at + header + payload;
    if (version == 4) {
        ip[0] = 0x45;
        put_word(ip + 2, 20 + header + payload);
        put_word(ip + 4, 0xfffe);
        ip[8] = 64;
        ip[9] = (u8)protocol;
        memcpy(ip + 12, (u8[]){10, 0, 2, 15, 10, 0, 2, 2}, 8);
        put_word(ip + 10, (u16)~plain_sum(ip, 20, 0));
    } else {
        ip[0] = 0x60;
        put_word(ip + 4, header + payload);
        ip[6] = (u8)protocol;
        ip[7] = 64;
        memcpy(ip + 8, (u8[]){0xfe, 0xc0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, 16);
        ip[24] = 0xfe;
    }
    put_word(t, 1000);
    put_word(t + 2, 80);
    if (protocol == NET_IP_TCP) {
        put_word(t + 4, 0xffff);
        put_word(t + 6, 0xff00);
        t[12] = 0x50;
        t[13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR ACK PSH FIN */
    } else {
        put_word(t + 4, 8 + payload);
    }
    for (size_t i = 0; i < payload; i++)
        t[header + i] = (u8)(i * 7 + (i >> 8));
    return f;
}

static void test_sum(void **state)
{
    u8 data[300];

    (void)state;
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = (u8)(255 - i * i);
    for (size_t len = 0; len <= 290; len++)
        for (unsigned at = 0; at < 4; at++)
            assert_int_equal(net_fold(net_sum(data + at, len, 0x1ffff)) % 0xffff,
                             plain_sum(data + at, len, 0x1ffff) % 0xffff);
    memset(data, 0xff, sizeof data);
    assert_int_equal(net_fold(net_sum(data, 256, 0)), 0xffff);
}

static void test_layers_of_tagged_frames(void **state)
{
    size_t len;
    u8 *f = make(4, NET_IP_TCP, 10, &len), *tagged = calloc(1, len + 4);
    struct net_layers l;

    (void)state;
    memcpy(tagged, f, 12);
    put_word(tagged + 12, 0x8100);
    memcpy(tagged + 16, f + 12, len - 12);
    assert_true(net_layers_parse(&l, tagged, len + 4));
    assert_int_equal(l.ip, 18);
    assert_int_equal(l.payload, 18 + 40);
    assert_int_equal(l.end, len + 4);
    free(f);
    free(tagged);
}

/* Each prefix of a frame, and each byte of its headers set to each value: no read beyond the end. */
static void test_layers_of_hostile_frames(void **state)
{
    static const struct {
        unsigned version, protocol;
    } kinds[] = {{4, NET_IP_TCP}, {6, NET_IP_TCP}, {4, NET_IP_UDP}, {6, NET_IP_UDP}};

    (void)state;
    for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
        size_t len;
        u8 *whole = make(kinds[k].version, kinds[k].protocol, 30, &len);
        struct net_layers l;
        for (size_t cut = 0; cut < len; cut++) {
            u8 *f = malloc(cut + 1);
            memcpy(f, whole, cut);
            assert_false(net_layers_parse(&l, f, cut));
            free(f);
        }
        for (unsigned at = 12; at < 74 && at < len; at++) {
            for (unsigned v = 0; v < 256; v++) {
                u8 *f = malloc(len);
                memcpy(f, whole, len);
                f[at] = (u8)v;
                if (net_layers_parse(&l, f, len)) {
                    assert_true(l.ip < l.transport && l.transport <= l.payload);
                    assert_true(l.payload <= l.end && l.end <= len);
                }
                free(f);
            }
        }
        free(whole);
    }
}

static void test_finish_checksum(void **state)
{
    size_t len;
    u8 *f = make(4, NET_IP_UDP, 33, &len);
    struct net_layers l;
    struct net_offload o = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};

    (void)state;
    assert_true(net_layers_parse(&l, f, len));
    put_word(f + 40, net_fold(net_pseudo_sum(f, &l, l.end - l.transport)));
    assert_true(net_finish_checksum(f, len, &o));
    assert_int_equal(o.flags, 0);
    assert_true(transport_checksum_is_right(f, len));
    free(f);
}

static void test_finish_checksum_refuses_what_lies_outside(void **state)
{
    static const u16 places[][2] = {{34, 39},     {73, 0},          {74, 0}, {0xffff, 0},
                                    {34, 0xffff}, {0xffff, 0xffff}, {0, 6}};
    u8 *f = calloc(1, 74);

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        struct net_offload o = {
            .flags = NET_NEEDS_CSUM, .csum_start = places[i][0], .csum_offset = places[i][1]};
        assert_false(net_finish_checksum(f, 74, &o));
    }
    free(f);
}

static void check_tcp_segments(unsigned version, size_t headers, size_t payload)
{
    const struct net_offload o = {
        .flags = NET_NEEDS_CSUM,
        .gso_type = (version == 4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6) | NET_GSO_ECN,
        .gso_size = 1000,
    };
    struct collected c = {0};
    size_t len, at = 0;
    u8 *f = make(version, NET_IP_TCP, payload, &len);

    assert_int_equal(net_segment(f, len, &o, collect, &c), 0);
    assert_int_equal(c.count, payload ? (payload + 999) / 1000 : 1);
    for (unsigned i = 0; i < c.count; i++) {
        const u8 *t = c.data[i] + headers - 20;
        size_t part = MIN(payload - at, (size_t)1000);
        bool last = i + 1 == c.count;
        assert_int_equal(c.len[i], headers + part);
        assert_memory_equal(c.data[i] + headers, f + headers + at, part);
        assert_int_equal((u32)(word(t + 4) << 16 | word(t + 6)), (u32)(0xffffff00u + at));
        assert_int_equal(t[13], 0x10 | (last ? 0x09 : 0) | (i ? 0 : 0x80));
        assert_true(transport_checksum_is_right(c.data[i], c.len[i]));
        assert_int_equal(c.offload[i].flags, 0);
        assert_int_equal(c.offload[i].gso_type, NET_GSO_NONE);
        if (version == 4) {
            assert_int_equal(plain_sum(c.data[i] + 14, 20, 0), 0xffff);
            assert_int_equal(word(c.data[i] + 18), (0xfffe + i) & 0xffff);
        }
        at += part;
    }
    assert_int_equal(at, payload);
    release(&c);
    free(f);
}

static void test_tcp_segments(void **state)
{
    static const size_t payloads[] = {0, 1, 999, 1000, 1001, 2000, 12345, 65000};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(payloads); i++) {
        check_tcp_segments(4, TCP4_HEADERS, payloads[i]);
        check_tcp_segments(6, TCP6_HEADERS, payloads[i]);
    }
}

static void test_udp_segments(void **state)
{
    const struct net_offload o = {.flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_UDP_L4, .gso_size = 500};
    struct collected c = {0};
    size_t len;
    u8 *f = make(6, NET_IP_UDP, 1200, &len);

    (void)state;
    assert_int_equal(net_segment(f, len, &o, collect, &c), 0);
    assert_int_equal(c.count, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(word(c.data[i] + 58), i == 2 ? 208 : 508);
        assert_true(transport_checksum_is_right(c.data[i], c.len[i]));
    }
    release(&c);
    free(f);
}

static void test_segments_end_when_told(void **state)
{
    const struct net_offload o = {.gso_type = NET_GSO_TCPV4, .gso_size = 100};
    struct collected c = {.stop_at = 3};
    size_t len;
    u8 *f = make(4, NET_IP_TCP, 1000, &len);

    (void)state;
    assert_int_equal(net_segment(f, len, &o, collect, &c), 0);
    assert_int_equal(c.count, 3);
    release(&c);
    free(f);
}

static void refuse_segments(const u8 *f, size_t len, unsigned type, unsigned size)
{
    const struct net_offload o = {.gso_type = (u8)type, .gso_size = (u16)size};

    assert_true(net_segment(f, len, &o, collect, NULL) < 0);
}

static void test_segments_refuse_what_does_not_fit(void **state)
{
    size_t len;
    u8 *f = make(4, NET_IP_TCP, 1000, &len);

    (void)state;
    refuse_segments(f, len, NET_GSO_TCPV4, 0);
    refuse_segments(f, len, NET_GSO_TCPV4, NET_SEGMENT_MIN - 1);
    refuse_segments(f, len, NET_GSO_TCPV6, 500);
    refuse_segments(f, len, NET_GSO_UDP_L4, 500);
    refuse_segments(f, len, NET_GSO_NONE, 500);
    refuse_segments(f, len, 3, 500);
    refuse_segments(f, 60, NET_GSO_TCPV4, 500);
    f[20] = 0x20; /* more fragments */
    refuse_segments(f, len, NET_GSO_TCPV4, 500);
    f[20] = 0;
    f[46] = 0xf0; /* longer than the frame */
    refuse_segments(f, 14 + 20 + 40, NET_GSO_TCPV4, 500);
    free(f);
}

static void test_fragments(void **state)
{
    struct collected c = {0};
    size_t len, total = 0;
    u8 *f = make(4, NET_IP_UDP, 4000, &len);

    (void)state;
    assert_int_equal(net_fragment(f, len, 1500, 0, collect, &c), 0);
    assert_int_equal(c.count, 3);
    for (unsigned i = 0; i < c.count; i++) {
        u32 offset = word(c.data[i] + 20);
        assert_int_equal((offset & 0x1fff) * 8, total);
        assert_int_equal(offset >> 13, i < 2);
        assert_true(c.len[i] <= 1514);
        assert_int_equal(plain_sum(c.data[i] + 14, 20, 0), 0xffff);
        assert_memory_equal(c.data[i] + 34, f + 34 + total, c.len[i] - 34);
        total += c.len[i] - 34;
    }
    assert_int_equal(total, 4008);
    release(&c);
    free(f);
}

static void test_fragments_of_ipv6(void **state)
{
    struct collected c = {0};
    size_t len, total = 0;
    u8 *f = make(6, NET_IP_UDP, 3000, &len);

    (void)state;
    assert_int_equal(net_fragment(f, len, 1280, 0x01020304, collect, &c), 0);
    assert_int_equal(c.count, 3);
    for (unsigned i = 0; i < c.count; i++) {
        assert_int_equal(c.data[i][20], 44);
        assert_int_equal(word(c.data[i] + 18), c.len[i] - 54);
        assert_int_equal(c.data[i][54], NET_IP_UDP);
        assert_int_equal(word(c.data[i] + 56), total | (i < 2));
        assert_memory_equal(c.data[i] + 58, ((u8[]){1, 2, 3, 4}), 4);
        assert_memory_equal(c.data[i] + 62, f + 54 + total, c.len[i] - 62);
        total += c.len[i] - 62;
    }
    assert_int_equal(total, 3008);
    release(&c);
    assert_true(net_fragment(f, len, 50, 0, collect, &c) < 0);
    free(f);
}

/* What comes out, if anything, must be within what the other side can take. */
static void test_adapt(void **state)
{
    struct collected c = {0};
    size_t len;
    u8 *f = make(4, NET_IP_TCP, 3000, &len);
    struct net_frame frame = {
        .len = len,
        .offload = {.flags = NET_NEEDS_CSUM,
                    .gso_type = NET_GSO_TCPV4,
                    .gso_size = 1460,
                    .csum_start = 34,
                    .csum_offset = 16},
    };
    struct net_layers l;

    (void)state;
    assert_true(net_layers_parse(&l, f, len));
    put_word(f + 50, net_fold(net_pseudo_sum(f, &l, l.end - l.transport)));
    net_adapt(f, &frame, NET_CAN_CSUM | NET_CAN_TSO4, collect, &c);
    assert_int_equal(c.count, 1);
    assert_int_equal(c.offload[0].gso_size, 1460);
    release(&c);
    net_adapt(f, &frame, NET_CAN_CSUM, collect, &c);
    assert_int_equal(c.count, 3);
    release(&c);
    frame.offload.gso_type = NET_GSO_NONE;
    net_adapt(f, &frame, 0, collect, &c);
    assert_int_equal(c.count, 1);
    assert_int_equal(c.offload[0].flags, 0);
    assert_true(transport_checksum_is_right(c.data[0], c.len[0]));
    release(&c);
    frame.offload.csum_start = 0xfff0;
    net_adapt(f, &frame, 0, collect, &c);
    assert_int_equal(c.count, 0);
    free(f);
}

/* A SYN with options @options, complete; the option's value is expected at @at afterwards. */
static void check_mss(const u8 *options, size_t n, unsigned at)
{
    size_t len;
    u8 *f = make(4, NET_IP_TCP, n, &len);
    struct net_offload o = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    struct net_layers l;

    f[46] = (u8)((20 + n) / 4 << 4);
    f[47] = 2;
    memcpy(f + 54, options, n);
    assert_true(net_layers_parse(&l, f, len));
    put_word(f + 50, net_fold(net_pseudo_sum(f, &l, l.end - l.transport)));
    net_set_mss(f, len, 40000, true);
    net_finish_checksum(f, len, &o);
    assert_true(transport_checksum_is_right(f, len));
    if (at)
        assert_int_equal(word(f + 54 + at), 40000);
    net_set_mss(f, len, 0x1235, false);
    assert_true(transport_checksum_is_right(f, len));
    if (at)
        assert_int_equal(word(f + 54 + at), 0x1235);
    else
        assert_memory_equal(f + 54, options, n);
    free(f);
}

static void test_mss(void **state)
{
    (void)state;
    check_mss((u8[]){2, 4, 5, 0xb4}, 4, 2);
    check_mss((u8[]){1, 2, 4, 5, 0xb4, 1, 1, 1}, 8, 3); /* at an odd place */
    check_mss((u8[]){3, 3, 7, 2, 4, 5, 0xb4, 0}, 8, 5);
    check_mss((u8[]){0, 2, 4, 5}, 4, 0);    /* behind the end of the list */
    check_mss((u8[]){2, 8, 5, 0xb4}, 4, 0); /* longer than the header */
    check_mss((u8[]){3, 0, 2, 4}, 4, 0);    /* no length */
    check_mss((u8[]){1, 1, 1, 2}, 4, 0);    /* cut off */
    check_mss((u8[]){1, 1, 2, 4}, 4, 0);
    check_mss((u8[]){2, 2, 2, 3}, 4, 0);
}

static void test_mss_of_other_segments_stays(void **state)
{
    size_t len;
    u8 *f = make(4, NET_IP_TCP, 4, &len), *copy = malloc(len);

    (void)state;
    f[46] = 0x60;
    f[47] = 0x10;
    memcpy(f + 54, (u8[]){2, 4, 5, 0xb4}, 4);
    memcpy(copy, f, len);
    net_set_mss(f, len, 40000, false);
    assert_memory_equal(f, copy, len);
    free(f);
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_layers_of_tagged_frames),
        cmocka_unit_test(test_layers_of_hostile_frames),
        cmocka_unit_test(test_finish_checksum),
        cmocka_unit_test(test_finish_checksum_refuses_what_lies_outside),
        cmocka_unit_test(test_tcp_segments),
        cmocka_unit_test(test_udp_segments),
        cmocka_unit_test(test_segments_end_when_told),
        cmocka_unit_test(test_segments_refuse_what_does_not_fit),
        cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_fragments_of_ipv6),
        cmocka_unit_test(test_adapt),
        cmocka_unit_test(test_mss),
        cmocka_unit_test(test_mss_of_other_segments_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
