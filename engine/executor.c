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
    trace_op(e->trace, e->device[0].device->name, op, row_n, begin_s, end_s);
}

static hotset_status open_trace(hotset_engine *e, hotset_error *err) {
    if (!e->options.trace_path) return HOTSET_OK;
    HOTSET_TRY(trace_open(&e->trace, e->options.trace_path, err));
    e->device[0].device->api->set_trace(e->device[0].device, trace_cpu, e);
    return HOTSET_OK;
}

/* The description of a device that is not the CPU: as the options have it, or by the plan's name alone. */
static hotset_status find_spec(device_spec *out, const char *list, const char *name, hotset_error *err) {
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n = 0;
    if (list) HOTSET_TRY(device_list_parse(spec, &n, list, err));
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(spec[i].name, name)) {
            *out = spec[i];
            return HOTSET_OK;
        }
    return device_spec_named(out, name, err);
}

static hotset_status check_room(device *d, const char *what, uint64_t needed, hotset_error *err) {
    uint64_t capacity_bytes, free_bytes;
    HOTSET_TRY(d->api->memory(d, &capacity_bytes, &free_bytes, err));
    if (needed <= free_bytes) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_NOFIT, "%s: the plan needs %llu bytes, there are %llu free of %llu",
                       what, (unsigned long long)needed, (unsigned long long)free_bytes,
                       (unsigned long long)capacity_bytes);
}

static hotset_status open_device(hotset_engine *e, const plan_data *places, uint32_t i, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    engine_device *d = &e->device[i];
    const char *name = places->device[i].name;
    device_spec spec;
    HOTSET_TRY(placed_make(&d->placed, e->model, places, i, err));
    if (!d->placed.used) return HOTSET_OK;
    if (i == 0) {
        HOTSET_TRY(device_cpu_open(&d->device, &(device_cpu_options){o->thread_n, o->isa}, err));
        HOTSET_TRY(check_room(d->device, "host memory", e->plan.footprint.total_bytes, err));
    } else {
        HOTSET_TRY(find_spec(&spec, e->options.devices, name, err));
        HOTSET_TRY(device_spec_open(&d->device, &spec, e->options.module_folder, err));
        HOTSET_TRY(check_room(d->device, name, places->device[i].ledger.total, err));
        for (uint32_t k = 1; k < i; k++)
            if (e->device[k].device && e->device[k].device->api != d->device->api)
                return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                                   "the plan uses %s and %s: devices of different kinds cannot reach each "
                                   "other's memory",
                                   places->device[k].name, name);
    }
    return d->device->api->queue_open(d->device, DEVICE_QUEUE_COMPUTE, &d->queue, err);
}

static hotset_status load_weights(hotset_engine *e, const plan_data *places, uint32_t i, hotset_error *err) {
    bool copied = i > 0 || e->plan.options.memory == HOTSET_MEMORY_COPIED;
    engine_device *d = &e->device[i];
    double begin_s = base_now_s();
    weights_progress progress = {e->options.cancel, e->options.cancel_cookie};
    if (!d->device) return HOTSET_OK;
    HOTSET_TRY(weights_load(&d->weights, d->device, d->queue, e->model, copied, e->plan.options.sparsity,
                            e->plan.options.context_n, &d->placed, &progress, err));
    if (i > 0) {
        engine_log(e, HOTSET_LOG_OBJECT, "copied %.1f MiB of weights to %s in %.2f s",
                   (double)d->weights.copies->bytes / (1 << 20), places->device[i].name,
                   base_now_s() - begin_s);
        return HOTSET_OK;
    }
    assert(!copied || d->weights.copies->bytes == e->plan.footprint.weights_copied_bytes);
    if (copied)
        engine_log(e, HOTSET_LOG_OBJECT,
                   "copied %.1f MiB of weights to memory in %.2f s; the file's pages were released",
                   (double)e->plan.footprint.weights_copied_bytes / (1 << 20), base_now_s() - begin_s);
    if (d->weights.reordered_bytes)
        engine_log(e, HOTSET_LOG_OBJECT, "of these %.1f MiB were reordered by neuron, in the same bytes",
                   (double)d->weights.reordered_bytes / (1 << 20));
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
    device *cpu = e->device[0].device;
    if (!o->record) return HOTSET_OK;
    HOTSET_TRY(tally_layout(&e->tally, e->model, o->sparsity, o->batch_n, err));
    HOTSET_TRY(cpu->api->buffer_alloc(cpu, DEVICE_MEMORY_PINNED, e->tally.bytes, &e->record, err));
    place->tally = &e->tally;
    place->record = (device_ref){e->record, 0};
    return HOTSET_OK;
}

