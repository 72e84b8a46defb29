/* avx512_gemv.c - one activation row times weights as they stand in the file (decode).
 *
 * The bytes of the weights come from memory, so these kernels need only keep pace with it. What decides is
 * how the rows are walked. Q8_0, Q6_K and floats: one row at a time, which the hardware prefetcher follows,
 * while the activations stay in the first level of cache. Those of longer rows are shared by rows in
 * lockstep; that defeats the prefetcher, so every line is prefetched eight rows ahead. Other K-quants: one
 * row with prefetches some KB ahead. Prefetches with holes are worse than none. Rows that are scattered
 * (dots) come fastest eight side by side, each asking for one of the next eight: 22 to 25 GB/s a core on Zen
 * 4, where one after the other gives 12, however it is prefetched. Where hardware stops at the ends of pages,
 * all of them go row by row and ask (gemv_asking_*).
 *
 * vpdpbusd multiplies unsigned by signed bytes, so weights are taken as w + offset. Its int32 accumulators
 * start at -offset * (sum of the activations that each lane will meet), packed beside the activations: the
 * offset is exact and costs nothing.
 */
#include "devices/cpu/avx512.h"

#include "devices/cpu/avx2_blocks.h"
#include "devices/cpu/stream.h"

enum { ROWS_AHEAD = 8, K_BYTES_AHEAD = 8192, ASK = 1 };
/* Brings near what is `ahead` bytes behind p (0: nothing), or, where it is the constant ASK, what
 * stream_ask() does. */
INLINE void fetch(const uint8_t *p, size_t ahead) {
    if (__builtin_constant_p(ahead) && ahead == ASK)
        stream_ask(p, ASK_FAR_AND_NEAR);
    else if (ahead)
        prefetch(p, ahead);
}

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

INLINE __m512 two_blocks_q8_0(__m512 sum, const uint8_t *w, const act_q8_0 *x) {
    const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(w + 2)));
    const __m256i second = _mm256_loadu_si256((const void *)(w + Q8_0_BYTES + 2));
    const __m256i halves =
        _mm256_mask_set1_epi16(_mm256_set1_epi16(read_i16(w)), 0xff00, read_i16(w + Q8_0_BYTES));
    return step_q8_0(sum, _mm512_inserti64x4(first, second, 1), halves, x);
}
INLINE __m512 last_block_q8_0(__m512 sum, const uint8_t *w, const act_q8_0 *x) {
    const __m512i first = _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)(w + 2)));
    return step_q8_0(sum, first, _mm256_maskz_set1_epi16(0x00ff, read_i16(w)), x);
}

/* `row_n` (1 or 2) rows in lockstep; `ahead`: as fetch() takes it. Both are constants. */
INLINE void dot_q8_0(float *y, const uint8_t *w, size_t row_bytes, const size_t row_n, const size_t ahead,
                     const act_q8_0 *x, size_t block_n) {
    __m512 sum[2];
    UNROLL for (size_t r = 0; r < row_n; r++) sum[r] = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n / 2; i++, w += 2 * Q8_0_BYTES, x++) {
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const uint8_t *p = w + r * row_bytes;
            fetch(p, ahead); /* a step of 68 bytes meets two lines, or three */
            fetch(p + LINE, ahead);
            sum[r] = two_blocks_q8_0(sum[r], p, x);
        }
    }
    UNROLL for (size_t r = 0; r < row_n; r++) {
        if (block_n % 2) sum[r] = last_block_q8_0(sum[r], w + r * row_bytes, x);
        y[r] = _mm512_reduce_add_ps(sum[r]);
    }
}

static void gemv_asking_q8_0(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,
                             size_t k) {
    for (size_t r = 0; r < row_n; r++) dot_q8_0(y + r, w + r * row_bytes, row_bytes, 1, ASK, act, k / BLOCK);
}

static void gemv_q8_0(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act, size_t k) {
    size_t r = 0;
    if (k > K_ALONE) {
        for (; r + 2 <= row_n; r += 2) {
            dot_q8_0(y + r, w + r * row_bytes, row_bytes, 2, ROWS_AHEAD * row_bytes, act, k / BLOCK);
        }
    }
    for (; r < row_n; r++) dot_q8_0(y + r, w + r * row_bytes, row_bytes, 1, 0, act, k / BLOCK);
}

