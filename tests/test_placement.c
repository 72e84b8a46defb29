/* test_placement.c - equality of placements: what a model says does not depend on which devices have which
 * parts of it. Devices are emulated. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/executor.h"
#include "engine/machine.h"
#include "tests/planning.h"
#include "tests/rig.h"
#include "tests/thinned.h"

enum { TOKENS = 21, SINGLE = 3 /* of them one by one, the others at once */, BATCH = 16 };

typedef struct placement_case {
    tiny_model model;
    hotset_sparsity sparsity;
    const char *devices, *place; /* place NULL: all on the CPU */
    gguf_type state;
} placement_case;

static bool has_emulation(void) { return !access(HOTSET_MODULE_FOLDER "/libhotset-emu.so", R_OK); }

static void need_emulation(void) {
    if (!has_emulation()) cr_skip_test("this build has no emulated devices");
}

static hotset_plan_options options_of(const placement_case *c) {
    hotset_plan_options o = hotset_plan_default_options();
    o.isa = "scalar";
    o.thread_n = 1;
    o.batch_n = BATCH;
    o.context_n = 32;
    o.state_type = rig_state(c->state);
    o.sparsity = c->sparsity;
    o.memory = HOTSET_MEMORY_COPIED;
    return o;
}

static hotset_status make_plan(hotset_plan **out, const hotset_model *m, const placement_case *c,
                               hotset_error *err) {
    hotset_plan_options o = options_of(c);
    if (!c->place) return hotset_plan_cpu(out, m, &o, err);
    return hotset_plan_place(out, m, c->devices, c->place, HOTSET_MODULE_FOLDER, NULL, &o, err);
}

static hotset_model *open_model(const tiny_model *t) {
    char path[256];
    hotset_error err = {0};
    hotset_model *m;
    rig_temporary(path, sizeof path);
    tiny_model_write(path, t);
    cr_assert_eq(hotset_model_open(&m, path, NULL, &err), HOTSET_OK, "%s", err.message);
    unlink(path);
    return m;
}

typedef struct sink {
    float *to;
    size_t n;
} sink;

static void take(void *cookie, size_t position, const float *logits, size_t logit_n) {
    sink *s = cookie;
    (void)position;
    memcpy(s->to + s->n, logits, logit_n * sizeof *logits);
    s->n += logit_n;
}

/* The logits of all tokens of a text, most at once, then some one by one. The caller frees them. */
static float *run_plan(const hotset_model *m, const hotset_plan *plan, const char *devices, size_t *n) {
    hotset_error err = {0};
    hotset_engine_options o = hotset_engine_default_options();
    hotset_engine *engine;
    hotset_session *session;
    int32_t token[TOKENS];
    o.devices = devices;
    o.module_folder = HOTSET_MODULE_FOLDER;
    tiny_tokens(5, m->shape.vocab_n, token, TOKENS);
    cr_assert_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_OK, "%s", err.message);
    device_cpu_set_skipping(engine->device[0].device, DEVICE_CPU_SKIP_ALWAYS);
    cr_assert_eq(hotset_session_open(&session, engine, &err), HOTSET_OK, "%s", err.message);
    sink s = {malloc((size_t)TOKENS * m->shape.vocab_n * sizeof(float)), 0};
    cr_assert_eq(hotset_session_append(session, token, TOKENS - SINGLE, take, &s), HOTSET_OK, "%s",
                 hotset_session_error(session)->message);
    for (int i = TOKENS - SINGLE; i < TOKENS; i++)
        cr_assert_eq(hotset_session_append(session, token + i, 1, take, &s), HOTSET_OK, "%s",
                     hotset_session_error(session)->message);
    hotset_session_free(session);
    hotset_engine_free(engine);
    *n = s.n;
    return s.to;
}

static float *run_case(const hotset_model *m, const placement_case *c, size_t *n) {
    hotset_error err = {0};
    hotset_plan *plan;
    cr_assert_eq(make_plan(&plan, m, c, &err), HOTSET_OK, "%s: %s", c->place, err.message);
    float *logits = run_plan(m, plan, c->devices, n);
    hotset_plan_free(plan);
    return logits;
}

/* Runs the model on the CPU and by each of the placements, twice by the last; a thinned build by the last and
 * some of the others, which the kind of model says. */
