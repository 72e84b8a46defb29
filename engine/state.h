/* state.h - what the sessions of an engine remember: keys and values of every layer, in one slab.
 *
 * A session owns a slot: [layer]{ keys [head_kv_n][context_n][key_n], values [head_kv_n][context_n][value_n]
 * }. Keys of one head lie together, so that attention reads one stream per head.
 */
#ifndef HOTSET_STATE_H
#define HOTSET_STATE_H

#include "devices/device.h"
#include "engine/model.h"

typedef struct state {
    uint32_t context_n, slot_n;
    bool f16;
    uint64_t slot_bytes;
    uint64_t *key, *value; /* [layer_n] offsets in a slot */
    device_buffer *buffer; /* [slot_n] slots */
} state;

/* Computes the layout; nothing but the offsets is allocated. */
HOTSET_CHECKED hotset_status state_layout(state *s, const hotset_model *m, uint32_t context_n,
                                          uint32_t slot_n, bool f16, hotset_error *err);
HOTSET_CHECKED hotset_status state_alloc(state *s, device *d, hotset_error *err);
void state_free(state *s);

#endif
