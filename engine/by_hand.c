/* by_hand.c - placements by hand: read, and made a plan. */
#include "engine/by_hand.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/module.h"
#include "engine/planning.h"

/* ---- Reading ---- */

/* One device of a key, with its number. */
typedef struct share {
    uint32_t device;
    bool all; /* that is left */
    double n;
} share;

typedef struct shares {
    uint32_t n;
    share share[PROBLEM_DEVICE_MAX];
} shares;

static hotset_status wrong(hotset_error *err, const char *at, size_t n, const char *what) {
    return hotset_fail(err, HOTSET_E_ARGUMENT, "place: '%.*s': %s", (int)n, at, what);
}

static hotset_status read_share(share *out, const problem *p, const char *at, size_t n, hotset_error *err) {
    const char *colon = memchr(at, ':', n);
    size_t name_n = colon ? (size_t)(colon - at) : n;
    char number[32], *end = number;
    *out = (share){.device = p->device_n, .all = !colon};
    if (name_n == 4 && !memcmp(at, "gpu", 3) && at[3] >= '0' && at[3] <= '9')
        out->device = min_u64((uint64_t)(at[3] - '0') + 1, p->device_n);
    for (uint32_t d = 0; d < p->device_n; d++) {
        const char *name = p->machine->device[p->device[d].machine_i].name;
        if (strlen(name) == name_n && !memcmp(name, at, name_n)) out->device = d;
    }
    if (out->device == p->device_n) return wrong(err, at, name_n, "no such device");
    if (!colon) return HOTSET_OK;
    size_t number_n = n - name_n - 1;
    if (number_n >= sizeof number) return wrong(err, at, n, "not a number");
    memcpy(number, colon + 1, number_n);
    number[number_n] = 0;
    out->n = strtod(number, &end);
    if (end == number || *end || !(out->n >= 0)) return wrong(err, at, n, "not a number");
    return HOTSET_OK;
}

static hotset_status read_shares(shares *out, const problem *p, const char *at, size_t n, hotset_error *err) {
    out->n = 0;
    for (const char *end = at + n; at <= end;) {
        const char *plus = memchr(at, '+', (size_t)(end - at));
        size_t part_n = (size_t)((plus ? plus : end) - at);
        if (out->n == PROBLEM_DEVICE_MAX) return wrong(err, at, part_n, "too many devices");
        HOTSET_TRY(read_share(&out->share[out->n++], p, at, part_n, err));
        at += part_n + 1;
    }
    return HOTSET_OK;
}

static hotset_status place_mixers(cost_split *split, const problem *p, const shares *s, hotset_error *err) {
    uint32_t layer = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        double n = s->share[i].all ? p->layer_n - layer : s->share[i].n;
        if (n != floor(n) || n > p->layer_n - layer)
            return hotset_fail(err, HOTSET_E_ARGUMENT, "place: attn: %g layers, there are %u left of %u", n,
                               p->layer_n - layer, p->layer_n);
        for (uint32_t end = layer + (uint32_t)n; layer < end; layer++)
            split[layer].home = (uint8_t)s->share[i].device;
    }
    return HOTSET_OK;
}

/* The hottest units to the first device, and so on; the CPU has the coldest. */
static hotset_status place_units(cost_split *split, const problem *p, const shares *s, hotset_error *err) {
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) sum += s->share[i].all ? 0 : s->share[i].n;
    if (sum > 1 + 1e-9) return hotset_fail(err, HOTSET_E_ARGUMENT, "place: ffn: shares of %g in all", sum);
    for (uint32_t l = 0; l < p->layer_n; l++) {
        const uint32_t unit_n = p->layer[l].ffn.kind == PROBLEM_NONE ? 0 : p->layer[l].ffn.unit_n;
        bool listed[PROBLEM_DEVICE_MAX] = {false};
        uint32_t at = 0, order_n = 0;
        double share_n = 0;
        memset(split[l].n, 0, sizeof split[l].n);
        for (uint32_t i = 0; i < s->n; i++) {
            const uint32_t d = s->share[i].device;
            share_n = s->share[i].all ? 1 : share_n + s->share[i].n;
            uint32_t end = (uint32_t)fmin(floor(share_n * unit_n + 0.5), unit_n);
            if (listed[d]) return hotset_fail(err, HOTSET_E_ARGUMENT, "place: ffn: a device is named twice");
            listed[d] = true;
            split[l].order[order_n++] = (uint8_t)d;
            split[l].n[d] = end - at;
            at = end;
        }
        for (uint32_t d = p->device_n; d-- > 0;)
            if (!listed[d]) split[l].order[order_n++] = (uint8_t)d;
        split[l].n[0] += unit_n - at;
        if (listed[0] && unit_n > at && split[l].order[p->device_n - 1] != 0 && split[l].n[0] != unit_n - at)
            return hotset_fail(err, HOTSET_E_ARGUMENT,
                               "place: ffn: cpu is named before others, and gets the rest");
    }
    return HOTSET_OK;
}

static hotset_status read_rows(uint32_t *out, const char *at, size_t n, hotset_error *err) {
    char *end;
    unsigned long rows = strtoul(at, &end, 10);
    if (end != at + n || n == 0 || rows < 1 || rows > PLAN_BATCH_MAX)
        return wrong(err, at, n, "not a number of rows");
    *out = (uint32_t)rows;
    return HOTSET_OK;
}

