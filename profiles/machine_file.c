/* machine_file.c - the fields of machine profiles, in the order of their JSON file: read, printed, checked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profiles/json_walk.h"
#include "profiles/machine.h"

#define FORMAT "hotset.machine"

enum { ALIGNMENT_MAX = 1 << 20 };

/* ---- Rates ---- */

/* Counts rates: the cookie of a checking walk. */
typedef struct noise {
    uint32_t rate_n, noisy_n;
} noise;

static void walk_spread(walk *w, double *spread) {
    noise *n = w->mode == WALK_CHECK ? w->cookie : NULL;
    walk_thousandths(w, "spread", spread, 0, MACHINE_SPREAD_MAX);
    if (!n) return;
    n->rate_n++;
    n->noisy_n += *spread >= MACHINE_SPREAD_NOISY;
}

/* On one line. */
static void walk_rate(walk *w, const char *name, machine_rate *rate, bool needed, double max) {
    bool there = walk_has(w, name, rate->median != 0);
    if (!there && needed) walk_fail_field(w, name, "missing");
    if (!there || !walk_object_begin(w, name, true)) return;
    walk_number(w, "median", &rate->median, MACHINE_RATE_MIN, max);
    walk_spread(w, &rate->spread);
    walk_object_end(w);
}

/* What the points of a curve are called in the file. */
typedef struct point_names {
    const char *rate, *at;
    uint32_t at_max;
} point_names;

typedef struct point {
    machine_rate rate;
    uint32_t at, share_percent;
} point;

/* Keys in their order: bytes_per_s or op_per_s, row_bytes or rows, share_percent, spread, threads. */
static void walk_point(walk *w, const point_names *names, point *p, bool shares) {
    bool late = strcmp(names->at, "spread") > 0;
    walk_number(w, names->rate, &p->rate.median, MACHINE_RATE_MIN, MACHINE_RATE_MAX);
    if (!late) walk_u32(w, names->at, &p->at, 1, names->at_max);
    if (shares) walk_u32(w, "share_percent", &p->share_percent, 1, 100);
    walk_spread(w, &p->rate.spread);
    if (late) walk_u32(w, names->at, &p->at, 1, names->at_max);
}

/* READ: adds a point to its curve. */
static void add_point(walk *w, machine_curve *curves, const point *p, bool shares) {
    uint32_t s = 0;
    while (shares && s < MACHINE_SHARE_N && machine_share_percent[s] != p->share_percent) s++;
    if (s == MACHINE_SHARE_N) {
        walk_fail_field(w, "share_percent", "%u is not 10, 30 or 100", p->share_percent);
        return;
    }
    for (uint32_t later = s + 1; shares && later < MACHINE_SHARE_N; later++)
        if (curves[later].n) walk_fail_field(w, "share_percent", "%u comes too late", p->share_percent);
    machine_curve *c = &curves[s];
    if (c->n == MACHINE_POINT_MAX)
        walk_fail(w, HOTSET_E_FORMAT, "more than %d points of one curve", MACHINE_POINT_MAX);
    if (w->status) return;
    c->at[c->n] = p->at;
    c->rate[c->n++] = p->rate;
}

static void check_rising(walk *w, const machine_curve *c, const point_names *names) {
    for (uint32_t i = 1; i < c->n && !w->status; i++)
        if (c->at[i] <= c->at[i - 1])
            walk_fail(w, HOTSET_E_FORMAT, "%s %u comes behind %u", names->at, c->at[i], c->at[i - 1]);
}

/* READ: all points of an array. */
static void read_points(walk *w, const walk_array *array, machine_curve *curves, bool shares,
                        const point_names *names) {
    for (uint32_t i = 0; i < array->n && walk_item_begin(w, array, i, true); i++) {
        point p = {0};
        walk_point(w, names, &p, shares);
        if (!w->status) add_point(w, curves, &p, shares);
        walk_item_end(w);
    }
}

