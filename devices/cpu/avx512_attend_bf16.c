/* avx512_attend_bf16.c - streaming softmax over state rows in F16, with products of pairs of BF16 (the rule:
 * kernels.h). Needs AVX512_BF16 besides.
 *
 * VDPBF16PS adds two products in each lane, so it does twice the work of a float FMA where it is as quick.
 */
#include "devices/cpu/avx512_attend_lots.h"

/* Two vectors of floats, rounded: those of `low` first. */
INLINE __m512i round_pairs(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* Halves of a row, rounded to BF16, as 2^-112 of what they are: their bits of the exponent stay, of which
 * BF16 has more. Those without any are subnormal and count as zero. */
INLINE __m512i load_pairs(const uint8_t *row, uint32_t elements) {
    const __m512i halves =
        elements == 0xffffffff ? _mm512_loadu_si512(row) : _mm512_maskz_loadu_epi16(elements, row);
    const __m512i shifted = _mm512_srai_epi16(_mm512_add_epi16(halves, _mm512_set1_epi16(4)), 3);
    return _mm512_and_si512(shifted, _mm512_set1_epi16((short)0x8fff));
}

INLINE void reorder_pairs(__m512i quarters[TILE], const tile *t, const size_t part, const size_t n) {
    reorder_words(quarters, t, part, n, load_pairs);
}

/* Elements of two vectors, those of the same number side by side. */
static const _Alignas(LINE) uint16_t paired[2][32] = {
#define PAIR(i)    i, 32 + i
#define PAIRS_4(i) PAIR(i), PAIR(i + 1), PAIR(i + 2), PAIR(i + 3)
    {PAIRS_4(0), PAIRS_4(4), PAIRS_4(8), PAIRS_4(12)}, {PAIRS_4(16), PAIRS_4(20), PAIRS_4(24), PAIRS_4(28)}
#undef PAIRS_4
#undef PAIR
};

INLINE void pair_rows(__m512i to[2], const uint8_t *row, size_t stride, const size_t n, uint32_t elements) {
    const __m512i even = n > 0 ? load_pairs(row, elements) : _mm512_setzero_si512();
    const __m512i odd = n > 1 ? load_pairs(row + stride, elements) : _mm512_setzero_si512();
    UNROLL for (size_t j = 0; j < 2; j++) to[j] =
        _mm512_permutex2var_epi16(even, _mm512_load_si512((const void *)paired[j]), odd);
}

INLINE __m512i pair_floats(const float *x, uint32_t elements, __m512 scale) {
    const __m512 low = _mm512_maskz_loadu_ps((__mmask16)elements, x);
    const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(elements >> 16), x + 16);
    return round_pairs(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale));
}

INLINE __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* Large queries would overflow if they made up for all of 2^-112: so scores are too small by a part of it. */
static void attend_pairs(const cpu_attend_args *a) {
    attend_whole_or_not(a, (attend_form){.bytes = sizeof(uint16_t),
                                         .per_word = 2,
                                         .key_unit = 0x1p112f,
                                         .score_unit = 0x1p48f,
                                         .lift = 112,
                                         .reorder = reorder_pairs,
                                         .values = pair_rows,
                                         .pack = round_pairs,
                                         .words = pair_floats,
                                         .multiply = multiply_pairs});
}

static void attend(const cpu_attend_args *args) {
    if (args->state == GGUF_F16 && args->rounded && args->head_n >= CPU_ATTEND_ROUNDED)
        attend_pairs(args);
    else
        avx512_attend_by_type(args);
}

void cpu_kernels_avx512_bf16(cpu_kernels *k) {
    k->attend = attend;
    k->attend_bf16 = true;
}
