/* fw_cfg: configuration and blobs for firmware and kernels. */
#include "hw/fw-cfg.h"

#include <endian.h>
#include <errno.h>

#include "base/log.h"

enum {
    PORT_SELECTOR = 0, /* 2 bytes */
    PORT_DATA = 1,
    PORT_DMA_HIGH = 4, /* 4 bytes each, big-endian; writing the low half starts the transfer */
    PORT_DMA_LOW = 8,

    KEY_WRITE_CHANNEL = 0x4000, /* obsolete: ignored */
    KEY_INDEX = 0x3fff,

    ID_TRADITIONAL = 0x01,
    ID_DMA = 0x02,

    DMA_ERROR = 0x01,
    DMA_READ = 0x02,
    DMA_SKIP = 0x04,
    DMA_SELECT = 0x08,
    DMA_WRITE = 0x10,
};

#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */
/* How many zeroes a guest gets behind the end of an item in one transfer: bounds the time it takes. */
#define DMA_ZEROES_MAX (1u << 20)

struct dma_descriptor {
    u32 control, length;
    u64 address;
} PACKED;

struct directory_entry {
    u32 size;
    u16 select, reserved;
    char name[FW_CFG_NAME];
} PACKED;

/* --- items --- */

/* The item that @key selects; NULL when there is none. */
static const struct fw_cfg_item *find_item(const struct fw_cfg *f, u16 key)
{
    unsigned index = key & KEY_INDEX, local = key & FW_CFG_ARCH_LOCAL ? 1 : 0;
    const struct fw_cfg_item *item = NULL;

    if (index < FW_CFG_FILE_FIRST)
        item = !local && index == FW_CFG_FILE_DIR ? &f->directory : &f->items[local][index];
    else if (!local && index - FW_CFG_FILE_FIRST < f->file_count)
        item = &f->files[index - FW_CFG_FILE_FIRST].item;
    return item && item->data ? item : NULL;
}

static void select_item(struct fw_cfg *f, u16 key)
{
    trace(fwcfg, "select %#x", key);
    f->key = key & ~KEY_WRITE_CHANNEL;
    f->offset = 0;
}

/* What is left of the selected item behind the read position. */
static u32 bytes_left(const struct fw_cfg *f, const struct fw_cfg_item *item)
{
    return item && f->offset < item->len ? item->len - f->offset : 0;
}

static u8 read_byte(struct fw_cfg *f)
{
    const struct fw_cfg_item *item = find_item(f, f->key);

    return bytes_left(f, item) ? item->data[f->offset++] : 0;
}

/* --- DMA --- */

static int dma_zeroes(struct fw_cfg *f, u64 gpa, u32 len)
{
    void *to = memory_span(f->memory, gpa, len);

    if (!to)
        return -EFAULT;
    memset(to, 0, len);
    memory_span_written(f->memory, gpa, len);
    return 0;
}

static int dma_read(struct fw_cfg *f, u64 gpa, u32 len)
{
    const struct fw_cfg_item *item = find_item(f, f->key);
    u32 copied = MIN(bytes_left(f, item), len);

    if (!len)
        return 0;
    if (len - copied > DMA_ZEROES_MAX || !memory_span(f->memory, gpa, len))
        return -EFAULT; /* nothing is written when not all of it can be */
    if (copied && memory_write(f->memory, gpa, item->data + f->offset, copied))
        return -EFAULT;
    f->offset += copied;
    return len > copied ? dma_zeroes(f, gpa + copied, len - copied) : 0;
}

static int dma_transfer(struct fw_cfg *f, const struct dma_descriptor *d)
{
    if (d->control & DMA_SELECT)
        select_item(f, d->control >> 16);
    if (d->control & DMA_READ)
        return dma_read(f, d->address, d->length);
    if (d->control & DMA_WRITE)
        return -EPERM; /* every item is read-only */
    if (d->control & DMA_SKIP)
        f->offset += MIN(bytes_left(f, find_item(f, f->key)), d->length);
    return 0;
}

