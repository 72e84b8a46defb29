/* state.h - what the sessions of an engine remember: keys and values of every layer, in one slab.
 *
 * Of each layer whose home is the device: [session]{ keys [head_kv_n][context_n][key_n], values
 * [head_kv_n][context_n][value_n] }. Keys of one head lie together, so that attention reads one stream per
 * head.
 */
#ifndef HOTSET_STATE_H
#define HOTSET_STATE_H

#include "devices/device.h"
#include "engine/placed.h"

typedef struct state {
    uint32_t context_n, slot_n;
    bool f16;
    uint64_t bytes;
    uint64_t *key, *value, *slot_bytes; /* [layer_n] offsets of the first session's; from one to the next */
    device_buffer *buffer;              /* NULL where the device is no layer's home */
} state;

/* Computes the layout, each layer aligned; nothing but the offsets is allocated. */
HOTSET_CHECKED hotset_status state_layout(state *s, const hotset_model *m, uint32_t context_n,
                                          uint32_t slot_n, bool f16, const placed_device *placed,
                                          uint64_t alignment, hotset_error *err);
HOTSET_CHECKED hotset_status state_alloc(state *s, device *d, hotset_error *err);
void state_free(state *s);

#endif
