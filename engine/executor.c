/* executor.c - opening an engine from a plan, and running its steps. */
#include "engine/executor.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Opening ---- */

hotset_engine_options hotset_engine_default_options(void) { return (hotset_engine_options){0}; }

void engine_log(const hotset_engine *e, hotset_log_level level, const char *format, ...) {
    if (!e->options.log) return;
    char message[256];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    e->options.log(e->options.log_cookie, level, message);
}

static void trace_cpu(void *cookie, const device_op *op, uint32_t row_n, double begin_s, double end_s) {
    hotset_engine *e = cookie;
    trace_op(e->trace, e->device->name, op, row_n, begin_s, end_s);
}

static hotset_status open_trace(hotset_engine *e, hotset_error *err) {
    if (!e->options.trace_path) return HOTSET_OK;
    HOTSET_TRY(trace_open(&e->trace, e->options.trace_path, err));
    e->device->api->set_trace(e->device, trace_cpu, e);
    return HOTSET_OK;
}

static hotset_status open_device(hotset_engine *e, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    uint64_t capacity_bytes, free_bytes;
    HOTSET_TRY(device_cpu_open(&e->device, &(device_cpu_options){o->thread_n, o->isa}, err));
    HOTSET_TRY(e->device->api->memory(e->device, &capacity_bytes, &free_bytes, err));
    if (e->plan.footprint.total_bytes > free_bytes)
        return hotset_fail(err, HOTSET_E_NOFIT,
                           "host memory: the plan needs %llu bytes, there are %llu free of %llu",
                           (unsigned long long)e->plan.footprint.total_bytes, (unsigned long long)free_bytes,
                           (unsigned long long)capacity_bytes);
    return e->device->api->queue_open(e->device, DEVICE_QUEUE_COMPUTE, &e->queue, err);
}

static hotset_status load_weights(hotset_engine *e, const plan_data *places, hotset_error *err) {
    bool copied = e->plan.options.memory == HOTSET_MEMORY_COPIED;
    double begin_s = base_now_s();
    weights_progress progress = {e->options.cancel, e->options.cancel_cookie};
    HOTSET_TRY(weights_load(&e->weights, e->device, e->queue, e->model, copied, e->plan.options.sparsity,
                            places, &progress, err));
    assert(!copied || e->weights.copies->bytes == e->plan.footprint.weights_copied_bytes);
    if (copied)
        engine_log(e, HOTSET_LOG_OBJECT,
                   "copied %.1f MiB of weights to memory in %.2f s; the file's pages were released",
                   (double)e->plan.footprint.weights_copied_bytes / (1 << 20), base_now_s() - begin_s);
    if (e->weights.reordered_bytes)
        engine_log(e, HOTSET_LOG_OBJECT, "of these %.1f MiB were reordered by neuron, in the same bytes",
                   (double)e->weights.reordered_bytes / (1 << 20));
    if (e->plan.options.sparsity != HOTSET_SPARSITY_OFF)
        engine_log(e, HOTSET_LOG_OBJECT, "%s skipping is on",
                   e->plan.options.sparsity == HOTSET_SPARSITY_EXACT ? "exact" : "predicted");
    if (e->plan.footprint.weights_mapped_bytes)
        engine_log(e, HOTSET_LOG_OBJECT, "%.1f MiB of %s are read from the mapped file",
                   (double)e->plan.footprint.weights_mapped_bytes / (1 << 20),
                   copied ? "cold experts" : "weights");
    return HOTSET_OK;
}

static hotset_status open_record(hotset_engine *e, forward_place *place, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    if (!o->record) return HOTSET_OK;
    HOTSET_TRY(tally_layout(&e->tally, e->model, o->sparsity, o->batch_n, err));
    HOTSET_TRY(
        e->device->api->buffer_alloc(e->device, DEVICE_MEMORY_PINNED, e->tally.bytes, &e->record, err));
    place->tally = &e->tally;
    place->record = (device_ref){e->record, 0};
    return HOTSET_OK;
}

