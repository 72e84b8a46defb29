/* forward.c - the forward pass, written as the model's equations.
 *
 * Pre-norm transformer (Vaswani et al. 2017; Touvron et al. 2023): for each layer
 *     x <- x + Wo attention(norm(x)),    x <- x + ffn(norm(x)),
 * or both from the same x at once (Falcon), with rotary positions (Su et al. 2021), grouped query heads
 * (Ainslie et al. 2023), gated or plain FFN, or a softmax router over expert FFNs (Shazeer et al. 2017; Jiang
 * et al. 2024). Which of these a model has is data (arch.h).
 *
 * A list is that of one device. Where a layer's units are on several, ffn(n) is a sum of what each device's
 * units give: the layer's home publishes x, its guests compute their part, and the home adds the parts up in
 * the order of devices. What the device does in a layer is looked up (placed.h).
 */
#include "engine/forward.h"

#include <stdlib.h>

typedef struct writer {
    forward_list *list;
    const forward_place *at;
    uint32_t row_max, layer_i;
    bool outputs;
    bool sum_is_empty; /* nothing has been written yet to where the layer's FFN is added up */
} writer;

/* ---- Operands ---- */

static device_rows rows_at(const writer *w, uint64_t offset, uint64_t stride) {
    return (device_rows){device_ref_at(w->at->scratch, offset), (uint32_t)stride};
}

static const model_layer *layer_of(const writer *w) { return &w->at->model->layer[w->layer_i]; }
static bool follows(const writer *w, unsigned rule) { return w->at->model->arch->rules & rule; }
static const hotset_shape *shape_of(const writer *w) { return &w->at->model->shape; }

static bool has(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->present;
}
static device_matrix matrix(const writer *w, arch_role role) {
    return weights_of(w->at->weights, w->layer_i, role)->w;
}
/* Absent: of no buffer. */
static device_ref vector(const writer *w, arch_role role) {
    if (role == ARCH_ROLE_COUNT) return (device_ref){0};
    return weights_of(w->at->weights, w->layer_i, role)->w.data;
}

static const placed_layer *here(const writer *w) { return &w->at->placed->layer[w->layer_i]; }

/* Rows, and a counter, of what devices hand to each other. */
static device_rows handed(const writer *w, uint64_t offset, uint64_t stride) {
    return (device_rows){device_ref_at(w->at->exchange, offset), (uint32_t)stride};
}
static device_rows residual(const writer *w) {
    return handed(w, w->at->handed.residual, shape_of(w)->embd_n);
}
static device_rows hand(const writer *w) { return handed(w, w->at->handed.hand, shape_of(w)->embd_n); }
static device_rows partial(const writer *w, uint32_t device_i) {
    const uint64_t embd_n = shape_of(w)->embd_n;
    return handed(w, w->at->handed.partial + device_i * w->at->layout.row_n * embd_n * sizeof(float), embd_n);
}
static device_ref counter(const writer *w, uint32_t layer_i, uint32_t device_i, bool hands_over) {
    return device_ref_at(w->at->exchange, footprint_counter(&w->at->handed, layer_i, device_i, hands_over));
}

static device_rows hidden(const writer *w) { return rows_at(w, w->at->layout.hidden, shape_of(w)->embd_n); }
static device_rows normed(const writer *w) { return rows_at(w, w->at->layout.normed, shape_of(w)->embd_n); }
static device_rows second(const writer *w) { return rows_at(w, w->at->layout.normed_2, shape_of(w)->embd_n); }

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

static void wait_for(writer *w, const char *name, device_ref at) {
    add(w, (device_op){.kind = DEVICE_OP_WAIT, .name = name, .counter = {.counter = at}});
}

static void signal_to(writer *w, const char *name, device_ref at) {
    add(w, (device_op){.kind = DEVICE_OP_SIGNAL, .name = name, .counter = {.counter = at}});
}

static void copy(writer *w, const char *name, device_rows x, device_rows y, uint32_t n, bool accumulate) {
    add(w, (device_op){.kind = DEVICE_OP_COPY,
                       .name = name,
                       .copy = {.x = x, .y = y, .n = n, .accumulate = accumulate}});
}