/* One curve, or with `shares` MACHINE_SHARE_N of them, as one array. */
static void walk_curves(walk *w, const char *name, machine_curve *curves, bool shares,
                        const point_names *names) {
    uint32_t curve_n = shares ? MACHINE_SHARE_N : 1, n = 0, i = 0;
    for (uint32_t s = 0; s < curve_n; s++) {
        if (curves[s].n > MACHINE_POINT_MAX)
            walk_fail_field(w, name, "%u points are more than %d", curves[s].n, MACHINE_POINT_MAX);
        n += curves[s].n;
    }
    walk_array array = walk_array_begin(w, name, n, MACHINE_POINT_MAX * curve_n, false);
    if (w->mode == WALK_READ) read_points(w, &array, curves, shares, names);
    for (uint32_t s = 0; s < curve_n; s++) {
        check_rising(w, &curves[s], names);
        for (uint32_t j = 0; w->mode != WALK_READ && j < curves[s].n; j++) {
            point p = {curves[s].rate[j], curves[s].at[j], machine_share_percent[s]};
            if (!walk_item_begin(w, &array, i++, true)) break;
            walk_point(w, names, &p, shares);
            walk_item_end(w);
        }
    }
    walk_array_end(w, &array);
}

/* ---- Weights ---- */

static bool has_rates(const machine_weights *weights) {
    uint32_t n = weights->products.n;
    for (uint32_t a = 0; a < MACHINE_ACCESS_COUNT; a++)
        for (uint32_t s = 0; s < MACHINE_SHARE_N; s++) n += weights->access[a][s].n;
    return n > 0;
}

static void walk_type(walk *w, const char *name, machine_weights *weights) {
    static const point_names rows = {"bytes_per_s", "row_bytes", MACHINE_ROW_BYTES_MAX},
                             products = {"op_per_s", "rows", MACHINE_ROWS_MAX};
    machine_curve *dense = weights->access[MACHINE_DENSE];
    if (!walk_object_begin(w, name, false)) return;
    walk_curves(w, "dense", &dense[MACHINE_SHARE_N - 1], false, &rows);
    for (uint32_t s = 0; s + 1 < MACHINE_SHARE_N; s++)
        if (dense[s].n) walk_fail_field(w, "dense", "a rate of less than all rows");
    walk_curves(w, "listed", weights->access[MACHINE_LISTED], true, &rows);
    walk_curves(w, "products", &weights->products, false, &products);
    walk_curves(w, "sums", weights->access[MACHINE_SUMS], true, &rows);
    walk_curves(w, "sums_by_row", weights->access[MACHINE_SUMS_BY_ROW], true, &rows);
    if (!has_rates(weights)) walk_fail(w, HOTSET_E_FORMAT, "no rates");
    walk_object_end(w);
}

/* The type whose name follows `after` (NULL: the first one) in the order of strcmp, or NULL. */
static const gguf_type_info *next_type(const gguf_type_info *after, uint32_t *id) {
    const gguf_type_info *best = NULL;
    for (uint32_t i = 0; i < GGUF_TYPE_MAX; i++) {
        const gguf_type_info *t = gguf_type_get(i);
        if (!t || (after && strcmp(t->name, after->name) <= 0) || (best && strcmp(t->name, best->name) >= 0))
            continue;
        best = t;
        *id = i;
    }
    return best;
}

static void walk_weights(walk *w, machine_device *d) {
    uint32_t id = 0;
    if (!walk_object_begin(w, "weights", false)) return;
    for (const gguf_type_info *t = NULL; (t = next_type(t, &id));)
        if (walk_has(w, t->name, has_rates(&d->weights[id]))) walk_type(w, t->name, &d->weights[id]);
    walk_object_end(w);
}

/* ---- Devices ---- */

