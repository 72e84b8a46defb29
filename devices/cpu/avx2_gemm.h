/* avx2_gemm.h - tiles of 16 rows and panels of some columns: what avx2_gemm.c, avx2_gemm_pairs.c and
 * avxvnni_gemm.c share.
 *
 * A tile holds some consecutive weights of all rows side by side: a lane is a row, the activations are
 * broadcast, and nothing is summed across lanes. Sums of integers stand in registers, with two of weights and
 * one of activations. With vpdpbusd they are 16 x 6 and fill all 16 registers. Without it products need
 * registers too, and 16 x 3 leave room for the sums of floats as well.
 */
#ifndef HOTSET_CPU_AVX2_GEMM_H
#define HOTSET_CPU_AVX2_GEMM_H

#include "devices/cpu/avx2_blocks.h"

enum {
    ROWS = LANES_ROWS,
    COLS = HAS_VPDPBUSD ? 6 : 3,
    HALVES = 2, /* registers of 8 rows */
    NEURONS_AHEAD = 32
};

AVX2_INLINE void store_256(void *to, __m256i v) { _mm256_store_si256(to, v); }

/* ---- Where tiles come from ---- */

/* One block of each row of a tile; where there are fewer rows the last one stands in. */
typedef struct tile_rows {
    const uint8_t *row[ROWS];
} tile_rows;

AVX2_INLINE tile_rows rows_of(const uint8_t *w, size_t row_bytes, size_t row_n) {
    tile_rows rows;
    for (size_t r = 0; r < ROWS; r++) rows.row[r] = w + (r < row_n ? r : row_n - 1) * row_bytes;
    return rows;
}
AVX2_INLINE tile_rows rows_at(const tile_rows *rows, size_t offset) {
    tile_rows at;
    AVX2_UNROLL
    for (size_t r = 0; r < ROWS; r++) at.row[r] = rows->row[r] + offset;
    return at;
}

/* Headers of a block of interleaved rows, each at its place in a block that is else empty. */
typedef struct lanes_headers {
    uint8_t block[ROWS][BLOCKS_BYTES_MAX];
} lanes_headers;

/* n bytes that stand at `from`, to `at` of the blocks. */
AVX2_INLINE void restore_field(lanes_headers *to, size_t at, const uint8_t *w, size_t from, const size_t n) {
    AVX2_UNROLL
    for (size_t r = 0; r < ROWS; r++) memcpy(to->block[r] + at, w + ROWS * from + r * n, n);
}
AVX2_INLINE void restore_fields(lanes_headers *to, size_t at, const uint8_t *w, size_t from, size_t n) {
    for (; n >= 4; n -= 4, at += 4, from += 4) restore_field(to, at, w, from, 4);
    if (n) restore_field(to, at, w, from, n);
}
/* A header is what stands before the quants and what stands behind them. */
AVX2_INLINE tile_rows headers_of_lanes(lanes_headers *to, const uint8_t *w, const size_t quants_at,
                                       const fast_form f) {
    const size_t behind_n = f.header_bytes - quants_at, behind_at = f.block_bytes - behind_n;
    restore_fields(to, f.front_at, w, 0, quants_at);
    restore_fields(to, behind_at, w, behind_at, behind_n);
    return rows_of(to->block[0], sizeof to->block[0], ROWS);
}

/* Byte j of row i becomes byte i of row j: each step turns the eight bits of a byte's place by one. */
AVX2_INLINE void transpose_16x16(__m128i v[16]) {
    AVX2_UNROLL
    for (int step = 0; step < 4; step++) {
        __m128i from[16];
        memcpy(from, v, sizeof from);
        AVX2_UNROLL
        for (int i = 0; i < 8; i++) {
            v[2 * i] = _mm_unpacklo_epi8(from[i], from[i + 8]);
            v[2 * i + 1] = _mm_unpackhi_epi8(from[i], from[i + 8]);
        }
    }
}

/* Scales, and minima where there are any, of every 16 weights: each of all rows. */
AVX2_INLINE void numbers_of(__m128i scale[16], __m128i min[16], const tile_rows *rows, const fast_form f) {
    AVX2_UNROLL
    for (size_t r = 0; r < ROWS; r++) f.numbers(&scale[r], &min[r], rows->row[r]);
    transpose_16x16(scale);
    if (f.has_min) transpose_16x16(min);
}

/* Signed bytes of rows 0 to 7, and of 8 to 15, in pairs of 16 bits. */
AVX2_INLINE __m256i low_pairs(__m128i first, __m128i second) {
    return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second));
}
AVX2_INLINE __m256i high_pairs(__m128i first, __m128i second) {
    return _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(first, second));
}

