/* avx512_tiles.h - rows and neurons to tiles, and sums of columns: what avx512_gemm.c and avx512_sgemm.c
 * share. */
#ifndef HOTSET_CPU_AVX512_TILES_H
#define HOTSET_CPU_AVX512_TILES_H

#include "devices/cpu/avx512.h"
#include "devices/lanes.h"

/* A tile is two halves of ROWS rows, a register each. Those of blocks stand half by half in every block. */
enum { ROWS = 16, HALVES = 2, TILE_ROWS = HALVES * ROWS, COLS = 8 };
enum { NEURONS_AHEAD = 32 };

/* The rows of a tile; prefetches reach for the next tile, since callers walk tiles in order. Rows that are
 * interleaved (devices/lanes.h) stand at `lanes`, else NULL. */
typedef struct tile_rows {
    const uint8_t *row[ROWS];
    size_t ahead;
    const uint8_t *lanes;
} tile_rows;

INLINE tile_rows rows_of(const uint8_t *w, size_t row_bytes, size_t row_n) {
    tile_rows t = {.ahead = ROWS * row_bytes};
    for (size_t r = 0; r < ROWS; r++) t.row[r] = w + (r < row_n ? r : row_n - 1) * row_bytes;
    return t;
}

INLINE tile_rows rows_of_lanes(const uint8_t *w) { return (tile_rows){.lanes = w}; }

INLINE void prefetch_rows(const tile_rows *t, size_t offset) {
    if (t->lanes) return; /* one stream, which the hardware follows */
    UNROLL for (size_t r = 0; r < ROWS; r++) prefetch(t->row[r] + offset, t->ahead);
}

/* 16 bytes of each row at `offset`: t[g] gets the g-th four of them, a row per lane. */
INLINE void load_quads(__m512i t[4], const tile_rows *w, size_t offset) {
    if (w->lanes) {
        UNROLL for (size_t g = 0; g < 4; g++) t[g] = _mm512_loadu_si512(w->lanes + ROWS * (offset + 4 * g));
        return;
    }
    __m512i z[4];
    UNROLL for (size_t i = 0; i < 4; i++) { /* quarter j of z[i] is row 4j + i */
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(w->row[i] + offset)));
        z[i] = _mm512_mask_broadcast_i32x4(z[i], 0x00f0,
                                           _mm_loadu_si128((const void *)(w->row[4 + i] + offset)));
        z[i] = _mm512_mask_broadcast_i32x4(z[i], 0x0f00,
                                           _mm_loadu_si128((const void *)(w->row[8 + i] + offset)));
        z[i] = _mm512_mask_broadcast_i32x4(z[i], 0xf000,
                                           _mm_loadu_si128((const void *)(w->row[12 + i] + offset)));
    }
    transpose_quarters(t, z);
}

/* One half-precision scale of each row. */
INLINE __m512 load_scales(const tile_rows *w, size_t offset) {
    if (w->lanes) return load_halves(w->lanes + ROWS * offset);
    _Alignas(32) uint16_t halves[ROWS];
    UNROLL for (size_t r = 0; r < ROWS; r++) memcpy(&halves[r], w->row[r] + offset, sizeof halves[r]);
    return _mm512_cvtph_ps(_mm256_load_si256((const void *)halves));
}

/* One word of each row at `offset`, or one byte. */
INLINE __m512i load_words(const tile_rows *w, size_t offset) {
    if (w->lanes) return _mm512_loadu_si512(w->lanes + ROWS * offset);
    _Alignas(CPU_ALIGN) int32_t words[ROWS];
    UNROLL for (size_t r = 0; r < ROWS; r++) words[r] = read_i32(w->row[r] + offset);
    return _mm512_load_si512(words);
}
INLINE __m128i load_bytes(const tile_rows *w, size_t offset) {
    if (w->lanes) return _mm_loadu_si128((const void *)(w->lanes + ROWS * offset));
    _Alignas(16) uint8_t bytes[ROWS];
    UNROLL for (size_t r = 0; r < ROWS; r++) bytes[r] = w->row[r][offset];
    return _mm_load_si128((const void *)bytes);
}

