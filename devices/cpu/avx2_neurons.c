/* avx2_neurons.c - sums over active neurons: neurons times a number, added up for a stretch of outputs.
 *
 * Several neurons are taken per pass over the outputs, for a pass reads and writes the sums. Rows of active
 * neurons are streams too short for the hardware prefetcher: while one lot is added, the next one's lines are
 * asked for, into the second level, whose queue is longer.
 *
 * Block types: four neurons' quants are interleaved output by output, so that one vpmaddubsw and one vpmaddwd
 * add up four products; sums are integers until the scales change.
 */
#include "devices/cpu/avx2.h"
#include "devices/neurons.h"

#include <stddef.h>

enum { LOT = 8 /* neurons per pass, float types */, PART_MAX = 32 /* neurons under one scale */ };

/* ---- Float types ---- */

#define FLOAT_SUM(type, item_bytes)                                                                          \
    AVX2_INLINE void add_lot_##type(float *y, const uint8_t *const *w, const uint8_t *const *next,           \
                                    const float *x, size_t n, const size_t lot) {                            \
        __m256 factor[LOT];                                                                                  \
        AVX2_UNROLL                                                                                          \
        for (size_t j = 0; j < lot; j++) factor[j] = _mm256_set1_ps(x[j]);                                   \
        size_t o = 0;                                                                                        \
        for (; o + 8 <= n; o += 8) {                                                                         \
            __m256 sum = load_f32(y + o);                                                                    \
            if (o * (item_bytes) % 64 == 0)                                                                  \
                for (size_t j = 0; j < lot; j++)                                                             \
                    _mm_prefetch((const char *)next[j] + o * (item_bytes), _MM_HINT_T1);                     \
            AVX2_UNROLL                                                                                      \
            for (size_t j = 0; j < lot; j++)                                                                 \
                sum = _mm256_fmadd_ps(load_##type(w[j] + o * (item_bytes)), factor[j], sum);                 \
            _mm256_storeu_ps(y + o, sum);                                                                    \
        }                                                                                                    \
        if (o == n) return;                                                                                  \
        __m256 sum = AVX2_LOAD_PART(load_f32, y + o, n - o, sizeof *y);                                      \
        AVX2_UNROLL                                                                                          \
        for (size_t j = 0; j < lot; j++)                                                                     \
            sum = _mm256_fmadd_ps(AVX2_LOAD_PART(load_##type, w[j] + o * (item_bytes), n - o, item_bytes),   \
                                  factor[j], sum);                                                           \
        store_part(y + o, sum, n - o);                                                                       \
    }                                                                                                        \
    static void neuron_sum_##type(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *a) {                                                     \
        memset(y, 0, n * sizeof *y);                                                                         \
        const uint8_t *row[LOT], *next[LOT];                                                                 \
        w += from * (item_bytes);                                                                            \
        size_t i = 0;                                                                                        \
        for (; i + LOT <= a->n; i += LOT) {                                                                  \
            for (size_t j = 0; j < LOT; j++) {                                                               \
                const size_t ahead = i + LOT + j < a->n ? i + LOT + j : a->n - 1;                            \
                row[j] = w + out_n * a->neuron[i + j] * (item_bytes);                                        \
                next[j] = w + out_n * a->neuron[ahead] * (item_bytes);                                       \
            }                                                                                                \
            add_lot_##type(y, row, next, a->x + i, n, LOT);                                                  \
        }                                                                                                    \
        for (; i < a->n; i++) {                                                                              \
            row[0] = w + out_n * a->neuron[i] * (item_bytes);                                                \
            add_lot_##type(y, row, row, a->x + i, n, 1);                                                     \
        }                                                                                                    \
    }
FLOAT_SUM(f32, 4)
FLOAT_SUM(f16, 2)
FLOAT_SUM(bf16, 2)

/* ---- Block types ---- */

/* 32 quants of one neuron, in the order of outputs. */
AVX2_INLINE __m256i quants_q8_0(const uint8_t *neuron, size_t run, size_t out_n) {
    (void)out_n;
    return load_256(neuron + 32 * run);
}

AVX2_INLINE __m256i quants_nibbles(const uint8_t *neuron, size_t run, size_t out_n) {
    (void)out_n;
    const __m128i v = load_128(neuron + 16 * run);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
}

AVX2_INLINE __m256i quants_q6_k(const uint8_t *neuron, size_t run, size_t out_n) {
    long long bits;
    memcpy(&bits, neuron + out_n / 2 + 8 * run, sizeof bits);
    const __m256i shifted = _mm256_srlv_epi64(_mm256_set1_epi64x(bits), _mm256_setr_epi64x(0, 2, 4, 6));
    const __m256i high = _mm256_and_si256(shifted, _mm256_set1_epi8(3));
    return _mm256_or_si256(quants_nibbles(neuron, run, out_n), _mm256_slli_epi16(high, 4));
}

/* Neurons of one part (under one scale), padded to fours with a weight of zero. */
typedef struct part {
    const uint8_t *neuron[PART_MAX];
    __m256i q[PART_MAX / 4]; /* four activations, repeated */
    size_t four_n;
    int32_t sum; /* of the activations */
} part;

/* The neurons of the list from i on that belong to the part of part_n neurons; returns where the next
 * begins. */
AVX2_INLINE size_t take_part(part *p, const cpu_active *a, size_t i, const uint8_t *group, size_t row_bytes,
                             size_t group_n, size_t part_n) {
    int8_t q[PART_MAX + 3];
    const size_t number = a->neuron[i] / part_n;
    size_t n = 0;
    p->sum = 0;
    for (; i < a->n && a->neuron[i] / part_n == number; i++, n++) {
        p->neuron[n] = group + row_bytes * (a->neuron[i] % group_n);
        q[n] = a->q[i];
        p->sum += q[n];
    }
    p->four_n = (n + 3) / 4;
    for (; n < 4 * p->four_n; n++) q[n] = 0, p->neuron[n] = p->neuron[0];
    for (size_t j = 0; j < p->four_n; j++) p->q[j] = broadcast_4(q + 4 * j);
    return i;
}

/* Adds four neurons' products to 32 sums, whose order is that of the unpacking: see in_order. */
AVX2_INLINE void add_four(__m256i sum[4], const __m256i w[4], __m256i q, const bool is_signed) {
    const __m256i low_01 = _mm256_unpacklo_epi8(w[0], w[1]), high_01 = _mm256_unpackhi_epi8(w[0], w[1]);
    const __m256i low_23 = _mm256_unpacklo_epi8(w[2], w[3]), high_23 = _mm256_unpackhi_epi8(w[2], w[3]);
    const __m256i four[4] = {_mm256_unpacklo_epi16(low_01, low_23), _mm256_unpackhi_epi16(low_01, low_23),
                             _mm256_unpacklo_epi16(high_01, high_23),
                             _mm256_unpackhi_epi16(high_01, high_23)};
    AVX2_UNROLL
    for (int j = 0; j < 4; j++) {
        /* signed: |w| times q with the sign of w, where |-128| is 128 unsigned (2 * 128 * 127 fits) */
        const __m256i pairs =
            is_signed ? _mm256_maddubs_epi16(_mm256_sign_epi8(four[j], four[j]), _mm256_sign_epi8(q, four[j]))
                      : _mm256_maddubs_epi16(four[j], q);
        sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
}

/* Sums of 32 outputs of one part as floats in the order of outputs. */
AVX2_INLINE void part_sums(__m256 out[4], const part *p, size_t run, size_t out_n, int offset,
                           __m256i (*quants)(const uint8_t *, size_t, size_t), const bool is_signed) {
    __m256i sum[4], w[4];
    for (int j = 0; j < 4; j++) sum[j] = _mm256_set1_epi32(-offset * p->sum);
    for (size_t i = 0; i < p->four_n; i++) {
        AVX2_UNROLL
        for (size_t j = 0; j < 4; j++) w[j] = quants(p->neuron[4 * i + j], run, out_n);
        add_four(sum, w, p->q[i], is_signed);
    }
    out[0] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[0], sum[1], 0x20));
    out[1] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[2], sum[3], 0x20));
    out[2] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[0], sum[1], 0x31));
    out[3] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[2], sum[3], 0x31));
}

