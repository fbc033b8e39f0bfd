/* The network behind libslirp, with this test as the guest: no root, no network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/net/net.h"

#define TURNS 200

struct fixture {
    struct event_loop *loop;
    struct net_backend *net;
    struct net_listener listener;
    struct {
        u8 data[2048];
        size_t len;
    } got[64];
    unsigned got_count, writable;
};

static bool receive(struct net_listener *l, const struct net_frame *f)
{
    struct fixture *x = container_of(l, struct fixture, listener);
    size_t at = 0;

    assert_true(x->got_count < ARRAY_SIZE(x->got));
    assert_true(f->len <= sizeof x->got[0].data);
    for (unsigned i = 0; i < f->iovcnt; i++) {
        memcpy(x->got[x->got_count].data + at, f->iov[i].iov_base, f->iov[i].iov_len);
        at += f->iov[i].iov_len;
    }
    assert_int_equal(at, f->len);
    x->got[x->got_count++].len = at;
    return true;
}

static void writable(struct net_listener *l)
{
    container_of(l, struct fixture, listener)->writable++;
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
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    net_close(x->net);
    event_loop_free(x->loop);
    free(x);
    return 0;
}

static void send_frame(struct fixture *x, const void *data, size_t len)
{
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len};

    assert_true(net_send(x->net, &f));
}

/* A request for the gateway's address is answered from its own. */
static void test_arp(void **state)
{
    static const u8 request[42] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x08, 0x06, /* Ethernet */
        0,    1,    0x08, 0,    6,    4,    0,    1,                                     /* request */
        0x52, 0x54, 0,    0x12, 0x34, 0x56, 10,   0,    2, 15,   0,    0,    0,    0,    0, 0, 10, 0, 2, 2,
    };
    struct fixture *x = *state;

    open_network(x, &(struct net_options){.kind = NET_USER, .user.no_ipv6 = true});
    send_frame(x, request, sizeof request);
    for (unsigned i = 0; i < TURNS && !x->got_count; i++)
        event_loop_poll(x->loop, NS_PER_MS);
    assert_int_equal(x->got_count, 1);
    assert_memory_equal(x->got[0].data, request + 6, 6);
    assert_int_equal(x->got[0].data[21], 2);
    assert_memory_equal(x->got[0].data + 28, ((u8[]){10, 0, 2, 2}), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_arp, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
