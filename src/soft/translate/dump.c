/* What a block looks like at each stage of its translation, for people: --trace translate, and lock-step. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "soft/translate/translate-internal.h"

void dump_error(const char *line)
{
    log_error("%s", line);
}

void dump_trace(const char *line)
{
    trace_message(TRACE_translate, "%s", line);
}

static void PRINTF_LIKE(2, 3) say(dump_line *out, const char *fmt, ...)
{
    char line[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    out(line);
}

static void hex(char *to, size_t size, const u8 *bytes, unsigned len)
{
    size_t at = 0;
    to[0] = '\0';
    for (unsigned n = 0; n < len && at + 3 < size; n++)
        at += (size_t)snprintf(to + at, size - at, "%02x ", bytes[n]);
}

/* One instruction as text; its length, or 0. */
static unsigned disassemble(const ZydisDecoder *d, const u8 *bytes, size_t len, u64 rip, char *text,
                            size_t size)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter f;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, bytes, len, &z, op)))
        return 0;
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&f, &z, op, z.operand_count_visible, text, size, rip, NULL);
    return z.length;
}

static void dump_guest(struct translate_cpu *t, const struct block *b, u64 rip, const struct translator *x,
                       dump_line *out)
{
    const ZydisDecoder *d = &t->soft.interpret->decoder[b->mode & SOFT_MODE_CODE64 ? 0 : 1];
    unsigned off = 0, len;
    for (unsigned n = 0; n < b->count && off < b->len; n++, off += len) {
        char bytes[48], text[96] = "(undecodable)";
        len = disassemble(d, b->bytes + off, b->len - off, rip + off, text, sizeof text);
        if (!len)
            len = b->len - off;
        hex(bytes, sizeof bytes, b->bytes + off, len);
        if (x)
            say(out, "  %c%c %" PRIx64 " %-31s %s", x->native[n] ? 'n' : 'h', x->live[n] ? 'F' : '-',
                rip + off, bytes, text);
        else
            say(out, "  %" PRIx64 " %-31s %s", rip + off, bytes, text);
    }
}

static void dump_host(const struct translation *code, dump_line *out)
{
    ZydisDecoder d;
    const u8 *at = code->start, *end = at + code->size;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    while (at < end) {
        char bytes[48], text[96] = "(data)";
        unsigned len = disassemble(&d, at, (size_t)(end - at), (u64)(uintptr_t)at, text, sizeof text);
        len = MAX(len, 1u);
        hex(bytes, sizeof bytes, at, len);
        say(out, "    %4zu %-31s %s", (size_t)(at - (const u8 *)code->start), bytes, text);
        at += len;
    }
}

void translate_dump(struct translate_cpu *t, const struct translation *code, u64 rip,
                    const struct translator *x, dump_line *out)
{
    const struct block *b = code->block;
    say(out, "block at 0x%" PRIx64 ", gpa 0x%" PRIx64 ", mode 0x%x: %u instructions%s", rip, b->gpa, b->mode,
        b->count, x ? " (n native, h handler; F flags are live before)" : "");
    dump_guest(t, b, rip, x, out);
    say(out, "  host code at %p, %u bytes", code->start, code->size);
    dump_host(code, out);
}