/* Eight bytes of a plane as floats, unsigned or signed. */
AVX2_INLINE __m256 bytes_8(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)); }
AVX2_INLINE __m128i load_8(const uint8_t *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }

/* y += the part's sums with their scales: `sum` of outputs o to o + 7, d of the activations, number of the
 * part in its group. */
typedef __m256 scaled_fn(__m256 y, __m256 sum, const uint8_t *planes, size_t out_n, size_t o, size_t number,
                         float d, int32_t total);

AVX2_INLINE __m256 scaled_32(__m256 y, __m256 sum, const uint8_t *planes, size_t out_n, size_t o,
                             size_t number, float d, int32_t total) {
    (void)out_n, (void)number, (void)total;
    return _mm256_fmadd_ps(sum, _mm256_mul_ps(load_f16(planes + 2 * o), _mm256_set1_ps(d)), y);
}

AVX2_INLINE __m256 scaled_q6_k(__m256 y, __m256 sum, const uint8_t *planes, size_t out_n, size_t o,
                               size_t number, float d, int32_t total) {
    (void)total;
    const __m128i bytes = load_8(planes + number * out_n + o);
    const __m256 scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    const __m256 all = _mm256_mul_ps(load_f16(planes + 16 * out_n + 2 * o), _mm256_set1_ps(d));
    return _mm256_fmadd_ps(_mm256_mul_ps(sum, scale), all, y);
}

