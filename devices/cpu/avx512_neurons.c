/* avx512_neurons.c - sums over active neurons with 512-bit registers: avx2_neurons.c says how they go.
 *
 * Block types in bytes and nibbles take a line of each neuron at a time: 64 or 128 outputs. Their sums of
 * four neurons come out in an order of their own, a quarter of a register for each four outputs, and are put
 * in order as floats. Types whose upper bits stand apart, and MXFP4, are left to AVX2: memory decides, and
 * from there 512 bits were slower for Q6_K.
 */
#include "devices/cpu/avx512.h"

#include "devices/cpu/avx2_neurons.h"

/* ---- Float types ----------------------------------------------------------------------------------------
 */

enum { LOT = 8 /* neurons per pass over the sums */, STEP = 32 /* outputs */ };

/* y[0, n) += x_j w_j over `lot` (a constant) neurons, which are added up by themselves: the chain of a sum of
 * many neurons is an eighth as long. `next`: those of the pass that follows. */
INLINE void add_lot(float *y, const uint8_t *const *w, const uint8_t *const *next, const float *x, size_t n,
                    const size_t lot, const gguf_type type) {
    const size_t bytes = float_bytes(type);
    __m512 factor[LOT];
    UNROLL for (size_t j = 0; j < lot; j++) factor[j] = _mm512_set1_ps(x[j]);
    for (size_t o = 0; o < n; o += STEP) {
        const __mmask16 low = lanes_left(n - o), high = n - o > 16 ? lanes_left(n - o - 16) : 0;
        __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        UNROLL for (size_t j = 0; j < lot; j++) {
            UNROLL for (size_t line = 0; line < STEP * bytes; line += LINE)
                prefetch(next[j], o * bytes + line);
            const uint8_t *p = w[j] + o * bytes;
            sum[0] = _mm512_fmadd_ps(load_float(type, p, low), factor[j], sum[0]);
            sum[1] = _mm512_fmadd_ps(load_float(type, p + 16 * bytes, high), factor[j], sum[1]);
        }
        const __m512 before[2] = {_mm512_maskz_loadu_ps(low, y + o), _mm512_maskz_loadu_ps(high, y + o + 16)};
        _mm512_mask_storeu_ps(y + o, low, _mm512_add_ps(sum[0], before[0]));
        _mm512_mask_storeu_ps(y + o + 16, high, _mm512_add_ps(sum[1], before[1]));
    }
}

INLINE void sum_floats(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n, const cpu_active *a,
                       const gguf_type type) {
    const size_t row_bytes = out_n * float_bytes(type);
    const uint8_t *row[LOT], *next[LOT];
    memset(y, 0, n * sizeof *y);
    w += from * float_bytes(type);
    size_t i = 0;
    for (; i + LOT <= a->n; i += LOT) {
        for (size_t j = 0; j < LOT; j++) {
            const size_t ahead = i + LOT + j < a->n ? i + LOT + j : a->n - 1;
            row[j] = w + row_bytes * a->neuron[i + j];
            next[j] = w + row_bytes * a->neuron[ahead];
        }
        add_lot(y, row, next, a->x + i, n, LOT, type);
    }
    for (; i < a->n; i++) {
        row[0] = w + row_bytes * a->neuron[i];
        add_lot(y, row, row, a->x + i, n, 1, type);
    }
}

/* ---- Block types: integer sums ---------------------------------------------------------------------------
 */

/* Bytes of four neurons side by side: w[j] gets, in quarter c, those of outputs 16c + 4j to 16c + 4j + 3. */
INLINE void interleave_four(__m512i w[4]) {
    const __m512i low_01 = _mm512_unpacklo_epi8(w[0], w[1]), high_01 = _mm512_unpackhi_epi8(w[0], w[1]);
    const __m512i low_23 = _mm512_unpacklo_epi8(w[2], w[3]), high_23 = _mm512_unpackhi_epi8(w[2], w[3]);
    w[0] = _mm512_unpacklo_epi16(low_01, low_23);
    w[1] = _mm512_unpackhi_epi16(low_01, low_23);
    w[2] = _mm512_unpacklo_epi16(high_01, high_23);
    w[3] = _mm512_unpackhi_epi16(high_01, high_23);
}

