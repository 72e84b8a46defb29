/* weights.c - loading: nothing to do for mapped matrices; copied ones go to huge pages, or to the memory of a
 * GPU, and leave the page cache. */
#include "engine/weights.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "devices/lanes.h"
#include "devices/neurons.h"
#include "engine/gather.h"
#include "planner/footprint.h"

static uint64_t aligned(uint64_t bytes) { return round_up(bytes, FOOTPRINT_ALIGN); }

/* ---- What a device holds ---- */

/* Fused tensors are loaded as the parts that they were split into, predictors where they are used. */
bool weights_is_loaded(const model_tensor *t, uint32_t role, hotset_sparsity sparsity) {
    bool predictor = role == ARCH_PREDICTOR_IN || role == ARCH_PREDICTOR_OUT;
    bool fused = role == ARCH_ATTN_QKV || role == ARCH_ATTN_QKV_BIAS || role == ARCH_ATTN_KV_B ||
                 role == ARCH_FFN_GATE_UP || role == ARCH_EXPERT_GATE_UP;
    return t->present && !fused && (!predictor || sparsity == HOTSET_SPARSITY_PREDICT);
}

bool weights_is_down(uint32_t role) {
    return role == ARCH_FFN_DOWN || role == ARCH_EXPERT_DOWN || role == ARCH_SHARED_DOWN;
}

bool weights_is_ffn(const hotset_model *m, uint32_t role) {
    bool input = role == ARCH_ATTN_NORM || role == ARCH_ATTN_NORM_BIAS;
    return role >= ARCH_FFN_ROLES || (input && m->arch->rules & ARCH_PARALLEL);
}

/* Whether single neurons are taken out of the matrix, as lists say. Of gates exact skipping needs all. */
static bool is_listed(uint32_t role, hotset_sparsity sparsity) {
    switch (role) {
    case ARCH_FFN_GATE:
    case ARCH_EXPERT_GATE:
    case ARCH_SHARED_GATE: return sparsity == HOTSET_SPARSITY_PREDICT;
    case ARCH_FFN_UP:
    case ARCH_EXPERT_UP:
    case ARCH_SHARED_UP: return sparsity != HOTSET_SPARSITY_OFF;
    default: return weights_is_down(role) && sparsity != HOTSET_SPARSITY_OFF;
    }
}

/* Matrices of units, and of the predictor that every device with units has. */
static bool is_of_units(uint32_t role) { return role >= ARCH_FFN_ROLES; }

bool weights_is_global(uint32_t role) {
    return role != ARCH_ROPE_FREQS && role != ARCH_ROPE_SHORT && role != ARCH_ROPE_LONG;
}

static bool holds_global(const hotset_model *m, const placed_device *p, uint32_t role) {
    const model_tensor *t = &m->tensor[role];
    if (!t->present || !weights_is_global(role) || !p->used) return false;
    if (role == ARCH_EMBED || role == ARCH_POSITIONS) return p->embeds;
    if (role == ARCH_OUTPUT) return p->head && !(p->embeds && m->shape.tied);
    return true;
}

static bool holds(const hotset_model *m, const placed_device *p, uint32_t layer_i, uint32_t role,
                  hotset_sparsity sparsity) {
    const placed_layer *l = &p->layer[layer_i];
    const model_tensor *t = &m->layer[layer_i].tensor[role];
    if (!weights_is_loaded(t, role, sparsity)) return false;
    if (t->values) return l->home || (l->visits && weights_is_ffn(m, role));
    return is_of_units(role) ? l->units : l->home;
}

/* Visits the matrices that the device holds, tied ones once. */
typedef hotset_status tensor_fn(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                hotset_error *err);

static hotset_status each_matrix(const hotset_model *m, hotset_sparsity sparsity, const placed_device *p,
                                 tensor_fn *fn, void *cookie, hotset_error *err) {
    for (uint32_t role = 0; role < ARCH_LAYER_ROLES; role++)
        if (holds_global(m, p, role) && !m->tensor[role].values)
            HOTSET_TRY(fn(cookie, 0, role, &m->tensor[role], err));
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        for (uint32_t role = ARCH_LAYER_ROLES; role < ARCH_ROLE_COUNT; role++)
            if (holds(m, p, i, role, sparsity) && !m->layer[i].tensor[role].values)
                HOTSET_TRY(fn(cookie, i, role, &m->layer[i].tensor[role], err));
    return HOTSET_OK;
}

/* Visits what stands in the tables, with its place there: vectors, and tables of units. They come in groups,
 * which the planner counts: the model's, and of each layer those of the mixer and of the FFN. Returns the
 * bytes of all. */
