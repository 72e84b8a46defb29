/* footprint.c - bytes of every allocation. */
#include "planner/footprint.h"

/* Reserves n floats per row at the end of the slab. */
static uint64_t reserve(uint64_t *bytes, uint64_t row_n, uint64_t n) {
    uint64_t at = *bytes;
    *bytes = round_up(at + row_n * n * sizeof(float), FOOTPRINT_ALIGN);
    return at;
}

footprint_scratch footprint_scratch_layout(const footprint_widths *w, uint32_t row_n,
                                           uint64_t workspace_bytes) {
    footprint_scratch s = {.row_n = row_n};
    s.output_n = row_n < FOOTPRINT_OUTPUT_MAX ? row_n : FOOTPRINT_OUTPUT_MAX;
    uint64_t experts_ff = (uint64_t)w->expert_used_n * w->ff_expert_n;
    uint64_t ff = max_u64(w->ff_n, experts_ff), bytes = 0;
    s.hidden = reserve(&bytes, row_n, w->embd_n);
    s.normed = reserve(&bytes, row_n, w->embd_n);
    s.normed_2 = reserve(&bytes, row_n, w->parallel ? w->embd_n : 0);
    s.query = reserve(&bytes, row_n, w->query_n);
    s.key = reserve(&bytes, row_n, w->key_n);
    s.value = reserve(&bytes, row_n, w->value_n);
    s.mixed = reserve(&bytes, row_n, w->mixed_n);
    s.gate = reserve(&bytes, row_n, ff);
    s.up = reserve(&bytes, row_n, ff);
    s.router = reserve(&bytes, row_n, w->expert_n);
    s.expert_id = reserve(&bytes, row_n, w->expert_used_n);
    s.expert_weight = reserve(&bytes, row_n, w->expert_used_n);
    s.expert_out = reserve(&bytes, row_n, (uint64_t)w->expert_used_n * w->embd_n);
    s.rotary = reserve(&bytes, row_n, w->rotary_n);
    s.choice = reserve(&bytes, row_n, w->choice_n);
    s.inner = reserve(&bytes, row_n, w->rank_n);
    s.score = reserve(&bytes, row_n, w->rank_n ? ff : 0);
    s.verdict = reserve(&bytes, 1, w->choice_n ? 1 : 0);
    s.output_hidden = reserve(&bytes, s.output_n, w->embd_n);
    s.logits = reserve(&bytes, s.output_n, w->vocab_n);
    s.workspace = bytes;
    s.bytes = bytes + round_up(workspace_bytes, FOOTPRINT_ALIGN);
    return s;
}

uint64_t footprint_state_bytes(uint32_t head_kv_n, uint32_t context_n, uint32_t width, uint32_t item_bytes) {
    return round_up((uint64_t)head_kv_n * context_n * width * item_bytes, FOOTPRINT_ALIGN);
}

uint64_t footprint_parts_bytes(uint64_t n, uint64_t part_bytes, uint64_t alignment_bytes) {
    return round_up(n * part_bytes, alignment_bytes);
}
