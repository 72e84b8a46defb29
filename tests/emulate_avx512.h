/* emulate_avx512.h - AVX-512 intrinsics for machines without AVX-512.
 *
 * Force-included (-include) when devices/cpu/avx512*.c are compiled for the tests with AVX2 only, so that the
 * very same sources run everywhere. Written from Intel's published definitions. An operation that works
 * within 128-bit lanes is its AVX2 namesake applied to both halves; the others are loops over elements. Loads
 * and stores touch exactly the bytes that the instruction touches, so guard pages catch what would fault;
 * bits that an intrinsic leaves undefined are set to a pattern. An intrinsic that is missing here is a
 * compile error in those sources.
 */
#ifndef HOTSET_EMULATE_AVX512_H
#define HOTSET_EMULATE_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* The sources' own external names, so that both versions can stand in one program. */
#define cpu_kernels_avx512      cpu_kernels_avx512_emulated
#define cpu_kernels_avx512_bf16 cpu_kernels_avx512_bf16_emulated
#define cpu_kernels_amx         cpu_kernels_amx_emulated
#define avx512_blocks           avx512_blocks_emulated
#define avx512_gemv             avx512_gemv_emulated
#define avx512_gemm             avx512_gemm_emulated
#define avx512_gemm_blocks      avx512_gemm_blocks_emulated
#define avx512_gemm_wide        avx512_gemm_wide_emulated
#define avx512_lanes            avx512_lanes_emulated
#define avx512_lanes_k          avx512_lanes_k_emulated
#define avx512_attend           avx512_attend_emulated
#define avx512_attend_by_type   avx512_attend_by_type_emulated
#define avx512_attend_groups    avx512_attend_groups_emulated
#define avx512_attend_pairs     avx512_attend_pairs_emulated
#define avx512_attend_int8      avx512_attend_int8_emulated
#define avx512_neurons          avx512_neurons_emulated
#define avx512_sgemm            avx512_sgemm_emulated
#define avx512_rows             avx512_rows_emulated

/* Neither inlined nor unrolled by force: nothing here needs the speed, and compilers take minutes over it. */
#define INLINE static inline
#define UNROLL
#define KEEP(v)                (void)(v)
#define STREAM_KEEP(v)         (void)(v)
#define ADD_QUADS(s, bytes, x) ((s) = _mm512_dpbusd_epi32(s, bytes, _mm512_set1_epi32(read_i32(x))))

typedef union emu {
    __m512 ps;
    __m512i i;
    __m256 half_ps[2];
    __m256i half[2];
    __m128i quarter[4];
    float f32[16];
    int8_t i8[64];
    uint8_t u8[64];
    int16_t i16[32];
    uint16_t u16[32];
    int32_t i32[16];
    uint32_t u32[16];
    uint64_t u64[8];
} emu;

/* Also in release builds, where assert is nothing. */
#define EMU_REQUIRE(condition)                                                                               \
    do {                                                                                                     \
        if (!(condition)) __builtin_trap();                                                                  \
    } while (0)
#define EMU_EACH(i, n) for (int i = 0; i < (n); i++)
/* Both halves by an AVX2 intrinsic. */
#define EMU_TWICE_PS(name, op)                                                                               \
    static inline __m512 emu_##name(__m512 a, __m512 b) {                                                    \
        const emu x = {.ps = a}, y = {.ps = b};                                                              \
        return ((emu){.half_ps = {op(x.half_ps[0], y.half_ps[0]), op(x.half_ps[1], y.half_ps[1])}}).ps;      \
    }
#define EMU_TWICE(name, op)                                                                                  \
    static inline __m512i emu_##name(__m512i a, __m512i b) {                                                 \
        const emu x = {.i = a}, y = {.i = b};                                                                \
        return ((emu){.half = {op(x.half[0], y.half[0]), op(x.half[1], y.half[1])}}).i;                      \
    }
#define EMU_TWICE_SHIFT(name, op)                                                                            \
    static inline __m512i emu_##name(__m512i a, unsigned n) {                                                \
        const emu x = {.i = a};                                                                              \
        return ((emu){.half = {op(x.half[0], (int)n), op(x.half[1], (int)n)}}).i;                            \
    }

/* ---- Loads, stores, constants ------------------------------------------------------------------------ */

