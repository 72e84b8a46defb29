/* avx512_gemm_wide.c - weights times many activation rows (prefill) by AMX, as pairs of BF16 (the rule:
 * cpu_wide in kernels.h). Needs AVX512_BF16, AMX-TILE and AMX-BF16 besides.
 *
 * Step by step of 32 weights, two tiles of 16 rows of weights meet two of 16 columns: four loads for four
 * TDPBF16PS, of 16 * 16 * 32 products in 16 cycles each (Emerald Rapids); VPDPBUSD has 64 or 128 a cycle. No
 * sum is scaled on the way, for weights come with their scales.
 */
#include "devices/cpu/avx2_blocks.h"
#include "devices/cpu/avx512_amx.h"
#include "devices/cpu/avx512_bf16.h"
#include "devices/cpu/avx512_gemm.h"

enum { STEP = 32 /* weights of a row */ };

/* Numbers of a step in the order in which tiles are loaded: weights [half][pair][row], columns [half][column]
 * [pair]. Of floats there are two, one behind the other, the second one of the rests. */
typedef struct wide_step {
    _Alignas(CPU_ALIGN) uint32_t pair[HALVES][TILE][TILE];
} wide_step;
_Static_assert((int)TILE_ROWS == CPU_WIDE_ROWS && (int)HALVES * TILE == CPU_WIDE_COLS, "two tiles of each");

static size_t steps_of(size_t k) { return (k + STEP - 1) / STEP; }
static size_t bytes_of_one(size_t k) { return steps_of(k) * sizeof(wide_step); }
static size_t bytes_of_two(size_t k) { return 2 * bytes_of_one(k); }

/* ---- Blocks to BF16 ------------------------------------------------------------------------------------ */

/* Lanes i and i + 1 of a pair have the same row: its number in each of 8 rows, low ones first. */
INLINE void double_lanes(__m512 to[2], __m512 v) {
    const __m512i low = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    to[0] = _mm512_castsi512_ps(_mm512_permutexvar_epi32(low, _mm512_castps_si512(v)));
    to[1] = _mm512_castsi512_ps(_mm512_permutexvar_epi32(high, _mm512_castps_si512(v)));
}

/* Bytes 2p and 2p + 1 of the quads of 8 rows, one in each lane. */
INLINE __m512 floats_of_quads(__m512i quads, const unsigned p, const unsigned half) {
    const __m512i first = _mm512_set_epi32(29, 28, 25, 24, 21, 20, 17, 16, 13, 12, 9, 8, 5, 4, 1, 0);
    const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32((int)(32 * half + 2 * p)));
    return _mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(0x1111111111111111, at, quads));
}

/* Weights d * w + c of quad_n quads to twice as many pairs. */
INLINE void widen_quads(uint32_t to[][TILE], const uint8_t w[][64], const size_t quad_n, __m512 d, __m512 c) {
    __m512 scale[2], offset[2];
    double_lanes(scale, d);
    double_lanes(offset, c);
    UNROLL for (size_t g = 0; g < quad_n; g++) {
        const __m512i quads = _mm512_load_si512(w[g]);
        UNROLL for (unsigned p = 0; p < 2; p++) {
            const __m512 low = _mm512_fmadd_ps(floats_of_quads(quads, p, 0), scale[0], offset[0]);
            const __m512 high = _mm512_fmadd_ps(floats_of_quads(quads, p, 1), scale[1], offset[1]);
            _mm512_store_si512(to[2 * g + p], round_pairs(low, high));
        }
    }
}

INLINE void widen_32(wide_step *to, const tile_32 *t, size_t k, const float offset) {
    for (size_t b = 0; b < k / BLOCK; b++, to++) {
        for (size_t h = 0; h < HALVES; h++, t++) {
            const __m512 d = _mm512_load_ps(t->d);
            widen_quads(to->pair[h], t->w, 8, d, _mm512_mul_ps(d, _mm512_set1_ps(-offset)));
        }
    }
}

