/*
 * Messages and traces. The state here is the process's on purpose (log.h): where messages go, which
 * are wanted, and the rate limit of guest messages.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define LINE_MAX_LEN 1024
#define GUEST_LINES_PER_SEC 10

u32 trace_mask;

static _Atomic int log_fd = STDERR_FILENO;
static _Atomic int log_level = LOG_WARN;

/* The second in which lines are counted, the lines in it, and those left out. */
static _Atomic u64 guest_second;
static _Atomic u32 guest_lines;
static _Atomic u32 guest_dropped;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

int log_open(const char *path, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open log '%s'", path);
    int old = atomic_exchange(&log_fd, fd);
    if (old > STDERR_FILENO)
        close(old);
    return 0;
}

/* Control characters are shown as '?', so that a guest's string cannot drive the user's terminal. */
static void write_line(const char *prefix, const char *fmt, va_list ap)
{
    char line[LINE_MAX_LEN];
    size_t room = sizeof line - 1;
    size_t len = (size_t)snprintf(line, room, "%s", prefix);
    int n = vsnprintf(line + len, room - len, fmt, ap);
    if (n > 0)
        len = MIN(len + (size_t)n, room - 1);
    for (size_t i = 0; i < len; i++) {
        if ((u8)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[len++] = '\n';
    ssize_t r;
    do {
        r = write(atomic_load_explicit(&log_fd, memory_order_relaxed), line, len);
    } while (r < 0 && errno == EINTR);
}

static void write_linef(const char *prefix, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void write_linef(const char *prefix, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    write_line(prefix, fmt, ap);
    va_end(ap);
}

static bool log_wanted(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void log_message(enum log_level level, const char *fmt, ...)
{
    static const char *const prefix[] = {
        [LOG_ERROR] = "trapeze: ",
        [LOG_WARN] = "trapeze: warning: ",
        [LOG_INFO] = "trapeze: ",
        [LOG_DEBUG] = "trapeze: debug: ",
    };
    if (!log_wanted(level))
        return;
    va_list ap;
    va_start(ap, fmt);
    write_line(prefix[level], fmt, ap);
    va_end(ap);
}

/* May one more guest line be written in this second? Races between threads only blur the limit. */
static bool guest_line_allowed(void)
{
    u64 now = clock_host_ns() / NS_PER_SEC;
    u64 second = atomic_load(&guest_second);
    if (now != second && atomic_compare_exchange_strong(&guest_second, &second, now)) {
        atomic_store(&guest_lines, 0);
        u32 dropped = atomic_exchange(&guest_dropped, 0);
        if (dropped)
            write_linef("trapeze: guest: ", "%u messages were dropped", dropped);
    }
    if (atomic_fetch_add(&guest_lines, 1) < GUEST_LINES_PER_SEC)
        return true;
    atomic_fetch_add(&guest_dropped, 1);
    return false;
}

void log_guest(const char *fmt, ...)
{
    if (!log_wanted(LOG_WARN) || !guest_line_allowed())
        return;
    va_list ap;
    va_start(ap, fmt);
    write_line("trapeze: guest: ", fmt, ap);
    va_end(ap);
}

static const char *const trace_names[] = {
#define X(name, help) [TRACE_##name] = #name,
    TRACE_CATEGORIES(X)
#undef X
};

static u32 trace_bit(const char *name, size_t len)
{
    if (len == 3 && !memcmp(name, "all", 3))
        return (u32)MASK(TRACE_COUNT);
    for (unsigned i = 0; i < TRACE_COUNT; i++) {
        if (strlen(trace_names[i]) == len && !memcmp(trace_names[i], name, len))
            return 1u << i;
    }
    return 0;
}

int trace_enable(const char *names, struct error *err)
{
    u32 mask = 0;
    for (const char *p = names;; p++) {
        size_t len = strcspn(p, ",");
        u32 bit = trace_bit(p, len);
        if (!bit)
            return error_set(err, EINVAL, "no trace category '%.*s'", (int)len, p);
        mask |= bit;
        p += len;
        if (!*p)
            break;
    }
    trace_mask |= mask;
    return 0;
}

void trace_message(enum trace_category cat, const char *fmt, ...)
{
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%s: ", trace_names[cat]);
    va_list ap;
    va_start(ap, fmt);
    write_line(prefix, fmt, ap);
    va_end(ap);
}
