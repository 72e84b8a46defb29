/* avx512_gemv.c - one activation row times weights as they stand in the file (decode).
 *
 * The bytes of the weights come from memory, so these kernels need only keep pace with it. What decides is
 * how the rows are walked. Q8_0, Q6_K and floats: one row at a time, which the hardware prefetcher follows.
 * Q4_0: four rows in lockstep share the activations; that defeats the prefetcher, so every line is prefetched
 * eight rows ahead. Q4_K: one row with prefetches some KB ahead. Prefetches with holes are worse than none.
 *
 * vpdpbusd multiplies unsigned by signed bytes, so weights are taken as w + offset. Its int32 accumulators
 * start at -offset * (sum of the activations that each lane will meet), packed beside the activations: the
 * offset is exact and costs nothing.
 */
#include "devices/cpu/avx512.h"

enum { ROWS_AHEAD = 8, Q4_K_BYTES_AHEAD = 8192 };

/* ---- Q8_0: two blocks per step ----------------------------------------------------------------------- */

typedef struct act_q8_0 { /* two blocks of 32 values; a missing second one is zero */
    _Alignas(CPU_ALIGN) int8_t x[64];
    int32_t start[16]; /* by lane: -128 * (sum of its four x) */
    float d[16];       /* by lane: the block's scale */
} act_q8_0;

static size_t bytes_q8_0(size_t k) { return (k / BLOCK + 1) / 2 * sizeof(act_q8_0); }

static void pack_q8_0(void *act, const float *x, size_t k) {
    act_q8_0 *a = act;
    for (size_t i = 0; i < k; i += 64, a++) {
        memset(a, 0, sizeof *a);
        for (size_t j = 0; j < 2 && i + j * BLOCK < k; j++) {
            const float d = quantise(a->x + j * BLOCK, x + i + j * BLOCK, BLOCK);
            _mm256_store_ps(a->d + 8 * j, _mm256_set1_ps(d));
        }
        const __m512i zero = _mm512_setzero_si512();
        const __m512i sums = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(1), _mm512_load_si512(a->x));
        _mm512_store_si512(a->start, _mm512_sub_epi32(zero, _mm512_slli_epi32(sums, 7)));
    }
}

INLINE __m512 step_q8_0(__m512 sum, __m512i w, __m256i halves, const act_q8_0 *x) {
    const __m512i offset = _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80)); /* w + 128 */
    const __m512i s = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), offset, _mm512_load_si512(x->x));
    const __m512 d = _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_load_ps(x->d));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), d, sum);
}

INLINE float dot_q8_0(const uint8_t *w, const act_q8_0 *x, size_t block_n) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n / 2; i++, w += 2 * Q8_0_BYTES, x++) {
        const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(w + 2)));
        const __m256i second = _mm256_loadu_si256((const void *)(w + Q8_0_BYTES + 2));
        const __m256i halves =
            _mm256_mask_set1_epi16(_mm256_set1_epi16(read_i16(w)), 0xff00, read_i16(w + Q8_0_BYTES));
        sum = step_q8_0(sum, _mm512_inserti64x4(first, second, 1), halves, x);
    }
    if (block_n % 2) {
        const __m512i first = _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)(w + 2)));
        sum = step_q8_0(sum, first, _mm256_maskz_set1_epi16(0x00ff, read_i16(w)), x);
    }
    return _mm512_reduce_add_ps(sum);
}

static void gemv_q8_0(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    for (size_t r = 0; r < row_n; r++) y[r] = dot_q8_0(w + r * row_bytes, act, k / BLOCK);
}

/* ---- Q4_0: four blocks (72 bytes) per step ------------------------------------------------------------- */

typedef struct act_q4_0 { /* four blocks of 32 values; missing ones are zero */
    _Alignas(CPU_ALIGN) int8_t low[4][16],
        high[4][16];   /* of block b: values 0-15 and 16-31, as the nibbles lie */
    int32_t start[16]; /* by lane: -8 * (sum of its eight x) */
    float d[16];       /* by lane: the block's scale */
} act_q4_0;

static size_t bytes_q4_0(size_t k) { return (k / BLOCK + 3) / 4 * sizeof(act_q4_0); }

