/* plan_file.c - the fields of plans, in the order of their JSON file: read, printed, checked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/json_walk.h"
#include "profiles/plan.h"

#define FORMAT "hotset.plan"
/* What a sum of shares may lack for their four digits. */
#define SHARE_SLACK 1e-3
/* Shares are sums of floats: this is still printed as 1. */
#define SHARE_MAX 1.0004

enum {
    FINGERPRINT_DIGIT_N = 16,
    UNITS_PER_DIGIT = 4,
    PLACE_MAX = PLAN_DEVICE_MAX + 1, /* and the file */
    PLACE_NONE = 254,
    VALUE_MAX = 1 << 19 /* of JSON, in the whole file: more than the limits above let a plan have */
};

static const char hex_digits[] = "0123456789abcdef", all[] = "all", in_file[] = "file";

/* ---- Values ---- */

static const char *goal_name(uint32_t i) { return plan_goal_name((plan_goal)i); }
static const char *sparsity_name(uint32_t i) { return plan_sparsity_name((plan_sparsity)i); }
static const char *memory_name(uint32_t i) { return plan_memory_name((plan_memory)i); }
static const char *unit_kind_name(uint32_t i) { return plan_unit_kind_name((plan_unit_kind)i); }
static const char *kind_name(uint32_t i) { return machine_kind_name((machine_kind)i); }
static const char *state_name(uint32_t i) { return machine_state_name((machine_state)i); }

/* One of n names, by its number. */
static void walk_choice(walk *w, const char *name, uint32_t *value, const char *(*name_of)(uint32_t),
                        uint32_t n) {
    char text[MACHINE_NAME_BYTES] = "", choices[96] = "";
    size_t used = 0;
    uint32_t i = 0;
    if (w->mode != WALK_READ && *value < n) snprintf(text, sizeof text, "%s", name_of(*value));
    walk_text(w, name, text, sizeof text, true);
    while (i < n && strcmp(name_of(i), text) != 0) i++;
    if (w->mode == WALK_READ) *value = i < n ? i : 0;
    if (i < n) return;
    for (uint32_t j = 0; j < n && used < sizeof choices; j++)
        used += (size_t)snprintf(choices + used, sizeof choices - used, "%s%s", j ? ", " : "", name_of(j));
    walk_fail_field(w, name, "'%s' is none of %s", text, choices);
}

/* The same for an enumeration, which only reading changes. */
#define WALK_CHOICE(w, name, field, type, name_of, n)                                                        \
    do {                                                                                                     \
        uint32_t value_ = (uint32_t)(field);                                                                 \
        walk_choice(w, name, &value_, name_of, n);                                                           \
        if ((w)->mode == WALK_READ) (field) = (type)value_;                                                  \
    } while (0)

/* A device by its name. */
static void walk_device_name(walk *w, const char *name, const plan_data *p, uint32_t *device) {
    char text[MACHINE_NAME_BYTES] = "";
    uint32_t d = 0;
    if (w->status) return;
    if (w->mode != WALK_READ && *device < p->device_n)
        snprintf(text, sizeof text, "%s", p->device[*device].name);
    walk_text(w, name, text, sizeof text, true);
    if (w->status) return;
    while (d < p->device_n && strcmp(p->device[d].name, text) != 0) d++;
    if (d == p->device_n)
        walk_fail_field(w, name, "there is no device '%s'", text);
    else if (w->mode == WALK_READ)
        *device = d;
}