static void norm_of(writer *w, const char *name, device_rows x, device_rows y, uint32_t n, arch_role weight,
                    arch_role bias, bool layernorm) {
    add(w, (device_op){.kind = DEVICE_OP_NORM,
                       .name = name,
                       .norm = {.x = x,
                                .y = y,
                                .n = n,
                                .weight = vector(w, weight),
                                .bias = vector(w, bias),
                                .layernorm = layernorm,
                                .epsilon = w->at->model->norm_epsilon}});
}

static void norm(writer *w, const char *name, device_rows x, device_rows y, arch_role weight,
                 arch_role bias) {
    norm_of(w, name, x, y, shape_of(w)->embd_n, weight, bias, follows(w, ARCH_LAYER_NORM));
}

/* x <- x + norm(part), part being second(w). */
static void add_normed(writer *w, const char *name, const char *sum_name, arch_role weight) {
    norm_of(w, name, second(w), second(w), shape_of(w)->embd_n, weight, ARCH_ROLE_COUNT, false);
    copy(w, sum_name, second(w), hidden(w), shape_of(w)->embd_n, true);
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

/* (cos, sin) of each pair for the layer's rotation; absent: it has none. */
static device_rows rotation(const writer *w, uint32_t rotary_i) {
    const hotset_model *m = w->at->model;
    const uint64_t each = (uint64_t)w->at->layout.row_n * 2 * m->pair_n * sizeof(float);
    if (rotary_i == m->rotary_n) return (device_rows){0};
    return rows_at(w, w->at->layout.rotary + rotary_i * each, 2 * m->pair_n);
}

/* Queries and keys normed over all heads at once (OLMoE). */
static void norm_wide(writer *w, device_rows q, device_rows k) {
    norm_of(w, "query norm", q, q, q.stride, ARCH_ATTN_Q_NORM, ARCH_ROLE_COUNT, false);
    norm_of(w, "key norm", k, k, k.stride, ARCH_ATTN_K_NORM, ARCH_ROLE_COUNT, false);
}

/* The rows' heads over what is kept. */
static void attend(writer *w, device_rows q, device_rows y, device_ref keys, device_ref values) {
    const hotset_model *m = w->at->model;
    const model_kept kept = model_kept_of(m, w->layer_i);
    const state *kv = w->at->state;
    add(w, (device_op){.kind = DEVICE_OP_ATTEND,
                       .name = "attention",
                       .attend = {.q = q,
                                  .y = y,
                                  .head_n = layer_of(w)->head_n,
                                  .head_kv_n = kept.head_n,
                                  .key_n = kept.key_n,
                                  .value_n = kept.value_n,
                                  .value_step = kept.joined ? kept.key_n : 0,
                                  .window_n = layer_of(w)->window_n,
                                  .scale = m->attention_scale,
                                  .softcap = m->attention_cap,
                                  .sinks = vector(w, ARCH_ATTN_SINKS),
                                  .key_state = keys,
                                  .value_state = values,
                                  .key_slot_bytes = kv->slot_bytes[w->layer_i],
                                  .value_slot_bytes = kv->slot_bytes[w->layer_i],
                                  .context_n = kv->context_n,
                                  .state_f16 = kv->f16}});
}

/* Rows of heads side by side, cut or joined: `part_n` parts of n. */
static void regroup(writer *w, const char *name, device_rows x, uint32_t x_from, uint32_t x_step,
                    device_rows y, uint32_t y_from, uint32_t y_step, uint32_t n) {
    x.ref = device_ref_at(x.ref, x_from * sizeof(float));
    y.ref = device_ref_at(y.ref, y_from * sizeof(float));
    add(w,
        (device_op){
            .kind = DEVICE_OP_COPY,
            .name = name,
            .copy = {
                .x = x, .y = y, .n = n, .part_n = layer_of(w)->head_n, .x_step = x_step, .y_step = y_step}});
}

/* A product of each head's part of x with a matrix of its own. */
static void each_head(writer *w, const char *name, device_rows x, device_rows y, arch_role weight) {
    add(w, (device_op){.kind = DEVICE_OP_EXPERTS,
                       .name = name,
                       .experts = {.x = x,
                                   .x_per_use = true,
                                   .used_n = layer_of(w)->head_n,
                                   .id = {w->at->weights->heads, 0},
                                   .part_n = 1,
                                   .part = {product(w, weight, ARCH_ROLE_COUNT, y, false)}}});
}

/* Latent attention (DeepSeek-V2, arXiv 2405.04434, 2.1): c = norm(Wa x) stands for the keys Kh c and values
 * Vh c of all heads; a head's score is (Kh' qh) . c beside that of the rotated parts, and its result Vh times
 * the mixed c. So c, with the one rotated key, is all that is kept. Leaves all heads' results in mixed. */
static device_rows latent_attention(writer *w, device_rows input) {
    const hotset_model *m = w->at->model;
    const uint32_t head_n = layer_of(w)->head_n, latent_n = m->latent_n, rotated_n = m->rotated_n;
    const uint32_t key_n = m->shape.key_n, still_n = key_n - rotated_n, kept_n = latent_n + rotated_n;
    const state *kv = w->at->state;
    device_rows raw = rows_at(w, w->at->layout.mixed, (uint64_t)head_n * key_n);
    device_rows still = rows_at(w, w->at->layout.query, (uint64_t)head_n * still_n);
    device_rows q = rows_at(w, w->at->layout.query, (uint64_t)head_n * kept_n);
    device_rows absorbed = rows_at(w, w->at->layout.latent, (uint64_t)head_n * latent_n);
    device_rows mixed = rows_at(w, w->at->layout.mixed, (uint64_t)head_n * latent_n);
    device_rows out = rows_at(w, w->at->layout.latent, (uint64_t)head_n * m->shape.value_n);
    device_rows kept = rows_at(w, w->at->layout.key, kept_n);
    device_rows inner = rows_at(w, w->at->layout.value, m->query_rank);
    const device_ref keys = {kv->buffer, kv->key[w->layer_i]};

    if (has(w, ARCH_ATTN_Q_A)) {
        linear(w, "attn query in", input, product(w, ARCH_ATTN_Q_A, ARCH_ROLE_COUNT, inner, false));
        norm_of(w, "query norm", inner, inner, m->query_rank, ARCH_ATTN_Q_A_NORM, ARCH_ROLE_COUNT, false);
        linear(w, "attn query", inner, product(w, ARCH_ATTN_Q_B, ARCH_ROLE_COUNT, raw, false));
    } else {
        linear(w, "attn query", input, product(w, ARCH_ATTN_Q, ARCH_ROLE_COUNT, raw, false));
    }
    linear(w, "attn latent", input, product(w, ARCH_ATTN_KV_A, ARCH_ROLE_COUNT, kept, false));
    norm_of(w, "latent norm", kept, kept, latent_n, ARCH_ATTN_KV_A_NORM, ARCH_ROLE_COUNT, false);
    regroup(w, "attn still part", raw, 0, key_n, still, 0, still_n, still_n);
    each_head(w, "attn absorb", still, absorbed, ARCH_ATTN_K_B);
    regroup(w, "attn absorbed", absorbed, 0, latent_n, q, 0, kept_n, latent_n);
    regroup(w, "attn rotated part", raw, still_n, key_n, q, latent_n, kept_n, rotated_n);
    add(w, (device_op){.kind = DEVICE_OP_PREPARE,
                       .name = "attn rope, store",
                       .prepare = {.q = q,
                                   .k = kept,
                                   .rotary = rotation(w, layer_of(w)->rotary_i),
                                   .head_n = head_n,
                                   .head_kv_n = 1,
                                   .key_n = kept_n,
                                   .pair_n = m->pair_n,
                                   .rotated_from = latent_n,
                                   .adjacent = m->rotary_adjacent,
                                   .key_state = keys,
                                   .value_state = keys,
                                   .key_slot_bytes = kv->slot_bytes[w->layer_i],
                                   .value_slot_bytes = kv->slot_bytes[w->layer_i],
                                   .context_n = kv->context_n,
                                   .state_f16 = kv->f16}});
    attend(w, q, mixed, keys, keys);
    each_head(w, "attn values", mixed, out, ARCH_ATTN_V_B);
    return out;
}

/* The same of keys and values that are kept as they are. */
static device_rows plain_attention(writer *w, device_rows input) {
    const hotset_shape *s = shape_of(w);
    const model_layer *layer = layer_of(w);
    const bool wide = follows(w, ARCH_QK_NORM_WIDE);
    const state *kv = w->at->state;
    device_rows q = rows_at(w, w->at->layout.query, (uint64_t)layer->head_n * s->key_n);
    device_rows k = rows_at(w, w->at->layout.key, (uint64_t)layer->head_kv_n * s->key_n);
    device_rows v = rows_at(w, w->at->layout.value, (uint64_t)layer->head_kv_n * s->value_n);
    device_rows mixed = rows_at(w, w->at->layout.mixed, (uint64_t)layer->head_n * s->value_n);
    device_ref keys = {kv->buffer, kv->key[w->layer_i]}, values = {kv->buffer, kv->value[w->layer_i]};

    add(w, (device_op){.kind = DEVICE_OP_LINEAR,
                       .name = "attn qkv",
                       .linear = {.x = input,
                                  .part_n = 3,
                                  .part = {product(w, ARCH_ATTN_Q, ARCH_ATTN_Q_BIAS, q, false),
                                           product(w, ARCH_ATTN_K, ARCH_ATTN_K_BIAS, k, false),
                                           product(w, ARCH_ATTN_V, ARCH_ATTN_V_BIAS, v, false)}}});
    if (wide) norm_wide(w, q, k);
    add(w, (device_op){.kind = DEVICE_OP_PREPARE,
                       .name = "attn rope, store",
                       .prepare = {.q = q,
                                   .k = k,
                                   .v = v,
                                   .rotary = rotation(w, layer->rotary_i),
                                   .head_n = layer->head_n,
                                   .head_kv_n = layer->head_kv_n,
                                   .key_n = s->key_n,
                                   .value_n = s->value_n,
                                   .pair_n = w->at->model->pair_n,
                                   .adjacent = w->at->model->rotary_adjacent,
                                   .q_norm = vector(w, wide ? ARCH_ROLE_COUNT : ARCH_ATTN_Q_NORM),
                                   .k_norm = vector(w, wide ? ARCH_ROLE_COUNT : ARCH_ATTN_K_NORM),
                                   .epsilon = w->at->model->norm_epsilon,
                                   .key_state = keys,
                                   .value_state = values,
                                   .key_slot_bytes = kv->slot_bytes[w->layer_i],
                                   .value_slot_bytes = kv->slot_bytes[w->layer_i],
                                   .context_n = kv->context_n,
                                   .state_f16 = kv->f16}});
    attend(w, q, mixed, keys, values);
    return mixed;
}

/* x <- x + Wo attention(input), or the norm of what is added */
static void attention(writer *w, device_rows input) {
    const bool post = follows(w, ARCH_POST_NORM);
    const device_rows mixed = w->at->model->latent_n ? latent_attention(w, input) : plain_attention(w, input);
    linear(w, "attn out", mixed,
           product(w, ARCH_ATTN_OUT, ARCH_ATTN_OUT_BIAS, post ? second(w) : hidden(w), !post));
    if (post) add_normed(w, "attn post norm", "attn sum", ARCH_ATTN_POST_NORM);
}

/* ---- FFN ---- */

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
static device_rows ffn_sum(const writer *w) {
    if (!here(w)->home) return partial(w, w->at->placed->device_i);
    return follows(w, ARCH_POST_NORM) ? second(w) : hidden(w);
}
static void begin_sum(writer *w) { w->sum_is_empty = !here(w)->home || follows(w, ARCH_POST_NORM); }
/* Whether the next part is to be added, rather than written. */
static bool adds(writer *w) {
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
static device_rows predict(writer *w) {
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
static void dense_ffn(writer *w, device_rows score) {
    if (!here(w)->units) {
        const device_rows bias = {vector(w, ARCH_FFN_DOWN_BIAS), 0}; /* the same for every row */
        if (bias.ref.buffer) copy(w, "ffn bias", bias, ffn_sum(w), shape_of(w)->embd_n, adds(w));
        return;
    }
    bank b = bank_of(w, here(w)->ff_n, 1, has(w, ARCH_FFN_GATE));
    b.score = score;
    b.is_recorded = true;
    b.part[GATE] = product(w, ARCH_FFN_GATE, ARCH_FFN_GATE_BIAS, b.part[GATE].y, false);
    b.part[UP] = product(w, ARCH_FFN_UP, ARCH_FFN_UP_BIAS, b.part[UP].y, false);
    b.part[DOWN] = product(w, ARCH_FFN_DOWN, ARCH_FFN_DOWN_BIAS, ffn_sum(w), adds(w));
    set_skipping(w, &b);
    apply(w, &b);
}

/* sum <- sum + ffn(n) of the experts that every token uses. */
static void shared_ffn(writer *w) {
    if (!layer_of(w)->shared_n) return;
    bank b = bank_of(w, layer_of(w)->shared_n, 1, has(w, ARCH_SHARED_GATE));
    b.part[GATE] = product(w, ARCH_SHARED_GATE, ARCH_ROLE_COUNT, b.part[GATE].y, false);
    b.part[UP] = product(w, ARCH_SHARED_UP, ARCH_ROLE_COUNT, b.part[UP].y, false);
    b.part[DOWN] = product(w, ARCH_SHARED_DOWN, ARCH_ROLE_COUNT, ffn_sum(w), adds(w));
    set_skipping(w, &b);
    apply(w, &b);
}

static device_rows chosen_id(const writer *w) {
    return rows_at(w, w->at->layout.expert_id, w->at->model->router.used_n);
}
static device_rows chosen_weight(const writer *w) {
    return rows_at(w, w->at->layout.expert_weight, w->at->model->router.used_n);
}

/* Which experts each row uses, and with what weight. */
static void choose_experts(writer *w, device_rows input) {
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
                                 .id = chosen_id(w),
                                 .weight = chosen_weight(w)}});
    record(w, (device_op){.tally = {.x = chosen_id(w), .weight = chosen_weight(w)}});
}