static void dots_q8_0(float *y, const uint8_t *const *row, const uint8_t *const *next, const void *act,
                      size_t k) {
    const act_q8_0 *x = act;
    __m512 sum[CPU_DOTS];
    UNROLL for (size_t r = 0; r < CPU_DOTS; r++) sum[r] = _mm512_setzero_ps();
    size_t at = 0;
    for (; at + 2 * Q8_0_BYTES <= k / BLOCK * Q8_0_BYTES; at += 2 * Q8_0_BYTES, x++) {
        UNROLL for (size_t r = 0; r < CPU_DOTS; r++) {
            prefetch(next[r], at);
            sum[r] = two_blocks_q8_0(sum[r], row[r] + at, x);
        }
    }
    UNROLL for (size_t r = 0; r < CPU_DOTS; r++) {
        if (k / BLOCK % 2) sum[r] = last_block_q8_0(sum[r], row[r] + at, x);
        y[r] = _mm512_reduce_add_ps(sum[r]);
    }
}

/* ---- K-quants: one block of 256 per step ------------------------------------------------------------ */

/* Sub-scales are applied in integers: lane sums of two quarters are packed to int16 (they fit: at most 63 *
 * 127 * 4) and vpdpwssd multiplies them by scales spread to the same words. */
typedef struct act_k {
    _Alignas(CPU_ALIGN) int8_t x[SUPERBLOCK]; /* in the order in which the weights are unpacked */
    int16_t sums[16];                         /* see pack_q4_k, pack_natural */
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
static const _Alignas(64) uint16_t q4_k_order[2][32] = {
    {0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 2, 2, 3, 3, 3, 3},
    {8,  8,  8,  8,  9,  9,  9,  9,  8,  8,  8,  8,  9,  9,  9,  9,
     10, 10, 10, 10, 11, 11, 11, 11, 10, 10, 10, 10, 11, 11, 11, 11}};

/* start + the sums of four quarters times their scales. */
INLINE __m512i apply_scales(__m512i start, const __m512i s[4], __m256i scales, const uint16_t order[2][32]) {
    const __m512i wide = _mm512_castsi256_si512(scales);
    const __m512i first = _mm512_permutexvar_epi16(_mm512_load_si512(order[0]), wide);
    const __m512i second = _mm512_permutexvar_epi16(_mm512_load_si512(order[1]), wide);
    start = _mm512_dpwssd_epi32(start, _mm512_packs_epi32(s[0], s[1]), first);
    return _mm512_dpwssd_epi32(start, _mm512_packs_epi32(s[2], s[3]), second);
}

INLINE void fetch_block(const uint8_t *w, const size_t bytes, size_t ahead) {
    UNROLL for (size_t line = 0; line < bytes; line += LINE) fetch(w + line, ahead);
}

/* 32 bytes, and the same shifted to the right: bits of group j of a block in the lower half are then as far
 * from the left as those of a later group in the upper one. */
INLINE __m512i bits_twice(const uint8_t *p, const int shift) {
    const __m256i upper = _mm256_set1_epi16((short)shift);
    const __m512i by = _mm512_inserti64x4(_mm512_setzero_si512(), upper, 1);
    return _mm512_srlv_epi16(_mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)p)), by);
}
/* quants | (bits & where), bits shifted to the left, or to the right where `left` is negative */
INLINE __m512i join(__m512i quants, __m512i bits, const int left, const int where) {
    if (left > 0) bits = _mm512_slli_epi16(bits, (unsigned)(left > 0 ? left : 0));
    if (left < 0) bits = _mm512_srli_epi16(bits, (unsigned)(left < 0 ? -left : 0));
    return _mm512_ternarylogic_epi64(quants, bits, _mm512_set1_epi8((char)where), 0xf8);
}

