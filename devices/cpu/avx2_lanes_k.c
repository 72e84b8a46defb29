/* avx2_lanes_k.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 256.
 *
 * As avx2_lanes_32.h: a lane is a row. Sums of 16 bits hold a group of weights, whose scale, an integer, then
 * multiplies them as it widens them.
 */
#include "devices/cpu/avx2_lanes.h"

enum { GROUPS_MAX = 16 };
typedef struct act_k {
    int8_t x[256];
    int32_t start[GROUPS_MAX]; /* lane_start, of groups of 16 */
    int16_t sums[GROUPS_MAX];  /* of groups of 16, or of 32, in the order of pack_k */
    float d;
} act_k;

static size_t bytes_k(size_t k) { return k / 256 * sizeof(act_k); }

/* Sums stand in pairs as the minima do where bytes are taken as words: of each four groups 0 2 | 1 3. */
AVX2_INLINE void pack_k(act_k *a, const float *x, size_t k, const size_t group_n, const int offset[4]) {
    static const uint8_t place[4] = {0, 2, 1, 3};
    for (size_t i = 0; i < k; i += 256, a++) {
        int16_t sums[16];
        a->d = act_pack_sums(a->x, sums, x + i);
        for (size_t j = 0; j < 16; j++) {
            const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), load_128(a->x + 16 * j));
            a->start[j] = lane_start(pairs, offset[j / 2 % 4]);
        }
        for (size_t j = 0; j < group_n; j++)
            a->sums[j / 4 * 4 + place[j % 4]] =
                group_n == 16 ? sums[j] : (int16_t)(sums[2 * j] + sums[2 * j + 1]);
    }
}

/* ---- Scales and minima: four bytes to a lane ------------------------------------------------------------
 */

/* Byte j of each lane in both of its 16 bits, or in the upper half of these. */
AVX2_INLINE __m256i byte_twice(__m256i v, const int j, const bool upper) {
    const char b0 = (char)j, b1 = (char)(4 + j), b2 = (char)(8 + j), b3 = (char)(12 + j);
    const __m128i lower = _mm_setr_epi8(b0, -1, b0, -1, b1, -1, b1, -1, b2, -1, b2, -1, b3, -1, b3, -1);
    const __m128i order = upper ? _mm_alignr_epi8(lower, lower, 15) : lower;
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order));
}

/* The same, signed, times 2^left. */
AVX2_INLINE __m256i signed_byte_twice(__m256i v, const int j, const int left) {
    return _mm256_srai_epi16(byte_twice(v, j, true), 8 - left);
}

/* Adds the minima of four groups, a byte each, times the sums of the groups' activations. */
AVX2_INLINE __m256i add_minima(__m256i s, __m256i min, const int16_t sums[4]) {
    const __m256i even = _mm256_and_si256(min, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(min, 8);
    s = _mm256_add_epi32(s, _mm256_madd_epi16(even, broadcast_4(sums)));
    return _mm256_add_epi32(s, _mm256_madd_epi16(odd, broadcast_4(sums + 2)));
}

/* sum + d scaled - dmin minima */
AVX2_INLINE __m256 add_block(__m256 sum, __m256i scaled, __m256i minima, __m256i d_dmin, __m256 xd) {
    const half_pairs head = halves_of(d_dmin);
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled), _mm256_mul_ps(head.lower, xd), sum);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima), _mm256_mul_ps(head.upper, xd), sum);
}

/* s += quads times `quad` */
AVX2_INLINE __m256i add_quads(__m256i s, __m256i quads, __m256i quad) {
    return opaque(_mm256_add_epi16(s, _mm256_maddubs_epi16(quads, quad)));
}

/* Bits that stand before the others, bit i of byte l for weight 32 i + l: loaded at once. */
typedef struct upper_bits {
    __m256i v[8][HALVES];
} upper_bits;

