/* avx2.c - kernels for AVX2, FMA and F16C: the table, and the vector work of a layer. */
#include "devices/cpu/avx2.h"
#include "devices/cpu/stream.h"

#include <math.h>

/* ---- Norms ---- */

static void scale_row(float *y, const float *x, const float *w, const float *b, size_t n, float shift,
                      float factor) {
    const __m256 s = _mm256_set1_ps(shift), f = _mm256_set1_ps(factor);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(load_f32(x + i), s), f);
        if (w) v = _mm256_mul_ps(v, load_f32(w + i));
        if (b) v = _mm256_add_ps(v, load_f32(b + i));
        _mm256_storeu_ps(y + i, v);
    }
    for (; i < n; i++) y[i] = (x[i] - shift) * factor * (w ? w[i] : 1.0f) + (b ? b[i] : 0.0f);
}

/* Sum of (x - shift)^2. */
static double sum_squares(const float *x, size_t n, float shift) {
    const __m256 s = _mm256_set1_ps(shift);
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        AVX2_UNROLL
        for (size_t j = 0; j < 2; j++) {
            const __m256 v = _mm256_sub_ps(load_f32(x + i + 8 * j), s);
            sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
        }
    }
    double total = (double)sum_8(_mm256_add_ps(sum[0], sum[1]));
    for (; i < n; i++) total += (double)(x[i] - shift) * (double)(x[i] - shift);
    return total;
}

static double sum_row(const float *x, size_t n) {
    __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        sum[0] = _mm256_add_pd(sum[0], _mm256_cvtps_pd(_mm_loadu_ps(x + i)));
        sum[1] = _mm256_add_pd(sum[1], _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)));
    }
    double part[4];
    _mm256_storeu_pd(part, _mm256_add_pd(sum[0], sum[1]));
    double total = (part[0] + part[1]) + (part[2] + part[3]);
    for (; i < n; i++) total += (double)x[i];
    return total;
}

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
    const double mean_square = sum_squares(x, n, 0) / (double)n;
    scale_row(y, x, w, NULL, n, 0, (float)(1.0 / sqrt(mean_square + (double)eps)));
}

static void layernorm(float *y, const float *x, const float *w, const float *b, size_t n, float eps) {
    const float mean = (float)(sum_row(x, n) / (double)n);
    const double variance = sum_squares(x, n, mean) / (double)n;
    scale_row(y, x, w, b, n, mean, (float)(1.0 / sqrt(variance + (double)eps)));
}

/* ---- Activations (formulas: ref.c) ---- */

AVX2_INLINE __m256 sigmoid_8(__m256 x) {
    const __m256 one = _mm256_set1_ps(1), minus_x = _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
    return _mm256_div_ps(one, _mm256_add_ps(one, exp_8(minus_x)));
}

AVX2_INLINE __m256 silu_8(__m256 x) { return _mm256_mul_ps(x, sigmoid_8(x)); }

AVX2_INLINE __m256 gelu_tanh_8(__m256 x) {
    const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
    const __m256 inner = _mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715f), x);
    return _mm256_mul_ps(x, sigmoid_8(_mm256_mul_ps(inner, _mm256_set1_ps(0x1.988454p+0f))));
}

/* x / 2 * erfc(-x / sqrt 2). With z = |x| / sqrt 2 and t = 1 / (1 + z / 2), erfc(z) = t P(t) exp(-z^2): P is
 * a fit of erfc(z) exp(z^2) / t over all z >= 0, relative error 2e-7. */
AVX2_INLINE __m256 gelu_8(__m256 x) {
    static const float fit[] = {6.350094e-02f,  3.2611705e-02f, -2.0050828e-01f,
                                8.0691986e-02f, 5.7802424e-02f, 1.8051569e-01f,
                                2.4650028e-01f, 2.8210485e-01f, 2.8209475e-01f};
    const __m256 one = _mm256_set1_ps(1), half = _mm256_set1_ps(0.5f), sign = _mm256_set1_ps(-0.0f);
    const __m256 size = _mm256_andnot_ps(sign, x);
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(size, _mm256_set1_ps(0x1.6a09e6p-2f), one));
    __m256 p = _mm256_set1_ps(-2.5314484e-02f);
    AVX2_UNROLL
    for (size_t i = 0; i < COUNT_OF(fit); i++) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(fit[i]));
    /* z^2 = square + rest exactly, up to the half; exp is 0 long before it would be infinite */
    const __m256 z = _mm256_min_ps(size, _mm256_set1_ps(64));
    const __m256 square = _mm256_mul_ps(z, z), rest = _mm256_fmsub_ps(z, z, square);
    __m256 e = exp_8(_mm256_mul_ps(square, _mm256_set1_ps(-0.5f)));
    e = _mm256_fnmadd_ps(_mm256_mul_ps(rest, half), e, e);
    const __m256 erfc = _mm256_mul_ps(_mm256_mul_ps(t, p), e);
    const __m256 both = _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(2), erfc), erfc, x);
    return _mm256_mul_ps(_mm256_mul_ps(x, half), both);
}

