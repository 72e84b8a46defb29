/* avxvnni_gemm.c - weights times many activation rows (prefill) where vpdpbusd multiplies 256 bits
 * (AVX-VNNI).
 *
 * One instruction adds four products of bytes to a sum of 32 bits: so values of eight bits are no different
 * from others, and sums need no registers but their own. Those of floats are met once for every scale, and
 * wait in memory.
 */
#define HAS_VPDPBUSD 1
#include "devices/cpu/avx2_quads.h"

AVX2_INLINE void start_at_zero(__m256i s[HALVES][COLS]) {
    AVX2_UNROLL
    for (int c = 0; c < COLS; c++) s[0][c] = s[1][c] = _mm256_set1_epi32(LIFT_BITS);
}

/* What the sums of a part start with, whose number counts parts of 16. */
AVX2_INLINE void start_part(__m256i s[HALVES][COLS], const panel_256 *p, size_t number, const fast_form f) {
    if (f.offset)
        start_sums(s, p->start[number]);
    else
        start_at_zero(s);
}

/* s[h][c] += products of `quad_n` times four weights. q: [quad_n][ROWS][4]; x: column c at 32 * c. */
AVX2_INLINE void add_quads(__m256i s[HALVES][COLS], const uint8_t *q, const int8_t *x, const size_t quad_n) {
    AVX2_UNROLL
    for (size_t i = 0; i < quad_n; i++) {
        const __m256i w0 = load_256(q + 64 * i), w1 = load_256(q + 64 * i + 32);
        AVX2_UNROLL
        for (size_t c = 0; c < COLS; c++) {
            const __m256i b = broadcast_4(x + 32 * c + 4 * i);
            s[0][c] = add_products(s[0][c], w0, b);
            s[1][c] = add_products(s[1][c], w1, b);
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
        start_sums(s, p->start);
        add_quads(s, t->q[0][0], p->x[0], 8);
        AVX2_UNROLL
        for (size_t c = 0; c < COLS; c++) {
            const __m256 dx = _mm256_broadcast_ss(p->d + c), sum_x = _mm256_broadcast_ss(p->sum + c);
            AVX2_UNROLL
            for (size_t h = 0; h < HALVES; h++) {
                const __m256 scaled = _mm256_mul_ps(sum_float(s[h][c]), load_f32(t->d + 8 * h));
                sum[h][c] = _mm256_fmadd_ps(scaled, dx, sum[h][c]);
                if (f.has_min) sum[h][c] = _mm256_fmadd_ps(load_f32(t->m + 8 * h), sum_x, sum[h][c]);
            }
        }
    }
    store_sums(y, y_stride, sum);
}

/* sum[h][c] += a part's sums of integers times its scales of 16 rows. */
AVX2_INLINE void add_part(__m256 sum[HALVES][COLS], __m256i s[HALVES][COLS], const float *scale) {
    AVX2_UNROLL
    for (size_t i = 0; i < HALVES * COLS; i++) {
        const size_t h = i % HALVES, c = i / HALVES;
        sum[h][c] = _mm256_fmadd_ps(sum_float(s[h][c]), load_f32(scale + 8 * h), sum[h][c]);
    }
}

/* s[h][c] += minima times the sums of the activations of their parts. */
AVX2_INLINE void add_minima(__m256i s[HALVES][COLS], const tile_256 *t, const panel_256 *p,
                            const fast_form f) {
    AVX2_UNROLL
    for (size_t j = 0; j < parts_of(f) / 2; j++) {
        const int16_t(*min)[2] = t->number[first_min(f) + j];
        const __m256i w0 = load_256(min), w1 = load_256(min + 8);
        AVX2_UNROLL
        for (size_t c = 0; c < COLS; c++) {
            const __m256i v = broadcast_4(p->sum[j][c]);
            s[0][c] = _mm256_dpwssd_avx_epi32(s[0][c], w0, v);
            s[1][c] = _mm256_dpwssd_avx_epi32(s[1][c], w1, v);
        }
    }
}

AVX2_INLINE void tile_mul_256(float *y, size_t y_stride, const uint8_t *tile, const panel_256 *p, size_t k,
                              const fast_form f) {
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 256; b++, tile += tile_block_bytes(f), p++) {
        const tile_256 *t = (const tile_256 *)(const void *)tile;
        __m256i s[HALVES][COLS];
        __m256 block[HALVES][COLS]; /* still without d of the activations */
        zero_sums(block);
        if (f.has_min) {
            start_at_zero(s);
            add_minima(s, t, p, f);
            add_part(block, s, t->minus_dmin);
        }
        if (has_products(f)) {
            start_part(s, p, 0, f);
            for (size_t run = 0; run < 8; run++) add_quads(s, t->q[8 * run][0], p->x[run][0], 8);
            add_part(block, s, t->d);
        }
        for (size_t i = 0; i < 256 && !has_products(f); i += f.part_n) {
            start_part(s, p, i / 16, f);
            add_quads(s, t->q[i / 4][0], p->x[i / 32][0] + i % 32, f.part_n / 4);
            add_part(block, s, t->scale[i / f.part_n]);
        }
        AVX2_UNROLL
        for (size_t i = 0; i < HALVES * COLS; i++) {
            const size_t h = i % HALVES, c = i / HALVES;
            sum[h][c] = _mm256_fmadd_ps(block[h][c], _mm256_broadcast_ss(p->d + c), sum[h][c]);
        }
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

#define EIGHT_BIT_TYPES(X)                                                                                   \
    X(q8_0, Q8_0, 32, 2, q8_0)                                                                               \
    X(iq4_nl, IQ4_NL, 32, 2, q8_0)                                                                           \
    X(iq4_xs, IQ4_XS, 256, 8, iq4_xs)

SIX_BIT_PANELS
PANEL_PACK(32, q8_0, 128)
PANEL_PACK(256, iq4_xs, 32, 128)
SIX_BIT_TYPES(TILE_FUNCTIONS)
EIGHT_BIT_TYPES(TILE_FUNCTIONS)

/* Twelve independent sums hide the latency of the multipliers. */
static double peak_int8(size_t iterations, float *sink) {
    const __m256i x = _mm256_set1_epi8(-5);
    __m256i w = _mm256_set1_epi8(3), sum[HALVES * COLS];
    for (int c = 0; c < HALVES * COLS; c++) sum[c] = _mm256_setzero_si256();
    for (size_t i = 0; i < iterations; i++) {
        w = opaque(w);
        AVX2_UNROLL
        for (int c = 0; c < HALVES * COLS; c++) sum[c] = add_products(sum[c], w, x);
    }
    for (int c = 1; c < HALVES * COLS; c++) sum[0] = _mm256_add_epi32(sum[0], sum[c]);
    *sink = sum_8(_mm256_cvtepi32_ps(sum[0]));
    return 2.0 * 32 * HALVES * COLS * (double)iterations;
}

void cpu_kernels_avxvnni(cpu_kernels *k) {
    k->isa = "avxvnni";
    k->peak_int8 = peak_int8;
    SIX_BIT_TYPES(SET_TILES)
    EIGHT_BIT_TYPES(SET_TILES)
    cpu_avxvnni_lanes_init(k);
    cpu_avxvnni_attend_init(k);
}