static void check_places(placement_case c, const char *const *places, double tolerance) {
    hotset_model *m = open_model(&c.model);
    const size_t kind = c.model.type + c.model.expert_n + (size_t)c.sparsity;
    size_t n, other_n;
    c.place = NULL;
    float *want = run_case(m, &c, &n);
    for (size_t i = 0; places[i]; i++) {
        const bool last = places[i + 1] == NULL; /* the most involved one */
        if (!last && thinned_out(kind, i, 3)) continue;
        c.place = places[i];
        c.devices = strstr(c.place, "emu1") ? "emu:64MiB,emu:64MiB:reverse" : "emu:64MiB";
        float *have = run_case(m, &c, &other_n);
        float *again = last && thinned(true, false) ? run_case(m, &c, &other_n) : NULL;
        cr_assert_eq(n, other_n);
        double distance = rig_distance(have, want, n);
        cr_expect(distance <= tolerance, "%s %s %d: %g off", gguf_type_get(c.model.type)->name, c.place,
                  (int)c.sparsity, distance);
        if (again) cr_expect_arr_eq(have, again, n * sizeof *have, "%s: other bits the second time", c.place);
        free(have);
        free(again);
    }
    free(want);
    hotset_model_free(m);
}

static const char *const all_places[] = {
    "ffn=emu0:0",
    "ffn=emu0:0.1",
    "ffn=emu0:0.5",
    "ffn=emu0:0.9",
    "ffn=emu0:1",
    "attn=emu0,ffn=emu0,head=emu0",
    "attn=emu0:1,ffn=emu0:0.5",
    "attn=emu0,ffn=emu0:0.4,head=emu0",
    "attn=emu0",
    "head=emu0",
    "ffn=emu0:0.3+emu1:0.2",
    "attn=emu0:1+emu1:1,ffn=emu0:0.3+emu1:0.3,head=emu1",
    "attn=emu1:1,ffn=emu1:0.5+emu0:0.5,head=emu0",
    NULL,
};
static const char *const few_places[] = {"ffn=emu0:0.5", "attn=emu0:1,ffn=emu0:0.5,head=emu0", "ffn=emu0:1",
                                         NULL};

#define EXACT 1e-5
#define CLOSE 2e-2 /* activations of 8 bits, some of which are rounded the other way */

static tiny_model dense_model(gguf_type type) {
    return (tiny_model){.type = type, .layer_n = 3, .embd_n = 256, .head_n = 4, .ff_n = 1024, .seed = 3};
}

Test(placement, dense_layers_of_floats) {
    need_emulation();
    check_places((placement_case){.model = dense_model(GGUF_F32), .sparsity = HOTSET_SPARSITY_OFF},
                 all_places, EXACT);
}

Test(placement, exact_skipping) {
    need_emulation();
    placement_case c = {.model = dense_model(GGUF_F32), .sparsity = HOTSET_SPARSITY_EXACT};
    c.model.activation = "relu";
    check_places(c, all_places, EXACT);
}

static placement_case predicted_case(void) {
    placement_case c = {.model = dense_model(GGUF_F32), .sparsity = HOTSET_SPARSITY_PREDICT};
    c.model.activation = "relu";
    c.model.predictor_rank = 24;
    c.model.down = NEURONS_BY_ROW;
    c.model.powerinfer = true;
    return c;
}

Test(placement, predicted_skipping) {
    need_emulation();
    check_places(predicted_case(), all_places, EXACT);
}

Test(placement, experts) {
    need_emulation();
    tiny_model model = {
        .layer_n = 3, .embd_n = 64, .head_n = 4, .ff_n = 96, .expert_n = 10, .expert_used_n = 3};
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_OFF}, all_places, EXACT);
    model.activation = "relu";
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_EXACT}, few_places, EXACT);
}

Test(placement, parallel_layers_and_biases) {
    need_emulation();
    placement_case c = {.model = {.arch = "falcon", .layer_n = 2, .embd_n = 64, .head_n = 4, .ff_n = 512},
                        .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, all_places, EXACT);
    c.model.second_norm = true;
    check_places(c, few_places, EXACT);
    c.model = (tiny_model){
        .layer_n = 2, .ff_n = 512, .ffn_bias = true, .qkv_bias = true, .output_bias = true, .tied = true};
    check_places(c, all_places, EXACT);
}

/* What is added up is normed by the home, so that it waits for all of it; the head caps its logits. */
Test(placement, norms_behind_the_sums) {
    need_emulation();
    placement_case c = {.model = {.arch = "gemma2", .layer_n = 3, .ff_n = 512, .window_n = 6, .tied = true},
                        .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, all_places, EXACT);
    c.model = (tiny_model){.arch = "gemma3", .layer_n = 7, .ff_n = 512, .window_n = 6, .qk_norm = true};
    check_places(c, few_places, EXACT);
    c.sparsity = HOTSET_SPARSITY_EXACT;
    c.model.activation = "relu";
    check_places(c, few_places, EXACT);
}

