/* avx2_gemm_pairs.c - prefill of the types whose values take all eight bits: products of two bytes overflow
 * 16 bits, so both sides are widened and meet in pairs.
 *
 * A tile holds each two consecutive values of all rows, those of blocks of 256 times the scales of their
 * parts, which is exact, so that a whole block is one sum of integers.
 */
#include "devices/cpu/avx2_gemm.h"

/* ---- Tiles ---- */

/* Of a block: this, then float d[ROWS]. */
typedef int16_t tile_run[16][ROWS][2];

AVX2_INLINE size_t tile_block_bytes(const fast_form f) {
    return f.run_n * sizeof(tile_run) + ROWS * sizeof(float);
}
AVX2_INLINE float *d_of(void *block, const fast_form f) {
    return (float *)(void *)((uint8_t *)block + f.run_n * sizeof(tile_run));
}

AVX2_INLINE void tile_unpack(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                             const fast_form f) {
    const tile_rows first = rows_of(w, row_bytes, row_n);
    for (size_t b = 0; b < k / (f.run_n * RUN); b++, tile += tile_block_bytes(f)) {
        const tile_rows rows = rows_at(&first, b * f.block_bytes);
        int8_t scale[ROWS][16];
        store_d(d_of(tile, f), &rows, f);
        for (size_t r = 0; f.run_n > 1 && r < ROWS; r++) {
            __m128i s, min;
            f.numbers(&s, &min, rows.row[r]);
            _mm_storeu_si128((__m128i *)(void *)scale[r], s);
        }
        for (size_t i = 0; i < f.run_n * 2 * HALVES; i++) { /* 16 weights of 8 rows */
            const size_t run = i / (2 * HALVES), part = i / HALVES % 2, half = i % HALVES;
            __m256i v[8];
            AVX2_UNROLL
            for (size_t r = 0; r < 8; r++) {
                const __m256i q = signed_values(f, f.quants(rows.row[8 * half + r], run));
                const __m128i low = _mm256_castsi256_si128(q), high = _mm256_extracti128_si256(q, 1);
                v[r] = _mm256_cvtepi8_epi16(part ? high : low);
                if (f.run_n > 1)
                    v[r] = _mm256_mullo_epi16(v[r], _mm256_set1_epi16(scale[8 * half + r][2 * run + part]));
            }
            transpose_8x8(v);
            AVX2_UNROLL
            for (size_t j = 0; j < 8; j++)
                store_256(tile + run * sizeof(tile_run) + 64 * (8 * part + j) + 32 * half, v[j]);
        }
    }
}

/* Scales of 16 rows in 16 bits, each twice. */
AVX2_INLINE void twice(__m256i to[HALVES], __m128i scale) {
    to[0] = low_pairs(scale, scale);
    to[1] = high_pairs(scale, scale);
}

/* Quads of eight rows, widened, to two pairs. */
AVX2_INLINE void store_quads(uint8_t *to, __m256i quads, __m256i scale, const fast_form f) {
    const __m256 a = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(quads)));
    const __m256 b = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(quads, 1)));
    __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
    even = _mm256_permute4x64_epi64(even, 0xd8);
    odd = _mm256_permute4x64_epi64(odd, 0xd8);
    store_256(to, f.run_n > 1 ? _mm256_mullo_epi16(even, scale) : even);
    store_256(to + 64, f.run_n > 1 ? _mm256_mullo_epi16(odd, scale) : odd);
}

AVX2_INLINE void tile_of_lanes(uint8_t *tile, const uint8_t *w, size_t k, const size_t quants_at,
                               const fast_form f) {
    lanes_headers headers;
    for (size_t b = 0; b < k / (f.run_n * RUN); b++, tile += tile_block_bytes(f), w += ROWS * f.block_bytes) {
        __m128i scale[16], min[16];
        if (f.run_n == 1) { /* d of all rows, as in a plane */
            store_plane_d(d_of(tile, f), w, ROWS, 0, f);
        } else {
            const tile_rows rows = headers_of_lanes(&headers, w, quants_at, f);
            store_d(d_of(tile, f), &rows, f);
            numbers_of(scale, min, &rows, f);
        }
        for (size_t run = 0; run < f.run_n; run++) {
            uint8_t *to = tile + run * sizeof(tile_run);
            __m256i by[HALVES];
            if (f.run_n > 1) twice(by, scale[2 * run]);
            AVX2_UNROLL
            for (size_t i = 0; i < 8 * HALVES; i++) {
                const size_t quad = i / HALVES, half = i % HALVES;
                const __m256i q = signed_values(f, f.lanes_quants(w + 32 * half, run, quad));
                store_quads(to + 64 * 2 * quad + 32 * half, q, by[half], f);
            }
        }
    }
}

/* Two neurons for 16 outputs. */
AVX2_INLINE void store_neurons(uint8_t *to, __m128i first, __m128i second, const __m256i scale[HALVES],
                               const fast_form f) {
    const __m256i low = low_pairs(first, second), high = high_pairs(first, second);
    store_256(to, f.run_n > 1 ? _mm256_mullo_epi16(low, scale[0]) : low);
    store_256(to + 32, f.run_n > 1 ? _mm256_mullo_epi16(high, scale[1]) : high);
}

/* Scales of run `run` of a group for 16 outputs. */
AVX2_INLINE void load_scales(__m256i to[HALVES], const uint8_t *planes, size_t out_n, size_t o, size_t run,
                             const fast_form f) {
    __m128i scale, min;
    if (f.run_n == 1) return;
    f.plane(&scale, &min, planes, out_n, o, run, true);
    twice(to, scale);
}

