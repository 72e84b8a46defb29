/* test_forward.c - the engine's logits against the float64 forward pass, feature by feature and type by type.
 */
#include "tests/block_values.h"
#include "tests/float64_forward.h"
#include "tests/rig.h"
#include "tests/thinned.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { TOKEN_N = 27 }; /* more than any window below, no multiple of a tile */

typedef struct variant {
    const char *label;
    tiny_model model;
    const char *activation; /* override at opening */
} variant;

/* Relative error of one pass over a tiny model against the float64 pass. */
static double error_of(const tiny_model *model, const rig_options *options) {
    rig r;
    int32_t tokens[TOKEN_N];
    rig_open_tiny(&r, model, options);
    tiny_tokens(model->seed, (uint32_t)r.vocab_n, tokens, TOKEN_N);
    float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
    double *truth = rig_truth(&r, tokens, TOKEN_N, FLOAT64_EXACT);
    double error = float64_relative_error(logits, truth, TOKEN_N * r.vocab_n);
    free(logits);
    free(truth);
    rig_close(&r);
    return error;
}

/* F32 weights, F32 state, portable kernels: only the order of sums may differ from the float64 pass. */
static void check_variants(const variant *v, size_t n) {
    for (; n > 0; n--, v++) {
        double error = error_of(&v->model, &(rig_options){.activation = v->activation});
        cr_expect_lt(error, 1e-5, "%s: relative error %.3g", v->label, error);
    }
}

/* ---- Features, with portable kernels ---------------------------------------------------------------- */

Test(forward, attention_shapes) {
    static const variant v[] = {
        {"multi-head", {.arch = "llama"}, NULL},
        {"grouped queries", {.arch = "llama", .head_kv_n = 2}, NULL},
        {"multi-query", {.arch = "llama", .head_kv_n = 1}, NULL},
        {"three query heads a group", {.arch = "llama", .embd_n = 96, .head_n = 6, .head_kv_n = 2}, NULL},
        {"one head", {.arch = "llama", .head_n = 1}, NULL},
        {"head width not embd/heads", {.arch = "llama", .key_n = 24, .head_kv_n = 2}, NULL},
        {"values wider than keys", {.arch = "llama", .key_n = 16, .value_n = 24, .head_kv_n = 2}, NULL},
        {"values narrower than keys", {.arch = "qwen3", .key_n = 32, .value_n = 8, .qk_norm = true}, NULL},
        {"odd widths", {.arch = "llama", .embd_n = 50, .head_n = 5, .ff_n = 77, .vocab_n = 131}, NULL},
        {"one layer", {.arch = "llama", .layer_n = 1}, NULL},
        {"counts per layer", {.arch = "llama", .head_kv_n = 2, .layer_n = 3, .by_layer = true}, NULL},
        {"tied embeddings", {.arch = "llama", .tied = true}, NULL},
        {"biases of q, k, v", {.arch = "llama", .head_kv_n = 2, .qkv_bias = true}, NULL},
        {"bias of the output", {.arch = "llama", .output_bias = true}, NULL},
        {"fused q, k, v", {.arch = "llama", .head_kv_n = 2, .fused_qkv = true}, NULL},
        {"fused q, k, v with bias",
         {.arch = "qwen2", .head_kv_n = 1, .fused_qkv = true, .qkv_bias = true},
         NULL},
    };
    check_variants(v, COUNT_OF(v));
}

Test(forward, architectures) {
    static const variant v[] = {
        {"qwen2", {.arch = "qwen2", .head_kv_n = 2, .qkv_bias = true}, NULL},
        {"qwen2 tied", {.arch = "qwen2", .head_kv_n = 1, .qkv_bias = true, .tied = true}, NULL},
        {"qwen3", {.arch = "qwen3", .head_kv_n = 2, .key_n = 32, .qk_norm = true}, NULL},
        {"qwen3 tied", {.arch = "qwen3", .head_kv_n = 2, .key_n = 32, .qk_norm = true, .tied = true}, NULL},
        {"qwen3 fused", {.arch = "qwen3", .head_kv_n = 2, .qk_norm = true, .fused_qkv = true}, NULL},
        {"arcee", {.arch = "arcee", .head_kv_n = 2}, NULL},
        {"arcee tied, fused", {.arch = "arcee", .head_kv_n = 2, .tied = true, .fused_qkv = true}, NULL},
        {"biases of the FFN", {.arch = "llama", .ffn_bias = true}, NULL},
        {"biases of the FFN without gate", {.arch = "arcee", .ffn_bias = true}, NULL},
        {"llama with q and k norm", {.arch = "llama", .qk_norm = true}, NULL},
        {"nemotron", {.arch = "nemotron", .head_kv_n = 2, .rotated_n = 8}, NULL},
        {"nemotron with biases",
         {.arch = "nemotron", .qkv_bias = true, .output_bias = true, .ffn_bias = true},
         NULL},
        {"opt", {.arch = "opt", .qkv_bias = true, .output_bias = true, .ffn_bias = true, .tied = true}, NULL},
        {"opt, positions of blocks", {.arch = "opt", .type = GGUF_F16, .embd_n = 300, .head_n = 5}, NULL},
        {"falcon", {.arch = "falcon", .head_kv_n = 1, .fused_qkv = true}, NULL},
        {"falcon of two norms", {.arch = "falcon", .head_kv_n = 2, .second_norm = true}, NULL},
    };
    check_variants(v, COUNT_OF(v));
}

