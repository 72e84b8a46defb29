/* avx512_lanes_k.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 256.
 *
 * As avx512_lanes.c: a lane is a row. The bytes are read in the order in which they stand, or the hardware
 * would not fetch them ahead. Scales are integers and multiply sums as such: sums that 16 bits hold, for two
 * multiplications of these and their addition are one instruction.
 */
#include "devices/cpu/avx512_lanes.h"

#include <stddef.h>

enum { GROUPS_MAX = 16 };

/* Kept small: with 96 bytes more, rows of 5632 weights took a seventh longer at 60 GB/s (Zen 4). */
typedef struct act_k {
    int8_t x[SUPERBLOCK];
    union {
        struct { /* of types with minima: sum of each group's x, upper * its weights + lower */
            int8_t upper[GROUPS_MAX], lower[GROUPS_MAX];
        };
        int32_t start[GROUPS_MAX]; /* of each group's sum, with an offset: minus it times the sum of x */
    };
    float d;
} act_k;

static size_t bytes_k(size_t k) { return k / SUPERBLOCK * sizeof(act_k); }

/* group_bits: 2^group_bits weights are a group. Sums of group j are taken times 2^left[j % 8]. */
INLINE void pack_k(act_k *a, const float *x, size_t k, const size_t group_bits, const int offset,
                   const int left[8]) {
    const size_t weight_n = (size_t)1 << group_bits;
    for (size_t i = 0; i < k / SUPERBLOCK; i++) a[i].d = quantise(a[i].x, x + i * SUPERBLOCK, SUPERBLOCK);
    for (size_t i = 0; i < k / SUPERBLOCK; i++) {
        for (size_t j = 0; j < SUPERBLOCK / weight_n; j++) {
            const int sum = sum_i8(a[i].x + weight_n * j, weight_n);
            if (offset) {
                a[i].start[j] = -offset * sum * (1 << left[j % 8]);
            } else {
                a[i].upper[j] = (int8_t)(sum >> group_bits);
                a[i].lower[j] = (int8_t)(sum & ((1 << group_bits) - 1));
            }
        }
    }
}

/* Sums of two groups as the 16 bits that hold them, for one instruction to scale and add both. They were
 * taken times 2^left (constants). */
INLINE __m512i pair_of(__m512i first, const int first_left, __m512i second, const int second_left) {
    if (first_left) first = _mm512_srli_epi32(first, (unsigned)first_left);
    second = _mm512_slli_epi32(second, (unsigned)(16 - second_left));
    const __m512i word = _mm512_set1_epi32(0xffff);
    return _mm512_ternarylogic_epi64(second, first, word, 0xf8); /* second | (first & word) */
}

/* Bytes j and j + 1 (a constant) of each lane as its words; or times 256, which makes them signed. */
INLINE __m512i bytes_as_words(__m512i v, const int j, const bool times_256) {
    const __m128i byte = _mm_setr_epi16(0, 1, 4, 5, 8, 9, 12, 13), none = _mm_set1_epi16(0x80);
    const __m128i low = _mm_add_epi16(byte, _mm_set1_epi16((short)j));
    const __m128i order =
        times_256 ? _mm_or_si128(none, _mm_slli_epi16(low, 8)) : _mm_or_si128(low, _mm_slli_epi16(none, 8));
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(order));
}

/* Byte j (a constant) of each lane as its lower word, zeros above, so that what stands there adds nothing. */
INLINE __m512i byte_as_word(__m512i v, const int j) {
    const __m128i byte = _mm_setr_epi32(0, 4, 8, 12), none = _mm_set1_epi32((int)0x80808000);
    return _mm512_shuffle_epi8(
        v, _mm512_broadcast_i32x4(_mm_or_si128(_mm_add_epi32(byte, _mm_set1_epi32(j)), none)));
}

/* Minima times the sums of x. */
typedef struct minima_sum {
    __m512i upper, lower;
} minima_sum;
/* Adds those of groups 4i to 4i + 3, a byte each. */
INLINE void add_minima(minima_sum *s, __m512i min, const act_k *x, size_t i) {
    s->upper = add_quads(s->upper, min, x->upper + 4 * i);
    s->lower = add_quads(s->lower, min, x->lower + 4 * i);
}
INLINE __m512i minima_of(minima_sum s, const unsigned group_bits) {
    return _mm512_add_epi32(_mm512_slli_epi32(s.upper, group_bits), s.lower);
}

