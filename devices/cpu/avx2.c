/* avx2.c - kernels for AVX2, FMA and F16C: the table, and the vector work of a layer. */
#include "devices/cpu/avx2.h"

/* Twelve independent sums hide the latency of the multipliers; the empty statements keep the compiler from
 * adding the constant products once. */
enum { CHAINS = 12 };

static double peak_int8(size_t iterations, float *sink) {
    const __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5), one = _mm256_set1_epi16(1);
    __m256i sum[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_setzero_si256();
    for (size_t i = 0; i < iterations; i++) {
        AVX2_UNROLL
        for (int c = 0; c < CHAINS; c++) {
            __m256i pairs = _mm256_maddubs_epi16(w, x);
            __asm__("" : "+x"(pairs));
            sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(pairs, one));
        }
    }
    for (int c = 1; c < CHAINS; c++) sum[0] = _mm256_add_epi32(sum[0], sum[c]);
    *sink = sum_8(_mm256_cvtepi32_ps(sum[0]));
    return 2.0 * 32 * CHAINS * (double)iterations;
}

static double peak_f32(size_t iterations, float *sink) {
    const __m256 a = _mm256_set1_ps(1e-3f), b = _mm256_set1_ps(0.5f);
    __m256 sum[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_setzero_ps();
    for (size_t i = 0; i < iterations; i++) {
        AVX2_UNROLL
        for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_fmadd_ps(a, b, sum[c]);
    }
    for (int c = 1; c < CHAINS; c++) sum[0] = _mm256_add_ps(sum[0], sum[c]);
    *sink = sum_8(sum[0]);
    return 2.0 * 8 * CHAINS * (double)iterations;
}

static uint64_t read_sum(const void *p, size_t bytes) {
    const __m256i *v = p;
    __m256i sum[8];
    for (int j = 0; j < 8; j++) sum[j] = _mm256_setzero_si256();
    for (const __m256i *end = v + bytes / sizeof *v; v < end; v += 8) {
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256(v + j));
    }
    for (int j = 1; j < 8; j++) sum[0] = _mm256_add_epi64(sum[0], sum[j]);
    uint64_t part[4];
    memcpy(part, sum, sizeof part);
    return part[0] + part[1] + part[2] + part[3];
}

void cpu_kernels_avx2(cpu_kernels *k) {
    k->isa = "avx2";
    k->read_sum = read_sum;
    k->peak_int8 = peak_int8;
    k->peak_f32 = peak_f32;
    cpu_avx2_gemv_init(k);
}
