/* lanes.c - rows of weights interleaved by 16, and back. */
#include "devices/lanes.h"

#include <string.h>

#include "devices/blocks.h"

/* How a block divides: an odd field in front, words, an odd field at the end. */
typedef struct division {
    uint32_t block_n, block_bytes;
    uint32_t front, tail; /* bytes: 0, 1 or 2 */
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
    case GGUF_Q6_K: d.tail = 2; break;
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

void lanes_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n) {
    const division d = division_of(type);
    for (uint32_t b = 0; b < in_n / d.block_n; b++, rows += d.block_bytes, to += LANES_ROWS * d.block_bytes) {
        const uint32_t end = d.block_bytes - d.tail;
        store_odd_field(to, rows, row_bytes, d.front);
        for (uint32_t at = d.front; at < end; at += 4)
            store_field(to + LANES_ROWS * at, rows + at, row_bytes, 4);
        store_odd_field(to + LANES_ROWS * end, rows + end, row_bytes, d.tail);
    }
}

void lanes_restore_part(uint8_t *blocks, const uint8_t *stored, gguf_type type, uint32_t lane, uint32_t from,
                        uint32_t n) {
    const division d = division_of(type);
    stored += (uint64_t)LANES_ROWS * d.block_bytes * (from / d.block_n);
    for (uint32_t b = 0; b < n / d.block_n; b++, stored += LANES_ROWS * d.block_bytes)
        for (uint32_t at = 0, bytes; at < d.block_bytes; blocks += bytes, at += bytes) {
            bytes = at < d.front ? d.front : at < d.block_bytes - d.tail ? 4 : d.tail;
            memcpy(blocks, stored + LANES_ROWS * at + lane * bytes, bytes);
        }
}
