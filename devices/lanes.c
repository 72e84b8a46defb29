/* lanes.c - rows of weights interleaved by 16, and back. */
#include "devices/lanes.h"

#include <string.h>

#include "devices/blocks.h"
#include "devices/quant.h"

/* The lowest bits of four bytes, which words hold side by side. */
enum { ONE = 0x01010101, THREE = 0x03030303, FIFTEEN = 0x0f0f0f0f, SIX_BITS = 0x3f3f3f3f };

/* ---- Q3_K: blocks and their joined form ------------------------------------------------------------- */

/* Four quants, a byte each: bits 2p and 2p + 1 of `low` below bit `at` of `high`. */
static inline uint32_t quad(uint32_t low, uint32_t high, int p, int at) {
    return (low >> 2 * p & THREE) | (high >> at & ONE) << 2;
}

/* Half h, from its words of lower bits and the block's of upper ones: words t of both hold those of groups
 * 2p, words 4 + t those of groups 2p + 1. */
static inline void join_half(uint32_t joined[12], const uint32_t low[8], const uint32_t high[8],
                             const int h) {
    for (int p = 0; p < 3; p++)
        for (int t = 0; t < 4; t++)
            joined[4 * p + t] =
                quad(low[t], high[t], p, 4 * h + p) | quad(low[4 + t], high[4 + t], p, 4 * h + p) << 3;
    for (int t = 0; t < 4; t++) {
        const uint32_t q6 = quad(low[t], high[t], 3, 4 * h + 3),
                       q7 = quad(low[4 + t], high[4 + t], 3, 4 * h + 3);
        joined[3 * t] |= (q6 >> 1 & THREE) << 6;
        joined[3 * t + 1] |= (q6 & ONE) << 6 | (q7 & ONE) << 7;
        joined[3 * t + 2] |= (q7 >> 1 & THREE) << 6;
    }
}

static void join_q3_k(uint8_t *to, const uint8_t *block) {
    uint32_t word[2][12], low[2][8], high[8];
    quant_q3_k b;
    lanes_q3_k joined;
    memcpy(&b, block, sizeof b);
    memcpy(low, b.q, sizeof low);
    memcpy(high, b.high, sizeof high);
    join_half(word[0], low[0], high, 0);
    join_half(word[1], low[1], high, 1);
    memcpy(joined.scales, b.scales, sizeof b.scales);
    memcpy(joined.q, word, sizeof word);
    joined.d = b.d;
    memcpy(to, &joined, sizeof joined);
}

/* Adds four quants to words as quad() takes them. */
static inline void put_quad(uint32_t *low, uint32_t *high, uint32_t q, int p, int at) {
    *low |= (q & THREE) << 2 * p;
    *high |= (q >> 2 & ONE) << at;
}

static void part_half(uint32_t low[8], uint32_t high[8], const uint32_t joined[12], const int h) {
    for (int i = 0; i < 12; i++) {
        const int p = i / 4, t = i % 4;
        put_quad(&low[t], &high[t], joined[i], p, 4 * h + p);
        put_quad(&low[4 + t], &high[4 + t], joined[i] >> 3, p, 4 * h + p);
    }
    for (int t = 0; t < 4; t++) {
        const uint32_t *three = joined + 3 * t;
        put_quad(&low[t], &high[t], (three[0] >> 6 & THREE) << 1 | (three[1] >> 6 & ONE), 3, 4 * h + 3);
        put_quad(&low[4 + t], &high[4 + t], (three[2] >> 6 & THREE) << 1 | (three[1] >> 7 & ONE), 3,
                 4 * h + 3);
    }
}

static void part_q3_k(uint8_t *block, const uint8_t *from) {
    uint32_t word[2][12], low[2][8] = {0}, high[8] = {0};
    quant_q3_k b;
    lanes_q3_k joined;
    memcpy(&joined, from, sizeof joined);
    memcpy(word, joined.q, sizeof word);
    for (int h = 0; h < 2; h++) part_half(low[h], high, word[h], h);
    memcpy(b.high, high, sizeof high);
    memcpy(b.q, low, sizeof low);
    memcpy(b.scales, joined.scales, sizeof b.scales);
    b.d = joined.d;
    memcpy(block, &b, sizeof b);
}

/* ---- Q6_K ------------------------------------------------------------------------------------------- */

/* Where the block has four quants of set i, group g of it: words of nibbles and of pairs of bits, and the
 * lowest bits of these. */
typedef struct place_q6_k {
    uint32_t nibbles, pairs;
    int nibble_bit, pair_bit;
} place_q6_k;
static inline place_q6_k place_of(uint32_t i, uint32_t g, uint32_t t) {
    const uint32_t half = i / 2, run = i % 2 * 2 + g / 2, at = g % 2 * 4 + t; /* runs of 32 */
    return (place_q6_k){16 * half + run % 2 * 8 + at, 8 * half + at, (int)(run / 2 * 4), (int)(2 * run)};
}

static inline uint32_t quad_q6_k(const uint32_t low[32], const uint32_t high[16], uint32_t i, uint32_t g,
                                 uint32_t t) {
    const place_q6_k p = place_of(i, g, t);
    return (low[p.nibbles] >> p.nibble_bit & FIFTEEN) | (high[p.pairs] >> p.pair_bit & THREE) << 4;
}
static inline void put_quad_q6_k(uint32_t low[32], uint32_t high[16], uint32_t q, uint32_t i, uint32_t g,
                                 uint32_t t) {
    const place_q6_k p = place_of(i, g, t);
    low[p.nibbles] |= (q & FIFTEEN) << p.nibble_bit;
    high[p.pairs] |= (q >> 4 & THREE) << p.pair_bit;
}

