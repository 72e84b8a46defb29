/* blocks.c - where each type keeps its quants and scales (layouts: devices/quant.h). */
#include "devices/blocks.h"

#include <stddef.h>
#include <string.h>

#include "devices/quant.h"

/* ---- Forms ------------------------------------------------------------------------------------------- */

#define TWELVE(at)                                                                                           \
    at, (at) + 1, (at) + 2, (at) + 3, (at) + 4, (at) + 5, (at) + 6, (at) + 7, (at) + 8, (at) + 9, (at) + 10, \
        (at) + 11
#define SIXTEEN(at) TWELVE(at), (at) + 12, (at) + 13, (at) + 14, (at) + 15
#define ONES_12     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1

#define OF_32(block, ...)                                                                                    \
    { .block_n = 32, .block_bytes = sizeof(block), .part_n = 32, __VA_ARGS__ }
#define OF_256(block, parts, ...)                                                                            \
    { .block_n = 256, .block_bytes = sizeof(block), .part_n = 256 / (parts), __VA_ARGS__ }
#define NIBBLES    .low_bits = 4
#define FIVE_BITS  .low_bits = 4, .high_bits = 1
#define ONE_HALF   .field_n = 1, .field_bytes = {2}
#define TWO_HALVES .has_min = true, .field_n = 2, .field_at = {0, 2}, .field_bytes = {2, 2}
#define HALVES_12(scales_at)                                                                                 \
    .has_min = true, .field_n = 14, .field_at = {0, 2, TWELVE(scales_at)}, .field_bytes = {2, 2, ONES_12}

static const blocks_form form_q8_0 = OF_32(quant_q8_0, .low_bits = 8, ONE_HALF);
static const blocks_form form_q4_0 = OF_32(quant_q4_0, NIBBLES, .offset = 8, ONE_HALF);
static const blocks_form form_q4_1 = OF_32(quant_q4_1, NIBBLES, TWO_HALVES);
static const blocks_form form_q5_0 = OF_32(quant_q5_0, FIVE_BITS, .offset = 16, ONE_HALF);
static const blocks_form form_q5_1 = OF_32(quant_q5_1, FIVE_BITS, TWO_HALVES);
static const blocks_form form_iq4_nl = OF_32(quant_iq4_nl, NIBBLES, .values = quant_iq4_values, ONE_HALF);
static const blocks_form form_mxfp4 =
    OF_32(quant_mxfp4, NIBBLES, .values = quant_mxfp4_values, .field_n = 1, .field_bytes = {1});
static const blocks_form form_q2_k =
    OF_256(quant_q2_k, 16, .low_bits = 2, .has_min = true, .field_n = 18,
           .field_at = {SIXTEEN(0), offsetof(quant_q2_k, d), offsetof(quant_q2_k, dmin)},
           .field_bytes = {ONES_12, 1, 1, 1, 1, 2, 2});
static const blocks_form form_q3_k = OF_256(
    quant_q3_k, 16, .low_bits = 2, .high_bits = 1, .offset = 4, .field_n = 13,
    .field_at = {TWELVE(offsetof(quant_q3_k, scales)), offsetof(quant_q3_k, d)}, .field_bytes = {ONES_12, 2});
static const blocks_form form_q4_k = OF_256(quant_q4_k, 8, NIBBLES, HALVES_12(offsetof(quant_q4_k, scales)));
static const blocks_form form_q5_k =
    OF_256(quant_q5_k, 8, FIVE_BITS, HALVES_12(offsetof(quant_q5_k, scales)));
static const blocks_form form_q6_k =
    OF_256(quant_q6_k, 16, .low_bits = 4, .high_bits = 2, .offset = 32, .field_n = 17,
           .field_at = {SIXTEEN(offsetof(quant_q6_k, scales)), offsetof(quant_q6_k, d)},
           .field_bytes = {ONES_12, 1, 1, 1, 1, 2});
static const blocks_form form_iq4_xs =
    OF_256(quant_iq4_xs, 8, NIBBLES, .values = quant_iq4_values, .field_n = 7,
           .field_at = {0, 2, 3, 4, 5, 6, 7}, .field_bytes = {2, 1, 1, 1, 1, 1, 1});

