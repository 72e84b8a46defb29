/* avx512_gemm.c - weights times many activation rows (prefill).
 *
 * A tile holds 32 rows of weights, 16 in each half with one row per 32-bit lane: groups of four consecutive
 * weights of all 16 rows fill a register. A panel holds eight activation rows (columns of the product); four
 * consecutive activations of one of them are broadcast to all lanes, and one vpdpbusd adds 64 products. So 32
 * x 8 sums stand in 16 registers, weights are loaded once per eight columns, and nothing is ever summed
 * across lanes. Unpacking a tile is paid once for all panels. Rows and columns beyond those given repeat the
 * last one: any values will do there.
 *
 * Weights are unsigned (w + offset) as in avx512_gemv.c; panels hold the start values that undo the offset.
 */
#include "devices/cpu/avx512_gemm.h"

/* ---- Q4_0 and Q8_0: per block of 32, one of these each ------------------------------------------------ */

static size_t tile_bytes_32(size_t k) { return k / BLOCK * HALVES * sizeof(tile_32); }
static size_t panel_bytes_32(size_t k) { return k / BLOCK * sizeof(panel_32); }

PANEL_PACK_32(q4_0, 8, true)
PANEL_PACK_32(q8_0, 128, true)

INLINE void unpack_q4_0(void *tile, const tile_rows *rows, size_t k) {
    tile_32 *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, t += HALVES) {
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
TILES_OF_ROWS(q4_0, 32)

INLINE void unpack_q8_0(void *tile, const tile_rows *rows, size_t k) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    tile_32 *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, t += HALVES) {
        const size_t offset = b * Q8_0_BYTES;
        prefetch_rows(rows, offset);
        __m512i q[8];
        load_quads(q, rows, offset + 2);
        load_quads(q + 4, rows, offset + 18);
        UNROLL for (size_t g = 0; g < 8; g++) _mm512_store_si512(t->w[g], _mm512_xor_si512(q[g], flip));
        _mm512_store_ps(t->d, load_scales(rows, offset));
    }
}
TILES_OF_ROWS(q8_0, 32)

static void neuron_tiles_q8_0(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    uint8_t *tile = tiles;
    for (size_t b = 0; b < k / BLOCK;
         b++, tile += HALVES * sizeof(tile_32), stored += BLOCK * out_n + 2 * out_n) {
        for (size_t g = 0; g < 8; g++) {
            const uint8_t *neurons = stored + 4 * g * out_n + from;
            prefetch_neurons(neurons, out_n);
            for (size_t r = 0; r < row_n; r += ROWS) {
                tile_32 *t = half_at(tile, tile_stride, r, sizeof *t);
                const __m512i q = interleave(load_neurons(neurons + r, out_n));
                _mm512_store_si512(t->w[g], _mm512_xor_si512(q, flip));
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS) {
            tile_32 *t = half_at(tile, tile_stride, r, sizeof *t);
            _mm512_store_ps(t->d, load_halves(stored + BLOCK * out_n + 2 * (from + r)));
        }
    }
}

static void neuron_tiles_q4_0(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k) {
    const size_t row_bytes = out_n / 2;
    uint8_t *tile = tiles;
    for (size_t b = 0; b < k / BLOCK;
         b++, tile += HALVES * sizeof(tile_32), stored += BLOCK * row_bytes + 2 * out_n) {
        for (size_t g = 0; g < 8; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes + from / 2;
            prefetch_neurons(neurons, row_bytes);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) { /* a run: both halves of a tile */
                const __m512i q = interleave(load_neurons(neurons + r / 2, row_bytes));
                tile_32 *t = half_at(tile, tile_stride, r, sizeof *t);
                _mm512_store_si512(t->w[g], low_nibbles(q));
                t++; /* the other half */
                _mm512_store_si512(t->w[g], high_nibbles(q));
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS) {
            tile_32 *t = half_at(tile, tile_stride, r, sizeof *t);
            _mm512_store_ps(t->d, load_halves(stored + BLOCK * row_bytes + 2 * (from + r)));
        }
    }
}

static void tile_mul_32(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    multiply_32(y, y_stride, tile, panel, k, true);
}

/* ---- Q4_K --------------------------------------------------------------------------------------------- */

static size_t tile_bytes_q4_k(size_t k) { return k / SUPERBLOCK * HALVES * sizeof(tile_q4_k); }
static size_t panel_bytes_q4_k(size_t k) { return k / SUPERBLOCK * sizeof(panel_q4_k); }

static void panel_pack_q4_k(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    panel_q4_k *p = panel;
    for (size_t i = 0; i < k; i += SUPERBLOCK, p++) {
        for (size_t c = 0; c < COLS; c++) {
            int8_t q[SUPERBLOCK];
            p->d[c] = quantise(q, x + (c < col_n ? c : col_n - 1) * x_stride + i, SUPERBLOCK);
            put_column(p->x, c, q);
            put_sums(p->sum, c, q, BLOCK);
        }
    }
}

INLINE void unpack_scales_q4_k(tile_q4_k *t, const __m512i head[4]) {
    const block_parts p = parts_of_q4_k(head);
    store_parts_q4_k(t, &p);
}

INLINE void unpack_q4_k(void *tile, const tile_rows *rows, size_t k) {
    tile_q4_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, t += HALVES) {
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
TILES_OF_ROWS(q4_k, q4_k)

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
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += HALVES * sizeof(tile_q4_k)) {
        for (size_t g = 0; g < SUPERBLOCK / 4; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes + from / 2;
            prefetch_neurons(neurons, row_bytes);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                const __m512i q = interleave(load_neurons(neurons + r / 2, row_bytes));
                tile_q4_k *t = half_at(tile, tile_stride, r, sizeof *t);
                _mm512_store_si512(t->w[g / 8][g % 8], low_nibbles(q));
                t++; /* the other half */
                _mm512_store_si512(t->w[g / 8][g % 8], high_nibbles(q));
            }
        }
        stored += SUPERBLOCK * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS) {
            __m512i head[4];
            load_head_q4_k(head, stored, out_n, from + r);
            unpack_scales_q4_k(half_at(tile, tile_stride, r, sizeof(tile_q4_k)), head);
        }
        stored += 16 * out_n;
    }
}

