/*
 * The local APICs of one VM and the bus between them (SDM vol. 3, chapter 11 in editions from 2022
 * on): xAPIC registers, x2APIC, interprocessor interrupts, the timer.
 *
 * The APIC id of CPU N is N. Processors are reached through `struct apic_target_ops`, so that this
 * file knows nothing of vCPUs; EOIs of level-triggered interrupts go to eoi(). Machine lock held for
 * everything but apic_page().
 *
 * Time: the timer counts a bus clock of 1 GHz, that is nanoseconds of the VM's virtual clock, divided
 * as the divide register says. A periodic timer shorter than APIC_MIN_PERIOD_NS ticks only that often:
 * the ticks between are lost, as they are on hardware that cannot keep up.
 *
 * PV EOI (KVM's paravirtual interface): when the interrupt that goes into service is edge-triggered
 * and nothing else waits, bit 0 of a word in guest memory is set; the guest may then clear the bit
 * instead of writing EOI. The word is only looked at on the vCPU's own thread, at an instruction
 * boundary, so that the guest needs no locked access.
 */
#ifndef TRAPEZE_HW_APIC_H
#define TRAPEZE_HW_APIC_H

#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "memory/memory.h"

#define APIC_MAX_CPUS 16
#define APIC_DEFAULT_BASE 0xfee00000ull
#define APIC_BUS_HZ NS_PER_SEC
#define APIC_MIN_PERIOD_NS 50000

/* Register offsets */
enum apic_reg {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_APR = 0x90,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_RRD = 0xc0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR2 = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PERF = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
    APIC_SELF_IPI = 0x3f0, /* x2APIC only */
};

#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_EXTD BIT(10) /* x2APIC mode */
#define APIC_BASE_ENABLE BIT(11)

#define APIC_SVR_ENABLE BIT(8)
#define APIC_SVR_NO_BROADCAST BIT(12) /* EOIs are not broadcast to I/O APICs */
#define APIC_LVT_MASKED BIT(16)
#define APIC_LVT_TIMER_MODE (3u << 17)
#define APIC_TIMER_ONE_SHOT 0u
#define APIC_TIMER_PERIODIC (1u << 17)
#define APIC_TIMER_TSC_DEADLINE (2u << 17)

/* Delivery modes: bits 10:8 of ICR, LVT, MSI data and redirection entries */
enum apic_mode {
    APIC_MODE_FIXED,
    APIC_MODE_LOWEST,
    APIC_MODE_SMI,
    APIC_MODE_RSVD,
    APIC_MODE_NMI,
    APIC_MODE_INIT,
    APIC_MODE_SIPI,
    APIC_MODE_EXTINT,
};

#define APIC_ESR_SEND_VECTOR BIT(5)    /* sent an illegal vector */
#define APIC_ESR_RECEIVE_VECTOR BIT(6) /* received one */
#define APIC_ESR_REGISTER BIT(7)       /* access to a register that is not there */

enum { APIC_LVT_COUNT = 6 };

enum apic_signal { APIC_SIGNAL_INTERRUPT, APIC_SIGNAL_NMI, APIC_SIGNAL_INIT };

/* The processors behind the APICs. */
struct apic_target_ops {
    void (*raise)(void *owner, unsigned cpu, enum apic_signal signal);
    void (*start)(void *owner, unsigned cpu, u8 sipi_vector);
    /* Nothing is deliverable any more: takes an APIC_SIGNAL_INTERRUPT back. */
    void (*lower)(void *owner, unsigned cpu);
    /* Guest TSC minus vclock_tsc() of the processor. */
    i64 (*tsc_offset)(void *owner, unsigned cpu);
    /* A level-triggered interrupt ended. */
    void (*eoi)(void *owner, u8 vector);
    /* The acknowledge cycle of the 8259s, for a LINT0 in ExtINT mode. */
    u8 (*extint_ack)(void *owner);
};

struct apic_set;

