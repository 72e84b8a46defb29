/* avx2_attend.c - attention of the query heads that share one key/value head over a run of state rows of
 * floats.
 *
 * Keys and values are read in blocks of rows that stay in the first cache level while all heads use them, and
 * four heads share each load.
 */
#include "devices/cpu/avx2.h"
#include "devices/quant.h"

#include <math.h>

enum { BLOCK_ROWS = 32, HEADS = 4 };

/* Eight state values of a row from number i, a multiple of 8, on; or the first n of them. */
AVX2_INLINE __m256 load_state(const uint8_t *row, size_t i, const gguf_type type) {
    return type == GGUF_F16 ? load_f16(row + 2 * i) : load_f32(row + 4 * i);
}
AVX2_INLINE __m256 load_state_part(const uint8_t *row, size_t i, size_t n, const gguf_type type) {
    return type == GGUF_F16 ? AVX2_LOAD_PART(load_f16, row + 2 * i, n, sizeof(uint16_t))
                            : AVX2_LOAD_PART(load_f32, row + 4 * i, n, sizeof(float));
}

AVX2_INLINE __m128 sum_4x8(const __m256 v[4]) {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/* Four products at once: of q[i] and key[i], where either may be the same four times. */
AVX2_INLINE __m128 dot_4(const float *const q[4], const uint8_t *const key[4], size_t n,
                         const gguf_type type) {
    __m256 sum[4];
    AVX2_UNROLL
    for (int j = 0; j < 4; j++) sum[j] = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        AVX2_UNROLL
        for (int j = 0; j < 4; j++)
            sum[j] = _mm256_fmadd_ps(load_f32(q[j] + i), load_state(key[j], i, type), sum[j]);
    }
    if (i < n) {
        for (int j = 0; j < 4; j++) {
            const __m256 part = AVX2_LOAD_PART(load_f32, q[j] + i, n - i, sizeof(float));
            sum[j] = _mm256_fmadd_ps(part, load_state_part(key[j], i, n - i, type), sum[j]);
        }
    }
    return sum_4x8(sum);
}

/* scores[h][r] for four heads, one row after the other. */
AVX2_INLINE void score_heads(const cpu_attend_args *a, size_t head_i, size_t first, size_t last,
                             const gguf_type type) {
    const float *q0 = a->q + head_i * a->key_n;
    const float *const q[4] = {q0, q0 + a->key_n, q0 + 2 * a->key_n, q0 + 3 * a->key_n};
    for (size_t r = first; r < last; r++) {
        const uint8_t *key = (const uint8_t *)a->key + r * a->key_stride;
        float s[4];
        _mm_storeu_ps(s, dot_4(q, (const uint8_t *const[4]){key, key, key, key}, a->key_n, type));
        for (size_t j = 0; j < 4; j++) a->scores[(head_i + j) * a->row_n + r] = s[j];
    }
}

/* scores[h][r] for one head, four rows at once. */
AVX2_INLINE void score_rows(const cpu_attend_args *a, size_t head_i, size_t first, size_t last,
                            const gguf_type type) {
    const float *q = a->q + head_i * a->key_n;
    for (size_t r = first; r < last; r += 4) {
        const size_t n = min_u64(4, last - r);
        const uint8_t *key[4];
        for (size_t j = 0; j < 4; j++)
            key[j] = (const uint8_t *)a->key + min_u64(r + j, last - 1) * a->key_stride;
        float s[4];
        _mm_storeu_ps(s, dot_4((const float *const[4]){q, q, q, q}, key, a->key_n, type));
        memcpy(a->scores + head_i * a->row_n + r, s, n * sizeof *s);
    }
}

/* softcap * tanh(x / softcap), with tanh(x) = 1 - 2 / (1 + e^2x). */
AVX2_INLINE __m256 softcap_8(__m256 x, float softcap) {
    const __m256 one = _mm256_set1_ps(1), two = _mm256_set1_ps(2);
    const __m256 e = exp_8(_mm256_mul_ps(x, _mm256_set1_ps(2 / softcap)));
    const __m256 tanh = _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(one, e)));
    return _mm256_mul_ps(tanh, _mm256_set1_ps(softcap));
}

/* Products to exp(score - max), in place; returns their sum. The last lanes of a short vector repeat `fill`.
 */
AVX2_INLINE __m256 load_scores(const float *s, size_t n, float fill) {
    if (n >= 8) return load_f32(s);
    float part[8];
    for (size_t i = 0; i < 8; i++) part[i] = i < n ? s[i] : fill;
    return load_f32(part);
}

void avx2_soften(float *s, size_t row_n, float scale, float softcap, float *max_out, float *sum_out) {
    __m256 max = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
    for (size_t i = 0; i < row_n; i += 8) {
        const size_t n = row_n - i;
        __m256 v = _mm256_mul_ps(load_scores(s + i, n, s[i]), _mm256_set1_ps(scale));
        if (softcap != 0) v = softcap_8(v, softcap);
        max = _mm256_max_ps(max, v);
        if (n >= 8)
            _mm256_storeu_ps(s + i, v);
        else
            store_part(s + i, v, n);
    }
    *max_out = max_8(max);
    for (size_t i = 0; i < row_n; i += 8) {
        const size_t n = row_n - i;
        /* absent rows get a score that the exponential takes to nothing */
        const __m256 shifted = _mm256_sub_ps(load_scores(s + i, n, -INFINITY), _mm256_set1_ps(*max_out));
        const __m256 p = exp_8(shifted);
        sum = _mm256_add_ps(sum, p);
        if (n >= 8)
            _mm256_storeu_ps(s + i, p);
        else
            store_part(s + i, p, n);
    }
    *sum_out = sum_8(sum);
}

