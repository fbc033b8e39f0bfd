/*
 * Messages to the person who runs the VM, and traces for the person who debugs it.
 *
 * Both go to stderr (or the file given to log_open()), one line a call, written with a single
 * write(2), so lines of several threads do not mix. This is process-wide state on purpose: it says
 * nothing about any VM. Any thread may call.
 */
#ifndef TRAPEZE_BASE_LOG_H
#define TRAPEZE_BASE_LOG_H

#include "base/compiler.h"
#include "base/error.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Messages above @level are dropped. Default LOG_WARN. */
void log_set_level(enum log_level level);

/* Sends messages and traces to @path instead of stderr. */
int log_open(const char *path, struct error *err);

void log_message(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define log_error(...) log_message(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_message(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_message(LOG_INFO, __VA_ARGS__)

/* For what a guest did wrong: at most 10 lines a second over the whole process, the rest counted. */
void log_guest(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Trace categories: --trace NAME[,NAME...]. Always compiled in; one load and branch when off. */
#define TRACE_CATEGORIES(X)                                             \
    X(exec, "every instruction the interpreter executes")               \
    X(block, "decoded and translated blocks, and their eviction")       \
    X(translate, "each block translated: guest code, flags, host code") \
    X(mmu, "TLB fills and flushes, page faults")                        \
    X(exc, "exceptions and software interrupts delivered")              \
    X(irq, "interrupt lines, vectors, EOI, IPIs, timers of the APIC")   \
    X(msr, "MSR reads and writes")                                      \
    X(cpuid, "CPUID leaves read")                                       \
    X(kvm, "exits from KVM, and what the interpreter rescued")          \
    X(vcpu, "vCPU life cycle and requests")                             \
    X(pio, "port accesses")                                             \
    X(mmio, "memory-mapped I/O accesses")                               \
    X(timer, "PIT, RTC, HPET, PM timer")                                \
    X(serial, "UART registers")                                         \
    X(pci, "PCI configuration and BARs")                                \
    X(virtio, "virtio registers, queues and requests")                  \
    X(block_io, "host side of block devices")                           \
    X(share, "requests to shared directories")                          \
    X(fwcfg, "fw_cfg selections")                                       \
    X(boot, "loaders and tables")                                       \
    X(power, "reset, power off, debug exit")

enum trace_category {
#define X(name, help) TRACE_##name,
    TRACE_CATEGORIES(X)
#undef X
        TRACE_COUNT
};

extern u32 trace_mask;

/* Turns on the comma-separated categories in @names ("all" for each). */
int trace_enable(const char *names, struct error *err);
void trace_message(enum trace_category cat, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define trace_on(cat) unlikely(trace_mask &BIT(TRACE_##cat))
#define trace(cat, ...)                              \
    do {                                             \
        if (trace_on(cat))                           \
            trace_message(TRACE_##cat, __VA_ARGS__); \
    } while (0)

#endif
