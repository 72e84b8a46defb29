/* avx512_gemm.c - weights times many activation rows (prefill).
 *
 * A tile holds 16 rows of weights with one row per 32-bit lane: groups of four consecutive weights of all 16
 * rows fill a register. A panel holds eight activation rows (columns of the product); four consecutive
 * activations of one of them are broadcast to all lanes, and one vpdpbusd adds 64 products. So 16 x 8 sums
 * stand in eight registers, weights are loaded once per eight columns, and nothing is ever summed across
 * lanes. Unpacking a tile is paid once for all panels. Rows and columns beyond those given repeat the last
 * one: any values will do there.
 *
 * Weights are unsigned (w + offset) as in avx512_gemv.c; panels hold the start values that undo the offset.
 */
#include "devices/cpu/avx512.h"

#include "devices/neurons.h"

enum { ROWS = 16, FLOAT_ROWS = 32, COLS = 8 };
enum { NEURONS_AHEAD = 32 };

/* The rows of a tile; prefetches reach for the next tile, since callers walk tiles in order. */
typedef struct tile_rows {
    const uint8_t *row[ROWS];
    size_t ahead;
} tile_rows;

INLINE tile_rows rows_of(const uint8_t *w, size_t row_bytes, size_t row_n) {
    tile_rows t = {.ahead = ROWS * row_bytes};
    for (size_t r = 0; r < ROWS; r++) t.row[r] = w + (r < row_n ? r : row_n - 1) * row_bytes;
    return t;
}

INLINE void prefetch_rows(const tile_rows *t, size_t offset) {
    UNROLL for (size_t r = 0; r < ROWS; r++) prefetch(t->row[r] + offset, t->ahead);
}

/* 16 bytes of each row at `offset`: t[g] gets the g-th four of them, a row per lane. */
INLINE void load_quads(__m512i t[4], const tile_rows *w, size_t offset) {
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
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    t[0] = _mm512_unpacklo_epi64(a, c);
    t[1] = _mm512_unpackhi_epi64(a, c);
    t[2] = _mm512_unpacklo_epi64(b, d);
    t[3] = _mm512_unpackhi_epi64(b, d);
}

/* One half-precision scale of each row. */
INLINE __m512 load_scales(const tile_rows *w, size_t offset) {
    _Alignas(32) uint16_t halves[ROWS];
    UNROLL for (size_t r = 0; r < ROWS; r++) memcpy(&halves[r], w->row[r] + offset, sizeof halves[r]);
    return _mm512_cvtph_ps(_mm256_load_si256((const void *)halves));
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

/* 16 halves of a plane. */
INLINE __m512 load_plane(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }

/* Asks for the same outputs of the four neurons that are some rows ahead. */
INLINE void prefetch_neurons(const uint8_t *p, size_t row_bytes) {
    UNROLL for (size_t i = 0; i < 4; i++) prefetch(p, (NEURONS_AHEAD + i) * row_bytes);
}

/* s[c] += quad_n registers of weights times the activations of column c, which start at x + c * x_stride. */
INLINE void multiply_quads(__m512i s[COLS], const uint8_t w[][64], const int8_t *x, const size_t x_stride,
                           const size_t quad_n) {
    UNROLL for (size_t g = 0; g < quad_n; g++) {
        const __m512i quad = _mm512_load_si512(w[g]);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            s[c] = _mm512_dpbusd_epi32(s[c], quad, _mm512_set1_epi32(read_i32(x + c * x_stride + 4 * g)));
        }
    }
}

INLINE void store_sums(float *y, size_t y_stride, const __m512 sum[COLS]) {
    UNROLL for (size_t c = 0; c < COLS; c++) _mm512_storeu_ps(y + c * y_stride, sum[c]);
}

/* ---- Q4_0 and Q8_0: per block of 32, one of these each ------------------------------------------------ */

typedef struct tile_32 {
    _Alignas(CPU_ALIGN) uint8_t w[8][64]; /* [quad][row * 4], plus 8 (Q4_0) or 128 (Q8_0) */
    float d[ROWS];
} tile_32;

typedef struct panel_32 {
    _Alignas(CPU_ALIGN) int8_t x[COLS][BLOCK];
    int32_t start[COLS]; /* -8 or -128 times the sum of x */
    float d[COLS];
} panel_32;

static size_t tile_bytes_32(size_t k) { return k / BLOCK * sizeof(tile_32); }
static size_t panel_bytes_32(size_t k) { return k / BLOCK * sizeof(panel_32); }

