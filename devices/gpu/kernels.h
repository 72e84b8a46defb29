/* kernels.h - between device.c and the kernels: one family for each kind of operation.
 *
 * device.c checks a list's operations when it is recorded and then has each launched, once per submission or
 * once into a graph. A family's launch therefore enqueues kernels and nothing else: it allocates nothing,
 * waits for nothing, and depends on nothing but the operation. What changes from step to step is read by the
 * kernels from `step`, `row`, `output` and `epoch`, which are device memory: grids are made for row_max rows,
 * and blocks of rows that the step does not have return at once. Operands are resolved by gpu_at. */
#ifndef HOTSET_GPU_KERNELS_H
#define HOTSET_GPU_KERNELS_H

#include "devices/gpu/vendor.h"

#ifdef __cplusplus
#define _Static_assert static_assert
extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wextra" /* of what is fine in C */
#endif

#include "devices/device.h"
#include "devices/quant.h"

#ifdef __cplusplus
#pragma GCC diagnostic pop
#endif

/* A buffer of a GPU: `device` is where kernels find it, NULL where they cannot (mapped files). */
typedef struct gpu_buffer {
    device_buffer base;
    uint8_t *device;
    bool is_others;     /* pinned: the memory is not this buffer's to free, */
    bool is_registered; /* but made known to the vendor by it */
} gpu_buffer;

/* Where an operation is launched, and what its kernels read: all pointers are device addresses. */
typedef struct gpu_call {
    gpuStream stream;
    const device_step *step;
    const device_row *row;   /* [row_max] */
    const int32_t *output;   /* [row_max] */
    const uint64_t *epoch;   /* of this submission */
    const uint64_t *abandon; /* pinned; not 0: kernels that wait for something give up */
    uint64_t *gave_up;       /* pinned; a kernel that gives up waiting sets it */
    struct gpu_mark *mark;   /* pinned; the list's */
    uint8_t *workspace;      /* aligned to GPU_ALIGN; workspace_bytes of the operation */
    uint32_t multiprocessor_n;
} gpu_call;

enum { GPU_ALIGN = 256 };

/* One kind of operation. */
typedef struct gpu_family {
    /* E_UNSUPPORTED names what there is no kernel for, by gpu_unsupported. NULL: all is supported. */
    hotset_status (*check)(const device_op *op, hotset_error *err);
    /* Pure; asked only for operations that pass the check. NULL: 0. */
    uint64_t (*workspace_bytes)(const device_op *op);
    void (*launch)(const gpu_call *call, const device_op *op);
} gpu_family;

/* By device_op_kind, NULL: not done (families.c). Each is defined where its kernels are, as GPU_TABLE
 * gpu_family. */
extern const gpu_family *const gpu_families[DEVICE_OP_COUNT];
extern GPU_TABLE gpu_family gpu_embed, gpu_rotary, gpu_norm, gpu_prepare, gpu_activate, gpu_route,
    gpu_combine, gpu_copy, gpu_cap, gpu_tally, gpu_gather, gpu_wait,
    gpu_signal;                                      /* vector.cu, wait and signal: queue.cu */
extern GPU_TABLE gpu_family gpu_linear, gpu_experts; /* matvec.cu and matmul.cu */
extern GPU_TABLE gpu_family gpu_attend;              /* attend.cu */
extern GPU_TABLE gpu_family gpu_select;              /* neurons.cu */
extern GPU_TABLE gpu_family gpu_pick;                /* pick.cu */

/* "rope of layer 3: the GPU has no kernel for weights of type Q5_0" and the like; returns E_UNSUPPORTED. */
hotset_status gpu_unsupported(hotset_error *err, const device_op *op, const char *what, const char *value);

/* The first kernel of every submission: copies the step's table, of from_row_max rows in pinned memory, to
 * one of row_max rows in device memory, whose outputs are those of this step from number 0 on; and the epoch.
 */
void gpu_launch_step(gpuStream stream, const device_step *from, uint32_t from_row_max, device_step *to,
                     uint32_t row_max, uint64_t epoch, uint64_t *epoch_at);
/* Why *gave_up is not 0. */
enum { GPU_GAVE_UP_LATE = 1, GPU_GAVE_UP_ABANDONED = 2 };
/* What a device writes into pinned memory while it waits, so that the host can tell what for: `at` last, and
 * 0 again when it goes on. */
typedef struct gpu_mark {
    uint64_t at;     /* the host's address of the counter; 0: it does not wait */
    uint64_t value;  /* that the counter is to reach */
    uint64_t op;     /* the host's address of the operation that waits, of a list; 0: the queue does */
    uint64_t offset; /* of the counter in its buffer */
    uint64_t unused[4];
} gpu_mark;

/* A wait for a counter, in words that are known when it is recorded. */
typedef struct gpu_wait_for {
    uint64_t *counter;     /* as the device sees it */
    const uint64_t *epoch; /* NULL, or a word of device memory that stands for mark.value */
    gpu_mark *mark_at;     /* pinned */
    gpu_mark mark;         /* what is written there */
} gpu_wait_for;

/* Waits until *counter >= value. */
void gpu_launch_wait(gpuStream stream, const gpu_wait_for *w, const uint64_t *abandon, uint64_t *gave_up);
/* Sets it. */
void gpu_launch_signal(gpuStream stream, uint64_t *counter, uint64_t value);

