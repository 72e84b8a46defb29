/* avx2_lanes_k.h - one activation row times interleaved rows of K-quants: what avx2_lanes_k.c and
 * avxvnni_lanes.c share.
 *
 * As avx2_lanes_32.h: a lane is a row. 16 bits hold the sums of groups of weights, whose scale, an integer,
 * then multiplies them. A lane has two such sums, each of half of the weights; or, where vpdpbusd multiplies,
 * one in 32 bits, which must fit 16 all the same: of half as many weights.
 */
#ifndef HOTSET_CPU_AVX2_LANES_K_H
#define HOTSET_CPU_AVX2_LANES_K_H

#include "devices/cpu/avx2_lanes.h"

enum { GROUPS_MAX = 16 };
typedef struct act_k {
    int8_t x[256];
    int32_t start[GROUPS_MAX]; /* of sums of groups of 16: takes offsets of quads off */
    int16_t sums[GROUPS_MAX];  /* of groups of 16, or of 32, in the order of pack_k */
    float d;
} act_k;

static size_t bytes_k(size_t k) { return k / 256 * sizeof(act_k); }

/* Sums stand in pairs as the minima do where bytes are taken as words: of each four groups 0 2 | 1 3. */
AVX2_INLINE void pack_k(act_k *a, const float *x, size_t k, const size_t group_n, const int offset[4]) {
    static const uint8_t place[4] = {0, 2, 1, 3};
    for (size_t i = 0; i < k; i += 256, a++) {
        int16_t sums[16];
        a->d = act_pack_sums(a->x, sums, x + i);
        for (size_t j = 0; j < 16; j++) {
            const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), load_128(a->x + 16 * j));
            const int off = offset[j / 2 % 4];
            a->start[j] = HAS_VPDPBUSD ? -off * sum_of(pairs) : lane_start(pairs, off);
        }
        for (size_t j = 0; j < group_n; j++)
            a->sums[j / 4 * 4 + place[j % 4]] =
                group_n == 16 ? sums[j] : (int16_t)(sums[2 * j] + sums[2 * j + 1]);
    }
}

/* ---- Scales and minima: four bytes to a lane ------------------------------------------------------------
 */

/* Byte j of each lane for each sum there, or in the upper halves of these 16 bits: times 256, signed. */
AVX2_INLINE __m256i byte_for_sums(__m256i v, const int j, const bool times_256) {
    const uint32_t taken = (HAS_VPDPBUSD ? 0xffu : 0xff00ffu) << (times_256 ? 8 : 0);
    const __m128i byte =
        _mm_setr_epi32(0x01010101 * j, 0x01010101 * (j + 4), 0x01010101 * (j + 8), 0x01010101 * (j + 12));
    const __m128i order = _mm_or_si128(byte, _mm_set1_epi32((int)(0x80808080u & ~taken)));
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order));
}

/* The same, signed. */
AVX2_INLINE __m256i signed_byte_for_sums(__m256i v, const int j) {
    return _mm256_srai_epi16(byte_for_sums(v, j, true), 8);
}

/* s + products of two neighbouring 16 bits, added */
AVX2_INLINE __m256i add_word_products(__m256i s, __m256i a, __m256i b) {
#if HAS_VPDPBUSD
    return _mm256_dpwssd_avx_epi32(s, a, b);
#else
    return _mm256_add_epi32(s, _mm256_madd_epi16(a, b));
#endif
}

/* Adds the minima of four groups, a byte each, times the sums of the groups' activations. */
AVX2_INLINE __m256i add_minima(__m256i s, __m256i min, const int16_t sums[4]) {
    const __m256i even = _mm256_and_si256(min, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(min, 8);
    return add_word_products(add_word_products(s, even, broadcast_4(sums)), odd, broadcast_4(sums + 2));
}

/* sum + d scaled - dmin minima */
AVX2_INLINE __m256 add_block(__m256 sum, __m256i scaled, __m256i minima, __m256i d_dmin, __m256 xd) {
    const half_pairs head = halves_of(d_dmin);
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled), _mm256_mul_ps(head.lower, xd), sum);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima), _mm256_mul_ps(head.upper, xd), sum);
}

/* s += quads times `quad` */
AVX2_INLINE __m256i add_quads(__m256i s, __m256i quads, __m256i quad) {
    return opaque(add_products(s, quads, quad));
}

/* Bits that stand before the others, bit i of byte l for weight 32 i + l: loaded at once. */
typedef struct upper_bits {
    __m256i v[8][HALVES];
} upper_bits;

