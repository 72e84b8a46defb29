/* cost.c - the time of each kind of work on each device. The formulas stand in cost.h. */
#include "planner/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/footprint.h"

/* Operations of a list beside one per matrix. */
enum {
    MIXER_OPERATIONS = 6, /* norm, two rotations, store, attention, sum */
    FFN_OPERATIONS = 3,   /* norm, activation, sum */
    CHOICE_OPERATIONS = 1 /* the list of active neurons */
};
static const double BALANCED_TOKENS_PER_ROW = 0.25; /* PROBLEM_BALANCED: tokens decoded per row of a prompt */
static const double USE_MAX = 1 - 1e-9;             /* keeps ln(1 - p) finite */

/* ---- Rates of one device ---- */

typedef struct device_rates {
    const cost_model *c;
    const machine_device *m;
    double factor, weight_factor; /* of products; of what streams weights */
    double weight_rate_max;       /* bytes/s */
    bool by_row;                  /* weights stand as the file has them, not as the device copies them */
} device_rates;

static device_rates rates_of(const cost_model *c, uint32_t d) {
    device_rates r = {c, &c->p->machine->device[c->p->device[d].machine_i], 1, 1, INFINITY, false};
    if (d == 0) {
        r.factor = c->cpu_factor;
        r.weight_factor = c->host_factor;
        r.by_row = c->p->host_mapped;
        if (c->p->host_rate_max > 0) r.weight_rate_max = c->p->host_rate_max;
    }
    return r;
}

static double weight_rate(device_rates r, const problem_matrix *w, machine_access access, double share) {
    double rate = machine_weight_rate(r.m, w->type, access, w->row_bytes, share);
    if (r.by_row && access == MACHINE_DENSE) {
        double listed = machine_weight_rate(r.m, w->type, MACHINE_LISTED, w->row_bytes, 1);
        if (listed > 0) rate = fmin(rate, listed);
    }
    return fmin(r.weight_factor * rate, r.weight_rate_max);
}

static double stream_s(device_rates r, const problem_matrix *w, double bytes) {
    return machine_time_s(bytes, weight_rate(r, w, MACHINE_DENSE, 1));
}

static double products_s(device_rates r, const problem_matrix *w, double row_n, double used_rows) {
    double compute =
        machine_time_s(2 * used_rows * w->weight_n, r.factor * machine_product_rate(r.m, w->type, row_n));
    return fmax(compute, (double)w->bytes / r.weight_rate_max);
}

static double vector_s(device_rates r, double items) {
    return machine_time_s(items, r.m->vector_items_per_s.median);
}

/* A dense matrix, all of it. */
static cost_s matrix_s(device_rates r, const problem_matrix *w) {
    if (!w->bytes) return (cost_s){0, 0};
    double rows = r.c->p->row_n, operation = r.m->operation_s.median;
    return (cost_s){stream_s(r, w, (double)w->bytes) + operation, products_s(r, w, rows, rows) + operation};
}

static void add(cost_s *to, cost_s s) {
    to->row += s.row;
    to->chunk += s.chunk;
}

static void access_rates(device_rates r, const problem_matrix *w, machine_access access, double *rate) {
    for (uint32_t i = 0; i < MACHINE_SHARE_N; i++)
        rate[i] = weight_rate(r, w, access, machine_share_percent[i] / 100.0);
}

/* The rate at a share: straight lines between the known ones, level beyond them. */
static double rate_at(const double *rate, double share) {
    static const double known[MACHINE_SHARE_N] = {0.1, 0.3, 1};
    if (share <= known[0]) return rate[0];
    uint32_t i = share <= known[1] ? 1 : 2;
    double part = fmin((share - known[i - 1]) / (known[i] - known[i - 1]), 1);
    return rate[i - 1] + part * (rate[i] - rate[i - 1]);
}

/* ---- Tables ---- */

/* Attention of one row, and of a chunk that ends where decoding begins: its rows see (row_n + 1) / 2 of
 * themselves on average, at most what there is. */
static cost_s attend_s(device_rates r, const problem_layer *l) {
    const problem *p = r.c->p;
    if (l->state_row_bytes == 0) return (cost_s){0, 0};
    double seen = p->seen_n, rows = p->row_n, chunk_seen = (rows + 1) / 2;
    double row = machine_attend_s(r.m, p->state_type, seen * l->state_row_bytes, seen * l->attend_op_n);
    double chunk = machine_attend_s(r.m, p->state_type, chunk_seen * l->state_row_bytes,
                                    rows * chunk_seen * l->attend_op_n);
    return (cost_s){row, chunk};
}

