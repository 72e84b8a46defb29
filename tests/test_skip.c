/* test_skip.c - exact skipping gives what the dense engine gives, in every way that it can be reached. */
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

#define DEMO_MODEL HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf"

enum { TOKEN_N = 64 };

/* Of the types with one generic form two must do: test_neurons.c and test_rows.c have all. */
static const gguf_type types[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0,  GGUF_Q4_0,
                                  GGUF_Q4_K, GGUF_Q6_K, GGUF_Q5_1, GGUF_IQ4_XS};

typedef struct way {
    const char *isa;
    uint32_t rows, thread_n;
    hotset_sparsity sparsity;
    device_cpu_skipping skipping;
} way;

/* Logits [n][vocab_n] of a file's text, evaluated so. */
static float *logits_of(const char *path, const way *w, size_t n, size_t *vocab_n) {
    rig r;
    int32_t tokens[TOKEN_N];
    rig_options o = {.isa = w->isa, .batch_n = w->rows, .thread_n = w->thread_n, .sparsity = w->sparsity};
    rig_open_file(&r, path, &o);
    cr_assert_eq(hotset_plan_resolved(r.plan).sparsity, w->sparsity);
    device_cpu_set_skipping(r.engine->device[0].device, w->skipping);
    tiny_tokens(5, (uint32_t)r.vocab_n, tokens, n);
    float *logits = rig_append(&r, r.session, tokens, n);
    *vocab_n = r.vocab_n;
    rig_close(&r);
    return logits;
}

static const tiny_model models[] = {
    {.layer_n = 1, .embd_n = 256, .head_kv_n = 2, .ff_n = 512, .vocab_n = 64, .activation = "relu"},
    {.layer_n = 1, .embd_n = 256, .ff_n = 256, .vocab_n = 64, .activation = "relu2", .ffn_bias = true},
    {.arch = "arcee", .layer_n = 1, .embd_n = 256, .ff_n = 512, .vocab_n = 64},
    {.arch = "arcee",
     .layer_n = 1,
     .embd_n = 256,
     .ff_n = 256,
     .vocab_n = 64,
     .activation = "relu",
     .ffn_bias = true},
    {.layer_n = 1,
     .embd_n = 256,
     .ff_n = 256,
     .vocab_n = 64,
     .activation = "relu",
     .expert_n = 4,
     .expert_used_n = 2},
    {.layer_n = 1,
     .embd_n = 256,
     .ff_n = 256,
     .vocab_n = 64,
     .activation = "relu2",
     .expert_n = 3,
     .expert_used_n = 3,
     .expert_storage = TINY_EXPERTS_MERGED},
    {.layer_n = 1, /* most neurons are active */
     .embd_n = 256,
     .ff_n = 512,
     .vocab_n = 64,
     .activation = "relu",
     .ffn_bias = true,
     .gate_bias = 1.5},
};

/* Of logits [n]: how far they are from one another. */
static double distance(const float *a, const float *b, size_t n) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(difference / size);
}

/* Portable kernels add in the same order, whatever they leave out: the dense engine's bits. */
static void check_rows(const char *path, const char *label) {
    static const uint32_t rows[] = {1, 2, 3, 7, 64};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t vocab_n, n = rows[i] == 64 ? TOKEN_N : 11;
        float *dense =
            logits_of(path, &(way){"scalar", rows[i], 1, HOTSET_SPARSITY_OFF, DEVICE_CPU_SKIP_WHERE_IT_PAYS},
                      n, &vocab_n);
        for (int forced = 0; forced < 2; forced++) {
            if (rows[i] < 4 && forced > 0) continue; /* few rows always skip */
            way w = {"scalar", rows[i], 1, HOTSET_SPARSITY_EXACT, (device_cpu_skipping)forced};
            float *exact = logits_of(path, &w, n, &vocab_n);
            cr_expect_eq(memcmp(exact, dense, n * vocab_n * sizeof *dense), 0,
                         "%s, %u rows a step, mode %d: %.3g away", label, rows[i], forced,
                         distance(exact, dense, n * vocab_n));
            free(exact);
        }
        free(dense);
    }
}

static void check_model_of(const tiny_model *base, gguf_type type, const char *name) {
    char path[256], label[80];
    tiny_model model = *base;
    model.type = type;
    snprintf(label, sizeof label, "%s, %s", name, gguf_type_get(type)->name);
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &model);
    check_rows(path, label);
    unlink(path);
}

