/* avx512_attend_bf16.c - streaming softmax over state rows in F16, with products of pairs of BF16 (the rule:
 * kernels.h). Needs AVX512_BF16 besides.
 */
#include "devices/cpu/avx512_attend_lots.h"
#include "devices/cpu/avx512_bf16.h"

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
    if (args->state == GGUF_BF16)
        avx512_attend_pairs(args);
    else if (args->state == GGUF_F16 && !args->grouped && args->rounded && args->head_n >= CPU_ATTEND_ROUNDED)
        attend_pairs(args);
    else
        avx512_attend_by_type(args);
}

void cpu_kernels_avx512_bf16(cpu_kernels *k) {
    k->attend = attend;
    k->attend_bf16 = true;
    k->attend_rounds = true;
    k->f32_to_bf16 = f32_to_bf16;
}