/* "0x" and sixteen digits. */
static void walk_fingerprint(walk *w, const char *name, uint64_t *value) {
    char text[2 + FINGERPRINT_DIGIT_N + 1];
    uint64_t read = 0;
    snprintf(text, sizeof text, "0x%016llx", (unsigned long long)*value);
    walk_text(w, name, text, sizeof text, true);
    if (w->mode != WALK_READ || w->status) return;
    bool right = strlen(text) == sizeof text - 1 && text[0] == '0' && text[1] == 'x' &&
                 strspn(text + 2, hex_digits) == FINGERPRINT_DIGIT_N;
    if (!right) {
        walk_fail_field(w, name, "'%s' is not 0x and %d digits", text, FINGERPRINT_DIGIT_N);
        return;
    }
    for (const char *c = text + 2; *c; c++)
        read = read << 4 | (uint64_t)(strchr(hex_digits, *c) - hex_digits);
    *value = read;
}

/* Predicted seconds: in files with a prediction always there, in others never. */
static void walk_seconds(walk *w, const char *name, double *seconds, bool predicted) {
    if (predicted)
        walk_number(w, name, seconds, 0, PLAN_SECOND_MAX);
    else if (walk_has(w, name, *seconds != 0))
        walk_fail_field(w, name, "a prediction without token_s");
}

/* ---- Devices ---- */

static void walk_ledger(walk *w, plan_ledger *l) {
    if (!walk_object_begin(w, "ledger", false)) return;
    walk_u64(w, "dense_bytes", &l->dense, 0, PLAN_BYTES_MAX);
    walk_u64(w, "embedding_bytes", &l->embedding, 0, PLAN_BYTES_MAX);
    walk_u64(w, "head_bytes", &l->head, 0, PLAN_BYTES_MAX);
    walk_u64(w, "mapped_bytes", &l->mapped, 0, PLAN_BYTES_MAX);
    walk_u64(w, "scratch_bytes", &l->scratch, 0, PLAN_BYTES_MAX);
    walk_u64(w, "state_bytes", &l->state, 0, PLAN_BYTES_MAX);
    walk_u64(w, "tables_bytes", &l->tables, 0, PLAN_BYTES_MAX);
    walk_u64(w, "total_bytes", &l->total, 0, PLAN_BYTES_MAX);
    walk_u64(w, "units_bytes", &l->units, 0, PLAN_BYTES_MAX);
    walk_object_end(w);
}

/* Of numbers within their limits: the sum of seven does not overflow. */
static void check_ledger(walk *w, const plan_device *d, bool is_host) {
    typedef unsigned long long wide;
    const plan_ledger *l = &d->ledger;
    uint64_t sum = l->dense + l->embedding + l->head + l->scratch + l->state + l->tables + l->units;
    if (!is_host && l->embedding) walk_fail_field(w, "ledger.embedding_bytes", "only the cpu has any");
    if (!is_host && l->mapped) walk_fail_field(w, "ledger.mapped_bytes", "only the cpu has any");
    if (l->mapped > sum)
        walk_fail_field(w, "ledger.mapped_bytes", "%llu of %llu", (wide)l->mapped, (wide)sum);
    else if (l->total != sum - l->mapped)
        walk_fail_field(w, "ledger.total_bytes", "%llu is not the sum %llu", (wide)l->total,
                        (wide)(sum - l->mapped));
    else if (l->total > d->limit_bytes)
        walk_fail_field(w, "ledger.total_bytes", "%llu is over the limit %llu", (wide)l->total,
                        (wide)d->limit_bytes);
}

