/* gguf_write.c - writes the container: keys and descriptions are collected, data are streamed. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "profiles/gguf.h"

enum {
    WRITE_VERSION = 3,
    BUFFER_BYTES = 4 << 20,     /* one write call moves so much */
    KEY_NAME_BYTES_MAX = 65535, /* limits of the specification */
    TENSOR_NAME_BYTES_MAX = 64
};

typedef struct text_buffer {
    uint8_t *data;
    uint64_t used, size;
} text_buffer;

typedef struct tensor_plan {
    const char *name; /* in the arena */
    gguf_type type;
    uint32_t dim_n;
    uint64_t dim[4];
    uint64_t bytes;
} tensor_plan;

struct gguf_writer {
    char *path, *temp_path;
    int fd;
    arena names;
    text_buffer keys; /* as they will stand in the file */
    const char **key_names;
    uint64_t key_n, key_size;
    tensor_plan *tensors;
    uint64_t tensor_n, tensor_size;
    uint64_t alignment;
    bool powerinfer; /* magic PWRI */
    bool header_done;
    uint64_t tensor_i;          /* the one whose data come next */
    uint64_t tensor_done_bytes; /* how much of them has come */
    text_buffer out;            /* not yet written */
    hotset_error failure;       /* the first one */
};

/* ---- Errors and memory ------------------------------------------------------------------------------ */

/* Keeps the first failure for all later calls. */
static hotset_status keep(gguf_writer *w, hotset_error *err) {
    if (err) *err = w->failure;
    return w->failure.status;
}

#define FAIL(w, err, status, ...) (hotset_fail(&(w)->failure, status, __VA_ARGS__), keep(w, err))

static hotset_status fail_io(gguf_writer *w, const char *what, hotset_error *err) {
    return FAIL(w, err, HOTSET_E_IO, "%s: cannot %s: %s", w->temp_path, what, strerror(errno));
}

static hotset_status fail_memory(gguf_writer *w, hotset_error *err) {
    return FAIL(w, err, HOTSET_E_MEMORY, "out of memory for the header of %s", w->path);
}

/* Makes room for one more item. */
static bool grow(void *array_pointer, uint64_t n, uint64_t *size, size_t item_bytes) {
    if (n < *size) return true;
    void *array;
    memcpy(&array, array_pointer, sizeof array);
    uint64_t new_size = max_u64(16, *size * 2);
    array = reallocarray(array, new_size, item_bytes);
    if (!array) return false;
    memcpy(array_pointer, &array, sizeof array);
    *size = new_size;
    return true;
}

static bool append(text_buffer *b, const void *data, uint64_t bytes) {
    uint64_t needed;
    if (!checked_add(b->used, bytes, &needed)) return false;
    if (needed > b->size) {
        uint64_t size = max_u64(needed, max_u64(4096, b->size * 2));
        uint8_t *grown = realloc(b->data, size);
        if (!grown) return false;
        b->data = grown;
        b->size = size;
    }
    if (bytes) memcpy(b->data + b->used, data, bytes);
    b->used = needed;
    return true;
}

static bool append_u32(text_buffer *b, uint32_t value) { return append(b, &value, sizeof value); }
static bool append_u64(text_buffer *b, uint64_t value) { return append(b, &value, sizeof value); }

static bool append_string(text_buffer *b, const char *text, uint64_t bytes) {
    return append_u64(b, bytes) && append(b, text, bytes);
}

/* ---- Opening ---------------------------------------------------------------------------------------- */

hotset_status gguf_writer_open(gguf_writer **out, const char *path, hotset_error *err) {
    *out = NULL;
    gguf_writer *w;
    HOTSET_TRY(base_calloc(&w, 1, sizeof *w, "a GGUF writer", err));
    w->fd = -1;
    w->alignment = GGUF_ALIGNMENT_DEFAULT;
    size_t path_bytes = strlen(path), temp_size = path_bytes + FILE_BESIDE_BYTES;
    w->path = arena_text(&w->names, path, path_bytes);
    w->temp_path = arena_alloc(&w->names, temp_size, 1);
    w->out.data = malloc(BUFFER_BYTES);
    w->out.size = BUFFER_BYTES;
    hotset_status status = HOTSET_OK;
    if (!w->path || !w->temp_path || !w->out.data)
        status = hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a GGUF writer");
    if (status == HOTSET_OK) {
        w->fd = file_create_beside(path, w->temp_path, temp_size);
        if (w->fd < 0)
            status = hotset_fail(err, HOTSET_E_IO, "%s: cannot create: %s", w->temp_path, strerror(errno));
    }
    if (status == HOTSET_OK)
        *out = w;
    else
        gguf_writer_free(w);
    return status;
}