Test(forward, rotary_embedding) {
    static const variant v[] = {
        {"base", {.arch = "llama", .freq_base = 500000}, NULL},
        {"base, halves", {.arch = "qwen2", .freq_base = 1e6f, .qkv_bias = true}, NULL},
        {"part of the head", {.arch = "llama", .rotated_n = 8}, NULL},
        {"part of the head, halves", {.arch = "qwen3", .rotated_n = 8, .qk_norm = true}, NULL},
        {"none", {.arch = "llama", .rope_kind = "none", .rope_factor = 4}, NULL},
        {"linear", {.arch = "llama", .rope_kind = "linear", .rope_factor = 4}, NULL},
        {"linear, halves",
         {.arch = "qwen2", .rope_kind = "linear", .rope_factor = 2.5f, .qkv_bias = true},
         NULL},
        {"factor alone", {.arch = "llama", .rope_factor = 4}, NULL},
        {"old key", {.arch = "llama", .rope_scale_linear = 4}, NULL},
        {"yarn", {.arch = "llama", .rope_kind = "yarn", .rope_factor = 4, .rope_original_n = 32}, NULL},
        {"yarn, wide heads",
         {.key_n = 64, .rope_kind = "yarn", .rope_factor = 8, .rope_original_n = 4096},
         NULL},
        {"yarn, halves",
         {.arch = "qwen3",
          .qk_norm = true,
          .key_n = 64,
          .rope_kind = "yarn",
          .rope_factor = 8,
          .rope_original_n = 512},
         NULL},
        {"yarn without the original length", {.key_n = 64, .rope_kind = "yarn", .rope_factor = 8}, NULL},
        {"yarn with a magnitude",
         {.rope_kind = "yarn", .rope_factor = 4, .rope_original_n = 64, .rope_attn_factor = 0.8f},
         NULL},
        {"yarn with its own limits",
         {.key_n = 64, .rope_kind = "yarn", .rope_factor = 4, .rope_beta_fast = 8, .rope_beta_slow = 2},
         NULL},
        {"yarn of arcee",
         {.arch = "arcee", .rope_kind = "yarn", .rope_factor = 20, .rope_original_n = 64},
         NULL},
        {"divisors", {.arch = "llama", .rope_freqs = true}, NULL},
        {"divisors and linear", {.rope_freqs = true, .rope_kind = "linear", .rope_factor = 2}, NULL},
        {"divisors of arcee", {.arch = "arcee", .rope_freqs = true}, NULL},
    };
    check_variants(v, COUNT_OF(v));
}

Test(forward, sliding_window) {
    static const variant v[] = {
        {"window 1", {.arch = "llama", .window_n = 1}, NULL},
        {"window 5", {.arch = "llama", .head_kv_n = 2, .window_n = 5}, NULL},
        {"window one less than the text", {.arch = "llama", .window_n = TOKEN_N - 1}, NULL},
        {"window longer than the text", {.arch = "llama", .window_n = 64}, NULL},
    };
    check_variants(v, COUNT_OF(v));
    for (uint32_t batch_n = 1; batch_n < 8; batch_n += 3) {
        double error = error_of(&v[1].model, &(rig_options){.batch_n = batch_n});
        cr_expect_lt(error, 1e-5, "window 5, %u rows a step: relative error %.3g", batch_n, error);
    }
}

Test(forward, activations) {
    static const variant v[] = {
        {"silu", {.arch = "llama", .activation = "silu"}, NULL},
        {"gelu", {.arch = "llama", .activation = "gelu"}, NULL},
        {"gelu_pytorch_tanh", {.arch = "llama", .activation = "gelu_pytorch_tanh"}, NULL},
        {"relu", {.arch = "llama", .activation = "relu"}, NULL},
        {"relu2", {.arch = "llama", .activation = "relu2"}, NULL},
        {"silu without gate", {.arch = "arcee", .activation = "silu"}, NULL},
        {"relu without gate", {.arch = "arcee", .activation = "relu"}, NULL},
        {"gelu without gate", {.arch = "arcee", .activation = "gelu"}, NULL},
        {"relu of qwen2", {.arch = "qwen2", .activation = "relu", .qkv_bias = true}, NULL},
        {"relu instead of the usual one", {.arch = "llama"}, "relu"},
        {"gelu instead of the file's", {.arch = "llama", .activation = "relu"}, "gelu"},
        {"relu in experts", {.arch = "llama", .expert_n = 4, .expert_used_n = 2}, "relu"},
    };
    check_variants(v, COUNT_OF(v));
}

