/* avx2_gemm.c - prefill of quantised types: a tile of 16 rows times a panel of 3 columns of activations.
 *
 * A tile holds, for each four consecutive weights, those of all rows side by side: a lane is a row, the
 * activations are broadcast, and nothing is summed across lanes. 16 x 3 sums leave room in the 16 registers
 * for two weight vectors and one of activations. Where 16 bits hold the sums of a group (4 and 6-bit
 * weights), widening is paid once per group.
 */
#include "devices/cpu/avx2_tiles.h"
#include "devices/neurons.h"
#include "devices/quant.h"

#include <stddef.h>

enum { ROWS = 16, COLS = 3, HALVES = 2 }; /* HALVES: registers of 8 rows */

/* Row r of a tile; where there are fewer rows the last one stands in. */
AVX2_INLINE const uint8_t *tile_row(const uint8_t *w, size_t row_bytes, size_t row_n, size_t r) {
    return w + (r < row_n ? r : row_n - 1) * row_bytes;
}

AVX2_INLINE float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

/* Stores 8 rows of 32 bytes as [8][ROWS][4] bytes, at the lanes of their half. */
AVX2_INLINE void store_rows(uint8_t *q, __m256i v[8], int half) {
    transpose_8x8(v);
    AVX2_UNROLL
    for (int i = 0; i < 8; i++) _mm256_store_si256((__m256i *)(void *)(q + 64 * i + 32 * half), v[i]);
}

/* ---- Tiles of a matrix stored by neuron, where the rows of a tile stand side by side already ---- */

enum { NEURONS_AHEAD = 32 };

/* Tile number i of those that neuron_tiles fills. */
#define TILE_AT(type, tiles, tile_stride, i) ((type *)(void *)((tiles) + (i) * (tile_stride)))

AVX2_INLINE void prefetch_neurons(const uint8_t *p, size_t row_bytes, size_t neuron_n) {
    AVX2_UNROLL
    for (size_t i = 0; i < neuron_n; i++)
        _mm_prefetch((const char *)((uintptr_t)p + (NEURONS_AHEAD + i) * row_bytes), _MM_HINT_T1);
}

/* Bytes of four neurons for 16 outputs: stores [16][4]. */
AVX2_INLINE void store_interleaved(uint8_t *q, const __m128i n[4]) {
    const __m128i low_01 = _mm_unpacklo_epi8(n[0], n[1]), high_01 = _mm_unpackhi_epi8(n[0], n[1]);
    const __m128i low_23 = _mm_unpacklo_epi8(n[2], n[3]), high_23 = _mm_unpackhi_epi8(n[2], n[3]);
    __m128i *out = (__m128i *)(void *)q;
    _mm_store_si128(out, _mm_unpacklo_epi16(low_01, low_23));
    _mm_store_si128(out + 1, _mm_unpackhi_epi16(low_01, low_23));
    _mm_store_si128(out + 2, _mm_unpacklo_epi16(high_01, high_23));
    _mm_store_si128(out + 3, _mm_unpackhi_epi16(high_01, high_23));
}

/* The nibbles of four neurons for a run of 32 outputs: those of one tile and of the next. */
AVX2_INLINE void load_nibbles(__m128i low[4], __m128i high[4], const uint8_t *p, size_t row_bytes) {
    const __m128i mask = _mm_set1_epi8(15);
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++) {
        const __m128i v = load_128(p + i * row_bytes);
        low[i] = _mm_and_si128(v, mask);
        high[i] = _mm_and_si128(_mm_srli_epi16(v, 4), mask);
    }
}

/* 16 halves of a plane. */
AVX2_INLINE void store_plane(float *d, const uint8_t *p) {
    _mm256_store_ps(d, load_f16(p));
    _mm256_store_ps(d + 8, load_f16(p + 16));
}

/* 16 bytes, unsigned or signed, widened. */
AVX2_INLINE void widen_16(__m256i out[2], __m128i v) {
    out[0] = _mm256_cvtepu8_epi32(v);
    out[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8));
}
AVX2_INLINE void widen_signed_16(__m256i out[2], __m128i v) {
    out[0] = _mm256_cvtepi8_epi32(v);
    out[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8));
}

