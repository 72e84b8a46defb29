/* vector.cu - the operations that read no weight matrices, but the embedding: few bytes each, so what counts
 * is that there are few kernels and that no result depends on the grid. */
#include "devices/gpu/dequant.h"

enum {
    BLOCK = 256,
    WARPS = BLOCK / GPU_WARP,
    ROUTE_UNITS_MAX = 1024, /* probabilities of a row stand in shared memory */
    CHUNK = 1024            /* floats of one block, where rows are cut */
};

GPU_DEVICE uint32_t lane_of() { return threadIdx.x % GPU_WARP; }
GPU_DEVICE uint32_t warp_of() { return threadIdx.x / GPU_WARP; }

/* The sum over a block of BLOCK threads; all have it. `part` may be used again after the next barrier. */
GPU_DEVICE float block_sum(float x, float part[WARPS]) {
    x = gpu_warp_sum(x);
    if (lane_of() == 0) part[warp_of()] = x;
    GPU_SYNC();
    float sum = 0;
    for (int i = 0; i < WARPS; i++) sum += part[i];
    return sum;
}

static uint32_t chunks_of(uint32_t n) { return (n + CHUNK - 1) / CHUNK; }

/* ---- Embedding ---- */

GPU_DEVICE uint32_t half_bits(const uint8_t *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }
GPU_DEVICE float half_at(const uint8_t *at) { return GPU_HALF_TO_FLOAT((uint16_t)half_bits(at)); }

GPU_DEVICE float q4_k_at(const uint8_t *block, uint32_t i) {
    const uint8_t *s = block + 4, *q = block + 16;
    const uint32_t j = i / 32, nibble = q[j / 2 * 32 + i % 32] >> j % 2 * 4 & 15;
    const uint32_t scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    const uint32_t min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
    return half_at(block) * (float)scale * (float)nibble - half_at(block + 2) * (float)min;
}

GPU_DEVICE float q6_k_at(const uint8_t *block, uint32_t i) {
    const uint8_t *low = block + i / 128 * 64, *high = block + 128 + i / 128 * 32;
    const uint32_t part = i % 128 / 32, at = i % 32;
    const uint32_t q = (low[part % 2 * 32 + at] >> part / 2 * 4 & 15) | (high[at] >> part * 2 & 3) << 4;
    const float scale = half_at(block + 208) * (float)(int8_t)block[192 + i / 16];
    return scale * (float)((int)q - 32);
}

/* Weight i of a row, as the references have it bit for bit. */
GPU_DEVICE float weight_at(const uint8_t *row, gguf_type type, uint32_t i) {
    switch (type) {
    case GGUF_F32: return ((const float *)(const void *)row)[i];
    case GGUF_F16: return half_at(row + 2 * (size_t)i);
    case GGUF_BF16: return GPU_FLOAT_OF_BITS(half_bits(row + 2 * (size_t)i) << 16);
    case GGUF_Q4_0: {
        const uint8_t *block = row + (size_t)(i / 32) * 18;
        return half_at(block) * (float)((int)(block[2 + i % 16] >> i % 32 / 16 * 4 & 15) - 8);
    }
    case GGUF_Q8_0: {
        const uint8_t *block = row + (size_t)(i / 32) * 34;
        return half_at(block) * (float)(int8_t)block[2 + i % 32];
    }
    case GGUF_Q4_K: return q4_k_at(row + (size_t)(i / 256) * 144, i % 256);
    case GGUF_Q6_K: return q6_k_at(row + (size_t)(i / 256) * 210, i % 256);
    default: return 0;
    }
}

struct embed_args {
    const device_step *step;
    const device_row *row;
    const uint8_t *table;
    uint64_t row_bytes;
    gguf_type type;
    uint32_t n;
    float scale;
    gpu_rows y;
    bool outputs;
};

GPU_KERNEL(BLOCK) embed(const embed_args a) {
    const uint32_t r = blockIdx.x, from = blockIdx.y * CHUNK;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const uint8_t *weights = a.table + a.row_bytes * (uint64_t)a.row[r].token;
    float *y = gpu_row(a.y, r);
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + CHUNK; i += BLOCK)
        y[i] = weight_at(weights, a.type, i) * a.scale;
}