Test(forward, experts) {
#define EXPERTS(architecture, n, used) .arch = architecture, .expert_n = n, .expert_used_n = used, .ff_n = 48
    static const variant v[] = {
        {"mixtral", {EXPERTS("llama", 4, 2), .head_kv_n = 2}, NULL},
        {"mixtral, experts apart", {EXPERTS("llama", 4, 2), .expert_storage = TINY_EXPERTS_APART}, NULL},
        {"mixtral, gate and up merged",
         {EXPERTS("llama", 4, 2), .expert_storage = TINY_EXPERTS_MERGED},
         NULL},
        {"one of eight", {EXPERTS("llama", 8, 1)}, NULL},
        {"all of three", {EXPERTS("llama", 3, 3)}, NULL},
        {"softmax over the selected",
         {EXPERTS("llama", 8, 3), .gating_func = 3, .weights_norm = "false"},
         NULL},
        {"softmax over all", {EXPERTS("qwen3moe", 8, 3), .gating_func = 1, .qk_norm = true}, NULL},
        {"scaled", {EXPERTS("llama", 8, 3), .weights_scale = 2.5f}, NULL},
        {"weights as they are", {EXPERTS("qwen3moe", 8, 3), .weights_norm = "false", .qk_norm = true}, NULL},
        {"weights normalised", {EXPERTS("qwen3moe", 8, 3), .weights_norm = "true", .qk_norm = true}, NULL},
        {"qwen3moe", {EXPERTS("qwen3moe", 16, 4), .head_kv_n = 2, .key_n = 32, .qk_norm = true}, NULL},
        {"qwen3moe merged",
         {EXPERTS("qwen3moe", 8, 2), .expert_storage = TINY_EXPERTS_MERGED, .qk_norm = true},
         NULL},
        {"qwen3moe tied", {EXPERTS("qwen3moe", 8, 2), .qk_norm = true, .tied = true}, NULL},
        {"bias of the router", {EXPERTS("llama", 8, 3), .router_bias = true}, NULL},
        {"many experts", {EXPERTS("qwen3moe", 70, 9), .qk_norm = true}, NULL},
        {"olmoe", {EXPERTS("olmoe", 8, 3), .qk_norm = true}, NULL},
        {"olmoe with fewer key heads", {EXPERTS("olmoe", 8, 3), .head_kv_n = 2, .qk_norm = true}, NULL},
    };
#undef EXPERTS
    check_variants(v, COUNT_OF(v));
}

/* ---- Architectures with ways of their own ------------------------------------------------------------ */

Test(forward, phi3) {
    static const variant v[] = {
        {"phi3", {.arch = "phi3", .fused_qkv = true}, NULL},
        {"phi3 with q, k and v apart", {.arch = "phi3", .head_kv_n = 2}, NULL},
        {"phi3 with a window", {.arch = "phi3", .head_kv_n = 2, .fused_qkv = true, .window_n = 9}, NULL},
        {"phi3, part of the head", {.arch = "phi3", .fused_qkv = true, .rotated_n = 12}, NULL},
        {"phi3 with relu", {.arch = "phi3", .activation = "relu"}, NULL},
        {"short divisors",
         {.arch = "phi3", .fused_qkv = true, .rope_factors = true, .rope_attn_factor = 1.19f},
         NULL},
        {"long divisors",
         {.arch = "phi3",
          .fused_qkv = true,
          .rope_factors = true,
          .rope_kind = "longrope",
          .rope_original_n = 64,
          .rope_attn_factor = 1.19f},
         NULL},
    };
    check_variants(v, COUNT_OF(v));
}

Test(forward, gemma) {
    static const variant v[] = {
        {"gemma2", {.arch = "gemma2", .head_kv_n = 2, .tied = true, .window_n = 6}, NULL},
        {"gemma2 with the usual window", {.arch = "gemma2", .tied = true}, NULL},
        {"gemma2 with tight caps",
         {.arch = "gemma2", .tied = true, .window_n = 6, .attention_cap = 0.7f, .logit_cap = 1.5f},
         NULL},
        {"gemma2 of 46 layers",
         {.arch = "gemma2", .layer_n = 46, .embd_n = 32, .head_n = 2, .key_n = 24, .vocab_n = 64},
         NULL},
        {"gemma3",
         {.arch = "gemma3", .layer_n = 7, .head_kv_n = 2, .qk_norm = true, .tied = true, .window_n = 5},
         NULL},
        {"gemma3, global layers scaled",
         {.arch = "gemma3",
          .layer_n = 7,
          .qk_norm = true,
          .window_n = 5,
          .freq_base = 1e6f,
          .rope_kind = "linear",
          .rope_factor = 8},
         NULL},
        {"gemma3 with another period",
         {.arch = "gemma3",
          .layer_n = 4,
          .qk_norm = true,
          .window_n = 5,
          .window_period = 3,
          .freq_base = 1e6f},
         NULL},
        {"gemma3 without a window", {.arch = "gemma3", .qk_norm = true, .freq_base = 1e6f}, NULL},
        {"caps of any architecture", {.arch = "llama", .attention_cap = 0.7f, .logit_cap = 1.5f}, NULL},
    };
    check_variants(v, COUNT_OF(v));
}

#define EXPERTS(architecture, n, used) .arch = architecture, .expert_n = n, .expert_used_n = used, .ff_n = 48

Test(forward, smallthinker) {
    static const variant v[] = {
        {"softmax", {EXPERTS("smallthinker", 8, 3), .layer_n = 5, .head_kv_n = 2, .window_n = 6}, NULL},
        {"sigmoid", {EXPERTS("smallthinker", 8, 3), .layer_n = 5, .window_n = 6, .gating_func = 2}, NULL},
        {"without a window", {EXPERTS("smallthinker", 8, 3), .layer_n = 5}, NULL},
    };
    check_variants(v, COUNT_OF(v));
}

