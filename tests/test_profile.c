/* test_profile.c - activation profiles of running models: counts against a second count by a float64 forward
 * pass, merging, continuing, stopping, and which model a profile serves. */
#include "profiles/activation.h"
#include "tests/float64_forward.h"
#include "tests/rig.h"
#include "tests/thinned.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 700, CONTEXT_N = 48 };

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

/* Words of a few letters. */
static void make_text(uint64_t seed, char text[TEXT_BYTES + 1]) {
    int32_t letter[TEXT_BYTES];
    tiny_tokens(seed, 32, letter, TEXT_BYTES);
    for (int i = 0; i < TEXT_BYTES; i++) text[i] = letter[i] < 26 ? (char)('a' + letter[i]) : ' ';
    text[TEXT_BYTES] = 0;
}

static hotset_corpus corpus_of(const char *name, const char *text) {
    return (hotset_corpus){.name = name, .text = text, .text_bytes = strlen(text)};
}

static hotset_profile *new_profile(const rig *r) {
    hotset_profile *p = NULL;
    OK(hotset_profile_open(&p, r->model, NULL, NULL, err));
    return p;
}

static void record(const rig *r, hotset_profile *p, const char *name, const char *text) {
    hotset_corpus corpus = corpus_of(name, text);
    OK(hotset_profile_record(p, r->session, &corpus, NULL, NULL, err));
}

/* The bytes of the profile's file, which the reader has accepted; free() them. */
static char *bytes_of(const hotset_profile *p, size_t *bytes) {
    char path[256], *data = malloc(1 << 20);
    hotset_profile *again = NULL;
    rig_temporary(path, sizeof path);
    OK(hotset_profile_write(p, path, err));
    OK(hotset_profile_open(&again, NULL, path, NULL, err));
    hotset_profile_free(again);
    FILE *in = fopen(path, "rb");
    cr_assert(in && data);
    *bytes = fread(data, 1, 1 << 20, in);
    fclose(in);
    unlink(path);
    return data;
}

static bool equal(const hotset_profile *a, const hotset_profile *b) {
    size_t a_bytes, b_bytes;
    char *x = bytes_of(a, &a_bytes), *y = bytes_of(b, &b_bytes);
    bool same = a_bytes == b_bytes && !memcmp(x, y, a_bytes);
    free(x), free(y);
    return same;
}

/* ---- The second count ------------------------------------------------------------------------------- */

/* What float and double may see differently is doubtful: values within this of a border. */
static const double doubt = 2e-5;

typedef struct count {
    int64_t sure, doubtful;
    double mass;
} count;

/* size_below[k]: activations below the upper border of bin k. */
typedef struct naive_layer {
    size_t unit_n;
    count *unit;
    int64_t below_surely[ACTIVATION_SIZE_N], below_possibly[ACTIVATION_SIZE_N];
} naive_layer;

typedef struct naive {
    const gguf *file;
    const tiny_model *model;
    naive_layer layer[8];
    size_t n; /* tokens of the text that is evaluated */
    int64_t token_n;
} naive;

static const gguf_tensor *tensor_of(const naive *v, size_t layer_i, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "blk.%zu.%s", layer_i, name);
    return gguf_find_tensor(v->file, full);
}

/* [n][rows of w] = w x + b */
static double *product(const naive *v, const gguf_tensor *w, const gguf_tensor *b, const double *x) {
    size_t in_n = w->dim[0], out_n = w->dim[1];
    double *row = calloc(in_n, sizeof *row), *bias = calloc(out_n, sizeof *bias);
    double *y = calloc(v->n * out_n, sizeof *y);
    cr_assert(row && bias && y);
    if (b) float64_row(b, 0, bias);
    for (size_t o = 0; o < out_n; o++) {
        float64_row(w, o, row);
        for (size_t t = 0; t < v->n; t++) {
            double sum = bias[o];
            for (size_t i = 0; i < in_n; i++) sum += row[i] * x[t * in_n + i];
            y[t * out_n + o] = sum;
        }
    }
    free(row), free(bias);
    return y;
}

