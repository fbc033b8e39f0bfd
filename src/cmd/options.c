#include "cmd/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

#define MAX_OPTIONS 64

/* How an option is called in messages: "option '--cpus'" or "'format' of --disk". */
struct context {
    const struct option *list;
    void *target;
    const char *of; /* NULL: options with dashes */
};

static int complain(const struct context *c, const struct option *o, struct error *err, const char *text)
{
    if (c->of)
        return error_set(err, EINVAL, "'%s' of --%s %s", o->name, c->of, text);
    return error_set(err, EINVAL, "option '--%s' %s", o->name, text);
}

/* --- values --- */

/* A size in the largest unit that shows it exactly. */
static void format_size(char *buf, size_t len, u64 bytes)
{
    static const char suffix[] = " KMGT";
    unsigned i = 0;

    while (bytes && bytes % 1024 == 0 && i < 4) {
        bytes /= 1024;
        i++;
    }
    snprintf(buf, len, "%llu%.*s", (unsigned long long)bytes, i ? 1 : 0, suffix + i);
}

static int out_of_range(const struct context *c, const struct option *o, bool size, const char *value,
                        struct error *err)
{
    char min[32], max[32], text[160];

    if (size) {
        format_size(min, sizeof min, o->min);
        format_size(max, sizeof max, o->max);
    } else {
        snprintf(min, sizeof min, "%llu", (unsigned long long)o->min);
        snprintf(max, sizeof max, "%llu", (unsigned long long)o->max);
    }
    snprintf(text, sizeof text, "must be from %s to %s, not '%.40s'", min, max, value);
    return complain(c, o, err, text);
}

static int set_number(const struct context *c, const struct option *o, const char *value, struct error *err)
{
    bool size = o->kind == OPTION_SIZE;
    u64 v;
    char text[160];
    int r = size ? parse_size(value, &v) : parse_u64(value, &v);

    if (r == -EINVAL) {
        snprintf(text, sizeof text, "needs a %s, not '%.40s'", size ? "size such as 512M" : "number", value);
        return complain(c, o, err, text);
    }
    if (r || v < o->min || v > o->max)
        return out_of_range(c, o, size, value, err);
    if (o->unit && v % o->unit) {
        format_size(text, sizeof text, o->unit);
        return error_set(err, EINVAL, "option '--%s' must be a multiple of %s, not '%s'", o->name, text,
                         value);
    }
    if (size)
        *(u64 *)((char *)c->target + o->offset) = v;
    else
        *(unsigned *)((char *)c->target + o->offset) = (unsigned)v;
    return 0;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);

    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        if (n == len && !memcmp(p, value, n))
            return true;
        p += n + (p[n] == '|');
    }
    return false;
}

static int set_choice(const struct context *c, const struct option *o, char *value, struct error *err)
{
    char text[200];

    if (!is_choice(o->choices, value)) {
        snprintf(text, sizeof text, "must be one of %s, not '%.40s'", o->choices, value);
        return complain(c, o, err, text);
    }
    *(const char **)((char *)c->target + o->offset) = value;
    return 0;
}

static int set_option(const struct context *c, const struct option *o, char *value, struct error *err)
{
    BUG_ON(!value && o->kind != OPTION_FLAG);
    switch (o->kind) {
    case OPTION_FLAG: *(bool *)((char *)c->target + o->offset) = true; return 0;
    case OPTION_STRING: *(const char **)((char *)c->target + o->offset) = value; return 0;
    case OPTION_UINT:
    case OPTION_SIZE: return set_number(c, o, value, err);
    case OPTION_CHOICE: return set_choice(c, o, value, err);
    case OPTION_CALL: return o->set(c->target, value, err);
    case OPTION_GROUP: break;
    }
    BUG();
}

/* --- finding an option --- */

static const struct option *find(const struct option *list, const char *name, size_t len)
{
    for (const struct option *o = list; o->name || o->kind == OPTION_GROUP; o++)
        if (o->kind != OPTION_GROUP && strlen(o->name) == len && !memcmp(o->name, name, len))
            return o;
    return NULL;
}

#define MAX_WORD 40

/* Edits (insert, delete, replace) that turn @a into @b, by dynamic programming over one row. */
static unsigned distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned row[MAX_WORD + 1];

    if (la > MAX_WORD || lb > MAX_WORD)
        return MAX_WORD;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(MIN(row[j], row[j - 1]) + 1, replace);
        }
    }
    return row[lb];
}

const char *options_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    unsigned least = (unsigned)MIN(strlen(word), (size_t)8) / 2 + 1;

    for (; *names; names++) {
        unsigned d = distance(word, *names);
        if (d < least) {
            least = d;
            best = *names;
        }
    }
    return best;
}

