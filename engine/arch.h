/* arch.h - architectures as data: what a model's tensors are called, how wide they are, which rules it
 * follows.
 *
 * Loading (model.c) and the forward pass (forward.c) follow from these descriptions alone; a further
 * architecture is a further row, and at most a further rule that forward.c knows.
 */
#ifndef HOTSET_ARCH_H
#define HOTSET_ARCH_H

#include "devices/neurons.h"
#include "profiles/gguf.h"

/* What a tensor is for. Those before ARCH_LAYER_ROLES stand once per model, the others once per layer. */
typedef enum arch_role {
    ARCH_EMBED,
    ARCH_POSITIONS,
    ARCH_OUTPUT_NORM,
    ARCH_OUTPUT_NORM_BIAS,
    ARCH_OUTPUT,
    ARCH_OUTPUT_BIAS,
    ARCH_ROPE_FREQS,
    ARCH_ROPE_SHORT,
    ARCH_ROPE_LONG,
    ARCH_LAYER_ROLES,
    ARCH_ATTN_NORM = ARCH_LAYER_ROLES,
    ARCH_ATTN_NORM_BIAS,
    ARCH_ATTN_NORM_2,
    ARCH_ATTN_NORM_2_BIAS,
    ARCH_ATTN_QKV,
    ARCH_ATTN_QKV_BIAS,
    ARCH_ATTN_Q,
    ARCH_ATTN_Q_BIAS,
    ARCH_ATTN_Q_NORM,
    ARCH_ATTN_K,
    ARCH_ATTN_K_BIAS,
    ARCH_ATTN_K_NORM,
    ARCH_ATTN_V,
    ARCH_ATTN_V_BIAS,
    ARCH_ATTN_OUT,
    ARCH_ATTN_OUT_BIAS,
    ARCH_ATTN_SINKS,
    ARCH_ATTN_Q_A,
    ARCH_ATTN_Q_A_NORM,
    ARCH_ATTN_Q_B,
    ARCH_ATTN_KV_A,
    ARCH_ATTN_KV_A_NORM,
    ARCH_ATTN_KV_B,
    ARCH_ATTN_K_B,
    ARCH_ATTN_V_B,
    ARCH_ATTN_POST_NORM,
    ARCH_ROUTER,
    ARCH_ROUTER_BIAS,
    ARCH_ROUTER_CHOICE_BIAS,
    ARCH_SHARED_GATE,
    ARCH_SHARED_UP,
    ARCH_SHARED_DOWN,
    ARCH_FFN_POST_NORM,
    ARCH_FFN_ROLES, /* from here on: what every device that has units of the layer needs */
    ARCH_FFN_NORM = ARCH_FFN_ROLES,
    ARCH_FFN_NORM_BIAS,
    ARCH_FFN_GATE_UP,
    ARCH_FFN_GATE,
    ARCH_FFN_GATE_BIAS,
    ARCH_FFN_UP,
    ARCH_FFN_UP_BIAS,
    ARCH_FFN_DOWN,
    ARCH_FFN_DOWN_BIAS,
    ARCH_PREDICTOR_IN,
    ARCH_PREDICTOR_OUT,
    ARCH_EXPERT_GATE_UP,
    ARCH_EXPERT_GATE,
    ARCH_EXPERT_GATE_BIAS,
    ARCH_EXPERT_UP,
    ARCH_EXPERT_UP_BIAS,
    ARCH_EXPERT_DOWN,
    ARCH_EXPERT_DOWN_BIAS,
    ARCH_ROLE_COUNT
} arch_role;

/* Widths by symbol; model.c knows their values for a model (and layer). */
typedef enum arch_width {
    ARCH_W_NONE, /* the dimension does not exist */
    ARCH_W_EMBD,
    ARCH_W_VOCAB,
    ARCH_W_POSITIONS,  /* as their tensor says */
    ARCH_W_QUERY,      /* head_n * key_n */
    ARCH_W_KEY,        /* head_kv_n * key_n */
    ARCH_W_VALUE,      /* head_kv_n * value_n */
    ARCH_W_MIXED,      /* head_n * value_n: input of the attention's output matrix */
    ARCH_W_QKV,        /* query + key + value */
    ARCH_W_HEAD,       /* key_n */
    ARCH_W_HEADS,      /* head_n */
    ARCH_W_QUERY_RANK, /* latent attention: inner width of the queries' two matrices */
    ARCH_W_LATENT,     /* what stands for keys and values of all heads */
    ARCH_W_KEPT,       /* that, and the rotated part of the keys */
    ARCH_W_STILL,      /* the part of a key that is not rotated */
    ARCH_W_VALUE_HEAD, /* value_n */
    ARCH_W_KV_B,       /* head_n * (still + value_n) */
    ARCH_W_PAIRS,      /* rotated pairs of a head */
    ARCH_W_FF,         /* neurons of the dense FFN */
    ARCH_W_FF_TWICE,
    ARCH_W_RANK,   /* inner width of a layer's predictor: as its tensors say */
    ARCH_W_SHARED, /* neurons of the experts that every token uses: as their tensors say */
    ARCH_W_FF_EXPERT,
    ARCH_W_FF_EXPERT_TWICE,
    ARCH_W_EXPERTS,
    ARCH_W_COUNT
} arch_width;

