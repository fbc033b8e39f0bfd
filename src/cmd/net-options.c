#include "cmd/net-options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/parse.h"
#include "cmd/options.h"

/* What the lists below fill in before it is put together. */
struct net_values {
    struct pc_net *net;
    const char *link;
    const char *restricted, *loopback, *ipv6;
    unsigned fd;
};

/* --- values with a form of their own --- */

static int set_mac(void *target, char *text, struct error *err)
{
    struct net_values *v = target;
    unsigned b[6];
    int end = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6 ||
        text[end])
        return error_set(err, EINVAL, "--net: mac '%.40s' is not of the form 52:54:00:12:34:56", text);
    for (unsigned i = 0; i < 6; i++)
        v->net->mac[i] = (u8)b[i];
    if (b[0] & 1)
        return error_set(err, EINVAL, "--net: mac '%.40s' is a group's address (its first byte is odd)",
                         text);
    if (!(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]))
        return error_set(err, EINVAL, "--net: mac '%.40s' is nobody's address", text);
    return 0;
}

static int parse_address(const char *what, const char *text, struct in_addr *a, struct error *err)
{
    if (inet_pton(AF_INET, text, a) == 1 && a->s_addr)
        return 0;
    return error_set(err, EINVAL, "--net: %s '%.60s' is not an IPv4 address", what, text);
}

static int set_host(void *target, char *text, struct error *err)
{
    return parse_address("host", text, &((struct net_values *)target)->net->options.user.host, err);
}

static int set_dns(void *target, char *text, struct error *err)
{
    return parse_address("dns", text, &((struct net_values *)target)->net->options.user.dns, err);
}

static int set_dhcp_start(void *target, char *text, struct error *err)
{
    return parse_address("dhcpstart", text, &((struct net_values *)target)->net->options.user.dhcp_start,
                         err);
}

static int set_network(void *target, char *text, struct error *err)
{
    struct net_user_options *u = &((struct net_values *)target)->net->options.user;
    char *slash = strchr(text, '/');
    u64 prefix = 24;

    if (slash) {
        *slash++ = 0;
        if (parse_u64(slash, &prefix) || prefix < 8 || prefix > 27)
            return error_set(err, EINVAL, "--net: net has a prefix of '%.20s' bits; 8 to 27 are possible",
                             slash);
    }
    u->prefix = (unsigned)prefix;
    return parse_address("net", text, &u->network, err);
}

/* --- hostfwd=tcp:[HOSTADDR:]PORT-[GUESTADDR]:PORT --- */

static int bad_forward(const char *text, const char *why, struct error *err)
{
    return error_set(err, EINVAL, "--net: hostfwd '%.80s': %s; as in tcp:2222-:22 or udp:127.0.0.1:5353-:53",
                     text, why);
}

static bool parse_port(const char *text, u16 *port)
{
    u64 value;

    if (parse_u64(text, &value) || !value || value > 0xffff)
        return false;
    *port = (u16)value;
    return true;
}

/* "ADDRESS:PORT", ":PORT" or "PORT"; *a keeps its value where there is no address. */
static bool parse_end(char *text, struct in_addr *a, u16 *port)
{
    char *colon = strrchr(text, ':');

    if (!colon)
        return parse_port(text, port);
    *colon = 0;
    return (!*text || inet_pton(AF_INET, text, a) == 1) && parse_port(colon + 1, port);
}

static int set_forward(void *target, char *text, struct error *err)
{
    struct net_user_options *u = &((struct net_values *)target)->net->options.user;
    struct net_forward f = {.host.s_addr = htonl(INADDR_LOOPBACK)};
    char whole[100], *dash, *host = text + 4;

    snprintf(whole, sizeof whole, "%s", text);
    f.udp = !strncmp(text, "udp:", 4);
    if (!f.udp && strncmp(text, "tcp:", 4) != 0)
        return bad_forward(whole, "it starts with neither tcp: nor udp:", err);
    dash = strchr(host, '-');
    if (!dash)
        return bad_forward(whole, "there is no '-' between the host's port and the guest's", err);
    *dash = 0;
    if (!parse_end(host, &f.host, &f.host_port))
        return bad_forward(whole, "the host's side is not [ADDRESS:]PORT", err);
    if (!parse_end(dash + 1, &f.guest, &f.guest_port))
        return bad_forward(whole, "the guest's side is not [ADDRESS]:PORT", err);
    if (u->forward_count == NET_MAX_FORWARDS)
        return error_set(err, EINVAL, "--net: more than %u hostfwd", NET_MAX_FORWARDS);
    u->forward[u->forward_count++] = f;
    return 0;
}

/* --- the kinds --- */

struct net_fields { /* offsets are from here: values, then the network itself */
    struct net_values values;
    struct pc_net net;
};

#define VALUE_AT(m) .offset = offsetof(struct net_fields, values.m)
#define NET_AT(m) .offset = offsetof(struct net_fields, net.options.m)
#define ON_OFF(option, field)                                                                        \
    {                                                                                                \
        .name = option, .arg = "on|off", .kind = OPTION_CHOICE, .choices = "on|off", VALUE_AT(field) \
    }

