/* place.c - from a problem to a placement. */
#include "planner/place.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "planner/footprint.h"
#include "planner/search.h"

static const double MIB = 1 << 20;

/* ---- The order in which GPUs are searched ---- */

/* What tells devices apart, whatever their numbers. */
enum { TRAIT_N = 12 };
typedef struct traits {
    double value[TRAIT_N];
    uint32_t device;
} traits;

static int by_traits(const void *a, const void *b) {
    const traits *x = a, *y = b;
    for (uint32_t i = 0; i < TRAIT_N; i++)
        if (x->value[i] != y->value[i]) return x->value[i] > y->value[i] ? -1 : 1;
    return x->device < y->device ? -1 : x->device > y->device;
}

static traits traits_of(const cost_model *c, uint32_t d) {
    traits t = {.device = d};
    double *v = t.value, worst = 0, best = INFINITY;
    v[0] = (double)c->p->device[d].limit_bytes;
    v[1] = -(double)(c->p->device[d].scratch_bytes + c->p->device[d].table_bytes);
    for (uint32_t l = 0; l < c->p->layer_n; l++) {
        const problem_ffn *f = &c->p->layer[l].ffn;
        cost_s all = f->kind == PROBLEM_NONE ? (cost_s){0, 0} : cost_units_s(c, l, d, 0, f->unit_n);
        v[2] -= c->layer[l].mixer[d].row;
        v[3] -= c->layer[l].mixer[d].chunk;
        v[4] -= all.row;
        v[5] -= all.chunk;
    }
    v[6] = -c->head[d];
    v[7] = -c->send[0][d].row;
    v[8] = -c->send[d][0].row;
    v[9] = c->stream_bytes_per_s[d];
    for (uint32_t k = 1; k < c->device_n; k++) {
        if (k == d) continue;
        worst = fmax(worst, c->send[d][k].row + c->send[k][d].row);
        best = fmin(best, c->send[d][k].row + c->send[k][d].row);
    }
    v[10] = -worst;
    v[11] = -best;
    for (uint32_t i = 0; i < TRAIT_N; i++)
        if (isnan(v[i])) v[i] = -INFINITY;
    return t;
}

/* to[i]: the device of the problem that is searched as number i. */
static void canonical_order(const cost_model *c, uint32_t *to) {
    traits gpu[PROBLEM_DEVICE_MAX];
    for (uint32_t d = 1; d < c->device_n; d++) gpu[d - 1] = traits_of(c, d);
    qsort(gpu, c->device_n - 1, sizeof *gpu, by_traits);
    to[0] = 0;
    for (uint32_t d = 1; d < c->device_n; d++) to[d] = gpu[d - 1].device;
}

/* A cost model of the problem with its devices in that order. `own` is the reordered problem, on the caller's
 * stack. */
static hotset_status make_canonical(cost_model **out, problem *own, const problem *p, uint32_t *to,
                                    hotset_error *err) {
    cost_model *first;
    HOTSET_TRY(cost_make(&first, p, err));
    canonical_order(first, to);
    *own = *p;
    bool same = true;
    for (uint32_t d = 0; d < p->device_n; d++) {
        own->device[d] = p->device[to[d]];
        same &= to[d] == d;
    }
    if (same) {
        first->p = own;
        *out = first;
        return HOTSET_OK;
    }
    cost_free(first);
    return cost_make(out, own, err);
}

/* ---- From a draft to a placement ---- */

static void fill_units(placement_layer *to, const cost_model *c, uint32_t layer_i, const uint32_t *device) {
    const cost_split *split = &to->split;
    const uint32_t *order = c->layer[layer_i].order;
    uint32_t at = 0;
    for (uint32_t i = 0; i < c->device_n; i++) {
        uint32_t d = split->order[i], end = at + split->n[d];
        uint32_t filed = d == 0 ? end - split->file_n : end;
        for (; at < end; at++) to->unit[order[at]] = (uint8_t)(at < filed ? device[d] : PLACEMENT_FILE);
    }
}