/* 16 bytes at p of four neurons (or planes) `stride` apart, one in each quarter. */
INLINE __m512i load_neurons(const uint8_t *p, size_t stride) {
    __m512i z = _mm512_castsi128_si512(_mm_loadu_si128((const void *)p));
    z = _mm512_mask_broadcast_i32x4(z, 0x00f0, _mm_loadu_si128((const void *)(p + stride)));
    z = _mm512_mask_broadcast_i32x4(z, 0x0f00, _mm_loadu_si128((const void *)(p + 2 * stride)));
    return _mm512_mask_broadcast_i32x4(z, 0xf000, _mm_loadu_si128((const void *)(p + 3 * stride)));
}

/* Byte i of every quarter to lane i. */
INLINE __m512i interleave(__m512i quarters) {
    static const _Alignas(64) uint8_t order[64] = {
        0,  16, 32, 48, 1,  17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51, 4,  20, 36, 52, 5,  21,
        37, 53, 6,  22, 38, 54, 7,  23, 39, 55, 8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58,
        11, 27, 43, 59, 12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};
    return _mm512_permutexvar_epi8(_mm512_load_si512(order), quarters);
}

/* Asks for the same outputs of the four neurons that are some rows ahead. */
INLINE void prefetch_neurons(const uint8_t *p, size_t row_bytes) {
    UNROLL for (size_t i = 0; i < 4; i++) prefetch(p, (NEURONS_AHEAD + i) * row_bytes);
}

/* Where the half with row r begins, its blocks being block_bytes long, in tiles tile_stride apart. */
INLINE void *half_at(uint8_t *tiles, size_t tile_stride, size_t r, size_t block_bytes) {
    return tiles + r / TILE_ROWS * tile_stride + r / ROWS % HALVES * block_bytes;
}

/* The first of the rows that go to a half: where there are none for the second one, those of the first again.
 */
INLINE size_t first_of_half(size_t half, size_t row_n) { return half * ROWS < row_n ? half * ROWS : 0; }

/* s[h][c] += quad_n registers of weights of half h, half_n registers apart, times the activations of column
 * c, which start at x + c * x_stride. Both halves at once: each activation is loaded for 128 products, and
 * the sums of one half would wait for each other where a processor multiplies twice a cycle. */
INLINE void multiply_quads(__m512i s[HALVES][COLS], const uint8_t w[][64], size_t half_n, const int8_t *x,
                           const size_t x_stride, const size_t quad_n) {
    UNROLL for (size_t g = 0; g < quad_n; g++) {
        const __m512i first = _mm512_load_si512(w[g]), second = _mm512_load_si512(w[half_n + g]);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512i quad = _mm512_set1_epi32(read_i32(x + c * x_stride + 4 * g));
            s[0][c] = _mm512_dpbusd_epi32(s[0][c], first, quad);
            s[1][c] = _mm512_dpbusd_epi32(s[1][c], second, quad);
        }
    }
}

INLINE void zero_sums(__m512 sum[HALVES][COLS]) {
    UNROLL for (size_t h = 0; h < HALVES; h++) {
        UNROLL for (size_t c = 0; c < COLS; c++) sum[h][c] = _mm512_setzero_ps();
    }
}

INLINE void store_sums(float *y, size_t y_stride, const __m512 sum[HALVES][COLS]) {
    UNROLL for (size_t h = 0; h < HALVES; h++) {
        UNROLL for (size_t c = 0; c < COLS; c++) _mm512_storeu_ps(y + c * y_stride + h * ROWS, sum[h][c]);
    }
}

#define TILES(form, pack, unpack)                                                                            \
    (cpu_matmul) {                                                                                           \
        .tile_rows = TILE_ROWS, .panel_cols = COLS, .panel_bytes = panel_bytes_##form,                       \
        .panel_pack = panel_pack_##pack, .tile_bytes = tile_bytes_##form,                                    \
        .tile_unpack = tile_unpack_##unpack, .tile_mul = tile_mul_##form,                                    \
        .neuron_tiles = neuron_tiles_##unpack                                                                \
    }

#endif