/* The name is a key of other objects, where "file" is none of the devices. */
static void walk_name(walk *w, char name[MACHINE_NAME_BYTES]) {
    walk_text(w, "name", name, MACHINE_NAME_BYTES, true);
    if (w->status) return;
    if (!*name || name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789")])
        walk_fail_field(w, "name", "'%s' is not made of small letters and digits", name);
    else if (!strcmp(name, in_file))
        walk_fail_field(w, "name", "'%s' is no device", name);
}

static void walk_device(walk *w, plan_device *d, bool is_host) {
    walk_bool(w, "declared", &d->declared);
    WALK_CHOICE(w, "kind", d->kind, machine_kind, kind_name, MACHINE_KIND_COUNT);
    walk_ledger(w, &d->ledger);
    walk_u64(w, "limit_bytes", &d->limit_bytes, 0, PLAN_BYTES_MAX);
    walk_text(w, "model", d->model, sizeof d->model, true);
    walk_name(w, d->name);
    if (!w->status) check_ledger(w, d, is_host);
}

/* What a device owes to those before it. */
static void check_among(walk *w, const plan_data *p, uint32_t i) {
    if ((p->device[i].kind == MACHINE_CPU) != (i == 0))
        walk_fail_field(w, "kind", "the first device, and it alone, must be the cpu");
    if (i == 0 && strcmp(p->device[0].name, "cpu") != 0)
        walk_fail_field(w, "name", "'%s': the first device must be cpu", p->device[0].name);
    for (uint32_t j = 0; j < i; j++)
        if (!strcmp(p->device[i].name, p->device[j].name))
            walk_fail_field(w, "name", "device %u is '%s' too", j, p->device[j].name);
}

static void walk_devices(walk *w, plan_data *p) {
    walk_array array = walk_array_begin(w, "devices", p->device_n, PLAN_DEVICE_MAX, true);
    if (w->mode == WALK_READ && !w->status) p->device_n = array.n;
    for (uint32_t i = 0; i < array.n && walk_item_begin(w, &array, i, false); i++) {
        walk_device(w, &p->device[i], i == 0);
        if (!w->status) check_among(w, p, i);
        walk_item_end(w);
    }
    walk_array_end(w, &array);
}

/* ---- Places of a layer's units ---- */

/* The devices and the file, in the order of their keys. */
typedef struct places {
    uint32_t n;
    uint32_t place[PLACE_MAX]; /* device or PLAN_IN_FILE */
    const char *name[PLACE_MAX];
} places;

static places sort_places(const plan_data *p, bool file) {
    places s = {0};
    for (uint32_t d = 0; d < p->device_n + file; d++) {
        const char *name = d < p->device_n ? p->device[d].name : in_file;
        uint32_t i = s.n++;
        for (; i > 0 && strcmp(s.name[i - 1], name) > 0; i--) {
            s.name[i] = s.name[i - 1];
            s.place[i] = s.place[i - 1];
        }
        s.name[i] = name;
        s.place[i] = d < p->device_n ? d : PLAN_IN_FILE;
    }
    return s;
}

/* Units in each of the places; fails where one has none. */
static void count_units(walk *w, const plan_data *p, const plan_layer *l, uint32_t unit_n[256]) {
    memset(unit_n, 0, 256 * sizeof *unit_n);
    for (uint32_t u = 0; u < l->unit_n; u++) unit_n[l->place[u]]++;
    for (uint32_t u = 0; u < l->unit_n; u++) {
        if (l->place[u] >= p->device_n && l->place[u] != PLAN_IN_FILE) {
            walk_fail_field(w, "units", "unit %u has no place", u);
            return;
        }
    }
}

static void put_units(const plan_layer *l, uint32_t place, uint32_t here_n, char *digits, uint32_t digit_n) {
    if (here_n == l->unit_n) {
        memcpy(digits, all, sizeof all);
        return;
    }
    for (uint32_t i = 0; i < digit_n; i++) {
        uint32_t bits = 0, first = i * UNITS_PER_DIGIT;
        for (uint32_t b = 0; b < UNITS_PER_DIGIT && first + b < l->unit_n; b++)
            bits |= (uint32_t)(l->place[first + b] == place) << b;
        digits[i] = hex_digits[bits];
    }
    digits[digit_n] = 0;
}

/* Puts a unit into a place; what it has already is one too many. */
static void put_unit(walk *w, const plan_data *p, plan_layer *l, uint32_t u, uint32_t place) {
    uint32_t has = l->place[u];
    if (has == PLACE_NONE) {
        l->place[u] = (uint8_t)place;
        return;
    }
    bool from_file = has == PLAN_IN_FILE, to_file = place == PLAN_IN_FILE;
    walk_fail(w, HOTSET_E_FORMAT, "unit %u is %s%s and %s%s", u, from_file ? "in the " : "on ",
              from_file ? in_file : p->device[has].name, to_file ? "in the " : "on ",
              to_file ? in_file : p->device[place].name);
}

/* One digit: the units from `first` on whose bits are set. */
static void get_digit(walk *w, const plan_data *p, plan_layer *l, uint32_t place, uint32_t first,
                      uint32_t bits) {
    for (uint32_t u = first; bits && !w->status; u++, bits >>= 1) {
        if (!(bits & 1)) continue;
        if (u < l->unit_n)
            put_unit(w, p, l, u, place);
        else
            walk_fail(w, HOTSET_E_FORMAT, "a bit of unit %u, but there are %u", u, l->unit_n);
    }
}

/* The text of one place. */
static void get_units(walk *w, const plan_data *p, plan_layer *l, uint32_t place, const char *name,
                      const char *digits, uint32_t digit_n) {
    size_t n = strlen(digits), none_n = strspn(digits, "0");
    if (!strcmp(digits, all)) {
        for (uint32_t u = 0; u < l->unit_n && !w->status; u++) put_unit(w, p, l, u, place);
        return;
    }
    if (n != digit_n) {
        walk_fail_field(w, name, "%zu digits are not the %u of %u units", n, digit_n, l->unit_n);
        return;
    }
    if (none_n == n) walk_fail_field(w, name, "no units, which must not appear");
    for (uint32_t i = 0; i < digit_n && !w->status; i++) {
        const char *digit = strchr(hex_digits, digits[i]);
        if (digit)
            get_digit(w, p, l, place, i * UNITS_PER_DIGIT, (uint32_t)(digit - hex_digits));
        else
            walk_fail_field(w, name, "digit %u is none of 0 to 9 and a to f", i);
    }
}

static void walk_bitmaps(walk *w, const plan_data *p, plan_layer *l, const uint32_t here_n[256]) {
    uint32_t digit_n = (l->unit_n + UNITS_PER_DIGIT - 1) / UNITS_PER_DIGIT;
    size_t size = digit_n < sizeof all ? sizeof all : digit_n + 1;
    char *digits;
    w->status = base_calloc(&digits, size, 1, "the places of units", w->err);
    if (w->status) return;
    places s = sort_places(p, true);
    if (walk_object_begin(w, "units", false)) {
        for (uint32_t i = 0; i < s.n; i++) {
            uint32_t place = s.place[i];
            if (!walk_has(w, s.name[i], here_n[place] > 0)) continue;
            if (w->mode != WALK_READ) put_units(l, place, here_n[place], digits, digit_n);
            walk_text(w, s.name[i], digits, size, true);
            if (w->mode == WALK_READ && !w->status) get_units(w, p, l, place, s.name[i], digits, digit_n);
        }
        walk_object_end(w);
    }
    free(digits);
}

/* Also fills `here_n`, the number of units in each place. */
static void walk_units(walk *w, plan_data *p, plan_layer *l, uint32_t here_n[256]) {
    memset(here_n, 0, 256 * sizeof *here_n);
    if (w->status) return;
    if (w->mode == WALK_READ) {
        l->place = arena_alloc(&p->arena, l->unit_n, 1);
        if (!l->place) {
            walk_fail(w, HOTSET_E_MEMORY, "out of memory for %u units", l->unit_n);
            return;
        }
        memset(l->place, PLACE_NONE, l->unit_n);
        walk_bitmaps(w, p, l, here_n);
    }
    if (!w->status) count_units(w, p, l, here_n);
    if (w->mode == WALK_PRINT && !w->status) walk_bitmaps(w, p, l, here_n);
}

/* ---- Layers ---- */

/* An object of one number for each place, where it is not 0; absent where all are. */
static void walk_by_place(walk *w, const char *name, const places *s, double *const value[PLACE_MAX],
                          double max) {
    bool any = false;
    for (uint32_t i = 0; i < s->n; i++) any = any || *value[i] != 0;
    if (!walk_has(w, name, any) || !walk_object_begin(w, name, true)) return;
    for (uint32_t i = 0; i < s->n; i++)
        if (walk_has(w, s->name[i], *value[i] != 0)) walk_number(w, s->name[i], value[i], 0, max);
    walk_object_end(w);
}

static void walk_busy(walk *w, const plan_data *p, plan_layer *l, bool predicted) {
    places s = sort_places(p, false);
    double *value[PLACE_MAX];
    bool any = false;
    for (uint32_t i = 0; i < s.n; i++) {
        value[i] = &l->busy_s[s.place[i]];
        any = any || *value[i] != 0;
    }
    if (predicted)
        walk_by_place(w, "busy_s", &s, value, PLAN_SECOND_MAX);
    else if (walk_has(w, "busy_s", any))
        walk_fail_field(w, "busy_s", "a prediction without token_s");
}

static void walk_use(walk *w, const plan_data *p, plan_layer *l, const uint32_t here_n[256]) {
    places s = sort_places(p, true);
    double *value[PLACE_MAX], sum = 0;
    for (uint32_t i = 0; i < s.n; i++)
        value[i] = s.place[i] == PLAN_IN_FILE ? &l->file_use : &l->use[s.place[i]];
    walk_by_place(w, "use", &s, value, SHARE_MAX);
    for (uint32_t i = 0; i < s.n && !w->status; i++) {
        sum += walk_round(*value[i]);
        if (*value[i] != 0 && !here_n[s.place[i]])
            walk_fail_field(w, "use", "%s has %g, but no units", s.name[i], *value[i]);
    }
    if (!w->status && sum != 0 && fabs(sum - 1) > SHARE_SLACK)
        walk_fail_field(w, "use", "the sum is %g, not 1", sum);
}

/* What only layers with units have. `left_n`: how many the plan may still have. */
static void walk_unit_n(walk *w, plan_layer *l, uint32_t *left_n) {
    walk_u32(w, "unit_n", &l->unit_n, 1, PLAN_UNIT_MAX);
    if (!w->status && l->unit_n > *left_n)
        walk_fail_field(w, "unit_n", "more than %d units of all layers", PLAN_UNIT_SUM_MAX);
    if (!w->status) *left_n -= l->unit_n;
}

/* The caller's: a layer without units has none of their fields. */
static void check_no_units(walk *w, const plan_data *p, const plan_layer *l) {
    bool used = l->file_use != 0;
    for (uint32_t d = 0; d < p->device_n; d++) used = used || l->use[d] != 0;
    if (l->unit_n) walk_fail_field(w, "unit_n", "%u units of a layer of none", l->unit_n);
    if (l->neuron_n) walk_fail_field(w, "neuron_n", "%u neurons of no units", l->neuron_n);
    if (used) walk_fail_field(w, "use", "of a layer without units");
}

static void walk_layer(walk *w, plan_data *p, plan_layer *l, bool predicted, uint32_t *left_n) {
    uint32_t here_n[256];
    walk_busy(w, p, l, predicted);
    walk_seconds(w, "chunk_s", &l->chunk_s, predicted);
    walk_device_name(w, "home", p, &l->home);
    WALK_CHOICE(w, "kind", l->kind, plan_unit_kind, unit_kind_name, PLAN_UNIT_KIND_COUNT);
    walk_seconds(w, "merge_s", &l->merge_s, predicted);
    walk_seconds(w, "mixer_s", &l->mixer_s, predicted);
    if (l->kind != PLAN_NO_UNITS) walk_u32(w, "neuron_n", &l->neuron_n, 1, PLAN_UNIT_MAX);
    walk_seconds(w, "send_s", &l->send_s, predicted);
    walk_bool(w, "streamed", &l->streamed);
    if (l->kind == PLAN_NO_UNITS) {
        check_no_units(w, p, l);
        return;
    }
    walk_unit_n(w, l, left_n);
    walk_units(w, p, l, here_n);
    walk_use(w, p, l, here_n);
}

static void walk_layers(walk *w, plan_data *p, bool predicted) {
    uint32_t left_n = PLAN_UNIT_SUM_MAX;
    walk_array array = walk_array_begin(w, "layers", p->layer_n, PLAN_LAYER_MAX, true);
    if (w->mode == WALK_READ && !w->status) {
        p->layer = arena_alloc(&p->arena, array.n, sizeof *p->layer);
        if (!p->layer) {
            walk_fail(w, HOTSET_E_MEMORY, "out of memory for %u of them", array.n);
            array.n = 0;
        }
        p->layer_n = array.n;
    }
    for (uint32_t i = 0; i < array.n && walk_item_begin(w, &array, i, false); i++) {
        walk_layer(w, p, &p->layer[i], predicted, &left_n);
        walk_item_end(w);
    }
    walk_array_end(w, &array);
}

/* ---- The rest ---- */

static void walk_gains(walk *w, plan_data *p, bool predicted) {
    walk_array array = walk_array_begin(w, "gains", p->gain_n, PLAN_GAIN_MAX, false);
    if (w->mode == WALK_READ && !w->status) p->gain_n = array.n;
    if (array.n && !predicted) walk_fail(w, HOTSET_E_FORMAT, "a prediction without token_s");
    for (uint32_t i = 0; i < array.n && walk_item_begin(w, &array, i, true); i++) {
        walk_number(w, "token_s", &p->gain[i].token_s, MACHINE_RATE_MIN, PLAN_SECOND_MAX);
        walk_text(w, "what", p->gain[i].what, sizeof p->gain[i].what, true);
        walk_item_end(w);
    }
    walk_array_end(w, &array);
}

static void walk_measured(walk *w, plan_data *p) {
    uint32_t kept_n = 0;
    walk_array array = walk_array_begin(w, "measured", p->measured_n, PLAN_MEASURED_MAX, false);
    if (w->mode == WALK_READ && !w->status) p->measured_n = array.n;
    for (uint32_t i = 0; i < array.n && walk_item_begin(w, &array, i, true); i++) {
        plan_measured *m = &p->measured[i];
        walk_bool(w, "kept", &m->kept);
        walk_number(w, "measured_s", &m->measured_s, MACHINE_RATE_MIN, PLAN_SECOND_MAX);
        walk_number(w, "predicted_s", &m->predicted_s, 0, PLAN_SECOND_MAX);
        walk_thousandths(w, "spread", &m->spread, 0, MACHINE_SPREAD_MAX);
        walk_text(w, "what", m->what, sizeof m->what, true);
        kept_n += m->kept;
        if (kept_n > 1) walk_fail_field(w, "kept", "another one is kept already");
        walk_item_end(w);
    }
    walk_array_end(w, &array);
}

static void walk_model(walk *w, plan_data *p) {
    if (!walk_object_begin(w, "model", false)) return;
    walk_text(w, "architecture", p->architecture, sizeof p->architecture, true);
    walk_text(w, "name", p->name, sizeof p->name, false);
    walk_fingerprint(w, "shape", &p->shape);
    if (walk_has(w, "order", p->order != 0)) walk_fingerprint(w, "order", &p->order);
    if (walk_has(w, "weights", p->weights != 0)) walk_fingerprint(w, "weights", &p->weights);
    walk_object_end(w);
}

static void walk_plan(walk *w, void *plan) {
    plan_data *p = plan;
    uint32_t version = PLAN_VERSION;
    bool predicted = walk_has(w, "token_s", p->token_s != 0);
    walk_text(w, "activations", p->activations, sizeof p->activations, false);
    walk_u32(w, "batch_n", &p->batch_n, 1, PLAN_BATCH_MAX);
    walk_seconds(w, "chunk_s", &p->chunk_s, predicted);
    walk_u32(w, "context_n", &p->context_n, 1, PLAN_CONTEXT_MAX);
    walk_devices(w, p);
    walk_constant(w, "format", FORMAT);
    walk_gains(w, p, predicted);
    WALK_CHOICE(w, "goal", p->goal, plan_goal, goal_name, PLAN_GOAL_COUNT);
    walk_device_name(w, "head", p, &p->head);
    walk_seconds(w, "head_s", &p->head_s, predicted);
    walk_text(w, "isa", p->isa, sizeof p->isa, false);
    walk_layers(w, p, predicted);
    walk_text(w, "made_by", p->made_by, sizeof p->made_by, true);
    walk_measured(w, p);
    WALK_CHOICE(w, "memory", p->memory, plan_memory, memory_name, PLAN_MEMORY_COUNT);
    walk_model(w, p);
    walk_bool(w, "prefill_skips", &p->prefill_skips);
    walk_u32(w, "session_n", &p->session_n, 1, PLAN_SESSION_MAX);
    WALK_CHOICE(w, "sparsity", p->sparsity, plan_sparsity, sparsity_name, PLAN_SPARSITY_COUNT);
    WALK_CHOICE(w, "state", p->state, machine_state, state_name, MACHINE_STATE_COUNT);
    walk_u32(w, "stream_row_n", &p->stream_row_n, 0, p->batch_n);
    walk_seconds(w, "submit_s", &p->submit_s, predicted);
    walk_u32(w, "thread_n", &p->thread_n, 0, MACHINE_THREAD_MAX);
    if (predicted) walk_number(w, "token_s", &p->token_s, MACHINE_RATE_MIN, PLAN_SECOND_MAX);
    walk_u32(w, "version", &version, PLAN_VERSION, PLAN_VERSION);
}

/* ---- What is done with them ---- */

hotset_status plan_data_check(const plan_data *p, hotset_error *err) { return walk_check(walk_plan, p, err); }

hotset_status plan_data_print(const plan_data *p, hotset_text_fn *write, void *cookie, hotset_error *err) {
    return walk_print(walk_plan, p, write, cookie, err);
}

hotset_status plan_data_write(const plan_data *p, const char *path, hotset_error *err) {
    return walk_write(walk_plan, p, path, err);
}

/* Values of JSON take many times the memory of their text, so that their number is looked at first: each but
 * one stands behind one of these characters. */
static bool has_too_many_values(const char *text, size_t bytes) {
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) n += text[i] == ',' || text[i] == '{' || text[i] == '[';
    return n > VALUE_MAX;
}

hotset_status plan_data_parse(plan_data **out, const char *text, size_t bytes, hotset_error *err) {
    plan_data *p;
    *out = NULL;
    if (bytes <= PLAN_FILE_BYTES_MAX && has_too_many_values(text, bytes))
        return hotset_fail(err, HOTSET_E_FORMAT, "more than %d values", VALUE_MAX);
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a plan", err));
    hotset_status status =
        walk_read(walk_plan, p, text, bytes, PLAN_FILE_BYTES_MAX, "plan", FORMAT, PLAN_VERSION, err);
    if (status)
        plan_data_free(p);
    else
        *out = p;
    return status;
}

hotset_status plan_data_read(plan_data **out, const char *path, hotset_error *err) {
    hotset_error failure = {0};
    file_map map;
    *out = NULL;
    HOTSET_TRY(file_map_open(&map, path, err));
    hotset_status status = plan_data_parse(out, (const char *)map.data, map.bytes, &failure);
    file_map_close(&map);
    if (status == HOTSET_OK) return HOTSET_OK;
    return hotset_fail_at(err, status, failure.offset_bytes, "%s: %s", path, failure.message);
}