AVX2_INLINE __m256 relu_8(__m256 x) { return _mm256_max_ps(x, _mm256_setzero_ps()); }

AVX2_INLINE __m256 relu2_8(__m256 x) { return _mm256_mul_ps(relu_8(x), relu_8(x)); }

AVX2_INLINE void activate_with(float *h, const float *gate, const float *up, size_t n, __m256 (*f)(__m256)) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = f(load_f32(gate + i));
        _mm256_storeu_ps(h + i, up ? _mm256_mul_ps(v, load_f32(up + i)) : v);
    }
    if (i == n) return;
    const __m256 v = f(AVX2_LOAD_PART(load_f32, gate + i, n - i, sizeof *gate));
    store_part(h + i, up ? _mm256_mul_ps(v, AVX2_LOAD_PART(load_f32, up + i, n - i, sizeof *up)) : v, n - i);
}

/* g sigmoid(1.702 g), g cut at 7 */
AVX2_INLINE __m256 swish_oai_8(__m256 x) {
    const __m256 g = _mm256_min_ps(x, _mm256_set1_ps(7));
    const __m256 e = exp_8(_mm256_mul_ps(g, _mm256_set1_ps(-1.702f)));
    return _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1), e));
}

AVX2_INLINE __m256 factor_oai_8(__m256 x) {
    const __m256 cut = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(7)), _mm256_set1_ps(-7));
    return _mm256_add_ps(cut, _mm256_set1_ps(1));
}

/* f(gate) * g(up) */
AVX2_INLINE void activate_both(float *h, const float *gate, const float *up, size_t n, __m256 (*f)(__m256),
                               __m256 (*g)(__m256)) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(h + i, _mm256_mul_ps(f(load_f32(gate + i)), g(load_f32(up + i))));
    if (i == n) return;
    const __m256 left = AVX2_LOAD_PART(load_f32, gate + i, n - i, sizeof *gate);
    const __m256 right = AVX2_LOAD_PART(load_f32, up + i, n - i, sizeof *up);
    store_part(h + i, _mm256_mul_ps(f(left), g(right)), n - i);
}

static void activate(float *h, const float *gate, const float *up, size_t n, cpu_activation kind) {
    switch (kind) {
    case CPU_ACT_SILU: activate_with(h, gate, up, n, silu_8); break;
    case CPU_ACT_GELU: activate_with(h, gate, up, n, gelu_8); break;
    case CPU_ACT_GELU_TANH: activate_with(h, gate, up, n, gelu_tanh_8); break;
    case CPU_ACT_RELU: activate_with(h, gate, up, n, relu_8); break;
    case CPU_ACT_RELU2: activate_with(h, gate, up, n, relu2_8); break;
    case CPU_ACT_DRELU:
        if (up)
            activate_both(h, gate, up, n, relu_8, relu_8);
        else
            activate_with(h, gate, NULL, n, relu_8);
        break;
    case CPU_ACT_SWIGLU_OAI:
        if (up)
            activate_both(h, gate, up, n, swish_oai_8, factor_oai_8);
        else
            activate_with(h, gate, NULL, n, swish_oai_8);
        break;
    case CPU_ACT_COUNT: break;
    }
}

/* ---- Small vector work ---- */

static void axpy(float *y, const float *x, float a, size_t n) {
    const __m256 factor = _mm256_set1_ps(a);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(factor, load_f32(x + i), load_f32(y + i)));
    for (; i < n; i++) y[i] += a * x[i];
}

static void blend(float *y, const float *x, float a, float b, size_t n) {
    const __m256 old = _mm256_set1_ps(a), new = _mm256_set1_ps(b);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(new, load_f32(x + i), _mm256_mul_ps(old, load_f32(y + i))));
    for (; i < n; i++) y[i] = a * y[i] + b * x[i];
}

