/* avx512_attend_groups.c - streaming softmax over a grouped state in F16, with products of floats. */
#include "devices/cpu/avx512_attend_groups.h"

INLINE __m512i widen_halves(const uint8_t *at) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256((const void *)at)));
}

INLINE __m512i scale_floats(const float *x, uint32_t elements, __m512 scale) {
    return _mm512_castps_si512(_mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16)elements, x), scale));
}

INLINE __m512 multiply_floats(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

void avx512_attend_groups(const cpu_attend_args *args) {
    attend_groups(args, (group_form){.bytes = sizeof(uint16_t),
                                     .per_word = 1,
                                     .vector_bytes = LINE / 2,
                                     .load = widen_halves,
                                     .words = scale_floats,
                                     .multiply = multiply_floats});
}