INLINE void panel_pack_32(panel_32 *p, const float *x, size_t x_stride, size_t col_n, size_t k,
                          const int offset) {
    for (size_t i = 0; i < k; i += BLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            p->d[c] = quantise(p->x[c], x + (c < col_n ? c : col_n - 1) * x_stride + i, BLOCK);
            p->start[c] = -offset * sum_i8(p->x[c], BLOCK);
        }
    }
}

static void panel_pack_q4_0(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_pack_32(panel, x, x_stride, col_n, k, 8);
}
static void panel_pack_q8_0(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_pack_32(panel, x, x_stride, col_n, k, 128);
}

static void tile_unpack_q4_0(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    tile_32 *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, t++) {
        const size_t offset = b * Q4_0_BYTES;
        if (b % 3 == 0) prefetch_rows(&rows, offset); /* every 54 bytes */
        __m512i q[4];
        load_quads(q, &rows, offset + 2);
        UNROLL for (size_t g = 0; g < 4; g++) {
            _mm512_store_si512(t->w[g], low_nibbles(q[g]));
            _mm512_store_si512(t->w[4 + g], high_nibbles(q[g]));
        }
        _mm512_store_ps(t->d, load_scales(&rows, offset));
    }
}

static void tile_unpack_q8_0(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    tile_32 *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, t++) {
        const size_t offset = b * Q8_0_BYTES;
        prefetch_rows(&rows, offset);
        __m512i q[8];
        load_quads(q, &rows, offset + 2);
        load_quads(q + 4, &rows, offset + 18);
        UNROLL for (size_t g = 0; g < 8; g++) _mm512_store_si512(t->w[g], _mm512_xor_si512(q[g], flip));
        _mm512_store_ps(t->d, load_scales(&rows, offset));
    }
}

static void neuron_tiles_q8_0(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    uint8_t *tile = tiles;
    for (size_t b = 0; b < k / BLOCK; b++, tile += sizeof(tile_32), stored += BLOCK * out_n + 2 * out_n) {
        for (size_t g = 0; g < 8; g++) {
            const uint8_t *neurons = stored + 4 * g * out_n + from;
            prefetch_neurons(neurons, out_n);
            for (size_t r = 0; r < row_n; r += ROWS) {
                tile_32 *t = (void *)(tile + r / ROWS * tile_stride);
                const __m512i q = interleave(load_neurons(neurons + r, out_n));
                _mm512_store_si512(t->w[g], _mm512_xor_si512(q, flip));
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS) {
            tile_32 *t = (void *)(tile + r / ROWS * tile_stride);
            _mm512_store_ps(t->d, load_plane(stored + BLOCK * out_n + 2 * (from + r)));
        }
    }
}

static void neuron_tiles_q4_0(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 2;
    uint8_t *tile = tiles;
    for (size_t b = 0; b < k / BLOCK; b++, tile += sizeof(tile_32), stored += BLOCK * row_bytes + 2 * out_n) {
        for (size_t g = 0; g < 8; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes + from / 2;
            prefetch_neurons(neurons, row_bytes);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) { /* a run: two tiles */
                const __m512i q = interleave(load_neurons(neurons + r / 2, row_bytes));
                tile_32 *t = (void *)(tile + r / ROWS * tile_stride);
                _mm512_store_si512(t->w[g], low_nibbles(q));
                t = (void *)(tile + (r / ROWS + 1) * tile_stride);
                _mm512_store_si512(t->w[g], high_nibbles(q));
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS) {
            tile_32 *t = (void *)(tile + r / ROWS * tile_stride);
            _mm512_store_ps(t->d, load_plane(stored + BLOCK * row_bytes + 2 * (from + r)));
        }
    }
}

static void tile_mul_32(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_32 *w = tile;
    const panel_32 *x = panel;
    __m512 sum[COLS];
    UNROLL for (size_t c = 0; c < COLS; c++) sum[c] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / BLOCK; b++, w++, x++) {
        __m512i s[COLS];
        UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_set1_epi32(x->start[c]);
        multiply_quads(s, w->w, x->x[0], BLOCK, 8);
        const __m512 d = _mm512_load_ps(w->d);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(s[c]), d);
            sum[c] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x->d[c]), sum[c]);
        }
    }
    store_sums(y, y_stride, sum);
}

/* ---- Q4_K --------------------------------------------------------------------------------------------- */