/* Experts that every token uses are the home's; some layers have no others. */
Test(placement, shared_experts_and_groups) {
    need_emulation();
    tiny_model model = {.arch = "glm4moe",
                        .layer_n = 3,
                        .ff_n = 96,
                        .expert_n = 12,
                        .expert_used_n = 3,
                        .dense_n = 1,
                        .shared_n = 64,
                        .group_n = 4,
                        .group_used_n = 2,
                        .choice_bias = true,
                        .qkv_bias = true,
                        .rotated_n = 8};
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_OFF}, all_places, EXACT);
    model.activation = "relu";
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_EXACT}, few_places, EXACT);
}

/* Sinks at home; biases of experts wherever these are. */
Test(placement, sinks_and_biases_of_experts) {
    need_emulation();
    tiny_model model = {.arch = "gpt-oss",
                        .layer_n = 3,
                        .ff_n = 96,
                        .expert_n = 10,
                        .expert_used_n = 3,
                        .window_n = 6,
                        .qkv_bias = true,
                        .output_bias = true,
                        .router_bias = true};
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_OFF}, all_places, EXACT);
    model.activation = "relu";
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_EXACT}, few_places, EXACT);
}

/* The choice of experts is made before the attention, and by the home. */
Test(placement, routers_of_raw_input) {
    need_emulation();
    tiny_model model = {.arch = "smallthinker",
                        .layer_n = 5,
                        .ff_n = 96,
                        .expert_n = 10,
                        .expert_used_n = 3,
                        .window_n = 6,
                        .gating_func = 2};
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_OFF}, few_places, EXACT);
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_EXACT}, few_places, EXACT);
    model = (tiny_model){
        .arch = "olmoe", .layer_n = 2, .ff_n = 96, .expert_n = 10, .expert_used_n = 3, .qk_norm = true};
    check_places((placement_case){.model = model, .sparsity = HOTSET_SPARSITY_OFF}, few_places, EXACT);
}

/* GPUs have no kernels for it, and say so; experts go anywhere. */
Test(placement, latent_attention_stays_at_home) {
    static const char *const places[] = {"ffn=emu0:0.5", "ffn=emu0:1,head=emu0", "ffn=emu0:0.3+emu1:0.2",
                                         NULL};
    need_emulation();
    placement_case c = {.model = {.arch = "deepseek2",
                                  .layer_n = 3,
                                  .ff_n = 96,
                                  .expert_n = 12,
                                  .expert_used_n = 3,
                                  .dense_n = 1,
                                  .shared_n = 64,
                                  .key_n = 24,
                                  .value_n = 20,
                                  .rotated_n = 8,
                                  .latent_n = 32},
                        .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, places, EXACT);
    c.model.heads_apart = true;
    check_places(c, places, EXACT);
    c.devices = "emu:64MiB";
    c.place = "attn=emu0";
    hotset_model *m = open_model(&c.model);
    hotset_error err = {0};
    hotset_plan *plan;
    hotset_engine *engine;
    hotset_engine_options o = hotset_engine_default_options();
    o.devices = c.devices;
    o.module_folder = HOTSET_MODULE_FOLDER;
    cr_assert_eq(make_plan(&plan, m, &c, &err), HOTSET_OK, "%s", err.message);
    cr_expect_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_E_UNSUPPORTED);
    cr_expect(strstr(err.message, "the GPU has no kernel for"), "%s", err.message);
    hotset_plan_free(plan);
    hotset_model_free(m);
}

Test(placement, gate_and_up_in_one) {
    need_emulation();
    placement_case c = {.model = {.arch = "phi3", .layer_n = 2, .ff_n = 512, .fused_qkv = true},
                        .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, few_places, EXACT);
    c.model.activation = "relu";
    c.sparsity = HOTSET_SPARSITY_EXACT;
    check_places(c, few_places, EXACT);
}

/* The CPU rounds what it multiplies with such a state to 8 bits (devices/cpu/kernels.h), a GPU does not; keys
 * that differ in their last bits are rounded to other quants now and then. */
Test(placement, a_state_in_q8_0) {
    need_emulation();
    placement_case c = {.model = dense_model(GGUF_F32), .sparsity = HOTSET_SPARSITY_OFF, .state = GGUF_Q8_0};
    check_places(c, all_places, 1e-2);
    c.model = (tiny_model){.layer_n = 3, .head_n = 4, .head_kv_n = 2, .embd_n = 128, .window_n = 5};
    check_places(c, few_places, 1e-2);
    c.model = dense_model(GGUF_Q4_0);
    check_places(c, few_places, CLOSE);
}

Test(placement, every_weight_type) {
    static const gguf_type types[] = {GGUF_F16, GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K};
    need_emulation();
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        placement_case c = {.model = dense_model(types[i]), .sparsity = HOTSET_SPARSITY_OFF};
        if (!thinned_out(i, 0, 2)) check_places(c, few_places, CLOSE);
        c.model.activation = "relu";
        c.sparsity = HOTSET_SPARSITY_EXACT;
        if (!thinned_out(i, 1, 2)) check_places(c, few_places, CLOSE);
    }
}

