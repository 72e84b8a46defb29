/* arch.c - the descriptions. Names and widths are facts of the GGUF files that people have. */
#include "engine/arch.h"

#include <string.h>

#define MATRIX(role, name, in, out, need, instead)                                                           \
    {                                                                                                        \
        ARCH_##role, name, true, ARCH_W_##in, ARCH_W_##out, ARCH_W_NONE, ARCH_##need, ARCH_##instead, NULL,  \
            NEURONS_BY_OUTPUT                                                                                \
    }
#define VECTOR(role, name, in, need)                                                                         \
    {                                                                                                        \
        ARCH_##role, name, false, ARCH_W_##in, ARCH_W_NONE, ARCH_W_NONE, ARCH_##need, ARCH_##role, NULL,     \
            NEURONS_BY_OUTPUT                                                                                \
    }
#define EXPERTS(role, name, in, out, need, instead, per_unit)                                                \
    {                                                                                                        \
        ARCH_##role, name, true, ARCH_W_##in, ARCH_W_##out, ARCH_W_EXPERTS, ARCH_##need, ARCH_##instead,     \
            per_unit, NEURONS_BY_OUTPUT                                                                      \
    }
/* A down matrix whose neurons lie together: never needed, for the plain one may stand in the file instead. */
#define NEURONS(role, name, in, out, unit, order)                                                            \
    {                                                                                                        \
        ARCH_##role, name, true, ARCH_W_##in, ARCH_W_##out, ARCH_W_##unit, ARCH_OPTIONAL, ARCH_##role, NULL, \
            NEURONS_##order                                                                                  \
    }

