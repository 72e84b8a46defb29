/* problem.c - problems made from a model's shape, and checked. */
#include "planner/problem.h"

#include <math.h>
#include <stdlib.h>

#include "planner/footprint.h"

/* ---- Use ---- */

/* Scales the shape of a power law to the mean, cutting at 1: water is poured until the sum is right. */
void problem_assume_use(float *use, uint32_t n, double mean, double skew) {
    double left = mean * n, rest = 0;
    for (uint32_t i = 0; i < n; i++) rest += pow(i + 1.0, -skew);
    for (uint32_t i = 0; i < n; i++) {
        double weight = pow(i + 1.0, -skew), share = rest > 0 ? left * weight / rest : 0;
        use[i] = (float)fmin(share, 1);
        left = fmax(left - use[i], 0);
        rest -= weight;
    }
}

/* The mean over the neurons of each unit of how many tokens in all used them. */
static void profiled_use(float *use, const problem_ffn *f, const int64_t *count, int64_t token_n,
                         uint32_t count_n) {
    uint32_t each = count_n / f->unit_n;
    for (uint32_t i = 0; i < f->unit_n; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < each; j++) sum += (double)count[(uint64_t)i * each + j];
        use[i] = token_n > 0 ? (float)fmin(sum / each / (double)token_n, 1) : 0;
    }
}

/* ---- Matrices ---- */

static problem_matrix matrix(gguf_type type, uint64_t in_n, uint64_t row_n) {
    if (!in_n || !row_n) return (problem_matrix){.type = type};
    uint64_t row_bytes = gguf_row_bytes(type, in_n);
    return (problem_matrix){type, row_bytes, row_bytes * row_n, (double)in_n * (double)row_n};
}

static uint32_t block_n(gguf_type type) { return gguf_type_get(type)->block_n; }

/* Bytes of a block that its neurons share when they are stored by neuron (see devices/neurons.h): its scales.
 * 0: no such form. */
static uint32_t shared_block_bytes(gguf_type type) {
    switch (type) {
    case GGUF_MXFP4: return 1;
    case GGUF_Q4_0:
    case GGUF_Q5_0:
    case GGUF_Q8_0:
    case GGUF_IQ4_NL: return 2;
    case GGUF_Q4_1:
    case GGUF_Q5_1: return 4;
    case GGUF_IQ4_XS: return 8;
    case GGUF_Q3_K: return 14;
    case GGUF_Q4_K:
    case GGUF_Q5_K: return 16;
    case GGUF_Q6_K: return 18;
    case GGUF_Q2_K: return 20;
    default: return 0;
    }
}

/* Down of one unit of `neuron_n` neurons, to be skipped through. */
static hotset_status down_by_neuron(problem_ffn *f, const problem_shape *s, hotset_error *err) {
    f->down_access = MACHINE_SUMS;
    f->hot_first = s->hot_first;
    uint32_t block = block_n(s->ffn_type);
    if (block == 1 || s->down_by_row) {
        if (block > 1) f->down_access = MACHINE_SUMS_BY_ROW;
        f->down = matrix(s->ffn_type, s->embd_n, f->neuron_n);
        return HOTSET_OK;
    }
    uint32_t shared = shared_block_bytes(s->ffn_type);
    if (!shared)
        return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                           "plan: down matrices of type %s cannot be stored by neuron",
                           gguf_type_get(s->ffn_type)->name);
    uint64_t quants = (uint64_t)(gguf_type_get(s->ffn_type)->block_bytes - shared) * s->embd_n / block;
    f->down = (problem_matrix){s->ffn_type, quants, quants * f->neuron_n, (double)s->embd_n * f->neuron_n};
    f->group_n = block;
    f->scale_bytes = (uint64_t)shared * s->embd_n;
    return HOTSET_OK;
}