const blocks_form *blocks_form_of(gguf_type type) {
    switch ((int)type) {
    case GGUF_Q8_0: return &form_q8_0;
    case GGUF_Q4_0: return &form_q4_0;
    case GGUF_Q4_1: return &form_q4_1;
    case GGUF_Q5_0: return &form_q5_0;
    case GGUF_Q5_1: return &form_q5_1;
    case GGUF_IQ4_NL: return &form_iq4_nl;
    case GGUF_MXFP4: return &form_mxfp4;
    case GGUF_Q2_K: return &form_q2_k;
    case GGUF_Q3_K: return &form_q3_k;
    case GGUF_Q4_K: return &form_q4_k;
    case GGUF_Q5_K: return &form_q5_k;
    case GGUF_Q6_K: return &form_q6_k;
    case GGUF_IQ4_XS: return &form_iq4_xs;
    default: return NULL;
    }
}

/* ---- Quants ------------------------------------------------------------------------------------------
 * A type's bits of quants stand in fields: `run` weights have their bits in the same bits of `run`
 * neighbouring bytes, the next `run` weights in the bits above, until the bytes are full. Constants make
 * loops that compilers turn into vectors. */

#define INLINE static inline __attribute__((always_inline))

/* Bits `shift` and up of n quants out of a field or, `join`, into it. The lowest bits come first. */
INLINE void field(uint8_t *q, uint8_t *at, const uint32_t n, const uint32_t run, const uint32_t bits,
                  const uint32_t shift, const bool join) {
    const uint8_t mask = (uint8_t)((1u << bits) - 1);
    if (join) memset(at, 0, n * bits / 8);
    for (uint32_t i = 0; i < n; at += run)
        for (uint32_t place = 0; place < 8; place += bits, i += run)
            for (uint32_t l = 0; l < run; l++) {
                if (join)
                    at[l] |= (uint8_t)((q[i + l] >> shift & mask) << place);
                else
                    q[i + l] = (uint8_t)((shift ? q[i + l] : 0) | (at[l] >> place & mask) << shift);
            }
}

/* Bit 4 of 32 quants as 32 bits. */
INLINE void bit_field(uint8_t *q, uint8_t *at, const bool join) {
    if (join) memset(at, 0, 4);
    for (uint32_t i = 0; i < 32; i++) {
        if (join)
            at[i / 8] |= (uint8_t)(q[i] >> 4 << i % 8);
        else
            q[i] |= (uint8_t)((at[i / 8] >> i % 8 & 1) << 4);
    }
}

INLINE void move_quants(uint8_t *q, uint8_t *b, gguf_type type, const bool join) {
    switch ((int)type) {
    case GGUF_Q8_0: field(q, b + offsetof(quant_q8_0, q), 32, 32, 8, 0, join); break;
    case GGUF_Q4_0: field(q, b + offsetof(quant_q4_0, q), 32, 16, 4, 0, join); break;
    case GGUF_Q4_1: field(q, b + offsetof(quant_q4_1, q), 32, 16, 4, 0, join); break;
    case GGUF_Q5_0:
        field(q, b + offsetof(quant_q5_0, q), 32, 16, 4, 0, join);
        bit_field(q, b + offsetof(quant_q5_0, high), join);
        break;
    case GGUF_Q5_1:
        field(q, b + offsetof(quant_q5_1, q), 32, 16, 4, 0, join);
        bit_field(q, b + offsetof(quant_q5_1, high), join);
        break;
    case GGUF_IQ4_NL: field(q, b + offsetof(quant_iq4_nl, q), 32, 16, 4, 0, join); break;
    case GGUF_MXFP4: field(q, b + offsetof(quant_mxfp4, q), 32, 16, 4, 0, join); break;
    case GGUF_Q2_K: field(q, b + offsetof(quant_q2_k, q), 256, 32, 2, 0, join); break;
    case GGUF_Q3_K:
        field(q, b + offsetof(quant_q3_k, q), 256, 32, 2, 0, join);
        field(q, b + offsetof(quant_q3_k, high), 256, 32, 1, 2, join);
        break;
    case GGUF_Q4_K: field(q, b + offsetof(quant_q4_k, q), 256, 32, 4, 0, join); break;
    case GGUF_Q5_K:
        field(q, b + offsetof(quant_q5_k, q), 256, 32, 4, 0, join);
        field(q, b + offsetof(quant_q5_k, high), 256, 32, 1, 4, join);
        break;
    case GGUF_Q6_K:
        field(q, b + offsetof(quant_q6_k, ql), 256, 64, 4, 0, join);
        field(q, b + offsetof(quant_q6_k, qh), 256, 32, 2, 4, join);
        break;
    default: field(q, b + offsetof(quant_iq4_xs, q), 256, 16, 4, 0, join); /* IQ4_XS */
    }
}