static void dma_start(struct fw_cfg *f)
{
    u64 gpa = f->dma_addr;
    struct dma_descriptor d;
    u32 result;

    f->dma_addr = 0;
    if (memory_read(f->memory, gpa, &d, sizeof d)) {
        log_guest("fw_cfg: DMA descriptor at %#llx is not in RAM", (unsigned long long)gpa);
        return;
    }
    d.control = be32toh(d.control);
    d.length = be32toh(d.length);
    d.address = be64toh(d.address);
    result = htobe32(dma_transfer(f, &d) ? DMA_ERROR : 0);
    memory_write(f->memory, gpa, &result, sizeof result);
}

/* --- ports --- */

static u64 fw_cfg_read(struct io_region *r, u64 offset, unsigned size)
{
    struct fw_cfg *f = container_of(r, struct fw_cfg, region);
    u8 signature[8];
    u64 value = 0;

    if (offset == PORT_DATA && size == 1)
        return read_byte(f);
    if (offset < PORT_DMA_HIGH)
        return 0;
    put_le64(signature, htobe64(DMA_SIGNATURE));
    for (unsigned i = 0; i < size && offset - PORT_DMA_HIGH + i < sizeof signature; i++)
        value |= (u64)signature[offset - PORT_DMA_HIGH + i] << i * 8;
    return value;
}

static void fw_cfg_write(struct io_region *r, u64 offset, u64 value, unsigned size)
{
    struct fw_cfg *f = container_of(r, struct fw_cfg, region);

    if (offset == PORT_SELECTOR && size == 2) {
        select_item(f, value);
    } else if (offset == PORT_DMA_HIGH && size == 4) {
        f->dma_addr = (u64)be32toh((u32)value) << 32;
    } else if (offset == PORT_DMA_LOW && size == 4) {
        f->dma_addr |= be32toh((u32)value);
        dma_start(f);
    }
}

static const struct io_ops fw_cfg_ops = {
    .read = fw_cfg_read, .write = fw_cfg_write, .min_size = 1, .max_size = 4};

/* --- adding items --- */

static int set_item(struct fw_cfg_item *item, const void *data, u32 len, struct error *err)
{
    u8 *copy = malloc(len ? len : 1);

    if (!copy)
        return error_set_errno(err, ENOMEM, "fw_cfg item of %u bytes", len);
    if (len)
        memcpy(copy, data, len);
    free(item->data);
    *item = (struct fw_cfg_item){.data = copy, .len = len};
    return 0;
}

int fw_cfg_add(struct fw_cfg *f, u16 key, const void *data, u32 len, struct error *err)
{
    unsigned index = key & KEY_INDEX;

    if (index >= FW_CFG_FILE_FIRST || (key & KEY_WRITE_CHANNEL) || key == FW_CFG_FILE_DIR)
        return error_set(err, EINVAL, "fw_cfg key %#x is not one that can be set", key);
    return set_item(&f->items[key & FW_CFG_ARCH_LOCAL ? 1 : 0][index], data, len, err);
}

int fw_cfg_add_u16(struct fw_cfg *f, u16 key, u16 value, struct error *err)
{
    return fw_cfg_add(f, key, &value, sizeof value, err);
}

int fw_cfg_add_u32(struct fw_cfg *f, u16 key, u32 value, struct error *err)
{
    return fw_cfg_add(f, key, &value, sizeof value, err);
}

int fw_cfg_add_u64(struct fw_cfg *f, u16 key, u64 value, struct error *err)
{
    return fw_cfg_add(f, key, &value, sizeof value, err);
}

int fw_cfg_add_string(struct fw_cfg *f, u16 key, const char *s, struct error *err)
{
    return fw_cfg_add(f, key, s, strlen(s) + 1, err);
}