static hotset_status make_dense_ffn(problem_ffn *f, const problem_shape *s, hotset_error *err) {
    f->kind = s->dense_kind;
    f->neuron_n = s->unit_neuron_n;
    f->unit_n = s->ff_n / s->unit_neuron_n;
    if (s->gated) f->gate = matrix(s->ffn_type, s->embd_n, f->neuron_n);
    f->up = matrix(s->ffn_type, s->embd_n, f->neuron_n);
    if (f->kind == PROBLEM_PREDICTED) {
        f->fc1 = matrix(s->predictor_type, s->embd_n, s->predictor_rank);
        f->fc2 = matrix(s->predictor_type, s->predictor_rank, f->neuron_n);
    }
    if (f->kind != PROBLEM_DENSE) return down_by_neuron(f, s, err);
    f->down = matrix(s->ffn_type, s->embd_n, f->neuron_n);
    return HOTSET_OK;
}

static void add_mixer(problem_layer *l, gguf_type type, uint64_t in_n, uint64_t row_n) {
    l->mixer[l->mixer_n++] = matrix(type, in_n, row_n);
}

static void make_experts_ffn(problem_layer *l, const problem_shape *s) {
    problem_ffn *f = &l->ffn;
    f->kind = PROBLEM_EXPERTS;
    f->neuron_n = s->ff_expert_n;
    f->unit_n = s->expert_n;
    if (s->gated) f->gate = matrix(s->ffn_type, s->embd_n, s->ff_expert_n);
    f->up = matrix(s->ffn_type, s->embd_n, s->ff_expert_n);
    f->down = matrix(s->ffn_type, s->ff_expert_n, s->embd_n);
    add_mixer(l, GGUF_F32, s->embd_n, s->expert_n);
    l->shared = matrix(s->ffn_type, s->embd_n, (uint64_t)s->ff_shared_n * (s->gated ? 3 : 2));
}

/* Keys and values of each key head are kept. */
static void make_attention(problem_layer *l, const problem_shape *s, gguf_type state) {
    const uint64_t key_bytes = gguf_row_bytes(state, s->key_n),
                   value_bytes = gguf_row_bytes(state, s->value_n);
    add_mixer(l, s->mixer_type, s->embd_n, (uint64_t)s->head_n * s->key_n);
    add_mixer(l, s->mixer_type, s->embd_n, (uint64_t)s->head_kv_n * s->key_n);
    add_mixer(l, s->mixer_type, s->embd_n, (uint64_t)s->head_kv_n * s->value_n);
    l->state_bytes = (footprint_state_bytes(s->head_kv_n, s->context_n, key_bytes) +
                      footprint_state_bytes(s->head_kv_n, s->context_n, value_bytes)) *
                     s->session_n;
    l->state_row_bytes = (double)s->head_kv_n * (double)(key_bytes + value_bytes);
    l->attend_op_n = 2.0 * s->head_n * (s->key_n + s->value_n);
}

/* Latent attention (DeepSeek-V2, arXiv 2405.04434): x goes down to `latent_n` numbers and one rotated key of
 * `rope_n`, which are all that is kept of a position. What would make keys and values of them, kv_b, is
 * instead applied to the query before and to the mixed latents after attention, which is the same by
 * associativity: each of its weights is used once per row, heads meet latent_n + rope_n numbers of a
 * position for the score and latent_n for the sum. */
static void make_latent_attention(problem_layer *l, const problem_shape *s, gguf_type state) {
    uint64_t query_n = (uint64_t)s->head_n * s->key_n, kept_n = s->latent_n + s->rope_n;
    if (s->query_rank) add_mixer(l, s->mixer_type, s->embd_n, s->query_rank);
    add_mixer(l, s->mixer_type, s->query_rank ? s->query_rank : s->embd_n, query_n);
    add_mixer(l, s->mixer_type, s->embd_n, kept_n);
    add_mixer(l, s->mixer_type, s->latent_n, (uint64_t)s->head_n * (s->key_n - s->rope_n + s->value_n));
    l->state_bytes = footprint_state_bytes(1, s->context_n, gguf_row_bytes(state, kept_n)) * s->session_n;
    l->state_row_bytes = (double)gguf_row_bytes(state, kept_n);
    l->attend_op_n = 2.0 * s->head_n * (double)(kept_n + s->latent_n);
}

