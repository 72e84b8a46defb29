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
#include "devices/cpu/avx512_tiles.h"

#include "devices/cpu/avx2_blocks.h"

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

/* Tiles of rows that stand alone, and of interleaved ones. */
#define UNPACK(type)                                                                                         \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        const tile_rows rows = rows_of(w, row_bytes, row_n);                                                 \
        unpack_##type(tile, &rows, k);                                                                       \
    }                                                                                                        \
    static void tile_of_lanes_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n,           \
                                     size_t k) {                                                             \
        (void)row_bytes;                                                                                     \
        (void)row_n; /* always all */                                                                        \
        const tile_rows rows = rows_of_lanes(w);                                                             \
        unpack_##type(tile, &rows, k);                                                                       \
    }

static size_t tile_bytes_32(size_t k) { return k / BLOCK * sizeof(tile_32); }
static size_t panel_bytes_32(size_t k) { return k / BLOCK * sizeof(panel_32); }

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
                          const int offset) {
    for (size_t i = 0; i < k; i += BLOCK, p++) {
        const __m256i sum = quantise_columns(p, x + i, x_stride, col_n);
        _mm256_storeu_si256((void *)p->start, _mm256_mullo_epi32(sum, _mm256_set1_epi32(-offset)));
    }
}

#define PANEL_PACK_32(type, offset)                                                                          \
    static void panel_pack_##type(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {    \
        panel_pack_32(panel, x, x_stride, col_n, k, offset);                                                 \
    }
PANEL_PACK_32(q4_0, 8)
PANEL_PACK_32(q8_0, 128) /* and IQ4_NL */
PANEL_PACK_32(q5_0, 16)
PANEL_PACK_32(mxfp4, 12)

INLINE void unpack_q4_0(void *tile, const tile_rows *rows, size_t k) {
    tile_32 *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, t++) {
        const size_t offset = b * Q4_0_BYTES;
        if (b % 3 == 0) prefetch_rows(rows, offset); /* every 54 bytes */
        __m512i q[4];
        load_quads(q, rows, offset + 2);
        UNROLL for (size_t g = 0; g < 4; g++) {
            _mm512_store_si512(t->w[g], low_nibbles(q[g]));
            _mm512_store_si512(t->w[4 + g], high_nibbles(q[g]));
        }
        _mm512_store_ps(t->d, load_scales(rows, offset));
    }
}
UNPACK(q4_0)

INLINE void unpack_q8_0(void *tile, const tile_rows *rows, size_t k) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    tile_32 *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, t++) {
        const size_t offset = b * Q8_0_BYTES;
        prefetch_rows(rows, offset);
        __m512i q[8];
        load_quads(q, rows, offset + 2);
        load_quads(q + 4, rows, offset + 18);
        UNROLL for (size_t g = 0; g < 8; g++) _mm512_store_si512(t->w[g], _mm512_xor_si512(q[g], flip));
        _mm512_store_ps(t->d, load_scales(rows, offset));
    }
}
UNPACK(q8_0)

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

INLINE void unpack_q4_k(void *tile, const tile_rows *rows, size_t k) {
    tile_q4_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, t++) {
        const size_t offset = b * Q4_K_BYTES;
        __m512i head[4];
        load_quads(head, rows, offset);
        unpack_scales_q4_k(t, head);
        for (size_t i = 0; i < 8; i++) { /* 16 bytes: half of groups 2j (low nibbles) and 2j + 1 (high) */
            const size_t j = i / 2, first_quad = i % 2 * 4, from = offset + 16 + 16 * i;
            if (i % 3 == 0) prefetch_rows(rows, from);
            __m512i q[4];
            load_quads(q, rows, from);
            UNROLL for (size_t g = 0; g < 4; g++) {
                _mm512_store_si512(t->w[2 * j][first_quad + g], low_nibbles(q[g]));
                _mm512_store_si512(t->w[2 * j + 1][first_quad + g], high_nibbles(q[g]));
            }
        }
    }
}
UNPACK(q4_k)

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

