/* forward_ffn.c - the FFN: dense, of experts, with neurons left out, and from streamed weights. */
#include "engine/writer.h"

enum { GATE, UP, DOWN };

/* An FFN: of a layer, or of the experts chosen for each row. */
typedef struct bank {
    uint32_t ff, per_row;       /* neurons; FFNs per row: experts used, else 1 */
    device_rows x, id;          /* input; chosen experts, absent: none */
    uint32_t first;             /* GATE, or UP without a gate */
    device_linear_part part[3]; /* by GATE, UP, DOWN */
    device_rows score;          /* of the predictor, absent: none */
    bool skips;                 /* neurons can be left out, by the lists of: */
    device_choice choice;
    bool is_recorded; /* its neurons are what the layer's record counts */
} bank;

/* Where the layer's FFN is added up: at home the residual stream or, to be normed first, a row of its own. */
device_rows ffn_sum(const writer *w) {
    if (!here(w)->home) return partial(w, w->at->placed->device_i);
    return follows(w, ARCH_POST_NORM) ? second(w) : hidden(w);
}
void ffn_begin(writer *w) { w->sum_is_empty = !here(w)->home || follows(w, ARCH_POST_NORM); }
/* Whether the next part is to be added, rather than written. */
bool ffn_adds(writer *w) {
    const bool empty = w->sum_is_empty;
    w->sum_is_empty = false;
    return !empty;
}

/* The bank whose products go through h and up to y; down's order says whether neurons can be left out. */
static bank bank_of(const writer *w, uint32_t ff, uint32_t per_row, bool gated) {
    bank b = {.ff = ff, .per_row = per_row, .first = gated ? GATE : UP, .x = normed(w)};
    device_rows h = rows_at(w, w->at->layout.gate, (uint64_t)per_row * ff);
    device_rows up = rows_at(w, w->at->layout.up, (uint64_t)per_row * ff);
    b.part[GATE].y = h;
    b.part[UP].y = b.first == GATE ? up : h;
    return b;
}

enum { FEW_ROWS = 3 /* steps of so many walk weights at the memory's speed: decoding */ };

static void set_skipping(const writer *w, bank *b) {
    bool wanted = w->at->sparsity != HOTSET_SPARSITY_OFF && (w->at->skip_by_cost || w->row_max <= FEW_ROWS);
    bool judged = w->at->tally && b->score.stride; /* a predictor is judged by all neurons */
    b->skips = wanted && !judged && b->part[DOWN].w.order != NEURONS_BY_OUTPUT;
    if (!b->skips) return;
    b->choice = (device_choice){.verdict = device_ref_at(w->at->scratch, w->at->layout.verdict),
                                .list = rows_at(w, w->at->layout.choice, (uint64_t)b->per_row * (b->ff + 1))};
}

static device_activation activation_of(const writer *w) {
    static const device_activation kinds[] = {
        [ARCH_ACT_SILU] = DEVICE_ACT_SILU,
        [ARCH_ACT_GELU] = DEVICE_ACT_GELU,
        [ARCH_ACT_GELU_TANH] = DEVICE_ACT_GELU_TANH,
        [ARCH_ACT_RELU] = DEVICE_ACT_RELU,
        [ARCH_ACT_RELU2] = DEVICE_ACT_RELU2,
        [ARCH_ACT_DRELU] = DEVICE_ACT_DRELU,
        [ARCH_ACT_SWIGLU_OAI] = DEVICE_ACT_SWIGLU_OAI,
    };
    return kinds[w->at->model->activation];
}

/* The products of `part_n` matrices of the bank with x: all, or the listed neurons'. */
static void multiply(writer *w, const bank *b, const char *name, device_rows x,
                     const device_linear_part *part, uint32_t part_n, bool listed) {
    device_op op = {.kind = DEVICE_OP_LINEAR, .name = name};
    device_choice choice = listed ? b->choice : (device_choice){0};
    if (b->id.stride) {
        op.kind = DEVICE_OP_EXPERTS;
        op.experts.x = x;
        op.experts.x_per_use = part == &b->part[DOWN];
        op.experts.used_n = b->per_row;
        op.experts.id = b->id;
        op.experts.choice = choice;
        op.experts.part_n = part_n;
        for (uint32_t i = 0; i < part_n; i++) op.experts.part[i] = part[i];
    } else {
        op.linear.x = x;
        op.linear.choice = choice;
        op.linear.part_n = part_n;
        for (uint32_t i = 0; i < part_n; i++) op.linear.part[i] = part[i];
    }
    add(w, op);
}

