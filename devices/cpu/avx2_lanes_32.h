/* avx2_lanes_32.h - one activation row times interleaved rows of blocks of 32: what avx2_lanes.c and
 * avxvnni_lanes.c share.
 *
 * A lane is a row: four neighbouring activations are broadcast and meet four weights of every row. Two
 * registers of eight rows go side by side and share the broadcasts. The bytes come as one stream, which the
 * hardware follows, or is asked for (stream.h).
 *
 * Products want one unsigned operand. An offset makes weights so: what it adds is taken off by where sums
 * start.
 */
#ifndef HOTSET_CPU_AVX2_LANES_32_H
#define HOTSET_CPU_AVX2_LANES_32_H

#include "devices/cpu/avx2_lanes.h"

typedef struct act_32 {
    int8_t x[32];
    int32_t start; /* of sums */
    float d;
    float sum; /* d times the sum of x */
} act_32;

static size_t bytes_32(size_t k) { return k / 32 * sizeof(act_32); }

/* How the types in nibbles differ. Values are quants, or what a table has for them. */
typedef struct lanes_form {
    size_t block_bytes, quants_at;
    int offset; /* makes values unsigned */
    bool has_m; /* what quants, or offset ones, are counted from */
    bool power; /* the scale is a power of two in one byte; the values are doubled */
    const int8_t *values;
} lanes_form;

#define LANES_FORM_OF(block, ...)                                                                            \
    ((lanes_form){.block_bytes = sizeof(block), .quants_at = offsetof(block, q), __VA_ARGS__})
#define LANES_FORM(type, ...) LANES_FORM_OF(quant_##type, __VA_ARGS__)
#define FORM_Q4_0             LANES_FORM(q4_0, .offset = 8)
#define FORM_Q4_1             LANES_FORM(q4_1, .has_m = true)
#define FORM_Q5_0             LANES_FORM_OF(lanes_q5_0, .offset = 16)
#define FORM_Q5_1             LANES_FORM_OF(lanes_q5_1, .offset = 16, .has_m = true)
#define FORM_MXFP4            LANES_FORM(mxfp4, .offset = 12, .values = quant_mxfp4_values, .power = true)

AVX2_INLINE void pack_32(act_32 *a, const float *x, size_t k, const lanes_form f) {
    for (size_t i = 0; i < k; i += 32, a++) {
        __m256 inverse;
        a->d = act_scale(x + i, 32, &inverse) * (f.power ? 0.5f : 1.0f);
        const __m256i q = act_bytes_32(x + i, inverse);
        const __m128i pairs = sum_halves(sum_pairs(q));
        memcpy(a->x, &q, sizeof q);
        a->start = sum_start(pairs, f.offset);
        if (f.has_m) a->sum = a->d * (float)sum_of(pairs);
    }
}

AVX2_INLINE __m256i unsigned_values(__m256i nibbles, const lanes_form f) {
    if (!f.values) return nibbles;
    const __m128i table = _mm_add_epi8(load_128(f.values), _mm_set1_epi8((char)f.offset));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
}

/* Sums of 16 bits as such of 32. */
AVX2_INLINE void widen(__m256i s[HALVES]) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES && !HAS_VPDPBUSD; h++) s[h] = _mm256_madd_epi16(s[h], _mm256_set1_epi16(1));
}

AVX2_INLINE void products(__m256i s[HALVES], row_stream w, const act_32 *x, const lanes_form f) {
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) s[h] = broadcast_4(&x->start);
    AVX2_UNROLL
    for (int g = 0; g < 4; g++) {
        const __m256i x_low = broadcast_4(x->x + 4 * g), x_high = broadcast_4(x->x + 16 + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, f.quants_at + 4 * (size_t)g, h);
            s[h] = add_products(s[h], unsigned_values(low_nibbles(v), f), x_low);
            s[h] = add_products(s[h], unsigned_values(high_nibbles(v), f), x_high);
        }
    }
    widen(s);
}

AVX2_INLINE void products_five_bits(__m256i s[HALVES], row_stream w, const act_32 *x, const lanes_form f) {
    __m256i v[HALVES][5];
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) s[h] = broadcast_4(&x->start);
    AVX2_UNROLL
    for (size_t t = 0; t < 8; t++) {
        const __m256i quad = broadcast_4(x->x + 4 * t);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            if (t < 5) v[h][t] = load_words(w, f.quants_at + 4 * t, h);
            s[h] = add_products(s[h], quads_of_five_bits(v[h], t), quad);
        }
    }
    widen(s);
}

/* Scales of eight rows; adds what their m brings. d_m: both, where there is an m. */
AVX2_INLINE __m256 scales_of(__m256 *sum, row_stream w, const act_32 *x, int h, __m256i d_m,
                             const lanes_form f) {
    if (f.power) { /* 2^(e - 127), also for e = 0; 255 as 254 (devices/quant.h) */
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)field(w, 0, 1, h));
        const __m256i e = _mm256_cvtepu8_epi32(_mm_min_epu8(bytes, _mm_set1_epi8((char)254)));
        return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_slli_epi32(e, 23), _mm256_set1_epi32(0x00400000)));
    }
    if (!f.has_m) return halves_at(w, 0, h);
    const half_pairs head = halves_of(d_m);
    const __m256 m =
        f.offset ? _mm256_fmadd_ps(head.lower, _mm256_set1_ps((float)f.offset), head.upper) : head.upper;
    *sum = _mm256_fmadd_ps(m, _mm256_broadcast_ss(&x->sum), *sum);
    return head.lower;
}

AVX2_INLINE void rows_32(float *y, row_stream w, const act_32 *x, size_t block_n, const lanes_form f,
                         void (*const block)(__m256i *, row_stream, const act_32 *, lanes_form)) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * f.block_bytes, x++) {
        const __m256 xd = _mm256_broadcast_ss(&x->d);
        __m256i s[HALVES], d_m[HALVES];
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) /* a line of its own: read first, for it stands first */
            d_m[h] = f.has_m ? opaque(load_words(w, 0, h)) : _mm256_setzero_si256();
        block(s, w, x, f);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d = _mm256_mul_ps(scales_of(&sum[h], w, x, h, d_m[h], f), xd);
            sum[h] = _mm256_fmadd_ps(sum_float(s[h]), d, sum[h]);
        }
    }
    store_rows(y, sum);
}

#define LANES_32(type, TYPE, products)                                                                       \
    static void pack_##type(void *act, const float *x, size_t k) { pack_32(act, x, k, FORM_##TYPE); }        \
    STREAM_GEMV(type, rows_32(y, w, act, k / 32, FORM_##TYPE, products))
#define SET_32(type, TYPE, products) STREAM_SET(type, TYPE, bytes_32)

#endif
