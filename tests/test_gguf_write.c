/* test_gguf_write.c - the writer: what comes back, and what is left when writing fails. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "profiles/gguf.h"
#include "tests/gguf_bytes.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_assert_eq((call), HOTSET_OK, "%s", err_.message);                                                 \
    } while (0)

#define REFUSED(call, status_, text)                                                                         \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_expect_eq((call), (status_));                                                                     \
        cr_expect(strstr(err_.message, text), "'%s' does not contain '%s'", err_.message, text);             \
    } while (0)

static gguf_writer *open_writer(const char *path) {
    gguf_writer *w;
    OK(gguf_writer_open(&w, path, err));
    return w;
}

/* ---- Round trips ------------------------------------------------------------------------------------ */

/* Every kind as a plain value and as an array of 0, 1 and 5 items, whose bytes are random (bools: 0 or 1). */
Test(gguf_write, every_kind_comes_back) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "kinds.gguf");
    gguf_writer *w = open_writer(path);
    uint8_t bytes[40];
    gguf_string strings[5] = {{"a", 1}, {"", 0}, {"b\0c", 3}, {"\xff\xfe", 2}, {"hot set", 7}};
    char name[64];
    uint64_t state = 7;
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(next_random(&state) & 0x7f);
    for (int kind = 0; kind < GGUF_KIND_COUNT; kind++) {
        uint8_t flags[5] = {1, 0, 1, 1, 0};
        const void *items = kind == GGUF_KIND_BOOL ? flags : bytes;
        if (kind == GGUF_KIND_ARRAY) continue;
        for (uint64_t n = 0; n <= 5; n += n ? 4 : 1) {
            snprintf(name, sizeof name, "%s[%d]", gguf_kind_name((gguf_kind)kind), (int)n);
            OK(gguf_put_array(w, name, (gguf_kind)kind,
                              kind == GGUF_KIND_STRING ? (const void *)strings : items, n, err));
        }
        if (kind == GGUF_KIND_STRING) continue;
        gguf_key key = {.name = {gguf_kind_name((gguf_kind)kind), strlen(gguf_kind_name((gguf_kind)kind))},
                        .kind = (gguf_kind)kind,
                        .item_kind = (gguf_kind)kind,
                        .item_n = 1,
                        .data = items,
                        .data_bytes = gguf_kind_bytes((gguf_kind)kind)};
        OK(gguf_put_key(w, &key, err));
    }
    OK(gguf_writer_commit(w, err));
    gguf *g = open_file(path);
    cr_assert_eq(gguf_key_n(g), 12u * 3 + 11);
    for (uint64_t i = 0; i < gguf_key_n(g); i++) {
        const gguf_key *key = gguf_key_at(g, i);
        uint8_t flags[5] = {1, 0, 1, 1, 0};
        if (key->item_kind == GGUF_KIND_STRING) {
            uint64_t cursor = 0;
            for (uint64_t j = 0; j < key->item_n; j++) {
                gguf_string item = gguf_next_string(key, &cursor);
                cr_assert_eq(item.bytes, strings[j].bytes);
                cr_assert_eq(memcmp(item.data, strings[j].data, item.bytes), 0);
            }
            continue;
        }
        snprintf(name, sizeof name, key->kind == GGUF_KIND_ARRAY ? "%s[%d]" : "%s",
                 gguf_kind_name(key->item_kind), (int)key->item_n);
        cr_assert(gguf_string_is(key->name, name));
        cr_assert_eq(key->data_bytes, key->item_n * gguf_kind_bytes(key->item_kind));
        cr_assert_eq(memcmp(key->data, key->item_kind == GGUF_KIND_BOOL ? flags : bytes, key->data_bytes), 0,
                     "%s", name);
    }
    gguf_free(g);
    scratch_remove(&s);
}