void blocks_split(uint8_t *q, const uint8_t *block, gguf_type type) {
    move_quants(q, (uint8_t *)(uintptr_t)block, type, false);
}
void blocks_join(uint8_t *block, const uint8_t *q, gguf_type type) {
    move_quants((uint8_t *)(uintptr_t)q, block, type, true);
}

/* ---- Scales ------------------------------------------------------------------------------------------ */

blocks_part blocks_part_of(const uint8_t *block, gguf_type type, uint32_t j) {
    uint8_t scale, min;
    const uint8_t *s;
    switch ((int)type) {
    case GGUF_Q2_K: s = block + offsetof(quant_q2_k, scales); return (blocks_part){s[j] & 15, s[j] >> 4};
    case GGUF_Q3_K:
        s = block + offsetof(quant_q3_k, scales);
        return (blocks_part){((s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32, 0};
    case GGUF_Q4_K:
    case GGUF_Q5_K:
        _Static_assert(offsetof(quant_q4_k, scales) == offsetof(quant_q5_k, scales), "the same header");
        quant_q4_k_scale(block + offsetof(quant_q4_k, scales), (int)j, &scale, &min);
        return (blocks_part){scale, min};
    case GGUF_Q6_K: return (blocks_part){(int8_t)block[offsetof(quant_q6_k, scales) + j], 0};
    case GGUF_IQ4_XS:
        s = block + offsetof(quant_iq4_xs, scales_low);
        scale = block[offsetof(quant_iq4_xs, scales_high) + j / 4];
        return (blocks_part){((s[j / 2] >> j % 2 * 4 & 15) | (scale >> j % 4 * 2 & 3) << 4) - 32, 0};
    case GGUF_Q4_1:
    case GGUF_Q5_1: return (blocks_part){1, -1}; /* they add their m */
    default: return (blocks_part){1, 0};
    }
}

/* The fields of the parts' numbers must be zero. */
static void set_part(uint8_t *block, gguf_type type, uint32_t j, blocks_part p) {
    uint8_t *s;
    const uint32_t biased = (uint32_t)(p.scale + 32);
    switch ((int)type) {
    case GGUF_Q2_K: block[offsetof(quant_q2_k, scales) + j] = (uint8_t)(p.scale | p.min << 4); break;
    case GGUF_Q3_K:
        s = block + offsetof(quant_q3_k, scales);
        s[j % 8] |= (uint8_t)((biased & 15) << j / 8 * 4);
        s[8 + j % 4] |= (uint8_t)(biased >> 4 << j / 4 * 2);
        break;
    case GGUF_Q4_K:
    case GGUF_Q5_K:
        s = block + offsetof(quant_q4_k, scales);
        quant_q4_k_set_scale(s, (int)j, (uint8_t)p.scale, (uint8_t)p.min);
        break;
    case GGUF_Q6_K: block[offsetof(quant_q6_k, scales) + j] = (uint8_t)p.scale; break;
    case GGUF_IQ4_XS:
        block[offsetof(quant_iq4_xs, scales_low) + j / 2] |= (uint8_t)((biased & 15) << j % 2 * 4);
        block[offsetof(quant_iq4_xs, scales_high) + j / 4] |= (uint8_t)(biased >> 4 << j % 4 * 2);
        break;
    default: break;
    }
}

void blocks_set_parts(uint8_t *block, gguf_type type, const blocks_part *part) {
    const blocks_form *f = blocks_form_of(type);
    for (uint32_t i = 0; i < f->field_n; i++)
        if (f->field_bytes[i] == 1) block[f->field_at[i]] = 0;
    for (uint32_t j = 0; j < f->block_n / f->part_n; j++) set_part(block, type, j, part[j]);
}

void blocks_permute_parts(uint8_t *block, gguf_type type, const uint8_t *part) {
    const blocks_form *f = blocks_form_of(type);
    blocks_part p[BLOCKS_PARTS_MAX];
    if (f->block_n == f->part_n) return;
    for (uint32_t j = 0; j < f->block_n / f->part_n; j++) p[j] = blocks_part_of(block, type, part[j]);
    blocks_set_parts(block, type, p);
}
