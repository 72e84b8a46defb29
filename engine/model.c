/* model.c - from a GGUF file to a checked model: keys to numbers, tensors to roles. */
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/blocks.h"
#include "devices/cpu/kernels.h"
#include "devices/device.h"
#include "engine/tokenizer.h"

enum {
    NAME_BYTES = 96,
    LAYER_MAX = 4096, /* limits that no real model comes near: they bound what a broken file can ask for */
    WIDTH_MAX = 1 << 24,
    EXPERT_MAX = 1 << 16
};

/* ---- Keys ---- */

static void key_name(const hotset_model *m, const char *key, char name[NAME_BYTES]) {
    snprintf(name, NAME_BYTES, "%s.%s", m->arch->name, key);
}

hotset_status model_key_u32(const hotset_model *m, const char *key, uint32_t *out, bool *found,
                            hotset_error *err) {
    char name[NAME_BYTES];
    key_name(m, key, name);
    return gguf_get_u32(m->file, name, out, found, err);
}

hotset_status model_key_f32(const hotset_model *m, const char *key, float *out, bool *found,
                            hotset_error *err) {
    char name[NAME_BYTES];
    key_name(m, key, name);
    return gguf_get_f32(m->file, name, out, found, err);
}

hotset_status model_key_bool(const hotset_model *m, const char *key, bool *out, hotset_error *err) {
    char name[NAME_BYTES];
    key_name(m, key, name);
    return gguf_get_bool(m->file, name, out, NULL, err);
}

hotset_status model_key_string(const hotset_model *m, const char *key, gguf_string *out, bool *found,
                               hotset_error *err) {
    char name[NAME_BYTES];
    key_name(m, key, name);
    return gguf_get_string(m->file, name, out, found, err);
}

/* A number that must be there and lie in [low, high]. */
static hotset_status key_needed(const hotset_model *m, const char *key, uint32_t low, uint32_t high,
                                uint32_t *out, hotset_error *err) {
    bool found;
    HOTSET_TRY(model_key_u32(m, key, out, &found, err));
    if (!found) return hotset_fail(err, HOTSET_E_FORMAT, "key %s.%s is missing", m->arch->name, key);
    if (*out < low || *out > high)
        return hotset_fail(err, HOTSET_E_FORMAT, "key %s.%s is %u, outside %u to %u", m->arch->name, key,
                           *out, low, high);
    return HOTSET_OK;
}

/* A number that may be one for all layers or an array of one per layer. Absent: *value stays for all. */
static hotset_status key_per_layer(const hotset_model *m, const char *key, uint32_t fallback, uint32_t *value,
                                   hotset_error *err) {
    char name[NAME_BYTES];
    key_name(m, key, name);
    const gguf_key *k = gguf_find_key(m->file, name);
    uint32_t layer_n = m->shape.layer_n;
    if (!k || k->kind != GGUF_KIND_ARRAY) {
        uint32_t plain = fallback;
        HOTSET_TRY(gguf_get_u32(m->file, name, &plain, NULL, err));
        for (uint32_t i = 0; i < layer_n; i++) value[i] = plain;
    } else {
        if (k->item_n != m->block_n || k->item_kind == GGUF_KIND_STRING)
            return hotset_fail_at(err, HOTSET_E_FORMAT, k->offset_bytes,
                                  "key %s has %llu items for %u layers", name, (unsigned long long)k->item_n,
                                  m->block_n);
        for (uint32_t i = 0; i < layer_n; i++) {
            int64_t item = gguf_item_i64(k, i);
            if (item < 0 || item > WIDTH_MAX)
                return hotset_fail_at(err, HOTSET_E_FORMAT, k->offset_bytes, "key %s: item %u is %lld", name,
                                      i, (long long)item);
            value[i] = (uint32_t)item;
        }
    }
    for (uint32_t i = 0; i < layer_n; i++)
        if (value[i] > WIDTH_MAX)
            return hotset_fail(err, HOTSET_E_FORMAT, "key %s is %u, above %d", name, value[i], WIDTH_MAX);
    return HOTSET_OK;
}

/* Copies text of the file, cut to fit and made printable. */
static void copy_text(char *out, size_t out_bytes, gguf_string s) {
    size_t n = (size_t)min_u64(s.bytes, out_bytes - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = (unsigned char)s.data[i] < ' ' || s.data[i] == 127 ? '?' : s.data[i];
    out[n] = 0;
}

static hotset_status read_architecture(hotset_model *m, hotset_error *err) {
    gguf_string name = {0};
    bool found;
    HOTSET_TRY(gguf_get_string(m->file, "general.architecture", &name, &found, err));
    if (!found) return hotset_fail(err, HOTSET_E_FORMAT, "key general.architecture is missing: not a model");
    m->arch = arch_find(name);
    if (!m->arch)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "architecture '%.*s' (known: %s)",
                           (int)min_u64(name.bytes, 40), name.data, arch_names());
    copy_text(m->shape.architecture, sizeof m->shape.architecture, name);
    gguf_string title = {0};
    HOTSET_TRY(gguf_get_string(m->file, "general.name", &title, NULL, err));
    copy_text(m->shape.name, sizeof m->shape.name, title);
    return HOTSET_OK;
}

