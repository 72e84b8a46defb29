/* avx2_gemm.c - prefill of the types whose quants, or values with an offset, are unsigned numbers of at most
 * six bits.
 *
 * Sums of 16 bits hold a block of 32, or 32 or 16 weights of K-quants, so that widening is paid once for all
 * of them.
 */
#include "devices/cpu/avx2_quads.h"

/* ---- Products ---- */

/* s[h][c] (+)= products of `quad_n` times four weights, in lanes of 16 bits. q: [quad_n][ROWS][4]; x: column
 * c at 32 * c. */
AVX2_INLINE void add_quads(__m256i s[HALVES][COLS], const uint8_t *q, const int8_t *x, const int quad_n,
                           const bool from_zero) {
    AVX2_UNROLL
    for (int i = 0; i < quad_n; i++) {
        const __m256i w0 = load_256(q + 64 * i), w1 = load_256(q + 64 * i + 32);
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++) {
            const __m256i b = broadcast_4(x + 32 * c + 4 * i);
            const __m256i p0 = _mm256_maddubs_epi16(w0, b), p1 = _mm256_maddubs_epi16(w1, b);
            s[0][c] = opaque(from_zero && i == 0 ? p0 : _mm256_add_epi16(s[0][c], p0));
            s[1][c] = opaque(from_zero && i == 0 ? p1 : _mm256_add_epi16(s[1][c], p1));
        }
    }
}

AVX2_INLINE void tile_mul_32(float *y, size_t y_stride, const uint8_t *tile, const panel_32 *p, size_t k,
                             const fast_form f) {
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 32; b++, tile += tile_block_bytes(f), p++) {
        const tile_32 *t = (const tile_32 *)(const void *)tile;
        __m256i s[HALVES][COLS];
        if (start_offset(f)) start_sums(s, p->start);
        add_quads(s, t->q[0][0], p->x[0], 8, !start_offset(f));
        AVX2_UNROLL
        for (int i = 0; i < HALVES * COLS; i++)
            s[i / COLS][i % COLS] = _mm256_madd_epi16(s[i / COLS][i % COLS], _mm256_set1_epi16(1));
        add_scaled(sum, s, t->d, p->d);
        if (!f.has_min) continue;
        AVX2_UNROLL
        for (int i = 0; i < HALVES * COLS; i++) {
            const int h = i / COLS, c = i % COLS;
            sum[h][c] = _mm256_fmadd_ps(load_f32(t->m + 8 * h), _mm256_broadcast_ss(p->sum + c), sum[h][c]);
        }
    }
    store_sums(y, y_stride, sum);
}

/* total[h][c] += sums times their part's scales, twice per row: one for each 16-bit lane. */
AVX2_INLINE void add_part(__m256i total[HALVES][COLS], __m256i s[HALVES][COLS], const int16_t (*scales)[2]) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) {
        const __m256i scale = load_256(scales + 8 * h);
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++) total[h][c] = add_word_products(total[h][c], s[h][c], scale);
    }
}

/* s[h][c] = minima times the sums of the activations of their parts. */
AVX2_INLINE void sum_minima(__m256i s[HALVES][COLS], const tile_256 *t, const panel_256 *p,
                            const fast_form f) {
    AVX2_UNROLL
    for (size_t j = 0; j < parts_of(f) / 2; j++) {
        const int16_t(*min)[2] = t->number[first_min(f) + j];
        const __m256i w0 = load_256(min), w1 = load_256(min + 8);
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++) {
            const __m256i v = broadcast_4(p->sum[j][c]);
            const __m256i p0 = _mm256_madd_epi16(w0, v), p1 = _mm256_madd_epi16(w1, v);
            s[0][c] = opaque(j == 0 ? p0 : _mm256_add_epi32(s[0][c], p0));
            s[1][c] = opaque(j == 0 ? p1 : _mm256_add_epi32(s[1][c], p1));
        }
    }
}

AVX2_INLINE void tile_mul_256(float *y, size_t y_stride, const uint8_t *tile, const panel_256 *p, size_t k,
                              const fast_form f) {
    /* weights whose products 16 bits hold: 16 * 15 * 127, but only 8 * 31 * 127 */
    const int sum_n = f.part_n == 32 && f.high_bits == 0 ? 32 : 16;
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 256; b++, tile += tile_block_bytes(f), p++) {
        const tile_256 *t = (const tile_256 *)(const void *)tile;
        __m256i s[HALVES][COLS], total[HALVES][COLS];
        if (f.has_min) {
            sum_minima(s, t, p, f);
            add_scaled(sum, s, t->minus_dmin, p->d);
        }
        AVX2_UNROLL
        for (int i = 0; i < HALVES * COLS; i++) total[i / COLS][i % COLS] = _mm256_setzero_si256();
        for (size_t i = 0; i < 256; i += (size_t)sum_n) {
            if (f.offset) start_sums(s, p->start[i / 16]);
            add_quads(s, t->q[i / 4][0], p->x[i / 32][0] + i % 32, sum_n / 4, f.offset == 0);
            add_part(total, s, t->number[i / f.part_n]);
        }
        add_scaled(sum, total, t->d, p->d);
    }
    store_sums(y, y_stride, sum);
}

AVX2_INLINE void tile_mul(float *y, size_t y_stride, const void *tile, const void *panel, size_t k,
                          const fast_form f) {
    if (f.run_n == 1)
        tile_mul_32(y, y_stride, tile, panel, k, f);
    else
        tile_mul_256(y, y_stride, tile, panel, k, f);
}

/* ---- The slots ---- */

SIX_BIT_PANELS
SIX_BIT_TYPES(TILE_FUNCTIONS)

void cpu_avx2_gemm_init(cpu_kernels *k) { SIX_BIT_TYPES(SET_TILES) }
