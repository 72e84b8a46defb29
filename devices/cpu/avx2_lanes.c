/* avx2_lanes.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 32.
 *
 * Small weights get an offset that makes them unsigned, and sums of 16 bits hold a whole block. Large ones,
 * of eight bits, meet the sizes of activations, and every sum of two is widened.
 */
#include "devices/cpu/avx2_lanes_32.h"

/* ---- Values of eight bits ---- */

typedef struct act_8 {
    uint8_t size[32], sign[32]; /* as of sized_bytes */
    int32_t missing;            /* what sums start with */
    float d;
} act_8;

static size_t bytes_8(size_t k) { return k / 32 * sizeof(act_8); }

static void pack_8(void *act, const float *x, size_t k) {
    for (act_8 *a = act; k > 0; k -= 32, x += 32, a++) {
        __m256 inverse;
        a->d = act_scale(x, 32, &inverse);
        a->missing = pack_sized(a->size, a->sign, x, inverse);
    }
}

AVX2_INLINE void products_q8_0(__m256i s[HALVES], row_stream w, const act_8 *x) {
    const __m256i one = _mm256_set1_epi16(1);
    AVX2_UNROLL
    for (size_t g = 0; g < 8; g++) {
        const sized_bytes quad = sized_quad(x->size + 4 * g, x->sign + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, offsetof(quant_q8_0, q) + 4 * g, h);
            s[h] = add_word_products(s[h], sized_products(quad, v), one);
        }
    }
}

AVX2_INLINE void products_iq4_nl(__m256i s[HALVES], row_stream w, const act_8 *x) {
    const __m256i table = _mm256_broadcastsi128_si256(load_128(quant_iq4_values));
    const __m256i one = _mm256_set1_epi16(1);
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const sized_bytes low = sized_quad(x->size + 4 * g, x->sign + 4 * g),
                          high = sized_quad(x->size + 16 + 4 * g, x->sign + 16 + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, offsetof(quant_iq4_nl, q) + 4 * g, h);
            const __m256i a = _mm256_shuffle_epi8(table, low_nibbles(v)),
                          b = _mm256_shuffle_epi8(table, high_nibbles(v));
            s[h] = add_word_products(s[h], sized_products(low, a), one);
            s[h] = add_word_products(s[h], sized_products(high, b), one);
        }
    }
}

AVX2_INLINE void rows_8(float *y, row_stream w, const act_8 *x, size_t block_n, const size_t block_bytes,
                        void (*const block)(__m256i *, row_stream, const act_8 *)) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * block_bytes, x++) {
        __m256i s[HALVES] = {broadcast_4(&x->missing), broadcast_4(&x->missing)};
        block(s, w, x);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d = _mm256_mul_ps(halves_at(w, 0, h), _mm256_broadcast_ss(&x->d));
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[h]), d, sum[h]);
        }
    }
    store_rows(y, sum);
}

#define LANES_8(type, asks)                                                                                  \
    static void pack_##type(void *act, const float *x, size_t k) { pack_8(act, x, k); }                      \
    STREAM_GEMV_ASKING(type, asks, rows_8(y, w, act, k / 32, sizeof(quant_##type), products_##type))
LANES_8(q8_0, ASK_NOTHING)
LANES_8(iq4_nl, ASK_FAR)

/* ---- The types ---- */

#define TYPES(X)                                                                                             \
    X(q4_0, Q4_0, products)                                                                                  \
    X(q4_1, Q4_1, products)                                                                                  \
    X(q5_0, Q5_0, products_five_bits)                                                                        \
    X(q5_1, Q5_1, products_five_bits)                                                                        \
    X(mxfp4, MXFP4, products)
TYPES(LANES_32)

void cpu_avx2_lanes_init(cpu_kernels *k) {
    TYPES(SET_32)
    STREAM_SET(q8_0, Q8_0, bytes_8)
    STREAM_SET(iq4_nl, IQ4_NL, bytes_8)
}
