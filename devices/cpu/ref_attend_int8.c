/* ref_attend_int8.c - attention over state rows in Q8_0, by the rule of kernels.h, in plain C. */
#include "devices/cpu/ref.h"
#include "devices/quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 32, GROUP = CPU_ATTEND_GROUP, ROWS = CPU_ATTEND_ROWS_MAX };

/* Block block_i of row row_i. */
static const quant_q8_0 *block_at(const void *rows, size_t stride, size_t row_i, size_t block_i) {
    return (const quant_q8_0 *)(const void *)((const uint8_t *)rows + row_i * stride) + block_i;
}

static float block_d(const quant_q8_0 *block) {
    uint16_t h;
    memcpy(&h, block, sizeof h);
    return ref_f16_to_f32(h);
}

/* n numbers in `steps` steps up to the largest magnitude; returns the size of a step. */
static float quantise(int *q, const float *x, size_t n, float steps) {
    float a = 0;
    for (size_t i = 0; i < n; i++) a = fmaxf(a, fabsf(x[i]));
    float factor = steps / a;
    if (!(factor <= FLT_MAX)) factor = 0;
    for (size_t i = 0; i < n; i++) q[i] = (int)rintf(x[i] * factor);
    return a / steps;
}

/* Of all rows; those that are hidden have no weight. */
static void score(const cpu_attend_args *a, const float *x, float scores[ROWS]) {
    double dot[ROWS] = {0};
    int q[BLOCK];
    for (size_t b = 0; b < a->key_n / BLOCK; b++) {
        const float d = quantise(q, x + b * BLOCK, BLOCK, 127);
        for (size_t r = 0; r < a->row_n; r++) {
            const quant_q8_0 *key = block_at(a->key, a->key_stride, r, b);
            int sum = 0;
            for (size_t i = 0; i < BLOCK; i++) sum += q[i] * key->q[i];
            dot[r] += (double)d * (double)block_d(key) * sum;
        }
    }
    for (size_t r = 0; r < a->row_n; r++) {
        const float s = (float)(dot[r] * (double)a->scale);
        scores[r] = a->softcap != 0 ? a->softcap * tanhf(s / a->softcap) : s;
    }
    for (size_t r = 0; r < cpu_attend_hidden(a, 0); r++) scores[r] = -INFINITY;
}

/* out = one block of the sum of p v. */
static void add_block(const cpu_attend_args *a, const float p[ROWS], size_t block_i, float *out) {
    float w[GROUP];
    int q[GROUP];
    double total[BLOCK] = {0};
    for (size_t from = 0; from < a->row_n; from += GROUP) {
        const size_t n = a->row_n - from < GROUP ? a->row_n - from : GROUP;
        int sum[BLOCK] = {0};
        for (size_t r = 0; r < n; r++)
            w[r] = p[from + r] * block_d(block_at(a->value, a->value_stride, from + r, block_i));
        const float d = quantise(q, w, n, 255);
        for (size_t r = 0; r < n; r++) {
            const quant_q8_0 *value = block_at(a->value, a->value_stride, from + r, block_i);
            for (size_t i = 0; i < BLOCK; i++) sum[i] += q[r] * value->q[i];
        }
        for (size_t i = 0; i < BLOCK; i++) total[i] += (double)d * sum[i];
    }
    for (size_t i = 0; i < BLOCK; i++) out[i] = (float)total[i];
}

void ref_attend_int8(const cpu_attend_args *a) {
    float p[ROWS];
    for (size_t h = 0; h < a->head_n; h++) {
        float max = -INFINITY;
        double sum = 0;
        score(a, a->q + h * a->key_n, p);
        for (size_t r = 0; r < a->row_n; r++) max = fmaxf(max, p[r]);
        for (size_t r = 0; r < a->row_n; r++) sum += (double)(p[r] = expf(p[r] - max));
        for (size_t b = 0; b < a->value_n / BLOCK; b++)
            add_block(a, p, b, a->out + h * a->value_n + b * BLOCK);
        a->max[h] = max;
        a->sum[h] = (float)sum;
    }
}
