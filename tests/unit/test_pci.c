/* PCI functions and the Q35 host: PCI Local Bus 3.0, chapters 3 and 6; PCI Express 4.0, 7.2.2. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#include "hw/pci-host.h"
#include "state/codec.h"

#define MIB (1ull << 20)
#define ECAM 0xe0000000ull
#define MMIO 0xc0000000u
#define SLOT 3

struct fixture {
    unsigned line_changes;
    struct msi_line line; /* as it was told last */
    int pipe[2];
    struct memory memory;
    struct pci_host host;
    struct pci_function f;
    struct io_region mem32, mem64, io, reset;
    unsigned gsi_level[4], isa_level[16];
    unsigned messages;
    u64 msi_addr;
    u32 msi_data;
    u8 reset_value;
    unsigned written;
};

static u64 region_read(struct io_region *r, u64 offset, unsigned size)
{
    return 0x1122334455667788ull;
}

static void region_write(struct io_region *r, u64 offset, u64 value, unsigned size) {}

static const struct io_ops region_ops = {.read = region_read, .write = region_write};

static u64 reset_read(struct io_region *r, u64 offset, unsigned size)
{
    return container_of(r, struct fixture, reset)->reset_value;
}

static void reset_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    container_of(r, struct fixture, reset)->reset_value = (u8)value;
}

static const struct io_ops reset_ops = {.read = reset_read, .write = reset_write, .max_size = 1};

static void gsi_set(void *owner, unsigned line, bool level)
{
    ((struct fixture *)owner)->gsi_level[line] = level;
}

static void isa_set(void *owner, unsigned line, bool level)
{
    ((struct fixture *)owner)->isa_level[line] = level;
}

static void message(void *owner, u64 addr, u32 data)
{
    struct fixture *t = owner;

    t->messages++;
    t->msi_addr = addr;
    t->msi_data = data;
}

/* A bus that gives each message a pipe. */
static void line_changed(void *owner, struct msi_line *l)
{
    struct fixture *t = owner;

    t->line_changes++;
    t->line = *l;
    l->fd = l->on ? t->pipe[1] : -1;
}

static void config_written(struct pci_function *f, unsigned offset, unsigned size)
{
    container_of(f, struct fixture, f)->written = offset;
}

static bool config_read(struct pci_function *f, unsigned offset, unsigned size, u32 *value)
{
    *value = 0xa5a5;
    return offset == 0xfc;
}

static const struct pci_function_ops function_ops = {.config_written = config_written,
                                                     .config_read = config_read};

static const struct pci_id id = {.vendor = 0x1af4,
                                 .device = 0x1042,
                                 .subsys_vendor = 0x1234,
                                 .subsys = 0x5678,
                                 .class_code = 0x010802,
                                 .revision = 7};

static int setup(void **state)
{
    struct fixture *t = calloc(1, sizeof *t);
    struct pci_host_wiring w = {
        .windows = {.mmio_base = MMIO,
                    .mmio_end = ECAM,
                    .high_base = 0x2000000000,
                    .high_end = 0x3000000000,
                    .io_base = 0x1000,
                    .io_end = 0x10000,
                    .ecam_base = ECAM},
        .msi = {.send = message, .owner = t},
        .pm_base = 0x600,
    };

    assert_non_null(t);
    assert_int_equal(memory_init(&t->memory, 16 * MIB, NULL), 0);
    for (unsigned n = 0; n < 4; n++)
        w.gsi[n] = (struct irq_line){.set = gsi_set, .owner = t, .line = n};
    for (unsigned n = 0; n < 16; n++)
        w.isa_irq[n] = (struct irq_line){.set = isa_set, .owner = t, .line = n};
    io_region_init(&t->reset, "reset", &reset_ops, 1);
    w.reset = &t->reset;
    assert_int_equal(pci_host_init(&t->host, &t->memory, &w, NULL), 0);

    assert_int_equal(pci_function_init(&t->f, &t->host.bus, PCI_DEVFN(SLOT, 0), &id, &function_ops, NULL), 0);
    io_region_init(&t->io, "test-io", &region_ops, 32);
    io_region_init(&t->mem32, "test-32", &region_ops, 256);
    io_region_init(&t->mem64, "test-64", &region_ops, 64 * 1024);
    pci_add_bar(&t->f, 0, &t->io, true, false, false);
    pci_add_bar(&t->f, 1, &t->mem32, false, false, false);
    pci_add_bar(&t->f, 2, &t->mem64, false, true, true);
    pci_add_msix(&t->f, 4, 5);
    pci_add_msi(&t->f, 4);
    t->f.config[0x3d] = 1;
    t->f.dev.reset(&t->f.dev);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *t = *state;

    pci_function_release(&t->f);
    pci_host_release(&t->host);
    memory_release(&t->memory);
    free(t);
    return 0;
}