/* out[h][8c..] += sum over rows of scores[h][r] * value[r][8c..] for a few heads and runs of eight values. */
AVX2_INLINE void add_values(const cpu_attend_args *a, size_t head_i, size_t first, size_t last,
                            size_t value_i, const int head_n, const int run_n, const gguf_type type) {
    float *out = a->out + head_i * a->value_n + value_i;
    __m256 sum[8]; /* [head_n][run_n] */
    AVX2_UNROLL
    for (int j = 0; j < head_n * run_n; j++)
        sum[j] = load_f32(out + (size_t)(j / run_n) * a->value_n + 8 * (size_t)(j % run_n));
    for (size_t r = first; r < last; r++) {
        const uint8_t *value = (const uint8_t *)a->value + r * a->value_stride;
        AVX2_UNROLL
        for (int i = 0; i < run_n; i++) {
            const __m256 v = load_state(value, value_i + 8 * (size_t)i, type);
            AVX2_UNROLL
            for (int h = 0; h < head_n; h++) {
                const __m256 p = _mm256_broadcast_ss(a->scores + (head_i + (size_t)h) * a->row_n + r);
                sum[h * run_n + i] = _mm256_fmadd_ps(p, v, sum[h * run_n + i]);
            }
        }
    }
    AVX2_UNROLL
    for (int j = 0; j < head_n * run_n; j++)
        _mm256_storeu_ps(out + (size_t)(j / run_n) * a->value_n + 8 * (size_t)(j % run_n), sum[j]);
}

/* The last value_n % 8 values of one head. */
AVX2_INLINE void add_values_rest(const cpu_attend_args *a, size_t head_i, size_t first, size_t last,
                                 const gguf_type type) {
    const size_t rest = a->value_n % 8, value_i = a->value_n - rest;
    if (rest == 0) return;
    float *out = a->out + head_i * a->value_n + value_i;
    __m256 sum = AVX2_LOAD_PART(load_f32, out, rest, sizeof *out);
    for (size_t r = first; r < last; r++) {
        const uint8_t *value = (const uint8_t *)a->value + r * a->value_stride;
        const __m256 v = load_state_part(value, value_i, rest, type);
        sum = _mm256_fmadd_ps(_mm256_broadcast_ss(a->scores + head_i * a->row_n + r), v, sum);
    }
    store_part(out, sum, rest);
}

/* All values of `head_n` heads (HEADS or 1), eight sums at a time where there are enough. */
AVX2_INLINE void add_block(const cpu_attend_args *a, size_t head_i, size_t first, size_t last,
                           const int head_n, const gguf_type type) {
    const int run_n = 8 / head_n;
    size_t i = 0;
    for (; i + 8 * (size_t)run_n <= a->value_n; i += 8 * (size_t)run_n)
        add_values(a, head_i, first, last, i, head_n, run_n, type);
    for (; i + 8 <= a->value_n; i += 8) add_values(a, head_i, first, last, i, head_n, 1, type);
    for (int h = 0; h < head_n; h++) add_values_rest(a, head_i + (size_t)h, first, last, type);
}

AVX2_INLINE void attend_state(const cpu_attend_args *a, const gguf_type type) {
    const size_t grouped = a->head_n / HEADS * HEADS;
    for (size_t r = 0; r < a->row_n; r += BLOCK_ROWS) {
        const size_t last = (size_t)min_u64(r + BLOCK_ROWS, a->row_n);
        for (size_t h = 0; h < grouped; h += HEADS) score_heads(a, h, r, last, type);
        for (size_t h = grouped; h < a->head_n; h++) score_rows(a, h, r, last, type);
    }
    for (size_t h = 0; h < a->head_n; h++)
        avx2_soften(a->scores + h * a->row_n, a->row_n, a->scale, a->softcap, &a->max[h], &a->sum[h]);
    memset(a->out, 0, a->head_n * a->value_n * sizeof *a->out);
    for (size_t r = 0; r < a->row_n; r += BLOCK_ROWS) {
        const size_t last = (size_t)min_u64(r + BLOCK_ROWS, a->row_n);
        for (size_t h = 0; h < grouped; h += HEADS) add_block(a, h, r, last, HEADS, type);
        for (size_t h = grouped; h < a->head_n; h++) add_block(a, h, r, last, 1, type);
    }
}

static void attend_token(const cpu_attend_args *args) {
    switch ((int)args->state) {
    case GGUF_F16: attend_state(args, GGUF_F16); break;
    case GGUF_Q8_0: avx2_attend_int8(args); break;
    default: attend_state(args, GGUF_F32);
    }
}

static void attend(const cpu_attend_args *args) { cpu_attend_each(args, attend_token); }

static void f32_to_q8_0(uint8_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 32, y += sizeof(quant_q8_0)) {
        __m256 inverse;
        const uint16_t d = _cvtss_sh(act_scale(x + i, 32, &inverse), _MM_FROUND_TO_NEAREST_INT);
        memcpy(y, &d, sizeof d);
        _mm256_storeu_si256((__m256i *)(void *)(y + sizeof d), act_bytes_32(x + i, inverse));
    }
}

void cpu_avx2_attend_init(cpu_kernels *k) {
    k->attend = attend;
    k->f32_to_q8_0 = f32_to_q8_0;
}
