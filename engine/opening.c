/* opening.c - opening an engine from a plan, and freeing it. */
#include "engine/executor.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

hotset_engine_options hotset_engine_default_options(void) { return (hotset_engine_options){0}; }

/* ---- Times ---- */

/* An operation of a device, told by its queue in the order of its work. */
static void take_time(void *cookie, const device_op *op, uint32_t row_n, double begin_s, double end_s) {
    engine_device *d = cookie;
    timing_add(&d->timing, op->kind, begin_s, end_s);
    if (d->engine->trace) trace_op(d->engine->trace, d->device->name, op, row_n, begin_s, end_s);
}

enum { SPANS_PER_LAYER = 8, SPANS_MORE = 32 };

static hotset_status open_times(hotset_engine *e, hotset_error *err) {
    if (!e->trace && !e->options.timed) return HOTSET_OK;
    for (uint32_t i = 0; i < e->device_n; i++) {
        engine_device *d = &e->device[i];
        if (!d->device) continue;
        HOTSET_TRY(timing_make(&d->timing, e->model->shape.layer_n * SPANS_PER_LAYER + SPANS_MORE, err));
        d->device->api->set_trace(d->device, take_time, d);
    }
    return HOTSET_OK;
}

/* ---- Devices ---- */

/* Properties of devices that the plan does not have would be lost without a word. */
static hotset_status check_devices(const char *list, const plan_data *places, hotset_error *err) {
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n = 0;
    if (list) HOTSET_TRY(device_list_parse(spec, &n, list, err));
    for (uint32_t i = 0; i < n; i++) {
        bool known = false;
        for (uint32_t d = 0; d < places->device_n; d++)
            known |= !strcmp(places->device[d].name, spec[i].name);
        if (!known) return hotset_fail(err, HOTSET_E_ARGUMENT, "devices: the plan has no '%s'", spec[i].name);
    }
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

/* Mean over the layers that have units. */
static double planned_use(const plan_data *places, uint32_t i) {
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t l = 0; l < places->layer_n; l++) {
        if (places->layer[l].kind == PLAN_NO_UNITS) continue;
        sum += places->layer[l].use[i] + (i ? 0 : places->layer[l].file_use);
        n++;
    }
    return n ? sum / n : 0;
}

/* Emulated devices take minutes for a prompt. */
enum { EMULATED_WAIT_S = 1800 };
static bool emulates(const plan_data *places) {
    bool emulated = false;
    for (uint32_t i = 1; i < places->device_n; i++)
        emulated |= places->device[i].kind == MACHINE_EMULATED && plan_device_used(places, i);
    return emulated;
}

static hotset_status open_device(hotset_engine *e, const plan_data *places, uint32_t i, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    engine_device *d = &e->device[i];
    const char *name = places->device[i].name;
    device_spec spec;
    d->engine = e;
    d->held_bytes = places->device[i].ledger.total;
    d->planned_use = planned_use(places, i);
    HOTSET_TRY(placed_make(&d->placed, e->model, places, i, err));
    if (!d->placed.used) return HOTSET_OK;
    if (i == 0) {
        HOTSET_TRY(device_cpu_open(
            &d->device, &(device_cpu_options){o->thread_n, o->isa, emulates(places) ? EMULATED_WAIT_S : 0},
            err));
        HOTSET_TRY(check_room(d->device, "host memory", e->plan.footprint.total_bytes, err));
    } else {
        HOTSET_TRY(find_spec(&spec, e->options.devices, name, err));
        HOTSET_TRY(device_spec_open(&d->device, &spec, e->options.module_folder, err));
        engine_log(e, HOTSET_LOG_OBJECT, "%s: %s", name, d->device->note);
        HOTSET_TRY(check_room(d->device, name, places->device[i].ledger.total, err));
    }
    return d->device->api->queue_open(d->device, DEVICE_QUEUE_COMPUTE, &d->queue, err);
}

