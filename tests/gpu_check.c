/* gpu_check.c - what tests/gpu/check.sh asks of a card, besides the suites: prints one JSON object, or fails
 * with one line. Usage: gpu_check there|probe|handshake|bandwidth DEVICE, gpu_check drill DEVICE WHAT. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/module.h"
#include "devices/quant.h"

enum { PATTERN_BYTES = 16 << 20, STEP_BYTES = 4096, SAMPLES = 5, LOADS_MAX = 64 };

typedef struct checking {
    const char *name; /* as in a device list */
    bool emulated;    /* then amounts are small */
    device *d;
    device_queue *queue;
    hotset_error err;
} checking;

/* Modules beside the program, as in a pack, or where they were built. */
static const char *module_folder(void) {
    char path[MODULE_PATH_BYTES + 32], own[MODULE_PATH_BYTES];
    if (!module_own_folder(own)) return HOTSET_MODULE_FOLDER;
    snprintf(path, sizeof path, "%s/libhotset-emu.so", own);
    return access(path, R_OK) ? HOTSET_MODULE_FOLDER : NULL;
}

static hotset_status open_with(checking *c, const char *properties) {
    char list[128];
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    snprintf(list, sizeof list, "cpu,%s%s", c->name, properties);
    HOTSET_TRY(device_list_parse(spec, &n, list, &c->err));
    HOTSET_TRY(device_spec_open(&c->d, &spec[1], module_folder(), &c->err));
    return c->d->api->queue_open(c->d, DEVICE_QUEUE_COMPUTE, &c->queue, &c->err);
}

static void close_all(checking *c) {
    if (!c->d) return;
    if (c->queue) c->d->api->queue_close(c->queue);
    c->d->api->close(c->d);
    c->d = NULL;
    c->queue = NULL;
}

static void put_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar((unsigned char)*text < ' ' ? ' ' : *text);
    }
    putchar('"');
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* "p50": ..., "p99": ..., "max": ... in microseconds. */
static void put_times(double *seconds, uint32_t n) {
    qsort(seconds, n, sizeof *seconds, by_size);
    printf("{\"p50\": %.2f, \"p99\": %.2f, \"max\": %.2f}", seconds[n / 2] * 1e6, seconds[n * 99 / 100] * 1e6,
           seconds[n - 1] * 1e6);
}

static double median(double *values, uint32_t n) {
    qsort(values, n, sizeof *values, by_size);
    return values[n / 2];
}

