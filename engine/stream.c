/* stream.c - which pieces a plan streams, where their matrices lie, and how they are put together. */
#include "engine/stream.h"

#include <stdlib.h>
#include <string.h>

#include "planner/footprint.h"

static const arch_role dense_roles[STREAM_MATRICES] = {ARCH_FFN_GATE, ARCH_FFN_UP, ARCH_FFN_DOWN,
                                                       ARCH_PREDICTOR_OUT};
static const arch_role expert_roles[STREAM_MATRICES] = {ARCH_EXPERT_GATE, ARCH_EXPERT_UP, ARCH_EXPERT_DOWN,
                                                        ARCH_ROLE_COUNT};
static const arch_role bias_roles[STREAM_DOWN] = {ARCH_FFN_GATE_BIAS, ARCH_FFN_UP_BIAS};

static uint64_t up(uint64_t bytes) { return round_up(bytes, FOOTPRINT_GPU_ALIGN); }

/* ---- Bytes ---- */

/* Of n neurons of one matrix. */
static uint64_t neurons_bytes(const model_tensor *t, uint32_t matrix_i, uint32_t n) {
    return matrix_i == STREAM_DOWN ? model_unit_bytes(t) * n / t->in_n : t->row_bytes * n;
}

static uint64_t dense_bytes(const hotset_model *m, uint32_t layer_i, hotset_sparsity sparsity, uint32_t n) {
    uint64_t bytes = STREAM_DOWN * up(n * sizeof(float));
    for (uint32_t k = 0; k < STREAM_MATRICES; k++) {
        const model_tensor *t = &m->layer[layer_i].tensor[dense_roles[k]];
        if (weights_is_loaded(t, dense_roles[k], sparsity)) bytes += up(neurons_bytes(t, k, n));
    }
    return bytes;
}

static uint64_t expert_bytes(const hotset_model *m, uint32_t layer_i) {
    uint64_t bytes = 0;
    for (uint32_t k = 0; k < STREAM_PREDICTOR; k++) {
        const model_tensor *t = &m->layer[layer_i].tensor[expert_roles[k]];
        if (t->present) bytes += up(model_unit_bytes(t));
    }
    return bytes;
}

/* The tables unit -> offset of a layer's matrices. */
static uint64_t expert_tables_bytes(const hotset_model *m) {
    return STREAM_PREDICTOR * up(m->shape.expert_n * sizeof(uint64_t));
}

uint64_t stream_slot_bytes(const hotset_model *m, hotset_sparsity sparsity) {
    uint64_t all = 0, step = 0;
    for (uint32_t i = 0; i < m->shape.layer_n; i++) {
        const model_layer *layer = &m->layer[i];
        if (layer->experts) {
            const uint64_t tables = expert_tables_bytes(m), each = expert_bytes(m, i);
            all = max_u64(all, tables + each * m->shape.expert_n);
            step = max_u64(step, tables + each);
        } else if (layer->ff_n) {
            const uint32_t n = (uint32_t)min_u64(layer->ff_n, FOOTPRINT_STREAM_NEURONS);
            all = max_u64(all, dense_bytes(m, i, sparsity, layer->ff_n));
            step = max_u64(step, dense_bytes(m, i, sparsity, n));
        }
    }
    return footprint_stream_slot_bytes(all, step);
}

/* Units of the layer that one slot takes: neurons, experts. */
static uint32_t capacity(const hotset_model *m, uint32_t layer_i, hotset_sparsity sparsity,
                         uint64_t slot_bytes) {
    if (m->layer[layer_i].experts)
        return (uint32_t)((slot_bytes - expert_tables_bytes(m)) / expert_bytes(m, layer_i));
    uint32_t n = FOOTPRINT_STREAM_NEURONS;
    while (n < m->layer[layer_i].ff_n &&
           dense_bytes(m, layer_i, sparsity, n + FOOTPRINT_STREAM_NEURONS) <= slot_bytes)
        n += FOOTPRINT_STREAM_NEURONS;
    return n;
}

static uint32_t pieces_of(uint32_t unit_n, uint32_t each) { return (unit_n + each - 1) / each; }

uint32_t stream_piece_max(const hotset_model *m, hotset_sparsity sparsity) {
    const uint64_t slot_bytes = stream_slot_bytes(m, sparsity);
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->shape.layer_n; i++)
        if (model_unit_n(m, i)) n += pieces_of(model_unit_n(m, i), capacity(m, i, sparsity, slot_bytes));
    return n;
}