static void count_neurons(const naive *v, naive_layer *l, const double *gate) {
    for (size_t i = 0; i < v->n * l->unit_n; i++) {
        l->unit[i % l->unit_n].sure += gate[i] > doubt;
        l->unit[i % l->unit_n].doubtful += fabs(gate[i]) <= doubt;
    }
}

static void count_sizes(const naive *v, naive_layer *l, const double *gate) {
    for (size_t i = 0; i < v->n * l->unit_n; i++) {
        double size = fabs(gate[i] / (1 + exp(-gate[i]))), off = doubt * (1 + size);
        for (int k = 0; k < ACTIVATION_SIZE_N; k++) {
            double border = k + 1 < ACTIVATION_SIZE_N ? exp2(k / 2.0 - 24) : INFINITY;
            l->below_surely[k] += size + off < border;
            l->below_possibly[k] += size - off < border;
        }
    }
}

static int rising(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* The experts with the largest logits, weighted by the softmax over all or over the chosen ones. */
static void count_experts(const naive *v, naive_layer *l, const double *logits) {
    size_t n = l->unit_n, used = v->model->expert_used_n;
    bool over_all = v->model->weights_norm && !strcmp(v->model->weights_norm, "false");
    double *sorted = calloc(n, sizeof *sorted);
    for (size_t t = 0; t < v->n; t++) {
        const double *x = logits + t * n;
        memcpy(sorted, x, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, rising);
        double border = (sorted[n - used] + sorted[n - used - 1]) / 2, sum = 0;
        for (size_t i = over_all ? 0 : n - used; i < n; i++) sum += exp(sorted[i]);
        for (size_t i = 0; i < n; i++) {
            l->unit[i].sure += x[i] > border + doubt;
            l->unit[i].doubtful += fabs(x[i] - border) <= doubt;
            if (x[i] > border) l->unit[i].mass += exp(x[i]) / sum;
        }
    }
    free(sorted);
}

static void observe(void *cookie, size_t layer_i, const double *stream, const double *input) {
    (void)stream;
    naive *v = cookie;
    naive_layer *l = &v->layer[layer_i];
    const gguf_tensor *router = tensor_of(v, layer_i, "ffn_gate_inp.weight"), *w = router;
    const gguf_tensor *bias = tensor_of(v, layer_i, "ffn_gate_inp.bias");
    if (!w) w = tensor_of(v, layer_i, "ffn_gate.weight"), bias = tensor_of(v, layer_i, "ffn_gate.bias");
    if (!w) w = tensor_of(v, layer_i, "ffn_up.weight"), bias = tensor_of(v, layer_i, "ffn_up.bias");
    l->unit_n = w->dim[1];
    if (!l->unit) l->unit = calloc(l->unit_n, sizeof *l->unit);
    double *y = product(v, w, bias, input);
    if (router)
        count_experts(v, l, y);
    else if (v->model->activation && !strcmp(v->model->activation, "silu"))
        count_sizes(v, l, y);
    else
        count_neurons(v, l, y);
    free(y);
}

/* Evaluates the text as the definition says: pieces of context_n tokens, each with BOS before it. */
static void naive_count(naive *v, const rig *r, const char *text, size_t context_n) {
    int32_t token[TEXT_BYTES + 1], piece[TEXT_BYTES + 1];
    size_t token_n;
    const hotset_tokenizer *tokenizer = hotset_model_tokenizer(r->model, NULL);
    OK(hotset_tokenize(tokenizer, text, strlen(text), 0, token, TEXT_BYTES, &token_n, err));
    double *logits = calloc((TEXT_BYTES + 1) * r->vocab_n, sizeof *logits);
    float64_options o = {.activation = r->activation, .observe = observe, .observe_cookie = v};
    v->file = r->file;
    piece[0] = hotset_tokenizer_bos(tokenizer);
    for (size_t at = 0; at < token_n; at += context_n - 1) {
        size_t n = token_n - at < context_n - 1 ? token_n - at : context_n - 1;
        memcpy(piece + 1, token + at, n * sizeof *piece);
        v->n = n + 1;
        v->token_n += (int64_t)v->n;
        float64_forward(r->file, &o, piece, v->n, logits);
    }
    free(logits);
}

static void compare_units(const hotset_profile_layer *l, const naive_layer *n, const char *label) {
    int64_t doubtful = 0, all = 0;
    for (uint32_t i = 0; i < l->unit_n; i++) {
        const count *c = &n->unit[i];
        cr_assert(l->count[i] >= c->sure && l->count[i] <= c->sure + c->doubtful,
                  "%s, unit %u: counted %lld, naively %lld to %lld", label, i, (long long)l->count[i],
                  (long long)c->sure, (long long)(c->sure + c->doubtful));
        doubtful += c->doubtful;
        all += l->count[i];
        if (!l->mass) continue;
        double mass = (double)l->mass[i] / (1 << 20), room = 1e-4 * (double)l->count[i] + (double)c->doubtful;
        cr_assert_lt(fabs(mass - c->mass), room + 1e-6, "%s, expert %u: mass %g, naively %g", label, i, mass,
                     c->mass);
    }
    cr_assert_gt(all, 0, "%s", label);
    cr_assert_eq(all, l->union_n[0]);
    cr_assert_lt(doubtful * 200, all, "%s: %lld of %lld are too near to tell", label, (long long)doubtful,
                 (long long)all);
}

static void compare_sizes(const hotset_profile_layer *l, const naive_layer *n, int64_t token_n,
                          const char *label) {
    int64_t below = 0, wide_n = 0;
    for (int k = 0; k < ACTIVATION_SIZE_N; k++) {
        below += l->size_n[k];
        cr_assert(below >= n->below_surely[k] && below <= n->below_possibly[k],
                  "%s: %lld activations up to bin %d, naively %lld to %lld", label, (long long)below, k,
                  (long long)n->below_surely[k], (long long)n->below_possibly[k]);
        if (k > 24)
            wide_n += n->below_possibly[k] - n->below_surely[k]; /* from 2^-12 on it can be told well */
    }
    cr_assert_eq(below, token_n * l->unit_n);
    cr_assert_lt(wide_n * 100, below, "%s", label);
}

static const tiny_model models[] = {
    {.seed = 3, .activation = "relu", .by_layer = true, .ff_n = 130, .layer_n = 3},
    {.seed = 4, .activation = "relu2", .ffn_bias = true, .ff_n = 64},
    {.seed = 5, .arch = "arcee", .ff_n = 200},
    {.seed = 6, .activation = "silu", .ff_n = 1100, .layer_n = 1},
    {.seed = 7, .expert_n = 8, .expert_used_n = 3, .ff_n = 32, .activation = "relu"},
    {.seed = 8,
     .arch = "qwen3moe",
     .qk_norm = true,
     .expert_n = 6,
     .expert_used_n = 2,
     .ff_n = 32,
     .weights_norm = "false",
     .expert_storage = TINY_EXPERTS_MERGED},
};

static hotset_units kind_of(const tiny_model *m) {
    if (m->expert_n) return HOTSET_EXPERTS;
    return m->activation && !strcmp(m->activation, "silu") ? HOTSET_SIZES : HOTSET_NEURONS;
}

/* Records a text with these options, beside the second count of it. */
static void check_counts(const tiny_model *model, const rig_options *options) {
    rig r;
    char text[TEXT_BYTES + 1], label[80];
    naive v = {.model = model};
    make_text(model->seed, text);
    rig_open_tiny(&r, model, options);
    snprintf(label, sizeof label, "model %zu, %s, %u rows, %u threads", (size_t)(model - models),
             options->isa, options->batch_n, options->thread_n);
    hotset_profile *p = new_profile(&r);
    record(&r, p, "text", text);
    naive_count(&v, &r, text, options->context_n);
    hotset_profile_facts f = hotset_profile_get(p);
    cr_assert_eq(f.token_n, v.token_n, "%s", label);
    cr_assert_eq(f.layer_n, hotset_model_shape(r.model)->layer_n);
    cr_assert_eq(hotset_plan_resolved(r.plan).sparsity, options->sparsity);
    for (uint32_t i = 0; i < f.layer_n; i++) {
        hotset_profile_layer l = hotset_profile_get_layer(p, i);
        cr_assert(l.kind == kind_of(model) && l.unit_n == v.layer[i].unit_n, "%s", label);
        if (l.count)
            compare_units(&l, &v.layer[i], label);
        else
            compare_sizes(&l, &v.layer[i], f.token_n, label);
        free(v.layer[i].unit);
    }
    hotset_profile_free(p);
    rig_close(&r);
}

Test(profile, counts_equal_a_second_count) {
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        for (int i = 0; rig_isas[i]; i++) {
            if (!rig_has_isa(rig_isas[i]) || thinned_out(m, (size_t)i, 2)) continue;
            rig_options o = {.isa = rig_isas[i],
                             .record = true,
                             .context_n = CONTEXT_N,
                             .sparsity = HOTSET_SPARSITY_OFF,
                             .batch_n = (const uint32_t[RIG_ISAS]){7, 48, 1, 256}[i],
                             .thread_n = (uint32_t)i + 1};
            check_counts(&models[m], &o);
        }
        check_counts(&models[m], &(rig_options){.isa = "scalar",
                                                .record = true,
                                                .context_n = CONTEXT_N,
                                                .batch_n = 1,
                                                .thread_n = 2,
                                                .sparsity = HOTSET_SPARSITY_OFF,
                                                .memory = HOTSET_MEMORY_MAPPED});
    }
}

