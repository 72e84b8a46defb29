/* widths.c - how wide a model's activations are, for the layout of scratch memory. */
#include "engine/forward.h"

/* Numbers per row of the longest list of active neurons. */
static uint32_t choice_n(const hotset_model *m, uint32_t dense_n) {
    const uint32_t dense = dense_n ? dense_n + 1 : 0;
    const uint32_t experts = m->shape.expert_n ? m->shape.expert_used_n * (m->shape.ff_n + 1) : 0;
    return dense > experts ? dense : experts;
}

footprint_widths forward_widths(const hotset_model *m, hotset_sparsity sparsity) {
    const hotset_shape *s = &m->shape;
    uint32_t rank_n = 0, dense_n = m->ff_dense_n;
    for (uint32_t i = 0; i < s->layer_n; i++) {
        const model_layer *l = &m->layer[i];
        if (sparsity == HOTSET_SPARSITY_PREDICT && l->rank_n > rank_n) rank_n = l->rank_n;
        if (l->shared_n > dense_n) dense_n = l->shared_n;
    }
    const uint32_t kept_n = m->latent_n + m->rotated_n, head_n = s->head_n;
    footprint_widths widths = {
        .embd_n = s->embd_n,
        .query_n = s->head_n * s->key_n,
        .key_n = s->head_kv_n * s->key_n,
        .value_n = s->head_kv_n * s->value_n,
        .mixed_n = s->head_n * s->value_n,
        .ff_n = dense_n,
        .ff_expert_n = model_expert_ff_n(m),
        .expert_n = s->expert_n,
        .expert_used_n = s->expert_used_n,
        .vocab_n = s->vocab_n,
        .rotary_n = 2 * m->pair_n * m->rotary_n,
        .choice_n = sparsity == HOTSET_SPARSITY_OFF ? 0 : choice_n(m, dense_n),
        .rank_n = rank_n,
        .head_n = s->head_n,
        .second = m->arch->rules & (ARCH_PARALLEL | ARCH_POST_NORM),
    };
    if (!m->latent_n) return widths;
    widths.query_n = head_n * (s->key_n > kept_n ? s->key_n : kept_n);
    widths.key_n = kept_n;
    widths.value_n = m->query_rank;
    widths.mixed_n = head_n * (s->key_n > m->latent_n ? s->key_n : m->latent_n);
    widths.latent_n = head_n * (s->value_n > m->latent_n ? s->value_n : m->latent_n);
    return widths;
}
