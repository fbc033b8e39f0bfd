/* The board's parts, for pc.c (wiring) and pc-power.c (life cycle). */
#ifndef TRAPEZE_MACHINE_PC_INTERNAL_H
#define TRAPEZE_MACHINE_PC_INTERNAL_H

#include "hw/acpi-pm.h"
#include "hw/firmware-rom.h"
#include "hw/fw-cfg.h"
#include "hw/hpet.h"
#include "hw/i8042.h"
#include "hw/irqchip.h"
#include "hw/isa-debug-exit.h"
#include "hw/pci-host.h"
#include "hw/pit.h"
#include "hw/port92.h"
#include "hw/pvpanic.h"
#include "hw/reset-port.h"
#include "hw/rtc.h"
#include "hw/uart16550.h"
#include "machine/acpi.h"
#include "machine/firmware.h"
#include "machine/mptable.h"
#include "machine/pc.h"
#include "machine/smbios.h"
#include "virtio/9p.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/scsi.h"

struct pc {
    struct pc_config config;
    struct boot_source *boot;
    struct event_loop *loop;
    unsigned steps_done;

    struct memory memory;
    struct e820 e820;
    struct cpuid_table cpuid;
    struct vm vm;
    struct list devices; /* of struct device, in order of reset */

    struct soft_irqchip irqchip;
    struct pit pit;
    struct rtc rtc;
    struct hpet hpet;
    struct acpi_pm acpi_pm;
    struct i8042 i8042;
    struct port92 port92;
    struct reset_port reset_port;
    struct pvpanic pvpanic;
    struct isa_debug_exit debug_exit;
    struct fw_cfg fw_cfg;
    struct firmware_rom rom;
    struct chardev_keys keys; /* of both consoles */
    struct chardev *console;
    struct uart16550 com1;

    struct pci_host pci;
    struct virtio_rng rng;
    struct chardev *hvc_backend;
    struct virtio_console hvc;
    struct block_device *disk_backend[PC_MAX_DISKS];
    struct virtio_blk disk[PC_MAX_DISKS]; /* those on PC_BUS_VIRTIO */
    struct virtio_scsi scsi;              /* with those on PC_BUS_SCSI */
    unsigned disks_open, disks_made;
    bool has_scsi;
    struct deferred disk_stop; /* a disk holds a failed request */
    struct timer disk_retry;
    bool disk_stopped; /* the VM is paused for it (machine lock) */
    struct net_backend *net_backend[PC_MAX_NETS];
    struct virtio_net net[PC_MAX_NETS];
    unsigned nets_made;
    struct share *share_backend[PC_MAX_SHARES];
    struct virtio_9p share[PC_MAX_SHARES];
    unsigned shares_made;

    struct acpi_tables acpi;
    struct smbios smbios;
    struct mptable mptable;

    /* pc-power.c */
    struct lifecycle lifecycle;
    struct deferred take_other; /* the engine failed */
    atomic_bool ended, quit_wanted;
    enum vm_end end_why;
    int end_code;
};

/* pc-disk.c. Disks with what is behind them. */
int pc_disks_up(struct pc *pc, struct error *err);
void pc_disks_down(struct pc *pc);
void pc_disks_quiet(struct pc *pc); /* after the run: no more retries of held requests */
void pc_boot_order(const struct pc *pc, char *text, size_t size); /* OpenFirmware paths, one a line */

/* pc-net.c */
int pc_nets_up(struct pc *pc, struct error *err);
void pc_nets_down(struct pc *pc);
/* pc-keys.c. What the user can ask of the machine at its console. */
void pc_keys_init(struct pc *pc);

/* pc-share.c */
int pc_shares_up(struct pc *pc, struct error *err);
void pc_shares_down(struct pc *pc);

/* Connects devices' requests and the VM's end to the event loop. */
void pc_lifecycle_init(struct pc *pc);

/*
 * Power-on or system reset: devices and CPUs in reset state, tables and kernel in RAM, the boot CPU at
 * the kernel's entry. No vCPU runs. Without the machine lock.
 */
int pc_power_on(struct pc *pc, struct error *err);

#endif