/* Numbers of 16 rows, each twice, or each beside another, as pairs of 16 bits. */
AVX2_INLINE void store_pairs(int16_t (*out)[2], __m256i first[2], __m256i second[2]) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) {
        const __m256i low = _mm256_and_si256(first[h], _mm256_set1_epi32(0xffff));
        _mm256_store_si256((__m256i *)(void *)out[8 * h],
                           _mm256_or_si256(low, _mm256_slli_epi32(second[h], 16)));
    }
}

/* s[h][c] (+)= products of `quad_n` times four weights, in lanes of 16 bits. q: [quad_n][ROWS][4] unsigned;
 * x: column c at c * x_stride. */
AVX2_INLINE void add_quads(__m256i s[HALVES][COLS], const uint8_t *q, const int8_t *x, size_t x_stride,
                           const int quad_n, const bool from_zero) {
    AVX2_UNROLL
    for (int i = 0; i < quad_n; i++) {
        const __m256i w0 = load_256(q + 64 * i), w1 = load_256(q + 64 * i + 32);
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++) {
            const __m256i b = broadcast_4(x + (size_t)c * x_stride + 4 * i);
            const __m256i p0 = _mm256_maddubs_epi16(w0, b), p1 = _mm256_maddubs_epi16(w1, b);
            s[0][c] = opaque(from_zero && i == 0 ? p0 : _mm256_add_epi16(s[0][c], p0));
            s[1][c] = opaque(from_zero && i == 0 ? p1 : _mm256_add_epi16(s[1][c], p1));
        }
    }
}

AVX2_INLINE void zero_sums(__m256 sum[HALVES][COLS]) {
    AVX2_UNROLL
    for (int i = 0; i < HALVES * COLS; i++) sum[i / COLS][i % COLS] = _mm256_setzero_ps();
}

AVX2_INLINE void store_sums(float *y, size_t y_stride, __m256 sum[HALVES][COLS]) {
    AVX2_UNROLL
    for (size_t i = 0; i < HALVES * COLS; i++)
        _mm256_storeu_ps(y + i % COLS * y_stride + i / COLS * 8, sum[i / COLS][i % COLS]);
}

/* ---- Q4_0 ---- */

typedef struct tile_q4_0 { /* of one block of 32 */
    uint8_t q[8][ROWS][4];
    float d[ROWS];
} tile_q4_0;

typedef struct panel_q4_0 {
    int8_t x[COLS][32];
    int32_t start[COLS]; /* lane_start */
    float d[COLS];
} panel_q4_0;

static size_t tile_bytes_q4_0(size_t k) { return k / 32 * sizeof(tile_q4_0); }
static size_t panel_bytes_q4_0(size_t k) { return k / 32 * sizeof(panel_q4_0); }

static void panel_pack_q4_0(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_q4_0 *p = panel;
        for (size_t i = 0; i < k; i += 32, p++) {
            __m256 inverse;
            p->d[c] = act_scale(column + i, 32, &inverse);
            const __m256i q = act_bytes_32(column + i, inverse);
            _mm256_storeu_si256((__m256i *)(void *)p->x[c], q);
            p->start[c] = lane_start(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1), 8);
        }
    }
}

static void tile_unpack_q4_0(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    const __m256i mask = _mm256_set1_epi8(15);
    tile_q4_0 *t = tile;
    for (size_t b = 0; b < k / 32; b++, t++) {
        for (int half = 0; half < HALVES; half++) {
            __m256i v[8];
            AVX2_UNROLL
            for (int r = 0; r < 8; r++) {
                const uint8_t *block =
                    tile_row(w, row_bytes, row_n, (size_t)(8 * half + r)) + b * sizeof(quant_q4_0);
                const __m128i nibbles = load_128(block + 2);
                t->d[8 * half + r] = half_at(block);
                v[r] = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(nibbles, 4), nibbles), mask);
            }
            store_rows(&t->q[0][0][0], v, half);
        }
    }
}