/* sum + d scaled - dmin minima */
INLINE __m512 add_block(__m512 sum, __m512i scaled, __m512i minima, __m512i d_dmin, const act_k *x) {
    const __m512 xd = _mm512_set1_ps(x->d);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_mul_ps(halves_of(d_dmin), xd), sum);
    return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima), _mm512_mul_ps(upper_halves_of(d_dmin), xd), sum);
}

/* ---- Q4_K, and Q5_K joined (devices/lanes.h) -------------------------------------------------------- */

/* Adds two groups of 32, scaled by bytes j and j + 1. 16 bits hold the sum of half a group, 16 * 15 * 127;
 * upper nibbles are multiplied where they stand. */
INLINE __m512i add_two_groups_q4_k(__m512i scaled, row_stream w, size_t at, const int8_t *x, __m512i scales,
                                   const int j) {
    const __m512i scale = bytes_as_words(scales, j, false);
    UNROLL for (size_t half = 0; half < 2; half++) {
        __m512i low = _mm512_setzero_si512(), high = low;
        UNROLL for (size_t g = 4 * half; g < 4 * half + 4; g++) {
            const __m512i v = load_words(w, at + 4 * g);
            low = add_quads(low, low_nibbles(v), x + 4 * g);
            high = add_quads(high, nibbles_in_place(v), x + BLOCK + 4 * g);
        }
        scaled = _mm512_dpwssd_epi32(scaled, pair_of(low, 0, high, 4), scale);
    }
    return scaled;
}

/* Adds a group, scaled by byte j. */
INLINE __m512i add_group_q5_k(__m512i scaled, row_stream w, size_t at, const int8_t *x, __m512i scales,
                              const int j) {
    const __m512i s = sum_of_five_bits(w, at, x, _mm512_setzero_si512());
    return _mm512_add_epi32(scaled, _mm512_mullo_epi32(s, byte_as_word(scales, j)));
}

