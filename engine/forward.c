/* forward.c - the forward pass, written as the model's equations.
 *
 * Pre-norm transformer (Vaswani et al. 2017; Touvron et al. 2023): for each layer
 *     x <- x + Wo attention(norm(x)),    x <- x + ffn(norm(x)),
 * with rotary positions (Su et al. 2021), grouped query heads (Ainslie et al. 2023), gated or plain FFN, or a
 * softmax router over expert FFNs (Shazeer et al. 2017; Jiang et al. 2024). Which of these a model has is
 * data (arch.h).
 */
#include "engine/forward.h"

#include <stdlib.h>

typedef struct writer {
    forward_list *list;
    const forward_place *at;
    uint32_t row_max, layer_i;
    bool outputs;
} writer;

/* ---- Operands ---- */

static device_rows rows_at(const writer *w, uint64_t offset, uint64_t stride) {
    return (device_rows){device_ref_at(w->at->scratch, offset), (uint32_t)stride};
}

static const model_layer *layer_of(const writer *w) { return &w->at->model->layer[w->layer_i]; }
static const hotset_shape *shape_of(const writer *w) { return &w->at->model->shape; }

static bool has(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->present;
}
static device_matrix matrix(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->w;
}
static device_ref vector(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->w.data;
}

static device_rows hidden(const writer *w) { return rows_at(w, w->at->layout.hidden, shape_of(w)->embd_n); }
static device_rows normed(const writer *w) { return rows_at(w, w->at->layout.normed, shape_of(w)->embd_n); }

/* ---- Operations ---- */

static void add(writer *w, device_op op) {
    forward_list *l = w->list;
    if (l->op_n == l->op_max) {
        uint32_t max = l->op_max ? 2 * l->op_max : 64;
        device_op *bigger = realloc(l->op, max * sizeof *bigger);
        if (!bigger) {
            l->failed = true;
            return;
        }
        l->op = bigger;
        l->op_max = max;
    }
    op.outputs = w->outputs;
    op.row_max = w->row_max;
    op.layer_i = w->layer_i;
    l->op[l->op_n++] = op;
}

static void norm(writer *w, const char *name, device_rows x, device_rows y, arch_role weight,
                 arch_role bias) {
    add(w, (device_op){.kind = DEVICE_OP_NORM,
                       .name = name,
                       .norm = {.x = x,
                                .y = y,
                                .n = shape_of(w)->embd_n,
                                .weight = vector(w, weight),
                                .bias = vector(w, bias),
                                .layernorm = w->at->model->arch->rules & ARCH_LAYER_NORM,
                                .epsilon = w->at->model->norm_epsilon}});
}

static device_linear_part product(const writer *w, arch_role weight, arch_role bias, device_rows y,
                                  bool accumulate) {
    return (device_linear_part){
        .w = matrix(w, weight), .bias = vector(w, bias), .y = y, .accumulate = accumulate};
}

/* y <- W x + b, or y <- y + W x + b. */
static void linear(writer *w, const char *name, device_rows x, device_linear_part part) {
    add(w,
        (device_op){.kind = DEVICE_OP_LINEAR, .name = name, .linear = {.x = x, .part_n = 1, .part = {part}}});
}

/* ---- Attention ---- */