/* The widest layer stands in the shape: every layer's own numbers are in m->layer. */
static hotset_status read_layers(hotset_model *m, hotset_error *err) {
    hotset_shape *s = &m->shape;
    m->layer = arena_alloc(&m->arena, s->layer_n, sizeof *m->layer);
    uint32_t *value = arena_alloc(&m->arena, s->layer_n, sizeof *value);
    if (!m->layer || !value)
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for %u layers", s->layer_n);
    HOTSET_TRY(key_per_layer(m, "attention.head_count", 0, value, err));
    for (uint32_t i = 0; i < s->layer_n; i++) {
        m->layer[i].head_n = value[i];
        s->head_n = value[i] > s->head_n ? value[i] : s->head_n;
    }
    HOTSET_TRY(key_per_layer(m, "attention.head_count_kv", s->head_n, value, err));
    for (uint32_t i = 0; i < s->layer_n; i++) {
        m->layer[i].head_kv_n = value[i];
        s->head_kv_n = value[i] > s->head_kv_n ? value[i] : s->head_kv_n;
        if (!m->layer[i].head_n || !value[i] || m->layer[i].head_n % value[i])
            return hotset_fail(err, HOTSET_E_FORMAT, "layer %u has %u query heads and %u key/value heads", i,
                               m->layer[i].head_n, value[i]);
    }
    HOTSET_TRY(key_per_layer(m, "feed_forward_length", 0, value, err));
    for (uint32_t i = 0; i < s->layer_n; i++) {
        m->layer[i].ff_n = value[i];
        s->ff_n = value[i] > s->ff_n ? value[i] : s->ff_n;
    }
    return HOTSET_OK;
}

static hotset_status read_heads(hotset_model *m, uint32_t *rotated_n, hotset_error *err) {
    hotset_shape *s = &m->shape;
    s->key_n = s->head_n ? s->embd_n / s->head_n : 0;
    HOTSET_TRY(model_key_u32(m, "attention.key_length", &s->key_n, NULL, err));
    s->value_n = s->key_n;
    HOTSET_TRY(model_key_u32(m, "attention.value_length", &s->value_n, NULL, err));
    if (m->arch->rules & ARCH_LATENT) { /* where the file means what is kept, these are the heads */
        HOTSET_TRY(model_key_u32(m, "attention.key_length_mla", &s->key_n, NULL, err));
        HOTSET_TRY(model_key_u32(m, "attention.value_length_mla", &s->value_n, NULL, err));
        HOTSET_TRY(key_needed(m, "attention.kv_lora_rank", 1, WIDTH_MAX, &m->latent_n, err));
        HOTSET_TRY(model_key_u32(m, "attention.q_lora_rank", &m->query_rank, NULL, err));
        s->head_kv_n = s->head_n;
        for (uint32_t i = 0; i < s->layer_n; i++) m->layer[i].head_kv_n = m->layer[i].head_n;
    }
    *rotated_n = s->key_n;
    HOTSET_TRY(model_key_u32(m, "rope.dimension_count", rotated_n, NULL, err));
    if (!s->key_n || s->key_n > WIDTH_MAX / s->head_n || !s->value_n || s->value_n > WIDTH_MAX / s->head_n)
        return hotset_fail(err, HOTSET_E_FORMAT, "heads of width %u (keys) and %u (values)", s->key_n,
                           s->value_n);
    if (!*rotated_n || *rotated_n % 2 || *rotated_n > s->key_n)
        return hotset_fail(err, HOTSET_E_FORMAT, "%s.rope.dimension_count is %u for heads of width %u",
                           m->arch->name, *rotated_n, s->key_n);
    if (m->latent_n && (*rotated_n == s->key_n || m->query_rank > WIDTH_MAX))
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "latent attention with keys of %u, all rotated, or queries of rank %u", s->key_n,
                           m->query_rank);
    m->rotated_n = *rotated_n;
    bool wide = m->arch->wide_layer_n == s->layer_n;
    m->attention_scale = 1 / sqrtf(wide ? (float)s->embd_n / (float)s->head_n : (float)s->key_n);
    return HOTSET_OK;
}

/* Which layers see a window: by the period of the architecture or the file, or as the file says of each. */
static hotset_status read_windows(hotset_model *m, hotset_error *err) {
    char name[NAME_BYTES];
    uint32_t period = m->arch->window_period, layer_n = m->shape.layer_n;
    m->shape.window_n = m->arch->window_n;
    HOTSET_TRY(model_key_u32(m, "attention.sliding_window", &m->shape.window_n, NULL, err));
    key_name(m, "attention.sliding_window_pattern", name);
    const gguf_key *k = gguf_find_key(m->file, name);
    bool each = k && k->kind == GGUF_KIND_ARRAY;
    if (each && (k->item_n < layer_n || k->item_kind == GGUF_KIND_STRING))
        return hotset_fail_at(err, HOTSET_E_FORMAT, k->offset_bytes, "key %s has %llu items for %u layers",
                              name, (unsigned long long)k->item_n, layer_n);
    if (k && !each && period) HOTSET_TRY(gguf_get_u32(m->file, name, &period, NULL, err));
    for (uint32_t i = 0; i < layer_n; i++) {
        uint32_t full = period && !m->arch->full_first ? period - 1 : 0;
        bool windowed = each ? gguf_item_i64(k, i) != 0 : !period || i % period != full;
        m->layer[i].window_n = windowed ? m->shape.window_n : 0;
    }
    return HOTSET_OK;
}

static hotset_status check_cap(const hotset_model *m, const char *key, float cap, hotset_error *err) {
    if (cap >= 0 && isfinite(cap)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_FORMAT, "key %s.%s is %g", m->arch->name, key, (double)cap);
}

static hotset_status read_scales(hotset_model *m, hotset_error *err) {
    m->attention_cap = m->arch->attention_cap;
    m->logit_cap = m->arch->logit_cap;
    m->embed_scale = m->arch->rules & ARCH_SCALED_EMBED ? sqrtf((float)m->shape.embd_n) : 1;
    HOTSET_TRY(model_key_f32(m, "attn_logit_softcapping", &m->attention_cap, NULL, err));
    HOTSET_TRY(model_key_f32(m, "final_logit_softcapping", &m->logit_cap, NULL, err));
    HOTSET_TRY(check_cap(m, "attn_logit_softcapping", m->attention_cap, err));
    return check_cap(m, "final_logit_softcapping", m->logit_cap, err);
}