static void neuron_tiles_q4_0(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 2;
    uint8_t *block = tiles;
    for (size_t b = 0; b < k / 32; b++, block += sizeof(tile_q4_0), stored += 32 * row_bytes + 2 * out_n) {
        for (size_t g = 0; g < 8; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes + from / 2;
            prefetch_neurons(neurons, row_bytes, 4);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                __m128i low[4], high[4];
                load_nibbles(low, high, neurons + r / 2, row_bytes);
                store_interleaved(TILE_AT(tile_q4_0, block, tile_stride, r / ROWS)->q[g][0], low);
                store_interleaved(TILE_AT(tile_q4_0, block, tile_stride, r / ROWS + 1)->q[g][0], high);
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS)
            store_plane(TILE_AT(tile_q4_0, block, tile_stride, r / ROWS)->d,
                        stored + 32 * row_bytes + 2 * (from + r));
    }
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

static void tile_mul_q4_0(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q4_0 *t = tile;
    const panel_q4_0 *p = panel;
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 32; b++, t++, p++) {
        __m256i s[HALVES][COLS];
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++) s[0][c] = s[1][c] = broadcast_4(&p->start[c]);
        add_quads(s, &t->q[0][0][0], p->x[0], 32, 8, false);
        AVX2_UNROLL
        for (int i = 0; i < HALVES * COLS; i++)
            s[i / COLS][i % COLS] = _mm256_madd_epi16(s[i / COLS][i % COLS], _mm256_set1_epi16(1));
        add_scaled(sum, s, t->d, p->d);
    }
    store_sums(y, y_stride, sum);
}

/* ---- Q8_0: products of two bytes overflow 16 bits, so both sides are widened and meet in pairs ---- */

typedef struct tile_q8_0 { /* of one block of 32 */
    int16_t q[16][ROWS][2];
    float d[ROWS];
} tile_q8_0;

typedef struct panel_q8_0 {
    int16_t x[COLS][32];
    float d[COLS];
} panel_q8_0;

static size_t tile_bytes_q8_0(size_t k) { return k / 32 * sizeof(tile_q8_0); }
static size_t panel_bytes_q8_0(size_t k) { return k / 32 * sizeof(panel_q8_0); }

static void panel_pack_q8_0(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_q8_0 *p = panel;
        for (size_t i = 0; i < k; i += 32, p++) {
            __m256 inverse;
            p->d[c] = act_scale(column + i, 32, &inverse);
            const __m256i q = act_bytes_32(column + i, inverse);
            const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q));
            const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1));
            _mm256_storeu_si256((__m256i *)(void *)p->x[c], low);
            _mm256_storeu_si256((__m256i *)(void *)(p->x[c] + 16), high);
        }
    }
}

static void tile_unpack_q8_0(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    tile_q8_0 *t = tile;
    for (size_t b = 0; b < k / 32; b++, t++) {
        for (int part = 0; part < 2 * HALVES; part++) {
            const int half = part / 2, run = part % 2; /* 16 of the 32 weights */
            __m256i v[8];
            AVX2_UNROLL
            for (int r = 0; r < 8; r++) {
                const uint8_t *block =
                    tile_row(w, row_bytes, row_n, (size_t)(8 * half + r)) + b * sizeof(quant_q8_0);
                t->d[8 * half + r] = half_at(block);
                v[r] = _mm256_cvtepi8_epi16(load_128(block + 2 + 16 * run));
            }
            store_rows((uint8_t *)t->q[8 * run], v, half);
        }
    }
}

static void neuron_tiles_q8_0(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    uint8_t *block = tiles;
    for (size_t b = 0; b < k / 32; b++, block += sizeof(tile_q8_0), stored += 34 * out_n) {
        for (size_t i = 0; i < 16; i++) {
            const uint8_t *neurons = stored + 2 * i * out_n + from;
            prefetch_neurons(neurons, out_n, 2);
            for (size_t r = 0; r < row_n; r += ROWS) {
                tile_q8_0 *t = TILE_AT(tile_q8_0, block, tile_stride, r / ROWS);
                const __m128i n0 = load_128(neurons + r), n1 = load_128(neurons + out_n + r);
                _mm256_store_si256((__m256i *)(void *)t->q[i][0],
                                   _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(n0, n1)));
                _mm256_store_si256((__m256i *)(void *)t->q[i][8],
                                   _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(n0, n1)));
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS)
            store_plane(TILE_AT(tile_q8_0, block, tile_stride, r / ROWS)->d,
                        stored + 32 * out_n + 2 * (from + r));
    }
}

