/* plan_read.c - plan files: read for a model, which must be the one that they were made for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/machine.h"
#include "engine/planning.h"

hotset_plan_options planning_options(const plan_data *data) {
    static const hotset_sparsity sparsities[] = {[PLAN_DENSE] = HOTSET_SPARSITY_OFF,
                                                 [PLAN_EXACT] = HOTSET_SPARSITY_EXACT,
                                                 [PLAN_PREDICTED] = HOTSET_SPARSITY_PREDICT};
    static const hotset_goal goals[] = {[PLAN_DECODE] = HOTSET_GOAL_DECODE,
                                        [PLAN_PREFILL] = HOTSET_GOAL_PREFILL,
                                        [PLAN_BALANCED] = HOTSET_GOAL_BALANCED};
    static const hotset_state_type states[MACHINE_STATE_COUNT] = {[MACHINE_STATE_F16] = HOTSET_STATE_F16,
                                                                  [MACHINE_STATE_F32] = HOTSET_STATE_F32,
                                                                  [MACHINE_STATE_Q8_0] = HOTSET_STATE_Q8_0};
    return (hotset_plan_options){.context_n = data->context_n,
                                 .session_n = data->session_n,
                                 .batch_n = data->batch_n,
                                 .thread_n = data->thread_n,
                                 .state_type = states[data->state],
                                 .memory = data->memory == PLAN_MAPPED ? HOTSET_MEMORY_MAPPED
                                                                       : HOTSET_MEMORY_COPIED,
                                 .sparsity = sparsities[data->sparsity],
                                 .goal = goals[data->goal],
                                 .isa = *data->isa ? data->isa : NULL,
                                 .host_bytes_max = PLAN_BYTES_MAX};
}

static hotset_status check_units(const plan_data *data, const hotset_model *m, hotset_error *err) {
    if (data->layer_n != m->shape.layer_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "the plan has %" PRIu32 " layers, the model %" PRIu32,
                           data->layer_n, m->shape.layer_n);
    for (uint32_t i = 0; i < data->layer_n; i++) {
        const plan_layer *l = &data->layer[i];
        plan_unit_kind kind = m->layer[i].experts ? PLAN_EXPERTS
                              : m->layer[i].ff_n  ? PLAN_NEURONS
                                                  : PLAN_NO_UNITS;
        uint64_t unit_n = kind == PLAN_NEURONS ? (uint64_t)l->unit_n * l->neuron_n : l->unit_n;
        if (l->kind != kind || unit_n != model_unit_n(m, i))
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "layers[%" PRIu32 "]: %s of %" PRIu64 ", the model has %s of %" PRIu32, i,
                               plan_unit_kind_name(l->kind), unit_n, plan_unit_kind_name(kind),
                               model_unit_n(m, i));
    }
    return HOTSET_OK;
}

static hotset_status check_fingerprints(const plan_data *data, const hotset_model *m, bool *weights_differ,
                                        hotset_error *err) {
    uint64_t shape, values;
    HOTSET_TRY(model_fingerprints(m, &shape, &values, err));
    *weights_differ = data->weights && data->weights != values;
    if (data->shape == shape) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT,
                       "the plan was made for the shape 0x%016" PRIx64 " (%s), the model has 0x%016" PRIx64,
                       data->shape, data->name, shape);
}

/* What the model's parts take on a device is what the plan says. */
static hotset_status check_ledger(const plan_ledger *have, const plan_ledger *want, uint32_t device_i,
                                  hotset_error *err) {
    const struct {
        const char *name;
        uint64_t have, want;
    } parts[] = {{"dense", have->dense, want->dense},    {"embedding", have->embedding, want->embedding},
                 {"head", have->head, want->head},       {"units", have->units, want->units},
                 {"state", have->state, want->state},    {"scratch", have->scratch, want->scratch},
                 {"tables", have->tables, want->tables}, {"mapped", have->mapped, want->mapped}};
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (parts[i].have != parts[i].want)
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "devices[%" PRIu32 "].ledger.%s_bytes: the plan says %" PRIu64
                               ", the model takes %" PRIu64
                               ": it was made for other weight types, or by another version",
                               device_i, parts[i].name, parts[i].have, parts[i].want);
    return HOTSET_OK;
}

