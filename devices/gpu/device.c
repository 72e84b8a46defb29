/* device.c - a GPU as a device: memory, queues, copies, counters. Everything that can fail in the vendor's
 * runtime comes through gpu_fail, after which the device is dead but for freeing and closing. */
#include "devices/device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/gpu/gpu.h"

/* ---- Errors ---- */

hotset_status gpu_begin(gpu_device *g, hotset_error *err) {
    gpuError code = gpuSetDevice(g->number);
    pthread_mutex_lock(&g->lock);
    hotset_status status = g->failure.status;
    if (status) hotset_fail(err, status, "%s", g->failure.message);
    pthread_mutex_unlock(&g->lock);
    if (!status && code) return gpu_fail(g, code, err, "choosing the device");
    return status;
}

void gpu_remember(gpu_device *g, const hotset_error *failure) {
    pthread_mutex_lock(&g->lock);
    if (!g->failure.status) g->failure = *failure;
    gpu_abandon(g); /* what waits for somebody need not any more */
    pthread_mutex_unlock(&g->lock);
}

hotset_status gpu_fail(gpu_device *g, gpuError code, hotset_error *err, const char *what, ...) {
    char doing[128];
    hotset_error failure;
    va_list args;
    va_start(args, what);
    vsnprintf(doing, sizeof doing, what, args);
    va_end(args);
    hotset_fail(&failure, HOTSET_E_DEVICE, "%s: %s failed: %s", g->base.name, doing, gpuGetErrorString(code));
    (void)gpuGetLastError(); /* cleared: it would be taken for that of the next launch */
    gpu_remember(g, &failure);
    return hotset_fail(err, HOTSET_E_DEVICE, "%s", failure.message);
}

/* ---- Memory ---- */

static hotset_status gpu_memory(device *d, uint64_t *capacity_bytes, uint64_t *free_bytes,
                                hotset_error *err) {
    gpu_device *g = gpu_of(d);
    size_t vendor_free = 0, vendor_total = 0;
    HOTSET_TRY(gpu_begin(g, err));
    gpuError code = gpuMemGetInfo(&vendor_free, &vendor_total);
    if (code) return gpu_fail(g, code, err, "asking for free memory");
    pthread_mutex_lock(&g->lock);
    *capacity_bytes = min_u64(g->capacity_bytes, vendor_total);
    *free_bytes = min_u64(*capacity_bytes - min_u64(*capacity_bytes, g->used_bytes), vendor_free);
    pthread_mutex_unlock(&g->lock);
    return HOTSET_OK;
}

/* Takes bytes off the device's limit; false: they are not there. */
static bool reserve(gpu_device *g, uint64_t bytes) {
    pthread_mutex_lock(&g->lock);
    bool fits = bytes <= g->capacity_bytes - g->used_bytes;
    if (fits) g->used_bytes += bytes;
    pthread_mutex_unlock(&g->lock);
    return fits;
}

static void unreserve(gpu_device *g, uint64_t bytes) {
    pthread_mutex_lock(&g->lock);
    g->used_bytes -= bytes;
    pthread_mutex_unlock(&g->lock);
}

static hotset_status no_fit(device *d, uint64_t bytes, hotset_error *err) {
    uint64_t capacity_bytes = 0, free_bytes = 0;
    HOTSET_TRY(gpu_memory(d, &capacity_bytes, &free_bytes, err));
    return hotset_fail(err, HOTSET_E_NOFIT, "%s: a buffer of %llu bytes does not fit: %llu are free", d->name,
                       (unsigned long long)bytes, (unsigned long long)free_bytes);
}

static hotset_status alloc_device(gpu_device *g, gpu_buffer *b, hotset_error *err) {
    if (!reserve(g, b->base.bytes)) return no_fit(&g->base, b->base.bytes, err);
    gpuError code = gpuMalloc((void **)&b->device, b->base.bytes);
    if (!code) return HOTSET_OK;
    unreserve(g, b->base.bytes);
    if (code != gpuErrorOutOfMemory)
        return gpu_fail(g, code, err, "allocating %llu bytes", (unsigned long long)b->base.bytes);
    (void)gpuGetLastError();
    return no_fit(&g->base, b->base.bytes, err);
}