static void widen_32_m(void *to, const void *tile, size_t k) {
    wide_step *step = to;
    const tile_32_m *t = tile;
    for (size_t b = 0; b < k / BLOCK; b++, step++) {
        for (size_t h = 0; h < HALVES; h++, t++)
            widen_quads(step->pair[h], t->block.w, 8, _mm512_load_ps(t->block.d), _mm512_load_ps(t->m));
    }
}

/* Minus the minimum of group j, of two in each lane. */
INLINE __m512 minus_minimum(const int16_t min[][ROWS][2], const float *dmin, size_t j) {
    const __m512i two = _mm512_load_si512(min[j / 2]);
    const __m512i one = _mm512_srai_epi32(j % 2 ? two : _mm512_slli_epi32(two, 16), 16);
    return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(one), _mm512_load_ps(dmin), _mm512_setzero_ps());
}

static void widen_q4_k(void *to, const void *tile, size_t k) {
    wide_step *step = to;
    const tile_q4_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, step += 8) {
        for (size_t h = 0; h < HALVES; h++, t++) {
            for (size_t j = 0; j < 8; j++)
                widen_quads(step[j].pair[h], t->w[j], 8, _mm512_load_ps(t->d[j]),
                            minus_minimum(t->min, t->dmin, j));
        }
    }
}

static void widen_q6_k(void *to, const void *tile, size_t k) {
    wide_step *step = to;
    const tile_q6_k *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, step += 8) {
        for (size_t h = 0; h < HALVES; h++, t++) {
            for (size_t j = 0; j < 16; j++) {
                const __m512 d = _mm512_load_ps(t->d[j]);
                widen_quads(step[j / 2].pair[h] + 8 * (j % 2), t->w[j], 4, d,
                            _mm512_mul_ps(d, _mm512_set1_ps(-32)));
            }
        }
    }
}

static void widen_256(void *to, const void *tile, size_t k) {
    wide_step *step = to;
    const tile_256 *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, step += 8) {
        for (size_t h = 0; h < HALVES; h++, t++) {
            const __m512 d = _mm512_load_ps(t->d);
            const __m512 offset = _mm512_mul_ps(d, _mm512_set1_ps(-PRODUCT_OFFSET));
            for (size_t j = 0; j < 8; j++) widen_quads(step[j].pair[h], t->w + 8 * j, 8, d, offset);
        }
    }
}

static void widen_256_min(void *to, const void *tile, size_t k) {
    wide_step *step = to;
    const tile_256_min *t = tile;
    for (size_t b = 0; b < k / SUPERBLOCK; b++, step += 8) {
        for (size_t h = 0; h < HALVES; h++, t++) {
            const __m512 d = _mm512_load_ps(t->block.d);
            for (size_t j = 0; j < 16; j++)
                widen_quads(step[j / 2].pair[h] + 8 * (j % 2), t->block.w + 4 * j, 4, d,
                            minus_minimum(t->min, t->dmin, j));
        }
    }
}

#define WIDEN_32(name, offset)                                                                               \
    static void widen_##name(void *to, const void *tile, size_t k) { widen_32(to, tile, k, offset); }
WIDEN_32(q4_0, 8)
WIDEN_32(q5_0, 16)
WIDEN_32(q8_0, 128)
WIDEN_32(mxfp4, 12)

/* ---- Floats to two BF16 -------------------------------------------------------------------------------- */

/* Those of two vectors as two of pairs: the numbers, rounded, and what rounding left, rounded. Words of
 * `high` stand behind those of `low`. */
INLINE void round_twice(__m512i to[2], __m512 low, __m512 high) {
    to[0] = round_pairs(low, high);
    const __m256i words[2] = {_mm512_castsi512_si256(to[0]), _mm512_extracti64x4_epi64(to[0], 1)};
    __m512 near[2];
    UNROLL for (size_t i = 0; i < 2; i++) near[i] =
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words[i]), 16));
    to[1] = round_pairs(_mm512_sub_ps(low, near[0]), _mm512_sub_ps(high, near[1]));
}

/* Word i of the first half and of the second one, side by side. */
INLINE __m512i zip_words(__m512i v) {
    static const _Alignas(64)
        uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                              8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), v);
}

