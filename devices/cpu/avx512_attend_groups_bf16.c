/* avx512_attend_groups_bf16.c - streaming softmax over a grouped state in BF16, with products of pairs (the
 * rule: kernels.h). Needs AVX512_BF16 besides.
 */
#include "devices/cpu/avx512_attend_groups.h"
#include "devices/cpu/avx512_bf16.h"

INLINE __m512i load_pairs(const uint8_t *at) { return _mm512_loadu_si512(at); }

void avx512_attend_pairs(const cpu_attend_args *args) {
    attend_groups(args, (group_form){.bytes = sizeof(uint16_t),
                                     .per_word = 2,
                                     .vector_bytes = LINE,
                                     .load = load_pairs,
                                     .pack = round_pairs,
                                     .words = pair_floats,
                                     .multiply = multiply_pairs});
}