static hotset_status alloc_pinned(gpu_device *g, gpu_buffer *b, hotset_error *err) {
    gpuError code = gpuHostAlloc(&b->base.host, b->base.bytes);
    if (code == gpuErrorOutOfMemory) {
        (void)gpuGetLastError();
        return hotset_fail(err, HOTSET_E_MEMORY, "%s: out of pinned memory for a buffer of %llu bytes",
                           g->base.name, (unsigned long long)b->base.bytes);
    }
    if (!code) code = gpuHostGetDevicePointer((void **)&b->device, b->base.host, 0);
    if (!code) return HOTSET_OK;
    if (b->base.host) (void)gpuHostFree(b->base.host);
    return gpu_fail(g, code, err, "allocating %llu bytes of pinned memory",
                    (unsigned long long)b->base.bytes);
}

static hotset_status gpu_buffer_alloc(device *d, device_memory memory, uint64_t bytes, device_buffer **out,
                                      hotset_error *err) {
    *out = NULL;
    gpu_device *g = gpu_of(d);
    gpu_buffer *b;
    HOTSET_TRY(gpu_begin(g, err));
    HOTSET_TRY(base_calloc(&b, 1, sizeof *b, "a buffer", err));
    b->base = (device_buffer){d, memory, bytes, NULL};
    hotset_status status = memory == DEVICE_MEMORY_DEVICE ? alloc_device(g, b, err) : alloc_pinned(g, b, err);
    if (status)
        free(b);
    else
        *out = &b->base;
    return status;
}

/* Not registered with the driver, which many systems refuse or do badly for files: copies may read it,
 * kernels may not. */
static hotset_status gpu_buffer_wrap(device *d, const void *host, uint64_t bytes, device_buffer **out,
                                     hotset_error *err) {
    *out = NULL;
    gpu_buffer *b;
    HOTSET_TRY(base_calloc(&b, 1, sizeof *b, "a buffer", err));
    b->base = (device_buffer){d, DEVICE_MEMORY_MAPPED, bytes, (void *)(uintptr_t)host};
    *out = &b->base;
    return HOTSET_OK;
}

/* Another device of the vendor may have registered it: once is enough for all of them. */
static hotset_status gpu_buffer_pin(device *d, void *host, uint64_t bytes, device_buffer **out,
                                    hotset_error *err) {
    *out = NULL;
    gpu_device *g = gpu_of(d);
    gpu_buffer *b;
    HOTSET_TRY(gpu_begin(g, err));
    HOTSET_TRY(base_calloc(&b, 1, sizeof *b, "a buffer", err));
    *b = (gpu_buffer){.base = {d, DEVICE_MEMORY_PINNED, bytes, host}, .is_others = true};
    gpuError code = gpuHostRegister(host, bytes);
    b->is_registered = code == gpuSuccess;
    if (code == gpuErrorHostMemoryAlreadyRegistered) {
        (void)gpuGetLastError();
        code = gpuSuccess;
    }
    if (!code) code = gpuHostGetDevicePointer((void **)&b->device, host, 0);
    if (!code) {
        *out = &b->base;
        return HOTSET_OK;
    }
    if (b->is_registered) (void)gpuHostUnregister(host);
    free(b);
    return gpu_fail(g, code, err, "pinning %llu bytes of the host's memory", (unsigned long long)bytes);
}

static void gpu_buffer_free(device_buffer *base) {
    if (!base) return;
    gpu_buffer *b = (gpu_buffer *)(void *)base;
    gpu_device *g = gpu_of(base->owner);
    (void)gpuSetDevice(g->number);
    if (base->memory == DEVICE_MEMORY_PINNED && !b->is_others) (void)gpuHostFree(base->host);
    if (b->is_registered) (void)gpuHostUnregister(base->host);
    if (base->memory == DEVICE_MEMORY_DEVICE) {
        (void)gpuFree(b->device);
        unreserve(g, base->bytes);
    }
    free(b);
}

/* ---- Queues ---- */

/* A kernel that has given up waiting is a failure of the device: what came behind it had no business to run.
 */
