/* avx512_lanes_k.c - one activation row times interleaved rows (devices/lanes.h) of blocks of 256.
 *
 * As avx512_lanes.c: a lane is a row. The bytes are read in the order in which they stand, or the hardware
 * would not fetch them ahead; so where the bits of a quant stand apart the sums of all groups are kept at
 * once, and each part of the bits is added when it comes. Scales are integers and multiply the groups' sums
 * as such.
 */
#include "devices/cpu/avx512_lanes.h"

#include <stddef.h>

enum { GROUPS_MAX = 16 };

typedef struct act_k {
    int8_t x[SUPERBLOCK];
    int16_t sums[GROUPS_MAX];  /* of groups of 16, or of 32, in the order of pack_k */
    int32_t start[GROUPS_MAX]; /* of each group, minus the offset of the quants times the sum of x */
    float d;
} act_k;

static size_t bytes_k(size_t k) { return k / SUPERBLOCK * sizeof(act_k); }

/* Sums stand in pairs as the minima do where bytes are taken as words: of each four groups 0 2 | 1 3. */
INLINE void pack_k(act_k *a, const float *x, size_t k, const size_t group_n, const int offset) {
    static const uint8_t place[4] = {0, 2, 1, 3};
    for (size_t i = 0; i < k / SUPERBLOCK; i++) a[i].d = quantise(a[i].x, x + i * SUPERBLOCK, SUPERBLOCK);
    for (size_t i = 0; i < k / SUPERBLOCK; i++) {
        for (size_t j = 0; j < group_n; j++) {
            const int sum = sum_i8(a[i].x + SUPERBLOCK / group_n * j, SUPERBLOCK / group_n);
            a[i].sums[j / 4 * 4 + place[j % 4]] = (int16_t)sum;
            a[i].start[j] = -offset * sum;
        }
    }
}

/* sum + s times byte j of `scales`. */
INLINE __m512i add_scaled(__m512i sum, __m512i s, __m512i scales, const unsigned j) {
    return _mm512_add_epi32(sum, _mm512_mullo_epi32(s, byte_of_lanes(scales, j)));
}
INLINE __m512i add_scaled_signed(__m512i sum, __m512i s, __m512i scales, const unsigned j) {
    return _mm512_add_epi32(sum, _mm512_mullo_epi32(s, signed_of_lanes(scales, j)));
}

/* The minima of four groups, a byte each, times the groups' sums. */
INLINE __m512i add_minima(__m512i sum, __m512i minima, const int16_t *sums) {
    const __m512i even = _mm512_set1_epi32(0x00ff00ff);
    sum = _mm512_dpwssd_epi32(sum, _mm512_and_si512(minima, even), _mm512_set1_epi32(read_i32(sums)));
    minima = _mm512_and_si512(_mm512_srli_epi32(minima, 8), even);
    return _mm512_dpwssd_epi32(sum, minima, _mm512_set1_epi32(read_i32(sums + 2)));
}

/* sum + d scaled - dmin minima */
INLINE __m512 add_block(__m512 sum, __m512i scaled, __m512i minima, __m512i d_dmin, const act_k *x) {
    const __m512 xd = _mm512_set1_ps(x->d);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), _mm512_mul_ps(halves_of(d_dmin), xd), sum);
    return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima), _mm512_mul_ps(upper_halves_of(d_dmin), xd), sum);
}

/* ---- Q4_K, and Q5_K with a fifth bit of group j at bit j of 32 bytes --------------------------------- */

/* Two groups of 32: of words of nibbles, with fifth bits at `bit` and above of `fifth`, unless that is NULL.
 */
