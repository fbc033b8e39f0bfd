/* Errors of the host. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * The text is made in a local buffer first, since callers wrap an error in itself:
 * error_set(err, err->code, "cannot start: %s", err->text).
 */
static void set_text(struct error *err, int code, const char *fmt, va_list ap, const char *reason)
{
    char text[sizeof err->text];
    int n = vsnprintf(text, sizeof text, fmt, ap);
    if (n < 0)
        text[0] = '\0', n = 0;
    if (reason && (size_t)n < sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, ": %s", reason);
    for (char *p = text; *p; p++) {
        if (*p == '\n' || *p == '\r')
            *p = ' ';
    }
    err->code = code;
    memcpy(err->text, text, sizeof text);
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        set_text(err, code, fmt, ap, NULL);
        va_end(ap);
    }
    return -code;
}

int error_set_errno(struct error *err, int code, const char *fmt, ...)
{
    if (err) {
        char buf[128];
        va_list ap;
        va_start(ap, fmt);
        set_text(err, code, fmt, ap, strerror_r(code, buf, sizeof buf));
        va_end(ap);
    }
    return -code;
}
