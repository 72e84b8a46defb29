/* avx512_attend.c - streaming softmax over state rows (keys and values) of floats.
 *
 * The query heads of a group read the same keys and values, so up to four heads are computed together from
 * one load and one widening. Scores: four rows at a time, each row and head a vector of partial sums, four of
 * which are added across lanes at once. Values: 64 elements at a time stay in registers while all rows pass
 * by.
 */
#include "devices/cpu/avx512.h"

#include <math.h>

enum { HEADS = 4, SCORE_ROWS = 4, VALUE_VECTORS = 4 };

/* The sums of the lanes of four vectors. */
INLINE __m128 reduce_4(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab =
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); /* a0+a2 b0+b2 a1+a3 b1+b3 */
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 all =
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high)); /* a b c d in each quarter */
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* q . k times scale of `row_n` rows and `head_n` heads, from row_i and head_i on; the counts are constants.
 */
INLINE void score_rows(const cpu_attend_args *a, size_t row_i, const size_t row_n, size_t head_i,
                       const size_t head_n, const gguf_type type) {
    const uint8_t *key = (const uint8_t *)a->key + row_i * a->key_stride;
    const float *q = a->q + head_i * a->key_n;
    __m512 sum[HEADS][SCORE_ROWS];
    UNROLL for (size_t h = 0; h < head_n; h++) {
        UNROLL for (size_t r = 0; r < SCORE_ROWS; r++) sum[h][r] = _mm512_setzero_ps();
    }
    for (size_t i = 0; i < a->key_n; i += 16) {
        const __mmask16 lanes = lanes_left(a->key_n - i);
        __m512 k[SCORE_ROWS];
        UNROLL for (size_t r = 0; r < row_n; r++) {
            const uint8_t *row = key + r * a->key_stride;
            k[r] = load_float(type, row + i * float_bytes(type), lanes);
        }
        UNROLL for (size_t h = 0; h < head_n; h++) {
            const __m512 v = _mm512_maskz_loadu_ps(lanes, q + h * a->key_n + i);
            UNROLL for (size_t r = 0; r < row_n; r++) sum[h][r] = _mm512_fmadd_ps(v, k[r], sum[h][r]);
        }
    }
    UNROLL for (size_t h = 0; h < head_n; h++) {
        const __m128 dot = reduce_4(sum[h][0], sum[h][1], sum[h][2], sum[h][3]);
        const __m128 score = _mm_mul_ps(dot, _mm_set1_ps(a->scale));
        float *out = a->scores + (head_i + h) * a->row_n + row_i;
        if (row_n == SCORE_ROWS)
            _mm_storeu_ps(out, score);
        else
            *out = _mm_cvtss_f32(score);
    }
}

/* Asks for bytes [from, from + n) behind p. Runs of rows are too short for the hardware to find in time. */
INLINE void prefetch_lines(const void *p, size_t from, size_t n) {
    for (size_t at = from; at < from + n; at += LINE) prefetch(p, at);
}

INLINE void score_heads(const cpu_attend_args *a, size_t head_i, const size_t head_n, const gguf_type type) {
    const bool first = head_i == 0 && a->value != a->key; /* the values are wanted next */
    size_t i = 0;
    for (; i + SCORE_ROWS <= a->row_n; i += SCORE_ROWS) {
        if (first) prefetch_lines(a->value, i * a->value_stride, SCORE_ROWS * a->value_stride);
        score_rows(a, i, SCORE_ROWS, head_i, head_n, type);
    }
    for (; i < a->row_n; i++) score_rows(a, i, 1, head_i, head_n, type);
}

