/* avxvnni_lanes.c - one activation row times interleaved rows (devices/lanes.h) where vpdpbusd multiplies 256
 * bits (AVX-VNNI).
 */
#define HAS_VPDPBUSD 1
#include "devices/cpu/avx2_lanes_32.h"
#include "devices/cpu/avx2_lanes_k.h"

enum { OFFSET_8 = 128 /* of values of eight bits */ };

#define FORM_Q8_0   LANES_FORM(q8_0, .offset = OFFSET_8)
#define FORM_IQ4_NL LANES_FORM(iq4_nl, .offset = OFFSET_8, .values = quant_iq4_values)

AVX2_INLINE void products_q8_0(__m256i s[HALVES], row_stream w, const act_32 *x, const lanes_form f) {
    const __m256i flip = _mm256_set1_epi8((char)f.offset);
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) s[h] = broadcast_4(&x->start);
    AVX2_UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i quad = broadcast_4(x->x + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = _mm256_xor_si256(load_words(w, f.quants_at + 4 * g, h), flip);
            s[h] = add_products(s[h], v, quad);
        }
    }
}

#define TYPES(X)                                                                                             \
    X(q8_0, Q8_0, products_q8_0)                                                                             \
    X(q4_0, Q4_0, products)                                                                                  \
    X(q4_1, Q4_1, products)                                                                                  \
    X(q5_0, Q5_0, products_five_bits)                                                                        \
    X(q5_1, Q5_1, products_five_bits)                                                                        \
    X(iq4_nl, IQ4_NL, products)                                                                              \
    X(mxfp4, MXFP4, products)
TYPES(LANES_32)

/* ---- IQ4_XS ---- */

typedef struct act_iq4_xs {
    int8_t x[256];
    int32_t start[8]; /* of groups of 32 */
    float d;
} act_iq4_xs;

static size_t bytes_iq4_xs(size_t k) { return k / 256 * sizeof(act_iq4_xs); }

static void pack_iq4_xs(void *act, const float *x, size_t k) {
    for (act_iq4_xs *a = act; k > 0; k -= 256, x += 256, a++) {
        int16_t sums[16];
        a->d = act_pack_sums(a->x, sums, x);
        for (size_t j = 0; j < 8; j++) a->start[j] = LIFT_BITS - OFFSET_8 * (sums[2 * j] + sums[2 * j + 1]);
    }
}

/* Signed byte j of each lane. */
AVX2_INLINE __m256 byte_float(__m256i v, const int j) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * j), 24));
}

/* Group j, scaled. */
AVX2_INLINE void add_iq4_xs(__m256 block[HALVES], row_stream w, const act_iq4_xs *x,
                            const numbers_iq4_xs n[HALVES], const int j) {
    const __m128i values = _mm_add_epi8(load_128(quant_iq4_values), _mm_set1_epi8((char)OFFSET_8));
    const __m256i table = _mm256_broadcastsi128_si256(values);
    __m256i s[HALVES];
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) s[h] = broadcast_4(x->start + j);
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const int8_t *quads = x->x + 32 * j + 4 * g;
        const __m256i x_low = broadcast_4(quads), x_high = broadcast_4(quads + 16);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, offsetof(quant_iq4_xs, q) + 16 * (size_t)j + 4 * g, h);
            s[h] = add_products(s[h], _mm256_shuffle_epi8(table, low_nibbles(v)), x_low);
            s[h] = add_products(s[h], _mm256_shuffle_epi8(table, high_nibbles(v)), x_high);
        }
    }
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++)
        block[h] = _mm256_fmadd_ps(sum_float(s[h]), byte_float(n[h].scale[j % 2], j / 2), block[h]);
}

AVX2_INLINE void rows_iq4_xs(float *y, row_stream w, const act_iq4_xs *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_iq4_xs), x++) {
        const numbers_iq4_xs n[HALVES] = {numbers_iq4_xs_of(w, 0), numbers_iq4_xs_of(w, 1)};
        __m256 block[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) add_iq4_xs(block, w, x, n, j);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d = _mm256_mul_ps(halves_of(n[h].head).lower, _mm256_broadcast_ss(&x->d));
            sum[h] = _mm256_fmadd_ps(block[h], d, sum[h]);
        }
    }
    store_rows(y, sum);
}
STREAM_GEMV(iq4_xs, rows_iq4_xs(y, w, act, k / 256))

void cpu_avxvnni_lanes_init(cpu_kernels *k) {
    TYPES(SET_32)
    SET_K
    STREAM_SET(iq4_xs, IQ4_XS, bytes_iq4_xs)
}