INLINE void rows_q4_k(float *y, row_stream w, const act_k *x, size_t block_n, const bool five_bits) {
    const __m512i six = _mm512_set1_epi8(0x3f), zero = _mm512_setzero_si512();
    const size_t bytes = five_bits ? sizeof(lanes_q5_k) : sizeof(quant_q4_k);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * bytes, x++) {
        const __m512i d_dmin = load_words_once(w, 0);
        const __m512i s0 = load_words(w, 4), s1 = load_words(w, 8), s2 = load_words(w, 12);
        const __m512i scales[2] = {_mm512_and_si512(s0, six),
                                   or_masked(low_nibbles(s2), _mm512_srli_epi32(s0, 2), 0x30)};
        const __m512i min[2] = {_mm512_and_si512(s1, six),
                                or_masked(high_nibbles(s2), _mm512_srli_epi32(s1, 2), 0x30)};
        __m512i scaled = zero;
        UNROLL for (size_t j = 0; j < 8; j++) {
            const __m512i four = scales[j / 4];
            const int8_t *group = x->x + BLOCK * j;
            if (five_bits)
                scaled = add_group_q5_k(scaled, w, offsetof(lanes_q5_k, q[j]), group, four, (int)j % 4);
            else if (j % 2 == 0)
                scaled =
                    add_two_groups_q4_k(scaled, w, offsetof(quant_q4_k, q) + 16 * j, group, four, (int)j % 4);
        }
        minima_sum minima = {zero, zero};
        UNROLL for (size_t i = 0; i < 2; i++) add_minima(&minima, min[i], x, i);
        sum = add_block(sum, scaled, minima_of(minima, 5), d_dmin, x);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q2_K: four weights of groups j, j + 2, j + 4 and j + 6 of 16 in a word ------------------------- */

/* Sums of the groups of four runs, whose pairs stand in eight words at `at`, in twos. Pairs are multiplied
 * where they stand, which saves moving each of them. */
#define PAIRS_LEFT ((const int[8]){0, 0, 2, 2, 4, 4, 6, 6})
INLINE void sums_of_pairs(__m512i two[4], row_stream w, size_t at, const int8_t *x) {
    __m512i s[8];
    UNROLL for (size_t j = 0; j < 8; j++) s[j] = _mm512_setzero_si512();
    UNROLL for (size_t i = 0; i < 8; i++) {
        const __m512i v = load_words_once(w, at + 4 * i);
        UNROLL for (size_t j = i / 4; j < 8; j += 2) {
            const __m512i pair = _mm512_and_si512(v, _mm512_set1_epi8((char)(3 << PAIRS_LEFT[j])));
            s[j] = add_quads(s[j], pair, x + 16 * j + i % 4 * 4);
        }
    }
    UNROLL for (size_t n = 0; n < 4; n++) {
        const int left = PAIRS_LEFT[2 * n];
        two[n] = pair_of(s[2 * n], left, s[2 * n + 1], left);
    }
}

INLINE void rows_q2_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    const __m512i zero = _mm512_setzero_si512(), upper = _mm512_set1_epi8((char)0xf0);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_q2_k), x++) {
        __m512i scales[4], scaled = zero;
        minima_sum minima = {zero, zero}; /* times 16 */
        UNROLL for (size_t i = 0; i < 4; i++) {
            const __m512i both = load_words(w, 4 * i);
            scales[i] = low_nibbles(both);
            add_minima(&minima, _mm512_and_si512(both, upper), x, i);
        }
        UNROLL for (size_t half = 0; half < 2; half++) {
            __m512i two[4];
            sums_of_pairs(two, w, offsetof(quant_q2_k, q) + 32 * half, x->x + 128 * half);
            UNROLL for (int n = 0; n < 4; n++) {
                const __m512i scale = bytes_as_words(scales[2 * (int)half + n / 2], n % 2 * 2, false);
                scaled = _mm512_dpwssd_epi32(scaled, two[n], scale);
            }
        }
        sum = add_block(sum, scaled, _mm512_srai_epi32(minima_of(minima, 4), 4),
                        load_words(w, offsetof(quant_q2_k, d)), x);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q3_K, joined (devices/lanes.h) ----------------------------------------------------------------- */

/* Scales of groups 4i to 4i + 3, signed, from three words (devices/quant.h). */
INLINE __m512i scales_q3_k(const __m512i word[3], const int i) {
    const __m512i low = i < 2 ? low_nibbles(word[i]) : high_nibbles(word[i - 2]);
    return _mm512_sub_epi8(or_masked(low, moved(word[2], 4 - 2 * i), 0x30), _mm512_set1_epi8(32));
}

/* Quants are multiplied where they stand, those of groups 6 and 7 from bit 5 on. */
#define JOINED_LEFT ((const int[8]){0, 3, 0, 3, 0, 3, 5, 5})

/* Bits 6 and 7 of each byte of `upper` with bit `from` of `lowest` below them, zeros elsewhere. */
INLINE __m512i rest_of(__m512i upper, __m512i lowest, const int from) {
    const long long matrix = (long long)1 << (8 * (7 - 5) + from); /* bit 5 is bit `from` */
    return or_masked(_mm512_gf2p8affine_epi64_epi8(lowest, _mm512_set1_epi64(matrix), 0), upper, 0xc0);
}

/* scaled + sums of groups j and j + 1 times their scales and 256; `scales` are those of four groups. */
INLINE __m512i add_pair(__m512i scaled, __m512i first, __m512i second, __m512i scales, const int j) {
    const __m512i pair = pair_of(first, JOINED_LEFT[j], second, JOINED_LEFT[j + 1]);
    return _mm512_dpwssd_epi32(scaled, pair, bytes_as_words(scales, j % 4, true));
}

/* Adds the eight groups whose words stand at `at`, scaled. */
INLINE __m512i add_half_q3_k(__m512i scaled, row_stream w, size_t at, const int8_t *x, const int32_t *start,
                             const __m512i scales[2]) {
    const __m512i first_bits = _mm512_set1_epi8(7), second_bits = _mm512_set1_epi8(7 << 3);
    __m512i s6 = _mm512_set1_epi32(start[6]), s7 = _mm512_set1_epi32(start[7]), three[3];
    UNROLL for (int j = 0; j < 6; j += 2) {
        __m512i first = _mm512_set1_epi32(start[j]), second = _mm512_set1_epi32(start[j + 1]);
        UNROLL for (size_t t = 0; t < 4; t++) {
            const size_t i = 2 * (size_t)j + t;
            const __m512i v = load_words_once(w, at + 4 * i);
            const int8_t *quad = x + 16 * j + 4 * t;
            first = add_quads(first, _mm512_and_si512(v, first_bits), quad);
            second = add_quads(second, _mm512_and_si512(v, second_bits), quad + 16);
            three[i % 3] = v;
            if (i % 3 < 2) continue;
            quad = x + 16 * 6 + 4 * (i / 3);
            s6 = add_quads(s6, rest_of(three[0], three[1], 6), quad);
            s7 = add_quads(s7, rest_of(three[2], three[1], 7), quad + 16);
        }
        scaled = add_pair(scaled, first, second, scales[j / 4], j);
    }
    return add_pair(scaled, s6, s7, scales[1], 6);
}

/* Scales are taken times 256. 32 bits hold what comes of it: 16 groups * 256 * 32 * (16 * 4 * 127) < 2^31. */
INLINE void rows_q3_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(lanes_q3_k), x++) {
        __m512i word[3], scaled = _mm512_setzero_si512();
        UNROLL for (size_t i = 0; i < 3; i++) word[i] = load_words_once(w, 4 * i);
        UNROLL for (int h = 0; h < 2; h++) {
            const __m512i scales[2] = {scales_q3_k(word, 2 * h), scales_q3_k(word, 2 * h + 1)};
            scaled = add_half_q3_k(scaled, w, offsetof(lanes_q3_k, q[h]), x->x + 128 * h, x->start + 8 * h,
                                   scales);
        }
        const __m512 d = _mm512_mul_ps(halves_at(w, offsetof(lanes_q3_k, d)), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(scaled, 8)), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q6_K ------------------------------------------------------------------------------------------- */

typedef struct act_q6_k {
    int8_t x[SUPERBLOCK];
    int32_t start[2 * GROUPS_MAX]; /* of the sum of half a group */
    float d;
} act_q6_k;

static size_t bytes_q6_k(size_t k) { return k / SUPERBLOCK * sizeof(act_q6_k); }

/* Each fourth group is multiplied from this bit on. */
enum { LAST_LEFT = 2 };

static void pack_q6_k(void *act, const float *x, size_t k) {
    for (act_q6_k *a = act; k > 0; k -= SUPERBLOCK, x += SUPERBLOCK, a++) {
        a->d = quantise(a->x, x, SUPERBLOCK);
        for (size_t j = 0; j < 2 * GROUPS_MAX; j++)
            a->start[j] = -32 * sum_i8(a->x + 8 * j, 8) * (j % 8 < 6 ? 1 : 1 << LAST_LEFT);
    }
}

/* Bits 6 and 7 of each byte of three words as one quant, from bit 2 on, those of the first word on top. */
INLINE __m512i quad_of_three(const __m512i three[3]) {
    /* matrices: byte 7 - i is what bit i is the parity of */
    const long long second = (long long)1 << (8 * (7 - 5) + 7) | (long long)1 << (8 * (7 - 4) + 6);
    const long long third = (long long)1 << (8 * (7 - 3) + 7) | (long long)1 << (8 * (7 - 2) + 6);
    const __m512i lower =
        _mm512_or_si512(_mm512_gf2p8affine_epi64_epi8(three[1], _mm512_set1_epi64(second), 0),
                        _mm512_gf2p8affine_epi64_epi8(three[2], _mm512_set1_epi64(third), 0));
    return or_masked(lower, three[0], 0xc0);
}

/* Byte j of each lane as both of its words, signed. */
INLINE __m512i byte_twice(__m512i v, const int j) {
    const __m128i byte = _mm_setr_epi16(0, 0, 4, 4, 8, 8, 12, 12), none = _mm_set1_epi16(0x80);
    const __m128i order =
        _mm_or_si128(none, _mm_slli_epi16(_mm_add_epi16(byte, _mm_set1_epi16((short)j)), 8));
    return _mm512_srai_epi16(_mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(order)), 8);
}