/* Adds a block of K weights to sum: w in `group_n` groups with scales d, minima in pairs of groups. */
INLINE void multiply_block(__m512 sum[COLS], const uint8_t w[][64], const float d[][ROWS],
                           const int16_t min[][ROWS][2], const float *dmin, const int8_t *x,
                           const int16_t x_sum[][COLS][2], const float *dx, const size_t group_n) {
    const size_t quad_n = SUPERBLOCK / 4 / group_n;
    __m512i s[COLS];
    __m512 block[COLS]; /* the block's sums, to be scaled by the activations' d */
    UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_setzero_si512();
    UNROLL for (size_t i = 0; i < group_n / 2; i++) {
        const __m512i pair = _mm512_load_si512(min[i]);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            s[c] = _mm512_dpwssd_epi32(s[c], pair, _mm512_set1_epi32(read_i32(x_sum[i][c])));
        }
    }
    const __m512 minus = _mm512_load_ps(dmin);
    UNROLL for (size_t c = 0; c < COLS; c++) {
        block[c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(s[c]), minus, _mm512_setzero_ps());
    }
    for (size_t j = 0; j < group_n; j++) {
        UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_setzero_si512();
        multiply_quads(s, w + j * quad_n, x + j * quad_n * 4 * COLS, quad_n * 4, quad_n);
        const __m512 scale = _mm512_load_ps(d[j]);
        UNROLL for (size_t c = 0; c < COLS; c++) block[c] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[c]), scale, block[c]);
    }
    UNROLL for (size_t c = 0; c < COLS; c++) sum[c] =
        _mm512_fmadd_ps(block[c], _mm512_set1_ps(dx[c]), sum[c]);
}

#define TILE_MUL_K(form, groups)                                                                             \
    static void tile_mul_##form(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {  \
        const tile_##form *w = tile;                                                                         \
        const panel_##form *x = panel;                                                                       \
        __m512 sum[COLS];                                                                                    \
        UNROLL for (size_t c = 0; c < COLS; c++) sum[c] = _mm512_setzero_ps();                               \
        for (size_t b = 0; b < k / SUPERBLOCK; b++, w++, x++)                                                \
            multiply_block(sum, w->w[0], w->d, w->min, w->dmin, x->x[0][0], x->sum, x->d, groups);           \
        store_sums(y, y_stride, sum);                                                                        \
    }
TILE_MUL_K(q4_k, 8)

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

/* Signed byte j of each lane. */
INLINE __m512i signed_of_lanes(__m512i v, const unsigned j) {
    return _mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * j), 24);
}

/* scale: the 16 signed bytes of each row, in fours. */
INLINE void unpack_scales_q6_k(tile_q6_k *t, const __m512i scale[4], __m512 d) {
    UNROLL for (unsigned j = 0; j < 16; j++) { /* signed byte j % 4 of each lane */
        const __m512i s = signed_of_lanes(scale[j / 4], j % 4);
        _mm512_store_ps(t->d[j], _mm512_mul_ps(_mm512_cvtepi32_ps(s), d));
    }
}