static cost_s mixer_s(device_rates r, const problem_layer *l) {
    cost_s s = attend_s(r, l);
    for (uint32_t i = 0; i < l->mixer_n; i++) add(&s, matrix_s(r, &l->mixer[i]));
    double floats = 4.0 * r.c->p->embd_n, operations = MIXER_OPERATIONS * r.m->operation_s.median;
    add(&s, (cost_s){vector_s(r, floats) + operations, vector_s(r, floats * r.c->p->row_n) + operations});
    return s;
}

/* Rows that meet an expert which is used at all: products of a chunk run at the rate of so many. */
static double rows_per_expert(const cost_layer *t, const problem_ffn *f, double rows) {
    double touched = 0;
    for (uint32_t i = 0; i < f->unit_n; i++) touched += 1 - pow(1 - (double)f->use[i], rows);
    return touched > 0 ? fmax(rows * t->use[f->unit_n] / touched, 1) : 1;
}

/* Seconds of a chunk of `rows` per unit, and per unit of use. */
static void chunk_rates(device_rates r, const cost_layer *t, const problem_ffn *f, double rows,
                        double *always, double *active) {
    const problem_matrix *matrices[] = {&f->gate, &f->up, &f->down};
    bool experts = f->kind == PROBLEM_EXPERTS;
    double met = experts ? rows_per_expert(t, f, rows) : rows, s = 0;
    for (size_t i = 0; i < COUNT_OF(matrices); i++)
        if (matrices[i]->bytes) s += products_s(r, matrices[i], met, rows);
    s += vector_s(r, rows * f->neuron_n);
    *always = experts ? 0 : s;
    *active = experts ? s : 0;
}

static void make_units(device_rates r, const cost_layer *t, const problem_ffn *f, cost_units *u) {
    const problem_matrix *gate = &f->gate, *up = &f->up, *down = &f->down;
    double operation = r.m->operation_s.median,
           look = machine_time_s(f->neuron_n, r.m->select_items_per_s.median);
    uint32_t matrix_n = (gate->bytes > 0) + 2;
    u->fixed = (cost_s){(FFN_OPERATIONS + matrix_n) * operation, (FFN_OPERATIONS + matrix_n) * operation};
    u->fixed.row += vector_s(r, r.c->p->embd_n);
    u->fixed.chunk += vector_s(r, (double)r.c->p->embd_n * r.c->p->row_n);
    u->always.row = u->active.row = 0;
    chunk_rates(r, t, f, r.c->p->row_n, &u->always.chunk, &u->active.chunk);
    double whole = stream_s(r, gate, (double)gate->bytes) + stream_s(r, up, (double)up->bytes);
    double all_down = machine_time_s((double)down->bytes, weight_rate(r, down, f->down_access, 1));
    switch (f->kind) {
    case PROBLEM_NONE: return;
    case PROBLEM_DENSE: u->always.row = whole + all_down + vector_s(r, f->neuron_n); return;
    case PROBLEM_EXPERTS: u->active.row = whole + all_down + vector_s(r, f->neuron_n); return;
    case PROBLEM_EXACT:
        u->fixed.row += CHOICE_OPERATIONS * operation;
        u->always.row = look;
        u->always.row += gate->bytes ? stream_s(r, gate, (double)gate->bytes) : whole;
        if (gate->bytes) u->listed_bytes = (double)up->bytes;
        break;
    case PROBLEM_PREDICTED:
        u->fixed.row += (CHOICE_OPERATIONS + 2) * operation + stream_s(r, &f->fc1, (double)f->fc1.bytes);
        u->always.row = look + stream_s(r, &f->fc2, (double)f->fc2.bytes);
        u->listed_bytes = (double)(gate->bytes + up->bytes);
    }
    u->active.row = vector_s(r, f->neuron_n);
    u->sums_bytes = (double)down->bytes;
    access_rates(r, up, MACHINE_LISTED, u->listed_rate);
    access_rates(r, down, f->down_access, u->sums_rate);
}