/* Adds four groups whose words stand at `at`, scaled. 16 bits hold the sum of half a group, 8 * 32 * 127. */
INLINE __m512i add_set_q6_k(__m512i scaled, row_stream w, size_t at, const int8_t *x, const int32_t *start,
                            __m512i scales) {
    const __m512i six = _mm512_set1_epi8(0x3f);
    __m512i last[2] = {_mm512_set1_epi32(start[6]), _mm512_set1_epi32(start[7])}, three[3];
    UNROLL for (size_t j = 0; j < 3; j++) {
        __m512i s[2] = {_mm512_set1_epi32(start[2 * j]), _mm512_set1_epi32(start[2 * j + 1])};
        UNROLL for (size_t t = 0; t < 4; t++) {
            const size_t i = 4 * j + t;
            const __m512i v = load_words(w, at + 4 * i);
            s[t / 2] = add_quads(s[t / 2], _mm512_and_si512(v, six), x + 4 * i);
            three[i % 3] = v;
            if (i % 3 < 2) continue;
            last[i / 6] = add_quads(last[i / 6], quad_of_three(three), x + 48 + 4 * (i / 3));
        }
        scaled = _mm512_dpwssd_epi32(scaled, pair_of(s[0], 0, s[1], 0), byte_twice(scales, (int)j));
    }
    return _mm512_dpwssd_epi32(scaled, pair_of(last[0], LAST_LEFT, last[1], LAST_LEFT),
                               byte_twice(scales, 3));
}

