/* weights.h - a model's tensors on one device: views of the mapped file, or copies in a slab. */
#ifndef HOTSET_WEIGHTS_H
#define HOTSET_WEIGHTS_H

#include "devices/device.h"
#include "engine/model.h"
#include "engine/placed.h"

/* A tensor on the device: a matrix, or a vector of floats (then w.data and w.in_n only). Of a dense FFN that
 * is split these are the device's neurons only, side by side. */
typedef struct weights_tensor {
    bool present;
    device_matrix w;
} weights_tensor;

typedef struct weights {
    device *device;
    uint64_t alignment;          /* of what lies in its memory */
    const placed_device *placed; /* borrowed */
    device_buffer *copies; /* all matrices in copied mode but for units that stay in the file; else NULL */
    device_buffer *span;   /* over copies and parts, in copied mode, where units stay in the file */
    device_buffer **part;  /* [part_n] the file's mappings */
    uint32_t part_n;
    device_buffer *tables; /* vectors, rotary frequencies, tables unit -> offset */
    weights_tensor global[ARCH_LAYER_ROLES];
    weights_tensor *layer;               /* [layer_n][ARCH_ROLE_COUNT] */
    device_ref rotary[MODEL_ROTARY_MAX]; /* [pair_n] doubles each */
    device_ref heads;                    /* latent attention: the numbers of the heads, int32_t [head_n] */
    hotset_sparsity sparsity;            /* what for: see weights_describe */
    uint64_t reordered_bytes;            /* of them */
} weights;

/* Bytes that the matrices take in copied mode, and that vectors and tables take in either. Pure. `alignment`:
 * of the device's memory. */
uint64_t weights_copied_bytes(const hotset_model *m, hotset_sparsity sparsity, const placed_device *placed,
                              uint64_t alignment);
uint64_t weights_table_bytes(const hotset_model *m, hotset_sparsity sparsity, const placed_device *placed,
                             uint64_t alignment);
/* Whether a layer's tensor is loaded under this role, and what it adds to the tables: all of a vector, the
 * table of a matrix's units. Parts of a vector take as much as all of it. */
bool weights_is_loaded(const model_tensor *t, uint32_t role, hotset_sparsity sparsity);
uint64_t weights_vector_bytes(const model_tensor *t);
/* What is no tensor's, at their beginning: frequencies of rotations, numbers of heads. */
uint64_t weights_fixed_bytes(const hotset_model *m);
/* Whether the tensor is the FFN's: held by every device that has units of the layer. */
bool weights_is_ffn(const hotset_model *m, uint32_t role);
/* Whether the model's tensor is loaded as it is: what tells frequencies apart is in these. */
bool weights_is_global(uint32_t role);
/* Down matrices, which can stand by neuron. */
bool weights_is_down(uint32_t role);

/* Fills in types and widths only, for what is computed before anything is loaded. Free as after loading.
 * `sparsity`, here and in weights_load: unless it is OFF, down matrices that can be are stored by neuron
 * where the file has them otherwise; predictors are loaded where it is PREDICT. */
HOTSET_CHECKED hotset_status weights_describe(weights *w, const hotset_model *m, hotset_sparsity sparsity,
                                              const placed_device *placed, hotset_error *err);

/* `cancel` is asked between tensors, `loading` told of every matrix or unit that is copied; each may be NULL.
 */
typedef struct weights_progress {
    hotset_cancel_fn *cancel;
    void *cookie;
    hotset_progress_fn *loading;
    void *loading_cookie;
} weights_progress;

/* For sessions of context_n positions. Skipping, and a dense FFN of which the device has a part, only with
 * copied (skipping also where the shape says by_neuron). Errors: E_UNSUPPORTED (a part of a dense FFN that
 * cannot be taken out), E_MEMORY, E_CANCELLED, E_DEVICE. On failure free is still to be called. */
HOTSET_CHECKED hotset_status weights_load(weights *w, device *d, device_queue *copy, const hotset_model *m,
                                          bool copied, hotset_sparsity sparsity, uint32_t context_n,
                                          const placed_device *placed, const weights_progress *progress,
                                          hotset_error *err);
void weights_free(weights *w);

static inline const weights_tensor *weights_of(const weights *w, uint32_t layer_i, arch_role role) {
    return role < ARCH_LAYER_ROLES ? &w->global[role] : &w->layer[(size_t)layer_i * ARCH_ROLE_COUNT + role];
}

#endif