AVX2_INLINE void load_upper(upper_bits *b, row_stream w, size_t at) {
    AVX2_UNROLL
    for (size_t i = 0; i < 8 * HALVES; i++)
        b->v[i / HALVES][i % HALVES] = opaque(load_words(w, at + i / HALVES * 4, i % HALVES));
}

/* ---- Q4_K, and Q5_K with fifth bits ---------------------------------------------------------------------
 */

/* Scales and minima of groups 0-3 and of 4-7 (devices/quant.h). */
typedef struct numbers_q4_k {
    __m256i scale[2], min[2];
} numbers_q4_k;

AVX2_INLINE numbers_q4_k numbers_of(row_stream w, int h) {
    const __m256i s0 = load_words(w, 4, h), s1 = load_words(w, 8, h), s2 = load_words(w, 12, h);
    return (numbers_q4_k){
        {masked(s0, 0x3f), _mm256_or_si256(low_nibbles(s2), masked(_mm256_srli_epi16(s0, 2), 0x30))},
        {masked(s1, 0x3f), _mm256_or_si256(high_nibbles(s2), masked(_mm256_srli_epi16(s1, 2), 0x30))},
    };
}

/* Adds groups 2c and 2c + 1, scaled. 16 bits hold the sum of 16 4-bit quants, 16 * 15 * 127, but only of 8
 * with fifth bits. */
AVX2_INLINE void add_two_groups(__m256i scaled[HALVES], row_stream words, const int8_t *x,
                                const numbers_q4_k n[HALVES], const upper_bits *fifth, const int c) {
    const int word_n = (HAS_VPDPBUSD ? 4 : 8) / (fifth ? 2 : 1);
    __m256i s[2][HALVES];
    AVX2_UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i first = broadcast_4(x + 4 * g), second = broadcast_4(x + 32 + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(words, 4 * (size_t)g, h);
            __m256i low = low_nibbles(v), high = high_nibbles(v);
            if (fifth) {
                low = _mm256_or_si256(low, masked(moved(fifth->v[g][h], 4 - 2 * c), 16));
                high = _mm256_or_si256(high, masked(moved(fifth->v[g][h], 3 - 2 * c), 16));
            }
            if (g % word_n == 0) s[0][h] = s[1][h] = _mm256_setzero_si256();
            s[0][h] = add_quads(s[0][h], low, first);
            s[1][h] = add_quads(s[1][h], high, second);
        }
        if (g % word_n != word_n - 1) continue;
        AVX2_UNROLL
        for (int i = 0; i < 2 * HALVES; i++) {
            const int h = i / 2, group = 2 * c + i % 2;
            const __m256i scale = byte_for_sums(n[h].scale[group / 4], group % 4, false);
            scaled[h] = add_word_products(scaled[h], s[i % 2][h], scale);
        }
    }
}

AVX2_INLINE void rows_q4_k(float *y, row_stream w, const act_k *x, size_t block_n, const bool five_bits) {
    const size_t block_bytes = five_bits ? sizeof(quant_q5_k) : sizeof(quant_q4_k);
    const size_t quants_at = five_bits ? offsetof(quant_q5_k, q) : offsetof(quant_q4_k, q);
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * block_bytes, x++) {
        const numbers_q4_k n[HALVES] = {numbers_of(w, 0), numbers_of(w, 1)};
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        upper_bits fifth;
        if (five_bits) load_upper(&fifth, w, offsetof(quant_q5_k, high));
        AVX2_UNROLL
        for (int c = 0; c < 4; c++)
            add_two_groups(scaled, (row_stream){w.at + ROWS * (quants_at + 32 * (size_t)c), w.ask},
                           x->x + 64 * c, n, five_bits ? &fifth : NULL, c);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i minima = add_minima(add_minima(_mm256_setzero_si256(), n[h].min[0], x->sums),
                                              n[h].min[1], x->sums + 4);
            sum[h] = add_block(sum[h], scaled[h], minima, load_words(w, 0, h), _mm256_broadcast_ss(&x->d));
        }
    }
    store_rows(y, sum);
}

/* ---- Groups of 16: Q2_K, Q3_K and Q6_K ------------------------------------------------------------------
 */

/* What these types share: a word of pairs of bits has four weights of groups j, j + 2, j + 4 and j + 6. The
 * bytes are read in the order in which they stand, or the hardware would not fetch them ahead: so sums of all
 * groups are kept until their scales come. */
typedef struct form_16 {
    size_t block_bytes, pairs_at, d_at;
    int pairs_up;   /* the lowest bit of a pair in a quant */
    int left[4];    /* pairs are taken times 2^left[n], which saves moving them */
    int offset;     /* of quants, as a multiple of pairs */
    bool has_third; /* bits, before the others */
    bool has_min;
    int scales_up; /* 8: signed scales are taken times 256, which needs no shift; 0: as they are */
    /* Of groups 4i to 4i + 3. */
    __m256i (*scales)(row_stream w, const int i, int h);
    /* Adds nibbles, which stand before the pairs, to sums of their own or, where lanes have two, to the same;
     * scales are signed. NULL: there are none. */
    void (*nibbles)(__m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x);
} form_16;