AVX2_INLINE void load_upper(upper_bits *b, row_stream w, size_t at) {
    AVX2_UNROLL
    for (size_t i = 0; i < 8 * HALVES; i++)
        b->v[i / HALVES][i % HALVES] = opaque(load_words(w, at + i / HALVES * 4, i % HALVES));
}

/* ---- Q4_K, and Q5_K with fifth bits ---------------------------------------------------------------------
 */

/* Scales and minima of groups 0-3 and of 4-7 (devices/quant.h). */
typedef struct numbers_q4_k {
    __m256i scale[2], min[2];
} numbers_q4_k;

AVX2_INLINE numbers_q4_k numbers_of(row_stream w, int h) {
    const __m256i s0 = load_words(w, 4, h), s1 = load_words(w, 8, h), s2 = load_words(w, 12, h);
    return (numbers_q4_k){
        {masked(s0, 0x3f), _mm256_or_si256(low_nibbles(s2), masked(_mm256_srli_epi16(s0, 2), 0x30))},
        {masked(s1, 0x3f), _mm256_or_si256(high_nibbles(s2), masked(_mm256_srli_epi16(s1, 2), 0x30))},
    };
}

/* Adds groups 2c and 2c + 1, scaled. Sums of 16 bits hold a group of 4-bit quants, 16 * 15 * 127, but only
 * half of one with fifth bits. */
AVX2_INLINE void add_two_groups(__m256i scaled[HALVES], row_stream words, const int8_t *x,
                                const numbers_q4_k n[HALVES], const upper_bits *fifth, const int c) {
    __m256i s[2][HALVES];
    AVX2_UNROLL
    for (int g = 0; g < 8; g++) {
        const __m256i first = broadcast_4(x + 4 * g), second = broadcast_4(x + 32 + 4 * g);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(words, 4 * (size_t)g, h);
            __m256i low = low_nibbles(v), high = high_nibbles(v);
            if (fifth) {
                low = _mm256_or_si256(low, masked(moved(fifth->v[g][h], 4 - 2 * c), 16));
                high = _mm256_or_si256(high, masked(moved(fifth->v[g][h], 3 - 2 * c), 16));
            }
            if (g % (fifth ? 4 : 8) == 0) s[0][h] = s[1][h] = _mm256_setzero_si256();
            s[0][h] = add_quads(s[0][h], low, first);
            s[1][h] = add_quads(s[1][h], high, second);
        }
        if (g != 7 && (!fifth || g != 3)) continue;
        AVX2_UNROLL
        for (int i = 0; i < 2 * HALVES; i++) {
            const int h = i / 2, group = 2 * c + i % 2;
            const __m256i scale = byte_twice(n[h].scale[group / 4], group % 4, false);
            scaled[h] = _mm256_add_epi32(scaled[h], _mm256_madd_epi16(s[i % 2][h], scale));
        }
    }
}

AVX2_INLINE void rows_q4_k(float *y, row_stream w, const act_k *x, size_t block_n, const bool five_bits) {
    const size_t block_bytes = five_bits ? sizeof(quant_q5_k) : sizeof(quant_q4_k);
    const size_t quants_at = five_bits ? offsetof(quant_q5_k, q) : offsetof(quant_q4_k, q);
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * block_bytes, x++) {
        const numbers_q4_k n[HALVES] = {numbers_of(w, 0), numbers_of(w, 1)};
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        upper_bits fifth;
        if (five_bits) load_upper(&fifth, w, offsetof(quant_q5_k, high));
        AVX2_UNROLL
        for (int c = 0; c < 4; c++)
            add_two_groups(scaled, (row_stream){w.at + ROWS * (quants_at + 32 * (size_t)c), w.ask},
                           x->x + 64 * c, n, five_bits ? &fifth : NULL, c);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i minima = add_minima(add_minima(_mm256_setzero_si256(), n[h].min[0], x->sums),
                                              n[h].min[1], x->sums + 4);
            sum[h] = add_block(sum[h], scaled[h], minima, load_words(w, 0, h), _mm256_broadcast_ss(&x->d));
        }
    }
    store_rows(y, sum);
}

