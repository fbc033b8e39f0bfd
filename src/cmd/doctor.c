/* "trapeze doctor": what this host offers, and what to do about what it lacks. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "cmd/commands.h"
#include "machine/engines.h"
#include "x86/cpuid.h"

/* One line a finding, and what to do in the next when there is something. */
static void report(bool good, const char *what, const char *found, const char *advice)
{
    printf("%-4s %-18s %s\n", good ? "ok" : "--", what, found);
    if (!good && advice)
        printf("     %-18s -> %s\n", "", advice);
}

/* The first line of @path without its newline; false when it cannot be read. */
static bool read_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool good = fgets(line, (int)size, f) != NULL;
    fclose(f);
    line[good ? strcspn(line, "\n") : 0] = 0;
    return good;
}

static void check_kernel(void)
{
    struct utsname u;
    char text[160];
    if (uname(&u) < 0)
        return;
    snprintf(text, sizeof text, "%.60s %.60s", u.sysname, u.release);
    report(true, "kernel", text, NULL);
}

static bool level_offered(const char *model)
{
    struct cpuid_table *t = malloc(sizeof *t);
    bool good = t && cpuid_build(t, model, 1, clock_tsc_khz(), NULL) == 0;
    free(t);
    return good;
}

static void check_cpu(void)
{
    u32 brand[13] = {0};
    char text[128];
    const char *level = level_offered("x86-64-v3")   ? "x86-64-v3"
                        : level_offered("x86-64-v2") ? "x86-64-v2"
                                                     : "x86-64";
    for (unsigned i = 0; i < 3; i++)
        (void)__get_cpuid(0x80000002 + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2],
                          &brand[4 * i + 3]);
    snprintf(text, sizeof text, "%.48s, %s, TSC %u MHz", (const char *)brand, level, clock_tsc_khz() / 1000);
    report(strcmp(level, "x86-64") != 0, "CPU", text,
           "guests that need SSE4.2 or more will not run: no engine offers what the CPU lacks");
}

/* Some that programs look for. What a guest is shown is what the host's processor has. */
static void check_cpu_features(void)
{
    static const struct {
        enum cpuid_feature feature;
        const char *name;
    } list[] = {
        {CPUID_AES, "aes"},       {CPUID_AVX2, "avx2"}, {CPUID_AVX512F, "avx512f"}, {CPUID_BMI2, "bmi2"},
        {CPUID_RDRAND, "rdrand"}, {CPUID_SHA, "sha"},   {CPUID_XSAVE, "xsave"},
    };
    struct cpuid_table *t = malloc(sizeof *t);
    char found[128] = "", lacks[128] = "", advice[256];
    bool built = t && cpuid_build(t, "host", 1, clock_tsc_khz(), NULL) == 0;
    for (unsigned i = 0; built && i < ARRAY_SIZE(list); i++) {
        char *to = cpuid_has(t, list[i].feature) ? found : lacks;
        size_t used = strlen(to);
        snprintf(to + used, sizeof found - used, "%s%s", used ? " " : "", list[i].name);
    }
    free(t);
    snprintf(advice, sizeof advice, "guests are not shown %s: no engine offers what the CPU lacks", lacks);
    report(built && !lacks[0], "CPU features", found[0] ? found : "none that is looked for", advice);
}

static void check_kvm(void)
{
    struct kvm_verdict v;
    char text[320];
    engine_kvm_verdict(&v);
    switch (v.kind) {
    case KVM_KIND_NONE:
    case KVM_KIND_BROKEN:
        report(false, "KVM", v.text, "not needed: software engines run every guest");
        return;
    case KVM_KIND_SLOW:
        snprintf(text, sizeof text, "emulates, at %u million instructions a second", v.mips);
        report(false, "KVM", text,
               "'auto' uses a software engine; a host with nested virtualization would be faster");
        return;
    case KVM_KIND_HARDWARE:
        snprintf(text, sizeof text, "runs on the hardware, at %u million instructions a second or more",
                 v.mips);
        report(true, "KVM", text, NULL);
    }
}

/* Whether CPUID of a process can be made to trap: its bit is in MSR_PLATFORM_INFO, and so in cpuinfo. */
static void check_cpuid_faulting(void)
{
    enum { ARCH_GET_CPUID_NOW = 0x1011, ARCH_SET_CPUID_NOW = 0x1012 };
    bool on = syscall(SYS_arch_prctl, ARCH_GET_CPUID_NOW, 0) == 1;
    bool good = on && syscall(SYS_arch_prctl, ARCH_SET_CPUID_NOW, 1) == 0;
    report(good, "CPUID faulting", good ? "yes" : "no",
           "nothing to do: only some CPUs have it, and no engine needs it");
}

/* Code and tables are memory of the process; a guest's RAM is a file in memory, which has a setting of its
 * own. */
static void check_huge_pages(void)
{
    char line[128] = "not built into the kernel", ram[128] = "not built into the kernel";
    bool good = read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line) &&
                !strstr(line, "[never]");
    report(good, "huge pages", line, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    good = read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", ram, sizeof ram) &&
           !strstr(ram, "[never]") && !strstr(ram, "[deny]");
    report(good, "huge pages of RAM", ram, "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
}

/* A bad argument is refused by a kernel that has the call: EFAULT or EINVAL. */
static void check_io_uring(void)
{
    long r = syscall(SYS_io_uring_setup, 0, NULL);
    bool good = r < 0 && errno != ENOSYS && errno != EPERM;
    report(good, "io_uring",
           good             ? "yes"
           : errno == EPERM ? "forbidden"
                            : "not in this kernel",
           errno == EPERM ? "sysctl kernel.io_uring_disabled=0; without it disks use threads"
                          : "disks use threads instead");
}

static void check_user_namespaces(void)
{
    char line[32] = "0", allowed[32] = "1", restricted[32] = "0";
    read_line("/proc/sys/user/max_user_namespaces", line, sizeof line);
    read_line("/proc/sys/kernel/unprivileged_userns_clone", allowed, sizeof allowed);
    read_line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", restricted, sizeof restricted);
    bool good = strcmp(line, "0") != 0 && strcmp(allowed, "0") != 0 && strcmp(restricted, "0") == 0;
    report(good, "user namespaces", good ? "yes" : "forbidden",
           "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 "
           "kernel.apparmor_restrict_unprivileged_userns=0");
}

static void check_seccomp(void)
{
    bool good = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) < 0 && errno == EFAULT;
    report(good, "seccomp filters", good ? "yes" : "not in this kernel",
           "a kernel with CONFIG_SECCOMP_FILTER");
}

static void check_tap(void)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    int code = errno;
    report(fd >= 0, "tap", fd >= 0 ? "yes" : strerror(code),
           code == ENOENT ? "modprobe tun" : "run as a user who may open /dev/net/tun");
    if (fd >= 0)
        close(fd);
}

int cmd_doctor(int argc, char **argv)
{
    if (argc > 1) {
        bool help = !strcmp(argv[1], "--help");
        fputs("Usage: trapeze doctor\n\nSays what this host offers to virtual machines, and what to do about "
              "what it lacks.\n",
              help ? stdout : stderr);
        return help ? STATUS_OK : STATUS_ERROR;
    }
    check_kernel();
    check_cpu();
    check_cpu_features();
    check_kvm();
    check_cpuid_faulting();
    check_huge_pages();
    check_io_uring();
    check_user_namespaces();
    check_seccomp();
    check_tap();
    return STATUS_OK;
}
