/* identity.c - which model a file holds: its fingerprints, and the numbers that its neurons and experts had
 * before they were sorted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/model.h"
#include "profiles/fingerprint.h"

/* ---- Order of units ---- */

static hotset_status read_layer(hotset_model *m, const gguf_key *key, uint64_t from, uint32_t layer_i,
                                uint8_t *seen, hotset_error *err) {
    uint32_t unit_n = model_unit_n(m, layer_i);
    uint32_t *order = arena_alloc(&m->arena, (uint64_t)unit_n + 1, sizeof *order);
    if (!order) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the order of neurons");
    memset(seen, 0, unit_n);
    for (uint32_t i = 0; i < unit_n; i++) {
        memcpy(&order[i], key->data + 4 * (from + i), 4);
        if (order[i] >= unit_n || seen[order[i]])
            return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes + 4 * (from + i),
                                  "key " MODEL_ORDER_KEY ": layer %u of %u units has number %u %s", layer_i,
                                  unit_n, order[i], order[i] < unit_n ? "twice" : "in it");
        seen[order[i]] = 1;
    }
    m->layer[layer_i].order = order;
    return HOTSET_OK;
}

hotset_status model_order_read(hotset_model *m, hotset_error *err) {
    const gguf_key *key = gguf_find_key(m->file, MODEL_ORDER_KEY);
    uint64_t all = 0, from = 0;
    uint32_t most = 0;
    uint8_t *seen;
    if (!key) return HOTSET_OK;
    for (uint32_t i = 0; i < m->shape.layer_n; i++) {
        all += model_unit_n(m, i);
        most = model_unit_n(m, i) > most ? model_unit_n(m, i) : most;
    }
    if (key->kind != GGUF_KIND_ARRAY || key->item_kind != GGUF_KIND_U32 || key->item_n != all)
        return hotset_fail_at(err, HOTSET_E_FORMAT, key->offset_bytes,
                              "key " MODEL_ORDER_KEY " has %llu items, not a u32 for each of %llu units",
                              (unsigned long long)key->item_n, (unsigned long long)all);
    HOTSET_TRY(base_calloc(&seen, (uint64_t)most + 1, 1, "the order of neurons", err));
    hotset_status status = HOTSET_OK;
    for (uint32_t i = 0; i < m->shape.layer_n && !status; from += model_unit_n(m, i++))
        status = read_layer(m, key, from, i, seen, err);
    free(seen);
    return status;
}

static void renumber(int64_t *value, int64_t *scratch, const uint32_t *order, uint32_t n) {
    if (!value) return;
    memcpy(scratch, value, n * sizeof *value);
    for (uint32_t i = 0; i < n; i++) value[i] = scratch[order[i]];
}

static hotset_status check_layers(const hotset_model *m, const activation_profile *p, hotset_error *err) {
    if (p->layer_n != m->shape.layer_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the profile has %u layers, the model %u", p->layer_n,
                           m->shape.layer_n);
    for (uint32_t i = 0; i < p->layer_n; i++)
        if (p->layer[i].count && p->layer[i].unit_n != model_unit_n(m, i))
            return hotset_fail(err, HOTSET_E_ARGUMENT, "the profile has %u units in layer %u, the model %u",
                               p->layer[i].unit_n, i, model_unit_n(m, i));
    return HOTSET_OK;
}

hotset_status model_renumber_profile(const hotset_model *m, activation_profile *p, hotset_error *err) {
    uint32_t most = 0;
    int64_t *scratch;
    HOTSET_TRY(check_layers(m, p, err));
    for (uint32_t i = 0; i < p->layer_n; i++) most = p->layer[i].unit_n > most ? p->layer[i].unit_n : most;
    HOTSET_TRY(base_calloc(&scratch, (uint64_t)most + 1, sizeof *scratch, "a profile's numbers", err));
    for (uint32_t i = 0; i < p->layer_n; i++) {
        activation_layer *layer = &p->layer[i];
        if (!layer->count || !m->layer[i].order) continue;
        renumber(layer->count, scratch, m->layer[i].order, layer->unit_n);
        renumber(layer->mass, scratch, m->layer[i].order, layer->unit_n);
    }
    free(scratch);
    return HOTSET_OK;
}

/* ---- Fingerprints ---- */

