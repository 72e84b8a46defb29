/* test_reference_logits.c - logits that independent engines gave for the same files and tokens.
 *
 * tests/data: random weights, logits of llama.cpp (qwen3 and qwen3moe: of ik_llama.cpp), which also rounds
 * activations to 8 bits (blocks) or 16 (F16). The trained models' logits come from a float64 pass outside
 * this project. PowerInfer's files have the logits of PowerInfer with its predictors at work.
 */
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DATA   HOTSET_SOURCE_DIR "/tests/data/"
#define SHARED HOTSET_SOURCE_DIR "/../shared/data/models"
#define LOGITS HOTSET_SOURCE_DIR "/../shared/data/logits"

/* For the models in tests/data: 48 tokens, no BOS. */
static const int32_t random_text[] = {415, 44,  92,  122, 93,  410, 445, 298, 21,  49,  170, 222,
                                      318, 245, 136, 82,  354, 376, 17,  59,  232, 200, 454, 265,
                                      215, 221, 341, 300, 89,  378, 387, 489, 402, 146, 164, 332,
                                      333, 356, 445, 150, 480, 1,   40,  498, 483, 153, 72,  161};

/* For the trained models: the beginning of a sonnet, BOS first. */
static const int32_t trained_text[] = {
    0,   199,  1933, 88,  369, 389, 308,  1351, 357, 12,  368,  1164, 1430, 3109, 285, 736,
    14,  1761, 1637, 199, 352, 578, 1761, 12,   284, 292, 2748, 337,  888,  2726, 284, 3304,
    27,  199,  352,  329, 369, 469, 624,  450,  466, 296, 617,  259,  2658, 12,   343, 282,
    748, 888,  2726, 199, 82,  553, 2831, 294,  89,  413, 199,  199,  673,  3153, 894, 2369};

static float *read_floats(const char *path, size_t n) {
    float *values = malloc(n * sizeof *values);
    FILE *file = fopen(path, "rb");
    cr_assert(values && file, "cannot read %s", path);
    cr_assert_eq(fread(values, sizeof *values, n, file), n, "%s is short", path);
    fclose(file);
    return values;
}

/* One model on every instruction set, as prefill and as decode, with the plan's usual F16 state. */
static void check(const char *model, const char *logits, const int32_t *tokens, size_t token_n,
                  double tolerance) {
    for (size_t i = 0; rig_isas[i]; i++) {
        if (!rig_has_isa(rig_isas[i])) continue;
        for (uint32_t batch_n = 1; batch_n <= 64; batch_n += 63) {
            rig r;
            rig_open_file(&r, model,
                          &(rig_options){.isa = rig_isas[i], .batch_n = batch_n, .state = GGUF_F16});
            float *expected = read_floats(logits, token_n * r.vocab_n);
            float *got = rig_append(&r, r.session, tokens, token_n);
            double distance = rig_distance(got, expected, token_n * r.vocab_n);
            cr_expect_lt(distance, tolerance, "%s, %s, %u rows a step: distance %.3g", model, rig_isas[i],
                         batch_n, distance);
            free(expected);
            free(got);
            rig_close(&r);
        }
    }
}

Test(reference_logits, float_weights) {
    static const char *const names[] = {"llama-F16", "mixtral-F16", "qwen2-F16", "qwen3-F16", "qwen3moe-F16"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char model[512], logits[512];
        snprintf(model, sizeof model, DATA "%s.gguf", names[i]);
        snprintf(logits, sizeof logits, DATA "%s.logits", names[i]);
        check(model, logits, random_text, COUNT_OF(random_text), 0.005);
    }
}

Test(reference_logits, quantised_weights) {
    static const char *const names[] = {"llama-Q4_0", "llama-Q4_K", "llama-Q6_K"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char model[512], logits[512];
        snprintf(model, sizeof model, DATA "%s.gguf", names[i]);
        snprintf(logits, sizeof logits, DATA "%s.logits", names[i]);
        check(model, logits, random_text, COUNT_OF(random_text), 0.03);
    }
}

/* With the other engine's F32 state even its rounding of K-quants' activations is ours: what is left is the
 * order of sums, and the odd activation that these round to the other side. */
Test(reference_logits, k_quants_round_like_the_other_engine) {
    static const char *const names[] = {"llama-Q4_K", "llama-Q6_K"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char model[512], logits[512];
        rig r;
        snprintf(model, sizeof model, DATA "%s.gguf", names[i]);
        snprintf(logits, sizeof logits, DATA "%s.logits", names[i]);
        rig_open_file(&r, model, NULL);
        float *expected = read_floats(logits, COUNT_OF(random_text) * r.vocab_n);
        float *got = rig_append(&r, r.session, random_text, COUNT_OF(random_text));
        double distance = rig_distance(got, expected, COUNT_OF(random_text) * r.vocab_n);
        cr_expect_lt(distance, 2e-3, "%s: distance %.3g", names[i], distance);
        free(expected);
        free(got);
        rig_close(&r);
    }
}

