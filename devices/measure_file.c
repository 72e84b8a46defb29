/* measure_file.c - how fast a large file is read that the system does not hold in memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/measure.h"

enum { PIECE_BYTES = 4 << 20, PIECES_PER_SAMPLE = 8, SAMPLES_MAX = 32, PAGE_BYTES = 4096 };
#define TEMPORARY_BYTES ((uint64_t)256 << 20)
#define SAMPLE_BYTES    ((uint64_t)PIECE_BYTES * PIECES_PER_SAMPLE)

static hotset_status stop_asked(const measure_options *o, hotset_error *err) {
    if (!o->progress || !o->progress(o->cookie, 0, 1)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while measuring");
}

/* A file without a name, which is gone with its descriptor whatever happens. */
static int open_nameless(const char *folder) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
    char *name; /* some file systems cannot: there it has one for a moment */
    if (asprintf(&name, "%s/hotset-XXXXXX", folder) < 0) return -1;
    fd = mkostemp(name, O_CLOEXEC);
    int reason = errno;
    if (fd >= 0) unlink(name);
    free(name);
    errno = reason;
    return fd;
}

static hotset_status write_temporary(const char *folder, uint8_t *piece, const measure_options *o, int *fd,
                                     hotset_error *err) {
    *fd = open_nameless(folder);
    if (*fd < 0)
        return hotset_fail(err, HOTSET_E_IO, "%s: cannot create a temporary file: %s", folder,
                           strerror(errno));
    uint64_t random = 0x9e3779b97f4a7c15ULL; /* nothing that a file system could pack */
    for (uint64_t at = 0; at < TEMPORARY_BYTES; at += PIECE_BYTES) {
        HOTSET_TRY(stop_asked(o, err));
        for (size_t i = 0; i < PIECE_BYTES; i += 8) {
            random = random * 6364136223846793005ULL + 1442695040888963407ULL;
            memcpy(piece + i, &random, sizeof random);
        }
        for (size_t done = 0; done < PIECE_BYTES;) {
            ssize_t n = write(*fd, piece + done, PIECE_BYTES - done);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0)
                return hotset_fail(err, HOTSET_E_IO, "%s: cannot write a temporary file of %llu bytes: %s",
                                   folder, (unsigned long long)TEMPORARY_BYTES, strerror(errno));
            done += (size_t)n;
        }
    }
    if (fsync(*fd))
        return hotset_fail(err, HOTSET_E_IO, "%s: cannot sync a temporary file: %s", folder, strerror(errno));
    return HOTSET_OK;
}

/* Whether the system let go of what it held of the first `bytes`: file systems in memory cannot. */
static bool forget(int fd, uint64_t bytes) {
    if (posix_fadvise(fd, 0, (off_t)bytes, POSIX_FADV_DONTNEED)) return false;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return false;
    size_t page_n = (bytes + PAGE_BYTES - 1) / PAGE_BYTES, held_n = 0;
    unsigned char *held = malloc(page_n);
    bool known = held && !mincore(map, bytes, held);
    for (size_t i = 0; known && i < page_n; i++) held_n += held[i] & 1;
    free(held);
    munmap(map, bytes);
    return known && held_n < page_n / 50 + 1;
}

static hotset_status read_piece(int fd, const char *name, uint8_t *piece, uint64_t at, hotset_error *err) {
    for (size_t done = 0; done < PIECE_BYTES;) {
        ssize_t n = pread(fd, piece + done, PIECE_BYTES - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return hotset_fail(err, HOTSET_E_IO, "%s: cannot read: %s", name,
                               n < 0 ? strerror(errno) : "it became shorter");
        done += (size_t)n;
    }
    return HOTSET_OK;
}

static hotset_status read_in_order(int fd, const char *name, uint8_t *piece, uint64_t bytes,
                                   const measure_options *o, machine_rate *out, hotset_error *err) {
    double samples[SAMPLES_MAX];
    uint32_t sample_n = (uint32_t)(bytes / SAMPLE_BYTES);
    if (!sample_n || !forget(fd, bytes)) return HOTSET_OK;
    for (uint32_t s = 0; s < sample_n; s++) {
        double begin_s = base_now_s();
        HOTSET_TRY(stop_asked(o, err));
        for (uint32_t i = 0; i < PIECES_PER_SAMPLE; i++)
            HOTSET_TRY(read_piece(fd, name, piece, s * SAMPLE_BYTES + i * (uint64_t)PIECE_BYTES, err));
        samples[s] = (double)SAMPLE_BYTES / (base_now_s() - begin_s);
    }
    *out = machine_rate_of(samples, sample_n);
    return HOTSET_OK;
}

static hotset_status open_given(const char *file, int *fd, uint64_t *bytes, hotset_error *err) {
    struct stat info;
    *fd = open(file, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 || fstat(*fd, &info)) return hotset_fail(err, HOTSET_E_IO, "%s: %s", file, strerror(errno));
    if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size < SAMPLE_BYTES)
        return hotset_fail(err, HOTSET_E_IO, "%s: not a file of %llu bytes or more", file,
                           (unsigned long long)SAMPLE_BYTES);
    *bytes = min_u64((uint64_t)info.st_size / SAMPLE_BYTES, SAMPLES_MAX) * SAMPLE_BYTES;
    return HOTSET_OK;
}

/* For what reads the mapped file next: its pages are in memory now. */
static hotset_status map_read(int fd, const char *name, uint64_t bytes, file_map *mapped, hotset_error *err) {
    void *data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return hotset_fail(err, HOTSET_E_IO, "%s: cannot map: %s", name, strerror(errno));
    *mapped = (file_map){data, bytes};
    return HOTSET_OK;
}

hotset_status measure_file(const char *file, const char *folder, const measure_options *options,
                           machine_rate *out, file_map *mapped, hotset_error *err) {
    const char *name = file ? file : folder;
    uint64_t bytes = TEMPORARY_BYTES;
    uint8_t *piece;
    int fd = -1;
    *out = (machine_rate){0, 0};
    if (mapped) *mapped = (file_map){0};
    HOTSET_TRY(base_calloc(&piece, PIECE_BYTES, 1, "a piece of a file", err));
    hotset_status status =
        file ? open_given(file, &fd, &bytes, err) : write_temporary(folder, piece, options, &fd, err);
    if (!status) status = read_in_order(fd, name, piece, bytes, options, out, err);
    if (!status && mapped) status = map_read(fd, name, bytes, mapped, err);
    if (fd >= 0) close(fd);
    free(piece);
    return status;
}
