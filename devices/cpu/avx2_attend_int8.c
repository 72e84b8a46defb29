/* avx2_attend_int8.c - attention over a state in Q8_0, with products in integers (the rule: kernels.h; the
 * order of work: attend_int8.h).
 *
 * Bytes are multiplied as words, the even ones and the odd ones of each quad: VPMADDUBSW would saturate.
 */
#include "devices/cpu/attend_int8.h"
#include "devices/cpu/avx2.h"

enum { VECTORS = QUAD_BYTES / 64 }; /* of half a quad: of 8 positions of keys, of 8 elements of values */

/* Words of two quads a lane, each quad's even ones first. */
AVX2_INLINE __m256i even_first(__m256i words) {
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    return _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order));
}

/* A vector of quads as words. */
typedef struct quad_words {
    __m256i even, odd;
} quad_words;

AVX2_INLINE quad_words unsigned_words(const uint8_t *p) {
    const __m256i bytes = opaque(load_256(p));
    return (quad_words){_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
}
AVX2_INLINE quad_words signed_words(const uint8_t *p) {
    const __m256i bytes = opaque(load_256(p));
    return (quad_words){_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}

/* Where the weights of quad r stand: packing works within halves of vectors. */
AVX2_INLINE size_t place_of(const size_t r) { return 2 * QUAD * ((r & 4) | (r & 1) << 1 | (r >> 1 & 1)); }

/* sum += the products of half the quads of a block, of keys or of values (a constant), with the operands of
 * query_n queries (a constant), which are at x, `stride` bytes apart. As much is asked for at `ahead`. */
AVX2_INLINE void add_products_of(__m256i sum[QUERIES][VECTORS], const uint8_t *quad, const bool keys,
                                 const uint8_t *x, size_t stride, const uint8_t *ahead,
                                 const size_t query_n) {
    AVX2_UNROLL
    for (size_t j = 0; j < QUADS; j++, quad += QUAD_BYTES) {
        quad_words v[VECTORS];
        AVX2_UNROLL
        for (size_t t = 0; t < VECTORS; t++)
            v[t] = keys ? unsigned_words(quad + 32 * t) : signed_words(quad + 32 * t);
        AVX2_UNROLL
        for (size_t i = 0; i < query_n; i++) {
            const uint8_t *operand = x + i * stride + (keys ? 2 * QUAD * j : place_of(j));
            const __m256i even = broadcast_4(operand), odd = broadcast_4(operand + QUAD);
            AVX2_UNROLL
            for (size_t t = 0; t < VECTORS; t++) {
                sum[i][t] = add_word_products(sum[i][t], v[t].even, even);
                sum[i][t] = add_word_products(sum[i][t], v[t].odd, odd);
            }
        }
        ask_lines(ahead, j, j + 1 < QUADS ? 1 : 2);
    }
}

/* ---- Scores ---- */

static void int8_prepare(const cpu_attend_args *a, int8_lot *l, size_t q, size_t b, const float *x) {
    __m256i words[2];
    __m256 inverse;
    l->query_d[q][b] = act_scale(x, BLOCK_N, &inverse) * a->scale;
    const __m256i bytes = act_bytes_32(x, inverse);
    l->start[q][b] = -128 * sum_of(sum_halves(sum_pairs(bytes)));
    words[0] = even_first(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)));
    words[1] = even_first(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1)));
    memcpy(l->query[q][b], words, sizeof words);
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

/* Those of a group, in the order of packing (place_of); returns their scale. */
static float weigh_group(uint8_t *to, const float *p, const float *d) {
    __m256 w[GROUP / 8], most = _mm256_setzero_ps();
    AVX2_UNROLL
    for (size_t i = 0; i < GROUP / 8; i++) {
        w[i] = _mm256_mul_ps(load_f32(p + 8 * i), load_f32(d + 8 * i));
        most = _mm256_max_ps(most, w[i]);
    }
    const float a = max_8(most), factor = 255.0f / a;
    const __m256 inverse = _mm256_set1_ps(factor <= FLT_MAX ? factor : 0.0f);
    AVX2_UNROLL
    for (size_t i = 0; i < GROUP / 8; i += 2) {
        const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(w[i], inverse));
        const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(w[i + 1], inverse));
        const __m256i words = even_first(_mm256_packs_epi32(low, high));
        _mm256_storeu_si256((__m256i *)(void *)(to + 16 * i), words);
    }
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

void avx2_attend_int8(const cpu_attend_args *a) { attend_int8(a); }
