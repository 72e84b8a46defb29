/* arch.c - the descriptions. Names and widths are facts of the GGUF files that people have. */
#include "engine/arch.h"

#include <string.h>

#define ROW(role, name, matrix, in, out, unit, need, instead, per_unit, order, only, unless)                 \
    {                                                                                                        \
        ARCH_##role, name, matrix, ARCH_W_##in, ARCH_W_##out, ARCH_W_##unit, ARCH_##need, ARCH_##instead,    \
            per_unit, NEURONS_##order, only, unless                                                          \
    }
#define MATRIX(role, name, in, out, need, instead)                                                           \
    ROW(role, name, true, in, out, NONE, need, instead, NULL, BY_OUTPUT, 0, 0)
#define VECTOR(role, name, in, need) ROW(role, name, false, in, NONE, NONE, need, role, NULL, BY_OUTPUT, 0, 0)
/* Under rules of their own; see arch_tensor. */
#define MATRIX_WHERE(role, name, in, out, need, instead, only, unless)                                       \
    ROW(role, name, true, in, out, NONE, need, instead, NULL, BY_OUTPUT, only, unless)
#define VECTOR_WHERE(role, name, in, need, only, unless)                                                     \
    ROW(role, name, false, in, NONE, NONE, need, role, NULL, BY_OUTPUT, only, unless)
/* A part of a fused one may stand for it. */
#define VECTOR_OR(role, name, in, need, instead)                                                             \
    ROW(role, name, false, in, NONE, NONE, need, instead, NULL, BY_OUTPUT, 0, 0)
#define EXPERTS(role, name, in, out, need, instead, per_unit)                                                \
    ROW(role, name, true, in, out, EXPERTS, need, instead, per_unit, BY_OUTPUT, 0, 0)
/* A vector of each expert. */
#define EXPERT_VECTORS(role, name, in)                                                                       \
    ROW(role, name, false, in, EXPERTS, NONE, OPTIONAL, role, NULL, BY_OUTPUT, 0, 0)
/* A down matrix whose neurons lie together: never needed, for the plain one may stand in the file instead. */
#define NEURONS(role, name, in, out, unit, order)                                                            \
    ROW(role, name, true, in, out, unit, OPTIONAL, role, NULL, order, 0, 0)

