/* avx512_attend_int8.c - streaming softmax over a state in Q8_0, with products in integers by VPDPBUSD (the
 * rule: kernels.h; the order of work: attend_int8.h). */
#include "devices/cpu/attend_int8.h"
#include "devices/cpu/avx512_attend.h"

enum { VECTORS = QUAD_BYTES / LINE }; /* of a quad: of 16 positions of keys, of 16 elements of values */

/* sum += the products of the quads of a block, of keys or of values (a constant), with the operands of
 * query_n queries (a constant), which are at x, `stride` bytes apart. As much is asked for at `ahead`. */
INLINE void add_products(__m512i sum[QUERIES][VECTORS], const uint8_t *quad, const bool keys,
                         const uint8_t *x, size_t stride, const uint8_t *ahead, const size_t query_n) {
    UNROLL for (size_t j = 0; j < QUADS; j++) {
        __m512i bytes[VECTORS];
        UNROLL for (size_t t = 0; t < VECTORS; t++) bytes[t] =
            _mm512_loadu_si512((const void *)(quad + j * QUAD_BYTES + t * LINE));
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512i factor = _mm512_set1_epi32(read_i32(x + i * stride + QUAD * j));
            UNROLL for (size_t t = 0; t < VECTORS; t++) { /* keys and weights are the unsigned ones */
                if (keys)
                    sum[i][t] = _mm512_dpbusd_epi32(sum[i][t], bytes[t], factor);
                else
                    sum[i][t] = _mm512_dpbusd_epi32(sum[i][t], factor, bytes[t]);
            }
        }
        ask_lines(ahead, VECTORS * j, j + 1 < QUADS ? VECTORS : VECTORS + 1);
    }
}

/* ---- Scores ---- */

/* As quantise() does; the sum is taken while the bytes are in registers. */
static void int8_prepare(const cpu_attend_args *a, int8_lot *l, size_t q, size_t b, const float *x) {
    __m512 inverse;
    l->query_d[q][b] = query_scale(a) * quantise_scale(x, BLOCK_N, &inverse);
    const __m512i low = quantise_words(x, inverse), high = quantise_words(x + 16, inverse);
    _mm_storeu_si128((void *)l->query[q][b], _mm512_cvtsepi32_epi8(low));
    _mm_storeu_si128((void *)(l->query[q][b] + 16), _mm512_cvtsepi32_epi8(high));
    l->start[q][b] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

INLINE void int8_score(int8_lot *l, size_t q, size_t row_i, const uint8_t *key, size_t block_n, bool fresh,
                       const uint8_t *ahead, const size_t query_n) {
    __m512 total[QUERIES][VECTORS];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < VECTORS; t++) total[i][t] =
            fresh ? _mm512_setzero_ps() : _mm512_load_ps(l->score[q + i] + row_i + 16 * t);
    }
    for (size_t b = 0; b < block_n; b++, key += BLOCK_BYTES) {
        __m512i sum[QUERIES][VECTORS];
        UNROLL for (size_t i = 0; i < query_n; i++) {
            UNROLL for (size_t t = 0; t < VECTORS; t++) sum[i][t] = _mm512_set1_epi32(l->start[q + i][b]);
        }
        add_products(sum, key + SCALE_BYTES, true, l->query[q][b], sizeof l->query[q], ahead, query_n);
        if (ahead) ahead += BLOCK_BYTES;
        const __m512 d[VECTORS] = {load_halves(key), load_halves(key + SCALE_BYTES / 2)};
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512 query_d = _mm512_set1_ps(l->query_d[q + i][b]);
            UNROLL for (size_t t = 0; t < VECTORS; t++) {
                const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i][t]), d[t]);
                total[i][t] = _mm512_fmadd_ps(product, query_d, total[i][t]);
            }
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t t = 0; t < VECTORS; t++)
            _mm512_store_ps(l->score[q + i] + row_i + 16 * t, total[i][t]);
    }
}

