/* test_gguf.c - reading: versions, values, split files, and everything a malformed file can be. Files are
 * made byte by byte here, so that reader and writer cannot agree on the same mistake. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "profiles/gguf.h"
#include "tests/gguf_bytes.h"

/* ---- What is read ----------------------------------------------------------------------------------- */

/* 4 keys and 2 tensors, one of them quantised: 64 + 36 bytes of data. */
static void put_small_file(blob *b, const char *magic, uint32_t version) {
    float weights[16];
    uint8_t blocks[36];
    for (int i = 0; i < 16; i++) weights[i] = (float)i / 4;
    memset(blocks, 7, sizeof blocks);
    put_header(b, magic, version, 2, 4);
    put_key_string(b, "general.architecture", "llama");
    put_key_u32(b, "llama.block_count", 2);
    put_key_head(b, "numbers", GGUF_KIND_ARRAY);
    put_u32(b, GGUF_KIND_I16);
    put_u64(b, 3);
    put_bytes(b, (int16_t[]){-1, 2, 300}, 6);
    put_key_head(b, "tokens", GGUF_KIND_ARRAY);
    put_u32(b, GGUF_KIND_STRING);
    put_u64(b, 2);
    put_string(b, "a");
    put_string(b, "");
    put_tensor(b, "w", GGUF_F32, 2, (uint64_t[]){4, 4}, 0);
    put_tensor(b, "q", GGUF_Q4_0, 1, (uint64_t[]){64}, 64);
    put_padding(b, 32);
    b->header_bytes = b->bytes;
    put_bytes(b, weights, sizeof weights);
    put_bytes(b, blocks, sizeof blocks);
}

static void check_small_file(const gguf *g) {
    uint64_t cursor = 0;
    cr_assert_eq(gguf_key_n(g), 4u);
    cr_assert_eq(gguf_tensor_n(g), 2u);
    cr_assert_eq(gguf_alignment(g), 32u);
    const gguf_key *numbers = gguf_find_key(g, "numbers"), *tokens = gguf_find_key(g, "tokens");
    cr_assert_eq(numbers, gguf_key_at(g, 2));
    cr_assert(numbers->kind == GGUF_KIND_ARRAY && numbers->item_kind == GGUF_KIND_I16 &&
              numbers->item_n == 3);
    cr_assert_eq(gguf_item_i64(numbers, 0), -1);
    cr_assert_eq(gguf_item_f64(numbers, 2), 300.0);
    cr_assert_eq(tokens->item_n, 2u);
    cr_assert(gguf_string_is(gguf_next_string(tokens, &cursor), "a"));
    cr_assert(gguf_string_is(gguf_next_string(tokens, &cursor), ""));
    cr_assert_eq(cursor, tokens->data_bytes);
    const gguf_tensor *w = gguf_find_tensor(g, "w"), *q = gguf_find_tensor(g, "q");
    cr_assert(w->type == GGUF_F32 && w->dim_n == 2 && w->element_n == 16 && w->row_bytes == 16 &&
              w->bytes == 64);
    cr_assert(w->dim[0] == 4 && w->dim[1] == 4 && w->dim[2] == 1 && w->dim[3] == 1);
    cr_assert(q->type == GGUF_Q4_0 && q->element_n == 64 && q->row_bytes == 36 && q->bytes == 36);
    cr_assert_eq(q->data[35], 7);
    cr_assert_eq(((const float *)(const void *)w->data)[15], 3.75f);
    cr_assert_eq(w->data, gguf_part_map(g, 0)->data + w->offset_bytes);
    cr_assert_null(gguf_find_key(g, "absent"));
    cr_assert_null(gguf_find_tensor(g, ""));
    cr_assert_null(gguf_find_tensor(g, "w "));
}

Test(gguf, versions_and_magics) {
    for (uint32_t version = 2; version <= 3; version++)
        for (int powerinfer = 0; powerinfer < 2; powerinfer++) {
            blob b = {0};
            put_small_file(&b, powerinfer ? "PWRI" : "GGUF", version);
            gguf *g = open_blob(&b);
            cr_assert_eq(gguf_version(g), version);
            cr_assert_eq(gguf_is_powerinfer(g), powerinfer);
            cr_assert_eq(gguf_file_bytes(g), b.bytes);
            cr_assert_eq(gguf_part_n(g), 1u);
            check_small_file(g);
            gguf_free(g);
        }
}