const arch_tensor arch_tensors[] = {
    MATRIX(EMBED, "token_embd.weight", EMBD, VOCAB, ALWAYS, EMBED),
    MATRIX(POSITIONS, "position_embd.weight", EMBD, POSITIONS, IF_POSITIONS, POSITIONS),
    VECTOR(OUTPUT_NORM, "output_norm.weight", EMBD, ALWAYS),
    VECTOR(OUTPUT_NORM_BIAS, "output_norm.bias", EMBD, IF_NORM_BIAS),
    MATRIX(OUTPUT, "output.weight", EMBD, VOCAB, OPTIONAL, OUTPUT), /* absent: tied to the embedding */
    VECTOR(OUTPUT_BIAS, "output.bias", VOCAB, OPTIONAL),
    VECTOR(ROPE_FREQS, "rope_freqs.weight", PAIRS, OPTIONAL),
    VECTOR(ROPE_SHORT, "rope_factors_short.weight", PAIRS, OPTIONAL),
    VECTOR(ROPE_LONG, "rope_factors_long.weight", PAIRS, OPTIONAL),

    VECTOR(ATTN_NORM, "attn_norm.weight", EMBD, ALWAYS),
    VECTOR(ATTN_NORM_BIAS, "attn_norm.bias", EMBD, IF_NORM_BIAS),
    VECTOR(ATTN_NORM_2, "attn_norm_2.weight", EMBD, OPTIONAL),
    VECTOR(ATTN_NORM_2_BIAS, "attn_norm_2.bias", EMBD, OPTIONAL),
    MATRIX(ATTN_QKV, "attn_qkv.weight", EMBD, QKV, OPTIONAL, ATTN_QKV),
    VECTOR(ATTN_QKV_BIAS, "attn_qkv.bias", QKV, OPTIONAL),
    MATRIX(ATTN_Q, "attn_q.weight", EMBD, QUERY, IF_PLAIN_ATTENTION, ATTN_QKV),
    VECTOR_OR(ATTN_Q_BIAS, "attn_q.bias", QUERY, IF_QKV_BIAS, ATTN_QKV_BIAS),
    VECTOR_WHERE(ATTN_Q_NORM, "attn_q_norm.weight", HEAD, IF_QK_NORM, 0, ARCH_QK_NORM_WIDE),
    VECTOR_WHERE(ATTN_Q_NORM, "attn_q_norm.weight", QUERY, IF_QK_NORM, ARCH_QK_NORM_WIDE, 0),
    MATRIX(ATTN_K, "attn_k.weight", EMBD, KEY, IF_PLAIN_ATTENTION, ATTN_QKV),
    VECTOR_OR(ATTN_K_BIAS, "attn_k.bias", KEY, IF_QKV_BIAS, ATTN_QKV_BIAS),
    VECTOR_WHERE(ATTN_K_NORM, "attn_k_norm.weight", HEAD, IF_QK_NORM, 0, ARCH_QK_NORM_WIDE),
    VECTOR_WHERE(ATTN_K_NORM, "attn_k_norm.weight", KEY, IF_QK_NORM, ARCH_QK_NORM_WIDE, 0),
    MATRIX(ATTN_V, "attn_v.weight", EMBD, VALUE, IF_PLAIN_ATTENTION, ATTN_QKV),
    VECTOR_OR(ATTN_V_BIAS, "attn_v.bias", VALUE, IF_QKV_BIAS, ATTN_QKV_BIAS),
    MATRIX(ATTN_OUT, "attn_output.weight", MIXED, EMBD, ALWAYS, ATTN_OUT),
    VECTOR(ATTN_OUT_BIAS, "attn_output.bias", EMBD, OPTIONAL),
    MATRIX_WHERE(ATTN_Q_A, "attn_q_a.weight", EMBD, QUERY_RANK, IF_LATENT, ATTN_Q, ARCH_LATENT, 0),
    VECTOR_WHERE(ATTN_Q_A_NORM, "attn_q_a_norm.weight", QUERY_RANK, IF_QUERY_RANK, ARCH_LATENT, 0),
    MATRIX_WHERE(ATTN_Q_B, "attn_q_b.weight", QUERY_RANK, QUERY, IF_QUERY_RANK, ATTN_Q_B, ARCH_LATENT, 0),
    MATRIX_WHERE(ATTN_KV_A, "attn_kv_a_mqa.weight", EMBD, KEPT, IF_LATENT, ATTN_KV_A, ARCH_LATENT, 0),
    VECTOR_WHERE(ATTN_KV_A_NORM, "attn_kv_a_norm.weight", LATENT, IF_LATENT, ARCH_LATENT, 0),
    MATRIX_WHERE(ATTN_KV_B, "attn_kv_b.weight", LATENT, KV_B, IF_LATENT, ATTN_K_B, ARCH_LATENT, 0),
    ROW(ATTN_K_B, "attn_k_b.weight", true, STILL, LATENT, HEADS, IF_LATENT, ATTN_KV_B, NULL, BY_OUTPUT,
        ARCH_LATENT, 0),
    ROW(ATTN_V_B, "attn_v_b.weight", true, LATENT, VALUE_HEAD, HEADS, IF_LATENT, ATTN_KV_B, NULL, BY_OUTPUT,
        ARCH_LATENT, 0),
    VECTOR(ATTN_SINKS, "attn_sinks.weight", HEADS, OPTIONAL),
    VECTOR_WHERE(ATTN_POST_NORM, "post_attention_norm.weight", EMBD, IF_POST_NORM, ARCH_POST_NORM, 0),

    MATRIX(ROUTER, "ffn_gate_inp.weight", EMBD, EXPERTS, IF_MOE, ROUTER),
    VECTOR(ROUTER_BIAS, "ffn_gate_inp.bias", EXPERTS, OPTIONAL),
    VECTOR(ROUTER_CHOICE_BIAS, "exp_probs_b.bias", EXPERTS, OPTIONAL),
    MATRIX(SHARED_GATE, "ffn_gate_shexp.weight", EMBD, SHARED, IF_SHARED_GATED, SHARED_GATE),
    MATRIX(SHARED_UP, "ffn_up_shexp.weight", EMBD, SHARED, IF_SHARED, SHARED_UP),
    MATRIX(SHARED_DOWN, "ffn_down_shexp.weight", SHARED, EMBD, IF_SHARED, SHARED_DOWN),
    VECTOR_WHERE(FFN_POST_NORM, "post_ffw_norm.weight", EMBD, IF_POST_NORM, ARCH_POST_NORM, 0),

    VECTOR(FFN_NORM, "ffn_norm.weight", EMBD, IF_FFN_NORM),
    VECTOR_WHERE(FFN_NORM, "post_attention_norm.weight", EMBD, IF_FFN_NORM, 0, ARCH_POST_NORM),
    VECTOR(FFN_NORM_BIAS, "ffn_norm.bias", EMBD, IF_FFN_NORM_BIAS),
    MATRIX_WHERE(FFN_GATE_UP, "ffn_up.weight", EMBD, FF_TWICE, IF_DENSE, FFN_UP, ARCH_FUSED_GATE_UP, 0),
    MATRIX(FFN_GATE, "ffn_gate.weight", EMBD, FF, IF_DENSE_GATED, FFN_GATE_UP),
    VECTOR(FFN_GATE_BIAS, "ffn_gate.bias", FF, OPTIONAL),
    MATRIX_WHERE(FFN_UP, "ffn_up.weight", EMBD, FF, IF_DENSE, FFN_GATE_UP, 0, ARCH_FUSED_GATE_UP),
    VECTOR(FFN_UP_BIAS, "ffn_up.bias", FF, OPTIONAL),
    NEURONS(FFN_DOWN, "ffn_down_t.weight", EMBD, FF, NONE, BY_ROW),
    NEURONS(FFN_DOWN, "ffn_down_neuron.weight", FF, EMBD, NONE, BY_NEURON),
    MATRIX(FFN_DOWN, "ffn_down.weight", FF, EMBD, IF_DENSE, FFN_DOWN),
    VECTOR(FFN_DOWN_BIAS, "ffn_down.bias", EMBD, OPTIONAL),
    VECTOR(FFN_DOWN_BIAS, "ffn_down_t.bias", EMBD, OPTIONAL), /* PowerInfer's converter renames both */
    MATRIX(PREDICTOR_IN, "fc1.weight", EMBD, RANK, IF_PREDICTOR, PREDICTOR_IN),
    MATRIX(PREDICTOR_OUT, "fc2.weight", RANK, FF, IF_PREDICTOR, PREDICTOR_OUT),
    EXPERTS(EXPERT_GATE_UP, "ffn_gate_up_exps.weight", EMBD, FF_EXPERT_TWICE, OPTIONAL, EXPERT_GATE_UP, NULL),
    EXPERTS(EXPERT_GATE, "ffn_gate_exps.weight", EMBD, FF_EXPERT, IF_MOE_GATED, EXPERT_GATE_UP,
            "ffn_gate.%u.weight"),
    EXPERT_VECTORS(EXPERT_GATE_BIAS, "ffn_gate_exps.bias", FF_EXPERT),
    EXPERTS(EXPERT_UP, "ffn_up_exps.weight", EMBD, FF_EXPERT, IF_MOE, EXPERT_GATE_UP, "ffn_up.%u.weight"),
    EXPERT_VECTORS(EXPERT_UP_BIAS, "ffn_up_exps.bias", FF_EXPERT),
    NEURONS(EXPERT_DOWN, "ffn_down_exps_t.weight", EMBD, FF_EXPERT, EXPERTS, BY_ROW),
    NEURONS(EXPERT_DOWN, "ffn_down_exps_neuron.weight", FF_EXPERT, EMBD, EXPERTS, BY_NEURON),
    EXPERTS(EXPERT_DOWN, "ffn_down_exps.weight", FF_EXPERT, EMBD, IF_MOE, EXPERT_DOWN, "ffn_down.%u.weight"),
    EXPERT_VECTORS(EXPERT_DOWN_BIAS, "ffn_down_exps.bias", EMBD),
};
const size_t arch_tensor_n = COUNT_OF(arch_tensors);

