/*
 * Every description of saved state: that it is sound, that each of its fields comes back, and that a
 * device which takes a damaged record goes on without harm.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/block/block.h"
#include "backend/char/chardev.h"
#include "base/log.h"
#include "cpu/io.h"
#include "hw/acpi-pm.h"
#include "hw/fw-cfg.h"
#include "hw/hpet.h"
#include "hw/i8042.h"
#include "hw/irqchip.h"
#include "hw/pci-host.h"
#include "hw/pit.h"
#include "hw/port92.h"
#include "hw/pvpanic.h"
#include "hw/reset-port.h"
#include "hw/rtc.h"
#include "hw/uart16550.h"
#include "state/codec.h"
#include "virtio/9p.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/scsi.h"

/* --- a machine with everything in it, whose time stands still until it is moved --- */

#define MAX_OBJECTS 40

struct machine {
    struct memory memory;
    struct event_loop *loop;
    struct vm vm;
    struct lifecycle lifecycle;
    struct soft_irqchip chip;
    struct pit pit;
    struct rtc rtc;
    struct acpi_pm pm;
    struct hpet hpet;
    struct fw_cfg fw_cfg;
    struct i8042 i8042;
    struct uart16550 uart;
    struct port92 port92;
    struct pvpanic pvpanic;
    struct reset_port reset_port;
    struct pci_host host;
    struct virtio_blk blk;
    struct virtio_console console;
    struct virtio_rng rng;
    struct virtio_scsi scsi;
    struct virtio_net net;
    struct net_backend *network;
    struct share *directory;
    struct virtio_9p share;
    struct block_device *disk;
    struct chardev *chardev;

    struct device *device[MAX_OBJECTS];
    unsigned count;
};

static const struct engine_ops no_engine = {.name = "none"};
static const struct cpuid_table no_cpuid;

static void ignore_lifecycle(struct lifecycle *l, enum lifecycle_event event, int code) {}

static void add(struct machine *m, struct device *dev)
{
    assert_true(m->count < MAX_OBJECTS);
    m->device[m->count++] = dev;
}

static void make_legacy(struct machine *m)
{
    struct irq_line none = {.set = NULL};
    struct vclock *clock = &m->vm.clock;
    assert_int_equal(soft_irqchip_init(&m->chip, &m->vm, NULL), 0);
    m->vm.irqchip = &m->chip.chip;
    assert_int_equal(pit_init(&m->pit, &m->memory, m->loop, clock, irqchip_gsi(&m->chip.chip, 0), NULL), 0);
    assert_int_equal(rtc_init(&m->rtc, &m->memory, m->loop, clock, irqchip_gsi(&m->chip.chip, 8), NULL), 0);
    assert_int_equal(acpi_pm_init(&m->pm, &m->memory, m->loop, clock, none, &m->lifecycle, NULL), 0);
    assert_int_equal(i8042_init(&m->i8042, &m->memory, none, none, &m->lifecycle, NULL), 0);
    assert_int_equal(uart16550_init(&m->uart, &m->memory, 0x3f8, m->loop, clock, none, m->chardev, NULL), 0);
    assert_int_equal(port92_init(&m->port92, &m->memory, &m->lifecycle, NULL), 0);
    assert_int_equal(pvpanic_init(&m->pvpanic, &m->memory, &m->lifecycle, NULL), 0);
    assert_int_equal(hpet_init(&m->hpet, &m->memory, m->loop, clock, none, &m->pit, &m->rtc, NULL), 0);
    assert_int_equal(fw_cfg_init(&m->fw_cfg, &m->memory, NULL), 0);
    reset_port_init(&m->reset_port, &m->lifecycle);
    add(m, &m->chip.pic.dev);
    add(m, &m->chip.ioapic.dev);
    for (unsigned i = 0; i < m->chip.apics.count; i++)
        add(m, &m->chip.apics.apic[i].dev);
    add(m, &m->pit.dev);
    add(m, &m->rtc.dev);
    add(m, &m->pm.dev);
    add(m, &m->hpet.dev);
    add(m, &m->fw_cfg.dev);
    add(m, &m->i8042.dev);
    add(m, &m->uart.dev);
    add(m, &m->port92.dev);
    add(m, &m->pvpanic.dev);
    add(m, &m->reset_port.dev);
}

