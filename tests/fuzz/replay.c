/* Feeds each file of the named folders to a fuzz target: the kept corpus as a regression test. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/compiler.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    static u8 data[1 << 20];
    size_t size = fread(data, 1, sizeof data, f);
    (void)fclose(f);
    LLVMFuzzerTestOneInput(data, size);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir)
            continue;
        for (struct dirent *e; (e = readdir(dir));) {
            char path[4096];
            (void)snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            if (e->d_name[0] != '.' && replay_file(path) == 0)
                count++;
        }
        (void)closedir(dir);
    }
    LLVMFuzzerTestOneInput((const u8 *)"", 0);
    printf("%u inputs replayed\n", count);
    return 0;
}