static void tile_mul_q8_0(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q8_0 *t = tile;
    const panel_q8_0 *p = panel;
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 32; b++, t++, p++) {
        __m256i s[HALVES][COLS];
        AVX2_UNROLL
        for (int i = 0; i < 16; i++) {
            const __m256i w0 = load_256(t->q[i][0]), w1 = load_256(t->q[i][8]);
            AVX2_UNROLL
            for (int c = 0; c < COLS; c++) {
                const __m256i x = broadcast_4(p->x[c] + 2 * i);
                const __m256i p0 = _mm256_madd_epi16(w0, x), p1 = _mm256_madd_epi16(w1, x);
                s[0][c] = opaque(i == 0 ? p0 : _mm256_add_epi32(s[0][c], p0));
                s[1][c] = opaque(i == 0 ? p1 : _mm256_add_epi32(s[1][c], p1));
            }
        }
        add_scaled(sum, s, t->d, p->d);
    }
    store_sums(y, y_stride, sum);
}

/* ---- Q4_K and Q6_K: sums of a block of 256 stay integers, weighted by the scales of its groups ---- */

/* total[h][c] += the sums of a group times its scales, twice per row: one for each 16-bit lane. */
AVX2_INLINE void add_group(__m256i total[HALVES][COLS], __m256i s[HALVES][COLS], const int16_t *scales) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) {
        const __m256i scale = load_256(scales + 16 * h);
        AVX2_UNROLL
        for (int c = 0; c < COLS; c++)
            total[h][c] = opaque(_mm256_add_epi32(total[h][c], _mm256_madd_epi16(s[h][c], scale)));
    }
}

AVX2_INLINE void zero_totals(__m256i total[HALVES][COLS]) {
    AVX2_UNROLL
    for (int i = 0; i < HALVES * COLS; i++) total[i / COLS][i % COLS] = _mm256_setzero_si256();
}

typedef struct tile_q4_k { /* of one block of 256 */
    uint8_t q[8][8][ROWS][4];
    int16_t scale[8][ROWS][2]; /* of a group, twice */
    int16_t min[4][ROWS][2];   /* of groups 2j and 2j + 1 */
    float d[ROWS], dmin[ROWS];
} tile_q4_k;

typedef struct panel_q4_k {
    int8_t x[8][COLS][32];
    int16_t sum[4][COLS][2]; /* of groups 2j and 2j + 1 */
    float d[COLS];
} panel_q4_k;

static size_t tile_bytes_q4_k(size_t k) { return k / 256 * sizeof(tile_q4_k); }
static size_t panel_bytes_q4_k(size_t k) { return k / 256 * sizeof(panel_q4_k); }

static void panel_pack_q4_k(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_q4_k *p = panel;
        for (size_t i = 0; i < k; i += 256, p++) {
            __m256 inverse;
            p->d[c] = act_scale(column + i, 256, &inverse);
            for (size_t j = 0; j < 8; j++) {
                const __m256i q = act_bytes_32(column + i + 32 * j, inverse);
                int32_t quads[8];
                _mm256_storeu_si256((__m256i *)(void *)p->x[j][c], q);
                _mm256_storeu_si256((__m256i *)(void *)quads, sum_quads(q));
                const int sum =
                    quads[0] + quads[1] + quads[2] + quads[3] + quads[4] + quads[5] + quads[6] + quads[7];
                p->sum[j / 2][c][j % 2] = (int16_t)sum;
            }
        }
    }
}