INLINE void two_groups(__m512i s[2], row_stream w, size_t quants_at, const int8_t *x, const __m512i *fifth,
                       const unsigned bit) {
    s[0] = s[1] = _mm512_setzero_si512();
    UNROLL for (size_t g = 0; g < 8; g++) {
        const __m512i v = load_words(w, quants_at + 4 * g);
        __m512i low = low_nibbles(v), high = high_nibbles(v);
        if (fifth) {
            const __m512i bits = _mm512_slli_epi16(_mm512_srli_epi16(fifth[g], bit), 4);
            low = or_masked(low, bits, 16);
            high = or_masked(high, _mm512_srli_epi16(bits, 1), 16);
        }
        s[0] = _mm512_dpbusd_epi32(s[0], low, broadcast_quad(x + 4 * g));
        s[1] = _mm512_dpbusd_epi32(s[1], high, broadcast_quad(x + BLOCK + 4 * g));
    }
}

INLINE void rows_q4_k(float *y, row_stream w, const act_k *x, size_t block_n, const bool five_bits) {
    const __m512i six = _mm512_set1_epi8(0x3f), zero = _mm512_setzero_si512();
    const size_t bytes = five_bits ? Q5_K_BYTES : Q4_K_BYTES, quants_at = five_bits ? 48 : 16;
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * bytes, x++) {
        const __m512i d_dmin = load_words(w, 0);
        const __m512i s0 = load_words(w, 4), s1 = load_words(w, 8), s2 = load_words(w, 12);
        const __m512i scales[2] = {_mm512_and_si512(s0, six),
                                   or_masked(low_nibbles(s2), _mm512_srli_epi32(s0, 2), 0x30)};
        const __m512i min[2] = {_mm512_and_si512(s1, six),
                                or_masked(high_nibbles(s2), _mm512_srli_epi32(s1, 2), 0x30)};
        __m512i fifth[8], scaled = zero;
        UNROLL for (size_t g = 0; g < 8 && five_bits; g++) {
            fifth[g] = load_words(w, 16 + 4 * g);
            KEEP(fifth[g]);
        }
        UNROLL for (unsigned c = 0; c < 4; c++) {
            __m512i s[2];
            two_groups(s, w, quants_at + 32 * c, x->x + 64 * c, five_bits ? fifth : NULL, 2 * c);
            scaled = add_scaled(scaled, s[0], scales[c / 2], 2 * c % 4);
            scaled = add_scaled(scaled, s[1], scales[c / 2], 2 * c % 4 + 1);
        }
        const __m512i minima = add_minima(add_minima(zero, min[0], x->sums), min[1], x->sums + 4);
        sum = add_block(sum, scaled, minima, d_dmin, x);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q6_K --------------------------------------------------------------------------------------------- */

INLINE void rows_q6_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    const __m512i upper = _mm512_set1_epi8(0x30);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * Q6_K_BYTES, x++) {
        __m512i s[GROUPS_MAX], scaled = _mm512_setzero_si512();
        UNROLL for (size_t j = 0; j < GROUPS_MAX; j++) s[j] = _mm512_set1_epi32(x->start[j]);
        UNROLL for (size_t i = 0; i < 32; i++) { /* nibbles of groups j and j + 4 */
            const size_t j = i / 16 * 8 + i / 4 % 4;
            const int8_t *quad = x->x + 16 * j + i % 4 * 4;
            const __m512i v = load_words(w, 4 * i);
            s[j] = _mm512_dpbusd_epi32(s[j], low_nibbles(v), broadcast_quad(quad));
            s[j + 4] = _mm512_dpbusd_epi32(s[j + 4], high_nibbles(v), broadcast_quad(quad + 64));
        }
        UNROLL for (size_t i = 0; i < 16; i++) { /* upper bits of groups j, j + 2, j + 4, j + 6 */
            const size_t j = i / 8 * 8 + i / 4 % 2;
            const int8_t *quad = x->x + 16 * j + i % 4 * 4;
            const __m512i bits = load_words(w, 128 + 4 * i);
            const __m512i high[4] = {_mm512_slli_epi16(bits, 4), _mm512_slli_epi16(bits, 2), bits,
                                     _mm512_srli_epi16(bits, 2)};
            UNROLL for (size_t n = 0; n < 4; n++) s[j + 2 * n] = _mm512_dpbusd_epi32(
                s[j + 2 * n], _mm512_and_si512(high[n], upper), broadcast_quad(quad + 32 * n));
        }
        UNROLL for (size_t j = 0; j < GROUPS_MAX; j += 4) {
            const __m512i scales = load_words(w, 192 + j);
            UNROLL for (unsigned i = 0; i < 4; i++) scaled = add_scaled_signed(scaled, s[j + i], scales, i);
        }
        const __m512 d = _mm512_mul_ps(halves_at(w, 208), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- Q2_K and Q3_K: a word of pairs of bits has four weights of groups j, j + 2, j + 4, j + 6 --------- */

/* With third bits, unless that is NULL: bit i of byte l belongs to weight 32 i + l. */
INLINE void add_pairs(__m512i s[GROUPS_MAX], row_stream w, size_t quants_at, const __m512i *third,
                      const act_k *x) {
    const __m512i three = _mm512_set1_epi8(3);
    UNROLL for (size_t i = 0; i < 16; i++) {
        const size_t j = i / 8 * 8 + i / 4 % 2;
        const __m512i v = load_words(w, quants_at + 4 * i);
        UNROLL for (size_t n = 0; n < 4; n++) {
            const size_t run = i / 8 * 4 + n;
            __m512i q = _mm512_and_si512(_mm512_srli_epi16(v, 2 * (unsigned)n), three);
            if (third && run < 2) q = or_masked(q, _mm512_slli_epi16(third[i % 8], 2 - (unsigned)run), 4);
            if (third && run >= 2) q = or_masked(q, _mm512_srli_epi16(third[i % 8], (unsigned)run - 2), 4);
            s[j + 2 * n] =
                _mm512_dpbusd_epi32(s[j + 2 * n], q, broadcast_quad(x->x + 16 * (j + 2 * n) + i % 4 * 4));
        }
    }
}

INLINE void rows_q2_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_q2_k), x++) {
        __m512i s[GROUPS_MAX], scales[4], scaled = _mm512_setzero_si512(), minima = scaled;
        UNROLL for (size_t j = 0; j < GROUPS_MAX; j++) s[j] = _mm512_setzero_si512();
        UNROLL for (size_t i = 0; i < 4; i++) {
            const __m512i both = load_words(w, 4 * i);
            scales[i] = low_nibbles(both);
            minima = add_minima(minima, high_nibbles(both), x->sums + 4 * i);
        }
        add_pairs(s, w, offsetof(quant_q2_k, q), NULL, x);
        UNROLL for (unsigned j = 0; j < GROUPS_MAX; j++) scaled =
            add_scaled(scaled, s[j], scales[j / 4], j % 4);
        sum = add_block(sum, scaled, minima, load_words(w, offsetof(quant_q2_k, d)), x);
    }
    _mm512_storeu_ps(y, sum);
}