static void int8_soften(const cpu_attend_args *a, size_t query_i, float *s, size_t end) {
    soften(a, query_i, s, end, 1, 0, NULL);
}

/* ---- Values ---- */

static void int8_widen(float to[GROUP], const uint8_t *halves) {
    _mm512_store_ps(to, load_halves(halves));
    _mm512_store_ps(to + 16, load_halves(halves + SCALE_BYTES / 2));
}

/* The largest lanes of four vectors. */
INLINE __m128 max_4(const __m512 v[4]) {
    const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 all = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Those of a span. */
INLINE void weigh_span(uint8_t to[][LINE], float *scales, const float *p, const float *d) {
    enum { N = SPAN / GROUP };
    __m512 w[N][2], most[N];
    UNROLL for (size_t g = 0; g < N; g++) {
        UNROLL for (size_t i = 0; i < 2; i++) {
            const size_t at = g * GROUP + 16 * i;
            w[g][i] = _mm512_mul_ps(_mm512_load_ps(p + at), _mm512_load_ps(d + at));
        }
        most[g] = _mm512_max_ps(w[g][0], w[g][1]);
    }
    const __m128 a = max_4(most), steps = _mm_set1_ps(255), factor = _mm_div_ps(steps, a);
    float factors[N];
    _mm_storeu_ps(scales, _mm_div_ps(a, steps));
    _mm_storeu_ps(factors, _mm_and_ps(factor, _mm_cmple_ps(factor, _mm_set1_ps(FLT_MAX))));
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    UNROLL for (size_t g = 0; g < N; g += 2) {
        __m512i words[2];
        UNROLL for (size_t i = 0; i < 2; i++) {
            const __m512 f = _mm512_set1_ps(factors[g + i]);
            words[i] = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(w[g + i][0], f)),
                                          _mm512_cvtps_epi32(_mm512_mul_ps(w[g + i][1], f)));
        }
        const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words[0], words[1]));
        _mm256_store_si256((void *)to[g], _mm512_castsi512_si256(bytes));
        _mm256_store_si256((void *)to[g + 1], _mm512_extracti64x4_epi64(bytes, 1));
    }
}

static void int8_weigh(int8_lot *l, size_t q, size_t group_n) {
    for (size_t g = 0; g < group_n; g += SPAN / GROUP)
        weigh_span(&l->weight[q][g], &l->weight_d[q][g], &l->score[q][g * GROUP], &l->value_d[g * GROUP]);
}

INLINE void int8_add(const int8_lot *l, size_t q, const uint8_t *value, size_t step, size_t group_n,
                     float *out, size_t value_n, const uint8_t *ahead, const size_t query_n) {
    __m512 total[QUERIES][VECTORS];
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < VECTORS; j++) total[i][j] = _mm512_setzero_ps();
    }
    for (size_t g = 0; g < group_n; g++, value += step) {
        __m512i sum[QUERIES][VECTORS];
        UNROLL for (size_t i = 0; i < query_n; i++) {
            UNROLL for (size_t j = 0; j < VECTORS; j++) sum[i][j] = _mm512_setzero_si512();
        }
        add_products(sum, value + SCALE_BYTES, false, l->weight[q][g], sizeof l->weight[q], ahead, query_n);
        if (ahead) ahead += BLOCK_BYTES;
        UNROLL for (size_t i = 0; i < query_n; i++) {
            const __m512 d = _mm512_set1_ps(l->weight_d[q + i][g]);
            UNROLL for (size_t j = 0; j < VECTORS; j++) total[i][j] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][j]), d, total[i][j]);
        }
    }
    UNROLL for (size_t i = 0; i < query_n; i++) {
        UNROLL for (size_t j = 0; j < VECTORS; j++) _mm512_storeu_ps(out + i * value_n + 16 * j, total[i][j]);
    }
}

#define INT8_KERNELS
#include "devices/cpu/attend_int8.h"

void avx512_attend_int8(const cpu_attend_args *a) { attend_int8(a); }