static fingerprint_layer layer_shape(const hotset_model *m, uint32_t layer_i) {
    const hotset_shape *s = &m->shape;
    const model_layer *l = &m->layer[layer_i];
    bool gated = l->tensor[l->experts ? ARCH_EXPERT_GATE : ARCH_FFN_GATE].present;
    fingerprint_layer out = {.head_n = l->head_n,
                             .head_kv_n = l->head_kv_n,
                             .key_n = s->key_n,
                             .value_n = s->value_n,
                             .ff_n = l->experts ? s->ff_n : l->ff_n};
    if (l->experts) {
        out.ffn = gated ? FINGERPRINT_FFN_EXPERTS_GATED : FINGERPRINT_FFN_EXPERTS_PLAIN;
        out.expert_n = s->expert_n;
        out.expert_used_n = s->expert_used_n;
    } else if (l->ff_n) {
        out.ffn = gated ? FINGERPRINT_FFN_GATED : FINGERPRINT_FFN_PLAIN;
    }
    return out;
}

static hotset_status shape_fingerprint(const hotset_model *m, uint64_t *out, hotset_error *err) {
    fingerprint_layer *layer;
    HOTSET_TRY(base_calloc(&layer, m->shape.layer_n, sizeof *layer, "a model's shape", err));
    for (uint32_t i = 0; i < m->shape.layer_n; i++) layer[i] = layer_shape(m, i);
    fingerprint_shape shape = {m->shape.embd_n, m->shape.vocab_n, m->shape.layer_n, layer};
    hotset_status status = fingerprint_of_shape(&shape, out, err);
    free(layer);
    return status;
}

/* Norms are the vectors that are called so: "attn_q_norm.weight". */
static bool is_norm(const arch_tensor *row) { return !row->matrix && strstr(row->name, "norm"); }

enum { NORM_NAME_BYTES = 64 };

/* Adds the norms of one layer (or, with layer_i below 0, of the model as a whole) to `vector`. */
static size_t add_norms(const hotset_model *m, int64_t layer_i, fingerprint_vector *vector,
                        char (*name)[NORM_NAME_BYTES], size_t n) {
    for (size_t i = 0; i < arch_tensor_n; i++) {
        const arch_tensor *row = &arch_tensors[i];
        if (!is_norm(row) || !arch_means(m->arch, row) || (row->role < ARCH_LAYER_ROLES) != (layer_i < 0))
            continue;
        const model_tensor *t = layer_i < 0 ? &m->tensor[row->role] : &m->layer[layer_i].tensor[row->role];
        if (!t->present) continue;
        if (layer_i < 0)
            snprintf(name[n], NORM_NAME_BYTES, "%s", row->name);
        else
            snprintf(name[n], NORM_NAME_BYTES, "blk.%u.%s", (unsigned)layer_i, row->name);
        if (!gguf_find_tensor(m->file, name[n])) continue; /* it is there by another name */
        vector[n] = (fingerprint_vector){name[n], t->values, t->in_n};
        n++;
    }
    return n;
}

static hotset_status weights_fingerprint(const hotset_model *m, uint64_t *out, hotset_error *err) {
    uint64_t max = ((uint64_t)m->shape.layer_n + 1) * arch_tensor_n;
    fingerprint_vector *vector;
    char(*name)[NORM_NAME_BYTES] = NULL;
    HOTSET_TRY(base_calloc(&vector, max, sizeof *vector, "a model's norms", err));
    hotset_status status = base_calloc(&name, max, sizeof *name, "the names of a model's norms", err);
    size_t n = 0;
    for (int64_t i = -1; i < m->shape.layer_n && !status; i++) n = add_norms(m, i, vector, name, n);
    if (!status) status = fingerprint_of_weights(vector, n, out, err);
    free(vector);
    free(name);
    return status;
}

hotset_status model_fingerprints(const hotset_model *m, uint64_t *shape, uint64_t *weights,
                                 hotset_error *err) {
    HOTSET_TRY(shape_fingerprint(m, shape, err));
    return weights_fingerprint(m, weights, err);
}

hotset_status model_order_fingerprint(const hotset_model *m, uint64_t *out, hotset_error *err) {
    bool sorted = false;
    *out = 0;
    XXH3_state_t *state = XXH3_createState();
    if (!state) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the order of neurons");
    XXH3_64bits_reset(state);
    for (uint32_t i = 0; i < m->shape.layer_n; i++) {
        const uint32_t *order = m->layer[i].order;
        const uint32_t unit_n = order ? model_unit_n(m, i) : 0;
        sorted |= order != NULL;
        XXH3_64bits_update(state, &unit_n, sizeof unit_n);
        XXH3_64bits_update(state, order, unit_n * sizeof *order);
    }
    if (sorted) *out = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return HOTSET_OK;
}