/* Scales of groups 4i to 4i + 3, plus 32, from three words (devices/quant.h). */
INLINE __m512i scales_q3_k(const __m512i word[3], const unsigned i) {
    const __m512i low = i < 2 ? low_nibbles(word[i]) : high_nibbles(word[i - 2]);
    const __m512i high =
        i < 2 ? _mm512_slli_epi16(word[2], 4 - 2 * i) : _mm512_srli_epi16(word[2], 2 * i - 4);
    return or_masked(low, high, 0x30);
}

INLINE void rows_q3_k(float *y, row_stream w, const act_k *x, size_t block_n) {
    const size_t scales_at = offsetof(quant_q3_k, scales);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_q3_k), x++) {
        __m512i s[GROUPS_MAX], third[8], scaled = _mm512_setzero_si512(), all = scaled;
        UNROLL for (size_t j = 0; j < GROUPS_MAX; j++) s[j] = _mm512_set1_epi32(x->start[j]);
        UNROLL for (size_t g = 0; g < 8; g++) {
            third[g] = load_words(w, 4 * g);
            KEEP(third[g]);
        }
        add_pairs(s, w, offsetof(quant_q3_k, q), third, x);
        const __m512i word[3] = {load_words(w, scales_at), load_words(w, scales_at + 4),
                                 load_words(w, scales_at + 8)};
        UNROLL for (unsigned j = 0; j < GROUPS_MAX; j++) {
            scaled = add_scaled(scaled, s[j], scales_q3_k(word, j / 4), j % 4);
            all = _mm512_add_epi32(all, s[j]);
        }
        scaled = _mm512_sub_epi32(scaled, _mm512_slli_epi32(all, 5)); /* the scales' offset, 32 */
        const __m512 d = _mm512_mul_ps(halves_at(w, offsetof(quant_q3_k, d)), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

/* ---- IQ4_XS ------------------------------------------------------------------------------------------- */

INLINE void rows_iq4_xs(float *y, row_stream w, const act_k *x, size_t block_n) {
    const __m512i table = table_of(quant_iq4_values, 128), three = _mm512_set1_epi32(3);
    __m512 sum = _mm512_setzero_ps();
    for (size_t b = 0; b < block_n; b++, w.at += ROWS * sizeof(quant_iq4_xs), x++) {
        const __m512i head = load_words(w, 0), low_scales = load_words(w, 4);
        const __m512i nibbles[2] = {low_nibbles(low_scales), high_nibbles(low_scales)};
        __m512i scaled = _mm512_setzero_si512();
        UNROLL for (unsigned j = 0; j < 8; j++) {
            __m512i s = _mm512_set1_epi32(x->start[j]);
            UNROLL for (size_t g = 0; g < 4; g++) {
                const __m512i v = load_words(w, offsetof(quant_iq4_xs, q) + 16 * j + 4 * g);
                const int8_t *quad = x->x + BLOCK * j + 4 * g;
                s = _mm512_dpbusd_epi32(s, _mm512_shuffle_epi8(table, low_nibbles(v)), broadcast_quad(quad));
                s = _mm512_dpbusd_epi32(s, _mm512_shuffle_epi8(table, high_nibbles(v)),
                                        broadcast_quad(quad + 16));
            }
            const __m512i high = _mm512_and_si512(_mm512_srli_epi32(head, 16 + 2 * j), three);
            const __m512i scale =
                _mm512_add_epi32(byte_of_lanes(nibbles[j % 2], j / 2), _mm512_slli_epi32(high, 4));
            scaled = _mm512_add_epi32(scaled,
                                      _mm512_mullo_epi32(s, _mm512_sub_epi32(scale, _mm512_set1_epi32(32))));
        }
        const __m512 d = _mm512_mul_ps(halves_of(head), _mm512_set1_ps(x->d));
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(scaled), d, sum);
    }
    _mm512_storeu_ps(y, sum);
}

#define K_LANES(type, group_n, offset, rows)                                                                 \
    static void pack_##type(void *act, const float *x, size_t k) { pack_k(act, x, k, group_n, offset); }     \
    STREAM_GEMV(type, rows)
K_LANES(q2_k, 16, 0, rows_q2_k(y, w, act, k / SUPERBLOCK))
K_LANES(q3_k, 16, 4, rows_q3_k(y, w, act, k / SUPERBLOCK))
K_LANES(q4_k, 8, 0, rows_q4_k(y, w, act, k / SUPERBLOCK, false))
K_LANES(q5_k, 8, 0, rows_q4_k(y, w, act, k / SUPERBLOCK, true))
K_LANES(q6_k, 16, 32, rows_q6_k(y, w, act, k / SUPERBLOCK))
K_LANES(iq4_xs, 8, 128, rows_iq4_xs(y, w, act, k / SUPERBLOCK))

void avx512_lanes_k(cpu_kernels *k) {
    STREAM_SET(q2_k, Q2_K, bytes_k)
    STREAM_SET(q3_k, Q3_K, bytes_k)
    STREAM_SET(q4_k, Q4_K, bytes_k)
    STREAM_SET(q5_k, Q5_K, bytes_k)
    STREAM_SET(q6_k, Q6_K, bytes_k)
    STREAM_SET(iq4_xs, IQ4_XS, bytes_k)
}