static void launch_embed(const gpu_call *c, const device_op *op) {
    const device_matrix *t = &op->embed.table;
    const embed_args a = {c->step, c->row,          gpu_at(t->data),          t->row_bytes, t->type,
                          t->in_n, op->embed.scale, gpu_rows_of(op->embed.y), op->outputs};
    GPU_LAUNCH(embed, dim3(op->row_max, chunks_of(a.n)), BLOCK, c->stream, a);
}

static hotset_status check_embed(const device_op *op, hotset_error *err) {
    if (op->embed.positions.in_n) return gpu_unsupported(err, op, "learned", "positions");
    switch (op->embed.table.type) {
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16:
    case GGUF_Q4_0:
    case GGUF_Q8_0:
    case GGUF_Q4_K:
    case GGUF_Q6_K: return HOTSET_OK;
    default: return gpu_unsupported(err, op, "weights of type", gguf_type_get(op->embed.table.type)->name);
    }
}

/* ---- Rotary table: angles in double, as at position 10^5 a float is off by 10^-2 radians ---- */

struct rotary_args {
    const device_step *step;
    const device_row *row;
    const double *frequency;
    uint32_t pair_n;
    float magnitude;
    gpu_rows y;
    bool outputs;
};

GPU_KERNEL(BLOCK) rotary(const rotary_args a) {
    const uint32_t r = blockIdx.x;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    float *y = gpu_row(a.y, r);
    for (uint32_t i = threadIdx.x; i < a.pair_n; i += BLOCK) {
        const double angle = (double)a.row[r].position * a.frequency[i];
        y[2 * i] = (float)cos(angle) * a.magnitude;
        y[2 * i + 1] = (float)sin(angle) * a.magnitude;
    }
}

static void launch_rotary(const gpu_call *c, const device_op *op) {
    const rotary_args a = {c->step,
                           c->row,
                           (const double *)(const void *)gpu_at(op->rotary.inverse_frequency),
                           op->rotary.pair_n,
                           op->rotary.magnitude,
                           gpu_rows_of(op->rotary.y),
                           op->outputs};
    GPU_LAUNCH(rotary, dim3(op->row_max), BLOCK, c->stream, a);
}

/* ---- Norms: one block for a row ---- */

struct norm_args {
    const device_step *step;
    gpu_rows x, y;
    const float *weight, *bias;
    uint32_t n;
    float epsilon;
    bool layernorm, outputs;
};

struct norm_shared {
    float mean[WARPS], square[WARPS];
};

GPU_KERNEL(BLOCK) norm(const norm_args a) {
    GPU_SHARED(norm_shared, s);
    const uint32_t r = blockIdx.x;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const float *x = gpu_row(a.x, r);
    float *y = gpu_row(a.y, r), mean = 0, square = 0;
    if (a.layernorm) {
        for (uint32_t i = threadIdx.x; i < a.n; i += BLOCK) mean += x[i];
        mean = block_sum(mean, s.mean) / (float)a.n;
    }
    for (uint32_t i = threadIdx.x; i < a.n; i += BLOCK) square = fmaf(x[i] - mean, x[i] - mean, square);
    square = block_sum(square, s.square) / (float)a.n;
    const float factor = 1.0f / sqrtf(square + a.epsilon);
    for (uint32_t i = threadIdx.x; i < a.n; i += BLOCK) {
        const float value = (x[i] - mean) * factor * (a.weight ? a.weight[i] : 1.0f);
        y[i] = a.layernorm && a.bias ? value + a.bias[i] : value;
    }
}

static void launch_norm(const gpu_call *c, const device_op *op) {
    const norm_args a = {c->step,
                         gpu_rows_of(op->norm.x),
                         gpu_rows_of(op->norm.y),
                         (const float *)(const void *)gpu_at(op->norm.weight),
                         (const float *)(const void *)gpu_at(op->norm.bias),
                         op->norm.n,
                         op->norm.epsilon,
                         op->norm.layernorm,
                         op->outputs};
    GPU_LAUNCH(norm, dim3(op->row_max), BLOCK, c->stream, a);
}

/* ---- Queries and keys normed and rotated, keys and values stored: one warp for a head ---- */

struct prepare_args {
    const device_step *step;
    const device_row *row;
    gpu_rows q, k, v, rotary; /* rotary.at NULL: no rotation */
    uint32_t head_n, head_kv_n, key_n, value_n, pair_n, context_n;
    const float *q_norm, *k_norm;
    float epsilon;
    uint8_t *key_state, *value_state;
    uint64_t key_slot_bytes, value_slot_bytes;
    gguf_type state;
    bool adjacent, outputs;
};

