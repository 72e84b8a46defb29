/* list.c - lists of operations: checked once, launched again and again.
 *
 * The head of the workspace belongs to the list: the epoch of the submission, then a copy of the step's table
 * in device memory, with as many rows as the list's operations have at most. Behind it is the operations' own
 * workspace.
 *
 * Where a wait is no kernel, it cuts the list: each piece between two waits is launched as a graph, or
 * operation by operation. */
#include "devices/gpu/gpu.h"

#include <stdio.h>
#include <stdlib.h>

/* Operations [from, from + n), behind a wait (operation from - 1) or not. */
typedef struct piece {
    uint32_t from, n;
    bool waits, captured;
    gpuGraphExec graph;
} piece;

struct device_list {
    gpu_device *gpu;
    uint32_t op_n, row_max;    /* of the table in pinned memory */
    uint32_t copy_row_max;     /* of its copy */
    const device_step *pinned; /* as the host sees it: for traces */
    const device_step *step;   /* the same as the device sees it */
    gpu_call call;             /* all but the stream */
    uint64_t *epoch_at;
    device_op *op; /* [op_n] */
    uint32_t piece_n;
    piece *piece;
    gpu_mark *mark;
};

static uint64_t head_bytes(uint32_t row_max) {
    return GPU_ALIGN + round_up(device_step_bytes(row_max), GPU_ALIGN);
}

static hotset_status check_op(const device_op *op, hotset_error *err) {
    const gpu_family *family = gpu_families[op->kind];
    if (!family) return gpu_unsupported(err, op, "operations of kind", device_op_kind_name(op->kind));
    return family->check ? family->check(op, err) : HOTSET_OK;
}

static uint64_t own_workspace_bytes(const device_op *op) {
    const gpu_family *family = gpu_families[op->kind];
    return family->workspace_bytes ? family->workspace_bytes(op) : 0;
}

uint64_t gpu_workspace_bytes(const device *d, const device_op *op) {
    (void)d;
    return check_op(op, NULL) ? 0 : head_bytes(op->row_max) + own_workspace_bytes(op);
}

void gpu_list_free(device_list *l) {
    if (!l) return;
    (void)gpuSetDevice(l->gpu->number);
    for (uint32_t i = 0; i < l->piece_n; i++)
        if (l->piece[i].captured) (void)GPU(GraphExecDestroy)(l->piece[i].graph);
    gpu_mark_give(l->gpu, l->mark);
    free(l->piece);
    free(l->op);
    free(l);
}

/* Memory of another kind of device may be out of reach, that of files is. */
static hotset_status check_ref(const gpu_device *g, const char *name, uint32_t layer_i, device_ref ref,
                               uint64_t align, hotset_error *err) {
    const device_buffer *b = ref.buffer;
    if (b->owner->api != g->base.api)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s of layer %u: %s cannot reach memory of %s", name,
                           layer_i, g->base.name, b->owner->name);
    if (!((const gpu_buffer *)(const void *)b)->device)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED, "%s of layer %u: %s cannot compute with mapped files",
                           name, layer_i, g->base.name);
    if (ref.offset % align || ref.offset > b->bytes)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%s of layer %u: an operand at byte %llu of %llu", name,
                           layer_i, (unsigned long long)ref.offset, (unsigned long long)b->bytes);
    return HOTSET_OK;
}

static hotset_status check_operands(const gpu_device *g, const device_op *op, hotset_error *err) {
    device_ref refs[GPU_REFS_MAX];
    const uint32_t n = gpu_operands(op, refs);
    const bool counter = op->kind == DEVICE_OP_WAIT || op->kind == DEVICE_OP_SIGNAL;
    for (uint32_t i = 0; i < n; i++)
        HOTSET_TRY(check_ref(g, op->name, op->layer_i, refs[i], counter ? 8 : 4, err));
    if (counter && refs[0].buffer->memory != DEVICE_MEMORY_PINNED)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "%s of layer %u: %s: a counter has to stand in pinned memory", op->name,
                           op->layer_i, g->base.name);
    return HOTSET_OK;
}

static hotset_status launch(gpu_device *g, const gpu_call *call, const device_op *op, hotset_error *err) {
    gpu_families[op->kind]->launch(call, op);
    gpuError code = gpuGetLastError();
    return code ? gpu_fail(g, code, err, "launching %s of layer %u", op->name, op->layer_i) : HOTSET_OK;
}