typedef struct tile_q4_k {                   /* a block of 256 */
    _Alignas(CPU_ALIGN) uint8_t w[8][8][64]; /* [group][quad][row * 4] */
    float d[8][ROWS];                        /* scales of the groups */
    int16_t min[4][ROWS][2];                 /* mins of groups 2i and 2i + 1, to be scaled by dmin */
    float dmin[ROWS];
} tile_q4_k;

typedef struct panel_q4_k {
    _Alignas(CPU_ALIGN) int8_t x[8][COLS][BLOCK];
    int16_t sum[4][COLS][2]; /* sums of x in groups 2i and 2i + 1 */
    float d[COLS];
} panel_q4_k;

static size_t tile_bytes_q4_k(size_t k) { return k / SUPERBLOCK * sizeof(tile_q4_k); }
static size_t panel_bytes_q4_k(size_t k) { return k / SUPERBLOCK * sizeof(panel_q4_k); }

static void panel_pack_q4_k(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_q4_k *p = panel;
    for (size_t i = 0; i < k; i += SUPERBLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            int8_t q[SUPERBLOCK];
            p->d[c] = quantise(q, x + (c < col_n ? c : col_n - 1) * x_stride + i, SUPERBLOCK);
            for (size_t j = 0; j < 8; j++) {
                memcpy(p->x[j][c], q + j * BLOCK, BLOCK);
                p->sum[j / 2][c][j % 2] = (int16_t)sum_i8(q + j * BLOCK, BLOCK);
            }
        }
    }
}

/* Byte j of each lane. */
INLINE __m512i byte_of_lanes(__m512i v, const unsigned j) {
    return _mm512_and_si512(_mm512_srli_epi32(v, 8 * j), _mm512_set1_epi32(0xff));
}

/* The 16 bytes d, dmin, scales of each row. As dwords s0, s1, s2 of the scales: the bytes of s0 and s1 hold
 * scales and mins of groups 0-3 in six bits and the upper two bits of groups 4-7; s2 has the lower four. */
INLINE void unpack_scales_q4_k(tile_q4_k *t, const __m512i head[4]) {
    const __m512i six = _mm512_set1_epi8(0x3f), upper = _mm512_set1_epi8(0x30);
    const __m512 d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(head[0]));
    const __m512 dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(head[0], 16)));
    const __m512i scale[2] = {
        _mm512_and_si512(head[1], six),
        _mm512_or_si512(low_nibbles(head[3]), _mm512_and_si512(_mm512_srli_epi32(head[1], 2), upper)),
    };
    const __m512i min[2] = {
        _mm512_and_si512(head[2], six),
        _mm512_or_si512(high_nibbles(head[3]), _mm512_and_si512(_mm512_srli_epi32(head[2], 2), upper)),
    };
    UNROLL for (unsigned j = 0; j < 8; j++) {
        const __m512i s = byte_of_lanes(scale[j / 4], j % 4);
        _mm512_store_ps(t->d[j], _mm512_mul_ps(_mm512_cvtepi32_ps(s), d));
    }
    UNROLL for (unsigned j = 0; j < 8; j += 2) {
        const __m512i even = byte_of_lanes(min[j / 4], j % 4), odd = byte_of_lanes(min[j / 4], j % 4 + 1);
        _mm512_store_si512(t->min[j / 2], _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
    _mm512_store_ps(t->dmin, dmin);
}

static void tile_unpack_q4_k(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    tile_q4_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, t++) {
        const size_t offset = b * Q4_K_BYTES;
        __m512i head[4];
        load_quads(head, &rows, offset);
        unpack_scales_q4_k(t, head);
        for (size_t i = 0; i < 8; i++) { /* 16 bytes: half of groups 2j (low nibbles) and 2j + 1 (high) */
            const size_t j = i / 2, first_quad = i % 2 * 4, from = offset + 16 + 16 * i;
            if (i % 3 == 0) prefetch_rows(&rows, from);
            __m512i q[4];
            load_quads(q, &rows, from);
            UNROLL for (size_t g = 0; g < 4; g++) {
                _mm512_store_si512(t->w[2 * j][first_quad + g], low_nibbles(q[g]));
                _mm512_store_si512(t->w[2 * j + 1][first_quad + g], high_nibbles(q[g]));
            }
        }
    }
}

