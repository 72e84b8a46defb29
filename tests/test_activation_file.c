/* test_activation_file.c - files of activation profiles: what comes back, and everything that is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/activation_naive.h"
#include "tests/gguf_bytes.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_assert_eq((call), HOTSET_OK, "%s", err_.message);                                                 \
    } while (0)

static activation_profile *some_profile(void) {
    static const naive_text texts[] = {{9, "b.txt", 600, 1}, {7, "a.txt", 40, 2}};
    activation_profile *p = naive_profile(1, "m"), *other = naive_profile(2, "m tuned");
    naive_record(p, &texts[0]);
    naive_record(other, &texts[1]);
    OK(activation_merge(p, other, NULL, err));
    activation_free(other);
    return p;
}

/* Writes some_profile. */
static const char *some_file(scratch *s) {
    const char *path = scratch_path(s, "profile.gguf");
    activation_profile *p = some_profile();
    OK(activation_write(p, path, err));
    activation_free(p);
    return path;
}

static void refuse(const char *path, hotset_status status, const char *text) {
    hotset_error err = {0};
    activation_profile *p = (activation_profile *)&err;
    cr_expect_eq(activation_read(&p, path, &err), status, "%s (expected '%s')", err.message, text);
    cr_expect_null(p);
    cr_expect(strstr(err.message, text), "'%s' does not contain '%s'", err.message, text);
    cr_expect(strncmp(err.message, path, strlen(path)) == 0, "'%s' does not begin with the path",
              err.message);
}

/* ---- What comes back -------------------------------------------------------------------------------- */

Test(activation_file, a_profile_comes_back) {
    scratch s = scratch_make();
    activation_profile *p = some_profile(), *empty = naive_profile(5, NULL), *q;
    const char *path = scratch_path(&s, "p.gguf"), *again = scratch_path(&s, "again.gguf");
    file_map a, b;
    OK(activation_write(empty, path, err));
    OK(activation_read(&q, path, err));
    naive_compare(empty, q);
    activation_free(q);
    OK(activation_write(p, path, err)); /* replaces it */
    OK(activation_read(&q, path, err));
    naive_compare(p, q);
    OK(activation_write(q, again, err));
    OK(file_map_open(&a, path, err));
    OK(file_map_open(&b, again, err));
    cr_assert(a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0);
    file_map_close(&a);
    file_map_close(&b);
    cr_assert_eq(scratch_file_n(&s), 2);
    activation_free(p);
    activation_free(q);
    activation_free(empty);
    scratch_remove(&s);
}

/* Names and values as other programs find them. */
Test(activation_file, the_file_says_what_it_is) {
    scratch s = scratch_make();
    gguf *g = open_file(some_file(&s));
    gguf_string text;
    bool hot = false;
    OK(gguf_get_string(g, "general.architecture", &text, NULL, err));
    cr_assert(gguf_string_is(text, "hotset.activation"));
    OK(gguf_get_bool(g, "hotset.activation.hot_units", &hot, NULL, err));
    cr_assert(hot);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "hotset.activation.token_n"), 0), 640);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "hotset.activation.window_n"), 5), 18 + 1);
    cr_assert_eq(gguf_item_i64(gguf_find_key(g, "hotset.activation.corpus.hash"), 1), 9);
    uint64_t cursor = 0;
    static const char *const kinds[] = {"neurons", "none",    "experts", "sizes",
                                        "neurons", "experts", "neurons"};
    const gguf_key *kind = gguf_find_key(g, "hotset.activation.layer.kind");
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        cr_assert(gguf_string_is(gguf_next_string(kind, &cursor), kinds[i]));
    static const struct {
        const char *name;
        uint64_t n;
    } tensors[] = {{"blk.0.count", 200},      {"blk.0.union", 6},  {"blk.2.count", 16}, {"blk.2.union", 6},
                   {"blk.2.router_mass", 16}, {"blk.2.reuse", 10}, {"blk.3.size", 66}};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        const gguf_tensor *t = gguf_find_tensor(g, tensors[i].name);
        cr_assert(t && t->type == GGUF_I64 && t->dim_n == 1 && t->dim[0] == tensors[i].n, "%s",
                  tensors[i].name);
    }
    cr_assert_eq(gguf_tensor_n(g), 3u * 2 + 2 * 4 + 1);
    gguf_free(g);
    scratch_remove(&s);
}