static void walk_attention(walk *w, machine_attention attention[MACHINE_STATE_COUNT]) {
    if (!walk_object_begin(w, "attention", false)) return;
    for (int i = 0; i < MACHINE_STATE_COUNT; i++) {
        machine_attention *a = &attention[i];
        const char *name = machine_state_name((machine_state)i);
        bool there = a->bytes_per_s.median != 0 || a->op_per_s.median != 0;
        if (!walk_has(w, name, there) || !walk_object_begin(w, name, false)) continue;
        walk_rate(w, "bytes_per_s", &a->bytes_per_s, false, MACHINE_RATE_MAX);
        walk_rate(w, "op_per_s", &a->op_per_s, false, MACHINE_RATE_MAX);
        if (a->bytes_per_s.median == 0 && a->op_per_s.median == 0) walk_fail(w, HOTSET_E_FORMAT, "no rates");
        walk_object_end(w);
    }
    walk_object_end(w);
}

static void walk_processor(walk *w, machine_processor *p) {
    static const point_names threads = {"bytes_per_s", "threads", MACHINE_THREAD_MAX};
    if (!walk_object_begin(w, "processor", false)) return;
    walk_u32(w, "core_n", &p->core_n, 1, MACHINE_THREAD_MAX);
    walk_u32(w, "hardware_thread_n", &p->hardware_thread_n, p->core_n, MACHINE_THREAD_MAX);
    walk_u32(w, "package_n", &p->package_n, 1, p->core_n);
    walk_curves(w, "scaling", &p->scaling, false, &threads);
    walk_u32(w, "thread_n", &p->thread_n, 1, MACHINE_THREAD_MAX);
    walk_object_end(w);
}

static void walk_kind(walk *w, machine_kind *kind) {
    char text[MACHINE_NAME_BYTES] = "";
    int i = 0;
    if (w->mode != WALK_READ && *kind < MACHINE_KIND_COUNT)
        snprintf(text, sizeof text, "%s", machine_kind_name(*kind));
    walk_text(w, "kind", text, sizeof text, true);
    while (i < MACHINE_KIND_COUNT && strcmp(machine_kind_name((machine_kind)i), text) != 0) i++;
    if (i == MACHINE_KIND_COUNT)
        walk_fail_field(w, "kind", "'%s' is not cpu, cuda, hip or emulated", text);
    else if (w->mode == WALK_READ)
        *kind = (machine_kind)i;
}