/* Q4_K, and Q5_K with a fifth bit of group j at bit j of 32 bytes. */
INLINE float dot_q4_k(const uint8_t *w, const act_k *x, size_t block_n, size_t ahead, const bool five_bits) {
    const __m512i zero = _mm512_setzero_si512();
    const size_t bytes = five_bits ? Q5_K_BYTES : Q4_K_BYTES, quants = five_bits ? 48 : 16;
    __m512 sum = _mm512_setzero_ps();
    __m256 min_sum = _mm256_setzero_ps();
    for (size_t i = 0; i < block_n; i++, w += bytes, x++) {
        fetch_block(w, bytes, ahead);
        const __m512i w0 = _mm512_loadu_si512(w + quants), w1 = _mm512_loadu_si512(w + quants + 64);
        __m512i q[4] = {low_nibbles(w0), high_nibbles(w0), low_nibbles(w1), high_nibbles(w1)}, s[4];
        if (five_bits) { /* groups 0 and 2, 1 and 3, 4 and 6, 5 and 7 */
            const __m512i bits = bits_twice(w + 16, 2);
            q[0] = join(q[0], bits, 4, 16);
            q[1] = join(q[1], bits, 3, 16);
            q[2] = join(q[2], bits, 0, 16);
            q[3] = join(q[3], bits, -1, 16);
        }
        UNROLL for (size_t j = 0; j < 4; j++) s[j] =
            _mm512_dpbusd_epi32(zero, q[j], _mm512_load_si512(x->x + 64 * j));
        const __m256i scales = _mm256_cvtepu8_epi16(q4_k_scales(w + 4));
        const __m512i scaled = apply_scales(zero, s, scales, q4_k_order);
        const __m256i mins = _mm256_madd_epi16(scales, _mm256_load_si256((const void *)x->sums));
        const __m128 d =
            _mm_mul_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(read_i32(w))), _mm_set1_ps(x->d)); /* d, dmin */
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_broadcastss_ps(d), sum);
        min_sum =
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(mins), _mm256_broadcastss_ps(_mm_movehdup_ps(d)), min_sum);
    }
    return _mm512_reduce_add_ps(_mm512_sub_ps(sum, _mm512_zextps256_ps512(min_sum)));
}

/* The others unpack in natural order. Sums: minus those of 16 values, which together with the scales undo an
 * offset, or meet the minima. */
static void pack_natural(void *act, const float *x, size_t k) {
    act_k *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        memset(a, 0, sizeof *a);
        a->d = quantise(a->x, x + i, SUPERBLOCK);
        for (size_t j = 0; j < 16; j++) a->sums[j] = (int16_t)-sum_i8(a->x + 16 * j, 16);
    }
}

/* As q4_k_order, of 16 scales: a lane quarter holds one group of 16. */
static const _Alignas(64) uint16_t natural_order[2][32] = {
    {0, 0, 0, 0, 4, 4, 4, 4, 1, 1, 1, 1, 5, 5, 5, 5, 2, 2, 2, 2, 6, 6, 6, 6, 3, 3, 3, 3, 7, 7, 7, 7},
    {8,  8,  8,  8,  12, 12, 12, 12, 9,  9,  9,  9,  13, 13, 13, 13,
     10, 10, 10, 10, 14, 14, 14, 14, 11, 11, 11, 11, 15, 15, 15, 15}};

/* Half a block: 64 bytes of low nibbles and 32 bytes of two upper bits make 128 weights + 32. */
INLINE void unpack_q6_k(__m512i w[2], const uint8_t *low, const uint8_t *high) {
    const __m512i to_4_left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i to_4_right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
    const __m512i nibbles = _mm512_loadu_si512(low);
    const __m512i bits = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)high));
    w[0] = join(low_nibbles(nibbles), _mm512_sllv_epi16(bits, to_4_left), 0, 0x30);
    w[1] = join(high_nibbles(nibbles), _mm512_srlv_epi16(bits, to_4_right), 0, 0x30);
}

INLINE float dot_q6_k(const uint8_t *w, const act_k *x, size_t block_n, size_t ahead) {
    const __m512i zero = _mm512_setzero_si512();
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n; i++, w += Q6_K_BYTES, x++) {
        __m512i q[4], s[4];
        fetch_block(w, Q6_K_BYTES, ahead);
        unpack_q6_k(q, w, w + 128);
        unpack_q6_k(q + 2, w + 64, w + 160);
        UNROLL for (size_t j = 0; j < 4; j++) s[j] =
            _mm512_dpbusd_epi32(zero, q[j], _mm512_load_si512(x->x + 64 * j));
        const __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 192)));
        const __m256i offset = _mm256_madd_epi16(scales, _mm256_load_si256((const void *)x->sums));
        const __m512i start = _mm512_zextsi256_si512(_mm256_slli_epi32(offset, 5));
        const __m512i scaled = apply_scales(start, s, scales, natural_order);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_set1_ps(read_half(w + 208) * x->d), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Q2_K and Q3_K: 64 bytes hold the lower two bits; bits 2j and 2j + 1 those of runs j (32 bytes) and 4 + j.
 * Activations stand likewise, and a quarter of a vector is a group of 16. */
