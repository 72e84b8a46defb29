/* state.c - the layout of the key/value state. */
#include "engine/state.h"

#include <stdlib.h>

#include "planner/footprint.h"
#include "planner/planner.h"

_Static_assert(FOOTPRINT_STATE_GROUP % DEVICE_STATE_GROUP == 0, "states have room for whole groups");

hotset_status state_row_bytes(const model_kept *kept, machine_state kind, uint64_t *key, uint64_t *value,
                              hotset_error *err) {
    const gguf_type type = machine_state_type(kind);
    const uint32_t block_n = gguf_type_get(type)->block_n;
    if (kept->key_n % block_n || kept->value_n % block_n)
        return hotset_fail(
            err, HOTSET_E_ARGUMENT,
            "plan: the attention state cannot be %s: keys of %u and values of %u numbers a head are no "
            "multiples of %u",
            gguf_type_get(type)->name, kept->key_n, kept->value_n, block_n);
    *key = gguf_row_bytes(type, kept->key_n);
    *value = kept->joined ? 0 : gguf_row_bytes(type, kept->value_n);
    return HOTSET_OK;
}

hotset_status state_layout(state *s, const hotset_model *m, uint32_t context_n, uint32_t slot_n,
                           hotset_state_type type, const placed_device *placed, uint64_t alignment,
                           hotset_error *err) {
    machine_state kind;
    *s = (state){.row_n = footprint_state_rows(context_n), .slot_n = slot_n};
    HOTSET_TRY(plan_state_of(&kind, type, err));
    s->type = machine_state_type(kind);
    uint32_t layer_n = m->shape.layer_n;
    HOTSET_TRY(base_calloc(&s->key, 3 * (uint64_t)layer_n, sizeof *s->key, "the layout of the state", err));
    s->value = s->key + layer_n;
    s->slot_bytes = s->value + layer_n;
    for (uint32_t i = 0; i < layer_n; i++) {
        if (!placed->layer[i].home) continue;
        const model_kept kept = model_kept_of(m, i);
        uint64_t key_row, value_row;
        HOTSET_TRY(state_row_bytes(&kept, kind, &key_row, &value_row, err));
        const uint64_t key_bytes = footprint_state_bytes(kept.head_n, context_n, key_row);
        const uint64_t value_bytes = footprint_state_bytes(kept.head_n, context_n, value_row);
        s->key[i] = s->bytes;
        s->value[i] = s->bytes + (kept.joined ? 0 : key_bytes);
        s->slot_bytes[i] = key_bytes + value_bytes;
        s->bytes = round_up(s->bytes + s->slot_bytes[i] * slot_n, alignment);
    }
    return HOTSET_OK;
}

hotset_status state_alloc(state *s, device *d, hotset_error *err) {
    if (!s->bytes) return HOTSET_OK;
    return d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, s->bytes, &s->buffer, err);
}

void state_free(state *s) {
    if (s->buffer) s->buffer->owner->api->buffer_free(s->buffer);
    free(s->key);
    *s = (state){0};
}