Test(gguf, type_table) {
    gguf_type type;
    for (uint32_t id = 0; id < GGUF_TYPE_MAX; id++) {
        const gguf_type_info *info = gguf_type_get(id);
        if (!info) continue;
        cr_assert(gguf_type_by_name(info->name, &type) && (uint32_t)type == id);
        cr_assert_eq(gguf_row_bytes(type, 3ull * info->block_n), 3ull * info->block_bytes);
    }
    cr_assert(gguf_type_by_name("q4_k", &type) && type == GGUF_Q4_K);
    cr_assert_not(gguf_type_by_name("Q4_K_M", &type));
    for (uint32_t id = 4; id < 6; id++) cr_assert_null(gguf_type_get(id)); /* removed from the format */
    cr_assert_null(gguf_type_get(GGUF_TYPE_MAX));
    cr_assert_null(gguf_type_get(UINT32_MAX));
}

Test(gguf, alignment) {
    static const uint32_t alignments[] = {1, 8, 24, 32, 100, 4096};
    for (size_t i = 0; i < COUNT_OF(alignments); i++) {
        blob b = {0};
        put_header(&b, "GGUF", 3, 2, 1);
        put_key_u32(&b, "general.alignment", alignments[i]);
        put_tensor(&b, "a", GGUF_I8, 1, (uint64_t[]){3}, 0);
        put_tensor(&b, "b", GGUF_I8, 1, (uint64_t[]){1}, round_up(3, alignments[i]));
        put_padding(&b, alignments[i]);
        uint64_t section = b.bytes;
        put_bytes(&b, "xyz", 3);
        for (uint64_t j = 3; j < round_up(3, alignments[i]); j++) put_bytes(&b, "", 1);
        put_bytes(&b, "!", 1);
        gguf *g = open_blob(&b);
        cr_assert_eq(gguf_alignment(g), alignments[i]);
        cr_assert_eq(gguf_find_tensor(g, "a")->offset_bytes, section);
        cr_assert_eq(*gguf_find_tensor(g, "b")->data, '!');
        gguf_free(g);
    }
}

Test(gguf, a_file_may_end_with_its_header) {
    blob b = {0};
    put_header(&b, "GGUF", 3, 0, 1);
    put_key_string(&b, "general.architecture", "clip");
    gguf *g = open_blob(&b);
    cr_assert_eq(gguf_tensor_n(g), 0u);
    cr_assert_null(gguf_find_tensor(g, "w"));
    gguf_free(g);
}

Test(gguf, tensors_may_lie_in_any_order) {
    blob b = {0};
    put_header(&b, "GGUF", 3, 2, 0);
    put_tensor(&b, "second", GGUF_I8, 1, (uint64_t[]){32}, 32);
    put_tensor(&b, "first", GGUF_I8, 1, (uint64_t[]){32}, 0);
    put_padding(&b, 32);
    for (int i = 0; i < 64; i++) put_bytes(&b, i < 32 ? "1" : "2", 1);
    gguf *g = open_blob(&b);
    cr_assert_eq(*gguf_tensor_at(g, 0)->data, '2');
    cr_assert_eq(*gguf_tensor_at(g, 1)->data, '1');
    gguf_free(g);
}

/* ---- Typed values ----------------------------------------------------------------------------------- */

static gguf *open_values(blob *b) {
    put_header(b, "GGUF", 3, 0, 14);
    put_key(b, "u8", GGUF_KIND_U8, &(uint8_t){255}, 1);
    put_key(b, "i8", GGUF_KIND_I8, &(int8_t){-128}, 1);
    put_key(b, "u16", GGUF_KIND_U16, &(uint16_t){65535}, 2);
    put_key(b, "i16", GGUF_KIND_I16, &(int16_t){-300}, 2);
    put_key(b, "u32", GGUF_KIND_U32, &(uint32_t){UINT32_MAX}, 4);
    put_key(b, "i32", GGUF_KIND_I32, &(int32_t){INT32_MIN}, 4);
    put_key(b, "f32", GGUF_KIND_F32, &(float){-1.5f}, 4);
    put_key(b, "f64", GGUF_KIND_F64, &(double){1e300}, 8);
    put_key(b, "small f64", GGUF_KIND_F64, &(double){0.25}, 8);
    put_key(b, "u64", GGUF_KIND_U64, &(uint64_t){UINT64_MAX}, 8);
    put_key(b, "i64", GGUF_KIND_I64, &(int64_t){77}, 8);
    put_key(b, "bool", GGUF_KIND_BOOL, &(uint8_t){1}, 1);
    put_key_string(b, "string", "text");
    put_key_head(b, "array", GGUF_KIND_ARRAY);
    put_u32(b, GGUF_KIND_U32);
    put_u64(b, 1);
    put_u32(b, 5);
    return open_blob(b);
}