typedef void vector_fn(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t, uint64_t at);

static uint64_t each_vector(const hotset_model *m, hotset_sparsity sparsity, const placed_device *p,
                            uint64_t alignment, vector_fn *fn, void *cookie) {
    uint64_t at = weights_fixed_bytes(m);
    for (uint32_t role = 0; role < ARCH_LAYER_ROLES; role++) {
        if (!holds_global(m, p, role) || !m->tensor[role].values) continue;
        if (fn) fn(cookie, 0, role, &m->tensor[role], at);
        at += weights_vector_bytes(&m->tensor[role]);
    }
    at = round_up(at, alignment);
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        for (int ffn = 0; ffn < 2; ffn++) {
            if (!p->layer[i].home && !(ffn && p->layer[i].visits)) continue;
            for (uint32_t role = ARCH_LAYER_ROLES; role < ARCH_ROLE_COUNT; role++) {
                const model_tensor *t = &m->layer[i].tensor[role];
                if (weights_is_ffn(m, role) != ffn || !weights_is_loaded(t, role, sparsity)) continue;
                if (fn) fn(cookie, i, role, t, at);
                at += weights_vector_bytes(t);
            }
            at = round_up(at, alignment);
        }
    return at;
}

/* ---- Bytes ---- */

static bool is_in_file(const placed_device *p, uint32_t layer_i, uint32_t role, uint32_t unit) {
    const uint8_t *place = p->layer[layer_i].place;
    return role >= ARCH_FFN_ROLES && place && place[unit] == PLAN_IN_FILE;
}

/* Heads of attention are all at home, experts where they are placed. */
static bool has_unit(const placed_device *p, uint32_t layer_i, uint32_t role, uint32_t unit) {
    return role < ARCH_FFN_ROLES || placed_has_expert(p, &p->layer[layer_i], unit);
}

static uint32_t units_in_file(const placed_device *p, uint32_t layer_i, uint32_t role,
                              const model_tensor *t) {
    uint32_t n = 0;
    for (uint32_t u = 0; u < t->unit_n; u++) n += is_in_file(p, layer_i, role, u);
    return n;
}

static uint32_t units_copied(const placed_device *p, uint32_t layer_i, uint32_t role, const model_tensor *t) {
    uint32_t n = 0;
    for (uint32_t u = 0; u < t->unit_n; u++)
        n += has_unit(p, layer_i, role, u) && !is_in_file(p, layer_i, role, u);
    return n;
}

/* Matrices of a dense FFN, of which a device may have a part. */
static bool is_split(const placed_device *p, uint32_t layer_i, uint32_t role) {
    bool by_neuron =
        role == ARCH_FFN_GATE || role == ARCH_FFN_UP || role == ARCH_FFN_DOWN || role == ARCH_PREDICTOR_OUT;
    return by_neuron && p->layer[layer_i].neuron;
}

typedef struct copied_sum {
    const placed_device *placed;
    uint64_t alignment, bytes;
} copied_sum;

static hotset_status add_copied(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                hotset_error *err) {
    (void)err;
    copied_sum *sum = cookie;
    uint64_t bytes = model_matrix_bytes(t);
    if (t->unit_n) bytes = units_copied(sum->placed, layer_i, role, t) * model_unit_bytes(t);
    if (role >= ARCH_LAYER_ROLES && is_split(sum->placed, layer_i, role))
        bytes = gather_bytes(t, role == ARCH_FFN_DOWN, sum->placed->layer[layer_i].ff_n);
    sum->bytes += round_up(bytes, sum->alignment);
    return HOTSET_OK;
}

uint64_t weights_vector_bytes(const model_tensor *t) {
    return t->values ? aligned(t->in_n * sizeof(float)) : aligned(t->unit_n * sizeof(uint64_t));
}

static uint64_t heads_at(const hotset_model *m) { return m->rotary_n * aligned(m->pair_n * sizeof(double)); }

uint64_t weights_fixed_bytes(const hotset_model *m) {
    return heads_at(m) + (m->latent_n ? aligned(m->shape.head_n * sizeof(int32_t)) : 0);
}

uint64_t weights_copied_bytes(const hotset_model *m, hotset_sparsity sparsity, const placed_device *placed,
                              uint64_t alignment) {
    copied_sum sum = {.placed = placed, .alignment = alignment};
    (void)!each_matrix(m, sparsity, placed, add_copied, &sum, NULL);
    return sum.bytes;
}

uint64_t weights_table_bytes(const hotset_model *m, hotset_sparsity sparsity, const placed_device *placed,
                             uint64_t alignment) {
    return each_vector(m, sparsity, placed, alignment, NULL, NULL);
}

