/* test_activation.c - activation profiles in memory: recorded against a second count, checked, merged. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
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

#define REFUSED(call, status_, text)                                                                         \
    do {                                                                                                     \
        hotset_error err_ = {0};                                                                             \
        hotset_error *err = &err_;                                                                           \
        cr_expect_eq((call), (status_), "%s", text);                                                         \
        cr_expect(strstr(err_.message, text), "'%s' does not contain '%s'", err_.message, text);             \
    } while (0)

/* Texts that end in, at and behind the borders of windows and chunks; corpus 9 has two of them. */
static const naive_text texts[] = {
    {9, "b.txt", 1300, 1}, {7, "a.txt", 512, 2},  {8, "c.txt", 513, 3}, {9, "b.txt", 31, 4},
    {6, "", 0, 5},         {5, "e.txt", 1023, 6}, {4, "f.txt", 1, 7},   {3, "g.txt", 97, 8},
};

/* ---- Recording -------------------------------------------------------------------------------------- */

Test(activation, what_is_recorded_equals_a_second_count) {
    activation_profile *all = naive_profile(1, "m"), *all_counted = naive_profile(1, "m");
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        activation_profile *p = naive_profile(1, "m"), *counted = naive_profile(1, "m");
        naive_record(p, &texts[i]);
        naive_count(counted, &texts[i]);
        naive_compare(p, counted);
        OK(activation_check(p, err));
        naive_record(all, &texts[i]);
        naive_count(all_counted, &texts[i]);
        activation_free(p);
        activation_free(counted);
    }
    naive_compare(all, all_counted);
    OK(activation_check(all, err));
    cr_assert_eq(all->corpus_n, 7u);
    cr_assert(all->corpus[6].hash == 9 && all->corpus[6].text_n == 2 && all->corpus[6].token_n == 1331);
    for (int k = 0; k < ACTIVATION_REUSE_N; k++) cr_assert_gt(all->layer[5].reuse_n[k], 0, "bin %d", k);
    for (int k = 0; k < ACTIVATION_SIZE_N; k++) cr_assert_gt(all->layer[3].size_n[k], 0, "bin %d", k);
    activation_free(all);
    activation_free(all_counted);
}

/* One recorder for all texts forgets each of them at its end. */
Test(activation, a_recorder_takes_many_texts) {
    activation_profile *p = naive_profile(1, "m"), *counted = naive_profile(1, "m");
    activation_recorder *r;
    static const naive_text twice[] = {{5, "x", 3, 1}, {5, "x", 3, 1}};
    const uint32_t id = 7;
    const float weight = 0.5f, sizes[50] = {0};
    OK(activation_recorder_open(&r, p, err));
    for (int text = 0; text < 2; text++) {
        OK(activation_begin_text(r, 5, "x", err));
        for (uint32_t i = 0; i < naive_layer_n; i++)
            for (int token = 0; token < 3; token++) switch (naive_layers[i].kind) {
                case ACTIVATION_NEURONS: activation_add_list(r, i, &(uint32_t){0}, 1); break;
                case ACTIVATION_EXPERTS: activation_add_experts(r, i, &id, &weight, 1); break;
                case ACTIVATION_SIZES: activation_add_sizes(r, i, sizes); break;
                default: break;
                }
        OK(activation_end_text(r, err));
    }
    activation_recorder_free(r);
    OK(activation_check(p, err));
    const activation_layer *l = &p->layer[2];
    cr_assert(l->count[7] == 6 && l->mass[7] == 6 << 19);
    cr_assert(l->reuse_n[0] == 2 && l->reuse_n[1] == 4);
    cr_assert(l->union_n[0] == 6 && l->union_n[1] == 2 && l->union_n[2] == 0);
    cr_assert(p->window_n[1] == 2 && p->chunk_n == 2 && p->layer[3].size_n[0] == 300);
    for (int i = 0; i < 2; i++) naive_count(counted, &twice[i]);
    cr_assert(p->token_n == counted->token_n && p->corpus[0].text_n == counted->corpus[0].text_n);
    activation_free(p);
    activation_free(counted);
}