INLINE void unpack_q6_k(void *tile, const tile_rows *rows, size_t k) {
    const __m512i upper = _mm512_set1_epi8(0x30);
    tile_q6_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, t++) {
        const size_t offset = b * Q6_K_BYTES;
        __m512i scale[4];
        load_quads(scale, rows, offset + 192);
        unpack_scales_q6_k(t, scale, load_scales(rows, offset + 208));
        for (size_t i = 0; i < 4; i++) { /* 16 bytes of upper bits: groups j, j + 2, j + 4, j + 6 */
            const size_t j = i / 2 * 8 + i % 2, low = offset + i / 2 * 64 + i % 2 * 16;
            prefetch_rows(rows, offset + 54 * i); /* 54: 210 bytes in four steps of less than a line */
            __m512i first[4], second[4], bits[4];
            load_quads(first, rows, low);
            load_quads(second, rows, low + 32);
            load_quads(bits, rows, offset + 128 + 16 * i);
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
UNPACK(q6_k)

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

/* ---- Other block types: their values as unsigned bytes by the forms of avx2_blocks.h
 * ------------------------ */

/* A run of 32 weights of each row, `offset` bytes into it being their block, as eight registers. */
INLINE void unpack_run(uint8_t w[][64], const tile_rows *rows, size_t offset, size_t run, const fast_form f) {
    _Alignas(CPU_ALIGN) uint8_t value[ROWS][BLOCK];
    UNROLL for (size_t r = 0; r < ROWS; r++) {
        const __m256i v = unsigned_values(f, f.quants(rows->row[r] + offset, run));
        _mm256_store_si256((void *)value[r], v);
    }
    const tile_rows values = rows_of(value[0], BLOCK, ROWS);
    __m512i q[8];
    load_quads(q, &values, 0);
    load_quads(q + 4, &values, 16);
    UNROLL for (size_t g = 0; g < 8; g++) _mm512_store_si512(w[g], q[g]);
}

/* Four neurons for a run of outputs, which go to one tile and the next. */
INLINE void unpack_neurons(uint8_t *first, uint8_t *second, const uint8_t *neurons, size_t row_bytes,
                           size_t run, size_t out_n, const fast_form f) {
    __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
    UNROLL for (size_t i = 0; i < 4; i++) {
        const __m256i v = unsigned_values(f, neuron_quants(f, neurons + i * row_bytes, run, out_n));
        low = _mm512_mask_broadcast_i32x4(low, (__mmask16)(15 << 4 * i), _mm256_castsi256_si128(v));
        high = _mm512_mask_broadcast_i32x4(high, (__mmask16)(15 << 4 * i), _mm256_extracti128_si256(v, 1));
    }
    _mm512_store_si512(first, interleave(low));
    _mm512_store_si512(second, interleave(high));
}

/* Quads of one block of neurons; `quads` of the first tile is where that of its first four neurons goes. */
INLINE void neuron_quads(uint8_t *quads, size_t tile_stride, const uint8_t *stored, size_t out_n, size_t from,
                         size_t row_n, const fast_form f) {
    const size_t row_bytes = out_n / 8 * (f.low_bits + f.high_bits);
    for (size_t g = 0; g < f.run_n * BLOCK / 4; g++, quads += 64) {
        const uint8_t *neurons = stored + 4 * g * row_bytes;
        prefetch_neurons(neurons + from / 8 * f.low_bits, row_bytes);
        if (f.high_bits)
            prefetch_neurons(neurons + out_n / 8 * f.low_bits + from / 8 * f.high_bits, row_bytes);
        for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
            uint8_t *to = quads + r / ROWS * tile_stride;
            unpack_neurons(to, to + tile_stride, neurons, row_bytes, (from + r) / NEURONS_RUN, out_n, f);
        }
    }
}

/* ---- Blocks of 32: tile_32, and with an m to add this one ---- */

typedef struct tile_32_m {
    tile_32 block;
    float m[ROWS];
} tile_32_m;

typedef struct panel_32_m {
    panel_32 block;
    float sum[COLS]; /* d times the sum of x */
} panel_32_m;

static size_t tile_bytes_32_m(size_t k) { return k / BLOCK * sizeof(tile_32_m); }
static size_t panel_bytes_32_m(size_t k) { return k / BLOCK * sizeof(panel_32_m); }

static void panel_pack_32_m(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_32_m *p = panel;
    for (size_t i = 0; i < k; i += BLOCK, p++) {
        const __m256 sum = _mm256_cvtepi32_ps(quantise_columns(&p->block, x + i, x_stride, col_n));
        _mm256_storeu_ps(p->sum, _mm256_mul_ps(_mm256_loadu_ps(p->block.d), sum));
    }
}

static void tile_mul_32_m(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_32_m *w = tile;
    const panel_32_m *x = panel;
    __m512 sum[COLS];
    UNROLL for (size_t c = 0; c < COLS; c++) sum[c] = _mm512_setzero_ps();
    for (size_t b = 0; b < k / BLOCK; b++, w++, x++) {
        __m512i s[COLS];
        UNROLL for (size_t c = 0; c < COLS; c++) s[c] = _mm512_setzero_si512();
        multiply_quads(s, w->block.w, x->block.x[0], BLOCK, 8);
        const __m512 d = _mm512_load_ps(w->block.d), m = _mm512_load_ps(w->m);
        UNROLL for (size_t c = 0; c < COLS; c++) {
            const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(s[c]), d);
            sum[c] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x->block.d[c]), sum[c]);
            sum[c] = _mm512_fmadd_ps(m, _mm512_set1_ps(x->sum[c]), sum[c]);
        }
    }
    store_sums(y, y_stride, sum);
}