static void check_model(const tiny_model *base) {
    char name[32];
    const size_t model_i = (size_t)(base - models);
    snprintf(name, sizeof name, "model %zu", model_i);
    for (size_t t = 0; t < COUNT_OF(types); t++)
        if (!thinned_out(model_i, t, 3)) check_model_of(base, types[t], name);
}

/* By wide tiles (kernels.h) nothing is left out, which would be rounded otherwise: the bits are the dense
 * engine's, wherever skipping seems to pay. */
Test(skip, leaves_nothing_out_by_wide_tiles) {
    static const tiny_model idle = {.layer_n = 1, /* next to no neuron is active */
                                    .embd_n = 256,
                                    .ff_n = 512,
                                    .vocab_n = 64,
                                    .activation = "relu",
                                    .ffn_bias = true,
                                    .gate_bias = -3};
    enum { N = 64 };
    if (!rig_has_isa("amx")) cr_skip_test("no AMX");
    for (size_t t = 0; t < COUNT_OF(types); t++) {
        char path[256];
        size_t vocab_n;
        tiny_model model = idle;
        model.type = types[t];
        rig_temporary(path, sizeof path);
        tiny_model_write(path, &model);
        way w = {"amx", N, 2, HOTSET_SPARSITY_OFF, DEVICE_CPU_SKIP_WHERE_IT_PAYS};
        float *dense = logits_of(path, &w, N, &vocab_n);
        w.sparsity = HOTSET_SPARSITY_EXACT;
        float *exact = logits_of(path, &w, N, &vocab_n);
        cr_expect_eq(memcmp(exact, dense, N * vocab_n * sizeof *dense), 0, "%s: %.3g away",
                     gguf_type_get(model.type)->name, distance(exact, dense, N * vocab_n));
        free(dense), free(exact);
        unlink(path);
    }
}

Test(skip, equals_dense_gated) {
    check_model(&models[0]);
    check_model(&models[1]);
    check_model(&models[6]);
}

Test(skip, equals_dense_without_gate) {
    check_model(&models[2]);
    check_model(&models[3]);
}

Test(skip, equals_dense_in_experts) {
    check_model(&models[4]);
    check_model(&models[5]);
}

/* Experts chosen from the raw input, experts for all beside layers without, sums that are normed, gates and
 * ups in one matrix. */
Test(skip, equals_dense_in_architectures_of_their_own) {
#define WIDTHS .layer_n = 2, .embd_n = 256, .ff_n = 256, .vocab_n = 64
    static const tiny_model own[] = {
        {.arch = "smallthinker", WIDTHS, .expert_n = 5, .expert_used_n = 2, .window_n = 4, .gating_func = 2},
        {.arch = "glm4moe",
         WIDTHS,
         .expert_n = 5,
         .expert_used_n = 2,
         .dense_n = 1,
         .shared_n = 512,
         .qkv_bias = true,
         .activation = "relu"},
        {.arch = "gpt-oss",
         WIDTHS,
         .expert_n = 5,
         .expert_used_n = 2,
         .qkv_bias = true,
         .activation = "relu2"},
        {.arch = "gemma3", WIDTHS, .qk_norm = true, .activation = "relu"},
        {.arch = "phi3", WIDTHS, .activation = "relu"},
        {.arch = "nemotron", WIDTHS, .ffn_bias = true},
    };
#undef WIDTHS
    static const gguf_type some[] = {GGUF_F32, GGUF_Q4_0, GGUF_Q6_K};
    for (size_t i = 0; i < COUNT_OF(own); i++)
        for (size_t t = 0; t < COUNT_OF(some); t++)
            if (!thinned_out(i, t, 3)) check_model_of(&own[i], some[t], own[i].arch);
}

Test(skip, odd_widths) {
    static const tiny_model floats = {
        .embd_n = 50, .head_n = 5, .ff_n = 77, .vocab_n = 131, .activation = "relu", .by_layer = true};
    static const tiny_model blocks = {
        .type = GGUF_Q4_0, .embd_n = 96, .head_n = 6, .ff_n = 160, .vocab_n = 99, .activation = "relu"};
    const tiny_model *odd[] = {&floats, &blocks};
    for (size_t i = 0; i < COUNT_OF(odd); i++) {
        char path[256];
        rig_temporary(path, sizeof path);
        tiny_model_write(path, odd[i]);
        check_rows(path, i ? "blocks" : "floats");
        unlink(path);
    }
}

