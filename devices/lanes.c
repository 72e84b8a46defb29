/* lanes.c - rows of weights interleaved by 16, and back. */
#include "devices/lanes.h"

#include <string.h>

#include "devices/blocks.h"
#include "devices/quant.h"

/* The same word of four rows: every x86-64 has registers for them. */
typedef uint32_t words __attribute__((vector_size(16)));
enum { WORD_ROWS = sizeof(words) / sizeof(uint32_t), BLOCK_WORDS_MAX = BLOCKS_BYTES_MAX / 4 };

/* The lowest bits of four bytes, which words hold side by side. */
enum {
    ONE = 0x01010101,
    THREE = 0x03030303,
    SEVEN = 0x07070707,
    FIFTEEN = 0x0f0f0f0f,
    FIVE_BITS = 0x1f1f1f1f,
    SIX_BITS = 0x3f3f3f3f
};

/* ---- Q3_K: blocks and their joined form --------------------------------------------------------------
 * Words of a block: 8 of upper bits, 2 * 8 of lower ones, 3 of scales. */

/* Four quants, a byte each: bits 2p and 2p + 1 of `low` below bit `at` of `high`. */
static inline words quad(words low, words high, int p, int at) {
    return (low >> 2 * p & THREE) | (high >> at & ONE) << 2;
}

/* Half h, from its words of lower bits and the block's of upper ones: words t of both hold those of groups
 * 2p, words 4 + t those of groups 2p + 1. */
static inline void join_half(words joined[12], const words low[8], const words high[8], const int h) {
    for (int p = 0; p < 3; p++)
        for (int t = 0; t < 4; t++)
            joined[4 * p + t] =
                quad(low[t], high[t], p, 4 * h + p) | quad(low[4 + t], high[4 + t], p, 4 * h + p) << 3;
    for (int t = 0; t < 4; t++) {
        const words q6 = quad(low[t], high[t], 3, 4 * h + 3),
                    q7 = quad(low[4 + t], high[4 + t], 3, 4 * h + 3);
        joined[3 * t] |= (q6 >> 1 & THREE) << 6;
        joined[3 * t + 1] |= (q6 & ONE) << 6 | (q7 & ONE) << 7;
        joined[3 * t + 2] |= (q7 >> 1 & THREE) << 6;
    }
}

static void join_q3_k(words *joined, const words *block) {
    const words *high = block, *low = block + 8, *scales = block + 24;
    memcpy(joined, scales, 3 * sizeof *scales);
    join_half(joined + 3, low, high, 0);
    join_half(joined + 15, low + 8, high, 1);
}

/* Adds four quants to words as quad() takes them. */
static inline void put_quad(words *low, words *high, words q, int p, int at) {
    *low |= (q & THREE) << 2 * p;
    *high |= (q >> 2 & ONE) << at;
}

static void part_half(words low[8], words high[8], const words joined[12], const int h) {
    for (int i = 0; i < 12; i++) {
        const int p = i / 4, t = i % 4;
        put_quad(&low[t], &high[t], joined[i], p, 4 * h + p);
        put_quad(&low[4 + t], &high[4 + t], joined[i] >> 3, p, 4 * h + p);
    }
    for (int t = 0; t < 4; t++) {
        const words *three = joined + 3 * t;
        put_quad(&low[t], &high[t], (three[0] >> 6 & THREE) << 1 | (three[1] >> 6 & ONE), 3, 4 * h + 3);
        put_quad(&low[4 + t], &high[4 + t], (three[2] >> 6 & THREE) << 1 | (three[1] >> 7 & ONE), 3,
                 4 * h + 3);
    }
}

/* The parts add to a block of zeros. */
static void part_q3_k(words *block, const words *joined) {
    words *high = block, *low = block + 8, *scales = block + 24;
    part_half(low, high, joined + 3, 0);
    part_half(low + 8, high, joined + 15, 1);
    memcpy(scales, joined, 3 * sizeof *scales);
}

/* ---- Q6_K: 32 words of nibbles, 16 of pairs of bits, 4 of scales -------------------------------------- */

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

static inline words quad_q6_k(const words low[32], const words high[16], uint32_t i, uint32_t g, uint32_t t) {
    const place_q6_k p = place_of(i, g, t);
    return (low[p.nibbles] >> p.nibble_bit & FIFTEEN) | (high[p.pairs] >> p.pair_bit & THREE) << 4;
}
static inline void put_quad_q6_k(words low[32], words high[16], words q, uint32_t i, uint32_t g, uint32_t t) {
    const place_q6_k p = place_of(i, g, t);
    low[p.nibbles] |= (q & FIFTEEN) << p.nibble_bit;
    high[p.pairs] |= (q >> 4 & THREE) << p.pair_bit;
}

