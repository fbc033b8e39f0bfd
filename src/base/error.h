/*
 * Errors of the host. A function that can fail returns 0 or -errno and takes a `struct error *`
 * that says which action failed on what; the caller may pass NULL when it does not care. Library
 * code never prints or exits: only cmd/ turns an error into "trapeze: ..." and a status.
 *
 * The guest's misbehaviour is not an error (device reset, counter, log_guest()); our own is BUG().
 */
#ifndef TRAPEZE_BASE_ERROR_H
#define TRAPEZE_BASE_ERROR_H

#include "base/compiler.h"

struct error {
    int code;       /* positive errno, 0 when unset */
    char text[512]; /* one line without a newline, for example "cannot open 'x.img': No such file" */
};

/* Records the failure and returns -@code, so that `return error_set(err, EINVAL, ...)` reads well. */
int error_set(struct error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The same with ": " and strerror(@code) appended. */
int error_set_errno(struct error *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
