/* avx2_lanes_k.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 256: K-quants
 * (avx2_lanes_k.h) and IQ4_XS.
 */
#include "devices/cpu/avx2_lanes_k.h"

/* ---- IQ4_XS ---------------------------------------------------------------------------------------------
 */

/* Group j, scaled: |x| times values with the sign of x, as for IQ4_NL. */
AVX2_INLINE void add_iq4_xs(__m256i scaled[HALVES], row_stream w, const act_k *x,
                            const numbers_iq4_xs n[HALVES], const int j) {
    const __m256i table = _mm256_broadcastsi128_si256(load_128(quant_iq4_values));
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const int8_t *quads = x->x + 32 * j + 4 * g;
        const __m256i quad[2] = {broadcast_4(quads), broadcast_4(quads + 16)};
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, offsetof(quant_iq4_xs, q) + 16 * (size_t)j + 4 * g, h);
            const __m256i nibbles[2] = {low_nibbles(v), high_nibbles(v)};
            const __m256i scale = signed_byte_for_sums(n[h].scale[j % 2], j / 2);
            AVX2_UNROLL
            for (int i = 0; i < 2; i++) {
                const __m256i values = _mm256_sign_epi8(_mm256_shuffle_epi8(table, nibbles[i]), quad[i]);
                const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(quad[i]), values);
                scaled[h] = _mm256_add_epi32(scaled[h], _mm256_madd_epi16(pairs, scale));
            }
        }
    }
}

AVX2_INLINE void rows_iq4_xs(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_iq4_xs), x++) {
        const numbers_iq4_xs n[HALVES] = {numbers_iq4_xs_of(w, 0), numbers_iq4_xs_of(w, 1)};
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
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

LANES_K(iq4_xs, 8, NO_OFFSET, rows_iq4_xs(y, w, act, k / 256))

void cpu_avx2_lanes_k_init(cpu_kernels *k) {
    SET_K
    STREAM_SET(iq4_xs, IQ4_XS, bytes_k)
}
