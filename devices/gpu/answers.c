/* answers.c - what a GPU is asked when it is opened, and the answers that the host knows: a card, driver or
 * compiler that computes wrongly is found out before it computes a model. Products are held against the plain
 * references of the CPU, so that they are right by definition. */
#include <math.h>
#include <stdlib.h>

#include "devices/cpu/kernels.h"
#include "devices/gpu/gpu.h"

enum { IN = 512, OUT = 40, ROWS_MAX = 12 };
enum { X_BYTES = ROWS_MAX * IN * sizeof(float), W_BYTES = OUT * IN * 2 }; /* half floats are the largest */
/* Of the device's memory, and of pinned memory behind the step's table and the counter. */
enum { X_AT = 0, W_AT = X_AT + X_BYTES, Y_AT = W_AT + W_BYTES, END = Y_AT + X_BYTES };
enum { STEP_AT = 0, COUNTER_AT = 512, MEMORY_AT = 1024 };
#define CLOSE 1e-5 /* relative to the length of the answer */

typedef struct question {
    const char *name;
    device_op_kind kind;
    gguf_type type; /* of products */
    uint32_t row_n;
} question;

/* One row is another kernel than many. */
static const question questions[] = {
    {"norm", DEVICE_OP_NORM, GGUF_F32, ROWS_MAX},
    {"product of Q8_0 weights with one row", DEVICE_OP_LINEAR, GGUF_Q8_0, 1},
    {"product of Q4_K weights with one row", DEVICE_OP_LINEAR, GGUF_Q4_K, 1},
    {"product of Q8_0 weights with many rows", DEVICE_OP_LINEAR, GGUF_Q8_0, ROWS_MAX},
    {"product of Q4_K weights with many rows", DEVICE_OP_LINEAR, GGUF_Q4_K, ROWS_MAX},
    {"product of F16 weights with one row", DEVICE_OP_LINEAR, GGUF_F16, 1},
    {"product of F16 weights with many rows", DEVICE_OP_LINEAR, GGUF_F16, ROWS_MAX},
};

typedef struct asking {
    device *d;
    device_queue *queue;
    device_buffer *pinned, *memory, *workspace;
    device_list *list;
    float want[ROWS_MAX * IN];
    uint32_t want_n;
} asking;

static uint8_t *host_at(const asking *a, uint64_t at) { return (uint8_t *)a->pinned->host + at; }
static float *floats_at(const asking *a, uint64_t at) { return (float *)(void *)host_at(a, MEMORY_AT + at); }

/* ---- Questions ---- */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static float next_float(uint64_t *state) { return (float)(next_random(state) >> 40) / (float)(1 << 23) - 1; }

/* Any bits, but for the scales, which are harmless. */
static void draw_weights(uint8_t *w, gguf_type type, uint64_t *state) {
    const uint64_t bytes = gguf_row_bytes(type, IN) * OUT;
    const uint16_t scale = ref_f32_to_f16(0.01f);
    for (uint64_t i = 0; i < bytes; i++) w[i] = (uint8_t)(next_random(state) >> 24);
    for (uint8_t *block = w; block < w + bytes; block += gguf_type_get(type)->block_bytes) {
        const uint16_t half = ref_f32_to_f16(next_float(state));
        memcpy(block, type == GGUF_F16 ? &half : &scale, sizeof scale);
        if (type == GGUF_Q4_K) memcpy(block + offsetof(quant_q4_k, dmin), &scale, sizeof scale);
    }
}

static void answer_norm(asking *a) {
    for (uint32_t r = 0; r < ROWS_MAX; r++) {
        const float *x = floats_at(a, X_AT) + r * IN;
        double square = 0;
        for (uint32_t i = 0; i < IN; i++) square += (double)x[i] * x[i];
        for (uint32_t i = 0; i < IN; i++) a->want[r * IN + i] = (float)(x[i] / sqrt(square / IN));
    }
    a->want_n = ROWS_MAX * IN;
}

static void answer_product(asking *a, const question *q) {
    const uint8_t *w = host_at(a, MEMORY_AT + W_AT);
    const uint64_t row_bytes = gguf_row_bytes(q->type, IN);
    for (uint32_t r = 0; r < q->row_n; r++) {
        const float *x = floats_at(a, X_AT) + r * IN;
        if (q->type == GGUF_F16)
            ref_gemv_float(a->want + r * OUT, w, row_bytes, OUT, x, IN, q->type);
        else
            ref_gemv_int(a->want + r * OUT, w, row_bytes, OUT, x, IN, q->type);
    }
    a->want_n = q->row_n * OUT;
}

