/* placed.h - what one device holds and does, as the plan says: looked up by what loads weights and writes
 * lists.
 */
#ifndef HOTSET_PLACED_H
#define HOTSET_PLACED_H

#include "engine/model.h"
#include "profiles/plan.h"

/* One layer on one device. */
typedef struct placed_layer {
    bool home;                               /* mixer, state, norms */
    bool units;                              /* has some of the layer's units */
    bool visits;                             /* has some of the layer's units, but not its home */
    uint8_t home_i;                          /* the layer's home */
    bool receives;                           /* home: the residual stream comes from another device, */
    uint8_t from;                            /* this one */
    bool hands_on;                           /* home: the next home, or the head's device, is another one */
    uint8_t guest_n, guest[PLAN_DEVICE_MAX]; /* home: rising */
    uint32_t ff_n;                           /* neurons of the dense FFN that are here */
    const uint32_t *neuron; /* [ff_n] rising, their numbers in the model; NULL: all of them, or none */
    bool streams;           /* the host's units may go to the home, piece by piece */
    const uint8_t *place;   /* of experts: [expert_n] their device; NULL: all are the host's */
} placed_layer;

typedef struct placed_device {
    uint32_t device_i, device_n, layer_n;
    bool used;
    bool embeds;         /* is the host: has the embedding, begins every step */
    bool head;           /* makes the logits, */
    bool receives;       /* for which the residual stream comes from another device, */
    uint8_t from;        /* this one */
    bool rotates;        /* is the home of some layer */
    placed_layer *layer; /* [layer_n] */
    arena arena;
} placed_device;

/* Of device device_i of a plan for the model, borrowed; NULL: everything is on device 0. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status placed_make(placed_device *out, const hotset_model *m, const plan_data *plan,
                                         uint32_t device_i, hotset_error *err);
void placed_free(placed_device *p);

/* What stays in the file is the host's to compute. */
static inline bool placed_has_expert(const placed_device *p, const placed_layer *l, uint32_t unit) {
    if (!l->place) return p->device_i == 0;
    return l->place[unit] == p->device_i || (l->place[unit] == PLAN_IN_FILE && p->device_i == 0);
}

#endif