static void make_pci(struct machine *m)
{
    static const struct virtio_blk_config config = {.serial = "x"};
    static const struct virtio_net_config net_config = {.mac = {2}, .pairs = 2};
    struct pci_host_wiring wiring = {
        .windows = {.mmio_base = 0xc0000000,
                    .mmio_end = 0xfec00000,
                    .io_base = 0xc000,
                    .io_end = 0x10000,
                    .ecam_base = 0xb0000000},
    };
    assert_int_equal(pci_host_init(&m->host, &m->memory, &wiring, NULL), 0);
    assert_int_equal(virtio_blk_init(&m->blk, &m->host.bus, 8, &m->memory, m->loop, &m->vm.machine_lock,
                                     m->disk, &config, NULL),
                     0);
    assert_int_equal(
        virtio_console_init(&m->console, &m->host.bus, 16, &m->memory, m->loop, m->chardev, NULL), 0);
    assert_int_equal(virtio_rng_init(&m->rng, &m->host.bus, 24, &m->memory, m->loop, NULL), 0);
    assert_int_equal(
        virtio_net_init(&m->net, &m->host.bus, 32, &m->memory, m->loop, m->network, &net_config, NULL), 0);
    assert_int_equal(
        virtio_scsi_init(&m->scsi, &m->host.bus, 64, &m->memory, m->loop, &m->vm.machine_lock, 2, NULL), 0);
    virtio_scsi_attach(&m->scsi, 0, SCSI_DISK, m->disk, NULL);
    virtio_scsi_attach(&m->scsi, 1, SCSI_CDROM, m->disk, NULL);
    add(m, &m->host.dev);
    add(m, &m->blk.pci.function.dev);
    add(m, &m->console.pci.function.dev);
    add(m, &m->rng.pci.function.dev);
    add(m, &m->scsi.pci.function.dev);
    add(m, &m->net.pci.function.dev);
    m->directory = share_open("/", &(struct share_options){.ownership = SHARE_NONE}, NULL);
    assert_non_null(m->directory);
    assert_int_equal(virtio_9p_init(&m->share, &m->host.bus, 48, &m->memory, m->loop, &m->vm.machine_lock,
                                    m->directory, "root", NULL),
                     0);
    add(m, &m->share.pci.function.dev);
}

static void reset_all(struct machine *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        if (m->device[i]->reset)
            m->device[i]->reset(m->device[i]);
    }
}

static int make_machine(void **state)
{
    struct machine *m = calloc(1, sizeof *m);
    *state = m;
    m->lifecycle.request = ignore_lifecycle;
    m->loop = event_loop_new(NULL);
    assert_int_equal(memory_init(&m->memory, 4 << 20, NULL), 0);
    assert_int_equal(vm_init(&m->vm, &m->memory, m->loop, &no_engine, &no_cpuid, 2, NULL), 0);
    vclock_init_manual(&m->vm.clock);
    m->chardev = chardev_null_new();
    m->disk = block_null_open(1 << 20);
    m->network = net_null_open(NULL);
    lock_acquire(&m->vm.machine_lock);
    make_legacy(m);
    make_pci(m);
    reset_all(m);
    lock_drop(&m->vm.machine_lock);
    event_loop_set_lock(m->loop, &m->vm.machine_lock);
    return 0;
}