/* ---- Groups of 16: Q2_K, Q3_K and Q6_K ------------------------------------------------------------------
 */

/* What these types share: a word of pairs of bits has four weights of groups j, j + 2, j + 4 and j + 6. The
 * bytes are read in the order in which they stand, or the hardware would not fetch them ahead: so sums of all
 * groups are kept until their scales come. */
typedef struct form_16 {
    size_t block_bytes;
    int offset;  /* of quants */
    int left[4]; /* quads are taken times 2^left[n], which saves moving them; no less for a greater n */
    /* Sums of lower bits that stand before the others, or NULL. */
    void (*lower)(__m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x);
    /* The bits of word number `i` of 16, and the quads of the four groups that are made of them. */
    void (*load)(__m256i v[2], row_stream w, const upper_bits *upper, const size_t i, int h);
    __m256i (*quad)(const __m256i v[2], const int n);
    /* Scales of groups 4i to 4i + 3, signed. */
    __m256i (*scales)(row_stream w, const int i, int h);
    size_t d_at;
    bool has_min, has_upper;
} form_16;

AVX2_INLINE void load_q2_k(__m256i v[2], row_stream w, const upper_bits *upper, const size_t i, int h) {
    (void)upper;
    v[0] = load_words(w, offsetof(quant_q2_k, q) + 4 * i, h);
    v[1] = _mm256_srli_epi16(v[0], 4);
}
AVX2_INLINE __m256i quad_q2_k(const __m256i v[2], const int n) { return masked(v[n / 2], 3 << n % 2 * 2); }
AVX2_INLINE __m256i scales_q2_k(row_stream w, const int i, int h) {
    return low_nibbles(load_words(w, 4 * (size_t)i, h));
}

/* Bit i of byte l is the third one of weight 32 i + l. */
AVX2_INLINE void load_q3_k(__m256i v[2], row_stream w, const upper_bits *upper, const size_t i, int h) {
    v[0] = load_words(w, offsetof(quant_q3_k, q) + 4 * i, h);
    v[1] = moved(upper->v[i % 8][h], i < 8 ? 2 : -2);
}
AVX2_INLINE __m256i quad_q3_k(const __m256i v[2], const int n) {
    return _mm256_or_si256(masked(moved(v[0], -n), 3 << n), masked(v[1], 4 << n));
}
AVX2_INLINE __m256i scales_q3_k(row_stream w, const int i, int h) {
    const size_t at = offsetof(quant_q3_k, scales);
    const __m256i nibbles = load_words(w, at + (size_t)i % 2 * 4, h), top = load_words(w, at + 8, h);
    return _mm256_sub_epi8(_mm256_or_si256(i < 2 ? low_nibbles(nibbles) : high_nibbles(nibbles),
                                           masked(moved(top, 4 - 2 * i), 0x30)),
                           _mm256_set1_epi8(32));
}

AVX2_INLINE void load_q6_k(__m256i v[2], row_stream w, const upper_bits *upper, const size_t i, int h) {
    (void)upper;
    v[0] = load_words(w, offsetof(quant_q6_k, qh) + 4 * i, h);
}
AVX2_INLINE __m256i quad_q6_k(const __m256i v[2], const int n) {
    return masked(moved(v[0], 4 - 2 * n), 0x30);
}
AVX2_INLINE __m256i scales_q6_k(row_stream w, const int i, int h) {
    return load_words(w, offsetof(quant_q6_k, scales) + 4 * (size_t)i, h);
}

