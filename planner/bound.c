/* bound.c - seconds that no placement can go below.
 *
 * At prices l_d per byte, whatever they are, sum over layers of the least (seconds + prices) - sum l_d room_d
 * is at most the least seconds of all placements that fit. The least of a layer with home h and devices S is
 * bounded in turn: with weights w_d >= 0 that sum to 1,
 *
 *   max over d of busy(d) >= sum over d of w_d busy(d),   busy(d) >= fixed_d + sum over its units (a_d + b_d
 * p)
 *
 * so that every unit may take the device where w_d (a_d + b_d p) + l_d bytes is least, which is a line in its
 * use p: the lower envelope of at most nine lines, walked along the order of use. The best weights come from
 * bisection between pairs of devices. a_d and b_d lie below the true costs, whose rates vary with the share.
 */
#include <math.h>
#include <stdlib.h>

#include "planner/search.h"

enum { WEIGHT_STEP_N = 40, WEIGHT_SWEEP_N = 4, PRICE_SWEEP_N = 60 };

typedef struct line {
    double always, active; /* per unit, per unit of use; never above the true costs */
} line;

typedef struct bounder {
    search *s;
    line *row, *chunk; /* [layer_n][device_n] */
} bounder;

static double unit_use(const bounder *b, uint32_t layer_i, uint32_t at) {
    return (double)b->s->c->p->layer[layer_i].ffn.use[b->s->c->layer[layer_i].order[at]];
}

/* ---- Straight lines below the costs ---- */

/* Adds a line below bytes p / rate(p) for p in low .. high: the chord, lowered to where the curve comes
 * closest to it from below: at a known share, or between two of them where their slopes are equal. */
static void add_below_rate(line *to, double bytes, const double *rate, double low, double high) {
    static const double known[MACHINE_SHARE_N] = {0.1, 0.3, 1};
    if (bytes <= 0) return;
    double r[2], ends[2] = {low, high};
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t i = 0;
        while (i < MACHINE_SHARE_N - 1 && ends[k] > known[i]) i++;
        double part = i ? (ends[k] - known[i - 1]) / (known[i] - known[i - 1]) : 0;
        r[k] = i ? rate[i - 1] + part * (rate[i] - rate[i - 1]) : rate[0];
    }
    if (high - low < 1e-9) {
        to->active += bytes / fmax(r[0], r[1]);
        return;
    }
    double at_low = bytes * low / r[0], at_high = bytes * high / r[1];
    double slope = (at_high - at_low) / (high - low), lowered = 0;
    for (uint32_t i = 0; i < MACHINE_SHARE_N; i++) {
        double points[2] = {known[i], -1}, x = i ? (rate[i] - rate[i - 1]) / (known[i] - known[i - 1]) : 0;
        double c = i ? rate[i] - x * known[i] : 0; /* rate = c + x p on the way to known[i] */
        if (i && x != 0 && c > 0 && slope > 0) points[1] = (sqrt(bytes * c / slope) - c) / x;
        for (uint32_t k = 0; k < 2; k++) {
            double p = points[k];
            if (p <= low || p >= high || (k && (p < known[i - 1] || p > known[i]))) continue;
            double here = k ? c + x * p : rate[i];
            lowered = fmax(lowered, at_low + slope * (p - low) - bytes * p / here);
        }
    }
    to->active += slope;
    to->always += at_low - slope * low - lowered;
}

/* Scales of touched groups; 1 - (1 - p)^g is concave, so its chord lies below it. */
static void add_below_scales(line *to, const bounder *b, uint32_t l, const cost_units *u, double low,
                             double high) {
    const cost_layer *t = &b->s->c->layer[l];
    const problem_ffn *f = &b->s->c->p->layer[l].ffn;
    if (t->touch_form == COST_TOUCH_NONE) return;
    double rate = fmax(u->sums_rate[0], fmax(u->sums_rate[1], u->sums_rate[2]));
    double each = (double)f->scale_bytes / rate, per_unit = (double)f->neuron_n / f->group_n;
    if (t->touch_form == COST_TOUCH_SCATTERED) {
        double all = t->touch[f->unit_n];
        if (all > 0) to->active += each * f->neuron_n * t->group_n * -expm1(-all / t->group_n) / all;
        return;
    }
    double at_low = per_unit * (1 - pow(1 - low, f->group_n)),
           at_high = per_unit * (1 - pow(1 - high, f->group_n));
    double slope = high - low < 1e-9 ? 0 : (at_high - at_low) / (high - low);
    to->active += each * slope;
    to->always += each * (at_low - slope * low);
}