INLINE void rows_q6_k(float *y, row_stream w, const act_q6_k *x, size_t block_n) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(lanes_q6_k), x++) {
        __m512i scales[4], scaled = _mm512_setzero_si512();
        UNROLL for (size_t i = 0; i < 4; i++) scales[i] = load_words_once(w, 4 * i);
        UNROLL for (size_t i = 0; i < 4; i++) {
            scaled = add_set_q6_k(scaled, w, offsetof(lanes_q6_k, q[i]), x->x + 64 * i, x->start + 8 * i,
                                  scales[i]);
        }
        const __m512 d = _mm512_mul_ps(halves_at(w, offsetof(lanes_q6_k, d)), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- IQ4_XS ----------------------------------------------------------------------------------------- */

INLINE void rows_iq4_xs(float *y, row_stream w, const act_k *x, size_t block_n) {
    const __m512i table = table_of(quant_iq4_values, 128), upper = _mm512_set1_epi32(0x30);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_iq4_xs), x++) {
        const __m512i head = load_words_once(w, 0), low_scales = load_words_once(w, 4);
        const __m512i nibbles[2] = {low_nibbles(low_scales), high_nibbles(low_scales)};
        __m512i scaled = _mm512_setzero_si512();
        UNROLL for (unsigned j = 0; j < 8; j++) {
            __m512i s = _mm512_set1_epi32(x->start[j]);
            UNROLL for (size_t g = 0; g < 4; g++) {
                const __m512i v = load_words_once(w, offsetof(quant_iq4_xs, q) + 16 * j + 4 * g);
                const int8_t *quad = x->x + BLOCK * j + 4 * g;
                const __m512i low = values_of(table, v), high = values_of(table, _mm512_srli_epi16(v, 4));
                s = add_quads(s, low, quad);
                s = add_quads(s, high, quad + 16);
            }
            const __m512i scale = _mm512_ternarylogic_epi64(byte_of_lanes(nibbles[j % 2], j / 2),
                                                            _mm512_srli_epi32(head, 12 + 2 * j), upper, 0xf8);
            scaled = _mm512_add_epi32(scaled,
                                      _mm512_mullo_epi32(s, _mm512_sub_epi32(scale, _mm512_set1_epi32(32))));
        }
        const __m512 d = _mm512_mul_ps(halves_of(head), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

#define NO_LEFT ((const int[8]){0})
#define K_LANES(type, group_bits, offset, left, rows)                                                        \
    static void pack_##type(void *act, const float *x, size_t k) {                                           \
        pack_k(act, x, k, group_bits, offset, left);                                                         \
    }                                                                                                        \
    STREAM_GEMV(type, rows)
K_LANES(q2_k, 4, 0, NO_LEFT, rows_q2_k(y, w, act, k / SUPERBLOCK))
K_LANES(q3_k, 4, 4, JOINED_LEFT, rows_q3_k(y, w, act, k / SUPERBLOCK))
K_LANES(q4_k, 5, 0, NO_LEFT, rows_q4_k(y, w, act, k / SUPERBLOCK, false))
K_LANES(q5_k, 5, 0, NO_LEFT, rows_q4_k(y, w, act, k / SUPERBLOCK, true))
STREAM_GEMV(q6_k, rows_q6_k(y, w, act, k / SUPERBLOCK))
K_LANES(iq4_xs, 5, 128, NO_LEFT, rows_iq4_xs(y, w, act, k / SUPERBLOCK))

void avx512_lanes_k(cpu_kernels *k) {
    STREAM_SET(q2_k, Q2_K, bytes_k)
    STREAM_SET(q3_k, Q3_K, bytes_k)
    STREAM_SET(q4_k, Q4_K, bytes_k)
    STREAM_SET(q5_k, Q5_K, bytes_k)
    STREAM_SET(q6_k, Q6_K, bytes_q6_k)
    STREAM_SET(iq4_xs, IQ4_XS, bytes_k)
}
