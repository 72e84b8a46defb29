/* avx512.c - fills the table with what 512-bit registers do better than AVX2, and the vector work of it:
 * norms, activations, conversions, limits. Products are in avx512_gemv.c, avx512_blocks.c, avx512_gemm.c and
 * avx512_sgemm.c, attention in avx512_attend.c, sums over neurons in avx512_neurons.c and avx512_rows.c. */
#include "devices/cpu/avx512.h"

#include <math.h>

/* ---- Vectors ------------------------------------------------------------------------------------------ */

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
    __m512 sum[4];
    UNROLL for (size_t c = 0; c < 4; c++) sum[c] = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        UNROLL for (size_t c = 0; c < 4; c++) {
            const __m512 v = _mm512_loadu_ps(x + i + 16 * c);
            sum[c] = _mm512_fmadd_ps(v, v, sum[c]);
        }
    }
    for (; i < n; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(lanes_left(n - i), x + i);
        sum[0] = _mm512_fmadd_ps(v, v, sum[0]);
    }
    const __m512 all = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(all) / (float)n + eps));
    for (i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_left(n - i);
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), factor);
        const __m512 weight = w ? _mm512_maskz_loadu_ps(lanes, w + i) : _mm512_set1_ps(1);
        _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(v, weight));
    }
}

static void axpy(float *y, const float *x, float a, size_t n) {
    const __m512 factor = _mm512_set1_ps(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(y + i, _mm512_fmadd_ps(factor, _mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i)));
    }
    if (i < n) {
        const __mmask16 lanes = lanes_left(n - i);
        const __m512 v = _mm512_maskz_loadu_ps(lanes, y + i);
        _mm512_mask_storeu_ps(y + i, lanes, _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(lanes, x + i), v));
    }
}

static void blend(float *y, const float *x, float a, float b, size_t n) {
    const __m512 old = _mm512_set1_ps(a), new = _mm512_set1_ps(b);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_left(n - i);
        const __m512 kept = _mm512_mul_ps(old, _mm512_maskz_loadu_ps(lanes, y + i));
        _mm512_mask_storeu_ps(y + i, lanes, _mm512_fmadd_ps(new, _mm512_maskz_loadu_ps(lanes, x + i), kept));
    }
}

static void f32_to_f16(uint16_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_left(n - i);
        const __m512 v = _mm512_maskz_loadu_ps(lanes, x + i);
        _mm256_mask_storeu_epi16(y + i, lanes,
                                 _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
}

/* ---- Activations ----------------------------------------------------------------------------------------
 */

/* erfc(z) for z >= 0 as t exp(P(t) - z^2) with t = 2 / (2 + z); P is a least-maximum fit to ln(erfc(z)
 * exp(z^2) / t) on [0, 10], off by 5e-8. */
INLINE __m512 erfc_positive(__m512 z) {
    static const float p[] = {-0x1.43f3f8p+0f, 0x1.ff3a68p-1f,  0x1.8d35aap-2f,  0x1.d091aap-6f,
                              0x1.4b050ap-6f,  -0x1.de6fbcp-4f, -0x1.4d6cfap-1f, 0x1.1f5426p+0f,
                              -0x1.5504bep-1f, 0x1.233582p-3f};
    const __m512 two = _mm512_set1_ps(2), t = _mm512_div_ps(two, _mm512_add_ps(two, z));
    __m512 sum = _mm512_set1_ps(p[COUNT_OF(p) - 1]);
    UNROLL for (size_t i = COUNT_OF(p) - 1; i-- > 0;) sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(p[i]));
    return _mm512_mul_ps(t, exp_lanes(_mm512_fnmadd_ps(z, z, sum)));
}