Test(activation, unusual_floats) {
    static const activation_units layers[] = {{ACTIVATION_EXPERTS, 8}, {ACTIVATION_SIZES, 8}};
    const activation_facts facts = {.function = "silu", .layer_n = 2, .layer = layers};
    const float weights[8] = {NAN, -1, INFINITY, 64, 63.5f, 0x1p-21f, 0x1.8p-20f, 1e-30f};
    const int64_t mass[8] = {0, 0, 1 << 26, 1 << 26, 127 << 19, 0, 2, 0}; /* halves go to even */
    const float sizes[8] = {NAN, -INFINITY, 0, -0.0f, 1e-40f, 256, -0x1p-24f, 0x1.fffffep-25f};
    const uint32_t ids[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    activation_profile *p;
    activation_recorder *r;
    OK(activation_make(&p, &facts, err));
    OK(activation_recorder_open(&r, p, err));
    OK(activation_begin_text(r, 1, "x", err));
    activation_add_experts(r, 0, ids, weights, 8);
    activation_add_sizes(r, 1, sizes);
    OK(activation_end_text(r, err));
    for (int i = 0; i < 8; i++) cr_expect_eq(p->layer[0].mass[i], mass[i], "weight %d", i);
    cr_assert(p->layer[1].size_n[0] == 4 && p->layer[1].size_n[1] == 1 && p->layer[1].size_n[65] == 3);
    OK(activation_check(p, err));
    activation_recorder_free(r);
    activation_free(p);
}

/* Experts that are named twice count once; sizes that come in bins count as they do one by one. */
Test(activation, repeated_experts_and_binned_sizes) {
    static const activation_units layers[] = {{ACTIVATION_EXPERTS, 8}, {ACTIVATION_SIZES, 50}};
    const activation_facts facts = {.function = "silu", .layer_n = 2, .layer = layers};
    const uint32_t ids[4] = {5, 5, 2, 5};
    const float weights[4] = {0.5f, 0.25f, 0.125f, 1};
    uint32_t binned[ACTIVATION_SIZE_N] = {0};
    float sizes[50];
    activation_profile *p[2];
    for (int i = 0; i < 50; i++) {
        sizes[i] = ldexpf((float)(i % 7) - 3, i - 30);
        binned[activation_size_bin(sizes[i])]++;
    }
    for (int k = 0; k < 2; k++) {
        activation_recorder *r;
        OK(activation_make(&p[k], &facts, err));
        OK(activation_recorder_open(&r, p[k], err));
        OK(activation_begin_text(r, 1, "x", err));
        for (int token = 0; token < 3; token++) {
            activation_add_experts(r, 0, ids, weights, 4);
            if (k)
                activation_add_binned(r, 1, binned);
            else
                activation_add_sizes(r, 1, sizes);
        }
        OK(activation_end_text(r, err));
        OK(activation_check(p[k], err));
        activation_recorder_free(r);
    }
    naive_compare(p[0], p[1]);
    const activation_layer *l = &p[0]->layer[0];
    cr_assert(l->count[5] == 3 && l->count[2] == 3 && l->union_n[0] == 6 && l->union_n[1] == 2);
    cr_assert(l->mass[5] == 3 << 19 && l->mass[2] == 3 << 17);
    cr_assert(l->reuse_n[0] == 2 && l->reuse_n[1] == 4);
    activation_free(p[0]);
    activation_free(p[1]);
}

/* Units that are stored in another order than the profile's count where the profile has them. */
Test(activation, units_under_other_numbers) {
    static const activation_units layers[] = {
        {ACTIVATION_NEURONS, 70}, {ACTIVATION_EXPERTS, 8}, {ACTIVATION_SIZES, 4}};
    const activation_facts facts = {.function = "relu", .layer_n = 3, .layer = layers};
    const float weights[2] = {0.5f, 0.25f}, sizes[4] = {1, 2, 3, 4};
    const uint32_t nobody = 9;
    uint32_t neuron[70], expert[8];
    activation_profile *p[2]; /* of the original, and of one whose units have moved */
    for (uint32_t i = 0; i < 70; i++) neuron[i] = i * 11 % 70; /* unit i was number neuron[i] */
    for (uint32_t i = 0; i < 8; i++) expert[i] = i * 3 % 8;
    neuron[0] = 11, neuron[1] = 0;
    for (int k = 0; k < 2; k++) {
        activation_recorder *r;
        OK(activation_make(&p[k], &facts, err));
        OK(activation_recorder_open(&r, p[k], err));
        if (k) activation_recorder_number(r, 0, neuron);
        if (k) activation_recorder_number(r, 1, expert);
        if (k) activation_recorder_number(r, 2, &nobody);
        OK(activation_begin_text(r, 1, "x", err));
        for (uint32_t token = 0; token < 40; token++) {
            uint32_t used[3] = {token, token + 13, token + 27}, original[3];
            uint32_t chosen[2] = {token % 5, 5 + token % 3}, was[2] = {expert[chosen[0]], expert[chosen[1]]};
            uint64_t bits[2] = {0};
            for (int i = 0; i < 3; i++) {
                original[i] = neuron[used[i]];
                uint32_t id = k ? used[i] : original[i];
                bits[id / 64] |= (uint64_t)1 << id % 64;
            }
            if (token % 2)
                activation_add_bits(r, 0, bits);
            else
                activation_add_list(r, 0, k ? used : original, 3);
            activation_add_experts(r, 1, k ? chosen : was, weights, 2);
            activation_add_sizes(r, 2, sizes);
        }
        OK(activation_end_text(r, err));
        OK(activation_check(p[k], err));
        activation_recorder_free(r);
    }
    naive_compare(p[0], p[1]);
    cr_assert_gt(p[0]->layer[0].count[neuron[20]], 0);
    activation_free(p[0]);
    activation_free(p[1]);
}

Test(activation, layers_that_disagree_about_the_text) {
    activation_profile *p = naive_profile(1, "m");
    activation_recorder *r;
    OK(activation_recorder_open(&r, p, err));
    OK(activation_begin_text(r, 1, "half.txt", err));
    for (uint32_t i = 0; i < naive_layer_n; i++)
        if (naive_layers[i].kind == ACTIVATION_NEURONS && i < 5) activation_add_list(r, i, NULL, 0);
    REFUSED(activation_end_text(r, err), HOTSET_E_ARGUMENT,
            "layer 0 saw 1 tokens of a text of 'half.txt', layer 2 saw 0");
    activation_recorder_free(r);
    activation_recorder_free(NULL);
    activation_free(p);
}

Test(activation, a_profile_that_is_full_takes_no_text) {
    activation_profile *p = naive_profile(1, "m");
    activation_recorder *r;
    OK(activation_recorder_open(&r, p, err));
    p->token_n = ACTIVATION_TOKEN_MAX - UINT32_MAX + 1;
    REFUSED(activation_begin_text(r, 1, "x", err), HOTSET_E_ARGUMENT,
            "a further text could exceed 68719476736");
    cr_assert_eq(p->corpus_n, 0u);
    activation_recorder_free(r);
    activation_free(p);
}

/* What only a bug of the caller can do stops the program. */
static void misuse(int which) {
    activation_profile *p = naive_profile(1, "m");
    activation_recorder *r;
    const uint64_t beyond[4] = {0, 0, 0, 1 << 8};
    OK(activation_recorder_open(&r, p, err));
    if (which == 0) activation_add_list(r, 0, NULL, 0); /* no text */
    OK(activation_begin_text(r, 1, "x", err));
    if (which == 1) activation_add_bits(r, 0, beyond); /* unit 200 of 200 */
    if (which == 2) activation_add_list(r, 0, (uint32_t[]){200}, 1);
    if (which == 3) activation_add_list(r, 0, (uint32_t[]){5, 5}, 2);
    if (which == 4) activation_add_list(r, 2, (uint32_t[]){5}, 1); /* experts */
    if (which == 5) activation_add_list(r, naive_layer_n, NULL, 0);
}
Test(activation, misuse_no_text, .signal = SIGABRT) { misuse(0); }
Test(activation, misuse_bits_beyond, .signal = SIGABRT) { misuse(1); }
Test(activation, misuse_id_beyond, .signal = SIGABRT) { misuse(2); }
Test(activation, misuse_id_twice, .signal = SIGABRT) { misuse(3); }
Test(activation, misuse_kind, .signal = SIGABRT) { misuse(4); }
Test(activation, misuse_layer, .signal = SIGABRT) { misuse(5); }

/* ---- Making and checking ---------------------------------------------------------------------------- */

Test(activation, wrong_facts_are_refused) {
    static const activation_units good[] = {{ACTIVATION_NEURONS, 1}};
    static const struct {
        activation_units layer;
        uint32_t layer_n;
        const char *function, *message;
    } cases[] = {
        {{ACTIVATION_NEURONS, 1}, 0, "relu", "0 layers, not 1 to 4096"},
        {{ACTIVATION_NEURONS, 1}, 4097, "relu", "4097 layers, not 1 to 4096"},
        {{ACTIVATION_NEURONS, 1}, 1, "", "has not 1 to 15 bytes"},
        {{ACTIVATION_NEURONS, 1}, 1, "0123456789abcdef", "has not 1 to 15 bytes"},
        {{ACTIVATION_NEURONS, 0}, 1, "relu", "layer 0 has 0 units, not 1 to 16777216"},
        {{ACTIVATION_EXPERTS, 16777217}, 1, "relu", "layer 0 has 16777217 units"},
        {{ACTIVATION_NONE, 1}, 1, "relu", "layer 0 has 1 units, not 0 to 0"},
        {{ACTIVATION_KIND_COUNT, 1}, 1, "relu", "layer 0 has unknown kind 4"},
    };
    activation_profile *p;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        activation_facts facts = {
            .function = cases[i].function, .layer_n = cases[i].layer_n, .layer = &cases[i].layer};
        REFUSED(activation_make(&p, &facts, err), HOTSET_E_ARGUMENT, cases[i].message);
        cr_assert_null(p);
    }
    char name[200]; /* cut before the two bytes of a character that do not both fit */
    memset(name, 'n', sizeof name);
    memcpy(name + ACTIVATION_NAME_BYTES - 2, "\xC3\xA4", 2);
    name[199] = 0;
    OK(activation_make(&p, &(activation_facts){.name = name, .function = "relu", .layer_n = 1, .layer = good},
                       err));
    cr_assert_eq(strlen(p->model->name), ACTIVATION_NAME_BYTES - 2u);
    activation_free(p);
    activation_free(NULL);
}