static void rename_devices(cost_split *split, const cost_split *from, uint32_t device_n,
                           const uint32_t *device) {
    *split = (cost_split){.home = (uint8_t)device[from->home], .file_n = from->file_n};
    for (uint32_t d = 0; d < device_n; d++) {
        split->n[device[d]] = from->n[d];
        split->order[d] = (uint8_t)device[from->order[d]];
    }
}

/* Adds a layer to the ledgers; d is the device as the search numbers it. */
static void enter_layer(placement_ledger *to, const cost_model *c, uint32_t l, uint32_t d,
                        const cost_split *split) {
    uint64_t all = cost_layer_bytes(c, l, d, split);
    uint64_t units = cost_units_bytes(c, l, d, split->n[d] - (d == 0 ? split->file_n : 0));
    uint64_t home = all - units, state = 0;
    if (d == split->home)
        state = footprint_parts_bytes(1, c->p->layer[l].state_bytes,
                                      c->p->machine->device[c->p->device[d].machine_i].alignment_bytes);
    to->units += units;
    to->state += state;
    to->dense += home - state;
}

static void settle_ledgers(placement *p, const search *s, const draft *d, const uint32_t *device) {
    const cost_model *c = s->c;
    for (uint32_t k = 0; k < s->device_n; k++) {
        placement_ledger *to = &p->ledger[device[k]];
        bool used = k == 0 || d->head == k;
        for (uint32_t l = 0; l < s->layer_n; l++) {
            used |= d->split[l].home == k || d->split[l].n[k] > 0;
            enter_layer(to, c, l, k, &d->split[l]);
        }
        p->used[device[k]] = used;
        if (!used) continue;
        to->embedding = k == 0 ? c->embedding_bytes : 0;
        to->scratch = c->p->device[k].scratch_bytes;
        to->tables = c->p->device[k].table_bytes + c->p->rotary_bytes;
        to->head = d->head == k ? c->head_bytes[k] : 0;
        to->total = to->scratch + to->tables + to->dense + to->state + to->units + to->head + to->embedding;
    }
}

enum { STREAM_ROWS_MIN = 4 /* fewer are decoding, where neurons are skipped */ };

/* The least power of two of rows at which copying pays for the time of most layers that have units on both.
 */
static uint32_t stream_rows(const cost_model *c, const draft *d) {
    for (uint32_t rows = STREAM_ROWS_MIN; rows <= c->p->row_n; rows *= 2) {
        uint32_t yes = 0, could = 0;
        for (uint32_t l = 0; l < c->p->layer_n; l++) {
            could += d->split[l].home != 0 && d->split[l].n[0] > 0;
            yes += cost_streams(c, l, &d->split[l], rows);
        }
        if (yes * 2 > could) return rows;
    }
    return 0;
}

static hotset_status publish(placement **out, const search *s, const draft *d, const uint32_t *device,
                             hotset_error *err) {
    const cost_model *c = s->c;
    placement *p;
    HOTSET_TRY(base_calloc(&p, 1, sizeof *p, "a placement", err));
    p->device_n = s->device_n;
    p->layer_n = s->layer_n;
    p->head_device = device[d->head];
    p->objective_s = d->objective;
    p->evaluation_n = s->evaluation_n;
    p->layer = arena_alloc(&p->arena, s->layer_n, sizeof *p->layer);
    bool failed = !p->layer;
    uint32_t at = 0;
    for (uint32_t l = 0; l < s->layer_n && !failed; l++) {
        placement_layer *to = &p->layer[l];
        const cost_split *from = &d->split[l];
        uint32_t unit_n = search_unit_n(s, l);
        to->s = cost_layer_s(c, l, from, &to->streamed);
        p->token_s += to->s.row + c->send[at][from->home].row;
        p->chunk_s += to->s.chunk + c->send[at][from->home].chunk;
        at = from->home;
        p->file_bytes += from->file_n * c->layer[l].unit_bytes;
        if (unit_n) failed |= !(to->unit = arena_alloc(&p->arena, unit_n, 1));
        if (failed) break;
        to->split = *from;
        fill_units(to, c, l, device);
        rename_devices(&to->split, from, s->device_n, device);
    }
    if (failed) {
        placement_free(p);
        return hotset_fail(err, HOTSET_E_MEMORY, "out of memory for a placement");
    }
    p->token_s += c->send[at][d->head].row + c->head[d->head];
    p->chunk_s += c->send[at][d->head].row + c->head[d->head]; /* of the last row only */
    settle_ledgers(p, s, d, device);
    for (uint32_t k = 0; k < s->device_n; k++) {
        if (!p->used[device[k]]) continue;
        p->token_s += c->submit[k];
        p->chunk_s += c->submit[k];
    }
    p->stream_row_n = stream_rows(c, d);
    *out = p;
    return HOTSET_OK;
}