Test(forward, glm4moe) {
#define GLM                                                                                                  \
    EXPERTS("glm4moe", 8, 3), .layer_n = 3, .dense_n = 1, .shared_n = 40, .qkv_bias = true, .rotated_n = 8
    static const variant v[] = {
        {"glm4moe", {GLM, .head_kv_n = 2, .choice_bias = true, .weights_scale = 2.5f}, NULL},
        {"with norms of q and k", {GLM, .qk_norm = true, .choice_bias = true}, NULL},
        {"without the bias", {GLM, .weights_norm = "true"}, NULL},
        {"weights as they are", {GLM, .choice_bias = true, .weights_norm = "false"}, NULL},
        {"with a block that guesses ahead", {GLM, .choice_bias = true, .next_n = 1, .by_layer = true}, NULL},
        {"best of groups", {GLM, .choice_bias = true, .group_n = 4, .group_used_n = 2}, NULL},
        {"softmax of groups", {GLM, .gating_func = 1, .group_n = 4, .group_used_n = 2}, NULL},
        {"groups of one", {GLM, .group_n = 8, .group_used_n = 5}, NULL},
        {"one group", {GLM, .group_n = 1, .group_used_n = 1}, NULL},
        {"relu", {GLM, .activation = "relu"}, NULL},
    };
#undef GLM
    check_variants(v, COUNT_OF(v));
}

Test(forward, gpt_oss) {
#define OSS                                                                                                  \
    EXPERTS("gpt-oss", 8, 3), .qkv_bias = true, .output_bias = true, .router_bias = true, .head_kv_n = 2,    \
                              .key_n = 32
    static const variant v[] = {
        {"gpt-oss", {OSS, .window_n = 6}, NULL},
        {"yarn",
         {OSS, .window_n = 6, .freq_base = 150000, .rope_kind = "yarn", .rope_factor = 32,
          .rope_original_n = 64},
         NULL},
        {"no window", {OSS}, NULL},
        {"merged", {OSS, .window_n = 6, .expert_storage = TINY_EXPERTS_MERGED}, NULL},
        {"relu", {OSS, .window_n = 6, .activation = "relu"}, NULL},
    };
#undef OSS
    check_variants(v, COUNT_OF(v));
}

Test(forward, deepseek2) {
#define V2                                                                                                   \
    EXPERTS("deepseek2", 8, 3), .layer_n = 3, .dense_n = 1, .shared_n = 40, .key_n = 24, .value_n = 20,      \
                                .rotated_n = 8, .latent_n = 32
#define V3                                                                                                   \
    V2, .query_rank = 48, .gating_func = 2, .weights_norm = "true", .weights_scale = 2.5f, .choice_bias = true
    static const variant v[] = {
        {"lite", {V2}, NULL},
        {"lite, heads apart", {V2, .heads_apart = true}, NULL},
        {"queries of two matrices", {V2, .query_rank = 48, .weights_scale = 16}, NULL},
        {"groups of softmax", {V2, .query_rank = 48, .group_n = 4, .group_used_n = 2}, NULL},
        {"v3", {V3, .group_n = 4, .group_used_n = 2}, NULL},
        {"v3, heads apart", {V3, .group_n = 4, .group_used_n = 2, .heads_apart = true}, NULL},
        {"v3 without groups", {V3, .heads_apart = true}, NULL},
        {"yarn",
         {V3, .rope_kind = "yarn", .rope_factor = 40, .rope_original_n = 64, .rope_log_multiplier = 0.0707f},
         NULL},
        {"narrow latents",
         {.arch = "deepseek2", .key_n = 24, .value_n = 20, .rotated_n = 8, .latent_n = 8, .query_rank = 16},
         NULL},
        {"half floats", {V2, .type = GGUF_F16}, NULL},
    };
    check_variants(v, COUNT_OF(v));
    for (uint32_t batch_n = 1; batch_n < 8; batch_n += 3)
        for (size_t i = 0; i < 2; i++) {
            double error = error_of(&v[i].model, &(rig_options){.batch_n = batch_n});
            cr_expect_lt(error, 1e-5, "%s, %u rows a step: relative error %.3g", v[i].label, batch_n, error);
        }
#undef V2
#undef V3
}

#undef EXPERTS

/* ---- Long texts ------------------------------------------------------------------------------------- */

/* Tokens a step: one, as many as share out their runs among threads, and more. */
static const uint32_t long_batches[] = {1, 3, 100, 512};

