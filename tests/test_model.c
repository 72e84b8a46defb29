/* test_model.c - what a model says about itself, to operations, too, and how files that are no good are
 * refused. */
#include "engine/executor.h"
#include "tests/rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Opens a tiny model that must be refused; returns the error. */
static hotset_error refusal(const tiny_model *model) {
    char path[256];
    hotset_error err = {0};
    hotset_model *opened = (hotset_model *)&err; /* anything but NULL */
    rig_temporary(path, sizeof path);
    tiny_model_write(path, model);
    hotset_status status = hotset_model_open(&opened, path, NULL, &err);
    unlink(path);
    cr_expect_neq(status, HOTSET_OK, "opened a model that should be refused");
    cr_expect_null(opened);
    cr_expect_eq(err.status, status);
    return err;
}

/* The tensors that each kind of model cannot do without. */
static const struct {
    tiny_model model;
    const char *needed[18];
} kinds[] = {
    {{.arch = "llama"},
     {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_norm.weight",
      "blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.0.attn_v.weight", "blk.1.attn_output.weight",
      "blk.0.ffn_norm.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight", "blk.0.ffn_down.weight"}},
    {{.arch = "qwen2", .qkv_bias = true},
     {"blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.0.attn_v.weight", "blk.0.attn_q.bias",
      "blk.1.attn_k.bias", "blk.1.attn_v.bias"}},
    {{.arch = "qwen3", .qk_norm = true}, {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"}},
    {{.arch = "arcee"}, {"blk.0.ffn_up.weight", "blk.1.ffn_down.weight"}},
    {{.arch = "qwen3moe", .qk_norm = true, .expert_n = 4, .expert_used_n = 2},
     {"blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight",
      "blk.0.ffn_down_exps.weight"}},
    {{.arch = "qwen3moe",
      .qk_norm = true,
      .expert_n = 4,
      .expert_used_n = 2,
      .expert_storage = TINY_EXPERTS_MERGED},
     {"blk.1.ffn_gate_inp.weight", "blk.0.ffn_down_exps.weight"}},
    {{.arch = "llama", .expert_n = 4, .expert_used_n = 2, .expert_storage = TINY_EXPERTS_APART},
     {"blk.0.ffn_gate.3.weight", "blk.1.ffn_up.1.weight", "blk.0.ffn_down.2.weight"}},
    {{.arch = "olmoe", .qk_norm = true, .expert_n = 4, .expert_used_n = 2},
     {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"}},
    {{.arch = "nemotron"}, {"output_norm.bias", "blk.0.attn_norm.bias", "blk.1.ffn_norm.bias"}},
    {{.arch = "phi3"}, {"blk.0.ffn_up.weight", "blk.1.ffn_norm.weight"}},
    {{.arch = "opt"}, {"blk.0.ffn_norm.bias", "blk.0.ffn_down.weight"}},
    {{.arch = "gemma2"},
     {"blk.0.post_attention_norm.weight", "blk.1.post_ffw_norm.weight", "blk.0.ffn_norm.weight"}},
    {{.arch = "glm4moe", .expert_n = 4, .expert_used_n = 2, .shared_n = 32, .qkv_bias = true},
     {"blk.0.ffn_gate_shexp.weight", "blk.1.ffn_up_shexp.weight", "blk.0.ffn_down_shexp.weight",
      "blk.1.attn_q.bias"}},
    {{.arch = "deepseek2", .key_n = 24, .value_n = 16, .rotated_n = 8, .latent_n = 32},
     {"blk.0.attn_kv_a_mqa.weight", "blk.1.attn_kv_a_norm.weight", "blk.0.attn_kv_b.weight"}},
    {{.arch = "deepseek2",
      .key_n = 24,
      .value_n = 16,
      .rotated_n = 8,
      .latent_n = 32,
      .query_rank = 16,
      .heads_apart = true},
     {"blk.0.attn_q_a_norm.weight", "blk.1.attn_q_b.weight"}},
};

Test(model, a_missing_tensor_is_named) {
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        for (size_t i = 0; kinds[k].needed[i]; i++) {
            tiny_model model = kinds[k].model;
            model.omit = kinds[k].needed[i];
            hotset_error err = refusal(&model);
            cr_expect_eq(err.status, HOTSET_E_FORMAT, "%s: %s", model.omit, err.message);
            cr_expect_not_null(strstr(err.message, model.omit), "%s is not in: %s", model.omit, err.message);
        }
    }
}

/* The vocabulary has no other source than the embedding, so its height cannot be wrong alone. */
Test(model, a_tensor_of_the_wrong_shape_is_named) {
    static const struct {
        tiny_model model;
        const char *name;
    } more[] = {
        {{.arch = "llama"}, "output.weight"},
        {{.arch = "llama", .rope_freqs = true}, "rope_freqs.weight"},
        {{.arch = "llama", .qkv_bias = true}, "blk.1.attn_k.bias"},
        {{.arch = "llama", .output_bias = true}, "blk.0.attn_output.bias"},
        {{.arch = "llama", .ffn_bias = true}, "blk.0.ffn_up.bias"},
        {{.arch = "llama", .fused_qkv = true}, "blk.0.attn_qkv.weight"},
        {{.arch = "llama", .fused_qkv = true, .qkv_bias = true}, "blk.0.attn_qkv.bias"},
        {{.expert_n = 4, .expert_used_n = 2, .expert_storage = TINY_EXPERTS_MERGED},
         "blk.0.ffn_gate_up_exps.weight"},
    };
    for (size_t k = 0; k < COUNT_OF(kinds) + COUNT_OF(more); k++) {
        bool extra = k >= COUNT_OF(kinds);
        tiny_model model = extra ? more[k - COUNT_OF(kinds)].model : kinds[k].model;
        const char *const *name = extra ? &more[k - COUNT_OF(kinds)].name : kinds[k].needed;
        for (size_t i = 0; i < (extra ? 1 : 18) && name[i]; i++) {
            if (!strcmp(name[i], "token_embd.weight")) continue;
            model.misshape = name[i];
            hotset_error err = refusal(&model);
            cr_expect_eq(err.status, HOTSET_E_FORMAT, "%s: %s", name[i], err.message);
            cr_expect_not_null(strstr(err.message, name[i]), "%s is not in: %s", name[i], err.message);
        }
    }
}

Test(model, what_is_not_known_is_named) {
    static const struct {
        tiny_model model;
        const char *named;
        hotset_status status;
    } unknown[] = {
        {{.arch = "gpt7"}, "gpt7", HOTSET_E_UNSUPPORTED},
        {{.arch = ""}, "architecture", HOTSET_E_UNSUPPORTED},
        {{.arch = "llama", .activation = "tanhshrink"}, "tanhshrink", HOTSET_E_UNSUPPORTED},
        {{.arch = "llama", .rope_kind = "spiral", .rope_factor = 2}, "spiral", HOTSET_E_UNSUPPORTED},
        {{.expert_n = 4, .expert_used_n = 2, .gating_func = 9}, "expert_gating_func", HOTSET_E_UNSUPPORTED},
        {{.expert_n = 4, .expert_used_n = 5}, "expert_used_count", HOTSET_E_FORMAT},
        {{.head_n = 4, .head_kv_n = 3}, "3", HOTSET_E_FORMAT},
        {{.arch = "llama", .rotated_n = 7}, "rope.dimension_count", HOTSET_E_FORMAT},
        {{.arch = "llama", .rotated_n = 18}, "rope.dimension_count", HOTSET_E_FORMAT},
        {{.rope_kind = "yarn", .rope_factor = -4}, "rope.scaling", HOTSET_E_FORMAT},
        {{.rope_freqs = true, .rope_divisor = -1}, "rope_freqs.weight", HOTSET_E_FORMAT},
        {{.rope_freqs = true, .rope_divisor = INFINITY}, "rope_freqs.weight", HOTSET_E_FORMAT},
    };
    for (size_t i = 0; i < COUNT_OF(unknown); i++) {
        hotset_error err = refusal(&unknown[i].model);
        cr_expect_eq(err.status, unknown[i].status, "%s: %s", unknown[i].named, err.message);
        cr_expect_not_null(strstr(err.message, unknown[i].named), "%s is not in: %s", unknown[i].named,
                           err.message);
    }
}

/* Every type of the table that the engine has no products for, in stacked experts and in experts apart. */
Test(model, a_type_without_products_is_named) {
    static const gguf_type types[] = {GGUF_NVFP4, GGUF_I8,      GGUF_F64,   GGUF_TQ1_0,
                                      GGUF_Q8_K,  GGUF_IQ2_XXS, GGUF_IQ3_S, GGUF_IQ1_M};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        const char *type = gguf_type_get(types[i])->name;
        tiny_model model = {.type = types[i], .layer_n = 1, .embd_n = 256, .ff_n = 256, .vocab_n = 8};
        hotset_error err = refusal(&model);
        cr_expect_eq(err.status, HOTSET_E_UNSUPPORTED, "%s: %s", type, err.message);
        cr_expect(strstr(err.message, type) && strstr(err.message, "token_embd.weight"), "%s: %s", type,
                  err.message);
    }
    /* rows of 64 are no whole blocks of 256: there the matrices are F16, and only the experts' have rows of
     * 256 */
    tiny_model apart = {.type = GGUF_IQ3_S, .ff_n = 256, .expert_n = 2, .expert_used_n = 1};
    apart.expert_storage = TINY_EXPERTS_APART;
    hotset_error err = refusal(&apart);
    cr_expect_eq(err.status, HOTSET_E_UNSUPPORTED, "%s", err.message);
    cr_expect_not_null(strstr(err.message, "blk.0.ffn_down.0.weight"), "%s", err.message);
}

Test(model, an_unknown_activation_option_is_an_argument_error) {
    char path[256];
    hotset_model *model;
    hotset_error err = {0};
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &(tiny_model){.arch = "llama"});
    cr_expect_eq(hotset_model_open(&model, path, &(hotset_model_options){.activation = "step"}, &err),
                 HOTSET_E_ARGUMENT);
    cr_expect_not_null(strstr(err.message, "step"), "%s", err.message);
    unlink(path);
}

Test(model, shape_of_a_dense_model) {
    rig r;
    tiny_model model = {.layer_n = 3, .embd_n = 96, .head_n = 6, .head_kv_n = 2, .key_n = 24, .value_n = 20};
    model.ff_n = 100, model.vocab_n = 300, model.context_n = 77, model.window_n = 12,
    model.activation = "relu";
    model.tied = true;
    rig_open_tiny(&r, &model, NULL);
    const hotset_shape *s = hotset_model_shape(r.model);
    cr_expect_str_eq(s->architecture, "llama");
    cr_expect_str_eq(s->name, "tiny");
    cr_expect_str_eq(s->activation, "relu");
    cr_expect_eq(s->layer_n, 3);
    cr_expect_eq(s->embd_n, 96);
    cr_expect_eq(s->head_n, 6);
    cr_expect_eq(s->head_kv_n, 2);
    cr_expect_eq(s->key_n, 24);
    cr_expect_eq(s->value_n, 20);
    cr_expect_eq(s->ff_n, 100);
    cr_expect_eq(s->expert_n, 0);
    cr_expect_eq(s->vocab_n, 300);
    cr_expect_eq(s->context_train_n, 77);
    cr_expect_eq(s->window_n, 12);
    cr_expect(s->gated && s->tied);
    /* embedding and last norm; q, k, v, output; gate, up, down; two norms */
    uint64_t layer = 96 * 144 + 96 * 48 + 96 * 40 + 120 * 96 + 3 * 96 * 100 + 2 * 96;
    cr_expect_eq(s->parameter_n, 300 * 96 + 96 + 3 * layer);
    cr_expect_eq(s->weight_bytes, 4 * s->parameter_n);
    rig_close(&r);
}

Test(model, shape_of_a_mixture) {
    rig r;
    tiny_model model = {.arch = "qwen3moe", .qk_norm = true, .expert_n = 6, .expert_used_n = 2, .ff_n = 40};
    rig_open_tiny(&r, &model, NULL);
    const hotset_shape *s = hotset_model_shape(r.model);
    cr_expect_eq(s->expert_n, 6);
    cr_expect_eq(s->expert_used_n, 2);
    cr_expect_eq(s->ff_n, 40);
    cr_expect_str_eq(s->activation, "silu");
    cr_expect(s->gated && !s->tied);
    rig_close(&r);
}

/* Latent attention is the same model in both layouts of its files: so is its shape. */
Test(model, latent_attention_has_one_shape) {
    uint64_t shape[2], ignored;
    for (int apart = 0; apart < 2; apart++) {
        rig r;
        tiny_model model = {.arch = "deepseek2",
                            .key_n = 24,
                            .value_n = 16,
                            .rotated_n = 8,
                            .latent_n = 32,
                            .heads_apart = apart};
        if (apart) model.head_kv_n = 1;
        hotset_error err = {0};
        rig_open_tiny(&r, &model, NULL);
        const hotset_shape *s = hotset_model_shape(r.model);
        cr_expect_eq(s->head_kv_n, 4);
        cr_expect_eq(s->key_n, 24);
        cr_expect_eq(s->value_n, 16);
        cr_assert_eq(model_fingerprints(r.model, &shape[apart], &ignored, &err), HOTSET_OK);
        /* of a position: the latent numbers and the rotated key, in F32 */
        cr_expect_eq(r.engine->device[0].state.bytes,
                     (uint64_t)s->layer_n * (32 + 8) * 4 * hotset_plan_resolved(r.plan).context_n);
        rig_close(&r);
    }
    cr_expect_eq(shape[0], shape[1]);
}

Test(model, blocks_that_guess_ahead_are_no_layers) {
    rig r;
    tiny_model model = {.arch = "glm4moe",
                        .layer_n = 3,
                        .expert_n = 4,
                        .expert_used_n = 2,
                        .dense_n = 1,
                        .next_n = 1,
                        .qkv_bias = true,
                        .shared_n = 32};
    rig_open_tiny(&r, &model, NULL);
    cr_expect_eq(hotset_model_shape(r.model)->layer_n, 3);
    cr_expect_eq(hotset_model_shape(r.model)->expert_layer_n, 2);
    rig_close(&r);
}

Test(model, learned_positions_limit_the_context) {
    char path[256];
    hotset_model *m;
    hotset_plan *p;
    hotset_error err = {0};
    tiny_model model = {.arch = "opt", .context_n = 40, .omit = "position_embd.weight"};
    hotset_error missing = refusal(&model);
    cr_expect_str_eq(missing.message, "tensor position_embd.weight is missing");
    model.omit = NULL;
    rig_temporary(path, sizeof path);
    tiny_model_write(path, &model);
    cr_assert_eq(hotset_model_open(&m, path, NULL, &err), HOTSET_OK, "%s", err.message);
    unlink(path);
    cr_expect_eq(hotset_model_shape(m)->context_max_n, 40);
    hotset_plan_options o = hotset_plan_default_options();
    o.context_n = 41;
    cr_expect_eq(hotset_plan_cpu(&p, m, &o, &err), HOTSET_E_ARGUMENT);
    cr_expect_str_eq(err.message, "plan: a context of 41, of which the model knows 40 positions");
    hotset_model_free(m);
}

Test(model, groups_and_routers_that_cannot_be_are_refused) {
    tiny_model model = {.arch = "glm4moe", .expert_n = 8, .expert_used_n = 3, .qkv_bias = true};
    model.group_n = 3, model.group_used_n = 1;
    hotset_error err = refusal(&model);
    cr_expect_eq(err.status, HOTSET_E_FORMAT, "%s", err.message);
    model.group_n = 4, model.group_used_n = 1; /* two experts, three are used */
    err = refusal(&model);
    cr_expect_eq(err.status, HOTSET_E_FORMAT, "%s", err.message);
    model.expert_n = 2 * (DEVICE_GROUP_MAX + 1);
    model.group_n = DEVICE_GROUP_MAX + 1, model.group_used_n = 2;
    err = refusal(&model);
    cr_expect_eq(err.status, HOTSET_E_FORMAT, "%s", err.message);
    model.expert_n = 8;
    model.group_n = model.group_used_n = 0;
    model.gating_func = 4;
    err = refusal(&model);
    cr_expect_eq(err.status, HOTSET_E_UNSUPPORTED, "%s", err.message);
    model.gating_func = 0;
    model.dense_n = 2;
    err = refusal(&model);
    cr_expect_eq(err.status, HOTSET_E_FORMAT, "%s", err.message);
}

/* ---- What operations are told of it ----------------------------------------------------------------- */

/* Which of the attentions that ran may round rows in F16. */
typedef struct rounding {
    uint32_t op_n, rounded_n;
} rounding;

static void look_at_attention(void *cookie, const device_op *op, uint32_t row_n, double begin_s,
                              double end_s) {
    (void)row_n, (void)begin_s, (void)end_s;
    rounding *seen = cookie;
    if (op->kind != DEVICE_OP_ATTEND) return;
    seen->op_n++;
    seen->rounded_n += op->attend.rounded;
}

/* In models of block types, whose products round activations more coarsely anyway. */
Test(model, attention_may_round_where_products_do) {
    static const gguf_type type[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_MXFP4};
    for (size_t i = 0; i < COUNT_OF(type); i++) {
        rig r;
        rounding seen = {0};
        const int32_t token = 1;
        const bool blocks = gguf_type_get(type[i])->block_n > 1;
        rig_open_tiny(&r, &(tiny_model){.arch = "llama", .type = type[i]}, &(rig_options){.state = GGUF_F16});
        device *d = r.engine->device[0].device;
        d->api->set_trace(d, look_at_attention, &seen);
        free(rig_append(&r, r.session, &token, 1));
        rig_close(&r);
        cr_expect_eq(seen.op_n, 2, "%u attentions in two layers", seen.op_n);
        cr_expect_eq(seen.rounded_n, blocks ? 2 : 0, "%s: %u of 2 may round", gguf_type_get(type[i])->name,
                     seen.rounded_n);
    }
}