INLINE void store_halves(float *to, __m256 low, __m256 high) {
    _mm256_store_ps(to, low);
    _mm256_store_ps(to + 8, high);
}

/* Tiles of a block stand tile_bytes apart, be they with m or without: `t` is of the form that f asks for. */
INLINE void unpack_32(tile_32 *t, const tile_rows *rows, size_t offset, const fast_form f) {
    unpack_run(t->w, rows, offset, 0, f);
    if (f.power) {
        UNROLL for (size_t r = 0; r < ROWS; r++) t->d[r] =
            _mm256_cvtss_f32(block_d(f, rows->row[r] + offset));
    } else {
        _mm512_store_ps(t->d, load_scales(rows, offset + f.d_at));
    }
    if (f.has_min) _mm512_store_ps(((tile_32_m *)t)->m, load_scales(rows, offset + f.dmin_at));
}

INLINE void tile_unpack_32(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                           const fast_form f) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    const size_t tile_bytes = f.has_min ? sizeof(tile_32_m) : sizeof(tile_32);
    for (size_t b = 0; b < k / BLOCK; b++, tile += tile_bytes) {
        if (b % 2 == 0) prefetch_rows(&rows, b * f.block_bytes); /* every 34 to 48 bytes */
        unpack_32((void *)tile, &rows, b * f.block_bytes, f);
    }
}

INLINE void neuron_tiles_32(uint8_t *tile, size_t tile_stride, const uint8_t *stored, size_t out_n,
                            size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t tile_bytes = f.has_min ? sizeof(tile_32_m) : sizeof(tile_32);
    for (size_t b = 0; b < k / BLOCK; b++, tile += tile_bytes, stored += f.block_bytes * out_n) {
        const uint8_t *planes = stored + (f.block_bytes - f.header_bytes) * out_n;
        neuron_quads(((tile_32 *)(void *)tile)->w[0], tile_stride, stored, out_n, from, row_n, f);
        for (size_t o = from; o < from + row_n; o += ROWS) {
            tile_32_m *t = (void *)(tile + (o - from) / ROWS * tile_stride);
            store_halves(t->block.d, plane_d(f, planes, out_n, o), plane_d(f, planes, out_n, o + 8));
            if (f.has_min)
                store_halves(t->m, plane_dmin(f, planes, out_n, o), plane_dmin(f, planes, out_n, o + 8));
        }
    }
}

/* ---- Blocks of 256: tile_q4_k, or with groups of 16 this one. An offset is a minimum, offset times the
 * scale. ---- */

typedef struct tile_k {                       /* a block of 256 */
    _Alignas(CPU_ALIGN) uint8_t w[16][4][64]; /* [group of 16][quad][row * 4] */
    float d[16][ROWS];
    int16_t min[8][ROWS][2];
    float dmin[ROWS];
} tile_k;

typedef struct panel_k {
    _Alignas(CPU_ALIGN) int8_t x[16][COLS][16];
    int16_t sum[8][COLS][2];
    float d[COLS];
} panel_k;

static size_t tile_bytes_k(size_t k) { return k / SUPERBLOCK * sizeof(tile_k); }
static size_t panel_bytes_k(size_t k) { return k / SUPERBLOCK * sizeof(panel_k); }

static void panel_pack_k(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_k *p = panel;
    for (size_t i = 0; i < k; i += SUPERBLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            int8_t q[SUPERBLOCK];
            p->d[c] = quantise(q, x + (c < col_n ? c : col_n - 1) * x_stride + i, SUPERBLOCK);
            for (size_t j = 0; j < 16; j++) {
                memcpy(p->x[j][c], q + 16 * j, 16);
                p->sum[j / 2][c][j % 2] = (int16_t)sum_i8(q + 16 * j, 16);
            }
        }
    }
}

TILE_MUL_K(k, 16)

/* Where a block's scales go. */
typedef struct scale_places {
    float (*d)[ROWS];
    int16_t (*min)[ROWS][2];
    float *dmin;
} scale_places;

