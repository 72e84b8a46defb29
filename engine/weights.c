/* weights.c - loading: nothing to do for mapped matrices; copied ones go to huge pages and leave the page
 * cache. */
#include "engine/weights.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "devices/neurons.h"
#include "planner/footprint.h"

static uint64_t aligned(uint64_t bytes) { return round_up(bytes, FOOTPRINT_ALIGN); }

/* Fused tensors are loaded as the parts that they were split into, predictors where they are used. */
bool weights_is_loaded(const model_tensor *t, uint32_t role, hotset_sparsity sparsity) {
    bool predictor = role == ARCH_PREDICTOR_IN || role == ARCH_PREDICTOR_OUT;
    return t->present && role != ARCH_ATTN_QKV && role != ARCH_ATTN_QKV_BIAS && role != ARCH_EXPERT_GATE_UP &&
           (!predictor || sparsity == HOTSET_SPARSITY_PREDICT);
}

/* Visits every tensor that is loaded, tied ones once. */
typedef hotset_status tensor_fn(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                hotset_error *err);

static hotset_status each_tensor(const hotset_model *m, hotset_sparsity sparsity, tensor_fn *fn, void *cookie,
                                 hotset_error *err) {
    for (uint32_t role = 0; role < ARCH_LAYER_ROLES; role++)
        if (m->tensor[role].present && !(role == ARCH_OUTPUT && m->shape.tied) && role != ARCH_ROPE_FREQS)
            HOTSET_TRY(fn(cookie, 0, role, &m->tensor[role], err));
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        for (uint32_t role = ARCH_LAYER_ROLES; role < ARCH_ROLE_COUNT; role++)
            if (weights_is_loaded(&m->layer[i].tensor[role], role, sparsity))
                HOTSET_TRY(fn(cookie, i, role, &m->layer[i].tensor[role], err));
    return HOTSET_OK;
}

static bool is_in_file(const plan_data *places, uint32_t layer_i, uint32_t role, uint32_t unit) {
    bool expert = role == ARCH_EXPERT_GATE || role == ARCH_EXPERT_UP || role == ARCH_EXPERT_DOWN;
    return places && expert && places->layer[layer_i].place[unit] == PLAN_IN_FILE;
}

static uint32_t units_in_file(const plan_data *places, uint32_t layer_i, uint32_t role,
                              const model_tensor *t) {
    uint32_t n = 0;
    for (uint32_t u = 0; u < t->unit_n; u++) n += is_in_file(places, layer_i, role, u);
    return n;
}

typedef struct copied_sum {
    const plan_data *places;
    uint64_t bytes;
} copied_sum;

static hotset_status add_copied(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                hotset_error *err) {
    (void)err;
    copied_sum *sum = cookie;
    if (t->values) return HOTSET_OK;
    uint64_t filed = units_in_file(sum->places, layer_i, role, t);
    sum->bytes += aligned(model_matrix_bytes(t) - filed * model_unit_bytes(t));
    return HOTSET_OK;
}

uint64_t weights_vector_bytes(const model_tensor *t) {
    return t->values ? aligned(t->in_n * sizeof(float)) : aligned(t->unit_n * sizeof(uint64_t));
}

static hotset_status add_table(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                               hotset_error *err) {
    (void)layer_i, (void)role, (void)err;
    *(uint64_t *)cookie += weights_vector_bytes(t);
    return HOTSET_OK;
}

uint64_t weights_copied_bytes(const hotset_model *m, hotset_sparsity sparsity, const plan_data *places) {
    copied_sum sum = {.places = places};
    (void)!each_tensor(m, sparsity, add_copied, &sum, NULL);
    return sum.bytes;
}

uint64_t weights_table_bytes(const hotset_model *m, hotset_sparsity sparsity) {
    uint64_t bytes = aligned(m->rotary.pair_n * sizeof(double));
    (void)!each_tensor(m, sparsity, add_table, &bytes, NULL);
    return bytes;
}

static weights_tensor *slot_of(weights *w, uint32_t layer_i, uint32_t role) {
    return role < ARCH_LAYER_ROLES ? &w->global[role] : &w->layer[(size_t)layer_i * ARCH_ROLE_COUNT + role];
}