static inline __m512i emu_mm512_loadu_si512(const void *p) {
    emu r;
    memcpy(&r, p, sizeof r);
    return r.i;
}
static inline __m512 emu_mm512_loadu_ps(const void *p) {
    emu r;
    memcpy(&r, p, sizeof r);
    return r.ps;
}
static inline void emu_mm512_storeu_ps(void *p, __m512 a) { memcpy(p, &a, sizeof a); }
/* The aligned ones fault on other addresses. */
static inline __m512i emu_mm512_load_si512(const void *p) {
    EMU_REQUIRE((uintptr_t)p % 64 == 0);
    return emu_mm512_loadu_si512(p);
}
static inline __m512 emu_mm512_load_ps(const void *p) {
    EMU_REQUIRE((uintptr_t)p % 64 == 0);
    return emu_mm512_loadu_ps(p);
}
static inline void emu_mm512_store_si512(void *p, __m512i a) {
    EMU_REQUIRE((uintptr_t)p % 64 == 0);
    memcpy(p, &a, sizeof a);
}
static inline void emu_mm512_store_ps(void *p, __m512 a) {
    EMU_REQUIRE((uintptr_t)p % 64 == 0);
    emu_mm512_storeu_ps(p, a);
}
static inline __m512i emu_mm512_maskz_loadu_epi8(__mmask64 m, const void *p) {
    emu r = {{0}};
    EMU_EACH(i, 64) if (m >> i & 1) memcpy(&r.u8[i], (const char *)p + i, 1);
    return r.i;
}
static inline __m512i emu_mm512_maskz_loadu_epi16(__mmask32 m, const void *p) {
    emu r = {{0}};
    EMU_EACH(i, 32) if (m >> i & 1) memcpy(&r.u16[i], (const char *)p + 2 * i, 2);
    return r.i;
}
static inline __m512 emu_mm512_maskz_loadu_ps(__mmask16 m, const void *p) {
    emu r = {{0}};
    EMU_EACH(i, 16) if (m >> i & 1) memcpy(&r.f32[i], (const char *)p + 4 * i, 4);
    return r.ps;
}
static inline __m256i emu_mm256_maskz_loadu_epi16(__mmask16 m, const void *p) {
    emu r = {{0}};
    EMU_EACH(i, 16) if (m >> i & 1) memcpy(&r.u16[i], (const char *)p + 2 * i, 2);
    return r.half[0];
}
static inline void emu_mm512_mask_storeu_ps(void *p, __mmask16 m, __m512 a) {
    const emu x = {.ps = a};
    EMU_EACH(i, 16) if (m >> i & 1) memcpy((char *)p + 4 * i, &x.f32[i], 4);
}
static inline void emu_mm256_mask_storeu_epi16(void *p, __mmask16 m, __m256i a) {
    const emu x = {.half = {a}};
    EMU_EACH(i, 16) if (m >> i & 1) memcpy((char *)p + 2 * i, &x.u16[i], 2);
}
static inline __m512 emu_mm512_setzero_ps(void) { return ((emu){.u64 = {0}}).ps; }
static inline __m512i emu_mm512_setzero_si512(void) { return ((emu){.u64 = {0}}).i; }
static inline __m512i emu_mm512_set1_epi8(char a) {
    return ((emu){.half = {_mm256_set1_epi8(a), _mm256_set1_epi8(a)}}).i;
}
static inline __m512i emu_mm512_set1_epi16(short a) {
    return ((emu){.half = {_mm256_set1_epi16(a), _mm256_set1_epi16(a)}}).i;
}
static inline __m512i emu_mm512_set1_epi64(long long a) {
    return ((emu){.half = {_mm256_set1_epi64x(a), _mm256_set1_epi64x(a)}}).i;
}
static inline __m512i emu_mm512_set1_epi32(int a) {
    return ((emu){.half = {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}}).i;
}
static inline __m512 emu_mm512_set1_ps(float a) {
    return ((emu){.half_ps = {_mm256_set1_ps(a), _mm256_set1_ps(a)}}).ps;
}
static inline __m256i emu_mm256_mask_set1_epi16(__m256i a, __mmask16 m, short b) {
    emu r = {.half = {a}};
    EMU_EACH(i, 16) if (m >> i & 1) r.i16[i] = b;
    return r.half[0];
}
static inline __m256i emu_mm256_maskz_set1_epi16(__mmask16 m, short b) {
    return emu_mm256_mask_set1_epi16(_mm256_setzero_si256(), m, b);
}

/* ---- Moving parts about ------------------------------------------------------------------------------ */

