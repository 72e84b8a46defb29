/* avx2_blocks.h - blocks of every type in 256-bit registers: what the generic kernels of AVX2 and AVX-512 are
 * made of (devices/blocks.h says what a form is, devices/quant.h and devices/neurons.h where the numbers
 * stand).
 *
 * Kernels take a fast_form as a constant, so that after inlining nothing of it is left.
 */
#ifndef HOTSET_CPU_AVX2_BLOCKS_H
#define HOTSET_CPU_AVX2_BLOCKS_H

#include "devices/blocks.h"
#include "devices/cpu/avx2.h"
#include "devices/lanes.h"
#include "devices/neurons.h"
#include "devices/quant.h"

#include <stddef.h>

enum { RUN = 32 /* weights of a block, or outputs of a neuron, that are taken at a time */ };

typedef struct fast_form {
    size_t block_bytes, run_n;   /* run_n: runs of a block, 1 or 8 */
    size_t low_bits, high_bits;  /* of a quant */
    const int8_t *values;        /* 16 of them, by quant, or NULL: quant - offset */
    int offset;                  /* of signed values: what makes them unsigned bytes */
    size_t part_n, header_bytes; /* neurons that share a scale; bytes of a block that are not quants */
    size_t front_at;             /* where in a block stands what interleaved rows have in front */
    size_t d_at, dmin_at;        /* in a block */
    size_t d_plane, dmin_plane;  /* before them, in bytes for each output */
    bool has_min;                /* 256: minus dmin * min; 32: plus what stands at dmin_at */
    bool power;                  /* d is a power of two in one byte (MXFP4) */
    __m256i (*quants)(const uint8_t *block, size_t run); /* of a run, in order */
    /* the same of interleaved rows: four quants, number `quad` of a run's eight, of eight rows */
    __m256i (*lanes_quants)(const uint8_t *w, size_t run, size_t quad);
    /* 256: signed bytes, one for every 16 weights */
    void (*numbers)(__m128i *scale, __m128i *min, const uint8_t *block);
    /* 256: those of part j for 8 outputs, or 16 (wide) */
    void (*plane)(__m128i *scale, __m128i *min, const uint8_t *planes, size_t out_n, size_t o, size_t j,
                  const bool wide);
} fast_form;

/* ---- Quants of blocks -------------------------------------------------------------------------------- */

/* 16 bytes: low nibbles, then high ones. */
AVX2_INLINE __m256i nibbles_32(const uint8_t *p) {
    const __m128i v = load_128(p);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
}

/* 32 bits as bytes that are 0 or `value`. */
AVX2_INLINE __m256i bits_32(const uint8_t *p, int value) {
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i spread = _mm256_shuffle_epi8(broadcast_4(p), byte);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit),
                            _mm256_set1_epi8((char)value));
}

/* Of interleaved rows: nibbles of words that hold low ones of quads 0 to 3 and high ones of 4 to 7. */
AVX2_INLINE __m256i lanes_nibbles(const uint8_t *w, size_t quad) {
    return low_bits_of(load_256(w + 4 * LANES_ROWS * (quad % 4)), quad < 4 ? 0 : 4, 15);
}

/* Four quants of words joined as lanes_five_bits. */
AVX2_INLINE __m256i lanes_five(const uint8_t *words, size_t quad) {
    __m256i word[5];
    for (size_t t = 0; t < 5; t++) word[t] = load_256(words + 4 * LANES_ROWS * t);
    return quads_of_five_bits(word, quad);
}