static device_op op_of(const asking *a, const question *q) {
    device_op op = {.kind = q->kind, .name = q->name, .row_max = q->row_n};
    const device_rows x = {{a->memory, X_AT}, IN};
    if (q->kind == DEVICE_OP_NORM) {
        op.norm.x = x;
        op.norm.y = (device_rows){{a->memory, Y_AT}, IN};
        op.norm.n = IN;
        return op;
    }
    op.linear.x = x;
    op.linear.part_n = 1;
    op.linear.part[0].y = (device_rows){{a->memory, Y_AT}, OUT};
    op.linear.part[0].w = (device_matrix){.data = {a->memory, W_AT},
                                          .type = q->type,
                                          .in_n = IN,
                                          .out_n = OUT,
                                          .row_bytes = gguf_row_bytes(q->type, IN)};
    return op;
}

static void draw_question(asking *a, const question *q, uint64_t seed) {
    uint64_t state = seed;
    float *x = floats_at(a, X_AT);
    for (uint32_t i = 0; i < ROWS_MAX * IN; i++) x[i] = next_float(&state);
    if (q->kind == DEVICE_OP_NORM) {
        answer_norm(a);
        return;
    }
    draw_weights(host_at(a, MEMORY_AT + W_AT), q->type, &state);
    answer_product(a, q);
}

/* ---- Asking ---- */

static hotset_status open_asking(asking *a, hotset_error *err) {
    const device_interface *api = a->d->api;
    uint64_t workspace_bytes = 0;
    HOTSET_TRY(api->queue_open(a->d, DEVICE_QUEUE_COMPUTE, &a->queue, err));
    HOTSET_TRY(api->buffer_alloc(a->d, DEVICE_MEMORY_PINNED, MEMORY_AT + END, &a->pinned, err));
    HOTSET_TRY(api->buffer_alloc(a->d, DEVICE_MEMORY_DEVICE, END, &a->memory, err));
    for (size_t i = 0; i < COUNT_OF(questions); i++) {
        const device_op op = op_of(a, &questions[i]);
        workspace_bytes = max_u64(workspace_bytes, api->workspace_bytes(a->d, &op));
    }
    HOTSET_TRY(api->buffer_alloc(a->d, DEVICE_MEMORY_DEVICE, workspace_bytes, &a->workspace, err));
    memset(a->pinned->host, 0, MEMORY_AT + END);
    return HOTSET_OK;
}

/* Operands there, the operation and a signal, the answer back. */
static hotset_status run(asking *a, const question *q, uint64_t epoch, hotset_error *err) {
    const device_interface *api = a->d->api;
    const device_op op[] = {op_of(a, q),
                            {.kind = DEVICE_OP_SIGNAL,
                             .name = "self-test",
                             .row_max = q->row_n,
                             .counter.counter = {a->pinned, COUNTER_AT}}};
    const device_ref there = {a->memory, 0}, here = {a->pinned, MEMORY_AT};
    ((device_step *)(void *)host_at(a, STEP_AT))->row_n = q->row_n;
    HOTSET_TRY(api->list_record(a->d, op, COUNT_OF(op), (device_ref){a->pinned, STEP_AT}, q->row_n,
                                (device_ref){a->workspace, 0}, &a->list, err));
    HOTSET_TRY(api->copy_async(a->queue, there, here, Y_AT, err));
    HOTSET_TRY(api->submit(a->queue, a->list, epoch, err));
    HOTSET_TRY(api->copy_async(a->queue, device_ref_at(here, Y_AT), device_ref_at(there, Y_AT),
                               a->want_n * sizeof(float), err));
    HOTSET_TRY(api->queue_drain(a->queue, err));
    api->list_free(a->list);
    a->list = NULL;
    return HOTSET_OK;
}

static hotset_status check(const asking *a, const question *q, uint64_t epoch, hotset_error *err) {
    const float *got = floats_at(a, Y_AT);
    double difference = 0, norm = 0;
    for (uint32_t i = 0; i < a->want_n; i++) {
        const double apart = (double)got[i] - a->want[i];
        difference += apart * apart;
        norm += (double)a->want[i] * a->want[i];
    }
    if (!(sqrt(difference) <= CLOSE * sqrt(norm)))
        return hotset_fail(err, HOTSET_E_DEVICE,
                           "%s computes wrongly: the self-test's %s has a relative error of %.1e", a->d->name,
                           q->name, sqrt(difference / norm));
    if (*(const uint64_t *)(const void *)host_at(a, COUNTER_AT) == epoch) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_DEVICE,
                       "%s computes wrongly: the self-test's signal behind the %s is missing", a->d->name,
                       q->name);
}

hotset_status gpu_ask_answers(device *d, hotset_error *err) {
    asking *a;
    HOTSET_TRY(base_calloc(&a, 1, sizeof *a, "a self-test", err));
    a->d = d;
    hotset_status status = open_asking(a, err);
    for (size_t i = 0; i < COUNT_OF(questions) && !status; i++) {
        draw_question(a, &questions[i], i + 1);
        status = run(a, &questions[i], i + 1, err);
        if (!status) status = check(a, &questions[i], i + 1, err);
    }
    d->api->queue_close(a->queue);
    d->api->list_free(a->list);
    d->api->buffer_free(a->pinned);
    d->api->buffer_free(a->memory);
    d->api->buffer_free(a->workspace);
    free(a);
    return status;
}