void gguf_writer_free(gguf_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->temp_path);
    }
    arena_free(&w->names);
    free(w->keys.data);
    free(w->key_names);
    free(w->tensors);
    free(w->out.data);
    free(w);
}

void gguf_writer_set_powerinfer(gguf_writer *w) {
    assert(!w->header_done);
    w->powerinfer = true;
}

/* ---- Keys and descriptions -------------------------------------------------------------------------- */

static gguf_string text_string(const char *text) { return (gguf_string){text, strlen(text)}; }

/* The checks that every call of the header shares; *copy becomes a name that lives as long as the writer. */
static hotset_status begin_entry(gguf_writer *w, const char *noun, gguf_string name, uint64_t bytes_max,
                                 const char **copy, hotset_error *err) {
    int shown = gguf_shown_bytes(name);
    if (w->failure.status != HOTSET_OK) return keep(w, err);
    if (w->header_done)
        return FAIL(w, err, HOTSET_E_ARGUMENT, "%s '%.*s' comes after the first data", noun, shown,
                    name.data);
    if (name.bytes < 1 || name.bytes > bytes_max)
        return FAIL(w, err, HOTSET_E_ARGUMENT, "the name of %s '%.*s' has %llu bytes, not 1 to %llu", noun,
                    shown, name.data, (unsigned long long)name.bytes, (unsigned long long)bytes_max);
    *copy = arena_text(&w->names, name.data, name.bytes);
    return *copy ? HOTSET_OK : fail_memory(w, err);
}

static hotset_status begin_key(gguf_writer *w, gguf_string name, gguf_kind kind, hotset_error *err) {
    const char *copy;
    HOTSET_TRY(begin_entry(w, "key", name, KEY_NAME_BYTES_MAX, &copy, err));
    if (!grow(&w->key_names, w->key_n, &w->key_size, sizeof *w->key_names)) return fail_memory(w, err);
    w->key_names[w->key_n++] = copy;
    if (!append_string(&w->keys, name.data, name.bytes) || !append_u32(&w->keys, kind))
        return fail_memory(w, err);
    return HOTSET_OK;
}

static hotset_status put_plain(gguf_writer *w, gguf_string name, gguf_kind kind, const void *data,
                               uint64_t bytes, hotset_error *err) {
    HOTSET_TRY(begin_key(w, name, kind, err));
    if (!append(&w->keys, data, bytes)) return fail_memory(w, err);
    if (strcmp(w->key_names[w->key_n - 1], "general.alignment") != 0) return HOTSET_OK;
    /* the one key that says how the rest is written */
    uint32_t alignment = 0;
    if (kind == GGUF_KIND_U32) memcpy(&alignment, data, sizeof alignment);
    if (alignment < 1 || alignment > GGUF_ALIGNMENT_MAX)
        return FAIL(w, err, HOTSET_E_ARGUMENT, "key 'general.alignment' must be a u32 from 1 to %d",
                    GGUF_ALIGNMENT_MAX);
    w->alignment = alignment;
    return HOTSET_OK;
}

hotset_status gguf_put_u32(gguf_writer *w, const char *name, uint32_t value, hotset_error *err) {
    return put_plain(w, text_string(name), GGUF_KIND_U32, &value, sizeof value, err);
}

hotset_status gguf_put_i32(gguf_writer *w, const char *name, int32_t value, hotset_error *err) {
    return put_plain(w, text_string(name), GGUF_KIND_I32, &value, sizeof value, err);
}

hotset_status gguf_put_u64(gguf_writer *w, const char *name, uint64_t value, hotset_error *err) {
    return put_plain(w, text_string(name), GGUF_KIND_U64, &value, sizeof value, err);
}

hotset_status gguf_put_f32(gguf_writer *w, const char *name, float value, hotset_error *err) {
    return put_plain(w, text_string(name), GGUF_KIND_F32, &value, sizeof value, err);
}

hotset_status gguf_put_bool(gguf_writer *w, const char *name, bool value, hotset_error *err) {
    uint8_t byte = value;
    return put_plain(w, text_string(name), GGUF_KIND_BOOL, &byte, sizeof byte, err);
}

hotset_status gguf_put_string(gguf_writer *w, const char *name, const char *text, size_t bytes,
                              hotset_error *err) {
    HOTSET_TRY(begin_key(w, text_string(name), GGUF_KIND_STRING, err));
    return append_string(&w->keys, text, bytes) ? HOTSET_OK : fail_memory(w, err);
}