#define EXPECT(status_, text)                                                                                \
    do {                                                                                                     \
        cr_expect_eq(status, (status_));                                                                     \
        cr_expect(strstr(err.message, text), "'%s' does not contain '%s'", err.message, text);               \
    } while (0)

Test(gguf, integers_are_taken_where_they_fit) {
    blob b = {0};
    gguf *g = open_values(&b);
    hotset_error err = {0};
    uint32_t u = 0;
    int32_t i = 0;
    bool found = false;
    cr_assert(gguf_get_u32(g, "u8", &u, &found, &err) == HOTSET_OK && u == 255 && found);
    cr_assert(gguf_get_u32(g, "u16", &u, NULL, NULL) == HOTSET_OK && u == 65535);
    cr_assert(gguf_get_u32(g, "u32", &u, NULL, NULL) == HOTSET_OK && u == UINT32_MAX);
    cr_assert(gguf_get_u32(g, "i64", &u, NULL, NULL) == HOTSET_OK && u == 77);
    cr_assert(gguf_get_i32(g, "i8", &i, NULL, NULL) == HOTSET_OK && i == -128);
    cr_assert(gguf_get_i32(g, "i16", &i, NULL, NULL) == HOTSET_OK && i == -300);
    cr_assert(gguf_get_i32(g, "i32", &i, NULL, NULL) == HOTSET_OK && i == INT32_MIN);
    u = 9;
    hotset_status status = gguf_get_u32(g, "i8", &u, &found, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'i8' is -128, outside 0 to 4294967295");
    cr_assert_eq(err.offset_bytes, gguf_find_key(g, "i8")->offset_bytes);
    status = gguf_get_i32(g, "u32", &i, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'u32' is 4294967295, outside -2147483648 to 2147483647");
    status = gguf_get_u32(g, "u64", &u, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'u64' is more than 9223372036854775807");
    status = gguf_get_u32(g, "f32", &u, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'f32' is f32, not an integer");
    status = gguf_get_u32(g, "bool", &u, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'bool' is bool, not an integer");
    status = gguf_get_u32(g, "array", &u, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'array' is an array of u32, not an integer");
    cr_assert(gguf_get_u32(g, "absent", &u, &found, &err) == HOTSET_OK && u == 9 && !found);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "u64"), 0), INT64_MAX);
    cr_assert_eq(gguf_item_f64(gguf_find_key(g, "u64"), 0), 0x1p64);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "f64"), 0), INT64_MAX);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "f32"), 0), -1);
    gguf_free(g);
}

