/* pump.c - a queue's thread of the host, where the host waits for counters: it takes what was submitted in
 * order, and holds it back while a wait stands before it. */
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "devices/gpu/gpu.h"

enum {
    ROOM = 1024,               /* commands; who submits more waits for room */
    LOOKS_WITHOUT_YIELD = 256, /* at a counter, before others may have the core */
    LOOKS_WITHOUT_SLEEP = 20000
};

struct gpu_pump {
    device_queue *queue;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t more, less;
    uint32_t first, n;
    bool busy, closing;
    gpu_command command[ROOM];
};

static void *work(void *cookie) {
    gpu_pump *p = cookie;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->n && !p->closing) pthread_cond_wait(&p->more, &p->lock);
        if (!p->n) break;
        const gpu_command c = p->command[p->first];
        p->first = (p->first + 1) % ROOM;
        p->n--;
        p->busy = true;
        pthread_mutex_unlock(&p->lock);
        (void)gpu_do(p->queue, &c,
                     NULL); /* what fails is the device's failure, and is told by what comes next */
        pthread_mutex_lock(&p->lock);
        p->busy = false;
        pthread_cond_broadcast(&p->less);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void gpu_pump_put(gpu_pump *p, const gpu_command *c) {
    pthread_mutex_lock(&p->lock);
    while (p->n == ROOM) pthread_cond_wait(&p->less, &p->lock);
    p->command[(p->first + p->n++) % ROOM] = *c;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}

bool gpu_pump_idle(gpu_pump *p) {
    pthread_mutex_lock(&p->lock);
    const bool idle = !p->n && !p->busy;
    pthread_mutex_unlock(&p->lock);
    return idle;
}

void gpu_pump_drain(gpu_pump *p) {
    pthread_mutex_lock(&p->lock);
    while (p->n || p->busy) pthread_cond_wait(&p->less, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void put_mark(gpu_mark *to, const gpu_mark *m, uint64_t value) {
    __atomic_store_n(&to->value, value, __ATOMIC_RELEASE);
    __atomic_store_n(&to->op, m->op, __ATOMIC_RELEASE);
    __atomic_store_n(&to->offset, m->offset, __ATOMIC_RELEASE);
    __atomic_store_n(&to->at, m->at, __ATOMIC_RELEASE);
}

void gpu_pump_wait(gpu_device *g, const gpu_wait_for *w, uint64_t value) {
    const uint64_t *counter = (const uint64_t *)(uintptr_t)w->mark.at;
    uint32_t look_n = 0;
    if (__atomic_load_n(counter, __ATOMIC_ACQUIRE) >= value) return;
    put_mark(w->mark_at, &w->mark, value);
    while (__atomic_load_n(counter, __ATOMIC_ACQUIRE) < value) {
        if (__atomic_load_n(g->words + GPU_ABANDON, __ATOMIC_ACQUIRE)) {
            __atomic_store_n(g->words + GPU_GAVE_UP, GPU_GAVE_UP_ABANDONED, __ATOMIC_RELEASE);
            break;
        }
        if (look_n++ < LOOKS_WITHOUT_YIELD) continue;
        if (look_n < LOOKS_WITHOUT_SLEEP)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    __atomic_store_n(&w->mark_at->at, 0, __ATOMIC_RELEASE);
}

hotset_status gpu_pump_open(device_queue *q, hotset_error *err) {
    gpu_pump *p;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a queue's thread", err));
    p->queue = q;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    pthread_cond_init(&p->less, NULL);
    if (!pthread_create(&p->thread, NULL, work, p)) {
        q->pump = p;
        return HOTSET_OK;
    }
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->more);
    pthread_cond_destroy(&p->less);
    free(p);
    return hotset_fail(err, HOTSET_E_MEMORY, "%s: cannot start a thread", q->gpu->base.name);
}

void gpu_pump_close(gpu_pump *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->more);
    pthread_cond_destroy(&p->less);
    free(p);
}
