/* limits.c - what a GPU reaches at best: reading its memory, multiplying in registers. */
#include "devices/gpu/gpu.h"

enum {
    READ_BYTES_MAX = 256 << 20,
    READ_BYTES_MIN = 1 << 20,
    BLOCKS_PER_MULTIPROCESSOR = 8,
    ITERATIONS_MIN = 16,
    ITERATIONS_MAX = 1 << 22
};

typedef struct limiting {
    device_queue *queue;
    uint8_t *from; /* device addresses */
    uint64_t bytes;
    uint32_t *sink;
    uint32_t block_n;
} limiting;

typedef enum what { READ, INT8, FLOATS } what;

/* Seconds of one kernel. */
static hotset_status time_one(const limiting *l, what w, uint32_t iteration_n, double *seconds,
                              hotset_error *err) {
    const double begin_s = base_now_s();
    if (w == READ)
        gpu_launch_read(l->queue->stream, l->from, l->bytes, l->block_n, l->sink);
    else
        gpu_launch_peak(l->queue->stream, w == INT8, iteration_n, l->block_n, l->sink);
    gpuError code = gpuGetLastError();
    if (code) return gpu_fail(l->queue->gpu, code, err, "launching a measurement");
    HOTSET_TRY(l->queue->gpu->base.api->queue_drain(l->queue, err));
    *seconds = base_now_s() - begin_s;
    return HOTSET_OK;
}

/* The best of what fits into the time; work grows until it takes a fair part of it. */
static hotset_status best_rate(const limiting *l, what w, double all_s, double *out, hotset_error *err) {
    const double per_iteration =
        (double)l->block_n * GPU_PEAK_THREADS * (w == INT8 ? GPU_PEAK_INT8 : GPU_PEAK_FLOAT);
    const double end_s = base_now_s() + all_s;
    uint32_t iteration_n = ITERATIONS_MIN;
    *out = 0;
    do {
        double seconds;
        HOTSET_TRY(time_one(l, w, iteration_n, &seconds, err));
        const double amount = w == READ ? (double)l->bytes : per_iteration * iteration_n;
        if (amount / seconds > *out) *out = amount / seconds;
        if (seconds < all_s / 8 && iteration_n < ITERATIONS_MAX) iteration_n *= 2;
    } while (base_now_s() < end_s);
    return HOTSET_OK;
}

static hotset_status measure_all(const limiting *l, double seconds, hotset_limits *out, hotset_error *err) {
    double nothing;
    HOTSET_TRY(time_one(l, READ, 0, &nothing, err)); /* kernels are loaded with their first launch */
    HOTSET_TRY(best_rate(l, READ, seconds / 3, &out->read_anonymous_bytes_per_s, err));
    HOTSET_TRY(best_rate(l, INT8, seconds / 3, &out->int8_op_per_s, err));
    return best_rate(l, FLOATS, seconds / 3, &out->float_flop_per_s, err);
}

hotset_status gpu_measure(device *d, const device_ref *mapped, uint64_t mapped_bytes, double seconds,
                          hotset_limits *out, hotset_error *err) {
    (void)mapped; /* files are out of a GPU's reach */
    (void)mapped_bytes;
    *out = (hotset_limits){0};
    gpu_device *g = gpu_of(d);
    device_buffer *memory = NULL;
    limiting l = {.block_n = g->multiprocessor_n * BLOCKS_PER_MULTIPROCESSOR};
    uint64_t capacity_bytes, free_bytes;
    HOTSET_TRY(d->api->memory(d, &capacity_bytes, &free_bytes, err));
    const uint64_t sink_bytes = round_up(l.block_n * sizeof *l.sink, 4096);
    l.bytes = min_u64(READ_BYTES_MAX, free_bytes / 2 / 4096 * 4096);
    if (l.bytes < READ_BYTES_MIN)
        return hotset_fail(err, HOTSET_E_NOFIT, "%s: measuring needs %d bytes, %llu are free", d->name,
                           2 * READ_BYTES_MIN, (unsigned long long)free_bytes);
    HOTSET_TRY(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, l.bytes + sink_bytes, &memory, err));
    l.from = gpu_at((device_ref){memory, 0});
    l.sink = (uint32_t *)(void *)gpu_at((device_ref){memory, l.bytes});
    hotset_status status = d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &l.queue, err);
    if (!status) status = measure_all(&l, seconds, out, err);
    if (l.queue) d->api->queue_close(l.queue);
    d->api->buffer_free(memory);
    return status;
}