/* Longer than two runs of the attention, than several panels of the prefill, also for a single expert. */
Test(forward, long_texts) {
    enum { LONG_N = 601 };
    static const variant v[] = {
        {"all positions", {.head_kv_n = 2, .context_n = 640}, NULL},
        {"a window of a run and more", {.head_kv_n = 2, .context_n = 640, .window_n = 290}, NULL},
        {"a short window", {.head_kv_n = 2, .context_n = 640, .window_n = 37}, NULL},
        {"experts", {.arch = "llama", .context_n = 640, .expert_n = 4, .expert_used_n = 2, .ff_n = 32}, NULL},
    };
    int32_t *tokens = malloc(LONG_N * sizeof *tokens);
    cr_assert_not_null(tokens);
    for (size_t i = 0; i < COUNT_OF(v); i++) {
        double *truth = NULL;
        for (size_t k = 0; k < COUNT_OF(long_batches); k++) {
            rig r;
            rig_options o = {.batch_n = long_batches[k], .isa = long_batches[k] == 100 ? NULL : "avx2"};
            if (o.isa && !rig_has_isa(o.isa)) o.isa = NULL;
            rig_open_tiny(&r, &v[i].model, &o);
            tiny_tokens(3, (uint32_t)r.vocab_n, tokens, LONG_N);
            if (!truth) truth = rig_truth(&r, tokens, LONG_N, FLOAT64_EXACT);
            float *logits = rig_append(&r, r.session, tokens, LONG_N);
            double error = float64_relative_error(logits, truth, LONG_N * r.vocab_n);
            cr_expect_lt(error, 1e-5, "%s, %u rows a step: relative error %.3g", v[i].label, o.batch_n,
                         error);
            free(logits);
            rig_close(&r);
        }
        free(truth);
    }
    free(tokens);
}

/* What a token gets does not depend on the tokens that are worked on with it, nor does how positions before
 * its window are grouped: portable kernels sum in one order, so that nothing else differs. */
Test(forward, windows_are_the_same_however_prompts_are_cut) {
    enum { LONG_N = 601 };
    static const uint32_t windows[] = {0, 37, 290};
    static const gguf_type states[] = {GGUF_F32, GGUF_F16, GGUF_Q8_0};
    int32_t *tokens = malloc(LONG_N * sizeof *tokens);
    cr_assert_not_null(tokens);
    for (size_t i = 0; i < COUNT_OF(windows) * COUNT_OF(states); i++) {
        const tiny_model model = {.layer_n = 2,
                                  .embd_n = 64,
                                  .head_n = 2,
                                  .head_kv_n = 1,
                                  .ff_n = 32,
                                  .vocab_n = 64,
                                  .context_n = 640,
                                  .window_n = windows[i / COUNT_OF(states)]};
        float *logits[COUNT_OF(long_batches)];
        for (size_t k = 0; k < COUNT_OF(logits); k++) {
            rig r;
            const rig_options o = {.batch_n = long_batches[k], .state = states[i % COUNT_OF(states)]};
            rig_open_tiny(&r, &model, &o);
            tiny_tokens(3, (uint32_t)r.vocab_n, tokens, LONG_N);
            logits[k] = rig_append(&r, r.session, tokens, LONG_N);
            if (k)
                cr_expect_arr_eq(logits[k], logits[0], LONG_N * r.vocab_n * sizeof *logits[k],
                                 "window %u, %s, %u rows a step", model.window_n,
                                 gguf_type_get(o.state)->name, o.batch_n);
            rig_close(&r);
        }
        for (size_t k = 0; k < COUNT_OF(logits); k++) free(logits[k]);
    }
    free(tokens);
}

/* ---- Every type of weights, with every instruction set ----------------------------------------------- */

/* Every instruction set and, each, as a prefill (all rows at once) and as decode (one row a step), but AMX,
 * which has nothing of its own for one row. */
static size_t all_ways(rig_options ways[2 * RIG_ISAS]) {
    size_t n = 0;
    for (size_t i = 0; rig_isas[i]; i++) {
        if (!rig_has_isa(rig_isas[i])) continue;
        if (strcmp(rig_isas[i], "amx")) ways[n++] = (rig_options){.isa = rig_isas[i], .batch_n = 1};
        ways[n++] = (rig_options){.isa = rig_isas[i], .batch_n = 64};
    }
    return n;
}

/* What a type may cost, by the rule of the project: floats 0.5 %; blocks 3 %, for their activations have 8
 * bits; a state in Q8_0 is one of these. */
static void check_type(const tiny_model *base, gguf_type type, gguf_type state) {
    char path[256];
    rig_options ways[2 * RIG_ISAS];
    int32_t tokens[TOKEN_N];
    double *truth = NULL;
    const gguf_type_info *info = gguf_type_get(type);
    tiny_model model = *base;
    model.type = type;
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &model);
    for (size_t i = 0, way_n = all_ways(ways); i < way_n; i++) {
        rig r;
        ways[i].state = state;
        rig_open_file(&r, path, &ways[i]);
        tiny_tokens(model.seed, (uint32_t)r.vocab_n, tokens, TOKEN_N);
        if (!truth) truth = rig_truth(&r, tokens, TOKEN_N, FLOAT64_EXACT);
        float *logits = rig_append(&r, r.session, tokens, TOKEN_N);
        double error = float64_relative_error(logits, truth, TOKEN_N * r.vocab_n);
        cr_expect_lt(error, info->block_n == 1 && state != GGUF_Q8_0 ? 0.005 : 0.03,
                     "%s, %s, %u rows a step: relative error %.3g", info->name, ways[i].isa, ways[i].batch_n,
                     error);
        free(logits);
        rig_close(&r);
    }
    free(truth);
    unlink(path);
}

/* model_i: of models that a thinned build tries different types of. */
static void check_types(const tiny_model *model, size_t model_i, gguf_type state) {
    for (size_t t = 0; t < ALL_TYPES; t++)
        if (!thinned_out(model_i, t, 3)) check_type(model, all_types[t], state);
}

Test(forward, types) {
    static const tiny_model model = {.embd_n = 256, .head_n = 8, .head_kv_n = 4, .ff_n = 512};
    check_types(&model, 0, GGUF_F32);
}

