/* model.h - a GGUF file understood: its numbers, and a view of every tensor by what it is for. */
#ifndef HOTSET_MODEL_H
#define HOTSET_MODEL_H

#include "devices/neurons.h"
#include "engine/arch.h"
#include "engine/base.h"
#include "profiles/activation.h"
#include "profiles/gguf.h"

/* Weights in the mapped file, or floats copied out of it. Absent: everything zero. */
typedef struct model_tensor {
    bool present;
    gguf_type type;
    uint32_t in_n, out_n;       /* vector: in_n elements, out_n 1 */
    neurons_order order;        /* of a down matrix; its in_n are neurons in every order */
    uint64_t row_bytes;         /* of in_n weights; NEURONS_BY_ROW: of out_n */
    uint32_t unit_n;            /* experts; 0: one plain matrix */
    const uint8_t *data;        /* plain matrix: its first row */
    const uint8_t *const *unit; /* [unit_n] first row of each expert, in the model's arena */
    uint32_t part_i;            /* part of a split file that holds it */
    const float *values;        /* vector: [in_n], in the model's arena */
} model_tensor;

typedef struct model_layer {
    uint32_t head_n, head_kv_n;
    uint32_t ff_n;     /* neurons of the dense FFN; 0 in a layer of experts */
    uint32_t rank_n;   /* inner width of the predictor; 0: none */
    uint32_t shared_n; /* neurons of the experts that every token uses, beside those that are chosen */
    uint32_t window_n; /* sliding window, 0: none */
    uint32_t rotary_i; /* of the model's rotations; rotary_n: none */
    bool experts;
    const uint32_t *order; /* [model_unit_n] unit i (neuron, or expert) was number order[i] of the original
                              model, before convert sorted the file; NULL: it still is number i */
    model_tensor tensor[ARCH_ROLE_COUNT]; /* global roles stay absent */
} model_layer;

enum { MODEL_ROTARY_MAX = 2 /* of all layers, or of those without a window and of those with one */ };

/* How positions are rotated: the angle of pair i at position p is p * inverse_frequency[i]. */
typedef struct model_rotary {
    const double *inverse_frequency; /* [pair_n], in the model's arena */
    const double
        *long_frequency; /* the same for contexts of more than long_from_n positions; NULL: the same */
    float magnitude;     /* of (cos, sin) */
} model_rotary;

typedef struct model_router {
    uint32_t used_n;
    arch_gating gating;
    uint32_t group_n, group_used_n; /* experts are chosen from the best groups of neighbours; 0: from all */
    bool normalise;
    float scale;
} model_router;

struct hotset_model {
    gguf *file;
    arena arena;
    const arch *arch;
    hotset_shape shape;
    arch_activation activation;
    float predictor_threshold; /* a neuron is computed where its score is at least that */
    float norm_epsilon;
    float attention_scale;
    float attention_cap, logit_cap; /* x becomes cap * tanh(x / cap); 0: it stays */
    float embed_scale;
    uint32_t position_n; /* rows of learned positions */
    uint32_t latent_n;   /* latent attention: see arch_width; 0: plain */
    uint32_t query_rank, rotated_n;
    uint32_t block_n;    /* of the file: behind the layers there may be some that no token passes through */
    uint32_t ff_dense_n; /* the most neurons of a dense FFN */
    uint32_t rotary_n, pair_n, long_from_n;
    bool rotary_adjacent;
    model_rotary rotary[MODEL_ROTARY_MAX];
    model_router router;
    model_tensor tensor[ARCH_LAYER_ROLES]; /* global roles; OUTPUT of a tied model is the embedding */
    model_layer *layer;                    /* [shape.layer_n] */
    hotset_tokenizer *tokenizer;           /* NULL: none; then tokenizer_error says why */
    hotset_error tokenizer_error;
    const char *chat_template;
    size_t chat_template_bytes;
};

