/* emulate_avxvnni.h - AVX-VNNI intrinsics for machines without AVX-VNNI.
 *
 * Force-included (-include) when devices/cpu/avxvnni*.c are compiled for the tests with AVX2 only, as
 * emulate_avx512.h is for AVX-512. Written from Intel's published definitions.
 */
#ifndef HOTSET_EMULATE_AVXVNNI_H
#define HOTSET_EMULATE_AVXVNNI_H

#include <immintrin.h>

/* The sources' own external names, so that both versions can stand in one program. */
#define cpu_kernels_avxvnni     cpu_kernels_avxvnni_emulated
#define cpu_avxvnni_attend_init cpu_avxvnni_attend_init_emulated
#define cpu_avxvnni_lanes_init  cpu_avxvnni_lanes_init_emulated

/* Bytes of a without sign times those of b with sign: of each pair of bytes the first, and the second. */
static inline __m256i emu_dpbusd(__m256i sum, __m256i a, __m256i b) {
    const __m256i first = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                                            _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
    const __m256i second = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(first, second));
}
static inline __m256i emu_dpwssd(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

#undef _mm256_dpbusd_avx_epi32
#undef _mm256_dpwssd_avx_epi32
#define _mm256_dpbusd_avx_epi32 emu_dpbusd
#define _mm256_dpwssd_avx_epi32 emu_dpwssd

#endif