static void pack_q4_0(void *act, const float *x, size_t k) {
    act_q4_0 *a = act;
    for (size_t i = 0; i < k; i += 128, a++) {
        memset(a, 0, sizeof *a);
        for (size_t b = 0; b < 4 && i + b * BLOCK < k; b++) {
            int8_t q[BLOCK];
            const float d = quantise(q, x + i + b * BLOCK, BLOCK);
            memcpy(a->low[b], q, 16);
            memcpy(a->high[b], q + 16, 16);
            _mm_store_ps(a->d + 4 * b, _mm_set1_ps(d));
        }
        const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi8(1);
        const __m512i low_sums = _mm512_dpbusd_epi32(zero, one, _mm512_load_si512(a->low));
        const __m512i sums = _mm512_dpbusd_epi32(low_sums, one, _mm512_load_si512(a->high));
        _mm512_store_si512(a->start, _mm512_sub_epi32(zero, _mm512_slli_epi32(sums, 3)));
    }
}

/* Where the nibble bytes of four blocks lie in two 64-byte loads, at 0 and (numbers from 64 on) at 8. */
static const _Alignas(64) uint8_t q4_0_nibbles[64] = {
    2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14,  15,  16,  17,  20,  21,  22,  23, 24, 25,
    26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 38, 39, 40,  41,  42,  43,  44,  45,  46,  47, 48, 49,
    50, 51, 52, 53, 56, 57, 58, 59, 60, 61, 62, 63, 120, 121, 122, 123, 124, 125, 126, 127};
/* The 16-bit words that hold the scales of the four blocks, once per lane of the sums. */
static const _Alignas(64) uint16_t q4_0_scales[32] = {0, 0, 0, 0, 9, 9, 9, 9, 18, 18, 18, 18, 27, 27, 27, 27};

/* at_0, at_8: the 64 bytes from there on. */
INLINE __m512 step_q4_0(__m512 sum, __m512i at_0, __m512i at_8, const act_q4_0 *x) {
    const __m512i w = _mm512_permutex2var_epi8(at_0, _mm512_load_si512(q4_0_nibbles), at_8);
    __m512i s = _mm512_dpbusd_epi32(_mm512_load_si512(x->start), low_nibbles(w), _mm512_load_si512(x->low));
    s = _mm512_dpbusd_epi32(s, high_nibbles(w), _mm512_load_si512(x->high));
    const __m512i halves = _mm512_permutexvar_epi16(_mm512_load_si512(q4_0_scales), at_0);
    const __m512 d = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_load_ps(x->d));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), d, sum);
}

/* `row_n` (at most 4) rows in lockstep; `ahead`: bytes to prefetch ahead, 0 for none. Both constants after
 * inlining. */
INLINE void dot_q4_0(float *y, const uint8_t *w, size_t row_bytes, const size_t row_n, const size_t ahead,
                     const act_q4_0 *x, size_t block_n) {
    __m512 sum[4];
    UNROLL for (size_t r = 0; r < row_n; r++) sum[r] = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n / 4; i++, w += 4 * Q4_0_BYTES, x++) {
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const uint8_t *p = w + r * row_bytes;
            if (ahead) { /* a step of 72 bytes meets one or two lines */
                prefetch(p, ahead);
                prefetch(p, ahead + LINE);
            }
            sum[r] = step_q4_0(sum[r], _mm512_loadu_si512(p), _mm512_loadu_si512(p + 8), x);
        }
    }
    if (block_n % 4) { /* at most 54 bytes: all in the first load */
        const __mmask64 bytes = ((__mmask64)1 << block_n % 4 * Q4_0_BYTES) - 1;
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const __m512i at_0 = _mm512_maskz_loadu_epi8(bytes, w + r * row_bytes);
            sum[r] = step_q4_0(sum[r], at_0, _mm512_setzero_si512(), x);
        }
    }
    UNROLL for (size_t r = 0; r < row_n; r++) y[r] = _mm512_reduce_add_ps(sum[r]);
}

static void gemv_q4_0(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    size_t r = 0;
    for (; r + 4 <= row_n; r += 4) {
        dot_q4_0(y + r, w + r * row_bytes, row_bytes, 4, ROWS_AHEAD * row_bytes, act, k / BLOCK);
    }
    for (; r < row_n; r++) dot_q4_0(y + r, w + r * row_bytes, row_bytes, 1, 0, act, k / BLOCK);
}

/* ---- Q4_K and Q6_K: one block of 256 per step -----------------------------------------------------------
 */

/* Sub-scales are applied in integers: lane sums of two quarters are packed to int16 (they fit: at most 63 *
 * 127 * 4) and vpdpwssd multiplies them by scales spread to the same words. */