/* When a tensor must be there. */
typedef enum arch_need {
    ARCH_ALWAYS,
    ARCH_OPTIONAL,
    ARCH_IF_DENSE, /* layers without experts */
    ARCH_IF_DENSE_GATED,
    ARCH_IF_MOE,
    ARCH_IF_MOE_GATED,
    ARCH_IF_QKV_BIAS,
    ARCH_IF_QK_NORM,
    ARCH_IF_NORM_BIAS,
    ARCH_IF_FFN_NORM,
    ARCH_IF_FFN_NORM_BIAS,
    ARCH_IF_POST_NORM,
    ARCH_IF_POSITIONS,
    ARCH_IF_PLAIN_ATTENTION,
    ARCH_IF_LATENT,
    ARCH_IF_QUERY_RANK, /* the queries have two matrices */
    ARCH_IF_SHARED,     /* layers that have experts for every token */
    ARCH_IF_SHARED_GATED,
    ARCH_IF_PREDICTOR /* layers that have either half of one */
} arch_need;

typedef struct arch_tensor {
    arch_role role;
    const char *name;         /* in the file; layer roles without "blk.N." */
    bool matrix;              /* weights for a product; else a vector of floats */
    arch_width in, out, unit; /* dims 0, 1, 2 */
    arch_need need;
    arch_role instead;     /* this role's presence makes up for a missing one; its own role: none */
    const char *per_unit;  /* name of one expert's tensor in old files, with %u for its number; NULL: none */
    neurons_order order;   /* of a down matrix under this name */
    unsigned only, unless; /* the name has this meaning where the architecture has all of these rules (0:
                              anyway), and none of those */
} arch_tensor;

/* One row per name that a tensor can have, of all architectures. Where a role has several, the first one that
 * is in the file is taken. */
extern const arch_tensor arch_tensors[];
extern const size_t arch_tensor_n;

enum {
    ARCH_GATED = 1,    /* FFN: down(act(gate x) * up x), else down(act(up x)) */
    ARCH_QKV_BIAS = 2, /* biases on q, k, v are part of the architecture (they are taken wherever present) */
    ARCH_QK_NORM = 4,  /* per-head RMSNorm of q and k before the rotation (taken wherever present) */
    ARCH_LAYER_NORM = 8,     /* LayerNorm with biases instead of RMSNorm */
    ARCH_ROPE_ADJACENT = 16, /* rotated pairs are neighbours (NORM); else half a head apart (NEOX) */
    ARCH_ROUTER_NORM = 32, /* chosen experts' weights are divided by their sum, unless a key says otherwise */
    ARCH_PARALLEL = 64,    /* attention and FFN both read the layer's input: there is no norm between them */
    ARCH_QK_NORM_WIDE = 128,       /* the norms of q and k are over all heads together */
    ARCH_FUSED_GATE_UP = 256,      /* ffn_up holds the dense FFN's gate and up, one after the other */
    ARCH_POST_NORM = 512,          /* what attention and FFN give is normed before it is added */
    ARCH_SCALED_EMBED = 1024,      /* embeddings are multiplied by the square root of their width */
    ARCH_ROUTER_RAW = 2048,        /* the router reads the layer's input, before any norm */
    ARCH_FULL_UNROTATED = 4096,    /* where some layers have a window, those without are not rotated */
    ARCH_LEARNED_POSITIONS = 8192, /* a vector for each position is added to the embedding; no rotation */
    ARCH_YARN_UNROUNDED = 16384,   /* YaRN's limits are not rounded to whole pairs */
    ARCH_LATENT = 32768 /* keys and values of all heads are made of a few numbers, which are what is kept */
};

/* How a router's logits become weights: the numbers that files use. */
typedef enum arch_gating {
    ARCH_GATING_SOFTMAX = 1,
    ARCH_GATING_SIGMOID = 2,
    ARCH_GATING_SOFTMAX_AFTER = 3 /* over the chosen ones */
} arch_gating;

typedef struct arch {
    const char *name; /* general.architecture */
    unsigned rules;
    const char *activation;            /* where the file names none */
    const char *powerinfer_activation; /* the same in PowerInfer's files, which never do; NULL: the same */
    /* What follows may be zero; all of it but the period is for files that do not say. */
    arch_gating gating;     /* [SOFTMAX] */
    uint32_t window_period; /* of so many layers one sees everything, the others a window [all have it] */
    bool full_first;        /* that one is the first of them, else the last */
    uint32_t window_n;
    float local_base; /* of the rotation in layers that have a window, which is not scaled [as the others'] */
    float attention_cap, logit_cap;
    uint32_t position_from; /* LEARNED_POSITIONS: the row of the first position */
    uint32_t wide_layer_n;  /* a model of so many layers scales attention by the width embd / heads */
} arch;

/* Whether the row says what its name means in files of the architecture. */
static inline bool arch_means(const arch *a, const arch_tensor *row) {
    return (a->rules & row->only) == row->only && !(a->rules & row->unless);
}

/* NULL for an architecture that Hotset does not know. */
const arch *arch_find(gguf_string name);
/* All names, separated by ", ". */
const char *arch_names(void);

/* Activation functions by the names that files use; false for an unknown one. `canonical` (may be NULL)
 * receives the constant name that Hotset shows. */
typedef enum arch_activation {
    ARCH_ACT_SILU,
    ARCH_ACT_GELU,
    ARCH_ACT_GELU_TANH,
    ARCH_ACT_RELU,
    ARCH_ACT_RELU2,
    ARCH_ACT_DRELU,     /* relu(gate) relu(up) */
    ARCH_ACT_SWIGLU_OAI /* of gate and up cut to a range: see devices/device.h */
} arch_activation;
bool arch_activation_find(gguf_string name, arch_activation *out, const char **canonical);
/* The canonical ones, separated by ", ". */
const char *arch_activation_names(void);

#endif
