/* shape.c - the fields of shape files, and problems made of them. */
#include "planner/shape.h"

#include <stdio.h>
#include <string.h>

#include "planner/footprint.h"
#include "profiles/json_walk.h"

#define FORMAT "hotset.shape"

enum { BATCH_N = 512, WIDTH_MAX = 1 << 20, HEAD_MAX = 1 << 12, EXPERT_MAX = 1 << 16, VOCAB_MAX = 1 << 24 };
static const uint64_t PARAMETER_MAX = (uint64_t)1 << 50;
static const double SKEW_MAX = 10;

static const char *const activation_names[SHAPE_ACTIVATION_COUNT] = {
    [SHAPE_SILU] = "silu", [SHAPE_GELU] = "gelu",   [SHAPE_GELU_TANH] = "gelu_tanh",
    [SHAPE_RELU] = "relu", [SHAPE_RELU2] = "relu2", [SHAPE_DRELU] = "drelu"};
static const char *const kind_names[] = {
    [PROBLEM_DENSE] = "dense", [PROBLEM_EXACT] = "exact", [PROBLEM_PREDICTED] = "predicted"};

/* One of `names` by its number; NULL among them stands for a number that has no name. */
static void walk_name(walk *w, const char *field, const char *const *names, uint32_t name_n, uint32_t *value,
                      const char *all) {
    char text[SHAPE_NAME_BYTES] = "";
    uint32_t i = 0;
    if (w->mode != WALK_READ && *value < name_n && names[*value])
        snprintf(text, sizeof text, "%s", names[*value]);
    walk_text(w, field, text, sizeof text, true);
    if (w->status) return;
    while (i < name_n && !(names[i] && !strcmp(names[i], text))) i++;
    if (i == name_n)
        walk_fail_field(w, field, "'%s' is not %s", text, all);
    else
        *value = i;
}

static void walk_type(walk *w, const char *field, gguf_type *type) {
    char text[SHAPE_NAME_BYTES] = "";
    const gguf_type_info *known = w->mode == WALK_READ ? NULL : gguf_type_get(*type);
    if (known) snprintf(text, sizeof text, "%s", known->name);
    walk_text(w, field, text, sizeof text, true);
    for (uint32_t i = 0; i < GGUF_TYPE_MAX && !w->status; i++) {
        const gguf_type_info *t = gguf_type_get(i);
        if (!t || strcmp(t->name, text) != 0) continue;
        *type = (gguf_type)i;
        return;
    }
    walk_fail_field(w, field, "'%s' is not the name of a GGUF type", text);
}

static void walk_assumed(walk *w, problem_assumption *a) {
    if (!walk_object_begin(w, "assumed", false)) return;
    walk_number(w, "active", &a->active, 0, 1);
    walk_number(w, "expert_skew", &a->expert_skew, 0, SKEW_MAX);
    walk_number(w, "skew", &a->skew, 0, SKEW_MAX);
    walk_object_end(w);
}

static void walk_attention(walk *w, problem_shape *m) {
    if (!walk_object_begin(w, "attention", false)) return;
    walk_u32(w, "head_kv_n", &m->head_kv_n, 1, HEAD_MAX);
    walk_u32(w, "head_n", &m->head_n, 1, HEAD_MAX);
    walk_u32(w, "key_n", &m->key_n, 1, HEAD_MAX);
    if (walk_has(w, "latent", m->latent_n > 0) && walk_object_begin(w, "latent", false)) {
        walk_u32(w, "query_rank", &m->query_rank, 0, WIDTH_MAX);
        walk_u32(w, "rope_n", &m->rope_n, 0, HEAD_MAX);
        walk_u32(w, "width", &m->latent_n, 1, WIDTH_MAX);
        walk_object_end(w);
    }
    walk_bool(w, "parallel", &m->parallel);
    walk_u32(w, "value_n", &m->value_n, 1, HEAD_MAX);
    walk_object_end(w);
}

static void walk_experts(walk *w, problem_shape *m) {
    if (!walk_has(w, "experts", m->expert_n > 0) || !walk_object_begin(w, "experts", false)) return;
    walk_u32(w, "expert_n", &m->expert_n, 1, EXPERT_MAX);
    walk_u32(w, "ff_n", &m->ff_expert_n, 1, WIDTH_MAX);
    walk_u32(w, "leading_dense_n", &m->dense_layer_n, 0, PROBLEM_LAYER_MAX);
    walk_u32(w, "shared_ff_n", &m->ff_shared_n, 0, WIDTH_MAX);
    walk_u32(w, "used_n", &m->expert_used_n, 1, EXPERT_MAX);
    walk_object_end(w);
}

