/* avx512_gemm_blocks.c - weights times many activation rows (prefill): block types that are made into
 * unsigned bytes by the forms of avx2_blocks.h. Tiles and panels are as in avx512_gemm.c.
 */
#include "devices/cpu/avx512_gemm.h"

#include "devices/cpu/avx2_blocks.h"

PANEL_PACK_32(q5_0, 16, true)
PANEL_PACK_32(mxfp4, 12, false) /* whose scales are powers of two */

/* A run of 32 weights of each row, `offset` bytes into it being their block, as eight registers. */
INLINE void unpack_run(uint8_t w[][64], const tile_rows *rows, size_t offset, size_t run, const fast_form f) {
    if (rows->lanes) {
        const uint8_t *block = rows->lanes + ROWS * offset;
        UNROLL for (size_t g = 0; g < 8; g++) {
            const __m256i first = f.lanes_quants(block, run, g), second = f.lanes_quants(block + 32, run, g);
            _mm256_store_si256((void *)w[g], unsigned_values(f, first));
            _mm256_store_si256((void *)(w[g] + 32), unsigned_values(f, second));
        }
        return;
    }
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

INLINE size_t half_bytes_32(const fast_form f) { return f.has_min ? sizeof(tile_32_m) : sizeof(tile_32); }

/* d of a half and, where the form has it, m: `t` is a tile_32_m then. */
INLINE void unpack_scales_32(tile_32 *t, const tile_rows *rows, size_t offset, const fast_form f) {
    if (f.power) {
        const __m128i e = load_bytes(rows, offset + f.d_at);
        const __m256 low = powers(_mm256_cvtepu8_epi32(e));
        store_halves(t->d, low, powers(_mm256_cvtepu8_epi32(_mm_srli_si128(e, 8))));
    } else if (f.has_min) {
        const __m512i d_m = load_words(rows, offset + f.d_at);
        _mm512_store_ps(t->d, halves_of(d_m));
        _mm512_store_ps(((tile_32_m *)t)->m, upper_halves_of(d_m));
    } else {
        _mm512_store_ps(t->d, load_scales(rows, offset + f.d_at));
    }
}

INLINE void unpack_32(void *half, const tile_rows *rows, size_t k, const fast_form f) {
    uint8_t *tile = half;
    for (size_t b = 0; b < k / BLOCK; b++, tile += HALVES * half_bytes_32(f)) {
        const size_t offset = b * f.block_bytes;
        if (b % 2 == 0) prefetch_rows(rows, offset); /* every 34 to 48 bytes */
        unpack_run(((tile_32 *)(void *)tile)->w, rows, offset, 0, f);
        unpack_scales_32((void *)tile, rows, offset, f);
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

/* ---- Blocks of 256 whose quants have at most three bits: bytes hold them times their scales, so that a
 * block is one sum. ---- */

typedef struct panel_256 {
    _Alignas(CPU_ALIGN) int8_t x[8][COLS][BLOCK];
    int32_t start[COLS]; /* minus the offset of the products times the sum of x */
    float d[COLS];
} panel_256;

typedef struct panel_256_min {
    panel_256 block;
    int16_t sum[8][COLS][2]; /* sums of x in groups 2i and 2i + 1 */
} panel_256_min;

static size_t tile_bytes_256(size_t k) { return k / SUPERBLOCK * HALVES * sizeof(tile_256); }
static size_t panel_bytes_256(size_t k) { return k / SUPERBLOCK * sizeof(panel_256); }
static size_t tile_bytes_256_min(size_t k) { return k / SUPERBLOCK * HALVES * sizeof(tile_256_min); }
static size_t panel_bytes_256_min(size_t k) { return k / SUPERBLOCK * sizeof(panel_256_min); }

static void panel_pack_256(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_256 *p = panel;
    for (size_t i = 0; i < k; i += SUPERBLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            int8_t q[SUPERBLOCK];
            p->d[c] = quantise(q, x + (c < col_n ? c : col_n - 1) * x_stride + i, SUPERBLOCK);
            p->start[c] = -PRODUCT_OFFSET * sum_i8(q, SUPERBLOCK);
            put_column(p->x, c, q);
        }
    }
}

static void panel_pack_256_min(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_256_min *p = panel;
    for (size_t i = 0; i < k; i += SUPERBLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            int8_t q[SUPERBLOCK];
            p->block.d[c] = quantise(q, x + (c < col_n ? c : col_n - 1) * x_stride + i, SUPERBLOCK);
            p->block.start[c] = 0;
            put_column(p->block.x, c, q);
            put_sums(p->sum, c, q, 16);
        }
    }
}

/* s = a block's products. */
INLINE void multiply_256(__m512i s[HALVES][COLS], const tile_256 *w, size_t half_bytes, const panel_256 *x) {
    UNROLL for (size_t c = 0; c < COLS; c++) s[0][c] = s[1][c] = _mm512_set1_epi32(x->start[c]);
    for (size_t j = 0; j < 8; j++) multiply_quads(s, w->w + 8 * j, half_bytes / LINE, x->x[j][0], BLOCK, 8);
}

static void tile_mul_256(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_256 *w = tile;
    const panel_256 *x = panel;
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w += HALVES, x++) {
        __m512i s[HALVES][COLS];
        multiply_256(s, w, sizeof *w, x);
        __m512 block[HALVES][COLS];
        zero_sums(block);
        add_scaled(block, s, w->d, sizeof *w);
        add_block(sum, block, x->d);
    }
    store_sums(y, y_stride, sum);
}

