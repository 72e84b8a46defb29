/* test_reference_logits.c - logits that independent engines gave for the same files and tokens.
 *
 * tests/data: random weights, logits of llama.cpp (qwen3 and qwen3moe: of ik_llama.cpp), which also rounds
 * activations to 8 bits (blocks) or 16 (F16). The trained models' logits come from a float64 pass outside
 * this project.
 */
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DATA   HOTSET_SOURCE_DIR "/tests/data/"
#define SHARED HOTSET_SOURCE_DIR "/../shared/data/models"

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
                          &(rig_options){.isa = rig_isas[i], .batch_n = batch_n, .f16_state = true});
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