static hotset_status open_steps(hotset_engine *e, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    const device_interface *api = e->device->api;
    HOTSET_TRY(state_layout(&e->state, e->model, o->context_n, o->session_n,
                            o->state_type == HOTSET_STATE_F16, err));
    HOTSET_TRY(state_alloc(&e->state, e->device, err));
    HOTSET_TRY(api->buffer_alloc(e->device, DEVICE_MEMORY_PINNED, engine_table_slab_bytes(o->batch_n),
                                 &e->tables, err));
    e->step = (device_ref){e->tables, 0};
    e->done = (device_ref){e->tables, round_up(device_step_bytes(o->batch_n), FOOTPRINT_ALIGN)};
    e->skipped = device_ref_at(e->done, FOOTPRINT_ALIGN);
    forward_place place = {.model = e->model,
                           .weights = &e->weights,
                           .state = &e->state,
                           .sparsity = o->sparsity,
                           .skip_by_cost = e->plan.skip_by_cost,
                           .done = e->done,
                           .skipped = e->skipped};
    HOTSET_TRY(open_record(e, &place, err));
    uint64_t workspace_bytes;
    HOTSET_TRY(schedule_workspace_bytes(&place, e->device, o->batch_n, &workspace_bytes, err));
    footprint_widths widths = forward_widths(e->model, o->sparsity);
    e->layout = footprint_scratch_layout(&widths, o->batch_n, workspace_bytes);
    assert(e->layout.bytes == e->plan.footprint.scratch_bytes);
    assert(e->state.slot_bytes * o->session_n == e->plan.footprint.state_bytes);
    HOTSET_TRY(api->buffer_alloc(e->device, DEVICE_MEMORY_PINNED, e->layout.bytes, &e->scratch, err));
    place.scratch = (device_ref){e->scratch, 0};
    place.layout = e->layout;
    return schedule_build(&e->schedule, e->device, &place, e->step, o->batch_n, err);
}

/* What this engine can execute: plans for the model, on the devices that it has. */
static hotset_status check_plan(const hotset_model *m, const hotset_plan *p, hotset_error *err) {
    if (!p->shape.layer_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "the plan was read without its model: it can only be described");
    if (memcmp(&p->shape, &m->shape, sizeof p->shape))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the plan was made for another model (%s %s)",
                           p->shape.architecture, p->shape.name);
    for (uint32_t l = 0; l < p->data->layer_n; l++)
        if (p->data->layer[l].kind == PLAN_NEURONS && plan_layer_units(&p->data->layer[l], PLAN_IN_FILE))
            return hotset_fail(
                err, HOTSET_E_UNSUPPORTED,
                "the plan leaves neurons of layer %u in the file; only whole experts are read from there", l);
    for (uint32_t d = 1; d < p->data->device_n; d++)
        if (plan_device_used(p->data, d))
            return hotset_fail(
                err, HOTSET_E_UNSUPPORTED,
                "the plan puts parts of the model on %s (%s); this version computes on the CPU alone",
                p->data->device[d].name, p->data->device[d].model);
    return HOTSET_OK;
}

hotset_status hotset_engine_open(hotset_engine **out, const hotset_model *m, const hotset_plan *p,
                                 const hotset_engine_options *options, hotset_error *err) {
    *out = NULL;
    double begin_s = base_now_s();
    HOTSET_TRY(check_plan(m, p, err));
    hotset_engine *e;
    HOTSET_TRY(base_calloc(&e, 1, sizeof *e, "the engine", err));
    e->model = m;
    e->plan = *p;
    e->plan.options.isa = e->plan.isa;
    e->plan.data = NULL; /* they stay the caller's */
    e->plan.problem = NULL;
    e->options = options ? *options : hotset_engine_default_options();
    hotset_status status =
        base_calloc(&e->slot_used, p->options.session_n, sizeof *e->slot_used, "the sessions", err);
    if (!status) status = gguf_check_files(m->file, err);
    if (!status) status = open_device(e, err);
    if (!status) status = load_weights(e, p->data, err);
    if (!status) status = open_steps(e, err);
    if (!status) status = open_trace(e, err);
    if (status) {
        hotset_engine_free(e);
        return status;
    }
    e->stats.dense_bytes_per_token = model_bytes_per_token(m, false);
    e->stats.weight_bytes_per_token = e->stats.touched_bytes_per_token =
        model_bytes_per_token(m, p->options.sparsity == HOTSET_SPARSITY_PREDICT);
    e->stats.open_s = base_now_s() - begin_s;
    if (p->weights_differ)
        engine_log(e, HOTSET_LOG_WARNING, "the plan was made for other weights of the same shape");
    *out = e;
    return HOTSET_OK;
}

