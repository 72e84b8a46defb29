/* gpu_threads.c - two emulated devices and the host hand rows to each other by counters, in every way: for
 * ThreadSanitizer, which Criterion's tests cannot have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/module.h"

enum { N = 64, STEPS = 40, DEVICES = 2, BYTES = N * sizeof(float), SKIPPED = 77 };
enum { STEP_AT = 0, GO_AT = 256, DONE_AT = 320, ROW_AT = 512, PINNED_BYTES = 1024 };

typedef struct side {
    device *d;
    device_queue *queue;
    device_buffer *pinned, *memory, *workspace;
    device_list *list;
} side;

static uint8_t *at(const side *s, uint64_t offset) { return (uint8_t *)s->pinned->host + offset; }

/* A list that waits for the host, doubles what the host wrote by adding it to itself, and says that it is
 * done. */
static hotset_status open_side(side *s, const device_spec *spec, hotset_error *err) {
    HOTSET_TRY(device_spec_open(&s->d, spec, HOTSET_MODULE_FOLDER, err));
    const device_interface *api = s->d->api;
    device_op op[3] = {{.kind = DEVICE_OP_WAIT, .name = "wait", .row_max = 1},
                       {.kind = DEVICE_OP_COMBINE, .name = "double", .row_max = 1},
                       {.kind = DEVICE_OP_SIGNAL, .name = "signal", .row_max = 1}};
    HOTSET_TRY(api->queue_open(s->d, DEVICE_QUEUE_COMPUTE, &s->queue, err));
    HOTSET_TRY(api->buffer_alloc(s->d, DEVICE_MEMORY_PINNED, PINNED_BYTES, &s->pinned, err));
    HOTSET_TRY(api->buffer_alloc(s->d, DEVICE_MEMORY_DEVICE, api->workspace_bytes(s->d, &op[1]),
                                 &s->workspace, err));
    memset(s->pinned->host, 0, PINNED_BYTES);
    ((device_step *)s->pinned->host)->row_n = 1;
    op[0].counter.counter = (device_ref){s->pinned, GO_AT};
    op[1].combine.y = op[1].combine.x = (device_rows){{s->pinned, ROW_AT}, N};
    op[1].combine.weight = (device_rows){{s->pinned, ROW_AT + BYTES}, 1};
    op[1].combine.used_n = 1;
    op[1].combine.n = N;
    *(float *)(void *)at(s, ROW_AT + BYTES) = 1;
    op[2].counter.counter = (device_ref){s->pinned, DONE_AT};
    return api->list_record(s->d, op, COUNT_OF(op), (device_ref){s->pinned, STEP_AT}, 1,
                            (device_ref){s->workspace, 0}, &s->list, err);
}

static void close_side(side *s) {
    if (!s->d) return;
    s->d->api->queue_close(s->queue);
    s->d->api->list_free(s->list);
    s->d->api->buffer_free(s->pinned);
    s->d->api->buffer_free(s->workspace);
    s->d->api->close(s->d);
}

/* Both devices at once, then the host reads both. */
static hotset_status run_step(side *sides, uint64_t epoch, int *wrong_n, hotset_error *err) {
    for (int i = 0; i < DEVICES; i++)
        HOTSET_TRY(sides[i].d->api->submit(sides[i].queue, sides[i].list, epoch, err));
    for (int i = 0; i < DEVICES; i++) {
        for (int j = 0; j < N; j++)
            ((float *)(void *)at(&sides[i], ROW_AT))[j] = (float)(i + j) + (float)epoch;
        __atomic_store_n((uint64_t *)(void *)at(&sides[i], GO_AT), epoch, __ATOMIC_RELEASE);
    }
    for (int i = 0; i < DEVICES; i++) {
        const uint64_t *done = (const uint64_t *)(const void *)at(&sides[i], DONE_AT);
        while (__atomic_load_n(done, __ATOMIC_ACQUIRE) < epoch) continue;
        for (int j = 0; j < N; j++)
            *wrong_n += ((float *)(void *)at(&sides[i], ROW_AT))[j] != 2 * ((float)(i + j) + (float)epoch);
    }
    return HOTSET_OK;
}

static hotset_status run_all(const char *list, int *wrong_n, hotset_error *err) {
    device_spec spec[MACHINE_DEVICE_MAX];
    side sides[DEVICES] = {{0}};
    uint32_t n;
    hotset_status status = device_list_parse(spec, &n, list, err);
    for (int i = 0; i < DEVICES && !status; i++) status = open_side(&sides[i], &spec[1 + i], err);
    for (uint64_t epoch = 1; epoch <= STEPS && !status; epoch++)
        status = run_step(sides, epoch, wrong_n, err);
    for (int i = 0; i < DEVICES; i++) close_side(&sides[i]);
    return status;
}

int main(void) {
    static const char *const lists[] = {"cpu,emu:1MiB:wait=kernel,emu:1MiB:reverse:wait=stream",
                                        "cpu,emu:1MiB:wait=host,emu:1MiB:reverse:wait=host:graphs=off"};
    int wrong_n = 0;
    hotset_error err = {0};
    hotset_status status = HOTSET_OK;
    const module_interface *module;
    if (module_load(&module, MACHINE_EMULATED, HOTSET_MODULE_FOLDER, &err)) {
        puts(err.message);
        return SKIPPED;
    }
    for (size_t i = 0; i < COUNT_OF(lists) && !status; i++) status = run_all(lists[i], &wrong_n, &err);
    if (status) puts(err.message);
    if (wrong_n) printf("%d values are wrong\n", wrong_n);
    return status || wrong_n;
}