/* DeepSeek-V2 (arXiv 2405.04434), 2.2.2: experts stand in groups, and are chosen from the best of these. */
static hotset_status read_groups(hotset_model *m, hotset_error *err) {
    model_router *r = &m->router;
    HOTSET_TRY(model_key_u32(m, "expert_group_count", &r->group_n, NULL, err));
    HOTSET_TRY(model_key_u32(m, "expert_group_used_count", &r->group_used_n, NULL, err));
    if (r->group_n <= 1) {
        r->group_n = r->group_used_n = 0;
        return HOTSET_OK;
    }
    if (r->group_n > DEVICE_GROUP_MAX || m->shape.expert_n % r->group_n || !r->group_used_n ||
        r->group_used_n > r->group_n ||
        (uint64_t)r->group_used_n * (m->shape.expert_n / r->group_n) < r->used_n)
        return hotset_fail(err, HOTSET_E_FORMAT,
                           "keys %s.expert_group_*: %u experts are chosen from %u of %u groups of %u experts",
                           m->arch->name, r->used_n, r->group_used_n, r->group_n, m->shape.expert_n);
    return HOTSET_OK;
}

static hotset_status read_router(hotset_model *m, hotset_error *err) {
    uint32_t gating = m->arch->gating ? m->arch->gating : ARCH_GATING_SOFTMAX;
    m->router = (model_router){
        .used_n = m->shape.expert_used_n, .normalise = (m->arch->rules & ARCH_ROUTER_NORM) != 0, .scale = 1};
    HOTSET_TRY(model_key_u32(m, "expert_gating_func", &gating, NULL, err));
    HOTSET_TRY(model_key_f32(m, "expert_weights_scale", &m->router.scale, NULL, err));
    HOTSET_TRY(model_key_bool(m, "expert_weights_norm", &m->router.normalise, err));
    if (gating < ARCH_GATING_SOFTMAX || gating > ARCH_GATING_SOFTMAX_AFTER)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                           "key %s.expert_gating_func is %u (known: 1 softmax, 2 sigmoid, 3 softmax over the "
                           "chosen experts)",
                           m->arch->name, gating);
    m->router.gating = (arch_gating)gating;
    if (m->router.scale == 0) m->router.scale = 1; /* how files write "not scaled" */
    return read_groups(m, err);
}

/* All layers have experts but the first few. */
static hotset_status read_experts(hotset_model *m, hotset_error *err) {
    hotset_shape *s = &m->shape;
    uint32_t dense_n = 0;
    m->ff_dense_n = s->ff_n;
    HOTSET_TRY(model_key_u32(m, "expert_count", &s->expert_n, NULL, err));
    if (!s->expert_n) return HOTSET_OK;
    if (s->expert_n > EXPERT_MAX)
        return hotset_fail(err, HOTSET_E_FORMAT, "key %s.expert_count is %u, above %d", m->arch->name,
                           s->expert_n, EXPERT_MAX);
    HOTSET_TRY(key_needed(m, "expert_used_count", 1, s->expert_n, &s->expert_used_n, err));
    HOTSET_TRY(model_key_u32(m, "expert_feed_forward_length", &s->ff_n, NULL, err));
    HOTSET_TRY(model_key_u32(m, "leading_dense_block_count", &dense_n, NULL, err));
    if (dense_n >= s->layer_n)
        return hotset_fail(err, HOTSET_E_FORMAT, "key %s.leading_dense_block_count is %u of %u layers",
                           m->arch->name, dense_n, s->layer_n);
    m->ff_dense_n = 0;
    for (uint32_t i = 0; i < s->layer_n; i++) {
        model_layer *l = &m->layer[i];
        l->experts = i >= dense_n;
        if (l->experts) l->ff_n = 0;
        m->ff_dense_n = l->ff_n > m->ff_dense_n ? l->ff_n : m->ff_dense_n;
    }
    s->expert_layer_n = s->layer_n - dense_n;
    return read_router(m, err);
}

static hotset_status read_activation(hotset_model *m, const char *wanted, hotset_error *err) {
    const char *usual = gguf_is_powerinfer(m->file) && m->arch->powerinfer_activation
                            ? m->arch->powerinfer_activation
                            : m->arch->activation;
    gguf_string name = {usual, strlen(usual)};
    HOTSET_TRY(model_key_string(m, "hidden_activation", &name, NULL, err));
    if (wanted) name = (gguf_string){wanted, strlen(wanted)};
    const char *canonical;
    if (!arch_activation_find(name, &m->activation, &canonical))
        return hotset_fail(err, wanted ? HOTSET_E_ARGUMENT : HOTSET_E_UNSUPPORTED,
                           "FFN activation '%.*s' (known: %s)", (int)min_u64(name.bytes, 40), name.data,
                           arch_activation_names());
    if ((m->activation == ARCH_ACT_DRELU || m->activation == ARCH_ACT_SWIGLU_OAI) &&
        !(m->arch->rules & ARCH_GATED))
        return hotset_fail(err, wanted ? HOTSET_E_ARGUMENT : HOTSET_E_UNSUPPORTED,
                           "FFN activation %s needs a gate, which %s has not", canonical, m->arch->name);
    snprintf(m->shape.activation, sizeof m->shape.activation, "%s", canonical);
    return HOTSET_OK;
}