/* Units in falling order of use, equal ones by number: three stable passes over the bits of the floats, which
 * for numbers >= 0 rise with them. */
static void sort_by_use(uint32_t *order, uint32_t *other, const float *use, uint32_t n) {
    enum { BITS = 11, BUCKETS = 1 << BITS };
    for (uint32_t i = 0; i < n; i++) order[i] = i;
    for (uint32_t shift = 0; shift < 32; shift += BITS) {
        uint32_t start[BUCKETS] = {0}, at = 0;
        for (uint32_t pass = 0; pass < 2; pass++) {
            for (uint32_t i = 0; i < n; i++) {
                float value = use[order[i]] + 0.0f; /* -0 becomes 0 */
                uint32_t bits;
                memcpy(&bits, &value, sizeof bits);
                uint32_t bucket = ~bits >> shift & (BUCKETS - 1);
                if (pass == 0)
                    start[bucket]++;
                else
                    other[start[bucket]++] = order[i];
            }
            if (pass) break;
            for (uint32_t b = 0; b < BUCKETS; b++) {
                uint32_t count = start[b];
                start[b] = at;
                at += count;
            }
        }
        memcpy(order, other, n * sizeof *order);
    }
}

static cost_touch touch_form(const problem_ffn *f) {
    if (!f->group_n || !f->scale_bytes) return COST_TOUCH_NONE;
    return f->hot_first || f->neuron_n % f->group_n == 0 ? COST_TOUCH_TOGETHER : COST_TOUCH_SCATTERED;
}

static void fill_touch(cost_layer *t, const problem_ffn *f) {
    double per_unit = (double)f->neuron_n / f->group_n;
    t->group_n = ceil(per_unit * f->unit_n);
    for (uint32_t i = 0; i < f->unit_n; i++) {
        double x = -log1p(-fmin(f->use[t->order[i]], USE_MAX));
        if (t->touch_form == COST_TOUCH_TOGETHER)
            x = per_unit * -expm1(-x * f->group_n);
        else
            x *= f->neuron_n;
        t->touch[i + 1] = t->touch[i] + x;
    }
}

static double *sums(cost_model *c, uint32_t unit_n) {
    return arena_alloc(&c->arena, unit_n + 1ull, sizeof(double));
}

static hotset_status make_order(cost_model *c, cost_layer *t, const problem_ffn *f, hotset_error *err) {
    uint32_t *other = malloc(f->unit_n * sizeof *other);
    t->order = arena_alloc(&c->arena, f->unit_n, sizeof *t->order);
    t->use = sums(c, f->unit_n);
    t->touch_form = touch_form(f);
    if (t->touch_form != COST_TOUCH_NONE) t->touch = sums(c, f->unit_n);
    if (f->kind == PROBLEM_EXPERTS) t->chunk_touch = sums(c, f->unit_n);
    bool failed = !other || !t->order || !t->use || (t->touch_form != COST_TOUCH_NONE && !t->touch) ||
                  (f->kind == PROBLEM_EXPERTS && !t->chunk_touch);
    if (!failed) {
        sort_by_use(t->order, other, f->use, f->unit_n);
        for (uint32_t i = 0; i < f->unit_n; i++) t->use[i + 1] = t->use[i] + (double)f->use[t->order[i]];
        if (t->touch) fill_touch(t, f);
        for (uint32_t i = 0; t->chunk_touch && i < f->unit_n; i++)
            t->chunk_touch[i + 1] = t->chunk_touch[i] + 1 - pow(1 - (double)f->use[t->order[i]], c->p->row_n);
    }
    free(other);
    return failed ? hotset_fail(err, HOTSET_E_MEMORY, "out of memory for the order of units") : HOTSET_OK;
}

static void file_bytes(cost_layer *t, const problem_ffn *f) {
    double all = (double)t->unit_bytes;
    t->file_always_bytes = f->kind == PROBLEM_DENSE ? all : 0;
    if (f->kind == PROBLEM_EXACT)
        t->file_always_bytes = (double)(f->gate.bytes ? f->gate.bytes : f->up.bytes);
    if (f->kind == PROBLEM_PREDICTED) t->file_always_bytes = (double)f->fc2.bytes;
    t->file_active_bytes = all - t->file_always_bytes;
}