/* One broken invariant each. Layers: 0 neurons, 1 none, 2 experts, 3 sizes. */
static const struct {
    const char *message;
    int which;
} broken[] = {
    {"has not 1 to 15 bytes", 0},
    {"layer 1 has 7 units, not 0 to 0", 1},
    {"token_n is -1", 2},
    {"token_n is 68719476737", 3},
    {"the profile has 0 models", 4},
    {"the name of model 0 is too long", 5},
    {"the name of corpus 0 is too long", 6},
    {"corpus 1 is not in ascending order", 7},
    {"corpus 0 has 0 texts, not 1 to", 8},
    {"corpus 0 has -1 tokens", 9},
    {"corpus 1 has 701 tokens, of the profile's 800 tokens only 700 are left", 10},
    {"1 of 800 tokens are of no corpus", 11},
    {"chunk_n is 1, not 2 to 3", 12},
    {"chunk_n is 4, not 2 to 3", 13},
    {"there are 799 windows of 1 token, but 800 tokens", 14},
    {"there are 401 windows of 2 tokens, not 399 to 400", 15},
    {"there are 10 windows of 32 tokens, not 24 to 24", 16},
    {"layer 0: the count of unit 0 is -1, not 0 to 800", 17},
    {"layer 0: the count of unit 3 is 801", 18},
    {"layer 0: counts add up to", 19},
    {"layer 0: the unions of 8 tokens have -1 units", 20},
    {"layer 0: the unions of 32 tokens have", 21},
    {"layer 0: the unions of 2 tokens have", 22},
    {"layer 2: the router mass of unit 0 is -1", 23},
    {"layer 2: the router mass of unit 15 is 1, not 0 to 0", 24},
    {"layer 2: reuse bin 1 has -1 uses", 25},
    {"layer 2: reuse bin 9 has", 26},
    {"layer 2: 1 of", 27},
    {"layer 2: 1 first uses, not", 28},
    {"layer 3: size bin 65 has -1 activations", 29},
    {"layer 3: size bin 65 has", 30},
    {"layer 3: 1 of 40000 activations are in no size bin", 31},
};