static hotset_status check_waits(gpu_device *g, hotset_error *err) {
    uint64_t why = __atomic_load_n(g->words + GPU_GAVE_UP, __ATOMIC_ACQUIRE);
    if (!why) return HOTSET_OK;
    hotset_error failure;
    hotset_fail(&failure, HOTSET_E_DEVICE, "%s: %s", g->base.name,
                why == GPU_GAVE_UP_LATE ? "waited too long for a counter"
                                        : "a queue was closed while it waited");
    gpu_remember(g, &failure);
    return gpu_begin(g, err);
}

/* What stands in the queue still runs, but waits for nobody. */
static void gpu_queue_close(device_queue *q) {
    if (!q) return;
    gpu_device *g = q->gpu;
    (void)gpuSetDevice(g->number);
    if (q->stream) {
        if ((q->pump && !gpu_pump_idle(q->pump)) || GPU(StreamQuery)(q->stream) != gpuSuccess) gpu_abandon(g);
        gpu_pump_close(q->pump);
        (void)gpuStreamSynchronize(q->stream);
        (void)gpuGetLastError();
        (void)check_waits(g, NULL);
        pthread_mutex_lock(&g->lock);
        if (!g->failure.status) __atomic_store_n(g->words + GPU_ABANDON, 0, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&g->lock);
        (void)gpuStreamDestroy(q->stream);
    }
    gpu_mark_give(g, q->mark);
    gpu_trace_free(q);
    free(q);
}

static hotset_status gpu_queue_open(device *d, device_queue_kind kind, device_queue **out,
                                    hotset_error *err) {
    (void)kind; /* streams are alike: what differs is that a copy stands in no operation's way */
    *out = NULL;
    gpu_device *g = gpu_of(d);
    device_queue *q;
    HOTSET_TRY(gpu_begin(g, err));
    HOTSET_TRY(base_calloc(&q, 1, sizeof *q, "a queue", err));
    q->gpu = g;
    gpuError code = gpuStreamCreate(&q->stream);
    hotset_status status = HOTSET_OK;
    if (code) {
        q->stream = NULL;
        status = gpu_fail(g, code, err, "opening a queue");
    }
    if (!status) status = gpu_mark_take(g, &q->mark, err);
    if (!status && g->wait == MODULE_WAIT_HOST) status = gpu_pump_open(q, err);
    if (status)
        gpu_queue_close(q);
    else
        *out = q;
    return status;
}

static hotset_status gpu_queue_drain(device_queue *q, hotset_error *err) {
    gpu_device *g = q->gpu;
    if (q->pump) gpu_pump_drain(q->pump);
    hotset_status before = gpu_begin(g, err);
    gpuError code = gpuStreamSynchronize(q->stream);
    if (before) return before;
    if (code) return gpu_fail(g, code, err, "work that was submitted");
    HOTSET_TRY(check_waits(g, err));
    return q->span_n ? gpu_trace_flush(q, err) : HOTSET_OK;
}

/* To the stream, or to the thread that feeds it. */
static hotset_status give(device_queue *q, const gpu_command *c, hotset_error *err) {
    HOTSET_TRY(gpu_begin(q->gpu, err));
    if (!q->pump) return gpu_do(q, c, err);
    gpu_pump_put(q->pump, c);
    return HOTSET_OK;
}

/* After a failure too: others wait for the signals of what was taken before. */
hotset_status gpu_do(device_queue *q, const gpu_command *c, hotset_error *err) {
    gpuError code = gpuSetDevice(q->gpu->number);
    if (code) return gpu_fail(q->gpu, code, err, "choosing the device");
    switch (c->kind) {
    case GPU_LIST: return gpu_list_run(q, c->list, c->value, err);
    case GPU_WAIT: return gpu_wait_in(q, &c->wait, c->value, err);
    case GPU_COPY:
        code = gpuMemcpyAsync(c->to, c->from, c->bytes, q->stream);
        if (!code) return HOTSET_OK;
        return gpu_fail(q->gpu, code, err, "copying %llu bytes", (unsigned long long)c->bytes);
    case GPU_SIGNAL:
        gpu_launch_signal(q->stream, c->counter, c->value);
        code = gpuGetLastError();
        return code ? gpu_fail(q->gpu, code, err, "launching a signal") : HOTSET_OK;
    }
    return HOTSET_OK;
}

