/* planner.c - from a placement to a plan: ledgers, shares, predicted seconds, and what would help. */
#include "planner/planner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t GAIN_BYTES = (uint64_t)1 << 30;
/* Tried for what faster memory and links would bring. */
static const double GAIN_MEMORY = 1.25, GAIN_LINK = 2;

/* ---- Ledgers ---- */

static plan_ledger ledger_of(const placement_ledger *from) {
    return (plan_ledger){.dense = from->dense,
                         .embedding = from->embedding,
                         .head = from->head,
                         .scratch = from->scratch,
                         .state = from->state,
                         .tables = from->tables,
                         .units = from->units,
                         .total = from->total};
}

/* The parts of the host's weights that are mapped: what they would take if they were not. */
static hotset_status add_mapped(plan_ledger *to, const problem *p, const placement *placed,
                                hotset_error *err) {
    problem copied = *p;
    cost_model *c;
    copied.host_mapped = false;
    HOTSET_TRY(cost_make(&c, &copied, err));
    plan_ledger full = *to;
    full.dense = full.units = 0;
    full.embedding = c->embedding_bytes;
    full.head = placed->head_device == 0 ? c->head_bytes[0] : 0;
    for (uint32_t l = 0; l < p->layer_n; l++) {
        const cost_split *split = &placed->layer[l].split;
        uint64_t units = cost_units_bytes(c, l, 0, split->n[0] - split->file_n);
        full.units += units;
        full.dense += cost_layer_bytes(c, l, 0, split) - units;
    }
    full.dense -= full.state; /* which a home's bytes hold */
    full.mapped = full.dense + full.units + full.embedding + full.head - to->dense;
    *to = full;
    cost_free(c);
    return HOTSET_OK;
}

static void fill_device(plan_device *to, const problem *p, uint32_t d) {
    const machine_device *m = &p->machine->device[p->device[d].machine_i];
    snprintf(to->name, sizeof to->name, "%s", m->name);
    snprintf(to->model, sizeof to->model, "%s", m->model);
    to->kind = m->kind;
    to->declared = p->machine->provenance.synthetic || m->declared;
    to->limit_bytes = p->device[d].limit_bytes;
}

/* ---- Layers ---- */

static void fill_use(plan_layer *to, const problem_ffn *f) {
    double all = 0;
    for (uint32_t i = 0; i < f->unit_n; i++) {
        double use = (double)f->use[i];
        all += use;
        if (to->place[i] == PLAN_IN_FILE)
            to->file_use += use;
        else
            to->use[to->place[i]] += use;
    }
    if (!(all > 0)) return;
    to->file_use /= all;
    for (uint32_t d = 0; d < PLAN_DEVICE_MAX; d++) to->use[d] /= all;
}

static void fill_layer(plan_layer *to, const problem *p, const placement *placed, uint32_t l) {
    const placement_layer *from = &placed->layer[l];
    const problem_ffn *f = &p->layer[l].ffn;
    to->home = from->split.home;
    to->streamed = from->streamed;
    to->kind = f->kind == PROBLEM_NONE      ? PLAN_NO_UNITS
               : f->kind == PROBLEM_EXPERTS ? PLAN_EXPERTS
                                            : PLAN_NEURONS;
    if (!to->unit_n) return;
    to->neuron_n = f->neuron_n;
    memcpy(to->place, from->unit, to->unit_n);
    fill_use(to, f);
}

static void fill_seconds(plan_data *to, const cost_model *c, const placement *placed) {
    uint32_t at = 0;
    for (uint32_t l = 0; l < to->layer_n; l++) {
        const cost_split *split = &placed->layer[l].split;
        plan_layer *layer = &to->layer[l];
        cost_parts parts = cost_layer_parts(c, l, split);
        layer->send_s = c->send[at][split->home].row;
        layer->mixer_s = parts.mixer;
        layer->merge_s = parts.merge;
        for (uint32_t d = 0; d < to->device_n; d++) layer->busy_s[d] = parts.busy[d];
        layer->chunk_s = placed->layer[l].s.chunk + c->send[at][split->home].chunk;
        at = split->home;
    }
    to->head_s = c->send[at][placed->head_device].row + c->head[placed->head_device];
    for (uint32_t d = 0; d < to->device_n; d++)
        if (placed->used[d]) to->submit_s += c->submit[d];
    to->token_s = placed->token_s;
    to->chunk_s = placed->chunk_s;
    to->stream_row_n = placed->stream_row_n;
}

/* ---- The whole ---- */

static hotset_status fill(plan_data *to, const problem *p, const placement *placed, hotset_error *err) {
    static const plan_goal goals[] = {
        [PROBLEM_DECODE] = PLAN_DECODE, [PROBLEM_PREFILL] = PLAN_PREFILL, [PROBLEM_BALANCED] = PLAN_BALANCED};
    cost_model *c;
    to->goal = goals[p->goal];
    to->state = p->state_type;
    to->batch_n = p->row_n;
    to->thread_n = p->thread_n ? p->thread_n : p->machine->device[0].processor.thread_n;
    to->memory = p->host_mapped ? PLAN_MAPPED : PLAN_COPIED;
    to->device_n = p->device_n;
    to->head = placed->head_device;
    for (uint32_t d = 0; d < p->device_n; d++) {
        fill_device(&to->device[d], p, d);
        to->device[d].ledger = ledger_of(&placed->ledger[d]);
    }
    if (p->host_mapped) HOTSET_TRY(add_mapped(&to->device[0].ledger, p, placed, err));
    for (uint32_t l = 0; l < p->layer_n; l++) fill_layer(&to->layer[l], p, placed, l);
    HOTSET_TRY(cost_make(&c, p, err));
    fill_seconds(to, c, placed);
    cost_free(c);
    return HOTSET_OK;
}