Test(gguf, floats_bools_and_strings) {
    blob b = {0};
    gguf *g = open_values(&b);
    hotset_error err = {0};
    float f = 0;
    bool flag = false, found = true;
    gguf_string s = {"default", 7};
    cr_assert(gguf_get_f32(g, "f32", &f, NULL, &err) == HOTSET_OK && f == -1.5f);
    cr_assert(gguf_get_f32(g, "small f64", &f, NULL, &err) == HOTSET_OK && f == 0.25f);
    hotset_status status = gguf_get_f32(g, "f64", &f, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'f64' is 1e+300, beyond a 32-bit float");
    status = gguf_get_f32(g, "u8", &f, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'u8' is u8, not a float");
    cr_assert(gguf_get_bool(g, "bool", &flag, NULL, &err) == HOTSET_OK && flag);
    status = gguf_get_bool(g, "u8", &flag, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'u8' is u8, not a bool");
    cr_assert(gguf_get_string(g, "absent", &s, &found, &err) == HOTSET_OK && !found &&
              gguf_string_is(s, "default"));
    cr_assert(gguf_get_string(g, "string", &s, &found, &err) == HOTSET_OK && found &&
              gguf_string_is(s, "text"));
    status = gguf_get_string(g, "array", &s, NULL, &err);
    EXPECT(HOTSET_E_FORMAT, "key 'array' is an array of u32, not a string");
    gguf_free(g);
}

/* ---- Malformed files -------------------------------------------------------------------------------- */

static void bad_magic(blob *b) { put_header(b, "GGML", 3, 0, 0); }
static void version_1(blob *b) { put_header(b, "GGUF", 1, 0, 0); }
static void version_4(blob *b) { put_header(b, "GGUF", 4, 0, 0); }
static void big_endian(blob *b) { put_header(b, "GGUF", __builtin_bswap32(3), 0, 0); }
static void many_tensors(blob *b) { put_header(b, "GGUF", 3, UINT64_MAX, 0); }
static void many_keys(blob *b) { put_header(b, "GGUF", 3, 0, (uint64_t)1 << 60); }
static void key_name_cut(blob *b) {
    put_header(b, "GGUF", 3, 0, 1);
    put_u64(b, UINT64_MAX - 3);
    put_bytes(b, "name and a bit", 14);
}
static void key_name_empty(blob *b) {
    put_header(b, "GGUF", 3, 0, 1);
    put_key_u32(b, "", 1);
}
static void key_twice(blob *b) {
    put_header(b, "GGUF", 3, 0, 2);
    put_key_u32(b, "same", 1);
    put_key_string(b, "same", "other");
}
static void kind_unknown(blob *b) {
    put_header(b, "GGUF", 3, 0, 1);
    put_key(b, "k", (gguf_kind)13, "1234", 4);
}
static void bool_2(blob *b) {
    put_header(b, "GGUF", 3, 0, 1);
    put_key(b, "flag", GGUF_KIND_BOOL, "\2", 1);
}
static void array_of(blob *b, uint32_t item_kind, uint64_t n) {
    put_header(b, "GGUF", 3, 0, 1);
    put_key_head(b, "list", GGUF_KIND_ARRAY);
    put_u32(b, item_kind);
    put_u64(b, n);
}
static void array_nested(blob *b) { array_of(b, GGUF_KIND_ARRAY, 1); }
static void array_kind_unknown(blob *b) { array_of(b, 99, 1); }
static void array_too_long(blob *b) { array_of(b, GGUF_KIND_F64, ((uint64_t)1 << 61) + 1); }
static void array_of_many_strings(blob *b) { array_of(b, GGUF_KIND_STRING, (uint64_t)1 << 40); }
static void array_string_cut(blob *b) {
    array_of(b, GGUF_KIND_STRING, 1);
    put_u64(b, 6);
    put_bytes(b, "12345", 5);
}
static void array_bool_bad(blob *b) {
    array_of(b, GGUF_KIND_BOOL, 3);
    put_bytes(b, "\1\0\xff", 3);
}
static void alignment_of(blob *b, uint32_t alignment) {
    put_header(b, "GGUF", 3, 0, 1);
    put_key_u32(b, "general.alignment", alignment);
}
static void alignment_0(blob *b) { alignment_of(b, 0); }
static void alignment_huge(blob *b) { alignment_of(b, GGUF_ALIGNMENT_MAX + 1); }
static void alignment_text(blob *b) {
    put_header(b, "GGUF", 3, 0, 1);
    put_key_string(b, "general.alignment", "32");
}
static void one_tensor(blob *b, uint32_t type, uint32_t dim_n, const uint64_t *dim, uint64_t offset) {
    put_header(b, "GGUF", 3, 1, 0);
    put_tensor(b, "t", type, dim_n, dim, offset);
    put_padding(b, 32);
    for (int i = 0; i < 64; i++) put_bytes(b, "", 1);
}
static void dims_0(blob *b) { one_tensor(b, GGUF_F32, 0, NULL, 0); }
static void dims_5(blob *b) { one_tensor(b, GGUF_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0); }
static void dim_zero(blob *b) { one_tensor(b, GGUF_F32, 2, (uint64_t[]){4, 0}, 0); }
static void dims_overflow(blob *b) {
    one_tensor(b, GGUF_F32, 2, (uint64_t[]){(uint64_t)1 << 33, (uint64_t)1 << 33}, 0);
}
static void bytes_overflow(blob *b) { one_tensor(b, GGUF_F32, 1, (uint64_t[]){(uint64_t)1 << 62}, 0); }
static void rows_overflow(blob *b) {
    one_tensor(b, GGUF_F64, 2, (uint64_t[]){(uint64_t)1 << 31, (uint64_t)1 << 31}, 0);
}
static void block_split(blob *b) { one_tensor(b, GGUF_Q4_K, 1, (uint64_t[]){128}, 0); }
static void type_removed(blob *b) { one_tensor(b, 4, 1, (uint64_t[]){16}, 0); }
static void type_unknown(blob *b) { one_tensor(b, UINT32_MAX, 1, (uint64_t[]){16}, 0); }
static void data_outside(blob *b) { one_tensor(b, GGUF_F32, 1, (uint64_t[]){17}, 0); }
static void offset_outside(blob *b) { one_tensor(b, GGUF_F32, 1, (uint64_t[]){16}, 32); }
static void offset_overflow(blob *b) { one_tensor(b, GGUF_F32, 1, (uint64_t[]){16}, UINT64_MAX - 31); }
static void offset_odd(blob *b) { one_tensor(b, GGUF_F32, 1, (uint64_t[]){4}, 16); }
static void two_tensors(blob *b, const char *second, uint64_t second_offset) {
    put_header(b, "GGUF", 3, 2, 0);
    put_tensor(b, "t", GGUF_F32, 1, (uint64_t[]){16}, 0);
    put_tensor(b, second, GGUF_F32, 1, (uint64_t[]){8}, second_offset);
    put_padding(b, 32);
    for (int i = 0; i < 96; i++) put_bytes(b, "", 1);
}
static void overlap(blob *b) { two_tensors(b, "u", 32); }
static void overlap_same(blob *b) { two_tensors(b, "u", 0); }
static void tensor_twice(blob *b) { two_tensors(b, "t", 64); }
static void split(blob *b) {
    put_header(b, "GGUF", 3, 0, 2);
    put_key_u32(b, "split.no", 0);
    put_key_u32(b, "split.count", 2);
}

static const struct {
    const char *name;
    void (*put)(blob *b);
    hotset_status status;
    const char *message; /* what the error must contain */
    uint64_t offset_bytes;
} malformed[] = {
    {"magic", bad_magic, HOTSET_E_FORMAT, "not a GGUF file (it starts with bytes 47 47 4d 4c)", 0},
    {"version 1", version_1, HOTSET_E_UNSUPPORTED, "version 1 is not supported", 4},
    {"version 4", version_4, HOTSET_E_UNSUPPORTED, "version 4 is not supported", 4},
    {"big endian", big_endian, HOTSET_E_UNSUPPORTED, "big endian", 4},
    {"tensor count", many_tensors, HOTSET_E_FORMAT, "counts 18446744073709551615 tensors", 8},
    {"key count", many_keys, HOTSET_E_FORMAT, "counts 1152921504606846976 keys", 16},
    {"key name cut", key_name_cut, HOTSET_E_FORMAT, "key number 0: the file ends inside its name at byte 32",
     32},
    {"key name empty", key_name_empty, HOTSET_E_FORMAT, "key number 0: its name is empty", 24},
    {"key twice", key_twice, HOTSET_E_FORMAT, "key 'same': it is there twice", 60},
    {"kind", kind_unknown, HOTSET_E_FORMAT, "key 'k': unknown kind 13 at byte 33", 33},
    {"bool", bool_2, HOTSET_E_FORMAT, "key 'flag': a bool holds 2 at byte 40", 40},
    {"nested", array_nested, HOTSET_E_UNSUPPORTED, "key 'list': arrays of arrays", 40},
    {"item kind", array_kind_unknown, HOTSET_E_FORMAT, "key 'list': unknown kind 99 at byte 40", 40},
    {"array", array_too_long, HOTSET_E_FORMAT, "key 'list': 2305843009213693953 items of kind f64 do not fit",
     52},
    {"strings", array_of_many_strings, HOTSET_E_FORMAT,
     "items of kind string do not fit into the 0 bytes left", 52},
    {"string cut", array_string_cut, HOTSET_E_FORMAT, "key 'list': the file ends inside a string at byte 60",
     60},
    {"array bool", array_bool_bad, HOTSET_E_FORMAT, "key 'list': a bool holds 255 at byte 54", 54},
    {"alignment 0", alignment_0, HOTSET_E_FORMAT, "key 'general.alignment': 0 is not 1 to 16777216", 53},
    {"alignment huge", alignment_huge, HOTSET_E_FORMAT, "key 'general.alignment': 16777217 is not", 53},
    {"alignment text", alignment_text, HOTSET_E_FORMAT, "key 'general.alignment' is string, not an integer",
     53},
    {"no dims", dims_0, HOTSET_E_FORMAT, "tensor 't': it has 0 dimensions, not 1 to 4", 33},
    {"5 dims", dims_5, HOTSET_E_FORMAT, "tensor 't': it has 5 dimensions, not 1 to 4", 33},
    {"dim 0", dim_zero, HOTSET_E_FORMAT, "tensor 't': dimension 1 is zero", 57},
    {"dims overflow", dims_overflow, HOTSET_E_FORMAT, "tensor 't': the product of its dimensions overflows",
     57},
    {"bytes overflow", bytes_overflow, HOTSET_E_FORMAT, "tensor 't': its size overflows", 49},
    {"rows overflow", rows_overflow, HOTSET_E_FORMAT, "tensor 't': its size overflows", 57},
    {"block", block_split, HOTSET_E_FORMAT,
     "tensor 't': rows of 128 elements do not divide into Q4_K blocks of 256", 49},
    {"type removed", type_removed, HOTSET_E_UNSUPPORTED, "tensor 't': unknown tensor type 4", 49},
    {"type unknown", type_unknown, HOTSET_E_UNSUPPORTED, "tensor 't': unknown tensor type 4294967295", 49},
    {"data", data_outside, HOTSET_E_FORMAT,
     "tensor 't': its 68 bytes at 64 + 0 lie outside the file of 128 bytes", 64},
    {"offset", offset_outside, HOTSET_E_FORMAT, "tensor 't': its 64 bytes at 64 + 32 lie outside", 64},
    {"offset overflow", offset_overflow, HOTSET_E_FORMAT, "64 + 18446744073709551584 lie outside", 64},
    {"offset odd", offset_odd, HOTSET_E_FORMAT,
     "tensor 't': its offset 16 is not a multiple of the alignment 32", 64},
    {"overlap", overlap, HOTSET_E_FORMAT, "the data of tensors 't' and 'u' overlap", 128},
    {"same place", overlap_same, HOTSET_E_FORMAT, "overlap", 96},
    {"tensor twice", tensor_twice, HOTSET_E_FORMAT, "tensor 't': it is there twice", 160},
    {"split", split, HOTSET_E_UNSUPPORTED, "split files cannot be opened from memory", 0},
};

Test(gguf, malformed_files_are_refused_by_name) {
    for (size_t i = 0; i < COUNT_OF(malformed); i++) {
        blob b = {0};
        hotset_error err = {0};
        gguf *g = (gguf *)&b;
        malformed[i].put(&b);
        hotset_status status = gguf_open_memory(&g, b.data, b.bytes, &err);
        cr_expect_null(g, "%s", malformed[i].name);
        cr_expect_eq(status, malformed[i].status, "%s: %s", malformed[i].name, err.message);
        cr_expect_eq(err.status, status);
        cr_expect(strstr(err.message, malformed[i].message), "%s: '%s'", malformed[i].name, err.message);
        cr_expect_eq(err.offset_bytes, malformed[i].offset_bytes, "%s: offset %llu", malformed[i].name,
                     (unsigned long long)err.offset_bytes);
        cr_expect_eq(gguf_open_memory(&g, b.data, b.bytes, NULL), malformed[i].status);
    }
}

Test(gguf, a_cut_file_is_refused_at_every_byte) {
    blob b = {0};
    put_small_file(&b, "GGUF", 3);
    for (uint64_t bytes = 0; bytes < b.bytes; bytes++) {
        hotset_error err = {0};
        gguf *g;
        uint8_t *exact = malloc(bytes ? bytes : 1); /* so that a sanitizer sees a read behind the end */
        memcpy(exact, b.data, bytes);
        cr_assert_eq(gguf_open_memory(&g, exact, bytes, &err), HOTSET_E_FORMAT, "cut at %llu",
                     (unsigned long long)bytes);
        cr_assert(strstr(err.message, "cut off?") || strstr(err.message, "the file ends"), "cut at %llu: %s",
                  (unsigned long long)bytes, err.message);
        free(exact);
    }
}

/* Touches everything that a file which opened can be asked. */
static uint64_t walk(const gguf *g) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < gguf_key_n(g); i++) {
        const gguf_key *key = gguf_key_at(g, i);
        uint64_t cursor = 0;
        for (uint64_t j = 0; j < key->item_n; j++)
            if (key->item_kind == GGUF_KIND_STRING) {
                gguf_string s = gguf_next_string(key, &cursor);
                for (uint64_t k = 0; k < s.bytes; k++) sum += (uint8_t)s.data[k];
            } else
                sum += (uint64_t)gguf_item_i64(key, j);
    }
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        for (uint64_t j = 0; j < t->bytes; j++) sum += t->data[j];
    }
    return sum;
}