Test(activation_file, a_broken_profile_is_not_written) {
    scratch s = scratch_make();
    activation_profile *p = some_profile();
    hotset_error err = {0};
    p->layer[0].count[0]++;
    cr_assert_eq(activation_write(p, scratch_path(&s, "p.gguf"), &err), HOTSET_E_FORMAT);
    cr_assert(strstr(err.message, "layer 0: counts add up to"), "%s", err.message);
    cr_assert_eq(scratch_file_n(&s), 0);
    p->layer[0].count[0]--;
    cr_assert_eq(activation_write(p, "/nonexistent/p.gguf", &err), HOTSET_E_IO);
    activation_free(p);
    scratch_remove(&s);
}

/* ---- What is refused -------------------------------------------------------------------------------- */

/* How a copy of a good file is made bad; keys and tensors are meant by their names. */
typedef struct damage {
    const char *drop;      /* left out */
    const char *retype;    /* key: becomes a float; tensor: becomes I32 */
    const char *shorten;   /* one item less */
    const char *overwrite; /* the item `item_i` of 8 bytes, or a bool, becomes `value` */
    uint64_t item_i, value;
    bool extra; /* a tensor more */
} damage;

static bool is(const char *name, gguf_string s) { return name && gguf_string_is(s, name); }

static void put_damaged_key(gguf_writer *w, gguf_key key, const damage *d) {
    char name[80] = {0};
    uint8_t data[512];
    memcpy(name, key.name.data, key.name.bytes);
    cr_assert_lt(key.data_bytes, sizeof data);
    memcpy(data, key.data, key.data_bytes);
    key.data = data;
    if (is(d->drop, key.name)) return;
    if (is(d->retype, key.name)) {
        OK(gguf_put_f32(w, name, 1, err));
        return;
    }
    if (is(d->overwrite, key.name)) {
        uint64_t item_bytes = min_u64(8, gguf_kind_bytes(key.item_kind));
        memcpy(data + d->item_i * item_bytes, &d->value, item_bytes);
    }
    if (is(d->shorten, key.name)) {
        gguf_string strings[16];
        uint64_t cursor = 0;
        for (uint64_t i = 0; key.item_kind == GGUF_KIND_STRING && i < key.item_n; i++)
            strings[i] = gguf_next_string(&key, &cursor);
        OK(gguf_put_array(w, name, key.item_kind,
                          key.item_kind == GGUF_KIND_STRING ? (const void *)strings : data, key.item_n - 1,
                          err));
        return;
    }
    OK(gguf_put_key(w, &key, err));
}

static void put_damaged_tensor(gguf_writer *w, const gguf_tensor *t, const damage *d, bool data) {
    char name[80] = {0};
    uint64_t n = t->dim[0] - is(d->shorten, t->name), item_bytes = is(d->retype, t->name) ? 4 : 8;
    if (is(d->drop, t->name)) return;
    memcpy(name, t->name.data, t->name.bytes);
    if (!data) {
        OK(gguf_put_tensor(w, name, item_bytes == 4 ? GGUF_I32 : GGUF_I64, 1, &n, err));
        return;
    }
    uint8_t *copy = malloc(t->bytes);
    memcpy(copy, t->data, t->bytes);
    if (is(d->overwrite, t->name)) memcpy(copy + d->item_i * 8, &d->value, 8);
    OK(gguf_put_data(w, copy, n * item_bytes, err));
    free(copy);
}