#define COMMON_OPTIONS                                                                                   \
    {.name = "mac", .arg = "MAC", .kind = OPTION_CALL, .set = set_mac},                                  \
        {.name = "link", .arg = "up|down", .kind = OPTION_CHOICE, .choices = "up|down", VALUE_AT(link)}, \
        {.name = "queues",                                                                               \
         .arg = "N",                                                                                     \
         .kind = OPTION_UINT,                                                                            \
         .min = 1,                                                                                       \
         .max = NET_MAX_QUEUES,                                                                          \
         NET_AT(queues)},                                                                                \
        {.name = "mtu", .arg = "BYTES", .kind = OPTION_UINT, .min = 576, .max = 65521, NET_AT(mtu)},     \
        {.name = "pcap", .arg = "FILE", .kind = OPTION_STRING, NET_AT(pcap)},                            \
    {                                                                                                    \
        .name = "bps", .arg = "SIZE", .kind = OPTION_SIZE, .min = 1024, .max = 1ull << 40, NET_AT(bps)   \
    }

static const struct option user_list[] = {
    {.name = "hostfwd", .arg = "FORWARD", .kind = OPTION_CALL, .set = set_forward},
    ON_OFF("restrict", restricted),
    ON_OFF("host-loopback", loopback),
    ON_OFF("ipv6", ipv6),
    {.name = "net", .arg = "CIDR", .kind = OPTION_CALL, .set = set_network},
    {.name = "host", .arg = "ADDR", .kind = OPTION_CALL, .set = set_host},
    {.name = "dns", .arg = "ADDR", .kind = OPTION_CALL, .set = set_dns},
    {.name = "dhcpstart", .arg = "ADDR", .kind = OPTION_CALL, .set = set_dhcp_start},
    {.name = "tftp", .arg = "DIR", .kind = OPTION_STRING, NET_AT(user.tftp)},
    {.name = "bootfile", .arg = "FILE", .kind = OPTION_STRING, NET_AT(user.bootfile)},
    {.name = "hostname", .arg = "NAME", .kind = OPTION_STRING, NET_AT(user.hostname)},
    {.name = "domainname", .arg = "NAME", .kind = OPTION_STRING, NET_AT(user.domain)},
    COMMON_OPTIONS,
    OPTION_LIST_END,
};

static const struct option tap_list[] = {
    {.name = "fd", .arg = "N", .kind = OPTION_UINT, .min = 3, .max = 1 << 20, VALUE_AT(fd)},
    COMMON_OPTIONS,
    OPTION_LIST_END,
};

static const struct option other_list[] = {COMMON_OPTIONS, OPTION_LIST_END};

static const struct net_word {
    const char *name;
    enum net_kind kind;
    const struct option *list;
} words[] = {
    {"user", NET_USER, user_list},
    {"tap", NET_TAP, tap_list},
    {"socket", NET_SOCKET, other_list},
    {"null", NET_NULL, other_list},
};

static const struct net_word *find_word(const char *text, struct error *err)
{
    size_t len = strcspn(text, "=,");
    const char *names[ARRAY_SIZE(words) + 2] = {"none"};
    char word[20];
    const char *hint;

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        if (strlen(words[i].name) == len && !strncmp(words[i].name, text, len))
            return &words[i];
        names[i + 1] = words[i].name;
    }
    snprintf(word, sizeof word, "%.*s", (int)MIN(len, sizeof word - 1), text);
    hint = options_nearest(word, names);
    error_set(err, EINVAL, "--net: unknown network '%s'; %s%s%s", word, hint ? "did you mean '" : "",
              hint ? hint : "user, tap=IF, socket=PATH, null or none", hint ? "'?" : "");
    return NULL;
}

/* What stands behind the first '=': the name of a tap or the path of a socket. */
static int set_argument(struct net_options *o, const char *argument, bool has_fd, struct error *err)
{
    bool wanted = o->kind == NET_SOCKET || (o->kind == NET_TAP && !has_fd);

    if (wanted && (!argument || !*argument))
        return o->kind == NET_TAP
                   ? error_set(err, EINVAL, "--net tap needs an interface: tap=IF, or tap,fd=N")
                   : error_set(err, EINVAL, "--net socket needs a path: socket=PATH");
    if (!wanted && argument)
        return error_set(err, EINVAL, "--net %s takes no '=%.60s'",
                         o->kind == NET_TAP    ? "tap,fd=N"
                         : o->kind == NET_USER ? "user"
                                               : "null",
                         argument);
    if (o->kind == NET_TAP)
        o->tap = argument;
    if (o->kind == NET_SOCKET)
        o->socket = argument;
    return 0;
}

int net_options_parse(struct pc_net *net, char *text, struct error *err)
{
    const struct net_word *word = find_word(text, err);
    struct net_fields f = {.values = {.net = &f.net}};
    char *first, *argument;
    int r;

    if (!word)
        return -EINVAL;
    f.net.options.kind = word->kind;
    r = options_parse_commas(word->list, &f, "net", text, &first, err);
    if (r)
        return r;
    argument = strchr(first, '=');
    r = set_argument(&f.net.options, argument ? argument + 1 : NULL, f.values.fd != 0, err);
    if (r)
        return r;
    f.net.options.fd = f.values.fd ? (int)f.values.fd : -1;
    f.net.options.link_down = f.values.link && !strcmp(f.values.link, "down");
    f.net.options.user.restricted = f.values.restricted && !strcmp(f.values.restricted, "on");
    f.net.options.user.loopback = f.values.loopback && !strcmp(f.values.loopback, "on");
    f.net.options.user.no_ipv6 = f.values.ipv6 && !strcmp(f.values.ipv6, "off");
    *net = f.net;
    return 0;
}