AVX2_INLINE __m256i scales_q2_k(row_stream w, const int i, int h) {
    return low_nibbles(load_words(w, 4 * (size_t)i, h));
}
AVX2_INLINE __m256i scales_q3_k(row_stream w, const int i, int h) {
    const size_t at = offsetof(quant_q3_k, scales);
    const __m256i nibbles = load_words(w, at + (size_t)i % 2 * 4, h), top = load_words(w, at + 8, h);
    return _mm256_sub_epi8(_mm256_or_si256(i < 2 ? low_nibbles(nibbles) : high_nibbles(nibbles),
                                           masked(moved(top, 4 - 2 * i), 0x30)),
                           _mm256_set1_epi8(32));
}

AVX2_INLINE __m256i scales_q6_k(row_stream w, const int i, int h) {
    return load_words(w, offsetof(quant_q6_k, scales) + 4 * (size_t)i, h);
}

/* Nibbles of Q6_K. */
AVX2_INLINE void add_nibbles(__m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x) {
    AVX2_UNROLL
    for (size_t i = 0; i < 8; i++) { /* groups j and j + 4 */
        const size_t j = i / 4 * 8 + i % 4;
        AVX2_UNROLL
        for (size_t g = 0; g < 4; g++) {
            const int8_t *quads = x->x + 16 * j + 4 * g;
            const __m256i first = broadcast_4(quads), second = broadcast_4(quads + 64);
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                const __m256i v = load_words(w, 16 * i + 4 * g, h);
                s[j][h] = add_quads(s[j][h], low_nibbles(v), first);
                s[j + 4][h] = add_quads(s[j + 4][h], high_nibbles(v), second);
            }
        }
    }
}

#define FORM_16(type, ...)                                                                                   \
    ((form_16){.block_bytes = sizeof(quant_##type),                                                          \
               .d_at = offsetof(quant_##type, d),                                                            \
               .scales = scales_##type,                                                                      \
               __VA_ARGS__})
#define FORM_Q2_K FORM_16(q2_k, .pairs_at = offsetof(quant_q2_k, q), .left = {0, 2, 0, 2}, .has_min = true)
#define FORM_Q3_K                                                                                            \
    FORM_16(q3_k, .pairs_at = offsetof(quant_q3_k, q), .left = {0, 1, 2, HAS_VPDPBUSD ? 2 : 3}, .offset = 4, \
            .has_third = true, .scales_up = 8)
#define FORM_Q6_K                                                                                            \
    FORM_16(q6_k, .pairs_at = offsetof(quant_q6_k, qh), .pairs_up = 4, .left = LEFT_Q6_K, .offset = 2,       \
            .nibbles = add_nibbles)
/* Two sums in a lane hold a group of whole quants, of which the pairs are bits 4 and 5; one sum does not. */
#if HAS_VPDPBUSD
#define LEFT_Q6_K                                                                                            \
    { 0, 2, 0, 2 }
#else
#define LEFT_Q6_K                                                                                            \
    { 4, 4, 4, 4 }
#endif

AVX2_INLINE void add_pairs(__m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x, const form_16 f) {
    upper_bits third; /* bit i of byte l of weight 32 i + l */
    if (f.has_third) load_upper(&third, w, 0);
    AVX2_UNROLL
    for (size_t i = 0; i < 16; i++) {
        __m256i v[HALVES];
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) v[h] = load_words(w, f.pairs_at + 4 * i, h);
        AVX2_UNROLL
        for (int n = 0; n < 4; n++) {
            const size_t group = i / 8 * 8 + i / 4 % 2 + 2 * (size_t)n;
            const int left = f.left[n], bit = (int)(i / 8) * 4 + n;
            const __m256i quad = broadcast_4(x->x + 16 * group + i % 4 * 4);
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                __m256i q = masked(moved(v[h], left - 2 * n), 3 << left);
                if (f.has_third)
                    q = _mm256_or_si256(q, masked(moved(third.v[i % 8][h], 2 + left - bit), 4 << left));
                s[group][h] = add_quads(s[group][h], q, quad);
            }
        }
    }
}

/* Each lane times 2^left, or without its lowest -left bits, which are zero. */
AVX2_INLINE __m256i lanes_moved(__m256i v, const int left) {
    return left > 0 ? _mm256_slli_epi32(v, left) : left < 0 ? _mm256_srai_epi32(v, -left) : v;
}

