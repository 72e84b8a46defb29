/* avx512_attend.c - streaming softmax over state rows in F32 and F16, with products of floats. */
#include "devices/cpu/avx512_attend_lots.h"

/* Of 16 elements those that the lower bits of `elements` name, zeros for others. */
INLINE __m256i load_halves_of(const uint8_t *row, uint32_t elements) {
    if ((uint16_t)elements == 0xffff) return _mm256_loadu_si256((const void *)row);
    return _mm256_maskz_loadu_epi16((__mmask16)elements, row);
}
INLINE __m512i load_f16(const uint8_t *row, uint32_t elements) {
    return _mm512_castps_si512(_mm512_cvtph_ps(load_halves_of(row, elements)));
}
INLINE __m512i load_f32(const uint8_t *row, uint32_t elements) {
    if ((uint16_t)elements == 0xffff) return _mm512_loadu_si512(row);
    return _mm512_castps_si512(_mm512_maskz_loadu_ps((__mmask16)elements, row));
}

INLINE void reorder_f32(__m512i quarters[TILE], const tile *t, const size_t part, const size_t n) {
    reorder_words(quarters, t, part, n, load_f32);
}

/* Rows i and 8 + i of a tile, zeros for those that are not among the first n. */
INLINE __m512i two_rows(const tile *t, size_t i, size_t n) {
    const uint8_t *row = t->row + i * t->stride;
    const __m256i none = _mm256_setzero_si256();
    return _mm512_inserti64x4(_mm512_castsi256_si512(i < n ? load_halves_of(row, t->elements) : none),
                              8 + i < n ? load_halves_of(row + 8 * t->stride, t->elements) : none, 1);
}

/* Halves are reordered before they are converted: that takes half as many shuffles. */
INLINE void reorder_f16(__m512i quarters[TILE], const tile *t, const size_t part, const size_t n) {
    __m512i *element = quarters + 8; /* element[i]: element i of all rows, then element 8 + i of them */
    if (part < 4) {                  /* rows two by two: elements 0 to 3 and 8 to 11, and the others */
        const __m512i even = two_rows(t, 2 * part, n), odd = two_rows(t, 2 * part + 1, n);
        quarters[part] = _mm512_unpacklo_epi16(even, odd);
        quarters[4 + part] = _mm512_unpackhi_epi16(even, odd);
    } else if (part < 6) {
        const size_t first = 4 * (part - 4);
        __m512i z[4]; /* a quarter: an element of eight rows */
        transpose_quarters(z, quarters + first);
        UNROLL for (size_t i = 0; i < 4; i++) element[first + i] = _mm512_shuffle_i32x4(z[i], z[i], 0xd8);
    } else {
        UNROLL for (size_t i = 4 * (part - 6); i < 4 * (part - 5); i++) {
            UNROLL for (size_t h = 0; h < 2; h++) t->to[TILES * (8 * h + i)] =
                load_f16((const uint8_t *)&element[i] + 32 * h, 0xffff);
        }
    }
}

#define FORM_FLOATS(type, TYPE)                                                                              \
    INLINE void values_##type(__m512i to[2], const uint8_t *row, size_t stride, const size_t n,              \
                              uint32_t elements) {                                                           \
        (void)stride; /* one row */                                                                          \
        to[0] = n ? load_##type(row, elements) : _mm512_setzero_si512();                                     \
        to[1] =                                                                                              \
            n ? load_##type(row + 16 * float_bytes(GGUF_##TYPE), elements >> 16) : _mm512_setzero_si512();   \
    }                                                                                                        \
    static void attend_##type(const cpu_attend_args *a) {                                                    \
        attend_whole_or_not(a, (attend_form){.bytes = float_bytes(GGUF_##TYPE),                              \
                                             .per_word = 1,                                                  \
                                             .key_unit = 1,                                                  \
                                             .score_unit = 1,                                                \
                                             .reorder = reorder_##type,                                      \
                                             .values = values_##type,                                        \
                                             .words = scale_floats,                                          \
                                             .multiply = multiply_floats});                                  \
    }

FORM_FLOATS(f16, F16)
FORM_FLOATS(f32, F32)

void avx512_attend_by_type(const cpu_attend_args *args) {
    switch ((int)args->state) {
    case GGUF_F16: (args->grouped ? avx512_attend_groups : attend_f16)(args); break;
    case GGUF_Q8_0: avx512_attend_int8(args); break;
    default: attend_f32(args);
    }
}

void avx512_attend(cpu_kernels *k) {
    k->attend = avx512_attend_by_type;
    k->attend_groups = true;
}
