/*
 * Command-line options as a list: parsing, help and error messages are all made from it. The same
 * serves for what follows a comma ("--disk FILE,format=raw,readonly").
 *
 *     --name VALUE    --name=VALUE    --flag    -n VALUE    (where the option has a letter)
 *     value,key=value,flag            a comma within a value is written twice
 */
#ifndef TRAPEZE_CMD_OPTIONS_H
#define TRAPEZE_CMD_OPTIONS_H

#include <stdio.h>

#include "base/error.h"

enum option_kind {
    OPTION_FLAG,   /* no value; bool */
    OPTION_STRING, /* const char *, points into the arguments */
    OPTION_UINT,   /* unsigned, within [min, max] */
    OPTION_SIZE,   /* u64 bytes with an optional suffix, within [min, max], a multiple of `unit` */
    OPTION_CHOICE, /* const char *, one of `choices` */
    OPTION_CALL,   /* set() takes it; may come several times */
    OPTION_GROUP,  /* no option: a heading in the help, in `help` */
};

struct option {
    const char *name; /* without the dashes */
    char letter;      /* "-n" is the same as "--name"; 0: none */
    const char *arg;  /* for the help: "SIZE"; NULL for a flag */
    const char *help; /* one line, or several separated by \n */
    enum option_kind kind;
    u32 offset; /* of the field in the target */
    u64 min, max, unit;
    const char *choices; /* "auto|kvm|..." */
    int (*set)(void *target, char *value, struct error *err);
};

#define OPTION_LIST_END \
    {                   \
        .name = NULL    \
    }

/*
 * Takes the options out of argv[1..argc) and puts the other arguments to the front of argv; *operands
 * is their number. Everything behind "--" is an operand. Values are not copied.
 */
int options_parse(const struct option *list, void *target, int argc, char **argv, int *operands,
                  struct error *err);

/*
 * "VALUE,key=value,flag": cuts @text in place; *value is the first part, or NULL when @has_value is
 * false and all parts are options. @what names the option in messages.
 */
int options_parse_commas(const struct option *list, void *target, const char *what, char *text, char **value,
                         struct error *err);

/* The list with its help texts, in columns. */
void options_help(const struct option *list, FILE *out);

/* The name in @names (ended by NULL) that is nearest to @word, or NULL when none is near. */
const char *options_nearest(const char *word, const char *const *names);

#endif