hotset_status gguf_put_array(gguf_writer *w, const char *name, gguf_kind kind, const void *items,
                             uint64_t item_n, hotset_error *err) {
    assert((unsigned)kind < GGUF_KIND_COUNT && kind != GGUF_KIND_ARRAY);
    uint64_t bytes;
    HOTSET_TRY(begin_key(w, text_string(name), GGUF_KIND_ARRAY, err));
    if (!append_u32(&w->keys, kind) || !append_u64(&w->keys, item_n)) return fail_memory(w, err);
    if (kind == GGUF_KIND_STRING) {
        const gguf_string *strings = items;
        for (uint64_t i = 0; i < item_n; i++)
            if (!append_string(&w->keys, strings[i].data, strings[i].bytes)) return fail_memory(w, err);
        return HOTSET_OK;
    }
    if (!checked_mul(item_n, gguf_kind_bytes(kind), &bytes) || !append(&w->keys, items, bytes))
        return fail_memory(w, err);
    return HOTSET_OK;
}

hotset_status gguf_put_key(gguf_writer *w, const gguf_key *key, hotset_error *err) {
    if (key->kind != GGUF_KIND_ARRAY)
        return put_plain(w, key->name, key->kind, key->data, key->data_bytes, err);
    HOTSET_TRY(begin_key(w, key->name, key->kind, err));
    if (!append_u32(&w->keys, key->item_kind) || !append_u64(&w->keys, key->item_n) ||
        !append(&w->keys, key->data, key->data_bytes))
        return fail_memory(w, err);
    return HOTSET_OK;
}

hotset_status gguf_put_tensor(gguf_writer *w, const char *name, gguf_type type, uint32_t dim_n,
                              const uint64_t *dim, hotset_error *err) {
    const gguf_type_info *info = gguf_type_get(type);
    tensor_plan t = {.type = type, .dim_n = dim_n};
    HOTSET_TRY(begin_entry(w, "tensor", text_string(name), TENSOR_NAME_BYTES_MAX, &t.name, err));
    if (!info)
        return FAIL(w, err, HOTSET_E_ARGUMENT, "tensor '%s' has unknown type %u", name, (unsigned)type);
    if (dim_n < 1 || dim_n > COUNT_OF(t.dim))
        return FAIL(w, err, HOTSET_E_ARGUMENT, "tensor '%s' has %u dimensions, not 1 to 4", name, dim_n);
    if (!dim[0] || dim[0] % info->block_n)
        return FAIL(w, err, HOTSET_E_ARGUMENT, "tensor '%s': rows of %llu elements are not %s blocks of %u",
                    name, (unsigned long long)dim[0], info->name, info->block_n);
    bool fits = checked_mul(dim[0] / info->block_n, info->block_bytes, &t.bytes);
    for (uint32_t d = 0; d < dim_n; d++) {
        t.dim[d] = dim[d];
        if (d > 0) fits = fits && dim[d] > 0 && checked_mul(t.bytes, dim[d], &t.bytes);
    }
    if (!fits || t.bytes > INT64_MAX / 2)
        return FAIL(w, err, HOTSET_E_ARGUMENT, "tensor '%s': a dimension is zero or its size overflows",
                    name);
    if (!grow(&w->tensors, w->tensor_n, &w->tensor_size, sizeof *w->tensors)) return fail_memory(w, err);
    w->tensors[w->tensor_n++] = t;
    return HOTSET_OK;
}

/* ---- Data ------------------------------------------------------------------------------------------- */