typedef struct loading {
    weights *w;
    device_queue *copy;
    const hotset_model *m;
    const weights_progress *progress;
    const plan_data *places;
    uint64_t copied; /* bytes of the copies slab in use */
} loading;

static device_ref table_take(weights *w, uint64_t bytes) {
    device_ref at = {w->tables, w->tables_used};
    w->tables_used += aligned(bytes);
    assert(w->tables_used <= w->tables->bytes);
    return at;
}

static void *table_host(device_ref at) { return (uint8_t *)at.buffer->host + at.offset; }

static const file_map *map_of(const loading *l, const model_tensor *t) {
    return gguf_part_map(l->m->file, t->part_i);
}

/* Source bytes of unit u (or of the whole plain matrix) as a place in the mapped file. */
static device_ref source(const loading *l, const model_tensor *t, uint32_t u) {
    const uint8_t *data = t->unit_n ? t->unit[u] : t->data;
    return (device_ref){l->w->part[t->part_i], (uint64_t)(data - map_of(l, t)->data)};
}

/* What an operation needs to know of a matrix besides its place. */
static device_matrix shape_of(const weights *w, uint32_t role, const model_tensor *t) {
    neurons_form f;
    bool down = role == ARCH_FFN_DOWN || role == ARCH_EXPERT_DOWN;
    bool reorder = down && w->sparsity != HOTSET_SPARSITY_OFF && t->order == NEURONS_BY_OUTPUT &&
                   neurons_form_of(t->type, t->out_n, &f);
    return (device_matrix){.type = t->type,
                           .in_n = t->in_n,
                           .out_n = t->out_n,
                           .row_bytes = t->row_bytes,
                           .unit_n = t->unit_n,
                           .order = reorder ? NEURONS_BY_NEURON : t->order};
}

/* Places one unit's rows and says where they are. */
static hotset_status place_unit(loading *l, const model_tensor *t, uint32_t u, const device_matrix *shape,
                                bool stays, device_ref *out, hotset_error *err) {
    device_ref from = source(l, t, u);
    *out = from;
    if (!l->w->copies || stays) return HOTSET_OK;
    uint64_t bytes = model_unit_bytes(t);
    *out = (device_ref){l->w->copies, l->copied};
    if (shape->order != t->order) {
        HOTSET_TRY(l->w->device->api->copy_by_neuron(l->copy, *out, from, shape, err));
        l->w->reordered_bytes += bytes;
    } else {
        HOTSET_TRY(l->w->device->api->copy_async(l->copy, *out, from, bytes, err));
    }
    HOTSET_TRY(l->w->device->api->queue_drain(l->copy, err));
    file_map_release(map_of(l, t), from.offset, bytes);
    l->copied += bytes;
    return HOTSET_OK;
}

/* The same place as one of a buffer that spans all of the host's. */
static device_ref in_span(const weights *w, device_ref at) {
    const uint8_t *host = (const uint8_t *)at.buffer->host + at.offset;
    return (device_ref){w->span, (uint64_t)(host - (const uint8_t *)w->span->host)};
}

static hotset_status load_matrix(loading *l, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                 device_matrix *out, hotset_error *err) {
    *out = shape_of(l->w, role, t);
    if (!t->unit_n) {
        HOTSET_TRY(place_unit(l, t, 0, out, false, &out->data, err));
    } else {
        bool spans = units_in_file(l->places, layer_i, role, t) > 0;
        out->unit_offset = table_take(l->w, t->unit_n * sizeof(uint64_t));
        uint64_t *offset = table_host(out->unit_offset);
        for (uint32_t u = 0; u < t->unit_n; u++) {
            device_ref at;
            HOTSET_TRY(place_unit(l, t, u, out, is_in_file(l->places, layer_i, role, u), &at, err));
            if (spans) at = in_span(l->w, at);
            offset[u] = at.offset;
            if (u == 0) out->data = at;
        }
    }
    l->copied = aligned(l->copied);
    return HOTSET_OK;
}