static const arch archs[] = {
    {.name = "llama",
     .rules = ARCH_GATED | ARCH_ROPE_ADJACENT | ARCH_ROUTER_NORM,
     .activation = "silu",
     .powerinfer_activation = "relu"},
    {.name = "qwen2", .rules = ARCH_GATED | ARCH_QKV_BIAS, .activation = "silu"},
    {.name = "qwen3", .rules = ARCH_GATED | ARCH_QK_NORM, .activation = "silu"},
    {.name = "qwen3moe", .rules = ARCH_GATED | ARCH_QK_NORM | ARCH_ROUTER_NORM, .activation = "silu"},
    {.name = "olmoe", .rules = ARCH_GATED | ARCH_QK_NORM | ARCH_QK_NORM_WIDE, .activation = "silu"},
    {.name = "arcee", .rules = ARCH_ROPE_ADJACENT, .activation = "relu2"},
    {.name = "nemotron", .rules = ARCH_LAYER_NORM, .activation = "relu2"},
    {.name = "bamboo", .rules = ARCH_GATED | ARCH_ROPE_ADJACENT, .activation = "drelu"},
    {.name = "falcon",
     .rules = ARCH_LAYER_NORM | ARCH_PARALLEL,
     .activation = "gelu",
     .powerinfer_activation = "relu"},
    {.name = "opt",
     .rules = ARCH_LAYER_NORM | ARCH_LEARNED_POSITIONS,
     .activation = "relu",
     .position_from = 2},
    {.name = "phi3", .rules = ARCH_GATED | ARCH_FUSED_GATE_UP, .activation = "silu"},
    {.name = "gemma2",
     .rules = ARCH_GATED | ARCH_POST_NORM | ARCH_SCALED_EMBED,
     .activation = "gelu_tanh",
     .window_period = 2,
     .window_n = 4096,
     .attention_cap = 50,
     .logit_cap = 30,
     .wide_layer_n = 46},
    {.name = "gemma3",
     .rules = ARCH_GATED | ARCH_QK_NORM | ARCH_POST_NORM | ARCH_SCALED_EMBED,
     .activation = "gelu_tanh",
     .window_period = 6,
     .local_base = 10000,
     .wide_layer_n = 62},
    {.name = "smallthinker",
     .rules = ARCH_GATED | ARCH_ROUTER_NORM | ARCH_ROUTER_RAW | ARCH_FULL_UNROTATED,
     .activation = "relu",
     .window_period = 4,
     .full_first = true},
    {.name = "glm4moe",
     .rules = ARCH_GATED | ARCH_QKV_BIAS | ARCH_ROUTER_NORM,
     .activation = "silu",
     .gating = ARCH_GATING_SIGMOID},
    {.name = "gpt-oss",
     .rules = ARCH_GATED | ARCH_QKV_BIAS | ARCH_YARN_UNROUNDED,
     .activation = "swiglu_oai",
     .gating = ARCH_GATING_SOFTMAX_AFTER,
     .window_period = 2},
    {.name = "deepseek2", .rules = ARCH_GATED | ARCH_ROPE_ADJACENT | ARCH_LATENT, .activation = "silu"},
};