static uint64_t load(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static void store(uint64_t *at, uint64_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }

/* ---- there, probe ---- */

static hotset_status describe(checking *c, module_facts *out) {
    char list[64];
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    snprintf(list, sizeof list, "cpu,%s", c->name);
    HOTSET_TRY(device_list_parse(spec, &n, list, &c->err));
    return device_spec_describe(&spec[1], module_folder(), out, &c->err);
}

static hotset_status put_copies(checking *c, const char *name, device_buffer *to, device_buffer *from,
                                uint64_t bytes_max) {
    printf(", \"%s\": {", name);
    for (uint64_t bytes = 16 << 10; bytes <= bytes_max; bytes *= 32) {
        double rates[SAMPLES];
        for (uint32_t i = 0; i < SAMPLES; i++) {
            const uint32_t n = bytes < 1 << 20 ? 64 : 8;
            const double begin_s = base_now_s();
            for (uint32_t j = 0; j < n; j++)
                HOTSET_TRY(c->d->api->copy_async(c->queue, (device_ref){to, 0}, (device_ref){from, 0}, bytes,
                                                 &c->err));
            HOTSET_TRY(c->d->api->queue_drain(c->queue, &c->err));
            rates[i] = (double)bytes * n / (base_now_s() - begin_s);
        }
        printf("%s\"%llu\": %.3f", bytes > 16 << 10 ? ", " : "", (unsigned long long)bytes,
               median(rates, SAMPLES) / 1e9);
    }
    printf("}");
    return HOTSET_OK;
}

static hotset_status put_all_copies(checking *c) {
    const device_interface *api = c->d->api;
    device_buffer *pinned = NULL, *far = NULL, *wrapped = NULL;
    void *pageable = calloc(1, PATTERN_BYTES);
    hotset_status status = pageable ? HOTSET_OK : HOTSET_E_MEMORY;
    if (!status) status = api->buffer_alloc(c->d, DEVICE_MEMORY_PINNED, PATTERN_BYTES, &pinned, &c->err);
    if (!status) status = api->buffer_alloc(c->d, DEVICE_MEMORY_DEVICE, PATTERN_BYTES, &far, &c->err);
    if (!status) status = api->buffer_wrap(c->d, pageable, PATTERN_BYTES, &wrapped, &c->err);
    if (!status) memset(pinned->host, 1, PATTERN_BYTES);
    printf(", \"copy_gb_per_s\": {\"unit\": \"by bytes\"");
    if (!status) status = put_copies(c, "pinned to device", far, pinned, PATTERN_BYTES);
    if (!status) status = put_copies(c, "device to pinned", pinned, far, PATTERN_BYTES);
    if (!status) status = put_copies(c, "pageable to device", far, wrapped, PATTERN_BYTES);
    printf("}");
    api->buffer_free(pinned);
    api->buffer_free(far);
    api->buffer_free(wrapped);
    free(pageable);
    return status;
}

static hotset_status probe(checking *c) {
    module_facts facts;
    device_cpu_facts cpu;
    hotset_limits limits;
    uint64_t capacity_bytes, free_bytes;
    HOTSET_TRY(describe(c, &facts));
    HOTSET_TRY(device_cpu_get_facts(&cpu, &c->err));
    const double begin_s = base_now_s();
    HOTSET_TRY(open_with(c, ""));
    const double open_s = base_now_s() - begin_s;
    HOTSET_TRY(c->d->api->memory(c->d, &capacity_bytes, &free_bytes, &c->err));
    HOTSET_TRY(c->d->api->measure(c->d, NULL, 0, c->emulated ? 0.03 : 3, &limits, &c->err));
    printf("{\"model\": ");
    put_text(facts.model);
    printf(", \"instructions\": ");
    put_text(facts.instructions);
    printf(", \"bus\": ");
    put_text(facts.bus);
    printf(", \"how\": ");
    put_text(c->d->note);
    printf(", \"open_s\": %.3f, \"memory_bytes\": %llu, \"free_bytes\": %llu", open_s,
           (unsigned long long)capacity_bytes, (unsigned long long)free_bytes);
    printf(", \"read_gb_per_s\": %.1f, \"int8_top_per_s\": %.2f, \"float_tflop_per_s\": %.2f",
           limits.read_anonymous_bytes_per_s / 1e9, limits.int8_op_per_s / 1e12,
           limits.float_flop_per_s / 1e12);
    printf(", \"cpu\": ");
    put_text(cpu.model);
    printf(", \"cores\": %u", cpu.thread_n);
    HOTSET_TRY(put_all_copies(c));
    printf("}\n");
    return HOTSET_OK;
}

/* ---- handshake ---- */

enum { HAND_LAYERS = 48, ROW_N = 4096, LINE = 64, ANSWER_S = 60 };
enum { GO_AT = STEP_BYTES, DONE_AT = GO_AT + HAND_LAYERS * LINE, HAND_ROW_AT = DONE_AT + HAND_LAYERS * LINE };
enum { HAND_BYTES = HAND_ROW_AT + ROW_N * 4 };

typedef struct handing {
    checking *c;
    device_buffer *pinned, *memory, *workspace;
    device_list *list;
} handing;

static uint64_t *word(const handing *h, uint64_t at) {
    return (uint64_t *)(void *)((uint8_t *)h->pinned->host + at);
}

/* Each layer: a wait, a norm of one row as in a model, a signal. */
static hotset_status open_handing(handing *h) {
    checking *c = h->c;
    const device_interface *api = c->d->api;
    device_op op[3 * HAND_LAYERS];
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_PINNED, HAND_BYTES, &h->pinned, &c->err));
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_DEVICE, ROW_N * sizeof(float), &h->memory, &c->err));
    memset(h->pinned->host, 0, HAND_BYTES);
    ((device_step *)h->pinned->host)->row_n = 1;
    for (uint32_t i = 0; i < HAND_LAYERS; i++) {
        device_op *wait = &op[3 * i], *norm = wait + 1, *signal = wait + 2;
        *wait = (device_op){.kind = DEVICE_OP_WAIT, .name = "wait", .layer_i = i, .row_max = 1};
        *norm = (device_op){.kind = DEVICE_OP_NORM, .name = "norm", .layer_i = i, .row_max = 1};
        *signal = (device_op){.kind = DEVICE_OP_SIGNAL, .name = "signal", .layer_i = i, .row_max = 1};
        wait->counter.counter = (device_ref){h->pinned, GO_AT + LINE * i};
        signal->counter.counter = (device_ref){h->pinned, DONE_AT + LINE * i};
        norm->norm.x = (device_rows){{h->pinned, HAND_ROW_AT}, ROW_N}; /* as partial sums are read */
        norm->norm.y = (device_rows){{h->memory, 0}, ROW_N};
        norm->norm.n = ROW_N;
        norm->norm.epsilon = 1;
    }
    const uint64_t bytes = api->workspace_bytes(c->d, &op[1]);
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_DEVICE, bytes, &h->workspace, &c->err));
    return api->list_record(c->d, op, COUNT_OF(op), (device_ref){h->pinned, 0}, 1,
                            (device_ref){h->workspace, 0}, &h->list, &c->err);
}

