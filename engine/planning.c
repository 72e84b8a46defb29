/* planning.c - plans of the public interface: all on the CPU, the quickest on a machine, read from a file. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/by_hand.h"
#include "engine/executor.h"
#include "engine/machine.h"
#include "engine/placing.h"
#include "engine/planning.h"
#include "planner/explain.h"
#include "planner/page.h"

/* ---- What a plan needs to know ---- */

/* Host memory that sessions take besides their state: tokens and a copy of the last logits. */
static uint64_t session_bytes(const hotset_shape *s, uint32_t context_n) {
    return (uint64_t)context_n * sizeof(int32_t) + (uint64_t)s->vocab_n * sizeof(float);
}

/* The ledger's numbers for resolved options. */
static hotset_status gather(const hotset_model *m, const device *d, const hotset_plan_options *o,
                            bool skip_by_cost, uint32_t device_n, planner_facts *facts, hotset_error *err) {
    weights w = {0};
    placed_device all;
    state kv = {0};
    tally record = {0};
    forward_place place = {.model = m,
                           .weights = &w,
                           .state = &kv,
                           .tally = o->record ? &record : NULL,
                           .sparsity = o->sparsity,
                           .skip_by_cost = skip_by_cost};
    uint64_t list_bytes = 0;
    HOTSET_TRY(placed_make(&all, m, NULL, 0, err));
    place.placed = &all;
    hotset_status status = weights_describe(&w, m, o->sparsity, &all, err);
    if (!status)
        status = state_layout(&kv, m, o->context_n, o->session_n, o->state_type, &all, FOOTPRINT_ALIGN, err);
    if (!status && o->record) status = tally_layout(&record, m, o->sparsity, o->batch_n, err);
    if (!status) status = schedule_workspace_bytes(&place, d, o->batch_n, &facts->workspace_bytes, err);
    if (!status) status = schedule_list_bytes(&place, o->batch_n, &list_bytes, err);
    footprint_widths widths = forward_widths(m, o->sparsity);
    facts->shape = &m->shape;
    facts->weights_bytes = weights_copied_bytes(m, o->sparsity, &all, FOOTPRINT_ALIGN);
    facts->state_bytes = kv.bytes / o->session_n;
    facts->scratch_bytes = footprint_scratch_layout(&widths, o->batch_n, facts->workspace_bytes).bytes;
    const uint64_t ring_bytes = FOOTPRINT_STREAM_SLOTS * stream_slot_bytes(m, o->sparsity);
    const uint32_t piece_n = device_n > 1 ? stream_piece_max(m, o->sparsity) : 0;
    facts->gpu_scratch_bytes =
        footprint_gpu_scratch_layout(&widths, o->batch_n, o->context_n).bytes + ring_bytes;
    facts->table_bytes =
        weights_table_bytes(m, o->sparsity, &all, FOOTPRINT_ALIGN) + engine_exchange_at(o->batch_n) +
        footprint_exchange_layout(&widths, o->batch_n, m->shape.layer_n, device_n, piece_n).bytes +
        (device_n > 1 ? ring_bytes : 0) + list_bytes + record.bytes +
        o->session_n * session_bytes(&m->shape, o->context_n);
    placed_free(&all);
    tally_free(&record);
    state_free(&kv);
    weights_free(&w);
    return status;
}

bool planning_skips_by_cost(hotset_sparsity asked) {
    return asked == HOTSET_SPARSITY_EXACT || asked == HOTSET_SPARSITY_PREDICT;
}

/* ---- The plan's data ---- */

static plan_sparsity sparsity_of(hotset_sparsity s) {
    return s == HOTSET_SPARSITY_EXACT     ? PLAN_EXACT
           : s == HOTSET_SPARSITY_PREDICT ? PLAN_PREDICTED
                                          : PLAN_DENSE;
}