static void join_q6_k(words *joined, const words *block) {
    const words *low = block, *high = block + 32, *scales = block + 48;
    memcpy(joined, scales, 4 * sizeof *scales);
    words *set = joined + 4;
    for (uint32_t i = 0; i < 4; i++, set += 12) {
        for (uint32_t j = 0; j < 3; j++)
            for (uint32_t t = 0; t < 4; t++) set[4 * j + t] = quad_q6_k(low, high, i, j, t);
        for (uint32_t t = 0; t < 4; t++) {
            const words q = quad_q6_k(low, high, i, 3, t);
            for (int n = 0; n < 3; n++) set[3 * t + (uint32_t)n] |= (q >> (4 - 2 * n) & THREE) << 6;
        }
    }
}

static void part_q6_k(words *block, const words *joined) {
    words *low = block, *high = block + 32, *scales = block + 48;
    const words *set = joined + 4;
    for (uint32_t i = 0; i < 4; i++, set += 12)
        for (uint32_t t = 0; t < 4; t++) {
            words q = {0};
            for (uint32_t j = 0; j < 3; j++) {
                put_quad_q6_k(low, high, set[4 * j + t] & SIX_BITS, i, j, t);
                q |= (set[3 * t + j] >> 6 & THREE) << (4 - 2 * (int)j);
            }
            put_quad_q6_k(low, high, q, i, 3, t);
        }
    memcpy(scales, joined, 4 * sizeof *scales);
}

/* ---- Five bits --------------------------------------------------------------------------------------- */

static inline void join_quads(words joined[5], const words quad[8]) {
    const words a = quad[5], b = quad[6], c = quad[7];
    joined[0] = quad[0] | (a >> 2 & SEVEN) << 5;
    joined[1] = quad[1] | (b >> 2 & SEVEN) << 5;
    joined[2] = quad[2] | (c >> 2 & SEVEN) << 5;
    joined[3] = quad[3] | (c >> 1 & ONE) << 5 | (a & THREE) << 6;
    joined[4] = quad[4] | (c & ONE) << 5 | (b & THREE) << 6;
}

static inline void part_quads(words quad[8], const words joined[5]) {
    for (int t = 0; t < 5; t++) quad[t] = joined[t] & FIVE_BITS;
    quad[5] = (joined[0] >> 5 & SEVEN) << 2 | (joined[3] >> 6 & THREE);
    quad[6] = (joined[1] >> 5 & SEVEN) << 2 | (joined[4] >> 6 & THREE);
    quad[7] = (joined[2] >> 5 & SEVEN) << 2 | (joined[3] >> 5 & ONE) << 1 | (joined[4] >> 5 & ONE);
}

/* Bits 0 to 3 as the lowest ones of four bytes, and back. */
static inline words spread_bits(words v) {
    v &= 15;
    return (v | v << 7 | v << 14 | v << 21) & ONE;
}
static inline words gather_bits(words v) {
    v &= ONE;
    return (v | v >> 7 | v >> 14 | v >> 21) & 15;
}

/* Q5_0: a word of 32 fifth bits, 4 of nibbles. */
static void join_q5_0(words *joined, const words *block) {
    const words *low = block + 1;
    words quad[8];
    for (int t = 0; t < 8; t++)
        quad[t] = (low[t % 4] >> t / 4 * 4 & FIFTEEN) | spread_bits(block[0] >> 4 * t) << 4;
    join_quads(joined, quad);
}
static void part_q5_0(words *block, const words *joined) {
    words *low = block + 1, quad[8];
    part_quads(quad, joined);
    for (int t = 0; t < 8; t++) {
        low[t % 4] |= (quad[t] & FIFTEEN) << t / 4 * 4;
        block[0] |= gather_bits(quad[t] >> 4) << 4 * t;
    }
}

/* Q5_1: the same behind a word of d and m. */
static void join_q5_1(words *joined, const words *block) {
    joined[0] = block[0];
    join_q5_0(joined + 1, block + 1);
}
static void part_q5_1(words *block, const words *joined) {
    block[0] = joined[0];
    part_q5_0(block + 1, joined + 1);
}

/* Q5_K: 4 words of d, dmin and scales, 8 whose bits j are the fifth ones of group j, 4 * 8 of nibbles: of
 * groups 2c and 2c + 1. */
static void join_q5_k(words *joined, const words *block) {
    const words *high = block + 4, *low = block + 12;
    memcpy(joined, block, 4 * sizeof *block);
    for (int j = 0; j < 8; j++) {
        words quad[8];
        for (int t = 0; t < 8; t++)
            quad[t] = (low[j / 2 * 8 + t] >> j % 2 * 4 & FIFTEEN) | (high[t] >> j & ONE) << 4;
        join_quads(joined + 4 + 5 * j, quad);
    }
}
static void part_q5_k(words *block, const words *joined) {
    words *high = block + 4, *low = block + 12;
    memcpy(block, joined, 4 * sizeof *block);
    for (int j = 0; j < 8; j++) {
        words quad[8];
        part_quads(quad, joined + 4 + 5 * j);
        for (int t = 0; t < 8; t++) {
            low[j / 2 * 8 + t] |= (quad[t] & FIFTEEN) << j % 2 * 4;
            high[t] |= (quad[t] >> 4 & ONE) << j;
        }
    }
}