/* The file directory's integers are big-endian, unlike other items'. */
static int make_directory(struct fw_cfg *f, struct error *err)
{
    u8 bytes[4 + sizeof(struct directory_entry) * FW_CFG_FILES];
    u32 count = htobe32(f->file_count);

    memcpy(bytes, &count, 4);
    for (unsigned i = 0; i < f->file_count; i++) {
        struct directory_entry e = {
            .size = htobe32(f->files[i].item.len),
            .select = htobe16(FW_CFG_FILE_FIRST + i),
        };

        memcpy(e.name, f->files[i].name, sizeof e.name);
        memcpy(bytes + 4 + i * sizeof e, &e, sizeof e);
    }
    return set_item(&f->directory, bytes, 4 + f->file_count * sizeof(struct directory_entry), err);
}

int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, u32 len, struct error *err)
{
    struct fw_cfg_item item = {0};
    unsigned at = 0;
    int ret;

    if (!*name || strlen(name) >= FW_CFG_NAME)
        return error_set(err, EINVAL, "fw_cfg file name '%s' is empty or too long", name);
    while (at < f->file_count && strcmp(f->files[at].name, name) < 0)
        at++;
    if (at < f->file_count && !strcmp(f->files[at].name, name)) {
        ret = set_item(&f->files[at].item, data, len, err);
        return ret ? ret : make_directory(f, err);
    }
    if (f->file_count == FW_CFG_FILES)
        return error_set(err, ENOSPC, "no place for fw_cfg file '%s'", name);
    ret = set_item(&item, data, len, err);
    if (ret)
        return ret;
    memmove(&f->files[at + 1], &f->files[at], (f->file_count - at) * sizeof f->files[0]);
    f->files[at] = (struct fw_cfg_file){.item = item};
    memcpy(f->files[at].name, name, strlen(name));
    f->file_count++;
    return make_directory(f, err);
}

/* --- life cycle --- */

static void fw_cfg_reset(struct device *dev)
{
    struct fw_cfg *f = dev->object;

    f->dma_addr = 0;
    select_item(f, FW_CFG_SIGNATURE);
}

static const struct field fw_cfg_fields[] = {
    FIELD(struct fw_cfg, key),
    FIELD(struct fw_cfg, offset),
    FIELD(struct fw_cfg, dma_addr),
    FIELD_END,
};
static const struct state_desc fw_cfg_state = {.name = "fw-cfg", .version = 1, .fields = fw_cfg_fields};

static int add_standard_items(struct fw_cfg *f, struct error *err)
{
    int ret = fw_cfg_add(f, FW_CFG_SIGNATURE, "QEMU", 4, err);

    if (!ret)
        ret = fw_cfg_add_u32(f, FW_CFG_ID, ID_TRADITIONAL | ID_DMA, err);
    return ret ? ret : make_directory(f, err);
}

static void free_items(struct fw_cfg *f)
{
    for (unsigned i = 0; i < FW_CFG_FILE_FIRST; i++) {
        free(f->items[0][i].data);
        free(f->items[1][i].data);
    }
    for (unsigned i = 0; i < f->file_count; i++)
        free(f->files[i].item.data);
    free(f->directory.data);
}

int fw_cfg_init(struct fw_cfg *f, struct memory *m, struct error *err)
{
    int ret;

    *f = (struct fw_cfg){
        .dev = {.name = "fw-cfg", .state = &fw_cfg_state, .object = f, .reset = fw_cfg_reset},
        .memory = m,
    };
    io_region_init(&f->region, "fw-cfg", &fw_cfg_ops, FW_CFG_SIZE);
    ret = add_standard_items(f, err);
    if (!ret)
        ret = memory_map_pio(m, &f->region, FW_CFG_PORT, err);
    if (ret)
        free_items(f);
    return ret;
}

void fw_cfg_release(struct fw_cfg *f)
{
    memory_unmap(f->memory, &f->region);
    free_items(f);
}