/* What the planner does not know. */
static hotset_status name_model(plan_data *data, const hotset_model *m, const hotset_plan_options *o,
                                hotset_error *err) {
    snprintf(data->made_by, sizeof data->made_by, "hotset %s", hotset_version());
    snprintf(data->architecture, sizeof data->architecture, "%s", m->shape.architecture);
    snprintf(data->name, sizeof data->name, "%s", m->shape.name);
    snprintf(data->isa, sizeof data->isa, "%s", o->isa);
    data->context_n = o->context_n;
    data->session_n = o->session_n;
    data->sparsity = sparsity_of(o->sparsity);
    HOTSET_TRY(model_order_fingerprint(m, &data->order, err));
    return model_fingerprints(m, &data->shape, &data->weights, err);
}

/* Where the use of units comes from. */
static void name_use(plan_data *data, const hotset_model *m, const activation_profile *profile,
                     const hotset_plan_options *o) {
    bool neurons = o->sparsity != HOTSET_SPARSITY_OFF, units = neurons || m->shape.expert_n;
    if (!units)
        snprintf(data->activations, sizeof data->activations, "dense: every unit is used by every token");
    else if (profile)
        snprintf(data->activations, sizeof data->activations, "profile of %" PRId64 " tokens",
                 profile->token_n);
    else if (m->shape.expert_n)
        snprintf(data->activations, sizeof data->activations,
                 "assumed: %" PRIu32 " of %" PRIu32 " experts, the i-th used like i^-%g",
                 m->shape.expert_used_n, m->shape.expert_n, o->skew);
    else
        snprintf(data->activations, sizeof data->activations,
                 "assumed: %g %% of the neurons active, the i-th used like i^-%g",
                 100 * (o->active > 0 ? o->active : PLACING_ACTIVE_DEFAULT), o->skew);
}

/* ---- A plan ---- */

/* One way to do it, placed. */
typedef struct outcome {
    hotset_plan_options options; /* resolved */
    planner_facts facts;
    problem *problem;
    placement *placed;
} outcome;

static void outcome_free(outcome *o) {
    placement_free(o->placed);
    problem_free(o->problem);
    *o = (outcome){0};
}

/* Options resolved for a machine, and the devices of it that are to be used. */
typedef struct planner_work {
    const planning *what;
    device *cpu; /* tells bytes of workspace */
    hotset_plan_options options;
    uint64_t host_bytes;
    uint32_t device_n, device[PROBLEM_DEVICE_MAX];
} planner_work;

/* The splits of a plan: how many units each device has; which they are is the plan's to say. */
static hotset_status given_splits(cost_split *split, const problem *p, const plan_data *given,
                                  hotset_error *err) {
    for (uint32_t l = 0; l < given->layer_n; l++) {
        const plan_layer *from = &given->layer[l];
        if (from->unit_n != (p->layer[l].ffn.kind == PROBLEM_NONE ? 0 : p->layer[l].ffn.unit_n))
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "layers[%" PRIu32 "].neuron_n: %" PRIu32
                               " neurons of this model's weights share scales, and are not to be parted",
                               l, from->neuron_n);
        split[l] = (cost_split){.home = (uint8_t)from->home, .file_n = plan_layer_units(from, PLAN_IN_FILE)};
        for (uint32_t d = 0; d < given->device_n; d++) {
            split[l].order[given->device_n - 1 - d] = (uint8_t)d;
            split[l].n[d] = plan_layer_units(from, d);
        }
        split[l].n[0] += split[l].file_n;
    }
    return HOTSET_OK;
}

static hotset_status place_given(outcome *out, const planning *what, hotset_error *err) {
    by_hand how = {.head = what->given ? what->given->head : 0};
    HOTSET_TRY(base_calloc(&how.split, out->problem->layer_n, sizeof *how.split, "a placement", err));
    hotset_status status = what->given ? given_splits(how.split, out->problem, what->given, err)
                                       : by_hand_read(&how, out->problem, what->place, err);
    if (!status) status = place_given_make(&out->placed, out->problem, how.split, how.head, err);
    if (!status && !what->given) {
        out->placed->stream_row_n = how.stream_row_n;
        for (uint32_t l = 0; l < out->problem->layer_n; l++)
            out->placed->layer[l].streamed = how.stream_row_n && how.split[l].home && how.split[l].n[0];
    }
    free(how.split);
    return status;
}

