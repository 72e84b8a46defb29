/* measure_work.c - pieces of work for measuring: their operands, and the lists that do them. */
#include "devices/measure_work.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "devices/lanes.h"

enum {
    ROWS_MAX = 512,            /* of activations */
    OPERATIONS_MAX = 256,      /* of a list */
    X_FLOATS = ROWS_MAX << 12, /* activations: 512 rows of 4096 */
    Y_FLOATS = 4 << 20,
    MATRIX_ROWS_MAX = 1 << 18,
    MATRIX_ROWS_MIN = 256, /* a group of the K-quants, stored by neuron */
    PRODUCT_ROWS_MIN = 32,
    STAGING_BYTES = 4 << 20,
    POSITIONS_MAX = 4096,
    /* heads of a common model: 4 query heads share a key head */
    HEAD_N = 32,
    HEAD_KV_N = 8,
    HEAD_WIDTH = 128
};

/* Layout of `numbers`: the verdict of a choice, bytes left out, then the list of active neurons; and at an
 * offset of its own a second list that is written. */
enum { VERDICT_AT = 0, SKIPPED_AT = 64, LIST_AT = 128, WRITTEN_AT = LIST_AT + 4 * (MATRIX_ROWS_MAX + 64) };
enum { NUMBERS_BYTES = WRITTEN_AT + 4 * (MATRIX_ROWS_MAX + 64) };

/* xorshift64* (Vigna 2016) */
static uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dULL;
}

/* ---- Memory ---- */

static hotset_status allocate(workbench *b, device_memory memory, uint64_t bytes, device_buffer **out,
                              hotset_error *err) {
    return b->d->api->buffer_alloc(b->d, memory, bytes, out, err);
}

static hotset_status copy_now(workbench *b, device_ref to, device_ref from, uint64_t bytes,
                              hotset_error *err) {
    HOTSET_TRY(b->d->api->copy_async(b->queue, to, from, bytes, err));
    return b->d->api->queue_drain(b->queue, err);
}

/* Bytes 0x30 ... 0x3f: whatever of them a block type takes for a scale, half, bfloat or float is an ordinary
 * number, and quants are any. So one slab serves all types. */
static hotset_status fill(workbench *b, device_buffer *buffer, hotset_error *err) {
    uint8_t *bytes = b->staging->host;
    for (uint32_t i = 0; i < STAGING_BYTES; i += 8) {
        uint64_t r = (next_random(&b->random) & 0x0f0f0f0f0f0f0f0fULL) | 0x3030303030303030ULL;
        memcpy(bytes + i, &r, sizeof r);
    }
    for (uint64_t at = 0; at < buffer->bytes; at += STAGING_BYTES)
        HOTSET_TRY(copy_now(b, (device_ref){buffer, at}, (device_ref){b->staging, 0},
                            min_u64(STAGING_BYTES, buffer->bytes - at), err));
    return HOTSET_OK;
}

hotset_status workbench_open(workbench *b, device *d, uint64_t slab_bytes, const workbench *shared,
                             hotset_error *err) {
    *b = (workbench){.d = d, .random = 0x9e3779b97f4a7c15ULL};
    HOTSET_TRY(base_calloc(&b->op, OPERATIONS_MAX, sizeof *b->op, "operations to be measured", err));
    HOTSET_TRY(d->api->queue_open(d, DEVICE_QUEUE_COMPUTE, &b->queue, err));
    HOTSET_TRY(allocate(b, DEVICE_MEMORY_PINNED, STAGING_BYTES, &b->staging, err));
    HOTSET_TRY(allocate(b, DEVICE_MEMORY_PINNED, device_step_bytes(ROWS_MAX), &b->step, err));
    HOTSET_TRY(allocate(b, DEVICE_MEMORY_DEVICE, X_FLOATS * sizeof(float), &b->x, err));
    HOTSET_TRY(allocate(b, DEVICE_MEMORY_DEVICE, Y_FLOATS * sizeof(float), &b->y, err));
    HOTSET_TRY(allocate(b, DEVICE_MEMORY_DEVICE, NUMBERS_BYTES, &b->numbers, err));
    HOTSET_TRY(fill(b, b->x, err));
    if (shared) return d->api->buffer_wrap(d, shared->slab->host, shared->slab->bytes, &b->slab, err);
    HOTSET_TRY(allocate(b, DEVICE_MEMORY_DEVICE, slab_bytes, &b->slab, err));
    return fill(b, b->slab, err);
}

