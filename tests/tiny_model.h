/* tiny_model.h - random models of a few kilobytes with the features that real files have, for tests. */
#ifndef TINY_MODEL_H
#define TINY_MODEL_H

#include "devices/neurons.h"
#include "profiles/gguf.h"

typedef enum tiny_experts {
    TINY_EXPERTS_STACKED = 0, /* ffn_gate_exps, ffn_up_exps, ffn_down_exps */
    TINY_EXPERTS_MERGED,      /* ffn_gate_up_exps, ffn_down_exps */
    TINY_EXPERTS_APART        /* ffn_gate.E and so on: the first Mixtral files */
} tiny_experts;

/* What to make. A zero field means the default in brackets, or that the file lacks the key or tensor. */
typedef struct tiny_model {
    const char *arch; /* [llama] any text is written; known ones get what is peculiar to them */
    uint64_t seed;
    gguf_type type; /* [F32] of matrices; one whose rows are no whole blocks becomes F16, as in real files */
    gguf_type up_type;  /* [type] of the FFN's up matrices */
    uint32_t layer_n;   /* [2] */
    uint32_t embd_n;    /* [64] */
    uint32_t head_n;    /* [4] */
    uint32_t head_kv_n; /* [head_n] */
    uint32_t key_n;     /* [embd_n / head_n, and no key in the file] */
    uint32_t value_n;   /* [key_n] needs key_n */
    uint32_t ff_n;      /* [2 embd_n] of a layer, or of one expert */
    uint32_t vocab_n;   /* [272] with at least 257 the file gets a byte-level tokenizer */
    uint32_t context_n; /* [128] */
    bool tied, qkv_bias, output_bias, ffn_bias, qk_norm, fused_qkv;
    bool by_layer; /* counts are arrays: odd layers have head_n key/value heads, and layer i 8 i neurons more
                    */
    uint32_t window_n;
    uint32_t window_period;
    float attention_cap, logit_cap;
    const char *activation;
    float gate_bias; /* added to ffn_gate.bias, which is small: the more, the more neurons are active */

    neurons_order down;      /* how down matrices stand; BY_NEURON holds the same numbers as BY_OUTPUT */
    bool powerinfer;         /* that magic */
    uint32_t predictor_rank; /* of the last layer; the others' is 8 more each, one after the other */
    float threshold;         /* powerinfer.sparse_threshold */
    bool second_norm;        /* attn_norm_2 */

    uint32_t expert_n, expert_used_n;
    tiny_experts expert_storage;
    bool router_bias, choice_bias;
    uint32_t shared_n; /* neurons of the experts that every token uses */
    uint32_t dense_n;  /* leading layers without experts: their FFN is twice as wide as an expert */
    uint32_t next_n;   /* blocks behind the layers, of no use here */
    uint32_t group_n, group_used_n;
    uint32_t gating_func;
    float weights_scale;
    const char *weights_norm; /* "true", "false" */

    uint32_t latent_n;   /* deepseek2: kv_lora_rank */
    uint32_t query_rank; /* deepseek2: q_lora_rank */
    bool heads_apart;    /* deepseek2: attn_k_b and attn_v_b instead of attn_kv_b */
    float rope_log_multiplier;

    uint32_t rotated_n;
    float freq_base;
    const char *rope_kind; /* rope.scaling.type */
    float rope_factor, rope_attn_factor, rope_beta_fast, rope_beta_slow;
    uint32_t rope_original_n;
    float rope_scale_linear;       /* the old key */
    bool rope_freqs, rope_factors; /* short and long ones */
    float rope_divisor; /* [1] of the faster half of the pairs in rope_freqs; the others' grow up to 8 */

    const char *omit;     /* leave this tensor out */
    const char *misshape; /* give this tensor one element more in its last dimension */
} tiny_model;

/* Writes the model. The same options give the same bytes. A failure aborts with a message: it is the test's.
 */
void tiny_model_write(const char *path, const tiny_model *options);
/* `n` token ids below vocab_n, from a seed. */
void tiny_tokens(uint64_t seed, uint32_t vocab_n, int32_t *tokens, size_t n);

#endif