static void pack_pairs(void *act, const float *x, size_t k) {
    pack_natural(act, x, k);
    act_k *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        int8_t q[8][BLOCK];
        memcpy(q, a->x, sizeof q);
        for (size_t run = 0; run < 8; run++) memcpy(a->x + 64 * (run % 4) + 32 * (run / 4), q[run], BLOCK);
    }
}
static const _Alignas(64) uint16_t pairs_order[2][32] = {
    {0, 0, 0, 0, 2, 2, 2, 2, 1, 1, 1, 1, 3, 3, 3, 3, 8, 8, 8, 8, 10, 10, 10, 10, 9, 9, 9, 9, 11, 11, 11, 11},
    {4,  4,  4,  4,  6,  6,  6,  6,  5,  5,  5,  5,  7,  7,  7,  7,
     12, 12, 12, 12, 14, 14, 14, 14, 13, 13, 13, 13, 15, 15, 15, 15}};

INLINE void unpack_pairs(__m512i q[4], const uint8_t *pairs, const uint8_t *third_bits) {
    const __m512i v = _mm512_loadu_si512(pairs), three = _mm512_set1_epi8(3);
    q[0] = _mm512_and_si512(v, three);
    q[1] = _mm512_and_si512(_mm512_srli_epi16(v, 2), three);
    q[2] = _mm512_and_si512(_mm512_srli_epi16(v, 4), three);
    q[3] = _mm512_and_si512(_mm512_srli_epi16(v, 6), three);
    if (!third_bits) return;
    const __m512i bits = bits_twice(third_bits, 4);
    q[0] = join(q[0], bits, 2, 4);
    q[1] = join(q[1], bits, 1, 4);
    q[2] = join(q[2], bits, 0, 4);
    q[3] = join(q[3], bits, -1, 4);
}

INLINE float dot_pairs(const uint8_t *w, const act_k *x, size_t block_n, size_t ahead, const fast_form f) {
    const __m512i zero = _mm512_setzero_si512();
    const size_t quants = f.high_bits ? offsetof(quant_q3_k, q) : offsetof(quant_q2_k, q);
    __m512 sum = _mm512_setzero_ps();
    __m256 min_sum = _mm256_setzero_ps();
    for (size_t i = 0; i < block_n; i++, w += f.block_bytes, x++) {
        __m512i q[4], s[4], start = zero;
        __m128i scale, min;
        fetch_block(w, f.block_bytes, ahead);
        unpack_pairs(q, w + quants, f.high_bits ? w + offsetof(quant_q3_k, high) : NULL);
        UNROLL for (size_t j = 0; j < 4; j++) s[j] =
            _mm512_dpbusd_epi32(zero, q[j], _mm512_load_si512(x->x + 64 * j));
        f.numbers(&scale, &min, w);
        const __m256i scales = _mm256_cvtepi8_epi16(scale), sums = _mm256_load_si256((const void *)x->sums);
        if (f.offset) /* 4 */
            start = _mm512_zextsi256_si512(_mm256_slli_epi32(_mm256_madd_epi16(scales, sums), 2));
        const __m512i scaled = apply_scales(start, s, scales, pairs_order);
        const __m128i halves = f.has_min ? _mm_cvtsi32_si128(read_i32(w + f.d_at)) /* d, dmin */
                                         : _mm_set1_epi16(read_i16(w + f.d_at));
        const __m128 d = _mm_mul_ps(_mm_cvtph_ps(halves), _mm_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_broadcastss_ps(d), sum);
        if (!f.has_min) continue;
        const __m256i mins = _mm256_madd_epi16(_mm256_cvtepi8_epi16(min), sums);
        min_sum =
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(mins), _mm256_broadcastss_ps(_mm_movehdup_ps(d)), min_sum);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, _mm512_zextps256_ps512(min_sum)));
}

/* IQ4_XS: 64 bytes hold four groups, a quarter each, in low nibbles their first halves. */
typedef struct act_iq4_xs {
    _Alignas(CPU_ALIGN) int8_t x[2][2][4][16]; /* [groups 0-3 | 4-7][low | high][group] */
    int32_t start[2][16];                      /* by lane: -128 * (sum of its eight x) */
    float d;
} act_iq4_xs;

static size_t bytes_iq4_xs(size_t k) { return k / SUPERBLOCK * sizeof(act_iq4_xs); }

