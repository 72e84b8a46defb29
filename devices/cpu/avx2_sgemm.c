/* avx2_sgemm.c - prefill of float types: a tile of 16 rows times a panel of 6 columns, all in floats.
 *
 * Tile: [k][ROWS], panel: [k][COLS]. 12 sums hide the latency of the multiplier and leave registers for two
 * vectors of weights and one of activations. The tile streams from the second cache level, which keeps up.
 */
#include "devices/cpu/avx2.h"

enum { ROWS = 16, COLS = 6, HALVES = 2 };

static size_t tile_bytes(size_t k) { return k * ROWS * sizeof(float); }
static size_t panel_bytes(size_t k) { return k * COLS * sizeof(float); }

/* Columns that are not there repeat the last one. */
static void panel_pack(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    const float *column[COLS];
    for (size_t c = 0; c < COLS; c++) column[c] = x + (c < col_n ? c : col_n - 1) * x_stride;
    float *p = panel;
    for (size_t i = 0; i < k; i++) {
        for (size_t c = 0; c < COLS; c++) *p++ = column[c][i];
    }
}

/* Rows that are not there repeat the last one. The last n < 8 weights of a row leave what follows them
 * unread. */
#define TILE_UNPACK(type, item_bytes)                                                                        \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        for (size_t half = 0; half < HALVES; half++) {                                                       \
            const uint8_t *row[8];                                                                           \
            for (size_t r = 0; r < 8; r++) row[r] = w + min_u64(8 * half + r, row_n - 1) * row_bytes;        \
            float *out = (float *)tile + 8 * half;                                                           \
            for (size_t i = 0; i < k; i += 8) {                                                              \
                const size_t n = (size_t)min_u64(k - i, 8);                                                  \
                __m256i v[8];                                                                                \
                AVX2_UNROLL                                                                                  \
                for (size_t r = 0; r < 8; r++) {                                                             \
                    const uint8_t *p = row[r] + i * (item_bytes);                                            \
                    v[r] = _mm256_castps_si256(n == 8 ? load_##type(p)                                       \
                                                      : AVX2_LOAD_PART(load_##type, p, n, item_bytes));      \
                }                                                                                            \
                transpose_8x8(v);                                                                            \
                for (size_t j = 0; j < n; j++, out += ROWS) _mm256_store_ps(out, _mm256_castsi256_ps(v[j])); \
            }                                                                                                \
        }                                                                                                    \
    }
TILE_UNPACK(f32, 4)
TILE_UNPACK(f16, 2)
TILE_UNPACK(bf16, 2)

/* By neuron a matrix is transposed, as the tile is. Rows that fill no tile leave what follows them unread. */
enum { NEURONS_AHEAD = 32 };
#define NEURON_TILES(type, item_bytes)                                                                       \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        const size_t row_bytes = out_n * (item_bytes);                                                       \
        const uint8_t *w = stored + from * (item_bytes);                                                     \
        for (size_t i = 0; i < k; i++, w += row_bytes) {                                                     \
            for (size_t r = 0; r < row_n; r += 8) {                                                          \
                const size_t n = (size_t)min_u64(row_n - r, 8);                                              \
                const uint8_t *p = w + r * (item_bytes);                                                     \
                float *out = (float *)(void *)((uint8_t *)tiles + r / ROWS * tile_stride);                   \
                if (r * (item_bytes) % 64 == 0)                                                              \
                    _mm_prefetch((const char *)((uintptr_t)p + NEURONS_AHEAD * row_bytes), _MM_HINT_T1);     \
                _mm256_store_ps(out + i * ROWS + r % ROWS,                                                   \
                                n == 8 ? load_##type(p) : AVX2_LOAD_PART(load_##type, p, n, item_bytes));    \
            }                                                                                                \
        }                                                                                                    \
    }
NEURON_TILES(f32, 4)
NEURON_TILES(f16, 2)
NEURON_TILES(bf16, 2)

/* sum[h][c] = products over n of k. */
AVX2_INLINE void mul_run(__m256 sum[HALVES][COLS], const float *w, const float *x, size_t n) {
    AVX2_UNROLL
    for (int i = 0; i < HALVES * COLS; i++) sum[i / COLS][i % COLS] = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i++, w += ROWS, x += COLS) {
        const __m256 w0 = _mm256_load_ps(w), w1 = _mm256_load_ps(w + 8);
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++) {
            const __m256 b = _mm256_broadcast_ss(x + c);
            sum[0][c] = _mm256_fmadd_ps(w0, b, sum[0][c]);
            sum[1][c] = _mm256_fmadd_ps(w1, b, sum[1][c]);
        }
    }
}

/* Sums of runs are added up, not all products in one chain: the rounding error of a long row is that of a
 * short one. */
static void tile_mul(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    enum { RUN = 256 };
    for (size_t i = 0; i < k; i += RUN) {
        __m256 sum[HALVES][COLS];
        mul_run(sum, (const float *)tile + i * ROWS, (const float *)panel + i * COLS,
                (size_t)min_u64(k - i, RUN));
        AVX2_UNROLL
        for (size_t j = 0; j < HALVES * COLS; j++) {
            float *out = y + j % COLS * y_stride + j / COLS * 8;
            const __m256 s = sum[j / COLS][j % COLS];
            _mm256_storeu_ps(out, i == 0 ? s : _mm256_add_ps(s, _mm256_loadu_ps(out)));
        }
    }
}

static void set_slots(cpu_matmul *m, void (*tile_unpack)(void *, const uint8_t *, size_t, size_t, size_t),
                      void (*neuron_tiles)(void *, size_t, const uint8_t *, size_t, size_t, size_t, size_t)) {
    m->tile_rows = ROWS;
    m->panel_cols = COLS;
    m->panel_bytes = panel_bytes;
    m->panel_pack = panel_pack;
    m->tile_bytes = tile_bytes;
    m->tile_unpack = tile_unpack;
    m->tile_mul = tile_mul;
    m->neuron_tiles = neuron_tiles;
}

void cpu_avx2_sgemm_init(cpu_kernels *k) {
    set_slots(&k->matmul[GGUF_F32], tile_unpack_f32, neuron_tiles_f32);
    set_slots(&k->matmul[GGUF_F16], tile_unpack_f16, neuron_tiles_f16);
    set_slots(&k->matmul[GGUF_BF16], tile_unpack_bf16, neuron_tiles_bf16);
}
