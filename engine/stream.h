/* stream.h - prompts: units that the host has are copied to their layer's home, which computes them.
 *
 * With many rows copying weights over the bus takes less time than the host would need for its share of the
 * work. A layer's units go in pieces through two slots of the home's memory, so that one is computed while
 * the next one comes: of a dense FFN some neurons, of experts those that the step's rows use, as many as a
 * slot takes. Every piece is an FFN of its own, whose result the home adds to the residual stream.
 *
 * Each piece has two counters: `arrived`, which the copy signals and the home waits for, and `consumed`, for
 * which the copy into the same slot two pieces later waits.
 */
#ifndef HOTSET_STREAM_H
#define HOTSET_STREAM_H

#include "engine/weights.h"

enum { STREAM_GATE, STREAM_UP, STREAM_DOWN, STREAM_PREDICTOR, STREAM_MATRICES };

typedef struct stream_piece {
    uint32_t layer_i, device_i; /* the home */
    uint32_t first, n;          /* dense: of the host's neurons; experts: how many at most, in this round */
    uint32_t slot_i;
} stream_piece;

typedef struct streaming {
    const hotset_model *model;
    const weights *host;
    uint32_t row_n; /* steps of so many rows stream; 0: none does */
    uint64_t slot_bytes;
    uint32_t piece_n;
    stream_piece *piece; /* [piece_n] in the order of their layers */
    uint32_t *layer_at;  /* [layer_n + 1] each layer's first */
} streaming;

/* Pure: bytes of a slot for the model, and pieces that it can have at most. */
uint64_t stream_slot_bytes(const hotset_model *m, hotset_sparsity sparsity);
uint32_t stream_piece_max(const hotset_model *m, hotset_sparsity sparsity);

/* What the plan streams. `host` (the host's weights, described) and model are borrowed. Errors: E_MEMORY. */
HOTSET_CHECKED hotset_status stream_make(streaming *out, const hotset_model *m, const plan_data *plan,
                                         hotset_sparsity sparsity, const weights *host, hotset_error *err);
void stream_free(streaming *s);
/* Whether steps of so many rows stream the layer. */
static inline bool stream_has(const streaming *s, uint32_t layer_i, uint32_t row_n) {
    return s && s->row_n && row_n >= s->row_n && s->layer_at[layer_i] < s->layer_at[layer_i + 1];
}

/* Where a piece lies in its slot. */
typedef struct stream_layout {
    device_matrix
        matrix[STREAM_MATRICES];      /* as the home computes with it, placed in `slot`; absent: in_n 0 */
    device_ref bias[STREAM_DOWN];     /* of gate and up */
    uint64_t expert_at, expert_bytes; /* of experts: the first one's place in the slot, and of each */
    uint64_t bytes;
} stream_layout;
stream_layout stream_layout_of(const streaming *s, const stream_piece *piece, device_ref slot);

/* Writes a piece to `to`, which will be copied to `slot`; returns how many of its bytes count. `used`: of
 * experts, [n] rising, those that this round brings. */
uint64_t stream_fill(const streaming *s, const stream_piece *piece, device_ref slot, const uint32_t *used,
                     uint32_t used_n, uint8_t *to);
/* The experts that the host has of those that ids [id_n] name, rising: [unit_n]. Returns how many. `seen`:
 * [unit_n] scratch. */
uint32_t stream_used(const streaming *s, uint32_t layer_i, const int32_t *id, uint64_t id_n, uint32_t *used,
                     uint8_t *seen);

#endif
