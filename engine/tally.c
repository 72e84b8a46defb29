/* tally.c - records of what each layer's FFN used. */
#include "engine/tally.h"

#include <stdlib.h>

#include "planner/footprint.h"

/* Activations that are exactly zero for most inputs: only then is a neuron hot or not. */
static bool has_zeros(arch_activation activation) {
    return activation == ARCH_ACT_RELU || activation == ARCH_ACT_RELU2 || activation == ARCH_ACT_DRELU;
}

activation_units tally_units(const hotset_model *m, uint32_t layer_i) {
    const model_layer *layer = &m->layer[layer_i];
    if (layer->experts) return (activation_units){ACTIVATION_EXPERTS, m->shape.expert_n};
    if (!layer->ff_n) return (activation_units){ACTIVATION_NONE, 0};
    return (activation_units){has_zeros(m->activation) ? ACTIVATION_NEURONS : ACTIVATION_SIZES, layer->ff_n};
}

hotset_status tally_layout(tally *out, const hotset_model *m, hotset_sparsity sparsity, uint32_t row_max,
                           hotset_error *err) {
    static const device_tally kinds[ACTIVATION_KIND_COUNT] = {
        [ACTIVATION_NEURONS] = DEVICE_TALLY_BITS,
        [ACTIVATION_EXPERTS] = DEVICE_TALLY_CHOSEN,
        [ACTIVATION_SIZES] = DEVICE_TALLY_SIZES,
    };
    *out = (tally){.layer_n = m->shape.layer_n};
    HOTSET_TRY(base_calloc(&out->layer, out->layer_n, sizeof *out->layer, "the layers of a record", err));
    for (uint32_t i = 0; i < out->layer_n; i++) {
        tally_layer *l = &out->layer[i];
        l->units = tally_units(m, i);
        if (l->units.kind == ACTIVATION_NONE) continue;
        l->kind = sparsity == HOTSET_SPARSITY_PREDICT ? DEVICE_TALLY_JUDGED : kinds[l->units.kind];
        l->n = l->units.kind == ACTIVATION_EXPERTS ? m->router.used_n : l->units.unit_n;
        l->row_bytes = device_tally_bytes(l->kind, l->n);
        l->at = out->bytes;
        out->bytes += round_up(l->row_bytes * row_max, FOOTPRINT_ALIGN);
    }
    return HOTSET_OK;
}

void tally_free(tally *t) {
    free(t->layer);
    *t = (tally){0};
}

static void feed_row(const tally_layer *l, uint32_t layer_i, const uint8_t *row, activation_recorder *r) {
    const void *record = row;
    switch (l->kind) {
    case DEVICE_TALLY_BITS: activation_add_bits(r, layer_i, record); break;
    case DEVICE_TALLY_SIZES: activation_add_binned(r, layer_i, record); break;
    case DEVICE_TALLY_JUDGED: break; /* plans that judge record no profile */
    case DEVICE_TALLY_CHOSEN: {
        const void *weights = row + l->n * sizeof(int32_t);
        activation_add_experts(r, layer_i, record, weights, l->n);
        break;
    }
    }
}

void tally_feed(const tally *t, const device_buffer *slab, uint32_t row_n, activation_recorder *recorder) {
    for (uint32_t i = 0; i < t->layer_n; i++) {
        const tally_layer *l = &t->layer[i];
        if (!l->row_bytes) continue;
        const uint8_t *row = (const uint8_t *)slab->host + l->at;
        for (uint32_t r = 0; r < row_n; r++) feed_row(l, i, row + r * l->row_bytes, recorder);
    }
}

void tally_judge(tally *t, const device_buffer *slab, uint32_t row_n) {
    for (uint32_t i = 0; i < t->layer_n; i++) {
        tally_layer *l = &t->layer[i];
        if (!l->row_bytes || l->kind != DEVICE_TALLY_JUDGED) continue;
        const uint32_t *judged = (const uint32_t *)(const void *)((const uint8_t *)slab->host + l->at);
        for (uint32_t r = 0; r < row_n; r++, judged += 3) {
            l->judged.neuron_n += l->n;
            l->judged.active_n += judged[0];
            l->judged.predicted_n += judged[1];
            l->judged.both_n += judged[2];
        }
    }
}