hotset_status by_hand_read(by_hand *out, const problem *p, const char *text, hotset_error *err) {
    shares none = {0}, s;
    bool seen[4] = {false};
    out->head = out->stream_row_n = 0;
    for (uint32_t l = 0; l < p->layer_n; l++) out->split[l] = (cost_split){0};
    HOTSET_TRY(place_units(out->split, p, &none, err));
    for (const char *at = text; *at;) {
        static const char *const keys[] = {"attn=", "ffn=", "head=", "stream="};
        size_t n = strcspn(at, ","), k = 0;
        while (k < COUNT_OF(keys) && strncmp(at, keys[k], strlen(keys[k]))) k++;
        if (k == COUNT_OF(keys))
            return wrong(err, at, n, "not attn=, ffn= or head= and devices, nor stream=");
        if (seen[k]) return wrong(err, at, n, "named twice");
        seen[k] = true;
        const char *value = at + strlen(keys[k]);
        const size_t value_n = n - strlen(keys[k]);
        if (k == 3)
            HOTSET_TRY(read_rows(&out->stream_row_n, value, value_n, err));
        else
            HOTSET_TRY(read_shares(&s, p, value, value_n, err));
        if (k == 0) HOTSET_TRY(place_mixers(out->split, p, &s, err));
        if (k == 1) HOTSET_TRY(place_units(out->split, p, &s, err));
        if (k == 2 && (s.n != 1 || !s.share[0].all)) return wrong(err, at, n, "the head has one device");
        if (k == 2) out->head = s.share[0].device;
        at += n + (at[n] == ',');
    }
    return HOTSET_OK;
}

/* ---- The plan ---- */

/* A device of the list as one of a machine without rates. */
static hotset_status describe_device(machine_device *to, const device_spec *spec, const char *folder,
                                     hotset_error *err) {
    device *d;
    HOTSET_TRY(device_spec_open(&d, spec, folder, err));
    snprintf(to->name, sizeof to->name, "%s", spec->name);
    snprintf(to->model, sizeof to->model, "%s", spec->name);
    to->kind = spec->kind;
    to->alignment_bytes = d->alignment;
    hotset_status status = d->api->memory(d, &to->capacity_bytes, &to->free_bytes, err);
    d->api->close(d);
    return status;
}

/* Adds the devices that the placement names, but for those by number of all. */
static void add_named(device_spec *spec, uint32_t *n, const char *place) {
    static const char ends[] = "=+,:";
    for (const char *at = place; *at; at += strspn(at, ends)) {
        char name[MACHINE_NAME_BYTES];
        device_spec one;
        size_t name_n = strcspn(at, ends);
        bool known = name_n >= sizeof name;
        snprintf(name, sizeof name, "%.*s", (int)name_n, at);
        for (uint32_t i = 0; i < *n; i++) known |= !strcmp(spec[i].name, name);
        if (!known && *n < MACHINE_DEVICE_MAX && !device_spec_named(&one, name, NULL)) spec[(*n)++] = one;
        at += name_n;
    }
}

/* This machine's host and the devices of the list, without rates; without a list those that the placement
 * names, and where it names some by number of all GPUs, all of them. */
static hotset_status machine_of(machine_profile **out, const char *devices, const char *place,
                                const char *folder, hotset_error *err) {
    device_spec spec[MACHINE_DEVICE_MAX];
    uint32_t n;
    machine_profile *host;
    const bool counts = strstr(place, "gpu") != NULL;
    HOTSET_TRY(device_list_find(spec, &n, devices || counts ? devices : "cpu", folder, NULL, NULL, err));
    if (!devices) add_named(spec, &n, place);
    HOTSET_TRY(planning_host(&host, err));
    hotset_status status = machine_make(out, n, 0, err);
    if (!status) (*out)->device[0] = host->device[0];
    machine_free(host);
    for (uint32_t i = 0, at = 1; i < n && !status; i++)
        if (spec[i].kind != MACHINE_CPU)
            status = describe_device(&(*out)->device[at++], &spec[i], folder, err);
    if (!status) return HOTSET_OK;
    machine_free(*out);
    *out = NULL;
    return status;
}

hotset_status hotset_plan_place(hotset_plan **out, const hotset_model *m, const char *devices,
                                const char *place, const char *module_folder, const hotset_profile *profile,
                                const hotset_plan_options *options, hotset_error *err) {
    hotset_plan_options o = options ? *options : hotset_plan_default_options();
    const activation_profile *counts = NULL;
    machine_profile *machine;
    *out = NULL;
    if (profile) HOTSET_TRY(profile_counts(&counts, profile, m, err));
    HOTSET_TRY(machine_of(&machine, devices, place, module_folder, err));
    o.devices = NULL;
    planning what = {.model = m,
                     .machine = machine,
                     .profile = counts,
                     .options = &o,
                     .place = place,
                     .prefill_skips = planning_skips_by_cost(o.sparsity)};
    hotset_status status = planning_make(out, &what, HOTSET_SPARSITY_AUTO, err);
    machine_free(machine);
    return status;
}
