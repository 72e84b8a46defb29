/* measure_link.c - copies and counters between the host's memory and a device, alone and while the CPU works.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "devices/measure.h"
#include "devices/measure_work.h"

enum {
    ROUNDS = 5,
    ROUNDS_THOROUGH = 15,
    COPY_BYTES = 4 << 20,
    COPIES_MAX = 64, /* of one sample */
    ROOM_BYTES = COPY_BYTES * 8,
    LATENCY_COPIES = 16,
    STREAM_SLAB_BYTES = 256 << 20,
    STREAM_WIDTH = 4096
};
#define SAMPLE_S  0.005  /* copies of one sample take about this */
#define TURN_S    0.05   /* of copying while the CPU works */
#define PENDING_S 0.0005 /* by then a wait stands before its signal is given */
#define ANSWER_S  1.0    /* more than any handover */

typedef struct linking {
    device *host, *d;
    device_queue *copies, *compute;
    device_buffer *near, *far; /* pinned memory, the device's memory */
    device_buffer *counters;   /* pinned: ask at 0, reply at 64 */
    uint8_t *pageable;
    device_buffer *wrapped; /* NULL: the device cannot reach it */
    workbench stream;       /* of the host */
    const measure_options *options;
    size_t done_n, all_n;
    uint32_t round_n;
} linking;

static hotset_status linking_open(linking *l, hotset_error *err) {
    const device_interface *api = l->d->api;
    HOTSET_TRY(api->queue_open(l->d, DEVICE_QUEUE_COPY, &l->copies, err));
    HOTSET_TRY(api->queue_open(l->d, DEVICE_QUEUE_COMPUTE, &l->compute, err));
    HOTSET_TRY(api->buffer_alloc(l->d, DEVICE_MEMORY_PINNED, ROOM_BYTES, &l->near, err));
    HOTSET_TRY(api->buffer_alloc(l->d, DEVICE_MEMORY_DEVICE, ROOM_BYTES, &l->far, err));
    HOTSET_TRY(api->buffer_alloc(l->d, DEVICE_MEMORY_PINNED, 4096, &l->counters, err));
    memset(l->near->host, 1, ROOM_BYTES);
    memset(l->counters->host, 0, 4096);
    HOTSET_TRY(base_calloc(&l->pageable, ROOM_BYTES, 1, "memory to copy from", err));
    memset(l->pageable, 1, ROOM_BYTES);
    hotset_status status = api->buffer_wrap(l->d, l->pageable, ROOM_BYTES, &l->wrapped, err);
    if (status && status != HOTSET_E_UNSUPPORTED) return status;
    return workbench_open(&l->stream, l->host, STREAM_SLAB_BYTES, NULL, err);
}

static void linking_close(linking *l) {
    device_buffer *const buffers[] = {l->near, l->far, l->counters, l->wrapped};
    workbench_close(&l->stream);
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i]) l->d->api->buffer_free(buffers[i]);
    if (l->copies) l->d->api->queue_close(l->copies);
    if (l->compute) l->d->api->queue_close(l->compute);
    free(l->pageable);
}

static hotset_status step_on(linking *l, hotset_error *err) {
    const measure_options *o = l->options;
    l->done_n++;
    if (!o->progress || !o->progress(o->cookie, l->done_n, l->all_n)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_CANCELLED, "cancelled while measuring");
}

/* ---- Copies ---- */

/* n copies, each of another part of the buffers. */
static hotset_status time_copies(linking *l, device_buffer *to, device_buffer *from, uint64_t bytes,
                                 uint32_t n, double *seconds, hotset_error *err) {
    double begin_s = base_now_s();
    for (uint32_t i = 0; i < n; i++) {
        uint64_t at = (uint64_t)i * COPY_BYTES % ROOM_BYTES;
        HOTSET_TRY(
            l->d->api->copy_async(l->copies, (device_ref){to, at}, (device_ref){from, at}, bytes, err));
    }
    HOTSET_TRY(l->d->api->queue_drain(l->copies, err));
    *seconds = base_now_s() - begin_s;
    return HOTSET_OK;
}

