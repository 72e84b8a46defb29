/* avx512_sgemm.c - float weights times many activation rows (prefill): as avx512_gemm.c, with tiles of 32
 * rows. */
#include "devices/cpu/avx512_tiles.h"

/* ---- Floats: tile [k][32 rows], panel [k][8 columns], both F32 ----------------------------------------- */

static size_t tile_bytes_float(size_t k) { return k * TILE_ROWS * sizeof(float); }
static size_t panel_bytes_float(size_t k) { return k * COLS * sizeof(float); }

/* Transposes a 16 x 16 matrix. */
INLINE void transpose_16x16(__m512 v[16]) {
    __m512 pair[16];
    UNROLL for (size_t i = 0; i < 16; i += 4) { /* 4 x 4 within each quarter of the registers */
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1]));
        const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3]));
        const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
        pair[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        pair[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        pair[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        pair[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    UNROLL for (size_t i = 0; i < 4; i++) { /* then the quarters, as a 4 x 4 matrix of them */
        const __m512 a = _mm512_shuffle_f32x4(pair[i], pair[4 + i], 0x88);
        const __m512 b = _mm512_shuffle_f32x4(pair[8 + i], pair[12 + i], 0x88);
        const __m512 c = _mm512_shuffle_f32x4(pair[i], pair[4 + i], 0xdd);
        const __m512 d = _mm512_shuffle_f32x4(pair[8 + i], pair[12 + i], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        v[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
        v[8 + i] = _mm512_shuffle_f32x4(a, b, 0xdd);
        v[12 + i] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
}

static void panel_pack_float(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    float *p = panel;
    for (size_t i = 0; i < k; i += 16) {
        const size_t n = k - i < 16 ? k - i : 16;
        __m512 v[16];
        UNROLL for (size_t c = 0; c < COLS; c++) {
            v[c] = _mm512_maskz_loadu_ps(lanes_left(n), x + (c < col_n ? c : col_n - 1) * x_stride + i);
            v[COLS + c] = _mm512_setzero_ps();
        }
        transpose_16x16(v);
        for (size_t j = 0; j < n; j++, p += COLS) _mm256_store_ps(p, _mm512_castps512_ps256(v[j]));
    }
}

INLINE void tile_unpack_float(float *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                              const gguf_type type) {
    for (size_t half = 0; half < 2; half++) {
        const size_t first = half * ROWS < row_n ? half * ROWS : 0;
        const tile_rows rows = rows_of(w + first * row_bytes, row_bytes, row_n - first);
        for (size_t i = 0; i < k; i += 16) {
            const size_t n = k - i < 16 ? k - i : 16;
            __m512 v[16];
            UNROLL for (size_t r = 0; r < ROWS; r++) {
                v[r] = load_float(type, rows.row[r] + i * float_bytes(type), lanes_left(n));
            }
            transpose_16x16(v);
            float *t = tile + i * TILE_ROWS + half * ROWS;
            for (size_t j = 0; j < n; j++, t += TILE_ROWS) _mm512_store_ps(t, v[j]);
        }
    }
}

static void tile_unpack_f32(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    tile_unpack_float(tile, w, row_bytes, row_n, k, GGUF_F32);
}
static void tile_unpack_f16(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    tile_unpack_float(tile, w, row_bytes, row_n, k, GGUF_F16);
}
static void tile_unpack_bf16(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    tile_unpack_float(tile, w, row_bytes, row_n, k, GGUF_BF16);
}

/* By neuron a float matrix is transposed, as the tile is. */
INLINE void neuron_tiles_float(uint8_t *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                               size_t from, size_t row_n, size_t k, const gguf_type type) {
    const size_t bytes = float_bytes(type), row_bytes = out_n * bytes;
    const uint8_t *w = stored + from * bytes;
    for (size_t i = 0; i < k; i++, w += row_bytes, tiles += TILE_ROWS * sizeof(float)) {
        for (size_t r = 0; r < row_n; r += TILE_ROWS) {
            const uint8_t *p = w + r * bytes;
            float *t = (void *)(tiles + r / TILE_ROWS * tile_stride);
            const size_t n = row_n - r;
            prefetch(p, NEURONS_AHEAD * row_bytes);
            if (type == GGUF_F32) prefetch(p + LINE, NEURONS_AHEAD * row_bytes);
            _mm512_store_ps(t, load_float(type, p, lanes_left(n)));
            _mm512_store_ps(t + ROWS,
                            load_float(type, p + ROWS * bytes, n > ROWS ? lanes_left(n - ROWS) : 0));
        }
    }
}

#define NEURON_TILES(name, type)                                                                             \
    static void neuron_tiles_##name(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles_float(tiles, tile_stride, stored, out_n, from, row_n, k, type);                         \
    }
NEURON_TILES(f32, GGUF_F32)
NEURON_TILES(f16, GGUF_F16)
NEURON_TILES(bf16, GGUF_BF16)

/* sum[h][c] = products over n of k. */
INLINE void multiply_run(__m512 sum[HALVES][COLS], const float *w, const float *x, size_t n) {
    zero_sums(sum);
    for (size_t i = 0; i < n; i++, w += TILE_ROWS, x += COLS) {
        const __m512 first = _mm512_load_ps(w), second = _mm512_load_ps(w + ROWS);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512 v = _mm512_set1_ps(x[c]);
            sum[0][c] = _mm512_fmadd_ps(first, v, sum[0][c]);
            sum[1][c] = _mm512_fmadd_ps(second, v, sum[1][c]);
        }
    }
}

/* Sums of runs are added up, as in avx2_sgemm.c: the rounding error of a long row is that of a short one. */
static void tile_mul_float(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    enum { RUN = 256 };
    for (size_t i = 0; i < k; i += RUN) {
        __m512 sum[HALVES][COLS];
        multiply_run(sum, (const float *)tile + i * TILE_ROWS, (const float *)panel + i * COLS,
                     (size_t)min_u64(k - i, RUN));
        UNROLL for (size_t c = 0; c < COLS && i > 0; c++) {
            const float *before = y + c * y_stride;
            sum[0][c] = _mm512_add_ps(sum[0][c], _mm512_loadu_ps(before));
            sum[1][c] = _mm512_add_ps(sum[1][c], _mm512_loadu_ps(before + ROWS));
        }
        store_sums(y, y_stride, sum);
    }
}

void avx512_sgemm(cpu_kernels *k) {
    cpu_set_tiles(&k->matmul[GGUF_F32], TILES(float, float, f32));
    cpu_set_tiles(&k->matmul[GGUF_F16], TILES(float, float, f16));
    cpu_set_tiles(&k->matmul[GGUF_BF16], TILES(float, float, bf16));
}