/* ---- Loading ---- */

typedef struct loading {
    weights *w;
    device_queue *copy;
    const hotset_model *m;
    const weights_progress *progress;
    uint32_t context_n;
    uint64_t copied; /* bytes of the copies slab in use */
    uint8_t *table;  /* the tables, as the host writes them */
} loading;

static weights_tensor *slot_of(weights *w, uint32_t layer_i, uint32_t role) {
    return role < ARCH_LAYER_ROLES ? &w->global[role] : &w->layer[(size_t)layer_i * ARCH_ROLE_COUNT + role];
}

static const file_map *map_of(const loading *l, const model_tensor *t) {
    return gguf_part_map(l->m->file, t->part_i);
}

/* Source bytes of unit u (or of the whole plain matrix) as a place in the mapped file. */
static device_ref source(const loading *l, const model_tensor *t, uint32_t u) {
    const uint8_t *data = t->unit_n ? t->unit[u] : t->data;
    return (device_ref){l->w->part[t->part_i], (uint64_t)(data - map_of(l, t)->data)};
}

/* Whether the matrix is copied with rows interleaved: where the device is faster at it, and nobody takes
 * neurons out of it, by lists or to send them to another device. */
static bool interleaves(const weights *w, uint32_t layer_i, uint32_t role, const model_tensor *t,
                        const device_matrix *shape) {
    const uint64_t types = w->device && w->copies ? w->device->interleaved_types : 0;
    if (!(types >> t->type & 1) || shape->order != NEURONS_BY_OUTPUT || shape->out_n % LANES_ROWS)
        return false;
    if (role < ARCH_LAYER_ROLES) return role != ARCH_POSITIONS;
    if (is_listed(role, w->sparsity)) return false;
    return !is_of_units(role) ||
           !(w->placed->layer[layer_i].streams || units_in_file(w->placed, layer_i, role, t));
}

/* What an operation needs to know of a matrix besides its place. */
static device_matrix shape_of(const weights *w, uint32_t layer_i, uint32_t role, const model_tensor *t) {
    neurons_form f;
    bool down = weights_is_down(role);
    bool reorder = down && w->sparsity != HOTSET_SPARSITY_OFF && t->order == NEURONS_BY_OUTPUT &&
                   neurons_form_of(t->type, t->out_n, &f);
    device_matrix shape = {.type = t->type,
                           .in_n = t->in_n,
                           .out_n = t->out_n,
                           .row_bytes = t->row_bytes,
                           .unit_n = t->unit_n,
                           .order = reorder ? NEURONS_BY_NEURON : t->order};
    if (role >= ARCH_LAYER_ROLES && is_split(w->placed, layer_i, role)) {
        const uint32_t ff_n = w->placed->layer[layer_i].ff_n;
        if (down && t->order != NEURONS_BY_ROW) shape.row_bytes = t->row_bytes * ff_n / t->in_n;
        *(down ? &shape.in_n : &shape.out_n) = ff_n;
    }
    shape.interleaved = interleaves(w, layer_i, role, t, &shape);
    return shape;
}

/* Copies one matrix, or one unit, to the device. */
static hotset_status copy_one(loading *l, const model_tensor *t, const device_matrix *shape, device_ref from,
                              uint64_t bytes, device_ref *out, hotset_error *err) {
    const device_interface *api = l->w->device->api;
    *out = (device_ref){l->w->copies, l->copied};
    if (shape->order != t->order || shape->interleaved) {
        HOTSET_TRY(api->copy_reordered(l->copy, *out, from, shape, err));
        l->w->reordered_bytes += bytes;
    } else {
        HOTSET_TRY(api->copy_async(l->copy, *out, from, bytes, err));
    }
    HOTSET_TRY(api->queue_drain(l->copy, err));
    l->copied += bytes;
    const weights_progress *p = l->progress;
    if (p->loading && p->loading(p->loading_cookie, l->copied, l->w->copies->bytes))
        return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while weights are copied");
    return HOTSET_OK;
}

/* Places one unit's rows and says where they are. */
static hotset_status place_unit(loading *l, const model_tensor *t, uint32_t u, const device_matrix *shape,
                                bool stays, device_ref *out, hotset_error *err) {
    device_ref from = source(l, t, u);
    *out = from;
    if (!l->w->copies || stays) return HOTSET_OK;
    HOTSET_TRY(copy_one(l, t, shape, from, model_unit_bytes(t), out, err));
    file_map_release(map_of(l, t), from.offset, model_unit_bytes(t));
    return HOTSET_OK;
}