/* Memory that all devices reach, pinned by one that asks for it. */
static hotset_status open_shared(hotset_engine *e, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    footprint_widths widths = forward_widths(e->model, o->sparsity);
    device *owner = e->device[0].device, *cpu = owner;
    for (uint32_t i = e->device_n; i-- > 1;)
        if (e->device[i].device) owner = e->device[i].device;
    e->handed = footprint_exchange_layout(&widths, o->batch_n, e->model->shape.layer_n, e->device_n);
    uint64_t at = engine_exchange_at(o->batch_n), bytes = at + e->handed.bytes;
    HOTSET_TRY(owner->api->buffer_alloc(owner, DEVICE_MEMORY_PINNED, bytes, &e->shared, err));
    memset(e->shared->host, 0, bytes);
    if (owner != cpu)
        HOTSET_TRY(cpu->api->buffer_wrap(cpu, e->shared->host, bytes, &e->device[0].shared, err));
    for (uint32_t i = 0; i < e->device_n; i++) {
        device_buffer *reached = e->device[i].shared ? e->device[i].shared : e->shared;
        e->device[i].step = (device_ref){reached, 0};
        e->device[i].exchange = (device_ref){reached, at};
    }
    return HOTSET_OK;
}

static hotset_status open_scratch(hotset_engine *e, uint32_t i, forward_place *place, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    engine_device *d = &e->device[i];
    footprint_widths widths = forward_widths(e->model, o->sparsity);
    d->layout = footprint_gpu_scratch_layout(&widths, o->batch_n, o->context_n);
    if (i == 0) d->layout = footprint_scratch_layout(&widths, o->batch_n, e->plan.workspace_bytes);
    HOTSET_TRY(d->device->api->buffer_alloc(d->device, i ? DEVICE_MEMORY_DEVICE : DEVICE_MEMORY_PINNED,
                                            d->layout.bytes, &d->scratch, err));
    place->scratch = (device_ref){d->scratch, 0};
    place->layout = d->layout;
    return HOTSET_OK;
}

/* What a GPU holds is what the plan says, to the byte; of the host some is outside of slabs. */
static hotset_status check_ledger(const engine_device *d, const plan_device *planned, uint32_t i,
                                  hotset_error *err) {
    uint64_t weight_bytes = d->weights.tables->bytes + (d->weights.copies ? d->weights.copies->bytes : 0);
    uint64_t all = weight_bytes + d->state.bytes + d->layout.bytes;
    if (i == 0 ? d->state.bytes == planned->ledger.state && d->layout.bytes == planned->ledger.scratch
               : all == planned->ledger.total)
        return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT,
                       "%s: the plan's ledger says %llu bytes, the model takes %llu: it was made for other "
                       "weight types, or by another version",
                       planned->name, (unsigned long long)planned->ledger.total, (unsigned long long)all);
}

/* State, scratch and lists of a device. */
static hotset_status open_steps(hotset_engine *e, const plan_data *places, uint32_t i, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    engine_device *d = &e->device[i];
    if (!d->device) return HOTSET_OK;
    HOTSET_TRY(state_layout(&d->state, e->model, o->context_n, o->session_n,
                            o->state_type == HOTSET_STATE_F16, &d->placed, d->device->alignment, err));
    HOTSET_TRY(state_alloc(&d->state, d->device, err));
    forward_place place = {.model = e->model,
                           .weights = &d->weights,
                           .state = &d->state,
                           .sparsity = o->sparsity,
                           .skip_by_cost = e->plan.skip_by_cost,
                           .placed = &d->placed,
                           .exchange = d->exchange,
                           .handed = e->handed};
    if (i == 0) HOTSET_TRY(open_record(e, &place, err));
    HOTSET_TRY(open_scratch(e, i, &place, err));
    HOTSET_TRY(check_ledger(d, &places->device[i], i, err));
    return schedule_build(&d->schedule, d->device, &place, d->step, o->batch_n, err);
}

