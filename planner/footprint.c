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
    s.normed_2 = reserve(&bytes, row_n, w->second ? w->embd_n : 0);
    s.query = reserve(&bytes, row_n, w->query_n);
    s.key = reserve(&bytes, row_n, w->key_n);
    s.value = reserve(&bytes, row_n, w->value_n);
    s.mixed = reserve(&bytes, row_n, w->mixed_n);
    s.latent = reserve(&bytes, row_n, w->latent_n);
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

/* ---- GPUs ---- */

static uint64_t gpu_up(uint64_t bytes) { return round_up(bytes, FOOTPRINT_GPU_ALIGN); }

enum {
    GPU_FEW_ROWS = 8, /* rows, or uses of each expert, that go through weights vector by vector */
    GPU_FEW_USES = 4,
    GPU_PIECE = 32,  /* inputs that share a scale of their 8-bit form */
    GPU_CHUNK = 512, /* neurons whose sum is made at once */
    GPU_TILE = 64,   /* vectors of a tile */
    GPU_RUN = 256,   /* positions that attention walks at once, with so many rows at most: */
    GPU_RUN_ROWS = 16,
    GPU_HEAD_BYTES = 1024 /* a list's own, but for rows */
};

/* 8-bit inputs in both forms. */
static uint64_t gpu_planes_bytes(uint64_t vector_n, uint64_t width) {
    return 2 * (gpu_up(vector_n * width) + 2 * gpu_up(vector_n * (width / GPU_PIECE + 1) * 4));
}

/* Sums over neurons of few vectors. */
static uint64_t gpu_sums_bytes(uint64_t vector_n, uint64_t ff_n, uint64_t embd_n) {
    return gpu_up(vector_n * (ff_n / GPU_PIECE + 2) * 4) + gpu_up(vector_n * ff_n) +
           gpu_up(vector_n * (ff_n / GPU_PIECE + 1) * 4) +
           gpu_up(vector_n * (ff_n / GPU_CHUNK + 1) * embd_n * 4);
}

uint64_t footprint_gpu_workspace_bytes(const footprint_widths *w, uint32_t row_n, uint32_t context_n) {
    const uint64_t few = min_u64(row_n, GPU_FEW_ROWS), use_n = (uint64_t)row_n * w->expert_used_n;
    const uint64_t few_uses =
        min_u64(use_n, max_u64(few * w->expert_used_n, (uint64_t)GPU_FEW_USES * w->expert_n));
    const uint64_t width = max_u64(max_u64(w->embd_n, w->mixed_n), max_u64(w->ff_n, w->rank_n));
    const uint64_t dense = gpu_planes_bytes(row_n, width) + gpu_sums_bytes(few, w->ff_n, w->embd_n);
    const uint64_t groups =
        gpu_up(4 * (2 * (uint64_t)w->expert_n + 1 + use_n) + 12 * (use_n / GPU_TILE + w->expert_n));
    const uint64_t experts =
        max_u64(gpu_planes_bytes(use_n, w->ff_expert_n), gpu_planes_bytes(row_n, w->embd_n)) +
        gpu_sums_bytes(few_uses, w->ff_expert_n, w->embd_n) + groups;
    const uint64_t attend = min_u64(row_n, GPU_RUN_ROWS) * w->head_n * (context_n / GPU_RUN + 1) *
                            (w->mixed_n / max_u64(w->head_n, 1) + 2) * 4;
    return gpu_up(GPU_HEAD_BYTES + (uint64_t)row_n * 20) +
           gpu_up(max_u64(attend, max_u64(dense, w->expert_n ? experts : 0)));
}

footprint_scratch footprint_gpu_scratch_layout(const footprint_widths *w, uint32_t row_n,
                                               uint32_t context_n) {
    const uint64_t workspace_bytes = footprint_gpu_workspace_bytes(w, row_n, context_n);
    footprint_scratch s =
        footprint_scratch_layout(w, row_n, workspace_bytes + FOOTPRINT_GPU_ALIGN - FOOTPRINT_ALIGN);
    s.workspace = gpu_up(s.workspace);
    return s;
}

uint64_t footprint_stream_slot_bytes(uint64_t layer_bytes, uint64_t step_bytes) {
    const uint64_t wanted = min_u64(layer_bytes / 4, FOOTPRINT_STREAM_BYTES);
    return layer_bytes ? gpu_up(max_u64(wanted, step_bytes)) : 0;
}

/* ---- What devices hand to each other ---- */

footprint_exchange footprint_exchange_layout(const footprint_widths *w, uint32_t row_n, uint32_t layer_n,
                                             uint32_t device_n, uint32_t piece_n) {
    footprint_exchange e = {.device_n = device_n};
    const uint32_t output_n = row_n < FOOTPRINT_OUTPUT_MAX ? row_n : FOOTPRINT_OUTPUT_MAX;
    const uint64_t line_n = FOOTPRINT_ALIGN / sizeof(float);
    e.done = reserve(&e.bytes, 1, line_n);
    e.skipped = reserve(&e.bytes, device_n, line_n);
    if (device_n < 2) return e;
    e.counter = reserve(&e.bytes, ((uint64_t)layer_n + 1) * device_n * 2, line_n);
    e.residual = reserve(&e.bytes, row_n, w->embd_n);
    e.expert_id = reserve(&e.bytes, row_n, w->expert_used_n);
    e.expert_weight = reserve(&e.bytes, row_n, w->expert_used_n);
    e.hand = reserve(&e.bytes, row_n, w->embd_n);
    e.partial = reserve(&e.bytes, (uint64_t)row_n * device_n, w->embd_n);
    e.logits = reserve(&e.bytes, output_n, w->vocab_n);
    e.arrived = reserve(&e.bytes, piece_n, line_n);
    e.consumed = reserve(&e.bytes, piece_n, line_n);
    return e;
}

uint32_t footprint_state_rows(uint32_t context_n) {
    return (uint32_t)round_up(context_n, FOOTPRINT_STATE_GROUP);
}

uint64_t footprint_state_bytes(uint32_t head_kv_n, uint32_t context_n, uint64_t row_bytes) {
    return round_up((uint64_t)head_kv_n * footprint_state_rows(context_n) * row_bytes, FOOTPRINT_ALIGN);
}

uint64_t footprint_parts_bytes(uint64_t n, uint64_t part_bytes, uint64_t alignment_bytes) {
    return round_up(n * part_bytes, alignment_bytes);
}
