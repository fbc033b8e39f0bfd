/* Runs one item and reports it, or serves as the agent that the harness talks to.
 *
 *   items list               a line for each item: group and name
 *   items run NAME PERCENT   set up, "@start NAME", work, "@end NAME CHECKSUM NANOSECONDS CPU"
 *   items agent              takes lines "NAME PERCENT" from standard input until "quit"; each item is a
 *                            process of its own, so that none inherits the heap or the page tables of another
 *
 * The nanoseconds are those of the guest's clock. The harness goes by the host's, which it reads when it sees
 * the two lines, and checks that both agree. CPU are the nanoseconds of processor time, of use natively.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "item.h"

#define SUFFIX_32 "-32"

/* Compiled as 32-bit code this has some of the same items, as a group of their own. */
#ifdef __x86_64__
static const struct item *const groups[] = {
    integer_items, branch_items, float_items,   memory_items,
    modify_items,  kernel_items, program_items, parallel_items,
};
#define GROUP(i) ((i)->group)
#define SUFFIX ""
#else
static const struct item *const groups[] = {integer_items, branch_items, float_items};
#define GROUP(i) "32-bit"
#define SUFFIX SUFFIX_32
#endif

static const struct item *current;
static uint64_t started, cpu_started;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t of_timeval(struct timeval t)
{
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_usec * 1000;
}

/* What this process and its children that have ended took of a processor. */
static uint64_t cpu_now(void)
{
    struct rusage self, children;

    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    return of_timeval(self.ru_utime) + of_timeval(self.ru_stime) + of_timeval(children.ru_utime) +
           of_timeval(children.ru_stime);
}

void bench_fail(const char *what)
{
    printf("@fail %s %s: %s\n", current ? current->name : "agent", what, strerror(errno));
    fflush(stdout);
    _exit(1);
}

void *bench_memory(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED)
        bench_fail("mmap");
    return p;
}

void bench_start(void)
{
    printf("@start %s\n", current->name);
    fflush(stdout);
    started = now();
    cpu_started = cpu_now();
}

static const struct item *find(const char *name)
{
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
        for (const struct item *i = groups[g]; i->name; i++)
            if (!strncmp(i->name, name, strlen(i->name)) && !strcmp(name + strlen(i->name), SUFFIX))
                return i;
    return NULL;
}

static int list(void)
{
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
        for (const struct item *i = groups[g]; i->name; i++)
            printf("%s %s" SUFFIX "\n", GROUP(i), i->name);
    return 0;
}

/* Items of several processes compare only on one processor, as a guest of one vCPU has no other. */
static void stay_on_this_processor(void)
{
    cpu_set_t one;
    int here = sched_getcpu();

    CPU_ZERO(&one);
    CPU_SET(here < 0 ? 0 : here, &one);
    sched_setaffinity(0, sizeof(one), &one);
}

static int run(const char *name, const char *percent)
{
    uint64_t count, sum, end, cpu;

    current = find(name);
    if (!current) {
        printf("@fail %s no such item\n", name);
        return 1;
    }
    if (current->possible && !current->possible()) {
        printf("@skip %s this processor cannot\n", name);
        return 0;
    }
    count = current->count * strtoull(percent, NULL, 10) / 100;
    if (!count)
        count = 1;
    if (strcmp(current->group, "parallel"))
        stay_on_this_processor();
    sum = current->script ? program_run(current, count) : current->run(count);
    end = now();
    cpu = cpu_now();
    printf("@end %s %016" PRIx64 " %" PRIu64 " %" PRIu64 "\n", name, sum, end - started, cpu - cpu_started);
    return 0;
}

/* The program that has the item. */
static const char *program_of(const char *name)
{
    size_t length = strlen(name), suffix = strlen(SUFFIX_32);

    return length > suffix && !strcmp(name + length - suffix, SUFFIX_32) ? "/bench/items32"
                                                                         : "/proc/self/exe";
}

static void run_apart(const char *name, const char *percent)
{
    const char *program = program_of(name);
    pid_t child;
    int status;

    fflush(stdout);
    child = fork();
    if (child < 0)
        bench_fail("fork");
    if (child == 0) {
        execl(program, "items", "run", name, percent, NULL);
        bench_fail(program);
    }
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            bench_fail("waitpid");
    if (WIFSIGNALED(status))
        printf("@fail %s killed by signal %d\n", name, WTERMSIG(status));
}

static int agent(void)
{
    char line[256], name[128], percent[32];

    printf("@ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "%127s %31s", name, percent) != 2)
            break;
        run_apart(name, percent);
        printf("@done\n");
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "list"))
        return list();
    if (argc == 4 && !strcmp(argv[1], "run"))
        return run(argv[2], argv[3]);
    if (argc == 2 && !strcmp(argv[1], "agent"))
        return agent();
    if (argc == 2 && !strcmp(argv[1], "nothing")) /* what the items of exec execute */
        return 0;
    fprintf(stderr, "usage: items list | run NAME PERCENT | agent\n");
    return 1;
}