static void make_lines(bounder *b, uint32_t l) {
    const cost_layer *t = &b->s->c->layer[l];
    uint32_t unit_n = search_unit_n(b->s, l);
    if (!unit_n) return;
    double high = unit_use(b, l, 0), low = unit_use(b, l, unit_n - 1);
    for (uint32_t d = 0; d < b->s->device_n; d++) {
        const cost_units *u = &t->units[d];
        line *row = &b->row[l * b->s->device_n + d];
        *row = (line){u->always.row, u->active.row};
        add_below_rate(row, u->listed_bytes, u->listed_rate, low, high);
        add_below_rate(row, u->sums_bytes, u->sums_rate, low, high);
        if (u->sums_bytes > 0) add_below_scales(row, b, l, u, low, high);
        b->chunk[l * b->s->device_n + d] = (line){u->always.chunk, u->active.chunk};
    }
}

/* ---- One layer ---- */

typedef struct member {
    uint32_t d;
    double fixed, always, active, rent; /* rent: price of a unit's bytes */
    double weight, busy;
} member;

/* The devices that take part, with what holds for this home. */
static member member_of(const bounder *b, uint32_t l, uint32_t home, uint32_t d, const double *price) {
    const cost_model *c = b->s->c;
    const cost_layer *t = &c->layer[l];
    line row = b->row[l * b->s->device_n + d], chunk = b->chunk[l * b->s->device_n + d];
    cost_s fixed = t->units[d].fixed;
    if (d == home) {
        fixed.row += t->shared[d].row;
        fixed.chunk += t->shared[d].chunk;
    } else {
        fixed.row += c->send[home][d].row + c->send[d][home].row;
        fixed.chunk += c->send[home][d].chunk + c->send[d][home].chunk;
    }
    if (d == 0 && home != 0 &&
        c->stream_bytes_per_s[home] > 0) { /* units may be copied to the home instead */
        double copy = (double)t->unit_bytes / c->stream_bytes_per_s[home], most = unit_use(b, l, 0);
        double touched = most > 0 ? (1 - pow(1 - most, c->p->row_n)) / most : 0;
        fixed.chunk = 0;
        if (t->chunk_touch)
            chunk.active = fmin(chunk.active, copy * touched);
        else
            chunk.always = fmin(chunk.always, copy);
    }
    return (member){.d = d,
                    .fixed = cost_weigh(c, fixed),
                    .always = cost_weigh(c, (cost_s){row.always, chunk.always}),
                    .active = cost_weigh(c, (cost_s){row.active, chunk.active}),
                    .rent = d ? price[d] * (double)t->unit_bytes : 0};
}

static bool member_can(const member *m) {
    return isfinite(m->fixed) && isfinite(m->always) && isfinite(m->active);
}

/* The first unit from `at` on whose use is below p. */
static uint32_t first_below(const bounder *b, uint32_t l, uint32_t at, double p) {
    uint32_t high = search_unit_n(b->s, l);
    while (at < high) {
        uint32_t middle = at + (high - at) / 2;
        if (unit_use(b, l, middle) < p)
            high = middle;
        else
            at = middle + 1;
    }
    return at;
}