/* Both steps on one head of n values; a lane owns pairs, so that nothing passes between lanes but the sum. */
GPU_DEVICE void rotate_head(const prepare_args &a, float *x, const float *weight, const float *cos_sin) {
    float factor = 1;
    if (weight) {
        float square = 0;
        for (uint32_t i = lane_of(); i < a.key_n; i += GPU_WARP) square = fmaf(x[i], x[i], square);
        factor = 1.0f / sqrtf(gpu_warp_sum(square) / (float)a.key_n + a.epsilon);
    }
    const uint32_t pair_n = cos_sin ? a.pair_n : 0;
    const uint32_t step = a.adjacent ? 2 : 1, partner = a.adjacent ? 1 : pair_n;
    for (uint32_t i = lane_of(); i < pair_n; i += GPU_WARP) {
        const uint32_t first = i * step, second = first + partner;
        const float x0 = x[first] * factor * (weight ? weight[first] : 1.0f);
        const float x1 = x[second] * factor * (weight ? weight[second] : 1.0f);
        const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        x[first] = x0 * c - x1 * s;
        x[second] = x0 * s + x1 * c;
    }
    for (uint32_t i = 2 * pair_n + lane_of(); i < a.key_n; i += GPU_WARP)
        x[i] = x[i] * factor * (weight ? weight[i] : 1.0f);
    GPU_WARP_SYNC();
}

/* A lane for each number of a block, by the rule of devices/cpu/kernels.h. */
GPU_DEVICE void store_q8_0(uint8_t *row, const float *x, uint32_t n) {
    for (uint32_t i = lane_of(); i < n; i += GPU_WARP, row += GPU_BLOCK_Q8_0) {
        const float max = gpu_warp_max(fabsf(x[i]));
        float inverse = 127.0f / max;
        if (!(inverse <= 3.402823466e+38f)) inverse = 0;
        if (lane_of() == 0) *(uint16_t *)(void *)row = GPU_FLOAT_TO_HALF(max / 127.0f);
        row[2 + lane_of()] = (uint8_t)(int8_t)rintf(x[i] * inverse);
    }
}

GPU_DEVICE void store_state(const prepare_args &a, uint8_t *state, uint64_t slot_bytes, uint32_t r,
                            uint32_t head, const float *x, uint32_t n) {
    const uint64_t row_i = (uint64_t)head * a.context_n + (uint64_t)a.row[r].position, at = row_i * n;
    uint8_t *slot = state + slot_bytes * (uint64_t)a.row[r].slot;
    if (a.state == GGUF_Q8_0) {
        store_q8_0(slot + row_i * (n / 32) * GPU_BLOCK_Q8_0, x, n);
        return;
    }
    for (uint32_t i = lane_of(); i < n; i += GPU_WARP)
        if (a.state == GGUF_F16)
            ((uint16_t *)(void *)slot)[at + i] = GPU_FLOAT_TO_HALF(x[i]);
        else
            ((float *)(void *)slot)[at + i] = x[i];
}

GPU_KERNEL(BLOCK) prepare(const prepare_args a) {
    const uint32_t r = blockIdx.x;
    uint32_t head = blockIdx.y * WARPS + warp_of();
    if (r >= gpu_row_n(a.step, a.outputs) || head >= a.head_n + a.head_kv_n) return;
    const float *cos_sin = a.rotary.at ? gpu_row(a.rotary, r) : NULL;
    if (head < a.head_n) {
        rotate_head(a, gpu_row(a.q, r) + (size_t)head * a.key_n, a.q_norm, cos_sin);
        return;
    }
    head -= a.head_n;
    float *k = gpu_row(a.k, r) + (size_t)head * a.key_n;
    rotate_head(a, k, a.k_norm, cos_sin);
    store_state(a, a.key_state, a.key_slot_bytes, r, head, k, a.key_n);
    store_state(a, a.value_state, a.value_slot_bytes, r, head, gpu_row(a.v, r) + (size_t)head * a.value_n,
                a.value_n);
}

