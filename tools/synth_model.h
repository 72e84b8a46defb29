/* synth_model.h - models with random weights: which tensors an architecture has, how large their values must
 * be so that the model behaves, and the file.
 *
 * The design of the values is derived in synth_model.c. In short: the residual stream has unit deviation
 * after the embedding and grows to about 1.4; query-key products have deviation 1.5, so that attention
 * prefers some tokens without seeing only one; logits have deviation 2.5.
 */
#ifndef HOTSET_SYNTH_MODEL_H
#define HOTSET_SYNTH_MODEL_H

#include "profiles/gguf.h"

typedef struct synth_shape {
    uint32_t layer_n, embd_n;
    uint32_t head_n, head_kv_n, head_dim_n;
    uint32_t ff_n;                    /* of an expert where there are experts */
    uint32_t expert_n, expert_used_n; /* 0: dense */
    uint32_t vocab_n, context_n;
} synth_shape;

typedef struct synth_spec {
    const char *architecture; /* one of synth_architectures */
    const char *activation;   /* silu, gelu, relu, relu2, drelu; NULL: the architecture's */
    gguf_type type;           /* of the matrices; vectors and routers are F32 */
    synth_shape shape;        /* no number but the experts' is 0 */
    bool tied;                /* the output head is the embedding matrix */
    double active;           /* mean share of active FFN neurons, ReLU family only; 0: as it comes (a half) */
    double skew;             /* share of the neuron or expert of rank r ~ r^-skew */
    uint32_t predictor_rank; /* 0: none; else a PowerInfer file (PWRI, down stored by neuron, fc1 and fc2) */
    uint64_t seed;
} synth_spec;

/* Names separated by spaces, for messages. */
const char *synth_architectures(void);
const char *synth_shapes(void);
/* The sizes of a well-known model and the architecture that is usual for them; false for an unknown name. */
bool synth_shape_find(const char *name, synth_shape *shape, const char **architecture);

typedef struct synth_model synth_model;

/* Checks a specification and lays out the file. Tensors whose rows do not make blocks of the wanted type get
 * another one, which `note` (may be NULL) is told. Errors: E_ARGUMENT with the limit that was broken,
 * E_MEMORY. */
HOTSET_CHECKED hotset_status synth_model_open(synth_model **out, const synth_spec *spec, hotset_text_fn *note,
                                              void *cookie, hotset_error *err);
void synth_model_free(synth_model *model);
uint64_t synth_model_parameter_n(const synth_model *model);
uint64_t
synth_model_bytes(const synth_model *model); /* of all weights; the header adds about 60 bytes a token */

/* Told how many bytes of weights are written; false stops the writing. */
typedef bool synth_progress_fn(void *cookie, uint64_t done_bytes, uint64_t all_bytes);

/* Draws the weights, with `thread_n` threads (0: as many as OpenMP gives) and a few MiB of memory, and writes
 * the file, which appears whole or not at all; its bytes do not depend on thread_n. `progress` may be NULL.
 * Errors: E_IO, E_MEMORY, E_CANCELLED. */
HOTSET_CHECKED hotset_status synth_model_write(const synth_model *model, const char *path, unsigned thread_n,
                                               synth_progress_fn *progress, void *cookie, hotset_error *err);

#endif
