/* avx2_blocks.c - one activation row times weights (decode): K-quants that have no kernels of their own, by
 * one form for all.
 *
 * One row is walked after the other, as avx2_gemv.c does; sums of 16 meet their scales as integers.
 */
#include "devices/cpu/avx2_blocks.h"

enum { BYTES_AHEAD = 2048 };

/* 16 bytes against minus the sums of activations. */
AVX2_INLINE __m256i against_sums(__m128i bytes, const act_256 *a) {
    return _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), load_256(a->sums));
}

/* Asks for what stands `ahead` bytes behind, as prefetch_step() does. */
AVX2_INLINE float dot_256(const uint8_t *w, const act_256 *a, size_t block_n, size_t ahead,
                          const bool scattered, const fast_form f) {
    __m256 sum = _mm256_setzero_ps();
    for (; block_n > 0; block_n--, a++, w += f.block_bytes) {
        __m128i scale, min;
        prefetch_step(w, f.block_bytes, ahead, scattered);
        f.numbers(&scale, &min, w);
        __m256i total = _mm256_setzero_si256();
        if (f.offset) /* offset * scale * minus the sum */
            total = _mm256_mullo_epi32(against_sums(scale, a), _mm256_set1_epi32(f.offset));
        const __m256i words = _mm256_cvtepi8_epi16(scale);
        const __m256i scales[2] = {_mm256_permute4x64_epi64(words, 0x44),
                                   _mm256_permute4x64_epi64(words, 0xee)};
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) {
            const __m256i q = opaque(f.quants(w, (size_t)j)), x = load_256(a->q + 32 * j);
            const __m256i pairs = _mm256_maddubs_epi16(q, x);
            total = add_word_products(total, pairs, spread_words(scales[j / 4], j % 4));
        }
        const __m256 dx = _mm256_set1_ps(a->d);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(block_d(f, w), dx), sum);
        if (f.has_min)
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(against_sums(min, a)),
                                  _mm256_mul_ps(block_dmin(f, w), dx), sum);
    }
    return sum_8(sum);
}

/* ---- The slots ---- */

#define GEMV(type, TYPE)                                                                                     \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        for (size_t r = 0; r < row_n; r++)                                                                   \
            y[r] = dot_256(w + r * row_bytes, act, k / 256, BYTES_AHEAD, false, FAST_##TYPE);                \
    }                                                                                                        \
    DOTS_BY_ROW(type, dot_256(w, act, k / 256, ahead, true, FAST_##TYPE))
GEMV(q2_k, Q2_K)
GEMV(q3_k, Q3_K)
GEMV(q5_k, Q5_K)

void cpu_avx2_blocks_init(cpu_kernels *k) {
    cpu_set_gemv(&k->matmul[GGUF_Q2_K], act_bytes_256, act_pack_256, gemv_q2_k);
    k->matmul[GGUF_Q2_K].dots = dots_q2_k;
    cpu_set_gemv(&k->matmul[GGUF_Q3_K], act_bytes_256, act_pack_256, gemv_q3_k);
    k->matmul[GGUF_Q3_K].dots = dots_q3_k;
    cpu_set_gemv(&k->matmul[GGUF_Q5_K], act_bytes_256, act_pack_256, gemv_q5_k);
    k->matmul[GGUF_Q5_K].dots = dots_q5_k;
}