AVX2_INLINE __m256i quants_q8_0(const uint8_t *block, size_t run) {
    (void)run;
    return load_256(block + offsetof(quant_q8_0, q));
}
AVX2_INLINE __m256i lanes_quants_q8_0(const uint8_t *w, size_t run, size_t quad) {
    (void)run;
    return load_256(w + LANES_ROWS * (offsetof(quant_q8_0, q) + 4 * quad));
}
#define NIBBLE_QUANTS(type)                                                                                  \
    AVX2_INLINE __m256i quants_##type(const uint8_t *block, size_t run) {                                    \
        return nibbles_32(block + offsetof(quant_##type, q) + 16 * run);                                     \
    }                                                                                                        \
    AVX2_INLINE __m256i lanes_quants_##type(const uint8_t *w, size_t run, size_t quad) {                     \
        return lanes_nibbles(w + LANES_ROWS * (offsetof(quant_##type, q) + 16 * run), quad);                 \
    }
NIBBLE_QUANTS(q4_0)
NIBBLE_QUANTS(q4_1)
NIBBLE_QUANTS(iq4_nl)
NIBBLE_QUANTS(mxfp4)
NIBBLE_QUANTS(iq4_xs)
#define FIVE_BIT_QUANTS(type)                                                                                \
    AVX2_INLINE __m256i quants_##type(const uint8_t *block, size_t run) {                                    \
        (void)run;                                                                                           \
        return _mm256_or_si256(nibbles_32(block + offsetof(quant_##type, q)),                                \
                               bits_32(block + offsetof(quant_##type, high), 16));                           \
    }                                                                                                        \
    AVX2_INLINE __m256i lanes_quants_##type(const uint8_t *w, size_t run, size_t quad) {                     \
        (void)run;                                                                                           \
        return lanes_five(w + LANES_ROWS * offsetof(lanes_##type, q), quad);                                 \
    }
FIVE_BIT_QUANTS(q5_0)
FIVE_BIT_QUANTS(q5_1)

/* K-quants: what happens to the bytes of a run is the same for all of them. So one function gives the 32
 * bytes of a row (step 1), and the four bytes of eight interleaved rows, whose offsets are LANES_ROWS times
 * as far.
 */
AVX2_INLINE __m256i bytes_q2_k(const uint8_t *block, size_t step, size_t run) {
    return low_bits_of(load_256(block + step * (offsetof(quant_q2_k, q) + RUN * (run / 4))),
                       (int)(2 * (run % 4)), 3);
}
/* Bit `run` of 32 bytes, at bit `to`; both constants. */
AVX2_INLINE __m256i bit_of_bytes(const uint8_t *p, size_t run, int to) {
    const int left = to - (int)run;
    const __m256i v = load_256(p),
                  moved = left > 0 ? _mm256_slli_epi16(v, left) : _mm256_srli_epi16(v, -left);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)(1 << to)));
}
AVX2_INLINE __m256i bytes_q4_k(const uint8_t *block, size_t step, size_t run) {
    return low_bits_of(load_256(block + step * (offsetof(quant_q4_k, q) + RUN * (run / 2))), run % 2 ? 4 : 0,
                       15);
}
#define RUNS_OF_256(type)                                                                                    \
    AVX2_INLINE __m256i quants_##type(const uint8_t *block, size_t run) {                                    \
        return bytes_##type(block, 1, run);                                                                  \
    }                                                                                                        \
    AVX2_INLINE __m256i lanes_quants_##type(const uint8_t *w, size_t run, size_t quad) {                     \
        return bytes_##type(w + 4 * LANES_ROWS * quad, LANES_ROWS, run);                                     \
    }
RUNS_OF_256(q2_k)
AVX2_INLINE __m256i quants_q3_k(const uint8_t *block, size_t run) {
    const __m256i v = load_256(block + offsetof(quant_q3_k, q) + RUN * (run / 4));
    return _mm256_or_si256(low_bits_of(v, (int)(2 * (run % 4)), 3),
                           bit_of_bytes(block + offsetof(quant_q3_k, high), run, 2));
}
/* Joined: devices/lanes.h. */
AVX2_INLINE __m256i lanes_quants_q3_k(const uint8_t *w, size_t run, size_t quad) {
    const size_t half = run / 4, group = run % 4 * 2 + quad / 4, t = quad % 4;
    const uint8_t *words = w + LANES_ROWS * offsetof(lanes_q3_k, q[half]);
    if (group < 6)
        return low_bits_of(load_256(words + 4 * LANES_ROWS * (group / 2 * 4 + t)), (int)(3 * (group % 2)), 7);
    const __m256i upper = load_256(words + 4 * LANES_ROWS * (3 * t + 2 * (group % 2)));
    const __m256i lowest = load_256(words + 4 * LANES_ROWS * (3 * t + 1));
    return _mm256_or_si256(low_bits_of(upper, 5, 6), low_bits_of(lowest, (int)group, 1));
}
RUNS_OF_256(q4_k)
AVX2_INLINE __m256i quants_q5_k(const uint8_t *block, size_t run) {
    const __m256i v = load_256(block + offsetof(quant_q5_k, q) + RUN * (run / 2));
    return _mm256_or_si256(low_bits_of(v, run % 2 ? 4 : 0, 15),
                           bit_of_bytes(block + offsetof(quant_q5_k, high), run, 4));
}
AVX2_INLINE __m256i lanes_quants_q5_k(const uint8_t *w, size_t run, size_t quad) {
    return lanes_five(w + LANES_ROWS * offsetof(lanes_q5_k, q[run]), quad);
}
AVX2_INLINE __m256i quants_q6_k(const uint8_t *block, size_t run) {
    const size_t half = run / 4, g = run % 4;
    const __m256i low = load_256(block + 64 * half + RUN * (g % 2));
    const __m256i high = load_256(block + offsetof(quant_q6_k, qh) + RUN * half);
    return _mm256_or_si256(low_bits_of(low, g < 2 ? 0 : 4, 15),
                           _mm256_slli_epi16(low_bits_of(high, (int)(2 * g), 3), 4));
}
AVX2_INLINE __m256i lanes_quants_q6_k(const uint8_t *w, size_t run, size_t quad) {
    const size_t group = run % 2 * 2 + quad / 4, t = quad % 4;
    const uint8_t *words = w + LANES_ROWS * offsetof(lanes_q6_k, q[run / 2]);
    if (group < 3) return low_bits_of(load_256(words + 4 * LANES_ROWS * (4 * group + t)), 0, 0x3f);
    const uint8_t *three = words + 4 * LANES_ROWS * (3 * t);
    const __m256i upper = _mm256_or_si256(low_bits_of(load_256(three), 2, 3 << 4),
                                          low_bits_of(load_256(three + 4 * LANES_ROWS), 4, 3 << 2));
    return _mm256_or_si256(upper, low_bits_of(load_256(three + 8 * LANES_ROWS), 6, 3));
}

/* Whether values are signed without their offset: those of codebooks, and bytes. */
AVX2_INLINE bool has_signs(const fast_form f) { return f.values || f.low_bits == 8; }

/* Values of quants as signed bytes, or made unsigned by the offset. */
AVX2_INLINE __m256i signed_values(const fast_form f, __m256i quants) {
    if (!f.values && (f.offset == 0 || has_signs(f))) return quants;
    if (!f.values) return _mm256_sub_epi8(quants, _mm256_set1_epi8((char)f.offset));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(f.values)), quants);
}
AVX2_INLINE __m256i unsigned_values(const fast_form f, __m256i quants) {
    if (!has_signs(f)) return quants;
    return _mm256_add_epi8(signed_values(f, quants), _mm256_set1_epi8((char)f.offset));
}

/* ---- Scales of blocks -------------------------------------------------------------------------------- */

/* d in every lane. 2^(e - 128) for MXFP4, whose values are doubled. */
AVX2_INLINE __m256 powers(__m256i e) { /* 32-bit lanes */
    e = _mm256_min_epi32(e, _mm256_set1_epi32(254));
    const __m256i two = _mm256_set1_epi32(2),
                  shifted = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(shifted, small, _mm256_cmpgt_epi32(two, e)));
}
AVX2_INLINE __m256 block_d(const fast_form f, const uint8_t *block) {
    return f.power ? powers(_mm256_set1_epi32(block[f.d_at])) : load_half(block + f.d_at);
}
AVX2_INLINE __m256 block_dmin(const fast_form f, const uint8_t *block) {
    return load_half(block + f.dmin_at);
}

