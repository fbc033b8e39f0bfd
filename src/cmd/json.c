#include "cmd/json.h"

static void put_string(struct json *j, const char *s)
{
    putc('"', j->out);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            fprintf(j->out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(j->out, "\\u%04x", c);
        else
            putc(c, j->out);
    }
    putc('"', j->out);
}

static void begin(struct json *j, const char *key)
{
    if (j->more)
        putc(',', j->out);
    if (j->depth)
        fprintf(j->out, "\n%*s", (int)j->depth * 4, "");
    j->more = true;
    if (!key)
        return;
    put_string(j, key);
    fputs(": ", j->out);
}

void json_open(struct json *j, const char *key, char bracket)
{
    begin(j, key);
    putc(bracket, j->out);
    j->depth++;
    j->more = false;
}

void json_close(struct json *j, char bracket)
{
    j->depth--;
    if (j->more)
        fprintf(j->out, "\n%*s", (int)j->depth * 4, "");
    putc(bracket, j->out);
    j->more = true;
    if (!j->depth)
        putc('\n', j->out);
}

void json_string(struct json *j, const char *key, const char *value)
{
    begin(j, key);
    if (value)
        put_string(j, value);
    else
        fputs("null", j->out);
}

void json_u64(struct json *j, const char *key, u64 value)
{
    begin(j, key);
    fprintf(j->out, "%llu", (unsigned long long)value);
}

void json_bool(struct json *j, const char *key, bool value)
{
    begin(j, key);
    fputs(value ? "true" : "false", j->out);
}