void placement_free(placement *p) {
    if (!p) return;
    arena_free(&p->arena);
    free(p);
}

/* ---- Planning ---- */

/* No draft: for want of memory, or of rates. */
static hotset_status refuse(const search *s, uint64_t least_host, hotset_error *err) {
    uint64_t limit = s->c->p->device[0].limit_bytes;
    if (limit < least_host)
        return hotset_fail(
            err, HOTSET_E_NOFIT,
            "plan: host memory: the limit is %llu bytes (%.1f MiB), %llu bytes (%.1f MiB) would do",
            (unsigned long long)limit, (double)limit / MIB, (unsigned long long)least_host,
            (double)least_host / MIB);
    return hotset_fail(err, HOTSET_E_UNSUPPORTED,
                       "plan: the machine profile has no rates for some work of this model on any device");
}

/* Polishes a draft and keeps it where it is better. */
static hotset_status polish_and_keep(draft *best, draft *other, search *s, hotset_error *err) {
    HOTSET_TRY(search_polish(other, s, err));
    if (other->objective < best->objective) draft_copy(best, other, s->layer_n);
    return HOTSET_OK;
}

static hotset_status exchange_and_keep(draft *best, draft *other, search *s, const columns *c,
                                       const double *price, hotset_error *err) {
    HOTSET_TRY(search_exchange(other, s, c, price, err));
    return polish_and_keep(best, other, s, err);
}

/* From columns by prices: rounded, then combined twice, for from a better start more is left out early and so
 * there is room to look further. */
static hotset_status plan_by_prices(draft *best, draft *other, search *s, hotset_error *err) {
    enum { COMBINE_N = 2 };
    columns c;
    double price[PROBLEM_DEVICE_MAX];
    HOTSET_TRY(columns_make(&c, s, err));
    hotset_status status = search_prices(price, s, &c, best->objective, err);
    if (!status) status = search_round(other, s, &c, price, err);
    if (!status) status = exchange_and_keep(best, other, s, &c, price, err);
    if (!status) draft_copy(other, best, s->layer_n);
    if (!status) status = exchange_and_keep(best, other, s, &c, price, err);
    for (uint32_t i = 0; !status && i < COMBINE_N; i++) {
        draft_copy(other, best, s->layer_n);
        status = search_combine(other, s, &c, price, err);
        if (!status) status = exchange_and_keep(best, other, s, &c, price, err);
    }
    columns_free(&c);
    return status;
}

/* Using a device at all costs its submission, which no single move saves. Where that matters, as it does for
 * small models, the search is repeated without each GPU in turn; what is better without it stays without. */
static hotset_status plan_without(draft *best, draft *other, search *s, hotset_error *err) {
    static const double MATTERS = 5e-4; /* of the objective */
    for (uint32_t d = 1; d < s->device_n; d++) {
        double before = best->objective;
        if (!s->usable[d] || search_submit(s, d) < MATTERS * before) continue;
        s->usable[d] = false;
        HOTSET_TRY(plan_by_prices(best, other, s, err));
        s->usable[d] = best->objective == before;
    }
    return HOTSET_OK;
}

static hotset_status plan(draft *best, draft *other, search *s, hotset_error *err) {
    uint64_t least_host = baseline_least_host(best, s);
    if (s->c->p->device[0].limit_bytes < least_host) return refuse(s, least_host, err);
    draft_settle(best, s);
    for (place_baseline b = 0; b < PLACE_BASELINE_COUNT; b++)
        if (baseline_draft(other, s, b)) HOTSET_TRY(polish_and_keep(best, other, s, err));
    if (!isfinite(best->objective)) return refuse(s, least_host, err);
    HOTSET_TRY(plan_by_prices(best, other, s, err));
    return plan_without(best, other, s, err);
}