static void pack_iq4_xs(void *act, const float *x, size_t k) {
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi8(1);
    act_iq4_xs *a = act;
    for (size_t i = 0; i < k; i += SUPERBLOCK, a++) {
        int8_t q[SUPERBLOCK];
        memset(a, 0, sizeof *a);
        a->d = quantise(q, x + i, SUPERBLOCK);
        for (size_t j = 0; j < 16; j++) memcpy(a->x[j / 8][j % 2][j % 8 / 2], q + 16 * j, 16);
        for (size_t h = 0; h < 2; h++) {
            const __m512i low = _mm512_dpbusd_epi32(zero, one, _mm512_load_si512(a->x[h][0]));
            const __m512i sums = _mm512_dpbusd_epi32(low, one, _mm512_load_si512(a->x[h][1]));
            _mm512_store_si512(a->start[h], _mm512_sub_epi32(zero, _mm512_slli_epi32(sums, 7)));
        }
    }
}

INLINE float dot_iq4_xs(const uint8_t *w, const act_iq4_xs *x, size_t block_n, size_t ahead) {
    const __m512i flip = _mm512_set1_epi8((char)0x80); /* values + 128 */
    const __m512i table =
        _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)quant_iq4_values)), flip);
    static const _Alignas(64) uint32_t groups[2][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                                        {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7}};
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < block_n; i++, w += sizeof(quant_iq4_xs), x++) {
        fetch_block(w, sizeof(quant_iq4_xs), ahead);
        const __m512i scales = _mm512_castsi256_si512(iq4_xs_scales(w));
        __m512i s[2];
        UNROLL for (size_t h = 0; h < 2; h++) {
            const __m512i v = _mm512_loadu_si512(w + offsetof(quant_iq4_xs, q) + 64 * h);
            const __m512i low = _mm512_shuffle_epi8(table, low_nibbles(v));
            const __m512i high = _mm512_shuffle_epi8(table, high_nibbles(v));
            s[h] = _mm512_dpbusd_epi32(_mm512_load_si512(x->start[h]), low, _mm512_load_si512(x->x[h][0]));
            s[h] = _mm512_dpbusd_epi32(s[h], high, _mm512_load_si512(x->x[h][1]));
            s[h] = _mm512_mullo_epi32(s[h], _mm512_permutexvar_epi32(_mm512_load_si512(groups[h]), scales));
        }
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(s[0], s[1])),
                              _mm512_set1_ps(read_half(w) * x->d), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* gemv and dots of a type by its `dot`, which asks for what is `ahead` bytes further on: gemv_ahead in a
 * stream of rows. */
#define ROW_BY_ROW(type, gemv_ahead, dot)                                                                    \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        const size_t ahead = gemv_ahead;                                                                     \
        for (size_t r = 0; r < row_n; r++, w += row_bytes) y[r] = dot;                                       \
    }                                                                                                        \
    static void gemv_asking_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n,               \
                                   const void *act, size_t k) {                                              \
        const size_t ahead = ASK;                                                                            \
        for (size_t r = 0; r < row_n; r++, w += row_bytes) y[r] = dot;                                       \
    }                                                                                                        \
    DOTS_BY_ROW(type, dot)
ROW_BY_ROW(q2_k, K_BYTES_AHEAD, dot_pairs(w, act, k / SUPERBLOCK, ahead, FAST_Q2_K))
ROW_BY_ROW(q3_k, K_BYTES_AHEAD, dot_pairs(w, act, k / SUPERBLOCK, ahead, FAST_Q3_K))
ROW_BY_ROW(q4_k, K_BYTES_AHEAD, dot_q4_k(w, act, k / SUPERBLOCK, ahead, false))
ROW_BY_ROW(q5_k, K_BYTES_AHEAD, dot_q4_k(w, act, k / SUPERBLOCK, ahead, true))
ROW_BY_ROW(q6_k, 0, dot_q6_k(w, act, k / SUPERBLOCK, ahead))
ROW_BY_ROW(iq4_xs, K_BYTES_AHEAD, dot_iq4_xs(w, act, k / SUPERBLOCK, ahead))

/* ---- Floats: the activation row, padded with zeros to whole lines ---------------------------------- */

enum {
    LINE_WEIGHTS = 32 /* of 16 bits */,
    LOCKSTEP = 8,
    CHAINS = 4 /* sums of a row, so that the adds overlap */
};

