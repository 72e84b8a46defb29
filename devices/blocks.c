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
 * A type's bits of quants in two fields: `run` weights have their lower bits in the same bits of `run`
 * neighbouring bytes, the next `run` weights in the bits above, until the bytes are full. */

typedef struct field {
    uint32_t at, run, bits, shift; /* shift: of these bits in the quant */
} field;

static uint32_t fields_of(field f[2], gguf_type type) {
    switch ((int)type) {
    case GGUF_Q8_0: f[0] = (field){offsetof(quant_q8_0, q), 32, 8, 0}; return 1;
    case GGUF_Q4_0: f[0] = (field){offsetof(quant_q4_0, q), 16, 4, 0}; return 1;
    case GGUF_Q4_1: f[0] = (field){offsetof(quant_q4_1, q), 16, 4, 0}; return 1;
    case GGUF_Q5_0: f[0] = (field){offsetof(quant_q5_0, q), 16, 4, 0}; return 1;
    case GGUF_Q5_1: f[0] = (field){offsetof(quant_q5_1, q), 16, 4, 0}; return 1;
    case GGUF_IQ4_NL: f[0] = (field){offsetof(quant_iq4_nl, q), 16, 4, 0}; return 1;
    case GGUF_MXFP4: f[0] = (field){offsetof(quant_mxfp4, q), 16, 4, 0}; return 1;
    case GGUF_Q2_K: f[0] = (field){offsetof(quant_q2_k, q), 32, 2, 0}; return 1;
    case GGUF_Q3_K:
        f[0] = (field){offsetof(quant_q3_k, q), 32, 2, 0};
        f[1] = (field){offsetof(quant_q3_k, high), 32, 1, 2};
        return 2;
    case GGUF_Q4_K: f[0] = (field){offsetof(quant_q4_k, q), 32, 4, 0}; return 1;
    case GGUF_Q5_K:
        f[0] = (field){offsetof(quant_q5_k, q), 32, 4, 0};
        f[1] = (field){offsetof(quant_q5_k, high), 32, 1, 4};
        return 2;
    case GGUF_Q6_K:
        f[0] = (field){offsetof(quant_q6_k, ql), 64, 4, 0};
        f[1] = (field){offsetof(quant_q6_k, qh), 32, 2, 4};
        return 2;
    default: f[0] = (field){offsetof(quant_iq4_xs, q), 16, 4, 0}; return 1; /* IQ4_XS */
    }
}

/* Where the single bits of Q5_0 and Q5_1 stand: bit j % 8 of byte j / 8. 0: of other types. */
static uint32_t bits_at(gguf_type type) {
    if (type == GGUF_Q5_0) return offsetof(quant_q5_0, high);
    return type == GGUF_Q5_1 ? offsetof(quant_q5_1, high) : 0;
}

void blocks_split(uint8_t *q, const uint8_t *block, gguf_type type) {
    const uint32_t n = blocks_form_of(type)->block_n, bits = bits_at(type);
    field f[2];
    const uint32_t field_n = fields_of(f, type);
    memset(q, 0, n);
    for (uint32_t j = 0; j < field_n; j++) {
        const uint8_t *from = block + f[j].at, mask = (uint8_t)((1u << f[j].bits) - 1);
        for (uint32_t i = 0; i < n; from += f[j].run)
            for (uint32_t shift = 0; shift < 8; shift += f[j].bits, i += f[j].run)
                for (uint32_t l = 0; l < f[j].run; l++)
                    q[i + l] |= (uint8_t)((from[l] >> shift & mask) << f[j].shift);
    }
    for (uint32_t i = 0; bits && i < 32; i++) q[i] |= (uint8_t)((block[bits + i / 8] >> i % 8 & 1) << 4);
}

void blocks_join(uint8_t *block, const uint8_t *q, gguf_type type) {
    const uint32_t n = blocks_form_of(type)->block_n, bits = bits_at(type);
    field f[2];
    const uint32_t field_n = fields_of(f, type);
    for (uint32_t j = 0; j < field_n; j++) {
        uint8_t *to = block + f[j].at;
        const uint8_t mask = (uint8_t)((1u << f[j].bits) - 1);
        memset(to, 0, n * f[j].bits / 8);
        for (uint32_t i = 0; i < n; to += f[j].run)
            for (uint32_t shift = 0; shift < 8; shift += f[j].bits, i += f[j].run)
                for (uint32_t l = 0; l < f[j].run; l++)
                    to[l] |= (uint8_t)((q[i + l] >> f[j].shift & mask) << shift);
    }
    if (!bits) return;
    memset(block + bits, 0, 4);
    for (uint32_t i = 0; i < 32; i++) block[bits + i / 8] |= (uint8_t)(q[i] >> 4 << i % 8);
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

void blocks_permute_parts(uint8_t *block, gguf_type type, const uint8_t *part) {
    const blocks_form *f = blocks_form_of(type);
    blocks_part p[BLOCKS_PARTS_MAX];
    if (f->block_n == f->part_n) return;
    for (uint32_t j = 0; j < f->block_n / f->part_n; j++) p[j] = blocks_part_of(block, type, part[j]);
    for (uint32_t i = 0; i < f->field_n; i++)
        if (f->field_bytes[i] == 1) block[f->field_at[i]] = 0;
    for (uint32_t j = 0; j < f->block_n / f->part_n; j++) set_part(block, type, j, p[j]);
}