static hotset_status measure_copies(linking *l, device_buffer *to, device_buffer *from, machine_rate *out,
                                    hotset_error *err) {
    double samples[ROUNDS_THOROUGH], seconds;
    HOTSET_TRY(time_copies(l, to, from, COPY_BYTES, 2, &seconds, err));
    HOTSET_TRY(time_copies(l, to, from, COPY_BYTES, 2, &seconds, err));
    double n = 2 * SAMPLE_S / seconds;
    uint32_t copy_n = n < 1 ? 1 : n > COPIES_MAX ? COPIES_MAX : (uint32_t)n;
    for (uint32_t i = 0; i < l->round_n; i++) {
        HOTSET_TRY(time_copies(l, to, from, COPY_BYTES, copy_n, &seconds, err));
        samples[i] = (double)copy_n * COPY_BYTES / seconds;
        HOTSET_TRY(step_on(l, err));
    }
    *out = machine_rate_of(samples, l->round_n);
    return HOTSET_OK;
}

/* Each copy known to be done before the next one. */
static hotset_status measure_latency(linking *l, device_buffer *to, device_buffer *from, machine_rate *out,
                                     hotset_error *err) {
    double samples[ROUNDS_THOROUGH], seconds;
    for (uint32_t i = 0; i < l->round_n; i++) {
        double begin_s = base_now_s();
        for (int c = 0; c < LATENCY_COPIES; c++) HOTSET_TRY(time_copies(l, to, from, 4, 1, &seconds, err));
        samples[i] = (base_now_s() - begin_s) / LATENCY_COPIES;
        HOTSET_TRY(step_on(l, err));
    }
    *out = machine_rate_of(samples, l->round_n);
    return HOTSET_OK;
}

/* ---- Handing over ---- */

static _Atomic uint64_t *counter(linking *l, uint64_t at) {
    return (_Atomic uint64_t *)(void *)((uint8_t *)l->counters->host + at);
}

enum { ASK = 0, REPLY = 64 };

/* The device's side, on a thread of its own: devices whose waits block the caller work too. */
typedef struct answering {
    linking *l;
    uint64_t value;
    _Atomic bool failed;
    hotset_status status;
    hotset_error err;
} answering;

static void *answer(void *cookie) {
    answering *a = cookie;
    const device_interface *api = a->l->d->api;
    device_queue *q = a->l->compute;
    a->status = api->queue_wait(q, (device_ref){a->l->counters, ASK}, a->value, &a->err);
    if (!a->status) a->status = api->queue_signal(q, (device_ref){a->l->counters, REPLY}, a->value, &a->err);
    if (!a->status) a->status = api->queue_drain(q, &a->err);
    if (a->status) atomic_store(&a->failed, true);
    return NULL;
}

static void spin(double seconds) {
    for (double end_s = base_now_s() + seconds; base_now_s() < end_s;) continue;
}

/* Half of the way there and back. */
static hotset_status hand_over(linking *l, uint64_t value, double *seconds, hotset_error *err) {
    answering a = {.l = l, .value = value};
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer, &a))
        return hotset_fail(err, HOTSET_E_MEMORY, "cannot start a thread");
    spin(PENDING_S);
    double begin_s = base_now_s(), now_s = begin_s;
    atomic_store_explicit(counter(l, ASK), value, memory_order_release);
    while (atomic_load_explicit(counter(l, REPLY), memory_order_acquire) < value &&
           !atomic_load_explicit(&a.failed, memory_order_relaxed) && now_s - begin_s < ANSWER_S)
        now_s = base_now_s();
    *seconds = (base_now_s() - begin_s) / 2;
    pthread_join(thread, NULL);
    if (a.status) return hotset_fail(err, a.status, "%s", a.err.message);
    return HOTSET_OK;
}

static hotset_status measure_handover(linking *l, machine_rate *out, hotset_error *err) {
    double samples[ROUNDS_THOROUGH];
    for (uint32_t i = 0; i < l->round_n; i++) {
        HOTSET_TRY(hand_over(l, i + 1, &samples[i], err));
        HOTSET_TRY(step_on(l, err));
    }
    *out = machine_rate_of(samples, l->round_n);
    return HOTSET_OK;
}

/* ---- Copies while the CPU works ---- */

typedef struct streaming {
    workbench *bench;
    _Atomic bool stop;
    double bytes, seconds;
    hotset_status status;
    hotset_error err;
} streaming;

