/* test_powerinfer.c - PowerInfer's files: their architectures, predictors, and down matrices by neuron and by
 * row, dense, exact and predicted, against the float64 pass. */
#include "engine/executor.h"
#include "tests/float64_forward.h"
#include "tests/rig.h"
#include "tests/thinned.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the types with one generic form two must do: test_neurons.c and test_rows.c have all. */
static const gguf_type types[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0,  GGUF_Q4_0,
                                  GGUF_Q4_K, GGUF_Q6_K, GGUF_Q5_1, GGUF_IQ4_XS};

enum { TOKEN_N = 64 };

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
    float64_options options = {.rounding = rounded ? FLOAT64_EIGHT_BITS : FLOAT64_EXACT};
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
    device_cpu_set_skipping(r.engine->device[0].device, w->skipping);
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

/* Every number of rows (or every `step`-th) and threads, memory mode and kind of skipping. */
static void check_ways(const subject *s, const char *isa, size_t step, double limit) {
    static const uint32_t rows[] = {1, 2, 7, 64};
    for (size_t i = 0; i < COUNT_OF(rows); i += step)
        for (size_t m = 0; m < COUNT_OF(modes); m++)
            for (int skipping = 0; skipping < 2; skipping++) {
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
            if (thinned_out(m, t, 2)) continue;
            subject s = subject_make(&models[m], types[t], t || m > 1 ? 9 : TOKEN_N, false);
            cr_expect_gt(fabs(s.dense[0] - s.predicted[0]), 1e-3, "%s: predictors leave something out",
                         s.label);
            check_ways(&s, "scalar", m ? 2 : 1, 1e-5);
            subject_free(&s);
        }
}

/* Blocks meet activations rounded to 8 bits, which now and then are rounded the other way. */
Test(powerinfer, equals_float64_with_blocks) {
    for (size_t m = 0; m < COUNT_OF(models); m++)
        for (size_t t = 3; t < COUNT_OF(types); t++) {
            if (thinned_out(m, t, 3)) continue;
            subject s = subject_make(&models[m], types[t], 7, true);
            check_ways(&s, "scalar", 2, 2e-3);
            subject_free(&s);
        }
}

/* The fast kernels are no further from float64 than rounding to 8 bits takes them; predicted sets may differ
 * there, so what is asked for is the dense result and a predicted one from floats. */
Test(powerinfer, fast_kernels_are_near_float64) {
    for (size_t i = 1; rig_isas[i]; i++)
        for (size_t m = 0; m < COUNT_OF(models) && rig_has_isa(rig_isas[i]); m++)
            for (size_t t = 0; t < COUNT_OF(types); t++) {
                if (thinned_out(m, t, 3)) continue;
                bool floats = gguf_type_get(types[t])->block_n == 1;
                subject s = subject_make(&models[m], types[t], 9, true);
                for (uint32_t rows = 1; rows <= 9; rows += 8)
                    for (size_t mode = 0; mode < (floats ? 3 : 2); mode++) {
                        way w = {rig_isas[i],          rows,        2,
                                 HOTSET_MEMORY_MAPPED, modes[mode], DEVICE_CPU_SKIP_ALWAYS};
                        check_way(&s, &w, floats ? 2e-5 : 0.01);
                    }
                subject_free(&s);
            }
}

Test(powerinfer, bits_do_not_depend_on_threads) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (uint32_t rows = 1; rows <= 9; rows += 8) {
            subject s = subject_make(&models[t % 3], types[t], 9, true);
            const char *isa = rig_has_isa("avx2") ? "avx2" : "scalar";
            way w = {isa, rows, 1, HOTSET_MEMORY_MAPPED, HOTSET_SPARSITY_PREDICT, DEVICE_CPU_SKIP_ALWAYS};
            float *one = logits_of(&s, &w);
            for (w.thread_n = 2; w.thread_n <= 3; w.thread_n++) {
                float *more = logits_of(&s, &w);
                cr_expect_eq(memcmp(one, more, s.n * s.vocab_n * sizeof *one), 0, "%s, %u rows, %u threads",
                             s.label, rows, w.thread_n);
                free(more);
            }
            free(one);
            subject_free(&s);
        }
}

