/* streamer.c - one thread, which sleeps between prompts. */
#include "engine/streamer.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "profiles/plan.h"

typedef struct streamer_span {
    double begin_s, end_s;
} streamer_span;

struct streamer {
    const streaming *what;
    streamer_lane lane[PLAN_DEVICE_MAX];
    uint32_t device_n, used_n;
    device_buffer *staging; /* [FOOTPRINT_STREAM_SLOTS] slots, pinned */
    const uint8_t *shared;  /* what devices hand to each other, as the host reaches it */
    footprint_exchange handed;
    uint32_t *used; /* [expert_n] */
    uint8_t *seen;  /* [expert_n] */
    streamer_span *span;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    uint64_t wanted, done; /* epochs */
    uint32_t row_n;
    bool abandoned, stops;
    hotset_error failure;
};

/* ---- The thread ---- */

static const uint64_t *counter_of(const streamer *s, uint64_t at) {
    return (const uint64_t *)(const void *)(s->shared + at);
}

static bool is_abandoned(streamer *s) {
    pthread_mutex_lock(&s->lock);
    bool abandoned = s->abandoned;
    pthread_mutex_unlock(&s->lock);
    return abandoned;
}

/* False: the step was given up. */
static bool await_counter(streamer *s, uint64_t at, uint64_t epoch) {
    enum { SPINS = 2000, SLEEP_NS = 20000 };
    const struct timespec pause = {.tv_nsec = SLEEP_NS};
    for (uint32_t i = 0; __atomic_load_n(counter_of(s, at), __ATOMIC_ACQUIRE) < epoch; i++) {
        if (i < SPINS) continue;
        if (is_abandoned(s)) return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

/* Until the home has chosen the experts of a layer; which of them it gets from here. False: given up. */
static bool find_used(streamer *s, const stream_piece *p, uint64_t epoch, uint32_t row_n, uint32_t *used_n) {
    const uint64_t chosen = footprint_counter(&s->handed, p->layer_i, p->device_i, false);
    if (!await_counter(s, chosen, epoch)) return false;
    const int32_t *id = (const int32_t *)(const void *)counter_of(s, s->handed.expert_id);
    *used_n = stream_used(s->what, p->layer_i, id, (uint64_t)row_n * s->used_n, s->used, s->seen);
    return true;
}

static hotset_status send(streamer *s, uint32_t piece_i, uint32_t used_n, uint64_t epoch, hotset_error *err) {
    const stream_piece *p = &s->what->piece[piece_i];
    const device_interface *api = s->lane[p->device_i].device->api;
    const device_ref slot = streamer_slot(s, p->device_i, p->slot_i);
    const device_ref staged = {s->staging, p->slot_i * s->what->slot_bytes};
    const uint32_t from = used_n < p->first ? used_n : p->first;
    const uint32_t n = used_n - from < p->n ? used_n - from : p->n;
    const uint64_t bytes =
        stream_fill(s->what, p, slot, s->used + from, n, (uint8_t *)s->staging->host + staged.offset);
    HOTSET_TRY(api->copy_async(s->lane[p->device_i].queue, slot, staged, bytes, err));
    const device_ref arrived =
        device_ref_at(s->lane[p->device_i].exchange, s->handed.arrived + piece_i * (uint64_t)FOOTPRINT_ALIGN);
    return api->queue_signal(s->lane[p->device_i].queue, arrived, epoch, err);
}

/* All pieces of a step, each when its slot is free. */
static hotset_status send_all(streamer *s, uint64_t epoch, uint32_t row_n, hotset_error *err) {
    uint32_t used_n = 0;
    for (uint32_t i = 0; i < s->what->piece_n; i++) {
        const stream_piece *p = &s->what->piece[i];
        const uint64_t freed = s->handed.consumed + (i - FOOTPRINT_STREAM_SLOTS) * (uint64_t)FOOTPRINT_ALIGN;
        if (i >= FOOTPRINT_STREAM_SLOTS && !await_counter(s, freed, epoch)) return HOTSET_OK;
        bool experts = s->what->model->layer[p->layer_i].experts;
        if (experts && p->first == 0 && !find_used(s, p, epoch, row_n, &used_n)) return HOTSET_OK;
        s->span[i].begin_s = base_now_s();
        HOTSET_TRY(send(s, i, experts ? used_n : 0, epoch, err));
        s->span[i].end_s = base_now_s();
    }
    return HOTSET_OK;
}

static void *run(void *cookie) {
    streamer *s = cookie;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->stops && s->wanted == s->done) pthread_cond_wait(&s->changed, &s->lock);
        if (s->stops) break;
        const uint64_t epoch = s->wanted;
        const uint32_t row_n = s->row_n;
        hotset_error failure = {0};
        pthread_mutex_unlock(&s->lock);
        hotset_status status = send_all(s, epoch, row_n, &failure);
        pthread_mutex_lock(&s->lock);
        if (status) s->failure = failure;
        s->done = epoch;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- For the engine ---- */

device_ref streamer_slot(const streamer *s, uint32_t device_i, uint32_t slot_i) {
    return (device_ref){s->lane[device_i].ring, slot_i * s->what->slot_bytes};
}

uint64_t streamer_ring_bytes(const streamer *s, uint32_t device_i) {
    return s && s->lane[device_i].ring ? s->lane[device_i].ring->bytes : 0;
}

void streamer_begin(streamer *s, uint64_t epoch, uint32_t row_n) {
    pthread_mutex_lock(&s->lock);
    s->wanted = epoch;
    s->row_n = row_n;
    s->abandoned = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

hotset_status streamer_end(streamer *s, bool abandon, trace *to, hotset_error *err) {
    pthread_mutex_lock(&s->lock);
    s->abandoned = abandon;
    while (s->done != s->wanted) pthread_cond_wait(&s->changed, &s->lock);
    const hotset_error failure = s->failure;
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; to && i < s->what->piece_n && !failure.status; i++) {
        const stream_piece *p = &s->what->piece[i];
        const device_op copy = {.kind = DEVICE_OP_COPY, .name = "stream weights", .layer_i = p->layer_i};
        char lane[48];
        snprintf(lane, sizeof lane, "%s copies", s->lane[p->device_i].device->name);
        trace_op(to, lane, &copy, s->row_n, s->span[i].begin_s, s->span[i].end_s);
    }
    return failure.status ? hotset_fail(err, failure.status, "%s", failure.message) : HOTSET_OK;
}

void streamer_close(streamer *s) {
    if (!s) return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->stops = s->abandoned = true;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (uint32_t d = 0; d < s->device_n; d++) {
        const streamer_lane *lane = &s->lane[d];
        if (!lane->device) continue;
        if (lane->queue) lane->device->api->queue_close(lane->queue);
        lane->device->api->buffer_free(lane->ring);
    }
    if (s->staging) s->staging->owner->api->buffer_free(s->staging);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s->span);
    free(s->used);
    free(s->seen);
    free(s);
}

static hotset_status open_lanes(streamer *s, const streamer_lane *lanes, device *pinning, hotset_error *err) {
    const uint64_t bytes = s->what->slot_bytes * FOOTPRINT_STREAM_SLOTS;
    for (uint32_t i = 0; i < s->what->piece_n; i++) {
        streamer_lane *lane = &s->lane[s->what->piece[i].device_i];
        if (lane->device) continue;
        *lane = (streamer_lane){.device = lanes[s->what->piece[i].device_i].device,
                                .exchange = lanes[s->what->piece[i].device_i].exchange};
        HOTSET_TRY(lane->device->api->queue_open(lane->device, DEVICE_QUEUE_COPY, &lane->queue, err));
        HOTSET_TRY(
            lane->device->api->buffer_alloc(lane->device, DEVICE_MEMORY_DEVICE, bytes, &lane->ring, err));
    }
    return pinning->api->buffer_alloc(pinning, DEVICE_MEMORY_PINNED, bytes, &s->staging, err);
}

static hotset_status open_all(streamer *s, const streamer_lane *lanes, device *pinning, hotset_error *err) {
    const uint64_t expert_n = (uint64_t)s->what->model->shape.expert_n + 1;
    HOTSET_TRY(base_calloc(&s->span, s->what->piece_n, sizeof *s->span, "streamed pieces", err));
    HOTSET_TRY(base_calloc(&s->used, expert_n, sizeof *s->used, "streamed experts", err));
    HOTSET_TRY(base_calloc(&s->seen, expert_n, sizeof *s->seen, "streamed experts", err));
    HOTSET_TRY(open_lanes(s, lanes, pinning, err));
    if (pthread_create(&s->thread, NULL, run, s))
        return hotset_fail(err, HOTSET_E_MEMORY, "no thread for streaming weights");
    s->started = true;
    return HOTSET_OK;
}

hotset_status streamer_open(streamer **out, const streaming *what, const streamer_lane *lanes,
                            uint32_t device_n, device *pinning, const footprint_exchange *handed,
                            uint32_t used_n, hotset_error *err) {
    streamer *s;
    *out = NULL;
    HOTSET_TRY(base_calloc(&s, 1, sizeof *s, "the streaming of weights", err));
    s->what = what;
    s->device_n = device_n;
    s->shared = (const uint8_t *)lanes[0].exchange.buffer->host + lanes[0].exchange.offset;
    s->handed = *handed;
    s->used_n = used_n;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    hotset_status status = open_all(s, lanes, pinning, err);
    if (status)
        streamer_close(s);
    else
        *out = s;
    return status;
}
