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
#include "engine/writer.h"

/* ---- Between devices ---- */

/* A guest of the layer that takes part in the step. */
static bool takes_part(const writer *w, uint32_t guest) { return guest > 0 || !ffn_streams(w); }

/* To the guests of a layer: x, and the choice of experts, which a stream of experts asks for too. */
static void publish(writer *w) {
    const uint32_t used = w->at->model->router.used_n;
    uint32_t guest_n = 0;
    for (uint32_t i = 0; i < here(w)->guest_n; i++) guest_n += takes_part(w, here(w)->guest[i]);
    if (!guest_n && !(layer_of(w)->experts && ffn_streams(w))) return;
    if (guest_n) copy(w, "publish", hidden(w), residual(w), shape_of(w)->embd_n, false);
    if (layer_of(w)->experts) {
        copy(w, "publish choice", ffn_chosen_id(w), handed(w, w->at->handed.expert_id, used), used, false);
        copy(w, "publish weights", ffn_chosen_weight(w), handed(w, w->at->handed.expert_weight, used), used,
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
        copy(w, "add sums", partial(w, guest), ffn_sum(w), shape_of(w)->embd_n, ffn_adds(w));
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
    if (raw) ffn_choose(w, hidden(w));
    norm(w, "attn norm", hidden(w), normed(w), ARCH_ATTN_NORM, ARCH_ATTN_NORM_BIAS);
    mixer_attention(w, normed(w));
    if (!layer_of(w)->experts) publish(w);
    norm(w, "ffn norm", hidden(w), normed(w), ARCH_FFN_NORM, ARCH_FFN_NORM_BIAS);
    if (layer_of(w)->experts) {
        if (!raw) ffn_choose(w, normed(w));
        publish(w);
        ffn_shared(w);
        ffn_experts(w);
    } else {
        ffn_dense(w, ffn_predict(w));
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
    device_rows score = ffn_predict(w);
    mixer_attention(w, input);
    ffn_dense(w, score);
}

static void home_layer(writer *w, bool parallel) {
    if (here(w)->receives) receive(w, w->layer_i, here(w)->from);
    ffn_begin(w);
    if (parallel)
        parallel_layer(w);
    else
        sequential_layer(w);
    if (ffn_streams(w)) ffn_streamed(w);
    collect(w);
    if (here(w)->hands_on) hand_on(w, w->layer_i + 1);
}

/* The part of ffn(norm(x)) that the device's units give, x being the home's. */
static void guest_layer(writer *w, bool parallel) {
    const uint32_t used = w->at->model->router.used_n;
    wait_for(w, "wait for the home", counter(w, w->layer_i, here(w)->home_i, false));
    copy(w, "fetch", residual(w), hidden(w), shape_of(w)->embd_n, false);
    if (layer_of(w)->experts) {
        copy(w, "fetch choice", handed(w, w->at->handed.expert_id, used), ffn_chosen_id(w), used, false);
        copy(w, "fetch weights", handed(w, w->at->handed.expert_weight, used), ffn_chosen_weight(w), used,
             false);
    }
    norm(w, "ffn norm", hidden(w), normed(w), parallel ? ARCH_ATTN_NORM : ARCH_FFN_NORM,
         parallel ? ARCH_ATTN_NORM_BIAS : ARCH_FFN_NORM_BIAS);
    ffn_begin(w);
    if (layer_of(w)->experts)
        ffn_experts(w);
    else
        ffn_dense(w, ffn_predict(w));
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
                                       .y = mixer_rotation(&w, i)}});
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