static int unknown(const struct context *c, const char *name, size_t len, struct error *err)
{
    const char *names[MAX_OPTIONS + 1];
    unsigned n = 0;
    char word[MAX_WORD + 1];
    const char *hint, *dashes = c->of ? "" : "--";
    char tail[80] = "";

    for (const struct option *o = c->list; o->name || o->kind == OPTION_GROUP; o++)
        if (o->name && n < MAX_OPTIONS)
            names[n++] = o->name;
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)MIN(len, sizeof word - 1), name);
    hint = options_nearest(word, names);
    if (hint)
        snprintf(tail, sizeof tail, "; did you mean '%s%s'?", dashes, hint);
    if (c->of)
        return error_set(err, EINVAL, "--%s has no '%s'%s", c->of, word, tail);
    return error_set(err, EINVAL, "unknown option '--%s'%s", word, tail);
}

/* --- the command line --- */

/* "-n", and the argument behind it when it takes one. */
static int parse_letter(const struct context *c, char **argv, int left, int *taken, struct error *err)
{
    const struct option *o = c->list;

    while ((o->name || o->kind == OPTION_GROUP) && !(o->letter && o->letter == argv[0][1]))
        o++;
    if (!o->name || argv[0][2])
        return error_set(err, EINVAL, "unknown option '%s'; options are written out, as in --help", argv[0]);
    *taken = o->arg ? 2 : 1;
    if (o->arg && left < 2)
        return complain(c, o, err, "needs a value");
    return set_option(c, o, o->arg ? argv[1] : NULL, err);
}

/* One argument that starts with "--"; *taken says how many arguments it was. */
static int parse_one(const struct context *c, char **argv, int left, int *taken, struct error *err)
{
    char *name = argv[0] + 2, *value = strchr(name, '=');
    size_t len = value ? (size_t)(value - name) : strlen(name);
    const struct option *o = find(c->list, name, len);

    *taken = 1;
    if (!o)
        return unknown(c, name, len, err);
    if (!o->arg)
        return value ? complain(c, o, err, "takes no value") : set_option(c, o, NULL, err);
    if (value)
        return set_option(c, o, value + 1, err);
    if (left < 2)
        return complain(c, o, err, "needs a value");
    *taken = 2;
    return set_option(c, o, argv[1], err);
}

int options_parse(const struct option *list, void *target, int argc, char **argv, int *operands,
                  struct error *err)
{
    struct context c = {.list = list, .target = target};
    bool only_operands = false;
    int n = 0;

    for (int i = 1; i < argc;) {
        char *arg = argv[i];
        int taken = 1, r;

        if (only_operands || arg[0] != '-' || !arg[1] || (arg[1] >= '0' && arg[1] <= '9')) {
            argv[n++] = arg;
            i++;
            continue;
        }
        if (arg[1] == '-' && !arg[2]) {
            only_operands = true;
            i++;
            continue;
        }
        r = arg[1] == '-' ? parse_one(&c, argv + i, argc - i, &taken, err)
                          : parse_letter(&c, argv + i, argc - i, &taken, err);
        if (r)
            return r;
        i += taken;
    }
    *operands = n;
    return 0;
}

/* Cuts the next part off at a single comma, in place, with doubled commas made single. */
static char *cut_part(char **rest)
{
    char *start = *rest, *in = start, *out = start;

    for (; *in; *out++ = *in++) {
        if (*in != ',')
            continue;
        if (in[1] != ',') {
            *rest = in + 1;
            *out = 0;
            return start;
        }
        in++;
    }
    *out = 0;
    *rest = NULL;
    return start;
}

int options_parse_commas(const struct option *list, void *target, const char *what, char *text, char **value,
                         struct error *err)
{
    struct context c = {.list = list, .target = target, .of = what};
    char *rest = text; /* NULL: nothing there */

    if (value) {
        *value = cut_part(&rest);
        if (!**value)
            return error_set(err, EINVAL, "option '--%s' needs a value", what);
    }
    while (rest) {
        char *part = cut_part(&rest), *eq = strchr(part, '=');
        size_t len = eq ? (size_t)(eq - part) : strlen(part);
        const struct option *o = find(list, part, len);
        int r;

        if (!o)
            return unknown(&c, part, len, err);
        if (o->arg && !eq)
            return complain(&c, o, err, "needs a value");
        if (!o->arg && eq)
            return complain(&c, o, err, "takes no value");
        r = set_option(&c, o, eq ? eq + 1 : NULL, err);
        if (r)
            return r;
    }
    return 0;
}

/* --- help --- */

#define HELP_COLUMN 25

static void help_line(const struct option *o, FILE *out)
{
    int n = o->letter ? fprintf(out, "  -%c, ", o->letter) : fprintf(out, "  ");
    n += fprintf(out, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    const char *p = o->help;

    if (n >= HELP_COLUMN) {
        fputc('\n', out);
        n = 0;
    }
    for (;;) {
        size_t len = strcspn(p, "\n");
        fprintf(out, "%*s%.*s\n", HELP_COLUMN - n, "", (int)len, p);
        if (!p[len])
            return;
        p += len + 1;
        n = 0;
    }
}

void options_help(const struct option *list, FILE *out)
{
    for (const struct option *o = list; o->name || o->kind == OPTION_GROUP; o++) {
        if (o->kind == OPTION_GROUP)
            fprintf(out, "\n%s\n", o->help);
        else
            help_line(o, out);
    }
}
