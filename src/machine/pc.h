/*
 * The PC board: one machine with everything on it, wired explicitly.
 *
 * Life: pc_new() makes the board, loads the kernel and leaves the CPUs in its entry state; pc_run()
 * starts them and serves the event loop on the calling thread until the guest or the user ends the
 * machine; pc_free() takes all down. The loop is the caller's, who may put sources of its own on it.
 */
#ifndef TRAPEZE_MACHINE_PC_H
#define TRAPEZE_MACHINE_PC_H

#include "backend/block/block.h"
#include "backend/net/net.h"
#include "backend/share/share.h"
#include "base/uuid.h"
#include "cpu/vm.h"
#include "machine/loader.h"

#define PC_MAX_DISKS 16
#define PC_MAX_NETS 8

enum pc_bus { PC_BUS_VIRTIO, PC_BUS_SCSI };

struct pc_disk {
    const char *path;
    enum pc_bus bus;
    bool cdrom;         /* on PC_BUS_SCSI */
    const char *serial; /* NULL: none */
    struct block_options options;
    struct block_limits limits;
    enum block_on_error read_error, write_error;
};

struct pc_net {
    u8 mac[6]; /* all zero: pc_new() makes one up */
    struct net_options options;
};

#define PC_MAX_SHARES 8

struct pc_share {
    const char *path, *tag;
    struct share_options options;
};

struct pc_config {
    const char *name;
    u8 uuid[UUID_SIZE];
    const struct engine_ops *engine;
    const struct engine_ops *other; /* goes on when the engine fails; CPUID is what both can do; or NULL */
    const char *cpu_model;          /* see x86/cpuid.h */
    enum kernel_irqchip irqchip;    /* of engine kvm */
    bool ioeventfd;                 /* ... doorbells without exits */
    bool irqfd;                     /* ... and interrupts by eventfd */
    unsigned cpus;
    u64 memory; /* bytes */
    bool no_acpi, no_rng;
    bool no_reboot; /* a reset ends the machine */
    bool debug_exit;
    u16 debug_exit_port;
    const struct blob *firmware; /* boots instead of a kernel; NULL: none */
    const char *console;         /* backend of COM1, see backend/char/chardev.h */
    const char *virtio_console;  /* NULL: no such device */
    struct pc_disk disk[PC_MAX_DISKS];
    unsigned disk_count;
    unsigned boot_order[PC_MAX_DISKS]; /* numbers of disks, what firmware tries first */
    unsigned boot_count;
    struct pc_net net[PC_MAX_NETS];
    unsigned net_count;
    struct pc_share share[PC_MAX_SHARES];
    unsigned share_count;
};

struct pc;

/* @config's strings and @boot live as long as the machine. NULL with @err. */
struct pc *pc_new(const struct pc_config *config, struct boot_source *boot, struct event_loop *loop,
                  struct error *err);
void pc_free(struct pc *pc);

/* Until the end, of which it says why; *code is the status for VM_END_DEBUG_EXIT. VM_END_ERROR sets @err. */
enum vm_end pc_run(struct pc *pc, int *code, struct error *err);

/* Ends a running machine with VM_END_QUIT. Any thread. */
void pc_quit(struct pc *pc);

/* What the loop's callbacks run under. */
struct lock *pc_machine_lock(struct pc *pc);

/*
 * Goes on with another engine: see vm_switch_engine(). On the loop's thread, without the machine lock: a
 * callback of the loop drops it around the call.
 */
int pc_switch_engine(struct pc *pc, const struct engine_ops *engine, struct error *err);

/* Writes the ACPI tables to files in @dir. */
int pc_dump_acpi(const struct pc *pc, const char *dir, struct error *err);

/* Adds up the counters of all CPUs. After pc_run(). */
void pc_counters(const struct pc *pc, struct counters *sum);

/* The instructions that KVM could not execute, by name. After pc_run(). */
void pc_rescued(const struct pc *pc, struct tally *sum);

#endif
