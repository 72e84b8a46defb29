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

enum {
    GROUPS_MAX = 16,
    SUMS = HAS_VPDPBUSD ? 2 : 1 /* of a group of 16, so that each lane has those of two halves */
};
typedef struct act_k {
    int8_t x[256];
    int32_t start[GROUPS_MAX * SUMS]; /* of these sums: takes offsets of quads off */
    int16_t sums[GROUPS_MAX];         /* of groups of 16, or of 32, in the order of pack_k */
    float d;
} act_k;

static size_t bytes_k(size_t k) { return k / 256 * sizeof(act_k); }

/* Sums stand in pairs as the minima do where bytes are taken as words: of each four groups 0 2 | 1 3. */
AVX2_INLINE void pack_k(act_k *a, const float *x, size_t k, const size_t group_n, const int offset[8]) {
    static const uint8_t place[4] = {0, 2, 1, 3};
    for (size_t i = 0; i < k; i += 256, a++) {
        int16_t sums[16];
        a->d = act_pack_sums(a->x, sums, x + i);
        for (size_t j = 0; j < 16; j++) {
            const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), load_128(a->x + 16 * j));
            const int off = offset[j % 8];
            if (HAS_VPDPBUSD) {
                a->start[2 * j] = -off * sum_of(_mm_move_epi64(pairs));
                a->start[2 * j + 1] = -off * sum_of(_mm_srli_si128(pairs, 8));
            } else {
                a->start[j] = lane_start(pairs, off);
            }
        }
        for (size_t j = 0; j < group_n; j++)
            a->sums[j / 4 * 4 + place[j % 4]] =
                group_n == 16 ? sums[j] : (int16_t)(sums[2 * j] + sums[2 * j + 1]);
    }
}

/* Where one sum of group j starts. */
AVX2_INLINE __m256i start_of(const act_k *x, size_t j) {
    return HAS_VPDPBUSD ? _mm256_set1_epi32(x->start[2 * j] + x->start[2 * j + 1])
                        : broadcast_4(x->start + j);
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

/* ---- Q4_K, and Q5_K joined (devices/lanes.h) ---- */

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

/* Adds groups 2c and 2c + 1, scaled. 16 bits hold the sum of 16 quants, 16 * 15 * 127. */
AVX2_INLINE void add_two_groups_q4_k(__m256i scaled[HALVES], row_stream w, const int8_t *x,
                                     const numbers_q4_k n[HALVES], const int c) {
    const size_t word_n = HAS_VPDPBUSD ? 4 : 8, at = offsetof(quant_q4_k, q) + 32 * (size_t)c;
    __m256i s[2][HALVES];
    AVX2_UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i first = broadcast_4(x + 4 * g), second = broadcast_4(x + 32 + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, at + 4 * g, h);
            if (g % word_n == 0) s[0][h] = s[1][h] = _mm256_setzero_si256();
            s[0][h] = add_products(s[0][h], low_nibbles(v), first);
            s[1][h] = add_products(s[1][h], high_nibbles(v), second);
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

/* Adds group j, scaled. Where 16 bits must hold sums, they hold that of 8 quants, 8 * 31 * 127. */
AVX2_INLINE void add_group_q5_k(__m256i scaled[HALVES], row_stream w, const int8_t *x,
                                const numbers_q4_k n[HALVES], const int j) {
    const size_t word_n = HAS_VPDPBUSD ? 8 : 4;
    __m256i v[HALVES][5], s[HALVES];
    AVX2_UNROLL
    for (size_t t = 0; t < 8; t++) {
        const __m256i quad = broadcast_4(x + 4 * t);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            if (t < 5) v[h][t] = load_words(w, offsetof(lanes_q5_k, q[j]) + 4 * t, h);
            if (t % word_n == 0) s[h] = _mm256_setzero_si256();
            s[h] = add_products(s[h], quads_of_five_bits(v[h], t), quad);
        }
        if (t % word_n != word_n - 1) continue;
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i scale = byte_for_sums(n[h].scale[j / 4], j % 4, false);
            scaled[h] = HAS_VPDPBUSD ? _mm256_add_epi32(scaled[h], _mm256_mullo_epi32(s[h], scale))
                                     : add_word_products(scaled[h], s[h], scale);
        }
    }
}