/* The same 16 bytes of rows whose fields stand in planes. */
INLINE void load_head_q4_k(__m512i head[4], const uint8_t *planes, size_t out_n, size_t o) {
    const __m256i d = _mm256_loadu_si256((const void *)(planes + 2 * o));
    const __m256i dmin = _mm256_loadu_si256((const void *)(planes + 2 * out_n + 2 * o));
    head[0] = _mm512_or_si512(_mm512_cvtepu16_epi32(d), _mm512_slli_epi32(_mm512_cvtepu16_epi32(dmin), 16));
    UNROLL for (size_t i = 0; i < 3; i++) {
        head[1 + i] = interleave(load_neurons(planes + (4 + 4 * i) * out_n + o, out_n));
    }
}

static void neuron_tiles_q4_k(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 2;
    uint8_t *tile = tiles;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += sizeof(tile_q4_k)) {
        for (size_t g = 0; g < SUPERBLOCK / 4; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes + from / 2;
            prefetch_neurons(neurons, row_bytes);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                const __m512i q = interleave(load_neurons(neurons + r / 2, row_bytes));
                tile_q4_k *t = (void *)(tile + r / ROWS * tile_stride);
                _mm512_store_si512(t->w[g / 8][g % 8], low_nibbles(q));
                t = (void *)(tile + (r / ROWS + 1) * tile_stride);
                _mm512_store_si512(t->w[g / 8][g % 8], high_nibbles(q));
            }
        }
        stored += SUPERBLOCK * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS) {
            __m512i head[4];
            load_head_q4_k(head, stored, out_n, from + r);
            unpack_scales_q4_k((void *)(tile + r / ROWS * tile_stride), head);
        }
        stored += 16 * out_n;
    }
}

static void tile_mul_q4_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q4_k *w = tile;
    const panel_q4_k *x = panel;
    __m512 sum[COLS];
    UNROLL for (size_t c = 0; c < COLS; c++) sum[c] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w++, x++) {
        __m512i s[COLS];
        __m512 block[COLS]; /* the block's sums, to be scaled by the activations' d */
        UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_setzero_si512();
        UNROLL for (size_t i = 0; i < 4; i++) {
            const __m512i min = _mm512_load_si512(w->min[i]);
            UNROLL for (size_t c = 0; c < COLS; c++) {
                s[c] = _mm512_dpwssd_epi32(s[c], min, _mm512_set1_epi32(read_i32(x->sum[i][c])));
            }
        }
        const __m512 dmin = _mm512_load_ps(w->dmin);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            block[c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(s[c]), dmin, _mm512_setzero_ps());
        }
        for (size_t j = 0; j < 8; j++) {
            UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_setzero_si512();
            multiply_quads(s, w->w[j], x->x[j][0], BLOCK, 8);
            const __m512 d = _mm512_load_ps(w->d[j]);
            UNROLL for (size_t c = 0; c < COLS; c++) block[c] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[c]), d, block[c]);
        }
        UNROLL for (size_t c = 0; c < COLS; c++) sum[c] =
            _mm512_fmadd_ps(block[c], _mm512_set1_ps(x->d[c]), sum[c]);
    }
    store_sums(y, y_stride, sum);
}

/* ---- Q6_K --------------------------------------------------------------------------------------------- */

typedef struct tile_q6_k {                    /* a block of 256 */
    _Alignas(CPU_ALIGN) uint8_t w[16][4][64]; /* [group of 16][quad][row * 4], plus 32 */
    float d[16][ROWS];                        /* scales of the groups */
} tile_q6_k;

typedef struct panel_q6_k {
    _Alignas(CPU_ALIGN) int8_t x[16][COLS][16];
    int32_t start[16][COLS]; /* -32 times the sum of x in the group */
    float d[COLS];
} panel_q6_k;

static size_t tile_bytes_q6_k(size_t k) { return k / SUPERBLOCK * sizeof(tile_q6_k); }
static size_t panel_bytes_q6_k(size_t k) { return k / SUPERBLOCK * sizeof(panel_q6_k); }

static void panel_pack_q6_k(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_q6_k *p = panel;
    for (size_t i = 0; i < k; i += SUPERBLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            int8_t q[SUPERBLOCK];
            p->d[c] = quantise(q, x + (c < col_n ? c : col_n - 1) * x_stride + i, SUPERBLOCK);
            for (size_t j = 0; j < 16; j++) {
                memcpy(p->x[j][c], q + 16 * j, 16);
                p->start[j][c] = -32 * sum_i8(q + 16 * j, 16);
            }
        }
    }
}

