/* test_quantise.c - quantised values against the formulas of the types, and how much error searches leave. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/quant.h"
#include "devices/quantise.h"
#include "profiles/gguf.h"
#include "tests/kernel_test.h"

/* Sum of uniform numbers: near enough to normal, deviation 1. */
static float normal(random_state *r) {
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += random_float(r);
    return (float)(sum / 2);
}

static void back(float *y, const uint8_t *w, size_t n, gguf_type type) {
    cpu_kernels k;
    cpu_kernels_ref(&k);
    k.dequant[type](y, w, n);
}

/* The formulas once more, written as ggml has them. */
static void naive_q8_0(quant_q8_0 *b, const float *x) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    const float d = most / 127.0f, id = d ? 1.0f / d : 0.0f;
    b->d = ref_f32_to_f16(d);
    for (int i = 0; i < 32; i++) b->q[i] = (int8_t)roundf(x[i] * id);
}

static void naive_q4_0(quant_q4_0 *b, const float *x) {
    float most = 0, value = 0;
    for (int i = 0; i < 32; i++)
        if (most < fabsf(x[i])) most = fabsf(x[i]), value = x[i];
    const float d = value / -8, id = d ? 1.0f / d : 0.0f;
    b->d = ref_f32_to_f16(d);
    for (int i = 0; i < 16; i++) {
        int low = (int8_t)(x[i] * id + 8.5f), high = (int8_t)(x[i + 16] * id + 8.5f);
        b->q[i] = (uint8_t)((low > 15 ? 15 : low) | (high > 15 ? 15 : high) << 4);
    }
}

Test(quantise, q8_0_and_q4_0_are_the_formula_bit_for_bit) {
    random_state r = {81};
    for (int round = 0; round < 20000; round++) {
        float x[32], scale = ldexpf(1, (int)random_below(&r, 30) - 20);
        for (int i = 0; i < 32; i++) {
            x[i] = scale * (round % 3 ? normal(&r) : random_float(&r));
            if (round % 5 == 0) x[i] = scale * rintf(x[i] / scale * 8) / 2; /* ties */
            if (round % 7 == 0 && random_below(&r, 2)) x[i] = 0;
        }
        quant_q8_0 want8, got8;
        quant_q4_0 want4, got4;
        naive_q8_0(&want8, x);
        naive_q4_0(&want4, x);
        cr_assert(quantise_row((uint8_t *)&got8, x, 32, GGUF_Q8_0));
        cr_assert(quantise_row((uint8_t *)&got4, x, 32, GGUF_Q4_0));
        cr_assert_eq(memcmp(&got8, &want8, sizeof got8), 0, "Q8_0, block %d", round);
        cr_assert_eq(memcmp(&got4, &want4, sizeof got4), 0, "Q4_0, block %d", round);
    }
}

Test(quantise, floats_round_to_nearest) {
    random_state r = {82};
    float x[512], y[512];
    uint8_t w[4 * 512];
    for (int i = 0; i < 512; i++) x[i] = normal(&r);
    cr_assert(quantise_row(w, x, 512, GGUF_F32));
    cr_expect_eq(memcmp(w, x, sizeof x), 0);
    cr_assert(quantise_row(w, x, 512, GGUF_F16));
    back(y, w, 512, GGUF_F16);
    for (int i = 0; i < 512; i++) cr_expect_leq(fabsf(x[i] - y[i]), fmaxf(fabsf(x[i]) * 0x1p-11f, 0x1p-25f));
    cr_assert(quantise_row(w, x, 512, GGUF_BF16));
    back(y, w, 512, GGUF_BF16);
    for (int i = 0; i < 512; i++) cr_expect_leq(fabsf(x[i] - y[i]), fabsf(x[i]) * 0x1p-8f);
}

/* ---- Against ggml's quantisers ---- */

enum { SAMPLE_N = 256 * 400 };
typedef enum sample { NORMAL, UNIFORM, TAILS, WEIGHTS, SAMPLES } sample;
static const char *const sample_names[SAMPLES] = {"normal", "uniform", "heavy tails", "trained weights"};

