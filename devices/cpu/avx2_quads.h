/* avx2_quads.h - tiles and panels of bytes in quads: what avx2_gemm.c and avxvnni_gemm.c share.
 *
 * A tile holds each four consecutive weights of all rows as unsigned bytes, which meet those of the
 * activations in one multiplication; panels hold what takes their offset off the sums again.
 */
#ifndef HOTSET_CPU_AVX2_QUADS_H
#define HOTSET_CPU_AVX2_QUADS_H

#include "devices/cpu/avx2_gemm.h"

/* ---- Tiles ---- */

typedef struct tile_32 { /* of one block of 32; of types without m, nothing of m */
    uint8_t q[8][ROWS][4];
    float d[ROWS], m[ROWS];
} tile_32;

typedef struct tile_256 { /* of one block of 256; of `number`, as many as there are */
    uint8_t q[64][ROWS][4];
    float d[ROWS], minus_dmin[ROWS];
    union {
        int16_t number[16 + 8][ROWS][2]; /* scales of the parts, each twice; minima of parts 2j and 2j + 1 */
        float scale[16][ROWS];           /* with vpdpbusd: instead of those scales, and times d */
        int8_t factor[16][ROWS];         /* of products: instead of those scales */
    };
} tile_256;

AVX2_INLINE size_t parts_of(const fast_form f) { return 256 / f.part_n; }

/* Whether q has quants times the scales of their parts, plus PRODUCT_OFFSET where the form has an offset, so
 * that a block is one sum: with vpdpbusd, of quants of at most three bits. Sums can be lifted: 256 * 128 *
 * 127 < 2^22. */
AVX2_INLINE bool has_products(const fast_form f) {
    return HAS_VPDPBUSD && f.run_n > 1 && f.low_bits + f.high_bits <= 3;
}

/* Where minima stand in `number`. */
AVX2_INLINE size_t first_min(const fast_form f) { return has_products(f) ? parts_of(f) / 4 : parts_of(f); }

AVX2_INLINE size_t tile_block_bytes(const fast_form f) {
    const size_t number_n = first_min(f) + (f.has_min ? parts_of(f) / 2 : 0);
    if (f.run_n == 1) return f.has_min ? sizeof(tile_32) : offsetof(tile_32, m);
    return offsetof(tile_256, number) + number_n * sizeof(int16_t[ROWS][2]);
}

/* What is taken off the unsigned numbers before their sums fit 16 bits: 16 * 31 * 127 would not. */
AVX2_INLINE int start_offset(const fast_form f) {
    return f.run_n == 1 && f.has_min && f.high_bits ? 16 : f.offset;
}

/* Adds to m what the offset takes off. */
AVX2_INLINE void raise_m(tile_32 *t, const fast_form f) {
    const __m256 offset = _mm256_set1_ps((float)start_offset(f));
    for (size_t r = 0; start_offset(f) && r < ROWS; r += 8)
        _mm256_store_ps(t->m + r, _mm256_fmadd_ps(load_f32(t->d + r), offset, load_f32(t->m + r)));
}

AVX2_INLINE void store_pairs(int16_t (*to)[2], __m128i first, __m128i second) {
    store_256(to, low_pairs(first, second));
    store_256(to + 8, high_pairs(first, second));
}

AVX2_INLINE void store_scale(tile_256 *t, size_t j, __m128i scale, const fast_form f) {
    if (has_products(f)) {
        _mm_store_si128((__m128i *)(void *)t->factor[j], scale);
        return;
    }
    if (!HAS_VPDPBUSD) {
        store_pairs(t->number[j], scale, scale);
        return;
    }
    const __m256i half[HALVES] = {_mm256_cvtepi8_epi32(scale),
                                  _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(scale, scale))};
    for (size_t h = 0; h < HALVES; h++)
        _mm256_store_ps(t->scale[j] + 8 * h,
                        _mm256_mul_ps(_mm256_cvtepi32_ps(half[h]), load_f32(t->d + 8 * h)));
}

