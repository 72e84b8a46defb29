/* plan.c - the plan "everything on the CPU". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "planner/planner.h"

enum {
    CONTEXT_DEFAULT_MAX = 4096,
    CONTEXT_MAX = 1 << 24,
    SESSION_MAX = 4096,
    BATCH_DEFAULT = 256,
    BATCH_MAX = 4096,
    THREAD_MAX = 1024,
    COPY_PERCENT = 70 /* of the free memory that copied weights may take before they are left mapped */
};

static const double MIB = 1 << 20;

hotset_plan_options hotset_plan_default_options(void) { return (hotset_plan_options){0}; }

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

hotset_status plan_resolve(hotset_plan_options *o, const hotset_shape *shape, uint32_t thread_n,
                           const char *isa_best, hotset_error *err) {
    if (!o->context_n) o->context_n = (uint32_t)min_u64(shape->context_train_n, CONTEXT_DEFAULT_MAX);
    if (!o->session_n) o->session_n = 1;
    if (!o->batch_n) o->batch_n = (uint32_t)min_u64(BATCH_DEFAULT, o->context_n);
    if (!o->thread_n) o->thread_n = thread_n;
    if (!o->isa) o->isa = isa_best;
    HOTSET_TRY(check_range("a context", o->context_n, CONTEXT_MAX, err));
    HOTSET_TRY(check_range("a number of sessions", o->session_n, SESSION_MAX, err));
    HOTSET_TRY(check_range("a batch", o->batch_n, BATCH_MAX, err));
    HOTSET_TRY(check_range("a number of threads", o->thread_n, THREAD_MAX, err));
    if (o->state_type != HOTSET_STATE_F16 && o->state_type != HOTSET_STATE_F32)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: unknown state type %d", (int)o->state_type);
    if (o->memory < HOTSET_MEMORY_AUTO || o->memory > HOTSET_MEMORY_COPIED)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "plan: unknown memory mode %d", (int)o->memory);
    return resolve_sparsity(o, shape, err);
}

/* Weights are copied where they leave room; the rest of the ledger counts against the same memory. */
static hotset_memory_mode choose_memory(const planner_facts *facts, uint64_t others_bytes,
                                        uint64_t limit_bytes) {
    uint64_t needed;
    if (!checked_add(facts->weights_bytes, others_bytes, &needed)) return HOTSET_MEMORY_MAPPED;
    return needed <= limit_bytes / 100 * COPY_PERCENT ? HOTSET_MEMORY_COPIED : HOTSET_MEMORY_MAPPED;
}

hotset_status plan_make(hotset_plan **out, const hotset_plan_options *resolved, const planner_facts *facts,
                        hotset_error *err) {
    *out = NULL;
    hotset_footprint f = {.scratch_bytes = facts->scratch_bytes, .table_bytes = facts->table_bytes};
    uint64_t others, limit = facts->memory_free_bytes;
    if (resolved->host_bytes_max) limit = min_u64(limit, resolved->host_bytes_max);
    if (!checked_mul(facts->state_bytes, resolved->session_n, &f.state_bytes) ||
        !checked_add(f.state_bytes, f.scratch_bytes + f.table_bytes, &others))
        return hotset_fail(err, HOTSET_E_NOFIT,
                           "plan: the state of %u sessions of %u tokens is beyond 2^64 bytes",
                           resolved->session_n, resolved->context_n);
    hotset_memory_mode memory = resolved->memory;
    if (memory == HOTSET_MEMORY_AUTO) memory = choose_memory(facts, others, limit);
    if (memory == HOTSET_MEMORY_COPIED)
        f.weights_copied_bytes = facts->weights_bytes;
    else
        f.weights_mapped_bytes = facts->weights_bytes;
    if (!checked_add(others, f.weights_copied_bytes, &f.total_bytes) || f.total_bytes > limit)
        return hotset_fail(
            err, HOTSET_E_NOFIT,
            "plan: host memory: needs %.1f MiB (weights %.1f, state %.1f, scratch %.1f), there are %.1f MiB",
            (double)others / MIB + (double)f.weights_copied_bytes / MIB, (double)f.weights_copied_bytes / MIB,
            (double)f.state_bytes / MIB, (double)(f.scratch_bytes + f.table_bytes) / MIB,
            (double)limit / MIB);
    hotset_plan *p;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "the plan", err));
    *p = (hotset_plan){.options = *resolved, .shape = *facts->shape, .footprint = f};
    p->options.memory = memory;
    snprintf(p->isa, sizeof p->isa, "%s", resolved->isa);
    p->options.isa = p->isa;
    *out = p;
    return HOTSET_OK;
}

void hotset_plan_free(hotset_plan *p) { free(p); }

hotset_footprint hotset_plan_footprint(const hotset_plan *p) { return p->footprint; }

hotset_plan_options hotset_plan_resolved(const hotset_plan *p) { return p->options; }
