/* avx2.h - what the AVX2 files share: who fills which slots, and small pieces on 8 floats and 32 bytes.
 *
 * Only files compiled with -mavx2 -mfma -mf16c may include this.
 */
#ifndef HOTSET_CPU_AVX2_H
#define HOTSET_CPU_AVX2_H

#include "devices/cpu/kernels.h"
#include "devices/cpu/lift.h"

#include <float.h>
#include <immintrin.h>
#include <string.h>

/* Each fills its slots: avx2_gemv.c act_* and gemv; avx2_gemm.c, avx2_gemm_pairs.c and avx2_sgemm.c panel_*
 * and tile_*; avx2_lanes.c and avx2_lanes_k.c act_* and gemv of interleaved rows; avx2_nibbles.c act_* and
 * gemv of blocks of 32 in nibbles; avx2_blocks.c those of the other K-quants; avx2_attend.c attend;
 * avx2_neurons.c neuron_sum; avx2_neuron_store.c neuron_store; avx2_rows.c row_sum and row_tile. The rest is
 * in avx2.c. */
void cpu_avx2_gemv_init(cpu_kernels *k);
void cpu_avx2_gemm_init(cpu_kernels *k);
void cpu_avx2_gemm_pairs_init(cpu_kernels *k);
void cpu_avx2_blocks_init(cpu_kernels *k);
void cpu_avx2_lanes_init(cpu_kernels *k);
void cpu_avx2_lanes_k_init(cpu_kernels *k);
void cpu_avx2_nibbles_init(cpu_kernels *k);
void cpu_avx2_sgemm_init(cpu_kernels *k);
void cpu_avx2_attend_init(cpu_kernels *k);
void cpu_avx2_neurons_init(cpu_kernels *k);
void cpu_avx2_neuron_store_init(cpu_kernels *k);
void cpu_avx2_rows_init(cpu_kernels *k);
/* AVX-VNNI: avxvnni_attend.c attend; avxvnni_lanes.c act_* and gemv of interleaved rows; the rest is in
 * avxvnni_gemm.c. */
void cpu_avxvnni_attend_init(cpu_kernels *k);
void cpu_avxvnni_lanes_init(cpu_kernels *k);
/* Products q . k of query i of a call to exp(scale q . k - max), in place; zeros for rows that it does not
 * see and from there to `end`. Writes the query's max and sum (avx2_attend.c). */
void avx2_soften(const cpu_attend_args *a, size_t query_i, float *s, size_t end, float scale);
/* attend(), of a state in any type (avx2_attend.c). */
void avx2_attend_by_type(const cpu_attend_args *args);
/* The same of one in Q8_0 (avx2_attend_int8.c). */
void avx2_attend_int8(const cpu_attend_args *args);
/* attend() of a grouped state in F16 (avx2_attend_groups.c). */
void avx2_attend_groups(const cpu_attend_args *args);

#define AVX2_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define AVX2_UNROLL _Pragma("clang loop unroll(full)")
#else
#define AVX2_UNROLL _Pragma("GCC unroll 16")
#endif

AVX2_INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256(p); }
AVX2_INLINE __m128i load_128(const void *p) { return _mm_loadu_si128(p); }

/* Asks for every line of the step of `bytes` that comes `ahead` bytes later; harmless past the end of the
 * weights. scattered: of another row than follows, for which the queue of the second level is long enough.
 * Constants, but for `ahead`. */
AVX2_INLINE void prefetch_step(const uint8_t *w, const size_t bytes, size_t ahead, const bool scattered) {
    AVX2_UNROLL
    for (size_t i = 0; i < bytes; i += 64) {
        const char *p = (const char *)((uintptr_t)w + ahead + i);
        if (scattered)
            _mm_prefetch(p, _MM_HINT_T1);
        else
            _mm_prefetch(p, _MM_HINT_T0);
    }
}

/* The line at `at` of a row that is wanted later, which may be anywhere. */
AVX2_INLINE void prefetch_line(const uint8_t *row, size_t at) {
    _mm_prefetch((const char *)((uintptr_t)row + at), _MM_HINT_T1);
}

/* dots of a type by its `dot` of the row w, row by row: each asks, as it goes, for what stands `ahead` bytes
 * behind, which is one of the rows that are wanted next. */
#define DOTS_BY_ROW(type, dot)                                                                               \
    static void dots_##type(float *y, const uint8_t *const *row, const uint8_t *const *next,                 \
                            const void *act, size_t k) {                                                     \
        for (size_t r = 0; r < CPU_DOTS; r++) {                                                              \
            const uint8_t *w = row[r];                                                                       \
            const size_t ahead = (size_t)((uintptr_t)next[r] - (uintptr_t)w);                                \
            y[r] = dot;                                                                                      \
        }                                                                                                    \
    }

/* Bits of bytes, moved down by `shift` (both constants). */
AVX2_INLINE __m256i low_bits_of(__m256i v, int shift, int mask) {
    return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8((char)mask));
}

