/* resolve.c - options of a plan filled in and checked, and the ledger of what is all on the CPU. */
#include <string.h>

#include "planner/planner.h"

enum {
    CONTEXT_DEFAULT_MAX = 4096,
    CONTEXT_MAX = 1 << 24,
    SESSION_MAX = 4096,
    BATCH_DEFAULT = 256,
    BATCH_OF_MANY_EXPERTS = 512,
    EXPERT_ROWS_MIN = 32, /* on average: fewer leave the kernels' tiles half empty */
    BATCH_MAX = 4096,
    THREAD_MAX = 1024
};

static const double MIB = 1 << 20;

static hotset_status check_range(const char *what, uint32_t value, uint32_t high, hotset_error *err) {
    if (value >= 1 && value <= high) return HOTSET_OK;
    return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: %s of %u is outside 1 to %u", what, value, high);
}

/* Zeros of these activations can be found without any loss. */
static bool has_zeros(const hotset_shape *shape) {
    static const char *const names[] = {"relu", "relu2", "drelu"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (!strcmp(shape->activation, names[i])) return true;
    return false;
}

/* AUTO stays where exact skipping can be: whether it is may depend on the memory mode. */
static hotset_status resolve_sparsity(hotset_plan_options *o, const hotset_shape *shape, hotset_error *err) {
    bool unmovable = o->memory == HOTSET_MEMORY_MAPPED && !shape->by_neuron;
    switch (o->sparsity) {
    case HOTSET_SPARSITY_AUTO:
        if (!has_zeros(shape) || unmovable || o->record) o->sparsity = HOTSET_SPARSITY_OFF;
        return HOTSET_OK;
    case HOTSET_SPARSITY_OFF: return HOTSET_OK;
    case HOTSET_SPARSITY_EXACT:
    case HOTSET_SPARSITY_PREDICT: break;
    default: return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: unknown sparsity %d", (int)o->sparsity);
    }
    const char *what = o->sparsity == HOTSET_SPARSITY_EXACT ? "exact" : "predicted";
    if (o->sparsity == HOTSET_SPARSITY_PREDICT && !shape->predictors)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: predicted skipping needs predictors (fc1, fc2 in every layer), this model "
                           "has none");
    if (!has_zeros(shape))
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: %s skipping needs relu, relu2 or drelu, this model has %s", what,
                           shape->activation);
    if (unmovable)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: %s skipping needs copied weights: this file's stand by output", what);
    if (shape->by_neuron) return HOTSET_OK;
    o->memory = HOTSET_MEMORY_COPIED;
    return HOTSET_OK;
}

hotset_status plan_state_of(machine_state *out, hotset_state_type type, hotset_error *err) {
    switch ((int)type) {
    case HOTSET_STATE_F16: *out = MACHINE_STATE_F16; return HOTSET_OK;
    case HOTSET_STATE_F32: *out = MACHINE_STATE_F32; return HOTSET_OK;
    case HOTSET_STATE_Q8_0: *out = MACHINE_STATE_Q8_0; return HOTSET_OK;
    default: return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: unknown state type %d", (int)type);
    }
}

static uint32_t default_batch(const hotset_shape *s) {
    const bool thin = s->expert_n && BATCH_DEFAULT * s->expert_used_n / s->expert_n < EXPERT_ROWS_MIN;
    return thin ? BATCH_OF_MANY_EXPERTS : BATCH_DEFAULT;
}

hotset_status plan_resolve(hotset_plan_options *o, const hotset_shape *shape, uint32_t thread_n,
                           const char *isa_best, hotset_error *err) {
    machine_state state;
    if (!o->context_n) o->context_n = (uint32_t)min_u64(shape->context_train_n, CONTEXT_DEFAULT_MAX);
    if (!o->session_n) o->session_n = 1;
    if (!o->batch_n) o->batch_n = (uint32_t)min_u64(default_batch(shape), o->context_n);
    if (!o->thread_n) o->thread_n = thread_n;
    if (!o->isa) o->isa = isa_best;
    HOTSET_TRY(check_range("a context", o->context_n, CONTEXT_MAX, err));
    if (shape->context_max_n && o->context_n > shape->context_max_n)
        return hotset_fail(err, HOTSET_E_ARGUMENT,
                           "plan: a context of %u, of which the model knows %u positions", o->context_n,
                           shape->context_max_n);
    HOTSET_TRY(check_range("a number of sessions", o->session_n, SESSION_MAX, err));
    HOTSET_TRY(check_range("a batch", o->batch_n, BATCH_MAX, err));
    HOTSET_TRY(check_range("a number of threads", o->thread_n, THREAD_MAX, err));
    HOTSET_TRY(plan_state_of(&state, o->state_type, err));
    if (o->memory < HOTSET_MEMORY_AUTO || o->memory > HOTSET_MEMORY_COPIED)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: unknown memory mode %d", (int)o->memory);
    return resolve_sparsity(o, shape, err);
}

hotset_status plan_choose_memory(hotset_memory_mode *out, const hotset_plan_options *resolved,
                                 const planner_facts *facts, hotset_error *err) {
    uint64_t state, others, copied, limit = facts->host_bytes, weights = facts->weights_bytes;
    if (!checked_mul(facts->state_bytes, resolved->session_n, &state) ||
        !checked_add(state, facts->scratch_bytes + facts->table_bytes, &others) ||
        !checked_add(others, weights, &copied))
        return hotset_fail(err, HOTSET_E_NOFIT,
                           "plan: the state of %u sessions of %u tokens is beyond 2^64 bytes",
                           resolved->session_n, resolved->context_n);
    *out = resolved->memory;
    if (*out == HOTSET_MEMORY_AUTO)
        *out = copied <= limit / 100 * PLAN_COPY_PERCENT ? HOTSET_MEMORY_COPIED : HOTSET_MEMORY_MAPPED;
    bool mapped = *out == HOTSET_MEMORY_MAPPED;
    uint64_t needed = mapped ? others : copied;
    if (needed <= limit) return HOTSET_OK;
    return hotset_fail(
        err, HOTSET_E_NOFIT,
        "plan: host memory: needs %llu bytes (%.1f MiB: weights %.1f, state %.1f, scratch %.1f), the "
        "limit is %llu (%.1f MiB)",
        (unsigned long long)needed, (double)needed / MIB, mapped ? 0 : (double)weights / MIB,
        (double)state / MIB, (double)(facts->scratch_bytes + facts->table_bytes) / MIB,
        (unsigned long long)limit, (double)limit / MIB);
}
