/* avx2_lanes.c - one activation row times weights interleaved by 16 rows (devices/lanes.h).
 *
 * A lane is a row: four neighbouring activations are broadcast and meet four weights of every row. Two
 * registers of eight rows go side by side and share the broadcasts. The bytes come as one stream, which the
 * hardware follows.
 */
#include "devices/cpu/avx2.h"
#include "devices/lanes.h"
#include "devices/quant.h"

#include <stddef.h>

enum { ROWS = LANES_ROWS, HALVES = 2 /* registers of 8 rows */ };

/* The word of eight rows that stands at offset `at` of a row. */
AVX2_INLINE __m256i load_words(const uint8_t *w, size_t at, int h) {
    return load_256(w + ROWS * at + 32 * h);
}

AVX2_INLINE __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
AVX2_INLINE __m256i high_nibbles(__m256i v) { return low_nibbles(_mm256_srli_epi16(v, 4)); }

/* ---- Q4_0 and Q8_0 ------------------------------------------------------------------------------------ */

typedef struct act_32 {
    int8_t x[32];
    int16_t start[2]; /* Q4_0: -8 times the sum of what a lane of 16 bits meets: two of each four x */
    float d;
} act_32;

static size_t bytes_32(size_t k) { return k / 32 * sizeof(act_32); }

static void act_pack_32(void *act, const float *x, size_t k) {
    act_32 *a = act;
    for (size_t i = 0; i < k; i += 32, a++) {
        __m256 inverse;
        a->d = act_scale(x + i, 32, &inverse);
        const __m256i q = act_bytes_32(x + i, inverse);
        memcpy(a->x, &q, sizeof q);
        /* lanes of 16 bits: the sums of two x each, added up over the quads */
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
        __m128i s = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
        s = _mm_add_epi16(s, _mm_shuffle_epi32(s, 0x4e));
        s = _mm_add_epi16(s, _mm_shuffle_epi32(s, 0xb1));
        s = _mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16(s, 3));
        memcpy(a->start, &s, sizeof a->start);
    }
}

/* Sums of 16 bits hold a block: (w + 8) x adds up modulo 2^16 to w x, which fits. */
AVX2_INLINE __m256i block_q4_0(const uint8_t *w, const act_32 *x, int h) {
    __m256i s = broadcast_4(x->start);
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const __m256i v = load_words(w, 2 + 4 * g, h);
        s = _mm256_add_epi16(s, _mm256_maddubs_epi16(low_nibbles(v), broadcast_4(x->x + 4 * g)));
        s = _mm256_add_epi16(s, _mm256_maddubs_epi16(high_nibbles(v), broadcast_4(x->x + 16 + 4 * g)));
    }
    return _mm256_madd_epi16(s, _mm256_set1_epi16(1));
}

/* |w| times x with the sign of w, as in avx2_gemv.c. */
AVX2_INLINE __m256i block_q8_0(const uint8_t *w, const act_32 *x, int h) {
    __m256i s = _mm256_setzero_si256();
    AVX2_UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i v = load_words(w, 2 + 4 * g, h);
        const __m256i signs = _mm256_sign_epi8(broadcast_4(x->x + 4 * g), v);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(v), signs);
        s = _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return s;
}

AVX2_INLINE void rows_32(float *y, const uint8_t *w, const act_32 *x, size_t block_n,
                         const size_t block_bytes,
                         __m256i (*const block)(const uint8_t *, const act_32 *, int)) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w += ROWS * block_bytes, x++) {
        const __m256 xd = _mm256_broadcast_ss(&x->d);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d = _mm256_mul_ps(load_f16(w + 16 * h), xd);
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(block(w, x, h)), d, sum[h]);
        }
    }
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) _mm256_storeu_ps(y + 8 * h, sum[h]);
}

/* ---- Q4_K --------------------------------------------------------------------------------------------- */

typedef struct act_q4_k {
    int8_t x[256];
    int16_t sums[8]; /* of groups 0 2 | 1 3 | 4 6 | 5 7 */
    float d;
} act_q4_k;

static size_t act_bytes_q4_k(size_t k) { return k / 256 * sizeof(act_q4_k); }