/* Scales and minima of parts j and j + 1; d stands there already. */
AVX2_INLINE void store_parts(tile_256 *t, size_t j, const __m128i scale[2], const __m128i min[2],
                             const fast_form f) {
    store_scale(t, j, scale[0], f);
    store_scale(t, j + 1, scale[1], f);
    if (f.has_min) store_pairs(t->number[first_min(f) + j / 2], min[0], min[1]);
}

/* Four quads of eight rows, times the rows' factors in 32-bit lanes. */
AVX2_INLINE void multiply_quads(uint8_t *q, __m256i factor, const fast_form f) {
    const __m256i lane =
        _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
    const __m256i once = _mm256_shuffle_epi8(factor, lane); /* in all four bytes of a lane */
    const __m256i twice = _mm256_add_epi8(once, once), four_times = _mm256_add_epi8(twice, twice);
    /* what two bits of a row's quant stand for, in the four bytes of its lane */
    __m256i table = _mm256_add_epi8(_mm256_and_si256(once, _mm256_set1_epi32((int)0xff00ff00)),
                                    _mm256_and_si256(twice, _mm256_set1_epi32((int)0xffff0000)));
    if (f.offset)
        table = _mm256_add_epi8(table, _mm256_sub_epi8(_mm256_set1_epi8(PRODUCT_OFFSET), four_times));
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++) {
        const __m256i v = load_256(q + 64 * i), two = _mm256_and_si256(v, _mm256_set1_epi8(3));
        __m256i product = _mm256_shuffle_epi8(table, _mm256_or_si256(two, lane));
        if (f.high_bits) {
            const __m256i third = _mm256_cmpgt_epi8(v, _mm256_set1_epi8(3));
            product = _mm256_add_epi8(product, _mm256_and_si256(third, four_times));
        }
        store_256(q + 64 * i, product);
    }
}

/* Quants to products, where the form has those. */
AVX2_INLINE void finish_256(tile_256 *t, const fast_form f) {
    if (!has_products(f)) return;
    for (size_t j = 0; j < parts_of(f); j++) {
        AVX2_UNROLL
        for (size_t h = 0; h < HALVES; h++) {
            const __m128i factors = _mm_loadl_epi64((const void *)(t->factor[j] + 8 * h));
            multiply_quads(t->q[4 * j][8 * h], _mm256_cvtepu8_epi32(factors), f);
        }
    }
}

/* What a block of 32 has besides quants. */
AVX2_INLINE void unpack_header_32(tile_32 *t, const tile_rows *rows, const fast_form f) {
    store_d(t->d, rows, f);
    if (!f.has_min) return;
    AVX2_UNROLL
    for (size_t r = 0; r < ROWS; r++) t->m[r] = _mm256_cvtss_f32(block_dmin(f, rows->row[r]));
    raise_m(t, f);
}

AVX2_INLINE void unpack_header_256(tile_256 *t, const tile_rows *rows, const fast_form f) {
    const size_t step = f.part_n / 16;
    __m128i scale[ROWS], min[ROWS];
    numbers_of(scale, min, rows, f);
    store_d(t->d, rows, f);
    for (size_t r = 0; f.has_min && r < ROWS; r++)
        t->minus_dmin[r] = -_mm256_cvtss_f32(block_dmin(f, rows->row[r]));
    AVX2_UNROLL
    for (size_t j = 0; j < 16; j += 2 * step) {
        const __m128i s[2] = {scale[j], scale[j + step]}, m[2] = {min[j], min[j + step]};
        store_parts(t, j / step, s, m, f);
    }
}

/* Those of eight rows. They wait in memory, so that code for all runs is there once, not for each row. */
AVX2_INLINE void unpack_quants(uint8_t *q, const uint8_t *const *row, const fast_form f) {
    uint8_t value[8][256];
    for (size_t r = 0; r < 8; r++) {
        AVX2_UNROLL
        for (size_t run = 0; run < f.run_n; run++) {
            const __m256i v = unsigned_values(f, f.quants(row[r], run));
            _mm256_storeu_si256((__m256i *)(void *)(value[r] + RUN * run), v);
        }
    }
    for (size_t run = 0; run < f.run_n; run++) {
        __m256i v[8];
        AVX2_UNROLL
        for (size_t r = 0; r < 8; r++) v[r] = load_256(value[r] + RUN * run);
        transpose_8x8(v);
        AVX2_UNROLL
        for (size_t i = 0; i < 8; i++) store_256(q + 64 * (8 * run + i), v[i]);
    }
}