/* Whether the activation is zero where the product with this part is not above zero. */
static bool tells(const writer *w, const bank *b, uint32_t part_i) {
    return part_i == b->first || (part_i == UP && w->at->model->activation == ARCH_ACT_DRELU);
}

/* Lists active neurons by x, for the matrices from `next` on; or narrows the list. */
static void select_neurons(writer *w, const bank *b, device_rows x, bool scored, bool narrow, uint32_t next) {
    device_op op = {
        .kind = DEVICE_OP_SELECT,
        .name = scored ? "ffn predicted" : "ffn select",
        .select = {.x = x,
                   .scored = scored,
                   .threshold = w->at->model->predictor_threshold,
                   .narrow = narrow,
                   .n = b->ff,
                   .per_row = b->per_row,
                   .spared_n = 1,
                   .choice = b->choice,
                   .skipped = device_ref_at(w->at->exchange,
                                            w->at->handed.skipped +
                                                (uint64_t)w->at->placed->device_i * FOOTPRINT_ALIGN)}};
    for (uint32_t i = next; i <= DOWN; i++) op.select.part[op.select.part_n++] = b->part[i].w;
    for (uint32_t i = next; i < DOWN && !tells(w, b, i); i++) op.select.spared_n++;
    add(w, op);
}

/* Writes down what the layer's FFN uses, where the plan asks for it. */
static void record(writer *w, device_op op) {
    const tally_layer *layer = w->at->tally ? &w->at->tally->layer[w->layer_i] : NULL;
    if (!layer || !layer->row_bytes) return;
    op.kind = DEVICE_OP_TALLY;
    op.name = "ffn use";
    op.tally.kind = layer->kind;
    op.tally.n = layer->n;
    op.tally.record = device_ref_at(w->at->record, layer->at);
    add(w, op);
}

/* Of a dense FFN: its neurons' values before the activation, and what a predictor had said of them. */
static void record_neurons(writer *w, const bank *b) {
    device_rows none = {0};
    record(w, (device_op){.tally = {.x = b->part[b->first].y,
                                    .also = b->first == GATE && tells(w, b, UP) ? b->part[UP].y : none,
                                    .score = b->score,
                                    .threshold = w->at->model->predictor_threshold,
                                    .activation = activation_of(w)}});
}

static void activate(writer *w, const bank *b) {
    device_rows h = b->part[b->first].y, none = {0};
    add(w, (device_op){.kind = DEVICE_OP_ACTIVATE,
                       .name = "ffn activation",
                       .activate = {.gate = h,
                                    .up = b->first == GATE ? b->part[UP].y : none,
                                    .y = h,
                                    .n = b->ff,
                                    .per_row = b->per_row,
                                    .choice = b->choice,
                                    .score = b->score,
                                    .threshold = w->at->model->predictor_threshold,
                                    .kind = activation_of(w)}});
}

/* y <- down(act(gate x) * up x), or down(act(up x)) without a gate. Where neurons can be skipped, one matrix
 * comes after the other, each for those that may still be active. */
static void apply(writer *w, const bank *b) {
    static const char *const names[] = {"ffn gate", "ffn up", "ffn down"};
    bool listed = b->skips && b->score.stride > 0;
    if (listed) select_neurons(w, b, b->score, true, false, b->first);
    if (!b->skips && b->first == GATE) multiply(w, b, "ffn gate, up", b->x, &b->part[GATE], 2, false);
    if (!b->skips && b->first == UP) multiply(w, b, names[UP], b->x, &b->part[UP], 1, false);
    for (uint32_t i = b->first; i < DOWN && b->skips; i++) {
        multiply(w, b, names[i], b->x, &b->part[i], 1, listed);
        if (!tells(w, b, i)) continue;
        select_neurons(w, b, b->part[i].y, false, listed, i + 1);
        listed = true;
    }
    if (b->is_recorded) record_neurons(w, b);
    activate(w, b);
    multiply(w, b, names[DOWN], b->part[b->first].y, &b->part[DOWN], 1, listed);
}

/* score = fc2 relu(fc1 x), x being the residual stream: a neuron whose score is below the threshold counts as
 * zero (Song et al. 2023, PowerInfer). */
