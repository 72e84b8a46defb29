/* neurons.h - a down matrix stored by neuron, so that a neuron can be skipped: its column lies together.
 *
 * A GGUF matrix stands by output: row o holds the weights of all in_n neurons. By neuron the same bytes stand
 * in another order, nothing is requantised:
 *   floats   [in_n][out_n] of the same type;
 *   blocks   per group of neurons (one block of the type: 32, or 256 for K-quants) the group's neurons,
 * each its quants for all out_n outputs, then the group's scales in planes: each field of the block header
 * (devices/blocks.h), in the order of the block, for all outputs. Quants of a neuron stand in runs of 32
 * outputs, first all runs' lower bits, then all runs' upper ones: 8 bits 32 bytes; 4 bits 16 bytes, low
 * nibble j for output j, high nibble for j + 16; 2 bits 8 bytes, byte j holds those of outputs j, j + 8, j +
 * 16, j + 24 from its low bits up; 1 bit 4 bytes, bit j % 8 of byte j / 8 for output j.
 */
#ifndef HOTSET_NEURONS_H
#define HOTSET_NEURONS_H

#include "profiles/gguf.h"

enum {
    NEURONS_RUN = 32,       /* outputs of block types are stored in runs of as many */
    NEURONS_GROUP_MAX = 256 /* neurons of a group */
};

/* How a down matrix of in_n neurons and out_n outputs stands. Floats by neuron and by row are the same. */
typedef enum neurons_order {
    NEURONS_BY_OUTPUT = 0, /* as in GGUF: out_n rows of in_n weights */
    NEURONS_BY_NEURON,     /* the same bytes in the order described above */
    NEURONS_BY_ROW /* in_n rows of out_n weights, blocks along the outputs (PowerInfer's ffn_down_t) */
} neurons_order;

typedef struct neurons_form {
    uint32_t group_n;      /* neurons that share scales; 1: float type */
    uint32_t run_bytes;    /* quants of one neuron for a run of outputs; float types: bytes of one weight */
    uint32_t header_bytes; /* scales of one output in a group */
} neurons_form;

/* False where a matrix of this type and size has no form by neuron (block types need whole runs). */
bool neurons_form_of(gguf_type type, uint32_t out_n, neurons_form *out);

/* Bytes of one neuron's weights without scales, of a group's scales, and of a group with all. */
static inline uint64_t neurons_row_bytes(neurons_form f, uint32_t out_n) {
    return (uint64_t)f.run_bytes * (f.group_n == 1 ? out_n : out_n / NEURONS_RUN);
}
static inline uint64_t neurons_header_bytes(neurons_form f, uint32_t out_n) {
    return (uint64_t)f.header_bytes * out_n;
}
static inline uint64_t neurons_group_bytes(neurons_form f, uint32_t out_n) {
    return f.group_n * neurons_row_bytes(f, out_n) + neurons_header_bytes(f, out_n);
}

/* Writes outputs [from, from + n) of the matrix `rows` (GGUF, row_bytes apart, the first row is output 0) to
 * their places by neuron. Block types: from and n are multiples of NEURONS_RUN. */
void neurons_store(uint8_t *to, const uint8_t *rows, uint64_t row_bytes, gguf_type type, uint32_t in_n,
                   uint32_t out_n, uint32_t from, uint32_t n);
/* The inverse: rows [from, from + n), any of them, as GGUF has them; `rows` receives row `from` first. Only
 * neurons [0, in_n) are taken, so that in_n may be less (whole groups) than what was stored. */
void neurons_restore(uint8_t *rows, const uint8_t *stored, uint64_t row_bytes, gguf_type type, uint32_t in_n,
                     uint32_t out_n, uint32_t from, uint32_t n);

/* Parts of a matrix of a block type by neuron: the quants of one neuron for a run of outputs as bytes,
 * without offset or scale; and the header of output o's block from the planes of its group. */
void neurons_run_unpack(uint8_t *q, const uint8_t *neuron, gguf_type type, uint32_t out_n, uint32_t run_i);
void neurons_header(uint8_t *block, const uint8_t *planes, gguf_type type, uint32_t out_n, uint32_t o);

#endif
