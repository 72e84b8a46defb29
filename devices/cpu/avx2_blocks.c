/* avx2_blocks.c - AVX2: products of the block types that have no kernels of their own, by one form for all.
 *
 * Decode of blocks of 256 walks one row after the other, as avx2_gemv.c does; sums of 16 meet their scales as
 * integers. That of blocks of 32, and of IQ4_XS, is in avx2_nibbles.c.
 *
 * Prefill multiplies numbers of 16 bits: a tile holds values, of K-quants times their scale, which is exact,
 * so that a whole block is one sum of integers.
 */
#include "devices/cpu/avx2_blocks.h"
#include "devices/cpu/avx2_tiles.h"

enum { ROWS = 16, COLS = 3, HALVES = 2, BYTES_AHEAD = 2048, NEURONS_AHEAD = 32 };

/* ---- Decode: blocks of 256 ---- */

typedef struct act_256 {
    int8_t q[256];
    int16_t sums[16]; /* minus those of 16 values */
    float d;
    float unused[7];
} act_256;

static size_t act_size_256(size_t k) { return k / 256 * sizeof(act_256); }

/* Sums of 16 of the 256 values at x, in units of their d. */
static float pack_256(int8_t q[256], int16_t sums[16], const float *x) {
    __m256 inverse;
    const float d = act_scale(x, 256, &inverse);
    for (int j = 0; j < 8; j++) {
        const __m256i v = act_bytes_32(x + 32 * j, inverse);
        int32_t quads[8];
        _mm256_storeu_si256((__m256i *)(void *)(q + 32 * j), v);
        _mm256_storeu_si256((__m256i *)(void *)quads, sum_quads(v));
        sums[2 * j] = (int16_t)(quads[0] + quads[1] + quads[2] + quads[3]);
        sums[2 * j + 1] = (int16_t)(quads[4] + quads[5] + quads[6] + quads[7]);
    }
    return d;
}

static void act_pack_256(void *act, const float *x, size_t k) {
    for (act_256 *a = act; k > 0; k -= 256, x += 256, a++) {
        a->d = pack_256(a->q, a->sums, x);
        for (int j = 0; j < 16; j++) a->sums[j] = (int16_t)-a->sums[j];
    }
}

/* 16 bytes against minus the sums of activations. */
AVX2_INLINE __m256i against_sums(__m128i bytes, const act_256 *a) {
    return _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), load_256(a->sums));
}

AVX2_INLINE float dot_256(const uint8_t *w, const act_256 *a, size_t block_n, const fast_form f) {
    __m256 sum = _mm256_setzero_ps();
    for (; block_n > 0; block_n--, a++, w += f.block_bytes) {
        __m128i scale, min;
        prefetch_step(w, f.block_bytes, BYTES_AHEAD);
        f.numbers(&scale, &min, w);
        __m256i total = _mm256_setzero_si256();
        if (f.offset) /* offset * scale * minus the sum */
            total = _mm256_mullo_epi32(against_sums(scale, a), _mm256_set1_epi32(f.offset));
        const __m256i words = _mm256_cvtepi8_epi16(scale);
        const __m256i scales[2] = {_mm256_permute4x64_epi64(words, 0x44),
                                   _mm256_permute4x64_epi64(words, 0xee)};
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) {
            const __m256i q = opaque(f.quants(w, (size_t)j)), x = load_256(a->q + 32 * j);
            const __m256i pairs = _mm256_maddubs_epi16(q, x);
            total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, spread_words(scales[j / 4], j % 4)));
        }
        const __m256 dx = _mm256_set1_ps(a->d);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(block_d(f, w), dx), sum);
        if (f.has_min)
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(against_sums(min, a)),
                                  _mm256_mul_ps(block_dmin(f, w), dx), sum);
    }
    return sum_8(sum);
}

/* ---- Prefill: tiles and panels of a block of 32 * runs weights ---- */

/* Of a block: q[runs * 16][ROWS][2] 16-bit numbers, then this, without `min` in blocks of 32. */
typedef struct tile_end {
    float d[ROWS], dmin[ROWS];
    int16_t min[8][ROWS][2]; /* of halves of runs, two by two */
} tile_end;