/* x Phi(x), with Phi(x) = erfc(-x / sqrt(2)) / 2: from the smaller tail, where nothing cancels. */
INLINE __m512 gelu(__m512 x) {
    const __m512 half = _mm512_set1_ps(0.5f), size = _mm512_abs_ps(x);
    const __m512 tail =
        _mm512_mul_ps(half, erfc_positive(_mm512_mul_ps(size, _mm512_set1_ps((float)M_SQRT1_2))));
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 phi = _mm512_mask_blend_ps(negative, _mm512_sub_ps(_mm512_set1_ps(1), tail), tail);
    return _mm512_mul_ps(x, phi);
}

/* x / (1 + exp(-a)), a(x) being x itself or, for the tanh form of GELU, 2 sqrt(2 / pi) (x + 0.044715 x^3). */
INLINE __m512 times_logistic(__m512 x, __m512 a) {
    const __m512 one = _mm512_set1_ps(1);
    return _mm512_div_ps(x, _mm512_add_ps(one, exp_lanes(_mm512_sub_ps(_mm512_setzero_ps(), a))));
}

INLINE __m512 gelu_tanh(__m512 x) {
    const __m512 square = _mm512_mul_ps(x, x);
    const __m512 slope =
        _mm512_fmadd_ps(square, _mm512_set1_ps(0x1.988454p+0f * 0.044715f), _mm512_set1_ps(0x1.988454p+0f));
    return times_logistic(x, _mm512_mul_ps(x, slope));
}

INLINE __m512 activation(__m512 x, const cpu_activation kind) {
    const __m512 positive = _mm512_max_ps(x, _mm512_setzero_ps());
    switch (kind) {
    case CPU_ACT_SILU: return times_logistic(x, x);
    case CPU_ACT_GELU: return gelu(x);
    case CPU_ACT_GELU_TANH: return gelu_tanh(x);
    case CPU_ACT_RELU:
    case CPU_ACT_DRELU: return positive;
    case CPU_ACT_RELU2: return _mm512_mul_ps(positive, positive);
    case CPU_ACT_SWIGLU_OAI:
        x = _mm512_min_ps(x, _mm512_set1_ps(7));
        return times_logistic(x, _mm512_mul_ps(x, _mm512_set1_ps(1.702f)));
    case CPU_ACT_COUNT: break;
    }
    __builtin_unreachable();
}

INLINE __m512 activation_factor(__m512 up, const cpu_activation kind) {
    if (kind == CPU_ACT_DRELU) return activation(up, kind);
    if (kind != CPU_ACT_SWIGLU_OAI) return up;
    const __m512 cut = _mm512_max_ps(_mm512_min_ps(up, _mm512_set1_ps(7)), _mm512_set1_ps(-7));
    return _mm512_add_ps(cut, _mm512_set1_ps(1));
}

INLINE void activate_kind(float *h, const float *gate, const float *up, size_t n, const cpu_activation kind) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 lanes = lanes_left(n - i);
        __m512 v = activation(_mm512_maskz_loadu_ps(lanes, gate + i), kind);
        if (up) {
            const __m512 u = _mm512_maskz_loadu_ps(lanes, up + i);
            v = _mm512_mul_ps(v, activation_factor(u, kind));
        }
        _mm512_mask_storeu_ps(h + i, lanes, v);
    }
}

static void activate(float *h, const float *gate, const float *up, size_t n, cpu_activation kind) {
    switch (kind) {
    case CPU_ACT_SILU: activate_kind(h, gate, up, n, CPU_ACT_SILU); return;
    case CPU_ACT_GELU: activate_kind(h, gate, up, n, CPU_ACT_GELU); return;
    case CPU_ACT_GELU_TANH: activate_kind(h, gate, up, n, CPU_ACT_GELU_TANH); return;
    case CPU_ACT_RELU: activate_kind(h, gate, up, n, CPU_ACT_RELU); return;
    case CPU_ACT_RELU2: activate_kind(h, gate, up, n, CPU_ACT_RELU2); return;
    case CPU_ACT_DRELU: activate_kind(h, gate, up, n, CPU_ACT_DRELU); return;
    case CPU_ACT_SWIGLU_OAI: activate_kind(h, gate, up, n, CPU_ACT_SWIGLU_OAI); return;
    case CPU_ACT_COUNT: return;
    }
}

