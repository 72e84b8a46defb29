/* fuzz_gguf.c - any bytes as a GGUF file: refused with a message, or readable and describable to the last
 * item. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "profiles/gguf.h"
#include "tests/fuzz/fuzz.h"

/* Where a sum of everything goes, so that no read is optimised away. */
static volatile uint64_t sink;

static void read_items(const gguf_key *key) {
    uint64_t cursor = 0;
    for (uint64_t i = 0; i < key->item_n; i++) {
        if (key->item_kind == GGUF_KIND_STRING) {
            gguf_string s = gguf_next_string(key, &cursor);
            for (uint64_t j = 0; j < s.bytes; j++) sink += (uint8_t)s.data[j];
        } else {
            sink += (uint64_t)gguf_item_i64(key, i);
            sink += gguf_item_f64(key, i) > 0;
        }
    }
    if (key->item_kind == GGUF_KIND_STRING) MUST(cursor == key->data_bytes);
}

/* Every getter, on a key that is there: each gives a value or an error. */
static void get_key(const gguf *g, const gguf_key *key) {
    char name[256];
    uint32_t u32 = 0;
    int32_t i32 = 0;
    float f32 = 0;
    bool flag = false, found;
    gguf_string s;
    hotset_error err;
    if (key->name.bytes >= sizeof name || memchr(key->name.data, 0, key->name.bytes)) return;
    memcpy(name, key->name.data, key->name.bytes);
    name[key->name.bytes] = 0;
    MUST(gguf_find_key(g, name) == key);
    hotset_status status[] = {
        gguf_get_u32(g, name, &u32, &found, &err), gguf_get_i32(g, name, &i32, &found, &err),
        gguf_get_f32(g, name, &f32, &found, &err), gguf_get_bool(g, name, &flag, &found, &err),
        gguf_get_string(g, name, &s, &found, &err)};
    MUST(found);
    for (size_t i = 0; i < COUNT_OF(status); i++)
        MUST(status[i] == HOTSET_OK || status[i] == HOTSET_E_FORMAT);
    if (key->kind == GGUF_KIND_STRING) MUST(status[4] == HOTSET_OK && s.bytes + 8 == key->data_bytes);
}

static void read_tensor(const gguf *g, const gguf_tensor *t) {
    const gguf_type_info *type = gguf_type_get(t->type);
    const file_map *map = gguf_part_map(g, t->part_i);
    MUST(type && t->dim_n >= 1 && t->dim_n <= 4 && t->dim[0] % type->block_n == 0);
    MUST(t->element_n == t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3] && t->element_n > 0);
    MUST(t->row_bytes == gguf_row_bytes(t->type, t->dim[0]) &&
         t->bytes == t->row_bytes * (t->element_n / t->dim[0]));
    MUST(t->data == map->data + t->offset_bytes && t->offset_bytes + t->bytes <= map->bytes);
    sink += t->data[0];
    sink += t->data[t->bytes - 1];
}

/* Follows a description piece by piece: no control character, and in JSON every string and brace is closed.
 */
typedef struct checker {
    bool json, in_string, escaped;
    int depth;
} checker;

static void check_text(void *cookie, const char *text, size_t bytes) {
    checker *c = cookie;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        MUST((byte >= ' ' && byte != 127) || (byte == '\n' && !c->in_string));
        if (c->escaped) {
            c->escaped = false;
        } else if (c->in_string) {
            c->escaped = byte == '\\';
            c->in_string = byte != '"';
        } else {
            MUST(!c->json || byte < 127);
            c->in_string = c->json && byte == '"';
            c->depth += (byte == '{' || byte == '[') - (byte == '}' || byte == ']');
            MUST(!c->json || c->depth > 0 || byte == '}' || byte == '\n');
        }
    }
}

static void inspect(const uint8_t *data, size_t bytes) {
    char path[64];
    hotset_error err;
    int fd = memfd_create("fuzz_gguf", MFD_CLOEXEC);
    MUST(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int json = 0; json < 2; json++) {
        checker c = {.json = json};
        MUST(hotset_inspect(path, &(hotset_inspect_options){.json = json, .tensors = true}, check_text, &c,
                            &err) == HOTSET_OK);
        MUST(!json || (c.depth == 0 && !c.in_string));
    }
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    gguf *g;
    hotset_error err = {0};
    hotset_status status = gguf_open_memory(&g, data, bytes, &err);
    if (status != HOTSET_OK) {
        MUST(!g && err.status == status && err.message[0] && err.offset_bytes <= bytes + GGUF_ALIGNMENT_MAX);
        return 0;
    }
    for (uint64_t i = 0; i < gguf_key_n(g); i++) {
        read_items(gguf_key_at(g, i));
        get_key(g, gguf_key_at(g, i));
    }
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) read_tensor(g, gguf_tensor_at(g, i));
    gguf_free(g);
    inspect(data, bytes);
    return 0;
}