/* Of floats, sparse ones and experts; through a file. */
Test(placement, a_plan_that_was_written_runs_the_same) {
    const tiny_model models[] = {dense_model(GGUF_Q4_0),
                                 {.layer_n = 2, .ff_n = 512, .activation = "relu", .type = GGUF_Q8_0},
                                 {.layer_n = 2, .ff_n = 96, .expert_n = 10, .expert_used_n = 3}};
    need_emulation();
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        hotset_model *m = open_model(&models[i]);
        placement_case c = {.sparsity = HOTSET_SPARSITY_AUTO,
                            .devices = "emu,emu",
                            .place = "attn=emu0:1,ffn=emu0:0.5+emu1:0.25,head=emu1"};
        hotset_error err = {0};
        hotset_plan *plan, *read, *other;
        char path[256];
        size_t n;
        rig_temporary(path, sizeof path);
        cr_assert_eq(make_plan(&plan, m, &c, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_plan_write(plan, path, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_plan_read(&read, path, m, &err), HOTSET_OK, "%s", err.message);
        float *want = run_plan(m, plan, c.devices, &n), *have = run_plan(m, read, NULL, &n);
        cr_expect_arr_eq(have, want, n * sizeof *have, "model %zu", i);
        plan->data->order = 1; /* a file that was sorted */
        cr_assert_eq(hotset_plan_write(plan, path, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(hotset_plan_read(&other, path, m, &err), HOTSET_E_ARGUMENT);
        cr_expect(strstr(err.message, "in a sorted order") != NULL, "%s", err.message);
        plan->data->order = 0;
        plan->data->device[1].ledger.units += 256;
        plan->data->device[1].ledger.total += 256;
        cr_assert_eq(hotset_plan_write(plan, path, &err), HOTSET_OK, "%s", err.message);
        cr_expect_eq(hotset_plan_read(&other, path, m, &err), HOTSET_E_ARGUMENT);
        cr_expect(strstr(err.message, "devices[1].ledger.units_bytes") != NULL, "%s", err.message);
        unlink(path);
        free(want);
        free(have);
        hotset_plan_free(read);
        hotset_plan_free(plan);
        hotset_model_free(m);
    }
}

static const char *const streamed_places[] = {"attn=emu0,ffn=emu0:0.25,stream=8", "attn=emu0:2,stream=4",
                                              "attn=emu0:1+emu1:2,ffn=emu0:0.3+emu1:0.3,head=emu1,stream=16",
                                              NULL};

/* Prompts with the host's units copied to their homes, in four pieces a layer. */
Test(placement, prompts_by_streamed_weights) {
    static const gguf_type types[] = {GGUF_F16, GGUF_Q4_0, GGUF_Q4_K};
    need_emulation();
    placement_case c = {.model = dense_model(GGUF_F32), .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, streamed_places, EXACT);
    c.model.ffn_bias = true;
    c.model.activation = "relu";
    c.sparsity = HOTSET_SPARSITY_EXACT;
    check_places(c, streamed_places, EXACT);
    for (size_t i = 0; i < COUNT_OF(types); i++)
        for (int exact = 0; exact < 2; exact++) {
            if (thinned_out(i, (size_t)exact, 2)) continue;
            c = (placement_case){.model = dense_model(types[i]),
                                 .sparsity = exact ? HOTSET_SPARSITY_EXACT : HOTSET_SPARSITY_OFF};
            c.model.activation = "relu";
            check_places(c, streamed_places, CLOSE);
        }
    check_places(predicted_case(), streamed_places, EXACT);
}

Test(placement, prompts_by_streamed_experts) {
    need_emulation();
    placement_case c = {
        .model = {.layer_n = 3, .embd_n = 64, .head_n = 4, .ff_n = 96, .expert_n = 10, .expert_used_n = 3},
        .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, streamed_places, EXACT);
    c.model.type = GGUF_Q8_0;
    check_places(c, streamed_places, CLOSE);
    c.model.type = GGUF_F32;
    c.model.activation = "relu";
    c.sparsity = HOTSET_SPARSITY_EXACT;
    check_places(c, streamed_places, EXACT);
}

/* Pieces are the first part of a sum that is normed; experts have biases. */
Test(placement, prompts_streamed_into_sums_of_their_own) {
    static const char *const places[] = {"attn=emu0,ffn=emu0:0.25,stream=8", "attn=emu0:2,stream=4", NULL};
    need_emulation();
    placement_case c = {.model = {.arch = "gemma2", .layer_n = 2, .ff_n = 1024, .window_n = 6, .tied = true},
                        .sparsity = HOTSET_SPARSITY_OFF};
    check_places(c, places, EXACT);
    c.model = (tiny_model){
        .arch = "gpt-oss", .layer_n = 2, .ff_n = 96, .expert_n = 10, .expert_used_n = 3, .qkv_bias = true};
    check_places(c, places, EXACT);
}

/* Neurons that a GPU has a part of are copied on the host too, however much memory that takes; experts, and
 * layers that are whole, may stay mapped. */
Test(placement, parted_neurons_are_not_mapped) {
    static const char *const whole[] = {"attn=emu0", "attn=emu0,ffn=emu0", "head=emu0", NULL};
    need_emulation();
    tiny_model t = dense_model(GGUF_F16),
               experts = {.layer_n = 2, .ff_n = 96, .expert_n = 10, .expert_used_n = 3};
    hotset_model *m = open_model(&t), *of_experts = open_model(&experts);
    placement_case c = {.sparsity = HOTSET_SPARSITY_OFF, .devices = "emu"};
    hotset_plan_options o = options_of(&c);
    hotset_error err = {0};
    hotset_plan *plan;
    size_t n;
    o.memory = HOTSET_MEMORY_MAPPED;
    cr_expect_eq(hotset_plan_place(&plan, m, "emu", "ffn=emu0:0.5", HOTSET_MODULE_FOLDER, NULL, &o, &err),
                 HOTSET_E_ARGUMENT);
    cr_expect(strstr(err.message, "have to be copied, not mapped") != NULL, "%s", err.message);
    for (size_t i = 0; whole[i]; i++) {
        cr_assert_eq(hotset_plan_place(&plan, m, "emu", whole[i], HOTSET_MODULE_FOLDER, NULL, &o, &err),
                     HOTSET_OK, "%s: %s", whole[i], err.message);
        free(run_plan(m, plan, NULL, &n));
        hotset_plan_free(plan);
    }
    cr_assert_eq(
        hotset_plan_place(&plan, of_experts, "emu", "ffn=emu0:0.5", HOTSET_MODULE_FOLDER, NULL, &o, &err),
        HOTSET_OK, "%s", err.message);
    free(run_plan(of_experts, plan, NULL, &n));
    hotset_plan_free(plan);
    o.memory = HOTSET_MEMORY_AUTO; /* more than 70 % of what there is, which would be mapped if it could */
    o.host_bytes_max = 0;
    cr_assert_eq(hotset_plan_place(&plan, m, "emu", "ffn=emu0:0.5", HOTSET_MODULE_FOLDER, NULL, &o, &err),
                 HOTSET_OK);
    o.host_bytes_max = plan->footprint.total_bytes + 1;
    hotset_plan_free(plan);
    cr_assert_eq(hotset_plan_place(&plan, m, "emu", "ffn=emu0:0.5", HOTSET_MODULE_FOLDER, NULL, &o, &err),
                 HOTSET_OK, "%s", err.message);
    cr_expect_eq(plan->data->memory, PLAN_COPIED);
    free(run_plan(m, plan, NULL, &n));
    hotset_plan_free(plan);
    hotset_model_free(m);
    hotset_model_free(of_experts);
}

/* One byte less than the ledger says is refused, the ledger is what does. */
Test(placement, device_memory_is_the_ledger) {
    static const char *const places[] = {"attn=emu0,ffn=emu0:0.4,head=emu0", "ffn=emu0:0.5", "head=emu0"};
    need_emulation();
    tiny_model t = dense_model(GGUF_Q8_0);
    hotset_model *m = open_model(&t);
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        placement_case c = {.sparsity = HOTSET_SPARSITY_OFF, .devices = "emu", .place = places[i]};
        hotset_error err = {0};
        hotset_plan *plan, *none;
        hotset_engine *engine;
        hotset_engine_options o = hotset_engine_default_options();
        char devices[64], bytes[32];
        o.module_folder = HOTSET_MODULE_FOLDER;
        o.devices = devices;
        cr_assert_eq(make_plan(&plan, m, &c, &err), HOTSET_OK, "%s", err.message);
        const unsigned long long total = plan->data->device[1].ledger.total;
        snprintf(devices, sizeof devices, "emu:%lluB", total);
        cr_assert_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_OK, "%s", err.message);
        hotset_engine_free(engine);
        snprintf(devices, sizeof devices, "emu:%lluB", total - 1);
        cr_expect_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_E_NOFIT);
        snprintf(bytes, sizeof bytes, "emu0: the plan needs %llu", total);
        cr_expect(strstr(err.message, bytes) != NULL, "%s", err.message);
        c.devices = devices;
        cr_expect_eq(make_plan(&none, m, &c, &err), HOTSET_E_NOFIT);
        hotset_plan_free(plan);
    }
    hotset_model_free(m);
}