static hotset_status load_weights(hotset_engine *e, const plan_data *places, uint32_t i, hotset_error *err) {
    bool copied = i > 0 || e->plan.options.memory == HOTSET_MEMORY_COPIED;
    engine_device *d = &e->device[i];
    double begin_s = base_now_s();
    weights_progress progress = {e->options.cancel, e->options.cancel_cookie, e->options.loading,
                                 e->options.loading_cookie};
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
        engine_log(e, HOTSET_LOG_OBJECT,
                   "of these %.1f MiB were reordered, in the same bytes: by neuron, or rows interleaved",
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

/* Who allocates memory that all devices reach: the GPU that is used, or for several, which may be of
 * different kinds, the host, whose memory each of them pins. */
static device *sharing_device(const hotset_engine *e) {
    device *owner = e->device[0].device;
    uint32_t gpu_n = 0;
    for (uint32_t i = 1; i < e->device_n; i++)
        if (e->device[i].device) {
            owner = e->device[i].device;
            gpu_n++;
        }
    return gpu_n > 1 ? e->device[0].device : owner;
}

static hotset_status open_shared(hotset_engine *e, hotset_error *err) {
    const hotset_plan_options *o = &e->plan.options;
    footprint_widths widths = forward_widths(e->model, o->sparsity);
    device *owner = sharing_device(e);
    e->handed = footprint_exchange_layout(&widths, o->batch_n, e->model->shape.layer_n, e->device_n,
                                          e->device_n > 1 ? stream_piece_max(e->model, o->sparsity) : 0);
    uint64_t at = engine_exchange_at(o->batch_n), bytes = at + e->handed.bytes;
    HOTSET_TRY(owner->api->buffer_alloc(owner, DEVICE_MEMORY_PINNED, bytes, &e->shared, err));
    memset(e->shared->host, 0, bytes);
    for (uint32_t i = 0; i < e->device_n; i++) {
        engine_device *d = &e->device[i];
        if (d->device && d->device != owner)
            HOTSET_TRY(d->device->api->buffer_pin(d->device, e->shared->host, bytes, &d->shared, err));
        device_buffer *reached = d->shared ? d->shared : e->shared;
        d->step = (device_ref){reached, 0};
        d->exchange = (device_ref){reached, at};
    }
    return HOTSET_OK;
}

/* Where the plan copies the host's weights to GPUs for prompts. */
static hotset_status open_stream(hotset_engine *e, const plan_data *places, hotset_error *err) {
    streamer_lane lanes[PLAN_DEVICE_MAX] = {{0}};
    if (e->device_n < 2) return HOTSET_OK;
    HOTSET_TRY(
        stream_make(&e->stream, e->model, places, e->plan.options.sparsity, &e->device[0].weights, err));
    if (!e->stream.piece_n) return HOTSET_OK;
    for (uint32_t i = 0; i < e->device_n; i++)
        lanes[i] = (streamer_lane){.device = e->device[i].device, .exchange = e->device[i].exchange};
    return streamer_open(&e->streamer, &e->stream, lanes, e->device_n, e->shared->owner, &e->handed,
                         e->model->router.used_n, err);
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

/* Room for streamed weights: planned for on every GPU, taken where they are streamed. */
static uint64_t ring_bytes_of(const hotset_engine *e) {
    return FOOTPRINT_STREAM_SLOTS * stream_slot_bytes(e->model, e->plan.options.sparsity);
}

/* What a GPU holds is what the plan says, to the byte; of the host some is outside of slabs. */
static hotset_status check_ledger(const engine_device *d, const plan_device *planned, uint32_t i,
                                  uint64_t ring_bytes, hotset_error *err) {
    uint64_t weight_bytes = d->weights.tables->bytes + (d->weights.copies ? d->weights.copies->bytes : 0);
    uint64_t all = weight_bytes + d->state.bytes + d->layout.bytes + ring_bytes;
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
    HOTSET_TRY(state_layout(&d->state, e->model, o->context_n, o->session_n, o->state_type, &d->placed,
                            d->device->alignment, err));
    HOTSET_TRY(state_alloc(&d->state, d->device, err));
    forward_place place = {.model = e->model,
                           .weights = &d->weights,
                           .state = &d->state,
                           .sparsity = o->sparsity,
                           .skip_by_cost = e->plan.skip_by_cost,
                           .placed = &d->placed,
                           .exchange = d->exchange,
                           .handed = e->handed,
                           .stream = e->streamer ? &e->stream : NULL};
    if (streamer_ring_bytes(e->streamer, i)) place.ring = streamer_slot(e->streamer, i, 0);
    if (i == 0) HOTSET_TRY(open_record(e, &place, err));
    HOTSET_TRY(open_scratch(e, i, &place, err));
    HOTSET_TRY(check_ledger(d, &places->device[i], i, ring_bytes_of(e), err));
    return schedule_build(&d->schedule, d->device, &place, d->step, o->batch_n, err);
}

static hotset_status open_all(hotset_engine *e, const plan_data *places, hotset_error *err) {
    HOTSET_TRY(check_devices(e->options.devices, places, err));
    if (e->options.trace_path) HOTSET_TRY(trace_open(&e->trace, e->options.trace_path, err));
    for (uint32_t i = 0; i < e->device_n; i++) HOTSET_TRY(open_device(e, places, i, err));
    for (uint32_t i = 0; i < e->device_n; i++) HOTSET_TRY(load_weights(e, places, i, err));
    HOTSET_TRY(open_shared(e, err));
    HOTSET_TRY(open_stream(e, places, err));
    for (uint32_t i = 0; i < e->device_n; i++) HOTSET_TRY(open_steps(e, places, i, err));
    return open_times(e, err);
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
    if (!status) status = gguf_check_files(m->file, err);
    if (!status) status = open_all(e, p->data, err);
    if (status) {
        trace_discard(e->trace);
        e->trace = NULL;
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
    timing_free(&d->timing);
    if (!d->device) return;
    d->device->api->buffer_free(d->scratch);
    d->device->api->buffer_free(d->shared);
}

hotset_status hotset_engine_end_trace(hotset_engine *e, hotset_error *err) {
    hotset_status status = trace_close(e->trace, err);
    e->trace = NULL;
    return status;
}

void hotset_engine_free(hotset_engine *e) {
    if (!e) return;
    hotset_error err = {0};
    if (hotset_engine_end_trace(e, &err)) engine_log(e, HOTSET_LOG_WARNING, "%s", err.message);
    streamer_close(e->streamer);
    stream_free(&e->stream);
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
