#include "cmd/run-options.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

#include "cmd/net-options.h"
#include "cmd/options.h"
#include "hw/isa-debug-exit.h"

/* --- options with options of their own --- */

static int set_net(void *target, char *text, struct error *err)
{
    struct run_options *o = target;

    o->net_given = true;
    if (!strcmp(text, "none")) {
        o->pc.net_count = 0;
        return 0;
    }
    if (!strncmp(text, "none,", 5) || !strncmp(text, "none=", 5))
        return error_set(err, EINVAL, "--net: none takes nothing behind it, not '%.60s'", text + 4);
    if (o->pc.net_count == PC_MAX_NETS)
        return error_set(err, EINVAL, "more than %u networks", PC_MAX_NETS);
    return net_options_parse(&o->pc.net[o->pc.net_count++], text, err);
}

static int set_cloud_init(void *target, char *text, struct error *err)
{
    return cloud_set_init(&((struct run_options *)target)->cloud, text, err);
}

static int set_ssh_key(void *target, char *text, struct error *err)
{
    return cloud_set_ssh_key(&((struct run_options *)target)->cloud, text, err);
}

static int set_initrd(void *target, char *text, struct error *err)
{
    static const struct option list[] = {
        {.name = "args", .arg = "TEXT", .kind = OPTION_STRING, .offset = 0},
        OPTION_LIST_END,
    };
    struct run_options *o = target;
    const char *args = NULL;
    char *path;
    int r = options_parse_commas(list, &args, "initrd", text, &path, err);

    if (r)
        return r;
    if (o->initrd_count == BOOT_MAX_MODULES)
        return error_set(err, EINVAL, "more than %u initrds", BOOT_MAX_MODULES);
    o->initrd[o->initrd_count].path = path;
    o->initrd[o->initrd_count].args = args;
    o->initrd_count++;
    return 0;
}

/* The choice of chips is the board's, which tells an engine that can use it. */
static int set_engine(void *target, char *text, struct error *err)
{
    struct engine_options {
        const char *irqchip;
        bool ioeventfd, irqfd;
    } e = {.irqchip = "auto"};
    static const struct option list[] = {
        {.name = "irqchip",
         .arg = "WHERE",
         .kind = OPTION_CHOICE,
         .choices = "auto|none|split|kernel",
         .offset = offsetof(struct engine_options, irqchip)},
        {.name = "ioeventfd", .kind = OPTION_FLAG, .offset = offsetof(struct engine_options, ioeventfd)},
        {.name = "irqfd", .kind = OPTION_FLAG, .offset = offsetof(struct engine_options, irqfd)},
        OPTION_LIST_END,
    };
    struct run_options *o = target;
    char *name;
    int r = options_parse_commas(list, &e, "engine", text, &name, err);

    o->engine = name;
    o->pc.ioeventfd = e.ioeventfd;
    o->pc.irqfd = e.irqfd;
    o->pc.irqchip = !strcmp(e.irqchip, "none")     ? KERNEL_IRQCHIP_NONE
                    : !strcmp(e.irqchip, "split")  ? KERNEL_IRQCHIP_SPLIT
                    : !strcmp(e.irqchip, "kernel") ? KERNEL_IRQCHIP_WHOLE
                                                   : KERNEL_IRQCHIP_AUTO;
    return r;
}

/* --- devices --- */

static int device_debug_exit(struct run_options *o, char *rest, struct error *err)
{
    static const struct option list[] = {
        {.name = "iobase", .arg = "PORT", .kind = OPTION_UINT, .max = 0xfffc, .offset = 0},
        OPTION_LIST_END,
    };
    unsigned port = ISA_DEBUG_EXIT_PORT;
    int r = options_parse_commas(list, &port, "device", rest, NULL, err);

    o->pc.debug_exit = true;
    o->pc.debug_exit_port = (u16)port;
    return r;
}

static int device_rng(struct run_options *o, char *rest, struct error *err)
{
    static const struct option list[] = {OPTION_LIST_END};

    o->pc.no_rng = false;
    return options_parse_commas(list, o, "device", rest, NULL, err);
}

