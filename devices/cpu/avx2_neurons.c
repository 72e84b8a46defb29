/* avx2_neurons.c - sums over active neurons: neurons times a number, added up for a stretch of outputs.
 *
 * Several neurons are taken per pass over the outputs, for a pass reads and writes the sums; while one lot is
 * added, the next one's lines are asked for, into the second level, whose queue is longer.
 *
 * Block types: four neurons' quants are interleaved output by output, so that one vpmaddubsw and one vpmaddwd
 * add up four products; sums are integers until the scales change.
 */
#include "devices/cpu/avx2_neurons.h"

enum { LOT = 8 /* neurons per pass, float types */ };

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

/* Adds four neurons' products to 32 sums, whose order is that of the unpacking: see in_order. */
AVX2_INLINE void add_four(__m256i sum[4], const __m256i w[4], __m256i q, const bool with_sign) {
    const __m256i low_01 = _mm256_unpacklo_epi8(w[0], w[1]), high_01 = _mm256_unpackhi_epi8(w[0], w[1]);
    const __m256i low_23 = _mm256_unpacklo_epi8(w[2], w[3]), high_23 = _mm256_unpackhi_epi8(w[2], w[3]);
    const __m256i four[4] = {_mm256_unpacklo_epi16(low_01, low_23), _mm256_unpackhi_epi16(low_01, low_23),
                             _mm256_unpacklo_epi16(high_01, high_23),
                             _mm256_unpackhi_epi16(high_01, high_23)};
    AVX2_UNROLL
    for (int j = 0; j < 4; j++) {
        /* with sign: |w| times q with the sign of w, where |-128| is 128 unsigned (2 * 128 * 127 fits) */
        const __m256i pairs =
            with_sign ? _mm256_maddubs_epi16(_mm256_sign_epi8(four[j], four[j]), _mm256_sign_epi8(q, four[j]))
                      : _mm256_maddubs_epi16(four[j], q);
        sum[j] = add_word_products(sum[j], pairs, _mm256_set1_epi16(1));
    }
}

/* Sums of 32 outputs of one part as floats in the order of outputs. */
AVX2_INLINE void part_sums(__m256 out[4], const part *p, size_t run, size_t out_n, const fast_form f) {
    const int offset = has_signs(f) ? 0 : f.offset; /* taken off the sum */
    __m256i sum[4], w[4];
    for (int j = 0; j < 4; j++) sum[j] = _mm256_set1_epi32(-offset * p->sum);
    for (size_t i = 0; i < p->four_n; i++) {
        AVX2_UNROLL
        for (size_t j = 0; j < 4; j++) {
            w[j] = neuron_quants(f, p->neuron[4 * i + j], run, out_n);
            if (f.values) w[j] = signed_values(f, w[j]);
        }
        add_four(sum, w, broadcast_4(p->q + 4 * i), has_signs(f));
    }
    out[0] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[0], sum[1], 0x20));
    out[1] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[2], sum[3], 0x20));
    out[2] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[0], sum[1], 0x31));
    out[3] = _mm256_cvtepi32_ps(_mm256_permute2x128_si256(sum[2], sum[3], 0x31));
}

/* y + the part's sums of outputs o to o + 7 with their scales. */
AVX2_INLINE __m256 scaled(__m256 y, __m256 sum, const part *p, size_t out_n, size_t o, const fast_form f) {
    const __m256 factor = _mm256_set1_ps(p->d), all = _mm256_mul_ps(plane_d(f, p->planes, out_n, o), factor);
    __m128i scale, min;
    if (f.run_n > 1) {
        f.plane(&scale, &min, p->planes, out_n, o, p->number, false);
        sum = _mm256_mul_ps(sum, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scale)));
    }
    y = _mm256_fmadd_ps(sum, all, y);
    if (!f.has_min) return y;
    const __m256 minus = _mm256_mul_ps(plane_dmin(f, p->planes, out_n, o), factor);
    const __m256 times = _mm256_set1_ps((float)p->sum);
    if (f.run_n == 1) return _mm256_fmadd_ps(times, minus, y);
    return _mm256_fnmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(min)), times), minus, y);
}

/* Adds a lot to a run of outputs. */
AVX2_INLINE void add_parts_to_run(float *y, const parts *l, const parts *next, const stretch *s, size_t step,
                                  const fast_form f) {
    const size_t o = s->from + step * RUN;
    __m256 total[4];
    for (size_t i = 0; i < 4; i++) total[i] = load_f32(y + 8 * i);
    for (size_t j = 0; j < l->n; j++) {
        __m256 sum[4];
        if (j < next->n) ask_for_part(&next->part[j], s, step, RUN, f);
        part_sums(sum, &l->part[j], o / RUN, s->out_n, f);
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++)
            total[i] = scaled(total[i], sum[i], &l->part[j], s->out_n, o + 8 * i, f);
    }
    for (size_t i = 0; i < 4; i++) _mm256_storeu_ps(y + 8 * i, total[i]);
}

#define BLOCK_SUM(type, TYPE)                                                                                \
    static void neuron_sum_##type(float *y, const uint8_t *w, size_t out_n, size_t from, size_t n,           \
                                  const cpu_active *a) {                                                     \
        sum_lots(y, w, out_n, from, n, a, RUN, FAST_##TYPE, add_parts_to_run);                               \
    }
BLOCK_TYPES(BLOCK_SUM)

#define FILL(type, TYPE) k->neuron_sum[GGUF_##TYPE] = neuron_sum_##type;

void cpu_avx2_neurons_init(cpu_kernels *k) {
    FILL(f32, F32)
    FILL(f16, F16)
    FILL(bf16, BF16)
    BLOCK_TYPES(FILL)
}