static void attention(writer *w) {
    const hotset_shape *s = shape_of(w);
    const model_layer *layer = layer_of(w);
    const model_rotary *rotary = &w->at->model->rotary;
    const state *kv = w->at->state;
    device_rows q = rows_at(w, w->at->layout.query, (uint64_t)layer->head_n * s->key_n);
    device_rows k = rows_at(w, w->at->layout.key, (uint64_t)layer->head_kv_n * s->key_n);
    device_rows v = rows_at(w, w->at->layout.value, (uint64_t)layer->head_kv_n * s->value_n);
    device_rows mixed = rows_at(w, w->at->layout.mixed, (uint64_t)layer->head_n * s->value_n);
    device_ref keys = {kv->buffer, kv->key[w->layer_i]}, values = {kv->buffer, kv->value[w->layer_i]};

    norm(w, "attn norm", hidden(w), normed(w), ARCH_ATTN_NORM, ARCH_ATTN_NORM_BIAS);
    add(w, (device_op){.kind = DEVICE_OP_LINEAR,
                       .name = "attn qkv",
                       .linear = {.x = normed(w),
                                  .part_n = 3,
                                  .part = {product(w, ARCH_ATTN_Q, ARCH_ATTN_Q_BIAS, q, false),
                                           product(w, ARCH_ATTN_K, ARCH_ATTN_K_BIAS, k, false),
                                           product(w, ARCH_ATTN_V, ARCH_ATTN_V_BIAS, v, false)}}});
    add(w, (device_op){.kind = DEVICE_OP_PREPARE,
                       .name = "attn rope, store",
                       .prepare = {.q = q,
                                   .k = k,
                                   .v = v,
                                   .rotary = rows_at(w, w->at->layout.rotary, 2 * rotary->pair_n),
                                   .head_n = layer->head_n,
                                   .head_kv_n = layer->head_kv_n,
                                   .key_n = s->key_n,
                                   .value_n = s->value_n,
                                   .pair_n = rotary->pair_n,
                                   .adjacent = rotary->adjacent,
                                   .q_norm = vector(w, ARCH_ATTN_Q_NORM),
                                   .k_norm = vector(w, ARCH_ATTN_K_NORM),
                                   .epsilon = w->at->model->norm_epsilon,
                                   .key_state = keys,
                                   .value_state = values,
                                   .key_slot_bytes = kv->slot_bytes,
                                   .value_slot_bytes = kv->slot_bytes,
                                   .context_n = kv->context_n,
                                   .state_f16 = kv->f16}});
    add(w, (device_op){.kind = DEVICE_OP_ATTEND,
                       .name = "attention",
                       .attend = {.q = q,
                                  .y = mixed,
                                  .head_n = layer->head_n,
                                  .head_kv_n = layer->head_kv_n,
                                  .key_n = s->key_n,
                                  .value_n = s->value_n,
                                  .window_n = layer->window_n,
                                  .scale = w->at->model->attention_scale,
                                  .key_state = keys,
                                  .value_state = values,
                                  .key_slot_bytes = kv->slot_bytes,
                                  .value_slot_bytes = kv->slot_bytes,
                                  .context_n = kv->context_n,
                                  .state_f16 = kv->f16}});
    linear(w, "attn out", mixed, product(w, ARCH_ATTN_OUT, ARCH_ATTN_OUT_BIAS, hidden(w), true));
}

/* ---- FFN ---- */

static const device_choice all_neurons;

/* The lists of active neurons of a layer whose FFN has ff neurons, or absent where down is not by neuron. */
static device_choice choice_of(const writer *w, arch_role down, uint32_t ff, uint32_t per_row) {
    if (matrix(w, down).order == NEURONS_BY_OUTPUT) return all_neurons;
    return (device_choice){.verdict = device_ref_at(w->at->scratch, w->at->layout.verdict),
                           .list = rows_at(w, w->at->layout.choice, (uint64_t)per_row * (ff + 1))};
}

/* Finds the neurons whose gate is above zero; the others' activation is zero, so they need no up or down. */
static void select_neurons(writer *w, device_rows gate, device_matrix up, arch_role down, uint32_t per_row,
                           device_choice choice) {
    add(w, (device_op){.kind = DEVICE_OP_SELECT,
                       .name = "ffn select",
                       .select = {.gate = gate,
                                  .n = matrix(w, down).in_n,
                                  .per_row = per_row,
                                  .up = up,
                                  .down = matrix(w, down),
                                  .choice = choice,
                                  .skipped = w->at->skipped}});
}

static device_activation activation_of(const writer *w) {
    static const device_activation kinds[] = {
        [ARCH_ACT_SILU] = DEVICE_ACT_SILU,           [ARCH_ACT_GELU] = DEVICE_ACT_GELU,
        [ARCH_ACT_GELU_TANH] = DEVICE_ACT_GELU_TANH, [ARCH_ACT_RELU] = DEVICE_ACT_RELU,
        [ARCH_ACT_RELU2] = DEVICE_ACT_RELU2,
    };
    return kinds[w->at->model->activation];
}

/* Writes down what the layer's FFN uses, from the neurons' values before the activation or from the chosen
 * experts, where the plan asks for it. */
static void record_use(writer *w, device_rows x, device_rows weight) {
    const tally_layer *layer = w->at->tally ? &w->at->tally->layer[w->layer_i] : NULL;
    if (!layer || !layer->row_bytes) return;
    add(w, (device_op){.kind = DEVICE_OP_TALLY,
                       .name = "ffn use",
                       .tally = {.kind = layer->kind,
                                 .x = x,
                                 .weight = weight,
                                 .n = layer->n,
                                 .activation = activation_of(w),
                                 .record = device_ref_at(w->at->record, layer->at)}});
}