device_rows ffn_predict(writer *w) {
    const model_layer *layer = layer_of(w);
    if (w->at->sparsity != HOTSET_SPARSITY_PREDICT || !here(w)->units) return (device_rows){0};
    device_rows inner = rows_at(w, w->at->layout.inner, layer->rank_n);
    device_rows score = rows_at(w, w->at->layout.score, here(w)->ff_n);
    linear(w, "predictor in", hidden(w), (device_linear_part){.w = matrix(w, ARCH_PREDICTOR_IN), .y = inner});
    add(w, (device_op){
               .kind = DEVICE_OP_ACTIVATE,
               .name = "predictor activation",
               .activate = {
                   .gate = inner, .y = inner, .n = layer->rank_n, .per_row = 1, .kind = DEVICE_ACT_RELU}});
    linear(w, "predictor out", inner, (device_linear_part){.w = matrix(w, ARCH_PREDICTOR_OUT), .y = score});
    return score;
}

/* sum <- sum + ffn(n), or the part of it that the device's neurons give. */
void ffn_dense(writer *w, device_rows score) {
    if (!here(w)->units) {
        const device_rows bias = {vector(w, ARCH_FFN_DOWN_BIAS), 0}; /* the same for every row */
        if (bias.ref.buffer) copy(w, "ffn bias", bias, ffn_sum(w), shape_of(w)->embd_n, ffn_adds(w));
        return;
    }
    bank b = bank_of(w, here(w)->ff_n, 1, has(w, ARCH_FFN_GATE));
    b.score = score;
    b.is_recorded = true;
    b.part[GATE] = product(w, ARCH_FFN_GATE, ARCH_FFN_GATE_BIAS, b.part[GATE].y, false);
    b.part[UP] = product(w, ARCH_FFN_UP, ARCH_FFN_UP_BIAS, b.part[UP].y, false);
    b.part[DOWN] = product(w, ARCH_FFN_DOWN, ARCH_FFN_DOWN_BIAS, ffn_sum(w), ffn_adds(w));
    set_skipping(w, &b);
    apply(w, &b);
}

/* sum <- sum + ffn(n) of the experts that every token uses. */
void ffn_shared(writer *w) {
    if (!layer_of(w)->shared_n) return;
    bank b = bank_of(w, layer_of(w)->shared_n, 1, has(w, ARCH_SHARED_GATE));
    b.part[GATE] = product(w, ARCH_SHARED_GATE, ARCH_ROLE_COUNT, b.part[GATE].y, false);
    b.part[UP] = product(w, ARCH_SHARED_UP, ARCH_ROLE_COUNT, b.part[UP].y, false);
    b.part[DOWN] = product(w, ARCH_SHARED_DOWN, ARCH_ROLE_COUNT, ffn_sum(w), ffn_adds(w));
    set_skipping(w, &b);
    apply(w, &b);
}

device_rows ffn_chosen_id(const writer *w) {
    return rows_at(w, w->at->layout.expert_id, w->at->model->router.used_n);
}
device_rows ffn_chosen_weight(const writer *w) {
    return rows_at(w, w->at->layout.expert_weight, w->at->model->router.used_n);
}

/* Which experts each row uses, and with what weight. */
void ffn_choose(writer *w, device_rows input) {
    static const device_gating kinds[] = {[ARCH_GATING_SOFTMAX] = DEVICE_GATING_SOFTMAX,
                                          [ARCH_GATING_SIGMOID] = DEVICE_GATING_SIGMOID,
                                          [ARCH_GATING_SOFTMAX_AFTER] = DEVICE_GATING_SOFTMAX_AFTER};
    const hotset_shape *s = shape_of(w);
    const model_router *router = &w->at->model->router;
    device_rows scores = rows_at(w, w->at->layout.router, s->expert_n);
    linear(w, "router", input, product(w, ARCH_ROUTER, ARCH_ROUTER_BIAS, scores, false));
    add(w, (device_op){.kind = DEVICE_OP_ROUTE,
                       .name = "route",
                       .route = {.logits = scores,
                                 .unit_n = s->expert_n,
                                 .used_n = router->used_n,
                                 .gating = kinds[router->gating],
                                 .bias = vector(w, ARCH_ROUTER_CHOICE_BIAS),
                                 .group_n = router->group_n,
                                 .group_used_n = router->group_used_n,
                                 .normalise = router->normalise,
                                 .scale = router->scale,
                                 .id = ffn_chosen_id(w),
                                 .weight = ffn_chosen_weight(w)}});
    record(w, (device_op){.tally = {.x = ffn_chosen_id(w), .weight = ffn_chosen_weight(w)}});
}

