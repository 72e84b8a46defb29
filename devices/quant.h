/* quant.h - blocks of quantised weights as they stand in GGUF files, shared by C and GPU code.
 *
 * Values (facts of ggml's format): `half` is IEEE binary16 stored as uint16_t. Blocks may lie at odd
 * addresses: read them by memcpy or through these packed-by-nature structs only after a copy.
 */
#ifndef HOTSET_QUANT_H
#define HOTSET_QUANT_H

#include <stdint.h>

typedef struct quant_q4_0 { /* 32 weights d * (q - 8); low nibble j is weight j, high nibble is weight j + 16
                             */
    uint16_t d;
    uint8_t q[16];
} quant_q4_0;

typedef struct quant_q4_1 { /* 32 weights d * q + m, nibbles as in Q4_0 */
    uint16_t d, m;
    uint8_t q[16];
} quant_q4_1;

typedef struct quant_q5_0 { /* 32 weights d * (q - 16): nibbles as in Q4_0, bit 4 of weight j is bit j of high
                             */
    uint16_t d;
    uint8_t high[4];
    uint8_t q[16];
} quant_q5_0;

typedef struct quant_q5_1 { /* 32 weights d * q + m, quants as in Q5_0 */
    uint16_t d, m;
    uint8_t high[4];
    uint8_t q[16];
} quant_q5_1;

typedef struct quant_iq4_nl { /* 32 weights d * quant_iq4_values[q], nibbles as in Q4_0 */
    uint16_t d;
    uint8_t q[16];
} quant_iq4_nl;

/* 32 weights 2^(e - 127) * quant_mxfp4_values[q] / 2, nibbles as in Q4_0 (OCP Microscaling formats, 2023).
 * Its e = 255, no number there, counts as 254 here: the largest scale. */
typedef struct quant_mxfp4 {
    uint8_t e;
    uint8_t q[16];
} quant_mxfp4;

typedef struct quant_q8_0 { /* 32 weights d * q */
    uint16_t d;
    int8_t q[32];
} quant_q8_0;

/* 256 weights d * sc * q - dmin * m in 8 groups of 32. scales: 6-bit sc and m of the groups: for group j < 4
 * sc = s[j] & 63, m = s[j + 4] & 63; for j >= 4 sc = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4 and
 * m = (s[j + 4] >> 4) | (s[j] >> 6) << 4. The 32-byte run j holds group 2j (low nibbles) and 2j + 1 (high).
 */
typedef struct quant_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t q[128];
} quant_q4_k;

/* 256 weights d * sc * (q - 32) in 16 groups of 16. Half h (128 weights) uses ql[64h..], qh[32h..]: for l <
 * 32 weights l, l+32, l+64, l+96 take ql[l] low, ql[l+32] low, ql[l] high, ql[l+32] high nibble and bits 0-1,
 * 2-3, 4-5, 6-7 of qh[l] as bits 4-5. */
typedef struct quant_q6_k {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
} quant_q6_k;

/* 256 weights d * sc * q - dmin * m in 16 groups of 16: sc and m are the low and the high nibble of a group's
 * byte. Half h (128 weights) uses q[32h..]: weights l, l + 32, l + 64, l + 96 take bits 0-1, 2-3, 4-5, 6-7.
 */
typedef struct quant_q2_k {
    uint8_t scales[16], q[64];
    uint16_t d, dmin;
} quant_q2_k;

/* 256 weights d * sc * (q - 4) in 16 groups of 16; bits 0-1 of a quant as in Q2_K, bit 2 of weight 32i + l is
 * bit i of high[l]. sc + 32 of group j: bits 0-3 are nibble j / 8 of scales[j % 8], bits 4-5 are bits
 * 2 * (j / 4) and up of scales[8 + j % 4]. */
typedef struct quant_q3_k {
    uint8_t high[32], q[64], scales[12];
    uint16_t d;
} quant_q3_k;

typedef struct quant_q5_k { /* as Q4_K; bit 4 of weight l of group j is bit j of high[l] */
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t q[128];
} quant_q5_k;

/* 256 weights d * sc * quant_iq4_values[q] in 8 groups of 32, each 16 bytes of q with nibbles as in Q4_0.
 * sc + 32 of group j: bits 0-3 are nibble j % 2 of scales_low[j / 2], bits 4-5 are bits 2 * (j % 4) and up of
 * scales_high[j / 4]. */
typedef struct quant_iq4_xs {
    uint16_t d;
    uint8_t scales_high[2], scales_low[4];
    uint8_t q[128];
} quant_iq4_xs;

static const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                            1,    13,   25,  38,  53,  69,  89,  113};
/* Twice the values of E2M1. */
static const int8_t quant_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* The 6-bit numbers of group j of Q4_K and Q5_K. set: the fields must be zero. */
static inline void quant_q4_k_scale(const uint8_t s[12], int j, uint8_t *scale, uint8_t *min) {
    *scale = (uint8_t)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4);
    *min = (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4);
}
static inline void quant_q4_k_set_scale(uint8_t s[12], int j, uint8_t scale, uint8_t min) {
    if (j < 4) {
        s[j] |= scale;
        s[j + 4] |= min;
    } else {
        s[j + 4] |= (uint8_t)((scale & 15) | min << 4);
        s[j - 4] |= (uint8_t)(scale >> 4 << 6);
        s[j] |= (uint8_t)(min >> 4 << 6);
    }
}

_Static_assert(sizeof(quant_q4_0) == 18, "Q4_0 block");
_Static_assert(sizeof(quant_q8_0) == 34, "Q8_0 block");
_Static_assert(sizeof(quant_q4_1) == 20, "Q4_1 block");
_Static_assert(sizeof(quant_q5_0) == 22, "Q5_0 block");
_Static_assert(sizeof(quant_q5_1) == 24, "Q5_1 block");
_Static_assert(sizeof(quant_iq4_nl) == 18, "IQ4_NL block");
_Static_assert(sizeof(quant_mxfp4) == 17, "MXFP4 block");
_Static_assert(sizeof(quant_q2_k) == 84, "Q2_K block");
_Static_assert(sizeof(quant_q3_k) == 110, "Q3_K block");
_Static_assert(sizeof(quant_q4_k) == 144, "Q4_K block");
_Static_assert(sizeof(quant_q5_k) == 176, "Q5_K block");
_Static_assert(sizeof(quant_iq4_xs) == 136, "IQ4_XS block");
_Static_assert(sizeof(quant_q6_k) == 210, "Q6_K block");

#endif