static void break_head(activation_profile *p, int which) {
    switch (which) {
    case 0: memset(p->function, 'x', sizeof p->function); break;
    case 1: p->layer[1].unit_n = 7; break;
    case 2: p->token_n = -1; break;
    case 3: p->token_n = ACTIVATION_TOKEN_MAX + 1; break;
    case 4: p->model_n = 0; break;
    case 5: memset(p->model->name, 'x', sizeof p->model->name); break;
    case 6: memset(p->corpus->name, 'x', sizeof p->corpus->name); break;
    case 7: p->corpus[1].hash = p->corpus[0].hash; break;
    case 8: p->corpus[0].text_n = 0; break;
    case 9: p->corpus[0].token_n = -1; break;
    case 10: p->corpus[1].token_n++; break;
    case 11: p->corpus[1].token_n--; break;
    case 12: p->chunk_n = 1; break;
    case 13: p->chunk_n = 4; break;
    case 14: p->window_n[0]--; break;
    case 15: p->window_n[1]++; break;
    default: p->window_n[5] = 10; break;
    }
}

static void break_layers(activation_profile *p, int which) {
    activation_layer *neurons = &p->layer[0], *experts = &p->layer[2], *sizes = &p->layer[3];
    switch (which) {
    case 17: neurons->count[0] = -1; break;
    case 18: neurons->count[3] = 801; break;
    case 19: neurons->count[0]--; break;
    case 20: neurons->union_n[3] = -1; break;
    case 21: neurons->union_n[5] = p->window_n[5] * neurons->unit_n + 1; break;
    case 22: neurons->union_n[1] = neurons->union_n[0] / 2 - neurons->unit_n; break;
    case 23: experts->mass[0] = -1; break;
    case 24: experts->mass[15] = experts->count[15] * ACTIVATION_MASS_MAX + 1; break;
    case 25: experts->reuse_n[1] = -1; break;
    case 26: experts->reuse_n[9]++; break;
    case 27: experts->reuse_n[1]--; break;
    case 28:
        experts->reuse_n[1] += experts->reuse_n[0] - 1;
        experts->reuse_n[0] = 1;
        break;
    case 29: sizes->size_n[65] = -1; break;
    case 30: sizes->size_n[65]++; break;
    default: sizes->size_n[65]--; break;
    }
}

