/* queue.cu - what a queue does besides operations: the step's table for a list, counters shared with the
 * host.
 */
#include "devices/gpu/kernels.h"

enum { BLOCK = 256 };

/* A kernel waits so long at most: more than any work of the host takes, less than for ever. */
#define POLLS_MAX (20 * GPU_POLLS_PER_S)

struct step_args {
    const uint32_t *from; /* pinned */
    uint32_t *to;
    uint64_t word_n, epoch;
    uint64_t *epoch_at;
};

GPU_KERNEL(BLOCK) load_step(const step_args a) {
    for (uint64_t i = threadIdx.x; i < a.word_n; i += BLOCK) a.to[i] = a.from[i];
    if (threadIdx.x == 0) *a.epoch_at = a.epoch;
}

void gpu_launch_step(gpuStream stream, const device_step *from, device_step *to, uint64_t table_bytes,
                     uint64_t epoch, uint64_t *epoch_at) {
    const step_args a = {(const uint32_t *)(const void *)from, (uint32_t *)(void *)to,
                         table_bytes / sizeof(uint32_t), epoch, epoch_at};
    GPU_LAUNCH(load_step, dim3(1), BLOCK, stream, a);
}

struct counter_args {
    uint64_t *counter;
    uint64_t value;
    const uint64_t *epoch; /* not NULL: stands for the value */
    const uint64_t *abandon;
    uint64_t *late;
};

GPU_KERNEL(1) wait_for(const counter_args a) {
    const uint64_t value = a.epoch ? *a.epoch : a.value;
    uint64_t polls = 0;
    while (GPU_LOAD_SYSTEM(a.counter) < value) {
        if (GPU_LOAD_SYSTEM(a.abandon)) break;
        if (++polls == POLLS_MAX) {
            GPU_STORE_SYSTEM(a.late, 1);
            break;
        }
        GPU_BACKOFF();
    }
    GPU_FENCE_SYSTEM();
}

GPU_KERNEL(1) signal_to(const counter_args a) {
    GPU_FENCE_SYSTEM();
    GPU_STORE_SYSTEM(a.counter, a.epoch ? *a.epoch : a.value);
}

void gpu_launch_wait(gpuStream stream, const uint64_t *counter, uint64_t value, const uint64_t *abandon,
                     uint64_t *late) {
    const counter_args a = {const_cast<uint64_t *>(counter), value, NULL, abandon, late};
    GPU_LAUNCH(wait_for, dim3(1), 1, stream, a);
}

void gpu_launch_signal(gpuStream stream, uint64_t *counter, uint64_t value) {
    const counter_args a = {counter, value, NULL, NULL, NULL};
    GPU_LAUNCH(signal_to, dim3(1), 1, stream, a);
}

static void launch_wait(const gpu_call *c, const device_op *op) {
    const counter_args a = {(uint64_t *)(void *)gpu_at(op->counter.counter), 0, c->epoch, c->abandon,
                            c->late};
    GPU_LAUNCH(wait_for, dim3(1), 1, c->stream, a);
}

static void launch_signal(const gpu_call *c, const device_op *op) {
    const counter_args a = {(uint64_t *)(void *)gpu_at(op->counter.counter), 0, c->epoch, NULL, NULL};
    GPU_LAUNCH(signal_to, dim3(1), 1, c->stream, a);
}

const gpu_family gpu_wait = {NULL, NULL, launch_wait};
const gpu_family gpu_signal = {NULL, NULL, launch_signal};
