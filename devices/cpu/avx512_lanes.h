/* avx512_lanes.h - words and scales of interleaved rows (devices/lanes.h): what avx512_lanes.c and
 * avx512_lanes_k.c share. */
#ifndef HOTSET_CPU_AVX512_LANES_H
#define HOTSET_CPU_AVX512_LANES_H

#include "devices/cpu/avx512.h"
#include "devices/cpu/stream.h"

enum { ROWS = LANES_ROWS };

/* Four activations in every lane. */
INLINE __m512i broadcast_quad(const int8_t *x) { return _mm512_set1_epi32(read_i32(x)); }

/* s + products of unsigned bytes with the four activations at x, in every lane. Faster from cache than by
 * broadcast_quad(), and from memory but for five bits. */
INLINE __m512i add_quads(__m512i s, __m512i bytes, const int8_t *x) {
    ADD_QUADS(s, bytes, x);
    return s;
}

/* The word of all rows that stands at offset `at` of a row. */
INLINE __m512i load_words(row_stream w, size_t at) {
    __m512i words = _mm512_loadu_si512(stream_field(w, at));
    if (w.asks) STREAM_KEEP(words);
    return words;
}
/* The same, read once; else GCC reads it for each use, which is slower from cache. From memory that holds for
 * types with much to compute only, and others are faster without: measured for each. */
INLINE __m512i load_words_once(row_stream w, size_t at) {
    __m512i words = load_words(w, at);
    KEEP(words);
    return words;
}
/* The half of all rows that stands there, as a float. */
INLINE __m512 halves_at(row_stream w, size_t at) { return load_halves(stream_field(w, at)); }
/* Moved by `left` bits, or to the right by as many as it is below zero (a constant). */
INLINE __m512i moved(__m512i v, const int left) {
    return left > 0   ? _mm512_slli_epi16(v, (unsigned)left)
           : left < 0 ? _mm512_srli_epi16(v, (unsigned)-left)
                      : v;
}

/* a | (b & mask), mask being a byte. */
INLINE __m512i or_masked(__m512i a, __m512i b, const int mask) {
    return _mm512_ternarylogic_epi64(a, b, _mm512_set1_epi8((char)mask), 0xf8);
}

/* Upper nibbles of bytes where they stand: times 16. */
INLINE __m512i nibbles_in_place(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8((char)0xf0)); }

/* start + 32 quants of five bits (lanes_five_bits), whose words stand at `at`, times x. Those of the upper
 * bits are multiplied from bit 3 on. */
INLINE __m512i sum_of_five_bits(row_stream w, size_t at, const int8_t *x, __m512i start) {
    __m512i v[5], s = start, eightfold = _mm512_setzero_si512();
    UNROLL for (size_t t = 0; t < 5; t++) {
        v[t] = load_words(w, at + 4 * t);
        s = _mm512_dpbusd_epi32(s, _mm512_and_si512(v[t], _mm512_set1_epi8(31)), broadcast_quad(x + 4 * t));
    }
    __m512i upper[3];
    UNROLL for (size_t i = 0; i < 3; i++) upper[i] = _mm512_and_si512(v[i], _mm512_set1_epi8((char)0xe0));
    upper[0] = or_masked(upper[0], moved(v[3], -3), 3 << 3);
    upper[1] = or_masked(upper[1], moved(v[4], -3), 3 << 3);
    upper[2] = or_masked(or_masked(upper[2], moved(v[3], -1), 1 << 4), moved(v[4], -2), 1 << 3);
    UNROLL for (size_t i = 0; i < 3; i++) {
        eightfold = _mm512_dpbusd_epi32(eightfold, upper[i], broadcast_quad(x + 20 + 4 * i));
    }
    return _mm512_add_epi32(s, _mm512_srai_epi32(eightfold, 3));
}

/* What the 16 nibbles stand for, plus `offset`, four times. */
INLINE __m512i table_of(const int8_t *values, const int offset) {
    const __m128i v = _mm_loadu_si128((const void *)values);
    return _mm512_broadcast_i32x4(_mm_add_epi8(v, _mm_set1_epi8((char)offset)));
}
/* What the lower nibbles of bytes stand for; the upper ones say which of the four, so they need no clearing.
 */
INLINE __m512i values_of(__m512i table, __m512i v) { return _mm512_permutexvar_epi8(v, table); }

#endif