/* sum <- sum + sum over the chosen experts e of weight_e out_e */
static void add_experts(writer *w, device_rows out) {
    add(w, (device_op){.kind = DEVICE_OP_COMBINE,
                       .name = "experts sum",
                       .combine = {.x = out,
                                   .weight = chosen_weight(w),
                                   .y = ffn_sum(w),
                                   .used_n = w->at->model->router.used_n,
                                   .n = shape_of(w)->embd_n,
                                   .anew = !adds(w)}});
}

/* sum <- sum + sum over the chosen experts e of weight_e ffn_e(n); a guest's part is that of its experts. */
static void expert_ffn(writer *w) {
    const hotset_shape *s = shape_of(w);
    const uint32_t used = w->at->model->router.used_n;
    device_rows out = rows_at(w, w->at->layout.expert_out, (uint64_t)used * s->embd_n);
    if (!here(w)->units) return;
    bank b = bank_of(w, s->ff_n, used, has(w, ARCH_EXPERT_GATE));
    b.id = chosen_id(w);
    b.part[GATE] = product(w, ARCH_EXPERT_GATE, ARCH_EXPERT_GATE_BIAS, b.part[GATE].y, false);
    b.part[UP] = product(w, ARCH_EXPERT_UP, ARCH_EXPERT_UP_BIAS, b.part[UP].y, false);
    b.part[DOWN] = product(w, ARCH_EXPERT_DOWN, ARCH_EXPERT_DOWN_BIAS, out, false);
    set_skipping(w, &b);
    apply(w, &b);
    add_experts(w, out);
}