static const char *damaged(scratch *s, const gguf *g, const damage *d) {
    const char *path = scratch_path(s, "damaged.gguf");
    gguf_writer *w;
    OK(gguf_writer_open(&w, path, err));
    for (uint64_t i = 0; i < gguf_key_n(g); i++) put_damaged_key(w, *gguf_key_at(g, i), d);
    for (int data = 0; data < 2; data++) {
        for (uint64_t i = 0; i < gguf_tensor_n(g); i++) put_damaged_tensor(w, gguf_tensor_at(g, i), d, data);
        if (d->extra && !data) OK(gguf_put_tensor(w, "more", GGUF_I64, 1, (uint64_t[]){1}, err));
        if (d->extra && data) OK(gguf_put_data(w, "12345678", 8, err));
    }
    OK(gguf_writer_commit(w, err));
    return path;
}

Test(activation_file, every_key_is_needed_in_its_kind_and_length) {
    scratch s = scratch_make();
    gguf *g = open_file(some_file(&s));
    cr_assert_eq(gguf_key_n(g), 16u);
    for (uint64_t i = 0; i < gguf_key_n(g); i++) {
        const gguf_key *key = gguf_key_at(g, i);
        char name[80] = {0};
        memcpy(name, key->name.data, key->name.bytes);
        bool first = i == 0;
        refuse(damaged(&s, g, &(damage){.drop = name}), HOTSET_E_FORMAT,
               first ? "not an activation profile: general.architecture is ''" : name);
        refuse(damaged(&s, g, &(damage){.retype = name}), HOTSET_E_FORMAT, name);
        if (key->kind == GGUF_KIND_ARRAY)
            refuse(damaged(&s, g, &(damage){.shorten = name}), HOTSET_E_FORMAT, "items, not");
    }
    gguf_free(g);
    scratch_remove(&s);
}

Test(activation_file, every_tensor_is_needed_in_its_type_and_length) {
    scratch s = scratch_make();
    gguf *g = open_file(some_file(&s));
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        char name[80] = {0};
        memcpy(name, gguf_tensor_at(g, i)->name.data, gguf_tensor_at(g, i)->name.bytes);
        refuse(damaged(&s, g, &(damage){.drop = name}), HOTSET_E_FORMAT, "is missing");
        refuse(damaged(&s, g, &(damage){.retype = name}), HOTSET_E_FORMAT, "is not a row of");
        if (gguf_tensor_at(g, i)->dim[0] > 1)
            refuse(damaged(&s, g, &(damage){.shorten = name}), HOTSET_E_FORMAT, "is not a row of");
    }
    refuse(damaged(&s, g, &(damage){.extra = true}), HOTSET_E_FORMAT, "16 tensors, the profile 15");
    gguf_free(g);
    scratch_remove(&s);
}

#define KEY "hotset.activation."