/* scale: the 16 signed bytes of each row, in fours. */
INLINE void unpack_scales_q6_k(tile_q6_k *t, const __m512i scale[4], __m512 d) {
    UNROLL for (unsigned j = 0; j < 16; j++) { /* signed byte j % 4 of each lane */
        const __m512i s = _mm512_srai_epi32(_mm512_slli_epi32(scale[j / 4], 24 - 8 * (j % 4)), 24);
        _mm512_store_ps(t->d[j], _mm512_mul_ps(_mm512_cvtepi32_ps(s), d));
    }
}

static void tile_unpack_q6_k(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    const __m512i upper = _mm512_set1_epi8(0x30);
    tile_q6_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, t++) {
        const size_t offset = b * Q6_K_BYTES;
        __m512i scale[4];
        load_quads(scale, &rows, offset + 192);
        unpack_scales_q6_k(t, scale, load_scales(&rows, offset + 208));
        for (size_t i = 0; i < 4; i++) { /* 16 bytes of upper bits: groups j, j + 2, j + 4, j + 6 */
            const size_t j = i / 2 * 8 + i % 2, low = offset + i / 2 * 64 + i % 2 * 16;
            prefetch_rows(&rows, offset + 54 * i); /* 54: 210 bytes in four steps of less than a line */
            __m512i first[4], second[4], bits[4];
            load_quads(first, &rows, low);
            load_quads(second, &rows, low + 32);
            load_quads(bits, &rows, offset + 128 + 16 * i);
            UNROLL for (size_t g = 0; g < 4; g++) {
                const __m512i high[4] = {_mm512_slli_epi16(bits[g], 4), _mm512_slli_epi16(bits[g], 2),
                                         bits[g], _mm512_srli_epi16(bits[g], 2)};
                const __m512i nibbles[4] = {low_nibbles(first[g]), low_nibbles(second[g]),
                                            high_nibbles(first[g]), high_nibbles(second[g])};
                UNROLL for (size_t n = 0; n < 4; n++) {
                    _mm512_store_si512(t->w[j + 2 * n][g],
                                       _mm512_or_si512(nibbles[n], _mm512_and_si512(high[n], upper)));
                }
            }
        }
    }
}

/* Upper bits of four neurons for a run of outputs: their 8 bytes twice in each quarter. */
INLINE __m512i load_bits_q6_k(const uint8_t *p, size_t row_bytes) {
    __m128i bits[4];
    UNROLL for (size_t i = 0; i < 4; i++) {
        bits[i] = _mm_set1_epi64x((long long)read_u64(p + i * row_bytes));
    }
    __m512i z = _mm512_castsi128_si512(bits[0]);
    z = _mm512_mask_broadcast_i32x4(z, 0x00f0, bits[1]);
    z = _mm512_mask_broadcast_i32x4(z, 0x0f00, bits[2]);
    return _mm512_mask_broadcast_i32x4(z, 0xf000, bits[3]);
}

/* Outputs 0-15 (half 0) or 16-31 of a run: nibbles of four neurons, and their upper bits, which stand at
 * bits 4h and 4h + 1 for the first eight outputs and at the next two for the others. */
INLINE __m512i quads_q6_k(__m512i nibbles, __m512i bits, const unsigned half) {
    const __m512i shift = _mm512_broadcast_i32x4(_mm_set_epi64x(4 * half + 2, 4 * half));
    const __m512i high = _mm512_and_si512(_mm512_srlv_epi64(bits, shift), _mm512_set1_epi8(3));
    return interleave(_mm512_or_si512(nibbles, _mm512_slli_epi16(high, 4)));
}

static void neuron_tiles_q6_k(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 4 * 3;
    uint8_t *tile = tiles;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += sizeof(tile_q6_k)) {
        for (size_t g = 0; g < SUPERBLOCK / 4; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes;
            prefetch_neurons(neurons + from / 2, row_bytes);
            prefetch_neurons(neurons + out_n / 2 + from / 4, row_bytes);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                const __m512i q = load_neurons(neurons + (from + r) / 2, row_bytes);
                const __m512i bits = load_bits_q6_k(neurons + out_n / 2 + (from + r) / 4, row_bytes);
                tile_q6_k *t = (void *)(tile + r / ROWS * tile_stride);
                _mm512_store_si512(t->w[g / 4][g % 4], quads_q6_k(low_nibbles(q), bits, 0));
                t = (void *)(tile + (r / ROWS + 1) * tile_stride);
                _mm512_store_si512(t->w[g / 4][g % 4], quads_q6_k(high_nibbles(q), bits, 1));
            }
        }
        stored += SUPERBLOCK * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS) {
            __m512i scale[4];
            UNROLL for (size_t i = 0; i < 4; i++) {
                scale[i] = interleave(load_neurons(stored + 4 * i * out_n + from + r, out_n));
            }
            unpack_scales_q6_k((void *)(tile + r / ROWS * tile_stride), scale,
                               load_plane(stored + 16 * out_n + 2 * (from + r)));
        }
        stored += 18 * out_n;
    }
}