static hotset_status write_all(gguf_writer *w, const uint8_t *data, uint64_t bytes, hotset_error *err) {
    while (bytes) {
        ssize_t n = write(w->fd, data, min_u64(bytes, 1 << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_io(w, "write", err);
        data += n;
        bytes -= (uint64_t)n;
    }
    return HOTSET_OK;
}

static hotset_status flush(gguf_writer *w, hotset_error *err) {
    HOTSET_TRY(write_all(w, w->out.data, w->out.used, err));
    w->out.used = 0;
    return HOTSET_OK;
}

static hotset_status emit(gguf_writer *w, const void *data, uint64_t bytes, hotset_error *err) {
    if (bytes > w->out.size - w->out.used) HOTSET_TRY(flush(w, err));
    if (bytes >= w->out.size) return write_all(w, data, bytes, err);
    if (bytes) memcpy(w->out.data + w->out.used, data, bytes);
    w->out.used += bytes;
    return HOTSET_OK;
}

/* Zeros from a place in the file or data section to the next multiple of the alignment. */
static hotset_status emit_padding(gguf_writer *w, uint64_t at, hotset_error *err) {
    static const uint8_t zeros[4096];
    for (uint64_t left = round_up(at, w->alignment) - at; left;) {
        uint64_t n = min_u64(left, sizeof zeros);
        HOTSET_TRY(emit(w, zeros, n, err));
        left -= n;
    }
    return HOTSET_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts names and refuses equal ones: done once at the end of the header, so that each put stays cheap. */
static hotset_status refuse_equal(gguf_writer *w, const char *noun, const char **names, uint64_t n,
                                  hotset_error *err) {
    if (n) qsort(names, n, sizeof *names, by_text);
    for (uint64_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return FAIL(w, err, HOTSET_E_ARGUMENT, "%s '%.72s' was put twice", noun, names[i]);
    return HOTSET_OK;
}

static hotset_status check_names(gguf_writer *w, hotset_error *err) {
    HOTSET_TRY(refuse_equal(w, "key", w->key_names, w->key_n, err));
    const char **names = calloc(w->tensor_n + 1, sizeof *names);
    if (!names) return fail_memory(w, err);
    for (uint64_t i = 0; i < w->tensor_n; i++) names[i] = w->tensors[i].name;
    hotset_status status = refuse_equal(w, "tensor", names, w->tensor_n, err);
    free(names);
    return status;
}

static hotset_status end_header(gguf_writer *w, hotset_error *err) {
    w->header_done = true;
    HOTSET_TRY(check_names(w, err));
    text_buffer head = {0};
    bool ok = append(&head, w->powerinfer ? "PWRI" : "GGUF", 4) && append_u32(&head, WRITE_VERSION) &&
              append_u64(&head, w->tensor_n) && append_u64(&head, w->key_n) &&
              append(&head, w->keys.data, w->keys.used);
    uint64_t offset = 0, end = 0;
    for (uint64_t i = 0; i < w->tensor_n && ok; i++) {
        const tensor_plan *t = &w->tensors[i];
        ok = append_string(&head, t->name, strlen(t->name)) && append_u32(&head, t->dim_n) &&
             append(&head, t->dim, t->dim_n * sizeof t->dim[0]) && append_u32(&head, t->type) &&
             append_u64(&head, offset) && checked_add(offset, t->bytes, &end) && end < INT64_MAX / 2;
        offset = round_up(end, w->alignment);
    }
    hotset_status status = HOTSET_OK;
    if (!ok) status = fail_memory(w, err);
    if (status == HOTSET_OK) status = emit(w, head.data, head.used, err);
    if (status == HOTSET_OK) status = emit_padding(w, head.used, err);
    /* a disk too small is found now, not after hours; file systems that cannot reserve are none the worse */
    uint64_t file_bytes = round_up(head.used, w->alignment) + offset;
    if (status == HOTSET_OK && fallocate(w->fd, 0, 0, (off_t)file_bytes) && errno == ENOSPC)
        status = fail_io(w, "reserve its bytes", err);
    free(head.data);
    return status;
}

hotset_status gguf_put_data(gguf_writer *w, const void *data, uint64_t bytes, hotset_error *err) {
    const uint8_t *from = data;
    if (w->failure.status != HOTSET_OK) return keep(w, err);
    if (!w->header_done) HOTSET_TRY(end_header(w, err));
    while (bytes) {
        if (w->tensor_i == w->tensor_n)
            return FAIL(w, err, HOTSET_E_ARGUMENT, "%llu bytes of data come after the last tensor",
                        (unsigned long long)bytes);
        const tensor_plan *t = &w->tensors[w->tensor_i];
        uint64_t n = min_u64(bytes, t->bytes - w->tensor_done_bytes);
        HOTSET_TRY(emit(w, from, n, err));
        from += n;
        bytes -= n;
        w->tensor_done_bytes += n;
        if (w->tensor_done_bytes < t->bytes) continue;
        HOTSET_TRY(emit_padding(w, t->bytes, err));
        w->tensor_i++;
        w->tensor_done_bytes = 0;
    }
    return HOTSET_OK;
}

/* ---- Committing ------------------------------------------------------------------------------------- */

static hotset_status commit(gguf_writer *w, hotset_error *err) {
    HOTSET_TRY(gguf_put_data(w, NULL, 0, err));
    if (w->tensor_i < w->tensor_n) {
        const tensor_plan *t = &w->tensors[w->tensor_i];
        return FAIL(w, err, HOTSET_E_ARGUMENT, "tensor '%s' got %llu of its %llu bytes", t->name,
                    (unsigned long long)w->tensor_done_bytes, (unsigned long long)t->bytes);
    }
    HOTSET_TRY(flush(w, err));
    if (fsync(w->fd)) return fail_io(w, "sync", err);
    if (rename(w->temp_path, w->path)) return fail_io(w, "rename", err);
    close(w->fd);
    w->fd = -1; /* the file is no longer ours to remove */
    file_sync_folder(w->path);
    return HOTSET_OK;
}

hotset_status gguf_writer_commit(gguf_writer *w, hotset_error *err) {
    hotset_status status = commit(w, err);
    gguf_writer_free(w);
    return status;
}