/* How far from float64 an engine may be: no further than the dense one, and half a percent. */
Test(skip, fast_kernels_are_as_near_to_float64) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < COUNT_OF(models); m += 2) {
            char path[256];
            rig r;
            int32_t tokens[TOKEN_N];
            size_t vocab_n, n = 12;
            tiny_model model = models[m];
            model.type = types[t];
            rig_temporary(path, sizeof path);
            tiny_model_write(path, &model);
            rig_open_file(&r, path, NULL);
            tiny_tokens(5, (uint32_t)r.vocab_n, tokens, n);
            double *truth = rig_truth(&r, tokens, n, FLOAT64_EXACT);
            rig_close(&r);
            for (size_t i = 1; rig_isas[i]; i++) {
                if (!rig_has_isa(rig_isas[i]) || thinned_out(t + m / 2, i, 2)) continue;
                for (uint32_t rows = 1; rows <= 12; rows += 11) {
                    way w = {rig_isas[i], rows, 2, HOTSET_SPARSITY_OFF, DEVICE_CPU_SKIP_ALWAYS};
                    float *dense = logits_of(path, &w, n, &vocab_n);
                    w.sparsity = HOTSET_SPARSITY_EXACT;
                    float *exact = logits_of(path, &w, n, &vocab_n);
                    double dense_error = float64_relative_error(dense, truth, n * vocab_n);
                    double error = float64_relative_error(exact, truth, n * vocab_n);
                    cr_expect_lt(error, dense_error + 0.005, "model %zu, %s, %s, %u rows: %.3g, dense %.3g",
                                 m, gguf_type_get(types[t])->name, rig_isas[i], rows, error, dense_error);
                    free(dense);
                    free(exact);
                }
            }
            free(truth);
            unlink(path);
        }
}

Test(skip, bits_do_not_depend_on_threads) {
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < COUNT_OF(models); m += 2) {
            if (thinned_out(t, m / 2, 2)) continue;
            char path[256];
            tiny_model model = models[m];
            model.type = types[t];
            rig_temporary(path, sizeof path);
            tiny_model_write(path, &model);
            const char *isa = rig_has_isa("avx2") ? "avx2" : "scalar";
            for (uint32_t rows = 1; rows <= 8; rows += 7) {
                float *one = NULL;
                size_t vocab_n, n = 8;
                for (uint32_t thread_n = 1; thread_n <= 3; thread_n++) {
                    way w = {isa, rows, thread_n, HOTSET_SPARSITY_EXACT, DEVICE_CPU_SKIP_ALWAYS};
                    float *logits = logits_of(path, &w, n, &vocab_n);
                    if (one)
                        cr_expect_eq(memcmp(one, logits, n * vocab_n * sizeof *one), 0,
                                     "model %zu, %s, %u rows, %u threads", m, gguf_type_get(types[t])->name,
                                     rows, thread_n);
                    if (one)
                        free(logits);
                    else
                        one = logits;
                }
                free(one);
            }
            unlink(path);
        }
}

/* ---- The plan, and what is told ---- */

Test(skip, automatic_only_where_it_loses_nothing) {
    static const struct {
        const char *activation;
        hotset_memory_mode memory;
        hotset_sparsity want;
    } cases[] = {
        {"relu", HOTSET_MEMORY_AUTO, HOTSET_SPARSITY_EXACT},
        {"relu2", HOTSET_MEMORY_COPIED, HOTSET_SPARSITY_EXACT},
        {"relu", HOTSET_MEMORY_MAPPED, HOTSET_SPARSITY_OFF},
        {"silu", HOTSET_MEMORY_AUTO, HOTSET_SPARSITY_OFF},
        {"gelu", HOTSET_MEMORY_COPIED, HOTSET_SPARSITY_OFF},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        rig r;
        rig_open_file(&r, DEMO_MODEL,
                      &(rig_options){.activation = cases[i].activation, .memory = cases[i].memory});
        cr_expect_eq(hotset_plan_resolved(r.plan).sparsity, cases[i].want, "case %zu", i);
        rig_close(&r);
    }
    hotset_model *m;
    hotset_plan *p;
    hotset_error err = {0};
    cr_assert_eq(hotset_model_open(&m, DEMO_MODEL, &(hotset_model_options){.activation = "silu"}, &err),
                 HOTSET_OK);
    hotset_plan_options o = {.sparsity = HOTSET_SPARSITY_EXACT};
    cr_expect_eq(hotset_plan_cpu(&p, m, &o, &err), HOTSET_E_ARGUMENT);
    cr_expect(strstr(err.message, "silu"), "%s", err.message);
    hotset_model_free(m);
}