static void tile_mul_256_min(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_256_min *w = tile;
    const panel_256_min *x = panel;
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w += HALVES, x++) {
        __m512 block[HALVES][COLS];
        subtract_minima(block, w->min, w->dmin, sizeof *w, x->sum, 16);
        __m512i s[HALVES][COLS];
        multiply_256(s, &w->block, sizeof *w, &x->block);
        add_scaled(block, s, w->block.d, sizeof *w);
        add_block(sum, block, x->block.d);
    }
    store_sums(y, y_stride, sum);
}

/* The four quads of a group from quants to products. */
INLINE void scale_quads(uint8_t w[4][64], __m512i scale, const fast_form f) {
    const __m128i lane = _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c);
    const __m512i row = _mm512_broadcast_i32x4(lane);
    const __m512i once = _mm512_shuffle_epi8(scale, row); /* in all four bytes of a lane */
    const __m512i twice = _mm512_add_epi8(once, once), four_times = _mm512_add_epi8(twice, twice);
    /* what two bits of a row's quant stand for, in the four bytes of its lane */
    __m512i table = _mm512_add_epi8(_mm512_and_si512(once, _mm512_set1_epi32((int)0xff00ff00)),
                                    _mm512_and_si512(twice, _mm512_set1_epi32((int)0xffff0000)));
    if (f.offset) {
        const __m512i least = _mm512_sub_epi8(_mm512_set1_epi8(PRODUCT_OFFSET), four_times);
        table = _mm512_add_epi8(table, least);
    }
    UNROLL for (size_t g = 0; g < 4; g++) {
        const __m512i q = _mm512_load_si512(w[g]);
        const __m512i place = _mm512_or_si512(_mm512_and_si512(q, _mm512_set1_epi8(3)), row);
        __m512i v = _mm512_shuffle_epi8(table, place);
        if (f.high_bits) {
            const __mmask64 third = _mm512_test_epi8_mask(q, _mm512_set1_epi8(4));
            v = _mm512_mask_add_epi8(v, third, v, four_times);
        }
        _mm512_store_si512(w[g], v);
    }
}

/* What a half needs besides its quants, which stand in it and become products. */
INLINE void finish_256(void *half, const block_parts *p, const fast_form f) {
    tile_256 *t = half;
    UNROLL for (size_t j = 0; j < 16; j++) scale_quads(t->w + 4 * j, p->scale[j], f);
    _mm512_store_ps(t->d, p->d);
    if (!f.has_min) return;
    tile_256_min *with_min = half;
    UNROLL for (size_t j = 0; j < 16; j += 2) {
        _mm512_store_si512(with_min->min[j / 2], pair_words(p->min[j], p->min[j + 1]));
    }
    _mm512_store_ps(with_min->dmin, p->dmin);
}

INLINE block_parts parts_of_q2_k(const tile_rows *rows, size_t offset) {
    block_parts p;
    __m512i both[4];
    load_quads(both, rows, offset + offsetof(quant_q2_k, scales));
    UNROLL for (unsigned j = 0; j < 16; j++) {
        p.scale[j] = byte_of_lanes(low_nibbles(both[j / 4]), j % 4);
        p.min[j] = byte_of_lanes(high_nibbles(both[j / 4]), j % 4);
    }
    const __m512i d_dmin = load_words(rows, offset + offsetof(quant_q2_k, d));
    p.d = halves_of(d_dmin);
    p.dmin = upper_halves_of(d_dmin);
    return p;
}

