/* problem.h - what the planner is asked: a model, how often its units are used, a machine and its limits, all
 * as plain numbers. No tensor, file or device is needed to state a problem.
 *
 * Words. A *layer* is a mixer (attention with its state, and what else runs before the FFN) and an FFN. The
 * mixer, its state and the *shared* tensors of the FFN, which every token uses, live together on one device,
 * the layer's *home*. The FFN's *units* (experts, or groups of neurons) are placed one by one. *Use* of a
 * unit is how much of it a token needs on average: an expert's probability, the share of a group's neurons
 * that are active.
 */
#ifndef HOTSET_PROBLEM_H
#define HOTSET_PROBLEM_H

#include "profiles/activation.h"
#include "profiles/machine.h"

enum {
    PROBLEM_DEVICE_MAX = 9, /* the CPU and eight GPUs */
    PROBLEM_LAYER_MAX = 4096,
    PROBLEM_MIXER_MAX = 10, /* tensors of a mixer: query, key, value, output; or six of latent attention; the
                               router; and three of experts that every token uses */
    PROBLEM_UNIT_MAX = 1 << 24
};

/* A matrix; bytes = 0: there is none. */
typedef struct problem_matrix {
    gguf_type type;
    uint64_t row_bytes; /* of one row as kernels walk it */
    uint64_t bytes;
    double weight_n;
} problem_matrix;

/* How the units of an FFN are computed for one row. */
typedef enum problem_ffn_kind {
    PROBLEM_NONE,
    PROBLEM_DENSE,     /* all of every unit */
    PROBLEM_EXACT,     /* gate (without a gate: up) of all neurons, of the active ones the rest */
    PROBLEM_PREDICTED, /* a predictor's rows of all neurons, of the predicted ones everything */
    PROBLEM_EXPERTS    /* of each unit that the router chose, everything */
} problem_ffn_kind;

typedef struct problem_ffn {
    problem_ffn_kind kind;
    uint32_t unit_n;
    uint32_t neuron_n;             /* of one unit */
    problem_matrix gate, up, down; /* of one unit; down of block types by neuron: its quants only */
    machine_access down_access; /* as down stands: DENSE by output, which cannot be skipped; SUMS by neuron,
                                   SUMS_BY_ROW */
    uint32_t group_n;           /* neurons that share scales of down; 0: none do. Divides neuron_n or is a
                                   multiple of it */
    uint64_t scale_bytes;       /* of one such group: on every device that holds a neuron of it */
    bool hot_first;             /* neurons stand in the file in order of use: groups are alike in use */
    problem_matrix fc1, fc2;    /* PREDICTED: fc1 on every device that takes part, fc2 of one unit */
    float *use;                 /* [unit_n] 0 to 1 */
} problem_ffn;

typedef struct problem_layer {
    uint32_t mixer_n;
    problem_matrix mixer[PROBLEM_MIXER_MAX];
    problem_matrix shared;       /* of the FFN, used by every token beside the units */
    uint64_t mixer_vector_bytes; /* norms, biases and tables of the mixer, which the home holds; and */
    uint64_t ffn_vector_bytes;   /* of the FFN, which the home holds and every device that takes part */
    uint64_t state_bytes;        /* of the whole context, all sessions */
    double state_row_bytes;      /* of one position */
    double attend_op_n;          /* of one row and one position seen */
    bool host_only;              /* only the host can be its home */
    problem_ffn ffn;
} problem_layer;

/* What one device may take. Device 0 is the host: the CPU and its memory. */
typedef struct problem_device {
    uint32_t machine_i;                  /* in the machine profile */
    uint64_t limit_bytes;                /* the plan takes no more */
    uint64_t scratch_bytes, table_bytes; /* taken where the device is used at all */
} problem_device;

/* What is minimised: seconds of a token; of a chunk of the prompt; of one chunk and a quarter as many tokens.
 */
typedef enum problem_goal { PROBLEM_DECODE, PROBLEM_PREFILL, PROBLEM_BALANCED } problem_goal;

