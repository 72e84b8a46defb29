/* activation_naive.c - random activations, recorded and, independently, counted by the definitions. */
#include "tests/activation_naive.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gguf_bytes.h"

const activation_units naive_layers[] = {
    {ACTIVATION_NEURONS, 200}, {ACTIVATION_NONE, 0},     {ACTIVATION_EXPERTS, 16}, {ACTIVATION_SIZES, 50},
    {ACTIVATION_NEURONS, 64},  {ACTIVATION_EXPERTS, 70}, {ACTIVATION_NEURONS, 1},
};
const uint32_t naive_layer_n = COUNT_OF(naive_layers);

/* ---- Activations ------------------------------------------------------------------------------------ */

/* Some units are hot, most are rare, so that reuse distances of every length occur. */
float naive_value(const naive_text *text, uint32_t layer_i, uint32_t token_i, uint32_t unit_i) {
    uint64_t state = text->seed + (((uint64_t)layer_i << 24 | token_i) << 24 | unit_i);
    uint64_t random = next_random(&state);
    float uniform = (float)(random >> 40) * 0x1p-24f;
    if (naive_layers[layer_i].kind == ACTIVATION_SIZES) /* 2^-30 to 2^12, both signs */
        return (random & 1 ? 1.0f : -1.0f) * exp2f(42 * uniform - 30);
    bool used = uniform < 0.8f / (float)(1 + unit_i * unit_i / 4);
    return used ? 0.001f + 1.7f * uniform : 0;
}

activation_profile *naive_profile(uint64_t weights, const char *name) {
    activation_profile *p;
    hotset_error err = {0};
    activation_facts facts = {.shape = 0xFEDCBA9876543210u,
                              .weights = weights,
                              .name = name,
                              .function = "relu",
                              .layer_n = naive_layer_n,
                              .layer = naive_layers};
    cr_assert_eq(activation_make(&p, &facts, &err), HOTSET_OK, "%s", err.message);
    return p;
}

/* ---- Recorded --------------------------------------------------------------------------------------- */

static void record_token(activation_recorder *r, const naive_text *text, uint32_t layer_i, uint32_t token_i) {
    float values[NAIVE_UNIT_MAX], weights[NAIVE_UNIT_MAX];
    uint32_t ids[NAIVE_UNIT_MAX], id_n = 0;
    uint64_t bits[(NAIVE_UNIT_MAX + 63) / 64] = {0};
    for (uint32_t i = naive_layers[layer_i].unit_n; i-- > 0;) { /* lists need no order */
        values[i] = naive_value(text, layer_i, token_i, i);
        if (values[i] == 0) continue;
        bits[i / 64] |= (uint64_t)1 << i % 64;
        weights[id_n] = values[i];
        ids[id_n++] = i;
    }
    switch (naive_layers[layer_i].kind) {
    case ACTIVATION_NEURONS:
        if (token_i % 3)
            activation_add_bits(r, layer_i, bits);
        else
            activation_add_list(r, layer_i, ids, id_n);
        break;
    case ACTIVATION_EXPERTS: activation_add_experts(r, layer_i, ids, weights, id_n); break;
    case ACTIVATION_SIZES: activation_add_sizes(r, layer_i, values); break;
    default: break;
    }
}