void workbench_close(workbench *b) {
    if (!b->d) return;
    device_buffer *const buffers[] = {b->slab, b->x, b->y, b->numbers, b->staging, b->step, b->workspace};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i]) b->d->api->buffer_free(buffers[i]);
    if (b->queue) b->d->api->queue_close(b->queue);
    free(b->op);
    *b = (workbench){0};
}

/* The next part of the slab, on a boundary that every device is content with. */
static device_ref take_slab(workbench *b, uint64_t bytes) {
    uint64_t at = round_up(b->slab_at, max_u64(b->d->alignment, 4096));
    if (at + bytes > b->slab->bytes) at = 0;
    b->slab_at = at + bytes;
    return (device_ref){b->slab, at};
}

static hotset_status need_workspace(workbench *b, uint32_t op_n, hotset_error *err) {
    uint64_t bytes = 64;
    for (uint32_t i = 0; i < op_n; i++) bytes = max_u64(bytes, b->d->api->workspace_bytes(b->d, &b->op[i]));
    if (b->workspace && b->workspace->bytes >= bytes) return HOTSET_OK;
    if (b->workspace) b->d->api->buffer_free(b->workspace);
    b->workspace = NULL;
    return allocate(b, DEVICE_MEMORY_DEVICE, bytes, &b->workspace, err);
}

/* ---- Matrices ---- */

static bool by_neuron(const work *w) {
    return w->kind == WORK_WEIGHTS && (w->access == MACHINE_SUMS || w->access == MACHINE_SUMS_BY_ROW);
}

/* The groups of a matrix stored by neuron; every row its own where a matrix is not. */
static neurons_form form_of(const work *w) {
    neurons_form f = {.group_n = 1};
    if (w->kind == WORK_WEIGHTS && w->access == MACHINE_SUMS) neurons_form_of(w->type, w->width, &f);
    return f;
}

uint64_t work_row_bytes(const work *w) {
    neurons_form f = form_of(w);
    return f.group_n > 1 ? neurons_row_bytes(f, w->width) : gguf_row_bytes(w->type, w->width);
}

static uint64_t matrix_bytes(const work *w, uint32_t units) {
    neurons_form f = form_of(w);
    return f.group_n > 1 ? neurons_group_bytes(f, w->width) * (units / f.group_n)
                         : gguf_row_bytes(w->type, w->width) * units;
}

/* Float types stand by neuron and by row alike; block types must have a form. */
static bool makes_sense(const work *w) {
    neurons_form f;
    const gguf_type_info *info = gguf_type_get(w->type);
    if (w->kind != WORK_WEIGHTS && w->kind != WORK_PRODUCT) return true;
    if (!info || w->width % info->block_n) return false;
    if (!by_neuron(w)) return true;
    if (w->access == MACHINE_SUMS_BY_ROW) return info->block_n > 1;
    return neurons_form_of(w->type, w->width, &f) && MATRIX_ROWS_MIN % f.group_n == 0;
}

uint32_t work_units_min(const work *w) {
    switch (w->kind) {
    case WORK_WEIGHTS: return MATRIX_ROWS_MIN;
    case WORK_PRODUCT: return PRODUCT_ROWS_MIN;
    case WORK_ATTEND_READ:
    case WORK_ATTEND_COMPUTE: return ROWS_MAX;
    default: return 1;
    }
}

static uint64_t position_bytes(const work *w) {
    return 2 * HEAD_KV_N * gguf_row_bytes(machine_state_type(w->state), HEAD_WIDTH);
}