/* ---- Orders of down ---- */

static float *tiny_logits(const tiny_model *model, const rig_options *o, size_t n, size_t *logit_n) {
    rig r;
    int32_t tokens[TOKEN_N];
    rig_open_tiny(&r, model, o);
    tiny_tokens(5, (uint32_t)r.vocab_n, tokens, n);
    *logit_n = n * r.vocab_n;
    float *logits = rig_append(&r, r.session, tokens, n);
    rig_close(&r);
    return logits;
}

/* A file whose down stands by neuron holds the numbers of one where it stands by output, and gives the same
 * logits: dense and exact, copied and mapped. */
static void check_by_neuron(const tiny_model *base, gguf_type type) {
    tiny_model model = *base;
    model.type = type;
    for (uint32_t rows = 1; rows <= 8; rows += 7) {
        size_t n;
        rig_options o = {.batch_n = rows, .sparsity = HOTSET_SPARSITY_OFF, .memory = HOTSET_MEMORY_MAPPED};
        model.down = NEURONS_BY_OUTPUT;
        float *want = tiny_logits(&model, &o, 8, &n);
        model.down = NEURONS_BY_NEURON;
        for (int i = 0; i < 4; i++) {
            o.sparsity = i & 1 ? HOTSET_SPARSITY_EXACT : HOTSET_SPARSITY_OFF;
            o.memory = i & 2 ? HOTSET_MEMORY_COPIED : HOTSET_MEMORY_MAPPED;
            o.thread_n = 1 + rows % 2;
            float *got = tiny_logits(&model, &o, 8, &n);
            cr_expect_eq(memcmp(got, want, n * sizeof *want), 0, "%s, %u rows, way %d: %.3g away",
                         gguf_type_get(type)->name, rows, i, rig_distance(got, want, n));
            free(got);
        }
        free(want);
    }
}

Test(powerinfer, down_by_neuron_is_down) {
    static const tiny_model dense = {
        .embd_n = 256, .ff_n = 256, .layer_n = 1, .vocab_n = 64, .activation = "relu", .ffn_bias = true};
    static const tiny_model experts = {.embd_n = 256,
                                       .ff_n = 256,
                                       .layer_n = 1,
                                       .vocab_n = 64,
                                       .activation = "relu",
                                       .expert_n = 4,
                                       .expert_used_n = 2};
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        if (!thinned_out(0, t, 2)) check_by_neuron(&dense, types[t]);
        if (!thinned_out(1, t, 2)) check_by_neuron(&experts, types[t]);
    }
}

/* dReLU in experts, whose down stands by row: dense is the float64 pass, and exact is dense. */
Test(powerinfer, experts_with_drelu_by_row) {
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        static const tiny_model base = {.embd_n = 256,
                                        .ff_n = 256,
                                        .layer_n = 1,
                                        .vocab_n = 64,
                                        .activation = "drelu",
                                        .expert_n = 4,
                                        .expert_used_n = 2,
                                        .seed = 1};
        for (int order = NEURONS_BY_OUTPUT; order <= NEURONS_BY_ROW; order++)
            for (uint32_t rows = 1; rows <= 9; rows += 8)
                for (size_t mode = 0; mode < 2; mode++) {
                    rig r;
                    int32_t tokens[9];
                    tiny_model model = base;
                    model.type = types[t];
                    model.down = (neurons_order)order;
                    if (model.down == NEURONS_BY_NEURON) continue; /* above */
                    if (thinned_out(t, (size_t)order + rows / 9 * 2 + mode, 3)) continue;
                    rig_open_tiny(&r, &model, &(rig_options){.batch_n = rows, .sparsity = modes[mode]});
                    device_cpu_set_skipping(r.engine->device[0].device, DEVICE_CPU_SKIP_ALWAYS);
                    tiny_tokens(5, (uint32_t)r.vocab_n, tokens, 9);
                    double *truth = rig_truth(&r, tokens, 9, FLOAT64_EIGHT_BITS);
                    float *logits = rig_append(&r, r.session, tokens, 9);
                    double error = float64_relative_error(logits, truth, 9 * r.vocab_n);
                    cr_expect_lt(error, gguf_type_get(types[t])->block_n == 1 ? 1e-5 : 2e-3,
                                 "%s, order %d, %u rows, mode %zu: %.3g", gguf_type_get(types[t])->name,
                                 order, rows, mode, error);
                    free(truth);
                    free(logits);
                    rig_close(&r);
                }
    }
}