#define EMU_UNDEFINED _mm256_set1_epi8((char)0xa5)
static inline __m512i emu_mm512_castsi256_si512(__m256i a) { return ((emu){.half = {a, EMU_UNDEFINED}}).i; }
static inline __m512i emu_mm512_castsi128_si512(__m128i a) {
    emu r = {.half = {EMU_UNDEFINED, EMU_UNDEFINED}};
    r.quarter[0] = a;
    return r.i;
}
static inline __m512i emu_mm512_zextsi256_si512(__m256i a) { return ((emu){.half = {a}}).i; }
static inline __m512 emu_mm512_zextps256_ps512(__m256 a) { return ((emu){.half_ps = {a}}).ps; }
static inline __m256i emu_mm512_castsi512_si256(__m512i a) { return ((emu){.i = a}).half[0]; }
static inline __m256 emu_mm512_castps512_ps256(__m512 a) { return ((emu){.ps = a}).half_ps[0]; }
static inline __m512 emu_mm512_castsi512_ps(__m512i a) { return ((emu){.i = a}).ps; }
static inline __m512i emu_mm512_castps_si512(__m512 a) { return ((emu){.ps = a}).i; }
static inline __m512d emu_mm512_castps_pd(__m512 a) { return (__m512d)a; }
static inline __m512 emu_mm512_castpd_ps(__m512d a) { return (__m512)a; }
static inline __m256 emu_mm512_extractf32x8_ps(__m512 a, int n) { return ((emu){.ps = a}).half_ps[n & 1]; }
static inline __m256i emu_mm512_extracti64x4_epi64(__m512i a, int n) { return ((emu){.i = a}).half[n & 1]; }
static inline __m512i emu_mm512_inserti64x4(__m512i a, __m256i b, int n) {
    emu r = {.i = a};
    r.half[n & 1] = b;
    return r.i;
}
static inline __m512i emu_mm512_broadcast_i64x4(__m256i a) { return ((emu){.half = {a, a}}).i; }
static inline __m512 emu_mm512_broadcastss_ps(__m128 a) { return emu_mm512_set1_ps(_mm_cvtss_f32(a)); }
static inline __m512i emu_mm512_mask_broadcast_i32x4(__m512i a, __mmask16 m, __m128i b) {
    emu r = {.i = a};
    const emu x = {.quarter = {b}};
    EMU_EACH(i, 16) if (m >> i & 1) r.u32[i] = x.u32[i % 4];
    return r.i;
}
static inline __m512i emu_mm512_set_epi64(long long a7, long long a6, long long a5, long long a4,
                                          long long a3, long long a2, long long a1, long long a0) {
    return ((emu){.half = {_mm256_set_epi64x(a3, a2, a1, a0), _mm256_set_epi64x(a7, a6, a5, a4)}}).i;
}
static inline __m512i emu_mm512_set_epi32(int a15, int a14, int a13, int a12, int a11, int a10, int a9,
                                          int a8, int a7, int a6, int a5, int a4, int a3, int a2, int a1,
                                          int a0) {
    return ((emu){.half = {_mm256_set_epi32(a7, a6, a5, a4, a3, a2, a1, a0),
                           _mm256_set_epi32(a15, a14, a13, a12, a11, a10, a9, a8)}})
        .i;
}
static inline __m512i emu_mm512_permutexvar_epi16(__m512i index, __m512i a) {
    const emu n = {.i = index}, x = {.i = a};
    emu r;
    EMU_EACH(i, 32) r.u16[i] = x.u16[n.u16[i] & 31];
    return r.i;
}
static inline __m512i emu_mm512_broadcast_i32x4(__m128i a) { return ((emu){.quarter = {a, a, a, a}}).i; }
static inline __m512i emu_mm512_permutexvar_epi8(__m512i index, __m512i a) {
    const emu n = {.i = index}, x = {.i = a};
    emu r;
    EMU_EACH(i, 64) r.u8[i] = x.u8[n.u8[i] & 63];
    return r.i;
}
static inline __m512i emu_mm512_maskz_permutexvar_epi8(__mmask64 mask, __m512i index, __m512i a) {
    emu r = {.i = emu_mm512_permutexvar_epi8(index, a)};
    EMU_EACH(i, 64) if (!(mask >> i & 1)) r.u8[i] = 0;
    return r.i;
}
static inline __m512i emu_mm512_permutexvar_epi32(__m512i index, __m512i a) {
    const emu n = {.i = index}, x = {.i = a};
    emu r;
    EMU_EACH(i, 16) r.u32[i] = x.u32[n.u32[i] & 15];
    return r.i;
}
static inline __m512i emu_mm512_permutex2var_epi16(__m512i a, __m512i index, __m512i b) {
    const emu x = {.i = a}, n = {.i = index}, y = {.i = b};
    emu r;
    EMU_EACH(i, 32) r.u16[i] = n.u16[i] & 32 ? y.u16[n.u16[i] & 31] : x.u16[n.u16[i] & 31];
    return r.i;
}
static inline __m512i emu_mm512_permutex2var_epi8(__m512i a, __m512i index, __m512i b) {
    const emu x = {.i = a}, n = {.i = index}, y = {.i = b};
    emu r;
    EMU_EACH(i, 64) r.u8[i] = n.u8[i] & 64 ? y.u8[n.u8[i] & 63] : x.u8[n.u8[i] & 63];
    return r.i;
}
static inline __m512 emu_mm512_shuffle_f32x4(__m512 a, __m512 b, int n) {
    const emu x = {.ps = a}, y = {.ps = b};
    return ((emu){.quarter = {x.quarter[n & 3], x.quarter[n >> 2 & 3], y.quarter[n >> 4 & 3],
                              y.quarter[n >> 6 & 3]}})
        .ps;
}
EMU_TWICE(mm512_unpacklo_epi8, _mm256_unpacklo_epi8)
EMU_TWICE(mm512_unpackhi_epi8, _mm256_unpackhi_epi8)
EMU_TWICE(mm512_unpacklo_epi16, _mm256_unpacklo_epi16)
EMU_TWICE(mm512_unpackhi_epi16, _mm256_unpackhi_epi16)
EMU_TWICE(mm512_unpacklo_epi32, _mm256_unpacklo_epi32)
EMU_TWICE(mm512_unpackhi_epi32, _mm256_unpackhi_epi32)
EMU_TWICE(mm512_unpacklo_epi64, _mm256_unpacklo_epi64)
EMU_TWICE(mm512_unpackhi_epi64, _mm256_unpackhi_epi64)
static inline __m512i emu_mm512_shuffle_i32x4(__m512i a, __m512i b, int n) {
    return (__m512i)emu_mm512_shuffle_f32x4((__m512)a, (__m512)b, n);
}
EMU_TWICE_PS(mm512_unpacklo_ps, _mm256_unpacklo_ps)
EMU_TWICE_PS(mm512_unpackhi_ps, _mm256_unpackhi_ps)
static inline __m512d emu_mm512_unpacklo_pd(__m512d a, __m512d b) {
    return (__m512d)emu_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}