static u32 cfg_address(u8 devfn, unsigned offset)
{
    return 0x80000000 | (u32)devfn << 8 | (offset & 0xfc);
}

/* By mechanism 1, as a guest does it. */
static u32 cfg_read(struct fixture *t, u8 devfn, unsigned offset, unsigned size)
{
    memory_pio_write(&t->memory, 0xcf8, cfg_address(devfn, offset), 4);
    return memory_pio_read(&t->memory, 0xcfc + (offset & 3), size);
}

static void cfg_write(struct fixture *t, u8 devfn, unsigned offset, u32 value, unsigned size)
{
    memory_pio_write(&t->memory, 0xcf8, cfg_address(devfn, offset), 4);
    memory_pio_write(&t->memory, 0xcfc + (offset & 3), value, size);
}

static u32 get(struct fixture *t, unsigned offset, unsigned size)
{
    return cfg_read(t, PCI_DEVFN(SLOT, 0), offset, size);
}

static void put(struct fixture *t, unsigned offset, u32 value, unsigned size)
{
    cfg_write(t, PCI_DEVFN(SLOT, 0), offset, value, size);
}

/* --- configuration mechanisms --- */

static void header_says_what_the_device_is(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(get(t, 0x00, 4), 0x10421af4);
    assert_int_equal(get(t, 0x08, 4), 0x01080207);
    assert_int_equal(get(t, 0x2c, 4), 0x56781234);
    assert_int_equal(get(t, 0x02, 2), 0x1042);
    assert_int_equal(get(t, 0x0b, 1), 0x01);
    assert_int_equal(get(t, 0x06, 2) & 0x10, 0x10);
    assert_int_equal(get(t, 0x0e, 1), 0);
}

static void identity_is_read_only(void **state)
{
    struct fixture *t = *state;

    for (unsigned offset = 0; offset < 0x40; offset += 4) {
        u32 before = get(t, offset, 4);

        if (offset == 0x04 || offset == 0x0c || (offset >= 0x10 && offset < 0x28) || offset == 0x3c)
            continue;
        put(t, offset, ~before, 4);
        assert_int_equal(get(t, offset, 4), before);
    }
}

static void absent_functions_read_all_ones(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(cfg_read(t, PCI_DEVFN(4, 0), 0, 4), 0xffffffff);
    assert_int_equal(cfg_read(t, PCI_DEVFN(SLOT, 1), 0, 2), 0xffff);
    memory_pio_write(&t->memory, 0xcf8, 0x80010000, 4); /* bus 1 */
    assert_int_equal(memory_pio_read(&t->memory, 0xcfc, 4), 0xffffffff);
}

static void disabled_address_selects_nothing(void **state)
{
    struct fixture *t = *state;

    memory_pio_write(&t->memory, 0xcf8, cfg_address(0, 0) & 0x7fffffff, 4);
    assert_int_equal(memory_pio_read(&t->memory, 0xcfc, 4), 0xffffffff);
}

static void address_register_takes_only_dwords(void **state)
{
    struct fixture *t = *state;

    memory_pio_write(&t->memory, 0xcf8, 0xffffffff, 4);
    assert_int_equal(memory_pio_read(&t->memory, 0xcf8, 4), 0x80fffffc);
    memory_pio_write(&t->memory, 0xcf8, 0, 2);
    memory_pio_write(&t->memory, 0xcfb, 0, 1);
    assert_int_equal(memory_pio_read(&t->memory, 0xcf8, 4), 0x80fffffc);
}

static void reset_port_lies_within_the_address_register(void **state)
{
    struct fixture *t = *state;

    memory_pio_write(&t->memory, 0xcf9, 0x06, 1);
    assert_int_equal(t->reset_value, 6);
    assert_int_equal(memory_pio_read(&t->memory, 0xcf9, 1), 6);
    memory_pio_write(&t->memory, 0xcf8, 0x80000e00, 4);
    assert_int_equal(t->reset_value, 6);
}

static void enable_ecam(struct fixture *t)
{
    cfg_write(t, 0, 0x64, 0, 4);
    cfg_write(t, 0, 0x60, (u32)ECAM | 1, 4);
}

static void ecam_shows_the_same_space(void **state)
{
    struct fixture *t = *state;
    u64 at = ECAM + (PCI_DEVFN(SLOT, 0) << 12);

    assert_int_equal(memory_mmio_read(&t->memory, at, 4), 0xffffffff);
    enable_ecam(t);
    assert_int_equal(memory_mmio_read(&t->memory, at, 4), 0x10421af4);
    memory_mmio_write(&t->memory, at + 0x3c, 0x55, 1);
    assert_int_equal(get(t, 0x3c, 1), 0x55);
    assert_int_equal(memory_mmio_read(&t->memory, at + 0x100, 4), 0xffffffff);      /* no extended space */
    assert_int_equal(memory_mmio_read(&t->memory, ECAM + 0x100000, 4), 0xffffffff); /* bus 1 */
    assert_int_equal(memory_mmio_read(&t->memory, at, 8) & 0xffffffff, 0x10421af4);
}

