/* avx512_attend_groups.c - streaming softmax over a grouped state in F16, with products of floats. */
#include "devices/cpu/avx512_attend_groups.h"

INLINE __m512i widen_halves(const uint8_t *at) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256((const void *)at)));
}

void avx512_attend_groups(const cpu_attend_args *args) {
    attend_groups(args, (group_form){.bytes = sizeof(uint16_t),
                                     .per_word = 1,
                                     .vector_bytes = LINE / 2,
                                     .load = widen_halves,
                                     .words = scale_floats,
                                     .multiply = multiply_floats});
}