/* Scales and minima of row r of a tile. */
static void unpack_scales_q4_k(tile_q4_k *t, const uint8_t *block, size_t r) {
    uint8_t s[16]; /* scales 0-3, minima 0-3, scales 4-7, minima 4-7 */
    _mm_storeu_si128((__m128i *)(void *)s, q4_k_scales(block + offsetof(quant_q4_k, scales)));
    for (size_t j = 0; j < 8; j++) {
        const uint8_t *group = s + j / 4 * 8 + j % 4;
        t->scale[j][r][0] = t->scale[j][r][1] = group[0];
        t->min[j / 2][r][j % 2] = group[4];
    }
    t->d[r] = half_at(block);
    t->dmin[r] = half_at(block + offsetof(quant_q4_k, dmin));
}

static void tile_unpack_q4_k(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    const __m256i mask = _mm256_set1_epi8(15);
    tile_q4_k *t = tile;
    for (size_t b = 0; b < k / 256; b++, t++) {
        for (size_t r = 0; r < ROWS; r++)
            unpack_scales_q4_k(t, tile_row(w, row_bytes, row_n, r) + b * sizeof(quant_q4_k), r);
        for (int part = 0; part < 8 * HALVES; part++) {
            const int half = part / 8, j = part % 8;
            __m256i v[8];
            AVX2_UNROLL
            for (int r = 0; r < 8; r++) {
                const uint8_t *block =
                    tile_row(w, row_bytes, row_n, (size_t)(8 * half + r)) + b * sizeof(quant_q4_k);
                const __m256i nibbles = load_256(block + offsetof(quant_q4_k, q) + 32 * (j / 2));
                v[r] = _mm256_and_si256(j % 2 ? _mm256_srli_epi16(nibbles, 4) : nibbles, mask);
            }
            store_rows(&t->q[j][0][0][0], v, half);
        }
    }
}

/* Scales and minima of a tile's rows from planes, at row o. Six bits: see devices/quant.h. */
static void unpack_planes_q4_k(tile_q4_k *t, const uint8_t *planes, size_t out_n, size_t o) {
    const __m128i six = _mm_set1_epi8(63), four = _mm_set1_epi8(15), top = _mm_set1_epi8(0x30);
    __m256i scale[8][HALVES], min[8][HALVES];
    for (size_t j = 0; j < 4; j++) {
        const __m128i s = load_128(planes + (4 + j) * out_n + o), m = load_128(planes + (8 + j) * out_n + o);
        const __m128i both = load_128(planes + (12 + j) * out_n + o);
        const __m128i upper_s = _mm_and_si128(_mm_srli_epi16(s, 2), top);
        const __m128i upper_m = _mm_and_si128(_mm_srli_epi16(m, 2), top);
        const __m128i number[4] = {_mm_and_si128(s, six), _mm_and_si128(m, six),
                                   _mm_or_si128(_mm_and_si128(both, four), upper_s),
                                   _mm_or_si128(_mm_and_si128(_mm_srli_epi16(both, 4), four), upper_m)};
        widen_16(scale[j], number[0]);
        widen_16(min[j], number[1]);
        widen_16(scale[4 + j], number[2]);
        widen_16(min[4 + j], number[3]);
    }
    for (size_t j = 0; j < 8; j++) store_pairs(t->scale[j], scale[j], scale[j]);
    for (size_t j = 0; j < 8; j += 2) store_pairs(t->min[j / 2], min[j], min[j + 1]);
    store_plane(t->d, planes + 2 * o);
    store_plane(t->dmin, planes + 2 * out_n + 2 * o);
}

static void neuron_tiles_q4_k(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 2;
    uint8_t *block = tiles;
    for (size_t b = 0; b < k / 256; b++, block += sizeof(tile_q4_k)) {
        for (size_t g = 0; g < 64; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes + from / 2;
            prefetch_neurons(neurons, row_bytes, 4);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                __m128i low[4], high[4];
                load_nibbles(low, high, neurons + r / 2, row_bytes);
                tile_q4_k *t = TILE_AT(tile_q4_k, block, tile_stride, r / ROWS);
                store_interleaved(t->q[g / 8][g % 8][0], low);
                t = TILE_AT(tile_q4_k, block, tile_stride, r / ROWS + 1);
                store_interleaved(t->q[g / 8][g % 8][0], high);
            }
        }
        stored += 256 * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS)
            unpack_planes_q4_k(TILE_AT(tile_q4_k, block, tile_stride, r / ROWS), stored, out_n, from + r);
        stored += 16 * out_n;
    }
}