static int free_machine(void **state)
{
    struct machine *m = *state;
    event_loop_set_lock(m->loop, NULL);
    virtio_blk_release(&m->blk);
    virtio_console_release(&m->console);
    virtio_rng_release(&m->rng);
    virtio_scsi_release(&m->scsi);
    virtio_net_release(&m->net);
    net_close(m->network);
    virtio_9p_release(&m->share);
    share_close(m->directory);
    pci_host_release(&m->host);
    reset_port_release(&m->reset_port);
    pvpanic_release(&m->pvpanic);
    port92_release(&m->port92);
    uart16550_release(&m->uart);
    i8042_release(&m->i8042);
    fw_cfg_release(&m->fw_cfg);
    hpet_release(&m->hpet);
    acpi_pm_release(&m->pm);
    rtc_release(&m->rtc);
    pit_release(&m->pit);
    soft_irqchip_release(&m->chip);
    block_close(m->disk);
    chardev_free(m->chardev);
    vm_release(&m->vm);
    event_loop_free(m->loop);
    memory_release(&m->memory);
    free(m);
    return 0;
}

/* --- pseudo-random numbers, the same in each run --- */

static u64 next_random(u64 *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* --- descriptions as such --- */

static void check_field(const struct state_desc *desc, const struct field *f)
{
    print_message("# %s.%s\n", desc->name, f->name);
    assert_in_range(f->since, 1, desc->version);
    assert_true(f->size && f->count);
    if (f->kind == FIELD_KIND_INT)
        assert_true(f->size == 1 || f->size == 2 || f->size == 4 || f->size == 8);
    if (f->kind == FIELD_KIND_BOOL)
        assert_int_equal(f->size, 1);
    assert_int_equal(f->kind == FIELD_KIND_STRUCT, f->desc != NULL);
    for (const struct field *g = desc->fields; g != f; g++) {
        assert_string_not_equal(f->name, g->name);
        u64 f_end = f->offset + (u64)f->size * f->count, g_end = g->offset + (u64)g->size * g->count;
        assert_true(f_end <= g->offset || g_end <= f->offset);
    }
}

static void check_desc(const struct state_desc *desc)
{
    assert_true(desc->version >= 1);
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        check_field(desc, f);
        if (f->kind == FIELD_KIND_STRUCT)
            check_desc(f->desc);
    }
}

static void descriptions_are_sound(void **state)
{
    struct machine *m = *state;
    check_desc(&x86_state_desc);
    for (unsigned i = 0; i < m->count; i++) {
        if (m->device[i]->state)
            check_desc(m->device[i]->state);
    }
}

/* --- every field comes back: with copies of the descriptions that have no hooks --- */

struct bare {
    struct state_desc desc[64];
    struct field fields[1024];
    unsigned descs, used;
};

static const struct state_desc *without_hooks(struct bare *b, const struct state_desc *desc)
{
    unsigned n = 1;
    while (desc->fields[n - 1].kind != FIELD_KIND_END)
        n++;
    assert_true(b->descs < ARRAY_SIZE(b->desc) && b->used + n <= ARRAY_SIZE(b->fields));
    struct state_desc *copy = &b->desc[b->descs++];
    struct field *fields = &b->fields[b->used];
    b->used += n;
    memcpy(fields, desc->fields, n * sizeof *fields);
    *copy = (struct state_desc){.name = desc->name, .version = desc->version, .fields = fields};
    for (struct field *f = fields; f->kind != FIELD_KIND_END; f++) {
        if (f->kind == FIELD_KIND_STRUCT)
            f->desc = without_hooks(b, f->desc);
    }
    return copy;
}

static size_t extent(const struct state_desc *desc)
{
    size_t end = 0;
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++)
        end = MAX(end, f->offset + (size_t)f->size * f->count);
    return end;
}

static void fill(const struct state_desc *desc, u8 *object, u64 *seed)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        for (u32 i = 0; i < f->count; i++) {
            u8 *at = object + f->offset + (size_t)i * f->size;
            if (f->kind == FIELD_KIND_STRUCT) {
                fill(f->desc, at, seed);
                continue;
            }
            for (u32 k = 0; k < f->size; k++)
                at[k] = (u8)(next_random(seed) & (f->kind == FIELD_KIND_BOOL ? 1 : 0xff));
        }
    }
}

static void compare(const struct state_desc *desc, const u8 *a, const u8 *b)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        for (u32 i = 0; i < f->count; i++) {
            size_t at = f->offset + (size_t)i * f->size;
            if (f->kind == FIELD_KIND_STRUCT)
                compare(f->desc, a + at, b + at);
            else
                assert_memory_equal(a + at, b + at, f->size);
        }
    }
}