static void close_handing(handing *h) {
    const device_interface *api = h->c->d->api;
    api->queue_drain(h->c->queue, &(hotset_error){0});
    api->list_free(h->list);
    api->buffer_free(h->pinned);
    api->buffer_free(h->memory);
    api->buffer_free(h->workspace);
}

/* Until the device has set a counter; its own watch ends what lasts too long. */
static hotset_status see(const handing *h, const uint64_t *at, uint64_t value) {
    const double end_s = base_now_s() + ANSWER_S;
    for (uint32_t looks = 1; load(at) < value; looks++)
        if (looks % (1 << 12) == 0 && base_now_s() > end_s)
            return hotset_fail(&h->c->err, HOTSET_E_DEVICE, "%s does not answer", h->c->name);
    return HOTSET_OK;
}

static hotset_status time_round(const handing *h, uint64_t value, double *seconds) {
    const device_interface *api = h->c->d->api;
    hotset_error *err = &h->c->err;
    HOTSET_TRY(api->queue_wait(h->c->queue, (device_ref){h->pinned, GO_AT}, value, err));
    HOTSET_TRY(api->queue_signal(h->c->queue, (device_ref){h->pinned, DONE_AT}, value, err));
    for (const double end_s = base_now_s() + 5e-5; base_now_s() < end_s;) continue;
    const double begin_s = base_now_s();
    store(word(h, GO_AT), value);
    HOTSET_TRY(see(h, word(h, DONE_AT), value));
    *seconds = base_now_s() - begin_s;
    return HOTSET_OK;
}

/* A step of all layers, each of which the host lets go as soon as the one before is done. */
static hotset_status time_layers(const handing *h, uint64_t epoch, double *per_layer_s) {
    HOTSET_TRY(h->c->d->api->submit(h->c->queue, h->list, epoch, &h->c->err));
    for (const double end_s = base_now_s() + 1e-4; base_now_s() < end_s;) continue;
    const double begin_s = base_now_s();
    for (uint32_t i = 0; i < HAND_LAYERS; i++) {
        store(word(h, GO_AT + LINE * i), epoch);
        HOTSET_TRY(see(h, word(h, DONE_AT + LINE * i), epoch));
    }
    *per_layer_s = (base_now_s() - begin_s) / HAND_LAYERS;
    return HOTSET_OK;
}