/* Scores of one head to exp(s - max). */
static void soften(const cpu_attend_args *a, size_t head_i) {
    float *s = a->scores + head_i * a->row_n;
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (size_t i = 0; i < a->row_n; i += 16) {
        const __mmask16 lanes = lanes_left(a->row_n - i);
        __m512 v = _mm512_maskz_loadu_ps(lanes, s + i);
        if (a->softcap != 0) {
            v = soft_cap(v, a->softcap);
            _mm512_mask_storeu_ps(s + i, lanes, v);
        }
        most = _mm512_mask_max_ps(most, lanes, most, v);
    }
    const float max = _mm512_reduce_max_ps(most);
    for (size_t i = 0; i < a->row_n; i += 16) {
        const __mmask16 lanes = lanes_left(a->row_n - i);
        const __m512 v = exp_lanes(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, s + i), _mm512_set1_ps(max)));
        _mm512_mask_storeu_ps(s + i, lanes, v);
        sum = _mm512_mask_add_ps(sum, lanes, sum, v);
    }
    a->max[head_i] = max;
    a->sum[head_i] = _mm512_reduce_add_ps(sum);
}

/* out = sum of p v over all rows, for `vector_n` vectors of elements from `first` on (the last one may be
 * partial) and `head_n` heads; the counts are constants. */
INLINE void add_values(const cpu_attend_args *a, size_t first, const size_t vector_n, size_t head_i,
                       const size_t head_n, const gguf_type type) {
    const __mmask16 lanes = lanes_left(a->value_n - first - 16 * (vector_n - 1));
    const uint8_t *row = a->value;
    const float *p = a->scores + head_i * a->row_n;
    __m512 sum[HEADS][VALUE_VECTORS];
    UNROLL for (size_t h = 0; h < head_n; h++) {
        UNROLL for (size_t c = 0; c < vector_n; c++) sum[h][c] = _mm512_setzero_ps();
    }
    const void *ahead = head_i == 0 && first == 0 ? a->ahead : NULL;
    for (size_t i = 0; i < a->row_n; i++, row += a->value_stride) {
        __m512 v[VALUE_VECTORS];
        if (ahead) prefetch_lines(ahead, i * a->key_stride, a->key_stride);
        UNROLL for (size_t c = 0; c < vector_n; c++) {
            const uint8_t *at = row + (first + 16 * c) * float_bytes(type);
            v[c] = load_float(type, at, c + 1 < vector_n ? 0xffff : lanes);
        }
        UNROLL for (size_t h = 0; h < head_n; h++) {
            const __m512 weight = _mm512_set1_ps(p[h * a->row_n + i]);
            UNROLL for (size_t c = 0; c < vector_n; c++) sum[h][c] = _mm512_fmadd_ps(weight, v[c], sum[h][c]);
        }
    }
    UNROLL for (size_t h = 0; h < head_n; h++) {
        float *out = a->out + (head_i + h) * a->value_n + first;
        UNROLL for (size_t c = 0; c < vector_n; c++) {
            _mm512_mask_storeu_ps(out + 16 * c, c + 1 < vector_n ? 0xffff : lanes, sum[h][c]);
        }
    }
}

INLINE void attend_heads(const cpu_attend_args *a, size_t head_i, const size_t head_n, const gguf_type type) {
    score_heads(a, head_i, head_n, type);
    for (size_t h = 0; h < head_n; h++) soften(a, head_i + h);
    size_t i = 0;
    for (; i + 16 * VALUE_VECTORS <= a->value_n; i += 16 * VALUE_VECTORS) {
        add_values(a, i, VALUE_VECTORS, head_i, head_n, type);
    }
    for (; i < a->value_n; i += 16) add_values(a, i, 1, head_i, head_n, type);
}

INLINE void attend_type(const cpu_attend_args *a, const gguf_type type) {
    size_t h = 0;
    for (; h + HEADS <= a->head_n; h += HEADS) attend_heads(a, h, HEADS, type);
    for (; h < a->head_n; h++) attend_heads(a, h, 1, type);
}

static void attend_f16(const cpu_attend_args *a) { attend_type(a, GGUF_F16); }
static void attend_f32(const cpu_attend_args *a) { attend_type(a, GGUF_F32); }

void avx512_attend_by_type(const cpu_attend_args *args) {
    switch ((int)args->state) {
    case GGUF_F16: cpu_attend_each(args, attend_f16); break;
    case GGUF_Q8_0: avx512_attend_int8(args); break;
    default: cpu_attend_each(args, attend_f32);
    }
}

void avx512_attend(cpu_kernels *k) { k->attend = avx512_attend_by_type; }