/* A text longer than a chunk. */
Test(profile, counts_of_a_long_text_equal_a_second_count) {
    rig_options o = {.isa = "scalar",
                     .record = true,
                     .context_n = 600,
                     .batch_n = 250,
                     .thread_n = 2,
                     .sparsity = HOTSET_SPARSITY_OFF};
    check_counts(&models[1], &o);
}

Test(profile, counts_with_exact_skipping_equal_a_second_count) {
    rig_options o = {.isa = "scalar", .record = true, .context_n = CONTEXT_N, .thread_n = 2};
    o.sparsity = HOTSET_SPARSITY_EXACT;
    for (size_t m = 0; m < 3; m++) {
        o.batch_n = m == 0 ? 1 : 16;
        check_counts(&models[m], &o);
    }
}

/* ---- The same bytes --------------------------------------------------------------------------------- */

/* Rows of a step are counted in order, whichever thread wrote them down: with one row a step nothing can be
 * out of order, and the portable kernels give the same bits for any number of rows. */
Test(profile, rows_and_threads_change_no_byte) {
    char text[TEXT_BYTES + 1];
    make_text(1, text);
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        hotset_profile *first = NULL;
        for (uint32_t i = 0; i < 4; i++) {
            if (i && thinned_out(m, i, 3)) continue;
            rig r;
            rig_options o = {.record = true,
                             .context_n = 600,
                             .batch_n = (const uint32_t[]){1, 5, 64, 600}[i],
                             .thread_n = i % 3 + 1};
            rig_open_tiny(&r, &models[m], &o);
            hotset_profile *p = new_profile(&r);
            record(&r, p, "text", text);
            if (first) cr_assert(equal(first, p), "model %zu, %u rows, %u threads", m, o.batch_n, o.thread_n);
            if (first)
                hotset_profile_free(p);
            else
                first = p;
            rig_close(&r);
        }
        hotset_profile_free(first);
    }
}

