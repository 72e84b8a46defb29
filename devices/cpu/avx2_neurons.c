/* avx2_neurons.c - sums over active neurons: neurons times a number, added up for a stretch of outputs.
 *
 * Several neurons are taken per pass over the outputs, for a pass reads and writes the sums; while one lot is
 * added, the next one's lines are asked for, into the second level, whose queue is longer.
 *
 * Block types: four neurons' quants are interleaved output by output, so that one vpmaddubsw and one vpmaddwd
 * add up four products; sums are integers, times those that scales of K-quants are, until the block changes.
 */
#include "devices/cpu/avx2_neurons.h"

enum { LOT = 8 /* neurons per pass, float types */ };

/* ---- Float types ---- */

/* add_lot: y[0, n) += x_j w_j over `lot` (a constant) neurons, which are added up by themselves: the chain of
 * a sum of many neurons is an eighth as long. `next`: the neurons of the pass that follows. */
#define FLOAT_SUM(type, item_bytes)                                                                          \
    AVX2_INLINE void add_lot_##type(float *y, const uint8_t *const *w, const uint8_t *const *next,           \
                                    const float *x, size_t n, const size_t lot) {                            \
        __m256 factor[LOT];                                                                                  \
        AVX2_UNROLL                                                                                          \
        for (size_t j = 0; j < lot; j++) factor[j] = _mm256_set1_ps(x[j]);                                   \
        size_t o = 0;                                                                                        \
        for (; o + 8 <= n; o += 8) {                                                                         \
            __m256 sum = _mm256_setzero_ps();                                                                \
            if (o * (item_bytes) % 64 == 0)                                                                  \
                for (size_t j = 0; j < lot; j++)                                                             \
                    _mm_prefetch((const char *)next[j] + o * (item_bytes), _MM_HINT_T1);                     \
            AVX2_UNROLL                                                                                      \
            for (size_t j = 0; j < lot; j++)                                                                 \
                sum = _mm256_fmadd_ps(load_##type(w[j] + o * (item_bytes)), factor[j], sum);                 \
            _mm256_storeu_ps(y + o, _mm256_add_ps(sum, load_f32(y + o)));                                    \
        }                                                                                                    \
        if (o == n) return;                                                                                  \
        __m256 sum = _mm256_setzero_ps();                                                                    \
        AVX2_UNROLL                                                                                          \
        for (size_t j = 0; j < lot; j++)                                                                     \
            sum = _mm256_fmadd_ps(AVX2_LOAD_PART(load_##type, w[j] + o * (item_bytes), n - o, item_bytes),   \
                                  factor[j], sum);                                                           \
        store_part(y + o, _mm256_add_ps(sum, AVX2_LOAD_PART(load_f32, y + o, n - o, sizeof *y)), n - o);     \
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

/* Sums of 32 outputs of one part, in the order of outputs. */
AVX2_INLINE void part_sums(__m256i out[4], const part *p, size_t run, size_t out_n, const fast_form f) {
    const int offset = has_signs(f) ? 0 : f.offset; /* taken off the sum */
    __m256i sum[4], w[4];
    for (int j = 0; j < 4; j++) sum[j] = _mm256_set1_epi32(-offset * p->sum);
    for (size_t i = 0; i < p->four_n; i++) {
        AVX2_UNROLL
        for (size_t j = 0; j < 4; j++) {
            w[j] = _mm256_setzero_si256();
            /* what only fills up the four: blocks of 32 have less of it, and are faster without asking */
            if (f.run_n > 1 && j > 0 && 4 * i + j >= p->n) continue;
            w[j] = neuron_quants(f, p->neuron[4 * i + j], run, out_n);
            if (f.values) w[j] = signed_values(f, w[j]);
        }
        add_four(sum, w, broadcast_4(p->q + 4 * i), has_signs(f));
    }
    out[0] = _mm256_permute2x128_si256(sum[0], sum[1], 0x20);
    out[1] = _mm256_permute2x128_si256(sum[2], sum[3], 0x20);
    out[2] = _mm256_permute2x128_si256(sum[0], sum[1], 0x31);
    out[3] = _mm256_permute2x128_si256(sum[2], sum[3], 0x31);
}

/* Sums of 32 outputs over the parts of a block: of products, times the parts' scales, and of activations,
 * times their minima. */
typedef struct block_sums {
    __m256i product[4], minimum[4];
} block_sums;

/* Adds a part; of a block that is one part `sums` has nothing else. */
AVX2_INLINE void add_part(block_sums *sums, const part *p, size_t o, size_t out_n, const fast_form f) {
    __m256i sum[4];
    part_sums(sum, p, o / RUN, out_n, f);
    const __m256i activations = _mm256_set1_epi32(p->sum);
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++) {
        if (f.run_n == 1) {
            sums->product[i] = sum[i];
            sums->minimum[i] = activations;
            continue;
        }
        __m128i scale, min;
        f.plane(&scale, &min, p->planes, out_n, o + 8 * i, p->number, false);
        const __m256i product = _mm256_mullo_epi32(sum[i], _mm256_cvtepi8_epi32(scale));
        sums->product[i] = _mm256_add_epi32(sums->product[i], product);
        if (!f.has_min) continue;
        const __m256i minimum = _mm256_mullo_epi32(activations, _mm256_cvtepi8_epi32(min));
        sums->minimum[i] = _mm256_add_epi32(sums->minimum[i], minimum);
    }
}

AVX2_INLINE void zero_sums(block_sums *sums) {
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++) sums->product[i] = sums->minimum[i] = _mm256_setzero_si256();
}

/* Adds the sums of p's block to `total`, those of outputs from o on. */
AVX2_INLINE void add_block(__m256 total[4], const block_sums *sums, const part *p, size_t o, size_t out_n,
                           const fast_form f) {
    const __m256 factor = _mm256_set1_ps(p->d);
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++) {
        const __m256 d = _mm256_mul_ps(plane_d(f, p->planes, out_n, o + 8 * i), factor);
        total[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums->product[i]), d, total[i]);
        if (!f.has_min) continue;
        const __m256 m = _mm256_mul_ps(plane_dmin(f, p->planes, out_n, o + 8 * i), factor);
        const __m256 minimum = _mm256_cvtepi32_ps(sums->minimum[i]);
        total[i] =
            f.run_n == 1 ? _mm256_fmadd_ps(minimum, m, total[i]) : _mm256_fnmadd_ps(minimum, m, total[i]);
    }
}

/* Adds a lot to a run of outputs. */
AVX2_INLINE void add_parts_to_run(float *y, const parts *l, const parts *next, const stretch *s, size_t step,
                                  const fast_form f) {
    const size_t o = s->from + step * RUN;
    __m256 total[4];
    block_sums sums;
    zero_sums(&sums);
    for (size_t i = 0; i < 4; i++) total[i] = load_f32(y + 8 * i);
    for (size_t j = 0; j < l->n; j++) {
        const part *p = &l->part[j];
        if (j < next->n) ask_for_part(&next->part[j], s, step, RUN, f);
        add_part(&sums, p, o, s->out_n, f);
        if (j + 1 < l->n && p[1].planes == p->planes) continue;
        add_block(total, &sums, p, o, s->out_n, f);
        zero_sums(&sums);
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