static uint64_t aligned(const cost_model *c, uint32_t d, uint64_t bytes) {
    return footprint_parts_bytes(1, bytes, c->p->machine->device[c->p->device[d].machine_i].alignment_bytes);
}

/* Of a matrix: mapped ones take nothing. */
static uint64_t weight_bytes(const cost_model *c, uint32_t d, uint64_t bytes) {
    return d == 0 && c->p->host_mapped ? 0 : aligned(c, d, bytes);
}

static hotset_status make_layer(cost_model *c, uint32_t layer_i, hotset_error *err) {
    const problem_layer *l = &c->p->layer[layer_i];
    cost_layer *t = &c->layer[layer_i];
    if (l->ffn.kind != PROBLEM_NONE) HOTSET_TRY(make_order(c, t, &l->ffn, err));
    t->unit_bytes = l->ffn.gate.bytes + l->ffn.up.bytes + l->ffn.down.bytes + l->ffn.fc2.bytes;
    file_bytes(t, &l->ffn);
    for (uint32_t d = 0; d < c->device_n; d++) {
        device_rates r = rates_of(c, d);
        t->mixer[d] = l->host_only && d ? (cost_s){INFINITY, INFINITY} : mixer_s(r, l);
        t->shared[d] = matrix_s(r, &l->shared);
        if (l->ffn.kind != PROBLEM_NONE) make_units(r, t, &l->ffn, &t->units[d]);
        t->home_bytes[d] = aligned(c, d, l->state_bytes) + aligned(c, d, l->mixer_vector_bytes) +
                           aligned(c, d, l->ffn_vector_bytes) + weight_bytes(c, d, l->shared.bytes);
        for (uint32_t i = 0; i < l->mixer_n; i++) t->home_bytes[d] += weight_bytes(c, d, l->mixer[i].bytes);
    }
    return HOTSET_OK;
}

/* One direct copy with its exchange of counters. */
static double hop_s(const cost_model *c, uint32_t from, uint32_t to, double bytes) {
    const machine_link *link =
        machine_find_link(c->p->machine, c->p->device[from].machine_i, c->p->device[to].machine_i);
    if (!link) return INFINITY;
    return bytes / link->pinned_bytes_per_s.median + link->latency_s.median + link->handover_s.median;
}

/* Directly, or through the host's memory. */
static double way_s(const cost_model *c, uint32_t from, uint32_t to, double bytes) {
    if (from == to) return 0;
    double direct = hop_s(c, from, to, bytes);
    return from && to ? fmin(direct, hop_s(c, from, 0, bytes) + hop_s(c, 0, to, bytes)) : direct;
}

static void make_devices(cost_model *c) {
    const problem *p = c->p;
    double row_bytes = p->embd_n * 4.0 + p->expert_used_n * 8.0; /* an expert's number and weight */
    c->embedding_bytes = weight_bytes(c, 0, p->embedding_bytes);
    for (uint32_t d = 0; d < c->device_n; d++) {
        uint32_t machine_i = p->device[d].machine_i;
        device_rates r = rates_of(c, d);
        for (uint32_t to = 0; to < c->device_n; to++)
            c->send[d][to] = (cost_s){way_s(c, d, to, row_bytes), way_s(c, d, to, row_bytes * p->row_n)};
        c->merge[d] = (cost_s){vector_s(r, p->embd_n) + r.m->operation_s.median,
                               vector_s(r, (double)p->embd_n * p->row_n) + r.m->operation_s.median};
        c->submit[d] = r.m->submit_s.median;
        c->head[d] = stream_s(r, &p->head, (double)p->head.bytes) + r.m->operation_s.median +
                     way_s(c, d, 0, p->vocab_n * 4.0);
        c->head_bytes[d] = d == 0 && p->tied ? 0 : weight_bytes(c, d, p->head.bytes);
        const machine_link *link = d ? machine_find_link(p->machine, 0, machine_i) : NULL;
        if (link) {
            c->stream_bytes_per_s[d] = link->pinned_bytes_per_s.median * link->copy_factor.median;
            c->stream_latency_s[d] = link->latency_s.median;
        }
    }
}