static void launch_prepare(const gpu_call *c, const device_op *op) {
    prepare_args a = {};
    a.step = c->step;
    a.row = c->row;
    a.q = gpu_rows_of(op->prepare.q);
    a.k = gpu_rows_of(op->prepare.k);
    a.v = gpu_rows_of(op->prepare.v);
    a.rotary = gpu_rows_of(op->prepare.rotary);
    a.head_n = op->prepare.head_n;
    a.head_kv_n = op->prepare.head_kv_n;
    a.key_n = op->prepare.key_n;
    a.value_n = op->prepare.value_n;
    a.pair_n = op->prepare.pair_n;
    a.context_n = op->prepare.context_n;
    a.q_norm = (const float *)(const void *)gpu_at(op->prepare.q_norm);
    a.k_norm = (const float *)(const void *)gpu_at(op->prepare.k_norm);
    a.epsilon = op->prepare.epsilon;
    a.key_state = gpu_at(op->prepare.key_state);
    a.value_state = gpu_at(op->prepare.value_state);
    a.key_slot_bytes = op->prepare.key_slot_bytes;
    a.value_slot_bytes = op->prepare.value_slot_bytes;
    a.adjacent = op->prepare.adjacent;
    a.state = op->prepare.state;
    a.outputs = op->outputs;
    const uint32_t heads = a.head_n + a.head_kv_n;
    GPU_LAUNCH(prepare, dim3(op->row_max, (heads + WARPS - 1) / WARPS), BLOCK, c->stream, a);
}

/* ---- Activation ---- */

/* Formulas: devices/cpu/ref.c. */
GPU_DEVICE float activation(float x, device_activation kind) {
    switch (kind) {
    case DEVICE_ACT_SILU: return x / (1.0f + gpu_exp(-x));
    case DEVICE_ACT_GELU: return 0.5f * x * erfcf(-x * 0.707106781f);
    case DEVICE_ACT_GELU_TANH: return x / (1.0f + gpu_exp(-0x1.988454p+0f * fmaf(0.044715f * x * x, x, x)));
    case DEVICE_ACT_RELU:
    case DEVICE_ACT_DRELU: return x > 0 ? x : 0;
    case DEVICE_ACT_RELU2: return x > 0 ? x * x : 0;
    case DEVICE_ACT_SWIGLU_OAI: {
        const float g = fminf(x, 7.0f);
        return g / (1.0f + gpu_exp(-1.702f * g));
    }
    }
    return 0;
}
GPU_DEVICE float activation_factor(float up, device_activation kind) {
    if (kind == DEVICE_ACT_DRELU) return activation(up, kind);
    return kind == DEVICE_ACT_SWIGLU_OAI ? fmaxf(fminf(up, 7.0f), -7.0f) + 1.0f : up;
}

struct activate_args {
    const device_step *step;
    gpu_rows gate, up, y, score; /* up, score: at NULL where there is none */
    gpu_rows list;
    const uint32_t *verdict; /* NULL: no choice */
    uint32_t n, per_row;
    device_activation kind;
    float threshold;
    bool outputs;
};

/* Active neurons to the front. y may be gate: as lists rise, a place is written only once the neurons up to
 * its number have been read, by the barrier between the two. */
GPU_DEVICE void activate_listed(const activate_args &a, const uint32_t *list, const float *gate,
                                const float *up, float *y) {
    const uint32_t count = list[0];
    for (uint32_t from = 0; from < count; from += BLOCK) {
        const uint32_t j = from + threadIdx.x;
        float h = 0;
        if (j < count) {
            const uint32_t neuron = list[1 + j];
            h = gate[neuron];
            if (a.kind == DEVICE_ACT_RELU2) h *= h;
            if (up) h *= up[neuron];
        }
        GPU_SYNC();
        if (j < count) y[j] = h;
    }
}

GPU_KERNEL(BLOCK) activate(const activate_args a) {
    const uint32_t vector = blockIdx.x, r = vector / a.per_row, from = blockIdx.y * CHUNK;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const size_t at = (size_t)(vector % a.per_row) * a.n;
    const float *gate = gpu_row(a.gate, r) + at, *up = a.up.at ? gpu_row(a.up, r) + at : NULL;
    float *y = gpu_row(a.y, r) + at;
    if (a.verdict && *a.verdict) {
        const float *lists = gpu_row(a.list, r) + (size_t)(vector % a.per_row) * (a.n + 1);
        if (from == 0) activate_listed(a, (const uint32_t *)(const void *)lists, gate, up, y);
        return;
    }
    const float *score = a.score.at ? gpu_row(a.score, r) : NULL;
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + CHUNK; i += BLOCK) {
        float h = activation(gate[i], a.kind);
        if (up) h *= activation_factor(up[i], a.kind);
        y[i] = !score || score[i] >= a.threshold ? h : 0;
    }
}