static int device_console(struct run_options *o, char *rest, struct error *err)
{
    static const struct option list[] = {
        {.name = "chardev", .arg = "SPEC", .kind = OPTION_STRING, .offset = 0},
        OPTION_LIST_END,
    };
    const char *spec = "stdio";
    int r = options_parse_commas(list, &spec, "device", rest, NULL, err);

    o->pc.virtio_console = spec;
    return r;
}

static const struct {
    const char *name;
    int (*set)(struct run_options *o, char *rest, struct error *err); /* what follows the comma, or "" */
} devices[] = {
    {"isa-debug-exit", device_debug_exit},
    {"virtio-rng", device_rng},
    {"virtio-console", device_console},
};

static int set_device(void *target, char *text, struct error *err)
{
    char *comma = strchr(text, ',');
    const char *names[ARRAY_SIZE(devices) + 1] = {NULL};
    const char *hint;

    if (comma)
        *comma++ = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(devices); i++) {
        if (!strcmp(devices[i].name, text))
            return devices[i].set(target, comma, err);
        names[i] = devices[i].name;
    }
    hint = options_nearest(text, names);
    return error_set(err, EINVAL, "unknown device '%.60s'%s%s%s", text, hint ? "; did you mean '" : "",
                     hint ? hint : "", hint ? "'?" : "");
}

/* --- the list --- */

#define FIELD_AT(m) .offset = offsetof(struct run_options, m)