static hotset_status gpu_submit(device_queue *q, device_list *l, uint64_t epoch, hotset_error *err) {
    const gpu_command c = {.kind = GPU_LIST, .list = l, .value = epoch};
    return give(q, &c, err);
}

/* Where copies find memory: the device's own, or the host's, whoever has it. */
static hotset_status address_of(const gpu_device *g, device_ref ref, uint64_t bytes, uint8_t **out,
                                hotset_error *err) {
    const device_buffer *b = ref.buffer;
    bool own = b->owner->api == g->base.api;
    *out = own ? ((const gpu_buffer *)(const void *)b)->device : NULL;
    if (!*out) *out = b->host;
    if (!*out)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s: cannot reach memory of %s", g->base.name,
                           b->owner->name);
    if (ref.offset > b->bytes || bytes > b->bytes - ref.offset)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%s: a copy of %llu bytes at %llu of %llu", g->base.name,
                           (unsigned long long)bytes, (unsigned long long)ref.offset,
                           (unsigned long long)b->bytes);
    *out += ref.offset;
    return HOTSET_OK;
}

static hotset_status gpu_copy_async(device_queue *q, device_ref to, device_ref from, uint64_t bytes,
                                    hotset_error *err) {
    uint8_t *to_at, *from_at;
    HOTSET_TRY(gpu_begin(q->gpu, err));
    HOTSET_TRY(address_of(q->gpu, to, bytes, &to_at, err));
    HOTSET_TRY(address_of(q->gpu, from, bytes, &from_at, err));
    if (!bytes) return HOTSET_OK;
    const gpu_command c = {.kind = GPU_COPY, .to = to_at, .from = from_at, .bytes = bytes};
    return give(q, &c, err);
}

/* The host moves the bytes, by way of memory of its own; models are loaded once. */
static hotset_status gpu_copy_reordered(device_queue *q, device_ref to, device_ref from,
                                        const device_matrix *shape, hotset_error *err) {
    const uint64_t bytes = shape->row_bytes * shape->out_n;
    HOTSET_TRY(gpu_begin(q->gpu, err));
    uint8_t *stored = malloc(bytes), *rows = from.buffer->host ? NULL : malloc(bytes);
    hotset_status status = HOTSET_OK;
    device_buffer stored_buffer = {&q->gpu->base, DEVICE_MEMORY_MAPPED, bytes, stored};
    device_buffer rows_buffer = {&q->gpu->base, DEVICE_MEMORY_MAPPED, bytes, rows};
    gpu_buffer staged[] = {{.base = stored_buffer}, {.base = rows_buffer}};
    if (!stored || (!rows && !from.buffer->host))
        status = hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a matrix of %llu bytes",
                             (unsigned long long)bytes);
    if (!status && rows) {
        status = gpu_copy_async(q, (device_ref){&staged[1].base, 0}, from, bytes, err);
        if (!status) status = gpu_queue_drain(q, err);
    }
    if (!status) {
        const uint8_t *source = rows ? rows : (const uint8_t *)from.buffer->host + from.offset;
        neurons_store(stored, source, shape->row_bytes, shape->type, shape->in_n, shape->out_n, 0,
                      shape->out_n);
        status = gpu_copy_async(q, to, (device_ref){&staged[0].base, 0}, bytes, err);
    }
    if (!status) status = gpu_queue_drain(q, err);
    free(stored);
    free(rows);
    return status;
}

/* Memory that another kind of device has pinned is out of the reach of kernels. */
static hotset_status counter_at(const gpu_device *g, device_ref counter, uint64_t **out, hotset_error *err) {
    const device_buffer *b = counter.buffer;
    const bool pinned = b->owner->api == g->base.api && b->memory == DEVICE_MEMORY_PINNED;
    if (!pinned || counter.offset % sizeof **out || counter.offset + sizeof **out > b->bytes)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%s: a counter has to stand in its pinned memory, aligned",
                           g->base.name);
    *out = (uint64_t *)(void *)gpu_at(counter);
    return HOTSET_OK;
}