AVX2_INLINE size_t tile_block_bytes(const fast_form f) {
    const size_t end_bytes = f.run_n > 1 ? sizeof(tile_end) : offsetof(tile_end, min);
    return f.run_n * RUN * ROWS * sizeof(int16_t) + end_bytes;
}
AVX2_INLINE tile_end *end_of(void *block, const fast_form f) {
    return (tile_end *)(void *)((uint8_t *)block + f.run_n * RUN * ROWS * sizeof(int16_t));
}

/* Two rows' or neurons' numbers for 16 lanes: where pair number `pair` of a block stands. */
AVX2_INLINE int16_t *pair_of(void *block, size_t pair) { return (int16_t *)block + pair * ROWS * 2; }

static void store_16_floats(float *to, __m256 low, __m256 high) {
    _mm256_store_ps(to, low);
    _mm256_store_ps(to + 8, high);
}

/* Scales of one row to the tile's end, and its numbers as products with them. */
AVX2_INLINE void unpack_row(int16_t numbers[256], tile_end *end, const uint8_t *block, size_t r,
                            const fast_form f) {
    __m128i scale = _mm_setzero_si128(), min = _mm_setzero_si128();
    if (f.run_n > 1) f.numbers(&scale, &min, block);
    int8_t scales[16], mins[16];
    _mm_storeu_si128((__m128i *)(void *)scales, scale);
    _mm_storeu_si128((__m128i *)(void *)mins, min);
    for (size_t j = 0; j < f.run_n; j++) {
        const __m256i q = signed_values(f, f.quants(block, j));
        __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q));
        __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1));
        if (f.run_n > 1) {
            low = _mm256_mullo_epi16(low, _mm256_set1_epi16(scales[2 * j]));
            high = _mm256_mullo_epi16(high, _mm256_set1_epi16(scales[2 * j + 1]));
        }
        _mm256_storeu_si256((__m256i *)(void *)(numbers + 32 * j), low);
        _mm256_storeu_si256((__m256i *)(void *)(numbers + 32 * j + 16), high);
    }
    end->d[r] = _mm256_cvtss_f32(block_d(f, block));
    end->dmin[r] = f.has_min ? _mm256_cvtss_f32(block_dmin(f, block)) : 0;
    for (size_t j = 0; f.run_n > 1 && j < 16; j++) end->min[j / 2][r][j % 2] = mins[j];
}

/* 8 rows of 256 bytes of numbers at a time to [pairs][ROWS][2]. */
AVX2_INLINE void tile_unpack(uint8_t *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k,
                             const fast_form f) {
    int16_t numbers[8][256];
    for (size_t b = 0; b < k / (f.run_n * RUN); b++, tile += tile_block_bytes(f), w += f.block_bytes) {
        for (size_t half = 0; half < HALVES; half++) {
            for (size_t r = 0; r < 8; r++) {
                const size_t row = 8 * half + r < row_n ? 8 * half + r : row_n - 1;
                unpack_row(numbers[r], end_of(tile, f), w + row * row_bytes, 8 * half + r, f);
            }
            for (size_t pair = 0; pair < f.run_n * RUN / 2; pair += 8) {
                __m256i v[8];
                AVX2_UNROLL
                for (size_t r = 0; r < 8; r++) v[r] = load_256(numbers[r] + 2 * pair);
                transpose_8x8(v);
                AVX2_UNROLL
                for (size_t i = 0; i < 8; i++)
                    _mm256_store_si256((__m256i *)(void *)(pair_of(tile, pair + i) + 16 * half), v[i]);
            }
        }
    }
}

/* Scales of outputs [o, o + 16) from planes to the end of a tile's block; part_scale gets those of 16 neurons
 * as pairs of 16-bit numbers. */
