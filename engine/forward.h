/* forward.h - the model's equations as a list of operations. */
#ifndef HOTSET_FORWARD_H
#define HOTSET_FORWARD_H

#include "devices/device.h"
#include "engine/model.h"
#include "engine/state.h"
#include "engine/stream.h"
#include "engine/tally.h"
#include "engine/weights.h"
#include "planner/footprint.h"

/* Where the operands of a step lie. */
typedef struct forward_place {
    const hotset_model *model;
    const weights *weights;
    const state *state;
    hotset_sparsity sparsity; /* OFF, EXACT or PREDICT */
    bool skip_by_cost;        /* lists for many rows may leave neurons out, too; else only those for few */
    device_ref scratch;       /* of the layout below */
    footprint_scratch layout;
    const placed_device *placed; /* what the device does */
    /* What devices hand to each other, as this one reaches it: counters `done`, which the last operation of
       each list of the head's device signals, and of weight bytes left out by steps of one row, and where
       there are several devices all the rest. */
    device_ref exchange;
    footprint_exchange handed;
    const streaming *stream; /* prompts: the host's units come to their home; NULL: they do not */
    device_ref ring;         /* of a home: where they come */
    const tally *tally;      /* what each layer's FFN uses is recorded so; NULL: it is not */
    device_ref record;       /* of that layout */
} forward_place;

/* A list that grows; op_n operations in `op`. */
typedef struct forward_list {
    device_op *op; /* owned */
    uint32_t op_n, op_max;
    bool failed; /* out of memory */
} forward_list;

/* Widths of a model's activations, for the layout of the scratch slab. */
footprint_widths forward_widths(const hotset_model *m, hotset_sparsity sparsity);

/* The device's part of the way from tokens to the residual stream after the last layer, for steps of up to
 * row_max rows. No operations: it has no part. */
void forward_body(forward_list *list, const forward_place *place, uint32_t row_max);
/* The step's outputs to logits, for up to output_max of them: of the head's device, else no operations. */
void forward_head(forward_list *list, const forward_place *place, uint32_t output_max);
void forward_list_free(forward_list *list);

#endif