const arch_tensor arch_tensors[] = {
    MATRIX(EMBED, "token_embd.weight", EMBD, VOCAB, ALWAYS, EMBED),
    VECTOR(OUTPUT_NORM, "output_norm.weight", EMBD, ALWAYS),
    VECTOR(OUTPUT_NORM_BIAS, "output_norm.bias", EMBD, IF_NORM_BIAS),
    MATRIX(OUTPUT, "output.weight", EMBD, VOCAB, OPTIONAL, OUTPUT), /* absent: tied to the embedding */
    VECTOR(OUTPUT_BIAS, "output.bias", VOCAB, OPTIONAL),
    VECTOR(ROPE_FREQS, "rope_freqs.weight", PAIRS, OPTIONAL),

    VECTOR(ATTN_NORM, "attn_norm.weight", EMBD, ALWAYS),
    VECTOR(ATTN_NORM_BIAS, "attn_norm.bias", EMBD, IF_NORM_BIAS),
    VECTOR(ATTN_NORM_2, "attn_norm_2.weight", EMBD, OPTIONAL),
    VECTOR(ATTN_NORM_2_BIAS, "attn_norm_2.bias", EMBD, OPTIONAL),
    MATRIX(ATTN_QKV, "attn_qkv.weight", EMBD, QKV, OPTIONAL, ATTN_QKV),
    VECTOR(ATTN_QKV_BIAS, "attn_qkv.bias", QKV, OPTIONAL),
    MATRIX(ATTN_Q, "attn_q.weight", EMBD, QUERY, ALWAYS, ATTN_QKV),
    {ARCH_ATTN_Q_BIAS, "attn_q.bias", false, ARCH_W_QUERY, ARCH_W_NONE, ARCH_W_NONE, ARCH_IF_QKV_BIAS,
     ARCH_ATTN_QKV_BIAS, NULL, NEURONS_BY_OUTPUT},
    VECTOR(ATTN_Q_NORM, "attn_q_norm.weight", HEAD, IF_QK_NORM),
    MATRIX(ATTN_K, "attn_k.weight", EMBD, KEY, ALWAYS, ATTN_QKV),
    {ARCH_ATTN_K_BIAS, "attn_k.bias", false, ARCH_W_KEY, ARCH_W_NONE, ARCH_W_NONE, ARCH_IF_QKV_BIAS,
     ARCH_ATTN_QKV_BIAS, NULL, NEURONS_BY_OUTPUT},
    VECTOR(ATTN_K_NORM, "attn_k_norm.weight", HEAD, IF_QK_NORM),
    MATRIX(ATTN_V, "attn_v.weight", EMBD, VALUE, ALWAYS, ATTN_QKV),
    {ARCH_ATTN_V_BIAS, "attn_v.bias", false, ARCH_W_VALUE, ARCH_W_NONE, ARCH_W_NONE, ARCH_IF_QKV_BIAS,
     ARCH_ATTN_QKV_BIAS, NULL, NEURONS_BY_OUTPUT},
    MATRIX(ATTN_OUT, "attn_output.weight", MIXED, EMBD, ALWAYS, ATTN_OUT),
    VECTOR(ATTN_OUT_BIAS, "attn_output.bias", EMBD, OPTIONAL),

    VECTOR(FFN_NORM, "ffn_norm.weight", EMBD, IF_FFN_NORM),
    VECTOR(FFN_NORM_BIAS, "ffn_norm.bias", EMBD, IF_FFN_NORM_BIAS),
    MATRIX(FFN_GATE, "ffn_gate.weight", EMBD, FF, IF_DENSE_GATED, FFN_GATE),
    VECTOR(FFN_GATE_BIAS, "ffn_gate.bias", FF, OPTIONAL),
    MATRIX(FFN_UP, "ffn_up.weight", EMBD, FF, IF_DENSE, FFN_UP),
    VECTOR(FFN_UP_BIAS, "ffn_up.bias", FF, OPTIONAL),
    NEURONS(FFN_DOWN, "ffn_down_t.weight", EMBD, FF, NONE, BY_ROW),
    NEURONS(FFN_DOWN, "ffn_down_neuron.weight", FF, EMBD, NONE, BY_NEURON),
    MATRIX(FFN_DOWN, "ffn_down.weight", FF, EMBD, IF_DENSE, FFN_DOWN),
    VECTOR(FFN_DOWN_BIAS, "ffn_down.bias", EMBD, OPTIONAL),
    MATRIX(PREDICTOR_IN, "fc1.weight", EMBD, RANK, IF_PREDICTOR, PREDICTOR_IN),
    MATRIX(PREDICTOR_OUT, "fc2.weight", RANK, FF, IF_PREDICTOR, PREDICTOR_OUT),
    MATRIX(ROUTER, "ffn_gate_inp.weight", EMBD, EXPERTS, IF_MOE, ROUTER),
    VECTOR(ROUTER_BIAS, "ffn_gate_inp.bias", EXPERTS, OPTIONAL),
    EXPERTS(EXPERT_GATE_UP, "ffn_gate_up_exps.weight", EMBD, FF_EXPERT_TWICE, OPTIONAL, EXPERT_GATE_UP, NULL),
    EXPERTS(EXPERT_GATE, "ffn_gate_exps.weight", EMBD, FF_EXPERT, IF_MOE_GATED, EXPERT_GATE_UP,
            "ffn_gate.%u.weight"),
    EXPERTS(EXPERT_UP, "ffn_up_exps.weight", EMBD, FF_EXPERT, IF_MOE, EXPERT_GATE_UP, "ffn_up.%u.weight"),
    NEURONS(EXPERT_DOWN, "ffn_down_exps_t.weight", EMBD, FF_EXPERT, EXPERTS, BY_ROW),
    NEURONS(EXPERT_DOWN, "ffn_down_exps_neuron.weight", FF_EXPERT, EMBD, EXPERTS, BY_NEURON),
    EXPERTS(EXPERT_DOWN, "ffn_down_exps.weight", FF_EXPERT, EMBD, IF_MOE, EXPERT_DOWN, "ffn_down.%u.weight"),
};
const size_t arch_tensor_n = COUNT_OF(arch_tensors);

static const arch archs[] = {
    {"llama", ARCH_GATED | ARCH_ROPE_ADJACENT | ARCH_ROUTER_NORM, "silu", "relu"},
    {"qwen2", ARCH_GATED | ARCH_QKV_BIAS, "silu", "silu"},
    {"qwen3", ARCH_GATED | ARCH_QK_NORM, "silu", "silu"},
    {"qwen3moe", ARCH_GATED | ARCH_QK_NORM | ARCH_ROUTER_NORM, "silu", "silu"},
    {"arcee", ARCH_ROPE_ADJACENT, "relu2", "relu2"},
    {"bamboo", ARCH_GATED | ARCH_ROPE_ADJACENT, "drelu", "drelu"},
    {"falcon", ARCH_LAYER_NORM | ARCH_PARALLEL, "gelu", "relu"},
};

const arch *arch_find(gguf_string name) {
    for (size_t i = 0; i < COUNT_OF(archs); i++)
        if (gguf_string_is(name, archs[i].name)) return &archs[i];
    return NULL;
}

const char *arch_names(void) { return "llama, qwen2, qwen3, qwen3moe, arcee, bamboo, falcon"; }

const char *arch_activation_names(void) { return "silu, gelu, gelu_tanh, relu, relu2, drelu"; }

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
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (gguf_string_is(name, rows[i].name)) {
            *out = rows[i].activation;
            if (canonical) *canonical = rows[i].canonical;
            return true;
        }
    return false;
}
