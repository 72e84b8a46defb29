/* placing.c - from a model's tensors to the planner's problem. */
#include "engine/placing.h"

#include <math.h>
#include <stdlib.h>

#include "engine/state.h"
#include "engine/weights.h"

enum { UNIT_NEURONS = 256 /* of a unit, where nothing tells neurons apart */, UNIT_NEURONS_SORTED = 32 };

static uint64_t aligned(uint64_t bytes) { return round_up(bytes, FOOTPRINT_ALIGN); }

/* ---- Matrices and vectors ---- */

/* All of a tensor. */
static problem_matrix whole(const model_tensor *t) {
    if (!t->present) return (problem_matrix){0};
    return (problem_matrix){t->type, t->row_bytes, model_matrix_bytes(t),
                            (double)t->in_n * t->out_n * (t->unit_n ? t->unit_n : 1)};
}

/* `row_n` rows of it. */
static problem_matrix rows_of(const model_tensor *t, uint32_t row_n) {
    if (!t->present) return (problem_matrix){0};
    return (problem_matrix){t->type, t->row_bytes, t->row_bytes * row_n, (double)t->in_n * row_n};
}

/* One expert. */
static problem_matrix one_of(const model_tensor *t) {
    if (!t->present) return (problem_matrix){0};
    return (problem_matrix){t->type, t->row_bytes, model_unit_bytes(t), (double)t->in_n * t->out_n};
}

/* Vectors and tables of units of a layer, as weights.c allocates them. */
static void add_vectors(problem_layer *to, const hotset_model *m, const model_layer *layer,
                        hotset_sparsity sparsity) {
    for (uint32_t role = ARCH_LAYER_ROLES; role < ARCH_ROLE_COUNT; role++) {
        const model_tensor *t = &layer->tensor[role];
        if (!weights_is_loaded(t, role, sparsity)) continue;
        *(weights_is_ffn(m, role) ? &to->ffn_vector_bytes : &to->mixer_vector_bytes) +=
            weights_vector_bytes(t);
    }
}

static hotset_status make_mixer(problem_layer *to, const placing *what, uint32_t layer_i, hotset_error *err) {
    static const arch_role roles[] = {ARCH_ATTN_Q,     ARCH_ATTN_K,   ARCH_ATTN_V,      ARCH_ATTN_OUT,
                                      ARCH_ATTN_Q_A,   ARCH_ATTN_Q_B, ARCH_ATTN_KV_A,   ARCH_ATTN_K_B,
                                      ARCH_ATTN_V_B,   ARCH_ROUTER,   ARCH_SHARED_GATE, ARCH_SHARED_UP,
                                      ARCH_SHARED_DOWN};
    const model_layer *layer = &what->model->layer[layer_i];
    const hotset_plan_options *o = what->options;
    const model_kept kept = model_kept_of(what->model, layer_i);
    machine_state stored;
    uint64_t key_row, value_row;
    HOTSET_TRY(plan_state_of(&stored, o->state_type, err));
    HOTSET_TRY(state_row_bytes(&kept, stored, &key_row, &value_row, err));
    for (size_t i = 0; i < COUNT_OF(roles); i++)
        if (layer->tensor[roles[i]].present) to->mixer[to->mixer_n++] = whole(&layer->tensor[roles[i]]);
    to->host_only = kept.joined; /* GPUs have no kernels for latent attention */
    to->state_bytes = (footprint_state_bytes(kept.head_n, o->context_n, key_row) +
                       footprint_state_bytes(kept.head_n, o->context_n, value_row)) *
                      o->session_n;
    to->state_row_bytes = (double)kept.head_n * (double)(key_row + value_row);
    to->attend_op_n = 2.0 * layer->head_n * (kept.key_n + kept.value_n);
    add_vectors(to, what->model, layer, o->sparsity);
    return HOTSET_OK;
}

/* ---- FFN ---- */