static void launch_activate(const gpu_call *c, const device_op *op) {
    const device_choice *choice = &op->activate.choice;
    const activate_args a = {c->step,
                             gpu_rows_of(op->activate.gate),
                             gpu_rows_of(op->activate.up),
                             gpu_rows_of(op->activate.y),
                             gpu_rows_of(op->activate.score),
                             gpu_rows_of(choice->list),
                             (const uint32_t *)(const void *)gpu_at(choice->verdict),
                             op->activate.n,
                             op->activate.per_row,
                             op->activate.kind,
                             op->activate.threshold,
                             op->outputs};
    GPU_LAUNCH(activate, dim3(op->row_max * a.per_row, chunks_of(a.n)), BLOCK, c->stream, a);
}

/* ---- Router: one warp for a row ---- */

struct route_args {
    const device_step *step;
    gpu_rows logits, id, weight;
    uint32_t unit_n, used_n, group_n, group_used_n;
    const float *bias; /* NULL: none */
    float scale;
    device_gating gating;
    bool normalise, outputs;
};

struct route_shared {
    float p[ROUTE_UNITS_MAX], group[DEVICE_GROUP_MAX];
};

GPU_DEVICE void softmax_units(float *p, uint32_t n) {
    float max = p[0], sum = 0;
    for (uint32_t i = lane_of(); i < n; i += GPU_WARP) max = fmaxf(max, p[i]);
    max = gpu_warp_max(max);
    for (uint32_t i = lane_of(); i < n; i += GPU_WARP) {
        p[i] = gpu_exp(p[i] - max);
        sum += p[i];
    }
    sum = gpu_warp_sum(sum);
    for (uint32_t i = lane_of(); i < n; i += GPU_WARP) p[i] /= sum;
    GPU_WARP_SYNC();
}

/* The number of the largest one with its bias, the smallest number among equals. */
GPU_DEVICE uint32_t largest_unit(const float *p, const float *bias, uint32_t n) {
    uint32_t best = 0;
    float value = bias ? p[0] + bias[0] : p[0];
    for (uint32_t i = lane_of(); i < n; i += GPU_WARP) {
        const float next = bias ? p[i] + bias[i] : p[i];
        if (next > value) {
            value = next;
            best = i;
        }
    }
    for (int mask = GPU_WARP / 2; mask > 0; mask /= 2) {
        const float other_value = GPU_SHUFFLE_XOR(value, mask);
        const uint32_t other = GPU_SHUFFLE_XOR(best, mask);
        if (other_value > value || (other_value == value && other < best)) {
            value = other_value;
            best = other;
        }
    }
    return best;
}

/* What a group is worth: see devices/cpu/ops.c. */
GPU_DEVICE float group_score(const route_args &a, const float *p, uint32_t from, uint32_t n) {
    float best = -INFINITY, next = -INFINITY;
    for (uint32_t i = from; i < from + n; i++) {
        const float score = p[i] + (a.bias ? a.bias[i] : 0);
        next = score > best ? best : fmaxf(next, score);
        best = fmaxf(best, score);
    }
    return a.gating == DEVICE_GATING_SIGMOID && n > 1 ? best + next : best;
}

/* Uses up the units of all groups but the best: a group stays where fewer than group_used_n come before it.
 */
GPU_DEVICE void drop_groups(const route_args &a, float *p, float *score) {
    const uint32_t each = a.unit_n / a.group_n;
    for (uint32_t g = lane_of(); g < a.group_n; g += GPU_WARP) score[g] = group_score(a, p, g * each, each);
    GPU_WARP_SYNC();
    for (uint32_t g = lane_of(); g < a.group_n; g += GPU_WARP) {
        uint32_t before = 0;
        for (uint32_t h = 0; h < a.group_n; h++)
            before += score[h] > score[g] || (score[h] == score[g] && h < g);
        for (uint32_t i = 0; i < each && before >= a.group_used_n; i++) p[g * each + i] = -INFINITY;
    }
    GPU_WARP_SYNC();
}