uint32_t work_units_max(const workbench *b, const work *w) {
    uint64_t part = b->slab->bytes / 4, n;
    if (!makes_sense(w)) return 0;
    switch (w->kind) {
    case WORK_SUBMIT: return 1;
    case WORK_WEIGHTS:
    case WORK_PRODUCT:
        n = min_u64(MATRIX_ROWS_MAX, part / (matrix_bytes(w, MATRIX_ROWS_MIN) / MATRIX_ROWS_MIN + 1));
        if (w->kind != WORK_PRODUCT) break;
        n = (uint64_t)w->width * w->row_n > X_FLOATS ? 0 : min_u64(n, Y_FLOATS / w->row_n);
        break;
    case WORK_ATTEND_READ:
    case WORK_ATTEND_COMPUTE: n = min_u64(POSITIONS_MAX, part / position_bytes(w)); break;
    default: n = OPERATIONS_MAX; break;
    }
    return (uint32_t)(n / work_units_min(w) * work_units_min(w));
}

/* A fresh list of about share * n of n neurons, rising, brought to the device; counts the groups of `group_n`
 * that it touches. */
static hotset_status draw_list(workbench *b, uint32_t n, double share, uint32_t group_n, uint32_t *count,
                               uint32_t *group_count, hotset_error *err) {
    uint32_t *list = b->staging->host, active = 0, groups = 0, last = UINT32_MAX;
    uint32_t limit = share < 1 ? (uint32_t)(share * UINT32_MAX) : UINT32_MAX;
    for (uint32_t i = 0; i < n; i++)
        if ((uint32_t)(next_random(&b->random) >> 32) <= limit) {
            list[2 + active++] = i;
            groups += i / group_n != last;
            last = i / group_n;
        }
    list[0] = 1; /* the verdict */
    list[1] = active;
    *count = active;
    *group_count = groups;
    HOTSET_TRY(copy_now(b, (device_ref){b->numbers, VERDICT_AT}, (device_ref){b->staging, 0}, 4, err));
    return copy_now(b, (device_ref){b->numbers, LIST_AT}, (device_ref){b->staging, 4}, 4 * (active + 1), err);
}

static device_choice choice_at(workbench *b, uint32_t neuron_n, uint64_t list_at) {
    return (device_choice){{b->numbers, VERDICT_AT}, {{b->numbers, list_at}, neuron_n + 1}};
}

/* ---- Operations ---- */

/* Each of these writes the list's operations and tells the amount; the step has row_n rows. */
typedef struct list_plan {
    uint32_t op_n, row_n;
    double amount;
} list_plan;

static device_rows rows_of(device_buffer *buffer, uint32_t stride) {
    return (device_rows){{buffer, 0}, stride};
}

static hotset_status plan_matrix(workbench *b, const work *w, uint32_t units, list_plan *p,
                                 hotset_error *err) {
    bool sums = by_neuron(w), listed = w->kind == WORK_WEIGHTS && w->access != MACHINE_DENSE;
    neurons_form f = form_of(w);
    uint32_t in_n = sums ? units : w->width, out_n = sums ? w->width : units;
    uint32_t count = units, groups = 0;
    b->op[0] = (device_op){.kind = DEVICE_OP_LINEAR, .row_max = p->row_n, .name = "measured product"};
    b->op[0].linear.x = rows_of(b->x, in_n);
    b->op[0].linear.part_n = 1;
    device_linear_part *part = &b->op[0].linear.part[0];
    part->y = rows_of(b->y, out_n);
    part->w = (device_matrix){.data = take_slab(b, matrix_bytes(w, units)),
                              .type = w->type,
                              .in_n = in_n,
                              .out_n = out_n,
                              .row_bytes =
                                  gguf_row_bytes(w->type, w->access == MACHINE_SUMS_BY_ROW ? w->width : in_n),
                              .order = !sums                              ? NEURONS_BY_OUTPUT
                                       : w->access == MACHINE_SUMS_BY_ROW ? NEURONS_BY_ROW
                                                                          : NEURONS_BY_NEURON};
    /* as copied weights stand that nothing is taken out of; the bytes are random in any order */
    part->w.interleaved = !listed && units % LANES_ROWS == 0 && b->d->interleaved_types >> w->type & 1;
    if (listed) {
        HOTSET_TRY(draw_list(b, units, w->share, f.group_n, &count, &groups, err));
        b->op[0].linear.choice = choice_at(b, units, LIST_AT);
    }
    p->op_n = 1;
    if (w->kind == WORK_PRODUCT)
        p->amount = 2.0 * w->width * units * w->row_n;
    else
        p->amount = (double)count * (double)work_row_bytes(w) +
                    (f.group_n > 1 ? (double)groups * (double)neurons_header_bytes(f, w->width) : 0);
    return HOTSET_OK;
}

