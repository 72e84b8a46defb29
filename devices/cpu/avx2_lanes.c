/* avx2_lanes.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 32.
 *
 * Small weights get an offset that makes them unsigned, and sums of 16 bits hold a whole block. Of large
 * ones, of eight bits, the sign goes to the other operand, and every sum of two is widened.
 */
#include "devices/cpu/avx2_lanes_32.h"

AVX2_INLINE __m256i add_pairs(__m256i s, __m256i pairs) {
    return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* |w| times x with the sign of w, as in avx2_gemv.c. */
AVX2_INLINE void products_q8_0(__m256i s[HALVES], row_stream w, const act_32 *x, const lanes_form f) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) s[h] = _mm256_setzero_si256();
    AVX2_UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i quad = broadcast_4(x->x + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, f.quants_at + 4 * g, h);
            s[h] = add_pairs(s[h], _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(quad, v)));
        }
    }
}

/* The other way round, |x| times w with the sign of x: no w is -128. */
AVX2_INLINE void products_iq4_nl(__m256i s[HALVES], row_stream w, const act_32 *x, const lanes_form f) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) s[h] = _mm256_setzero_si256();
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const __m256i quad[2] = {broadcast_4(x->x + 4 * g), broadcast_4(x->x + 16 + 4 * g)};
        const __m256i size[2] = {_mm256_abs_epi8(quad[0]), _mm256_abs_epi8(quad[1])};
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, f.quants_at + 4 * g, h);
            const __m256i low = unsigned_values(low_nibbles(v), f),
                          high = unsigned_values(high_nibbles(v), f);
            s[h] = add_pairs(s[h], _mm256_maddubs_epi16(size[0], _mm256_sign_epi8(low, quad[0])));
            s[h] = add_pairs(s[h], _mm256_maddubs_epi16(size[1], _mm256_sign_epi8(high, quad[1])));
        }
    }
}

#define TYPES(X)                                                                                             \
    X(q8_0, Q8_0, products_q8_0)                                                                             \
    X(q4_0, Q4_0, products)                                                                                  \
    X(q4_1, Q4_1, products)                                                                                  \
    X(q5_0, Q5_0, products_five_bits)                                                                        \
    X(q5_1, Q5_1, products_five_bits)                                                                        \
    X(iq4_nl, IQ4_NL, products_iq4_nl)                                                                       \
    X(mxfp4, MXFP4, products)
TYPES(LANES_32)

void cpu_avx2_lanes_init(cpu_kernels *k) { TYPES(SET_32) }