static hotset_status read_vocabulary(hotset_model *m, hotset_error *err) {
    const gguf_tensor *embed = gguf_find_tensor(m->file, "token_embd.weight");
    if (!embed) return hotset_fail(err, HOTSET_E_FORMAT, "tensor token_embd.weight is missing");
    if (!embed->dim[1] || embed->dim[1] > INT32_MAX)
        return hotset_fail(err, HOTSET_E_FORMAT, "tensor token_embd.weight has %llu rows",
                           (unsigned long long)embed->dim[1]);
    m->shape.vocab_n = (uint32_t)embed->dim[1];
    return HOTSET_OK;
}

/* Learned positions: there are no more than the file has vectors for. */
static hotset_status read_positions(hotset_model *m, hotset_error *err) {
    const uint32_t from = m->arch->position_from;
    if (!(m->arch->rules & ARCH_LEARNED_POSITIONS)) return HOTSET_OK;
    const gguf_tensor *t = gguf_find_tensor(m->file, "position_embd.weight");
    if (!t) return hotset_fail(err, HOTSET_E_FORMAT, "tensor position_embd.weight is missing");
    if (t->dim[1] <= from || t->dim[1] > INT32_MAX)
        return hotset_fail(err, HOTSET_E_FORMAT, "tensor position_embd.weight has %llu rows",
                           (unsigned long long)t->dim[1]);
    m->position_n = (uint32_t)t->dim[1];
    m->shape.context_max_n = m->position_n - from;
    if (m->shape.context_train_n > m->shape.context_max_n) m->shape.context_train_n = m->shape.context_max_n;
    return HOTSET_OK;
}

/* The last blocks may be for guessing tokens further ahead: no token passes through them. */
static hotset_status read_layer_n(hotset_model *m, hotset_error *err) {
    uint32_t ahead_n = 0;
    HOTSET_TRY(key_needed(m, "block_count", 1, LAYER_MAX, &m->block_n, err));
    HOTSET_TRY(model_key_u32(m, "nextn_predict_layers", &ahead_n, NULL, err));
    if (ahead_n >= m->block_n)
        return hotset_fail(err, HOTSET_E_FORMAT, "key %s.nextn_predict_layers is %u of %u blocks",
                           m->arch->name, ahead_n, m->block_n);
    m->shape.layer_n = m->block_n - ahead_n;
    return HOTSET_OK;
}

static hotset_status read_numbers(hotset_model *m, const hotset_model_options *options, uint32_t *rotated_n,
                                  hotset_error *err) {
    hotset_shape *s = &m->shape;
    HOTSET_TRY(read_architecture(m, err));
    HOTSET_TRY(read_layer_n(m, err));
    HOTSET_TRY(key_needed(m, "embedding_length", 1, WIDTH_MAX, &s->embd_n, err));
    HOTSET_TRY(key_needed(m, "context_length", 1, INT32_MAX, &s->context_train_n, err));
    HOTSET_TRY(read_vocabulary(m, err));
    HOTSET_TRY(read_positions(m, err));
    HOTSET_TRY(read_layers(m, err));
    HOTSET_TRY(read_heads(m, rotated_n, err));
    HOTSET_TRY(read_experts(m, err));
    HOTSET_TRY(read_activation(m, options ? options->activation : NULL, err));
    HOTSET_TRY(read_windows(m, err));
    HOTSET_TRY(read_scales(m, err));
    m->norm_epsilon = 1e-5f;
    HOTSET_TRY(model_key_f32(m,
                             m->arch->rules & ARCH_LAYER_NORM ? "attention.layer_norm_epsilon"
                                                              : "attention.layer_norm_rms_epsilon",
                             &m->norm_epsilon, NULL, err));
    if (!(m->norm_epsilon >= 0) || !isfinite(m->norm_epsilon))
        return hotset_fail(err, HOTSET_E_FORMAT, "key %s: the epsilon of the norms is %g", m->arch->name,
                           m->norm_epsilon);
    s->gated = (m->arch->rules & ARCH_GATED) != 0;
    HOTSET_TRY(gguf_get_f32(m->file, "powerinfer.sparse_threshold", &m->predictor_threshold, NULL, err));
    if (!isfinite(m->predictor_threshold))
        return hotset_fail(err, HOTSET_E_FORMAT, "key powerinfer.sparse_threshold is %g",
                           m->predictor_threshold);
    return HOTSET_OK;
}

/* ---- Tensors ---- */

/* What a width symbol stands for in one layer (or, for global tensors, in the model: layer NULL). */
static uint64_t width_of(const hotset_model *m, const model_layer *layer, uint32_t rotated_n, arch_width w) {
    const hotset_shape *s = &m->shape;
    uint64_t head_n = layer ? layer->head_n : s->head_n, head_kv_n = layer ? layer->head_kv_n : s->head_kv_n;
    switch (w) {
    case ARCH_W_EMBD: return s->embd_n;
    case ARCH_W_VOCAB: return s->vocab_n;
    case ARCH_W_POSITIONS: return m->position_n;
    case ARCH_W_QUERY: return head_n * s->key_n;
    case ARCH_W_KEY: return head_kv_n * s->key_n;
    case ARCH_W_VALUE: return head_kv_n * s->value_n;
    case ARCH_W_MIXED: return head_n * s->value_n;
    case ARCH_W_QKV: return head_n * s->key_n + head_kv_n * (s->key_n + s->value_n);
    case ARCH_W_HEAD: return s->key_n;
    case ARCH_W_HEADS: return head_n;
    case ARCH_W_QUERY_RANK: return m->query_rank;
    case ARCH_W_LATENT: return m->latent_n;
    case ARCH_W_KEPT: return m->latent_n + rotated_n;
    case ARCH_W_STILL: return s->key_n - rotated_n;
    case ARCH_W_VALUE_HEAD: return s->value_n;
    case ARCH_W_KV_B: return head_n * (s->key_n - rotated_n + s->value_n);
    case ARCH_W_PAIRS: return rotated_n / 2;
    case ARCH_W_FF: return layer->ff_n;
    case ARCH_W_FF_TWICE: return 2 * (uint64_t)layer->ff_n;
    case ARCH_W_RANK: return layer->rank_n;
    case ARCH_W_SHARED: return layer->shared_n;
    case ARCH_W_FF_EXPERT: return s->ff_n;
    case ARCH_W_FF_EXPERT_TWICE: return 2 * (uint64_t)s->ff_n;
    case ARCH_W_EXPERTS: return s->expert_n;
    case ARCH_W_NONE:
    case ARCH_W_COUNT: break;
    }
    return 1;
}