INLINE void widen_parts(wide_step *to, const float *t, size_t k, const size_t part_n) {
    for (size_t i = 0; i < steps_of(k) * STEP; i += 2, t += 2 * TILE_ROWS) {
        for (size_t h = 0; h < HALVES; h++) {
            const __m512 first = i < k ? _mm512_load_ps(t + h * ROWS) : _mm512_setzero_ps();
            const __m512 second = i + 1 < k ? _mm512_load_ps(t + TILE_ROWS + h * ROWS) : _mm512_setzero_ps();
            __m512i pairs[2];
            round_twice(pairs, first, second);
            for (size_t n = 0; n < part_n; n++)
                _mm512_store_si512(to[i / STEP * part_n + n].pair[h][i % STEP / 2], zip_words(pairs[n]));
        }
    }
}
static void widen_floats(void *to, const void *tile, size_t k) { widen_parts(to, tile, k, 2); }
static void widen_bf16(void *to, const void *tile, size_t k) { widen_parts(to, tile, k, 1); }

/* ---- Activations --------------------------------------------------------------------------------------- */

INLINE void pack_panel(wide_step *to, const float *x, size_t x_stride, size_t col_n, size_t k,
                       const size_t part_n) {
    for (size_t i = 0; i < k; i += STEP, to += part_n) {
        const uint32_t there = k - i < STEP ? (1u << (k - i)) - 1 : UINT32_MAX;
        for (size_t c = 0; c < col_n; c++) {
            const float *column = x + c * x_stride + i;
            const __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, column);
            const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), column + 16);
            __m512i pairs[2] = {round_pairs(low, high)};
            if (part_n > 1) round_twice(pairs, low, high);
            for (size_t n = 0; n < part_n; n++) _mm512_store_si512(to[n].pair[c / TILE][c % TILE], pairs[n]);
        }
    }
}
static void pack_one(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    pack_panel(panel, x, x_stride, col_n, k, 1);
}
static void pack_two(void *panel, const float *x, size_t x_stride, size_t col_n, size_t k) {
    pack_panel(panel, x, x_stride, col_n, k, 2);
}

/* ---- Products ------------------------------------------------------------------------------------------ */

/* Tiles 0 and 1 are sums of the first TILE columns, 2 and 3 of the others; 4 and 5 hold columns, 6 and 7
 * weights. */
static void configure(size_t col_n) {
    const size_t first_n = (size_t)min_u64(col_n, TILE), other_n = col_n - first_n;
    const size_t row_n[] = {first_n, first_n, other_n, other_n, first_n, other_n, TILE, TILE};
    tile_config c = {.palette = 1};
    for (size_t i = 0; i < COUNT_OF(row_n); i++) {
        c.row_n[i] = (uint8_t)row_n[i];
        c.row_bytes[i] = row_n[i] ? LINE : 0;
    }
    MEMORY_IS_READ();
    _tile_loadconfig(&c);
}

