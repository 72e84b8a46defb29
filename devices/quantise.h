/* quantise.h - from floats to every type of weights that Hotset multiplies with.
 *
 * Q8_0, Q4_0, Q5_0, Q4_1 and Q5_1 are what ggml's formulas give (roundings as in roundf; Q4_0's scale is the
 * value of largest magnitude over -8, Q5_0's over -16). Q4_K, Q5_K and Q6_K search for the scales with the
 * least squared error, first of each group alone, then of the block with the group scales as the 6 or 8 bits
 * that are stored. MXFP4 takes the better one of two powers of two. The others are simple: for random models,
 * less good than they could be.
 */
#ifndef HOTSET_QUANTISE_H
#define HOTSET_QUANTISE_H

#include "profiles/gguf.h"

/* True for floats and the types of devices/blocks.h. */
bool quantise_can(gguf_type type);
/* Writes n floats, whole blocks, as `type`. False when one of them is not finite or too large for the type:
 * then what was written is of no use. */
HOTSET_CHECKED bool quantise_row(uint8_t *to, const float *x, size_t n, gguf_type type);

#endif