static bool is_sorted(const placing *what, uint32_t layer_i) {
    return what->model->layer[layer_i].order != NULL;
}

/* Whether the profile counts the layer's units. */
static const activation_layer *counted(const placing *what, uint32_t layer_i) {
    const activation_layer *a = what->profile ? &what->profile->layer[layer_i] : NULL;
    return a && a->count ? a : NULL;
}

/* The most neurons that a unit may have, whole blocks of `block_n`. */
static uint32_t neurons_of_unit(uint32_t ff_n, uint32_t wanted, uint32_t block_n) {
    for (uint32_t n = wanted; n > block_n; n /= 2)
        if (ff_n % n == 0 && n % block_n == 0) return n;
    return ff_n % block_n == 0 ? block_n : ff_n;
}

/* How kernels walk a down matrix that stands so, and the bytes of what they take for a row of it. */
static machine_access access_of(const model_tensor *t, neurons_order order, uint64_t *row_bytes) {
    neurons_form form;
    *row_bytes = t->row_bytes;
    if (order == NEURONS_BY_ROW)
        return gguf_type_get(t->type)->block_n > 1 ? MACHINE_SUMS_BY_ROW : MACHINE_SUMS;
    if (order == NEURONS_BY_OUTPUT || !neurons_form_of(t->type, t->out_n, &form)) return MACHINE_DENSE;
    *row_bytes = neurons_row_bytes(form, t->out_n);
    return MACHINE_SUMS;
}

/* Down of one unit, to be skipped through; false where its type has no such form. */
static bool down_by_neuron(problem_ffn *f, const model_tensor *t) {
    neurons_order order = t->order == NEURONS_BY_OUTPUT ? NEURONS_BY_NEURON : t->order;
    uint64_t row_bytes;
    f->down_access = access_of(t, order, &row_bytes);
    if (f->down_access == MACHINE_DENSE) return false;
    f->down = (problem_matrix){t->type, row_bytes, row_bytes * f->neuron_n, (double)t->out_n * f->neuron_n};
    neurons_form form;
    if (order == NEURONS_BY_ROW || !neurons_form_of(t->type, t->out_n, &form) || form.group_n == 1)
        return true;
    f->group_n = form.group_n;
    f->scale_bytes = neurons_header_bytes(form, t->out_n);
    return true;
}

/* All of down, scales included. */
static void dense_down(problem_ffn *f, const model_tensor *t) {
    uint64_t row_bytes;
    f->down_access = access_of(t, t->order, &row_bytes);
    f->down = (problem_matrix){t->type, row_bytes, model_matrix_bytes(t) / f->unit_n,
                               (double)t->out_n * f->neuron_n};
}

static void make_dense_ffn(problem_layer *to, const placing *what, uint32_t layer_i) {
    const model_layer *layer = &what->model->layer[layer_i];
    const model_tensor *down = &layer->tensor[ARCH_FFN_DOWN];
    problem_ffn *f = &to->ffn;
    neurons_form form = {.group_n = 1};
    bool can_skip = down->order == NEURONS_BY_ROW || neurons_form_of(down->type, down->out_n, &form);
    bool skips = what->options->sparsity != HOTSET_SPARSITY_OFF && can_skip;
    bool apart = skips && what->device_n > 1 && counted(what, layer_i) && !is_sorted(what, layer_i);
    uint32_t wanted = apart ? 1 : is_sorted(what, layer_i) && skips ? UNIT_NEURONS_SORTED : UNIT_NEURONS;
    uint32_t block_n = skips || down->order == NEURONS_BY_ROW ? 1 : gguf_type_get(down->type)->block_n;
    f->kind = !skips                                             ? PROBLEM_DENSE
              : what->options->sparsity == HOTSET_SPARSITY_EXACT ? PROBLEM_EXACT
                                                                 : PROBLEM_PREDICTED;
    f->neuron_n = neurons_of_unit(layer->ff_n, wanted, block_n);
    if (what->units && what->units->layer[layer_i].neuron_n)
        f->neuron_n = what->units->layer[layer_i].neuron_n;
    /* neurons that share scales stay together: on several devices all of them, on one at least evenly */
    if (down->order != NEURONS_BY_ROW && skips && form.group_n > 1 && f->neuron_n % form.group_n &&
        (what->device_n > 1 || form.group_n % f->neuron_n))
        f->neuron_n = form.group_n;
    f->unit_n = layer->ff_n / f->neuron_n;
    f->hot_first = is_sorted(what, layer_i);
    f->gate = rows_of(&layer->tensor[ARCH_FFN_GATE], f->neuron_n);
    f->up = rows_of(&layer->tensor[ARCH_FFN_UP], f->neuron_n);
    if (f->kind == PROBLEM_PREDICTED) {
        f->fc1 = whole(&layer->tensor[ARCH_PREDICTOR_IN]);
        f->fc2 = rows_of(&layer->tensor[ARCH_PREDICTOR_OUT], f->neuron_n);
    }
    if (!skips || !down_by_neuron(f, down)) dense_down(f, down);
}

