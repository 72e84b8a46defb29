/* plan_read.c - plan files: read for a model, which must be the one that they were made for. */
#include <inttypes.h>
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
    return (hotset_plan_options){
        .context_n = data->context_n,
        .session_n = data->session_n,
        .batch_n = data->batch_n,
        .thread_n = data->thread_n,
        .state_type = data->state == MACHINE_STATE_F16 ? HOTSET_STATE_F16 : HOTSET_STATE_F32,
        .memory = data->memory == PLAN_MAPPED ? HOTSET_MEMORY_MAPPED : HOTSET_MEMORY_COPIED,
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

static hotset_status check_bytes(const char *what, uint64_t have, uint64_t want, hotset_error *err) {
    if (have == want) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT,
                       "devices[0].ledger.%s_bytes: the plan says %" PRIu64 ", the model takes %" PRIu64
                       ": it was made for other weight types, or by another version",
                       what, have, want);
}

/* What the model takes, all on the host, is what the plan says. */
static hotset_status check_ledger(const plan_ledger *have, const plan_ledger *want, hotset_error *err) {
    HOTSET_TRY(check_bytes("dense", have->dense, want->dense, err));
    HOTSET_TRY(check_bytes("embedding", have->embedding, want->embedding, err));
    HOTSET_TRY(check_bytes("head", have->head, want->head, err));
    HOTSET_TRY(check_bytes("units", have->units, want->units, err));
    HOTSET_TRY(check_bytes("state", have->state, want->state, err));
    HOTSET_TRY(check_bytes("scratch", have->scratch, want->scratch, err));
    HOTSET_TRY(check_bytes("tables", have->tables, want->tables, err));
    return check_bytes("mapped", have->mapped, want->mapped, err);
}

static bool host_only(const plan_data *data) {
    for (uint32_t d = 1; d < data->device_n; d++)
        if (plan_device_used(data, d)) return false;
    return true;
}

/* The same plan made anew for the model, with what was read in the place of what was planned. */
static hotset_status plan_for_model(hotset_plan **out, plan_data *data, const hotset_model *m,
                                    hotset_error *err) {
    hotset_plan_options o = planning_options(data);
    machine_profile *host;
    bool weights_differ;
    HOTSET_TRY(check_fingerprints(data, m, &weights_differ, err));
    HOTSET_TRY(check_units(data, m, err));
    HOTSET_TRY(planning_host(&host, err));
    planning what = {.model = m, .machine = host, .options = &o, .prefill_skips = data->prefill_skips};
    hotset_status status = planning_make(out, &what, HOTSET_SPARSITY_AUTO, err);
    if (!status && host_only(data))
        status = check_ledger(&data->device[0].ledger, &(*out)->data->device[0].ledger, err);
    machine_free(host);
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
