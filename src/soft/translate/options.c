/* The switches of the translator, for tests and for the search for errors. */
#include <errno.h>

#include "soft/translate/translate-internal.h"

static const struct translate_options defaults = {
    .threshold = 16, .code_size = 64u << 20, .lockstep_blocks = 4};

struct word {
    const char *word;
    u32 offset; /* of the u32 in the options */
    u32 alone;  /* what it becomes by the word without a number */
};

#define WORD(text, field, alone)                                    \
    {                                                               \
        text, (u32)offsetof(struct translate_options, field), alone \
    }
/* Described in docs/translator.md. */
static const struct word words[] = {
    WORD("hot", threshold, 1),
    WORD("tiny-cache", code_size, 512u << 10),
    WORD("no-chaining", no_chaining, 1),
    WORD("no-returns", no_returns, 1),
    WORD("no-native", no_native, 1),
    WORD("slow-memory", slow_memory, 1),
    WORD("live-flags", live_flags, 1),
    WORD("one-insn", block_insns, 1),
    WORD("no-traces", no_traces, 1),
    WORD("traces", traces, 1),
    WORD("windows", windows, 1),
    WORD("no-windows", no_windows, 1),
    WORD("no-pext", no_pext, 1),
    WORD("flush", flush, 100),
    WORD("fail", fail, 3),
    WORD("lockstep", lockstep, 1),
    WORD("lockstep-blocks", lockstep_blocks, 64),
};

static int set_word(struct translate_options *o, const char *text, size_t len, struct error *err)
{
    size_t name = strcspn(text, "=,");
    for (unsigned n = 0; n < ARRAY_SIZE(words); n++) {
        if (strlen(words[n].word) != name || memcmp(text, words[n].word, name) != 0)
            continue;
        u32 *to = (u32 *)((char *)o + words[n].offset);
        char *end = NULL;
        unsigned long v = name < len ? strtoul(text + name + 1, &end, 10) : words[n].alone;
        if (v == 0 || v > 1u << 30 || (end && end != text + len))
            break;
        *to = (u32)v;
        return 0;
    }
    return error_set(err, EINVAL, "TRAPEZE_TRANSLATE: no such word, or no such number: '%.*s'", (int)len,
                     text);
}

int translate_read_options(struct translate_options *o, struct error *err)
{
    const char *text = getenv("TRAPEZE_TRANSLATE");
    *o = defaults;
    while (text && *text) {
        size_t len = strcspn(text, ",");
        int rc = len ? set_word(o, text, len, err) : 0;
        if (rc != 0)
            return rc;
        text += len + (text[len] == ',');
    }
    return 0;
}