static void activate(writer *w, device_rows gate, device_rows up, uint32_t n, uint32_t per_row,
                     device_choice choice) {
    add(w, (device_op){.kind = DEVICE_OP_ACTIVATE,
                       .name = "ffn activation",
                       .activate = {.gate = gate,
                                    .up = up,
                                    .y = gate,
                                    .n = n,
                                    .per_row = per_row,
                                    .choice = choice,
                                    .kind = activation_of(w)}});
}

/* x <- x + down(act(gate n) * up n), or x + down(act(up n)) without a gate. Where neurons can be skipped, the
 * gate comes first. */
static void dense_ffn(writer *w) {
    uint32_t ff = layer_of(w)->ff_n;
    bool gated = has(w, ARCH_FFN_GATE);
    device_rows h = rows_at(w, w->at->layout.gate, ff), up = rows_at(w, w->at->layout.up, ff);
    device_choice choice = choice_of(w, ARCH_FFN_DOWN, ff, 1);
    bool skips = matrix(w, ARCH_FFN_DOWN).order != NEURONS_BY_OUTPUT;
    device_op op = {.kind = DEVICE_OP_LINEAR, .name = "ffn up", .linear = {.x = normed(w), .part_n = 1}};
    op.linear.part[0] = product(w, ARCH_FFN_UP, ARCH_FFN_UP_BIAS, gated ? up : h, false);
    if (gated && skips) {
        linear(w, "ffn gate", normed(w), product(w, ARCH_FFN_GATE, ARCH_FFN_GATE_BIAS, h, false));
        select_neurons(w, h, matrix(w, ARCH_FFN_UP), ARCH_FFN_DOWN, 1, choice);
        op.linear.choice = choice;
    } else if (gated) {
        op.name = "ffn gate, up";
        op.linear.part[op.linear.part_n++] = product(w, ARCH_FFN_GATE, ARCH_FFN_GATE_BIAS, h, false);
    }
    add(w, op);
    if (skips && !gated) select_neurons(w, h, (device_matrix){0}, ARCH_FFN_DOWN, 1, choice);
    record_use(w, h, (device_rows){0});
    activate(w, h, gated ? up : (device_rows){0}, ff, 1, choice);
    op = (device_op){.kind = DEVICE_OP_LINEAR, .name = "ffn down", .linear = {.x = h, .part_n = 1}};
    op.linear.part[0] = product(w, ARCH_FFN_DOWN, ARCH_FFN_DOWN_BIAS, hidden(w), true);
    op.linear.choice = choice;
    add(w, op);
}

/* x <- x + sum over the chosen experts e of weight_e down_e(act(gate_e n) * up_e n). */
static void expert_ffn(writer *w) {
    const hotset_shape *s = shape_of(w);
    const model_router *router = &w->at->model->router;
    uint32_t used = router->used_n, ff = s->ff_n;
    bool gated = has(w, ARCH_EXPERT_GATE);
    device_rows scores = rows_at(w, w->at->layout.router, s->expert_n);
    device_rows id = rows_at(w, w->at->layout.expert_id, used),
                weight = rows_at(w, w->at->layout.expert_weight, used);
    device_rows h = rows_at(w, w->at->layout.gate, (uint64_t)used * ff);
    device_rows up = rows_at(w, w->at->layout.up, (uint64_t)used * ff);
    device_rows out = rows_at(w, w->at->layout.expert_out, (uint64_t)used * s->embd_n);

    linear(w, "router", normed(w), product(w, ARCH_ROUTER, ARCH_ROUTER_BIAS, scores, false));
    add(w, (device_op){.kind = DEVICE_OP_ROUTE,
                       .name = "route",
                       .route = {.logits = scores,
                                 .unit_n = s->expert_n,
                                 .used_n = used,
                                 .softmax_after = router->softmax_after,
                                 .normalise = router->normalise,
                                 .scale = router->scale,
                                 .id = id,
                                 .weight = weight}});
    record_use(w, id, weight);
    device_choice choice = choice_of(w, ARCH_EXPERT_DOWN, ff, used);
    bool skips = matrix(w, ARCH_EXPERT_DOWN).order != NEURONS_BY_OUTPUT;
    device_linear_part gate = {.w = matrix(w, ARCH_EXPERT_GATE), .y = h};
    device_op op = {.kind = DEVICE_OP_EXPERTS,
                    .name = "experts up",
                    .experts = {.x = normed(w), .used_n = used, .id = id, .part_n = 1}};
    if (gated && skips) {
        device_op first = op;
        first.name = "experts gate";
        first.experts.part[0] = gate;
        add(w, first);
        select_neurons(w, h, matrix(w, ARCH_EXPERT_UP), ARCH_EXPERT_DOWN, used, choice);
        op.experts.choice = choice;
    } else if (gated) {
        op.name = "experts gate, up";
        op.experts.part[op.experts.part_n++] = gate;
    }
    op.experts.part[0].w = matrix(w, ARCH_EXPERT_UP);
    op.experts.part[0].y = gated ? up : h;
    add(w, op);
    if (skips && !gated) select_neurons(w, h, (device_matrix){0}, ARCH_EXPERT_DOWN, used, choice);
    activate(w, h, gated ? up : (device_rows){0}, ff, used, choice);
    add(w, (device_op){.kind = DEVICE_OP_EXPERTS,
                       .name = "experts down",
                       .experts = {.x = h,
                                   .x_per_use = true,
                                   .used_n = used,
                                   .id = id,
                                   .part_n = 1,
                                   .part = {{.w = matrix(w, ARCH_EXPERT_DOWN), .y = out}},
                                   .choice = choice}});
    add(w,
        (device_op){.kind = DEVICE_OP_COMBINE,
                    .name = "experts sum",
                    .combine = {.x = out, .weight = weight, .y = hidden(w), .used_n = used, .n = s->embd_n}});
}

