/* ref_neurons.c - sums over active neurons in plain C: what gemv does for the whole vector (ref_quant.c),
 * addition by addition, less those of zeros. So the portable engine gives the same bits whether it skips or
 * not.
 */
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

static void end_piece(ref_sums *s, size_t n) {
    for (size_t o = 0; o < n; o++) {
        double part[REF_DOT_PARTS];
        for (size_t j = 0; j < REF_DOT_PARTS; j++) {
            part[j] = s->part[j][o];
            s->part[j][o] = 0;
        }
        s->total[o] += ref_dot_total(part);
    }
}

void ref_sums_add(ref_sums *s, size_t neuron, float x, const float *weights, size_t n) {
    if (neuron / REF_DOT_PIECE != s->piece_i) end_piece(s, n);
    s->piece_i = neuron / REF_DOT_PIECE;
    double *part = s->part[neuron % REF_DOT_PARTS];
    for (size_t o = 0; o < n; o++) part[o] += (double)weights[o] * (double)x;
}

void ref_sums_end(ref_sums *s, float *y, size_t n) {
    end_piece(s, n);
    for (size_t o = 0; o < n; o++) y[o] = (float)s->total[o];
}

/* At most REF_SUM_OUTPUTS outputs. */
static void sum_floats(float *y, const uint8_t *w, gguf_type type, size_t out_n, size_t from, size_t n,
                       const cpu_active *a) {
    ref_sums s = {0};
    for (size_t j = 0; j < a->n; j++) {
        float weights[REF_SUM_OUTPUTS];
        for (size_t o = 0; o < n; o++) weights[o] = float_at(w, type, out_n * a->neuron[j] + from + o);
        ref_sums_add(&s, a->neuron[j], a->x[j], weights, n);
    }
    ref_sums_end(&s, y, n);
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

enum { PART = 32 /* neurons whose sum is scaled at once */ };

/* Scales of both halves of part number `part` of a group for output o, and its minimum. */
static void scales_at(float scale[2], float *min, const uint8_t *planes, gguf_type type, size_t out_n,
                      size_t part, size_t o) {
    *min = 0;
    if (type == GGUF_Q6_K) {
        const float d = half_at(planes + 16 * out_n, o);
        for (size_t h = 0; h < 2; h++) scale[h] = d * (float)(int8_t)planes[(2 * part + h) * out_n + o];
        return;
    }
    scale[0] = scale[1] = half_at(planes, o);
    if (type != GGUF_Q4_K) return;
    int s, m;
    q4_k_part(planes + 4 * out_n, out_n, o, part, &s, &m);
    scale[0] = scale[1] = scale[0] * (float)s;
    *min = half_at(planes + 2 * out_n, o) * (float)m;
}

/* Adds the neurons listed from j on that belong to one part; returns where the next begins. */
static size_t add_part(double *sum, const uint8_t *w, gguf_type type, neurons_form f, size_t out_n,
                       size_t from, size_t n, const cpu_active *a, size_t j) {
    const size_t g = a->neuron[j] / f.group_n, number = a->neuron[j] / PART;
    const uint64_t row_bytes = neurons_row_bytes(f, (uint32_t)out_n);
    const uint8_t *group = w + neurons_group_bytes(f, (uint32_t)out_n) * g;
    size_t end = j;
    int32_t q_sum = 0;
    for (; end < a->n && a->neuron[end] / PART == number; end++) q_sum += a->q[end];
    for (size_t o = 0; o < n; o++) {
        int32_t product[2] = {0};
        float scale[2], min;
        for (size_t i = j; i < end; i++) {
            const size_t neuron = a->neuron[i] % f.group_n;
            product[neuron % PART / 16] +=
                a->q[i] * quant_at(group + row_bytes * neuron, type, out_n, from + o);
        }
        scales_at(scale, &min, group + f.group_n * row_bytes, type, out_n, number % (f.group_n / PART),
                  from + o);
        const double low = (double)scale[0] * product[0], high = (double)scale[1] * product[1];
        sum[o] += (double)a->d[g] * (low + high - (double)min * q_sum);
    }
    return end;
}

/* ---- The slots ---- */

static void neuron_sum(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n, const cpu_active *a,
                       gguf_type type) {
    neurons_form f;
    bool known = neurons_form_of(type, (uint32_t)out_n, &f);
    assert(known && n <= CPU_NEURON_OUTPUTS_MAX);
    if (f.group_n == 1) {
        for (size_t o = 0; o < n; o += REF_SUM_OUTPUTS)
            sum_floats(y + o, w, type, out_n, from + o, n - o < REF_SUM_OUTPUTS ? n - o : REF_SUM_OUTPUTS, a);
        return;
    }
    double sum[CPU_NEURON_OUTPUTS_MAX] = {0};
    for (size_t j = 0; j < a->n;) j = add_part(sum, w, type, f, out_n, from, n, a, j);
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
    k->neuron_store = neurons_store;
    k->neuron_sum[GGUF_F32] = neuron_sum_f32;
    k->neuron_sum[GGUF_F16] = neuron_sum_f16;
    k->neuron_sum[GGUF_BF16] = neuron_sum_bf16;
    k->neuron_sum[GGUF_Q8_0] = neuron_sum_q8_0;
    k->neuron_sum[GGUF_Q4_0] = neuron_sum_q4_0;
    k->neuron_sum[GGUF_Q4_K] = neuron_sum_q4_k;
    k->neuron_sum[GGUF_Q6_K] = neuron_sum_q6_k;
}
