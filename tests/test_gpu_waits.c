/* test_gpu_waits.c - how GPUs wait for counters: every way that emulated devices have, counters beyond 32
 * bits, waits that never end, lists as graphs or not. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tests/gpu_rig.h"

enum { N = 64, LAYERS = 3, STEP_AT = 0, GO_AT = 512, DONE_AT = 1024, ROW_AT = 2048, PINNED_BYTES = 4096 };

static const char *const ways[] = {"stream", "kernel", "host"};

/* For each layer: wait for the host, double a row by adding it to itself, say so. */
typedef struct layers {
    device *d;
    device_queue *queue;
    device_buffer *pinned, *workspace;
    device_list *list;
} layers;

static uint64_t *word_at(const layers *l, uint64_t at) {
    return (uint64_t *)(void *)((uint8_t *)l->pinned->host + at);
}
static uint64_t load(const layers *l, uint64_t at) {
    return __atomic_load_n(word_at(l, at), __ATOMIC_ACQUIRE);
}
static void store(const layers *l, uint64_t at, uint64_t value) {
    __atomic_store_n(word_at(l, at), value, __ATOMIC_RELEASE);
}
static float *row_of(const layers *l) { return (float *)(void *)word_at(l, ROW_AT); }

static void must(hotset_status status, const hotset_error *err) {
    cr_assert_eq(status, HOTSET_OK, "%s", err->message);
}

static void open_layers(layers *l, const char *properties) {
    hotset_error err = {0};
    *l = (layers){.d = gpu_rig_open(properties)};
    const device_interface *api = l->d->api;
    device_op op[3 * LAYERS];
    must(api->queue_open(l->d, DEVICE_QUEUE_COMPUTE, &l->queue, &err), &err);
    must(api->buffer_alloc(l->d, DEVICE_MEMORY_PINNED, PINNED_BYTES, &l->pinned, &err), &err);
    must(api->buffer_alloc(l->d, DEVICE_MEMORY_DEVICE, 4096, &l->workspace, &err), &err);
    memset(l->pinned->host, 0, PINNED_BYTES);
    ((device_step *)l->pinned->host)->row_n = 1;
    row_of(l)[N] = 1; /* the weight */
    for (uint32_t i = 0; i < LAYERS; i++) {
        device_op *wait = &op[3 * i], *twice = wait + 1, *signal = wait + 2;
        *wait = (device_op){.kind = DEVICE_OP_WAIT, .name = "handed over", .layer_i = i, .row_max = 1};
        *twice = (device_op){.kind = DEVICE_OP_COMBINE, .name = "twice", .layer_i = i, .row_max = 1};
        *signal = (device_op){.kind = DEVICE_OP_SIGNAL, .name = "done", .layer_i = i, .row_max = 1};
        wait->counter.counter = (device_ref){l->pinned, GO_AT + 64 * i};
        signal->counter.counter = (device_ref){l->pinned, DONE_AT + 64 * i};
        twice->combine.x = twice->combine.y = (device_rows){{l->pinned, ROW_AT}, N};
        twice->combine.weight = (device_rows){{l->pinned, ROW_AT + N * sizeof(float)}, 1};
        twice->combine.n = N;
        twice->combine.used_n = 1;
    }
    must(api->list_record(l->d, op, COUNT_OF(op), (device_ref){l->pinned, STEP_AT}, 1,
                          (device_ref){l->workspace, 0}, &l->list, &err),
         &err);
}

static void close_layers(layers *l) {
    const device_interface *api = l->d->api;
    api->queue_close(l->queue);
    api->list_free(l->list);
    api->buffer_free(l->pinned);
    api->buffer_free(l->workspace);
    api->close(l->d);
}

static void pause_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

static void until(const layers *l, uint64_t at, uint64_t value) {
    for (const double end_s = base_now_s() + 20; load(l, at) < value;) {
        cr_assert_lt(base_now_s(), end_s, "counter %llu does not come", (unsigned long long)at);
        pause_ms(0);
    }
}

/* A step whose layers the host lets go one after the other; what is computed is seen with the counter. */
static void check_step(layers *l, uint64_t epoch) {
    hotset_error err = {0};
    for (int i = 0; i < N; i++) row_of(l)[i] = (float)(i + 1);
    must(l->d->api->submit(l->queue, l->list, epoch, &err), &err);
    for (uint32_t i = 0; i < LAYERS; i++) {
        if (epoch % 2) pause_ms(1);
        cr_assert_lt(load(l, DONE_AT + 64 * i), epoch, "layer %u has not been let go", i);
        store(l, GO_AT + 64 * i, epoch);
        until(l, DONE_AT + 64 * i, epoch);
        for (int j = 0; j < N; j++) cr_assert_eq(row_of(l)[j], (float)((j + 1) << (i + 1)));
    }
    must(l->d->api->queue_drain(l->queue, &err), &err);
}