static void make_mixer(problem_layer *l, const problem_shape *s) {
    if (s->latent_n)
        make_latent_attention(l, s, machine_state_type(s->state_type));
    else
        make_attention(l, s, machine_state_type(s->state_type));
    add_mixer(l, s->mixer_type, (uint64_t)s->head_n * s->value_n, s->embd_n);
    l->mixer_vector_bytes = l->ffn_vector_bytes = (uint64_t)s->embd_n * sizeof(float);
}

/* ---- The whole ---- */

static hotset_status in_range(const char *what, uint64_t value, uint64_t low, uint64_t high,
                              hotset_error *err) {
    if (value >= low && value <= high) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: %s of %llu is outside %llu to %llu", what,
                       (unsigned long long)value, (unsigned long long)low, (unsigned long long)high);
}

static hotset_status multiple(const char *what, uint64_t value, uint64_t unit, hotset_error *err) {
    if (unit && value % unit == 0) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: %s of %llu is no multiple of %llu", what,
                       (unsigned long long)value, (unsigned long long)unit);
}

static hotset_status check_type(const char *what, gguf_type type, hotset_error *err) {
    if (gguf_type_get(type)) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: %s type %d is unknown", what, (int)type);
}

enum { WIDTH_MAX = 1 << 20, HEAD_MAX = 1 << 12, RANK_MAX = 1 << 16 };

static hotset_status check_latent(const problem_shape *s, hotset_error *err) {
    if (!s->latent_n) {
        HOTSET_TRY(in_range("a rank of queries without latent attention", s->query_rank, 0, 0, err));
        return in_range("a rotated part without latent attention", s->rope_n, 0, 0, err);
    }
    HOTSET_TRY(in_range("a latent width", s->latent_n, 1, RANK_MAX, err));
    HOTSET_TRY(in_range("a rank of queries", s->query_rank, 0, RANK_MAX, err));
    HOTSET_TRY(in_range("a rotated part of keys", s->rope_n, 0, s->key_n, err));
    HOTSET_TRY(multiple("a latent width", s->latent_n, block_n(s->mixer_type), err));
    return multiple("a rank of queries", s->query_rank, block_n(s->mixer_type), err);
}

/* A row of the state is whole blocks of its type. */
static hotset_status check_state(const problem_shape *s, hotset_error *err) {
    HOTSET_TRY(in_range("a state type", s->state_type, 0, MACHINE_STATE_COUNT - 1, err));
    const uint32_t unit = block_n(machine_state_type(s->state_type));
    if (s->latent_n) HOTSET_TRY(multiple("the state's latent width", s->latent_n, unit, err));
    if (s->latent_n) return multiple("the state's rotated part", s->rope_n, unit, err);
    HOTSET_TRY(multiple("the state's key width", s->key_n, unit, err));
    return multiple("the state's value width", s->value_n, unit, err);
}

