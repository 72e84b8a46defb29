/* base.c - errors, memory, file mappings. */
#include "engine/base.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HUGE_PAGE_BYTES = 2 << 20, ARENA_BLOCK_BYTES = 64 << 10, BESIDE_TRY_N = 100 };

#define TEXT_OF(x)  #x
#define VALUE_OF(x) TEXT_OF(x)

const char *hotset_version(void) {
    return VALUE_OF(HOTSET_VERSION_MAJOR) "." VALUE_OF(HOTSET_VERSION_MINOR) "." VALUE_OF(
        HOTSET_VERSION_PATCH);
}

const char *hotset_status_text(hotset_status status) {
    switch (status) {
#define STATUS_CASE(name, value, text)                                                                       \
    case HOTSET_##name: return text;
        HOTSET_STATUS_MAP(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

static void error_fill(hotset_error *err, hotset_status status, uint64_t offset_bytes, const char *format,
                       va_list args) {
    if (!err) return;
    err->status = status;
    err->offset_bytes = offset_bytes;
    vsnprintf(err->message, sizeof err->message, format, args);
    for (char *c = err->message; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
}

hotset_status hotset_fail(hotset_error *err, hotset_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    error_fill(err, status, 0, format, args);
    va_end(args);
    return status;
}

hotset_status hotset_fail_at(hotset_error *err, hotset_status status, uint64_t offset_bytes,
                             const char *format, ...) {
    va_list args;
    va_start(args, format);
    error_fill(err, status, offset_bytes, format, args);
    va_end(args);
    return status;
}

hotset_status base_calloc(void *out_pointer, uint64_t n, uint64_t item_bytes, const char *what,
                          hotset_error *err) {
    uint64_t bytes;
    void *p = NULL;
    if (checked_mul(n, item_bytes, &bytes) && bytes <= SIZE_MAX) p = calloc(1, bytes ? (size_t)bytes : 1);
    memcpy(out_pointer, &p, sizeof p);
    if (p) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for %s (%llu x %llu bytes)", what,
                       (unsigned long long)n, (unsigned long long)item_bytes);
}

struct arena_block {
    struct arena_block *next;
    uint64_t used, size;
    _Alignas(16) uint8_t data[];
};

void *arena_alloc(arena *a, uint64_t n, uint64_t item_bytes) {
    uint64_t bytes;
    if (!checked_mul(n, item_bytes, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    bytes = round_up(bytes ? bytes : 1, 16);
    struct arena_block *block = a->head;
    if (!block || block->size - block->used < bytes) {
        uint64_t size = max_u64(bytes, ARENA_BLOCK_BYTES);
        block = calloc(1, sizeof *block + (size_t)size);
        if (!block) return NULL;
        block->size = size;
        block->next = a->head;
        a->head = block;
    }
    void *p = block->data + block->used;
    block->used += bytes;
    return p;
}

char *arena_text(arena *a, const char *text, size_t bytes) {
    char *copy = arena_alloc(a, (uint64_t)bytes + 1, 1);
    if (copy && bytes) memcpy(copy, text, bytes);
    return copy;
}

void arena_free(arena *a) {
    while (a->head) {
        struct arena_block *next = a->head->next;
        free(a->head);
        a->head = next;
    }
}

hotset_status file_map_open(file_map *out, const char *path, hotset_error *err) {
    int fd;
    HOTSET_TRY(file_map_open_kept(out, &fd, path, err));
    close(fd);
    return HOTSET_OK;
}

hotset_status file_map_open_kept(file_map *out, int *kept, const char *path, hotset_error *err) {
    *out = (file_map){0};
    *kept = -1;
    hotset_status status = HOTSET_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return hotset_fail(err, HOTSET_E_IO, "%s: %s", path, strerror(errno));
    struct stat info;
    if (fstat(fd, &info)) {
        status = hotset_fail(err, HOTSET_E_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = hotset_fail(err, HOTSET_E_IO, "%s: not a regular file", path);
    } else if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
            status = hotset_fail(err, HOTSET_E_IO, "%s: cannot map: %s", path, strerror(errno));
        else
            *out = (file_map){data, (uint64_t)info.st_size};
    }
    if (status)
        close(fd);
    else
        *kept = fd;
    return status;
}

void file_map_close(file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, (size_t)map->bytes);
    *map = (file_map){0};
}

void file_map_release(const file_map *map, uint64_t offset, uint64_t bytes) {
    assert(offset <= map->bytes && bytes <= map->bytes - offset);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t from = round_up(offset, page), to = (offset + bytes) / page * page;
    if (to > from) madvise((void *)(uintptr_t)(map->data + from), (size_t)(to - from), MADV_DONTNEED);
}

int file_create_beside(const char *path, char *beside, size_t beside_bytes) {
    for (int i = 0; i < BESIDE_TRY_N; i++) {
        snprintf(beside, beside_bytes, "%s.part-%ld-%d", path, (long)getpid(), i);
        int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

void file_sync_folder(const char *path) {
    char *folder = strdup(path);
    if (!folder) return;
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

static bool write_all(int fd, const uint8_t *data, size_t bytes) {
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

hotset_status file_put(const char *path, const void *data, size_t bytes, hotset_error *err) {
    size_t beside_bytes = strlen(path) + FILE_BESIDE_BYTES;
    char *beside;
    HOTSET_TRY(base_calloc(&beside, beside_bytes, 1, "the name of a file", err));
    int fd = file_create_beside(path, beside, beside_bytes);
    bool ok = fd >= 0 && write_all(fd, data, bytes) && !fsync(fd) && !rename(beside, path);
    int reason = errno;
    if (fd >= 0) close(fd);
    if (ok)
        file_sync_folder(path);
    else if (fd >= 0)
        unlink(beside);
    free(beside);
    return ok ? HOTSET_OK : hotset_fail(err, HOTSET_E_IO, "%s: cannot write: %s", path, strerror(reason));
}

void *pages_alloc(uint64_t bytes) {
    /* mmap aligns to 4 KiB: ask for one huge page more and give the ends back */
    uint64_t size = round_up(bytes ? bytes : 1, HUGE_PAGE_BYTES), padded;
    if (bytes > SIZE_MAX / 2 || !checked_add(size, HUGE_PAGE_BYTES, &padded)) return NULL;
    uint8_t *p = mmap(NULL, (size_t)padded, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    uint64_t lead = round_up((uintptr_t)p, HUGE_PAGE_BYTES) - (uintptr_t)p;
    if (lead) munmap(p, (size_t)lead);
    if (padded - lead > size) munmap(p + lead + size, (size_t)(padded - lead - size));
    madvise(p + lead, (size_t)size, MADV_HUGEPAGE);
    return p + lead;
}

void pages_free(void *pages, uint64_t bytes) {
    if (pages) munmap(pages, (size_t)round_up(bytes ? bytes : 1, HUGE_PAGE_BYTES));
}

double base_now_s(void) { return 1e-9 * (double)base_now_ns(); }

uint64_t base_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