Test(profile, merging_in_any_order_equals_recording_all) {
    char one[TEXT_BYTES + 1], two[TEXT_BYTES + 1];
    rig r;
    make_text(1, one);
    make_text(2, two);
    rig_open_tiny(&r, &models[0], &(rig_options){.record = true, .context_n = CONTEXT_N});
    hotset_profile *a = new_profile(&r), *b = new_profile(&r), *all = new_profile(&r), *ab = new_profile(&r);
    unsigned notes = 0;
    record(&r, a, "one", one);
    record(&r, b, "two", two);
    record(&r, all, "two", two);
    record(&r, all, "one", one);
    OK(hotset_profile_merge(ab, a, &notes, err));
    OK(hotset_profile_merge(ab, b, &notes, err));
    cr_assert(equal(ab, all), "a, then b");
    OK(hotset_profile_merge(b, a, &notes, err));
    cr_assert(equal(b, all), "b, then a");
    cr_assert_eq(notes, 0u);
    record(&r, a, "two", two);
    cr_assert(equal(a, all), "a, continued with b");
    OK(hotset_profile_merge(a, all, &notes, err));
    cr_assert_eq(notes, (unsigned)HOTSET_PROFILE_CORPUS_AGAIN);
    hotset_profile_free(a), hotset_profile_free(b), hotset_profile_free(all), hotset_profile_free(ab);
    rig_close(&r);
}