/* The sum at the members' weights; fills in what each of them has to do. */
static double at_weights(const bounder *b, uint32_t l, member *m, uint32_t n) {
    const double *use = b->s->c->layer[l].use;
    uint32_t unit_n = search_unit_n(b->s, l), at = 0, best = 0;
    double sum = 0, top = unit_use(b, l, 0), least = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        double here = m[i].weight * (m[i].always + m[i].active * top) + m[i].rent;
        bool flatter = m[i].weight * m[i].active < m[best].weight * m[best].active;
        m[i].busy = m[i].fixed;
        sum += m[i].weight * m[i].fixed;
        if (here > least || (here == least && flatter)) continue; /* of equals the steeper: it wins below */
        least = here;
        best = i;
    }
    while (at < unit_n) { /* towards less use steeper lines win */
        double next_p = -1, slope = m[best].weight * m[best].active;
        uint32_t next = best;
        for (uint32_t i = 0; i < n; i++) {
            double steeper = m[i].weight * m[i].active - slope;
            if (steeper <= 0) continue;
            double p =
                (m[best].weight * m[best].always + m[best].rent - m[i].weight * m[i].always - m[i].rent) /
                steeper;
            if (p > next_p) {
                next_p = p;
                next = i;
            }
        }
        uint32_t end = next == best ? unit_n : first_below(b, l, at, next_p);
        double busy = (end - at) * m[best].always + (use[end] - use[at]) * m[best].active;
        m[best].busy += busy;
        sum += m[best].weight * busy + (end - at) * m[best].rent;
        at = end;
        best = next;
    }
    return sum;
}

/* The most over weights. */
static double best_weights(const bounder *b, uint32_t l, member *m, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) m[i].weight = 1.0 / n;
    double best = at_weights(b, l, m, n);
    for (uint32_t sweep = 0; n > 1 && sweep < (n == 2 ? 1 : WEIGHT_SWEEP_N); sweep++) {
        double before = best;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = i + 1; j < n; j++) {
                double both = m[i].weight + m[j].weight, low = 0, high = both, kept = m[i].weight;
                for (uint32_t k = 0; k < WEIGHT_STEP_N; k++) {
                    m[i].weight = (low + high) / 2;
                    m[j].weight = both - m[i].weight;
                    double sum = at_weights(b, l, m, n);
                    if (sum > best) {
                        best = sum;
                        kept = m[i].weight;
                    }
                    if (m[i].busy > m[j].busy)
                        low = m[i].weight;
                    else
                        high = m[i].weight;
                }
                m[i].weight = kept;
                m[j].weight = both - kept;
            }
        if (best <= before * (1 + 1e-7)) break;
    }
    return best;
}

/* Bytes that a device takes for a share in a layer, before any unit. */
static double share_bytes(const search *s, uint32_t l, bool home) {
    return (double)(s->c->p->layer[l].ffn.fc1.bytes + (home ? 0 : s->c->p->layer[l].ffn_vector_bytes));
}

/* The least of the FFN over all sets of devices, at these prices. */
static double bound_ffn(const bounder *b, uint32_t l, uint32_t home, const double *price) {
    const search *s = b->s;
    member all[PROBLEM_DEVICE_MAX], m[PROBLEM_DEVICE_MAX];
    uint32_t all_n = 0;
    double best = INFINITY;
    for (uint32_t d = 0; d < s->device_n; d++) {
        all[all_n] = member_of(b, l, home, d, price);
        if (s->usable[d] && member_can(&all[all_n])) all_n++;
    }
    for (uint32_t set = 1; set < 1u << all_n; set++) {
        double extra = 0, least = 0;
        uint32_t n = 0;
        for (uint32_t i = 0; i < all_n; i++) {
            if (!(set >> i & 1)) continue;
            m[n++] = all[i];
            if (all[i].d != home) extra += cost_weigh(s->c, s->c->merge[home]);
            if (all[i].d) extra += price[all[i].d] * share_bytes(s, l, all[i].d == home);
            least = fmax(least, all[i].fixed);
        }
        if (extra + least >= best) continue;
        /* any weights bound from below: where even these do not come under the best, the set is out */
        for (uint32_t i = 0; i < n; i++) m[i].weight = 1.0 / n;
        if (n > 1 && extra + at_weights(b, l, m, n) >= best) continue;
        best = fmin(best, extra + best_weights(b, l, m, n));
    }
    return best;
}

/* ---- All layers ---- */