AVX2_INLINE void rows_q4_k(float *y, row_stream w, const act_k *x, size_t block_n, const bool five_bits) {
    const size_t block_bytes = five_bits ? sizeof(lanes_q5_k) : sizeof(quant_q4_k);
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * block_bytes, x++) {
        const __m256i d_dmin[HALVES] = {opaque(load_words(w, 0, 0)), opaque(load_words(w, 0, 1))};
        const numbers_q4_k n[HALVES] = {numbers_of(w, 0), numbers_of(w, 1)};
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        AVX2_UNROLL
        for (int c = 0; c < 4 && !five_bits; c++) add_two_groups_q4_k(scaled, w, x->x + 64 * c, n, c);
        AVX2_UNROLL
        for (int j = 0; j < 8 && five_bits; j++) add_group_q5_k(scaled, w, x->x + 32 * j, n, j);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i minima = add_minima(add_minima(_mm256_setzero_si256(), n[h].min[0], x->sums),
                                              n[h].min[1], x->sums + 4);
            sum[h] = add_block(sum[h], scaled[h], minima, d_dmin[h], _mm256_broadcast_ss(&x->d));
        }
    }
    store_rows(y, sum);
}

/* ---- Groups of 16 -----------------------------------------------------------------------------------------
 * Quants are multiplied where they stand, as far as 16 bits hold their sums: those of some groups are 4 or 8
 * times as much. */

/* scaled + s times byte j of `scales`, or 256 times that byte. */
AVX2_INLINE __m256i add_scaled(__m256i scaled, __m256i s, __m256i scales, const int j, const bool times_256) {
    return add_word_products(scaled, s, byte_for_sums(scales, j, times_256));
}

/* ---- Q2_K: a word holds four weights of groups j, j + 2, j + 4 and j + 6 of eight ---- */

/* scaled += eight groups whose words stand at `at`, scaled; four times as much for those of fourfold. */
AVX2_INLINE void add_half_q2_k(__m256i scaled[HALVES], __m256i fourfold[HALVES], row_stream w, size_t at,
                               const int8_t *x, __m256i scales[HALVES][2]) {
    AVX2_UNROLL
    for (int j = 0; j < 2; j++) {
        __m256i s[4][HALVES];
        AVX2_UNROLL
        for (int i = 0; i < 4 * HALVES; i++) s[i / HALVES][i % HALVES] = _mm256_setzero_si256();
        AVX2_UNROLL
        for (int t = 0; t < 4; t++) {
            __m256i v[HALVES][2];
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                v[h][0] = load_words(w, at + 4 * (size_t)(4 * j + t), h);
                v[h][1] = _mm256_srli_epi16(v[h][0], 4);
            }
            AVX2_UNROLL
            for (int n = 0; n < 4; n++) {
                const __m256i quad = broadcast_4(x + 16 * (j + 2 * n) + 4 * t);
                AVX2_UNROLL
                for (int h = 0; h < HALVES; h++)
                    s[n][h] = add_products(s[n][h], masked(v[h][n / 2], n % 2 ? 0x0c : 3), quad);
            }
        }
        AVX2_UNROLL
        for (int i = 0; i < 4 * HALVES; i++) {
            const int n = i / HALVES, h = i % HALVES;
            __m256i *to = n % 2 ? &fourfold[h] : &scaled[h];
            *to = add_scaled(*to, s[n][h], scales[h][n / 2], (j + 2 * n) % 4, false);
        }
    }
}

AVX2_INLINE void rows_q2_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_q2_k), x++) {
        const __m256i zero = _mm256_setzero_si256();
        __m256i scales[2][HALVES][2], minima[HALVES] = {zero, zero};
        __m256i scaled[HALVES] = {zero, zero}, fourfold[HALVES] = {zero, zero};
        AVX2_UNROLL
        for (int i = 0; i < 4 * HALVES; i++) {
            const int h = i % HALVES, j = i / HALVES;
            const __m256i both = load_words(w, 4 * (size_t)j, h);
            scales[j / 2][h][j % 2] = low_nibbles(both);
            minima[h] = add_minima(minima[h], high_nibbles(both), x->sums + 4 * j);
        }
        AVX2_UNROLL
        for (int half = 0; half < 2; half++)
            add_half_q2_k(scaled, fourfold, w, offsetof(quant_q2_k, q) + 32 * (size_t)half, x->x + 128 * half,
                          scales[half]);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++)
            sum[h] =
                add_block(sum[h], _mm256_add_epi32(scaled[h], _mm256_srai_epi32(fourfold[h], 2)), minima[h],
                          load_words(w, offsetof(quant_q2_k, d), h), _mm256_broadcast_ss(&x->d));
    }
    store_rows(y, sum);
}

/* ---- Q3_K, joined (devices/lanes.h) ---- */

#define START_Q3_K ((const int[8]){4, 4 << 3, 4, 4 << 3, 4, 4 << 3, 4, 4})

/* Scales of groups 4i to 4i + 3, signed, from three words (devices/quant.h). */
AVX2_INLINE __m256i scales_q3_k(const __m256i word[3], const int i) {
    const __m256i low = i < 2 ? low_nibbles(word[i]) : high_nibbles(word[i - 2]);
    return _mm256_sub_epi8(_mm256_or_si256(low, masked(moved(word[2], 4 - 2 * i), 0x30)),
                           _mm256_set1_epi8(32));
}