typedef struct act_k {
    _Alignas(CPU_ALIGN) int8_t x[SUPERBLOCK]; /* in the order in which the weights are unpacked */
    int16_t sums[16];                         /* see pack_q4_k, pack_q6_k */
    float d;
} act_k;

static size_t bytes_k(size_t k) { return k / SUPERBLOCK * sizeof(act_k); }

/* A 64-byte load of Q4_K holds groups 0 and 2 in its low nibbles, 1 and 3 in its high ones; x stands
 * likewise. Sums of the groups stand against the words {sc0-3, m0-3, sc4-7, m4-7}, zero where those are
 * scales. */
static void pack_q4_k(void *act, const float *x, size_t k) {
    static const uint8_t order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    act_k *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        int8_t q[SUPERBLOCK];
        memset(a, 0, sizeof *a);
        a->d = quantise(q, x + i, SUPERBLOCK);
        for (size_t j = 0; j < 8; j++) {
            memcpy(a->x + j * BLOCK, q + order[j] * BLOCK, BLOCK);
            a->sums[j < 4 ? 4 + j : 8 + j] = (int16_t)sum_i8(q + j * BLOCK, BLOCK);
        }
    }
}

/* Words of the sums of two quarters, packed: within each 128 bits four of the first, then four of the second.
 * Which of the 16-bit scales {sc0-3, m0-3, sc4-7, m4-7} belongs to each: quarters 0 and 1 (groups 0-3), then
 * 2 and 3. */
static const _Alignas(64) uint16_t q4_k_scales[2][32] = {
    {0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 2, 2, 3, 3, 3, 3},
    {8,  8,  8,  8,  9,  9,  9,  9,  8,  8,  8,  8,  9,  9,  9,  9,
     10, 10, 10, 10, 11, 11, 11, 11, 10, 10, 10, 10, 11, 11, 11, 11}};

/* The 6-bit scales and mins of a Q4_K block as words {sc0-3, m0-3, sc4-7, m4-7}. */
INLINE __m256i scales_q4_k(const uint8_t *p) {
    uint64_t s;
    uint32_t t;
    memcpy(&s, p, sizeof s);
    memcpy(&t, p + sizeof s, sizeof t);
    const uint64_t nibbles = (t & 0x0f0f0f0f) | (uint64_t)(t >> 4 & 0x0f0f0f0f) << 32;
    const uint64_t first = s & 0x3f3f3f3f3f3f3f3f, second = (s >> 2 & 0x3030303030303030) | nibbles;
    return _mm256_cvtepu8_epi16(_mm_set_epi64x((long long)second, (long long)first));
}

/* start + the sums of four quarters times their scales. */
INLINE __m512i apply_scales(__m512i start, const __m512i s[4], __m256i scales, const uint16_t order[2][32]) {
    const __m512i wide = _mm512_castsi256_si512(scales);
    const __m512i first = _mm512_permutexvar_epi16(_mm512_load_si512(order[0]), wide);
    const __m512i second = _mm512_permutexvar_epi16(_mm512_load_si512(order[1]), wide);
    start = _mm512_dpwssd_epi32(start, _mm512_packs_epi32(s[0], s[1]), first);
    return _mm512_dpwssd_epi32(start, _mm512_packs_epi32(s[2], s[3]), second);
}

INLINE float dot_q4_k(const uint8_t *w, const act_k *x, size_t block_n) {
    const __m512i zero = _mm512_setzero_si512();
    __m512 sum = _mm512_setzero_ps();
    __m256 min_sum = _mm256_setzero_ps();
    for (size_t i = 0; i < block_n; i++, w += Q4_K_BYTES, x++) {
        UNROLL for (size_t line = 0; line < Q4_K_BYTES; line += LINE) prefetch(w + line, Q4_K_BYTES_AHEAD);
        const __m512i w0 = _mm512_loadu_si512(w + 16), w1 = _mm512_loadu_si512(w + 80);
        const __m512i s[4] = {
            _mm512_dpbusd_epi32(zero, low_nibbles(w0), _mm512_load_si512(x->x)),
            _mm512_dpbusd_epi32(zero, high_nibbles(w0), _mm512_load_si512(x->x + 64)),
            _mm512_dpbusd_epi32(zero, low_nibbles(w1), _mm512_load_si512(x->x + 128)),
            _mm512_dpbusd_epi32(zero, high_nibbles(w1), _mm512_load_si512(x->x + 192)),
        };
        const __m256i scales = scales_q4_k(w + 4);
        const __m512i scaled = apply_scales(zero, s, scales, q4_k_scales);
        const __m256i mins = _mm256_madd_epi16(scales, _mm256_load_si256((const void *)x->sums));
        const __m128 d =
            _mm_mul_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(read_i32(w))), _mm_set1_ps(x->d)); /* d, dmin */
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_broadcastss_ps(d), sum);
        min_sum =
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(mins), _mm256_broadcastss_ps(_mm_movehdup_ps(d)), min_sum);
    }
    return _mm512_reduce_add_ps(_mm512_sub_ps(sum, _mm512_zextps256_ps512(min_sum)));
}