hotset_status planning_predict(double *out, const hotset_plan *p, const machine_profile *machine,
                               uint32_t seen_n, hotset_error *err) {
    problem then = *p->problem;
    cost_split *split;
    placement *placed;
    then.machine = machine;
    then.seen_n = seen_n;
    HOTSET_TRY(base_calloc(&split, then.layer_n, sizeof *split, "a placement", err));
    hotset_status status = given_splits(split, &then, p->data, err);
    if (!status) status = place_given_make(&placed, &then, split, p->data->head, err);
    if (!status) {
        *out = placed->token_s;
        placement_free(placed);
    }
    free(split);
    return status;
}

static hotset_status place_once(outcome *out, const planner_work *w, bool mapped, bool file_tier,
                                hotset_error *err) {
    placing what = {.model = w->what->model,
                    .machine = w->what->machine,
                    .profile = w->what->profile,
                    .options = &out->options,
                    .facts = &out->facts,
                    .units = w->what->given,
                    .mapped = mapped,
                    .file_tier = file_tier,
                    .device_n = w->device_n};
    memcpy(what.device, w->device, sizeof what.device);
    HOTSET_TRY(placing_problem(&out->problem, &what, err));
    hotset_status status = w->what->place || w->what->given ? place_given(out, w->what, err)
                           : w->what->searched              ? place_make(&out->placed, out->problem, err)
                                               : place_host_make(&out->placed, out->problem, err);
    if (!status) return HOTSET_OK;
    problem_free(out->problem);
    out->problem = NULL;
    return status;
}

/* Experts can be read where they are used, if they stand there as they are computed with, and if the profile
 * says how long that takes. */
static bool experts_may_stay(const outcome *o, const planner_work *w) {
    const hotset_shape *s = o->facts.shape;
    return s->expert_n && (o->options.sparsity == HOTSET_SPARSITY_OFF || s->by_neuron) &&
           w->what->machine->file_read_bytes_per_s.median > 0;
}

/* All of the model does not fit into the host's memory, not even as pages of the file. */
static bool is_short(const outcome *o, const planner_work *w) {
    const planner_facts *f = &o->facts;
    return f->weights_bytes + f->state_bytes * w->options.session_n + f->scratch_bytes + f->table_bytes >
           w->host_bytes;
}

/* Whether the host has some of a dense layer's neurons: they are put together in memory of their own. */
static bool host_parts_neurons(const outcome *o) {
    for (uint32_t l = 0; l < o->problem->layer_n; l++) {
        const problem_ffn *f = &o->problem->layer[l].ffn;
        const uint32_t host_n = o->placed->layer[l].split.n[0];
        bool dense = f->kind != PROBLEM_NONE && f->kind != PROBLEM_EXPERTS;
        if (dense && host_n > 0 && host_n < f->unit_n) return true;
    }
    return false;
}

static hotset_status place_mapped(outcome *out, const planner_work *w, hotset_error *err) {
    HOTSET_TRY(place_once(out, w, true, false, err));
    if (!host_parts_neurons(out)) return HOTSET_OK;
    placement_free(out->placed);
    problem_free(out->problem);
    out->placed = NULL;
    out->problem = NULL;
    return hotset_fail(err, HOTSET_E_ARGUMENT,
                       "plan: a GPU has some of a layer's neurons: the host's have to be copied, not mapped");
}

/* With GPUs how much the host has to hold shows only when all is placed. */
static hotset_status place_beside_gpus(outcome *out, const planner_work *w, hotset_error *err) {
    hotset_memory_mode memory = w->options.memory;
    bool may_map = out->options.sparsity == HOTSET_SPARSITY_OFF || out->facts.shape->by_neuron;
    outcome mapped = *out;
    if (memory == HOTSET_MEMORY_MAPPED) return place_mapped(out, w, err);
    hotset_status status = place_once(out, w, false, experts_may_stay(out, w), err);
    if (memory == HOTSET_MEMORY_COPIED || !may_map || (status && status != HOTSET_E_NOFIT)) return status;
    if (!status && out->placed->ledger[0].total <= w->host_bytes / 100 * PLAN_COPY_PERCENT) return HOTSET_OK;
    if (place_mapped(&mapped, w, NULL)) return status;
    outcome_free(out);
    *out = mapped;
    return HOTSET_OK;
}