static void walk_name(walk *w, char name[MACHINE_NAME_BYTES]) {
    walk_text(w, "name", name, MACHINE_NAME_BYTES, true);
    if (!w->status && (!*name || name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789")]))
        walk_fail_field(w, "name", "'%s' is not made of small letters and digits", name);
}

static void walk_alignment(walk *w, uint64_t *bytes) {
    walk_u64(w, "alignment_bytes", bytes, 1, ALIGNMENT_MAX);
    if (!w->status && *bytes & (*bytes - 1))
        walk_fail_field(w, "alignment_bytes", "%llu is no power of two", (unsigned long long)*bytes);
}

static void walk_device(walk *w, machine_device *d) {
    walk_alignment(w, &d->alignment_bytes);
    walk_attention(w, d->attention);
    walk_u64(w, "capacity_bytes", &d->capacity_bytes, 1, MACHINE_MEMORY_BYTES_MAX);
    if (walk_has(w, "declared", d->declared)) walk_bool(w, "declared", &d->declared);
    walk_rate(w, "float_op_per_s", &d->float_op_per_s, false, MACHINE_RATE_MAX);
    walk_u64(w, "free_bytes", &d->free_bytes, 0, d->capacity_bytes);
    walk_text(w, "instructions", d->instructions, sizeof d->instructions, true);
    walk_rate(w, "int8_op_per_s", &d->int8_op_per_s, false, MACHINE_RATE_MAX);
    walk_kind(w, &d->kind);
    walk_rate(w, "mapped_factor", &d->mapped_factor, false, MACHINE_RATE_MAX);
    walk_text(w, "model", d->model, sizeof d->model, true);
    walk_name(w, d->name);
    walk_rate(w, "operation_s", &d->operation_s, true, MACHINE_RATE_MAX);
    if (d->kind == MACHINE_CPU) walk_processor(w, &d->processor);
    walk_rate(w, "read_bytes_per_s", &d->read_bytes_per_s, false, MACHINE_RATE_MAX);
    walk_rate(w, "select_items_per_s", &d->select_items_per_s, false, MACHINE_RATE_MAX);
    walk_rate(w, "submit_s", &d->submit_s, true, MACHINE_RATE_MAX);
    walk_rate(w, "vector_items_per_s", &d->vector_items_per_s, false, MACHINE_RATE_MAX);
    walk_weights(w, d);
}

/* What a device owes to those before it. */
static void check_among(walk *w, const machine_profile *p, uint32_t i) {
    if ((p->device[i].kind == MACHINE_CPU) != (i == 0))
        walk_fail_field(w, "kind", "the first device, and it alone, must be the cpu");
    for (uint32_t j = 0; j < i; j++)
        if (!strcmp(p->device[i].name, p->device[j].name))
            walk_fail_field(w, "name", "device %u is '%s' too", j, p->device[j].name);
}

static void walk_devices(walk *w, machine_profile *p) {
    walk_array array = walk_array_begin(w, "devices", p->device_n, MACHINE_DEVICE_MAX, true);
    if (w->mode == WALK_READ && !w->status) {
        w->status = base_calloc(&p->device, array.n, sizeof *p->device, "a machine profile", w->err);
        if (!w->status) p->device_n = array.n;
    }
    for (uint32_t i = 0; i < p->device_n && walk_item_begin(w, &array, i, false); i++) {
        walk_device(w, &p->device[i]);
        if (!w->status) check_among(w, p, i);
        walk_item_end(w);
    }
    walk_array_end(w, &array);
}

/* ---- Links and the rest ---- */

static void walk_end(walk *w, const char *name, const machine_profile *p, uint32_t *device_i) {
    char text[MACHINE_NAME_BYTES] = "";
    if (w->mode != WALK_READ && *device_i < p->device_n)
        snprintf(text, sizeof text, "%s", p->device[*device_i].name);
    walk_text(w, name, text, sizeof text, true);
    uint32_t i = w->status ? 0 : machine_find_device(p, text);
    if (i == p->device_n) walk_fail_field(w, name, "there is no device '%s'", text);
    if (w->mode == WALK_READ) *device_i = i;
}

static void walk_link(walk *w, const machine_profile *p, machine_link *l) {
    walk_rate(w, "copy_factor", &l->copy_factor, true, 1);
    walk_end(w, "from", p, &l->from_i);
    walk_rate(w, "handover_s", &l->handover_s, true, MACHINE_RATE_MAX);
    walk_rate(w, "latency_s", &l->latency_s, true, MACHINE_RATE_MAX);
    walk_rate(w, "pageable_bytes_per_s", &l->pageable_bytes_per_s, false, MACHINE_RATE_MAX);
    walk_rate(w, "pinned_bytes_per_s", &l->pinned_bytes_per_s, true, MACHINE_RATE_MAX);
    walk_rate(w, "stream_factor", &l->stream_factor, true, 1);
    walk_end(w, "to", p, &l->to_i);
    if (!w->status && l->from_i == l->to_i)
        walk_fail_field(w, "to", "'%s' is where it comes from", p->device[l->to_i].name);
}

static bool links_rise(const machine_link *a, const machine_link *b) {
    return a->from_i != b->from_i ? a->from_i < b->from_i : a->to_i < b->to_i;
}

static void walk_links(walk *w, machine_profile *p) {
    walk_array array = walk_array_begin(w, "links", p->link_n, MACHINE_LINK_MAX, false);
    if (w->mode == WALK_READ && !w->status) {
        w->status = base_calloc(&p->link, array.n, sizeof *p->link, "a machine profile", w->err);
        if (!w->status) p->link_n = array.n;
    }
    for (uint32_t i = 0; i < p->link_n && walk_item_begin(w, &array, i, false); i++) {
        machine_link *l = &p->link[i];
        walk_link(w, p, l);
        if (!w->status && i && !links_rise(l - 1, l))
            walk_fail(w, HOTSET_E_FORMAT, "%s to %s comes too late or twice", p->device[l->from_i].name,
                      p->device[l->to_i].name);
        walk_item_end(w);
    }
    walk_array_end(w, &array);
}

static bool is_date(const char *date) {
    static const char form[] = "dddd-dd-dd";
    for (size_t i = 0; i < sizeof form; i++) {
        bool digit = date[i] >= '0' && date[i] <= '9';
        if (form[i] == 'd' ? !digit : date[i] != form[i]) return false;
    }
    return true;
}

static void walk_provenance(walk *w, machine_provenance *p) {
    if (!walk_object_begin(w, "provenance", false)) return;
    walk_text(w, "date", p->date, sizeof p->date, false);
    if (!w->status && *p->date && !is_date(p->date))
        walk_fail_field(w, "date", "'%s' is not YYYY-MM-DD", p->date);
    walk_text(w, "made_by", p->made_by, sizeof p->made_by, true);
    walk_text(w, "note", p->note, sizeof p->note, false);
    walk_bool(w, "synthetic", &p->synthetic);
    walk_bool(w, "thorough", &p->thorough);
    walk_object_end(w);
}

static void walk_profile(walk *w, void *profile) {
    machine_profile *p = profile;
    uint32_t version = MACHINE_VERSION;
    walk_devices(w, p);
    walk_rate(w, "file_read_bytes_per_s", &p->file_read_bytes_per_s, false, MACHINE_RATE_MAX);
    walk_constant(w, "format", FORMAT);
    walk_links(w, p);
    walk_provenance(w, &p->provenance);
    walk_u32(w, "version", &version, MACHINE_VERSION, MACHINE_VERSION);
}

/* ---- What is done with them ---- */

hotset_status machine_check(const machine_profile *p, hotset_error *err) {
    return walk_check(walk_profile, p, err);
}

uint32_t machine_noisy_n(const machine_profile *p, uint32_t *rate_n) {
    noise n = {0};
    walk w = {.mode = WALK_CHECK, .cookie = &n};
    walk_profile(&w, (void *)(uintptr_t)p); /* checking changes nothing */
    *rate_n = n.rate_n;
    return n.noisy_n;
}

hotset_status machine_print(const machine_profile *p, hotset_text_fn *write, void *cookie,
                            hotset_error *err) {
    return walk_print(walk_profile, p, write, cookie, err);
}

hotset_status machine_write(const machine_profile *p, const char *path, hotset_error *err) {
    return walk_write(walk_profile, p, path, err);
}

hotset_status machine_parse(machine_profile **out, const char *text, size_t bytes, hotset_error *err) {
    machine_profile *p;
    *out = NULL;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a machine profile", err));
    hotset_status status = walk_read(walk_profile, p, text, bytes, MACHINE_FILE_BYTES_MAX, "machine profile",
                                     FORMAT, MACHINE_VERSION, err);
    if (status)
        machine_free(p);
    else
        *out = p;
    return status;
}

hotset_status machine_read(machine_profile **out, const char *path, hotset_error *err) {
    hotset_error failure = {0};
    file_map map;
    *out = NULL;
    HOTSET_TRY(file_map_open(&map, path, err));
    hotset_status status = machine_parse(out, (const char *)map.data, map.bytes, &failure);
    file_map_close(&map);
    if (status == HOTSET_OK) return HOTSET_OK;
    return hotset_fail_at(err, status, failure.offset_bytes, "%s: %s", path, failure.message);
}