Test(activation, every_broken_invariant_is_named) {
    static const naive_text two[] = {{1, "a", 100, 1}, {2, "b", 700, 2}};
    for (size_t i = 0; i < COUNT_OF(broken); i++) {
        activation_profile *p = naive_profile(1, "m");
        for (int j = 0; j < 2; j++) naive_record(p, &two[j]);
        OK(activation_check(p, err));
        /* an expert that was never used must have no mass */
        p->layer[2].union_n[0] -= p->layer[2].count[15];
        p->layer[2].reuse_n[0] -= p->layer[2].count[15];
        p->layer[2].count[15] = p->layer[2].mass[15] = 0;
        OK(activation_check(p, err));
        if (broken[i].which < 17)
            break_head(p, broken[i].which);
        else
            break_layers(p, broken[i].which);
        REFUSED(activation_check(p, err), HOTSET_E_FORMAT, broken[i].message);
        activation_free(p);
    }
}

Test(activation, hot_units_and_matching) {
    static const activation_units silu[] = {{ACTIVATION_SIZES, 10}, {ACTIVATION_NONE, 0}};
    const activation_facts facts = {
        .shape = 5, .weights = 6, .function = "silu", .layer_n = 2, .layer = silu};
    activation_profile *p, *q = naive_profile(1, "m");
    bool differ = true;
    OK(activation_make(&p, &facts, err));
    cr_assert_not(activation_has_hot_units(p));
    cr_assert(activation_has_hot_units(q));
    OK(activation_match(p, 5, 6, &differ, err));
    cr_assert_not(differ);
    OK(activation_match(p, 5, 7, &differ, err));
    cr_assert(differ);
    REFUSED(activation_match(p, 0xABC, 6, &differ, err), HOTSET_E_ARGUMENT,
            "fingerprint 0000000000000005, the model has 0000000000000abc");
    activation_free(p);
    activation_free(q);
}