static void ecam_moves_and_shrinks(void **state)
{
    struct fixture *t = *state;

    enable_ecam(t);
    cfg_write(t, 0, 0x60, 0xb0000000 | 1, 4);
    assert_int_equal(memory_mmio_read(&t->memory, 0xb0000000, 4), 0x29c08086);
    assert_int_equal(memory_mmio_read(&t->memory, ECAM, 4), 0xffffffff);
    cfg_write(t, 0, 0x60, 0xb4000000 | 5, 4); /* 64 MiB */
    assert_int_equal(memory_mmio_read(&t->memory, 0xb4000000, 4), 0x29c08086);
    assert_int_equal(memory_mmio_read(&t->memory, 0xb8000000, 4), 0xffffffff);
    cfg_write(t, 0, 0x60, 0xb4000000 | 7, 4); /* reserved length */
    assert_int_equal(memory_mmio_read(&t->memory, 0xb4000000, 4), 0xffffffff);
}

static void ecam_over_ram_is_not_mapped(void **state)
{
    struct fixture *t = *state;

    cfg_write(t, 0, 0x60, 1, 4);
    assert_int_equal(memory_mmio_read(&t->memory, 0, 4), 0xffffffff);
    enable_ecam(t);
    assert_int_equal(memory_mmio_read(&t->memory, ECAM, 4), 0x29c08086);
}

static void ecam_may_be_moved_through_itself(void **state)
{
    struct fixture *t = *state;

    enable_ecam(t);
    memory_mmio_write(&t->memory, ECAM + 0x60, 0xb0000001, 4);
    assert_int_equal(memory_mmio_read(&t->memory, 0xb0000000, 4), 0x29c08086);
}

static void config_beyond_256_bytes_is_absent(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(pci_config_read(&t->host.bus, PCI_DEVFN(SLOT, 0), 0xfe, 4), 0xffffffff);
    assert_int_equal(pci_config_read(&t->host.bus, PCI_DEVFN(SLOT, 0), 0xfffffffe, 4), 0xffffffff);
    pci_config_write(&t->host.bus, PCI_DEVFN(SLOT, 0), 0xff, 0, 4);
    pci_config_write(&t->host.bus, PCI_DEVFN(SLOT, 0), 0xfffffffd, 0, 4);
}

static void device_sees_and_overrides_accesses(void **state)
{
    struct fixture *t = *state;

    put(t, 0x80, 1, 4);
    assert_int_equal(t->written, 0x80);
    assert_int_equal(get(t, 0xfc, 2), 0xa5a5);
}

static void taken_slot_is_refused(void **state)
{
    struct fixture *t = *state;
    struct pci_function *g = calloc(1, sizeof *g);

    assert_int_equal(pci_function_init(g, &t->host.bus, PCI_DEVFN(SLOT, 0), &id, NULL, NULL), -EBUSY);
    free(g);
}

static void second_function_makes_the_device_multifunction(void **state)
{
    struct fixture *t = *state;
    struct pci_function *g = calloc(1, sizeof *g);

    assert_int_equal(pci_function_init(g, &t->host.bus, PCI_DEVFN(SLOT, 2), &id, NULL, NULL), 0);
    assert_int_equal(get(t, 0x0e, 1), 0x80);
    t->f.dev.reset(&t->f.dev);
    assert_int_equal(get(t, 0x0e, 1), 0x80);
    pci_function_release(g);
    free(g);
}

/* --- BARs --- */

static void sizing_gives_the_size_and_type(void **state)
{
    struct fixture *t = *state;

    for (unsigned at = 0x10; at < 0x28; at += 4)
        put(t, at, 0xffffffff, 4);
    assert_int_equal(get(t, 0x10, 4), 0xffffffe1);
    assert_int_equal(get(t, 0x14, 4), 0xffffff00);
    assert_int_equal(get(t, 0x18, 4), 0xffff000c);
    assert_int_equal(get(t, 0x1c, 4), 0xffffffff);
    assert_int_equal(get(t, 0x20, 4), 0xfffff000);
    assert_int_equal(get(t, 0x24, 4), 0);
    assert_int_equal(get(t, 0x30, 4), 0); /* no ROM */
}

