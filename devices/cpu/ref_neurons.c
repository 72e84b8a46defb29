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

enum { PART = 32 /* neurons whose sum is scaled at once */ };

/* Scales and minima of both halves of part number `part` of a group for output o. */
static void scales_at(float scale[2], float min[2], const uint8_t *planes, gguf_type type, size_t out_n,
                      size_t part, size_t o) {
    const blocks_form *f = blocks_form_of(type);
    uint8_t block[BLOCKS_BYTES_MAX];
    float d, dmin;
    neurons_header(block, planes, type, (uint32_t)out_n, (uint32_t)o);
    ref_scales(&d, &dmin, block, type);
    for (uint32_t h = 0; h < 2; h++) {
        const blocks_part p = blocks_part_of(block, type, ((uint32_t)part * PART + 16 * h) / f->part_n);
        scale[h] = d * (float)p.scale;
        min[h] = f->has_min ? dmin * (float)p.min : 0;
    }
}

/* Adds the neurons listed from j on that belong to one part, for the run of outputs from `from` on; `group`:
 * the neurons that share scales. */
static void add_run(double *sum, const uint8_t *group, gguf_type type, neurons_form f, size_t out_n,
                    size_t from, const cpu_active *a, size_t j, size_t end) {
    const uint64_t row_bytes = neurons_row_bytes(f, (uint32_t)out_n);
    int32_t product[NEURONS_RUN][2] = {{0}}, q_sum[2] = {0};
    for (size_t i = j; i < end; i++) {
        const size_t neuron = a->neuron[i] % f.group_n, half = neuron % PART / 16;
        uint8_t q[NEURONS_RUN];
        neurons_run_unpack(q, group + row_bytes * neuron, type, (uint32_t)out_n,
                           (uint32_t)(from / NEURONS_RUN));
        for (size_t o = 0; o < NEURONS_RUN; o++)
            product[o][half] += a->q[i] * blocks_value(blocks_form_of(type), q[o]);
        q_sum[half] += a->q[i];
    }
    for (size_t o = 0; o < NEURONS_RUN; o++) {
        float scale[2], min[2];
        scales_at(scale, min, group + f.group_n * row_bytes, type, out_n, a->neuron[j] % f.group_n / PART,
                  from + o);
        sum[o] += (double)a->d[a->neuron[j] / f.group_n] * ref_scaled(scale, min, product[o], q_sum);
    }
}

static void sum_blocks(float *y, const uint8_t *w, gguf_type type, neurons_form f, size_t out_n, size_t from,
                       size_t n, const cpu_active *a) {
    double sum[CPU_NEURON_OUTPUTS_MAX] = {0};
    for (size_t j = 0, end; j < a->n; j = end) {
        const size_t number = a->neuron[j] / PART;
        for (end = j; end < a->n && a->neuron[end] / PART == number; end++) continue;
        const uint8_t *group = w + neurons_group_bytes(f, (uint32_t)out_n) * (a->neuron[j] / f.group_n);
        for (size_t o = 0; o < n; o += NEURONS_RUN)
            add_run(sum + o, group, type, f, out_n, from + o, a, j, end);
    }
    for (size_t o = 0; o < n; o++) y[o] = (float)sum[o];
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
    sum_blocks(y, w, type, f, out_n, from, n, a);
}

#define SLOT(type, TYPE)                                                                                     \
    static void neuron_sum_##type(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *active) {                                                \
        neuron_sum(y, w, out_n, from, n, active, GGUF_##TYPE);                                               \
    }
SLOT(f32, F32)
SLOT(f16, F16)
SLOT(bf16, BF16)
BLOCK_TYPES(SLOT)

#define FILL(type, TYPE) k->neuron_sum[GGUF_##TYPE] = neuron_sum_##type;

void ref_neurons_init(cpu_kernels *k) {
    k->neuron_store = neurons_store;
    FILL(f32, F32)
    FILL(f16, F16)
    FILL(bf16, BF16)
    BLOCK_TYPES(FILL)
}
