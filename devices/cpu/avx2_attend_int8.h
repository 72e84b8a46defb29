/* avx2_attend_int8.h - attention over a state in Q8_0, with products in integers (the rule: kernels.h; the
 * order of work: attend_int8.h): what AVX2 and AVX-VNNI share.
 *
 * With VPDPBUSD quads are multiplied as the bytes they are. Else they are as words, the even bytes and the
 * odd ones: VPMADDUBSW would saturate.
 */
#ifndef HOTSET_CPU_AVX2_ATTEND_INT8_H
#define HOTSET_CPU_AVX2_ATTEND_INT8_H

#include "devices/cpu/attend_int8.h"
#include "devices/cpu/avx2.h"

enum { VECTORS = QUAD_BYTES / 64 }; /* of half a quad: of 8 positions of keys, of 8 elements of values */

/* ---- A vector of quads, and the operand of a quad in all its lanes ---- */

#if HAS_VPDPBUSD

typedef __m256i quads;

AVX2_INLINE quads load_quads(const uint8_t *p, const bool keys) {
    (void)keys;
    return opaque(load_256(p));
}

/* That of quad j, of keys or of values. */
AVX2_INLINE quads load_operand(const uint8_t *x, const size_t j, const bool keys) {
    (void)keys;
    return broadcast_4(x + QUAD * j);
}

/* Keys and weights are the unsigned ones. */
AVX2_INLINE __m256i add_quads(__m256i sum, quads v, quads x, const bool keys) {
    return keys ? add_products(sum, v, x) : add_products(sum, x, v);
}

/* The operands of a block of keys, given its query. */
AVX2_INLINE void store_query(uint8_t *to, __m256i bytes) { memcpy(to, &bytes, sizeof bytes); }

/* Those of a group of values, given its weights. */
AVX2_INLINE void store_weights(uint8_t *to, const __m256i w[GROUP / 8]) {
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(w[0], w[1]), _mm256_packs_epi32(w[2], w[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_permutevar8x32_epi32(bytes, order));
}

#else

typedef struct quads {
    __m256i even, odd;
} quads;

AVX2_INLINE quads load_quads(const uint8_t *p, const bool keys) {
    const __m256i bytes = opaque(load_256(p));
    if (keys) return (quads){_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
    return (quads){_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}

/* Where the operand of quad j of values stands: packing works within halves of vectors. */
AVX2_INLINE size_t place_of(const size_t j) { return 2 * QUAD * ((j & 4) | (j & 1) << 1 | (j >> 1 & 1)); }

AVX2_INLINE quads load_operand(const uint8_t *x, const size_t j, const bool keys) {
    x += keys ? 2 * QUAD * j : place_of(j);
    return (quads){broadcast_4(x), broadcast_4(x + QUAD)};
}

AVX2_INLINE __m256i add_quads(__m256i sum, quads v, quads x, const bool keys) {
    (void)keys;
    return add_word_products(add_word_products(sum, v.even, x.even), v.odd, x.odd);
}

/* Words of two quads a lane, each quad's even ones first. */
AVX2_INLINE __m256i even_first(__m256i words) {
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    return _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order));
}

AVX2_INLINE void store_query(uint8_t *to, __m256i bytes) {
    const __m256i words[2] = {even_first(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes))),
                              even_first(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1)))};
    memcpy(to, words, sizeof words);
}

AVX2_INLINE void store_weights(uint8_t *to, const __m256i w[GROUP / 8]) {
    const __m256i words[2] = {even_first(_mm256_packs_epi32(w[0], w[1])),
                              even_first(_mm256_packs_epi32(w[2], w[3]))};
    memcpy(to, words, sizeof words);
}

#endif

/* sum += the products of half the quads of a block, of keys or of values (a constant), with the operands of
 * query_n queries (a constant), which are at x, `stride` bytes apart. As much is asked for at `ahead`. */
AVX2_INLINE void add_products_of(__m256i sum[QUERIES][VECTORS], const uint8_t *quad, const bool keys,
                                 const uint8_t *x, size_t stride, const uint8_t *ahead,
                                 const size_t query_n) {
    AVX2_UNROLL
    for (size_t j = 0; j < QUADS; j++, quad += QUAD_BYTES) {
        quads v[VECTORS];
        AVX2_UNROLL
        for (size_t t = 0; t < VECTORS; t++) v[t] = load_quads(quad + 32 * t, keys);
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const quads operand = load_operand(x + i * stride, j, keys);
            AVX2_UNROLL
            for (size_t t = 0; t < VECTORS; t++) sum[i][t] = add_quads(sum[i][t], v[t], operand, keys);
        }
        ask_lines(ahead, j, j + 1 < QUADS ? 1 : 2);
    }
}

/* ---- Scores ---- */

static void int8_prepare(const cpu_attend_args *a, int8_lot *l, size_t q, size_t b, const float *x) {
    __m256 inverse;
    l->query_d[q][b] = act_scale(x, BLOCK_N, &inverse) * a->scale;
    const __m256i bytes = act_bytes_32(x, inverse);
    l->start[q][b] = -128 * sum_of(sum_halves(sum_pairs(bytes)));
    store_query(l->query[q][b], bytes);
}

