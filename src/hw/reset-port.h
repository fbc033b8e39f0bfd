/*
 * Reset control register, port 0xcf9 (Intel ICH9 13.7.5; the FADT's RESET_REG with value
 * RESET_PORT_VALUE): bit 2 going from 0 to 1 resets the machine.
 *
 * The port lies within the 4-byte configuration address register of the PCI host (0xcf8..0xcfb),
 * which takes only 4-byte accesses. So init does not map `region` (size 1): the PCI host hands it the
 * 1-byte accesses of port 0xcf9. A board without a PCI host maps it with memory_map_pio().
 */
#ifndef TRAPEZE_HW_RESET_PORT_H
#define TRAPEZE_HW_RESET_PORT_H

#include "hw/device.h"
#include "hw/lifecycle.h"
#include "memory/memory.h"

#define RESET_PORT 0xcf9
#define RESET_PORT_VALUE 0x06

struct reset_port {
    struct device dev;
    struct io_region region;
    struct lifecycle *lifecycle;
    u8 value;
};

void reset_port_init(struct reset_port *p, struct lifecycle *lifecycle);
void reset_port_release(struct reset_port *p);

#endif