static size_t bytes_float(size_t k) { return (size_t)round_up(k, LINE_WEIGHTS) * sizeof(float); }

static void pack_float(void *act, const float *x, size_t k) {
    memcpy(act, x, k * sizeof *x);
    memset((float *)act + k, 0, bytes_float(k) - k * sizeof *x);
}

/* Of each line the even ones, then the odd ones: BF16 in the upper halves of 32 bits are floats. */
static void pack_bf16(void *act, const float *x, size_t k) {
    float *a = act;
    for (size_t i = 0; i < k; i += LINE_WEIGHTS, a += LINE_WEIGHTS)
        for (size_t j = 0; j < LINE_WEIGHTS / 2; j++) {
            a[j] = i + 2 * j < k ? x[i + 2 * j] : 0;
            a[LINE_WEIGHTS / 2 + j] = i + 2 * j + 1 < k ? x[i + 2 * j + 1] : 0;
        }
}

/* A line of weights, read whole: half a line at a time comes slower from memory. */
INLINE void add_line(__m512 sum[2], __m512i w, const gguf_type type, const float *x) {
    __m512 first, second;
    if (type == GGUF_F16) {
        first = _mm512_cvtph_ps(_mm512_castsi512_si256(w));
        second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(w, 1));
    } else {
        first = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
        second = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
    }
    sum[0] = _mm512_fmadd_ps(first, _mm512_load_ps(x), sum[0]);
    sum[1] = _mm512_fmadd_ps(second, _mm512_load_ps(x + LINE_WEIGHTS / 2), sum[1]);
}

/* The sums of row w up to its weight i, and what follows. */
INLINE float total(__m512 sum[CHAINS], const size_t line_n, const uint8_t *w, size_t i, const gguf_type type,
                   const float *x, size_t k) {
    for (; i < k; i += LINE_WEIGHTS) {
        const __mmask64 bytes = k - i < LINE_WEIGHTS ? ((__mmask64)1 << 2 * (k - i)) - 1 : ~(__mmask64)0;
        add_line(sum, _mm512_maskz_loadu_epi8(bytes, w + 2 * i), type, x + i);
    }
    __m512 all = _mm512_add_ps(sum[0], sum[1]);
    if (line_n == 2) all = _mm512_add_ps(all, _mm512_add_ps(sum[2], sum[3]));
    return _mm512_reduce_add_ps(all);
}

/* `row_n` (1 or LOCKSTEP) rows in lockstep, `line_n` (1 or 2) lines of each at a time; `ahead`: as fetch()
 * takes it. These and `type` are constants. */
INLINE void dot_16_bit(float *y, const uint8_t *w, size_t row_bytes, const size_t row_n, const size_t line_n,
                       const size_t ahead, const gguf_type type, const float *x, size_t k) {
    __m512 sum[LOCKSTEP][CHAINS];
    UNROLL for (size_t r = 0; r < row_n; r++) {
        UNROLL for (size_t c = 0; c < 2 * line_n; c++) sum[r][c] = _mm512_setzero_ps();
    }
    size_t i = 0;
    for (; i + LINE_WEIGHTS * line_n <= k; i += LINE_WEIGHTS * line_n) {
        UNROLL for (size_t r = 0; r < row_n; r++) {
            UNROLL for (size_t l = 0; l < line_n; l++) {
                const uint8_t *p = w + r * row_bytes + 2 * i + LINE * l;
                fetch(p, ahead);
                __m512i line = _mm512_loadu_si512(p);
                if (ahead == ASK) STREAM_KEEP(line);
                add_line(sum[r] + 2 * l, line, type, x + i + LINE_WEIGHTS * l);
            }
        }
    }
    UNROLL for (size_t r = 0; r < row_n; r++) y[r] = total(sum[r], line_n, w + r * row_bytes, i, type, x, k);
}

INLINE void gemv_16_bit(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const size_t ahead,
                        const gguf_type type, const float *x, size_t k) {
    size_t r = 0;
    if (k <= K_ALONE) {
        for (; r < row_n; r++) dot_16_bit(y + r, w + r * row_bytes, row_bytes, 1, 2, ahead, type, x, k);
        return;
    }
    for (; r + LOCKSTEP <= row_n && ahead != ASK; r += LOCKSTEP) {
        dot_16_bit(y + r, w + r * row_bytes, row_bytes, LOCKSTEP, 1, ROWS_AHEAD * row_bytes, type, x, k);
    }
    for (; r < row_n; r++) dot_16_bit(y + r, w + r * row_bytes, row_bytes, 1, 1, ahead, type, x, k);
}