/* Adds the products of one step, for all columns or the first ones. What is NULL is still loaded. */
INLINE void multiply_step(const wide_step *w, const wide_step *x, const bool two) {
    if (x) _tile_loadd(4, x->pair[0], LINE);
    if (w) _tile_loadd(6, w->pair[0], LINE);
    _tile_dpbf16ps(0, 4, 6);
    if (w) _tile_loadd(7, w->pair[1], LINE);
    _tile_dpbf16ps(1, 4, 7);
    if (!two) return;
    if (x) _tile_loadd(5, x->pair[1], LINE);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

INLINE void multiply_steps(float *y, size_t y_stride, const wide_step *w, const wide_step *x, size_t step_n,
                           bool add, const bool two, const size_t w_part_n, const size_t x_part_n) {
    float *other = y + TILE * y_stride;
    const size_t stride = y_stride * sizeof *y;
    MEMORY_IS_READ();
    if (add) {
        _tile_loadd(0, y, stride);
        _tile_loadd(1, y + ROWS, stride);
        if (two) _tile_loadd(2, other, stride);
        if (two) _tile_loadd(3, other + ROWS, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        if (two) _tile_zero(2);
        if (two) _tile_zero(3);
    }
    for (size_t i = 0; i < step_n; i++, w += w_part_n, x += x_part_n) {
        multiply_step(w, x + x_part_n - 1, two);
        if (x_part_n > 1) multiply_step(NULL, x, two);
        if (w_part_n > 1) multiply_step(w + 1, NULL, two);
    }
    _tile_stored(0, y, stride);
    _tile_stored(1, y + ROWS, stride);
    if (two) _tile_stored(2, other, stride);
    if (two) _tile_stored(3, other + ROWS, stride);
    MEMORY_IS_READ();
}

#define MULTIPLY(name, w_part_n, x_part_n)                                                                   \
    static void multiply_##name(float *y, size_t y_stride, const void *tile, const void *panel,              \
                                size_t col_n, size_t k, bool add) {                                          \
        configure(col_n);                                                                                    \
        if (col_n > TILE)                                                                                    \
            multiply_steps(y, y_stride, tile, panel, steps_of(k), add, true, w_part_n, x_part_n);            \
        else                                                                                                 \
            multiply_steps(y, y_stride, tile, panel, steps_of(k), add, false, w_part_n, x_part_n);           \
        _tile_release(); /* else the system keeps saving them */                                             \
    }
MULTIPLY(blocks, 1, 1)
MULTIPLY(bf16, 1, 2)
MULTIPLY(floats, 2, 2)

/* From tiles that stay: four sums do not wait for each other. */
static double peak_bf16(size_t iterations, float *sink) {
    static const wide_step one = {0};
    float sums[TILE][TILE];
    configure(CPU_WIDE_COLS);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, one.pair[0], LINE);
    _tile_loadd(5, one.pair[0], LINE);
    _tile_loadd(6, one.pair[0], LINE);
    _tile_loadd(7, one.pair[0], LINE);
    for (size_t i = 0; i < iterations; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, LINE);
    MEMORY_IS_READ();
    _tile_release();
    *sink = sums[0][0];
    return 2.0 * STEP * CPU_WIDE_ROWS * CPU_WIDE_COLS * (double)iterations;
}

static const cpu_wide wide_blocks = {bytes_of_one, bytes_of_one, pack_one, multiply_blocks};
static const cpu_wide wide_bf16 = {bytes_of_one, bytes_of_two, pack_two, multiply_bf16};
static const cpu_wide wide_floats = {bytes_of_two, bytes_of_two, pack_two, multiply_floats};

void avx512_gemm_wide(cpu_kernels *k) {
    k->peak_bf16 = peak_bf16;
    static const struct {
        gguf_type type;
        const cpu_wide *wide;
        void (*tile_widen)(void *to, const void *tile, size_t k);
    } all[] = {
        {GGUF_F32, &wide_floats, widen_floats},   {GGUF_F16, &wide_floats, widen_floats},
        {GGUF_BF16, &wide_bf16, widen_bf16},      {GGUF_Q4_0, &wide_blocks, widen_q4_0},
        {GGUF_Q4_1, &wide_blocks, widen_32_m},    {GGUF_Q5_0, &wide_blocks, widen_q5_0},
        {GGUF_Q5_1, &wide_blocks, widen_32_m},    {GGUF_Q8_0, &wide_blocks, widen_q8_0},
        {GGUF_Q2_K, &wide_blocks, widen_256_min}, {GGUF_Q3_K, &wide_blocks, widen_256},
        {GGUF_Q4_K, &wide_blocks, widen_q4_k},    {GGUF_Q5_K, &wide_blocks, widen_q4_k},
        {GGUF_Q6_K, &wide_blocks, widen_q6_k},    {GGUF_IQ4_NL, &wide_blocks, widen_q8_0},
        {GGUF_IQ4_XS, &wide_blocks, widen_q4_k},  {GGUF_MXFP4, &wide_blocks, widen_mxfp4},
    };
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        cpu_matmul *of[] = {&k->matmul[all[i].type], &k->lanes[all[i].type]};
        for (size_t j = 0; j < 2; j++) {
            of[j]->wide = all[i].wide;
            of[j]->tile_widen = all[i].tile_widen;
        }
    }
}