/* What the CPU's rates come to with another number of threads than they were measured with. */
static double thread_factor(const problem *p) {
    const machine_processor *cpu = &p->machine->device[0].processor;
    const machine_curve *curve = &cpu->scaling;
    if (!p->thread_n || p->thread_n == cpu->thread_n || !curve->n) return 1;
    double rate[2], wanted[2] = {p->thread_n, cpu->thread_n};
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t i = 0;
        while (i < curve->n && curve->at[i] < wanted[k]) i++;
        uint32_t above = i < curve->n ? i : curve->n - 1, below = i > 0 && i < curve->n ? i - 1 : above;
        double part = above == below ? 0
                                     : log(wanted[k] / curve->at[below]) /
                                           log((double)curve->at[above] / curve->at[below]);
        rate[k] = curve->rate[below].median + part * (curve->rate[above].median - curve->rate[below].median);
    }
    return rate[1] > 0 ? rate[0] / rate[1] : 1;
}

hotset_status cost_make(cost_model **out, const problem *p, hotset_error *err) {
    *out = NULL;
    cost_model *c;
    HOTSET_TRY(base_calloc(&c, 1, sizeof *c, "a cost model", err));
    c->p = p;
    c->device_n = p->device_n;
    double mapped = p->host_mapped ? p->machine->device[0].mapped_factor.median : 0;
    c->cpu_factor = thread_factor(p);
    c->host_factor = c->cpu_factor * (mapped > 0 ? fmin(mapped, 1) : 1);
    c->row_weight =
        p->goal == PROBLEM_BALANCED ? BALANCED_TOKENS_PER_ROW * p->row_n : p->goal == PROBLEM_DECODE;
    c->chunk_weight = p->goal != PROBLEM_DECODE;
    make_devices(c);
    hotset_status status = HOTSET_OK;
    c->layer = arena_alloc(&c->arena, p->layer_n, sizeof *c->layer);
    if (!c->layer) status = hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a cost model");
    for (uint32_t i = 0; !status && i < p->layer_n; i++) status = make_layer(c, i, err);
    if (status)
        cost_free(c);
    else
        *out = c;
    return status;
}

void cost_free(cost_model *c) {
    if (!c) return;
    arena_free(&c->arena);
    free(c);
}

/* ---- Questions ---- */

static double touched_groups(const cost_layer *t, uint32_t from, uint32_t to) {
    if (t->touch_form == COST_TOUCH_NONE) return 0;
    double sum = t->touch[to] - t->touch[from];
    if (t->touch_form == COST_TOUCH_TOGETHER) return sum;
    return t->group_n * -expm1(-sum / t->group_n);
}

/* Nothing takes no time, also where there is no rate. */
static double times(double n, double s) { return n > 0 ? n * s : 0; }

cost_s cost_units_s(const cost_model *c, uint32_t layer_i, uint32_t d, uint32_t from, uint32_t to) {
    if (from >= to) return (cost_s){0, 0};
    const cost_layer *t = &c->layer[layer_i];
    const cost_units *u = &t->units[d];
    double n = to - from, use = t->use[to] - t->use[from], share = use / n;
    cost_s s = {u->fixed.row + n * u->always.row + times(use, u->active.row),
                u->fixed.chunk + n * u->always.chunk + times(use, u->active.chunk)};
    if (u->listed_bytes > 0) s.row += machine_time_s(use * u->listed_bytes, rate_at(u->listed_rate, share));
    if (u->sums_bytes > 0) {
        double scales = touched_groups(t, from, to) * (double)c->p->layer[layer_i].ffn.scale_bytes;
        s.row += machine_time_s(use * u->sums_bytes + scales, rate_at(u->sums_rate, share));
    }
    return s;
}

cost_s cost_file_s(const cost_model *c, uint32_t layer_i, uint32_t from, uint32_t to) {
    if (from >= to) return (cost_s){0, 0};
    const cost_layer *t = &c->layer[layer_i];
    double rate = c->p->machine->file_read_bytes_per_s.median, n = to - from;
    double row = n * t->file_always_bytes + (t->use[to] - t->use[from]) * t->file_active_bytes;
    double chunk = (t->chunk_touch ? t->chunk_touch[to] - t->chunk_touch[from] : n) * (double)t->unit_bytes;
    return (cost_s){machine_time_s(row, rate), machine_time_s(chunk, rate)};
}

/* Bytes that a chunk needs of units [from, to). */
static double chunk_bytes(const cost_layer *t, uint32_t from, uint32_t to) {
    double n = t->chunk_touch ? t->chunk_touch[to] - t->chunk_touch[from] : to - from;
    return n * (double)t->unit_bytes;
}

