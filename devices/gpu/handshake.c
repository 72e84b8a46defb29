/* handshake.c - how a GPU waits for the counters of others: what its streams, a kernel, or the host can do,
 * and which of these answers first on this machine. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/gpu/gpu.h"

#ifdef HOTSET_GPU_EMULATION
enum { ROUNDS = 5 };
#else
enum { ROUNDS = 25 };
#endif
enum { ASK_AT = 0, REPLY_AT = 64, BYTES = 128, LOOKS_WITHOUT_YIELD = 4096 };
#define PENDING_S 1e-4 /* by then a wait stands before its counter is set */
#define ALIKE     1.1  /* times so close to each other are the same */

static const char *const names[MODULE_WAIT_COUNT] = {
    [MODULE_WAIT_STREAM] = "stream", [MODULE_WAIT_KERNEL] = "kernel", [MODULE_WAIT_HOST] = "host"};

/* ---- Waiting ---- */

/* Marks, waits and goes on, all by the stream. */
static hotset_status wait_by_stream(device_queue *q, const gpu_wait_for *w, uint64_t value,
                                    hotset_error *err) {
    gpu_mark *m = w->mark_at;
    const gpu_word words[] = {{&m->value, value, false},           {&m->op, w->mark.op, false},
                              {&m->offset, w->mark.offset, false}, {&m->at, w->mark.at, false},
                              {w->counter, value, true},           {&m->at, 0, false}};
    const uint64_t *counter = (const uint64_t *)(uintptr_t)w->mark.at;
    if (__atomic_load_n(counter, __ATOMIC_ACQUIRE) >= value) return HOTSET_OK;
    gpuError code = gpu_stream_words(q->gpu->stream_words, q->stream, words, COUNT_OF(words));
    return code ? gpu_fail(q->gpu, code, err, "waiting by the stream") : HOTSET_OK;
}

hotset_status gpu_wait_in(device_queue *q, const gpu_wait_for *w, uint64_t value, hotset_error *err) {
    gpu_device *g = q->gpu;
    gpuError code;
    switch (g->wait) {
    case MODULE_WAIT_STREAM: return wait_by_stream(q, w, value, err);
    case MODULE_WAIT_HOST: gpu_pump_wait(g, w, value); return HOTSET_OK;
    default:
        gpu_launch_wait(q->stream, w, g->words + GPU_ABANDON, g->words + GPU_GAVE_UP);
        code = gpuGetLastError();
        return code ? gpu_fail(g, code, err, "launching a wait") : HOTSET_OK;
    }
}

/* ---- Choosing ---- */

typedef struct trial {
    device *d;
    device_queue *queue;
    device_buffer *counters;
} trial;

static uint64_t *counter_of(const trial *t, uint64_t at) {
    return (uint64_t *)(void *)((uint8_t *)t->counters->host + at);
}

/* From setting a counter that the device waits for until it has set one itself. */
static hotset_status hand_over(const trial *t, uint64_t value, double pending_s, double *seconds,
                               hotset_error *err) {
    const device_interface *api = t->d->api;
    HOTSET_TRY(api->queue_wait(t->queue, (device_ref){t->counters, ASK_AT}, value, err));
    HOTSET_TRY(api->queue_signal(t->queue, (device_ref){t->counters, REPLY_AT}, value, err));
    for (const double end_s = base_now_s() + pending_s; base_now_s() < end_s;) sched_yield();
    const double begin_s = base_now_s();
    __atomic_store_n(counter_of(t, ASK_AT), value, __ATOMIC_RELEASE);
    for (uint32_t looks = 1; __atomic_load_n(counter_of(t, REPLY_AT), __ATOMIC_ACQUIRE) < value; looks++) {
        if (looks % LOOKS_WITHOUT_YIELD) continue;
        HOTSET_TRY(gpu_begin(gpu_of(t->d), err)); /* the watch ends what lasts too long */
        sched_yield();
    }
    *seconds = base_now_s() - begin_s;
    return HOTSET_OK;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static hotset_status try_one(device *d, module_wait wait, double *seconds, hotset_error *err) {
    trial t = {.d = d};
    double samples[ROUNDS];
    gpu_of(d)->wait = wait;
    hotset_status status = d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &t.queue, err);
    if (!status) status = d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, BYTES, &t.counters, err);
    if (!status) {
        memset(t.counters->host, 0, BYTES);
        *counter_of(&t, ASK_AT) = 1; /* nothing to wait for, while kernels are loaded */
        status = hand_over(&t, 1, 0, &samples[0], err);
    }
    for (uint32_t i = 0; i < ROUNDS && !status; i++) {
        status = d->api->queue_drain(t.queue, err);
        if (!status) status = hand_over(&t, i + 2, PENDING_S, &samples[i], err);
    }
    if (!status) status = d->api->queue_drain(t.queue, err);
    d->api->queue_close(t.queue);
    d->api->buffer_free(t.counters);
    if (status) return status;
    qsort(samples, ROUNDS, sizeof *samples, by_size);
    *seconds = samples[ROUNDS / 2];
    return HOTSET_OK;
}

/* Drivers that say that they can may refuse all the same, e.g. in a sandbox. */
static bool has_stream_words(gpu_device *g) {
    uint64_t *word = g->words + GPU_NOTHING;
    const gpu_word words[] = {{word, 5, false}, {word, 5, true}, {word, 6, false}};
    gpuStream stream;
    if (!gpu_stream_words_find(g->number, &g->stream_words)) return false;
    if (gpuSetDevice(g->number) || gpuStreamCreate(&stream)) {
        (void)gpuGetLastError();
        return false;
    }
    gpuError code = gpu_stream_words(g->stream_words, stream, words, COUNT_OF(words));
    if (!code) code = gpuStreamSynchronize(stream);
    (void)gpuGetLastError();
    (void)gpuStreamDestroy(stream);
    return !code && __atomic_load_n(word, __ATOMIC_ACQUIRE) == 6;
}

hotset_status gpu_choose_wait(device *d, module_wait asked, hotset_error *err) {
    gpu_device *g = gpu_of(d);
    const bool has_words = has_stream_words(g);
    module_wait best = MODULE_WAIT_BEST;
    double seconds[MODULE_WAIT_COUNT] = {0};
    size_t n = 0;
    if (asked == MODULE_WAIT_STREAM && !has_words)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s: its streams cannot wait for counters", d->name);
    /* the one that takes least of device and host first */
    for (int i = MODULE_WAIT_STREAM; i < MODULE_WAIT_COUNT; i++) {
        const module_wait wait = (module_wait)i;
        hotset_error why = {0};
        if ((asked && asked != wait) || (wait == MODULE_WAIT_STREAM && !has_words)) continue;
        hotset_status status = try_one(d, wait, &seconds[i], &why);
        if (status) return hotset_fail(err, status, "%s (with wait=%s)", why.message, names[i]);
        if (!best || seconds[i] * ALIKE < seconds[best]) best = wait;
    }
    g->wait = best;
    n = strlen(d->note);
    n += (size_t)snprintf(d->note + n, sizeof d->note - n, "%swaits by %s (", n ? ", " : "", names[best]);
    for (int i = MODULE_WAIT_STREAM; i < MODULE_WAIT_COUNT && n < sizeof d->note; i++)
        if (seconds[i] > 0)
            n +=
                (size_t)snprintf(d->note + n, sizeof d->note - n, "%s %.1f us, ", names[i], seconds[i] * 1e6);
    if (n < sizeof d->note) snprintf(d->note + n - 2, sizeof d->note - n + 2, ")");
    return HOTSET_OK;
}
