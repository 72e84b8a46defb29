/* lanes.h - rows of weights interleaved by 16, so that a register holds the same word of 16 rows, one in each
 * lane: products then need no sums across lanes, and no unpacking of what stands beside a row's quants.
 *
 * The bytes are those of the GGUF rows in another order. Of every 16 rows, together as long as before, each
 * field of a block (words of 4 bytes of quants and of what divides into such words, else a scale of 2 or 1
 * bytes) that stands at offset o of a row stands, for all 16 rows one behind the other, at 16 * o. Blocks of
 * Q3_K, Q5_0, Q5_1, Q5_K and Q6_K, whose files keep the bits of a quant apart, are joined before that: they
 * become lanes_q3_k and so on.
 */
#ifndef HOTSET_LANES_H
#define HOTSET_LANES_H

#include "profiles/gguf.h"

enum { LANES_ROWS = 16 };

/* A block of Q3_K with the bits of a quant side by side, and the scales in front of what they scale. Numbers
 * are those of quant_q3_k.
 *
 * q[h] are 12 words. The four bytes of a word hold the same bits of four neighbouring weights. Of the eight
 * groups of 16 weights of half h, with t the number of four weights in their group: bits 0-2 of word 4p + t
 * are group 2p and bits 3-5 group 2p + 1, p from 0 to 2; bits 6-7 of words 3t and 3t + 2 are the upper bits
 * of groups 6 and 7, bits 6 and 7 of word 3t + 1 their lowest ones. */
typedef struct lanes_q3_k {
    uint8_t scales[12], q[2][48];
    uint16_t d;
} lanes_q3_k;
_Static_assert(sizeof(lanes_q3_k) == 110, "as long as in GGUF");

/* The same of Q6_K, by quant_q6_k. q[i] are 12 words of groups 4i to 4i + 3, with j from 0 to 2 and t the
 * number of four weights in their group: bits 0-5 of word 4j + t are group 4i + j; bits 6-7 of words 3t, 3t +
 * 1 and 3t + 2 are bits 4-5, 2-3 and 0-1 of group 4i + 3. */
typedef struct lanes_q6_k {
    int8_t scales[16];
    uint8_t q[4][48];
    uint16_t d;
} lanes_q6_k;
_Static_assert(sizeof(lanes_q6_k) == 210, "as long as in GGUF");

/* 32 quants of five bits: five words, again of four bytes that hold the same bits of four neighbouring
 * weights. Bits 0-4 of word t are weights 4t to 4t + 3. Bits 5-7 of words 0, 1 and 2 are bits 2-4 of weights
 * 20 to 23, 24 to 27 and 28 to 31; bits 6-7 of words 3 and 4 are bits 0-1 of the first and the second of
 * these, bits 5 of words 3 and 4 are bits 1 and 0 of the third. */
typedef struct lanes_five_bits {
    uint8_t word[5][4];
} lanes_five_bits;

typedef struct lanes_q5_0 {
    uint16_t d;
    lanes_five_bits q;
} lanes_q5_0;
typedef struct lanes_q5_1 {
    uint16_t d, m;
    lanes_five_bits q;
} lanes_q5_1;
typedef struct lanes_q5_k { /* q[j] is group j */
    uint16_t d, dmin;
    uint8_t scales[12];
    lanes_five_bits q[8];
} lanes_q5_k;
_Static_assert(sizeof(lanes_q5_0) == 22 && sizeof(lanes_q5_1) == 24 && sizeof(lanes_q5_k) == 176,
               "as long as in GGUF");

/* Types: all quantised ones that Hotset multiplies with (devices/blocks.h). */

/* Interleaves LANES_ROWS rows of in_n weights, row_bytes apart; `to` receives LANES_ROWS * row_bytes bytes.
 */
void lanes_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n);
/* Weights [from, from + n), whole blocks, of row number `lane` of those that stand at `stored`, as in GGUF.
 */
void lanes_restore_part(uint8_t *blocks, const uint8_t *stored, gguf_type type, uint32_t lane, uint32_t from,
                        uint32_t n);

#endif