INLINE void add_dots(__m512i sum[4], const __m512i w[4], __m512i q) {
    UNROLL for (size_t j = 0; j < 4; j++) sum[j] = _mm512_dpbusd_epi32(sum[j], w[j], q);
}

/* Outputs whose quants fill a line of a neuron. */
INLINE size_t width_of(const fast_form f) { return f.low_bits == 8 ? 64 : 128; }

/* What nibbles stand for, made unsigned. */
INLINE __m512i values_512(__m512i nibbles, const fast_form f) {
    if (!f.values) return nibbles;
    const __m128i values = _mm_add_epi8(load_128(f.values), _mm_set1_epi8((char)f.offset));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), nibbles);
}

/* Adds four neurons' products at outputs [o, o + width), of which `runs` are there. sum[0-3]: outputs 0-15 of
 * each run (Q8_0: in order), sum[4-7]: 16-31. */
INLINE void add_four(__m512i sum[8], const uint8_t *const *neuron, __m512i q, size_t o, size_t runs,
                     const fast_form f) {
    const size_t run_bytes = 4 * f.low_bits, bytes = run_bytes * runs;
    const __mmask64 there = bytes < 64 ? ((__mmask64)1 << bytes) - 1 : ~(__mmask64)0;
    __m512i w[4], high[4];
    UNROLL for (size_t i = 0; i < 4; i++) {
        w[i] = _mm512_maskz_loadu_epi8(there, neuron[i] + o / RUN * run_bytes);
        if (f.low_bits == 8) w[i] = _mm512_xor_si512(w[i], _mm512_set1_epi8((char)0x80));
    }
    interleave_four(w);
    if (f.low_bits == 4) {
        UNROLL for (size_t j = 0; j < 4; j++) {
            high[j] = values_512(high_nibbles(w[j]), f);
            w[j] = values_512(low_nibbles(w[j]), f);
        }
        add_dots(sum + 4, high, q);
    }
    add_dots(sum, w, q);
}

/* Quarter c of s[j] becomes quarter j of s[c]. */
INLINE void exchange_quarters(__m512 s[4]) {
    const __m512 a = _mm512_shuffle_f32x4(s[0], s[1], 0x44), b = _mm512_shuffle_f32x4(s[0], s[1], 0xee);
    const __m512 c = _mm512_shuffle_f32x4(s[2], s[3], 0x44), d = _mm512_shuffle_f32x4(s[2], s[3], 0xee);
    s[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    s[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
    s[2] = _mm512_shuffle_f32x4(b, d, 0x88);
    s[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

/* ---- Block types: scales ---------------------------------------------------------------------------------
 */

INLINE __m512 plane_halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }

/* y + the part's sums of 16 outputs with their scales. */
INLINE __m512 add_scaled(__m512 y, __m512 sum, const part *p, size_t out_n, size_t o, const fast_form f) {
    const __m512 d = _mm512_set1_ps(p->d);
    const __m512 all = _mm512_mul_ps(plane_halves(p->planes + f.d_plane * out_n + 2 * o), d);
    __m128i scale, min;
    if (f.run_n > 1) {
        f.plane(&scale, &min, p->planes, out_n, o, p->number, true);
        sum = _mm512_mul_ps(sum, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale)));
    }
    y = _mm512_fmadd_ps(sum, all, y);
    if (!f.has_min) return y;
    const __m512 minus = _mm512_mul_ps(plane_halves(p->planes + f.dmin_plane * out_n + 2 * o), d);
    const __m512 times = _mm512_set1_ps((float)p->sum);
    if (f.run_n == 1) return _mm512_fmadd_ps(times, minus, y);
    return _mm512_fnmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(min)), times), minus, y);
}