static hotset_status open_all(hotset_engine *e, const plan_data *places, hotset_error *err) {
    for (uint32_t i = 0; i < e->device_n; i++) HOTSET_TRY(open_device(e, places, i, err));
    for (uint32_t i = 0; i < e->device_n; i++) HOTSET_TRY(load_weights(e, places, i, err));
    HOTSET_TRY(open_shared(e, err));
    for (uint32_t i = 0; i < e->device_n; i++) HOTSET_TRY(open_steps(e, places, i, err));
    return open_trace(e, err);
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
    for (uint32_t d = 1; d < p->data->device_n && p->options.record; d++)
        if (plan_device_used(p->data, d))
            return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                               "the plan records activations and uses %s: only the CPU records them",
                               p->data->device[d].name);
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
    e->device_n = p->data->device_n;
    e->head = p->data->head;
    e->options = options ? *options : hotset_engine_default_options();
    hotset_status status =
        base_calloc(&e->slot_used, p->options.session_n, sizeof *e->slot_used, "the sessions", err);
    if (!status) status = open_all(e, p->data, err);
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

/* All of a device but itself. */
static void free_device(engine_device *d) {
    schedule_free(&d->schedule);
    state_free(&d->state);
    weights_free(&d->weights);
    placed_free(&d->placed);
    if (!d->device) return;
    d->device->api->buffer_free(d->scratch);
    d->device->api->buffer_free(d->shared);
}

void hotset_engine_free(hotset_engine *e) {
    if (!e) return;
    hotset_error err = {0};
    if (trace_close(e->trace, &err)) engine_log(e, HOTSET_LOG_WARNING, "%s", err.message);
    /* what still waits for another device gives up before memory goes that others use */
    for (uint32_t i = e->device_n; i-- > 0;)
        if (e->device[i].queue) e->device[i].device->api->queue_close(e->device[i].queue);
    for (uint32_t i = e->device_n; i-- > 0;) free_device(&e->device[i]);
    if (e->record) e->record->owner->api->buffer_free(e->record);
    if (e->shared) e->shared->owner->api->buffer_free(e->shared);
    for (uint32_t i = e->device_n; i-- > 0;)
        if (e->device[i].device) e->device[i].device->api->close(e->device[i].device);
    tally_free(&e->tally);
    free(e->slot_used);
    free(e);
}

hotset_engine_stats hotset_engine_get_stats(const hotset_engine *e) {
    hotset_engine_stats stats = e->stats;
    const uint8_t *at = (const uint8_t *)e->shared->host + engine_exchange_at(e->plan.options.batch_n);
    uint64_t skipped = 0;
    for (uint32_t i = 0; i < e->device_n; i++)
        skipped += *(const uint64_t *)(const void *)(at + e->handed.skipped + (uint64_t)i * FOOTPRINT_ALIGN);
    if (e->single_n) stats.touched_bytes_per_token -= skipped / e->single_n;
    return stats;
}

hotset_prediction hotset_engine_get_prediction(const hotset_engine *e, uint32_t layer_i) {
    return layer_i < e->tally.layer_n ? e->tally.layer[layer_i].judged : (hotset_prediction){0};
}