/* A stream's commands from here to end_capture go into a graph. */
static hotset_status begin_capture(gpu_device *g, const char *name, hotset_error *err) {
    gpuError code = gpuStreamBeginCapture(g->capture);
    return code ? gpu_fail(g, code, err, "recording the list from '%s' on", name) : HOTSET_OK;
}

/* Ends it in any case; `*out` is made where the status was and is fine. */
static gpuError end_capture(gpu_device *g, hotset_status status, gpuGraphExec *out) {
    gpuGraph graph;
    gpuError code = GPU(StreamEndCapture)(g->capture, &graph);
    if (code) return code;
    if (!status) code = gpuGraphInstantiate(out, graph);
    (void)GPU(GraphDestroy)(graph);
    return code;
}

/* The piece as a graph: launched as one, and its kernels are on the device before anything waits there, which
 * loading them then would stand in the way of. Where graphs are not wanted they are made for the latter. */
static hotset_status capture(gpu_device *g, device_list *l, piece *p, hotset_error *err) {
    gpu_call call = l->call;
    const char *name = l->op[p->from].name;
    call.stream = g->capture;
    HOTSET_TRY(begin_capture(g, name, err));
    hotset_status status = HOTSET_OK;
    for (uint32_t i = 0; i < p->n && !status; i++) status = launch(g, &call, &l->op[p->from + i], err);
    gpuError code = end_capture(g, status, &p->graph);
    if (status) return status;
    if (code) return gpu_fail(g, code, err, "recording the list from '%s' on", name);
    if (g->graphs)
        p->captured = true;
    else
        (void)GPU(GraphExecDestroy)(p->graph);
    return HOTSET_OK;
}

static gpuError launch_trial(gpu_device *g, gpuGraphExec *exec, bool *made) {
    const uint64_t value = 1;
    gpuError code = gpuStreamBeginCapture(g->capture);
    if (code) return code;
    for (uint64_t i = 0; i <= value; i++) gpu_launch_signal(g->capture, g->words + GPU_NOTHING, i);
    code = gpuGetLastError();
    gpuError ended = end_capture(g, code ? HOTSET_E_DEVICE : HOTSET_OK, exec);
    if (!code) code = ended;
    *made = !code;
    for (int i = 0; i < 2 && !code; i++) {
        __atomic_store_n(g->words + GPU_NOTHING, 0, __ATOMIC_RELEASE);
        code = GPU(GraphLaunch)(*exec, g->capture);
        if (!code) code = gpuStreamSynchronize(g->capture);
        if (!code && __atomic_load_n(g->words + GPU_NOTHING, __ATOMIC_ACQUIRE) != value)
            return GPU(ErrorInvalidValue);
    }
    return code;
}

/* Kernels that are launched without a list are on the device from now on. */
static gpuError load_kernels(gpu_device *g) {
    const gpu_wait_for nothing = {0};
    gpuGraphExec exec;
    gpuError code = gpuStreamBeginCapture(g->capture);
    if (code) return code;
    gpu_launch_step(g->capture, NULL, 1, NULL, 1, 0, NULL);
    gpu_launch_wait(g->capture, &nothing, NULL, NULL);
    gpu_launch_read(g->capture, NULL, 0, 1, NULL);
    gpu_launch_peak(g->capture, false, 0, 1, NULL);
    code = gpuGetLastError();
    gpuError ended = end_capture(g, code ? HOTSET_E_DEVICE : HOTSET_OK, &exec);
    if (code || ended) return code ? code : ended;
    return GPU(GraphExecDestroy)(exec);
}

bool gpu_try_graphs(gpu_device *g, char *why, size_t why_bytes) {
    gpuGraphExec exec;
    bool made = false;
    (void)gpuSetDevice(g->number);
    gpuError code = launch_trial(g, &exec, &made);
    if (!code) code = load_kernels(g);
    if (code) snprintf(why, why_bytes, "%s", gpuGetErrorString(code));
    (void)gpuGetLastError();
    if (made) (void)GPU(GraphExecDestroy)(exec);
    return !code;
}

static bool cuts(const gpu_device *g, const device_op *op) {
    return op->kind == DEVICE_OP_WAIT && g->wait != MODULE_WAIT_KERNEL;
}

