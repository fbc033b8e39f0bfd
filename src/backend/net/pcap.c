/*
 * Captures of what passes: the classic format of libpcap with times in nanoseconds
 * (draft-ietf-opsawg-pcap). Each frame is one write, so that the file is whole whenever somebody looks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/net/filter.h"
#include "base/clock.h"
#include "base/log.h"

#define MAGIC_NS 0xa1b23c4du
#define LINKTYPE_ETHERNET 1
#define SNAPLEN 262144
#define MAX_PARTS 64

struct pcap {
    struct net_filter filter;
    int fd; /* -1: writing failed, which was said */
    const char *path;
};

struct file_header {
    u32 magic;
    u16 major, minor;
    u32 reserved[2], snaplen, linktype;
};

struct record_header {
    u32 seconds, nanoseconds, captured, length;
};

static void give_up(struct pcap *p, off_t good)
{
    log_warn("cannot write '%s': %s: the capture ends here", p->path, strerror(errno));
    if (good >= 0 && ftruncate(p->fd, good))
        log_warn("the last frame in '%s' is cut off", p->path);
    close(p->fd);
    p->fd = -1;
}

static void record(struct pcap *p, const struct net_frame *f)
{
    u64 now = clock_wall_ns();
    struct record_header h = {
        .seconds = (u32)(now / NS_PER_SEC),
        .nanoseconds = (u32)(now % NS_PER_SEC),
        .length = (u32)f->len,
    };
    struct iovec iov[MAX_PARTS + 1] = {{&h, sizeof h}};
    unsigned n = MIN(f->iovcnt, (unsigned)MAX_PARTS);
    off_t start;

    if (p->fd < 0)
        return;
    for (unsigned i = 0; i < n; i++) {
        iov[i + 1] = f->iov[i];
        h.captured += (u32)f->iov[i].iov_len;
    }
    start = lseek(p->fd, 0, SEEK_CUR);
    if (writev(p->fd, iov, (int)n + 1) != (ssize_t)(sizeof h + h.captured))
        give_up(p, start);
}

static bool pcap_send(struct net_backend *n, const struct net_frame *f)
{
    struct pcap *p = container_of(net_filter_of(n), struct pcap, filter);

    if (!net_send(p->filter.below, f))
        return false;
    record(p, f);
    return true;
}

static bool pcap_receive(struct net_listener *l, const struct net_frame *f)
{
    struct pcap *p = container_of(container_of(l, struct net_filter, listener), struct pcap, filter);

    if (!net_filter_deliver(&p->filter, f))
        return false;
    record(p, f);
    return true;
}

static void pcap_close(struct net_backend *n)
{
    struct pcap *p = container_of(net_filter_of(n), struct pcap, filter);

    net_filter_release(&p->filter);
    if (p->fd >= 0)
        close(p->fd);
    free(p);
}

static const struct net_backend_ops pcap_ops = {
    .send = pcap_send,
    .resume = net_filter_resume,
    .set_offloads = net_filter_set_offloads,
    .close = pcap_close,
};

/* Captures hold what others said to each other: they are nobody else's. */
static int create(const char *path, struct error *err)
{
    const struct file_header h = {
        .magic = MAGIC_NS, .major = 2, .minor = 4, .snaplen = SNAPLEN, .linktype = LINKTYPE_ETHERNET};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd >= 0 && write(fd, &h, sizeof h) == sizeof h)
        return fd;
    int e = errno;
    if (fd >= 0)
        close(fd);
    return error_set_errno(err, e, "cannot write the capture '%s'", path);
}

struct net_backend *net_pcap_open(struct net_backend *below, const char *path, struct error *err)
{
    struct pcap *p = calloc(1, sizeof *p);

    if (!p)
        error_set_errno(err, ENOMEM, "cannot write the capture '%s'", path);
    else
        p->fd = create(path, err);
    if (!p || p->fd < 0) {
        free(p);
        net_close(below);
        return NULL;
    }
    p->path = path;
    net_filter_init(&p->filter, &pcap_ops, below, pcap_receive);
    return &p->filter.base;
}
