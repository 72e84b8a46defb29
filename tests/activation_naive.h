/* activation_naive.h - texts of random activations, recorded by the library or counted a second time from the
 * definitions, for the tests of activation profiles. */
#ifndef HOTSET_TESTS_ACTIVATION_NAIVE_H
#define HOTSET_TESTS_ACTIVATION_NAIVE_H

#include "profiles/activation.h"

enum { NAIVE_UNIT_MAX = 200 };

/* A text as a model would make it: for each layer and token what each unit did. */
typedef struct naive_text {
    uint64_t hash;
    const char *name;
    uint32_t token_n;
    uint64_t seed;
} naive_text;

/* The layers of the profiles in these tests: none, neurons (in and across words), experts, sizes. */
extern const activation_units naive_layers[];
extern const uint32_t naive_layer_n;

/* What unit `unit_i` of a layer did at a token: NEURONS and EXPERTS: 0 unused, else used (EXPERTS: with this
 * router weight); SIZES: the activation. The same every time. */
float naive_value(const naive_text *text, uint32_t layer_i, uint32_t token_i, uint32_t unit_i);

/* A profile of no tokens of a model with these weights. */
activation_profile *naive_profile(uint64_t weights, const char *name);
/* Records the text layer by layer in steps of a few tokens. */
void naive_record(activation_profile *p, const naive_text *text);
/* Adds to the profile what the definitions say of the text, from a table of all that happened. */
void naive_count(activation_profile *p, const naive_text *text);
/* Every number of both is equal. */
void naive_compare(const activation_profile *a, const activation_profile *b);

#endif