/* Scales and minima of six bits: devices/quant.h. */
AVX2_INLINE __m256 scaled_q4_k(__m256 y, __m256 sum, const uint8_t *planes, size_t out_n, size_t o,
                               size_t number, float d, int32_t total) {
    const uint8_t *bytes = planes + 4 * out_n + o;
    __m128i scale, min;
    if (number < 4) {
        scale = _mm_and_si128(load_8(bytes + number * out_n), _mm_set1_epi8(63));
        min = _mm_and_si128(load_8(bytes + (number + 4) * out_n), _mm_set1_epi8(63));
    } else {
        const __m128i low = load_8(bytes + (number + 4) * out_n), mask = _mm_set1_epi8(15);
        const __m128i top = _mm_set1_epi8(0x30);
        const __m128i scale_top = _mm_srli_epi16(load_8(bytes + (number - 4) * out_n), 2);
        const __m128i min_top = _mm_srli_epi16(load_8(bytes + number * out_n), 2);
        scale = _mm_or_si128(_mm_and_si128(low, mask), _mm_and_si128(scale_top, top));
        min = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(low, 4), mask), _mm_and_si128(min_top, top));
    }
    const __m256 factor = _mm256_set1_ps(d);
    const __m256 all = _mm256_mul_ps(load_f16(planes + 2 * o), factor);
    const __m256 minus = _mm256_mul_ps(load_f16(planes + 2 * out_n + 2 * o), factor);
    y = _mm256_fmadd_ps(_mm256_mul_ps(sum, bytes_8(scale)), all, y);
    return _mm256_fnmadd_ps(_mm256_mul_ps(bytes_8(min), _mm256_set1_ps((float)total)), minus, y);
}

/* Asks for the lines of the part that follows in the list, at the outputs of this run. */
AVX2_INLINE void prefetch_part(const part *next, size_t offset) {
    for (size_t j = 0; j < next->four_n * 4; j++)
        _mm_prefetch((const char *)next->neuron[j] + offset, _MM_HINT_T1);
}