static double least_head(const search *s, uint32_t last, const double *price) {
    double best = INFINITY;
    for (uint32_t d = 0; d < s->device_n; d++)
        if (s->usable[d])
            best = fmin(best, search_head(s, last, d) + (d ? price[d] * (double)s->c->head_bytes[d] : 0));
    return best;
}

/* Prices here are those of the room's limit and, on top, of the submission, which whoever uses the device
 * pays and which is spread over the bytes that fit there: that part is not given back. */
static double bound_at(const bounder *b, const double *price, double *tail) {
    search *s = b->s;
    double next[PROBLEM_DEVICE_MAX], sum;
    for (uint32_t h = 0; h < s->device_n; h++) tail[h] = least_head(s, h, price);
    for (uint32_t l = s->layer_n; l-- > 0;) {
        for (uint32_t h = 0; h < s->device_n; h++) {
            next[h] = INFINITY;
            double mixer = cost_weigh(s->c, s->c->layer[l].mixer[h]);
            if (!s->usable[h] || !isfinite(mixer)) continue;
            next[h] = tail[h] + mixer + (h ? price[h] * (double)s->c->layer[l].home_bytes[h] : 0);
            if (search_unit_n(s, l)) next[h] += bound_ffn(b, l, h, price);
        }
        for (uint32_t from = 0; from < s->device_n; from++) {
            tail[from] = INFINITY;
            for (uint32_t h = 0; h < s->device_n; h++)
                tail[from] = fmin(tail[from], search_send(s, from, h) + next[h]);
        }
    }
    sum = tail[0] + search_submit(s, 0);
    for (uint32_t d = 1; d < s->device_n; d++)
        if (s->usable[d] && s->room[d] > 0) sum -= price[d] * (double)s->room[d] - search_submit(s, d);
    return sum;
}

/* Prices of columns are near the best; a few of their multiples are tried, device by device. */
static double climb(const bounder *b, double *price) {
    double tail[PROBLEM_DEVICE_MAX], best = bound_at(b, price, tail);
    double step = 0.2;
    for (uint32_t i = 0; i < PRICE_SWEEP_N && step > 1e-3; i++) {
        bool better = false;
        for (uint32_t d = 1; d < b->s->device_n; d++) {
            double least = b->s->room[d] ? search_submit(b->s, d) / (double)b->s->room[d] : 0;
            for (int sign = -1; sign <= 1; sign += 2) {
                double kept = price[d];
                price[d] = fmax(kept * (1 + sign * step), least);
                double sum = bound_at(b, price, tail);
                if (sum > best * (1 + 1e-6)) {
                    best = sum;
                    better = true;
                    break;
                }
                price[d] = kept;
            }
        }
        if (!better) step /= 4;
    }
    return best;
}

static hotset_status bound(double *out, bounder *b, hotset_error *err) {
    search *s = b->s;
    columns c;
    draft d;
    double price[PROBLEM_DEVICE_MAX];
    uint64_t line_n = (uint64_t)s->layer_n * s->device_n;
    HOTSET_TRY(base_calloc(&b->row, line_n, 2 * sizeof *b->row, "a bound", err));
    b->chunk = b->row + line_n;
    for (uint32_t l = 0; l < s->layer_n; l++) make_lines(b, l);
    HOTSET_TRY(columns_make(&c, s, err));
    hotset_status status = draft_make(&d, s, err);
    if (!status) {
        baseline_draft(&d, s, PLACE_ALL_CPU);
        status = search_prices(price, s, &c, d.objective, err);
    }
    if (!status) *out = climb(b, price);
    free(d.split);
    columns_free(&c);
    return status;
}

hotset_status place_bound(double *out, const problem *p, hotset_error *err) {
    cost_model *c;
    *out = 0;
    HOTSET_TRY(problem_check(p, err));
    HOTSET_TRY(cost_make(&c, p, err));
    search s = search_of(c);
    s.host_limited = false; /* left out, see place.h */
    bounder b = {.s = &s};
    hotset_status status = bound(out, &b, err);
    free(b.row);
    cost_free(c);
    return status;
}