INLINE block_parts parts_of_q3_k(const tile_rows *rows, size_t offset) {
    block_parts p = {.d = load_scales(rows, offset + offsetof(quant_q3_k, d))};
    __m512i v[4]; /* three are the scales; 16 bytes from those of a plain block on would reach past it */
    load_quads(v, rows,
               offset + (rows->lanes ? offsetof(lanes_q3_k, scales) : offsetof(quant_q3_k, scales) - 4));
    const __m512i *word = rows->lanes ? v : v + 1;
    const __m512i two = _mm512_set1_epi32(0x30);
    UNROLL for (unsigned j = 0; j < 16; j++) {
        const __m512i low = j < 8 ? low_nibbles(word[j / 4]) : high_nibbles(word[j / 4 % 2]);
        const __m512i top = byte_of_lanes(word[2], j % 4);
        const __m512i high = j < 4   ? _mm512_slli_epi32(top, 4)
                             : j < 8 ? _mm512_slli_epi32(top, 2)
                                     : _mm512_srli_epi32(top, j / 4 * 2 - 4);
        p.scale[j] = _mm512_sub_epi32(_mm512_or_si512(byte_of_lanes(low, j % 4), _mm512_and_si512(high, two)),
                                      _mm512_set1_epi32(32));
    }
    return p;
}

/* ---- Blocks of 256 with groups of 32: tile_q4_k. An offset is a minimum, offset times the scale. ---- */

INLINE block_parts parts_of_q5_k(const tile_rows *rows, size_t offset) {
    __m512i head[4];
    load_quads(head, rows, offset);
    return parts_of_q4_k(head);
}

INLINE block_parts parts_of_iq4_xs(const tile_rows *rows, size_t offset) {
    const __m512i d_high = load_words(rows, offset);
    const __m512i low = load_words(rows, offset + offsetof(quant_iq4_xs, scales_low));
    const __m512i high = _mm512_srli_epi32(d_high, 16);
    block_parts p = {.d = halves_of(d_high)};
    UNROLL for (unsigned j = 0; j < 8; j++) {
        const __m512i four = _mm512_and_si512(_mm512_srli_epi32(low, 4 * j), _mm512_set1_epi32(15));
        const __m512i two = _mm512_and_si512(_mm512_srli_epi32(high, 2 * j), _mm512_set1_epi32(3));
        p.scale[j] =
            _mm512_sub_epi32(_mm512_or_si512(four, _mm512_slli_epi32(two, 4)), _mm512_set1_epi32(32));
    }
    return p;
}

/* What is left of a form whose offset is such a minimum. */
INLINE void offset_as_min(block_parts *p, const int offset) {
    UNROLL for (size_t j = 0; j < 8; j++) {
        p->min[j] = _mm512_mullo_epi32(p->scale[j], _mm512_set1_epi32(offset));
    }
    p->dmin = p->d;
}

/* ---- Both ---- */

INLINE size_t half_bytes_256(const fast_form f) {
    if (f.part_n == 32) return sizeof(tile_q4_k);
    return f.has_min ? sizeof(tile_256_min) : sizeof(tile_256);
}

INLINE void finish_block(void *half, block_parts p, const fast_form f) {
    if (f.part_n == 16) {
        finish_256(half, &p, f);
    } else {
        if (!f.has_min) offset_as_min(&p, f.offset);
        store_parts_q4_k(half, &p);
    }
}

INLINE void unpack_256(void *half, const tile_rows *rows, size_t k,
                       block_parts (*parts_of)(const tile_rows *rows, size_t offset), const fast_form f) {
    uint8_t *tile = half;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += HALVES * half_bytes_256(f)) {
        const size_t offset = b * f.block_bytes;
        for (size_t line = 0; line < f.block_bytes; line += LINE) prefetch_rows(rows, offset + line);
        UNROLL for (size_t j = 0; j < 8; j++) /* all forms begin with their weights */
            unpack_run((uint8_t(*)[64])tile + 8 * j, rows, offset, j, f);
        finish_block(tile, parts_of(rows, offset), f);
    }
}

INLINE __m512 join_halves(__m256 low, __m256 high) {
    _Alignas(CPU_ALIGN) float both[ROWS];
    store_halves(both, low, high);
    return _mm512_load_ps(both);
}