AVX2_INLINE void prefetch_neurons(const uint8_t *p, size_t row_bytes, size_t neuron_n) {
    AVX2_UNROLL
    for (size_t i = 0; i < neuron_n; i++)
        _mm_prefetch((const char *)((uintptr_t)p + (NEURONS_AHEAD + i) * row_bytes), _MM_HINT_T1);
}

/* d of 16 rows, or of 16 outputs from planes. */
AVX2_INLINE void store_d(float *to, const tile_rows *rows, const fast_form f) {
    AVX2_UNROLL
    for (size_t r = 0; r < ROWS; r++) to[r] = _mm256_cvtss_f32(block_d(f, rows->row[r]));
}
AVX2_INLINE void store_plane_d(float *to, const uint8_t *planes, size_t out_n, size_t o, const fast_form f) {
    _mm256_store_ps(to, plane_d(f, planes, out_n, o));
    _mm256_store_ps(to + 8, plane_d(f, planes, out_n, o + 8));
}

/* Halves in the lower half of each lane. */
AVX2_INLINE __m256 halves_of(__m256i words) {
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

/* ---- Sums ---- */

AVX2_INLINE void zero_sums(__m256 sum[HALVES][COLS]) {
    AVX2_UNROLL
    for (int i = 0; i < HALVES * COLS; i++) sum[i / COLS][i % COLS] = _mm256_setzero_ps();
}

AVX2_INLINE void store_sums(float *y, size_t y_stride, __m256 sum[HALVES][COLS]) {
    AVX2_UNROLL
    for (size_t i = 0; i < HALVES * COLS; i++)
        _mm256_storeu_ps(y + i % COLS * y_stride + i / COLS * 8, sum[i / COLS][i % COLS]);
}

/* Adds a block's integer sums, times the scales of rows and columns. */
AVX2_INLINE void add_scaled(__m256 sum[HALVES][COLS], __m256i s[HALVES][COLS], const float *d,
                            const float *dx) {
    AVX2_UNROLL
    for (int c = 0; c < COLS; c++) {
        const __m256 scale = _mm256_broadcast_ss(dx + c);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(s[h][c]), load_f32(d + 8 * h));
            sum[h][c] = _mm256_fmadd_ps(scaled, scale, sum[h][c]);
        }
    }
}

/* ---- Slots ---- */

/* Functions of tiles, of what takes a form; n: weights of a block, quants_at: where they stand in an
 * interleaved one, panels: what the names of their functions end with. SET_TILES puts all of them into the
 * table k. */
#define TILE_FUNCTIONS(type, TYPE, n, quants_at, panels)                                                     \
    static size_t tile_bytes_##type(size_t k) { return k / (n)*tile_block_bytes(FAST_##TYPE); }              \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        tile_unpack(tile, w, row_bytes, row_n, k, FAST_##TYPE);                                              \
    }                                                                                                        \
    static void tile_of_lanes_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n,           \
                                     size_t k) {                                                             \
        (void)row_bytes;                                                                                     \
        (void)row_n; /* always all */                                                                        \
        tile_of_lanes(tile, w, k, quants_at, FAST_##TYPE);                                                   \
    }                                                                                                        \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles(tiles, tile_stride, stored, out_n, from, row_n, k, FAST_##TYPE);                        \
    }                                                                                                        \
    static void tile_mul_##type(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {  \
        tile_mul(y, y_stride, tile, panel, k, FAST_##TYPE);                                                  \
    }

#define SET_TILES(type, TYPE, n, quants_at, panels)                                                          \
    set_tiles(k, GGUF_##TYPE,                                                                                \
              (cpu_matmul){.tile_rows = ROWS,                                                                \
                           .panel_cols = COLS,                                                               \
                           .panel_bytes = panel_bytes_##panels,                                              \
                           .panel_pack = panel_pack_##panels,                                                \
                           .tile_bytes = tile_bytes_##type,                                                  \
                           .tile_unpack = tile_unpack_##type,                                                \
                           .tile_mul = tile_mul_##type,                                                      \
                           .neuron_tiles = neuron_tiles_##type},                                             \
              tile_of_lanes_##type);

AVX2_INLINE void set_tiles(cpu_kernels *k, gguf_type type, cpu_matmul m,
                           void (*tile_of_lanes)(void *, const uint8_t *, size_t, size_t, size_t)) {
    cpu_set_tiles(&k->matmul[type], m);
    m.tile_unpack = tile_of_lanes;
    m.neuron_tiles = NULL;
    cpu_set_tiles(&k->lanes[type], m);
}

#endif