AVX2_INLINE void tile_unpack(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                             const fast_form f) {
    const tile_rows first = rows_of(w, row_bytes, row_n);
    for (size_t b = 0; b < k / (f.run_n * RUN); b++, tile += tile_block_bytes(f)) {
        const tile_rows rows = rows_at(&first, b * f.block_bytes);
        if (f.run_n == 1)
            unpack_header_32((tile_32 *)(void *)tile, &rows, f);
        else
            unpack_header_256((tile_256 *)(void *)tile, &rows, f);
        for (size_t half = 0; half < HALVES; half++) unpack_quants(tile + 32 * half, rows.row + 8 * half, f);
        finish_256((tile_256 *)(void *)tile, f);
    }
}

AVX2_INLINE void lanes_header_32(tile_32 *t, const uint8_t *w, const fast_form f) {
    if (!f.has_min) { /* d of all rows, as in a plane */
        store_plane_d(t->d, w, ROWS, 0, f);
        return;
    }
    for (size_t r = 0; r < ROWS; r += 8) {
        const __m256i words = load_256(w + 4 * r); /* d, m of each row */
        _mm256_store_ps(t->d + r, halves_of(_mm256_and_si256(words, _mm256_set1_epi32(0xffff))));
        _mm256_store_ps(t->m + r, halves_of(_mm256_srli_epi32(words, 16)));
    }
    raise_m(t, f);
}

/* Four weights of eight rows: `i` counts halves of the rows, then quads of a run. */
AVX2_INLINE void lanes_quad(uint8_t *q, const uint8_t *w, size_t run, size_t i, const fast_form f) {
    const size_t quad = i / HALVES, at = 32 * (i % HALVES);
    store_256(q + 64 * (8 * run + quad) + at, unsigned_values(f, f.lanes_quants(w + at, run, quad)));
}

AVX2_INLINE void tile_of_lanes(uint8_t *tile, const uint8_t *w, size_t k, const size_t quants_at,
                               const fast_form f) {
    lanes_headers headers;
    for (size_t b = 0; b < k / (f.run_n * RUN); b++, tile += tile_block_bytes(f), w += ROWS * f.block_bytes) {
        if (f.run_n == 1) {
            lanes_header_32((tile_32 *)(void *)tile, w, f);
        } else {
            const tile_rows rows = headers_of_lanes(&headers, w, quants_at, f);
            unpack_header_256((tile_256 *)(void *)tile, &rows, f);
        }
        if (f.run_n == 1) {
            AVX2_UNROLL
            for (size_t i = 0; i < 8 * HALVES; i++) lanes_quad(tile, w, 0, i, f);
            continue;
        }
        for (size_t i = 0; i < 8 * HALVES; i++) {
            AVX2_UNROLL
            for (size_t run = 0; run < f.run_n; run++) lanes_quad(tile, w, run, i, f);
        }
        finish_256((tile_256 *)(void *)tile, f);
    }
}

/* Four neurons for a run of outputs, those of one tile and of the next: stores [16][4] to each. */
AVX2_INLINE void store_neurons(uint8_t *first, uint8_t *second, const __m256i n[4]) {
    const __m256i low_01 = _mm256_unpacklo_epi8(n[0], n[1]), high_01 = _mm256_unpackhi_epi8(n[0], n[1]);
    const __m256i low_23 = _mm256_unpacklo_epi8(n[2], n[3]), high_23 = _mm256_unpackhi_epi8(n[2], n[3]);
    const __m256i row[4] = {_mm256_unpacklo_epi16(low_01, low_23), _mm256_unpackhi_epi16(low_01, low_23),
                            _mm256_unpacklo_epi16(high_01, high_23), _mm256_unpackhi_epi16(high_01, high_23)};
    for (size_t i = 0; i < 4; i += 2) {
        store_256(first + 16 * i, _mm256_permute2x128_si256(row[i], row[i + 1], 0x20));
        store_256(second + 16 * i, _mm256_permute2x128_si256(row[i], row[i + 1], 0x31));
    }
}

