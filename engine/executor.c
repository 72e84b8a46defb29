/* executor.c - one step of an engine, and what it tells of its steps. */
#include "engine/executor.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- What it tells ---- */

void engine_log(const hotset_engine *e, hotset_log_level level, const char *format, ...) {
    if (!e->options.log) return;
    char message[256];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    e->options.log(e->options.log_cookie, level, message);
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

bool hotset_engine_get_device_stats(const hotset_engine *e, uint32_t device_i, hotset_device_stats *out) {
    *out = (hotset_device_stats){0};
    if (device_i >= e->device_n || !e->device[device_i].device) return false;
    const engine_device *d = &e->device[device_i];
    const schedule_bucket *single = &d->schedule.bucket[0];
    *out = (hotset_device_stats){.name = d->device->name,
                                 .held_bytes = d->held_bytes,
                                 .planned_use = d->planned_use,
                                 .busy_s = d->timing.busy_s,
                                 .wait_s = d->timing.wait_s,
                                 .overlap_s = d->timing.overlap_s,
                                 .bus_bytes_per_token =
                                     device_i ? single->body_handed_bytes + single->head_handed_bytes : 0};
    return true;
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

/* The lists of a step, and beside them the streaming of weights that they wait for. */
static hotset_status run_lists(hotset_engine *e, uint32_t row_n, uint32_t output_n, hotset_error *err) {
    const uint64_t epoch = e->epoch + 1;
    const uint32_t row_max = schedule_find(&e->device[0].schedule, row_n)->row_max;
    const bool streams = e->streamer && row_max >= e->stream.row_n;
    if (streams) streamer_begin(e->streamer, epoch, row_n);
    hotset_status status = submit_step(e, row_n, output_n, epoch, err);
    e->epoch = epoch + (output_n > 0);
    if (!status) status = await(e, e->epoch, err);
    if (!streams) return status;
    hotset_status streamed = streamer_end(e->streamer, status != HOTSET_OK, e->trace, status ? NULL : err);
    return status ? status : streamed;
}

static hotset_status run_step(hotset_engine *e, const engine_row *rows, uint32_t row_n,
                              engine_logits_fn *each, void *cookie, hotset_error *err) {
    device_step *step = e->shared->host;
    const uint32_t output_max = e->device[0].layout.output_n;
    uint32_t output_n = write_step(e, rows, row_n, step);
    const int32_t *output = device_step_outputs(step, e->plan.options.batch_n);
    step->output_n = (uint32_t)min_u64(output_n, output_max); /* the head's first, known before it runs */
    HOTSET_TRY(run_lists(e, row_n, step->output_n, err));
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

/* Times of GPUs are known when their queues are empty, which they are, or nearly. */
static hotset_status end_times(hotset_engine *e, hotset_error *err) {
    timing *all[PLAN_DEVICE_MAX];
    if (!e->trace && !e->options.timed) return HOTSET_OK;
    for (uint32_t i = 0; i < e->device_n; i++) {
        engine_device *d = &e->device[i];
        all[i] = &d->timing;
        if (d->device) HOTSET_TRY(d->device->api->queue_drain(d->queue, err));
    }
    timing_end(all, e->device_n);
    return HOTSET_OK;
}

hotset_status engine_step(hotset_engine *e, const engine_row *rows, uint32_t row_n, engine_logits_fn *each,
                          void *cookie, hotset_error *err) {
    assert(row_n >= 1 && row_n <= e->plan.options.batch_n);
    double begin_s = base_now_s();
    hotset_status status = e->failure.status;
    if (!status) status = run_step(e, rows, row_n, each, cookie, &e->failure);
    if (!status) status = end_times(e, &e->failure);
    if (status) return hotset_fail(err, status, "%s", e->failure.message);
    e->stats.step_n++;
    e->single_n += row_n == 1;
    e->stats.row_n += row_n;
    e->stats.step_s += base_now_s() - begin_s;
    engine_log(e, HOTSET_LOG_STEP, "step of %u rows: %.3f ms", row_n, (base_now_s() - begin_s) * 1e3);
    return HOTSET_OK;
}