INLINE block_parts parts_of_neurons(const uint8_t *planes, size_t out_n, size_t o, const fast_form f) {
    block_parts p;
    p.d = join_halves(plane_d(f, planes, out_n, o), plane_d(f, planes, out_n, o + 8));
    if (f.has_min) p.dmin = join_halves(plane_dmin(f, planes, out_n, o), plane_dmin(f, planes, out_n, o + 8));
    UNROLL for (size_t j = 0; j < SUPERBLOCK / f.part_n; j++) {
        __m128i scale, min;
        f.plane(&scale, &min, planes, out_n, o, j, true);
        p.scale[j] = _mm512_cvtepi8_epi32(scale);
        p.min[j] = _mm512_cvtepi8_epi32(min);
    }
    return p;
}

INLINE void neuron_tiles_256(uint8_t *tile, size_t tile_stride, const uint8_t *stored, size_t out_n,
                             size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t half_bytes = half_bytes_256(f);
    for (size_t b = 0; b < k / SUPERBLOCK;
         b++, tile += HALVES * half_bytes, stored += f.block_bytes * out_n) {
        const uint8_t *planes = stored + (f.block_bytes - f.header_bytes) * out_n;
        neuron_quads(tile, tile_stride, half_bytes, stored, out_n, from, row_n, f);
        for (size_t r = 0; r < row_n; r += ROWS)
            finish_block(half_at(tile, tile_stride, r, half_bytes),
                         parts_of_neurons(planes, out_n, from + r, f), f);
    }
}

/* ---- The types ---- */

#define UNPACK_32(type, TYPE, form)                                                                          \
    INLINE void unpack_##type(void *half, const tile_rows *rows, size_t k) {                                 \
        unpack_32(half, rows, k, FAST_##TYPE);                                                               \
    }                                                                                                        \
    TILES_OF_ROWS(type, form)                                                                                \
    NEURON_TILES(type, TYPE, 32)
#define UNPACK_256(type, TYPE, form)                                                                         \
    INLINE void unpack_##type(void *half, const tile_rows *rows, size_t k) {                                 \
        unpack_256(half, rows, k, parts_of_##type, FAST_##TYPE);                                             \
    }                                                                                                        \
    TILES_OF_ROWS(type, form)                                                                                \
    NEURON_TILES(type, TYPE, 256)
#define NEURON_TILES(type, TYPE, n)                                                                          \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles_##n(tiles, tile_stride, stored, out_n, from, row_n, k, FAST_##TYPE);                    \
    }
UNPACK_32(q4_1, Q4_1, 32_m)
UNPACK_32(q5_0, Q5_0, 32)
UNPACK_32(q5_1, Q5_1, 32_m)
UNPACK_32(iq4_nl, IQ4_NL, 32)
UNPACK_32(mxfp4, MXFP4, 32)
UNPACK_256(q2_k, Q2_K, 256_min)
UNPACK_256(q3_k, Q3_K, 256)
UNPACK_256(q5_k, Q5_K, q4_k)
UNPACK_256(iq4_xs, IQ4_XS, q4_k)

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
    set_own(k, GGUF_Q2_K, TILES(256_min, 256_min, q2_k), tile_of_lanes_q2_k);
    set_own(k, GGUF_Q3_K, TILES(256, 256, q3_k), tile_of_lanes_q3_k);
    set_like(k, GGUF_Q5_0, GGUF_Q4_0, (cpu_matmul){UNPACKED(q5_0), .panel_pack = panel_pack_q5_0},
             tile_of_lanes_q5_0);
    set_like(k, GGUF_MXFP4, GGUF_Q4_0,
             (cpu_matmul){UNPACKED(mxfp4), .panel_pack = panel_pack_mxfp4, .tile_mul = tile_mul_mxfp4},
             tile_of_lanes_mxfp4);
    set_like(k, GGUF_IQ4_NL, GGUF_Q8_0, (cpu_matmul){UNPACKED(iq4_nl)}, tile_of_lanes_iq4_nl);
    set_like(k, GGUF_Q5_K, GGUF_Q4_K, (cpu_matmul){UNPACKED(q5_k)}, tile_of_lanes_q5_k);
    set_like(k, GGUF_IQ4_XS, GGUF_Q4_K, (cpu_matmul){UNPACKED(iq4_xs)}, tile_of_lanes_iq4_xs);
}
