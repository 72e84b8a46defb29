/* avx512_attend.c - streaming softmax over state rows in F32 and F16, with products of floats. */
#include "devices/cpu/avx512_attend_lots.h"

#define FORM_FLOATS(type, TYPE)                                                                              \
    INLINE __m512i load_##type(const uint8_t *row, uint32_t elements) {                                      \
        return _mm512_castps_si512(load_float(GGUF_##TYPE, row, (__mmask16)elements));                       \
    }                                                                                                        \
    INLINE void values_##type(__m512i to[2], const uint8_t *row, size_t stride, const size_t n,              \
                              uint32_t elements) {                                                           \
        (void)stride; /* one row */                                                                          \
        to[0] = n ? load_##type(row, elements) : _mm512_setzero_si512();                                     \
        to[1] =                                                                                              \
            n ? load_##type(row + 16 * float_bytes(GGUF_##TYPE), elements >> 16) : _mm512_setzero_si512();   \
    }                                                                                                        \
    static void attend_##type(const cpu_attend_args *a) {                                                    \
        attend_lots(a, (attend_form){.bytes = float_bytes(GGUF_##TYPE),                                      \
                                     .per_word = 1,                                                          \
                                     .key_unit = 1,                                                          \
                                     .score_unit = 1,                                                        \
                                     .keys = load_##type,                                                    \
                                     .values = values_##type,                                                \
                                     .words = scale_floats,                                                  \
                                     .multiply = multiply_floats});                                          \
    }

INLINE __m512i scale_floats(const float *x, uint32_t elements, __m512 scale) {
    return _mm512_castps_si512(_mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16)elements, x), scale));
}

INLINE __m512 multiply_floats(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

FORM_FLOATS(f16, F16)
FORM_FLOATS(f32, F32)

void avx512_attend_by_type(const cpu_attend_args *args) {
    switch ((int)args->state) {
    case GGUF_F16: attend_f16(args); break;
    case GGUF_Q8_0: avx512_attend_int8(args); break;
    default: attend_f32(args);
    }
}

void avx512_attend(cpu_kernels *k) { k->attend = avx512_attend_by_type; }
