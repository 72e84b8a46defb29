/* emulate_kernels.cpp - see emulate_kernels.h. */
#include "tests/emulate_kernels.h"

enum { THREADS = 64, LANE_THREADS = 96 };

struct sums_args {
    const uint32_t *x;
    uint32_t *y;
    kernel_fault fault;
};

struct sums_shared {
    uint32_t part[THREADS / GPU_WARP];
};

struct large_shared {
    uint8_t bytes[GPU_SHARED_BYTES];
};

/* All the ways for threads not to meet. */
GPU_DEVICE bool stray(kernel_fault fault) {
    const uint32_t i = threadIdx.x;
    if (fault == FAULT_ENDED_AT_BARRIER && i >= GPU_WARP) return true;
    if (fault == FAULT_OTHER_BARRIER && i >= GPU_WARP) GPU_SYNC();
    if (fault == FAULT_ENDED_AT_SHUFFLE && i % 5 == 4) return true;
    if (fault == FAULT_BARRIER_AT_SHUFFLE && i == 7) GPU_SYNC();
    if (fault == FAULT_BACKOFF) GPU_BACKOFF();
    return false;
}

GPU_KERNEL(THREADS) sums(const sums_args a) {
    GPU_SHARED(sums_shared, s);
    if (a.fault == FAULT_TOO_MUCH_SHARED) {
        GPU_SHARED(large_shared, more);
        more.bytes[0] = 1;
    }
    if (blockIdx.x == 1 && stray(a.fault)) return;
    uint32_t sum = a.x[blockIdx.x * THREADS + threadIdx.x];
    for (int mask = GPU_WARP / 2; mask > 0; mask /= 2) sum += GPU_SHUFFLE_XOR(sum, mask);
    if (threadIdx.x % GPU_WARP == 0) s.part[threadIdx.x / GPU_WARP] = sum;
    GPU_SYNC();
    a.y[blockIdx.x * THREADS + threadIdx.x] = s.part[threadIdx.x / GPU_WARP];
}

void launch_sums(gpuStream s, const uint32_t *x, uint32_t *y, uint32_t block_n, kernel_fault fault) {
    const sums_args a = {x, y, fault};
    GPU_LAUNCH(sums, dim3(block_n), THREADS, s, a);
}

struct lanes_args {
    uint32_t *y;
};

GPU_KERNEL(LANE_THREADS) lanes(const lanes_args a) {
    const uint32_t i = threadIdx.x;
    uint32_t *y = a.y + 8 * i;
    y[0] = GPU_SHUFFLE(i, 3);
    y[1] = GPU_SHUFFLE_DOWN(i, 4);
    y[2] = GPU_SHUFFLE_XOR(i, 1);
    y[3] = GPU_BALLOT(i % 3 == 0);
    y[4] = (uint32_t)GPU_SHUFFLE_XOR((double)i, 16);
    y[5] = (uint32_t)GPU_DOT4(0x80FF017F, 0x7F02FF01, 5);
    y[6] = GPU_POPCOUNT(y[3]);
    y[7] = blockDim.x + gridDim.x;
}

void launch_lanes(gpuStream s, uint32_t *y) {
    const lanes_args a = {y};
    GPU_LAUNCH(lanes, dim3(1), LANE_THREADS, s, a);
}

struct neighbours_args {
    uint32_t *y;
    bool barrier;
};

struct neighbours_shared {
    uint32_t word[THREADS];
};

GPU_KERNEL(THREADS) neighbours(const neighbours_args a) {
    GPU_SHARED(neighbours_shared, s);
    s.word[threadIdx.x] = threadIdx.x;
    if (a.barrier) GPU_SYNC();
    a.y[threadIdx.x] = s.word[(threadIdx.x + 1) % THREADS];
}

void launch_neighbours(gpuStream s, uint32_t *y, bool barrier) {
    const neighbours_args a = {y, barrier};
    GPU_LAUNCH(neighbours, dim3(1), THREADS, s, a);
}