Test(gguf, damaged_bytes_are_refused_or_read) {
    blob b = {0};
    put_small_file(&b, "GGUF", 3);
    uint64_t state = 42, opened_n = 0, sum = 0;
    uint8_t *bytes = malloc(b.bytes);
    for (int round = 0; round < 60000; round++) {
        memcpy(bytes, b.data, b.bytes);
        for (uint64_t flips = 1 + next_random(&state) % 3; flips; flips--) {
            uint64_t at = next_random(&state) % b.header_bytes;
            bytes[at] =
                (uint8_t)(flips & 1 ? bytes[at] ^ 1u << next_random(&state) % 8 : next_random(&state));
        }
        gguf *g;
        hotset_error err = {0};
        hotset_status status = gguf_open_memory(&g, bytes, b.bytes, &err);
        cr_assert(status == HOTSET_OK ? g != NULL : g == NULL && err.message[0]);
        if (!g) continue;
        opened_n++;
        sum += walk(g);
        gguf_free(g);
    }
    cr_assert(opened_n > 1000 && sum > 0, "only %llu files could be walked", (unsigned long long)opened_n);
    free(bytes);
}

/* ---- Files ------------------------------------------------------------------------------------------ */

Test(gguf, opening_reads_no_weights) {
    const uint64_t data_bytes = (uint64_t)256 << 20;
    scratch s = scratch_make();
    blob b = {0};
    put_header(&b, "GGUF", 3, 1, 0);
    put_tensor(&b, "big", GGUF_I8, 1, &data_bytes, 0);
    put_padding(&b, 32);
    const char *path = scratch_write(&s, "big.gguf", &b);
    cr_assert_eq(truncate(path, (off_t)(b.bytes + data_bytes)), 0); /* a hole: no page of it is in memory */
    gguf *g = open_file(path);
    const file_map *map = gguf_part_map(g, 0);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), page_n = (map->bytes + page - 1) / page, resident_n = 0;
    unsigned char *resident = malloc(page_n);
    cr_assert_eq(mincore((void *)(uintptr_t)map->data, map->bytes, resident), 0);
    for (uint64_t i = 0; i < page_n; i++) resident_n += resident[i] & 1;
    cr_assert_leq(resident_n * page, (uint64_t)1 << 20, "%llu pages", (unsigned long long)resident_n);
    free(resident);
    gguf_free(g);
    scratch_remove(&s);
}