/* The minima's part of a block, to be subtracted: dmin * sum of minima times the groups' sums of activations.
 */
AVX2_INLINE __m256 min_part(const tile_q4_k *t, const panel_q4_k *p, int h, int c) {
    __m256i total = _mm256_setzero_si256();
    AVX2_UNROLL
    for (int j = 0; j < 4; j++)
        total =
            _mm256_add_epi32(total, _mm256_madd_epi16(load_256(t->min[j][8 * h]), broadcast_4(p->sum[j][c])));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(total), load_f32(t->dmin + 8 * h));
}

static void tile_mul_q4_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q4_k *t = tile;
    const panel_q4_k *p = panel;
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 256; b++, t++, p++) {
        __m256i s[HALVES][COLS], total[HALVES][COLS];
        zero_totals(total);
        for (int j = 0; j < 8; j++) {
            add_quads(s, &t->q[j][0][0][0], p->x[j][0], 32, 8, true);
            add_group(total, s, t->scale[j][0]);
        }
        AVX2_UNROLL
        for (int i = 0; i < HALVES * COLS; i++) {
            const int h = i / COLS, c = i % COLS;
            const __m256 scaled = _mm256_fmsub_ps(_mm256_cvtepi32_ps(total[h][c]), load_f32(t->d + 8 * h),
                                                  min_part(t, p, h, c));
            sum[h][c] = _mm256_fmadd_ps(scaled, _mm256_broadcast_ss(p->d + c), sum[h][c]);
        }
    }
    store_sums(y, y_stride, sum);
}

typedef struct tile_q6_k { /* of one block of 256 */
    uint8_t q[16][4][ROWS][4];
    int16_t scale[16][ROWS][2]; /* of a group of 16, twice */
    float d[ROWS];
} tile_q6_k;

typedef struct panel_q6_k {
    int8_t x[16][COLS][16];
    int32_t start[16][COLS]; /* lane_start */
    float d[COLS];
} panel_q6_k;

static size_t tile_bytes_q6_k(size_t k) { return k / 256 * sizeof(tile_q6_k); }
static size_t panel_bytes_q6_k(size_t k) { return k / 256 * sizeof(panel_q6_k); }

static void panel_pack_q6_k(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_q6_k *p = panel;
        for (size_t i = 0; i < k; i += 256, p++) {
            __m256 inverse;
            p->d[c] = act_scale(column + i, 256, &inverse);
            for (size_t j = 0; j < 16; j += 2) {
                const __m256i q = act_bytes_32(column + i + 16 * j, inverse);
                const __m128i group[2] = {_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1)};
                for (size_t g = 0; g < 2; g++) {
                    _mm_storeu_si128((__m128i *)(void *)p->x[j + g][c], group[g]);
                    p->start[j + g][c] = lane_start(group[g], _mm_setzero_si128(), 32);
                }
            }
        }
    }
}

static void tile_unpack_q6_k(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    tile_q6_k *t = tile;
    for (size_t b = 0; b < k / 256; b++, t++) {
        for (size_t r = 0; r < ROWS; r++) {
            const uint8_t *block = tile_row(w, row_bytes, row_n, r) + b * sizeof(quant_q6_k);
            const uint8_t *scales = block + offsetof(quant_q6_k, scales);
            for (int j = 0; j < 16; j++) t->scale[j][r][0] = t->scale[j][r][1] = (int8_t)scales[j];
            t->d[r] = half_at(block + offsetof(quant_q6_k, d));
        }
        for (int part = 0; part < 8 * HALVES; part++) {
            const int half = part / 8, j = part % 8; /* 32 of the 256 weights */
            __m256i v[8];
            AVX2_UNROLL
            for (int r = 0; r < 8; r++) {
                const uint8_t *block =
                    tile_row(w, row_bytes, row_n, (size_t)(8 * half + r)) + b * sizeof(quant_q6_k);
                const __m256i low = load_256(block + offsetof(quant_q6_k, ql) + j / 4 * 64 + j % 2 * 32);
                const __m256i high = load_256(block + offsetof(quant_q6_k, qh) + j / 4 * 32);
                v[r] = q6_k_quants(low, high, j % 4);
            }
            store_rows(&t->q[2 * j][0][0][0], v, half);
        }
    }
}

