/* gguf_bytes.c - GGUF files made byte by byte, and folders to put them in, for the tests. */
#include "tests/gguf_bytes.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Bytes ------------------------------------------------------------------------------------------ */

void put_bytes(blob *b, const void *data, uint64_t bytes) {
    cr_assert_leq(bytes, sizeof b->data - b->bytes);
    if (bytes) memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
}

void put_u32(blob *b, uint32_t value) { put_bytes(b, &value, sizeof value); }
void put_u64(blob *b, uint64_t value) { put_bytes(b, &value, sizeof value); }

void put_string(blob *b, const char *text) {
    put_u64(b, strlen(text));
    put_bytes(b, text, strlen(text));
}

void put_header(blob *b, const char *magic, uint32_t version, uint64_t tensor_n, uint64_t key_n) {
    put_bytes(b, magic, 4);
    put_u32(b, version);
    put_u64(b, tensor_n);
    put_u64(b, key_n);
}

void put_key_head(blob *b, const char *name, gguf_kind kind) {
    put_string(b, name);
    put_u32(b, kind);
}

void put_key(blob *b, const char *name, gguf_kind kind, const void *value, uint64_t bytes) {
    put_key_head(b, name, kind);
    put_bytes(b, value, bytes);
}

void put_key_u32(blob *b, const char *name, uint32_t value) {
    put_key(b, name, GGUF_KIND_U32, &value, sizeof value);
}

void put_key_string(blob *b, const char *name, const char *text) {
    put_key_head(b, name, GGUF_KIND_STRING);
    put_string(b, text);
}

void put_tensor(blob *b, const char *name, uint32_t type, uint32_t dim_n, const uint64_t *dim,
                uint64_t offset) {
    put_string(b, name);
    put_u32(b, dim_n);
    put_bytes(b, dim, dim_n * sizeof *dim);
    put_u32(b, type);
    put_u64(b, offset);
}

void put_padding(blob *b, uint64_t alignment) {
    while (b->bytes % alignment) put_bytes(b, "", 1);
}

/* ---- Opening ---------------------------------------------------------------------------------------- */

gguf *open_blob(const blob *b) {
    gguf *g;
    hotset_error err = {0};
    cr_assert_eq(gguf_open_memory(&g, b->data, b->bytes, &err), HOTSET_OK, "%s", err.message);
    return g;
}

gguf *open_file(const char *path) {
    gguf *g;
    hotset_error err = {0};
    cr_assert_eq(gguf_open(&g, path, &err), HOTSET_OK, "%s", err.message);
    return g;
}

void refuse_file(const char *path, hotset_status status, const char *text) {
    gguf *g;
    hotset_error err = {0};
    cr_expect_eq(gguf_open(&g, path, &err), status, "%s: %s", path, err.message);
    cr_expect_null(g);
    cr_expect(strstr(err.message, text), "'%s' does not contain '%s'", err.message, text);
}

/* ---- Folders ---------------------------------------------------------------------------------------- */

scratch scratch_make(void) {
    scratch s = {.folder = "/tmp/hotset-gguf-XXXXXX"};
    cr_assert_not_null(mkdtemp(s.folder));
    return s;
}

const char *scratch_path(scratch *s, const char *name) {
    size_t size = sizeof s->folder + strlen(name) + 2;
    char *path = arena_alloc(&s->paths, size, 1);
    cr_assert_not_null(path);
    snprintf(path, size, "%s/%s", s->folder, name);
    return path;
}

const char *scratch_write(scratch *s, const char *name, const blob *b) {
    const char *path = scratch_path(s, name);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(b->data, 1, b->bytes, file), b->bytes);
    cr_assert_eq(fclose(file), 0);
    return path;
}

/* Counts the files, removing them if asked to. */
static int for_files(const scratch *s, bool remove_them) {
    int n = 0;
    DIR *dir = opendir(s->folder);
    cr_assert_not_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        n++;
        if (remove_them) unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    return n;
}

int scratch_file_n(const scratch *s) { return for_files(s, false); }

void scratch_remove(scratch *s) {
    for_files(s, true);
    cr_expect_eq(rmdir(s->folder), 0);
    arena_free(&s->paths);
}

uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