/* The first weights of a matrix of the bundled model, F16. */
static void read_weights(float *x) {
    gguf *file;
    hotset_error err = {0};
    cr_assert_eq(gguf_open(&file, HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf", &err),
                 HOTSET_OK, "%s", err.message);
    const gguf_tensor *t = gguf_find_tensor(file, "blk.2.ffn_up.weight");
    cr_assert_eq(t->type, GGUF_F16);
    cr_assert_geq(t->bytes, SAMPLE_N * sizeof(uint16_t));
    back(x, t->data, SAMPLE_N, GGUF_F16);
    gguf_free(file);
}

/* Heavy tails: Student's t with 4 degrees of freedom. */
static void make_sample(float *x, sample kind) {
    random_state r = {(const uint64_t[]){83, 84, 88, 0}[kind]};
    if (kind == WEIGHTS) {
        read_weights(x);
        return;
    }
    for (size_t i = 0; i < SAMPLE_N; i++) {
        double value = kind == UNIFORM ? random_float(&r) : normal(&r), squares = 0;
        for (int k = 0; k < 4 && kind == TAILS; k++) {
            const double y = normal(&r);
            squares += y * y;
        }
        x[i] = 0.02f * (float)(kind == TAILS ? value / sqrt(squares / 4) : value);
    }
}

/* ||x' - x|| / ||x|| over many blocks. */
static double relative_error(const float *x, gguf_type type) {
    float *y = malloc(SAMPLE_N * sizeof *y);
    uint8_t *w = malloc(gguf_row_bytes(type, SAMPLE_N));
    double squared = 0, energy = 0;
    cr_assert(quantise_row(w, x, SAMPLE_N, type));
    back(y, w, SAMPLE_N, type);
    for (size_t i = 0; i < SAMPLE_N; i++) {
        squared += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        energy += (double)x[i] * x[i];
    }
    free(y);
    free(w);
    return sqrt(squared / energy);
}

/* What the usual quantisers leave of these very samples: ggml_quantize_chunk, without an importance matrix,
 * of the libggml-base (0.25.3) in llama-cpp-python 0.3.36, in rows of 256, read back by gguf 0.19.0; that
 * package's own quantisers, where it has some (BF16 to MXFP4), leave the same. Ours may leave half a percent
 * more: K-quants of uniform numbers come out 0.08 % above. Q2_K is not among them: convert does not offer it,
 * for ours has no search yet and leaves a tenth more (0.328 against 0.294 of normal numbers). */
Test(quantise, leaves_no_more_error_than_the_usual_quantisers) {
    static const struct {
        gguf_type type;
        double theirs[SAMPLES]; /* normal, uniform, heavy tails, trained weights */
    } rows[] = {{GGUF_F16, {0.000207, 0.000219, 0.000206, 0}},
                {GGUF_BF16, {0.001659, 0.001758, 0.001662, 0.001680}},
                {GGUF_Q8_0, {0.005265, 0.003760, 0.007276, 0.005232}},
                {GGUF_Q4_0, {0.084835, 0.064703, 0.115352, 0.083886}},
                {GGUF_Q4_1, {0.077473, 0.060439, 0.093538, 0.077133}},
                {GGUF_Q5_0, {0.042069, 0.031054, 0.058068, 0.041610}},
                {GGUF_Q5_1, {0.037506, 0.029254, 0.045322, 0.037234}},
                {GGUF_MXFP4, {0.113241, 0.120124, 0.129792, 0.116237}},
                {GGUF_Q3_K, {0.149267, 0.124768, 0.181591, 0.148513}},
                {GGUF_Q4_K, {0.070623, 0.054272, 0.086495, 0.070164}},
                {GGUF_Q5_K, {0.035736, 0.027515, 0.043773, 0.035391}},
                {GGUF_Q6_K, {0.017581, 0.013512, 0.022884, 0.017360}},
                {GGUF_IQ4_NL, {0.075551, 0.063964, 0.093445, 0.074962}},
                {GGUF_IQ4_XS, {0.076160, 0.064591, 0.094357, 0.075605}}};
    static const double q2_k_most[SAMPLES] = {0.35, 0.32, 0.37, 0.35};
    float *x = malloc(SAMPLE_N * sizeof *x);
    for (sample s = NORMAL; s < SAMPLES; s++) {
        make_sample(x, s);
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            const double ours = relative_error(x, rows[i].type);
            cr_expect_leq(ours, 1.005 * rows[i].theirs[s], "%s of %s: %.6f",
                          gguf_type_get(rows[i].type)->name, sample_names[s], ours);
        }
        const double q2_k = relative_error(x, GGUF_Q2_K);
        cr_expect_lt(q2_k, q2_k_most[s], "Q2_K of %s: %.4f", sample_names[s], q2_k);
    }
    free(x);
}