Test(gguf_write, plain_values_come_back) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "plain.gguf"), *copy_path = scratch_path(&s, "copy.gguf");
    gguf_writer *w = open_writer(path);
    OK(gguf_put_u32(w, "u32", 4000000000u, err));
    OK(gguf_put_i32(w, "i32", -5, err));
    OK(gguf_put_u64(w, "u64", (uint64_t)1 << 40, err));
    OK(gguf_put_f32(w, "f32", 1e-5f, err));
    OK(gguf_put_bool(w, "bool", true, err));
    OK(gguf_put_string(w, "string", "h\0t", 3, err));
    OK(gguf_writer_commit(w, err));
    gguf *g = open_file(path);
    cr_assert_eq(gguf_version(g), 3u);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "u32"), 0), 4000000000);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "i32"), 0), -5);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "u64"), 0), (int64_t)1 << 40);
    cr_assert_eq(gguf_item_f64(gguf_find_key(g, "f32"), 0), (double)1e-5f);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "bool"), 0), 1);
    cr_assert_eq(gguf_find_key(g, "string")->data_bytes, 11u);
    w = open_writer(copy_path);
    for (uint64_t i = 0; i < gguf_key_n(g); i++) OK(gguf_put_key(w, gguf_key_at(g, i), err));
    OK(gguf_writer_commit(w, err));
    gguf *copy = open_file(copy_path);
    cr_assert_eq(gguf_file_bytes(copy), gguf_file_bytes(g));
    cr_assert_eq(memcmp(gguf_part_map(copy, 0)->data, gguf_part_map(g, 0)->data, gguf_file_bytes(g)), 0);
    gguf_free(copy);
    gguf_free(g);
    scratch_remove(&s);
}

/* One tensor of each type, of 1 to 4 dims, whose data come in pieces that end anywhere. */
static void round_trip_types(uint32_t alignment) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "types.gguf");
    gguf_writer *w = open_writer(path);
    uint64_t state = alignment, total = 0, check_state = alignment;
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++) {
        const gguf_type_info *info = gguf_type_get(id);
        if (!info) continue;
        OK(gguf_put_tensor(w, info->name, (gguf_type)id, 1 + id % 4,
                           (uint64_t[]){2ull * info->block_n, 3, 2, 5}, err));
        total += 2ull * info->block_bytes * (uint64_t[]){1, 3, 6, 30}[id % 4];
    }
    OK(gguf_put_u32(w, "general.alignment", alignment, err)); /* after the tensors: order is free */
    uint8_t *data = malloc(total);
    for (uint64_t i = 0; i < total; i++) data[i] = (uint8_t)next_random(&state);
    for (uint64_t at = 0, n; at < total; at += n) {
        n = min_u64(total - at, 1 + next_random(&state) % 777);
        OK(gguf_put_data(w, data + at, n, err));
    }
    free(data);
    OK(gguf_writer_commit(w, err));
    gguf *g = open_file(path);
    cr_assert_eq(gguf_alignment(g), alignment);
    cr_assert_eq(gguf_file_bytes(g) % alignment, 0u);
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        cr_assert(gguf_string_is(t->name, gguf_type_get(t->type)->name));
        cr_assert_eq(t->dim_n, 1 + t->type % 4u);
        for (uint64_t j = 0; j < t->bytes; j++) cr_assert_eq(t->data[j], (uint8_t)next_random(&check_state));
        total -= t->bytes;
    }
    cr_assert_eq(total, 0u);
    gguf_free(g);
    cr_assert_eq(scratch_file_n(&s), 1);
    scratch_remove(&s);
}

Test(gguf_write, every_tensor_type_comes_back) {
    static const uint32_t alignments[] = {1, 8, 32, 48, 65536};
    for (size_t i = 0; i < COUNT_OF(alignments); i++) round_trip_types(alignments[i]);
}