void naive_record(activation_profile *p, const naive_text *text) {
    activation_recorder *r;
    hotset_error err = {0};
    uint64_t state = text->seed;
    cr_assert_eq(activation_recorder_open(&r, p, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(activation_begin_text(r, text->hash, text->name, &err), HOTSET_OK, "%s", err.message);
    for (uint32_t from = 0, to; from < text->token_n; from = to) {
        to = (uint32_t)min_u64(text->token_n, from + 1 + next_random(&state) % 90);
        for (uint32_t layer_i = 0; layer_i < naive_layer_n; layer_i++)
            for (uint32_t i = from; i < to; i++) record_token(r, text, layer_i, i);
    }
    cr_assert_eq(activation_end_text(r, &err), HOTSET_OK, "%s", err.message);
    activation_recorder_free(r);
}

/* ---- Counted by the definitions --------------------------------------------------------------------- */

/* [token][unit] */
typedef struct table {
    uint32_t token_n, unit_n;
    float *value;
} table;

static float at(const table *t, uint32_t token_i, uint32_t unit_i) {
    return t->value[(size_t)token_i * t->unit_n + unit_i];
}

static void count_unions(activation_layer *l, const table *t) {
    for (uint32_t chunk = 0; chunk < t->token_n; chunk += ACTIVATION_CHUNK_TOKENS) {
        uint32_t end = (uint32_t)min_u64(t->token_n, chunk + ACTIVATION_CHUNK_TOKENS);
        for (int k = 0; k < ACTIVATION_WINDOW_N; k++)
            for (uint32_t from = chunk, w = 1u << k; from + w <= end; from += w)
                for (uint32_t u = 0; u < t->unit_n; u++) {
                    bool used = false;
                    for (uint32_t i = from; i < from + w; i++) used |= at(t, i, u) != 0;
                    l->union_n[k] += used;
                }
    }
}

static void count_experts(activation_layer *l, const table *t) {
    for (uint32_t u = 0; u < t->unit_n; u++)
        for (uint32_t i = 0; i < t->token_n; i++) {
            uint32_t distance = 1, within = i % ACTIVATION_CHUNK_TOKENS;
            if (at(t, i, u) == 0) continue;
            l->mass[u] += llrint((double)at(t, i, u) * 1048576);
            while (distance <= within && at(t, i - distance, u) == 0) distance++;
            l->reuse_n[distance <= within ? 1 + (int)floor(log2(distance)) : 0]++;
        }
}

/* The bins are given by their borders. */
static void count_sizes(activation_layer *l, const table *t) {
    for (uint32_t i = 0; i < t->token_n; i++)
        for (uint32_t u = 0; u < t->unit_n; u++) {
            double size = fabs((double)at(t, i, u));
            int bin = 0;
            while (bin < ACTIVATION_SIZE_N - 1 && size >= exp2(bin / 2.0 - 24)) bin++;
            l->size_n[bin]++;
        }
}

static void count_layer(activation_layer *l, const naive_text *text, uint32_t layer_i) {
    table t = {.token_n = text->token_n, .unit_n = l->unit_n};
    t.value = calloc((size_t)t.token_n * t.unit_n + 1, sizeof *t.value);
    cr_assert_not_null(t.value);
    for (uint32_t i = 0; i < t.token_n; i++)
        for (uint32_t u = 0; u < t.unit_n; u++) {
            float value = naive_value(text, layer_i, i, u);
            t.value[(size_t)i * t.unit_n + u] = value;
            if (l->count) l->count[u] += value != 0;
        }
    if (l->count) count_unions(l, &t);
    if (l->kind == ACTIVATION_EXPERTS) count_experts(l, &t);
    if (l->kind == ACTIVATION_SIZES) count_sizes(l, &t);
    free(t.value);
}

void naive_count(activation_profile *p, const naive_text *text) {
    activation_corpus *corpus;
    hotset_error err = {0};
    cr_assert_eq(activation_add_corpus(p, text->hash, text->name, &corpus, &err), HOTSET_OK, "%s",
                 err.message);
    corpus->text_n++;
    corpus->token_n += text->token_n;
    p->token_n += text->token_n;
    for (uint32_t chunk = 0; chunk < text->token_n; chunk += ACTIVATION_CHUNK_TOKENS) {
        uint32_t end = (uint32_t)min_u64(text->token_n, chunk + ACTIVATION_CHUNK_TOKENS);
        p->chunk_n++;
        for (int k = 0; k < ACTIVATION_WINDOW_N; k++) p->window_n[k] += (end - chunk) / (1u << k);
    }
    for (uint32_t i = 0; i < p->layer_n; i++) count_layer(&p->layer[i], text, i);
}

/* ---- Comparing -------------------------------------------------------------------------------------- */

static void compare_numbers(const int64_t *a, const int64_t *b, uint32_t n, const char *what,
                            uint32_t layer_i) {
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(a[i], b[i], "layer %u: %s %u: %lld, %lld", layer_i, what, i, (long long)a[i],
                     (long long)b[i]);
}

static void compare_layers(const activation_layer *a, const activation_layer *b, uint32_t layer_i) {
    cr_assert(a->kind == b->kind && a->unit_n == b->unit_n);
    cr_assert(!a->count == !b->count && !a->mass == !b->mass);
    if (a->count) compare_numbers(a->count, b->count, a->unit_n, "count", layer_i);
    if (a->mass) compare_numbers(a->mass, b->mass, a->unit_n, "mass", layer_i);
    compare_numbers(a->union_n, b->union_n, ACTIVATION_WINDOW_N, "union", layer_i);
    compare_numbers(a->reuse_n, b->reuse_n, ACTIVATION_REUSE_N, "reuse", layer_i);
    compare_numbers(a->size_n, b->size_n, ACTIVATION_SIZE_N, "size", layer_i);
}

void naive_compare(const activation_profile *a, const activation_profile *b) {
    cr_assert_eq(a->shape, b->shape);
    cr_assert_str_eq(a->function, b->function);
    cr_assert(a->layer_n == b->layer_n && a->model_n == b->model_n && a->corpus_n == b->corpus_n);
    for (uint32_t i = 0; i < a->model_n; i++) {
        cr_assert_eq(a->model[i].weights, b->model[i].weights);
        cr_assert_str_eq(a->model[i].name, b->model[i].name);
    }
    for (uint32_t i = 0; i < a->corpus_n; i++) {
        const activation_corpus *c = &a->corpus[i], *d = &b->corpus[i];
        cr_assert(c->hash == d->hash && c->token_n == d->token_n && c->text_n == d->text_n);
        cr_assert_str_eq(c->name, d->name);
    }
    cr_assert(a->token_n == b->token_n && a->chunk_n == b->chunk_n);
    compare_numbers(a->window_n, b->window_n, ACTIVATION_WINDOW_N, "windows", 0);
    for (uint32_t i = 0; i < a->layer_n; i++) compare_layers(&a->layer[i], &b->layer[i], i);
}
