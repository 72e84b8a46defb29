/* blocks.h - the blocks of every quantised type that Hotset multiplies with, taken apart: quants, scales.
 *
 * One form for all: weight i of a block is d * scale * value(q) - dmin * min, with the small integers q of
 * the weight and scale, min of its part. The fast kernels know layouts by heart; whatever else needs a
 * block's numbers, and their references, finds them here.
 */
#ifndef HOTSET_BLOCKS_H
#define HOTSET_BLOCKS_H

#include "profiles/gguf.h"

/* The types, as they are written in names of functions and of types. */
#define BLOCK_TYPES(X)                                                                                       \
    X(q8_0, Q8_0)                                                                                            \
    X(q4_0, Q4_0)                                                                                            \
    X(q4_1, Q4_1)                                                                                            \
    X(q5_0, Q5_0)                                                                                            \
    X(q5_1, Q5_1)                                                                                            \
    X(iq4_nl, IQ4_NL)                                                                                        \
    X(mxfp4, MXFP4)                                                                                          \
    X(q2_k, Q2_K)                                                                                            \
    X(q3_k, Q3_K)                                                                                            \
    X(q4_k, Q4_K)                                                                                            \
    X(q5_k, Q5_K)                                                                                            \
    X(q6_k, Q6_K)                                                                                            \
    X(iq4_xs, IQ4_XS)

enum { BLOCKS_WEIGHTS_MAX = 256, BLOCKS_BYTES_MAX = 210, BLOCKS_PARTS_MAX = 16, BLOCKS_FIELDS_MAX = 18 };

typedef struct blocks_form {
    uint32_t block_n, block_bytes;
    uint32_t part_n;              /* weights that share scale and min: 32 or 16 */
    uint32_t low_bits, high_bits; /* of a quant: 8, 4 or 2 lower ones and 0, 1 or 2 above them */
    int offset;                   /* value(q) = q - offset (Q8_0: of the signed byte) ... */
    const int8_t *values;         /* ... or values[q] where this is not NULL */
    bool has_min;
    uint32_t field_n;                    /* of the header, what is not quants; each 1 or 2 bytes: */
    uint8_t field_at[BLOCKS_FIELDS_MAX]; /* where it begins */
    uint8_t field_bytes[BLOCKS_FIELDS_MAX];
} blocks_form;

/* NULL for types that are no such blocks. */
const blocks_form *blocks_form_of(gguf_type type);

static inline uint32_t blocks_header_bytes(const blocks_form *f) {
    return f->block_bytes - f->block_n * (f->low_bits + f->high_bits) / 8;
}
static inline int blocks_value(const blocks_form *f, uint8_t q) {
    return f->values ? f->values[q] : (int8_t)q - f->offset;
}

/* The quants of one block as bytes in the order of its weights; and back into the block, whose header stays
 * as it is. */
void blocks_split(uint8_t *q, const uint8_t *block, gguf_type type);
void blocks_join(uint8_t *block, const uint8_t *q, gguf_type type);

typedef struct blocks_part {
    int scale, min;
} blocks_part;

/* The numbers of part j, from the header alone. */
blocks_part blocks_part_of(const uint8_t *block, gguf_type type, uint32_t j);
/* Sets those of all parts, of K-quants and IQ4_XS. */
void blocks_set_parts(uint8_t *block, gguf_type type, const blocks_part *part);
/* Gives the parts of K-quants and IQ4_XS another order: part j becomes what part[j] was. */
void blocks_permute_parts(uint8_t *block, gguf_type type, const uint8_t *part);

#endif