/* Bits 6 and 7 of each byte of `upper` as bits 1 and 2, above bit `from` of `lowest`. */
AVX2_INLINE __m256i rest_of(__m256i upper, __m256i lowest, const int from) {
    return _mm256_or_si256(masked(moved(upper, -5), 6), masked(moved(lowest, -from), 1));
}

/* scaled += eight groups whose words stand at `at`, scaled, times 256. 32 bits hold them, and those three
 * that are 8 times as much by themselves: 3 * 256 * 32 * (16 * 4 * 127 * 8) < 2^31. */
AVX2_INLINE void add_half_q3_k(__m256i scaled[HALVES], row_stream w, size_t at, const act_k *act,
                               const size_t half, __m256i scales[HALVES][2]) {
    const int8_t *x = act->x + 128 * half;
    __m256i s6[HALVES], s7[HALVES], eightfold[HALVES], three[3][HALVES];
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) {
        s6[h] = start_of(act, 8 * half + 6);
        s7[h] = start_of(act, 8 * half + 7);
        eightfold[h] = _mm256_setzero_si256();
    }
    AVX2_UNROLL
    for (int j = 0; j < 6; j += 2) {
        __m256i first[HALVES], second[HALVES];
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            first[h] = start_of(act, 8 * half + (size_t)j);
            second[h] = start_of(act, 8 * half + (size_t)j + 1);
        }
        AVX2_UNROLL
        for (int t = 0; t < 4; t++) {
            const int i = 2 * j + t;
            const int8_t *quad = x + 16 * j + 4 * t;
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                const __m256i v = load_words(w, at + 4 * (size_t)i, h);
                first[h] = add_products(first[h], masked(v, 7), broadcast_4(quad));
                second[h] = add_products(second[h], masked(v, 7 << 3), broadcast_4(quad + 16));
                three[i % 3][h] = v;
            }
            if (i % 3 < 2) continue;
            quad = x + 16 * 6 + 4 * (i / 3);
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                s6[h] = add_products(s6[h], rest_of(three[0][h], three[1][h], 6), broadcast_4(quad));
                s7[h] = add_products(s7[h], rest_of(three[2][h], three[1][h], 7), broadcast_4(quad + 16));
            }
        }
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            scaled[h] = add_scaled(scaled[h], first[h], scales[h][j / 4], j % 4, true);
            if (HAS_VPDPBUSD) /* one sum in a lane does not fit 16 bits */
                scaled[h] =
                    add_scaled(scaled[h], _mm256_srai_epi32(second[h], 3), scales[h][j / 4], j % 4 + 1, true);
            else
                eightfold[h] = add_scaled(eightfold[h], second[h], scales[h][j / 4], j % 4 + 1, true);
        }
    }
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) {
        scaled[h] = add_scaled(scaled[h], s6[h], scales[h][1], 2, true);
        scaled[h] = add_scaled(scaled[h], s7[h], scales[h][1], 3, true);
        if (!HAS_VPDPBUSD) scaled[h] = _mm256_add_epi32(scaled[h], _mm256_srai_epi32(eightfold[h], 3));
    }
}

AVX2_INLINE void rows_q3_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(lanes_q3_k), x++) {
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, word[HALVES][3];
        AVX2_UNROLL
        for (size_t i = 0; i < 3 * HALVES; i++) /* all at once, in the order in which they stand */
            word[i % HALVES][i / HALVES] = opaque(load_words(w, i / HALVES * 4, i % HALVES));
        AVX2_UNROLL
        for (int half = 0; half < 2; half++) {
            __m256i scales[HALVES][2];
            AVX2_UNROLL
            for (int i = 0; i < 2 * HALVES; i++)
                scales[i / 2][i % 2] = scales_q3_k(word[i / 2], 2 * half + i % 2);
            add_half_q3_k(scaled, w, offsetof(lanes_q3_k, q[half]), x, (size_t)half, scales);
        }
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d =
                _mm256_mul_ps(halves_at(w, offsetof(lanes_q3_k, d), h), _mm256_broadcast_ss(&x->d));
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(scaled[h], 8)), d, sum[h]);
        }
    }
    store_rows(y, sum);
}

/* ---- Q6_K, joined ---- */

/* Bits 6 and 7 of each byte of three words as one quant, those of the first word on top. */
AVX2_INLINE __m256i quad_of_three(__m256i first, __m256i second, __m256i third) {
    const __m256i upper = _mm256_or_si256(masked(_mm256_srli_epi16(first, 2), 0x30),
                                          masked(_mm256_srli_epi16(second, 4), 0x0c));
    return _mm256_or_si256(upper, masked(_mm256_srli_epi16(third, 6), 3));
}

