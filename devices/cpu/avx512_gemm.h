/* avx512_gemm.h - tiles and panels of quantised types: what avx512_gemm.c and avx512_gemm_blocks.c share. */
#ifndef HOTSET_CPU_AVX512_GEMM_H
#define HOTSET_CPU_AVX512_GEMM_H

#include "devices/cpu/avx512_tiles.h"
#include "devices/cpu/lift.h"
#include "devices/neurons.h"

/* A block of 32. */
typedef struct tile_32 {
    _Alignas(CPU_ALIGN) uint8_t w[8][64]; /* [quad][row * 4], plus the offset of the quants */
    float d[ROWS];
} tile_32;

/* With an m to add. */
typedef struct tile_32_m {
    tile_32 block;
    float m[ROWS];
} tile_32_m;

typedef struct panel_32 {
    _Alignas(CPU_ALIGN) int8_t x[COLS][BLOCK];
    int32_t start[COLS]; /* minus the offset times the sum of x; lifted, LIFT_BITS besides */
    float d[COLS];
} panel_32;

/* A block's sums of products times d of the rows. Sums that are lifted (lift.h) take one operation instead of
 * two. That gives the same bits, for of a d in half precision LIFT d is exact; of powers of two up to 2^127
 * it may overflow. */
INLINE __m512 scaled(__m512i s, __m512 d, const bool lifted) {
    if (!lifted) return _mm512_mul_ps(_mm512_cvtepi32_ps(s), d);
    return _mm512_fmsub_ps(_mm512_castsi512_ps(s), d, _mm512_mul_ps(d, _mm512_set1_ps(LIFT)));
}

/* Tiles of rows that stand alone, and of interleaved ones, as unpack_##type makes a half of tile_##form. */
#define TILES_OF_ROWS(type, form)                                                                            \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        for (size_t h = 0; h < HALVES; h++) {                                                                \
            const size_t r = first_of_half(h, row_n);                                                        \
            const tile_rows rows = rows_of(w + r * row_bytes, row_bytes, row_n - r);                         \
            unpack_##type((tile_##form *)tile + h, &rows, k);                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void tile_of_lanes_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n,           \
                                     size_t k) {                                                             \
        for (size_t h = 0; h < HALVES; h++) {                                                                \
            const tile_rows rows = rows_of_lanes(w + first_of_half(h, row_n) * row_bytes);                   \
            unpack_##type((tile_##form *)tile + h, &rows, k);                                                \
        }                                                                                                    \
    }

/* Lane c: the greatest of v[c], or its sum. */
INLINE __m256 greatest_of_each(const __m256 v[COLS]) {
    __m256 two[4], four[2];
    UNROLL for (size_t i = 0; i < 4; i++) {
        const __m256 a = v[2 * i], b = v[2 * i + 1];
        two[i] = _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    }
    UNROLL for (size_t i = 0; i < 2; i++) {
        const __m256 a = two[2 * i], b = two[2 * i + 1];
        four[i] = _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
    }
    return _mm256_max_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20),
                         _mm256_permute2f128_ps(four[0], four[1], 0x31));
}
INLINE __m256i sum_of_each(const __m256i v[COLS]) {
    const __m256i low = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const __m256i high = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
}

/* The rule of `quantise` for a block of all columns at once, that their scales share a division. Gives the
 * sums of each column's bytes. */
INLINE __m256i quantise_columns(panel_32 *p, const float *x, size_t x_stride, size_t col_n) {
    _Alignas(32) float inverse[COLS];
    __m256 most[COLS];
    __m256i sum[COLS];
    UNROLL for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        const __m512 m = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(column)),
                                       _mm512_abs_ps(_mm512_loadu_ps(column + 16)));
        most[c] = _mm256_max_ps(_mm512_castps512_ps256(m), _mm512_extractf32x8_ps(m, 1));
    }
    const __m256 a = greatest_of_each(most), scale = _mm256_div_ps(_mm256_set1_ps(127), a);
    const __m256 finite = _mm256_cmp_ps(scale, _mm256_set1_ps(FLT_MAX), _CMP_LE_OQ);
    _mm256_store_ps(inverse, _mm256_and_ps(scale, finite));
    _mm256_storeu_ps(p->d, _mm256_div_ps(a, _mm256_set1_ps(127)));
    UNROLL for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        const __m512 by = _mm512_set1_ps(inverse[c]);
        const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(column), by));
        const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(column + 16), by));
        _mm_storeu_si128((void *)p->x[c], _mm512_cvtsepi32_epi8(first));
        _mm_storeu_si128((void *)(p->x[c] + 16), _mm512_cvtsepi32_epi8(second));
        const __m512i both = _mm512_add_epi32(first, second);
        sum[c] = _mm256_add_epi32(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64(both, 1));
    }
    return sum_of_each(sum);
}