static const struct option run_list[] = {
    {.kind = OPTION_GROUP, .help = "The machine:"},
    {.name = "engine",
     .arg = "NAME",
     .help = "how guest code runs: auto (default), kvm, translate, interpret;\n"
             ",irqchip=auto|none|split|kernel: interrupt controllers in the kernel, for kvm;\n"
             ",ioeventfd: doorbells of virtio devices without exits, for kvm;\n"
             ",irqfd: their interrupts by eventfd, to controllers in the kernel",
     .kind = OPTION_CALL,
     .set = set_engine},
    {.name = "cpus",
     .arg = "N",
     .help = "number of processors, 1 to 16 (default 1)",
     .kind = OPTION_UINT,
     .min = 1,
     .max = VM_MAX_VCPUS,
     FIELD_AT(pc.cpus)},
    {.name = "memory",
     .arg = "SIZE",
     .help = "RAM, with suffix K, M or G (default 512M, at most 64G)",
     .kind = OPTION_SIZE,
     .min = 1 << 20,
     .max = MEMORY_MAX_SIZE,
     .unit = 1 << 20,
     FIELD_AT(pc.memory)},
    {.name = "cpu",
     .arg = "MODEL",
     .help = "what CPUID offers: host (default), x86-64-v2, x86-64-v3",
     .kind = OPTION_CHOICE,
     .choices = "host|x86-64-v2|x86-64-v3",
     FIELD_AT(pc.cpu_model)},
    {.name = "name",
     .arg = "NAME",
     .help = "what to call it; with --cloud-init also its hostname",
     .kind = OPTION_STRING,
     FIELD_AT(pc.name)},
    {.name = "uuid",
     .arg = "UUID",
     .help = "its identity (default: a new one each time)",
     .kind = OPTION_STRING,
     FIELD_AT(cloud.uuid)},
    {.kind = OPTION_GROUP, .help = "What to boot:"},
    {.name = "kernel",
     .arg = "FILE",
     .help = "bzImage, ELF with a PVH note, or Multiboot kernel",
     .kind = OPTION_STRING,
     FIELD_AT(kernel)},
    {.name = "initrd",
     .arg = "FILE[,args=TEXT]",
     .help = "initrd; may be repeated: more archives, or modules of a\nMultiboot or PVH kernel, with their "
             "arguments",
     .kind = OPTION_CALL,
     .set = set_initrd},
    {.name = "append",
     .arg = "TEXT",
     .help = "command line of the kernel",
     .kind = OPTION_STRING,
     FIELD_AT(append)},
    {.name = "firmware",
     .arg = "bios|FILE",
     .help = "what boots the disks where no kernel is given: SeaBIOS (bios,\nthe default) or an image of "
             "your own",
     .kind = OPTION_STRING,
     FIELD_AT(firmware)},
    {.name = "boot",
     .arg = "WHAT[,WHAT...]",
     .help = "what firmware tries first: disk, cdrom, or the number of a disk\non the command line, from 1 "
             "(default disk,cdrom)",
     .kind = OPTION_STRING,
     FIELD_AT(boot)},
    {.name = "cloud-init",
     .arg = "user-data=FILE[,...]",
     .help = "a disk that tells a cloud image what to do when it boots first:\n"
             "user-data=FILE  meta-data=FILE  network-config=FILE",
     .kind = OPTION_CALL,
     .set = set_cloud_init},
    {.name = "ssh-key",
     .arg = "FILE",
     .help = "the same, with public keys that may log in; may be repeated",
     .kind = OPTION_CALL,
     .set = set_ssh_key},
    {.kind = OPTION_GROUP, .help = "Devices:"},
    {.name = "disk",
     .arg = "FILE[,OPTIONS]",
     .help = "a disk; may be repeated; DISK on the command line is the same:\n"
             "format=raw|qcow2  readonly  cache=writeback|none|unsafe\n"
             "serial=TEXT  aio=threads|io_uring  bus=virtio|scsi\n"
             "bootindex=N  media=disk|cdrom\n"
             "bps=SIZE  bps_max=SIZE  iops=N  iops_max=N  (limits a second)\n"
             "werror=enospc|report|ignore|stop  rerror=report|...",
     .kind = OPTION_CALL,
     .set = run_set_disk},
    {.name = "cdrom",
     .arg = "FILE[,OPTIONS]",
     .help = "a disk that cannot be written, as a CD-ROM on bus=scsi",
     .kind = OPTION_CALL,
     .set = run_set_cdrom},
    {.name = "net",
     .arg = "KIND[,OPTIONS]",
     .help = "a network card; may be repeated; user when none is given:\n"
             "user  behind this process, with DHCP and DNS:\n"
             "      hostfwd=tcp|udp:[HOSTADDR:]PORT-[GUESTADDR]:PORT\n"
             "      restrict=on  host-loopback=on  ipv6=off  tftp=DIR\n"
             "      bootfile=F  net=CIDR  host=ADDR  dns=ADDR\n"
             "      dhcpstart=ADDR  hostname=NAME  domainname=NAME\n"
             "tap=IF or tap,fd=N  an interface of the host\n"
             "socket=PATH  another machine with the same PATH\n"
             "null  connected to nothing    none  no card\n"
             "all:  mac=MAC  queues=N  mtu=BYTES  link=up|down\n"
             "      pcap=FILE  bps=SIZE  (limit a second, each way)",
     .kind = OPTION_CALL,
     .set = set_net},
    {.name = "share",
     .arg = "DIR,tag=NAME[,OPTIONS]",
     .help = "a directory for the guest, which mounts it by its tag:\n"
             "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 NAME /mnt\n"
             "may be repeated;  readonly  ownership=mapped|passthrough|none",
     .kind = OPTION_CALL,
     .set = run_set_share},
    {.name = "console",
     .arg = "SPEC",
     .help = "first serial port: stdio (default), pty, unix:PATH, file:PATH,\nnone; at stdio Ctrl-a x quits, "
             "Ctrl-a h helps",
     .kind = OPTION_STRING,
     FIELD_AT(pc.console)},
    {.name = "virtio-console",
     .arg = "SPEC",
     .help = "a virtio console (hvc0) connected to SPEC",
     .kind = OPTION_STRING,
     FIELD_AT(pc.virtio_console)},
    {.name = "device",
     .arg = "NAME[,OPTIONS]",
     .help = "isa-debug-exit[,iobase=0xf4]: a write of V to the port ends\nwith status V * 2 + 1\n"
             "virtio-console[,chardev=SPEC]    virtio-rng (always there)",
     .kind = OPTION_CALL,
     .set = set_device},
    {.kind = OPTION_GROUP, .help = "Behaviour:"},
    {.name = "no-reboot",
     .help = "end with status 3 when the guest resets",
     .kind = OPTION_FLAG,
     FIELD_AT(pc.no_reboot)},
    {.name = "no-acpi", .help = "give the guest no ACPI tables", .kind = OPTION_FLAG, FIELD_AT(pc.no_acpi)},
    {.kind = OPTION_GROUP, .help = "Looking inside:"},
    {.name = "log",
     .arg = "FILE",
     .help = "messages and traces go to FILE instead of stderr",
     .kind = OPTION_STRING,
     FIELD_AT(log)},
    {.name = "log-level",
     .arg = "LEVEL",
     .help = "error, warn (default), info or debug",
     .kind = OPTION_CHOICE,
     .choices = "error|warn|info|debug",
     FIELD_AT(log_level)},
    {.name = "trace",
     .arg = "NAME[,NAME...]",
     .help = "trace what is listed below, or all",
     .kind = OPTION_STRING,
     FIELD_AT(trace)},
    {.name = "stats", .help = "print counters at the end", .kind = OPTION_FLAG, FIELD_AT(stats)},
    {.name = "dump-acpi",
     .arg = "DIR",
     .help = "write the ACPI tables to DIR and end",
     .kind = OPTION_STRING,
     FIELD_AT(dump_acpi)},
    {.name = "help", .help = "show this help", .kind = OPTION_FLAG, FIELD_AT(help)},
    OPTION_LIST_END,
};