/* ---- Limits and stopping ---------------------------------------------------------------------------- */

Test(profile, stops_behind_token_max) {
    char text[TEXT_BYTES + 1];
    rig r;
    make_text(1, text);
    rig_open_tiny(&r, &models[0], &(rig_options){.record = true, .context_n = CONTEXT_N, .batch_n = 16});
    for (size_t max = CONTEXT_N - 1; max <= CONTEXT_N + 1; max++) {
        hotset_profile *p = new_profile(&r);
        hotset_corpus corpus = corpus_of("text", text);
        corpus.token_max = max;
        OK(hotset_profile_record(p, r.session, &corpus, NULL, NULL, err));
        cr_assert_eq(hotset_profile_get(p).token_n, (int64_t)max);
        size_t bytes;
        free(bytes_of(p, &bytes));
        hotset_profile_free(p);
    }
    rig_close(&r);
}

typedef struct stopper {
    size_t step_i, stop_i;
    size_t done_n;
} stopper;

static bool stop(void *cookie, size_t done_n, size_t token_n) {
    stopper *s = cookie;
    cr_assert(done_n >= s->done_n && done_n <= token_n);
    s->done_n = done_n;
    return s->step_i++ == s->stop_i;
}

/* Wherever it is stopped: what was seen is whole, and equals what a limit of as many tokens gives. */
Test(profile, what_was_seen_before_a_stop_is_whole) {
    char text[TEXT_BYTES + 1];
    rig r;
    make_text(1, text);
    rig_open_tiny(&r, &models[0], &(rig_options){.record = true, .context_n = CONTEXT_N, .batch_n = 20});
    for (size_t stop_i = 0; stop_i < 8; stop_i++) {
        hotset_profile *p = new_profile(&r), *limited = new_profile(&r);
        hotset_corpus corpus = corpus_of("text", text);
        stopper s = {.stop_i = stop_i};
        size_t bytes;
        REFUSED(hotset_profile_record(p, r.session, &corpus, stop, &s, err), HOTSET_E_CANCELLED, "cancelled");
        cr_assert_eq(hotset_profile_get(p).token_n, (int64_t)s.done_n);
        free(bytes_of(p, &bytes));
        corpus.token_max = s.done_n;
        if (s.done_n % CONTEXT_N) {
            OK(hotset_profile_record(limited, r.session, &corpus, NULL, NULL, err));
            cr_assert(equal(p, limited), "stopped at step %zu", stop_i);
        }
        hotset_profile_free(p), hotset_profile_free(limited);
    }
    rig_close(&r);
}

static bool always(void *cookie) { return *(bool *)cookie; }

Test(profile, the_engines_own_cancel_leaves_it_whole) {
    char text[TEXT_BYTES + 1];
    bool now = false;
    rig r;
    make_text(1, text);
    rig_options o = {.record = true, .context_n = CONTEXT_N, .cancel = always, .cancel_cookie = &now};
    rig_open_tiny(&r, &models[4], &o);
    hotset_profile *p = new_profile(&r);
    hotset_corpus corpus = corpus_of("text", text);
    size_t bytes;
    now = true;
    REFUSED(hotset_profile_record(p, r.session, &corpus, NULL, NULL, err), HOTSET_E_CANCELLED, "cancelled");
    now = false;
    free(bytes_of(p, &bytes));
    record(&r, p, "text", text);
    free(bytes_of(p, &bytes));
    hotset_profile_free(p);
    rig_close(&r);
}

