/* plan_shape.c - plans for models that are not here, from files of their shapes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/machine.h"
#include "engine/planning.h"
#include "planner/shape.h"
#include "profiles/fingerprint.h"

/* What the options say in the place of the shape file. */
static hotset_status apply_options(shape *s, const hotset_plan_options *o, hotset_error *err) {
    problem_shape *m = &s->model;
    if (o->context_n) m->context_n = o->context_n;
    if (o->session_n) m->session_n = o->session_n;
    if (o->batch_n) m->batch_n = o->batch_n;
    if (o->state_type) HOTSET_TRY(plan_state_of(&m->state_type, o->state_type, err));
    if (o->active > 0) s->assumed.active = o->active;
    if (o->skew > 0) s->assumed.skew = s->assumed.expert_skew = o->skew;
    if (o->sparsity == HOTSET_SPARSITY_OFF) m->dense_kind = PROBLEM_DENSE;
    if (o->sparsity == HOTSET_SPARSITY_EXACT) m->dense_kind = PROBLEM_EXACT;
    if (o->sparsity == HOTSET_SPARSITY_PREDICT) m->dense_kind = PROBLEM_PREDICTED;
    return shape_check(s, err);
}

static hotset_status shape_fingerprint(const problem_shape *s, uint64_t *out, hotset_error *err) {
    fingerprint_layer *layer;
    HOTSET_TRY(base_calloc(&layer, s->layer_n, sizeof *layer, "a model's shape", err));
    for (uint32_t i = 0; i < s->layer_n; i++) {
        bool experts = s->expert_n && i >= s->dense_layer_n;
        layer[i] = (fingerprint_layer){.head_n = s->head_n,
                                       .head_kv_n = s->head_kv_n,
                                       .key_n = s->key_n,
                                       .value_n = s->value_n,
                                       .ff_n = experts ? s->ff_expert_n : s->ff_n};
        if (experts) {
            layer[i].ffn = s->gated ? FINGERPRINT_FFN_EXPERTS_GATED : FINGERPRINT_FFN_EXPERTS_PLAIN;
            layer[i].expert_n = s->expert_n;
            layer[i].expert_used_n = s->expert_used_n;
        } else {
            layer[i].ffn = s->gated ? FINGERPRINT_FFN_GATED : FINGERPRINT_FFN_PLAIN;
        }
    }
    fingerprint_shape all = {s->embd_n, s->vocab_n, s->layer_n, layer};
    hotset_status status = fingerprint_of_shape(&all, out, err);
    free(layer);
    return status;
}

static hotset_status name_shape(plan_data *data, const shape *s, hotset_error *err) {
    static const plan_sparsity kinds[] = {[PROBLEM_EXACT] = PLAN_EXACT, [PROBLEM_PREDICTED] = PLAN_PREDICTED};
    problem_ffn_kind kind = s->model.ff_n ? s->model.dense_kind : PROBLEM_DENSE;
    snprintf(data->made_by, sizeof data->made_by, "hotset %s", hotset_version());
    snprintf(data->architecture, sizeof data->architecture, "%.31s", s->architecture);
    snprintf(data->name, sizeof data->name, "%.63s", s->name);
    data->context_n = s->model.context_n;
    data->session_n = s->model.session_n;
    data->sparsity = kind == PROBLEM_DENSE ? PLAN_DENSE : kinds[kind];
    if (s->model.expert_n)
        snprintf(data->activations, sizeof data->activations,
                 "assumed: %" PRIu32 " of %" PRIu32 " experts, the i-th used like i^-%g",
                 s->model.expert_used_n, s->model.expert_n, s->assumed.expert_skew);
    else if (kind == PROBLEM_DENSE)
        snprintf(data->activations, sizeof data->activations, "dense: every unit is used by every token");
    else
        snprintf(data->activations, sizeof data->activations,
                 "assumed: %g %% of the neurons active, the i-th used like i^-%g", 100 * s->assumed.active,
                 s->assumed.skew);
    return shape_fingerprint(&s->model, &data->shape, err);
}

/* The problem's devices are those that the options name, with their limits. */
static hotset_status choose_devices(problem *p, const machine_profile *m, const hotset_plan_options *o,
                                    hotset_error *err) {
    problem_device all[PROBLEM_DEVICE_MAX];
    uint32_t device[PROBLEM_DEVICE_MAX];
    memcpy(all, p->device, sizeof all);
    HOTSET_TRY(planning_devices(m, o->devices, device, &p->device_n, err));
    for (uint32_t d = 0; d < p->device_n; d++) {
        uint64_t limit = d ? o->gpu_bytes_max : o->host_bytes_max;
        p->device[d] = all[device[d]];
        if (limit) p->device[d].limit_bytes = d ? min_u64(limit, p->device[d].limit_bytes) : limit;
    }
    return HOTSET_OK;
}

static hotset_status make_data(plan_data **out, const shape *s, const problem *p, bool gains,
                               hotset_error *err) {
    placement *placed;
    HOTSET_TRY(place_make(&placed, p, err));
    hotset_status status = planner_data(out, p, placed, err);
    placement_free(placed);
    if (!status) status = name_shape(*out, s, err);
    if (!status && gains) status = planner_gains(*out, p, err);
    if (!status) status = plan_data_check(*out, err);
    if (!status) return HOTSET_OK;
    plan_data_free(*out);
    *out = NULL;
    return status;
}

static hotset_status fill(hotset_plan *plan, const shape *s, const machine_profile *m,
                          const hotset_plan_options *o, hotset_error *err) {
    static const problem_goal goals[] = {[HOTSET_GOAL_DECODE] = PROBLEM_DECODE,
                                         [HOTSET_GOAL_PREFILL] = PROBLEM_PREFILL,
                                         [HOTSET_GOAL_BALANCED] = PROBLEM_BALANCED};
    HOTSET_TRY(shape_problem(&plan->problem, s, m, NULL, err));
    HOTSET_TRY(choose_devices(plan->problem, m, o, err));
    plan->problem->goal = goals[o->goal];
    plan->problem->thread_n = o->thread_n;
    HOTSET_TRY(make_data(&plan->data, s, plan->problem, o->gains, err));
    plan->problem->machine = NULL;
    plan->options = planning_options(plan->data);
    return HOTSET_OK;
}

hotset_status hotset_plan_make_shape(hotset_plan **out, const char *shape_path, const hotset_machine *machine,
                                     const hotset_plan_options *options, hotset_error *err) {
    hotset_plan_options o = options ? *options : hotset_plan_default_options();
    shape s;
    *out = NULL;
    HOTSET_TRY(shape_read(&s, shape_path, err));
    HOTSET_TRY(apply_options(&s, &o, err));
    HOTSET_TRY(base_calloc(out, 1, sizeof **out, "the plan", err));
    hotset_status status = fill(*out, &s, machine->profile, &o, err);
    if (!status) return HOTSET_OK;
    hotset_plan_free(*out);
    *out = NULL;
    return status;
}