/* Whether some layer has no experts. */
static bool has_dense(const problem_shape *m) { return !m->expert_n || m->dense_layer_n; }
static bool is_predicted(const problem_shape *m) {
    return has_dense(m) && m->dense_kind == PROBLEM_PREDICTED;
}

/* READ: what is absent from the file says zero; dense_kind stays NONE then. */
static void walk_ffn(walk *w, shape *s) {
    problem_shape *m = &s->model;
    uint32_t activation = s->activation, kind = m->dense_kind;
    if (!walk_object_begin(w, "ffn", false)) return;
    walk_name(w, "activation", activation_names, SHAPE_ACTIVATION_COUNT, &activation,
              "silu, gelu, gelu_tanh, relu, relu2 or drelu");
    if (has_dense(m)) {
        walk_bool(w, "down_by_row", &m->down_by_row);
        walk_u32(w, "ff_n", &m->ff_n, 1, PROBLEM_UNIT_MAX);
    }
    walk_bool(w, "gated", &m->gated);
    if (has_dense(m)) {
        walk_name(w, "kind", kind_names, COUNT_OF(kind_names), &kind, "dense, exact or predicted");
        if (kind == PROBLEM_PREDICTED) walk_u32(w, "predictor_rank", &m->predictor_rank, 1, WIDTH_MAX);
        walk_u32(w, "unit_neuron_n", &m->unit_neuron_n, 1, PROBLEM_UNIT_MAX);
    }
    if (!w->status && kind > PROBLEM_DENSE && activation < SHAPE_RELU)
        walk_fail_field(w, "kind", "neurons of %s are never zero", activation_names[activation]);
    if (w->mode == WALK_READ) {
        s->activation = (shape_activation)activation;
        m->dense_kind = (problem_ffn_kind)kind;
    }
    walk_object_end(w);
}

static void walk_types(walk *w, problem_shape *m) {
    uint32_t state = m->state_type;
    const char *state_names[MACHINE_STATE_COUNT];
    for (int i = 0; i < MACHINE_STATE_COUNT; i++) state_names[i] = machine_state_name((machine_state)i);
    if (!walk_object_begin(w, "types", false)) return;
    walk_type(w, "ffn", &m->ffn_type);
    walk_type(w, "head", &m->head_type);
    walk_type(w, "mixer", &m->mixer_type);
    if (is_predicted(m)) walk_type(w, "predictor", &m->predictor_type);
    walk_name(w, "state", state_names, MACHINE_STATE_COUNT, &state, "F16, F32 or Q8_0");
    if (w->mode == WALK_READ) m->state_type = (machine_state)state;
    walk_object_end(w);
}

static void walk_shape(walk *w, void *value) {
    shape *s = value;
    problem_shape *m = &s->model;
    uint32_t version = SHAPE_VERSION;
    walk_text(w, "architecture", s->architecture, sizeof s->architecture, true);
    walk_assumed(w, &s->assumed);
    walk_attention(w, m);
    walk_u32(w, "context_n", &m->context_n, 1, 1 << 24);
    walk_u32(w, "embd_n", &m->embd_n, 1, WIDTH_MAX);
    walk_experts(w, m);
    walk_ffn(w, s);
    walk_constant(w, "format", FORMAT);
    walk_u32(w, "layer_n", &m->layer_n, 1, PROBLEM_LAYER_MAX);
    walk_text(w, "name", s->name, sizeof s->name, true);
    walk_u64(w, "parameter_n", &s->parameter_n, 1, PARAMETER_MAX);
    walk_text(w, "source", s->source, sizeof s->source, true);
    walk_bool(w, "tied", &m->tied);
    walk_types(w, m);
    walk_u32(w, "version", &version, SHAPE_VERSION, SHAPE_VERSION);
    walk_u32(w, "vocab_n", &m->vocab_n, 1, VOCAB_MAX);
}

/* ---- What is done with them ---- */

/* What numbers owe to each other: a shape that cannot be is a fault of its file. */
static hotset_status check_numbers(const shape *s, hotset_error *err) {
    hotset_error failure = {0};
    if (!problem_shape_check(&s->model, &failure)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_FORMAT, "%s", failure.message);
}

hotset_status shape_check(const shape *s, hotset_error *err) {
    HOTSET_TRY(walk_check(walk_shape, s, err));
    return check_numbers(s, err);
}

hotset_status shape_print(const shape *s, hotset_text_fn *write, void *cookie, hotset_error *err) {
    HOTSET_TRY(check_numbers(s, err));
    return walk_print(walk_shape, s, write, cookie, err);
}

