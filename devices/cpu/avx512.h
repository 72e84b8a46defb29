/* avx512.h - what the AVX-512 kernels share. Needs AVX-512 F, BW, VL, DQ, VNNI, VBMI; GFNI.
 *
 * The sources that include this are compiled twice: for processors that have the instructions, and for the
 * tests with every 512-bit intrinsic replaced by plain C (tests/emulate_avx512.h), so that they are checked
 * on any machine with AVX2. An intrinsic that is new here must be added there.
 */
#ifndef HOTSET_CPU_AVX512_H
#define HOTSET_CPU_AVX512_H

#include <float.h>
#include <immintrin.h>
#include <string.h>

#include "devices/cpu/kernels.h"
#include "devices/quant.h"

#ifndef INLINE /* the emulation brings its own */
#define INLINE static inline __attribute__((always_inline))
/* Small constant loops over arrays of vectors: unrolled completely, or the arrays would live in memory. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
/* Holds a vector in its register: else a compiler may load it again where it is used, out of the order in
 * which the hardware follows a stream. */
#define KEEP(v) __asm__("" : "+v"(v))
/* s += products of unsigned bytes with the four at x, in every lane: by an instruction that broadcasts them
 * itself, which GCC does not make of intrinsics. */
#define ADD_QUADS(s, bytes, x)                                                                               \
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(bytes), "m"(*(const int8_t(*)[4])(x)))
#endif

/* The parts of the table, one per source file. */
void avx512_gemv(cpu_kernels *k);
void avx512_blocks(cpu_kernels *k);
void avx512_gemm(cpu_kernels *k);
void avx512_sgemm(cpu_kernels *k);
void avx512_lanes(cpu_kernels *k);
void avx512_lanes_k(cpu_kernels *k);
void avx512_gemm_blocks(cpu_kernels *k);
void avx512_attend(cpu_kernels *k);
void avx512_neurons(cpu_kernels *k);
void avx512_rows(cpu_kernels *k);
/* attend(), of a state in any type (avx512_attend.c), and of one in Q8_0 (avx512_attend_int8.c). */
void avx512_attend_by_type(const cpu_attend_args *args);
void avx512_attend_int8(const cpu_attend_args *args);
/* attend() of a grouped state in F16 (avx512_attend_groups.c). */
void avx512_attend_groups(const cpu_attend_args *args);

enum {
    BLOCK = 32,
    SUPERBLOCK = 256,
    Q4_0_BYTES = 18,
    Q8_0_BYTES = 34,
    Q4_K_BYTES = 144,
    Q5_K_BYTES = 176,
    Q6_K_BYTES = 210
};
enum { LINE = 64 };

/* Into the second level of cache: the first one's miss buffers are too few. Any address may be named. */
INLINE void prefetch(const uint8_t *p, size_t ahead) {
    _mm_prefetch((const char *)((uintptr_t)p + ahead), _MM_HINT_T1);
}

/* Scalars at any address; the compiler folds them into broadcasting loads. */
INLINE int16_t read_i16(const void *p) {
    int16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE int32_t read_i32(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE uint64_t read_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE float read_half(const void *p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(read_i16(p)))); }

/* The lanes of one vector that hold the next of n > 0 elements. */
INLINE __mmask16 lanes_left(size_t n) { return n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff; }

/* 16 halves at any address. */
INLINE __m512 load_halves(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }

/* The half in the lower 16 bits of each lane, or in the upper ones. */
INLINE __m512 halves_of(__m512i words) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }
INLINE __m512 upper_halves_of(__m512i words) { return halves_of(_mm512_srli_epi32(words, 16)); }

/* Byte j of each lane, unsigned or signed. */
INLINE __m512i byte_of_lanes(__m512i v, const unsigned j) {
    return _mm512_and_si512(_mm512_srli_epi32(v, 8 * j), _mm512_set1_epi32(0xff));
}
INLINE __m512i signed_of_lanes(__m512i v, const unsigned j) {
    return _mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * j), 24);
}