/* Adds the upper two bits of a neuron to its nibbles of a run: devices/neurons.h. */
AVX2_INLINE void add_bits_q6_k(__m128i *low, __m128i *high, const uint8_t *p) {
    long long bits;
    memcpy(&bits, p, sizeof bits);
    const __m256i shifted = _mm256_srlv_epi64(_mm256_set1_epi64x(bits), _mm256_setr_epi64x(0, 2, 4, 6));
    const __m256i upper = _mm256_slli_epi16(_mm256_and_si256(shifted, _mm256_set1_epi8(3)), 4);
    *low = _mm_or_si128(*low, _mm256_castsi256_si128(upper));
    *high = _mm_or_si128(*high, _mm256_extracti128_si256(upper, 1));
}

static void neuron_tiles_q6_k(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 4 * 3;
    uint8_t *block = tiles;
    for (size_t b = 0; b < k / 256; b++, block += sizeof(tile_q6_k)) {
        for (size_t g = 0; g < 64; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes;
            prefetch_neurons(neurons + from / 2, row_bytes, 4);
            prefetch_neurons(neurons + out_n / 2 + from / 4, row_bytes, 4);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                __m128i low[4], high[4];
                load_nibbles(low, high, neurons + (from + r) / 2, row_bytes);
                for (size_t i = 0; i < 4; i++)
                    add_bits_q6_k(&low[i], &high[i], neurons + i * row_bytes + out_n / 2 + (from + r) / 4);
                tile_q6_k *t = TILE_AT(tile_q6_k, block, tile_stride, r / ROWS);
                store_interleaved(t->q[g / 4][g % 4][0], low);
                t = TILE_AT(tile_q6_k, block, tile_stride, r / ROWS + 1);
                store_interleaved(t->q[g / 4][g % 4][0], high);
            }
        }
        stored += 256 * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS) {
            tile_q6_k *t = TILE_AT(tile_q6_k, block, tile_stride, r / ROWS);
            for (size_t j = 0; j < 16; j++) {
                __m256i scale[HALVES];
                widen_signed_16(scale, load_128(stored + j * out_n + from + r));
                store_pairs(t->scale[j], scale, scale);
            }
            store_plane(t->d, stored + 16 * out_n + 2 * (from + r));
        }
        stored += 18 * out_n;
    }
}

static void tile_mul_q6_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q6_k *t = tile;
    const panel_q6_k *p = panel;
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / 256; b++, t++, p++) {
        __m256i s[HALVES][COLS], total[HALVES][COLS];
        zero_totals(total);
        for (int j = 0; j < 16; j++) {
            AVX2_UNROLL
            for (int c = 0; c < COLS; c++) s[0][c] = s[1][c] = broadcast_4(&p->start[j][c]);
            add_quads(s, &t->q[j][0][0][0], p->x[j][0], 16, 4, false);
            add_group(total, s, t->scale[j][0]);
        }
        add_scaled(sum, total, t->d, p->d);
    }
    store_sums(y, y_stride, sum);
}

/* ---- Tiles of interleaved rows (devices/lanes.h), which stand side by side already ---- */