hotset_status shape_write(const shape *s, const char *path, hotset_error *err) {
    HOTSET_TRY(check_numbers(s, err));
    return walk_write(walk_shape, s, path, err);
}

hotset_status shape_parse(shape *out, const char *text, size_t bytes, hotset_error *err) {
    *out = (shape){.model = {.session_n = 1, .batch_n = BATCH_N}};
    hotset_status status =
        walk_read(walk_shape, out, text, bytes, SHAPE_FILE_BYTES_MAX, "shape", FORMAT, SHAPE_VERSION, err);
    if (!status) status = check_numbers(out, err);
    if (status) *out = (shape){0};
    return status;
}

hotset_status shape_read(shape *out, const char *path, hotset_error *err) {
    hotset_error failure = {0};
    file_map map;
    *out = (shape){0};
    HOTSET_TRY(file_map_open(&map, path, err));
    hotset_status status = shape_parse(out, (const char *)map.data, map.bytes, &failure);
    file_map_close(&map);
    if (status == HOTSET_OK) return HOTSET_OK;
    return hotset_fail_at(err, status, failure.offset_bytes, "%s: %s", path, failure.message);
}

/* ---- Problems ---- */

static uint64_t widest_input(const problem_shape *s) {
    uint64_t n = max_u64(s->embd_n, (uint64_t)s->head_n * s->value_n);
    n = max_u64(n, max_u64(s->latent_n, s->query_rank));
    if (has_dense(s)) n = max_u64(n, max_u64(s->ff_n, is_predicted(s) ? s->predictor_rank : 0));
    return max_u64(n, max_u64((uint64_t)s->expert_used_n * s->ff_expert_n, s->ff_shared_n));
}

uint64_t shape_scratch_bytes(const problem_shape *s) {
    enum { BLOCK_N = 32, BLOCK_BYTES = 34 };
    uint32_t kept_n = s->latent_n + s->rope_n, ff_n = has_dense(s) ? s->ff_n : 0;
    bool skips = has_dense(s) && s->dense_kind != PROBLEM_DENSE;
    footprint_widths w = {
        .embd_n = s->embd_n,
        .query_n = s->head_n * (s->latent_n ? (uint32_t)max_u64(kept_n, s->key_n) : s->key_n),
        .key_n = s->latent_n ? kept_n : s->head_kv_n * s->key_n,
        .value_n = s->latent_n ? s->query_rank : s->head_kv_n * s->value_n,
        .mixed_n = s->head_n * (uint32_t)max_u64(s->value_n, s->latent_n),
        .ff_n = (uint32_t)max_u64(ff_n, s->expert_n ? s->ff_shared_n : 0),
        .ff_expert_n = s->expert_n ? s->ff_expert_n : 0,
        .expert_n = s->expert_n,
        .expert_used_n = s->expert_n ? s->expert_used_n : 0,
        .vocab_n = s->vocab_n,
        .rotary_n = s->latent_n ? s->rope_n : s->key_n,
        .choice_n = skips ? ff_n + 1 : 0,
        .rank_n = is_predicted(s) ? s->predictor_rank : 0,
        .second = s->parallel,
    };
    uint64_t block_n = (widest_input(s) + BLOCK_N - 1) / BLOCK_N;
    return footprint_scratch_layout(&w, s->batch_n, s->batch_n * block_n * BLOCK_BYTES).bytes;
}

/* Room for weights that are streamed to a GPU. */
static uint64_t ring_bytes(const problem *p) {
    uint64_t all = 0, step = 0;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        const problem_ffn *f = &p->layer[i].ffn;
        const uint64_t unit = f->gate.bytes + f->up.bytes + f->down.bytes + f->fc2.bytes;
        all = max_u64(all, unit * f->unit_n);
        step = max_u64(step, unit);
    }
    return FOOTPRINT_STREAM_SLOTS * footprint_stream_slot_bytes(all, step);
}

hotset_status shape_problem(problem **out, const shape *s, const machine_profile *machine,
                            const activation_profile *profile, hotset_error *err) {
    HOTSET_TRY(problem_make(out, &s->model, machine, profile, &s->assumed, err));
    const uint64_t scratch_bytes = shape_scratch_bytes(&s->model);
    for (uint32_t d = 0; d < (*out)->device_n; d++) {
        (*out)->device[d].limit_bytes = machine->device[d].free_bytes;
        (*out)->device[d].scratch_bytes = scratch_bytes + (d ? ring_bytes(*out) : 0);
    }
    return HOTSET_OK;
}