/* E_ARGUMENT where the weights have to stay mapped and neurons cannot be skipped so. */
static hotset_status place(outcome *out, const planner_work *w, hotset_sparsity sparsity, hotset_error *err) {
    const hotset_model *m = w->what->model;
    hotset_memory_mode memory;
    *out = (outcome){.options = w->options, .facts = {.host_bytes = w->host_bytes}};
    out->options.sparsity = sparsity;
    HOTSET_TRY(gather(m, w->cpu, &out->options, w->what->prefill_skips, w->device_n, &out->facts, err));
    if (w->device_n > 1) return place_beside_gpus(out, w, err);
    if (w->options.memory != HOTSET_MEMORY_MAPPED && is_short(out, w) && experts_may_stay(out, w))
        return place_once(out, w, false, true, err);
    HOTSET_TRY(plan_choose_memory(&memory, &w->options, &out->facts, err));
    if (memory == HOTSET_MEMORY_MAPPED && sparsity != HOTSET_SPARSITY_OFF && !m->shape.by_neuron)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: skipping needs copied weights, for which there is too little memory");
    return place_once(out, w, memory == HOTSET_MEMORY_MAPPED, false, err);
}

/* Of dense and exact the quicker one; without predictions exact where it is possible. */
static hotset_status place_best(outcome *out, const planner_work *w, hotset_error *err) {
    outcome dense;
    hotset_error why = {0};
    hotset_status status = place(out, w, HOTSET_SPARSITY_EXACT, &why);
    if (status == HOTSET_E_MEMORY) return hotset_fail(err, status, "%s", why.message);
    if (!status && !w->what->searched) return HOTSET_OK;
    hotset_status dense_status = place(&dense, w, HOTSET_SPARSITY_OFF, &why);
    if (dense_status && !status) return HOTSET_OK;
    if (dense_status) return hotset_fail(err, dense_status, "%s", why.message);
    if (!status && out->placed->objective_s <= dense.placed->objective_s) {
        outcome_free(&dense);
        return HOTSET_OK;
    }
    if (!status) outcome_free(out);
    *out = dense;
    return HOTSET_OK;
}

/* Without a machine profile there is nothing to predict. */
static void forget_seconds(plan_data *data) {
    data->token_s = data->chunk_s = data->head_s = data->submit_s = 0;
    for (uint32_t l = 0; l < data->layer_n; l++) {
        plan_layer *layer = &data->layer[l];
        layer->send_s = layer->mixer_s = layer->merge_s = layer->chunk_s = 0;
        memset(layer->busy_s, 0, sizeof layer->busy_s);
    }
}

static hotset_status make_data(plan_data **out, const outcome *o, const planner_work *w, hotset_error *err) {
    HOTSET_TRY(planner_data(out, o->problem, o->placed, err));
    hotset_status status = name_model(*out, w->what->model, &o->options, err);
    name_use(*out, w->what->model, w->what->profile, &o->options);
    (*out)->prefill_skips = w->what->prefill_skips;
    if (!status && w->what->searched && o->options.gains) status = planner_gains(*out, o->problem, err);
    if (!w->what->searched) forget_seconds(*out);
    if (!status) status = plan_data_check(*out, err);
    if (!status) return HOTSET_OK;
    plan_data_free(*out);
    *out = NULL;
    return status;
}

/* The host's part. */
static hotset_status footprint_of(hotset_footprint *out, const hotset_model *m, const plan_data *data,
                                  const outcome *o, hotset_error *err) {
    const plan_ledger *host = &data->device[0].ledger;
    placed_device placed;
    HOTSET_TRY(placed_make(&placed, m, data, 0, err));
    uint64_t copied_bytes = data->memory == PLAN_COPIED
                                ? weights_copied_bytes(m, o->options.sparsity, &placed, FOOTPRINT_ALIGN)
                                : 0;
    placed_free(&placed);
    *out = (hotset_footprint){.weights_mapped_bytes = host->mapped + o->placed->file_bytes,
                              .weights_copied_bytes = copied_bytes,
                              .state_bytes = host->state,
                              .scratch_bytes = host->scratch,
                              .table_bytes = host->total - copied_bytes - host->state - host->scratch,
                              .total_bytes = host->total};
    return HOTSET_OK;
}