static double copy_s(const cost_model *c, uint32_t layer_i, uint32_t home, uint32_t from, uint32_t to) {
    return c->stream_latency_s[home] +
           machine_time_s(chunk_bytes(&c->layer[layer_i], from, to), c->stream_bytes_per_s[home]);
}

static cost_s exchange_s(const cost_model *c, uint32_t home, uint32_t d) {
    return (cost_s){c->send[home][d].row + c->send[d][home].row,
                    c->send[home][d].chunk + c->send[d][home].chunk};
}

/* busy(d) with a chunk's units computed where they are. */
static cost_s computed_s(const cost_model *c, uint32_t layer_i, uint32_t home, uint32_t d, uint32_t from,
                         uint32_t to) {
    cost_s s = cost_units_s(c, layer_i, d, from, to);
    if (d == home)
        add(&s, c->layer[layer_i].shared[d]);
    else if (from < to)
        add(&s, exchange_s(c, home, d));
    return s;
}

cost_s cost_busy_s(const cost_model *c, uint32_t layer_i, uint32_t home, uint32_t d, uint32_t from,
                   uint32_t to) {
    cost_s s = computed_s(c, layer_i, home, d, from, to);
    if (d == 0 && home != 0 && from < to) s.chunk = fmin(s.chunk, copy_s(c, layer_i, home, from, to));
    return s;
}

static double max_but(const double *busy, uint32_t n, uint32_t but) {
    double most = 0;
    for (uint32_t d = 0; d < n; d++)
        if (d != but) most = fmax(most, busy[d]);
    return most;
}

/* A chunk with the host's units copied to the home while that computes what it has: `busy` holds the chunk's
 * seconds of every device. */
static double streamed_s(const cost_model *c, uint32_t layer_i, const cost_split *s, const uint32_t *from,
                         double *busy) {
    const cost_layer *t = &c->layer[layer_i];
    uint32_t h = s->home, end = from[0] + s->n[0];
    cost_s guests = cost_units_s(c, layer_i, h, from[0], end);
    double fixed = s->n[h] ? t->units[h].fixed.chunk : 0; /* one step for both */
    busy[0] = cost_file_s(c, layer_i, end - s->file_n, end).chunk;
    return fmax(fmax(copy_s(c, layer_i, h, from[0], end), busy[h] + guests.chunk - fixed),
                max_but(busy, c->device_n, h));
}

cost_parts cost_layer_parts(const cost_model *c, uint32_t layer_i, const cost_split *s) {
    cost_parts p = {.mixer = c->layer[layer_i].mixer[s->home].row};
    uint32_t from[PROBLEM_DEVICE_MAX];
    if (c->p->layer[layer_i].ffn.kind == PROBLEM_NONE) return p;
    cost_intervals(c, s, from);
    for (uint32_t d = 0; d < c->device_n; d++) {
        uint32_t end = from[d] + s->n[d];
        p.busy[d] = computed_s(c, layer_i, s->home, d, from[d], end).row;
        if (d == 0) p.busy[d] += cost_file_s(c, layer_i, end - s->file_n, end).row;
        if (d != s->home && s->n[d]) p.merge += c->merge[s->home].row;
    }
    return p;
}

cost_s cost_layer_s(const cost_model *c, uint32_t layer_i, const cost_split *s, bool *streamed) {
    cost_s all = c->layer[layer_i].mixer[s->home], ffn = {0, 0}, merge = {0, 0};
    double chunk[PROBLEM_DEVICE_MAX];
    uint32_t from[PROBLEM_DEVICE_MAX], guest_n = 0;
    if (streamed) *streamed = false;
    if (c->p->layer[layer_i].ffn.kind == PROBLEM_NONE) return all;
    cost_intervals(c, s, from);
    for (uint32_t d = 0; d < c->device_n; d++) {
        cost_s busy = computed_s(c, layer_i, s->home, d, from[d], from[d] + s->n[d]);
        if (d == 0) add(&busy, cost_file_s(c, layer_i, from[0] + s->n[0] - s->file_n, from[0] + s->n[0]));
        ffn.row = fmax(ffn.row, busy.row);
        ffn.chunk = fmax(ffn.chunk, chunk[d] = busy.chunk);
        if (d != s->home && s->n[d]) {
            guest_n++;
            add(&merge, c->merge[s->home]);
        }
    }
    ffn.chunk += merge.chunk;
    if (s->home != 0 && s->n[0] && c->stream_bytes_per_s[s->home] > 0) {
        double other = streamed_s(c, layer_i, s, from, chunk) + (guest_n - 1) * c->merge[s->home].chunk;
        if (other < ffn.chunk && streamed) *streamed = true;
        ffn.chunk = fmin(ffn.chunk, other);
    }
    all.row += ffn.row + merge.row;
    all.chunk += ffn.chunk;
    return all;
}

