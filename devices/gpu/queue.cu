/* queue.cu - what a queue does besides operations: the step's table for a list, counters shared with the
 * host.
 */
#include "devices/gpu/kernels.h"

enum { BLOCK = 256 };

/* About an hour: the host's watch (watch.c) ends waits long before, as long as there is a host. */
#define POLLS_MAX (3600 * GPU_POLLS_PER_S)
enum { POLLS_PER_LOOK = 16 }; /* at the word that ends all waits: each look costs as much as a poll */

struct step_args {
    const device_step *from; /* pinned */
    device_step *to;
    uint32_t from_row_max, row_max;
    uint64_t epoch;
    uint64_t *epoch_at;
};

GPU_KERNEL(BLOCK) load_step(const step_args a) {
    const device_row *row = (const device_row *)(a.from + 1);
    const int32_t *output = (const int32_t *)(row + a.from_row_max) + a.from->output_from;
    device_row *to_row = (device_row *)(a.to + 1);
    int32_t *to_output = (int32_t *)(to_row + a.row_max);
    for (uint32_t i = threadIdx.x; i < a.row_max; i += BLOCK) {
        if (i < a.from->row_n) to_row[i] = row[i];
        if (i < a.from->output_n) to_output[i] = output[i];
    }
    if (threadIdx.x != 0) return;
    a.to->row_n = a.from->row_n;
    a.to->output_n = a.from->output_n;
    a.to->output_from = 0;
    *a.epoch_at = a.epoch;
}

void gpu_launch_step(gpuStream stream, const device_step *from, uint32_t from_row_max, device_step *to,
                     uint32_t row_max, uint64_t epoch, uint64_t *epoch_at) {
    const step_args a = {from, to, from_row_max, row_max, epoch, epoch_at};
    GPU_LAUNCH(load_step, dim3(1), BLOCK, stream, a);
}

struct wait_args {
    gpu_wait_for w;
    const uint64_t *abandon;
    uint64_t *gave_up;
};

GPU_KERNEL(1) wait_for(const wait_args a) {
    const uint64_t value = a.w.epoch ? *a.w.epoch : a.w.mark.value;
    uint64_t polls = 0;
    if (GPU_LOAD_SYSTEM(a.w.counter) < value) {
        GPU_STORE_SYSTEM(&a.w.mark_at->value, value);
        GPU_STORE_SYSTEM(&a.w.mark_at->op, a.w.mark.op);
        GPU_STORE_SYSTEM(&a.w.mark_at->offset, a.w.mark.offset);
        GPU_FENCE_SYSTEM();
        GPU_STORE_SYSTEM(&a.w.mark_at->at, a.w.mark.at);
        while (GPU_LOAD_SYSTEM(a.w.counter) < value) {
            const bool abandoned = ++polls % POLLS_PER_LOOK == 0 && GPU_LOAD_SYSTEM(a.abandon) != 0;
            if (abandoned || polls == POLLS_MAX) {
                GPU_STORE_SYSTEM(a.gave_up, abandoned ? GPU_GAVE_UP_ABANDONED : GPU_GAVE_UP_LATE);
                break;
            }
            GPU_BACKOFF();
        }
        GPU_STORE_SYSTEM(&a.w.mark_at->at, 0);
    }
    GPU_FENCE_SYSTEM();
}

void gpu_launch_wait(gpuStream stream, const gpu_wait_for *w, const uint64_t *abandon, uint64_t *gave_up) {
    const wait_args a = {*w, abandon, gave_up};
    GPU_LAUNCH(wait_for, dim3(1), 1, stream, a);
}

static void launch_wait(const gpu_call *c, const device_op *op) {
    const gpu_wait_for w = gpu_wait_of(c, op);
    gpu_launch_wait(c->stream, &w, c->abandon, c->gave_up);
}

struct signal_args {
    uint64_t *counter;
    uint64_t value;
    const uint64_t *epoch; /* not NULL: stands for the value */
};

GPU_KERNEL(1) signal_to(const signal_args a) {
    GPU_FENCE_SYSTEM();
    GPU_STORE_SYSTEM(a.counter, a.epoch ? *a.epoch : a.value);
}

void gpu_launch_signal(gpuStream stream, uint64_t *counter, uint64_t value) {
    const signal_args a = {counter, value, NULL};
    GPU_LAUNCH(signal_to, dim3(1), 1, stream, a);
}

static void launch_signal(const gpu_call *c, const device_op *op) {
    const signal_args a = {(uint64_t *)(void *)gpu_at(op->counter.counter), 0, c->epoch};
    GPU_LAUNCH(signal_to, dim3(1), 1, c->stream, a);
}

GPU_TABLE gpu_family gpu_wait = {NULL, NULL, launch_wait};
GPU_TABLE gpu_family gpu_signal = {NULL, NULL, launch_signal};

/* ---- For measuring ---- */

struct read_args {
    const uint4 *from;
    uint64_t n;
    uint32_t *sink;
};

struct read_shared {
    uint32_t part[BLOCK];
};

GPU_KERNEL(BLOCK) read_all(const read_args a) {
    GPU_SHARED(read_shared, s);
    uint32_t sum = 0;
    for (uint64_t i = (uint64_t)blockIdx.x * BLOCK + threadIdx.x; i < a.n; i += (uint64_t)gridDim.x * BLOCK) {
        const uint4 four = a.from[i];
        sum += four.x + four.y + four.z + four.w;
    }
    s.part[threadIdx.x] = sum;
    GPU_SYNC();
    if (threadIdx.x != 0) return;
    for (uint32_t i = 1; i < BLOCK; i++) sum += s.part[i];
    a.sink[blockIdx.x] = sum;
}

void gpu_launch_read(gpuStream stream, const uint8_t *from, uint64_t bytes, uint32_t block_n,
                     uint32_t *sink) {
    const read_args a = {(const uint4 *)(const void *)from, bytes / sizeof(uint4), sink};
    GPU_LAUNCH(read_all, dim3(block_n), BLOCK, stream, a);
}

struct peak_args {
    uint32_t iteration_n;
    bool int8;
    uint32_t *sink;
};

/* Eight chains each, so that one need not wait for itself. */
GPU_KERNEL(GPU_PEAK_THREADS) peak(const peak_args a) {
    int whole[8];
    float real[8];
    for (int j = 0; j < 8; j++) {
        whole[j] = (int)threadIdx.x + j;
        real[j] = (float)whole[j];
    }
    for (uint32_t i = 0; a.int8 && i < a.iteration_n; i++)
        for (int j = 0; j < 8; j++) whole[j] = GPU_DOT4(whole[j], 0x01010101, whole[j]);
    for (uint32_t i = 0; !a.int8 && i < a.iteration_n; i++)
        for (int j = 0; j < 8; j++) real[j] = fmaf(real[j], 0.5f, 1.0f);
    float sum = 0;
    for (int j = 0; j < 8; j++) sum += (float)(whole[j] & 255) + real[j];
    if (sum == -1) a.sink[blockIdx.x] = 1; /* never: but the compiler does not know */
}

void gpu_launch_peak(gpuStream stream, bool int8, uint32_t iteration_n, uint32_t block_n, uint32_t *sink) {
    const peak_args a = {iteration_n, int8, sink};
    GPU_LAUNCH(peak, dim3(block_n), GPU_PEAK_THREADS, stream, a);
}