/* Part `no` of `count` with one tensor, whose only byte is '1' + no. */
static void put_part(blob *b, uint32_t no, uint32_t count, const char *tensor) {
    char byte = (char)('1' + no);
    *b = (blob){0};
    put_header(b, "GGUF", 3, 1, no == 0 ? 4 : 2);
    put_key(b, "split.no", GGUF_KIND_U16, &(uint16_t){(uint16_t)no}, 2);
    put_key(b, "split.count", GGUF_KIND_U16, &(uint16_t){(uint16_t)count}, 2);
    if (no == 0) put_key(b, "split.tensors.count", GGUF_KIND_I32, &(int32_t){(int32_t)count}, 4);
    if (no == 0) put_key_string(b, "general.architecture", "llama");
    put_tensor(b, tensor, GGUF_I8, 1, (uint64_t[]){1}, 0);
    put_padding(b, 32);
    put_bytes(b, &byte, 1);
}

static void write_parts(scratch *s) {
    blob b;
    put_part(&b, 0, 3, "a");
    scratch_write(s, "m-00001-of-00003.gguf", &b);
    put_part(&b, 1, 3, "b");
    scratch_write(s, "m-00002-of-00003.gguf", &b);
    put_part(&b, 2, 3, "c");
    scratch_write(s, "m-00003-of-00003.gguf", &b);
}