static void decode_follows_the_command_register(void **state)
{
    struct fixture *t = *state;

    put(t, 0x10, 0x2000, 4);
    put(t, 0x14, 0xc1000000, 4);
    assert_false(t->io.mapped || t->mem32.mapped);
    put(t, 0x04, 1, 2);
    assert_true(t->io.mapped);
    assert_false(t->mem32.mapped);
    put(t, 0x04, 2, 2);
    assert_false(t->io.mapped);
    assert_true(t->mem32.mapped);
    assert_int_equal(memory_mmio_read(&t->memory, 0xc1000000, 4), 0x55667788);
    put(t, 0x04, 0, 1);
    assert_false(t->mem32.mapped);
}

static void bar_moves_while_decoded(void **state)
{
    struct fixture *t = *state;

    put(t, 0x04, 2, 2);
    put(t, 0x14, 0xc1000000, 4);
    assert_int_equal(t->mem32.base, 0xc1000000);
    put(t, 0x16, 0xc234, 2); /* half of it */
    assert_true(t->mem32.mapped);
    assert_int_equal(t->mem32.base, 0xc2340000);
    put(t, 0x14, 0xffffffff, 4);
    assert_false(t->mem32.mapped);
    put(t, 0x14, 0, 4);
    assert_false(t->mem32.mapped);
}

static void bar_64_uses_both_halves(void **state)
{
    struct fixture *t = *state;

    put(t, 0x04, 2, 2);
    put(t, 0x18, 0x00010000, 4);
    put(t, 0x1c, 0x21, 4);
    assert_true(t->mem64.mapped);
    assert_int_equal(t->mem64.base, 0x2100010000);
}

static void bar_over_ram_is_not_mapped(void **state)
{
    struct fixture *t = *state;

    put(t, 0x04, 2, 2);
    put(t, 0x14, 0x100000, 4);
    assert_false(t->mem32.mapped);
    assert_int_equal(get(t, 0x14, 4), 0x100000);
    put(t, 0x14, 16 * MIB, 4);
    assert_true(t->mem32.mapped);
}

static void bar_over_another_waits_for_room(void **state)
{
    struct fixture *t = *state;

    put(t, 0x04, 2, 2);
    put(t, 0x14, 0xc1000000, 4);
    put(t, 0x18, 0xc1000000, 4);
    assert_true(t->mem32.mapped);
    assert_false(t->mem64.mapped);
    put(t, 0x14, 0xc2000000, 4);
    assert_true(t->mem32.mapped);
    assert_true(t->mem64.mapped);
    assert_int_equal(t->mem64.base, 0xc1000000);
}

static void io_bar_beyond_the_port_space_is_not_mapped(void **state)
{
    struct fixture *t = *state;

    put(t, 0x04, 1, 2);
    put(t, 0x10, 0x12000, 4);
    assert_false(t->io.mapped);
    put(t, 0x10, 0xcf0, 4); /* over the configuration ports */
    assert_false(t->io.mapped);
    put(t, 0x10, 0x3000, 4);
    assert_true(t->io.mapped);
}

static void reset_forgets_addresses(void **state)
{
    struct fixture *t = *state;

    put(t, 0x04, 7, 2);
    put(t, 0x14, 0xc1000000, 4);
    put(t, 0x3c, 9, 1);
    t->f.dev.reset(&t->f.dev);
    assert_false(t->mem32.mapped);
    assert_int_equal(get(t, 0x14, 4), 0);
    assert_int_equal(get(t, 0x04, 2), 0);
    assert_int_equal(get(t, 0x3c, 2), 0x100);
    assert_int_equal(get(t, 0x00, 4), 0x10421af4);
}

/* --- capabilities --- */

static unsigned find_cap(struct fixture *t, u8 cap)
{
    unsigned at = get(t, 0x34, 1);

    for (unsigned n = 0; at && n < 48; n++) {
        if (get(t, at, 1) == cap)
            return at;
        at = get(t, at + 1, 1);
    }
    return 0;
}

static void capability_list_holds_them_all(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(find_cap(t, 0x11), t->f.msix_cap);
    assert_int_equal(find_cap(t, 0x05), t->f.msi_cap);
    assert_int_equal(find_cap(t, 0x10), 0);
    assert_int_equal(t->f.msix_cap & 3, 0);
}

/* --- MSI-X --- */

#define TABLE 0xc3000000ull

static void enable_msix(struct fixture *t)
{
    put(t, 0x20, (u32)TABLE, 4);
    put(t, 0x04, 6, 2);
    put(t, t->f.msix_cap + 2, 0x8000, 2);
}

static void set_vector(struct fixture *t, unsigned n, u64 addr, u32 data, u32 control)
{
    memory_mmio_write(&t->memory, TABLE + n * 16, addr, 8);
    memory_mmio_write(&t->memory, TABLE + n * 16 + 8, data, 4);
    memory_mmio_write(&t->memory, TABLE + n * 16 + 12, control, 4);
}