typedef struct problem {
    const machine_profile *machine; /* borrowed */
    uint32_t device_n, layer_n;
    problem_device device[PROBLEM_DEVICE_MAX];
    problem_layer *layer; /* [layer_n] */
    problem_matrix head;
    bool tied;                /* the head is the embedding: on the host it takes no bytes of its own */
    uint64_t embedding_bytes; /* on the host, wherever the head is */
    uint64_t rotary_bytes;    /* frequencies, a double per pair, and the like: every device that is used holds
                                 them once */
    uint32_t embd_n, vocab_n, expert_used_n;
    uint32_t seen_n;   /* positions that a decoded token sees: where in the context decoding is predicted */
    uint32_t row_n;    /* of a chunk of the prompt */
    uint32_t thread_n; /* of the CPU; 0: as many as its rates were measured with */
    machine_state state_type;
    problem_goal goal;
    bool file_tier;       /* units may stay in the model's file, to be read when used */
    bool host_mapped;     /* the host's weights are pages of the file: they take no memory of the plan */
    double host_rate_max; /* bytes/s: the host's weights come no faster, since the file does not fit into its
                             memory and is read again for every token; 0: no such limit */
    arena arena;
} problem;

/* ---- Making one from a model's shape ---------------------------------------------------------------- */

/* Zero is a valid value of everything that a model lacks. */
typedef struct problem_shape {
    uint32_t layer_n, embd_n, vocab_n;
    uint32_t head_n, head_kv_n, key_n, value_n;
    uint32_t latent_n; /* latent attention: width of what stands for keys and values of all heads; 0: plain */
    uint32_t query_rank;              /* latent: inner width of the queries' two matrices; 0: they have one */
    uint32_t rope_n;                  /* latent: the rotated part of key_n, kept once for all heads */
    bool parallel;                    /* attention and FFN read the same residual stream */
    bool tied;                        /* the head is the embedding */
    uint32_t ff_n;                    /* of dense layers */
    uint32_t expert_n, expert_used_n; /* 0: all layers are dense */
    uint32_t ff_expert_n, ff_shared_n; /* neurons of one expert; of the shared one */
    uint32_t dense_layer_n;            /* of a model with experts: its first layers without them */
    bool gated;
    problem_ffn_kind dense_kind; /* DENSE, EXACT or PREDICTED */
    uint32_t predictor_rank;     /* PREDICTED */
    uint32_t unit_neuron_n;      /* neurons of a unit of a dense layer; divides ff_n */
    bool down_by_row;            /* down as PowerInfer stores it: a row per neuron */
    bool hot_first;
    gguf_type mixer_type, ffn_type, head_type, predictor_type;
    uint32_t context_n, session_n, batch_n;
    machine_state state_type;
} problem_shape;

/* Stands in for an activation profile. Unit i of n is used like (i + 1)^-skew, scaled to the mean and cut at
 * 1 (what is cut is spread over the others). skew 0, the default: all alike, so that nothing is hot. */
typedef struct problem_assumption {
    double active, skew; /* of neurons: mean share of active ones */
    double expert_skew;  /* of experts, whose mean is used / n */
} problem_assumption;

/* Fills use[n] so, with mean `mean`. */
void problem_assume_use(float *use, uint32_t n, double mean, double skew);

/* A problem with every field but the devices' limits and scratch: those are the caller's to set, device i
 * being the machine's i. `profile` may be NULL: then `assumed` counts. Errors: E_ARGUMENT (a number, with its
 * limit; a profile of another shape), E_UNSUPPORTED (type that cannot be stored by neuron), E_MEMORY. */
HOTSET_CHECKED hotset_status problem_make(problem **out, const problem_shape *shape,
                                          const machine_profile *machine, const activation_profile *profile,
                                          const problem_assumption *assumed, hotset_error *err);
void problem_free(problem *p);
/* What problem_make asks of a shape, whatever the machine. Errors: E_ARGUMENT. */
HOTSET_CHECKED hotset_status problem_shape_check(const problem_shape *s, hotset_error *err);
/* What holds for every problem; place_make asserts nothing about its input but this. Errors: E_ARGUMENT. */
HOTSET_CHECKED hotset_status problem_check(const problem *p, hotset_error *err);

#endif