/* ---- Merging ---------------------------------------------------------------------------------------- */

static activation_profile *recorded(const naive_text *text, uint64_t weights, const char *name) {
    activation_profile *p = naive_profile(weights, name);
    naive_record(p, text);
    return p;
}

/* A file's bytes, on the heap. */
static uint8_t *bytes_of(const activation_profile *p, uint64_t *bytes) {
    scratch s = scratch_make();
    const char *path = scratch_path(&s, "p.gguf");
    file_map map;
    OK(activation_write(p, path, err));
    OK(file_map_open(&map, path, err));
    uint8_t *copy = malloc(map.bytes);
    memcpy(copy, map.data, map.bytes);
    *bytes = map.bytes;
    file_map_close(&map);
    scratch_remove(&s);
    return copy;
}

/* Merging parts in any order and grouping gives the bytes of one recording of them all. */
Test(activation, merging_in_any_order_gives_the_same_bytes) {
    enum { PART_N = 4 };
    static const naive_text parts[PART_N] = {
        {9, "b.txt", 600, 1}, {7, "a.txt", 40, 2}, {9, "B.txt", 33, 3}, {1, "c.txt", 512, 4}};
    activation_profile *whole = naive_profile(1, "m"), *part[PART_N];
    uint64_t whole_bytes, bytes;
    for (int i = 0; i < PART_N; i++) {
        part[i] = recorded(&parts[i], 1, "m");
        naive_record(whole, &parts[i]);
    }
    uint8_t *expected = bytes_of(whole, &whole_bytes);
    for (int order = 0; order < 24; order++)
        for (int grouping = 0; grouping < 2; grouping++) {
            activation_profile *p[PART_N], *swap;
            for (int i = 0; i < PART_N; i++) {
                p[i] = naive_profile(1, "m"); /* with the empty profile merging makes a copy */
                OK(activation_merge(p[i], part[i], NULL, err));
            }
            for (int i = 0, left = order; i < PART_N; i++) { /* the permutation with this number */
                int j = i + left % (PART_N - i);
                left /= PART_N - i;
                swap = p[i];
                p[i] = p[j];
                p[j] = swap;
            }
            if (grouping) { /* (0 1) (2 3), else ((0 1) 2) 3 */
                OK(activation_merge(p[2], p[3], NULL, err));
                OK(activation_merge(p[0], p[1], NULL, err));
                OK(activation_merge(p[0], p[2], NULL, err));
            } else {
                for (int i = 1; i < PART_N; i++) OK(activation_merge(p[0], p[i], NULL, err));
            }
            OK(activation_check(p[0], err));
            naive_compare(p[0], whole);
            uint8_t *merged = bytes_of(p[0], &bytes);
            cr_assert(bytes == whole_bytes && memcmp(merged, expected, bytes) == 0);
            free(merged);
            for (int i = 0; i < PART_N; i++) activation_free(p[i]);
        }
    cr_assert_str_eq(whole->corpus[2].name, "B.txt"); /* of two names the first */
    for (int i = 0; i < PART_N; i++) activation_free(part[i]);
    free(expected);
    activation_free(whole);
}