/* Nibbles of Q6_K. */
AVX2_INLINE void add_nibbles(__m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x) {
    AVX2_UNROLL
    for (size_t i = 0; i < 8; i++) { /* groups j and j + 4 */
        const size_t j = i / 4 * 8 + i % 4;
        AVX2_UNROLL
        for (size_t g = 0; g < 4; g++) {
            const int8_t *quads = x->x + 16 * j + 4 * g;
            const __m256i first = broadcast_4(quads), second = broadcast_4(quads + 64);
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) {
                const __m256i v = load_words(w, 16 * i + 4 * g, h);
                s[j][h] = add_quads(s[j][h], low_nibbles(v), first);
                s[j + 4][h] = add_quads(s[j + 4][h], high_nibbles(v), second);
            }
        }
    }
}

#define FORM_16(type, ...)                                                                                   \
    ((form_16){.block_bytes = sizeof(quant_##type),                                                          \
               .load = load_##type,                                                                          \
               .quad = quad_##type,                                                                          \
               .scales = scales_##type,                                                                      \
               .d_at = offsetof(quant_##type, d),                                                            \
               __VA_ARGS__})
#define FORM_Q2_K FORM_16(q2_k, .left = {0, 2, 0, 2}, .has_min = true)
#define FORM_Q3_K FORM_16(q3_k, .left = {0, 1, 2, 3}, .offset = 4, .has_upper = true)
#define FORM_Q6_K FORM_16(q6_k, .offset = 32, .lower = add_nibbles)

AVX2_INLINE void add_pairs(__m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x, const form_16 f) {
    upper_bits upper;
    if (f.has_upper) load_upper(&upper, w, 0);
    AVX2_UNROLL
    for (size_t i = 0; i < 16; i++) {
        const size_t j = i / 8 * 8 + i / 4 % 2;
        __m256i v[HALVES][2];
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) f.load(v[h], w, &upper, i, h);
        AVX2_UNROLL
        for (int n = 0; n < 4; n++) {
            const size_t group = j + 2 * (size_t)n;
            const __m256i quad = broadcast_4(x->x + 16 * group + i % 4 * 4);
            AVX2_UNROLL
            for (int h = 0; h < HALVES; h++) s[group][h] = add_quads(s[group][h], f.quad(v[h], n), quad);
        }
    }
}

/* A block of eight rows, of the sums of its groups. */
AVX2_INLINE __m256 add_block_16(__m256 sum, __m256i s[GROUPS_MAX][HALVES], row_stream w, const act_k *x,
                                const int h, const form_16 f) {
    const int most = f.left[3];
    const __m256 xd = _mm256_set1_ps(x->d / (float)(1 << most));
    __m256i scaled = _mm256_setzero_si256(), minima = scaled;
    AVX2_UNROLL
    for (int j = 0; j < GROUPS_MAX; j += 4) {
        const __m256i scales = f.scales(w, j / 4, h);
        AVX2_UNROLL
        for (int i = 0; i < 4; i++) {
            const __m256i scale = signed_byte_twice(scales, i, most - f.left[(j + i) / 2 % 4]);
            scaled = opaque(_mm256_add_epi32(scaled, _mm256_madd_epi16(s[j + i][h], scale)));
        }
    }
    if (!f.has_min) {
        const __m256 d = halves_at(w, f.d_at, h);
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled), _mm256_mul_ps(d, xd), sum);
    }
    AVX2_UNROLL
    for (size_t i = 0; i < 4; i++)
        minima = add_minima(minima, high_nibbles(load_words(w, 4 * i, h)), x->sums + 4 * i);
    return add_block(sum, scaled, _mm256_slli_epi32(minima, most), load_words(w, f.d_at, h), xd);
}

AVX2_INLINE void rows_16(float *y, row_stream w, const act_k *x, size_t block_n, const form_16 f) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * f.block_bytes, x++) {
        __m256i s[GROUPS_MAX][HALVES];
        AVX2_UNROLL
        for (int j = 0; j < GROUPS_MAX; j++)
            s[j][0] = s[j][1] = f.offset ? broadcast_4(x->start + j) : _mm256_setzero_si256();
        if (f.lower) f.lower(s, w, x);
        add_pairs(s, w, x, f);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) sum[h] = add_block_16(sum[h], s, w, x, h, f);
    }
    store_rows(y, sum);
}

