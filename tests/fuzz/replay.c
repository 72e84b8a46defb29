/* replay.c - feeds every file of the given folders to a fuzz target: the corpus as an ordinary test. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

/* A copy of exactly the file's size, so that a sanitizer sees a read behind its end. */
static uint8_t *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    uint8_t *data = size < 0 ? NULL : malloc(size ? (size_t)size : 1);
    rewind(file);
    if (data && fread(data, 1, (size_t)size, file) != (size_t)size) {
        free(data);
        data = NULL;
    }
    fclose(file);
    *bytes = (size_t)size;
    return data;
}

/* Files replayed, or -1. */
static int replay_folder(const char *folder) {
    int n = 0;
    DIR *dir = opendir(folder);
    if (!dir) {
        fprintf(stderr, "%s: %s\n", folder, strerror(errno));
        return -1;
    }
    for (struct dirent *entry; n >= 0 && (entry = readdir(dir));) {
        char path[4096];
        size_t bytes;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        uint8_t *data = read_file(path, &bytes);
        if (data) {
            fprintf(stderr, "%s\n", path); /* before the run: a crash names its file */
            LLVMFuzzerTestOneInput(data, bytes);
            n++;
        } else {
            fprintf(stderr, "%s: cannot be read\n", path);
            n = -1;
        }
        free(data);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv) {
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int n = replay_folder(argv[i]);
        if (n < 0) return 1;
        total += n;
    }
    printf("replayed %d files\n", total);
    return total ? 0 : 1; /* an empty corpus tests nothing */
}