/* Gates of which a share is above zero. */
static hotset_status draw_gate(workbench *b, uint32_t n, double share, hotset_error *err) {
    float *gate = b->staging->host;
    for (uint32_t i = 0; i < n; i++)
        gate[i] = (double)(next_random(&b->random) >> 11) * 0x1p-53 < share ? 1.0f : -1.0f;
    return copy_now(b, (device_ref){b->y, 0}, (device_ref){b->staging, 0}, n * sizeof *gate, err);
}

static hotset_status plan_select(workbench *b, const work *w, uint32_t units, list_plan *p,
                                 hotset_error *err) {
    uint64_t row_bytes = gguf_row_bytes(GGUF_F16, w->width);
    device_matrix up = {
        .data = {b->slab, 0}, .type = GGUF_F16, .in_n = w->width, .out_n = w->width, .row_bytes = row_bytes};
    HOTSET_TRY(draw_gate(b, w->width, w->share, err));
    for (uint32_t i = 0; i < units; i++) {
        b->op[i] = (device_op){.kind = DEVICE_OP_SELECT, .row_max = 1, .name = "measured selection"};
        b->op[i].select.x = rows_of(b->y, w->width);
        b->op[i].select.n = w->width;
        b->op[i].select.per_row = 1;
        b->op[i].select.part_n = b->op[i].select.spared_n = 2;
        b->op[i].select.part[0] = b->op[i].select.part[1] = up;
        b->op[i].select.part[1].order = NEURONS_BY_NEURON;
        b->op[i].select.choice = choice_at(b, w->width, WRITTEN_AT);
        b->op[i].select.skipped = (device_ref){b->numbers, SKIPPED_AT};
    }
    p->op_n = units;
    p->amount = (double)units * w->width;
    return HOTSET_OK;
}

static void plan_vector(workbench *b, const work *w, uint32_t units, list_plan *p) {
    for (uint32_t i = 0; i < units; i++) {
        b->op[i] = (device_op){.kind = DEVICE_OP_NORM, .row_max = 1, .name = "measured norm"};
        b->op[i].norm.x = rows_of(b->x, w->width);
        b->op[i].norm.y = rows_of(b->y, w->width);
        b->op[i].norm.n = w->width;
        b->op[i].norm.weight = (device_ref){b->x, (uint64_t)w->width * sizeof(float)};
        b->op[i].norm.epsilon = 1e-5f;
    }
    p->op_n = units;
    p->amount = (double)units * w->width;
}

/* For the outputs of a step that wants none: a product, which CPUs share out and meet after, then two
 * gatherings, which one thread does by itself. So they follow each other in a layer. */
static void plan_operations(workbench *b, uint32_t units, list_plan *p) {
    const device_rows x = rows_of(b->x, HEAD_WIDTH), y = rows_of(b->y, HEAD_WIDTH);
    for (uint32_t i = 0; i < units; i++) {
        device_op *op = &b->op[i];
        *op = (device_op){
            .kind = DEVICE_OP_GATHER, .outputs = true, .row_max = 1, .name = "measured operation"};
        if (i % 3) {
            op->gather.x = x;
            op->gather.y = y;
            op->gather.n = HEAD_WIDTH;
            continue;
        }
        op->kind = DEVICE_OP_LINEAR;
        op->linear.x = x;
        op->linear.part_n = 1;
        op->linear.part[0].y = y;
        op->linear.part[0].w = (device_matrix){.data = {b->slab, 0},
                                               .type = GGUF_F32,
                                               .in_n = HEAD_WIDTH,
                                               .out_n = HEAD_WIDTH,
                                               .row_bytes = HEAD_WIDTH * sizeof(float)};
    }
    p->op_n = units;
    p->amount = units;
}