/* The same place as one of a buffer that spans all of the host's. */
static device_ref in_span(const weights *w, device_ref at) {
    const uint8_t *host = (const uint8_t *)at.buffer->host + at.offset;
    return (device_ref){w->span, (uint64_t)(host - (const uint8_t *)w->span->host)};
}

static hotset_status load_units(loading *l, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                device_matrix *out, hotset_error *err) {
    const placed_device *p = l->w->placed;
    bool spans = units_in_file(p, layer_i, role, t) > 0 && l->w->span;
    uint64_t *offset = (uint64_t *)(void *)(l->table + out->unit_offset.offset);
    for (uint32_t u = 0; u < t->unit_n; u++) {
        device_ref at;
        offset[u] = DEVICE_ABSENT;
        if (!has_unit(p, layer_i, role, u)) continue;
        HOTSET_TRY(place_unit(l, t, u, out, is_in_file(p, layer_i, role, u), &at, err));
        if (spans) at = in_span(l->w, at);
        offset[u] = at.offset;
        if (!out->data.buffer) out->data = at;
    }
    return HOTSET_OK;
}

/* The device's neurons, put together by the host. */
static hotset_status load_neurons(loading *l, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                  device_matrix *out, hotset_error *err) {
    const placed_layer *p = &l->w->placed->layer[layer_i];
    const device_interface *api = l->w->device->api;
    const uint64_t bytes = gather_bytes(t, role == ARCH_FFN_DOWN, p->ff_n);
    if (!l->w->copies)
        return hotset_fail(
            err, HOTSET_E_UNSUPPORTED,
            "the plan splits the neurons of layer %u, of which the host reads its part from the "
            "mapped file: weights must be copied for that",
            layer_i);
    uint8_t *part = malloc(bytes);
    if (!part) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the neurons of layer %u", layer_i);
    device_buffer *wrapped = NULL;
    hotset_status status = gather_neurons(part, t, role == ARCH_FFN_DOWN, p->neuron, p->ff_n, err);
    if (!status) status = api->buffer_wrap(l->w->device, part, bytes, &wrapped, err);
    if (!status) status = copy_one(l, t, out, (device_ref){wrapped, 0}, bytes, &out->data, err);
    api->buffer_free(wrapped);
    free(part);
    if (!status) file_map_release(map_of(l, t), source(l, t, 0).offset, model_unit_bytes(t));
    return status;
}

static hotset_status load_matrix(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                 hotset_error *err) {
    loading *l = cookie;
    if (l->progress->cancel && l->progress->cancel(l->progress->cookie))
        return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while loading layer %u", layer_i);
    weights_tensor *slot = slot_of(l->w, layer_i, role);
    device_ref unit_offset = slot->w.unit_offset; /* load_vector has been here */
    device_matrix *out = &slot->w;
    slot->present = true;
    *out = shape_of(l->w, layer_i, role, t);
    out->unit_offset = unit_offset;
    if (t->unit_n)
        HOTSET_TRY(load_units(l, layer_i, role, t, out, err));
    else if (role >= ARCH_LAYER_ROLES && is_split(l->w->placed, layer_i, role))
        HOTSET_TRY(load_neurons(l, layer_i, role, t, out, err));
    else
        HOTSET_TRY(place_unit(l, t, 0, out, false, &out->data, err));
    l->copied = round_up(l->copied, l->w->alignment);
    return HOTSET_OK;
}

/* Biases of a split FFN are those of the device's neurons; that of down is added once, at home. */
static void load_vector(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t, uint64_t at) {
    loading *l = cookie;
    weights_tensor *out = slot_of(l->w, layer_i, role);
    const placed_layer *p = role < ARCH_LAYER_ROLES ? NULL : &l->w->placed->layer[layer_i];
    const device_ref place = {l->w->tables, at};
    float *to = (float *)(void *)(l->table + at);
    bool down = role == ARCH_FFN_DOWN_BIAS, neurons = role == ARCH_FFN_GATE_BIAS || role == ARCH_FFN_UP_BIAS;
    if (!t->values) {
        if (t->unit_n) out->w.unit_offset = place;
        return;
    }
    if (p && ((down && !p->home) || (neurons && !p->units))) return;
    *out = (weights_tensor){true, {.data = place, .in_n = t->in_n, .out_n = 1}};
    if (p && neurons && p->neuron) {
        out->w.in_n = p->ff_n;
        for (uint32_t i = 0; i < p->ff_n; i++) to[i] = t->values[p->neuron[i]];
    } else {
        memcpy(to, t->values, t->in_n * sizeof(float));
    }
}

