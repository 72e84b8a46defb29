/* avx512_gemm_blocks.c - weights times many activation rows (prefill): block types that are made into
 * unsigned bytes by the forms of avx2_blocks.h. Tiles and panels are as in avx512_gemm.c.
 */
#include "devices/cpu/avx512_gemm.h"

#include "devices/cpu/avx2_blocks.h"

PANEL_PACK_32(q5_0, 16, true)
PANEL_PACK_32(mxfp4, 12, false) /* whose scales are powers of two */

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

/* Four neurons for a run of outputs, which go to one half of a tile and the other. */
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

/* Quads of one block of neurons, which halves of half_bytes hold; `quads` of the first tile is where that of
 * its first four neurons goes. */
INLINE void neuron_quads(uint8_t *quads, size_t tile_stride, size_t half_bytes, const uint8_t *stored,
                         size_t out_n, size_t from, size_t row_n, const fast_form f) {
    const size_t row_bytes = out_n / 8 * (f.low_bits + f.high_bits);
    for (size_t g = 0; g < f.run_n * BLOCK / 4; g++, quads += 64) {
        const uint8_t *neurons = stored + 4 * g * row_bytes;
        prefetch_neurons(neurons + from / 8 * f.low_bits, row_bytes);
        if (f.high_bits)
            prefetch_neurons(neurons + out_n / 8 * f.low_bits + from / 8 * f.high_bits, row_bytes);
        for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
            uint8_t *to = half_at(quads, tile_stride, r, half_bytes);
            unpack_neurons(to, to + half_bytes, neurons, row_bytes, (from + r) / NEURONS_RUN, out_n, f);
        }
    }
}

/* ---- Blocks of 32: tile_32, and with an m to add this one ---- */

static void tile_mul_mxfp4(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    multiply_32(y, y_stride, tile, panel, k, false);
}

typedef struct tile_32_m {
    tile_32 block;
    float m[ROWS];
} tile_32_m;

typedef struct panel_32_m {
    panel_32 block;
    float sum[COLS]; /* d times the sum of x */
} panel_32_m;

static size_t tile_bytes_32_m(size_t k) { return k / BLOCK * HALVES * sizeof(tile_32_m); }
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
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / BLOCK; b++, w += HALVES, x++) {
        __m512i s[HALVES][COLS];
        UNROLL for (size_t c = 0; c < COLS; c++) s[0][c] = s[1][c] = _mm512_set1_epi32(LIFT_BITS);
        multiply_quads(s, w->block.w, sizeof *w / LINE, x->block.x[0], BLOCK, 8);
        UNROLL for (size_t h = 0; h < HALVES; h++) {
            const __m512 d = _mm512_load_ps(w[h].block.d), m = _mm512_load_ps(w[h].m);
            UNROLL for (size_t c = 0; c < COLS; c++) {
                sum[h][c] =
                    _mm512_fmadd_ps(scaled(s[h][c], d, true), _mm512_set1_ps(x->block.d[c]), sum[h][c]);
                sum[h][c] = _mm512_fmadd_ps(m, _mm512_set1_ps(x->sum[c]), sum[h][c]);
            }
        }
    }
    store_sums(y, y_stride, sum);
}

INLINE void store_halves(float *to, __m256 low, __m256 high) {
    _mm256_store_ps(to, low);
    _mm256_store_ps(to + 8, high);
}

/* A half of a block, be it with m or without: `t` is of the form that f asks for. */
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

/* A half. */
INLINE size_t half_bytes_32(const fast_form f) { return f.has_min ? sizeof(tile_32_m) : sizeof(tile_32); }
INLINE void unpack_half_32(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                           const fast_form f) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    for (size_t b = 0; b < k / BLOCK; b++, tile += HALVES * half_bytes_32(f)) {
        if (b % 2 == 0) prefetch_rows(&rows, b * f.block_bytes); /* every 34 to 48 bytes */
        unpack_32((void *)tile, &rows, b * f.block_bytes, f);
    }
}

INLINE void neuron_tiles_32(uint8_t *tile, size_t tile_stride, const uint8_t *stored, size_t out_n,
                            size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t half_bytes = half_bytes_32(f);
    for (size_t b = 0; b < k / BLOCK; b++, tile += HALVES * half_bytes, stored += f.block_bytes * out_n) {
        const uint8_t *planes = stored + (f.block_bytes - f.header_bytes) * out_n;
        neuron_quads(((tile_32 *)(void *)tile)->w[0], tile_stride, half_bytes, stored, out_n, from, row_n, f);
        for (size_t o = from; o < from + row_n; o += ROWS) {
            tile_32_m *t = half_at(tile, tile_stride, o - from, half_bytes);
            store_halves(t->block.d, plane_d(f, planes, out_n, o), plane_d(f, planes, out_n, o + 8));
            if (f.has_min)
                store_halves(t->m, plane_dmin(f, planes, out_n, o), plane_dmin(f, planes, out_n, o + 8));
        }
    }
}

