/* tally.h - what the FFN of each layer used in a step: where devices write it down, and from there into a
 * profile. */
#ifndef HOTSET_TALLY_H
#define HOTSET_TALLY_H

#include "devices/device.h"
#include "engine/model.h"

/* What is counted of a layer of this model. */
activation_units tally_units(const hotset_model *m, uint32_t layer_i);

/* One layer's record in the slab. */
typedef struct tally_layer {
    activation_units units;
    device_tally kind;  /* where there are units */
    uint32_t n;         /* values per row: neurons, or experts used */
    uint64_t row_bytes; /* 0: nothing is counted */
    uint64_t at;
    hotset_prediction judged; /* so far */
} tally_layer;

typedef struct tally {
    uint32_t layer_n;
    tally_layer *layer; /* [layer_n], owned */
    uint64_t bytes;     /* of the slab */
} tally;

/* Lays out the records of steps of up to row_max rows: of what FFNs use, or with sparsity PREDICT of how well
 * predictors do. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status tally_layout(tally *out, const hotset_model *m, hotset_sparsity sparsity,
                                          uint32_t row_max, hotset_error *err);
void tally_free(tally *t);
/* Counts the rows of a finished step, all of one text, from the slab. */
void tally_feed(const tally *t, const device_buffer *slab, uint32_t row_n, activation_recorder *recorder);
/* Adds them to each layer's sums where predictors are judged. */
void tally_judge(tally *t, const device_buffer *slab, uint32_t row_n);

#endif