static hotset_status cut(device_list *l, hotset_error *err) {
    uint32_t n = 1, wait_n = 0;
    for (uint32_t i = 0; i < l->op_n; i++) {
        n += cuts(l->gpu, &l->op[i]);
        wait_n += l->op[i].kind == DEVICE_OP_WAIT;
    }
    if (wait_n) HOTSET_TRY(gpu_mark_take(l->gpu, &l->mark, err));
    l->call.mark = l->mark;
    HOTSET_TRY(base_calloc(&l->piece, n, sizeof *l->piece, "operations", err));
    l->piece_n = n;
    piece *p = l->piece;
    for (uint32_t i = 0; i < l->op_n; i++)
        if (cuts(l->gpu, &l->op[i]))
            *++p = (piece){.from = i + 1, .waits = true};
        else
            p->n++;
    return HOTSET_OK;
}

hotset_status gpu_list_record(device *d, const device_op *ops, uint32_t op_n, device_ref step,
                              uint32_t row_max, device_ref workspace, device_list **out, hotset_error *err) {
    *out = NULL;
    gpu_device *g = gpu_of(d);
    uint64_t own_bytes = 0;
    uint32_t copy_row_max = 0;
    HOTSET_TRY(gpu_begin(g, err));
    for (uint32_t i = 0; i < op_n; i++) {
        HOTSET_TRY(check_op(&ops[i], err));
        HOTSET_TRY(check_operands(g, &ops[i], err));
        own_bytes = max_u64(own_bytes, own_workspace_bytes(&ops[i]));
        copy_row_max = ops[i].row_max > copy_row_max ? ops[i].row_max : copy_row_max;
    }
    HOTSET_TRY(check_ref(g, "the step's table", 0, step, _Alignof(device_step), err));
    HOTSET_TRY(check_ref(g, "the workspace", 0, workspace, GPU_ALIGN, err));
    const uint64_t bytes = op_n ? head_bytes(copy_row_max) + own_bytes : 0;
    if (bytes > workspace.buffer->bytes - workspace.offset)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the list from '%s' on needs %llu bytes of workspace",
                           ops[0].name, (unsigned long long)bytes);
    if (copy_row_max > row_max)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "a table of %u rows for operations of %u", row_max,
                           copy_row_max);
    device_list *l;
    HOTSET_TRY(base_calloc(&l, 1, sizeof *l, "a list of operations", err));
    hotset_status status = base_calloc(&l->op, op_n ? op_n : 1, sizeof *l->op, "operations", err);
    if (status) {
        gpu_list_free(l);
        return status;
    }
    if (op_n) memcpy(l->op, ops, op_n * sizeof *ops);
    uint8_t *head = gpu_at(workspace);
    device_step *copy = (device_step *)(void *)(head + GPU_ALIGN);
    l->gpu = g;
    l->op_n = op_n;
    l->row_max = row_max;
    l->copy_row_max = copy_row_max;
    l->pinned = step.buffer->host ? (void *)((uint8_t *)step.buffer->host + step.offset) : NULL;
    l->step = (const device_step *)(const void *)gpu_at(step);
    l->epoch_at = (uint64_t *)(void *)head;
    l->call = (gpu_call){.step = copy,
                         .row = device_step_rows(copy),
                         .output = device_step_outputs(copy, copy_row_max),
                         .epoch = l->epoch_at,
                         .abandon = g->words + GPU_ABANDON,
                         .gave_up = g->words + GPU_GAVE_UP,
                         .workspace = head + head_bytes(copy_row_max),
                         .multiprocessor_n = g->multiprocessor_n};
    status = cut(l, err);
    for (uint32_t i = 0; i < l->piece_n && g->captures && !status; i++)
        if (l->piece[i].n) status = capture(g, l, &l->piece[i], err);
    if (status)
        gpu_list_free(l);
    else
        *out = l;
    return status;
}

/* ---- Traces: an event between each two operations ---- */

void gpu_trace_free(device_queue *q) {
    for (uint32_t i = 0; q->event && i < GPU_SPANS_MAX; i++)
        if (q->event[i]) (void)gpuEventDestroy(q->event[i]);
    free(q->event);
    free(q->span);
}