/* Sums of a group. 16 bits hold that of half of its weights, 8 * 32 * 127: either each lane has two, or there
 * are two of them. */
typedef struct group_sums {
    __m256i s[SUMS];
} group_sums;

AVX2_INLINE group_sums sums_from(const act_k *x, size_t group) {
    group_sums g;
    for (size_t i = 0; i < SUMS; i++) g.s[i] = broadcast_4(x->start + SUMS * group + i);
    return g;
}
/* Adds four weights, number t of four. */
AVX2_INLINE void add_to_group(group_sums *g, __m256i quads, __m256i quad, size_t t) {
    g->s[SUMS * t / 4] = add_products(g->s[SUMS * t / 4], quads, quad);
}
AVX2_INLINE __m256i add_scaled_group(__m256i scaled, group_sums g, __m256i scales, const int j) {
    const __m256i scale = signed_byte_for_sums(scales, j);
    for (size_t i = 0; i < SUMS; i++) scaled = add_word_products(scaled, g.s[i], scale);
    return scaled;
}

/* scaled += groups 4i to 4i + 3, scaled. */
AVX2_INLINE void add_set_q6_k(__m256i scaled[HALVES], row_stream w, const act_k *x, const size_t i,
                              const __m256i scales[HALVES]) {
    const int8_t *weights = x->x + 64 * i;
    __m256i three[3][HALVES];
    group_sums last[HALVES];
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) last[h] = sums_from(x, 4 * i + 3);
    AVX2_UNROLL
    for (size_t j = 0; j < 3; j++) {
        group_sums s[HALVES];
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) s[h] = sums_from(x, 4 * i + j);
        AVX2_UNROLL
        for (size_t t = 0; t < 4; t++) {
            const size_t n = 4 * j + t;
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                three[n % 3][h] = load_words(w, offsetof(lanes_q6_k, q[i]) + 4 * n, h);
                add_to_group(&s[h], masked(three[n % 3][h], 0x3f), broadcast_4(weights + 4 * n), t);
            }
            if (n % 3 < 2) continue;
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++)
                add_to_group(&last[h], quad_of_three(three[0][h], three[1][h], three[2][h]),
                             broadcast_4(weights + 48 + 4 * (n / 3)), n / 3);
        }
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) scaled[h] = add_scaled_group(scaled[h], s[h], scales[h], (int)j);
    }
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) scaled[h] = add_scaled_group(scaled[h], last[h], scales[h], 3);
}

AVX2_INLINE void rows_q6_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(lanes_q6_k), x++) {
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, scales[4][HALVES];
        AVX2_UNROLL
        for (size_t i = 0; i < 4 * HALVES; i++) /* all at once, in the order in which they stand */
            scales[i / HALVES][i % HALVES] = opaque(load_words(w, i / HALVES * 4, i % HALVES));
        AVX2_UNROLL
        for (size_t i = 0; i < 4; i++) add_set_q6_k(scaled, w, x, i, scales[i]);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d =
                _mm256_mul_ps(halves_at(w, offsetof(lanes_q6_k, d), h), _mm256_broadcast_ss(&x->d));
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled[h]), d, sum[h]);
        }
    }
    store_rows(y, sum);
}

#define NO_OFFSET  ((const int[8]){0})
#define START_Q6_K ((const int[8]){32, 32, 32, 32, 32, 32, 32, 32})
#define LANES_K(type, group_n, offset, asks, rows)                                                           \
    static void pack_##type(void *act, const float *x, size_t k) { pack_k(act, x, k, group_n, offset); }     \
    STREAM_GEMV_ASKING(type, asks, rows)
LANES_K(q2_k, 16, NO_OFFSET, ASK_NOTHING, rows_q2_k(y, w, act, k / 256))
LANES_K(q3_k, 16, START_Q3_K, ASK_FAR, rows_q3_k(y, w, act, k / 256))
LANES_K(q4_k, 8, NO_OFFSET, ASK_NOTHING, rows_q4_k(y, w, act, k / 256, false))
LANES_K(q5_k, 8, NO_OFFSET, ASK_NOTHING, rows_q4_k(y, w, act, k / 256, true))
LANES_K(q6_k, 16, START_Q6_K, ASK_NOTHING, rows_q6_k(y, w, act, k / 256))
#define SET_K                                                                                                \
    STREAM_SET(q2_k, Q2_K, bytes_k)                                                                          \
    STREAM_SET(q3_k, Q3_K, bytes_k)                                                                          \
    STREAM_SET(q4_k, Q4_K, bytes_k)                                                                          \
    STREAM_SET(q5_k, Q5_K, bytes_k)                                                                          \
    STREAM_SET(q6_k, Q6_K, bytes_k)

#endif