static void check_way(const char *way, const char *more) {
    char properties[96];
    layers l;
    snprintf(properties, sizeof properties, ":wait=%s%s", way, more);
    open_layers(&l, properties);
    for (uint64_t epoch = 1; epoch < 5; epoch++) check_step(&l, epoch);
    for (uint64_t epoch = UINT32_MAX - 1ull; epoch < UINT32_MAX + 3ull; epoch++) check_step(&l, epoch);
    for (uint64_t epoch = (1ull << 62); epoch < (1ull << 62) + 3; epoch++) check_step(&l, epoch);
    close_layers(&l);
}

Test(gpu_waits, lists_wait_in_every_way) {
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        check_way(ways[i], "");
        check_way(ways[i], ":reverse");
        check_way(ways[i], ":graphs=off");
    }
    check_way("best", "");
}

/* A counter of which only the lower half, or the upper one, looks large enough. */
Test(gpu_waits, all_64_bits_count) {
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        char properties[64];
        layers l;
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wait=%s", ways[i]);
        open_layers(&l, properties);
        const device_ref go = {l.pinned, GO_AT}, done = {l.pinned, DONE_AT};
        must(l.d->api->queue_wait(l.queue, go, (1ull << 32) + 5, &err), &err);
        must(l.d->api->queue_signal(l.queue, done, (7ull << 32) + 1, &err), &err);
        const uint64_t early[] = {6, UINT32_MAX, (1ull << 32) + 4};
        for (size_t j = 0; j < COUNT_OF(early); j++) {
            store(&l, GO_AT, early[j]);
            pause_ms(2);
            cr_assert_eq(load(&l, DONE_AT), 0, "%s: %llu is not enough", ways[i],
                         (unsigned long long)early[j]);
        }
        store(&l, GO_AT, 2ull << 32);
        until(&l, DONE_AT, (7ull << 32) + 1);
        must(l.d->api->queue_drain(l.queue, &err), &err);
        close_layers(&l);
    }
}

/* The caller goes on while commands of all kinds stand behind a wait, and they come in order. */
Test(gpu_waits, callers_are_not_held_up) {
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        char properties[64];
        layers l;
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wait=%s", ways[i]);
        open_layers(&l, properties);
        const device_interface *api = l.d->api;
        for (int j = 0; j < N; j++) row_of(&l)[j] = 1;
        const device_ref row = {l.pinned, ROW_AT}, kept = {l.pinned, ROW_AT + 1024};
        must(api->queue_wait(l.queue, (device_ref){l.pinned, GO_AT + 64 * LAYERS}, 1, &err), &err);
        must(api->submit(l.queue, l.list, 1, &err), &err);
        must(api->copy_async(l.queue, kept, row, N * sizeof(float), &err), &err);
        must(api->submit(l.queue, l.list, 2, &err), &err);
        must(api->queue_signal(l.queue, (device_ref){l.pinned, DONE_AT + 64 * LAYERS}, 9, &err), &err);
        for (uint32_t j = 0; j < LAYERS; j++) store(&l, GO_AT + 64 * j, 2);
        pause_ms(2);
        cr_assert_eq(load(&l, DONE_AT), 0);
        store(&l, GO_AT + 64 * LAYERS, 1);
        until(&l, DONE_AT + 64 * LAYERS, 9);
        cr_assert_eq(row_of(&l)[0], 1 << (2 * LAYERS));
        cr_assert_eq(row_of(&l)[1024 / sizeof(float)], 1 << LAYERS);
        must(api->queue_drain(l.queue, &err), &err);
        close_layers(&l);
    }
}

/* ---- Waits that never end ---- */

static void check_failure(layers *l, hotset_status status, const hotset_error *err, const char *const said[],
                          size_t said_n) {
    hotset_error again = {0};
    device_buffer *b;
    cr_assert_eq(status, HOTSET_E_DEVICE, "%d: %s", (int)status, err->message);
    for (size_t i = 0; i < said_n; i++) cr_assert(strstr(err->message, said[i]), "%s", err->message);
    cr_assert_eq(l->d->api->buffer_alloc(l->d, DEVICE_MEMORY_DEVICE, 1, &b, &again), HOTSET_E_DEVICE);
    cr_assert_str_eq(again.message, err->message);
    cr_assert_eq(l->d->api->submit(l->queue, l->list, 9, &again), HOTSET_E_DEVICE);
}