static inline __m512d emu_mm512_unpackhi_pd(__m512d a, __m512d b) {
    return (__m512d)emu_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}
EMU_TWICE(mm512_packs_epi32, _mm256_packs_epi32)
EMU_TWICE(mm512_packus_epi16, _mm256_packus_epi16)

/* ---- Integers ---------------------------------------------------------------------------------------- */

EMU_TWICE(mm512_add_epi8, _mm256_add_epi8)
EMU_TWICE(mm512_add_epi16, _mm256_add_epi16)
EMU_TWICE(mm512_add_epi32, _mm256_add_epi32)
EMU_TWICE(mm512_add_epi64, _mm256_add_epi64)
EMU_TWICE(mm512_max_epi32, _mm256_max_epi32)
EMU_TWICE(mm512_min_epi32, _mm256_min_epi32)
EMU_TWICE(mm512_mullo_epi32, _mm256_mullo_epi32)
EMU_TWICE(mm512_shuffle_epi8, _mm256_shuffle_epi8)
static inline __mmask64 emu_mm512_test_epi8_mask(__m512i a, __m512i b) {
    const emu x = {.i = a}, y = {.i = b};
    __mmask64 m = 0;
    EMU_EACH(i, 64) if (x.u8[i] & y.u8[i]) m |= (__mmask64)1 << i;
    return m;
}
static inline __m512i emu_mm512_mask_add_epi8(__m512i kept, __mmask64 m, __m512i a, __m512i b) {
    emu r = {.i = kept};
    const emu x = {.i = a}, y = {.i = b};
    EMU_EACH(i, 64) if (m >> i & 1) r.u8[i] = (uint8_t)(x.u8[i] + y.u8[i]);
    return r.i;
}
/* Bit i of each byte: the parity of what it shares with byte 7 - i of the matrix of its quadword. */
static inline __m512i emu_mm512_gf2p8affine_epi64_epi8(__m512i a, __m512i matrix, int constant) {
    const emu x = {.i = a}, m = {.i = matrix};
    emu r = {{0}};
    EMU_EACH(i, 64) {
        int bits = constant;
        EMU_EACH(bit, 8) bits ^= __builtin_parity(x.u8[i] & m.u8[i / 8 * 8 + 7 - bit]) << bit;
        r.u8[i] = (uint8_t)bits;
    }
    return r.i;
}
EMU_TWICE(mm512_sub_epi8, _mm256_sub_epi8)
EMU_TWICE(mm512_sub_epi32, _mm256_sub_epi32)
EMU_TWICE(mm512_srlv_epi64, _mm256_srlv_epi64)
EMU_TWICE(mm512_and_si512, _mm256_and_si256)
EMU_TWICE(mm512_or_si512, _mm256_or_si256)
EMU_TWICE(mm512_xor_si512, _mm256_xor_si256)
EMU_TWICE_SHIFT(mm512_srli_epi16, _mm256_srli_epi16)
EMU_TWICE_SHIFT(mm512_srli_epi32, _mm256_srli_epi32)
EMU_TWICE_SHIFT(mm512_srai_epi16, _mm256_srai_epi16)
EMU_TWICE_SHIFT(mm512_srai_epi32, _mm256_srai_epi32)
EMU_TWICE_SHIFT(mm512_slli_epi16, _mm256_slli_epi16)
EMU_TWICE_SHIFT(mm512_slli_epi32, _mm256_slli_epi32)
static inline __m512i emu_mm512_sllv_epi16(__m512i a, __m512i n) {
    emu r = {.i = a};
    const emu y = {.i = n};
    EMU_EACH(i, 32) r.u16[i] = y.u16[i] < 16 ? (uint16_t)(r.u16[i] << y.u16[i]) : 0;
    return r.i;
}
static inline __m512i emu_mm512_srlv_epi16(__m512i a, __m512i n) {
    emu r = {.i = a};
    const emu y = {.i = n};
    EMU_EACH(i, 32) r.u16[i] = y.u16[i] < 16 ? (uint16_t)(r.u16[i] >> y.u16[i]) : 0;
    return r.i;
}
/* Bit (a << 2 | b << 1 | c) of `table`, for each bit of the operands. */
static inline __m512i emu_mm512_ternarylogic_epi64(__m512i a, __m512i b, __m512i c, int table) {
    const emu x = {.i = a}, y = {.i = b}, z = {.i = c};
    emu r = {{0}};
    EMU_EACH(i, 8) {
        EMU_EACH(n, 8) {
            const uint64_t in = (n & 4 ? x.u64[i] : ~x.u64[i]) & (n & 2 ? y.u64[i] : ~y.u64[i]) &
                                (n & 1 ? z.u64[i] : ~z.u64[i]);
            if (table >> n & 1) r.u64[i] |= in;
        }
    }
    return r.i;
}
/* sum + four products of unsigned and signed bytes, per lane; wraps. */
static inline __m512i emu_mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
    const emu x = {.i = a}, y = {.i = b};
    emu r = {.i = sum};
    EMU_EACH(i, 64) r.u32[i / 4] += (uint32_t)(x.u8[i] * y.i8[i]);
    return r.i;
}
/* sum + two products of signed words, per lane; wraps. */
static inline __m512i emu_mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
    const emu x = {.i = a}, y = {.i = b};
    emu r = {.i = sum};
    EMU_EACH(i, 32) r.u32[i / 2] += (uint32_t)(x.i16[i] * y.i16[i]);
    return r.i;
}
static inline int emu_mm512_reduce_add_epi32(__m512i a) {
    const emu x = {.i = a};
    uint32_t sum = 0;
    EMU_EACH(i, 16) sum += x.u32[i];
    return (int)sum;
}
static inline long long emu_mm512_reduce_add_epi64(__m512i a) {
    const emu x = {.i = a};
    uint64_t sum = 0;
    EMU_EACH(i, 8) sum += x.u64[i];
    return (long long)sum;
}

