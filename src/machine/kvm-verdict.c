/*
 * The cached verdict about KVM. It lies in $XDG_RUNTIME_DIR, for root in /run, else in /tmp/trapeze-UID,
 * which are all the user's own or root's; a directory or file of somebody else is not believed. A cache
 * that cannot be used only costs time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/engines.h"

#define FORMAT "trapeze kvm 1 %u %u\n" /* kind, mips */

/* "trapeze-kvm-BOOT_ID"; false when the boot has no name. */
static bool cache_name(char *name, size_t size)
{
    char id[40] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f)
        return false;
    bool good = fgets(id, sizeof id, f) != NULL;
    fclose(f);
    id[strcspn(id, "\n")] = 0;
    if (!good || !id[0] || strchr(id, '/'))
        return false;
    snprintf(name, size, "trapeze-kvm-%s", id);
    return true;
}

/* Opens @path when nobody else can write to it. */
static int open_own_dir(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 022))
        return fd;
    close(fd);
    return -1;
}

static int open_cache_dir(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char own[40];
    int fd = runtime && runtime[0] == '/' ? open_own_dir(runtime) : -1;
    if (fd < 0 && geteuid() == 0)
        fd = open_own_dir("/run");
    if (fd >= 0)
        return fd;
    snprintf(own, sizeof own, "/tmp/trapeze-%u", (unsigned)geteuid());
    if (mkdir(own, 0700) < 0 && errno != EEXIST)
        return -1;
    return open_own_dir(own);
}

static bool load(int dir, const char *name, struct kvm_verdict *v)
{
    CLEANUP_CLOSE int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    char text[64] = "", again[64];
    struct stat st;
    unsigned kind, mips;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
        return false;
    if (read(fd, text, sizeof text - 1) <= 0 || sscanf(text, FORMAT, &kind, &mips) != 2)
        return false;
    snprintf(again, sizeof again, FORMAT, kind, mips);
    if (strcmp(text, again) != 0 || kind < KVM_KIND_BROKEN || kind > KVM_KIND_HARDWARE)
        return false;
    *v = (struct kvm_verdict){.kind = (enum kvm_kind)kind, .mips = mips};
    if (kind == KVM_KIND_BROKEN)
        snprintf(v->text, sizeof v->text, "KVM here did not run a small guest");
    return true;
}

/* Under another name first: a reader finds all of it or nothing. */
static void store(int dir, const char *name, const struct kvm_verdict *v)
{
    char text[64], draft[80];
    int len = snprintf(text, sizeof text, FORMAT, (unsigned)v->kind, v->mips);
    snprintf(draft, sizeof draft, "%s.%d", name, (int)getpid());
    int fd = openat(dir, draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    bool good = write(fd, text, (size_t)len) == len;
    good = close(fd) == 0 && good;
    if (!good || renameat(dir, draft, dir, name) < 0)
        unlinkat(dir, draft, 0);
}

void engine_kvm_verdict(struct kvm_verdict *v)
{
    char name[64];
    if (!kvm_available(v))
        return;
    CLEANUP_CLOSE int dir = cache_name(name, sizeof name) ? open_cache_dir() : -1;
    if (dir >= 0 && load(dir, name, v))
        return;
    kvm_probe(v);
    if (dir >= 0 && v->kind != KVM_KIND_NONE)
        store(dir, name, v);
}