AVX2_INLINE void sum_blocks(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,
                            const cpu_active *a, neurons_form f, size_t part_n, int offset,
                            __m256i (*quants)(const uint8_t *, size_t, size_t), const bool is_signed,
                            scaled_fn *scaled) {
    const size_t row_bytes = f.run_bytes * (out_n / NEURONS_RUN);
    const size_t group_bytes = f.group_n * row_bytes + f.header_bytes * out_n;
    const size_t low_bytes = f.run_bytes == 32 ? 32 : 16; /* bytes of a run in the stream that is fetched */
    memset(y, 0, n * sizeof *y);
    if (!a->n) return;
    part parts[2];
    size_t i = take_part(&parts[0], a, 0, w + group_bytes * (a->neuron[0] / f.group_n), row_bytes, f.group_n,
                         part_n);
    for (size_t at = 0, turn = 0; at < a->n; turn ^= 1) {
        const part *p = &parts[turn];
        part *next = &parts[turn ^ 1];
        const size_t g = a->neuron[at] / f.group_n, number = a->neuron[at] % f.group_n / part_n;
        const uint8_t *planes = w + group_bytes * g + f.group_n * row_bytes;
        next->four_n = 0;
        at = i;
        if (i < a->n)
            i = take_part(next, a, i, w + group_bytes * (a->neuron[i] / f.group_n), row_bytes, f.group_n,
                          part_n);
        for (size_t o = 0; o < n; o += NEURONS_RUN) {
            const size_t run = (from + o) / NEURONS_RUN;
            __m256 sum[4];
            if (run * low_bytes % 64 == 0 || o == 0) prefetch_part(next, run * low_bytes);
            if (f.group_n == 256 && f.run_bytes == 24 && run % 8 == 0)
                prefetch_part(next, out_n / 2 + 8 * run);
            part_sums(sum, p, run, out_n, offset, quants, is_signed);
            AVX2_UNROLL
            for (size_t j = 0; j < 4; j++)
                _mm256_storeu_ps(y + o + 8 * j, scaled(load_f32(y + o + 8 * j), sum[j], planes, out_n,
                                                       from + o + 8 * j, number, a->d[g], p->sum));
        }
    }
}

#define BLOCK_SUM(type, form, part_n, offset, quants, is_signed, scaled)                                     \
    static void neuron_sum_##type(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *a) {                                                     \
        sum_blocks(y, w, out_n, from, n, a, (neurons_form)form, part_n, offset, quants, is_signed, scaled);  \
    }
#define FORM(...)                                                                                            \
    { __VA_ARGS__ }
BLOCK_SUM(q8_0, FORM(32, 32, 2), 32, 0, quants_q8_0, true, scaled_32)
BLOCK_SUM(q4_0, FORM(32, 16, 2), 32, 8, quants_nibbles, false, scaled_32)
BLOCK_SUM(q4_k, FORM(256, 16, 16), 32, 0, quants_nibbles, false, scaled_q4_k)
BLOCK_SUM(q6_k, FORM(256, 24, 18), 16, 32, quants_q6_k, false, scaled_q6_k)

void cpu_avx2_neurons_init(cpu_kernels *k) {
    k->neuron_sum[GGUF_F32] = neuron_sum_f32;
    k->neuron_sum[GGUF_F16] = neuron_sum_f16;
    k->neuron_sum[GGUF_BF16] = neuron_sum_bf16;
    k->neuron_sum[GGUF_Q8_0] = neuron_sum_q8_0;
    k->neuron_sum[GGUF_Q4_0] = neuron_sum_q4_0;
    k->neuron_sum[GGUF_Q4_K] = neuron_sum_q4_k;
    k->neuron_sum[GGUF_Q6_K] = neuron_sum_q6_k;
}