/* Sums as dot_16_bit() has them, of rows that may stand anywhere. */
INLINE void dots_16_bit(float *y, const uint8_t *const *row, const uint8_t *const *next, const size_t line_n,
                        const gguf_type type, const float *x, size_t k) {
    __m512 sum[CPU_DOTS][CHAINS];
    UNROLL for (size_t r = 0; r < CPU_DOTS; r++) {
        UNROLL for (size_t c = 0; c < 2 * line_n; c++) sum[r][c] = _mm512_setzero_ps();
    }
    size_t i = 0;
    for (; i + LINE_WEIGHTS * line_n <= k; i += LINE_WEIGHTS * line_n) {
        UNROLL for (size_t l = 0; l < line_n; l++) {
            UNROLL for (size_t r = 0; r < CPU_DOTS; r++) {
                prefetch(next[r], 2 * i + LINE * l);
                add_line(sum[r] + 2 * l, _mm512_loadu_si512(row[r] + 2 * i + LINE * l), type,
                         x + i + LINE_WEIGHTS * l);
            }
        }
    }
    UNROLL for (size_t r = 0; r < CPU_DOTS; r++) y[r] = total(sum[r], line_n, row[r], i, type, x, k);
}

#define ROWS_16_BIT(type, TYPE)                                                                              \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        gemv_16_bit(y, w, row_bytes, row_n, 0, GGUF_##TYPE, act, k);                                         \
    }                                                                                                        \
    static void gemv_asking_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n,               \
                                   const void *act, size_t k) {                                              \
        gemv_16_bit(y, w, row_bytes, row_n, ASK, GGUF_##TYPE, act, k);                                       \
    }                                                                                                        \
    static void dots_##type(float *y, const uint8_t *const *row, const uint8_t *const *next,                 \
                            const void *act, size_t k) {                                                     \
        if (k <= K_ALONE)                                                                                    \
            dots_16_bit(y, row, next, 2, GGUF_##TYPE, act, k);                                               \
        else                                                                                                 \
            dots_16_bit(y, row, next, 1, GGUF_##TYPE, act, k);                                               \
    }
ROWS_16_BIT(f16, F16)
ROWS_16_BIT(bf16, BF16)

INLINE float dot_f32(const uint8_t *w, const float *x, size_t k, size_t ahead) {
    __m512 sum[CHAINS];
    UNROLL for (size_t c = 0; c < CHAINS; c++) sum[c] = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 * CHAINS <= k; i += 16 * CHAINS) {
        UNROLL for (size_t c = 0; c < CHAINS; c++) {
            const uint8_t *p = w + (i + 16 * c) * sizeof *x;
            fetch(p, ahead);
            sum[c] = _mm512_fmadd_ps(_mm512_loadu_ps(p), _mm512_load_ps(x + i + 16 * c), sum[c]);
        }
    }
    for (; i < k; i += 16)
        sum[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes_left(k - i), w + i * sizeof *x),
                                 _mm512_load_ps(x + i), sum[0]);
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
}
ROW_BY_ROW(f32, 0, dot_f32(w, act, k, ahead))

#define SET(type, TYPE, bytes, pack)                                                                         \
    cpu_set_gemv(&k->matmul[GGUF_##TYPE], bytes, pack, k->ask_ahead ? gemv_asking_##type : gemv_##type);     \
    k->matmul[GGUF_##TYPE].dots = dots_##type;

void avx512_gemv(cpu_kernels *k) {
    SET(q8_0, Q8_0, bytes_q8_0, pack_q8_0)
    SET(q4_k, Q4_K, bytes_k, pack_q4_k)
    SET(q2_k, Q2_K, bytes_k, pack_pairs)
    SET(q3_k, Q3_K, bytes_k, pack_pairs)
    SET(q5_k, Q5_K, bytes_k, pack_q4_k)
    SET(q6_k, Q6_K, bytes_k, pack_natural)
    SET(iq4_xs, IQ4_XS, bytes_iq4_xs, pack_iq4_xs)
    SET(f32, F32, bytes_float, pack_float)
    SET(f16, F16, bytes_float, pack_float)
    SET(bf16, BF16, bytes_float, pack_bf16)
}
