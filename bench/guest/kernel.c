/* What programs ask the kernel for. Where two processes take turns they share one processor. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "item.h"

static void must(bool ok, const char *what)
{
    if (!ok)
        bench_fail(what);
}

static uint64_t getppids(uint64_t count)
{
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        same += syscall(SYS_getppid) == parent;
    return same;
}

static uint64_t stats(uint64_t count)
{
    uint64_t sum = 0;
    struct stat s;

    bench_start();
    while (count--) {
        must(!stat("/dev/null", &s), "stat");
        sum += s.st_mode + s.st_rdev;
    }
    return sum;
}

static uint64_t open_close(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    while (count--) {
        int fd = open("/dev/null", O_RDONLY);

        must(fd >= 0, "open");
        sum += (uint64_t)fd;
        close(fd);
    }
    return sum ? 1 : 0;
}

/* --- two processes and a word that goes to and fro --- */

static void answer(int in, int out)
{
    uint64_t word;

    while (read(in, &word, sizeof(word)) == sizeof(word)) {
        word = word * 3 + 1;
        if (write(out, &word, sizeof(word)) != sizeof(word))
            break;
    }
    _exit(0);
}

static uint64_t ask(int in, int out, uint64_t count)
{
    uint64_t word = 1;

    bench_start();
    while (count--) {
        must(write(out, &word, sizeof(word)) == sizeof(word), "write");
        must(read(in, &word, sizeof(word)) == sizeof(word), "read");
        word++;
    }
    return word;
}

static uint64_t pipes(uint64_t count)
{
    int to[2], from[2];
    uint64_t sum;
    pid_t child;

    must(!pipe(to) && !pipe(from), "pipe");
    child = fork();
    must(child >= 0, "fork");
    if (!child) {
        close(to[1]);
        close(from[0]);
        answer(to[0], from[1]);
    }
    sum = ask(from[0], to[1], count);
    close(to[1]);
    waitpid(child, NULL, 0);
    return sum;
}

static uint64_t over_sockets(int mine, int theirs, uint64_t count)
{
    uint64_t sum;
    pid_t child = fork();

    must(child >= 0, "fork");
    if (!child) {
        close(mine);
        answer(theirs, theirs);
    }
    close(theirs);
    sum = ask(mine, mine, count);
    close(mine);
    waitpid(child, NULL, 0);
    return sum;
}

static uint64_t unix_socket(uint64_t count)
{
    int pair[2];

    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
    return over_sockets(pair[0], pair[1], count);
}

static uint64_t tcp_socket(uint64_t count)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), a = socket(AF_INET, SOCK_STREAM, 0), b, one = 1;

    must(listener >= 0 && a >= 0, "socket");
    must(!bind(listener, (struct sockaddr *)&address, size), "bind");
    must(!listen(listener, 1), "listen");
    must(!getsockname(listener, (struct sockaddr *)&address, &size), "getsockname");
    must(!connect(a, (struct sockaddr *)&address, size), "connect to the loopback interface");
    b = accept(listener, NULL, NULL);
    must(b >= 0, "accept");
    setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return over_sockets(a, b, count);
}

struct turns {
    uint32_t turn;
    uint64_t count, sum;
};