/* ---- IQ4_XS ---------------------------------------------------------------------------------------------
 */

/* Group j, scaled: |x| times values with the sign of x, as for IQ4_NL. */
AVX2_INLINE void add_iq4_xs(__m256i scaled[HALVES], row_stream w, const act_k *x,
                            const numbers_iq4_xs n[HALVES], const int j) {
    const __m256i table = _mm256_broadcastsi128_si256(load_128(quant_iq4_values));
    AVX2_UNROLL
    for (size_t g = 0; g < 4; g++) {
        const int8_t *quads = x->x + 32 * j + 4 * g;
        const __m256i quad[2] = {broadcast_4(quads), broadcast_4(quads + 16)};
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i v = load_words(w, offsetof(quant_iq4_xs, q) + 16 * (size_t)j + 4 * g, h);
            const __m256i nibbles[2] = {low_nibbles(v), high_nibbles(v)};
            const __m256i scale = signed_byte_twice(n[h].scale[j % 2], j / 2, 0);
            AVX2_UNROLL
            for (int i = 0; i < 2; i++) {
                const __m256i values = _mm256_sign_epi8(_mm256_shuffle_epi8(table, nibbles[i]), quad[i]);
                const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(quad[i]), values);
                scaled[h] = _mm256_add_epi32(scaled[h], _mm256_madd_epi16(pairs, scale));
            }
        }
    }
}

AVX2_INLINE void rows_iq4_xs(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m256 sum[HALVES] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_iq4_xs), x++) {
        const numbers_iq4_xs n[HALVES] = {numbers_iq4_xs_of(w, 0), numbers_iq4_xs_of(w, 1)};
        __m256i scaled[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        AVX2_UNROLL
        for (int j = 0; j < 8; j++) add_iq4_xs(scaled, w, x, n, j);
        AVX2_UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256 d = _mm256_mul_ps(halves_of(load_words(w, 0, h)).lower, _mm256_broadcast_ss(&x->d));
            sum[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(scaled[h]), d, sum[h]);
        }
    }
    store_rows(y, sum);
}

#define NO_OFFSET ((const int[4]){0})
/* As multiples of quants are. */
#define OFFSETS(f)                                                                                           \
    ((const int[4]){(f).offset << (f).left[0], (f).offset << (f).left[1], (f).offset << (f).left[2],         \
                    (f).offset << (f).left[3]})
#define LANES_K(type, group_n, offset, rows)                                                                 \
    static void pack_##type(void *act, const float *x, size_t k) { pack_k(act, x, k, group_n, offset); }     \
    STREAM_GEMV(type, rows)
LANES_K(q2_k, 16, NO_OFFSET, rows_16(y, w, act, k / 256, FORM_Q2_K))
LANES_K(q3_k, 16, OFFSETS(FORM_Q3_K), rows_16(y, w, act, k / 256, FORM_Q3_K))
LANES_K(q4_k, 8, NO_OFFSET, rows_q4_k(y, w, act, k / 256, false))
LANES_K(q5_k, 8, NO_OFFSET, rows_q4_k(y, w, act, k / 256, true))
LANES_K(q6_k, 16, OFFSETS(FORM_Q6_K), rows_16(y, w, act, k / 256, FORM_Q6_K))
LANES_K(iq4_xs, 8, NO_OFFSET, rows_iq4_xs(y, w, act, k / 256))

void cpu_avx2_lanes_k_init(cpu_kernels *k) {
    STREAM_SET(q2_k, Q2_K, bytes_k)
    STREAM_SET(q3_k, Q3_K, bytes_k)
    STREAM_SET(q4_k, Q4_K, bytes_k)
    STREAM_SET(q5_k, Q5_K, bytes_k)
    STREAM_SET(q6_k, Q6_K, bytes_k)
    STREAM_SET(iq4_xs, IQ4_XS, bytes_k)
}
