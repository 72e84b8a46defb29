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

/* The 6-bit numbers of group j. set: the fields must be zero. */
static inline void quant_q4_k_scale(const quant_q4_k *b, int j, uint8_t *scale, uint8_t *min) {
    const uint8_t *s = b->scales;
    *scale = (uint8_t)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4);
    *min = (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4);
}
static inline void quant_q4_k_set_scale(quant_q4_k *b, int j, uint8_t scale, uint8_t min) {
    uint8_t *s = b->scales;
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
_Static_assert(sizeof(quant_q4_k) == 144, "Q4_K block");
_Static_assert(sizeof(quant_q6_k) == 210, "Q6_K block");

#endif