/* Of a half of the positions of a group. */
AVX2_INLINE void score_half(int8_lot *l, size_t q, float *s, const uint8_t *key, size_t half, size_t block_n,
                            bool fresh, const uint8_t *ahead, const size_t query_n) {
    for (size_t b = 0; b < block_n; b++, key += BLOCK_BYTES) {
        const uint8_t *quad = key + SCALE_BYTES + half * QUAD_BYTES / 2;
        __m256i sum[QUERIES][VECTORS];
        AVX2_UNROLL
        for (size_t i = 0; i < query_n * VECTORS; i++)
            sum[i / VECTORS][i % VECTORS] = _mm256_set1_epi32(l->start[q + i / VECTORS][b]);
        add_products_of(sum, quad, true, l->query[q][b], sizeof l->query[q], ahead, query_n);
        if (ahead) ahead += BLOCK_BYTES;
        AVX2_UNROLL
        for (size_t i = 0; i < query_n * VECTORS; i++) {
            const size_t n = i / VECTORS, t = i % VECTORS;
            float *to = s + n * ROWS + 8 * t;
            const __m256 d = _mm256_mul_ps(load_f16(key + half * SCALE_BYTES / 2 + 16 * t),
                                           _mm256_set1_ps(l->query_d[q + n][b]));
            const __m256 before = fresh && b == 0 ? _mm256_setzero_ps() : load_f32(to);
            _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[n][t]), d, before));
        }
    }
}

AVX2_INLINE void int8_score(int8_lot *l, size_t q, size_t row_i, const uint8_t *key, size_t block_n,
                            bool fresh, const uint8_t *ahead, const size_t query_n) {
    float *s = l->score[q] + row_i;
    for (size_t half = 0; half < 2; half++, s += GROUP / 2) {
        score_half(l, q, s, key, half, block_n, fresh, ahead, query_n);
        if (ahead) ahead += QUADS * 64;
    }
}

static void int8_soften(const cpu_attend_args *a, size_t query_i, float *s, size_t end) {
    avx2_soften(a, query_i, s, end, 1);
}

/* ---- Values ---- */

static void int8_widen(float to[GROUP], const uint8_t *halves) {
    for (size_t i = 0; i < GROUP; i += 8) _mm256_storeu_ps(to + i, load_f16(halves + i * sizeof(uint16_t)));
}

/* Those of a group; returns their scale. */
static float weigh_group(uint8_t *to, const float *p, const float *d) {
    __m256 w[GROUP / 8], most = _mm256_setzero_ps();
    AVX2_UNROLL
    for (size_t i = 0; i < GROUP / 8; i++) {
        w[i] = _mm256_mul_ps(load_f32(p + 8 * i), load_f32(d + 8 * i));
        most = _mm256_max_ps(most, w[i]);
    }
    const float a = max_8(most), factor = 255.0f / a;
    const __m256 inverse = _mm256_set1_ps(factor <= FLT_MAX ? factor : 0.0f);
    __m256i steps[GROUP / 8];
    AVX2_UNROLL
    for (size_t i = 0; i < GROUP / 8; i++) steps[i] = _mm256_cvtps_epi32(_mm256_mul_ps(w[i], inverse));
    store_weights(to, steps);
    return a / 255.0f;
}

static void int8_weigh(int8_lot *l, size_t q, size_t group_n) {
    for (size_t g = 0; g < group_n; g++)
        l->weight_d[q][g] = weigh_group(l->weight[q][g], l->score[q] + g * GROUP, l->value_d + g * GROUP);
}

/* Of a half of the elements of the block. */
AVX2_INLINE void add_half(const int8_lot *l, size_t q, const uint8_t *value, size_t step, size_t half,
                          size_t group_n, float *out, size_t value_n, const uint8_t *ahead,
                          const size_t query_n) {
    __m256 total[QUERIES][VECTORS];
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * VECTORS; i++) total[i / VECTORS][i % VECTORS] = _mm256_setzero_ps();
    for (size_t g = 0; g < group_n; g++, value += step) {
        const uint8_t *quad = value + SCALE_BYTES + half * QUAD_BYTES / 2;
        __m256i sum[QUERIES][VECTORS];
        AVX2_UNROLL
        for (size_t i = 0; i < query_n * VECTORS; i++) sum[i / VECTORS][i % VECTORS] = _mm256_setzero_si256();
        add_products_of(sum, quad, false, l->weight[q][g], sizeof l->weight[q], ahead, query_n);
        if (ahead) ahead += BLOCK_BYTES;
        AVX2_UNROLL
        for (size_t i = 0; i < query_n * VECTORS; i++) {
            const size_t n = i / VECTORS, t = i % VECTORS;
            const __m256 d = _mm256_set1_ps(l->weight_d[q + n][g]);
            total[n][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[n][t]), d, total[n][t]);
        }
    }
    AVX2_UNROLL
    for (size_t i = 0; i < query_n * VECTORS; i++)
        _mm256_storeu_ps(out + i / VECTORS * value_n + i % VECTORS * 8, total[i / VECTORS][i % VECTORS]);
}

AVX2_INLINE void int8_add(const int8_lot *l, size_t q, const uint8_t *value, size_t step, size_t group_n,
                          float *out, size_t value_n, const uint8_t *ahead, const size_t query_n) {
    for (size_t half = 0; half < 2; half++, out += BLOCK_N / 2) {
        add_half(l, q, value, step, half, group_n, out, value_n, ahead, query_n);
        if (ahead) ahead += QUADS * 64;
    }
}

#define INT8_KERNELS
#include "devices/cpu/attend_int8.h"

#endif
