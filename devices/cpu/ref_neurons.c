/* ref_neurons.c - sums over active neurons in plain C: one neuron after the other, in double. */
#include "devices/cpu/ref.h"
#include "devices/neurons.h"

#include <assert.h>
#include <string.h>

/* ---- Float types ---- */

static float float_at(const uint8_t *w, gguf_type type, size_t i) {
    if (type == GGUF_F32) {
        float x;
        memcpy(&x, w + 4 * i, sizeof x);
        return x;
    }
    uint16_t h;
    memcpy(&h, w + 2 * i, sizeof h);
    return type == GGUF_F16 ? ref_f16_to_f32(h) : ref_bf16_to_f32(h);
}

static void add_float_neuron(double *sum, const uint8_t *w, gguf_type type, size_t from, size_t n, float x) {
    for (size_t o = 0; o < n; o++) sum[o] += (double)x * (double)float_at(w, type, from + o);
}

/* ---- Block types ---- */

static float half_at(const uint8_t *plane, size_t o) {
    uint16_t h;
    memcpy(&h, plane + 2 * o, sizeof h);
    return ref_f16_to_f32(h);
}

/* The quant of output o, its offset taken off, in one neuron's bytes. */
static int quant_at(const uint8_t *neuron, gguf_type type, size_t out_n, size_t o) {
    const size_t run = o / NEURONS_RUN, j = o % NEURONS_RUN;
    if (type == GGUF_Q8_0) return (int8_t)neuron[o];
    const int nibble = neuron[16 * run + j % 16] >> j / 16 * 4 & 15;
    if (type == GGUF_Q4_0) return nibble - 8;
    if (type == GGUF_Q4_K) return nibble;
    return (nibble | (neuron[out_n / 2 + 8 * run + j % 8] >> j / 8 * 2 & 3) << 4) - 32;
}

/* Number `part` (of 8) of 6-bit scale and minimum; layout: devices/quant.h. */
static void q4_k_part(const uint8_t *planes, size_t out_n, size_t o, size_t part, int *scale, int *min) {
#define BYTE(i) (planes[(size_t)(i)*out_n + o])
    *scale = part < 4 ? BYTE(part) & 63 : (BYTE(part + 4) & 15) | BYTE(part - 4) >> 6 << 4;
    *min = part < 4 ? BYTE(part + 4) & 63 : BYTE(part + 4) >> 4 | BYTE(part) >> 6 << 4;
#undef BYTE
}

/* Weight of output o of neuron i of a group. */
static double weight_at(const uint8_t *group, gguf_type type, neurons_form f, size_t out_n, size_t i,
                        size_t o) {
    const uint64_t row_bytes = neurons_row_bytes(f, (uint32_t)out_n);
    const uint8_t *planes = group + f.group_n * row_bytes;
    const double q = quant_at(group + row_bytes * i, type, out_n, o);
    if (type == GGUF_Q6_K)
        return (double)half_at(planes + 16 * out_n, o) * (int8_t)planes[i / 16 * out_n + o] * q;
    const double d = (double)half_at(planes, o);
    if (type != GGUF_Q4_K) return d * q;
    int scale, min;
    q4_k_part(planes + 4 * out_n, out_n, o, i / 32, &scale, &min);
    return d * scale * q - (double)half_at(planes + 2 * out_n, o) * min;
}

/* ---- The slots ---- */

static void neuron_sum(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n, const cpu_active *a,
                       gguf_type type) {
    double sum[CPU_NEURON_OUTPUTS_MAX] = {0};
    neurons_form f;
    bool known = neurons_form_of(type, (uint32_t)out_n, &f);
    assert(known && n <= CPU_NEURON_OUTPUTS_MAX);
    const uint64_t group_bytes = neurons_group_bytes(f, (uint32_t)out_n);
    for (size_t j = 0; j < a->n; j++) {
        const size_t g = a->neuron[j] / f.group_n, i = a->neuron[j] % f.group_n;
        if (f.group_n == 1) {
            add_float_neuron(sum, w + group_bytes * g, type, from, n, a->x[j]);
            continue;
        }
        const double x = (double)a->d[g] * a->q[j];
        for (size_t o = 0; o < n; o++)
            sum[o] += x * weight_at(w + group_bytes * g, type, f, out_n, i, from + o);
    }
    for (size_t o = 0; o < n; o++) y[o] = (float)sum[o];
}

#define SLOT(type, TYPE)                                                                                     \
    static void neuron_sum_##type(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *active) {                                                \
        neuron_sum(y, w, out_n, from, n, active, GGUF_##TYPE);                                               \
    }
SLOT(f32, F32)
SLOT(f16, F16)
SLOT(bf16, BF16)
SLOT(q8_0, Q8_0)
SLOT(q4_0, Q4_0)
SLOT(q4_k, Q4_K)
SLOT(q6_k, Q6_K)

void ref_neurons_init(cpu_kernels *k) {
    k->neuron_sum[GGUF_F32] = neuron_sum_f32;
    k->neuron_sum[GGUF_F16] = neuron_sum_f16;
    k->neuron_sum[GGUF_BF16] = neuron_sum_bf16;
    k->neuron_sum[GGUF_Q8_0] = neuron_sum_q8_0;
    k->neuron_sum[GGUF_Q4_0] = neuron_sum_q4_0;
    k->neuron_sum[GGUF_Q4_K] = neuron_sum_q4_k;
    k->neuron_sum[GGUF_Q6_K] = neuron_sum_q6_k;
}