void hotset_engine_free(hotset_engine *e) {
    if (!e) return;
    hotset_error err = {0};
    if (trace_close(e->trace, &err)) engine_log(e, HOTSET_LOG_WARNING, "%s", err.message);
    schedule_free(&e->schedule);
    if (e->device) {
        const device_interface *api = e->device->api;
        api->buffer_free(e->scratch);
        api->buffer_free(e->tables);
        api->buffer_free(e->record);
        state_free(&e->state);
        weights_free(&e->weights);
        api->queue_close(e->queue);
        api->close(e->device);
    }
    tally_free(&e->tally);
    free(e->slot_used);
    free(e);
}

hotset_engine_stats hotset_engine_get_stats(const hotset_engine *e) {
    hotset_engine_stats stats = e->stats;
    const uint64_t *skipped =
        (const uint64_t *)(const void *)((const uint8_t *)e->skipped.buffer->host + e->skipped.offset);
    if (e->single_n) stats.touched_bytes_per_token -= *skipped / e->single_n;
    return stats;
}

hotset_prediction hotset_engine_get_prediction(const hotset_engine *e, uint32_t layer_i) {
    return layer_i < e->tally.layer_n ? e->tally.layer[layer_i].judged : (hotset_prediction){0};
}

hotset_status hotset_engine_measure(hotset_engine *e, double seconds, hotset_limits *out, hotset_error *err) {
    const weights *w = &e->weights;
    uint32_t largest_i = 0;
    for (uint32_t i = 1; i < w->part_n; i++)
        if (w->part[i]->bytes > w->part[largest_i]->bytes) largest_i = i;
    device_ref largest = {w->part[largest_i], 0};
    hotset_status status = e->device->api->measure(e->device, &largest, largest.buffer->bytes,
                                                   seconds > 0 ? seconds : 0.5, out, err);
    if (e->plan.options.memory == HOTSET_MEMORY_COPIED) /* the plan says that these pages are not resident */
        file_map_release(gguf_part_map(e->model->file, largest_i), 0, largest.buffer->bytes);
    return status;
}

/* ---- Steps ---- */

static uint32_t write_step(hotset_engine *e, const engine_row *rows, uint32_t row_n, device_step *step) {
    device_row *row = device_step_rows(step);
    int32_t *output = device_step_outputs(step, e->plan.options.batch_n);
    uint32_t output_n = 0;
    for (uint32_t i = 0; i < row_n; i++) {
        row[i] = (device_row){rows[i].token, (int32_t)rows[i].position, (int32_t)rows[i].slot, 0};
        if (rows[i].wants_logits) output[output_n++] = (int32_t)i;
    }
    *step = (device_step){.row_n = row_n};
    return output_n;
}

static hotset_status submit(hotset_engine *e, device_list *list, hotset_error *err) {
    e->epoch++;
    HOTSET_TRY(e->device->api->submit(e->queue, list, e->epoch, err));
    return e->device->api->queue_wait(e->queue, e->done, e->epoch, err);
}

hotset_status engine_step(hotset_engine *e, const engine_row *rows, uint32_t row_n, engine_logits_fn *each,
                          void *cookie, hotset_error *err) {
    assert(row_n >= 1 && row_n <= e->plan.options.batch_n);
    double begin_s = base_now_s();
    device_step *step = e->step.buffer->host;
    uint32_t output_n = write_step(e, rows, row_n, step);
    const int32_t *output = device_step_outputs(step, e->plan.options.batch_n);
    HOTSET_TRY(submit(e, schedule_find(&e->schedule, row_n)->body, err));
    if (e->recorder) tally_feed(&e->tally, e->record, row_n, e->recorder);
    tally_judge(&e->tally, e->record, row_n);
    for (uint32_t from = 0; from < output_n; from += e->layout.output_n) {
        step->output_from = from;
        step->output_n = (uint32_t)min_u64(output_n - from, e->layout.output_n);
        HOTSET_TRY(submit(e, schedule_find(&e->schedule, step->output_n)->head, err));
        const float *logits =
            (const float *)(const void *)((const uint8_t *)e->scratch->host + e->layout.logits);
        for (uint32_t i = 0; i < step->output_n; i++)
            each(cookie, (uint32_t)output[from + i], logits + (size_t)i * e->model->shape.vocab_n);
    }
    e->stats.step_n++;
    e->single_n += row_n == 1;
    e->stats.row_n += row_n;
    e->stats.step_s += base_now_s() - begin_s;
    engine_log(e, HOTSET_LOG_STEP, "step of %u rows: %.3f ms", row_n, (base_now_s() - begin_s) * 1e3);
    return HOTSET_OK;
}