Test(activation_file, wrong_values_are_refused_by_name) {
    static const struct {
        damage d;
        hotset_status status;
        const char *message;
    } cases[] = {
        {{.overwrite = KEY "version", .value = 2}, HOTSET_E_UNSUPPORTED, "version 2, only 1 is supported"},
        {{.overwrite = KEY "token_n", .value = UINT64_MAX}, HOTSET_E_FORMAT, "token_n is -1"},
        {{.overwrite = KEY "token_n", .value = 641}, HOTSET_E_FORMAT, "1 of 641 tokens are of no corpus"},
        {{.overwrite = KEY "chunk_n", .value = 9}, HOTSET_E_FORMAT, "chunk_n is 9, not 2 to 3"},
        {{.overwrite = KEY "window_n", .item_i = 5, .value = 99}, HOTSET_E_FORMAT, "99 windows of 32"},
        {{.overwrite = KEY "corpus.hash", .item_i = 1, .value = 7}, HOTSET_E_FORMAT, "corpus 1 is not in"},
        {{.overwrite = KEY "model.weights", .item_i = 0, .value = 3}, HOTSET_E_FORMAT, "model 1 is not in"},
        {{.overwrite = KEY "hot_units", .value = 0},
         HOTSET_E_FORMAT,
         "hot_units is false, but the layers have"},
        {{.overwrite = KEY "layer.unit_n", .item_i = 0, .value = 0},
         HOTSET_E_FORMAT,
         "blk.0.count is not a row"},
        {{.overwrite = KEY "layer.unit_n", .item_i = 1, .value = 1}, HOTSET_E_FORMAT, "layer 1 has 1 units"},
        {{.overwrite = KEY "layer.unit_n", .item_i = 3, .value = UINT32_MAX},
         HOTSET_E_FORMAT,
         "layer 3 has 4294967295 units, not 1 to 16777216"},
        /* "Neurons" instead of "neurons"; the 4 is the first byte of the length of "none" */
        {{.overwrite = KEY "layer.kind", .item_i = 1, .value = 0x04736E6F7275654E},
         HOTSET_E_FORMAT,
         "layer 0 has unknown kind 'Neurons'"},
        {{.overwrite = KEY "function", .item_i = 1, .value = 0}, HOTSET_E_FORMAT, "has a NUL"},
        {{.overwrite = "blk.2.router_mass", .value = (uint64_t)1 << 63},
         HOTSET_E_FORMAT,
         "router mass of unit 0"},
        {{.overwrite = "blk.2.reuse", .value = 1}, HOTSET_E_FORMAT, "layer 2: "},
        {{.overwrite = "blk.3.size", .item_i = 7, .value = 0}, HOTSET_E_FORMAT, "are in no size bin"},
    };
    scratch s = scratch_make();
    gguf *g = open_file(some_file(&s));
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        refuse(damaged(&s, g, &cases[i].d), cases[i].status, cases[i].message);
    refuse(scratch_path(&s, "absent.gguf"), HOTSET_E_IO, "absent.gguf");
    gguf_free(g);
    scratch_remove(&s);
}

/* Opens bytes as a profile: refused with a message, or one that holds its invariants. */
static bool accepted(const uint8_t *data, uint64_t bytes) {
    gguf *g;
    activation_profile *p = NULL;
    hotset_error failure = {0};
    hotset_status status = gguf_open_memory(&g, data, bytes, &failure);
    if (status == HOTSET_OK) {
        status = activation_parse(&p, g, &failure);
        gguf_free(g);
    }
    cr_assert((status == HOTSET_OK) == (p != NULL));
    if (!p) cr_assert(failure.status == status && failure.message[0]);
    if (p) OK(activation_check(p, err));
    activation_free(p);
    return status == HOTSET_OK;
}

Test(activation_file, truncation_and_flipped_bits) {
    scratch s = scratch_make();
    gguf *g = open_file(some_file(&s));
    uint64_t bytes = gguf_file_bytes(g), data_end = 0;
    uint8_t *copy = malloc(bytes);
    memcpy(copy, gguf_part_map(g, 0)->data, bytes);
    cr_assert(accepted(copy, bytes));
    for (uint64_t i = 0; i < gguf_tensor_n(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        data_end = max_u64(data_end, t->offset_bytes + t->bytes);
        /* one bit more or less in a count or a histogram cannot go unnoticed; masses and unions have slack */
        bool exact = is("blk.0.count", t->name) || is("blk.2.count", t->name) || is("blk.2.reuse", t->name) ||
                     is("blk.3.size", t->name);
        for (uint64_t bit = 0; exact && bit < t->bytes * 8; bit++) {
            copy[t->offset_bytes + bit / 8] ^= (uint8_t)(1 << bit % 8);
            cr_assert_not(accepted(copy, bytes), "tensor %llu, bit %llu", (unsigned long long)i,
                          (unsigned long long)bit);
            copy[t->offset_bytes + bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
    for (uint64_t n = 0; n < data_end; n++) { /* what is cut off lies behind the end of the allocation */
        uint8_t *part = malloc(n + 1);
        memcpy(part, copy, n);
        cr_assert_not(accepted(part, n), "%llu of %llu bytes", (unsigned long long)n,
                      (unsigned long long)bytes);
        free(part);
    }
    for (uint64_t bit = 0; bit < bytes * 8; bit++) {
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        (void)accepted(copy, bytes); /* neither outcome may crash */
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(copy);
    gguf_free(g);
    scratch_remove(&s);
}