static void join_q6_k(uint8_t *to, const uint8_t *block) {
    uint32_t word[4][12], low[32], high[16];
    quant_q6_k b;
    lanes_q6_k joined;
    memcpy(&b, block, sizeof b);
    memcpy(low, b.ql, sizeof low);
    memcpy(high, b.qh, sizeof high);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t j = 0; j < 3; j++)
            for (uint32_t t = 0; t < 4; t++) word[i][4 * j + t] = quad_q6_k(low, high, i, j, t);
        for (uint32_t t = 0; t < 4; t++) {
            const uint32_t q = quad_q6_k(low, high, i, 3, t);
            for (uint32_t n = 0; n < 3; n++) word[i][3 * t + n] |= (q >> (4 - 2 * n) & THREE) << 6;
        }
    }
    memcpy(joined.scales, b.scales, sizeof b.scales);
    memcpy(joined.q, word, sizeof word);
    joined.d = b.d;
    memcpy(to, &joined, sizeof joined);
}

static void part_q6_k(uint8_t *block, const uint8_t *from) {
    uint32_t word[4][12], low[32] = {0}, high[16] = {0};
    quant_q6_k b;
    lanes_q6_k joined;
    memcpy(&joined, from, sizeof joined);
    memcpy(word, joined.q, sizeof word);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t t = 0; t < 4; t++) {
            uint32_t q = 0;
            for (uint32_t j = 0; j < 3; j++) {
                put_quad_q6_k(low, high, word[i][4 * j + t] & SIX_BITS, i, j, t);
                q |= (word[i][3 * t + j] >> 6 & THREE) << (4 - 2 * j);
            }
            put_quad_q6_k(low, high, q, i, 3, t);
        }
    memcpy(b.ql, low, sizeof low);
    memcpy(b.qh, high, sizeof high);
    memcpy(b.scales, joined.scales, sizeof b.scales);
    b.d = joined.d;
    memcpy(block, &b, sizeof b);
}

/* ---- All types -------------------------------------------------------------------------------------- */

/* How a block divides: an odd field in front, words, an odd field at the end; and what is done before that,
 * and undone, NULL for nothing. */
typedef struct division {
    uint32_t block_n, block_bytes;
    uint32_t front, tail; /* bytes: 0, 1 or 2 */
    void (*join)(uint8_t *joined, const uint8_t *block), (*part)(uint8_t *block, const uint8_t *joined);
} division;

static division division_of(gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    division d = {.block_n = f->block_n, .block_bytes = f->block_bytes};
    switch (type) {
    case GGUF_Q4_0:
    case GGUF_Q5_0:
    case GGUF_Q8_0:
    case GGUF_IQ4_NL: d.front = 2; break;
    case GGUF_MXFP4: d.front = 1; break;
    case GGUF_Q3_K:
        d.tail = 2;
        d.join = join_q3_k;
        d.part = part_q3_k;
        break;
    case GGUF_Q6_K:
        d.tail = 2;
        d.join = join_q6_k;
        d.part = part_q6_k;
        break;
    default: break;
    }
    return d;
}

/* A field of `bytes` (a constant) of all rows. */
static inline void store_field(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, const uint32_t bytes) {
    for (uint64_t r = 0; r < LANES_ROWS; r++) memcpy(to + r * bytes, rows + r * row_bytes, bytes);
}

static inline void store_odd_field(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, uint32_t bytes) {
    if (bytes == 1) store_field(to, rows, row_bytes, 1);
    if (bytes == 2) store_field(to, rows, row_bytes, 2);
}

/* A block of all rows. */
static void store_block(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, division d) {
    const uint32_t end = d.block_bytes - d.tail;
    store_odd_field(to, rows, row_bytes, d.front);
    for (uint32_t at = d.front; at < end; at += 4) store_field(to + LANES_ROWS * at, rows + at, row_bytes, 4);
    store_odd_field(to + LANES_ROWS * end, rows + end, row_bytes, d.tail);
}

void lanes_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n) {
    const division d = division_of(type);
    for (uint32_t b = 0; b < in_n / d.block_n; b++, rows += d.block_bytes, to += LANES_ROWS * d.block_bytes) {
        uint8_t joined[LANES_ROWS][BLOCKS_BYTES_MAX];
        for (uint64_t r = 0; d.join && r < LANES_ROWS; r++) d.join(joined[r], rows + r * row_bytes);
        if (d.join)
            store_block(to, joined[0], sizeof joined[0], d);
        else
            store_block(to, rows, row_bytes, d);
    }
}

void lanes_restore_part(uint8_t *blocks, const uint8_t *stored, gguf_type type, uint32_t lane, uint32_t from,
                        uint32_t n) {
    const division d = division_of(type);
    stored += (uint64_t)LANES_ROWS * d.block_bytes * (from / d.block_n);
    for (uint32_t b = 0; b < n / d.block_n;
         b++, stored += LANES_ROWS * d.block_bytes, blocks += d.block_bytes) {
        uint8_t block[BLOCKS_BYTES_MAX];
        for (uint32_t at = 0, bytes; at < d.block_bytes; at += bytes) {
            bytes = at < d.front ? d.front : at < d.block_bytes - d.tail ? 4 : d.tail;
            memcpy(block + at, stored + LANES_ROWS * at + lane * bytes, bytes);
        }
        if (d.part)
            d.part(blocks, block);
        else
            memcpy(blocks, block, d.block_bytes);
    }
}
