/* watch.c - the watch over a GPU's waits: none lasts longer than the device's limit, so that nothing hangs.
 *
 * Whoever waits, be it a kernel, a stream or a thread of the host, marks in pinned memory what for. A thread
 * of the host looks at the marks now and then. A wait that has lasted too long is the device's failure, which
 * names it; from then on, and while a queue is closed, every wait ends at once. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "devices/gpu/gpu.h"

#define LOOK_S_MAX  0.1   /* from one look to the next */
#define LOOK_S_LAST 0.001 /* the same while waits are to end */

/* What a mark said at the last looks. */
typedef struct seen {
    bool taken;
    uint64_t at, value;
    double since_s;
} seen;

struct gpu_watch {
    gpu_device *gpu;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool closing;
    gpu_mark *mark;  /* [GPU_MARKS], pinned */
    uint32_t mark_n; /* of which so many have been taken at a time */
    seen seen[GPU_MARKS];
};

static uint64_t word(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }

static bool abandoned(const gpu_device *g) { return word(g->words + GPU_ABANDON) != 0; }

/* The mark of a wait that has lasted too long. */
static void tell(gpu_device *g, const gpu_mark *m) {
    const device_op *op = (const device_op *)(uintptr_t)word(&m->op);
    const uint64_t *counter = (const uint64_t *)(uintptr_t)word(&m->at);
    char who[96] = "a queue";
    hotset_error failure;
    if (op) snprintf(who, sizeof who, "%s of layer %u", op->name, op->layer_i);
    hotset_fail(&failure, HOTSET_E_DEVICE,
                "%s: %s waited longer than %g s for the counter at byte %llu, which is %llu and not yet %llu",
                g->base.name, who, g->wait_limit_s, (unsigned long long)word(&m->offset),
                (unsigned long long)word(counter), (unsigned long long)word(&m->value));
    gpu_remember(g, &failure);
}

/* Ends the wait of a stream, which looks at nothing but its counter. */
static void release(gpu_device *g, uint64_t *counter, uint64_t value) {
    __atomic_store_n(g->words + GPU_GAVE_UP, GPU_GAVE_UP_ABANDONED, __ATOMIC_RELEASE);
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
}

static void look_at(gpu_watch *w, uint32_t i, double now_s) {
    gpu_device *g = w->gpu;
    const gpu_mark *m = &w->mark[i];
    seen *s = &w->seen[i];
    const uint64_t at = word(&m->at), value = word(&m->value);
    uint64_t *counter = (uint64_t *)(uintptr_t)at;
    if (at != s->at || value != s->value) {
        s->at = at;
        s->value = value;
        s->since_s = now_s;
    }
    if (!at || word(counter) >= value) return;
    if (!abandoned(g) && now_s - s->since_s >= g->wait_limit_s) tell(g, m);
    if (abandoned(g) && g->wait == MODULE_WAIT_STREAM) release(g, counter, value);
}

static void *watch(void *cookie) {
    gpu_watch *w = cookie;
    pthread_mutex_lock(&w->lock);
    while (!w->closing) {
        double pause_s = w->gpu->wait_limit_s / 10 < LOOK_S_MAX ? w->gpu->wait_limit_s / 10 : LOOK_S_MAX;
        if (abandoned(w->gpu)) pause_s = LOOK_S_LAST;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(pause_s * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&w->wake, &w->lock, &until);
        const double now_s = base_now_s();
        for (uint32_t i = 0; i < w->mark_n; i++)
            if (w->seen[i].taken) look_at(w, i, now_s);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- Marks ---- */

hotset_status gpu_mark_take(gpu_device *g, gpu_mark **out, hotset_error *err) {
    gpu_watch *w = g->watch;
    *out = NULL;
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < GPU_MARKS && !*out; i++) {
        if (w->seen[i].taken) continue;
        w->seen[i] = (seen){.taken = true};
        if (i >= w->mark_n) w->mark_n = i + 1;
        *out = &w->mark[i];
    }
    pthread_mutex_unlock(&w->lock);
    if (*out) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_MEMORY, "%s: more than %d queues and lists that wait", g->base.name,
                       GPU_MARKS);
}

void gpu_mark_give(gpu_device *g, gpu_mark *mark) {
    gpu_watch *w = g->watch;
    if (!mark) return;
    pthread_mutex_lock(&w->lock);
    __atomic_store_n(&mark->at, 0, __ATOMIC_RELEASE);
    w->seen[mark - w->mark].taken = false;
    pthread_mutex_unlock(&w->lock);
}

void gpu_abandon(gpu_device *g) {
    if (g->words) __atomic_store_n(g->words + GPU_ABANDON, 1, __ATOMIC_RELEASE);
    if (g->watch) (void)pthread_cond_signal(&g->watch->wake);
}

/* ---- Open and close ---- */

hotset_status gpu_watch_open(gpu_device *g, hotset_error *err) {
    gpu_watch *w;
    pthread_condattr_t attributes;
    HOTSET_TRY(base_calloc(&w, 1, sizeof *w, "the watch over a GPU", err));
    w->gpu = g;
    gpuError code = gpuHostAlloc(&w->mark, GPU_MARKS * sizeof *w->mark);
    if (code) {
        free(w);
        return gpu_fail(g, code, err, "allocating pinned memory");
    }
    memset(w->mark, 0, GPU_MARKS * sizeof *w->mark);
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    if (!pthread_create(&w->thread, NULL, watch, w)) {
        g->watch = w;
        return HOTSET_OK;
    }
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    (void)gpuHostFree(w->mark);
    free(w);
    return hotset_fail(err, HOTSET_E_MEMORY, "%s: cannot start a thread", g->base.name);
}

void gpu_watch_close(gpu_device *g) {
    gpu_watch *w = g->watch;
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    (void)gpuHostFree(w->mark);
    free(w);
    g->watch = NULL;
}
