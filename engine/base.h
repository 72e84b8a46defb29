/* base.h - the vocabulary that every layer may include: errors, checked arithmetic, memory, file mappings. */
#ifndef HOTSET_BASE_H
#define HOTSET_BASE_H

#include "engine/hotset.h"

/* Forwards a failure to the caller. */
#define HOTSET_TRY(call)                                                                                     \
    do {                                                                                                     \
        hotset_status try_status_ = (call);                                                                  \
        if (try_status_ != HOTSET_OK) return try_status_;                                                    \
    } while (0)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Fill *err (if not NULL) and return `status`: the only ways to make an error. A newline or control character
 * in the formatted text is replaced by '?', so that a message stays one line whatever a file puts into a
 * name. */
hotset_status hotset_fail(hotset_error *err, hotset_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
hotset_status hotset_fail_at(hotset_error *err, hotset_status status, uint64_t offset_bytes,
                             const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Overflow-checked arithmetic: true and *out set when the exact result fits. */
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
/* Rounds up to a multiple of `unit` (> 0, need not be a power of two); the caller has bounded `value`. */
static inline uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }
static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Zeroed memory for n objects; overflow and exhaustion give E_MEMORY with `what` in the message. Free with
 * free(). */
HOTSET_CHECKED hotset_status base_calloc(void *out_pointer, uint64_t n, uint64_t item_bytes, const char *what,
                                         hotset_error *err);

/* An arena: objects of one lifetime, freed together. Blocks grow; pointers stay valid. */
typedef struct arena {
    struct arena_block *head;
} arena;
/* Zeroed, aligned to 16 bytes. NULL when out of memory. */
void *arena_alloc(arena *a, uint64_t n, uint64_t item_bytes);
/* Copies `bytes` of text and ends them with NUL. */
char *arena_text(arena *a, const char *text, size_t bytes);
void arena_free(arena *a);

/* A file mapped read-only. `data` is NULL for an empty file. */
typedef struct file_map {
    const uint8_t *data;
    uint64_t bytes;
} file_map;
HOTSET_CHECKED hotset_status file_map_open(file_map *out, const char *path, hotset_error *err);
/* The same, and the descriptor stays open: close it after the mapping. -1 on failure. */
HOTSET_CHECKED hotset_status file_map_open_kept(file_map *out, int *fd, const char *path, hotset_error *err);
void file_map_close(file_map *map);
/* Tells the system that [offset, offset + bytes) will not be read again soon: its pages may go. */
void file_map_release(const file_map *map, uint64_t offset, uint64_t bytes);

/* Creates a new file beside `path`, so that renaming it to `path` stays on one file system; its mode is what
 * the user's mask makes of an ordinary new file. `beside` receives its path and has room for the one of
 * `path` and FILE_BESIDE_BYTES. Returns a descriptor for writing, or -1 with errno. */
enum { FILE_BESIDE_BYTES = 48 };
int file_create_beside(const char *path, char *beside, size_t beside_bytes);
/* Makes a rename to `path` itself last; some file systems cannot sync a folder, which is no reason to fail.
 */
void file_sync_folder(const char *path);
/* Writes a whole small file by these two: a reader never sees half of it, and a failure leaves what was there
 * before. Errors, which begin with the path: E_IO, E_MEMORY. */
HOTSET_CHECKED hotset_status file_put(const char *path, const void *data, size_t bytes, hotset_error *err);

/* Anonymous memory on 2 MiB boundaries, with huge pages where the system gives them; untouched (no page is
 * resident yet). NULL when out of memory. */
void *pages_alloc(uint64_t bytes);
void pages_free(void *pages, uint64_t bytes);

/* Of the monotonic clock. */
double base_now_s(void);
uint64_t base_now_ns(void);

#endif
