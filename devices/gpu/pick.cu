/* pick.cu - the number of each row's largest value: parts of a row first, then the parts. Values and numbers
 * become whole keys, of which the largest is the same in any order. */
#include "devices/gpu/kernels.h"

enum { BLOCK = 256, WARPS = BLOCK / GPU_WARP, PART = 4096, PARTS_MAX = 64 };

struct pick_args {
    const device_step *step;
    gpu_rows x, id;
    uint64_t *key; /* [row_max][part_n] */
    uint32_t n, part_n, per_part;
    bool outputs;
};

struct pick_shared {
    uint64_t key[WARPS];
};

/* Rises with the value, then falls with the number; NaN: 0, which is below all others. */
GPU_DEVICE uint64_t key_of(float x, uint32_t i) {
    if (x != x) return 0;
    const uint32_t bits = GPU_BITS_OF_FLOAT(x == 0 ? 0.0f : x); /* zeros are alike */
    const uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)rising << 32 | (uint32_t)~i;
}

/* Of all threads of the block; thread 0 has it. */
GPU_DEVICE uint64_t largest_of_block(pick_shared &s, uint64_t key) {
    for (int mask = 16; mask > 0; mask /= 2) {
        const uint64_t other = GPU_SHUFFLE_XOR(key, mask);
        key = other > key ? other : key;
    }
    if (threadIdx.x % GPU_WARP == 0) s.key[threadIdx.x / GPU_WARP] = key;
    GPU_SYNC();
    for (int w = 1; w < WARPS && threadIdx.x == 0; w++) key = s.key[w] > key ? s.key[w] : key;
    return key;
}

GPU_KERNEL(BLOCK) pick_of_parts(const pick_args a) {
    GPU_SHARED(pick_shared, s);
    const uint32_t r = blockIdx.x, from = blockIdx.y * a.per_part;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    const float *x = gpu_row(a.x, r);
    uint64_t key = 0;
    for (uint32_t i = from + threadIdx.x; i < a.n && i < from + a.per_part; i += BLOCK) {
        const uint64_t other = key_of(x[i], i);
        key = other > key ? other : key;
    }
    key = largest_of_block(s, key);
    if (threadIdx.x == 0) a.key[(size_t)r * a.part_n + blockIdx.y] = key;
}

GPU_KERNEL(BLOCK) pick_of_rows(const pick_args a) {
    GPU_SHARED(pick_shared, s);
    const uint32_t r = blockIdx.x;
    if (r >= gpu_row_n(a.step, a.outputs)) return;
    uint64_t key = threadIdx.x < a.part_n ? a.key[(size_t)r * a.part_n + threadIdx.x] : 0;
    key = largest_of_block(s, key);
    if (threadIdx.x == 0) *(int32_t *)(void *)gpu_row(a.id, r) = key ? (int32_t) ~(uint32_t)key : 0;
}

/* So many parts that the card is busy, so few that one block has them all. */
static uint32_t parts_of(const device_op *op) {
    const uint32_t n = (op->pick.n + PART - 1) / PART, most = PARTS_MAX;
    return n < most ? n : most;
}

static uint64_t pick_bytes(const device_op *op) {
    return (uint64_t)op->row_max * parts_of(op) * sizeof(uint64_t);
}

static void launch_pick(const gpu_call *c, const device_op *op) {
    const uint32_t part_n = parts_of(op);
    const pick_args a = {c->step,
                         gpu_rows_of(op->pick.x),
                         gpu_rows_of(op->pick.id),
                         (uint64_t *)(void *)c->workspace,
                         op->pick.n,
                         part_n,
                         (op->pick.n + part_n - 1) / part_n,
                         op->outputs};
    GPU_LAUNCH(pick_of_parts, dim3(op->row_max, part_n), BLOCK, c->stream, a);
    GPU_LAUNCH(pick_of_rows, dim3(op->row_max), BLOCK, c->stream, a);
}

GPU_TABLE gpu_family gpu_pick = {NULL, pick_bytes, launch_pick};