struct apic {
    struct device dev;
    struct apic_set *set;
    unsigned id;
    u64 base; /* IA32_APIC_BASE; read without a lock by apic_page() */
    u32 tpr, ldr, dfr, svr, icr, icr2;
    u32 esr, esr_pending;
    u32 lvt[APIC_LVT_COUNT]; /* in register order from APIC_LVT_TIMER */
    u32 isr[8], tmr[8], irr[8];

    u32 timer_initial, timer_divide;
    u64 timer_deadline; /* virtual ns at which the count reaches 0; 0: not counting */
    u64 tsc_deadline;   /* IA32_TSC_DEADLINE; 0: disarmed */
    struct timer timer;

    u64 pv_eoi;        /* MSR: gpa, bit 0 enable */
    u8 pv_eoi_offered; /* the guest's flag is set by us */
};

struct apic_set {
    struct apic apic[APIC_MAX_CPUS];
    unsigned count;
    const struct apic_target_ops *ops;
    void *owner;
    struct memory *memory;
    struct event_loop *loop;
    const struct vclock *clock;
    u64 base_reserved; /* bits of IA32_APIC_BASE that fault */
    bool x2apic;       /* x2APIC mode may be entered */
    bool always_broadcasts;
    bool lint[2];     /* level at LINT0 (the 8259s) and LINT1 (NMI) of every APIC */
    unsigned arbiter; /* where the search for the lowest priority starts */
};

#define APIC_BROADCAST 0xffffffffu

/* A message on the bus. An 8-bit destination of 0xff is widened to APIC_BROADCAST by its sender. */
struct apic_message {
    u32 dest;
    bool logical;
    bool level; /* level-triggered */
    u8 mode;    /* enum apic_mode */
    u8 vector;
};

struct apic_config {
    unsigned cpus;
    unsigned maxphyaddr;
    bool x2apic;
    bool always_broadcasts; /* EOIs, for I/O APICs without an EOI register */
    struct memory *memory;
    struct event_loop *loop;
    const struct vclock *clock;
    const struct apic_target_ops *ops;
    void *owner;
};

int apic_set_init(struct apic_set *s, const struct apic_config *config, struct error *err);
void apic_set_release(struct apic_set *s);

/* Delivers @m to every APIC it names. False when none accepted it. */
bool apic_deliver(struct apic_set *s, const struct apic_message *m);
/* The message that a write of @data to @addr makes; false when @addr is not an MSI address. */
bool apic_decode_msi(u64 addr, u32 data, struct apic_message *m);

/* The other way round. */
void apic_encode_msi(const struct apic_message *m, u64 *addr, u32 *data);

/* Level at LINT0 or LINT1 of all processors. */
void apic_set_lint(struct apic_set *s, unsigned lint, bool level);

/* The operations of cpu/irqchip.h, for CPU @a->id. */
int apic_ack(struct apic *a);
u8 apic_get_cr8(struct apic *a);
void apic_set_cr8(struct apic *a, u8 value);
u32 apic_read(struct apic *a, u32 offset);
void apic_write(struct apic *a, u32 offset, u32 value);
int apic_msr_read(struct apic *a, u32 index, u64 *value);
int apic_msr_write(struct apic *a, u32 index, u64 value);
u64 apic_page(const struct apic *a);
void apic_reset(struct apic *a, bool init);
void apic_set_pv_eoi(struct apic *a, u64 msr);

/* To and from a kernel's: see apic_image in cpu/irqchip.h. On the processor's own thread or while it waits.
 */
struct apic_image;
void apic_get_image(struct apic *a, struct apic_image *image);
void apic_put_image(struct apic *a, const struct apic_image *image);

/* Somebody else does its work: it asks for nothing and its timer stands still, until the next put_image. */
void apic_suspend(struct apic *a);

/* The processor's TSC offset changed: the deadline is looked at anew. */
void apic_tsc_changed(struct apic *a);

/*
 * What firmware leaves behind: the first processor's APIC enabled with LINT0 as ExtINT and LINT1 as
 * NMI ("virtual wire mode", MP specification 1.4, 3.6.2.2). For boards that start a kernel directly,
 * after reset.
 */
void apic_set_virtual_wire(struct apic_set *s);

#endif