static void msix_capability_describes_the_table(void **state)
{
    struct fixture *t = *state;
    unsigned cap = t->f.msix_cap;

    assert_int_equal(get(t, cap + 2, 2), 4);
    assert_int_equal(get(t, cap + 4, 4), 4);     /* BAR 4, offset 0 */
    assert_int_equal(get(t, cap + 8, 4), 0x804); /* BAR 4, offset 0x800 */
    put(t, cap + 2, 0xffff, 2);
    assert_int_equal(get(t, cap + 2, 2), 0xc004);
}

static void msix_vector_is_sent(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    assert_true(pci_msix_enabled(&t->f));
    set_vector(t, 2, 0xfee01000, 0x4042, 0);
    pci_msix_notify(&t->f, 2);
    assert_int_equal(t->messages, 1);
    assert_int_equal(t->msi_addr, 0xfee01000);
    assert_int_equal(t->msi_data, 0x4042);
}

static void msix_entries_are_masked_at_reset(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 12, 4), 1);
    pci_msix_notify(&t->f, 0);
    assert_int_equal(t->messages, 0);
}

static void masked_msix_vector_is_pending_until_unmasked(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    set_vector(t, 3, 0xfee00000, 0x43, 1);
    pci_msix_notify(&t->f, 3);
    pci_msix_notify(&t->f, 3);
    assert_int_equal(t->messages, 0);
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 0x800, 8), 8);
    memory_mmio_write(&t->memory, TABLE + 3 * 16 + 12, 0, 4);
    assert_int_equal(t->messages, 1);
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 0x800, 8), 0);
}

static void function_mask_holds_all_back(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    set_vector(t, 0, 0xfee00000, 0x40, 0);
    set_vector(t, 1, 0xfee00000, 0x41, 0);
    put(t, t->f.msix_cap + 2, 0xc000, 2);
    pci_msix_notify(&t->f, 0);
    pci_msix_notify(&t->f, 1);
    assert_int_equal(t->messages, 0);
    put(t, t->f.msix_cap + 2, 0x8000, 2);
    assert_int_equal(t->messages, 2);
}

static void no_message_without_bus_mastering(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    set_vector(t, 0, 0xfee00000, 0x40, 0);
    put(t, 0x04, 2, 2);
    pci_msix_notify(&t->f, 0);
    assert_int_equal(t->messages, 0);
    put(t, 0x04, 6, 2);
    assert_int_equal(t->messages, 1);
}

static void a_bus_knows_which_messages_may_be_sent(void **state)
{
    struct fixture *t = *state;
    u64 once;

    assert_int_equal(pipe(t->pipe), 0);
    t->host.bus.msi.line_changed = line_changed;
    set_vector(t, 2, 0xfee01000, 0x4042, 0); /* not mapped yet: lost */
    enable_msix(t);
    assert_int_equal(t->line_changes, 0);
    set_vector(t, 2, 0xfee01000, 0x4042, 0);
    assert_int_equal(t->line_changes, 1);
    assert_true(t->line.on);
    assert_int_equal(t->line.addr, 0xfee01000);
    assert_int_equal(t->line.data, 0x4042);
    pci_msix_notify(&t->f, 2);
    assert_int_equal(t->messages, 0);
    assert_int_equal(read(t->pipe[0], &once, sizeof once), sizeof once);
    assert_int_equal(once, 1);

    memory_mmio_write(&t->memory, TABLE + 2 * 16 + 8, 0x4043, 4);
    assert_int_equal(t->line_changes, 2);
    assert_int_equal(t->line.data, 0x4043);
    put(t, t->f.msix_cap + 2, 0xc000, 2); /* all are masked */
    assert_int_equal(t->line_changes, 3);
    assert_false(t->line.on);
    pci_msix_notify(&t->f, 2);
    put(t, t->f.msix_cap + 2, 0x8000, 2); /* what was pending goes the new way */
    assert_int_equal(t->line_changes, 4);
    assert_int_equal(t->messages, 0);
    assert_int_equal(read(t->pipe[0], &once, sizeof once), sizeof once);

    put(t, 0x04, 2, 2); /* no bus master */
    assert_int_equal(t->line_changes, 5);
    put(t, 0x04, 6, 2);
    t->f.dev.reset(&t->f.dev);
    assert_int_equal(t->line_changes, 7);
    assert_false(t->line.on);
    close(t->pipe[0]);
    close(t->pipe[1]);
}

static void msix_vectors_out_of_range_are_ignored(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    pci_msix_notify(&t->f, 5);
    pci_msix_notify(&t->f, 63);
    pci_msix_notify(&t->f, 1000);
    assert_int_equal(t->f.msix_pending, 0);
}

static void disabled_msix_sends_nothing(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    set_vector(t, 0, 0xfee00000, 0x40, 0);
    put(t, t->f.msix_cap + 2, 0, 2);
    pci_msix_notify(&t->f, 0);
    assert_int_equal(t->messages, 0);
    assert_int_equal(t->f.msix_pending, 0);
}