Test(forward, types_with_f16_state) {
    static const tiny_model model = {
        .arch = "qwen2", .embd_n = 256, .head_n = 4, .head_kv_n = 2, .ff_n = 256, .qkv_bias = true};
    check_types(&model, 1, GGUF_F16);
}

/* Heads of multiples of 16 are kept in groups of positions, others in rows. */
Test(forward, widths_of_a_state_in_f16) {
    static const tiny_model models[] = {
        {.embd_n = 64, .head_n = 4, .head_kv_n = 2},
        {.embd_n = 64, .head_n = 4, .head_kv_n = 1, .key_n = 80, .value_n = 48},
        {.embd_n = 64, .head_n = 2, .head_kv_n = 2, .key_n = 32, .value_n = 24},
        {.embd_n = 64, .head_n = 8, .head_kv_n = 1, .key_n = 24, .value_n = 16},
    };
    static const gguf_type types[] = {GGUF_F32, GGUF_Q8_0}; /* the latter may be rounded to BF16 */
    for (size_t i = 0; i < COUNT_OF(models) * COUNT_OF(types); i++)
        check_type(&models[i / COUNT_OF(types)], types[i % COUNT_OF(types)], GGUF_F16);
}

/* Whole groups have room behind every head: two sessions fill the shortest of some contexts to the end. */
Test(forward, the_length_of_a_context_changes_no_bit) {
    enum { LEAST = 41, SESSIONS = 2 };
    static const uint32_t context_n[] = {64, LEAST, 50};
    static const gguf_type types[] = {GGUF_F32, GGUF_Q8_0}, states[] = {GGUF_F32, GGUF_F16, GGUF_Q8_0};
    rig_options ways[2 * RIG_ISAS];
    int32_t tokens[LEAST];
    for (size_t i = 0, way_n = all_ways(ways); i < way_n * COUNT_OF(types) * COUNT_OF(states); i++) {
        const tiny_model model = {.embd_n = 128,
                                  .head_n = 4,
                                  .head_kv_n = 2,
                                  .ff_n = 64,
                                  .type = types[i / way_n % COUNT_OF(types)]};
        float *logits[COUNT_OF(context_n)][SESSIONS];
        for (size_t k = 0; k < COUNT_OF(context_n); k++) {
            rig r;
            rig_options o = ways[i % way_n];
            o.state = states[i / way_n / COUNT_OF(types)];
            o.context_n = context_n[k];
            o.session_n = SESSIONS;
            rig_open_tiny(&r, &model, &o);
            hotset_session *second;
            cr_assert_eq(hotset_session_open(&second, r.engine, NULL), HOTSET_OK);
            hotset_session *session[SESSIONS] = {r.session, second};
            for (size_t j = 0; j < SESSIONS; j++) {
                tiny_tokens((uint32_t)j, (uint32_t)r.vocab_n, tokens, LEAST);
                logits[k][j] = rig_append(&r, session[j], tokens, LEAST);
                cr_expect_arr_eq(logits[k][j], logits[0][j], LEAST * r.vocab_n * sizeof **logits[k],
                                 "%s, state %s, %s, %u rows a step, context of %u",
                                 gguf_type_get(model.type)->name, gguf_type_get(o.state)->name, o.isa,
                                 o.batch_n, o.context_n);
            }
            hotset_session_free(second);
            rig_close(&r);
        }
        for (size_t k = 0; k < COUNT_OF(context_n) * SESSIONS; k++) free(logits[k / SESSIONS][k % SESSIONS]);
    }
}

Test(forward, types_with_q8_0_state) {
    static const tiny_model model = {
        .arch = "qwen3", .embd_n = 256, .head_n = 8, .head_kv_n = 4, .ff_n = 256, .qk_norm = true};
    check_types(&model, 2, GGUF_Q8_0);
}

Test(forward, types_of_tied_embeddings) {
    static const tiny_model model = {.arch = "arcee", .embd_n = 256, .head_n = 4, .ff_n = 512, .tied = true};
    check_types(&model, 1, GGUF_F32);
}

/* With these seeds no rounding moves a token to another expert: that alone may change its logits by a tenth.
 */
Test(forward, types_of_experts) {
    for (size_t t = 0; t < ALL_TYPES; t++) {
        if (thinned_out(2, t, 3)) continue;
        const tiny_model model = {.arch = "qwen3moe",
                                  .seed = all_types[t] == GGUF_Q5_0 || all_types[t] == GGUF_IQ4_NL ? 3 : 0,
                                  .embd_n = 256,
                                  .head_n = 4,
                                  .head_kv_n = 2,
                                  .ff_n = 256,
                                  .expert_n = 8,
                                  .expert_used_n = 2,
                                  .qk_norm = true};
        check_type(&model, all_types[t], GGUF_F32);
    }
}

Test(forward, types_of_latent_attention) {
    static const tiny_model model = {.arch = "deepseek2",
                                     .embd_n = 256,
                                     .head_n = 2,
                                     .key_n = 288,
                                     .value_n = 256,
                                     .rotated_n = 32,
                                     .latent_n = 256,
                                     .query_rank = 256,
                                     .ff_n = 256};
    tiny_model apart = model;
    apart.heads_apart = true;
    check_types(&model, 0, GGUF_F32);
    check_types(&apart, 1, GGUF_F16);
    check_types(&model, 2, GGUF_Q8_0);
}

