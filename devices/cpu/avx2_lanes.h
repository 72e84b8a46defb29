/* avx2_lanes.h - words, scales and results of interleaved rows (devices/lanes.h): what avx2_lanes.c,
 * avx2_lanes_k.c and avxvnni_lanes.c share. */
#ifndef HOTSET_CPU_AVX2_LANES_H
#define HOTSET_CPU_AVX2_LANES_H

#include "devices/cpu/avx2.h"
#include "devices/cpu/stream.h"
#include "devices/quant.h"

#include <stddef.h>

enum { ROWS = LANES_ROWS, HALVES = 2 /* registers of 8 rows */ };

/* What stands at offset `at` of a row, `bytes` of each, of the first rows (half 0) or the last. */
AVX2_INLINE const uint8_t *field(row_stream w, size_t at, size_t bytes, int h) {
    const uint8_t *p = h == 0 ? stream_field(w, at) : w.at + ROWS * at;
    return p + ROWS / HALVES * bytes * (size_t)h;
}
/* The word of eight rows, or the half there, as a float. */
AVX2_INLINE __m256i load_words(row_stream w, size_t at, int h) {
    __m256i words = load_256(field(w, at, 4, h));
    if (w.asks) STREAM_KEEP(words);
    return words;
}
AVX2_INLINE __m256 halves_at(row_stream w, size_t at, int h) { return load_f16(field(w, at, 2, h)); }

AVX2_INLINE __m256i masked(__m256i v, const int mask) {
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}
AVX2_INLINE __m256i low_nibbles(__m256i v) { return masked(v, 15); }
AVX2_INLINE __m256i high_nibbles(__m256i v) { return masked(_mm256_srli_epi16(v, 4), 15); }

/* Moved by `left` bits, or to the right by as many as it is below zero (a constant). */
AVX2_INLINE __m256i moved(__m256i v, const int left) {
    return left > 0 ? _mm256_slli_epi16(v, left) : left < 0 ? _mm256_srli_epi16(v, -left) : v;
}

/* ---- Products of two signed bytes ------------------------------------------------------------------------
 * vpmaddubsw wants one unsigned operand: the sizes of activations. What is left of them, the sign, goes to
 * the weights by the complement, which is one less than the negative: x w = |x| (w ^ sign) + (x < 0 ? |x| :
 * 0). Unlike vpsignb it is none of the instructions that wait for the multipliers; and the last term is of
 * the activations alone. */

typedef struct sized_bytes {
    __m256i size, sign; /* sign: all bits of a byte below zero */
} sized_bytes;

AVX2_INLINE sized_bytes sized(__m256i x) {
    return (sized_bytes){_mm256_abs_epi8(x), _mm256_cmpgt_epi8(_mm256_setzero_si256(), x)};
}

/* Sums of two neighbouring products, but for what is missing; at most 2 * 127 * 128. */
AVX2_INLINE __m256i sized_products(sized_bytes x, __m256i w) {
    return _mm256_maddubs_epi16(x.size, _mm256_xor_si256(w, x.sign));
}

/* 32 activations; returns what is missing of their sum of products. */
AVX2_INLINE int pack_sized(uint8_t size[32], uint8_t sign[32], const float *x, __m256 inverse) {
    const sized_bytes q = sized(act_bytes_32(x, inverse));
    memcpy(size, &q.size, sizeof q.size);
    memcpy(sign, &q.sign, sizeof q.sign);
    return sum_of(sum_halves(sum_pairs(_mm256_and_si256(q.size, q.sign))));
}

/* Four of them in every lane. */
AVX2_INLINE sized_bytes sized_quad(const uint8_t *size, const uint8_t *sign) {
    return (sized_bytes){broadcast_4(size), broadcast_4(sign)};
}

/* Scales of IQ4_XS: groups 0 2 4 6 and of 1 3 5 7 (devices/quant.h); and the word with d. */
typedef struct numbers_iq4_xs {
    __m256i scale[2], head;
} numbers_iq4_xs;

AVX2_INLINE numbers_iq4_xs numbers_iq4_xs_of(row_stream w, int h) {
    const __m256i head = opaque(load_words(w, 0, h)); /* read first, for it stands first */
    const __m256i low = load_words(w, offsetof(quant_iq4_xs, scales_low), h);
    /* scales_high: byte i / 2 as byte i */
    const __m256i where =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15));
    const __m256i high = _mm256_shuffle_epi8(head, where);
    const __m256i first = _mm256_set1_epi16(0x30), second = _mm256_set1_epi16(0x3000);
    const __m256i top[2] = {
        _mm256_or_si256(_mm256_and_si256(moved(high, 4), first), _mm256_and_si256(high, second)),
        _mm256_or_si256(_mm256_and_si256(moved(high, 2), first), _mm256_and_si256(moved(high, -2), second))};
    const __m256i minus = _mm256_set1_epi8(32);
    return (numbers_iq4_xs){{_mm256_sub_epi8(_mm256_or_si256(low_nibbles(low), top[0]), minus),
                             _mm256_sub_epi8(_mm256_or_si256(high_nibbles(low), top[1]), minus)},
                            head};
}

/* The lower and the upper halves in words. */
typedef struct half_pairs {
    __m256 lower, upper;
} half_pairs;

AVX2_INLINE half_pairs halves_of(__m256i words) {
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i sorted = _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order));
    const __m256i apart = _mm256_permute4x64_epi64(sorted, 0xd8);
    return (half_pairs){_mm256_cvtph_ps(_mm256_castsi256_si128(apart)),
                        _mm256_cvtph_ps(_mm256_extracti128_si256(apart, 1))};
}

AVX2_INLINE void store_rows(float *y, const __m256 sum[HALVES]) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) _mm256_storeu_ps(y + 8 * h, sum[h]);
}

#endif
