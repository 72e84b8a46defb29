/* avx512_bf16.h - pairs of BF16, which are words of 32 bits. Needs AVX512_BF16 besides.
 *
 * VDPBF16PS adds two products in each lane, so it does twice the work of a float FMA where it is as quick.
 */
#ifndef HOTSET_CPU_AVX512_BF16_H
#define HOTSET_CPU_AVX512_BF16_H

#include "devices/cpu/avx512.h"

/* Two vectors of floats, rounded: those of `low` first. */
INLINE __m512i round_pairs(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

INLINE __m512i pair_floats(const float *x, uint32_t elements, __m512 scale) {
    const __m512 low = _mm512_maskz_loadu_ps((__mmask16)elements, x);
    const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(elements >> 16), x + 16);
    return round_pairs(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale));
}

INLINE __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

static inline void f32_to_bf16(uint16_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        const __m512i pairs = pair_floats(x + i, lanes_left(n - i), _mm512_set1_ps(1));
        _mm256_mask_storeu_epi16(y + i, lanes_left(n - i), _mm512_castsi512_si256(pairs));
    }
}

/* attend() of a grouped state in BF16 (avx512_attend_groups_bf16.c). */
void avx512_attend_pairs(const cpu_attend_args *args);

#endif