static hotset_status put_handing(handing *h, uint32_t round_n, uint64_t *epoch) {
    static double seconds[1000];
    double submit_s[100];
    for (uint32_t i = 0; i < round_n; i++) HOTSET_TRY(time_round(h, ++*epoch, &seconds[i]));
    HOTSET_TRY(h->c->d->api->queue_drain(h->c->queue, &h->c->err));
    printf("\"round_trip_us\": ");
    put_times(seconds, round_n);
    for (uint32_t i = 0; i < round_n / 10 + 2; i++) HOTSET_TRY(time_layers(h, ++*epoch, &seconds[i]));
    HOTSET_TRY(h->c->d->api->queue_drain(h->c->queue, &h->c->err));
    printf(", \"layer_us\": ");
    put_times(seconds, round_n / 10 + 2);
    const uint32_t step_n = round_n / 20 + 2;
    for (uint32_t i = 0; i < step_n; i++) { /* nothing to wait for: what it costs to submit, and to run */
        for (uint32_t j = 0; j < HAND_LAYERS; j++) store(word(h, GO_AT + LINE * j), *epoch + 1);
        const double begin_s = base_now_s();
        HOTSET_TRY(h->c->d->api->submit(h->c->queue, h->list, ++*epoch, &h->c->err));
        submit_s[i] = base_now_s() - begin_s;
        HOTSET_TRY(h->c->d->api->queue_drain(h->c->queue, &h->c->err));
        seconds[i] = base_now_s() - begin_s;
    }
    printf(", \"submit_us\": ");
    put_times(submit_s, step_n);
    printf(", \"step_us\": ");
    put_times(seconds, step_n);
    return HOTSET_OK;
}

static bool loads_stop;

/* Moves memory until it is told to stop. */
static void *load_memory(void *cookie) {
    const size_t bytes = 64 << 20;
    char *from = malloc(bytes), *to = malloc(bytes);
    (void)cookie;
    if (from && to) memset(from, 1, bytes);
    while (from && to && !__atomic_load_n(&loads_stop, __ATOMIC_RELAXED)) memcpy(to, from, bytes);
    free(from);
    free(to);
    return NULL;
}

static hotset_status handshake_one(checking *c, const char *properties, uint32_t load_n, uint32_t round_n) {
    pthread_t threads[LOADS_MAX];
    uint32_t running_n = 0;
    uint64_t epoch = 0;
    hotset_status status = open_with(c, properties);
    if (status) return status;
    handing h = {.c = c};
    printf("\"how\": ");
    put_text(c->d->note);
    printf(", ");
    status = open_handing(&h);
    __atomic_store_n(&loads_stop, false, __ATOMIC_RELAXED);
    while (!status && running_n < load_n && !pthread_create(&threads[running_n], NULL, load_memory, NULL))
        running_n++;
    if (!status) status = put_handing(&h, round_n, &epoch);
    __atomic_store_n(&loads_stop, true, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < running_n; i++) pthread_join(threads[i], NULL);
    close_handing(&h);
    return status;
}

/* Every way of waiting, with and without graphs, beside an idle host and one whose memory is busy. */
static hotset_status handshake(checking *c) {
    static const char *const ways[] = {"stream", "kernel", "host"}, *const graphs[] = {"on", "off"};
    device_cpu_facts cpu;
    hotset_status last = HOTSET_OK;
    HOTSET_TRY(device_cpu_get_facts(&cpu, &c->err));
    uint32_t busy_n = cpu.thread_n > 2 ? cpu.thread_n - 2 : 1;
    if (busy_n > LOADS_MAX) busy_n = LOADS_MAX;
    printf("{\"ways\": [");
    for (size_t i = 0; i < COUNT_OF(ways) * 4; i++) {
        char properties[64];
        const char *way = ways[i / 4], *graph = graphs[i / 2 % 2];
        const uint32_t load_n = i % 2 ? busy_n : 0;
        if (c->emulated && load_n) continue; /* which would only say how the cores are shared */
        snprintf(properties, sizeof properties, ":wait=%s:graphs=%s", way, graph);
        printf("%s\n  {\"wait\": \"%s\", \"graphs\": \"%s\", \"load_threads\": %u, ", i ? "," : "", way,
               graph, load_n);
        last = handshake_one(c, properties, load_n, c->emulated ? 20 : 1000);
        if (last) {
            printf("\"error\": ");
            put_text(c->err.message);
        }
        printf("}");
        close_all(c);
    }
    printf("]}\n");
    return HOTSET_OK;
}

/* ---- bandwidth ---- */

typedef struct multiplying {
    checking *c;
    device_buffer *pinned, *weights, *rows, *workspace;
    uint64_t weight_bytes, row_bytes;
} multiplying;

enum { MULTIPLY_ROWS = 512, MULTIPLY_OPS = 64 };