/* ---- The plan, and what is told ---- */

Test(powerinfer, plans_say_what_can_be_skipped) {
    static const struct {
        tiny_model model;
        const char *activation;
        hotset_memory_mode memory;
        hotset_sparsity asked, want;
        const char *refusal;
    } cases[] = {
        {{POWERINFER}, NULL, HOTSET_MEMORY_MAPPED, HOTSET_SPARSITY_AUTO, HOTSET_SPARSITY_EXACT, NULL},
        {{POWERINFER}, NULL, HOTSET_MEMORY_AUTO, HOTSET_SPARSITY_AUTO, HOTSET_SPARSITY_EXACT, NULL},
        {{POWERINFER}, "silu", HOTSET_MEMORY_COPIED, HOTSET_SPARSITY_AUTO, HOTSET_SPARSITY_OFF, NULL},
        {{POWERINFER}, "drelu", HOTSET_MEMORY_MAPPED, HOTSET_SPARSITY_EXACT, HOTSET_SPARSITY_EXACT, NULL},
        {{POWERINFER}, "silu", HOTSET_MEMORY_COPIED, HOTSET_SPARSITY_PREDICT, 0, "silu"},
        {{.predictor_rank = 8},
         "relu",
         HOTSET_MEMORY_AUTO,
         HOTSET_SPARSITY_PREDICT,
         HOTSET_SPARSITY_PREDICT,
         NULL},
        {{.predictor_rank = 8}, "relu", HOTSET_MEMORY_MAPPED, HOTSET_SPARSITY_PREDICT, 0, "copied"},
        {{0}, "relu", HOTSET_MEMORY_AUTO, HOTSET_SPARSITY_PREDICT, 0, "predictors"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char path[256];
        hotset_model *m;
        hotset_plan *p;
        hotset_error err = {0};
        rig_temporary(path, sizeof path);
        tiny_model_write(path, &cases[i].model);
        hotset_model_options mo = {.activation = cases[i].activation};
        cr_assert_eq(hotset_model_open(&m, path, &mo, &err), HOTSET_OK, "case %zu: %s", i, err.message);
        hotset_plan_options o = {.memory = cases[i].memory, .sparsity = cases[i].asked, .isa = "scalar"};
        hotset_status status = hotset_plan_cpu(&p, m, &o, &err);
        cr_expect_eq(status, cases[i].refusal ? HOTSET_E_ARGUMENT : HOTSET_OK, "case %zu: %s", i,
                     err.message);
        if (cases[i].refusal)
            cr_expect(strstr(err.message, cases[i].refusal), "case %zu: %s", i, err.message);
        if (!status) cr_expect_eq(hotset_plan_resolved(p).sparsity, cases[i].want, "case %zu", i);
        hotset_plan_free(p);
        hotset_model_free(m);
        unlink(path);
    }
}

Test(powerinfer, activations_are_implied_by_the_magic) {
    static const struct {
        tiny_model model;
        const char *want;
    } cases[] = {
        {{.arch = "llama"}, "silu"},
        {{.arch = "llama", .powerinfer = true}, "relu"},
        {{.arch = "llama", .powerinfer = true, .activation = "gelu"}, "gelu"},
        {{.arch = "bamboo"}, "drelu"},
        {{.arch = "falcon"}, "gelu"},
        {{.arch = "falcon", .powerinfer = true}, "relu"},
        {{.arch = "qwen2", .powerinfer = true, .qkv_bias = true}, "silu"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        rig r;
        rig_open_tiny(&r, &cases[i].model, NULL);
        cr_expect_str_eq(hotset_model_shape(r.model)->activation, cases[i].want, "case %zu", i);
        rig_close(&r);
    }
}

Test(powerinfer, broken_predictors_are_refused) {
    static const struct {
        tiny_model model;
        const char *message;
    } cases[] = {
        {{POWERINFER, .omit = "blk.0.fc1.weight"}, "blk.0.fc1.weight is missing"},
        {{POWERINFER, .omit = "blk.1.fc2.weight"}, "blk.1.fc2.weight is missing"},
        {{POWERINFER, .misshape = "blk.1.fc2.weight"}, "blk.1.fc2.weight is [24, 257"},
        {{POWERINFER, .misshape = "blk.0.ffn_down_t.weight"}, "ffn_down_t.weight is [256, 257"},
        {{POWERINFER, .threshold = NAN}, "powerinfer.sparse_threshold is nan"},
        {{.arch = "arcee", .activation = "drelu"}, "needs a gate"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char path[256];
        hotset_model *m;
        hotset_error err = {0};
        rig_temporary(path, sizeof path);
        tiny_model_write(path, &cases[i].model);
        hotset_status status = hotset_model_open(&m, path, NULL, &err);
        cr_expect(status == HOTSET_E_FORMAT || status == HOTSET_E_UNSUPPORTED, "case %zu", i);
        cr_expect(strstr(err.message, cases[i].message), "case %zu: %s", i, err.message);
        unlink(path);
    }
}

/* ---- Bytes ---- */

/* Neurons of the one layer that are predicted, have a gate above zero too, and up as well. */
typedef struct census {
    const gguf *file;
    bool predicted;
    uint64_t listed, gated, active, neuron_n;
} census;

static double dot(const gguf_tensor *t, size_t row_i, const double *x) {
    double *row = malloc(t->dim[0] * sizeof *row), sum = 0;
    cr_assert_not_null(row);
    float64_row(t, row_i, row);
    for (size_t i = 0; i < t->dim[0]; i++) sum += row[i] * x[i];
    free(row);
    return sum;
}

static void take_census(void *cookie, size_t layer_i, const double *stream, const double *input) {
    census *c = cookie;
    const gguf_tensor *fc1 = gguf_find_tensor(c->file, "blk.0.fc1.weight"),
                      *fc2 = gguf_find_tensor(c->file, "blk.0.fc2.weight"),
                      *gate = gguf_find_tensor(c->file, "blk.0.ffn_gate.weight"),
                      *up = gguf_find_tensor(c->file, "blk.0.ffn_up.weight");
    cr_assert_eq(layer_i, 0);
    double *inner = malloc(fc1->dim[1] * sizeof *inner);
    cr_assert_not_null(inner);
    for (size_t i = 0; i < fc1->dim[1]; i++) inner[i] = fmax(dot(fc1, i, stream), 0);
    c->neuron_n = gate->dim[1];
    for (size_t i = 0; i < c->neuron_n; i++) {
        if (c->predicted && dot(fc2, i, inner) < 0) continue;
        c->listed++;
        if (dot(gate, i, input) <= 0) continue;
        c->gated++;
        c->active += dot(up, i, input) > 0;
    }
    free(inner);
}

/* Of F32 and Q8_0, by row: a neuron's bytes are its rows'. */
Test(powerinfer, touched_bytes_are_those_of_listed_neurons) {
    for (int drelu = 0; drelu < 2; drelu++)
        for (int predicted = 0; predicted < 2; predicted++) {
            rig r;
            int32_t token = 3;
            tiny_model model = {POWERINFER, .arch = drelu ? "bamboo" : "llama", .layer_n = 1};
            rig_open_tiny(&r, &model, &(rig_options){.sparsity = modes[1 + predicted]});
            hotset_engine_stats before = hotset_engine_get_stats(r.engine);
            free(rig_append(&r, r.session, &token, 1));
            census c = {.file = r.file, .predicted = predicted};
            double *logits = malloc(r.vocab_n * sizeof *logits);
            float64_options o = {.predicted = predicted, .observe = take_census, .observe_cookie = &c};
            float64_forward(r.file, &o, &token, 1, logits);
            cr_assert(c.active > 10 && c.active < c.gated && c.gated < c.listed, "%u %u %u",
                      (unsigned)c.listed, (unsigned)c.gated, (unsigned)c.active);
            uint64_t row_bytes = 4ull * 256;
            uint64_t used = c.listed + c.gated + (drelu ? c.active : c.gated); /* gate, up, down */
            uint64_t predictor_bytes = predicted ? 4ull * 24 * (256 + 256) : 0;
            hotset_engine_stats after = hotset_engine_get_stats(r.engine);
            cr_expect_eq(after.weight_bytes_per_token, before.weight_bytes_per_token);
            cr_expect_eq(after.touched_bytes_per_token,
                         before.weight_bytes_per_token - (3 * c.neuron_n - used) * row_bytes);
            uint64_t others = 4ull * (64 * 256 + 256 * (256 + 128 + 128 + 256)); /* head; q, k, v, out */
            cr_expect_eq(before.weight_bytes_per_token,
                         others + 3 * c.neuron_n * row_bytes + predictor_bytes);
            free(logits);
            rig_close(&r);
        }
}

/* ---- Judging predictors ---- */

typedef struct jury {
    const gguf *file;
    size_t row_n;
    bool drelu;
    hotset_prediction layer[2];
} jury;

static void judge(void *cookie, size_t layer_i, const double *stream, const double *input) {
    jury *j = cookie;
    const gguf_tensor *t[4];
    static const char *const names[4] = {"fc1", "fc2", "ffn_gate", "ffn_up"};
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%zu.%s.weight", layer_i, names[i]);
        t[i] = gguf_find_tensor(j->file, name);
        cr_assert_not_null(t[i]);
    }
    size_t embd_n = t[0]->dim[0], rank_n = t[0]->dim[1], neuron_n = t[2]->dim[1];
    double *inner = malloc(rank_n * sizeof *inner);
    cr_assert_not_null(inner);
    hotset_prediction *p = &j->layer[layer_i];
    for (size_t r = 0; r < j->row_n; r++, stream += embd_n, input += embd_n) {
        for (size_t i = 0; i < rank_n; i++) inner[i] = fmax(dot(t[0], i, stream), 0);
        p->neuron_n += neuron_n;
        for (size_t i = 0; i < neuron_n; i++) {
            bool predicted = dot(t[1], i, inner) >= 0;
            bool active = dot(t[2], i, input) > 0 && (!j->drelu || dot(t[3], i, input) > 0);
            p->predicted_n += predicted;
            p->active_n += active;
            p->both_n += predicted && active;
        }
    }
    free(inner);
}

/* A plan that records judges the predictors in the states that they lead to, and changes no result. */
Test(powerinfer, predictors_are_judged) {
    for (int drelu = 0; drelu < 2; drelu++)
        for (uint32_t batch_n = 1; batch_n <= 7; batch_n += 3) {
            enum { N = 7 };
            rig r;
            int32_t tokens[N];
            tiny_model model = {POWERINFER, .arch = drelu ? "bamboo" : "llama", .layer_n = 2};
            rig_open_tiny(
                &r, &model,
                &(rig_options){
                    .sparsity = HOTSET_SPARSITY_PREDICT, .record = true, .batch_n = batch_n, .thread_n = 2});
            tiny_tokens(9, (uint32_t)r.vocab_n, tokens, N);
            float *logits = rig_append(&r, r.session, tokens, N);
            jury j = {.file = r.file, .row_n = N, .drelu = drelu};
            double *truth = malloc(N * r.vocab_n * sizeof *truth);
            float64_options o = {.predicted = true, .observe = judge, .observe_cookie = &j};
            float64_forward(r.file, &o, tokens, N, truth);
            cr_expect_lt(float64_relative_error(logits, truth, N * r.vocab_n), 1e-5);
            for (uint32_t i = 0; i < 2; i++) {
                hotset_prediction p = hotset_engine_get_prediction(r.engine, i);
                cr_expect(p.both_n > 100 && p.both_n < p.active_n && p.both_n < p.predicted_n, "layer %u", i);
                cr_expect_eq(memcmp(&p, &j.layer[i], sizeof p), 0, "layer %u, steps of %u rows", i, batch_n);
            }
            cr_expect_eq(hotset_engine_get_prediction(r.engine, 2).neuron_n, 0, "there is no layer 2");
            free(logits), free(truth);
            rig_close(&r);
        }
}