/* ---- Conversions ------------------------------------------------------------------------------------- */

static inline __m512 emu_mm512_cvtepi32_ps(__m512i a) {
    const emu x = {.i = a};
    return ((emu){.half_ps = {_mm256_cvtepi32_ps(x.half[0]), _mm256_cvtepi32_ps(x.half[1])}}).ps;
}
static inline __m512i emu_mm512_cvtps_epi32(__m512 a) {
    const emu x = {.ps = a};
    return ((emu){.half = {_mm256_cvtps_epi32(x.half_ps[0]), _mm256_cvtps_epi32(x.half_ps[1])}}).i;
}
static inline __m512 emu_mm512_cvtph_ps(__m256i a) {
    const emu x = {.half = {a}};
    return ((emu){.half_ps = {_mm256_cvtph_ps(x.quarter[0]), _mm256_cvtph_ps(x.quarter[1])}}).ps;
}
static inline __m256i emu_mm512_cvtps_ph(__m512 a, int rounding) {
    EMU_REQUIRE(rounding == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const emu x = {.ps = a};
    return ((emu){.quarter = {_mm256_cvtps_ph(x.half_ps[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                              _mm256_cvtps_ph(x.half_ps[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}})
        .half[0];
}
static inline __m512i emu_mm512_cvtepu16_epi32(__m256i a) {
    const emu x = {.half = {a}};
    emu r;
    EMU_EACH(i, 16) r.u32[i] = x.u16[i];
    return r.i;
}
static inline __m512i emu_mm512_cvtepu8_epi32(__m128i a) {
    const emu x = {.quarter = {a}};
    emu r;
    EMU_EACH(i, 16) r.u32[i] = x.u8[i];
    return r.i;
}
static inline __m512i emu_mm512_cvtepi8_epi32(__m128i a) {
    const emu x = {.quarter = {a}};
    emu r;
    EMU_EACH(i, 16) r.i32[i] = x.i8[i];
    return r.i;
}
static inline __m256i emu_mm512_cvtepi32_epi16(__m512i a) {
    const emu x = {.i = a};
    emu r;
    EMU_EACH(i, 16) r.u16[i] = (uint16_t)x.u32[i];
    return r.half[0];
}
static inline __m128i emu_mm512_cvtsepi32_epi8(__m512i a) {
    const emu x = {.i = a};
    emu r;
    EMU_EACH(i, 16) r.i8[i] = (int8_t)(x.i32[i] > 127 ? 127 : x.i32[i] < -128 ? -128 : x.i32[i]);
    return r.quarter[0];
}

/* ---- Floats ------------------------------------------------------------------------------------------ */

EMU_TWICE_PS(mm512_add_ps, _mm256_add_ps)
EMU_TWICE_PS(mm512_sub_ps, _mm256_sub_ps)
EMU_TWICE_PS(mm512_mul_ps, _mm256_mul_ps)
EMU_TWICE_PS(mm512_div_ps, _mm256_div_ps)
EMU_TWICE_PS(mm512_max_ps, _mm256_max_ps)
EMU_TWICE_PS(mm512_min_ps, _mm256_min_ps)
static inline __m512 emu_mm512_abs_ps(__m512 a) {
    return (__m512)emu_mm512_and_si512((__m512i)a, emu_mm512_set1_epi32(0x7fffffff));
}
static inline __m512 emu_mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    const emu x = {.ps = a}, y = {.ps = b}, z = {.ps = c};
    return ((emu){.half_ps = {_mm256_fmadd_ps(x.half_ps[0], y.half_ps[0], z.half_ps[0]),
                              _mm256_fmadd_ps(x.half_ps[1], y.half_ps[1], z.half_ps[1])}})
        .ps;
}
/* BF16 is the upper half of a float; subnormal numbers count as zero. */
static inline float emu_bf16_value(uint16_t half) {
    const uint32_t bits = half & 0x7f80 ? (uint32_t)half << 16 : 0;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint16_t emu_bf16_nearest(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40);
    if (!isnormal(x) && !isinf(x)) return bits >> 31 ? 0x8000 : 0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline __m512i emu_mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
    const emu x = {.ps = low}, y = {.ps = high};
    emu r;
    EMU_EACH(i, 32) r.u16[i] = emu_bf16_nearest(i < 16 ? x.f32[i] : y.f32[i - 16]);
    return r.i;
}
static inline __m512 emu_mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
    const emu x = {.i = (__m512i)a}, y = {.i = (__m512i)b};
    emu r = {.ps = sum};
    EMU_EACH(i, 32)
    r.f32[i / 2] = fmaf(emu_bf16_value(x.u16[i]), emu_bf16_value(y.u16[i]), r.f32[i / 2]);
    return r.ps;
}
static inline __m512 emu_mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
    return emu_mm512_fmadd_ps(-a, b, c);
}
static inline __m512 emu_mm512_fmsub_ps(__m512 a, __m512 b, __m512 c) { return emu_mm512_fmadd_ps(a, b, -c); }
static inline __m512 emu_mm512_roundscale_ps(__m512 a, int how) {
    EMU_REQUIRE(how == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const emu x = {.ps = a};
    return ((emu){.half_ps = {_mm256_round_ps(x.half_ps[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                              _mm256_round_ps(x.half_ps[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}})
        .ps;
}
/* a * 2^floor(b) */
static inline __m512 emu_mm512_scalef_ps(__m512 a, __m512 b) {
    const emu y = {.ps = b};
    emu r = {.ps = a};
    EMU_EACH(i, 16)
    r.f32[i] = isnan(y.f32[i]) ? y.f32[i] : ldexpf(r.f32[i], (int)fmaxf(-400, fminf(400, floorf(y.f32[i]))));
    return r.ps;
}
static inline __m512 emu_mm512_maskz_scalef_ps(__mmask16 m, __m512 a, __m512 b) {
    emu r = {.ps = emu_mm512_scalef_ps(a, b)};
    EMU_EACH(i, 16) if (!(m >> i & 1)) r.f32[i] = 0;
    return r.ps;
}
static inline __mmask16 emu_mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
    EMU_REQUIRE(how == _CMP_LT_OQ || how == _CMP_NLT_UQ);
    const emu x = {.ps = a}, y = {.ps = b};
    unsigned m = 0;
    EMU_EACH(i, 16) m |= (unsigned)(x.f32[i] < y.f32[i]) << i;
    return (__mmask16)(how == _CMP_LT_OQ ? m : ~m);
}
static inline __m512i emu_mm512_maskz_compress_epi32(__mmask16 m, __m512i a) {
    const emu x = {.i = a};
    emu r = {0};
    int n = 0;
    EMU_EACH(i, 16) if (m >> i & 1) r.i32[n++] = x.i32[i];
    return r.i;
}
static inline void emu_mm512_mask_storeu_epi32(void *p, __mmask16 m, __m512i a) {
    const emu x = {.i = a};
    EMU_EACH(i, 16) if (m >> i & 1) memcpy((char *)p + 4 * i, &x.i32[i], 4);
}
static inline __m512 emu_mm512_mask_blend_ps(__mmask16 m, __m512 a, __m512 b) {
    const emu y = {.ps = b};
    emu r = {.ps = a};
    EMU_EACH(i, 16) if (m >> i & 1) r.f32[i] = y.f32[i];
    return r.ps;
}
static inline float emu_mm512_reduce_add_ps(__m512 a) {
    emu x = {.ps = a};
    for (int n = 8; n; n /= 2) EMU_EACH(i, n) x.f32[i] += x.f32[i + n];
    return x.f32[0];
}
static inline float emu_mm512_reduce_max_ps(__m512 a) {
    emu x = {.ps = a};
    for (int n = 8; n; n /= 2) EMU_EACH(i, n) x.f32[i] = x.f32[i] > x.f32[i + n] ? x.f32[i] : x.f32[i + n];
    return x.f32[0];
}

/* Some of these are macros already. */
#undef _mm256_mask_set1_epi16
#define _mm256_mask_set1_epi16 emu_mm256_mask_set1_epi16
#undef _mm256_mask_storeu_epi16
#define _mm256_mask_storeu_epi16 emu_mm256_mask_storeu_epi16
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16 emu_mm256_maskz_loadu_epi16
#undef _mm256_maskz_set1_epi16
#define _mm256_maskz_set1_epi16 emu_mm256_maskz_set1_epi16
#undef _mm512_abs_ps
#define _mm512_abs_ps emu_mm512_abs_ps
#undef _mm512_add_epi8
#define _mm512_add_epi8 emu_mm512_add_epi8
#undef _mm512_add_epi16
#define _mm512_add_epi16 emu_mm512_add_epi16
#undef _mm512_add_epi32
#define _mm512_add_epi32 emu_mm512_add_epi32
#undef _mm512_add_epi64
#define _mm512_add_epi64 emu_mm512_add_epi64
#undef _mm512_add_ps
#define _mm512_add_ps emu_mm512_add_ps
#undef _mm512_and_si512
#define _mm512_and_si512 emu_mm512_and_si512
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 emu_mm512_broadcast_i32x4
#undef _mm512_broadcast_i64x4
#define _mm512_broadcast_i64x4 emu_mm512_broadcast_i64x4
#undef _mm512_broadcastss_ps
#define _mm512_broadcastss_ps emu_mm512_broadcastss_ps
#undef _mm512_castpd_ps
#define _mm512_castpd_ps emu_mm512_castpd_ps
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 emu_mm512_castps512_ps256
#undef _mm512_castps_pd
#define _mm512_castps_pd emu_mm512_castps_pd
#undef _mm512_castsi128_si512
#define _mm512_castsi128_si512 emu_mm512_castsi128_si512
#undef _mm512_castsi256_si512
#define _mm512_castsi256_si512 emu_mm512_castsi256_si512
#undef _mm512_castps_si512
#define _mm512_castps_si512 emu_mm512_castps_si512
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps emu_mm512_castsi512_ps
#undef _mm512_castsi512_si256
#define _mm512_castsi512_si256 emu_mm512_castsi512_si256
#undef _mm512_mask_storeu_epi32
#define _mm512_mask_storeu_epi32 emu_mm512_mask_storeu_epi32
#undef _mm512_maskz_compress_epi32
#define _mm512_maskz_compress_epi32 emu_mm512_maskz_compress_epi32
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask emu_mm512_cmp_ps_mask
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 emu_mm512_cvtepi32_epi16
#undef _mm512_cvtne2ps_pbh
#define _mm512_cvtne2ps_pbh emu_mm512_cvtne2ps_pbh
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emu_mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 emu_mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emu_mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 emu_mm512_cvtepu8_epi32
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps emu_mm512_cvtph_ps
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emu_mm512_cvtps_epi32
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph emu_mm512_cvtps_ph
#undef _mm512_cvtsepi32_epi8
#define _mm512_cvtsepi32_epi8 emu_mm512_cvtsepi32_epi8
#undef _mm512_div_ps
#define _mm512_div_ps emu_mm512_div_ps
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps emu_mm512_dpbf16_ps
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 emu_mm512_dpbusd_epi32
#undef _mm512_dpwssd_epi32
#define _mm512_dpwssd_epi32 emu_mm512_dpwssd_epi32
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emu_mm512_extractf32x8_ps
#undef _mm512_extracti64x4_epi64
#define _mm512_extracti64x4_epi64 emu_mm512_extracti64x4_epi64
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps emu_mm512_fmadd_ps
#undef _mm512_fmsub_ps
#define _mm512_fmsub_ps emu_mm512_fmsub_ps
#undef _mm512_fnmadd_ps
#define _mm512_fnmadd_ps emu_mm512_fnmadd_ps
#undef _mm512_gf2p8affine_epi64_epi8
#define _mm512_gf2p8affine_epi64_epi8 emu_mm512_gf2p8affine_epi64_epi8
#undef _mm512_inserti64x4
#define _mm512_inserti64x4 emu_mm512_inserti64x4
#undef _mm512_load_ps
#define _mm512_load_ps emu_mm512_load_ps
#undef _mm512_load_si512
#define _mm512_load_si512 emu_mm512_load_si512
#undef _mm512_loadu_ps
#define _mm512_loadu_ps emu_mm512_loadu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 emu_mm512_loadu_si512
#undef _mm512_mask_add_epi8
#define _mm512_mask_add_epi8 emu_mm512_mask_add_epi8
#undef _mm512_mask_blend_ps
#define _mm512_mask_blend_ps emu_mm512_mask_blend_ps
#undef _mm512_mask_broadcast_i32x4
#define _mm512_mask_broadcast_i32x4 emu_mm512_mask_broadcast_i32x4
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emu_mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_epi16
#define _mm512_maskz_loadu_epi16 emu_mm512_maskz_loadu_epi16
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8 emu_mm512_maskz_loadu_epi8
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emu_mm512_maskz_loadu_ps
#undef _mm512_max_epi32
#define _mm512_max_epi32 emu_mm512_max_epi32
#undef _mm512_max_ps
#define _mm512_max_ps emu_mm512_max_ps
#undef _mm512_min_epi32
#define _mm512_min_epi32 emu_mm512_min_epi32
#undef _mm512_min_ps
#define _mm512_min_ps emu_mm512_min_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps emu_mm512_mul_ps
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 emu_mm512_mullo_epi32
#undef _mm512_or_si512
#define _mm512_or_si512 emu_mm512_or_si512
#undef _mm512_packs_epi32
#define _mm512_packs_epi32 emu_mm512_packs_epi32
#undef _mm512_packus_epi16
#define _mm512_packus_epi16 emu_mm512_packus_epi16
#undef _mm512_permutex2var_epi16
#define _mm512_permutex2var_epi16 emu_mm512_permutex2var_epi16
#undef _mm512_permutex2var_epi8
#define _mm512_permutex2var_epi8 emu_mm512_permutex2var_epi8
#undef _mm512_permutexvar_epi16
#define _mm512_permutexvar_epi16 emu_mm512_permutexvar_epi16
#undef _mm512_permutexvar_epi32
#define _mm512_permutexvar_epi32 emu_mm512_permutexvar_epi32
#undef _mm512_maskz_permutexvar_epi8
#define _mm512_maskz_permutexvar_epi8 emu_mm512_maskz_permutexvar_epi8
#undef _mm512_permutexvar_epi8
#define _mm512_permutexvar_epi8 emu_mm512_permutexvar_epi8
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 emu_mm512_reduce_add_epi32
#undef _mm512_reduce_add_epi64
#define _mm512_reduce_add_epi64 emu_mm512_reduce_add_epi64
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps emu_mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps emu_mm512_reduce_max_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps emu_mm512_roundscale_ps
#undef _mm512_maskz_scalef_ps
#define _mm512_maskz_scalef_ps emu_mm512_maskz_scalef_ps
#undef _mm512_set1_epi16
#define _mm512_set1_epi16 emu_mm512_set1_epi16
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 emu_mm512_set1_epi32
#undef _mm512_set1_epi64
#define _mm512_set1_epi64 emu_mm512_set1_epi64
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 emu_mm512_set1_epi8
#undef _mm512_set1_ps
#define _mm512_set1_ps emu_mm512_set1_ps
#undef _mm512_set_epi32
#define _mm512_set_epi32 emu_mm512_set_epi32
#undef _mm512_set_epi64
#define _mm512_set_epi64 emu_mm512_set_epi64
#undef _mm512_setzero_ps
#define _mm512_setzero_ps emu_mm512_setzero_ps
#undef _mm512_setzero_si512
#define _mm512_setzero_si512 emu_mm512_setzero_si512
#undef _mm512_shuffle_epi8
#define _mm512_shuffle_epi8 emu_mm512_shuffle_epi8
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 emu_mm512_shuffle_f32x4
#undef _mm512_shuffle_i32x4
#define _mm512_shuffle_i32x4 emu_mm512_shuffle_i32x4
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 emu_mm512_slli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 emu_mm512_slli_epi32
#undef _mm512_sllv_epi16
#define _mm512_sllv_epi16 emu_mm512_sllv_epi16
#undef _mm512_srai_epi16
#define _mm512_srai_epi16 emu_mm512_srai_epi16
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 emu_mm512_srai_epi32
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 emu_mm512_srli_epi16
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 emu_mm512_srli_epi32
#undef _mm512_srlv_epi16
#define _mm512_srlv_epi16 emu_mm512_srlv_epi16
#undef _mm512_srlv_epi64
#define _mm512_srlv_epi64 emu_mm512_srlv_epi64
#undef _mm512_store_ps
#define _mm512_store_ps emu_mm512_store_ps
#undef _mm512_store_si512
#define _mm512_store_si512 emu_mm512_store_si512
#undef _mm512_storeu_ps
#define _mm512_storeu_ps emu_mm512_storeu_ps
#undef _mm512_sub_epi8
#define _mm512_sub_epi8 emu_mm512_sub_epi8
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 emu_mm512_sub_epi32
#undef _mm512_sub_ps
#define _mm512_sub_ps emu_mm512_sub_ps
#undef _mm512_ternarylogic_epi64
#define _mm512_ternarylogic_epi64 emu_mm512_ternarylogic_epi64
#undef _mm512_test_epi8_mask
#define _mm512_test_epi8_mask emu_mm512_test_epi8_mask
#undef _mm512_unpackhi_epi16
#define _mm512_unpackhi_epi16 emu_mm512_unpackhi_epi16
#undef _mm512_unpackhi_epi32
#define _mm512_unpackhi_epi32 emu_mm512_unpackhi_epi32
#undef _mm512_unpackhi_epi64
#define _mm512_unpackhi_epi64 emu_mm512_unpackhi_epi64
#undef _mm512_unpackhi_epi8
#define _mm512_unpackhi_epi8 emu_mm512_unpackhi_epi8
#undef _mm512_unpackhi_pd
#define _mm512_unpackhi_pd emu_mm512_unpackhi_pd
#undef _mm512_unpackhi_ps
#define _mm512_unpackhi_ps emu_mm512_unpackhi_ps
#undef _mm512_unpacklo_epi16
#define _mm512_unpacklo_epi16 emu_mm512_unpacklo_epi16
#undef _mm512_unpacklo_epi32
#define _mm512_unpacklo_epi32 emu_mm512_unpacklo_epi32
#undef _mm512_unpacklo_epi64
#define _mm512_unpacklo_epi64 emu_mm512_unpacklo_epi64
#undef _mm512_unpacklo_epi8
#define _mm512_unpacklo_epi8 emu_mm512_unpacklo_epi8
#undef _mm512_unpacklo_pd
#define _mm512_unpacklo_pd emu_mm512_unpacklo_pd
#undef _mm512_unpacklo_ps
#define _mm512_unpacklo_ps emu_mm512_unpacklo_ps
#undef _mm512_xor_si512
#define _mm512_xor_si512 emu_mm512_xor_si512
#undef _mm512_zextps256_ps512
#define _mm512_zextps256_ps512 emu_mm512_zextps256_ps512
#undef _mm512_zextsi256_si512
#define _mm512_zextsi256_si512 emu_mm512_zextsi256_si512

#include "tests/emulate_tiles.h"

#endif