/* Each call of a kind fails in turn: a status, everything is freed, and another engine opens. */
Test(placement, faults) {
    static const char *const kinds[] = {"alloc", "copy", "launch"};
    need_emulation();
    tiny_model t = {.layer_n = 2, .ff_n = 512};
    hotset_model *m = open_model(&t);
    placement_case c = {.sparsity = HOTSET_SPARSITY_OFF,
                        .devices = "emu,emu",
                        .place = "attn=emu0:1,ffn=emu0:0.5+emu1:0.5,head=emu1"};
    hotset_error err = {0};
    hotset_plan *plan;
    cr_assert_eq(make_plan(&plan, m, &c, &err), HOTSET_OK, "%s", err.message);
    for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
        for (int k = 1, failed = 1; failed; k += kind == 2 ? 7 : 1) {
            char devices[64];
            hotset_engine_options o = hotset_engine_default_options();
            hotset_engine *engine = NULL;
            hotset_session *session = NULL;
            int32_t token[4] = {1, 2, 3, 4};
            snprintf(devices, sizeof devices, "emu:fail-%s=%d,emu", kinds[kind], k);
            o.devices = devices;
            o.module_folder = HOTSET_MODULE_FOLDER;
            hotset_status status = hotset_engine_open(&engine, m, plan, &o, &err);
            if (!status) status = hotset_session_open(&session, engine, &err);
            if (!status) {
                status = hotset_session_append(session, token, 4, NULL, NULL);
                if (status) {
                    err = *hotset_session_error(session);
                    cr_expect_eq(hotset_session_append(session, token, 1, NULL, NULL), HOTSET_E_DEVICE);
                }
            }
            failed = status != HOTSET_OK;
            if (failed) cr_expect(strstr(err.message, "emu0") != NULL, "%s: %s", devices, err.message);
            cr_assert(k < 2000);
            hotset_session_free(session);
            hotset_engine_free(engine);
        }
    }
    size_t n;
    free(run_plan(m, plan, NULL, &n));
    hotset_plan_free(plan);
    hotset_model_free(m);
}