bool cost_streams(const cost_model *c, uint32_t layer_i, const cost_split *s, uint32_t rows) {
    const problem_ffn *f = &c->p->layer[layer_i].ffn;
    const cost_layer *t = &c->layer[layer_i];
    uint32_t h = s->home, from[PROBLEM_DEVICE_MAX];
    if (f->kind == PROBLEM_NONE || h == 0 || !s->n[0] || !(c->stream_bytes_per_s[h] > 0)) return false;
    cost_intervals(c, s, from);
    double always[2], active[2], used[2], n[2] = {s->n[0], s->n[h]}, bytes = 0;
    uint32_t device[2] = {0, h};
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t d = device[k], start = from[d];
        device_rates r = rates_of(c, d);
        chunk_rates(r, t, f, rows, &always[k], &active[k]);
        used[k] = t->use[start + s->n[d]] - t->use[start];
    }
    for (uint32_t i = from[0]; i < from[0] + s->n[0]; i++)
        bytes += f->kind == PROBLEM_EXPERTS ? 1 - pow(1 - (double)f->use[t->order[i]], rows) : 1;
    double copy = c->stream_latency_s[h] + bytes * (double)t->unit_bytes / c->stream_bytes_per_s[h];
    double there = (n[0] + n[1]) * always[1] + (used[0] + used[1]) * active[1];
    double apart = fmax(n[0] * always[0] + used[0] * active[0] + exchange_s(c, h, 0).row,
                        n[1] * always[1] + used[1] * active[1]);
    return fmax(copy, there) < apart;
}

/* ---- Bytes ---- */

/* Groups whose scales a device must hold for n units: of single neurons that are scattered one each, as far
 * as there are so many. */
static uint64_t held_groups(const problem_ffn *f, uint32_t n) {
    uint64_t neurons = (uint64_t)n * f->neuron_n, all = (uint64_t)f->unit_n * f->neuron_n;
    uint64_t filled = (neurons + f->group_n - 1) / f->group_n, there = (all + f->group_n - 1) / f->group_n;
    if (f->neuron_n % f->group_n == 0) return filled;
    /* an interval of the order may begin and end within a group */
    return min_u64(f->hot_first ? filled + 1 : neurons, there);
}

uint64_t cost_units_bytes(const cost_model *c, uint32_t layer_i, uint32_t d, uint32_t n) {
    const problem_ffn *f = &c->p->layer[layer_i].ffn;
    if (!n || (d == 0 && c->p->host_mapped)) return 0;
    uint64_t alignment = c->p->machine->device[c->p->device[d].machine_i].alignment_bytes, bytes = 0;
    const problem_matrix *matrices[] = {&f->gate, &f->up, &f->fc2};
    for (size_t i = 0; i < COUNT_OF(matrices); i++)
        bytes += footprint_parts_bytes(n, matrices[i]->bytes, alignment);
    uint64_t scales =
        f->group_n ? held_groups(f, n) * f->scale_bytes : 0; /* beside the quants of their neurons */
    bytes += footprint_parts_bytes(1, n * f->down.bytes + scales, alignment);
    return bytes + footprint_parts_bytes(1, f->fc1.bytes, alignment);
}

uint64_t cost_layer_bytes(const cost_model *c, uint32_t layer_i, uint32_t d, const cost_split *s) {
    uint64_t bytes = cost_units_bytes(c, layer_i, d, s->n[d] - (d == 0 ? s->file_n : 0));
    if (d == s->home) return bytes + c->layer[layer_i].home_bytes[d];
    return bytes + (s->n[d] ? aligned(c, d, c->p->layer[layer_i].ffn_vector_bytes) : 0);
}
