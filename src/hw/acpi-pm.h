/*
 * ACPI fixed hardware (ACPI 6.4, chapter 4.8): PM1a event and control blocks, the PM timer, the GPE0
 * block, and the SMI command port by which a system turns ACPI mode on and off. The constants here
 * are what the FADT and the DSDT of a board say.
 */
#ifndef TRAPEZE_HW_ACPI_PM_H
#define TRAPEZE_HW_ACPI_PM_H

#include "base/event_loop.h"
#include "hw/device.h"
#include "hw/irq.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"

#define ACPI_PM_BASE 0x600
#define ACPI_PM_SIZE 0x40
#define ACPI_PM1_EVENT 0x00 /* PM1a_EVT_BLK: status, enable; 4 bytes */
#define ACPI_PM1_EVENT_LEN 4
#define ACPI_PM1_CONTROL 0x04 /* PM1a_CNT_BLK, 2 bytes */
#define ACPI_PM1_CONTROL_LEN 2
#define ACPI_PM_TIMER 0x08 /* PM_TMR_BLK, 4 bytes; 32 bits wide (FADT flag TMR_VAL_EXT) */
#define ACPI_PM_TIMER_HZ 3579545u
#define ACPI_PM_GPE0 0x20 /* GPE0_BLK: 2 bytes of status, 2 of enable */
#define ACPI_PM_GPE0_LEN 4
#define ACPI_PM_SMI_ENABLE 0x30  /* SMI_EN, read-only here */
#define ACPI_PM_SMI_COMMAND 0xb2 /* and the status byte at 0xb3 */
#define ACPI_PM_ENABLE 0xf1      /* written there */
#define ACPI_PM_DISABLE 0xf0
#define ACPI_PM_S5 5 /* SLP_TYP of soft off: the DSDT's _S5 package */

struct acpi_pm {
    struct device dev;
    struct io_region region, smi_region;
    struct irq_line sci; /* level */
    const struct vclock *clock;
    struct timer timer; /* the PM timer's next overflow, armed only while its interrupt is enabled */
    struct lifecycle *lifecycle;
    struct memory *memory;

    u16 status, enable, control;
    u64 overflow_seen; /* number of the last half-wrap of the PM timer that is in TMR_STS */
    u16 gpe_status, gpe_enable, gpe_level;
    u8 smi_command, smi_status;
};

int acpi_pm_init(struct acpi_pm *p, struct memory *m, struct event_loop *loop, const struct vclock *clock,
                 struct irq_line sci, struct lifecycle *lifecycle, struct error *err);
void acpi_pm_release(struct acpi_pm *p);

/* The user presses a button: the status bit, and the SCI when the guest enabled it. */
void acpi_pm_power_button(struct acpi_pm *p);
void acpi_pm_sleep_button(struct acpi_pm *p);

/* Has the guest enabled the power button event (else pressing it does nothing)? */
bool acpi_pm_power_button_enabled(const struct acpi_pm *p);

/* General purpose event @n (0..15): its status stays set while the level is high. */
void acpi_pm_set_gpe(struct acpi_pm *p, unsigned n, bool level);

#endif