/* Nothing is held twice: the copies are as large as the dense engine's. */
Test(skip, copies_are_counted_exactly) {
    uint64_t copied[2];
    for (int exact = 0; exact < 2; exact++) {
        rig r;
        rig_open_file(&r, DEMO_MODEL,
                      &(rig_options){.memory = HOTSET_MEMORY_COPIED,
                                     .sparsity = exact ? HOTSET_SPARSITY_EXACT : HOTSET_SPARSITY_OFF});
        copied[exact] = hotset_plan_footprint(r.plan).weights_copied_bytes;
        cr_expect_eq(r.engine->device[0].weights.copies->bytes, copied[exact]);
        const hotset_shape *s = hotset_model_shape(r.model);
        uint64_t down_bytes = 2ull * s->layer_n * s->ff_n * s->embd_n; /* F16 */
        cr_expect_eq(r.engine->device[0].weights.reordered_bytes, exact ? down_bytes : 0);
        cr_expect_eq(r.engine->device[0].scratch->bytes, hotset_plan_footprint(r.plan).scratch_bytes);
        rig_close(&r);
    }
    cr_expect_eq(copied[0], copied[1]);
}

/* Counts what the float64 pass finds above zero. Gate and down F32, whose bytes are simple. */
Test(skip, touched_bytes_are_those_of_active_neurons) {
    rig r;
    int32_t token = 3;
    static const tiny_model model = {
        .arch = "arcee", .layer_n = 1, .embd_n = 64, .ff_n = 96, .activation = "relu"};
    rig_open_tiny(&r, &model, NULL);
    hotset_engine_stats before = hotset_engine_get_stats(r.engine);
    cr_assert_eq(before.touched_bytes_per_token, before.weight_bytes_per_token);
    free(rig_append(&r, r.session, &token, 1));
    const uint32_t *list =
        (const uint32_t *)(const void *)((const uint8_t *)r.engine->device[0].scratch->host +
                                         r.engine->device[0].layout.choice);
    cr_assert(list[0] > 10 && list[0] < 86, "%u of 96 neurons are active", list[0]);
    hotset_engine_stats after = hotset_engine_get_stats(r.engine);
    cr_expect_eq(after.weight_bytes_per_token, before.weight_bytes_per_token);
    cr_expect_eq(after.touched_bytes_per_token, before.weight_bytes_per_token - (96 - list[0]) * 64 * 4ull);
    rig_close(&r);
}

/* AUTO leaves nothing out of a prefill, and down by neuron unpacks to the tiles of down by output: the same
 * bits as the dense engine's, whatever the kernels. */
Test(skip, automatic_prefill_is_dense) {
    static const hotset_sparsity sparsity[2] = {HOTSET_SPARSITY_OFF, HOTSET_SPARSITY_AUTO};
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (size_t m = 0; m < COUNT_OF(models); m += 2) {
            char path[256];
            float *logits[2];
            size_t logit_n = 0;
            tiny_model model = models[m];
            model.type = types[t];
            rig_temporary(path, sizeof path);
            tiny_model_write(path, &model);
            for (int i = 0; i < 2; i++) {
                rig r;
                int32_t tokens[TOKEN_N];
                rig_options o = {.isa = rig_has_isa("avx512") ? "avx512"
                                        : rig_has_isa("avx2") ? "avx2"
                                                              : NULL,
                                 .batch_n = TOKEN_N,
                                 .sparsity = sparsity[i]};
                rig_open_file(&r, path, &o);
                tiny_tokens(5, (uint32_t)r.vocab_n, tokens, TOKEN_N);
                logits[i] = rig_append(&r, r.session, tokens, TOKEN_N);
                logit_n = TOKEN_N * r.vocab_n;
                cr_expect_eq(hotset_plan_resolved(r.plan).sparsity,
                             i ? HOTSET_SPARSITY_EXACT : HOTSET_SPARSITY_OFF);
                rig_close(&r);
            }
            cr_expect_eq(memcmp(logits[0], logits[1], logit_n * sizeof(float)), 0, "model %zu, %s", m,
                         gguf_type_get(types[t])->name);
            free(logits[0]), free(logits[1]);
            unlink(path);
        }
}

/* The bundled model skips most of its neurons, and says the same. */
Test(skip, bundled_model) {
    float *logits[2];
    size_t vocab_n = 0;
    for (int exact = 0; exact < 2; exact++) {
        way w = {NULL, 1, 2, exact ? HOTSET_SPARSITY_EXACT : HOTSET_SPARSITY_OFF, DEVICE_CPU_SKIP_ALWAYS};
        logits[exact] = logits_of(DEMO_MODEL, &w, TOKEN_N, &vocab_n);
    }
    cr_expect_lt(distance(logits[1], logits[0], TOKEN_N * vocab_n), 1e-5);
    free(logits[0]);
    free(logits[1]);
}