/* Four words in each quarter of four vectors: word j of z[i] becomes word i of t[j]. Its own inverse. */
INLINE void transpose_quarters(__m512i t[4], const __m512i z[4]) {
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    t[0] = _mm512_unpacklo_epi64(a, c);
    t[1] = _mm512_unpackhi_epi64(a, c);
    t[2] = _mm512_unpacklo_epi64(b, d);
    t[3] = _mm512_unpackhi_epi64(b, d);
}

/* 2^(e - 127) of e from 0 to 255, which counts as 254 (devices/quant.h), in 32-bit lanes. */
INLINE __m512 powers_of(__m512i e) {
    e = _mm512_min_epi32(e, _mm512_set1_epi32(254));
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(e, 23), _mm512_set1_epi32(0x00400000)));
}

/* The nibbles of each byte. */
INLINE __m512i low_nibbles(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
INLINE __m512i high_nibbles(__m512i v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }

/* 16 weights of a row of floats (F32, F16 or BF16, a constant), widened; as many of the first ones are read
 * as `lanes` says. */
INLINE __m512 load_float(gguf_type type, const void *p, __mmask16 lanes) {
    if (type == GGUF_F32) return _mm512_maskz_loadu_ps(lanes, p);
    const __m256i halves = _mm256_maskz_loadu_epi16(lanes, p);
    if (type == GGUF_F16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
INLINE size_t float_bytes(gguf_type type) { return type == GGUF_F32 ? 4 : 2; }

/* exp(x), off by less than 2 units in the last place; 0 below -87, where subnormal numbers begin, which cost
 * Intel's processors hundreds of cycles; infinite above 88.8, NaN kept. x = n ln(2) + r with |r| <= ln(2) /
 * 2, ln(2) in two parts (Cody & Waite 1980); on r a least-maximum fit, off by 4e-9. */
INLINE __m512 exp_lanes(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(89), x);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e400p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0x1.6a2434p-10f), _mm512_set1_ps(0x1.1239e2p-7f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.5558f2p-5f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.555492p-3f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.fffffcp-2f));
    p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
    return _mm512_maskz_scalef_ps(normal, _mm512_add_ps(p, _mm512_set1_ps(1)), n);
}

/* c tanh(s / c), by tanh(u) = 1 - 2 / (exp(2u) + 1) */
INLINE __m512 soft_cap(__m512 s, float cap) {
    const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2);
    const __m512 e = exp_lanes(_mm512_mul_ps(s, _mm512_set1_ps(2 / cap)));
    const __m512 tanh_u = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(e, one)));
    return _mm512_mul_ps(tanh_u, _mm512_set1_ps(cap));
}

/* Activations to 8 bits by the rule of kernels.h: d of one block of n (32 or 256) values, and the factor that
 * makes integers of them. */
INLINE float quantise_scale(const float *x, size_t n, __m512 *inverse) {
    __m512 most = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    const float a = _mm512_reduce_max_ps(most);
    const float factor = 127 / a; /* infinite where a is zero or next to it */
    *inverse = _mm512_set1_ps(factor <= FLT_MAX ? factor : 0);
    return a / 127;
}
INLINE __m512i quantise_words(const float *x, __m512 inverse) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inverse));
}
/* Returns d and writes the block's bytes. */
INLINE float quantise(int8_t *q, const float *x, size_t n) {
    __m512 inverse;
    const float d = quantise_scale(x, n, &inverse);
    for (size_t i = 0; i < n; i += 16)
        _mm_storeu_si128((void *)(q + i), _mm512_cvtsepi32_epi8(quantise_words(x + i, inverse)));
    return d;
}
INLINE int sum_i8(const int8_t *q, size_t n) {
    int sum = 0;
    for (size_t i = 0; i < n; i++) sum += q[i];
    return sum;
}

#endif
