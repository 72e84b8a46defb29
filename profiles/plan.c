/* plan.c - plans as data: made, named, and what is asked of them. */
#include "profiles/plan.h"

#include <stdlib.h>
#include <string.h>

const char *plan_goal_name(plan_goal goal) {
    static const char *const names[PLAN_GOAL_COUNT] = {"decode", "prefill", "balanced"};
    return names[goal];
}

const char *plan_sparsity_name(plan_sparsity sparsity) {
    static const char *const names[PLAN_SPARSITY_COUNT] = {"off", "exact", "predict"};
    return names[sparsity];
}

const char *plan_memory_name(plan_memory memory) {
    static const char *const names[PLAN_MEMORY_COUNT] = {"copied", "mapped"};
    return names[memory];
}

const char *plan_unit_kind_name(plan_unit_kind kind) {
    static const char *const names[PLAN_UNIT_KIND_COUNT] = {"none", "neurons", "experts"};
    return names[kind];
}

/* ---- Life ---- */

static hotset_status check_sizes(uint32_t layer_n, const uint32_t *unit_n, hotset_error *err) {
    uint64_t total_n = 0;
    if (layer_n < 1 || layer_n > PLAN_LAYER_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%u layers are not 1 to %d", layer_n, PLAN_LAYER_MAX);
    for (uint32_t i = 0; unit_n && i < layer_n; i++) {
        if (unit_n[i] > PLAN_UNIT_MAX)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "%u units of layer %u are more than %d", unit_n[i], i,
                               PLAN_UNIT_MAX);
        total_n += unit_n[i];
    }
    if (total_n > PLAN_UNIT_SUM_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%llu units of all layers are more than %d",
                           (unsigned long long)total_n, PLAN_UNIT_SUM_MAX);
    return HOTSET_OK;
}

hotset_status plan_data_make(plan_data **out, uint32_t layer_n, const uint32_t *unit_n, hotset_error *err) {
    plan_data *p;
    *out = NULL;
    HOTSET_TRY(check_sizes(layer_n, unit_n, err));
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a plan", err));
    p->layer = arena_alloc(&p->arena, layer_n, sizeof *p->layer);
    if (!p->layer) goto fail;
    p->layer_n = layer_n;
    for (uint32_t i = 0; unit_n && i < layer_n; i++) {
        if (!unit_n[i]) continue;
        p->layer[i].place = arena_alloc(&p->arena, unit_n[i], 1);
        if (!p->layer[i].place) goto fail;
        p->layer[i].unit_n = unit_n[i];
    }
    *out = p;
    return HOTSET_OK;
fail:
    plan_data_free(p);
    return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a plan of %u layers", layer_n);
}

void plan_data_free(plan_data *p) {
    if (!p) return;
    arena_free(&p->arena);
    free(p);
}

/* ---- Questions ---- */

uint32_t plan_layer_units(const plan_layer *l, uint32_t place) {
    uint32_t n = 0;
    for (uint32_t u = 0; u < l->unit_n; u++) n += l->place[u] == place;
    return n;
}

bool plan_device_used(const plan_data *p, uint32_t d) {
    if (d == p->head) return true;
    for (uint32_t i = 0; i < p->layer_n; i++) {
        const plan_layer *l = &p->layer[i];
        if (l->home == d || (l->unit_n && memchr(l->place, (int)d, l->unit_n))) return true;
    }
    return false;
}