/* Adds a part to y: the outputs from o on, `runs` runs of them, 16 in each register. */
INLINE void add_part(__m512 y[8], const part *p, size_t o, size_t runs, size_t out_n, const fast_form f) {
    __m512i sum[8];
    __m512 value[8];
    const size_t half_n = f.low_bits == 8 ? 1 : 2;
    UNROLL for (size_t j = 0; j < 8; j++) sum[j] = _mm512_set1_epi32(-f.offset * p->sum);
    for (size_t i = 0; i < p->four_n; i++)
        add_four(sum, p->neuron + 4 * i, _mm512_set1_epi32(read_i32(p->q + 4 * i)), o, runs, f);
    UNROLL for (size_t j = 0; j < 8; j++) value[j] = _mm512_cvtepi32_ps(sum[j]);
    UNROLL for (size_t h = 0; h < half_n; h++) exchange_quarters(value + 4 * h);
    UNROLL for (size_t r = 0; r < 4; r++) {
        if (r >= runs) break;
        UNROLL for (size_t h = 0; h < 2; h++) {
            const __m512 v = value[half_n == 1 ? 2 * r + h : 4 * h + r];
            y[2 * r + h] = add_scaled(y[2 * r + h], v, p, out_n, o + RUN * r + 16 * h, f);
        }
    }
}

/* Adds them to y[0, 32 runs). */
INLINE void add_to_runs(float *y, const parts *l, const parts *next, const stretch *s, size_t step,
                        size_t runs, const fast_form f) {
    __m512 sum[8];
    UNROLL for (size_t j = 0; j < 8; j++) {
        sum[j] = j < 2 * runs ? _mm512_loadu_ps(y + 16 * j) : _mm512_setzero_ps();
    }
    for (size_t j = 0; j < l->n; j++) {
        if (j < next->n) ask_for_part(&next->part[j], s, step, width_of(f), f);
        add_part(sum, &l->part[j], s->from + step * width_of(f), runs, s->out_n, f);
    }
    UNROLL for (size_t j = 0; j < 8; j++) {
        if (j < 2 * runs) _mm512_storeu_ps(y + 16 * j, sum[j]);
    }
}

INLINE void add_parts(float *y, const parts *l, const parts *next, const stretch *s, size_t step,
                      const fast_form f) {
    const size_t left = s->n - step * width_of(f);
    if (left >= width_of(f))
        add_to_runs(y, l, next, s, step, width_of(f) / RUN, f);
    else
        add_to_runs(y, l, next, s, step, left / RUN, f);
}

/* ---- The slots -------------------------------------------------------------------------------------------
 */

#define FLOAT_SUM(name, type)                                                                                \
    static void neuron_sum_##name(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *active) {                                                \
        sum_floats(y, w, out_n, from, n, active, type);                                                      \
    }
#define BLOCK_SUM(name, TYPE)                                                                                \
    static void neuron_sum_##name(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *active) {                                                \
        sum_lots(y, w, out_n, from, n, active, width_of(FAST_##TYPE), FAST_##TYPE, add_parts);               \
    }
FLOAT_SUM(f32, GGUF_F32)
FLOAT_SUM(f16, GGUF_F16)
FLOAT_SUM(bf16, GGUF_BF16)
BLOCK_SUM(q8_0, Q8_0)
BLOCK_SUM(q4_0, Q4_0)
BLOCK_SUM(q4_1, Q4_1)
BLOCK_SUM(iq4_nl, IQ4_NL)
BLOCK_SUM(iq4_xs, IQ4_XS)
BLOCK_SUM(q4_k, Q4_K)

void avx512_neurons(cpu_kernels *k) {
    k->neuron_sum[GGUF_F32] = neuron_sum_f32;
    k->neuron_sum[GGUF_F16] = neuron_sum_f16;
    k->neuron_sum[GGUF_BF16] = neuron_sum_bf16;
    k->neuron_sum[GGUF_Q8_0] = neuron_sum_q8_0;
    k->neuron_sum[GGUF_Q4_0] = neuron_sum_q4_0;
    k->neuron_sum[GGUF_Q4_1] = neuron_sum_q4_1;
    k->neuron_sum[GGUF_IQ4_NL] = neuron_sum_iq4_nl;
    k->neuron_sum[GGUF_IQ4_XS] = neuron_sum_iq4_xs;
    k->neuron_sum[GGUF_Q4_K] = neuron_sum_q4_k;
}