/* Rows that are whole blocks of 32, but not of 256; and float rows that fill no vector register. */
Test(forward, odd_row_lengths) {
    static const tiny_model blocks = {.embd_n = 96, .head_n = 6, .head_kv_n = 3, .ff_n = 160, .vocab_n = 99};
    static const tiny_model floats = {.embd_n = 50, .head_n = 5, .head_kv_n = 1, .ff_n = 77, .vocab_n = 131};
    check_type(&blocks, GGUF_Q8_0, GGUF_F32);
    check_type(&blocks, GGUF_Q4_0, GGUF_F32);
    check_type(&floats, GGUF_F32, GGUF_F32);
    check_type(&floats, GGUF_F16, GGUF_F32);
    check_type(&floats, GGUF_BF16, GGUF_F32);
}

/* ---- Beside a twin that rounds alike ---------------------------------------------------------------- */

enum { TEXT_N = 7, TEXT_TOKEN_N = 5, WIDE_TEXT_N = 3, WIDE_TOKEN_N = 64 };

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median error over short texts against `twin`, the float64 pass that rounds activations by the engine's
 * rule. Then nothing is left but sums in another order; but once in a few hundred tokens those make an
 * activation round to the other side, which the rest of that text does not forget. */
static double median_error(const rig *r, double *const twin[TEXT_N], int32_t tokens[TEXT_N][TEXT_TOKEN_N]) {
    double error[TEXT_N];
    for (size_t i = 0; i < TEXT_N; i++) {
        hotset_session_truncate(r->session, 0);
        float *logits = rig_append(r, r->session, tokens[i], TEXT_TOKEN_N);
        error[i] = float64_relative_error(logits, twin[i], TEXT_TOKEN_N * r->vocab_n);
        free(logits);
    }
    qsort(error, TEXT_N, sizeof *error, compare_doubles);
    return error[TEXT_N / 2];
}

static void check_twin(const variant *v, gguf_type type, gguf_type state) {
    char path[256];
    rig_options ways[2 * RIG_ISAS];
    int32_t tokens[TEXT_N][TEXT_TOKEN_N];
    double *twin[TEXT_N] = {0};
    tiny_model model = v->model;
    model.type = type;
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &model);
    for (size_t i = 0, way_n = all_ways(ways); i < way_n; i++) {
        if (!strcmp(ways[i].isa, "amx")) continue; /* so few tokens are multiplied by AVX-512 */
        rig r;
        ways[i].state = state;
        rig_open_file(&r, path, &ways[i]);
        for (size_t t = 0; t < TEXT_N && !twin[t]; t++) {
            tiny_tokens(t, (uint32_t)r.vocab_n, tokens[t], TEXT_TOKEN_N);
            twin[t] = rig_truth(&r, tokens[t], TEXT_TOKEN_N, FLOAT64_EIGHT_BITS);
        }
        double error = median_error(&r, twin, tokens);
        cr_expect_lt(error, 1e-5, "%s, %s, %s, %u rows a step: relative error %.3g", v->label,
                     gguf_type_get(type)->name, ways[i].isa, ways[i].batch_n, error);
        rig_close(&r);
    }
    for (size_t t = 0; t < TEXT_N; t++) free(twin[t]);
    unlink(path);
}

/* So many rows that wide tiles multiply them. Small numbers in BF16 have finer steps than those in 8 bits, so
 * that sums in another order make ten times as many round to the other side: counted are tokens. */
static void check_wide_twin(const variant *v, gguf_type type) {
    rig r;
    int32_t tokens[WIDE_TOKEN_N];
    double alike = 0;
    tiny_model model = v->model;
    model.type = type;
    rig_open_tiny(&r, &model, &(rig_options){.isa = "amx", .batch_n = 64});
    for (size_t i = 0; i < WIDE_TEXT_N; i++) {
        tiny_tokens(i, (uint32_t)r.vocab_n, tokens, WIDE_TOKEN_N);
        hotset_session_truncate(r.session, 0);
        float *logits = rig_append(&r, r.session, tokens, WIDE_TOKEN_N);
        double *twin = rig_truth(&r, tokens, WIDE_TOKEN_N, FLOAT64_BF16);
        alike += float64_rows_within(logits, twin, WIDE_TOKEN_N, r.vocab_n, 1e-5) / WIDE_TEXT_N;
        free(logits);
        free(twin);
    }
    cr_expect_gt(alike, 0.25, "%s, %s: only %.3g of the tokens are alike", v->label,
                 gguf_type_get(type)->name, alike);
    rig_close(&r);
}