Test(profile, empty_texts_and_plans_without_records) {
    rig r;
    rig_open_tiny(&r, &models[0], &(rig_options){.record = true, .context_n = CONTEXT_N});
    hotset_profile *p = new_profile(&r);
    hotset_corpus corpus = corpus_of("empty", "");
    OK(hotset_profile_record(p, r.session, &corpus, NULL, NULL, err));
    cr_assert_eq(hotset_profile_get(p).token_n, 0);
    rig_close(&r);
    rig_open_tiny(&r, &models[0], &(rig_options){.context_n = CONTEXT_N});
    REFUSED(hotset_profile_record(p, r.session, &corpus, NULL, NULL, err), HOTSET_E_ARGUMENT,
            "does not record");
    hotset_profile_free(p);
    rig_close(&r);
}

/* Routers that meet NaN choose one expert again and again: no reason to fall over. */
Test(profile, a_model_full_of_nan_is_counted) {
    char text[TEXT_BYTES + 1], path[256];
    rig r;
    make_text(1, text);
    rig_temporary(path, sizeof path);
    for (size_t m = 4; m < COUNT_OF(models); m++) {
        tiny_model_write(path, &models[m]);
        gguf *file;
        OK(gguf_open(&file, path, err));
        const gguf_tensor *norm = gguf_find_tensor(file, "blk.0.ffn_norm.weight");
        long offset = (long)norm->offset_bytes;
        uint64_t bytes = norm->bytes;
        cr_assert_eq(norm->type, GGUF_F32);
        gguf_free(file);
        FILE *f = fopen(path, "r+b");
        cr_assert(f && !fseek(f, offset, SEEK_SET));
        for (uint64_t i = 0; i < bytes / 4; i++) fwrite(&(float){NAN}, 4, 1, f);
        fclose(f);
        rig_open_file(&r, path, &(rig_options){.record = true, .context_n = CONTEXT_N});
        hotset_profile *p = new_profile(&r);
        size_t file_bytes;
        record(&r, p, "text", text);
        free(bytes_of(p, &file_bytes));
        hotset_profile_free(p);
        rig_close(&r);
    }
    unlink(path);
}

/* ---- Which model it serves -------------------------------------------------------------------------- */

static uint16_t half_of(double x) { /* nearest binary16 of a value from 2^-14 to 2^15, or its negative */
    int exponent;
    double fraction = frexp(fabs(x), &exponent); /* [0.5, 1) */
    if (fabs(x) < 0x1p-14) return 0;
    long bits = lrint(ldexp(fraction, 11)) + (exponent + 13L) * 1024;
    return (uint16_t)(bits | (x < 0 ? 0x8000 : 0));
}

/* A block of 32 values: d = the largest by size / -8, codes round(x / d) + 8. */
static void put_q4_0(const double *x, uint8_t out[18]) {
    double largest = 0;
    for (int i = 0; i < 32; i++)
        if (fabs(x[i]) > fabs(largest)) largest = x[i];
    uint16_t half = half_of(largest / -8);
    memcpy(out, &half, 2);
    for (int i = 0; i < 16; i++) {
        int code[2];
        for (int h = 0; h < 2; h++)
            code[h] = half ? (int)fmin(15, fmax(0, nearbyint(x[i + 16 * h] / (largest / -8)) + 8)) : 8;
        out[2 + i] = (uint8_t)(code[0] | code[1] << 4);
    }
}