static void round_trip(const struct state_desc *desc, u64 *seed)
{
    struct bare *bare = calloc(1, sizeof *bare);
    const struct state_desc *d = without_hooks(bare, desc);
    u8 *from = calloc(1, extent(d)), *to = calloc(1, extent(d));
    struct state_buf b = {.data = NULL};
    print_message("# %s\n", desc->name);
    fill(d, from, seed);
    assert_int_equal(state_save(&b, d, 7, from, NULL), 0);
    assert_int_equal(state_load(&b, d, 7, to, NULL), 0);
    compare(d, from, to);
    state_buf_release(&b);
    free(from);
    free(to);
    free(bare);
}

static void every_field_survives_a_round_trip(void **state)
{
    struct machine *m = *state;
    u64 seed = 0x9e3779b97f4a7c15;
    round_trip(&x86_state_desc, &seed);
    for (unsigned i = 0; i < m->count; i++) {
        if (m->device[i]->state)
            round_trip(m->device[i]->state, &seed);
    }
}

/* --- live devices --- */

static void save_device(struct device *d, struct state_buf *b)
{
    assert_int_equal(state_save(b, d->state, d->instance, d->object, NULL), 0);
}

static void restored_device_saves_the_same_again(void **state)
{
    struct machine *m = *state;
    lock_acquire(&m->vm.machine_lock);
    for (unsigned i = 0; i < m->count; i++) {
        struct device *d = m->device[i];
        struct state_buf first = {.data = NULL}, second = {.data = NULL};
        struct error err = {0};
        if (!d->state)
            continue;
        print_message("# %s\n", d->name);
        save_device(d, &first);
        if (state_load(&first, d->state, d->instance, d->object, &err) < 0)
            fail_msg("%s", err.text);
        save_device(d, &second);
        assert_int_equal(first.len, second.len);
        assert_memory_equal(first.data, second.data, first.len);
        state_buf_release(&first);
        state_buf_release(&second);
    }
    lock_drop(&m->vm.machine_lock);
}

/* What a guest could do next: reads all ports and registers, writes some, lets time pass. */
static void exercise(struct machine *m, u64 *seed)
{
    struct vcpu *vcpu = m->vm.vcpus[0];
    static const u16 written[] = {0x20, 0x21, 0x40,  0x43,  0x60,  0x64, 0x70,
                                  0x71, 0xa1, 0x3f8, 0x3f9, 0xcf8, 0xcfc};
    for (unsigned port = 0; port < 0x1000; port++)
        cpu_pio_read(vcpu, (u16)port, port % 3 ? 1 : 4);
    for (unsigned i = 0; i < ARRAY_SIZE(written); i++)
        cpu_pio_write(vcpu, written[i], (u32)next_random(seed), 1);
    for (unsigned offset = 0; offset < 0x400; offset += 4) {
        cpu_mmio_read(vcpu, 0xfec00000 + offset, 4);
        cpu_mmio_read(vcpu, 0xfee00000 + offset, 4);
        cpu_mmio_read(vcpu, 0xfed00000 + offset, 4);
    }
    cpu_mmio_write(vcpu, 0xfee000b0, 0, 4);
    vclock_set_ns(&m->vm.clock, vclock_ns(&m->vm.clock) + next_random(seed) % NS_PER_SEC);
    event_loop_clock_changed(m->loop);
    for (int i = 0; i < 4; i++)
        event_loop_poll(m->loop, 0);
    lock_acquire(&m->vm.machine_lock);
    m->vm.irqchip->ops->ack(m->vm.irqchip, vcpu);
    lock_drop(&m->vm.machine_lock);
}

static void damage(struct state_buf *b, u64 *seed)
{
    static const u8 nasty[] = {0, 1, 0x7f, 0x80, 0xff};
    for (u64 n = next_random(seed) % 24 + 1; n; n--) {
        u8 *at = &b->data[next_random(seed) % b->len];
        u64 r = next_random(seed);
        *at = r & 1 ? (u8)(r >> 8) : nasty[(r >> 8) % ARRAY_SIZE(nasty)];
    }
}

