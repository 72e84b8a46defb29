/* avx512_attend.h - what the AVX-512 kernels of attention share: queries of several tokens, softmax in powers
 * of two, and asking memory for what comes next. */
#ifndef HOTSET_CPU_AVX512_ATTEND_H
#define HOTSET_CPU_AVX512_ATTEND_H

#include "devices/cpu/avx512.h"

#include <math.h>

#define LOG2_E 0x1.715476p+0f
#define LN_2   0x1.62e430p-1f

/* What queries are multiplied with, so that scores are exponents of two unless they are capped first. */
INLINE float query_scale(const cpu_attend_args *a) { return a->softcap != 0 ? a->scale : a->scale * LOG2_E; }

/* Words that are floats: of a query those that the lower bits of `elements` name, scaled; their products. */
INLINE __m512i scale_floats(const float *x, uint32_t elements, __m512 scale) {
    return _mm512_castps_si512(_mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16)elements, x), scale));
}

INLINE __m512 multiply_floats(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

/* 2^x for x < 128, off by 2e-7 of it at most; 0 below -125 (as exp_lanes), NaN kept. */
INLINE __m512 exp2_lanes(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-125), _CMP_NLT_UQ);
    const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_sub_ps(x, n); /* exactly; on it a least-maximum fit, off by 1e-7 */
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0x1.5bba10p-10f), _mm512_set1_ps(0x1.3cea88p-7f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.c6b752p-5f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.ebf9bcp-3f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0x1.62e42ap-1f));
    p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(1));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

/* Softmax touches no state, and memory would idle. So every fourth line of the keys that come next is asked
 * for already; all of them are, where values are added. Part part_i of part_n. */
INLINE void ask_some_keys(const cpu_attend_args *a, size_t part_i, size_t part_n) {
    enum { EVERY = 4 * LINE };
    if (!a->ahead) return;
    const size_t n = a->row_n * a->key_stride / EVERY;
    for (size_t i = part_i * n / part_n; i < (part_i + 1) * n / part_n; i++) prefetch(a->ahead, i * EVERY);
}

/* Rows, and those behind them that are softened with the last ones. */
INLINE size_t softened(size_t row_n) {
    enum { AT_ONCE = 64 };
    return (row_n + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
}

/* Scores of query i, in units of `unit`, to 2^lift exp(s - max); zeros for rows that it does not see and from
 * there to `end`, as softened() gives it. Its max and sum are those of exp(s - max). Where `pack` (a
 * constant) is there, it makes a vector of words of each two, and those stand in s. */
INLINE void soften(const cpu_attend_args *a, size_t query_i, float *s, size_t end, float unit, const int lift,
                   __m512i (*pack)(__m512 low, __m512 high)) {
    const size_t query_n = a->query_n * a->head_n, part_n = end / 64;
    const size_t token = query_i / a->head_n, seen_n = cpu_attend_seen(a, token);
    for (size_t i = 0; a->softcap != 0 && i < seen_n; i += 16) {
        const __m512 capped =
            soft_cap(_mm512_mul_ps(_mm512_load_ps(s + i), _mm512_set1_ps(unit)), a->softcap);
        _mm512_store_ps(s + i, _mm512_mul_ps(capped, _mm512_set1_ps(LOG2_E / unit)));
    }
    for (size_t i = 0; i < cpu_attend_hidden(a, token); i++) s[i] = -INFINITY;
    for (size_t i = seen_n; i < end; i++) s[i] = -INFINITY;
    __m512 most = _mm512_load_ps(s), total = _mm512_setzero_ps();
    for (size_t i = 16; i < end; i += 16) most = _mm512_max_ps(most, _mm512_load_ps(s + i));
    const float largest = _mm512_reduce_max_ps(most) * unit;
    const __m512 units = _mm512_set1_ps(unit), start = _mm512_set1_ps((float)lift - largest);
    for (size_t i = 0; i < end; i += 64) {
        ask_some_keys(a, query_i * part_n + i / 64, query_n * part_n);
        __m512 p[4];
        UNROLL for (size_t j = 0; j < 4; j++) {
            p[j] = exp2_lanes(_mm512_fmadd_ps(_mm512_load_ps(s + i + 16 * j), units, start));
            total = _mm512_add_ps(total, p[j]);
        }
        if (pack) {
            UNROLL for (size_t j = 0; j < 4; j += 2)
                _mm512_store_si512(s + i / 2 + 8 * j, pack(p[j], p[j + 1]));
        } else {
            UNROLL for (size_t j = 0; j < 4; j++) _mm512_store_ps(s + i + 16 * j, p[j]);
        }
    }
    a->max[query_i] = largest * LN_2;
    a->sum[query_i] = _mm512_reduce_add_ps(total) * ldexpf(1, -lift);
}

#endif
