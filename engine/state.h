/* state.h - what the sessions of an engine remember: keys and values of every layer, in one slab.
 *
 * Of each layer whose home is the device: [session]{ keys [head_kv_n][row_n][key_n], values
 * [head_kv_n][row_n][value_n] }. Of latent attention there are keys only, whose beginnings are the
 * values. Keys of one head lie together, so that attention reads one stream per head.
 */
#ifndef HOTSET_STATE_H
#define HOTSET_STATE_H

#include "devices/device.h"
#include "engine/placed.h"

typedef struct state {
    uint32_t row_n, slot_n; /* positions that there is room for, in each of so many sessions */
    gguf_type type;
    uint64_t bytes;
    uint64_t *key, *value, *slot_bytes; /* [layer_n] offsets of the first session's; from one to the next */
    device_buffer *buffer;              /* NULL where the device is no layer's home */
} state;

/* Bytes of the key and of the value of one head and position; value 0: it is a part of the key. Errors:
 * E_ARGUMENT where they are no whole blocks of the type. */
HOTSET_CHECKED hotset_status state_row_bytes(const model_kept *kept, machine_state kind, uint64_t *key,
                                             uint64_t *value, hotset_error *err);
/* Computes the layout, each layer aligned; nothing but the offsets is allocated. Errors: E_ARGUMENT (an
 * unknown type, rows that are not whole blocks of it), E_MEMORY. */
HOTSET_CHECKED hotset_status state_layout(state *s, const hotset_model *m, uint32_t context_n,
                                          uint32_t slot_n, hotset_state_type type,
                                          const placed_device *placed, uint64_t alignment, hotset_error *err);
HOTSET_CHECKED hotset_status state_alloc(state *s, device *d, hotset_error *err);
void state_free(state *s);

#endif
