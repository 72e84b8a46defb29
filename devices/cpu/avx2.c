/* avx2.c - kernels for AVX2, FMA and F16C: the table, and the vector work of a layer. */
#include "devices/cpu/avx2.h"

/* Twelve independent sums hide the latency of the multipliers; the empty statements keep the compiler from
 * multiplying the constants once. */
enum { CHAINS = 12 };

/* The most that products with vpmaddubsw can do: sums stay in 16 bits for 8 steps, as 4-bit weights allow.
 * in_order also keeps the compiler from multiplying the constants once. */
static double peak_int8(size_t iterations, float *sink) {
    enum { STEPS = 8 };
    __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5), sum[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_setzero_si256();
    for (size_t i = 0; i < iterations; i++) {
        for (int step = 0; step < STEPS; step++) {
            AVX2_UNROLL
            for (int c = 0; c < CHAINS; c++) {
                w = in_order(w);
                sum[c] = in_order(_mm256_add_epi16(sum[c], _mm256_maddubs_epi16(w, x)));
            }
        }
        AVX2_UNROLL
        for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_madd_epi16(sum[c], _mm256_set1_epi16(1));
    }
    for (int c = 1; c < CHAINS; c++) sum[0] = _mm256_add_epi32(sum[0], sum[c]);
    *sink = sum_8(_mm256_cvtepi32_ps(sum[0]));
    return 2.0 * 32 * STEPS * CHAINS * (double)iterations;
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
    cpu_avx2_gemm_init(k);
    cpu_avx2_sgemm_init(k);
}