/* So large that no cache holds it. */
static hotset_status open_multiplying(multiplying *m, uint32_t in_n, uint32_t out_n) {
    checking *c = m->c;
    const device_interface *api = c->d->api;
    m->weight_bytes = c->emulated ? 1 << 20 : (uint64_t)1 << 30;
    m->row_bytes = (uint64_t)MULTIPLY_ROWS * (in_n + out_n) * sizeof(float);
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_PINNED, STEP_BYTES + 16384 + PATTERN_BYTES, &m->pinned,
                                 &c->err));
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_DEVICE, m->weight_bytes, &m->weights, &c->err));
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_DEVICE, m->row_bytes, &m->rows, &c->err));
    memset(m->pinned->host, 0, STEP_BYTES + 16384);
    uint8_t *pattern = (uint8_t *)m->pinned->host + STEP_BYTES + 16384;
    for (uint64_t i = 0, x = 1; i < PATTERN_BYTES; i++) { /* 0x30 ... 0x3f: ordinary numbers in every type */
        x = x * 6364136223846793005u + 1442695040888963407u;
        pattern[i] = (uint8_t)(0x30 | (x >> 60));
    }
    const struct {
        device_buffer *to;
        uint64_t bytes;
    } fill[] = {{m->weights, m->weight_bytes}, {m->rows, m->row_bytes}};
    for (size_t i = 0; i < COUNT_OF(fill); i++)
        for (uint64_t at = 0; at < fill[i].bytes; at += PATTERN_BYTES)
            HOTSET_TRY(api->copy_async(c->queue, (device_ref){fill[i].to, at},
                                       (device_ref){m->pinned, STEP_BYTES + 16384},
                                       min_u64(PATTERN_BYTES, fill[i].bytes - at), &c->err));
    return api->queue_drain(c->queue, &c->err);
}

static void close_multiplying(multiplying *m) {
    const device_interface *api = m->c->d->api;
    api->buffer_free(m->pinned);
    api->buffer_free(m->weights);
    api->buffer_free(m->rows);
    api->buffer_free(m->workspace);
}

/* Products of row_n rows with one matrix after the other, until all the weights have been read or there are
 * enough. Seconds of one product. */
static hotset_status time_products(multiplying *m, gguf_type type, uint32_t in_n, uint32_t out_n,
                                   uint32_t row_n, double *seconds) {
    checking *c = m->c;
    const device_interface *api = c->d->api;
    const uint64_t row_bytes = gguf_row_bytes(type, in_n), bytes = round_up(row_bytes * out_n, 256);
    device_op op[MULTIPLY_OPS];
    device_list *list;
    double samples[SAMPLES];
    uint32_t op_n = 0;
    for (; op_n < (c->emulated ? 1 : MULTIPLY_OPS) && (op_n + 1) * bytes <= m->weight_bytes; op_n++) {
        op[op_n] = (device_op){.kind = DEVICE_OP_LINEAR, .name = "product", .row_max = row_n};
        op[op_n].linear.x = (device_rows){{m->rows, 0}, in_n};
        op[op_n].linear.part_n = 1;
        op[op_n].linear.part[0].y =
            (device_rows){{m->rows, (uint64_t)MULTIPLY_ROWS * in_n * sizeof(float)}, out_n};
        op[op_n].linear.part[0].w = (device_matrix){.data = {m->weights, op_n * bytes},
                                                    .type = type,
                                                    .in_n = in_n,
                                                    .out_n = out_n,
                                                    .row_bytes = row_bytes};
    }
    api->buffer_free(m->workspace);
    m->workspace = NULL;
    HOTSET_TRY(api->buffer_alloc(c->d, DEVICE_MEMORY_DEVICE, api->workspace_bytes(c->d, op), &m->workspace,
                                 &c->err));
    ((device_step *)m->pinned->host)->row_n = row_n;
    HOTSET_TRY(api->list_record(c->d, op, op_n, (device_ref){m->pinned, 0}, row_n,
                                (device_ref){m->workspace, 0}, &list, &c->err));
    hotset_status status = api->submit(c->queue, list, 1, &c->err);
    if (!status) status = api->queue_drain(c->queue, &c->err);
    const uint32_t sample_n = c->emulated ? 1 : SAMPLES;
    for (uint32_t i = 0; i < sample_n && !status; i++) {
        const uint32_t n = c->emulated || row_n > 8 ? 1 : 8;
        const double begin_s = base_now_s();
        for (uint32_t j = 0; j < n && !status; j++) status = api->submit(c->queue, list, 2 + j, &c->err);
        if (!status) status = api->queue_drain(c->queue, &c->err);
        samples[i] = (base_now_s() - begin_s) / n / op_n;
    }
    api->list_free(list);
    *seconds = status ? 0 : median(samples, sample_n);
    return status;
}