/* ---- What devices do at the same time ---- */

static const float *last_logits(hotset_session *s) {
    size_t n;
    return hotset_session_logits(s, &n);
}

/* Bytes through the bus for a token: an exchange per layer each way, the residual stream to the first home,
 * and the logits or the stream back. */
static uint64_t bus_limit(const hotset_model *m, bool head) {
    const hotset_shape *s = &m->shape;
    const uint64_t experts = s->expert_n ? 2ull * s->layer_n * s->expert_used_n * 8 : 0;
    return (2ull * s->layer_n + 1) * s->embd_n * 4 + experts + 4ull * (head ? s->vocab_n : s->embd_n);
}

Test(placement, devices_work_at_once_and_exchange_little) {
    static const char *const places[] = {"ffn=emu0:0.5", "attn=emu0,ffn=emu0:0.5",
                                         "attn=emu0,ffn=emu0:0.5,head=emu0"};
    const tiny_model models[] = {dense_model(GGUF_F16),
                                 {.layer_n = 3, .ff_n = 256, .expert_n = 8, .expert_used_n = 4}};
    need_emulation();
    for (size_t i = 0; i < COUNT_OF(models) * COUNT_OF(places); i++) {
        hotset_model *m = open_model(&models[i % COUNT_OF(models)]);
        placement_case c = {.devices = "emu", .place = places[i / COUNT_OF(models)]};
        hotset_engine_options o = {.timed = true, .devices = "emu", .module_folder = HOTSET_MODULE_FOLDER};
        hotset_engine *engine;
        hotset_session *session;
        hotset_plan *plan;
        hotset_device_stats host, gpu;
        hotset_error err = {0};
        int32_t token[8];
        tiny_tokens(5, m->shape.vocab_n, token, COUNT_OF(token));
        cr_assert_eq(make_plan(&plan, m, &c, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_OK, "%s", err.message);
        cr_assert_eq(hotset_session_open(&session, engine, &err), HOTSET_OK, "%s", err.message);
        for (size_t k = 0; k < COUNT_OF(token); k++)
            cr_assert_eq(hotset_session_append(session, token + k, 1, NULL, NULL), HOTSET_OK);
        cr_assert(last_logits(session) != NULL);
        cr_assert(hotset_engine_get_device_stats(engine, 0, &host));
        cr_assert(hotset_engine_get_device_stats(engine, 1, &gpu));
        cr_expect_not(hotset_engine_get_device_stats(engine, 2, &gpu) && gpu.name);
        cr_assert(hotset_engine_get_device_stats(engine, 1, &gpu));
        cr_expect_str_eq(gpu.name, "emu0");
        cr_expect_eq(gpu.held_bytes, plan->data->device[1].ledger.total);
        cr_expect(host.busy_s > 0 && gpu.busy_s > 0 && gpu.overlap_s > 0, "%g %g %g", host.busy_s, gpu.busy_s,
                  gpu.overlap_s);
        cr_expect(gpu.overlap_s <= host.busy_s && gpu.overlap_s <= gpu.busy_s);
        cr_expect_leq(gpu.bus_bytes_per_token, bus_limit(m, plan->data->head == 1), "%s", c.place);
        cr_expect_geq(gpu.bus_bytes_per_token, 2ull * m->shape.layer_n * m->shape.embd_n * 4);
        hotset_session_free(session);
        hotset_engine_free(engine);
        hotset_plan_free(plan);
        hotset_model_free(m);
    }
}

/* Lanes of both devices, waits as spans of their own. */
/* Runs tokens of a text by a plan by hand, and looks for all of `wanted` in the trace. */
static void check_trace(const char *place, size_t token_n, const char *const *wanted) {
    tiny_model t = dense_model(GGUF_F32);
    hotset_model *m = open_model(&t);
    placement_case c = {.devices = "emu", .place = place};
    hotset_plan *plan;
    hotset_engine *engine;
    hotset_session *session;
    hotset_error err = {0};
    char path[256];
    int32_t token[BATCH];
    rig_temporary(path, sizeof path);
    hotset_engine_options o = {.trace_path = path, .module_folder = HOTSET_MODULE_FOLDER};
    tiny_tokens(5, m->shape.vocab_n, token, token_n);
    cr_assert_eq(make_plan(&plan, m, &c, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_session_open(&session, engine, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_session_append(session, token, token_n, NULL, NULL), HOTSET_OK);
    hotset_session_free(session);
    hotset_engine_free(engine);
    FILE *file = fopen(path, "re");
    char *text = calloc(1, 1 << 20);
    cr_assert(file && fread(text, 1, (1 << 20) - 1, file) > 0);
    for (; *wanted; wanted++)
        cr_expect_eq(strstr(text, *wanted + (**wanted == '!')) != NULL, **wanted != '!', "%s: %s", place,
                     *wanted);
    free(text);
    fclose(file);
    unlink(path);
    hotset_plan_free(plan);
    hotset_model_free(m);
}

/* Lanes of both devices, waits as spans of their own; of streamed weights (three quarters of a layer, in
 * three pieces) the copies, and no work of the host in the FFN. */
Test(placement, traces_have_a_lane_for_each_device) {
    static const char *const lanes[] = {"\"tid\":\"cpu\"", "\"tid\":\"emu0\"",
                                        "\"name\":\"wait for sums\",\"cat\":\"wait\"",
                                        "\"name\":\"wait for the home\",\"cat\":\"wait\"", NULL};
    static const char *const streams[] = {"\"name\":\"stream weights\"",   "\"tid\":\"emu0 copies\"",
                                          "\"name\":\"wait for weights\"", "!\"name\":\"wait for the home\"",
                                          "!\"name\":\"wait for sums\"",   NULL};
    static const char *const few[] = {"!\"name\":\"stream weights\"", "\"name\":\"wait for the home\"", NULL};
    need_emulation();
    check_trace("ffn=emu0:0.5", 1, lanes);
    check_trace("attn=emu0,ffn=emu0:0.25,stream=8", 8, streams);
    check_trace("attn=emu0,ffn=emu0:0.25,stream=8", 4, few);
}

/* ---- Plans that are found ---- */

/* Rates promise that the emulated device is quick; timing shows that it is not, and that the CPU alone is. */
Test(placement, verifying_times_devices_too) {
    const planning_device devices[] = {planning_cpu, planning_gpu};
    hotset_machine machine = {planning_machine(devices, 2)};
    machine_device *gpu = &machine.profile->device[1];
    need_emulation();
    machine.profile->provenance.synthetic = false;
    machine.profile->device[0].alignment_bytes = FOOTPRINT_ALIGN;
    machine.profile->device[0].processor.thread_n = 1;
    gpu->alignment_bytes = FOOTPRINT_GPU_ALIGN;
    gpu->kind = MACHINE_EMULATED;
    snprintf(gpu->name, sizeof gpu->name, "emu0");
    gpu->free_bytes = gpu->capacity_bytes = 8 << 20;
    gpu->operation_s.median = gpu->submit_s.median = 1e-9;
    tiny_model t = dense_model(GGUF_F32);
    hotset_model *m = open_model(&t);
    hotset_plan *plan;
    hotset_error err = {0};
    hotset_plan_options o = {.isa = "scalar",
                             .context_n = 64,
                             .batch_n = BATCH,
                             .thread_n = 1,
                             .sparsity = HOTSET_SPARSITY_OFF,
                             .memory = HOTSET_MEMORY_COPIED};
    hotset_verify_options how = {
        .token_n = 4, .round_n = 3, .devices = "emu:8MiB", .module_folder = HOTSET_MODULE_FOLDER};
    cr_assert_eq(hotset_plan_make(&plan, m, &machine, NULL, &o, &err), HOTSET_OK, "%s", err.message);
    cr_assert(plan_device_used(plan->data, 1));
    const double planned_s = plan->data->token_s;
    cr_assert_eq(hotset_plan_verify(&plan, m, &machine, NULL, &o, &how, NULL, NULL, &err), HOTSET_OK, "%s",
                 err.message);
    cr_assert_eq(plan->data->measured_n, 2u);
    const plan_measured *with = &plan->data->measured[0], *without = &plan->data->measured[1];
    cr_expect(strstr(with->what, "emu0") && !strstr(without->what, "emu0"), "%s; %s", with->what,
              without->what);
    cr_expect(with->measured_s > without->measured_s && without->kept && !with->kept);
    cr_expect(with->predicted_s > 0 && with->predicted_s < 2 * planned_s, "%g %g", with->predicted_s,
              planned_s);
    cr_expect_eq(plan->data->device_n, 1u);
    hotset_plan_free(plan);
    hotset_model_free(m);
    machine_free(machine.profile);
}

/* ---- The bundled model ---- */

static void greedy_text(const hotset_model *m, const hotset_plan *plan, int32_t *out, size_t n) {
    hotset_engine_options o = {.module_folder = HOTSET_MODULE_FOLDER};
    hotset_sampler *sampler;
    hotset_engine *engine;
    hotset_session *session;
    hotset_error err = {0};
    int32_t token[64];
    size_t token_n;
    const hotset_tokenizer *tokenizer = hotset_model_tokenizer(m, &err);
    static const char text[] = "The whale";
    cr_assert_eq(hotset_tokenize(tokenizer, text, strlen(text), HOTSET_TOKENIZE_BOS, token, COUNT_OF(token),
                                 &token_n, &err),
                 HOTSET_OK);
    cr_assert_eq(hotset_sampler_open(&sampler, NULL, m->shape.vocab_n, &err), HOTSET_OK);
    cr_assert_eq(hotset_engine_open(&engine, m, plan, &o, &err), HOTSET_OK, "%s", err.message);
    cr_assert_eq(hotset_session_open(&session, engine, &err), HOTSET_OK, "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(hotset_session_append(session, token, token_n, NULL, NULL), HOTSET_OK, "%s",
                     hotset_session_error(session)->message);
        out[i] = *token = hotset_sampler_pick(sampler, last_logits(session));
        token_n = 1;
    }
    hotset_session_free(session);
    hotset_engine_free(engine);
    hotset_sampler_free(sampler);
}

Test(placement, the_bundled_model_writes_the_same_text, .timeout = 300) {
    enum { N = 12 };
    static const char *const places[] = {"ffn=emu0:0.1", "ffn=emu0:0.9", "attn=emu0,ffn=emu0,head=emu0",
                                         "attn=emu0:3,ffn=emu0:0.5", "ffn=emu0:0.3+emu1:0.4,head=emu1"};
    static const hotset_sparsity ways[] = {HOTSET_SPARSITY_OFF, HOTSET_SPARSITY_EXACT};
    hotset_model *m;
    hotset_error err = {0};
    int32_t want[N], have[N];
    need_emulation();
    cr_assert_eq(
        hotset_model_open(&m, HOTSET_SOURCE_DIR "/tools/demo/Gutenberg-7M-ReGLU-F16.gguf", NULL, &err),
        HOTSET_OK, "%s", err.message);
    for (size_t way = 0; way < COUNT_OF(ways); way++)
        for (size_t i = 0; i <= COUNT_OF(places); i++) {
            if (i && thinned_out(way, i, 3)) continue;
            hotset_plan_options o = {.context_n = 32, .batch_n = 8, .sparsity = ways[way]};
            hotset_plan *plan;
            hotset_status status = i ? hotset_plan_place(&plan, m, "emu,emu", places[i - 1],
                                                         HOTSET_MODULE_FOLDER, NULL, &o, &err)
                                     : hotset_plan_cpu(&plan, m, &o, &err);
            cr_assert_eq(status, HOTSET_OK, "%s", err.message);
            greedy_text(m, plan, i ? have : want, N);
            if (i) cr_expect_arr_eq(have, want, sizeof want, "%s", places[i - 1]);
            hotset_plan_free(plan);
        }
    hotset_model_free(m);
}