INLINE void panel_pack_32(panel_32 *p, const float *x, size_t x_stride, size_t col_n, size_t k,
                          const int offset, const bool lifted) {
    const __m256i from = _mm256_set1_epi32(lifted ? LIFT_BITS : 0);
    for (size_t i = 0; i < k; i += BLOCK, p++) {
        const __m256i sum = quantise_columns(p, x + i, x_stride, col_n);
        const __m256i start = _mm256_mullo_epi32(sum, _mm256_set1_epi32(-offset));
        _mm256_storeu_si256((void *)p->start, _mm256_add_epi32(start, from));
    }
}

#define PANEL_PACK_32(type, offset, lifted)                                                                  \
    static void panel_pack_##type(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {    \
        panel_pack_32(panel, x, x_stride, col_n, k, offset, lifted);                                         \
    }

INLINE void multiply_32(float *y, size_t y_stride, const tile_32 *w, const panel_32 *x, size_t k,
                        const bool lifted) {
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / BLOCK; b++, w += HALVES, x++) {
        __m512i s[HALVES][COLS];
        UNROLL for (size_t c = 0; c < COLS; c++) s[0][c] = s[1][c] = _mm512_set1_epi32(x->start[c]);
        multiply_quads(s, w->w, sizeof *w / LINE, x->x[0], BLOCK, 8);
        const __m512 d[HALVES] = {_mm512_load_ps(w[0].d), _mm512_load_ps(w[1].d)};
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512 dx = _mm512_set1_ps(x->d[c]);
            UNROLL for (size_t h = 0; h < HALVES; h++) sum[h][c] =
                _mm512_fmadd_ps(scaled(s[h][c], d[h], lifted), dx, sum[h][c]);
        }
    }
    store_sums(y, y_stride, sum);
}

/* A block of 256 in groups of 32. */
typedef struct tile_q4_k {                   /* a block of 256 */
    _Alignas(CPU_ALIGN) uint8_t w[8][8][64]; /* [group][quad][row * 4] */
    float d[8][ROWS];                        /* scales of the groups */
    int16_t min[4][ROWS][2];                 /* mins of groups 2i and 2i + 1, to be scaled by dmin */
    float dmin[ROWS];
} tile_q4_k;

/* One of 256 in groups of 16. */
typedef struct tile_q6_k {                    /* a block of 256 */
    _Alignas(CPU_ALIGN) uint8_t w[16][4][64]; /* [group of 16][quad][row * 4], plus 32 */
    float d[16][ROWS];                        /* scales of the groups */
} tile_q6_k;

/* One of 256 whose quants have at most three bits: bytes hold them times their scales, so that a block is one
 * sum. */
typedef struct tile_256 {
    _Alignas(CPU_ALIGN) uint8_t w[64][64]; /* [quad][row * 4]: scale times value, plus PRODUCT_OFFSET */
    float d[ROWS];
} tile_256;

typedef struct tile_256_min {
    tile_256 block;
    int16_t min[8][ROWS][2]; /* mins of groups 2i and 2i + 1, to be scaled by dmin */
    float dmin[ROWS];
} tile_256_min;

typedef struct panel_q4_k {
    _Alignas(CPU_ALIGN) int8_t x[8][COLS][BLOCK];
    int16_t sum[4][COLS][2]; /* sums of x in groups 2i and 2i + 1 */
    float d[COLS];
} panel_q4_k;

/* 256 activations of column c, in runs. */
INLINE void put_column(int8_t x[8][COLS][BLOCK], size_t c, const int8_t q[SUPERBLOCK]) {
    for (size_t j = 0; j < 8; j++) memcpy(x[j][c], q + BLOCK * j, BLOCK);
}

/* Sums of their groups of n, in pairs. */
INLINE void put_sums(int16_t sum[][COLS][2], size_t c, const int8_t q[SUPERBLOCK], const size_t n) {
    for (size_t j = 0; j < SUPERBLOCK / n; j++) sum[j / 2][c][j % 2] = (int16_t)sum_i8(q + n * j, n);
}

/* Scales and minima of a block's parts, in 32-bit lanes of its rows; and what they are times. */
typedef struct block_parts {
    __m512i scale[16], min[16];
    __m512 d, dmin;
} block_parts;