/* The plan of an outcome, which it takes. */
static hotset_status keep(hotset_plan **out, outcome *o, const planner_work *w, hotset_error *err) {
    hotset_plan *p;
    hotset_status status = base_calloc(&p, 1, sizeof *p, "the plan", err);
    if (!status) status = make_data(&p->data, o, w, err);
    if (!status) status = footprint_of(&p->footprint, w->what->model, p->data, o, err);
    if (!status) {
        p->options = o->options;
        p->options.memory = o->problem->host_mapped ? HOTSET_MEMORY_MAPPED : HOTSET_MEMORY_COPIED;
        p->options.devices = NULL;
        snprintf(p->isa, sizeof p->isa, "%s", o->options.isa);
        p->options.isa = p->isa;
        p->shape = *o->facts.shape;
        p->skip_by_cost = w->what->prefill_skips;
        p->workspace_bytes = o->facts.workspace_bytes;
        assert(w->device_n > 1 || o->placed->file_bytes ||
               p->footprint.weights_copied_bytes + p->footprint.weights_mapped_bytes ==
                   o->facts.weights_bytes);
        p->problem = o->problem;
        p->problem->machine = NULL;
        o->problem = NULL;
        *out = p;
    }
    outcome_free(o);
    if (status) hotset_plan_free(p);
    return status;
}

/* ---- Devices ---- */

hotset_status planning_devices(const machine_profile *m, const char *list,
                               uint32_t chosen[PROBLEM_DEVICE_MAX], uint32_t *chosen_n, hotset_error *err) {
    bool wanted[MACHINE_DEVICE_MAX] = {true};
    *chosen_n = 0;
    for (uint32_t d = 0; d < m->device_n; d++) wanted[d] |= !list;
    for (const char *at = list; at && *at;) {
        char name[MACHINE_NAME_BYTES];
        size_t n = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)n, at);
        uint32_t d = machine_find_device(m, name);
        if (d == m->device_n || n >= sizeof name)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: the machine profile has no device '%.*s'",
                               (int)n, at);
        wanted[d] = true;
        at += n + (at[n] == ',');
    }
    for (uint32_t d = 0; d < m->device_n; d++) {
        if (!wanted[d]) continue;
        if (*chosen_n == PROBLEM_DEVICE_MAX)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: more than %d devices: name some of them",
                               PROBLEM_DEVICE_MAX);
        chosen[(*chosen_n)++] = d;
    }
    return HOTSET_OK;
}

hotset_status planning_make(hotset_plan **out, const planning *what, hotset_sparsity sparsity,
                            hotset_error *err) {
    planner_work w = {.what = what, .options = *what->options};
    const machine_device *host = &what->machine->device[0];
    device_cpu_facts here;
    outcome o;
    *out = NULL;
    if (host->alignment_bytes != FOOTPRINT_ALIGN)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: devices[0].alignment_bytes of the machine profile is %" PRIu64
                           ", the host's memory is aligned to %d",
                           host->alignment_bytes, FOOTPRINT_ALIGN);
    if (sparsity != HOTSET_SPARSITY_AUTO) w.options.sparsity = sparsity;
    HOTSET_TRY(planning_devices(what->machine, what->options->devices, w.device, &w.device_n, err));
    HOTSET_TRY(device_cpu_get_facts(&here, err));
    uint32_t thread_n = host->processor.thread_n ? host->processor.thread_n : here.thread_n;
    HOTSET_TRY(plan_resolve(&w.options, &what->model->shape, thread_n, here.isa_best, err));
    w.host_bytes =
        w.options.host_bytes_max ? min_u64(w.options.host_bytes_max, PLAN_BYTES_MAX) : host->free_bytes;
    HOTSET_TRY(device_cpu_open(
        &w.cpu, &(device_cpu_options){.thread_n = w.options.thread_n, .isa = w.options.isa}, err));
    w.options.isa = device_cpu_isa(w.cpu);
    hotset_status status = w.options.sparsity == HOTSET_SPARSITY_AUTO
                               ? place_best(&o, &w, err)
                               : place(&o, &w, w.options.sparsity, err);
    if (!status) status = keep(out, &o, &w, err);
    w.cpu->api->close(w.cpu);
    return status;
}