/* One tensor with its rows in another type: F16, F32 or Q4_0. */
static void put_rows(gguf_writer *w, const gguf_tensor *t, gguf_type type) {
    uint64_t row_n = t->element_n / t->dim[0], row_bytes = gguf_row_bytes(type, t->dim[0]);
    double *row = calloc(t->dim[0], sizeof *row);
    uint8_t *out = calloc(1, row_bytes);
    cr_assert(row && out);
    for (uint64_t r = 0; r < row_n; r++) {
        float64_row(t, r, row);
        for (uint64_t i = 0; i < t->dim[0]; i++) {
            uint16_t half = half_of(row[i]);
            float single = (float)row[i];
            if (type == GGUF_F16) memcpy(out + 2 * i, &half, 2);
            if (type == GGUF_F32) memcpy(out + 4 * i, &single, 4);
            if (type == GGUF_Q4_0 && i % 32 == 0) put_q4_0(row + i, out + i / 32 * 18);
        }
        OK(gguf_put_data(w, out, row_bytes, err));
    }
    free(row), free(out);
}

/* The same model in other types. */
static void retype(const char *from, const char *to, gguf_type matrix, gguf_type vector) {
    gguf *in;
    gguf_writer *w;
    OK(gguf_open(&in, from, err));
    OK(gguf_writer_open(&w, to, err));
    for (uint64_t i = 0; i < gguf_key_n(in); i++) OK(gguf_put_key(w, gguf_key_at(in, i), err));
    for (uint64_t i = 0; i < gguf_tensor_n(in); i++) {
        const gguf_tensor *t = gguf_tensor_at(in, i);
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)t->name.bytes, t->name.data);
        OK(gguf_put_tensor(w, name, t->dim_n > 1 ? matrix : vector, t->dim_n, t->dim, err));
    }
    for (uint64_t i = 0; i < gguf_tensor_n(in); i++) {
        const gguf_tensor *t = gguf_tensor_at(in, i);
        put_rows(w, t, t->dim_n > 1 ? matrix : vector);
    }
    OK(gguf_writer_commit(w, err));
    gguf_free(in);
}

/* Norms in binary16 have the fingerprint of the same values in F32. */
Test(profile, every_quantisation_is_served_by_one_profile) {
    char source[256], half[256], four[256], saved[256], text[TEXT_BYTES + 1];
    rig r;
    unsigned notes = 0;
    make_text(1, text);
    rig_temporary(source, sizeof source);
    rig_temporary(half, sizeof half);
    rig_temporary(four, sizeof four);
    rig_temporary(saved, sizeof saved);
    tiny_model_write(source, &models[1]);
    retype(source, half, GGUF_F16, GGUF_F16);
    retype(half, four, GGUF_Q4_0, GGUF_F32);
    rig_open_file(&r, half, &(rig_options){.record = true, .context_n = CONTEXT_N});
    hotset_profile *p = new_profile(&r), *again = NULL;
    record(&r, p, "text", text);
    OK(hotset_profile_write(p, saved, err));
    rig_close(&r);
    rig_open_file(&r, four, &(rig_options){.record = true, .context_n = CONTEXT_N});
    OK(hotset_profile_open(&again, r.model, saved, &notes, err));
    cr_assert_eq(notes, 0u);
    record(&r, again, "text", text);
    OK(hotset_profile_merge(p, again, &notes, err));
    cr_assert_eq(notes, (unsigned)HOTSET_PROFILE_CORPUS_AGAIN);
    hotset_profile_free(p), hotset_profile_free(again);
    rig_close(&r);
    unlink(source), unlink(half), unlink(four), unlink(saved);
}

/* A tiny model opened, and whether the profile at `path` serves it. */
static void check_serves(const tiny_model *model, const char *activation, const char *path,
                         hotset_status wanted, unsigned wanted_notes, const char *message) {
    rig r;
    hotset_profile *p;
    unsigned notes = 0;
    hotset_error err = {0};
    rig_open_tiny(&r, model, &(rig_options){.activation = activation, .context_n = CONTEXT_N});
    cr_expect_eq(hotset_profile_open(&p, r.model, path, &notes, &err), wanted, "%s", message);
    cr_expect_eq(notes, wanted_notes, "%s", message);
    cr_expect(!wanted || strstr(err.message, message), "'%s' does not contain '%s'", err.message, message);
    cr_expect(wanted == HOTSET_OK || !p);
    hotset_profile_free(p);
    rig_close(&r);
}