static void *stream(void *cookie) {
    static const work dense = {
        .kind = WORK_WEIGHTS, .type = GGUF_Q4_0, .access = MACHINE_DENSE, .width = STREAM_WIDTH, .share = 1};
    streaming *s = cookie;
    uint32_t units = work_units_max(s->bench, &dense) / 4;
    units -= units % work_units_min(&dense);
    do {
        double seconds, amount;
        s->status = work_time(s->bench, &dense, units, &seconds, &amount, &s->err);
        s->bytes += amount;
        s->seconds += seconds;
    } while (!s->status && !atomic_load_explicit(&s->stop, memory_order_relaxed));
    return NULL;
}

/* Copies for a turn, or with `to` NULL lets the time pass. */
static hotset_status copy_turn(linking *l, device_buffer *to, device_buffer *from, double *copy_rate,
                               hotset_error *err) {
    double seconds, bytes = 0, begin_s = base_now_s();
    if (!to) spin(TURN_S);
    while (to && base_now_s() - begin_s < TURN_S) {
        HOTSET_TRY(time_copies(l, to, from, COPY_BYTES, 2, &seconds, err));
        bytes += 2.0 * COPY_BYTES;
    }
    *copy_rate = bytes / (base_now_s() - begin_s);
    return HOTSET_OK;
}

/* The same while the CPU streams weights. */
static hotset_status stream_turn(linking *l, device_buffer *to, device_buffer *from, double *copy_rate,
                                 double *stream_rate, hotset_error *err) {
    streaming s = {.bench = &l->stream};
    pthread_t thread;
    if (pthread_create(&thread, NULL, stream, &s))
        return hotset_fail(err, HOTSET_E_MEMORY, "cannot start a thread");
    hotset_status status = copy_turn(l, to, from, copy_rate, err);
    atomic_store_explicit(&s.stop, true, memory_order_relaxed);
    pthread_join(thread, NULL);
    if (!status && s.status) status = hotset_fail(err, s.status, "%s", s.err.message);
    *stream_rate = s.bytes / s.seconds;
    return status;
}

/* At most 1: more is noise. */
static machine_rate factor_of(double *samples, uint32_t n) {
    machine_rate r = machine_rate_of(samples, n);
    if (r.median > 1) r.median = 1;
    return r;
}

/* Either rate with the other at work, against it alone in the turns beside. */
static hotset_status measure_factors(linking *l, device_buffer *to, device_buffer *from, machine_link *out,
                                     hotset_error *err) {
    double copies[ROUNDS_THOROUGH], streams[ROUNDS_THOROUGH], copy_alone, stream_alone, both, none;
    for (uint32_t i = 0; i < l->round_n; i++) {
        HOTSET_TRY(copy_turn(l, to, from, &copy_alone, err));
        HOTSET_TRY(stream_turn(l, NULL, NULL, &none, &stream_alone, err));
        HOTSET_TRY(stream_turn(l, to, from, &both, &streams[i], err));
        copies[i] = both / copy_alone;
        streams[i] /= stream_alone;
        HOTSET_TRY(step_on(l, err));
    }
    out->copy_factor = factor_of(copies, l->round_n);
    out->stream_factor = factor_of(streams, l->round_n);
    return HOTSET_OK;
}

static hotset_status measure_both(linking *l, machine_link out[2], hotset_error *err) {
    HOTSET_TRY(measure_copies(l, l->far, l->near, &out[0].pinned_bytes_per_s, err));
    HOTSET_TRY(measure_copies(l, l->near, l->far, &out[1].pinned_bytes_per_s, err));
    if (l->wrapped) HOTSET_TRY(measure_copies(l, l->far, l->wrapped, &out[0].pageable_bytes_per_s, err));
    HOTSET_TRY(measure_latency(l, l->far, l->near, &out[0].latency_s, err));
    HOTSET_TRY(measure_latency(l, l->near, l->far, &out[1].latency_s, err));
    HOTSET_TRY(measure_handover(l, &out[0].handover_s, err));
    out[1].handover_s = out[0].handover_s;
    HOTSET_TRY(measure_factors(l, l->far, l->near, &out[0], err));
    return measure_factors(l, l->near, l->far, &out[1], err);
}

hotset_status measure_link(device *host, device *d, const measure_options *options, machine_link out[2],
                           hotset_error *err) {
    linking l = {
        .host = host, .d = d, .options = options, .round_n = options->thorough ? ROUNDS_THOROUGH : ROUNDS};
    l.all_n = (size_t)l.round_n * 8;
    hotset_status status = linking_open(&l, err);
    if (!status) status = measure_both(&l, out, err);
    linking_close(&l);
    return status;
}