/* The few chosen weights, by one lane. */
GPU_DEVICE void weigh_chosen(const route_args &a, float *weight) {
    float scale = a.scale, sum = 0, max = weight[0];
    if (a.gating == DEVICE_GATING_SOFTMAX_AFTER) {
        for (uint32_t j = 1; j < a.used_n; j++) max = fmaxf(max, weight[j]);
        for (uint32_t j = 0; j < a.used_n; j++) {
            weight[j] = gpu_exp(weight[j] - max);
            sum += weight[j];
        }
        for (uint32_t j = 0; j < a.used_n; j++) weight[j] /= sum;
    }
    if (a.normalise) {
        sum = 0;
        for (uint32_t j = 0; j < a.used_n; j++) sum += weight[j];
        scale /= sum + 1e-20f;
    }
    for (uint32_t j = 0; j < a.used_n; j++) weight[j] *= scale;
}

GPU_KERNEL(GPU_WARP) route(const route_args a) {
    GPU_SHARED(route_shared, s);
    const uint32_t r = blockIdx.x;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const float *logits = gpu_row(a.logits, r);
    int32_t *id = (int32_t *)(void *)gpu_row(a.id, r);
    float *weight = gpu_row(a.weight, r);
    for (uint32_t i = lane_of(); i < a.unit_n; i += GPU_WARP) s.p[i] = logits[i];
    GPU_WARP_SYNC();
    if (a.gating == DEVICE_GATING_SOFTMAX) softmax_units(s.p, a.unit_n);
    if (a.gating == DEVICE_GATING_SIGMOID)
        for (uint32_t i = lane_of(); i < a.unit_n; i += GPU_WARP) s.p[i] = 1 / (1 + gpu_exp(-s.p[i]));
    GPU_WARP_SYNC();
    if (a.group_n) drop_groups(a, s.p, s.group);
    for (uint32_t j = 0; j < a.used_n; j++) {
        const uint32_t best = largest_unit(s.p, a.bias, a.unit_n);
        if (lane_of() == 0) {
            id[j] = (int32_t)best;
            weight[j] = s.p[best];
            s.p[best] = -INFINITY;
        }
        GPU_WARP_SYNC();
    }
    if (lane_of() == 0) weigh_chosen(a, weight);
}

static void launch_route(const gpu_call *c, const device_op *op) {
    const route_args a = {c->step,
                          gpu_rows_of(op->route.logits),
                          gpu_rows_of(op->route.id),
                          gpu_rows_of(op->route.weight),
                          op->route.unit_n,
                          op->route.used_n,
                          op->route.group_n,
                          op->route.group_used_n,
                          (const float *)(const void *)gpu_at(op->route.bias),
                          op->route.scale,
                          op->route.gating,
                          op->route.normalise,
                          op->outputs};
    GPU_LAUNCH(route, dim3(op->row_max), GPU_WARP, c->stream, a);
}

static hotset_status check_route(const device_op *op, hotset_error *err) {
    if (op->route.unit_n <= ROUTE_UNITS_MAX) return HOTSET_OK;
    return gpu_unsupported(err, op, "more than", "1024 experts");
}

/* ---- Experts' results added up, in the order of the choice ---- */

struct combine_args {
    const device_step *step;
    gpu_rows x, weight, y;
    uint32_t used_n, n;
    bool anew, outputs;
};

GPU_KERNEL(BLOCK) combine(const combine_args a) {
    const uint32_t r = blockIdx.x, from = blockIdx.y * CHUNK;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const float *x = gpu_row(a.x, r), *weight = gpu_row(a.weight, r);
    float *y = gpu_row(a.y, r);
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + CHUNK; i += BLOCK) {
        float sum = a.anew ? 0 : y[i];
        for (uint32_t j = 0; j < a.used_n; j++) sum += weight[j] * x[(size_t)j * a.n + i];
        y[i] = sum;
    }
}

static void launch_combine(const gpu_call *c, const device_op *op) {
    const combine_args a = {c->step,
                            gpu_rows_of(op->combine.x),
                            gpu_rows_of(op->combine.weight),
                            gpu_rows_of(op->combine.y),
                            op->combine.used_n,
                            op->combine.n,
                            op->combine.anew,
                            op->outputs};
    GPU_LAUNCH(combine, dim3(op->row_max, chunks_of(a.n)), BLOCK, c->stream, a);
}

/* ---- Rows copied or added up ---- */