const arch *arch_find(gguf_string name) {
    for (size_t i = 0; i < COUNT_OF(archs); i++)
        if (gguf_string_is(name, archs[i].name)) return &archs[i];
    return NULL;
}

const char *arch_names(void) {
    return "llama, qwen2, qwen3, qwen3moe, olmoe, arcee, nemotron, bamboo, falcon, opt, phi3, gemma2, "
           "gemma3, "
           "smallthinker, glm4moe, gpt-oss, deepseek2";
}

const char *arch_activation_names(void) { return "silu, gelu, gelu_tanh, relu, relu2, drelu, swiglu_oai"; }

bool arch_activation_find(gguf_string name, arch_activation *out, const char **canonical) {
    static const struct {
        const char *name, *canonical;
        arch_activation activation;
    } rows[] = {
        {"silu", "silu", ARCH_ACT_SILU},
        {"swish", "silu", ARCH_ACT_SILU},
        {"gelu", "gelu", ARCH_ACT_GELU},
        {"gelu_pytorch_tanh", "gelu_tanh", ARCH_ACT_GELU_TANH},
        {"gelu_tanh", "gelu_tanh", ARCH_ACT_GELU_TANH},
        {"gelu_new", "gelu_tanh", ARCH_ACT_GELU_TANH},
        {"relu", "relu", ARCH_ACT_RELU},
        {"relu2", "relu2", ARCH_ACT_RELU2},
        {"relu_squared", "relu2", ARCH_ACT_RELU2},
        {"relu^2", "relu2", ARCH_ACT_RELU2},
        {"drelu", "drelu", ARCH_ACT_DRELU},
        {"swiglu_oai", "swiglu_oai", ARCH_ACT_SWIGLU_OAI},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (gguf_string_is(name, rows[i].name)) {
            *out = rows[i].activation;
            if (canonical) *canonical = rows[i].canonical;
            return true;
        }
    return false;
}
