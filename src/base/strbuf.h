/*
 * A growing string. `struct strbuf b; strbuf_init(&b);` ... strbuf_release(&b). text is always a
 * terminated string, also when empty. Running out of memory is remembered in `failed` and later
 * additions do nothing, so that a caller checks once at the end.
 */
#ifndef TRAPEZE_BASE_STRBUF_H
#define TRAPEZE_BASE_STRBUF_H

#include "base/compiler.h"

struct strbuf {
    char *text;
    size_t len, cap; /* cap 0: text is not allocated */
    bool failed;
};

void strbuf_init(struct strbuf *b);
void strbuf_release(struct strbuf *b);
void strbuf_add(struct strbuf *b, const char *data, size_t len);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Gives the string to the caller, who frees it; @b is empty again. NULL when an addition failed. */
char *strbuf_detach(struct strbuf *b);

#endif
