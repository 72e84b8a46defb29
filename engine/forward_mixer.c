/* forward_mixer.c - attention: plain, and latent (DeepSeek-AI 2024, DeepSeek-V2). */
#include "engine/writer.h"

/* (cos, sin) of each pair for the layer's rotation; absent: it has none. */
device_rows mixer_rotation(const writer *w, uint32_t rotary_i) {
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

/* Whether what comes out of attention meets 8-bit products. A model of floats stays one of floats throughout.
 */
static bool rounds_activations(const writer *w) {
    return gguf_type_get(matrix(w, ARCH_ATTN_OUT).type)->block_n > 1;
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
                                  .context_n = kv->row_n,
                                  .state = kv->type,
                                  .rounded = rounds_activations(w)}});
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
                                   .rotary = mixer_rotation(w, layer_of(w)->rotary_i),
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
                                   .context_n = kv->row_n,
                                   .state = kv->type,
                                   .rounded = rounds_activations(w)}});
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
                                   .rotary = mixer_rotation(w, layer->rotary_i),
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
                                   .context_n = kv->row_n,
                                   .state = kv->type,
                                   .rounded = rounds_activations(w)}});
    attend(w, q, mixed, keys, values);
    return mixed;
}

/* x <- x + Wo attention(input), or the norm of what is added */
void mixer_attention(writer *w, device_rows input) {
    const bool post = follows(w, ARCH_POST_NORM);
    const device_rows mixed = w->at->model->latent_n ? latent_attention(w, input) : plain_attention(w, input);
    linear(w, "attn out", mixed,
           product(w, ARCH_ATTN_OUT, ARCH_ATTN_OUT_BIAS, post ? second(w) : hidden(w), !post));
    if (post) add_normed(w, "attn post norm", "attn sum", ARCH_ATTN_POST_NORM);
}