Test(gguf, split_files_are_joined) {
    scratch s = scratch_make();
    write_parts(&s);
    gguf *g = open_file(scratch_path(&s, "m-00001-of-00003.gguf"));
    cr_assert_eq(gguf_part_n(g), 3u);
    cr_assert_eq(gguf_tensor_n(g), 3u);
    cr_assert_eq(gguf_key_n(g), 4u);
    for (uint32_t i = 0; i < 3; i++) {
        const gguf_tensor *t = gguf_find_tensor(g, (const char *[]){"a", "b", "c"}[i]);
        cr_assert_eq(t, gguf_tensor_at(g, i));
        cr_assert_eq(t->part_i, i);
        cr_assert_eq(*t->data, '1' + i);
        cr_assert_eq(t->data, gguf_part_map(g, i)->data + t->offset_bytes);
    }
    cr_assert_eq(gguf_file_bytes(g),
                 gguf_part_map(g, 0)->bytes + gguf_part_map(g, 1)->bytes + gguf_part_map(g, 2)->bytes);
    gguf_free(g);
    scratch_remove(&s);
}

Test(gguf, a_wrong_part_is_named) {
    scratch s = scratch_make();
    blob b;
    write_parts(&s);
    refuse_file(
        scratch_path(&s, "m-00002-of-00003.gguf"), HOTSET_E_ARGUMENT,
        "m-00002-of-00003.gguf is a part of a split file: open its first part, NAME-00001-of-00003.gguf");
    put_part(&b, 2, 3, "b");
    scratch_write(&s, "m-00002-of-00003.gguf", &b);
    const char *first = scratch_path(&s, "m-00001-of-00003.gguf");
    refuse_file(first, HOTSET_E_FORMAT, "m-00002-of-00003.gguf: it says to be part 3 of 3, not 2 of 3");
    put_part(&b, 1, 4, "b");
    scratch_write(&s, "m-00002-of-00003.gguf", &b);
    refuse_file(first, HOTSET_E_FORMAT, "m-00002-of-00003.gguf: it says to be part 2 of 4, not 2 of 3");
    put_part(&b, 1, 3, "a");
    scratch_write(&s, "m-00002-of-00003.gguf", &b);
    refuse_file(first, HOTSET_E_FORMAT, "tensor 'a': it is there twice (again in part 2 of 3)");
    put_part(&b, 1, 3, "b");
    b.bytes--;
    scratch_write(&s, "m-00002-of-00003.gguf", &b);
    refuse_file(first, HOTSET_E_FORMAT, "m-00002-of-00003.gguf: tensor 'b': its 1 bytes");
    put_part(&b, 1, 3, "b");
    scratch_write(&s, "m-00002-of-00003.gguf", &b);
    unlink(scratch_path(&s, "m-00003-of-00003.gguf"));
    refuse_file(first, HOTSET_E_IO, "m-00003-of-00003.gguf: No such file");
    blob extra = {0};
    put_header(&extra, "GGUF", 3, 0, 2);
    put_key_u32(&extra, "split.no", 2);
    put_key_u32(&extra, "split.count", 3);
    scratch_write(&s, "m-00003-of-00003.gguf", &extra);
    refuse_file(first, HOTSET_E_FORMAT, "the parts have 2 tensors, but key 'split.tensors.count' says 3");
    scratch_remove(&s);
}

