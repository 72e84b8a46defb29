/* test_powerinfer.c - PowerInfer's files: their architectures, predictors, and down matrices by neuron and by
 * row, dense, exact and predicted, against the float64 pass. */
#include "engine/executor.h"
#include "tests/float64_forward.h"
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKEN_N = 64 };

static const gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K};
static const hotset_sparsity modes[] = {HOTSET_SPARSITY_OFF, HOTSET_SPARSITY_EXACT, HOTSET_SPARSITY_PREDICT};

#define POWERINFER                                                                                           \
    .embd_n = 256, .head_kv_n = 2, .ff_n = 256, .vocab_n = 64, .powerinfer = true, .down = NEURONS_BY_ROW,   \
    .predictor_rank = 24
static const tiny_model models[] = {
    {POWERINFER, .arch = "llama", .layer_n = 1, .threshold = 0.1f},
    {POWERINFER, .arch = "bamboo", .layer_n = 2},
    {POWERINFER, .arch = "falcon", .layer_n = 2, .fused_qkv = true, .second_norm = true, .seed = 7},
    {POWERINFER, .arch = "falcon", .layer_n = 1, .fused_qkv = true, .threshold = -0.2f, .seed = 3},
    {POWERINFER, .arch = "bamboo", .layer_n = 1, .ffn_bias = true, .threshold = 0.3f},
};

/* A model in a file, and what the float64 pass says of its first tokens. */
typedef struct subject {
    char path[256], label[96];
    size_t n, vocab_n;
    int32_t tokens[TOKEN_N];
    double *dense, *predicted;
} subject;

static subject subject_make(const tiny_model *base, gguf_type type, size_t n, bool rounded) {
    subject s = {.n = n};
    tiny_model model = *base;
    gguf *file;
    hotset_error err;
    model.type = type;
    snprintf(s.label, sizeof s.label, "%s (seed %d) %s%s, down %d", model.arch, (int)model.seed,
             gguf_type_get(type)->name, model.ffn_bias ? " with biases" : "", (int)model.down);
    rig_temporary(s.path, sizeof s.path);
    tiny_model_write(s.path, &model);
    cr_assert_eq(gguf_open(&file, s.path, &err), HOTSET_OK, "%s", err.message);
    s.vocab_n = float64_vocab_n(file);
    tiny_tokens(5, (uint32_t)s.vocab_n, s.tokens, n);
    s.dense = malloc(n * s.vocab_n * sizeof *s.dense);
    s.predicted = malloc(n * s.vocab_n * sizeof *s.predicted);
    cr_assert(s.dense && s.predicted);
    float64_options options = {.rounded = rounded};
    float64_forward(file, &options, s.tokens, n, s.dense);
    options.predicted = true;
    float64_forward(file, &options, s.tokens, n, s.predicted);
    gguf_free(file);
    return s;
}

static void subject_free(subject *s) {
    unlink(s->path);
    free(s->dense);
    free(s->predicted);
}

typedef struct way {
    const char *isa;
    uint32_t rows, thread_n;
    hotset_memory_mode memory;
    hotset_sparsity sparsity;
    device_cpu_skipping skipping;
} way;

static float *logits_of(const subject *s, const way *w) {
    rig r;
    rig_options o = {.isa = w->isa,
                     .batch_n = w->rows,
                     .thread_n = w->thread_n,
                     .memory = w->memory,
                     .sparsity = w->sparsity};
    rig_open_file(&r, s->path, &o);
    cr_assert_eq(hotset_plan_resolved(r.plan).sparsity, w->sparsity);
    device_cpu_set_skipping(r.engine->device, w->skipping);
    float *logits = rig_append(&r, r.session, s->tokens, s->n);
    rig_close(&r);
    return logits;
}

static void check_way(const subject *s, const way *w, double limit) {
    const double *truth = w->sparsity == HOTSET_SPARSITY_PREDICT ? s->predicted : s->dense;
    float *logits = logits_of(s, w);
    double error = float64_relative_error(logits, truth, s->n * s->vocab_n);
    cr_expect_lt(error, limit, "%s, %s, %u rows, %u threads, memory %d, sparsity %d, mode %d: %.3g", s->label,
                 w->isa, w->rows, w->thread_n, (int)w->memory, (int)w->sparsity, (int)w->skipping, error);
    free(logits);
}

/* Every number of rows and threads, memory mode and kind of skipping. */
static void check_ways(const subject *s, const char *isa, double limit) {
    static const uint32_t rows[] = {1, 2, 7, 64};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t m = 0; m < COUNT_OF(modes); m++)
            for (int skipping = 0; skipping < 3; skipping++) {
                way w = {isa,
                         rows[i],
                         1 + (uint32_t)(i + m) % 2,
                         HOTSET_MEMORY_COPIED,
                         modes[m],
                         (device_cpu_skipping)skipping};
                bool same = rows[i] < 4 || modes[m] == HOTSET_SPARSITY_OFF; /* few rows are always listed */
                if (same && skipping > 0) continue;
                if ((i + m) % 2) w.memory = HOTSET_MEMORY_MAPPED;
                check_way(s, &w, limit);
                w.memory = w.memory == HOTSET_MEMORY_MAPPED ? HOTSET_MEMORY_COPIED : HOTSET_MEMORY_MAPPED;
                w.thread_n = 3 - w.thread_n;
                if (rows[i] < 4) check_way(s, &w, limit);
            }
}

/* With floats nothing is rounded but the floats themselves: only the order of sums differs. */
Test(powerinfer, equals_float64_with_float_weights) {
    for (size_t m = 0; m < COUNT_OF(models); m++)
        for (size_t t = 0; t < 3; t++) {
            subject s = subject_make(&models[m], types[t], t ? 9 : TOKEN_N, false);
            cr_expect_gt(fabs(s.dense[0] - s.predicted[0]), 1e-3, "%s: predictors leave something out",
                         s.label);
            check_ways(&s, "scalar", 1e-5);
            subject_free(&s);
        }
}

/* Blocks meet activations rounded to 8 bits, which now and then are rounded the other way. */
Test(powerinfer, equals_float64_with_blocks) {
    for (size_t m = 0; m < COUNT_OF(models); m++)
        for (size_t t = 3; t < COUNT_OF(types); t++) {
            subject s = subject_make(&models[m], types[t], 7, true);
            check_ways(&s, "scalar", 2e-3);
            subject_free(&s);
        }
}
