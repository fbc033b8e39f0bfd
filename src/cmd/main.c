/* The trapeze command: finds the verb. Only cmd/ prints errors and decides exit statuses. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/commands.h"
#include "cmd/options.h"

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "boot a virtual machine in the foreground", cmd_run},
    {"image", "make, look at, check, convert and change disk images", cmd_image},
    {"doctor", "say what this host offers, and what to do about what it lacks", cmd_doctor},
    {"help", "show this help, or that of a command", cmd_help},
    {"version", "print the version", cmd_version},
};

int cmd_fail(const struct error *err)
{
    fprintf(stderr, "trapeze: %s\n", err->text);
    return STATUS_ERROR;
}

static int cmd_version(int argc, char **argv)
{
    printf("trapeze %s\n", TRAPEZE_VERSION);
    return STATUS_OK;
}

static void usage(FILE *out)
{
    fputs("Usage: trapeze COMMAND [ARGUMENTS]\n\nRuns x86-64 virtual machines on any x86-64 Linux host.\n\n"
          "Commands:\n",
          out);
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nBoot a Linux kernel with the console in this terminal (Ctrl-a x quits):\n"
          "  trapeze run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n\n"
          "'trapeze COMMAND --help' lists the options of a command. More in trapeze(1).\n",
          out);
}

static const struct command *find(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[ARRAY_SIZE(commands) + 1] = {NULL};
    const char *hint;
    struct error err;

    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        names[i] = commands[i].name;
    hint = options_nearest(name, names);
    if (hint)
        error_set(&err, EINVAL, "unknown command '%.60s'; did you mean '%s'?", name, hint);
    else
        error_set(&err, EINVAL, "unknown command '%.60s'; try 'trapeze --help'", name);
    return cmd_fail(&err);
}

static int cmd_help(int argc, char **argv)
{
    static char help[] = "--help";
    const struct command *c;
    char *args[3];

    if (argc < 2) {
        usage(stdout);
        return STATUS_OK;
    }
    c = find(argv[1]);
    if (!c)
        return unknown_command(argv[1]);
    if (c->run != cmd_run && c->run != cmd_image) {
        usage(stdout);
        return STATUS_OK;
    }
    args[0] = argv[1];
    args[1] = help;
    args[2] = NULL;
    return c->run(2, args);
}

/* A file of ours must not land on a standard stream that we were started without. */
static void fill_standard_streams(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    const struct command *c;

    fill_standard_streams();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write(2), not the end of a guest */
    if (argc < 2) {
        usage(stderr);
        return STATUS_ERROR;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return cmd_help(1, argv);
    if (!strcmp(argv[1], "--version"))
        return cmd_version(1, argv);
    c = find(argv[1]);
    return c ? c->run(argc - 1, argv + 1) : unknown_command(argv[1]);
}