/* Four quants, number t (a constant) of eight, of the five words of lanes_five_bits (devices/lanes.h). */
AVX2_INLINE __m256i quads_of_five_bits(const __m256i word[5], const size_t t) {
    if (t < 5) return low_bits_of(word[t], 0, 31);
    const __m256i upper = low_bits_of(word[t - 5], 3, 7 << 2);
    if (t < 7) return _mm256_or_si256(upper, low_bits_of(word[t - 2], 6, 3));
    return _mm256_or_si256(upper, _mm256_or_si256(low_bits_of(word[3], 4, 2), low_bits_of(word[4], 5, 1)));
}

/* A half at any address, in every lane. */
AVX2_INLINE __m256 load_half(const uint8_t *p) {
    int16_t h;
    memcpy(&h, p, sizeof h);
    return _mm256_cvtph_ps(_mm_set1_epi16(h));
}

AVX2_INLINE float sum_8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

AVX2_INLINE float max_8(__m256 v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* The same value, made in a way hidden from the compiler: it would regroup integer sums until the registers
 * run out, load again what it can keep, and work out in advance what is meant to be measured. */
AVX2_INLINE __m256i opaque(__m256i v) {
    __asm__("" : "+x"(v));
    return v;
}

/* Four bytes at any address, in every lane. */
AVX2_INLINE __m256i broadcast_4(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* Eight rows of eight dwords: element j of row i becomes element i of row j. */
AVX2_INLINE void transpose_8x8(__m256i v[8]) {
    __m256i a[8], b[8];
    AVX2_UNROLL
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    AVX2_UNROLL
    for (int i = 0; i < 8; i += 4) {
        AVX2_UNROLL
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + 2 + j]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + 2 + j]);
        }
    }
    AVX2_UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* Eight weights, or state values, of a float type at any address. */
AVX2_INLINE __m256 load_f32(const void *p) { return _mm256_loadu_ps(p); }
AVX2_INLINE __m256 load_f16(const void *p) { return _mm256_cvtph_ps(load_128(p)); }
AVX2_INLINE __m256 load_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}

/* The first n < 8 of them, zeros after: reads only those. */
#define AVX2_LOAD_PART(load, p, n, item_bytes)                                                               \
    ({                                                                                                       \
        uint8_t part_[32] = {0};                                                                             \
        memcpy(part_, (p), (n) * (item_bytes));                                                              \
        load(part_);                                                                                         \
    })

/* Writes the first n < 8. */
AVX2_INLINE void store_part(float *p, __m256 v, size_t n) {
    float part[8];
    _mm256_storeu_ps(part, v);
    memcpy(p, part, n * sizeof *p);
}

/* e^x within 2e-7 relative: x = n ln 2 + r with |r| <= ln(2) / 2, and the series of e^r. Arguments are held
 * to [-87.3, 88.3], where the result is a normal float. */
AVX2_INLINE __m256 exp_8(__m256 x) {
    x = _mm256_min_ps(_mm256_set1_ps(88.3f),
                      _mm256_max_ps(_mm256_set1_ps(-87.3f), x)); /* in this order NaN stays */
    const __m256 scaled = _mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f));
    const __m256 n = _mm256_round_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* ln 2 in two parts, the first short enough that n times it is exact */
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    static const float inverse_factorial[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    __m256 sum = _mm256_set1_ps(1.0f / 5040);
    AVX2_UNROLL
    for (size_t i = 0; i < COUNT_OF(inverse_factorial); i++)
        sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(inverse_factorial[i]));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), exponent));
}

/* ---- Activations to 8 bits, by the rule of kernels.h ---- */

/* Scale of n values (a multiple of 32) and the factor that makes integers of them. */
AVX2_INLINE float act_scale(const float *x, size_t n, __m256 *inverse) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 max[4];
    for (size_t j = 0; j < 4; j++) max[j] = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += 32) {
        AVX2_UNROLL
        for (size_t j = 0; j < 4; j++)
            max[j] = _mm256_max_ps(max[j], _mm256_and_ps(_mm256_loadu_ps(x + i + 8 * j), magnitude));
    }
    const float a = max_8(_mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3])));
    const float factor = 127.0f / a;
    *inverse = _mm256_set1_ps(factor <= FLT_MAX ? factor : 0.0f);
    return a / 127.0f;
}