static void rope_adjacent(float *x, const float *cs, size_t pair_n) {
    size_t i = 0;
    for (; i + 4 <= pair_n; i += 4) {
        const __m256 v = load_f32(x + 2 * i), angle = load_f32(cs + 2 * i);
        const __m256 crossed = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(angle));
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(angle), crossed));
    }
    for (; i < pair_n; i++) {
        const float a = x[2 * i], b = x[2 * i + 1], c = cs[2 * i], s = cs[2 * i + 1];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = a * s + b * c;
    }
}

static void rope_halves(float *x0, float *x1, const float *cs, size_t pair_n) {
    size_t i = 0;
    for (; i + 8 <= pair_n; i += 8) {
        const __m256 low = load_f32(cs + 2 * i), high = load_f32(cs + 2 * i + 8), a = load_f32(x0 + i),
                     b = load_f32(x1 + i);
        const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
        const __m256d odd = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
        const __m256 c = _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xd8));
        const __m256 s = _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xd8));
        _mm256_storeu_ps(x0 + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x1 + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
    for (; i < pair_n; i++) {
        const float a = x0[i], b = x1[i], c = cs[2 * i], s = cs[2 * i + 1];
        x0[i] = a * c - b * s;
        x1[i] = a * s + b * c;
    }
}

static void rope(float *x, const float *cs, size_t pair_n, bool adjacent) {
    if (adjacent)
        rope_adjacent(x, cs, pair_n);
    else
        rope_halves(x, x + pair_n, cs, pair_n);
}

static void f32_to_f16(uint16_t *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm256_cvtps_ph(load_f32(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(y + i), h);
    }
    for (; i < n; i++) y[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

/* ---- Limits ---- */

/* Twelve independent sums hide the latency of the multipliers; the empty statements keep the compiler from
 * multiplying the constants once. */
enum { CHAINS = 12 };

/* The most that products with vpmaddubsw can do: sums stay in 16 bits for 8 steps, as 4-bit weights allow. */
static double peak_int8(size_t iterations, float *sink) {
    enum { STEPS = 8 };
    __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5), sum[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = _mm256_setzero_si256();
    for (size_t i = 0; i < iterations; i++) {
        for (int step = 0; step < STEPS; step++) {
            AVX2_UNROLL
            for (int c = 0; c < CHAINS; c++) {
                w = opaque(w);
                sum[c] = add_products(sum[c], w, x);
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

AVX2_INLINE uint64_t sum_of_read(const void *p, size_t bytes, const stream_asks asks) {
    const __m256i *v = p;
    __m256i sum[8];
    for (int j = 0; j < 8; j++) sum[j] = _mm256_setzero_si256();
    for (const __m256i *end = v + bytes / sizeof *v; v < end; v += 8) {
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) {
            if (j % 2 == 0) stream_ask((const void *)(v + j), asks);
            sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256(v + j));
        }
    }
    for (int j = 1; j < 8; j++) sum[0] = _mm256_add_epi64(sum[0], sum[j]);
    uint64_t part[4];
    memcpy(part, sum, sizeof part);
    return part[0] + part[1] + part[2] + part[3];
}
static uint64_t read_sum(const void *p, size_t bytes) { return sum_of_read(p, bytes, ASK_NOTHING); }
static uint64_t read_sum_asking(const void *p, size_t bytes) {
    return sum_of_read(p, bytes, ASK_FAR_AND_NEAR);
}

void cpu_kernels_avx2(cpu_kernels *k) {
    k->isa = "avx2";
    k->rmsnorm = rmsnorm;
    k->layernorm = layernorm;
    k->activate = activate;
    k->axpy = axpy;
    k->blend = blend;
    k->rope = rope;
    k->f32_to_f16 = f32_to_f16;
    k->read_sum = k->ask_ahead ? read_sum_asking : read_sum;
    k->peak_int8 = peak_int8;
    k->peak_f32 = peak_f32;
    cpu_avx2_gemv_init(k);
    cpu_avx2_gemm_init(k);
    cpu_avx2_gemm_pairs_init(k);
    cpu_avx2_blocks_init(k);
    cpu_avx2_lanes_init(k);
    cpu_avx2_lanes_k_init(k);
    cpu_avx2_nibbles_init(k);
    cpu_avx2_sgemm_init(k);
    cpu_avx2_attend_init(k);
    cpu_avx2_neurons_init(k);
    cpu_avx2_neuron_store_init(k);
    cpu_avx2_rows_init(k);
}