static void msix_table_at_odd_sizes_and_places(void **state)
{
    struct fixture *t = *state;

    enable_msix(t);
    for (unsigned n = 0; n < 8; n++)
        memory_mmio_write(&t->memory, TABLE + n, 0xf1 + n, 1);
    assert_int_equal(memory_mmio_read(&t->memory, TABLE, 8), 0xf8f7f6f5f4f3f2f0);
    memory_mmio_write(&t->memory, TABLE + 13, 0xffffffff, 4); /* into the next entry */
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 12, 4), 1);
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 16, 1), 0xfc);
    memory_mmio_write(&t->memory, TABLE + 5 * 16 - 4, ~0ull, 8); /* over the end */
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 5 * 16, 4), 0);
    memory_mmio_write(&t->memory, TABLE + 0x800, ~0ull, 8); /* the PBA is read-only */
    assert_int_equal(memory_mmio_read(&t->memory, TABLE + 0x800, 8), 0);
    memory_mmio_read(&t->memory, TABLE + 0xffc, 8);
    memory_mmio_write(&t->memory, TABLE + 0xffd, ~0ull, 8);
}

/* --- MSI --- */

static void enable_msi(struct fixture *t, unsigned control)
{
    unsigned cap = t->f.msi_cap;

    put(t, cap + 4, 0xfee02000, 4);
    put(t, cap + 8, 0, 4);
    put(t, cap + 12, 0x4063, 2);
    put(t, cap + 2, control, 2);
    put(t, 0x04, 6, 2);
}

static void msi_capability_offers_what_was_asked(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(get(t, t->f.msi_cap + 2, 2), 0x184);
    put(t, t->f.msi_cap + 2, 0xffff, 2);
    assert_int_equal(get(t, t->f.msi_cap + 2, 2), 0x1f5);
}

static void single_msi(void **state)
{
    struct fixture *t = *state;

    enable_msi(t, 1);
    pci_msi_notify(&t->f, 3); /* all fold into the one that was granted */
    assert_int_equal(t->messages, 1);
    assert_int_equal(t->msi_addr, 0xfee02000);
    assert_int_equal(t->msi_data, 0x4063);
}

static void multiple_msi_replaces_the_low_bits(void **state)
{
    struct fixture *t = *state;

    enable_msi(t, 0x21); /* 4 vectors */
    pci_msi_notify(&t->f, 2);
    assert_int_equal(t->msi_data, 0x4062);
    pci_msi_notify(&t->f, 0);
    assert_int_equal(t->msi_data, 0x4060);
}

static void more_msi_than_offered_are_not_used(void **state)
{
    struct fixture *t = *state;

    enable_msi(t, 0x71);
    pci_msi_notify(&t->f, 31);
    assert_int_equal(t->messages, 1);
    assert_int_equal(t->msi_data, 0x4063);
}

static void masked_msi_is_pending(void **state)
{
    struct fixture *t = *state;
    unsigned cap = t->f.msi_cap;

    enable_msi(t, 0x21);
    put(t, cap + 16, 0xffffffff, 4);
    assert_int_equal(get(t, cap + 16, 4), 0xf);
    pci_msi_notify(&t->f, 1);
    assert_int_equal(t->messages, 0);
    assert_int_equal(get(t, cap + 20, 4), 2);
    put(t, cap + 16, 0, 4);
    assert_int_equal(t->messages, 1);
    assert_int_equal(get(t, cap + 20, 4), 0);
}

/* --- INTx --- */

static void intx_goes_to_the_swizzled_gsi(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(pci_host_gsi(SLOT, 0), 19);
    pci_set_intx(&t->f, true);
    assert_true(t->gsi_level[3]);
    assert_int_equal(get(t, 0x06, 2) & 8, 8);
    pci_set_intx(&t->f, false);
    assert_false(t->gsi_level[3]);
    assert_int_equal(get(t, 0x06, 2) & 8, 0);
}

static void intx_can_be_disabled(void **state)
{
    struct fixture *t = *state;

    pci_set_intx(&t->f, true);
    put(t, 0x04, 0x400, 2);
    assert_false(t->gsi_level[3]);
    assert_int_equal(get(t, 0x06, 2) & 8, 8); /* the status shows it all the same */
    put(t, 0x04, 0, 2);
    assert_true(t->gsi_level[3]);
}

static void msix_replaces_intx(void **state)
{
    struct fixture *t = *state;

    pci_set_intx(&t->f, true);
    enable_msix(t);
    assert_false(t->gsi_level[3]);
    put(t, t->f.msix_cap + 2, 0, 2);
    assert_true(t->gsi_level[3]);
}