static void plan_attend(workbench *b, const work *w, uint32_t units, list_plan *p) {
    const uint32_t context_n = (uint32_t)round_up(units, DEVICE_STATE_GROUP);
    uint64_t half = position_bytes(w) / 2 * context_n;
    device_ref state = take_slab(b, 2 * half);
    b->op[0] = (device_op){.kind = DEVICE_OP_ATTEND, .row_max = p->row_n, .name = "measured attention"};
    b->op[0].attend.q = rows_of(b->x, HEAD_N * HEAD_WIDTH);
    b->op[0].attend.y = rows_of(b->y, HEAD_N * HEAD_WIDTH);
    b->op[0].attend.head_n = HEAD_N;
    b->op[0].attend.head_kv_n = HEAD_KV_N;
    b->op[0].attend.key_n = b->op[0].attend.value_n = HEAD_WIDTH;
    b->op[0].attend.scale = 1 / sqrtf(HEAD_WIDTH);
    b->op[0].attend.key_state = state;
    b->op[0].attend.value_state = device_ref_at(state, half);
    b->op[0].attend.key_slot_bytes = b->op[0].attend.value_slot_bytes = half;
    b->op[0].attend.context_n = context_n;
    b->op[0].attend.state = machine_state_type(w->state);
    b->op[0].attend.rounded = true; /* as in models of block types */
    device_row *row = device_step_rows(b->step->host);
    double seen_n = 0;
    for (uint32_t r = 0; r < p->row_n; r++) {
        row[r] = (device_row){.position = (int32_t)(units - p->row_n + r)};
        seen_n += row[r].position + 1;
    }
    p->op_n = 1;
    p->amount = w->kind == WORK_ATTEND_READ ? (double)position_bytes(w) * units
                                            : 2.0 * (HEAD_WIDTH + HEAD_WIDTH) * HEAD_N * seen_n;
}

static hotset_status plan_list(workbench *b, const work *w, uint32_t units, list_plan *p, hotset_error *err) {
    *p = (list_plan){.row_n = w->kind == WORK_PRODUCT || w->kind == WORK_ATTEND_COMPUTE ? w->row_n : 1};
    switch (w->kind) {
    case WORK_SUBMIT: plan_operations(b, 1, p); return HOTSET_OK;
    case WORK_OPERATIONS: plan_operations(b, units, p); return HOTSET_OK;
    case WORK_VECTOR: plan_vector(b, w, units, p); return HOTSET_OK;
    case WORK_SELECT: return plan_select(b, w, units, p, err);
    case WORK_WEIGHTS:
    case WORK_PRODUCT: return plan_matrix(b, w, units, p, err);
    case WORK_ATTEND_READ:
    case WORK_ATTEND_COMPUTE: plan_attend(b, w, units, p); return HOTSET_OK;
    }
    return HOTSET_OK;
}

hotset_status work_time(workbench *b, const work *w, uint32_t units, double *seconds, double *amount,
                        hotset_error *err) {
    list_plan p;
    device_list *list;
    device_row *row = device_step_rows(b->step->host);
    memset(row, 0, sizeof *row * ROWS_MAX);
    HOTSET_TRY(plan_list(b, w, units, &p, err));
    *(device_step *)b->step->host = (device_step){.row_n = p.row_n};
    HOTSET_TRY(need_workspace(b, p.op_n, err));
    HOTSET_TRY(b->d->api->list_record(b->d, b->op, p.op_n, (device_ref){b->step, 0}, ROWS_MAX,
                                      (device_ref){b->workspace, 0}, &list, err));
    double begin_s = base_now_s();
    hotset_status status = b->d->api->submit(b->queue, list, ++b->epoch, err);
    if (!status) status = b->d->api->queue_drain(b->queue, err);
    *seconds = base_now_s() - begin_s;
    *amount = p.amount;
    b->d->api->list_free(list);
    return status;
}
