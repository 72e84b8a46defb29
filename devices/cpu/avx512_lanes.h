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
/* The half in the lower 16 bits of each lane, or after a shift in the upper ones. */
INLINE __m512 halves_of(__m512i words) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }
INLINE __m512 upper_halves_of(__m512i words) { return halves_of(_mm512_srli_epi32(words, 16)); }

/* a | (b & mask), mask being a byte. */
INLINE __m512i or_masked(__m512i a, __m512i b, const int mask) {
    return _mm512_ternarylogic_epi64(a, b, _mm512_set1_epi8((char)mask), 0xf8);
}

/* A register for each value that nibbles stand for, plus `offset`. */
INLINE __m512i table_of(const int8_t *values, const int offset) {
    const __m128i v = _mm_loadu_si128((const void *)values);
    return _mm512_broadcast_i32x4(_mm_add_epi8(v, _mm_set1_epi8((char)offset)));
}

#endif