hotset_status problem_shape_check(const problem_shape *s, hotset_error *err) {
    HOTSET_TRY(in_range("a number of layers", s->layer_n, 1, PROBLEM_LAYER_MAX, err));
    HOTSET_TRY(in_range("a width", s->embd_n, 1, WIDTH_MAX, err));
    HOTSET_TRY(in_range("a vocabulary", s->vocab_n, 1, 1 << 24, err));
    HOTSET_TRY(in_range("a number of heads", s->head_n, 1, HEAD_MAX, err));
    HOTSET_TRY(in_range("a number of key heads", s->head_kv_n, 1, s->head_n, err));
    HOTSET_TRY(in_range("a key width", s->key_n, 1, HEAD_MAX, err));
    HOTSET_TRY(in_range("a value width", s->value_n, 1, HEAD_MAX, err));
    HOTSET_TRY(in_range("a context", s->context_n, 1, 1 << 24, err));
    HOTSET_TRY(in_range("a number of sessions", s->session_n, 1, 4096, err));
    HOTSET_TRY(in_range("a batch", s->batch_n, 1, MACHINE_ROWS_MAX, err));
    HOTSET_TRY(check_type("mixer", s->mixer_type, err));
    HOTSET_TRY(check_type("FFN", s->ffn_type, err));
    HOTSET_TRY(check_type("head", s->head_type, err));
    HOTSET_TRY(multiple("a width", s->embd_n, block_n(s->mixer_type), err));
    HOTSET_TRY(multiple("a width", s->embd_n, block_n(s->ffn_type), err));
    HOTSET_TRY(multiple("a width", s->embd_n, block_n(s->head_type), err));
    HOTSET_TRY(multiple("all heads' values", (uint64_t)s->head_n * s->value_n, block_n(s->mixer_type), err));
    HOTSET_TRY(check_latent(s, err));
    HOTSET_TRY(check_state(s, err));
    if (s->expert_n) {
        HOTSET_TRY(in_range("a number of experts", s->expert_n, 1, 1 << 16, err));
        HOTSET_TRY(in_range("a number of experts used", s->expert_used_n, 1, s->expert_n, err));
        HOTSET_TRY(in_range("neurons of an expert", s->ff_expert_n, 1, WIDTH_MAX, err));
        HOTSET_TRY(in_range("neurons of the shared expert", s->ff_shared_n, 0, WIDTH_MAX, err));
        HOTSET_TRY(multiple("neurons of an expert", s->ff_expert_n, block_n(s->ffn_type), err));
        HOTSET_TRY(in_range("layers without experts", s->dense_layer_n, 0, s->layer_n, err));
        if (s->dense_layer_n == 0) return HOTSET_OK;
    }
    HOTSET_TRY(in_range("FFN neurons", s->ff_n, 1, PROBLEM_UNIT_MAX, err));
    HOTSET_TRY(in_range("neurons of a unit", s->unit_neuron_n, 1, s->ff_n, err));
    HOTSET_TRY(multiple("FFN neurons", s->ff_n, s->unit_neuron_n, err));
    if (s->dense_kind != PROBLEM_PREDICTED) return HOTSET_OK;
    HOTSET_TRY(check_type("predictor", s->predictor_type, err));
    HOTSET_TRY(in_range("a predictor's rank", s->predictor_rank, 1, RANK_MAX, err));
    HOTSET_TRY(multiple("a width", s->embd_n, block_n(s->predictor_type), err));
    return multiple("a predictor's rank", s->predictor_rank, block_n(s->predictor_type), err);
}

/* Units of a layer from the profile or, without one, as assumed. */
static hotset_status fill_use(problem *p, uint32_t layer_i, const activation_profile *profile,
                              const problem_assumption *assumed, hotset_error *err) {
    problem_ffn *f = &p->layer[layer_i].ffn;
    f->use = arena_alloc(&p->arena, f->unit_n, sizeof *f->use);
    if (!f->use) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the use of units");
    bool experts = f->kind == PROBLEM_EXPERTS;
    if (f->kind == PROBLEM_DENSE) {
        for (uint32_t i = 0; i < f->unit_n; i++) f->use[i] = 1;
        return HOTSET_OK;
    }
    if (!profile) {
        double mean = experts ? (double)p->expert_used_n / f->unit_n : assumed->active;
        problem_assume_use(f->use, f->unit_n, mean, experts ? assumed->expert_skew : assumed->skew);
        return HOTSET_OK;
    }
    const activation_layer *a = layer_i < profile->layer_n ? &profile->layer[layer_i] : NULL;
    uint32_t count_n = experts ? f->unit_n : f->unit_n * f->neuron_n;
    activation_kind kind = experts ? ACTIVATION_EXPERTS : ACTIVATION_NEURONS;
    if (!a || a->kind != kind || a->unit_n != count_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: the activation profile does not count the %u %s of layer %u", count_n,
                           experts ? "experts" : "neurons", layer_i);
    profiled_use(f->use, f, a->count, profile->token_n, count_n);
    return HOTSET_OK;
}

static hotset_status make_layers(problem *p, const problem_shape *s, const activation_profile *profile,
                                 const problem_assumption *assumed, hotset_error *err) {
    for (uint32_t i = 0; i < p->layer_n; i++) {
        problem_layer *l = &p->layer[i];
        make_mixer(l, s);
        if (s->expert_n && i >= s->dense_layer_n)
            make_experts_ffn(l, s);
        else
            HOTSET_TRY(make_dense_ffn(&l->ffn, s, err));
        HOTSET_TRY(fill_use(p, i, profile, assumed, err));
    }
    return HOTSET_OK;
}