AVX2_INLINE void unpack_planes(tile_end *end, __m256i part_scale[16][HALVES], const uint8_t *planes,
                               size_t out_n, size_t o, const fast_form f) {
    __m256i last = _mm256_setzero_si256();
    store_16_floats(end->d, plane_d(f, planes, out_n, o), plane_d(f, planes, out_n, o + 8));
    if (f.has_min)
        store_16_floats(end->dmin, plane_dmin(f, planes, out_n, o), plane_dmin(f, planes, out_n, o + 8));
    if (f.run_n == 1) return;
    for (size_t j = 0; j < 16; j++) {
        __m128i scale, min;
        f.plane(&scale, &min, planes, out_n, o, j * 16 / f.part_n, true);
        const __m256i words = _mm256_permute4x64_epi64(_mm256_cvtepi8_epi16(scale), 0xd8);
        part_scale[j][0] = _mm256_unpacklo_epi16(words, words);
        part_scale[j][1] = _mm256_unpackhi_epi16(words, words);
        if (!f.has_min) continue;
        const __m256i mins = _mm256_permute4x64_epi64(_mm256_cvtepi8_epi16(min), 0xd8);
        if (j % 2) {
            _mm256_store_si256((__m256i *)(void *)end->min[j / 2][0], _mm256_unpacklo_epi16(last, mins));
            _mm256_store_si256((__m256i *)(void *)end->min[j / 2][8], _mm256_unpackhi_epi16(last, mins));
        }
        last = mins;
    }
}

/* Neurons 2i and 2i + 1 of a group for 16 outputs. */
AVX2_INLINE void store_pair(uint8_t *tile, size_t i, __m128i first, __m128i second,
                            __m256i part_scale[16][HALVES], const fast_form f) {
    __m256i low = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second));
    __m256i high = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(first, second));
    if (f.run_n > 1) {
        low = _mm256_mullo_epi16(low, part_scale[i / 8][0]);
        high = _mm256_mullo_epi16(high, part_scale[i / 8][1]);
    }
    _mm256_store_si256((__m256i *)(void *)pair_of(tile, i), low);
    _mm256_store_si256((__m256i *)(void *)(pair_of(tile, i) + 16), high);
}

/* One group of neurons for a run of outputs: a block of two tiles. */
AVX2_INLINE void unpack_group(uint8_t *first, uint8_t *second, const uint8_t *group, size_t out_n, size_t o,
                              const fast_form f) {
    const size_t row_bytes = out_n / 8 * (f.low_bits + f.high_bits), group_n = f.run_n * RUN;
    uint8_t *tile[HALVES] = {first, second};
    __m256i part_scale[HALVES][16][HALVES];
    for (size_t h = 0; h < HALVES; h++)
        unpack_planes(end_of(tile[h], f), part_scale[h], group + group_n * row_bytes, out_n, o + 16 * h, f);
    for (size_t i = 0; i < group_n / 2; i++) {
        const uint8_t *neuron = group + 2 * i * row_bytes;
        const uint8_t *ahead =
            (const uint8_t *)((uintptr_t)neuron + NEURONS_AHEAD * row_bytes + o / 8 * f.low_bits);
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        _mm_prefetch((const char *)((uintptr_t)ahead + row_bytes), _MM_HINT_T1);
        const __m256i n0 = signed_values(f, neuron_quants(f, neuron, o / RUN, out_n));
        const __m256i n1 = signed_values(f, neuron_quants(f, neuron + row_bytes, o / RUN, out_n));
        store_pair(first, i, _mm256_castsi256_si128(n0), _mm256_castsi256_si128(n1), part_scale[0], f);
        store_pair(second, i, _mm256_extracti128_si256(n0, 1), _mm256_extracti128_si256(n1, 1), part_scale[1],
                   f);
    }
}

AVX2_INLINE void neuron_tiles(uint8_t *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,
                              size_t from, size_t row_n, size_t k, const fast_form f) {
    for (size_t b = 0; b < k / (f.run_n * RUN);
         b++, tiles += tile_block_bytes(f), stored += f.block_bytes * out_n)
        for (size_t r = 0; r < row_n; r += RUN) {
            uint8_t *first = tiles + r / ROWS * tile_stride;
            unpack_group(first, first + tile_stride, stored, out_n, from + r, f);
        }
}

typedef struct panel_32 {
    int16_t x[COLS][32];
    float d[COLS], sum[COLS]; /* sum: d times that of x */
} panel_32;

typedef struct panel_256 {
    int16_t x[COLS][256];
    int16_t sum[8][COLS][2]; /* of 16 values, two by two */
    float d[COLS];
} panel_256;

static size_t panel_bytes_32(size_t k) { return k / 32 * sizeof(panel_32); }
static size_t panel_bytes_256(size_t k) { return k / 256 * sizeof(panel_256); }

