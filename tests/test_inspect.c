/* test_inspect.c - the description of a file, to the letter. */
#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/gguf.h"
#include "tests/gguf_bytes.h"

typedef struct text {
    char data[65536];
    size_t bytes;
} text;

static void collect(void *cookie, const char *piece, size_t bytes) {
    text *t = cookie;
    cr_assert_lt(bytes, sizeof t->data - t->bytes);
    memcpy(t->data + t->bytes, piece, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
}

static void describe(text *t, const char *path, bool json, bool tensors) {
    hotset_error err = {0};
    *t = (text){0};
    cr_assert_eq(hotset_inspect(path, &(hotset_inspect_options){json, tensors}, collect, t, &err), HOTSET_OK,
                 "%s", err.message);
}

/* What stands between `from` and `to`, which must be there. */
static void expect_between(const text *t, const char *from, const char *to, const char *expected) {
    const char *start = strstr(t->data, from);
    cr_assert_not_null(start, "no '%s' in %s", from, t->data);
    start += strlen(from);
    const char *end = strstr(start, to);
    cr_assert_not_null(end);
    cr_expect(strlen(expected) == (size_t)(end - start) && memcmp(start, expected, strlen(expected)) == 0,
              "'%.*s' is not '%s'", (int)(end - start), start, expected);
}

static void put_floats(blob *b) {
    put_key(b, "f32", GGUF_KIND_F32, &(float){0.1f}, 4);
    put_key(b, "f64", GGUF_KIND_F64, &(double){-1.5}, 8);
    put_key_head(b, "odd", GGUF_KIND_ARRAY);
    put_u32(b, GGUF_KIND_F32);
    put_u64(b, 2);
    put_bytes(b, (float[]){NAN, -INFINITY}, 8);
}

/* Model with strings that no terminal or JSON reader should see as they are. */
static const char *write_model(scratch *s) {
    blob b = {0};
    put_header(&b, "PWRI", 3, 2, 10);
    put_key_string(&b, "general.architecture", "llama");
    put_key_string(&b, "general.name",
                   "\x1b[31m\"R\xc3\xa9\\\xff\n\x7f\xc2\x9b \xf0\x9f\x94\xa5 \xed\xa0\x80\xc0\xaf");
    put_key(&b, "u64", GGUF_KIND_U64, &(uint64_t){UINT64_MAX}, 8);
    put_key(&b, "i64", GGUF_KIND_I64, &(int64_t){INT64_MIN}, 8);
    put_key(&b, "flag", GGUF_KIND_BOOL, "\1", 1);
    put_floats(&b);
    put_key_head(&b, "list", GGUF_KIND_ARRAY);
    put_u32(&b, GGUF_KIND_U8);
    put_u64(&b, 300);
    for (int i = 0; i < 300; i++) put_bytes(&b, &(uint8_t){(uint8_t)i}, 1);
    put_key_head(&b, "tokens", GGUF_KIND_ARRAY);
    put_u32(&b, GGUF_KIND_STRING);
    put_u64(&b, 2);
    put_string(&b, "<s>");
    put_string(&b, "\t");
    put_tensor(&b, "output_norm.weight", GGUF_F32, 1, (uint64_t[]){512}, 0);
    put_tensor(&b, "blk.0.ffn_up.weight", GGUF_Q4_0, 2, (uint64_t[]){64, 2}, 2048);
    put_padding(&b, 32);
    for (int i = 0; i < 2048 + 72; i++) put_bytes(&b, "", 1);
    return scratch_write(s, "model.gguf", &b);
}

Test(inspect, text) {
    scratch s = scratch_make();
    text *t = malloc(sizeof *t);
    describe(t, write_model(&s), false, true);
    expect_between(t, "\nsize          ", "\n", "2.8 KiB");
    expect_between(t, "\nformat        ", "\n", "GGUF version 3 of PowerInfer (PWRI), alignment 32");
    expect_between(t, "\narchitecture  ", "\n", "\"llama\"");
    expect_between(t, "\nname          ", "\n",
                   "\"\\u001b[31m\\\"R\xc3\xa9\\\\\xef\xbf\xbd\\n\\u007f\\u009b \xf0\x9f\x94\xa5 "
                   "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    expect_between(t, "\nparameters    ", "\n", "640");
    expect_between(t, "\ntensors       ", "\n\nkeys (10)\n",
                   "2, 2.1 KiB\n"
                   "  F32         1, 2 KiB\n"
                   "  Q4_0        1, 72 bytes");
    expect_between(t, "\n  u64                   ", "\n", "u64  18446744073709551615");
    expect_between(t, "\n  i64                   ", "\n", "i64  -9223372036854775808");
    expect_between(t, "\n  flag                  ", "\n", "bool  true");
    expect_between(t, "\n  f32                   ", "\n", "f32  0.1");
    expect_between(t, "\n  odd                   ", "\n", "f32[2]  [nan, -inf]");
    expect_between(t, "\n  list                  ", "\n", "u8[300]  [0, 1, 2, 3, 4, 5, 6, 7, ...]");
    expect_between(t, "\n  tokens                ", "\n", "string[2]  [\"<s>\", \"\\t\"]");
    expect_between(t, "\ntensors (2)\n", "]  72 bytes\n",
                   "  output_norm.weight   F32      [512]  2048 bytes\n"
                   "  blk.0.ffn_up.weight  Q4_0     [64, 2");
    describe(t, scratch_path(&s, "model.gguf"), false, false);
    cr_assert_null(strstr(t->data, "ffn_up"));
    free(t);
    scratch_remove(&s);
}

Test(inspect, json) {
    scratch s = scratch_make();
    text *t = malloc(sizeof *t);
    describe(t, write_model(&s), true, true);
    expect_between(t, "model.gguf\",\n", "  \"name\": ",
                   "  \"part_n\": 1,\n"
                   "  \"file_bytes\": 2888,\n"
                   "  \"magic\": \"PWRI\",\n"
                   "  \"version\": 3,\n"
                   "  \"alignment\": 32,\n"
                   "  \"architecture\": \"llama\",\n");
    expect_between(t, "  \"parameter_n\": ", "\n  \"keys\": {\n",
                   "640,\n"
                   "  \"tensor_n\": 2,\n"
                   "  \"weight_bytes\": 2120,\n"
                   "  \"types\": {\n"
                   "    \"F32\": {\"tensor_n\": 1, \"parameter_n\": 512, \"bytes\": 2048},\n"
                   "    \"Q4_0\": {\"tensor_n\": 1, \"parameter_n\": 128, \"bytes\": 72}\n"
                   "  },");
    expect_between(t, "    \"u64\": ", "    \"list\": ",
                   "{\"kind\": \"u64\", \"value\": 18446744073709551615},\n"
                   "    \"i64\": {\"kind\": \"i64\", \"value\": -9223372036854775808},\n"
                   "    \"flag\": {\"kind\": \"bool\", \"value\": true},\n"
                   "    \"f32\": {\"kind\": \"f32\", \"value\": 0.100000001},\n"
                   "    \"f64\": {\"kind\": \"f64\", \"value\": -1.5},\n"
                   "    \"odd\": {\"kind\": \"array\", \"item_kind\": \"f32\", \"item_n\": 2, \"value\": "
                   "[null, null]},\n");
    expect_between(t, "\"item_n\": 300, \"value\": [", " 3, ", "0, 1, 2,");
    expect_between(t, " 254, ", ",\n", "255]}"); /* 256 items are shown */
    expect_between(
        t, "\n  \"tensors\": [\n", "  ]\n}\n",
        "    {\"name\": \"output_norm.weight\", \"type\": \"F32\", \"dim\": [512], \"bytes\": 2048, "
        "\"part_i\": 0, \"offset_bytes\": 768},\n"
        "    {\"name\": \"blk.0.ffn_up.weight\", \"type\": \"Q4_0\", \"dim\": [64, 2], \"bytes\": 72, "
        "\"part_i\": 0, \"offset_bytes\": 2816}\n");
    free(t);
    scratch_remove(&s);
}

Test(inspect, a_file_with_nothing_in_it) {
    scratch s = scratch_make();
    text *t = malloc(sizeof *t);
    blob b = {0};
    put_header(&b, "GGUF", 2, 0, 1);
    put_key_u32(&b, "general.architecture",
                1); /* not a string: no architecture, but no reason to refuse either */
    const char *path = scratch_write(&s, "e.gguf", &b);
    describe(t, path, true, true);
    expect_between(
        t, "\"alignment\": 32,\n", "\n}\n",
        "  \"architecture\": null,\n  \"name\": null,\n  \"parameter_n\": 0,\n  \"tensor_n\": 0,\n"
        "  \"weight_bytes\": 0,\n  \"types\": {\n  },\n  \"keys\": {\n"
        "    \"general.architecture\": {\"kind\": \"u32\", \"value\": 1}\n  },\n  \"tensors\": [\n  ]");
    describe(t, path, false, false);
    cr_assert_null(strstr(t->data, "architecture  \""));
    hotset_error err = {0};
    cr_assert_eq(hotset_inspect("/nonexistent/m.gguf", NULL, collect, t, &err), HOTSET_E_IO);
    cr_assert(strstr(err.message, "/nonexistent/m.gguf"));
    free(t);
    scratch_remove(&s);
}

Test(inspect, long_strings_are_cut_between_characters) {
    scratch s = scratch_make();
    text *t = malloc(sizeof *t);
    for (int lead = 0; lead < 4; lead++) {
        blob b = {0};
        char value[128] = "", expected[160];
        memset(value, 'x', 68 + (size_t)lead);
        strcat(value, "\xf0\x9f\x94\xa5tail");
        put_header(&b, "GGUF", 3, 0, 1);
        put_key_string(&b, "k", value);
        describe(t, scratch_write(&s, "l.gguf", &b), false, false);
        snprintf(expected, sizeof expected, "\"%.*s\"... (%zu bytes)", lead ? 68 + lead : 72, value,
                 strlen(value));
        expect_between(t, "\n  k  string  ", "\n", expected);
    }
    free(t);
    scratch_remove(&s);
}

Test(inspect, numbers_do_not_follow_the_locale) {
    if (!setlocale(LC_ALL, "de_DE.UTF-8")) cr_skip_test("SKIP: no locale with a decimal comma");
    scratch s = scratch_make();
    text *t = malloc(sizeof *t);
    blob b = {0};
    put_header(&b, "GGUF", 3, 0, 1);
    put_key(&b, "k", GGUF_KIND_F32, &(float){2.5f}, 4);
    describe(t, scratch_write(&s, "f.gguf", &b), true, false);
    expect_between(t, "\"value\": ", "}", "2.5");
    free(t);
    scratch_remove(&s);
}
