/* gather.h - the part of a dense FFN's matrix that belongs to some of its neurons. */
#ifndef HOTSET_GATHER_H
#define HOTSET_GATHER_H

#include "engine/model.h"

/* Bytes of the part of `n` neurons. */
uint64_t gather_bytes(const model_tensor *t, bool down, uint32_t n);
/* Writes the part of neurons [n], rising: rows, of a down matrix by output columns. Errors: E_UNSUPPORTED
 * where they are not whole blocks (groups, in a matrix by neuron) of weights that share scales. */
HOTSET_CHECKED hotset_status gather_neurons(uint8_t *to, const model_tensor *t, bool down,
                                            const uint32_t *neuron, uint32_t n, hotset_error *err);

#endif