static bool is_needed(const hotset_model *m, const model_layer *layer, arch_need need) {
    unsigned rules = m->arch->rules;
    switch (need) {
    case ARCH_ALWAYS: return true;
    case ARCH_OPTIONAL: return false;
    case ARCH_IF_DENSE: return !layer->experts;
    case ARCH_IF_DENSE_GATED: return !layer->experts && (rules & ARCH_GATED);
    case ARCH_IF_MOE: return layer->experts;
    case ARCH_IF_MOE_GATED: return layer->experts && (rules & ARCH_GATED);
    case ARCH_IF_QKV_BIAS: return rules & ARCH_QKV_BIAS;
    case ARCH_IF_QK_NORM: return rules & ARCH_QK_NORM;
    case ARCH_IF_NORM_BIAS: return rules & ARCH_LAYER_NORM;
    case ARCH_IF_FFN_NORM: return !(rules & ARCH_PARALLEL);
    case ARCH_IF_FFN_NORM_BIAS: return rules & ARCH_LAYER_NORM && !(rules & ARCH_PARALLEL);
    case ARCH_IF_PLAIN_ATTENTION: return !(rules & ARCH_LATENT);
    case ARCH_IF_LATENT: return rules & ARCH_LATENT;
    case ARCH_IF_QUERY_RANK: return layer->tensor[ARCH_ATTN_Q_A].present;
    case ARCH_IF_POSITIONS: return rules & ARCH_LEARNED_POSITIONS;
    case ARCH_IF_POST_NORM: return rules & ARCH_POST_NORM;
    case ARCH_IF_SHARED: return layer->shared_n > 0;
    case ARCH_IF_SHARED_GATED: return layer->shared_n > 0 && (rules & ARCH_GATED);
    case ARCH_IF_PREDICTOR: return layer->rank_n > 0;
    }
    return false;
}

static hotset_status check_dims(const hotset_model *m, const model_layer *layer, uint32_t rotated_n,
                                const arch_tensor *row, const gguf_tensor *t, bool one_unit,
                                hotset_error *err) {
    uint64_t want[3] = {width_of(m, layer, rotated_n, row->in), width_of(m, layer, rotated_n, row->out),
                        one_unit ? 1 : width_of(m, layer, rotated_n, row->unit)};
    if (t->dim[0] == want[0] && t->dim[1] == want[1] && t->dim[2] == want[2] && t->dim[3] == 1)
        return HOTSET_OK;
    return hotset_fail_at(err, HOTSET_E_FORMAT, t->offset_bytes,
                          "tensor %.*s is [%llu, %llu, %llu], expected [%llu, %llu, %llu]",
                          (int)min_u64(t->name.bytes, 60), t->name.data, (unsigned long long)t->dim[0],
                          (unsigned long long)t->dim[1], (unsigned long long)t->dim[2],
                          (unsigned long long)want[0], (unsigned long long)want[1],
                          (unsigned long long)want[2]);
}

/* Matrices must be of a type that products exist for, whatever device runs them. */
static hotset_status check_weight_type(const gguf_tensor *t, hotset_error *err) {
    switch ((int)t->type) {
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16: return HOTSET_OK;
    default:
        if (blocks_form_of(t->type)) return HOTSET_OK;
        return hotset_fail_at(
            err, HOTSET_E_UNSUPPORTED, t->offset_bytes,
            "tensor %.*s is of type %s (known: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K "
            "Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4)",
            (int)min_u64(t->name.bytes, 60), t->name.data, gguf_type_get(t->type)->name);
    }
}

static hotset_status out_of_views(hotset_error *err) {
    return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the model's tensors");
}

/* Norm weights and biases become floats of our own: they are few, and devices want them aligned. */
static hotset_status take_vector(hotset_model *m, const gguf_tensor *t, model_tensor *out,
                                 hotset_error *err) {
    if (t->type != GGUF_F32 && t->type != GGUF_F16 && t->type != GGUF_BF16)
        return hotset_fail_at(err, HOTSET_E_UNSUPPORTED, t->offset_bytes,
                              "tensor %.*s is a vector of type %s", (int)min_u64(t->name.bytes, 60),
                              t->name.data, gguf_type_get(t->type)->name);
    const uint64_t n = t->element_n; /* of all experts */
    float *values = arena_alloc(&m->arena, n, sizeof *values);
    if (!values) return out_of_views(err);
    for (uint64_t i = 0; i < n; i++) {
        uint16_t half;
        if (t->type == GGUF_F32) {
            memcpy(&values[i], t->data + 4 * i, 4);
        } else {
            memcpy(&half, t->data + 2 * i, 2);
            values[i] = t->type == GGUF_F16 ? ref_f16_to_f32(half) : ref_bf16_to_f32(half);
        }
    }
    *out = (model_tensor){.present = true,
                          .type = GGUF_F32,
                          .in_n = (uint32_t)n,
                          .out_n = 1,
                          .row_bytes = 4 * n,
                          .values = values};
    return HOTSET_OK;
}

