/* machine.c - machine profiles made, and what a planner asks of them. */
#include "profiles/machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/json_walk.h"

const uint32_t machine_share_percent[MACHINE_SHARE_N] = {10, 30, 100};

const char *machine_kind_name(machine_kind kind) {
    static const char *const names[MACHINE_KIND_COUNT] = {"cpu", "cuda", "hip", "emulated"};
    return names[kind];
}

const char *machine_access_name(machine_access access) {
    static const char *const names[MACHINE_ACCESS_COUNT] = {"dense", "listed", "sums", "sums_by_row"};
    return names[access];
}

gguf_type machine_state_type(machine_state state) {
    static const gguf_type types[MACHINE_STATE_COUNT] = {GGUF_F16, GGUF_F32, GGUF_Q8_0};
    return types[state];
}

const char *machine_state_name(machine_state state) { return gguf_type_get(machine_state_type(state))->name; }

/* ---- Life ---- */

hotset_status machine_make(machine_profile **out, uint32_t device_n, uint32_t link_n, hotset_error *err) {
    *out = NULL;
    if (device_n < 1 || device_n > MACHINE_DEVICE_MAX)
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%u devices are not 1 to %d", device_n,
                           MACHINE_DEVICE_MAX);
    if (link_n > device_n * (device_n - 1))
        return hotset_fail(err, HOTSET_E_ARGUMENT, "%u links are more than %u devices can have", link_n,
                           device_n);
    machine_profile *p;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a machine profile", err));
    p->device_n = device_n;
    p->link_n = link_n;
    hotset_status status = base_calloc(&p->device, device_n, sizeof *p->device, "a machine profile", err);
    if (!status) status = base_calloc(&p->link, link_n, sizeof *p->link, "a machine profile", err);
    if (status)
        machine_free(p);
    else
        *out = p;
    return status;
}

void machine_free(machine_profile *p) {
    if (!p) return;
    free(p->device);
    free(p->link);
    free(p);
}

/* ---- Rates ---- */

double machine_round(double value) { return walk_round(value); }

static int by_value(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Of sorted samples, between two of them on a straight line. */
static double quantile(const double *samples, uint32_t n, double q) {
    double at = q * (n - 1);
    uint32_t below = (uint32_t)at;
    if (below + 1 >= n) return samples[n - 1];
    return samples[below] + (at - below) * (samples[below + 1] - samples[below]);
}

machine_rate machine_rate_of(double *samples, uint32_t n) {
    qsort(samples, n, sizeof *samples, by_value);
    double median = quantile(samples, n, 0.5);
    double spread = median > 0 ? (quantile(samples, n, 0.75) - quantile(samples, n, 0.25)) / median : 0;
    spread = nearbyint(spread * 1000) / 1000;
    return (machine_rate){machine_round(median), spread < MACHINE_SPREAD_MAX ? spread : MACHINE_SPREAD_MAX};
}

/* ---- Questions of the planner ---- */

/* The place of `at` among the points of a curve that has some: it lies `part` of the way, by logarithms, from
 * point *below to point *above. */
static double place_on(const machine_curve *c, double at, uint32_t *below, uint32_t *above) {
    uint32_t i = 0;
    while (i < c->n && c->at[i] < at) i++;
    *above = i < c->n ? i : c->n - 1;
    *below = i > 0 && i < c->n ? i - 1 : *above;
    if (*below == *above) return 0;
    return log(at / c->at[*below]) / log((double)c->at[*above] / c->at[*below]);
}

static double curve_rate(const machine_curve *c, double at) {
    if (!c->n) return 0;
    uint32_t below, above;
    double part = place_on(c, at, &below, &above), low = c->rate[below].median;
    return low + part * (c->rate[above].median - low);
}

double machine_weight_rate(const machine_device *d, gguf_type type, machine_access access, uint64_t row_bytes,
                           double share) {
    const machine_curve *curves = d->weights[type].access[access];
    double percent = share * 100, below = 0, below_percent = 0;
    if (access == MACHINE_DENSE) percent = 100;
    for (uint32_t s = 0; s < MACHINE_SHARE_N; s++) {
        if (!curves[s].n) continue;
        double known = curve_rate(&curves[s], (double)row_bytes), known_percent = machine_share_percent[s];
        if (percent <= known_percent && below == 0) return known;
        if (percent <= known_percent)
            return below + (percent - below_percent) / (known_percent - below_percent) * (known - below);
        below = known;
        below_percent = known_percent;
    }
    return below;
}

double machine_product_rate(const machine_device *d, gguf_type type, double row_n) {
    const machine_curve *c = &d->weights[type].products;
    if (!c->n) return 0;
    uint32_t below, above;
    double part = place_on(c, row_n, &below, &above), low = c->rate[below].median;
    return low * pow(c->rate[above].median / low, part);
}

double machine_time_s(double amount, double per_s) {
    if (amount == 0) return 0;
    return per_s > 0 ? amount / per_s : INFINITY;
}

/* Shares of F16's bytes/s and op/s that Q8_0 reaches: medians of 3 measurements of 2 cores of an AMD EPYC
 * (Zen 4) with AVX-512. */
static const double q8_0_read = 0.8, q8_0_compute = 0.9;

double machine_attend_s(const machine_device *d, machine_state state, double state_bytes, double op_n) {
    const machine_attention *a = &d->attention[state];
    const bool known = a->bytes_per_s.median > 0 || a->op_per_s.median > 0;
    if (!known && state == MACHINE_STATE_Q8_0)
        return machine_attend_s(d, MACHINE_STATE_F16, state_bytes / q8_0_read, op_n / q8_0_compute);
    if (!known) return INFINITY;
    double read_s = a->bytes_per_s.median > 0 ? state_bytes / a->bytes_per_s.median : 0;
    double compute_s = a->op_per_s.median > 0 ? op_n / a->op_per_s.median : 0;
    return fmax(read_s, compute_s);
}

const machine_link *machine_find_link(const machine_profile *p, uint32_t from_i, uint32_t to_i) {
    for (uint32_t i = 0; i < p->link_n; i++)
        if (p->link[i].from_i == from_i && p->link[i].to_i == to_i) return &p->link[i];
    return NULL;
}

uint32_t machine_find_device(const machine_profile *p, const char *name) {
    uint32_t i = 0;
    while (i < p->device_n && strcmp(p->device[i].name, name) != 0) i++;
    return i;
}