/* ---- Blocks of 256: tile_q4_k, or with groups of 16 this one. An offset is a minimum, offset times the
 * scale. ---- */

/* Quants of at most three bits. Activations are counted from -128: so the sum of a group is not negative and
 * below 2^15, 16 * 7 * 255, two of them fit a lane, and one operation scales and adds both. */
typedef struct tile_k {                       /* a block of 256 */
    _Alignas(CPU_ALIGN) uint8_t w[16][4][64]; /* [group of 16][quad][row * 4] */
    int16_t scale[8][ROWS][2];                /* of groups 2i and 2i + 1 */
    int16_t min[8][ROWS][2];
    int32_t start[ROWS]; /* what takes the 128 off */
    float d[ROWS], dmin[ROWS];
} tile_k;

enum { BIAS = 128 };
typedef struct panel_k {
    _Alignas(CPU_ALIGN) int8_t x[16][COLS][16]; /* plus BIAS, unsigned */
    int16_t sum[8][COLS][2];                    /* without it */
    float d[COLS];
} panel_k;

static size_t tile_bytes_k(size_t k) { return k / SUPERBLOCK * HALVES * sizeof(tile_k); }
static size_t panel_bytes_k(size_t k) { return k / SUPERBLOCK * sizeof(panel_k); }

PANEL_PACK_K(k, 16, BIAS)

/* Once weights and scales are there. */
static void set_start(tile_k *t) {
    __m512i total = _mm512_setzero_si512();
    for (size_t i = 0; i < 8; i++) {
        __m512i s = _mm512_setzero_si512();
        for (size_t g = 0; g < 8; g++) { /* of the second group, then of the first one */
            if (g == 4) s = _mm512_slli_epi32(s, 16);
            s = _mm512_dpbusd_epi32(s, _mm512_load_si512(t->w[2 * i + (g < 4)][g % 4]), _mm512_set1_epi8(1));
        }
        total = _mm512_dpwssd_epi32(total, s, _mm512_load_si512(t->scale[i]));
    }
    _mm512_store_si512(t->start, _mm512_mullo_epi32(total, _mm512_set1_epi32(-BIAS)));
}

static void tile_mul_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_k *w = tile;
    const panel_k *x = panel;
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w += HALVES, x++) {
        __m512 block[HALVES][COLS];
        subtract_minima(block, w->min, w->dmin, sizeof *w, x->sum, 16);
        __m512i total[HALVES][COLS];
        UNROLL for (size_t c = 0; c < COLS; c++) {
            total[0][c] = _mm512_load_si512(w[0].start);
            total[1][c] = _mm512_load_si512(w[1].start);
        }
        for (size_t i = 0; i < 8; i++) {
            __m512i s[HALVES][COLS];
            zero_integers(s);
            multiply_bytes(s, w->w[2 * i + 1], sizeof *w / LINE, x->x[2 * i + 1][0], 16, 4, true);
            UNROLL for (size_t c = 0; c < COLS; c++) {
                s[0][c] = _mm512_slli_epi32(s[0][c], 16);
                s[1][c] = _mm512_slli_epi32(s[1][c], 16);
            }
            multiply_bytes(s, w->w[2 * i], sizeof *w / LINE, x->x[2 * i][0], 16, 4, true);
            const __m512i scale[HALVES] = {_mm512_load_si512(w[0].scale[i]),
                                           _mm512_load_si512(w[1].scale[i])};
            UNROLL for (size_t c = 0; c < COLS; c++) {
                total[0][c] = _mm512_dpwssd_epi32(total[0][c], s[0][c], scale[0]);
                total[1][c] = _mm512_dpwssd_epi32(total[1][c], s[1][c], scale[1]);
            }
        }
        add_scaled(block, total, w->d, sizeof *w);
        add_block(sum, block, x->d);
    }
    store_sums(y, y_stride, sum);
}

/* Where a block's scales go: times d, or as they are. */
typedef struct scale_places {
    float (*scaled)[ROWS];
    int16_t (*scale)[ROWS][2];
    int16_t (*min)[ROWS][2];
    float *dmin;
} scale_places;

INLINE scale_places places_of(void *tile, const fast_form f) {
    tile_k *fine = tile;
    tile_q4_k *t = tile;
    if (f.part_n == 16) return (scale_places){NULL, fine->scale, fine->min, fine->dmin};
    return (scale_places){t->d, NULL, t->min, t->dmin};
}