/* For measuring: reads bytes (a multiple of 4096) and adds them up; multiplies and adds in registers, with
 * GPU_PEAK_THREADS threads in each of block_n blocks. `sink` takes the results,
 * a word for each block. */
enum { GPU_PEAK_THREADS = 256, GPU_PEAK_INT8 = 64, GPU_PEAK_FLOAT = 16 /* of a thread and iteration */ };
void gpu_launch_read(gpuStream stream, const uint8_t *from, uint64_t bytes, uint32_t block_n, uint32_t *sink);
void gpu_launch_peak(gpuStream stream, bool int8, uint32_t iteration_n, uint32_t block_n, uint32_t *sink);

/* ---- Operands as kernels take them ---- */

static inline uint8_t *gpu_at(device_ref r) {
    return r.buffer ? ((const gpu_buffer *)(const void *)r.buffer)->device + r.offset : NULL;
}

/* The wait of an operation for its counter. */
static inline gpu_wait_for gpu_wait_of(const gpu_call *call, const device_op *op) {
    const device_ref counter = op->counter.counter;
    const uint8_t *host = (const uint8_t *)counter.buffer->host + counter.offset;
    gpu_wait_for w = {(uint64_t *)(void *)gpu_at(counter), call->epoch, call->mark, {0, 0, 0, 0, {0}}};
    w.mark.at = (uint64_t)(uintptr_t)host;
    w.mark.op = (uint64_t)(uintptr_t)op;
    w.mark.offset = counter.offset;
    return w;
}

/* Row r at `at + r * stride`; at NULL: absent. */
typedef struct gpu_rows {
    float *at;
    uint32_t stride;
} gpu_rows;

static inline gpu_rows gpu_rows_of(device_rows rows) {
    gpu_rows r = {(float *)(void *)gpu_at(rows.ref), rows.stride};
    return r;
}

/* Weights; with units `data` is the slab's beginning and unit u stands at data + unit_offset[u]. */
typedef struct gpu_matrix {
    const uint8_t *data;
    const uint64_t *unit_offset; /* NULL: one matrix */
    uint64_t row_bytes;
    uint32_t in_n, out_n;
} gpu_matrix;

static inline gpu_matrix gpu_matrix_of(const device_matrix *m) {
    device_ref base = {m->data.buffer, m->unit_n ? 0 : m->data.offset};
    gpu_matrix g = {gpu_at(base), m->unit_n ? (const uint64_t *)(const void *)gpu_at(m->unit_offset) : NULL,
                    m->row_bytes, m->in_n, m->out_n};
    return g;
}

#ifdef __cplusplus
}

/* ---- In kernels ---- */

/* Rows that this step has for an operation. */
GPU_DEVICE uint32_t gpu_row_n(const device_step *step, bool outputs) {
    return outputs ? step->output_n : step->row_n;
}
GPU_DEVICE float *gpu_row(gpu_rows rows, uint32_t r) { return rows.at + (size_t)r * rows.stride; }
/* NULL: it is absent. */
GPU_DEVICE const uint8_t *gpu_unit(const gpu_matrix m, uint32_t unit) {
    if (!m.unit_offset) return m.data;
    const uint64_t offset = m.unit_offset[unit];
    return offset == DEVICE_ABSENT ? NULL : m.data + offset;
}
/* e^x within 2 units in the last place, the same bits on every device: 2^n times a polynomial in the rest,
 * which is at most ln(2) / 2. */
GPU_DEVICE float gpu_exp(float x) {
    const float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    if (!(x > -104.0f)) return x == x ? 0.0f : x;
    if (x > 88.8f) return INFINITY;
    const float n = rintf(x * log2_e), r = fmaf(-n, ln2_low, fmaf(-n, ln2_high, x));
    float p = 1.9875691500e-4f; /* coefficients: Moshier, Cephes expf */
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    const int half = (int)n / 2, rest = (int)n - half; /* 2^n may be no normal number, its parts are */
    return p * GPU_FLOAT_OF_BITS((uint32_t)(half + 127) << 23) *
           GPU_FLOAT_OF_BITS((uint32_t)(rest + 127) << 23);
}
/* tanh with the same bits on every device; coefficients: Moshier, Cephes tanhf. */
GPU_DEVICE float gpu_tanh(float x) {
    const float z = x * x, size = fabsf(x);
    if (size < 0.625f) {
        float p = -5.70498872745e-3f;
        p = fmaf(p, z, 2.06390887954e-2f);
        p = fmaf(p, z, -5.37397155531e-2f);
        p = fmaf(p, z, 1.33314422036e-1f);
        p = fmaf(p, z, -3.33332819422e-1f);
        return fmaf(p * z, x, x);
    }
    const float y = 1 - 2 / (gpu_exp(2 * size) + 1);
    return x < 0 ? -y : y;
}
/* Sums over the 32 lanes of a warp, in a fixed order; every lane has the result. */
GPU_DEVICE float gpu_warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += GPU_SHUFFLE_XOR(x, mask);
    return x;
}
GPU_DEVICE double gpu_warp_sum_double(double x) {
    for (int mask = 16; mask > 0; mask /= 2) x += GPU_SHUFFLE_XOR(x, mask);
    return x;
}
GPU_DEVICE float gpu_warp_max(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, GPU_SHUFFLE_XOR(x, mask));
    return x;
}
#endif

#endif