struct copy_args {
    const device_step *step;
    gpu_rows x, y;
    uint32_t n;
    bool accumulate, outputs;
};

GPU_KERNEL(BLOCK) copy(const copy_args a) {
    const uint32_t r = blockIdx.x, from = blockIdx.y * CHUNK;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const float *x = gpu_row(a.x, r);
    float *y = gpu_row(a.y, r);
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + CHUNK; i += BLOCK) {
        if (a.accumulate)
            y[i] += x[i];
        else /* any word, not only floats */
            ((uint32_t *)(void *)y)[i] = ((const uint32_t *)(const void *)x)[i];
    }
}

static hotset_status check_copy(const device_op *op, hotset_error *err) {
    return op->copy.part_n > 1 ? gpu_unsupported(err, op, "parts", "of rows") : HOTSET_OK;
}

static hotset_status check_prepare(const device_op *op, hotset_error *err) {
    if (!op->prepare.rotated_from && op->prepare.value_n) return HOTSET_OK;
    return gpu_unsupported(err, op, "latent", "attention");
}

static void launch_copy(const gpu_call *c, const device_op *op) {
    const copy_args a = {c->step,    gpu_rows_of(op->copy.x), gpu_rows_of(op->copy.y),
                         op->copy.n, op->copy.accumulate,     op->outputs};
    GPU_LAUNCH(copy, dim3(op->row_max, chunks_of(a.n)), BLOCK, c->stream, a);
}

/* ---- x = cap * tanh(x / cap) ---- */

struct cap_args {
    const device_step *step;
    gpu_rows x;
    uint32_t n;
    float cap;
    bool outputs;
};

GPU_KERNEL(BLOCK) cap(const cap_args a) {
    const uint32_t r = blockIdx.x, from = blockIdx.y * CHUNK;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    float *x = gpu_row(a.x, r);
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + CHUNK; i += BLOCK)
        x[i] = a.cap * gpu_tanh(x[i] / a.cap);
}

static void launch_cap(const gpu_call *c, const device_op *op) {
    const cap_args a = {c->step, gpu_rows_of(op->cap.x), op->cap.n, op->cap.cap, op->outputs};
    GPU_LAUNCH(cap, dim3(op->row_max, chunks_of(a.n)), BLOCK, c->stream, a);
}

/* ---- Rows whose logits are wanted ---- */

struct gather_args {
    const device_step *step;
    const int32_t *output;
    gpu_rows x, y;
    uint32_t n;
};

GPU_KERNEL(BLOCK) gather(const gather_args a) {
    const uint32_t r = blockIdx.x, from = blockIdx.y * CHUNK;
    if (r >= a.step->output_n) return;
    const float *x = gpu_row(a.x, (uint32_t)a.output[a.step->output_from + r]);
    float *y = gpu_row(a.y, r);
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + CHUNK; i += BLOCK) y[i] = x[i];
}

static void launch_gather(const gpu_call *c, const device_op *op) {
    const gather_args a = {c->step, c->output, gpu_rows_of(op->gather.x), gpu_rows_of(op->gather.y),
                           op->gather.n};
    GPU_LAUNCH(gather, dim3(op->row_max, chunks_of(a.n)), BLOCK, c->stream, a);
}

/* ---- What the host is told of each row ---- */

struct tally_args {
    const device_step *step;
    gpu_rows x, weight, also, score; /* also: at NULL where there is none */
    float threshold;
    uint32_t n;
    device_activation activation;
    device_tally kind;
    uint8_t *record;
    uint64_t record_bytes; /* of one row */
    bool outputs;
};

/* A warp makes the bits of 32 values at a time; two halves of a word stand in the order of their values. */
GPU_DEVICE void tally_bits(uint32_t *bits, const float *x, uint32_t n) {
    const uint32_t half_n = (n + 63) / 64 * 2;
    for (uint32_t half = warp_of(); half < half_n; half += WARPS) {
        const uint32_t i = half * 32 + lane_of();
        const uint32_t word = GPU_BALLOT(i < n && x[i] > 0);
        if (lane_of() == 0) bits[half] = word;
    }
}