static void tile_mul_q6_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q6_k *w = tile;
    const panel_q6_k *x = panel;
    __m512 sum[COLS];
    UNROLL for (size_t c = 0; c < COLS; c++) sum[c] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w++, x++) {
        __m512 block[COLS];
        UNROLL for (size_t c = 0; c < COLS; c++) block[c] = _mm512_setzero_ps();
        for (size_t j = 0; j < 16; j++) {
            __m512i s[COLS];
            UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_set1_epi32(x->start[j][c]);
            multiply_quads(s, w->w[j], x->x[j][0], 16, 4);
            const __m512 d = _mm512_load_ps(w->d[j]);
            UNROLL for (size_t c = 0; c < COLS; c++) block[c] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[c]), d, block[c]);
        }
        UNROLL for (size_t c = 0; c < COLS; c++) sum[c] =
            _mm512_fmadd_ps(block[c], _mm512_set1_ps(x->d[c]), sum[c]);
    }
    store_sums(y, y_stride, sum);
}

/* ---- Floats: tile [k][32 rows], panel [k][8 columns], both F32 ----------------------------------------- */

static size_t tile_bytes_float(size_t k) { return k * FLOAT_ROWS * sizeof(float); }
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
            float *t = tile + i * FLOAT_ROWS + half * ROWS;
            for (size_t j = 0; j < n; j++, t += FLOAT_ROWS) _mm512_store_ps(t, v[j]);
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
    for (size_t i = 0; i < k; i++, w += row_bytes, tiles += FLOAT_ROWS * sizeof(float)) {
        for (size_t r = 0; r < row_n; r += FLOAT_ROWS) {
            const uint8_t *p = w + r * bytes;
            float *t = (void *)(tiles + r / FLOAT_ROWS * tile_stride);
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

static void tile_mul_float(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const float *w = tile, *x = panel;
    __m512 low[COLS], high[COLS]; /* rows 0-15 and 16-31 */
    UNROLL for (size_t c = 0; c < COLS; c++) low[c] = high[c] = _mm512_setzero_ps();
    for (size_t i = 0; i < k; i++, w += FLOAT_ROWS, x += COLS) {
        const __m512 w0 = _mm512_load_ps(w), w1 = _mm512_load_ps(w + ROWS);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512 v = _mm512_set1_ps(x[c]);
            low[c] = _mm512_fmadd_ps(w0, v, low[c]);
            high[c] = _mm512_fmadd_ps(w1, v, high[c]);
        }
    }
    store_sums(y, y_stride, low);
    store_sums(y + ROWS, y_stride, high);
}

/* Sets the slots of many activation rows, keeping those of one. */
static void set(cpu_matmul *m, cpu_matmul gemm) {
    gemm.act_bytes = m->act_bytes;
    gemm.act_pack = m->act_pack;
    gemm.gemv = m->gemv;
    *m = gemm;
}

#define TILES(rows, form, pack, unpack)                                                                      \
    (cpu_matmul) {                                                                                           \
        .tile_rows = rows, .panel_cols = COLS, .panel_bytes = panel_bytes_##form,                            \
        .panel_pack = panel_pack_##pack, .tile_bytes = tile_bytes_##form,                                    \
        .tile_unpack = tile_unpack_##unpack, .tile_mul = tile_mul_##form,                                    \
        .neuron_tiles = neuron_tiles_##unpack                                                                \
    }

void avx512_gemm(cpu_kernels *k) {
    set(&k->matmul[GGUF_Q4_0], TILES(ROWS, 32, q4_0, q4_0));
    set(&k->matmul[GGUF_Q8_0], TILES(ROWS, 32, q8_0, q8_0));
    set(&k->matmul[GGUF_Q4_K], TILES(ROWS, q4_k, q4_k, q4_k));
    set(&k->matmul[GGUF_Q6_K], TILES(ROWS, q6_k, q6_k, q6_k));
    set(&k->matmul[GGUF_F32], TILES(FLOAT_ROWS, float, float, f32));
    set(&k->matmul[GGUF_F16], TILES(FLOAT_ROWS, float, float, f16));
    set(&k->matmul[GGUF_BF16], TILES(FLOAT_ROWS, float, float, bf16));
}