/* Two numbers of each lane as 16 bits. */
INLINE __m512i pair_words(__m512i first, __m512i second) {
    return _mm512_or_si512(_mm512_and_si512(first, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(second, 16));
}

/* The 16 bytes d, dmin, scales of each row. As dwords s0, s1, s2 of the scales: the bytes of s0 and s1 hold
 * scales and mins of groups 0-3 in six bits and the upper two bits of groups 4-7; s2 has the lower four. */
INLINE block_parts parts_of_q4_k(const __m512i head[4]) {
    const __m512i six = _mm512_set1_epi8(0x3f), upper = _mm512_set1_epi8(0x30);
    const __m512i scale[2] = {
        _mm512_and_si512(head[1], six),
        _mm512_or_si512(low_nibbles(head[3]), _mm512_and_si512(_mm512_srli_epi32(head[1], 2), upper)),
    };
    const __m512i min[2] = {
        _mm512_and_si512(head[2], six),
        _mm512_or_si512(high_nibbles(head[3]), _mm512_and_si512(_mm512_srli_epi32(head[2], 2), upper)),
    };
    block_parts p = {.d = halves_of(head[0]), .dmin = upper_halves_of(head[0])};
    UNROLL for (unsigned j = 0; j < 8; j++) {
        p.scale[j] = byte_of_lanes(scale[j / 4], j % 4);
        p.min[j] = byte_of_lanes(min[j / 4], j % 4);
    }
    return p;
}

INLINE void store_parts_q4_k(tile_q4_k *t, const block_parts *p) {
    UNROLL for (size_t j = 0; j < 8; j++) {
        _mm512_store_ps(t->d[j], _mm512_mul_ps(_mm512_cvtepi32_ps(p->scale[j]), p->d));
    }
    UNROLL for (size_t j = 0; j < 8; j += 2) {
        _mm512_store_si512(t->min[j / 2], pair_words(p->min[j], p->min[j + 1]));
    }
    _mm512_store_ps(t->dmin, p->dmin);
}

/* Half h of what a field of the first half is, the second half's standing `bytes` behind. */
INLINE const void *of_half(const void *field, size_t bytes, size_t h) {
    return (const uint8_t *)field + h * bytes;
}

INLINE void zero_integers(__m512i s[HALVES][COLS]) {
    UNROLL for (size_t h = 0; h < HALVES; h++) {
        UNROLL for (size_t c = 0; c < COLS; c++) s[h][c] = _mm512_setzero_si512();
    }
}

/* block = minus the minima of a block's groups, two by two and to be scaled by dmin, times the sums of their
 * activations. */
INLINE void subtract_minima(__m512 block[HALVES][COLS], const int16_t min[][ROWS][2], const float *dmin,
                            size_t half_bytes, const int16_t x_sum[][COLS][2], const size_t group_n) {
    __m512i minima[HALVES][COLS];
    zero_integers(minima);
    UNROLL for (size_t i = 0; i < group_n / 2; i++) {
        const __m512i first = _mm512_load_si512(min[i]);
        const __m512i second = _mm512_load_si512(of_half(min[i], half_bytes, 1));
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512i pair = _mm512_set1_epi32(read_i32(x_sum[i][c]));
            minima[0][c] = _mm512_dpwssd_epi32(minima[0][c], first, pair);
            minima[1][c] = _mm512_dpwssd_epi32(minima[1][c], second, pair);
        }
    }
    UNROLL for (size_t h = 0; h < HALVES; h++) {
        const __m512 minus = _mm512_load_ps(of_half(dmin, half_bytes, h));
        UNROLL for (size_t c = 0; c < COLS; c++) {
            block[h][c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima[h][c]), minus, _mm512_setzero_ps());
        }
    }
}

/* sum += a block's sums, times the scales of the activations. */
INLINE void add_block(__m512 sum[HALVES][COLS], __m512 block[HALVES][COLS], const float *dx) {
    UNROLL for (size_t h = 0; h < HALVES; h++) {
        UNROLL for (size_t c = 0; c < COLS; c++) sum[h][c] =
            _mm512_fmadd_ps(block[h][c], _mm512_set1_ps(dx[c]), sum[h][c]);
    }
}

/* block += integer sums times d of the rows. */
INLINE void add_scaled(__m512 block[HALVES][COLS], __m512i s[HALVES][COLS], const float *d,
                       size_t half_bytes) {
    UNROLL for (size_t h = 0; h < HALVES; h++) {
        const __m512 scale = _mm512_load_ps(of_half(d, half_bytes, h));
        UNROLL for (size_t c = 0; c < COLS; c++) block[h][c] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[h][c]), scale, block[h][c]);
    }
}

/* Products of interleaved rows differ in where tiles come from. */
INLINE void set_tiles_of_lanes(cpu_kernels *k, gguf_type type,
                               void (*tile_unpack)(void *, const uint8_t *, size_t, size_t, size_t)) {
    cpu_matmul m = k->matmul[type];
    m.tile_unpack = tile_unpack;
    m.neuron_tiles = NULL;
    cpu_set_tiles(&k->lanes[type], m);
}

#endif