Test(gpu_waits, waits_that_never_end_are_failures_by_name) {
    for (size_t i = 0; i < 2 * COUNT_OF(ways); i++) {
        const bool of_list = i < COUNT_OF(ways);
        static const char *const in_list[] = {"emu0: handed over of layer 1 waited longer than 0.15 s",
                                              "the counter at byte 576, which is 0 and not yet 3"},
                                 *const of_queue[] = {"emu0: a queue waited longer than 0.15 s",
                                                      "the counter at byte 640, which is 1 and not yet "
                                                      "4294967299"};
        char properties[64];
        layers l;
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wait=%s:wait-ms=150", ways[i % COUNT_OF(ways)]);
        open_layers(&l, properties);
        const double begin_s = base_now_s();
        store(&l, GO_AT, 3);
        store(&l, GO_AT + 128, 1);
        if (of_list)
            must(l.d->api->submit(l.queue, l.list, 3, &err), &err);
        else
            must(l.d->api->queue_wait(l.queue, (device_ref){l.pinned, GO_AT + 128}, (1ull << 32) + 3, &err),
                 &err);
        const hotset_status status = l.d->api->queue_drain(l.queue, &err);
        check_failure(&l, status, &err, of_list ? in_list : of_queue, 2);
        cr_assert(base_now_s() - begin_s >= 0.15 && base_now_s() - begin_s < 20);
        close_layers(&l);
    }
}

/* What takes its time is no failure as long as each wait ends in time. */
Test(gpu_waits, many_short_waits_are_none) {
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        char properties[64];
        layers l;
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wait=%s:wait-ms=1500", ways[i]);
        open_layers(&l, properties);
        must(l.d->api->submit(l.queue, l.list, 1, &err), &err);
        for (uint32_t j = 0; j < LAYERS; j++) {
            pause_ms(700);
            store(&l, GO_AT + 64 * j, 1);
        }
        must(l.d->api->queue_drain(l.queue, &err), &err);
        close_layers(&l);
    }
}

/* Other queues' waits end too, and closing does not hang. */
Test(gpu_waits, all_waits_end_with_the_device) {
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        char properties[64];
        layers l;
        device_queue *other;
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wait=%s:wait-ms=100", ways[i]);
        open_layers(&l, properties);
        must(l.d->api->queue_open(l.d, DEVICE_QUEUE_COPY, &other, &err), &err);
        must(l.d->api->queue_wait(other, (device_ref){l.pinned, GO_AT}, 50, &err), &err);
        must(l.d->api->queue_wait(other, (device_ref){l.pinned, GO_AT + 64}, 50, &err), &err);
        must(l.d->api->submit(l.queue, l.list, 1, &err), &err);
        cr_assert_eq(l.d->api->queue_drain(l.queue, &err), HOTSET_E_DEVICE);
        cr_assert_eq(l.d->api->queue_drain(other, &err), HOTSET_E_DEVICE);
        l.d->api->queue_close(other);
        close_layers(&l);
    }
}

Test(gpu_waits, queues_close_while_they_wait) {
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        char properties[64];
        layers l;
        hotset_error err = {0};
        snprintf(properties, sizeof properties, ":wait=%s", ways[i]);
        open_layers(&l, properties);
        must(l.d->api->submit(l.queue, l.list, 1, &err), &err);
        const double begin_s = base_now_s();
        close_layers(&l);
        cr_assert_lt(base_now_s() - begin_s, 10, "not the limit of a wait");
    }
}

/* ---- What is told of them ---- */

typedef struct told {
    uint32_t n, wait_n;
    double end_s; /* of the last one */
} told;

static void count_span(void *cookie, const device_op *op, uint32_t row_n, double begin_s, double end_s) {
    told *t = cookie;
    cr_assert_eq(op->layer_i, t->n / 3);
    cr_assert(row_n == 1 && begin_s <= end_s && begin_s >= t->end_s - 1e-4, "%s", op->name);
    t->end_s = end_s;
    t->wait_n += op->kind == DEVICE_OP_WAIT && end_s - begin_s > 1e-3;
    t->n++;
}