static hotset_status take_matrix(hotset_model *m, const arch_tensor *row, const gguf_tensor *t,
                                 model_tensor *out, hotset_error *err) {
    bool by_row = row->order == NEURONS_BY_ROW;
    *out = (model_tensor){.present = true,
                          .type = t->type,
                          .order = row->order,
                          .in_n = (uint32_t)t->dim[by_row],
                          .out_n = (uint32_t)t->dim[!by_row],
                          .row_bytes = t->row_bytes,
                          .data = t->data,
                          .part_i = t->part_i};
    if (by_row && gguf_type_get(t->type)->block_n == 1) { /* the same by neuron */
        out->order = NEURONS_BY_NEURON;
        out->row_bytes = gguf_row_bytes(t->type, out->in_n);
    }
    neurons_form f;
    if (out->order == NEURONS_BY_NEURON && !neurons_form_of(out->type, out->out_n, &f))
        return hotset_fail_at(
            err, HOTSET_E_FORMAT, t->offset_bytes, "tensor %.*s: %s of %u outputs cannot be by neuron",
            (int)min_u64(t->name.bytes, 60), t->name.data, gguf_type_get(t->type)->name, out->out_n);
    if (row->unit == ARCH_W_NONE) return HOTSET_OK;
    out->unit_n = (uint32_t)t->dim[2];
    const uint8_t **unit = arena_alloc(&m->arena, out->unit_n, sizeof *unit);
    if (!unit) return out_of_views(err);
    for (uint32_t u = 0; u < out->unit_n; u++) unit[u] = t->data + model_unit_bytes(out) * u;
    out->unit = unit;
    return HOTSET_OK;
}

/* Old Mixtral files: one tensor per expert. */
static hotset_status take_per_unit(hotset_model *m, const model_layer *layer, uint32_t layer_i,
                                   uint32_t rotated_n, const arch_tensor *row, model_tensor *out,
                                   hotset_error *err) {
    char name[NAME_BYTES];
    int prefix = snprintf(name, sizeof name, "blk.%u.", layer_i);
    snprintf(name + prefix, sizeof name - (size_t)prefix, row->per_unit, 0u);
    if (!gguf_find_tensor(m->file, name)) return HOTSET_OK;
    uint32_t unit_n = m->shape.expert_n;
    const uint8_t **unit = arena_alloc(&m->arena, unit_n, sizeof *unit);
    if (!unit) return out_of_views(err);
    model_tensor view = {0};
    for (uint32_t u = 0; u < unit_n; u++) {
        snprintf(name + prefix, sizeof name - (size_t)prefix, row->per_unit, u);
        const gguf_tensor *t = gguf_find_tensor(m->file, name);
        if (!t) return hotset_fail(err, HOTSET_E_FORMAT, "tensor %s is missing", name);
        HOTSET_TRY(check_dims(m, layer, rotated_n, row, t, true, err));
        HOTSET_TRY(check_weight_type(t, err));
        if (u == 0)
            view = (model_tensor){.present = true,
                                  .type = t->type,
                                  .in_n = (uint32_t)t->dim[0],
                                  .out_n = (uint32_t)t->dim[1],
                                  .row_bytes = t->row_bytes,
                                  .unit_n = unit_n,
                                  .data = t->data,
                                  .unit = unit,
                                  .part_i = t->part_i};
        if (t->type != view.type || t->part_i != view.part_i)
            return hotset_fail_at(err, HOTSET_E_UNSUPPORTED, t->offset_bytes,
                                  "tensor %s differs from expert 0's in type or part of the file", name);
        unit[u] = t->data;
    }
    *out = view;
    return HOTSET_OK;
}

static hotset_status take_tensor(hotset_model *m, const model_layer *layer, uint32_t layer_i,
                                 uint32_t rotated_n, const arch_tensor *row, model_tensor *out,
                                 hotset_error *err) {
    char name[NAME_BYTES];
    if (layer)
        snprintf(name, sizeof name, "blk.%u.%s", layer_i, row->name);
    else
        snprintf(name, sizeof name, "%s", row->name);
    const gguf_tensor *t = gguf_find_tensor(m->file, name);
    if (!t && row->per_unit && layer->experts)
        return take_per_unit(m, layer, layer_i, rotated_n, row, out, err);
    if (!t) return HOTSET_OK;
    HOTSET_TRY(check_dims(m, layer, rotated_n, row, t, false, err));
    if (row->matrix) HOTSET_TRY(check_weight_type(t, err));
    return row->matrix ? take_matrix(m, row, t, out, err) : take_vector(m, t, out, err);
}

/* Rows [from, from + n) of a fused tensor as a tensor of their own. */
static hotset_status slice(hotset_model *m, const model_tensor *fused, uint64_t from, uint64_t n,
                           model_tensor *out, hotset_error *err) {
    *out = *fused;
    if (fused->values) {
        out->values = fused->values + from;
        out->in_n = (uint32_t)n;
        out->row_bytes = 4 * n;
        return HOTSET_OK;
    }
    out->out_n = (uint32_t)n;
    out->data = fused->data + fused->row_bytes * from;
    if (!fused->unit_n) return HOTSET_OK;
    const uint8_t **unit = arena_alloc(&m->arena, fused->unit_n, sizeof *unit);
    if (!unit) return out_of_views(err);
    for (uint32_t u = 0; u < fused->unit_n; u++) unit[u] = fused->unit[u] + fused->row_bytes * from;
    out->unit = unit;
    return HOTSET_OK;
}

/* Of each head rows that make its keys of the latents, then rows that make its values. Those of the keys are
 * needed transposed, for they meet the query: each is a row by neuron. */