/* No weight is further from its value than a step of its group allows; found from the stored block itself. */
Test(quantise, k_quants_clip_nothing_badly) {
    random_state r = {85};
    for (int round = 0; round < 200; round++) {
        float x[256], y[256];
        quant_q4_k four;
        quant_q6_k six;
        for (int i = 0; i < 256; i++) x[i] = normal(&r) * (round % 4 == 3 && i / 32 % 2 ? 0.01f : 1);
        cr_assert(quantise_row((uint8_t *)&four, x, 256, GGUF_Q4_K));
        back(y, (uint8_t *)&four, 256, GGUF_Q4_K);
        for (int i = 0; i < 256; i++) {
            uint8_t sc, m;
            quant_q4_k_scale(four.scales, i / 32, &sc, &m);
            float step = ref_f16_to_f32(four.d) * sc, floor_step = ref_f16_to_f32(four.dmin);
            cr_expect_leq(fabsf(x[i] - y[i]), 1.3f * step + 0.51f * floor_step + ref_f16_to_f32(four.d) * 8);
        }
        cr_assert(quantise_row((uint8_t *)&six, x, 256, GGUF_Q6_K));
        back(y, (uint8_t *)&six, 256, GGUF_Q6_K);
        for (int i = 0; i < 256; i++) {
            float step = fabsf(ref_f16_to_f32(six.d) * six.scales[i / 16]);
            cr_expect_leq(fabsf(x[i] - y[i]), 2 * step + 17 * fabsf(ref_f16_to_f32(six.d)));
        }
    }
}

/* What a type can hold exactly comes back exactly. */
Test(quantise, exact_values_come_back) {
    random_state r = {86};
    for (int round = 0; round < 100; round++) {
        float x[256], y[256];
        uint8_t w[1024];
        for (int i = 0; i < 256; i++) x[i] = 0.25f * (float)((int)random_below(&r, 255) - 127);
        for (int i = 0; i < 256; i += 32) x[i] = 0.25f * 127;
        cr_assert(quantise_row(w, x, 256, GGUF_Q8_0));
        back(y, w, 256, GGUF_Q8_0);
        cr_expect_eq(memcmp(x, y, sizeof x), 0, "Q8_0");
        for (int i = 0; i < 256; i++) x[i] = i % 32 ? 0.5f * (float)((int)random_below(&r, 16) - 8) : -4;
        cr_assert(quantise_row(w, x, 256, GGUF_Q4_0));
        back(y, w, 256, GGUF_Q4_0);
        cr_expect_eq(memcmp(x, y, sizeof x), 0, "Q4_0");
    }
}

Test(quantise, zeros_constants_and_small_numbers) {
    for (size_t t = 0; t < ALL_TYPES; t++) {
        static const float values[] = {0, -0.0f, 1, -1, 1e-3f, -1e-3f, 1e-12f, -1e-30f, 1e-42f};
        for (size_t v = 0; v < COUNT_OF(values); v++) {
            float x[256], y[256];
            uint8_t w[1024];
            for (int i = 0; i < 256; i++) x[i] = values[v];
            cr_assert(quantise_row(w, x, 256, all_types[t]), "%s of %g", gguf_type_get(all_types[t])->name,
                      values[v]);
            back(y, w, 256, all_types[t]);
            for (int i = 0; i < 256; i++)
                cr_expect_leq(fabsf(y[i] - x[i]),
                              fmaxf((all_types[t] == GGUF_MXFP4 ? 0.2f : 0.02f) * fabsf(x[i]), 6.2e-8f * 8),
                              "%s of %g gives %g", gguf_type_get(all_types[t])->name, values[v], y[i]);
        }
    }
}

Test(quantise, refuses_what_cannot_be_held) {
    static const float bad[] = {INFINITY, -INFINITY, NAN, 1e30f};
    float x[256];
    uint8_t w[1024];
    for (size_t t = 0; t < ALL_TYPES; t++)
        for (size_t b = 0; b < COUNT_OF(bad); b++) {
            bool wide = all_types[t] == GGUF_F32 || all_types[t] == GGUF_BF16;
            memset(x, 0, sizeof x);
            x[200] = bad[b];
            cr_expect_eq(quantise_row(w, x, 256, all_types[t]), wide && b == 3, "%s of %g",
                         gguf_type_get(all_types[t])->name, bad[b]);
        }
    cr_expect_not(quantise_can(GGUF_NVFP4));
    cr_expect(quantise_can(GGUF_Q4_K));
}

/* Nothing is written beyond the blocks, nothing read beyond the values. */
Test(quantise, stays_in_its_memory) {
    random_state r = {87};
    for (size_t t = 0; t < ALL_TYPES; t++)
        for (int end = 0; end < 2; end++) {
            guarded from = guarded_alloc(512 * sizeof(float), 4, end),
                    to = guarded_alloc(gguf_row_bytes(all_types[t], 512), 1, end);
            random_floats(&r, (float *)(void *)from.data, 512);
            cr_expect(quantise_row(to.data, (float *)(void *)from.data, 512, all_types[t]));
            guarded_free(&from);
            guarded_free(&to);
        }
}