static hotset_status gpu_queue_wait(device_queue *q, device_ref counter, uint64_t value, hotset_error *err) {
    gpu_command c = {.kind = GPU_WAIT, .value = value};
    HOTSET_TRY(gpu_begin(q->gpu, err));
    HOTSET_TRY(counter_at(q->gpu, counter, &c.wait.counter, err));
    c.wait.mark_at = q->mark;
    c.wait.mark.at = (uint64_t)(uintptr_t)((uint8_t *)counter.buffer->host + counter.offset);
    c.wait.mark.value = value;
    c.wait.mark.offset = counter.offset;
    return give(q, &c, err);
}

static hotset_status gpu_queue_signal(device_queue *q, device_ref counter, uint64_t value,
                                      hotset_error *err) {
    gpu_command c = {.kind = GPU_SIGNAL, .value = value};
    HOTSET_TRY(gpu_begin(q->gpu, err));
    HOTSET_TRY(counter_at(q->gpu, counter, &c.counter, err));
    return give(q, &c, err);
}

static void gpu_set_trace(device *d, device_trace_fn *trace, void *cookie) {
    gpu_of(d)->trace = trace;
    gpu_of(d)->trace_cookie = cookie;
}

/* ---- Open and close ---- */

static void gpu_close(device *d) {
    if (!d) return;
    gpu_device *g = gpu_of(d);
    (void)gpuSetDevice(g->number);
    if (g->captures) (void)gpuStreamDestroy(g->capture);
    gpu_watch_close(g);
    if (g->words) (void)gpuHostFree(g->words);
    pthread_mutex_destroy(&g->lock);
    gpu_release(g->number);
    free(g);
}

static const device_interface gpu_interface = {
    .close = gpu_close,
    .memory = gpu_memory,
    .buffer_alloc = gpu_buffer_alloc,
    .buffer_wrap = gpu_buffer_wrap,
    .buffer_pin = gpu_buffer_pin,
    .buffer_free = gpu_buffer_free,
    .queue_open = gpu_queue_open,
    .queue_close = gpu_queue_close,
    .copy_async = gpu_copy_async,
    .copy_reordered = gpu_copy_reordered,
    .workspace_bytes = gpu_workspace_bytes,
    .list_record = gpu_list_record,
    .list_free = gpu_list_free,
    .submit = gpu_submit,
    .queue_wait = gpu_queue_wait,
    .queue_signal = gpu_queue_signal,
    .queue_drain = gpu_queue_drain,
    .measure = gpu_measure,
    .set_trace = gpu_set_trace,
};

hotset_status gpu_open(device **out, int number, const char *name, uint32_t multiprocessor_n,
                       uint64_t capacity_bytes, double wait_limit_s, bool captures, hotset_error *err) {
    *out = NULL;
    gpu_device *g;
    hotset_status status = base_calloc(&g, 1, sizeof *g, "a GPU", err);
    if (status) {
        gpu_release(number);
        return status;
    }
    g->base = (device){.api = &gpu_interface, .alignment = GPU_ALIGN};
    snprintf(g->base.name, sizeof g->base.name, "%s", name);
    g->number = number;
    g->multiprocessor_n = multiprocessor_n;
    g->capacity_bytes = capacity_bytes;
    g->wait = MODULE_WAIT_KERNEL; /* which all have */
    g->wait_limit_s = wait_limit_s;
    pthread_mutex_init(&g->lock, NULL);
    status = gpu_begin(g, err);
    if (!status) {
        gpuError code = gpuHostAlloc(&g->words, GPU_WORDS * sizeof *g->words);
        if (code) {
            g->words = NULL;
            status = gpu_fail(g, code, err, "allocating pinned memory");
        } else {
            memset(g->words, 0, GPU_WORDS * sizeof *g->words);
        }
    }
    if (!status) status = gpu_watch_open(g, err);
    if (!status && captures) {
        gpuError code = gpuStreamCreate(&g->capture);
        g->captures = !code;
        if (code) status = gpu_fail(g, code, err, "opening a queue");
    }
    if (status)
        gpu_close(&g->base);
    else
        *out = &g->base;
    return status;
}