Test(gguf, errors_name_the_file) {
    scratch s = scratch_make();
    blob b = {0};
    refuse_file(scratch_path(&s, "absent.gguf"), HOTSET_E_IO, "absent.gguf: No such file");
    refuse_file(scratch_write(&s, "empty.gguf", &b), HOTSET_E_FORMAT,
                "empty.gguf: the file ends inside the magic at byte 0");
    put_bytes(&b, "<html>", 6);
    refuse_file(scratch_write(&s, "page.gguf", &b), HOTSET_E_FORMAT, "page.gguf: not a GGUF file");
    scratch_remove(&s);
}

static int open_folder(const char *folder) {
    int opened_n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t bytes = strlen(entry->d_name);
        if (bytes < 5 || strcmp(entry->d_name + bytes - 5, ".gguf") != 0) continue;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        gguf *g = open_file(path);
        cr_assert(gguf_key_n(g) > 0 && walk(g) > 0);
        gguf_free(g);
        opened_n++;
    }
    if (dir) closedir(dir);
    return opened_n;
}

Test(gguf, opens_files_of_other_programs) {
    int opened_n = open_folder(HOTSET_SOURCE_DIR "/../shared/data/models") +
                   open_folder(HOTSET_SOURCE_DIR "/../shared/data/logits") +
                   open_folder(HOTSET_SOURCE_DIR "/../shared/data/vocab");
    if (!opened_n) cr_skip_test("SKIP: no ../shared/data");
}