/* Units in different places are told apart by the numbers that they have in the file. */
static bool parts_units(const plan_data *data) {
    for (uint32_t l = 0; l < data->layer_n; l++)
        for (uint32_t u = 1; u < data->layer[l].unit_n; u++)
            if (data->layer[l].place[u] != data->layer[l].place[0]) return true;
    return false;
}

static hotset_status check_order(const plan_data *data, const hotset_model *m, hotset_error *err) {
    uint64_t order;
    HOTSET_TRY(model_order_fingerprint(m, &order, err));
    if (order == data->order || !parts_units(data)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT,
                       "the plan numbers neurons and experts %s, the model's file has them %s: plan again",
                       data->order ? "in a sorted order" : "in their original order",
                       !order        ? "in their original order"
                       : data->order ? "sorted otherwise"
                                     : "sorted");
}

/* The devices that a plan was made for, without rates. */
static hotset_status machine_of_plan(machine_profile **out, const plan_data *data, hotset_error *err) {
    machine_profile *host;
    HOTSET_TRY(planning_host(&host, err));
    hotset_status status = machine_make(out, data->device_n, 0, err);
    if (!status) (*out)->device[0] = host->device[0];
    machine_free(host);
    for (uint32_t d = 1; d < data->device_n && !status; d++) {
        machine_device *to = &(*out)->device[d];
        const plan_device *from = &data->device[d];
        snprintf(to->name, sizeof to->name, "%s", from->name);
        snprintf(to->model, sizeof to->model, "%s", from->model);
        to->kind = from->kind;
        to->alignment_bytes = FOOTPRINT_GPU_ALIGN;
        to->capacity_bytes = to->free_bytes = from->limit_bytes;
    }
    return status;
}

/* The same plan made anew for the model, with what was read in the place of what was planned. */
static hotset_status plan_for_model(hotset_plan **out, plan_data *data, const hotset_model *m,
                                    hotset_error *err) {
    hotset_plan_options o = planning_options(data);
    machine_profile *machine;
    bool weights_differ;
    HOTSET_TRY(check_fingerprints(data, m, &weights_differ, err));
    HOTSET_TRY(check_units(data, m, err));
    HOTSET_TRY(check_order(data, m, err));
    HOTSET_TRY(machine_of_plan(&machine, data, err));
    planning what = {
        .model = m, .machine = machine, .options = &o, .given = data, .prefill_skips = data->prefill_skips};
    hotset_status status = planning_make(out, &what, HOTSET_SPARSITY_AUTO, err);
    for (uint32_t d = 0; d < data->device_n && !status; d++)
        status = check_ledger(&data->device[d].ledger, &(*out)->data->device[d].ledger, d, err);
    machine_free(machine);
    if (status) {
        hotset_plan_free(*out);
        *out = NULL;
        return status;
    }
    plan_data_free((*out)->data);
    (*out)->data = data;
    (*out)->skip_by_cost = data->prefill_skips;
    (*out)->weights_differ = weights_differ;
    return HOTSET_OK;
}

bool plan_is(const char *path) {
    static const char format[] = "\"hotset.plan\"";
    file_map map;
    if (!machine_is(path) || file_map_open(&map, path, NULL)) return false; /* JSON, that is */
    bool found = map.bytes && memmem(map.data, map.bytes, format, sizeof format - 1);
    file_map_close(&map);
    return found;
}

hotset_status plan_inspect(const char *path, bool json, hotset_text_fn *write, void *cookie,
                           hotset_error *err) {
    hotset_plan *p;
    HOTSET_TRY(hotset_plan_read(&p, path, NULL, err));
    hotset_status status =
        hotset_plan_describe(p, json ? HOTSET_PLAN_JSON : HOTSET_PLAN_TABLE, write, cookie, err);
    hotset_plan_free(p);
    return status;
}

hotset_status hotset_plan_read(hotset_plan **out, const char *path, const hotset_model *m,
                               hotset_error *err) {
    plan_data *data;
    hotset_error why = {0};
    *out = NULL;
    HOTSET_TRY(plan_data_read(&data, path, err));
    hotset_status status;
    if (m) {
        status = plan_for_model(out, data, m, &why);
    } else {
        status = base_calloc(out, 1, sizeof **out, "the plan", &why);
        if (!status) {
            (*out)->data = data;
            (*out)->options = planning_options(data);
        }
    }
    if (!status) return HOTSET_OK;
    plan_data_free(data);
    return hotset_fail(err, status, "%s: %s", path, why.message);
}