/* ---- All types --------------------------------------------------------------------------------------- */

/* How a block divides: an odd field in front, words, an odd field at the end; and what is done to the words
 * before that, and undone (in a block of zeros), NULL for nothing. */
typedef struct division {
    uint32_t block_n, block_bytes;
    uint32_t front, tail; /* bytes: 0, 1 or 2 */
    void (*join)(words *joined, const words *block), (*part)(words *block, const words *joined);
} division;

static division division_of(gguf_type type) {
    const blocks_form *f = blocks_form_of(type);
    division d = {.block_n = f->block_n, .block_bytes = f->block_bytes};
    switch (type) {
    case GGUF_Q4_0:
    case GGUF_Q8_0:
    case GGUF_IQ4_NL: d.front = 2; break;
    case GGUF_MXFP4: d.front = 1; break;
    case GGUF_Q5_0:
        d.front = 2;
        d.join = join_q5_0;
        d.part = part_q5_0;
        break;
    case GGUF_Q5_1:
        d.join = join_q5_1;
        d.part = part_q5_1;
        break;
    case GGUF_Q5_K:
        d.join = join_q5_k;
        d.part = part_q5_k;
        break;
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

static uint32_t word_n_of(const division *d) { return (d->block_bytes - d->front - d->tail) / 4; }

/* A field of `bytes` (a constant) of all rows. */
static inline void store_field(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, const uint32_t bytes) {
    for (uint64_t r = 0; r < LANES_ROWS; r++) memcpy(to + r * bytes, rows + r * row_bytes, bytes);
}

static inline void store_odd_field(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, uint32_t bytes) {
    if (bytes == 1) store_field(to, rows, row_bytes, 1);
    if (bytes == 2) store_field(to, rows, row_bytes, 2);
}

static words words_of_rows(const uint8_t *rows, uint64_t row_bytes) {
    uint32_t word[WORD_ROWS];
    for (uint64_t r = 0; r < WORD_ROWS; r++) memcpy(&word[r], rows + r * row_bytes, sizeof word[r]);
    return (words){word[0], word[1], word[2], word[3]};
}

/* The words of a block of all rows, joined. */
static void store_joined(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, const division *d) {
    const uint32_t word_n = word_n_of(d);
    for (uint32_t r = 0; r < LANES_ROWS; r += WORD_ROWS, rows += WORD_ROWS * row_bytes, to += sizeof(words)) {
        words block[BLOCK_WORDS_MAX], joined[BLOCK_WORDS_MAX];
        for (uint32_t i = 0; i < word_n; i++) block[i] = words_of_rows(rows + 4 * i, row_bytes);
        d->join(joined, block);
        for (uint32_t i = 0; i < word_n; i++) memcpy(to + LANES_ROWS * 4 * i, &joined[i], sizeof joined[i]);
    }
}

/* A block of all rows. */
static void store_block(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, const division *d) {
    const uint32_t end = d->block_bytes - d->tail;
    store_odd_field(to, rows, row_bytes, d->front);
    if (d->join)
        store_joined(to + LANES_ROWS * d->front, rows + d->front, row_bytes, d);
    else
        for (uint32_t at = d->front; at < end; at += 4)
            store_field(to + LANES_ROWS * at, rows + at, row_bytes, 4);
    store_odd_field(to + LANES_ROWS * end, rows + end, row_bytes, d->tail);
}

void lanes_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n) {
    const division d = division_of(type);
    for (uint32_t b = 0; b < in_n / d.block_n; b++, rows += d.block_bytes, to += LANES_ROWS * d.block_bytes)
        store_block(to, rows, row_bytes, &d);
}

/* Parts the words of one row's block. */
static void restore_words(uint8_t *words_at, const division *d) {
    const uint32_t word_n = word_n_of(d);
    words joined[BLOCK_WORDS_MAX] = {{0}}, block[BLOCK_WORDS_MAX] = {{0}};
    for (uint32_t i = 0; i < word_n; i++) joined[i] = words_of_rows(words_at + 4 * i, 0);
    d->part(block, joined);
    for (uint32_t i = 0; i < word_n; i++) memcpy(words_at + 4 * i, &block[i], 4);
}

void lanes_restore_part(uint8_t *blocks, const uint8_t *stored, gguf_type type, uint32_t lane, uint32_t from,
                        uint32_t n) {
    const division d = division_of(type);
    stored += (uint64_t)LANES_ROWS * d.block_bytes * (from / d.block_n);
    for (uint32_t b = 0; b < n / d.block_n;
         b++, stored += LANES_ROWS * d.block_bytes, blocks += d.block_bytes) {
        for (uint32_t at = 0, bytes; at < d.block_bytes; at += bytes) {
            bytes = at < d.front ? d.front : at < d.block_bytes - d.tail ? 4 : d.tail;
            memcpy(blocks + at, stored + LANES_ROWS * at + lane * bytes, bytes);
        }
        if (d.part) restore_words(blocks + d.front, &d);
    }
}