static void widen_bytes(int16_t *to, __m256i q) {
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q)));
    _mm256_storeu_si256((__m256i *)(void *)(to + 16), _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1)));
}

static void panel_pack_32(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_32 *p = panel;
        for (size_t i = 0; i < k; i += 32, p++) {
            __m256 inverse;
            p->d[c] = act_scale(column + i, 32, &inverse);
            const __m256i q = act_bytes_32(column + i, inverse);
            widen_bytes(p->x[c], q);
            p->sum[c] = p->d[c] * (float)sum_of_bytes(q);
        }
    }
}

static void panel_pack_256(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    for (size_t c = 0; c < COLS; c++) {
        const float *column = x + (c < col_n ? c : col_n - 1) * x_stride;
        panel_256 *p = panel;
        for (size_t i = 0; i < k; i += 256, p++) {
            int8_t q[256];
            int16_t sums[16];
            p->d[c] = pack_256(q, sums, column + i);
            for (int j = 0; j < 8; j++) {
                widen_bytes(p->x[c] + 32 * j, load_256(q + 32 * j));
                memcpy(p->sum[j][c], sums + 2 * j, sizeof p->sum[j][c]);
            }
        }
    }
}

/* s[h][c] (+)= `pair_n` pairs of numbers of 16 rows times those of each column, x_stride apart. */
AVX2_INLINE void add_pairs(__m256i s[HALVES][COLS], const int16_t *q, const int16_t *x, size_t x_stride,
                           const int pair_n, const bool from_zero) {
    AVX2_UNROLL
    for (int i = 0; i < pair_n; i++) {
        const __m256i w0 = load_256(q + 32 * i), w1 = load_256(q + 32 * i + 16);
        AVX2_UNROLL
        for (size_t c = 0; c < COLS; c++) {
            const __m256i v = broadcast_4(x + c * x_stride + 2 * i);
            const __m256i p0 = _mm256_madd_epi16(w0, v), p1 = _mm256_madd_epi16(w1, v);
            s[0][c] = opaque(from_zero && i == 0 ? p0 : _mm256_add_epi32(s[0][c], p0));
            s[1][c] = opaque(from_zero && i == 0 ? p1 : _mm256_add_epi32(s[1][c], p1));
        }
    }
}

AVX2_INLINE void tile_mul(float *y, size_t y_stride, const uint8_t *tile, const uint8_t *panel, size_t k,
                          const fast_form f) {
    __m256 sum[HALVES][COLS];
    AVX2_UNROLL
    for (int i = 0; i < HALVES * COLS; i++) sum[i / COLS][i % COLS] = _mm256_setzero_ps();
    for (size_t b = 0; b < k / (f.run_n * RUN); b++, tile += tile_block_bytes(f)) {
        const tile_end *end = (const tile_end *)(const void *)(tile + f.run_n * RUN * ROWS * sizeof(int16_t));
        const int16_t *q = (const int16_t *)(const void *)tile;
        const panel_32 *p = (const panel_32 *)(const void *)panel + b;
        const panel_256 *pk = (const panel_256 *)(const void *)panel + b;
        __m256i s[HALVES][COLS];
        if (f.run_n == 1) add_pairs(s, q, p->x[0], 32, 16, true);
        for (size_t j = 0; f.run_n > 1 && j < 8; j++) {
            if (j == 0)
                add_pairs(s, q, pk->x[0], 256, 16, true);
            else
                add_pairs(s, q + 512 * j, pk->x[0] + 32 * j, 256, 16, false);
        }
        AVX2_UNROLL
        for (int i = 0; i < HALVES * COLS; i++) {
            const int h = i / COLS, c = i % COLS;
            __m256 all = _mm256_mul_ps(_mm256_cvtepi32_ps(s[h][c]), load_f32(end->d + 8 * h));
            if (f.run_n > 1 && f.has_min) {
                __m256i m = _mm256_setzero_si256();
                AVX2_UNROLL
                for (int j = 0; j < 8; j++)
                    m = _mm256_add_epi32(
                        m, _mm256_madd_epi16(load_256(end->min[j][8 * h]), broadcast_4(pk->sum[j][c])));
                all = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(m), load_f32(end->dmin + 8 * h), all);
            }
            const float *d = f.run_n > 1 ? pk->d : p->d;
            sum[h][c] = _mm256_fmadd_ps(all, _mm256_broadcast_ss(d + c), sum[h][c]);
            if (f.run_n == 1 && f.has_min)
                sum[h][c] =
                    _mm256_fmadd_ps(load_f32(end->dmin + 8 * h), _mm256_broadcast_ss(p->sum + c), sum[h][c]);
        }
    }
    AVX2_UNROLL
    for (size_t i = 0; i < HALVES * COLS; i++)
        _mm256_storeu_ps(y + i % COLS * y_stride + i / COLS * 8, sum[i / COLS][i % COLS]);
}

