/* gather.c - taking some neurons out of the matrices of a dense FFN. */
#include "engine/gather.h"

#include <string.h>

/* Neurons of a down matrix that can only be taken together. */
static uint32_t together(const model_tensor *t) {
    neurons_form form;
    if (t->order == NEURONS_BY_ROW) return 1;
    if (t->order == NEURONS_BY_OUTPUT) return gguf_type_get(t->type)->block_n;
    return neurons_form_of(t->type, t->out_n, &form) ? form.group_n : t->in_n;
}

uint64_t gather_bytes(const model_tensor *t, bool down, uint32_t n) {
    if (!down || t->order == NEURONS_BY_ROW) return t->row_bytes * n;
    return model_unit_bytes(t) * n / t->in_n; /* whole blocks: exact */
}

static void gather_rows(uint8_t *to, const model_tensor *t, const uint32_t *neuron, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        memcpy(to + t->row_bytes * i, t->data + t->row_bytes * neuron[i], t->row_bytes);
}

/* Of each of `row_n` rows the pieces that hold the neurons, `each` in a piece. */
static void gather_pieces(uint8_t *to, const model_tensor *t, uint32_t row_n, uint64_t row_bytes,
                          const uint32_t *neuron, uint32_t n, uint32_t each) {
    const uint64_t piece_bytes = row_bytes / (t->in_n / each);
    for (uint32_t r = 0; r < row_n; r++)
        for (uint32_t i = 0; i < n; i += each) {
            memcpy(to, t->data + row_bytes * r + piece_bytes * (neuron[i] / each), piece_bytes);
            to += piece_bytes;
        }
}

hotset_status gather_neurons(uint8_t *to, const model_tensor *t, bool down, const uint32_t *neuron,
                             uint32_t n, hotset_error *err) {
    if (!down || t->order == NEURONS_BY_ROW) {
        gather_rows(to, t, neuron, n);
        return HOTSET_OK;
    }
    const uint32_t each = together(t);
    for (uint32_t i = 0; i < n; i++)
        if (neuron[i] % each != i % each || n % each)
            return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                               "the plan splits %u neurons of %s weights, which share scales", each,
                               gguf_type_get(t->type)->name);
    if (t->order == NEURONS_BY_OUTPUT)
        gather_pieces(to, t, t->out_n, t->row_bytes, neuron, n, each);
    else
        gather_pieces(to, t, 1, model_unit_bytes(t), neuron, n, each);
    return HOTSET_OK;
}