static hotset_status describe_matrix(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                                     hotset_error *err) {
    (void)err;
    *slot_of(cookie, layer_i, role) = (weights_tensor){true, shape_of(cookie, layer_i, role, t)};
    return HOTSET_OK;
}

static void describe_vector(void *cookie, uint32_t layer_i, uint32_t role, const model_tensor *t,
                            uint64_t at) {
    (void)at;
    if (t->values) *slot_of(cookie, layer_i, role) = (weights_tensor){true, {.in_n = t->in_n, .out_n = 1}};
}

static hotset_status alloc_layers(weights *w, const hotset_model *m, hotset_error *err) {
    return base_calloc(&w->layer, (uint64_t)m->shape.layer_n * ARCH_ROLE_COUNT, sizeof *w->layer,
                       "the placed tensors", err);
}

static void tie(weights *w, const hotset_model *m) {
    if (m->shape.tied && w->placed->embeds) w->global[ARCH_OUTPUT] = w->global[ARCH_EMBED];
}

hotset_status weights_describe(weights *w, const hotset_model *m, hotset_sparsity sparsity,
                               const placed_device *placed, hotset_error *err) {
    *w = (weights){.sparsity = sparsity, .placed = placed};
    HOTSET_TRY(alloc_layers(w, m, err));
    each_vector(m, sparsity, placed, FOOTPRINT_ALIGN, describe_vector, w);
    HOTSET_TRY(each_matrix(m, sparsity, placed, describe_matrix, w, err));
    tie(w, m);
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

/* Vectors and matrices, the tables being in the host's reach. */
static hotset_status load_all(loading *l, hotset_error *err) {
    weights *w = l->w;
    for (uint32_t i = 0; i < l->m->rotary_n; i++) {
        const uint64_t at = i * aligned(l->m->pair_n * sizeof(double));
        w->rotary[i] = (device_ref){w->tables, at};
        memcpy(l->table + at, model_frequencies(l->m, i, l->context_n), l->m->pair_n * sizeof(double));
    }
    w->heads = (device_ref){w->tables, heads_at(l->m)};
    for (uint32_t h = 0; l->m->latent_n && h < l->m->shape.head_n; h++)
        ((int32_t *)(void *)(l->table + w->heads.offset))[h] = (int32_t)h;
    each_vector(l->m, w->sparsity, w->placed, w->alignment, load_vector, l);
    HOTSET_TRY(each_matrix(l->m, w->sparsity, w->placed, load_matrix, l, err));
    tie(w, l->m);
    return HOTSET_OK;
}

/* The same by way of memory of the host, where the device's is out of its reach. */
static hotset_status load_and_send(loading *l, hotset_error *err) {
    const weights *w = l->w;
    const device_interface *api = w->device->api;
    device_buffer *wrapped = NULL;
    l->table = calloc(1, w->tables->bytes);
    if (!l->table)
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the tables of %s", w->device->name);
    hotset_status status = load_all(l, err);
    if (!status) status = api->buffer_wrap(w->device, l->table, w->tables->bytes, &wrapped, err);
    if (!status)
        status = api->copy_async(l->copy, (device_ref){w->tables, 0}, (device_ref){wrapped, 0},
                                 w->tables->bytes, err);
    if (!status) status = api->queue_drain(l->copy, err);
    api->buffer_free(wrapped);
    free(l->table);
    return status;
}

hotset_status weights_load(weights *w, device *d, device_queue *copy, const hotset_model *m, bool copied,
                           hotset_sparsity sparsity, uint32_t context_n, const placed_device *placed,
                           const weights_progress *progress, hotset_error *err) {
    assert(copied || sparsity == HOTSET_SPARSITY_OFF || m->shape.by_neuron);
    const bool host = placed->embeds;
    *w = (weights){.device = d, .alignment = d->alignment, .sparsity = sparsity, .placed = placed};
    HOTSET_TRY(wrap_parts(w, m, err));
    HOTSET_TRY(alloc_layers(w, m, err));
    HOTSET_TRY(d->api->buffer_alloc(d, host ? DEVICE_MEMORY_PINNED : DEVICE_MEMORY_DEVICE,
                                    weights_table_bytes(m, sparsity, placed, d->alignment), &w->tables, err));
    if (copied)
        HOTSET_TRY(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE,
                                        weights_copied_bytes(m, sparsity, placed, d->alignment), &w->copies,
                                        err));
    if (copied && host) HOTSET_TRY(wrap_span(w, err));
    loading l = {.w = w, .copy = copy, .m = m, .progress = progress, .context_n = context_n};
    if (!host) return load_and_send(&l, err);
    l.table = w->tables->host;
    return load_all(&l, err);
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