/* ---- Pieces ---- */

/* Neurons or experts that go from the host to the layer's home. Predictors need the home's half of theirs. */
static uint32_t streamed_units(const plan_data *plan, uint32_t layer_i, hotset_sparsity sparsity) {
    const plan_layer *l = &plan->layer[layer_i];
    if (!l->streamed || l->home == 0 || plan_layer_units(l, PLAN_IN_FILE)) return 0;
    if (sparsity == HOTSET_SPARSITY_PREDICT && !plan_layer_units(l, l->home)) return 0;
    return plan_layer_units(l, 0) * (l->kind == PLAN_NEURONS ? l->neuron_n : 1);
}

hotset_status stream_make(streaming *out, const hotset_model *m, const plan_data *plan,
                          hotset_sparsity sparsity, const weights *host, hotset_error *err) {
    const uint32_t layer_n = m->shape.layer_n;
    *out = (streaming){.model = m, .host = host, .slot_bytes = stream_slot_bytes(m, sparsity)};
    HOTSET_TRY(base_calloc(&out->layer_at, layer_n + 1, sizeof *out->layer_at, "streamed layers", err));
    HOTSET_TRY(base_calloc(&out->piece, (uint64_t)stream_piece_max(m, sparsity) + 1, sizeof *out->piece,
                           "streamed pieces", err));
    for (uint32_t i = 0; i < layer_n; i++) {
        const uint32_t unit_n = plan->stream_row_n ? streamed_units(plan, i, sparsity) : 0;
        const uint32_t each = unit_n ? capacity(m, i, sparsity, out->slot_bytes) : 1;
        out->layer_at[i] = out->piece_n;
        for (uint32_t first = 0; first < unit_n; first += each, out->piece_n++)
            out->piece[out->piece_n] =
                (stream_piece){i, plan->layer[i].home, first, (uint32_t)min_u64(each, unit_n - first),
                               out->piece_n % FOOTPRINT_STREAM_SLOTS};
    }
    out->layer_at[layer_n] = out->piece_n;
    if (out->piece_n) out->row_n = plan->stream_row_n;
    return HOTSET_OK;
}

void stream_free(streaming *s) {
    free(s->piece);
    free(s->layer_at);
    *s = (streaming){0};
}

/* ---- Where a piece lies ---- */

static const device_matrix *host_matrix(const streaming *s, uint32_t layer_i, arch_role role) {
    if (role == ARCH_ROLE_COUNT) return NULL;
    const weights_tensor *t = weights_of(s->host, layer_i, role);
    return t->present ? &t->w : NULL;
}

/* Bytes of all rows, however they stand. */
static uint64_t matrix_bytes(const device_matrix *w) {
    return w->row_bytes * (w->order == NEURONS_BY_ROW ? w->in_n : w->out_n);
}

static stream_layout experts_layout(const streaming *s, const stream_piece *piece, device_ref slot) {
    stream_layout l = {.expert_at = expert_tables_bytes(s->model),
                       .expert_bytes = expert_bytes(s->model, piece->layer_i)};
    for (uint32_t k = 0; k < STREAM_PREDICTOR; k++) {
        const device_matrix *w = host_matrix(s, piece->layer_i, expert_roles[k]);
        if (!w) continue;
        l.matrix[k] = *w;
        l.matrix[k].data = device_ref_at(slot, l.expert_at);
        l.matrix[k].unit_offset = device_ref_at(slot, k * up(w->unit_n * sizeof(uint64_t)));
    }
    l.bytes = l.expert_at + l.expert_bytes * piece->n;
    return l;
}

/* The host's matrix cut down to n neurons. */
static device_matrix neurons_of(const device_matrix *w, uint32_t matrix_i, uint32_t n) {
    device_matrix part = *w;
    if (matrix_i != STREAM_DOWN) {
        part.out_n = n;
        return part;
    }
    if (w->order != NEURONS_BY_ROW) part.row_bytes = w->row_bytes * n / w->in_n;
    part.in_n = n;
    return part;
}

stream_layout stream_layout_of(const streaming *s, const stream_piece *piece, device_ref slot) {
    if (s->model->layer[piece->layer_i].experts) return experts_layout(s, piece, slot);
    stream_layout l = {.bytes = 0};
    for (uint32_t k = 0; k < STREAM_MATRICES; k++) {
        const device_matrix *w = host_matrix(s, piece->layer_i, dense_roles[k]);
        if (!w) continue;
        l.matrix[k] = neurons_of(w, k, piece->n);
        l.matrix[k].data = device_ref_at(slot, l.bytes);
        l.bytes += up(matrix_bytes(&l.matrix[k]));
    }
    for (uint32_t k = 0; k < STREAM_DOWN; k++) {
        if (!weights_of(s->host, piece->layer_i, bias_roles[k])->present) continue;
        l.bias[k] = device_ref_at(slot, l.bytes);
        l.bytes += up(piece->n * sizeof(float));
    }
    return l;
}