static void tile_mul_q4_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q4_k *w = tile;
    const panel_q4_k *x = panel;
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w += HALVES, x++) {
        __m512 block[HALVES][COLS];
        subtract_minima(block, w->min, w->dmin, sizeof *w, x->sum, 8);
        for (size_t j = 0; j < 8; j++) {
            __m512i s[HALVES][COLS];
            zero_integers(s);
            multiply_quads(s, w->w[j], sizeof *w / LINE, x->x[j][0], BLOCK, 8);
            add_scaled(block, s, w->d[j], sizeof *w);
        }
        add_block(sum, block, x->d);
    }
    store_sums(y, y_stride, sum);
}

/* ---- Q6_K --------------------------------------------------------------------------------------------- */

typedef struct panel_q6_k {
    _Alignas(CPU_ALIGN) int8_t x[16][COLS][16];
    int32_t start[16][COLS]; /* -32 times the sum of x in the group */
    float d[COLS];
} panel_q6_k;

static size_t tile_bytes_q6_k(size_t k) { return k / SUPERBLOCK * HALVES * sizeof(tile_q6_k); }
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
        const __m512i s = signed_of_lanes(scale[j / 4], j % 4);
        _mm512_store_ps(t->d[j], _mm512_mul_ps(_mm512_cvtepi32_ps(s), d));
    }
}

/* The quants of plain rows. */
INLINE void unpack_quants_q6_k(tile_q6_k *t, const tile_rows *rows, size_t offset) {
    const __m512i upper = _mm512_set1_epi8(0x30);
    for (size_t i = 0; i < 4; i++) { /* 16 bytes of upper bits: groups j, j + 2, j + 4, j + 6 */
        const size_t j = i / 2 * 8 + i % 2, low = offset + i / 2 * 64 + i % 2 * 16;
        prefetch_rows(rows, offset + 54 * i); /* 54: 210 bytes in four steps of less than a line */
        __m512i first[4], second[4], bits[4];
        load_quads(first, rows, low);
        load_quads(second, rows, low + 32);
        load_quads(bits, rows, offset + 128 + 16 * i);
        UNROLL for (size_t g = 0; g < 4; g++) {
            const __m512i high[4] = {_mm512_slli_epi16(bits[g], 4), _mm512_slli_epi16(bits[g], 2), bits[g],
                                     _mm512_srli_epi16(bits[g], 2)};
            const __m512i nibbles[4] = {low_nibbles(first[g]), low_nibbles(second[g]), high_nibbles(first[g]),
                                        high_nibbles(second[g])};
            UNROLL for (size_t n = 0; n < 4; n++) {
                _mm512_store_si512(t->w[j + 2 * n][g],
                                   _mm512_or_si512(nibbles[n], _mm512_and_si512(high[n], upper)));
            }
        }
    }
}

/* Bits 6 and 7 of each byte, moved to bit `to` and above (a constant). */
INLINE __m512i top_bits(__m512i v, const unsigned to) {
    return _mm512_and_si512(_mm512_srli_epi16(v, 6 - to), _mm512_set1_epi8((char)(3 << to)));
}