Test(profile, another_model_is_told) {
    char path[256], text[TEXT_BYTES + 1], fingerprint[20];
    rig r;
    tiny_model base = models[1], other;
    make_text(1, text);
    rig_temporary(path, sizeof path);
    rig_open_tiny(&r, &base, &(rig_options){.record = true, .context_n = CONTEXT_N});
    hotset_profile *p = new_profile(&r);
    record(&r, p, "text", text);
    OK(hotset_profile_write(p, path, err));
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)hotset_profile_get(p).shape);
    rig_close(&r);
    check_serves(&base, NULL, path, HOTSET_OK, 0, "the same");
    check_serves(&base, "silu", path, HOTSET_E_ARGUMENT, 0, "activation relu2, the model runs with silu");
    other = base;
    other.seed++;
    check_serves(&other, NULL, path, HOTSET_OK, HOTSET_PROFILE_WEIGHTS_DIFFER, "other weights");
    other = base;
    other.layer_n = 3;
    check_serves(&other, NULL, path, HOTSET_E_ARGUMENT, 0, fingerprint);
    other = base;
    other.ff_n += 32;
    check_serves(&other, NULL, path, HOTSET_E_ARGUMENT, 0, "another shape");
    other = base;
    other.head_kv_n = 2;
    check_serves(&other, NULL, path, HOTSET_E_ARGUMENT, 0, "another shape");

    other = base;
    other.seed++;
    rig_open_tiny(&r, &other, &(rig_options){.record = true, .context_n = CONTEXT_N});
    hotset_corpus corpus = corpus_of("text", text);
    REFUSED(hotset_profile_record(p, r.session, &corpus, NULL, NULL, err), HOTSET_E_ARGUMENT,
            "other weights");
    hotset_profile_free(p);
    rig_close(&r);
    unlink(path);
}

Test(profile, of_nothing_or_of_what_is_none) {
    hotset_profile *p;
    REFUSED(hotset_profile_open(&p, NULL, NULL, NULL, err), HOTSET_E_ARGUMENT, "neither");
    char path[256];
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &models[1]);
    REFUSED(hotset_profile_open(&p, NULL, path, NULL, err), HOTSET_E_FORMAT, "not an activation profile");
    cr_assert(!hotset_profile_is(path));
    unlink(path);
    REFUSED(hotset_profile_open(&p, NULL, path, NULL, err), HOTSET_E_IO, path);
    cr_assert(!hotset_profile_is(path));
}

/* ---- The ledger ------------------------------------------------------------------------------------- */

Test(profile, records_are_in_the_ledger_and_cost_nothing_unasked) {
    rig with, without;
    rig_options o = {.context_n = 64, .batch_n = 32, .sparsity = HOTSET_SPARSITY_OFF};
    rig_open_tiny(&without, &models[0], &o);
    o.record = true;
    rig_open_tiny(&with, &models[0], &o);
    uint64_t a = hotset_plan_footprint(without.plan).table_bytes,
             b = hotset_plan_footprint(with.plan).table_bytes;
    /* bits of 130, 138 and 146 neurons for 32 rows each */
    cr_assert_geq(b, a + 3 * 32 * 3 * sizeof(uint64_t));
    cr_assert_lt(b, a + (64 << 10));
    cr_assert_eq(hotset_plan_footprint(without.plan).scratch_bytes,
                 hotset_plan_footprint(with.plan).scratch_bytes);
    int32_t tokens[40];
    tiny_tokens(1, 256, tokens, COUNT_OF(tokens));
    float *x = rig_append(&with, with.session, tokens, 40),
          *y = rig_append(&without, without.session, tokens, 40);
    cr_assert_eq(memcmp(x, y, 40 * with.vocab_n * sizeof *x), 0, "recording changes no logits");
    free(x), free(y);
    rig_close(&with), rig_close(&without);
}