static hotset_status mark(device_queue *q, uint32_t i, hotset_error *err) {
    gpuError code = gpuSuccess;
    if (!q->span) HOTSET_TRY(base_calloc(&q->span, GPU_SPANS_MAX, sizeof *q->span, "a trace", err));
    if (!q->event) HOTSET_TRY(base_calloc(&q->event, GPU_SPANS_MAX, sizeof *q->event, "a trace", err));
    if (!q->event[i]) code = gpuEventCreate(&q->event[i]);
    if (!code) code = gpuEventRecord(q->event[i], q->stream);
    return code ? gpu_fail(q->gpu, code, err, "taking the time") : HOTSET_OK;
}

/* Events tell distances only; the last one, which begins a pause, happened now, or hardly before. */
hotset_status gpu_trace_flush(device_queue *q, hotset_error *err) {
    const double now_s = base_now_s();
    const uint32_t n = q->span_n - 1;
    q->span_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        float begin_ms, end_ms;
        gpuError code = gpuEventElapsedTime(&begin_ms, q->event[i], q->event[n]);
        if (!code) code = gpuEventElapsedTime(&end_ms, q->event[i + 1], q->event[n]);
        if (code) return gpu_fail(q->gpu, code, err, "reading the time");
        if (q->gpu->trace && q->span[i].op)
            q->gpu->trace(q->gpu->trace_cookie, q->span[i].op, q->span[i].row_n, now_s - begin_ms * 1e-3,
                          now_s - end_ms * 1e-3);
    }
    return HOTSET_OK;
}

/* Ends what was running with the queue's last event and begins a span; op NULL: a pause. */
static hotset_status begin_span(device_queue *q, const device_op *op, uint32_t row_n, hotset_error *err) {
    HOTSET_TRY(mark(q, q->span_n, err));
    q->span[q->span_n++] = (gpu_span){op, row_n};
    return HOTSET_OK;
}

/* ---- Submission ---- */

/* Each operation by itself; `tells`: with its time. */
static hotset_status run_each(device_queue *q, device_list *l, const gpu_call *call, const piece *p,
                              bool tells, hotset_error *err) {
    for (uint32_t i = p->from; i < p->from + p->n; i++) {
        const device_op *op = &l->op[i];
        bool spans = tells && q->span_n + 2 < GPU_SPANS_MAX; /* a longer time without a drain is cut off */
        if (spans) HOTSET_TRY(begin_span(q, op, op->outputs ? l->pinned->output_n : l->pinned->row_n, err));
        HOTSET_TRY(launch(q->gpu, call, op, err));
        if (spans && i + 1 == p->from + p->n) HOTSET_TRY(begin_span(q, NULL, 0, err));
    }
    return HOTSET_OK;
}

static hotset_status run_piece(device_queue *q, device_list *l, const gpu_call *call, const piece *p,
                               uint64_t epoch, hotset_error *err) {
    const bool tells = q->gpu->trace && l->pinned;
    if (p->waits) {
        const device_op *op = &l->op[p->from - 1];
        const gpu_wait_for w = gpu_wait_of(call, op);
        bool spans = tells && q->span_n + 2 < GPU_SPANS_MAX;
        if (spans) HOTSET_TRY(begin_span(q, op, l->pinned->row_n, err));
        HOTSET_TRY(gpu_wait_in(q, &w, epoch, err));
        if (spans) HOTSET_TRY(begin_span(q, NULL, 0, err));
    }
    if (!p->captured || tells) return run_each(q, l, call, p, tells, err);
    gpuError code = GPU(GraphLaunch)(p->graph, q->stream);
    if (!code) return HOTSET_OK;
    return gpu_fail(q->gpu, code, err, "launching the list from '%s' on", l->op[p->from].name);
}

hotset_status gpu_list_run(device_queue *q, device_list *l, uint64_t epoch, hotset_error *err) {
    gpu_call call = l->call;
    call.stream = q->stream;
    if (!l->op_n) /* goes the way to the device all the same, as what is measured by it does */
        gpu_launch_signal(q->stream, q->gpu->words + GPU_NOTHING, epoch);
    else
        gpu_launch_step(q->stream, l->step, l->row_max, (device_step *)(uintptr_t)call.step, l->copy_row_max,
                        epoch, l->epoch_at);
    gpuError code = gpuGetLastError();
    if (code) return gpu_fail(q->gpu, code, err, "launching the step's table");
    for (uint32_t i = 0; i < l->piece_n; i++) HOTSET_TRY(run_piece(q, l, &call, &l->piece[i], epoch, err));
    return HOTSET_OK;
}
