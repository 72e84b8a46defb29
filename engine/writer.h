/* writer.h - writing lists of operations: what the parts of the forward pass share (forward.c: layers,
 * forward_mixer.c: attention, forward_ffn.c: the FFN). */
#ifndef HOTSET_WRITER_H
#define HOTSET_WRITER_H

#include <stdlib.h>

#include "engine/forward.h"

typedef struct writer {
    forward_list *list;
    const forward_place *at;
    uint32_t row_max, layer_i;
    bool outputs;
    bool sum_is_empty; /* nothing has been written yet to where the layer's FFN is added up */
} writer;

/* ---- Operands ---- */

static inline device_rows rows_at(const writer *w, uint64_t offset, uint64_t stride) {
    return (device_rows){device_ref_at(w->at->scratch, offset), (uint32_t)stride};
}

static inline const model_layer *layer_of(const writer *w) { return &w->at->model->layer[w->layer_i]; }
static inline bool follows(const writer *w, unsigned rule) { return w->at->model->arch->rules & rule; }
static inline const hotset_shape *shape_of(const writer *w) { return &w->at->model->shape; }

static inline bool has(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->present;
}
static inline device_matrix matrix(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->w;
}
/* Absent: of no buffer. */
static inline device_ref vector(const writer *w, arch_role role) {
    if (role == ARCH_ROLE_COUNT) return (device_ref){0};
    return weights_of(w->at->weights, w->layer_i, role)->w.data;
}

static inline const placed_layer *here(const writer *w) { return &w->at->placed->layer[w->layer_i]; }

/* Rows, and a counter, of what devices hand to each other. */
static inline device_rows handed(const writer *w, uint64_t offset, uint64_t stride) {
    return (device_rows){device_ref_at(w->at->exchange, offset), (uint32_t)stride};
}
static inline device_rows residual(const writer *w) {
    return handed(w, w->at->handed.residual, shape_of(w)->embd_n);
}
static inline device_rows hand(const writer *w) { return handed(w, w->at->handed.hand, shape_of(w)->embd_n); }
static inline device_rows partial(const writer *w, uint32_t device_i) {
    const uint64_t embd_n = shape_of(w)->embd_n;
    return handed(w, w->at->handed.partial + device_i * w->at->layout.row_n * embd_n * sizeof(float), embd_n);
}
static inline device_ref counter(const writer *w, uint32_t layer_i, uint32_t device_i, bool hands_over) {
    return device_ref_at(w->at->exchange, footprint_counter(&w->at->handed, layer_i, device_i, hands_over));
}

static inline device_rows hidden(const writer *w) {
    return rows_at(w, w->at->layout.hidden, shape_of(w)->embd_n);
}
static inline device_rows normed(const writer *w) {
    return rows_at(w, w->at->layout.normed, shape_of(w)->embd_n);
}
static inline device_rows second(const writer *w) {
    return rows_at(w, w->at->layout.normed_2, shape_of(w)->embd_n);
}

/* ---- Operations ---- */

static inline void add(writer *w, device_op op) {
    forward_list *l = w->list;
    if (l->op_n == l->op_max) {
        uint32_t max = l->op_max ? 2 * l->op_max : 64;
        device_op *bigger = realloc(l->op, max * sizeof *bigger);
        if (!bigger) {
            l->failed = true;
            return;
        }
        l->op = bigger;
        l->op_max = max;
    }
    op.outputs = w->outputs;
    op.row_max = w->row_max;
    op.layer_i = w->layer_i;
    l->op[l->op_n++] = op;
}

static inline void wait_for(writer *w, const char *name, device_ref at) {
    add(w, (device_op){.kind = DEVICE_OP_WAIT, .name = name, .counter = {.counter = at}});
}

static inline void signal_to(writer *w, const char *name, device_ref at) {
    add(w, (device_op){.kind = DEVICE_OP_SIGNAL, .name = name, .counter = {.counter = at}});
}

static inline void copy(writer *w, const char *name, device_rows x, device_rows y, uint32_t n,
                        bool accumulate) {
    add(w, (device_op){.kind = DEVICE_OP_COPY,
                       .name = name,
                       .copy = {.x = x, .y = y, .n = n, .accumulate = accumulate}});
}

static inline void norm_of(writer *w, const char *name, device_rows x, device_rows y, uint32_t n,
                           arch_role weight, arch_role bias, bool layernorm) {
    add(w, (device_op){.kind = DEVICE_OP_NORM,
                       .name = name,
                       .norm = {.x = x,
                                .y = y,
                                .n = n,
                                .weight = vector(w, weight),
                                .bias = vector(w, bias),
                                .layernorm = layernorm,
                                .epsilon = w->at->model->norm_epsilon}});
}

static inline void norm(writer *w, const char *name, device_rows x, device_rows y, arch_role weight,
                        arch_role bias) {
    norm_of(w, name, x, y, shape_of(w)->embd_n, weight, bias, follows(w, ARCH_LAYER_NORM));
}

/* x <- x + norm(part), part being second(w). */
static inline void add_normed(writer *w, const char *name, const char *sum_name, arch_role weight) {
    norm_of(w, name, second(w), second(w), shape_of(w)->embd_n, weight, ARCH_ROLE_COUNT, false);
    copy(w, sum_name, second(w), hidden(w), shape_of(w)->embd_n, true);
}

static inline device_linear_part product(const writer *w, arch_role weight, arch_role bias, device_rows y,
                                         bool accumulate) {
    return (device_linear_part){
        .w = matrix(w, weight), .bias = vector(w, bias), .y = y, .accumulate = accumulate};
}

/* y <- W x + b, or y <- y + W x + b. */
static inline void linear(writer *w, const char *name, device_rows x, device_linear_part part) {
    add(w,
        (device_op){.kind = DEVICE_OP_LINEAR, .name = name, .linear = {.x = x, .part_n = 1, .part = {part}}});
}

/* ---- The parts of a layer ---- */

/* The table of rotation number rotary_i. */
device_rows mixer_rotation(const writer *w, uint32_t rotary_i);
/* x <- x + Wo attention(input), or the norm of what is added */
void mixer_attention(writer *w, device_rows input);
/* Where the layer's FFN is added up. */
device_rows ffn_sum(const writer *w);
/* Before the first part of a layer's sum; and whether the next part is to be added, rather than written. */
void ffn_begin(writer *w);
bool ffn_adds(writer *w);
/* What a predictor says of the device's neurons; absent: there is none. */
device_rows ffn_predict(writer *w);
/* Chooses the experts of each row by the router's products with `input`. */
void ffn_choose(writer *w, device_rows input);
/* What each adds to the sum: the dense FFN, the experts that every token uses, those that were chosen. */
void ffn_dense(writer *w, device_rows score);
void ffn_shared(writer *w);
void ffn_experts(writer *w);
/* Whether the host's part of the layer is computed here, from weights that come piece by piece; and that. */
bool ffn_streams(const writer *w);
void ffn_streamed(writer *w);
/* The chosen experts of each row, and their weights. */
device_rows ffn_chosen_id(const writer *w);
device_rows ffn_chosen_weight(const writer *w);

#endif