/* 32 values to bytes in their order. */
AVX2_INLINE __m256i act_bytes_32(const float *x, __m256 inverse) {
    __m256i v[4];
    AVX2_UNROLL
    for (int j = 0; j < 4; j++) v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * j), inverse));
    const __m256i lanes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(lanes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Sums of two neighbouring bytes. */
AVX2_INLINE __m256i sum_pairs(__m256i bytes) { return _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes); }
AVX2_INLINE __m128i sum_halves(__m256i pairs) {
    return _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

/* -offset times the sums of what the even and the odd lanes of 16 bits see of bytes, given as sum_pairs (of
 * each four, the first two and the last two). Added to sums of unsigned products it takes the offset away,
 * exactly: modulo 2^16 all the way, and the result fits. */
AVX2_INLINE int32_t lane_start(__m128i pairs, const int offset) {
    __m128i s = _mm_add_epi16(pairs, _mm_shuffle_epi32(pairs, 0x4e));
    s = _mm_add_epi16(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(_mm_mullo_epi16(s, _mm_set1_epi16((short)-offset)));
}

AVX2_INLINE int sum_of(__m128i pairs) {
    const int32_t both = lane_start(pairs, -1);
    return (int16_t)both + (both >> 16);
}

/* 256 activations to bytes, which it returns the d of; sums[i] is that of bytes 16i to 16i + 15. */
AVX2_INLINE float act_pack_sums(int8_t q[256], int16_t sums[16], const float *x) {
    __m256 inverse;
    const float d = act_scale(x, 256, &inverse);
    for (size_t j = 0; j < 8; j++) {
        const __m256i v = act_bytes_32(x + 32 * j, inverse), pairs = sum_pairs(v);
        memcpy(q + 32 * j, &v, sizeof v);
        sums[2 * j] = (int16_t)sum_of(_mm256_castsi256_si128(pairs));
        sums[2 * j + 1] = (int16_t)sum_of(_mm256_extracti128_si256(pairs, 1));
    }
    return d;
}

/* A packed block of activations for rows of blocks of 256 as the file has them. */
typedef struct act_256 {
    int8_t q[256];
    int16_t sums[16]; /* minus those of 16 values each, if the type does not say otherwise */
    float d;
    float unused[7]; /* keeps the next block aligned */
} act_256;

static inline size_t act_bytes_256(size_t k) { return k / 256 * sizeof(act_256); }

static inline void act_pack_256(void *act, const float *x, size_t k) {
    for (act_256 *a = act; k > 0; k -= 256, x += 256, a++) {
        a->d = act_pack_sums(a->q, a->sums, x);
        for (int j = 0; j < 16; j++) a->sums[j] = (int16_t)-a->sums[j];
    }
}

/* ---- Products of bytes, summed in lanes of 16 bits; or in 32, lifted (lift.h), by a file that includes this
 * where HAS_VPDPBUSD is defined as 1 ---- */

#ifndef HAS_VPDPBUSD
#define HAS_VPDPBUSD 0
#endif

/* What sums start with to take an offset of weights off, given the activations as sum_pairs. */
AVX2_INLINE int32_t sum_start(__m128i pairs, const int offset) {
    return HAS_VPDPBUSD ? LIFT_BITS - offset * sum_of(pairs) : lane_start(pairs, offset);
}

/* s + products of unsigned bytes and signed ones. */
AVX2_INLINE __m256i add_products(__m256i s, __m256i a, __m256i b) {
#if HAS_VPDPBUSD
    return opaque(_mm256_dpbusd_avx_epi32(s, a, b));
#else
    return opaque(_mm256_add_epi16(s, _mm256_maddubs_epi16(a, b)));
#endif
}

/* s + products of two neighbouring 16 bits, added */
AVX2_INLINE __m256i add_word_products(__m256i s, __m256i a, __m256i b) {
#if HAS_VPDPBUSD
    return opaque(_mm256_dpwssd_avx_epi32(s, a, b));
#else
    return opaque(_mm256_add_epi32(s, _mm256_madd_epi16(a, b)));
#endif
}

/* Sums as floats; those of 16 bits have been widened. A subtraction need not wait for the multipliers, as a
 * conversion would. */
AVX2_INLINE __m256 sum_float(__m256i s) {
    if (!HAS_VPDPBUSD) return _mm256_cvtepi32_ps(s);
    return _mm256_sub_ps(_mm256_castsi256_ps(s), _mm256_set1_ps(LIFT));
}

/* ---- Blocks (layouts: devices/quant.h) ---- */

/* The 12 bytes of 6-bit numbers as {scale 0-3, min 0-3, scale 4-7, min 4-7} bytes (layout: devices/quant.h).
 */
AVX2_INLINE __m128i q4_k_scales(const uint8_t *scales) {
    uint64_t first;
    uint32_t last;
    memcpy(&first, scales, sizeof first);
    memcpy(&last, scales + 8, sizeof last);
    const uint64_t low = first & 0x3f3f3f3f3f3f3f3full;
    const uint64_t nibbles = (last & 0x0f0f0f0fu) | (uint64_t)(last >> 4 & 0x0f0f0f0fu) << 32;
    const uint64_t high = (first >> 2 & 0x3030303030303030ull) | nibbles;
    return _mm_set_epi64x((long long)high, (long long)low);
}

/* Q6_K quants 32g to 32g + 31 of a half, unsigned 0 to 63, from the two registers that hold their bits. */
AVX2_INLINE __m256i q6_k_quants(__m256i low, __m256i high, const int g) {
    const __m256i low_mask = _mm256_set1_epi8(0x0f), high_mask = _mm256_set1_epi8(0x30);
    const __m256i nibbles = _mm256_and_si256(g < 2 ? low : _mm256_srli_epi16(low, 4), low_mask);
    const __m256i bits = g == 0   ? _mm256_slli_epi16(high, 4)
                         : g == 1 ? _mm256_slli_epi16(high, 2)
                         : g == 2 ? high
                                  : _mm256_srli_epi16(high, 2);
    return _mm256_or_si256(nibbles, _mm256_and_si256(bits, high_mask));
}

#endif
