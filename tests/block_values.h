/* block_values.h - what weights of every type mean. */
#ifndef HOTSET_TESTS_BLOCK_VALUES_H
#define HOTSET_TESTS_BLOCK_VALUES_H

#include "profiles/gguf.h"

/* The types of weights, the floats first. */
enum { ALL_TYPES = 16, ALL_FLOATS = 3 };
extern const gguf_type all_types[ALL_TYPES];

/* Weight i of a block (floats: i is 0). */
double block_value(const uint8_t *block, gguf_type type, size_t i);

#endif