static hotset_status bandwidth(checking *c) {
    static const gguf_type types[] = {GGUF_F32,  GGUF_F16,  GGUF_BF16, GGUF_Q8_0,
                                      GGUF_Q4_0, GGUF_Q4_K, GGUF_Q6_K};
    static const uint32_t rows[] = {1, 2, 4, 8, MULTIPLY_ROWS};
    static const uint32_t shapes[][2] = {{4096, 14336}, {14336, 4096}, {2048, 768}};
    static const uint32_t little[][2] = {{512, 64}, {256, 96}};
    const size_t shape_n = c->emulated ? COUNT_OF(little) : COUNT_OF(shapes);
    bool first = true;
    hotset_limits limits;
    HOTSET_TRY(open_with(c, ""));
    HOTSET_TRY(c->d->api->measure(c->d, NULL, 0, c->emulated ? 0.03 : 3, &limits, &c->err));
    multiplying m = {.c = c};
    hotset_status status = open_multiplying(&m, 14336, 14336);
    printf("{\"read_gb_per_s\": %.1f, \"int8_top_per_s\": %.2f, \"float_tflop_per_s\": %.2f, \"products\": [",
           limits.read_anonymous_bytes_per_s / 1e9, limits.int8_op_per_s / 1e12,
           limits.float_flop_per_s / 1e12);
    for (size_t s = 0; s < shape_n && !status; s++)
        for (size_t t = 0; t < COUNT_OF(types) && !status; t++)
            for (size_t r = 0; r < COUNT_OF(rows) && !status; r++) {
                const uint32_t *shape = c->emulated ? little[s] : shapes[s];
                const uint32_t row_n = c->emulated && rows[r] > 8 ? 16 : rows[r];
                double seconds = 1;
                status = time_products(&m, types[t], shape[0], shape[1], row_n, &seconds);
                if (status) break;
                const double bytes = (double)gguf_row_bytes(types[t], shape[0]) * shape[1];
                const double ops = 2.0 * shape[0] * shape[1] * row_n;
                const bool block = gguf_type_get(types[t])->block_n > 1;
                printf("%s\n  {\"type\": \"%s\", \"in\": %u, \"out\": %u, \"rows\": %u, \"us\": %.2f, "
                       "\"gb_per_s\": %.1f, \"of_read\": %.3f, \"top_per_s\": %.3f, \"of_peak\": %.3f}",
                       first ? "" : ",", gguf_type_get(types[t])->name, shape[0], shape[1], row_n,
                       seconds * 1e6, bytes / seconds / 1e9,
                       bytes / seconds / limits.read_anonymous_bytes_per_s, ops / seconds / 1e12,
                       ops / seconds / (block ? limits.int8_op_per_s : limits.float_flop_per_s));
                first = false;
            }
    printf("]}\n");
    close_multiplying(&m);
    return status;
}

/* ---- drill ---- */

enum { DRILL_S = 30 };

/* What is done while a wait is pending. */
static hotset_status do_drill(handing *h, const char *what, bool *known) {
    checking *c = h->c;
    const device_interface *api = c->d->api;
    device_buffer *b = NULL;
    *known = true;
    if (!strcmp(what, "alloc") || !strcmp(what, "pinned")) {
        const device_memory memory = *what == 'a' ? DEVICE_MEMORY_DEVICE : DEVICE_MEMORY_PINNED;
        HOTSET_TRY(api->buffer_alloc(c->d, memory, 8 << 20, &b, &c->err));
        api->buffer_free(b);
    } else if (!strcmp(what, "launch")) { /* of kernels that have not been launched before */
        hotset_limits limits;
        return api->measure(c->d, NULL, 0, 0.03, &limits, &c->err);
    } else if (!strcmp(what, "record")) {
        handing other = {.c = c};
        const hotset_status status = open_handing(&other);
        api->list_free(other.list);
        api->buffer_free(other.pinned);
        api->buffer_free(other.memory);
        api->buffer_free(other.workspace);
        return status;
    } else if (!strcmp(what, "copy")) {
        device_queue *q;
        HOTSET_TRY(api->queue_open(c->d, DEVICE_QUEUE_COPY, &q, &c->err));
        hotset_status status = api->copy_async(q, (device_ref){h->memory, 0},
                                               (device_ref){h->pinned, HAND_ROW_AT}, ROW_N, &c->err);
        if (!status) status = api->queue_drain(q, &c->err);
        api->queue_close(q);
        return status;
    } else if (!strcmp(what, "open")) {
        checking other = {.name = c->name, .emulated = c->emulated};
        const hotset_status status = open_with(&other, "");
        close_all(&other);
        c->err = other.err;
        return status;
    } else {
        *known = false;
    }
    return HOTSET_OK;
}