/* ---- Streamed weights ---- */

/* Whether the host's part of the layer is computed by its home, from weights that come piece by piece. */
static bool streams(const writer *w) { return stream_has(w->at->stream, w->layer_i, w->row_max); }

/* sum <- sum + ffn(n) of some of the host's neurons. */
static void streamed_neurons(writer *w, const stream_piece *piece, const stream_layout *l) {
    bank b = bank_of(w, piece->n, 1, l->matrix[STREAM_GATE].in_n > 0);
    for (uint32_t i = GATE; i < DOWN; i++)
        b.part[i] = (device_linear_part){.w = l->matrix[i], .bias = l->bias[i], .y = b.part[i].y};
    b.part[DOWN] = (device_linear_part){.w = l->matrix[STREAM_DOWN], .y = ffn_sum(w), .accumulate = adds(w)};
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
    b.id = chosen_id(w);
    b.part[DOWN].y = rows_at(w, w->at->layout.expert_out, (uint64_t)used * s->embd_n);
    for (uint32_t i = GATE; i <= DOWN; i++)
        b.part[i] = (device_linear_part){.w = l->matrix[i], .bias = vector(w, biases[i]), .y = b.part[i].y};
    set_skipping(w, &b);
    apply(w, &b);
    add_experts(w, b.part[DOWN].y);
}