/* Here 3 % of rounding can hide no mistake. */
#define WIDTHS .layer_n = 1, .embd_n = 256, .head_kv_n = 2, .ff_n = 256, .vocab_n = 64
static const variant twins[] = {
    {"dense", {WIDTHS}, NULL},
    {"relu2, tied", {WIDTHS, .arch = "arcee", .tied = true}, NULL},
    {"experts", {WIDTHS, .arch = "qwen3moe", .expert_n = 4, .expert_used_n = 2, .qk_norm = true}, NULL},
    {"merged experts",
     {WIDTHS, .expert_n = 3, .expert_used_n = 1, .expert_storage = TINY_EXPERTS_MERGED},
     NULL},
    {"fused q, k, v", {WIDTHS, .arch = "qwen2", .fused_qkv = true, .qkv_bias = true}, NULL},
    {"gate and up in one", {WIDTHS, .arch = "phi3"}, NULL},
    {"sums normed", {WIDTHS, .arch = "gemma2", .window_n = 3, .tied = true}, NULL},
    {"cut, with sinks",
     {WIDTHS, .arch = "gpt-oss", .expert_n = 4, .expert_used_n = 2, .qkv_bias = true, .window_n = 3},
     NULL},
    {"sigmoids, shared experts",
     {WIDTHS, .arch = "glm4moe", .expert_n = 4, .expert_used_n = 2, .qkv_bias = true, .shared_n = 256},
     NULL},
};
#undef WIDTHS

Test(forward, types_equal_their_rounding_twin) {
    for (size_t i = 0; i < COUNT_OF(twins); i++)
        for (size_t t = 0; t < ALL_TYPES; t++)
            if (!thinned_out(i, t, 7)) check_twin(&twins[i], all_types[t], GGUF_F32);
}

Test(forward, so_they_do_by_wide_tiles) {
    if (!rig_has_isa("amx")) cr_skip_test("no AMX");
    for (size_t i = 0; i < COUNT_OF(twins); i++)
        for (size_t t = 0; t < ALL_TYPES; t++)
            if ((i + t) % thinned(3, 12) == 0) check_wide_twin(&twins[i], all_types[t]);
}

Test(forward, a_state_in_q8_0_equals_its_rounding_twin) {
#define WIDTHS .layer_n = 1, .embd_n = 128, .head_n = 4, .ff_n = 128, .vocab_n = 64
    static const variant v[] = {
        {"multi-head", {WIDTHS}, NULL},
        {"grouped queries", {WIDTHS, .head_kv_n = 2, .qk_norm = true, .arch = "qwen3"}, NULL},
        {"values wider than keys", {WIDTHS, .key_n = 32, .value_n = 96, .head_kv_n = 2}, NULL},
        {"values narrower than keys", {WIDTHS, .key_n = 64, .value_n = 32, .head_kv_n = 1}, NULL},
        {"a window, caps", {WIDTHS, .arch = "gemma2", .window_n = 3, .head_kv_n = 2, .tied = true}, NULL},
        {"sinks",
         {WIDTHS, .arch = "gpt-oss", .expert_n = 4, .expert_used_n = 2, .qkv_bias = true, .window_n = 3},
         NULL},
        {"latents",
         {WIDTHS, .arch = "deepseek2", .key_n = 64, .value_n = 48, .rotated_n = 32, .latent_n = 96},
         NULL},
    };
#undef WIDTHS
    for (size_t i = 0; i < COUNT_OF(v); i++) {
        check_twin(&v[i], GGUF_F32, GGUF_Q8_0);
        check_twin(&v[i], GGUF_F16, GGUF_Q8_0);
        /* the twin makes keys of latents, which are then rounded elsewhere */
        if (!v[i].model.latent_n) check_twin(&v[i], GGUF_Q8_0, GGUF_Q8_0);
    }
}

/* ---- The instruments -------------------------------------------------------------------------------- */

/* An error could hide where logits are flat, or do not depend on the text. */
Test(forward, tiny_models_tell_texts_apart) {
    static const char *const arch[] = {"llama", "qwen2", "qwen3",  "qwen3moe", "olmoe",   "smallthinker",
                                       "arcee", "phi3",  "gemma2", "gemma3",   "nemotron"};
    for (size_t a = 0; a < COUNT_OF(arch); a++) {
        enum { VOCAB_N = 272 };
        char path[256];
        gguf *g;
        int32_t tokens[TOKEN_N];
        float other[TOKEN_N * VOCAB_N];
        static double one[TOKEN_N * VOCAB_N], two[TOKEN_N * VOCAB_N];
        tiny_model model = {
            .arch = arch[a], .expert_n = a >= 3 && a < 6 ? 8 : 0, .expert_used_n = a >= 3 && a < 6 ? 2 : 0};
        rig_temporary(path, sizeof path);
        tiny_model_write(path, &model);
        cr_assert_eq(gguf_open(&g, path, NULL), HOTSET_OK);
        unlink(path);
        tiny_tokens(1, VOCAB_N, tokens, TOKEN_N);
        float64_forward(g, NULL, tokens, TOKEN_N, one);
        tokens[0] ^= 1;
        float64_forward(g, NULL, tokens, TOKEN_N, two);
        gguf_free(g);

        const double *last = one + (TOKEN_N - 1) * VOCAB_N;
        double square = 0;
        for (size_t i = 0; i < VOCAB_N; i++) square += last[i] * last[i] / VOCAB_N;
        cr_expect(sqrt(square) > 0.5 && sqrt(square) < 20, "%s: logits of size %.3g", arch[a], sqrt(square));
        for (size_t i = 0; i < COUNT_OF(other); i++) other[i] = (float)two[i];
        double change = float64_relative_error(other + (TOKEN_N - 1) * VOCAB_N, last, VOCAB_N);
        cr_expect_gt(change, 1e-3, "%s: the first token changes the last logits by only %.3g", arch[a],
                     change);
    }
}