/* What a group of neurons has besides quants, for 16 outputs. */
AVX2_INLINE void planes_header_32(tile_32 *t, const uint8_t *planes, size_t out_n, size_t o,
                                  const fast_form f) {
    store_plane_d(t->d, planes, out_n, o, f);
    if (!f.has_min) return;
    for (size_t r = 0; r < ROWS; r += 8) _mm256_store_ps(t->m + r, plane_dmin(f, planes, out_n, o + r));
    raise_m(t, f);
}
AVX2_INLINE void planes_header_256(tile_256 *t, const uint8_t *planes, size_t out_n, size_t o,
                                   const fast_form f) {
    store_plane_d(t->d, planes, out_n, o, f);
    for (size_t r = 0; f.has_min && r < ROWS; r += 8)
        _mm256_store_ps(t->minus_dmin + r,
                        _mm256_xor_ps(plane_dmin(f, planes, out_n, o + r), _mm256_set1_ps(-0.0f)));
    AVX2_UNROLL
    for (size_t j = 0; j < parts_of(f); j += 2) {
        __m128i scale[2], min[2];
        for (size_t i = 0; i < 2; i++) f.plane(&scale[i], &min[i], planes, out_n, o, j + i, true);
        store_parts(t, j, scale, min, f);
    }
    finish_256(t, f);
}

AVX2_INLINE void neuron_tiles(uint8_t *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t row_bytes = out_n / 8 * (f.low_bits + f.high_bits), group_n = f.run_n * RUN;
    for (size_t b = 0; b < k / group_n; b++, tiles += tile_block_bytes(f), stored += f.block_bytes * out_n) {
        for (size_t quad = 0; quad < group_n / 4; quad++) {
            const uint8_t *neurons = stored + 4 * quad * row_bytes;
            prefetch_neurons(neurons + from / 8 * f.low_bits, row_bytes, 4);
            if (f.high_bits)
                prefetch_neurons(neurons + out_n / 8 * f.low_bits + from / 8 * f.high_bits, row_bytes, 4);
            for (size_t r = 0; r < row_n; r += RUN) {
                uint8_t *first = tiles + r / ROWS * tile_stride + 64 * quad;
                __m256i n[4];
                AVX2_UNROLL
                for (size_t i = 0; i < 4; i++)
                    n[i] = unsigned_values(
                        f, neuron_quants(f, neurons + i * row_bytes, (from + r) / RUN, out_n));
                store_neurons(first, first + tile_stride, n);
            }
        }
        const uint8_t *planes = stored + group_n * row_bytes;
        for (size_t r = 0; r < row_n; r += ROWS) {
            void *tile = tiles + r / ROWS * tile_stride;
            if (f.run_n == 1)
                planes_header_32(tile, planes, out_n, from + r, f);
            else
                planes_header_256(tile, planes, out_n, from + r, f);
        }
    }
}

/* ---- Panels ---- */

typedef struct panel_32 {
    int8_t x[COLS][32];
    int32_t start[COLS];
    float d[COLS], sum[COLS]; /* sum: d times that of x */
} panel_32;

typedef struct panel_256 {
    int8_t x[8][COLS][32];
    union {
        int32_t start[16][COLS]; /* of parts of 16; those of 32 have every second one, of 256 the first */
        int16_t sum[8][COLS][2]; /* of parts 2j and 2j + 1 */
    };
    float d[COLS];
} panel_256;

AVX2_INLINE void panel_pack_32(panel_32 *panel, const float *x, size_t x_stride, size_t col_n, size_t k,
                               const int offset) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_32 *p = panel;
        for (size_t i = 0; i < k; i += 32, p++) {
            __m256 inverse;
            p->d[c] = act_scale(column + i, 32, &inverse);
            const __m256i q = act_bytes_32(column + i, inverse);
            const __m128i all = sum_halves(sum_pairs(q));
            _mm256_storeu_si256((__m256i *)(void *)p->x[c], q);
            p->start[c] = sum_start(all, offset);
            p->sum[c] = p->d[c] * (float)sum_of(all);
        }
    }
}

