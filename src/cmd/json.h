/*
 * JSON on its way out: struct json j = {.out = stdout}; json_open(&j, NULL, '{'); json_u64(&j, "size", 1);
 * json_close(&j, '}'). The key is NULL within an array and at the top.
 */
#ifndef TRAPEZE_CMD_JSON_H
#define TRAPEZE_CMD_JSON_H

#include <stdio.h>

#include "base/compiler.h"

struct json {
    FILE *out;
    unsigned depth;
    bool more; /* something stands before in this object or array */
};

void json_open(struct json *j, const char *key, char bracket);
/* Ends with a newline at the top. */
void json_close(struct json *j, char bracket);
/* @value NULL: null. Bytes that are not UTF-8 are written as they are. */
void json_string(struct json *j, const char *key, const char *value);
void json_u64(struct json *j, const char *key, u64 value);
void json_bool(struct json *j, const char *key, bool value);

#endif