/* Models that are kept beside the checkout. */
static void check_kept(const char *name, double tolerance) {
    char model[512], logits[512];
    snprintf(model, sizeof model, LOGITS "/%s.gguf", name);
    snprintf(logits, sizeof logits, LOGITS "/%s.logits", name);
    if (access(logits, R_OK)) cr_skip_test("SKIP: no logits of %s beside the checkout", name);
    check(model, logits, random_text, COUNT_OF(random_text), tolerance);
}

Test(reference_logits, olmoe) { check_kept("olmoe-F16", 0.005); }
Test(reference_logits, nemotron) { check_kept("nemotron-F16", 0.005); }

Test(reference_logits, gpt_oss) { check_kept("gpt-oss-F32", 0.005); }

/* The trained models' logits are kept beside the checkout: a megabyte each. */
static void check_trained(const char *folder, const char *name) {
    char model[512], logits[512];
    snprintf(model, sizeof model, "%s/%s.gguf", folder, name);
    snprintf(logits, sizeof logits, SHARED "/%s.logits", name);
    if (access(logits, R_OK)) cr_skip_test("SKIP: no logits of %s beside the checkout", name);
    check(model, logits, trained_text, COUNT_OF(trained_text), 0.005);
}

Test(reference_logits, bundled_model) {
    check_trained(HOTSET_SOURCE_DIR "/tools/demo", "Gutenberg-7M-ReGLU-F16");
}
Test(reference_logits, trained_squared_relu) { check_trained(SHARED, "Gutenberg-7M-ReLU2-F16"); }
Test(reference_logits, trained_experts) { check_trained(SHARED, "Gutenberg-MoE-21M-A7M-F16"); }

static int by_value(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

/* Distances of each position's logits: their median. */
static double median_distance(const float *got, const float *expected, size_t token_n, size_t vocab_n) {
    double distance[COUNT_OF(random_text)];
    for (size_t t = 0; t < token_n; t++)
        distance[t] = rig_distance(got + t * vocab_n, expected + t * vocab_n, vocab_n);
    qsort(distance, token_n, sizeof *distance, by_value);
    return distance[token_n / 2];
}

/* The other engine rounds activations to 16 bits wherever they meet F16 weights, so here and there a neuron
 * whose score is next to the threshold is in one engine's set and not in the other's, which moves that
 * position's logits by percents. With F32 state few positions differ so; with F16 state several, but not half
 * of them. */
static void check_predicted(const char *name) {
    char model[512], logits[512];
    snprintf(model, sizeof model, LOGITS "/%s.gguf", name);
    snprintf(logits, sizeof logits, LOGITS "/%s.logits", name);
    if (access(logits, R_OK)) cr_skip_test("SKIP: no logits of %s beside the checkout", name);
    const size_t token_n = COUNT_OF(random_text);
    for (size_t i = 0; rig_isas[i]; i++)
        for (int way = 0; way < 4 && rig_has_isa(rig_isas[i]); way++) {
            rig r;
            rig_options o = {.isa = rig_isas[i],
                             .batch_n = way & 1 ? 64 : 1,
                             .state = way & 2 ? GGUF_F16 : GGUF_F32,
                             .sparsity = HOTSET_SPARSITY_PREDICT,
                             .memory = way & 1 ? HOTSET_MEMORY_MAPPED : HOTSET_MEMORY_COPIED};
            rig_open_file(&r, model, &o);
            float *expected = read_floats(logits, token_n * r.vocab_n);
            float *got = rig_append(&r, r.session, random_text, token_n);
            double distance = rig_distance(got, expected, token_n * r.vocab_n);
            double median = median_distance(got, expected, token_n, r.vocab_n);
            cr_expect_lt(median, 2e-3, "%s, %s, way %d: median distance %.3g", name, rig_isas[i], way,
                         median);
            cr_expect_lt(distance, o.state == GGUF_F16 ? 0.02 : 0.005, "%s, %s, way %d: distance %.3g", name,
                         rig_isas[i], way, distance);
            free(expected);
            free(got);
            rig_close(&r);
        }
}

Test(reference_logits, powerinfer_llama) { check_predicted("powerinfer-llama-F16"); }
Test(reference_logits, powerinfer_bamboo) { check_predicted("powerinfer-bamboo-F16"); }
Test(reference_logits, powerinfer_falcon) { check_predicted("powerinfer-falcon-F16"); }