Test(gguf_write, more_data_than_a_buffer_holds) {
    enum { PIECE_BYTES = 5000000 };
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "large.gguf");
    gguf_writer *w = open_writer(path);
    uint8_t *piece = malloc(PIECE_BYTES);
    for (int i = 0; i < PIECE_BYTES; i++) piece[i] = (uint8_t)(i % 251);
    OK(gguf_put_tensor(w, "t", GGUF_I8, 1, (uint64_t[]){2 * PIECE_BYTES + 10}, err));
    OK(gguf_put_data(w, piece, 10, err));
    OK(gguf_put_data(w, piece, PIECE_BYTES, err));
    for (int i = 0; i < 5; i++) OK(gguf_put_data(w, piece + i * (PIECE_BYTES / 5), PIECE_BYTES / 5, err));
    OK(gguf_writer_commit(w, err));
    gguf *g = open_file(path);
    const uint8_t *data = gguf_find_tensor(g, "t")->data;
    cr_assert(memcmp(data, piece, 10) == 0 && memcmp(data + 10, piece, PIECE_BYTES) == 0);
    cr_assert(memcmp(data + 10 + PIECE_BYTES, piece, PIECE_BYTES) == 0);
    gguf_free(g);
    free(piece);
    scratch_remove(&s);
}

Test(gguf_write, a_new_file_has_the_usual_mode_and_replaces_the_old_one_at_once) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "model.gguf");
    struct stat info;
    umask(027);
    for (uint32_t round = 0; round < 2; round++) {
        gguf_writer *w = open_writer(path);
        OK(gguf_put_u32(w, "round", round, err));
        OK(gguf_put_data(w, NULL, 0, err));
        if (round) { /* the old file stands until the commit */
            gguf *old = open_file(path);
            cr_assert_eq(gguf_item_i64(gguf_find_key(old, "round"), 0), 0);
            gguf_free(old);
        }
        OK(gguf_writer_commit(w, err));
        gguf *g = open_file(path);
        cr_assert_eq(gguf_item_i64(gguf_find_key(g, "round"), 0), round);
        gguf_free(g);
    }
    cr_assert_eq(stat(path, &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0640);
    cr_assert_eq(scratch_file_n(&s), 1);
    scratch_remove(&s);
}

/* ---- Failures --------------------------------------------------------------------------------------- */

Test(gguf_write, wrong_amounts_of_data) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "model.gguf");
    gguf_writer *w = open_writer(path);
    OK(gguf_put_tensor(w, "t", GGUF_F32, 1, (uint64_t[]){4}, err));
    OK(gguf_put_data(w, "123456789012345", 15, err));
    REFUSED(gguf_writer_commit(w, err), HOTSET_E_ARGUMENT, "tensor 't' got 15 of its 16 bytes");
    cr_assert_eq(scratch_file_n(&s), 0);
    w = open_writer(path);
    OK(gguf_put_tensor(w, "t", GGUF_F32, 1, (uint64_t[]){4}, err));
    REFUSED(gguf_put_data(w, "12345678901234567", 17, err), HOTSET_E_ARGUMENT,
            "1 bytes of data come after the last tensor");
    REFUSED(gguf_put_data(w, "1", 1, err), HOTSET_E_ARGUMENT, "1 bytes of data come after"); /* sticky */
    REFUSED(gguf_put_u32(w, "k", 1, err), HOTSET_E_ARGUMENT, "1 bytes of data come after");
    REFUSED(gguf_writer_commit(w, err), HOTSET_E_ARGUMENT, "1 bytes of data come after");
    cr_assert_eq(scratch_file_n(&s), 0);
    w = open_writer(path);
    cr_assert_eq(scratch_file_n(&s), 1);
    gguf_writer_free(w);
    cr_assert_eq(scratch_file_n(&s), 0);
    gguf_writer_free(NULL);
    scratch_remove(&s);
}