AVX2_INLINE void neuron_tiles(uint8_t *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k, const fast_form f) {
    const size_t row_bytes = out_n / 8 * f.low_bits, group_n = f.run_n * RUN;
    for (size_t b = 0; b < k / group_n; b++, tiles += tile_block_bytes(f), stored += f.block_bytes * out_n) {
        const uint8_t *planes = stored + group_n * row_bytes;
        for (size_t pair = 0; pair < group_n / 2; pair++) {
            const uint8_t *neuron = stored + 2 * pair * row_bytes;
            prefetch_neurons(neuron + from / 8 * f.low_bits, row_bytes, 2);
            for (size_t o = from; o < from + row_n; o += RUN) {
                uint8_t *first = tiles + (o - from) / ROWS * tile_stride + 64 * pair;
                __m256i scale[2][HALVES];
                load_scales(scale[0], planes, out_n, o, pair / 16, f);
                load_scales(scale[1], planes, out_n, o + ROWS, pair / 16, f);
                const __m256i n0 = signed_values(f, neuron_quants(f, neuron, o / RUN, out_n));
                const __m256i n1 = signed_values(f, neuron_quants(f, neuron + row_bytes, o / RUN, out_n));
                store_neurons(first, _mm256_castsi256_si128(n0), _mm256_castsi256_si128(n1), scale[0], f);
                store_neurons(first + tile_stride, _mm256_extracti128_si256(n0, 1),
                              _mm256_extracti128_si256(n1, 1), scale[1], f);
            }
        }
        for (size_t r = 0; r < row_n; r += ROWS)
            store_plane_d(d_of(tiles + r / ROWS * tile_stride, f), planes, out_n, from + r, f);
    }
}

/* ---- Panels ---- */

/* Of a block of run_n runs: this, then float d[COLS]. */
typedef int16_t panel_run[COLS][32];

AVX2_INLINE size_t panel_block_bytes(const size_t run_n) {
    return run_n * sizeof(panel_run) + COLS * sizeof(float);
}

AVX2_INLINE void panel_pack(uint8_t *panel, const float *x, size_t x_stride, size_t col_n, size_t k,
                            const size_t run_n) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        uint8_t *p = panel;
        for (size_t i = 0; i < k; i += run_n * RUN, p += panel_block_bytes(run_n)) {
            __m256 inverse;
            const float d = act_scale(column + i, run_n * RUN, &inverse);
            memcpy(p + run_n * sizeof(panel_run) + c * sizeof d, &d, sizeof d);
            for (size_t run = 0; run < run_n; run++) {
                const __m256i q = act_bytes_32(column + i + RUN * run, inverse);
                uint8_t *to = p + run * sizeof(panel_run) + c * sizeof(int16_t[32]);
                const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q));
                const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1));
                _mm256_storeu_si256((__m256i *)(void *)to, low);
                _mm256_storeu_si256((__m256i *)(void *)(to + 32), high);
            }
        }
    }
}

#define PANEL_PACK(name, run_n)                                                                              \
    static void panel_pack_##name(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {    \
        panel_pack(panel, x, x_stride, col_n, k, run_n);                                                     \
    }                                                                                                        \
    static size_t panel_bytes_##name(size_t k) { return k / (32 * (run_n)) * panel_block_bytes(run_n); }
PANEL_PACK(32, 1)
PANEL_PACK(256, 8)

/* ---- Products ---- */

/* s[h][c] (+)= a run of 16 rows times those of each column. */
AVX2_INLINE void add_run(__m256i s[HALVES][COLS], const uint8_t *q, const uint8_t *x, const bool from_zero) {
    AVX2_UNROLL
    for (size_t i = 0; i < 16; i++) {
        const __m256i w0 = load_256(q + 64 * i), w1 = load_256(q + 64 * i + 32);
        AVX2_UNROLL
        for (size_t c = 0; c < COLS; c++) {
            const __m256i v = broadcast_4(x + 64 * c + 4 * i);
            const __m256i p0 = _mm256_madd_epi16(w0, v), p1 = _mm256_madd_epi16(w1, v);
            s[0][c] = opaque(from_zero && i == 0 ? p0 : _mm256_add_epi32(s[0][c], p0));
            s[1][c] = opaque(from_zero && i == 0 ? p1 : _mm256_add_epi32(s[1][c], p1));
        }
    }
}

AVX2_INLINE void tile_mul(float *y, size_t y_stride, const uint8_t *tile, const uint8_t *panel, size_t k,
                          const fast_form f) {
    __m256 sum[HALVES][COLS];
    zero_sums(sum);
    for (size_t b = 0; b < k / (f.run_n * RUN); b++) {
        __m256i s[HALVES][COLS];
        add_run(s, tile, panel, true);
        for (size_t run = 1; run < f.run_n; run++)
            add_run(s, tile + run * sizeof(tile_run), panel + run * sizeof(panel_run), false);
        tile += f.run_n * sizeof(tile_run);
        panel += f.run_n * sizeof(panel_run);
        add_scaled(sum, s, (const float *)(const void *)tile, (const float *)(const void *)panel);
        tile += ROWS * sizeof(float);
        panel += COLS * sizeof(float);
    }
    store_sums(y, y_stride, sum);
}

/* ---- The slots ---- */

#define EIGHT_BIT_TYPES(X)                                                                                   \
    X(q8_0, Q8_0, 32, 2, 32)                                                                                 \
    X(iq4_nl, IQ4_NL, 32, 2, 32)                                                                             \
    X(iq4_xs, IQ4_XS, 256, 8, 256)
EIGHT_BIT_TYPES(TILE_FUNCTIONS)

void cpu_avx2_gemm_pairs_init(cpu_kernels *k) { EIGHT_BIT_TYPES(SET_TILES) }
