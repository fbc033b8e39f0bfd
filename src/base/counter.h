/*
 * Counters that explain where time goes (--stats). The list is the single place that names them:
 * the struct, the dump and the tests are made from it. A set belongs to one thread at a time (each
 * vCPU has one, the event loop has one); readers may see slightly old values.
 */
#ifndef TRAPEZE_BASE_COUNTER_H
#define TRAPEZE_BASE_COUNTER_H

#include <stdio.h>

#include "base/compiler.h"

#define COUNTERS(X)                                                      \
    X(insns, "guest instructions interpreted")                           \
    X(blocks_run, "blocks entered from the run loop")                    \
    X(blocks_interpreted, "of these interpreted by the translator")      \
    X(blocks_translated, "blocks translated")                            \
    X(exits_unlinked, "exits from translated code to be linked")         \
    X(exits_stopped, "exits since a handler stopped the block")          \
    X(exits_request, "exits for interrupts and other requests")          \
    X(exits_lookup, "exits to a target without code")                    \
    X(handler_calls, "calls of the interpreter from translated code")    \
    X(handler_decodes, "instructions decoded for these")                 \
    X(links, "exits linked to their targets")                            \
    X(traces, "traces formed")                                           \
    X(traces_dropped, "traces given up")                                 \
    X(ranges_given_up, "accesses of traces that do without a range")     \
    X(translations_stale, "translations that a write made stale")        \
    X(code_evictions, "times the oldest translations were dropped")      \
    X(blocks_decoded, "blocks decoded")                                  \
    X(blocks_invalidated, "blocks dropped after a write")                \
    X(tlb_misses, "walks of page tables by the software TLB")            \
    X(tlb_refills, "software TLB misses that its second level answered") \
    X(tlb_flushes, "software TLB flushes")                               \
    X(window_faults, "host faults in windows")                           \
    X(window_fills, "pages mapped into windows")                         \
    X(page_faults, "guest page faults")                                  \
    X(exceptions, "other guest exceptions")                              \
    X(interrupts, "interrupts taken")                                    \
    X(ipis, "interprocessor interrupts sent")                            \
    X(halts, "HLT that slept")                                           \
    X(kicks, "times the vCPU was kicked")                                \
    X(native_stubs, "instructions executed by a host stub")              \
    X(vector_loads, "loads of vector or x87 state into host registers")  \
    X(pio_reads, "port reads")                                           \
    X(pio_writes, "port writes")                                         \
    X(mmio_reads, "memory-mapped reads")                                 \
    X(mmio_writes, "memory-mapped writes")                               \
    X(cpuid_exits, "CPUID instructions")                                 \
    X(msr_reads, "MSR reads")                                            \
    X(msr_writes, "MSR writes")                                          \
    X(lockstep_runs, "runs compared with the interpreter")               \
    X(lockstep_once, "instructions that cannot run twice")               \
    X(kvm_exits, "exits from KVM")                                       \
    X(kvm_forgets, "times KVM had to forget the guest's page tables")    \
    X(kvm_rescues, "times the interpreter took over")                    \
    X(exclusive, "times all vCPUs were stopped")                         \
    X(virtio_kicks, "virtio doorbells")                                  \
    X(virtio_irqs, "virtio interrupts")                                  \
    X(net_sent, "frames that guests sent")                               \
    X(net_received, "frames that guests received")                       \
    X(net_dropped, "frames to guests that were dropped")                 \
    X(guest_errors, "device errors caused by the guest")

struct counters {
#define X(name, help) u64 name;
    COUNTERS(X)
#undef X
};

/* Adds @from to @to. */
void counters_add(struct counters *to, const struct counters *from);

/* One line a counter that is not zero: value, name, help. */
void counters_print(const struct counters *c, FILE *out);

#endif