/* sum <- sum + sum over the chosen experts e of weight_e out_e */
static void add_experts(writer *w, device_rows out) {
    add(w, (device_op){.kind = DEVICE_OP_COMBINE,
                       .name = "experts sum",
                       .combine = {.x = out,
                                   .weight = ffn_chosen_weight(w),
                                   .y = ffn_sum(w),
                                   .used_n = w->at->model->router.used_n,
                                   .n = shape_of(w)->embd_n,
                                   .anew = !ffn_adds(w)}});
}

/* sum <- sum + sum over the chosen experts e of weight_e ffn_e(n); a guest's part is that of its experts. */
void ffn_experts(writer *w) {
    const hotset_shape *s = shape_of(w);
    const uint32_t used = w->at->model->router.used_n;
    device_rows out = rows_at(w, w->at->layout.expert_out, (uint64_t)used * s->embd_n);
    if (!here(w)->units) return;
    bank b = bank_of(w, s->ff_n, used, has(w, ARCH_EXPERT_GATE));
    b.id = ffn_chosen_id(w);
    b.part[GATE] = product(w, ARCH_EXPERT_GATE, ARCH_EXPERT_GATE_BIAS, b.part[GATE].y, false);
    b.part[UP] = product(w, ARCH_EXPERT_UP, ARCH_EXPERT_UP_BIAS, b.part[UP].y, false);
    b.part[DOWN] = product(w, ARCH_EXPERT_DOWN, ARCH_EXPERT_DOWN_BIAS, out, false);
    set_skipping(w, &b);
    apply(w, &b);
    add_experts(w, out);
}

/* ---- Streamed weights ---- */

/* Whether the host's part of the layer is computed by its home, from weights that come piece by piece. */
bool ffn_streams(const writer *w) { return stream_has(w->at->stream, w->layer_i, w->row_max); }

/* sum <- sum + ffn(n) of some of the host's neurons. */
static void streamed_neurons(writer *w, const stream_piece *piece, const stream_layout *l) {
    bank b = bank_of(w, piece->n, 1, l->matrix[STREAM_GATE].in_n > 0);
    for (uint32_t i = GATE; i < DOWN; i++)
        b.part[i] = (device_linear_part){.w = l->matrix[i], .bias = l->bias[i], .y = b.part[i].y};
    b.part[DOWN] =
        (device_linear_part){.w = l->matrix[STREAM_DOWN], .y = ffn_sum(w), .accumulate = ffn_adds(w)};
    if (l->matrix[STREAM_PREDICTOR].in_n) {
        b.score = rows_at(w, w->at->layout.score, piece->n);
        linear(w, "predictor out", rows_at(w, w->at->layout.inner, layer_of(w)->rank_n),
               (device_linear_part){.w = l->matrix[STREAM_PREDICTOR], .y = b.score});
    }
    set_skipping(w, &b);
    apply(w, &b);
}

/* sum <- sum + sum over those chosen experts that came in this round. */
static void streamed_experts(writer *w, const stream_layout *l) {
    static const arch_role biases[] = {ARCH_EXPERT_GATE_BIAS, ARCH_EXPERT_UP_BIAS, ARCH_EXPERT_DOWN_BIAS};
    const hotset_shape *s = shape_of(w);
    const uint32_t used = w->at->model->router.used_n;
    bank b = bank_of(w, s->ff_n, used, l->matrix[STREAM_GATE].in_n > 0);
    b.id = ffn_chosen_id(w);
    b.part[DOWN].y = rows_at(w, w->at->layout.expert_out, (uint64_t)used * s->embd_n);
    for (uint32_t i = GATE; i <= DOWN; i++)
        b.part[i] = (device_linear_part){.w = l->matrix[i], .bias = vector(w, biases[i]), .y = b.part[i].y};
    set_skipping(w, &b);
    apply(w, &b);
    add_experts(w, b.part[DOWN].y);
}

void ffn_streamed(writer *w) {
    const streaming *s = w->at->stream;
    for (uint32_t i = s->layer_at[w->layer_i]; i < s->layer_at[w->layer_i + 1]; i++) {
        const stream_piece *piece = &s->piece[i];
        const stream_layout l =
            stream_layout_of(s, piece, device_ref_at(w->at->ring, piece->slot_i * s->slot_bytes));
        const uint64_t line = (uint64_t)i * FOOTPRINT_ALIGN;
        wait_for(w, "wait for weights", device_ref_at(w->at->exchange, w->at->handed.arrived + line));
        if (layer_of(w)->experts)
            streamed_experts(w, &l);
        else
            streamed_neurons(w, piece, &l);
        signal_to(w, "weights used", device_ref_at(w->at->exchange, w->at->handed.consumed + line));
    }
}