/* ---- The slots ---- */

#define TILE_FUNCTIONS(type, TYPE, n, front, end)                                                            \
    static size_t tile_bytes_##type(size_t k) { return k / (n)*tile_block_bytes(FAST_##TYPE); }              \
    static void tile_unpack_##type(void *tile, const uint8_t *w, size_t row_bytes, size_t row_n, size_t k) { \
        tile_unpack(tile, w, row_bytes, row_n, k, FAST_##TYPE);                                              \
    }                                                                                                        \
    TILE_OF_RESTORED(type, n, front, end)                                                                    \
    static void tile_mul_##type(float *y, size_t y_stride, const void *tile, const void *panel, size_t k) {  \
        tile_mul(y, y_stride, tile, panel, k, FAST_##TYPE);                                                  \
    }                                                                                                        \
    static void neuron_tiles_##type(void *tiles, size_t tile_stride, const uint8_t *stored, size_t out_n,    \
                                    size_t from, size_t row_n, size_t k) {                                   \
        neuron_tiles(tiles, tile_stride, stored, out_n, from, row_n, k, FAST_##TYPE);                        \
    }
#define SET_TILES(type, TYPE, n, front, end)                                                                 \
    k->matmul[GGUF_##TYPE] = (cpu_matmul){.tile_rows = ROWS,                                                 \
                                          .panel_cols = COLS,                                                \
                                          .panel_bytes = panel_bytes_##n,                                    \
                                          .panel_pack = panel_pack_##n,                                      \
                                          .tile_bytes = tile_bytes_##type,                                   \
                                          .tile_unpack = tile_unpack_##type,                                 \
                                          .tile_mul = tile_mul_##type,                                       \
                                          .neuron_tiles = neuron_tiles_##type};                              \
    set_tiles_of_lanes(k, GGUF_##TYPE, tile_of_lanes_##type);
#define GEMV(type, TYPE, n, front, end)                                                                      \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        for (size_t r = 0; r < row_n; r++) y[r] = dot_256(w + r * row_bytes, act, k / (n), FAST_##TYPE);     \
    }
#define SET_GEMV(type, TYPE, n, front, end)                                                                  \
    k->matmul[GGUF_##TYPE].act_bytes = act_size_256, k->matmul[GGUF_##TYPE].act_pack = act_pack_256,         \
    k->matmul[GGUF_##TYPE].gemv = gemv_##type;
#define TYPES_OF_32(X)                                                                                       \
    X(q4_1, Q4_1, 32, 0, 20)                                                                                 \
    X(q5_0, Q5_0, 32, 2, 22)                                                                                 \
    X(q5_1, Q5_1, 32, 0, 24)                                                                                 \
    X(iq4_nl, IQ4_NL, 32, 2, 18)                                                                             \
    X(mxfp4, MXFP4, 32, 1, 17)
#define K_QUANTS(X)                                                                                          \
    X(q2_k, Q2_K, 256, 0, 84)                                                                                \
    X(q3_k, Q3_K, 256, 0, 108)                                                                               \
    X(q5_k, Q5_K, 256, 0, 176)
TYPES_OF_32(TILE_FUNCTIONS)
K_QUANTS(TILE_FUNCTIONS)
TILE_FUNCTIONS(iq4_xs, IQ4_XS, 256, 0, 136)
K_QUANTS(GEMV)

void cpu_avx2_blocks_init(cpu_kernels *k) {
    TYPES_OF_32(SET_TILES)
    K_QUANTS(SET_TILES)
    SET_TILES(iq4_xs, IQ4_XS, 256, 0, 136)
    K_QUANTS(SET_GEMV)
}