/* Each case makes one mistake in a writer of its own. */
static hotset_status mistake(gguf_writer *w, int which, hotset_error *err) {
    char long_name[70] = "";
    memset(long_name, 'n', 65);
    switch (which) {
    case 0: return gguf_put_tensor(w, "t", GGUF_Q4_0, 1, (uint64_t[]){33}, err);
    case 1: return gguf_put_tensor(w, "t", (gguf_type)4, 1, (uint64_t[]){32}, err);
    case 2: return gguf_put_tensor(w, "t", GGUF_F32, 0, NULL, err);
    case 3: return gguf_put_tensor(w, "t", GGUF_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, err);
    case 4: return gguf_put_tensor(w, "t", GGUF_F32, 2, (uint64_t[]){4, 0}, err);
    case 5:
        return gguf_put_tensor(w, "t", GGUF_F32, 2, (uint64_t[]){(uint64_t)1 << 40, (uint64_t)1 << 40}, err);
    case 6: return gguf_put_tensor(w, long_name, GGUF_F32, 1, (uint64_t[]){1}, err);
    case 7: return gguf_put_u32(w, "", 1, err);
    case 8: return gguf_put_u32(w, "general.alignment", 0, err);
    case 9: return gguf_put_u64(w, "general.alignment", 32, err);
    case 10:
        HOTSET_TRY(gguf_put_u32(w, "k", 1, err));
        HOTSET_TRY(gguf_put_bool(w, "k", true, err));
        return gguf_put_data(w, NULL, 0, err);
    case 11:
        HOTSET_TRY(gguf_put_tensor(w, "t", GGUF_F32, 1, (uint64_t[]){1}, err));
        HOTSET_TRY(gguf_put_tensor(w, "t", GGUF_F16, 1, (uint64_t[]){1}, err));
        return gguf_put_data(w, NULL, 0, err);
    case 12: HOTSET_TRY(gguf_put_data(w, NULL, 0, err)); return gguf_put_u32(w, "late", 1, err);
    default:
        HOTSET_TRY(gguf_put_data(w, NULL, 0, err));
        return gguf_put_tensor(w, "late", GGUF_F32, 1, (uint64_t[]){1}, err);
    }
}

Test(gguf_write, mistakes_are_refused_by_name) {
    static const char *const messages[] = {
        "tensor 't': rows of 33 elements are not Q4_0 blocks of 32",
        "tensor 't' has unknown type 4",
        "tensor 't' has 0 dimensions",
        "tensor 't' has 5 dimensions",
        "tensor 't': a dimension is zero or its size overflows",
        "tensor 't': a dimension is zero or its size overflows",
        "has 65 bytes, not 1 to 64",
        "the name of key '' has 0 bytes",
        "key 'general.alignment' must be a u32 from 1 to 16777216",
        "key 'general.alignment' must be a u32",
        "key 'k' was put twice",
        "tensor 't' was put twice",
        "key 'late' comes after the first data",
        "tensor 'late' comes after the first data",
    };
    scratch s = scratch_make();
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        gguf_writer *w = open_writer(scratch_path(&s, "model.gguf"));
        REFUSED(mistake(w, (int)i, err), HOTSET_E_ARGUMENT, messages[i]);
        REFUSED(gguf_writer_commit(w, err), HOTSET_E_ARGUMENT, messages[i]);
        cr_assert_eq(scratch_file_n(&s), 0);
    }
    scratch_remove(&s);
}

Test(gguf_write, a_system_that_refuses) {
    scratch s = scratch_make();
    gguf_writer *w;
    REFUSED(gguf_writer_open(&w, "/nonexistent/model.gguf", err), HOTSET_E_IO, "/nonexistent/model.gguf");
    cr_assert_null(w);
    const char *taken = scratch_path(&s, "taken");
    cr_assert_eq(mkdir(taken, 0777), 0);
    w = open_writer(taken); /* a folder cannot be replaced by a file */
    REFUSED(gguf_writer_commit(w, err), HOTSET_E_IO, "cannot rename");
    cr_assert_eq(rmdir(taken), 0);
    cr_assert_eq(scratch_file_n(&s), 0);
    /* a disk that is full after 8 MiB, as far as the writer can tell */
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){8 << 20, RLIM_INFINITY}), 0);
    w = open_writer(scratch_path(&s, "model.gguf"));
    OK(gguf_put_tensor(w, "t", GGUF_I8, 1, (uint64_t[]){16 << 20}, err));
    uint8_t *data = calloc(1, 16 << 20);
    REFUSED(gguf_put_data(w, data, 16 << 20, err), HOTSET_E_IO, "cannot write: File too large");
    REFUSED(gguf_writer_commit(w, err), HOTSET_E_IO, "cannot write: File too large");
    free(data);
    cr_assert_eq(scratch_file_n(&s), 0);
    scratch_remove(&s);
}