hotset_status hotset_engine_measure(hotset_engine *e, double seconds, hotset_limits *out, hotset_error *err) {
    const weights *w = &e->device[0].weights;
    device *cpu = e->device[0].device;
    uint32_t largest_i = 0;
    for (uint32_t i = 1; i < w->part_n; i++)
        if (w->part[i]->bytes > w->part[largest_i]->bytes) largest_i = i;
    device_ref largest = {w->part[largest_i], 0};
    hotset_status status =
        cpu->api->measure(cpu, &largest, largest.buffer->bytes, seconds > 0 ? seconds : 0.5, out, err);
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

/* One list of each device, the CPU's last: it works while the others do, and none waits for the host. */
static hotset_status submit_one(hotset_engine *e, uint32_t i, device_list *list, uint64_t epoch,
                                hotset_error *err) {
    engine_device *d = &e->device[i];
    return list ? d->device->api->submit(d->queue, list, epoch, err) : HOTSET_OK;
}

static hotset_status submit_head(hotset_engine *e, uint32_t output_n, uint64_t epoch, hotset_error *err) {
    return submit_one(e, e->head, schedule_find(&e->device[e->head].schedule, output_n)->head, epoch, err);
}

/* Body lists of all devices with epoch `epoch`, and the head's first list with the next. */
static hotset_status submit_step(hotset_engine *e, uint32_t row_n, uint32_t output_n, uint64_t epoch,
                                 hotset_error *err) {
    for (uint32_t k = 1; k <= e->device_n; k++) {
        uint32_t i = k % e->device_n;
        if (!e->device[i].device) continue;
        HOTSET_TRY(submit_one(e, i, schedule_find(&e->device[i].schedule, row_n)->body, epoch, err));
        if (i == e->head && output_n) HOTSET_TRY(submit_head(e, output_n, epoch + 1, err));
    }
    return HOTSET_OK;
}

/* Until the head's device has done what was submitted. */
static hotset_status await(hotset_engine *e, uint64_t epoch, hotset_error *err) {
    engine_device *d = &e->device[e->head];
    if (e->head) return d->device->api->queue_drain(d->queue, err);
    return d->device->api->queue_wait(d->queue, device_ref_at(d->exchange, e->handed.done), epoch, err);
}

static const float *logits_of(const hotset_engine *e) {
    const engine_device *d = &e->device[e->head];
    const uint8_t *at = e->head ? (const uint8_t *)e->shared->host + d->exchange.offset + e->handed.logits
                                : (const uint8_t *)d->scratch->host + d->layout.logits;
    return (const float *)(const void *)at;
}

static hotset_status run_step(hotset_engine *e, const engine_row *rows, uint32_t row_n,
                              engine_logits_fn *each, void *cookie, hotset_error *err) {
    device_step *step = e->shared->host;
    const uint32_t output_max = e->device[0].layout.output_n;
    uint32_t output_n = write_step(e, rows, row_n, step);
    const int32_t *output = device_step_outputs(step, e->plan.options.batch_n);
    step->output_n = (uint32_t)min_u64(output_n, output_max); /* the head's first, known before it runs */
    HOTSET_TRY(submit_step(e, row_n, step->output_n, e->epoch + 1, err));
    e->epoch += 1 + (output_n > 0);
    HOTSET_TRY(await(e, e->epoch, err));
    if (e->recorder) tally_feed(&e->tally, e->record, row_n, e->recorder);
    tally_judge(&e->tally, e->record, row_n);
    for (uint32_t from = 0; from < output_n; from += output_max) {
        if (from > 0) {
            step->output_from = from;
            step->output_n = (uint32_t)min_u64(output_n - from, output_max);
            HOTSET_TRY(submit_head(e, step->output_n, ++e->epoch, err));
            HOTSET_TRY(await(e, e->epoch, err));
        }
        for (uint32_t i = 0; i < step->output_n; i++)
            each(cookie, (uint32_t)output[from + i], logits_of(e) + (size_t)i * e->model->shape.vocab_n);
    }
    return HOTSET_OK;
}

hotset_status engine_step(hotset_engine *e, const engine_row *rows, uint32_t row_n, engine_logits_fn *each,
                          void *cookie, hotset_error *err) {
    assert(row_n >= 1 && row_n <= e->plan.options.batch_n);
    double begin_s = base_now_s();
    hotset_status status = e->failure.status;
    if (!status) status = run_step(e, rows, row_n, each, cookie, &e->failure);
    if (status) return hotset_fail(err, status, "%s", e->failure.message);
    e->stats.step_n++;
    e->single_n += row_n == 1;
    e->stats.row_n += row_n;
    e->stats.step_s += base_now_s() - begin_s;
    engine_log(e, HOTSET_LOG_STEP, "step of %u rows: %.3f ms", row_n, (base_now_s() - begin_s) * 1e3);
    return HOTSET_OK;
}