/* activation_size_bin of profiles/activation.h. */
GPU_DEVICE uint32_t size_bin(float value) {
    const uint32_t bits = GPU_BITS_OF_FLOAT(value), least = (127 - 24) * 2, sqrt2_fraction = 0x3504F4;
    const uint32_t half_octave = (bits >> 23 & 0xFF) * 2 + ((bits & 0x7FFFFF) >= sqrt2_fraction);
    const uint32_t last = ACTIVATION_SIZE_N - 1;
    if (half_octave < least) return 0;
    return half_octave - least < last ? half_octave - least + 1 : last;
}

struct tally_shared {
    uint32_t count[ACTIVATION_SIZE_N];
};

/* Adds up in shared memory, `count_n` numbers, and writes them. */
GPU_DEVICE void tally_counts(const tally_args &a, uint32_t r, uint32_t *count, uint32_t count_n,
                             uint32_t *record) {
    const float *x = gpu_row(a.x, r), *also = a.also.at ? gpu_row(a.also, r) : NULL;
    for (uint32_t i = threadIdx.x; i < count_n; i += BLOCK) count[i] = 0;
    GPU_SYNC();
    for (uint32_t i = threadIdx.x; i < a.n; i += BLOCK) {
        if (a.kind == DEVICE_TALLY_SIZES) {
            GPU_ATOMIC_ADD(&count[size_bin(activation(x[i], a.activation))], 1u);
            continue;
        }
        const bool active = x[i] > 0 && (!also || also[i] > 0);
        const bool predicted = gpu_row(a.score, r)[i] >= a.threshold;
        if (active) GPU_ATOMIC_ADD(&count[0], 1u);
        if (predicted) GPU_ATOMIC_ADD(&count[1], 1u);
        if (active && predicted) GPU_ATOMIC_ADD(&count[2], 1u);
    }
    GPU_SYNC();
    for (uint32_t i = threadIdx.x; i < count_n; i += BLOCK) record[i] = count[i];
}

GPU_KERNEL(BLOCK) tally(const tally_args a) {
    GPU_SHARED(tally_shared, s);
    const uint32_t r = blockIdx.x;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    uint32_t *record = (uint32_t *)(void *)(a.record + a.record_bytes * r);
    switch (a.kind) {
    case DEVICE_TALLY_BITS: tally_bits(record, gpu_row(a.x, r), a.n); break;
    case DEVICE_TALLY_SIZES: tally_counts(a, r, s.count, ACTIVATION_SIZE_N, record); break;
    case DEVICE_TALLY_JUDGED: tally_counts(a, r, s.count, 3, record); break;
    case DEVICE_TALLY_CHOSEN:
        for (uint32_t i = threadIdx.x; i < a.n; i += BLOCK) {
            record[i] = ((const uint32_t *)(const void *)gpu_row(a.x, r))[i];
            record[a.n + i] = GPU_BITS_OF_FLOAT(gpu_row(a.weight, r)[i]);
        }
        break;
    }
}

static void launch_tally(const gpu_call *c, const device_op *op) {
    const tally_args a = {c->step,
                          gpu_rows_of(op->tally.x),
                          gpu_rows_of(op->tally.weight),
                          gpu_rows_of(op->tally.also),
                          gpu_rows_of(op->tally.score),
                          op->tally.threshold,
                          op->tally.n,
                          op->tally.activation,
                          op->tally.kind,
                          gpu_at(op->tally.record),
                          device_tally_bytes(op->tally.kind, op->tally.n),
                          op->outputs};
    GPU_LAUNCH(tally, dim3(op->row_max), BLOCK, c->stream, a);
}

/* ---- The families ---- */

GPU_TABLE gpu_family gpu_embed = {check_embed, NULL, launch_embed};
GPU_TABLE gpu_family gpu_rotary = {NULL, NULL, launch_rotary};
GPU_TABLE gpu_family gpu_norm = {NULL, NULL, launch_norm};
GPU_TABLE gpu_family gpu_prepare = {check_prepare, NULL, launch_prepare};
GPU_TABLE gpu_family gpu_activate = {NULL, NULL, launch_activate};
GPU_TABLE gpu_family gpu_route = {check_route, NULL, launch_route};
GPU_TABLE gpu_family gpu_combine = {NULL, NULL, launch_combine};
GPU_TABLE gpu_family gpu_tally = {NULL, NULL, launch_tally};
GPU_TABLE gpu_family gpu_copy = {check_copy, NULL, launch_copy};
GPU_TABLE gpu_family gpu_cap = {NULL, NULL, launch_cap};
GPU_TABLE gpu_family gpu_gather = {NULL, NULL, launch_gather};