/* ---- The public interface ---- */

hotset_plan_options hotset_plan_default_options(void) { return (hotset_plan_options){0}; }

hotset_status planning_host(machine_profile **out, hotset_error *err) {
    device_cpu_facts here;
    HOTSET_TRY(device_cpu_get_facts(&here, err));
    HOTSET_TRY(machine_make(out, 1, 0, err));
    machine_device *d = &(*out)->device[0];
    snprintf(d->name, sizeof d->name, "cpu");
    snprintf(d->model, sizeof d->model, "%s", here.model);
    d->kind = MACHINE_CPU;
    d->alignment_bytes = FOOTPRINT_ALIGN;
    d->free_bytes = here.memory_free_bytes;
    d->processor.thread_n = here.thread_n;
    return HOTSET_OK;
}

hotset_status hotset_plan_cpu(hotset_plan **out, const hotset_model *m, const hotset_plan_options *options,
                              hotset_error *err) {
    hotset_plan_options o = options ? *options : hotset_plan_default_options();
    machine_profile *host;
    *out = NULL;
    HOTSET_TRY(planning_host(&host, err));
    o.devices = NULL;
    if (o.host_bytes_max) o.host_bytes_max = min_u64(o.host_bytes_max, host->device[0].free_bytes);
    planning what = {
        .model = m, .machine = host, .options = &o, .prefill_skips = planning_skips_by_cost(o.sparsity)};
    hotset_status status = planning_make(out, &what, HOTSET_SPARSITY_AUTO, err);
    machine_free(host);
    return status;
}

hotset_status hotset_plan_make(hotset_plan **out, const hotset_model *m, const hotset_machine *machine,
                               const hotset_profile *profile, const hotset_plan_options *options,
                               hotset_error *err) {
    hotset_plan_options o = options ? *options : hotset_plan_default_options();
    const activation_profile *counts = NULL;
    *out = NULL;
    if (profile) HOTSET_TRY(profile_counts(&counts, profile, m, err));
    planning what = {.model = m,
                     .machine = machine->profile,
                     .profile = counts,
                     .options = &o,
                     .searched = true,
                     .prefill_skips = planning_skips_by_cost(o.sparsity)};
    return planning_make(out, &what, HOTSET_SPARSITY_AUTO, err);
}

/* ---- What a plan says ---- */

static void plan_use(const hotset_plan *p, const float **use) {
    for (uint32_t l = 0; l < p->data->layer_n; l++) use[l] = p->problem->layer[l].ffn.use;
}

hotset_status hotset_plan_describe(const hotset_plan *p, hotset_plan_form form, hotset_text_fn *write,
                                   void *cookie, hotset_error *err) {
    const float **use = NULL;
    if (form == HOTSET_PLAN_JSON) return plan_data_print(p->data, write, cookie, err);
    if (form == HOTSET_PLAN_TABLE) {
        plan_explain(p->data, write, cookie);
        return HOTSET_OK;
    }
    if (p->problem) {
        HOTSET_TRY(base_calloc(&use, p->data->layer_n, sizeof *use, "a page", err));
        plan_use(p, use);
    }
    plan_page(p->data, use, write, cookie);
    free(use);
    return HOTSET_OK;
}

hotset_estimate hotset_plan_estimate(const hotset_plan *p) {
    hotset_estimate e = {.token_s = p->data->token_s, .chunk_s = p->data->chunk_s};
    for (uint32_t i = 0; i < p->data->measured_n; i++)
        if (p->data->measured[i].kept) e.measured_token_s = p->data->measured[i].measured_s;
    return e;
}

void hotset_plan_free(hotset_plan *p) {
    if (!p) return;
    plan_data_free(p->data);
    problem_free(p->problem);
    free(p);
}

hotset_footprint hotset_plan_footprint(const hotset_plan *p) { return p->footprint; }

hotset_plan_options hotset_plan_resolved(const hotset_plan *p) { return p->options; }

hotset_status hotset_plan_write(const hotset_plan *p, const char *path, hotset_error *err) {
    return plan_data_write(p->data, path, err);
}