static void shared_line_falls_with_the_last(void **state)
{
    struct fixture *t = *state;
    struct pci_function *g = calloc(1, sizeof *g);

    assert_int_equal(pci_function_init(g, &t->host.bus, PCI_DEVFN(SLOT + 4, 0), &id, NULL, NULL), 0);
    g->config[0x3d] = 1;
    pci_set_intx(&t->f, true);
    pci_set_intx(g, true);
    pci_set_intx(&t->f, false);
    assert_true(t->gsi_level[3]);
    pci_function_release(g); /* takes its level with it */
    assert_false(t->gsi_level[3]);
    free(g);
}

static void pirq_routing_drives_an_isa_interrupt(void **state)
{
    struct fixture *t = *state;

    pci_set_intx(&t->f, true);
    assert_false(t->isa_level[11]);
    cfg_write(t, PCI_LPC_DEVFN, 0x63, 0x0b, 1);
    assert_true(t->isa_level[11]);
    cfg_write(t, PCI_LPC_DEVFN, 0x63, 0x05, 1);
    assert_false(t->isa_level[11]);
    assert_true(t->isa_level[5]);
    pci_set_intx(&t->f, false);
    assert_false(t->isa_level[5]);
}

static void pirq_cannot_take_the_timer(void **state)
{
    struct fixture *t = *state;

    pci_set_intx(&t->f, true);
    for (unsigned route = 0; route < 16; route++) {
        cfg_write(t, PCI_LPC_DEVFN, 0x63, route, 1);
        assert_false(t->isa_level[0] || t->isa_level[1] || t->isa_level[2]);
        assert_false(t->isa_level[8] || t->isa_level[13]);
    }
}

/* --- the bridges --- */

static void bridges_are_those_of_a_q35(void **state)
{
    struct fixture *t = *state;

    assert_int_equal(cfg_read(t, 0, 0, 4), 0x29c08086);
    assert_int_equal(cfg_read(t, 0, 8, 4) >> 8, 0x060000);
    assert_int_equal(cfg_read(t, PCI_LPC_DEVFN, 0, 4), 0x29188086);
    assert_int_equal(cfg_read(t, PCI_LPC_DEVFN, 8, 4) >> 8, 0x060100);
    assert_int_equal(cfg_read(t, PCI_LPC_DEVFN, 0x40, 4), 0x601);
    assert_int_equal(cfg_read(t, PCI_LPC_DEVFN, 0x44, 1), 0x80);
    assert_int_equal(cfg_read(t, PCI_LPC_DEVFN, 0x60, 4), 0x80808080);
}

static void rcba_appears_where_it_is_put(void **state)
{
    struct fixture *t = *state;

    cfg_write(t, PCI_LPC_DEVFN, 0xf0, 0xfed1c001, 4);
    assert_int_equal(memory_mmio_read(&t->memory, 0xfed1f140, 2), 0x3210);
    assert_int_equal(memory_mmio_read(&t->memory, 0xfed1f404, 4), 0);
    cfg_write(t, PCI_LPC_DEVFN, 0xf0, 0xfed1c000, 4);
    assert_int_equal(memory_mmio_read(&t->memory, 0xfed1f404, 4), 0xffffffff);
}

/* --- resource assignment --- */

static void firmware_places_every_bar(void **state)
{
    struct fixture *t = *state;
    struct error err;

    assert_int_equal(pci_assign_resources(&t->host, &err), 0);
    assert_true(t->io.mapped && t->mem32.mapped && t->mem64.mapped && t->f.msix_region.mapped);
    assert_in_range(t->mem32.base, MMIO, ECAM - 1);
    assert_in_range(t->io.base, 0x1000, 0xffff);
    assert_int_equal(t->mem64.base & 0xffff, 0);
    assert_int_equal(get(t, 0x04, 2) & 3, 3);
    assert_int_equal(get(t, 0x3c, 1), 11);
    assert_int_equal(memory_mmio_read(&t->memory, ECAM, 4), 0x29c08086);
}

static void large_bar_goes_above_ram(void **state)
{
    struct fixture *t = *state;
    struct pci_function *g = calloc(1, sizeof *g);
    struct io_region big;
    struct error err;

    assert_int_equal(pci_function_init(g, &t->host.bus, PCI_DEVFN(9, 0), &id, NULL, NULL), 0);
    io_region_init(&big, "big", &region_ops, 1ull << 32);
    pci_add_bar(g, 0, &big, false, true, true);
    assert_int_equal(pci_assign_resources(&t->host, &err), 0);
    assert_true(big.mapped);
    assert_int_equal(big.base, 0x2000000000);
    pci_function_release(g);
    free(g);
}

static void no_room_is_said(void **state)
{
    struct fixture *t = *state;
    struct pci_function *g = calloc(1, sizeof *g);
    struct io_region big;
    struct error err;

    assert_int_equal(pci_function_init(g, &t->host.bus, PCI_DEVFN(9, 0), &id, NULL, NULL), 0);
    io_region_init(&big, "big", &region_ops, 1ull << 31);
    pci_add_bar(g, 0, &big, false, false, false);
    assert_int_equal(pci_assign_resources(&t->host, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "big"));
    assert_true(t->mem32.mapped);
    pci_function_release(g);
    free(g);
}