static hotset_status split_heads(hotset_model *m, model_layer *layer, hotset_error *err) {
    const model_tensor *both = &layer->tensor[ARCH_ATTN_KV_B];
    model_tensor *k = &layer->tensor[ARCH_ATTN_K_B], *v = &layer->tensor[ARCH_ATTN_V_B];
    const uint32_t still_n = m->shape.key_n - m->rotated_n, value_n = m->shape.value_n;
    if (!both->present || (k->present && v->present)) return HOTSET_OK;
    const uint8_t **k_unit = arena_alloc(&m->arena, layer->head_n, sizeof *k_unit);
    const uint8_t **v_unit = arena_alloc(&m->arena, layer->head_n, sizeof *v_unit);
    if (!k_unit || !v_unit) return out_of_views(err);
    for (uint32_t h = 0; h < layer->head_n; h++) {
        k_unit[h] = both->data + both->row_bytes * (uint64_t)h * (still_n + value_n);
        v_unit[h] = k_unit[h] + both->row_bytes * still_n;
    }
    *k = *v = *both;
    k->unit_n = v->unit_n = layer->head_n;
    k->unit = k_unit;
    v->unit = v_unit;
    v->out_n = value_n;
    k->in_n = still_n;
    k->out_n = m->latent_n;
    k->order = NEURONS_BY_ROW;
    if (gguf_type_get(k->type)->block_n > 1) return HOTSET_OK;
    k->order = NEURONS_BY_NEURON; /* the same */
    k->row_bytes = gguf_row_bytes(k->type, still_n);
    return HOTSET_OK;
}

/* Fused tensors become views of their parts, so that nothing after this knows of them. */
static hotset_status split_fused(hotset_model *m, model_layer *layer, hotset_error *err) {
    uint64_t q = width_of(m, layer, 0, ARCH_W_QUERY), k = width_of(m, layer, 0, ARCH_W_KEY);
    uint64_t v = width_of(m, layer, 0, ARCH_W_VALUE), ff = layer->experts ? m->shape.ff_n : layer->ff_n;
    const struct {
        arch_role fused, part;
        uint64_t from, n;
    } rows[] = {
        {ARCH_ATTN_QKV, ARCH_ATTN_Q, 0, q},
        {ARCH_ATTN_QKV, ARCH_ATTN_K, q, k},
        {ARCH_ATTN_QKV, ARCH_ATTN_V, q + k, v},
        {ARCH_ATTN_QKV_BIAS, ARCH_ATTN_Q_BIAS, 0, q},
        {ARCH_ATTN_QKV_BIAS, ARCH_ATTN_K_BIAS, q, k},
        {ARCH_ATTN_QKV_BIAS, ARCH_ATTN_V_BIAS, q + k, v},
        {ARCH_FFN_GATE_UP, ARCH_FFN_GATE, 0, ff},
        {ARCH_FFN_GATE_UP, ARCH_FFN_UP, ff, ff},
        {ARCH_EXPERT_GATE_UP, ARCH_EXPERT_GATE, 0, ff},
        {ARCH_EXPERT_GATE_UP, ARCH_EXPERT_UP, ff, ff},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (layer->tensor[rows[i].fused].present && !layer->tensor[rows[i].part].present)
            HOTSET_TRY(slice(m, &layer->tensor[rows[i].fused], rows[i].from, rows[i].n,
                             &layer->tensor[rows[i].part], err));
    return split_heads(m, layer, err);
}

/* A width that no key tells: dimension dim_i of a tensor of the layer; absent: 0. */
static hotset_status read_width(const hotset_model *m, uint32_t layer_i, const char *stem, uint32_t dim_i,
                                uint32_t *out, hotset_error *err) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer_i, stem);
    const gguf_tensor *t = gguf_find_tensor(m->file, name);
    if (!t) return HOTSET_OK;
    if (!t->dim[dim_i] || t->dim[dim_i] > WIDTH_MAX)
        return hotset_fail_at(err, HOTSET_E_FORMAT, t->offset_bytes, "tensor %s has an inner width of %llu",
                              name, (unsigned long long)t->dim[dim_i]);
    *out = (uint32_t)t->dim[dim_i];
    return HOTSET_OK;
}

/* Of a layer's predictor, and of the experts that every token uses. */
static hotset_status read_widths(hotset_model *m, uint32_t layer_i, hotset_error *err) {
    model_layer *layer = &m->layer[layer_i];
    HOTSET_TRY(read_width(m, layer_i, "fc2", 0, &layer->rank_n, err));
    HOTSET_TRY(read_width(m, layer_i, "fc1", 1, &layer->rank_n, err));
    if (!layer->experts) return HOTSET_OK;
    HOTSET_TRY(read_width(m, layer_i, "ffn_up_shexp", 1, &layer->shared_n, err));
    HOTSET_TRY(read_width(m, layer_i, "ffn_down_shexp", 0, &layer->shared_n, err));
    return HOTSET_OK;
}

static hotset_status take_layer(hotset_model *m, uint32_t layer_i, uint32_t rotated_n, hotset_error *err) {
    model_layer *layer = &m->layer[layer_i];
    HOTSET_TRY(read_widths(m, layer_i, err));
    for (size_t i = 0; i < arch_tensor_n; i++)
        if (arch_tensors[i].role >= ARCH_LAYER_ROLES && arch_means(m->arch, &arch_tensors[i]) &&
            !layer->tensor[arch_tensors[i].role].present)
            HOTSET_TRY(take_tensor(m, layer, layer_i, rotated_n, &arch_tensors[i],
                                   &layer->tensor[arch_tensors[i].role], err));
    for (size_t i = 0; i < arch_tensor_n; i++) {
        const arch_tensor *row = &arch_tensors[i];
        if (row->role >= ARCH_LAYER_ROLES && arch_means(m->arch, row) && is_needed(m, layer, row->need) &&
            !layer->tensor[row->role].present && !layer->tensor[row->instead].present)
            return hotset_fail(err, HOTSET_E_FORMAT, "tensor blk.%u.%s is missing", layer_i, row->name);
    }
    return split_fused(m, layer, err);
}