/* Sums of parts of part_n, or where there is an offset what takes it off. */
AVX2_INLINE void panel_pack_256(panel_256 *panel, const float *x, size_t x_stride, size_t col_n, size_t k,
                                const size_t part_n, const int offset) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_256 *p = panel;
        for (size_t i = 0; i < k; i += 256, p++) {
            __m256 inverse;
            __m128i all = _mm_setzero_si128();
            p->d[c] = act_scale(column + i, 256, &inverse);
            for (size_t run = 0; run < 8; run++) {
                const __m256i q = act_bytes_32(column + i + 32 * run, inverse), pairs = sum_pairs(q);
                const __m128i low = _mm256_castsi256_si128(pairs), high = _mm256_extracti128_si256(pairs, 1);
                _mm256_storeu_si256((__m256i *)(void *)p->x[run][c], q);
                const __m128i both = _mm_add_epi16(low, high);
                all = _mm_add_epi16(all, both);
                if (offset && part_n == 16) {
                    p->start[2 * run][c] = sum_start(low, offset);
                    p->start[2 * run + 1][c] = sum_start(high, offset);
                } else if (offset && part_n == 32) {
                    p->start[2 * run][c] = sum_start(both, offset);
                } else if (part_n == 16) {
                    p->sum[run][c][0] = (int16_t)sum_of(low);
                    p->sum[run][c][1] = (int16_t)sum_of(high);
                } else if (part_n == 32) {
                    p->sum[run / 2][c][run % 2] = (int16_t)sum_of(both);
                }
            }
            if (part_n == 256) p->start[0][c] = sum_start(all, offset);
        }
    }
}

AVX2_INLINE void start_sums(__m256i s[HALVES][COLS], const int32_t *start) {
    AVX2_UNROLL
    for (int c = 0; c < COLS; c++) s[0][c] = s[1][c] = broadcast_4(start + c);
}

#define PANEL_PACK(n, name, ...)                                                                             \
    static void panel_pack_##name(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {    \
        panel_pack_##n(panel, x, x_stride, col_n, k, __VA_ARGS__);                                           \
    }                                                                                                        \
    static size_t panel_bytes_##name(size_t k) { return k / (n) * sizeof(panel_##n); }

/* ---- Types of at most six bits: functions of all their panels and, by TILE_FUNCTIONS, of tiles ---- */

#define SIX_BIT_PANELS                                                                                       \
    PANEL_PACK(32, q4_0, 8)                                                                                  \
    PANEL_PACK(32, q4_1, 0)                                                                                  \
    PANEL_PACK(32, q5_0, 16) /* and Q5_1 */                                                                  \
    PANEL_PACK(32, mxfp4, 12)                                                                                \
    PANEL_PACK(256, q2_k, 16, 0)                                                                             \
    PANEL_PACK(256, q3_k, HAS_VPDPBUSD ? 256 : 16, HAS_VPDPBUSD ? PRODUCT_OFFSET : 4)                        \
    PANEL_PACK(256, q4_k, 32, 0) /* and Q5_K */                                                              \
    PANEL_PACK(256, q6_k, 16, 32)

#define SIX_BIT_TYPES(X)                                                                                     \
    X(q4_0, Q4_0, 32, 2, q4_0)                                                                               \
    X(q4_1, Q4_1, 32, 4, q4_1)                                                                               \
    X(q5_0, Q5_0, 32, 2, q5_0)                                                                               \
    X(q5_1, Q5_1, 32, 4, q5_0)                                                                               \
    X(mxfp4, MXFP4, 32, 1, mxfp4)                                                                            \
    X(q2_k, Q2_K, 256, 16, q2_k)                                                                             \
    X(q3_k, Q3_K, 256, 12, q3_k)                                                                             \
    X(q4_k, Q4_K, 256, 16, q4_k)                                                                             \
    X(q5_k, Q5_K, 256, 16, q4_k)                                                                             \
    X(q6_k, Q6_K, 256, 16, q6_k)

#endif