INLINE scale_places places_of(void *tile, const fast_form f) {
    tile_k *fine = tile;
    tile_q4_k *t = tile;
    if (f.part_n == 16) return (scale_places){fine->d, fine->min, fine->dmin};
    return (scale_places){t->d, t->min, t->dmin};
}

/* Two parts' numbers in 32-bit lanes, j even: scales times d, and minima. */
INLINE void store_parts(scale_places to, size_t j, const __m512i scale[2], const __m512i min[2], __m512 d,
                        const fast_form f) {
    UNROLL for (size_t i = 0; i < 2; i++)
        _mm512_store_ps(to.d[j + i], _mm512_mul_ps(_mm512_cvtepi32_ps(scale[i]), d));
    const __m512i offset = _mm512_set1_epi32(f.offset);
    const __m512i first = f.has_min ? min[0] : _mm512_mullo_epi32(scale[0], offset);
    const __m512i second = f.has_min ? min[1] : _mm512_mullo_epi32(scale[1], offset);
    const __m512i low = _mm512_and_si512(first, _mm512_set1_epi32(0xffff));
    _mm512_store_si512(to.min[j / 2], _mm512_or_si512(low, _mm512_slli_epi32(second, 16)));
}

INLINE void unpack_parts(void *tile, const tile_rows *rows, size_t offset, const fast_form f) {
    _Alignas(CPU_ALIGN) uint8_t scales[ROWS][16], mins[ROWS][16];
    UNROLL for (size_t r = 0; r < ROWS; r++)
        f.numbers((__m128i *)scales[r], (__m128i *)mins[r], rows->row[r] + offset);
    const tile_rows scale_rows = rows_of(scales[0], 16, ROWS), min_rows = rows_of(mins[0], 16, ROWS);
    const scale_places to = places_of(tile, f);
    const __m512 d = load_scales(rows, offset + f.d_at);
    const unsigned step = (unsigned)f.part_n / 16; /* bytes for one part */
    __m512i scale[4], min[4];
    load_quads(scale, &scale_rows, 0);
    load_quads(min, &min_rows, 0);
    UNROLL for (unsigned j = 0; j < 16; j += 2 * step) {
        const unsigned next = j + step;
        const __m512i s[2] = {signed_of_lanes(scale[j / 4], j % 4),
                              signed_of_lanes(scale[next / 4], next % 4)};
        const __m512i m[2] = {signed_of_lanes(min[j / 4], j % 4), signed_of_lanes(min[next / 4], next % 4)};
        store_parts(to, j / step, s, m, d, f);
    }
    _mm512_store_ps(to.dmin, f.has_min ? load_scales(rows, offset + f.dmin_at) : d);
}

INLINE void tile_unpack_256(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                            const fast_form f) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    const size_t tile_bytes = f.part_n == 16 ? sizeof(tile_k) : sizeof(tile_q4_k);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += tile_bytes) {
        const size_t offset = b * f.block_bytes;
        for (size_t line = 0; line < f.block_bytes; line += LINE) prefetch_rows(&rows, offset + line);
        unpack_parts(tile, &rows, offset, f);
        for (size_t j = 0; j < 8; j++) /* both forms begin with their weights */
            unpack_run((uint8_t(*)[64])tile + 8 * j, &rows, offset, j, f);
    }
}

INLINE void neuron_parts(void *tile, const uint8_t *planes, size_t out_n, size_t o, const fast_form f) {
    const scale_places to = places_of(tile, f);
    _Alignas(CPU_ALIGN) float d[ROWS];
    store_halves(d, plane_d(f, planes, out_n, o), plane_d(f, planes, out_n, o + 8));
    for (size_t j = 0; j < SUPERBLOCK / f.part_n; j += 2) {
        __m512i scale[2], min[2];
        UNROLL for (size_t i = 0; i < 2; i++) {
            __m128i s, m;
            f.plane(&s, &m, planes, out_n, o, j + i, true);
            scale[i] = _mm512_cvtepi8_epi32(s);
            min[i] = _mm512_cvtepi8_epi32(m);
        }
        store_parts(to, j, scale, min, _mm512_load_ps(d), f);
    }
    if (f.has_min)
        store_halves(to.dmin, plane_dmin(f, planes, out_n, o), plane_dmin(f, planes, out_n, o + 8));
    else
        _mm512_store_ps(to.dmin, _mm512_load_ps(d));
}