static void act_pack_q4_k(void *act, const float *x, size_t k) {
    static const uint8_t place[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    act_q4_k *a = act;
    for (size_t i = 0; i < k; i += 256, a++) {
        __m256 inverse;
        a->d = act_scale(x + i, 256, &inverse);
        for (size_t j = 0; j < 8; j++) {
            const __m256i q = act_bytes_32(x + i + 32 * j, inverse);
            int sum = 0;
            memcpy(a->x + 32 * j, &q, sizeof q);
            for (size_t n = 0; n < 32; n++) sum += a->x[32 * j + n];
            a->sums[place[j]] = (int16_t)sum;
        }
    }
}

/* Scales and minima of groups 0-3 and of 4-7: a byte each, four to a lane (devices/quant.h). */
typedef struct numbers_q4_k {
    __m256i scale[2], min[2];
} numbers_q4_k;

AVX2_INLINE numbers_q4_k numbers_of(const uint8_t *w, int h) {
    const __m256i six = _mm256_set1_epi8(0x3f), upper = _mm256_set1_epi8(0x30);
    const __m256i s0 = load_words(w, 4, h), s1 = load_words(w, 8, h), s2 = load_words(w, 12, h);
    const __m256i upper_s = _mm256_and_si256(_mm256_srli_epi16(s0, 2), upper);
    const __m256i upper_m = _mm256_and_si256(_mm256_srli_epi16(s1, 2), upper);
    return (numbers_q4_k){
        {_mm256_and_si256(s0, six), _mm256_or_si256(low_nibbles(s2), upper_s)},
        {_mm256_and_si256(s1, six), _mm256_or_si256(high_nibbles(s2), upper_m)},
    };
}

/* Byte j of each lane in both of its 16 bits. */
AVX2_INLINE __m256i byte_twice(__m256i v, const int j) {
    const __m128i order =
        _mm_setr_epi8((char)j, -1, (char)j, -1, (char)(4 + j), -1, (char)(4 + j), -1, (char)(8 + j), -1,
                      (char)(8 + j), -1, (char)(12 + j), -1, (char)(12 + j), -1);
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order));
}

/* The sum of the minima times those of the groups' activations. */
AVX2_INLINE __m256i minima(const numbers_q4_k *n, const act_q4_k *x) {
    const __m256i even = _mm256_set1_epi16(0xff);
    __m256i s = _mm256_setzero_si256();
    AVX2_UNROLL
    for (int i = 0; i < 2; i++) {
        const __m256i first = _mm256_and_si256(n->min[i], even), second = _mm256_srli_epi16(n->min[i], 8);
        s = _mm256_add_epi32(s, _mm256_madd_epi16(first, broadcast_4(x->sums + 4 * i)));
        s = _mm256_add_epi32(s, _mm256_madd_epi16(second, broadcast_4(x->sums + 4 * i + 2)));
    }
    return s;
}

/* Groups 2c and 2c + 1 of a half, scaled. Sums of 16 bits hold a group: 16 * 15 * 127. */
AVX2_INLINE __m256i two_groups(const uint8_t *w, const act_q4_k *x, const numbers_q4_k *n, const int c,
                               int h) {
    __m256i low = _mm256_setzero_si256(), high = low;
    AVX2_UNROLL
    for (size_t g = 0; g < 8; g++) {
        const __m256i v = load_words(w, 16 + 32 * (size_t)c + 4 * g, h);
        const int8_t *quads = x->x + 64 * c + 4 * g;
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(low_nibbles(v), broadcast_4(quads)));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(high_nibbles(v), broadcast_4(quads + 32)));
    }
    return _mm256_add_epi32(_mm256_madd_epi16(low, byte_twice(n->scale[c / 2], 2 * c % 4)),
                            _mm256_madd_epi16(high, byte_twice(n->scale[c / 2], 2 * c % 4 + 1)));
}

/* The halves at `shift` in words of d and dmin. */
AVX2_INLINE __m256 halves_of(__m256i words, const int shift) {
    const __m256i v = _mm256_and_si256(_mm256_srli_epi32(words, shift), _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

AVX2_INLINE void rows_q4_k(float *y, const uint8_t *w, const act_q4_k *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w += ROWS * sizeof(quant_q4_k), x++) {
        const __m256 xd = _mm256_broadcast_ss(&x->d);
        const numbers_q4_k n[HALVES] = {numbers_of(w, 0), numbers_of(w, 1)};
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        AVX2_UNROLL
        for (int c = 0; c < 4; c++) {
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++)
                scaled[h] = _mm256_add_epi32(scaled[h], two_groups(w, x, &n[h], c, h));
        }
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i head = load_words(w, 0, h);
            const __m256 d = _mm256_mul_ps(halves_of(head, 0), xd);
            const __m256 dmin = _mm256_mul_ps(halves_of(head, 16), xd);
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled[h]), d, sum[h]);
            sum[h] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima(&n[h], x)), dmin, sum[h]);
        }
    }
    AVX2_UNROLL
    for (int h = 0; h < HALVES; h++) _mm256_storeu_ps(y + 8 * h, sum[h]);
}

#define GEMV(type, rows)                                                                                     \
    static void gemv_##type(float *y, const uint8_t *w, size_t row_bytes, size_t row_n, const void *act,     \
                            size_t k) {                                                                      \
        for (size_t r = 0; r < row_n; r += ROWS, y += ROWS, w += ROWS * row_bytes) rows;                     \
    }
GEMV(q4_0, rows_32(y, w, act, k / 32, sizeof(quant_q4_0), block_q4_0))
GEMV(q8_0, rows_32(y, w, act, k / 32, sizeof(quant_q8_0), block_q8_0))
GEMV(q4_k, rows_q4_k(y, w, act, k / 256))

void cpu_avx2_lanes_init(cpu_kernels *k) {
    cpu_set_gemv(&k->lanes[GGUF_Q4_0], bytes_32, act_pack_32, gemv_q4_0);
    cpu_set_gemv(&k->lanes[GGUF_Q8_0], bytes_32, act_pack_32, gemv_q8_0);
    cpu_set_gemv(&k->lanes[GGUF_Q4_K], act_bytes_q4_k, act_pack_q4_k, gemv_q4_k);
}