static hotset_status take_tensors(hotset_model *m, uint32_t rotated_n, hotset_error *err) {
    for (size_t i = 0; i < arch_tensor_n; i++) {
        const arch_tensor *row = &arch_tensors[i];
        if (row->role >= ARCH_LAYER_ROLES || !arch_means(m->arch, row)) continue;
        HOTSET_TRY(take_tensor(m, NULL, 0, rotated_n, row, &m->tensor[row->role], err));
        if (!m->tensor[row->role].present && is_needed(m, NULL, row->need))
            return hotset_fail(err, HOTSET_E_FORMAT, "tensor %s is missing", row->name);
    }
    m->shape.tied = !m->tensor[ARCH_OUTPUT].present;
    if (m->shape.tied) m->tensor[ARCH_OUTPUT] = m->tensor[ARCH_EMBED];
    m->shape.predictors = m->shape.by_neuron = true;
    for (uint32_t i = 0; i < m->shape.layer_n; i++) {
        HOTSET_TRY(take_layer(m, i, rotated_n, err));
        const model_layer *layer = &m->layer[i];
        const model_tensor *down = &layer->tensor[layer->experts ? ARCH_EXPERT_DOWN : ARCH_FFN_DOWN];
        m->shape.predictors &= layer->rank_n > 0;
        m->shape.by_neuron &= down->order != NEURONS_BY_OUTPUT && !layer->shared_n;
    }
    for (uint64_t i = 0; i < gguf_tensor_n(m->file); i++) {
        m->shape.parameter_n += gguf_tensor_at(m->file, i)->element_n;
        m->shape.weight_bytes += gguf_tensor_at(m->file, i)->bytes;
    }
    return HOTSET_OK;
}

uint64_t model_bytes_per_token(const hotset_model *m, bool predicted) {
    uint64_t bytes = model_matrix_bytes(&m->tensor[ARCH_OUTPUT]);
    static const arch_role roles[] = {
        ARCH_ATTN_Q,       ARCH_ATTN_K,      ARCH_ATTN_V,    ARCH_ATTN_OUT,    ARCH_ATTN_Q_A,
        ARCH_ATTN_Q_B,     ARCH_ATTN_KV_A,   ARCH_ATTN_K_B,  ARCH_ATTN_V_B,    ARCH_FFN_GATE,
        ARCH_FFN_UP,       ARCH_FFN_DOWN,    ARCH_ROUTER,    ARCH_SHARED_GATE, ARCH_SHARED_UP,
        ARCH_SHARED_DOWN,  ARCH_EXPERT_GATE, ARCH_EXPERT_UP, ARCH_EXPERT_DOWN, ARCH_PREDICTOR_IN,
        ARCH_PREDICTOR_OUT};
    size_t role_n = COUNT_OF(roles) - (predicted ? 0 : 2);
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        for (size_t r = 0; r < role_n; r++) {
            const model_tensor *t = &m->layer[i].tensor[roles[r]];
            bytes += t->unit_n && roles[r] >= ARCH_FFN_ROLES ? model_unit_bytes(t) * m->router.used_n
                                                             : model_matrix_bytes(t);
        }
    return bytes;
}

/* ---- Life ---- */

static hotset_status model_read(hotset_model *m, const hotset_model_options *options, hotset_error *err) {
    uint32_t rotated_n;
    HOTSET_TRY(read_numbers(m, options, &rotated_n, err));
    HOTSET_TRY(take_tensors(m, rotated_n, err));
    HOTSET_TRY(model_order_read(m, err));
    HOTSET_TRY(model_rotary_read(m, rotated_n, err));
    gguf_string chat = {0};
    HOTSET_TRY(gguf_get_string(m->file, "tokenizer.chat_template", &chat, NULL, err));
    m->chat_template = chat.data;
    m->chat_template_bytes = (size_t)chat.bytes;
    /* a model without a usable tokenizer still runs on token ids */
    if (tokenizer_make(&m->tokenizer, m->file, options ? options->pre : NULL, &m->tokenizer_error))
        m->tokenizer = NULL;
    return HOTSET_OK;
}

hotset_status hotset_model_open(hotset_model **out, const char *path, const hotset_model_options *options,
                                hotset_error *err) {
    *out = NULL;
    hotset_model *m;
    HOTSET_TRY(base_calloc(&m, 1, sizeof *m, "the model", err));
    hotset_status status = gguf_open(&m->file, path, err);
    if (!status) status = model_read(m, options, err);
    if (status)
        hotset_model_free(m);
    else
        *out = m;
    return status;
}

void hotset_model_free(hotset_model *m) {
    if (!m) return;
    hotset_tokenizer_free(m->tokenizer);
    gguf_free(m->file);
    arena_free(&m->arena);
    free(m);
}

bool hotset_model_maps(const hotset_model *m, const void *address) {
    for (uint32_t i = 0; i < gguf_part_n(m->file); i++) {
        const file_map *map = gguf_part_map(m->file, i);
        if ((uintptr_t)address - (uintptr_t)map->data < map->bytes) return true;
    }
    return false;
}

const hotset_shape *hotset_model_shape(const hotset_model *m) { return &m->shape; }

const hotset_tokenizer *hotset_model_tokenizer(const hotset_model *m, hotset_error *why) {
    if (!m->tokenizer && why) *why = m->tokenizer_error;
    return m->tokenizer;
}

const char *hotset_model_chat_template(const hotset_model *m, size_t *text_bytes) {
    if (text_bytes) *text_bytes = m->chat_template_bytes;
    return m->chat_template;
}