static void wait_for_turn(struct turns *t, uint32_t mine)
{
    uint32_t now;

    while ((now = __atomic_load_n(&t->turn, __ATOMIC_ACQUIRE)) != mine)
        syscall(SYS_futex, &t->turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
}

static void give_turn(struct turns *t, uint32_t to)
{
    __atomic_store_n(&t->turn, to, __ATOMIC_RELEASE);
    syscall(SYS_futex, &t->turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_partner(void *turns)
{
    struct turns *t = turns;

    for (uint64_t i = 0; i < t->count; i++) {
        wait_for_turn(t, 1);
        t->sum = t->sum * 3 + 1;
        give_turn(t, 0);
    }
    return NULL;
}

static uint64_t futexes(uint64_t count)
{
    struct turns t = {.count = count};
    pthread_t partner;

    bench_start();
    must(!pthread_create(&partner, NULL, futex_partner, &t), "pthread_create");
    for (uint64_t i = 0; i < count; i++) {
        give_turn(&t, 1);
        wait_for_turn(&t, 0);
        t.sum++;
    }
    pthread_join(partner, NULL);
    return t.sum;
}

/* --- processes and threads --- */

static uint64_t reap(pid_t child)
{
    int status;

    must(child >= 0, "fork");
    must(waitpid(child, &status, 0) == child, "waitpid");
    return (uint64_t)status;
}

static uint64_t forks(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();

        if (!child)
            _exit((int)(i & 127));
        sum += reap(child);
    }
    return sum;
}

static uint64_t execs(uint64_t count, const char *path, const char *arg)
{
    uint64_t sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();

        if (!child) {
            execl(path, path, arg, NULL);
            bench_fail("exec");
        }
        uint64_t status = reap(child);
        if (status) {
            printf("@fail exec: child %llu of %s ended with status 0x%llx\n", (unsigned long long)i, path,
                   (unsigned long long)status);
            fflush(stdout);
            _exit(1);
        }
        sum++;
    }
    return sum;
}

static uint64_t exec_static(uint64_t count)
{
    return execs(count, "/proc/self/exe", "nothing");
}

static uint64_t exec_dynamic(uint64_t count)
{
    return execs(count, "/bin/dynamic", NULL);
}

static void *thread_body(void *sum)
{
    ++*(uint64_t *)sum;
    return NULL;
}

static uint64_t threads(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    while (count--) {
        pthread_t thread;

        must(!pthread_create(&thread, NULL, thread_body, &sum), "pthread_create");
        pthread_join(thread, NULL);
    }
    return sum;
}

/* --- memory --- */

enum { PAGES = 1024 };

static void *map_pages(void)
{
    void *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    must(p != MAP_FAILED, "mmap");
    madvise(p, PAGES * 4096, MADV_NOHUGEPAGE);
    return p;
}

static uint64_t page_faults(uint64_t count)
{
    uint64_t sum = 0;

    bench_start();
    while (count--) {
        uint8_t *p = map_pages();

        for (size_t i = 0; i < PAGES; i++)
            p[i * 4096] = (uint8_t)i;
        sum += p[(count % PAGES) * 4096];
        munmap(p, PAGES * 4096);
    }
    return sum;
}

static uint64_t copy_on_write(uint64_t count)
{
    uint8_t *p = map_pages();
    uint64_t sum = 0;

    memset(p, 1, PAGES * 4096);
    bench_start();
    while (count--) {
        pid_t child = fork();

        if (!child) {
            uint8_t x = 0;

            for (size_t i = 0; i < PAGES; i++) {
                p[i * 4096] = (uint8_t)(i * 3);
                x += p[i * 4096 + 1] + p[i * 4096] / 2;
            }
            _exit(x & 127);
        }
        sum += reap(child);
    }
    return sum;
}

static uint64_t protect(uint64_t count)
{
    uint8_t *p = map_pages();
    uint64_t sum = 0;

    memset(p, 1, PAGES * 4096);
    bench_start();
    while (count--) {
        size_t at = count * 7 % (PAGES - 16) * 4096;

        must(!mprotect(p + at, 16 * 4096, PROT_READ), "mprotect");
        sum += p[at + count % 16 * 4096];
        must(!mprotect(p + at, 16 * 4096, PROT_READ | PROT_WRITE), "mprotect");
        p[at + count % 16 * 4096] += 1;
    }
    return sum;
}

/* --- files and signals --- */

static uint64_t tmpfs_file(uint64_t count)
{
    static char block[8192];
    uint64_t sum = 0, seed = 51;
    int fd;

    bench_start();
    while (count--) {
        fd = open("/tmp/bench-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
        must(fd >= 0, "open of /tmp/bench-file");
        for (int i = 0; i < 16; i++) {
            memset(block, (int)(bench_random(&seed) & 0xff), 64);
            must(write(fd, block, sizeof(block)) == sizeof(block), "write");
        }
        must(!lseek(fd, 0, SEEK_SET), "lseek");
        for (int i = 0; i < 16; i++) {
            must(read(fd, block, sizeof(block)) == sizeof(block), "read");
            sum = bench_mix(sum, (uint8_t)block[i]);
        }
        close(fd);
        unlink("/tmp/bench-file");
    }
    return sum;
}

static volatile uint64_t caught;
static uint8_t *guarded;

static void on_signal(int number)
{
    (void)number;
    caught++;
}

/* A garbage collector's write barrier: the fault opens the page. */
static void on_fault(int number)
{
    (void)number;
    caught += 3;
    mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
}

static uint64_t signals(uint64_t count)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = on_fault;
    sigaction(SIGSEGV, &action, NULL);
    guarded = map_pages();
    bench_start();
    while (count--) {
        raise(SIGUSR1);
        if (count % 4 == 0) {
            must(!mprotect(guarded, 4096, PROT_READ), "mprotect");
            *(volatile uint8_t *)guarded = (uint8_t)count;
        }
    }
    return caught;
}

const struct item kernel_items[] = {
    {.group = "kernel", .name = "getppid", .run = getppids, .count = 1500000},
    {.group = "kernel", .name = "stat", .run = stats, .count = 225000},
    {.group = "kernel", .name = "open-close", .run = open_close, .count = 80000},
    {.group = "kernel", .name = "pipe", .run = pipes, .count = 45000},
    {.group = "kernel", .name = "futex", .run = futexes, .count = 60000},
    {.group = "kernel", .name = "unix-socket", .run = unix_socket, .count = 15000},
    {.group = "kernel", .name = "tcp-socket", .run = tcp_socket, .count = 12000},
    {.group = "kernel", .name = "fork", .run = forks, .count = 2250},
    {.group = "kernel", .name = "exec-static", .run = exec_static, .count = 375},
    {.group = "kernel", .name = "exec-dynamic", .run = exec_dynamic, .count = 250},
    {.group = "kernel", .name = "thread", .run = threads, .count = 9000},
    {.group = "kernel", .name = "page-fault", .run = page_faults, .count = 120},
    {.group = "kernel", .name = "cow", .run = copy_on_write, .count = 100},
    {.group = "kernel", .name = "mprotect", .run = protect, .count = 30000},
    {.group = "kernel", .name = "tmpfs-file", .run = tmpfs_file, .count = 2250},
    {.group = "kernel", .name = "signals", .run = signals, .count = 50000},
    {0},
};