/* Bytes of all rows of a tensor's matrix, or of one expert's. */
static inline uint64_t model_unit_bytes(const model_tensor *t) {
    return t->row_bytes * (t->order == NEURONS_BY_ROW ? t->in_n : t->out_n);
}
static inline uint64_t model_matrix_bytes(const model_tensor *t) {
    return model_unit_bytes(t) * (t->unit_n ? t->unit_n : 1);
}
/* Weight bytes that decoding one token multiplies with: of a model of experts only the chosen ones', of
 * predictors only where they are used. */
uint64_t model_bytes_per_token(const hotset_model *m, bool predicted);

/* What is kept of a position: keys, of so many heads, and values, unless these are a part of the keys. */
typedef struct model_kept {
    uint32_t head_n, key_n, value_n;
    bool joined; /* a position's value is the beginning of its key */
} model_kept;
static inline model_kept model_kept_of(const hotset_model *m, uint32_t layer_i) {
    if (m->latent_n) return (model_kept){1, m->latent_n + m->rotated_n, m->latent_n, true};
    return (model_kept){m->layer[layer_i].head_kv_n, m->shape.key_n, m->shape.value_n, false};
}

/* Neurons of one expert. */
static inline uint32_t model_expert_ff_n(const hotset_model *m) {
    return m->shape.expert_n ? m->shape.ff_n : 0;
}

/* Units of a layer, as activation profiles count them: experts, or neurons of its dense FFN. */
static inline uint32_t model_unit_n(const hotset_model *m, uint32_t layer_i) {
    const model_layer *layer = &m->layer[layer_i];
    return layer->experts ? m->shape.expert_n : layer->ff_n;
}

/* ---- Which model it is (identity.c) ---- */

/* The key of the layers' orders: the u32 of all layers end to end. */
#define MODEL_ORDER_KEY "hotset.ffn.order"
/* Fills layer[].order from the file. Errors: E_FORMAT (not one permutation per layer), E_MEMORY. */
HOTSET_CHECKED hotset_status model_order_read(hotset_model *m, hotset_error *err);
/* Profiles number units as the original model does, so that they serve the model's sorted files too, and
 * merge; while a sorted file runs, the recorder translates. Renumbers the units of a profile of this model's
 * layers from the original numbers to the file's: it is a profile no longer, but says which units of the file
 * are hot. Errors: E_ARGUMENT (other layers than the model's), E_MEMORY: then it is as it was. */
HOTSET_CHECKED hotset_status model_renumber_profile(const hotset_model *m, activation_profile *p,
                                                    hotset_error *err);
/* Fingerprints (profiles/fingerprint.h). Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status model_fingerprints(const hotset_model *m, uint64_t *shape, uint64_t *weights,
                                                hotset_error *err);

/* Of the numbers that the file's units had in the original; 0: they stand as they stood. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status model_order_fingerprint(const hotset_model *m, uint64_t *out, hotset_error *err);

/* rotary.c: fills m->rotary from the file's keys. Linear, YaRN, Llama-3 and LongRoPE scaling. */
HOTSET_CHECKED hotset_status model_rotary_read(hotset_model *m, uint32_t rotated_n, hotset_error *err);
/* Frequencies of rotation number i for sessions of so many positions. */
static inline const double *model_frequencies(const hotset_model *m, uint32_t i, uint32_t context_n) {
    const model_rotary *r = &m->rotary[i];
    return r->long_frequency && context_n > m->long_from_n ? r->long_frequency : r->inverse_frequency;
}

/* Reads "{arch}.{key}"; absent keys leave *out. */
HOTSET_CHECKED hotset_status model_key_u32(const hotset_model *m, const char *key, uint32_t *out, bool *found,
                                           hotset_error *err);
HOTSET_CHECKED hotset_status model_key_f32(const hotset_model *m, const char *key, float *out, bool *found,
                                           hotset_error *err);
HOTSET_CHECKED hotset_status model_key_bool(const hotset_model *m, const char *key, bool *out,
                                            hotset_error *err);
HOTSET_CHECKED hotset_status model_key_string(const hotset_model *m, const char *key, gguf_string *out,
                                              bool *found, hotset_error *err);

#endif
