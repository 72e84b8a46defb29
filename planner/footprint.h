/* footprint.h - bytes of every allocation, and where things lie in them: pure functions of numbers.
 *
 * The planner adds these up and the engine allocates by the very same functions, so that a plan's ledger is
 * exact.
 */
#ifndef HOTSET_FOOTPRINT_H
#define HOTSET_FOOTPRINT_H

#include "engine/base.h"

enum {
    FOOTPRINT_ALIGN = 64,       /* of every object in a slab: a cache line, and the widest vector load */
    FOOTPRINT_OUTPUT_MAX = 32,  /* rows whose logits are computed at once; more wanted rows take turns */
    FOOTPRINT_STATE_GROUP = 32, /* positions */
};

/* The widths that one step's memory depends on: the largest over all layers. */
typedef struct footprint_widths {
    uint32_t embd_n, query_n, key_n, value_n, mixed_n; /* attention: see arch_width */
    uint32_t ff_n;                                     /* of the dense FFN; 0: none */
    uint32_t ff_expert_n, expert_n, expert_used_n;
    uint32_t vocab_n;
    uint32_t rotary_n; /* floats of (cos, sin) per row */
    uint32_t choice_n; /* numbers per row of the lists of active neurons; 0: nothing is skipped */
    uint32_t rank_n;   /* inner width of predictors; 0: they are not used */
    uint32_t head_n;   /* of attention */
    uint32_t latent_n; /* of latent attention, all heads: latents, or values; 0: plain */
    bool second;       /* attention has an input of its own, or sums are normed before they are added */
} footprint_widths;

/* Offsets in the scratch slab of the activations of a step; `*_stride` is in floats. Rows are row_n of each,
 * logits and output_hidden output_n. */
typedef struct footprint_scratch {
    uint32_t row_n, output_n;
    uint64_t hidden;   /* [row][embd] the residual stream */
    uint64_t normed;   /* [row][embd] */
    uint64_t normed_2; /* [row][embd] the second one, where there is one */
    uint64_t query, key, value, mixed;
    uint64_t latent;                   /* [row][latent] of each head */
    uint64_t gate, up;                 /* [row][ff], or [row][used][ff_expert] */
    uint64_t router;                   /* [row][expert] */
    uint64_t expert_id, expert_weight; /* [row][used] */
    uint64_t expert_out;               /* [row][used][embd] */
    uint64_t rotary;
    uint64_t choice;        /* [row][choice] */
    uint64_t inner, score;  /* [row][rank], [row][ff] of predictors */
    uint64_t verdict;       /* one number */
    uint64_t output_hidden; /* [output][embd] */
    uint64_t logits;        /* [output][vocab] */
    uint64_t workspace;     /* the devices' own scratch */
    uint64_t bytes;
} footprint_scratch;

/* Lays out the scratch slab. workspace_bytes is what the device asks for. */
footprint_scratch footprint_scratch_layout(const footprint_widths *w, uint32_t row_n,
                                           uint64_t workspace_bytes);

/* The workspace of a GPU for such a step: at least what any list of it asks for, whatever units it holds
 * (devices/gpu: each kind of operation). context_n: positions of a session. */
uint64_t footprint_gpu_workspace_bytes(const footprint_widths *w, uint32_t row_n, uint32_t context_n);
enum { FOOTPRINT_GPU_ALIGN = 256 };
/* The scratch slab of a GPU, whose workspace begins at a multiple of FOOTPRINT_GPU_ALIGN. */
footprint_scratch footprint_gpu_scratch_layout(const footprint_widths *w, uint32_t row_n, uint32_t context_n);

/* A slot through which a layer's weights go from the host to a GPU, a quarter of the layer at once so that
 * copying overlaps computing, but not more than FOOTPRINT_STREAM_BYTES, nor less than a step of the stream:
 * FOOTPRINT_STREAM_NEURONS neurons, or an expert. layer_bytes 0: there is nothing to copy. */
enum {
    FOOTPRINT_STREAM_SLOTS = 2, /* of a GPU, and of the host's pinned memory */
    FOOTPRINT_STREAM_NEURONS = 256,
    FOOTPRINT_STREAM_BYTES = 16 << 20
};
uint64_t footprint_stream_slot_bytes(uint64_t layer_bytes, uint64_t step_bytes);

/* Offsets, in host memory that all devices reach, of what they hand to each other. Counters have a line of
 * FOOTPRINT_ALIGN bytes each. */
typedef struct footprint_exchange {
    uint32_t device_n;
    uint64_t done;                     /* counter of the device that has the head */
    uint64_t skipped;                  /* [device] weight bytes that each has left out */
    uint64_t counter;                  /* [layer + 1][device][2]: see footprint_counter */
    uint64_t residual;                 /* [row][embd] what a layer's home gives its guests, */
    uint64_t expert_id, expert_weight; /* [row][used] with the choice of experts */
    uint64_t hand;    /* [row][embd] what a layer's home gives the next one's, or the head's device */
    uint64_t partial; /* [device][row][embd] what guests give back */
    uint64_t logits;  /* [output][vocab] of a head that is not the host's */
    uint64_t arrived, consumed; /* [piece] counters of streamed weights */
    uint64_t bytes;
} footprint_exchange;

/* Nothing of it, but the counters done and skipped, where there is one device only. */
footprint_exchange footprint_exchange_layout(const footprint_widths *w, uint32_t row_n, uint32_t layer_n,
                                             uint32_t device_n, uint32_t piece_n);
/* What a device signals of a layer: that its guests have their input, or that its sums are there; hands_over:
 * that the residual stream is there for the home of this layer (layer_n: for the head). */
static inline uint64_t footprint_counter(const footprint_exchange *e, uint32_t layer_i, uint32_t device_i,
                                         bool hands_over) {
    return e->counter + ((uint64_t)(layer_i * e->device_n + device_i) * 2 + hands_over) * FOOTPRINT_ALIGN;
}

/* Positions that a state of context_n of them has room for: whole groups, whose order is a device's own. */
uint32_t footprint_state_rows(uint32_t context_n);
/* Bytes of keys (or values) of one layer and session: [head_kv_n][footprint_state_rows(context_n)] rows of
 * row_bytes each. */
uint64_t footprint_state_bytes(uint32_t head_kv_n, uint32_t context_n, uint64_t row_bytes);

/* Bytes of `n` equal parts that lie together in the memory of a device: the slots of one matrix's units. 0 of
 * nothing. */
uint64_t footprint_parts_bytes(uint64_t n, uint64_t part_bytes, uint64_t alignment_bytes);

#endif