/* With a wait pending, in every way; `limit`: nobody ends it but the watch; `close`: but closing. */
static hotset_status drill(checking *c, const char *what) {
    static const char *const ways[] = {"stream", "kernel", "host"};
    const bool limit = !strcmp(what, "limit"), closes = !strcmp(what, "close");
    bool known = true;
    alarm(DRILL_S); /* what hangs is ended, and is a failure */
    printf("{\"ways\": {");
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        char properties[64];
        handing h = {.c = c};
        snprintf(properties, sizeof properties, ":wait=%s%s", ways[i], limit ? ":wait-ms=500" : "");
        hotset_status status = open_with(c, properties);
        printf("%s\"%s\": ", i ? ", " : "", ways[i]);
        if (status == HOTSET_E_UNSUPPORTED) {
            printf("\"not there\"");
            continue;
        }
        if (!status) status = open_handing(&h);
        if (!status) status = c->d->api->submit(c->queue, h.list, 1, &c->err);
        usleep(20000);
        if (!status && !limit && !closes) status = do_drill(&h, what, &known);
        for (uint32_t j = 0; j < HAND_LAYERS && h.pinned && !limit && !closes; j++)
            store(word(&h, GO_AT + LINE * j), 1);
        if (!status && !closes) status = c->d->api->queue_drain(c->queue, &c->err);
        if (limit) {
            const bool told = status == HOTSET_E_DEVICE && strstr(c->err.message, "wait of layer 0 waited");
            status = told ? HOTSET_OK : hotset_fail(&c->err, HOTSET_E_DEVICE, "the watch said nothing");
        }
        if (c->d) {
            c->d->api->queue_close(c->queue);
            c->queue = NULL;
            c->d->api->list_free(h.list);
            c->d->api->buffer_free(h.pinned);
            c->d->api->buffer_free(h.memory);
            c->d->api->buffer_free(h.workspace);
        }
        close_all(c);
        if (!known) return hotset_fail(&c->err, HOTSET_E_ARGUMENT, "there is no drill '%s'", what);
        if (status) return status;
        printf("\"fine\"");
    }
    printf("}}\n");
    return HOTSET_OK;
}

int main(int argc, char **argv) {
    if (argc < 3 || (!strcmp(argv[1], "drill") && argc < 4)) {
        fprintf(stderr,
                "usage: gpu_check there|probe|handshake|bandwidth DEVICE, gpu_check drill DEVICE WHAT\n");
        return 2;
    }
    checking c = {.name = argv[2], .emulated = !strncmp(argv[2], "emu", 3)};
    hotset_status status = HOTSET_E_ARGUMENT;
    hotset_fail(&c.err, status, "there is no check '%s'", argv[1]);
    setvbuf(stdout, NULL, _IOFBF, 1 << 20);
    if (!strcmp(argv[1], "there")) status = describe(&c, &(module_facts){0});
    if (!strcmp(argv[1], "probe")) status = probe(&c);
    if (!strcmp(argv[1], "handshake")) status = handshake(&c);
    if (!strcmp(argv[1], "bandwidth")) status = bandwidth(&c);
    if (!strcmp(argv[1], "drill")) status = drill(&c, argv[3]);
    close_all(&c);
    if (!status) return fflush(stdout) != 0;
    fprintf(stderr, "%s\n", c.err.message);
    _exit(1); /* half an object is none */
}