/* Sums of all groups of eight rows, scaled. 32 bits hold them times 2^(scales_up + left): of Q3_K, 4 groups *
 * 256 * 32 * (16 * 4 * 127 * 2^3) < 2^31. */
AVX2_INLINE __m256i scaled_16(__m256i s[GROUPS_MAX][HALVES], __m256i nibbles[GROUPS_MAX][HALVES],
                              row_stream w, const int h, const form_16 f) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i scaled[4] = {zero, zero, zero, zero}, sum = zero;
    AVX2_UNROLL
    for (int j = 0; j < GROUPS_MAX; j += 4) {
        const __m256i scales = f.scales(w, j / 4, h);
        AVX2_UNROLL
        for (int i = 0; i < 4; i++) {
            const int n = (j + i) / 2 % 4;
            const __m256i scale =
                f.nibbles ? signed_byte_for_sums(scales, i) : byte_for_sums(scales, i, f.scales_up == 8);
            scaled[n] = opaque(add_word_products(scaled[n], s[j + i][h], scale));
            if (nibbles) sum = opaque(add_word_products(sum, nibbles[j + i][h], scale));
        }
    }
    AVX2_UNROLL
    for (int n = 0; n < 4; n++)
        sum = _mm256_add_epi32(sum, lanes_moved(scaled[n], f.pairs_up - f.left[n] - f.scales_up));
    return sum;
}

AVX2_INLINE __m256 add_block_16(__m256 sum, __m256i scaled, row_stream w, const act_k *x, const int h,
                                const form_16 f) {
    const __m256 xd = _mm256_broadcast_ss(&x->d);
    if (!f.has_min)
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled), _mm256_mul_ps(halves_at(w, f.d_at, h), xd), sum);
    __m256i minima = _mm256_setzero_si256();
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++)
        minima = add_minima(minima, high_nibbles(load_words(w, 4 * i, h)), x->sums + 4 * i);
    return add_block(sum, scaled, minima, load_words(w, f.d_at, h), xd);
}

AVX2_INLINE void rows_16(float *y, row_stream w, const act_k *x, size_t block_n, const form_16 f) {
    const bool apart = HAS_VPDPBUSD && f.nibbles;
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * f.block_bytes, x++) {
        __m256i s[GROUPS_MAX][HALVES], nibbles[GROUPS_MAX][HALVES];
        AVX2_UNROLL
        for (int j = 0; j < GROUPS_MAX; j++) {
            s[j][0] = s[j][1] = f.offset ? broadcast_4(x->start + j) : _mm256_setzero_si256();
            if (apart) nibbles[j][0] = nibbles[j][1] = _mm256_setzero_si256();
        }
        if (f.nibbles) f.nibbles(apart ? nibbles : s, w, x);
        add_pairs(s, w, x, f);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++)
            sum[h] = add_block_16(sum[h], scaled_16(s, apart ? nibbles : NULL, w, h, f), w, x, h, f);
    }
    store_rows(y, sum);
}

#define NO_OFFSET ((const int[4]){0})
/* As multiples of pairs are. */
#define OFFSETS(f)                                                                                           \
    ((const int[4]){(f).offset << (f).left[0], (f).offset << (f).left[1], (f).offset << (f).left[2],         \
                    (f).offset << (f).left[3]})
#define LANES_K(type, group_n, offset, rows)                                                                 \
    static void pack_##type(void *act, const float *x, size_t k) { pack_k(act, x, k, group_n, offset); }     \
    STREAM_GEMV(type, rows)
LANES_K(q2_k, 16, NO_OFFSET, rows_16(y, w, act, k / 256, FORM_Q2_K))
LANES_K(q3_k, 16, OFFSETS(FORM_Q3_K), rows_16(y, w, act, k / 256, FORM_Q3_K))
LANES_K(q4_k, 8, NO_OFFSET, rows_q4_k(y, w, act, k / 256, false))
LANES_K(q5_k, 8, NO_OFFSET, rows_q4_k(y, w, act, k / 256, true))
LANES_K(q6_k, 16, OFFSETS(FORM_Q6_K), rows_16(y, w, act, k / 256, FORM_Q6_K))
#define SET_K                                                                                                \
    STREAM_SET(q2_k, Q2_K, bytes_k)                                                                          \
    STREAM_SET(q3_k, Q3_K, bytes_k)                                                                          \
    STREAM_SET(q4_k, Q4_K, bytes_k)                                                                          \
    STREAM_SET(q5_k, Q5_K, bytes_k)                                                                          \
    STREAM_SET(q6_k, Q6_K, bytes_k)

#endif