void run_options_help(FILE *out)
{
    fputs("Usage: trapeze run [OPTIONS] [DISK...]\n\nBoots a virtual machine in the foreground.\n", out);
    options_help(run_list, out);
    fputs("\nTraces:\n", out);
#define X(name, help) fprintf(out, "  %-22s %s\n", #name, help);
    TRACE_CATEGORIES(X)
#undef X
    fputs("\nExit status: 0 the guest powered off (or Ctrl-a x), 1 an error, 3 the guest reset\n"
          "under --no-reboot, 4 the guest died of a triple fault.\n",
          out);
}

/* --- checks of what belongs together --- */

static bool is_stdio(const char *spec)
{
    return spec && !strcmp(spec, "stdio");
}

static int check(struct run_options *o, struct error *err)
{
    if (o->kernel && o->firmware)
        return error_set(err, EINVAL, "--kernel and --firmware exclude each other");
    if (!o->kernel && !o->firmware && !o->pc.disk_count)
        return error_set(err, EINVAL, "nothing to boot: give a DISK or --kernel FILE");
    if (!o->kernel && (o->initrd_count || o->append[0]))
        return error_set(err, EINVAL, "--%s needs --kernel", o->initrd_count ? "initrd" : "append");
    if (!o->kernel && !o->firmware)
        o->firmware = "bios";
    if (!o->firmware && o->boot)
        return error_set(err, EINVAL, "--boot is for firmware: leave --kernel out");
    if (!o->net_given)
        o->pc.net[o->pc.net_count++].options = (struct net_options){.kind = NET_USER, .fd = -1};
    if (!o->pc.console)
        o->pc.console = is_stdio(o->pc.virtio_console) ? "none" : "stdio";
    if (is_stdio(o->pc.console) && is_stdio(o->pc.virtio_console))
        return error_set(err, EINVAL, "--console and --virtio-console cannot both be stdio");
    int r = run_boot_order(o, err);
    if (r)
        return r;
    r = cloud_options_apply(&o->cloud, &o->pc, err);
    if (r)
        return r;
    r = engine_choose(&o->choice, o->engine, err);
    o->pc.engine = o->choice.ops;
    return r;
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct error *err)
{
    int disks, r;

    *o = (struct run_options){
        .pc = {.name = "trapeze", .cpu_model = "host", .cpus = 1, .memory = 512ull << 20},
        .engine = "auto",
        .append = "",
        .log_level = "warn",
    };
    r = options_parse(run_list, o, argc, argv, &disks, err);
    if (r || o->help)
        return r;
    for (int i = 0; i < disks && !r; i++)
        r = run_set_disk(o, argv[i], err);
    return r ? r : check(o, err);
}

void run_options_release(struct run_options *o)
{
    cloud_options_release(&o->cloud);
}