hotset_status problem_make(problem **out, const problem_shape *s, const machine_profile *machine,
                           const activation_profile *profile, const problem_assumption *assumed,
                           hotset_error *err) {
    *out = NULL;
    HOTSET_TRY(problem_shape_check(s, err));
    HOTSET_TRY(in_range("a number of devices", machine->device_n, 1, PROBLEM_DEVICE_MAX, err));
    if (!profile && !(assumed && assumed->active >= 0 && assumed->active <= 1 && assumed->skew >= 0 &&
                      assumed->expert_skew >= 0))
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: without an activation profile a share of 0 to 1 has to be assumed");
    problem *p;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a planning problem", err));
    *p = (problem){.machine = machine,
                   .device_n = machine->device_n,
                   .layer_n = s->layer_n,
                   .head = matrix(s->head_type, s->embd_n, s->vocab_n),
                   .tied = s->tied,
                   .rotary_bytes =
                       round_up((s->latent_n ? s->rope_n : s->key_n) / 2 * sizeof(double), FOOTPRINT_ALIGN),
                   .embd_n = s->embd_n,
                   .vocab_n = s->vocab_n,
                   .expert_used_n = s->expert_used_n,
                   .seen_n = (s->context_n + 1) / 2,
                   .row_n = s->batch_n,
                   .state_type = s->state_type,
                   .file_tier = true};
    p->embedding_bytes = p->head.bytes;
    for (uint32_t d = 0; d < p->device_n; d++) p->device[d].machine_i = d;
    p->layer = arena_alloc(&p->arena, p->layer_n, sizeof *p->layer);
    hotset_status status = p->layer ? make_layers(p, s, profile, assumed, err)
                                    : hotset_fail(err, HOTSET_E_MEMORY, "out of memory for layers");
    if (!status) status = problem_check(p, err);
    if (status)
        problem_free(p);
    else
        *out = p;
    return status;
}

void problem_free(problem *p) {
    if (!p) return;
    arena_free(&p->arena);
    free(p);
}

static hotset_status check_ffn(const problem_ffn *f, uint32_t layer_i, hotset_error *err) {
    if (f->kind == PROBLEM_NONE) return HOTSET_OK;
    HOTSET_TRY(in_range("a number of units", f->unit_n, 1, PROBLEM_UNIT_MAX, err));
    HOTSET_TRY(in_range("neurons of a unit", f->neuron_n, 1, PROBLEM_UNIT_MAX, err));
    if (f->group_n && f->neuron_n % f->group_n && f->group_n % f->neuron_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: layer %u: units of %u neurons cut groups of %u that share scales", layer_i,
                           f->neuron_n, f->group_n);
    for (uint32_t i = 0; i < f->unit_n; i++)
        if (!(f->use[i] >= 0 && f->use[i] <= 1))
            return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: layer %u: use %g of unit %u is outside 0 to 1",
                               layer_i, (double)f->use[i], i);
    return HOTSET_OK;
}

hotset_status problem_check(const problem *p, hotset_error *err) {
    HOTSET_TRY(in_range("a number of devices", p->device_n, 1, PROBLEM_DEVICE_MAX, err));
    HOTSET_TRY(in_range("a number of layers", p->layer_n, 1, PROBLEM_LAYER_MAX, err));
    HOTSET_TRY(in_range("a chunk", p->row_n, 1, MACHINE_ROWS_MAX, err));
    for (uint32_t d = 0; d < p->device_n; d++) {
        uint32_t machine_i = p->device[d].machine_i;
        HOTSET_TRY(in_range("a device", machine_i, 0, p->machine->device_n - 1, err));
        if ((machine_i == 0) != (d == 0))
            return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: device %u is not the machine's %u", d,
                               machine_i);
    }
    for (uint32_t i = 0; i < p->layer_n; i++) {
        HOTSET_TRY(in_range("tensors of a mixer", p->layer[i].mixer_n, 0, PROBLEM_MIXER_MAX, err));
        HOTSET_TRY(check_ffn(&p->layer[i].ffn, i, err));
    }
    return HOTSET_OK;
}