static void make_experts_ffn(problem_layer *to, const placing *what, uint32_t layer_i) {
    const model_layer *layer = &what->model->layer[layer_i];
    problem_ffn *f = &to->ffn;
    f->kind = PROBLEM_EXPERTS;
    f->unit_n = what->model->shape.expert_n;
    f->neuron_n = what->model->shape.ff_n;
    f->gate = one_of(&layer->tensor[ARCH_EXPERT_GATE]);
    f->up = one_of(&layer->tensor[ARCH_EXPERT_UP]);
    f->down = one_of(&layer->tensor[ARCH_EXPERT_DOWN]);
    f->down_access = access_of(&layer->tensor[ARCH_EXPERT_DOWN], layer->tensor[ARCH_EXPERT_DOWN].order,
                               &f->down.row_bytes);
}

/* ---- Use ---- */

/* Profiles count units by the original's numbers. */
static void profiled_use(problem_ffn *f, const activation_layer *a, int64_t token_n, const uint32_t *order) {
    uint32_t each = a->unit_n / f->unit_n;
    for (uint32_t i = 0; i < f->unit_n; i++) {
        double sum = 0;
        for (uint32_t j = i * each; j < (i + 1) * each; j++) sum += (double)a->count[order ? order[j] : j];
        f->use[i] = token_n > 0 ? (float)fmin(sum / each / (double)token_n, 1) : 0;
    }
}

static hotset_status fill_use(problem *p, const placing *what, uint32_t layer_i, hotset_error *err) {
    problem_ffn *f = &p->layer[layer_i].ffn;
    const activation_layer *a = counted(what, layer_i);
    const hotset_plan_options *o = what->options;
    if (f->kind == PROBLEM_NONE) return HOTSET_OK;
    f->use = arena_alloc(&p->arena, f->unit_n, sizeof *f->use);
    if (!f->use) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the use of units");
    if (f->kind == PROBLEM_DENSE)
        for (uint32_t i = 0; i < f->unit_n; i++) f->use[i] = 1;
    else if (a)
        profiled_use(f, a, what->profile->token_n, what->model->layer[layer_i].order);
    else if (f->kind == PROBLEM_EXPERTS)
        problem_assume_use(f->use, f->unit_n, (double)p->expert_used_n / f->unit_n, o->skew);
    else
        problem_assume_use(f->use, f->unit_n, o->active > 0 ? o->active : PLACING_ACTIVE_DEFAULT, o->skew);
    return HOTSET_OK;
}

/* ---- The whole ---- */

/* What the plan takes of the host beside what is placed. */
static uint64_t host_table_bytes(const placing *what, const problem *p) {
    uint64_t layers = p->rotary_bytes;
    for (uint32_t i = 0; i < p->layer_n; i++)
        layers += p->layer[i].mixer_vector_bytes + p->layer[i].ffn_vector_bytes;
    return what->facts->table_bytes - layers;
}