static void gemv_q4_k(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    for (size_t r = 0; r < row_n; r++) y[r] = dot_q4_k(w + r * row_bytes, act, k / SUPERBLOCK);
}

/* Q6_K unpacks in natural order. Sums: minus those of 16 values, which together with the scales undo the
 * offset 32. */
static void pack_q6_k(void *act, const float *x, size_t k) {
    act_k *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        memset(a, 0, sizeof *a);
        a->d = quantise(a->x, x + i, SUPERBLOCK);
        for (size_t j = 0; j < 16; j++) a->sums[j] = (int16_t)-sum_i8(a->x + 16 * j, 16);
    }
}

/* As q4_k_scales, of 16 scales: a lane quarter holds one group of 16. */
static const _Alignas(64) uint16_t q6_k_scales[2][32] = {
    {0, 0, 0, 0, 4, 4, 4, 4, 1, 1, 1, 1, 5, 5, 5, 5, 2, 2, 2, 2, 6, 6, 6, 6, 3, 3, 3, 3, 7, 7, 7, 7},
    {8,  8,  8,  8,  12, 12, 12, 12, 9,  9,  9,  9,  13, 13, 13, 13,
     10, 10, 10, 10, 14, 14, 14, 14, 11, 11, 11, 11, 15, 15, 15, 15}};

/* nibbles | (bits & 0x30) */
INLINE __m512i join_q6_k(__m512i nibbles, __m512i bits) {
    return _mm512_ternarylogic_epi64(nibbles, bits, _mm512_set1_epi8(0x30), 0xf8);
}

/* Half a block: 64 bytes of low nibbles and 32 bytes of two upper bits make 128 weights + 32. */
INLINE void unpack_q6_k(__m512i w[2], const uint8_t *low, const uint8_t *high) {
    const __m512i to_4_left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i to_4_right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
    const __m512i nibbles = _mm512_loadu_si512(low);
    const __m512i bits = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)high));
    w[0] = join_q6_k(low_nibbles(nibbles), _mm512_sllv_epi16(bits, to_4_left));
    w[1] = join_q6_k(high_nibbles(nibbles), _mm512_srlv_epi16(bits, to_4_right));
}

INLINE float dot_q6_k(const uint8_t *w, const act_k *x, size_t block_n) {
    const __m512i zero = _mm512_setzero_si512();
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n; i++, w += Q6_K_BYTES, x++) {
        __m512i q[4], s[4];
        unpack_q6_k(q, w, w + 128);
        unpack_q6_k(q + 2, w + 64, w + 160);
        UNROLL for (size_t j = 0; j < 4; j++) s[j] =
            _mm512_dpbusd_epi32(zero, q[j], _mm512_load_si512(x->x + 64 * j));
        const __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 192)));
        const __m256i offset = _mm256_madd_epi16(scales, _mm256_load_si256((const void *)x->sums));
        const __m512i start = _mm512_zextsi256_si512(_mm256_slli_epi32(offset, 5));
        const __m512i scaled = apply_scales(start, s, scales, q6_k_scales);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_set1_ps(read_half(w + 208) * x->d), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

static void gemv_q6_k(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    for (size_t r = 0; r < row_n; r++) y[r] = dot_q6_k(w + r * row_bytes, act, k / SUPERBLOCK);
}

/* ---- Floats: the activation row, padded with zeros to whole vectors ---------------------------------------
 */

static size_t bytes_float(size_t k) { return (k + 15) / 16 * 16 * sizeof(float); }

