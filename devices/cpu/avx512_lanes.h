/* avx512_lanes.h - words and scales of interleaved rows (devices/lanes.h): what avx512_lanes.c and
 * avx512_lanes_k.c share. */
#ifndef HOTSET_CPU_AVX512_LANES_H
#define HOTSET_CPU_AVX512_LANES_H

#include "devices/cpu/avx512.h"
#include "devices/cpu/stream.h"

enum { ROWS = LANES_ROWS };

/* Four activations in every lane. */
INLINE __m512i broadcast_quad(const int8_t *x) { return _mm512_set1_epi32(read_i32(x)); }

/* The word of all rows that stands at offset `at` of a row, or the half there, as a float. */
INLINE __m512i load_words(row_stream w, size_t at) {
    __m512i words = _mm512_loadu_si512(stream_field(w, at));
    if (w.ask) STREAM_KEEP(words);
    return words;
}
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

/* Bits `from` to from + n - 1 of each byte as bits `to` and above, zeros elsewhere (constants). Where kernels
 * ask, on Intel's processors, two ports do all that 512 bits wide, so one affine product of bits is better
 * than moving and masking; AMD's, by tables of instructions, multiply on the ports that would do it (not
 * measured). */
INLINE __m512i bits_of(row_stream w, __m512i v, const int from, const int n, const int to) {
    if (from == to || !w.ask)
        return _mm512_and_si512(moved(v, to - from), _mm512_set1_epi8((char)(((1 << n) - 1) << to)));
    uint64_t matrix = 0; /* its byte 7 - i is what bit i is the parity of */
    for (int i = 0; i < n; i++) matrix |= (uint64_t)1 << (8 * (7 - to - i) + from + i);
    return _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64((long long)matrix), 0);
}
INLINE __m512i upper_nibbles(row_stream w, __m512i v) { return bits_of(w, v, 4, 4, 0); }
/* Upper nibbles of bytes where they stand: times 16. */
INLINE __m512i nibbles_in_place(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8((char)0xf0)); }

/* a | bit `from` of each byte of b as bit `to`. */
INLINE __m512i or_bits(row_stream w, __m512i a, __m512i b, const int from, const int to) {
    if (w.ask) return _mm512_or_si512(a, bits_of(w, b, from, 1, to));
    return or_masked(a, moved(b, to - from), 1 << to);
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
