/* A growing string. */
#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void strbuf_init(struct strbuf *b)
{
    /* A literal, never written: cap is 0. */
    *b = (struct strbuf){.text = (char *)""};
}

void strbuf_release(struct strbuf *b)
{
    if (b->cap)
        free(b->text);
    strbuf_init(b);
}

/* Room for @len more bytes and the terminator. */
static bool reserve(struct strbuf *b, size_t len)
{
    if (b->failed)
        return false;
    if (b->len + len < b->cap)
        return true;
    size_t cap = MAX((b->len + len + 1) * 3 / 2, (size_t)64);
    char *text = len < SIZE_MAX / 4 ? realloc(b->cap ? b->text : NULL, cap) : NULL;
    if (!text) {
        b->failed = true;
        return false;
    }
    b->text = text;
    b->cap = cap;
    b->text[b->len] = '\0';
    return true;
}

void strbuf_add(struct strbuf *b, const char *data, size_t len)
{
    if (!reserve(b, len))
        return;
    memcpy(b->text + b->len, data, len);
    b->len += len;
    b->text[b->len] = '\0';
}

void strbuf_addf(struct strbuf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (len < 0 || !reserve(b, (size_t)len))
        return;
    va_start(ap, fmt);
    vsnprintf(b->text + b->len, (size_t)len + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)len;
}

char *strbuf_detach(struct strbuf *b)
{
    char *text = b->failed || !reserve(b, 0) ? NULL : b->text;
    if (text)
        strbuf_init(b);
    else
        strbuf_release(b);
    return text;
}