static hotset_status baseline(draft *best, search *s, place_baseline b, hotset_error *err) {
    uint64_t least_host = baseline_least_host(best, s);
    if (baseline_draft(best, s, b)) return HOTSET_OK;
    if (s->c->p->device[0].limit_bytes < least_host) return refuse(s, least_host, err);
    return hotset_fail(err, HOTSET_E_NOFIT, "plan: '%s' finds nothing that fits", place_baseline_name(b));
}

/* What place_make and the baselines share; b = PLACE_BASELINE_COUNT: the search. */
static hotset_status make(placement **out, const problem *p, place_baseline b, hotset_error *err) {
    *out = NULL;
    problem own;
    cost_model *c;
    uint32_t device[PROBLEM_DEVICE_MAX];
    HOTSET_TRY(problem_check(p, err));
    HOTSET_TRY(make_canonical(&c, &own, p, device, err));
    search s = search_of(c);
    draft best = {0}, other = {0};
    hotset_status status = draft_make(&best, &s, err);
    if (!status) status = draft_make(&other, &s, err);
    if (!status && !s.usable[0]) status = refuse(&s, baseline_least_host(&best, &s), err);
    if (!status)
        status = b == PLACE_BASELINE_COUNT ? plan(&best, &other, &s, err) : baseline(&best, &s, b, err);
    if (!status) status = publish(out, &s, &best, device, err);
    free(best.split);
    free(other.split);
    cost_free(c);
    return status;
}

hotset_status place_make(placement **out, const problem *p, hotset_error *err) {
    return make(out, p, PLACE_BASELINE_COUNT, err);
}

hotset_status place_baseline_make(placement **out, const problem *p, place_baseline b, hotset_error *err) {
    return make(out, p, b, err);
}

/* Every device has room for what it is given. */
static hotset_status check_limits(const placement *placed, const problem *p, hotset_error *err) {
    for (uint32_t d = 0; d < p->device_n; d++) {
        const uint64_t needed = placed->ledger[d].total, there = p->device[d].limit_bytes;
        if (needed > there)
            return hotset_fail(err, HOTSET_E_NOFIT,
                               "plan: %s: %llu bytes (%.1f MiB) are needed, there are %llu (%.1f MiB)",
                               p->machine->device[p->device[d].machine_i].name, (unsigned long long)needed,
                               (double)needed / MIB, (unsigned long long)there, (double)there / MIB);
    }
    return HOTSET_OK;
}

/* Without a search. split NULL: everything on the host, head included. */
static hotset_status place_fixed(placement **out, const problem *p, const cost_split *split, uint32_t head,
                                 hotset_error *err) {
    uint32_t device[PROBLEM_DEVICE_MAX];
    cost_model *c;
    *out = NULL;
    HOTSET_TRY(problem_check(p, err));
    HOTSET_TRY(cost_make(&c, p, err));
    for (uint32_t d = 0; d < PROBLEM_DEVICE_MAX; d++) device[d] = d;
    search s = search_of(c);
    draft d;
    hotset_status status = draft_make(&d, &s, err);
    if (!status && !split) draft_host(&d, &s);
    if (!status && split) {
        memcpy(d.split, split, p->layer_n * sizeof *split);
        d.head = head;
        d.objective = INFINITY;
    }
    if (!status) status = publish(out, &s, &d, device, err);
    free(d.split);
    cost_free(c);
    return status;
}

hotset_status place_host_make(placement **out, const problem *p, hotset_error *err) {
    return place_fixed(out, p, NULL, 0, err);
}

hotset_status place_given_make(placement **out, const problem *p, const cost_split *split, uint32_t head,
                               hotset_error *err) {
    HOTSET_TRY(place_fixed(out, p, split, head, err));
    hotset_status status = check_limits(*out, p, err);
    if (!status) return HOTSET_OK;
    placement_free(*out);
    *out = NULL;
    return status;
}
