/* placed.c - from a plan to what one device does. */
#include "engine/placed.h"

#include <string.h>

/* Where a unit is computed: what stays in the file is the host's. */
static uint8_t computed_at(uint8_t place) { return place == PLAN_IN_FILE ? 0 : place; }

static uint8_t home_of(const plan_data *plan, uint32_t layer_i) {
    return plan ? (uint8_t)plan->layer[layer_i].home : 0;
}

/* The device that has the residual stream behind a layer's home: the next home, or the head's device. */
static uint8_t next_of(const plan_data *plan, uint32_t layer_i) {
    if (!plan) return 0;
    return (uint8_t)(layer_i + 1 < plan->layer_n ? plan->layer[layer_i + 1].home : plan->head);
}

static bool has_units(const plan_layer *l, uint32_t device_i) {
    for (uint32_t u = 0; u < l->unit_n; u++)
        if (computed_at(l->place[u]) == device_i) return true;
    return false;
}

static hotset_status fill_neurons(placed_device *p, placed_layer *to, const plan_layer *l, uint32_t ff_n,
                                  hotset_error *err) {
    uint32_t unit_n = 0;
    for (uint32_t u = 0; u < l->unit_n; u++) unit_n += computed_at(l->place[u]) == p->device_i;
    to->ff_n = unit_n * l->neuron_n;
    if (!unit_n || to->ff_n == ff_n) return HOTSET_OK;
    uint32_t *neuron = arena_alloc(&p->arena, to->ff_n, sizeof *neuron);
    if (!neuron) return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the places of neurons");
    to->neuron = neuron;
    for (uint32_t u = 0; u < l->unit_n; u++)
        for (uint32_t i = 0; computed_at(l->place[u]) == p->device_i && i < l->neuron_n; i++)
            *neuron++ = u * l->neuron_n + i;
    return HOTSET_OK;
}

static hotset_status fill_layer(placed_device *p, const hotset_model *m, const plan_data *plan,
                                uint32_t layer_i, hotset_error *err) {
    placed_layer *to = &p->layer[layer_i];
    to->home_i = home_of(plan, layer_i);
    to->home = to->home_i == p->device_i;
    to->from = layer_i ? home_of(plan, layer_i - 1) : 0;
    to->receives = to->home && to->from != p->device_i;
    to->hands_on = to->home && next_of(plan, layer_i) != p->device_i;
    to->ff_n = p->device_i == 0 ? m->layer[layer_i].ff_n : 0;
    to->units = p->device_i == 0 && (to->ff_n || m->layer[layer_i].experts);
    p->rotates |= to->home;
    if (!plan) return HOTSET_OK;
    const plan_layer *l = &plan->layer[layer_i];
    to->units = has_units(l, p->device_i);
    to->visits = !to->home && to->units;
    to->streams = l->streamed;
    for (uint32_t d = 0; to->home && d < plan->device_n; d++)
        if (d != p->device_i && has_units(l, d)) to->guest[to->guest_n++] = (uint8_t)d;
    if (m->layer[layer_i].experts) to->place = l->place;
    if (!m->layer[layer_i].ff_n) return HOTSET_OK;
    return fill_neurons(p, to, l, m->layer[layer_i].ff_n, err);
}

hotset_status placed_make(placed_device *out, const hotset_model *m, const plan_data *plan, uint32_t device_i,
                          hotset_error *err) {
    *out = (placed_device){.device_i = device_i,
                           .device_n = plan ? plan->device_n : 1,
                           .layer_n = m->shape.layer_n,
                           .used = device_i == 0 || plan_device_used(plan, device_i),
                           .embeds = device_i == 0,
                           .head = device_i == (plan ? plan->head : 0)};
    out->layer = arena_alloc(&out->arena, out->layer_n, sizeof *out->layer);
    hotset_status status =
        out->layer ? HOTSET_OK : hotset_fail(err, HOTSET_E_MEMORY, "out of memory for what a device does");
    for (uint32_t i = 0; i < out->layer_n && !status; i++) status = fill_layer(out, m, plan, i, err);
    if (status) {
        placed_free(out);
        return status;
    }
    out->from = home_of(plan, out->layer_n - 1);
    out->receives = out->head && out->from != device_i;
    return HOTSET_OK;
}

void placed_free(placed_device *p) {
    arena_free(&p->arena);
    *p = (placed_device){0};
}