/* The nibbles of a word of all rows, to two quads. */
AVX2_INLINE void split_words(uint8_t *low, uint8_t *high, const uint8_t *words) {
    const __m256i mask = _mm256_set1_epi8(15);
    AVX2_UNROLL
    for (size_t h = 0; h < HALVES; h++) {
        const __m256i v = load_256(words + 32 * h);
        _mm256_store_si256((__m256i *)(void *)(low + 32 * h), _mm256_and_si256(v, mask));
        _mm256_store_si256((__m256i *)(void *)(high + 32 * h),
                           _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
    }
}

/* The bytes of a word of all rows, widened, to two pairs. */
AVX2_INLINE void widen_words(int16_t (*first)[2], int16_t (*second)[2], const uint8_t *words) {
    AVX2_UNROLL
    for (size_t h = 0; h < HALVES; h++) {
        const __m256 a = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(load_128(words + 32 * h)));
        const __m256 b = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(load_128(words + 32 * h + 16)));
        const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
        const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
        _mm256_store_si256((__m256i *)(void *)first[8 * h], _mm256_permute4x64_epi64(even, 0xd8));
        _mm256_store_si256((__m256i *)(void *)second[8 * h], _mm256_permute4x64_epi64(odd, 0xd8));
    }
}

static void lanes_q4_0(tile_q4_0 *t, const uint8_t *w) {
    store_plane(t->d, w);
    for (size_t g = 0; g < 4; g++) split_words(t->q[g][0], t->q[4 + g][0], w + ROWS * (2 + 4 * g));
}

static void lanes_q8_0(tile_q8_0 *t, const uint8_t *w) {
    store_plane(t->d, w);
    for (size_t g = 0; g < 8; g++) widen_words(t->q[2 * g], t->q[2 * g + 1], w + ROWS * (2 + 4 * g));
}

static void lanes_q4_k(tile_q4_k *t, const uint8_t *w) {
    for (size_t r = 0; r < ROWS; r++) {
        uint8_t head[offsetof(quant_q4_k, q)];
        for (size_t i = 0; i < sizeof head; i += 4) memcpy(head + i, w + ROWS * i + 4 * r, 4);
        unpack_scales_q4_k(t, head, r);
    }
    for (size_t g = 0; g < 32; g++) {
        const size_t j = g / 8 * 2, quad = g % 8;
        split_words(t->q[j][quad][0], t->q[j + 1][quad][0], w + ROWS * (offsetof(quant_q4_k, q) + 4 * g));
    }
}

#define TILE_OF_LANES(type, block_n)                                                                         \
    static void tile_of_lanes_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n,           \
                                     size_t k) {                                                             \
        (void)row_bytes;                                                                                     \
        (void)row_n; /* always all */                                                                        \
        tile_##type *t = tile;                                                                               \
        for (size_t b = 0; b < k / (block_n); b++) lanes_##type(t + b, w + ROWS * b * sizeof(quant_##type)); \
    }
TILE_OF_LANES(q4_0, 32)
TILE_OF_LANES(q8_0, 32)
TILE_OF_LANES(q4_k, 256)
TILE_OF_RESTORED(q6_k, 256, 0, offsetof(quant_q6_k, d))

/* ---- The slots ---- */

#define SET_SLOTS(m, type)                                                                                   \
    do {                                                                                                     \
        (m)->tile_rows = ROWS;                                                                               \
        (m)->panel_cols = COLS;                                                                              \
        (m)->panel_bytes = panel_bytes_##type;                                                               \
        (m)->panel_pack = panel_pack_##type;                                                                 \
        (m)->tile_bytes = tile_bytes_##type;                                                                 \
        (m)->tile_unpack = tile_unpack_##type;                                                               \
        (m)->tile_mul = tile_mul_##type;                                                                     \
        (m)->neuron_tiles = neuron_tiles_##type;                                                             \
    } while (0)

void cpu_avx2_gemm_init(cpu_kernels *k) {
    SET_SLOTS(&k->matmul[GGUF_Q4_0], q4_0);
    SET_SLOTS(&k->matmul[GGUF_Q8_0], q8_0);
    SET_SLOTS(&k->matmul[GGUF_Q4_K], q4_k);
    SET_SLOTS(&k->matmul[GGUF_Q6_K], q6_k);
    set_tiles_of_lanes(k, GGUF_Q4_0, tile_of_lanes_q4_0);
    set_tiles_of_lanes(k, GGUF_Q8_0, tile_of_lanes_q8_0);
    set_tiles_of_lanes(k, GGUF_Q4_K, tile_of_lanes_q4_k);
    set_tiles_of_lanes(k, GGUF_Q6_K, tile_of_lanes_q6_k);
}