static void pack_float(void *act, const float *x, size_t k) {
    float *a = act;
    size_t i = 0;
    for (; i + 16 <= k; i += 16) _mm512_store_ps(a + i, _mm512_loadu_ps(x + i));
    if (i < k) _mm512_store_ps(a + i, _mm512_maskz_loadu_ps(lanes_left(k - i), x + i));
}

enum { CHAINS = 4 }; /* independent sums per row, so that the adds overlap */

/* `row_n` (1 or 2) rows in lockstep; `ahead`: bytes to prefetch ahead, 0 for none. These and `type` are
 * constants. */
INLINE void dot_float(float *y, const uint8_t *w, size_t row_bytes, const size_t row_n, const size_t ahead,
                      const gguf_type type, const float *x, size_t k) {
    const size_t bytes = float_bytes(type);
    __m512 sum[2][CHAINS];
    UNROLL for (size_t r = 0; r < row_n; r++) {
        UNROLL for (size_t c = 0; c < CHAINS; c++) sum[r][c] = _mm512_setzero_ps();
    }
    size_t i = 0;
    for (; i + 16 * CHAINS <= k; i += 16 * CHAINS) {
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const uint8_t *p = w + r * row_bytes + i * bytes;
            if (ahead) {
                UNROLL for (size_t line = 0; line < 16 * CHAINS * bytes; line += LINE)
                    prefetch(p + line, ahead);
            }
            UNROLL for (size_t c = 0; c < CHAINS; c++) {
                const __m512 v = load_float(type, p + 16 * c * bytes, 0xffff);
                sum[r][c] = _mm512_fmadd_ps(v, _mm512_load_ps(x + i + 16 * c), sum[r][c]);
            }
        }
    }
    for (; i < k; i += 16) {
        const __mmask16 lanes = lanes_left(k - i);
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const __m512 v = load_float(type, w + r * row_bytes + i * bytes, lanes);
            sum[r][0] = _mm512_fmadd_ps(v, _mm512_load_ps(x + i), sum[r][0]);
        }
    }
    UNROLL for (size_t r = 0; r < row_n; r++) {
        const __m512 a = _mm512_add_ps(sum[r][0], sum[r][1]), b = _mm512_add_ps(sum[r][2], sum[r][3]);
        y[r] = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    }
}

/* Activations longer than this leave the first level of cache while 16-bit weights stream through it: then
 * two rows share them, with prefetches, since lockstep defeats the hardware's. */
enum { K_SHARED = 4096 };

INLINE void gemv_16_bit(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const gguf_type type,
                        const float *x, size_t k) {
    size_t r = 0;
    if (k > K_SHARED) {
        for (; r + 2 <= row_n; r += 2) {
            dot_float(y + r, w + r * row_bytes, row_bytes, 2, ROWS_AHEAD * row_bytes, type, x, k);
        }
    }
    for (; r < row_n; r++) dot_float(y + r, w + r * row_bytes, row_bytes, 1, 0, type, x, k);
}

static void gemv_f16(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    gemv_16_bit(y, w, row_bytes, row_n, GGUF_F16, act, k);
}
static void gemv_bf16(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    gemv_16_bit(y, w, row_bytes, row_n, GGUF_BF16, act, k);
}
static void gemv_f32(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    for (size_t r = 0; r < row_n; r++) dot_float(y + r, w + r * row_bytes, row_bytes, 1, 0, GGUF_F32, act, k);
}

static void set(cpu_matmul *m, size_t (*bytes)(size_t), void (*pack)(void *, const float *, size_t),
                void (*gemv)(float *, const uint8_t *, size_t, size_t, const void *, size_t)) {
    m->act_bytes = bytes;
    m->act_pack = pack;
    m->gemv = gemv;
}

void avx512_gemv(cpu_kernels *k) {
    set(&k->matmul[GGUF_Q8_0], bytes_q8_0, pack_q8_0, gemv_q8_0);
    set(&k->matmul[GGUF_Q4_0], bytes_q4_0, pack_q4_0, gemv_q4_0);
    set(&k->matmul[GGUF_Q4_K], bytes_k, pack_q4_k, gemv_q4_k);
    set(&k->matmul[GGUF_Q6_K], bytes_k, pack_q6_k, gemv_q6_k);
    set(&k->matmul[GGUF_F32], bytes_float, pack_float, gemv_f32);
    set(&k->matmul[GGUF_F16], bytes_float, pack_float, gemv_f16);
    set(&k->matmul[GGUF_BF16], bytes_float, pack_float, gemv_bf16);
}
