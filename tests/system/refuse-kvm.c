/*
 * Preloaded: a KVM that refuses. REFUSE_KVM says how: "api", an old interface; "cap", nothing of what came
 * with time; "vm", no VM; "vcpu", no vCPU; "run", a vCPU that does not run; "hang", one that never comes
 * back.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
    const char *how;
    unsigned long request;
    int result, code;
} refusals[] = {
    {"api", KVM_GET_API_VERSION, 11, 0}, {"cap", KVM_CHECK_EXTENSION, 0, 0},
    {"vm", KVM_CREATE_VM, -1, EBUSY},    {"vcpu", KVM_CREATE_VCPU, -1, ENOMEM},
    {"run", KVM_RUN, -1, EIO},
};

int ioctl(int fd, unsigned long request, ...)
{
    const char *how = getenv("REFUSE_KVM");
    va_list list;
    va_start(list, request);
    void *arg = va_arg(list, void *);
    va_end(list);
    for (unsigned i = 0; how && i < sizeof refusals / sizeof refusals[0]; i++)
        if (request == refusals[i].request && !strcmp(how, refusals[i].how)) {
            errno = refusals[i].code;
            return refusals[i].result;
        }
    while (how && request == KVM_RUN && !strcmp(how, "hang"))
        pause();
    return (int)syscall(SYS_ioctl, fd, request, arg);
}