static hotset_status load_tensor(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                 hotset_error *err) {
    loading *l = cookie;
    if (l->progress->cancel && l->progress->cancel(l->progress->cookie))
        return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while loading layer %u", layer_i);
    weights_tensor *out = slot_of(l->w, layer_i, role);
    out->present = true;
    if (!t->values) return load_matrix(l, layer_i, role, t, &out->w, err);
    out->w = (device_matrix){.data = table_take(l->w, t->in_n * sizeof(float)), .in_n = t->in_n, .out_n = 1};
    memcpy(table_host(out->w.data), t->values, t->in_n * sizeof(float));
    return HOTSET_OK;
}

static hotset_status describe_tensor(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                     hotset_error *err) {
    (void)err;
    *slot_of(cookie, layer_i, role) = (weights_tensor){true, shape_of(cookie, role, t)};
    return HOTSET_OK;
}

static hotset_status alloc_layers(weights *w, const hotset_model *m, hotset_error *err) {
    return base_calloc(&w->layer, (uint64_t)m->shape.layer_n * ARCH_ROLE_COUNT, sizeof *w->layer,
                       "the placed tensors", err);
}

hotset_status weights_describe(weights *w, const hotset_model *m, hotset_sparsity sparsity,
                               hotset_error *err) {
    *w = (weights){.sparsity = sparsity};
    HOTSET_TRY(alloc_layers(w, m, err));
    HOTSET_TRY(each_tensor(m, sparsity, describe_tensor, w, err));
    if (m->shape.tied) w->global[ARCH_OUTPUT] = w->global[ARCH_EMBED];
    return HOTSET_OK;
}

static hotset_status wrap_parts(weights *w, const hotset_model *m, hotset_error *err) {
    w->part_n = gguf_part_n(m->file);
    HOTSET_TRY(base_calloc(&w->part, w->part_n, sizeof *w->part, "the parts of the model file", err));
    for (uint32_t i = 0; i < w->part_n; i++) {
        const file_map *map = gguf_part_map(m->file, i);
        HOTSET_TRY(w->device->api->buffer_wrap(w->device, map->data, map->bytes, &w->part[i], err));
    }
    return HOTSET_OK;
}

/* One buffer over copies and file: units of one matrix may lie in both. */
static hotset_status wrap_span(weights *w, hotset_error *err) {
    const uint8_t *low = w->copies->host, *high = low + w->copies->bytes;
    for (uint32_t i = 0; i < w->part_n; i++) {
        const uint8_t *host = w->part[i]->host;
        if (host < low) low = host;
        if (host + w->part[i]->bytes > high) high = host + w->part[i]->bytes;
    }
    return w->device->api->buffer_wrap(w->device, low, (uint64_t)(high - low), &w->span, err);
}

hotset_status weights_load(weights *w, device *d, device_queue *copy, const hotset_model *m, bool copied,
                           hotset_sparsity sparsity, const plan_data *places,
                           const weights_progress *progress, hotset_error *err) {
    assert(copied || sparsity == HOTSET_SPARSITY_OFF || m->shape.by_neuron);
    *w = (weights){.device = d, .sparsity = sparsity};
    HOTSET_TRY(wrap_parts(w, m, err));
    HOTSET_TRY(alloc_layers(w, m, err));
    HOTSET_TRY(
        d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, weights_table_bytes(m, sparsity), &w->tables, err));
    if (copied) {
        HOTSET_TRY(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, weights_copied_bytes(m, sparsity, places),
                                        &w->copies, err));
        HOTSET_TRY(wrap_span(w, err));
    }
    w->rotary = table_take(w, m->rotary.pair_n * sizeof(double));
    memcpy(table_host(w->rotary), m->rotary.inverse_frequency, m->rotary.pair_n * sizeof(double));
    loading l = {.w = w, .copy = copy, .m = m, .progress = progress, .places = places};
    HOTSET_TRY(each_tensor(m, sparsity, load_tensor, &l, err));
    if (m->shape.tied) w->global[ARCH_OUTPUT] = w->global[ARCH_EMBED];
    return HOTSET_OK;
}

void weights_free(weights *w) {
    if (w->device) {
        const device_interface *api = w->device->api;
        api->buffer_free(w->span);
        api->buffer_free(w->copies);
        api->buffer_free(w->tables);
        for (uint32_t i = 0; w->part && i < w->part_n; i++) api->buffer_free(w->part[i]);
    }
    free(w->part);
    free(w->layer);
    *w = (weights){0};
}