INLINE void neuron_tiles_256(uint8_t *tile, size_t tile_stride, const uint8_t *stored, size_t out_n,
                             size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t tile_bytes = f.part_n == 16 ? sizeof(tile_k) : sizeof(tile_q4_k);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += tile_bytes, stored += f.block_bytes * out_n) {
        const uint8_t *planes = stored + (f.block_bytes - f.header_bytes) * out_n;
        neuron_quads(tile, tile_stride, stored, out_n, from, row_n, f);
        for (size_t r = 0; r < row_n; r += ROWS)
            neuron_parts(tile + r / ROWS * tile_stride, planes, out_n, from + r, f);
    }
}

#define BLOCK_TILES(type, TYPE, n)                                                                           \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        tile_unpack_##n(tile, w, row_bytes, row_n, k, FAST_##TYPE);                                          \
    }                                                                                                        \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles_##n(tiles, tile_stride, stored, out_n, from, row_n, k, FAST_##TYPE);                    \
    }
BLOCK_TILES(q4_1, Q4_1, 32)
BLOCK_TILES(q5_0, Q5_0, 32)
BLOCK_TILES(q5_1, Q5_1, 32)
BLOCK_TILES(iq4_nl, IQ4_NL, 32)
BLOCK_TILES(mxfp4, MXFP4, 32)
BLOCK_TILES(q2_k, Q2_K, 256)
BLOCK_TILES(q3_k, Q3_K, 256)
BLOCK_TILES(q5_k, Q5_K, 256)
BLOCK_TILES(iq4_xs, IQ4_XS, 256)

/* Products of interleaved rows differ in where tiles come from. */
static void set_lanes(cpu_kernels *k, gguf_type type,
                      void (*tile_unpack)(void *, const uint8_t *, size_t, size_t, size_t)) {
    cpu_matmul m = k->matmul[type];
    m.tile_unpack = tile_unpack;
    m.neuron_tiles = NULL;
    set(&k->lanes[type], m);
}

void avx512_gemm(cpu_kernels *k) {
    set(&k->matmul[GGUF_Q4_0], TILES(ROWS, 32, q4_0, q4_0));
    set(&k->matmul[GGUF_Q8_0], TILES(ROWS, 32, q8_0, q8_0));
    set(&k->matmul[GGUF_Q4_K], TILES(ROWS, q4_k, q4_k, q4_k));
    set(&k->matmul[GGUF_Q6_K], TILES(ROWS, q6_k, q6_k, q6_k));
    set(&k->matmul[GGUF_Q4_1], TILES(ROWS, 32_m, 32_m, q4_1));
    set(&k->matmul[GGUF_Q5_0], TILES(ROWS, 32, q5_0, q5_0));
    set(&k->matmul[GGUF_Q5_1], TILES(ROWS, 32_m, 32_m, q5_1));
    set(&k->matmul[GGUF_IQ4_NL], TILES(ROWS, 32, q8_0, iq4_nl));
    set(&k->matmul[GGUF_MXFP4], TILES(ROWS, 32, mxfp4, mxfp4));
    set(&k->matmul[GGUF_Q2_K], TILES(ROWS, k, k, q2_k));
    set(&k->matmul[GGUF_Q3_K], TILES(ROWS, k, k, q3_k));
    set(&k->matmul[GGUF_Q5_K], TILES(ROWS, q4_k, q4_k, q5_k));
    set(&k->matmul[GGUF_IQ4_XS], TILES(ROWS, q4_k, q4_k, iq4_xs));
    set_lanes(k, GGUF_Q4_0, tile_of_lanes_q4_0);
    set_lanes(k, GGUF_Q8_0, tile_of_lanes_q8_0);
    set_lanes(k, GGUF_Q4_K, tile_of_lanes_q4_k);
    set_lanes(k, GGUF_Q6_K, tile_of_lanes_q6_k);
}
