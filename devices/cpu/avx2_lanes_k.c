/* avx2_lanes_k.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 256: K-quants
 * (avx2_lanes_k.h) and IQ4_XS.
 */
#include "devices/cpu/avx2_lanes_k.h"

/* ---- IQ4_XS ---- */

typedef struct act_iq4_xs {
    uint8_t size[256], sign[256]; /* as of sized_bytes */
    int16_t missing[8];           /* of groups 0 4 2 6 1 5 3 7 */
    float d;
} act_iq4_xs;

static size_t bytes_iq4_xs(size_t k) { return k / 256 * sizeof(act_iq4_xs); }

static void pack_iq4_xs(void *act, const float *x, size_t k) {
    static const uint8_t place[8] = {0, 4, 2, 6, 1, 5, 3, 7};
    for (act_iq4_xs *a = act; k > 0; k -= 256, x += 256, a++) {
        __m256 inverse;
        a->d = act_scale(x, 256, &inverse);
        for (size_t j = 0; j < 8; j++) {
            const size_t at = 32 * j;
            a->missing[place[j]] = (int16_t)pack_sized(a->size + at, a->sign + at, x + at, inverse);
        }
    }
}

/* s + the scales of four groups, a signed byte each, times what is missing of them. */
AVX2_INLINE __m256i add_missing(__m256i s, __m256i scales, const int16_t missing[4]) {
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(scales, 8), 8);
    const __m256i odd = _mm256_srai_epi16(scales, 8);
    s = add_word_products(s, even, broadcast_4(missing));
    return add_word_products(s, odd, broadcast_4(missing + 2));
}

/* Group j, scaled. */
AVX2_INLINE void add_iq4_xs(__m256i scaled[HALVES], row_stream w, const act_iq4_xs *x,
                            const numbers_iq4_xs n[HALVES], const int j) {
    const __m256i table = _mm256_broadcastsi128_si256(load_128(quant_iq4_values));
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const size_t low = 32 * (size_t)j + 4 * g, high = low + 16;
        const sized_bytes quad[2] = {sized_quad(x->size + low, x->sign + low),
                                     sized_quad(x->size + high, x->sign + high)};
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, offsetof(quant_iq4_xs, q) + 16 * (size_t)j + 4 * g, h);
            const __m256i nibbles[2] = {low_nibbles(v), high_nibbles(v)};
            const __m256i scale = signed_byte_for_sums(n[h].scale[j % 2], j / 2);
            AVX2_UNROLL
            for (int i = 0; i < 2; i++) {
                const __m256i pairs = sized_products(quad[i], _mm256_shuffle_epi8(table, nibbles[i]));
                scaled[h] = add_word_products(scaled[h], pairs, scale);
            }
        }
    }
}

AVX2_INLINE void rows_iq4_xs(float *y, row_stream w, const act_iq4_xs *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_iq4_xs), x++) {
        const numbers_iq4_xs n[HALVES] = {numbers_iq4_xs_of(w, 0), numbers_iq4_xs_of(w, 1)};
        __m256i scaled[HALVES];
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            scaled[h] = add_missing(_mm256_setzero_si256(), n[h].scale[0], x->missing);
            scaled[h] = add_missing(scaled[h], n[h].scale[1], x->missing + 4);
        }
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) add_iq4_xs(scaled, w, x, n, j);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d = _mm256_mul_ps(halves_of(n[h].head).lower, _mm256_broadcast_ss(&x->d));
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled[h]), d, sum[h]);
        }
    }
    store_rows(y, sum);
}
STREAM_GEMV_ASKING(iq4_xs, ASK_FAR, rows_iq4_xs(y, w, act, k / 256))

void cpu_avx2_lanes_k_init(cpu_kernels *k) {
    SET_K
    STREAM_SET(iq4_xs, IQ4_XS, bytes_iq4_xs)
}