/* ---- What the machine can do ----------------------------------------------------------------------------
 */

static uint64_t read_sum(const void *p, size_t bytes) {
    enum { CHAINS = 8 };
    const uint8_t *at = p;
    __m512i sum[CHAINS];
    UNROLL for (size_t c = 0; c < CHAINS; c++) sum[c] = _mm512_setzero_si512();
    for (size_t i = 0; i < bytes; i += CHAINS * LINE) {
        UNROLL for (size_t c = 0; c < CHAINS; c++) {
            sum[c] = _mm512_add_epi64(sum[c], _mm512_load_si512(at + i + c * LINE));
        }
    }
    UNROLL for (size_t c = 1; c < CHAINS; c++) sum[0] = _mm512_add_epi64(sum[0], sum[c]);
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

static size_t where_above(uint32_t *where, const float *x, size_t n, float bound) {
    const __m512 least = _mm512_set1_ps(bound);
    __m512i number = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    size_t count = 0;
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 there = lanes_left(n - i);
        const __mmask16 above =
            (__mmask16)(_mm512_cmp_ps_mask(least, _mm512_maskz_loadu_ps(there, x + i), _CMP_LT_OQ) & there);
        /* what follows the last number is overwritten or was free: count <= i */
        _mm512_mask_storeu_epi32(where + count, there, _mm512_maskz_compress_epi32(above, number));
        count += (size_t)__builtin_popcount(above);
        number = _mm512_add_epi32(number, _mm512_set1_epi32(16));
    }
    return count;
}

/* Sums that don't wait for each other: more than latency times throughput of any processor so far. They start
 * at different values, or the compiler would compute one for all. */
enum { PEAK_CHAINS = 16 };

static double peak_int8(size_t iterations, float *sink) {
    const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
    __m512i sum[PEAK_CHAINS];
    UNROLL for (size_t c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_set1_epi32((int)c);
    for (size_t i = 0; i < iterations; i++) {
        UNROLL for (size_t c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_dpbusd_epi32(sum[c], a, b);
    }
    UNROLL for (size_t c = 1; c < PEAK_CHAINS; c++) sum[0] = _mm512_add_epi32(sum[0], sum[c]);
    *sink = (float)_mm512_reduce_add_epi32(sum[0]);
    return 2.0 * 64 * PEAK_CHAINS * (double)iterations;
}

static double peak_f32(size_t iterations, float *sink) {
    const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1e-3f);
    __m512 sum[PEAK_CHAINS];
    UNROLL for (size_t c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_set1_ps((float)c);
    for (size_t i = 0; i < iterations; i++) {
        UNROLL for (size_t c = 0; c < PEAK_CHAINS; c++) sum[c] = _mm512_fmadd_ps(sum[c], a, b);
    }
    UNROLL for (size_t c = 1; c < PEAK_CHAINS; c++) sum[0] = _mm512_add_ps(sum[0], sum[c]);
    *sink = _mm512_reduce_add_ps(sum[0]);
    return 2.0 * 16 * PEAK_CHAINS * (double)iterations;
}

void cpu_kernels_avx512(cpu_kernels *k) {
    k->isa = "avx512";
    avx512_gemv(k);
    avx512_blocks(k);
    avx512_gemm(k);
    avx512_gemm_blocks(k);
    avx512_sgemm(k);
    avx512_lanes(k);
    avx512_lanes_k(k);
    avx512_attend(k);
    avx512_neurons(k);
    avx512_rows(k);
    k->rmsnorm = rmsnorm;
    k->activate = activate;
    k->where_above = where_above;
    k->axpy = axpy;
    k->blend = blend;
    k->f32_to_f16 = f32_to_f16;
    k->read_sum = read_sum;
    k->peak_int8 = peak_int8;
    k->peak_f32 = peak_f32;
}