static void streamed_ffn(writer *w) {
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

/* ---- Between devices ---- */

/* A guest of the layer that takes part in the step. */
static bool takes_part(const writer *w, uint32_t guest) { return guest > 0 || !streams(w); }

/* To the guests of a layer: x, and the choice of experts, which a stream of experts asks for too. */
static void publish(writer *w) {
    const uint32_t used = w->at->model->router.used_n;
    uint32_t guest_n = 0;
    for (uint32_t i = 0; i < here(w)->guest_n; i++) guest_n += takes_part(w, here(w)->guest[i]);
    if (!guest_n && !(layer_of(w)->experts && streams(w))) return;
    if (guest_n) copy(w, "publish", hidden(w), residual(w), shape_of(w)->embd_n, false);
    if (layer_of(w)->experts) {
        copy(w, "publish choice", chosen_id(w), handed(w, w->at->handed.expert_id, used), used, false);
        copy(w, "publish weights", chosen_weight(w), handed(w, w->at->handed.expert_weight, used), used,
             false);
    }
    signal_to(w, "published", counter(w, w->layer_i, w->at->placed->device_i, false));
}

/* sum <- sum + what the guests' units give */
static void collect(writer *w) {
    for (uint32_t i = 0; i < here(w)->guest_n; i++) {
        const uint32_t guest = here(w)->guest[i];
        if (!takes_part(w, guest)) continue;
        wait_for(w, "wait for sums", counter(w, w->layer_i, guest, false));
        copy(w, "add sums", partial(w, guest), ffn_sum(w), shape_of(w)->embd_n, adds(w));
    }
    if (follows(w, ARCH_POST_NORM)) add_normed(w, "ffn post norm", "ffn sum", ARCH_FFN_POST_NORM);
}

static void hand_on(writer *w, uint32_t layer_i) {
    copy(w, "hand on", hidden(w), hand(w), shape_of(w)->embd_n, false);
    signal_to(w, "handed on", counter(w, layer_i, w->at->placed->device_i, true));
}

static void receive(writer *w, uint32_t layer_i, uint32_t from) {
    wait_for(w, "wait for the layer before", counter(w, layer_i, from, true));
    copy(w, "receive", hand(w), hidden(w), shape_of(w)->embd_n, false);
}

/* ---- Layers ---- */

/* x <- x + attention(norm(x)), then x <- x + ffn(norm(x)) */
static void sequential_layer(writer *w) {
    const bool raw = layer_of(w)->experts && follows(w, ARCH_ROUTER_RAW);
    if (raw) choose_experts(w, hidden(w));
    norm(w, "attn norm", hidden(w), normed(w), ARCH_ATTN_NORM, ARCH_ATTN_NORM_BIAS);
    attention(w, normed(w));
    if (!layer_of(w)->experts) publish(w);
    norm(w, "ffn norm", hidden(w), normed(w), ARCH_FFN_NORM, ARCH_FFN_NORM_BIAS);
    if (layer_of(w)->experts) {
        if (!raw) choose_experts(w, normed(w));
        publish(w);
        shared_ffn(w);
        expert_ffn(w);
    } else {
        dense_ffn(w, predict(w));
    }
}

/* x <- x + attention(n2) + ffn(n) with n = norm(x), n2 = norm_2(x), or n where there is no second norm
 * (Falcon). The predictor sees x too: it comes before what is added. */
static void parallel_layer(writer *w) {
    device_rows input = normed(w);
    publish(w);
    norm(w, "norm", hidden(w), input, ARCH_ATTN_NORM, ARCH_ATTN_NORM_BIAS);
    if (has(w, ARCH_ATTN_NORM_2)) {
        input = second(w);
        norm(w, "attn norm", hidden(w), input, ARCH_ATTN_NORM_2, ARCH_ATTN_NORM_2_BIAS);
    }
    device_rows score = predict(w);
    attention(w, input);
    dense_ffn(w, score);
}

static void home_layer(writer *w, bool parallel) {
    if (here(w)->receives) receive(w, w->layer_i, here(w)->from);
    begin_sum(w);
    if (parallel)
        parallel_layer(w);
    else
        sequential_layer(w);
    if (streams(w)) streamed_ffn(w);
    collect(w);
    if (here(w)->hands_on) hand_on(w, w->layer_i + 1);
}

/* The part of ffn(norm(x)) that the device's units give, x being the home's. */
static void guest_layer(writer *w, bool parallel) {
    const uint32_t used = w->at->model->router.used_n;
    wait_for(w, "wait for the home", counter(w, w->layer_i, here(w)->home_i, false));
    copy(w, "fetch", residual(w), hidden(w), shape_of(w)->embd_n, false);
    if (layer_of(w)->experts) {
        copy(w, "fetch choice", handed(w, w->at->handed.expert_id, used), chosen_id(w), used, false);
        copy(w, "fetch weights", handed(w, w->at->handed.expert_weight, used), chosen_weight(w), used, false);
    }
    norm(w, "ffn norm", hidden(w), normed(w), parallel ? ARCH_ATTN_NORM : ARCH_FFN_NORM,
         parallel ? ARCH_ATTN_NORM_BIAS : ARCH_FFN_NORM_BIAS);
    begin_sum(w);
    if (layer_of(w)->experts)
        expert_ffn(w);
    else
        dense_ffn(w, predict(w));
    signal_to(w, "sums made", counter(w, w->layer_i, w->at->placed->device_i, false));
}

/* ---- The whole ---- */

static void signal_done(writer *w) {
    signal_to(w, "done", device_ref_at(w->at->exchange, w->at->handed.done));
}

void forward_body(forward_list *list, const forward_place *place, uint32_t row_max) {
    writer w = {.list = list, .at = place, .row_max = row_max};
    const hotset_model *m = place->model;
    const bool parallel = place->model->arch->rules & ARCH_PARALLEL;
    if (place->placed->embeds)
        add(&w, (device_op){.kind = DEVICE_OP_EMBED,
                            .name = "embed",
                            .embed = {.table = matrix(&w, ARCH_EMBED),
                                      .y = hidden(&w),
                                      .scale = m->embed_scale,
                                      .positions = matrix(&w, ARCH_POSITIONS),
                                      .position_from = m->arch->position_from}});
    if (place->placed->embeds && !here(&w)->home) hand_on(&w, 0);
    for (uint32_t i = 0; i < m->rotary_n && place->placed->rotates; i++)
        add(&w, (device_op){.kind = DEVICE_OP_ROTARY,
                            .name = "rotary",
                            .rotary = {.inverse_frequency = place->weights->rotary[i],
                                       .pair_n = m->pair_n,
                                       .magnitude = m->rotary[i].magnitude,
                                       .y = rotation(&w, i)}});
    for (w.layer_i = 0; w.layer_i < place->placed->layer_n; w.layer_i++) {
        if (here(&w)->home) home_layer(&w, parallel);
        if (here(&w)->visits && takes_part(&w, place->placed->device_i)) guest_layer(&w, parallel);
    }
    if (place->placed->receives) receive(&w, place->placed->layer_n, place->placed->from);
    if (place->placed->head) signal_done(&w);
}

void forward_head(forward_list *list, const forward_place *place, uint32_t output_max) {
    writer w = {.list = list, .at = place, .row_max = output_max, .outputs = true};
    const hotset_shape *s = &place->model->shape;
    device_rows last = rows_at(&w, place->layout.output_hidden, s->embd_n);
    device_rows logits = place->placed->embeds ? rows_at(&w, place->layout.logits, s->vocab_n)
                                               : handed(&w, place->handed.logits, s->vocab_n);
    if (!place->placed->head) return;
    add(&w, (device_op){.kind = DEVICE_OP_GATHER,
                        .name = "outputs",
                        .gather = {.x = hidden(&w), .y = last, .n = s->embd_n}});
    norm(&w, "output norm", last, last, ARCH_OUTPUT_NORM, ARCH_OUTPUT_NORM_BIAS);
    linear(&w, "head", last, product(&w, ARCH_OUTPUT, ARCH_OUTPUT_BIAS, logits, false));
    if (place->model->logit_cap != 0)
        add(&w, (device_op){.kind = DEVICE_OP_CAP,
                            .name = "logit cap",
                            .cap = {.x = logits, .n = s->vocab_n, .cap = place->model->logit_cap}});
    signal_done(&w);
}

void forward_list_free(forward_list *list) {
    free(list->op);
    *list = (forward_list){0};
}
