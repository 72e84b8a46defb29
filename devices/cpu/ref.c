/* ref.c - the portable table: norms, attention, activations and the other vector work in plain C. It is the
 * specification of these operations, so sums are kept in double and functions come from libm. */
#include "devices/cpu/ref.h"
#include "devices/quant.h"

#include <math.h>
#include <string.h>

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
    double square = 0;
    for (size_t i = 0; i < n; i++) square += (double)x[i] * (double)x[i];
    const float factor = (float)(1.0 / sqrt(square / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++) y[i] = x[i] * factor * (w ? w[i] : 1.0f);
}

static void layernorm(float *y, const float *x, const float *w, const float *b, size_t n, float eps) {
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    const double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    const double factor = 1.0 / sqrt(square / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(((double)x[i] - mean) * factor) * (w ? w[i] : 1.0f) + (b ? b[i] : 0.0f);
}

static float state_value(const void *row, size_t i, gguf_type type) {
    return type == GGUF_F32 ? ((const float *)row)[i] : ref_f16_to_f32(((const uint16_t *)row)[i]);
}

static float attend_score(const cpu_attend_args *a, const float *q, size_t row_i) {
    const void *key = (const uint8_t *)a->key + row_i * a->key_stride;
    double dot = 0;
    for (size_t i = 0; i < a->key_n; i++) dot += (double)q[i] * (double)state_value(key, i, a->state);
    const float s = (float)(dot * (double)a->scale);
    return a->softcap != 0 ? a->softcap * tanhf(s / a->softcap) : s;
}

static void attend_head(const cpu_attend_args *a, size_t head_i) {
    float *scores = a->scores + head_i * a->row_n, *out = a->out + head_i * a->value_n, max = -INFINITY;
    const size_t first = cpu_attend_hidden(a, 0);
    double sum = 0;
    for (size_t r = first; r < a->row_n; r++) {
        scores[r] = attend_score(a, a->q + head_i * a->key_n, r);
        max = scores[r] > max ? scores[r] : max;
    }
    memset(out, 0, a->value_n * sizeof *out);
    for (size_t r = first; r < a->row_n; r++) {
        const void *value = (const uint8_t *)a->value + r * a->value_stride;
        const float p = expf(scores[r] - max);
        sum += (double)p;
        for (size_t i = 0; i < a->value_n; i++) out[i] += p * state_value(value, i, a->state);
    }
    a->max[head_i] = max;
    a->sum[head_i] = (float)sum;
}

static void attend_token(const cpu_attend_args *args) {
    if (args->state == GGUF_Q8_0) {
        ref_attend_int8(args);
        return;
    }
    for (size_t h = 0; h < args->head_n; h++) attend_head(args, h);
}

static void attend(const cpu_attend_args *args) { cpu_attend_each(args, attend_token); }

/* GELU: Hendrycks & Gimpel 2016, exact and with tanh; SiLU: Elfwing et al. 2017; ReLU^2: So et al. 2021;
 * dReLU: Song et al. 2024 (TurboSparse); the cut SwiGLU: OpenAI 2025 (gpt-oss). */
static float activation(float x, cpu_activation kind) {
    switch (kind) {
    case CPU_ACT_SILU: return x / (1.0f + expf(-x));
    case CPU_ACT_GELU: return (float)(0.5 * (double)x * erfc(-(double)x * M_SQRT1_2));
    case CPU_ACT_GELU_TANH: return x / (1.0f + expf(-0x1.988454p+0f * (x + 0.044715f * x * x * x)));
    case CPU_ACT_RELU:
    case CPU_ACT_DRELU: return x > 0 ? x : 0;
    case CPU_ACT_RELU2: return x > 0 ? x * x : 0;
    case CPU_ACT_SWIGLU_OAI: x = fminf(x, 7); return x / (1.0f + expf(-1.702f * x));
    case CPU_ACT_COUNT: break;
    }
    __builtin_unreachable();
}

/* What up adds to it. */
static float activation_factor(float up, cpu_activation kind) {
    if (kind == CPU_ACT_DRELU) return activation(up, kind);
    return kind == CPU_ACT_SWIGLU_OAI ? fmaxf(fminf(up, 7), -7) + 1 : up;
}

static void activate(float *h, const float *gate, const float *up, size_t n, cpu_activation kind) {
    for (size_t i = 0; i < n; i++)
        h[i] = activation(gate[i], kind) * (up ? activation_factor(up[i], kind) : 1);
}

static void axpy(float *y, const float *x, float a, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += a * x[i];
}

static void blend(float *y, const float *x, float a, float b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = a * y[i] + b * x[i];
}

static void rope(float *x, const float *cs, size_t pair_n, bool adjacent) {
    const size_t step = adjacent ? 2 : 1, partner = adjacent ? 1 : pair_n;
    for (size_t i = 0; i < pair_n; i++) {
        float *x0 = x + i * step, *x1 = x0 + partner;
        const float a = *x0, b = *x1, c = cs[2 * i], s = cs[2 * i + 1];
        *x0 = a * c - b * s;
        *x1 = a * s + b * c;
    }
}

static void f32_to_f16(uint16_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = ref_f32_to_f16(x[i]);
}

static void f32_to_bf16(uint16_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = ref_f32_to_bf16(x[i]);
}

static uint64_t read_sum(const void *p, size_t bytes) {
    const uint64_t *word = p;
    uint64_t part[8] = {0};
    for (size_t i = 0; i < bytes / sizeof *word; i += 8) {
        for (size_t j = 0; j < 8; j++) part[j] += word[i + j];
    }
    return part[0] + part[1] + part[2] + part[3] + part[4] + part[5] + part[6] + part[7];
}

/* The operands are read again in each iteration (the barrier says that memory may have changed), which the
 * first level of cache serves faster than the arithmetic runs; without it the compiler would multiply once.
 */
#define OPERANDS_MAY_CHANGE() __asm__ volatile("" ::: "memory")

static double peak_int8(size_t iterations, float *sink) {
    enum { LANES = 128 };
    int8_t a[LANES], b[LANES];
    int32_t sum = 0;
    memset(a, 1, sizeof a);
    memset(b, 2, sizeof b);
    for (size_t i = 0; i < iterations; i++) {
        OPERANDS_MAY_CHANGE();
        for (int j = 0; j < LANES; j++) sum = (int32_t)((uint32_t)sum + (uint32_t)(a[j] * b[j]));
    }
    *sink = (float)sum;
    return 2.0 * LANES * (double)iterations;
}

static double peak_f32(size_t iterations, float *sink) {
    enum { LANES = 32 };
    float a[LANES], sum[LANES];
    for (int j = 0; j < LANES; j++) a[j] = 1e-3f, sum[j] = 0;
    for (size_t i = 0; i < iterations; i++) {
        OPERANDS_MAY_CHANGE();
        for (int j = 0; j < LANES; j++) sum[j] += a[j] * 0.5f;
    }
    *sink = sum[0];
    return 2.0 * LANES * (double)iterations;
}

static size_t where_above(uint32_t *where, const float *x, size_t n, float bound) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        where[count] = (uint32_t)i;
        count += x[i] > bound;
    }
    return count;
}

void cpu_kernels_ref(cpu_kernels *k) {
    *k = (cpu_kernels){
        .isa = "scalar",
        .rmsnorm = rmsnorm,
        .layernorm = layernorm,
        .attend = attend,
        .activate = activate,
        .where_above = where_above,
        .axpy = axpy,
        .blend = blend,
        .rope = rope,
        .f32_to_f16 = f32_to_f16,
        .f32_to_bf16 = f32_to_bf16,
        .read_sum = read_sum,
        .peak_int8 = peak_int8,
        .peak_f32 = peak_f32,
    };
    ref_products_init(k);
    ref_neurons_init(k);
    ref_rows_init(k);
}