/* Vectors of the whole model, and what is lost by alignment behind them. */
static uint64_t gpu_table_bytes(const placing *what, const problem *p, uint32_t d) {
    uint64_t bytes = p->rotary_bytes;
    for (uint32_t role = 0; role < ARCH_LAYER_ROLES; role++)
        if (what->model->tensor[role].present && what->model->tensor[role].values && weights_is_global(role))
            bytes += weights_vector_bytes(&what->model->tensor[role]);
    return round_up(bytes, what->machine->device[what->device[d]].alignment_bytes) - p->rotary_bytes;
}

static void set_devices(problem *p, const placing *what) {
    p->device_n = what->device_n;
    for (uint32_t d = 0; d < p->device_n; d++) {
        problem_device *to = &p->device[d];
        to->machine_i = what->device[d];
        to->scratch_bytes = d ? what->facts->gpu_scratch_bytes : what->facts->scratch_bytes;
        if (d) to->table_bytes = gpu_table_bytes(what, p, d);
        to->limit_bytes = d ? what->machine->device[what->device[d]].free_bytes : what->facts->host_bytes;
        if (d && what->options->gpu_bytes_max)
            to->limit_bytes = min_u64(to->limit_bytes, what->options->gpu_bytes_max);
    }
    p->device[0].table_bytes = host_table_bytes(what, p);
}

static hotset_status fill(problem *p, const placing *what, hotset_error *err) {
    const hotset_model *m = what->model;
    const model_tensor *head = &m->tensor[ARCH_OUTPUT], *embedding = &m->tensor[ARCH_EMBED];
    p->layer = arena_alloc(&p->arena, p->layer_n, sizeof *p->layer);
    if (!p->layer) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for layers");
    for (uint32_t i = 0; i < p->layer_n; i++) {
        HOTSET_TRY(make_mixer(&p->layer[i], what, i, err));
        if (m->layer[i].experts)
            make_experts_ffn(&p->layer[i], what, i);
        else if (m->layer[i].ff_n)
            make_dense_ffn(&p->layer[i], what, i);
        HOTSET_TRY(fill_use(p, what, i, err));
    }
    p->head = whole(m->shape.tied ? embedding : head);
    p->tied = m->shape.tied;
    p->embedding_bytes =
        aligned(model_matrix_bytes(embedding)) + aligned(model_matrix_bytes(&m->tensor[ARCH_POSITIONS]));
    p->rotary_bytes = weights_fixed_bytes(m);
    set_devices(p, what);
    return problem_check(p, err);
}

hotset_status placing_problem(problem **out, const placing *what, hotset_error *err) {
    static const problem_goal goals[] = {[HOTSET_GOAL_DECODE] = PROBLEM_DECODE,
                                         [HOTSET_GOAL_PREFILL] = PROBLEM_PREFILL,
                                         [HOTSET_GOAL_BALANCED] = PROBLEM_BALANCED};
    const hotset_shape *s = &what->model->shape;
    const hotset_plan_options *o = what->options;
    problem *p;
    *out = NULL;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a planning problem", err));
    *p = (problem){.machine = what->machine,
                   .layer_n = s->layer_n,
                   .embd_n = s->embd_n,
                   .vocab_n = s->vocab_n,
                   .expert_used_n = s->expert_used_n,
                   .seen_n = (o->context_n + 1) / 2,
                   .row_n = o->batch_n,
                   .thread_n = o->thread_n,
                   .goal = goals[o->goal],
                   .host_mapped = what->mapped,
                   .file_tier = what->file_tier};
    if (what->mapped && what->facts->weights_bytes > what->facts->host_bytes)
        p->host_rate_max = what->machine->file_read_bytes_per_s.median;
    hotset_status status = plan_state_of(&p->state_type, o->state_type, err);
    if (!status) status = fill(p, what, err);
    if (status)
        problem_free(p);
    else
        *out = p;
    return status;
}