hotset_status planner_data(plan_data **out, const problem *p, const placement *placed, hotset_error *err) {
    uint32_t *unit_n;
    *out = NULL;
    HOTSET_TRY(base_calloc(&unit_n, p->layer_n, sizeof *unit_n, "a plan's layers", err));
    for (uint32_t l = 0; l < p->layer_n; l++)
        unit_n[l] = p->layer[l].ffn.kind == PROBLEM_NONE ? 0 : p->layer[l].ffn.unit_n;
    hotset_status status = plan_data_make(out, p->layer_n, unit_n, err);
    free(unit_n);
    if (!status) status = fill(*out, p, placed, err);
    if (!status) return HOTSET_OK;
    plan_data_free(*out);
    *out = NULL;
    return status;
}

/* ---- What would help ---- */

/* Plans the changed problem and keeps the result. What cannot be planned is no gain. */
static hotset_status add_gain(plan_data *data, const problem *p, const char *what, hotset_error *err) {
    placement *placed;
    hotset_status status = place_make(&placed, p, err);
    if (status == HOTSET_E_NOFIT) return HOTSET_OK;
    if (status) return status;
    plan_gain *gain = &data->gain[data->gain_n++];
    snprintf(gain->what, sizeof gain->what, "%s", what);
    gain->token_s = placed->token_s;
    placement_free(placed);
    return HOTSET_OK;
}

static hotset_status gain_of_bytes(plan_data *data, const problem *p, uint32_t d, hotset_error *err) {
    char what[PLAN_WHAT_BYTES];
    problem more = *p;
    more.device[d].limit_bytes += GAIN_BYTES;
    snprintf(what, sizeof what, "1 GiB more on %s", data->device[d].name);
    return add_gain(data, &more, what, err);
}

static void speed_up(machine_rate *r, double factor) { r->median *= factor; }

static void speed_up_memory(machine_device *d, double factor) {
    for (uint32_t t = 0; t < GGUF_TYPE_MAX; t++)
        for (uint32_t a = 0; a < MACHINE_ACCESS_COUNT; a++)
            for (uint32_t s = 0; s < MACHINE_SHARE_N; s++)
                for (uint32_t i = 0; i < d->weights[t].access[a][s].n; i++)
                    speed_up(&d->weights[t].access[a][s].rate[i], factor);
    for (uint32_t s = 0; s < MACHINE_STATE_COUNT; s++) speed_up(&d->attention[s].bytes_per_s, factor);
}

static void speed_up_link(machine_link *l, double factor) {
    speed_up(&l->pinned_bytes_per_s, factor);
    speed_up(&l->latency_s, 1 / factor);
    speed_up(&l->handover_s, 1 / factor);
}

static hotset_status copy_machine(machine_profile **out, const machine_profile *m, hotset_error *err) {
    HOTSET_TRY(machine_make(out, m->device_n, m->link_n, err));
    memcpy((*out)->device, m->device, m->device_n * sizeof *m->device);
    memcpy((*out)->link, m->link, m->link_n * sizeof *m->link);
    (*out)->provenance = m->provenance;
    (*out)->file_read_bytes_per_s = m->file_read_bytes_per_s;
    return HOTSET_OK;
}

static hotset_status gain_of_rates(plan_data *data, const problem *p, bool links, hotset_error *err) {
    char what[PLAN_WHAT_BYTES];
    problem faster = *p;
    machine_profile *m;
    HOTSET_TRY(copy_machine(&m, p->machine, err));
    if (links) {
        for (uint32_t i = 0; i < m->link_n; i++) speed_up_link(&m->link[i], GAIN_LINK);
        snprintf(what, sizeof what, "links %g times as fast", GAIN_LINK);
    } else {
        speed_up_memory(&m->device[0], GAIN_MEMORY);
        snprintf(what, sizeof what, "host memory %g times as fast", GAIN_MEMORY);
    }
    faster.machine = m;
    hotset_status status = add_gain(data, &faster, what, err);
    machine_free(m);
    return status;
}

hotset_status planner_gains(plan_data *data, const problem *p, hotset_error *err) {
    data->gain_n = 0;
    for (uint32_t d = 0; d < p->device_n; d++) /* the host's memory only matters where it is short */
        if (d > 0 || data->device[0].ledger.total + GAIN_BYTES > data->device[0].limit_bytes)
            HOTSET_TRY(gain_of_bytes(data, p, d, err));
    HOTSET_TRY(gain_of_rates(data, p, false, err));
    return p->device_n > 1 ? gain_of_rates(data, p, true, err) : HOTSET_OK;
}