/* Puts random values into a few fields, so that records are well formed and come to post_load. */
static void forge_values(const struct state_desc *desc, u8 *object, u64 *seed)
{
    for (const struct field *f = desc->fields; f->kind != FIELD_KIND_END; f++) {
        for (u32 i = 0; i < f->count; i++) {
            struct field one[] = {*f, FIELD_END};
            struct state_desc only = {.name = desc->name, .version = desc->version, .fields = one};
            one[0].offset += i * f->size;
            one[0].count = 1;
            if (f->kind == FIELD_KIND_STRUCT)
                forge_values(f->desc, object + one[0].offset, seed);
            else if (next_random(seed) % 6 == 0)
                fill(&only, object, seed);
        }
    }
}

static bool load_into(struct machine *m, struct device *d, struct state_buf *b)
{
    lock_acquire(&m->vm.machine_lock);
    int r = state_load(b, d->state, d->instance, d->object, NULL);
    assert_true(r == 0 || r == -EINVAL);
    if (r < 0)
        reset_all(m);
    lock_drop(&m->vm.machine_lock);
    return r == 0;
}

static void device_survives_damaged_records(struct machine *m, struct device *d, u64 *seed)
{
    struct state_buf good = {.data = NULL};
    unsigned taken = 0;
    lock_acquire(&m->vm.machine_lock);
    reset_all(m);
    save_device(d, &good);
    lock_drop(&m->vm.machine_lock);
    for (unsigned i = 0; i < 150; i++) {
        struct state_buf bad = {.data = malloc(good.len), .len = good.len, .cap = good.len};
        memcpy(bad.data, good.data, good.len);
        damage(&bad, seed);
        bool ok = load_into(m, d, &bad);
        taken += ok;
        if (ok && taken < 20)
            exercise(m, seed);
        state_buf_release(&bad);
    }
    state_buf_release(&good);
}

static void damaged_records_do_no_harm(void **state)
{
    struct machine *m = *state;
    u64 seed = 0x2545f4914f6cdd1d;
    for (unsigned i = 0; i < m->count; i++) {
        if (!m->device[i]->state)
            continue;
        print_message("# %s\n", m->device[i]->name);
        device_survives_damaged_records(m, m->device[i], &seed);
    }
}

/* Random values in well-formed records, which is what a forged snapshot would hold. */
static void forge(struct state_buf *b, struct device *d, u64 *seed)
{
    struct bare *bare = calloc(1, sizeof *bare);
    const struct state_desc *desc = without_hooks(bare, d->state);
    u8 *object = calloc(1, extent(desc));
    struct state_buf good = {.data = NULL};
    save_device(d, &good);
    assert_int_equal(state_load(&good, desc, d->instance, object, NULL), 0);
    forge_values(desc, object, seed);
    assert_int_equal(state_save(b, desc, d->instance, object, NULL), 0);
    state_buf_release(&good);
    free(object);
    free(bare);
}

static void forged_records_do_no_harm(void **state)
{
    struct machine *m = *state;
    u64 seed = 0xda942042e4dd58b5;
    for (unsigned i = 0; i < m->count; i++) {
        struct device *d = m->device[i];
        if (!d->state)
            continue;
        print_message("# %s\n", d->name);
        for (unsigned n = 0; n < 100; n++) {
            struct state_buf b = {.data = NULL};
            lock_acquire(&m->vm.machine_lock);
            reset_all(m);
            forge(&b, d, &seed);
            lock_drop(&m->vm.machine_lock);
            if (load_into(m, d, &b))
                exercise(m, &seed);
            state_buf_release(&b);
        }
    }
}

#define IN(name) cmocka_unit_test_setup_teardown(name, make_machine, free_machine)

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        IN(descriptions_are_sound),
        IN(every_field_survives_a_round_trip),
        IN(restored_device_saves_the_same_again),
        IN(damaged_records_do_no_harm),
        IN(forged_records_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