/* --- state --- */

static void state_round_trip(void **state)
{
    struct fixture *t = *state;
    struct state_buf b = {0};
    struct error err;

    assert_int_equal(pci_assign_resources(&t->host, &err), 0);
    pci_set_intx(&t->f, true);
    cfg_write(t, PCI_LPC_DEVFN, 0x63, 5, 1);
    u64 base = t->mem64.base;
    assert_int_equal(state_save(&b, t->host.dev.state, 0, &t->host, NULL), 0);
    assert_int_equal(state_save(&b, t->f.dev.state, t->f.devfn, &t->f, NULL), 0);
    t->host.dev.reset(&t->host.dev);
    t->f.dev.reset(&t->f.dev);
    assert_false(t->gsi_level[3] || t->mem64.mapped || t->host.ecam.mapped);
    assert_int_equal(state_load(&b, t->host.dev.state, 0, &t->host, NULL), 0);
    assert_int_equal(state_load(&b, t->f.dev.state, t->f.devfn, &t->f, NULL), 0);
    assert_true(t->gsi_level[3]);
    assert_true(t->isa_level[5]);
    assert_int_equal(t->mem64.base, base);
    assert_true(t->mem64.mapped && t->host.ecam.mapped);
    state_buf_release(&b);
}

static void loaded_state_cannot_change_what_is_read_only(void **state)
{
    struct fixture *t = *state;
    struct state_buf b = {0};
    u8 saved[PCI_CONFIG_SIZE];

    memcpy(saved, t->f.config, sizeof saved);
    memset(t->f.config, 0xff, sizeof saved);
    t->f.msix_pending = ~0ull;
    assert_int_equal(state_save(&b, t->f.dev.state, 0, &t->f, NULL), 0);
    memcpy(t->f.config, saved, sizeof saved);
    t->f.msix_pending = 0;
    assert_int_equal(state_load(&b, t->f.dev.state, 0, &t->f, NULL), 0);
    assert_int_equal(get(t, 0, 4), 0x10421af4);
    assert_int_equal(get(t, 0x34, 1), saved[0x34]);
    assert_int_equal(t->f.msix_pending, 0x1f);
    state_buf_release(&b);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(header_says_what_the_device_is),
        T(identity_is_read_only),
        T(absent_functions_read_all_ones),
        T(disabled_address_selects_nothing),
        T(address_register_takes_only_dwords),
        T(reset_port_lies_within_the_address_register),
        T(ecam_shows_the_same_space),
        T(ecam_moves_and_shrinks),
        T(ecam_over_ram_is_not_mapped),
        T(ecam_may_be_moved_through_itself),
        T(config_beyond_256_bytes_is_absent),
        T(device_sees_and_overrides_accesses),
        T(taken_slot_is_refused),
        T(second_function_makes_the_device_multifunction),
        T(sizing_gives_the_size_and_type),
        T(decode_follows_the_command_register),
        T(bar_moves_while_decoded),
        T(bar_64_uses_both_halves),
        T(bar_over_ram_is_not_mapped),
        T(bar_over_another_waits_for_room),
        T(io_bar_beyond_the_port_space_is_not_mapped),
        T(reset_forgets_addresses),
        T(capability_list_holds_them_all),
        T(msix_capability_describes_the_table),
        T(msix_vector_is_sent),
        T(msix_entries_are_masked_at_reset),
        T(masked_msix_vector_is_pending_until_unmasked),
        T(function_mask_holds_all_back),
        T(no_message_without_bus_mastering),
        T(a_bus_knows_which_messages_may_be_sent),
        T(msix_vectors_out_of_range_are_ignored),
        T(disabled_msix_sends_nothing),
        T(msix_table_at_odd_sizes_and_places),
        T(msi_capability_offers_what_was_asked),
        T(single_msi),
        T(multiple_msi_replaces_the_low_bits),
        T(more_msi_than_offered_are_not_used),
        T(masked_msi_is_pending),
        T(intx_goes_to_the_swizzled_gsi),
        T(intx_can_be_disabled),
        T(msix_replaces_intx),
        T(shared_line_falls_with_the_last),
        T(pirq_routing_drives_an_isa_interrupt),
        T(pirq_cannot_take_the_timer),
        T(bridges_are_those_of_a_q35),
        T(rcba_appears_where_it_is_put),
        T(firmware_places_every_bar),
        T(large_bar_goes_above_ram),
        T(no_room_is_said),
        T(state_round_trip),
        T(loaded_state_cannot_change_what_is_read_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