Test(activation, merging_notes_what_deserves_a_warning) {
    static const naive_text a = {1, "a", 50, 1}, b = {2, "b", 50, 2};
    activation_profile *p = recorded(&a, 10, "m"), *other_corpus = recorded(&b, 10, "m"),
                       *other_name = recorded(&b, 10, "m Q4_0"), *other_weights = recorded(&b, 11, "m");
    unsigned notes = 99;
    OK(activation_merge(p, other_corpus, &notes, err));
    cr_assert_eq(notes, 0u);
    OK(activation_merge(p, other_name, &notes, err)); /* a quantisation; its corpus is there already */
    cr_assert_eq(notes, (unsigned)ACTIVATION_CORPUS_AGAIN);
    cr_assert(p->model_n == 2 && p->corpus_n == 2 && p->corpus[1].token_n == 100 && p->corpus[1].text_n == 2);
    OK(activation_merge(p, other_weights, &notes, err));
    cr_assert_eq(notes, (unsigned)(ACTIVATION_CORPUS_AGAIN | ACTIVATION_WEIGHTS_DIFFER));
    cr_assert(p->model_n == 3 && p->model[2].weights == 11);
    OK(activation_check(p, err));
    bool differ = false;
    OK(activation_match(p, p->shape, 10, &differ, err));
    cr_assert(differ);
    activation_free(p);
    activation_free(other_corpus);
    activation_free(other_name);
    activation_free(other_weights);
}

static activation_profile *changed(int which) {
    activation_units layers[COUNT_OF(texts)];
    memcpy(layers, naive_layers, naive_layer_n * sizeof *layers);
    if (which == 3) layers[2].kind = ACTIVATION_NEURONS;
    if (which == 4) layers[2].unit_n = 17;
    activation_profile *p, *same = naive_profile(1, "m");
    activation_facts facts = {.shape = same->shape + (which == 0),
                              .weights = 1,
                              .function = which == 1 ? "silu" : "relu",
                              .layer_n = naive_layer_n - (which == 2),
                              .layer = layers};
    OK(activation_make(&p, &facts, err));
    activation_free(same);
    return p;
}

Test(activation, profiles_of_different_shapes_do_not_merge) {
    static const char *const messages[] = {
        "different shapes: fingerprints fedcba9876543210 and fedcba9876543211",
        "different activation functions: relu and silu",
        "have 7 and 6 layers",
        "layer 2 is of different kinds",
        "layer 2 has 16 units in one profile, 17 in the other",
    };
    activation_profile *p = recorded(&texts[3], 1, "m"), *before = recorded(&texts[3], 1, "m");
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        activation_profile *other = changed((int)i);
        REFUSED(activation_merge(p, other, NULL, err), HOTSET_E_ARGUMENT, messages[i]);
        naive_compare(p, before);
        activation_free(other);
    }
    before->token_n = ACTIVATION_TOKEN_MAX;
    REFUSED(activation_merge(p, before, NULL, err), HOTSET_E_ARGUMENT, "more than 68719476736 tokens");
    activation_free(p);
    activation_free(before);
}

Test(activation, lists_that_are_full_do_not_merge) {
    activation_profile *p = naive_profile(0, "m"), *q = naive_profile(1, "m");
    activation_corpus *corpus;
    for (uint64_t i = 0; i < ACTIVATION_CORPUS_MAX; i++) {
        OK(activation_add_corpus(p, i, "", &corpus, err));
        corpus->text_n = 1;
    }
    REFUSED(activation_add_corpus(p, ACTIVATION_CORPUS_MAX, "", &corpus, err), HOTSET_E_ARGUMENT,
            "more than 4096 corpora");
    OK(activation_add_corpus(q, ACTIVATION_CORPUS_MAX, "", &corpus, err));
    corpus->text_n = 1;
    REFUSED(activation_merge(p, q, NULL, err), HOTSET_E_ARGUMENT, "4097 corpora, more than 4096");
    q->corpus_n = 0;
    for (uint64_t i = 1; i <= ACTIVATION_MODEL_MAX; i++) {
        q->model->weights = i;
        if (i < ACTIVATION_MODEL_MAX)
            OK(activation_merge(p, q, NULL, err));
        else
            REFUSED(activation_merge(p, q, NULL, err), HOTSET_E_ARGUMENT, "257 models, more than 256");
    }
    OK(activation_check(p, err));
    activation_free(p);
    activation_free(q);
}