/* ---- Putting a piece together ---- */

static const uint8_t *host_at(device_ref ref) { return (const uint8_t *)ref.buffer->host + ref.offset; }

static void fill_neurons(uint8_t *to, const device_matrix *w, uint32_t matrix_i, uint32_t first, uint32_t n) {
    const uint8_t *from = host_at(w->data);
    if (matrix_i != STREAM_DOWN || w->order == NEURONS_BY_ROW) {
        memcpy(to, from + w->row_bytes * first, w->row_bytes * n);
        return;
    }
    /* by neuron groups of neurons stand one behind the other; by output every row has a piece of them */
    const uint64_t whole = w->order == NEURONS_BY_NEURON ? matrix_bytes(w) : w->row_bytes;
    const uint64_t at = whole * first / w->in_n, bytes = whole * n / w->in_n;
    const uint32_t row_n = w->order == NEURONS_BY_NEURON ? 1 : w->out_n;
    for (uint32_t r = 0; r < row_n; r++) memcpy(to + bytes * r, from + whole * r + at, bytes);
}

static uint64_t fill_dense(const streaming *s, const stream_piece *piece, device_ref slot, uint8_t *to) {
    const stream_layout l = stream_layout_of(s, piece, slot);
    for (uint32_t k = 0; k < STREAM_MATRICES; k++)
        if (l.matrix[k].in_n)
            fill_neurons(to + (l.matrix[k].data.offset - slot.offset),
                         host_matrix(s, piece->layer_i, dense_roles[k]), k, piece->first, piece->n);
    for (uint32_t k = 0; k < STREAM_DOWN; k++)
        if (l.bias[k].buffer)
            memcpy(to + (l.bias[k].offset - slot.offset),
                   host_at(weights_of(s->host, piece->layer_i, bias_roles[k])->w.data) +
                       piece->first * sizeof(float),
                   piece->n * sizeof(float));
    return l.bytes;
}

static const uint64_t *host_offsets(const device_matrix *w) {
    return (const uint64_t *)(const void *)host_at(w->unit_offset);
}

static uint64_t fill_experts(const streaming *s, const stream_piece *piece, device_ref slot,
                             const uint32_t *used, uint32_t used_n, uint8_t *to) {
    const stream_layout l = stream_layout_of(s, piece, slot);
    uint64_t at = l.expert_at;
    memset(to, 0xff, l.expert_at); /* DEVICE_ABSENT */
    for (uint32_t i = 0; i < used_n; i++)
        for (uint32_t k = 0; k < STREAM_PREDICTOR; k++) {
            const device_matrix *w = host_matrix(s, piece->layer_i, expert_roles[k]);
            if (!w) continue;
            uint64_t *table = (uint64_t *)(void *)(to + (l.matrix[k].unit_offset.offset - slot.offset));
            const uint8_t *from = (const uint8_t *)w->data.buffer->host + host_offsets(w)[used[i]];
            memcpy(to + at, from, matrix_bytes(w));
            table[used[i]] = slot.offset + at;
            at += up(matrix_bytes(w));
        }
    return at;
}

uint64_t stream_fill(const streaming *s, const stream_piece *piece, device_ref slot, const uint32_t *used,
                     uint32_t used_n, uint8_t *to) {
    if (s->model->layer[piece->layer_i].experts) return fill_experts(s, piece, slot, used, used_n, to);
    return fill_dense(s, piece, slot, to);
}

uint32_t stream_used(const streaming *s, uint32_t layer_i, const int32_t *id, uint64_t id_n, uint32_t *used,
                     uint8_t *seen) {
    const device_matrix *w = host_matrix(s, layer_i, ARCH_EXPERT_DOWN);
    const uint64_t *offset = host_offsets(w);
    uint32_t n = 0;
    memset(seen, 0, w->unit_n);
    for (uint64_t i = 0; i < id_n; i++) seen[id[i]] = 1;
    for (uint32_t u = 0; u < w->unit_n; u++)
        if (seen[u] && offset[u] != DEVICE_ABSENT) used[n++] = u;
    return n;
}