static void ffn(writer *w) {
    norm(w, "ffn norm", hidden(w), normed(w), ARCH_FFN_NORM, ARCH_FFN_NORM_BIAS);
    if (layer_of(w)->experts)
        expert_ffn(w);
    else
        dense_ffn(w);
}

/* ---- The whole ---- */

static void signal_done(writer *w) {
    add(w, (device_op){.kind = DEVICE_OP_SIGNAL, .name = "done", .counter = {.counter = w->at->done}});
}

void forward_body(forward_list *list, const forward_place *place, uint32_t row_max) {
    writer w = {.list = list, .at = place, .row_max = row_max};
    const model_rotary *rotary = &place->model->rotary;
    add(&w, (device_op){.kind = DEVICE_OP_EMBED,
                        .name = "embed",
                        .embed = {.table = matrix(&w, ARCH_EMBED), .y = hidden(&w), .scale = 1}});
    add(&w, (device_op){.kind = DEVICE_OP_ROTARY,
                        .name = "rotary",
                        .rotary = {.inverse_frequency = place->weights->rotary,
                                   .pair_n = rotary->pair_n,
                                   .magnitude = rotary->magnitude,
                                   .y = rows_at(&w, place->layout.rotary, 2 * rotary->pair_n)}});
    for (w.layer_i = 0; w.layer_i < place->model->shape.layer_n; w.layer_i++) {
        attention(&w);
        ffn(&w);
    }
    signal_done(&w);
}

void forward_head(forward_list *list, const forward_place *place, uint32_t output_max) {
    writer w = {.list = list, .at = place, .row_max = output_max, .outputs = true};
    const hotset_shape *s = &place->model->shape;
    device_rows last = rows_at(&w, place->layout.output_hidden, s->embd_n);
    add(&w, (device_op){.kind = DEVICE_OP_GATHER,
                        .name = "outputs",
                        .gather = {.x = hidden(&w), .y = last, .n = s->embd_n}});
    norm(&w, "output norm", last, last, ARCH_OUTPUT_NORM, ARCH_OUTPUT_NORM_BIAS);
    linear(&w, "head", last,
           product(&w, ARCH_OUTPUT, ARCH_OUTPUT_BIAS, rows_at(&w, place->layout.logits, s->vocab_n), false));
    signal_done(&w);
}

footprint_widths forward_widths(const hotset_model *m, bool skips) {
    const hotset_shape *s = &m->shape;
    return (footprint_widths){
        .embd_n = s->embd_n,
        .query_n = s->head_n * s->key_n,
        .key_n = s->head_kv_n * s->key_n,
        .value_n = s->head_kv_n * s->value_n,
        .mixed_n = s->head_n * s->value_n,
        .ff_n = s->expert_n ? 0 : s->ff_n,
        .ff_expert_n = s->expert_n ? s->ff_n : 0,
        .expert_n = s->expert_n,
        .expert_used_n = s->expert_used_n,
        .vocab_n = s->vocab_n,
        .rotary_n = 2 * m->rotary.pair_n,
        .choice_n = skips ? (s->expert_n ? s->expert_used_n : 1) * (s->ff_n + 1) : 0,
    };
}

void forward_list_free(forward_list *list) {
    free(list->op);
    *list = (forward_list){0};
}
