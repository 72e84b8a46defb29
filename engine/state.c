/* state.c - the layout of the key/value state. */
#include "engine/state.h"

#include <stdlib.h>

#include "planner/footprint.h"

hotset_status state_layout(state *s, const hotset_model *m, uint32_t context_n, uint32_t slot_n, bool f16,
                           const placed_device *placed, uint64_t alignment, hotset_error *err) {
    *s = (state){.context_n = context_n, .slot_n = slot_n, .f16 = f16};
    uint32_t layer_n = m->shape.layer_n, item = f16 ? 2 : 4;
    HOTSET_TRY(base_calloc(&s->key, 3 * (uint64_t)layer_n, sizeof *s->key, "the layout of the state", err));
    s->value = s->key + layer_n;
    s->slot_bytes = s->value + layer_n;
    for (uint32_t i = 0; i < layer_n; i++) {
        if (!placed->layer[i].home) continue;
        uint32_t heads = m->layer[i].head_kv_n;
        uint64_t key_bytes = footprint_state_bytes(heads, context_n, m->shape.key_n, item);
        s->key[i] = s->bytes;
        s->value[i] = s->bytes + key_bytes;
        s->slot_bytes[i] = key_bytes + footprint_state_bytes(heads, context_n, m->shape.value_n, item);
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
