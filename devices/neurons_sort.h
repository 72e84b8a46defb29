/* neurons_sort.h - neurons of a down matrix in another order, without changing a value.
 *
 * Floats, and blocks along the outputs, let every neuron move alone. In blocks along the neurons a group of
 * neurons (32, or 256 for K-quants) shares scales: the group moves as a whole, its neurons stay together.
 * Inside a group of a K-quant the parts that have a scale of their own (32 neurons, or 16) move with
 * it, and inside a part (of blocks of 32 the group itself) neurons move alone.
 */
#ifndef HOTSET_NEURONS_SORT_H
#define HOTSET_NEURONS_SORT_H

#include "devices/neurons.h"

/* Neurons that share scales: those of a group all of them, those of a part even the finest; 1: none. */
typedef struct neurons_sharing {
    uint32_t group_n, part_n;
} neurons_sharing;

/* Of a down matrix of floats or of a type of devices/blocks.h. */
neurons_sharing neurons_sharing_of(gguf_type type, neurons_order stands);

/* order[i] becomes the neuron that is to be number i: those with the highest counts first, as far as sharing
 * allows: groups by the sum of their counts, then parts, then neurons; among equals the old order. n is a
 * multiple of the group. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status neurons_sort(uint32_t *order, const int64_t *count, uint32_t n,
                                          neurons_sharing sharing, hotset_error *err);
/* Whether an order of n neurons, a permutation, keeps together what shares scales. */
bool neurons_sort_keeps(const uint32_t *order, uint32_t n, neurons_sharing sharing);

/* Writes one row by output (in_n weights of a block type) with its neurons in such an order: weight i of `to`
 * was weight order[i] of `row`. They must not overlap. */
void neurons_permute_row(uint8_t *to, const uint8_t *row, gguf_type type, uint32_t in_n,
                         const uint32_t *order);

#endif