/* Two numbers of each lane as 16 bits. */
INLINE __m512i pair_words(__m512i first, __m512i second) {
    return _mm512_or_si512(_mm512_and_si512(first, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(second, 16));
}

/* Two parts' numbers in 32-bit lanes, j even. */
INLINE void store_parts(scale_places to, size_t j, const __m512i scale[2], const __m512i min[2], __m512 d,
                        const fast_form f) {
    if (f.part_n == 16) {
        _mm512_store_si512(to.scale[j / 2], pair_words(scale[0], scale[1]));
    } else {
        UNROLL for (size_t i = 0; i < 2; i++)
            _mm512_store_ps(to.scaled[j + i], _mm512_mul_ps(_mm512_cvtepi32_ps(scale[i]), d));
    }
    const __m512i offset = _mm512_set1_epi32(f.offset);
    _mm512_store_si512(to.min[j / 2], f.has_min ? pair_words(min[0], min[1])
                                                : pair_words(_mm512_mullo_epi32(scale[0], offset),
                                                             _mm512_mullo_epi32(scale[1], offset)));
}

/* What is left once a block has its weights and parts; d is that of its rows. */
INLINE void finish_block(void *tile, __m512 d, const fast_form f) {
    if (f.part_n != 16) return;
    tile_k *t = tile;
    _mm512_store_ps(t->d, d);
    set_start(t);
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
    finish_block(tile, d, f);
}

/* A half. */
INLINE size_t half_bytes_256(const fast_form f) {
    return f.part_n == 16 ? sizeof(tile_k) : sizeof(tile_q4_k);
}
INLINE void unpack_half_256(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                            const fast_form f) {
    const tile_rows rows = rows_of(w, row_bytes, row_n);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += HALVES * half_bytes_256(f)) {
        const size_t offset = b * f.block_bytes;
        for (size_t line = 0; line < f.block_bytes; line += LINE) prefetch_rows(&rows, offset + line);
        for (size_t j = 0; j < 8; j++) /* both forms begin with their weights */
            unpack_run((uint8_t(*)[64])tile + 8 * j, &rows, offset, j, f);
        unpack_parts(tile, &rows, offset, f);
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
    finish_block(tile, _mm512_load_ps(d), f);
}

INLINE void neuron_tiles_256(uint8_t *tile, size_t tile_stride, const uint8_t *stored, size_t out_n,
                             size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t half_bytes = half_bytes_256(f);
    for (size_t b = 0; b < k / SUPERBLOCK;
         b++, tile += HALVES * half_bytes, stored += f.block_bytes * out_n) {
        const uint8_t *planes = stored + (f.block_bytes - f.header_bytes) * out_n;
        neuron_quads(tile, tile_stride, half_bytes, stored, out_n, from, row_n, f);
        for (size_t r = 0; r < row_n; r += ROWS)
            neuron_parts(half_at(tile, tile_stride, r, half_bytes), planes, out_n, from + r, f);
    }
}

/* ---- Interleaved rows: one block of each at a time stands alone again ---- */

enum { BLOCK_BYTES_MAX = 192 };

/* 16 bytes of each row, four words from offset `at` on. */
INLINE void store_words(uint8_t rows[ROWS][BLOCK_BYTES_MAX], const uint8_t *lanes, size_t at) {
    _Alignas(CPU_ALIGN) uint8_t z[4][4][16]; /* quarter j of z[i] is row 4j + i */
    __m512i t[4], q[4];
    UNROLL for (size_t g = 0; g < 4; g++) t[g] = _mm512_loadu_si512(lanes + ROWS * (at + 4 * g));
    transpose_quarters(q, t);
    UNROLL for (size_t i = 0; i < 4; i++) _mm512_store_si512(z[i], q[i]);
    UNROLL for (size_t r = 0; r < ROWS; r++) memcpy(rows[r] + at, z[r % 4][r / 4], 16);
}

/* The words of a block lie between an odd field in front (front bytes) and one of two bytes at its end. */
INLINE void restore_block(uint8_t rows[ROWS][BLOCK_BYTES_MAX], const uint8_t *lanes, const size_t front,
                          const size_t end, const size_t block_bytes) {
    for (size_t at = front; at + 16 < end; at += 16) store_words(rows, lanes, at);
    store_words(rows, lanes, end - 16);
    UNROLL for (size_t r = 0; r < ROWS; r++) {
        memcpy(rows[r], lanes + r * front, front);
        memcpy(rows[r] + end, lanes + ROWS * end + r * (block_bytes - end), block_bytes - end);
    }
}

#define BLOCK_TILES(type, TYPE, n, front, end)                                                               \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        const fast_form f = FAST_##TYPE;                                                                     \
        for (size_t h = 0; h < HALVES; h++) {                                                                \
            const size_t r = first_of_half(h, row_n);                                                        \
            unpack_half_##n((uint8_t *)tile + h * half_bytes_##n(f), w + r * row_bytes, row_bytes,           \
                            row_n - r, k, f);                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void tile_of_lanes_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n,           \
                                     size_t k) {                                                             \
        const fast_form f = FAST_##TYPE;                                                                     \
        uint8_t *to = tile, rows[ROWS][BLOCK_BYTES_MAX];                                                     \
        for (size_t i = 0; i < k / (n)*HALVES; i++, to += half_bytes_##n(f)) {                               \
            const uint8_t *half = w + first_of_half(i % HALVES, row_n) * row_bytes;                          \
            restore_block(rows, half + i / HALVES * ROWS * sizeof(quant_##type), front, end,                 \
                          sizeof(quant_##type));                                                             \
            unpack_half_##n(to, rows[0], sizeof rows[0], ROWS, n, f);                                        \
        }                                                                                                    \
    }                                                                                                        \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles_##n(tiles, tile_stride, stored, out_n, from, row_n, k, FAST_##TYPE);                    \
    }
BLOCK_TILES(q4_1, Q4_1, 32, 0, 20)
BLOCK_TILES(q5_0, Q5_0, 32, 2, 22)
BLOCK_TILES(q5_1, Q5_1, 32, 0, 24)
BLOCK_TILES(iq4_nl, IQ4_NL, 32, 2, 18)
BLOCK_TILES(mxfp4, MXFP4, 32, 1, 17)
BLOCK_TILES(q2_k, Q2_K, 256, 0, 84)
BLOCK_TILES(q3_k, Q3_K, 256, 0, 108)
BLOCK_TILES(q5_k, Q5_K, 256, 0, 176)
BLOCK_TILES(iq4_xs, IQ4_XS, 256, 0, 136)

/* Slots of a type whose tiles and panels are those of another one, but for how they are unpacked. */
static void set_like(cpu_kernels *k, gguf_type type, gguf_type like, cpu_matmul own,
                     void (*tile_of_lanes)(void *, const uint8_t *, size_t, size_t, size_t)) {
    cpu_matmul m = k->matmul[like];
    m.tile_unpack = own.tile_unpack;
    m.neuron_tiles = own.neuron_tiles;
    if (own.panel_pack) m.panel_pack = own.panel_pack;
    if (own.tile_mul) m.tile_mul = own.tile_mul;
    cpu_set_tiles(&k->matmul[type], m);
    set_tiles_of_lanes(k, type, tile_of_lanes);
}

static void set_own(cpu_kernels *k, gguf_type type, cpu_matmul own,
                    void (*tile_of_lanes)(void *, const uint8_t *, size_t, size_t, size_t)) {
    cpu_set_tiles(&k->matmul[type], own);
    set_tiles_of_lanes(k, type, tile_of_lanes);
}

#define UNPACKED(type) .tile_unpack = tile_unpack_##type, .neuron_tiles = neuron_tiles_##type

/* After avx512_gemm. */
void avx512_gemm_blocks(cpu_kernels *k) {
    set_own(k, GGUF_Q4_1, TILES(32_m, 32_m, q4_1), tile_of_lanes_q4_1);
    set_own(k, GGUF_Q5_1, TILES(32_m, 32_m, q5_1), tile_of_lanes_q5_1);
    set_own(k, GGUF_Q2_K, TILES(k, k, q2_k), tile_of_lanes_q2_k);
    set_own(k, GGUF_Q3_K, TILES(k, k, q3_k), tile_of_lanes_q3_k);
    set_like(k, GGUF_Q5_0, GGUF_Q4_0, (cpu_matmul){UNPACKED(q5_0), .panel_pack = panel_pack_q5_0},
             tile_of_lanes_q5_0);
    set_like(k, GGUF_MXFP4, GGUF_Q4_0,
             (cpu_matmul){UNPACKED(mxfp4), .panel_pack = panel_pack_mxfp4, .tile_mul = tile_mul_mxfp4},
             tile_of_lanes_mxfp4);
    set_like(k, GGUF_IQ4_NL, GGUF_Q8_0, (cpu_matmul){UNPACKED(iq4_nl)}, tile_of_lanes_iq4_nl);
    set_like(k, GGUF_Q5_K, GGUF_Q4_K, (cpu_matmul){UNPACKED(q5_k)}, tile_of_lanes_q5_k);
    set_like(k, GGUF_IQ4_XS, GGUF_Q4_K, (cpu_matmul){UNPACKED(iq4_xs)}, tile_of_lanes_iq4_xs);
}