/* The spans of layers that wait for the host a while each. */
static told trace_layers(const char *way) {
    char properties[64];
    layers l;
    told t = {0};
    hotset_error err = {0};
    snprintf(properties, sizeof properties, ":wait=%s", way);
    open_layers(&l, properties);
    l.d->api->set_trace(l.d, count_span, &t);
    must(l.d->api->submit(l.queue, l.list, 1, &err), &err);
    for (uint32_t j = 0; j < LAYERS; j++) {
        pause_ms(5);
        store(&l, GO_AT + 64 * j, 1);
    }
    must(l.d->api->queue_drain(l.queue, &err), &err);
    close_layers(&l);
    return t;
}

Test(gpu_waits, waits_are_traced) {
    enum { TRIES = 50 }; /* on a busy machine the host may be there before any layer waits */
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        const bool waits = i != 2; /* there the host waits, which is no work of the stream */
        told t = trace_layers(ways[i]);
        for (int try = 1; waits && t.wait_n == 0 && try < TRIES; try++) t = trace_layers(ways[i]);
        cr_assert_eq(t.n, 3 * LAYERS);
        if (waits) cr_assert(t.wait_n > 0, "%s", ways[i]);
    }
}

Test(gpu_waits, as_many_wait_as_can_be_watched) {
    enum { MANY = 1100 };
    device *d = gpu_rig_open("");
    hotset_error err = {0};
    static device_queue *q[MANY];
    static device_list *list[MANY];
    device_buffer *pinned, *workspace;
    must(d->api->buffer_alloc(d, DEVICE_MEMORY_PINNED, 4096, &pinned, &err), &err);
    must(d->api->buffer_alloc(d, DEVICE_MEMORY_DEVICE, 4096, &workspace, &err), &err);
    const device_op wait = {
        .kind = DEVICE_OP_WAIT, .name = "wait", .row_max = 1, .counter.counter = {pinned, 1024}};
    hotset_status status = HOTSET_OK;
    uint32_t n = 0;
    must(d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &q[0], &err), &err);
    while (!status && n < MANY) {
        status = d->api->list_record(d, &wait, 1, (device_ref){pinned, 0}, 1, (device_ref){workspace, 0},
                                     &list[n], &err);
        n += !status;
    }
    cr_assert_eq(status, HOTSET_E_MEMORY);
    cr_assert(n == 1023 && strstr(err.message, "emu0: more than 1024 queues and lists"), "%s", err.message);
    d->api->list_free(list[--n]);
    must(d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &q[1], &err), &err);
    while (n > 0) d->api->list_free(list[--n]);
    for (int i = 0; i < 2; i++) d->api->queue_close(q[i]);
    d->api->buffer_free(pinned);
    d->api->buffer_free(workspace);
    d->api->close(d);
}

/* ---- What is found out at open ---- */

static void check_note(const char *properties, const char *const said[2]) {
    device *d = gpu_rig_open(properties);
    for (int i = 0; i < 2; i++) cr_assert(strstr(d->note, said[i]), "%s", d->note);
    cr_assert_eq(d->note[strlen(d->note) - 1], ')');
    d->api->close(d);
}

Test(gpu_waits, devices_note_how_they_work) {
    check_note("", (const char *const[]){"lists are graphs", "us, kernel "});
    check_note(":wait=stream", (const char *const[]){"lists are graphs", "waits by stream (stream "});
    check_note(":wait=kernel:graphs=on",
               (const char *const[]){"lists are graphs", "waits by kernel (kernel "});
    check_note(":wait=host:graphs=off",
               (const char *const[]){"lists are launched one by one", "waits by host (host "});
    check_note(
        ":fail-graph=1",
        (const char *const[]){"lists are launched one by one (graphs do not work: a fault", "waits by "});
}

Test(gpu_waits, graphs_that_do_not_work_can_be_done_without) {
    layers l;
    device *d;
    hotset_error err = {0};
    open_layers(&l, ":fail-graph=1");
    check_step(&l, 1);
    close_layers(&l);
    device_spec spec = {
        .kind = MACHINE_EMULATED, .name = "emu0", .options = {.graphs = MODULE_GRAPHS_ON, .fail_graph = 1}};
    cr_assert_eq(device_spec_open(&d, &spec, HOTSET_MODULE_FOLDER, &err), HOTSET_E_UNSUPPORTED);
    cr_assert_null(d);
    cr_assert(strstr(err.message, "emu0: graphs do not work"), "%s", err.message);
    /* later, of a list */
    spec.options.fail_graph = 3;
    cr_assert_eq(device_spec_open(&d, &spec, HOTSET_MODULE_FOLDER, &err), HOTSET_E_DEVICE);
    cr_assert(strstr(err.message, "recording the list from 'norm' on"), "%s", err.message);
}