/* Those of interleaved ones, joined (devices/lanes.h). */
INLINE void unpack_joined_q6_k(tile_q6_k *t, const tile_rows *rows, size_t offset) {
    for (size_t i = 0; i < 4; i++) {
        __m512i word[12];
        for (size_t j = 0; j < 3; j++) {
            load_quads(word + 4 * j, rows, offset + offsetof(lanes_q6_k, q[i]) + 16 * j);
            UNROLL for (size_t g = 0; g < 4; g++) {
                const __m512i q = _mm512_and_si512(word[4 * j + g], _mm512_set1_epi8(0x3f));
                _mm512_store_si512(t->w[4 * i + j][g], q);
            }
        }
        UNROLL for (size_t g = 0; g < 4; g++) {
            const __m512i *three = word + 3 * g;
            const __m512i q = _mm512_or_si512(_mm512_or_si512(top_bits(three[0], 4), top_bits(three[1], 2)),
                                              top_bits(three[2], 0));
            _mm512_store_si512(t->w[4 * i + 3][g], q);
        }
    }
}

INLINE void unpack_q6_k(void *tile, const tile_rows *rows, size_t k) {
    tile_q6_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, t += HALVES) {
        const size_t offset = b * Q6_K_BYTES;
        __m512i scale[4];
        load_quads(scale, rows,
                   offset + (rows->lanes ? offsetof(lanes_q6_k, scales) : offsetof(quant_q6_k, scales)));
        unpack_scales_q6_k(t, scale, load_scales(rows, offset + offsetof(quant_q6_k, d)));
        if (rows->lanes)
            unpack_joined_q6_k(t, rows, offset);
        else
            unpack_quants_q6_k(t, rows, offset);
    }
}
TILES_OF_ROWS(q6_k, q6_k)

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
    for (size_t b = 0; b < k / SUPERBLOCK; b++, tile += HALVES * sizeof(tile_q6_k)) {
        for (size_t g = 0; g < SUPERBLOCK / 4; g++) {
            const uint8_t *neurons = stored + 4 * g * row_bytes;
            prefetch_neurons(neurons + from / 2, row_bytes);
            prefetch_neurons(neurons + out_n / 2 + from / 4, row_bytes);
            for (size_t r = 0; r < row_n; r += NEURONS_RUN) {
                const __m512i q = load_neurons(neurons + (from + r) / 2, row_bytes);
                const __m512i bits = load_bits_q6_k(neurons + out_n / 2 + (from + r) / 4, row_bytes);
                tile_q6_k *t = half_at(tile, tile_stride, r, sizeof *t);
                _mm512_store_si512(t->w[g / 4][g % 4], quads_q6_k(low_nibbles(q), bits, 0));
                t++; /* the other half */
                _mm512_store_si512(t->w[g / 4][g % 4], quads_q6_k(high_nibbles(q), bits, 1));
            }
        }
        stored += SUPERBLOCK * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS) {
            __m512i scale[4];
            UNROLL for (size_t i = 0; i < 4; i++) {
                scale[i] = interleave(load_neurons(stored + 4 * i * out_n + from + r, out_n));
            }
            unpack_scales_q6_k(half_at(tile, tile_stride, r, sizeof(tile_q6_k)), scale,
                               load_halves(stored + 16 * out_n + 2 * (from + r)));
        }
        stored += 18 * out_n;
    }
}

static void tile_mul_q6_k(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {
    const tile_q6_k *w = tile;
    const panel_q6_k *x = panel;
    __m512 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / SUPERBLOCK; b++, w += HALVES, x++) {
        __m512 block[HALVES][COLS];
        zero_sums(block);
        for (size_t j = 0; j < 16; j++) {
            __m512i s[HALVES][COLS];
            UNROLL for (size_t c = 0; c < COLS; c++) s[0][c] = s[1][c] = _mm512_set1_epi32(x->start[j][c]);
            multiply_quads(s, w->w[j], sizeof *w / LINE, x->x[j][0], 16, 4);
            add_scaled(block, s, w->d[j], sizeof *w);
        }
        add_block(sum, block, x->d);
    }
    store_sums(y, y_stride, sum);
}

void avx512_gemm(cpu_kernels *k) {
    cpu_set_tiles(&k->matmul[GGUF_Q4_0], TILES(32, q4_0, q4_0));
    cpu_set_tiles(&k->matmul[GGUF_Q8_0], TILES(32, q8_0, q8_0));
    cpu_set_tiles(&k->matmul[GGUF_Q4_K], TILES(q4_k, q4_k, q4_k));
    cpu_set_tiles(&k->matmul[GGUF_Q6_K], TILES(q6_k, q6_k, q6_k));
    set_tiles_of_lanes(k, GGUF_Q4_0, tile_of_lanes_q4_0);
    set_tiles_of_lanes(k, GGUF_Q8_0, tile_of_lanes_q8_0);
    set_tiles_of_lanes(k, GGUF_Q4_K, tile_of_lanes_q4_k);
    set_tiles_of_lanes(k, GGUF_Q6_K, tile_of_lanes_q6_k);
}