AVX2_INLINE __m128i low_bytes(__m128i v, int shift, int mask) {
    return _mm_and_si128(_mm_srli_epi16(v, shift), _mm_set1_epi8((char)mask));
}
/* Six bits from four and two, minus 32. */
AVX2_INLINE __m128i six_signed(__m128i low, __m128i high) {
    return _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32));
}

AVX2_INLINE void numbers_q2_k(__m128i *scale, __m128i *min, const uint8_t *block) {
    const __m128i v = load_128(block + offsetof(quant_q2_k, scales));
    *scale = low_bytes(v, 0, 15);
    *min = low_bytes(v, 4, 15);
}
AVX2_INLINE void numbers_q3_k(__m128i *scale, __m128i *min, const uint8_t *block) {
    int32_t top;
    memcpy(&top, block + offsetof(quant_q3_k, scales) + 8, sizeof top);
    const __m128i v = _mm_loadl_epi64((const __m128i *)(const void *)(block + offsetof(quant_q3_k, scales)));
    const __m128i low = _mm_unpacklo_epi64(low_bytes(v, 0, 15), low_bytes(v, 4, 15));
    const __m128i high = _mm_srlv_epi32(_mm_set1_epi32(top), _mm_setr_epi32(0, 2, 4, 6));
    *scale = six_signed(low, low_bytes(high, 0, 3));
    *min = _mm_setzero_si128();
}
AVX2_INLINE void numbers_q4_k(__m128i *scale, __m128i *min, const uint8_t *block) { /* and Q5_K */
    const __m128i v = q4_k_scales(block + offsetof(quant_q4_k, scales));
    *scale = _mm_shuffle_epi8(v, _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11));
    *min = _mm_shuffle_epi8(v, _mm_setr_epi8(4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15));
}
AVX2_INLINE void numbers_q6_k(__m128i *scale, __m128i *min, const uint8_t *block) {
    *scale = load_128(block + offsetof(quant_q6_k, scales));
    *min = _mm_setzero_si128();
}
/* Scales of the 8 groups in 32-bit lanes. */
AVX2_INLINE __m256i iq4_xs_scales(const uint8_t *block) {
    uint16_t top;
    memcpy(&top, block + offsetof(quant_iq4_xs, scales_high), sizeof top);
    const __m256i low = _mm256_srlv_epi32(broadcast_4(block + offsetof(quant_iq4_xs, scales_low)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high =
        _mm256_srlv_epi32(_mm256_set1_epi32(top), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i both = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                         _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    return _mm256_sub_epi32(both, _mm256_set1_epi32(32));
}
AVX2_INLINE void numbers_iq4_xs(__m128i *scale, __m128i *min, const uint8_t *block) {
    const __m256i v = iq4_xs_scales(block);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    *scale = _mm_unpacklo_epi8(bytes, bytes);
    *min = _mm_setzero_si128();
}

/* Words 2j and 2j + 1 (j a constant) of what both halves of a register hold, to all words of the lower and of
 * the upper half. */
AVX2_INLINE __m256i spread_words(__m256i v, const int j) {
    const __m128i first = _mm_set1_epi16((short)(0x0100 + 0x0404 * j));
    return _mm256_shuffle_epi8(v, _mm256_set_m128i(_mm_add_epi8(first, _mm_set1_epi8(2)), first));
}

/* ---- Neurons ----------------------------------------------------------------------------------------- */

/* Two bits of 32 outputs. */
AVX2_INLINE __m256i pairs_32(const uint8_t *p) {
    long long bits;
    memcpy(&bits, p, sizeof bits);
    const __m256i shifted = _mm256_srlv_epi64(_mm256_set1_epi64x(bits), _mm256_setr_epi64x(0, 2, 4, 6));
    return _mm256_and_si256(shifted, _mm256_set1_epi8(3));
}

/* Quants of one neuron for a run of outputs, in order. */
AVX2_INLINE __m256i neuron_quants(const fast_form f, const uint8_t *neuron, size_t run, size_t out_n) {
    const uint8_t *low = neuron + 4 * f.low_bits * run;
    const uint8_t *high = neuron + out_n / 8 * f.low_bits + 4 * f.high_bits * run;
    if (f.low_bits == 8) return load_256(low);
    const __m256i v = f.low_bits == 4 ? nibbles_32(low) : pairs_32(low);
    if (f.high_bits == 0) return v;
    if (f.high_bits == 1) return _mm256_or_si256(v, bits_32(high, 1 << f.low_bits));
    return _mm256_or_si256(v, _mm256_slli_epi16(pairs_32(high), 4));
}

AVX2_INLINE __m128i load_plane_bytes(const uint8_t *p, const bool wide) {
    return wide ? load_128(p) : _mm_loadl_epi64((const __m128i *)(const void *)p);
}

AVX2_INLINE void plane_q2_k(__m128i *scale, __m128i *min, const uint8_t *planes, size_t out_n, size_t o,
                            size_t j, const bool wide) {
    const __m128i v = load_plane_bytes(planes + j * out_n + o, wide);
    *scale = low_bytes(v, 0, 15);
    *min = low_bytes(v, 4, 15);
}
AVX2_INLINE void plane_q3_k(__m128i *scale, __m128i *min, const uint8_t *planes, size_t out_n, size_t o,
                            size_t j, const bool wide) {
    const __m128i low = load_plane_bytes(planes + j % 8 * out_n + o, wide);
    const __m128i high = load_plane_bytes(planes + (8 + j % 4) * out_n + o, wide);
    *scale = six_signed(low_bytes(low, (int)(j / 8 * 4), 15), low_bytes(high, (int)(j / 4 * 2), 3));
    *min = _mm_setzero_si128();
}
AVX2_INLINE void plane_q4_k(__m128i *scale, __m128i *min, const uint8_t *planes, size_t out_n, size_t o,
                            size_t j, const bool wide) { /* and Q5_K */
    const uint8_t *bytes = planes + 4 * out_n + o;
    if (j < 4) {
        *scale = low_bytes(load_plane_bytes(bytes + j * out_n, wide), 0, 63);
        *min = low_bytes(load_plane_bytes(bytes + (j + 4) * out_n, wide), 0, 63);
        return;
    }
    const __m128i both = load_plane_bytes(bytes + (j + 4) * out_n, wide);
    const __m128i scale_top = load_plane_bytes(bytes + (j - 4) * out_n, wide);
    const __m128i min_top = load_plane_bytes(bytes + j * out_n, wide);
    *scale = _mm_or_si128(low_bytes(both, 0, 15), low_bytes(scale_top, 2, 0x30));
    *min = _mm_or_si128(low_bytes(both, 4, 15), low_bytes(min_top, 2, 0x30));
}
AVX2_INLINE void plane_q6_k(__m128i *scale, __m128i *min, const uint8_t *planes, size_t out_n, size_t o,
                            size_t j, const bool wide) {
    *scale = load_plane_bytes(planes + j * out_n + o, wide);
    *min = _mm_setzero_si128();
}
AVX2_INLINE void plane_iq4_xs(__m128i *scale, __m128i *min, const uint8_t *planes, size_t out_n, size_t o,
                              size_t j, const bool wide) {
    const __m128i low = load_plane_bytes(planes + (4 + j / 2) * out_n + o, wide);
    const __m128i high = load_plane_bytes(planes + (2 + j / 4) * out_n + o, wide);
    *scale = six_signed(low_bytes(low, (int)(j % 2 * 4), 15), low_bytes(high, (int)(j % 4 * 2), 3));
    *min = _mm_setzero_si128();
}

/* d of 8 outputs. */
AVX2_INLINE __m256 plane_d(const fast_form f, const uint8_t *planes, size_t out_n, size_t o) {
    if (!f.power) return load_f16(planes + f.d_plane * out_n + 2 * o);
    return powers(_mm256_cvtepu8_epi32(load_plane_bytes(planes + o, false)));
}
AVX2_INLINE __m256 plane_dmin(const fast_form f, const uint8_t *planes, size_t out_n, size_t o) {
    return load_f16(planes + f.dmin_plane * out_n + 2 * o);
}

/* What makes products of quants and scales unsigned: of Q3_K, from 31 * -4 to -32 * -4. Those of Q2_K are. */
enum { PRODUCT_OFFSET = 124 };

/* ---- The forms --------------------------------------------------------------------------------------- */

#define FAST_32(type, ...)                                                                                   \
    ((fast_form){.block_bytes = sizeof(quant_##type),                                                        \
                 .run_n = 1,                                                                                 \
                 .part_n = 32,                                                                               \
                 .quants = quants_##type,                                                                    \
                 .lanes_quants = lanes_quants_##type,                                                        \
                 __VA_ARGS__})
#define FAST_256(type, layout, ...)                                                                          \
    ((fast_form){.block_bytes = sizeof(quant_##type),                                                        \
                 .run_n = 8,                                                                                 \
                 .quants = quants_##type,                                                                    \
                 .lanes_quants = lanes_quants_##type,                                                        \
                 .numbers = numbers_##layout,                                                                \
                 .plane = plane_##layout,                                                                    \
                 .d_at = offsetof(quant_##type, d),                                                          \
                 __VA_ARGS__})
#define WITH_M .has_min = true, .dmin_at = 2, .dmin_plane = 2, .header_bytes = 4

#define FAST_Q8_0 FAST_32(q8_0, .low_bits = 8, .offset = 128, .header_bytes = 2)
#define FAST_Q4_0 FAST_32(q4_0, .low_bits = 4, .offset = 8, .header_bytes = 2)
#define FAST_Q4_1 FAST_32(q4_1, .low_bits = 4, WITH_M)
#define FAST_Q5_0 FAST_32(q5_0, .low_bits = 4, .high_bits = 1, .offset = 16, .header_bytes = 2)
#define FAST_Q5_1 FAST_32(q5_1, .low_bits = 4, .high_bits = 1, WITH_M)
#define FAST_IQ4_NL                                                                                          \
    FAST_32(iq4_nl, .low_bits = 4, .values = quant_iq4_values, .offset = 128, .header_bytes = 2)
#define FAST_MXFP4                                                                                           \
    FAST_32(mxfp4, .low_bits = 4, .values = quant_mxfp4_values, .offset = 12, .power = true,                 \
            .header_bytes = 1)
#define FAST_Q2_K                                                                                            \
    FAST_256(q2_k, q2_k, .low_bits = 2, .part_n = 16, .has_min = true,                                       \
             .dmin_at = offsetof(quant_q2_k, dmin), .d_plane = 16, .dmin_plane = 18, .header_bytes = 20)
#define FAST_Q3_K                                                                                            \
    FAST_256(q3_k, q3_k, .low_bits = 2, .high_bits = 1, .offset = 4, .part_n = 16, .d_plane = 12,            \
             .header_bytes = 14, .front_at = offsetof(quant_q3_k, scales))
#define FAST_Q4_K                                                                                            \
    FAST_256(q4_k, q4_k, .low_bits = 4, .part_n = 32, .has_min = true, .dmin_at = 2, .dmin_plane = 2,        \
             .header_bytes = 16)
#define FAST_Q5_K                                                                                            \
    FAST_256(q5_k, q4_k, .low_bits = 4, .high_bits = 1, .part_n = 32, .has_min = true, .dmin_at = 2,         \
             .dmin_plane = 2, .header_bytes = 16)
#define FAST_Q6_K                                                                                            \
    FAST_256(q6_k, q6_k, .low_bits = 4, .high_bits = 2, .offset = 32, .part_n = 16, .d_plane = 16,           \
             .header_bytes = 18, .front_at = offsetof(quant_q6_k, scales))
#define FAST_IQ4_XS                                                                                          \
    FAST_256(iq4_xs, iq4_xs, .low_bits = 4, .values = quant_iq4_values, .offset = 128, .part_n = 32,         \
             .header_bytes = 8)

#endif
